"""Adapter for open_clip's native ViTs: `ViT-B-16/tag`, `hf-hub:`, `local-dir:`, and model objects."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn

from clearclip.backbones.base import CLIP_VOCABULARY, Backbone, Block, TextEncoder, check_vocabulary, packed_qkv
from clearclip.backbones.folder import (
    CONFIG_BYTES,
    TOKENIZER_PATTERNS,
    check_shape,
    fetch,
    fetch_file,
    first_line,
    load_tokenizer,
    read_config,
    three_numbers,
)
from clearclip.backbones.network import cause_of
from clearclip.backbones.weights import read_weights, whose
from clearclip.errors import CheckpointError, UnsupportedModelError, UsageError, nearest
from clearclip.files.reading import read_text
from clearclip.protocol import CLIP_MEAN, CLIP_STD

KNOWN_WORDS = "known_words.txt"
CONFIG = "open_clip_config.json"
HUB_WEIGHTS = "open_clip_model.safetensors"
MODEL_SETTINGS = (
    "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias",
    "nonscalar_logit_scale",
)  # fmt: skip
TEXT_PARTS = ("token_embedding", "transformer", "ln_final", "text_projection", "positional_embedding")
"""What a plain text tower encodes with, of a model that may be the whole CLIP."""
OPENAI_NUMBERS = {"input_resolution", "context_length", "vocab_size"}
"""OpenAI's own files carry them beside the weights, which were trained with QuickGELU."""
TOKENIZER_OPTIONS = ("clean", "strip_sep_token")


def load(name: str, *, tokenizer: str | None = None) -> Backbone:
    """Load `ARCHITECTURE/TAG` or `ARCHITECTURE/FILE` as open_clip writes them, `hf-hub:ORG/NAME` or `local-dir:FOLDER`.

    A folder may hold `known_words.txt`, the words that the model was trained with, separated by white space: a label
    without any of them is then warned about. tokenizer is a Hugging Face folder or id to use instead of the model's
    own. `CheckpointError` also where the architecture has another activation than the weights were trained with.
    """
    if name.startswith("hf-hub:"):
        try:
            repository = name.removeprefix("hf-hub:")
            folder = fetch(repository, (CONFIG, "open_clip_*model.*", KNOWN_WORDS, *TOKENIZER_PATTERNS))
        except Exception as error:
            raise CheckpointError(_loading_failed(name, name, None, error)) from error
    elif name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
    else:
        return _load_known(name, tokenizer)
    backbone = _load_folder(folder, name, tokenizer)
    words = folder / KNOWN_WORDS
    if backbone.text is not None and words.is_file():
        try:
            known = frozenset(read_text(words, limit=CONFIG_BYTES).split())
        except OSError as error:
            raise CheckpointError(f"{words}: {error}") from error
        backbone.text = replace(backbone.text, known_words=known)
    return backbone


def _load_folder(folder: Path, name: str, tokenizer: str | None) -> Backbone:
    """A folder as open_clip saves it. Its configuration is data: no part of it may name another place."""
    file = _weights_file(folder, name)
    config = read_config(folder / CONFIG)
    shape: Any = config.get("model_cfg")
    try:
        text = {**shape["text_cfg"]}
        if shape["vision_cfg"].get("timm_model_name") or text.get("hf_model_name"):
            raise UnsupportedModelError(
                f"{name}: its configuration names a model of another library (timm_model_name or hf_model_name), which "
                "the decomposition does not fit, or which lies elsewhere: use one of open_clip's native ViTs; one that "
                "open_clip knows by name is loaded as ARCHITECTURE/TAG"
            )
        settings = {key: value for key, value in shape.items() if key in MODEL_SETTINGS}
        build = partial(_kind(shape), **settings)
        state = read_weights([file])
        check_shape(build, settings, [file])
        with _quiet():
            model = build()
            _fill(model, state)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(_loading_failed(name, "local-dir:", None, error)) from error
    own = str(folder) if text.get("hf_tokenizer_name") else None
    backbone = view(model, _words(name, tokenizer, own, text, model))
    backbone.name, backbone.weights_files = name, (file,)
    preprocess = config.get("preprocess_cfg", {})
    backbone.mean = three_numbers(preprocess, "mean", CLIP_MEAN)
    backbone.std = three_numbers(preprocess, "std", CLIP_STD)
    return backbone


