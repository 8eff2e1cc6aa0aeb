"""COCO and its panoptic form, read back by pycocotools, supervision and Pillow."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearclip.formats import Choices
from format_cases import INFO, LABEL_MAPS, NAMES

pycocotools = pytest.importorskip("pycocotools.coco")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
THINGS = Choices(things=("sky/sea", "a \"<b>\" & 'c' -- d"))


def label_map_of(coco, image):
    """The label map that a COCO file's annotations make, and in how many of them each pixel is."""
    found = np.full((image["height"], image["width"]), -1)
    count = np.zeros(found.shape, dtype=int)
    for annotation in coco.imgToAnns[image["id"]]:
        mask = coco.annToMask(annotation).astype(bool)
        found[mask] = annotation["category_id"] - 1
        count += mask
    return found, count


@pytest.mark.parametrize("choices", [Choices(), THINGS], ids=["stuff", "things"])
def test_pycocotools_reads_the_label_maps(write, choices, capsys):
    done = write("coco", choices=choices)
    coco = pycocotools.COCO(str(done.folder / "coco.json"))
    assert [image["id"] for image in coco.loadImgs(coco.getImgIds())] == list(range(1, len(LABEL_MAPS) + 1))
    for image in coco.loadImgs(coco.getImgIds()):
        stem = image["file_name"].removesuffix(".png")
        found, count = label_map_of(coco, image)
        assert np.array_equal(found, LABEL_MAPS[stem])
        assert (count == 1).all()
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
            assert annotation["score"] == pytest.approx(done.results[stem].scores[mask].mean(), abs=2e-6)
    categories = coco.loadCats(coco.getCatIds())
    assert [category["name"] for category in categories] == NAMES
    assert [bool(category["isthing"]) for category in categories] == [name in choices.things for name in NAMES]
    assert coco.dataset["info"]["model"] == INFO["model"]
    assert coco.dataset["info"]["labels"] == NAMES


def test_things_are_counted_one_by_one(write):
    label_map = np.zeros((6, 9), dtype=np.int32)
    label_map[1:3, 1:3] = label_map[4, 7] = 2
    label_map[3, 3] = 2  # touches the first at a corner: the same object
    done = write("coco", label_maps={"x": label_map}, choices=Choices(things=(NAMES[2],)))
    coco = json.loads((done.folder / "coco.json").read_text(encoding="utf-8"))
    assert [(row["category_id"], row["area"], row["bbox"]) for row in coco["annotations"]] == [
        (1, 48, [0, 0, 9, 6]),
        (3, 5, [1, 1, 3, 3]),
        (3, 1, [7, 4, 1, 1]),
    ]


def test_small_regions_are_left_out(write):
    choices = Choices(things=(NAMES[1],), min_area=30)
    done = write("coco", "panoptic", choices=choices)
    coco = json.loads((done.folder / "coco.json").read_text(encoding="utf-8"))
    panoptic = json.loads((done.folder / "panoptic.json").read_text(encoding="utf-8"))
    areas = [row["area"] for row in coco["annotations"]]
    assert min(areas) >= 30
    assert areas == [segment["area"] for row in panoptic["annotations"] for segment in row["segments_info"]]
    assert len(coco["images"]) == len(LABEL_MAPS)  # also those without any


def test_supervision_reads_it(write):
    supervision = pytest.importorskip("supervision")
    done = write("coco", choices=THINGS)
    dataset = supervision.DetectionDataset.from_coco(str(done.images), str(done.folder / "coco.json"), force_masks=True)
    assert dataset.classes == NAMES
    assert len(dataset) == len(LABEL_MAPS)
    for path, image, detections in dataset:
        stem = Path(path).stem
        assert np.array_equal(image[..., ::-1], done.results[stem].image)
        found = np.full(LABEL_MAPS[stem].shape, -1)
        for mask, label in zip(detections.mask, detections.class_id, strict=True):
            found[mask] = label
        assert np.array_equal(found, LABEL_MAPS[stem])


@pytest.mark.parametrize("choices", [Choices(), THINGS], ids=["stuff", "things"])
def test_panoptic_is_what_its_json_says(write, choices):
    done = write("panoptic", choices=choices, background="sky:sea")
    panoptic = json.loads((done.folder / "panoptic.json").read_text(encoding="utf-8"))
    images = {image["id"]: image for image in panoptic["images"]}
    assert panoptic["info"]["method"] == "clearclip"
    for annotation in panoptic["annotations"]:
        stem = images[annotation["image_id"]]["file_name"].removesuffix(".png")
        with Image.open(done.folder / "panoptic" / annotation["file_name"]) as picture:
            assert picture.mode == "RGB"
            numbers = np.asarray(picture, dtype=np.int64) @ [1, 256, 65536]  # as panopticapi's rgb2id
        found = np.full(numbers.shape, -1)
        for segment in annotation["segments_info"]:
            mask = numbers == segment["id"]
            assert segment["area"] == mask.sum()
            found[mask] = segment["category_id"] - 1
        assert np.array_equal(found, LABEL_MAPS[stem])
        assert set(np.unique(numbers)) == {segment["id"] for segment in annotation["segments_info"]}


def test_datumaro_reads_the_panoptic_form(write, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="the extra interop is not installed")
    done = write("panoptic", choices=THINGS)
    home = tmp_path / "dataset"
    (home / "annotations").mkdir(parents=True)
    (done.folder / "panoptic.json").rename(home / "annotations" / "panoptic_val.json")
    (done.folder / "panoptic").rename(home / "annotations" / "panoptic_val")
    (home / "images").mkdir()
    done.images.rename(home / "images" / "val")
    dataset = datumaro.Dataset.import_from(str(home), "coco_panoptic")
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    assert len(dataset) == len(LABEL_MAPS)
    for item in dataset:
        found = np.full(LABEL_MAPS[item.id].shape, -1)
        for annotation in item.annotations:
            found[np.asarray(annotation.image, dtype=bool)] = NAMES.index(names[annotation.label])
        assert np.array_equal(found, LABEL_MAPS[item.id])
