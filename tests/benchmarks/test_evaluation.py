"""The run: many methods in one pass, shards, limits, interruption by kill -9, broken files."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import clearclip
from benchmark_cases import HELPERS, break_image, break_labels, break_size, break_text
from clearclip.benchmarks import (
    Run,
    Shard,
    confusion,
    evaluate,
    merge,
    open_benchmark,
    open_folders,
    read_results,
    records,
    table,
)
from clearclip.benchmarks.predictions import prediction_name
from clearclip.benchmarks.readers import Pair
from clearclip.benchmarks.results import append_results
from clearclip.benchmarks.state import load_state
from clearclip.errors import ClearclipError, UsageError

EIGHT = (
    "vanilla,maskclip,sclip,gem,clearclip,gem+clearclip,clearclip[residual=beta:30],"
    "clearclip[attention=vv,positions=size]"
)


def same(first, second):
    """Whether two outcomes hold the same matrices, image scores and counts."""
    assert list(first.matrices) == list(second.matrices)
    for method, matrix in first.matrices.items():
        np.testing.assert_array_equal(matrix, second.matrices[method])
        np.testing.assert_array_equal(first.image_scores[method], second.image_scores[method])
    assert (first.images, first.skipped) == (second.images, second.skipped)


@pytest.fixture
def scenes():
    return open_benchmark("scenes")


def test_one_two_and_eight_methods_together_equal_each_alone(segmenter, voc):
    dataset = open_benchmark("voc20", data=voc)
    together = evaluate(segmenter, dataset, methods=EIGHT)
    methods = list(together.matrices)
    assert len(methods) == 8
    for method in methods:
        np.testing.assert_array_equal(
            evaluate(segmenter, dataset, methods=[method]).matrices[method], together.matrices[method]
        )
    pair = evaluate(segmenter, dataset, methods=methods[3:5])
    assert list(pair.matrices) == methods[3:5]
    for method, matrix in pair.matrices.items():
        np.testing.assert_array_equal(matrix, together.matrices[method])


def test_the_matrix_is_the_sum_over_images_of_what_the_segmenter_says(segmenter, voc):
    dataset = open_benchmark("voc21", data=voc)
    found = evaluate(segmenter, dataset, methods="clearclip,vanilla,sclip", thresholds={"sclip": 0.06})
    thresholds = {method: config.threshold for method, config in found.config.items()}
    assert thresholds == {"clearclip": 0.5, "vanilla": 0.2, "sclip": 0.06}
    for method, threshold in thresholds.items():
        expected = np.zeros((21, 21), dtype=np.int64)
        for item in dataset.items:
            sample = item.read()
            said = segmenter(sample.image, dataset.vocabulary, method=method, threshold=threshold)
            expected += confusion(sample.truth, said.label_map, classes=21)
        np.testing.assert_array_equal(found.matrices[method], expected)


def test_a_method_without_threshold_leaves_the_background_to_its_word(segmenter, voc):
    dataset = open_benchmark("voc21", data=voc)
    found = evaluate(segmenter, dataset, methods="maskclip")
    assert found.config["maskclip"].threshold is None
    sample = dataset.items[0].read()
    said = segmenter(sample.image, list(dataset.vocabulary.names), method="maskclip")
    np.testing.assert_array_equal(
        evaluate(segmenter, dataset, methods="maskclip", run=Run(limit=1)).matrices["maskclip"],
        confusion(sample.truth, said.label_map, classes=21),
    )


def test_shards_merged_equal_one_run(segmenter, scenes, tmp_path):
    methods = ["clearclip", "vanilla"]
    whole = evaluate(segmenter, scenes, methods=methods, run=Run(limit=7))
    for index in (3, 1, 2):
        output = tmp_path / ("a" if index < 3 else "b")
        part = evaluate(segmenter, scenes, methods=methods, run=Run(limit=7, output=output, shard=Shard(index, 3)))
        assert part.images == (3 if index == 1 else 2)
    (merged,) = merge([tmp_path / "a", tmp_path / "b"])
    same(merged, whole)
    assert [record["miou"] for record in records(merged)] == [record["miou"] for record in records(whole)]
    with pytest.raises(ClearclipError, match="run --shard 3/3 and merge again"):
        merge([tmp_path / "a"])
    with pytest.raises(ClearclipError, match="there are no shards"):
        merge([tmp_path])


def test_shards_are_checked(segmenter, scenes):
    assert Shard.parse("2/4") == Shard(2, 4)
    for text in ("0/4", "5/4", "1", "a/b"):
        with pytest.raises(UsageError, match="shard"):
            Shard.parse(text)
    with pytest.raises(UsageError, match="use fewer shards"):
        evaluate(segmenter, scenes, run=Run(limit=2, shard=Shard(3, 3)))
    with pytest.raises(UsageError, match="at least 1 image"):
        Run(limit=0)


class InterruptionError(Exception):
    pass


def test_interrupted_and_resumed_equals_uninterrupted(segmenter, scenes, tmp_path):
    whole = evaluate(segmenter, scenes, methods=EIGHT, run=Run(limit=4))
    seen = []

    def stop(done, total, matrices):
        seen.append(done)
        if done == 2:
            raise InterruptionError

    run = Run(limit=4, output=tmp_path, save_seconds=0)
    with pytest.raises(InterruptionError):
        evaluate(segmenter, scenes, methods=EIGHT, run=run, on_image=stop)
    same(evaluate(segmenter, scenes, methods=EIGHT, run=run, on_image=lambda done, *_: seen.append(done)), whole)
    assert seen == [1, 2, 3, 4]
    again = evaluate(segmenter, scenes, methods=EIGHT, run=run, on_image=lambda done, *_: seen.append(done))
    assert seen == [1, 2, 3, 4], "a finished run is not computed again"
    same(again, whole)
    anew = dataclasses.replace(run, overwrite=True)
    evaluate(segmenter, scenes, methods=EIGHT, run=anew, on_image=lambda done, *_: seen.append(done))
    assert seen[4:] == [1, 2, 3, 4]


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from benchmark_cases import small_segmenter
from clearclip.benchmarks import Run, evaluate, open_benchmark
evaluate(small_segmenter(), open_benchmark("scenes"), methods="clearclip,vanilla",
         run=Run(output=Path(sys.argv[2]), limit=16, save_seconds=0), on_image=lambda *_: time.sleep(0.2))
"""


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
def test_killed_and_resumed_equals_uninterrupted(segmenter, scenes, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(HELPERS.parents[1] / "src")}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(HELPERS), str(tmp_path)], env=environment)
    deadline = time.monotonic() + 300
    try:
        while not (states := list(tmp_path.glob("state/scenes-*.npz"))) or load_state(states[0]).done < 3:
            assert child.poll() is None, "the child ended before it could be killed"
            assert time.monotonic() < deadline, "the child has not come to its third image"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = min(load_state(path).done for path in tmp_path.glob("state/scenes-*.npz"))
    assert 2 <= done < 16
    seen = []
    run = Run(output=tmp_path, limit=16)
    resumed = evaluate(
        segmenter, scenes, methods="clearclip,vanilla", run=run, on_image=lambda done, *_: seen.append(done)
    )
    assert seen == list(range(done + 1, 17))
    same(resumed, evaluate(segmenter, scenes, methods="clearclip,vanilla", run=Run(limit=16)))


