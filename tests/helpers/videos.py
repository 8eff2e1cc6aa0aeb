"""A short video for the tests of hostile ones."""

import numpy as np
import pytest

av = pytest.importorskip("av")  # none for Python 3.10 is safe


def write(path, *, frames=8, **options):
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((32, 32, 3), 20 * index % 256, dtype=np.uint8)
            picture[: 4 * index] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
