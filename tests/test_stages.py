"""Stages of the flow: one per window with pixels and words, one on stitched features, on every road to labels."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import clearclip
from clearclip.classify import maps
from clearclip.encode import stitch
from clearclip.errors import UsageError
from clearclip.protocol import Protocol

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
PATCH = 8
WORDS = ["bright", "dark", "neither"]
PROTOCOL = Protocol(short_side=32, long_side=2048, crop_size=32, stride=16)
BY_PIXELS = "vanilla[window=by-pixels]"


@pytest.fixture(autouse=True)
def stages(registered):
    """Registered for one test: `registered` in conftest takes them back."""

    @maps.window("by-pixels")
    def by_pixels(window):
        """The first word where a patch is brighter than the mean colour, the second where it is darker."""
        assert window.features.shape[:2] == window.cosines.shape[:2]
        light = F.avg_pool2d(window.pixels.mean(dim=0)[None], PATCH)[0].sign()
        chosen = torch.full_like(window.cosines, -1.0)
        chosen[..., window.words.vocabulary.index("bright")] = light
        chosen[..., window.words.vocabulary.index("dark")] = -light
        return chosen

    @stitch.stitched("from-the-left", halo=1)
    def from_the_left(features, backbone):
        """Every cell takes its left neighbour's features, and its upper one's."""
        left = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        return torch.cat([left[:1], left[:-1]])

    @stitch.stitched("all", halo=None)
    def all_of_it(features, backbone):
        return features - features.mean(dim=(0, 1))


@pytest.fixture
def load(backbone):
    def call(method, protocol=PROTOCOL):
        return clearclip.Segmenter(
            backbone, method=method, protocol=protocol, templates="a {}", cache=False, device="cpu", dtype="float32"
        )

    return call


@pytest.fixture
def checked():
    """An image of bright and dark columns of patches, and which label the stage gives each pixel."""
    columns = np.array([0, 1, 1, 0, 1, 0, 0, 1], bool)  # stripes: bilinear interpolation would round corners
    pixels = np.kron(columns[None], np.ones((4 * PATCH, PATCH), bool))
    return np.where(pixels[..., None], np.uint8(250), np.uint8(5)).repeat(3, axis=2), np.where(pixels, 0, 1)


def test_a_window_stage_sees_pixels_and_words(load, checked):
    image, expected = checked
    segmenter = load(BY_PIXELS)
    whole = segmenter(image, WORDS)
    assert np.array_equal(whole.label_map, expected)
    assert whole.info["method"] == "vanilla[window=by-pixels]"
    encoded = segmenter.encode(image, method=["clearclip", BY_PIXELS])
    found = segmenter.classify(encoded, ["neither", "dark", "bright"], method=["clearclip", BY_PIXELS])
    assert np.array_equal(found[BY_PIXELS].label_map, 2 - expected)
    assert not np.array_equal(found["clearclip"].label_map, 2 - expected)


def test_a_window_stage_in_folders_videos_and_large_images(load, checked, tmp_path):
    image, expected = checked
    segmenter = load(BY_PIXELS)
    Image.fromarray(image).save(tmp_path / "image.png")
    clearclip.segment_files(segmenter, [tmp_path / "image.png"], labels=WORDS, output=tmp_path / "folder")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / "image.png")), expected)
    rasterio = pytest.importorskip("rasterio")
    clearclip.segment_large(segmenter, tmp_path / "image.png", labels=WORDS, output=tmp_path / "a.tif", block=16)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.read(1), expected)


def test_a_window_stage_in_videos(load, checked, tmp_path):
    av = pytest.importorskip("av")
    image, expected = checked
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    film = tmp_path / "film.mkv"
    clearclip.segment_video(load(BY_PIXELS), film, labels=WORDS, output=tmp_path / "out.mp4", masks=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out-masks" / "000000.png")), expected)


def noise(height, width):
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_stitched_features_of_one_window_are_compared_as_ever(load):
    image = noise(32, 32)
    usual, stitched = load("clearclip")(image, WORDS), load("clearclip[stitched=mean]")(image, WORDS)
    torch.testing.assert_close(stitched._grid.cosines, usual._grid.cosines)
    assert np.array_equal(stitched.label_map, usual.label_map)


def test_stitched_features_are_the_mean_over_windows_before_the_projection(load, backbone):
    """Windows at 0 and 16 of 48 columns, their features before `ln_post` written out."""
    image, row = noise(32, 48), clearclip.parse_method("clearclip[stitched=mean]")
    segmenter = load(row)
    encoded = segmenter.encode(image)
    assert encoded.plan.x.starts == (0, 16)
    stream = clearclip.dense_features(backbone, encoded.windows, method="clearclip", parts=True).sum
    total, count = torch.zeros(4, 6, stream.shape[-1]), torch.zeros(6, 1)
    for window, left in zip(stream, (0, 2), strict=True):
        total[:, left : left + 4] += window
        count[left : left + 4] += 1
    features = F.normalize(backbone.head((total / count).flatten(0, 1)[None])[0], dim=-1).unflatten(0, (4, 6))
    found = segmenter.classify(encoded, WORDS)._grid
    torch.testing.assert_close(found.cosines, (features @ segmenter.embed(WORDS).T).permute(2, 0, 1))
    assert (found.plan.count, found.size) == (1, (32, 48))


@pytest.mark.parametrize("size", [(32, 48), (37, 61), (75, 33), (3, 5)])
@pytest.mark.parametrize("protocol", [PROTOCOL, Protocol(40, 2048, 28, 13), Protocol(40, 64, 0, 16, remainder="drop")])
def test_every_cell_of_the_image_gets_features(load, size, protocol):
    found = load("clearclip[stitched=mean]", protocol)(noise(*size), WORDS)
    assert found.scores.shape == size
    assert np.isfinite(found.scores).all()


def test_a_stitched_stage_changes_the_image_s_features(load):
    image = noise(48, 80)
    still, moved = (load(f"clearclip[stitched={name}]")(image, WORDS)._grid for name in ("mean", "from-the-left"))
    torch.testing.assert_close(moved.cosines[:, 1:, 1:], still.cosines[:, :-1, :-1])
    torch.testing.assert_close(moved.cosines[:, 0, 0], still.cosines[:, 0, 0])
    assert not torch.equal(moved.cosines, still.cosines)


@pytest.mark.parametrize("method", ["clearclip[stitched=mean]", "clearclip[stitched=from-the-left]"])
@pytest.mark.parametrize("size", [(64, 48), (90, 70)])
@pytest.mark.parametrize("block", [16, 48])
def test_large_images_with_the_halo_equal_the_whole(load, tmp_path, method, size, block):
    rasterio = pytest.importorskip("rasterio")
    image = noise(*size)
    segmenter = load(method, Protocol(min(size), 2048, 32, 16))
    whole = segmenter(image, WORDS)
    Image.fromarray(image).save(tmp_path / "image.png")
    files = {"output": tmp_path / "a.tif", "scores": tmp_path / "b.tif"}
    clearclip.segment_large(segmenter, tmp_path / "image.png", labels=WORDS, block=block, **files)
    with rasterio.open(files["scores"]) as dataset:
        np.testing.assert_allclose(dataset.read(1), whole.scores, atol=1e-5)
    with rasterio.open(files["output"]) as dataset:
        assert (dataset.read(1) == whole.label_map).mean() > 0.999


def test_what_does_not_fit_is_refused(load, backbone, tmp_path):
    Image.fromarray(noise(40, 40)).save(tmp_path / "image.png")
    with pytest.raises(UsageError, match="looks at the whole image at once"):
        clearclip.segment_large(
            load("clearclip[stitched=all]"), tmp_path / "image.png", labels=WORDS, output=tmp_path / "a.tif"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]
    with pytest.raises(UsageError, match="use a Segmenter instead"):
        clearclip.dense_features(backbone, torch.zeros(1, 3, 32, 32), method="clearclip[stitched=mean]")
    with pytest.raises(UsageError, match="window=by-pixels with stitched=mean makes no sense"):
        clearclip.parse_method("clearclip[window=by-pixels,stitched=mean]")
    with pytest.raises(UsageError, match="window='by-pixel' is not known: did you mean 'by-pixels'"):
        clearclip.parse_method("clearclip[window=by-pixel]")


def test_stages_leave_the_other_rows_alone(load):
    segmenter, image = load("clearclip"), noise(32, 48)
    alone = segmenter(image, WORDS)
    rows = ["clearclip", "clearclip[stitched=mean]", "clearclip[stitched=all]", "clearclip[window=by-pixels]"]
    encoded = segmenter.encode(image, method=rows)
    assert encoded.encoder_passes == 1
    found = segmenter.classify(encoded, WORDS, method=rows)
    assert torch.equal(found["clearclip"]._grid.cosines, alone._grid.cosines)
    maps_of = [found[row]._grid.cosines for row in rows]
    assert not any(one.shape == other.shape and torch.equal(one, other) for one, other in itertools.pairwise(maps_of))
    assert encoded.encoder_passes == 1


def test_prepared_words_tell_their_own_prompts(load, tmp_path):
    """What a result says of itself decides what an interrupted run goes on from."""
    rasterio, segmenter = pytest.importorskip("rasterio"), load("clearclip")
    Image.fromarray(noise(32, 48)).save(tmp_path / "image.png")
    words = segmenter.prepare(WORDS, templates="a drawing of a {}.")
    for name, labels in (("own", words), ("usual", WORDS)):
        clearclip.segment_large(segmenter, tmp_path / "image.png", labels=labels, output=tmp_path / f"{name}.tif")
    told = {}
    for name in ("own", "usual"):
        with rasterio.open(tmp_path / f"{name}.tif") as dataset:
            told[name] = str(dataset.tags())
    assert "a drawing of a {}." in told["own"]
    assert "a drawing" not in told["usual"]