def test_methods_that_were_measured_in_another_set_are_not_measured_again(segmenter, scenes, tmp_path):
    run, seen = Run(limit=2, output=tmp_path), []

    def stop(done, total, matrices):
        seen.append((done, {name: int(matrix.sum() > 0) for name, matrix in matrices.items()}))
        if len(seen) == 1:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        evaluate(
            segmenter,
            scenes,
            methods="clearclip,gem",
            run=dataclasses.replace(run, save_seconds=0),
            on_image=stop,
        )
    evaluate(segmenter, scenes, methods="clearclip", run=run)
    assert len(list(tmp_path.glob("state/*.npz"))) == 2
    seen.clear()
    both = ["vanilla", "gem", "clearclip"]
    found = evaluate(segmenter, scenes, methods=both, run=run, on_image=lambda *said: seen.append(said[:2]))
    assert seen == [(1, 2), (2, 2)]
    same(found, evaluate(segmenter, scenes, methods=both, run=Run(limit=2)))
    assert len(list(tmp_path.glob("state/*.npz"))) == 3
    evaluate(segmenter, scenes, methods="gem,clearclip", run=run, on_image=pytest.fail)
    assert [state.seconds > 0 for state in map(load_state, tmp_path.glob("state/*.npz"))] == [True] * 3
    append_results(evaluate(segmenter, scenes, methods="clearclip", run=run), tmp_path)
    append_results(found, tmp_path)
    assert [record["method"] for record in read_results([tmp_path])] == ["clearclip", "vanilla", "gem"]


