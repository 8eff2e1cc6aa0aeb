"""Videos that end too early, in every container: told, and no whole one is called damaged."""

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from clearclip import ImageError
from clearclip.files import endings
from clearclip.files.endings import what_is_missing
from clearclip.video.frames import FrameReader

CONTAINERS = [
    ("mp4", "mpeg4", {}), ("mp4", "libx264", {"movflags": "faststart"}), ("mov", "mjpeg", {}),
    ("matroska", "mpeg4", {}), ("matroska", "libx264", {"cues_to_front": "1"}), ("webm", "libvpx", {}),
    ("avi", "mpeg4", {}), ("avi", "mjpeg", {}), ("gif", "gif", {}), ("apng", "apng", {}), ("mjpeg", "mjpeg", {}),
    ("mxf", "mpeg2video", {}), ("nut", "mpeg4", {}), ("ogg", "libvpx", {}), ("asf", "wmv2", {}), ("flv", "flv1", {}),
    ("swf", "flv1", {}), ("mpegts", "libx264", {}), ("mpeg", "mpeg2video", {}), ("vob", "mpeg1video", {}),
]  # fmt: skip
"""Of these every cut is told."""
STREAMED = [
    ("matroska", "mpeg4", {"live": "1"}), ("webm", "libvpx", {"live": "1"}), ("ivf", "libvpx", {}),
    ("flv", "libx264", {"flvflags": "no_duration_filesize"}), ("mp4", "libx264", {"movflags": "frag_every_frame"}),
]  # fmt: skip
"""Of these a cut between two parts cannot be told from an end."""
NONE = {"asf_stream", "data", "rawvideo", "rtp", "rtp_mpegts", "rtsp", "whip", "sap", "alsa", "oss", "fbdev"}
"""No containers: packets without one, networks, devices."""
PIXELS = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}


def put(target, container, codec, options=None, *, frames=30, until=None):
    """Writes noise; `until` leaves it unfinished."""
    file = av.open(target, "w", format=container, options=dict(options or {}))
    stream = file.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, PIXELS.get(codec, "yuv420p")
    random_numbers = np.random.default_rng(0)
    for index in range(frames):
        picture = random_numbers.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        file.mux(stream.encode(frame))
    if until is not None:
        return until()
    file.mux(stream.encode(None))
    file.close()
    return None


def read(path):
    """Frames and damage, or the error."""
    try:
        with FrameReader(path) as reader:
            return len(list(reader.frames())), reader.damage
    except ImageError as error:
        return 0, str(error)


@pytest.mark.parametrize(("container", "codec", "options"), CONTAINERS + STREAMED)
def test_a_cut_is_told_and_a_whole_file_is_whole(tmp_path, container, codec, options):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    put(str(whole), container, codec, options)
    assert read(whole) == (30, None)
    data = whole.read_bytes()
    numbers = random.Random(container + codec)
    places = [*numbers.sample(range(1, len(data)), 24), len(data) - 1, len(data) - 2]
    silent = []
    for place in places:
        cut.write_bytes(data[:place])
        if read(cut)[1] is None:
            silent.append(place)
    assert len(silent) <= (3 if (container, codec, options) in STREAMED else 0), silent


@pytest.mark.parametrize(
    ("container", "codec"),
    [("matroska", "mpeg4"), ("avi", "mjpeg"), ("nut", "mpeg4"), ("mxf", "mpeg2video"), ("asf", "wmv2"), ("gif", "gif")],
)
def test_a_recording_that_breaks_off_is_told(tmp_path, container, codec):
    file, path = io.BytesIO(), tmp_path / "broken"
    path.write_bytes(put(file, container, codec, frames=120, until=lambda: file.getvalue()))
    assert path.stat().st_size > 60_000
    frames, damage = read(path)
    assert damage is not None
    assert frames > 20


def test_no_format_that_can_be_written_is_called_damaged(tmp_path):
    codecs = ("libx264", "mpeg4", "mpeg2video", "libvpx", "flv1", "mjpeg", "gif", "apng", "h263", "dvvideo")
    found = set()
    for container in sorted(set(av.formats_available) - NONE):
        for codec in codecs:
            path = tmp_path / "whole"
            try:
                put(str(path), container, codec, frames=12)
                frames, damage = read(path)
            except (av.FFmpegError, ValueError, OSError):
                continue
            if frames == 12:
                found.add(container)
                assert damage is None, container
    assert len(found) > 25


