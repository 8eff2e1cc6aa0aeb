"""Many files: found, written only when complete, resumed, failures listed."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from clearclip import ClearclipError, UsageError
from clearclip.engine.run import find_images, segment_files
from clearclip.files import label_maps as outputs
from clearclip.files import writing
from clearclip.files.label_maps import read_info, save_label_map
from clearclip.files.writing import atomic_write
from clearclip.formats import Writer
from clearclip.formats import png as pictures

LABELS = ["sky", "grass"]


def go(segmenter, paths, output, **options):
    return segment_files(segmenter, paths, labels=options.pop("labels", LABELS), output=output, **options)


def names(folder):
    """Without the ledger, which every run has."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("ledger.sqlite"))


def test_what_a_run_leaves(segmenter, photo, tmp_path):
    paths = [photo("a.png"), photo("b.png", 70, 33, seed=1)]
    report = go(segmenter, paths, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert (report.done, report.skipped, report.failed) == (2, 0, [])
    assert names(out) == ["a.overlay.jpg", "a.png", "b.overlay.jpg", "b.png", "labels.json"]
    for path in paths:
        expected = segmenter(path, LABELS)
        with Image.open(out / path.name) as written:
            assert written.mode == "P"
            assert np.array_equal(np.asarray(written), expected.label_map)
            assert written.getpalette()[:6] == expected.palette.flatten().tolist()
        with Image.open(out / f"{path.stem}.overlay.jpg") as overlay:
            assert overlay.height > expected.image.shape[0]
    settings = json.loads((out / "labels.json").read_text())
    assert [row["name"] for row in settings["labels"]] == LABELS
    assert settings["method"] == "clearclip"
    info = read_info(out / "a.png")
    assert info["method"] == "clearclip"
    assert info["source"] == str(paths[0])
    assert info["sha256"] == hashlib.sha256(paths[0].read_bytes()).hexdigest()[:32]


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_batches_give_the_same(segmenter, photo, tmp_path, batch_size):
    paths = [photo(f"{index}.png", 30 + 9 * index, 40, seed=index) for index in range(5)]
    assert go(segmenter, paths, tmp_path / "out", batch_size=batch_size).done == 5
    for path in paths:
        with Image.open(tmp_path / "out" / path.name) as written:
            assert np.array_equal(np.asarray(written), segmenter(path, LABELS).label_map)


def test_resume_skip_and_overwrite(segmenter, photo, tmp_path):
    out, paths = tmp_path / "out", [photo("a.png"), photo("b.png")]
    go(segmenter, paths[:1], out)
    (out / "a.png").touch()
    before = (out / "a.png").stat().st_ino
    again = go(segmenter, paths, out)
    assert (again.done, again.skipped) == (1, 1)
    assert (out / "a.png").stat().st_ino == before
    anew = go(segmenter, paths, out, overwrite=True)
    assert (anew.done, anew.skipped) == (2, 0)
    assert (out / "a.png").stat().st_ino != before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": ["sky", "tree"]}, "labels"),
        ({"labels": ["sky=heaven", "grass"]}, "labels"),
        ({"labels": ["sky @#000000", "grass"]}, "labels"),
        ({"threshold": 0.7}, "background"),
    ],
)
def test_other_settings_are_refused(segmenter, photo, tmp_path, change, named):
    out, path = tmp_path / "out", photo()
    go(segmenter, [path], out)
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(UsageError, match=rf"other settings.*{named}.*--overwrite"):
        go(segmenter, [path], out, **change)
    assert kept == {file.name: file.read_bytes() for file in out.iterdir()}
    assert go(segmenter, [path], out, overwrite=True, **change).done == 1


def test_other_templates_are_other_settings(segmenter, photo, tmp_path, monkeypatch):
    out, path = tmp_path / "out", photo()
    monkeypatch.setattr(segmenter, "templates", ("a {}", "the {}"))
    go(segmenter, [path], out)
    monkeypatch.setattr(segmenter, "templates", ("a {}", "one {}"))
    with pytest.raises(UsageError, match="templates"):
        go(segmenter, [path], out)