def _load_known(name: str, tokenizer: str | None) -> Backbone:
    """An architecture that open_clip knows, with its weights or those of a file."""
    architecture, _, tag = name.partition("/")
    _check_tag(architecture, tag)
    try:
        with _quiet():
            row = open_clip.get_pretrained_cfg(architecture, tag)
            file = _download(row) if row else Path(tag)
            state = read_weights([file])
        preprocess = row or _settings_of(architecture, file, state)
        with _quiet():
            model = open_clip.create_model(
                architecture,
                pretrained=str(file) if row else None,
                weights_only=True,
                require_pretrained=bool(row),
                pretrained_image=False,
                pretrained_text=False,
                force_preprocess_cfg={key: preprocess[key] for key in ("mean", "std") if key in preprocess},
            )
            if not row:
                _fill(model, {key: value for key, value in state.items() if key not in OPENAI_NUMBERS})
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(_loading_failed(name, architecture, tag, error)) from error
    text = open_clip.get_model_config(architecture)["text_cfg"]
    backbone = view(model, _words(name, tokenizer, text.get("hf_tokenizer_name"), text, model))
    backbone.name, backbone.weights_files = name, (file,)
    return backbone


def _settings_of(architecture: str, file: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    """Mean and deviation for a file of weights alone: from the configuration beside it, or else as they are usual.

    `CheckpointError` where the weights are known to have been trained with another activation; a warning where nothing
    says it.
    """
    if "visual.conv1.weight" not in state and (other := whose(state, file)):
        raise CheckpointError(f"{architecture}/{file}: {other}")
    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if beside := read_config(file.with_name(CONFIG)) if file.with_name(CONFIG).is_file() else {}:
        shape: Any = beside.get("model_cfg", {})
        trained: bool | None = bool(shape.get("quick_gelu"))
        preprocess = beside.get("preprocess_cfg", {})
        statistics = {(three_numbers(preprocess, "mean", CLIP_MEAN), three_numbers(preprocess, "std", CLIP_STD))}
    else:
        trained = True if state.keys() >= OPENAI_NUMBERS else None
        tags = open_clip.pretrained.list_pretrained_tags_by_model(architecture)
        rows = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
        statistics = {(tuple(row.get("mean", CLIP_MEAN)), tuple(row.get("std", CLIP_STD))) for row in rows}
    if trained is not None and trained != quick:
        raise CheckpointError(_other_activation(architecture, str(file), trained=trained))
    mean, std = statistics.pop() if len(statistics) == 1 else (CLIP_MEAN, CLIP_STD)
    if trained is None and not quick and f"{architecture}-quickgelu" in open_clip.list_models():
        warnings.warn(
            f"{file} does not say with which activation it was trained: {architecture} computes with GELU; weights of "
            f"OpenAI, MetaCLIP and DFN need {architecture}-quickgelu. Its {CONFIG} beside it would say so",
            stacklevel=1,
        )
    return {"mean": mean, "std": std}


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model all its weights and no others; the text tower may stand at the top, as in a plain CLIP."""
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    for name, tensor in model.state_dict().items():
        if name in ("logit_scale", "logit_bias") and name in state:
            state[name] = state[name].reshape(tensor.shape)  # of an older form: a number, or a list of one
    _check_positions(model, state)
    report = model.load_state_dict(state, strict=False)
    for keys, what in ((report.missing_keys, "are missing"), (report.unexpected_keys, "belong to another one")):
        if keys:
            raise ValueError(f"{len(keys)} weights {what}, first: {keys[0]}")


def _check_positions(model: nn.Module, state: dict[str, Tensor]) -> None:
    """open_clip would stretch a position table of another model until it fits."""
    for name, tensor in model.state_dict().items():
        if name.endswith("positional_embedding") and name in state and state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name} has the shape {tuple(state[name].shape)}, the model's is {tuple(tensor.shape)}"
            )


def _kind(shape: dict[str, Any]) -> Any:
    """The class that open_clip makes of a configuration."""
    if not shape.get("custom_text"):
        return open_clip.CLIP
    return open_clip.CoCa if "multimodal_cfg" in shape else open_clip.CustomTextCLIP


def _words(name: str, given: str | None, own: str | None, text: dict[str, Any], model: Any) -> Any:
    """The tokenizer that was given, the checkpoint's own, or open_clip's plain one."""
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict):
        raise CheckpointError(f"{name}: its tokenizer_kwargs are {options!r:.60}: an object is needed")
    unknown = sorted(set(options) - set(TOKENIZER_OPTIONS))
    if unknown and given is None:
        raise CheckpointError(
            f"{name}: its configuration gives the tokenizer {', '.join(map(repr, unknown))}; only "
            f"{' and '.join(TOKENIZER_OPTIONS)} may be given"
        )
    context = getattr(model, "text", model).context_length
    known = {key: options[key] for key in TOKENIZER_OPTIONS if key in options}
    try:
        with _quiet():
            if given is not None or own:
                mode = text.get("tokenizer_mode")
                make = partial(HFTokenizer, context_length=context, tokenizer_mode=mode, **known)
                return load_tokenizer(str(given or own), make)
            known.pop("strip_sep_token", None)  # a plain one has no such token
            return open_clip.SimpleTokenizer(context_length=context, **known)
    except Exception as error:
        raise CheckpointError(f"{given or name}: its tokenizer cannot be loaded ({first_line(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs to the root logger and warns; what matters of it is in our errors."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def _check_tag(architecture: str, tag: str) -> None:
    if architecture not in open_clip.list_models():
        raise UsageError(
            f"architecture {architecture!r} is not known to open_clip: {nearest(architecture, open_clip.list_models())}"
        )
    if Path(tag).is_file():
        return
    tags = open_clip.pretrained.list_pretrained_tags_by_model(architecture)
    row = open_clip.get_pretrained_cfg(architecture, tag)
    if not row:
        raise UsageError(f"{architecture} has no weights {tag!r} and no such file exists: {nearest(tag, tags)}")
    trained = bool(row.get("quick_gelu"))
    if trained != bool(open_clip.get_model_config(architecture).get("quick_gelu")):
        raise CheckpointError(_other_activation(architecture, tag, trained=trained))


def _other_activation(architecture: str, tag: str, *, trained: bool) -> str:
    quick, plain = f"{architecture.removesuffix('-quickgelu')}-quickgelu", architecture.removesuffix("-quickgelu")
    names = ("QuickGELU", "GELU") if trained else ("GELU", "QuickGELU")
    return (
        f"{architecture}/{tag}: the weights were trained with {names[0]}, the architecture has {names[1]}; it would "
        f"run and be wrong. Use {quick if trained else plain}/{tag}"
    )


def _weights_file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"{name}: there is no such folder")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{name}: the folder has no {CONFIG}; give a folder as open_clip saves it")
    with _quiet():
        found = open_clip.factory._find_checkpoint_in_dir(folder)
    if found is None:
        raise CheckpointError(f"{name}: the folder has no weights (open_clip_model.safetensors)")
    return Path(found)


def _download(row: Mapping[str, Any]) -> Path:
    """The weights of a row of open_clip's: safetensors of the hub where it has them, else what open_clip finds."""
    repository, _, file = str(row.get("hf_hub", "")).rpartition("/")
    if repository:
        try:
            return fetch_file(repository, (file or HUB_WEIGHTS).replace(".bin", ".safetensors"))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
    return Path(open_clip.download_pretrained(dict(row)))


def _loading_failed(name: str, architecture: str, tag: str | None, error: Exception) -> str:
    cause = first_line(error)
    if architecture.startswith("local-dir:") or (tag is not None and Path(tag).is_file()):
        return f"{name}: the weights do not fit the architecture or are damaged ({cause})"
    row = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    home = str(row.get("hf_hub", "")).rstrip("/") or architecture.removeprefix("hf-hub:")
    return (
        f"{name} could not be downloaded ({cause_of(error)}). Without network: put open_clip_config.json and "
        f"open_clip_model.safetensors of https://huggingface.co/{home} into a folder and use --model local-dir:FOLDER; "
        "--model tiny (the embedded model) works offline"
    )


def view(model: Any, tokenizer: Any = None) -> Backbone:
    """See an open_clip model as a backbone; tokenizer is what `open_clip.get_tokenizer` returns.

    Without one CLIP's own is taken if the vocabulary has its 49,408 entries. `UnsupportedModelError` if the vision
    tower is no native ViT with plain blocks.
    """
    visual = model.visual
    if not isinstance(visual, VisionTransformer):
        raise UnsupportedModelError(
            f"{type(model).__name__} has a {type(visual).__name__} vision tower, which the decomposition does not fit "
            "yet (a ResNet has no residual stream of tokens, a timm trunk has other blocks): use one of open_clip's "
            "native ViTs, for instance ViT-B-16"
        )
    if visual.attn_pool is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} pools with attention, so its patch tokens do not live in the text space: use a "
            "model whose class token is projected, for instance ViT-B-16"
        )
    for block in visual.transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock) or not isinstance(block.attn, nn.MultiheadAttention):
            raise UnsupportedModelError(
                f"{type(model).__name__} has {type(block).__name__} blocks with changed attention (scaled cosine, "
                "query-key norm or head scales), which the decomposition does not fit yet: use a plain ViT"
            )
    if visual.patch_size[0] != visual.patch_size[1]:
        raise UnsupportedModelError(
            f"patches of {visual.patch_size} pixels are not square: use a model with square ones"
        )
    model.eval()
    preprocess = getattr(visual, "preprocess_cfg", {})
    text, no_text = _text(model, tokenizer)
    return Backbone(
        name=type(model).__name__,
        model=model,
        blocks=[_block(block) for block in visual.transformer.resblocks],
        heads=visual.transformer.resblocks[0].attn.num_heads,
        width=visual.transformer.width,
        embed_dim=visual.output_dim if visual.proj is not None else visual.transformer.width,
        patch_size=visual.patch_size[0],
        native_grid=tuple(visual.grid_size),
        embed_patches=visual.conv1,
        prefix_tokens=lambda: visual.class_embedding[None],
        position_table=lambda: visual.positional_embedding,
        ln_pre=visual.ln_pre,
        head=partial(_head, visual),
        text=text,
        no_text=no_text,
        mean=tuple(preprocess.get("mean", CLIP_MEAN)),
        std=tuple(preprocess.get("std", CLIP_STD)),
    )


