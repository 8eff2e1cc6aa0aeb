"""Small things that a day of work depends on: what is shown, said before the work, and not said wrongly."""

from __future__ import annotations

import io
import json
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip.backbones.devices import pick_device
from clearclip.errors import UsageError
from clearclip.files import lettering, optional, progress
from clearclip.files.hashes import default_cache_dir
from clearclip.files.names import safe_stem
from clearclip.methods import AXES


def absent(monkeypatch, *libraries):
    """Let these libraries be not installed."""
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


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


@pytest.mark.parametrize(
    ("labels", "threshold", "warns"),
    [
        (["sky"], 0.9, True),
        (["sky"], 0.0, False),
        (["sky", "tree"], 0.4, True),
        (["sky", "tree"], 0.5, True),
        (["sky", "tree"], 0.51, False),
        (["sky=blue|grey", "tree"], 0.26, False),
    ],
)
def test_a_threshold_that_no_pixel_can_be_below_is_said(segmenter, labels, threshold, warns):
    if not warns:
        segmenter.vocabulary(labels, threshold)
        return
    with pytest.warns(UserWarning, match="gives no background: the likeliest of"):
        segmenter.vocabulary(labels, threshold)


def test_such_a_threshold_is_said_once_on_the_command_line(run, clip_folder, photo, tmp_path):
    ran = run("segment", photo(), photo("b.png"), "-l", "sky", "--threshold", 0.9, "--template", "{}", "--model",
              clip_folder, "--device", "cpu", "-o", tmp_path / "out")  # fmt: skip
    assert ran.code == 0
    assert ran.err.count("threshold 0.9 gives no background") == 1


def test_a_missing_library_is_told_with_a_command_that_installs_it(monkeypatch):
    absent(monkeypatch, "rasterio")
    with pytest.raises(UsageError, match=r'a raster needs rasterio .*: python -m pip install "rasterio>='):
        optional.require("rasterio", extra="geo", purpose="a raster")


@pytest.mark.parametrize("command", ["compare", "inspect", "reproduce"])
def test_figures_ask_for_their_library_before_the_work(run, monkeypatch, photo, tmp_path, command):
    absent(monkeypatch, "matplotlib")
    monkeypatch.setattr("clearclip.segmenter.load", lambda *_, **__: pytest.fail("the model was loaded"))
    given = ("table2",) if command == "reproduce" else (photo(), *(("-l", "sky") if command == "compare" else ()))
    ran = run(command, *given, "-o", tmp_path / "out")
    assert ran.code == 2
    assert "a figure needs matplotlib" in ran.err
    assert '"matplotlib>=' in ran.err
    assert not (tmp_path / "out").exists()


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


def test_a_model_object_is_told_what_to_do(clip_model):
    for use in (clearclip.Segmenter, lambda model: clearclip.dense_features(model, None)):
        with pytest.raises(UsageError, match=r"open_clip.* is no backbone: give clearclip.view\(model\)"):
            use(clip_model)


def test_a_gpu_is_told_its_name():
    with pytest.raises(UsageError, match="a GPU is called cuda"):
        pick_device("gpu")


