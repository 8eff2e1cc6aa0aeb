"""Outputs of evaluate, reproduce, compare, inspect, demo and the training kit: nothing foreign is replaced."""

import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
from clearclip.benchmarks import Run, Shard, evaluate, merge, open_benchmark, open_folders, read_results
from clearclip.benchmarks.results import append_results
from clearclip.cli import evaluate as evaluate_command
from clearclip.errors import UsageError
from clearclip.files import outputs as outputs_file
from clearclip.files.label_maps import read_info
from clearclip.files.outputs import LIST_LIMIT, hold
from clearclip.files.writing import claim
from clearclip.scenes import make_scene
from clearclip.segmenter import Segmenter
from tools.tiny.crops import render_album
from tools.tiny.recipe import Recipe
from tools.tiny.train import train

LIST = "clearclip-files.jsonl"
MINE = b"made by hand"


def write(folder, text, name="a.txt", **options):
    with hold(folder) as outputs, outputs.write(name, **options) as partial:
        partial.write_text(text)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hidden(folder):
    return [file.name for file in folder.rglob(".clearclip-*")]


# The list of a folder's own files


def test_our_own_file_is_replaced_and_no_other(tmp_path):
    write(tmp_path, "one", "sub/a.txt")
    write(tmp_path, "two", "sub/a.txt")
    assert (tmp_path / "sub/a.txt").read_text() == "two"
    (tmp_path / "b.txt").write_bytes(MINE)
    with pytest.raises(UsageError, match=r"b\.txt is there and was not written by a run"):
        write(tmp_path, "ours", "b.txt")
    (tmp_path / "sub/a.txt").write_bytes(MINE)
    with pytest.raises(UsageError, match=r"a\.txt was changed since it was written"):
        write(tmp_path, "ours", "sub/a.txt")
    assert {name: data for name, data in contents(tmp_path).items() if name != LIST} == {
        "b.txt": MINE,
        "sub/a.txt": MINE,
    }
    assert not hidden(tmp_path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    place = tmp_path / "out" / "a.txt"
    place.parent.mkdir()
    (tmp_path / "mine").write_bytes(MINE)
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / ("mine" if kind == "link" else "none"))
    with pytest.raises(UsageError, match="was not written by a run"):
        write(place.parent, "ours")
    assert (tmp_path / "mine").read_bytes() == MINE
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "sub/../../a.txt", "", "a\0b", "n" * 300, "file/a.txt"])
def test_a_name_that_no_file_of_ours_can_have(tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_bytes(MINE)
    before = contents(tmp_path)
    with pytest.raises(UsageError):
        write(out, "ours", name)
    assert contents(tmp_path) == before


def test_a_folder_that_is_a_link_to_another_place(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="lies elsewhere"):
        write(tmp_path / "out", "ours", "sub/a.txt")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_that_appears_while_ours_is_made_stays(tmp_path):
    def make():
        with hold(tmp_path) as outputs, outputs.write("a.txt") as partial:
            partial.write_text("ours")
            (tmp_path / "a.txt").write_bytes(MINE)

    with pytest.raises(UsageError, match=r"a\.txt is there"):
        make()
    assert (tmp_path / "a.txt").read_bytes() == MINE


def test_a_file_that_appears_at_the_last_moment_stays(tmp_path, monkeypatch):
    move = outputs_file.move

    def late(file, target, *, replace):
        target.write_bytes(MINE)
        move(file, target, replace=replace)

    monkeypatch.setattr(outputs_file, "move", late)
    with pytest.raises(UsageError, match="appeared meanwhile"):
        write(tmp_path, "ours")
    assert (tmp_path / "a.txt").read_bytes() == MINE


def test_two_results_of_one_name_are_refused(tmp_path):
    with hold(tmp_path) as outputs:
        with pytest.raises(UsageError, match="two results"):
            outputs.check(["a.txt", "b.txt", "a.txt"])
        with outputs.write("a.txt") as partial:
            partial.write_text("one")
        with pytest.raises(UsageError, match="two results"), outputs.write("a.txt"):
            pass
    assert (tmp_path / "a.txt").read_text() == "one"


ENTRY = ["a.txt", 3, 5, "0" * 64]
DAMAGE = {
    "no JSON": b"sky\n",
    "cut": json.dumps(ENTRY).encode()[:20],
    "no end": json.dumps(ENTRY).encode(),
    "parent": json.dumps(["../a.txt", *ENTRY[1:]]).encode() + b"\n",
    "absolute": json.dumps(["/a.txt", *ENTRY[1:]]).encode() + b"\n",
    "drive": json.dumps(["C:\\a.txt", *ENTRY[1:]]).encode() + b"\n",
    "wrong name": json.dumps([3, *ENTRY[1:]]).encode() + b"\n",
    "wrong size": json.dumps(["a.txt", "3", *ENTRY[2:]]).encode() + b"\n",
    "a yes": json.dumps(["a.txt", True, *ENTRY[2:]]).encode() + b"\n",
    "wrong hash": json.dumps([*ENTRY[:3], "0"]).encode() + b"\n",
    "too few": json.dumps(ENTRY[:3]).encode() + b"\n",
    "object": b'{"a": 1, "b": 2, "c": 3, "d": 4}\n',
    "deep": b"[" * 100_000 + b"\n",
    "no text": b"\xff\xfe\x00\n",
    "an empty line": b"\n",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "pipe", "folder", "link", "huge"])