def _head(visual: Any, tokens: Tensor) -> Tensor:
    normed: Tensor = visual.ln_post(tokens)
    return normed if visual.proj is None else normed @ visual.proj


def _block(block: Any) -> Block:
    attention = block.attn
    return Block(
        forward=lambda tokens, grid_size: block(tokens),
        ln_1=block.ln_1,
        qkv=packed_qkv(lambda: (attention.in_proj_weight, attention.in_proj_bias)),
        out_proj=lambda tokens: block.ls_1(attention.out_proj(tokens)),
        ln_2=block.ln_2,
        mlp=lambda tokens: block.ls_2(block.mlp(tokens)),
    )


def _text(model: Any, tokenizer: Any) -> tuple[TextEncoder | None, str]:
    tower = getattr(model, "text", model)
    if tokenizer is None:
        vocabulary = getattr(tower, "vocab_size", None)
        if vocabulary != CLIP_VOCABULARY:
            return None, (
                f"an open_clip model carries no tokenizer, and its vocabulary of {vocabulary} is not CLIP's own of "
                f"{CLIP_VOCABULARY}: pass one, as in clearclip.view(model, open_clip.get_tokenizer(...))"
            )
        tokenizer = open_clip.SimpleTokenizer(context_length=tower.context_length)
    context = int(tower.context_length)
    words = getattr(tokenizer, "tokenizer", None)  # Hugging Face's, inside open_clip's HFTokenizer
    if words is not None:
        check_vocabulary(len(words), tower.vocab_size)
    if words is None and getattr(tokenizer, "vocab_size", 0) > tower.vocab_size:
        return None, (
            f"CLIP's own tokenizer has {tokenizer.vocab_size} entries, its vocabulary {tower.vocab_size}: pass its "
            "own, as in clearclip.view(model, tokenizer) or --tokenizer FOLDER"
        )
    pad_id = int(tokenizer("", context_length=context)[0, -1])
    ends_with_pad = words is not None and words.eos_token_id == pad_id
    plain = isinstance(tower, (open_clip.CLIP, TextTransformer)) and getattr(tower, "attn_mask", None) is not None
    trimmable = plain and _pool_type(tower) in ("argmax", "eos", "first") and getattr(tower, "cls_emb", None) is None
    return (
        TextEncoder(
            tokenize=partial(_tokenize, tokenizer, context, pad_id, ends_with_pad),
            encode=partial(_encode_trimmed, tower) if trimmable else partial(_encode_full, model, context, pad_id),
            context_length=context,
            pad_id=pad_id,
            tokenizer=tokenizer,
            modules=tuple(getattr(tower, part) for part in TEXT_PARTS) if plain else (tower,),
        ),
        "",
    )


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", None) or tower.pool_type)


