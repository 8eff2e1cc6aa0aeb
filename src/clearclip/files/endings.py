"""Whether a video file ends as its container says it should, and how long an index it claims, without decoding it.

Every walk over a container's own structure has a bound.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

MAX_STEPS = 2_000_000
BLOCK = 1 << 16
UNWRITTEN = "its length was never written, as where a recording breaks off"
SEGMENT, CLUSTER = b"\x18S\x80g", b"\x1fC\xb6u"
TOP = {CLUSTER, b"\x11M\x9bt", b"\x15I\xa9f", b"\x16T\xaek", b"\x1cS\xbbk", b"\x19A\xa4i", b"\x10C\xa7p", b"\x12T\xc3g"}
VOID = b"\xec"
PARTITION = bytes.fromhex("060e2b34020501010d01020101")
NUT_INDEX = bytes.fromhex("4e58dd672f23e64e")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")


class _CutError(Exception):
    """The file ends within a part; its text is the clause that says so."""


class _Places:
    """A file read at places, a bounded number of times."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._steps = 0
        self.size = os.fstat(file.fileno()).st_size

    def at(self, place: int, count: int) -> bytes:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _CutError(f"it has more parts than {MAX_STEPS:,}: whether it is complete cannot be said")
        self._file.seek(place)
        return self._file.read(count)

    def need(self, place: int, count: int) -> bytes:
        data = self.at(place, count) if 0 <= place < self.size else b""
        if len(data) < count:
            raise _CutError("its last part is cut")
        return data

    def lacks(self, end: int) -> str | None:
        return f"the last {end - self.size:,} bytes of the file are missing" if end > self.size else None


def what_is_missing(file: BinaryIO, kind: str) -> str | None:
    """What a file lacks at its end by its own container's word, as a clause; `None`: nothing, or it cannot be said.

    `kind` is FFmpeg's name of the format. The file is left where it is.
    """
    before = file.tell()
    try:
        return ENDINGS[kind](_Places(file)) if kind in ENDINGS else None
    except _CutError as error:
        return str(error)
    finally:
        file.seek(before)


def claimed_samples(file: BinaryIO) -> int:
    """How many samples an MP4's tables claim without a byte of table for each; 0 for other files.

    FFmpeg lists them in memory, 70 bytes each, before it decodes one; plain sound is neither listed nor counted.
    """
    places = _Places(file)
    total = listed = 0
    is_sound = is_even = False
    try:
        for kind, at, _ in _boxes(places, nested=NESTED):
            if kind == b"trak":
                total, listed, is_sound, is_even = total + listed, 0, False, False
            elif kind == b"hdlr":
                is_sound = is_sound or places.at(at + 16, 4) == b"soun"
            elif kind == b"stts":
                entries, _, duration = _numbers(places.at(at + 12, 12))
                is_even = entries == duration == 1
            elif kind == b"stsz":
                size, count, _ = _numbers(places.at(at + 12, 8))
                listed += count if size else 0
            elif kind == b"trun":
                flags, count, _ = _numbers(places.at(at + 8, 8))
                total += 0 if flags & 0xF00 else count
            if is_sound and is_even:
                listed = 0
    except _CutError:
        return 2**63
    finally:
        file.seek(0)
    return total + listed


def _numbers(data: bytes) -> tuple[int, int, int]:
    first, second, third = struct.unpack(">III", data.ljust(12, b"\0"))
    return first, second, third


