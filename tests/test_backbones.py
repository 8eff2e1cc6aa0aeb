"""Views of the installed libraries' models: equal to the libraries' own answers, or refused with a reason."""

import json
import pickle

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import clearclip
import tiny_models
from clearclip import CheckpointError, UnsupportedModelError, UsageError
from clearclip.checkpoints import CHECKPOINTS
from clearclip.encode.text import embed_queries

PROMPT = "a photo of a {}."


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def features(backbone, images, method="vanilla"):
    return clearclip.dense_features(backbone, images, method=method)


# The library's own patch tokens


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"image_size": [32, 48]},
        {"ls_init_value": 0.3, "no_ln_pre": True},
    ],
    ids=["plain", "oblong", "layer scale"],
)
def test_open_clip_vanilla(kind, quick_gelu, vision):
    model = tiny_models.open_clip_model(kind, quick_gelu=quick_gelu, vision={"layers": 3, **vision})
    size = vision.get("image_size", [32, 32])
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        taken = model.visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        expected = taken["image_intermediates"][-1] @ model.visual.proj
        model.visual.output_tokens = True
        _, tokens = model.visual(images)
        model.visual.output_tokens = False
    ours = features(clearclip.view(model), images)
    assert ours.shape == (2, size[0] // 8, size[1] // 8, 48)
    torch.testing.assert_close(ours.flatten(1, 2), expected)
    torch.testing.assert_close(ours.flatten(1, 2), tokens @ model.visual.proj)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_hf_clip_vanilla_and_conversion(images, quick_gelu):
    """The same weights in both libraries' formats give the same features and the same text embeddings."""
    ours = tiny_models.open_clip_model(quick_gelu=quick_gelu)
    theirs = tiny_models.hf_clip_of(ours, quick_gelu=quick_gelu)
    with torch.no_grad():
        hidden = theirs.vision_model(images).last_hidden_state[:, 1:]
        expected = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden))
    left, right = clearclip.view(ours), clearclip.view(theirs)
    torch.testing.assert_close(features(right, images).flatten(1, 2), expected)
    away = torch.randn(1, 3, 40, 56)
    for method in ("vanilla", "clearclip", "gem"):
        for size in (images, away):
            torch.testing.assert_close(
                features(left, size, method), features(right, size, method), rtol=1e-4, atol=1e-4
            )
    words = ["sky", "a very long label of many words"]
    torch.testing.assert_close(
        embed_queries(left, words, templates=PROMPT), embed_queries(right, words, templates=PROMPT)
    )


def test_quick_gelu_matters(images):
    quick, exact = (tiny_models.open_clip_model(quick_gelu=value) for value in (True, False))
    assert not torch.allclose(
        features(clearclip.view(quick), images), features(clearclip.view(exact), images), rtol=1e-3
    )


def test_blip_vanilla(images, blip_model):
    with torch.no_grad():
        expected = blip_model.vision_proj(blip_model.vision_model(images).last_hidden_state[:, 1:])
    torch.testing.assert_close(features(clearclip.view(blip_model), images).flatten(1, 2), expected)


def test_blip_resizes_its_position_table_plainly(blip_model):
    """Away from the native size BLIP's table is interpolated to the grid itself, without CLIP's offset."""
    backbone = clearclip.view(blip_model)
    images = torch.randn(1, 3, 40, 56)
    default, plain, offset = (
        features(backbone, images, method)
        for method in ("vanilla", "vanilla[positions=size]", "vanilla[positions=offset]")
    )
    torch.testing.assert_close(default, plain, rtol=0, atol=0)
    assert not torch.allclose(default, offset, atol=1e-3)


def test_a_subclass_is_still_viewed(images, clip_model):
    """A model class of one's own, made from open_clip's, is one of open_clip's."""

    class Mine(open_clip.CLIP):
        pass

    model = Mine(embed_dim=48, vision_cfg=tiny_models.VISION, text_cfg=tiny_models.TEXT, quick_gelu=True)
    model.load_state_dict(clip_model.state_dict())
    torch.testing.assert_close(features(clearclip.view(model), images), features(clearclip.view(clip_model), images))


