"""`clearclip reproduce`: the paper's tables and figures, each as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearclip.cli import benchmarks as b
from clearclip.cli import options as o
from clearclip.errors import UsageError, nearest

TargetName = Annotated[
    str, typer.Argument(metavar="TARGET", help="figure1, table1, table2, figure2, figure3, figure4, or all.")
]
Data = Annotated[
    list[str] | None, typer.Option("--data", help="Folder that holds a folder per benchmark, or NAME=DIR; repeat it.")
]
Benchmarks = Annotated[
    str | None, typer.Option(help="A comma list; default: the paper's, or `scenes` where no --data is given.")
]
Models = Annotated[
    str | None,
    typer.Option(help="A comma list; NAME=PATH puts weights into a row. Default: the paper's; on `scenes`, tiny."),
]
Images = Annotated[
    list[str] | None,
    typer.Option("-i", "--image", help="For figures 2–4: a file, or the id of a benchmark's image; repeat it."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the pages and the state a run goes on from.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be used, and list them.")]


def reproduce(
    target: TargetName,
    data: Data = None,
    benchmarks: Benchmarks = None,
    models: Models = None,
    image: Images = None,
    limit: o.Limit = None,
    output: Output = Path("clearclip-paper"),
    tokenizer: Annotated[
        str | None, typer.Option(help="Hugging Face tokenizer folder for BLIP, whose files hold none.")
    ] = None,
    template: o.Templates = None,
    skip_broken: SkipBroken = False,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
) -> None:
    """Make the paper's tables and figures again, measured, with the published numbers beside them.

    Each TARGET becomes a page, OUTPUT/TARGET/report.md, with pictures and the numbers as CSV and JSON. Cells without
    weights or data stay empty with the reason. Interrupted and started again, it goes on; what one target has
    measured, another does not measure again. Without --data it runs on `scenes` with the embedded model.
    """
    from clearclip.paper.rows import find_targets

    targets = tuple(find_targets(target))
    from clearclip.inspection.style import require_matplotlib
    from clearclip.paper.measure import Lab, parse_data
    from clearclip.paper.models import parse_models
    from clearclip.paper.reproduce import Request
    from clearclip.paper.reproduce import reproduce as make

    require_matplotlib()
    folder, places = parse_data(data or ())
    request = Request(
        targets=targets,
        models=tuple(parse_models(models)) if models is not None else None,
        benchmarks=_benchmarks(benchmarks),
        images=tuple(image or ()),
    )
    lab = Lab(
        output=output,
        data=folder,
        places=places,
        limit=limit,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        templates=template,
        skip_broken=skip_broken,
        progress=b.measuring_bar,
    )
    with o.writing(output):
        reports = make(request, lab, say=o.say)
    typer.echo(str(reports[-1]))


def _benchmarks(text: str | None) -> tuple[str, ...] | None:
    from clearclip.benchmarks import BENCHMARKS

    if (parts := o.split(text)) is None:
        return None
    if not parts:
        raise UsageError(f"--benchmarks is empty: name at least one of {', '.join(BENCHMARKS)}")
    for name in parts:
        if name not in BENCHMARKS:
            raise UsageError(f"benchmark {name!r} is not known: {nearest(name, BENCHMARKS)}")
    return tuple(dict.fromkeys(parts))
