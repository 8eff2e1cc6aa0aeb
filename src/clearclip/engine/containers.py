"""The images in tars and Parquet files, one after the other, in bounded memory whatever the file says of itself."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from clearclip.engine.sources import Source, _first_line, kind_by_name, open_source, stem_of, summary
from clearclip.errors import ImageError
from clearclip.files.kinds import HEAD, IMAGE_SUFFIXES, kept_by_systems, kind_of
from clearclip.files.names import safe_stem
from clearclip.files.optional import require
from clearclip.files.reading import Metered

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "content", "data")
MAX_MEMBER = 1 << 27
"""Bytes of one image's file in a container; a run holds about 16 of them at once."""
MAX_HEADERS = 1 << 20
"""Bytes of what a tar says of one member: extended headers may claim any size."""
MAX_FOOTER = 1 << 24
SHOWN_COLUMNS = 10
MAX_PAGE = 1 << 29
"""Bytes of a page of a Parquet column, unpacked: writers put up to 1,024 rows into one."""
MAX_PAGES = 100_000
MAX_PAGE_HEAD = 1 << 16
BYTES_PER_VALUE = 16
"""What pyarrow takes for each value that a dictionary says it has."""


@dataclass(frozen=True)
class Member:
    """One image in a container, `CONTAINER#KEY`: its files' stem, and its bytes or why there are none."""

    source: str
    stem: str
    data: bytes = b""
    reason: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of the container, since the last image that told any, that are none, as `Scan.left_out`."""


def read_members(container: Source, stem: str | None = None) -> Iterator[Member]:
    """The images in a tar or Parquet file (a column of encoded images), in its order.

    Their stems begin with the container's, by default that of its file.

    Where files of a tar share what precedes the first dot, WebDataset's key, `KEY.jpg` is taken and no `KEY.seg.png`;
    without the former all are. So one key's images are in memory at a time, of at most `MAX_MEMBER` bytes and one more.
    An image that cannot be used is a member with the reason; a container that is damaged gives the images before the
    damage, then one member with the reason.
    """
    name, stem = str(container), stem or stem_of(container)
    tar = name.partition("?")[0].lower().endswith(".tar")
    try:
        with open_source(container) as file:
            yield from _tar_members(name, file, stem) if tar else _parquet_members(name, file, stem)
    except FileNotFoundError:
        yield Member(name, stem, reason=f"{name}: there is no such file")
    except Exception as error:  # libraries fail in many ways over a damaged file, and none may stop a run
        kind = "tar" if tar else "Parquet file"
        yield Member(name, stem, reason=f"{name}: the {kind} cannot be read ({_first_line(error)})")


class _Entry(tarfile.TarInfo):
    """A tar's member; `tarfile` silently takes a damaged or missing header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the types do not know it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or cut, {error}") from error


@dataclass(frozen=True)
class _Image:
    """A member of a tar, its WebDataset key, and what its name has after that."""

    key: str
    suffixes: str
    member: Member


def _tar_members(name: str, file: BinaryIO, stem: str) -> Iterator[Member]:
    left_out: Counter[str] = Counter()
    held: list[_Image] = []
    images = _tar_images(name, file, stem, left_out)
    try:
        for image in images:
            if held and (image.key != held[0].key or sum(len(one.member.data) for one in held) > MAX_MEMBER):
                yield from _of_one_key(held, left_out)
                held = []
            held.append(image)
    except Exception:
        yield from _of_one_key(held, left_out)
        raise
    if not held:
        raise ImageError(f"no images are in it{': ' + summary(left_out) if left_out else ''}")
    yield from _of_one_key(held, left_out)


def _of_one_key(images: Sequence[_Image], left_out: Counter[str]) -> Iterator[Member]:
    """The plain ones, or all; the last tells what was left out until now."""
    chosen = [image.member for image in images if image.suffixes.count(".") == 1]
    if chosen:
        left_out.update(image.suffixes for image in images if image.suffixes.count(".") > 1)
    chosen = chosen or [image.member for image in images]
    yield from chosen[:-1]
    for member in chosen[-1:]:
        told = dict(left_out)
        left_out.clear()
        yield replace(member, left_out=told)


