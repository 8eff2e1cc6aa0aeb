"""Many clients of the studio's API at once, each with its own image: is every answer its own, is memory bounded?

python benchmarks/studio_clients.py --clients 20 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import gradio_client
import numpy as np
import torch
from PIL import Image

import clearclip
from clearclip.scenes import CLASSES, make_scene
from studio_process import free_port, start, stop

PATIENCE = 120.0
"""Seconds that a client waits for the server; httpx's own 5 are too few where both share a busy core."""
WORDS = (list(CLASSES[:6]), list(CLASSES[3:9]), list(CLASSES[8:14]))


@dataclass
class Report:
    """What became of the questions."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run_clients(url: str, *, folder: Path, clients: int, seconds: float, seed: int = 0) -> Report:
    """Ask from many threads until the time is over; each has an image of its own and three lists of words.

    A client that is refused because the queue is full counts as lost.
    """
    images, expected = _prepare(folder, clients, seed)
    connected = [
        gradio_client.Client(
            url, verbose=False, download_files=str(folder / f"got-{number}"), httpx_kwargs={"timeout": PATIENCE}
        )
        for number in range(clients)
    ]
    report, lock, end = Report(), threading.Lock(), time.monotonic() + seconds

    def ask(number: int) -> None:
        turn = number
        while time.monotonic() < end:
            words = turn % len(WORDS)
            turn += 1
            started = time.perf_counter()
            try:
                _, path = connected[number].predict(
                    image=gradio_client.handle_file(images[number]), labels=WORDS[words], api_name="/segment"
                )
                found = np.asarray(Image.open(path))
                shutil.rmtree(Path(path).parent, ignore_errors=True)
            except Exception as error:
                with lock:
                    report.lost.append(f"client {number}: {error!r}")
                continue
            with lock:
                report.answers += 1
                report.seconds.append(time.perf_counter() - started)
                if not np.array_equal(found, expected[number][words]):
                    report.wrong.append(f"client {number}, words {words}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in connected:
        client.close()
    return report


def _prepare(folder: Path, clients: int, seed: int) -> tuple[list[Path], list[list[np.ndarray]]]:
    segmenter = clearclip.load("tiny", device="cpu")
    images, expected = [], []
    for number in range(clients):
        scene = make_scene(1000 * seed + number, size=(96 + 8 * (number % 5), 128))
        images.append(folder / f"client-{number}.png")
        Image.fromarray(scene.image).save(images[-1])
        encoded = segmenter.encode(scene.image)
        expected.append([segmenter.classify(encoded, words).label_map for words in WORDS])
    return images, expected


def main() -> None:
    """Start a studio, ask, and print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cache", type=int, default=50, help="the studio's bound, in MB")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the server: otherwise rounding differs, and a pixel between two labels may flip
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        server = start(
            "--port", free_port(), "--models", "tiny", "--device", "cpu", "--cache", options.cache, cache=folder
        )
        try:
            warm = run_clients(server.url, folder=folder, clients=options.clients, seconds=1, seed=1)
            memory, done = [server.resident_bytes], threading.Event()
            watching = threading.Thread(target=_watch, args=(server, memory, done))
            watching.start()
            report = run_clients(server.url, folder=folder, clients=options.clients, seconds=options.seconds)
            done.set()
            watching.join()
        finally:
            stop(server)
    times = sorted(report.seconds)
    print(
        json.dumps(
            {
                "clients": options.clients,
                "seconds": options.seconds,
                "answers": report.answers,
                "wrong": len(report.wrong) + len(warm.wrong),
                "lost": len(report.lost) + len(warm.lost),
                "first_lost": [*warm.lost, *report.lost][:3],
                "median_s": round(statistics.median(times), 3),
                "p95_s": round(times[int(0.95 * len(times))], 3),
                "resident_mb_by_tenths": [round(one / 1e6) for one in memory[:: max(1, len(memory) // 10)]],
                "resident_mb_highest": round(max(memory) / 1e6),
            },
            indent=2,
        )
    )


def _watch(server: object, memory: list[int], done: threading.Event) -> None:
    while not done.wait(0.5):
        memory.append(server.resident_bytes)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
