"""Adapter for Hugging Face's `CLIPModel`: hub ids, folders and model objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel
from transformers.utils import logging as transformers_logging

from clearclip.backbones.base import CLIP_VOCABULARY, Backbone, Block, Linear, Map, TextEncoder, check_vocabulary
from clearclip.backbones.folder import (
    PREPROCESSING,
    TOKENIZER_FILES,
    TOKENIZER_PATTERNS,
    check_shape,
    fetch,
    first_line,
    load_tokenizer,
    pixel_statistics,
    read_config,
)
from clearclip.backbones.network import cause_of
from clearclip.backbones.weights import read_weights
from clearclip.errors import CheckpointError

TOWER_SETTINGS = (
    "hidden_size", "intermediate_size", "encoder_hidden_size", "projection_dim", "num_hidden_layers",
    "num_attention_heads", "num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps", "vocab_size",
    "max_position_embeddings", "is_decoder", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
)  # fmt: skip
MODEL_SETTINGS = (
    "text_config", "vision_config", "text_config_dict", "vision_config_dict", "projection_dim",
    "image_text_hidden_size", "logit_scale_init_value",
)  # fmt: skip


def load(name: str, *, tokenizer: str | None = None) -> Backbone:
    """Load a `CLIPModel` by hub id or folder; tokenizer is a folder or id to use instead of the model's own."""
    return load_hf(CLIPModel, name, view, tokenizer)


def load_hf(
    kind: Any, name: str, see: Callable[[Any, Any], Backbone], tokenizer: str | None, *, eps: float | None = None
) -> Backbone:
    """A folder's transformers model in float32 as a backbone; its files must hold every weight.

    `eps` replaces the vision tower's LayerNorm ε; of the configuration only the listed settings are used.
    """
    folder = Path(name)
    files = _weights_files(folder)
    state = read_weights(files)
    settings = _allowed(read_config(folder / "config.json"), MODEL_SETTINGS)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = kind.config_class(**settings)
        if eps is not None:
            config.vision_config.layer_norm_eps = eps
        check_shape(partial(kind, config), settings, files)
        model, report = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{name}: the folder's weights cannot be loaded as {kind.__name__} ({first_line(error)})"
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    missing = sorted(set(report["missing_keys"]))
    if missing:
        raise CheckpointError(
            f"{name}: {len(missing)} weights are not in the checkpoint (first: {missing[0]}); it is no {kind.__name__}"
        )
    backbone = see(model, load_words(tokenizer, folder))
    backbone.name, backbone.weights_files = name, files
    backbone.mean, backbone.std = pixel_statistics(folder)
    return backbone


def fetch_model(name: str) -> Path:
    """The folder of a repository of the hub with a transformers model, as `fetch`."""
    wanted = (*PREPROCESSING, *TOKENIZER_PATTERNS)
    try:
        folder = fetch(name, (*wanted, "model*.safetensors", "model.safetensors.index.json"))
        if not any(folder.glob("model*.safetensors")):
            folder = fetch(name, (*wanted, "pytorch_model*.bin", "pytorch_model.bin.index.json"))
        return folder
    except Exception as error:
        raise CheckpointError(
            f"{name} could not be downloaded ({cause_of(error)}). Without network: put the files of "
            f"https://huggingface.co/{name} (config.json, model.safetensors, tokenizer files) into a folder and use "
            "--model FOLDER; --model tiny (the embedded model) works offline"
        ) from error


def _weights_files(folder: Path) -> tuple[Path, ...]:
    """Of a folder, in the order transformers prefers them: one file, or the parts that an index lists."""
    for file in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if file.is_file():
            return (file,)
        index = file.with_name(f"{file.name}.index.json")
        if index.is_file():
            parts = read_config(index).get("weight_map")
            names = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
            for name in names:
                if Path(name).name != name or "\\" in name or Path(name).suffix != file.suffix:
                    raise CheckpointError(f"{index} lists {name!r}: the parts are {file.suffix} files beside it")
            return tuple(folder / name for name in names)
    raise CheckpointError(f"{folder}: the folder has no weights (model.safetensors)")


def _allowed(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The listed settings of a model and of its towers."""
    return {
        key: _allowed(value, TOWER_SETTINGS) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key in names
    }


def load_words(given: str | None, folder: Path) -> Any:
    """The tokenizer that was given, else the one in the model's folder, else `None`."""
    if given is None and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    try:
        return load_tokenizer(given or str(folder))
    except Exception as error:
        raise CheckpointError(
            f"tokenizer {given or folder} cannot be loaded ({first_line(error)}): give a folder with tokenizer.json or "
            "vocab.txt, --tokenizer FOLDER"
        ) from error


def view(model: Any, tokenizer: Any = None) -> Backbone:
    """See a `CLIPModel` as a backbone; without a tokenizer CLIP's own is taken if the vocabulary has its 49,408."""
    vision = model.vision_model
    embeddings = vision.embeddings
    text, no_text = _text(model, tokenizer)
    return view_hf(
        model,
        _block,
        embed_dim=model.projection_dim,
        prefix_tokens=lambda: embeddings.class_embedding[None],
        position_table=lambda: embeddings.position_embedding.weight,
        ln_pre=vision.pre_layrnorm,
        head=lambda tokens: model.visual_projection(vision.post_layernorm(tokens)),
        text=text,
        no_text=no_text,
    )


def view_hf(model: Any, block: Callable[[Any], Block], **own: Any) -> Backbone:
    """A model of transformers as a backbone: what its kinds have in common, and what is its `own`."""
    model.eval()
    vision, embeddings = model.vision_model, model.vision_model.embeddings
    grid = embeddings.image_size // embeddings.patch_size
    return Backbone(
        name=type(model).__name__,
        model=model,
        blocks=[block(layer) for layer in vision.encoder.layers],
        heads=vision.encoder.layers[0].self_attn.num_heads,
        width=embeddings.embed_dim,
        patch_size=embeddings.patch_size,
        native_grid=(grid, grid),
        embed_patches=embeddings.patch_embedding,
        **own,
    )


def block_hf(layer: Any, *, qkv: Mapping[str, Callable[[], Linear]], out_proj: Map, **options: Any) -> Block:
    """A layer of transformers as a block; in some versions it returns a tuple, whose first is the tensor."""

    def forward(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
        output = layer(tokens, **options)
        return output if isinstance(output, Tensor) else output[0]

    return Block(forward, layer.layer_norm1, qkv, out_proj, layer.layer_norm2, layer.mlp)


def _block(layer: Any) -> Block:
    attention = layer.self_attn
    projections = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}
    qkv = {name: partial(_weight_and_bias, projection) for name, projection in projections.items()}
    return block_hf(layer, qkv=qkv, out_proj=attention.out_proj, attention_mask=None)


def _weight_and_bias(linear: Any) -> Linear:
    return linear.weight, linear.bias


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

        pad_id, tokenizer = ends[1], clip_words
    else:
        check_vocabulary(len(tokenizer), vocabulary)

        def tokenize(texts: list[str]) -> list[list[int]]:
            rows: list[list[int]] = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            return rows

        pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
    return (
        TextEncoder(
            tokenize=tokenize,
            encode=lambda ids, mask: model.text_projection(model.text_model(input_ids=ids).pooler_output),
            context_length=context,
            pad_id=pad_id,
            tokenizer=tokenizer,
            modules=(model.text_model, model.text_projection),
        ),
        "",
    )
