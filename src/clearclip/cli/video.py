"""`clearclip video`: a video → the same video with its labels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import options as o
from clearclip.errors import ClearclipError, UsageError, printable


@o.bundles(without=("value_range",))
def video(
    *,
    source: Annotated[Path, typer.Argument(metavar="VIDEO", help="Any video that FFmpeg reads.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A .mp4, .mkv or .mov, or a folder for <stem>.overlay.mp4.")
    ],
    words: o.Words,
    every: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Give the model each N-th frame; those between show the last labels."),
    ] = 1,
    smooth: Annotated[
        float, typer.Option(help="Weight of the past, from 0 to below 1: labels flicker less and follow later.")
    ] = 0.0,
    cut: Annotated[
        float, typer.Option(help="Mean difference between frames, in grey levels, from which a new scene begins.")
    ] = 30.0,
    masks: Annotated[
        bool, typer.Option("--masks", help="Write the label maps too, as <stem>-masks/<frame>.png.")
    ] = False,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Name the labels below the picture.")] = True,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the colours.")] = 0.55,
    method: o.MethodName = "clearclip",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    loading: o.Loading,
    as_json: o.AsJson = False,
) -> None:
    """Label every pixel of a video's frames and write it with the labels' colours.

    Times and frame rate are kept, sound is not. With --masks an interrupted run goes on where it was when it is
    started again (without --smooth). Needs the extra `video`.
    """
    vocabulary = words.vocabulary()
    from clearclip.files.optional import require

    require("av", extra="video", purpose="a video")
    from clearclip.video.label import segment_video

    if not source.exists():  # before the model, which may be a download
        raise UsageError(f"{source}: there is no such file")
    segmenter = loading.load(method)
    try:
        result = segment_video(
            segmenter,
            source,
            labels=vocabulary,
            output=output,
            every=every,
            smooth=smooth,
            cut=cut,
            masks=masks,
            threshold=words.threshold,
            opacity=opacity,
            legend=legend,
            overwrite=overwrite,
        )
    except OSError as error:
        raise ClearclipError(str(error)) from error
    if as_json:
        o.print_json(asdict(result))
    else:
        parts = [f"{result.frames} {'frame' if result.frames == 1 else 'frames'}, {result.segmented} segmented"]
        if result.reused:
            parts.append(f"{result.reused} label maps were there already")
        if result.cuts:
            parts.append(f"{result.cuts} cuts")
        typer.echo(printable(f"{', '.join(parts)} → {result.video}"))
    if result.damage is not None:
        o.say(printable(f"damaged: {result.damage}; the rest was written"))
        raise typer.Exit(1)
