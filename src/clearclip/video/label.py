"""Videos → the same video with its labels laid over it, and label maps of its frames, in memory of a few frames.

Needs the extra `video`. Belongs here: which frames are segmented, smoothing over time, what is kept for a second start.
Does not: containers and codecs (`frames`), how one frame is segmented (`grids`, `segmenter`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from clearclip.classify.grid import LogitGrid
from clearclip.classify.maps import grids
from clearclip.classify.words import Words
from clearclip.decompose import MethodLike
from clearclip.encode.encoding import Encoder
from clearclip.errors import ImageError, UsageError, printable
from clearclip.files.drawing import draw_legend, draw_overlay, letter_size
from clearclip.files.label_maps import read_info, read_settings, save_json, save_label_map, verify
from clearclip.files.progress import progress_bar
from clearclip.files.reading import RefusedError, check_regular, open_regular
from clearclip.files.writing import atomic_write, claim
from clearclip.methods import Method, parse_method
from clearclip.segmenter import Segmenter
from clearclip.video.frames import Frame, FrameReader, FrameWriter, video_settings
from clearclip.vocabulary import Vocabulary

SUFFIXES = (".mp4", ".mkv", ".mov")
FRAMES_AT_ONCE = 8
CUT = 30.0
MAX_CUT = 255
MAX_EVERY = 1_000_000
LEAST_LEGEND = 160
SETTINGS = "labels.json"
MASK_NAME = re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class VideoResult:
    """What `segment_video` made.

    Attributes:
        video: The overlay.
        masks: Folder of the label maps, or `None`.
        size: `(height, width)` of a frame as it is shown.
        frames: How many were read and written.
        segmented: How many of them were given to the model.
        reused: How many label maps an earlier run had left.
        cuts: How often the scene changed.
        damage: What could not be read, or `None`.
    """

    video: Path
    masks: Path | None
    size: tuple[int, int]
    frames: int
    segmented: int
    reused: int
    cuts: int
    damage: str | None


def segment_video(
    segmenter: Segmenter,
    video: str | Path,
    *,
    labels: Any,
    output: str | Path,
    every: int = 1,
    smooth: float = 0.0,
    cut: float = CUT,
    masks: bool = False,
    method: MethodLike | None = None,
    threshold: float | None = None,
    opacity: float = 0.55,
    legend: bool = True,
    overwrite: bool = False,
) -> VideoResult:
    """Label a video's frames and write it with the labels' colours; times are kept, sound is not.

    Args:
        segmenter: What encodes.
        video: Any video that FFmpeg reads.
        labels: As `Vocabulary.parse`.
        output: A `.mp4`, `.mkv` or `.mov`, or a folder for `<stem>.overlay.mp4`.
        every: Give the model each N-th frame, and the first after a cut; the others show the last label map.
        smooth: How much of the past is kept, 0 ≤ smooth < 1: the cosines of the patches are averaged over the frames
            given to the model with weights that fall by this factor (an exponential moving average); a cut resets it.
        cut: A cut is a mean absolute difference to the frame before, of 32 × 32 averaged colours, above this many grey
            levels (0–255).
        masks: Whether the label maps are written too, one PNG for each frame given to the model, named by the frame's
            number, into `<stem>-masks` beside the video. A second start goes on from those that are there if
            nothing is smoothed.
        method: Instead of the segmenter's own.
        threshold: As in a call of the segmenter.
        opacity: Of the colours, 0–1.
        legend: Whether a strip below the picture names the labels.
        overwrite: Replace an existing video, and label maps that were made otherwise.

    Returns:
        What was made. The video appears only when it is complete; of a damaged one what can be decoded is written.

    Raises:
        ImageError: The file is no video, or not one frame can be decoded.
        UsageError: An argument cannot be used, the video exists, or PyAV is missing.
        OSError: A file cannot be written.
    """
    for name, number, holds, needed in (
        ("every", every, lambda: 1 <= every <= MAX_EVERY, f"a whole number from 1 to {MAX_EVERY:,}"),
        ("smooth", smooth, lambda: 0 <= smooth < 1, "a weight from 0 (nothing) to below 1"),
        ("cut", cut, lambda: 0 < cut <= MAX_CUT, f"a number of grey levels above 0 and up to {MAX_CUT}"),
        ("opacity", opacity, lambda: 0 <= opacity <= 1, "a number from 0 to 1"),
    ):
        if not isinstance(number, Integral if name == "every" else Real) or not holds():  # NaN holds in none
            raise UsageError(f"{name}={printable(repr(number))}: {needed} is needed")
    source = Path(video)
    target, folder = targets_of(source, Path(output))
    with ExitStack() as held, FrameReader(source) as reader:
        held.enter_context(claim(target, is_file=True))
        if masks:
            held.enter_context(claim(folder))
        is_replaced = _check_target(target, source, overwrite=overwrite)
        row = segmenter.method if method is None else parse_method(method)
        words = segmenter.prepare(labels, threshold=threshold)
        settings = {
            **segmenter.describe(row, words.threshold, templates=words.templates, vocabulary=words.vocabulary),
            "source": printable(str(source)),
            "stamp": reader.stamp,
            "every": f"{every}",
            "smooth": f"{smooth:g}",
            "cut": f"{cut:g}",
        }
        kept = MaskFolder.open(folder, settings, words.vocabulary, overwrite=overwrite) if masks else None
        labelled = _Labelled(segmenter.encoder, row, words, every, smooth, cut, kept)
        size = (0, 0)
        with ExitStack() as stack:
            advance = stack.enter_context(progress_bar("frames", show=segmenter.show_progress))
            partial = stack.enter_context(atomic_write(target, replace=is_replaced))
            writer = stack.enter_context(FrameWriter(partial, target, settings))
            layout = None
            for frame, label_map in labelled.frames(reader.frames()):
                size = (frame.image.shape[0], frame.image.shape[1])
                layout = layout or _Layout(size, words.vocabulary if legend else None)
                drawn = draw_overlay(frame.image, label_map, words.vocabulary.palette, opacity=opacity)
                writer.write(layout.place(np.asarray(drawn)), frame, like=reader)
                if advance is not None:
                    advance(frame.index + 1, max(reader.expected, frame.index + 1), "")
            if layout is None:
                raise ImageError(f"{printable(str(source))}: not one frame of the video can be decoded")
    return VideoResult(
        video=target,
        masks=folder if masks else None,
        size=size,
        frames=labelled.count,
        segmented=labelled.segmented,
        reused=labelled.reused,
        cuts=labelled.cuts,
        damage=reader.damage,
    )


def targets_of(video: Path, output: Path) -> tuple[Path, Path]:
    """The overlay's file and the label maps' folder; `UsageError` for a kind of video that is not written."""
    suffix = output.suffix.lower()
    if suffix in SUFFIXES:
        return output, output.with_name(f"{output.stem}-masks")
    if suffix in (".avi", ".webm", ".wmv", ".gif", ".m4v", ".mpg", ".mpeg", ".ts"):
        raise UsageError(f"{output}: videos are written as {', '.join(SUFFIXES)}")
    return output / f"{video.stem}.overlay.mp4", output / f"{video.stem}-masks"


def _check_target(target: Path, source: Path, *, overwrite: bool) -> bool:
    """Whether a video that clearclip made is replaced; `UsageError` where anything else stands in the way."""
    if not os.path.lexists(target):
        return False
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the video itself: name another file")
    if not overwrite:
        raise UsageError(f"{target} is there already: name another file, or give --overwrite (overwrite=)")
    if target.is_symlink() or not video_settings(target).get("software", "").startswith("clearclip"):
        raise UsageError(f"{target} was not made by clearclip: remove it yourself, or name another file")
    return True


@dataclass(eq=False)
class _Labelled:
    """Frames with their label maps, in order."""

    encoder: Encoder
    row: Method
    words: Words
    every: int
    smooth: float
    cut: float
    kept: MaskFolder | None
    count: int = 0
    segmented: int = 0
    reused: int = 0
    cuts: int = 0
    _average: Tensor | None = None

    def frames(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, npt.NDArray[Any]]]:
        last: npt.NDArray[Any] | None = None
        batch: list[tuple[Frame, bool, bool]] = []
        for entry in self._cuts(frames):
            batch.append(entry)
            if len(batch) == FRAMES_AT_ONCE:
                for done in self._batch(batch, last):
                    last = done[1]
                    yield done
                batch = []
        yield from self._batch(batch, last)

    def _cuts(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool, bool]]:
        """Frames, whether the scene changes there, and whether the model shall see them."""
        before = None
        for frame in frames:
            now = _thumbnail(frame.image)
            is_cut = before is not None and float(np.abs(now - before).mean()) > self.cut
            before = now
            self.count += 1
            self.cuts += is_cut
            yield frame, is_cut, is_cut or frame.index % self.every == 0

    def _batch(
        self, batch: list[tuple[Frame, bool, bool]], last: npt.NDArray[Any] | None
    ) -> Iterator[tuple[Frame, npt.NDArray[Any]]]:
        known = {}
        if self.kept is not None and not self.smooth:
            known = {frame.index: self.kept.read(frame) for frame, _, wanted in batch if wanted}
        fresh = [frame for frame, _, wanted in batch if wanted]
        if known and all(label_map is not None for label_map in known.values()):
            fresh = []  # else all of them, as in an undisturbed run: bfloat16 rounds differently in other company
        encoded = [self.encoder.prepare(frame.image) for frame in fresh]
        found = grids(self.encoder, encoded, self.row, self.words)
        made = {frame.index: grid for frame, grid in zip(fresh, found, strict=True)}
        for frame, is_cut, wanted in batch:
            if wanted and known.get(frame.index) is None:
                grid = self._smoothed(made.pop(frame.index), reset=is_cut)
                last, _ = self.words.settle(grid).label(grid)
                self.segmented += 1
                if self.kept is not None:
                    self.kept.write(frame, last)
            elif wanted:
                last = known[frame.index]
                self.reused += 1
            if last is None:
                raise AssertionError("the first frame is segmented")
            yield frame, last

    def _smoothed(self, grid: LogitGrid, *, reset: bool) -> LogitGrid:
        """Upsampling and stitching are linear, so the average of the cosines is that of the full-size logits."""
        if not self.smooth:
            return grid
        if self._average is None or reset:
            self._average = grid.cosines
        else:
            self._average = torch.lerp(grid.cosines, self._average, self.smooth)
        return replace(grid, cosines=self._average)


def _thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), dtype=np.float32)


@dataclass(frozen=True)
class MaskFolder:
    """Label maps of frames, named by their numbers, and how they were made.

    Attributes:
        folder: Where they are.
        settings: How they are made.
        vocabulary: Gives the colours.
        there: Names of the label maps that were in it at the start, whole or not.
    """

    folder: Path
    settings: dict[str, str]
    vocabulary: Vocabulary
    there: frozenset[str]

    @classmethod
    def open(cls, folder: Path, settings: dict[str, str], vocabulary: Vocabulary, *, overwrite: bool) -> MaskFolder:
        """Go on with the label maps that an earlier run with the same settings left in a folder.

        `UsageError` where it holds any other file under such a name; with `overwrite` other label maps are removed.
        """
        written = folder / SETTINGS
        others = [file for file in folder.iterdir() if MASK_NAME.fullmatch(file.name)]
        known = read_settings(written)
        foreign = [file for file in others if not (_is_ours(file) or (known and _is_broken(file)))]
        if known is None and os.path.lexists(written):
            foreign.append(written)
        if foreign:
            raise UsageError(f"{foreign[0]} was not made by clearclip: move it, or name another output")
        if others and (overwrite or known != settings):
            if not overwrite:
                raise UsageError(
                    f"{folder} holds label maps that were made with other settings or from another video: name "
                    "another output, or give --overwrite (overwrite=)"
                )
            for file in others:
                file.unlink()
        entries = json.loads(settings["labels"])
        save_json(written, {"settings": settings}, {"labels": entries}, replace=known is not None)
        return cls(folder, settings, vocabulary, frozenset(file.name for file in others))

    def file(self, frame: Frame) -> Path:
        """The path of a frame's label map."""
        return self.folder / f"{frame.index:06}.png"

    def read(self, frame: Frame) -> npt.NDArray[Any] | None:
        """A frame's label map `(H, W)` that an earlier run left; `None` where there is none, or none that is whole."""
        file = self.file(frame)
        texts = read_info(file)
        if any(texts.get(key) != value for key, value in self._texts(frame).items()):
            return None
        try:
            with open_regular(file) as opened:
                verify(opened)
                with Image.open(opened) as image:
                    if (image.height, image.width) != frame.image.shape[:2]:
                        return None
                    label_map = np.asarray(image)
        except (OSError, SyntaxError, ValueError):
            return None
        return label_map if label_map.max(initial=0) < len(self.vocabulary.labels) else None

    def write(self, frame: Frame, label_map: npt.NDArray[Any]) -> None:
        """Keep a label map `(H, W)`; `UsageError` if a file that is not ours has come to its place meanwhile."""
        file, palette = self.file(frame), self.vocabulary.palette
        if _is_ours(file) or (file.name in self.there and _is_broken(file)):
            file.unlink(missing_ok=True)
        try:
            save_label_map(label_map, file, palette=palette, info=self._texts(frame), replace=False)
        except FileExistsError as error:
            raise UsageError(f"{file} was not made by clearclip: move it, or name another output") from error

    def _texts(self, frame: Frame) -> dict[str, str]:
        """What a label map says about itself: how it was made, of which video and which frame."""
        return {**self.settings, "frame": str(frame.index), "time": f"{frame.time:.6f}"}


