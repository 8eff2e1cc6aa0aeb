"""Output folders of `segment`: the ledger's bytes and tables, the files beside it; and the cache of texts."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import FLOATS, TEXTS, damage
from tests.hostile.targets.common import ASKED, command, damage_files, differing, finish, formatted, picture

FORMATS = {"plain": ("png", "preview"), "many": ("png", "coco", "yolo", "geojson")}


def seed_ledgers(place: Path) -> None:
    (place / "source").mkdir()
    for index in range(3):
        picture(index).save(place / "source" / f"{index}.png")
    for name, formats in FORMATS.items():
        finish("segment", place / "source", *ASKED, "-o", place / name, *formatted(formats))


def check_ledgers(case: Case, code: int) -> str | None:
    return None if code else differing(case.seeds / case.expected["kind"], case.output)


@target(seed=seed_ledgers, check=check_ledgers)
def ledgers(case: Case) -> Action:
    """A finished folder, damaged: a run that says that all is done must have all label maps as they were."""
    rng = case.rng
    kind = case.expected["kind"] = rng.choice(sorted(FORMATS))
    shutil.copytree(case.seeds / kind, case.output)
    ledger = next(file for file in case.output.rglob("*.sqlite*"))
    whole = ledger.read_bytes()
    chosen = rng.random()
    if chosen < 0.4:
        ledger.write_bytes(damage(whole, rng))
    elif chosen < 0.75:
        for _ in range(rng.choice((1, 1, 3))):
            _damage_table(ledger, rng)
    else:
        damage_files(case, case.output)
    if rng.random() < 0.1:
        beside = case.output / f"{ledger.name}{rng.choice(('-wal', '-shm', '-journal'))}"
        beside.write_bytes(damage(whole, rng)[:8192])
    more = ["--overwrite"] if rng.random() < 0.15 else []
    return command("segment", case.seeds / "source", *ASKED, "-o", case.output, *formatted(FORMATS[kind]), *more)


def _damage_table(file: Path, rng: random.Random) -> None:
    """One change by SQL: of cells, rows, columns, tables, or what SQLite itself says of the file."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice(tables)
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        column, other = rng.choice(columns), rng.choice(columns)
        cell = rng.choice((None, 2**63 - 1, -1, *FLOATS[:5], b"\xff\0", b"", *TEXTS[:40], "[]", "{}", '{"a":1}'))
        row = f'rowid IN (SELECT rowid FROM "{table}" ORDER BY rowid LIMIT 1 OFFSET {rng.randrange(3)})'
        if isinstance(cell, str):
            cell = cell.encode("utf-8", "replace").decode()
        changes: list[tuple[str, tuple[Any, ...]]] = [
            (f'UPDATE "{table}" SET "{column}" = ? WHERE {row}', (cell,)),
            (f'UPDATE "{table}" SET "{column}" = ?', (cell,)),
            (f'UPDATE "{table}" SET "{column}" = "{other}"', ()),
            (f'UPDATE OR IGNORE "{table}" SET "{column}" = CAST("{column}" AS BLOB)', ()),
            (f'UPDATE OR IGNORE "{table}" SET "{column}" = (SELECT "{column}" FROM "{table}" LIMIT 1)', ()),
            (f'UPDATE "{table}" SET "{column}" = substr("{column}", 1, length("{column}") / 2) WHERE {row}', ()),
            (f'DELETE FROM "{table}" WHERE {row}', ()),
            (f'DELETE FROM "{table}"', ()),
            (f'DROP TABLE "{table}"', ()),
            (f'ALTER TABLE "{table}" DROP COLUMN "{column}"', ()),
            (f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "else"', ()),
            (f'ALTER TABLE "{table}" ADD COLUMN more TEXT', ()),
            (f"PRAGMA user_version = {rng.choice((-1, 0, 2, 2**31 - 1))}", ()),
            (f'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END', ()),
        ]
        connection.execute(*rng.choice(changes))


def seed_caches(place: Path) -> None:
    (place / "source").mkdir()
    picture(1).save(place / "source" / "p.png")
    os.environ["CLEARCLIP_CACHE"] = str(place / "cache")
    finish("segment", place / "source", *ASKED, "-o", place / "whole")


def check_caches(case: Case, code: int) -> str | None:
    return "a damaged cache ends the run" if code else differing(case.seeds / "whole", case.output)


@target(seed=seed_caches, check=check_caches)
def caches(case: Case) -> Action:
    """Text embeddings that were kept, damaged: they are made again."""
    case.cache.unlink()
    shutil.copytree(case.seeds / "cache", case.cache)
    damage_files(case, case.cache)
    return command("segment", case.seeds / "source", *ASKED, "-o", case.output)
