"""GeoJSON: polygons with holes along the pixels' edges, in pixels or, where the image knows its place, on Earth.

https://www.rfc-editor.org/rfc/rfc7946
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clearclip.files.label_maps import save_json
from clearclip.files.optional import require
from clearclip.formats.base import Format, GeoReference, Record, Sample
from clearclip.formats.polygons import exact_polygons
from clearclip.formats.regions import Region


class GeoJson(Format):
    """`geojson/<stem>.geojson`: a feature for every region; x to the right and y down, or the image's own system.

    A coordinate reference system is written as GeoJSON of 2008 has it, which GDAL, QGIS and geopandas read.
    """

    name = "geojson"
    image_file = "geojson/{stem}.geojson"
    libraries = ("shapely", "rasterio.features", "cv2")

    def write(self, sample: Sample) -> Record:
        place = sample.georeference
        head: dict[str, Any] = {"type": "FeatureCollection", "name": sample.stem}
        if place is not None and place.crs:
            head["crs"] = {"type": "name", "properties": {"name": _urn(place.crs)}}
        save_json(self.place(sample), {**head, "clearclip": sample.provenance}, {"features": _features(sample)})
        return {}


def _features(sample: Sample) -> Iterator[dict[str, Any]]:
    palette = sample.run.vocabulary.palette.tolist()
    for number, region in enumerate(sample.regions, start=1):
        properties = {
            "label": region.name, "index": region.label, "score": region.score, "area": region.area,
            "isthing": region.is_thing, "color": f"#{bytes(palette[region.label]).hex()}",
        }  # fmt: skip
        geometry = _geometry(region, simplify=sample.run.choices.simplify, place=sample.georeference)
        yield {"type": "Feature", "id": number, "properties": properties, "geometry": geometry}


def _geometry(region: Region, *, simplify: float, place: GeoReference | None) -> dict[str, Any]:
    shapely = require("shapely", extra="formats", purpose="format 'geojson'")
    outline = exact_polygons(region.mask, offset=region.box[:2], simplify=simplify)
    if place is not None:
        affinity = require("shapely.affinity", extra="formats", purpose="format 'geojson'")
        a, b, c, d, e, f = place.transform
        outline = affinity.affine_transform(outline, [a, b, d, e, c, f])
    outline = shapely.orient_polygons(outline, exterior_cw=False)
    if len(outline.geoms) == 1:
        outline = outline.geoms[0]
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(outline))
    return geometry


def _urn(crs: str) -> str:
    """`EPSG:32633` as GeoJSON names it; other texts stay."""
    authority, colon, code = crs.partition(":")
    return f"urn:ogc:def:crs:{authority}::{code}" if colon and authority.isalpha() and code.isalnum() else crs
