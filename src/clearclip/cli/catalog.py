"""`clearclip models`, `clearclip methods` and `clearclip cache`: what there is. No torch but for a download."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from clearclip.axes import AXES
from clearclip.checkpoints import CHECKPOINTS
from clearclip.cli import options as o
from clearclip.files.cache import clear_cache, kept_in_cache
from clearclip.methods import ABOUT, METHODS


def models(context: typer.Context, as_json: o.AsJson = False) -> None:
    """List the checkpoints with friendly names, and what else --model takes; `download` fetches some."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        o.print_json([asdict(row) for row in CHECKPOINTS.values()])
        return
    from rich.table import Column

    name, size = Column("name", no_wrap=True), Column("MB", justify="right", no_wrap=True)
    columns = (name, "family", "architecture", size, "licence of the weights", "about")
    rows = [
        (row.name, row.family, row.architecture, _size(row.megabytes), row.license, row.about)
        for row in CHECKPOINTS.values()
    ]
    o.print_table("Checkpoints", columns, rows)
    typer.echo("MB: of the download, about; 4 bytes for each parameter. BLIP's files hold more than is read.\n")
    typer.echo(
        "--model also takes: open_clip's ARCHITECTURE/TAG (ViT-B-16-quickgelu/openai) or ARCHITECTURE/FILE,\n"
        "hf-hub:ORG/NAME and local-dir:FOLDER (open_clip), a Hugging Face ORG/NAME or folder (CLIPModel,\n"
        "BlipForImageTextRetrieval), and BLIP's original .pth (with --tokenizer FOLDER where there is no network)."
    )


def _size(megabytes: int | None) -> str:
    return "–" if megabytes is None else f"{megabytes:,}" if megabytes else "none"


def download(
    names: Annotated[list[str], typer.Argument(help="Models, as --model takes them.", metavar="NAME")],
    tokenizer: Annotated[str | None, typer.Option(help="As for `segment`.")] = None,
) -> None:
    """Download models into their libraries' caches, and load each once to check it.

    After Ctrl-C, files that were complete are kept, and the one under way begins again.
    """
    from clearclip.backbones import load_backbone

    for name in names:
        files = load_backbone(name, tokenizer=tokenizer).weights_files
        size = sum(file.stat().st_size for file in files) / 1e6
        typer.echo(f"{name}: {size:,.0f} MB in {files[0].parent if files else 'memory'}")


def methods(as_json: o.AsJson = False) -> None:
    """List the named methods, and every axis that can be changed in brackets."""
    if as_json:
        named = [{**asdict(row), "about": ABOUT[row.name], "spelling": row.spelling} for row in METHODS.values()]
        o.print_json({"methods": named, "axes": [asdict(axis) for axis in AXES]})
        return
    rows = []
    for row in METHODS.values():
        kinds = "+".join(row.attention) if row.combine == "sum" else f"mean of {', '.join(row.attention)}"
        iterated = ", normalised, iterated" if row.normalize else ""
        ffn = "keep" if row.ffn else "drop"
        rows.append((row.name, kinds + iterated, row.residual, ffn, str(row.depth), ABOUT[row.name]))
    from rich.table import Column

    o.print_table("Methods", (Column("name", no_wrap=True), "attention", "residual", "ffn", "depth", "about"), rows)
    title = "Axes, changed as in 'clearclip[residual=beta:30]' or 'vanilla[residual=drop,ffn=drop]'"
    o.print_table(title, ("axis", "values", "meaning"), [(axis.name, axis.values, axis.meaning) for axis in AXES])


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all of it; it is made again when it is needed.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Say what is kept between runs, where, and how much: embeddings of words and hashes of files.

    Weights that were downloaded lie in the cache of Hugging Face or torch, which have commands of their own.
    """
    with o.writing():
        if clear:
            clear_cache()
        kept = kept_in_cache()
    if as_json:
        o.print_json([one._asdict() for one in kept])
        return
    rows = [(one.kind, f"{one.files:,}", f"{one.size / 1e6:.1f}", str(one.folder)) for one in kept]
    o.print_table("Cache", ("what", "files", "MB", "folder"), rows)
