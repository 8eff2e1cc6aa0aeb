"""`clearclip tags`: which words of a vocabulary images hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearclip.cli import options as o
from clearclip.errors import ImageError, UsageError, printable
from clearclip.files.outputs import hold
from clearclip.files.progress import track

if TYPE_CHECKING:
    from clearclip.inspection.tags import Add, Tag
    from clearclip.vocabulary import Vocabulary

Named = Annotated[
    str | None,
    typer.Option(
        "--vocabulary", help="A benchmark's words instead: coco-stuff, ade20k, voc … (`clearclip benchmarks`)."
    ),
]
Table = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="A .csv or .parquet for all labels, a row for each image and label."),
]
Top = Annotated[int, typer.Option(min=1, help="How many labels are printed for an image.")]


@o.bundles(without=o.BESIDE_WORDS)
def tags(
    *,
    images: o.Images,
    words: o.Words,
    vocabulary: Named = None,
    output: Table = None,
    top: Top = 10,
    method: o.MethodName = "clearclip",
    loading: o.Loading,
    limit: o.Limit = None,
    as_json: o.AsJson = False,
) -> None:
    """Rank the words of a vocabulary by what speaks for them in images.

    First comes the label that wins the largest part of the area. Beside it stand its mean probability where it wins and
    the cosine of its nearest word with the whole image's class token.
    """
    sought = _sought(words, vocabulary)
    from clearclip.engine.run import scan_images
    from clearclip.engine.sources import summary
    from clearclip.inspection.tags import check_table, find_tags

    if output is not None:
        check_table(output)
    paths, left_out = scan_images(images)
    paths = paths[:limit]
    found: list[dict[str, Any]] = []
    failed: list[ImageError] = []
    with _table(output) as add:
        segmenter = loading.load(method)
        prepared = segmenter.prepare(sought)
        for path in track(paths, "Looking"):
            try:
                ranked = find_tags(segmenter, path, prepared)
            except ImageError as error:
                failed.append(error)
                continue
            if add is not None:
                add(str(path), ranked)
            if as_json:
                found.append({"image": printable(str(path)), "labels": [asdict(tag) for tag in ranked[:top]]})
            elif add is None:
                _print(path, ranked, top)
        if len(failed) == len(paths):
            raise failed[0]
    if as_json:
        o.print_json({"vocabulary": len(sought.labels), "images": found})
    elif output is not None:
        typer.echo(f"{len(paths) - len(failed)} images, {len(sought.labels)} labels → {output}")
    else:
        typer.echo(
            f"Probabilities are means where a label wins, over the words of all {len(sought.labels)} labels; the class "
            "token's is the cosine with the whole image."
        )
    if left_out:
        o.say(f"note: {printable(summary(left_out))}")
    o.tell_failed(failed)


def _sought(words: o.Words, name: str | None) -> Vocabulary:
    if name is None:
        if not (words.label or words.labels):
            raise UsageError("no labels were given: use --vocabulary NAME, -l NAME (repeat it) or --labels FILE")
        return words.vocabulary()
    if words.label or words.labels:
        raise UsageError("--vocabulary names all labels: leave -l and --labels out")
    from clearclip.inspection.tags import named_vocabulary

    return named_vocabulary(name)


@contextmanager
def _table(output: Path | None) -> Iterator[Add | None]:
    """What adds an image to the table, which appears when all are in it."""
    if output is None:
        yield None
        return
    from clearclip.inspection.tags import tag_table

    with o.writing(output), hold(output.parent) as outputs:
        outputs.check([output.name])
        with outputs.write(output.name) as partial, tag_table(partial) as add:
            yield add


def _print(path: Path, ranked: list[Tag], top: int) -> None:
    from rich.table import Column

    def shown(number: float | None, form: str) -> str:
        return "–" if number is None else format(number, form)

    columns = [Column(name, justify="right") for name in ("area", "probability", "class token")]
    rows = [
        (tag.label, f"{tag.share:.1%}", shown(tag.probability, ".2f"), shown(tag.class_token, ".3f"))
        for tag in ranked[:top]
    ]
    o.print_table(str(path), ("label", *columns), rows)
