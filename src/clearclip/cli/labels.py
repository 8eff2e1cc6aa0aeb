"""`clearclip labels`: whether a model can tell labels apart, and label files in other forms."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import UsageError
from clearclip.files.outputs import hold

if TYPE_CHECKING:
    from clearclip.inspection.apart import Comparison

File = Annotated[Path | None, typer.Argument(help="Label file, in any form that `segment --labels` reads.")]
Top = Annotated[int, typer.Option(min=1, help="How many of the nearest pairs are printed.")]
Source = Annotated[Path, typer.Argument(help="Label file, in any form that `segment --labels` reads.")]
Written = Annotated[
    Path, typer.Option("-o", "--output", help="A .txt with one label a line, or a .yaml with names, as data.yaml has.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file if it is there and a run has written it.")
]
IMAGES_ALONE = ("protocol", "short_side", "crop_size", "stride", "remainder", "value_range")


@o.bundles(without=(*o.BESIDE_WORDS, *IMAGES_ALONE))
def check(*, file: File = None, words: o.Words, top: Top = 10, loading: o.Loading, as_json: o.AsJson = False) -> None:
    """Tell which labels are the same or close to a model, and which words stand with the wrong label, before any image.

    A pair's distance is told as a part of the usual one between two everyday words: below 0.25 its labels are the same
    to the model, below 0.7 they are close. The exit code is 1 if two labels are the same.
    """
    if [file is not None, words.labels is not None, bool(words.label)].count(True) != 1:
        raise UsageError("name the labels once: a FILE (or --labels FILE), or -l NAME (repeat it)")
    vocabulary = replace(words, labels=file or words.labels).vocabulary()
    if len(vocabulary.labels) < 2:
        raise UsageError("there is one label: name at least two, to compare them")
    from clearclip.inspection.apart import compare_labels

    found = compare_labels(loading.load("clearclip"), vocabulary, top=top)
    if as_json:
        pairs = [{**asdict(pair), "verdict": pair.verdict} for pair in found.pairs]
        o.print_json({"counts": found.counts, "pairs": pairs, "strays": [asdict(stray) for stray in found.strays]})
    else:
        _print(found)
    if found.counts["same"]:
        raise typer.Exit(1)


def convert(file: Source, output: Written, overwrite: Overwrite = False) -> None:
    """Write a label file anew, as a text of ours or as YAML, with its synonyms and colours."""
    from clearclip.vocabulary import label_file

    vocabulary = o.read_labels(file, background=None)
    text = label_file(vocabulary.labels, output.suffix.lower())
    with o.writing(output), hold(output.parent) as outputs:
        if os.path.lexists(output) and not overwrite:
            raise UsageError(f"{output} is there already: --overwrite replaces it if a run has written it")
        with outputs.write(output.name) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    typer.echo(f"{len(vocabulary.labels)} labels → {output}")


def _print(found: Comparison) -> None:
    from rich.table import Column

    columns = ["label", "label", *(Column(name, justify="right") for name in ("cosine", "distance")), "verdict"]
    rows = [
        (_named(pair.first, pair.first_word), _named(pair.second, pair.second_word), f"{pair.cosine:.3f}",
         f"{pair.apart:.2f}", pair.verdict)
        for pair in found.pairs
    ]  # fmt: skip
    o.print_table("Nearest labels; distance 1 is the usual one of two everyday words", columns, rows)
    for stray in found.strays:
        other = f"{stray.other_word!r} of {stray.other!r}"
        typer.echo(f"{stray.word!r} of {stray.label!r} is nearer to {other} than to its label's other words")
    same, close = found.counts["same"], found.counts["close"]
    typer.echo(f"Pairs that are the same to this model: {same}; close: {close}")
    if same:
        typer.echo("Make labels that are the same one label with synonyms, or ask for them in other words.")


def _named(label: str, word: str) -> str:
    return label if word == label else f"{label} ({word})"
