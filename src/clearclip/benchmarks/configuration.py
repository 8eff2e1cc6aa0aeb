"""What a run's numbers depend on and what is recorded beside them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import clearclip
from clearclip.benchmarks.readers import Dataset, Item, Pair
from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import UsageError
from clearclip.files.writing import Written
from clearclip.methods import Method
from clearclip.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    from clearclip.segmenter import Segmenter


Numbers = dict[str, float | str]


@dataclass(frozen=True)
class Templates:
    """The prompts' number and hash."""

    count: int
    hash: str


@dataclass(frozen=True)
class Split:
    """The split's number of images, the hash of their ids, and that of all files within the limit and their meaning."""

    images: int
    ids: str
    files: str


@dataclass(frozen=True)
class Configuration:
    """Everything the numbers of a method depend on; states of one configuration may be added up."""

    clearclip: str
    benchmark: str
    model: str
    checkpoint: str
    weights: str
    protocol: Numbers
    templates: Templates
    dtype: str
    labels: tuple[tuple[str, ...], ...]
    background: str | None
    split: Split
    limit: int | None
    seed: int
    method: str
    threshold: float | None

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that differ wherever the configuration does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Official:
    """The benchmark's own number of images (`None`: it has none), protocol and threshold of the method."""

    images: int | None
    protocol: Numbers
    threshold: float | None


@dataclass(frozen=True)
class Facts:
    """What is recorded beside a configuration: where and when, with which versions, and the benchmark's own numbers."""

    run: str
    began: str
    data: str
    device: str
    versions: dict[str, str]
    paper_model: str
    official: Official


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
    return {name: wanted.get(name, dataset.benchmark.threshold(name)) for name in spellings}


def configurations(
    segmenter: Segmenter, dataset: Dataset, *, thresholds: Mapping[str, float | None], limit: int | None, seed: int
) -> list[Configuration]:
    """A configuration for each method of `thresholds_for`, in its order."""
    vocabulary = dataset.vocabulary
    if vocabulary.beside == "auto":  # the words depend on the model
        vocabulary, _ = segmenter.vocabulary(vocabulary, None)
    shared = Configuration(
        clearclip=clearclip.__version__,
        benchmark=dataset.benchmark.name,
        model=segmenter.backbone.name,
        checkpoint=segmenter.backbone.checkpoint_hash,
        weights=segmenter.backbone.fingerprint,
        protocol=_numbers(segmenter.protocol, segmenter) | _range(segmenter),
        templates=templates(segmenter.templates),
        dtype=str(segmenter.backbone.dtype).removeprefix("torch."),
        labels=tuple((label.name, *label.synonyms) for label in vocabulary.labels),
        background=vocabulary.background,
        split=Split(len(dataset.items), _hash(item.id for item in dataset.items), _files(dataset.items[:limit])),
        limit=limit,
        seed=seed,
        method="",
        threshold=None,
    )
    return [replace(shared, method=method, threshold=threshold) for method, threshold in thresholds.items()]


def facts(segmenter: Segmenter, dataset: Dataset, *, config: Configuration) -> Facts:
    """What is recorded beside a configuration that begins to be measured now."""
    began = datetime.now(timezone.utc)
    row, name = dataset.benchmark, segmenter.backbone.name
    return Facts(
        run=f"{config.key}-{began:%Y%m%dT%H%M%S%f}",
        began=began.isoformat(timespec="seconds"),
        data=dataset.source,
        device=str(segmenter.backbone.device),
        versions=versions("torch", "open_clip_torch", "transformers", "numpy", "pillow"),
        paper_model=next((known.name for known in CHECKPOINTS.values() if name in (known.name, known.source)), name),
        official=Official(row.size, _numbers(get_protocol(row.protocol), segmenter), row.threshold(config.method)),
    )


def versions(*packages: str) -> dict[str, str]:
    """Versions of clearclip, Python and installed packages, to stand beside numbers."""
    own = {"clearclip": clearclip.__version__, "python": platform.python_version()}
    return own | {package: version(package) for package in packages}


def _numbers(protocol: Protocol, segmenter: Segmenter) -> Numbers:
    """A protocol in pixels; the threshold stands beside it, method by method."""
    numbers = asdict(protocol.in_pixels(segmenter.backbone.native_size))
    del numbers["threshold"]
    return numbers


def _range(segmenter: Segmenter) -> Numbers:
    """The values that were said to be black and white, where they were."""
    return {} if segmenter.value_range is None else {"range": "{:g}:{:g}".format(*segmenter.value_range)}


def templates(prompts: Sequence[str]) -> Templates:
    """What is recorded of prompts."""
    return Templates(len(prompts), _hash(prompts))


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _files(items: Sequence[Item]) -> str:
    """Hash of the bytes of all images and label maps, and what their values mean; of nothing where they are made."""
    pairs = [item for item in items if isinstance(item, Pair)]
    paths = [path for pair in pairs for path in (pair.image, pair.labels)]
    forms = sorted({f"{pair.form.table} {pair.as_stored}" for pair in pairs if pair.form.is_own})
    with ThreadPoolExecutor(4) as pool:
        return _hash((*pool.map(file_digest, paths), *forms))


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
