"""`clearclip compare`: one's own images by several methods, side by side, with a shared legend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import ImageError, printable
from clearclip.files.outputs import hold
from clearclip.methods import parse_methods

Methods = Annotated[str, typer.Option("--methods", "--method", help="A comma list, as `clearclip methods` lists them.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for compare.png, or the picture's own path.")]


@o.bundles(without=("short_side", "crop_size", "stride", "remainder"))
def compare(
    *,
    images: o.Images,
    words: o.Words,
    methods: Methods = "vanilla,maskclip,sclip,gem,clearclip",
    output: Output = Path("clearclip-compare"),
    loading: o.Loading,
    limit: o.Limit = None,
) -> None:
    """Draw what several methods make of images: a row for each image, a column for each method, one legend.

    The trunk runs once for all methods, and once more for GEM where windows have another size than the model's own.
    OUTPUT is a folder, or a .png, .svg or .pdf.
    """
    rows = parse_methods(methods)
    vocabulary = words.vocabulary()
    from clearclip.decompose import fit_depth
    from clearclip.engine.run import scan_images
    from clearclip.engine.sources import summary
    from clearclip.inspection.sheets import SheetRow, draw_sheet
    from clearclip.inspection.style import require_matplotlib, save

    require_matplotlib()
    paths, left_out = scan_images(images)
    segmenter = loading.load("clearclip")
    blocks = len(segmenter.backbone.blocks)
    fitted = [fit_depth(row, blocks=blocks) for row in rows]
    for row, run in zip(rows, fitted, strict=True):
        if row != run:
            o.say(f"{row.spelling}: {loading.model} has {blocks} blocks, so it is run as {run.spelling}")
    place = output if output.suffix.lower() in (".png", ".svg", ".pdf") else output / "compare.png"
    titles = {run.spelling: row.name.upper() for row, run in zip(rows, fitted, strict=True) if row != run}
    with o.writing(place), hold(place.parent) as outputs:
        outputs.check([place.name])
        sheet, failed = [], []
        for path in paths[:limit]:
            try:
                encoded = segmenter.encode(path)
            except ImageError as error:
                failed.append(error)
                continue
            found = segmenter.classify(encoded, vocabulary, method=fitted, threshold=words.threshold)
            shown = next(iter(found.values()))
            sheet.append(SheetRow(path.stem, shown.image, {name: one.label_map for name, one in found.items()}))
            vocabulary = shown.vocabulary
        if not sheet:
            raise failed[0]
        with outputs.write(place.name) as partial:
            save(draw_sheet(sheet, vocabulary, titles=titles), partial)
    typer.echo(str(place))
    if left_out:
        o.say(f"note: {printable(summary(left_out))}")
    o.tell_failed(failed)
