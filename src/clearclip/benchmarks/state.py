"""The state of a run on disk: confusion matrices and how far it has come, replaced as a whole at every save."""

from __future__ import annotations

import glob
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.configuration import Configuration, Facts
from clearclip.benchmarks.metrics import Matrix, occurring, scores
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.reading import open_regular
from clearclip.files.shards import WHOLE, Shard
from clearclip.files.writing import atomic_write

STATE_LIMIT = 1 << 30
"""Bytes of a state; one with 171 classes takes 0.3 MB, and 20 bytes for each class that occurs in an image."""
ARRAYS = ("matrix", "image_scores", "counts")


class EarlierStateError(UsageError):
    """A state as earlier versions wrote it."""


@dataclass(frozen=True, eq=False)
class State:
    """A method's run after some of its images.

    Attributes:
        total: Images of this shard.
        done: How many of them were gone through, broken ones included.
        evaluated: How many of them were counted.
        skipped: One sentence for each image that was left out.
        matrix: `(C, C)` int64, row = true class.
        image_scores: `(done,)` float32, mIoU of each image; `nan` for a skipped one.
        counts: `(R, 5)` int32, a row for each class that occurs in an image: image, class, its pixels that are right,
            true, predicted. In the order of images and classes.
    """

    config: Configuration
    facts: Facts
    shard: Shard
    total: int
    done: int
    evaluated: int
    skipped: tuple[str, ...]
    seconds: float
    matrix: Matrix
    image_scores: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int32]

    @classmethod
    def begin(cls, config: Configuration, facts: Facts, *, shard: Shard, total: int) -> State:
        """A run before its first image."""
        matrix = np.zeros((len(config.labels), len(config.labels)), dtype=np.int64)
        none = np.zeros(0, dtype=np.float32), np.zeros((0, 5), dtype=np.int32)
        return cls(config, facts, shard, total, 0, 0, (), 0.0, matrix, *none)

    def advance(self, found: Matrix | str, *, seconds: float) -> State:
        """The state after one more image: with its matrix, or with a sentence on why it was left out."""
        if isinstance(found, str):
            state, score = replace(self, skipped=(*self.skipped, found)), np.nan
        else:
            rows = np.insert(occurring(found), 0, self.done, axis=1).astype(np.int32)  # no image has 2^31 pixels
            counts = np.concatenate([self.counts, rows])
            state = replace(self, matrix=self.matrix + found, evaluated=self.evaluated + 1, counts=counts)
            score = scores(found).miou
        image_scores = np.append(self.image_scores, np.float32(score))
        return replace(state, done=self.done + 1, seconds=self.seconds + seconds, image_scores=image_scores)

    @property
    def complete(self) -> bool:
        """Whether every image was gone through."""
        return self.done == self.total

    def save(self, output: Path) -> None:
        """Replace the state on disk by this one; killed at any moment, the old or the new one stands there."""
        path = state_path(output, self.config, shard=self.shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = asdict(self) | {"shard": str(self.shard)}
        arrays = {name: values.pop(name) for name in ARRAYS}
        with atomic_write(path) as partial:
            np.savez(partial, **arrays, values=np.array(json.dumps(values)))


def file_name(text: str) -> str:
    """A text as part of a file's name on any system."""
    return re.sub(r"[^A-Za-z0-9.+=,\[\]_-]+", "_", text)


def state_path(output: Path, config: Configuration, *, shard: Shard) -> Path:
    """Where the state of a configuration and shard lies."""
    return output / "state" / f"{_stem(config)}{config.key}{shard.suffix}.npz"


def _stem(config: Configuration) -> str:
    return f"{file_name(config.benchmark)}-{file_name(Path(config.model).name)[-60:]}-"


def load_state(path: Path) -> State:
    """Read a state that `State.save` wrote; `UsageError` if the file is none, contradicts itself or is of old times."""
    try:
        with open_regular(path, limit=STATE_LIMIT) as file, zipfile.ZipFile(file) as archive:
            values = json.loads(str(_array(archive, "values")), parse_constant=refuse_constant)
            if "checkpoint" in (config := values["config"]) and not {"weights", "method"} <= config.keys():
                raise EarlierStateError(
                    f"{path} was written by an earlier version of clearclip, which kept one state for several methods "
                    "and not always the weights and images: choose another output folder, or remove that file"
                )
            if "counts.npy" not in archive.namelist():
                raise EarlierStateError(
                    f"{path} was written by an earlier version of clearclip, which did not keep the counts of each "
                    "image: choose another output folder, or remove that file"
                )
            state: State = from_json(State, values | {name: _array(archive, name) for name in ARRAYS})
        _check(state)
    except EarlierStateError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, NotImplementedError, RuntimeError,
            AttributeError, zipfile.BadZipFile) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise UsageError(f"{path} is no state of a run ({reason}): move or delete it, and start again") from error
    return state


