"""Pages from one command: shared state, empty cells with reasons, nothing published shown as measured."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from clearclip.benchmarks import Run, evaluate, open_benchmark
from clearclip.benchmarks.state import load_state
from clearclip.paper.measure import Lab, paper_thresholds
from clearclip.paper.models import Model
from clearclip.paper.reproduce import PICTURE_IMAGES
from clearclip.paper.rows import find_targets, table1_methods
from clearclip.segmenter import Segmenter

PROMPT = "a photo of a {}."


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "data" / "voc20"
    names = [f"2007_{number:06d}" for number in range(3)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        for folder, picture in (
            ("JPEGImages", Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8))),
            (
                "SegmentationClass",
                Image.fromarray(rng.integers(1, 21, (4, 5), dtype=np.uint8).repeat(8, 0).repeat(8, 1)),
            ),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            picture.save(root / folder / f"{name}.{'jpg' if folder == 'JPEGImages' else 'png'}")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
    return root.parent


@pytest.fixture
def encoded(monkeypatch):
    """Counts how many images went through the trunk."""
    seen = []
    original = Segmenter.encode

    def encode(self, image, *, method=None):
        seen.append(1)
        return original(self, image, method=method)

    monkeypatch.setattr(Segmenter, "encode", encode)
    return seen


def numbers(folder):
    return json.loads((folder / "numbers.json").read_text())


def test_targets_share_what_is_computed(run, coarse_folder, voc, tmp_path, encoded):
    out = tmp_path / "out"
    options = ("--data", voc, "--benchmarks", "voc20", "--models", f"clip-b16={coarse_folder}", "-o", out, "--limit", 2)
    first = run("reproduce", "figure1", *options, "--template", PROMPT)
    assert first.code == 0, first.err
    assert len(encoded) == 2
    again = run("reproduce", "figure1", *options, "--template", PROMPT)
    assert again.code == 0
    assert len(encoded) == 2
    table2 = run("reproduce", "table2", *options, "--template", PROMPT)
    assert table2.code == 0
    assert len(encoded) == 4
    methods = [load_state(path).config.method for path in (out / "state").glob("*.npz")]
    assert len(methods) == len(set(methods)) == 26
    assert {"gem", "gem+clearclip", "clearclip", "vanilla"} < set(methods)

    page = (out / "table2" / "report.md").read_text()
    rows = [row for row in numbers(out / "table2")["numbers"] if row["method"] == "clearclip"]
    assert rows[0]["published"] == 80.9
    assert rows[0]["measured"] != rows[0]["published"]
    assert rows[0]["difference"] is None  # of 2 images
    assert "not the paper's weights" in page
    assert "| measured † |" in page
    assert "| published † |" not in page
    assert "the paper prints the gain +11.1, its own cells give +15.4" in page
    with (out / "table2" / "numbers.csv").open() as file:
        assert {row["benchmark"] for row in csv.DictReader(file)} == {"voc20"}
    assert (out / "figure1" / "figure1-clip-b16.svg").read_text().startswith("<?xml")


def test_cells_without_weights_or_data_stay_empty_with_the_reason(run, coarse_folder, voc, tmp_path):
    out = tmp_path / "out"
    ran = run(
        "reproduce", "table2", "--data", voc, "--benchmarks", "voc20,ade20k", "--template", PROMPT, "--limit", 1,
        "--models", f"openclip-b16={tmp_path / 'none'},metaclip-b16={coarse_folder}", "-o", out,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for row in numbers(out / "table2")["numbers"]:
        measured = row["model"] == "metaclip-b16" and row["benchmark"] == "voc20"
        assert (row["measured"] is not None) == measured
        assert bool(row["reason"]) == (not measured)
        assert row["published"] is not None
    page = (out / "table2" / "report.md").read_text()
    measured_lines = [line for line in page.splitlines() if "| measured |" in line and "OpenCLIP" in line]
    assert measured_lines
    assert all(cell.strip() == "–" for line in measured_lines for cell in line.split("|")[3:-1])
    assert "Empty cells: " in page


def test_an_interrupted_run_is_finished_not_begun_anew(coarse_folder, voc, tmp_path, encoded):
    out = tmp_path / "out"
    lab = Lab(output=out, data=voc, templates=PROMPT)
    model, rows = Model("clip-b16", str(coarse_folder)), table1_methods()[:4]
    dataset = open_benchmark("voc20", data=voc / "voc20")

    def stop(done, total, matrices):
        if done == 2:
            raise KeyboardInterrupt

    limits = paper_thresholds(dataset, rows)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            lab.segmenter(model, "voc20"),
            dataset,
            methods=list(limits),
            run=Run(output=out, save_seconds=0),
            on_image=stop,
        )
    assert len(encoded) == 2
    lab.measure(model, "voc20", rows[:2])
    assert len(encoded) == 3
    whole = Lab(output=tmp_path / "other", data=voc, templates=PROMPT)
    whole.measure(model, "voc20", rows)
    for row in rows[:2]:
        assert lab.cell("clip-b16", "voc20", row) == whole.cell("clip-b16", "voc20", row)


def test_ablations_get_clearclips_threshold_where_the_paper_names_none(voc):
    dataset = open_benchmark("voc21", data=voc / "voc20")
    limits = paper_thresholds(dataset, table1_methods())
    assert set(limits.values()) == {0.5}


def test_table1_page(run, coarse_folder, voc, tmp_path):
    out = tmp_path / "out"
    ran = run(
        "reproduce", "table1", "--data", f"voc20={voc / 'voc20'}", "--benchmarks", "voc20", "--limit", 1,
        "--models", str(coarse_folder), "--template", PROMPT, "-o", out,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = numbers(out / "table1")["numbers"]
    betas = {row["value"]: row for row in rows if row["axis"] == "beta"}
    assert betas[0]["method"] == "clearclip[residual=keep]"
    assert betas[100]["method"] == "clearclip"
    assert betas[30]["channels_kept"] == 64 - 19
    assert betas[30]["published_clip_b16_mean_of_8"] == 37.4
    assert all(row["difference"] is None for row in rows)
    assert (out / "table1" / "table1.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tabel1",), "table1"),
        (("table1", "--benchmarks", "voc02"), "voc20"),
        (("table1", "--data", "nowhere"), "no folder"),
        (("table1", "--data", "vok20=."), "voc20"),
        (("table1", "--models", "clip=x"), "no row of the tables"),
    ],
)
def test_wrong_requests(run, tmp_path, arguments, said):
    ran = run("reproduce", *arguments, "-o", tmp_path / "out")
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("target", ["figure3", "figure4"])
def test_sheets_of_label_maps(run, coarse_folder, voc, tmp_path, target):
    """Every method's picture of every image, with its own mIoU, equal to what the segmenter says."""
    out, model = tmp_path / "out", f"clip-b16={coarse_folder}"
    done = run("reproduce", target, "--data", voc, "--benchmarks", "voc20", "--models", model, "-o", out)
    assert done.code == 0, done.err
    rows = numbers(out / target)["numbers"]
    with Image.open(out / target / f"{target}-voc20.png") as sheet:
        assert min(sheet.size) > 100
    assert len({row["image"] for row in rows}) == min(3, PICTURE_IMAGES[target])
    methods = {row["method"] for row in rows}
    assert len(rows) == len(methods) * len({row["image"] for row in rows})
    assert {"clearclip", "vanilla"} <= methods
    assert all(0 <= row["miou"] <= 100 for row in rows)
    assert len({row["miou"] for row in rows}) > 2
    assert f"{target}-voc20.png" in (out / target / "report.md").read_text()
    assert done.out.strip() == str(out / target / "report.md")


