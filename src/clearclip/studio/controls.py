"""Gradio components of our own: the image as an untouched file, the list of labels, the viewer."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

from clearclip.studio.html import hex_color
from clearclip.vocabulary import distinct_colors


def asset(name: str) -> str:
    """Text of a file in `assets`."""
    return (files("clearclip.studio") / "assets" / name).read_text(encoding="utf-8")


def picture(label: str = "Image", **options: Any) -> gr.Image:
    """An image for listeners with `preprocess=False`: they get the file as it came, and check its size themselves."""
    return gr.Image(label=label, type="filepath", image_mode=None, **options)


LABELS_HTML = """<div class="cc-labels-title" id="cc-labels-title">Labels</div>
<ul class="cc-labels" aria-labelledby="cc-labels-title"></ul>
<div class="cc-labels-foot"><button type="button" class="cc-add">+ Add a label</button>
<button type="button" class="cc-clear">Remove all</button><span class="cc-labels-count"></span></div>"""

VIEWER_HTML = """<div class="cc-view">
<div class="cc-stage" tabindex="0" role="application" aria-label="Segmented image" hidden>
<img class="cc-photo" alt="The image"><canvas class="cc-colors" aria-hidden="true"></canvas>
<div class="cc-cross" hidden></div><div class="cc-tip" hidden></div></div>
<ul class="cc-legend" aria-label="Labels by their share of the area; press one to see it alone" hidden></ul>
<div class="cc-empty">Choose an image and write at least one label.</div></div>"""


def label_list(value: list[dict[str, Any]], *, most: int, **options: Any) -> gr.HTML:
    """An editable list of labels, `{name, synonyms, color}` each; `most` is the limit that its counter shows."""
    return gr.HTML(
        value,
        label="Labels",
        html_template=LABELS_HTML,
        js_on_load=asset("labels.js"),
        apply_default_css=False,
        most=most,
        palette=[hex_color(color) for color in distinct_colors(most)],
        **options,
    )


def viewer(**options: Any) -> gr.HTML:
    """The image with its labels' colours; its value is `html.viewer_value`, its `select` brings `x` and `y`, 0–1."""
    return gr.HTML(
        None,
        label="Segmented image",
        html_template=VIEWER_HTML,
        js_on_load=asset("viewer.js"),
        apply_default_css=False,
        **options,
    )
