"""Friendly names of checkpoints, as rows: library, architecture, source, licence. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TINY_FOLDER = Path(__file__).parent / "backbones" / "tiny"


@dataclass(frozen=True)
class Checkpoint:
    """One row.

    Attributes:
        family: Row of the paper's tables.
        architecture: Shape of the vision tower.
        source: What the adapter is asked for, in the library's own spelling, or a URL of a `.pth`.
        license: Of the weights; the code that trained them may have another.
        megabytes: What is downloaded, about: 4 bytes for each of the architecture's parameters, as float32 is stored.
            `None` where that says nothing: BLIP's files hold parts of its training that are not read. 0: embedded.
    """

    name: str
    family: str
    architecture: str
    source: str
    license: str
    about: str
    megabytes: int | None = None


_B16, _L14 = 598, 1710
_BLIP = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"

CHECKPOINTS: dict[str, Checkpoint] = {
    row.name: row
    for row in (
        Checkpoint(
            "clip-b16", "CLIP", "ViT-B/16", "ViT-B-16-quickgelu/openai", "MIT", "OpenAI's CLIP, 400 M pairs", _B16
        ),
        Checkpoint(
            "clip-l14", "CLIP", "ViT-L/14", "ViT-L-14-quickgelu/openai", "MIT", "OpenAI's CLIP, 400 M pairs", _L14
        ),
        Checkpoint(
            "openclip-b16", "OpenCLIP", "ViT-B/16", "ViT-B-16/laion2b_s34b_b88k", "MIT", "trained on LAION-2B", _B16
        ),
        Checkpoint(
            "openclip-l14", "OpenCLIP", "ViT-L/14", "ViT-L-14/laion2b_s32b_b82k", "MIT", "trained on LAION-2B", _L14
        ),
        Checkpoint(
            "metaclip-b16",
            "MetaCLIP",
            "ViT-B/16",
            "ViT-B-16-quickgelu/metaclip_fullcc",
            "CC-BY-NC-4.0 (non-commercial)",
            "2.5 B curated pairs",
            _B16,
        ),
        Checkpoint(
            "metaclip-l14",
            "MetaCLIP",
            "ViT-L/14",
            "ViT-L-14-quickgelu/metaclip_fullcc",
            "CC-BY-NC-4.0 (non-commercial)",
            "2.5 B curated pairs",
            _L14,
        ),
        Checkpoint("blip-b16", "BLIP", "ViT-B/16", _BLIP + "model_base_14M.pth", "BSD-3-Clause", "BLIP, 14 M images"),
        Checkpoint(
            "blip-l16", "BLIP", "ViT-L/16", _BLIP + "model_large.pth", "BSD-3-Clause", "BLIP large, 129 M images"
        ),
        Checkpoint(
            "tiny",
            "tiny",
            "ViT, see its model card",
            f"local-dir:{TINY_FOLDER}",
            "Apache-2.0",
            "embedded, knows clearclip's own cartoons, works offline",
            0,
        ),
    )
}
