"""Videos whose streams, sizes, tables, times and titles are made to hurt."""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import numpy as np
import pytest

from clearclip import ImageError, UsageError
from clearclip.video.frames import MAX_STREAMS, FrameReader
from clearclip.video.label import segment_video
from videos import write

av = pytest.importorskip("av")
LABELS = ["sky", "grass"]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("count", [256, 257])
def test_a_file_of_countless_streams_is_refused(tmp_path, suffix, count):
    path = tmp_path / f"many{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(count)]
        for stream in streams:
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for stream in streams:
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    if count > MAX_STREAMS:
        with pytest.raises(ImageError, match="257 streams, more than the limit of 256"):
            FrameReader(path)
    else:
        with FrameReader(path) as reader:
            assert len(list(reader.frames())) == 1


def png(side, *, shade=0):
    """A grey picture of so many pixels a side, of a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes([0]) + bytes([shade]) * side) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def of_pngs(path, sides, *, stated):
    """A film of PNGs that states one size for all."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = stated
        stream.pix_fmt = "gray"
        for index, side in enumerate(sides):
            packet = av.Packet(png(side, shade=40 * index))
            packet.pts = packet.dts = index
            packet.time_base, packet.stream = Fraction(1, 25), stream
            container.mux(packet)
    return path


OPEN = """
import resource, sys
from pathlib import Path
import av
from clearclip import ImageError
from clearclip.video.frames import MAX_STREAMS, FrameReader
from clearclip.files.label_maps import read_settings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with FrameReader(Path(sys.argv[1])) as reader:
        print(len(list(reader.frames())), reader.damage)
except ImageError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def opened(path, **environment):
    """What reading a file says in a process of its own, and the MiB that it takes there."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    said, size = done.stdout.splitlines() or [done.stderr, "0"]
    return said, int(size)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("stated", [14_000, 64])
