"""What happens when something on the page changes: values of controls → values of controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from clearclip.errors import ClearclipError, UsageError
from clearclip.files.commas import quoted
from clearclip.service.request import (
    RESIDUALS,
    Request,
    read_labels,
    read_method,
    read_methods,
    read_word_file,
    read_words,
    too_large,
    within,
)
from clearclip.studio import export, html
from clearclip.studio.layout import OWN_WORDS, Layout
from clearclip.studio.scenes import VOCABULARIES, vocabulary_words
from clearclip.studio.settings import OPACITY, Studio

HEAT_MAPS = 24
LEAST_FOUND = 0.002


class Actions:
    """Functions for Gradio's events; they get the values of controls by component."""

    def __init__(self, studio: Studio, layout: Layout) -> None:
        self.studio = studio
        self.models = studio.models
        self.on = layout

    def refresh(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        """Show the active tab anew. The answer names the outputs that change; the others stay."""
        settings = self._read(data)
        always: dict[Any, Any] = {self.on.beta: gr.update(visible=settings["residual"] == RESIDUALS[3])}
        try:
            image = self.studio.files.received(data[self.on.image])
            if image is None:
                hint = html.hint("Choose an image, or one of the scenes.")
                return {self.on.status: hint, self.on.viewer: None, **always}
            always[self.on.saved] = {**self.studio.checked(settings), "image": str(image)}
            return {**self._show(image, settings, data, progress), **always}
        except ClearclipError as error:
            blank = {self.on.viewer: None} if data[self.on.tab] == "segment" else {}
            return {self.on.status: html.problem(str(error)), **blank, **always}

    def _show(
        self, image: Path, settings: Mapping[str, Any], data: Mapping[Any, Any], progress: gr.Progress
    ) -> dict[Any, Any]:
        request, tab = self.studio.request(settings), data[self.on.tab]

        def say(sentence: str) -> None:
            progress(0.3, desc=sentence)

        if tab == "inspect":
            return self._show_parts(image, request, data, say)
        compared = data[self.on.methods] or ()
        rows = read_methods(compared, limits=self.models.limits) if tab == "compare" else (request.method,)
        answer = self.models.segment(image, request, methods=rows, say=say)
        result, ran = answer.first, list(answer.results)
        blocks = len(self.models.model(request.model, request.device).backbone.blocks)
        notes = [
            f"{row.spelling} rewrites {row.depth} blocks and {request.model} has {blocks}: half of them are rewritten."
            for row in rows
            if row.depth > blocks
        ]
        kept = {label.name: label.synonyms for label in result.vocabulary.labels}
        lost = [
            f"“{word}” of {one.name}" for one in request.labels for word in one.synonyms if word not in kept[one.name]
        ]
        if lost:
            notes.append(f"Another label's words to this model, left out: {', '.join(lost[:6])}.")
        if note := html.words_note(result):
            notes.append(note)
        if tab == "heat" and len(request.labels) > HEAT_MAPS:
            notes.append(f"The first {HEAT_MAPS} of {len(request.labels)} labels are drawn.")
        what = ran[0] if len(ran) == 1 else f"{len(ran)} methods"
        status = html.status_line(answer, model=request.model, methods=what, notes=notes)
        shown: dict[Any, Any] = {self.on.status: status}
        if tab == "compare":
            shown[self.on.comparison] = html.comparison(answer.results, opacity=_share(settings["opacity"]))
        elif tab == "heat":
            names = [label.name for label in request.labels][:HEAT_MAPS]
            shown[self.on.heat] = html.heat_maps(result, names=names, relative=bool(data[self.on.relative]))
        elif tab == "export":
            lines = self.studio.lines(request, image=image.name, method=ran[0])
            shown |= {self.on.command: lines.command, self.on.python: lines.python}
        elif tab == "segment":
            shown[self.on.viewer] = html.viewer_value(result)
        return shown

    def _show_parts(
        self, image: Path, request: Request, data: Mapping[Any, Any], say: Callable[[str], None]
    ) -> dict[Any, Any]:
        seen = self.models.inspect(image, request, method=read_method(data[self.on.parts_of] or "vanilla"), say=say)
        count = seen.maps["X_res"].shape[-1]
        first = data[self.on.inspected] != request.model
        channel = seen.last["X_res"].peak_channel if first else int(within(data[self.on.channel], 0, count - 1) or 0)
        shown = channel if data[self.on.show] == "one channel" else None
        sentence = (
            f"{request.model}, the last of {len(seen.statistics) // 3} blocks, {seen.method}: X_sum = X_res + X_attn"
        )
        return {
            self.on.status: html.sentence(sentence),
            self.on.parts: html.inspection_maps(seen, channel=shown),
            self.on.numbers: html.inspection_numbers(seen),
            self.on.chart: html.channel_chart(seen, channel=shown),
            self.on.channel: gr.update(maximum=count - 1, value=channel),
            self.on.inspected: request.model,
        }

    def peak(self, part: str, data: dict[Any, Any]) -> tuple[Any, Any]:
        """The channel with the highest mean magnitude in one part."""
        try:
            image, request = self._ask(data)
            seen = self.models.inspect(image, request, method=read_method(data[self.on.parts_of] or "vanilla"))
        except ClearclipError:
            return gr.skip(), gr.skip()  # what is wrong is said by the refresh that follows
        return seen.last[part].peak_channel, "one channel"

    def rank(self, data: dict[Any, Any], event: gr.EventData) -> str:
        """All labels at the chosen pixel."""
        try:
            x, y = (within(_told(event).get(axis), 0, 0.9999) for axis in ("x", "y"))
            if x is None or y is None:
                return html.hint("Click a pixel.")
            result = self.models.segment(*self._ask(data)).first
        except ClearclipError as error:
            return html.problem(str(error))
        height, width = result.label_map.shape
        return html.ranking_list(result, x=int(x * width), y=int(y * height))

    def too_large(self, event: gr.EventData) -> str:
        """The message for a file that the browser refused to send."""
        told = _told(event)
        size, most = (within(told.get(key), 0, 1e15) for key in ("size", "most"))
        if size is None or most is None:
            return html.problem("The file is too large: make it smaller.")
        return html.problem(too_large(str(told.get("name"))[:200], size=int(size), limit=int(most)))

    def choose_scene(self, event: gr.EventData) -> tuple[str, list[dict[str, Any]]]:
        """A scene of the gallery with the labels of what is in it."""
        scene = self.studio.scenes[int(within(_told(event).get("index"), 0, len(self.studio.scenes) - 1) or 0)]
        return str(scene.path), [html.label_entry(label) for label in scene.labels]

    def search(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> tuple[Any, str]:  # noqa: B008
        """Which words of a vocabulary the image contains."""
        limits = self.models.limits
        try:
            image, request = self._ask({**data, self.on.labels: [{"name": "any"}], self.on.threshold: 0})
            chosen = data[self.on.vocabulary]
            ready = isinstance(chosen, str) and chosen in VOCABULARIES
            words = vocabulary_words(chosen) if ready else read_words(data[self.on.words] or "", limits=limits)
            found = self.models.search(
                image, request, words, say=lambda share, sentence: progress(share, desc=sentence)
            )
        except ClearclipError as error:
            return gr.skip(), html.problem(str(error))
        choices = [(f"{tag.label}   {tag.share:.1%}", quoted(tag.label)) for tag in found if tag.share >= LEAST_FOUND]
        sentence = f"{len(choices)} of {len(words)} words cover at least {LEAST_FOUND:.1%} of the image."
        return gr.update(choices=choices, value=[]), html.sentence(sentence)

    def read_file(self, value: Any) -> tuple[Any, Any, Any]:
        """Read a label file into the box of words."""
        try:
            words, form = read_word_file(self._file(value), limits=self.models.limits)
        except UsageError as error:
            return gr.skip(), gr.skip(), html.problem(str(error))
        return "\n".join(words), OWN_WORDS, html.sentence(f"{len(words)} words, read as {form}.")

    def add(self, labels: Any, found: Any) -> tuple[Any, Any]:
        """Append the chosen words to the labels."""
        added = [{"name": name} for name in found] if isinstance(found, list) else []
        try:
            limits = self.models.limits
            kept = read_labels(labels, limits=limits) if labels else ()
            new = read_labels(added, limits=limits) if added else ()
        except ClearclipError as error:
            return gr.skip(), html.problem(str(error))
        both = {label.name: label for label in (*new, *kept)}  # a label that is there keeps its synonyms and colour
        names = dict.fromkeys((*(label.name for label in kept), *(label.name for label in new)))
        return [html.label_entry(both[name]) for name in names], gr.skip()

    def export(self, data: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> tuple[Any, str]:  # noqa: B008
        """The files of the result at the image's own size."""
        try:
            image, request = self._ask(data)
            progress(0.2, desc="Every pixel of the image")
            answer = self.models.segment(image, request, full=True)
            progress(0.6, desc="Outlines")
            opacity = _share(data[self.on.opacity])
            made = export.write_files(answer.first, self.studio.files.folder(), stem=image.stem, opacity=opacity)
        except ClearclipError as error:
            return None, html.problem(str(error))
        height, width = answer.size
        sentence = f"Label map, overlay and JSON of {width}×{height} pixels, and the image."
        return [*map(str, made), str(image)], html.sentence(sentence)

    def write_example(self, data: dict[Any, Any]) -> tuple[Any, Any]:
        """Write a file with the image and all settings."""
        try:
            image, request = self._ask(data)
            settings = self.studio.checked(self._read(data))
            text = export.example(settings, request=request, image=image, limits=self.models.limits)
            path = self.studio.files.folder() / f"{image.stem}.clearclip.json"
        except ClearclipError as error:
            raise gr.Error(str(error), print_exception=False) from error
        path.write_text(text, encoding="utf-8")
        return str(path), html.sentence(f"{path.name} holds the image and all settings; “Load example” opens it.")

    def read_example(self, value: Any) -> list[Any]:
        """Read such a file into the controls."""
        try:
            settings, name, picture = export.read_example(self._file(value), limits=self.models.limits)
            settings = self.studio.checked({**self.studio.defaults(), **settings})
            image = self.studio.files.folder() / name
        except ClearclipError as error:
            raise gr.Error(str(error), print_exception=False) from error
        image.write_bytes(picture)
        return [str(image), *self._shown(settings), html.sentence("Example loaded.")]

    def restore(self, saved: Any) -> list[Any]:
        """What this browser showed last, or the first scene."""
        defaults = self.studio.defaults()
        image = str(self.studio.scenes[0].path)
        if not isinstance(saved, dict) or not saved.get("model"):
            return [image, *self._shown(defaults)]
        try:
            settings = self.studio.checked({**defaults, **saved})
        except ClearclipError:
            return [image, *self._shown(defaults)]
        kept = saved.get("image")
        try:
            if isinstance(kept, str) and self.studio.files.received({"path": kept}):
                return [kept, *self._shown(settings)]
        except ClearclipError:
            pass
        return [image, *self._shown(settings if kept is None else {**settings, "labels": defaults["labels"]})]

    def _shown(self, settings: Mapping[str, Any]) -> list[Any]:
        beta = gr.update(value=settings["beta"], visible=settings["residual"] == RESIDUALS[3])
        return [beta if name == "beta" else settings[name] for name in self.on.settings]

    def _ask(self, data: Mapping[Any, Any]) -> tuple[Path, Request]:
        image = self.studio.files.received(data[self.on.image])
        if image is None:
            raise UsageError("Choose an image first.")
        return image, self.studio.request(self._read(data))

    def _file(self, value: Any) -> Path:
        path = self.studio.files.received(value)
        if path is None:
            raise UsageError("Choose a file first.")
        return path

    def _read(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: data[component] for name, component in self.on.settings.items()}


def _share(value: Any) -> float:
    share = within(value, 0, 1)
    return OPACITY if share is None else share


def _told(event: gr.EventData) -> Mapping[str, Any]:
    return event._data if isinstance(event._data, dict) else {}
