"""What the commands say and keep, whichever they are: help, tables, lines, failures, the cache."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from typer.testing import CliRunner

import clearclip
from clearclip.checkpoints import CHECKPOINTS
from clearclip.cli import app
from clearclip.cli import options as o
from clearclip.files import progress
from clearclip.methods import AXES


@pytest.mark.parametrize("command", ["segment", "large", "evaluate"])
def test_help_keeps_what_stands_in_brackets(run, command):
    assert "clearclip[residual=beta:30]" in run(command, "--help").out.replace("\n", "")


def test_tables_keep_what_stands_in_brackets(run, tmp_path):
    assert "'clearclip[residual=beta:30]'" in run("methods").out
    assert all(axis.name in run("methods").out for axis in AXES)
    method = "clearclip[residual=beta:30]"
    record = {"benchmark": "b", "model": "m[x]", "method": method, "miou": 1.0, "classes": {"[a]": {"iou": 2.0}}}
    (tmp_path / "results.jsonl").write_text(json.dumps(record))
    for view in ("runs", "methods", "classes"):
        out = run("results", tmp_path, "--view", view).out
        assert method in out
    assert "[a]" in out


@pytest.mark.parametrize(("command", "names"), [("methods", clearclip.METHODS), ("models", CHECKPOINTS)])
def test_nothing_is_cut_in_a_narrow_terminal(command, names):
    out = CliRunner().invoke(app, [command], env={"COLUMNS": "80"}).stdout
    assert all(f"│ {name} " in out for name in names)
    assert "…" not in out


@pytest.mark.parametrize(
    ("command", "usage"),
    [("segment", "{SOURCE}..."), ("evaluate", "[BENCHMARK]..."), (("models", "download"), "{NAME}...")],
)
def test_usage_names_what_repeats_once(run, command, usage):
    words = (command,) if isinstance(command, str) else command
    assert f"{' '.join(words)} [OPTIONS] {usage}\n" in run(*words, "--help").out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("segment", "a.jpg", "-l", "sky", "--format", "cocoo"), "did you mean 'coco'"),
        (("large", "a.tif", "-l", "sky"), "a.tif: there is no such file"),
        (("video", "a.mp4", "-l", "sky"), "a.mp4: there is no such file"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(run, monkeypatch, tmp_path, given, said):
    monkeypatch.setattr("clearclip.segmenter.load", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.chdir(tmp_path)
    ran = run(*given, "-o", "out.tif")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "out.tif").exists()


def test_an_interrupted_run_says_that_it_goes_on(run, monkeypatch, clip_folder, photo, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("clearclip.engine.run.segment_files", interrupt)
    ran = run("segment", photo(), "-l", "sky", "--model", clip_folder, "-o", tmp_path / "out")
    assert ran.code == 130
    assert f"interrupted: what is complete stays in {tmp_path / 'out'}" in ran.err


def test_a_model_that_is_not_known_is_told_with_all_forms(run):
    ran = run("models", "download", "qqqq")
    assert "tiny (other forms: " in ran.err


def test_such_a_threshold_is_said_once_on_the_command_line(run, clip_folder, photo, tmp_path):
    ran = run("segment", photo(), photo("b.png"), "-l", "sky", "--threshold", 0.9, "--template", "{}", "--model",
              clip_folder, "--device", "cpu", "-o", tmp_path / "out")  # fmt: skip
    assert ran.code == 0
    assert ran.err.count("threshold 0.9 gives no background") == 1


@pytest.mark.parametrize("command", ["compare", "inspect"])
def test_an_unreadable_image_stops_no_other_one(run, clip_folder, photo, tmp_path, command):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    words = ("-l", "sky", "-l", "tree", "--template", "{}") if command == "compare" else ()
    given = (command, *words, "--model", clip_folder, "--device", "cpu", "-o", tmp_path / "out")
    ran = run(*given, tmp_path / "broken.png", photo())
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("failed: ")
    assert "broken.png" in ran.err
    assert list((tmp_path / "out").rglob("*.png" if command == "compare" else "report.md"))
    assert run(*given[:-1], tmp_path / "other", tmp_path / "broken.png").code == 1


def test_quiet_hides_these_lines_only(run, clip_folder, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    given = ("segment", photo(), "-l", "sky", "-l", "tree", "--model", clip_folder, "--device", "cpu",
             "--template", "{}", "-o")  # fmt: skip
    assert "Segmenting: 1 of 1" in run(*given, tmp_path / "a").err
    assert "Segmenting" not in (ran := run("--quiet", *given, tmp_path / "b")).err
    assert "1 segmented" in ran.out


def test_the_cache_says_what_it_holds_and_is_cleared_without_strangers(run, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "cache"))
    clearclip.load(str(clip_folder), device="cpu", templates=["{}"]).embed(["sky", "tree"])
    stranger = tmp_path / "cache" / "text" / "mine.safetensors"
    stranger.touch()
    held = {one["kind"]: one for one in json.loads(run("cache", "--json").out)}
    assert held["text embeddings"]["files"] == 2
    assert held["text embeddings"]["size"] > 0
    assert str(tmp_path) in run("cache").out.replace("\n", "")
    assert all(one["files"] == 0 for one in json.loads(run("cache", "--clear", "--json").out))
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == [stranger]


def test_a_run_in_which_every_image_failed_leaves_no_mark(run, clip_folder, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    given = ("--model", clip_folder, "--device", "cpu", "--template", "{}", "-o", tmp_path / "out")
    assert run("segment", tmp_path / "broken.png", "-l", "sky", *given).code == 1
    ran = run("segment", photo(), "-l", "tree", "-l", "grass", *given)
    assert ran.code == 0
    assert "failed" not in ran.err
    assert [label["name"] for label in json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]] == [
        "tree",
        "grass",
    ]
    assert not (tmp_path / "out" / "errors.csv").exists()
    assert run("segment", photo(), "-l", "sky", *given).code == 2


def test_a_rerun_with_fewer_methods_measures_nothing_and_adds_no_row(run, tmp_path):
    given = ("evaluate", "scenes", "--split", "val", "--limit", 2, "--model", "tiny", "--device", "cpu", "-o", tmp_path)
    assert run(*given, "--method", "vanilla,clearclip").code == 0
    before = (tmp_path / "results.jsonl").read_bytes()
    assert run(*given, "--method", "clearclip").code == 0
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_json_line_for_each_image_on_request(run, clip_folder, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    given = ("segment", photo(), tmp_path / "broken.png", "-l", "sky", "-l", "tree", "--model", clip_folder,
             "--device", "cpu", "--template", "{}", "-o")  # fmt: skip
    events = [json.loads(line) for line in run("--log-json", *given, tmp_path / "a").err.splitlines()]
    became = {str(event["image"]): event for event in events if "image" in event}
    assert became[str(tmp_path / "photo.png")]["became"] == "segmented"
    assert became[str(tmp_path / "photo.png")]["name"] == "photo"
    assert became[str(tmp_path / "broken.png")]["became"] == "failed"
    assert "broken.png" in became[str(tmp_path / "broken.png")]["reason"]
    assert all(event["time"].endswith("+00:00") for event in events)
    assert f"{tmp_path / 'photo.png'}: segmented" in run("--verbose", *given, tmp_path / "b").err
    assert "segmented" not in run(*given, tmp_path / "c").err


def test_all_lines_are_json_on_request(run, tmp_path):
    (tmp_path / "words.txt").write_text("sky\ntree\n")
    given = ("--log-json", "segment", tmp_path, "--labels", tmp_path / "words.txt", "-o", tmp_path / "out")
    said = [json.loads(line)["message"] for line in run(*given).err.splitlines()]
    assert [line.split(":")[0] for line in said][-1] == "error"
    assert any("read as one label a line" in line for line in said)


def test_a_title_is_neither_broken_nor_padded(capsys):
    o.print_table("Of these few columns, a title longer than they are wide", ("a", "b"), [("1", "2")])
    assert capsys.readouterr().out.splitlines()[0] == "Of these few columns, a title longer than they are wide"


def test_a_model_is_downloaded_and_checked_before_it_is_needed(run, clip_folder, tmp_path):
    ran = run("models", "download", "tiny", clip_folder)
    assert ran.code == 0
    assert [line.partition(":")[0] for line in ran.out.splitlines()] == ["tiny", str(clip_folder)]
    assert " MB in " in ran.out
    assert "there is no such file" in (failed := run("models", "download", tmp_path / "none")).err
    assert (failed.code, failed.err.count("HF_HUB_OFFLINE")) == (1, 0)
    assert "clip-b16" in run("models").out


def test_sizes_of_downloads_are_those_of_the_architectures():
    for row in CHECKPOINTS.values():
        if row.megabytes:
            with torch.device("meta"):
                model = open_clip.CLIP(**open_clip.get_model_config(row.source.partition("/")[0]))
            assert row.megabytes == round(4 * sum(part.numel() for part in model.parameters()) / 1e6)
    assert {row.family for row in CHECKPOINTS.values() if row.megabytes is None} == {"BLIP"}
