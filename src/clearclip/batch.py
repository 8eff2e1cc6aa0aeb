"""Many image files → result files: found, decoded beside the model, written when complete, resumed, failures listed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearclip.errors import ClearclipError, ImageError, UsageError, printable
from clearclip.images import IMAGE_SUFFIXES, load_image
from clearclip.outputs import atomic_write, read_info, save_image, save_label_map
from clearclip.progress import track
from clearclip.segmentation import Segmentation
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

PREFETCH_THREADS = 2
COMPARED = ("labels", "background", "model", "method", "protocol", "threshold", "templates", "dtype")
OVERLAY_SUFFIX = ".overlay.jpg"


@dataclass
class Report:
    """What became of a run's images.

    Attributes:
        done: Segmented now.
        skipped: There already.
        failed: Paths with the reason.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        failures = [{"image": printable(str(path)), "reason": printable(reason)} for path, reason in self.failed]
        return {"done": self.done, "skipped": self.skipped, "failed": failures}


def find_images(sources: Sequence[str]) -> list[Path]:
    """Files that paths, folders and globs name, each once, in order.

    Args:
        sources: A file is taken whatever its suffix; a folder gives the images in it and in its subfolders, but for
            earlier results.

    Returns:
        Paths; a file that does not exist is among them, so that a run can list it as failed.

    Raises:
        UsageError: There is no image.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        path = Path(source)
        if _exists(path) and path.is_dir():
            matches = sorted(file for file in path.rglob("*") if _is_picture(file))
        elif not _exists(path) and glob.has_magic(source):
            matches = sorted(match for match in map(Path, _expand(source)) if match.is_file())
            if not matches:
                raise UsageError(f"{source} matches no images: name files, folders or globs that hold some")
        else:
            matches = [path]
        for match in matches:
            found.setdefault(_resolved(match), match)
    if not found:
        raise UsageError(f"no images in {', '.join(map(str, sources))}: name files, folders or globs that hold some")
    return list(found.values())


def _is_picture(file: Path) -> bool:
    if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith(".") or not file.is_file():
        return False
    ours = file.name.endswith(OVERLAY_SUFFIX) or (
        file.suffix == ".png" and read_info(file).get("software", "").startswith("clearclip")
    )
    return not ours


def _expand(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)


def segment_files(
    segmenter: Segmenter,
    paths: Sequence[Path],
    *,
    labels: Any,
    output: Path,
    threshold: float | None = None,
    batch_size: int = 4,
    overwrite: bool = False,
) -> Report:
    """Segment files into a folder: `<stem>.png` (label indices), `<stem>.overlay.jpg`, and one `labels.json`.

    An image that cannot be used is listed and the others go on. A result stands under its name only when it is
    complete, the PNG last, so that a run that was stopped goes on where it was.

    Args:
        segmenter: With the method to use.
        paths: Image files; see `find_images`.
        labels: As `Vocabulary.parse`.
        output: Folder; made where it is missing.
        threshold: As `Segmenter.__call__`.
        batch_size: Images whose windows go through the encoder together.
        overwrite: Make existing results again.

    Returns:
        What became of them.

    Raises:
        UsageError: The folder cannot be written, or holds results of other labels or settings.
        ClearclipError: The disk is full.
    """
    vocabulary, limit = segmenter.vocabulary(labels, threshold)
    segmenter.embed(vocabulary)
    report = Report()
    settings = _settings(segmenter, vocabulary, limit)
    mark = _mark(settings)
    try:
        _claim(output, settings, overwrite=overwrite)
        wanted = list(_pending(paths, output, mark, report, overwrite=overwrite))
        with ThreadPoolExecutor(PREFETCH_THREADS) as pool:
            writes: deque[tuple[Path, Future[None]]] = deque()
            batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
            decoded = _prefetch(pool, segmenter, batches)
            for batch in track(batches, "Segmenting", show=segmenter.show_progress):
                usable = _usable(batch, next(decoded), report)
                if usable:
                    results = segmenter([image for _, image in usable], vocabulary, threshold=threshold)
                    for (path, _), result in zip(usable, results, strict=True):
                        writes.append((path, pool.submit(_write, result, path, output, mark)))
                while len(writes) > 2 * batch_size:
                    _finish(*writes.popleft(), report)
            while writes:
                _finish(*writes.popleft(), report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClearclipError(
                f"{output}: the disk is full. {report.done} images are done and stay; free some space and start again"
            ) from error
        raise ClearclipError(f"{output} cannot be written ({error})") from error
    return report


def _settings(segmenter: Segmenter, vocabulary: Vocabulary, limit: float | None) -> dict[str, Any]:
    palette = vocabulary.palette.tolist()
    return {
        "labels": [
            {"index": index, "name": label.name, "queries": list(label.queries), "color": palette[index]}
            for index, label in enumerate(vocabulary.labels)
        ],
        "background": vocabulary.background,
        **segmenter.describe(segmenter.method, limit),
    }


def _mark(settings: dict[str, Any]) -> str:
    """Short hash of the settings, kept in every result: an interrupted --overwrite leaves older ones behind."""
    compared = json.dumps({key: settings[key] for key in COMPARED}, sort_keys=True)
    return hashlib.sha256(compared.encode()).hexdigest()[:16]


def _claim(output: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder and write its `labels.json`, or refuse a folder that holds something else."""
    file = output / "labels.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and not overwrite else None
    except ValueError as error:
        raise UsageError(f"{file} is none of ours ({error}): choose another folder or --overwrite") from error
    except OSError as error:
        raise UsageError(f"output folder {output} cannot be used ({error.strerror}): choose another") from error
    if known is not None:
        differing = (
            [key for key in COMPARED if known.get(key) != settings[key]] if isinstance(known, dict) else ["everything"]
        )
        if differing:
            raise UsageError(
                f"{output} holds results with other settings ({', '.join(differing)}): choose another folder, or make "
                "everything again with --overwrite"
            )
        return
    try:
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except PermissionError as error:
        raise UsageError(f"output folder {output} cannot be written ({error.strerror}): choose another") from error


