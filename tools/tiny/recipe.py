"""The training recipe as one value, and the open_clip folder that it describes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearclip.files.outputs import Outputs
from clearclip.scenes.classes import CLASSES, COLOURS, OTHER_WORDS, PARTS
from tools.tiny.words import CONTEXT_LENGTH, save_tokenizer

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
TOKENIZER_NAME = "tokenizer.json"
WORDS_NAME = "known_words.txt"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run's numbers.

    Attributes:
        steps: Length of the run and of the cosine decay.
        seed: Of the weights, the crops and the patch dropout.
        batch_size: Pairs a step.
        learning_rate: Peak, after `warmup` steps.
        muon: Factor on it for the blocks' matrices, which Muon trains.
        weight_decay: On matrices; biases, norms and embeddings have none.
        kept: Share of a view's patches that a step shows the vision tower (patch dropout).
        full_share: Share of the steps, the last ones, that see all patches.
        late: Share of the pairs whose class token enters at a block drawn at random (stochastic depth), so that what a
            picture shows has to come to it from the patches' values of any block, the last one too.
        bare: Share of the colour words that captions leave out ("house" for "red house").
        other: Share of the words for things that captions replace by another one ("building" for "house").
        fine_share: Share of the steps whose views are twice the native grid, as the windows of inference are; the
            model is shown a random part of such a view, as large as its native grid.
        fine_zoom: Largest magnification of such a view.
        pictures: How many scenes are rendered.
        picture_size: (height, width) they are rendered at, in pixels.
        portraits: Share of them that show a single thing.
        zoom: Largest magnification of a view of the native grid.
        named: Most things that a caption names.
        share: Least part of a block that a thing must cover to be named.
        ground_share: The same for the sky and for grounds.
        image_size, patch_size, width, layers, head_width, mlp_ratio: The vision tower.
        query_gain: Deviation of the vision tower's initial query and key weights, times the root of the width.
        query_scale: Length of the last vision block's query directions in the exported weights (`rewrite_queries`),
            which is the temperature of self-self attention.
        norm_scale: Factor on `ln_1` of every vision block in the exported weights (`scale_norms`), which is the
            temperature of GEM's attention.
        text_width, text_layers, text_heads, embed_dim: The text tower and the shared space.
        bfloat16: Autocast the towers.
    """

    steps: int = 4000
    seed: int = 0
    batch_size: int = 256
    learning_rate: float = 1.5e-3
    muon: float = 2.5
    warmup: int = 100
    weight_decay: float = 0.05
    kept: float = 0.3
    full_share: float = 0.01
    late: float = 0.75
    bare: float = 0.4
    other: float = 0.2
    fine_share: float = 0.7
    fine_zoom: float = 2.5
    pictures: int = 20000
    picture_size: tuple[int, int] = (192, 240)
    portraits: float = 0.15
    zoom: float = 3.2
    named: int = 5
    share: float = 0.03
    ground_share: float = 0.3
    image_size: int = 112
    patch_size: int = 8
    width: int = 96
    layers: int = 12
    head_width: int = 32
    mlp_ratio: float = 4.0
    query_gain: float = 0.8
    query_scale: float = 2.5
    norm_scale: float = 16.0
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    embed_dim: int = 128
    bfloat16: bool = True

    def model_config(self, vocabulary: int) -> dict[str, Any]:
        """What stands in `open_clip_config.json`."""
        vision = {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "width": self.width,
            "layers": self.layers,
            "head_width": self.head_width,
            "mlp_ratio": self.mlp_ratio,
        }
        text = {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "clearclip-tiny",
            "width": self.text_width,
            "layers": self.text_layers,
            "heads": self.text_heads,
        }
        return {
            "model_cfg": {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": text},
            "preprocess_cfg": {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic"},
        }


def write_model_folder(outputs: Outputs, recipe: Recipe) -> None:
    """Write configuration, tokenizer and known words: all of an open_clip folder but the weights.

    A tokenizer that lies there is kept.
    """
    outputs.check([WORDS_NAME, CONFIG_NAME, WEIGHTS_NAME])
    with tempfile.TemporaryDirectory() as name:
        is_there = (outputs.folder / TOKENIZER_NAME).is_file()
        vocabulary = save_tokenizer(outputs.folder if is_there else Path(name))
        texts = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(name).iterdir())}
    others = {word for words in OTHER_WORDS.values() for word in words}
    texts[WORDS_NAME] = "".join(f"{word}\n" for word in sorted({*CLASSES, *COLOURS, *PARTS, *others}))
    texts[CONFIG_NAME] = json.dumps(recipe.model_config(vocabulary), indent=2) + "\n"
    outputs.check(texts)
    for file, text in texts.items():
        with outputs.write(file) as partial:
            partial.write_text(text, encoding="utf-8")
