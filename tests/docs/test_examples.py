"""The examples in docstrings: all are run, with `clearclip` and the small model as `segmenter` at hand."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import clearclip

SOURCE = Path(clearclip.__file__).parent
MODULES = [
    ".".join(("clearclip", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(SOURCE.rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu")


@pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tiny):
    found = doctest.testmod(importlib.import_module(name), extraglobs={"clearclip": clearclip, "segmenter": tiny})
    assert found.attempted
    assert not found.failed