def test_a_damaged_list_is_refused_and_nothing_changes(tmp_path, damage):
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    (out / "a.txt").write_bytes(b"sky")
    mine.write_bytes(MINE)
    place = out / LIST
    if damage == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(place)
    elif damage == "folder":
        place.mkdir()
    elif damage == "link":
        place.symlink_to(mine)
    elif damage == "huge":
        with place.open("wb") as file:
            file.truncate(LIST_LIMIT + 1)
    else:
        place.write_bytes(DAMAGE[damage])
    with pytest.raises(UsageError, match=LIST) as caught:
        write(out, "ours")
    assert "\n" not in str(caught.value)
    assert (out / "a.txt").read_bytes() == b"sky"
    assert mine.read_bytes() == MINE
    if damage in DAMAGE:
        assert place.read_bytes() == DAMAGE[damage]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("moment", ["_enter", "move"])
def test_a_run_that_ends_between_entry_and_name_leaves_a_folder_that_can_be_used(
    tmp_path, monkeypatch, is_first, moment
):
    if not is_first:
        write(tmp_path, "earlier")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs_file.Outputs if moment == "_enter" else outputs_file, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, "ours")
    assert (tmp_path / "a.txt").exists() is not is_first
    write(tmp_path, "again")
    assert (tmp_path / "a.txt").read_text() == "again"


