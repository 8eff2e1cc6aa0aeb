"""Videos as an attacker, a second run or a broken disk leaves them."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip import ClearclipError, ImageError, UsageError
from clearclip.files.endings import what_is_missing
from clearclip.files.writing import PREFIX, claim
from clearclip.frames import MAX_STREAMS, FrameReader
from clearclip.outputs import read_settings
from clearclip.video import segment_video

av = pytest.importorskip("av")  # none for Python 3.10 is safe
LABELS = ["sky", "grass"]


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


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4")


def test_no_playlist_or_script_opens_another_file_or_the_network(tmp_path, monkeypatch):
    """Whatever it is called; a made server on loopback would be told."""
    secret = write(tmp_path / "secret.mp4")
    monkeypatch.undo()  # the tests' own guard against the network
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(1)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{port}/x.ts"
        texts = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile {secret}\n",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
            "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>',
        }
        for name, text in texts.items():
            for suffix in (".mp4", f".{name}", ".m3u8", ".sdp", ".mpd"):
                file = tmp_path / f"{name}{suffix}"
                file.write_text(text)
                with pytest.raises(ImageError, match="no video"):
                    FrameReader(file)
        for name in (address, f"concat:{secret}", f"subfile,,start,0,end,0,,:{secret}", "pipe:0"):
            with pytest.raises(ImageError, match="no such file"):
                FrameReader(type(secret)(name))
    assert not asked


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", type(tmp_path)("/dev/zero")):
        with pytest.raises(ImageError, match="a regular file is needed"):
            FrameReader(path)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_a_video_that_lacks_its_end_is_damaged(tmp_path, suffix, share):
    whole = write(tmp_path / f"whole{suffix}", frames=20, options={"movflags": "faststart"} if suffix == ".mp4" else {})
    with FrameReader(whole) as reader:
        assert len(list(reader.frames())) == 20
        assert reader.damage is None
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    try:
        with FrameReader(cut) as reader:
            assert len(list(reader.frames())) <= 20
            assert "bytes of the file are missing" in reader.damage
    except ImageError:
        pass  # not even its head is left


def test_a_stream_that_does_not_say_its_length_is_whole(tmp_path):
    live = write(tmp_path / "live.mkv", options={"live": "1"})
    transport = write(tmp_path / "a.ts")
    for path in (live, transport):
        with FrameReader(path) as reader:
            assert len(list(reader.frames())) == 8
            assert reader.damage is None
        with path.open("rb") as file:
            assert what_is_missing(file, reader._container.format.name) is None


def test_metadata_in_any_encoding(tmp_path, clip):
    titled = write(tmp_path / "titled.mkv")
    data = titled.read_bytes()
    assert b"Lavf" in data
    titled.write_bytes(data.replace(b"Lavf", b"\xe9\xff\xfe\xe8"))
    with FrameReader(titled) as reader:
        assert len(list(reader.frames())) == 8


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_while_the_first_is_at_work(segmenter, clip, tmp_path, overwrite):
    for held in (claim(tmp_path / "out.mp4", is_file=True), claim(tmp_path / "out-masks")):
        with held, pytest.raises(UsageError, match="another run is at work"):
            segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", masks=True, overwrite=overwrite)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_that_is_not_ours_is_replaced_or_removed(segmenter, clip, tmp_path, overwrite):
    out, folder = tmp_path / "out.mp4", tmp_path / "out-masks"
    options = {"labels": LABELS, "output": out, "masks": True, "overwrite": overwrite}
    theirs = write(tmp_path / "theirs.mp4")
    shutil.copy(theirs, out)
    with pytest.raises(UsageError, match=r"is there already|not made by clearclip"):
        segment_video(segmenter, clip, **options)
    assert out.read_bytes() == theirs.read_bytes()
    out.unlink()
    for name in ("000001.png", "labels.json"):
        folder.mkdir(exist_ok=True)
        mine = folder / name
        Image.new("L", (32, 32)).save(mine, "PNG")
        before = mine.read_bytes()
        with pytest.raises(UsageError, match="not made by clearclip"):
            segment_video(segmenter, clip, **options)
        assert mine.read_bytes() == before
        shutil.rmtree(folder)


@pytest.mark.parametrize("way", ["itself", "hard link", "symbolic link"])
def test_the_video_is_never_the_output(segmenter, clip, tmp_path, way):
    before, out = clip.read_bytes(), tmp_path / "out.mp4"
    if way == "itself":
        out = clip
    else:
        os.link(clip, out) if way == "hard link" else out.symlink_to(clip)
    with pytest.raises(UsageError, match="the video itself"):
        segment_video(segmenter, clip, labels=LABELS, output=out, overwrite=True)
    assert clip.read_bytes() == before


def test_other_words_replace_all_maps_or_none(segmenter, clip, tmp_path):
    out, folder = tmp_path / "out.mp4", tmp_path / "out-masks"
    segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    out.unlink()
    with pytest.raises(UsageError, match="other settings"):
        segment_video(segmenter, clip, labels=["a", "b"], output=out, masks=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert segment_video(segmenter, clip, labels=["a", "b"], output=out, masks=True, overwrite=True).reused == 0
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("damage", ["emptied", "cut", "another frame's", "gone"])
def test_only_a_map_that_is_whole_and_of_that_frame_is_used_again(segmenter, clip, tmp_path, damage):
    out, folder = tmp_path / "out.mp4", tmp_path / "out-masks"
    segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    video, one = out.read_bytes(), folder / "000003.png"
    out.unlink()
    data = {"emptied": b"", "cut": one.read_bytes()[:60], "another frame's": (folder / "000005.png").read_bytes()}
    one.unlink() if damage == "gone" else one.write_bytes(data[damage])
    result = segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    assert (result.reused, result.segmented) == (7, 1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert out.read_bytes() == video
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


def test_what_a_killed_run_left_goes(segmenter, clip, tmp_path):
    folder = tmp_path / "out-masks"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / f"{PREFIX}{16 * '0'}-abcdefgh.png").write_bytes(b"half")
    segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", masks=True)
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


NONSENSE = {
    "every": [float("nan"), float("inf"), 1.5, 10**30, 0, -1, "2", None],
    "cut": [float("nan"), float("inf"), 300, 0, -1, "30"],
    "smooth": [float("nan"), float("inf"), 1, -1, 10**30, "half"],
    "opacity": [float("nan"), float("inf"), -1, 10**30, None],
}


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in NONSENSE for number in NONSENSE[name]])
def test_numbers_that_make_no_sense(segmenter, clip, tmp_path, name, number):
    with pytest.raises(UsageError, match=f"^{name}=.*is needed$"):
        segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", masks=True, **{name: number})
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("name", sorted(NONSENSE))
@pytest.mark.parametrize("number", ["nan", "inf", str(10**30), "-1"])
def test_the_command_refuses_them_too(run, clip, tmp_path, name, number):
    ran = run("video", clip, "-o", tmp_path / "out.mp4", "-l", "sky", "--model", "tiny", f"--{name}", number)
    assert ran.code == 2
    assert name in ran.err
    assert "Traceback" not in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


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
from clearclip.frames import MAX_STREAMS, FrameReader
from clearclip.outputs import read_settings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with FrameReader(Path(sys.argv[1])) as reader:
        print(len(list(reader.frames())), reader.damage)
except ImageError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def opened(path):
    """What reading a file says in a process of its own, and the MiB that it takes there."""
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize("way", ["grows", "rewritten"])
def test_a_video_that_changes_while_it_is_read_is_told(segmenter, clip, tmp_path, monkeypatch, way):
    grids = clearclip.grids.Classifier.grids

    def change(self, images):
        with clip.open("r+b") as file:
            file.seek(0, 2 if way == "grows" else 0)
            file.write(b"\0" * 8 if way == "grows" else clip.read_bytes()[:8])
        os.utime(clip, ns=(1, 1))
        return grids(self, images)

    monkeypatch.setattr("clearclip.grids.Classifier.grids", change)
    options = {"labels": LABELS, "output": tmp_path / "out.mp4", "masks": True}
    assert "it changed while it was read" in segment_video(segmenter, clip, **options).damage
    monkeypatch.undo()
    (tmp_path / "out.mp4").unlink()
    with pytest.raises(UsageError, match="from another video"):
        segment_video(segmenter, clip, **options)


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["labels.json", "000002.png", "000000.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_pipe_among_the_label_maps_hangs_nothing(segmenter, clip, tmp_path, name, overwrite):
    options = {"labels": LABELS, "output": tmp_path / "out.mp4", "masks": True}
    segment_video(segmenter, clip, **options)
    (tmp_path / "out.mp4").unlink()
    (tmp_path / "out-masks" / name).unlink()
    os.mkfifo(tmp_path / "out-masks" / name)
    with pytest.raises(UsageError, match=f"{name} was not made by clearclip"):
        segment_video(segmenter, clip, overwrite=overwrite, **options)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"settings": 1', b"\xff\xfe", b"null", b" " * 2000])
def test_settings_that_are_none(tmp_path, monkeypatch, content):
    monkeypatch.setattr("clearclip.outputs.MAX_SETTINGS", 150_000)
    (tmp_path / "labels.json").write_bytes(content)
    assert read_settings(tmp_path / "labels.json") is None
    (tmp_path / "labels.json").write_bytes(b'{"settings": {"a": "b"}}' + b" " * len(content))
    assert read_settings(tmp_path / "labels.json") == {"a": "b"}
    (tmp_path / "labels.json").write_bytes(b'{"settings": {"a": "b"}}' + b" " * 150_000)
    assert read_settings(tmp_path / "labels.json") is None


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("theirs", ["picture", "text", "link", "out.mp4"])
def test_a_file_that_appears_meanwhile_is_not_replaced(segmenter, clip, tmp_path, monkeypatch, overwrite, theirs):
    out = tmp_path / "out.mp4"
    options = {"labels": LABELS, "output": out, "masks": True, "overwrite": overwrite}
    file = out if theirs == "out.mp4" else tmp_path / "out-masks" / "000004.png"
    grids = clearclip.grids.Classifier.grids

    def appear(self, images):
        if theirs == "link":
            file.symlink_to(clip)
        elif theirs == "picture":
            Image.new("L", (32, 32)).save(file, "PNG")
        else:
            file.write_text("mine")
        return grids(self, images)

    monkeypatch.setattr("clearclip.grids.Classifier.grids", appear)
    before = clip.read_bytes()
    with pytest.raises((UsageError, FileExistsError)):
        segment_video(segmenter, clip, **options)
    assert file.is_symlink() if theirs == "link" else file.is_file()
    assert clip.read_bytes() == before
    if theirs == "text":
        assert file.read_text() == "mine"
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


def test_a_model_that_gives_nan_leaves_nothing(segmenter, clip, tmp_path, monkeypatch):
    visual = segmenter.backbone
    monkeypatch.setattr(visual, "mean", tuple(float("nan") for _ in visual.mean))
    with pytest.raises(ClearclipError, match="NaN"):
        segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", masks=True)
    assert not (tmp_path / "out.mp4").exists()
    assert [file.name for file in (tmp_path / "out-masks").iterdir()] == ["labels.json"]


KILLS = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clearclip
from clearclip import frames
from clearclip.video import segment_video

folder = Path(sys.argv[1])
segmenter = clearclip.load("tiny")

def run(name):
    result = segment_video(segmenter, folder / "clip.mp4", labels=["sky", "grass"], output=folder / name, masks=True)
    files = [file for file in (folder / name).rglob("*") if file.is_file()]
    return result, {str(file.relative_to(folder / name)): file.read_bytes() for file in files}

link, write, done = os.link, frames.FrameWriter.write, []

def count():
    done.append(1)
    if len(done) == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(call):
    def wrapped(*arguments, **named):
        count()
        answer = call(*arguments, **named)
        count()
        return answer
    return wrapped

_, whole = run("whole")
for moment in (1, 2, 3, 4, 17, 40, 60, 81, 82):
    child = os.fork()
    if child == 0:
        os.link, frames.FrameWriter.write = counted(link), counted(write)
        run(f"killed{moment}")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    left = len(list((folder / f"killed{moment}").rglob(".clearclip-*")))
    result, again = run(f"killed{moment}")
    print("killed" if os.WIFSIGNALED(status) else "ended", moment, left, result.reused, again == whole)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(tmp_path):
    """Label maps and the video; of a killed run's unfinished files none stays."""
    write(tmp_path / "clip.mp4", frames=20)
    done = subprocess.run([sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[4] for line in lines] == ["True"] * 9, done.stdout + done.stderr
    assert all(line[0] == "killed" for line in lines)
    assert sum(int(line[2]) > 0 for line in lines) >= 8, "the kills left unfinished files"
    assert sum(int(line[3]) > 0 for line in lines) >= 6, "the second start went on"
