"""What is written of a large image: GeoTIFFs that lie where it lies, and its regions as GeoJSON. Needs rasterio."""

from __future__ import annotations

import itertools
import json
import math
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.errors import ClearclipError, ImageError, UsageError, printable
from clearclip.files.gdal import ALONE, from_gdal, gdal_errors, one_line, open_alone
from clearclip.files.label_maps import save_json
from clearclip.files.reading import open_regular
from clearclip.files.writing import atomic_write
from clearclip.large.image import Place, Raster
from clearclip.large.kept import unfinished

HEAD_BYTES = 1 << 26
"""Of a GeoJSON that is asked whose it is: labels and their words come before its features."""


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
    replace: bool = True,
) -> Iterator[Any]:
    """A tiled, compressed, sparse GeoTIFF of one band, of the size and at the place of another raster.

    What comes takes `write(values, 1, window=...)`. Blocks of `block` pixels' side, a multiple of 16, that are not
    written hold `nodata`. The file appears only when complete; `OSError` if it cannot be written.
    """
    import rasterio
    from rasterio.enums import Resampling

    place = like.place
    height, width = like.size
    located = {} if place.crs is None and place.transform.is_identity else {"transform": place.transform}
    options: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": dtype, "nodata": nodata,
        "crs": place.crs, "tiled": True, "blockxsize": block, "blockysize": block, "compress": "deflate",
        "predictor": 3 if dtype.startswith("float") else 1, "bigtiff": "if_safer", "sparse_ok": True, **located,
    }  # fmt: skip
    with (
        atomic_write(path, replace=replace) as partial,
        rasterio.Env(**ALONE, SPARSE_OK_OVERVIEW=True),
        _writing(path),
    ):
        with rasterio.open(partial, "w", **options) as target:
            points, system = place.gcps
            if points:
                target.gcps = (points, system or rasterio.CRS())
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
    from rasterio.errors import NotGeoreferencedWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except Exception as error:
        if not from_gdal(error):
            raise
        raise OSError(f"{path}: the file cannot be written ({one_line(error)})") from error


def write_polygons(
    labels: Path, output: Path, *, names: Sequence[str], info: Mapping[str, str], replace: bool = True
) -> int:
    """Write the regions of a GeoTIFF of labels as GeoJSON, and say how many there are.

    In longitude and latitude where the map has coordinates, else in pixels; `ImageError` if a place has none.
    """
    import rasterio
    from rasterio.features import shapes

    count = 0

    def features() -> Iterator[dict[str, Any]]:
        nonlocal count
        for shape, value in shapes(rasterio.band(dataset, 1), transform=dataset.transform):
            if value == dataset.nodata:
                continue
            properties = {"label": names[int(value)], "index": int(value)}
            count += 1
            yield {"type": "Feature", "properties": properties, "geometry": _geometry(shape, dataset.crs)}

    with rasterio.Env(**ALONE), _writing(output), open_alone(labels) as dataset:
        save_json(output, {"type": "FeatureCollection", "info": dict(info)}, {"features": features()}, replace=replace)
    return count


def check_places(place: Place, size: tuple[int, int]) -> None:
    """Refuse coordinates that polygons cannot be written in: `ImageError` if the image's own outline has none."""
    height, width = size
    a, b, c, d, e, f = place.transform[:6]
    corners = [
        (a * x + b * y + c, d * x + e * y + f) for x, y in ((0, 0), (0, height), (width, height), (width, 0), (0, 0))
    ]
    _geometry({"type": "Polygon", "coordinates": [corners]}, place.crs)


def _geometry(shape: dict[str, Any], crs: Any) -> dict[str, Any]:
    from rasterio.warp import transform_geom

    if not crs:
        return _counterclockwise(shape)
    try:
        return _counterclockwise(transform_geom(crs, "OGC:CRS84", shape, precision=9))
    except Exception as error:  # of many classes, and overflows
        raise ImageError(
            f"the image's coordinates have no longitude and latitude everywhere ({one_line(error)}): mend them, or "
            "leave out the polygons"
        ) from error


