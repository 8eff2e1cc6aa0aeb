"""Images in tiles: the numbers of the whole image, coordinates and nodata kept, nothing half-written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import rasterio.rpc
import rasterio.shutil
import torch
import torch.nn.functional as F
from PIL import Image
from rasterio.enums import ColorInterp

import clearclip
from clearclip.classify.words import Words
from clearclip.encode.images import normalize
from clearclip.encode.windows import bilinear_matrix, part_of, plan_windows, resample_band
from clearclip.errors import ImageError, UsageError
from clearclip.large.image import open_raster
from clearclip.large.label import segment_large
from clearclip.protocol import Protocol
from clearclip.scenes import make_scene

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WORDS = ["sky", "grass", "tree=bush|hedge", "car", "house", "road"]
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.2, 0, 412_000.5, 0, -0.2, 5_650_000.25)}


@pytest.fixture
def scene():
    def make(height=150, width=211, index=3):
        return make_scene(index, size=(height, width)).image

    return make


@pytest.fixture
def write(tmp_path):
    """Writes `(H, W)` or `(H, W, bands)` as a raster."""

    def call(pixels, name="photo.tif", *, meanings=None, **options):
        bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
        shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
        path = tmp_path / name
        with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **options}) as target:
            if meanings:
                target.colorinterp = meanings
            target.write(bands)
        return path

    return call


def numbers(segmenter, height, width, scale):
    """The protocol in which the whole image is what the tiles show."""
    pixels = segmenter.protocol.in_pixels(segmenter.backbone.native_size)
    return Protocol(
        short_side=scale * min(height, width),
        long_side=1e9,
        crop_size=pixels.crop_size,
        stride=pixels.stride,
        normalization="model",
    )


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def agree(label_map, scores, whole, *, within=1e-5):
    """Equal labels but for ties, and equal scores."""
    np.testing.assert_allclose(scores, whole.scores, atol=within)
    different = label_map != whole.label_map
    assert different.mean() < 1e-3
    for y, x in zip(*different.nonzero(), strict=True):
        (_, first), (_, second), *_ = whole.ranking(y, x)
        assert first - second < within


@pytest.mark.parametrize(("length", "out_length"), [(100, 37), (37, 100), (5, 300), (300, 5), (64, 64), (1, 9), (9, 1)])
@pytest.mark.parametrize("step", [1, 7, 300])
def test_a_resize_in_bands_is_the_resize(length, out_length, step):
    parts = {True: torch.zeros(out_length, length).double(), False: torch.zeros(out_length, length).double()}
    for antialias, whole in parts.items():
        for start in range(0, out_length, step):
            stop = min(start + step, out_length)
            first, weights = resample_band(length, out_length, start, stop, antialias=antialias)
            whole[start:stop, first : first + weights.shape[1]] = weights
    torch.testing.assert_close(parts[False], bilinear_matrix(length, out_length))
    samples = torch.rand(1, 1, length, 3, dtype=torch.float64)
    expected = F.interpolate(samples, size=(out_length, 3), mode="bilinear", antialias=True)[0, 0]
    torch.testing.assert_close(parts[True] @ samples[0, 0], expected)


@pytest.mark.parametrize("out_length", [101, 57, 333])
@pytest.mark.parametrize(
    ("crop_size", "stride", "fit"),
    [(32, 16, "pad"), (30, 13, "pad"), (30, 13, "drop"), (0, 9, "drop"), (30, 30, "resize"), (500, 9, "pad")],
)
def test_a_part_of_an_axis_is_those_rows_of_its_matrix(out_length, crop_size, stride, fit):
    axis = plan_windows((101, 1), crop_size=crop_size, stride=stride, patch_size=8, fit=fit).y
    whole = axis.matrix(out_length)
    for start in range(0, out_length, 9):
        part = part_of(axis, out_length, start, min(start + 9, out_length))
        found = torch.zeros_like(whole[start : start + 9])
        first = part.first * axis.cells
        found[:, first : first + len(part.starts) * axis.cells] = part.matrix(len(found))
        torch.testing.assert_close(found, whole[start : start + 9])


@pytest.mark.parametrize(("height", "width"), [(150, 211), (64, 64), (33, 300), (20, 25)])
@pytest.mark.parametrize("block", [16, 64, 512])
def test_tiles_equal_the_whole_image(segmenter, backbone, scene, write, tmp_path, height, width, block):
    image = scene(height, width)
    path, out, scores = write(image, **UTM), tmp_path / "out.tif", tmp_path / "scores.tif"
    result = segment_large(segmenter, path, labels=WORDS, output=out, scores=scores, block=block)
    reference = clearclip.Segmenter(
        backbone, protocol=numbers(segmenter, height, width, 1), templates=segmenter.templates, cache=False
    )
    whole = reference(image, WORDS)
    agree(read(out), read(scores), whole)
    assert len(np.unique(whole.label_map)) > 1
    assert (result.encoded, result.nodata) == (whole._grid.plan.count, 0)
    assert result.pixels == {name: int((read(out) == index).sum()) for index, name in enumerate(whole.labels)}


@pytest.mark.parametrize("scale", [0.3, 0.75, 1.7])
def test_tiles_equal_the_whole_image_at_another_scale(segmenter, backbone, scene, write, tmp_path, scale):
    image = scene(160, 231)
    path, out, scores = write(image), tmp_path / "out.tif", tmp_path / "scores.tif"
    segment_large(segmenter, path, labels=WORDS, output=out, scores=scores, block=32, scale=scale)
    size = (int(160 * scale + 0.5), int(231 * scale + 0.5))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    exact = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]
    small = (exact - 1e-6).round_().byte()  # the tie of two levels goes down
    tensor = normalize(small.permute(1, 2, 0).numpy(), mean=backbone.mean, std=backbone.std)[None]
    text = segmenter.embed(WORDS)
    probabilities = (50 * segmenter.logits(tensor, text, size=(160, 231))[0]).softmax(dim=0)
    best, query = probabilities.max(dim=0)
    np.testing.assert_allclose(read(scores), best.numpy(), atol=1e-5)
    owners = torch.tensor(clearclip.Vocabulary.parse(WORDS).query_to_class)
    assert (read(out) == owners[query].numpy()).mean() > 0.999


def test_blocks_and_reading_steps_change_nothing(segmenter, scene, write, tmp_path, monkeypatch):
    path = write(scene(170, 140))
    found = []
    for block, pixels in ((16, 140 * 3), (48, 8_000_000), (256, 5_000)):
        monkeypatch.setattr("clearclip.large.label.PIXELS_AT_ONCE", pixels)
        out, scores = tmp_path / f"{block}.tif", tmp_path / f"{block}-scores.tif"
        segment_large(segmenter, path, labels=WORDS, output=out, scores=scores, scale=0.6, block=block)
        found.append((read(out), read(scores)))
    for label_map, scores in found[1:]:
        np.testing.assert_allclose(scores, found[0][1], atol=1e-5)
        assert (label_map != found[0][0]).mean() < 1e-3  # ties


def test_threshold_gives_background(segmenter, scene, write, tmp_path):
    image = scene()
    out, scores = tmp_path / "out.tif", tmp_path / "scores.tif"
    options = {"labels": WORDS, "overwrite": True}
    segment_large(segmenter, write(image), output=out, scores=scores, **options)
    limit = float(np.median(read(scores)))
    result = segment_large(segmenter, write(image), output=out, threshold=limit, **options)
    assert np.array_equal(read(out) == 0, read(scores) < limit)
    assert next(iter(result.pixels)) == "background"


def test_coordinates_colours_and_provenance_are_kept(segmenter, scene, write, tmp_path):
    out = tmp_path / "made" / "out.tif"
    path = write(scene(600, 530), **UTM)
    segment_large(segmenter, path, labels=["sky", "grass @#102030"], output=out, scale=0.5, block=128)
    with rasterio.open(out) as dataset, rasterio.open(path) as source:
        assert (dataset.crs, dataset.transform, dataset.shape) == (source.crs, source.transform, source.shape)
        assert dataset.block_shapes == [(128, 128)]
        assert dataset.compression.name == "deflate"
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
        assert dataset.colormap(1)[1] == (0x10, 0x20, 0x30, 255)
        assert dataset.overviews(1) == [2]
        tags = dataset.tags()
    assert [entry["name"] for entry in json.loads(tags["labels"])] == ["sky", "grass"]
    assert (tags["scale"], tags["source"], tags["method"]) == ("0.5", str(path), "clearclip")
    assert tags["software"].startswith("clearclip ")
    assert list(out.parent.iterdir()) == [out]


def test_ground_control_points_are_kept(segmenter, scene, write, tmp_path):
    points = [
        rasterio.control.GroundControlPoint(row, col, col * 2.0, row * 3.0) for row, col in ((0, 0), (9, 9), (0, 9))
    ]
    path, out = write(scene(40, 50)), tmp_path / "out.tif"
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, "EPSG:4326")
    segment_large(segmenter, path, labels=WORDS, output=out)
    with rasterio.open(out) as dataset:
        found, crs = dataset.gcps
    assert [(point.row, point.x, point.y) for point in found] == [(point.row, point.x, point.y) for point in points]
    assert crs.to_epsg() == 4326


@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask"])
def test_nodata_stays_nodata_and_its_windows_are_skipped(segmenter, scene, write, tmp_path, kind):
    image = np.maximum(scene(320, 320), 1)
    hole = np.zeros((320, 320), dtype=bool)
    hole[:, 140:] = True
    hole[5:20, 5:30] = True
    image[hole] = 0
    if kind == "nodata":
        path = write(image, nodata=0, **UTM)
    elif kind == "alpha":
        rgba = np.dstack([image, np.where(hole, 0, 255).astype(np.uint8)])
        meanings = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        path = write(rgba, meanings=meanings, photometric="rgb", **UTM)
    else:
        path = write(image, **UTM)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(~hole)
    out, scores = tmp_path / "out.tif", tmp_path / "scores.tif"
    result = segment_large(segmenter, path, labels=WORDS, output=out, scores=scores, block=32)
    assert np.array_equal(read(out) == 255, hole)
    assert np.array_equal(np.isnan(read(scores)), hole)
    assert result.nodata == hole.sum()
    assert result.windows == 81
    assert result.encoded == 9 * 5  # columns of windows from 0, 32, 64, 96 and 128 reach left of 140
    filled = image.copy()
    filled[hole] = np.rint(np.array(segmenter.backbone.mean) * 255)
    plain = tmp_path / "plain.tif"
    segment_large(segmenter, write(filled, "filled.tif"), labels=WORDS, output=plain)
    assert np.array_equal(read(plain)[~hole], read(out)[~hole])


def test_clear_pixels_are_nodata_here_and_white_in_a_picture(segmenter, scene, tmp_path):
    rgba = np.dstack([scene(64, 80), np.full((64, 80), 255, dtype=np.uint8)])
    rgba[:, 50:, 3], rgba[:, 40:50, 3] = 0, 1
    path = tmp_path / "cut-out.png"
    Image.fromarray(rgba).save(path)
    segment_large(segmenter, path, labels=WORDS, output=tmp_path / "out.tif")
    assert np.array_equal(read(tmp_path / "out.tif") == 255, rgba[..., 3] == 0)
    report = clearclip.segment_files(segmenter, [path], labels=WORDS, output=tmp_path / "out", formats=["mask"])
    assert [note for note in report.notes if note.startswith("its transparent pixels lie over white")]
    over_white = Image.alpha_composite(Image.new("RGBA", (80, 64), "white"), Image.fromarray(rgba)).convert("RGB")
    label_map = np.asarray(Image.open(tmp_path / "out" / "mask" / "cut-out.png"))
    assert np.array_equal(label_map, segmenter(over_white, WORDS).label_map)


@pytest.mark.parametrize("scale", [0.37, 2.3])
def test_windows_that_are_skipped_reach_no_valid_pixel(segmenter, scene, write, tmp_path, scale):
    image = np.maximum(scene(260, 260), 1)
    image[:, 50:] = 0
    image[:, 51:] = 0
    filled = image.copy()
    filled[:, 50:] = np.rint(np.array(segmenter.backbone.mean) * 255)
    maps = []
    for name, pixels, options in (("holes", image, {"nodata": 0}), ("filled", filled, {})):
        maps.append(tmp_path / f"{name}-labels.tif")
        path = write(pixels, f"{name}.tif", **options)
        result = segment_large(segmenter, path, labels=WORDS, output=maps[-1], scale=scale)
        assert (result.encoded < result.windows) == (name == "holes")
    assert np.array_equal(read(maps[0])[:, :50], read(maps[1])[:, :50])


def test_an_image_of_nothing_gives_a_map_of_nothing(segmenter, write, tmp_path):
    out = tmp_path / "out.tif"
    result = segment_large(segmenter, write(np.zeros((90, 80, 3), np.uint8), nodata=0), labels=WORDS, output=out)
    assert (read(out) == 255).all()
    assert (result.encoded, result.nodata) == (0, 7200)


def labels_of(segmenter, path, tmp_path, **options):
    out = tmp_path / "labels-of.tif"
    segment_large(segmenter, path, labels=WORDS, output=out, overwrite=True, **options)
    return read(out)


def test_bands_are_chosen_by_meaning_or_by_number(segmenter, scene, write, tmp_path):
    image = scene()
    expected = labels_of(segmenter, write(image), tmp_path)
    shuffled = np.dstack([image[..., 2], np.zeros_like(image[..., 0]), image[..., 0], image[..., 1]])
    meanings = (ColorInterp.blue, ColorInterp.undefined, ColorInterp.red, ColorInterp.green)
    assert np.array_equal(labels_of(segmenter, write(shuffled, meanings=meanings), tmp_path), expected)
    unnamed = write(shuffled, "unnamed.tif", photometric="minisblack")
    assert np.array_equal(labels_of(segmenter, unnamed, tmp_path, bands=(3, 4, 1)), expected)
    with pytest.raises(UsageError, match=r"has 4 bands .* choose one or three, for instance --bands 3,2,1"):
        labels_of(segmenter, unnamed, tmp_path)
    for wrong in ((3, 4), (0, 1, 2), (5,)):
        with pytest.raises(UsageError, match="one band or three of 1 to 4"):
            labels_of(segmenter, unnamed, tmp_path, bands=wrong)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_other_values_than_bytes_are_stretched(segmenter, scene, write, tmp_path, dtype):
    image = scene()
    expected = labels_of(segmenter, write(image), tmp_path)
    values = image.astype(dtype) * 100 + 7
    path = write(values, "values.tif", photometric="minisblack")
    assert np.array_equal(labels_of(segmenter, path, tmp_path, value_range=(7, 25507)), expected)
    low, high = np.percentile(values, [2, 98])
    stretched = np.rint(((values.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255)).astype(np.uint8)
    expected = labels_of(segmenter, write(stretched), tmp_path)
    with rasterio.open(tmp_path / "labels-of.tif") as dataset:
        assert dataset.tags()["range"] == "as they are"
    with pytest.warns(UserWarning, match=f"{dtype} values: their 2nd to 98th percentile .* --range LOW:HIGH"):
        assert (labels_of(segmenter, path, tmp_path) == expected).mean() > 0.999
    with rasterio.open(tmp_path / "labels-of.tif") as dataset:
        assert dataset.tags()["range"] == f"{low:g} to {high:g}"


@pytest.mark.parametrize(("bits", "dtype"), [(1, "uint8"), (4, "uint8"), (7, "uint8"), (12, "uint16")])
def test_bits_that_a_raster_declares_are_its_range(segmenter, write, tmp_path, bits, dtype):
    values = np.random.default_rng(bits).integers(0, 2**bits, (40, 56)).astype(dtype)
    path = write(values, nbits=bits)
    expected = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    with open_raster(path) as raster:
        assert np.array_equal(raster.measured().read(0, 40)[0][..., 0], expected)


@pytest.mark.parametrize(
    ("fill", "dtype"), [(-9999, "float32"), (-3.4e38, "float32"), (65535, "uint16"), (0, "uint16")]
)
def test_an_undeclared_fill_value_decides_no_range(write, fill, dtype):
    values = np.random.default_rng(1).integers(5000, 9000, (40, 56)).astype(dtype)
    with open_raster(write(values, "whole.tif")) as raster, pytest.warns(UserWarning, match="percentile"):
        expected = raster.measured().value_range
    values[:8] = fill
    with (
        open_raster(write(values)) as raster,
        pytest.warns(UserWarning, match="photo.tif: .* far from all others .* declare it as nodata"),
    ):
        assert raster.measured().value_range == pytest.approx(expected, rel=0.01)


def features_of(segmenter, path, tmp_path, **options):
    polygons = tmp_path / "p.geojson"
    segment_large(
        segmenter, path, labels=WORDS, output=tmp_path / "o.tif", polygons=polygons, overwrite=True, **options
    )
    return json.loads(polygons.read_text())["features"]


ACROSS = {
    "UTM": ("EPSG:32601", rasterio.Affine(89.29, 0, 160_000, 0, -87.5, 14_000)),
    "Mercator": ("EPSG:3857", rasterio.Affine(100, 0, 20_030_000, 0, -100, 14_000)),
    "degrees beyond 180": ("EPSG:4326", rasterio.Affine(0.01, 0, 179, 0, -0.01, 1)),
    "degrees below -180": ("EPSG:4326", rasterio.Affine(0.01, 0, -181, 0, -0.01, 1)),
    "polar": ("EPSG:3413", rasterio.Affine(1000, 0, -800_000, 0, -1000, 800_000)),
}


@pytest.mark.parametrize("place", ACROSS)
def test_polygons_are_cut_at_the_antimeridian(segmenter, scene, write, tmp_path, place):
    shapely = pytest.importorskip("shapely")
    crs, transform = ACROSS[place]
    features = features_of(segmenter, write(scene(), crs=crs, transform=transform), tmp_path)
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert all(shape.bounds[0] >= -180 and shape.bounds[2] <= 180 for shape in shapes)
    assert min(shape.bounds[0] for shape in shapes) == -180
    assert max(shape.bounds[2] for shape in shapes) == 180
    pieces = [part for shape in shapes for part in getattr(shape, "geoms", [shape])]
    assert max(part.bounds[2] - part.bounds[0] for part in pieces) < 180
    assert sum(shape.area for shape in shapes) == pytest.approx(shapely.union_all(shapes).area, rel=1e-3)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", "South"), ("EPSG:3413", "North"), ("EPSG:6931", "North")])
def test_an_image_around_a_pole_has_no_polygons_and_is_told_before_the_work(
    segmenter, scene, write, tmp_path, crs, pole
):
    path = write(scene(), crs=crs, transform=rasterio.Affine(1000, 0, -100_000, 0, -1000, 80_000))
    with pytest.raises(ImageError, match=f"the {pole} Pole lies in it.*leave out the polygons"):
        features_of(segmenter, path, tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_long_edges_follow_the_projection(segmenter, scene, write, tmp_path):
    """A border that is straight in Albers' projection lies kilometres off a straight line on the globe."""
    transform = rasterio.Affine(10_000, 0, -1_000_000, 0, -10_000, 2_000_000)
    features = features_of(segmenter, write(scene(), crs="EPSG:5070", transform=transform), tmp_path)
    for feature in features:
        for ring in (ring for rings in polygons_of(feature["geometry"]) for ring in rings):
            x, y = np.array(rasterio.warp.transform("OGC:CRS84", "EPSG:5070", *map(list, zip(*ring, strict=True))))
            steps = np.abs(np.diff([x, y], axis=1))
            assert steps.max() <= 80_001
            assert steps.min(axis=0).max() <= 1  # as the edges of pixels lie


