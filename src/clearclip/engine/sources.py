"""What a source names: files, folders, globs, addresses (s3://, gs://, …), and the bytes of an image there."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from clearclip.encode.images import MAX_BYTES
from clearclip.engine.ledger import LEDGER_NAME, results_below
from clearclip.errors import ImageError, UsageError
from clearclip.files.kinds import IMAGE_SUFFIXES, kept_by_systems
from clearclip.files.label_maps import read_comment, read_info
from clearclip.files.names import safe_path, safe_stem
from clearclip.files.reading import open_regular, sha256_of
from clearclip.files.shards import Shard

PREVIEW_SUFFIX = ".overlay.jpg"
CONTAINER_SUFFIXES = (".tar", ".parquet")
ARROW_SCHEMES = ("s3", "gs", "gcs")

LISTED = 10
"""Most kinds of files that a summary names."""

Source = Path | str
"""A local path, or an address as text."""


@dataclass
class Scan:
    """What sources name, each once, in order, and how many files below them are left out, by suffix or folder.

    `names` has the names, without suffixes, of the results of files in subfolders of what was searched, which are
    mirrored: `cat/001` for `photos/cat/001.jpg`. They are those of `stem_of` for all others.
    """

    found: dict[Source, Source] = field(default_factory=dict)
    """By identity."""
    left_out: Counter[str] = field(default_factory=Counter)
    names: dict[Source, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Scan:
        """Images and containers that somebody else has found; results have the names of their files."""
        return cls(dict(zip(sources, sources, strict=True)))

    @property
    def files(self) -> list[Source]:
        """Images and containers."""
        return list(self.found.values())

    def stem(self, source: Source) -> str:
        """The name of a source's results, without suffix."""
        return self.names.get(source) or stem_of(source)

    def former_stems(self, source: Source) -> set[str]:
        """What an image's results were called where it was named alone, or another folder above it was searched."""
        if is_address(source):
            return set()
        *folders, name = Path(source).absolute().parts[1:]
        tails = [folders[start:] for start in range(len(folders) + 1)]
        stems = {safe_path(*tail, last) for tail in tails for last in (name, Path(name).stem)}
        return stems - {self.stem(source)}

    def first(self, limit: int | None) -> Scan:
        """The first images and containers alone, under the same names."""
        return Scan(dict(islice(self.found.items(), limit)), self.left_out, self.names)

    def part(self, shard: Shard, *, group_size: int) -> Scan:
        """A part in whole groups, each of which goes through the model together in an undivided run, too.

        A container is a group of its own.
        """
        images, groups = 0, dict[Source, int]()
        for source in self.files:
            if not is_container(source):
                groups[source] = images // group_size
                images += 1
        last = -(-images // group_size)
        groups |= {source: last + number for number, source in enumerate(filter(is_container, self.files))}
        wanted = {one for one, source in self.found.items() if groups[source] % shard.count == shard.index - 1}
        return Scan({one: self.found[one] for one in self.found if one in wanted}, self.left_out, self.names)


def is_address(source: Source) -> bool:
    """Whether a source is reached through fsspec: `scheme://…`."""
    return isinstance(source, str) and "://" in source


def is_container(source: Source) -> bool:
    """Whether a file holds many images: a WebDataset tar or a Parquet file."""
    return str(source).partition("?")[0].lower().endswith(CONTAINER_SUFFIXES)


def find_sources(sources: Sequence[str]) -> list[Source]:
    """Files that paths, folders, globs and addresses name, each once, in order; `UsageError` if there is no image.

    As `scan`, without what is left out.
    """
    return scan(sources).files


def scan(sources: Sequence[str]) -> Scan:
    """Find images and containers, and count what else is there; `UsageError` if there is no image.

    A named file is taken whatever its suffix; a folder or address gives the images, tars and Parquet files below it,
    but no earlier results, nothing in hidden folders and those of thumbnails, and no Parquet beside a tar of its name:
    these are the tar's texts. A missing file or an unlistable folder is found, so that a run can list it as failed.
    """
    all_of_them = Scan()
    tops: dict[str, list[Path]] = {}
    for source in sources:
        if is_address(source):
            for address, name in _list_address(source, all_of_them.left_out).items():
                all_of_them.found[address] = address
                all_of_them.names[address] = name
        else:
            top, matches = _list_local(source, all_of_them.left_out)
            for match in matches:
                if all_of_them.found.setdefault(resolved(match), match) is match and top is not None:
                    tops.setdefault(top, []).append(match)
    all_of_them.names |= _mirrored(tops, all_of_them.files)
    if not all_of_them.found:
        there = f" ({summary(left_out)})" if (left_out := all_of_them.left_out) else ""
        raise UsageError(
            f"no images in {', '.join(map(str, sources))}{there}: name files, folders or globs that hold some"
        )
    return all_of_them


def summary(left_out: Mapping[str, int]) -> str:
    """How many files were left out, by suffix or folder.

    >>> summary({".txt": 2, "@eaDir/": 1})
    '3 files were left out: .txt 2, @eaDir/ 1'
    """
    total, kinds = sum(left_out.values()), sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    named = ", ".join(f"{kind} {count:,}" for kind, count in kinds[:LISTED])
    more = f", and {len(kinds) - LISTED} more kinds" if len(kinds) > LISTED else ""
    return f"{total:,} file{' was' if total == 1 else 's were'} left out: {named}{more}"


def kind_by_name(name: str) -> str:
    """What a file that is left out is counted as."""
    return "hidden" if name.startswith(".") else PurePosixPath(name).suffix.lower() or "without suffix"


def _mirrored(tops: Mapping[str, Sequence[Path]], files: Sequence[Source]) -> dict[Source, str]:
    """Names of the results by file, with the folders below the one that was searched.

    Where names in several such folders would be equal, these begin below what all have in common. Images in one folder
    that differ in their suffix alone keep it.
    """
    local = [file for file in files if isinstance(file, Path)]
    images = [file for file in local if not is_container(file)]
    twins = Counter((file.parent, file.stem.casefold()) for file in images)
    last = {file: file.stem for file in local}
    last |= {file: file.name for file in images if twins[file.parent, file.stem.casefold()] > 1}

    def below(file: Path, top: str) -> str:
        return safe_path(*Path(os.path.relpath(file.absolute(), top)).parts[:-1], last[file])

    names: dict[Source, str] = {file: safe_stem(name) for file, name in last.items() if name != file.stem}
    owners: dict[str, set[str]] = {}
    for top, matches in tops.items():
        for file in matches:
            names[file] = below(file, top)
            owners.setdefault(names[file].casefold(), set()).add(top)
    shared = set().union(*(both for both in owners.values() if len(both) > 1))
    for top in shared:
        names |= {file: below(file, os.path.commonpath(tops)) for file in tops[top]}
    return names


def _list_local(source: str, left_out: Counter[str]) -> tuple[str | None, list[Path]]:
    """The folder that was searched, absolute, if any was, and the files."""
    path = Path(source)
    if exists(path) and path.is_dir():
        return str(path.absolute()), sorted(_images_below(path, left_out))
    if not exists(path) and glob.has_magic(source):
        expanded = glob.glob(source, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        matches = []
        for match in sorted(match for match in map(Path, expanded) if match.is_file()):
            if copies := kept_by_systems(part for part in match.parts[:-1] if part not in path.parts):
                left_out[f"{copies}/"] += 1
            else:
                matches.append(match)
        if not matches:
            raise UsageError(f"{source} matches no images: name files, folders or globs that hold some")
        plain = list(takewhile(lambda part: not glob.has_magic(part), path.parts))
        return str(Path(*plain).absolute()), matches
    return None, [path]


def _images_below(top: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Images, containers, and folders that cannot be listed; without results, by their ledger or their own metadata."""
    unlisted: list[OSError] = []
    results: set[Path] = set()
    for name, folders, files in os.walk(top, onerror=unlisted.append):
        folder = Path(name)
        for inner in tuple(folders):
            if (folder / inner).is_symlink():
                left_out[f"{inner}/ (a link)"] += 1
            elif kept_by_systems([inner]):
                folders.remove(inner)
                if count := sum(len(below) for _, _, below in os.walk(folder / inner)):
                    left_out[f"{inner}/"] += count
        listed = results_below(folder)
        results |= listed or set()
        beside = frozenset(files)
        for file in map(folder.joinpath, files):
            if file in results or (listed is not None and file.name.startswith(LEDGER_NAME)):
                continue
            if not (_has_image_name(file.name) and file.is_file()) or _is_metadata(file.name, beside):
                is_lost = file.is_symlink() and not file.exists()
                left_out["links to nothing" if is_lost else kind_by_name(file.name)] += 1
            elif not _is_result(file):
                yield file
    yield from (Path(error.filename) for error in unlisted)


def _is_metadata(name: str, others: Set[str]) -> bool:
    """Whether a Parquet file holds the texts of a tar beside it, as img2dataset writes them."""
    return name.endswith(".parquet") and f"{name.removesuffix('.parquet')}.tar" in others


def _is_result(file: Path) -> bool:
    if file.name.endswith(PREVIEW_SUFFIX):
        return read_comment(file).get("software", "").startswith("clearclip")
    return file.suffix == ".png" and read_info(file).get("software", "").startswith("clearclip")


def _has_image_name(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return not name.startswith(".") and (suffix in IMAGE_SUFFIXES or suffix in CONTAINER_SUFFIXES)


def _list_address(source: str, left_out: Counter[str]) -> dict[str, str]:
    """Addresses, and the names of their results, with the folders below the one that was searched."""
    files, path = _open_files(source)
    top = path
    try:
        if glob.has_magic(path):
            matches = [match for match in sorted(files.glob(path)) if files.isfile(match)]
            top = "/".join(takewhile(lambda part: not glob.has_magic(part), path.split("/")))
        elif files.isdir(path):
            matches = _images_of(sorted(files.find(path)), path, left_out)
        else:
            return {source: stem_of(source)}
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} cannot be listed ({_first_line(error)}): check address and credentials") from error
    if not matches:
        raise UsageError(f"{source} holds no images: name files, folders or globs that hold some")
    return {_address_of(source, files, match): _name_below(match, top) for match in matches}


def _name_below(path: str, top: str) -> str:
    *above, name = path.removeprefix(top).strip("/").split("/")
    return safe_path(*above, PurePosixPath(name).stem)


def _images_of(listed: Sequence[str], top: str, left_out: Counter[str]) -> list[str]:
    all_of_them, found = frozenset(listed), []
    for path in listed:
        *folders, name = path[len(top) :].strip("/").split("/")
        if copies := kept_by_systems(folders):
            left_out[f"{copies}/"] += 1
        elif not _has_image_name(name) or _is_metadata(path, all_of_them):
            left_out[kind_by_name(name)] += 1
        else:
            found.append(path)
    return found


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
            f"{address} cannot be reached ({_first_line(error)}): s3:// and gs:// need python -m pip install pyarrow, "
            "other addresses fsspec's package for them"
        ) from error
    return files, str(path)


@cache
def _arrow_files(bucket: str) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    return ArrowFSWrapper(FileSystem.from_uri(bucket)[0])


def _first_line(error: BaseException) -> str:
    """First line of another library's error message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_source(source: Source) -> BinaryIO:
    """Open a regular file, or what an address names; `OSError` or, for an address, `UsageError` if that fails."""
    if not is_address(source):
        return open_regular(source)
    files, path = _open_files(str(source))
    return cast(BinaryIO, files.open(path, "rb"))


def read_bytes(address: str) -> bytes:
    """All bytes of an image at an address; `ImageError` if there is none, or it has more than `MAX_BYTES`."""
    try:
        with open_source(address) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ImageError(f"{address}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{address} cannot be read ({_first_line(error)})") from error
    if len(data) > MAX_BYTES:
        raise ImageError(f"{address} has more bytes than the limit of {MAX_BYTES:,}")
    return data


def digest(source: Source | bytes) -> str:
    """SHA-256 of an image's file or bytes, its first 32 hexadecimal digits; "none" if the file cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()[:32]
    try:
        with open_regular(source) as file:
            return sha256_of(file)[:32]
    except OSError:
        return "none"


def stamp(source: Source) -> str:
    """Size and modification time, "" if there is no file; an object at an address is taken not to change."""
    if is_address(source):
        return "address"
    try:
        status = Path(source).stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def identity(source: Source) -> str:
    """Which file a source is, however it is named: its real path, or its address."""
    return source if isinstance(source, str) and is_address(source) else str(resolved(Path(source)))


def stem_of(source: Source, *, safe: bool = True) -> str:
    """The safe file name, without suffix, that an image's results get, or its own."""
    name = str(source).partition("?")[0] if is_address(source) else str(source)
    stem = PurePosixPath(name).stem if is_address(source) else Path(name).stem
    return safe_stem(stem) if safe else stem


def exists(path: Path) -> bool:
    """As `Path.exists`, but False for a name too long for a file."""
    try:
        return path.exists()
    except OSError:
        return False


def resolved(path: Path) -> Path:
    """As `Path.resolve`; a loop of links is left as it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()
