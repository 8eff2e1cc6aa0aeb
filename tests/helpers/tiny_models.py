"""Tiny models with random weights in the real libraries' classes and the real file formats."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

VISION = {"image_size": 32, "layers": 8, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def shake(model, seed=0):
    """Random values everywhere: fresh models have zero biases and unit norms, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                fan = parameter.shape[-1] if parameter.ndim == 2 else 64
                parameter.copy_(noise * (0.5 if "embed" in name else 1.5 * fan**-0.5))
    return model.eval()


def open_clip_model(kind=open_clip.CLIP, *, quick_gelu=True, vision=None, text=None, seed=0):
    model = kind(
        embed_dim=48, vision_cfg={**VISION, **(vision or {})}, text_cfg={**TEXT, **(text or {})}, quick_gelu=quick_gelu
    )
    return shake(model, seed)


def save_open_clip(model, folder: Path, *, quick_gelu=True, vision=None, text=None) -> Path:
    """A folder as open_clip's `save_pretrained` leaves it."""
    folder.mkdir(parents=True)
    config = {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": {**VISION, **(vision or {})},
            "text_cfg": {**TEXT, **(text or {})},
            "quick_gelu": quick_gelu,
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def hf_clip_of(model, *, quick_gelu=True):
    """The same weights as transformers' `CLIPModel`."""
    from transformers import CLIPConfig, CLIPModel

    act = "quick_gelu" if quick_gelu else "gelu"
    config = CLIPConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": len(model.visual.transformer.resblocks),
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "hidden_act": act,
            "projection_dim": 48,
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "hidden_act": act,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
            "projection_dim": 48,
        },
        projection_dim=48,
    )
    state = {
        "logit_scale": model.logit_scale,
        "visual_projection.weight": model.visual.proj.T,
        "text_projection.weight": model.text_projection.T,
        "vision_model.embeddings.class_embedding": model.visual.class_embedding,
        "vision_model.embeddings.patch_embedding.weight": model.visual.conv1.weight,
        "vision_model.embeddings.position_embedding.weight": model.visual.positional_embedding,
        "text_model.embeddings.token_embedding.weight": model.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": model.positional_embedding,
    }
    norms = {
        "vision_model.pre_layrnorm": model.visual.ln_pre,
        "vision_model.post_layernorm": model.visual.ln_post,
        "text_model.final_layer_norm": model.ln_final,
    }
    for tower, blocks in (
        ("vision_model", model.visual.transformer.resblocks),
        ("text_model", model.transformer.resblocks),
    ):
        for index, block in enumerate(blocks):
            layer = f"{tower}.encoder.layers.{index}"
            norms |= {f"{layer}.layer_norm1": block.ln_1, f"{layer}.layer_norm2": block.ln_2}
            norms |= {f"{layer}.mlp.fc1": block.mlp.c_fc, f"{layer}.mlp.fc2": block.mlp.c_proj}
            norms |= {f"{layer}.self_attn.out_proj": block.attn.out_proj}
            weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
            for name, weight, bias in zip("qkv", weights, biases, strict=True):
                state |= {f"{layer}.self_attn.{name}_proj.weight": weight, f"{layer}.self_attn.{name}_proj.bias": bias}
    for name, module in norms.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    converted = CLIPModel(config)
    report = converted.load_state_dict({k: v.detach().clone() for k, v in state.items()}, strict=False)
    assert not report.unexpected_keys
    assert all(key.endswith("position_ids") for key in report.missing_keys), report.missing_keys
    return converted.eval()


def save_clip_words(folder: Path) -> Path:
    """CLIP's own tokenizer as Hugging Face's files, from open_clip's copy of its merges."""
    from transformers import CLIPTokenizerFast

    words = open_clip.SimpleTokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(word, word): index for word, index in words.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in words.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(
        folder
    )
    return folder


def save_word_pieces(folder: Path) -> Path:
    """A BERT tokenizer of letters and a few words, with BLIP's two further tokens."""
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!-'"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "sky", "horse", "grass", "##s"]
    words += [letter for letter in letters if letter not in words] + [
        f"##{letter}" for letter in letters if letter != "s"
    ]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(vocabulary))
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    tokenizer.save_pretrained(folder)
    return folder


def blip_model(*, eps=1e-6, seed=3, vocabulary=128):
    """transformers' BLIP for retrieval."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    config = BlipConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 1,
            "image_size": 32,
            "patch_size": 8,
            "layer_norm_eps": eps,
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "encoder_hidden_size": 64,
            "projection_dim": 24,
        },
        image_text_hidden_size=24,
        projection_dim=24,
    )
    return shake(BlipForImageTextRetrieval(config), seed)


def salesforce_state(model):
    """A BLIP's weights under the names of Salesforce's `.pth` files, some of which we do not need."""
    state = {}
    for name, tensor in model.state_dict().items():
        tail = name.removeprefix("vision_model.")
        if tail == name:
            state[name] = tensor
            continue
        for old, new in (
            ("embeddings.class_embedding", "cls_token"),
            ("embeddings.position_embedding", "pos_embed"),
            ("embeddings.patch_embedding.", "patch_embed.proj."),
            ("post_layernorm.", "norm."),
            ("encoder.layers.", "blocks."),
            ("self_attn.projection.", "attn.proj."),
            ("self_attn.", "attn."),
            ("layer_norm", "norm"),
        ):
            tail = tail.replace(old, new)
        state[f"visual_encoder.{tail}"] = tensor
    state |= {
        f"visual_encoder_m.{k.removeprefix('visual_encoder.')}": v for k, v in list(state.items()) if "visual" in k
    }
    return {k: v.clone().contiguous() for k, v in state.items()} | {"queue_ptr": torch.zeros(1), "temp": torch.ones([])}


@contextmanager
def counted(backbone):
    """How often each of the library's own blocks runs."""
    counts = Counter()
    blocks = list(backbone.model.visual.transformer.resblocks)
    hooks = [
        block.register_forward_hook(lambda *_, index=index: counts.update([index]))
        for index, block in enumerate(blocks)
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
