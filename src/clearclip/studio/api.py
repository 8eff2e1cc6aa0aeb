"""The HTTP API: the studio's functions under names, for Gradio's Python client and for curl."""

# No `from __future__ import annotations`: gr.api reads a function's types where they stand.
import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
import numpy as np
from gradio import component_meta
from gradio.events import api
from PIL import Image

from clearclip.errors import ClearclipError, UsageError
from clearclip.files.label_maps import save_image
from clearclip.methods import METHODS, Method
from clearclip.segmentation import Segmentation
from clearclip.service.models import Answer
from clearclip.service.request import BACKGROUND, Request, read_methods, read_request, read_words
from clearclip.studio import export as exports
from clearclip.studio import html as pictures
from clearclip.studio.settings import OPACITY, Studio

File: TypeAlias = gr.FileData
Json: TypeAlias = dict[str, Any]
METHOD = "clearclip"
LABELS, TEMPLATES, COMPARED, WORDS = ["sky", "tree"], list[str](), ["vanilla", "clearclip"], ["sky", "tree", "house"]


def _import_without_a_trace() -> None:
    """The component behind `gr.api` writes a type stub among the installed packages when it is first imported."""
    write = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        importlib.import_module("gradio.components.api_component")
    finally:
        component_meta.create_or_modify_pyi = write