def test_an_interrupted_overwrite_mixes_no_settings(segmenter, photo, tmp_path, monkeypatch):
    """Its labels.json is the new one already; the older results below it must not pass for new ones."""
    out, paths = tmp_path / "out", [photo("a.png"), photo("b.png")]
    go(segmenter, paths, out)
    original = Writer.write

    def stop_at_b(writer, result, *, stem, source):
        if stem == "b":
            raise KeyboardInterrupt
        return original(writer, result, stem=stem, source=source)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", stop_at_b)
        with pytest.raises(KeyboardInterrupt):
            go(segmenter, paths, out, labels=["x", "y"], overwrite=True)
    report = go(segmenter, paths, out, labels=["x", "y"])
    assert (report.done, report.skipped) == (1, 1)
    assert read_info(out / "b.png")["settings"] == read_info(out / "a.png")["settings"]


def test_interruption_leaves_whole_files_only(segmenter, photo, tmp_path, monkeypatch):
    out, paths = tmp_path / "out", [photo(f"{index}.png") for index in range(4)]
    original = outputs.save_label_map

    def half(label_map, path, **options):
        if path.stem == "2":
            with atomic_write(path) as partial:
                partial.write_bytes(b"half")
                raise KeyboardInterrupt
        original(label_map, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "save_label_map", half)
        with pytest.raises(KeyboardInterrupt):
            go(segmenter, paths, out, batch_size=1)
    assert "2.png" not in names(out)
    assert not [name for name in names(out) if name.startswith(".")]
    report = go(segmenter, paths, out)
    assert report.done + report.skipped == 4
    assert report.done >= 1


def test_failures_are_listed_and_the_others_done(segmenter, photo, tmp_path):
    good, empty, text = photo("good.png"), tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("hello")
    report = go(segmenter, [empty, good, text, tmp_path / "absent.png"], tmp_path / "out")
    assert report.done == 1
    reasons = {path.name: reason for path, reason in report.failed}
    assert set(reasons) == {"empty.jpg", "text.jpg", "absent.png"}
    assert "empty" in reasons["empty.jpg"]
    assert "no such file" in reasons["absent.png"]
    assert names(tmp_path / "out") == ["errors.csv", "good.overlay.jpg", "good.png", "labels.json"]


def test_two_inputs_with_one_stem(segmenter, photo, tmp_path):
    first, second = photo("x/same.png"), photo("y/same.png", seed=4)
    report = go(segmenter, [first, second], tmp_path / "out")
    assert report.done == 1
    assert [path for path, _ in report.failed] == [second]
    assert "would both become same" in report.failed[0][1]
    with Image.open(tmp_path / "out" / "same.png") as written:
        assert np.array_equal(np.asarray(written), segmenter(first, LABELS).label_map)
    other = go(segmenter, [second], tmp_path / "out")
    assert other.done == 0
    assert "made from another image" in other.failed[0][1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_overwritten(segmenter, photo, tmp_path, overwrite):
    paths = [photo("a.png"), photo("b.png"), photo("b.overlay.jpg")]
    kept = [path.read_bytes() for path in paths]
    report = go(segmenter, paths, tmp_path, overwrite=overwrite)
    assert [path.read_bytes() for path in paths] == kept
    assert "would overwrite" in report.failed[0][1]


def test_full_disk(segmenter, photo, tmp_path, monkeypatch):
    path = photo()

    def full(self, target, *_, **__):
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ClearclipError, match="disk is full") as caught:
        go(segmenter, [path], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert names(tmp_path / "out") == ["labels.json"]


def test_folder_that_cannot_be_used(segmenter, photo, tmp_path, monkeypatch):
    path, blocked = photo(), tmp_path / "file"
    blocked.write_text("in the way")
    for output in (blocked, blocked / "below"):
        with pytest.raises(UsageError, match="cannot be used"):
            go(segmenter, [path], output)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(writing, "_hold", refuse)
    with pytest.raises(UsageError, match="cannot be used"):
        go(segmenter, [path], tmp_path / "out")


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"labels": 1}'])
def test_a_strange_labels_json(segmenter, photo, tmp_path, content):
    out, path = tmp_path / "out", photo()
    out.mkdir()
    (out / "labels.json").write_text(content)
    with pytest.raises(UsageError, match="--overwrite"):
        go(segmenter, [path], out)
    assert names(out) == ["labels.json"]


