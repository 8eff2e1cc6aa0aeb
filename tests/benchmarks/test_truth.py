"""Truth of one's own that cannot mean what was said: what is told, and what makes it right."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip import ImageError, UsageError
from clearclip.benchmarks import Run, check_dataset, evaluate, open_folders
from clearclip.benchmarks.check import shifted_warnings, truth_warnings
from clearclip.benchmarks.orientation import stored_size
from clearclip.benchmarks.readers import read_index_map
from clearclip.scenes import CLASSES, make_scene

LABELS = ("sky", "grass", "tree")
"""The third is everything else."""
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
         8: "ROTATE_90"}  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu", templates="{}")


@pytest.fixture
def own(tmp_path):
    """Scenes as photographs that EXIF turns, and label maps whose values are `drawn_as[class]`."""

    def call(drawn_as=(0, 1, 2), *, turn=1, drawn="shown", square=False, **options):
        for number in (3, 4, 5):
            scene = make_scene(number, split="test")
            table = np.full(256, drawn_as[2])
            table[[CLASSES.index(name) for name in LABELS[:2]]] = drawn_as[:2]
            truth = table[scene.label_map].astype(np.uint8)
            image = Image.fromarray(scene.image[:, : len(scene.image)] if square else scene.image)
            labels = Image.fromarray(truth[:, : len(truth)] if square else truth)
            if turn > 1:  # what is stored is turned by it to what is shown
                back = Image.Transpose[TURNS[{6: 8, 8: 6}.get(turn, turn)]]
                image, labels = image.transpose(back), labels.transpose(back) if drawn == "stored" else labels
            exif = Image.Exif()
            exif[0x0112] = turn
            for folder in ("images", "truth"):
                (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / "images" / f"{number}.png", exif=exif)
            labels.save(tmp_path / "truth" / f"{number}.png")
        names = LABELS[: options.pop("labels", 3)]
        return open_folders(tmp_path / "images", tmp_path / "truth", labels=names, **options)

    return call


def measured(tiny, dataset):
    found = evaluate(tiny, dataset, methods="clearclip", run=Run())
    return found.matrices["clearclip"], [one for one in found.warnings if one.startswith("images@")]


def test_truth_that_is_right_is_not_remarked(tiny, own):
    assert measured(tiny, own())[1] == []
    assert check_dataset(own()).warnings == ()


def test_masks_of_0_and_255(tiny, own):
    dataset = own((255, 0, 0), labels=2)
    (said,) = measured(tiny, dataset)[1]
    assert "never holds 1 grass and 0 sky is 100.0% of the truth" in said
    assert "--values 0,255" in said
    assert check_dataset(dataset).warnings == (said.partition(": ")[2],)
    right, none = measured(tiny, own((255, 0, 0), labels=2, values=(255, 0)))
    wanted, _ = measured(tiny, own((0, 1, 1), labels=2))
    assert none == []
    np.testing.assert_array_equal(right, wanted)


def test_zero_that_means_unlabelled(tiny, own):
    (said,) = measured(tiny, own((1, 2, 0)))[1]
    assert "if 0 meant unlabelled and 1 the first label (--ignored 0)" in said
    right, _ = measured(tiny, own((1, 2, 0), ignored=[0]))
    wanted, _ = measured(tiny, own((0, 1, 255)))
    np.testing.assert_array_equal(right, wanted)
    with pytest.raises(ImageError, match="--ignored 0 where 0 means unlabelled"):
        own((3, 1, 0)).items[0].read()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"values": (0, 1)}, "2 values for 3 labels"),
        ({"values": (0, 1, 1)}, "given twice"),
        ({"values": (0, 1, 2), "ignored": (2,)}, "given twice"),
        ({"values": (0, 1, 256)}, "256 is none"),
        ({"ignored": (-1,)}, "-1 is none"),
        ({"ignored": range(254)}, "1 values for 3 labels"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(own, options, said):
    with pytest.raises(UsageError, match=said):
        own(**options)


def test_what_is_said_of_counts():
    names = [f"n{index}" for index in range(50)]
    (said,) = truth_warnings(names, np.eye(50, dtype=np.int64)[7])
    assert "never holds 0 n0, 1 n1" in said
    assert "and 39 more and 7 n7 is 100.0%" in said
    assert "--ignored 0" in said
    assert truth_warnings(["a", "b"], np.array([1000, 1])) != []
    assert truth_warnings(["a", "b"], np.array([98, 2])) == []
    assert truth_warnings(["a"], np.array([5])) == []
    assert "no label at all" in truth_warnings(["a", "b"], np.array([0, 0]))[0]
    assert shifted_warnings(np.array([[9, 1], [1, 9]])) == []
    assert shifted_warnings(np.zeros((2, 2), dtype=np.int64)) == []
    assert shifted_warnings(np.array([[1, 0], [5, 0]])) == []
    (said,) = shifted_warnings(np.array([[1, 0, 0], [5, 0, 0], [0, 4, 1]]))
    assert "mAcc would be 90.0% instead of 40.0%" in said


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_sizes_tell_on_which_pixels_truth_was_drawn(own, turn):
    wanted = [item.read() for item in own().items]
    for drawn in ("shown", "stored"):
        dataset = own(turn=turn, drawn=drawn)
        for item, right in zip(dataset.items, wanted, strict=True):
            np.testing.assert_array_equal(item.read().image, right.image)
            np.testing.assert_array_equal(item.read().truth, right.truth)
        assert [note.startswith("3 label maps") for note in dataset.notes] == ([True] if drawn == "stored" else [])


@pytest.mark.parametrize(("turn", "square"), [(2, False), (3, False), (4, False), (6, True)])
def test_where_sizes_do_not_tell_it_is_said(own, turn, square):
    wanted = [item.read().truth for item in own(square=square).items]
    dataset = own(turn=turn, drawn="stored", square=square)
    (note,) = dataset.notes
    assert "no size tells" in note
    assert "their borders fit the stored pixels better: --truth-as stored" in note
    assert (dataset.items[0].read().truth != wanted[0]).any()
    for item, right in zip(own(turn=turn, drawn="stored", square=square, as_stored=True).items, wanted, strict=True):
        np.testing.assert_array_equal(item.read().truth, right)
    dataset = own(turn=turn, square=square)
    assert dataset.notes == ()
    np.testing.assert_array_equal(dataset.items[0].read().truth, wanted[0])


def test_an_image_that_cannot_be_read_does_not_stop_the_others(own, tmp_path):
    dataset = own(turn=6, drawn="stored")
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    (tmp_path / "truth" / "4.png").write_bytes(b"")
    again = open_folders(tmp_path / "images", tmp_path / "truth", labels=LABELS)
    assert again.notes[0].startswith("1 label maps")
    np.testing.assert_array_equal(again.items[2].read().truth, dataset.items[2].read().truth)


def test_the_options_of_the_command(run, own, tmp_path):
    own((255, 0, 0), labels=2, turn=8, drawn="stored")
    (tmp_path / "words.txt").write_text("sky\ngrass\n")
    words = ("--images", tmp_path / "images", "--annotations", tmp_path / "truth", "--labels", tmp_path / "words.txt")
    ran = run("benchmarks", "check", *words)
    assert ran.code == 0, ran.err
    assert "words.txt, read as one label a line: 2 labels: sky; grass" in ran.err
    assert "warning: 3 label maps of images that EXIF turns were drawn on the stored pixels" in ran.err
    assert "--values 0,255" in ran.err
    ran = run("benchmarks", "check", *words, "--values", "255,0", "--truth-as", "stored")
    assert (ran.code, "warning" in ran.err) == (0, False), ran.err
    assert run("benchmarks", "check", *words, "--truth-as", "shown").code == 1
    assert "values from 0 to 255" in run("benchmarks", "check", *words, "--ignored", "x").err
    assert "go with --images" in run("evaluate", "voc20", "--data", tmp_path, "--ignored", "0").err
    other = [run("evaluate", *words, "--model", "tiny", "--template", "{}", "-o", tmp_path / "out", *more)
             for more in ((), ("--values", "255,0"))]  # fmt: skip
    assert [one.code for one in other] == [0, 0], other[1].err
    assert "0 sky is 100.0%" in other[0].err
    assert len(list((tmp_path / "out" / "state").iterdir())) == 2


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_label_maps_of_few_bits_keep_their_values(tmp_path, bits):
    values = np.arange(2**bits, dtype=np.uint8).reshape(2, -1).repeat(8, axis=0).repeat(8, axis=1)
    per_byte = 8 // bits
    packed = sum(values[:, place::per_byte] << (8 - bits * (place + 1)) for place in range(per_byte)).astype(np.uint8)
    height, width = values.shape
    raw = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path = tmp_path / "truth.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )
    assert np.array_equal(read_index_map(path), values)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_the_stored_size_of_a_turned_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (60, 40)).save(tmp_path / f"a.{suffix}", exif=exif)
    size, turn = stored_size(tmp_path / f"a.{suffix}")
    assert size == (60, 40)
    assert (turn is None) == (orientation == 1)
