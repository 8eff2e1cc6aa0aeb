"""Measuring the cells of tables: `evaluate` with one shared state, so that no cell is computed twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from clearclip.backbones import Backbone
from clearclip.benchmarks import BENCHMARKS, Dataset, Evaluation, Run, evaluate, open_benchmark
from clearclip.benchmarks.configuration import thresholds_for
from clearclip.benchmarks.evaluation import Advanced
from clearclip.benchmarks.results import append_results
from clearclip.decompose import fit_depth
from clearclip.encode.text import TemplatesLike
from clearclip.errors import ClearclipError, UsageError, nearest
from clearclip.methods import Method
from clearclip.paper.models import Model
from clearclip.paper.rows import unique
from clearclip.segmenter import Segmenter

Progress = Callable[[str], AbstractContextManager[Advanced | None]]


def _quiet(name: str) -> AbstractContextManager[Advanced | None]:
    return nullcontext()


@dataclass(frozen=True)
class Cell:
    """One measured mIoU, or why there is none.

    Attributes:
        miou: Percent; `None` where nothing was measured.
        method: The spelling that was run; shallower models than GEM's six blocks run it over half of theirs.
        images: How many were counted.
        is_official: Whether it may be compared with the paper's, as `Evaluation.is_official`.
        warnings: What must be known to compare the number with others.
    """

    miou: float | None
    reason: str = ""
    method: str = ""
    threshold: float | None = None
    images: int = 0
    is_official: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """Facts of a model that was loaded."""

    width: int
    checkpoint: str
    license: str | None
    provenance: str


@dataclass
class Lab:
    """Data, weights and measurements of one reproduction; device, dtype and templates as `clearclip.load`.

    Attributes:
        output: Folder of the shared state and of `results.jsonl`.
        data: Folder that holds one folder per benchmark, or one benchmark.
        places: By benchmark, its folder.
        limit: Only the first images of each benchmark.
        tokenizer: For BLIP alone, whose files hold none.
        skip_broken: As `Run`.
        progress: Makes a progress bar for a name.
    """

    output: Path
    data: Path | None = None
    places: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None
    templates: TemplatesLike = None
    skip_broken: bool = False
    progress: Progress = _quiet
    loaded: dict[str, Loaded] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    _datasets: dict[str, Dataset | ClearclipError] = field(default_factory=dict)
    _backbone: tuple[str, Backbone] | None = None

    def dataset(self, benchmark: str) -> Dataset:
        """A benchmark's files; the message of its `ClearclipError` is the reason of empty cells."""
        if benchmark not in self._datasets:
            try:
                self._datasets[benchmark] = open_benchmark(benchmark, data=self._place(benchmark))
            except ClearclipError as error:
                self._datasets[benchmark] = error
        found = self._datasets[benchmark]
        if isinstance(found, ClearclipError):
            raise found
        return found

    def _place(self, benchmark: str) -> Path | None:
        if benchmark in self.places:
            return self.places[benchmark]
        if self.data is None:
            return None
        own = self.data / benchmark
        return own if own.is_dir() else self.data

    def backbone(self, model: Model) -> Backbone:
        """Load a model; only the last one is kept. The message of its `ClearclipError` is the reason of empty cells."""
        if model.name in self.absent:
            raise ClearclipError(self.absent[model.name])
        if self._backbone is None or self._backbone[0] != model.name:
            self._backbone = None
            try:
                backbone = model.load(tokenizer=self.tokenizer if model.name.startswith("blip") else None)
            except ClearclipError as error:
                self.absent[model.name] = str(error)
                raise
            self._backbone = (model.name, backbone)
            self.loaded[model.name] = Loaded(
                width=backbone.width,
                checkpoint=backbone.checkpoint_hash,
                license=backbone.license,
                provenance=model.provenance(backbone),
            )
        return self._backbone[1]

    def segmenter(self, model: Model, benchmark: str) -> Segmenter:
        """A model with a benchmark's protocol."""
        return Segmenter(
            self.backbone(model),
            method="clearclip",
            device=self.device,
            dtype=self.dtype,
            protocol=BENCHMARKS[benchmark].protocol,
            templates=self.templates,
        )

    def measure(self, model: Model, benchmark: str, methods: Iterable[Method]) -> None:
        """Fill the cells of a model on a benchmark: from earlier runs in the output folder, the rest in one pass.

        What cannot be measured becomes an empty cell with its reason; `ClearclipError` if a file of the benchmark is
        broken and `skip_broken` is off.
        """
        wanted = unique(methods)
        try:
            dataset = self.dataset(benchmark)
            segmenter = self.segmenter(model, benchmark)
            segmenter.embed(dataset.vocabulary)
        except ClearclipError as error:
            self.cells |= {(model.name, benchmark, row.spelling): Cell(None, str(error)) for row in wanted}
            return
        runs = {row.spelling: fit_depth(row, blocks=len(segmenter.backbone.blocks)) for row in wanted}
        rows = unique(runs.values())
        limits = {name: limit for name, limit in paper_thresholds(dataset, rows).items() if limit is not None}
        run = Run(output=self.output, limit=self.limit, skip_broken=self.skip_broken)
        with self.progress(f"{model.name} {benchmark}") as advance:
            outcome = evaluate(segmenter, dataset, methods=rows, thresholds=limits or None, run=run, on_image=advance)
        append_results(outcome, self.output)
        for spelling, row in runs.items():
            self.cells[model.name, benchmark, spelling] = _cell(outcome, row.spelling)

    def cell(self, model: str, benchmark: str, method: Method) -> Cell:
        """What `measure` found for a canonical row; an empty cell with a reason where it was not measured."""
        return self.cells.get((model, benchmark, method.spelling), Cell(None, "not asked for"))


def paper_thresholds(dataset: Dataset, rows: Sequence[Method]) -> dict[str, float | None]:
    """Background thresholds by spelling: the paper's; a method for which it names none gets ClearCLIP's.

    So the ablations differ from ClearCLIP in nothing but the axis that is varied.
    """
    if dataset.vocabulary.background is None:
        return thresholds_for(dataset, rows)
    known = dataset.benchmark.thresholds
    return thresholds_for(
        dataset, rows, wanted={row.spelling: known.get(row.spelling, known["clearclip"]) for row in rows}
    )


def _cell(outcome: Evaluation, method: str) -> Cell:
    miou = 100 * outcome.scores(method).miou
    return Cell(
        miou=None if math.isnan(miou) else miou,
        reason="no labelled pixel in these images" if math.isnan(miou) else "",
        method=method,
        threshold=outcome.config[method].threshold,
        images=outcome.images,
        is_official=outcome.is_official(method),
        warnings=outcome.warnings,
    )


def parse_data(values: Iterable[str]) -> tuple[Path | None, dict[str, Path]]:
    """Read `--data`: `DIR`, at most once, and `benchmark=DIR`. Returns the folder, and folders by benchmark."""
    folder: Path | None = None
    places: dict[str, Path] = {}
    for value in values:
        name, equals, place = value.partition("=")
        if equals and not Path(value).is_dir():
            if name not in BENCHMARKS:
                raise UsageError(f"benchmark {name!r} in --data {value} is not known: {nearest(name, BENCHMARKS)}")
            places[name] = Path(place)
        elif folder is not None:
            raise UsageError(f"--data {folder} and --data {value}: write NAME=DIR for all but one")
        else:
            folder = Path(value)
    for path in (*places.values(), *([folder] if folder else [])):
        if not path.is_dir():
            raise UsageError(f"--data {path} is no folder: give one that holds a folder per benchmark, or NAME=DIR")
    return folder, places
