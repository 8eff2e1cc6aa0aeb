"""Refinements: exact in chunks, plain references, on every road to labels, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
from clearclip.classify import refine
from clearclip.classify.grid import LogitGrid
from clearclip.errors import UsageError
from clearclip.protocol import Protocol

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
PROTOCOL = Protocol(short_side=32, long_side=2048, crop_size=32, stride=16)
WORDS = [f"word {index}" for index in range(25)]
PAMR, TLP = "naclip[refine=pamr:3:1+4]", "pearl[refine=tlp:12:5]"


@pytest.fixture
def load(backbone):
    def call(method, protocol=PROTOCOL):
        return clearclip.Segmenter(
            backbone, method=method, protocol=protocol, templates="a {}", cache=False, device="cpu", dtype="float32"
        )

    return call


def noise(height, width):
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pamr_by_hand(image, logits, steps, dilations):
    """Pixel by pixel."""
    _, height, width = image.shape
    places = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def at(y, x):
        return min(max(y, 0), height - 1), min(max(x, 0), width - 1)

    weights = {}
    for y, x in itertools.product(range(height), range(width)):
        around = [at(y + step * dy, x + step * dx) for step in dilations for dy, dx in places]
        others = [at(y + step * dy, x + step * dx) for step in dilations for dy, dx in places if (dy, dx) != (0, 0)]
        deviation = torch.stack([image[:, b, a] for b, a in around]).std(dim=0)
        near = [-((image[:, y, x] - image[:, b, a]).abs() / (1e-8 + 0.1 * deviation)).mean() for b, a in others]
        weights[y, x] = others, torch.stack(near).softmax(dim=0)
    for _ in range(steps):
        before = logits
        logits = torch.empty_like(before)
        for (y, x), (others, shares) in weights.items():
            logits[:, y, x] = sum(share * before[:, b, a] for share, (b, a) in zip(shares, others, strict=True))
    return logits


def test_pamr_by_hand():
    generator = torch.Generator().manual_seed(1)
    image, logits = torch.randn(3, 7, 5, generator=generator), torch.randn(2, 7, 5, generator=generator)
    found = refine.pamr(image, logits, steps=2, dilations=[1, 6])  # farther than the image is wide
    torch.testing.assert_close(found, pamr_by_hand(image, logits, 2, [1, 6]))


@pytest.mark.parametrize("pixels", [1, 4000, 1 << 22])
def test_pamr_in_chunks_is_exact(load, monkeypatch, pixels):
    monkeypatch.setattr(refine, "PIXELS", pixels)
    grid = load(PAMR)(noise(40, 57), WORDS)._grid
    plain = refine.pamr(refine.at_size(grid.guide, (40, 57)), LogitGrid.logits(grid), steps=3, dilations=[1, 4])
    torch.testing.assert_close(grid.logits(), plain)
    probabilities = (50 * plain).softmax(dim=0)
    winners, best = grid.best(logit_scale=50)
    assert torch.equal(winners, plain.argmax(dim=0))
    torch.testing.assert_close(best, probabilities.amax(dim=0))
    torch.testing.assert_close(grid.normalizer(logit_scale=50), (50 * plain).logsumexp(dim=0))
    torch.testing.assert_close(grid.probability([3, 8], logit_scale=50), probabilities[[3, 8]].amax(dim=0))
    assert not grid.probability([], logit_scale=50).any()
    for y, x in ((0, 0), (20, 30), (39, 56)):
        torch.testing.assert_close(grid.ranking(y, x, logit_scale=50), probabilities[:, y, x])


def test_the_propagation_goes_towards_the_solution():
    """Many steps solve `D f + Σ e (f − f_neighbour) = D Λ`, written out as a matrix."""
    generator = torch.Generator().manual_seed(1)
    logits, image = torch.randn(3, 5, 6, generator=generator), torch.randn(3, 5, 6, generator=generator)
    affinity = refine.own_affinity(torch.randn(3, 8, generator=generator))
    shares = logits.softmax(dim=0)
    data = shares.amax(dim=0).clamp(min=0.05).square() * (1 + refine.agreement(shares, affinity))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    matrix = torch.diag(data.flatten())
    index = torch.arange(30).view(5, 6)
    for dim in (0, 1):
        edges = refine.edge_weights(grey, shares, affinity, dim=dim)
        here, there = index.narrow(dim, 0, index.shape[dim] - 1), index.narrow(dim, 1, index.shape[dim] - 1)
        for a, b, weight in zip(here.flatten(), there.flatten(), edges.flatten(), strict=True):
            matrix[a, a] += weight
            matrix[b, b] += weight
            matrix[a, b] -= weight
            matrix[b, a] -= weight
    expected = torch.linalg.solve(matrix, (data * logits).flatten(1).T).T.unflatten(1, (5, 6))
    found = refine.propagate(logits, image, affinity, steps=300)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (refine.propagate(logits, image, affinity, steps=2) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("method", [PAMR, TLP])
@pytest.mark.parametrize("size", [(48, 80), (33, 32), (90, 9), (2, 2)])
def test_every_size_has_labels_and_scores(load, method, size):
    found = load(method)(noise(*size), WORDS)
    assert found.label_map.shape == size
    assert np.isfinite(found.scores).all()
    assert 0 <= found.scores.min() <= found.scores.max() <= 1 + 1e-6
    assert found.info["method"] == method
    assert found.ranking(0, 0)[0][0] == found.labels[found.label_map[0, 0]]


def test_flat_images(load):
    for method in (PAMR, TLP):
        found = load(method)(np.full((40, 40, 3), 9, np.uint8), ["one", "two"])
        assert np.isfinite(found.scores).all()


def test_refined_and_plain_rows_in_one_pass(load):
    segmenter, rows = load("naclip"), ["naclip", PAMR, "naclip[refine=tlp:12]"]
    encoded = segmenter.encode(noise(48, 64), method=rows)
    assert encoded.encoder_passes == 1
    found = segmenter.classify(encoded, WORDS, method=rows)
    assert list(found) == ["naclip", PAMR, "naclip[refine=tlp:12:25]"]
    assert len({one.label_map.tobytes() for one in found.values()}) == 3
    assert np.array_equal(found["naclip"].label_map, load("naclip")(noise(48, 64), WORDS).label_map)


@pytest.mark.parametrize("method", [PAMR, TLP])
def test_refined_folders(load, tmp_path, method):
    Image.fromarray(noise(40, 56)).save(tmp_path / "image.png")
    segmenter = load(method)
    clearclip.segment_files(segmenter, [tmp_path / "image.png"], labels=WORDS, output=tmp_path / "folder")
    found = np.asarray(Image.open(tmp_path / "folder" / "image.png"))
    assert np.array_equal(found, segmenter(noise(40, 56), WORDS).label_map)


@pytest.mark.parametrize(
    "refinement", ["pamr", "pamr:10", "pamr:0:8", "pamr:10:0", "pamr:10:8-16", "tlp", "tlp:0", "tlp:80:25:1", "crf"]
)
def test_what_cannot_be_read_is_refused(refinement):
    with pytest.raises(UsageError, match=r"as in pamr:10:8\+16"):
        clearclip.parse_method(f"naclip[refine={refinement}]")


def test_refinement_with_rules_of_what_competes(load):
    """A word that is left out wins nowhere; FreeCP's own maps are no logits."""
    segmenter = load(PAMR)
    words = segmenter.prepare(WORDS, presence="weak")
    found = segmenter(noise(40, 57), words)
    left = [index for index, verdict in enumerate(found._words.verdicts) if verdict.competed]
    assert set(np.unique(found.label_map)) <= set(left)
    with pytest.raises(UsageError, match="is for logits, and presence=freecp"):
        segmenter(noise(40, 57), segmenter.prepare(WORDS, presence="freecp"))
    filtered = segmenter(noise(40, 57), segmenter.prepare(WORDS, presence="freecp-filter"))
    assert np.isfinite(filtered.scores).all()


