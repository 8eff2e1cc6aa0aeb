"""What dense segmentation costs beside the bare encoder: a table of ratios, measured in one process, alternating.

Run: python benchmarks/speed.py --markdown [--case NAME …] [--repeats 5] [--photographs FOLDER] [--memory]

The yardstick is open_clip's `visual(windows)` for the two 448×448 windows of the same 480×640 picture, same weights,
same number format, same threads. End to end: decoded picture and text embeddings in, label map at the picture's size
out. See `speed_model.py` for the model and its queries. `--clock cpu` counts the process's CPU seconds instead of the
wall's, for a machine with other work (one thread). `--memory` measures each case's peak from outside, in processes of
their own, less that of a process that runs the bare forward alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import open_clip
import torch

import clearclip
from clearclip.batch import segment_files
from clearclip.images import normalize, resize, resized_size
from clearclip.methods import ablation_grid
from clearclip.outputs import save_image
from clearclip.protocol import CLIP_MEAN, CLIP_STD, PROTOCOLS
from clearclip.text import embed_queries, imagenet_templates
from clearclip.windows import plan_windows
from speed_model import WINDOW, Fair, bare, fair, make_model, photographs, share_that_wins

GOALS = {
    "bare": "1",
    "one-20": "≤ 1.00",
    "one-171": "≤ 1.10",
    "one-1000": "≤ 1.20",
    "scores-1000": "≤ 1.80",
    "grid-24": "≤ 3.0 × one method",
    "text": "≤ 0.25 × full context",
    "classify-20": "≤ 0.05",
    "folder-64": "≥ 0.95 of one-20's throughput",
    "bfloat16": "≥ 1.8 × faster",
}
Run = Callable[[], object]


class Cases:
    """The cases by name: each a function to time, and what it is divided by."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.image = photographs(1, folder=options.photographs)[0]
        self.model = make_model(layers=options.layers)
        self.visual = bare(self.model, layers=options.layers)
        self.fair: Fair = fair(self.model, self.image, folder=options.photographs)
        self.segmenter = self.make_segmenter(self.fair.backbone, "float32")
        size = resized_size(*self.image.shape[:2], PROTOCOLS["paper"])
        plan = plan_windows(size, crop_size=WINDOW, stride=224, patch_size=16)
        self.windows = plan.cut(normalize(resize(self.image, size), mean=CLIP_MEAN, std=CLIP_STD))

    @staticmethod
    def make_segmenter(backbone: clearclip.Backbone, dtype: str) -> clearclip.Segmenter:
        return clearclip.Segmenter(
            backbone, device="cpu", dtype=dtype, protocol="paper", templates="{}", cache=False, show_progress=False
        )

    @torch.no_grad()
    def bare(self) -> object:
        return self.visual(self.windows)

    def one(self, count: int, threshold: float | None = None) -> clearclip.Segmentation:
        return self.segmenter(self.image, self.fair.labels(count), threshold=threshold)

    def pair(self, name: str) -> tuple[Run, Run]:
        """What is timed and what it is divided by."""
        if name == "bare":
            return self.bare, self.bare
        if name.startswith("one-"):
            return lambda: self.one(int(name[4:])), self.bare
        if name == "scores-1000":
            return lambda: self.one(1000, threshold=0.02), self.bare
        if name == "grid-24":
            rows = ablation_grid()
            labels = self.fair.labels(21)
            encode = self.segmenter.encode
            return (
                lambda: self.segmenter.classify(encode(self.image, method=rows), labels, method=rows),
                lambda: self.one(21),
            )
        if name == "classify-20":
            encoded = self.segmenter.encode(self.image)
            return lambda: self.segmenter.classify(encoded, self.fair.labels(20)), self.bare
        if name == "text":
            return self.text()
        if name == "folder-64":
            return self.folder()
        return self.bfloat16()

    def text(self) -> tuple[Run, Run]:
        """16 labels × 80 templates, the unit in which any number of labels is read."""
        labels = [f"thing number {index}" for index in range(self.options.text_labels)]
        backbone = clearclip.view(self.model)
        prompts = [template.format(label) for label in labels for template in imagenet_templates()]

        @torch.no_grad()
        def full() -> object:
            tokens = open_clip.tokenize(prompts)
            return torch.cat([self.model.encode_text(part) for part in tokens.split(256)])

        return lambda: embed_queries(backbone, labels, show_progress=False), full

    def folder(self) -> tuple[Run, Run]:
        home = Path(tempfile.mkdtemp())
        count = self.options.folder_images
        for index in range(count):
            save_image(self.image, home / f"{index:03}.jpg")
        paths, labels = sorted(home.iterdir()), self.fair.labels(20)
        return (
            lambda: segment_files(self.segmenter, paths, labels=labels, output=home / "out", overwrite=True),
            lambda: [self.one(20) for _ in range(count)],
        )

    def bfloat16(self) -> tuple[Run, Run]:
        other = fair(make_model(layers=self.options.layers), self.image, folder=self.options.photographs)
        low = self.make_segmenter(other.backbone, "bfloat16")
        return lambda: low(self.image, self.fair.labels(20)), lambda: self.one(20)


