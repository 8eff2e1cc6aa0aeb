"""Parts of a list of images, for several processes or machines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clearclip.errors import UsageError

MAX_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of several parts: every `count`-th image, or group of images, from the `index`-th (counted from 1)."""

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
