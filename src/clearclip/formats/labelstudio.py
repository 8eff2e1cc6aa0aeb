"""Label Studio: tasks with brush masks as predictions, and the labelling interface that shows them.

https://labelstud.io/guide/predictions, https://labelstud.io/tags/brushlabels
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from clearclip.errors import printable
from clearclip.files.label_maps import write_json_array
from clearclip.files.writing import atomic_write
from clearclip.formats.base import Format, Record, Records, Run, Sample, xml_safe

RUN_BITS = (3, 4, 8, 16)
VALUE_BITS = 8
CHANNELS = 4
MAX_VALUES = 2**32 - 1


class LabelStudio(Format):
    """`labelstudio.json`, a task for each image with its regions as brush strokes, and `labelstudio.xml`.

    An image's address stays as it is; a path becomes one of Label Studio's local files, below the folder that
    `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` names.
    """

    name = "labelstudio"
    run_files = ("labelstudio.json", "labelstudio.xml")
    libraries = ("cv2",)

    def write(self, sample: Sample) -> Record:
        height, width = sample.size
        if CHANNELS * height * width > MAX_VALUES:
            raise OSError(f"Label Studio's brush holds {MAX_VALUES // CHANNELS:,} pixels, not {height * width:,}")
        strokes = []
        for number, region in enumerate(sample.regions):
            name = hashlib.sha256(f"{sample.stem}\0{number}\0{region.name}".encode()).hexdigest()[:10]
            brush = base64.b64encode(brush_rle(region.full_mask)).decode("ascii")
            stroke = {"id": name, "label": xml_safe(region.name), "brush": brush, "area": region.area}
            strokes.append({**stroke, **region.scored})
        return {"strokes": strokes, "made": sample.texts}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        tasks, interface = (run.folder / name for name in self.run_files)
        with atomic_write(tasks) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
            write_json_array(stream, (_task(record, run.info) for record in records()))
            stream.write("\n")
        with atomic_write(interface) as partial:
            partial.write_text(_interface(run), encoding="utf-8", newline="\n")
        return tasks, interface


def brush_rle(mask: npt.NDArray[np.uint8]) -> bytes:
    """The bits of a brush, zeros at the end: `@thi.ng/rle-pack` over a mask `(H, W)` of 0 and 1 as an RGBA picture.

    32 bits say how many values follow, 5 how wide one is, four times 4 how long a run's length may be; then, for every
    run, a 1, which of the four widths its length has, the length, and the value.
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths, values = np.diff(starts) * CHANNELS, flat[starts[:-1]].astype(np.int64) * 255
    longest = 2 ** RUN_BITS[-1]
    pieces = -(-lengths // longest)
    values, rest = np.repeat(values, pieces), lengths - (pieces - 1) * longest
    lengths = np.full(len(values), longest)
    lengths[np.cumsum(pieces) - 1] = rest
    kind = np.searchsorted([2**bits for bits in RUN_BITS], lengths)
    bits = np.asarray(RUN_BITS)[kind]
    head = [(flat.size * CHANNELS, 32), (VALUE_BITS - 1, 5), *((bits - 1, 4) for bits in RUN_BITS)]
    codes = (((4 | kind) << bits | (lengths - 1)) << VALUE_BITS) | values
    codes = np.concatenate([[code for code, _ in head], codes])
    widths = np.concatenate([[width for _, width in head], 3 + bits + VALUE_BITS])
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return np.packbits(((np.repeat(codes, widths) >> shift) & 1).astype(np.uint8)).tobytes()


def _task(record: Mapping[str, Any], info: Mapping[str, str]) -> dict[str, Any]:
    strokes: list[dict[str, Any]] = record["strokes"]
    image = {"original_width": record["width"], "original_height": record["height"], "image_rotation": 0}
    results = [
        {
            "id": stroke["id"], "from_name": "label", "to_name": "image", "type": "brushlabels", **image,
            **({"score": stroke["score"]} if "score" in stroke else {}),
            "value": {
                "format": "rle", "rle": list(base64.b64decode(stroke["brush"])), "brushlabels": [stroke["label"]],
            },
        }
        for stroke in strokes
    ]  # fmt: skip
    version = " / ".join(info[key] for key in ("software", "model", "method") if key in info) or "clearclip"
    prediction: dict[str, Any] = {"model_version": version, "result": results}
    if strokes and all("score" in stroke for stroke in strokes):
        total = sum(stroke["score"] * stroke["area"] for stroke in strokes)
        prediction["score"] = round(total / sum(stroke["area"] for stroke in strokes), 6)
    return {"data": {"image": _address(record["source"])}, "meta": record["made"], "predictions": [prediction]}


def _address(source: str) -> str:
    if "://" in source:
        return source
    return "/data/local-files/?d=" + quote(source.replace("\\", "/").removeprefix("./").lstrip("/"))


def _interface(run: Run) -> str:
    made = json.dumps({key: printable(value) for key, value in run.info.items()}, ensure_ascii=False)
    labels = (
        f'    <Label value={quoteattr(xml_safe(name))} background="#{bytes(color).hex()}"/>\n'
        for name, color in zip(run.vocabulary.names, run.vocabulary.palette.tolist(), strict=True)
    )
    return (
        f"<View>\n  <!-- {xml_safe(made).replace('--', '- -')} -->\n"
        '  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="label" toName="image">\n'
        f"{''.join(labels)}  </BrushLabels>\n</View>\n"
    )
