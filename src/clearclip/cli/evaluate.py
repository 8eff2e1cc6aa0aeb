"""`clearclip evaluate`: measure methods on a benchmark or on a data set of one's own, in one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearclip.cli import benchmarks as b
from clearclip.cli import options as o
from clearclip.cli.results import Formats, check_formats, emit
from clearclip.errors import UsageError
from clearclip.files.outputs import hold
from clearclip.methods import Method, parse_method, parse_methods, settle

if TYPE_CHECKING:
    from clearclip.benchmarks import Dataset, Evaluation, Preset, Run
    from clearclip.engine.ray_pool import Fleet
    from clearclip.engine.ray_worker import Load

Target = Annotated[
    list[str] | None,
    typer.Argument(metavar="BENCHMARK", help="As `clearclip benchmarks` lists them; with --merge, output folders."),
]
SplitName = Annotated[
    str | None, typer.Option(help="Of scenes: test (default), or val to choose on; train pictures were trained on.")
]
Names = Annotated[
    str | None,
    typer.Option(
        "--names",
        help="Whose class names and thresholds: clearclip (default), sclip, proxyclip, freecp, cliper or corrclip.",
    ),
]
MethodNames = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="One or more, a comma list, in one pass: vanilla,clearclip[residual=beta:30]. Default: clearclip.",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="A paper's method by its own protocol, words and numbers for the benchmark: naclip, naclip-plain, sclip, "
        "scclip, scclip-l14, pearl, resclip, freecp.",
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Folder for results.jsonl and the state that a run goes on from.")
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option("--threshold", help="Background threshold, not the paper's: 0.3 for all, or METHOD=0.3; repeat it."),
]
ShardText = Annotated[str, typer.Option("--shard", help="Only part i of n of the images, as 1/4; see --merge.")]
Merge = Annotated[bool, typer.Option("--merge", help="Add up the finished shards in the output folder(s).")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out files that cannot be used and list them in the result.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew although there is a state.")]
Predictions = Annotated[
    Path | None,
    typer.Option("--save-predictions", help="Folder for every prediction as a palette PNG, a folder for each method."),
]
Worst = Annotated[
    int, typer.Option(min=0, max=100, help="Draw a sheet of the N worst and N best images of each method.")
]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="A preset's name; default: the benchmark's own.")]
OracleLabels = Annotated[
    bool,
    typer.Option("--oracle-labels", help="Only the labels of each image's truth compete: what the other words cost."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Set before the first image and recorded; nothing random is drawn.")
]

PATIENCE = 60.0
"""Seconds for which an evaluation waits for others that have just ended in the same folder."""


@o.bundles(without=("protocol",))
def evaluate(
    *,
    target: Target = None,
    data: b.Data = None,
    split: SplitName = None,
    names: Names = None,
    images: b.Images = None,
    annotations: b.Annotations = None,
    labels: o.LabelFile = None,
    background: o.Background = None,
    meaning: b.Meaning,
    method: MethodNames = None,
    preset: PresetName = None,
    output: Output = Path("clearclip-results"),
    threshold: Thresholds = None,
    limit: o.Limit = None,
    shard: ShardText = "1/1",
    merge: Merge = False,
    skip_broken: SkipBroken = False,
    overwrite: Overwrite = False,
    save_predictions: Predictions = None,
    worst: Worst = 0,
    workers: o.Workers,
    protocol: ProtocolName = None,
    oracle_labels: OracleLabels = False,
    loading: o.Loading,
    seed: Seed = 0,
    formats: Formats = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure one or more methods in one pass; interrupted and started again, the run goes on where it was.

    Scores are of the whole split and in percent. They are appended to results.jsonl in the output folder with
    everything they depend on; where the paper prints a number for a cell, it stands beside ours.
    """
    checked = check_formats(formats, as_json=as_json)
    from clearclip.benchmarks import Run, Shard
    from clearclip.benchmarks import merge as add_up
    from clearclip.benchmarks.results import check_results

    with o.writing():
        if merge:
            with hold(output, patience=PATIENCE):
                check_results(output)
            folders = [Path(folder) for folder in target or ()] or [output]
            _report(add_up(folders, output=output), output=output, formats=checked)
            return
        run = Run(
            output=output,
            limit=limit,
            shard=Shard.parse(shard),
            skip_broken=skip_broken,
            overwrite=overwrite,
            predictions=save_predictions,
            seed=seed,
        )
        chosen = None
        if preset is not None:
            chosen = _choose_preset(preset, _only(target), loading)
            own = {"method": method, "names": names, "threshold": threshold, "protocol": protocol}
            _refuse_beside(preset, loading, own | {"oracle_labels": oracle_labels or None})
            method, names = chosen.method, chosen.names
        dataset = b.choose_dataset(
            _only(target),
            data=data,
            split=split,
            names=names,
            preset=chosen,
            images=images,
            annotations=annotations,
            labels=labels,
            meaning=meaning,
            background=background,
        )
        rows = parse_methods(method or "clearclip")
        if chosen is not None:
            _say(f"{dataset.benchmark.name}: {chosen} prompts=the paper's 80")
        if names is not None:
            _tell_names(_only(target) or "", names, dataset, overridden=bool(threshold))
        thresholds = _thresholds(threshold, rows, dataset)
        if oracle_labels:
            loading = replace(loading, presence="oracle")
        fleet = workers.fleet(loading.device)
        deepest = max(rows, key=lambda row: row.depth)
        load = partial(loading.load, deepest, protocol=protocol or dataset.benchmark.protocol)
        with hold(output, patience=PATIENCE):
            check_results(output)
        found = _run(load, dataset, rows, fleet=fleet, thresholds=thresholds, run=run, worst=worst, preset=chosen)
        _report([found], output=output, formats=checked)


