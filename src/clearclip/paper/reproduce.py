"""`reproduce`: targets → measured cells → pages. The one place that knows all targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clearclip.benchmarks import Dataset
from clearclip.benchmarks.evaluation import predict
from clearclip.benchmarks.results import check_results
from clearclip.benchmarks.state import file_name
from clearclip.decompose import fit_depth
from clearclip.encode.images import load_image
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.outputs import Outputs, hold
from clearclip.inspection.features import inspect_image
from clearclip.inspection.sheets import SheetRow, draw_sheet, same_colors
from clearclip.methods import Method, parse_methods
from clearclip.paper.figure1 import figure1_page
from clearclip.paper.figure2 import features_page
from clearclip.paper.measure import Lab, paper_thresholds
from clearclip.paper.models import Model
from clearclip.paper.page import REPORT_NAME, Page, about
from clearclip.paper.rows import ALL_EIGHT, SHEET_METHODS, Target, methods_of, unique
from clearclip.paper.table1 import table1_page
from clearclip.paper.table2 import table2_page

TABLES = {"figure1": figure1_page, "table1": table1_page, "table2": table2_page}
PICTURE_IMAGES = {"figure2": 2, "figure3": 4, "figure4": 4}
"""How many of a benchmark's first images a picture shows where none is named."""


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    Attributes:
        models: `None`: the paper's for each target, or `tiny` where the only benchmark is `scenes`.
        benchmarks: `None`: the paper's for each target, or `scenes` where no data was named.
        images: For figures 2–4: ids of the benchmark's images, or files; empty: the benchmark's first ones.
    """

    targets: tuple[Target, ...]
    models: tuple[Model, ...] | None = None
    benchmarks: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()

    def benchmarks_of(self, target: Target, *, has_data: bool) -> tuple[str, ...]:
        """Which benchmarks a target is made on."""
        if self.benchmarks is not None:
            return self.benchmarks
        return target.benchmarks if has_data else ("scenes",)

    def models_of(self, target: Target, *, has_data: bool) -> tuple[Model, ...]:
        """Which models a target is made with."""
        if self.models is not None:
            return self.models
        only_scenes = self.benchmarks_of(target, has_data=has_data) == ("scenes",)
        return (Model("tiny"),) if only_scenes else tuple(map(Model, target.models))


def reproduce(request: Request, lab: Lab, *, say: Callable[[str], None] = print) -> list[Path]:
    """Make the pages of targets in `lab.output`; what earlier runs measured there is not measured again.

    The folder is held meanwhile; pages of earlier runs are replaced, other files never. Returns the `report.md` of each
    target, and for several targets one that links them.
    """
    with hold(lab.output) as outputs:
        names = [f"{target.name}/{name}" for target in request.targets for name in (REPORT_NAME, "numbers.json")]
        outputs.check([*names, *([REPORT_NAME] if len(request.targets) > 1 else [])])
        check_results(lab.output)
        return _reproduce(request, lab, outputs, say=say)


def _reproduce(request: Request, lab: Lab, outputs: Outputs, *, say: Callable[[str], None]) -> list[Path]:
    has_data = lab.data is not None or bool(lab.places)
    plan = [
        (target, request.models_of(target, has_data=has_data), request.benchmarks_of(target, has_data=has_data))
        for target in request.targets
    ]
    needs: dict[Model, dict[str, list[Method]]] = {}  # of all targets, for one pass of each model and benchmark
    for target, models, benchmarks in plan:
        for model in models:
            methods = methods_of(target.name, model.name)
            for benchmark in benchmarks if methods else ():
                needs.setdefault(model, {}).setdefault(benchmark, []).extend(methods)
    for model, by_benchmark in needs.items():
        for benchmark, methods in by_benchmark.items():
            rows = unique(methods)
            lab.measure(model, benchmark, rows)
            reasons = {lab.cell(model.name, benchmark, row).reason for row in rows} - {""}
            say(f"{model.name} on {benchmark}: {'; '.join(reasons) or f'{len(rows)} methods'}")
    pages, reports = [], []
    for target, models, benchmarks in plan:
        if target.name in TABLES:
            page = TABLES[target.name](lab, models, benchmarks)
        else:
            page = _pictures(target, request, lab, models=models, benchmarks=benchmarks)
        reports.append(page.write(outputs, about=about(lab, models)))
        pages.append(page)
        say(f"{target.name}: {reports[-1]}")
    if len(pages) > 1:
        reports.append(_index(pages, outputs))
    return reports


def _pictures(
    target: Target, request: Request, lab: Lab, *, models: Sequence[Model], benchmarks: Sequence[str]
) -> Page:
    """Figures 2–4 with the first model that can be loaded; a page of reasons where nothing can be shown."""
    page = Page(target.name, target.title)
    model = _first_at_hand(models, lab, page)
    if model is None:
        return page
    any_will_do = not request.benchmarks and benchmarks != ("scenes",)
    found = _datasets(dict.fromkeys((*benchmarks, *ALL_EIGHT)) if any_will_do else benchmarks, lab, page)
    provenance = lab.loaded[model.name].provenance
    weights = [f"Weights: {provenance}"] if provenance else []
    for dataset in found[:1] if request.benchmarks is None else found:
        vocabulary = same_colors(dataset.vocabulary)
        segmenter = lab.segmenter(model, dataset.benchmark.name)
        picked = pick_images(dataset, request.images, count=PICTURE_IMAGES[target.name])
        if target.name == "figure2":
            features = features_page([inspect_image(segmenter, one.image, name=one.name) for one in picked])
            features.notes += [*page.notes, *weights]
            return features
        blocks = len(segmenter.backbone.blocks)
        rows = [fit_depth(row, blocks=blocks) for row in parse_methods(SHEET_METHODS[target.name])]
        limits = paper_thresholds(dataset, rows)
        sheet = [replace(one, label_maps=predict(one.image, segmenter, dataset, thresholds=limits)) for one in picked]
        name = dataset.benchmark.name
        page.pictures[f"{target.name}-{name}.png"] = (
            draw_sheet(sheet, vocabulary, titles={row.spelling: "GEM" for row in rows if row.name == "gem"}),
            f"{model.name} on {name}: "
            + (
                "no truth" if all(one.truth is None for one in picked) else "below each picture its own mIoU in percent"
            ),
        )
        page.numbers += [
            {
                "model": model.name,
                "benchmark": name,
                "image": row.name,
                "method": method,
                "miou": row.miou(method, classes=len(vocabulary.names)),
            }
            for row in sheet
            for method in row.label_maps
        ]
    if target.name == "figure2":
        return page
    page.lead = [
        "The same frozen weights, read by several methods. Colours are those of the legend; uncoloured pixels of the "
        "truth are ignored. The legend names what covers at least 0.5 % of a picture. One image's mIoU is the mean "
        "over the classes that occur in it or in its prediction: it is no benchmark's result."
    ]
    page.notes += weights
    return page


def _first_at_hand(models: Sequence[Model], lab: Lab, page: Page) -> Model | None:
    for model in models:
        try:
            lab.backbone(model)
        except ClearclipError as error:
            page.notes.append(f"{model.name}: {error}")
        else:
            if len(models) > 1:
                page.notes.append(f"Pictures show the first model at hand: {model.name}.")
            return model
    return None


def _datasets(benchmarks: Iterable[str], lab: Lab, page: Page) -> list[Dataset]:
    found = []
    for benchmark in benchmarks:
        try:
            found.append(lab.dataset(benchmark))
        except ClearclipError as error:
            page.notes.append(f"{benchmark}: {error}")
    return found


def pick_images(dataset: Dataset, names: Sequence[str], *, count: int) -> list[SheetRow]:
    """The images of a picture, by id or by file, which has no truth; the first count images where none is named."""
    items = {item.id: item for item in dataset.items}
    picked = []
    for name in names or list(items)[:count]:
        if name in items:
            sample = items[name].read()
            picked.append(SheetRow(name, sample.image, {}, sample.truth))
        elif Path(name).is_file():
            picked.append(SheetRow(Path(name).stem, load_image(name), {}))
        else:
            raise UsageError(
                f"image {name!r} is no file and no image of {dataset.benchmark.name}: its first ones are "
                f"{', '.join(list(items)[:3])}"
            )
    return picked


def _index(pages: Sequence[Page], outputs: Outputs) -> Path:
    """One page that links the others and repeats what was found."""
    parts = ["# The paper's tables and figures, reproduced"]
    for page in pages:
        sentences = "\n".join(f"- {sentence}" for sentence in page.findings)
        parts.append(f"## [{page.title}]({file_name(page.name)}/report.md)" + (f"\n\n{sentences}" if sentences else ""))
    with outputs.write(REPORT_NAME) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return outputs.folder / REPORT_NAME
