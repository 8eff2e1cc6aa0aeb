"""dense_features: what each axis does to the last block, and how often the trunk runs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import clearclip
import tiny_models
from clearclip import UsageError, dense_features
from clearclip.attention import fused_attention
from clearclip.decompose import pad_to_patches, rank_channels
from clearclip.methods import AXES, ablation_grid
from tiny_models import counted

NATIVE, AWAY = (32, 32), (40, 48)
TEN = [
    "vanilla",
    "maskclip",
    "sclip",
    "clearclip",
    "maskclip+clearclip",
    "sclip+clearclip",
    "clearclip[residual=beta:30]",
    "clearclip[residual=normalize]",
    "clearclip[residual=keep,alpha=2]",
    "vanilla[residual=drop,ffn=drop]",
]


def make_images(size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5))


ONE_AXIS_APART = {
    "attention": ["vanilla", "vanilla[attention=kk]"],
    "prior": ["naclip", "naclip[prior=none]", "naclip[prior=gaussian:1]"],
    "combine": ["sclip", "sclip[combine=mean]"],
    "normalize": ["gem[normalize=no]", "gem"],
    "residual": ["clearclip", "clearclip[residual=keep]", "clearclip[residual=beta:30]"],
    "alpha": ["vanilla", "vanilla[alpha=2]"],
    "ffn": ["vanilla", "vanilla[ffn=drop]"],
    "positions": ["vanilla", "vanilla[positions=antialias]"],
    "depth": ["gem", "gem[depth=3]"],
    "class_token": ["clearclip", "clearclip[class_token=out]"],
    "repair": ["scclip", "scclip[repair=none]", "scclip[repair=norm:2]", "clearclip[repair=norm:2]"],
    "pool": ["scclip", "scclip[pool=none]", "scclip[pool=before]", "scclip[pool=after]", "clearclip[pool=after]"],
    "streams": ["scclip", "scclip[streams=last]", "scclip[streams=sum]", "clearclip[streams=sum]"],
    "k": ["scclip", "scclip[k=3]"],
    "share": ["scclip", "scclip[share=0.3]"],
    "pre": ["scclip", "scclip[pre=6]", "clearclip[attention=mid]"],
    "temperature": ["scclip", "scclip[temperature=30]"],
    "post": ["scclip", "scclip[post=1]"],
    "beta": ["scclip", "scclip[beta=0.1]"],
    "start": ["scclip", "scclip[start=0]"],
    "end": ["scclip", "scclip[end=7]"],
    "polar_iters": ["pearl", "pearl[polar_iters=1]", "pearl[attention=procrustes-svd]"],
    "alpha_kk": ["pearl", "pearl[alpha_kk=0]", "pearl[alpha_kk=1]"],
    "mix": ["naclip", "naclip[mix=5-7:2:0.3]", "naclip[mix=2:1:0.3]", "clearclip[mix=5-7:2:0.3]"],
    "omega": ["scclip", "scclip[omega=2]", "clearclip[residual=class]"],
}


@pytest.mark.parametrize("axis", [axis.name for axis in AXES])
def test_methods_one_axis_apart_share_nothing_that_the_axis_decides(backbone, axis):
    """In one call, with all caches shared, each is what it is alone; no two are equal."""
    images, methods = make_images(AWAY), ONE_AXIS_APART.get(axis)
    if not methods:
        pytest.skip("it changes nothing before features meet words: tests/test_stages.py, test_ladder.py")
    for order in (methods, methods[::-1]):
        together = dense_features(backbone, images, method=order)
        for spelling, features in together.items():
            torch.testing.assert_close(features, dense_features(backbone, images, method=spelling), rtol=0, atol=0)
    assert len(torch.stack([features.flatten() for features in together.values()]).unique(dim=0)) == len(methods)


@pytest.mark.parametrize("size", [NATIVE, AWAY, (35, 21)])
def test_ten_methods_in_one_call_equal_ten_calls(backbone, size):
    images = make_images(size)
    together = dense_features(backbone, images, method=TEN)
    assert list(together) == [clearclip.parse_method(text).spelling for text in TEN]
    for spelling, features in together.items():
        alone = dense_features(backbone, images, method=spelling)
        assert alone.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 48)
        torch.testing.assert_close(features, alone, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("methods", "size", "times"),
    [
        (TEN, NATIVE, 1),
        (TEN, AWAY, 1),
        ([*TEN, "gem", "gem+clearclip"], NATIVE, 1),
        ([*TEN, "gem", "gem+clearclip"], AWAY, 2),
        (["vanilla", "vanilla[positions=offset]"], AWAY, 1),
        (["gem", "gem[depth=3]", "vanilla[positions=antialias]"], AWAY, 1),
        (["vanilla", "vanilla[positions=size]", "gem"], NATIVE, 1),
    ],
)
def test_the_trunk_runs_once_a_position_table(backbone, methods, size, times):
    with counted(backbone) as counts:
        dense_features(backbone, make_images(size), method=methods)
    assert counts == dict.fromkeys(range(7), times)  # the last block is never run as it is


def test_ablation_grid_runs_in_one_pass(backbone):
    with counted(backbone) as counts:
        features = dense_features(backbone, make_images(AWAY), method=ablation_grid())
    assert set(counts.values()) == {1}
    assert len(features) == 24
    vectors = torch.stack([feature.flatten() for feature in features.values()])
    assert len(vectors.unique(dim=0)) == 24  # no two rows of the ablation are one


def by_hand(model, images, attention, *, residual, ffn):
    """The decomposition of the last block, straight from the paper, with the library's modules."""
    with torch.no_grad():
        visual = model.visual
        blocks = list(visual.transformer.resblocks)
        tokens = visual._embeds(images)
        for block in blocks[:-1]:
            tokens = block(tokens)
        block = blocks[-1]
        packed = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
        scale = 16**-0.5
        maps = {
            "qk": (q @ k.mT * scale).softmax(-1),
            "qq": (q @ q.mT * scale).softmax(-1),
            "kk": (k @ k.mT * scale).softmax(-1),
            "vv": (v @ v.mT * scale).softmax(-1),
            "identity": torch.eye(q.shape[2]).expand(*q.shape[:3], q.shape[2]),
        }
        out = block.attn.out_proj((sum(maps[kind] for kind in attention) @ v).transpose(1, 2).flatten(2))
        total = tokens + out if residual == "keep" else out
        if ffn:
            total = total + block.mlp(block.ln_2(total))
        return (visual.ln_post(total) @ visual.proj)[:, 1:]