def test_viewing_leaves_the_model_alone(images):
    model = tiny_models.open_clip_model(vision={"layers": 2})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backbone = clearclip.view(model)
    features(backbone, images)
    features(backbone, torch.randn(1, 3, 48, 40), "clearclip")
    assert not model.training
    assert backbone.model is model
    assert clearclip.view(backbone) is backbone
    assert {name for name in before if not torch.equal(before[name], model.state_dict()[name])} == set()


def test_view_follows_the_model_to_another_dtype(images):
    """A model's tensors change identity when it moves; the view must read the new ones."""
    backbone = clearclip.view(tiny_models.open_clip_model(vision={"layers": 2}))
    exact = features(backbone, images)
    moved = backbone.to(torch.device("cpu"), torch.float64)
    assert moved.dtype == torch.float64
    torch.testing.assert_close(features(moved, images).float(), exact, rtol=1e-4, atol=1e-4)


# Files


def test_open_clip_folder(images, clip_model, clip_folder):
    for name in (clip_folder, str(clip_folder), f"local-dir:{clip_folder}"):
        backbone = clearclip.load_backbone(name)
        torch.testing.assert_close(features(backbone, images), features(clearclip.view(clip_model), images))
    assert backbone.text is not None
    assert backbone.weights_files == (clip_folder / "open_clip_model.safetensors",)
    assert len(backbone.checkpoint_hash) == 64