def _tar_images(name: str, file: BinaryIO, container: str, left_out: Counter[str]) -> Iterator[_Image]:
    seen: set[str] = set()
    with Metered(file, max_bytes=MAX_HEADERS) as metered, _open_tar(file, metered) as archive:
        for entry in archive:
            metered.allow(entry.size + MAX_HEADERS)  # what is left of it, and what precedes the next
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            folder, _, last = entry.name.rpartition("/")
            base, suffix = PurePosixPath(last).stem, PurePosixPath(last).suffix.lower()
            if entry.isdir():
                continue
            if copies := kept_by_systems(filter(None, folder.split("/"))):
                left_out[f"{copies}/"] += 1
                continue
            if last.startswith(".") or suffix not in IMAGE_SUFFIXES:
                left_out[kind_by_name(last)] += 1
                continue
            stem = _stem_in(container, f"{folder}/{base}" if folder else base)
            source = f"{name}#{entry.name}"
            reason, data, is_cut = None, b"", False
            if stem in seen:
                reason = f"{source}: another image of this tar would also become {stem}"
            elif not entry.isfile() or entry.issparse():
                reason = f"{source} is a link, a sparse file or a device, not a regular file"
            elif entry.size > MAX_MEMBER:
                reason = _too_large(source, entry.size)
            else:
                content = archive.extractfile(entry)
                data = b"" if content is None else content.read()
                if is_cut := len(data) < entry.size:
                    reason, data = f"{source}: the tar ends within it", b""
            seen.add(stem)
            first, dot, suffixes = last.partition(".")
            yield _Image(f"{folder}/{first}", dot + suffixes.lower(), Member(source, stem, data, reason))
            if is_cut:
                return


def _open_tar(file: BinaryIO, metered: Metered) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=metered, mode="r|", tarinfo=_Entry)
    except tarfile.ReadError as error:
        file.seek(0)
        if kind := kind_of(file.read(HEAD)):
            raise ImageError(f"it is {kind}") from error
        raise


def _stem_in(container: str, key: str) -> str:
    *folders, name = container.split("/")
    return "/".join([*folders, safe_stem(f"{name}-{key}")])


def _too_large(source: str, size: int) -> str:
    return f"{source} has {size:,} bytes, more than the limit of {MAX_MEMBER:,}: put it beside the container as a file"


def _parquet_members(name: str, file: BinaryIO, container: str) -> Iterator[Member]:
    parquet = require("pyarrow.parquet", extra="ray", purpose="reading Parquet")
    _check_footer(file)
    table = parquet.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False)
    if not table.metadata.num_rows:
        raise ImageError("it has no rows")
    path = _image_path(table.schema_arrow)
    column = ".".join(path)
    leaf = _only_leaf(table.schema, column, count=table.metadata.num_columns)
    row = 0
    for group in range(table.num_row_groups):
        _check_pages(file, table.metadata.row_group(group).column(leaf))
        # One row at a time: a dictionary may hold one large value that stands in each of them.
        for batch in table.iter_batches(batch_size=1, row_groups=[group], columns=[column], use_threads=False):
            values = batch.column(0)
            data = (values if len(path) == 1 else values.flatten()[0])[0]
            source, stem = f"{name}#{row}", f"{container}-{row:08d}"
            row += 1
            if not data.is_valid:
                yield Member(source, stem, reason=f"{source}: the row has no image")
            elif (size := data.as_buffer().size) > MAX_MEMBER:
                yield Member(source, stem, reason=_too_large(source, size))
            else:
                yield Member(source, stem, data.as_py())


