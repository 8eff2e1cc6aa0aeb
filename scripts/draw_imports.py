"""Draw what imports what, folder by folder, for docs/architecture.md: `python scripts/draw_imports.py`."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clearclip"
TARGET = ROOT / "docs" / "images" / "imports.svg"


def imported(file: Path) -> set[str]:
    """First parts of the package's own modules that a file imports, `files` for `clearclip.files.writing`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("clearclip.")}
    return found


def graph() -> dict[str, set[str]]:
    """By folder or file the others that it imports."""
    parts = {path.stem: path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    edges = {}
    for name, path in parts.items():
        if name not in ("__init__", "__main__"):
            files = path.rglob("*.py") if path.is_dir() else [path]
            edges[name] = {other for file in files for other in imported(file)} & parts.keys() - {name}
    return edges


def reduced(edges: dict[str, set[str]], order: list[str]) -> dict[str, set[str]]:
    """Without the arrows that follow from others."""
    below: dict[str, set[str]] = {}
    for name in order:
        below[name] = edges[name] | {deep for other in edges[name] for deep in below[other]}
    return {
        name: {one for one in found if not any(one in below[other] for other in found)} for name, found in edges.items()
    }


def draw(edges: dict[str, set[str]]) -> Figure:
    """Every name above all that it imports."""
    order = list(graphlib.TopologicalSorter(edges).static_order())  # a circle ends here
    level: dict[str, int] = {}
    for name in order:
        level[name] = max((level[other] + 1 for other in edges[name]), default=0)
    rows: dict[int, list[str]] = {}
    for name in order:
        rows.setdefault(level[name], []).append(name)
    figure = Figure(figsize=(9, 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    place = {
        name: (10 * (index + 1) / (len(row) + 1) + (0.9, -1.3, 1.6, -0.6)[height % 4], height)
        for height, row in rows.items()
        for index, name in enumerate(sorted(row))
    }
    for name, others in reduced(edges, order).items():
        for other in others:
            options = {"arrowstyle": "-|>", "color": "#8a94a6", "shrinkA": 9, "shrinkB": 13, "lw": 0.9}
            axes.annotate("", place[other], place[name], arrowprops=options)
    for name, (x, y) in place.items():
        folder = (SOURCE / name).is_dir()
        box = {"boxstyle": "round,pad=0.3", "fc": "#e8f0fe" if folder else "white", "ec": "#5b6b8c"}
        axes.text(x, y, f"{name}/" if folder else name, ha="center", va="center", bbox=box, fontsize=9)
    axes.set(xlim=(0, 11), ylim=(-0.6, len(rows) - 0.4))
    axes.axis("off")
    return figure


if __name__ == "__main__":
    draw(graph()).savefig(TARGET, metadata={"Date": None})
    print(TARGET.relative_to(ROOT))
