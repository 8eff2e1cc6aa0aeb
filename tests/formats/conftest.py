"""Runs label maps through any format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from clearclip import Segmentation
from clearclip.formats import Choices, Run, Writer, get_formats
from format_cases import INFO, LABEL_MAPS, NAMES, make


@dataclass
class Written:
    """A run's folder, its images' folder and what is in them."""

    folder: Path
    images: Path
    results: dict[str, Segmentation]
    records: list[dict]


@pytest.fixture
def write(tmp_path):
    """Writes some label maps in some formats, and their images beside, whose names are `<stem>.png`."""

    def call(*formats, label_maps=LABEL_MAPS, names=NAMES, choices=None, background=None, folder="out"):
        out, images = tmp_path / folder, tmp_path / "images"
        out.mkdir()
        images.mkdir(exist_ok=True)
        results = {stem: make(label_map, names, background=background) for stem, label_map in label_maps.items()}
        vocabulary = next(iter(results.values())).vocabulary
        writer = Writer(get_formats(formats), Run(out, vocabulary, INFO, choices or Choices()))
        writer.check()
        records = []
        for stem, result in sorted(results.items()):
            Image.fromarray(result.image).save(images / f"{stem}.png")
            assert not writer.complete(stem, None)
            records.append(writer.write(result, stem=stem, source=str(images / f"{stem}.png")))
            assert writer.complete(stem, records[-1])
        for file in writer.finish(lambda: iter(records)):
            assert file.is_file()
        return Written(out, images, results, records)

    return call
