"""Weights files: tensors by their plain names, without running anything, and what a file is that holds none."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from clearclip.backbones.folder import first_line
from clearclip.errors import CheckpointError
from clearclip.files.reading import open_regular

COMPILED = "_orig_mod."
WRAPPERS = ("module.", "model.", "clip.", "clip_model.", "net.")
"""What DistributedDataParallel, Lightning and other people's modules put before every name."""
NESTED = ("state_dict", "model_state_dict", "module", "model", "params")
HEAD_BYTES = 512


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of safetensors or torch files by name, without a wrapper's prefixes; none is ever fully unpickled.

    `CheckpointError` for a damaged file and for weights that are no floating point numbers (quantised ones): a library
    would copy them as they are, and the model would compute nonsense.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            with open_regular(file) as opened:
                head = opened.read(HEAD_BYTES)
        except OSError as error:
            raise CheckpointError(f"{file}: the file is damaged, or is none ({first_line(error)})") from error
        refuse_what_holds_none(file, head)
        try:
            state |= _tensors(file)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(_damaged(file, error)) from error
    for name, tensor in state.items():
        if name.endswith(("weight", "bias")) and not tensor.is_floating_point():
            raise CheckpointError(f"the weights {name} are {tensor.dtype}: floating point numbers are needed")
    return plain_names(state)


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        with safe_open(str(file), "pt") as opened:
            return {name: opened.get_tensor(name) for name in list(opened.keys())}
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    for key in NESTED:
        loaded = loaded[key] if isinstance(loaded, dict) and isinstance(loaded.get(key), dict) else loaded
    found = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {str(name): tensor for name, tensor in found if isinstance(tensor, Tensor)}
    if not tensors:
        held = (
            f"its keys are {', '.join(map(str, loaded))[:200]}"
            if isinstance(loaded, dict)
            else f"it is a {type(loaded).__name__}"
        )
        raise CheckpointError(f"{file} holds no tensors by name at its top or under {', '.join(NESTED)} ({held})")
    return tensors


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what `torch.compile` puts into names, and without prefixes that all of them share."""
    names = {name: name.replace(COMPILED, "") for name in state}
    while prefix := next((one for one in WRAPPERS if names and all(n.startswith(one) for n in names.values())), ""):
        names = {name: shown.removeprefix(prefix) for name, shown in names.items()}
    return {names[name]: tensor for name, tensor in state.items()}


def refuse_what_holds_none(file: Path, head: bytes) -> None:
    """`CheckpointError` that names what a file is instead of weights, by its first bytes; damaged ones pass."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_zip, is_safetensors = head.startswith(b"PK"), head[8:9] == b"{"
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository, or download the "
            "file itself"
        )
    if text.startswith(b"<"):
        raise CheckpointError(
            f"{file} is a web page, not the weights: what it was downloaded from may want a licence accepted or a login"
        )
    if is_zip and file.suffix != ".safetensors" and _is_torchscript(file):
        raise CheckpointError(
            f"{file} is a TorchScript archive, which holds code beside its weights and is never run. OpenAI's own load "
            "by name (clip-b16, ViT-B-32-quickgelu/openai); convert others where you trust them: "
            'torch.save(torch.jit.load(FILE, map_location="cpu").state_dict(), NEW)'
        )
    if is_zip and file.suffix == ".safetensors":
        raise CheckpointError(f"{file} is a file of torch.save: name it .pt")
    if is_safetensors and file.suffix != ".safetensors":
        raise CheckpointError(f"{file} is a safetensors file: name it .safetensors")
    if text and text.isascii() and b" ".join(text.split()).decode().isprintable():
        raise CheckpointError(f"{file} is a text, not weights: {text[:60].decode()!r}")


def _is_torchscript(file: Path) -> bool:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _damaged(file: Path, error: Exception) -> str:
    """Why weights could not be read: what a full unpickle would be needed for, as far as the file says that."""
    wanted: list[str] = []
    with suppress(Exception):  # only zip archives can be asked, and damaged ones not even that
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if wanted:
        return (
            f"{file} holds more than tensors, numbers and text ({', '.join(sorted(wanted)[:4])}): it needs a full "
            "unpickle, which can run any code and is refused. Where you trust it, load it yourself and save its "
            "state_dict alone, best as safetensors"
        )
    return (
        f"{file}: the file is damaged ({first_line(error)}), or needs a full unpickle, which can run any code and is "
        "refused; convert it to safetensors where you trust it"
    )


def whose(state: Mapping[str, Tensor], file: Path) -> str:
    """What to do with the weights of another library, told by their names; empty for unknown ones."""
    if "visual.conv1.weight" in state:
        return f"it holds a CLIP with open_clip's names: give the architecture too, for instance ViT-B-16/{file}"
    if any(name.startswith("vision_model.") for name in state):
        return "it holds transformers' names: give the folder with its config.json"
    if "visual_encoder.patch_embed.proj.weight" in state:
        return f"it holds BLIP: give the file alone, --model {file}"
    return ""
