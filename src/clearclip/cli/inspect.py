"""`clearclip inspect`: feature maps and statistics of every block, for images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import ImageError, printable
from clearclip.files.outputs import hold

Method = Annotated[
    str, typer.Option("--method", help="Whose attention and residual; the default is the model as it is.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder in which the page's folder `inspect` is made.")]


@o.bundles(without=("short_side", "crop_size", "stride", "remainder", "template", "tokenizer"))
def inspect(
    *,
    images: o.Images,
    method: Method = "vanilla",
    output: Output = Path("clearclip-inspect"),
    loading: o.Loading,
    limit: o.Limit = None,
    as_json: o.AsJson = False,
) -> None:
    """Show what flows through a model: X_res, X_attn and X_sum of the last block, and every block in numbers."""
    from clearclip.engine.run import scan_images
    from clearclip.engine.sources import summary
    from clearclip.inspection.features import inspect_image
    from clearclip.inspection.style import require_matplotlib
    from clearclip.paper.figure2 import features_page
    from clearclip.paper.measure import Lab
    from clearclip.paper.models import Model
    from clearclip.paper.page import REPORT_NAME, about

    require_matplotlib()
    paths, left_out = scan_images(images)
    segmenter = loading.load("clearclip")
    lab = Lab(output=output, device=loading.device, dtype=loading.dtype)
    with o.writing(output), hold(output) as outputs:
        outputs.check([f"inspect/{name}" for name in (REPORT_NAME, "numbers.json")])
        seen, failed = [], []
        for path in paths[:limit]:
            try:
                seen.append(inspect_image(segmenter, path, method=method, name=path.stem))
            except ImageError as error:
                failed.append(error)
        if not seen:
            raise failed[0]
        page = features_page(seen, name="inspect", title="What flows through the model")
        report = page.write(outputs, about=about(lab, [Model(loading.model)]))
    if as_json:
        o.print_json({"findings": page.findings, "statistics": page.numbers})
    else:
        for sentence in page.findings:
            typer.echo(sentence)
        typer.echo(str(report))
        if left_out:
            o.say(f"note: {printable(summary(left_out))}")
    o.tell_failed(failed)
