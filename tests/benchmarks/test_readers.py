"""Readers on the real files and on files made in the official formats; what is broken is named."""

from __future__ import annotations

import re
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from benchmark_cases import break_image, break_labels, break_size, break_text, write_pair
from clearclip.benchmarks import check_dataset, open_benchmark, open_folders
from clearclip.benchmarks.readers import READ_AHEAD, read_ahead, read_index_map
from clearclip.errors import ClearclipError, ImageError, UsageError
from clearclip.scenes import make_scene

REAL = {
    "voc21": ("voc2012", 31, 1449),
    "voc20": ("voc2012", 31, 1449),
    "coco_object": ("coco_object", 4, 5000),
    "coco_stuff": ("coco_stuff164k", 4, 5000),
    "cityscapes": ("cityscapes_small", 1, 500),
    "ade20k": ("ade20k", 3, 2000),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(name, samples):
    folder, pairs, official = REAL[name]
    dataset = open_benchmark(name, data=samples / folder)
    report = check_dataset(dataset, show_progress=False)
    assert (report.pairs, report.official, report.missing, report.broken) == (pairs, official, (), ())
    assert report.usable
    assert f"official split: {official:,}" in report.warnings[0]
    for item in dataset.items:
        sample = item.read()
        assert sample.image.shape == (*sample.truth.shape, 3)
        assert set(np.unique(sample.truth)) <= {*range(dataset.benchmark.classes), 255}


def truth_of(dataset, name):
    return next(item for item in dataset.items if item.id == name).read().truth


def present(dataset, name):
    names = dataset.vocabulary.names
    return {names[index] for index in np.unique(truth_of(dataset, name)) if index != 255}


def test_real_labels_say_what_the_photographs_show(samples):
    assert present(open_benchmark("voc21", data=samples / "voc2012"), "2007_000033") == {"background", "aeroplane"}
    assert present(open_benchmark("voc20", data=samples / "voc2012"), "2007_000129") == {"bicycle", "person"}
    assert present(open_benchmark("coco_object", data=samples / "coco_object"), "000000001818") == {
        "background",
        "zebra",
    }
    assert present(open_benchmark("coco_stuff", data=samples / "coco_stuff164k"), "000000001818") == {"zebra", "grass"}
    city = "frankfurt/frankfurt_000000_000294"
    assert {"road", "car", "sky"} < present(open_benchmark("cityscapes", data=samples / "cityscapes_small"), city)
    assert {"sky", "building", "grass"} < present(open_benchmark("ade20k", data=samples / "ade20k"), "ADE_val_00000001")


def copy_without(source, target, *patterns):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*patterns))
    return target


def test_raw_and_converted_maps_give_the_same_truth(samples, tmp_path):
    converted = open_benchmark("coco_stuff", data=samples / "coco_stuff164k")
    raw_folder = copy_without(samples / "coco_stuff164k", tmp_path / "raw", "*_labelTrainIds.png", "train2017")
    raw = open_benchmark("coco_stuff", data=raw_folder)
    objects = open_benchmark("coco_object", data=samples / "coco_object")
    objects_raw = open_benchmark("coco_object", data=raw_folder)
    train_ids = tmp_path / "train_ids"
    for item in converted.items:
        for source in (item.image, item.labels):
            target = train_ids / source.relative_to(samples / "coco_stuff164k")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    objects_converted = open_benchmark("coco_object", data=train_ids)
    assert {item.form.about for item in raw.items} == {"raw stuff-thing maps"}
    assert {item.form.about for item in objects_converted.items} == {"labelTrainIds maps of COCO-Stuff"}
    for item in converted.items:
        np.testing.assert_array_equal(truth_of(raw, item.id), item.read().truth)
        expected = truth_of(objects, item.id)
        np.testing.assert_array_equal(truth_of(objects_raw, item.id), expected)
        np.testing.assert_array_equal(truth_of(objects_converted, item.id), expected)


