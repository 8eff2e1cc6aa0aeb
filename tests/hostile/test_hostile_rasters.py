"""Rasters as an attacker makes them: files that name others, sizes that lie, outputs that are somebody else's."""

import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio

from clearclip.errors import ImageError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def server():
    """An address, and what was asked there."""
    asked = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(100))

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def complaint(label):
    """What an attempt ends with: one sentence, or nothing where it works; anything else fails the test."""

    def call(image, **options):
        try:
            label(image, overwrite=True, **options)
        except (ImageError, UsageError) as error:
            return str(error)
        return ""

    return call


def vrt(source, size=(50, 40)):
    return (
        f'<VRTDataset rasterXSize="{size[0]}" rasterYSize="{size[1]}"><Metadata>'
        '<MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )


def wms(address):
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.jpg</ServerUrl></Service><DataWindow>'
        "<UpperLeftX>-20037508</UpperLeftX><UpperLeftY>20037508</UpperLeftY><LowerRightX>20037508</LowerRightX>"
        "<LowerRightY>-20037508</LowerRightY><TileLevel>0</TileLevel></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>"
    )


def test_a_tif_that_is_something_else_asks_nobody(label, tmp_path, server):
    address, asked = server
    secret = tmp_path / "secret.txt"
    secret.write_text("x" * 3000)
    raw = vrt(secret).replace('band="1"', 'band="1" subClass="VRTRawRasterBand"')
    for number, text in enumerate([vrt(f"/vsicurl/{address}/vrt.tif"), wms(address), vrt(secret), raw]):
        image = tmp_path / f"{number}.tif"
        image.write_text(text)
        with pytest.raises(ImageError, match=r"is none of GTiff, .* opened with --driver"):
            label(image)
    for name in (f"/vsicurl/{address}/a.tif", f"{address}/b.tif", f"WMS:{address}", wms(address), f"GTIFF_DIR:1:{raw}"):
        with pytest.raises(ImageError, match=r"no such file: addresses are opened with --driver|cannot be read"):
            label(name)
    assert asked == []


def test_the_driver_option_opens_more(label, make, tmp_path, server):
    address, asked = server
    make()
    (tmp_path / "mosaic.vrt").write_text(vrt(tmp_path / "photo.tif"))
    assert label(tmp_path / "mosaic.vrt", driver="VRT").size == (40, 50)
    with pytest.raises(ImageError):
        label(f"/vsicurl/{address}/a.tif", driver="GTiff", output=tmp_path / "other.tif")
    assert asked
    with pytest.raises(UsageError, match="no driver 'FOO'"):
        label(tmp_path / "mosaic.vrt", driver="FOO")
    with pytest.raises(UsageError, match="is the image itself, or a part of it"):
        label(tmp_path / "mosaic.vrt", driver="VRT", output=tmp_path / "photo.tif", overwrite=True)


@pytest.mark.filterwarnings("ignore:.*was taken for black to white")
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_files_beside_an_image_cannot_make_it_ask(label, complaint, make, tmp_path, server, dtype):
    address, asked = server
    image, number = make(dtype=dtype, height=1100, width=10), iter(range(100))

    def fresh():  # what GDAL once did not get it does not ask for again
        return f"/vsicurl/{address}/{next(number)}.tif"

    overview = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{fresh()}</MDI></Metadata>'
    for suffix, text in (
        (".ovr", vrt(fresh(), (5, 550))),
        (".msk", vrt(fresh(), (10, 1100))),
        (".aux.xml", f"<PAMDataset>{overview}</PAMDataset>"),
        (".aux.xml", f"<PAMDataset><SRS>{address}/srs</SRS></PAMDataset>"),
    ):
        beside = tmp_path / f"photo.tif{suffix}"
        beside.write_text(text)
        said = complaint(image, polygons=tmp_path / "out.geojson")
        assert suffix != ".ovr" or not said  # those are not looked at
        beside.unlink()
    for name in ("tagged.tif", "photo.tif.msk"):
        make(name, 1100, 10, tags={"OVERVIEWS": {"OVERVIEW_FILE": fresh()}, None: {"INTERNAL_MASK_FLAGS_1": "2"}})
        with pytest.raises(ImageError, match="names another file as its overview"):
            label(tmp_path / name.removesuffix(".msk"), overwrite=True)
    assert asked == []