def _boxes(file: _Places, *, nested: tuple[bytes, ...] = ()) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and end of each of an MP4's boxes (ISO 14496-12), and of those within the named ones."""
    at = 0
    while at + 8 <= file.size:
        head = file.at(at, 16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or not kind.isalnum():  # 0: up to the end
            return
        yield kind, at, at + length
        at += 8 if kind in nested else length
    if 0 < file.size - at < 8 and any(file.at(at, 8)):
        raise _CutError("its last part is cut")


def _mp4(file: _Places) -> str | None:
    return file.lacks(max((end for _, _, end in _boxes(file)), default=0))


def _riff(file: _Places) -> str | None:
    """AVI, WebP: https://learn.microsoft.com/windows/win32/directshow/avi-riff-file-reference."""
    at = 0
    while at < file.size and file.at(at, 4) == b"RIFF":
        length = int.from_bytes(file.need(at + 4, 4), "little")
        if length in (0, 0xFFFFFFFF):
            return UNWRITTEN
        at += 8 + length
    return file.lacks(at)


def _element(file: _Places, at: int) -> tuple[bytes, int, int | None]:
    """Name, content and end of an EBML element (RFC 8794); an end of `None` is not known, as in a live stream."""
    head = file.need(at, 1)
    width = 9 - head[0].bit_length()  # of the name
    if width > 4:
        raise _CutError(f"its structure breaks off at byte {at:,}")
    name, digits = file.need(at, width), 9 - file.need(at + width, 1)[0].bit_length()
    start = at + width + digits
    if digits > 8:
        raise _CutError(f"its structure breaks off at byte {at:,}")
    length = int.from_bytes(file.need(at + width, digits), "big") & ((1 << 7 * digits) - 1)
    return name, start, None if length == (1 << 7 * digits) - 1 else start + length


def _matroska(file: _Places) -> str | None:
    at = 0
    while at < file.size:
        name, start, end = _element(file, at)
        if name == SEGMENT:
            return _segment(file, start, end)
        if end is None:
            return None
        at = end
    return file.lacks(at)


def _segment(file: _Places, at: int, end: int | None) -> str | None:
    if end is None and file.at(at, 1) == VOID:  # room for the table of contents that comes last
        return UNWRITTEN
    in_cluster = False
    while at < min(end or file.size, file.size):
        name, start, stop = _element(file, at)
        in_cluster = stop is None if name in TOP else in_cluster
        if stop is None and name != CLUSTER:
            raise _CutError(f"its structure breaks off at byte {at:,}")
        at = start if stop is None else stop
    return file.lacks(max(at, end or 0))


def _gif(file: _Places) -> str | None:
    def colors(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + colors(file.need(10, 1)[0])
    while (kind := file.need(at, 1)) != b";":
        if kind not in b"!,":
            return f"its structure breaks off at byte {at:,}"
        at += 2 if kind == b"!" else 11 + colors(file.need(at + 9, 1)[0])
        while length := file.need(at, 1)[0]:
            at += 1 + length
        at += 1
    return None


def _png(file: _Places) -> str | None:
    at = 0
    while file.at(at, 4) == b"\x89PNG":  # pictures one after the other are a film too
        at, kind = at + 8, b""
        while kind != b"IEND":
            head = file.need(at, 8)
            at, kind = at + 12 + int.from_bytes(head[:4], "big"), head[4:]
    return file.lacks(at)


def _jpegs(file: _Places) -> str | None:
    tail = file.at(max(0, file.size - BLOCK), BLOCK).rstrip(b"\0")
    return None if tail.endswith(b"\xff\xd9") else "its last picture is cut"


def _jpeg(file: _Places) -> str | None:
    """One picture; a telephone may append anything to it."""
    at = 2
    while (head := file.need(at, 4))[1] != 0xDA:
        at += 2 + int.from_bytes(head[2:], "big")
    while at < file.size:
        if b"\xff\xd9" in file.at(at, BLOCK):
            return None
        at += BLOCK - 1
    return "its picture is cut"


def _mxf(file: _Places) -> str | None:
    """SMPTE 377: the first partition says where the footer is, or a table at the end does."""
    first = max(0, file.at(0, BLOCK).find(PARTITION))
    content, _ = _klv(file, first)
    footer = int.from_bytes(file.need(content + 24, 8), "big")
    at = first + footer if footer else file.size - int.from_bytes(file.need(file.size - 4, 4), "big")
    key = file.at(at, 14) if 0 <= at < file.size else b""
    if not key.startswith(PARTITION + b"\x04" if footer else PARTITION[:4]):
        return "its footer is missing"
    while at < file.size:
        _, at = _klv(file, at)
    return file.lacks(at)


def _klv(file: _Places, at: int) -> tuple[int, int]:
    """Where a part's content is, and where it ends."""
    length = file.need(at + 16, 1)[0]
    digits = length & 0x7F if length & 0x80 else 0
    start = at + 17 + digits
    return start, start + (int.from_bytes(file.need(at + 17, digits), "big") if digits else length)


def _flv(file: _Places) -> str | None:
    """The last tag is followed by its length; the first may say how long the file is (0: a live stream)."""
    head = file.at(0, BLOCK)
    stated = head.find(b"filesize\0")
    if stated >= 0 and len(head) >= stated + 17:
        (length,) = struct.unpack(">d", head[stated + 9 : stated + 17])
        if file.size < length < 2**53:
            return file.lacks(int(length))
    length = int.from_bytes(file.need(file.size - 4, 4), "big")
    tag = file.need(file.size - 4 - length, 4)
    return None if int.from_bytes(tag[1:], "big") + 11 == length else "its last part is cut"


def _ivf(file: _Places) -> str | None:
    at = int.from_bytes(file.need(6, 2), "little")
    while at < file.size:
        at += 12 + int.from_bytes(file.need(at, 4), "little")
    return file.lacks(at)


def _nut(file: _Places) -> str | None:
    length = int.from_bytes(file.need(file.size - 12, 8), "big")
    is_index = length < file.size and file.need(file.size - length, 8) == NUT_INDEX
    return None if is_index else "the index at its end is missing"


def _ogg(file: _Places) -> str | None:
    """RFC 3533: the last page says that it is the last."""
    start = max(0, file.size - 2 * BLOCK)
    tail = file.at(start, 2 * BLOCK)
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return "its last page is cut"
    segments = tail[page + 26]
    lacks = file.lacks(start + page + 27 + segments + sum(tail[page + 27 : page + 27 + segments]))
    return lacks or (None if tail[page + 5] & 4 else "its last page is not marked as the last")


def _asf(file: _Places) -> str | None:
    found = file.at(0, BLOCK).find(ASF_FILE)
    if found >= 0:
        length = int.from_bytes(file.need(found + 40, 8), "little")
        if not file.need(found + 88, 1)[0] & 1:  # no broadcast
            return file.lacks(length) if length else UNWRITTEN
    return None


def _mpegts(file: _Places) -> str | None:
    head = file.at(0, 5 * 204)
    for length, sync in ((188, 0), (192, 4), (204, 0)):
        if len(marks := head[sync : file.size // length * length : length]) > 1 and set(marks) == {0x47}:
            return "its last packet is cut" if file.size % length else None
    return None


def _mpeg(file: _Places) -> str | None:
    """A program stream (ISO 13818-1): its last pack, of packets that say their lengths."""
    start = max(0, file.size - 2 * BLOCK)
    at = start + max(0, file.at(start, 2 * BLOCK).rfind(b"\0\0\1\xba"))
    while at < file.size:
        head = file.at(at, 14)
        if not b"\0\0\1".startswith(head[:3]) or not any(head):
            return None  # padding
        kind, length = head[3:4], 6 + int.from_bytes(head[4:6], "big")
        if kind == b"\xba":
            length = 14 + (head[13] & 7) if len(head) == 14 and head[4] >> 6 == 1 else 12
        at += 4 if kind == b"\xb9" else max(length, 7)
    return "its last packet is cut" if at > file.size else None


def _swf(file: _Places) -> str | None:
    head = file.need(0, 8)
    return file.lacks(int.from_bytes(head[4:], "little")) if head[:3] == b"FWS" else None


ENDINGS: dict[str, Callable[[_Places], str | None]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4, "matroska,webm": _matroska, "avi": _riff, "webp_pipe": _riff, "gif": _gif,
    "apng": _png, "png_pipe": _png, "mjpeg": _jpegs, "jpeg_pipe": _jpeg, "mxf": _mxf, "flv": _flv, "live_flv": _flv,
    "ivf": _ivf, "nut": _nut, "ogg": _ogg, "asf": _asf, "mpegts": _mpegts, "mpeg": _mpeg, "swf": _swf,
}  # fmt: skip
