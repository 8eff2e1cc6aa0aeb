"""16 bits in every file type that has them: the same picture as its 8-bit twin, or a word that it is not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clearclip import ImageError
from clearclip.encode.images import read_levels

RAMP = np.linspace(0, 4095, 48 * 64).reshape(48, 64).astype(np.uint16)
"""12 bits."""
LEVELS = np.rint(RAMP / 4095 * 255)


def png(values, kind):
    """A PNG of 16 bits with any number of channels: grey 0, colour 2, grey with alpha 4."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def tiff(values, *, bits, kind, white_is_0=False):
    """A little-endian TIFF of one channel: bits a value, kind 1 without, 2 with a sign, 3 float."""
    data = values.tobytes()
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: 0 if white_is_0 else 1, 273: 8, 277: 1,
            278: values.shape[0], 279: len(data), 339: kind}  # fmt: skip
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + table + b"\0\0\0\0"


def close(levels, expected):
    return np.abs(levels.pixels.astype(int) - expected[..., None]).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        png(RAMP, 0),
        png(np.stack([RAMP, np.full_like(RAMP, 65535)], axis=-1), 4),
        png(np.stack([RAMP] * 3, axis=-1), 2),
        tiff(RAMP, bits=16, kind=1),
        tiff(RAMP.astype(np.int16), bits=16, kind=2),
        tiff(RAMP.astype(np.int32), bits=32, kind=2),
        b"P5 64 48 65535\n" + RAMP.astype(">u2").tobytes(),
    ],
    ids=["grey", "grey-alpha", "colour", "tiff", "signed", "signed-32", "pgm"],
)
def test_twelve_bits_are_guessed_and_told(data):
    levels = read_levels(data)
    assert close(levels, LEVELS)
    assert "0 to 4095 was taken for black to white, a guess" in levels.note
    assert close(read_levels(data, value_range=(0, 4095)), LEVELS)


def test_a_pgm_that_says_its_white_is_believed():
    data = b"P5 64 48 4095\n" + RAMP.astype(">u2").tobytes()
    for levels in (read_levels(data), read_levels(data, value_range=(0, 4095))):
        assert close(levels, LEVELS)
        assert not levels.note
    darker = read_levels(data, value_range=(0, 8190))
    assert close(darker, LEVELS / 2)


def test_negative_values_of_a_ct():
    values = np.linspace(-1000, 3000, 48 * 64).reshape(48, 64).astype(np.int16)
    levels = read_levels(tiff(values, bits=16, kind=2))
    assert "2nd to 98th percentile" in levels.note
    assert levels.pixels.mean() == pytest.approx(127, abs=3)


def test_what_is_read_as_8_bits_is_told():
    colour = np.stack([RAMP] * 3, axis=-1)
    levels = read_levels(b"P6 64 48 65535\n" + colour.astype(">u2").tobytes())
    assert "of its 16 bits a channel the upper 8 are read" in levels.note
    assert not read_levels(b"P6 64 48 4095\n" + colour.astype(">u2").tobytes()).note


@pytest.mark.parametrize("kind", [1, 3])
def test_white_is_0(kind):
    values = (np.arange(48 * 64).reshape(48, 64) / (48 * 64 - 1)).astype(np.float32)
    expected = 255 - np.rint(values * 255)
    data = tiff(values, bits=32, kind=3, white_is_0=True)
    if kind == 1:
        data = tiff(np.rint(values * 65535).astype(np.uint16), bits=16, kind=1, white_is_0=True)
    assert close(read_levels(data), expected)


def test_what_pillow_reads_as_other_values_is_refused():
    with pytest.raises(ImageError, match="signed 8-bit values"):
        read_levels(tiff(np.zeros((48, 64), np.int8), bits=8, kind=2))
    with pytest.raises(ImageError, match="values of 2³¹ and more"):
        read_levels(tiff(np.full((48, 64), 2**31, np.uint32), bits=32, kind=1))


def test_an_image_object_of_pillow_still_has_what_its_file_says():
    with Image.open(io.BytesIO(tiff(RAMP, bits=16, kind=1, white_is_0=True))) as opened:
        opened.load()
        assert read_levels(opened).pixels.mean() == pytest.approx(127, abs=2)


def test_large_and_segment_agree_on_white(tmp_path):
    pytest.importorskip("rasterio")
    from clearclip.large.image import open_raster

    for name, values, bits in (("8", (RAMP >> 4).astype(np.uint8), 8), ("16", RAMP * 16, 16)):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(tiff(values, bits=bits, kind=1, white_is_0=True))
        with open_raster(path) as raster:
            read = raster.measured().read(0, 48)[0]
        assert np.abs(read.astype(int) - read_levels(path).pixels).max() <= 1, name
