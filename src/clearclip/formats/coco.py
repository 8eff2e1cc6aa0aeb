"""COCO: instances and stuff with run lengths in one JSON, and the panoptic form. pycocotools does the run lengths.

https://cocodataset.org/#format-data, https://cocodataset.org/#panoptic-2019
"""

from __future__ import annotations

import itertools
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
        size = list(sample.size)
        shapes = ((region, {"size": size, "counts": region.rle}) for region in sample.regions)
        return {"annotations": [_annotation(region, segmentation=shape) for region, shape in shapes]}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        return _save(run.folder / self.run_files[0], run, records, _annotations(records))


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
            segments.append({"id": number, **_annotation(region)})
        save_image(Image.fromarray(picture), self.place(sample), info=sample.all_texts)
        return {"segments_info": segments}

    def finish(self, run: Run, records: Records) -> tuple[Path, ...]:
        annotations = (
            {"image_id": number, "file_name": f"{record['stem']}.png", "segments_info": record["segments_info"]}
            for number, record in enumerate(records(), start=1)
        )
        return _save(run.folder / self.run_files[0], run, records, annotations)


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


def _annotation(region: Region, **shape: Any) -> dict[str, Any]:
    measures = {"area": region.area, "bbox": list(region.box), "iscrowd": 0}
    return {"category_id": region.label + 1, **shape, **measures, **region.scored}


def _save(file: Path, run: Run, records: Records, annotations: Iterable[Any]) -> tuple[Path]:
    things, palette = run.choices.things, run.vocabulary.palette.tolist()
    head = {
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
    save_json(file, head, {"images": _images(records), "annotations": annotations})
    return (file,)


def _images(records: Records) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records(), start=1):
        size = {"height": record["height"], "width": record["width"]}
        yield {"id": number, "file_name": image_name(record), **size, "source": record["source"]}


def _annotations(records: Records) -> Iterator[dict[str, Any]]:
    numbers = itertools.count(1)
    for image_id, record in enumerate(records(), start=1):
        for annotation in record["annotations"]:
            yield {"id": next(numbers), "image_id": image_id, **annotation}