KILLED = """
import os, signal, sys
from pathlib import Path
from clearclip.files.outputs import hold
with hold(Path(sys.argv[1])) as outputs, outputs.write("a.txt") as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
def test_what_a_killed_run_left_goes(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert hidden(tmp_path)
    write(tmp_path, "ours", "b.txt")
    assert not hidden(tmp_path)
    assert sorted(contents(tmp_path)) == ["b.txt", LIST]


def test_a_full_disk_cuts_no_line_of_the_list(tmp_path, monkeypatch):
    write(tmp_path, "one")
    before = (tmp_path / LIST).read_bytes()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: real(handle, data[:9]))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            write(tmp_path, "two", "b.txt")
    assert (tmp_path / LIST).read_bytes() == before
    assert not (tmp_path / "b.txt").exists()
    write(tmp_path, "two", "b.txt")


def test_files_of_an_earlier_run_go_unless_somebody_changed_them(tmp_path):
    for name in ("p/a.txt", "p/b.txt", "p/c.txt", "q.txt"):
        write(tmp_path, "earlier", name)
    (tmp_path / "p/b.txt").write_bytes(MINE)
    (tmp_path / "p/mine").write_bytes(MINE)
    with hold(tmp_path) as outputs:
        with outputs.write("p/a.txt") as partial:
            partial.write_text("new")
        outputs.drop_rest("p/")
    assert sorted(contents(tmp_path)) == [LIST, "p/a.txt", "p/b.txt", "p/mine", "q.txt"]


def test_one_run_at_a_time_but_for_parts(tmp_path):
    with hold(tmp_path), pytest.raises(UsageError, match="another run is at work"), hold(tmp_path):
        pass
    with hold(tmp_path, part="-1") as one, hold(tmp_path, part="-2") as two:
        for name, outputs in (("a", one), ("b", two)):
            with outputs.write(name) as partial:
                partial.write_text(name)
        with pytest.raises(UsageError, match="another run is at work"), hold(tmp_path, part="-1"):
            pass
    with hold(tmp_path) as outputs:
        outputs.check("ab")


# Each command: a file of the user's under a name that it wants


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(make_scene(0, size=(64, 64)).image).save(path)
    return path


@pytest.fixture
def encoded(monkeypatch):
    """Counts how many images went through the trunk."""
    seen = []
    original = Segmenter.encode

    def encode(self, image, **options):
        seen.append(1)
        return original(self, image, **options)

    monkeypatch.setattr(Segmenter, "encode", encode)
    return seen


def words_of(command, scene, tmp_path):
    return {
        "demo": ["demo", "--limit", 1, "--method", "clearclip", "--device", "cpu"],
        "compare": ["compare", scene, "-l", "sky", "-l", "tree", "--model", "tiny", "--methods", "clearclip"],
        "inspect": ["inspect", scene, "--model", "tiny", "--device", "cpu"],
        "reproduce": ["reproduce", "figure4", "--limit", 1, "--device", "cpu", "-i", "000000"],
        "evaluate": ["evaluate", "scenes", "--model", "tiny", "--limit", 2, "--worst", 1, "--device", "cpu",
                     "--save-predictions", tmp_path / "out" / "said"],
    }[command]  # fmt: skip


COMMANDS = ["demo", "compare", "inspect", "reproduce", "evaluate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_the_users_is_replaced_whatever_its_name(run, scene, tmp_path, command, encoded):
    words, out = words_of(command, scene, tmp_path), tmp_path / "out"
    ran = run(*words, "-o", out)
    assert ran.code == 0, ran.err
    names = [name for name in contents(out) if not Path(name).name.startswith("clearclip-files")]
    assert names
    again = run(*words, "-o", out)
    assert again.code == 0, again.err
    shutil.rmtree(out)
    done = len(encoded)
    for name in names:
        for more in ([], ["--overwrite"]) if command == "evaluate" else ([],):
            mine = out / name
            mine.parent.mkdir(parents=True)
            mine.write_bytes(MINE)
            ran = run(*words, *more, "-o", out)
            assert (ran.code, ran.err.count("\n")) == (2, 1), (name, ran.err)
            assert str(mine) in ran.err
            assert contents(out) | {LIST: b""} == {name: MINE, LIST: b""}, "nothing is half-written"
            assert not hidden(out)
            shutil.rmtree(out)
    if command in ("demo", "compare", "evaluate"):
        assert len(encoded) == done, "what is known before the work is refused before it"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_somebody_changed_is_kept(run, scene, tmp_path, command):
    words, out = words_of(command, scene, tmp_path), tmp_path / "out"
    assert run(*words, "-o", out).code == 0
    name = {
        "demo": "demo.json",
        "compare": "compare.png",
        "inspect": "inspect/report.md",
        "reproduce": "figure4/report.md",
        "evaluate": "said/clearclip/000000.png",
    }[command]
    changed = (out / name).read_bytes() + b"more"
    (out / name).write_bytes(changed)
    ran = run(*words, "-o", out)
    assert ran.code == 2
    assert "was changed since it was written" in ran.err
    assert (out / name).read_bytes() == changed


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["file", "below a file", "pipe", "loop", "long", "nowhere"])
def test_an_output_that_cannot_be_used_is_one_line(run, scene, tmp_path, command, kind):
    out = tmp_path / "odd"
    if kind in ("file", "below a file"):
        out.write_bytes(MINE)
        out = out if kind == "file" else out / "sub"
    elif kind == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(out)
    elif kind == "loop":
        out.symlink_to(out)
    elif kind == "long":
        out = tmp_path / ("n" * 300)
    else:
        out = Path("/proc/none/such")
        if not out.parent.parent.is_dir():
            pytest.skip("no such file system here")
    words = [word if word != tmp_path / "out" / "said" else out for word in words_of(command, scene, tmp_path)]
    ran = run(*words, "-o", out)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ("demo", "--limit", 10**30),
        ("demo", "--limit", 0),
        ("demo", "--limit", "9" * 5000),
        ("evaluate", "scenes", "--model", "tiny", "--worst", 10**30),
        ("evaluate", "scenes", "--model", "tiny", "--worst", -1),
        ("evaluate", "scenes", "--model", "tiny", "--seed", -1),
        ("evaluate", "scenes", "--model", "tiny", "--seed", 10**30),
        ("evaluate", "scenes", "--model", "tiny", "--limit", "9" * 5000),
        ("evaluate", "scenes", "--model", "tiny", "--shard", f"1/{10**30}"),
        ("evaluate", "scenes", "--model", "tiny", "--shard", "1/" + "9" * 5000),
        ("evaluate", "scenes", "--model", "tiny", "--shard", "1/999999999"),
        ("evaluate", "scenes", "--model", "tiny", "--threshold", "nan"),
        ("evaluate", "scenes", "--model", "tiny", "--threshold", "inf"),
        ("evaluate", "scenes", "--model", "tiny", "--threshold", "-1"),
        ("compare", "SCENE", "-l", "sky", "-l", "tree", "--model", "tiny", "--threshold", "nan"),
        ("compare", "SCENE", "-l", "sky", "-l", "tree", "--model", "tiny", "--threshold", "inf"),
        ("compare", "SCENE", "-l", "sky", "-l", "tree", "--model", "tiny", "--limit", -1),
        ("inspect", "SCENE", "--model", "tiny", "--limit", 0),
    ],
)
def test_numbers_out_of_range_are_refused(run, scene, tmp_path, words):
    ran = run(*(scene if word == "SCENE" else word for word in words), "-o", tmp_path / "out")
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert not [name for name in contents(tmp_path) if name != "scene.png"]


@pytest.mark.parametrize("command", ["compare", "inspect"])
def test_a_limit_beyond_all_images_takes_all(run, scene, tmp_path, command):
    words = words_of(command, scene, tmp_path)
    assert run(*words, "--limit", 10**30, "-o", tmp_path / "out").code == 0


def test_a_demo_leaves_no_scene_of_an_earlier_one_beside_its_own(run, tmp_path):
    words = ["demo", "--method", "clearclip", "--device", "cpu", "-o", tmp_path]
    assert run(*words, "--limit", 2).code == 0
    assert (tmp_path / "scene-1.png").exists()
    assert run(*words, "--limit", 1).code == 0
    assert not list(tmp_path.glob("scene-1*"))


def test_two_images_of_one_name_do_not_become_one_picture(run, scene, tmp_path):
    (tmp_path / "other").mkdir()
    twin = shutil.copy(scene, tmp_path / "other" / scene.name)
    ran = run("inspect", scene, twin, "--model", "tiny", "-o", tmp_path / "out")
    assert ran.code == 2
    assert "two images are called scene" in ran.err


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_photograph_is_not_replaced_by_a_comparison(run, scene, tmp_path, suffix):
    place = tmp_path / f"mine{suffix}"
    shutil.copy(scene, place)
    words = ["compare", scene, "-l", "sky", "-l", "tree", "--model", "tiny", "--methods", "clearclip"]
    assert run(*words, "-o", place).code == 2
    assert place.read_bytes() == scene.read_bytes()
    for _ in range(2):
        assert run(*words, "-o", tmp_path / f"ours{suffix}").code == 0


# results.jsonl


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return open_benchmark("scenes")


@pytest.fixture(scope="module")
def outcome(tiny, scenes):
    return evaluate(tiny, scenes, methods="clearclip", run=Run(limit=1))


def record(**changes):
    return {"benchmark": "scenes", "model": "m", "method": "clearclip", "miou": 1.0, "classes": {}, **changes}


def test_what_stands_in_the_results_stays_byte_for_byte(outcome, tmp_path):
    for before in (
        b"",
        b"\xef\xbb\xbf" + json.dumps(record()).encode(),
        json.dumps(record(note="\u2028")).encode() + b"\r\n",
    ):
        (tmp_path / "results.jsonl").write_bytes(before)
        append_results(outcome, tmp_path)
        after = (tmp_path / "results.jsonl").read_bytes()
        assert after.startswith(before)
        assert len(read_results([tmp_path])) == 1 + bool(before)
        append_results(outcome, tmp_path)
        assert (tmp_path / "results.jsonl").read_bytes() == after


FOREIGN = {
    "no JSON": b"my notes\n",
    "cut": json.dumps(record()).encode() + b"\n" + json.dumps(record()).encode()[:30],
    "no record": b'{"a": 1}\n',
    "deep": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe\n",
    "NaN": json.dumps(record(miou=float("nan"))).encode() + b"\n",
    "a text for a number": json.dumps(record(miou="high")).encode() + b"\n",
    "an endless number": b'{"benchmark": "b", "model": "m", "method": "x", "classes": {}, "miou": 1e999}\n',
    "a list for classes": json.dumps(record(classes=["sky"])).encode() + b"\n",
    "a number for a class": json.dumps(record(classes={"sky": 1})).encode() + b"\n",
    "a number for a name": json.dumps(record(model=3)).encode() + b"\n",
    "a text for the paper": json.dumps(record(published="80")).encode() + b"\n",
    "a text for the threshold": json.dumps(record(config={"threshold": "x"})).encode() + b"\n",
}


@pytest.mark.parametrize("kind", [*FOREIGN, "pipe", "folder", "link", "huge"])
def test_foreign_results_are_kept_and_named(run, tmp_path, kind, encoded):
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_bytes(MINE)
    place = out / "results.jsonl"
    if kind == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(mine)
    elif kind == "huge":
        with place.open("wb") as file:
            file.truncate((1 << 28) + 1)
    else:
        place.write_bytes(FOREIGN[kind])
    ran = run("evaluate", "scenes", "--model", "tiny", "--limit", 1, "-o", out)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "results.jsonl" in ran.err
    assert not encoded
    assert mine.read_bytes() == MINE
    shown = run("results", out)
    assert (shown.code, shown.err.count("\n")) == (2, 1), shown.err
    if kind in FOREIGN:
        assert place.read_bytes() == FOREIGN[kind]


def test_an_evaluation_waits_for_another_that_ends_in_the_same_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_command, "PATIENCE", 0.2)
    words = ["evaluate", "scenes", "--model", "tiny", "--limit", 1, "-o", tmp_path, "--device", "cpu"]
    with claim(tmp_path):
        ran = run(*words)
    assert ran.code == 2
    assert "another run is at work" in ran.err
    assert run(*words).code == 0


# States


@pytest.fixture(scope="module")
def state_file(tiny, scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    evaluate(tiny, scenes, methods="clearclip", run=Run(output=folder, limit=2))
    (path,) = folder.glob("state/*.npz")
    return path


def changed(path, source, *, matrix=None, image_scores=None, counts=None, compress=False, **values):
    """A state with other content; a value may be a function of the old one."""
    with np.load(source) as stored:
        arrays = {key: stored[key] for key in stored}
    found = json.loads(str(arrays["values"]))
    for key, value in values.items():
        found[key] = value(found[key]) if callable(value) else value
    arrays["values"] = np.array(json.dumps({key: value for key, value in found.items() if value is not ...}))
    if matrix is not None:
        arrays["matrix"] = matrix(arrays["matrix"])
    if image_scores is not None:
        arrays["image_scores"] = image_scores(arrays["image_scores"])
    if counts is not None:
        arrays["counts"] = counts(arrays["counts"])
    (np.savez_compressed if compress else np.savez)(path, **arrays)


def into(counts, column, value):
    """The counts of images with another value in the first row of the first image."""
    found = counts.copy()
    found[0, column] = value
    return found


def moved(counts):
    """Counts that add up as before, with a true pixel of one image in the other."""
    found = counts.copy()
    first, second = next(
        (first, second)
        for first in np.flatnonzero(counts[:, 0] == 0)
        for second in np.flatnonzero(counts[:, 0] == 1)
        if counts[first, 1] == counts[second, 1] and counts[first, 3] > counts[first, 2]
    )
    found[first, 3] -= 1
    found[second, 3] += 1
    return found


def zeros(path, *, size):
    """A bomb: members that unpack to far more than the file has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (size // 8,)})
        for name in ("values", "matrix", "image_scores"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(head.getvalue())
                for _ in range(size >> 24):
                    member.write(bytes(1 << 24))


def pretender(path, *, shape):
    """A header that promises more than follows."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("values", "matrix", "image_scores"):
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", head.getvalue() + bytes(64))


def with_config(**changes):
    return {"config": lambda old: {**old, **changes}}


STATES = {
    "empty": lambda path, good: path.write_bytes(b""),
    "cut": lambda path, good: path.write_bytes(good.read_bytes()[:-100]),
    "no zip": lambda path, good: path.write_bytes(MINE),
    "another npz": lambda path, good: np.savez(path, a=np.zeros(3)),
    "bomb": lambda path, good: zeros(path, size=1 << 26),
    "pretender": lambda path, good: pretender(path, shape=(10**13,)),
    "negative shape": lambda path, good: pretender(path, shape=(-2, -4)),
    "compressed": lambda path, good: changed(path, good, compress=True),
    "more done than there are": lambda path, good: changed(path, good, total=1),
    "negative total": lambda path, good: changed(path, good, total=-1),
    "more counted than done": lambda path, good: changed(path, good, evaluated=3),
    "a yes for a number": lambda path, good: changed(path, good, evaluated=True),
    "NaN seconds": lambda path, good: changed(path, good, seconds=float("nan")),
    "endless seconds": lambda path, good: changed(path, good, seconds=float("inf")),
    "negative seconds": lambda path, good: changed(path, good, seconds=-1.0),
    "a text for seconds": lambda path, good: changed(path, good, seconds="1"),
    "shard 0": lambda path, good: changed(path, good, shard="0/1"),
    "another shard": lambda path, good: changed(path, good, shard="1/2"),
    "a number for the shard": lambda path, good: changed(path, good, shard=1),
    "a list for the configuration": lambda path, good: changed(path, good, config=[]),
    "no configuration": lambda path, good: changed(path, good, config=...),
    "an empty configuration": lambda path, good: changed(path, good, config={}),
    "a number for the method": lambda path, good: changed(path, good, **with_config(method=2)),
    "another method": lambda path, good: changed(path, good, **with_config(method="gem")),
    "a wrong threshold": lambda path, good: changed(path, good, **with_config(threshold=7)),
    "a yes for the threshold": lambda path, good: changed(path, good, **with_config(threshold=True)),
    "a text for labels": lambda path, good: changed(path, good, **with_config(labels="sky")),
    "a number for versions": lambda path, good: changed(path, good, facts=lambda old: {**old, "versions": 3}),
    "labels that are no words": lambda path, good: changed(path, good, **with_config(labels=[[]] * 30)),
    "fewer labels": lambda path, good: changed(path, good, **with_config(labels=[["sky"]])),
    "images without end": lambda path, good: changed(
        path, good, **with_config(limit=None, split={"images": 10**30, "ids": "", "files": ""})
    ),
    "seconds without end": lambda path, good: changed(path, good, seconds=10**400),
    "another seed": lambda path, good: changed(path, good, **with_config(seed=1)),
    "other facts": lambda path, good: changed(path, good, facts={"run": "x"}),
    "a text for the official numbers": lambda path, good: changed(
        path, good, facts=lambda old: {**old, "official": "x"}
    ),
    "one more key": lambda path, good: changed(path, good, config=lambda old: {**old, "extra": 1}),
    "numbers left out": lambda path, good: changed(path, good, skipped=[1]),
    "negative counts": lambda path, good: changed(path, good, matrix=lambda old: -old),
    "counts of another kind": lambda path, good: changed(path, good, matrix=lambda old: old.astype(np.float64)),
    "counts without end": lambda path, good: changed(path, good, matrix=lambda old: old + 2**61),
    "another shape": lambda path, good: changed(path, good, matrix=lambda old: old[:, :3]),
    "a flat shape": lambda path, good: changed(path, good, matrix=lambda old: old.ravel()),
    "scores of another length": lambda path, good: changed(path, good, image_scores=lambda old: old[:1]),
    "scores above 1": lambda path, good: changed(path, good, image_scores=lambda old: old + 2),
    "endless scores": lambda path, good: changed(path, good, image_scores=lambda old: old * np.float32("-inf")),
    "counts of a flat shape": lambda path, good: changed(path, good, counts=np.ravel),
    "counts without a shape": lambda path, good: changed(path, good, counts=lambda old: np.int32(1)),
    "fewer columns": lambda path, good: changed(path, good, counts=lambda old: old[:, :4]),
    "wider counts": lambda path, good: changed(path, good, counts=lambda old: old.astype(np.int64)),
    "counts of the other byte order": lambda path, good: changed(path, good, counts=lambda old: old.astype(">i4")),
    "counts left out": lambda path, good: changed(path, good, counts=lambda old: old[:-1]),
    "no counts": lambda path, good: changed(path, good, counts=lambda old: old[:0]),
    "counts twice": lambda path, good: changed(path, good, counts=lambda old: np.repeat(old, 2, axis=0)),
    "counts in disorder": lambda path, good: changed(path, good, counts=lambda old: old[::-1].copy()),
    "counts of the second image alone": lambda path, good: changed(path, good, counts=lambda old: into(old, 0, 1)),
    "counts of an image beyond": lambda path, good: changed(
        path, good, counts=lambda old: old + np.int32([9, 0, 0, 0, 0])
    ),
    "counts of an image before": lambda path, good: changed(path, good, counts=lambda old: into(old, 0, -1)),
    "counts of a label beyond": lambda path, good: changed(path, good, counts=lambda old: into(old, 1, 10**6)),
    "counts of a label before": lambda path, good: changed(path, good, counts=lambda old: into(old, 1, -1)),
    "more right than true": lambda path, good: changed(path, good, counts=lambda old: into(old, 2, 2**31 - 1)),
    "fewer right than none": lambda path, good: changed(path, good, counts=lambda old: into(old, 2, -1)),
    "counts moved to the other image": lambda path, good: changed(path, good, counts=moved),
    "objects": lambda path, good: np.savez(path, values=np.array([{}], dtype=object), matrix=1, image_scores=1),
}


@pytest.mark.parametrize("kind", [*STATES, "pipe", "folder", "loop", "huge"])
def test_a_hostile_state_is_one_line_and_stays(tiny, scenes, state_file, tmp_path, kind):
    path = tmp_path / "state" / state_file.name
    path.parent.mkdir()
    if kind == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate((1 << 30) + 1)
    else:
        STATES[kind](path, state_file)
    before = path.read_bytes() if kind in STATES else None
    for overwrite in (False, True):
        run = Run(output=tmp_path, limit=2, overwrite=overwrite)
        with pytest.raises(UsageError, match=r"\.npz .*(move or delete|no state)") as caught:
            evaluate(tiny, scenes, methods="clearclip,vanilla", run=run)
        assert "\n" not in str(caught.value)
    if kind in STATES:
        assert path.read_bytes() == before


def test_a_whole_state_is_gone_on_from(tiny, scenes, state_file, tmp_path):
    (tmp_path / "state").mkdir()
    changed(tmp_path / "state" / state_file.name, state_file)
    evaluate(tiny, scenes, methods="clearclip", run=Run(output=tmp_path, limit=2), on_image=pytest.fail)


def old_state(path, source, *, with_weights):
    """As versions before this one wrote it, under the name that they gave it."""

    def old(config):
        method, threshold = config.pop("method"), config.pop("threshold")
        config |= {"methods": [method], "thresholds": {method: threshold}}
        return {key: value for key, value in config.items() if with_weights or key != "weights"}

    path.parent.mkdir(exist_ok=True)
    changed(path, source, config=old)


def test_a_state_without_counts_of_its_images_is_refused_with_what_to_do(tiny, scenes, state_file, tmp_path):
    (tmp_path / "state").mkdir()
    with np.load(state_file) as stored:
        arrays = {key: stored[key] for key in stored if key != "counts"}
    np.savez(tmp_path / "state" / state_file.name, **arrays)
    for methods in ("clearclip", "vanilla"):
        with pytest.raises(UsageError, match=r"earlier version of clearclip.*choose another output folder"):
            evaluate(tiny, scenes, methods=methods, run=Run(output=tmp_path, limit=2))


@pytest.mark.parametrize("with_weights", [True, False])
def test_a_state_of_an_earlier_version_is_refused_with_what_to_do(tiny, scenes, state_file, tmp_path, with_weights):
    name = state_file.stem[:-12] + "0123456789ab.npz"
    old_state(tmp_path / "state" / name, state_file, with_weights=with_weights)
    options = {"methods": "clearclip,vanilla"}
    with pytest.raises(UsageError, match=r"earlier version of clearclip.*choose another output folder"):
        evaluate(tiny, scenes, run=Run(output=tmp_path, limit=2), **options)
    evaluate(tiny, scenes, run=Run(output=tmp_path, limit=2, overwrite=True), **options)


def test_reproducing_does_not_use_states_of_an_earlier_version(run, state_file, tmp_path):
    old_state(tmp_path / "state" / (state_file.stem[:-12] + "0123456789ab.npz"), state_file, with_weights=False)
    ran = run("reproduce", "figure1", "--limit", 2, "--device", "cpu", "-o", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "earlier version" in ran.err


# Resuming mixes nothing


@pytest.fixture
def own_data(tmp_path):
    """Two photographs with truth, as a data set of one's own; call it to read it again."""
    for index in range(2):
        made = make_scene(index, size=(64, 64))
        for folder, picture in (("images", made.image), ("truth", (made.label_map % 2).astype(np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{index}.png")
    return lambda: open_folders(tmp_path / "images", tmp_path / "truth", labels=["sky", "tree"])


def counted(segmenter, dataset, run):
    seen = []
    evaluate(segmenter, dataset, methods="clearclip", run=run, on_image=lambda *_: seen.append(1))
    return len(seen)


def other_weights(segmenter):
    other = clearclip.load("tiny", device="cpu")
    with torch.no_grad():
        other.backbone.model.visual.proj.mul_(1.5)
    assert other.backbone.name == segmenter.backbone.name
    return other


def test_other_weights_under_the_same_name_do_not_go_on(tiny, own_data, tmp_path):
    run = Run(output=tmp_path / "out")
    assert counted(tiny, own_data(), run) == 2
    assert counted(tiny, own_data(), run) == 0
    assert counted(other_weights(tiny), own_data(), run) == 2


def test_another_tokenizer_does_not_go_on(tiny, own_data, tmp_path):
    run = Run(output=tmp_path / "out")
    assert counted(tiny, own_data(), run) == 2
    other = clearclip.load("tiny", device="cpu")
    other.backbone.text = dataclasses.replace(other.backbone.text, pad_id=7)
    assert counted(other, own_data(), run) == 2


@pytest.mark.parametrize("folder", ["images", "truth"])
def test_other_images_under_the_same_names_do_not_go_on(tiny, own_data, tmp_path, folder):
    run = Run(output=tmp_path / "out")
    assert counted(tiny, own_data(), run) == 2
    file = tmp_path / folder / "1.png"
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    if folder == "truth":
        Image.fromarray(np.ones((64, 64), np.uint8)).save(file)
    assert counted(tiny, own_data(), run) == 2


# Shards


def shards(tiny, scenes, folder, count=2):
    for index in range(1, count + 1):
        evaluate(tiny, scenes, methods="clearclip", run=Run(output=folder, limit=4, shard=Shard(index, count)))
    return sorted(folder.glob("state/*.npz"))


def test_shards_that_do_not_fit_are_refused(run, tiny, scenes, tmp_path):
    out = tmp_path / "out"
    first, second = shards(tiny, scenes, out)
    assert len(merge([out, out, tmp_path / "none"])) == 1

    def refused(said, code=2):
        ran = run("evaluate", "--merge", "-o", out)
        assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
        assert said in ran.err
        assert not (out / "results.jsonl").exists()

    twin = out / "state" / ("x" + first.name)
    shutil.copy(first, twin)
    refused("are the same shard 1/2")
    twin.unlink()
    good = second.read_bytes()
    nothing = {"evaluated": 0, "matrix": np.zeros_like, "counts": lambda old: old[:0]}
    nothing["image_scores"] = lambda old: old[:1] * np.float32("nan")
    changed(second, first, shard="2/2", total=1, done=1, **nothing)
    refused("it has 1 images, and shard 2/2 has 2")
    changed(second, first, shard="2/3", total=1, done=1, **nothing)
    refused("cut into 2 and 3 parts")
    changed(second, first, shard="1/100000", total=1, done=1, **nothing)
    first.rename(tmp_path / "kept")
    refused("2/100000, 3/100000", code=1)
    second.write_bytes(MINE)
    refused("is no state of a run")
    second.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(second)
        refused("named pipe")
        second.unlink()
    second.write_bytes(good)
    shutil.copy(tmp_path / "kept", first)
    whole = second.with_name(second.name.partition(".shard")[0] + ".npz")
    whole.write_bytes(MINE)
    refused("is no state of a run")
    assert whole.read_bytes() == MINE
    whole.unlink()
    assert run("evaluate", "--merge", "-o", out).code == 0


# Predictions


def test_maps_of_two_models_never_look_the_same(tiny, own_data, tmp_path):
    run = Run(output=tmp_path / "out", predictions=tmp_path / "said")
    evaluate(tiny, own_data(), methods="clearclip", run=run)
    file = tmp_path / "said" / "clearclip" / "0.png"
    info, before = read_info(file), file.read_bytes()
    assert info["method"] == "clearclip"
    assert json.loads(info["labels"]) == [["sky"], ["tree"]]
    assert info["source"] == "0"
    other = other_weights(tiny)
    with pytest.raises(UsageError, match=r"was made with another weights: .*--overwrite"):
        evaluate(other, own_data(), methods="clearclip", run=run)
    assert file.read_bytes() == before
    evaluate(other, own_data(), methods="clearclip", run=Run(predictions=tmp_path / "said", overwrite=True))
    assert read_info(file)["weights"] != info["weights"]
    with pytest.raises(UsageError, match="was made with another weights"):
        evaluate(tiny, own_data(), methods="clearclip", run=run)


def test_no_map_of_the_users_is_replaced_by_a_prediction(tiny, own_data, tmp_path):
    file = tmp_path / "said" / "clearclip" / "1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(MINE)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="was not written by a run"):
            counted(tiny, own_data(), Run(predictions=tmp_path / "said", overwrite=overwrite))
    assert sorted(contents(tmp_path / "said")) == ["clearclip/1.png"]
    assert file.read_bytes() == MINE


def test_shards_write_into_one_folder_of_predictions(tiny, scenes, tmp_path):
    for index in (1, 2):
        run = Run(output=tmp_path / "out", predictions=tmp_path / "said", limit=2, shard=Shard(index, 2))
        evaluate(tiny, scenes, methods="clearclip", run=run)
    assert len(list(tmp_path.glob("said/clearclip/*.png"))) == 2
    for _ in range(2):
        run = Run(output=tmp_path / "out", predictions=tmp_path / "said", limit=2)
        evaluate(tiny, scenes, methods="clearclip", run=run)


# The training kit


@pytest.mark.parametrize(
    "name", ["checkpoint.pt", "log.jsonl", "open_clip_config.json", "open_clip_model.safetensors", "known_words.txt"]
)
def test_training_replaces_no_model_of_the_users(tmp_path, album, name):
    from tools.tiny.train import Trainer

    (tmp_path / name).write_bytes(MINE)
    with pytest.raises(UsageError, match="was not written by a run"):
        Trainer(tmp_path, Recipe(), album=album)
    assert contents(tmp_path) == {name: MINE}


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    return render_album(tmp_path_factory.mktemp("album"), pictures=1, size=(16, 20), portraits=0.0, workers=1)


@pytest.mark.parametrize("name", ["images.u8", "instances.u8", "album.json"])
def test_an_album_replaces_no_file_of_the_users(tmp_path, name):
    (tmp_path / name).write_bytes(MINE)
    with pytest.raises(UsageError, match="was not written by a run"):
        render_album(tmp_path, pictures=1, size=(16, 20), portraits=0.0, workers=1)
    assert contents(tmp_path) == {name: MINE}


def test_pictures_of_another_album_never_get_an_old_index(tmp_path, monkeypatch):
    options = {"size": (16, 20), "portraits": 0.0, "workers": 1}
    first = render_album(tmp_path, pictures=2, **options)
    before = first.images.copy()

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_album(tmp_path, pictures=2, **{**options, "portraits": 1.0}, progress=stop)
    assert (render_album(tmp_path, pictures=2, **options).images == before).all()


def test_two_trainings_at_once_are_refused(tmp_path, capsys):
    import typer

    with claim(tmp_path), pytest.raises(typer.Exit) as ended:
        train(
            tmp_path, steps=1, seed=0, pictures=1, batch_size=1, device="cpu", threads=None, save_every=1, change=None
        )
    assert ended.value.exit_code == 2
    assert "another run is at work" in capsys.readouterr().err


def test_a_folder_of_a_users_own_under_the_name_of_the_stage_is_kept(tmp_path):
    mine, left = tmp_path / ".clearclip-files" / "mine.txt", tmp_path / ".clearclip-files" / "tmpabcd_123" / "a.txt"
    left.parent.mkdir(parents=True)
    mine.write_bytes(MINE)
    left.write_bytes(b"half of a result")
    with pytest.raises(UsageError, match="in the way"):
        write(tmp_path, "new")
    assert mine.read_bytes() == MINE
    mine.unlink()
    write(tmp_path, "new")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.txt", LIST]
