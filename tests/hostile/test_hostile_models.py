"""A checkpoint's files are data: nothing they say runs code, asks anybody, or computes with numbers that are none."""

import builtins
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clearclip
import tiny_models
from clearclip import CheckpointError, UsageError
from clearclip.backbones.folder import EXTRA_TOKENS, load_tokenizer
from clearclip.checkpoints import TINY_FOLDER
from clearclip.encode.text import embed_queries
from clearclip.files import hashes

CODE = """
import pathlib
pathlib.Path(__file__).with_name("RAN").touch()
from transformers import CLIPConfig, PreTrainedTokenizerFast
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilConfig(CLIPConfig): pass
"""
MAP = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"], "AutoConfig": "evil.EvilConfig"}


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    """Neither the network, although the hub's libraries may use it, nor the user."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(builtins, "input", refuse)
    yield
    assert asked == []


@pytest.fixture
def folder(tmp_path):
    """The embedded model's folder, with code beside it."""
    copy = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, copy)
    (copy / "evil.py").write_text(CODE)
    return copy


@pytest.fixture
def hf_folder(tmp_path, clip_model):
    folder = tmp_path / "hf"
    tiny_models.hf_clip_of(clip_model).save_pretrained(folder)
    tiny_models.save_clip_words(folder)
    (folder / "evil.py").write_text(CODE)
    return folder


def edit(file, change):
    """Change the JSON object in a file, which is made where it is missing."""
    settings = json.loads(file.read_text()) if file.is_file() else {}
    change(settings)
    file.write_text(json.dumps(settings))


def loads_or_refuses(folder, **options):
    """Whatever becomes of it, no code ran; what the error says, if there was one."""
    said = ""
    try:
        embed_queries(clearclip.load_backbone(folder, **options), ["sky"], templates="{}")
    except CheckpointError as error:
        said = str(error)
    assert not (Path(folder) / "RAN").exists()
    assert "\n" not in said
    return said


# Code


