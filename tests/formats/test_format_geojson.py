"""GeoJSON, read back by geopandas (GDAL) and shapely."""

import json

import numpy as np
import pytest

from clearclip.formats import Choices, GeoReference, Run, Writer, get_formats
from format_cases import INFO, LABEL_MAPS, NAMES, make

shapely = pytest.importorskip("shapely")
geopandas = pytest.importorskip("geopandas")


@pytest.mark.parametrize("things", [(), tuple(NAMES[:2])], ids=["stuff", "things"])
def test_polygons_are_the_label_map(write, things):
    done = write("geojson", choices=Choices(things=things))
    for stem, label_map in LABEL_MAPS.items():
        file = done.folder / "geojson" / f"{stem}.geojson"
        table = geopandas.read_file(file).set_crs(None, allow_override=True)  # GDAL takes pixels for degrees
        assert table.geometry.is_valid.all()
        assert table.area.sum() == label_map.size
        assert table["area"].tolist() == table.geometry.area.tolist()
        y, x = np.indices(label_map.shape) + 0.5
        found = np.full(label_map.shape, -1)
        for row in table.rename(columns={"index": "number"}).itertuples():
            inside = shapely.contains_xy(row.geometry, x, y)
            assert (found[inside] == -1).all()
            found[inside] = row.number
            assert row.label == NAMES[row.number]
            assert row.score == pytest.approx(done.results[stem].scores[inside].mean(), abs=2e-6)
        assert np.array_equal(found, label_map)
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["clearclip"] == {**INFO, "labels": NAMES, "source": str(done.images / f"{stem}.png")}


def test_a_georeference_puts_them_on_earth(tmp_path):
    label_map = LABEL_MAPS["blobs"]
    result = make(label_map)
    writer = Writer(get_formats(["geojson"]), Run(tmp_path, result.vocabulary, INFO))
    place = GeoReference((0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0), "EPSG:32633")
    writer.write(result, stem="place", source="place.tif", georeference=place)
    table = geopandas.read_file(tmp_path / "geojson" / "place.geojson")
    assert table.crs.to_epsg() == 32633
    assert table.geometry.is_valid.all()
    assert table.area.sum() == pytest.approx(label_map.size / 4)
    rows, columns = np.indices(label_map.shape) + 0.5
    found = np.full(label_map.shape, -1)
    for number, geometry in zip(table["index"], table.geometry, strict=True):
        found[shapely.contains_xy(geometry, 500_000 + 0.5 * columns, 5_000_000 - 0.5 * rows)] = number
        parts = getattr(geometry, "geoms", [geometry])
        assert all(part.exterior.is_ccw for part in parts)
    assert np.array_equal(found, label_map)


def test_fewer_points(write):
    exact = write("geojson", label_maps={"blobs": LABEL_MAPS["blobs"]})
    simple = write("geojson", label_maps={"blobs": LABEL_MAPS["blobs"]}, choices=Choices(simplify=1.5), folder="simple")
    files = [done.folder / "geojson" / "blobs.geojson" for done in (exact, simple)]
    assert files[1].stat().st_size < 0.7 * files[0].stat().st_size
    assert geopandas.read_file(files[1]).geometry.is_valid.all()
