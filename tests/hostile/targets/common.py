"""What several targets use: pictures, commands, and comparisons of label maps."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.cases import Action, Case
from tests.hostile.mutate import damage, damage_json

WORDS = ("sky", "grass", "tree", "car")
TINY = ("--model", "tiny", "--device", "cpu", "--template", "{}")
ASKED = (*(part for word in WORDS for part in ("-l", word)), *TINY)


def command(*arguments: str | Path) -> Action:
    """The program's own entry, as its console script calls it."""

    def run() -> None:
        from clearclip.cli import main

        sys.argv = ["clearclip", *map(str, arguments)]
        main()

    return run


def finish(*arguments: str | Path) -> None:
    """Run a command that must succeed."""
    try:
        command(*arguments)()
    except SystemExit as ended:
        if ended.code:
            raise


def formatted(names: Iterable[str]) -> list[str]:
    return [part for name in names for part in ("--format", name)]


def picture(seed: int, height: int = 40, width: int = 56) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, kind, **options)
    return stream.getvalue()


def wrong_maps(files: Iterable[Path], *, labels: int = len(WORDS)) -> str | None:
    """What is wrong with label maps: unreadable, or values that are no label."""
    for file in files:
        try:
            with Image.open(file) as image:
                most = int(np.asarray(image).max())
        except (OSError, SyntaxError, ValueError) as error:
            return f"result {file.name} cannot be read ({error})"
        if most >= labels:
            return f"result {file.name} has the value {most}, there are {labels} labels"
    return None


def maps_of(folder: Path) -> dict[str, bytes]:
    """Pixels by name of all label maps in a folder."""
    found = {}
    for file in sorted(folder.glob("*.png")):
        with Image.open(file) as image:
            found[file.name] = np.asarray(image).tobytes()
    return found


def differing(expected: Path, made: Path) -> str | None:
    """Whether label maps differ from those of an undisturbed run."""
    wanted, found = maps_of(expected), maps_of(made)
    names = [name for name, pixels in wanted.items() if found.get(name) != pixels]
    return f"success, but {', '.join(names)} differ from those of an undisturbed run" if names else None


def damage_files(case: Case, folder: Path, *, gone: bool = True) -> None:
    """Damage some files of a folder; with `gone` they may also be missing, another's, or no files any more."""
    rng = case.rng
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in rng.sample(files, min(len(files), rng.choice((1, 1, 2, 3)))):
        kind, other = rng.randrange(10 if gone else 5), rng.choice(files)
        if not file.is_file() or not other.is_file() or other.is_symlink():
            continue
        if kind < 4:
            file.write_bytes(_damaged(case, file.read_bytes(), as_json=kind < 2))
            continue
        content = other.read_bytes()
        file.unlink()
        if kind == 4:
            file.touch()
        elif kind == 6:
            file.write_bytes(content)
        elif kind == 7:
            file.symlink_to(case.write("secret.txt", "it is not the product's"))
        elif kind == 8:
            file.mkdir()
        elif kind == 9:
            os.mkfifo(file)


def _damaged(case: Case, data: bytes, *, as_json: bool) -> bytes:
    if as_json:
        try:
            return damage_json(json.loads(data), case.rng).encode("utf-8", "surrogatepass")
        except ValueError:
            pass
    return damage(data, case.rng)
