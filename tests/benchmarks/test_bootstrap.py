"""Counts of each image in a state, and the paired bootstrap of two methods that is made of them."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc

import numpy as np
import pytest
from typer.testing import CliRunner

from clearclip.benchmarks import (
    Run,
    Shard,
    confusion,
    difference,
    evaluate,
    merge,
    open_benchmark,
    read_results,
    scores,
)
from clearclip.benchmarks.bootstrap import interval
from clearclip.benchmarks.results import append_results
from clearclip.benchmarks.state import load_state
from clearclip.cli import app
from clearclip.errors import ClearclipError, UsageError

METHODS = "vanilla,sclip,clearclip"


@pytest.fixture(scope="module")
def folder(segmenter, tmp_path_factory):
    """A run of three methods, recorded."""
    output = tmp_path_factory.mktemp("run")
    record(segmenter, output, limit=5)
    return output


def record(segmenter, output, *, methods=METHODS, benchmark="scenes", **options):
    run = Run(output=output, **options)
    append_results(evaluate(segmenter, open_benchmark(benchmark), methods=methods, run=run), output)


def states(output):
    found = {path.name: load_state(path) for path in (output / "state").glob("*.npz") if "shard" not in path.name}
    return {state.config.method: state for state in found.values()}


def compared(output, *names, **filters):
    found = [one for one in read_results([output]) if all(one[key] == value for key, value in filters.items())]
    return difference(found, names, folders=[output])


def matrices(rng, *, images, classes):
    """Confusion matrices of images that hold few of the classes each, as truth and two predictions of it."""
    for _ in range(images):
        present = rng.choice(classes, size=4, replace=False)
        truth = rng.choice(present, (9, 7))
        yield [
            confusion(truth, np.where(rng.random(truth.shape) < share, truth, rng.choice(classes)), classes=classes)
            for share in (0.6, 0.5)
        ]


def counted(matrix):
    right = np.diag(matrix)
    return np.stack([right, matrix.sum(axis=0) + matrix.sum(axis=1) - right]).astype(np.float64)


def plain(pairs, *, resamples, seed):
    """The same in a loop over whole confusion matrices."""
    random, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = random.integers(len(pairs), size=len(pairs))
        first, second = (scores(sum(pairs[index][method] for index in drawn)).miou for method in (0, 1))
        found.append(100 * (first - second))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_interval_equals_a_plain_loop_over_confusion_matrices(monkeypatch, seed):
    pairs = list(matrices(np.random.default_rng(5), images=12, classes=9))
    counts = np.array([[counted(matrix) for matrix in pair] for pair in pairs])
    found = interval(counts, resamples=200, seed=seed)
    np.testing.assert_allclose(found, plain(pairs, resamples=200, seed=seed), rtol=1e-12)
    monkeypatch.setattr("clearclip.benchmarks.bootstrap.CHUNK", 40)
    assert interval(counts, resamples=200, seed=seed) == found, "chunks change nothing"


def test_one_method_against_itself_has_no_difference():
    pairs = list(matrices(np.random.default_rng(6), images=5, classes=9))
    counts = np.array([[counted(pair[0])] * 2 for pair in pairs])
    assert interval(counts) == (0, 0)


def test_five_thousand_images_of_171_classes_take_seconds_and_little_memory():
    counts = np.random.default_rng(7).integers(0, 1000, (5000, 2, 1, 171)).astype(np.float64)
    counts = np.concatenate([counts, counts + 500], axis=2)
    tracemalloc.start()
    began = time.monotonic()
    low, high = interval(counts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert low <= high
    assert time.monotonic() - began < 60
    assert peak < 300e6


def test_a_state_holds_what_each_image_counts(segmenter, folder, tmp_path):
    for index in range(5):
        record(segmenter, tmp_path / str(index), limit=5, shard=Shard(index + 1, 5))
    for method, state in states(folder).items():
        parts = [
            one
            for index in range(5)
            for one in map(load_state, (tmp_path / str(index) / "state").glob("*.npz"))
            if one.config.method == method
        ]
        for index, part in enumerate(parts):
            rows = state.counts[state.counts[:, 0] == index]
            true, predicted = part.matrix.sum(axis=1), part.matrix.sum(axis=0)
            labels = np.flatnonzero(true + predicted)
            np.testing.assert_array_equal(rows[:, 1], labels)
            expected = np.stack([np.diag(part.matrix), true, predicted], axis=1)[labels]
            np.testing.assert_array_equal(rows[:, 2:], expected)


def test_shards_merged_and_runs_resumed_have_the_counts_of_one_run(segmenter, folder, tmp_path):
    whole = states(folder)
    for index in (3, 1, 2):
        run = Run(limit=5, output=tmp_path / "parts", shard=Shard(index, 3))
        evaluate(segmenter, open_benchmark("scenes"), methods=METHODS, run=run)
    for _ in range(2):
        for evaluation in merge([tmp_path / "parts"], output=tmp_path / "merged"):
            append_results(evaluation, tmp_path / "merged")

    class StopError(Exception):
        pass

    def stop(done, *_):
        if done == 2:
            raise StopError

    run = Run(limit=5, output=tmp_path / "resumed", save_seconds=0)
    with pytest.raises(StopError):
        evaluate(segmenter, open_benchmark("scenes"), methods=METHODS, run=run, on_image=stop)
    record(segmenter, tmp_path / "resumed", limit=5, save_seconds=0)
    expected = compared(folder, "sclip", "clearclip")
    for name in ("merged", "resumed"):
        found = states(tmp_path / name)
        assert found.keys() == whole.keys()
        for method, state in found.items():
            np.testing.assert_array_equal(state.counts, whole[method].counts)
        assert compared(tmp_path / name, "sclip", "clearclip") == expected


def test_the_difference_is_that_of_the_results(folder):
    found = compared(folder, "clearclip", "sclip")
    miou = {one["method"]: one["miou"] for one in read_results([folder])}
    assert found.difference == pytest.approx(miou["clearclip"] - miou["sclip"], abs=1e-3)
    assert found.images == 5
    assert found.low <= found.difference <= found.high
    back = compared(folder, "sclip", "clearclip")
    np.testing.assert_allclose((back.low, back.high), (-found.high, -found.low))
    assert found.includes_0 == (found.low <= 0 <= found.high) == back.includes_0
    runs = {one["method"]: one["run"] for one in read_results([folder])}
    assert compared(folder, runs["clearclip"], "sclip") == found
    assert compared(folder, "clearclip[alpha=1]", "SCLIP") == found, "spellings are read as everywhere"


def test_names_that_are_no_two_results_are_told_with_what_there_is(segmenter, folder, tmp_path):
    with pytest.raises(UsageError, match=r"no result .*'gem': there are vanilla on scenes.*; sclip on .*\(run "):
        compared(folder, "gem", "sclip")
    with pytest.raises(UsageError, match="both are sclip of one configuration"):
        compared(folder, "sclip", "sclip")
    record(segmenter, tmp_path, limit=5)
    record(segmenter, tmp_path, limit=4, methods="sclip")
    with pytest.raises(UsageError, match=r"'sclip' is several results: name a run.*sclip on scenes.*; sclip on"):
        compared(tmp_path, "sclip", "clearclip")
    shorter = read_results([tmp_path])[-1]["run"]
    with pytest.raises(UsageError, match=r"differ in more than the method: limit \(4 and 5\); measure both in"):
        compared(tmp_path, shorter, "clearclip")
    record(segmenter, tmp_path / "again", limit=5)
    record(segmenter, tmp_path / "again", limit=5, overwrite=True)
    assert len(read_results([tmp_path / "again"])) == 6
    assert compared(tmp_path / "again", "sclip", "vanilla") == compared(folder, "sclip", "vanilla")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float16"}, r"dtype \(float32 and float16\)"),
        ({"weights": "0123"}, r"weights \([0-9a-f]+ and 0123\)"),
        ({"protocol": {"stride": 1}}, r"protocol short_side \(.* and None\).*protocol stride \(.* and 1\)"),
        ({"labels": (("sea",),) * 30}, r"labels;"),
        ({"seed": 3}, r"seed \(0 and 3\)"),
    ],
)
def test_runs_that_differ_in_more_than_the_method_are_refused(folder, tmp_path, changes, said):
    found = states(folder)
    other = found["clearclip"]
    config = dataclasses.replace(other.config, **changes)
    if "labels" in changes:
        config = dataclasses.replace(config, labels=(("sea",),) * len(other.config.labels))
    dataclasses.replace(other, config=config).save(tmp_path)
    found["sclip"].save(tmp_path)
    lines = [one for one in read_results([folder]) if one["method"] != "vanilla"]
    lines[1]["config"] = json.loads(json.dumps(dataclasses.asdict(config)))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(UsageError, match=f"cannot be compared, as they differ in more than the method: .*{said}"):
        compared(tmp_path, "sclip", "clearclip")


def test_a_threshold_may_differ_as_it_is_the_methods(segmenter, voc, tmp_path):
    dataset = open_benchmark("voc21", data=voc)
    limits = {"vanilla": 0.2, "clearclip": 0.5}
    found = evaluate(segmenter, dataset, methods="vanilla,clearclip", thresholds=limits, run=Run(output=tmp_path))
    append_results(found, tmp_path)
    assert compared(tmp_path, "vanilla", "clearclip").thresholds == (0.2, 0.5)


def test_images_that_were_left_out_are_not_drawn(segmenter, voc, tmp_path):
    (voc / "JPEGImages/2007_000002.jpg").write_bytes(b"")
    dataset = open_benchmark("voc20", data=voc)
    run = Run(output=tmp_path, skip_broken=True)
    append_results(evaluate(segmenter, dataset, methods="vanilla,clearclip", run=run), tmp_path)
    assert compared(tmp_path, "vanilla", "clearclip").images == 5


def test_other_truth_is_refused(folder, tmp_path):
    found = states(folder)
    state = found["sclip"]
    counts, matrix = state.counts.copy(), state.matrix.copy()
    row = np.flatnonzero(counts[:, 3] > counts[:, 2])[0]  # a pixel that is missed is said to be ignored
    label = counts[row, 1]
    wrong = np.flatnonzero(matrix[label] * (np.arange(len(matrix)) != label))
    other = next(
        at for at in np.flatnonzero(counts[:, 0] == counts[row, 0])
        if counts[at, 1] in wrong and counts[at, 4] > counts[at, 2]
    )  # fmt: skip
    counts[row, 3] -= 1
    counts[other, 4] -= 1
    matrix[label, counts[other, 1]] -= 1
    keep = counts[:, 3:].any(axis=1)
    dataclasses.replace(state, counts=counts[keep], matrix=matrix).save(tmp_path)
    found["clearclip"].save(tmp_path)
    lines = [one | {"miou": None} for one in read_results([folder])]
    with pytest.raises(UsageError, match="differ in more than the method: images, or their truth"):
        difference(lines, ("sclip", "clearclip"), folders=[tmp_path])


def test_a_state_that_is_gone_or_of_a_later_run_is_told(segmenter, folder, tmp_path):
    found = read_results([folder])
    with pytest.raises(UsageError, match=r"sclip on scenes .* has no state in .*name the output folder of its run"):
        difference(found, ("sclip", "clearclip"), folders=[tmp_path])
    later = [one | {"miou": one["miou"] + 1} for one in found]
    with pytest.raises(UsageError, match="was measured again since"):
        difference(later, ("sclip", "clearclip"), folders=[folder])
    old = [one | {"config": {"method": "sclip"}} for one in found]
    with pytest.raises(UsageError, match="is of an earlier version"):
        difference(old, ("sclip", "clearclip"), folders=[folder])
    record(segmenter, tmp_path, limit=1)
    with pytest.raises(ClearclipError, match="1 image has pixels that count: an interval over images needs at least 2"):
        compared(tmp_path, "sclip", "clearclip")


def test_too_many_images_are_refused(folder, monkeypatch):
    monkeypatch.setattr("clearclip.benchmarks.bootstrap.MAX_CELLS", 100)
    with pytest.raises(ClearclipError, match=r"5 images of \d+ classes are too many.*at most 100.*--limit"):
        compared(folder, "sclip", "clearclip")


def test_the_command_prints_sentences_or_json(folder):
    def typed(*words):
        ran = CliRunner().invoke(app, ["results", str(folder), *words])
        if isinstance(ran.exception, ClearclipError):
            raise ran.exception
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    found = compared(folder, "sclip", "clearclip")
    shown = typed("--compare", "sclip", "clearclip")
    assert shown.startswith("scenes, ")
    assert f"difference {found.difference:+.2f}, 95 % interval {found.low:+.2f} to {found.high:+.2f} (2,000" in shown
    assert ("lies within" in shown) == found.includes_0
    assert "fewer than 30 images" in shown
    assert json.loads(typed("--compare", "sclip", "clearclip", "--json")) == json.loads(json.dumps(found.as_dict()))
    assert typed("--compare", "sclip", "clearclip") == shown
    with pytest.raises(UsageError, match="--compare prints sentences or JSON, no csv"):
        typed("--compare", "sclip", "clearclip", "--format", "csv")
