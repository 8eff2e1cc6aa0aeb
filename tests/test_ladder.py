"""Rows after ClearCLIP on other models than the golden files': plain references, number formats, odd images."""

import pytest
import torch
import torch.nn.functional as F

import clearclip
import tiny_models

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

    def __init__(self, model, image, grid_size, heads):
        self.heads, self.grid_size, visual = heads, grid_size, model.visual
        self.blocks, self.visual = visual.transformer.resblocks, visual
        with torch.no_grad():
            tokens = clearclip.view(model).embed(image, "model")
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
