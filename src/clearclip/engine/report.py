"""What became of a run's images, and the error table."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearclip.engine.sources import Source, summary
from clearclip.errors import printable

ERROR_TABLE = "errors.csv"
SHOWN = 8


@dataclass
class Report:
    """What became of a run's images; `aside` is where results with other settings went that were not made again."""

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Source, str]] = field(default_factory=list)
    aside: Path | None = None
    notes: dict[str, list[Source]] = field(default_factory=dict)
    """What is not in results, and of which images."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by suffix or folder."""
    absent: Counter[str] = field(default_factory=Counter)
    """In how many of the images that were done a label did not compete."""
    rivals: Counter[tuple[str, str]] = field(default_factory=Counter)
    """In how many of these a label won most of its cells by a hair, and from which other label."""

    @property
    def total(self) -> int:
        """Images of which something is known."""
        return self.done + self.skipped + len(self.failed)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        failures = [{"image": printable(str(path)), "reason": printable(reason)} for path, reason in self.failed]
        notes = {note: [printable(str(image)) for image in images] for note, images in self.notes.items()}
        left_out, absent = (
            {printable(name): count for name, count in counts.items()} for counts in (self.left_out, self.absent)
        )
        return {
            "done": self.done, "skipped": self.skipped, "failed": failures, "notes": notes, "left_out": left_out,
            "absent": absent,
            "rivals": [
                {"label": printable(label), "rival": printable(rival), "images": count}
                for (label, rival), count in self.rivals.most_common()
            ],
        }  # fmt: skip

    def remarks(self) -> list[str]:
        """What results do not hold though nothing failed, one sentence each."""
        told = []
        for note, images in self.notes.items():
            more = f" and {len(images) - 1:,} more" if len(images) > 1 else ""
            told.append(f"{images[0]}{more}: {note}")
        if self.absent:
            few = [f"{name} {count:,}" for name, count in self.absent.most_common(SHOWN)]
            more = f" and {len(self.absent) - SHOWN} more labels" if len(self.absent) > SHOWN else ""
            told.append(f"labels that did not compete, and in how many images: {', '.join(few)}{more}")
        if self.rivals:
            few = [f"{label!r} from {rival!r} in {count:,}" for (label, rival), count in self.rivals.most_common(SHOWN)]
            told.append(
                f"labels that won most of what they won by a hair, and in how many images: {', '.join(few)} (see "
                "`clearclip labels check`)"
            )
        return [*told, summary(self.left_out)] if self.left_out else told

    def write_errors(self, folder: Path) -> None:
        """Write `errors.csv` into a folder, sorted by name; nothing if no image failed."""
        if not self.failed:
            return
        with (folder / ERROR_TABLE).open("w", encoding="utf-8", newline="") as opened:
            rows = csv.writer(opened)
            rows.writerow(["image", "reason"])
            for path, reason in sorted(self.failed, key=lambda failure: str(failure[0])):
                rows.writerow([printable(str(path)), printable(" ".join(reason.split()))])
