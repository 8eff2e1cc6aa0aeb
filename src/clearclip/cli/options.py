"""Options that several commands share, one dataclass for each group, and what the commands do with them."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from clearclip.errors import ImageError, UsageError, printable
from clearclip.files.commas import split_items, unquoted

if TYPE_CHECKING:
    from clearclip.engine.ray_pool import Fleet
    from clearclip.protocol import Protocol
    from clearclip.segmenter import Segmenter
    from clearclip.vocabulary import Vocabulary

Command = Callable[..., None]

Images = Annotated[list[str], typer.Argument(help="Image files, folders and globs.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; it is made where it is missing.")]
LabelFile = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="File with one label a line; # starts a comment. Also data.yaml, id2label, tables and others."
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        help="Label that pixels below the threshold fall to; one of the labels, or a new one without words. auto: "
        "words for what else may be in the picture are the background (default for a label alone); none: not so."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Friendly name (`clearclip models`), open_clip's ARCH/TAG, hf-hub:, local-dir:, HF id, folder, .pth.",
    ),
]
MethodName = Annotated[
    str, typer.Option("--method", help="As `clearclip methods` lists them, e.g. 'clearclip[residual=beta:30]'.")
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="Prompt with {} for the label; repeat it. Default: the 80 of the paper."),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        "--range",
        help="LOW:HIGH, values that become black and white. Default: 8 bits as they are, others by what they are.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]


class Engine(str, Enum):
    """Who does the work."""

    local = "local"
    ray = "ray"


class Remainder(str, Enum):
    """As `Protocol.remainder`."""

    pad = "pad"
    drop = "drop"


def _presence(text: str | None) -> str | None:
    """A rule that needs no truth; refused before the model is loaded."""
    from clearclip.protocol import Presence

    if text is None:
        return None
    if (rule := Presence.parse(text)).rule == "oracle":
        raise UsageError("--presence oracle needs the truth: `clearclip evaluate --oracle-labels` has it")
    return str(rule)


@dataclass(frozen=True)
class Words:
    """What is looked for."""

    label: Annotated[
        list[str] | None,
        typer.Option(
            "-l",
            "--label",
            help="A label: 'sky', 'person=man|woman', 'sky @#87ceeb'. Repeat it, or separate by commas.",
        ),
    ] = None
    labels: LabelFile = None
    background: Background = None
    background_words: Annotated[
        Path | None, typer.Option(help="File with the words of the background, one a line, instead of auto's.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Pixels whose best probability is below become background (0–1).")
    ] = None
    pin: Annotated[
        list[str] | None, typer.Option(help="A label that competes whatever --presence says. Repeat it.")
    ] = None

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of `-l` or `--labels`; `UsageError` if neither or both were given, or they cannot be used."""
        from clearclip.vocabulary import Vocabulary, listed

        if self.label and self.labels:
            raise UsageError("-l and --labels were both given: use one of them")
        if self.labels is None and not self.label:
            raise UsageError("no labels were given: use -l NAME (repeat it) or --labels FILE")
        if self.labels is not None:
            vocabulary = read_labels(self.labels, background=self.background)
        else:
            words = items(self.label or ())
            vocabulary = Vocabulary.parse(words, background=self.background)
            if len(words) > len(self.label or ()):
                say(f"-l: {listed(vocabulary.labels)}")
        beside = vocabulary.beside
        if self.background_words is not None:
            labels = read_labels(self.background_words, background=None).labels
            beside = tuple(query for label in labels for query in label.queries)
        return replace(vocabulary, beside=beside, pinned=tuple(map(unquoted, items(self.pin or ()))))


BESIDE_WORDS = tuple(field.name for field in fields(Words) if field.name not in ("label", "labels"))
"""What commands leave out that ask for words alone."""


