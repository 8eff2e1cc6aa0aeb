"""Frames of a video in and out through PyAV, one at a time: upright RGB with the times that the video gives them.

Needs the extra `video`. Belongs here: containers, codecs, times, rotation, damage. Does not: labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clearclip.errors import ImageError, printable
from clearclip.formats import require

if TYPE_CHECKING:
    from av.video.stream import VideoStream

QUALITY = {"crf": "20", "preset": "veryfast"}
BT709 = 1
"""H.273's number of the colours that players take high-definition video to have; said in the file, so none guesses."""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        index: Its number, from 0.
        time: When it is shown, in seconds.
        pts: The same in units of the video's time base.
        image: `(H, W, 3)` uint8, upright.
    """

    index: int
    time: float
    pts: int
    image: npt.NDArray[np.uint8]


class FrameReader:
    """A video's frames in order; what cannot be decoded is left out and noted.

    Attributes:
        name: For messages.
        damage: What could not be read, once all frames were asked for; `None`: nothing.

    Args:
        path: The video.

    Raises:
        ImageError: There is no such file, it is no video, or it holds none.
        UsageError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.name = printable(str(path))
        self.damage: str | None = None
        av = require("av", extra="video", purpose="a video")
        if not path.exists():
            raise ImageError(f"{self.name}: there is no such file")
        if path.is_dir():
            raise ImageError(f"{self.name} is a folder: name a video file")
        if not path.stat().st_size:
            raise ImageError(f"{self.name}: the file is empty")
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise ImageError(f"{self.name} is no video that FFmpeg can read ({_reason(error)})") from error
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams or streams[0].codec_context is None:
            self._container.close()
            what = "its pictures cannot be decoded" if streams else "it has no pictures"
            raise ImageError(f"{self.name}: this is no video that can be segmented, {what}")
        self._stream: VideoStream = streams[0]
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def expected(self) -> int:
        """How many frames the file says it has; 0: it does not say."""
        return int(self._stream.frames)

    def frames(self) -> Iterator[Frame]:
        """Decode the video once.

        Yields:
            Frames of one size, that of the first, with strictly increasing times.
        """
        step = max(1, round(1 / (self.rate * self.time_base)))
        index, last, size = 0, -step, None
        for decoded in self._decoded():
            size = size or (decoded.width, decoded.height)
            if (decoded.width, decoded.height) != size:
                decoded = decoded.reformat(width=size[0], height=size[1])
            upright = np.rot90(decoded.to_ndarray(format="rgb24"), round(decoded.rotation / 90) % 4)
            pts = last + step if decoded.pts is None else max(int(decoded.pts), last + 1)
            if index == 0 and decoded.pts is not None:
                pts = int(decoded.pts)
            yield Frame(index, float(pts * self.time_base), pts, np.ascontiguousarray(upright))
            index, last = index + 1, pts

    def _decoded(self) -> Iterator[Any]:
        import av

        packets = broken = corrupt = 0
        stopped = ""
        try:
            for packet in self._container.demux(self._stream):
                packets += packet.size > 0
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    broken += 1
                    continue
                for frame in decoded:
                    corrupt += frame.is_corrupt
                    yield frame
        except av.FFmpegError as error:
            stopped = _reason(error)
        notes = []
        if broken:
            notes.append(f"{broken} packets could not be decoded")
        if corrupt:
            notes.append(f"{corrupt} frames are damaged")
        if stopped or packets < self.expected:
            ends = f"it ends after {packets} of {self.expected} packets" if packets < self.expected else "it ends early"
            notes.append(f"{ends} ({stopped})" if stopped else ends)
        if notes:
            self.damage = f"{self.name}: {', '.join(notes)}"


class FrameWriter:
    """A video of RGB frames in H.264; its file is made with the first frame.

    Args:
        path: Where to write.
        target: What the file will be called: its suffix says the container.
        info: Texts kept in the file.
    """

    def __init__(self, path: Path, target: Path, info: Mapping[str, str]) -> None:
        self._path = path
        self._target = target
        self._info = info
        self._container: Any = None
        self._stream: Any = None
        self._first = 0

    def __enter__(self) -> FrameWriter:
        return self

    def write(self, picture: npt.NDArray[np.uint8], frame: Frame, *, like: FrameReader) -> None:
        """Append a frame.

        Args:
            picture: `(H, W, 3)` uint8 of even sides, the same for all frames.
            frame: When it is shown.
            like: Gives rate and time base.

        Raises:
            OSError: The disk is full.
        """
        import av

        try:
            if self._container is None:
                self._open(picture, frame, like)
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            shown = shown.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            shown.pts, shown.time_base = frame.pts - self._first, like.time_base
            self._container.mux(self._stream.encode(shown))
        except av.FFmpegError as error:
            raise OSError(f"{self._target}: the video cannot be written ({_reason(error)})") from error

    def _open(self, picture: npt.NDArray[np.uint8], frame: Frame, like: FrameReader) -> None:
        import av

        options = {"movflags": "faststart"} if self._target.suffix.lower() != ".mkv" else {}
        self._container = av.open(str(self._path), "w", options=options)
        self._container.metadata["comment"] = json.dumps(dict(self._info), ensure_ascii=False)
        self._stream = self._container.add_stream("libx264", rate=like.rate, options=QUALITY)
        self._stream.height, self._stream.width = picture.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = like.time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # 16 to 235
        self._first = frame.pts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        import av

        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except av.FFmpegError as failure:
            if kind is None:
                raise OSError(f"{self._target}: the video cannot be written ({_reason(failure)})") from failure


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
