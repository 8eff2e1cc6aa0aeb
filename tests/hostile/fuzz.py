"""A seeded fuzzer for everything that clearclip reads: `python -m tests.hostile.fuzz --seconds 3600 --seed 7`.

Each case is a process of its own, forked from one that has imported everything, with limits of time and memory. Case
number N of a target follows from the seed alone: `--only images --seed 7 --case 123` runs it again.

What may come: success, or one line and exit code 1 or 2. What is a finding: a traceback, a signal, a hang, too much
memory, a connection, a prompt, a started program, a file outside of the output folder that was changed, an unfinished
file that was left, and whatever the target's own check of a result says. Linux only: elsewhere a process that has
imported torch cannot be forked.
"""

# ruff: noqa: PTH100, PTH115
from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 30  # of one case, by the clock and by the processor
MEMORY = 1 << 30  # what a case may take on top of what the forked process had
CRASHED = 70
KEPT = 3  # findings of one kind whose inputs are kept

Action = Callable[[], None]


@dataclass
class Case:
    """Where a case lives: `inputs` must stay as they are, `output` is the product's."""

    rng: random.Random
    folder: Path
    seeds: Path
    port: int
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def write(self, name: str, data: bytes | str) -> Path:
        file = self.inputs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return file


@dataclass(frozen=True)
class Target:
    """Something that reads.

    `seed` makes valid inputs in a folder, once, in a process of its own; `prepare` damages them and says what to run;
    `check` says what is wrong with what is there afterwards, or nothing.
    """

    seed: Callable[[Path], None]
    prepare: Callable[[Case], Action]
    check: Callable[[Case, int], str | None] = lambda case, code: None


def command(*arguments: str | Path) -> Action:
    """The program's own entry, as its console script calls it."""

    def run() -> None:
        from clearclip.cli import main

        sys.argv = ["clearclip", *map(str, arguments)]
        main()

    return run


@dataclass
class Ran:
    """How a case's process ended."""

    code: int
    seconds: float
    memory: int
    said: str
    noted: list[str]


def in_child(case: Case, action: Action, *, seconds: int = SECONDS) -> Ran:
    """Run something in a forked process with limits; its output, and what the audit hook saw, come back as text."""
    said, noted = case.folder / "said.txt", case.folder / "noted.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    before, began = _resident(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(case, action, said=said, noted=noted, seconds=seconds)
    _, status, usage = os.wait4(pid, 0)
    return Ran(
        code=os.waitstatus_to_exitcode(status),
        seconds=time.monotonic() - began,
        memory=max(0, usage.ru_maxrss * 1024 - before),
        said=said.read_bytes().decode("utf-8", "backslashreplace") if said.exists() else "",
        noted=noted.read_text(encoding="utf-8", errors="replace").splitlines() if noted.exists() else [],
    )


