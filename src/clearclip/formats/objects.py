"""Results as the objects of other libraries: supervision's detections, FiftyOne's labels."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clearclip.errors import UsageError
from clearclip.formats.regions import Choices, Region, Result, find_regions

WITHIN = 1e-6  # of a pixel: FiftyOne cuts pixels off, and 11 / 83 * 83 is less than 11


def to_detections(result: Result, *, things: Sequence[str], min_area: int) -> Any:
    """As `Segmentation.to_detections`."""
    supervision = _library("supervision", "to_detections")
    regions = _regions(result, things, min_area)
    if not regions:
        return supervision.Detections.empty()
    boxes = np.array([region.box for region in regions], dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return supervision.Detections(
        xyxy=boxes,
        mask=np.stack([region.full_mask.astype(bool) for region in regions]),
        confidence=np.array([region.score for region in regions], dtype=np.float32) if result.has_scores else None,
        class_id=np.array([region.label for region in regions]),
        data={"class_name": np.array([region.name for region in regions])},
        metadata=dict(result.info),
    )


def to_fiftyone(result: Result, *, things: Sequence[str] | None, min_area: int) -> Any:
    """As `Segmentation.to_fiftyone`."""
    fiftyone = _library("fiftyone", "to_fiftyone")
    if things is None:
        kind = np.uint8 if len(result.labels) < 256 else np.uint16
        return fiftyone.Segmentation(mask=(result.label_map + 1).astype(kind), **_extra(result))
    height, width = result.label_map.shape
    corner, size = np.array([WITHIN, WITHIN, 0, 0]), np.array([width, height, width, height])
    return fiftyone.Detections(
        detections=[
            fiftyone.Detection(
                label=region.name,
                bounding_box=((np.array(region.box) + corner) / size).tolist(),
                mask=region.mask,
                confidence=region.score,
                index=number,
            )
            for number, region in enumerate(_regions(result, things, min_area), start=1)
        ],
        **_extra(result),
    )


def _extra(result: Result) -> dict[str, Any]:
    return {"clearclip": dict(result.info)} if result.info else {}


def _regions(result: Result, things: Sequence[str], min_area: int) -> list[Region]:
    choices = Choices(things=tuple(things), min_area=min_area)
    for name in choices.things:
        result.vocabulary.index(name)
    return find_regions(result, choices)


def _library(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{purpose} needs {name} ({error}): python -m pip install {name}") from error
