"""Frames of a video in and out through PyAV, one at a time: upright RGB with the times that the video gives them.

Needs the extra `video`. Belongs here: containers, codecs, times, how pictures are turned, damage. Does not: labels.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clearclip.encode.images import MAX_PIXELS
from clearclip.engine.sources import exists
from clearclip.errors import ImageError, printable
from clearclip.files.endings import claimed_samples, what_is_missing
from clearclip.files.optional import require
from clearclip.files.reading import open_regular

if TYPE_CHECKING:
    from av.video.stream import VideoStream

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "gif", "ivf",
    "m4v", "mpegvideo", "h264", "hevc", "nut", "mxf", "dv", "apng", "png_pipe", "jpeg_pipe", "webp_pipe", "rm", "swf",
    "mjpeg", "wav", "mp3", "aac", "flac",
)  # fmt: skip
"""FFmpeg's names of containers that name no other file; a playlist or a script (hls, concat, dash, sdp) does. Those of
sound alone are opened to say that they have no pictures."""
ALONE = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
LOOK = {**ALONE, "codec_whitelist": "none"}
"""Opens a file without running a decoder: to learn more of its streams, FFmpeg decodes frames of all, of any size."""
REORDERING = "h264,hevc,mpeg1video,mpeg2video,mpeg4,vc1,wmv3,rv30,rv40,cavs"
"""The decoders that may run as a file is opened, within limits: of these alone FFmpeg must know by how many frames the
pictures are delayed, else it gives them wrong times."""
MAX_STREAMS = 256
MAX_SAMPLES = 10_000_000
MAX_RATE = 1_000
MAX_GAP = 3_600  # seconds from one frame to the next; also what fits an MP4's 32 bits in any usual time base
MAX_BACK = 1
MAX_ASPECT = 100
QUALITY = {"crf": "20", "preset": "veryfast", "threads": "4"}
"""The bytes depend on the number of threads, so it is not the machine's number of cores."""
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


class _Patient:
    """A file for FFmpeg: a place before its beginning, which only a damaged file names, is -1 and no exception."""

    def __init__(self, file: BinaryIO) -> None:
        self.name, self.read, self.tell, self._seek = file.name, file.read, file.tell, file.seek

    def seek(self, place: int, whence: int = 0) -> int:
        try:
            return self._seek(place, whence)
        except (OSError, ValueError):
            return -1


