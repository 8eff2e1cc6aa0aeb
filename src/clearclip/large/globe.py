"""Where polygons lie: longitude and latitude, as far as an image's coordinates have any. Needs rasterio."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearclip.errors import ImageError, printable
from clearclip.files.gdal import one_line
from clearclip.large.image import Place

GLOBE = "OGC:CRS84"
BEYOND_180 = "+proj=eqc +lon_0=180 +datum=WGS84"
"""Plate carrée in which the antimeridian is the middle: there GDAL cuts what crosses it."""
METRES = math.radians(6378137.0)
SLACK = 1e-6
STRAIGHT = 8
"""Pixels between two points of an edge: straight ones in a projection are curves on the globe."""
LOOKED_AT = 65
"""Points along each side of an image that are placed before the work."""


@dataclass(frozen=True)
class Globe:
    """How an image's coordinates become a GeoJSON's; `crs` of `None`: they are written as they are."""

    crs: Any
    crosses: bool = False
    """Whether the image crosses the antimeridian, or reaches beyond it."""
    step: float = math.inf
    """Longest part of an edge, in the image's coordinates, that is taken for straight on the globe."""

    @classmethod
    def of(cls, place: Place, size: tuple[int, int], name: str) -> Globe:
        """What polygons of an image will need; `ImageError` if some of it has no longitude and latitude.

        A warning where coordinates are none of the Earth's, or the image is placed by something that GeoJSON has not.
        """
        from rasterio.warp import transform

        if not place.crs:
            if place.gcps[0] or place.rpcs:
                _warn(name, "is placed by control points or RPCs alone: its polygons are in pixels (gdalwarp it first)")
            return cls(None)
        height, width = size
        columns, rows = np.meshgrid(np.linspace(0, width, LOOKED_AT), np.linspace(0, height, LOOKED_AT))
        x, y = place.transform @ (columns.ravel(), rows.ravel())
        try:
            longitudes, latitudes = transform(place.crs, GLOBE, x.tolist(), y.tolist())
        except Exception as error:  # of many classes, and overflows
            if type(error).__name__ != "CPLE_NotSupportedError":
                raise ImageError(_nowhere(name, one_line(error))) from error
            _warn(name, "has coordinates that are no place on Earth: its polygons are in its own coordinates")
            return cls(None)
        grid = np.array(longitudes).reshape(columns.shape)
        if not (np.abs(grid).max() <= 540 and np.abs(latitudes).max() <= 90 + SLACK):  # NaN neither
            raise ImageError(_nowhere(name, f"{grid.ravel()[0]:g}, {latitudes[0]:g} is a corner"))
        if pole := _pole_within(place, size):
            raise ImageError(_nowhere(name, f"the {pole} Pole lies in it"))
        jumps = max(np.abs(np.diff(grid, axis=axis)).max() for axis in (0, 1))
        pixel = min(math.hypot(place.transform.a, place.transform.d), math.hypot(place.transform.b, place.transform.e))
        step = math.inf if place.crs.is_geographic else STRAIGHT * pixel
        return cls(place.crs, bool(jumps > 180 or np.abs(grid).max() > 180), step)

    def geometry(self, shape: dict[str, Any]) -> dict[str, Any]:
        """A polygon of the image's coordinates as GeoJSON, cut at the antimeridian as RFC 7946 (3.1.9) wants it."""
        from rasterio.warp import transform_geom

        if not self.crs:
            return _turned(shape)
        try:
            shape = {**shape, "coordinates": [_with_points(ring, self.step) for ring in shape["coordinates"]]}
            found = transform_geom(self.crs, GLOBE, shape, precision=9)
            if self.crosses and _is_torn(found):
                middle = _shifted(shape) if self.crs.is_geographic else transform_geom(self.crs, BEYOND_180, shape)
                found = transform_geom(BEYOND_180, GLOBE, middle, precision=9)
            if not (turned := _turned(found))["coordinates"]:
                raise ValueError("a polygon around a pole has no ring")
            return turned
        except Exception as error:  # of many classes, and overflows
            raise ImageError(_nowhere("the image", one_line(error))) from error


def _pole_within(place: Place, size: tuple[int, int]) -> str | None:
    """The pole around which an image lies, where its projection makes a point of it: no ring there has a longitude."""
    from rasterio.warp import transform

    if place.crs.is_geographic:
        return None
    for pole, latitude in (("North", 90.0), ("South", -90.0)):
        try:
            x, y = np.array(transform(GLOBE, place.crs, [0.0, 90.0, 180.0], [latitude] * 3))
        except Exception:  # a projection that does not reach it
            continue
        columns, rows = ~place.transform @ (x, y)
        is_point = np.ptp(columns) < 1 and np.ptp(rows) < 1  # not with NaN
        if is_point and 0 <= columns[0] <= size[1] and 0 <= rows[0] <= size[0]:
            return pole
    return None


def _with_points(ring: list[Any], step: float) -> list[Any]:
    """A ring with points along edges that are longer than a step."""
    points = []
    for (x, y), (right, below) in itertools.pairwise(ring):
        count = max(1, math.ceil(max(abs(right - x), abs(below - y)) / step))
        points += [(x + (right - x) * part / count, y + (below - y) * part / count) for part in range(count)]
    return [*points, ring[-1]]


def _warn(name: str, sentence: str) -> None:
    warnings.warn(f"{printable(name)} {sentence}", stacklevel=1)


def _nowhere(name: str, reason: str) -> str:
    return (
        f"{name}: parts of it have no longitude and latitude ({reason[:200]}): leave out the polygons, or warp it "
        "first, for instance with `gdalwarp -t_srs EPSG:4326`"
    )


def _polygons(geometry: dict[str, Any]) -> list[Any]:
    """The rings of each polygon; points and lines that a cut may leave are none."""
    if geometry["type"] == "GeometryCollection":
        return [rings for part in geometry["geometries"] for rings in _polygons(part)]
    found = {"Polygon": [geometry.get("coordinates")], "MultiPolygon": geometry.get("coordinates")}
    return found.get(geometry["type"]) or []


def _is_torn(geometry: dict[str, Any]) -> bool:
    """Whether longitudes leave ±180 or jump; GDAL closes what holds a pole along the pole itself."""
    points = [point for rings in _polygons(geometry) for ring in rings for point in ring]
    if any(abs(latitude) == 90 for _, latitude in points):
        return False
    steps = (pair for rings in _polygons(geometry) for ring in rings for pair in itertools.pairwise(ring))
    return any(abs(x) > 180 for x, _ in points) or any(abs(a[0] - b[0]) > 180 for a, b in steps)


def _shifted(shape: dict[str, Any]) -> dict[str, Any]:
    """A polygon in degrees that runs on beyond 180, in the metres of `BEYOND_180`."""
    rings = [[(float(x), float(y)) for x, y in ring] for ring in shape["coordinates"]]
    turns = 360 * math.floor(min(x for x, _ in rings[0]) / 360)
    moved = [[((x - turns - 180) * METRES, y * METRES) for x, y in ring] for ring in rings]
    return {"type": "Polygon", "coordinates": moved}


def _turned(geometry: dict[str, Any]) -> dict[str, Any]:
    """Polygons whose outer rings run against the clock and their holes with it, as RFC 7946 (3.1.6) wants it."""
    polygons = []
    for rings in _polygons(geometry):
        turned = []
        for index, ring in enumerate(rings):
            area = math.fsum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
            if not math.isfinite(area):
                raise ValueError("a point lies at infinity")
            turned.append(ring if (area > 0) == (index == 0) else ring[::-1])
        polygons.append(turned)
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
