"""Videos as an attacker, a second run or a broken disk leaves them."""

import os
import shutil
import socket
import threading

import av
import numpy as np
import pytest
from PIL import Image

from clearclip import ImageError, UsageError
from clearclip.files.writing import PREFIX, claim
from clearclip.frames import FrameReader, missing_bytes
from clearclip.video import segment_video

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
            assert missing_bytes(file) == 0


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
    one = folder / "000003.png"
    out.unlink()
    data = {"emptied": b"", "cut": one.read_bytes()[:60], "another frame's": (folder / "000005.png").read_bytes()}
    one.unlink() if damage == "gone" else one.write_bytes(data[damage])
    result = segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    assert (result.reused, result.segmented) == (7, 1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


def test_what_a_killed_run_left_goes(segmenter, clip, tmp_path):
    folder = tmp_path / "out-masks"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / f"{PREFIX}{16 * '0'}-abcdefgh.png").write_bytes(b"half")
    segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", masks=True)
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1, 10**30])
@pytest.mark.parametrize("name", ["smooth", "opacity", "cut"])
def test_numbers_that_make_no_sense(segmenter, clip, tmp_path, name, number):
    if name == "cut" and number > 0:
        pytest.skip("a cut that never comes is allowed")
    with pytest.raises(UsageError, match=name):
        segment_video(segmenter, clip, labels=LABELS, output=tmp_path / "out.mp4", **{name: number})
