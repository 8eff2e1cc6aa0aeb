"""Pictures, read back by Pillow."""

import json

import numpy as np
import pytest
from PIL import Image

from clearclip.engine.run import segment_files
from clearclip.files.label_maps import read_info
from clearclip.formats.png import mask_name
from format_cases import LABEL_MAPS, NAMES, noise


def test_label_map_and_preview(write):
    done = write("png", "preview")
    for stem, label_map in LABEL_MAPS.items():
        with Image.open(done.folder / f"{stem}.png") as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), label_map)
        assert json.loads(read_info(done.folder / f"{stem}.png")["labels"]) == NAMES
        with Image.open(done.folder / f"{stem}.overlay.jpg") as image:
            assert json.loads(image.info["comment"])["method"] == "clearclip"


def test_label_maps_have_eight_bits_whatever_their_number_of_labels(write):
    for count in (2, 4, 5, 17, 256):
        label_map = noise(20, 31, labels=count)
        names = [f"label {index}" for index in range(count)]
        done = write("png", "mask", label_maps={"x": label_map}, names=names, folder=str(count))
        palette, grey = done.folder / "x.png", done.folder / "mask" / "x.png"
        assert (palette.read_bytes()[24:26], grey.read_bytes()[24:26]) == (b"\x08\x03", b"\x08\x00")
        assert np.array_equal(np.asarray(Image.open(palette)), label_map)
        assert np.array_equal(np.asarray(Image.open(grey)), label_map)


def test_every_reader_returns_the_values_of_a_mask(write):
    cv2, io = pytest.importorskip("cv2"), pytest.importorskip("torchvision.io")
    done = write("mask")
    for stem, label_map in LABEL_MAPS.items():
        file = str(done.folder / "mask" / f"{stem}.png")
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image.convert("L")), label_map)
        for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE):
            assert np.array_equal(cv2.imread(file, flag), label_map)
        for mode in (io.ImageReadMode.UNCHANGED, io.ImageReadMode.GRAY):
            assert np.array_equal(io.decode_image(file, mode)[0].numpy(), label_map)
        assert np.array_equal(cv2.imread(file)[..., 0], label_map)
        assert json.loads(read_info(done.folder / "mask" / f"{stem}.png")["labels"]) == NAMES


def test_more_labels_than_a_palette_holds(write):
    names = [f"label {index}" for index in range(300)]
    label_map = noise(20, 31, labels=299)
    label_map[0, 0] = 299
    done = write("png", "mask", "overlay", "masks", "panoptic", label_maps={"many": label_map}, names=names)
    with Image.open(done.folder / "many.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), label_map)
    assert np.array_equal(np.asarray(Image.open(done.folder / "mask" / "many.png")), label_map)
    masks = sorted((done.folder / "masks" / "many").iterdir())
    assert len(masks) == 300
    stacked = np.stack([np.asarray(Image.open(file)) for file in masks])
    assert np.array_equal(stacked.argmax(axis=0), label_map)


def test_overlay_is_the_palette_and_clear_where_background(write):
    done = write("overlay", background="sky:sea")
    for stem, result in done.results.items():
        with Image.open(done.folder / "overlay" / f"{stem}.png") as image:
            assert image.mode == "RGBA"
            pixels = np.asarray(image)
            laid = Image.fromarray(result.image).convert("RGBA")
            laid.alpha_composite(image)
        assert np.array_equal(pixels[..., :3], result.palette[result.label_map])
        assert np.array_equal(pixels[..., 3] == 0, result.mask("sky:sea"))
        assert np.array_equal(np.asarray(laid)[result.mask("sky:sea")][:, :3], result.image[result.mask("sky:sea")])


def test_masks_are_exact_and_named_apart(write):
    done = write("masks")
    for stem, result in done.results.items():
        folder = done.folder / "masks" / stem
        assert sorted(file.name for file in folder.iterdir()) == sorted(map(mask_name, range(5), NAMES))
        for index, name in enumerate(NAMES):
            with Image.open(folder / mask_name(index, name)) as image:
                assert image.mode == "1"
                assert np.array_equal(np.asarray(image), result.mask(name))
            assert read_info(folder / mask_name(index, name))["label"] == name


@pytest.mark.parametrize("name", ["sky/sea", "../..", "..", "CON:", "🚗" * 200, "ü\0\n", "x" * 5000, "\udcff"])
def test_any_label_becomes_a_file_name(name, tmp_path):
    (tmp_path / mask_name(7, name)).touch()
    (made,) = tmp_path.iterdir()
    assert made.name.startswith("007-")


def test_masks_of_other_labels_go_and_a_users_own_stay(segmenter, photo, tmp_path):
    path, out = photo("x.png"), tmp_path / "out"
    segment_files(segmenter, [path], labels=["a", "b", "c"], output=out, formats=["masks"])
    (out / "masks" / "x" / "mine.png").write_text("mine")
    segment_files(segmenter, [path], labels=["a", "d"], output=out, formats=["masks"], overwrite=True)
    names = sorted(file.name for file in (out / "masks" / "x").iterdir())
    assert names == ["000-a.png", "001-d.png", "mine.png"]
