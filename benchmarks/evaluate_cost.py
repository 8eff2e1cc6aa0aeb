"""What twelve last-block methods cost beside one, in one run of `evaluate`, as a ratio.

python benchmarks/evaluate_cost.py --photos FOLDER        ViT-B/16's shape, eight photographs, 20 queries
python benchmarks/evaluate_cost.py --model tiny --scenes 20
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip

import clearclip
from clearclip.benchmarks import Dataset, Run, Sample, evaluate, get_benchmark, open_benchmark, vocabulary_of

TWELVE = (
    "vanilla,maskclip,sclip,clearclip,maskclip+clearclip,sclip+clearclip,vanilla[residual=drop,ffn=drop],"
    "clearclip[residual=keep,ffn=keep],clearclip[residual=beta:30],clearclip[residual=normalize],"
    "clearclip[attention=vv],clearclip[attention=kk]"
)


@dataclass(frozen=True)
class Photograph:
    """A photograph whose truth is made up: what is measured is time."""

    path: Path

    @property
    def id(self):
        return self.path.stem

    def read(self):
        image = clearclip.load_image(self.path)
        return Sample(image, np.zeros(image.shape[:2], dtype=np.uint8))


def photographs(folder, *, count):
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    return Dataset(get_benchmark("voc20"), vocabulary_of("voc20"), tuple(map(Photograph, paths)), source=str(folder))


def random_weights(architecture="ViT-B-16-quickgelu"):
    """A segmenter of an architecture's shape: time and memory do not depend on the weights."""
    model = open_clip.create_model(architecture, pretrained=None)
    return clearclip.Segmenter(
        clearclip.view(model), protocol="paper", templates="a photo of a {}.", cache=False, show_progress=False
    )


def cost(segmenter, dataset, methods, *, limit):
    """Seconds on the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    evaluate(segmenter, dataset, methods=methods, run=Run(limit=limit))
    return time.perf_counter() - clock, time.process_time() - processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs; the first eight are taken")
    parser.add_argument("--scenes", type=int, help="scenes instead of photographs")
    parser.add_argument("--model", help="a checkpoint instead of random weights of ViT-B/16's shape")
    parser.add_argument("--repeats", type=int, default=1, help="the least of so many runs counts")
    arguments = parser.parse_args()
    if (arguments.photos is None) == (arguments.scenes is None):
        parser.error("give either --photos FOLDER or --scenes N")
    segmenter = clearclip.load(arguments.model) if arguments.model else random_weights()
    if arguments.photos:
        dataset, limit = photographs(arguments.photos, count=8), None
    else:
        dataset, limit = open_benchmark("scenes"), arguments.scenes
    segmenter.embed(dataset.vocabulary)
    cost(segmenter, dataset, "clearclip", limit=1)
    one = min(cost(segmenter, dataset, "clearclip", limit=limit) for _ in range(arguments.repeats))
    twelve = min(cost(segmenter, dataset, TWELVE, limit=limit) for _ in range(arguments.repeats))
    found = {
        "model": segmenter.backbone.name if arguments.model else "ViT-B-16-quickgelu, random weights",
        "images": len(dataset.items[:limit]),
        "queries": len(dataset.vocabulary.queries),
        "one_method_seconds": round(one[0], 2),
        "twelve_methods_seconds": round(twelve[0], 2),
        "ratio": round(twelve[0] / one[0], 2),
        "ratio_of_processor_time": round(twelve[1] / one[1], 2),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
