"""CVAT's XML, read back by datumaro, whose importer CVAT itself builds on, and by Python's own parser."""

from xml.etree import ElementTree

import numpy as np
import pytest

from clearclip.formats import Choices, Run, Writer, get_formats
from clearclip.formats.cvat import box_rle
from format_cases import INFO, LABEL_MAPS, NAMES, make

THINGS = Choices(things=(NAMES[1],))


def test_the_xml_is_the_label_maps(write):
    done = write("cvat", choices=THINGS)
    root = ElementTree.parse(done.folder / "cvat.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == NAMES
    assert {entry.get("key"): entry.text for entry in root.iter("entry")} == INFO
    assert [image.get("name") for image in root.iter("image")] == [f"{stem}.png" for stem in sorted(LABEL_MAPS)]
    for image in root.iter("image"):
        found = np.full((int(image.get("height")), int(image.get("width"))), -1)
        for mask in image.iter("mask"):
            left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
            lengths = np.array(mask.get("rle").split(", "), dtype=int)
            inside = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(height, width).astype(bool)
            found[top : top + height, left : left + width][inside] = NAMES.index(mask.get("label"))
            assert 0 <= float(mask.findtext("attribute")) <= 1
        assert np.array_equal(found, LABEL_MAPS[image.get("name").removesuffix(".png")])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_datumaro_reads_the_label_maps(write, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="the extra interop is not installed")
    done = write("cvat", choices=THINGS)
    home = tmp_path / "task"
    home.mkdir()
    (done.folder / "cvat.xml").rename(home / "annotations.xml")
    done.images.rename(home / "images")
    dataset = datumaro.Dataset.import_from(str(home), "cvat")
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    assert names == NAMES
    assert len(dataset) == len(LABEL_MAPS)
    for item in dataset:
        found = np.full(LABEL_MAPS[item.id].shape, -1)
        for annotation in item.annotations:
            assert annotation.type == datumaro.AnnotationType.mask
            assert 0 <= float(annotation.attributes["score"]) <= 1
            found[np.asarray(annotation.image, dtype=bool)] = annotation.label
        assert np.array_equal(found, LABEL_MAPS[item.id])


@pytest.mark.parametrize(
    ("mask", "rle"), [([[1]], "0, 1"), ([[0, 1], [1, 0]], "1, 2, 1"), ([[1, 1], [0, 1]], "0, 2, 1, 1")]
)
def test_run_lengths(mask, rle):
    assert box_rle(np.array(mask, dtype=bool)) == rle


def test_letters_that_xml_cannot_hold(tmp_path):
    result = make(LABEL_MAPS["full"], ["a", "b", "bell \x07 & \ufffe"])
    writer = Writer(get_formats(["cvat"]), Run(tmp_path, result.vocabulary, INFO))
    record = writer.write(result, stem="x", source='x\x01"<.png')
    writer.finish(lambda: iter([record]))
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    assert root.find("image").get("name") == 'x\ufffd"<.png'
    assert root.find("image/mask").get("label") == "bell \ufffd & \ufffd"