class FrameReader:
    """A video's frames in order; what cannot be decoded is left out and noted.

    `ImageError` if there is no such file, it is no video, or it holds none.

    Attributes:
        name: For messages.
        stamp: Size and time of the last change of the file that is read, whatever has its name by now.
        expected: How many frames the file says it has; 0: it does not say.
        damage: What could not be read, once all frames were asked for; `None`: nothing.
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
                self._file = file
                self.stamp = _stamp(file)
                if self.stamp.startswith("0 "):
                    raise ImageError(f"{self.name}: the file is empty")
                if (claimed := claimed_samples(file)) > MAX_SAMPLES:
                    raise ImageError(
                        f"{self.name}: its index claims {claimed:,} frames, more than the limit of {MAX_SAMPLES:,}: "
                        "the file is damaged, or made to exhaust the memory"
                    )
                self._container = stack.enter_context(self._open(av, file))
                self._missing = what_is_missing(file, self._container.format.name)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise ImageError(
                    f"{self.name} is no video that FFmpeg can read ({_reason(error)}): MP4, Matroska, AVI and the like "
                    "are read; playlists and scripts, which name other files, are not"
                ) from error
            self._stream: VideoStream = self._pictures(av)
            self._close = stack.pop_all().close
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.rate: Fraction = rate if Fraction(1, MAX_RATE) <= rate <= MAX_RATE else Fraction(25)
        self._turn = _Turn()
        self._packets = self._broken = self._cut = self._corrupt = self._jumps = 0
        self._stopped = ""
        self.expected = self._indexed()

    def _open(self, av: Any, file: BinaryIO) -> Any:
        """The container, once a look at it has shown that its streams are neither too many nor too large."""
        with av.open(_Patient(file), options=dict(LOOK), metadata_errors="backslashreplace") as container:
            count, pictures = len(container.streams), container.streams.video
            if count > MAX_STREAMS:
                raise ImageError(f"{self.name}: it has {count:,} streams, more than the limit of {MAX_STREAMS}")
            for stream in pictures:
                if stream.codec_context is not None and stream.width * stream.height > MAX_PIXELS:
                    raise ImageError(
                        f"{self.name}: frames of {stream.width}×{stream.height} pixels are more than the limit of "
                        f"{MAX_PIXELS:,}: make it smaller"
                    )
            together = {"codec_whitelist": REORDERING, "max_pixels": f"{MAX_PIXELS // max(1, len(pictures))}"}
        file.seek(0)
        return av.open(_Patient(file), options={**ALONE, **together}, metadata_errors="backslashreplace")

    def _pictures(self, av: Any) -> VideoStream:
        """The first stream that is no cover."""
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams or streams[0].codec_context is None:
            what = "its pictures cannot be decoded" if streams else "it has no pictures"
            raise ImageError(f"{self.name}: this is no video that can be segmented, {what}")
        stream: VideoStream = streams[0]
        stream.codec_context.options = {"max_pixels": f"{MAX_PIXELS}"}  # whatever size a frame has in the end
        return stream

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a shown pixel in units of its height, once a frame was read; 1 where the file says absurd ones."""
        stated = self._stream.sample_aspect_ratio or Fraction(1)
        sane = stated.limit_denominator(1000) if Fraction(1, MAX_ASPECT) < stated < MAX_ASPECT else Fraction(1)
        return 1 / sane if self._turn.is_lying else sane

    def _indexed(self) -> int:
        """How many packets the file's own index lists."""
        kind = self._container.format.name
        if kind.startswith("mov"):
            return len(self._stream.index_entries)  # the table has those too that were trimmed, and are not shown
        return 0 if kind in ("avi", "ivf") else int(self._stream.frames)  # with dropped ones; in any unit of time

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def frames(self) -> Iterator[Frame]:
        """Decode the video once: frames of one size, that of the first, with strictly increasing times."""
        step, second = (max(1, round(length / self.time_base)) for length in (1 / self.rate, 1))
        index = last = shift = 0
        for stated, image in self._decoded():
            pts = last + step * (index > 0) if stated is None else stated + shift
            if index and not -MAX_BACK * second <= pts - last <= MAX_GAP * second:
                shift += last + step - pts
                pts = last + step
                self._jumps += 1
            if index:
                pts = max(pts, last + 1)
            yield Frame(index, float(pts * self.time_base), pts, image)
            index, last = index + 1, pts
        self.damage = self._damage()

    def _decoded(self) -> Iterator[tuple[int | None, npt.NDArray[np.uint8]]]:
        """Times as the file states them, and upright pictures of one size."""
        import av

        first = None
        try:
            for packet in self._container.demux(self._stream):
                self._packets += packet.size > 0
                self._cut += packet.is_corrupt
                try:
                    decoded: list[Any] = packet.decode()
                except (av.FFmpegError, ValueError, MemoryError):
                    self._broken += 1
                    continue
                for frame in decoded:
                    if first is None:
                        first, self._turn = frame, _Turn.of(frame)
                    try:
                        image = self._turn.applied(_levels(frame, like=first))
                    except (av.FFmpegError, ValueError, MemoryError):
                        self._corrupt += 1
                        continue
                    self._corrupt += frame.is_corrupt
                    yield frame.pts, image
        except IndexError:
            pass  # PyAV, once all packets of the streams it knows are given, about one that appeared later
        except (av.FFmpegError, OSError, ValueError) as error:
            self._stopped = f" ({_reason(error)})"

    def _damage(self) -> str | None:
        """What was not read, in one line."""
        notes = [
            (self._broken, f"{self._broken} packets could not be decoded"),
            (self._cut, f"{self._cut} packets are cut"),
            (self._corrupt, f"{self._corrupt} frames are damaged"),
            (self._jumps, f"its times jump {self._jumps} times, by more than an hour or back: they were joined"),
            (self._packets < self.expected, f"it ends after {self._packets} of {self.expected} packets{self._stopped}"),
            (self._stopped and self._packets >= self.expected, f"it ends early{self._stopped}"),
            (self._missing, self._missing),
            (_stamp(self._file) != self.stamp, "it changed while it was read"),
        ]
        said = [f"{text}" for holds, text in notes if holds]
        return f"{self.name}: {', '.join(said)}" if said else None


