"""What GDAL may open: one local file of a known format, and nothing that this file or one beside it names.

GDAL has some 130 drivers. It chooses by content, so that a `.tif` may be a VRT that reads any file, or a WMS that asks
the network; and a GeoTIFF's tags, an `.ovr`, `.msk` or `.aux.xml` beside it may name further files, which GDAL opens
with any driver. Needs rasterio.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from clearclip.errors import ClearclipError, ImageError, UsageError, printable
from clearclip.files.reading import check_regular

DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "WEBP", "GIF", "BIGGIF")
"""They read one file by themselves, and look for none beside it when told so. (BMP and PNM do not listen.)"""
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}
BESIDE = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}


def open_alone(path: str | os.PathLike[str]) -> AbstractContextManager[Any]:
    """Open one regular file with rasterio; files beside it are not looked for, and `RefusedError` if it names one.

    To be used, from here to closing, in a `rasterio.Env(**ALONE)` and in `gdal_errors`.
    """
    import rasterio
    from rasterio.io import DatasetReader

    name, file, page = printable(str(path)), file_of(path), _page(path)
    try:
        status = file.stat()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file{_needs_driver(name)}") from error
    check_regular(status)
    if status.st_size == 0:
        raise ImageError(f"{name}: the file is empty")
    # A whole path, as a Path: names such as `NETCDF:x` or `zip://x` mean nothing special then.
    if page is None:
        dataset = DatasetReader(file.absolute(), driver=list(DRIVERS))
    else:
        dataset = rasterio.open(f"GTIFF_DIR:{page}:{file.absolute()}", driver="GTiff")
    if "OVERVIEW_FILE" in dataset.tags(ns="OVERVIEWS"):
        dataset.close()
        raise ImageError(f"{name} names another file as its overview: remove what does, OVERVIEW_FILE in its metadata")
    return dataset  # type: ignore[no-any-return]


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file that a name means: of `GTIFF_DIR:2:FILE`, a page of a TIFF, its last part."""
    name = os.fspath(path)
    return Path(name if _page(path) is None else name.split(":", 2)[2])


def _page(path: str | os.PathLike[str]) -> int | None:
    match = re.fullmatch(r"GTIFF_DIR:(\d{1,9}):.+", os.fspath(path), re.DOTALL)
    return int(match[1]) if match and not os.path.lexists(path) else None


def _needs_driver(name: str) -> str:
    """What opens a name that is no file: a raster within a file, or an address."""
    import rasterio

    prefix, colon, _ = name.partition(":")
    if not colon:
        return ""
    with rasterio.Env() as environment:
        drivers = {driver.casefold(): driver for driver in environment.drivers()}
    driver = drivers.get(f"{prefix}image".casefold()) or drivers.get(prefix.casefold())
    if driver and "://" not in name:
        return f": a raster within a file is opened with --driver {driver} (driver=)"
    return ": addresses are opened with --driver NAME (driver=), for instance GTiff"


def open_with(path: str | os.PathLike[str], driver: str) -> AbstractContextManager[Any]:
    """Open whatever a GDAL driver takes, with all that it asks for: other files, addresses, the network."""
    import rasterio

    with rasterio.Env() as environment:
        known = environment.drivers()
    if driver not in known:
        raise UsageError(
            f"GDAL has no driver {driver!r} here: `rio env --formats` lists those that it has, such as VRT"
        )
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        pass  # an address, or a connection string
    else:
        if not stat.S_ISDIR(status.st_mode):
            check_regular(status)
    return rasterio.open(path, driver=driver)  # type: ignore[no-any-return]


@contextmanager
def gdal_errors(name: str) -> Iterator[None]:
    """Turn whatever is raised about an image into one line; warnings of missing coordinates are hidden.

    CPLE_AppDefinedError, CRSError, SystemError, UnicodeDecodeError and MemoryError have been seen.
    """
    from rasterio.errors import NotGeoreferencedWarning

    try:
        with warnings.catch_warnings(), _quiet_log():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except ClearclipError:
        raise
    except Exception as error:
        reason = one_line(error).removeprefix(f"'{name}' ")
        if "not recognized" in reason:
            reason = (
                f"it is none of {', '.join(DRIVERS)}; other formats, which may name more files and addresses, are "
                "opened with --driver NAME (driver=), for instance VRT, netCDF or HDF5"
            )
        raise ImageError(f"{name}: the image cannot be read ({reason})") from error


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Hide the traceback that rasterio's log prints, and goes on, where GDAL quotes bytes that are no UTF-8."""
    told = sys.unraisablehook

    def tell(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            told(unraisable)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = told


def one_line(error: BaseException) -> str:
    """What an error of GDAL says, without what a file may have put into it: line breaks, control characters."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


def from_gdal(error: BaseException) -> bool:
    """Whether an error was raised by rasterio, whose classes have no common root."""
    return isinstance(error, SystemError) or type(error).__module__.partition(".")[0] == "rasterio"
