"""What stands where on the page: Gradio's components and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from clearclip.checkpoints import CHECKPOINTS
from clearclip.methods import METHODS
from clearclip.service.request import RESIDUALS
from clearclip.studio import html
from clearclip.studio.controls import asset, label_list, picture, viewer
from clearclip.studio.scenes import VOCABULARIES
from clearclip.studio.settings import PROMPTS, Studio

COMPARED = ("vanilla", "maskclip", "sclip", "gem", "clearclip")
OWN_WORDS = "the words below"
RESIDUAL_CHOICES = [
    ("as the method has it", RESIDUALS[0]),
    ("keep", RESIDUALS[1]),
    ("drop", RESIDUALS[2]),
    ("keep without its strongest channels (β)", RESIDUALS[3]),
]


class Layout:
    """The components as attributes."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.models = studio.models
        defaults = studio.defaults()
        self.saved = gr.BrowserState({}, storage_key="clearclip-studio", secret="clearclip-studio")
        self.tab = gr.State("segment")
        self.inspected = gr.State(None)
        self.head = gr.HTML(
            '<header class="cc-head"><h1>clearclip</h1><p>Your words become masks, pixel by pixel, without training '
            "anything.</p></header>",
            js_on_load=asset("guard.js"),
            most_image=self.models.limits.upload_bytes,
            most_example=self.models.limits.example_bytes,
            apply_default_css=False,
        )
        with gr.Row(equal_height=False, elem_id="page"):
            with gr.Column(scale=3, min_width=340, elem_id="controls"):
                self._build_controls(defaults)
            with gr.Column(scale=7, min_width=340, elem_id="results"):
                self.status = gr.HTML(html.hint("Loading…"), apply_default_css=False, elem_id="status")
                with gr.Tabs(elem_id="tabs"):
                    self._build_tabs(defaults)

    def _build_controls(self, defaults: Mapping[str, Any]) -> None:
        limits = self.models.limits
        self.image = picture(
            sources=["upload", "clipboard", "webcam"],
            height=210,
            buttons=["fullscreen"],
            elem_id="image",
            placeholder=f"Drop or paste an image here, or click\nup to {limits.upload_bytes / 1_000_000:g} MB",
            alt_text="The image to label",
        )
        self.gallery = gr.Gallery(
            [str(scene.path) for scene in self.studio.scenes],
            label="Or try a generated scene",
            columns=4,
            height="auto",
            allow_preview=False,
            object_fit="cover",
            buttons=[],
            interactive=False,
            elem_id="scenes",
        )
        with gr.Group():
            self.labels = label_list(defaults["labels"], most=limits.labels, elem_id="labels", padding=True)
        with gr.Accordion("Method and model", open=True, elem_id="method-and-model"):
            self.method = gr.Dropdown(
                list(METHODS),
                value=defaults["method"],
                label="Method",
                info="Or a spelling of your own, such as clearclip[residual=beta:30]",
                allow_custom_value=True,
                elem_id="method",
            )
            self.residual = gr.Dropdown(
                RESIDUAL_CHOICES, value=defaults["residual"], label="Residual of the last block", elem_id="residual"
            )
            self.beta = gr.Slider(
                0,
                100,
                value=defaults["beta"],
                step=1,
                label="β: strongest channels to drop, in %",
                visible=False,
                elem_id="beta",
            )
            self.model = gr.Dropdown(
                _model_choices(self.models.sources), value=defaults["model"], label="Model", elem_id="model"
            )
            self.device = gr.Dropdown(
                list(self.models.devices),
                value=defaults["device"],
                label="Device",
                visible=len(self.models.devices) > 1,
                elem_id="device",
            )
        with gr.Accordion("Background and prompts", open=False, elem_id="background-and-prompts"):
            self.threshold = gr.Slider(
                0,
                1,
                value=defaults["threshold"],
                step=0.01,
                label="Background below this probability",
                info="0: every pixel gets one of the labels",
                elem_id="threshold",
            )
            self.background = gr.Textbox(
                value=defaults["background"], label="Name of the background", max_lines=1, elem_id="background"
            )
            self.presence = gr.Dropdown(
                ["none", "weak:0.2", "freecp", "freecp-filter"],
                value=defaults["presence"],
                label="Which labels compete",
                info="none: all; weak:P: those that reach the probability P somewhere; freecp: those FreeCP keeps",
                allow_custom_value=True,
                elem_id="presence",
            )
            self.templates = gr.Dropdown(
                [PROMPTS, "a photo of a {}.", "a picture of a {}.", "{}"],
                value=defaults["templates"],
                label="Prompts",
                info="{} is the label's place; write your own",
                allow_custom_value=True,
                elem_id="templates",
            )
        with gr.Row(elem_id="examples"):
            self.save_example = gr.Button("Save example", size="sm", elem_id="save-example")
            self.load_example = gr.UploadButton("Load example", file_types=[".json"], size="sm", elem_id="load-example")
        self.example_file = gr.DownloadButton("Example file", visible="hidden", elem_id="cc-example-file")

    def _build_tabs(self, defaults: Mapping[str, Any]) -> None:
        self.tabs: dict[str, gr.Tab] = {}
        with gr.Tab("Segment", id="segment") as self.tabs["segment"]:
            self.viewer = viewer(elem_id="viewer")
            self.opacity = gr.Slider(
                0, 1, value=defaults["opacity"], step=0.01, label="Opacity of the colours", elem_id="opacity"
            )
            self.ranking = gr.HTML(
                html.hint("Click a pixel, or move with the arrow keys and press Enter: all labels there, ranked."),
                apply_default_css=False,
                elem_id="ranking",
            )
        with gr.Tab("Compare", id="compare") as self.tabs["compare"]:
            self.methods = gr.Dropdown(
                list(METHODS),
                value=list(COMPARED),
                multiselect=True,
                allow_custom_value=True,
                max_choices=self.models.limits.methods,
                label="Methods side by side",
                info="Add any spelling: vanilla[residual=drop], clearclip[attention=kk] …",
                elem_id="methods",
            )
            self.comparison = gr.HTML(apply_default_css=False, elem_id="comparison")
        with gr.Tab("Heat maps", id="heat") as self.tabs["heat"]:
            self.relative = gr.Checkbox(
                True, label="Each map from its own lowest to its own highest value", elem_id="relative"
            )
            self.heat = gr.HTML(apply_default_css=False, elem_id="heat")
        with gr.Tab("Inspect", id="inspect") as self.tabs["inspect"]:
            self._build_inspect()
        with gr.Tab("What else is here", id="search") as self.tabs["search"]:
            self._build_search()
        with gr.Tab("Export", id="export") as self.tabs["export"]:
            self.make_files = gr.Button("Make the files", variant="primary", elem_id="make-files")
            self.made = gr.Files(label="Label map, overlay, JSON with polygons, the image", elem_id="made")
            self.command = gr.Code(
                label="The same on the command line", language="shell", wrap_lines=True, elem_id="command"
            )
            self.python = gr.Code(label="The same from Python", language="python", wrap_lines=True, elem_id="python")

    def _build_inspect(self) -> None:
        with gr.Row():
            self.parts_of = gr.Dropdown(
                [name for name, row in METHODS.items() if row.depth == 1 and not row.reads_blocks],
                value="vanilla",
                label="Whose attention and residual",
                allow_custom_value=True,
                elem_id="parts-of",
            )
            self.show = gr.Radio(
                ["one channel", "norm of all channels"], value="one channel", label="Show", elem_id="show"
            )
        self.channel = gr.Slider(0, 767, value=0, step=1, label="Channel", elem_id="channel")
        with gr.Row():
            self.peaks = [
                gr.Button(f"Peak channel of {part}", size="sm", elem_id=f"peak-{part}")
                for part in ("X_res", "X_attn", "X_sum")
            ]
        self.parts = gr.HTML(apply_default_css=False, elem_id="parts")
        self.numbers = gr.Dataframe(
            headers=list(html.NUMBER_HEADERS), label="The last block in numbers", interactive=False, elem_id="numbers"
        )
        self.chart = gr.HTML(apply_default_css=False, elem_id="chart")

    def _build_search(self) -> None:
        limits = self.models.limits
        self.vocabulary = gr.Dropdown(
            [*VOCABULARIES, OWN_WORDS], value=next(iter(VOCABULARIES)), label="Vocabulary", elem_id="vocabulary"
        )
        self.words = gr.Textbox(
            label="Words of your own",
            info=f"One a line or between commas, at most {limits.words}; synonyms as in person=man|woman",
            placeholder="lighthouse\nboat=ship|yacht",
            lines=4,
            max_lines=12,
            elem_id="words",
        )
        self.word_file = gr.UploadButton(
            "Or a label file",
            file_types=[".txt", ".csv", ".json", ".yaml", ".yml", "text"],
            size="sm",
            elem_id="word-file",
        )
        self.look = gr.Button("What else is here?", variant="primary", elem_id="look")
        self.found = gr.CheckboxGroup([], label="Found, with its share of the area", elem_id="found")
        self.add_found = gr.Button("Add the chosen ones to the labels", size="sm", elem_id="add-found")

    @property
    def inputs(self) -> set[Any]:
        """What a refresh reads."""
        shown = (self.methods, self.relative, self.parts_of, self.show, self.channel)
        return {self.image, self.tab, self.inspected, *shown, *self.settings.values()}

    @property
    def outputs(self) -> list[Any]:
        """What a refresh may write."""
        inspection = [self.parts, self.numbers, self.chart, self.channel, self.inspected]
        results = [self.viewer, self.comparison, self.heat, *inspection, self.command, self.python]
        return [self.status, *results, self.saved, self.beta]

    @property
    def settings(self) -> dict[str, Any]:
        """The controls of `Studio.defaults`, by the same names."""
        return {name: getattr(self, name) for name in self.studio.defaults()}


def _model_choices(models: Mapping[str, str]) -> list[tuple[str, str]]:
    choices = []
    for name in models:
        row = CHECKPOINTS.get(name)
        choices.append((f"{name} · {row.about} · {row.license}" if row else name, name))
    return choices
