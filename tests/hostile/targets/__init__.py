"""What the fuzzer feeds: for each kind of input valid ones, damage to them, a command that reads them, a check."""

from __future__ import annotations

import importlib
from contextlib import suppress

MODULES = ("containers", "rasters", "videos", "folders", "evaluations", "lines", "models", "planted")
LIBRARIES = (
    "clearclip.cli", "clearclip.engine.run", "clearclip.segmenter", "clearclip.large", "clearclip.video", "av",
    "clearclip.benchmarks", "clearclip.formats", "clearclip.backbones.open_clip", "clearclip.studio.export",
    "clearclip.demo", "rasterio", "rasterio.features", "rasterio.warp", "pyarrow.parquet", "torch.nn",
    "shapely", "cv2", "pycocotools.mask", "rich.console", "rich.table",
)  # fmt: skip


def warm_up() -> None:
    """Import what the cases need, so that none pays for it, with one thread: more do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    for name in MODULES:
        importlib.import_module(f"{__name__}.{name}")
