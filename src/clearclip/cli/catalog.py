"""`clearclip models` and `clearclip methods`: what there is. No torch."""

from __future__ import annotations

from dataclasses import asdict

from clearclip.checkpoints import CHECKPOINTS
from clearclip.cli import options as o
from clearclip.methods import ABOUT, AXES, METHODS


def models(as_json: o.AsJson = False) -> None:
    """List the checkpoints with friendly names, and what else --model takes."""
    if as_json:
        o.print_json([asdict(row) for row in CHECKPOINTS.values()])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Checkpoints", title_justify="left")
    for column in ("name", "family", "architecture", "licence of the weights", "about"):
        table.add_column(column)
    for row in CHECKPOINTS.values():
        table.add_row(row.name, row.family, row.architecture, row.license, row.about)
    console = Console()
    console.print(table)
    console.print(
        "--model also takes: open_clip's ARCHITECTURE/TAG (ViT-B-16-quickgelu/openai) or ARCHITECTURE/FILE,\n"
        "hf-hub:ORG/NAME and local-dir:FOLDER (open_clip), a Hugging Face ORG/NAME or folder (CLIPModel,\n"
        "BlipForImageTextRetrieval), and BLIP's original .pth (with --tokenizer FOLDER where there is no network).",
        highlight=False,
    )


def methods(as_json: o.AsJson = False) -> None:
    """List the named methods, and every axis that can be changed in brackets."""
    if as_json:
        document = {
            "methods": [
                {**asdict(row), "about": ABOUT[row.name], "spelling": row.spelling} for row in METHODS.values()
            ],
            "axes": [asdict(axis) for axis in AXES],
        }
        o.print_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Methods", title_justify="left")
    for column in ("name", "attention", "residual", "ffn", "depth", "about"):
        table.add_column(column)
    for row in METHODS.values():
        kinds = "+".join(row.attention) if row.combine == "sum" else f"mean of {', '.join(row.attention)}"
        iterated = ", normalised, iterated" if row.normalize else ""
        table.add_row(
            row.name, kinds + iterated, row.residual, "keep" if row.ffn else "drop", str(row.depth), ABOUT[row.name]
        )
    axes = Table(
        title="Axes, changed as in 'clearclip[residual=beta:30]' or 'vanilla[residual=drop,ffn=drop]'",
        title_justify="left",
    )
    for column in ("axis", "values", "meaning"):
        axes.add_column(column)
    for axis in AXES:
        axes.add_row(axis.name, axis.values, axis.meaning)
    console = Console()
    console.print(table, axes)
