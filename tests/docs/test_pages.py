"""The documentation's pages: every code block of every page is run, or says why not and is parsed.

In a page's text

- a `python` block runs, in one namespace for the page;
- a `bash` block's `clearclip …` lines run in a folder of the page's own, its `pip install` names extras that there are;
- a `text` block with a `title="FILE"` becomes that file; without one it is a formula or an answer;
- `<!-- not run: REASON -->` before a block: Python must compile, commands must parse, and name methods and benchmarks
  that there are.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from typer.core import TyperGroup
from typer.main import get_command

from clearclip.benchmarks import BENCHMARKS, vocabulary_of
from clearclip.checkpoints import CHECKPOINTS
from clearclip.cli import app
from clearclip.formats import FORMAT_NAMES
from clearclip.methods import METHODS, parse_methods
from clearclip.paper.rows import TARGETS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(set(DOCS.rglob("*.md")) - {DOCS / "reference" / "commands.md"})  # that one is made from the commands
FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<info>[^\n]*)\n"))
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\n\Z")
TITLE = re.compile(r'text title="([\w.-]+)"')


def blocks(path, run):
    """The page's fenced blocks as Sybil's examples, in order."""

    def parse(document):
        for region in FENCES(document):
            region.parsed = region.lexemes["source"]
            region.evaluator = evaluate
            yield region

    def evaluate(example):
        info = example.region.lexemes["info"].strip()
        runs = NOT_RUN.search(example.document.text[: example.start]) is None
        title = TITLE.fullmatch(info)
        if info == "python" and runs:
            PythonEvaluator()(example)
        elif info == "python":
            compile(example.parsed, example.path, "exec")
        elif info == "bash":
            for line in example.parsed.replace("\\\n", " ").splitlines():
                check_line(line, run=run if runs else None)
        elif title:
            Path(title[1]).write_text(example.parsed, encoding="utf-8")
        else:
            assert info == "text", f"a block of {info!r} is neither run nor parsed"

    return Document.parse(str(path), parse).examples()


def check_line(line, *, run):
    words = shlex.split(line, comments=True)
    if words[:4] == ["python", "-m", "pip", "install"]:
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.+)\]", line)))) <= extras()
    elif words[:1] == ["python"] and run is None:
        assert (ROOT / words[1]).is_file() or words[1] == "-m"
    elif words and run is not None:
        assert words[0] == "clearclip"
        ran = run(*words[1:])
        assert ran.code == 0, f"{line}\n{ran.err}"
    elif words:
        assert words[0] == "clearclip"
        check_words(parsed(get_command(app), "clearclip", words[1:]))


def parsed(command, name, words, parent=None):
    """What a command line says, by parameter, without running it."""
    context = command.make_context(name, list(words), parent=parent)
    rest = [*getattr(context, "_protected_args", ()), *context.args]
    if not isinstance(command, TyperGroup) or not rest:
        return context.params
    inner_name, inner, inner_words = command.resolve_command(context, rest)
    return parsed(inner, inner_name, inner_words, context)


def check_words(values):
    """Names that a run would look up are names that there are."""
    for key in ("method", "methods"):
        if isinstance(values.get(key), str):
            parse_methods(values[key])
    models = values.get("models") or ""
    for model in (models if isinstance(models, str) else ",".join(models)).split(","):
        assert not model or model.partition("=")[0] in CHECKPOINTS
    assert set((values.get("benchmarks") or "voc20").split(",")) <= set(BENCHMARKS)


def extras():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return set(re.findall(r"^(\w+) = \[", text.partition("[project.optional-dependencies]")[2], flags=re.MULTILINE))


@pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks(page, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page, run))
    if found and page != DOCS / "index.md":
        run("demo", "-o", "demo", "--limit", "2", "--method", "clearclip")  # what getting started has made
    for example in found:
        example.evaluate()


def test_blocks_that_do_not_run_are_parsed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for line, error in (
        ("clearclip segment photo.jpg -l sky -o out --no-such-option", "No such option"),
        ("clearclip segment photo.jpg -l sky -o out --method clarclip", "did you mean"),
        ("clearclip reproduce figure1 --models clip-b17", "AssertionError"),
        ("clearclip nonsense", "No such command"),
    ):
        page.write_text(f"<!-- not run: a test -->\n```bash\n{line}\n```\n", encoding="utf-8")
        (example,) = blocks(page, run)
        with pytest.raises(Exception) as raised:  # noqa: PT011
            example.evaluate()
        assert error in f"{type(raised.value).__name__}: {raised.value}"


def test_pictures_of_pages_exist():
    for page in PAGES:
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.relative_to(DOCS)}: {target}"


def test_every_page_is_in_the_navigation():
    configured = set(re.findall(r'= "([\w/]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert configured - {"reference/commands.md"} == {page.relative_to(DOCS).as_posix() for page in PAGES}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("models.md", CHECKPOINTS),
        ("outputs.md", FORMAT_NAMES),
        ("method.md", METHODS),
        ("benchmarks.md", BENCHMARKS),
        ("reproduce.md", TARGETS),
    ],
)
def test_tables_name_what_there_is(page, names):
    text = (DOCS / page).read_text(encoding="utf-8")
    for name in names:
        assert f"`{name}`" in text, f"{page} does not name {name}"


def test_scenes_page_names_every_class():
    text = (DOCS / "reference" / "scenes.md").read_text(encoding="utf-8")
    listed = " ".join(text.partition("The thirty classes: ")[2].partition(".")[0].split())
    assert listed.split(", ") == list(vocabulary_of("scenes").names)


def test_page_of_commands_has_every_command_and_no_markup_of_its_own():
    made = subprocess.run(
        [sys.executable, "-c", "import build_docs; print(build_docs.commands_page())"],
        cwd=ROOT / "scripts",
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout
    for name in get_command(app).commands:
        assert f"## `clearclip {name}`" in made
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", made, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)[<\[]", outside)
    assert "..." not in outside.partition("## `")[0]
