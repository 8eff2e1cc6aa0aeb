"""Videos: frame by frame what the segmenter says, times kept, less flicker when smoothed, damage reported."""

import itertools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
from clearclip.classify.maps import grids
from clearclip.errors import ImageError, UsageError
from clearclip.scenes import make_scene
from clearclip.video.label import segment_video

WORDS = ["sky", "grass", "tree=bush|hedge", "car", "house", "road"]


@pytest.fixture
def write(tmp_path):
    """Writes frames as a video; FFV1 keeps their levels."""

    def call(frames, name="clip.mkv", *, codec="ffv1", pixels="bgr0", rate=25, times=None, rotation=0, **options):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            stream.codec_context.time_base = Fraction(1, 1000) if times else 1 / Fraction(rate)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = times[index] if times else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return call


@pytest.fixture
def moving():
    """Frames of one scene that moves by two pixels a frame, with noise."""

    def make(count=6, height=48, width=64, noise=6.0, seed=0, step=2, scene=3):
        wide = make_scene(scene, size=(height, width + step * count)).image.astype(np.float32)
        rng = np.random.default_rng(seed)
        frames = [wide[:, step * index : step * index + width] for index in range(count)]
        return [(frame + rng.normal(0, noise, frame.shape)).clip(0, 255).astype(np.uint8) for frame in frames]

    return make


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path):
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def maps(folder):
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


def test_without_smoothing_it_is_the_segmenter_frame_by_frame(segmenter, moving, write, tmp_path):
    path = write(moving(11))
    result = segment_video(segmenter, path, labels=WORDS, output=tmp_path / "out", masks=True)
    found, expected = maps(tmp_path / "out" / "clip-masks"), [segmenter(frame, WORDS) for frame in decode(path)]
    assert len(found) == len(expected) == 11
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(mine, theirs.label_map)
    assert any(len(np.unique(mine)) > 1 for mine in found)
    assert (result.frames, result.segmented, result.reused, result.cuts, result.damage) == (11, 11, 0, 0, None)
    assert result.video == tmp_path / "out" / "clip.overlay.mp4"


def test_threshold_gives_background(segmenter, moving, write, tmp_path):
    path = write(moving(2))
    limit = float(np.median(segmenter(decode(path)[0], WORDS).scores))
    segment_video(segmenter, path, labels=WORDS, output=tmp_path, masks=True, threshold=limit)
    expected = segmenter(decode(path)[0], WORDS, threshold=limit).label_map
    assert np.array_equal(maps(tmp_path / "clip-masks")[0], expected)
    assert 0 < (expected == 0).mean() < 1


def test_the_overlay_is_the_picture_with_colours_and_a_legend(segmenter, moving, write, tmp_path):
    path = write(moving(3, height=45, width=61))  # odd sides
    out = tmp_path / "overlay.mp4"
    result = segment_video(segmenter, path, labels=WORDS, output=out, legend=False)
    assert result.size == (45, 61)
    for shown, frame in zip(decode(out), decode(path), strict=True):
        assert shown.shape == (46, 62, 3)
        drawn = np.asarray(segmenter(frame, WORDS).overlay(legend=False)).astype(float)
        assert np.abs(shown[:45, :61] - drawn).mean() < 12  # half of the colour's resolution, and H.264
    segment_video(segmenter, path, labels=WORDS, output=out, overwrite=True)
    strips = [shown[46:] for shown in decode(out)]
    assert strips[0].shape[1] == 160
    assert len(strips[0]) % 2 == 0
    for red, green, blue in clearclip.Vocabulary.parse(WORDS).palette.astype(int):
        near = np.abs(strips[0].astype(int) - (red, green, blue)).sum(axis=-1) < 60
        assert near.sum() > 40, "each label's square"


