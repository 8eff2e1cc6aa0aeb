"""The page: what stands where, and what happens when something changes.

Belongs here: layout and events. Does not: anything that could be tested without a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import ClearclipError, UsageError
from clearclip.methods import METHODS, parse_method, parse_methods
from clearclip.studio import export, pictures
from clearclip.studio.api import add_api
from clearclip.studio.controls import asset, label_list, picture, uploaded, viewer
from clearclip.studio.engine import Engine
from clearclip.studio.files import Files
from clearclip.studio.request import (
    BACKGROUND,
    RESIDUALS,
    Request,
    read_request,
    read_word_file,
    read_words,
    with_residual,
)
from clearclip.studio.scenes import VOCABULARIES, SceneFile, vocabulary_words
from clearclip.vocabulary import Label

PROMPTS = "the paper's 80 prompts"
OPACITY = 0.55
COMPARED = ("vanilla", "maskclip", "sclip", "gem", "clearclip")
OWN_WORDS = "the words below"
HEAT_MAPS = 24
LEAST_FOUND = 0.002
RESIDUAL_CHOICES = [
    ("as the method has it", RESIDUALS[0]),
    ("keep", RESIDUALS[1]),
    ("drop", RESIDUALS[2]),
    ("keep without its strongest channels (β)", RESIDUALS[3]),
]
SET_OPACITY = "(value) => { document.documentElement.style.setProperty('--cc-opacity', value); }"
DOWNLOAD = "() => { setTimeout(() => document.getElementById('cc-example-file').click(), 50); }"
THEME = gr.themes.Soft(
    primary_hue="sky",
    secondary_hue="sky",
    neutral_hue="slate",
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_text_color="*body_text_color",
    block_title_padding="0",
    block_label_background_fill="*block_background_fill",
    block_label_background_fill_dark="*block_background_fill",
    block_label_text_color="*body_text_color",
)


@dataclass
class Studio:
    """What the page's functions need.

    Attributes:
        engine: Models and kept features.
        scenes: The gallery.
        files: Where results are written for download.
    """

    engine: Engine
    scenes: Sequence[SceneFile]
    files: Files

    @property
    def default_model(self) -> str:
        """The first of the allowed models."""
        return next(iter(self.engine.models))

    def defaults(self) -> dict[str, Any]:
        """The settings of a first visit."""
        return {
            "labels": [_entry(label) for label in self.scenes[0].labels],
            "model": self.default_model,
            "device": self.engine.devices[0],
            "method": "clearclip",
            "residual": RESIDUALS[0],
            "beta": 30,
            "threshold": 0,
            "background": BACKGROUND,
            "templates": PROMPTS,
            "opacity": OPACITY,
        }

    def request(self, settings: Mapping[str, Any]) -> Request:
        """The settings of the page's controls as a request.

        Args:
            settings: By the names of `defaults`.

        Returns:
            The request.

        Raises:
            UsageError: Something cannot be used.
        """
        template = settings["templates"]
        return read_request(
            settings["labels"],
            limits=self.engine.limits,
            model=settings["model"],
            method=with_residual(settings["method"], settings["residual"], settings["beta"]),
            threshold=settings["threshold"] or None,
            background=settings["background"],
            templates=None if not template or template == PROMPTS else [template],
            device=settings["device"],
        )

    def lines(self, request: Request, *, image: str, method: str) -> export.Lines:
        """The command and the Python lines of a request.

        Args:
            request: The request.
            image: Name of the image's file.
            method: Spelling of the method that ran.

        Returns:
            Them.
        """
        device = request.device if request.device != self.engine.devices[0] else None
        source = self.engine.models[request.model]
        return export.lines(request, image=image, source=source, method=method, device=device)


def _entry(label: Label) -> dict[str, Any]:
    color = pictures.hex_color(label.color) if label.color else None
    return {"name": label.name, "synonyms": list(label.synonyms), "color": color}


def _model_choices(models: Mapping[str, str]) -> list[tuple[str, str]]:
    choices = []
    for name in models:
        row = CHECKPOINTS.get(name)
        choices.append((f"{name} · {row.about} · {row.license}" if row else name, name))
    return choices


def build(studio: Studio) -> gr.Blocks:
    """Make the page and the API.

    Args:
        studio: Engine, gallery, files.

    Returns:
        What Gradio launches.
    """
    blocks = gr.Blocks(title="clearclip studio", analytics_enabled=False, delete_cache=(600, 6 * 3600), fill_width=True)
    with blocks:
        add_api(studio.engine, studio.files)  # first, for the names of its endpoints
        _Page(studio, blocks)
    return blocks


class _Page:
    """Components as attributes, and the functions that their events call."""

    def __init__(self, studio: Studio, blocks: gr.Blocks) -> None:
        self.studio = studio
        self.blocks = blocks
        self.engine = studio.engine
        defaults = studio.defaults()
        self.saved = gr.BrowserState({}, storage_key="clearclip-studio", secret="clearclip-studio")
        self.tab = gr.State("segment")
        self.inspected = gr.State(None)
        gr.HTML(
            '<header class="cc-head"><h1>clearclip</h1><p>Your words become masks, pixel by pixel, without training '
            "anything.</p></header>",
            apply_default_css=False,
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=340):
                self._build_controls(defaults)
            with gr.Column(scale=7, min_width=340):
                self.status = gr.HTML(pictures.hint("Loading…"), apply_default_css=False, elem_id="status")
                with gr.Tabs(elem_id="tabs"):
                    self._build_tabs(defaults)
        self._wire()

    # Layout

    def _build_controls(self, defaults: Mapping[str, Any]) -> None:
        limits = self.engine.limits
        self.image = picture(
            sources=["upload", "clipboard", "webcam"],
            height=210,
            buttons=["fullscreen"],
            elem_id="image",
            placeholder=f"Drop an image here, or click\nup to {limits.upload_bytes // 1_000_000} MB",
            alt_text="The image to label",
        )
        self.gallery = gr.Gallery(
            [str(scene.path) for scene in self.studio.scenes],
            label="Or try a generated scene",
            columns=len(self.studio.scenes),
            rows=1,
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
                _model_choices(self.engine.models), value=defaults["model"], label="Model", elem_id="model"
            )
            self.device = gr.Dropdown(
                list(self.engine.devices),
                value=defaults["device"],
                label="Device",
                visible=len(self.engine.devices) > 1,
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
            self.templates = gr.Dropdown(
                [PROMPTS, "a photo of a {}.", "a picture of a {}.", "{}"],
                value=defaults["templates"],
                label="Prompts",
                info="{} is the label's place; write your own",
                allow_custom_value=True,
                elem_id="templates",
            )
        with gr.Row():
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
                pictures.hint("Click a pixel, or move with the arrow keys and press Enter: all labels there, ranked."),
                apply_default_css=False,
                elem_id="ranking",
            )
        with gr.Tab("Compare", id="compare") as self.tabs["compare"]:
            self.methods = gr.Dropdown(
                list(METHODS),
                value=list(COMPARED),
                multiselect=True,
                allow_custom_value=True,
                max_choices=self.engine.limits.methods,
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
            self.command = gr.Code(label="The same on the command line", language="shell", elem_id="command")
            self.python = gr.Code(label="The same from Python", language="python", elem_id="python")

    def _build_inspect(self) -> None:
        with gr.Row():
            self.parts_of = gr.Dropdown(
                [name for name, row in METHODS.items() if row.depth == 1],
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
            headers=list(pictures.NUMBER_HEADERS),
            label="The last block in numbers",
            interactive=False,
            elem_id="numbers",
        )
        self.chart = gr.HTML(apply_default_css=False, elem_id="chart")

    def _build_search(self) -> None:
        limits = self.engine.limits
        self.vocabulary = gr.Dropdown(
            [*VOCABULARIES, OWN_WORDS], value=next(iter(VOCABULARIES)), label="Vocabulary", elem_id="vocabulary"
        )
        self.words = gr.Textbox(
            label="Words of your own",
            info=f"One a line, at most {limits.words}; synonyms as in person=man|woman",
            lines=4,
            max_lines=12,
            elem_id="words",
        )
        self.word_file = gr.UploadButton(
            "Or a label file", file_types=[".txt", ".csv", "text"], size="sm", elem_id="word-file"
        )
        self.look = gr.Button("What else is here?", variant="primary", elem_id="look")
        self.found = gr.CheckboxGroup([], label="Found, with its share of the area", elem_id="found")
        self.add_found = gr.Button("Add the chosen ones to the labels", size="sm", elem_id="add-found")

    # Events

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "model": self.model,
            "device": self.device,
            "method": self.method,
            "residual": self.residual,
            "beta": self.beta,
            "threshold": self.threshold,
            "background": self.background,
            "templates": self.templates,
            "opacity": self.opacity,
        }

    def _wire(self) -> None:
        settings = self._settings
        self.inputs = {
            self.image,
            self.tab,
            self.inspected,
            self.methods,
            self.relative,
            self.parts_of,
            self.show,
            self.channel,
            *settings.values(),
        }
        self.outputs = [
            self.status,
            self.viewer,
            self.comparison,
            self.heat,
            self.parts,
            self.numbers,
            self.chart,
            self.channel,
            self.inspected,
            self.command,
            self.python,
            self.saved,
            self.beta,
        ]
        private: dict[str, Any] = {"api_visibility": "private"}
        raw: dict[str, Any] = {**private, "preprocess": False}  # the image's file is opened by us
        heavy: dict[str, Any] = {
            **raw,
            "concurrency_id": "model",
            "concurrency_limit": self.engine.limits.concurrency,
        }
        refresh: dict[str, Any] = {
            **heavy,
            "fn": self.refresh,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "show_progress": "minimal",
            "show_progress_on": [self.status],
        }
        restored = [self.image, *settings.values(), self.beta]
        self.blocks.load(
            self.restore, [self.saved], list(dict.fromkeys(restored)), show_progress="hidden", **private
        ).then(**refresh).then(None, [self.opacity], None, js=SET_OPACITY)
        changed = [
            self.labels.input,
            self.model.input,
            self.device.input,
            self.method.input,
            self.residual.input,
            self.beta.input,
            self.threshold.input,
            self.background.submit,
            self.background.blur,
            self.templates.input,
            self.methods.input,
            self.relative.input,
            self.parts_of.input,
            self.show.input,
            self.channel.input,
            self.image.input,
            self.image.clear,
        ]
        gr.on(changed, trigger_mode="always_last", **refresh)
        self.opacity.input(None, [self.opacity], None, js=SET_OPACITY)
        self.opacity.release(**refresh)
        for name, tab in self.tabs.items():
            tab.select(_constant(name), None, self.tab, show_progress="hidden", queue=False, **private).then(**refresh)
        self.gallery.select(
            self.choose_scene, None, [self.image, self.labels], show_progress="hidden", queue=False, **private
        ).then(**refresh)
        for part, button in zip(("X_res", "X_attn", "X_sum"), self.peaks, strict=True):
            button.click(
                _bound(self.peak, part), self.inputs, [self.channel, self.show], show_progress="hidden", **heavy
            ).then(**refresh)
        self.viewer.select(
            self.rank, self.inputs, self.ranking, show_progress="hidden", trigger_mode="always_last", **heavy
        )
        self.look.click(self.search, {*self.inputs, self.vocabulary, self.words}, [self.found, self.status], **heavy)
        self.word_file.upload(self.read_file, self.word_file, [self.words, self.vocabulary, self.status], **private)
        self.add_found.click(
            self.add, [self.labels, self.found], [self.labels], show_progress="hidden", **private
        ).then(**refresh)
        self.make_files.click(self.export, self.inputs, [self.made, self.status], **heavy)
        self.save_example.click(
            self.write_example, self.inputs, [self.example_file, self.status], show_progress="hidden", **raw
        ).success(None, None, None, js=DOWNLOAD)
        self.load_example.upload(
            self.read_example, self.load_example, [*dict.fromkeys(restored), self.status], **private
        ).then(**refresh).then(None, [self.opacity], None, js=SET_OPACITY)

    # What happens

    def refresh(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        """Show the active tab anew. The answer names the outputs that change; the others stay."""
        settings = self._read(data)
        always: dict[Any, Any] = {self.beta: gr.update(visible=settings["residual"] == RESIDUALS[3])}
        image = uploaded(data[self.image])
        if image is None:
            return {self.status: pictures.hint("Choose an image, or one of the scenes."), self.viewer: None, **always}
        always[self.saved] = {**settings, "image": str(image)}
        try:
            return {**self._show(image, settings, data, progress), **always}
        except ClearclipError as error:
            blank = {self.viewer: None} if data[self.tab] == "segment" else {}
            return {self.status: pictures.problem(str(error)), **blank, **always}

    def _show(
        self, image: Path, settings: Mapping[str, Any], data: Mapping[Any, Any], progress: gr.Progress
    ) -> dict[Any, Any]:
        request, tab = self.studio.request(settings), data[self.tab]

        def say(sentence: str) -> None:
            progress(0.3, desc=sentence)

        if tab == "inspect":
            return self._show_parts(image, request, data, say)
        rows = parse_methods(data[self.methods] or ()) if tab == "compare" else (request.method,)
        answer = self.engine.segment(image, request, methods=rows, say=say)
        result, ran = answer.first, list(answer.results)
        blocks = len(self.engine.model(request.model, request.device).backbone.blocks)
        notes = [
            f"{row.spelling} rewrites {row.depth} blocks and {request.model} has {blocks}: half of them are rewritten."
            for row in rows
            if row.depth > blocks
        ]
        what = ran[0] if len(rows) == 1 else f"{len(ran)} methods"
        status = pictures.status_line(answer, model=request.model, methods=what, notes=notes)
        shown: dict[Any, Any] = {self.status: status}
        if tab == "compare":
            shown[self.comparison] = pictures.comparison(answer.results, opacity=_share(settings["opacity"]))
        elif tab == "heat":
            names = [label.name for label in request.labels][:HEAT_MAPS]
            shown[self.heat] = pictures.heat_maps(result, names=names, relative=bool(data[self.relative]))
        elif tab == "export":
            lines = self.studio.lines(request, image=image.name, method=ran[0])
            shown |= {self.command: lines.command, self.python: lines.python}
        elif tab == "segment":
            shown[self.viewer] = pictures.viewer_value(result)
        return shown

    def _show_parts(
        self, image: Path, request: Request, data: Mapping[Any, Any], say: Callable[[str], None]
    ) -> dict[Any, Any]:
        seen = self.engine.inspect(image, request, method=parse_method(data[self.parts_of] or "vanilla"), say=say)
        count = seen.maps["X_res"].shape[-1]
        first = data[self.inspected] != request.model
        channel = seen.last["X_res"].peak_channel if first else _whole(data[self.channel], below=count)
        shown = channel if data[self.show] == "one channel" else None
        sentence = (
            f"{request.model}, the last of {len(seen.statistics) // 3} blocks, {seen.method}: X_sum = X_res + X_attn"
        )
        return {
            self.status: pictures.sentence(sentence),
            self.parts: pictures.inspection_maps(seen, channel=shown),
            self.numbers: pictures.inspection_numbers(seen),
            self.chart: pictures.channel_chart(seen, channel=shown),
            self.channel: gr.update(maximum=count - 1, value=channel),
            self.inspected: request.model,
        }

    def peak(self, part: str, data: dict[Any, Any]) -> tuple[Any, Any]:
        """The channel of a part with the highest mean magnitude."""
        try:
            image, request = self._ask(data)
            seen = self.engine.inspect(image, request, method=parse_method(data[self.parts_of] or "vanilla"))
        except ClearclipError:
            return gr.skip(), gr.skip()  # what is wrong is said by the refresh that follows
        return seen.last[part].peak_channel, "one channel"

    def rank(self, data: dict[Any, Any], event: gr.EventData) -> str:
        """All labels at the chosen pixel."""
        try:
            x, y = (min(max(float(event._data[axis]), 0.0), 0.9999) for axis in ("x", "y"))
            result = self.engine.segment(*self._ask(data)).first
        except (KeyError, TypeError, ValueError) as error:
            return pictures.problem(str(error)) if isinstance(error, UsageError) else pictures.hint("Click a pixel.")
        except ClearclipError as error:
            return pictures.problem(str(error))
        height, width = result.label_map.shape
        return pictures.ranking_list(result, x=int(x * width), y=int(y * height))

    def choose_scene(self, event: gr.SelectData) -> tuple[str, list[dict[str, Any]]]:
        """A scene of the gallery with the labels of what is in it."""
        scene = self.studio.scenes[int(event.index) % len(self.studio.scenes)]
        return str(scene.path), [_entry(label) for label in scene.labels]

    def search(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> tuple[Any, str]:  # noqa: B008
        """Which words of a vocabulary the image contains."""
        limits = self.engine.limits
        try:
            image, request = self._ask({**data, self.labels: [{"name": "any"}], self.threshold: 0})
            chosen = data[self.vocabulary]
            own = chosen not in VOCABULARIES
            words = read_words(data[self.words] or "", limits=limits) if own else vocabulary_words(chosen)
            found = self.engine.search(
                image, request, words, say=lambda share, sentence: progress(share, desc=sentence)
            )
        except ClearclipError as error:
            return gr.skip(), pictures.problem(str(error))
        choices = [(f"{name}   {share:.1%}", name) for name, share, _ in found if share >= LEAST_FOUND]
        sentence = f"{len(choices)} of {len(words)} words cover at least {LEAST_FOUND:.1%} of the image."
        return gr.update(choices=choices, value=[]), pictures.sentence(sentence)

    def read_file(self, path: str | None) -> tuple[Any, Any, Any]:
        """A label file into the box of words."""
        try:
            words = read_word_file(Path(path or ""), limits=self.engine.limits)
        except UsageError as error:
            return gr.skip(), gr.skip(), pictures.problem(str(error))
        return "\n".join(words), OWN_WORDS, pictures.sentence(f"{len(words)} words read.")

    def add(self, labels: list[dict[str, Any]] | None, found: list[str] | None) -> list[dict[str, Any]]:
        """Chosen words appended to the labels."""
        known = {label["name"] for label in labels or ()}
        return [
            *(labels or ()),
            *({"name": name, "synonyms": [], "color": None} for name in found or () if name not in known),
        ]

    def export(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> tuple[Any, str]:  # noqa: B008
        """The files of the result at the image's own size."""
        try:
            image, request = self._ask(data)
            progress(0.2, desc="Every pixel of the image")
            answer = self.engine.segment(image, request, full=True)
            progress(0.6, desc="Outlines")
            opacity = _share(data[self.opacity])
            made = export.write_files(answer.first, self.studio.files.folder(), stem=image.stem, opacity=opacity)
        except ClearclipError as error:
            return None, pictures.problem(str(error))
        height, width = answer.size
        sentence = f"Label map, overlay and JSON of {width}×{height} pixels, and the image."
        return [*map(str, made), str(image)], pictures.sentence(sentence)

    def write_example(self, data: dict[Any, Any]) -> tuple[Any, Any]:
        """A file with the image and all settings."""
        try:
            image, request = self._ask(data)
            text = export.example(self._read(data), request=request, image=image)
        except ClearclipError as error:
            raise gr.Error(str(error), print_exception=False) from error
        path = self.studio.files.folder() / f"{image.stem}.clearclip.json"
        path.write_text(text, encoding="utf-8")
        return str(path), pictures.sentence(f"{path.name} holds the image and all settings; “Load example” opens it.")

    def read_example(self, path: str | None) -> list[Any]:
        """Such a file into the controls."""
        try:
            settings, name, picture = export.read_example(Path(path or ""), limits=self.engine.limits)
            settings = self._checked({**self.studio.defaults(), **settings})
        except ClearclipError as error:
            raise gr.Error(str(error), print_exception=False) from error
        image = self.studio.files.folder() / name
        image.write_bytes(picture)
        return [str(image), *self._shown(settings), pictures.sentence("Example loaded.")]

    def restore(self, saved: Any) -> list[Any]:
        """What this browser showed last, or the first scene."""
        defaults = self.studio.defaults()
        image = str(self.studio.scenes[0].path)
        if not isinstance(saved, dict) or not saved.get("model"):
            return [image, *self._shown(defaults)]
        try:
            settings = self._checked({**defaults, **saved})
        except ClearclipError:
            return [image, *self._shown(defaults)]
        kept = saved.get("image")
        if isinstance(kept, str) and _was_uploaded(kept):
            return [kept, *self._shown(settings)]
        return [image, *self._shown(settings if kept is None else {**settings, "labels": defaults["labels"]})]

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings from outside, reduced to those that are known and usable; their labels may be empty."""
        known = {name: settings[name] for name in self.studio.defaults()}
        known["threshold"] = known["threshold"] or 0
        if known["model"] not in self.engine.models:
            raise UsageError(f"the model {known['model']!r} is not allowed here: {', '.join(self.engine.models)}")
        if known["device"] not in self.engine.devices:
            known["device"] = self.engine.devices[0]
        if not isinstance(known["opacity"], (int, float)) or not isinstance(known["beta"], (int, float)):
            raise UsageError("opacity and beta must be numbers")
        request = self.studio.request({**known, "labels": known["labels"] or [{"name": "any"}]})
        return {**known, "labels": [_entry(label) for label in request.labels] if known["labels"] else []}

    def _shown(self, settings: Mapping[str, Any]) -> list[Any]:
        beta = gr.update(value=settings["beta"], visible=settings["residual"] == RESIDUALS[3])
        return [beta if name == "beta" else settings[name] for name in self._settings]

    def _ask(self, data: Mapping[Any, Any]) -> tuple[Path, Request]:
        image = uploaded(data[self.image])
        if image is None:
            raise UsageError("Choose an image first.")
        return image, self.studio.request(self._read(data))

    def _read(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: data[component] for name, component in self._settings.items()}


def _share(value: Any) -> float:
    return min(max(float(value), 0.0), 1.0) if isinstance(value, (int, float)) else OPACITY


def _whole(value: Any, *, below: int) -> int:
    return min(max(int(value), 0), below - 1) if isinstance(value, (int, float)) else 0


def _constant(value: str) -> Callable[[], str]:
    return lambda: value


def _bound(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def call(data: dict[Any, Any]) -> Any:
        return function(part, data)

    return call


def _was_uploaded(path: str) -> bool:
    """Whether a path that a browser remembers is a file in the server's own upload folder."""
    try:
        resolved = Path(path).resolve()
        return resolved.is_file() and resolved.is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, ValueError):
        return False


STYLE = asset("studio.css")
