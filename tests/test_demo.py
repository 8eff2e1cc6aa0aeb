"""`clearclip demo`, offline, and the embedded checkpoint it runs on."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import clearclip
from clearclip.checkpoints import TINY_FOLDER
from clearclip.cli import app
from clearclip.decompose import fit_depth
from clearclip.demo import DEMO_METHODS, draw_comparison, run_demo
from clearclip.errors import UsageError
from clearclip.scenes import CLASSES, make_scene
from tools.tiny.score import crop_around, score, score_composition, score_methods


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("CLEARCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield clearclip.load("tiny", device="cpu")
    patch.undo()


def test_checkpoint_is_small_and_plain_open_clip():
    names = {path.name for path in TINY_FOLDER.iterdir()}
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in TINY_FOLDER.iterdir()) <= 8_000_000
    model = open_clip.create_model(f"local-dir:{TINY_FOLDER}")
    tokens = open_clip.get_tokenizer(f"local-dir:{TINY_FOLDER}")(["a red car"])
    assert torch.isfinite(model.encode_text(tokens)).all()


def test_clearclip_is_well_above_vanilla(segmenter):
    scenes = [make_scene(index, split="val", size=(128, 160)) for index in range(6)]
    totals = score_methods(segmenter, scenes, ["vanilla", "clearclip"])
    right = {name: np.trace(matrix) / matrix.sum() for name, matrix in totals.items()}
    assert right["clearclip"] > 1.5 * right["vanilla"]
    assert all(matrix.sum() == 6 * 128 * 160 for matrix in totals.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--model", "tinny"], "model 'tinny' is not known"), (["--method", "clear"], "method 'clear' is not known")],
)
def test_a_wrong_name_is_an_error_of_one_line(arguments, said):
    command = typer.Typer()
    command.command()(score)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {said}")
    assert result.stderr.count("\n") == 1


def test_colours_are_told_apart(segmenter):
    scenes = [make_scene(index, split="val", size=(128, 160)) for index in range(12)]
    counts = score_composition(segmenter, scenes, least=60)
    assert counts["trained"].asked > 10
    assert counts["trained"].accuracy > 2 * counts["trained"].chance
    crop = crop_around(scenes[0], 0, side=32)
    assert crop.shape == (32, 32, 3)


def test_command_writes_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "-o", str(output), "--limit", "2", "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert list(document["miou"]) == ["vanilla", "maskclip", "sclip", "gem", "clearclip"]
    assert all(Path(file).is_file() for file in document["files"])
    with Image.open(output / "comparison.png") as picture:
        assert picture.width > 7 * 200
    assert len(list(output.glob("scene-*.overlay.jpg"))) == 2 * (1 + len(DEMO_METHODS))
    assert json.loads((output / "demo.json").read_text())["settings"]["model"] == "tiny"


def test_command_says_what_to_type_next(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "cache"))
    command = ["demo", "-o", str(tmp_path / "out"), "--limit", "1", "--method", "clearclip", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "mIoU" in result.stdout
    assert "clearclip segment" in result.stdout.splitlines()[-1]


def test_bad_use_is_refused(tmp_path):
    with pytest.raises(UsageError, match="1 or more"):
        run_demo(tmp_path, pictures=0)
    with pytest.raises(UsageError, match="not known"):
        run_demo(tmp_path, methods=["clearclop"])


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "cache"))
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(clearclip.ClearclipError, match="cannot be used"):
        run_demo(blocker / "out", pictures=1, methods=["clearclip"], device="cpu")


def test_comparison_has_a_column_a_method():
    scene = make_scene(0, size=(64, 80))
    maps = [scene.label_map.astype(np.int32)] * 2
    narrow = draw_comparison([scene], [maps[:1]], titles=["A"])
    wide = draw_comparison([scene, scene], [maps, maps], titles=["A", "B"])
    assert wide.width > narrow.width
    assert wide.height > narrow.height
    assert max(len(name) for name in CLASSES) < 20


def test_gem_is_fitted_to_shallow_models():
    assert fit_depth("gem", blocks=4).spelling == "gem[depth=2]"
    assert fit_depth("gem", blocks=12).spelling == "gem"
    assert fit_depth("clearclip", blocks=4).spelling == "clearclip"
