"""Make the documentation's pictures and its page of results anew: what `clearclip reproduce all` gives on `scenes`.

`python scripts/docs_results.py` writes `docs/results/` and the pictures of the pages in `docs/images/`, from the
checkout's own commands and embedded model. It goes on where it was interrupted; `--limit 8` is a quick look.

Belongs here: which command makes which file of `docs/`. Does not: making them (`clearclip.paper`) and the site
(`build_docs.py`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from clearclip.paper.rows import TARGETS

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "docs" / "results"
SHEET_SCENES = ("000001", "000003")
WIDEST = 1500
LARGEST_TABLE = 50_000
"""Pixels and bytes: larger pictures are scaled down, larger tables stay where they were made."""


def main(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N scenes.")] = None,
    work: Annotated[Path, typer.Option(help="Where it is measured, and goes on after an interruption.")] = ROOT
    / "build"
    / "docs-results",
) -> None:
    """Measure, then write the pictures and the page."""
    measured = work / f"limit-{limit}" if limit else work / "all"
    clearclip("reproduce", "all", "-o", measured, *(("--limit", str(limit)) if limit else ()))
    picked = [word for name in SHEET_SCENES for word in ("-i", name)]
    clearclip("reproduce", "figure3", *picked, "-o", work / "sheet")
    clearclip("demo", "-o", work / "demo")

    first_maps = next(iter(sorted((measured / "figure2").glob("maps-*.png"))))
    copy(work / "demo" / "comparison.png", IMAGES / "demo.png")
    copy(first_maps, IMAGES / "method-maps.png")
    copy(measured / "figure2" / "statistics.svg", IMAGES / "method-statistics.svg")
    copy(work / "sheet" / "figure3" / "figure3-scenes.png", IMAGES / "method-sheet.png")

    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    page = "\n\n".join([*lead(measured, limit=limit), *(part for name in TARGETS for part in section(measured, name))])
    (RESULTS / "index.md").write_text(page + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in RESULTS.iterdir())
    print(f"{RESULTS}: {len(list(RESULTS.iterdir()))} files, {size / 1e6:.1f} MB")


def clearclip(*arguments: str | Path) -> None:
    """Run a command of this checkout's program."""
    subprocess.run([sys.executable, "-m", "clearclip", *map(str, arguments)], check=True)


def lead(measured: Path, *, limit: int | None) -> Iterator[str]:
    """Paragraphs that say how the page was made."""
    about = json.loads((measured / "table2" / "numbers.json").read_text(encoding="utf-8"))["about"]
    (model,) = about["models"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    count = f"the first {limit} scenes" if limit else "all 500 scenes"
    yield "# Results on scenes"
    yield (
        f"`clearclip reproduce all` on the benchmark `scenes` with the embedded model `tiny`: {count} of the split. "
        "It shows that every table and figure can be made, and what they look like; it says nothing about photographs. "
        "What in the making of `tiny` decides these scores is told in its model card, "
        "`src/clearclip/backbones/tiny/README.md`, and which of the paper's claims they bear out on "
        "[The method](../method.md#which-of-these-claims-hold-in-the-embedded-model)."
    )
    yield (
        "<!-- not run: writes into the checkout's own documentation, in some minutes -->\n```bash\n"
        "python scripts/docs_results.py\n```"
    )
    yield f"makes this page anew. This one: {about['made'][:10]}, weights {model['checkpoint'][:12]}…, {versions}."


def section(measured: Path, name: str) -> Iterator[str]:
    """A target's page as a section of this one; its files are copied."""
    folder = measured / name
    text = (folder / "report.md").read_text(encoding="utf-8")
    for link in dict.fromkeys(re.findall(r"\]\(([\w.-]+)\)", text)):
        if link.endswith((".csv", ".json")) and (folder / link).stat().st_size > LARGEST_TABLE:
            text = re.sub(rf"\[[^]]*\]\({re.escape(link)}\)(, )?", "", text)
            continue
        copy(folder / link, RESULTS / f"{name}-{link.removeprefix(f'{name}-')}")
        text = text.replace(f"]({link})", f"]({name}-{link.removeprefix(f'{name}-')})")
    text = re.sub(r"^## (.*)$", rf"### {TARGETS[name].title.partition(':')[0]}: \1", text, flags=re.MULTILINE)
    yield re.sub(r"^# ", "## ", text.strip(), flags=re.MULTILINE)


def copy(source: Path, target: Path) -> None:
    """Copy a file; a PNG is scaled down to a page's width and gets a palette of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".png":
        shutil.copyfile(source, target)
        return
    with Image.open(source) as picture:
        shown = picture.convert("RGB")
    if shown.width > WIDEST:
        shown = shown.resize((WIDEST, round(shown.height * WIDEST / shown.width)), Image.Resampling.LANCZOS)
    shown.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    typer.run(main)
