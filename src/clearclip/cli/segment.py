"""`clearclip segment`: photographs and words → label maps and overlays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError, printable
from clearclip.methods import parse_methods


def register(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The program.
    """
    app.command("segment")(segment)


def segment(
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders (searched with their subfolders) and globs.")
    ],
    output: o.Output,
    label: o.Labels = None,
    labels: o.LabelFile = None,
    background: o.Background = None,
    threshold: o.Threshold = None,
    model: o.Model = "clip-b16",
    method: o.MethodName = "clearclip",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images whose windows go through the encoder together.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make existing results again.")] = False,
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
    labels.json says which label an index is and how the results were made. Existing results are skipped.
    """
    o.prepare()
    rows = parse_methods(method)
    if len(rows) > 1:
        raise UsageError(
            f"segment takes one method, {len(rows)} were given: run it once per method, with a folder each"
        )
    vocabulary = o.read_labels(label, labels, background)
    from clearclip.batch import find_images, segment_files

    paths = find_images(images)[:limit]
    segmenter = o.load_segmenter(
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
    report = segment_files(
        segmenter,
        paths,
        labels=vocabulary,
        output=output,
        threshold=threshold,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print(output, report.done, report.skipped, len(report.failed))
    for path, reason in report.failed:
        typer.echo(f"failed: {_one_line(path, reason)}", err=True)
    if report.failed:
        raise typer.Exit(1)


def _one_line(path: Path, reason: str) -> str:
    return printable(" ".join((reason if str(path) in reason else f"{path}: {reason}").split()))


def _print(output: Path, done: int, skipped: int, failed: int) -> None:
    parts = [f"{done} segmented"]
    if skipped:
        parts.append(f"{skipped} were there already (--overwrite makes them again)")
    if failed:
        parts.append(f"{failed} failed")
    typer.echo(printable(f"{', '.join(parts)} → {output}"))
