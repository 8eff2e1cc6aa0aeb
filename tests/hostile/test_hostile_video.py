"""Videos as an attacker, a second run or a broken disk leaves them."""

import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from PIL import Image

from clearclip import ClearclipError, ImageError, UsageError
from clearclip.classify.maps import grids
from clearclip.files.endings import what_is_missing
from clearclip.files.label_maps import read_settings
from clearclip.files.writing import PREFIX, claim
from clearclip.video.frames import FrameReader
from clearclip.video.label import segment_video
from videos import write

LABELS = ["sky", "grass"]


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


def frames_of(video):
    """Times and pixels: on a busy machine x264 ends a slice with other bytes, of which nothing is seen."""
    with FrameReader(video) as reader:
        return [(frame.pts, frame.image.tobytes()) for frame in reader.frames()]


@pytest.mark.parametrize("damage", ["emptied", "cut", "another frame's", "gone"])
def test_only_a_map_that_is_whole_and_of_that_frame_is_used_again(segmenter, clip, tmp_path, damage):
    out, folder = tmp_path / "out.mp4", tmp_path / "out-masks"
    segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    pictures, one = frames_of(out), folder / "000003.png"
    out.unlink()
    data = {"emptied": b"", "cut": one.read_bytes()[:60], "another frame's": (folder / "000005.png").read_bytes()}
    one.unlink() if damage == "gone" else one.write_bytes(data[damage])
    result = segment_video(segmenter, clip, labels=LABELS, output=out, masks=True)
    assert (result.reused, result.segmented) == (7, 1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert frames_of(out) == pictures
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


@pytest.mark.parametrize("way", ["grows", "rewritten"])
def test_a_video_that_changes_while_it_is_read_is_told(segmenter, clip, tmp_path, monkeypatch, way):

    def change(*given):
        with clip.open("r+b") as file:
            file.seek(0, 2 if way == "grows" else 0)
            file.write(b"\0" * 8 if way == "grows" else clip.read_bytes()[:8])
        os.utime(clip, ns=(1, 1))
        return grids(*given)

    monkeypatch.setattr("clearclip.video.label.grids", change)
    options = {"labels": LABELS, "output": tmp_path / "out.mp4", "masks": True}
    assert "it changed while it was read" in segment_video(segmenter, clip, **options).damage
    monkeypatch.undo()
    (tmp_path / "out.mp4").unlink()
    with pytest.raises(UsageError, match="from another video"):
        segment_video(segmenter, clip, **options)


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
    monkeypatch.setattr("clearclip.files.label_maps.MAX_SETTINGS", 150_000)
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

    def appear(*given):
        if theirs == "link":
            file.symlink_to(clip)
        elif theirs == "picture":
            Image.new("L", (32, 32)).save(file, "PNG")
        else:
            file.write_text("mine")
        return grids(*given)

    monkeypatch.setattr("clearclip.video.label.grids", appear)
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
import gc, os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import av
import clearclip
from clearclip.video import frames
from clearclip.video.label import segment_video

folder = Path(sys.argv[1])
segmenter = clearclip.load("tiny")

def run(name):
    result = segment_video(segmenter, folder / "clip.mp4", labels=["sky", "grass"], output=folder / name, masks=True)
    files = [file for file in (folder / name).rglob("*") if file.is_file()]
    return result, {str(file.relative_to(folder / name)): content(file) for file in files}

def content(file):
    # Of a video its texts, times and pictures: threads of the encoder find other bits for them on a busy machine.
    if file.suffix != ".mp4":
        return file.read_bytes()
    with av.open(str(file)) as container:
        pictures = [(frame.pts, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]
        return dict(container.metadata), pictures

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
    gc.collect()  # frames of PyAV wait for threads that a child does not have
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
def test_killed_at_any_moment_and_started_again_gives_the_same_pictures(tmp_path):
    """Label maps and the video; of a killed run's unfinished files none stays."""
    write(tmp_path / "clip.mp4", frames=20)
    done = subprocess.run([sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[4] for line in lines] == ["True"] * 9, done.stdout + done.stderr
    assert all(line[0] == "killed" for line in lines)
    assert sum(int(line[2]) > 0 for line in lines) >= 8, "the kills left unfinished files"
    assert sum(int(line[3]) > 0 for line in lines) >= 6, "the second start went on"
