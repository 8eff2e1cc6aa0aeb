"""Rasters of `large`, and the bands that an interrupted run leaves."""

from __future__ import annotations

import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import damage
from tests.hostile.targets.common import ASKED, WORDS, command, damage_files, finish, picture

XML = (
    '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    "<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>",
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{source}/${{z}}</ServerUrl></Service><DataWindow><SizeX>64</SizeX>'
    "<SizeY>64</SizeY></DataWindow><Projection>EPSG:4326</Projection><BandsCount>3</BandsCount></GDAL_WMS>",
    "<WCS_GDAL><ServiceURL>{source}?</ServiceURL><CoverageName>x</CoverageName></WCS_GDAL>",
    "<GDALWMTS><GetCapabilitiesUrl>{source}</GetCapabilitiesUrl><Layer>x</Layer></GDALWMTS>",
)


def seed_rasters(place: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.moveaxis(np.asarray(picture(1, 70, 90)), 2, 0)
    place_of = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 10, 10)}
    points = [
        rasterio.control.GroundControlPoint(row, col, 10 + col / 9, 50 - row / 9) for row in (0, 70) for col in (0, 90)
    ]
    picture(2).save(place / "pages.tif", save_all=True, append_images=[picture(3)])
    for name, array, options in (
        ("rgb.tif", pixels, place_of),
        ("tiled.tif", pixels, {**place_of, "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}),
        ("deep.tif", pixels[:1].astype("float32") * 10, {**place_of, "nodata": -9999.0}),
        ("ints.tif", pixels.astype("uint16") * 40, {"nodata": 0, "compress": "lzw"}),
        ("points.tif", pixels, {"gcps": points, "crs": "EPSG:4326"}),
        ("bits.tif", pixels[:1] >> 4, {"nbits": 4}),
        ("across.tif", pixels, {"crs": "EPSG:3857", "transform": from_origin(20_037_000, 0, 10, 10)}),
        ("pages.tif", pixels, {}),
        ("plain.png", pixels, {}),
    ):
        driver = "PNG" if name.endswith("png") else "GTiff"
        shape = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype.name}
        with rasterio.open(place / name, "w", driver=driver, **shape, **options) as written:
            written.write(array)
    with rasterio.open(place / "pages.tif", "r+") as written:
        written.update_tags(ns="GEOLOCATION", X_DATASET="/etc/passwd", Y_DATASET="http://127.0.0.1:9/y")
        written.update_tags(ns="RPC", LINE_OFF="35", LINE_NUM_COEFF="1 2 3")


def check_rasters(case: Case, code: int) -> str | None:
    import rasterio

    files = sorted(file.name for file in case.output.iterdir())
    if code:
        left = [name for name in files if not name.endswith((".unfinished", ".aux.xml"))]
        return f"exit code {code}, but {left} stand there" if left else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing coordinates
            made = rasterio.open(case.output / "l.tif")
        with made:
            array = made.read(1)
            valid = array[array != made.nodata] if made.nodata is not None else array
    except (OSError, rasterio.errors.RasterioError) as error:
        return f"the result cannot be read ({error})"
    return "a pixel's value is no label" if valid.size and int(valid.max()) > len(WORDS) else None


@target(seed=seed_rasters, check=check_rasters)
def rasters(case: Case) -> Action:
    rng = case.rng
    if rng.random() < 0.15:
        address = f"http://127.0.0.1:{case.port}/x"
        source = rng.choice((address, f"/vsicurl/{address}.tif", "/etc/passwd", f"{case.inputs}/x.raw"))
        data = rng.choice(XML).format(source=source).encode()
        data = data if rng.random() < 0.7 else damage(data, rng)
        file = case.write(rng.choice(("r.tif", "r.vrt", "r.xml", "r.png")), data)
    else:
        files = sorted(case.seeds.glob("*.*"))
        chosen = rng.choice(files)
        file = case.write(f"r{chosen.suffix}", damage(chosen.read_bytes(), rng, other=rng.choice(files).read_bytes()))
        if rng.random() < 0.1:
            beside = rng.choice((".ovr", ".msk", ".aux.xml"))
            case.write(f"{file.name}{beside}", damage(rng.choice(files).read_bytes(), rng))
    if rng.random() < 0.1:
        file = Path(f"GTIFF_DIR:{rng.choice((1, 2, 999_999_999))}:{file}")
    case.output.mkdir()
    options: list[list[Any]] = [
        ["--scores", case.output / "s.tif"],
        ["--polygons", case.output / "p.geojson"],
        ["--bands", "1"],
        ["--scale", rng.choice(("0.5", "2", "1e-9", "1e300", "nan"))],
        ["--range", rng.choice(("0:255", "nan:1", "-1e308:1e308"))],
        ["--threshold", "0.5", "--background", "none"],
    ]
    more: list[Any] = []
    for option in options:
        more += option if rng.random() < 0.25 else []
    return command("large", file, *ASKED, "-o", case.output / "l.tif", *more)


def seed_bands(place: Path) -> None:
    from clearclip.large.kept import UnfinishedBands

    seed_rasters(place)
    whole, left = place / "whole", place / "left"
    whole.mkdir()
    left.mkdir()
    finish("large", place / "rgb.tif", *ASKED, "-o", whole / "l.tif", "--scores", whole / "s.tif")
    write = UnfinishedBands.write

    def write_then_end(self: UnfinishedBands, *arguments: Any) -> None:
        write(self, *arguments)
        raise KeyboardInterrupt

    UnfinishedBands.write = write_then_end  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt, SystemExit):
        finish("large", place / "rgb.tif", *ASKED, "-o", left / "l.tif", "--scores", left / "s.tif")
    if not any(left.iterdir()):
        raise AssertionError("nothing unfinished was left")


def check_bands(case: Case, code: int) -> str | None:
    import rasterio

    for name in () if code else ("l.tif", "s.tif"):
        with rasterio.open(case.output / name) as made, rasterio.open(case.seeds / "whole" / name) as wanted:
            if not np.array_equal(made.read(), wanted.read(), equal_nan=True):
                return f"success, but {name} differs from that of an undisturbed run"
    return None


@target(seed=seed_bands, check=check_bands)
def bands(case: Case) -> Action:
    """An interrupted run's folder, damaged; bytes that are damaged must not change the result."""
    shutil.copytree(case.seeds / "left", case.output)
    damage_files(case, case.output, gone=case.rng.random() < 0.3)
    output = ("-o", case.output / "l.tif", "--scores", case.output / "s.tif")
    return command("large", case.seeds / "rgb.tif", *ASKED, *output)