def test_colours_are_those_of_the_picture(segmenter, write, tmp_path):
    path = write([np.full((48, 64, 3), (200, 30, 60), np.uint8)] * 3)
    result = segment_video(segmenter, path, labels=WORDS, output=tmp_path, opacity=0, legend=False)
    with av.open(str(result.video)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        np.testing.assert_allclose(frame.to_ndarray(format="rgb24").mean(axis=(0, 1)), (200, 30, 60), atol=4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_rate_and_uneven_times_are_kept(segmenter, moving, write, tmp_path, suffix):
    uneven = [0, 40, 80, 500, 540, 1200]
    path = write(moving(6), times=uneven)
    out = tmp_path / f"out{suffix}"
    segment_video(segmenter, path, labels=WORDS, output=out)
    np.testing.assert_allclose(times(out), np.array(uneven) / 1000, atol=1e-3)
    steady = write(moving(6), "steady.mp4", codec="libx264", pixels="yuv420p", rate=Fraction(30000, 1001))
    segment_video(segmenter, steady, labels=WORDS, output=out, overwrite=True)
    np.testing.assert_allclose(times(out), np.arange(6) * 1001 / 30000, atol=1e-3)
    with av.open(str(out)) as container:
        assert abs(float(container.streams.video[0].average_rate) - 29.97) < 0.2
        assert json.loads(next(v for k, v in container.metadata.items() if k.lower() == "comment"))["every"] == "1"


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV 17 reads rotations only")
@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(segmenter, moving, write, tmp_path, rotation):
    path = write(moving(2), "phone.mp4", codec="libx264", pixels="yuv420p", rotation=rotation)
    with av.open(str(path)) as container:
        assert (next(container.decode(video=0)).rotation - rotation) % 360 == 0  # against the clock
    result = segment_video(segmenter, path, labels=WORDS, output=tmp_path / "out", masks=True)
    assert result.size == ((48, 64) if rotation == 180 else (64, 48))
    upright = np.rot90(decode(path)[0], rotation // 90)
    expected = segmenter(np.ascontiguousarray(upright), WORDS).label_map
    assert np.array_equal(maps(tmp_path / "out" / "phone-masks")[0], expected)


def test_every_nth_frame_is_segmented_and_its_labels_stay(segmenter, moving, write, tmp_path):
    path = write(moving(20, noise=0))
    result = segment_video(segmenter, path, labels=WORDS, output=tmp_path, every=3, masks=True)
    assert (result.frames, result.segmented) == (20, 7)
    names = [file.name for file in sorted((tmp_path / "clip-masks").glob("*.png"))]
    assert names == [f"{index:06}.png" for index in range(0, 20, 3)]
    assert len(decode(result.video)) == 20


def test_the_first_frame_after_a_cut_is_segmented_too(segmenter, write, tmp_path):
    dark, bright = np.full((48, 64, 3), 20, np.uint8), np.full((48, 64, 3), 220, np.uint8)
    path = write([dark] * 5 + [bright] * 9)
    result = segment_video(segmenter, path, labels=WORDS, output=tmp_path, every=10, masks=True)
    assert (result.segmented, result.cuts) == (3, 1)
    assert (tmp_path / "clip-masks" / "000005.png").exists()
    assert segment_video(segmenter, path, labels=WORDS, output=tmp_path / "b", every=10, cut=250).segmented == 2


def test_smoothing_is_the_average_of_the_full_size_logits(segmenter, moving, write, tmp_path):
    path = write(moving(10))
    segment_video(segmenter, path, labels=WORDS, output=tmp_path, masks=True, smooth=0.7)
    average = None
    owners = torch.tensor(clearclip.Vocabulary.parse(WORDS).query_to_class)
    for frame, found in zip(decode(path), maps(tmp_path / "clip-masks"), strict=True):
        logits = segmenter(frame, WORDS)._grid.logits()
        average = logits if average is None else 0.3 * logits + 0.7 * average
        assert (owners[average.argmax(dim=0)].numpy() == found).mean() > 0.999


def flicker(label_maps):
    return np.mean([(now != before).mean() for before, now in itertools.pairwise(label_maps)])


def test_smoothing_lowers_flicker(segmenter, moving, write, tmp_path):
    path = write(moving(12, noise=35, step=0))
    found = []
    for smooth in (0, 0.5, 0.9):
        out = tmp_path / f"{smooth}"
        segment_video(segmenter, path, labels=WORDS, output=out, masks=True, smooth=smooth, cut=100)
        found.append(flicker(maps(out / "clip-masks")))
    assert found[0] > 1.5 * found[1] > 1.5 * found[2]


def test_a_cut_resets_the_average(segmenter, moving, write, tmp_path):
    first = [np.full((48, 64, 3), 15, np.uint8)] * 5
    path = write(first + moving(2))
    options = {"labels": WORDS, "masks": True}
    result = segment_video(segmenter, path, output=tmp_path / "a", smooth=0.9, **options)
    assert result.cuts == 1
    expected = segmenter(decode(path)[5], WORDS).label_map
    assert np.array_equal(maps(tmp_path / "a" / "clip-masks")[5], expected)
    segment_video(segmenter, path, output=tmp_path / "b", smooth=0.9, cut=255, **options)
    assert not np.array_equal(maps(tmp_path / "b" / "clip-masks")[5], expected)


def test_an_interrupted_run_goes_on_where_it_was(segmenter, moving, write, tmp_path, monkeypatch):
    path = write(moving(20))
    options = {"labels": WORDS, "masks": True}
    segment_video(segmenter, path, output=tmp_path / "whole", **options)
    calls = []

    def interrupt(encoder, images, *more):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return grids(encoder, images, *more)

    monkeypatch.setattr("clearclip.video.label.grids", interrupt)
    with pytest.raises(KeyboardInterrupt):
        segment_video(segmenter, path, output=tmp_path / "parts", **options)
    assert {file.name for file in (tmp_path / "parts").iterdir()} == {"clip-masks"}
    (tmp_path / "parts" / "clip-masks" / "000002.png").write_bytes(b"damaged")
    result = segment_video(segmenter, path, output=tmp_path / "parts", **options)
    assert (result.frames, result.segmented, result.reused) == (20, 13, 7)
    for file in (tmp_path / "whole" / "clip-masks").iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / "clip-masks" / file.name).read_bytes()
    whole, parts = (decode(tmp_path / name / "clip.overlay.mp4") for name in ("whole", "parts"))
    assert np.array_equal(whole, parts)


def test_masks_of_another_run_are_neither_mixed_in_nor_lost(segmenter, moving, write, tmp_path):
    path = write(moving(4))
    options = {"labels": WORDS, "masks": True}
    segment_video(segmenter, path, output=tmp_path / "a.mp4", **options)
    (tmp_path / "a-masks" / "note.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "a.mp4").unlink()
    for other in ({"threshold": 0.3}, {"smooth": 0.5}, {"labels": ["sky", "tree"]}, {"every": 2}):
        with pytest.raises(UsageError, match="made with other settings"):
            segment_video(segmenter, path, output=tmp_path / "a.mp4", **{**options, **other})
    result = segment_video(segmenter, path, output=tmp_path / "a.mp4", every=2, overwrite=True, **options)
    assert (result.segmented, result.reused) == (2, 0)
    names = sorted(file.name for file in (tmp_path / "a-masks").iterdir())
    assert names == ["000000.png", "000002.png", "labels.json", "note.txt"]
    document = json.loads((tmp_path / "a-masks" / "labels.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in document["labels"]][:2] == ["sky", "grass"]
    assert document["settings"]["every"] == "2"
    texts = Image.open(tmp_path / "a-masks" / "000002.png").text
    assert (texts["frame"], texts["time"]) == ("2", "0.080000")


def test_of_a_damaged_video_what_decodes_is_written(segmenter, moving, write, tmp_path, run, clip_folder):
    noisy = moving(30, noise=30)
    coded = {"codec": "libx264", "pixels": "yuv420p", "g": "10", "bf": "0"}
    good = write(noisy, "good.mkv", **coded).read_bytes()
    broken = tmp_path / "broken.mkv"
    damaged = bytearray(good)
    damaged[len(good) // 3 : len(good) // 3 + 300] = bytes(300)
    broken.write_bytes(damaged)
    result = segment_video(segmenter, broken, labels=WORDS, output=tmp_path)
    assert 10 < result.frames <= 30
    assert len(decode(result.video)) == result.frames
    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(tmp_path / "good.mkv")) as source,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as to,
    ):
        stream = to.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                to.mux(packet)
    whole = fast.read_bytes()
    fast.write_bytes(whole[: len(whole) * 2 // 3])
    ran = run(
        "video", fast, "-o", tmp_path / "cut.mp4", "-l", "sky", "-l", "grass", "--model", clip_folder,
        "--template", "a photo of a {}.",
    )  # fmt: skip
    assert ran.code == 1
    assert ran.err.startswith(f"damaged: {fast}: ")
    assert "of 30 packets" in ran.err
    assert ran.err.count("\n") == 1
    assert 10 < len(decode(tmp_path / "cut.mp4")) < 30


def test_what_is_no_video_is_said(segmenter, moving, write, tmp_path):
    path, out = write(moving(2)), tmp_path / "out.mp4"
    for name, content in (("text.mp4", b"no video" * 50), ("empty.mp4", b""), ("head.mkv", path.read_bytes()[:300])):
        (tmp_path / name).write_bytes(content)
    moov_lost = write(moving(9), "lost.mp4", codec="libx264", pixels="yuv420p")
    moov_lost.write_bytes(moov_lost.read_bytes()[: moov_lost.stat().st_size // 2])
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, reason in (
        ("text.mp4", "no video that FFmpeg can read"),
        ("empty.mp4", "the file is empty"),
        ("missing.mp4", "there is no such file"),
        ("sound.wav", "it has no pictures"),
        ("lost.mp4", "no video|cannot be decoded"),
        ("head.mkv", "no video|cannot be decoded"),
        (".", "is a folder"),
    ):
        with pytest.raises(ImageError, match=reason):
            segment_video(segmenter, tmp_path / name, labels=WORDS, output=out)
    for options, reason in (
        ({"every": 0}, "every=0"),
        ({"smooth": 1.0}, "smooth=1.0"),
        ({"cut": 0}, "cut=0"),
        ({"opacity": 2}, "opacity=2"),
        ({"output": tmp_path / "out.webm"}, "written as .mp4"),
        ({"labels": []}, "no labels"),
    ):
        with pytest.raises(UsageError, match=reason):
            segment_video(segmenter, path, **{"labels": WORDS, "output": out, **options})
    with pytest.raises(UsageError, match="is the video itself"):
        segment_video(segmenter, path, labels=WORDS, output=path, overwrite=True)
    assert not out.exists()
    assert not list(tmp_path.glob(".clearclip-*"))
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="is there already"):
        segment_video(segmenter, path, labels=WORDS, output=out)
    assert out.read_bytes() == b"precious"


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np
from pathlib import Path
from clearclip.video.frames import FrameReader, FrameWriter
from clearclip.files.writing import atomic_write
source, out = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
try:
    with FrameReader(source) as reader, atomic_write(out) as partial, FrameWriter(partial, out, {}) as writer:
        for frame in reader.frames():
            writer.write(frame.image, frame, like=reader)
except OSError as error:
    print("OSError", error)
print(out.exists())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_leaves_no_file(moving, write, tmp_path):
    source = write(moving(20, noise=60))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, source, tmp_path / "out.mp4"], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("OSError"), done.stderr
    assert "out.mp4: the video cannot be written" in done.stdout
    assert done.stdout.split()[-1] == "False"


def test_frames_of_another_size_take_the_first_ones(segmenter, moving, write, tmp_path):
    parts = [write(moving(3), "a.ts", codec="mpeg2video", pixels="yuv420p")]
    parts.append(write(moving(3, height=64, width=80), "b.ts", codec="mpeg2video", pixels="yuv420p"))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = segment_video(segmenter, joined, labels=WORDS, output=tmp_path)
    assert result.size == (48, 64)
    assert result.frames > 3
    stamps = times(result.video)
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))


def test_one_picture_is_a_video_of_one_frame(segmenter, photo, tmp_path):
    assert segment_video(segmenter, photo(), labels=WORDS, output=tmp_path / "out").frames == 1


def test_the_command(run, moving, write, tmp_path, clip_folder):
    path = write(moving(4))
    words = ("-l", "sky", "-l", "grass", "--model", clip_folder, "--template", "a photo of a {}.")
    ran = run("video", path, "-o", tmp_path / "out", *words, "--every", 2, "--masks")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip() == f"4 frames, 2 segmented → {tmp_path / 'out' / 'clip.overlay.mp4'}"
    again = run("video", path, "-o", tmp_path / "out", *words)
    assert again.code == 2
    assert "is there already" in again.err
    answer = run("video", path, "-o", tmp_path / "out", *words, "--overwrite", "--smooth", 0.5, "--json")
    assert Path(json.loads(answer.out)["video"]).is_file()
    assert json.loads(answer.out)["frames"] == 4


def test_without_pyav_the_command_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    ran = run("video", tmp_path / "clip.mp4", "-o", tmp_path / "out", "-l", "sky", "--model", "tiny")
    assert ran.code == 2
    assert 'python -m pip install "av<' in ran.err
