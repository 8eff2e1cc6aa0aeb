"""Files that are given as weights: wrappers' prefixes, other things than weights, and settings that lie elsewhere."""

import json
import warnings

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clearclip
import tiny_models
from clearclip.backbones.weights import plain_names
from clearclip.errors import CheckpointError, UsageError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 598641023\n"
PAGE = "\n<!DOCTYPE html><html>Access to model is restricted</html>"
HALF = [0.5, 0.5, 0.5]


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    """A small ViT that open_clip knows by name, in both of its forms."""
    folder = tmp_path_factory.mktemp("architectures")
    shape = {"embed_dim": 48, "vision_cfg": {**tiny_models.VISION, "layers": 2}, "text_cfg": tiny_models.TEXT}
    (folder / "Small-ViT.json").write_text(json.dumps(shape))
    (folder / "Small-ViT-quickgelu.json").write_text(json.dumps({**shape, "quick_gelu": True}))
    for file in folder.iterdir():
        open_clip.add_model_config(file)
    return "Small-ViT-quickgelu"


@pytest.fixture(scope="module")
def state():
    model = tiny_models.open_clip_model(vision={"layers": 2})
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


WRAPPED = {
    "plain": lambda state: state,
    "distributed": lambda state: {"state_dict": {f"module.{name}": one for name, one in state.items()}},
    "compiled": lambda state: {"state_dict": {f"_orig_mod.{name}": one for name, one in state.items()}},
    "lightning": lambda state: {"state_dict": {f"model.{name}": one for name, one in state.items()}, "epoch": 3},
    "all at once": lambda state: {"model": {f"module._orig_mod.model.{name}": one for name, one in state.items()}},
    "a compiled tower": lambda state: {n.replace("visual.", "visual._orig_mod."): one for n, one in state.items()},
    "OpenAI's numbers": lambda state: {**state, **{n: torch.tensor(9) for n in (
        "input_resolution", "context_length", "vocab_size")}},
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapped_weights_load_as_plain_ones(tmp_path, architecture, state, wrapper):
    torch.save(WRAPPED[wrapper](state), tmp_path / "weights.pt")
    loaded = clearclip.load_backbone(f"{architecture}/{tmp_path / 'weights.pt'}").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_names_that_only_some_share_are_left():
    one = torch.zeros(1)
    assert set(plain_names({"model.a": one, "b": one})) == {"model.a", "b"}
    assert set(plain_names({"model.module.a": one, "model.module.b": one})) == {"a", "b"}


class Traced(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.visual(x)


def archive(path, state):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        torch.jit.save(torch.jit.trace(Traced(), torch.zeros(1, 3)), path)


NO_WEIGHTS = {
    "jit.pt": (archive, "TorchScript archive, which holds code .*clip-b16"),
    "pointer.pt": (lambda path, _: path.write_text(POINTER), "pointer of Git LFS, .*git lfs pull"),
    "pointer.safetensors": (lambda path, _: path.write_text(POINTER), "pointer of Git LFS"),
    "page.pt": (lambda path, _: path.write_text(PAGE), "web page.* licence"),
    "text.bin": (lambda path, _: path.write_text("Entry not found"), "a text, not weights: 'Entry not found'"),
    "torch.safetensors": (lambda path, state: torch.save(state, path), "file of torch.save: name it .pt"),
    "safe.pt": (lambda path, state: save_file(state, path), "safetensors file: name it .safetensors"),
    "scalar.pt": (
        lambda path, state: torch.save({"state_dict": state, "best": np.float64(0.5)}, path),
        r"holds more than tensors, numbers and text \(numpy.*full unpickle",
    ),
    "transformers.pt": (
        lambda path, _: torch.save({"vision_model.embeddings.class_embedding": torch.zeros(9)}, path),
        "transformers' names: give the folder with its config.json",
    ),
    "blip.pt": (
        lambda path, _: torch.save({"visual_encoder.patch_embed.proj.weight": torch.zeros(9)}, path), "holds BLIP",
    ),
    "part.pt": (
        lambda path, state: torch.save({n: t for n, t in state.items() if n != "visual.proj"}, path),
        r"1 weights are missing, first: visual\.proj",
    ),
    "more.pt": (
        lambda path, state: torch.save({**state, "head.weight": torch.zeros(3)}, path),
        r"1 weights belong to another one, first: head\.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_holds_no_weights_is_called_by_its_name(tmp_path, architecture, state, name):
    make, said = NO_WEIGHTS[name]
    make(tmp_path / name, state)
    with pytest.raises(CheckpointError, match=said):
        clearclip.load_backbone(f"{architecture}/{tmp_path / name}")


def test_a_bare_file_says_which_form_it_needs(tmp_path, state):
    torch.save({f"module.{name}": one for name, one in state.items()}, tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match=r"open_clip's names: give the architecture too, .*ViT-B-16/.*bare\.ckpt"):
        clearclip.load_backbone(tmp_path / "bare.ckpt")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B/16", "--model clip-b16 loads"),
        ("ViT-L/14", "--model clip-l14 loads"),
        ("ViT-B/32", "--model ViT-B-32-quickgelu/openai loads"),
        ("ViT-L/14@336px", "--model ViT-L-14-336-quickgelu/openai loads"),
        ("ViT-B-16", "--model clip-b16 loads.* ViT-B-16/TAG"),
    ],
)
def test_openai_names_of_architectures_lead_to_their_weights(name, hint):
    with pytest.raises(UsageError, match=hint):
        clearclip.load_backbone(name)


def test_weights_that_are_known_to_be_quick_are_refused_in_another_architecture(tmp_path, architecture, state):
    plain = architecture.removesuffix("-quickgelu")
    torch.save(WRAPPED["OpenAI's numbers"](state), tmp_path / "openai.pt")
    with pytest.raises(CheckpointError, match=f"QuickGELU, the architecture has GELU.* Use {architecture}/"):
        clearclip.load_backbone(f"{plain}/{tmp_path / 'openai.pt'}")
    save_file(state, tmp_path / "own.safetensors")
    with pytest.warns(UserWarning, match=f"which activation .* need {architecture}"):
        clearclip.load_backbone(f"{plain}/{tmp_path / 'own.safetensors'}")
    for quick, other in ((True, plain), (False, architecture)):
        config = {"model_cfg": {"quick_gelu": quick}, "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="it would run and be wrong"):
            clearclip.load_backbone(f"{other}/{tmp_path / 'own.safetensors'}")


def test_the_configuration_beside_a_file_is_read(tmp_path, architecture, state):
    save_file(state, tmp_path / "own.safetensors")
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": HALF, "std": HALF}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = clearclip.load_backbone(f"{architecture}/{tmp_path / 'own.safetensors'}")
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)


def test_another_position_table_is_not_stretched(tmp_path, architecture, state):
    table = state["visual.positional_embedding"]
    torch.save({**state, "visual.positional_embedding": table.repeat(2, 1)}, tmp_path / "larger.pt")
    with pytest.raises(CheckpointError, match=r"visual\.positional_embedding has the shape"):
        clearclip.load_backbone(f"{architecture}/{tmp_path / 'larger.pt'}")


PROCESSORS = {
    "preprocessor_config.json": ({"image_mean": HALF, "image_std": HALF}, 0.5, 0.5),
    "processor_config.json": ({"image_processor": {"image_mean": HALF, "image_std": HALF}}, 0.5, 0.5),
    "both": ({"image_processor": {"image_mean": HALF, "image_std": HALF}}, 0.5, 0.5),
    "not normalised": ({"image_processor": {"do_normalize": False, "image_mean": HALF}}, 0, 1),
    "not rescaled": (
        {"image_processor": {"do_rescale": False, "image_mean": HALF, "image_std": HALF}}, 0.5 / 255, 0.5 / 255,
    ),
    "to two": ({"image_processor": {"rescale_factor": 2 / 255, "image_mean": HALF, "image_std": HALF}}, 0.25, 0.25),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("library", ["clip", "blip"])
def test_mean_and_deviation_are_read_from_every_place(tmp_path, clip_model, blip_model, word_pieces, library, name):
    settings, mean, std = PROCESSORS[name]
    model = tiny_models.hf_clip_of(clip_model) if library == "clip" else blip_model
    model.save_pretrained(tmp_path)
    file = name if name.endswith(".json") else "processor_config.json"
    (tmp_path / file).write_text(json.dumps(settings))
    if name == "both":
        other = {"image_mean": [0.1] * 3, "image_std": [0.1] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(other))
    backbone = clearclip.load_backbone(tmp_path)
    assert backbone.mean == pytest.approx((mean,) * 3)
    assert backbone.std == pytest.approx((std,) * 3)


def test_a_processor_without_images_leaves_the_older_file(tmp_path, clip_model):
    tiny_models.hf_clip_of(clip_model).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": HALF, "image_std": HALF}))
    assert clearclip.load_backbone(tmp_path).mean == (0.5, 0.5, 0.5)


def test_a_tokenizers_options_hold_for_every_tokenizer(tmp_path, clip_model, clip_folder):
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    plain, own = clearclip.load_backbone(clip_folder), clearclip.load_backbone(tmp_path)
    assert plain.text.tokenize(["A cat."]) != plain.text.tokenize(["a cat"])
    assert own.text.tokenize(["A cat."]) == own.text.tokenize(["a cat"])
