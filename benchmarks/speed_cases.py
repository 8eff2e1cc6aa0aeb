"""The cases of `speed.py`: each measures and gives rows of the table.

Belongs here: what is compared with what, and the goals. Does not: the command and the table's look (`speed.py`), model
and queries (`speed_model.py`), what is measured in other processes or step by step (`speed_parts.py`).
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import clearclip
import speed_model
import speed_parts
from clearclip.backbones.devices import has_bfloat16_units
from clearclip.benchmarks import confusion, open_benchmark, scores, vocabulary_of
from clearclip.classify.grid import LogitGrid
from clearclip.classify.maps import grids
from clearclip.encode.text import embed_queries, imagenet_templates
from clearclip.engine.run import segment_files
from clearclip.methods import ablation_grid
from speed_model import Row, Setting, labels, seconds, segmenter_of, share_that_wins, times, windows_of


def image(on: Setting) -> list[Row]:
    segment, picture = on.segmenter, on.image
    words = {count: labels(count) for count in (20, 171, 1000)}
    encoded = segment.encode(picture)
    segment.classify(encoded, words[20])
    runs = [lambda count=count: segment(picture, words[count]) for count in words]
    scored = [lambda count=count: segment(picture, words[count], threshold=0.1) for count in words]
    other = lambda: segment.classify(encoded, labels(20, first=20))  # noqa: E731
    *found, again = on.alternate(on.bare, *runs, *scored, other)
    shares = {count: share_that_wins(segment(picture, words[count]).label_map, count) for count in words}
    whats = ["label map alone"] * len(words) + ["scores and a threshold"] * len(words)
    goals = ["≤ 1.00 ×", "≤ 1.10 ×", "≤ 1.20 ×", "", "", "≤ 1.80 ×"]
    return [
        *(
            Row(f"1 image, {count:,} queries, {what}", goal, *times(one), winning=shares[count])
            for count, what, goal, one in zip([*words, *words], whats, goals, found, strict=True)
        ),
        Row("other words on an encoded image, 20 queries", "≤ 0.05 ×", *times(again)),
    ]


def winners(on: Setting) -> list[Row]:
    segment, rows = on.segmenter, []
    for count in (20, 171, 1000):
        words = segment.prepare(labels(count))
        (grid,) = grids(segment.encoder, [segment.encode(on.image)], segment.method, words)
        for what, with_scores in (("label map", False), ("scores", True)):
            plain = partial(upsampled_best, grid, logit_scale=words.logit_scale, scores=with_scores)
            ours = partial(grid.best, logit_scale=words.logit_scale, scores=with_scores)
            (ratios,) = on.alternate(plain, ours)
            same = float((plain()[0] == ours()[0]).float().mean())
            loop = f"a plain loop: {1000 * seconds(plain, on.clock):,.0f} ms"
            remark = f"{loop}; the same label at {100 * same:.2f} % of the pixels"
            rows.append(Row(f"winners of {count:,} queries, {what}", "", *times(ratios), remark=remark))
    return rows


def upsampled_best(grid: LogitGrid, *, logit_scale: float, scores: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `LogitGrid.best` answers, by upsampling every query, some rows of the image at a time."""
    rows, columns = (axis.matrix(length) for axis, length in zip((grid.plan.y, grid.plan.x), grid.size, strict=True))
    across = grid.cosines @ columns.T
    winners, found = [], []
    for part in rows.split(16):
        logits = part @ across
        value, index = logits.max(dim=0)
        winners.append(index)
        if scores:
            found.append((logits.sub_(value) * logit_scale).exp_().sum(dim=0).reciprocal_())
    return torch.cat(winners), torch.cat(found) if found else None


def memory(on: Setting) -> list[Row]:
    def peak(work: str, queries: int = 20) -> float:
        threads = torch.get_num_threads()
        return speed_parts.peak(work, layers=on.layers, table=on.table, queries=queries, threads=threads)

    bare = peak("bare")
    remark = f"above the model and its activations ({bare:,.0f} MiB)"
    rows = [
        Row(f"peak memory, {count:,} queries", "", f"{peak('label-map', count) - bare:+,.0f} MiB", remark=remark)
        for count in (20, 171, 1000)
    ]
    found = f"{peak('scores', 1000) - bare:+,.0f} MiB"
    rows.append(Row("peak memory, 1,000 queries with scores and a threshold", "≤ 400 MiB", found, remark=remark))
    if not on.quick:
        found = f"{peak('more-windows') - peak('windows'):+,.0f} MiB"
        rows.append(Row("peak memory, 40 windows in place of 15", "independent", found))
    return rows


def methods(on: Setting) -> list[Row]:
    rows = list(ablation_grid())
    segment = segmenter_of(on.model, on.table)
    segment.method = rows[0]
    grid = lambda: segment.classify(segment.encode(on.image), labels(21), method=rows)  # noqa: E731
    (ratios,) = on.alternate(lambda: on.segmenter(on.image, labels(21)), grid)
    return [Row("24 methods of the ablation grid in one pass, 21 queries", "≤ 3.0 × one method", *times(ratios))]


