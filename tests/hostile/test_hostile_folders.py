"""Output folders: nothing foreign is replaced or removed, nothing is mixed, no name is taken twice."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearclip import ClearclipError, UsageError
from clearclip.engine import results
from clearclip.engine import run as batch
from clearclip.engine.run import segment_files
from clearclip.engine.sources import find_sources
from clearclip.files.label_maps import read_info
from clearclip.files.writing import PREFIX, atomic_write, claim
from clearclip.formats import FORMAT_NAMES, Choices

HELPERS = Path(__file__).parents[1] / "helpers"
LABELS = ["dark", "light"]
OTHERS = ["night", "day"]


@pytest.fixture
def standin():
    return pytest.importorskip("standin", reason="needs POSIX's resource module")


@pytest.fixture
def go(standin):
    """One run of the stand-in segmenter over some sources."""

    def call(sources, output, *, formats=("png",), labels=LABELS, segmenter=None, **options):
        sources = [sources] if isinstance(sources, (str, Path)) else sources
        options = {"labels": labels, "batch_size": 2, "formats": formats, **options}
        return segment_files(
            segmenter or standin.load(), find_sources(list(map(str, sources))), output=output, **options
        )

    return call


def picture(file, seed=0, size=(24, 16)):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


def tar(file, members):
    with tarfile.open(file, "w") as archive:
        for seed, name in enumerate(members):
            stream = io.BytesIO()
            noise = np.random.default_rng(seed + 50).integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(noise).save(stream, "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))
    return file


def contents(folder):
    """All files but the ledger, which holds times."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith("ledger.sqlite")
    }


def leftovers(folder):
    return list(folder.rglob(f"{PREFIX}*"))


# Nothing foreign is replaced or removed


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_file_of_the_users_is_replaced_whatever_its_name(go, tmp_path, overwrite):
    """Every name that a run with all formats gives to a file is taken by a file of the user's, one after the other."""
    image = picture(tmp_path / "in" / "a.png")
    bad = tmp_path / "in" / "bad.jpg"
    bad.write_bytes(b"no picture")
    formats = [name for name in FORMAT_NAMES if name != "npz"]  # which wants scores, and the stand-in has none
    options = {"formats": formats, "choices": Choices(things=("light",))}
    go([image, bad], tmp_path / "whole", **options)
    names = sorted(contents(tmp_path / "whole"))
    assert {"a.png", "labels.json", "errors.csv", "coco.json", "cvat.xml", "yolo/labels/a.txt"} <= set(names)
    for name in names:
        out = tmp_path / "out"
        mine = out / name
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"made by hand")
        try:
            reasons = [reason for _, reason in go([image, bad], out, overwrite=overwrite, **options).failed]
        except UsageError as error:
            reasons = [str(error)]
        assert any(str(mine) in reason for reason in reasons), name
        assert mine.read_bytes() == b"made by hand", name
        assert not leftovers(out)
        shutil.rmtree(out)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("way", ["in place", "hard link", "symbolic link", "another case"])
def test_an_input_is_never_an_output(go, tmp_path, overwrite, way, monkeypatch):
    source = picture(tmp_path / "photos" / "a.png")
    before, out = source.read_bytes(), tmp_path / "out"
    if way == "in place":
        out = source.parent
    else:
        out.mkdir()
        if way == "hard link":
            os.link(source, out / "a.png")
        elif way == "symbolic link":
            (out / "a.png").symlink_to(source)
        else:
            monkeypatch.setattr(batch, "naming", lambda _: str.casefold)
            out = source.parent
            source = source.rename(out / "A.PNG")
    report = go([source], out, overwrite=overwrite)
    assert report.done == 0
    assert len(report.failed) == 1
    assert source.read_bytes() == before


def test_a_result_that_a_person_corrected_is_kept(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out)
    corrected = (out / "a.png").read_bytes() + b"more"
    (out / "a.png").write_bytes(corrected)
    report = go(image, out)
    assert (report.done, report.skipped, len(report.failed)) == (0, 0, 1)
    assert "was changed since it was written" in report.failed[0][1]
    assert (out / "a.png").read_bytes() == corrected
    assert go(image, out, overwrite=True).done == 1
    assert (out / "a.png").read_bytes() != corrected


def test_a_corrected_file_of_the_whole_run_is_kept(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out, formats=["coco"])
    corrected = (out / "coco.json").read_text().replace('"iscrowd":0', '"iscrowd":1')
    (out / "coco.json").write_text(corrected)
    with pytest.raises(UsageError, match=r"coco\.json was changed since"):
        go(image, out, formats=["coco"])
    assert (out / "coco.json").read_text() == corrected