@pytest.mark.parametrize(
    "name", ["EvilTokenizer", "AutoTokenizer", "AutoModel", "AutoProcessor", "RagTokenizer", "pipeline", 3]
)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_tokenizer_that_is_code_never_runs(folder, name, trusted):
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(auto_map=MAP, tokenizer_class=name))
    edit(folder / "config.json", lambda settings: settings.update(auto_map=MAP, model_type="evil"))
    if trusted:
        edit(
            folder / "open_clip_config.json",
            lambda settings: settings["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
        )
        assert "trust_remote_code" in loads_or_refuses(folder)
    else:
        assert "never run" in loads_or_refuses(folder)
    with pytest.raises(CheckpointError, match="never run"):
        clearclip.load_backbone("tiny", tokenizer=str(folder))
    assert not (folder / "RAN").exists()


def test_the_code_of_a_transformers_folder_never_runs(hf_folder):
    """With a tokenizer class of the library's own the folder is of use, and its code stays where it is."""
    for file in ("config.json", "tokenizer_config.json"):
        edit(hf_folder / file, lambda settings: settings.update(auto_map=MAP, trust_remote_code=True))
    assert loads_or_refuses(hf_folder) == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"attn_implementation": "nobody/kernel", "_attn_implementation": "nobody/kernel"},
        {"vision_config": {"_attn_implementation": "nobody/kernel"}},
        {"transformers_weights": "../../../etc/passwd.safetensors"},
        {"_name_or_path": "nobody/nothing", "custom_generate": "nobody/nothing", "tokenizer_class": "AutoTokenizer"},
        {"fusion_config": {"a": True}, "distributed_config": {"tp_plan": "auto"}, "dtype": "float16"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_lead_elsewhere_are_not_passed_on(hf_folder, settings):
    def change(config):
        config |= {
            key: {**config[key], **value} if key == "vision_config" else value for key, value in settings.items()
        }

    expected = embed_queries(clearclip.load_backbone(hf_folder), ["sky"], templates="{}")
    edit(hf_folder / "config.json", change)
    (hf_folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/nothing"}))
    backbone = clearclip.load_backbone(hf_folder)
    assert torch.equal(embed_queries(backbone, ["sky"], templates="{}"), expected)
    assert backbone.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda shape: shape["text_cfg"].update(hf_model_name="nobody/nothing"),
        lambda shape: shape["text_cfg"].update(hf_model_name="."),
        lambda shape: shape["vision_cfg"].update(timm_model_name="hf-hub:nobody/nothing"),
        lambda shape: shape["vision_cfg"].update(timm_model_name="vit_tiny_patch16_224", timm_model_pretrained=True),
        lambda shape: shape["text_cfg"].update(tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
        lambda shape: shape["text_cfg"].update(tokenizer_kwargs={"cache_dir": "/"}),
        lambda shape: shape["text_cfg"].update(tokenizer_kwargs=3),
        lambda shape: shape.update(text_cfg=None),
        lambda shape: shape.update(vision_cfg=[1]),
        lambda shape: shape["vision_cfg"].update(layers=10**9),
        lambda shape: shape["vision_cfg"].update(width=10**6),
        lambda shape: shape["text_cfg"].update(vocab_size=10**10),
        lambda shape: shape["vision_cfg"].update(image_size=10**7),
        lambda shape: shape["vision_cfg"].update(image_size=224),  # its position table would be stretched
        lambda shape: shape["text_cfg"].update(context_length=32),
        lambda shape: shape["vision_cfg"].update(patch_size=0),
        lambda shape: shape["vision_cfg"].update(head_width=0),
    ],
)
def test_shapes_that_are_none_or_lie_elsewhere_are_refused(folder, change):
    edit(folder / "open_clip_config.json", lambda settings: change(settings["model_cfg"]))
    assert loads_or_refuses(folder)


def test_a_tokenizer_that_is_said_to_lie_elsewhere_is_the_folders_own(folder):
    edit(
        folder / "open_clip_config.json",
        lambda settings: settings["model_cfg"]["text_cfg"].update(hf_tokenizer_name="nobody/nothing"),
    )
    edit(
        folder / "tokenizer_config.json",
        lambda settings: settings.update(tokenizer_file="/etc/passwd", vocab_file="/etc/passwd", init_inputs=["/"]),
    )
    assert loads_or_refuses(folder) == ""


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a\\b.safetensors", "..", "x.bin", 3, ["x"]])
def test_parts_of_weights_lie_beside_their_index(hf_folder, name):
    whole = hf_folder / "model.safetensors"
    shutil.move(whole, hf_folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"visual_projection.weight": name}}
    whole.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    assert "lists" in loads_or_refuses(hf_folder) or isinstance(name, list)


