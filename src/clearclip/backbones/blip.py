"""Adapter for BLIP's retrieval models: Hugging Face folders and ids, Salesforce's `.pth`, and model objects.

Both file formats become transformers' `BlipForImageTextRetrieval`; Salesforce's parameter names are translated here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval

from clearclip.backbones.base import Backbone, Block, TextEncoder, check_vocabulary, packed_qkv
from clearclip.backbones.folder import first_line, load_tokenizer
from clearclip.backbones.hf_clip import block_hf, load_hf, load_words, view_hf
from clearclip.backbones.network import offline_if_unreachable
from clearclip.backbones.weights import read_weights, whose
from clearclip.errors import CheckpointError

CONTEXT_LENGTH = 35
LAYER_NORM_EPS = 1e-6

_RENAMED = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)


def load(name: str, *, tokenizer: str | None = None) -> Backbone:
    """Load a Hugging Face BLIP retrieval model (hub id or folder) with the paper's vision LayerNorm ε of 1e-6."""
    return load_hf(BlipForImageTextRetrieval, name, view, tokenizer, eps=LAYER_NORM_EPS)


def load_salesforce(file: Path, *, tokenizer: str | None = None) -> Backbone:
    """Load a `.pth` (with `weights_only=True`) or `.safetensors` file with Salesforce's parameter names.

    The default tokenizer is bert-base-uncased with `[DEC]` and `[ENC]` added.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file")
    state, metadata = read_weights([file]), _metadata(file)
    if "visual_encoder.patch_embed.proj.weight" not in state:
        known = ", ".join(sorted(state)[:3])
        other = whose(state, file) or f"no visual_encoder.patch_embed…; it begins with {known}"
        raise CheckpointError(f"{file} holds no BLIP ({other})")
    has_text = "text_encoder.embeddings.word_embeddings.weight" in state and "text_proj.weight" in state
    try:
        config = _config(state, metadata, file, has_text=has_text)
        model = BlipForImageTextRetrieval(config)
    except KeyError as error:
        raise CheckpointError(f"{file}: it is no retrieval model of BLIP, {error} is missing") from error
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{file}: no model can be made of its shapes ({first_line(error)})") from error
    renamed = {_rename(name): tensor for name, tensor in state.items()}
    wanted = {
        name
        for name in model.state_dict()
        if name.startswith(("vision_model.", "vision_proj."))
        or (has_text and name.startswith(("text_encoder.", "text_proj.")) and "crossattention" not in name)
    }
    try:
        report = model.load_state_dict({name: renamed[name] for name in wanted if name in renamed}, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{file}: the weights do not fit together ({str(error).splitlines()[-1].strip()})"
        ) from error
    missing = sorted(wanted & set(report.missing_keys) - {"text_encoder.embeddings.position_ids"})
    if missing:
        raise CheckpointError(f"{file}: {len(missing)} weights are missing (first: {missing[0]})")
    words, no_text = _bert(tokenizer) if has_text else (None, "its file holds the vision tower only")
    backbone = view(model, words)
    backbone.name, backbone.weights_files, backbone.no_text = str(file), (file,), no_text
    return backbone


def _metadata(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return {}
    with safe_open(str(file), "pt") as opened:
        metadata = opened.metadata() or {}
    try:
        return dict(json.loads(metadata.get("config", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: its configuration cannot be read ({error})") from error


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def _config(state: dict[str, Tensor], metadata: dict[str, Any], file: Path, *, has_text: bool) -> BlipConfig:
    patch = state["visual_encoder.patch_embed.proj.weight"]
    width, side = patch.shape[0], patch.shape[-1]
    grid = round((state["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
    if grid * grid != state["visual_encoder.pos_embed"].shape[1] - 1:
        raise CheckpointError(f"{file}: the position table is not square")
    layers = len({name.split(".")[2] for name in state if name.startswith("visual_encoder.blocks.")})
    vision = {
        "hidden_size": width,
        "intermediate_size": state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": metadata.get("heads", max(1, width // 64)),
        "image_size": grid * side,
        "patch_size": side,
        "layer_norm_eps": LAYER_NORM_EPS,
    }
    text: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1}
    if has_text:
        words = state["text_encoder.embeddings.word_embeddings.weight"]
        depth = len({name.split(".")[3] for name in state if name.startswith("text_encoder.encoder.layer.")})
        text = {
            "vocab_size": words.shape[0],
            "hidden_size": words.shape[1],
            "num_hidden_layers": depth,
            "num_attention_heads": max(1, words.shape[1] // 64),
            "intermediate_size": state["text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "max_position_embeddings": state["text_encoder.embeddings.position_embeddings.weight"].shape[0],
        }
    text |= {"encoder_hidden_size": width, "projection_dim": 8}
    return BlipConfig(
        vision_config=vision, text_config=text, image_text_hidden_size=state["vision_proj.weight"].shape[0]
    )


def _bert(tokenizer: str | None) -> tuple[Any, str]:
    if tokenizer is not None:
        return load_words(tokenizer, Path()), ""
    try:
        with offline_if_unreachable():
            words = load_tokenizer("bert-base-uncased")
    except Exception:
        return None, (
            "its file carries no tokenizer, and bert-base-uncased could not be downloaded. Put tokenizer.json, "
            "tokenizer_config.json and vocab.txt of https://huggingface.co/google-bert/bert-base-uncased into a folder "
            "and use --tokenizer FOLDER"
        )
    words.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return words, ""


def view(model: Any, tokenizer: Any = None) -> Backbone:
    """See a `BlipForImageTextRetrieval` as a backbone; without a tokenizer (BERT's, with `[DEC]`) words are refused.

    transformers' default LayerNorm ε for BLIP is 1e-5, the original's 1e-6: a model of your own keeps what it has.
    """
    vision, embeddings = model.vision_model, model.vision_model.embeddings
    text = None
    if tokenizer is not None:
        check_vocabulary(len(tokenizer), model.text_encoder.embeddings.word_embeddings.num_embeddings)
        text = TextEncoder(
            tokenize=lambda texts: tokenizer(texts, truncation=False, verbose=False)["input_ids"],
            encode=lambda ids, mask: model.text_proj(
                model.text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, 0]
            ),
            context_length=min(CONTEXT_LENGTH, model.text_encoder.config.max_position_embeddings),
            pad_id=int(tokenizer.pad_token_id or 0),
            tokenizer=tokenizer,
            modules=(model.text_encoder, model.text_proj),
        )
    return view_hf(
        model,
        _block,
        embed_dim=model.vision_proj.out_features,
        prefix_tokens=lambda: embeddings.class_embedding[0],
        position_table=lambda: embeddings.position_embedding[0],
        ln_pre=lambda tokens: tokens,
        head=lambda tokens: model.vision_proj(vision.post_layernorm(tokens)),
        text=text,
        no_text="a BLIP checkpoint carries no tokenizer: pass one, as in clearclip.view(model, tokenizer) or "
        "--tokenizer FOLDER",
        position_resize="size",
        square_windows=True,
    )


def _block(layer: Any) -> Block:
    qkv = layer.self_attn.qkv
    packed = packed_qkv(lambda: (qkv.weight, qkv.bias))
    return block_hf(layer, qkv=packed, out_proj=layer.self_attn.projection)
