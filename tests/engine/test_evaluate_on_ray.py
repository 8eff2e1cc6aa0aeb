"""An evaluation divided among workers gives the numbers of an undivided one; the commands do the same as functions."""

import csv
import functools
import json

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip import UsageError
from clearclip.benchmarks import Run, Shard, evaluate, evaluate_on_ray, open_folders
from clearclip.engine.ray_pool import Fleet

pytestmark = [
    # Ray's own: sockets and files that it leaves to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
METHODS = ["clearclip", "vanilla"]


@pytest.fixture
def dataset(tmp_path, photo):
    for index in range(7):
        photo(f"data/images/{index}.png", 40 + index, 56, seed=index)
        truth = np.random.default_rng(index).integers(0, 3, (40 + index, 56), dtype=np.uint8)
        (tmp_path / "data" / "truth").mkdir(exist_ok=True)
        Image.fromarray(truth).save(tmp_path / "data" / "truth" / f"{index}.png")
    words = tmp_path / "words.txt"
    words.write_text("sky\ngrass\nhorse\n")
    return open_folders(tmp_path / "data" / "images", tmp_path / "data" / "truth", labels=words)


@pytest.fixture
def load(clip_folder):
    return functools.partial(clearclip.load, str(clip_folder), device="cpu", templates="a photo of a {}.")


def test_the_same_numbers(cluster, dataset, load, tmp_path):
    seen = []
    found = evaluate_on_ray(
        load,
        dataset,
        methods=METHODS,
        fleet=Fleet(2, gpus=0),
        run=Run(output=tmp_path / "ray", predictions=tmp_path / "said"),
        on_image=lambda done, total, matrices: seen.append((done, total, matrices["vanilla"].sum())),
    )
    expected = evaluate(load(), dataset, methods=METHODS, run=Run(output=tmp_path / "local"))
    assert found.config == expected.config
    assert (found.images, found.skipped, found.warnings) == (7, expected.skipped, expected.warnings)
    for method in METHODS:
        assert np.array_equal(found.matrices[method], expected.matrices[method])
        assert np.array_equal(found.image_scores[method], expected.image_scores[method])
    assert seen[-1] == (7, 7, found.matrices["vanilla"].sum())
    assert [file.name for file in (tmp_path / "ray" / "state").iterdir()] == [
        file.name for file in (tmp_path / "local" / "state").iterdir()
    ]
    run = Run(output=tmp_path / "ray", predictions=tmp_path / "said")  # whose files its workers have written
    again = evaluate(load(), dataset, methods=METHODS, run=run, on_image=pytest.fail)
    assert again.facts == found.facts


def test_shards_cannot_be_divided_again(dataset, load, tmp_path):
    for run in (Run(), Run(output=tmp_path, shard=Shard(1, 2))):
        with pytest.raises(UsageError, match="output folder"):
            evaluate_on_ray(load, dataset, methods="clearclip", fleet=Fleet(1), run=run)


def test_the_command(cluster, photo, tmp_path, run, clip_folder, contents):
    photo("in/a.png"), photo("in/b.png", seed=1), photo("in/c.png", 33, 90, seed=2)
    (tmp_path / "in" / "bad.png").write_text("no")
    words = ["-l", "sky", "-l", "grass", "--model", clip_folder, "--device", "cpu", "--template", "a photo of a {}."]
    local = run("segment", tmp_path / "in", "-o", tmp_path / "local", *words)
    spread = run(
        "segment", tmp_path / "in", "-o", tmp_path / "ray", *words, "--engine", "ray", "--workers", 2, "--json"
    )
    assert (local.code, spread.code) == (1, 1)
    (failed,) = (line for line in local.err.splitlines() if not line.startswith("note: "))
    assert spread.err.splitlines() == [failed]
    assert json.loads(spread.out)["done"] == 3
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
    with (tmp_path / "ray" / "errors.csv").open(newline="") as opened:
        assert [row[0] for row in csv.reader(opened)] == ["image", str(tmp_path / "in" / "bad.png")]


def test_options_of_workers_need_workers(run, photo, tmp_path):
    for option in (["--workers", 2], ["--address", "auto"], ["--gpus-per-worker", 1]):
        ran = run("segment", photo(), "-l", "sky", "-o", tmp_path / "out", *option)
        assert ran.code == 2
        assert "add --engine ray" in ran.err
