"""Rows after ClearCLIP on other models than the golden files': plain references, number formats, odd images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import clearclip
import tiny_models
from clearclip.errors import UsageError
from clearclip.protocol import Protocol

TEN = {"layers": 10, "width": 72, "head_width": 24, "patch_size": 14, "image_size": 98}
GIVEN = "scclip[pre=6,post=2,start=2,end=7,omega=0.1,beta=0.3,k=20,share=0.1]"


@pytest.fixture(scope="module")
def ten_blocks():
    """Three heads, patches of 14 pixels, a grid of 7 × 7."""
    return tiny_models.open_clip_model(vision=TEN, seed=8)


def make_images(height, width, count=1, seed=3):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


class Plain:
    """An open_clip model's blocks, one image at a time, as the texts have them."""

    def __init__(self, model, image, grid_size, heads, positions="model"):
        self.heads, self.grid_size, visual = heads, grid_size, model.visual
        self.blocks, self.visual = visual.transformer.resblocks, visual
        with torch.no_grad():
            tokens = clearclip.view(model).embed(image, positions)
            self.inputs = [tokens[0]]
            for block in self.blocks[:-1]:
                tokens = block(tokens)
                self.inputs.append(tokens[0])

    def output(self, block):
        return self.inputs[block + 1]

    def qkv(self, tokens, block=-1):
        layer = self.blocks[block]
        packed = F.linear(layer.ln_1(tokens), layer.attn.in_proj_weight, layer.attn.in_proj_bias)
        return (part.unflatten(-1, (self.heads, -1)).transpose(0, 1) for part in packed.chunk(3, dim=-1))

    def out(self, attention, v):
        return self.blocks[-1].attn.out_proj((attention @ v).transpose(0, 1).flatten(1))

    def head(self, tokens):
        return self.visual.ln_post(tokens) @ self.visual.proj


def scclip_by_hand(plain, *, pre, post, start, end, omega, beta, k, share):
    """SC-CLIP's 3.1 to 3.7, token by token."""
    class_token, tokens = plain.inputs[-1][:1], plain.inputs[-1][1:]
    count, (height, width) = len(tokens), plain.grid_size
    near, reach = [], []
    for own in tokens:
        distances = (tokens - own).square().sum(dim=1).sort()
        near.append(distances.indices[1 : k + 1])
        reach.append(distances.values[k])
    scores = torch.stack([torch.stack([reach[i] / reach[j] for j in near[i]]).mean() for i in range(count)])
    outliers = (scores > scores.quantile(1 - share)).nonzero()[:, 0].tolist()

    def mended(patches):
        result = patches.clone()
        for index in outliers:
            row, column = divmod(index, width)
            around = [
                (row + down) * width + column + right
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if 0 <= row + down < height and 0 <= column + right < width
            ]
            sound = [other for other in around if other not in outliers]
            if sound:
                result[index] = patches[sound].mean(dim=0)
        return result

    def pooling(cosines):
        weights = torch.where(cosines < beta, 0.0, cosines)
        return weights / (weights.sum(dim=1, keepdim=True) + 1e-6)

    middle, late = (F.normalize(part, dim=1) for part in (mended(plain.output(pre)[1:]), plain.output(post)[1:]))
    similar, after = middle @ middle.T, pooling(late @ late.T)
    logits = 3 * (similar - similar.mean())
    shared = torch.where(logits < 0, -torch.inf, logits).softmax(dim=1)

    def through(patches, own_class):
        _, key, value = plain.qkv(patches)
        attention = (shared + (key @ key.mT * key.shape[-1] ** -0.5).softmax(dim=-1)) / 2
        return after @ (plain.out(attention, value) + omega * own_class)

    total = sum(plain.output(block) for block in range(start, end))
    first = through(pooling(similar) @ mended(tokens), class_token)
    return plain.head(first + through(total[1:], total[:1])), outliers