def polygons_of(geometry):
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]


LOCAL = 'LOCAL_CS["a quarry",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'


@pytest.mark.parametrize("crs", [LOCAL, "IAU_2015:49900"])
def test_polygons_of_no_place_on_earth_keep_their_own_coordinates(segmenter, scene, write, tmp_path, crs):
    path = write(scene(), crs=rasterio.CRS.from_user_input(crs), transform=rasterio.Affine(0.01, 0, 10, 0, -0.01, 20))
    with pytest.warns(UserWarning, match="no place on Earth: its polygons are in its own coordinates"):
        features = features_of(segmenter, path, tmp_path)
    points = [point for feature in features for ring in feature["geometry"]["coordinates"] for point in ring]
    assert np.allclose([np.min(points, axis=0), np.max(points, axis=0)], [[10, 18.5], [12.11, 20]])


@pytest.mark.parametrize("crs", ["+proj=geos +h=35785831 +lon_0=0", "+proj=moll", "+proj=ortho"])
def test_pixels_off_the_globe_are_found_before_the_work(segmenter, scene, write, tmp_path, crs):
    path = write(scene(), crs=crs, transform=rasterio.Affine(200_000, 0, -21e6, 0, -200_000, 15e6))
    with pytest.raises(ImageError, match=r"no longitude and latitude .* leave out the polygons, or warp it"):
        features_of(segmenter, path, tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_failure_at_the_end_keeps_what_is_done_and_can_be_repeated(segmenter, scene, write, tmp_path, monkeypatch):
    path, out, polygons = write(scene(), **UTM), tmp_path / "o.tif", tmp_path / "p.geojson"
    arguments = {"labels": WORDS, "output": out, "polygons": polygons}
    with monkeypatch.context() as patch:
        patch.setattr("clearclip.large.label.write_polygons", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment_large(segmenter, path, **arguments)
    done = out.read_bytes()
    encode = monkeypatch.setattr("clearclip.large.label._Work._encode", lambda *_: 1 / 0)
    assert encode is None
    assert segment_large(segmenter, path, **arguments).polygons == len(json.loads(polygons.read_text())["features"])
    assert out.read_bytes() == done
    assert sorted(tmp_path.iterdir()) == sorted([path, out, polygons])


def test_going_on_replaces_no_result_of_another_run(segmenter, scene, write, tmp_path, monkeypatch):
    path, out, polygons = write(scene(), **UTM), tmp_path / "o.tif", tmp_path / "p.geojson"
    segment_large(segmenter, path, labels=["sky", "sea"], output=tmp_path / "x.tif", polygons=polygons)
    with monkeypatch.context() as patch:
        patch.setattr("clearclip.large.label.write_polygons", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment_large(segmenter, path, labels=WORDS, output=out, polygons=tmp_path / "new.geojson")
    with pytest.raises(UsageError, match=r"p\.geojson is there already"):
        segment_large(segmenter, path, labels=WORDS, output=out, polygons=polygons)


def test_rpcs_are_kept(segmenter, scene, write, tmp_path):
    numbers = [0.0] * 20
    rpcs = rasterio.rpc.RPC(
        height_off=100, height_scale=500, lat_off=50, lat_scale=1, long_off=10, long_scale=1, line_off=75,
        line_scale=75, samp_off=105, samp_scale=105, line_num_coeff=[0, 0, 1, *numbers[3:]],
        line_den_coeff=[1, *numbers[1:]], samp_num_coeff=[0, 1, *numbers[2:]], samp_den_coeff=[1, *numbers[1:]],
    )  # fmt: skip
    path = write(scene(), rpcs=rpcs)
    with pytest.warns(UserWarning, match="control points or RPCs alone: its polygons are in pixels"):
        features_of(segmenter, path, tmp_path)
    with rasterio.open(tmp_path / "o.tif") as made:
        found, wanted = made.rpcs.to_dict(), rpcs.to_dict()
    assert {key: found[key] for key in wanted if not key.startswith("err_")} == {
        key: value for key, value in wanted.items() if not key.startswith("err_")
    }


def test_geolocation_arrays_are_said_to_be_lost(segmenter, scene, write, tmp_path):
    path = write(scene())
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="GEOLOCATION", X_DATASET="x.tif", X_BAND="1", Y_DATASET="y.tif", Y_BAND="1")
    with pytest.warns(UserWarning, match="geolocation arrays, which no result holds: the labels lie in pixels"):
        labels_of(segmenter, path, tmp_path)


def test_pages_of_a_tiff_are_named_and_taken(segmenter, tmp_path):
    path = tmp_path / "pages.tif"
    pages = [Image.fromarray(make_scene(index, size=(40, 56)).image) for index in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with (
        pytest.warns(UserWarning, match=f"has 2 pages, the first is labelled: .*GTIFF_DIR:2:{path}"),
        open_raster(path) as raster,
    ):
        assert np.array_equal(raster.read(0, 40)[0], np.asarray(pages[0]))
    with open_raster(f"GTIFF_DIR:2:{path}") as raster:
        assert np.array_equal(raster.read(0, 40)[0], np.asarray(pages[1]))
    for wrong in (f"GTIFF_DIR:3:{path}", f"GTIFF_DIR:1:{tmp_path}", f"GTIFF_DIR:1:{tmp_path}/absent.tif"):
        with pytest.raises((ImageError, OSError)), open_raster(wrong):
            pass


def test_the_first_frame_of_an_animation_is_labelled(segmenter, scene, tmp_path):
    frames = [Image.fromarray(scene(index=index)).quantize(64) for index in range(3)]
    frames[0].save(tmp_path / "still.gif")
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    segment_large(segmenter, tmp_path / "still.gif", labels=WORDS, output=tmp_path / "still.tif")
    with pytest.warns(UserWarning, match="has 3 frames, the first is labelled: save others"):
        segment_large(segmenter, tmp_path / "moving.gif", labels=WORDS, output=tmp_path / "moving.tif")
    np.testing.assert_array_equal(read(tmp_path / "moving.tif"), read(tmp_path / "still.tif"))


def test_rasters_within_a_file_are_named_with_their_driver(write, tmp_path):
    with rasterio.Env() as environment:
        if "netCDF" not in environment.drivers():
            pytest.skip("this GDAL reads no netCDF")
    path = tmp_path / "a.nc"
    rasterio.shutil.copy(write(np.zeros((4, 5, 2), np.uint8)), path, driver="netCDF")
    with pytest.raises(ImageError, match=r"--driver NAME.*netCDF"), open_raster(path):
        pass
    with pytest.raises(ImageError, match="opened with --driver netCDF"), open_raster(f"NETCDF:{path}:Band1"):
        pass
    with (
        pytest.raises(UsageError, match=r"name one of netcdf:.*:Band2.* --driver netCDF"),
        open_raster(path, driver="netCDF"),
    ):
        pass
    with open_raster(f"NETCDF:{path}:Band2", driver="netCDF") as raster:
        assert raster.size == (4, 5)


def test_not_a_number_is_nodata(segmenter, scene, write, tmp_path):
    values = scene().astype(np.float32)
    values[20:40, 30:50, 1] = np.nan
    path = write(values, photometric="minisblack")
    found = labels_of(segmenter, path, tmp_path, value_range=(0, 255))
    assert np.array_equal(found == 255, np.isnan(values).any(axis=-1))


def test_grey_and_palette_images(segmenter, scene, write, tmp_path):
    image = scene()
    grey = image[..., 0]
    assert np.array_equal(
        labels_of(segmenter, write(grey), tmp_path), labels_of(segmenter, write(np.dstack([grey] * 3)), tmp_path)
    )
    indices = (grey // 64).astype(np.uint8)
    colors = np.array([[10, 200, 30], [40, 50, 60], [70, 80, 190], [255, 255, 0]], np.uint8)
    path = write(indices)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {index: (*color, 255) for index, color in enumerate(colors.tolist())})
    expected = labels_of(segmenter, write(colors[indices], "colors.tif"), tmp_path)
    assert np.array_equal(labels_of(segmenter, path, tmp_path), expected)


@pytest.mark.parametrize("driver", ["JPEG", "PNG"])
def test_pictures_without_coordinates(segmenter, scene, write, tmp_path, driver):
    path = write(scene(), f"photo.{driver.lower()}", driver=driver)
    out = tmp_path / "out.tif"
    segment_large(segmenter, path, labels=WORDS, output=out)
    assert np.array_equal(
        read(out), labels_of(segmenter, write(np.moveaxis(rasterio.open(path).read(), 0, -1)), tmp_path)
    )
    with rasterio.open(out) as dataset:
        assert dataset.crs is None
        assert dataset.transform.is_identity


def test_pages_that_are_not_labelled_are_named_and_overviews_are_none(segmenter, scene, write, tmp_path):
    page = Image.fromarray(scene())
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    with pytest.warns(UserWarning, match=r"pages\.tif has 3 pages, the first is labelled"):
        segment_large(segmenter, tmp_path / "pages.tif", labels=WORDS, output=tmp_path / "out.tif")
    path = write(scene(300, 400), "overviews.tif")
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4])
    segment_large(segmenter, path, labels=WORDS, output=tmp_path / "more.tif")


def test_photographs_stored_lying_down_are_named(segmenter, scene, tmp_path):
    from PIL import Image

    photo, exif = Image.fromarray(scene()), Image.Exif()
    exif[274] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    with pytest.warns(UserWarning, match="is stored lying down"):
        labels_of(segmenter, tmp_path / "photo.jpg", tmp_path)


def test_many_labels_need_sixteen_bits(segmenter, scene, write, tmp_path):
    out = tmp_path / "out.tif"
    names = [f"word {index}" for index in range(300)]
    segment_large(segmenter, write(scene(40, 50)), labels=names, output=out)
    with rasterio.open(out) as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint16",), 65535)
        assert dataset.read(1).max() < 300


@pytest.mark.parametrize("located", [True, False])
def test_polygons_cover_their_labels(segmenter, scene, write, tmp_path, located):
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    image = np.maximum(scene(), 1)
    image[:30, :40] = 0
    path, out, polygons = write(image, nodata=0, **(UTM if located else {})), tmp_path / "o.tif", tmp_path / "o.geojson"
    result = segment_large(segmenter, path, labels=WORDS, output=out, polygons=polygons)
    document = json.loads(polygons.read_text(encoding="utf-8"))
    assert len(document["features"]) == result.polygons > 1
    assert document["info"]["method"] == "clearclip"
    shapes = []
    for feature in document["features"]:
        geometry = feature["geometry"]
        if located:
            longitude, latitude = geometry["coordinates"][0][0]
            assert 13 < longitude < 15
            assert 50 < latitude < 52
            geometry = transform_geom("OGC:CRS84", UTM["crs"], geometry)
        outer = np.array(geometry["coordinates"][0])
        area = (outer[:-1, 0] * outer[1:, 1] - outer[1:, 0] * outer[:-1, 1]).sum()
        assert area > 0  # against the clock, as RFC 7946 says
        assert (
            feature["properties"]["label"]
            == ("sky", "grass", "tree", "car", "house", "road")[feature["properties"]["index"]]
        )
        shapes.append((geometry, feature["properties"]["index"]))
    label_map = read(out)
    transform = UTM["transform"] if located else rasterio.Affine.identity()
    drawn = rasterize(shapes, out_shape=label_map.shape, transform=transform, fill=255, dtype="uint8")
    assert np.array_equal(drawn, label_map)


def test_what_cannot_be_read_or_used_is_said(segmenter, scene, write, tmp_path):
    path, out = write(scene()), tmp_path / "out.tif"
    truncated = tmp_path / "truncated.tif"
    truncated.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("no image", encoding="utf-8")
    for image, reason in (
        ("missing.tif", "there is no such file"),
        ("empty.tif", "the file is empty"),
        ("text.tif", "cannot be read"),
        ("truncated.tif", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason):
            segment_large(segmenter, tmp_path / image, labels=WORDS, output=out)
    for options, reason in (
        ({"scale": 0}, "scale=0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"block": 100}, "multiple of 16"),
        ({"output": tmp_path / "out.png"}, "suffix of the output is .tif"),
        ({"output": path, "overwrite": True}, "is the image itself"),
        ({"scores": out}, "two results"),
        ({"polygons": tmp_path / "out.shp"}, "suffix of the polygons is .geojson"),
        ({"value_range": (9, 9)}, "the smaller first"),
        ({"labels": []}, "no labels"),
    ):
        with pytest.raises(UsageError, match=reason):
            segment_large(segmenter, path, **{"labels": WORDS, "output": out, **options})
    assert not out.exists()
    assert not list(tmp_path.glob(".clearclip-*"))
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="is there already"):
        segment_large(segmenter, path, labels=WORDS, output=out)
    assert out.read_bytes() == b"precious"


def test_an_interruption_leaves_what_was_there(segmenter, scene, write, tmp_path, monkeypatch):
    out, scores = tmp_path / "out.tif", tmp_path / "scores.tif"
    image, options = write(scene()), {"labels": WORDS, "block": 32, "overwrite": True}
    segment_large(segmenter, image, output=out, **options)
    earlier = out.read_bytes()
    calls = []

    def interrupt(self, grid, **_):
        calls.append(grid)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return label(self, grid, **_)

    label = Words.label
    monkeypatch.setattr("clearclip.large.label.Words.label", interrupt)
    with pytest.raises(KeyboardInterrupt):
        segment_large(segmenter, image, output=out, scores=scores, scale=0.5, **options)
    assert out.read_bytes() == earlier
    assert not scores.exists()
    assert not list(tmp_path.glob(".clearclip-*"))


def test_an_interrupted_run_goes_on_where_it_was(segmenter, scene, write, tmp_path, monkeypatch):
    image = write(scene(150, 100), **UTM)
    calls = []

    def counted(self, grid, **options):
        calls.append(grid)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return label(self, grid, **options)

    def call(name, **options):
        calls.clear()
        targets = {"output": tmp_path / name / "out.tif", "scores": tmp_path / name / "scores.tif"}
        result = segment_large(segmenter, image, **{"labels": WORDS, "block": 32, **targets, **options})
        return result, [file.read_bytes() for file in targets.values()]

    label, stop = Words.label, None
    monkeypatch.setattr("clearclip.large.label.Words.label", counted)
    whole, files = call("whole")
    assert len(calls) == 20
    stop = 11
    with pytest.raises(KeyboardInterrupt):
        call("stopped")
    unfinished = tmp_path / "stopped" / "out.tif.unfinished"
    assert len(list(unfinished.glob("*.band"))) == 2
    stop = None
    assert call("stopped") == (whole, files)
    assert len(calls) == 12
    assert not unfinished.exists()
    stop = 11
    with pytest.raises(KeyboardInterrupt):
        call("other")
    stop = None
    with pytest.raises(
        UsageError, match=r'other settings made \(labels: .*"name": "sky".* there, .* here\): start with'
    ):
        call("other", labels=["sky", "grass"])
    assert calls == []
    call("other", labels=["sky", "grass"], overwrite=True)
    assert len(calls) == 20, "bands of other words must not be taken"


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np
from clearclip.large.geotiff import create_geotiff
from clearclip.large.image import open_raster
from pathlib import Path
source, out = map(Path, sys.argv[1:])
noise = np.random.default_rng(0).integers(0, 250, (512, 512), dtype=np.uint8)
with open_raster(source) as raster:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        with create_geotiff(out, like=raster, dtype="uint8", nodata=255, block=128, tags={}) as target:
            for top in range(0, 512, 128):
                target.write(noise[top : top + 128], 1, window=((top, top + 128), (0, 512)))
    except OSError as error:
        print("OSError", error)
print(out.exists())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_leaves_no_file(write, tmp_path):
    source = write(np.zeros((512, 512, 3), np.uint8), compress="deflate")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, source, tmp_path / "out.tif"], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("OSError"), done.stderr
    assert done.stdout.split()[-1] == "False"


def test_the_command(run, scene, write, tmp_path, clip_folder):
    path, out, polygons = write(scene(), **UTM), tmp_path / "out.tif", tmp_path / "out.geojson"
    words = ("-l", "sky", "-l", "grass", "--model", clip_folder, "--template", "a photo of a {}.")
    ran = run("large", path, "-o", out, *words, "--scale", 0.5, "--polygons", polygons)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("211×150 pixels, 6 of 6 windows → ")
    assert f"polygons → {polygons}" in ran.out
    answer = run("large", path, "-o", out, *words, "--overwrite", "--bands", "3,2,1", "--range", "0:200", "--json")
    assert json.loads(answer.out)["size"] == [150, 211]
    with rasterio.open(out) as dataset:
        assert (dataset.tags()["bands"], dataset.tags()["range"]) == ("3,2,1", "0 to 200")
    for options, reason in (
        ((), "is there already"),
        (("--overwrite", "--bands", "a,b"), "--bands a,b: numbers"),
        (("--overwrite", "--range", "5"), "two numbers as LOW:HIGH"),
    ):
        refused = run("large", path, "-o", out, *words, *options)
        assert refused.code == 2
        assert reason in refused.err
        assert refused.err.count("\n") == 1


def test_without_rasterio_the_command_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    ran = run("large", tmp_path / "photo.tif", "-o", tmp_path / "out.tif", "-l", "sky", "--model", "tiny")
    assert ran.code == 2
    assert 'python -m pip install "rasterio>=1.4"' in ran.err