def test_coordinates_beside_an_image_are_taken(label, make, tmp_path):
    image = make()
    (tmp_path / "photo.tfw").write_text("2\n0\n0\n-2\n101\n299\n")
    label(image)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform == rasterio.Affine(2, 0, 100, 0, -2, 300)


def test_a_mask_beside_an_image_is_taken_if_it_fits(label, make, tmp_path):
    image = make()
    mask = np.arange(2000).reshape(40, 50) % 3 > 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as dataset:
        dataset.write_mask(mask)
    label(image)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert np.array_equal(dataset.read(1) != 255, mask)
    shutil.move(tmp_path / "photo.tif.msk", tmp_path / "larger.tif.msk")
    with pytest.raises(ImageError, match="another size"):
        label(make("larger.tif", 41, 50), overwrite=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("driver", [None, "GTiff"])
def test_pipes_and_devices_are_refused_at_once(label, tmp_path, driver):
    os.mkfifo(tmp_path / "pipe.tif")
    for name in (tmp_path / "pipe.tif", "/dev/zero"):
        with pytest.raises(ImageError, match="a regular file is needed"):
            label(name, driver=driver)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
@pytest.mark.parametrize("scale", [1, 0.3, 1e-9])
def test_small_images_are_labelled(label, make, size, scale):
    assert label(make(height=size[0], width=size[1]), scale=scale).size == size


@pytest.mark.parametrize(
    "numbers",
    [(NAN, 0, 0, 0, 1, 0), (1, 0, 0, 0, -INF, 0), (0, 0, 3, 0, 0, 5), (1, 2, 3, 2, 4, 5), (1, 0, NAN, 0, 1, 0)],
)
def test_coordinates_that_are_no_place_are_refused(label, make, tmp_path, numbers):
    with pytest.raises(ImageError, match=r"its coordinates .* are no numbers, or put all pixels on one line"):
        label(make(transform=rasterio.Affine(*numbers), crs="EPSG:4326"))
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


@pytest.mark.parametrize("place", ["row", "col", "x", "y", "z"])
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_ground_control_points_that_are_no_place_are_refused(label, make, place, number):
    points = corners()
    setattr(points[2], place, number)
    with pytest.raises(ImageError, match=r"its coordinates .* are no numbers"):
        label(make(gcps=points, crs="EPSG:4326"))


def test_ground_control_points_without_a_system_are_kept(label, make, tmp_path):
    image = make()
    with rasterio.open(image, "r+") as dataset:
        dataset.gcps = (corners(), rasterio.CRS())
    with pytest.warns(UserWarning, match="its polygons are in pixels"):
        label(image, polygons=tmp_path / "out.geojson", scores=tmp_path / "scores.tif")
    for name in ("out.tif", "scores.tif"):
        with rasterio.open(tmp_path / name) as dataset:
            points, system = dataset.gcps
        assert system is None
        assert [(one.row, one.col, one.x, one.y) for one in points] == [
            (one.row, one.col, one.x, one.y) for one in corners()
        ]


def corners():
    return [
        rasterio.control.GroundControlPoint(row, column, 10 + column / 50, 50 - row / 40)
        for row in (0, 40)
        for column in (0, 50)
    ]


@pytest.mark.parametrize(
    ("crs", "numbers"),
    [("EPSG:4326", (1e300, 0, 1e308, 0, -1e300, 0)), ("EPSG:32633", (0.2, 0, 4e12, 0, -0.2, 5e15))],
)
def test_polygons_outside_the_world_are_refused_before_the_work(label, make, tmp_path, crs, numbers):
    image = make(transform=rasterio.Affine(*numbers), crs=crs)
    with pytest.raises(ImageError, match=r"parts of it have no longitude and latitude .* leave out the polygons"):
        label(image, polygons=tmp_path / "out.geojson")
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]
    label(image)


