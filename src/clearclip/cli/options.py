"""Options that several commands share, and what every command that loads a model does first."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clearclip.errors import UsageError

if TYPE_CHECKING:
    from clearclip.engine.ray_pool import Fleet
    from clearclip.segmenter import Segmenter
    from clearclip.vocabulary import Vocabulary

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; it is made where it is missing.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("-l", "--label", help="A label: 'sky', 'person=man|woman|child', 'sky @#87ceeb'. Repeat it."),
]
LabelFile = Annotated[Path | None, typer.Option("--labels", help="File with one label a line; # starts a comment.")]
Background = Annotated[
    str | None,
    typer.Option(help="Label that pixels below the threshold fall to; one of the labels, or a new one without words."),
]
Threshold = Annotated[
    float | None, typer.Option(help="Pixels whose best probability is below become background (0–1).")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Friendly name (`clearclip models`), open_clip's ARCH/TAG, hf-hub:, local-dir:, HF id, folder, .pth.",
    ),
]
Tokenizer = Annotated[str | None, typer.Option(help="Hugging Face tokenizer folder or id instead of the model's own.")]
MethodName = Annotated[
    str,
    typer.Option("--method", help="As `clearclip methods` lists them, e.g. 'clearclip[residual=beta:30]'."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="native, paper, or a benchmark's name.")]
ShortSide = Annotated[float | None, typer.Option(help="Short side after the resize, in pixels.")]
CropSize = Annotated[float | None, typer.Option(help="Side of a window, in pixels; 0: the whole image.")]
Stride = Annotated[float | None, typer.Option(help="Step of the windows, in pixels.")]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="Prompt with {} for the label; repeat it. Default: the 80 of the paper."),
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse larger images before they are decoded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]


class Engine(str, Enum):
    """Who does the work."""

    local = "local"
    ray = "ray"


EngineName = Annotated[
    Engine, typer.Option("--engine", help="local: this process. ray: workers, here or on a cluster (clearclip[ray]).")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="With --engine ray: how many. Default: one per GPU, else per processor core.")
]
Address = Annotated[
    str | None,
    typer.Option(help="With --engine ray: a cluster, 'auto' or HOST:PORT. Default: one of its own on this machine."),
]
Cpus = Annotated[float, typer.Option("--cpus-per-worker", help="With --engine ray: processor cores of a worker.")]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", help="With --engine ray: GPUs, or the part of one. Default: 1 if there are any."),
]


def prepare() -> None:
    """Keep the libraries quiet and turn warnings into one line each; called by commands that load a model."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="clearclip")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)


def read_labels(labels: list[str] | None, file: Path | None, background: str | None) -> Vocabulary:
    """The vocabulary that `-l`, `--labels` and `--background` name.

    Args:
        labels: What `-l` collected.
        file: What `--labels` named.
        background: What `--background` named.

    Returns:
        The vocabulary.

    Raises:
        UsageError: None or both of the first two were given, or the labels cannot be used.
    """
    from clearclip.vocabulary import Vocabulary

    if labels and file:
        raise UsageError("-l and --labels were both given: use one of them")
    if file is None and not labels:
        raise UsageError("no labels were given: use -l NAME (repeat it) or --labels FILE")
    return Vocabulary.parse(file if file is not None else labels, background=background)


def load_segmenter(
    model: str,
    *,
    method: Any,
    device: str,
    dtype: str,
    protocol: str,
    tokenizer: str | None = None,
    templates: list[str] | None = None,
    short_side: float | None = None,
    crop_size: float | None = None,
    stride: float | None = None,
    max_pixels: int | None = None,
) -> Segmenter:
    """The segmenter that a command's options describe; numbers in pixels replace the preset's.

    Args:
        model: As `clearclip.load`.
        method: As `clearclip.load`.
        device: As `clearclip.load`.
        dtype: As `clearclip.load`.
        protocol: As `clearclip.load`.
        tokenizer: As `clearclip.load`.
        templates: As `clearclip.load`.
        short_side: In pixels.
        crop_size: In pixels.
        stride: In pixels.
        max_pixels: Limit of an image.

    Returns:
        It.

    Raises:
        ClearclipError: As `clearclip.load`.
    """
    from clearclip.segmenter import load

    segmenter = load(
        model,
        method=method,
        device=device,
        dtype=dtype,
        protocol=protocol,
        templates=templates,
        tokenizer=tokenizer,
    )
    if any(number is not None for number in (short_side, crop_size, stride)):
        pixels = segmenter.protocol.in_pixels(segmenter.backbone.native_size)
        segmenter.protocol = pixels.with_overrides(short_side=short_side, crop_size=crop_size, stride=stride)
    if max_pixels is not None:
        segmenter.max_pixels = max_pixels
    return segmenter


def fleet(
    engine: Engine, workers: int | None, *, address: str | None, cpus: float, gpus: float | None, device: str
) -> Fleet | None:
    """The workers that the options ask for.

    Args:
        engine: Who does the work.
        workers: How many.
        address: A cluster.
        cpus: Cores of a worker.
        gpus: GPUs of a worker; a worker on the processor needs none.
        device: As `--device`.

    Returns:
        The workers, or `None` for this process.

    Raises:
        UsageError: Workers are described for the local engine, or a number is out of range.
    """
    for option, number in (("--cpus-per-worker", cpus), ("--gpus-per-worker", gpus)):
        if number is not None and not 0 <= number <= 10_000:
            raise UsageError(f"{option} {number:g}: a number from 0 to 10,000 is needed")
    if engine is Engine.local:
        given = {"--workers": workers, "--address": address, "--gpus-per-worker": gpus}
        named = [option for option, value in given.items() if value is not None]
        if named:
            raise UsageError(f"{', '.join(named)}: the local engine is this process alone; add --engine ray")
        return None
    from clearclip.engine.ray_pool import Fleet

    if gpus is None and device.startswith("cpu"):
        gpus = 0.0
    return Fleet(workers, address, cpus=cpus, gpus=gpus)
