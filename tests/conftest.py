"""What every test may use: no network, a text cache of its own, the shared facts, tiny models, the command line."""

from __future__ import annotations

import os

# The libraries read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import clearclip
import tiny_models
from clearclip import attention, methods
from clearclip.classify import maps
from clearclip.encode import stitch

ROOT = Path(__file__).parents[1]
settings.register_profile("clearclip", deadline=None)  # no test asserts a time
settings.load_profile("clearclip")
torch.set_num_threads(1)  # tiny tensors gain nothing from more, and two test runs get in each other's way


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise OSError(f"a test asked for the network ({address})")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: refuse(None, "a name"))


@pytest.fixture(autouse=True)
def registered():
    """Kinds and stages that a test registers, the docs' examples among them, leave with it."""
    tables = (attention.KINDS, maps.STAGES, stitch.STAGES)
    names = (methods.KINDS, methods.WINDOW_STAGES, methods.STITCHED_STAGES)
    before = [kept.copy() for kept in (*tables, *names)]
    yield
    for kept in (*tables, *names):
        kept.clear()
    for table in tables:
        table.update(before.pop(0))
    for listed in names:
        listed.extend(before.pop(0))


@pytest.fixture(autouse=True)
def text_cache(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLEARCLIP_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared():
    folder = Path(os.environ.get("CLEARCLIP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared folder at {folder} (set CLEARCLIP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def clip_model():
    """open_clip's CLIP: eight blocks (GEM fits), 32 pixels of 8-pixel patches, CLIP's own vocabulary."""
    return tiny_models.open_clip_model()


@pytest.fixture(scope="session")
def backbone(clip_model):
    return clearclip.view(clip_model)


@pytest.fixture(scope="session")
def segmenter(backbone):
    return clearclip.Segmenter(
        backbone, device="cpu", dtype="float32", templates="a photo of a {}.", cache=False, show_progress=False
    )


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, clip_model):
    """The same model as open_clip saves it."""
    return tiny_models.save_open_clip(clip_model, tmp_path_factory.mktemp("models") / "open clip ünïcode")


@pytest.fixture(scope="session")
def word_pieces(tmp_path_factory):
    """A small BERT tokenizer folder with `[DEC]` and `[ENC]`."""
    return tiny_models.save_word_pieces(tmp_path_factory.mktemp("words") / "bert")


@pytest.fixture(scope="session")
def blip_model():
    return tiny_models.blip_model()


@pytest.fixture
def picture():
    """Makes `(H, W, 3)` noise."""

    def make(height=40, width=56, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def photo(tmp_path, picture):
    """Writes a picture of noise and gives its path."""

    def write(name="photo.png", height=40, width=56, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(height, width, seed)).save(path)
        return path

    return write


@dataclass
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process, as its console script does; a traceback fails the test."""

    def call(*arguments):
        from clearclip.cli import main

        monkeypatch.setattr(sys, "argv", ["clearclip", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()  # what a test's own preparations printed
        code = 0
        with warnings.catch_warnings():
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
        captured = capsys.readouterr()
        return Ran(int(code), captured.out, captured.err)

    return call
