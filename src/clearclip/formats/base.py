"""What a format is: writes one image's files now, and the run's files in the end, from what it kept of every image.

The interface between an engine, which decides what is segmented when, and the formats, which decide what a file looks
like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from clearclip.errors import UsageError
from clearclip.files.names import safe_path
from clearclip.files.optional import require
from clearclip.formats.regions import Choices, Region, Result, find_regions
from clearclip.vocabulary import Vocabulary

Record: TypeAlias = dict[str, Any]
Records: TypeAlias = Callable[[], Iterator[Record]]


@dataclass(frozen=True)
class Run:
    """What all images of a run share: an existing folder, the labels, how results are made (`Segmenter.describe`)."""

    folder: Path
    vocabulary: Vocabulary
    info: Mapping[str, str]
    choices: Choices = field(default_factory=Choices)

    @property
    def provenance(self) -> dict[str, Any]:
        """What every file with room for it says about its making; JSON has it as it is."""
        return {**self.info, "labels": list(self.vocabulary.names)}


@dataclass(frozen=True)
class GeoReference:
    """Where on Earth an image lies."""

    transform: tuple[float, float, float, float, float, float]
    """`(a, b, c, d, e, f)` as rasterio's: the corner `(x, y)` of pixels lies at `(a x + b y + c, d x + e y + f)`."""
    crs: str | None = None
    """The coordinate reference system, as `EPSG:32633` or any text that GDAL reads; `None` where unknown."""


@dataclass(frozen=True)
class Sample:
    """One segmented image on its way into files; `UsageError` if its stem could lead out of the output folder."""

    result: Result
    stem: str
    source: str
    """The image's path or address as the user named it."""
    run: Run
    georeference: GeoReference | None = None

    def __post_init__(self) -> None:
        if self.stem != (safe := safe_path(*self.stem.split("/"))):
            raise UsageError(f"the name {self.stem!r} cannot be a file's: use {safe!r}")

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        height, width = self.result.label_map.shape
        return int(height), int(width)

    @property
    def provenance(self) -> dict[str, Any]:
        """As `Run.provenance`, with where the image came from and what the engine noted of it."""
        return {**self.run.provenance, **self.texts}

    @property
    def texts(self) -> dict[str, str]:
        """What it adds to the run's provenance, for files that hold texts alone."""
        return {**self.result.info, "source": self.source}

    @property
    def all_texts(self) -> dict[str, str]:
        """Its provenance as texts, the labels as a JSON array."""
        return {**self.texts, "labels": json.dumps(self.run.vocabulary.names, ensure_ascii=False)}

    @cached_property
    def regions(self) -> list[Region]:
        """What the label map shows, found once for all formats: the labels in order, things object by object."""
        return find_regions(self.result, self.run.choices)


class Format:
    """One kind of output; a subclass gives its class attributes and `write`, `finish` or both.

    An instance has no state: it may be pickled, and used by many threads and processes at once.
    """

    name: str
    """As `--format` takes it."""
    image_file: str = ""
    """The file or folder of one image below the run's folder, as `masks/{stem}`; empty where it has none."""
    run_files: tuple[str, ...] = ()
    """Files of the whole run below its folder, which `finish` writes."""
    libraries: tuple[str, ...] = ()
    """Modules it needs beyond the installed core, imported when it is used."""
    extra: str = "formats"
    """The extra of the package that installs them."""

    def check(self) -> None:
        """`UsageError`, which names the extra, if a library is missing: before anything is segmented."""
        for library in self.libraries:
            require(library, extra=self.extra, purpose=f"format {self.name!r}")

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """The paths of one image that are known beforehand; an image of which one is missing is not done."""
        return (folder / self.image_file.format(stem=stem),) if self.image_file else ()

    def write(self, sample: Sample) -> Record:
        """Write one image's files; the engine gives a folder of its own, and moves them when all are complete.

        Returns what `finish` needs of it: JSON-able, independent of the other images.
        """
        return {}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        """Write the run's files from the records of the images that are done, and name them; earlier ones are replaced.

        `records()` gives, as often as it is called, the records in the order of their stems: each `{"stem", "source",
        "height", "width", **what write returned}`.
        """
        return ()

    def place(self, sample: Sample) -> Path:
        """The path of `image_file`; the folder that it lies in is made."""
        path = sample.run.folder / self.image_file.format(stem=sample.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def xml_safe(text: str) -> str:
    """A text with U+FFFD for the letters that XML 1.0 cannot hold, not even escaped."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def image_name(record: Mapping[str, Any]) -> str:
    """The name by which annotation tools know an image: its path in the folder that was searched.

    In a container it is its key's.
    """
    source = re.sub(r"^.*\.(tar|tgz|tar\.gz|parquet)#(?=.)", "", record["source"], flags=re.IGNORECASE | re.DOTALL)
    if "://" in source:
        source = source.partition("?")[0]
    inner = str(record["stem"]).count("/") if source == record["source"] else 0
    return "/".join(PurePath(source).parts[-1 - inner :]) or str(record["stem"])
