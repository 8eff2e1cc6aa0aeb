"""Videos, and the label maps that an interrupted run leaves."""

from __future__ import annotations

import shutil
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import damage
from tests.hostile.targets.common import ASKED, command, damage_files, differing, finish, picture, wrong_maps

CODECS = {"a.mkv": ("ffv1", "bgr0"), "b.mp4": ("mpeg4", "yuv420p"), "c.avi": ("mjpeg", "yuvj420p"),
          "d.mov": ("libx264", "yuv420p")}  # fmt: skip


def seed_videos(place: Path) -> None:
    import av

    matrices = {"b.mp4": (-1, 0, 0, 0, 1, 0, 0, 0, 1 << 14), "d.mov": (0, -1, 0, -1, 0, 0, 0, 0, 1 << 14)}
    for name, (codec, pixels) in CODECS.items():
        with suppress(ValueError), av.open(str(place / name), "w", container_options={}) as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 40, 56, pixels
            stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
            if name in matrices and hasattr(stream, "set_display_matrix"):
                stream.set_display_matrix([number << 16 for number in matrices[name]])
            for index in range(5):
                frame = av.VideoFrame.from_image(picture(index))
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def check_videos(case: Case, code: int) -> str | None:
    import av

    made = case.output / "o.mp4"
    if code == 0 or made.exists():
        try:
            with av.open(str(made)) as container:
                if not any(True for _ in container.decode(video=0)):
                    return "the result has no frame"
        except (OSError, ValueError) as error:
            return f"the result cannot be read ({error})"
    return wrong_maps(case.output.glob("*-masks/*.png"))


@target(seed=seed_videos, check=check_videos)
def videos(case: Case) -> Action:
    files = sorted(file for file in case.seeds.iterdir() if file.name in CODECS)
    chosen = case.rng.choice(files)
    data = damage(chosen.read_bytes(), case.rng, other=case.rng.choice(files).read_bytes())
    if case.rng.random() < 0.05:
        data = f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{case.port}/x.ts\n".encode()
    if case.rng.random() < 0.05:
        data = f"ffconcat version 1.0\nfile 'http://127.0.0.1:{case.port}/x.mp4'\n".encode()
    file = case.write(f"v{chosen.suffix}", data)
    masks = ["--masks"] if case.rng.random() < 0.3 else []
    return command("video", file, *ASKED, "-o", case.output / "o.mp4", *masks)


def seed_masks(place: Path) -> None:
    seed_videos(place)
    finish("video", place / "a.mkv", *ASKED, "-o", place / "masked" / "a.mp4", "--masks")
    (place / "masked" / "a.mp4").unlink()


def check_masks(case: Case, code: int) -> str | None:
    return None if code else differing(case.seeds / "masked" / "a-masks", case.output / "a-masks")


@target(seed=seed_masks, check=check_masks)
def masks(case: Case) -> Action:
    """Label maps that an interrupted run left, damaged: what is wrong with them is made again, or refused."""
    shutil.copytree(case.seeds / "masked", case.output)
    damage_files(case, case.output)
    return command("video", case.seeds / "a.mkv", *ASKED, "-o", case.output / "a.mp4", "--masks")
