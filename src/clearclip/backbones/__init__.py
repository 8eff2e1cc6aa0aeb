"""Names and model objects → backbones. Which adapter reads what is decided here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clearclip.backbones.base import Backbone, Block, TextEncoder
from clearclip.checkpoints import CHECKPOINTS, Checkpoint
from clearclip.errors import CheckpointError, ClearclipError, UnsupportedModelError, UsageError, nearest

__all__ = ["CHECKPOINTS", "Backbone", "Block", "Checkpoint", "TextEncoder", "load_backbone", "view"]


def view(model: Any, tokenizer: Any = None) -> Backbone:
    """See an installed library's model object as a backbone; it is put into evaluation mode and otherwise left alone.

    It is open_clip's `CLIP` or `CustomTextCLIP` with a native ViT, or transformers' `CLIPModel` or
    `BlipForImageTextRetrieval`; `UnsupportedModelError` for others. The tokenizer is of the library's own kind. Without
    one CLIP's own is taken where the vocabulary has 49,408 entries; elsewhere the backbone gives features but refuses
    words.
    """
    if isinstance(model, Backbone):
        return model
    libraries = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "open_clip" in libraries:
        import open_clip as library

        from clearclip.backbones import open_clip

        if isinstance(model, (library.CLIP, library.CustomTextCLIP, library.CoCa)):
            return open_clip.view(model, tokenizer).check()
    if "transformers" in libraries:
        from transformers import BlipForImageTextRetrieval, CLIPModel

        from clearclip.backbones import blip, hf_clip

        if isinstance(model, CLIPModel):
            return hf_clip.view(model, tokenizer).check()
        if isinstance(model, BlipForImageTextRetrieval):
            return blip.view(model, tokenizer).check()
    raise UnsupportedModelError(
        f"a {type(model).__module__}.{type(model).__name__} cannot be viewed: give open_clip's CLIP or CustomTextCLIP, "
        "or transformers' CLIPModel or BlipForImageTextRetrieval"
    )


def load_backbone(name: str | os.PathLike[str], *, tokenizer: str | None = None) -> Backbone:
    """Load a checkpoint by its name, in float32 on the CPU.

    A friendly name (`CHECKPOINTS`), open_clip's `ARCHITECTURE/TAG`, `hf-hub:ORG/NAME` or `local-dir:FOLDER`, a Hugging
    Face folder or `ORG/NAME` of a CLIP or BLIP retrieval model, a folder as open_clip saves it, or a BLIP file with
    Salesforce's names (`.pth`, `.safetensors`). tokenizer is a Hugging Face folder or id to use instead of the model's
    own. `CheckpointError` for weights that are missing, damaged, unsafe or of another kind, `UnsupportedModelError`
    where the decomposition does not fit.
    """
    text = os.fspath(name)
    row = CHECKPOINTS.get(text)
    source = row.source if row else text
    try:
        if source.startswith("local-dir:") or _existing(source) is not None:
            backbone = _load(source, tokenizer)
        else:
            from clearclip.backbones.network import offline_if_unreachable

            with offline_if_unreachable():
                backbone = _load(source, tokenizer)
    except ClearclipError:
        raise
    except Exception as error:  # the libraries do not say what they raise for files that contradict each other
        cause = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"{text}: no model can be made of its files ({type(error).__name__}: {cause})") from error
    if row is not None:
        backbone.name, backbone.license = row.name, row.license
    return backbone.check()


def _load(source: str, tokenizer: str | None) -> Backbone:
    path = _download(source) if source.startswith("https://") else _existing(source)
    if path is not None and path.is_file():
        from clearclip.backbones import blip

        if path.suffix not in (".pth", ".pt", ".bin", ".ckpt", ".safetensors"):
            raise CheckpointError(f"{path} is no weights file: give a folder, or BLIP's .pth")
        return blip.load_salesforce(path, tokenizer=tokenizer)
    if path is not None and (path / "open_clip_config.json").is_file():
        source = f"local-dir:{source}"
    if source.startswith(("hf-hub:", "local-dir:")):
        from clearclip.backbones import open_clip

        return open_clip.load(source, tokenizer=tokenizer)
    if path is not None:
        return _load_hf_folder(path, tokenizer)
    _refuse_openai_name(source)
    organisation, slash, rest = source.partition("/")
    if slash:
        import open_clip as library

        from clearclip.backbones import open_clip

        if organisation in library.list_models() or rest in {tag for _, tag in library.list_pretrained()}:
            return open_clip.load(source, tokenizer=tokenizer)
        if "/" not in rest and not source.startswith((".", "~")):
            from clearclip.backbones.hf_clip import fetch_model

            backbone = _load_hf_folder(fetch_model(source), tokenizer)
            backbone.name = source
            return backbone
        raise CheckpointError(f"{source}: there is no such file or folder")
    raise UsageError(
        f"model {source!r} is not known: {nearest(source, CHECKPOINTS)} (other forms: ARCHITECTURE/TAG of open_clip, "
        "hf-hub:ORG/NAME, local-dir:FOLDER, a Hugging Face ORG/NAME or folder, BLIP's .pth)"
    )


def _refuse_openai_name(source: str) -> None:
    """OpenAI's `ViT-B/16` and `ViT-L/14@336px` are no repositories of the hub, and their weights have a name here."""
    if not source.startswith("ViT-"):
        return
    import open_clip as library

    name = source.replace("/", "-").replace("@", "-").removesuffix("px") + "-quickgelu"
    if name in library.list_models():
        weights = f"{name}/openai"
        known = next((row.name for row in CHECKPOINTS.values() if row.source == weights), weights)
        raise UsageError(
            f"{source} names an architecture: --model {known} loads OpenAI's weights of it, "
            f"{name.removesuffix('-quickgelu')}/TAG or /FILE others"
        )


def _existing(source: str) -> Path | None:
    try:
        return Path(source) if source and Path(source).exists() else None
    except (OSError, ValueError):  # a name no file can have
        return None


def _load_hf_folder(folder: Path, tokenizer: str | None) -> Backbone:
    from clearclip.backbones import blip, hf_clip
    from clearclip.backbones.folder import read_config

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds neither config.json (Hugging Face) nor open_clip_config.json (open_clip): give a model's "
            "folder"
        )
    kind = read_config(folder / "config.json").get("model_type")
    if kind == "clip":
        return hf_clip.load(str(folder), tokenizer=tokenizer)
    if kind == "blip":
        return blip.load(str(folder), tokenizer=tokenizer)
    raise UnsupportedModelError(
        f"{folder} is a {kind!r} model, which the decomposition does not fit yet: use a 'clip' or 'blip' (retrieval) "
        "one"
    )


def _download(url: str) -> Path:
    import torch

    from clearclip.backbones.network import unreachable

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[1]
    if file.is_file():
        return file
    try:
        if reason := unreachable(url):
            raise ConnectionError(reason)
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file))
    except OSError as error:
        raise CheckpointError(
            f"{url} could not be downloaded ({error}). Without network: fetch it elsewhere and use --model FILE.pth "
            "--tokenizer FOLDER (bert-base-uncased); --model tiny (the embedded model) works offline"
        ) from error
    return file