def _tokenize(tokenizer: Any, context: int, pad_id: int, ends_with_pad: bool, texts: list[str]) -> list[list[int]]:
    """Ids without the padding, whose first one is the end token of a tokenizer that pads with it (CLIP's at HF)."""
    rows = tokenizer(texts, context_length=4 * context)
    lengths = rows.shape[1] - (rows != pad_id).flip(1).int().argmax(dim=1) + int(ends_with_pad)
    return [row[:length] for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)]


def _encode_full(model: Any, context: int, pad_id: int, ids: Tensor, mask: Tensor) -> Tensor:
    encoded: Tensor = model.encode_text(nn.functional.pad(ids, (0, context - ids.shape[1]), value=pad_id))
    return encoded


def _encode_trimmed(tower: Any, ids: Tensor, mask: Tensor) -> Tensor:
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    tokens = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    tokens = tower.ln_final(tower.transformer(tokens, attn_mask=tower.attn_mask[:length, :length]))
    end_id = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    pooled: Tensor = open_clip.transformer.text_global_pool(tokens, ids, _pool_type(tower), eos_token_id=end_id)
    if isinstance(tower.text_projection, nn.Module):
        pooled = tower.text_projection(pooled)
    elif tower.text_projection is not None:
        pooled = pooled @ tower.text_projection
    return pooled