def add_api(studio: Studio) -> None:
    """Add the endpoints to the page that is being built.

    Gradio enforces none of the types: what comes is checked by `service.request`, and files by `Files.received`.
    """
    _import_without_a_trace()
    shared, limits, folder = studio.models, studio.models.limits, studio.files.folder
    first, device_ = next(iter(shared.sources)), shared.devices[0]

    def endpoint(function: Callable[..., Any]) -> None:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except ClearclipError as error:  # a client can mend it, and needs no traceback
                raise gr.Error(str(error), print_exception=False) from error

        api(call, concurrency_id="model", concurrency_limit=limits.concurrency)

    def received(image: Any) -> Path:
        path = studio.files.received(image)
        if path is None:
            raise UsageError("no image was given: upload one, as gradio_client.handle_file(path) does")
        return path

    def run(
        image: Any, labels: Any, model: Any, method: Any, threshold: Any, background: Any, templates: Any, device: Any,
        presence: Any, methods: Sequence[Method] = (),
    ) -> tuple[Path, Request, Answer]:  # fmt: skip
        request = read_request(
            labels, limits=limits, model=model, method=method, threshold=threshold or None, background=background,
            templates=templates, device=device, presence=presence,
        )  # fmt: skip
        path = received(image)
        return path, request, shared.segment(path, request, methods=methods, full=True)

    @endpoint
    def models() -> Json:
        """What is allowed here: models, devices, methods and limits."""
        names = {"models": shared.sources, "devices": shared.devices, "methods": METHODS}
        return {**{kind: list(allowed) for kind, allowed in names.items()}, "limits": vars(limits)}

    @endpoint
    def segment(
        image: File, labels: list[Any] = LABELS, model: str = first, method: str = METHOD, threshold: float = 0,
        background: str = BACKGROUND, templates: list[str] = TEMPLATES, device: str = device_,
        presence: str = "none",
    ) -> tuple[Json, File]:  # fmt: skip
        """Label every pixel: shares of the area, and a PNG whose pixel values are label indices."""
        source, _, answer = run(image, labels, model, method, threshold, background, templates, device, presence)
        path = folder() / f"{source.stem}.labels.png"
        answer.first.save(path)
        return _summary(answer), _offered(path)

    @endpoint
    def export(
        image: File, labels: list[Any] = LABELS, model: str = first, method: str = METHOD, threshold: float = 0,
        background: str = BACKGROUND, templates: list[str] = TEMPLATES, device: str = device_,
        presence: str = "none",
    ) -> tuple[Json, list[File]]:  # fmt: skip
        """The label map, the overlay and JSON with polygons, and the lines that give the same result elsewhere."""
        source, request, answer = run(image, labels, model, method, threshold, background, templates, device, presence)
        made = exports.write_files(answer.first, folder(), stem=source.stem, opacity=OPACITY)
        lines = studio.lines(request, image=source.name, method=next(iter(answer.results)))
        return {**_summary(answer), **vars(lines)}, [_offered(path) for path in made]

    @endpoint
    def ranking(
        image: File, labels: list[Any] = LABELS, model: str = first, method: str = METHOD, threshold: float = 0,
        background: str = BACKGROUND, templates: list[str] = TEMPLATES, device: str = device_,
        x: int = 0, y: int = 0, presence: str = "none",
    ) -> list[Json]:  # fmt: skip
        """All labels at the pixel (x, y) of the image with their probabilities, the likeliest first."""
        _, _, answer = run(image, labels, model, method, threshold, background, templates, device, presence)
        try:
            ranked = answer.first.ranking(int(y), int(x))
        except (IndexError, OverflowError, TypeError, ValueError) as error:
            raise UsageError(f"x={x!r:.100}, y={y!r:.100}: {error!s:.200}") from error
        return [{"label": name, "probability": probability} for name, probability in ranked]

    @endpoint
    def heatmap(
        image: File, labels: list[Any] = LABELS, model: str = first, method: str = METHOD, threshold: float = 0,
        background: str = BACKGROUND, templates: list[str] = TEMPLATES, device: str = device_,
        label: str = "sky", presence: str = "none",
    ) -> tuple[Json, File]:  # fmt: skip
        """A label's probability at every pixel, as a 16-bit grey PNG (65535 is 1)."""
        source, _, answer = run(image, labels, model, method, threshold, background, templates, device, presence)
        if not isinstance(label, str):
            raise UsageError(f"label is a {type(label).__name__}: name one of the labels")
        values = answer.first.probabilities(label)
        path = folder() / f"{source.stem}.probability.png"
        save_image(Image.fromarray(np.rint(values * 65535).astype(np.uint16)), path)
        numbers = {"lowest": float(values.min()), "highest": float(values.max()), "mean": float(values.mean())}
        return {"label": label, **numbers}, _offered(path)

    @endpoint
    def compare(
        image: File, labels: list[Any] = LABELS, model: str = first, method: str = METHOD, threshold: float = 0,
        background: str = BACKGROUND, templates: list[str] = TEMPLATES, device: str = device_,
        methods: list[str] = COMPARED, presence: str = "none",
    ) -> tuple[Json, list[File]]:  # fmt: skip
        """Several methods on one image: shares by method, and an overlay each. The trunk runs once."""
        rows = read_methods(methods, limits=limits)
        source, _, answer = run(image, labels, model, method, threshold, background, templates, device, presence, rows)
        paths, made = [], folder()
        for place, result in enumerate(answer.results.values()):
            paths.append(made / f"{source.stem}.{place}.overlay.png")
            save_image(result.overlay(opacity=OPACITY), paths[-1])
        shares = {spelling: _shares(result) for spelling, result in answer.results.items()}
        return {"shares": shares}, [_offered(path) for path in paths]

    @endpoint
    def inspect(image: File, model: str = first, method: str = METHOD, device: str = device_) -> Json:
        """Norm, peak channel and entropy of X_res, X_attn and X_sum in every block (depth-1 methods)."""
        request = read_request(["any"], limits=limits, model=model, method=method, device=device)
        seen = shared.inspect(received(image), request, method=request.method)
        return {"model": seen.model, "method": seen.method, "statistics": seen.rows()}

    @endpoint
    def search(
        image: File, model: str = first, method: str = METHOD, templates: list[str] = TEMPLATES, device: str = device_,
        words: list[str] = WORDS,
    ) -> list[Json]:  # fmt: skip
        """Which words of a larger vocabulary the image contains, largest share of the area first."""
        request = read_request(["any"], limits=limits, model=model, method=method, templates=templates, device=device)
        found = shared.search(received(image), request, read_words(words, limits=limits))
        return [{"label": tag.label, "share": tag.share, "probability": tag.probability} for tag in found]


def _offered(path: Path) -> Any:
    """A file as Gradio copies and serves it."""
    return File(path=str(path), orig_name=path.name).model_dump()


def _shares(result: Segmentation) -> dict[str, float]:
    return dict(zip(result.labels, pictures.shares(result), strict=True))


def _summary(answer: Answer) -> Json:
    result = answer.first
    height, width = answer.size
    entries = [
        {"index": index, "name": name, "color": pictures.hex_color(result.palette[index]), "share": share}
        | ({"absent": result.absent[name]} if name in result.absent else {})
        for index, (name, share) in enumerate(_shares(result).items())
    ]
    notes = [note for note in (answer.note, pictures.words_note(result)) if note]
    return {"height": height, "width": width, "labels": entries, "made": dict(result.info), "notes": notes}