@pytest.mark.parametrize("options", [{"threshold": 2.0}, {"labels": []}, {"labels": ["x " * 90, "y"]}])
def test_wrong_usage_leaves_nothing_behind(segmenter, photo, tmp_path, options):
    with pytest.raises(UsageError):
        go(segmenter, [photo()], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["ünï – 木.png", "a b'c\"d.png", "-x.png", "[1]*.png", "new\nline.png", "x" * 245 + ".png"]
)
def test_odd_names(segmenter, photo, tmp_path, name):
    path, other = photo(name), photo("other.png")
    report = go(segmenter, [path, other], tmp_path / "out")
    assert report.done + len(report.failed) == 2
    assert report.done == (1 if len(name) > 240 else 2)
    if not report.failed:
        assert go(segmenter, [path, other], tmp_path / "out").skipped == 2
        assert find_images([str(path)]) == [path]


def test_a_name_that_is_no_unicode(segmenter, photo, tmp_path):
    path = photo("a.png")
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.rename(odd)
    assert go(segmenter, [odd], tmp_path / "out").done == 1
    assert go(segmenter, [odd], tmp_path / "out").skipped == 1
    report = go(segmenter, [tmp_path / os.fsdecode(b"abs\xe9nt.png")], tmp_path / "out")
    json.dumps(report.as_dict(), ensure_ascii=False).encode()


def test_a_picture_too_long_for_jpeg_fails_alone(segmenter, photo, tmp_path):
    report = go(segmenter, [photo("long.png", 1, 66_000), photo("good.png")], tmp_path / "out")
    assert report.done == 1
    assert report.failed[0][0].name == "long.png"


def test_find_images(photo, tmp_path):
    a, b = photo("in/b.PNG"), photo("in/sub/a.jpg")
    photo("in/.hidden.png")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "folder.png").mkdir()
    folder = str(tmp_path / "in")
    assert find_images([folder]) == [a, b]
    assert find_images([folder, str(a)]) == [a, b]
    assert find_images([f"{folder}/*.PNG"]) == [a]
    assert find_images([f"{folder}/**/*.jpg"]) == [b]
    assert find_images([f"{folder}/notes.txt"]) == [tmp_path / "in" / "notes.txt"]
    assert find_images([f"{folder}/absent.png"]) == [tmp_path / "in" / "absent.png"]
    for nothing in ([], [f"{folder}/*.webp"], [str(a), f"{folder}/*.webp"], [str(tmp_path / "in" / "folder.png")]):
        with pytest.raises(UsageError, match="no images"):
            find_images(nothing)
    link = tmp_path / "in" / "link.png"
    link.symlink_to(a)
    assert len(find_images([folder])) == 2
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    assert find_images([str(loop)]) == [loop]
    assert len(find_images(["y" * 400 + ".png"])) == 1


def test_results_in_the_folder_of_images_are_no_images(segmenter, photo, tmp_path):
    photo("in/a.jpg")
    source = tmp_path / "in"
    go(segmenter, find_images([str(source)]), source / "out")
    go(segmenter, find_images([str(source)]), source)
    assert find_images([str(source)]) == [source / "a.jpg"]


def test_atomic_write(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail():
        with atomic_write(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    with atomic_write(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_files_have_the_mode_that_the_umask_says(tmp_path):
    """The umask can only be read by setting it, which many threads must not do at once: it is read on import."""
    for index in range(3):
        with atomic_write(tmp_path / str(index)) as partial:
            partial.write_text("x")
    expected = 0o666 & ~writing._UMASK
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {expected}


def test_more_labels_than_a_palette_holds(tmp_path):
    label_map = np.arange(600, dtype=np.int32).reshape(20, 30)
    save_label_map(label_map, tmp_path / "m.png", palette=np.zeros((600, 3), dtype=np.uint8))
    with Image.open(tmp_path / "m.png") as written:
        assert np.array_equal(np.asarray(written), label_map)
    full = label_map % 256
    save_label_map(full, tmp_path / "p.png", palette=np.zeros((256, 3), dtype=np.uint8))
    with Image.open(tmp_path / "p.png") as written:
        assert np.array_equal(np.asarray(written), full)