def _is_ours(file: Path) -> bool:
    return not file.is_symlink() and read_info(file).get("software", "").startswith("clearclip")


def _is_broken(file: Path) -> bool:
    """Whether a regular file is no picture at all, as a label map that was cut or emptied."""
    try:
        check_regular(file.lstat())
        with open_regular(file) as opened, Image.open(opened):
            return False
    except (RefusedError, FileNotFoundError):
        return False
    except (OSError, SyntaxError, ValueError):
        return True


class _Layout:
    """The frame of the output: the picture, even sides, and the legend, drawn once."""

    def __init__(self, size: tuple[int, int], vocabulary: Vocabulary | None) -> None:
        height, width = (length + length % 2 for length in size)
        self._canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        if vocabulary is not None:
            entries = zip(vocabulary.names, vocabulary.palette.tolist(), strict=True)
            strip = np.asarray(draw_legend(entries, width=max(width, LEAST_LEGEND), size=letter_size(max(size))))
            self._canvas = np.full((height + len(strip) + len(strip) % 2, strip.shape[1], 3), 255, dtype=np.uint8)
            self._canvas[height : height + len(strip)] = strip
        self._even = (height, size[1] + size[1] % 2)

    def place(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        missing = ((0, self._even[0] - height), (0, self._even[1] - width), (0, 0))
        self._canvas[: self._even[0], : self._even[1]] = np.pad(picture, missing, mode="edge")
        return self._canvas