def test_sizes_have_limits_that_are_said_before_a_pixel_is_read(label, make, tmp_path, monkeypatch):
    monkeypatch.setattr("clearclip.large.image.Raster._values", lambda *_, **__: pytest.fail("pixels were read"))
    sparse = {"empty": True, "tiled": True, "sparse_ok": True, "compress": "deflate", "dtype": "uint16"}
    huge = make("huge.tif", 300_000, 300_000, blockxsize=16_384, blockysize=16_384, bigtiff="yes", **sparse)
    wide = make("wide.tif", 64, 10_000_000, blockxsize=16_384, blockysize=64, **sparse)
    block = make("block.tif", 64, 64, blockxsize=40_000, blockysize=40_000, **sparse)
    small = make()
    for image, options, reason in (
        (huge, {}, "8.8e[+]07 windows, more than the limit of 10,000,000"),
        (
            huge,
            {"scale": 1e-9},
            r"GB of memory \(most of it its rows\), more than the limit of 8: raise it with --max-mem",
        ),
        (wide, {}, "would take about .* more than the limit of 8"),
        (block, {}, "most of it its own blocks"),
        (small, {"scale": 1e9}, "windows, more than the limit"),
        (small, {"scale": 1e300}, "windows, more than the limit"),
        (small, {"max_memory": 1000}, "more than the limit of 1e-06"),
        (small, {"max_memory": NAN}, "more than the limit of nan"),
        (small, {"scale": -1}, "a number above 0"),
        (small, {"scale": INF}, "a number above 0"),
        (small, {"scale": NAN}, "a number above 0"),
        (small, {"scale": 0.0}, "a number above 0"),
        (small, {"max_memory": -1}, "more than the limit of -1e-09"),
        (small, {"value_range": (0, NAN)}, "the smaller first"),
        (small, {"value_range": (-1e308, 1e308)}, "the smaller first"),
        (small, {"bands": (10**30,)}, "one band or three"),
    ):
        with pytest.raises(UsageError, match=reason):
            label(image, **options)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.filterwarnings("ignore:.*was taken for black to white")
@pytest.mark.parametrize("factor", [1e38, 1e305, 1e306, INF, NAN])
def test_values_of_any_size_are_levels_or_one_line(complaint, make, factor):
    image = make(dtype="float64", photometric="minisblack", nodata=NAN)
    with rasterio.open(image, "r+") as dataset, np.errstate(all="ignore"):
        dataset.write((dataset.read() - 128) * factor)
    said = complaint(image)
    assert "say which are wanted with --range" in said if factor == 1e306 else not said


def test_any_damage_of_a_raster_is_one_line(complaint, make):
    image = make(compress="deflate", tags={None: {"note": "Küche", "software": "\x1b[31m"}}, nodata=3, crs="EPSG:32633")
    whole = image.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(len(whole) // 2, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), 6):
            damaged[place if rng.random() < 0.5 else place % 400] = rng.integers(256)
        image.write_bytes(damaged)
        assert complaint(image).isprintable()


@pytest.mark.parametrize("name", ["http.tif", "wms.tif", "passwd.vrt"])
def test_the_command_refuses_what_the_attack_used(run, shared, tmp_path, name):
    image = shared / "cases" / "attack" / "rast" / name
    if not image.exists():
        pytest.skip(f"no {image}")
    ran = run("large", image, "-o", tmp_path / "out.tif", "-l", "sky", "--model", "tiny")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("error: ")
    assert not list(Path(tmp_path).iterdir())