@torch.no_grad()
def text(on: Setting) -> list[Row]:
    backbone = clearclip.view(on.model)
    words = vocabulary_of("coco_stuff").queries[:: 57 if on.quick else 20]
    prompts = [template.replace("{}", word) for word in words for template in imagenet_templates()]
    tokenizer = speed_model.open_clip.SimpleTokenizer()
    found: dict[str, torch.Tensor] = {}

    def full() -> None:
        features = [on.model.encode_text(ids) for ids in tokenizer(prompts).split(256)]
        units = F.normalize(torch.cat(features), dim=-1).unflatten(0, (len(words), -1))
        found["full"] = F.normalize(units.mean(dim=1), dim=-1)

    def ours() -> None:
        found["ours"] = embed_queries(backbone, words, show_progress=False)

    (ratios,) = on.alternate(full, ours)
    difference = float((found["full"] - found["ours"]).abs().max())
    remark = (
        f"every {len(vocabulary_of('coco_stuff').queries) // len(words)}th label; largest difference {difference:.1g}"
    )
    return [Row("text: 171 labels × 80 templates", "≤ 0.25 ×, equal to 1e-6", *times(ratios), remark=remark)]


def folder(on: Setting) -> list[Row]:
    count = 8 if on.quick else 64
    words, segment, ratios = labels(20), on.segmenter, []
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / f"{index:03d}.jpg" for index in range(count)]
        for path, picture in zip(paths, speed_model.photographs(count, folder=on.folder), strict=True):
            Image.fromarray(picture).save(path, quality=92)
        singles = count // 4
        for turn in range(1 if on.quick else 3):
            before = [seconds(lambda: segment(on.image, words), time.perf_counter) for _ in range(singles)]
            output = Path(temporary) / f"labelled-{turn}"
            run = lambda to=output: segment_files(segment, paths, labels=words, output=to, formats=("png",))  # noqa: E731
            whole = seconds(run, time.perf_counter)
            after = [seconds(lambda: segment(on.image, words), time.perf_counter) for _ in range(singles)]
            ratios.append(count * statistics.median(before + after) / whole)
    remark = "decoding and writing included; by the wall clock"
    return [
        Row(f"a folder of {count} photographs", "≥ 0.95 × the throughput of one image", *times(ratios), remark=remark)
    ]


@torch.no_grad()
def dtype(on: Setting) -> list[Row]:
    half = segmenter_of(copy.deepcopy(on.model), on.table, dtype="bfloat16")
    words = labels(20)
    (ratios,) = on.alternate(lambda: half(on.image, words), lambda: on.segmenter(on.image, words))
    windows = windows_of(on.segmenter, on.image)
    exact, rough = (
        clearclip.dense_features(clearclip.view(model), windows).float() for model in (on.model, half.backbone.model)
    )
    error = float((exact - rough).norm() / exact.norm())
    units = "has bfloat16 units" if has_bfloat16_units() else "has NO bfloat16 units: the ratio is worth nothing"
    dataset = open_benchmark("scenes")
    tiny = [clearclip.load("tiny", dtype=name) for name in ("float32", "bfloat16")]
    matrices, equal = [0, 0], []
    for item in dataset.items[: 4 if on.quick else 100]:
        sample = item.read()
        maps = [segment(sample.image, dataset.vocabulary).label_map for segment in tiny]
        equal.append(float(np.mean(maps[0] == maps[1])))
        for index, label_map in enumerate(maps):
            matrices[index] = matrices[index] + confusion(
                sample.truth, label_map, classes=len(dataset.vocabulary.names)
            )
    first, second = (100 * scores(matrix).miou for matrix in matrices)
    return [
        Row("dtype bfloat16, 20 queries", "≥ 1.80 × faster", *times(ratios), f"this CPU {units}"),
        Row("B/16 shape: relative error of bfloat16 features", "reported", f"{error:.1e}"),
        Row(
            f"tiny on {len(equal)} scenes: mIoU", "within 0.3", f"{second - first:+.2f}", remark=f"float32: {first:.2f}"
        ),
        Row("the same: pixels with the same label", "≥ 99 %", f"{100 * statistics.mean(equal):.2f} %"),
    ]


