"""The HTTP API: the page's functions under names, for Gradio's Python client and for curl.

Belongs here: endpoints, their parameters and what they answer. Does not: the page's own events.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from clearclip.errors import ClearclipError, UsageError
from clearclip.files.label_maps import save_image
from clearclip.methods import METHODS
from clearclip.service.models import Answer
from clearclip.service.request import BACKGROUND, Request, read_methods, read_request, read_words
from clearclip.studio import export
from clearclip.studio import html as pictures
from clearclip.studio.controls import picture
from clearclip.studio.settings import OPACITY, Studio


def add_api(studio: Studio) -> None:
    """Add the endpoints to the page that is being built.

    Args:
        studio: Models and kept features, and where results are written.
    """
    api, engine = _Api(studio), studio.models
    with gr.Column(visible=False):
        image = picture("image")
        labels = gr.JSON(["sky", "tree"], label="labels")
        model = gr.Textbox(next(iter(engine.sources)), label="model")
        method = gr.Textbox("clearclip", label="method")
        threshold = gr.Number(0, label="threshold")
        background = gr.Textbox(BACKGROUND, label="background")
        templates = gr.JSON([], label="templates")
        device = gr.Textbox(engine.devices[0], label="device")
        x, y = gr.Number(0, precision=0, label="x"), gr.Number(0, precision=0, label="y")
        methods = gr.JSON(["vanilla", "clearclip"], label="methods")
        label = gr.Textbox("sky", label="label")
        words = gr.JSON(["sky", "tree", "house"], label="words")
        answer, file, several = gr.JSON(label="answer"), gr.File(label="file"), gr.Files(label="files")
        common = [image, labels, model, method, threshold, background, templates, device]
        asked = [image, model, method, templates, device]
        for function, inputs, outputs in (
            (api.models, [], answer),
            (api.segment, common, [answer, file]),
            (api.export, common, [answer, several]),
            (api.ranking, [*common, x, y], answer),
            (api.heatmap, [*common, label], [answer, file]),
            (api.compare, [*common, methods], [answer, several]),
            (api.inspect, [image, model, method, device], answer),
            (api.search, [*asked, words], answer),
        ):
            gr.Button(function.__name__).click(
                _reported(function, [str(one.label) for one in inputs]),
                inputs,
                outputs,
                preprocess=False,
                api_name=function.__name__,
                api_description=(function.__doc__ or "").strip(),
                concurrency_id="model",
                concurrency_limit=engine.limits.concurrency,
            )


def _reported(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Errors that a client can mend reach it as their one sentence; parameters have the names that clients use."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ClearclipError as error:
            raise gr.Error(str(error), print_exception=False) from error

    call.__name__ = function.__name__
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


class _Api:
    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.engine = studio.models
        self.files = studio.files

    def models(self) -> dict[str, Any]:
        """What is allowed here: models, devices, methods and limits."""
        return {
            "models": list(self.engine.sources),
            "devices": list(self.engine.devices),
            "methods": list(METHODS),
            "limits": vars(self.engine.limits),
        }

    def segment(self, *given: Any) -> tuple[dict[str, Any], str]:
        """Label every pixel: shares of the area, and a PNG whose pixel values are label indices."""
        image, request = self._read(*given)
        answer = self.engine.segment(image, request, full=True)
        path = self.files.folder() / f"{image.stem}.labels.png"
        answer.first.save(path)
        return _summary(answer), str(path)

    def export(self, *given: Any) -> tuple[dict[str, Any], list[str]]:
        """The label map, the overlay and JSON with polygons, and the lines that give the same result elsewhere."""
        image, request = self._read(*given)
        answer = self.engine.segment(image, request, full=True)
        made = export.write_files(answer.first, self.files.folder(), stem=image.stem, opacity=OPACITY)
        lines = self.studio.lines(request, image=image.name, method=next(iter(answer.results)))
        return {**_summary(answer), "command": lines.command, "python": lines.python}, [str(path) for path in made]

    def ranking(self, *given: Any) -> list[dict[str, Any]]:
        """All labels at the pixel (x, y) of the image with their probabilities, the likeliest first."""
        *common, x, y = given
        image, request = self._read(*common)
        result = self.engine.segment(image, request, full=True).first
        try:
            ranked = result.ranking(int(y), int(x))
        except (IndexError, OverflowError, TypeError, ValueError) as error:
            raise UsageError(f"x={x!r:.100}, y={y!r:.100}: {error!s:.200}") from error
        return [{"label": name, "probability": probability} for name, probability in ranked]

    def heatmap(self, *given: Any) -> tuple[dict[str, Any], str]:
        """A label's probability at every pixel, as a 16-bit grey PNG (65535 is 1)."""
        *common, label = given
        image, request = self._read(*common)
        result = self.engine.segment(image, request, full=True).first
        if not isinstance(label, str):
            raise UsageError(f"label is a {type(label).__name__}: name one of the labels")
        values = result.probabilities(label)
        path = self.files.folder() / f"{image.stem}.probability.png"
        save_image(Image.fromarray(np.rint(values * 65535).astype(np.uint16)), path)
        numbers = {"label": label, "lowest": float(values.min()), "highest": float(values.max())}
        return {**numbers, "mean": float(values.mean())}, str(path)

    def compare(self, *given: Any) -> tuple[dict[str, Any], list[str]]:
        """Several methods on one image: shares by method, and an overlay each. The trunk runs once."""
        *common, methods = given
        image, request = self._read(*common)
        rows = read_methods(methods, limits=self.engine.limits)
        answer = self.engine.segment(image, request, methods=rows, full=True)
        folder = self.files.folder()
        paths = []
        for place, result in enumerate(answer.results.values()):
            paths.append(folder / f"{image.stem}.{place}.overlay.png")
            save_image(result.overlay(opacity=OPACITY), paths[-1])
        shares = {spelling: _shares(result) for spelling, result in answer.results.items()}
        return {"shares": shares}, [str(path) for path in paths]

    def inspect(self, image: Any, model: str, method: str, device: str) -> dict[str, Any]:
        """Norm, peak channel and entropy of X_res, X_attn and X_sum in every block (depth-1 methods)."""
        request = read_request(["any"], limits=self.engine.limits, model=model, method=method, device=device)
        seen = self.engine.inspect(self._path(image), request, method=request.method)
        return {"model": seen.model, "method": seen.method, "statistics": seen.rows()}

    def search(
        self, image: Any, model: str, method: str, templates: Any, device: str, words: Any
    ) -> list[dict[str, Any]]:
        """Which words of a larger vocabulary the image contains, largest share of the area first."""
        limits = self.engine.limits
        request = read_request(["any"], limits=limits, model=model, method=method, templates=templates, device=device)
        found = self.engine.search(self._path(image), request, read_words(words, limits=limits))
        return [{"label": name, "share": share, "probability": probability} for name, share, probability in found]

    def _read(
        self,
        image: Any,
        labels: Any,
        model: str,
        method: str,
        threshold: float | None,
        background: str,
        templates: Any,
        device: str,
    ) -> tuple[Path, Request]:
        request = read_request(
            labels,
            limits=self.engine.limits,
            model=model,
            method=method,
            threshold=threshold or None,
            background=background,
            templates=templates,
            device=device,
        )
        return self._path(image), request

    def _path(self, image: Any) -> Path:
        path = self.files.received(image)
        if path is None:
            raise UsageError("no image was given: upload one, as gradio_client.handle_file(path) does")
        return path


def _shares(result: Any) -> dict[str, float]:
    return dict(zip(result.labels, pictures.shares(result), strict=True))


def _summary(answer: Answer) -> dict[str, Any]:
    result = answer.first
    height, width = answer.size
    entries = [
        {"index": index, "name": name, "color": pictures.hex_color(result.palette[index]), "share": share}
        for index, (name, share) in enumerate(_shares(result).items())
    ]
    return {"height": height, "width": width, "labels": entries, "made": dict(result.info)}