def test_weights_in_parts_load(hf_folder, clip_model):
    state = load_file(hf_folder / "model.safetensors")
    (hf_folder / "model.safetensors").unlink()
    parts = {"a.safetensors": dict(list(state.items())[::2]), "b.safetensors": dict(list(state.items())[1::2])}
    for name, part in parts.items():
        save_file(part, hf_folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    (hf_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    backbone = clearclip.load_backbone(hf_folder)
    assert [file.name for file in backbone.weights_files] == ["a.safetensors", "b.safetensors"]
    before = backbone.fingerprint
    save_file({key: tensor + 1 for key, tensor in parts["b.safetensors"].items()}, hf_folder / "b.safetensors")
    assert clearclip.load_backbone(hf_folder).fingerprint != before


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache without a hub: puts a folder there under a repository's name."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)

    return put


def test_repositories_of_the_hub_are_folders(folder, hf_folder, hub):
    """They are read as any folder is, and one model has one fingerprint wherever it lies."""
    hub(folder, "some/open")
    hub(hf_folder, "some/hf")
    assert clearclip.load_backbone("hf-hub:some/open").fingerprint == clearclip.load_backbone(folder).fingerprint
    theirs = clearclip.load_backbone("some/hf")
    assert (theirs.name, theirs.fingerprint) == ("some/hf", clearclip.load_backbone(hf_folder).fingerprint)
    assert fingerprint(folder, tokenizer="some/open") == fingerprint(folder)
    edit(
        folder / "tokenizer_config.json",
        lambda settings: settings.update(auto_map=MAP, tokenizer_class="EvilTokenizer"),
    )
    hub(folder, "some/evil")
    with pytest.raises(CheckpointError, match="never run"):
        clearclip.load_backbone("hf-hub:some/evil")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize(
    "file",
    [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "known_words.txt",
    ],
)
def test_a_pipe_in_a_folder_is_not_waited_for(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)
    loads_or_refuses(folder)


def test_the_model_of_the_attack_is_refused(shared):
    folder = shared / "cases" / "attack" / "evil_model"
    if not folder.is_dir():
        pytest.skip("no attack there")
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        clearclip.load_backbone(f"local-dir:{folder}")


# Numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["visual.conv1.weight", "token_embedding.weight", "logit_scale"])
def test_weights_that_are_no_numbers_are_refused(folder, name, value):
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state[name].view(-1)[-1] = value
    save_file(state, file)
    with pytest.raises(CheckpointError, match=f"{name}.*NaN"):
        clearclip.load_backbone(folder)


def test_a_model_object_with_nan_or_without_numbers_is_refused():
    model = tiny_models.open_clip_model(vision={"layers": 1})
    with torch.no_grad():
        model.visual.proj[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"visual\.proj.*NaN"):
        clearclip.view(model)
    with pytest.raises(CheckpointError, match="meta"):
        clearclip.view(tiny_models.open_clip_model(vision={"layers": 1}).to("meta"))


def test_large_sums_of_good_numbers_are_good(folder):
    """The quick check overflows; the slow one decides."""
    model = tiny_models.open_clip_model(vision={"layers": 1})
    with torch.no_grad():
        model.token_embedding.weight[:9] = 3e38
    clearclip.view(model)


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("std", [0, 1, 1]),
        ("std", [-0.2, 0.2, 0.2]),
        ("std", [float("nan")] * 3),
        ("std", 0.5),
        ("std", []),
        ("mean", [float("inf"), 0, 0]),
        ("mean", ["0.5", "0.5", "0.5"]),
        ("mean", [0.5] * 4),
        ("mean", {"r": 1}),
        ("mean", True),
    ],
)
def test_means_and_deviations_that_are_none_are_refused(folder, hf_folder, library, key, value):
    if library == "open_clip":
        edit(folder / "open_clip_config.json", lambda settings: settings["preprocess_cfg"].update({key: value}))
    else:
        edit(hf_folder / "preprocessor_config.json", lambda settings: settings.update({f"image_{key}": value}))
    with pytest.raises(CheckpointError, match=r"three|above 0"):
        clearclip.load_backbone(folder if library == "open_clip" else hf_folder)


