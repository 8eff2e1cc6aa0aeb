"""`clearclip large`: an image of any size, in tiles, with its coordinates."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import ClearclipError, ImageError, UsageError, printable

Bands = Annotated[
    str | None,
    typer.Option(help="One band, or three as red,green,blue, from 1: '3,2,1'. Default: those the file calls so."),
]


@o.bundles(without=("short_side",))
def large(
    *,
    image: Annotated[str, typer.Argument(help="GeoTIFF, JPEG 2000, JPEG, PNG, WebP or GIF; others with --driver.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="GeoTIFF (.tif) of label indices.")],
    words: o.Words,
    scale: Annotated[
        float,
        typer.Option(
            help="Pixels shown to the model per pixel of the image: 0.25 puts four times the ground in a window."
        ),
    ] = 1.0,
    bands: Bands = None,
    driver: Annotated[
        str | None,
        typer.Option(
            help="Open the image with this GDAL driver, which may also open all other files and addresses that it "
            "names: VRT, HFA, NITF, BMP, or GTiff for an address. Only for images that you trust."
        ),
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="GeoTIFF for each pixel's best probability.")] = None,
    polygons: Annotated[
        Path | None,
        typer.Option(
            help="GeoJSON for the labels' regions, in longitude and latitude (or pixels without coordinates)."
        ),
    ] = None,
    method: o.MethodName = "clearclip",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that clearclip made.")] = False,
    max_memory: Annotated[float, typer.Option(help="Refuse what would take more memory, in GB.")] = 8.0,
    loading: o.Loading,
    as_json: o.AsJson = False,
) -> None:
    """Label every pixel of an image of any size, in tiles without seams; coordinates and nodata are kept.

    Memory grows with the image's width alone. Windows without a valid pixel are skipped. Needs the extra `geo`.
    """
    vocabulary = words.vocabulary()
    chosen = None if bands is None else _numbers(bands)
    from clearclip.files.optional import require
    from clearclip.large.label import segment_large

    require("rasterio", extra="geo", purpose="an image in tiles")
    if ":" not in image and driver is None and not Path(image).exists():  # before the model, which may be a download
        raise UsageError(f"{image}: there is no such file")
    segmenter = loading.load(method)
    try:
        result = segment_large(
            segmenter,
            image,
            labels=vocabulary,
            output=output,
            scale=scale,
            threshold=words.threshold,
            bands=chosen,
            driver=driver,
            scores=scores,
            polygons=polygons,
            overwrite=overwrite,
            max_memory=max_memory * 1e9,
        )
    except ImageError as error:  # the only one: nothing of what was asked for can be done
        raise UsageError(str(error)) from error
    except OSError as error:
        raise ClearclipError(str(error)) from error
    if as_json:
        o.print_json(asdict(result))
        return
    height, width = result.size
    found = sum(result.pixels.values())
    typer.echo(printable(f"{width}×{height} pixels, {result.encoded} of {result.windows} windows → {output}"))
    for name, number in sorted(result.pixels.items(), key=lambda item: -item[1]):
        if number:
            typer.echo(printable(f"  {number / found:6.1%}  {name}"))
    for name, reason in result.absent.items():
        typer.echo(printable(f"  left out: {name} ({reason})"))
    if result.nodata:
        typer.echo(f"  nodata: {result.nodata / (height * width):.1%} of the pixels")
    if result.polygons is not None:
        typer.echo(printable(f"  {result.polygons} polygons → {polygons}"))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--bands {text}: numbers with commas between are needed, as in 3,2,1") from error