def _only(target: list[str] | None) -> str | None:
    if target and len(target) > 1:
        raise UsageError(f"one benchmark a run: {', '.join(target)} were named")
    return target[0] if target else None


def _choose_preset(name: str, benchmark: str | None, loading: o.Loading) -> Preset:
    """The preset for the benchmark and the model; says if another than the named one fits the model."""
    from clearclip.benchmarks.presets import get_preset, preset_for

    if benchmark is None:
        raise UsageError(f"--preset {name} goes with one of the papers' benchmarks: name it, as in evaluate voc21")
    fitting = preset_for(name, loading.model)
    if fitting != name:
        _say(f"{loading.model} is a ViT-L: the preset {fitting} has its numbers")
    return get_preset(fitting, benchmark)


def _refuse_beside(preset: str, loading: o.Loading, own: dict[str, Any]) -> None:
    """`UsageError` for options whose values a preset brings."""
    parts = ("short_side", "crop_size", "stride", "remainder", "template", "value_range", "presence", "area")
    given = own | {name: getattr(loading, name) for name in parts}
    options = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if options:
        raise UsageError(
            f"--preset {preset} is a published row as it is, and {', '.join(options)} would change it: leave that out, "
            "or leave out --preset and give all options"
        )


def _tell_names(name: str, names: str, dataset: Dataset, *, overridden: bool) -> None:
    """Say which words and thresholds a paper's class names change, and what the results are called."""
    from clearclip.benchmarks import vocabulary_of

    if dataset.benchmark.name == name:
        _say(f"{name}: the words of {names} are ClearCLIP's")
        return
    own = vocabulary_of(name).labels
    changed = [
        f"{mine.name} → {' | '.join(label.queries)}"
        for mine, label in zip(own, dataset.vocabulary.labels, strict=True)
        if mine != label
    ]
    limit = dataset.benchmark.threshold("*")
    background = "" if limit is None or overridden else f"; background threshold {limit:g}"
    _say(f"{dataset.benchmark.name}: {'; '.join(changed) or 'the same words'}{background}")


