"""What ten last-block methods cost in one call, as a ratio to one method; GEM's cost beside them.

Run: python benchmarks/many_methods.py [--layers 12] [--side 224] [--batch 2] [--repeats 5]

One process, alternating, random weights in the shape of ViT-B/16: the ratio is what counts, not the seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import torch

import clearclip

TEN = [
    *(name for name in clearclip.METHODS if name not in ("gem", "gem+clearclip")),
    "clearclip[residual=beta:30]",
    "clearclip[attention=vv]",
    "clearclip[attention=kk]",
    "clearclip[residual=keep,ffn=keep]",
]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = open_clip.CLIP(
        512,
        {"image_size": 224, "layers": options.layers, "width": 768, "patch_size": 16},
        {"layers": 1},
        quick_gelu=True,
    )
    backbone = clearclip.view(model)
    images = torch.randn(options.batch, 3, options.side, options.side)
    runs: dict[str, Callable[[], object]] = {
        "one method (clearclip)": lambda: clearclip.dense_features(backbone, images, method="clearclip"),
        "ten last-block methods": lambda: clearclip.dense_features(backbone, images, method=TEN),
        "gem alone": lambda: clearclip.dense_features(backbone, images, method="gem"),
        "ten and gem, gem+clearclip": lambda: clearclip.dense_features(
            backbone, images, method=[*TEN, "gem", "gem+clearclip"]
        ),
        "the 24 of the ablation grid": lambda: clearclip.dense_features(
            backbone, images, method=clearclip.methods.ablation_grid()
        ),
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    one = times["one method (clearclip)"]
    print(
        f"ViT-B/16 shape, {options.layers} blocks, {options.batch} images of {options.side}², float32, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.repeats} alternating repeats"
    )
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, one, strict=True)]
        print(f"{name:30} {statistics.median(values):7.3f} s   {statistics.median(ratios):5.2f} × one method")


if __name__ == "__main__":
    main()
