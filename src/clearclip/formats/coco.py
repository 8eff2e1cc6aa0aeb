"""COCO: instances and stuff with run lengths in one JSON, and the panoptic form. pycocotools does the run lengths.

https://cocodataset.org/#format-data, https://cocodataset.org/#panoptic-2019
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearclip.files.label_maps import save_image, save_json
from clearclip.formats.base import Format, Record, Records, Run, Sample, image_name
from clearclip.formats.regions import Region


class Coco(Format):
    """`coco.json`: every region with its run lengths, area, box and score; ids count from 1, also the categories'."""

    name = "coco"
    run_files = ("coco.json",)
    libraries = ("pycocotools.mask", "cv2")

    def write(self, sample: Sample) -> Record:
        height, width = sample.size
        annotations = [
            {
                "category_id": region.label + 1,
                "segmentation": {"size": [height, width], "counts": region.rle},
                **_measures(region),
            }
            for region in sample.regions
        ]
        return {"annotations": annotations}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        file = run.folder / self.run_files[0]
        save_json(file, _head(run), {"images": _images(records), "annotations": _annotations(records)})
        return (file,)


class Panoptic(Format):
    """`panoptic/<stem>.png`, whose colours are segments' ids (R + 256 G + 65536 B, 0: none), and `panoptic.json`."""

    name = "panoptic"
    image_file = "panoptic/{stem}.png"
    run_files = ("panoptic.json",)
    libraries = ("cv2",)

    def write(self, sample: Sample) -> Record:
        picture = np.zeros((*sample.size, 3), dtype=np.uint8)
        segments = []
        numbers = segment_ids(sample.regions, sample.run.vocabulary.palette)
        for region, number in zip(sample.regions, numbers, strict=True):
            x, y, width, height = region.box
            color = (number % 256, number // 256 % 256, number // 65536)
            picture[y : y + height, x : x + width][region.mask] = color
            segments.append({"id": number, "category_id": region.label + 1, **_measures(region)})
        save_image(Image.fromarray(picture), self.place(sample), info=sample.all_texts)
        return {"segments_info": segments}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        annotations = (
            {"image_id": number, "file_name": f"{record['stem']}.png", "segments_info": record["segments_info"]}
            for number, record in enumerate(records(), start=1)
        )
        file = run.folder / self.run_files[0]
        save_json(file, _head(run), {"images": _images(records), "annotations": annotations})
        return (file,)


def segment_ids(regions: Iterable[Region], palette: npt.NDArray[np.uint8]) -> Iterator[int]:
    """For each region of an image another number, 1 to 2²⁴ - 1: its label's colour read as one, or the next free."""
    taken = {0}
    for region in regions:
        red, green, blue = (int(part) for part in palette[region.label])
        number = red + 256 * green + 65536 * blue
        while number in taken:
            number = (number + 1) % 2**24
        taken.add(number)
        yield number


def _measures(region: Region) -> dict[str, Any]:
    return {"area": region.area, "bbox": list(region.box), "iscrowd": 0, **region.scored}


def _head(run: Run) -> dict[str, Any]:
    things, palette = run.choices.things, run.vocabulary.palette.tolist()
    return {
        "info": {"description": "Segmentations by clearclip", "version": "1.0", **run.provenance},
        "licenses": [],
        "categories": [
            {
                "id": index + 1,
                "name": name,
                "supercategory": "thing" if name in things else "stuff",
                "isthing": int(name in things),
                "color": palette[index],
            }
            for index, name in enumerate(run.vocabulary.names)
        ],
    }


def _images(records: Records) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records(), start=1):
        size = {"height": record["height"], "width": record["width"]}
        yield {"id": number, "file_name": image_name(record), **size, "source": record["source"]}


def _annotations(records: Records) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, record in enumerate(records(), start=1):
        for annotation in record["annotations"]:
            number += 1
            yield {"id": number, "image_id": image_id, **annotation}
