"""What a run's numbers depend on and what is recorded beside them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clearclip
from clearclip.benchmarks.check import count_warnings
from clearclip.benchmarks.readers import Dataset, Item, Pair
from clearclip.benchmarks.state import State, config_key
from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import UsageError
from clearclip.files.writing import Written
from clearclip.methods import Method
from clearclip.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    from clearclip.segmenter import Segmenter

RECORDED_PACKAGES = ("torch", "open_clip_torch", "transformers", "numpy", "pillow")


def thresholds_for(
    dataset: Dataset, methods: Sequence[Method], *, wanted: Mapping[str, float] | float | None = None
) -> dict[str, float | None]:
    """The background threshold of each method by spelling, `None` where the words alone decide.

    They are the paper's; wanted replaces them: one number for all, or by spelling. `UsageError` for a threshold of a
    method that is not evaluated or of a data set without background, and for one that is no probability.
    """
    spellings = [method.spelling for method in methods]
    if wanted is None:
        wanted = {}
    elif dataset.vocabulary.background is None:
        raise UsageError(f"{dataset.benchmark.name} has no background that a threshold could send pixels to")
    if not isinstance(wanted, Mapping):
        wanted = dict.fromkeys(spellings, wanted)
    for name, value in wanted.items():
        if name not in spellings:
            raise UsageError(f"a threshold is given for {name!r}, which is not evaluated: {', '.join(spellings)}")
        if not 0 <= value <= 1:
            raise UsageError(f"threshold {value!r} for {name}: a probability from 0 to 1 is needed")
    return {name: wanted.get(name, dataset.benchmark.thresholds.get(name)) for name in spellings}


def configuration(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    thresholds: Mapping[str, float | None],
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    """Everything the numbers of a run depend on, as JSON-able data; runs with one configuration may be added up."""
    vocabulary = dataset.vocabulary
    return {
        "clearclip": clearclip.__version__,
        "benchmark": dataset.benchmark.name,
        "model": segmenter.backbone.name,
        "checkpoint": segmenter.backbone.checkpoint_hash,
        "weights": segmenter.backbone.fingerprint,
        "methods": sorted(thresholds),
        "thresholds": dict(sorted(thresholds.items())),
        "protocol": _numbers(segmenter.protocol, segmenter),
        "templates": {"count": len(segmenter.templates), "hash": _hash(segmenter.templates)},
        "dtype": str(segmenter.backbone.dtype).removeprefix("torch."),
        "labels": [[label.name, *label.synonyms] for label in vocabulary.labels],
        "background": vocabulary.background,
        "split": {
            "images": len(dataset.items),
            "ids": _hash(item.id for item in dataset.items),
            "files": _files(dataset.items[:limit]),
        },
        "limit": limit,
        "seed": seed,
    }


def facts(segmenter: Segmenter, dataset: Dataset, *, config: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded beside a configuration: where and when, with which versions, and the benchmark's own numbers."""
    began = datetime.now(timezone.utc)
    row, name = dataset.benchmark, segmenter.backbone.name
    return {
        "run": f"{config_key(config)}-{began:%Y%m%dT%H%M%S%f}",
        "began": began.isoformat(timespec="seconds"),
        "data": dataset.source,
        "device": str(segmenter.backbone.device),
        "versions": {
            "clearclip": clearclip.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in RECORDED_PACKAGES},
        },
        "paper_model": next((known.name for known in CHECKPOINTS.values() if name in (known.name, known.source)), name),
        "official": {
            "images": row.size,
            "protocol": _numbers(get_protocol(row.protocol), segmenter),
            "thresholds": dict(row.thresholds),
        },
    }


def warnings_of(state: State) -> tuple[str, ...]:
    """What must be known to compare a finished run's numbers with others."""
    config, official = state.config, state.facts["official"]
    name = config["benchmark"]
    found = list(count_warnings(name, state.evaluated, official=official["images"]))
    if state.skipped:
        found.append(f"{name}: {len(state.skipped):,} left out because they could not be used (see skipped)")
    if config["protocol"] != official["protocol"]:
        found.append(f"{name}: measured by another protocol than the benchmark's own")
    other = [method for method, value in config["thresholds"].items() if value != official["thresholds"].get(method)]
    if other:
        found.append(f"{name}: measured with another background threshold than the benchmark's own: {', '.join(other)}")
    return tuple(found)


def _numbers(protocol: Protocol, segmenter: Segmenter) -> dict[str, Any]:
    """A protocol in pixels; the threshold stands beside it, method by method."""
    numbers = asdict(replace(protocol.in_pixels(segmenter.backbone.native_size), threshold=None))
    del numbers["threshold"]
    return numbers


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _files(items: Sequence[Item]) -> str:
    """Hash of the bytes of all images and label maps; of nothing where they are made, not read."""
    paths = [path for item in items if isinstance(item, Pair) for path in (item.image, item.labels)]
    with ThreadPoolExecutor(4) as pool:
        return _hash(pool.map(file_digest, paths))


def file_digest(path: Path) -> str:
    """SHA-256 of a file of the data set; `-` if it cannot be read, which is an error when its image's turn comes."""
    try:
        status = path.stat()
        return _bytes(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    except OSError:
        return "-"


@lru_cache(1 << 17)
def _bytes(path: Path, *identity: int) -> str:
    """Hash of a file, read once by this process as long as its identity is the same."""
    return Written.of(path).digest