def _counterclockwise(geometry: dict[str, Any]) -> dict[str, Any]:
    """A polygon whose outer ring runs against the clock and its holes with it, as RFC 7946 (3.1.6) wants it."""
    rings = []
    for index, ring in enumerate(geometry["coordinates"]):
        area = math.fsum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        if not math.isfinite(area):
            raise ValueError("a point lies at infinity")
        rings.append(ring if (area > 0) == (index == 0) else ring[::-1])
    return {"type": "Polygon", "coordinates": rings}


def made_by_clearclip(file: Path) -> bool:
    """Whether a file is a GeoTIFF or a GeoJSON that this program wrote: only such a one may be replaced."""
    try:
        info = _json_info(file) if file.suffix.lower() in (".json", ".geojson") else _tiff_tags(file)
        return str(info["software"]).startswith("clearclip ")
    except (ClearclipError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _tiff_tags(file: Path) -> Any:
    import rasterio

    with rasterio.Env(**ALONE), gdal_errors(str(file)), open_alone(file) as dataset:
        return dataset.tags()


def _json_info(file: Path) -> Any:
    """What `save_json` wrote before the first array."""
    with open_regular(file) as stream:
        head, found, _ = stream.read(HEAD_BYTES).partition(b',\n "features": [')
    return json.loads(head + b"}" if found else b"")["info"]


def check_names(targets: Mapping[str, Path]) -> None:
    """`UsageError` if the names of the results, by role, have wrong suffixes or are one."""
    for role, file in targets.items():
        allowed = (".geojson", ".json") if role == "polygons" else (".tif", ".tiff")
        if file.suffix.lower() not in allowed:
            raise UsageError(f"{file}: the suffix of the {role} is {allowed[0]}")
        inside = {part for other in targets.values() for part in (other, unfinished(other))}
        if inside & set(file.parents):
            raise UsageError(f"{file} would lie inside another result: name another place")
        try:
            unfinished(file).lstat()
        except FileNotFoundError:
            pass
        except OSError as error:  # names that are too long, folders that are files
            raise UsageError(f"{file} cannot be used ({error.strerror}): choose another place or name") from error
    # Names that some disks take for one: macOS and Windows see no difference of case or of composed letters.
    if len({unicodedata.normalize("NFC", str(file)).casefold() for file in targets.values()}) < len(targets):
        raise UsageError("one file was named for two results: name a file for each")


def check_beside(file: Path, place: Place) -> None:
    """`UsageError` if GDAL would read a GeoTIFF together with a file that stands beside its place already.

    Of old overviews it would show their pixels, of old masks and coordinates theirs. None is ever ours.
    """
    names = {f"{file.name}{suffix}" for suffix in (".ovr", ".msk", ".aux.xml", ".aux")} | {f"{file.stem}.aux"}
    if place.transform.is_identity:  # else these are not looked at
        names |= {f"{file.stem}{suffix}" for suffix in (".tfw", ".tifw", ".tiffw", ".wld", ".tab")}
    known = {name.casefold() for name in names}
    for other in sorted(file.parent.iterdir()):
        if other.name.casefold() in known:
            raise UsageError(
                f"{other} stands beside {file.name} and would be read with it: move or delete it, or name another file"
            )


def check_no_input(file: Path, inputs: Iterable[str]) -> None:
    """`UsageError` if a result would be written over one of the inputs, under whatever name."""
    if any(_same(file, Path(name)) for name in inputs):
        raise UsageError(f"{file} is the image itself, or a part of it: name another file")


def _same(file: Path, other: Path) -> bool:
    try:
        return file.samefile(other)
    except (OSError, ValueError):  # one of them does not exist, or is no file
        return False


def check_replaceable(file: Path, *, overwrite: bool) -> None:
    """`UsageError` if a file is in the way of a result; its place is claimed."""
    if not os.path.lexists(file):
        return
    if not made_by_clearclip(file):
        raise UsageError(
            f"{file} is there already and was not made by clearclip: name another file, or delete that one"
        )
    if not overwrite:
        raise UsageError(f"{file} is there already: name another file, or give --overwrite (overwrite=)")