def test_no_decoder_makes_room_for_a_frame_that_is_too_large(tmp_path, stated):
    """As a file is opened FFmpeg decodes its first frames: 190 MiB here, before anybody has asked for their size."""
    said, size = opened(of_pngs(tmp_path / "huge.mov", [14_000], stated=stated))
    assert ("more than the limit of 100,000,000" if stated > 64 else "1 packets could not be decoded") in said
    assert size < 100


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_a_frame_that_grows_is_left_out_and_told(tmp_path):
    said, size = opened(of_pngs(tmp_path / "grows.mov", [64, 32, 14_000, 64], stated=64))
    assert said.startswith("3 ")
    assert "1 packets could not be decoded" in said
    assert size < 100


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("table", ["stsz", "trun"])
def test_an_index_that_lies_is_refused_before_it_is_listed(tmp_path, table):
    path = write(tmp_path / "lie.mp4", options={"movflags": "frag_keyframe+empty_moov"} if table == "trun" else {})
    data = bytearray(path.read_bytes())
    at = data.find(table.encode())
    new = struct.pack(">II", 1, 60_000_000) if table == "stsz" else struct.pack(">II", 0, 60_000_000)
    data[at + 8 : at + 16] = new if table == "stsz" else data[at + 8 : at + 16]
    data[at + 4 : at + 12] = new if table == "trun" else data[at + 4 : at + 12]
    if table == "stsz":
        data[data.find(b"stsc") + 16 : data.find(b"stsc") + 20] = struct.pack(">I", 60_000_000)
        data[data.find(b"stts") + 12 : data.find(b"stts") + 16] = struct.pack(">I", 60_000_000)
    path.write_bytes(data)
    said, size = opened(path)
    assert "its index claims 60,000,000 frames, more than the limit of 10,000,000" in said
    assert size < 100


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way to fill fresh memory")
def test_a_stream_that_appears_later_ends_nothing(tmp_path):
    """PyAV asks memory that it never wrote whether it is wanted; filled with ones, that was a traceback."""
    path = tmp_path / "clip.flv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1", rate=25, options={"qmin": "1", "qmax": "1", "g": "1"})
        stream.width = stream.height = 512
        stream.pix_fmt, stream.bit_rate = "yuv420p", 10**9
        for seed in range(20):
            noise = np.random.default_rng(seed).integers(0, 255, (512, 512, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    assert path.stat().st_size > 6_000_000, "FFmpeg looks for streams in the first 5 MB"
    sound = b"\x08" + (20).to_bytes(3, "big") + bytes(7) + b"\x2f" + bytes(19)
    path.write_bytes(path.read_bytes() + 3 * (sound + len(sound).to_bytes(4, "big")))
    said, _ = opened(path, MALLOC_PERTURB_="85")
    assert said == "20 None"


def test_a_number_of_frames_that_lies_is_told(tmp_path):
    path = write(tmp_path / "clip.avi")
    data = bytearray(path.read_bytes())
    data[data.find(b"avih") + 24 : data.find(b"avih") + 28] = struct.pack("<I", 10**9)
    data[data.find(b"strh") + 40 : data.find(b"strh") + 44] = struct.pack("<I", 10**9)
    path.write_bytes(data)
    with FrameReader(path) as reader:
        assert len(list(reader.frames())) == 8
        assert reader.damage is None  # an AVI counts dropped frames


def timed(path, times, *, unit=Fraction(1, 1000)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frames = [
            av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * i, np.uint8), format="rgb24") for i in range(len(times))
        ]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        for packet, time in zip(packets, times, strict=True):
            packet.pts = packet.dts = time
            packet.time_base = unit
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("times", "expected", "jumps"),
    [
        ([0, 40, 80, 10**15, 10**15 + 40], [0, 40, 80, 120, 160], 1),
        ([-(10**15), 40 - 10**15, 0, 40], [0, 40, 80, 120], 1),
        ([10**15, 10**15 + 40], [0, 40], 0),
        ([-400, -360, -320, 0, 40], [0, 40, 80, 400, 440], 0),
        ([0, 40, 3_000_000], [0, 40, 3_000_000], 0),
        ([0, 40, 2**62, 2**62 + 40], [0, 40, 80, 120], 1),
    ],
)
def test_times_of_another_world(segmenter, tmp_path, times, expected, jumps):
    result = segment_video(segmenter, timed(tmp_path / "clip.mkv", times), labels=LABELS, output=tmp_path / "out.mp4")
    with av.open(str(result.video)) as container:
        shown = [round(1000 * float(frame.time)) for frame in container.decode(video=0)]
    assert shown == expected
    assert (f"jump {jumps} times" in (result.damage or "")) == bool(jumps)


def test_parts_that_were_joined_are_shown_one_after_the_other(tmp_path):
    """Times that start again at 0 were all shown within a millisecond."""
    parts = [write(tmp_path / name, frames=30) for name in ("a.ts", "b.ts")]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with FrameReader(joined) as reader:
        times = [frame.time for frame in reader.frames()]
        assert "jump 1 times" in reader.damage
    assert len(times) > 50
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.02)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".asf", ".flv", ".nut"])
def test_titles_in_latin_1(segmenter, tmp_path, suffix):
    path = tmp_path / f"titled{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLEOFIT"
        stream = container.add_stream("flv1" if suffix == ".flv" else "mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.metadata["title"] = "TITLEOFIT"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    for text in ("utf-8", "utf-16-le"):
        data = data.replace(
            "TITLEOFIT".encode(text), (b"caf\xe9\xff\xfe\xe8\x80\xc3" * 2)[: len("TITLEOFIT".encode(text))]
        )
    assert data != path.read_bytes()
    path.write_bytes(data)
    result = segment_video(segmenter, path, labels=LABELS, output=tmp_path / "out.mp4")
    assert (result.frames, result.damage) == (1, None)
    shutil.copy(path, tmp_path / "theirs.mp4")  # and as what stands in the way
    with pytest.raises(UsageError, match="not made by clearclip"):
        segment_video(segmenter, path, labels=LABELS, output=tmp_path / "theirs.mp4", overwrite=True)
