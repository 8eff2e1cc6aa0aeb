"""YOLO's text, read back by supervision's loader."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from clearclip.formats import Choices
from clearclip.formats.regions import connected
from format_cases import INFO, LABEL_MAPS, NAMES

supervision = pytest.importorskip("supervision")


def loaded(done):
    return supervision.DetectionDataset.from_yolo(
        images_directory_path=str(done.images),
        annotations_directory_path=str(done.folder / "yolo" / "labels"),
        data_yaml_path=str(done.folder / "yolo" / "data.yaml"),
        force_masks=True,
    )


def test_supervision_reads_the_label_maps(write):
    done = write("yolo")
    dataset = loaded(done)
    assert dataset.classes == NAMES
    assert len(dataset) == len(LABEL_MAPS)
    for path, _, detections in dataset:
        stem = Path(path).stem
        label_map = LABEL_MAPS[stem]
        found = np.full(label_map.shape, -1)
        for mask, label in zip(detections.mask, detections.class_id, strict=True):
            assert (found[mask] == -1).all()
            found[mask] = label
        assert np.array_equal(found, label_map)
        objects = sum(len(connected(label_map == label)) for label in range(4) if (label_map == label).any())
        assert len(detections) == objects


def test_readers_that_cut_off_find_the_same_pixels(write):
    done = write("yolo")
    for stem, label_map in LABEL_MAPS.items():
        for line in (done.folder / "yolo" / "labels" / f"{stem}.txt").read_text().splitlines():
            label, *numbers = line.split()
            points = np.array(numbers, dtype=np.float32).reshape(-1, 2) * np.array(label_map.shape[::-1])
            assert np.array_equal(np.trunc(points), np.round(points))
            x, y = np.trunc(points).astype(int).T
            assert (label_map[y, x] == int(label)).all()


def test_data_yaml(write):
    done = write("yolo", choices=Choices(min_area=10**6))
    content = yaml.safe_load((done.folder / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(NAMES))
    assert content["nc"] == len(NAMES)
    assert content["clearclip"] == INFO
    assert (done.folder / "yolo" / "labels" / "blobs.txt").read_text() == ""
    assert all(len(detections) == 0 for _, _, detections in loaded(done))
