"""The shape of the package: what is public, what imports what, and what --help does not load."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import clearclip

SOURCE = Path(clearclip.__file__).parent
MODEL_LIBRARIES = {"open_clip", "transformers", "timm", "huggingface_hub"}
HEAVY = {*MODEL_LIBRARIES, "torch", "numpy", "PIL", "safetensors"}
PLAIN = ("constants", "axes", "methods", "vocabulary", "negatives", "protocol", "checkpoints", "errors")
LAYERS = (
    ("errors",),
    ("files",),
    ("constants",),
    ("axes",),
    ("methods", "protocol", "vocabulary", "negatives", "checkpoints", "scenes"),
    ("backbones",),
    ("mend",),
    ("attention",),
    ("decompose",),
    ("encode",),
    ("classify",),
    ("formats",),
    ("segmentation",),
    ("segmenter",),
    ("engine",),
    ("large", "video"),
    ("benchmarks",),
    ("inspection",),
    ("paper",),
    ("service",),
    ("studio", "demo", "batch"),
    ("cli",),
    ("__main__",),
)
"""From the bottom to the top: a folder imports from those below it alone, and from itself."""
LAYER_OF = {name: index for index, names in enumerate(LAYERS) for name in names}
TORCH_ALONE = ("mend", "attention", "decompose", "encode/", "classify/")
"""No model library is imported there, but for the paper's prompts, which are open_clip's (`encode/text`)."""


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


def owner(name):
    """The folder or file of the package that a full name belongs to; `None` for other packages."""
    package, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if package == "clearclip" and first in LAYER_OF else None


def test_every_folder_has_a_layer():
    assert {place.partition("/")[0] for place in FILES} - {"__init__"} == set(LAYER_OF)


@pytest.mark.parametrize("place", FILES)
def test_imports_go_down(place):
    own = place.partition("/")[0]
    if own == "__init__":  # the public face loads names when they are asked for
        return
    above = {other for name in imports(FILES[place]) if (other := owner(name)) not in (None, own)}
    assert not [other for other in above if LAYER_OF[other] >= LAYER_OF[own]]


def test_modules_of_a_folder_are_in_no_circle():
    """Imports inside functions count as well, but for the lists of a folder's own modules in its `__init__`."""
    graph = {}
    for place, file in FILES.items():
        if not place.endswith("__init__"):
            names = {name.removeprefix("clearclip.").replace(".", "/") for name in imports(file)}
            graph[place] = names & FILES.keys() - {place}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "place", [place for place in FILES if place.startswith(TORCH_ALONE) and place != "encode/text"]
)
def test_the_core_imports_no_model_library(place):
    assert not roots(imports(FILES[place])) & MODEL_LIBRARIES


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_import_no_torch(name):
    assert "torch" not in roots(imports(FILES[name]))


def within(name, package):
    return name == package or name.startswith(package + ".")


SHARED_BY_COMMANDS = {
    "cli/evaluate": {"cli.results", "cli.benchmarks"},
    "cli/benchmarks": {"cli.results", "cli.benchmarks"},
    "cli/reproduce": {"cli.benchmarks"},
}


def test_commands_do_not_import_one_another():
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
        assert not roots(names) & MODEL_LIBRARIES, place


def test_commands_import_nothing_heavy_before_they_run():
    for place, file in FILES.items():
        if place.startswith("cli/"):
            assert not roots(imports(file, top_level=True)) & HEAVY, place


def test_public_names():
    for name in clearclip.__all__:
        assert getattr(clearclip, name) is not None
    assert dir(clearclip) == sorted(clearclip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = clearclip.segment


def test_public_names_are_typed():
    """What a type checker sees is what is loaded."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: line.module for line in block.body for alias in line.names}
    assert seen == {name: f"clearclip.{module}" for name, module in clearclip._HOME_OF.items()}


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
