"""What is written of a large image: GeoTIFFs that lie where it lies, and its regions as GeoJSON. Needs rasterio."""

from __future__ import annotations

import json
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.errors import ClearclipError, UsageError, printable
from clearclip.files.gdal import ALONE, from_gdal, gdal_errors, one_line, open_alone
from clearclip.files.label_maps import save_json
from clearclip.files.reading import open_regular
from clearclip.files.writing import atomic_write
from clearclip.large.globe import Globe
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
            if place.rpcs is not None:
                target.rpcs = place.rpcs
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
    labels: Path, output: Path, *, globe: Globe, names: Sequence[str], info: Mapping[str, str], replace: bool = True
) -> int:
    """Write the regions of a GeoTIFF of labels as GeoJSON, where the globe puts them, and say how many there are."""
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
            yield {"type": "Feature", "properties": properties, "geometry": globe.geometry(shape)}

    with rasterio.Env(**ALONE), _writing(output), open_alone(labels) as dataset:
        save_json(output, {"type": "FeatureCollection", "info": dict(info)}, {"features": features()}, replace=replace)
    return count


def _info(file: Path) -> dict[str, str]:
    """What a GeoTIFF or a GeoJSON that this program wrote says of itself; empty for any other file."""
    try:
        info = dict(_json_info(file) if file.suffix.lower() in (".json", ".geojson") else _tiff_tags(file))
        return info if str(info["software"]).startswith("clearclip ") else {}
    except (ClearclipError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


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


def check_replaceable(file: Path, *, overwrite: bool, own: Mapping[str, str] | None = None) -> None:
    """`UsageError` if a file is in the way of a result; its place is claimed.

    A file that this program wrote may be replaced with `overwrite`, and one that says `own` of itself always: it is of
    the run that now goes on.
    """
    if not os.path.lexists(file):
        return
    info = _info(file)
    if not info:
        raise UsageError(
            f"{file} is there already and was not made by clearclip: name another file, or delete that one"
        )
    is_own = own is not None and all(info.get(key) in (text, printable(text)) for key, text in own.items())
    if not (overwrite or is_own):
        raise UsageError(f"{file} is there already: name another file, or give --overwrite (overwrite=)")
