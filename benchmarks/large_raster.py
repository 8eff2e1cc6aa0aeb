"""A sparse raster of 20,000 × 20,000 pixels in tiles: time, windows, and the most memory the process ever had.

    python benchmarks/large_raster.py [--side 20000] [--folder DIR]

The raster is made first, by another process: scenes in two squares and in a strip across the whole width (the memory of
a row of windows is what matters), nodata elsewhere. Then `clearclip large` runs with `tiny`, as a user would run it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TILE = 800


def make(path: Path, side: int) -> None:
    """Write the raster: blocks that are never written are nodata."""
    import numpy as np
    import rasterio

    from clearclip.scenes import make_scene

    scenes = [np.maximum(make_scene(index, size=(TILE, TILE)).image, 1) for index in range(12)]
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0, "tiled": True, "compress": "deflate"}
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.2, 0, 412_000, 0, -0.2, 5_650_000)}
    with rasterio.open(path, "w", height=side, width=side, sparse_ok=True, **options, **where) as target:
        squares = [(row, column) for row in range(4) for column in range(4)]
        far = side // TILE - 5
        places = [*squares, *((far + row, far + column) for row, column in squares)]
        places += [(side // TILE // 2, column) for column in range(side // TILE)]
        for number, (row, column) in enumerate(places):
            window = ((row * TILE, (row + 1) * TILE), (column * TILE, (column + 1) * TILE))
            target.write(np.moveaxis(scenes[number % len(scenes)], -1, 0), window=window)


def main() -> None:
    """Make it, label it, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="keep the files there")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source, output = folder / "sparse.tif", folder / "labels.tif"
        worker = multiprocessing.get_context("spawn").Process(target=make, args=(source, chosen.side))
        worker.start()
        worker.join()
        making = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        words = [part for word in ("sky", "grass", "tree", "house", "car", "road") for part in ("-l", word)]
        command = [sys.executable, "-m", "clearclip", "large", str(source), "-o", str(output), *words]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--model", "tiny", "--overwrite", "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        result = json.loads(done.stdout)
        print(f"{chosen.side} × {chosen.side} pixels, {result['nodata'] / chosen.side**2:.1%} of them nodata")
        print(f"{result['encoded']} of {result['windows']} windows encoded in {seconds:.0f} s")
        print(f"peak memory {peak / 2**20:.2f} GiB (making the raster took {making / 2**20:.2f} GiB)")
        print(
            f"in {source.stat().st_size / 1e6:.1f} MB, out {output.stat().st_size / 1e6:.1f} MB; {os.cpu_count()} cores"
        )


if __name__ == "__main__":
    main()
