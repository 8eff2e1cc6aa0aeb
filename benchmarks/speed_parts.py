"""What stands beside the ratios of `speed.py`: peak memory from outside the process, where the time goes, the floor.

Belongs here: measurements that are no ratio to the bare forward. Run as a program it is the process whose memory is
read; `speed.py` starts it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import speed_model
from clearclip.backbones.devices import has_bfloat16_units
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import rewrite, run_trunk, wanted_blocks
from clearclip.protocol import get_protocol

LAUNCHER = (
    "import os, sys; pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *sys.argv[1:]]); "
    "_, status, usage = os.wait4(pid, 0); print(usage.ru_maxrss); sys.exit(os.waitstatus_to_exitcode(status) != 0)"
)
"""A small process between: a child's maximum counts its parent's pages at the fork, and a benchmark has many."""
TWICE = 896


def peak(work: str, *, layers: int, table: Tensor, queries: int = 20, threads: int) -> float:
    """Peak memory of a process of its own, read by the process that started it.

    Args:
        work: As this program's `work`.
        layers: Of the model.
        table: What `find_queries` returned.
        queries: How many.
        threads: Of torch.

    Returns:
        MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.pt"
        torch.save(table, file)
        numbers = ["--layers", str(layers), "--queries", str(queries), "--threads", str(threads)]
        command = [sys.executable, "-c", LAUNCHER, __file__, work, "--table", str(file), *numbers]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    unit = 1 if sys.platform == "darwin" else 1024
    return int(printed.split()[-1]) * unit / 2**20


@torch.no_grad()
def _work(work: str, *, layers: int, table: Tensor, queries: int) -> None:
    """What the process whose memory is read does: every kind loads the same model, table and image."""
    model = speed_model.make_model(layers=layers)
    image = speed_model.photographs(1)[0]
    numbers = get_protocol("native").in_pixels(speed_model.WINDOW // 2)
    if work in ("windows", "more-windows"):
        numbers = numbers.with_overrides(short_side=TWICE, stride=224 if work == "windows" else 112)
    segmenter = speed_model.segmenter_of(model, table, protocol=numbers)
    if work == "bare":
        tower = speed_model.bare(model, layers=layers)
        tower(speed_model.windows_of(segmenter, image))
    else:
        segmenter(image, speed_model.labels(queries), threshold=0.1 if work == "scores" else None)


@torch.no_grad()
def profile(
    segmenter: speed_model.Segmenter,
    image: speed_model.Pixels,
    *,
    queries: int,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Where the time of one image goes, step by step.

    Args:
        segmenter: What labels it.
        image: The picture.
        queries: How many.
        repeats: The medians are of so many.
        clock: Seconds.

    Returns:
        Seconds by step, in order.
    """
    words, encoder = segmenter.prepare(speed_model.labels(queries)), segmenter.encoder
    backbone, method = segmenter.backbone, segmenter.method
    taken: dict[str, list[float]] = {}
    for _ in range(repeats + 1):
        marks = [clock()]
        encoded = encoder.prepare(image)
        plan, windows = encoded.plan, encoded.windows
        marks.append(clock())
        how = backbone.table_kind(plan.grid_size, method.positions)
        inputs = run_trunk(
            backbone, windows.to(backbone.dtype), positions=how, wanted=wanted_blocks(backbone, [method])
        )
        marks.append(clock())
        features = rewrite(backbone, inputs, [method], grid_size=plan.grid_size)[method].features
        features = encoder.checked(method, features)
        marks.append(clock())
        grid = LogitGrid.from_features(features, words.text, plan=plan, size=image.shape[:2])
        marks.append(clock())
        winners, _ = grid.best(logit_scale=segmenter.protocol.logit_scale, scores=False)
        marks.append(clock())
        torch.tensor(words.vocabulary.query_to_class, dtype=torch.int32)[winners].numpy()
        marks.append(clock())
        steps = (
            "resize, normalise, cut windows",
            "all blocks but the last",
            "last block, rewritten, and projection",
            "cosines",
            "winners at full size",
            "labels of the winners",
        )
        for step, start, end in zip(steps, marks, marks[1:], strict=False):
            taken.setdefault(step, []).append(end - start)
    return {step: statistics.median(values[1:]) for step, values in taken.items()}


def flops(*, layers: int, windows: int, queries: int) -> float:
    """Multiplications and additions that one image needs by ClearCLIP, in the shape of ViT-B/16.

    Args:
        layers: Blocks of the vision tower.
        windows: Of 448 × 448 pixels.
        queries: How many.

    Returns:
        Floating-point operations.
    """
    patches, width, embed = (speed_model.WINDOW // 16) ** 2, 768, 512
    tokens = patches + 1
    embedding = 2 * patches * width * 3 * 16**2
    attention = 4 * tokens**2 * width
    block = 24 * tokens * width**2 + attention
    last = 2 * tokens * width**2 * 3 + attention  # q, v and the output's projection; no k, no feed-forward network
    return windows * (embedding + (layers - 1) * block + last + 2 * patches * embed * (width + queries))


@torch.no_grad()
def matrix_rate(*, clock: Callable[[], float], side: int = 2048, repeats: int = 5) -> float:
    """Measured rate of large float32 matrix products, in operations a second: the best of some."""
    left, right = torch.randn(side, side), torch.randn(side, side)
    rates = []
    for _ in range(repeats + 1):
        start = clock()
        left @ right
        rates.append(2 * side**3 / (clock() - start))
    return max(rates)


def machine() -> str:
    """The processor in general words."""
    ask = getattr(torch.cpu, "get_capabilities", dict)
    name = ask().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {'' if has_bfloat16_units() else 'no '}bfloat16 units"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("bare", "label-map", "scores", "windows", "more-windows"))
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = torch.load(options.table, weights_only=True)
    _work(options.work, layers=options.layers, table=table, queries=options.queries)


if __name__ == "__main__":
    main()