def test_cityscapes_label_ids_equal_train_ids_but_on_borders(samples, tmp_path):
    train = open_benchmark("cityscapes", data=samples / "cityscapes_small")
    folder = copy_without(samples / "cityscapes_small", tmp_path / "ids", "*_labelTrainIds.png")
    ids = open_benchmark("cityscapes", data=folder)
    assert ids.items[0].form.about == "labelIds maps"
    differing = np.count_nonzero(train.items[0].read().truth != ids.items[0].read().truth)
    assert differing == 77, "the sample's maps were downscaled one by one (SOURCES.md)"


def context(root):
    """The official format: 0 = background, 1–59 the classes, a list of ids."""
    labels = np.repeat(np.repeat(np.arange(60).reshape(6, 10), 4, axis=0), 4, axis=1)
    write_pair(root / "JPEGImages/2008_000001.jpg", root / "SegmentationClassContext/2008_000001.png", labels)
    (root / "ImageSets/SegmentationContext").mkdir(parents=True)
    (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000001\n")
    return labels


@pytest.mark.parametrize("below", ["", "VOC2010", "VOCdevkit/VOC2010"])
def test_context_is_read_with_and_without_background(tmp_path, below):
    labels = context(tmp_path / below)
    whole = open_benchmark("context60", data=tmp_path)
    np.testing.assert_array_equal(whole.items[0].read().truth, labels)
    assert whole.vocabulary.names[:3] == ("background", "aeroplane", "bag")
    reduced = open_benchmark("context59", data=tmp_path)
    np.testing.assert_array_equal(reduced.items[0].read().truth, np.where(labels == 0, 255, labels - 1))
    assert reduced.vocabulary.names[:2] == ("aeroplane", "bag")


def test_context_says_how_to_make_its_maps(voc):
    with pytest.raises(ClearclipError, match=r"SegmentationClassContext.*pascal_context\.py"):
        open_benchmark("context59", data=voc)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/val2017", "annotations/val2017"),
        ("val2017", "stuffthingmaps_trainval2017/val2017"),
        ("val2017", "stuffthingmaps/val2017"),
        ("val2017", "val2017"),
        ("coco_stuff164k/images/val2017", "coco_stuff164k/annotations/val2017"),
    ],
)
def test_coco_is_found_as_it_unpacks(tmp_path, images, labels):
    write_pair(tmp_path / images / "000000000139.jpg", tmp_path / labels / "000000000139.png", np.full((4, 4), 181))
    dataset = open_benchmark("coco_stuff", data=tmp_path)
    assert dataset.items[0].read().truth[0, 0] == 170
    assert dataset.missing == ()


def test_ade_and_cityscapes_are_found_as_they_unpack(tmp_path):
    ade, city = tmp_path / "ADEChallengeData2016", tmp_path / "cities"
    write_pair(
        ade / "images/validation/ADE_val_00000001.jpg", ade / "annotations/validation/ADE_val_00000001.png", [[0, 150]]
    )
    np.testing.assert_array_equal(open_benchmark("ade20k", data=tmp_path).items[0].read().truth, [[255, 149]])
    write_pair(
        city / "leftImg8bit_trainvaltest/leftImg8bit/val/ulm/ulm_1_leftImg8bit.png",
        city / "gtFine_trainvaltest/gtFine/val/ulm/ulm_1_gtFine_labelIds.png",
        [[0, 7, 33, 34, 255]],
    )
    found = open_benchmark("cityscapes", data=city)
    np.testing.assert_array_equal(found.items[0].read().truth, [[255, 0, 18, 255, 255]])


def test_missing_files_are_named(voc):
    (voc / "JPEGImages/2007_000001.jpg").unlink()
    (voc / "SegmentationClass/2007_000002.png").unlink()
    report = check_dataset(open_benchmark("voc20", data=voc), show_progress=False)
    assert report.pairs == 4
    assert not report.usable
    assert [sentence.rpartition("/")[2] for sentence in report.missing] == [
        "2007_000001.jpg: the image is missing",
        "2007_000002.png: the label map is missing",
    ]


def test_label_maps_without_image_are_missing_where_the_folder_is_the_split(tmp_path):
    write_pair(tmp_path / "val2017/1.jpg", tmp_path / "annotations/val2017/1.png", [[0]])
    Image.new("L", (1, 1)).save(tmp_path / "annotations/val2017/2.png")
    Image.new("L", (1, 1)).save(tmp_path / "annotations/val2017/1_instanceTrainIds.png")
    dataset = open_benchmark("coco_stuff", data=tmp_path)
    assert [sentence.rpartition("/")[2] for sentence in dataset.missing] == ["2.jpg: the image is missing"]


