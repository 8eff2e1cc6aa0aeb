"""Rasters of any size through rasterio: rows of uint8 RGB, which of their pixels are valid, and where they lie."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clearclip.encode.images import exif_turn, open_image
from clearclip.encode.levels import check_range, find_range, to_levels
from clearclip.errors import ImageError, UsageError, printable
from clearclip.files.gdal import ALONE, BESIDE, file_of, gdal_errors, open_alone, open_with
from clearclip.files.optional import require

LOOKED_AT = 1024
CACHE_MB = 256
"""GDAL keeps decoded blocks in it; its own default is a share of the machine's memory."""


class Place(NamedTuple):
    """Where a raster lies: its transform, ground control points with their own coordinate system, or RPCs."""

    crs: Any
    transform: Any
    gcps: tuple[list[Any], Any]
    rpcs: Any = None

    @classmethod
    def of(cls, dataset: Any, name: str) -> Place:
        """What an open raster says; `ImageError` where its numbers give no pixel a place."""
        place = cls(dataset.crs, dataset.transform, dataset.gcps, dataset.rpcs)
        a, b, _, d, e, _ = numbers = place.transform[:6]
        points = [number for point in place.gcps[0] for number in (point.row, point.col, point.x, point.y, point.z)]
        if not np.isfinite([*numbers, *points]).all() or a * e == b * d:
            found = ", ".join(f"{number:g}" for number in numbers)
            raise ImageError(
                f"{name}: its coordinates (transform {found}) are no numbers, or put all pixels on one line: mend "
                "them, or remove them with `gdal_edit -unsetgt`"
            )
        return place


@dataclass(frozen=True)
class Raster:
    """An open raster."""

    dataset: Any
    name: str
    bands: tuple[int, ...]
    """One band (grey) or three (red, green, blue), counted from 1."""
    value_range: tuple[float, float] | None
    """What becomes 0 and 255; `None`: the values are levels already, or it is not yet `measured`."""
    masked: bool
    """Whether pixels may be invalid."""
    place: Place
    palette: npt.NDArray[np.uint8] | None = None
    """`(n, 4)`, where the values are indices into it."""
    mask: Any = None
    """A dataset beside the raster that says what is valid."""

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return int(self.dataset.height), int(self.dataset.width)

    @property
    def files(self) -> list[str]:
        """What it is made of, as far as it consists of files."""
        with gdal_errors(self.name):
            return [*self.dataset.files, *(self.mask.files if self.mask else ())]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel in the file's own blocks, all bands."""
        return sum(np.dtype(dtype).itemsize for dtype in self.dataset.dtypes)

    @property
    def may_be_invalid(self) -> bool:
        """Whether `read` can find pixels that are not valid."""
        return self.masked or self.palette is not None or self.dataset.dtypes[self.bands[0] - 1].startswith("float")

    @property
    def info(self) -> dict[str, str]:
        """How values became levels, for provenance."""
        low_high = "as they are" if self.value_range is None else "{:g} to {:g}".format(*self.value_range)
        return {"source": self.name, "bands": ",".join(map(str, self.bands)), "range": low_high}

    def measured(self) -> Raster:
        """With a value range where none was given and the values are not levels already.

        It is that of all chosen bands together, in a small version of the raster (from its overviews, if it has some),
        as `levels.find_range` finds it; a guess is warned of.
        """
        kinds = {self.dataset.dtypes[band - 1] for band in self.bands}
        height, width = self.size
        shrink = max(1.0, max(height, width) / LOOKED_AT)
        shape = (len(self.bands), max(1, int(height / shrink)), max(1, int(width / shrink)))
        with gdal_errors(self.name):
            told = [self.dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "") for band in self.bands]
            bits = max((int(text) if text.isdecimal() else 64 for text in told), default=64)
            if self.value_range is not None or self.palette is not None or (kinds == {"uint8"} and bits >= 8):
                return self
            values, valid = self._values(out_shape=shape)
            low, high, guess = find_range(values[:, valid], bits=bits)
        if guess:
            warnings.warn(f"{self.name}: {guess} ({low:g} to {high:g} here)", stacklevel=1)
        return replace(self, value_range=(low, high))

    def read(self, top: int, bottom: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Rows from top to bottom: `(rows, W, 3)` uint8, and `(rows, W)` bool: not nodata, not transparent, a number.

        `ImageError` if the file is damaged.
        """
        with gdal_errors(self.name):
            values, valid = self._values(window=((top, bottom), (0, self.size[1])))
        if self.palette is not None:
            colors = self.palette[np.minimum(values[0], len(self.palette) - 1)]
            return np.ascontiguousarray(colors[..., :3]), valid & (colors[..., 3] > 0)
        levels = np.moveaxis(values if self.value_range is None else to_levels(values, *self.value_range), 0, -1)
        if self.dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
            levels = 255 - levels
        return np.array(np.broadcast_to(levels, (*levels.shape[:2], 3))), valid

    def _values(self, **part: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """`(bands, H, W)` as stored, and `(H, W)` bool, of what rasterio's `read` takes as `window` or `out_shape`."""
        bands = list(self.bands)
        values = self.dataset.read(bands, **part)
        valid = np.ones(values.shape[1:], dtype=bool)
        if self.mask is not None:
            valid = self.mask.read([1] if self.mask.count == 1 else bands, **part).any(axis=0)
        elif self.masked:
            valid = self.dataset.read_masks(bands, **part).any(axis=0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        return values, valid


@contextmanager
def open_raster(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    driver: str | None = None,
) -> Iterator[Raster]:
    """Open a GeoTIFF, JPEG 2000, JPEG, PNG, WebP or GIF, or whatever a named GDAL driver takes; no pixel is read yet.

    `bands` are one or three from 1; by default those that say that they are red, green and blue, or all but alpha if
    these are one or three, else `UsageError`. `value_range` becomes black and white; by default 8 bits stay as they
    are, and others are `Raster.measured`. Of the files beside the image only coordinates (world file, `.aux.xml`) and a
    GeoTIFF as mask (`.msk`) are taken; but a driver may open all that the file names, also in the network.
    """
    rasterio = require("rasterio", extra="geo", purpose="an image in tiles")
    name = printable(str(path))
    if value_range is not None:
        check_range(value_range)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **({} if driver else ALONE)))
        with gdal_errors(name):
            dataset = stack.enter_context(open_with(path, driver) if driver else open_alone(path))
            _check_subdatasets(dataset, name)
            chosen = _choose_bands(dataset, name, bands)
            if any(dataset.dtypes[band - 1].startswith("complex") for band in chosen):
                raise ImageError(f"{name} has complex numbers: choose other bands, or make a picture of it first")
            mask = None if driver else _open_mask(file_of(path), dataset, stack)
            flags = [dataset.mask_flag_enums[band - 1] for band in chosen]
            masked = mask is not None or not any(rasterio.enums.MaskFlags.all_valid in flag for flag in flags)
            palette = _palette(rasterio, dataset, chosen) if bands is None and value_range is None else None
            place = Place.of(dataset, name) if driver else _read_place(path, name)
            raster = Raster(dataset, name, chosen, value_range, masked, place, palette, mask)
            if dataset.tags(ns="GEOLOCATION"):
                warnings.warn(
                    f"{name} is placed by geolocation arrays, which no result holds: the labels lie in pixels; warp it "
                    "first, with `gdalwarp -geoloc`",
                    stacklevel=1,
                )
        if place.crs is None and not driver and _lies_down(path):
            warnings.warn(
                f"{name} is stored lying down (EXIF orientation) and is labelled as it lies: turn the file first if it "
                "is a photograph",
                stacklevel=1,
            )
        yield raster


