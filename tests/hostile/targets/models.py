"""Folders of models: configuration, tokenizer and weights, and code that must not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import damage, damage_json
from tests.hostile.targets.common import TINY, command, encoded, wrong_maps

SETTINGS = ("open_clip_config.json", "tokenizer_config.json", "tokenizer.json")
WEIGHTS = "open_clip_model.safetensors"


def seed_models(place: Path) -> None:
    from clearclip.checkpoints import TINY_FOLDER

    shutil.copytree(TINY_FOLDER, place / "model")
    (place / "p.png").write_bytes(encoded(1))


def check_models(case: Case, code: int) -> str | None:
    if code:
        return None
    if name := case.expected.get("not finite"):
        return f"success with a model that has numbers that are not finite ({name})"
    return wrong_maps([case.output / "p.png"], labels=2)


@target(seed=seed_models, check=check_models)
def models(case: Case) -> Action:
    rng, folder = case.rng, case.inputs / "model"
    shutil.copytree(case.seeds / "model", folder)
    name = rng.choice((*SETTINGS, SETTINGS[0], WEIGHTS, WEIGHTS, "code", "torch"))
    if name == "code":
        _add_code(case, folder)
    elif name == "torch":
        _damage_torch(case, folder)
    elif name == WEIGHTS:
        _damage_weights(case, folder / name)
    else:
        file = folder / name
        text = damage_json(json.loads(file.read_text(encoding="utf-8")), rng)
        file.write_bytes(
            text.encode("utf-8", "surrogatepass") if rng.random() < 0.8 else damage(file.read_bytes(), rng)
        )
    source = rng.choice((f"local-dir:{folder}", str(folder)))
    return command(
        "segment", case.seeds / "p.png", "-l", "sky", "-l", "tree", *TINY, "--model", source, "-o", case.output
    )


def _add_code(case: Case, folder: Path) -> None:
    """Code beside the model, and all settings that make libraries run such code: the audit hook would see it."""
    (folder / "evil.py").write_text("print('run')\nclass T: pass\n")
    auto = {key: ["evil.T", "evil.T"] for key in ("AutoTokenizer", "AutoModel", "AutoConfig", "AutoProcessor")}
    for name in ("tokenizer_config.json", "config.json", "processor_config.json", "open_clip_config.json"):
        file = folder / name
        document = json.loads(file.read_text()) if file.exists() else {"model_type": "clip"}
        document.update({"auto_map": auto, "trust_remote_code": True, "tokenizer_class": "T", "custom_pipelines": {}})
        if "model_cfg" in document:
            trusting = {"trust_remote_code": True, "use_fast": case.rng.random() < 0.5}
            document["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = trusting
        if case.rng.random() < 0.6:
            file.write_text(json.dumps(document))


def _damage_weights(case: Case, file: Path) -> None:
    rng, data = case.rng, file.read_bytes()
    chosen = rng.random()
    if chosen < 0.2:
        file.write_bytes(damage(data, rng))
    elif chosen < 0.4:
        length = int.from_bytes(data[:8], "little")
        header = damage_json(json.loads(data[8 : 8 + length]), rng).encode("utf-8", "surrogatepass")
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    else:
        _damage_tensor(case, file)


def _damage_torch(case: Case, folder: Path) -> None:
    """A torch file with wrappers' prefixes in the weights' place, or something that is none."""
    import torch
    from safetensors.torch import load_file

    rng, file = case.rng, folder / WEIGHTS
    prefix = "".join(rng.choices(("module.", "model.", "_orig_mod."), k=rng.randrange(3)))
    state = {f"{prefix}{name}": tensor for name, tensor in load_file(file).items()}
    file.unlink()
    file = folder / "open_clip_pytorch_model.bin"
    torch.save(rng.choice((state, {"model": state}, {"state_dict": state, "best": np.float64(1)})), file)
    if rng.random() < 0.5:
        file.write_bytes(damage(rng.choice((file.read_bytes(), b"version https://git-lfs", b"<html>", b"PK")), rng))


def _damage_tensor(case: Case, file: Path) -> None:
    from safetensors.numpy import load_file, save_file

    rng, tensors = case.rng, load_file(file)
    name = rng.choice(sorted(tensors))
    array = tensors[name].astype(np.float32)
    kind = rng.randrange(5)
    if kind == 0:
        array.flat[rng.randrange(array.size)] = rng.choice((float("nan"), float("inf"), float("-inf")))
        case.expected["not finite"] = name
    elif kind == 1:
        array = array[..., : array.shape[-1] // 2] if array.ndim else array.reshape(1)
    elif kind == 2:
        array = np.zeros_like(array)
    elif kind == 3:
        array = array * np.float32(1e30)
    else:
        del tensors[name]
        array = np.zeros(3, dtype=np.float32)
        name = rng.choice((name, "more"))
    tensors[name] = np.ascontiguousarray(array, dtype=np.float32)
    save_file(tensors, file)
