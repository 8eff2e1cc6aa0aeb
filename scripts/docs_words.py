"""Make the pictures of docs/words.md anew: `python scripts/docs_words.py` writes `docs/images/words-*.png`.

Belongs here: which words each picture compares. Does not: drawing (`clearclip.files.drawing`), the results page
(`docs_results.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import typer
from PIL import Image, ImageDraw

import clearclip
from clearclip import Segmentation, Vocabulary
from clearclip.files.lettering import write
from clearclip.scenes import CLASSES, COLOURS, PALETTE, make_scene

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
AWAY = ("airplane", "balloon", "boat", "bus", "car", "house", "sheep", "umbrella", "bird")
"""Things that are not in the scene."""
LONG = [*CLASSES, *(f"{colour} {thing}" for thing in AWAY for colour in COLOURS)]


def pictures(segmenter: clearclip.Segmenter) -> Iterator[tuple[str, list[tuple[str, Segmentation]]]]:
    """Names of pictures, and what stands side by side in each."""
    encoded = segmenter.encode(make_scene(0).image)

    def ask(labels: list[str], background: str = "none", **options: Any) -> Segmentation:
        vocabulary = Vocabulary.parse([coloured(label) for label in labels], background=background)
        return cast(Segmentation, segmenter.classify(encoded, vocabulary, **options))

    yield "alone", [("person alone", ask(["person"])), ("words beside it", ask(["person"], "auto"))]
    few = ["sky", "person"]
    yield (
        "background",
        [
            ("sky, person", ask(few)),
            ("threshold 0.95", ask(few, "background", threshold=0.95)),
            ("auto", ask(few, "auto")),
        ],
    )
    yield (
        "presence",
        [
            ("30 words", ask(list(CLASSES))),
            ("and 72 more", ask(LONG)),
            ("weak:0.5", ask(LONG, presence="weak:0.5")),
            ("freecp-filter", ask(LONG, presence="freecp-filter")),
        ],
    )
    yield (
        "synonyms",
        [
            ("plant, sky, ground", ask(["plant", "sky", "ground"])),
            ("plant=tree|pine|bush", ask(["plant=tree|pine|bush", "sky", "ground=grass|sand|snow|road|dirt"])),
        ],
    )


def coloured(label: str) -> str:
    """A label with its thing's colour, so that it has the same one in all panels."""
    words = label.replace("=", " ").replace("|", " ").split()
    known = [CLASSES.index(word) for word in words if word in CLASSES]
    return f"{label} @#{bytes(PALETTE[known[-1]].tolist()).hex()}" if known else label


def beside(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures side by side on white, each below its title."""
    gap, head = 8, 28
    width = sum(picture.width + gap for _, picture in panels) - gap
    sheet = Image.new("RGB", (width, head + max(picture.height for _, picture in panels)), "white")
    pen, left = ImageDraw.Draw(sheet), 0
    for title, picture in panels:
        write(pen, (left + 4, 4), title, size=17, fill=(20, 20, 20))
        sheet.paste(picture, (left, head))
        left += picture.width + gap
    return sheet


def main() -> None:
    """Draw all of them."""
    segmenter = clearclip.load("tiny", device="cpu", show_progress=False)
    for name, panels in pictures(segmenter):
        drawn = beside([(title, result.overlay()) for title, result in panels])
        file = IMAGES / f"words-{name}.png"
        drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
        print(file)


if __name__ == "__main__":
    typer.run(main)
