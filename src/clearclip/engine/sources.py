"""What a source names: files, folders, globs, addresses (s3://, gs://, …), and the images in tars and Parquet files.

Belongs here: finding images and reading their bytes. Does not: decoding them (`images`), which of them are to be
segmented (`batch`).
"""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from clearclip.engine.ledger import results_below
from clearclip.errors import ImageError, UsageError
from clearclip.formats import require, safe_stem
from clearclip.images import IMAGE_SUFFIXES
from clearclip.outputs import read_comment, read_info

PREVIEW_SUFFIX = ".overlay.jpg"
CONTAINER_SUFFIXES = (".tar", ".parquet")
IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "content", "data")
ARROW_SCHEMES = ("s3", "gs", "gcs")
MAX_BYTES = 1 << 30

Source = Path | str
"""A local path, or an address as text."""


@dataclass(frozen=True)
class Member:
    """One image in a container.

    Attributes:
        source: `CONTAINER#KEY`.
        stem: Name for its files, the same whatever else is in the run.
        data: The file's bytes; empty where `reason` says why.
        reason: Why there are none.
    """

    source: str
    stem: str
    data: bytes = b""
    reason: str | None = None


def is_address(source: Source) -> bool:
    """Whether a source is reached through fsspec: `scheme://…`."""
    return isinstance(source, str) and "://" in source


def is_container(source: Source) -> bool:
    """Whether a file holds many images: a WebDataset tar or a Parquet file."""
    return str(source).partition("?")[0].lower().endswith(CONTAINER_SUFFIXES)


def find_sources(sources: Sequence[str]) -> list[Source]:
    """Files that paths, folders, globs and addresses name, each once, in order.

    Args:
        sources: A file is taken whatever its suffix; a folder gives the images, tars and Parquet files in it and in
            its subfolders, but for earlier results. `s3://`, `gs://` and whatever fsspec knows are listed there.

    Returns:
        Paths, and addresses as text; a file that does not exist and a folder that cannot be listed are among them, so
        that a run can name them as failed.

    Raises:
        UsageError: There is no image; an address cannot be reached.
    """
    found: dict[Source, Source] = {}
    for source in sources:
        if is_address(source):
            found.update((address, address) for address in _list_address(source))
        else:
            for match in _list_local(source):
                found.setdefault(resolved(match), match)
    if not found:
        raise UsageError(f"no images in {', '.join(map(str, sources))}: name files, folders or globs that hold some")
    return list(found.values())


