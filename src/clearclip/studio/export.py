"""What a visitor takes away: files, a state to share, and the lines that give the same result elsewhere.

Belongs here: results and requests → files and texts. Does not: Gradio, models, the page.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearclip import __version__
from clearclip.errors import UsageError
from clearclip.files.label_maps import save_image
from clearclip.files.reading import read_bytes
from clearclip.files.writing import atomic_write
from clearclip.formats.polygons import outlines
from clearclip.segmentation import Segmentation
from clearclip.service.request import Limits, Request, read_image, read_json
from clearclip.studio.html import hex_color
from clearclip.vocabulary import Label

STATE_KIND = "clearclip studio example"
NAME_LETTERS = 50  # of four bytes each: a file's name has 255, and gets an ending


@dataclass(frozen=True)
class Lines:
    """The same result without the studio: one command, and a few lines of Python."""

    command: str
    python: str


def lines(request: Request, *, image: str, source: str, method: str, device: str | None = None) -> Lines:
    """What to type for the same label map.

    Args:
        request: How the image was segmented.
        image: Name of the image's file.
        source: What `--model` takes.
        method: Spelling of the method that ran.
        device: Where it is not the default one.

    Returns:
        The command, for a POSIX shell, and the Python lines.
    """
    words = [label_text(label) for label in request.labels]
    thresholded = request.threshold is not None
    command = ["clearclip", "segment", image if not image.startswith("-") else f"./{image}"]
    for word in words:
        command += ["-l", word]
    if thresholded:
        command += ["--background", request.background, "--threshold", f"{request.threshold:g}"]
    command += ["--model", source, "--method", method]
    for template in request.templates or ():
        command += ["--template", template]
    if device:
        command += ["--device", device]
    load = [repr(source), f"method={method!r}"]
    if request.templates:
        load.append(f"templates={list(request.templates)!r}")
    if device:
        load.append(f"device={device!r}")
    labels = repr(words)
    if thresholded:
        labels = f"clearclip.Vocabulary.parse({words!r}, background={request.background!r})"
    call = [repr(image), "labels"] + ([f"threshold={request.threshold:g}"] if thresholded else [])
    stem = Path(image).stem
    python = "\n".join(
        (
            "import clearclip",
            "",
            f"segmenter = clearclip.load({', '.join(load)})",
            f"labels = {labels}",
            f"result = segmenter({', '.join(call)})",
            f"result.save({f'{stem}.labels.png'!r})",
            f"result.overlay().save({f'{stem}.overlay.png'!r})",
        )
    )
    return Lines(shlex.join([*command, "-o", "results"]), python)


def label_text(label: Label) -> str:
    """A label as the command line and label files write it.

    Args:
        label: The label.

    Returns:
        A text that `Label.parse` reads.

    Raises:
        UsageError: The name holds `=`, `|` or `@#`, which the text form cannot carry.
    """
    text = label.name + (f"={'|'.join(label.synonyms)}" if label.synonyms else "")
    text += f" @{hex_color(label.color)}" if label.color else ""
    if Label.parse(text) != label:
        raise UsageError(
            f"label {label.name!r}: '=', '|' and '@#' have a meaning of their own in labels, leave them out"
        )
    return text


def write_files(result: Segmentation, folder: Path, *, stem: str, opacity: float) -> list[Path]:
    """The label map, the overlay with its legend, and everything as JSON.

    Args:
        result: At the image's own size.
        folder: Where to; it exists.
        stem: Of the files' names.
        opacity: Of the overlay's colours.

    Returns:
        The three files.

    Raises:
        OSError: The folder cannot be written.
    """
    label_map, overlay, record = (folder / f"{stem}.{kind}" for kind in ("labels.png", "overlay.png", "json"))
    result.save(label_map)
    save_image(result.overlay(opacity=opacity), overlay)
    with atomic_write(record) as partial:
        partial.write_text(json.dumps(as_record(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return [label_map, overlay, record]


def as_record(result: Segmentation) -> dict[str, Any]:
    """A segmentation as JSON: how it was made, and of every label its words, colour, share and polygons.

    Args:
        result: Of one image.

    Returns:
        JSON-able data; a polygon's rings are lists of `[x, y]` corners of pixels, the outer ring first.
    """
    height, width = result.label_map.shape
    entries = []
    for index, label in enumerate(result.vocabulary.labels):
        mask = result.label_map == index
        entries.append(
            {
                "index": index,
                "name": label.name,
                "queries": list(label.queries),
                "color": hex_color(result.palette[index]),
                "share": round(float(mask.mean()), 6),
                "polygons": outlines(mask),
            }
        )
    return {
        "height": height,
        "width": width,
        "background": result.vocabulary.background,
        "made": dict(result.info),
        "labels": entries,
    }


def example(settings: Mapping[str, Any], *, request: Request, image: Path, limits: Limits) -> str:
    """A file that shows someone else the same, as JSON: the image's own bytes and every setting.

    `settings` are the page's by name, `request` the same, checked. `ImageError` if the image is gone or too large.
    """
    picture = base64.b64encode(read_image(image, limits=limits)).decode()
    labels = [
        {
            "name": label.name,
            "synonyms": list(label.synonyms),
            "color": hex_color(label.color) if label.color else None,
        }
        for label in request.labels
    ]
    state = {
        "kind": STATE_KIND,
        "version": 1,
        "software": f"clearclip {__version__}",
        **settings,
        "labels": labels,
        "image": {"name": image.name, "base64": picture},
    }
    return json.dumps(state, ensure_ascii=False, indent=1) + "\n"


def read_example(path: Path, *, limits: Limits) -> tuple[dict[str, Any], str, bytes]:
    """Read such a file: its settings, which are checked when they are used, the image's plain file name and its bytes.

    `UsageError` if it is no such file, or too large.
    """
    try:
        state = read_json(read_bytes(path, limit=limits.example_bytes))
        if not isinstance(state, dict) or state.get("kind") != STATE_KIND:
            raise UsageError("choose a file that the studio's “Save example” made")
        picture = base64.b64decode(state["image"]["base64"], validate=True)
        name = str(state["image"]["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path.name} is no example of the studio: {error}") from error
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in Path(name[-200:]).name)
    return state, plain.strip(".")[-NAME_LETTERS:] or "image.png", picture
