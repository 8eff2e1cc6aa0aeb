"""Subfolders are mirrored in the output, so that equal file names in them are no collision."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from clearclip.engine.run import segment_files
from clearclip.engine.sources import scan

FORMATS = ["png", "preview", "mask", "masks", "coco", "panoptic", "yolo", "npz", "cvat", "labelstudio"]


@pytest.fixture
def tree(photo, tmp_path):
    """Photographs of equal names in several folders."""
    for seed, name in enumerate(("train/cat/001.png", "train/dog/001.png", "train/001.png", "val/cat/001.png")):
        photo(f"photos/{name}", seed=seed)
    return tmp_path / "photos"


def names(*sources):
    scanned = scan([str(source) for source in sources])
    return [scanned.names.get(file, file.stem) for file in scanned.files]


@pytest.fixture
def go(segmenter, tmp_path):
    def call(*sources, out=tmp_path / "out", formats=("png",), limit=None):
        scanned = scan([str(source) for source in sources]).first(limit)
        return segment_files(segmenter, scanned, labels=["sky", "tree"], output=out, formats=list(formats))

    return call


def test_names_are_paths_below_what_was_searched(tree, monkeypatch):
    assert names(tree) == ["train/001", "train/cat/001", "train/dog/001", "val/cat/001"]
    assert names(tree / "train") == ["001", "cat/001", "dog/001"]
    assert names(f"{tree}/*/*/*.png") == ["train/cat/001", "train/dog/001", "val/cat/001"]
    assert names(f"{tree}/train/**/*.png") == ["001", "cat/001", "dog/001"]
    monkeypatch.chdir(tree)
    assert names(".") == ["train/001", "train/cat/001", "train/dog/001", "val/cat/001"]
    assert names("train", "val") == ["train/001", "train/cat/001", "train/dog/001", "val/cat/001"]
    assert names("train/cat", tree / "train" / "dog") == ["cat/001", "dog/001"]
    assert names("train/001.png", "val") == ["001", "cat/001"]
    (tree / "val" / "cat" / "001.png").rename(tree / "val" / "2.png")
    assert names("train/cat", "val") == ["001", "2"]


def test_images_that_differ_in_their_suffix_keep_it(photo, tmp_path):
    photo("a/IMG.png"), photo("a/img.JPG"), photo("a/other.png"), photo("b/IMG.png")
    assert names(tmp_path / "a") == ["IMG.png", "img.JPG", "other"]
    assert names(tmp_path) == ["a/IMG.png", "a/img.JPG", "a/other", "b/IMG"]


def test_names_are_safe_on_every_system(photo, tmp_path):
    photo('p/a"b/con.png')
    assert names(tmp_path / "p") == ["a_b/_con"]


def test_every_format_mirrors_the_tree(go, tree, tmp_path):
    report = go(tree, formats=FORMATS)
    assert (report.done, report.failed) == (4, [])
    out = tmp_path / "out"
    for stem in ("train/001", "train/cat/001", "train/dog/001", "val/cat/001"):
        for file in (f"{stem}.png", f"{stem}.overlay.jpg", f"mask/{stem}.png", f"yolo/labels/{stem}.txt",
                     f"npz/{stem}.npz", f"panoptic/{stem}.png", f"masks/{stem}/000-sky.png"):  # fmt: skip
            assert (out / file).is_file(), file
    coco = json.loads((out / "coco.json").read_text())
    files = [image["file_name"] for image in coco["images"]]
    assert files == ["train/001.png", "train/cat/001.png", "train/dog/001.png", "val/cat/001.png"]
    assert all((tree / file).is_file() for file in files)
    assert 'name="val/cat/001.png"' in (out / "cvat.xml").read_text()
    again = go(tree, formats=FORMATS)
    assert (again.done, again.skipped) == (0, 4)


def test_results_in_the_searched_folder_are_no_images(go, tree):
    assert go(tree, out=tree / "out").done == 4
    assert go(tree, out=tree / "out").skipped == 4
    assert len(scan([str(tree)]).files) == 4


def test_a_part_of_a_tree_has_the_same_names(go, tree):
    assert go(tree, limit=2).done == 2
    assert (report := go(tree)).done == 2
    assert report.skipped == 2


def test_a_tars_images_lie_where_the_tar_lies(go, tree, tmp_path, photo):
    import tarfile

    for folder in ("train", "val"):
        with tarfile.open(tree / folder / "shard.tar", "w") as archive:
            archive.add(photo(), "key.png")
    assert go(tree).done == 6
    assert (tmp_path / "out" / "val" / "shard-key.png").is_file()
    assert go(tree).skipped == 6


def test_an_image_that_gets_another_name_is_not_there_twice(go, tree, photo, tmp_path):
    """As a folder of flat results is gone on with, or another image comes beside one."""
    out = tmp_path / "out"
    assert go(tree / "val" / "cat" / "001.png", formats=["png", "coco"]).done == 1
    assert (out / "001.png").is_file()
    assert go(tree / "val", formats=["png", "coco"]).done == 1
    assert not (out / "001.png").exists()
    photo("photos/val/cat/001.jpg", seed=9)
    assert go(tree / "val", formats=["png", "coco"]).done == 2
    files = [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]]
    assert files == ["cat/001.jpg", "cat/001.png"]
    assert sorted(file.name for file in (out / "cat").iterdir()) == ["001.jpg.png", "001.png.png"]
    (tree / "val" / "cat" / "001.jpg").unlink()
    assert go(tree / "val", formats=["png", "coco"]).done == 1
    assert (out / "cat" / "001.png").is_file()


def test_emptied_folders_of_results_are_removed(segmenter, tree, tmp_path):
    out = tmp_path / "out"
    for labels in (["sky", "sea"], ["tree", "sea"]):
        scanned = scan([str(tree)])
        segment_files(segmenter, scanned, labels=labels, output=out, formats=["png"], overwrite=True)
    shutil.rmtree(tree / "val")
    segment_files(segmenter, scan([str(tree)]), labels=["sky", "sea"], output=out, formats=["png"], overwrite=True)
    assert not (out / "val").exists()
    (aside,) = out.glob("earlier-*")
    with Image.open(aside / "val" / "cat" / "001.png") as kept:
        assert kept.size == (56, 40)


def test_yolo_labels_that_no_reader_finds_are_told(go, photo, tmp_path):
    photo('a/x"y.png'), photo("a/plain.png"), photo("a/IMG.png"), photo("a/IMG.jpg")
    (note,) = go(tmp_path / "a", formats=["yolo"]).notes.items()
    assert "its YOLO labels have another name" in note[0]
    assert [path.name for path in note[1]] == ["IMG.jpg", "IMG.png", 'x"y.png']
    assert not go(tmp_path / "a", out=tmp_path / "png").notes
