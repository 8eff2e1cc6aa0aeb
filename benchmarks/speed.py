"""What dense segmentation costs beside the bare encoder: one table of measured ratios.

    python benchmarks/speed.py [--cases image,text] [--repeats 7] [--threads 2] [--folder PHOTOS] [--markdown | --json]

The yardstick is open_clip's own `visual(windows)` on the same weights, windows, number format and threads. It and ours
alternate in one process; a ratio is the median over such pairs. `--profile` and `--floor` say where the time goes. A
busy machine makes seconds worthless: there `--clock cpu --threads 1` counts the processor's time instead.

Belongs here: the command and the table. Does not: the cases (`speed_cases.py`), model and queries (`speed_model.py`),
memory, profile and floor (`speed_parts.py`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from speed_cases import CASES, PARTS
from speed_model import Row, Setting
from speed_parts import machine

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def header(options: argparse.Namespace) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("clearclip", "torch", "open_clip_torch"))
    return (
        f"{libraries}, Python {platform.python_version()}; {machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; ViT-B/16 shape, {options.layers} blocks, "
        f"random weights, float32; {options.repeats} alternating repeats, {options.clock} clock; "
        f"{datetime.date.today()}"
    )


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    titles = ("case", "goal", "measured", "spread", "remark")
    cells = [titles]
    for row in rows:
        remarks = [row.remark] if row.remark else []
        remarks += [f"{100 * row.winning:.0f} % of the queries win" for _ in (1,) if row.winning is not None]
        cells.append((row.case, row.goal, row.measured, row.spread, "; ".join(remarks)))
    used = [column for column in range(len(titles)) if any(line[column] for line in cells[1:])]
    cells = [tuple(line[column] for column in used) for line in cells]
    if markdown:
        lines = [f"| {' | '.join(line)} |" for line in cells]
        return "\n".join([lines[0], "|---" * len(used) + "|", *lines[1:]])
    widths = [max(len(line[column]) for line in cells) for column in range(len(used))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join([*CASES, *PARTS])}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="photographs to use in place of made scenes")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--quick", action="store_true", help="fewer pictures, prompts and sizes")
    parser.add_argument("--profile", action="store_true", help="only where the time of one image goes")
    parser.add_argument("--floor", action="store_true", help="only the floor, and how much of it is reached")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--markdown", action="store_true")
    printed.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [name for name in PARTS if getattr(options, name)] or options.cases.split(",")
    known = CASES | PARTS
    if not {*chosen} <= {*known}:
        parser.error(f"there is no case {', '.join({*chosen} - {*known})}; there are {', '.join(known)}")
    torch.set_num_threads(options.threads)
    on = Setting(options.layers, options.repeats, options.quick, options.folder, CLOCKS[options.clock])
    with torch.no_grad():
        rows = [row for name in chosen for row in known[name](on)]
    if options.json:
        print(
            json.dumps({"about": header(options), "rows": [asdict(row) for row in rows]}, indent=2, ensure_ascii=False)
        )
    else:
        print(f"{header(options)}\n\n{table(rows, markdown=options.markdown)}")


if __name__ == "__main__":
    main()