def test_hf_clip_folder(tmp_path, images, clip_model):
    model = tiny_models.hf_clip_of(clip_model)
    model.save_pretrained(tmp_path)
    silent = clearclip.load_backbone(tmp_path)
    torch.testing.assert_close(features(silent, images), features(clearclip.view(clip_model), images))
    tiny_models.save_clip_words(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    spoken = clearclip.load_backbone(tmp_path)
    assert (spoken.mean, spoken.std) == ((0.5,) * 3, (0.25,) * 3)
    # Its own tokenizer, open_clip's where it has none, and open_clip's model: three ways, one embedding.
    words = ["sky", "jet ski"]
    embedded = [embed_queries(each, words, templates=PROMPT) for each in (spoken, silent, clearclip.view(clip_model))]
    torch.testing.assert_close(embedded[0], embedded[1])
    torch.testing.assert_close(embedded[0], embedded[2])


def test_open_clip_with_a_hugging_face_tokenizer(tmp_path, clip_model, clip_folder):
    """CLIP's Hugging Face tokenizer pads with the end token, which must not be trimmed away with the padding."""
    words = tiny_models.save_clip_words(tmp_path)
    theirs = clearclip.load_backbone(clip_folder, tokenizer=str(words))
    queries = ["sky", "a rather long label", "horse"]
    torch.testing.assert_close(
        embed_queries(theirs, queries, templates=["{}", PROMPT]),
        embed_queries(clearclip.view(clip_model), queries, templates=["{}", PROMPT]),
    )


def test_hf_blip_folder(tmp_path, images, word_pieces):
    """Saved with transformers' default ε of 1e-5, loaded with BLIP's own 1e-6."""
    model = tiny_models.blip_model(eps=1e-5)
    model.save_pretrained(tmp_path)
    backbone = clearclip.load_backbone(tmp_path, tokenizer=str(word_pieces))
    norms = [module for module in backbone.model.vision_model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    expected = clearclip.view(tiny_models.blip_model(eps=1e-6))
    torch.testing.assert_close(features(backbone, images), features(expected, images), rtol=1e-6, atol=1e-6)
    assert backbone.require_text().context_length == 35


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_salesforce_file(tmp_path, images, blip_model, word_pieces, suffix):
    file = tmp_path / f"model{suffix}"
    state = tiny_models.salesforce_state(blip_model)
    if suffix == ".pth":
        torch.save({"model": state, "epoch": 3}, file)
    else:
        save_file(state, file)
    backbone = clearclip.load_backbone(file, tokenizer=str(word_pieces))
    torch.testing.assert_close(features(backbone, images), features(clearclip.view(blip_model), images))
    from transformers import AutoTokenizer

    viewed = clearclip.view(blip_model, AutoTokenizer.from_pretrained(word_pieces))
    words = ["sky", "horses"]
    torch.testing.assert_close(
        embed_queries(backbone, words, templates=PROMPT), embed_queries(viewed, words, templates=PROMPT)
    )


def test_salesforce_file_without_tokenizer_says_where_words_come_from(tmp_path, images, blip_model):
    file = tmp_path / "model.pth"
    torch.save({"model": tiny_models.salesforce_state(blip_model)}, file)
    backbone = clearclip.load_backbone(file)
    assert features(backbone, images).shape == (2, 4, 4, 24)
    with pytest.raises(UnsupportedModelError, match=r"bert-base-uncased.*--tokenizer FOLDER"):
        embed_queries(backbone, ["sky"])


def test_friendly_names_are_rows_with_a_licence():
    paper = {
        "clip-b16",
        "clip-l14",
        "openclip-b16",
        "openclip-l14",
        "metaclip-b16",
        "metaclip-l14",
        "blip-b16",
        "blip-l16",
    }
    assert paper <= set(CHECKPOINTS)
    for name in ("metaclip-b16", "metaclip-l14"):
        assert "NC" in CHECKPOINTS[name].license
    for name, row in CHECKPOINTS.items():
        assert row.name == name
        assert row.license
    for name in sorted(paper - {"blip-b16", "blip-l16"}):
        architecture, tag = CHECKPOINTS[name].source.split("/")
        weights, shape = open_clip.get_pretrained_cfg(architecture, tag), open_clip.get_model_config(architecture)
        assert weights, name
        assert bool(weights.get("quick_gelu")) == bool(shape.get("quick_gelu")), name


# Refusals


def refused(model, *words):
    with pytest.raises(UnsupportedModelError) as caught:
        clearclip.view(model)
    for word in words:
        assert word in str(caught.value)


def test_resnet_is_refused():
    model = tiny_models.open_clip_model(
        vision={"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, text={"layers": 1}
    )
    refused(model, "ModifiedResNet", "ViT-B-16")


def test_timm_trunk_is_refused():
    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg={
            "timm_model_name": "vit_tiny_patch16_224",
            "image_size": 32,
            "timm_pool": "token",
            "timm_proj": "linear",
        },
        text_cfg=tiny_models.TEXT,
    )
    refused(model, "TimmModel", "ViT-B-16")


def test_attentional_pooling_is_refused():
    coca = open_clip.CoCa(
        embed_dim=48,
        multimodal_cfg={"width": 32, "heads": 2, "layers": 1, "context_length": 16, "vocab_size": 64},
        vision_cfg={**tiny_models.VISION, "layers": 1, "attentional_pool": True, "attn_pooler_heads": 4},
        text_cfg={**tiny_models.TEXT, "vocab_size": 64, "layers": 1, "embed_cls": True},
    )
    refused(coca, "attention", "ViT-B-16")


@pytest.mark.parametrize(
    "option", [{"qk_norm": True}, {"scaled_cosine_attn": True}, {"scale_heads": True}, {"scale_attn": True}]
)
def test_changed_attention_is_refused(option):
    key = next(iter(option))
    try:
        model = tiny_models.open_clip_model(vision={"layers": 1, "block_type": "custom", **option})
    except TypeError:
        pytest.skip(f"this open_clip has no {key}")
    refused(model, "attention", "plain ViT")


def test_another_library_is_refused():
    refused(torch.nn.Linear(2, 2), "torch.nn", "CLIPModel", "open_clip")


def test_words_without_a_tokenizer_are_refused(images):
    model = tiny_models.open_clip_model(text={"vocab_size": 64, "context_length": 16}, vision={"layers": 1})
    backbone = clearclip.view(model)
    assert features(backbone, images).shape == (2, 4, 4, 48)
    with pytest.raises(UnsupportedModelError, match=r"vocabulary of 64.*tokenizer"):
        embed_queries(backbone, ["sky"])


def test_blip_object_without_a_tokenizer_refuses_words(blip_model):
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        embed_queries(clearclip.view(blip_model), ["sky"])


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(word_pieces):
    from transformers import AutoTokenizer

    with pytest.raises(UnsupportedModelError, match=r"tokenizer has \d+ entries, the model's vocabulary 20"):
        clearclip.view(tiny_models.blip_model(vocabulary=20), AutoTokenizer.from_pretrained(word_pieces))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_full_unpickle_is_refused_by_every_loader(tmp_path, clip_model, clip_folder, blip_model):
    trap = tmp_path / "sprung"
    poisoned = {"state_dict": {"x": torch.zeros(1)}, "extra": Evil(trap)}
    places = {
        "blip.pth": tmp_path / "blip.pth",
        "openclip": tmp_path / "openclip" / "open_clip_pytorch_model.bin",
        "hf": tmp_path / "hf" / "pytorch_model.bin",
    }
    for place in places.values():
        place.parent.mkdir(exist_ok=True)
        torch.save(poisoned, place)
    (tmp_path / "openclip" / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    tiny_models.hf_clip_of(clip_model).config.save_pretrained(tmp_path / "hf")
    for name in ("blip.pth", "openclip", "hf"):
        with pytest.raises(CheckpointError, match=r"refused|weights_only|unpickle"):
            clearclip.load_backbone(tmp_path / name)
        assert not trap.exists(), name
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(CheckpointError, match="unpickle"):
        clearclip.load_backbone(bare)
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty"])
@pytest.mark.parametrize("library", ["open_clip", "hf", "salesforce"])
def test_damaged_weights(tmp_path, clip_model, clip_folder, blip_model, damage, library):
    if library == "open_clip":
        name, file = tmp_path, tmp_path / "open_clip_model.safetensors"
        (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
        file.write_bytes((clip_folder / "open_clip_model.safetensors").read_bytes())
    elif library == "hf":
        name, file = tmp_path, tmp_path / "model.safetensors"
        tiny_models.hf_clip_of(clip_model).save_pretrained(tmp_path)
    else:
        name = file = tmp_path / "model.safetensors"
        save_file(tiny_models.salesforce_state(blip_model), file)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "noise": b"\xff" * 999, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"damaged|cannot be loaded"):
        clearclip.load_backbone(name)


def test_another_architecture_is_refused(tmp_path, clip_folder, clip_model):
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 5
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes((clip_folder / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        clearclip.load_backbone(tmp_path)


@pytest.mark.parametrize("change", ["fewer layers", "wider"])
def test_another_hf_architecture_is_refused(tmp_path, clip_model, change):
    tiny_models.hf_clip_of(clip_model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] |= {"num_hidden_layers": 9} if change == "fewer layers" else {"hidden_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"CLIPModel"):
        clearclip.load_backbone(tmp_path)


def test_weights_of_another_model_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(UnsupportedModelError, match=r"'resnet' model.*'clip' or 'blip'"):
        clearclip.load_backbone(tmp_path)


def drop(state, *prefixes):
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(
    "dropped",
    [
        ("vision_proj.",),
        ("visual_encoder.pos_embed",),
        ("visual_encoder.blocks.0.mlp.fc1",),
        ("visual_encoder.blocks.1.norm1",),
        ("text_encoder.embeddings.position_embeddings",),
        ("text_encoder.encoder.layer.0.intermediate",),
        ("visual_encoder.",),
    ],
    ids=lambda dropped: dropped[0],
)
def test_incomplete_blip_file(tmp_path, blip_model, dropped):
    """BLIP's captioning checkpoints, for instance, have no vision_proj."""
    file = tmp_path / "model.safetensors"
    save_file(drop(tiny_models.salesforce_state(blip_model), *dropped), file)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        clearclip.load_backbone(file)


def test_a_file_that_is_no_blip(tmp_path, clip_model):
    file = tmp_path / "clip.safetensors"
    save_file({"visual.proj": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"no BLIP.*begins with visual\.proj"):
        clearclip.load_backbone(file)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"holds no tensors by name.*it is a list"):
        clearclip.load_backbone(tmp_path / "list.pth")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="no weights file"):
        clearclip.load_backbone(tmp_path / "notes.txt")


def test_folders_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json.*open_clip_config\.json"):
        clearclip.load_backbone(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        clearclip.load_backbone(f"local-dir:{tmp_path}/absent")
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
        clearclip.load_backbone(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        clearclip.load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError):
        clearclip.load_backbone(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights"):
        clearclip.load_backbone(tmp_path)


def test_quick_gelu_mismatch_names_the_right_architecture():
    with pytest.raises(CheckpointError, match=r"QuickGELU.*ViT-B-16-quickgelu/openai"):
        clearclip.load_backbone("ViT-B-16/openai")
    with pytest.raises(UsageError, match="has no weights 'laion2b_s34b_b88k'"):
        clearclip.load_backbone("ViT-B-16-quickgelu/laion2b_s34b_b88k")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("clip-b61", "clip-b16"),
        ("clearclip", "ARCHITECTURE/TAG"),
        ("ViT-B-16-quickgelu/opnai", "openai"),
        ("ViT-B-61/openai", "ViT-B-16"),
        ("", "ARCHITECTURE/TAG"),
    ],
)
def test_unknown_names_give_the_nearest(name, hint):
    with pytest.raises(UsageError, match=hint):
        clearclip.load_backbone(name)


@pytest.mark.parametrize("name", ["./absent/model", "/absent/model.pth", "x" * 5000, "a/" + "x" * 300, "a\0b", "../x"])
def test_paths_that_lead_nowhere(name):
    with pytest.raises((CheckpointError, UsageError)):
        clearclip.load_backbone(name)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("ViT-B-16-quickgelu/openai", "https://huggingface.co/timm/vit_base_patch16_clip_224.openai"),
        ("hf-hub:some/model", "https://huggingface.co/some/model"),
        ("openai/clip-vit-base-patch16", "https://huggingface.co/openai/clip-vit-base-patch16"),
        ("clip-b16", "open_clip_model.safetensors"),
        ("metaclip-b16", "open_clip_model.safetensors"),
        ("blip-b16", "model_base_14M.pth"),
    ],
)
def test_no_network_says_what_to_download_where(name, home, monkeypatch, tmp_path):
    import urllib.request

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(CheckpointError) as caught:
        clearclip.load_backbone(name)
    message = str(caught.value)
    for part in (home, "--model tiny", "could not be downloaded"):
        assert part in message
    assert "\n" not in message


def test_an_open_clip_file_goes_with_an_architecture(tmp_path, monkeypatch, images, clip_model):
    """`ARCHITECTURE/FILE`, as open_clip's own command line takes it."""
    config = {
        "embed_dim": 48,
        "vision_cfg": tiny_models.VISION,
        "text_cfg": tiny_models.TEXT,
        "quick_gelu": True,
    }
    (tmp_path / "Test-ViT.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "Test-ViT.json")
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in clip_model.state_dict().items()}, file)
    backbone = clearclip.load_backbone(f"Test-ViT/{file}")
    torch.testing.assert_close(features(backbone, images), features(clearclip.view(clip_model), images))
    damaged = load_file(file)
    damaged.pop("visual.proj")
    save_file(damaged, file)
    with pytest.raises(CheckpointError, match=r"visual\.proj|do not fit"):
        clearclip.load_backbone(f"Test-ViT/{file}")


def test_checkpoint_hash_follows_the_weights(clip_model):
    one = clearclip.view(clip_model).checkpoint_hash
    assert one == clearclip.view(clip_model).checkpoint_hash
    assert one != clearclip.view(tiny_models.open_clip_model(seed=9)).checkpoint_hash


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 8), (8, 64), (8, 8)])
def test_images_one_patch_wide_have_features(clip_model, dtype, size):
    """Some CPUs' bfloat16 convolution gives NaN for them."""
    exact = features(clearclip.view(clip_model), torch.ones(2, 3, *size))
    moved = clearclip.view(tiny_models.open_clip_model()).to(torch.device("cpu"), dtype)
    found = features(moved, torch.ones(2, 3, *size, dtype=dtype)).float()
    assert F.cosine_similarity(found, exact, dim=-1).min() > 0.9


def test_features_are_not_normalised(images, backbone):
    norms = features(backbone, images, "clearclip").norm(dim=-1)
    assert not torch.allclose(norms, torch.ones_like(norms), atol=0.05)
    assert F.normalize(features(backbone, images), dim=-1).isfinite().all()
