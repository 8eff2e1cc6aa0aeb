"""Rasters as an attacker makes them: files that name others, sizes that lie, outputs that are somebody else's."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio

from clearclip.bands import Band, Layout, UnfinishedBands
from clearclip.errors import ImageError, UsageError
from clearclip.files.writing import claim
from clearclip.large import segment_large

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WORDS = ["sky", "grass"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def make(tmp_path):
    """Writes a GeoTIFF of noise, or of nothing."""

    def call(name="photo.tif", height=40, width=50, *, dtype="uint8", empty=False, tags=None, **options):
        shape = {"count": 3, "height": height, "width": width, "dtype": dtype, "photometric": "rgb"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", **{**shape, **options}) as target:
            if not empty:
                values = np.random.default_rng(0).integers(0, 255, (3, height, width))
                target.write(values.astype(dtype))
            for namespace, texts in (tags or {}).items():
                target.update_tags(ns=namespace, **texts)
        return tmp_path / name

    return call


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
def label(segmenter, tmp_path):
    def call(image, **options):
        return segment_large(segmenter, image, **{"labels": WORDS, "output": tmp_path / "out.tif", **options})

    return call


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
    with pytest.raises(ImageError, match=r"no longitude and latitude everywhere .* leave out the polygons"):
        label(image, polygons=tmp_path / "out.geojson")
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]
    label(image)


def test_sizes_have_limits_that_are_said_before_a_pixel_is_read(label, make, tmp_path, monkeypatch):
    monkeypatch.setattr("clearclip.rasters.Raster._values", lambda *_, **__: pytest.fail("pixels were read"))
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


def test_two_runs_never_write_one_file(label, make, tmp_path):
    image, targets = make(), {"output": "out.tif", "scores": "scores.tif", "polygons": "out.geojson"}
    for held in targets.values():
        with claim(tmp_path / held, is_file=True), pytest.raises(UsageError, match="another run is at work there"):
            label(image, **{role: tmp_path / name for role, name in targets.items()})
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


@pytest.mark.parametrize("role", ["output", "scores", "polygons"])
def test_what_is_not_ours_is_never_replaced(label, make, tmp_path, role):
    image = make()
    foreign = tmp_path / ("other.geojson" if role == "polygons" else "other.tif")
    contents = [b"", b"precious", make("theirs.tif").read_bytes(), b'{"info": {"software": "mine"},\n "features": []}']
    for content in (*contents, b"[" * 100_000):
        foreign.write_bytes(content)
        with pytest.raises(UsageError, match=r"was not made by clearclip: name another file, or delete that one"):
            label(image, **{role: foreign}, overwrite=True)
        assert foreign.read_bytes() == content
    foreign.unlink()
    label(image, **{role: foreign})
    label(image, **{role: foreign}, overwrite=True)


def test_an_input_is_never_an_output(label, make, tmp_path):
    image = make()
    label(image, output=tmp_path / "map.tif")  # one of ours, which `overwrite` would replace
    before = (tmp_path / "map.tif").read_bytes()
    (tmp_path / "link.tif").symlink_to(tmp_path / "map.tif")
    (tmp_path / "hard.tif").hardlink_to(tmp_path / "map.tif")
    for name in ("map.tif", "link.tif", "hard.tif", "../" + tmp_path.name + "/map.tif"):
        with pytest.raises(UsageError, match="is the image itself"):
            label(tmp_path / "map.tif", output=tmp_path / name, bands=(1,), overwrite=True)
    assert (tmp_path / "map.tif").read_bytes() == before
    with pytest.raises(UsageError, match="two results"):
        label(image, output=tmp_path / "a.tif", scores=tmp_path / "A.tif")


BESIDE = ("map.tif.ovr", "map.tif.msk", "map.tif.aux.xml", "map.tif.OVR", "map.aux", "map.tfw", "map.wld", "map.TAB")


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("role", ["output", "scores"])
def test_old_files_that_would_be_read_with_a_result_are_refused(label, make, tmp_path, name, role):
    image, beside = make(), tmp_path / name
    beside.write_text("old")
    with pytest.raises(UsageError, match=r"would be read with it: move or delete it, or name another file"):
        label(image, **{role: tmp_path / "map.tif"}, overwrite=True)
    assert beside.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "photo.tif"])


def test_old_overviews_never_show_through_a_new_result(label, make, tmp_path):
    label(make())
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / "out.tif", "r+") as dataset:
        dataset.build_overviews([2])
    assert (tmp_path / "out.tif.ovr").exists()
    with pytest.raises(UsageError, match=r"out\.tif\.ovr stands beside out\.tif"):
        label(make("other.tif"), overwrite=True)


def test_a_world_file_does_not_matter_to_a_result_with_coordinates_of_its_own(label, make, tmp_path):
    (tmp_path / "out.tfw").write_text("2\n0\n0\n-2\n101\n299\n")
    transform = rasterio.Affine(3, 0, 7, 0, -3, 9)
    label(make(transform=transform, crs="EPSG:32633"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform == transform


def test_an_image_that_is_named_as_the_mask_of_its_result_is_refused(label, make, tmp_path):
    image = make("map.tif.msk")
    with pytest.raises(UsageError, match="would be read with it"):
        label(image, output=tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("x" * 250 + ".tif", "cannot be used .* choose another"),
        ("photo.tif/out.tif", "cannot be used .* choose another"),
        pytest.param(
            "/proc/out.tif",
            "no file can be made there",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="none"),
        ),
    ],
)
@pytest.mark.timeout(60)
def test_places_that_cannot_be_written_are_named_before_the_work(label, make, tmp_path, output, reason):
    image = make()
    with pytest.raises(UsageError, match=reason):
        label(image, output=tmp_path / output)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


@pytest.mark.parametrize("other", ["out.tif/scores.tif", "out.tif.unfinished/scores.tif", "out.tif.unfinished/a/b.tif"])
def test_a_result_never_lies_inside_another(label, make, tmp_path, other):
    image = make()
    with pytest.raises(UsageError, match="would lie inside another result"):
        label(image, scores=tmp_path / other)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


def test_a_folder_of_that_name_that_is_not_ours_stays(label, make, tmp_path):
    image, folder = make(), tmp_path / "out.tif.unfinished"
    folder.mkdir()
    for name, content in (("notes.txt", "mine"), ("settings.json", "{"), ("settings.json", "[" * 100_000)):
        (folder / name).write_text(content)
        with pytest.raises(UsageError, match="not made by clearclip, or is damaged: move or delete it"):
            label(image, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        label(image, overwrite=True)


LAYOUT = Layout(width=30, dtype="uint8", labels=3, nodata=255, scores=True, windows=(4, 5))


@pytest.fixture
def kept(tmp_path):
    return UnfinishedBands.open(tmp_path / "out.tif", {"model": "m"}, LAYOUT, overwrite=False)


def band(rows=20, **changed):
    labels = np.random.default_rng(0).integers(0, 3, (rows, 30)).astype(np.uint8)
    arrays = {"labels": labels, "scores": labels / np.float32(3), "encoded": np.array([[0, 5]])}
    return Band(**{**arrays, **changed})


def test_bands_that_do_not_fit_are_made_again(kept):
    kept.write(0, band())
    file = kept.folder / "000000000.band"
    np.testing.assert_array_equal(kept.read(0, 20).labels, band().labels)
    assert kept.read(0, 19) is None
    assert kept.read(20, 20) is None
    shutil.copy(file, kept.folder / "000000020.band")
    assert kept.read(20, 20) is None  # another band's place
    whole = file.read_bytes()
    for cut in range(0, len(whole), 7):
        file.write_bytes(whole[:cut])
        assert kept.read(0, 20) is None
        file.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
        assert kept.read(0, 20) is None
    file.unlink()
    (kept.folder / "000000000.band").mkdir()
    assert kept.read(0, 20) is None


def test_forged_bands_are_made_again(kept):
    forged = [
        band(labels=np.full((20, 30), 3, np.uint8)),  # no such label
        band(labels=np.full((20, 30), 255, np.uint8)),  # nodata with scores
        band(scores=np.full((20, 30), np.nan, np.float32)),
        band(encoded=np.array([[0, 6]])),
        band(encoded=np.array([[-1, 1]])),
        band(encoded=np.zeros(3, np.int64)),
        band(rows=19),
        band(labels=np.zeros((50_000, 3000), np.uint8)),  # a bomb: 150 MB in 150 kB
    ]
    for one in forged:
        kept.write(0, one)
        assert kept.read(0, 20) is None


def test_bands_of_other_settings_are_refused_by_name(kept, tmp_path):
    kept.write(0, band())
    with pytest.raises(
        UsageError, match=re.escape("(model: m there, n here; weights: none there, 1 here): start with")
    ):
        UnfinishedBands.open(tmp_path / "out.tif", {"model": "n", "weights": "1"}, LAYOUT, overwrite=False)
    UnfinishedBands.open(tmp_path / "out.tif", {"model": "m"}, LAYOUT, overwrite=False)
    UnfinishedBands.open(tmp_path / "out.tif", {"model": "n"}, LAYOUT, overwrite=True)
    assert not kept.folder.exists()


def test_an_image_that_changed_does_not_go_on_with_old_bands(label, make, tmp_path, monkeypatch):
    image = make(height=100)
    monkeypatch.setattr("clearclip.large._Work._band", interrupt_after(1))
    with pytest.raises(KeyboardInterrupt):
        label(image, block=32)
    monkeypatch.undo()
    os.utime(image, ns=(1, 1))
    with pytest.raises(UsageError, match=r"\(stamp: \d+ \d+, mask none there, \d+ 1, mask none here\)"):
        label(image, block=32)


def interrupt_after(count):
    from clearclip.large import _Work

    made, original = [], _Work._band

    def call(self, top, **options):
        if len(made) == count:
            raise KeyboardInterrupt
        made.append(top)
        return original(self, top, **options)

    return call


KILLS = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clearclip
from clearclip.large import segment_large

folder = Path(sys.argv[1])
segmenter = clearclip.load("tiny")
names = {"output": "out.tif", "scores": "scores.tif", "polygons": "out.geojson"}

def run(name):
    targets = {role: folder / name / file for role, file in names.items()}
    segment_large(segmenter, folder / "photo.tif", labels=["sky", "grass"], block=32, overwrite=True, **targets)
    return [file.read_bytes() for file in targets.values()]

whole = run("whole")
rename = Path.replace
for moment in range(9):
    child = os.fork()
    if child == 0:
        calls = []
        def kill(self, target):
            calls.append(target)
            if len(calls) == moment + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)
        Path.replace = kill
        run("killed")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else "ended", len(list((folder / "killed").rglob("*"))))
assert run("killed") == whole
print(sorted(file.name for file in (folder / "killed").iterdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(make, tmp_path):
    make(height=100, crs="EPSG:4326", transform=rasterio.Affine(0.1, 0, 5, 0, -0.1, 50))
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, check=False, env={**os.environ}
    )
    *moments, left = done.stdout.splitlines() or [done.stderr]
    assert left == "['out.geojson', 'out.tif', 'scores.tif']", done.stderr
    assert [line.split()[0] for line in moments].count("killed") >= 6


@pytest.mark.parametrize("name", ["http.tif", "wms.tif", "passwd.vrt"])
def test_the_command_refuses_what_the_attack_used(run, shared, tmp_path, name):
    image = shared / "cases" / "attack" / "rast" / name
    if not image.exists():
        pytest.skip(f"no {image}")
    ran = run("large", image, "-o", tmp_path / "out.tif", "-l", "sky", "--model", "tiny")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("error: ")
    assert not list(Path(tmp_path).iterdir())