def _lies_down(path: str | os.PathLike[str]) -> bool:
    with suppress(ImageError), open_image(Path(path)) as opened:
        return exif_turn(opened) is not None
    return False


def _read_place(path: str | os.PathLike[str], name: str) -> Place:
    """Coordinates, also from files beside the image: opened once more for these, no pixel is ever read of that."""
    import rasterio

    with rasterio.Env(**BESIDE), open_alone(path) as dataset:
        return Place.of(dataset, name)


def mask_file(path: Path) -> Path:
    """Where GDAL keeps an image's mask that is not in the image."""
    return path.with_name(f"{path.name}.msk")


def _open_mask(path: Path, dataset: Any, stack: ExitStack) -> Any:
    file = mask_file(path)
    if not file.exists():
        return None
    mask = stack.enter_context(open_alone(file))
    if "INTERNAL_MASK_FLAGS_1" not in mask.tags():
        return None  # GDAL takes it for a mask by this tag alone
    if mask.shape != dataset.shape:
        raise ImageError(f"{printable(str(file))}: the mask has another size than its image: mend or remove it")
    return mask


def _check_subdatasets(dataset: Any, name: str) -> None:
    """Name what else is in a file: `UsageError` if it has no bands of its own, else a warning."""
    others = [printable(one) for one in dataset.subdatasets]
    listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    if others and not dataset.count:
        driver = "HDF5Image" if dataset.driver == "HDF5" else dataset.driver
        raise UsageError(f"{name} holds several rasters: name one of {listed}, with --driver {driver} (driver=)")
    if others and dataset.driver == "GTiff":
        warnings.warn(f"{name} has {len(others)} pages, the first is labelled: name another, {listed}", stacklevel=1)


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
    if count > 1 and set(meanings) == {ColorInterp.palette}:  # GDAL gives an animation's frames as bands
        warnings.warn(
            f"{name} has {count} frames, the first is labelled: save others as files of their own", stacklevel=1
        )
        return (1,)
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
