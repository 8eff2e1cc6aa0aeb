"""The commands `evaluate`, `benchmarks` and `results`, typed as users type them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from benchmark_cases import break_labels, small_segmenter, typed
from clearclip.benchmarks import BENCHMARKS, evaluate, open_benchmark, read_results, records
from clearclip.errors import ClearclipError, UsageError
from clearclip.protocol import get_protocol


@pytest.fixture
def run(monkeypatch):
    """Type a command line; the small model stands in for whatever checkpoint is named."""

    def load(model, *, method, protocol, **_):
        segmenter = small_segmenter(method=method, protocol=get_protocol(protocol).with_overrides())
        segmenter.backbone.name = model
        return segmenter

    return typed(monkeypatch, load)


def test_evaluate_prints_one_json_object_a_method(run, voc, tmp_path):
    result = run(
        "evaluate",
        "voc20",
        "--data",
        voc,
        "--method",
        "vanilla,clearclip",
        "--protocol",
        "native",
        "-o",
        tmp_path,
        "--json",
    )
    found = json.loads(result.stdout)
    expected = records(evaluate(small_segmenter(), open_benchmark("voc20", data=voc), methods="vanilla,clearclip"))
    for record, twin in zip(found, expected, strict=True):
        assert record["benchmark"] == "voc20"
        assert record["model"] == "clip-b16"
        for key in ("method", "miou", "macc", "aacc", "fwiou", "classes"):
            assert record[key] == twin[key]
    assert found == read_results([tmp_path])
    assert "warning: voc20: images: 6, official split: 1,449" in result.stderr


def test_a_finished_run_is_shown_again_and_recorded_once(run, voc, tmp_path):
    words = ("evaluate", "voc20", "--data", voc, "--protocol", "native", "-o", tmp_path, "--format", "csv")
    assert run(*words).stdout == run(*words).stdout
    assert len(read_results([tmp_path])) == 1
    assert "measured" not in run("results", tmp_path, "--format", "csv").stdout
    run(*words, "--overwrite")
    first, second = run("results", tmp_path, "--format", "csv").stdout.split()[1:]
    times = [record["time"] for record in read_results([tmp_path])]
    assert [first.endswith(times[0]), second.endswith(times[1])] == [True, True]


def test_the_benchmarks_own_protocol_and_threshold_are_the_default(run, voc, tmp_path):
    result = run(
        "evaluate", "voc21", "--data", voc, "--limit", 1, "--method", "clearclip,sclip", "-o", tmp_path, "--json"
    )
    first, second = json.loads(result.stdout)
    assert first["config"]["protocol"]["short_side"] == 448
    assert (first["config"]["threshold"], second["config"]["threshold"]) == (0.5, None)
    assert "no background threshold is known for sclip" in result.stderr
    assert not any("protocol" in warning or "threshold" in warning for warning in first["warnings"])


def test_thresholds_are_for_all_or_for_one_method(run, voc, tmp_path):
    words = ("evaluate", "voc21", "--data", voc, "--limit", 1, "--protocol", "native", "-o", tmp_path, "--json")
    words = (*words, "--method", "clearclip,clearclip[residual=beta:30]", "--threshold", "0.1")
    found = json.loads(run(*words, "--threshold", "clearclip[residual=beta:30]=0.2").stdout)
    assert [record["config"]["threshold"] for record in found] == [0.1, 0.2]
    for wrong, message in (("x", "write a probability"), ("gem=0.1", "which is not evaluated"), ("1.2", "from 0 to 1")):
        with pytest.raises(UsageError, match=message):
            run(*words, "--threshold", wrong)


def test_formats_repeat(run, voc, tmp_path):
    words = ("evaluate", "voc20", "--data", voc, "--limit", 1, "--protocol", "native", "-o", tmp_path)
    printed = run(*words, "--format", "md", "--format", "latex").stdout
    assert printed.startswith("| benchmark |")
    assert r"\toprule" in printed
    with pytest.raises(UsageError, match="format 'xml' is not known"):
        run(*words, "--format", "xml")
    shown = run(*words).stdout
    assert "benchmark voc20" in shown
    assert "clearclip" in shown


def test_pictures_are_written(run, voc, tmp_path):
    words = ("evaluate", "voc20", "--data", voc, "--limit", 2, "--protocol", "native", "-o", tmp_path / "out")
    run(*words, "--save-predictions", tmp_path / "said", "--worst", 1)
    assert sorted(path.name for path in (tmp_path / "said/clearclip").iterdir()) == [
        "2007_000000.png",
        "2007_000001.png",
    ]
    assert (tmp_path / "out/worst-voc20-clip-b16-clearclip.png").exists()


def test_shards_are_merged(run, voc, tmp_path):
    words = ("evaluate", "voc20", "--data", voc, "--protocol", "native", "--method", "vanilla,clearclip", "--json")
    whole = json.loads(run(*words, "-o", tmp_path / "whole").stdout)
    for index in (1, 2):
        part = run(*words, "-o", tmp_path / "parts", "--shard", f"{index}/2")
        assert f"shard {index}/2 is finished" in part.stderr
    assert not (tmp_path / "parts/results.jsonl").exists()
    merged = json.loads(run("evaluate", "--merge", "-o", tmp_path / "parts", "--json").stdout)
    by_method = {record["method"]: record for record in whole}
    assert {record["method"] for record in merged} == set(by_method)
    for record in merged:
        for key in ("miou", "macc", "aacc", "classes", "images"):
            assert record[key] == by_method[record["method"]][key]
    assert len(read_results([tmp_path / "parts"])) == 2


def test_ones_own_data_set(run, voc, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {index}" for index in range(21)))
    own = (
        "--images",
        voc / "JPEGImages",
        "--annotations",
        voc / "SegmentationClass",
        "--labels",
        tmp_path / "labels.txt",
    )
    (record,) = json.loads(run("evaluate", *own, "-o", tmp_path / "out", "--json").stdout)
    assert record["benchmark"].startswith("JPEGImages@")
    assert record["images"] == 6
    assert record["warnings"] == []
    other = tmp_path / "other" / "JPEGImages"
    shutil.copytree(voc / "JPEGImages", other)
    next(other.iterdir()).unlink()
    run("evaluate", "--images", other, *own[2:], "--skip-broken", "-o", tmp_path / "out")
    table = run("results", tmp_path / "out", "--view", "methods", "--format", "csv").stdout.splitlines()
    assert [name.partition("@")[0] for name in table[0].split(",")[2:]] == ["JPEGImages", "JPEGImages", "mean"]
    assert len(table[1:-1]) == 1
    assert "usable" in run("benchmarks", "check", *own).stdout
    with pytest.raises(UsageError, match="--labels is missing"):
        run("evaluate", *own[:4])
    with pytest.raises(UsageError, match="name either"):
        run("evaluate", "voc20", *own)
    with pytest.raises(UsageError, match="no benchmark was named"):
        run("evaluate")


def test_broken_files(run, voc, tmp_path):
    break_labels(voc)
    words = ("evaluate", "voc20", "--data", voc, "--protocol", "native", "-o", tmp_path, "--json")
    with pytest.raises(ClearclipError, match=r"2007_000003\.png holds labels outside the range"):
        run(*words)
    result = run(*words, "--skip-broken")
    assert json.loads(result.stdout)[0]["images"] == 5
    assert "left out: " in result.stderr
    checked = run("benchmarks", "check", "voc20", "--data", voc)
    assert checked.exit_code == 1
    assert "cannot be used: 1" in checked.stdout
    report = json.loads(run("benchmarks", "check", "voc20", "--data", voc, "--json").stdout)
    assert (report["pairs"], report["official"], report["usable"], len(report["broken"])) == (6, 1449, False, 1)


def test_an_output_folder_that_cannot_be_made_is_one_line(run, voc, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClearclipError, match="choose another"):
        run("evaluate", "voc20", "--data", voc, "-o", tmp_path / "file/out")


def test_benchmarks_are_listed(run):
    listed = run("benchmarks").stdout
    for name, row in BENCHMARKS.items():
        assert name in listed
        assert row.get in listed
    assert [row["name"] for row in json.loads(run("benchmarks", "--json").stdout)] == list(BENCHMARKS)


def test_results_are_shown_and_filtered(run, voc, tmp_path):
    words = ("evaluate", "voc20", "--data", voc, "--protocol", "native", "--method", "vanilla,clearclip")
    run(*words, "-o", tmp_path)
    found = read_results([tmp_path])
    assert json.loads(run("results", tmp_path, "--json").stdout) == found
    assert json.loads(run("results", tmp_path, "--method", "clearclip", "--json").stdout) == found[1:]
    assert run("results", tmp_path, "--view", "methods", "--format", "csv").stdout.startswith("model,method,voc20\n")
    classes = run("results", tmp_path / "results.jsonl", "--view", "classes", "--format", "csv").stdout.splitlines()
    assert classes[0] == "class,vanilla,clearclip"
    assert len(classes) >= 21
    assert np.isclose(float(classes[1].split(",")[1]), found[0]["classes"]["aeroplane"]["iou"])
    assert "paper" in run("results", tmp_path).stdout
    with pytest.raises(UsageError, match="no result is left"):
        run("results", tmp_path, "--benchmarks", "ade20k")


def test_class_names_of_another_paper_are_said_and_stand_apart(run, voc, tmp_path):
    given = ("evaluate", "voc21", "--data", voc, "--method", "vanilla,clearclip", "-o", tmp_path, "--json")
    own = json.loads(run(*given).stdout)
    ran = run(*given, "--names", "sclip")
    theirs = json.loads(ran.stdout)
    assert "voc21-sclip: background → sky | wall | tree" in ran.stderr
    assert "tvmonitor → television monitor | tv monitor" in ran.stderr
    assert "background threshold 0.1" in ran.stderr
    assert [record["benchmark"] for record in (*own, *theirs)] == ["voc21"] * 2 + ["voc21-sclip"] * 2
    assert [record["config"]["threshold"] for record in (*own, *theirs)] == [0.2, 0.5, 0.1, 0.1]
    assert theirs[0]["config"]["labels"][15] == [
        "person", *(f"person in {one}" for one in ("shirt", "jeans", "dress", "sweater", "skirt", "jacket"))
    ]  # fmt: skip
    assert all(record["published"] is None for record in theirs)
    assert len(read_results([tmp_path])) == 4
    again = run("evaluate", "voc20", "--data", voc, "-o", tmp_path, "--names", "proxyclip", "--json")
    assert "the words of proxyclip are ClearCLIP's" in again.stderr
    assert json.loads(again.stdout)[0]["benchmark"] == "voc20"


def test_class_names_go_with_the_papers_benchmarks_only(run, voc, tmp_path):
    with pytest.raises(UsageError, match="scenes has words of its own"):
        run("evaluate", "scenes", "--names", "sclip", "-o", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'sclip'"):
        run("evaluate", "voc20", "--data", voc, "--names", "scilp", "-o", tmp_path)
    with pytest.raises(UsageError, match="--names"):
        run("evaluate", "--images", voc, "--names", "sclip", "-o", tmp_path)
