"""One case of the fuzzer: a damaged input, and a forked process with limits that is watched while it reads it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 20.0  # of one case
PATIENCE = 4  # so much longer a case that seems to hang has by the clock, once more: the machine may be busy
MEMORY = 1 << 30  # bytes that a case may take on top of what the forked process had
CRASHED = 70
SEED_SECONDS = 120.0

Action = Callable[[], None]
Snapshot = dict[str, tuple[int, int, int, bytes | str]]


@dataclass
class Case:
    """Where a case lives: `inputs` must stay as they are, `output` is the product's, `seeds` holds valid inputs."""

    rng: random.Random
    folder: Path
    seeds: Path
    port: int = 0
    may_add: bool = False  # the inputs' folder was named as the output
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

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def here(self) -> Path:
        """Where a command runs, and writes what is given no other place."""
        return self.folder / "here"

    def write(self, name: str, data: bytes | str) -> Path:
        file = self.inputs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return file


@dataclass(frozen=True)
class Limits:
    """Seconds that a case may take."""

    processor: float
    clock: float


Check = Callable[[Case, int], str | None]


@dataclass(frozen=True)
class Target:
    """Something that reads.

    `seed` makes valid inputs in a folder, once, in a process of its own; `prepare` damages them and says what to run;
    `check` says what is wrong with what is there after an exit code, or nothing.
    """

    name: str
    prepare: Callable[[Case], Action]
    seed: Callable[[Path], None]
    check: Check


TARGETS: dict[str, Target] = {}
PLANTED: dict[str, Target] = {}
"""Targets with a fault that the fuzzer must find; run by name alone."""


def target(
    *, seed: Callable[[Path], None], check: Check = lambda case, code: None, planted: bool = False
) -> Callable[[Callable[[Case], Action]], Callable[[Case], Action]]:
    """Make a function that prepares a case a target of its name."""

    def register(prepare: Callable[[Case], Action]) -> Callable[[Case], Action]:
        name = prepare.__name__
        (PLANTED if planted else TARGETS)[name] = Target(name, prepare, seed, check)
        return prepare

    return register


@dataclass
class Ran:
    """How a case ended."""

    code: int
    seconds: float
    memory: int
    said: str
    noted: list[str]
    asked: bool = False
    changed: list[str] = field(default_factory=list)


@contextmanager
def ran_case(one: Target, number: int, *, seed: str, home: Path, limits: Limits) -> Iterator[tuple[Case, Ran]]:
    """Prepare and run case `number` of a target, which follows from `seed`; its folder stays until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{one.name}-{number}-", dir=home))
    try:
        case = Case(random.Random(f"{seed}/{one.name}/{number}"), folder, _seeds(one, home))
        for made in (case.inputs, case.temporary, case.here):
            made.mkdir()
        case.cache.symlink_to(home / "cache")
        with socket.create_server(("127.0.0.1", 0)) as canary:  # an address for inputs that nobody may connect to
            canary.setblocking(False)
            case.port = canary.getsockname()[1]
            action = one.prepare(case)
            before = snapshot(case.inputs)
            ran = in_child(case, action, limits)
            ran.asked = _was_asked(canary)
        after = snapshot(case.inputs)
        names = before.keys() if case.may_add else before.keys() | after.keys()
        ran.changed = sorted(name for name in names if before.get(name) != after.get(name))
        yield case, ran
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seeds(one: Target, home: Path) -> Path:
    """The valid inputs of a target, made when they are first needed; where that fails, nothing is tested."""
    place = home / "seeds" / one.seed.__name__
    if not place.exists():
        making = Case(random.Random(0), home / f"{one.seed.__name__}.making", place)
        for made in (place, making.temporary, making.here):
            made.mkdir(parents=True)
        making.cache.symlink_to(home / "cache")
        ran = in_child(making, lambda: one.seed(place), Limits(SEED_SECONDS, SEED_SECONDS))
        if ran.code:
            raise SystemExit(f"{one.name}: the valid inputs cannot be made:\n{ran.said}")
    return place


def _was_asked(canary: socket.socket) -> bool:
    try:
        canary.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def in_child(case: Case, action: Action, limits: Limits) -> Ran:
    """Run something in a forked process with limits; its output, and what the audit hook saw, come back as text."""
    said, noted = case.folder / "said.txt", case.folder / "noted.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    before, began = _pages(1) - _pages(2), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(case, action, said=said, noted=noted, limits=limits)
    _, status, usage = os.wait4(pid, 0)
    return Ran(
        code=os.waitstatus_to_exitcode(status),
        seconds=time.monotonic() - began,
        memory=max(0, usage.ru_maxrss * 1024 - before),
        said=said.read_bytes().decode("utf-8", "backslashreplace") if said.exists() else "",
        noted=noted.read_text(encoding="utf-8", errors="replace").splitlines() if noted.exists() else [],
    )


def _child(case: Case, action: Action, *, said: Path, noted: Path, limits: Limits) -> None:
    code = CRASHED
    try:
        notes = _redirect(case, said, noted)
        os.environ["CLEARCLIP_CACHE"] = str(case.cache)
        os.environ["TMPDIR"] = tempfile.tempdir = str(case.temporary)
        os.chdir(case.here)
        _limit(limits)
        sys.addaudithook(_watch(case.folder, notes))
        code = _exit_code(action)
        sys.stdout.flush()
    except BaseException:
        code = CRASHED
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(case: Case, said: Path, noted: Path) -> int:
    """Input from nowhere, output to a file, sometimes in the encoding of another console; the handle for notes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    handle, notes = os.open(said, flags, 0o600), os.open(noted, flags, 0o600)
    for source, number in ((os.open(os.devnull, os.O_RDONLY), 0), (handle, 1), (handle, 2)):
        os.dup2(source, number)
    letters = case.rng.choice(("utf-8",) * 8 + ("cp1252", "ascii"))
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=letters, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding=letters, errors="backslashreplace", closefd=False)
    return notes


def _limit(limits: Limits) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.clock)
    whole = max(1, int(limits.processor))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    space = _pages(0) + 4 * MEMORY  # the judge measures what is really used; this protects the machine
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _exit_code(action: Action) -> int:
    """Run what a target prepared: a command ends with its exit code, the API with one of our own errors."""
    from clearclip.errors import ClearclipError

    try:
        action()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except ClearclipError as error:
        print("error:", error, file=sys.stderr)
        return error.exit_code
    return 0


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
                full = os.path.join(os.getcwd(), os.fsdecode(path))  # noqa: PTH109, PTH118  # cheap: this runs often
                if not os.path.normpath(full).startswith(inside):
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


def _pages(field_of_statm: int) -> int:
    """Bytes of this process: 0 is its address space, 1 what is resident, 2 what of that are files."""
    return int(Path("/proc/self/statm").read_text().split()[field_of_statm]) * resource.getpagesize()


def snapshot(folder: Path) -> Snapshot:
    """Kind, size, time and small contents of everything below a folder, links not followed."""
    found: Snapshot = {}
    for place in sorted(folder.rglob("*")):
        status = place.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20
        content = place.read_bytes() if small else str(place.readlink()) if place.is_symlink() else b""
        time_of = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[str(place.relative_to(folder))] = (status.st_mode, status.st_size, time_of, content)
    return found
