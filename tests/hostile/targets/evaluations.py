"""States and results of evaluations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import damage, damage_json
from tests.hostile.targets.common import TINY, command, damage_files, finish, formatted

SCENES = ("scenes", "--limit", "2", *TINY, "--method", "vanilla,clearclip")


def seed_evaluations(place: Path) -> None:
    finish("evaluate", *SCENES, "-o", place / "measured")
    finish("evaluate", *SCENES[:-1], "vanilla", "-o", place / "measured")
    finish("evaluate", *SCENES, "-o", place / "part", "--shard", "1/2")
    finish("evaluate", *SCENES, "-o", place / "part", "--shard", "2/2")


def check_states(case: Case, code: int) -> str | None:
    from clearclip.benchmarks.state import load_state

    if code or case.expected["kind"] != "measured":
        return None
    for wanted in (case.seeds / "measured" / "state").glob("*.npz"):
        found, known = load_state(case.output / "state" / wanted.name), load_state(wanted)
        if found.config != known.config or not np.array_equal(found.matrix, known.matrix):
            return "success, but what was counted differs from an undisturbed run"
    return None


@target(seed=seed_evaluations, check=check_states)
def states(case: Case) -> Action:
    kind = case.expected["kind"] = case.rng.choice(("measured", "part"))
    shutil.copytree(case.seeds / kind, case.output)
    damage_files(case, case.output)
    if case.rng.random() < 0.3:
        return command("results", case.output, "--compare", "vanilla", "clearclip", *formatted(["json"]))
    return command("evaluate", *(["--merge"] if kind == "part" else SCENES), "-o", case.output, "--format", "json")


@target(seed=seed_evaluations)
def results(case: Case) -> Action:
    text = (case.seeds / "measured" / "results.jsonl").read_text(encoding="utf-8")
    if case.rng.random() < 0.7:
        first, *others = text.splitlines()
        lines = [damage_json(json.loads(first), case.rng), *others]
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        data = damage(text.encode(), case.rng)
    shown = formatted(name for name in ("md", "csv", "latex", "json") if case.rng.random() < 0.3)
    view = case.rng.choice(("runs", "methods", "classes"))
    return command("results", case.write("results.jsonl", data), "--view", view, *shown)