@pytest.mark.parametrize("row", ablation_grid(), ids=lambda row: row.spelling)
def test_ablation_rows_by_hand(backbone, clip_model, row):
    images = make_images(NATIVE)
    expected = by_hand(clip_model, images, row.attention, residual=row.residual, ffn=row.ffn)
    torch.testing.assert_close(
        dense_features(backbone, images, method=row).flatten(1, 2), expected, rtol=1e-4, atol=1e-5
    )


def test_beta_ends_are_keep_and_drop(backbone):
    images = make_images(AWAY)
    for kind in ("beta", "signed-beta"):
        features = dense_features(
            backbone,
            images,
            method=[f"clearclip[residual={kind}:0]", "clearclip[residual=keep]", f"clearclip[residual={kind}:100]"],
        )
        none, keep, all_gone = features.values()
        torch.testing.assert_close(none, keep, rtol=0, atol=0)
        torch.testing.assert_close(all_gone, dense_features(backbone, images, method="clearclip"), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["beta", "signed-beta"])
@pytest.mark.parametrize("percent", [1, 7.5, 30, 99])
def test_beta_drops_the_strongest_channels_of_each_image(backbone, kind, percent):
    images = make_images(AWAY, 3)
    parts = dense_features(backbone, images, method=f"clearclip[residual={kind}:{percent}]", parts=True)
    kept = parts.sum - parts.attn_out
    for image in range(3):
        residual = parts.residual[image].flatten(0, 1)
        strength = residual.mean(0) if kind == "signed-beta" else residual.abs().mean(0)
        gone = (kept[image].flatten(0, 1).abs().amax(0) < 1e-6).nonzero()[:, 0]
        assert len(gone) == round(percent * 64 / 100)
        assert set(gone.tolist()) == set(strength.topk(len(gone)).indices.tolist())


def test_signed_and_magnitude_rank_differently():
    residual = torch.tensor([[[-9.0, 1.0, 5.0], [-9.0, -2.0, 5.0]]])
    assert rank_channels(residual, signed=False).tolist() == [[0, 2, 1]]
    assert rank_channels(residual, signed=True).tolist() == [[2, 1, 0]]


def test_the_ranking_is_of_one_window_alone(backbone):
    """An image's features do not depend on what else is in the batch."""
    images = make_images(NATIVE, 3)
    for method in ("clearclip[residual=beta:30]", "gem", "clearclip"):
        together = dense_features(backbone, images, method=method)
        for index in range(3):
            alone = dense_features(backbone, images[index : index + 1], method=method)
            torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [NATIVE, AWAY])
