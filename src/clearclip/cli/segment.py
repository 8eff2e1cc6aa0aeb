"""`clearclip segment` and `merge`: photographs and words → label maps, overlays and other files, here or elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError, printable
from clearclip.files.commas import unquoted
from clearclip.files.shards import Shard
from clearclip.methods import parse_methods

if TYPE_CHECKING:
    from clearclip.engine.report import Report

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Image files, folders (searched with their subfolders), globs, WebDataset tars, Parquet files, and "
        "s3://, gs:// addresses of any of these.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="png, mask, preview, overlay, masks, coco, panoptic, geojson, yolo, labelstudio, cvat, npz or parquet; "
        "repeat it, or separate by commas. Default: png and preview.",
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
ShardText = Annotated[
    str, typer.Option("--shard", help="Only part i of n of the images, as 1/4; see `clearclip merge`.")
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse larger images before they are decoded.")]


@o.bundles()
def segment(
    *,
    sources: Sources,
    output: o.Output,
    words: o.Words,
    method: o.MethodName = "clearclip",
    formats: Formats = None,
    things: Things = None,
    min_area: MinArea = 1,
    simplify: Simplify = 0.0,
    workers: o.Workers,
    batch_size: BatchSize = 4,
    overwrite: Overwrite = False,
    loading: o.Loading,
    max_pixels: MaxPixels = 100_000_000,
    limit: o.Limit = None,
    shard: ShardText = "1/1",
    as_json: o.AsJson = False,
) -> None:
    """Label every pixel of images with your own words.

    For each image OUTPUT gets <stem>.png, whose pixel values are label indices, and <stem>.overlay.jpg with a legend;
    labels.json says which label an index is and how the results were made, errors.csv which images failed and why. A
    label map has the size of the photograph as viewers show it, turned as its EXIF says. Started again, a run goes on
    with what is left.
    """
    rows = parse_methods(method)
    if len(rows) > 1:
        raise UsageError(
            f"segment takes one method, {len(rows)} were given: run it once per method, with a folder each"
        )
    part = Shard.parse(shard)
    vocabulary = words.vocabulary()
    from clearclip.engine.run import segment_files, segment_on_ray
    from clearclip.engine.shards import shard_folder
    from clearclip.engine.sources import scan
    from clearclip.formats import DEFAULT_FORMATS, Choices, get_formats

    names = o.items(formats or DEFAULT_FORMATS)
    for format_ in get_formats(names):  # before the model, which may be a download
        format_.check()
    fleet = workers.fleet(loading.device)
    scanned = scan(sources).first(limit).part(part, group_size=batch_size)
    output = shard_folder(output, part)
    load = partial(loading.load, rows[0], max_pixels=max_pixels)
    run = partial(segment_files, load()) if fleet is None else partial(segment_on_ray, load, fleet=fleet)
    try:
        report = run(
            scanned,
            labels=vocabulary,
            output=output,
            threshold=words.threshold,
            batch_size=batch_size,
            overwrite=overwrite,
            formats=names,
            choices=Choices(things=tuple(map(unquoted, o.items(things or ()))), min_area=min_area, simplify=simplify),
        )
    except KeyboardInterrupt:
        o.say(f"interrupted: what is complete stays in {printable(str(output))}; the same command goes on")
        raise
    report.left_out.update(scanned.left_out)
    tell(report, output, as_json=as_json)


def merge(
    output: Annotated[Path, typer.Argument(help="The output folder of all parts.")], as_json: o.AsJson = False
) -> None:
    """Put the results of `segment --shard 1/n` to `n/n` together, as one run would have left them."""
    from clearclip.engine.shards import merge_shards

    with o.writing(output):
        tell(merge_shards(output), output, as_json=as_json)


def tell(report: Report, output: Path, *, as_json: bool) -> None:
    """Say what became of a run's images; ends with code 1 if any failed."""
    if as_json:
        o.print_json(report.as_dict())
    else:
        parts = [f"{report.done} segmented"]
        if report.skipped:
            parts.append(f"{report.skipped} were there already (--overwrite makes them again)")
        if report.failed:
            parts.append(f"{len(report.failed)} failed")
        typer.echo(printable(f"{', '.join(parts)} → {output}"))
        if report.aside is not None:
            typer.echo(f"Results with other settings that were not made again are in {report.aside}")
        for remark in report.remarks():
            o.say(f"note: {printable(' '.join(remark.split()))}")
    for path, reason in report.failed:
        line = reason if str(path) in reason else f"{path}: {reason}"
        o.say(f"failed: {printable(' '.join(line.split()))}")
    if report.failed:
        raise typer.Exit(1)