def test_all_targets_in_one_run(run, coarse_folder, voc, tmp_path):
    out, model = tmp_path / "out", f"clip-b16={coarse_folder}"
    options = ("--data", voc, "--benchmarks", "voc20", "--models", model, "-o", out, "--limit", 1, "--template", PROMPT)
    done = run("reproduce", "all", *options)
    assert done.code == 0, done.err
    names = [target.name for target in find_targets("all")]
    assert len(names) == 6
    for name in names:
        assert (out / name / "report.md").is_file()
        assert numbers(out / name)["numbers"]
    index = (out / "report.md").read_text()
    assert all(f"{name}/report.md" in index for name in names)


def test_inspect_as_json(run, coarse_folder, voc, tmp_path):
    image = voc / "voc20/JPEGImages/2007_000000.jpg"
    done = run("inspect", image, "--model", coarse_folder, "--json", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    statistics = told["statistics"]
    assert {row["part"] for row in statistics} == {"X_res", "X_attn", "X_sum"}
    assert len(statistics) == 3 * max(row["block"] for row in statistics)
    assert all(np.isfinite(row["norm"]) for row in statistics)
    assert any("does the residual drown the attention output?" in sentence for sentence in told["findings"])
    assert statistics == numbers(tmp_path / "out" / "inspect")["numbers"]