def break_turned(voc):
    path = voc / "SegmentationClass/2007_000003.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


def break_labels_16_bit(voc):
    path = voc / "SegmentationClass/2007_000003.png"
    labels = np.array(Image.open(path)).astype(np.uint16)
    labels[0, 0] = 24001
    Image.fromarray(labels).save(path)


def break_truncated(voc):
    path = voc / "SegmentationClass/2007_000003.png"
    path.write_bytes(path.read_bytes()[:60])


def break_colour(voc):
    path = voc / "SegmentationClass/2007_000003.png"
    Image.open(path).convert("RGB").save(path)


BREAKAGES = {
    break_size: "is 6×5 pixels, its image",
    break_turned: "turned by 90°",
    break_labels: r"holds labels outside the range: 21 \(2 pixels\), 200 \(1 pixels\).*allow 0–20, 255",
    break_labels_16_bit: "holds the label 24001",
    break_truncated: "cannot be read",
    break_image: "cannot be read",
    break_text: "no image that Pillow can read",
    break_colour: "colour picture",
}


@pytest.mark.parametrize("damage", BREAKAGES, ids=lambda damage: damage.__name__)
def test_a_broken_pair_is_one_line_that_names_the_file(voc, damage):
    damage(voc)
    dataset = open_benchmark("voc20", data=voc)
    with pytest.raises(ImageError, match=BREAKAGES[damage]) as caught:
        dataset.items[3].read()
    assert "2007_000003" in str(caught.value)
    assert "\n" not in str(caught.value)
    report = check_dataset(dataset, show_progress=False)
    assert report.broken == (str(caught.value),)
    assert not report.usable


def test_data_sets_of_ones_own_have_names_of_their_own_wherever_they_lie(tmp_path):
    def named(place, labels=("wall", "door"), pixels=((0, 1, 0, 1),)):
        write_pair(tmp_path / place / "photos/one.jpg", tmp_path / place / "truth/one.png", pixels)
        return open_folders(tmp_path / place / "photos", tmp_path / place / "truth", labels=labels).benchmark.name

    first = named("a")
    assert re.fullmatch("photos@[0-9a-f]{6}", first)
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    again = open_folders(tmp_path / "moved/photos", tmp_path / "moved/truth", labels=["wall", "door"])
    assert again.benchmark.name == first
    assert len({first, named("b", labels=("wall", "gate")), named("c", pixels=((0, 1, 0, 1),) * 9)}) == 3


def test_a_data_set_of_ones_own(tmp_path):
    images, annotations = tmp_path / "images", tmp_path / "masks"
    write_pair(images / "a/one.jpg", annotations / "a/one.png", [[0, 1, 255]])
    write_pair(images / "two.PNG", annotations / "two.png", [[2, 2]])
    Image.new("RGB", (2, 2)).save(images / "alone.png")
    dataset = open_folders(images, annotations, labels=["wall", "door=gate", "roof"])
    assert [item.id for item in dataset.items] == ["a/one", "two"]
    assert dataset.vocabulary.queries == ("wall", "door", "gate", "roof")
    assert re.fullmatch("images@[0-9a-f]{6}", dataset.benchmark.name)
    assert "alone.png: no label map" in dataset.missing[0]
    np.testing.assert_array_equal(dataset.items[0].read().truth, [[0, 1, 255]])
    Image.new("L", (2, 1), 3).save(annotations / "two.png")
    with pytest.raises(ImageError, match=r"holds labels outside the range: 3.*allow 0–2, 255"):
        open_folders(images, annotations, labels=["wall", "door", "roof"]).items[1].read()