def growth(on: Setting) -> list[Row]:
    segment = on.segmenter
    sizes = [1, 2] if on.quick else [1, 2, 4]
    pictures = [speed_model.photographs(1, folder=on.folder, size=(480 * side, 640 * side))[0] for side in sizes]
    numbers = segment.protocol.in_pixels(segment.backbone.native_size)
    full = [
        segmenter_of(on.model, on.table, protocol=numbers.with_overrides(short_side=448 * side, long_side=4096))
        for side in sizes
    ]
    runs = [
        lambda one=one, picture=picture: one(picture, labels(20)) for one, picture in zip(full, pictures, strict=True)
    ]
    runs += [lambda picture=picture: segment(picture, labels(20)) for picture in pictures[1:]]
    quick = Setting(on.layers, 1, on.quick, on.folder, on.clock)
    found = [ratios[0] for ratios in quick.alternate(*runs)]
    rows = []
    for place, side in enumerate(sizes[1:]):
        case = f"time of {side**2} × the pixels of 480 × 640"
        windows = len(windows_of(full[place + 1], pictures[place + 1]))
        rows.append(Row(f"{case}, windows over all of them", f"≤ {windows / 2:.1f} ×", f"{found[place]:.2f} ×",
                        remark=f"{windows} windows in place of 2"))  # fmt: skip
        rows.append(
            Row(f"{case}, resized as the protocol says", f"≤ {side**2} ×", f"{found[place + len(sizes) - 1]:.2f} ×")
        )
    encoded = segment.encode(on.image)
    twenty, *more = (lambda count=count: segment.classify(encoded, labels(count)) for count in (20, 171, 1000))
    for count, ratios in zip((171, 1000), on.alternate(twenty, *more), strict=True):
        case = f"time after encoding of {count:,} queries beside 20"
        rows.append(Row(case, f"< {count / 20:.1f} ×", *times(ratios)))
    return rows


def gpu(
    on: Setting, *, device: str = "cuda", count: int = 32, dtypes: tuple[str, ...] = ("float16", "bfloat16")
) -> list[Row]:
    if device == "cuda" and not torch.cuda.is_available():
        return [Row("a batch of 32 images on a GPU", "≥ 0.90 × the bare forward", "open", remark="no GPU was at hand")]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    card = torch.cuda.get_device_name() if device == "cuda" else device
    pictures = speed_model.photographs(count, folder=on.folder)
    rows = []
    for name in dtypes:
        segment = segmenter_of(copy.deepcopy(on.model), on.table, device=device, dtype=name)
        tower = speed_model.bare(segment.backbone.model, layers=on.layers)
        windows = torch.cat([windows_of(segment, picture) for picture in pictures])
        windows = windows.to(device, segment.backbone.dtype)

        @torch.no_grad()
        def forward(tower=tower, windows=windows) -> None:
            for part in windows.split(16):
                tower(part)
            wait()

        ours = lambda segment=segment: segment(pictures, labels(20))  # noqa: E731
        wall = Setting(on.layers, on.repeats, on.quick, on.folder, time.perf_counter)
        (ratios,) = wall.alternate(ours, forward)  # images per second: the forward's time over ours
        rate = count / seconds(ours, time.perf_counter)
        rows.append(Row(f"a batch of {count} images, {name}", "≥ 0.90 × the bare forward", *times(ratios),
                        remark=f"{rate:.1f} images a second; {card}"))  # fmt: skip
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
        with torch.profiler.profile(activities=activities) as recorded:
            ours()
        order = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
        kernels = sorted(recorded.key_averages(), key=lambda event: getattr(event, order), reverse=True)[:5]
        rows += [
            Row(
                f"{name}: {event.key[:60]}", "", f"{getattr(event, order) / 1000:.2f} ms", remark=f"{event.count} calls"
            )
            for event in kernels
        ]
    return rows


def profile(on: Setting) -> list[Row]:
    rows = []
    for queries in (20, 1000):
        found = speed_parts.profile(on.segmenter, on.image, queries=queries, repeats=on.repeats, clock=on.clock)
        total = sum(found.values())
        rows += [
            Row(f"{queries:,} queries: {step}", "", f"{100 * value / total:.1f} %", remark=f"{1000 * value:.0f} ms")
            for step, value in found.items()
        ]
    return rows


def floor(on: Setting) -> list[Row]:
    rate = speed_parts.matrix_rate(clock=on.clock)
    windows = len(windows_of(on.segmenter, on.image))
    needed = speed_parts.flops(layers=on.layers, windows=windows, queries=20)
    run = lambda: on.segmenter(on.image, labels(20))  # noqa: E731
    run()
    taken = statistics.median(seconds(run, on.clock) for _ in range(on.repeats))
    return [
        Row("measured rate of matrix products", "", f"{rate / 1e9:.0f} GFLOP/s", remark="float32, 2048², best of 5"),
        Row("one image by ClearCLIP, 20 queries", "", f"{needed / 1e9:.0f} GFLOP", remark=f"{windows} windows"),
        Row("floor", "", f"{needed / rate:.2f} s"),
        Row("measured", "", f"{taken:.2f} s", remark=f"{100 * needed / rate / taken:.0f} % of the rate reached"),
    ]


CASES = {case.__name__: case for case in (image, winners, memory, methods, text, folder, dtype, growth, gpu)}
PARTS = {part.__name__: part for part in (profile, floor)}
