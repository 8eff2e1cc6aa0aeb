"""CVAT for images 1.1: one XML with a mask for every region, to upload into a task that has the images.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from clearclip.files.writing import atomic_write
from clearclip.formats.base import Format, Record, Records, Run, Sample, image_name, xml_safe


class Cvat(Format):
    """`cvat.xml`: masks rather than polygons, which could have no holes; the score is an attribute."""

    name = "cvat"
    run_files = ("cvat.xml",)
    libraries = ("cv2",)

    def write(self, sample: Sample) -> Record:
        return {
            "masks": [
                {"label": region.name, "box": list(region.box), "rle": box_rle(region.mask), **region.scored}
                for region in sample.regions
            ]
        }

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        file = run.folder / self.run_files[0]
        with atomic_write(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in _lines(run, records))
        return (file,)


def box_rle(mask: npt.NDArray[np.bool_]) -> str:
    """Run lengths of a mask `(height, width)`, row by row, zeros first, with commas between, as CVAT writes them."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return ", ".join(map(str, [0, *lengths] if flat[0] else lengths))


def _lines(run: Run, records: Records) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <provenance>'
    for key, value in run.info.items():
        yield f"      <entry key={_quoted(key)}>{_text(value)}</entry>"
    yield "    </provenance>\n    <task>"
    yield f"      <name>clearclip</name><size>{sum(1 for _ in records())}</size><mode>annotation</mode>"
    yield "      <labels>"
    for name, color in zip(run.vocabulary.names, run.vocabulary.palette.tolist(), strict=True):
        yield f"        <label><name>{_text(name)}</name><color>#{bytes(color).hex()}</color><type>mask</type>"
        yield "          <attributes><attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>"
        yield "            <default_value></default_value><values></values></attribute></attributes>"
        yield "        </label>"
    yield "      </labels>\n    </task>\n  </meta>"
    for number, record in enumerate(records()):
        yield from _image(number, record)
    yield "</annotations>"


def _image(number: int, record: Mapping[str, Any]) -> Iterator[str]:
    size = f'width="{record["width"]}" height="{record["height"]}"'
    yield f'  <image id="{number}" name={_quoted(image_name(record))} {size}>'
    for mask in record["masks"]:
        left, top, width, height = mask["box"]
        place = f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="0"'
        kind = f'label={_quoted(mask["label"])} source="auto" occluded="0"'
        yield f'    <mask {kind} rle="{mask["rle"]}" {place}>'
        if "score" in mask:
            yield f'      <attribute name="score">{mask["score"]}</attribute>'
        yield "    </mask>"
    yield "  </image>"


def _text(text: str) -> str:
    return escape(xml_safe(text))


def _quoted(text: str) -> str:
    return quoteattr(xml_safe(text))
