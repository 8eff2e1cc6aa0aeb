"""YOLO's text of polygons, one line an object, and the `data.yaml` beside it.

https://docs.ultralytics.com/datasets/segment

The form knows neither holes nor objects of several parts nor scores: a hole hangs on its outline by a cut of no
width, and every connected part of a label is an object of its own. Readers fill the polygons with OpenCV, so points
are pixels, not edges (`polygons.filled_polygon`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from clearclip.errors import printable
from clearclip.files.writing import atomic_write
from clearclip.formats.base import Format, Record, Records, Run, Sample
from clearclip.formats.polygons import filled_polygon
from clearclip.formats.regions import connected

WITHIN = 0.25  # of a pixel: readers that round and readers that cut off both find the pixel


class Yolo(Format):
    """`yolo/labels/<stem>.txt` with `class x y x y …`, as shares of the width and height, and `yolo/data.yaml`."""

    name = "yolo"
    image_file = "yolo/labels/{stem}.txt"
    run_files = ("yolo/data.yaml",)
    libraries = ("cv2",)

    def write(self, sample: Sample) -> Record:
        height, width = sample.size
        lines = []
        for region in sample.regions:
            left, top, _, _ = region.box
            for part, (row, column) in connected(region.mask):
                if part.sum() >= sample.run.choices.min_area:
                    ring = filled_polygon(part, simplify=sample.run.choices.simplify)
                    corner = np.array([left + column, top + row]) + WITHIN
                    points = (ring + corner) / (width, height)
                    lines.append(f"{region.label} " + " ".join(f"{number:.7f}" for number in points.ravel()))
        with atomic_write(self.place(sample)) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="ascii", newline="\n")
        return {}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        file = run.folder / self.run_files[0]
        file.parent.mkdir(exist_ok=True)
        names = dict(enumerate(run.vocabulary.names))
        info = {key: printable(value) for key, value in run.info.items()}
        content = {"train": "images", "val": "images", "nc": len(names), "names": names, "clearclip": info}
        with atomic_write(file) as partial:
            partial.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return (file,)