@pytest.mark.parametrize("settings", [[], "x", 3, None])
def test_preprocessing_that_is_no_object_is_refused(folder, settings):
    edit(folder / "open_clip_config.json", lambda config: config.update(preprocess_cfg=settings))
    with pytest.raises(CheckpointError, match="an object is needed"):
        clearclip.load_backbone(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_quantised_weights_do_not_pass_for_numbers(folder, dtype):
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.conv1.weight"] = (state["visual.conv1.weight"] * 100).to(dtype)
    save_file(state, file)
    with pytest.raises(CheckpointError, match="floating point"):
        clearclip.load_backbone(folder)


def test_words_without_a_direction_are_an_error(folder):
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["text_projection"].zero_()
    save_file(state, file)
    with pytest.raises(CheckpointError, match="without a direction"):
        embed_queries(clearclip.load_backbone(folder), ["sky"], templates="{}")


def test_features_that_overflow_are_an_error(folder, picture):
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.proj"] = torch.full_like(state["visual.proj"], 3e38, dtype=torch.float32)
    save_file(state, file)
    segmenter = clearclip.load(f"local-dir:{folder}", device="cpu", dtype="float32", templates="{}")
    with pytest.raises(CheckpointError, match="NaN"):
        segmenter(picture(), ["sky", "grass"])


# What a result was made with


def fingerprint(name, **options):
    return clearclip.load_backbone(name, **options).fingerprint


def test_one_model_has_one_fingerprint(folder, tmp_path):
    first = fingerprint(folder)
    assert fingerprint(f"local-dir:{folder}") == first == fingerprint("tiny")
    (tmp_path / "link").symlink_to(folder)
    assert fingerprint(tmp_path / "link") == first
    script = f"import clearclip; print(clearclip.load_backbone({str(folder)!r}).fingerprint)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == first


def change_tokenizer(folder):
    edit(folder / "tokenizer.json", lambda settings: settings["normalizer"]["normalizers"].pop())


def change_weights(folder):
    state = load_file(folder / "open_clip_model.safetensors")
    state["visual.proj"][0, 0] += 1e-3
    save_file(state, folder / "open_clip_model.safetensors")


def change_words(folder):
    state = load_file(folder / "open_clip_model.safetensors")
    state["text_projection"][0, 0] += 1e-3
    save_file(state, folder / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        change_weights,
        change_words,
        change_tokenizer,
        lambda folder: (folder / "known_words.txt").write_text("sky"),
        lambda folder: edit(folder / "open_clip_config.json", lambda c: c["preprocess_cfg"].update(mean=[0.5] * 3)),
        lambda folder: edit(folder / "open_clip_config.json", lambda c: c["model_cfg"].update(quick_gelu=True)),
        lambda folder: edit(
            folder / "open_clip_config.json", lambda c: c["model_cfg"]["vision_cfg"].update(head_width=16)
        ),
        lambda folder: edit(
            folder / "open_clip_config.json", lambda c: c["model_cfg"]["text_cfg"].update(norm_kwargs={"eps": 1e-4})
        ),
    ],
)
def test_whatever_decides_a_result_is_in_the_fingerprint(folder, change):
    first = clearclip.load(f"local-dir:{folder}", device="cpu", templates="{}")
    change(folder)
    second = clearclip.load(f"local-dir:{folder}", device="cpu", templates="{}")
    assert first.describe(first.method)["weights"] != second.describe(second.method)["weights"]


def test_another_tokenizer_is_another_fingerprint(folder, tmp_path):
    words = tmp_path / "words"
    words.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / file, words)
    assert fingerprint(folder, tokenizer=str(words)) == fingerprint(folder)
    change_tokenizer(words)
    assert fingerprint(folder, tokenizer=str(words)) != fingerprint(folder)


def test_every_kind_of_checkpoint_has_a_fingerprint(hf_folder, tmp_path, blip_model, clip_model, word_pieces):
    blip_model.save_pretrained(tmp_path / "blip")
    torch.save({"model": tiny_models.salesforce_state(blip_model)}, tmp_path / "blip.pth")
    found = {
        fingerprint(hf_folder),
        fingerprint(tmp_path / "blip", tokenizer=str(word_pieces)),
        fingerprint(tmp_path / "blip"),
        fingerprint(tmp_path / "blip.pth", tokenizer=str(word_pieces)),
        clearclip.view(clip_model).fingerprint,
    }
    assert len(found) == 5


def test_a_file_that_was_replaced_after_it_was_loaded_is_not_hashed(folder):
    backbone = clearclip.load_backbone(folder)
    expected = clearclip.load_backbone(folder).fingerprint
    change_weights(folder)
    assert backbone.fingerprint not in (expected, clearclip.load_backbone(folder).fingerprint)


