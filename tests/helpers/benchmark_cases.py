"""A small CLIP with random weights that reads words, pairs of a benchmark's folder, and ways to damage them."""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import clearclip

HELPERS = Path(__file__).parent


def small_segmenter(**options):
    """Eight blocks, so that GEM's depth of six fits; random weights from a fixed seed."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            embed_dim=32,
            vision_cfg={"image_size": 32, "layers": 8, "width": 64, "head_width": 16, "patch_size": 8},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        )
    backbone = clearclip.view(model)
    options = {"method": "clearclip", "device": "cpu", "dtype": "float32", "templates": "a photo of a {}.", **options}
    return clearclip.Segmenter(backbone, cache=False, show_progress=False, **options)


def typed(monkeypatch, load):
    """Types a command line in this process; `load` stands in for `clearclip.segmenter.load`."""
    from typer.testing import CliRunner

    from clearclip.cli import app, options

    monkeypatch.setattr(options, "prepare", lambda **_: None)
    monkeypatch.setattr(logging.getLogger("clearclip"), "handlers", [options._Lines(as_json=False)])
    monkeypatch.setattr("clearclip.segmenter.load", load)

    def invoke(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def write_pair(image: Path, labels: Path, label_map, *, seed=0):
    """A photograph of noise and its label map."""
    label_map = np.asarray(label_map, dtype=np.uint8)
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    Image.fromarray(label_map).save(labels)


def break_labels(voc):
    path = voc / "SegmentationClass/2007_000003.png"
    labels = np.array(Image.open(path))
    labels[0, :3] = (21, 200, 21)
    Image.fromarray(labels).save(path)


def break_text(voc):
    (voc / "SegmentationClass/2007_000003.png").write_text("not a picture")


def break_image(voc):
    path = voc / "JPEGImages/2007_000003.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_size(voc):
    Image.new("L", (6, 5)).save(voc / "SegmentationClass/2007_000003.png")
