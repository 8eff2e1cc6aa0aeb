"""A seeded fuzzer for everything that clearclip reads: `python -m tests.hostile.fuzz --seconds 3600 --seed 7`.

Each case is a process of its own, forked from one that has imported everything, with limits of time and memory. What
may come: success, or one line and exit code 1 or 2. What is a finding: a traceback, a signal, a hang, too much memory,
a connection, a prompt, a started program, a changed input or a file elsewhere, an unfinished file that was left, and
whatever the target's own check of the result says.

Case N of a target follows from the seed alone: `--reproduce SEED:TARGET:N` runs it again and keeps its files. Linux
only: elsewhere a process that has imported torch cannot be forked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hostile.cases import PATIENCE, PLANTED, SECONDS, TARGETS, Case, Limits, Ran, Target, ran_case
from tests.hostile.judge import judge, kind_of

KEPT = 3  # findings of one kind whose files are kept
TOLD_EVERY = 60.0


@dataclass
class Figures:
    """What came of a target's cases."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    largest: tuple[int, int] = (0, 0)

    def add(self, number: int, ran: Ran, wrong: str | None) -> None:
        names = {0: "done", 1: "failed", 2: "refused"}
        self.cases += 1
        self.outcomes["FINDING" if wrong else names[ran.code]] += 1
        self.slowest = max(self.slowest, (ran.seconds, number))
        self.largest = max(self.largest, (ran.memory >> 20, number))


@dataclass
class Fuzzer:
    """A run: its seed, where cases live, where findings are kept, and what came of it."""

    seed: str
    home: Path
    findings: Path
    limit: float = SECONDS
    figures: dict[str, Figures] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def run(self, targets: Sequence[Target], *, seconds: float, rounds: int | None = None) -> None:
        """Cases of all targets in turn until the time is up, or each target had so many."""
        began = told = time.monotonic()
        numbers = itertools.count() if rounds is None else range(rounds)
        for number, one in ((number, one) for number in numbers for one in targets):
            if time.monotonic() - began > seconds:
                return
            self.case(one, number)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                print(f"{told - began:.0f} s, {sum(one.cases for one in self.figures.values())} cases", flush=True)

    def case(self, one: Target, number: int) -> str | None:
        """Run one case; each kind of finding is told when it comes first. A hang counts if it is one twice."""
        for patience in (1, PATIENCE):
            limits = Limits(self.limit, self.limit * patience)
            with ran_case(one, number, seed=self.seed, home=self.home, limits=limits) as (case, ran):
                wrong = judge(case, one, ran)
                if patience == 1 and wrong and wrong.startswith("hang"):
                    continue
                self.figures.setdefault(one.name, Figures()).add(number, ran, wrong)
                if wrong:
                    self._note(case, one, number, wrong)
            break
        return wrong

    def _note(self, case: Case, one: Target, number: int, wrong: str) -> None:
        kind = kind_of(one.name, wrong)
        self.kinds[kind] += 1
        if self.kinds[kind] > KEPT:
            return
        place = keep(case, wrong, self.findings / f"{one.name}-{self.seed}-{number}")
        if self.kinds[kind] == 1:
            print(f"FINDING {self.seed}:{one.name}:{number} {wrong[:400]} (in {place})", flush=True)

    def table(self) -> str:
        """The figures, for people."""
        lines = [f"{'target':10} {'cases':>6}  {'slowest':>14}  {'memory':>16}  outcomes"]
        for name, one in self.figures.items():
            outcomes = ", ".join(f"{count} {what}" for what, count in sorted(one.outcomes.items()))
            slow, large = f"{one.slowest[0]:.1f} s (#{one.slowest[1]})", f"{one.largest[0]} MiB (#{one.largest[1]})"
            lines.append(f"{name:10} {one.cases:6}  {slow:>14}  {large:>16}  {outcomes}")
        cases = sum(one.cases for one in self.figures.values())
        lines.append(f"seed {self.seed}: {cases} cases, {self.kinds.total()} findings of {len(self.kinds)} kinds")
        return "\n".join([*lines, *(f"  {count:5} × {kind}" for kind, count in self.kinds.most_common())])


def keep(case: Case, wrong: str, place: Path) -> Path:
    """A case's folder as it was left, with what is wrong in `finding.txt`."""
    with suppress(shutil.Error):  # pipes cannot be copied
        shutil.copytree(case.folder, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("cache"))
    (place / "finding.txt").write_text(f"{wrong}\n", encoding="utf-8", errors="replace")
    return place


def reproduce(fuzzer: Fuzzer, one: Target, number: int) -> str | None:
    """Run one case again, show what it said, and keep its files."""
    limits = Limits(fuzzer.limit, fuzzer.limit * PATIENCE)
    with ran_case(one, number, seed=fuzzer.seed, home=fuzzer.home, limits=limits) as (case, ran):
        wrong = judge(case, one, ran)
        place = keep(case, wrong or "as promised", fuzzer.findings / f"{one.name}-{fuzzer.seed}-{number}")
        print(f"{ran.said}\nexit code {ran.code}, {ran.seconds:.1f} s, {ran.memory >> 20} MiB, files in {place}")
        print(wrong or "as promised")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    parser.add_argument("--cases", type=int, help="at most so many of each target")
    parser.add_argument("--seed", default="1", help="any text (1)")
    parser.add_argument("--only", help="a comma list of targets")
    parser.add_argument("--reproduce", metavar="SEED:TARGET:N", help="run this one case again")
    parser.add_argument("--limit", type=float, default=SECONDS, help=f"seconds of one case ({SECONDS:g})")
    parser.add_argument("--findings", type=Path, help="folder for the files of findings (a temporary one)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("the fuzzer needs Linux: a process that has imported torch cannot be forked elsewhere")
    os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="200", TERM="dumb", OMP_NUM_THREADS="1")
    from tests.hostile.targets import warm_up

    warm_up()
    seed, name, number = given.reproduce.split(":") if given.reproduce else (given.seed, given.only or "", "")
    known = {**TARGETS, **PLANTED}
    wanted = name.split(",") if name else list(TARGETS)
    if unknown := [one for one in wanted if one not in known]:
        raise SystemExit(f"no target {', '.join(unknown)}: there are {', '.join(known)}")
    findings = given.findings or Path(tempfile.mkdtemp(prefix="clearclip-findings-"))
    with tempfile.TemporaryDirectory(prefix="clearclip-fuzz-") as home:
        (Path(home) / "cache").mkdir()
        fuzzer = Fuzzer(seed, Path(home), findings, given.limit)
        if number:
            sys.exit(1 if reproduce(fuzzer, known[name], int(number)) else 0)
        fuzzer.run([known[one] for one in wanted], seconds=given.seconds, rounds=given.cases)
    print(fuzzer.table())
    if given.json:
        rows = {name: {**vars(one), "outcomes": dict(one.outcomes)} for name, one in fuzzer.figures.items()}
        given.json.write_text(json.dumps({"targets": rows, "findings": dict(fuzzer.kinds)}, indent=2))
    if not fuzzer.kinds and not given.findings:
        findings.rmdir()
    sys.exit(1 if fuzzer.kinds else 0)


if __name__ == "__main__":
    main()