def test_a_damaged_state_is_a_clear_error(segmenter, scenes, tmp_path):
    run = Run(limit=1, output=tmp_path)
    evaluate(segmenter, scenes, run=run)
    (path,) = tmp_path.glob("state/*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ClearclipError, match=r"is no state of a run .* move or delete it"):
        evaluate(segmenter, scenes, run=run)


@pytest.mark.parametrize("damage", [break_size, break_labels, break_image, break_text])
def test_broken_files_stop_the_run_before_its_first_image(segmenter, voc, damage):
    damage(voc)
    with pytest.raises(ClearclipError, match=r"1 of its files cannot be used .*\n.*2007_000003"):
        evaluate(segmenter, open_benchmark("voc20", data=voc), on_image=lambda *_: pytest.fail("an image was measured"))


def test_missing_pairs_stop_the_run(segmenter, voc):
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(ClearclipError, match=r"2007_000002\.png: the label map is missing"):
        evaluate(segmenter, open_benchmark("voc20", data=voc))


def test_broken_files_are_skipped_counted_and_listed_on_request(segmenter, voc):
    clean = evaluate(segmenter, open_benchmark("voc20", data=voc))
    (voc / "SegmentationClass/2007_000002.png").unlink()
    break_labels(voc)
    found = evaluate(segmenter, open_benchmark("voc20", data=voc), run=Run(skip_broken=True))
    assert found.images == 4
    assert ["2007_000002" in found.skipped[0], "2007_000003" in found.skipped[1]] == [True, True]
    (record,) = records(found)
    assert record["images"] == 4
    assert record["skipped"] == list(found.skipped)
    assert any("2 left out" in warning for warning in record["warnings"])
    assert np.isnan(found.image_scores["clearclip"]).tolist() == [False, False, True, False, False]
    kept = [0, 1, 4, 5]
    np.testing.assert_array_equal(found.image_scores["clearclip"][[0, 1, 3, 4]], clean.image_scores["clearclip"][kept])


def test_a_file_that_breaks_during_the_run_stops_it_and_the_state_stays(segmenter, voc, tmp_path):
    whole = evaluate(segmenter, open_benchmark("voc20", data=voc))
    dataset = open_benchmark("voc20", data=voc)
    run = Run(output=tmp_path / "out", save_seconds=0)
    original = (voc / "JPEGImages/2007_000003.jpg").read_bytes()

    times = []

    class Breaking(Pair):
        def read(self, **_):
            times.append(1)
            if len(times) == 2:  # the first is the check before the run
                break_image(voc)
            return super().read()

    items = (*dataset.items[:3], Breaking(**vars(dataset.items[3])), *dataset.items[4:])
    with pytest.raises(ClearclipError, match=r"2007_000003\.jpg: the image cannot be read"):
        evaluate(segmenter, dataclasses.replace(dataset, items=items), run=run)
    (voc / "JPEGImages/2007_000003.jpg").write_bytes(original)
    seen = []
    resumed = evaluate(segmenter, dataset, run=run, on_image=lambda done, *_: seen.append(done))
    assert seen == [4, 5, 6]
    same(resumed, whole)


def test_a_split_of_which_nothing_can_be_used_is_an_error(segmenter, tmp_path):
    for folder in ("i", "l"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_text("no picture")
    dataset = open_folders(tmp_path / "i", tmp_path / "l", labels=["a", "b"])
    with pytest.raises(ClearclipError, match=r"none of 1 images could be used: .*x\.png"):
        evaluate(segmenter, dataset, run=Run(skip_broken=True))


def test_predictions_are_palette_pngs_of_the_label_space(segmenter, voc, tmp_path):
    dataset = open_benchmark("voc21", data=voc)
    run = Run(output=tmp_path / "out", limit=2)
    evaluate(segmenter, dataset, methods="clearclip,vanilla[alpha=2]", run=run)
    kept = dataclasses.replace(run, predictions=tmp_path / "said")
    found = evaluate(segmenter, dataset, methods="clearclip,vanilla[alpha=2]", run=kept)
    for method, matrix in found.matrices.items():
        total = np.zeros_like(matrix)
        for item in dataset.items[:2]:
            with Image.open(tmp_path / "said" / prediction_name(method, item)) as picture:
                assert picture.mode == "P"
                assert picture.getpalette()[:63] == dataset.vocabulary.palette.ravel().tolist()
                total += confusion(item.read().truth, np.asarray(picture), classes=21)
        np.testing.assert_array_equal(total, matrix)


def test_a_row_of_ones_own_keeps_its_name(segmenter, scenes, tmp_path):
    row = clearclip.Method("near", attention=("kk",), residual="drop", ffn=False)
    found = evaluate(segmenter, scenes, methods=[row, "clearclip"], run=Run(limit=1, output=tmp_path))
    append_results(found, tmp_path)
    shown = read_results([tmp_path])
    assert [(record["name"], record["method"]) for record in shown] == [("near", row.spelling), (None, "clearclip")]
    for view in ("runs", "methods"):
        assert f"near = {row.spelling}" in table(shown, view=view).csv().replace('"', "")
    assert table(shown, view="classes").columns[1:] == (f"near = {row.spelling}", "clearclip")
    info = segmenter(scenes.items[0].read().image, ["sky", "grass"], method=row).info
    assert (info["name"], info["method"]) == ("near", row.spelling)


def test_thresholds_are_checked(segmenter, voc):
    dataset = open_benchmark("voc21", data=voc)
    with pytest.raises(UsageError, match="'sclip', which is not evaluated"):
        evaluate(segmenter, dataset, methods="clearclip", thresholds={"sclip": 0.5})
    with pytest.raises(UsageError, match="probability from 0 to 1"):
        evaluate(segmenter, dataset, methods="clearclip", thresholds=1.5)
    with pytest.raises(UsageError, match="voc20 has no background"):
        evaluate(segmenter, open_benchmark("voc20", data=voc), thresholds=0.5)


def test_ones_own_data_set_goes_the_same_way(segmenter, voc, tmp_path):
    official = evaluate(segmenter, open_benchmark("voc21", data=voc), thresholds=0.1)
    labels = list(open_benchmark("voc21", data=voc).vocabulary.names)
    own = open_folders(voc / "JPEGImages", voc / "SegmentationClass", labels=labels, background="background")
    found = evaluate(segmenter, own, thresholds=0.1)
    np.testing.assert_array_equal(found.matrices["clearclip"], official.matrices["clearclip"])
    assert found.config["clearclip"].benchmark == own.benchmark.name
