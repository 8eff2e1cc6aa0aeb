"""Results as files that other tools open: one small module per family of formats.

How an engine uses it, whichever it is (threads, processes, a cluster):

    writer = Writer(get_formats(["png", "coco"]), Run(folder, vocabulary, info, Choices()))
    writer.check()                                           # before the model loads
    if not writer.complete(stem, ledger.get(stem)): ...      # is this image done already?
    record = writer.write(result, stem=stem, source=source)  # in any thread or process; all files of one image
    ledger.append(record)                                    # the engine's own: durable, after the files
    writer.finish(ledger.records)                            # once at the end, and after every resumed run

`write` returns one JSON-able record: `{"stem", "source", "height", "width", "formats": {name: {...}}}`. The engine
persists it after `write` has returned, and gives `finish` those of the finished images, each stem once, sorted by stem:
so a run that was killed and started again ends with the complete `coco.json`, and two runs over the same images end
with the same bytes whatever order the images came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clearclip.errors import UsageError, nearest, printable
from clearclip.files.names import safe_stem
from clearclip.formats import arrays, coco, cvat, geojson, labelstudio, png, yolo
from clearclip.formats.base import Format, GeoReference, Record, Records, Run, Sample
from clearclip.formats.regions import Choices, Result

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

_FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        png.LabelPng(), png.MaskPng(), png.Preview(), png.Overlay(), png.Masks(), coco.Coco(), coco.Panoptic(),
        geojson.GeoJson(), yolo.Yolo(), labelstudio.LabelStudio(), cvat.Cvat(), arrays.Npz(), arrays.Parquet(),
    )
}  # fmt: skip
FORMAT_NAMES = tuple(_FORMATS)
DEFAULT_FORMATS = ("png", "preview")


def get_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """The formats of some `FORMAT_NAMES`, each once; `UsageError` if a name is unknown, or there is none."""
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in _FORMATS:
            raise UsageError(f"format {name!r} is not known: {nearest(name, FORMAT_NAMES)}")
    if not wanted:
        raise UsageError(f"no format was given: name at least one of {', '.join(FORMAT_NAMES)}")
    return tuple(_FORMATS[name] for name in wanted)


@dataclass(frozen=True)
class Writer:
    """Several formats of one run; it has no state and may be pickled.

    The last file of an image that appears is the last format's.
    """

    formats: tuple[Format, ...]
    run: Run

    def check(self) -> None:
        """`UsageError` if a library is missing, or a thing is none of the labels: before anything is segmented."""
        for name in self.run.choices.things:
            self.run.vocabulary.index(name)
        for format_ in self.formats:
            format_.check()

    def files(self, stem: str) -> tuple[Path, ...]:
        """The files of one image whose names are known beforehand."""
        return tuple(file for format_ in self.formats for file in format_.files(self.run.folder, stem))

    def complete(self, stem: str, record: Record | None) -> bool:
        """Whether no format is missing in an image's record and no file on the disk.

        `record` is what the ledger has of it, made with the same settings from the same image.
        """
        known = {} if record is None else record.get("formats", {})
        return all(format_.name in known for format_ in self.formats) and all(
            file.exists() for file in self.files(stem)
        )

    def write(self, result: Result, *, stem: str, source: str, georeference: GeoReference | None = None) -> Record:
        """Write all files of one image, and give the record that the ledger keeps once this has returned.

        `stem` names its files, unique in the run (`safe_stem`, else `UsageError`); `source` is the image's path or
        address as the user named it. After an `OSError` what was written before stays.
        """
        sample = Sample(result, stem, printable(source), self.run, georeference)
        height, width = sample.size
        kept = {format_.name: format_.write(sample) for format_ in self.formats}
        return {"stem": stem, "source": sample.source, "height": height, "width": width, "formats": kept}

    def finish(self, records: Records) -> tuple[Path, ...]:
        """Write the files of the run, and name them.

        `records()` gives, as often as it is called, the records that `write` returned: of finished images only, each
        stem once, sorted by stem.
        """

        def part(name: str) -> Iterator[Record]:
            for record in records():
                if name in record["formats"]:
                    common = {key: record[key] for key in ("stem", "source", "height", "width")}
                    yield {**common, **record["formats"][name]}

        return tuple(file for format_ in self.formats for file in format_.finish(self.run, partial(part, format_.name)))


def merge_records(old: Mapping[str, Any] | None, new: Record) -> Record:
    """One record of an image that was written twice with the same settings, in other formats; the new one wins."""
    return new if old is None else {**old, **new, "formats": {**old["formats"], **new["formats"]}}
