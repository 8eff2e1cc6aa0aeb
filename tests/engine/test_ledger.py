"""The book of a run, and runs that go on from it in one process."""

import sqlite3

import pytest

import standin
from clearclip import ClearclipError, UsageError
from clearclip.engine.ledger import Entry, Owned, open_ledger
from clearclip.engine.run import segment_files
from clearclip.engine.sources import find_sources
from clearclip.files.writing import Written
from clearclip.formats import Writer


def go(source, output, **options):
    options = {"labels": standin.LABELS, "batch_size": 3, "formats": ["png"], **options}
    return segment_files(standin.load(), find_sources([str(source)]), output=output, **options)


def test_entries_come_back(tmp_path):
    entry = Entry("a", "/x/a.png", "1 2", "d", "s", "run", ("png", "coco"))
    record = {"stem": "a", "formats": {"png": {}, "coco": {"n": [1]}}}
    file = Owned("a", Written(3, 4, "bytes"), "before")
    with open_ledger(tmp_path) as ledger:
        ledger.add([(entry, record)], {"a.png": file})
        ledger.add([(Entry("b-1", "t#1", "", "d", "other", "run", ("png",)), {"stem": "b-1", "formats": {}})], {})
        ledger.settle({"labels": ["sky"]})
    with open_ledger(tmp_path) as ledger:
        assert ledger.get("a") == entry
        assert ledger.get("c") is None
        assert ledger.record("a") == record
        assert [found.stem for found in ledger.below("b-")] == ["b-1"]
        assert list(ledger.records("s")) == [record]
        assert [found.stem for found in ledger.made_otherwise("s")] == ["b-1"]
        assert ledger.owned("a.png") == file
        assert ledger.files("a") == {"a.png": file}
        assert ledger.settings == {"labels": ["sky"]}
        ledger.recognise("a", source="/y/a.png", stamp="3 4")
        assert ledger.get("a") == Entry("a", "/y/a.png", "3 4", "d", "s", "run", ("png", "coco"))
        ledger.forget("a")
        ledger.add((), {}, ["a.png"])
        assert (ledger.get("a"), ledger.owned("a.png")) == (None, None)


def test_one_run_at_a_time(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout, **rest: connect(path, timeout=0.1, **rest))
    with open_ledger(tmp_path) as first:
        with pytest.raises(UsageError, match="another run is at work"), open_ledger(tmp_path):
            pass
        first.add([], {})


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"something else" * 500)
    with pytest.raises(UsageError, match="none of ours"), open_ledger(tmp_path):
        pass


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_stopped_run_ends_like_an_undisturbed_one(images, tar, tmp_path, contents, monkeypatch, stop):
    source = images(7)
    tar(5, "images/shard.tar")
    go(source, tmp_path / "whole")
    calls, original = [], Writer.write

    def write(writer, result, *, stem, source):
        calls.append(stem)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return original(writer, result, stem=stem, source=source)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", write)
        with pytest.raises(KeyboardInterrupt):
            go(source, tmp_path / "out")
    report = go(source, tmp_path / "out")
    assert report.done + report.skipped == 12
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert go(source, tmp_path / "out").skipped == 12


def test_a_result_that_vanished_or_whose_image_changed_is_made_again(images, tmp_path):
    source, output = images(4), tmp_path / "out"
    go(source, output)
    (output / "0001.png").unlink()
    assert (go(source, output).done, (output / "0001.png").exists()) == (1, True)
    (source / "0002.png").write_bytes((source / "0003.png").read_bytes())
    changed = go(source, output)
    assert (changed.done, changed.skipped) == (1, 3)
    assert (output / "0002.png").read_bytes() != (output / "0001.png").read_bytes()
    assert go(source, output, overwrite=True).done == 4


def test_a_touched_file_is_recognised(images, tmp_path):
    source, output = images(3), tmp_path / "out"
    go(source, output)
    (source / "0001.png").touch()
    assert (go(source, output).skipped, go(source, output).done) == (3, 0)


def test_a_full_disk_keeps_what_is_done(images, tmp_path, monkeypatch):
    source, output = images(6), tmp_path / "out"
    original = Writer.write

    def write(writer, result, *, stem, source):
        if int(stem) >= 3:  # by name: two threads write, in any order
            raise OSError(28, "No space left on device")
        return original(writer, result, stem=stem, source=source)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", write)
        with pytest.raises(ClearclipError, match=r"the disk is full\. 3 images are done and stay"):
            go(source, output)
    assert (go(source, output).skipped, len(list(output.glob("*.png")))) == (3, 6)