@pytest.mark.parametrize("size", [(64, 48), (90, 70)])
@pytest.mark.parametrize("block", [16, 48])
@pytest.mark.parametrize("scale", [1, 0.6, 1.5])
def test_large_images_have_no_seams(load, tmp_path, size, block, scale):
    rasterio = pytest.importorskip("rasterio")
    segmenter = load("naclip[refine=pamr:2:1+3]", Protocol(round(scale * min(size)), 2048, 32, 16))
    Image.fromarray(noise(*size)).save(tmp_path / "image.png")
    files = {"output": tmp_path / "a.tif", "scores": tmp_path / "b.tif"}
    clearclip.segment_large(segmenter, tmp_path / "image.png", labels=WORDS, block=block, scale=scale, **files)
    whole = segmenter(noise(*size), WORDS)
    with rasterio.open(files["scores"]) as dataset:
        found = dataset.read(1)
    if scale == 1:  # else levels are rounded another way in large
        np.testing.assert_allclose(found, whole.scores, atol=1e-5)
    with rasterio.open(files["output"]) as dataset:
        labels = dataset.read(1)
    one = {"output": tmp_path / "c.tif", "scores": tmp_path / "d.tif"}
    clearclip.segment_large(segmenter, tmp_path / "image.png", labels=WORDS, block=256, scale=scale, **one)
    with rasterio.open(one["scores"]) as dataset:
        np.testing.assert_allclose(found, dataset.read(1), atol=1e-5)
    with rasterio.open(one["output"]) as dataset:
        assert (labels == dataset.read(1)).mean() > 0.999


def test_what_solves_over_the_whole_picture_is_refused_in_parts(load, tmp_path):
    Image.fromarray(noise(40, 56)).save(tmp_path / "image.png")
    with pytest.raises(UsageError, match="looks at the whole image at once"):
        clearclip.segment_large(load(TLP), tmp_path / "image.png", labels=WORDS, output=tmp_path / "a.tif")


@pytest.mark.parametrize("method", [PAMR, TLP])
def test_refined_videos(load, tmp_path, method):
    av = pytest.importorskip("av")
    image = noise(40, 56)
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "bgr0"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    segmenter, place = load(method), {"output": tmp_path / "out.mp4", "masks": True}
    clearclip.segment_video(segmenter, tmp_path / "film.mkv", labels=WORDS, smooth=0.5, **place)
    for frame in ("000000", "000001"):
        found = np.asarray(Image.open(tmp_path / "out-masks" / f"{frame}.png"))
        assert (found == segmenter(image, WORDS).label_map).mean() > 0.999