def _list_local(source: str) -> list[Path]:
    path = Path(source)
    if exists(path) and path.is_dir():
        return sorted(_pictures_below(path))
    if not exists(path) and glob.has_magic(source):
        expanded = glob.glob(source, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        matches = sorted(match for match in map(Path, expanded) if match.is_file())
        if not matches:
            raise UsageError(f"{source} matches no images: name files, folders or globs that hold some")
        return matches
    return [path]


def _pictures_below(top: Path) -> Iterator[Path]:
    """Images, containers, and folders that cannot be listed; no results, as their ledger or they themselves say."""
    unlisted: list[OSError] = []
    results: set[Path] = set()
    for name, _, files in os.walk(top, onerror=unlisted.append):
        folder = Path(name)
        results |= results_below(folder) or set()
        for file in map(folder.joinpath, files):
            if _has_picture_name(file.name) and file not in results and file.is_file() and not _is_result(file):
                yield file
    yield from (Path(error.filename) for error in unlisted)


def _is_result(file: Path) -> bool:
    if file.name.endswith(PREVIEW_SUFFIX):
        return read_comment(file).get("software", "").startswith("clearclip")
    return file.suffix == ".png" and read_info(file).get("software", "").startswith("clearclip")


def _has_picture_name(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return not name.startswith(".") and (suffix in IMAGE_SUFFIXES or suffix in CONTAINER_SUFFIXES)


def _list_address(source: str) -> list[str]:
    files, path = _open_files(source)
    try:
        if glob.has_magic(path):
            matches = [match for match in sorted(files.glob(path)) if files.isfile(match)]
        elif files.isdir(path):
            matches = [match for match in sorted(files.find(path)) if _has_picture_name(PurePosixPath(match).name)]
        else:
            return [source]
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} cannot be listed ({_first_line(error)}): check address and credentials") from error
    if not matches:
        raise UsageError(f"{source} holds no images: name files, folders or globs that hold some")
    return [_address_of(source, files, match) for match in matches]


def _address_of(source: str, files: Any, path: str) -> str:
    scheme, _, rest = source.partition("://")
    if scheme in ARROW_SCHEMES:
        _, mark, query = rest.partition("?")
        return f"{scheme}://{path}{mark}{query}"
    return str(files.unstrip_protocol(path))


def _open_files(address: str) -> tuple[Any, str]:
    """The file system of an address and the path in it."""
    scheme, _, rest = address.partition("://")
    try:
        if scheme in ARROW_SCHEMES:
            path, mark, query = rest.partition("?")
            return _arrow_files(f"{scheme}://{path.partition('/')[0]}{mark}{query}"), path.rstrip("/")
        from fsspec.core import url_to_fs

        files, path = url_to_fs(address)
    except (ImportError, OSError, ValueError) as error:
        raise UsageError(
            f"{address} cannot be reached ({_first_line(error)}): s3:// and gs:// need pip install 'clearclip[ray]', "
            "other addresses fsspec's package for them"
        ) from error
    return files, str(path)


@cache
def _arrow_files(bucket: str) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    return ArrowFSWrapper(FileSystem.from_uri(bucket)[0])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_source(source: Source) -> BinaryIO:
    """Open a file, wherever it is.

    Args:
        source: A path or an address.

    Returns:
        A file open for reading; the caller closes it.

    Raises:
        OSError: It cannot be opened.
        UsageError: The address cannot be reached.
    """
    if not is_address(source):
        return Path(source).open("rb")
    files, path = _open_files(str(source))
    return cast(BinaryIO, files.open(path, "rb"))


def read_bytes(address: str) -> bytes:
    """All bytes of a file at an address.

    Args:
        address: As `open_source`.

    Returns:
        Them.

    Raises:
        ImageError: It cannot be read, is empty, or is larger than any image.
    """
    try:
        with open_source(address) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{address}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{address} cannot be read ({_first_line(error)})") from error
    if len(data) > MAX_BYTES:
        raise ImageError(f"{address} has more than {MAX_BYTES:,} bytes")
    return data


def digest(source: Source | bytes) -> str:
    """What tells one image from another: the first half of the SHA-256 of its file, 32 hexadecimal digits.

    Args:
        source: A path, or the bytes.

    Returns:
        The digits; `"none"` for a file that cannot be read.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()[:32]
    hashed = hashlib.sha256()
    try:
        with Path(source).open("rb") as file:
            while chunk := file.read(1 << 20):
                hashed.update(chunk)
    except (OSError, ValueError):
        return "none"
    return hashed.hexdigest()[:32]


def stamp(source: Source) -> str:
    """What changes when a local file does, without reading it; an object at an address is taken not to change.

    Args:
        source: A path or an address.

    Returns:
        Size and time of the last change, or nothing.
    """
    if is_address(source):
        return "address"
    try:
        status = Path(source).stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def identity(source: Source) -> str:
    """Which file a source is, however and from wherever it is named: its real path, or its address."""
    return source if isinstance(source, str) and is_address(source) else str(resolved(Path(source)))


def stem_of(source: Source) -> str:
    """The name that an image's files get: its own without the suffix.

    Args:
        source: A path or an address.

    Returns:
        A safe file name.
    """
    name = str(source).partition("?")[0] if is_address(source) else str(source)
    return safe_stem(PurePosixPath(name).stem if is_address(source) else Path(name).stem)


def exists(path: Path) -> bool:
    """As `Path.exists`; a name too long for a file is none."""
    try:
        return path.exists()
    except OSError:
        return False


def resolved(path: Path) -> Path:
    """As `Path.resolve`; a loop of links stays what it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


def read_members(container: Source) -> Iterator[Member]:
    """The images in a tar or Parquet file, in its order, one in memory at a time.

    A container that is damaged further on gives what precedes the damage, then one member with the reason.

    Args:
        container: A path or an address. A tar in WebDataset's form has one image per key; a Parquet file has a column
            of encoded images, bytes or Hugging Face's `{"bytes", "path"}`.

    Yields:
        The images; those that cannot be used carry a reason.
    """
    name = str(container)
    tar = name.partition("?")[0].lower().endswith(".tar")
    try:
        with open_source(container) as file:
            yield from _tar_members(name, file) if tar else _parquet_members(name, file)
    except FileNotFoundError:
        yield Member(name, stem_of(container), reason=f"{name}: there is no such file")
    except (OSError, ValueError, tarfile.TarError, ImageError, UsageError) as error:
        kind = "tar" if tar else "Parquet file"
        yield Member(name, stem_of(container), reason=f"{name}: the {kind} cannot be read ({_first_line(error)})")


def _tar_members(name: str, file: BinaryIO) -> Iterator[Member]:
    seen: set[str] = set()
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            folder, _, last = entry.name.rpartition("/")
            base, _, suffix = last.partition(".")
            if not entry.isfile() or not base or f".{suffix.lower()}" not in IMAGE_SUFFIXES:
                continue
            stem = safe_stem(f"{stem_of(name)}-{folder}/{base}" if folder else f"{stem_of(name)}-{base}")
            source = f"{name}#{entry.name}"
            if stem in seen:
                yield Member(source, stem, reason=f"{source}: another image of this tar would also become {stem}")
                continue
            seen.add(stem)
            if entry.size > MAX_BYTES:
                yield Member(source, stem, reason=f"{source} has {entry.size:,} bytes, more than {MAX_BYTES:,}")
                continue
            content = archive.extractfile(entry)
            data = b"" if content is None else content.read()
            if len(data) < entry.size:
                yield Member(source, stem, reason=f"{source}: the tar ends within it")
                return
            yield Member(source, stem, data)


def _parquet_members(name: str, file: BinaryIO) -> Iterator[Member]:
    parquet = require("pyarrow.parquet", extra="ray", purpose="reading Parquet")
    arrow = require("pyarrow", extra="ray", purpose="reading Parquet")
    try:
        table = parquet.ParquetFile(file)
        column = _image_column(table.schema_arrow)
        for row, value in enumerate(
            value for batch in table.iter_batches(batch_size=16, columns=[column]) for value in batch.column(0)
        ):
            data = value.as_py()
            data = data.get("bytes") if isinstance(data, dict) else data
            source, stem = f"{name}#{row}", f"{stem_of(name)}-{row:08d}"
            if data is None:
                yield Member(source, stem, reason=f"{source}: the row has no image")
            else:
                yield Member(source, stem, data)
    except arrow.ArrowException as error:
        raise ImageError(_first_line(error)) from error


def _image_column(schema: Any) -> str:
    """The column of encoded images: one of the usual names, else the only binary one."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_bytes(field.type)]
    named = [column for column in IMAGE_COLUMNS if column in fitting]
    if named or len(fitting) == 1:
        return (named or fitting)[0]
    raise ImageError(
        f"its columns of bytes are {', '.join(fitting) or 'none'}: one named {', '.join(IMAGE_COLUMNS)} is needed"
    )
