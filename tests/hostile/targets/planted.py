"""Faults that the fuzzer must find: a wrong error, a hang, too much memory, and what else a reader must not do."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from tests.hostile.cases import MEMORY, Action, Case, target


def seed_nothing(place: Path) -> None:
    """These have no input."""


@target(seed=seed_nothing, planted=True)
def raises(case: Case) -> Action:
    return lambda: {}["no such key"]


@target(seed=seed_nothing, planted=True)
def sleeps(case: Case) -> Action:
    return lambda: time.sleep(600)


@target(seed=seed_nothing, planted=True)
def spins(case: Case) -> Action:
    def run() -> None:
        while True:
            pass

    return run


@target(seed=seed_nothing, planted=True)
def allocates(case: Case) -> Action:
    def run() -> None:
        assert len(b"x" * (MEMORY + MEMORY // 4))

    return run


@target(seed=seed_nothing, planted=True)
def asks(case: Case) -> Action:
    return lambda: socket.create_connection(("127.0.0.1", case.port)).close()


@target(seed=seed_nothing, planted=True)
def writes(case: Case) -> Action:
    file = case.write("input.txt", "mine")

    def run() -> None:
        file.write_text("yours")

    return run


@target(seed=seed_nothing, check=lambda case, code: "a result that lies", planted=True)
def lies(case: Case) -> Action:
    return lambda: None