def test_a_file_that_appears_while_the_run_is_at_work_stays(go, tmp_path, monkeypatch):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    add = results.Ledger.add

    def slow(ledger, entries, files, gone=()):
        add(ledger, entries, files, gone)
        if "a.png" in files:
            (out / "a.png").write_bytes(b"made by hand")

    monkeypatch.setattr(results.Ledger, "add", slow)
    report = go(image, out)
    assert (report.done, len(report.failed)) == (0, 1)
    assert (out / "a.png").read_bytes() == b"made by hand"


def test_only_our_own_error_table_goes(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    bad = tmp_path / "in" / "b.jpg"
    bad.write_bytes(b"no picture")
    go([image, bad], out)
    assert (out / "errors.csv").exists()
    go([image], out)
    assert not (out / "errors.csv").exists()
    (out / "errors.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"errors\.csv"):
        go([image], out)
    assert (out / "errors.csv").read_text() == "mine"


# A result that is not what was written is not done


@pytest.mark.parametrize("damage", ["emptied", "cut", "gone"])
@pytest.mark.parametrize("name", ["a.png", "a.overlay.jpg", "yolo/labels/a.txt"])
def test_damaged_results_are_made_again(go, tmp_path, damage, name):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    options = {"formats": ["png", "preview", "yolo"]}
    go(image, out, **options)
    before, file = contents(out), out / name
    data = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(b"" if damage == "emptied" else data[: len(data) // 2])
    assert go(image, out, **options).done == 1
    assert contents(out) == before
    assert go(image, out, **options).skipped == 1


def test_a_photograph_that_changed_is_made_again(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out)
    before = (out / "a.png").read_bytes()
    picture(image, seed=9)
    assert go(image, out).done == 1
    assert (out / "a.png").read_bytes() != before


def test_the_same_spelling_from_another_folder_is_another_photograph(go, tmp_path, monkeypatch):
    for seed, name in enumerate(("one", "two")):
        picture(tmp_path / name / "a.png", seed=seed)
    monkeypatch.chdir(tmp_path / "one")
    go("a.png", tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "two")
    report = go("a.png", tmp_path / "out")
    assert (report.done, report.skipped, len(report.failed)) == (0, 0, 1)
    assert "made from another image" in report.failed[0][1]
    after = contents(tmp_path / "out")
    assert after["a.png"] == before["a.png"]


# No settings are mixed


def test_a_second_run_that_is_refused_changes_nothing(tmp_path, go, standin):
    images = [picture(tmp_path / "in" / f"{index}.png", seed=index) for index in range(6)]
    out = tmp_path / "out"

    class Slow(standin.StandIn):
        tried = False

        def __call__(self, pictures, labels, *, threshold=None):
            if isinstance(pictures, list) and not self.tried:
                self.tried = True
                before = (out / "labels.json").read_bytes()
                for options in ({"labels": OTHERS}, {"labels": OTHERS, "overwrite": True}, {}):
                    with pytest.raises(UsageError, match="another run is at work"):
                        go(images, out, **options)
                assert (out / "labels.json").read_bytes() == before
            return super().__call__(pictures, labels, threshold=threshold)

    segmenter = Slow()
    assert go(images, out, segmenter=segmenter).done == 6
    assert segmenter.tried
    assert [label["name"] for label in json.loads((out / "labels.json").read_text())["labels"]] == LABELS


def test_overwriting_a_part_leaves_no_old_map_under_new_names(go, tmp_path):
    images = [picture(tmp_path / "in" / f"{index}.png", seed=index) for index in range(4)]
    out = tmp_path / "out"
    go(images, out)
    before = contents(out)
    report = go(images[:1], out, labels=OTHERS, overwrite=True)
    assert report.done == 1
    assert sorted(file.name for file in out.glob("*.png")) == ["0.png"]
    assert json.loads(read_info(out / "0.png")["labels"]) == OTHERS
    aside = {name.partition("/")[2]: data for name, data in contents(out).items() if name.startswith("earlier-")}
    assert aside == {name: data for name, data in before.items() if name != "0.png"}
    assert report.aside is not None
    assert find_sources([str(tmp_path)]) == images


def test_an_image_that_fails_leaves_no_old_map_either(go, tmp_path):
    images = [picture(tmp_path / "in" / f"{index}.png", seed=index) for index in range(2)]
    out = tmp_path / "out"
    go(images, out)
    images[1].write_bytes(b"no picture any more")
    report = go(images, out, labels=OTHERS, overwrite=True)
    assert (report.done, len(report.failed)) == (1, 1)
    assert not (out / "1.png").exists()


def test_a_folder_of_an_earlier_version_is_refused(go, tmp_path):
    import sqlite3

    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "labels.json").write_text(json.dumps({"labels": []}))
    with sqlite3.connect(out / "ledger.sqlite") as old:
        old.execute("CREATE TABLE images (stem TEXT PRIMARY KEY)")
    old.close()
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"another version of clearclip.*choose another folder"):
            go(image, out, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("change", ["weights", "dtype", "tokenizer"])
def test_other_weights_under_the_same_name_are_other_settings(go, tmp_path, standin, change):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"

    class Other(standin.StandIn):
        def describe(self, method, threshold=None):
            return {**super().describe(method, threshold), change: "other"}

    go(image, out)
    with pytest.raises(UsageError, match=f"other settings.*{change}"):
        go(image, out, segmenter=Other())


# No name is taken twice


def test_letter_case_is_no_difference_where_the_disk_makes_none(go, tmp_path, monkeypatch):
    images = [picture(tmp_path / "x" / "IMG.png"), picture(tmp_path / "y" / "img.png", seed=1)]
    monkeypatch.setattr(batch, "naming", lambda _: lambda name: unicodedata.normalize("NFC", name).casefold())
    report = go(images, tmp_path / "out")
    assert (report.done, len(report.failed)) == (1, 1)
    assert "would both become img" in report.failed[0][1]


def test_letter_case_is_a_difference_where_the_disk_makes_one(go, tmp_path):
    images = [picture(tmp_path / "x" / "IMG.png"), picture(tmp_path / "y" / "img.png", seed=1)]
    if (tmp_path / "X").exists():
        pytest.skip("this disk makes none")
    assert go(images, tmp_path / "out").done == 2


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("turn", [False, True])
def test_members_of_two_tars_and_a_file_that_would_get_one_name(go, tmp_path, overwrite, turn):
    sources = [
        tar(tmp_path / "x.tar", ["1-2.png", "7.png"]),
        tar(tmp_path / "x-1.tar", ["1.png", "2.png"]),
        picture(tmp_path / "x-7.png", seed=3),
    ]
    sources = sources[::-1] if turn else sources
    out = tmp_path / "out"
    first = {}
    for _ in range(2):  # also when all is there
        report = go(sources, out, overwrite=overwrite)
        assert report.done + report.skipped == 3
        assert len(report.failed) == 2
        assert all("x-" in reason for _, reason in report.failed)
        maps = {file.stem: read_info(file)["source"] for file in out.glob("*.png")}
        assert len(maps) == 3
        assert len(set(maps.values())) == 3
        first = first or maps
        assert maps == first


def test_one_long_member_name_does_not_stop_a_tar(go, tmp_path):
    source = tar(tmp_path / "t.tar", ["a.png", "n" * 300 + ".png", "b.png"])
    for done, skipped in ((2, 0), (0, 2)):
        report = go(source, tmp_path / "out")
        assert (report.done, report.skipped, len(report.failed)) == (done, skipped, 1)
        assert "too long" in report.failed[0][1]


# Runs side by side, and what killed ones leave


def test_a_run_above_leaves_alone_what_is_at_work_below_and_beside(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    with claim(out / "sub"), results.stage(out / "sub") as below, atomic_write(out / "labels.tif") as beside:
        (below / "half.png").write_bytes(b"half")
        assert go(image, out).done == 1
        assert (below / "half.png").exists()
        assert beside.exists()


def test_what_a_killed_run_left_goes(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    with results.stage(out.parent) as made:
        (made / "a.png").write_bytes(b"half")
        out.mkdir()
        shutil.move(out.parent / results.STAGES, out / results.STAGES)
    (out / f"{PREFIX}{16 * '0'}-abcdefgh.png").write_bytes(b"half")
    assert go(image, out).done == 1
    assert not leftovers(out)


@pytest.mark.parametrize("labels", [LABELS, OTHERS])
@pytest.mark.parametrize("moment", ["before the entry", "after it", "between two names"])
def test_a_run_that_ends_between_entry_and_names_is_finished_by_the_next(go, tmp_path, monkeypatch, moment, labels):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    options = {"formats": ["png", "preview"]}
    go(image, tmp_path / "whole", labels=OTHERS, **options)
    if labels is LABELS:
        go(image, out, **options)  # there is something to replace
    add, move, clean = results.Ledger.add, results.move, results.Results.clean
    moved = []

    class Killed(BaseException):
        pass

    def stop_at_add(ledger, entries, files, gone=()):
        entries = list(entries)
        if entries and moment == "before the entry":
            raise Killed
        add(ledger, entries, files, gone)
        if entries and moment == "after it":
            raise Killed

    def stop_at_move(file, target, *, replace):
        if target.suffix != ".json":
            moved.append(target)
            if len(moved) == 2 and moment == "between two names":
                raise Killed
        move(file, target, replace=replace)

    with monkeypatch.context() as patched:
        patched.setattr(results.Ledger, "add", stop_at_add)
        patched.setattr(results, "move", stop_at_move)
        patched.setattr(results.Results, "clean", lambda self: None)
        patched.setattr(results.Staged, "discard", lambda self: None)
        with pytest.raises(Killed):
            go(image, out, labels=OTHERS, overwrite=True, **options)
    assert clean is results.Results.clean
    report = go(image, out, labels=OTHERS, **options)
    assert (report.done + report.skipped, report.failed) == (1, [])
    assert contents(out) == contents(tmp_path / "whole")
    assert not leftovers(out)


KILLS = int(os.environ.get("CLEARCLIP_KILLS", "1")) * 8
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
import standin
from clearclip.engine.run import segment_files
from clearclip.engine.sources import find_sources
source, output, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
chance = random.Random(7)
def run(labels):
    settings = output / "labels.json"
    overwrite = settings.exists() and labels[0] not in settings.read_text()  # not yet the new words
    return segment_files(standin.load(0.002), find_sources([source]), labels=labels, output=output, batch_size=2,
                         formats=["png", "yolo", "coco", "masks"], overwrite=overwrite)
for kill in range(kills):
    child = os.fork()
    if not child:
        run(["dark", "light"] if kill < kills // 2 else ["night", "day"])
        os._exit(0)
    time.sleep(chance.uniform(0.02, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
report = run(["night", "day"])
print(report.done, report.skipped, len(report.failed))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_moment(go, tmp_path):
    """Also while other words replace what is there: the end is as if nothing had happened, and nothing is left over."""
    for index in range(30):
        picture(tmp_path / "in" / f"{index:02}.png", seed=index)
    formats = ["png", "yolo", "coco", "masks"]
    go(tmp_path / "in", tmp_path / "whole", labels=OTHERS, formats=formats)
    path = os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path / "in"), str(tmp_path / "out"), str(KILLS)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    done, skipped, failed = map(int, ran.stdout.split())
    assert (done + skipped, failed) == (30, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not leftovers(tmp_path / "out")


# Damaged ledgers


def test_no_damage_to_a_ledger_is_more_than_a_sentence(go, tmp_path):
    """Bytes of the file are cut, changed and zeroed; a run ends well or says what is wrong, and no file is lost."""
    images = [picture(tmp_path / "in" / f"{index}.png", seed=index) for index in range(3)]
    go(images, tmp_path / "whole", formats=["png", "coco"])
    whole, chance = (tmp_path / "whole" / "ledger.sqlite").read_bytes(), random.Random(3)
    ends = {"well": 0, "said": 0}
    for case in range(60):
        out = tmp_path / f"out{case}"
        shutil.copytree(tmp_path / "whole", out)
        data = bytearray(whole)
        at, length = chance.randrange(len(data)), chance.choice([1, 1, 16, 400])
        if case % 6 == 0:
            del data[at:]
        else:
            for place in range(at, min(at + length, len(data))):
                data[place] = 0 if case % 6 == 1 else chance.randrange(256)
        (out / "ledger.sqlite").write_bytes(data)
        before = {name: text for name, text in contents(out).items() if name != "errors.csv"}
        try:
            go(images, out, formats=["png", "coco"])
            ends["well"] += 1
        except ClearclipError:
            ends["said"] += 1
        after = contents(out)
        assert all(after.get(name) == text for name, text in before.items() if name.endswith(".png")), case
        shutil.rmtree(out)
    assert min(ends.values()) > 5, ends


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["folder", "pipe", "text", "empty"])
def test_something_else_of_the_ledgers_name(go, tmp_path, kind):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    out.mkdir()
    ledger = out / "ledger.sqlite"
    if kind == "folder":
        ledger.mkdir()
    elif kind == "pipe":
        os.mkfifo(ledger)
    else:
        ledger.write_text("hello" if kind == "text" else "")
    if kind == "empty":
        assert go(image, out).done == 1
    else:
        with pytest.raises(UsageError, match="choose another folder"):
            go(image, out)


# Nothing is left out without a word


def test_photographs_beside_results_are_found(go, tmp_path):
    """A folder that was once labelled in place, one that holds results, and names that only look like results."""
    images = [picture(tmp_path / "photos" / "sub" / "a.jpg"), picture(tmp_path / "photos" / "b.overlay.jpg", seed=1)]
    go(images[:1], tmp_path / "photos" / "sub", formats=["png", "preview", "overlay", "masks", "panoptic"])
    go(images[:1], tmp_path / "photos" / "out", formats=["png", "preview"])
    assert find_sources([str(tmp_path / "photos")]) == sorted(images)
    (tmp_path / "photos" / "sub" / "ledger.sqlite").unlink()
    (tmp_path / "photos" / "out" / "ledger.sqlite").write_bytes(b"damaged")
    assert find_sources([str(tmp_path / "photos")]) == sorted(images)


def test_a_folder_that_cannot_be_listed_is_named(go, tmp_path, monkeypatch):
    image = picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "closed" / "b.png")
    scandir = os.scandir

    def refuse(path="."):
        if not isinstance(path, int) and Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = go(image.parent, tmp_path / "out")
    assert report.done == 1
    assert report.failed == [(tmp_path / "in" / "closed", f"{tmp_path / 'in' / 'closed'}: the folder cannot be listed")]


# A ledger, or a results folder, that somebody else made


def spoil(folder, *statements):
    import sqlite3

    with sqlite3.connect(folder / "ledger.sqlite") as ledger:
        for statement in statements:
            ledger.execute(*statement) if isinstance(statement, tuple) else ledger.execute(statement)
    ledger.close()


def test_a_ledger_cannot_name_files_outside_its_folder(go, tmp_path):
    from clearclip.files.writing import Written

    image, out, secret = picture(tmp_path / "in" / "a.png"), tmp_path / "out", tmp_path / "secret.txt"
    secret.write_text("known text")
    go(image, out)
    for path in ("../secret.txt", str(secret)):
        row = (path, "a", *Written.of(secret), "")
        spoil(out, ("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?)", row))
        with pytest.raises(UsageError, match="outside the folder"):
            go(image, out, labels=OTHERS, overwrite=True)
        assert secret.read_text() == "known text"
        spoil(out, ("DELETE FROM files WHERE path = ?", (path,)))


def test_a_ledger_whose_table_never_ends_is_refused(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS settings FROM c WHERE x < 0"
    spoil(out, "DROP TABLE about", f"CREATE VIEW about AS {endless}")
    with pytest.raises(UsageError, match="none of ours"):
        go(image, out)
    assert find_sources([str(tmp_path)]) == [image]


def test_a_record_that_unpacks_to_gigabytes_is_refused(go, tmp_path, monkeypatch):
    import zlib

    from clearclip.engine import ledger

    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out, formats=["coco"])
    monkeypatch.setattr(ledger, "RECORD_LIMIT", 1000)
    spoil(out, ("UPDATE images SET record = ?", (zlib.compress(b'{"formats": {}' + b" " * 5000 + b"}"),)))
    with pytest.raises(UsageError, match="more than 1,000 bytes"):
        go(image, out, formats=["coco"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_leads_no_result_elsewhere(go, tmp_path, overwrite):
    image, out, elsewhere = picture(tmp_path / "in" / "a.png"), tmp_path / "out", tmp_path / "elsewhere"
    (elsewhere / "labels").mkdir(parents=True)
    out.mkdir()
    (out / "yolo").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link"):
        go(image, out, formats=["yolo"], overwrite=overwrite)
    assert list(elsewhere.rglob("*.*")) == []


def test_what_waits_behind_a_link_is_not_moved(go, tmp_path):
    image, out, photos = picture(tmp_path / "in" / "a.png"), tmp_path / "out", tmp_path / "photos"
    go(image, out)
    photos.mkdir()
    (photos / "a.png").write_bytes((out / "a.png").read_bytes())
    (out / "a.png").unlink()
    (out / results.STAGES).mkdir()
    (out / results.STAGES / "x").symlink_to(photos)
    assert go(image, out).done == 1
    assert (photos / "a.png").exists()


def test_a_change_to_a_file_that_is_not_asked_for_is_nobodys_business(go, tmp_path):
    image, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    go(image, out, formats=["png", "yolo", "overlay"])
    (out / "yolo" / "labels" / "a.txt").write_text("corrected by hand, and longer than what was there before " * 9)
    (out / "overlay" / "a.png").unlink()
    assert go(image, out, formats=["png"]).skipped == 1
    assert go(image, out, formats=["png", "overlay"]).done == 1
    assert go(image, out, formats=["png", "overlay"]).skipped == 1
    assert (out / "yolo" / "labels" / "a.txt").read_text().startswith("corrected")