@pytest.mark.parametrize("alpha", [0, 1, 2.5])
def test_parts_add_up(backbone, clip_model, size, alpha):
    method = f"vanilla[alpha={alpha},ffn=drop]"
    parts = dense_features(backbone, make_images(size), method=method, parts=True)
    assert parts.residual.shape == (2, size[0] // 8, size[1] // 8, 64) == parts.attn_out.shape == parts.sum.shape
    torch.testing.assert_close(parts.sum, parts.residual + alpha * parts.attn_out)
    visual = clip_model.visual
    with torch.no_grad():
        torch.testing.assert_close(parts.features, visual.ln_post(parts.sum) @ visual.proj)


def test_parts_of_several_methods_share_the_residual(backbone):
    parts = dense_features(backbone, make_images(NATIVE), method=["vanilla", "clearclip"], parts=True)
    torch.testing.assert_close(parts["vanilla"].residual, parts["clearclip"].residual, rtol=0, atol=0)
    assert not torch.allclose(parts["vanilla"].attn_out, parts["clearclip"].attn_out, atol=1e-3)
    torch.testing.assert_close(parts["clearclip"].sum, parts["clearclip"].attn_out, rtol=0, atol=0)


def test_normalize_gives_the_residual_unit_length(backbone):
    parts = dense_features(backbone, make_images(AWAY), method="clearclip[residual=normalize]", parts=True)
    added = parts.sum - parts.attn_out
    torch.testing.assert_close(added.norm(dim=-1), torch.ones(2, 5, 6), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(F.cosine_similarity(added, parts.residual, dim=-1), torch.ones(2, 5, 6))


def test_mean_is_the_sum_over_the_number_of_kinds(backbone):
    images = make_images(NATIVE)
    total, mean = (
        dense_features(backbone, images, method=f"sclip[combine={how},residual=keep]", parts=True).attn_out
        for how in ("sum", "mean")
    )
    bias = backbone.model.visual.transformer.resblocks[-1].attn.out_proj.bias.detach()
    torch.testing.assert_close((total - bias) / 2, mean - bias)


def test_depth_adds_the_last_blocks(backbone):
    images = make_images(NATIVE)
    depths = {
        depth: dense_features(backbone, images, method=f"clearclip[residual=keep,depth={depth}]", parts=True)
        for depth in (1, 2, 8)
    }
    with torch.no_grad():
        stream = [backbone.embed(images, "model")]
        for block in backbone.blocks[:-1]:
            stream.append(block.forward(stream[-1], (4, 4)))
    for depth, parts in depths.items():
        torch.testing.assert_close(parts.residual.flatten(1, 2), stream[8 - depth][:, 1:])
        torch.testing.assert_close(parts.sum, parts.residual + parts.attn_out)
    own = dense_features(backbone, images, method=["clearclip", "gem"], parts=True)
    torch.testing.assert_close(own["clearclip"].attn_out, depths[1].attn_out)
    torch.testing.assert_close(own["gem"].residual, stream[2][:, 1:].unflatten(1, (4, 4)))


def test_a_method_deeper_than_the_model_is_refused():
    shallow = clearclip.view(tiny_models.open_clip_model(vision={"layers": 3}))
    with pytest.raises(UsageError, match=r"depth=6 needs 6 blocks.*has 3"):
        dense_features(shallow, make_images(NATIVE), method="gem")
    assert dense_features(shallow, make_images(NATIVE), method="gem[depth=3]").shape == (2, 4, 4, 48)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
def test_images_of_another_shape_are_refused(backbone, shape):
    with pytest.raises(UsageError, match=r"\(B, 3, H, W\)"):
        dense_features(backbone, torch.zeros(shape), method="vanilla")


@given(height=st.integers(1, 40), width=st.integers(1, 40), patch=st.integers(1, 17))
def test_padding(height, width, patch):
    images = torch.ones(1, 3, height, width)
    padded, (top, left) = pad_to_patches(images, patch)
    assert padded.shape[2] % patch == padded.shape[3] % patch == 0
    assert padded.shape[2] - height < patch
    assert padded.shape[3] - width < patch
    bottom, right = padded.shape[2] - height - top, padded.shape[3] - width - left
    assert 0 <= bottom - top <= 1
    assert 0 <= right - left <= 1
    assert torch.equal(padded[:, :, top : top + height, left : left + width], images)
    assert padded.sum() == images.sum()


@pytest.fixture(scope="module")
def two_blocks():
    return clearclip.view(tiny_models.open_clip_model(vision={"layers": 2}))


@settings(max_examples=30)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_any_height_and_width(two_blocks, height, width):
    features = dense_features(two_blocks, torch.zeros(1, 3, height, width), method=["clearclip", "gem[depth=2]"])
    for feature in features.values():
        assert feature.shape == (1, -(-height // 8), -(-width // 8), 48)
        assert feature.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_number_formats(dtype):
    model = tiny_models.open_clip_model(seed=4)
    exact = dense_features(clearclip.view(model), make_images(AWAY), method=["clearclip", "gem", "vanilla"])
    backbone = clearclip.view(tiny_models.open_clip_model(seed=4)).to(torch.device("cpu"), dtype)
    low = dense_features(backbone, make_images(AWAY), method=["clearclip", "gem", "vanilla"])
    for name, features in low.items():
        cosine = F.cosine_similarity(features.float(), exact[name], dim=-1)
        assert cosine.min() > 0.97, name


def test_the_switch_of_fused_attention_is_put_back():
    tokens = torch.zeros(1)
    assert torch.backends.mha.get_fastpath_enabled()
    with fused_attention(tokens):
        with fused_attention(tokens):
            assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.mha.get_fastpath_enabled()  # the first user is still within
    assert torch.backends.mha.get_fastpath_enabled()
    with fused_attention(tokens.bfloat16()):
        assert torch.backends.mha.get_fastpath_enabled()