def _image_path(schema: Any) -> tuple[str, ...]:
    """Path of the column of encoded images: one with a usual name, else the only binary one."""
    from pyarrow import types

    def is_binary(field: Any) -> bool:
        return bool(types.is_binary(field.type) or types.is_large_binary(field.type))

    fitting: dict[str, tuple[str, ...]] = {field.name: (field.name,) for field in schema if is_binary(field)}
    for one in schema:
        if types.is_struct(one.type) and any(part.name == "bytes" and is_binary(part) for part in one.type):
            fitting[one.name] = (one.name, "bytes")
    named = [column for column in IMAGE_COLUMNS if column in fitting]
    other = [field.name for field in schema if field.name in IMAGE_COLUMNS and field.name not in fitting]
    if other and not named:
        raise ImageError(f"its column {other[0]!r} holds no bytes (addresses of images are not fetched): give images")
    if named or len(fitting) == 1:
        return fitting[(named or list(fitting))[0]]
    shown = ", ".join(list(fitting)[:SHOWN_COLUMNS]) + (", …" if len(fitting) > SHOWN_COLUMNS else "")
    raise ImageError(f"its columns of bytes are {shown or 'none'}: one named {', '.join(IMAGE_COLUMNS)} is needed")


def _only_leaf(schema: Any, column: str, *, count: int) -> int:
    """Index of the column's pages; pyarrow reads every column whose path begins with this one's."""
    paths = [schema.column(index).path for index in range(count)]
    found = [index for index, path in enumerate(paths) if f"{path}.".startswith(f"{column}.")]
    if len(found) != 1:
        raise ImageError(f"several of its columns are called {column}: rename all but one")
    return found[0]


def _check_footer(file: BinaryIO) -> None:
    """Limit the footer: the description of a million columns takes gigabytes in memory."""
    file.seek(-8, os.SEEK_END)
    size = int.from_bytes(file.read(4), "little")
    if size > MAX_FOOTER:
        raise ImageError(f"its footer has {size:,} bytes, more than the limit of {MAX_FOOTER:,}: write fewer columns")


def _check_pages(file: BinaryIO, column: Any) -> None:
    """Limit what pyarrow will allocate: each page's header says it, while the footer's sizes may be wrong."""
    place = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    end, pages = place + column.total_compressed_size, 0
    while place < end:
        file.seek(place)
        head = io.BytesIO(file.read(MAX_PAGE_HEAD))
        try:
            fields = _thrift_struct(head)
            unpacked, packed, values = fields[2], fields[3], fields.get(7, {}).get(1, 0)  # 7: of a dictionary
        except (IndexError, KeyError) as error:
            raise ImageError("its pages are damaged") from error
        size, pages = max(unpacked, BYTES_PER_VALUE * values), pages + 1
        if packed < 0 or size > MAX_PAGE or pages > MAX_PAGES:
            raise ImageError(
                f"page {pages:,} of a row group takes {size:,} bytes: {MAX_PAGES:,} pages of {MAX_PAGE:,} bytes are "
                "allowed; write it again with other row groups"
            )
        place += head.tell() + packed


def _thrift_struct(file: BinaryIO) -> dict[int, Any]:
    """The values of a struct in Thrift's compact protocol, by the number of their field.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """
    fields: dict[int, Any] = {}
    number = 0
    while head := file.read(1)[0]:
        number = number + (head >> 4) if head >> 4 else _thrift_integer(file)
        if number in fields:
            raise KeyError(number)
        fields[number] = _thrift_value(file, head & 15)
    return fields


def _thrift_value(file: BinaryIO, kind: int) -> Any:
    if kind in (1, 2):
        return kind == 1
    if kind in (4, 5, 6):
        return _thrift_integer(file)
    if kind == 12:
        return _thrift_struct(file)
    if kind == 8:
        return file.read(_thrift_length(file))
    return file.read({3: 1, 7: 8}[kind])  # no page's head has a list


def _thrift_integer(file: BinaryIO) -> int:
    value = _thrift_length(file)
    return value >> 1 ^ -(value & 1)


def _thrift_length(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