@dataclass(eq=False)
class FrameWriter:
    """A video of RGB frames in H.264 with texts, made with the first frame; `target` is its later name."""

    path: Path
    target: Path
    info: Mapping[str, str]
    _container: Any = None
    _stream: Any = None
    _first: int = 0

    def __enter__(self) -> FrameWriter:
        return self

    def write(self, picture: npt.NDArray[np.uint8], frame: Frame, *, like: FrameReader) -> None:
        """Append a picture `(H, W, 3)` uint8 of even sides, the same for all; `OSError` if the disk is full."""
        import av

        try:
            if self._container is None:
                self._open(picture, frame, like)
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            shown = shown.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            shown.pts, shown.time_base = frame.pts - self._first, like.time_base
            self._container.mux(self._stream.encode(shown))
        except av.FFmpegError as error:
            raise OSError(f"{self.target}: the video cannot be written ({_reason(error)})") from error

    def _open(self, picture: npt.NDArray[np.uint8], frame: Frame, like: FrameReader) -> None:
        import av

        options = {"movflags": "faststart"} if self.target.suffix.lower() != ".mkv" else {}
        self._container = av.open(str(self.path), "w", options=options)
        self._container.metadata["comment"] = json.dumps(dict(self.info), ensure_ascii=False)
        self._stream = self._container.add_stream("libx264", rate=like.rate, options=QUALITY)
        self._stream.height, self._stream.width = picture.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = like.time_base
        context.sample_aspect_ratio = like.pixel_aspect
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
                raise OSError(f"{self.target}: the video cannot be written ({_reason(failure)})") from failure


@dataclass(frozen=True)
class _Turn:
    """How stored pictures are to be shown: first their sides are exchanged, then they are mirrored."""

    is_lying: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    @classmethod
    def of(cls, frame: Any) -> _Turn:
        """By a frame's display matrix, `(x, y) → (ax + cy, bx + dy)`; of other angles the nearest right one."""
        try:
            matrices = [bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"]
        except ValueError:  # PyAV, about a kind of side data that is newer than it: of the matrix it tells the angle
            quarters = round(frame.rotation / 90) % 4  # against the clock
            return cls(quarters in (1, 3), quarters in (1, 2), quarters in (2, 3))
        a, b, _, c, d = struct.unpack_from("=5i", matrices[0]) if matrices else (0, 0, 0, 0, 0)
        lying = abs(b) + abs(c) > abs(a) + abs(d)
        return cls(lying, (b if lying else d) < 0, (c if lying else a) < 0)

    def applied(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A picture `(H, W, 3)` as it is shown."""
        shown = image.swapaxes(0, 1) if self.is_lying else image
        shown = shown[::-1] if self.flips_rows else shown
        return np.ascontiguousarray(shown[:, ::-1] if self.flips_columns else shown)


def _levels(frame: Any, *, like: Any) -> npt.NDArray[np.uint8]:
    """`(H, W, 3)` of a decoded frame in the size of the first."""
    if (frame.width, frame.height) != (like.width, like.height):
        frame = frame.reformat(width=like.width, height=like.height)
    levels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return levels


def _stamp(file: BinaryIO) -> str:
    status = os.fstat(file.fileno())
    return f"{status.st_size} {status.st_mtime_ns}"


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
