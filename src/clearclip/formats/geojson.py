"""GeoJSON: polygons with holes along the pixels' edges, in pixels or, where the image knows its place, on Earth.

https://www.rfc-editor.org/rfc/rfc7946

Belongs here: the file. Does not: tracing (`polygons`), reading where an image lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
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
    libraries = ("shapely", "rasterio.features", "cv2")

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """As `Format.files`."""
        return (folder / "geojson" / f"{stem}.geojson",)

    def write(self, sample: Sample) -> Record:
        """As `Format.write`."""
        (file,) = self.files(sample.run.folder, sample.stem)
        file.parent.mkdir(exist_ok=True)
        place = sample.georeference
        head: dict[str, Any] = {"type": "FeatureCollection", "name": sample.stem}
        if place is not None and place.crs:
            head["crs"] = {"type": "name", "properties": {"name": _urn(place.crs)}}
        save_json(file, {**head, "clearclip": sample.provenance}, {"features": self._features(sample, place)})
        return {}

    @staticmethod
    def _features(sample: Sample, place: GeoReference | None) -> Iterator[dict[str, Any]]:
        palette = sample.run.vocabulary.palette.tolist()
        for number, region in enumerate(sample.regions, start=1):
            yield {
                "type": "Feature",
                "id": number,
                "properties": {
                    "label": region.name,
                    "index": region.label,
                    "score": region.score,
                    "area": region.area,
                    "isthing": region.is_thing,
                    "color": "#{:02x}{:02x}{:02x}".format(*palette[region.label]),
                },
                "geometry": _geometry(region, simplify=sample.run.choices.simplify, place=place),
            }


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