def _pending(paths: Sequence[Path], output: Path, mark: str, report: Report, *, overwrite: bool) -> Iterator[Path]:
    taken: dict[str, Path] = {}
    inputs = {_resolved(path) for path in paths}
    for path in paths:
        if path.stem in taken:
            report.failed.append(
                (
                    path,
                    f"{path} and {taken[path.stem]} would both become {path.stem}.png: rename one, or use two folders",
                )
            )
            continue
        taken[path.stem] = path
        result = output / f"{path.stem}.png"
        mine = [file for file in (result, output / f"{path.stem}{OVERLAY_SUFFIX}") if _resolved(file) in inputs]
        if mine:
            report.failed.append(
                (path, f"{path}: its result would overwrite the image {mine[0]}: choose another folder")
            )
            continue
        if overwrite or not _exists(result):
            yield path
            continue
        info = read_info(result)
        if info.get("source") != _source(path):
            report.failed.append(
                (
                    path,
                    f"{result} exists and was made from another image than {path}: use another folder or --overwrite",
                )
            )
        elif info.get("settings") == mark:
            report.skipped += 1
        else:
            yield path


def _source(path: Path) -> str:
    """Name and content: pictures of one camera often have one name in many folders, and one size."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except (OSError, ValueError):
        digest = "none"
    return f"{printable(path.name)}, sha256 {digest}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links
        return path.absolute()


def _prefetch(
    pool: ThreadPoolExecutor, segmenter: Segmenter, batches: Sequence[Sequence[Path]]
) -> Iterator[list[Future[npt.NDArray[np.uint8]]]]:
    """Decoded batches, one ahead of the model."""

    def start(batch: Sequence[Path]) -> list[Future[npt.NDArray[np.uint8]]]:
        return [pool.submit(load_image, path, max_pixels=segmenter.max_pixels) for path in batch]

    ahead = deque(start(batch) for batch in batches[:1])
    for batch in batches[1:]:
        ahead.append(start(batch))
        yield ahead.popleft()
    yield from ahead


def _usable(
    batch: Sequence[Path], decoded: Sequence[Future[npt.NDArray[np.uint8]]], report: Report
) -> list[tuple[Path, npt.NDArray[np.uint8]]]:
    usable = []
    for path, future in zip(batch, decoded, strict=True):
        try:
            usable.append((path, future.result()))
        except ImageError as error:
            report.failed.append((path, str(error)))
    return usable


def _write(result: Segmentation, path: Path, output: Path, mark: str) -> None:
    save_image(result.overlay(), output / f"{path.stem}{OVERLAY_SUFFIX}")
    save_label_map(
        result.label_map,
        output / f"{path.stem}.png",
        palette=result.palette,
        info={**result.info, "settings": mark, "source": _source(path)},
    )


def _finish(path: Path, write: Future[None], report: Report) -> None:
    try:
        write.result()
    except OSError as error:
        if error.errno not in (None, errno.ENAMETOOLONG):
            raise
        report.failed.append((path, f"{path}: its result cannot be written ({error})"))  # too large for JPEG, or so
    else:
        report.done += 1
