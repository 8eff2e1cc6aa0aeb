"""`clearclip segment`: photographs and words → label maps, overlays and other files, here or on a cluster."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError, printable
from clearclip.methods import parse_methods

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Image files, folders (searched with their subfolders), globs, WebDataset tars, Parquet files, and "
        "s3://, gs:// addresses of any of these.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="png, preview, overlay, masks, coco, panoptic, geojson, yolo, labelstudio, cvat, npz or parquet; repeat "
        "it. Default: png and preview.",
    ),
]
Things = Annotated[
    list[str] | None,
    typer.Option(help="A label that is countable: each connected region becomes an object. Repeat it."),
]
MinArea = Annotated[int, typer.Option(min=0, help="Leave out regions of fewer pixels (annotation formats).")]
Simplify = Annotated[
    float, typer.Option(min=0, help="How far polygons may leave the pixels' edges, in pixels; 0: exact.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images whose windows go through the encoder together.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Make existing results again; never replaces a file that no run wrote.")
]


def register(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The program.
    """
    app.command("segment")(segment)


def segment(
    sources: Sources,
    output: o.Output,
    label: o.Labels = None,
    labels: o.LabelFile = None,
    background: o.Background = None,
    threshold: o.Threshold = None,
    model: o.Model = "clip-b16",
    method: o.MethodName = "clearclip",
    formats: Formats = None,
    things: Things = None,
    min_area: MinArea = 1,
    simplify: Simplify = 0.0,
    engine: o.EngineName = o.Engine.local,
    workers: o.Workers = None,
    address: o.Address = None,
    cpus_per_worker: o.Cpus = 1.0,
    gpus_per_worker: o.Gpus = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    batch_size: BatchSize = 4,
    overwrite: Overwrite = False,
    protocol: o.ProtocolName = "native",
    short_side: o.ShortSide = None,
    crop_size: o.CropSize = None,
    stride: o.Stride = None,
    template: o.Templates = None,
    tokenizer: o.Tokenizer = None,
    max_pixels: o.MaxPixels = 100_000_000,
    limit: o.Limit = None,
    as_json: o.AsJson = False,
) -> None:
    """Label every pixel of images with your own words.

    For each image OUTPUT gets <stem>.png, whose pixel values are label indices, and <stem>.overlay.jpg with a legend;
    labels.json says which label an index is and how the results were made, errors.csv which images failed and why.
    Started again, a run goes on with what is left.
    """
    o.prepare()
    rows = parse_methods(method)
    if len(rows) > 1:
        raise UsageError(
            f"segment takes one method, {len(rows)} were given: run it once per method, with a folder each"
        )
    vocabulary = o.read_labels(label, labels, background)
    from clearclip.engine.run import segment_files, segment_on_ray
    from clearclip.engine.sources import find_sources
    from clearclip.formats import DEFAULT_FORMATS, Choices

    fleet = o.fleet(engine, workers, address=address, cpus=cpus_per_worker, gpus=gpus_per_worker, device=device)
    found = find_sources(sources)[:limit]
    load = partial(
        o.load_segmenter,
        model,
        method=rows[0],
        device=device,
        dtype=dtype,
        protocol=protocol,
        tokenizer=tokenizer,
        templates=template,
        short_side=short_side,
        crop_size=crop_size,
        stride=stride,
        max_pixels=max_pixels,
    )
    choices = Choices(things=tuple(things or ()), min_area=min_area, simplify=simplify)
    run = partial(segment_files, load()) if fleet is None else partial(segment_on_ray, load, fleet=fleet)
    report = run(
        found,
        labels=vocabulary,
        output=output,
        threshold=threshold,
        batch_size=batch_size,
        overwrite=overwrite,
        formats=tuple(formats or DEFAULT_FORMATS),
        choices=choices,
    )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print(output, report.done, report.skipped, len(report.failed))
        if report.aside is not None:
            typer.echo(f"Results with other settings that were not made again are in {report.aside}")
    for path, reason in report.failed:
        typer.echo(f"failed: {_one_line(path, reason)}", err=True)
    if report.failed:
        raise typer.Exit(1)


def _one_line(path: Path | str, reason: str) -> str:
    return printable(" ".join((reason if str(path) in reason else f"{path}: {reason}").split()))


def _print(output: Path, done: int, skipped: int, failed: int) -> None:
    parts = [f"{done} segmented"]
    if skipped:
        parts.append(f"{skipped} were there already (--overwrite makes them again)")
    if failed:
        parts.append(f"{failed} failed")
    typer.echo(printable(f"{', '.join(parts)} → {output}"))
