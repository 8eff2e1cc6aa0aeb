"""Adapter for Hugging Face's `CLIPModel`: hub ids, folders and model objects."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel
from transformers.utils import logging as transformers_logging

from clearclip.backbones.base import Backbone, Block, TextEncoder
from clearclip.errors import CheckpointError, UnsupportedModelError
from clearclip.protocol import CLIP_MEAN, CLIP_STD

CLIP_VOCABULARY = 49_408


def is_hf_clip(model: object) -> bool:
    """Whether a model object is Hugging Face's CLIP.

    Args:
        model: Any object.

    Returns:
        True for `transformers.CLIPModel`.
    """
    return isinstance(model, CLIPModel)


def load(name: str, *, tokenizer: str | None = None) -> Backbone:
    """Load a `CLIPModel`.

    Args:
        name: Hub id or folder.
        tokenizer: Tokenizer folder or id to use instead of the model's own.

    Returns:
        The view, in float32 on the CPU.

    Raises:
        CheckpointError: The weights are missing, damaged, of another kind, or cannot be downloaded.
    """
    model = load_hf(CLIPModel, name)
    folder = Path(name)
    backbone = view(model, load_tokenizer(tokenizer or name, required=tokenizer is not None))
    backbone.name = name
    file = folder / "model.safetensors"
    backbone.weights_file = file if file.is_file() else None
    config = folder / "preprocessor_config.json"
    if config.is_file():
        preprocess = json.loads(config.read_text(encoding="utf-8"))
        backbone.mean = tuple(preprocess.get("image_mean", CLIP_MEAN))
        backbone.std = tuple(preprocess.get("image_std", CLIP_STD))
    return backbone


def load_hf(kind: Any, name: str, **options: Any) -> Any:
    """Load a transformers model of a kind and insist that every weight came from the checkpoint.

    Args:
        kind: Model class.
        name: Hub id or folder.
        **options: Passed to `from_pretrained`.

    Returns:
        The model, in float32.

    Raises:
        CheckpointError: As `load`.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if Path(name).is_dir():
            raise CheckpointError(
                f"{name}: the folder's weights cannot be loaded as {kind.__name__} ({cause})"
            ) from error
        raise CheckpointError(
            f"{name} could not be downloaded ({cause}). Without network: put the files of "
            f"https://huggingface.co/{name} (config.json, model.safetensors, tokenizer files) into a folder and use "
            "--model FOLDER; --model tiny (the embedded model) works offline"
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    missing = sorted(set(report["missing_keys"]))
    if missing:
        raise CheckpointError(
            f"{name}: {len(missing)} weights are not in the checkpoint (first: {missing[0]}); it is no {kind.__name__}"
        )
    return model


def load_tokenizer(name: str, *, required: bool) -> Any:
    """Load a Hugging Face tokenizer.

    Args:
        name: Folder or hub id.
        required: Whether its absence is an error.

    Returns:
        The tokenizer, or `None`.

    Raises:
        CheckpointError: It is required and cannot be loaded.
    """
    folder = Path(name)
    if (
        folder.is_dir()
        and not required
        and not any(folder.glob("*vocab*"))
        and not (folder / "tokenizer.json").is_file()
    ):
        return None
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        if not required:
            return None
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"tokenizer {name} cannot be loaded ({cause}): give a folder with tokenizer.json or vocab.txt, "
            "--tokenizer FOLDER"
        ) from error


def view(model: Any, tokenizer: Any = None) -> Backbone:
    """See a Hugging Face CLIP model as a backbone; it is put into evaluation mode and otherwise left alone.

    Args:
        model: A `CLIPModel`.
        tokenizer: A Hugging Face tokenizer, or anything `AutoTokenizer` returns. Without one CLIP's own is taken where
            the vocabulary has 49,408 entries.

    Returns:
        The view.

    Raises:
        UnsupportedModelError: The tokenizer has more entries than the model's vocabulary.
    """
    model.eval()
    vision = model.vision_model
    embeddings = vision.embeddings
    grid = embeddings.image_size // embeddings.patch_size
    text, no_text = _text(model, tokenizer)
    return Backbone(
        name=type(model).__name__,
        model=model,
        blocks=[_block(layer) for layer in vision.encoder.layers],
        heads=vision.encoder.layers[0].self_attn.num_heads,
        width=embeddings.embed_dim,
        embed_dim=model.projection_dim,
        patch_size=embeddings.patch_size,
        native_grid=(grid, grid),
        embed_patches=embeddings.patch_embedding,
        class_embedding=lambda: embeddings.class_embedding,
        position_table=lambda: embeddings.position_embedding.weight,
        ln_pre=vision.pre_layrnorm,
        head=lambda tokens: model.visual_projection(vision.post_layernorm(tokens)),
        text=text,
        no_text=no_text,
    )


def _block(layer: Any) -> Block:
    attention = layer.self_attn
    return Block(
        forward=partial(_forward, layer),
        ln_1=layer.layer_norm1,
        qkv={
            "q": lambda: (attention.q_proj.weight, attention.q_proj.bias),
            "k": lambda: (attention.k_proj.weight, attention.k_proj.bias),
            "v": lambda: (attention.v_proj.weight, attention.v_proj.bias),
        },
        out_proj=attention.out_proj,
        ln_2=layer.layer_norm2,
        mlp=layer.mlp,
    )


def _forward(layer: Any, tokens: Tensor) -> Tensor:
    out = layer(tokens, attention_mask=None)
    return out if isinstance(out, Tensor) else out[0]


def _text(model: Any, tokenizer: Any) -> tuple[TextEncoder | None, str]:
    vocabulary = model.text_model.config.vocab_size
    context = int(model.text_model.config.max_position_embeddings)
    if tokenizer is None:
        if vocabulary != CLIP_VOCABULARY:
            return None, (
                f"no tokenizer came with it, and its vocabulary of {vocabulary} is not CLIP's own of "
                f"{CLIP_VOCABULARY}: pass one, as in clearclip.view(model, tokenizer) or --tokenizer FOLDER"
            )
        import open_clip

        clip_words = open_clip.SimpleTokenizer(context_length=context)
        ends = (clip_words.sot_token_id, clip_words.eot_token_id)

        def tokenize(texts: list[str]) -> list[list[int]]:
            return [[ends[0], *clip_words.encode(text), ends[1]] for text in texts]

        pad_id = ends[1]
    else:
        if len(tokenizer) > vocabulary:
            raise UnsupportedModelError(
                f"the tokenizer has {len(tokenizer)} entries, the model's vocabulary {vocabulary}: give the model's own"
            )

        def tokenize(texts: list[str]) -> list[list[int]]:
            rows: list[list[int]] = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            return rows

        pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
    return (
        TextEncoder(
            tokenize=tokenize,
            encode=partial(_encode, model),
            context_length=context,
            pad_id=pad_id,
            modules=(model.text_model, model.text_projection),
        ),
        "",
    )


def _encode(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    pooled = model.text_model(input_ids=ids).pooler_output
    projected: Tensor = model.text_projection(pooled)
    return projected
