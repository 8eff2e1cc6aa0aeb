"""How a video wants to be shown: mirrors and turns of its display matrix, and pixels that are no squares."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from clearclip.video.frames import FrameReader
from clearclip.video.label import segment_video

COLOURS = np.array([[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(0, 0, 0), (250, 250, 250), (250, 250, 0)]], np.uint8)
BLOCKS = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
ONE = 1 << 16
SHOWN = {
    (1, 0, 0, 1): BLOCKS,
    (-1, 0, 0, 1): BLOCKS[:, ::-1],
    (1, 0, 0, -1): BLOCKS[::-1],
    (-1, 0, 0, -1): BLOCKS[::-1, ::-1],
    (0, 1, -1, 0): np.rot90(BLOCKS, -1),
    (0, -1, 1, 0): np.rot90(BLOCKS, 1),
    (0, 1, 1, 0): BLOCKS.swapaxes(0, 1),
    (0, -1, -1, 0): BLOCKS[::-1, ::-1].swapaxes(0, 1),
    (0.9, 0.1, -0.1, 0.9): BLOCKS,
    (-2, 0.5, 0.5, 2): BLOCKS[:, ::-1],
    (0, 0, 0, 0): BLOCKS,
}
needs_matrix = pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_matrix"), reason="PyAV 17 writes none")


@pytest.fixture
def write(tmp_path):
    def call(name="clip.mp4", *, matrix=None, aspect=None):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv444p"
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if matrix:
                a, b, c, d = (round(number * ONE) for number in matrix)
                stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(BLOCKS, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return call


def first(path):
    with FrameReader(path) as reader:
        return next(reader.frames()).image, reader.pixel_aspect


@needs_matrix
@pytest.mark.parametrize("matrix", SHOWN)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov"])
def test_frames_are_turned_and_mirrored_as_the_file_says(write, matrix, name):
    image, _ = first(write(name, matrix=matrix))
    assert image.shape == SHOWN[matrix].shape
    assert np.abs(image.astype(int) - SHOWN[matrix]).mean() < 5


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_as_a_video_is_turned_by_its_exif(tmp_path, orientation, turns):
    """Its EXIF is side data of a kind that PyAV does not know."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BLOCKS).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image, _ = first(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - np.rot90(BLOCKS, turns)).mean() < 12


@needs_matrix
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(("matrix", "shown"), [(None, Fraction(16, 15)), ((0, 1, -1, 0), Fraction(15, 16))])
def test_pixels_that_are_no_squares_stay_so(segmenter, write, tmp_path, suffix, matrix, shown):
    source = write(matrix=matrix, aspect=Fraction(16, 15))
    made = segment_video(segmenter, source, labels=["sky", "grass"], output=tmp_path / f"out{suffix}", masks=True)
    assert made.size == ((48, 32) if matrix else (32, 48))
    with av.open(str(made.video)) as container:
        assert container.streams.video[0].sample_aspect_ratio == shown


@pytest.mark.parametrize("aspect", [Fraction(60_000, 1), Fraction(1, 60_000), Fraction(2**31 - 1, 2**31 - 2)])
def test_absurd_pixels_are_squares(segmenter, write, tmp_path, aspect):
    source = write(aspect=aspect)
    assert first(source)[1] == 1
    assert segment_video(segmenter, source, labels=["sky", "grass"], output=tmp_path / "out").frames == 3