@dataclass(frozen=True)
class Loading:
    """A model, where it runs, and how an image is shown to it."""

    model: Model = "clip-b16"
    device: Device = "auto"
    dtype: Dtype = "auto"
    protocol: Annotated[str, typer.Option(help="native, paper, or a benchmark's name.")] = "native"
    short_side: Annotated[float | None, typer.Option(help="Short side after the resize, in pixels.")] = None
    crop_size: Annotated[float | None, typer.Option(help="Side of a window, in pixels; 0: the whole image.")] = None
    stride: Annotated[float | None, typer.Option(help="Step of the windows, in pixels.")] = None
    remainder: Annotated[
        Remainder | None,
        typer.Option(
            help="What a window has beyond whole patches: pad it with zeros, or drop it as NACLIP does. Default: pad."
        ),
    ] = None
    template: Templates = None
    tokenizer: Annotated[
        str | None, typer.Option(help="Hugging Face tokenizer folder or id instead of the model's own.")
    ] = None
    value_range: ValueRange = None
    presence: Annotated[
        str | None,
        typer.Option(
            callback=_presence,
            help="Which labels compete: none (all), weak:P (whose probability reaches P somewhere), freecp or "
            "freecp-filter (which FreeCP keeps in a window; :R:A are its thresholds).",
        ),
    ] = None
    area: Annotated[
        float | None,
        typer.Option(help="Labels with at most this share of what all but the background win lose it (0–1)."),
    ] = None

    def load(self, method: Any, *, max_pixels: int | None = None, protocol: str | Protocol | None = None) -> Segmenter:
        """The segmenter that the options describe; numbers in pixels replace the protocol's."""
        from clearclip.encode.levels import parse_range
        from clearclip.segmenter import load

        segmenter = load(
            self.model,
            method=method,
            device=self.device,
            dtype=self.dtype,
            protocol=self.protocol if protocol is None else protocol,
            templates=self.template,
            tokenizer=self.tokenizer,
            value_range=parse_range(self.value_range),
        )
        segmenter.protocol = segmenter.protocol.with_overrides(presence=self.presence, area=self.area)
        numbers = {name: getattr(self, name) for name in ("short_side", "crop_size", "stride")}
        remainder = None if self.remainder is None else self.remainder.value
        if remainder is not None or any(number is not None for number in numbers.values()):
            pixels = segmenter.protocol.in_pixels(segmenter.backbone.native_size)
            segmenter.protocol = pixels.with_overrides(**numbers, remainder=remainder)
        if max_pixels is not None:
            segmenter.max_pixels = max_pixels
        return segmenter


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    engine: Annotated[
        Engine, typer.Option(help="local: this process. ray: workers, here or on a cluster (extra ray).")
    ] = Engine.local
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: how many. Default: one per GPU, else per processor core."),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: a cluster, 'auto' or HOST:PORT. Default: one of its own on this machine."
        ),
    ] = None
    cpus_per_worker: Annotated[
        float,
        typer.Option(
            help="With --engine ray: cores and threads of a worker. The local engine with as many threads "
            "(OMP_NUM_THREADS) makes the same label maps; with others single pixels differ."
        ),
    ] = 1.0
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="With --engine ray: GPUs, or the part of one. Default: 1 if there are any.")
    ] = None

    def fleet(self, device: str) -> Fleet | None:
        """Ray's workers, or `None` for this process; `UsageError` if workers are described for it."""
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        for option, number in (("--cpus-per-worker", cpus), ("--gpus-per-worker", gpus)):
            if number is not None and not 0 <= number <= 10_000:
                raise UsageError(f"{option} {number:g}: a number from 0 to 10,000 is needed")
        if self.engine is Engine.local:
            given = {"--workers": self.workers, "--address": self.address, "--gpus-per-worker": gpus}
            named = [option for option, value in given.items() if value is not None]
            if named:
                raise UsageError(f"{', '.join(named)}: the local engine is this process alone; add --engine ray")
            return None
        from clearclip.engine.ray_pool import Fleet

        if gpus is None and device.startswith("cpu"):
            gpus = 0.0
        return Fleet(self.workers, self.address, cpus=cpus, gpus=gpus)


