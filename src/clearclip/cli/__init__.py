"""The command line: one small module a command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import codecs
import io
import logging
import sys
from contextlib import suppress

import typer

from clearclip import __version__
from clearclip.cli import app as studio
from clearclip.cli import (
    benchmarks,
    catalog,
    compare,
    demo,
    evaluate,
    inspect,
    labels,
    large,
    options,
    reproduce,
    results,
    segment,
    tags,
    video,
)
from clearclip.errors import ClearclipError, printable

__all__ = ["app", "main"]

app = typer.Typer(
    name="clearclip",
    help="Label every pixel of an image with your own words, without training anything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take what stands in brackets for markup
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clearclip {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="No lines on how far the work is."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Also a line for each image."),
    log_json: bool = typer.Option(False, "--log-json", help="Log lines as JSON, one for each image among them."),
) -> None:
    """Label every pixel of an image with your own words, without training anything."""
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    options.prepare(level=level, as_json=log_json)


for command in (demo.demo, segment.segment, segment.merge, large.large, video.video):
    app.command()(command)
app.command("app")(studio.studio)
for command in (tags.tags, compare.compare, inspect.inspect, evaluate.evaluate, results.results, reproduce.reproduce):
    app.command()(command)
for name, listing, command, about in (
    ("benchmarks", benchmarks.benchmarks, benchmarks.check, "List the benchmarks, or check one's files."),
    ("models", catalog.models, catalog.download, "List the checkpoints with friendly names, or download some."),
):
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None, help=about)
    group.callback()(listing)
    group.command()(command)
    app.add_typer(group, name=name)
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check labels before any image, or convert them.")
for command in (labels.check, labels.convert):
    group.command()(command)
app.add_typer(group, name="labels")
for command in (catalog.methods, catalog.cache):
    app.command()(command)


def _write_any_letter() -> None:
    """Escape letters that the console's encoding lacks, as JSON does, instead of failing after all the work."""
    codecs.register_error("clearclip", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):  # closed, or at no known place
                stream.reconfigure(errors="clearclip")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


def main() -> None:
    """Run the program; errors a user can mend are one line on standard error, never a traceback."""
    _write_any_letter()
    try:
        app()
    except ClearclipError as error:
        options.say(f"error: {printable(' '.join(str(error).split()))}")
        sys.exit(error.exit_code)