def test_a_user_without_a_home(monkeypatch):
    for name in ("HOME", "CLEARCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a number that no user has
    lettering._installed.cache_clear()
    assert isinstance(lettering._installed(), tuple)
    lettering._installed.cache_clear()
    with pytest.raises(UsageError, match="set CLEARCLIP_CACHE"):
        default_cache_dir()


def test_a_result_is_short_to_look_at_and_a_picture_in_a_notebook(segmenter, picture):
    result = segmenter(picture(), ["sky", "tree"])
    assert len(repr(result)) < 120
    assert repr(result).startswith("Segmentation(56 × 40 pixels, 2 labels: ")
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert max(shown.size) <= 1000


def test_lines_tell_the_progress_where_there_is_no_terminal(monkeypatch):
    now = iter([0.0, 10.0, 40.0, 50.0, 75.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = []
    monkeypatch.setattr(progress.log, "info", lambda text, *values: lines.append(text % values))
    with progress.progress_bar("Segmenting") as advance:
        for done in (1, 1000, 1100, 2000):
            advance(done, 4000, "2 failed" if done == 2000 else "")
    assert lines == [
        "Segmenting: 1,000 of 4,000 after 0:00:40, about 0:02:00 left",
        "Segmenting: 2,000 of 4,000 after 0:01:15, about 0:01:15 left; 2 failed",
    ]


def test_quiet_hides_these_lines_only(run, clip_folder, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    given = ("segment", photo(), "-l", "sky", "-l", "tree", "--model", clip_folder, "--device", "cpu",
             "--template", "{}", "-o")  # fmt: skip
    assert "Segmenting: 1 of 1" in run(*given, tmp_path / "a").err
    assert "Segmenting" not in (ran := run("--quiet", *given, tmp_path / "b")).err
    assert "1 segmented" in ran.out


def test_words_stay_while_other_threads_fill_the_memory(segmenter, monkeypatch):
    monkeypatch.setattr("clearclip.segmenter.EMBEDDED", 3)
    failed = []

    def ask(first):
        try:
            for number in range(12):
                words = [f"word {first + number}", "sky"]
                assert segmenter.embed(words).shape[0] == 2
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 20, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert np.array_equal(segmenter.embed(["sky"]), segmenter.embed(["tree", "sky"])[1:])


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


@pytest.mark.parametrize("name", ["aux", "CON", "nul.tar", "com1", "lpt9 "])
def test_names_of_windows_devices_are_no_names(name):
    assert safe_stem(name) == f"_{name}"
    assert safe_stem(f"{name}x")[0] != "_" or name in ("nul.tar", "lpt9 ")


def test_a_run_in_which_every_image_failed_leaves_no_mark(run, clip_folder, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    given = ("--model", clip_folder, "--device", "cpu", "--template", "{}", "-o", tmp_path / "out")
    assert run("segment", tmp_path / "broken.png", "-l", "sky", *given).code == 1
    ran = run("segment", photo(), "-l", "tree", "-l", "grass", *given)
    assert (ran.code, ran.err) == (0, "")
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


def test_a_tokenizer_that_fails_is_one_line(clip_model):
    backbone = clearclip.view(clip_model)
    whole, encoder = backbone.text.tokenize, backbone.text
    for tokenize, told in (
        (lambda texts: [[*row, 999_999] for row in whole(texts)], "which the model's vocabulary lacks"),
        (lambda texts: [[] for _ in texts], "gives no ids for"),
        (lambda texts: {}["x"], "the tokenizer fails over"),
    ):
        backbone.text = replace(encoder, tokenize=tokenize)
        with pytest.raises(clearclip.CheckpointError, match=told):
            clearclip.Segmenter(backbone, cache=False, templates=["{}"]).embed(["sky"])


def test_a_json_line_for_each_image_on_request(run, clip_folder, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    given = ("segment", photo(), tmp_path / "broken.png", "-l", "sky", "-l", "tree", "--model", clip_folder,
             "--device", "cpu", "--template", "{}", "-o")  # fmt: skip
    events = [json.loads(line) for line in run("--log-json", *given, tmp_path / "a").err.splitlines() if line[0] == "{"]
    became = {str(event["image"]): event for event in events if "image" in event}
    assert became[str(tmp_path / "photo.png")]["became"] == "segmented"
    assert became[str(tmp_path / "photo.png")]["name"] == "photo"
    assert became[str(tmp_path / "broken.png")]["became"] == "failed"
    assert "broken.png" in became[str(tmp_path / "broken.png")]["reason"]
    assert all(event["time"].endswith("+00:00") for event in events)
    assert f"{tmp_path / 'photo.png'}: segmented" in run("--verbose", *given, tmp_path / "b").err
    assert "segmented" not in run(*given, tmp_path / "c").err


def test_a_model_is_downloaded_and_checked_before_it_is_needed(run, clip_folder, tmp_path):
    ran = run("models", "download", "tiny", clip_folder)
    assert ran.code == 0
    assert [line.partition(":")[0] for line in ran.out.splitlines()] == ["tiny", str(clip_folder)]
    assert " MB in " in ran.out
    assert "there is no such file" in (failed := run("models", "download", tmp_path / "none")).err
    assert (failed.code, failed.err.count("HF_HUB_OFFLINE")) == (1, 0)
    assert "clip-b16" in run("models").out