def bundles(*, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Let typer see the fields of a command's dataclass parameters as options; those left out keep their defaults."""

    def spread(command: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        kinds: dict[str, tuple[Callable[..., Any], list[str]]] = {}
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if not is_dataclass(kind := parameter.annotation):
                parameters.append(parameter)
                continue
            hints = get_type_hints(kind, include_extras=True)
            shown = [field for field in fields(kind) if field.name not in without]
            kinds[parameter.name] = (parameter.annotation, [field.name for field in shown])
            for field in shown:
                new = inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=hints[field.name])
                parameters.append(new)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            made = {name: kind(**{one: values.pop(one) for one in names}) for name, (kind, names) in kinds.items()}
            command(**values, **made)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return spread


class _Lines(logging.Handler):
    """Messages as lines on what standard error is when they come, or as JSON with the record's `event`."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(record.getMessage())
        if self._as_json:
            time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
            event = {"time": time, "level": record.levelname.lower(), "message": line, **getattr(record, "event", {})}
            line = json.dumps(event, default=str)
        print(line, file=sys.stderr)


def prepare(*, level: int = logging.INFO, as_json: bool = False) -> None:
    """Keep the libraries quiet, turn warnings into one line each, and show what the logger `clearclip` says.

    With `as_json` these are JSON, one more for each image among them.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry is a line, and the last one an error
    log = logging.getLogger("clearclip")
    log.setLevel(level)
    log.propagate = False
    log.handlers = [_Lines(as_json=as_json)]
    logging.getLogger("clearclip.images").setLevel(logging.DEBUG if as_json else logging.NOTSET)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="clearclip")
    said: set[str] = set()

    def say_once(message: Warning | str, *_: Any, **__: Any) -> None:
        if (line := f"warning: {message}") not in said:  # Python's own memory is lost where filters change
            said.add(line)
            log.warning("%s", line)

    warnings.showwarning = say_once


def say(line: str) -> None:
    """One line on standard error, with `--quiet` too; JSON with `--log-json`."""
    logging.getLogger("clearclip").warning("%s", line)


def print_json(value: Any) -> None:
    """What `--json` prints."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def shown(text: str) -> str:
    """A text without controls: a terminal obeys what is not printable."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def print_table(title: str, columns: Iterable[Any], rows: Iterable[Iterable[str]]) -> None:
    """A table on the terminal, its texts as they are but for controls; a column is its name, or rich's `Column`."""
    from rich.console import Console
    from rich.table import Column, Table

    whole = (Column(column, overflow="fold") if isinstance(column, str) else column for column in columns)
    table = Table(*whole)
    for row in rows:
        table.add_row(*map(shown, row))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(shown(title), soft_wrap=True)  # a title of the table's own is broken and padded to its width
    console.print(table)


def tell_failed(failed: Iterable[ImageError]) -> None:
    """Say which images were left out, and end with code 1 if any was."""
    lines = [f"failed: {printable(' '.join(str(error).split()))}" for error in failed]
    for line in lines:
        say(line)
    if lines:
        raise typer.Exit(1)


def read_labels(path: Path, *, background: str | None) -> Vocabulary:
    """The vocabulary of a label file, after saying how it was read."""
    from clearclip import vocabulary

    labels, read = vocabulary.read_labels(path)
    parsed = vocabulary.Vocabulary.parse(labels, background=background)
    say(printable(read))
    return parsed


def items(texts: Iterable[str]) -> list[str]:
    """What a repeatable option names, each of whose texts may separate several by commas; empty texts stay."""
    return [item for text in texts for item in split_items(text) or [text]]


def split(text: str | None) -> list[str] | None:
    """The parts of a comma list; `None` stays."""
    return None if text is None else split_items(text)


@contextmanager
def writing(output: Path | None = None) -> Iterator[None]:
    """`UsageError` where the system refuses to write to `output`, or else to the file that its error names."""
    try:
        yield
    except OSError as error:
        place = output or error.filename
        reason = f"{place}: {error.strerror or error}" if place else str(error.strerror or error)
        raise UsageError(f"{reason} (choose another folder with --output)") from error
