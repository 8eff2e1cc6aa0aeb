"""The state of a run on disk: confusion matrices and how far it has come, replaced as a whole at every save."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.metrics import Matrix
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.reading import open_regular
from clearclip.files.writing import atomic_write

MAX_SHARDS = 100_000
STATE_LIMIT = 1 << 30
"""Bytes of a state; 24 methods and 171 classes take 6 MB."""
_Kinds = Mapping[str, tuple[type, ...]]
_TEXT, _WHOLE, _MAYBE, _DICT, _LIST = (str,), (int,), (int, type(None)), (dict,), (list,)
_CONFIG: _Kinds = {
    "clearclip": _TEXT, "benchmark": _TEXT, "model": _TEXT, "checkpoint": _TEXT, "weights": _TEXT, "methods": _LIST,
    "thresholds": _DICT, "protocol": _DICT, "templates": _DICT, "dtype": _TEXT, "labels": _LIST,
    "background": (str, type(None)), "split": _DICT, "limit": _MAYBE, "seed": _WHOLE,
}  # fmt: skip
_FACTS: _Kinds = {
    "run": _TEXT, "began": _TEXT, "data": _TEXT, "device": _TEXT, "versions": _DICT, "paper_model": _TEXT,
    "official": _DICT,
}  # fmt: skip
_VALUES: _Kinds = {
    "config": _DICT, "facts": _DICT, "shard": _TEXT, "total": _WHOLE, "done": _WHOLE, "evaluated": _WHOLE,
    "skipped": _LIST, "seconds": (float, int),
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One of several parts of a split: every `count`-th image, from the `index`-th (counted from 1)."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard {self.index}/{self.count}: shards count from 1, as in 1/{max(self.count, 1)}")
        if self.count > MAX_SHARDS:
            raise UsageError(f"shard {self.index}/{self.count}: at most {MAX_SHARDS:,} parts are allowed")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`, for instance `2/8`."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if match is None:
            raise UsageError(f"shard {text[:40]!r}: write part/parts, as in 1/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """What it adds to the names of its files."""
        return f".shard-{self.index}-of-{self.count}" if self.count > 1 else ""


WHOLE = Shard()


@dataclass(frozen=True, eq=False)
class State:
    """A run after some of its images.

    Attributes:
        config: Everything the numbers depend on; states with one config may be added up.
        facts: What is recorded beside it: device, versions, the data's place, when the run began.
        total: Images of this shard.
        done: How many of them were gone through, broken ones included.
        evaluated: How many of them were counted.
        matrices: `(M, C, C)` int64, one for each method of `config["methods"]`.
        image_scores: `(M, done)` float32, mIoU of each image; `nan` for a skipped one.
        skipped: One sentence for each image that was left out.
    """

    config: dict[str, Any]
    facts: dict[str, Any]
    shard: Shard
    total: int
    done: int
    evaluated: int
    matrices: Matrix
    image_scores: npt.NDArray[np.float32]
    skipped: tuple[str, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every image was gone through."""
        return self.done == self.total

    def path(self, output: Path) -> Path:
        """Where this state lies below an output folder."""
        return state_path(output, self.config, shard=self.shard)

    def save(self, output: Path) -> None:
        """Replace the state on disk by this one; killed at any moment, the old or the new one stands there."""
        path = self.path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "config": self.config,
            "facts": self.facts,
            "shard": str(self.shard),
            "total": self.total,
            "done": self.done,
            "evaluated": self.evaluated,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
        with atomic_write(path) as partial:
            np.savez(
                partial,
                matrices=self.matrices,
                image_scores=self.image_scores,
                values=np.array(json.dumps(values)),
            )


def empty_state(config: dict[str, Any], *, facts: dict[str, Any], shard: Shard, total: int, classes: int) -> State:
    """A run before its first image."""
    methods = len(config["methods"])
    return State(
        config=config,
        facts=facts,
        shard=shard,
        total=total,
        done=0,
        evaluated=0,
        matrices=np.zeros((methods, classes, classes), dtype=np.int64),
        image_scores=np.zeros((methods, 0), dtype=np.float32),
        skipped=(),
        seconds=0.0,
    )


