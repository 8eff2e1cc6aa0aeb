"""Pixels of image files and what stands beside them: damage of the one shall neither hide nor pass for the other."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"IDAT")
SHOWN = (b"IEND", b"tRNS", b"eXIf")
SCAN = 0xDA
EXTRAS = frozenset((*range(0xE2, 0xEE), 0xEF, 0xFE))
"""APP2 to APP13, APP15 and comments of a JPEG; the others say how its pixels are to be shown."""
PIECE = 1 << 20


def png_damage(file: BinaryIO) -> str | None:
    r"""Which of the checksums of a PNG's pixels is wrong, as a clause: decoders take a damaged end for pixels.

    >>> png_damage(io.BytesIO(PNG + b"\0\0\0\1IDATx\0\0\0\0"))
    'its pixels are damaged or cut: the checksum of its part IDAT at byte 8 is wrong'
    """
    for kind, start, _, is_whole in _chunks(file):
        if kind in PIXELS and not is_whole:
            return f"its pixels are damaged or cut: the checksum of its part {kind.decode()} at byte {start:,} is wrong"
    return None


def without_extras(data: bytes) -> bytes | None:
    """A PNG, JPEG or AVIF of the same pixels without texts, profiles and previews; `None` for any other file.

    The EXIF of a PNG stays if its checksum is right, a JPEG's always, an AVIF's never.
    """
    if data.startswith(PNG):
        chunks = _chunks(io.BytesIO(data))
        return PNG + b"".join(
            data[start:end] for kind, start, end, is_whole in chunks if kind in PIXELS or (kind in SHOWN and is_whole)
        )
    if data.startswith(b"\xff\xd8\xff"):
        return b"".join(_shown_segments(data))
    if data.startswith(b"ftypavi", 4):
        return re.sub(rb"(infe.{8})(?:Exif|mime)", rb"\1skip", data, flags=re.DOTALL)  # a kind that nobody reads
    return None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int, bool]]:
    """Kind, start and end of each of a PNG's chunks, and whether its checksum is right."""
    start = file.seek(len(PNG))
    while len(head := file.read(8)) == 8 and head[4:].isalpha():
        length, kind = struct.unpack(">I4s", head)
        checksum, left = zlib.crc32(kind), length
        while left and (piece := file.read(min(left, PIECE))):
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        yield kind, start, start + 12 + length, file.read(4) == checksum.to_bytes(4, "big")
        start += 12 + length


def _shown_segments(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    start = 2
    while (head := data[start : start + 4])[:1] == b"\xff" and len(head) == 4 and head[1] != SCAN:
        end = start + (1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:], "big"))
        if head[1] not in EXTRAS:
            yield data[start:end]
        start = end
    yield data[start:]
