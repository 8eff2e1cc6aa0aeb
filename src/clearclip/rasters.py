"""Rasters of any size through rasterio: rows of uint8 RGB with what of them is valid, GeoTIFFs out, polygons of these.

Needs the extra `geo`. Belongs here: bands, value ranges, nodata, coordinates, blocks. Does not: windows, models.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.errors import ImageError, UsageError, printable
from clearclip.files.writing import atomic_write
from clearclip.formats import require
from clearclip.outputs import save_json

PERCENTILES = (2.0, 98.0)
LOOKED_AT = 1024
CACHE_MB = 256
"""GDAL keeps decoded blocks in it; its own default is a share of the machine's memory."""


@dataclass(frozen=True)
class Raster:
    """An open raster.

    Attributes:
        dataset: Rasterio's.
        name: For messages.
        bands: One band (grey) or three (red, green, blue), counted from 1.
        value_range: What becomes 0 and 255; `None`: the values are levels already.
        masked: Whether pixels may be invalid.
        palette: `(n, 4)` uint8, where the values are indices into it.
    """

    dataset: Any
    name: str
    bands: tuple[int, ...]
    value_range: tuple[float, float] | None
    masked: bool
    palette: npt.NDArray[np.uint8] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return int(self.dataset.height), int(self.dataset.width)

    @property
    def may_be_invalid(self) -> bool:
        """Whether `read` can find pixels that are not valid."""
        return self.masked or self.palette is not None or self.dataset.dtypes[self.bands[0] - 1].startswith("float")

    @property
    def info(self) -> dict[str, str]:
        """How values became levels, for provenance."""
        low_high = "as they are" if self.value_range is None else "{:g} to {:g}".format(*self.value_range)
        return {"source": self.name, "bands": ",".join(map(str, self.bands)), "range": low_high}

    def read(self, top: int, bottom: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Whole rows.

        Args:
            top: The first.
            bottom: The one after the last.

        Returns:
            `(rows, W, 3)` uint8, and `(rows, W)` bool: not nodata, not transparent, a number.

        Raises:
            ImageError: The file is damaged.
        """
        window = ((top, bottom), (0, self.size[1]))
        with _reading(self.name):
            values = self.dataset.read(list(self.bands), window=window)
            valid = np.ones(values.shape[1:], dtype=bool)
            if self.masked:
                valid = self.dataset.read_masks(list(self.bands), window=window).any(axis=0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self.palette is not None:
            colors = self.palette[np.minimum(values[0], len(self.palette) - 1)]
            return np.ascontiguousarray(colors[..., :3]), valid & (colors[..., 3] > 0)
        levels = np.moveaxis(_to_levels(values, self.value_range), 0, -1)
        return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))), valid


@contextmanager
def open_raster(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Iterator[Raster]:
    """Open whatever GDAL reads: GeoTIFF, JPEG 2000, VRT, and pictures without coordinates.

    Args:
        path: A file, or an address as GDAL takes them.
        bands: One or three bands from 1; `None`: those that say that they are red, green and blue, or all but alpha if
            these are one or three.
        value_range: What becomes black and white. `None`: 8 bits as they are; of others the 2nd and the 98th percentile
            of all chosen bands together, so that colours keep their balance.

    Yields:
        The raster.

    Raises:
        ImageError: There is no such file, or GDAL cannot read it.
        UsageError: Rasterio is missing, or it is not clear which bands are meant.
    """
    rasterio = require("rasterio", extra="geo", purpose="an image in tiles")
    name = printable(str(path))
    if "://" not in name and not name.startswith("/vsi"):
        _check_file(Path(path), name)
    if value_range is not None and not (value_range[0] < value_range[1] and np.isfinite(value_range).all()):
        raise UsageError(f"the range {value_range[0]:g} to {value_range[1]:g}: two numbers, the smaller first")
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), _quiet(rasterio):
        with _reading(name):
            dataset = rasterio.open(path)
        with dataset:
            chosen = _choose_bands(dataset, name, bands)
            kinds = {dataset.dtypes[band - 1] for band in chosen}
            if any(kind.startswith("complex") for kind in kinds):
                raise ImageError(f"{name} has complex numbers: choose other bands, or make a picture of it first")
            flags = [dataset.mask_flag_enums[band - 1] for band in chosen]
            all_valid = rasterio.enums.MaskFlags.all_valid
            masked = not any(all_valid in flag for flag in flags)
            palette = _palette(rasterio, dataset, chosen) if bands is None and value_range is None else None
            raster = Raster(dataset, name, chosen, value_range, masked, palette)
            if kinds != {"uint8"} and value_range is None and palette is None:
                raster = Raster(dataset, name, chosen, _stretch(raster), masked)
            if dataset.crs is None and dataset.tags().get("EXIF_Orientation", "1") not in ("0", "1"):
                warnings.warn(
                    f"{name} is stored lying down (EXIF orientation {dataset.tags()['EXIF_Orientation']}) and is "
                    "labelled as it lies: turn the file first if it is a photograph",
                    stacklevel=1,
                )
            yield raster


def _check_file(path: Path, name: str) -> None:
    try:
        if not path.exists():
            raise ImageError(f"{name}: there is no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty")
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: the image cannot be read ({error})") from error


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def _reading(name: str) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).removeprefix(f"'{name}' ")
        raise ImageError(f"{name}: the image cannot be read ({reason})") from error


def _choose_bands(dataset: Any, name: str, bands: Sequence[int] | None) -> tuple[int, ...]:
    from rasterio.enums import ColorInterp

    count = dataset.count
    if bands is not None:
        wrong = [band for band in bands if not 1 <= band <= count]
        if wrong or len(bands) not in (1, 3):
            given = ",".join(map(str, bands))
            raise UsageError(f"bands {given} of {name}: one band or three of 1 to {count} are needed")
        return tuple(bands)
    meanings = list(dataset.colorinterp)
    colors = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(color in meanings for color in colors):
        return tuple(meanings.index(color) + 1 for color in colors)
    others = tuple(band for band, meaning in enumerate(meanings, start=1) if meaning != ColorInterp.alpha)
    if len(others) not in (1, 3):
        raise UsageError(
            f"{name} has {count} bands ({', '.join(meaning.name for meaning in meanings)}) and does not say which are "
            "red, green and blue: choose one or three, for instance --bands 3,2,1 (bands=)"
        )
    return others


def _palette(rasterio: Any, dataset: Any, bands: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != rasterio.enums.ColorInterp.palette:
        return None
    colors = dataset.colormap(bands[0])
    table = np.zeros((max(colors) + 1, 4), dtype=np.uint8)
    table[list(colors)] = list(colors.values())
    return table


def _stretch(raster: Raster) -> tuple[float, float]:
    """The percentiles of a small version of the raster, from its overviews where it has some."""
    height, width = raster.size
    shrink = max(1.0, max(height, width) / LOOKED_AT)
    shape = (len(raster.bands), max(1, int(height / shrink)), max(1, int(width / shrink)))
    with _reading(raster.name):
        values = raster.dataset.read(list(raster.bands), out_shape=shape)
        valid = np.isfinite(values)
        if raster.masked:
            valid &= raster.dataset.read_masks(list(raster.bands), out_shape=shape).any(axis=0)
    if not valid.any():
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(values[valid].astype(np.float64), PERCENTILES))
    return (low, high) if low < high else (low, low + 1)


def _to_levels(values: npt.NDArray[Any], value_range: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    if value_range is None:
        return np.asarray(values, dtype=np.uint8)
    low, high = value_range
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)), dtype=np.uint8)


@contextmanager
def create_geotiff(
    path: Path,
    *,
    like: Raster,
    dtype: str,
    nodata: float,
    block: int,
    tags: Mapping[str, str],
    palette: npt.NDArray[np.uint8] | None = None,
) -> Iterator[Any]:
    """A tiled, compressed, sparse GeoTIFF where another raster lies; it appears only when complete.

    Args:
        path: Where to; its folder exists.
        like: Gives size and coordinates.
        dtype: Of its one band.
        nodata: Value of the blocks that are not written, and of invalid pixels.
        block: Side of its blocks in pixels, a multiple of 16.
        tags: Texts kept in the file.
        palette: `(n, 3)` uint8, colours of the values.

    Yields:
        What takes `write(block, 1, window=...)`.

    Raises:
        OSError: The file cannot be written, or is not what was written.
    """
    import rasterio
    from rasterio.enums import Resampling

    source = like.dataset
    height, width = like.size
    located = {} if source.crs is None and source.transform.is_identity else {"transform": source.transform}
    options: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": dtype, "nodata": nodata,
        "crs": source.crs, "tiled": True, "blockxsize": block, "blockysize": block, "compress": "deflate",
        "predictor": 3 if dtype.startswith("float") else 1, "bigtiff": "if_safer", "sparse_ok": True, **located,
    }  # fmt: skip
    with atomic_write(path) as partial, rasterio.Env(SPARSE_OK_OVERVIEW=True), _quiet(rasterio), _writing(path):
        with rasterio.open(partial, "w", **options) as target:
            gcps, gcps_crs = source.gcps
            if gcps:
                target.gcps = (gcps, gcps_crs)
            target.update_tags(**{key: printable(value) for key, value in tags.items()})
            if palette is not None:
                target.write_colormap(1, {index: tuple(color) for index, color in enumerate(palette.tolist())})
            yield target
        levels = [2**power for power in range(1, 16) if 2**power * 256 <= max(height, width)]
        if levels:
            with rasterio.open(partial, "r+") as target:
                target.build_overviews(levels, Resampling.nearest)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise OSError(f"{path}: the file cannot be written ({reason})") from error


def write_polygons(labels: Path, output: Path, *, names: Sequence[str], info: Mapping[str, str]) -> int:
    """The regions of a label map as GeoJSON: longitude and latitude where the map has coordinates, else pixels.

    Args:
        labels: A GeoTIFF of labels.
        output: Where to; its folder exists.
        names: Of the labels.
        info: Texts kept in the file.

    Returns:
        How many polygons there are.

    Raises:
        OSError: The file cannot be written.
    """
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    count = 0

    def features() -> Iterator[dict[str, Any]]:
        nonlocal count
        for shape, value in shapes(rasterio.band(dataset, 1), transform=dataset.transform):
            if value == dataset.nodata:
                continue
            geometry = transform_geom(dataset.crs, "OGC:CRS84", shape, precision=9) if dataset.crs else shape
            properties = {"label": names[int(value)], "index": int(value)}
            count += 1
            yield {"type": "Feature", "properties": properties, "geometry": _counterclockwise(geometry)}

    with _quiet(rasterio), _writing(output), rasterio.open(labels) as dataset:
        save_json(output, {"type": "FeatureCollection", "info": dict(info)}, {"features": features()})
    return count


def _counterclockwise(geometry: dict[str, Any]) -> dict[str, Any]:
    """A polygon whose outer ring runs against the clock and its holes with it, as RFC 7946 (3.1.6) wants it."""
    rings = []
    for index, ring in enumerate(geometry["coordinates"]):
        area = math.fsum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        rings.append(ring if (area > 0) == (index == 0) else ring[::-1])
    return {"type": "Polygon", "coordinates": rings}
