"""Records, the results file, tables and the sheet of worst and best images."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from clearclip import Segmenter
from clearclip.benchmarks import Run, evaluate, open_benchmark, read_results, records, scores, table
from clearclip.benchmarks.results import append_results
from clearclip.benchmarks.worst import sheets
from clearclip.errors import ClearclipError, UsageError


@pytest.fixture(scope="module")
def outcome(segmenter):
    return evaluate(
        segmenter, open_benchmark("scenes"), methods="vanilla,clearclip[residual=beta:30]", run=Run(limit=3)
    )


def test_a_record_says_everything_the_numbers_depend_on(outcome):
    first, second = records(outcome)
    assert (first["benchmark"], first["method"], second["method"]) == (
        "scenes",
        "vanilla",
        "clearclip[residual=beta:30]",
    )
    found = scores(outcome.matrices["vanilla"])
    for key, value in (("miou", found.miou), ("macc", found.macc), ("aacc", found.aacc), ("fwiou", found.fwiou)):
        assert first[key] == pytest.approx(100 * value, abs=1e-4)
    assert list(first["classes"]) == list(outcome.classes)
    assert first["classes"]["sky"]["iou"] == pytest.approx(100 * found.iou[0], abs=1e-4)
    assert len(first["checkpoint"]) == 64
    assert first["config"]["protocol"] == {
        "short_side": 64,
        "long_side": 293,
        "crop_size": 64,
        "stride": 32,
        "units": "pixels",
        "remainder": "pad",
        "normalization": "model",
        "logit_scale": 50.0,
        "presence": "none",
        "area": 0.0,
    }
    assert {"clearclip", "python", "torch", "open_clip_torch", "transformers"} <= set(first["versions"])
    assert first["seed"] == 0
    assert first["seconds"] > 0
    assert first["time"].endswith("+00:00")
    assert first["warnings"] == ["scenes: images: 3, official split: 500; not comparable with published numbers"]
    json.dumps(first, allow_nan=False)


def test_absent_classes_are_null(outcome):
    first = records(outcome)[0]
    absent = np.isnan(scores(outcome.matrices["vanilla"]).accuracy)
    assert absent.any()
    for name, missing in zip(outcome.classes, absent, strict=True):
        assert (first["classes"][name]["accuracy"] is None) == missing


def test_results_are_appended_once(outcome, tmp_path):
    path = append_results(outcome, tmp_path / "new")
    append_results(outcome, tmp_path / "new")
    assert read_results([path]) == read_results([tmp_path / "new"]) == records(outcome)
    path.write_text(path.read_text().rstrip("\n").replace(outcome.facts["vanilla"].run, "another"))
    append_results(outcome, tmp_path / "new")
    assert [record["method"] for record in read_results([path])] == [*outcome.matrices, "vanilla"]


def test_files_that_hold_no_results_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_results([tmp_path / "none.jsonl"])
    (tmp_path / "results.jsonl").write_text("\n")
    with pytest.raises(ClearclipError, match="there are no results"):
        read_results([tmp_path])
    for line, message in (("{", "line 1 is no record"), ("[1]", "are needed"), ('{"model": 1}', "are needed")):
        (tmp_path / "results.jsonl").write_text(line + "\n")
        with pytest.raises(ClearclipError, match=message):
            read_results([tmp_path])


def record(benchmark, method, miou, *, model="clip-b16", published=None, **classes):
    printed = None
    if published is not None:
        printed = {"miou": published, "source": "the paper", "difference": round(miou - published, 4)}
    return {
        "benchmark": benchmark,
        "model": model,
        "method": method,
        "miou": miou,
        "macc": 50.0,
        "aacc": None,
        "fwiou": 40.25,
        "published": printed,
        "images": 10,
        "config": {"threshold": None},
        "classes": {name: {"iou": iou, "accuracy": iou} for name, iou in classes.items()},
    }


FOUND = [
    record("voc20", "vanilla", 41.0, published=41.8, cat=10.0, dog=None),
    record("voc20", "clearclip", 80.96, published=80.9, cat=90.0, dog=20.0),
    record("ade20k", "clearclip", 16.0, published=16.7, wall=1.0),
]


def test_the_papers_number_stands_beside_ours():
    shown = table(FOUND)
    assert shown.columns[-2:] == ("paper", "difference")
    assert [row[-2:] for row in shown.rows] == [(41.8, -0.8), (80.9, 0.06), (16.7, -0.7)]


def test_the_papers_number_is_found_for_its_cell(segmenter, voc):
    backbone = segmenter.backbone
    name, backbone.name = backbone.name, "ViT-B-16-quickgelu/openai"
    try:
        found = records(
            evaluate(segmenter, open_benchmark("voc20", data=voc), methods="sclip+clearclip,clearclip[alpha=1]")
        )
    finally:
        backbone.name = name
    assert found[0]["published"]["miou"] == 77.9
    assert found[0]["published"]["difference"] is None
    assert found[1]["published"]["miou"] == 80.9
    assert any("not comparable" in warning for warning in found[0]["warnings"])
    assert any("another protocol" in warning for warning in found[0]["warnings"])


def test_the_difference_is_of_equal_images_protocol_and_threshold(segmenter, voc, monkeypatch):
    backbone = segmenter.backbone
    monkeypatch.setattr(backbone, "name", "ViT-B-16-quickgelu/openai")
    dataset = open_benchmark("voc20", data=voc)
    own = Segmenter(backbone, protocol=dataset.benchmark.protocol, templates=["{}"], device="cpu")
    outcome = evaluate(own, dataset, methods="clearclip")
    facts = outcome.facts["clearclip"]
    for images, official in ((outcome.images, True), (1449, False)):
        facts = replace(facts, official=replace(facts.official, images=images))
        (record,) = records(replace(outcome, facts={"clearclip": facts}))
        assert outcome.is_official("clearclip") is False
        assert (record["published"]["difference"] is not None) == official
    for part, value in (("threshold", 0.5), ("protocol", {**outcome.config["clearclip"].protocol, "stride": 1.0})):
        changed = replace(outcome.config["clearclip"], **{part: value})
        fitting = replace(facts, official=replace(facts.official, images=outcome.images))
        other = replace(outcome, config={"clearclip": changed}, facts={"clearclip": fitting})
        assert not other.is_official("clearclip")


def test_methods_by_benchmarks_with_the_paper_below():
    shown = table(FOUND, view="methods")
    assert shown.columns == ("model", "method", "voc20", "ade20k", "mean")
    assert shown.rows == (
        ("clip-b16", "vanilla", 41.0, None, None),
        ("clip-b16", "vanilla (paper)", 41.8, None, None),
        ("clip-b16", "clearclip", 80.96, 16.0, pytest.approx(48.48)),
        ("clip-b16", "clearclip (paper)", 80.9, 16.7, pytest.approx(48.8)),
    )


def test_classes_side_by_side():
    shown = table(FOUND[:2], view="classes")
    assert shown.columns == ("class", "vanilla", "clearclip")
    assert shown.rows == (("cat", 10.0, 90.0), ("dog", None, 20.0))
    with pytest.raises(UsageError, match="cannot share a table"):
        table(FOUND, view="classes")
    with pytest.raises(UsageError, match="did you mean 'classes'"):
        table(FOUND, view="class")


def test_formats():
    shown = table(FOUND, view="methods")
    assert shown.markdown().splitlines()[:3] == [
        "| model | method | voc20 | ade20k | mean |",
        "| :-- | :-- | --: | --: | --: |",
        "| clip-b16 | vanilla | 41.0 | – | – |",
    ]
    rows = list(csv.reader(io.StringIO(shown.csv())))
    assert rows[3] == ["clip-b16", "clearclip", "80.96", "16.0", "48.48"]
    assert rows[1] == ["clip-b16", "vanilla", "41.0", "", ""]
    latex = table([record("coco_stuff", "clearclip[residual=beta:30]", 1.0)]).latex()
    assert r"\begin{tabular}{llllrrrlrll}" in latex
    assert r"coco\_stuff & clip-b16 & clearclip[residual=beta:30] & -- & 10 & 1.0" in latex


def test_the_sheet_shows_the_worst_and_the_best(segmenter):
    dataset, run = open_benchmark("scenes"), Run(limit=5)
    outcome = evaluate(segmenter, dataset, methods="vanilla,clearclip", run=run)
    drawn = sheets(outcome, segmenter, dataset, run=run, count=2)
    assert list(drawn) == ["vanilla", "clearclip"]
    wider = sheets(outcome, segmenter, dataset, run=run, count=16)
    for method, sheet in drawn.items():
        assert sheet.width == wider[method].width
        assert sheet.height < wider[method].height
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100