@pytest.mark.parametrize(("height", "width"), [(98, 98), (98, 140), (140, 84)])
def test_scclip_of_ten_blocks_by_hand(ten_blocks, height, width):
    images, grid_size = make_images(height, width, 2), (height // 14, width // 14)
    found = clearclip.dense_features(clearclip.view(ten_blocks), images, method=GIVEN)
    for image, features in zip(images, found, strict=True):
        with torch.no_grad():
            expected, outliers = scclip_by_hand(
                Plain(ten_blocks, image[None], grid_size, heads=3),
                pre=6, post=2, start=2, end=7, omega=0.1, beta=0.3, k=20, share=0.1,
            )  # fmt: skip
        assert outliers
        torch.testing.assert_close(features.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def pearl_attention(q, k, steps, alpha):
    """PEARL's 5.1, head by head."""
    weights = q.norm(dim=-1)
    weights[:, 0] = 0
    found = []
    for query, key, weight in zip(q, k, weights, strict=True):
        share = (weight / (weight.sum() + 1e-6))[:, None]
        query_bar, key_bar = query - (share * query).sum(0), key - (share * key).sum(0)
        matrix = key_bar.T @ query_bar
        size = max(float((matrix.T @ matrix).square().sum().sqrt()), 1e-6)
        unit = torch.eye(len(matrix))
        y, z = matrix.T @ matrix / size + 1e-6 * unit, unit
        for _ in range(steps):
            x = 0.5 * (3 * unit - z @ y)
            y, z = y @ x, x @ z
        scale = query.shape[1] ** -0.5
        turned = key @ (matrix @ z / size**0.5)
        found.append((scale * query @ turned.T + alpha * scale * key_bar @ key_bar.T).softmax(dim=1))
    return torch.stack(found)


def test_pearl_of_ten_blocks_by_hand(ten_blocks):
    images = make_images(98, 140, 2)
    found = clearclip.dense_features(clearclip.view(ten_blocks), images, method="pearl[polar_iters=3,alpha_kk=0.5]")
    for image, features in zip(images, found, strict=True):
        plain = Plain(ten_blocks, image[None], (7, 10), heads=3)
        with torch.no_grad():
            q, k, v = plain.qkv(plain.inputs[-1])
            expected = plain.head(plain.out(pearl_attention(q, k, 3, 0.5), v))[1:]
        torch.testing.assert_close(features.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", [("qq",), ("qq", "kk")])
def test_mixed_attention_of_middle_blocks_by_hand(ten_blocks, kinds):
    method = f"clearclip[attention={'+'.join(kinds)},mix=4-6:1.5:0.4]"
    found = clearclip.dense_features(clearclip.view(ten_blocks), make_images(98, 140), method=method)
    plain = Plain(ten_blocks, make_images(98, 140), (7, 10), heads=3)
    with torch.no_grad():
        q, k, v = plain.qkv(plain.inputs[-1])
        own = sum((part @ part.mT / 24**0.5).softmax(-1) for part in {"qq": [q], "kk": [k]}[kinds[0]])
        own = own + (k @ k.mT / 24**0.5).softmax(-1) if len(kinds) > 1 else own
        middle = torch.zeros_like(own)
        for block in (4, 5, 6):
            query, key, _ = plain.qkv(plain.inputs[block], block)
            middle += (query @ key.mT / 24**0.5).softmax(-1) / 3
        expected = plain.head(plain.out(1.5 * (0.6 * own + 0.4 * middle), v))[1:]
    torch.testing.assert_close(found[0].flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_the_ladder_share_nothing_that_differs(ten_blocks):
    """In one call each is what it is alone, in whichever order they come."""
    view, images = clearclip.view(ten_blocks), make_images(98, 126, 2)
    rows = [
        "clearclip[positions=bilinear16]",
        "cliper",
        "cliper[attention=qq]",
        "cliper[class_token=out,attention=kk]",
        GIVEN,
        f"{GIVEN[:-1]},positions=bilinear16]",
        f"{GIVEN[:-1]},class_token=in]",
        "pearl",
        "naclip[mix=5-8:2:0.3]",
        "scclip[streams=sum]",
    ]
    for order in (rows, rows[::-1]):
        found = clearclip.dense_features(view, images, method=order)
        for row in order:
            alone = clearclip.dense_features(view, images, method=row)
            torch.testing.assert_close(found[clearclip.parse_method(row).spelling], alone, rtol=0, atol=0)


SFR = "resclip[mix=4-6:1.5:0.4,temp_thd=0.3,sfr_std=2]"


def test_a_second_pass_is_one_window_s_alone(ten_blocks, tmp_path):
    """Windows through the trunk together, one by one and in bands of a large image have the same labels."""
    protocol = Protocol(98, 280, 98, 49, logit_scale=5)
    image = np.random.default_rng(4).integers(0, 256, (98, 240, 3), dtype=np.uint8)
    segmenter = load(ten_blocks, SFR, protocol)
    named = segmenter.prepare([f"word {index}" for index in range(25)])
    features = segmenter.encode(image, method="naclip").features(clearclip.parse_method("naclip")).flatten(0, 2)
    words = replace(named, text=features[:: len(features) // 25][:25])  # so that labels differ from patch to patch
    whole = segmenter(image, words)
    encoded = segmenter.encode(image, method=["clearclip", SFR])
    later = segmenter.classify(encoded, words)
    assert (whole.label_map == later.label_map).mean() > 0.999
    assert encoded.encoder_passes == 1
    first = load(ten_blocks, SFR.replace("resclip[", "resclip[window=none,").split(",temp")[0] + "]", protocol)
    assert not np.array_equal(first(image, words).label_map, whole.label_map)
    assert len(np.unique(whole.label_map)) > 10
    plan = encoded.plan
    for index, start in enumerate(plan.x.starts):
        alone = load(ten_blocks, SFR, replace(protocol, crop_size=0))(image[:, start : start + 98], words)
        own = whole._grid.cosines[:, :, 7 * index : 7 * (index + 1)]
        torch.testing.assert_close(own, alone._grid.cosines, rtol=1e-3, atol=1e-4)
    rasterio = pytest.importorskip("rasterio")
    Image.fromarray(image).save(tmp_path / "image.png")
    clearclip.segment_large(segmenter, tmp_path / "image.png", labels=words, output=tmp_path / "a.tif", block=48)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert (dataset.read(1) == whole.label_map).mean() > 0.999


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_second_pass_in_low_precision(dtype):
    model = tiny_models.open_clip_model(vision=TEN, seed=8)
    image = np.random.default_rng(4).integers(0, 256, (98, 140, 3), dtype=np.uint8)
    segmenter = clearclip.Segmenter(
        clearclip.view(model), method=SFR, protocol=WHOLE, templates="a {}", cache=False, device="cpu", dtype=dtype
    )
    for row in (SFR, f"pearl[window=sfr,{SFR[8:]}"):
        assert segmenter(image, ["sky", "tree", "grass"], method=row)._grid.logits().isfinite().all()
    flat = segmenter(np.zeros((14, 14, 3), np.uint8), ["sky", "tree"])
    assert np.isfinite(flat.scores).all()


def test_a_second_pass_needs_the_words(ten_blocks):
    with pytest.raises(UsageError, match="features that depend on the words"):
        clearclip.dense_features(clearclip.view(ten_blocks), make_images(98, 98), method="resclip")
    with pytest.raises(UsageError, match="it adds to logits"):
        clearclip.parse_method("resclip[attention=identity,prior=none]")


ROWS = ["scclip", "scclip[repair=norm:3]", "pearl", "pearl[attention=procrustes-svd]", "naclip[mix=5-8:2:0.3]"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ROWS)
def test_low_precision_has_no_nan(dtype, method):
    model = tiny_models.open_clip_model(vision=TEN, seed=8)
    exact = clearclip.dense_features(clearclip.view(model), make_images(98, 140), method=method)
    low = clearclip.view(model).to(torch.device("cpu"), dtype)
    found = clearclip.dense_features(low, make_images(98, 140), method=method)
    assert found.dtype == dtype
    assert F.cosine_similarity(found.float(), exact, dim=-1).mean() > 0.98


@pytest.mark.parametrize("method", ROWS)
@pytest.mark.parametrize("size", [(14, 14), (14, 98), (28, 28)])
def test_fewer_patches_than_neighbours_and_flat_images(ten_blocks, method, size):
    """Of fewer than k + 1 patches all others are neighbours, and equal ones are no outliers: rules of ours."""
    view = clearclip.view(ten_blocks)
    for images in (make_images(*size, 2), torch.zeros(1, 3, *size)):
        assert clearclip.dense_features(view, images, method=method).isfinite().all()


WHOLE = Protocol(98, 280, 0, 1)
CLIPER = "cliper[attention_thr=0.4,select_layer=-2,score=0,bkg=0.0001]"


def load(model, method, protocol=WHOLE):
    return clearclip.Segmenter(
        clearclip.view(model), method=method, protocol=protocol, templates="a {}", cache=False, device="cpu"
    )


def cliper_by_hand(plain, text, *, scale, threshold, stream):
    """CLIPer's 2.2 to 2.6 without background words, block by block."""
    count = len(plain.blocks)
    summed = 0
    for block in range(count - 1):
        q, k, _ = plain.qkv(plain.inputs[block], block)
        summed = summed + (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    words = torch.cat([text, F.normalize(text.mean(dim=0, keepdim=True), dim=-1)])
    scores = []
    for block in range(count):
        summed = summed / summed.sum(dim=1, keepdim=True)
        summed = summed / summed.sum(dim=2, keepdim=True)
        both = (summed + summed.mT) / 2
        attention = (both - both.mean(dim=1, keepdim=True)).clamp(min=0)
        attention = attention / attention.sum(dim=2, keepdim=True)
        tokens = plain.inputs[block] if block == count - 1 else plain.blocks[block].ln_1(plain.inputs[block])
        _, _, v = plain.qkv(tokens)
        features = F.normalize(plain.head(plain.out(attention, v))[1:], dim=-1)
        scores.append((scale * features @ words.T).softmax(dim=-1)[:, :-1].T)
    chosen = scores[stream]
    chosen[chosen < threshold * chosen.amax(dim=1, keepdim=True)] = 0
    spread = attention.mean(dim=0)[1:, 1:]
    return chosen @ spread + torch.stack(scores).mean(dim=0)


def test_cliper_of_ten_blocks_by_hand(ten_blocks):
    segmenter = load(ten_blocks, CLIPER)
    image = np.random.default_rng(4).integers(0, 256, (98, 140, 3), dtype=np.uint8)
    encoded = segmenter.encode(image)
    found = segmenter.classify(encoded, ["sky", "tree", "grass"])._grid
    text = segmenter.embed(["sky", "tree", "grass"])
    plain = Plain(ten_blocks, encoded.windows, (7, 10), heads=3, positions="bilinear16")
    with torch.no_grad():
        expected = cliper_by_hand(plain, text, scale=50, threshold=0.4, stream=-2).unflatten(1, (7, 10))
    upsampled = F.interpolate(expected[None], size=(98, 140), mode="bilinear")[0]
    rescaled = upsampled * (expected.amax((1, 2)) / (upsampled.amax((1, 2)) + 1e-5))[:, None, None]
    torch.testing.assert_close(found.logits(), rescaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cliper_in_low_precision(dtype):
    model = tiny_models.open_clip_model(vision=TEN, seed=8)
    image = np.random.default_rng(4).integers(0, 256, (98, 140, 3), dtype=np.uint8)
    exact = load(model, CLIPER)(image, ["sky", "tree", "grass"])
    low = clearclip.Segmenter(
        clearclip.view(model), method=CLIPER, protocol=WHOLE, templates="a {}", cache=False, device="cpu", dtype=dtype
    )(image, ["sky", "tree", "grass"])
    assert low._grid.logits().isfinite().all()
    assert (low.label_map == exact.label_map).mean() > 0.9


def test_cliper_refuses_what_it_cannot_do(ten_blocks, tmp_path):
    image = np.random.default_rng(4).integers(0, 256, (98, 196, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match=r"sees the whole image at once, not 3 windows: use crop_size=0"):
        load(ten_blocks, "cliper", Protocol(98, 280, 98, 49))(image, ["sky", "tree"])
    segmenter = load(ten_blocks, "cliper")
    with pytest.raises(UsageError, match="a rule of its own for the background"):
        segmenter(image, ["background", "tree"], threshold=0.9)
    with pytest.raises(UsageError, match="a rule of its own for the background"):
        segmenter(image, segmenter.prepare(["sky", "tree"], presence="freecp"))
    with pytest.raises(UsageError, match="need window=cliper"):
        clearclip.parse_method("cliper[window=none]")
    with pytest.raises(UsageError, match="no multiple of 14, the model's patch size"):
        load(ten_blocks, "cliper[crop=100]")(image, ["sky", "tree"])
    with pytest.raises(UsageError, match="select_layer=-11 of cliper does not fit"):
        load(ten_blocks, "cliper[select_layer=-11]")
    Image.fromarray(image).save(tmp_path / "image.png")
    with pytest.raises(UsageError, match="looks at the whole image at once"):
        clearclip.segment_large(segmenter, tmp_path / "image.png", labels=["sky", "tree"], output=tmp_path / "a.tif")


def test_cliper_s_windows(ten_blocks):
    """One that holds the picture changes nothing but that scores spread once more; small pictures have one window."""
    image = np.random.default_rng(4).integers(0, 256, (98, 196, 3), dtype=np.uint8)
    found = {}
    for crop in (0, 70, 980):
        result = load(ten_blocks, f"cliper[score=0,crop={crop}]", replace(WHOLE, logit_scale=5))(image, ["sky", "tree"])
        found[crop] = result._grid.logits()
        assert found[crop].isfinite().all()
    assert not torch.allclose(found[0], found[70], atol=1e-4)
    assert not torch.allclose(found[70], found[980], atol=1e-4)


def test_cliper_labels_the_background_that_is_listed(ten_blocks):
    """A word's synonyms count by the best of them; the background wins where no map reaches `bkg`."""
    image = np.random.default_rng(4).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    words = clearclip.Vocabulary.parse(["background=wall|floor", "sky=cloud", "tree"], background="background")
    soft = replace(WHOLE, logit_scale=5)
    rows = [f"cliper[score=0,bkg={bkg}]" for bkg in (1e-6, 999)]
    none, all_of_it = (load(ten_blocks, row, soft)(image, words).label_map for row in rows)
    assert 0 not in none
    assert (all_of_it == 0).all()