def _child(case: Case, action: Action, *, said: Path, noted: Path, seconds: int) -> None:
    code = CRASHED
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        notes = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((nowhere, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        letters = case.rng.choice(("utf-8",) * 8 + ("cp1252", "ascii"))
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding=letters, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=letters, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ["CLEARCLIP_CACHE"] = str(case.cache)
        os.environ["TMPDIR"] = tempfile.tempdir = str(case.folder / "tmp")
        os.chdir(case.folder / "tmp")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        space = _virtual() + 4 * MEMORY  # the judge measures what is really used; this protects the machine
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        sys.addaudithook(_watch(case.folder, notes))
        try:
            action()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        sys.stdout.flush()
    except BaseException:
        code = CRASHED
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
ASKS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "urllib.Request")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _watch(folder: Path, notes: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes what no damaged input may cause."""
    inside = (f"{folder}{os.sep}", os.devnull, "/dev/shm/", "/dev/pts/", "/dev/tty")

    def note(text: str) -> None:
        os.write(notes, (text.replace("\n", " ")[:300] + "\n").encode("utf-8", "backslashreplace"))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & WRITES:
                full = os.path.abspath(os.fsdecode(path))
                if not full.startswith(inside):
                    note(f"writes {full}")
        elif event in PROGRAMS:
            note(f"starts a program: {arguments[:2]!r}")
        elif event in ASKS:
            note(f"asks: {event} {arguments[-1]!r}")
        elif event == "builtins.input":
            note(f"prompts: {arguments!r}")
        elif event == "pickle.find_class":
            note(f"unpickles {arguments!r}")
        elif event == "exec" and getattr(arguments[0], "co_filename", "").startswith(inside[0]):
            note(f"runs code of {arguments[0].co_filename}")

    return watch


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes | str]]:
    """Kind, size, time and small contents of everything below a folder, links not followed."""
    found: dict[str, tuple[int, int, int, bytes | str]] = {}
    for place in sorted(folder.rglob("*")):
        status = place.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20
        content = place.read_bytes() if small else os.readlink(place) if place.is_symlink() else b""
        time_of = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[str(place.relative_to(folder))] = (status.st_mode, status.st_size, time_of, content)
    return found


def judge(case: Case, target: Target, ran: Ran, *, before: dict[str, Any], asked: bool) -> str | None:
    """What is wrong with how a case ended, in one line; nothing where all is as promised."""
    if ran.code == -signal.SIGALRM or ran.code == -signal.SIGXCPU:
        return f"hang: more than {SECONDS} s"
    if ran.code < 0:
        return f"signal {signal.Signals(-ran.code).name}"
    if "Traceback (most recent call last)" in ran.said or ran.code not in (0, 1, 2):
        lines = [line for line in ran.said.splitlines() if line.strip()]
        where = [line.strip() for line in lines if re.match(r'\s+File ".*clearclip', line)]
        return f"traceback: {lines[-1] if lines else ran.code} [{where[-1] if where else 'elsewhere'}]"
    if ran.memory > MEMORY:
        return f"memory: {ran.memory >> 20} MiB more than the limit of {MEMORY >> 20}"
    if ran.noted:
        return ran.noted[0]
    if asked:
        return "asks: the address in the input was connected to"
    if snapshot(case.inputs) != before:
        after = snapshot(case.inputs)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return f"changes inputs: {', '.join(changed[:5])}"
    left = [place.name for folder in (case.output, case.folder / "tmp") for place in folder.rglob(".clearclip-*")]
    left += [place.name for place in (case.folder / "tmp").iterdir()]
    if left:
        return f"leaves {left[0]}"
    if ran.code and not re.search(r"(?m)^(error|failed|damaged): |^Usage: ", ran.said):
        return f"exit code {ran.code} without a reason"
    if len(re.findall(r"(?m)^error: ", ran.said)) > 1:
        return "more than one line of error"
    return target.check(case, ran.code)


@contextmanager
def ran_case(
    name: str, target: Target, number: int, *, seed: str, home: Path
) -> Iterator[tuple[Case, Ran, str | None]]:
    """Prepare, run and judge one case; its folder is there until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{number}-", dir=home))
    try:
        with socket.create_server(("127.0.0.1", 0)) as canary:
            canary.setblocking(False)
            rng = random.Random(f"{seed}/{name}/{number}")
            case = Case(rng, folder, home / "seeds" / name, canary.getsockname()[1])
            for made in (case.inputs, folder / "tmp"):
                made.mkdir()
            case.cache.symlink_to(home / "cache")
            action = target.prepare(case)
            before = snapshot(case.inputs)
            ran = in_child(case, action)
            asked = _was_asked(canary)
        yield case, ran, judge(case, target, ran, before=before, asked=asked)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _was_asked(canary: socket.socket) -> bool:
    try:
        canary.accept()[0].close()
    except BlockingIOError:
        return False
    return True


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


def kind_of(name: str, wrong: str) -> str:
    """What makes two findings the same one: everything but numbers and names of files."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|\d+", "…", wrong.split(" [File ")[0])
    place = re.search(r'/clearclip/(\S+)", (line \d+)', wrong)
    return f"{name}: {plain[:120]} {place[1] + ' ' + place[2] if place else ''}".strip()


def fuzz(
    targets: dict[str, Target], *, seconds: float, seed: str, findings: Path | None, only_case: int | None = None
) -> tuple[dict[str, Figures], Counter[str]]:
    """Cases of all targets in turn until the time is up; each kind of finding is logged when it comes first."""
    figures = {name: Figures() for name in targets}
    kinds: Counter[str] = Counter()
    began = told = time.monotonic()
    numbers = itertools.count() if only_case is None else [only_case]
    with tempfile.TemporaryDirectory(prefix="clearclip-fuzz-") as home_name:
        home = Path(home_name)
        (home / "cache").mkdir()
        for name, target in targets.items():
            make_seeds(name, target, home)
        for number, name in ((number, name) for number in numbers for name in targets):
            if time.monotonic() - began > seconds and only_case is None:
                break
            with ran_case(name, targets[name], number, seed=seed, home=home) as (case, ran, wrong):
                figures[name].add(number, ran, wrong)
                if only_case is not None:
                    print(f"{name} {number}: code {ran.code}, {wrong or 'as promised'}\n{ran.said}", flush=True)
                if wrong is not None:
                    kind = kind_of(name, wrong)
                    kinds[kind] += 1
                    if kinds[kind] == 1:
                        print(f"FINDING {name} --seed {seed} --case {number}: {wrong[:400]}", flush=True)
                    if kinds[kind] <= KEPT and findings is not None:
                        _keep(case, wrong, findings / f"{name}-{seed}-{number}")
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{told - began:.0f} s, {sum(one.cases for one in figures.values())} cases", flush=True)
    return figures, kinds


def _keep(case: Case, wrong: str, place: Path) -> None:
    """A finding's folder as the case left it, with what is wrong in `finding.txt`."""
    ignore = shutil.ignore_patterns("cache")
    with suppress(shutil.Error):  # pipes cannot be copied
        shutil.copytree(case.folder, place, symlinks=True, dirs_exist_ok=True, ignore=ignore)
    (place / "finding.txt").write_text(f"{wrong}\n", encoding="utf-8", errors="replace")


def make_seeds(name: str, target: Target, home: Path) -> None:
    """The valid inputs of a target; where that fails, nothing is tested."""
    place = home / "seeds" / name
    (place / "tmp").mkdir(parents=True)
    (place / "cache").symlink_to(home / "cache")
    ran = in_child(
        Case(random.Random(0), place, place, 0),
        lambda: target.seed(place),
        seconds=120,
    )
    if ran.code:
        raise SystemExit(f"{name}: the valid inputs cannot be made:\n{ran.said}")


def table(figures: dict[str, Figures], kinds: Counter[str]) -> str:
    """The figures, for people."""
    lines = [f"{'target':10} {'cases':>6}  {'slowest':>14}  {'memory':>16}  outcomes"]
    for name, one in figures.items():
        outcomes = ", ".join(f"{count} {what}" for what, count in sorted(one.outcomes.items()))
        slow, large = f"{one.slowest[0]:.1f} s (#{one.slowest[1]})", f"{one.largest[0]} MiB (#{one.largest[1]})"
        lines.append(f"{name:10} {one.cases:6}  {slow:>14}  {large:>16}  {outcomes}")
    lines.append(f"{sum(one.cases for one in figures.values())} cases, {sum(kinds.values())} findings")
    return "\n".join([*lines, *(f"  {count:5} × {kind}" for kind, count in kinds.most_common())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("CLEARCLIP_FUZZ_SECONDS", "60")))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", help="a comma list of targets")
    parser.add_argument("--case", type=int, help="this one case of each target")
    parser.add_argument("--findings", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    if not hasattr(os, "fork") or sys.platform != "linux":
        raise SystemExit("the fuzzer needs Linux: a process that has imported torch cannot be forked elsewhere")
    os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="200", TERM="dumb", OMP_NUM_THREADS="1")
    from tests.hostile.targets import TARGETS, warm_up

    warm_up()
    wanted = given.only.split(",") if given.only else list(TARGETS)
    targets = {name: TARGETS[name] for name in wanted}
    figures, kinds = fuzz(
        targets, seconds=given.seconds, seed=given.seed, findings=given.findings, only_case=given.case
    )
    print(table(figures, kinds))
    if given.json:
        rows = {name: {**vars(one), "outcomes": dict(one.outcomes)} for name, one in figures.items()}
        given.json.write_text(json.dumps({"targets": rows, "findings": dict(kinds)}, indent=2))
    sys.exit(1 if kinds else 0)


if __name__ == "__main__":
    main()
