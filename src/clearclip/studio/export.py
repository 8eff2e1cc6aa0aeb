"""What a visitor takes away: files, a state to share, and the lines that give the same result elsewhere."""

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
from clearclip.studio.html import hex_color, label_entry

STATE_KIND = "clearclip studio example"
ValueRange = tuple[float, float] | None
NAME_LETTERS = 50  # of four bytes each: a file's name has 255, and gets an ending


@dataclass(frozen=True)
class Lines:
    """The same result without the studio: one command, and a few lines of Python."""

    command: str
    python: str


def lines(
    request: Request,
    *,
    image: str,
    source: str,
    method: str,
    device: str | None = None,
    value_range: ValueRange = None,
) -> Lines:
    """What to type, in a POSIX shell or Python, for the same label map of an image file.

    `source` is what `--model` takes, `method` the spelling that ran; `device` and `value_range` are told where they are
    not the default ones.
    """
    words = [label.text for label in request.labels]
    thresholded = request.threshold is not None
    command = ["clearclip", "segment", image if not image.startswith("-") else f"./{image}"]
    for word in words:
        command += ["-l", word]
    if thresholded:
        command += ["--background", request.background, "--threshold", f"{request.threshold:g}"]
    command += ["--model", source, "--method", method]
    if request.presence != "none":
        command += ["--presence", request.presence]
    for template in request.templates or ():
        command += ["--template", template]
    if device:
        command += ["--device", device]
    if value_range:
        command += ["--range", "{!r}:{!r}".format(*value_range)]
    load = f"{source!r}, method={method!r}"
    load += f", templates={list(request.templates)!r}" if request.templates else ""
    load += f", device={device!r}" if device else ""
    load += f", value_range={value_range!r}" if value_range else ""
    labels, threshold = repr(words), ""
    if thresholded:
        labels = f"clearclip.Vocabulary.parse({words!r}, background={request.background!r})"
        threshold = f", threshold={request.threshold:g}"
    threshold += f", presence={request.presence!r}" if request.presence != "none" else ""
    stem = Path(image).stem
    python = (
        f"import clearclip\n\nsegmenter = clearclip.load({load})\nlabels = {labels}\n"
        f"result = segmenter({image!r}, labels{threshold})\nresult.save({f'{stem}.labels.png'!r})\n"
        f"result.overlay().save({f'{stem}.overlay.png'!r})"
    )
    return Lines(shlex.join([*command, "-o", "results"]), python)


def write_files(result: Segmentation, folder: Path, *, stem: str, opacity: float) -> list[Path]:
    """Write the label map, the overlay with its legend, and everything as JSON into an existing folder."""
    label_map, overlay, record = (folder / f"{stem}.{kind}" for kind in ("labels.png", "overlay.png", "json"))
    result.save(label_map)
    save_image(result.overlay(opacity=opacity), overlay)
    with atomic_write(record) as partial:
        partial.write_text(json.dumps(as_record(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return [label_map, overlay, record]


def as_record(result: Segmentation) -> dict[str, Any]:
    """A segmentation as JSON: how it was made, and of every label its words, colour, share and polygons.

    A polygon's rings are lists of `[x, y]` corners of pixels, the outer ring first, as `outlines` turns them.
    """
    height, width = result.label_map.shape
    absent = result.absent
    masks = (result.label_map == index for index in range(len(result.vocabulary.labels)))
    entries = [
        {
            "index": index, "name": label.name, "queries": list(result.vocabulary.queries_of(label)),
            "color": hex_color(result.palette[index]), "share": round(float(mask.mean()), 6),
            "polygons": outlines(mask),
            **({"absent": absent[label.name]} if label.name in absent else {}),
        }
        for index, (label, mask) in enumerate(zip(result.vocabulary.labels, masks, strict=True))
    ]  # fmt: skip
    head = {"height": height, "width": width, "background": result.vocabulary.background, "made": dict(result.info)}
    return {**head, "labels": entries}


def example(settings: Mapping[str, Any], *, request: Request, image: Path, limits: Limits) -> str:
    """A file that shows someone else the same, as JSON: the image's own bytes and every setting.

    `settings` are the page's by name, `request` the same, checked. `ImageError` if the image is gone or too large.
    """
    picture = base64.b64encode(read_image(image, limits=limits)).decode()
    labels = [label_entry(label) for label in request.labels]
    state = {
        "kind": STATE_KIND, "version": 1, "software": f"clearclip {__version__}", **settings,
        "labels": labels, "image": {"name": image.name, "base64": picture},
    }  # fmt: skip
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
