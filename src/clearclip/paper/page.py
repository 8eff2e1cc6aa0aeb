"""The page of a target: `report.md`, pictures, and the numbers as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearclip.benchmarks.configuration import versions
from clearclip.benchmarks.tables import Table
from clearclip.errors import printable
from clearclip.files.outputs import Outputs
from clearclip.inspection.style import save
from clearclip.paper.measure import Lab
from clearclip.paper.models import Model
from clearclip.paper.rows import methods_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
REPORT_NAME = "report.md"


@dataclass
class Page:
    """One target's results, before they are written.

    Attributes:
        name: Of the target, and of its folder.
        lead: Paragraphs below the heading.
        tables: By heading.
        pictures: By file name, the figure and its caption; the suffix decides the format.
        findings: Sentences about what was measured.
        notes: What must be known to read the numbers.
        numbers: Long-form rows for CSV and JSON, all with the same keys.
        extra_tables: Further CSV files by name.
    """

    name: str
    title: str
    lead: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    pictures: dict[str, tuple[Figure, str]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: list[Row] = field(default_factory=list)
    extra_tables: dict[str, Table] = field(default_factory=dict)

    def write(self, outputs: Outputs, *, about: Mapping[str, Any]) -> Path:
        """Write everything into a folder of the page's own and return the path of `report.md`.

        Files of an earlier page that this one lacks are removed.
        """
        folder = f"{self.name}/"
        tables = {**self.extra_tables}
        if self.numbers:
            tables["numbers"] = long_table(self.numbers)
        document = {
            "target": self.name,
            "about": about,
            "findings": self.findings,
            "notes": self.notes,
            "numbers": self.numbers,
        }
        texts = {f"{name}.csv": content.csv() for name, content in tables.items()}
        texts["numbers.json"] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        texts[REPORT_NAME] = self._markdown(sorted(tables), about=about)
        outputs.check(folder + name for name in (*self.pictures, *texts))
        for name, (figure, _) in self.pictures.items():
            with outputs.write(folder + name) as partial:
                save(figure, partial)
        for name, text in texts.items():
            with outputs.write(folder + name) as partial:
                partial.write_text(printable(text), encoding="utf-8")
        outputs.drop_rest(folder)
        return outputs.folder / folder / REPORT_NAME

    def _markdown(self, files: Sequence[str], *, about: Mapping[str, Any]) -> str:
        parts = [f"# {self.title}", *self.lead]
        for name, (_, caption) in self.pictures.items():
            parts.append(f"![{caption}]({name})\n\n*{caption}*")
        for heading, content in self.tables.items():
            parts.append(f"## {heading}\n\n{content.markdown().rstrip()}")
        if self.findings:
            parts.append("## What was measured\n\n" + _bullets(self.findings))
        if self.notes:
            parts.append("## Notes\n\n" + _bullets(self.notes))
        links = ", ".join(f"[{name}.csv]({name}.csv)" for name in files)
        made = f"clearclip {about['versions']['clearclip']}, {about['made']}"
        parts.append(f"Numbers: {links + ', ' if links else ''}[numbers.json](numbers.json). Made with {made}.")
        return "\n\n".join(parts) + "\n"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in dict.fromkeys(sentences))


def long_table(rows: Sequence[Row]) -> Table:
    """Rows with the same keys as a table."""
    columns = tuple(rows[0])
    return Table(columns, tuple(tuple(row[column] for column in columns) for row in rows))


def about(lab: Lab, models: Sequence[Model]) -> dict[str, Any]:
    """How the numbers were made, as JSON-able data."""
    return {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "limit": lab.limit,
        "device": lab.device,
        "dtype": lab.dtype,
        "models": [_model_facts(lab, model) for model in models],
        "versions": versions("torch", "open_clip_torch", "transformers", "numpy", "matplotlib"),
    }


def _model_facts(lab: Lab, model: Model) -> dict[str, Any]:
    loaded = lab.loaded.get(model.name)
    return {
        "name": model.name,
        "source": model.source,
        "checkpoint": loaded.checkpoint if loaded else None,
        "license": loaded.license if loaded else None,
        "weights": loaded.provenance if loaded else None,
        "absent": lab.absent.get(model.name),
    }


def notes_of(lab: Lab, target: str, models: Sequence[Model], benchmarks: Sequence[str]) -> list[str]:
    """What must be known of the cells of a page: why some are empty, whose weights were used, what was left out."""
    seen = [
        lab.cell(model.name, benchmark, method)
        for model in models
        for benchmark in benchmarks
        for method in methods_of(target, model.name)
    ]
    notes = [f"Empty cells: {cell.reason}" for cell in seen if cell.miou is None]
    notes += [
        f"Weights: {lab.loaded[model.name].provenance}"
        for model in models
        if model.name in lab.loaded and lab.loaded[model.name].provenance
    ]
    notes += [warning for cell in seen for warning in cell.warnings]
    shallow = {cell.method for cell in seen if cell.method.startswith("gem[depth=")}
    notes += [f"GEM rewrites six blocks; a shallower model runs it as `{name}`." for name in sorted(shallow)]
    return list(dict.fromkeys(notes))
