"""`clearclip inspect`: feature maps and statistics of every block, for images of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError
from clearclip.files.outputs import hold

Method = Annotated[
    str, typer.Option("--method", help="Whose attention and residual; the default is the model as it is.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder in which the page's folder `inspect` is made.")]


def register(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The program.
    """
    app.command("inspect")(inspect)


def inspect(
    images: Annotated[list[str], typer.Argument(help="Image files, folders and globs.")],
    model: o.Model = "clip-b16",
    method: Method = "vanilla",
    output: Output = Path("clearclip-inspect"),
    protocol: o.ProtocolName = "native",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    limit: o.Limit = None,
    as_json: o.AsJson = False,
) -> None:
    """Show what flows through a model: X_res, X_attn and X_sum of the last block, and every block in numbers."""
    o.prepare()
    from clearclip.engine.run import find_images
    from clearclip.inspection.features import inspect_image
    from clearclip.paper.figure2 import features_page
    from clearclip.paper.measure import Lab
    from clearclip.paper.models import Model
    from clearclip.paper.page import REPORT_NAME, about

    paths = find_images(images)[:limit]
    segmenter = o.load_segmenter(model, method="clearclip", device=device, dtype=dtype, protocol=protocol)
    lab = Lab(output=output, device=device, dtype=dtype)
    try:
        with hold(output) as outputs:
            outputs.check([f"inspect/{name}" for name in (REPORT_NAME, "numbers.json")])
            seen = [inspect_image(segmenter, path, method=method, name=path.stem) for path in paths]
            page = features_page(seen, name="inspect", title="What flows through the model")
            report = page.write(outputs, about=about(lab, [Model(model)]))
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror or error} (choose another folder with --output)") from error
    if as_json:
        typer.echo(json.dumps({"findings": page.findings, "statistics": page.numbers}, indent=2, ensure_ascii=False))
        return
    for sentence in page.findings:
        typer.echo(sentence)
    typer.echo(str(report))
