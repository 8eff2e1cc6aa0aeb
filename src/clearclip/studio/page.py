"""The page: its look, and which event calls what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from clearclip.studio.actions import Actions
from clearclip.studio.api import add_api
from clearclip.studio.controls import asset
from clearclip.studio.layout import Layout
from clearclip.studio.settings import Studio

SET_OPACITY = "(value) => { document.documentElement.style.setProperty('--cc-opacity', value); }"
SETTLED = "() => new Promise((done) => setTimeout(done, 0))"
"""Gradio's image tells that it changed before it has its new value."""
DOWNLOAD = "() => { setTimeout(() => document.getElementById('cc-example-file').click(), 50); }"
THEME = gr.themes.Soft(
    primary_hue="sky",
    secondary_hue="sky",
    neutral_hue="slate",
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    block_border_width="1px",
    block_border_color="*neutral_200",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_500",
    input_background_fill="white",
    button_secondary_border_color="*neutral_300",
    button_border_width="1px",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    color_accent="*primary_700",
    link_text_color="*primary_700",
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_text_color="*body_text_color",
    block_title_padding="0",
    block_label_background_fill="*block_background_fill",
    block_label_background_fill_dark="*block_background_fill",
    block_label_text_color="*body_text_color",
)
STYLE = asset("studio.css")


def build(studio: Studio) -> gr.Blocks:
    """Make the page and the API, for Gradio to launch."""
    blocks = gr.Blocks(title="clearclip studio", analytics_enabled=False, delete_cache=(600, 6 * 3600), fill_width=True)
    with blocks:
        with gr.Column(visible=False):  # Gradio has its parameters drawn on the page as well
            add_api(studio)  # first, for the names of its endpoints
        layout = Layout(studio)
        _wire(blocks, layout, Actions(studio, layout))
    return blocks


def _wire(blocks: gr.Blocks, on: Layout, does: Actions) -> None:
    settings = on.settings
    private: dict[str, Any] = {"api_visibility": "private"}
    raw: dict[str, Any] = {**private, "preprocess": False}  # files are opened by us, and nothing is believed
    heavy: dict[str, Any] = {**raw, "concurrency_id": "model", "concurrency_limit": on.models.limits.concurrency}
    refresh: dict[str, Any] = {
        **heavy,
        "fn": does.refresh,
        "inputs": on.inputs,
        "outputs": on.outputs,
        "show_progress": "minimal",
        "show_progress_on": [on.status],
    }
    restored = [on.image, *settings.values(), on.beta]
    blocks.load(does.restore, [on.saved], list(dict.fromkeys(restored)), show_progress="hidden", **private).then(
        **refresh
    ).then(None, [on.opacity], None, js=SET_OPACITY)
    controls = (
        *(on.labels, on.model, on.device, on.method, on.residual, on.beta, on.threshold, on.templates, on.presence),
        *(on.methods, on.relative, on.parts_of, on.show, on.channel),
    )
    changed = [*(control.input for control in controls), on.background.submit, on.background.blur]
    gr.on(changed, trigger_mode="always_last", **refresh)
    gr.on([on.image.input, on.image.clear], None, js=SETTLED).then(**refresh)
    on.head.select(does.too_large, None, on.status, show_progress="hidden", queue=False, **private)
    on.opacity.input(None, [on.opacity], None, js=SET_OPACITY)
    on.opacity.release(**refresh)
    for name, tab in on.tabs.items():
        tab.select(_constant(name), None, on.tab, show_progress="hidden", queue=False, **private).then(**refresh)
    on.gallery.select(
        does.choose_scene, None, [on.image, on.labels], show_progress="hidden", queue=False, **private
    ).then(**refresh)
    for part, button in zip(("X_res", "X_attn", "X_sum"), on.peaks, strict=True):
        button.click(partial(does.peak, part), on.inputs, [on.channel, on.show], show_progress="hidden", **heavy).then(
            **refresh
        )
    on.viewer.select(does.rank, on.inputs, on.ranking, show_progress="hidden", trigger_mode="always_last", **heavy)
    on.look.click(does.search, {*on.inputs, on.vocabulary, on.words}, [on.found, on.status], **heavy)
    on.word_file.upload(does.read_file, on.word_file, [on.words, on.vocabulary, on.status], **raw)
    on.add_found.click(does.add, [on.labels, on.found], [on.labels, on.status], show_progress="hidden", **raw).then(
        **refresh
    )
    on.make_files.click(does.export, on.inputs, [on.made, on.status], **heavy)
    on.save_example.click(
        does.write_example, on.inputs, [on.example_file, on.status], show_progress="hidden", **raw
    ).success(None, None, None, js=DOWNLOAD)
    on.load_example.upload(does.read_example, on.load_example, [*dict.fromkeys(restored), on.status], **raw).then(
        **refresh
    ).then(None, [on.opacity], None, js=SET_OPACITY)


def _constant(value: str) -> Callable[[], str]:
    return lambda: value
