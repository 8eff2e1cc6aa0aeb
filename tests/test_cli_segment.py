"""`clearclip segment`, `models` and `methods` as they are typed."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
import tiny_models
from clearclip.methods import AXES


@pytest.fixture
def segment(run, clip_folder):
    """`clearclip segment` with the tiny model and one template."""

    def call(*arguments, model=clip_folder, template="a photo of a {}."):
        return run("segment", *arguments, "--model", model, "--device", "cpu", "--template", template)

    return call


def test_files_folders_and_globs(segment, photo, tmp_path, clip_folder):
    photo("in/a.png"), photo("in/sub/b.png", seed=1), photo("c.png", seed=2)
    out = tmp_path / "out"
    ran = segment(tmp_path / "in", str(tmp_path / "*.png"), "-l", "sky", "-l", "person=man|woman @#ff0000", "-o", out)
    assert ran.code == 0
    assert all(line.startswith("note: ") for line in ran.err.splitlines())
    assert ran.out.startswith("3 segmented")
    assert sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()) == sorted(
        [f"{stem}{end}" for stem in ("a", "sub/b", "c") for end in (".png", ".overlay.jpg")]
        + ["labels.json", "ledger.sqlite"]
    )
    segmenter = clearclip.load(str(clip_folder), device="cpu", templates="a photo of a {}.")
    expected = segmenter(tmp_path / "c.png", ["sky", "person=man|woman"])
    with Image.open(out / "c.png") as written:
        assert np.array_equal(np.asarray(written), expected.label_map)
        assert written.getpalette()[3:6] == [255, 0, 0]
    described = json.loads((out / "labels.json").read_text())
    assert described["labels"][1]["queries"] == ["person", "man", "woman"]
    again = segment(tmp_path / "in", "-l", "sky", "-l", "person=man|woman @#ff0000", "-o", out)
    assert again.out.startswith("0 segmented, 2 were there already (--overwrite makes them again)")
    anew = segment(tmp_path / "in", "-l", "sky", "-l", "other", "-o", out, "--overwrite")
    assert anew.out.startswith("2 segmented")


def test_options_reach_the_run(segment, photo, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("sky # above\ngrass\n")
    out = tmp_path / "out"
    ran = segment(
        photo(), photo("other.png"), "--labels", words, "-o", out, "--method", "sclip[residual=drop]",
        "--threshold", 0.6,
        "--background", "rest", "--crop-size", 40, "--stride", 20, "--short-side", 50, "--batch-size", 3, "--limit", 1,
        "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    del report["rivals"]
    assert report == {"done": 1, "skipped": 0, "failed": [], "notes": {}, "left_out": {}, "absent": {}}
    described = json.loads((out / "labels.json").read_text())
    assert [row["name"] for row in described["labels"]] == ["rest", "sky", "grass"]
    assert (described["method"], described["threshold"]) == ("sclip[residual=drop]", "0.6")
    assert "short_side=50" in described["protocol"]
    assert "crop_size=40 stride=20" in described["protocol"]


def test_the_remainder_of_windows_is_padded_or_dropped(segment, photo, tmp_path, clip_folder):
    words = ("-l", "sky", "-l", "grass", "--crop-size", 44, "--stride", 20, "--short-side", 50)
    for remainder in ("pad", "drop"):
        out = tmp_path / remainder
        assert segment(photo(), *words, "--remainder", remainder, "-o", out).code == 0
        assert ("remainder=drop" in json.loads((out / "labels.json").read_text())["protocol"]) is (remainder == "drop")
        segmenter = clearclip.load(str(clip_folder), device="cpu", templates="a photo of a {}.")
        numbers = {"short_side": 50, "crop_size": 44, "stride": 20, "remainder": remainder}
        segmenter.protocol = segmenter.protocol.in_pixels(segmenter.backbone.native_size).with_overrides(**numbers)
        with Image.open(out / "photo.png") as written:
            assert np.array_equal(np.asarray(written), segmenter(photo(), ["sky", "grass"]).label_map)
    refused = segment(photo(), *words, "--remainder", "crop", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "pad" in refused.err


def test_json_names_the_failures(segment, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    ran = segment(photo(), tmp_path / "bad.png", "-l", "sky", "-o", tmp_path / "out", "--json")
    assert ran.code == 1
    report = json.loads(ran.out)
    assert (report["done"], report["failed"][0]["image"]) == (1, str(tmp_path / "bad.png"))


@pytest.mark.parametrize("library", ["open_clip", "hugging face clip", "hugging face blip", "salesforce"])
def test_every_format_of_a_checkpoint(run, photo, tmp_path, clip_model, clip_folder, blip_model, word_pieces, library):
    model, more = clip_folder, []
    if library == "hugging face clip":
        model = tmp_path / "hf"
        tiny_models.hf_clip_of(clip_model).save_pretrained(model)
    elif library == "hugging face blip":
        model = tmp_path / "blip"
        blip_model.save_pretrained(model)
        shutil.copytree(word_pieces, model, dirs_exist_ok=True)
    elif library == "salesforce":
        model, more = tmp_path / "model.pth", ["--tokenizer", word_pieces]
        torch.save({"model": tiny_models.salesforce_state(blip_model)}, model)
    out = tmp_path / "out"
    ran = run("segment", photo(), "-l", "sky", "-l", "horse", "-o", out, "--model", model, "--device", "cpu", *more)
    assert (ran.code, ran.err) == (0, "")
    assert (out / "photo.png").exists()


def test_real_photographs(segment, shared, tmp_path):
    photos = shared / "samples" / "photos"
    ran = segment(photos, "-l", "sky", "-l", "horse", "-l", "grass", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    files = [file for file in photos.iterdir() if file.suffix in (".jpg", ".jpeg")]
    assert len(files) > 5
    for file in files:
        with Image.open(tmp_path / "out" / f"{file.stem}.png") as written, Image.open(file) as image:
            assert written.size == image.size
            assert set(np.unique(written)) <= {0, 1, 2}


def test_a_cache_that_cannot_be_written_is_one_warning(segment, photo, tmp_path, monkeypatch):
    blocked = tmp_path / "cache"
    blocked.write_text("in the way")
    monkeypatch.setenv("CLEARCLIP_CACHE", str(blocked))
    ran = segment(photo(), "-l", "sky", "-l", "grass", "-o", tmp_path / "out")
    assert ran.code == 0
    assert ran.err.startswith("warning: the text cache")
    assert ran.err.count("warning: ") == 1


def test_methods_lists_every_axis(run):
    ran = run("methods")
    assert ran.code == 0
    for word in (*clearclip.METHODS, *(axis.name for axis in AXES)):
        assert word in ran.out, word
    document = json.loads(run("methods", "--json").out)
    assert [row["name"] for row in document["methods"]] == list(clearclip.METHODS)
    assert [axis["name"] for axis in document["axes"]] == [axis.name for axis in AXES]


def test_models_lists_licences(run):
    ran = run("models")
    for word in ("clip-b16", "metaclip-l14", "non-commercial", "blip-l16", "tiny"):
        assert word in ran.out
    assert {"clip-b16", "tiny"} <= {row["name"] for row in json.loads(run("models", "--json").out)}


def test_help_and_version(run):
    assert "segment" in run("--help").out
    assert run("--version").out.strip() == f"clearclip {clearclip.__version__}"
    ran = run("segment", "-h")
    assert ran.code == 0
    for option in (
        "--label",
        "--labels",
        "--output",
        "--threshold",
        "--overwrite",
        "--limit",
        "--json",
        "--batch-size",
    ):
        assert option in ran.out