def from_json(kind: Any, value: Any, name: str = "content") -> Any:
    """A value of a type, which may be a dataclass of others, out of JSON; `ValueError` if it is of another."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is np.ndarray:
        return value
    if kind is Shard and type(value) is str:
        return Shard.parse(value)
    if is_dataclass(kind) and type(value) is dict:
        hints = get_type_hints(kind)
        if value.keys() != hints.keys():
            raise ValueError(f"its {name} has other keys than ours")
        make: Any = kind
        return make(**{key: from_json(hint, value[key], key) for key, hint in hints.items()})
    if origin is tuple and type(value) is list:
        return tuple(from_json(inner[0], one, name) for one in value)
    if origin is dict and type(value) is dict:
        return {key: from_json(inner[1], one, name) for key, one in value.items()}
    allowed = inner if origin is UnionType else (kind,)
    if type(value) not in allowed and not (type(value) is int and float in allowed):
        raise ValueError(f"it has a wrong {name}")
    return value


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


def _check(state: State) -> None:
    """`ValueError` if the parts of a state are not what `evaluate` makes, or contradict each other."""
    config, threshold, split = state.config, state.config.threshold, state.config.split.images
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError("it has a threshold that is no probability")
    if not all(config.labels):
        raise ValueError("it has a label without words")
    if not 0 <= split < 10**9:
        raise ValueError("it does not say on which images it was measured")
    total = len(range(split)[: config.limit][state.shard.index - 1 :: state.shard.count])
    if state.total != total:
        raise ValueError(f"it has {state.total:,} images, and shard {state.shard} has {total:,}")
    if not 0 <= state.evaluated <= state.done <= state.total:
        raise ValueError(f"{state.evaluated:,} of {state.done:,} of {state.total:,} images cannot have been counted")
    if not 0 <= state.seconds < 1e12:
        raise ValueError(f"it took {state.seconds} seconds")
    for array, dtype, shape in (
        (state.matrix, np.int64, (len(config.labels), len(config.labels))),
        (state.image_scores, np.float32, (state.done,)),
        (state.counts, np.int32, (len(state.counts), 5)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"it has an array {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
    if (state.matrix < 0).any() or state.matrix.sum(dtype=np.float64) >= 2**62:
        raise ValueError("it counts fewer than 0 pixels, or more than there can be")
    if ((state.image_scores < 0) | (state.image_scores > 1)).any():  # not those that are NaN
        raise ValueError("it has a score that is no share")
    if not state.evaluated and state.matrix.any():
        raise ValueError("it counts pixels of no image")
    _check_counts(state)


def _check_counts(state: State) -> None:
    """`ValueError` if the counts of the images are in disorder, or do not add up to the matrix."""
    classes = len(state.matrix)
    image, label, right, true, predicted = state.counts.T
    if state.counts.size and not (0 <= image.min() <= image.max() < state.done and 0 <= label.min() <= label.max()):
        raise ValueError("it counts pixels of an image or label that there is not")
    if (label >= classes).any() or (np.diff(image.astype(np.int64) * classes + label) <= 0).any():
        raise ValueError("the counts of its images are in disorder")
    if (right < 0).any() or (right > np.minimum(true, predicted)).any() or not np.maximum(true, predicted).all():
        raise ValueError("an image of it cannot have such counts")
    if (np.bincount(image, weights=true) != np.bincount(image, weights=predicted)).any():
        raise ValueError("an image of it has more or fewer predictions than pixels that count")
    if (np.isnan(state.image_scores) != (np.bincount(image, minlength=state.done) == 0)).any():
        raise ValueError("it has a score of an image without counts, or counts of one without a score")
    sums = np.diag(state.matrix), state.matrix.sum(axis=1), state.matrix.sum(axis=0)
    for counted, whole in zip((right, true, predicted), sums, strict=True):
        if (np.bincount(label, weights=counted, minlength=classes) != whole).any():
            raise ValueError("the counts of its images do not add up to those of the run")


def refuse_earlier(output: Path, config: Configuration) -> None:
    """`EarlierStateError` if the folder has a state of this model and benchmark of an earlier version."""
    for path in sorted((output / "state").glob(f"{glob.escape(_stem(config))}*.npz")):
        try:
            load_state(path)
        except EarlierStateError:
            raise
        except UsageError:
            pass  # damaged, or not a state: whoever reads it says so, if anybody needs it


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
        parts = runs.setdefault(state.config.key, {})
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
    total = sum(state.total for state in states)
    image_scores = np.empty(total, dtype=np.float32)
    for state in states:
        image_scores[state.shard.index - 1 :: len(states)] = state.image_scores
    counts = np.concatenate([state.counts for state in states])
    counts[:, 0] = np.concatenate([state.counts[:, 0] * len(states) + state.shard.index - 1 for state in states])
    return replace(
        states[0],
        shard=WHOLE,
        total=total,
        done=total,
        evaluated=sum(state.evaluated for state in states),
        skipped=tuple(dict.fromkeys(sentence for state in states for sentence in state.skipped)),
        seconds=sum(state.seconds for state in states),
        matrix=np.sum([state.matrix for state in states], axis=0),
        image_scores=image_scores,
        counts=counts[np.argsort(counts[:, 0], kind="stable")],
    )
