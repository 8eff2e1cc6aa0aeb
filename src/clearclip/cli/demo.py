"""`clearclip demo`: the main job on made scenes with the embedded model, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.files.commas import split_items


def demo(
    output: o.Output = Path("clearclip-demo"),
    model: o.Model = "tiny",
    method: Annotated[str, typer.Option(help="Comma list of methods.")] = "vanilla,maskclip,sclip,gem,clearclip",
    device: o.Device = "auto",
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many scenes are made.")] = 8,
    as_json: o.AsJson = False,
) -> None:
    """Make a few scenes, segment them by several methods and compare: offline, in seconds.

    OUTPUT gets comparison.png (image, truth and every method side by side), each scene with overlays, and demo.json.
    """
    methods = split_items(method)
    from clearclip.demo import run_demo

    report = run_demo(output, model=model, methods=methods, pictures=limit, device=device)
    if as_json:
        o.print_json({"miou": report.miou, "files": report.files})
        return
    rows = [(name, f"{value:.1f}") for name, value in report.miou.items()]
    o.print_table(f"{limit} made scenes, {model}", ("method", "mIoU"), rows)
    typer.echo(f"Look at {report.files[0]}")
    typer.echo("Your own photographs, with real weights (600 MB, once):")
    typer.echo("  clearclip segment PHOTO.jpg -l sky -l grass -l person --model clip-b16 -o OUT")
