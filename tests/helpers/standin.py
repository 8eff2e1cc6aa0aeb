"""A segmenter that looks at brightness alone, for tests of engines: its workers start fast, its model cannot fail.

Workers import this module; `main` is the driver of a run that a test may kill.
"""

import functools
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from clearclip.encode.images import MAX_PIXELS
from clearclip.methods import parse_method
from clearclip.segmentation import Segmentation
from clearclip.vocabulary import Vocabulary

LABELS = ["dark", "light"]
DEADLY = (7, 7, 7)


class StandIn:
    """What an engine uses of a `Segmenter`."""

    max_pixels = MAX_PIXELS
    value_range = None
    show_progress = False

    def __init__(self, pause=0.0):
        self.method = parse_method("clearclip")
        self.pause = pause

    def vocabulary(self, labels, threshold):
        return Vocabulary.parse(labels), threshold

    def embed(self, vocabulary):
        pass

    def describe(self, method, threshold=None):
        texts = {"software": "clearclip", "model": "stand-in", "method": method.spelling, "protocol": "none"}
        return {**texts, "threshold": "none", "templates": "none", "dtype": "uint8"}

    def __call__(self, images, labels, *, threshold=None):
        if not isinstance(images, list):
            return self([images], labels)[0]
        time.sleep(float(self.pause) * len(images))
        for image in images:
            if tuple(image[0, 0]) == DEADLY and image.min() == image.max():
                os.kill(os.getpid(), signal.SIGKILL)
        info = self.describe(self.method)
        return [Segmentation((image.mean(axis=2) > 127).astype(np.int32), labels, image, info) for image in images]


def load(pause=0.0, file_bytes=None):
    """Make one; with a limit, larger files cannot be written by this process, as on a full disk."""
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    return StandIn(pause)


def loader(**options):
    """`load` with options, under the name that workers know it by."""
    import standin

    return functools.partial(standin.load, **options)


def main(source, output, pause):
    """A run of its own cluster with two workers, as the command does it."""
    from clearclip.engine.ray_pool import Fleet
    from clearclip.engine.run import segment_on_ray
    from clearclip.engine.sources import find_sources

    warnings.simplefilter("ignore")
    report = segment_on_ray(
        loader(pause=float(pause)),
        find_sources([source]),
        labels=LABELS,
        output=Path(output),
        fleet=Fleet(2, cpus=1, gpus=0),
        batch_size=2,
        formats=["png"],
    )
    print(report.done, report.skipped, len(report.failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