def _thresholds(given: list[str] | None, rows: Sequence[Method], dataset: Dataset) -> dict[str, float] | float | None:
    """Read `--threshold`; says which methods have none on a benchmark with a background."""
    from clearclip.benchmarks.configuration import thresholds_for

    by_method: dict[str, float] = {}
    for text in given or ():
        match = re.fullmatch(r"(?:(.+)=)?([0-9.]+)", text.strip())
        if match is None:
            raise UsageError(f"threshold {text!r}: write a probability, or METHOD=probability, as in clearclip=0.4")
        names = [row.spelling for row in rows] if match[1] is None else [parse_method(match[1]).spelling]
        by_method.update(dict.fromkeys(names, _probability(match[2])))
    wanted = by_method if given else None
    used = thresholds_for(dataset, rows, wanted=wanted)
    without = [name for name, value in used.items() if value is None]
    if dataset.vocabulary.background is not None and without:
        _say(
            f"{dataset.benchmark.name}: no background threshold is known for {', '.join(without)}; none is used "
            f"(--threshold {without[0]}=0.3 sets one)"
        )
    return wanted


def _probability(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"threshold {text!r} is not a number: a probability from 0 to 1 is needed") from None


def _run(
    load: Load,
    dataset: Dataset,
    rows: Sequence[Method],
    *,
    fleet: Fleet | None,
    thresholds: Mapping[str, float] | float | None,
    run: Run,
    worst: int,
    preset: Preset | None = None,
) -> Evaluation:
    from clearclip.benchmarks import evaluate as measure
    from clearclip.benchmarks import evaluate_on_ray
    from clearclip.benchmarks.state import file_name
    from clearclip.benchmarks.worst import sheets

    segmenter = load() if fleet is None or worst else None
    if preset is not None and segmenter is not None:
        settled = settle(rows[0], blocks=len(segmenter.backbone.blocks), model=segmenter.backbone.name).spelling
        _say(f"{dataset.benchmark.name}: with all numbers for this model: {settled}")
    names: dict[str, str] = {}
    if worst and segmenter is not None and run.output is not None:
        stem = f"worst-{dataset.benchmark.name}-{Path(segmenter.backbone.name).name}"
        names = {row.spelling: file_name(f"{stem}-{row.spelling}") + f"{run.shard.suffix}.png" for row in rows}
        with hold(run.output, patience=PATIENCE) as outputs:
            outputs.check(names.values())
    with b.measuring_bar(dataset.benchmark.name) as advance:
        if fleet is not None:
            found = evaluate_on_ray(
                load, dataset, methods=rows, fleet=fleet, thresholds=thresholds, run=run, on_image=advance
            )
        elif segmenter is not None:
            found = measure(segmenter, dataset, methods=rows, thresholds=thresholds, run=run, on_image=advance)
    if names and segmenter is not None and run.output is not None:
        drawn = sheets(found, segmenter, dataset, run=run, count=worst)
        with hold(run.output, patience=PATIENCE) as outputs:
            for method, sheet in drawn.items():
                with outputs.write(names[method]) as partial:
                    sheet.save(partial)
                _say(f"worst and best images of {method}: {run.output / names[method]}")
    return found


def _report(found: Sequence[Evaluation], *, output: Path, formats: Sequence[str]) -> None:
    """Record whole runs, and print."""
    from clearclip.benchmarks import records, table
    from clearclip.benchmarks.results import append_results

    everything: list[dict[str, Any]] = []
    for evaluation in found:
        everything += records(evaluation)
        for warning in evaluation.warnings:
            o.say(f"warning: {warning}")
        for sentence in evaluation.skipped:
            o.say(f"left out: {sentence}")
        if evaluation.shard.count == 1:
            with hold(output, patience=PATIENCE):
                _say(f"recorded in {append_results(evaluation, output)}")
        else:
            _say(f"shard {evaluation.shard} is finished; when all are: clearclip evaluate --merge -o {output}")
    emit(everything, table(everything), formats=formats, title="Results in percent")


def _say(text: str) -> None:
    o.say(text)
