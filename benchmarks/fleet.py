"""What spreading a run over workers gives and costs, with `tiny` on generated images: speed, memory, deaths, poison.

python benchmarks/fleet.py speed                  2,000 images: local, Ray with one and with two workers
python benchmarks/fleet.py poison                 50 unusable files among 500
python benchmarks/fleet.py kills                  kill -9 of a worker, the driver, everything, at three moments each
python benchmarks/fleet.py speed --images 100     smaller; so do the others

Every part compares the files of all runs byte by byte and fails where they differ. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ("sky", "grass", "tree", "car", "road")
RAY_ONE = ("--engine", "ray", "--workers", "1")
RAY_TWO = ("--engine", "ray", "--workers", "2")


# As Ray gives a worker of one processor: with another number of threads sums are rounded otherwise.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def pictures(folder, count):
    """Smooth pictures of 160×120, each its own."""
    folder.mkdir(parents=True)
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg")
    return folder


def poison(folder, count):
    """Five kinds in turn: truncated, of another type, bombs, empty, links whose file vanished."""

    def bomb():
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
        chunks = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    whole = sorted(folder.glob("0*.jpg"))[0].read_bytes()
    listed = []
    for index in range(count):
        path = folder / f"poison-{index:03d}.jpg"
        if index % 5 == 4:
            listed.append(path.with_name(f"vanished-{index:03d}.jpg"))
            continue
        path.write_bytes([whole[: len(whole) // 2], b"a text\n", bomb(), b""][index % 5])
    return listed


def command(sources, output, *options):
    words = [part for label in LABELS for part in ("-l", label)]
    given = [*map(str, sources), "-o", str(output), *words, "--model", "tiny", "--device", "cpu", "--json", *options]
    return [sys.executable, "-m", "clearclip", "segment", *given]


def family(pid):
    """A process's descendants."""
    by_parent = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            by_parent.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        children = by_parent.get(todo.pop(), [])
        found += children
        todo += children
    return found


def peak_mib(pid):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def is_worker(pid):
    try:
        return b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def measured(sources, output, *options):
    """Seconds, images per second after the first tenth, peak memory of the driver and of the largest worker."""
    began = time.monotonic()
    process = subprocess.Popen(
        command(sources, output, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )
    driver = worker = 0.0
    while process.poll() is None:
        driver = max(driver, peak_mib(process.pid))
        worker = max([worker, *(peak_mib(pid) for pid in family(process.pid) if is_worker(pid))])
        time.sleep(0.5)
    out, err = process.communicate()
    seconds = time.monotonic() - began
    times = sorted(file.stat().st_mtime for file in output.glob("*.png"))
    first = len(times) // 10
    return {
        "code": process.returncode,
        "report": json.loads(out) if out.strip() else None,
        "stderr": err,
        "seconds": round(seconds, 1),
        "images_per_second": round((len(times) - first - 1) / (times[-1] - times[first]), 2),
        "driver_mib": round(driver),
        "worker_mib": round(worker),
    }


def differing(one, other):
    """Names of files that two runs have not in common, byte by byte; the ledger holds times of files."""

    def contents(folder):
        return {
            file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file() and not file.name.startswith("ledger.sqlite")
        }

    left, right = contents(one), contents(other)
    return sorted(str(name) for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def speed(place, count):
    engines = {"local": ("--engine", "local"), "ray, 1 worker": RAY_ONE, "ray, 2 workers": RAY_TWO}
    found, good = {}, True
    for size in (max(count // 4, 20), count):
        source = pictures(place / f"images-{size}", size)
        for name, options in engines.items():
            output = place / f"{name} of {size}"
            ran = measured([source], output, *options)
            ran.pop("report"), ran.pop("stderr")
            ran["differing_files"] = differing(place / f"local of {size}", output)
            good &= ran["code"] == 0 and not ran["differing_files"]
            found.setdefault(name, {})[size] = ran
            print(name, size, json.dumps(ran), file=sys.stderr, flush=True)
    rates = {name: by_size[count]["images_per_second"] for name, by_size in found.items()}
    ratios = {name: round(rate / rates["local"], 2) for name, rate in rates.items()}
    return {"cores": os.cpu_count(), "runs": found, "throughput_to_local": ratios}, good


def poisoned(place, count):
    bad = count // 10
    source = pictures(place / "images", count - bad)
    vanished = poison(source, bad)
    found, good = {}, True
    for name, options in {"local": (), "ray": RAY_TWO}.items():
        output = place / name
        ran = measured([source, *vanished], output, *options)
        with (output / "errors.csv").open(newline="", encoding="utf-8") as opened:
            rows = len(list(csv.reader(opened))) - 1
        results = len(list(output.glob("*.png")))
        found[name] = {
            "code": ran["code"],
            "results": results,
            "error_rows": rows,
            "traceback": "Traceback" in ran["stderr"],
        }
        good &= found[name] == {"code": 1, "results": count - bad, "error_rows": bad, "traceback": False}
    found["differing_files"] = differing(place / "local", place / "ray")
    return found, good and not found["differing_files"]


def wait_for(process, output, count):
    while process.poll() is None and len(list(output.glob("*.png"))) < count:
        time.sleep(0.05)


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kills(place, count):
    """At three random counts of results each: workers within one run; the driver and everything, then started again."""
    source, found, good = pictures(place / "images", count), {}, True
    measured([source], place / "local")
    chance = random.Random(0)
    for victim in ("worker", "driver", "everything"):
        output, killed = place / victim, 0
        process = subprocess.Popen(command([source], output, *RAY_TWO), stdout=subprocess.PIPE, text=True)
        for moment in sorted(chance.sample(range(1, count * 4 // 5), 3)):
            wait_for(process, output, moment)
            children = family(process.pid)
            workers = [pid for pid in children if is_worker(pid)]
            if victim == "worker":
                kill(workers[:1])
                killed += len(workers[:1])
                continue
            kill([process.pid, *(children if victim == "everything" else [])])
            killed += process.wait() == -signal.SIGKILL
            process = subprocess.Popen(command([source], output, *RAY_TWO), stdout=subprocess.PIPE, text=True)
        report = json.loads(process.communicate()[0])
        found[victim] = {
            "killed": killed,
            "last_report": report,
            "differing_files": differing(place / "local", output),
        }
        whole = report["done"] + report["skipped"] == count and not report["failed"]
        good &= killed == 3 and whole and not found[victim]["differing_files"]
    return found, good


PARTS = {"speed": (speed, 2000), "poison": (poisoned, 500), "kills": (kills, 200)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--images", type=int)
    parser.add_argument("--keep", type=Path, help="folder for the files; default: a temporary one")
    given = parser.parse_args()
    part, count = PARTS[given.part]
    place = given.keep or Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        found, good = part(place, given.images or count)
    finally:
        if given.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found, indent=2))
    sys.exit(not good)


if __name__ == "__main__":
    main()
