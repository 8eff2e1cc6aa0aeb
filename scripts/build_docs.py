"""Build the documentation site, strictly: broken links and missing references fail.

`python scripts/build_docs.py` writes `site/`; `--serve` shows the pages while they are written. The page of commands
is made from the command line's own help first, so it is never behind it and is not kept in the repository.

Belongs here: what stands between a checkout and its site. Does not: the pages (`docs/`) and their results
(`docs_results.py`).
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from clearclip.cli import app

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ROOT / "docs" / "reference" / "commands.md"


def commands_page() -> str:
    """The page of commands, in Markdown, by Typer's own generator."""
    command = get_command(app)
    command.params = [option for option in command.params if "completion" not in str(option.name)]
    _say_in_full(command)
    page = get_docs_for_click(obj=command, ctx=typer.Context(command), name="clearclip", title="Commands")
    pieces = re.split(r"(^```.*?^```$)", page, flags=re.MULTILINE | re.DOTALL)  # fences stand at odd places
    return "".join(
        piece if at % 2 else re.sub("^.*$", _line, piece, flags=re.MULTILINE) for at, piece in enumerate(pieces)
    )


def _say_in_full(command: TyperCommand | TyperGroup) -> None:
    """Lists of commands have the first sentence of each, which Typer would cut."""
    command.short_help = (command.help or "").partition("\n\n")[0]
    for inner in getattr(command, "commands", {}).values():
        _say_in_full(inner)


def _line(found: re.Match[str]) -> str:
    """Help is plain text: outside of code spans nothing in it is Markdown or HTML."""
    line = found[0]
    if line.startswith(("#", "**")):
        return line
    bullet = "* " if line.startswith("* ") else ""
    parts = line.removeprefix(bullet).split("`")
    return bullet + "`".join(
        part if at % 2 else re.sub(r"([\[\]*_|])", r"\\\1", html.escape(part, quote=False))
        for at, part in enumerate(parts)
    )


def main(
    serve: Annotated[bool, typer.Option("--serve", help="Show the site and build it anew at every change.")] = False,
) -> None:
    """Write the page of commands, then build the site."""
    COMMANDS.write_text(commands_page(), encoding="utf-8")
    task = ["serve"] if serve else ["build", "--clean", "--strict"]
    sys.exit(subprocess.run([sys.executable, "-m", "zensical", *task], cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
