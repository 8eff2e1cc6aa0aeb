"""Peak memory of `evaluate` on one image of 2048×1024 with 171 classes and twelve methods, ViT-B/16's shape.

python benchmarks/evaluate_memory.py
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass

import numpy as np

from clearclip.benchmarks import Dataset, Sample, evaluate, get_benchmark, vocabulary_of
from evaluate_cost import TWELVE, random_weights

LIMIT = 3.0


@dataclass(frozen=True)
class Noise:
    """An image of noise."""

    id: str = "noise"

    def read(self):
        rng = np.random.default_rng(0)
        return Sample(
            rng.integers(0, 256, (1024, 2048, 3), dtype=np.uint8), rng.integers(0, 171, (1024, 2048), dtype=np.uint8)
        )


def peak():
    """GiB of this process at its most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main():
    segmenter = random_weights()
    dataset = Dataset(get_benchmark("coco_stuff"), vocabulary_of("coco_stuff"), (Noise(),), source="noise")
    segmenter.embed(dataset.vocabulary)
    before = peak()
    evaluate(segmenter, dataset, methods=TWELVE)
    found = {"gib_with_model_and_words": round(before, 2), "gib_at_most": round(peak(), 2), "limit": LIMIT}
    print(json.dumps(found, indent=2))
    sys.exit(peak() > LIMIT)


if __name__ == "__main__":
    main()
