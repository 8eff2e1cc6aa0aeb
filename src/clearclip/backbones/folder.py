"""Reads a checkpoint's files; their settings reach a library one by one, for some name code to run.

No library is ever given the folder: it gets weights, numbers and a tokenizer's files, and of the settings only those
that are listed below.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import torch
from huggingface_hub import hf_hub_download, model_info, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import filter_repo_objects
from torch import nn
from transformers import AutoTokenizer

from clearclip.errors import CheckpointError
from clearclip.files.reading import read_bytes, read_text
from clearclip.protocol import CLIP_MEAN, CLIP_STD

log = logging.getLogger("clearclip")
CONFIG_BYTES = 10_000_000
TOKENIZER_BYTES = 200_000_000
EXTRA_TOKENS = 1000
"""Most tokens that a tokenizer's `extra_ids` may add: T5 has 100, and each is made when it is loaded."""
PREPROCESSING = ("processor_config.json", "preprocessor_config.json")
LAYERS = 1000
"""Most layers of a tower: more would only take time to build."""

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
TOKENIZER_SETTINGS = (
    "tokenizer_class", "model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces",
    "split_special_tokens", "add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case", "do_basic_tokenize",
    "strip_accents", "tokenize_chinese_chars", "errors", "legacy", "extra_ids", "added_tokens_decoder",
)  # fmt: skip
SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens",
)  # fmt: skip
TOKENIZER_CLASSES = (
    "PreTrainedTokenizer", "TokenizersBackend", "CLIPTokenizer", "BertTokenizer", "DistilBertTokenizer",
    "RobertaTokenizer", "XLMRobertaTokenizer", "GPT2Tokenizer", "T5Tokenizer", "GemmaTokenizer",
)  # fmt: skip
"""With or without `Fast`: transformers takes any class of its own by its name, also ones that load code."""
TOKENIZER_PATTERNS = (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "config.json")
MODEL_TYPES = ("clip", "blip", "bert", "distilbert", "roberta", "xlm-roberta", "gpt2", "t5", "gemma")


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in a file of settings; `CheckpointError` for anything else."""
    try:
        settings = json.loads(read_text(file, limit=CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} cannot be read (a JSON object is needed)")
    return settings


def pixel_statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels of 0–1 in a transformers folder, CLIP's where it has none.

    `processor_config.json` (transformers 5) comes before `preprocessor_config.json`, as in transformers.
    """
    settings: Any = {}
    for name in PREPROCESSING:
        if (folder / name).is_file():
            found = read_config(folder / name)
            settings = found if name == PREPROCESSING[-1] else found.get("image_processor")
            if settings is not None:
                break
    mean = three_numbers(settings or {}, "image_mean", CLIP_MEAN)
    std = three_numbers(settings or {}, "image_std", CLIP_STD)
    if settings and settings.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    rescales = not settings or settings.get("do_rescale") is not False
    factor: Any = (settings or {}).get("rescale_factor", 1 / 255) if rescales else 1
    if type(factor) in (int, float) and factor > 0 and not math.isclose(255 * factor, 1):  # ours are divided by 255
        mean, std = (tuple(part / (255 * factor) for part in parts) for parts in (mean, std))
    return mean, std


def three_numbers(settings: Any, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """A pixel mean or deviation in settings; `Backbone.check` judges whether the numbers make sense."""
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"the preprocessing settings are {settings!r:.60}: an object is needed")
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, list) or not all(type(part) in (int, float) for part in value):
        raise CheckpointError(f"the preprocessing setting {key!r} is {value!r:.60}: a list of three numbers is needed")
    return tuple(map(float, value))


def first_line(error: Exception) -> str:
    """What an exception of a library says, short enough for an error of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_shape(build: Callable[[], nn.Module], settings: Any, files: Iterable[Path]) -> None:
    """Refuse settings of a model that is larger than its files, before any of its memory is taken."""
    for name, number in _numbers(settings):
        if "layers" in name and not 0 <= number <= LAYERS:
            raise CheckpointError(f"{name}={number}: 0 to {LAYERS} layers are allowed")
    with torch.device("meta"):
        weights = sum(tensor.numel() for tensor in build().parameters())
    stored = sum(file.stat().st_size for file in files)
    if weights > 2 * stored + 1_000_000:  # a number takes a byte or more; position tables may be enlarged
        raise CheckpointError(f"the settings describe {weights:,} weights, the files have {stored:,} bytes")


def _numbers(settings: Any, name: str = "") -> Iterable[tuple[str, float]]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _numbers(value, str(key))
    elif isinstance(settings, (int, float)):
        yield name, settings


def load_tokenizer(name: str, make: Callable[..., Any] = AutoTokenizer.from_pretrained) -> Any:
    """Load the tokenizer of a folder, or of a repository of the hub.

    `make` is called with a folder that holds copies of the tokenizer's files and the listed settings alone, and is told
    to trust no code and to ask nobody. `CheckpointError` if the tokenizer is code.
    """
    source = Path(name)
    if not source.exists():
        source = fetch(name, TOKENIZER_PATTERNS)
    with tempfile.TemporaryDirectory(prefix="clearclip-tokenizer-") as folder:
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                Path(folder, file).write_bytes(read_bytes(source / file, limit=TOKENIZER_BYTES))
        if not any(Path(folder).iterdir()):
            raise FileNotFoundError(f"the folder has none of {', '.join(TOKENIZER_FILES)}")
        for file, allowed in (
            ("tokenizer_config.json", (*TOKENIZER_SETTINGS, *SPECIAL_TOKENS)),
            ("special_tokens_map.json", SPECIAL_TOKENS),
            ("config.json", ("model_type",)),
        ):
            if (source / file).is_file():
                settings = read_config(source / file)
                kept = {key: settings[key] for key in allowed if key in settings}
                if kept.get("model_type", MODEL_TYPES[0]) not in MODEL_TYPES:
                    continue
                extra = kept.get("extra_ids", 0)
                if type(extra) is not int or not 0 <= extra <= EXTRA_TOKENS:
                    raise CheckpointError(
                        f"{source / file}: extra_ids={extra!r:.60}: a number from 0 to {EXTRA_TOKENS} is needed"
                    )
                named = kept.get("tokenizer_class")
                if named is not None and str(named).removesuffix("Fast") not in TOKENIZER_CLASSES:
                    raise CheckpointError(
                        f"code that comes with a model is never run: its tokenizer is a {named!r}, none of "
                        f"{', '.join(TOKENIZER_CLASSES)}"
                    )
                Path(folder, file).write_text(json.dumps(kept), encoding="utf-8")
        return make(folder, trust_remote_code=False, local_files_only=True)


def fetch(repository: str, patterns: Iterable[str]) -> Path:
    """Download the files of a hub repository that match, where the cache lacks them, and return their folder."""
    wanted = list(patterns)
    if not hub.HF_HUB_OFFLINE:
        log.info("Looking for %s on %s; what is not in the cache is downloaded", repository, hub.ENDPOINT)
        with suppress(Exception):  # `snapshot_download` tells it, or takes what is in the cache
            files = [file.rfilename for file in model_info(repository).siblings or ()]
            for name in filter_repo_objects(files, allow_patterns=wanted):
                hf_hub_download(repository, name)  # in this thread: the other function's go on after Ctrl-C
    return Path(snapshot_download(repository, allow_patterns=wanted))


def fetch_file(repository: str, name: str) -> Path:
    """Download a file of a hub repository, where the cache lacks it."""
    if not (hub.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repository, name), str)):
        log.info("Downloading %s of %s from %s", name, repository, hub.ENDPOINT)
    return Path(hf_hub_download(repository, name))
