"""The shape of the package: what is public, what imports what, and what --help does not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clearclip

SOURCE = Path(clearclip.__file__).parent
MODEL_LIBRARIES = {"open_clip", "transformers", "timm", "huggingface_hub"}
HEAVY = {*MODEL_LIBRARIES, "torch", "numpy", "PIL", "safetensors"}
IDEAS = ("methods", "attention", "windows", "winners", "masks", "vocabulary", "protocol", "decompose")
PLAIN = ("methods", "vocabulary", "protocol", "checkpoints", "errors")
EDGES = ("clearclip.cli", "clearclip.engine.run", "clearclip.app")


def imports(file, *, top_level=False):
    """Full names of what a file imports, `from a import b` as both a and a.b; type-checking blocks are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for body in [getattr(node, "body", None)] if isinstance(node, ast.If) else []:
            if "TYPE_CHECKING" in ast.unparse(node.test):
                body.clear()
        if top_level and isinstance(node, (ast.FunctionDef, ast.Lambda)) and isinstance(node.body, list):
            node.body.clear()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(("clearclip", *file.relative_to(SOURCE).parts)[: -node.level]) if node.level else ""
            module = ".".join(part for part in (home, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def roots(names):
    return {name.partition(".")[0] for name in names}


FILES = {file.relative_to(SOURCE).with_suffix("").as_posix(): file for file in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("name", IDEAS)
def test_idea_files_import_no_model_library(name):
    assert not roots(imports(FILES[name])) & MODEL_LIBRARIES


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_import_no_torch(name):
    assert "torch" not in roots(imports(FILES[name]))


def within(name, package):
    return name == package or name.startswith(package + ".")


def test_nothing_imports_the_edges():
    allowed = {"__main__": "clearclip.cli"}
    for place, file in FILES.items():
        for name in imports(file):
            if within(name, "clearclip.cli") and not place.startswith("cli/"):
                assert allowed.get(place) == "clearclip.cli", f"{place} imports {name}"
            if within(name, "clearclip.app"):
                assert place.startswith(("app", "cli/")), f"{place} imports {name}"


SHARED_BY_COMMANDS = {
    "cli/evaluate": {"cli.results", "cli.benchmarks"},
    "cli/benchmarks": {"cli.results", "cli.benchmarks"},
    "cli/reproduce": {"cli.benchmarks"},
}


def test_edges_do_not_import_one_another():
    for place in ("batch", "outputs", "overlay"):
        assert not [
            name for name in imports(FILES[place]) for edge in ("cli", "app") if within(name, f"clearclip.{edge}")
        ]
    commands = [place for place in FILES if place.startswith("cli/") and place not in ("cli/__init__", "cli/options")]
    known = {place.replace("/", ".") for place in commands}
    for place in commands:
        shared = SHARED_BY_COMMANDS.get(place, set())
        others = {f"clearclip.{other}" for other in known - {place.replace("/", ".")} - shared}
        assert not [name for name in imports(FILES[place]) for other in others if within(name, other)], place


def test_adapters_are_imported_inside_functions():
    adapters = {f"clearclip.backbones.{name}" for name in ("open_clip", "hf_clip", "blip")}
    for place, file in FILES.items():
        if place.startswith("backbones/") and place != "backbones/__init__":
            continue
        names = imports(file, top_level=True)
        assert not names & adapters, place
        assert place.startswith("scenes/") or not roots(names) & MODEL_LIBRARIES, place


def test_commands_import_nothing_heavy_before_they_run():
    for place, file in FILES.items():
        if place.startswith("cli/"):
            assert not roots(imports(file, top_level=True)) & HEAVY, place


def test_public_names():
    assert clearclip.__all__ == [
        "METHODS",
        "PROTOCOLS",
        "Backbone",
        "CheckpointError",
        "ClearclipError",
        "Encoded",
        "ImageError",
        "Label",
        "Method",
        "Parts",
        "Protocol",
        "Segmentation",
        "Segmenter",
        "UnsupportedModelError",
        "UsageError",
        "Vocabulary",
        "__version__",
        "dense_features",
        "load",
        "load_backbone",
        "load_image",
        "parse_method",
        "parse_methods",
        "view",
    ]
    for name in clearclip.__all__:
        assert getattr(clearclip, name) is not None
    assert dir(clearclip) == sorted(clearclip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = clearclip.segment


def loaded_by(code):
    """The roots of sys.modules after some code, in a fresh process."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit as ended:\n    assert not ended.code\n"
    program += "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_import_is_light():
    assert not loaded_by("import clearclip") & HEAVY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["segment", "--help"], ["methods"], ["models", "--json"]], ids=" ".join
)
def test_help_and_lists_are_light(arguments):
    code = f"sys.argv = ['clearclip', *{arguments!r}]; from clearclip.cli import main; main()"
    assert not loaded_by(code) & (HEAVY - {"numpy", "PIL"})


def test_module_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "clearclip", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"clearclip {clearclip.__version__}"