def config_key(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that differ wherever the configuration does."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def file_name(text: str) -> str:
    """A text as part of a file's name on any system."""
    return re.sub(r"[^A-Za-z0-9.+=,\[\]_-]+", "_", text)


def state_path(output: Path, config: Mapping[str, Any], *, shard: Shard) -> Path:
    """Where the state of a configuration and shard lies."""
    model = file_name(Path(config["model"]).name)[-60:]
    return output / "state" / f"{config['benchmark']}-{model}-{config_key(config)}{shard.suffix}.npz"


def load_state(path: Path) -> State:
    """Read a state that `State.save` wrote; `UsageError` if the file is none, contradicts itself or is of old times."""
    try:
        with open_regular(path, limit=STATE_LIMIT) as file, zipfile.ZipFile(file) as archive:
            values = json.loads(str(_array(archive, "values")), parse_constant=refuse_constant)
            matrices, image_scores = _array(archive, "matrices"), _array(archive, "image_scores")
        _check_keys(values, _VALUES, "content")
        shard, skipped = Shard.parse(values.pop("shard")), tuple(values.pop("skipped"))
        state = State(**values, shard=shard, skipped=skipped, matrices=matrices, image_scores=image_scores)
        is_earlier = "weights" not in state.config and "checkpoint" in state.config
        if not is_earlier:
            _check(state)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise UsageError(f"{path} is no state of a run ({reason}): move or delete it, and start again") from error
    if is_earlier:
        raise UsageError(
            f"{path} was written by an earlier version of clearclip, which did not keep with which weights and on "
            "which images it was measured: choose another output folder, or remove that file"
        )
    return state


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """One array of an `.npz` that nothing compressed, so that it takes no more memory than the file has bytes."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > STATE_LIMIT:
        raise ValueError(f"its {name} are compressed")
    stream = io.BytesIO(archive.read(info))
    np.lib.format.read_magic(stream)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(stream.getbuffer()) - stream.tell():
        raise ValueError(f"its {name} have another size than they say")
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, stream.getbuffer(), stream.tell(), order="F" if fortran else "C")
    return array


def refuse_constant(name: str) -> Any:
    """`parse_constant` of `json.loads`: NaN and the infinities are no JSON, and no number of ours."""
    raise ValueError(f"{name} is no number")


def _check_keys(values: Any, kinds: _Kinds, what: str) -> None:
    if type(values) is not dict or values.keys() != kinds.keys():
        raise ValueError(f"its {what} has other keys than ours")
    wrong = next((key for key, allowed in kinds.items() if type(values[key]) not in allowed), None)
    if wrong is not None:
        raise ValueError(f"its {what} has a wrong {wrong}")


def _check(state: State) -> None:
    """`ValueError` if the parts of a state are not what `evaluate` makes, or contradict each other."""
    config = state.config
    _check_keys(config, _CONFIG, "configuration")
    _check_keys(state.facts, _FACTS, "facts")
    _check_keys(state.facts["official"], {"images": _MAYBE, "protocol": _DICT, "thresholds": _DICT}, "benchmark")
    methods, labels = config["methods"], config["labels"]
    if not methods or not all(type(name) is str for name in methods) or methods != sorted(config["thresholds"]):
        raise ValueError("its methods and their thresholds differ")
    for value in config["thresholds"].values():
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise ValueError("it has a threshold that is no probability")
    if not all(type(words) is list and words and all(type(word) is str for word in words) for words in labels):
        raise ValueError("its labels are no lists of words")
    if not all(type(sentence) is str for sentence in state.skipped):
        raise ValueError("what it left out is no text")
    split, limit = config["split"].get("images"), config["limit"]
    if type(split) is not int or not 0 <= split < 10**9 or type(config["split"].get("files")) is not str:
        raise ValueError("it does not say on which images it was measured")
    total = len(range(split)[:limit][state.shard.index - 1 :: state.shard.count])
    if state.total != total:
        raise ValueError(f"it has {state.total:,} images, and shard {state.shard} has {total:,}")
    if not 0 <= state.evaluated <= state.done <= state.total:
        raise ValueError(f"{state.evaluated:,} of {state.done:,} of {state.total:,} images cannot have been counted")
    if not 0 <= state.seconds < 1e12:
        raise ValueError(f"it took {state.seconds} seconds")
    for array, dtype, shape in (
        (state.matrices, np.int64, (len(methods), len(labels), len(labels))),
        (state.image_scores, np.float32, (len(methods), state.done)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"it has an array {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
    if (state.matrices < 0).any() or state.matrices.sum(dtype=np.float64) >= 2**62:
        raise ValueError("it counts fewer than 0 pixels, or more than there can be")
    if ((state.image_scores < 0) | (state.image_scores > 1)).any():  # not those that are NaN
        raise ValueError("it has a score that is no share")
    if not state.evaluated and state.matrices.any():
        raise ValueError("it counts pixels of no image")


def refuse_earlier(output: Path, config: Mapping[str, Any]) -> None:
    """`UsageError` if the folder has a state of this model and benchmark from before weights and images were kept."""
    stem = state_path(output, config, shard=WHOLE).stem.removesuffix(config_key(config))
    for path in sorted((output / "state").glob(f"{glob.escape(stem)}*.npz")):
        try:
            load_state(path)
        except UsageError as error:
            if "earlier version" in str(error):
                raise


def add_shards(folders: Iterable[Path]) -> list[State]:
    """Add up the finished shards that lie below output folders, those of one run maybe in several.

    Returns one complete state for each configuration, as an undivided run would have left it; an error if there is no
    shard, one is missing, unfinished, damaged or there twice, or they do not fit together.
    """
    places = [folder / "state" for folder in folders]
    found = (path for place in places for path in place.glob("*.shard-*-of-*.npz"))
    paths = sorted({os.path.realpath(path): path for path in found}.values())
    if not paths:
        raise UsageError(f"there are no shards in {' or '.join(map(str, places))}: run with --shard i/n first")
    runs: dict[str, dict[Shard, tuple[Path, State]]] = {}
    for path in paths:
        state = load_state(path)
        if not state.complete:
            raise ClearclipError(f"{path} is unfinished ({state.done} of {state.total} images): run that shard again")
        parts = runs.setdefault(config_key(state.config), {})
        if state.shard in parts:
            raise UsageError(f"{parts[state.shard][0]} and {path} are the same shard {state.shard}: remove one")
        parts[state.shard] = (path, state)
    return [_add(sorted(parts.values(), key=lambda part: part[1].shard.index)) for parts in runs.values()]


def _add(parts: Sequence[tuple[Path, State]]) -> State:
    first, states = parts[0][0], [state for _, state in parts]
    counts = sorted({state.shard.count for state in states})
    if len(counts) > 1:
        raise UsageError(
            f"{first.parent} holds shards of one run cut into {' and '.join(map(str, counts))} parts: delete one set"
        )
    count = counts[0]
    absent = sorted(set(range(1, count + 1)) - {state.shard.index for state in states})
    if absent:
        missing = ", ".join(f"{index}/{count}" for index in absent[:10]) + (" …" if absent[10:] else "")
        raise ClearclipError(f"shards are missing beside {first}: run --shard {missing} and merge again")
    return sum_of(states)


def sum_of(states: Sequence[State]) -> State:
    """Add up all shards of one run, from the first to the last; exact, as if it had not been divided."""
    count = len(states)
    total = sum(state.total for state in states)
    image_scores = np.empty((len(states[0].matrices), total), dtype=np.float32)
    for state in states:
        image_scores[:, state.shard.index - 1 :: count] = state.image_scores
    return State(
        config=states[0].config,
        facts=states[0].facts,
        shard=WHOLE,
        total=total,
        done=total,
        evaluated=sum(state.evaluated for state in states),
        matrices=np.sum([state.matrices for state in states], axis=0),
        image_scores=image_scores,
        skipped=tuple(dict.fromkeys(sentence for state in states for sentence in state.skipped)),
        seconds=sum(state.seconds for state in states),
    )