def test_a_model_that_was_changed_in_memory_is_another(folder):
    backbone = clearclip.load_backbone(folder)
    first = backbone.fingerprint
    assert backbone.to(torch.device("cpu"), torch.float32).fingerprint == first
    with torch.no_grad():
        backbone.model.visual.proj += 1
    assert backbone.fingerprint != first


@pytest.fixture
def settled(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    os.utime(file, ns=(1, 1))
    return file


def entries(folder):
    return list((folder / "hashes").glob("*.json"))


def test_a_file_is_read_once(settled, text_cache, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    first = hashes.file_hash(settled)
    (entry,) = entries(text_cache)
    remembered = json.loads(entry.read_text())
    entry.write_text(json.dumps([*remembered[:-1], "ab" * 32]))  # to see that it is asked
    assert hashes.file_hash(settled) == "ab" * 32 != first
    settled.write_bytes(b"2")
    os.utime(settled, ns=(1, 1))  # the same size and time: the time of the change of its status tells
    assert hashes.file_hash(settled) not in (first, "ab" * 32)


def test_a_file_that_may_still_change_is_not_remembered(settled, text_cache):
    hashes.file_hash(settled)
    assert entries(text_cache) == []


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", "3", "null", '["x"]', "[" * 900, "x" * 5000])
def test_a_damaged_memory_is_made_again(settled, text_cache, monkeypatch, content):
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    first = hashes.file_hash(settled)
    (entry,) = entries(text_cache)
    entry.write_text(content)
    assert hashes.file_hash(settled) == first
    remembered = json.loads(entry.read_text())
    for wrong in (3, "zz" * 32, "ab", None):
        entry.write_text(json.dumps([*remembered[:-1], wrong]))
        assert hashes.file_hash(settled) == first


def test_a_memory_that_cannot_be_written_is_no_obstacle(settled, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "blocked"))
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    assert hashes.file_hash(settled) == hashes.file_hash(settled)


# Around the API


def test_autocast_around_the_api_changes_nothing(backbone, picture):
    def results():
        segmenter = clearclip.Segmenter(backbone, device="cpu", dtype="float32", templates="{}", cache=False)
        image, labels = picture(), ["sky", "grass", "car"]
        called = segmenter(image, labels, threshold=0.4)
        classified = segmenter.classify(segmenter.encode(image), labels, threshold=0.4)
        dense = clearclip.dense_features(backbone, torch.ones(1, 3, 32, 32))
        return [
            called.label_map,
            called.scores,
            called.mask("sky"),
            called.probabilities("sky"),
            [value for _, value in called.ranking(3, 5)],
            classified.label_map,
            classified.scores,
            dense,
            segmenter.embed(labels),
        ]

    plain = results()
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = results()
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(plain, surrounded, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    "device", ["meta", "cuda:99", "gpu", "", "cpu:-1", "mps:9", "xla", None, "cuda:99999999999999999999"]
)
def test_devices_that_compute_nothing_are_one_line(backbone, device):
    with pytest.raises(UsageError, match=r"device .* cannot be used") as caught:
        clearclip.Segmenter(backbone, device=device)
    assert "\n" not in str(caught.value)


def test_reading_words_does_not_change_the_fingerprint():
    """Hugging Face's tokenizers keep the last call's padding and truncation among their settings."""
    segmenter = clearclip.load("tiny", device="cpu", dtype="float32")
    segmenter._cache_dir = None
    segmenter.backbone._hashes.clear()
    before = segmenter.backbone.fingerprint
    segmenter.embed(["sky", "a tree in the snow"])
    segmenter.backbone._hashes.clear()
    assert segmenter.backbone.fingerprint == before


@pytest.mark.parametrize("extra", [EXTRA_TOKENS + 1, 10**9, -1, 1.5, True, "9", None, [1]])
def test_a_tokenizer_adds_no_endless_tokens(tmp_path, extra):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": extra}))
    with pytest.raises(CheckpointError, match="extra_ids"):
        load_tokenizer(str(tmp_path), lambda *_, **__: pytest.fail("it was loaded"))