def test_sound_beside_the_pictures_does_not_matter(tmp_path):
    for container, codec, sound in (("mp4", "mpeg4", "aac"), ("mov", "mpeg4", "pcm_s16le"), ("ogg", "libvpx", "opus"),
                                    ("mpegts", "mpeg2video", "mp2"), ("flv", "flv1", "aac")):  # fmt: skip
        path = tmp_path / container
        with av.open(str(path), "w", format=container) as file:
            stream, other = file.add_stream(codec, rate=25), file.add_stream(sound, rate=48_000, layout="stereo")
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(20):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                file.mux(stream.encode(frame))
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 3840), np.int16), format="s16", layout="stereo")
                tone.sample_rate, tone.pts = 48_000, index * 1920
                file.mux(other.encode(tone))
            for each in (stream, other):
                file.mux(each.encode(None))
        assert read(path) == (20, None), container


def test_motion_jpeg_without_a_container(tmp_path):
    path = tmp_path / "clip.mjpeg"
    put(str(path), "mjpeg", "mjpeg", frames=5)
    assert read(path) == (5, None)
    path.write_bytes(path.read_bytes()[:-100])
    assert "its last picture is cut" in read(path)[1]


def test_a_film_that_was_trimmed_is_whole(tmp_path):
    """An MP4 keeps the frames before its first one; they are not shown, and are not missing."""
    path = tmp_path / "trimmed.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * i, np.uint8), format="rgb24") for i in range(6)]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        for index, packet in enumerate(packets):
            packet.pts = packet.dts = index - 3
            packet.time_base = Fraction(1, 25)
            file.mux(packet)
    frames, damage = read(path)
    assert 0 < frames < 6
    assert damage is None


def test_a_hole_in_the_structure_is_told(tmp_path):
    whole, holed = tmp_path / "whole.mkv", tmp_path / "holed.mkv"
    put(str(whole), "matroska", "mpeg4", {"cluster_time_limit": "200"})
    data = bytearray(whole.read_bytes())
    second = data.find(b"\x1f\x43\xb6\x75", data.find(b"\x1f\x43\xb6\x75") + 4)
    data[second : second + 8] = bytes(8)
    holed.write_bytes(data)
    frames, damage = read(holed)
    assert 0 < frames < 30
    assert f"breaks off at byte {second:,}" in damage


def test_walks_are_bounded(tmp_path, monkeypatch):
    """A container of countless tiny parts; the limit is lowered, as two million steps take seconds."""
    monkeypatch.setattr(endings, "MAX_STEPS", 1000)
    many = {
        "gif": b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 5000,
        "mov,mp4,m4a,3gp,3g2,mj2": b"\0\0\0\x08free" * 5000,
        "matroska,webm": b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\x16\x54\xae\x6b\x80" * 5000,
        "ivf": b"DKIF\0\0\x20\0" + bytes(24) + bytes(12) * 5000,
        "png_pipe": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0teXt\0\0\0\0" * 5000,
    }
    for kind, data in many.items():
        (tmp_path / "many").write_bytes(data)
        with (tmp_path / "many").open("rb") as file:
            assert "more parts than 1,000" in what_is_missing(file, kind), kind
            assert file.tell() == 0


@pytest.mark.parametrize("kind", sorted(endings.ENDINGS))
def test_random_bytes_never_break_a_walk(tmp_path, kind):
    numbers = random.Random(kind)
    heads = [
        b"", b"RIFF", b"OggS", b"FLV\1\1\0\0\0\x09", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67", b"GIF89a", b"\x89PNG",
        b"\xff\xd8\xff", endings.PARTITION + b"\2\4\0\x68", endings.ASF_FILE, b"\0\0\1\xba", b"G", b"FWS",
        bytes(4) + b"moov", b"FLV" + b"filesize\0" + b"\x7f\xf0",
    ]  # fmt: skip
    for _ in range(300):
        data = numbers.choice(heads) + numbers.randbytes(numbers.choice([0, 1, 3, 9, 40, 400]))
        (tmp_path / "bytes").write_bytes(data)
        with (tmp_path / "bytes").open("rb") as file:
            assert isinstance(what_is_missing(file, kind), str | None)
            assert endings.claimed_samples(file) >= 0
