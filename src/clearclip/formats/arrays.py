"""For programs that go on computing: probability maps as NPZ, and a Parquet table of all regions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clearclip.files.optional import require
from clearclip.files.writing import atomic_write
from clearclip.formats.base import Format, Record, Records, Run, Sample

ROW_GROUP = 5_000
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the same results are the same bytes


class Npz(Format):
    """`npz/<stem>.npz`: `probabilities` (labels, H, W) float16, `labels`, and `info`, which is JSON."""

    name = "npz"
    image_file = "npz/{stem}.npz"

    def write(self, sample: Sample) -> Record:
        names = sample.run.vocabulary.names
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(names), *sample.size)}
        with (
            atomic_write(self.place(sample)) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            with archive.open(_entry("probabilities"), "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for probability in sample.result.probability_maps():  # one label's is in memory at a time
                    stream.write(probability.astype("<f2").tobytes())
            for name, value in (("labels", names), ("info", json.dumps(sample.provenance, ensure_ascii=False))):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.array(value), allow_pickle=False)
                archive.writestr(_entry(name), buffer.getvalue())
        return {}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{name}.npy", FIXED_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


class Parquet(Format):
    """`regions.parquet`: a row for every region, with its image, label, run lengths, area, box and mean score."""

    name = "parquet"
    run_files = ("regions.parquet",)
    libraries = ("pyarrow.parquet", "pycocotools.mask", "cv2")

    def write(self, sample: Sample) -> Record:
        rows = [
            {
                "label": region.name, "index": region.label, "isthing": region.is_thing, "rle": region.rle,
                "area": region.area, "box": list(region.box), "score": region.score,
            }
            for region in sample.regions
        ]  # fmt: skip
        return {"rows": rows}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        arrow = require("pyarrow", extra=self.extra, purpose="format 'parquet'")
        parquet = require("pyarrow.parquet", extra=self.extra, purpose="format 'parquet'")
        text, number = arrow.string(), arrow.int32()
        kinds = {
            "path": text, "stem": text, "height": number, "width": number, "label": text, "index": number,
            "isthing": arrow.bool_(), "rle": text, "area": arrow.int64(), "box": arrow.list_(number, 4),
            "score": arrow.float32(),
        }  # fmt: skip
        schema = arrow.schema(kinds, metadata={"clearclip": json.dumps(run.provenance, ensure_ascii=False)})
        file = run.folder / self.run_files[0]
        rows = _rows(records)
        with atomic_write(file) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
            while group := list(islice(rows, ROW_GROUP)):
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))
        return (file,)


def _rows(records: Records) -> Iterator[dict[str, Any]]:
    for record in records():
        image = {"path": record["source"], **{key: record[key] for key in ("stem", "height", "width")}}
        for row in record["rows"]:
            yield {**image, **row}