def seconds(run: Run, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def measure(name: str, cases: Cases, *, repeats: int, clock: Callable[[], float]) -> dict[str, object]:
    run, base = cases.pair(name)
    run(), base()
    times = [(seconds(run, clock), seconds(base, clock)) for _ in range(repeats)]
    ratios = [one / other for one, other in times]
    if name in ("folder-64", "bfloat16"):  # goals that are better when higher
        ratios = [1 / ratio for ratio in ratios]
    row = {
        "case": name,
        "goal": GOALS[name],
        "ratio": round(statistics.median(ratios), 3),
        "seconds": round(statistics.median(one for one, _ in times), 3),
        "base_seconds": round(statistics.median(other for _, other in times), 3),
    }
    if name.startswith("one-"):
        count = int(name[4:])
        row["queries_that_win"] = round(share_that_wins(cases.one(count).label_map, count), 2)
    return row


def peak_mib(name: str, arguments: list[str]) -> float:
    """Peak resident memory of a process that runs a case once."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, __file__, "--once", name, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"torch {version('torch')}, open_clip_torch {version('open_clip_torch')}, {torch.get_num_threads()} threads, "
        f"CPU with {capability}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=sorted(GOALS), help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--photographs", type=Path, help="folder of photographs; default: made scenes")
    parser.add_argument("--text-labels", type=int, default=16)
    parser.add_argument("--folder-images", type=int, default=64)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", choices=sorted(GOALS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        Cases(options).pair(options.once)[0]()
        return
    cases = Cases(options)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rows = []
    for name in options.case or [name for name in GOALS if name != "bare"]:
        rows.append(measure(name, cases, repeats=options.repeats, clock=clock))
        print(rows[-1], file=sys.stderr)
    if options.memory:
        passed = ["--layers", str(options.layers)]
        passed += ["--photographs", str(options.photographs)] if options.photographs else []
        alone = peak_mib("bare", passed)
        for row in rows:
            row["mib_above_bare"] = round(peak_mib(str(row["case"]), passed) - alone)
    facts = f"{machine()}, {options.repeats} alternating repeats, {options.clock} clock, {options.layers} blocks"
    if options.json:
        print(json.dumps({"facts": facts, "rows": rows}, indent=2))
        return
    print(f"ViT-B/16 shape, random weights, 480×640: {facts}\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
    if options.markdown:
        lines.insert(1, ["---"] * len(columns))
    for line in lines:
        print(f"| {' | '.join(line)} |" if options.markdown else "  ".join(f"{cell:>14}" for cell in line))


if __name__ == "__main__":
    main()
