"""The state of a run on disk: confusion matrices and how far it has come, replaced as a whole at every save.

Belongs here: saving, loading, finding and adding up states. Does not: the loop that fills them (`evaluation`).
"""

from __future__ import annotations

import hashlib
import json
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


@dataclass(frozen=True)
class Shard:
    """One of several parts of a split: every `count`-th image, from the `index`-th (counted from 1).

    Raises:
        UsageError: The index is not from 1 to the count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard {self.index}/{self.count}: shards count from 1, as in 1/{max(self.count, 1)}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`.

        Args:
            text: For instance `2/8`.

        Returns:
            The shard.

        Raises:
            UsageError: The text is not of that form, or out of range.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise UsageError(f"shard {text!r}: write part/parts, as in 1/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


@dataclass(frozen=True, eq=False)
class State:
    """A run after some of its images.

    Attributes:
        config: Everything the numbers depend on; states with one config may be added up.
        facts: What is recorded beside it: device, versions, the data's place, when the run began.
        shard: Which part of the split this is.
        total: Images of this part.
        done: How many of them were gone through, broken ones included.
        evaluated: How many of them were counted.
        matrices: `(M, C, C)` int64, one for each method of `config["methods"]`.
        image_scores: `(M, done)` float32, mIoU of each image; `nan` for a skipped one.
        skipped: One sentence for each image that was left out.
        seconds: Time spent.
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
        """Replace the state on disk by this one; killed at any moment, the old or the new one stands there.

        Args:
            output: The output folder.

        Raises:
            OSError: It cannot be written.
        """
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
    """A run before its first image.

    Args:
        config: As `State`.
        facts: As `State`.
        shard: As `State`.
        total: As `State`.
        classes: Number of classes C.

    Returns:
        The state.
    """
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
    """Where the state of a configuration and shard lies.

    Args:
        output: The output folder.
        config: As `State`.
        shard: Which part.

    Returns:
        The path.
    """
    part = f".shard-{shard.index}-of-{shard.count}" if shard.count > 1 else ""
    model = file_name(Path(config["model"]).name)[-60:]
    return output / "state" / f"{config['benchmark']}-{model}-{config_key(config)}{part}.npz"


def load_state(path: Path) -> State:
    """Read a state.

    Args:
        path: A file that `State.save` wrote.

    Returns:
        The state.

    Raises:
        ClearclipError: The file cannot be read or is none.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
            values = json.loads(str(stored["values"]))
            shard = Shard.parse(values.pop("shard"))
            values["skipped"] = tuple(values["skipped"])
            return State(**values, shard=shard, matrices=stored["matrices"], image_scores=stored["image_scores"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ClearclipError(
            f"{path} is no state of a run ({error}): delete it, or start anew with --overwrite"
        ) from error


def add_shards(folders: Iterable[Path]) -> list[State]:
    """Add up the finished shards that lie below output folders.

    Args:
        folders: Output folders; shards of one run may lie in different ones.

    Returns:
        One complete state for each configuration, as an undivided run would have left it.

    Raises:
        ClearclipError: There is no shard, one is missing or unfinished, or two divide one run differently.
    """
    places = [folder / "state" for folder in folders]
    paths = sorted(path for place in places for path in place.glob("*.shard-*-of-*.npz"))
    if not paths:
        raise ClearclipError(f"there are no shards in {' or '.join(map(str, places))}: run with --shard i/n first")
    runs: dict[str, dict[Shard, tuple[Path, State]]] = {}
    for path in paths:
        state = load_state(path)
        if not state.complete:
            raise ClearclipError(f"{path} is unfinished ({state.done} of {state.total} images): run that shard again")
        runs.setdefault(config_key(state.config), {})[state.shard] = (path, state)
    return [_add(list(parts.values())) for parts in runs.values()]


def _add(parts: list[tuple[Path, State]]) -> State:
    states = sorted((state for _, state in parts), key=lambda state: state.shard.index)
    counts = {state.shard.count for state in states}
    if len(counts) > 1:
        raise ClearclipError(
            f"{parts[0][0].parent} holds shards of one run cut into {' and '.join(map(str, sorted(counts)))} parts: "
            "delete one set"
        )
    count = counts.pop()
    absent = sorted(set(range(1, count + 1)) - {state.shard.index for state in states})
    if absent:
        missing = ", ".join(f"{index}/{count}" for index in absent)
        raise ClearclipError(f"shards are missing beside {parts[0][0]}: run --shard {missing} and merge again")
    return sum_of(states)


def sum_of(states: Sequence[State]) -> State:
    """Add up all shards of one run; exact, as if it had not been divided.

    Args:
        states: Complete ones, from shard 1 to the last.

    Returns:
        The whole.
    """
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