def test_ones_own_folders_are_checked(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        open_folders(tmp_path / "a", tmp_path, labels=["x"])
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    with pytest.raises(ClearclipError, match="no name in common"):
        open_folders(tmp_path / "i", tmp_path / "l", labels=["x"])
    with pytest.raises(UsageError, match="256 labels"):
        open_folders(tmp_path / "i", tmp_path / "l", labels=[str(number) for number in range(256)])
    for suffix in ("jpg", "png"):
        Image.new("RGB", (1, 1)).save(tmp_path / f"i/same.{suffix}")
    with pytest.raises(UsageError, match="have one name"):
        open_folders(tmp_path / "i", tmp_path / "l", labels=["x"])


def test_a_folder_that_is_none_or_another_data_set_is_refused(voc, tmp_path):
    with pytest.raises(UsageError, match="needs its folder"):
        open_benchmark("voc20")
    with pytest.raises(UsageError, match="is no folder"):
        open_benchmark("voc20", data=tmp_path / "nowhere")
    with pytest.raises(ClearclipError, match="holds none of its files"):
        open_benchmark("ade20k", data=voc)
    (voc / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(ClearclipError, match="list of the split is missing"):
        open_benchmark("voc20", data=voc)


class Counted:
    """An item that notes when it is read."""

    def __init__(self, number, log):
        self.id, self._log = str(number), log

    def read(self, **_):
        self._log.append(int(self.id))
        if self.id == "5":
            raise ImageError("5 is broken")
        return self.id


def test_reading_ahead_keeps_the_order_and_its_distance():
    log: list[int] = []
    reader = read_ahead([Counted(number, log) for number in range(40)])
    first = next(reader)
    assert first == "0"
    outcomes = [next(reader) for _ in range(9)]
    assert outcomes[:4] == ["1", "2", "3", "4"]
    assert isinstance(outcomes[4], ImageError)
    assert outcomes[5:] == ["6", "7", "8", "9"]
    reader.close()
    assert len(log) <= 10 + READ_AHEAD


def test_scenes_need_no_folder():
    dataset = open_benchmark("scenes")
    assert len(dataset.items) == 500
    sample = dataset.items[7].read()
    assert sample.image.shape == (256, 320, 3)
    assert sample.truth.max() < 30


def test_splits_of_scenes_are_benchmarks_of_their_own():
    test, val = open_benchmark("scenes"), open_benchmark("scenes", split="val")
    assert open_benchmark("scenes", split="test").benchmark == test.benchmark
    assert (test.benchmark.name, val.benchmark.name) == ("scenes", "scenes-val")
    assert (test.items[7].id, val.items[7].id) == ("000007", "val-000007")
    np.testing.assert_array_equal(val.items[7].read().image, make_scene(7, split="val").image)
    assert (val.items[7].read().image != test.items[7].read().image).any()
    with pytest.raises(UsageError, match="did you mean 'val'"):
        open_benchmark("scenes", split="vall")
    with pytest.raises(UsageError, match="--split goes with scenes"):
        open_benchmark("voc20", split="val")


def test_own_data_take_every_image_type_and_no_copies(tmp_path):
    pixels = Image.new("RGB", (8, 6))
    for name in ("a.jfif", "b.TGA", "c.jpg"):
        for folder in ("", ".ipynb_checkpoints", "@eaDir/c.jpg"):
            (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
            pixels.save(tmp_path / "images" / folder / name)
            (tmp_path / "labels" / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 6)).save(tmp_path / "labels" / folder / f"{name.partition('.')[0]}.png")
    (tmp_path / "images" / "@eaDir" / "d.jpg").touch()
    found = open_folders(tmp_path / "images", tmp_path / "labels", labels=["sky"])
    assert ([item.id for item in found.items], found.missing) == (["a", "b", "c"], ())
    assert all(item.read().image.shape == (6, 8, 3) for item in found.items)


@pytest.mark.parametrize("error", [struct.error("x"), KeyError(7), MemoryError(), RecursionError(), EOFError()])
def test_whatever_a_decoder_of_label_maps_raises_is_an_image_error(tmp_path, monkeypatch, error):
    Image.new("L", (8, 6)).save(tmp_path / "a.png")

    def fail(*_):
        raise error

    monkeypatch.setattr("clearclip.benchmarks.readers.verify", fail)
    with pytest.raises(ImageError, match=r"a\.png: the label map cannot be read"):
        read_index_map(tmp_path / "a.png")
