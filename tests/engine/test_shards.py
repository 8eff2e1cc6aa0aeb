"""Parts of a run in folders of their own, and their union: what an undivided run leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clearclip.engine import shards
from clearclip.engine.run import segment_files
from clearclip.engine.shards import merge_shards, shard_folder
from clearclip.engine.sources import scan
from clearclip.errors import UsageError
from clearclip.files.shards import Shard

FORMATS = ["png", "preview", "coco", "panoptic", "yolo", "parquet", "masks"]


@pytest.fixture
def go(segmenter, tmp_path):
    """Segments a part of the pictures."""

    def call(shard="1/1", *, out=tmp_path / "out", labels=("sky", "tree"), formats=FORMATS):
        part = Shard.parse(shard)
        found = scan([str(tmp_path / "images")]).part(part, group_size=2)
        return segment_files(
            segmenter, found, labels=list(labels), output=shard_folder(out, part), formats=list(formats), batch_size=2
        )

    return call


@pytest.fixture
def pictures(images, tar, tmp_path):
    images(7)
    (tmp_path / "images" / "sub").mkdir()
    shutil.copy(tmp_path / "images" / "0003.png", tmp_path / "images" / "sub" / "0003.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    tar(3, "images/b.tar")
    return tmp_path / "images"


def test_parts_are_whole_groups_and_all_there_is(pictures):
    whole = scan([str(pictures)])
    parts = [whole.part(Shard(index, 3), group_size=2).files for index in (1, 2, 3)]
    assert sorted(str(file) for part in parts for file in part) == sorted(map(str, whole.files))
    assert [file.name for file in parts[0]][:2] == ["0000.png", "0001.png"]
    assert whole.part(Shard(), group_size=2).files == whole.files


def test_merged_parts_are_byte_for_byte_an_undivided_run(go, pictures, contents, tmp_path):
    undivided = go(out=tmp_path / "whole")
    reports = [go(f"{index}/3") for index in (3, 1, 2)]
    assert sum(report.done for report in reports) == undivided.done == 11
    merged = merge_shards(tmp_path / "out")
    assert (merged.done, len(merged.failed)) == (11, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").glob("shard-*"))
    assert (again := go()).skipped == 11
    assert again.done == 0


def test_a_merge_that_was_interrupted_goes_on(go, pictures, contents, tmp_path, monkeypatch):
    go(out=tmp_path / "whole")
    for index in (1, 2):
        go(f"{index}/2")
    moved = []

    def stop_after_some(*arguments):
        moved.append(arguments)
        if len(moved) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    real = shards._link
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_link", stop_after_some)
        patch.setattr(shards, "AT_ONCE", 1)
        with pytest.raises(KeyboardInterrupt):
            merge_shards(tmp_path / "out")
    merge_shards(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_without_links_files_are_copied(go, pictures, contents, tmp_path, monkeypatch):
    go(out=tmp_path / "whole")
    go("1/2"), go("2/2")
    monkeypatch.setattr("pathlib.Path.hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    merge_shards(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_does_not_fit_together_is_refused(go, pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="holds no parts of a run"):
        merge_shards(out)
    assert not out.exists()
    go("1/3"), go("3/3")
    with pytest.raises(UsageError, match=r"of 3 parts 2 are missing: run --shard 2/3"):
        merge_shards(out)
    go("2/3", labels=["sky", "other"])
    with pytest.raises(UsageError, match=r"shard-2-of-3 was made with other settings \(labels\)"):
        merge_shards(out)
    shutil.rmtree(out / "shard-2-of-3")
    go("2/3")
    result = next((out / "shard-2-of-3").glob("*.png"))
    result.write_bytes(b"")
    with pytest.raises(UsageError, match="is missing or was changed"):
        merge_shards(out)
    go("1/2")
    with pytest.raises(UsageError, match="parts of 2 divisions"):
        merge_shards(out)


def test_files_of_others_in_a_parts_folder_stay(go, pictures, tmp_path):
    go("1/2"), go("2/2")
    (tmp_path / "out" / "shard-1-of-2" / "notes.txt").write_text("mine")
    merge_shards(tmp_path / "out")
    assert list((tmp_path / "out").glob("*shard-*/**/*")) == [tmp_path / "out" / "merged-shard-1-of-2" / "notes.txt"]
    go("1/3"), go("2/3"), go("3/3")
    assert merge_shards(tmp_path / "out").done == 11


@pytest.mark.parametrize("after", range(4))
def test_a_merge_that_was_stopped_while_it_cleaned_up_goes_on(go, pictures, contents, tmp_path, monkeypatch, after):
    go(out=tmp_path / "whole")
    go("1/2"), go("2/2")
    calls = []

    def stopping(real):
        def call(*arguments):
            calls.append(arguments)
            if len(calls) > after:
                raise KeyboardInterrupt
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", stopping(Path.rename))
        patch.setattr(shards, "_remove", stopping(shards._remove))
        with pytest.raises(KeyboardInterrupt):
            merge_shards(tmp_path / "out")
    merge_shards(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_commands(run, clip_folder, pictures, tmp_path):
    out = tmp_path / "out"
    given = ("segment", pictures, "-l", "sky", "-l", "tree", "--model", clip_folder, "--device", "cpu", "--template",
             "{}", "-o", out)  # fmt: skip
    codes = [run(*given, "--shard", f"{index}/2").code for index in (1, 2)]
    assert sorted(codes) == [0, 1]
    ran = run("merge", out)
    assert (ran.code, ran.out) == (1, f"11 segmented, 1 failed → {out}\n")
    assert ran.err.startswith("failed: ")
    assert json.loads((out / "labels.json").read_text())["labels"][0]["name"] == "sky"
    assert run("merge", out).code == 2
    assert run(*given, "--shard", "3/2").code == 2
