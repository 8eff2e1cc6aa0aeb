"""Results as files that other tools open: one small module per family of formats.

How an engine uses it, whichever it is (threads, processes, a cluster):

    writer = Writer(get_formats(["png", "coco"]), Run(folder, vocabulary, info, Choices()))
    writer.check()                                           # before the model loads
    if not writer.complete(stem, ledger.get(stem)): ...      # is this image done already?
    record = writer.write(result, stem=stem, source=source)  # in any thread or process; all files of one image
    ledger.append(record)                                    # the engine's own: durable, after the files
    writer.finish(ledger.records)                            # once at the end, and after every resumed run

`write` returns one JSON-able record: `{"stem", "source", "height", "width", "formats": {name: {...}}}`. **The engine
persists it** (its ledger) after `write` has returned, and gives `finish` those of the finished images, each stem once,
sorted by stem: so a run that was killed and started again ends with the complete `coco.json`, and two runs over the
same images end with the same bytes whatever order the images came in. An image that was written again with other
formats keeps what the ledger has of the earlier ones: merge with `merge_records`.

Belongs here: the list of the formats and the writer of several. Does not: any one format, any loop over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearclip.errors import UsageError, nearest, printable
from clearclip.files.names import safe_stem
from clearclip.formats.base import (
    Choices,
    Format,
    GeoReference,
    Record,
    Records,
    Result,
    Run,
    Sample,
)

__all__ = [
    "DEFAULT_FORMATS",
    "FORMAT_NAMES",
    "Choices",
    "Format",
    "GeoReference",
    "Record",
    "Records",
    "Run",
    "Sample",
    "Writer",
    "get_formats",
    "merge_records",
    "safe_stem",
]

FORMAT_NAMES = (
    "png", "preview", "overlay", "masks", "coco", "panoptic",
    "geojson", "yolo", "labelstudio", "cvat", "npz", "parquet",
)  # fmt: skip
DEFAULT_FORMATS = ("png", "preview")


def get_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """The formats of some names.

    Args:
        names: Of `FORMAT_NAMES`; a repeated one counts once.

    Returns:
        One each, in the order given.

    Raises:
        UsageError: A name is unknown, or there is none.
    """
    known = _known()
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise UsageError(f"format {name!r} is not known: {nearest(name, FORMAT_NAMES)}")
    if not wanted:
        raise UsageError(f"no format was given: name at least one of {', '.join(FORMAT_NAMES)}")
    return tuple(known[name] for name in wanted)


def _known() -> dict[str, Format]:
    from clearclip.formats import arrays, coco, cvat, geojson, labelstudio, yolo
    from clearclip.formats import png as pictures

    formats: tuple[Format, ...] = (
        pictures.LabelPng(),
        pictures.Preview(),
        pictures.Overlay(),
        pictures.Masks(),
        coco.Coco(),
        coco.Panoptic(),
        geojson.GeoJson(),
        yolo.Yolo(),
        labelstudio.LabelStudio(),
        cvat.Cvat(),
        arrays.Npz(),
        arrays.Parquet(),
    )
    return {format_.name: format_ for format_ in formats}


@dataclass(frozen=True)
class Writer:
    """Several formats of one run; it has no state and may be pickled.

    Attributes:
        formats: What to write, in this order; the last file of an image that appears is the last format's.
        run: What the images share.
    """

    formats: tuple[Format, ...]
    run: Run

    def check(self) -> None:
        """Find out before anything is segmented whether all formats can be written.

        Raises:
            UsageError: A library is missing, or a thing is none of the labels.
        """
        for name in self.run.choices.things:
            self.run.vocabulary.index(name)
        for format_ in self.formats:
            format_.check()

    def files(self, stem: str) -> tuple[Path, ...]:
        """The files of one image whose names are known beforehand.

        Args:
            stem: The image's.

        Returns:
            Paths in the run's folder.
        """
        return tuple(file for format_ in self.formats for file in format_.files(self.run.folder, stem))

    def complete(self, stem: str, record: Record | None) -> bool:
        """Whether an image has all that this run wants of it.

        Args:
            stem: The image's.
            record: What the ledger has of it, made with the same settings from the same image; `None`: nothing.

        Returns:
            Whether no format is missing in the record and no file on the disk.
        """
        known = {} if record is None else record.get("formats", {})
        return all(format_.name in known for format_ in self.formats) and all(
            file.exists() for file in self.files(stem)
        )

    def write(self, result: Result, *, stem: str, source: str, georeference: GeoReference | None = None) -> Record:
        """Write all files of one image.

        Args:
            result: The segmentation; its `info` goes into every file with room for it, with what the engine added.
            stem: Name of its files, unique in the run; see `safe_stem`.
            source: The image's path or address as the user named it.
            georeference: Where it lies, if that is known.

        Returns:
            The record that the ledger keeps once this has returned.

        Raises:
            UsageError: The stem is not safe.
            OSError: A file cannot be written; what was written before stays.
        """
        sample = Sample(result, stem, printable(source), self.run, georeference)
        height, width = sample.size
        kept = {format_.name: format_.write(sample) for format_ in self.formats}
        return {"stem": stem, "source": sample.source, "height": height, "width": width, "formats": kept}

    def finish(self, records: Records) -> tuple[Path, ...]:
        """Write the files of the run.

        Args:
            records: Gives, as often as it is called, the records that `write` returned: of finished images only, each
                stem once, sorted by stem.

        Returns:
            The files written.

        Raises:
            OSError: A file cannot be written.
        """
        return tuple(
            file for format_ in self.formats for file in format_.finish(self.run, _Part(format_.name, records))
        )


@dataclass(frozen=True)
class _Part:
    """What one format kept, of those images that have it."""

    name: str
    records: Records

    def __call__(self) -> Iterator[Record]:
        for record in self.records():
            if self.name in record["formats"]:
                common = {key: record[key] for key in ("stem", "source", "height", "width")}
                yield {**common, **record["formats"][self.name]}


def merge_records(old: Mapping[str, Any] | None, new: Record) -> Record:
    """One record of an image that was written twice with the same settings, for instance in other formats.

    Args:
        old: The earlier; `None`: there was none.
        new: The later; it wins.

    Returns:
        A new record with the formats of both.
    """
    return new if old is None else {**old, **new, "formats": {**old["formats"], **new["formats"]}}
