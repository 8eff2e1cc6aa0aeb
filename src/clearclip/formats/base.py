"""What a format is: writes one image's files now, and the run's files in the end, from what it kept of every image.

Belongs here: the interface between an engine (which decides what is segmented, where and when) and the formats (which
decide what a file looks like). Does not: any particular format, any loop over images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearclip.errors import UsageError
from clearclip.files.names import safe_stem
from clearclip.files.optional import require
from clearclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from clearclip.formats.regions import Region

Record: TypeAlias = dict[str, Any]
Records: TypeAlias = Callable[[], Iterator[Record]]


class Result(Protocol):
    """What formats read of a segmentation; see `clearclip.Segmentation`."""

    @property
    def label_map(self) -> npt.NDArray[np.int32]: ...  # noqa: D102
    @property
    def vocabulary(self) -> Vocabulary: ...  # noqa: D102
    @property
    def info(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def palette(self) -> npt.NDArray[np.uint8]: ...  # noqa: D102
    @property
    def has_scores(self) -> bool: ...  # noqa: D102
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...  # noqa: D102
    def probability_maps(self) -> Iterator[npt.NDArray[np.float32]]: ...  # noqa: D102
    def overlay(self, *, opacity: float = ..., legend: bool = ...) -> Image.Image: ...  # noqa: D102


@dataclass(frozen=True)
class Choices:
    """What several formats let a user choose.

    Attributes:
        things: Names of labels that are countable: each connected region of one is an object of its own. All others
            are stuff: one region per image.
        min_area: Regions of fewer pixels are left out, in pixels.
        simplify: About how far, in pixels, a polygon may leave the region to need fewer points; 0 keeps it exact.

    Raises:
        UsageError: A number is negative.
    """

    things: tuple[str, ...] = ()
    min_area: int = 1
    simplify: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_area", "simplify"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name}={getattr(self, name)!r}: a number of pixels, at least 0, is needed")


@dataclass(frozen=True)
class Run:
    """What all images of a run share.

    Attributes:
        folder: Where the results go; it exists.
        vocabulary: The labels.
        info: How the results are made: model, method, protocol, versions (`Segmenter.describe`).
        choices: What the user chose.
    """

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
    """Where on Earth an image lies.

    Attributes:
        transform: `(a, b, c, d, e, f)`, as rasterio's and GDAL's affine: the corner `(x, y)` of pixels lies at
            `(a x + b y + c, d x + e y + f)`.
        crs: The coordinate reference system, as `EPSG:32633` or any text that GDAL reads; `None` where unknown.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str | None = None


@dataclass(frozen=True)
class Sample:
    """One segmented image on its way into files.

    Attributes:
        result: The segmentation.
        stem: Name of its files without suffix: one plain path component, unique in the run (`safe_stem`).
        source: The image's path or address as the user named it.
        run: What it shares with the others.
        georeference: Where it lies, for formats with coordinates on Earth; `None`: they are pixels.

    Raises:
        UsageError: The stem could lead out of the output folder.
    """

    result: Result
    stem: str
    source: str
    run: Run
    georeference: GeoReference | None = None

    def __post_init__(self) -> None:
        if self.stem != safe_stem(self.stem):
            raise UsageError(f"the name {self.stem!r} cannot be a file's: use {safe_stem(self.stem)!r}")

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
        from clearclip.formats.regions import find_regions

        return find_regions(self.result, self.run.choices)


class Format:
    """One kind of output. A subclass gives `name`, `libraries` and what it writes.

    An instance has no state: it may be pickled, and used by many threads and processes at once.

    Attributes:
        name: As `--format` takes it.
        run_files: Files of the whole run, below its folder, that `finish` writes.
        libraries: Modules it needs beyond the installed core, imported when it is used.
        extra: The extra of the package that installs them.
    """

    name: str
    run_files: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    extra: str = "formats"

    def check(self) -> None:
        """Find out before anything is segmented whether the format can be written.

        Raises:
            UsageError: A library is missing; the message names the extra.
        """
        for library in self.libraries:
            require(library, extra=self.extra, purpose=f"format {self.name!r}")

    def files(self, folder: Path, stem: str) -> tuple[Path, ...]:
        """The files of one image that stand under names known beforehand.

        Args:
            folder: The run's.
            stem: The image's.

        Returns:
            Paths; none where a format keeps all in a file of the run. An image of which one is missing is not done.
        """
        return ()

    def write(self, sample: Sample) -> Record:
        """Write one image's files; the engine gives a folder of its own, and moves them when all are complete.

        Args:
            sample: The image.

        Returns:
            What `finish` needs of it: JSON-able, independent of the other images; empty where nothing is needed.

        Raises:
            OSError: A file cannot be written.
        """
        return {}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        """Write the run's files from the records of the images that are done; earlier ones are replaced.

        Args:
            run: What the images share.
            records: Gives, as often as it is called, an iterator over the records in the order of their stems: each
                `{"stem", "source", "height", "width", **what write returned}`.

        Returns:
            The files written.

        Raises:
            OSError: A file cannot be written.
        """
        return ()


def xml_safe(text: str) -> str:
    """A text without the letters that XML 1.0 cannot hold, not even escaped.

    Args:
        text: Any.

    Returns:
        The same with U+FFFD for them.
    """
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def image_name(record: Mapping[str, Any]) -> str:
    """The name by which annotation tools know an image: its file's, without folders.

    Args:
        record: With `stem` and `source`.

    Returns:
        The file's name; for an image in a container that of its key.
    """
    source = re.sub(r"^.*\.(tar|tgz|tar\.gz|parquet)#(?=.)", "", record["source"], flags=re.IGNORECASE | re.DOTALL)
    if "://" in source:
        source = source.partition("?")[0]
    return PurePath(source).name or str(record["stem"])
