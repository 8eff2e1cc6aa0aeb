"""Frames of a video in and out through PyAV, one at a time: upright RGB with the times that the video gives them.

Needs the extra `video`. Belongs here: containers, codecs, times, rotation, damage. Does not: labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clearclip.engine.sources import exists
from clearclip.errors import ImageError, printable
from clearclip.files.reading import open_regular
from clearclip.formats import require
from clearclip.images import MAX_PIXELS

if TYPE_CHECKING:
    from av.video.stream import VideoStream

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "gif", "ivf",
    "m4v", "mpegvideo", "h264", "hevc", "nut", "mxf", "dv", "apng", "png_pipe", "jpeg_pipe", "webp_pipe", "rm", "swf",
    "wav", "mp3", "aac", "flac",
)  # fmt: skip
"""FFmpeg's names of containers that name no other file; a playlist or a script (hls, concat, dash, sdp) does. Those of
sound alone are opened to say that they have no pictures."""
ALONE = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
MAX_RATE = 1_000
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
        if not exists(path):
            raise ImageError(f"{self.name}: there is no such file")
        if path.is_dir():
            raise ImageError(f"{self.name} is a folder: name a video file")
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_regular(path))
                if not os.fstat(file.fileno()).st_size:
                    raise ImageError(f"{self.name}: the file is empty")
                self._missing_bytes = missing_bytes(file)
                self._container = stack.enter_context(
                    av.open(file, options=dict(ALONE), metadata_errors="backslashreplace")
                )
            except (av.FFmpegError, OSError, ValueError) as error:
                raise ImageError(
                    f"{self.name} is no video that FFmpeg can read ({_reason(error)}): MP4, Matroska, AVI and the like "
                    "are read; playlists and scripts, which name other files, are not"
                ) from error
            self._stream: VideoStream = self._pictures(av)
            self._close = stack.pop_all().close
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.rate: Fraction = rate if 0 < rate <= MAX_RATE else Fraction(25)

    def _pictures(self, av: Any) -> VideoStream:
        """The first stream that is no cover, of frames that are not too large."""
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams or streams[0].codec_context is None:
            what = "its pictures cannot be decoded" if streams else "it has no pictures"
            raise ImageError(f"{self.name}: this is no video that can be segmented, {what}")
        stream: VideoStream = streams[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise ImageError(
                f"{self.name}: frames of {stream.width}×{stream.height} pixels are more than the limit of "
                f"{MAX_PIXELS:,}: make it smaller"
            )
        stream.codec_context.options = {"max_pixels": f"{MAX_PIXELS}"}  # also of frames that say so later
        return stream

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def expected(self) -> int:
        """How many frames the file says it has; 0: it does not say. An AVI counts those that were dropped."""
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
                except (av.FFmpegError, ValueError, MemoryError):
                    broken += 1
                    continue
                for frame in decoded:
                    corrupt += frame.is_corrupt
                    yield frame
        except (av.FFmpegError, OSError, ValueError) as error:
            stopped = _reason(error)
        expected = 0 if self._container.format.name == "avi" else self.expected
        notes = []
        if broken:
            notes.append(f"{broken} packets could not be decoded")
        if corrupt:
            notes.append(f"{corrupt} frames are damaged")
        if stopped or packets < expected:
            ends = f"it ends after {packets} of {expected} packets" if packets < expected else "it ends early"
            notes.append(f"{ends} ({stopped})" if stopped else ends)
        if self._missing_bytes:
            notes.append(f"the last {self._missing_bytes:,} bytes of the file are missing")
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


def video_settings(path: Path) -> dict[str, str]:
    """The texts that `FrameWriter` kept in a video; {} for any other file."""
    import av

    try:
        with open_regular(path) as file, av.open(file, options=dict(ALONE), metadata_errors="replace") as container:
            texts = json.loads({key.lower(): text for key, text in container.metadata.items()}.get("comment", "{}"))
    except (av.FFmpegError, OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in texts.items() if isinstance(value, str)} if isinstance(texts, dict) else {}


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes a file lacks by its own container's word: Matroska, MP4 and AVI say how long their parts are.

    0 where it is whole, or does not say (a live stream). https://www.rfc-editor.org/rfc/rfc8794 (EBML), ISO 14496-12,
    and Microsoft's RIFF. The file is left at its beginning.
    """
    size, at = os.fstat(file.fileno()).st_size, 0
    walk = {b"\x1a\x45\xdf\xa3": _ebml_element, b"RIFF": _riff_chunk}.get(_peek(file, 0, 4), _mp4_box)
    for _ in range(10_000):
        at, is_last = walk(file, at)
        if at >= size or is_last:
            break
    file.seek(0)
    return max(0, at - size)


def _peek(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _mp4_box(file: BinaryIO, at: int) -> tuple[int, bool]:
    """Where the box at a place ends, and whether nothing is known beyond it."""
    head = _peek(file, at, 16)
    if len(head) < 8 or not head[4:8].isalnum():
        return at, True
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return at + length, length < 8


def _riff_chunk(file: BinaryIO, at: int) -> tuple[int, bool]:
    head = _peek(file, at, 8)
    if head[:4] != b"RIFF" or len(head) < 8:
        return at, True
    length = int.from_bytes(head[4:8], "little")
    return at + 8 + length, length in (0, 0xFFFFFFFF)


def _ebml_element(file: BinaryIO, at: int) -> tuple[int, bool]:
    head = _peek(file, at, 12)
    if not head or not head[0]:
        return at, True
    width = 9 - head[0].bit_length()  # of the element's name
    rest = head[width:]
    if not rest or not rest[0]:
        return at, True
    digits = 9 - rest[0].bit_length()
    length = int.from_bytes(rest[:digits], "big") & ((1 << 7 * digits) - 1)
    if length == (1 << 7 * digits) - 1:  # unknown: a live stream
        return at, True
    return at + width + digits + length, head[:width] == b"\x18\x53\x80\x67"
