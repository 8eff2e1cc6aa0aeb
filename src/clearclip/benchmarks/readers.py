"""From a folder to pairs of image and label map: finding the files, pairing and decoding them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clearclip.benchmarks.decoding import LabelForm, indices
from clearclip.benchmarks.rows import Benchmark, Layout, get_benchmark, vocabulary_of
from clearclip.errors import ClearclipError, ImageError, UsageError
from clearclip.files.label_maps import verify
from clearclip.files.reading import open_regular, read_text
from clearclip.vocabulary import Vocabulary

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
INDEX_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
READ_AHEAD = 8
SPLIT_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Sample:
    """One image `(H, W, 3)` uint8 RGB with its truth `(H, W)` uint8: class indices and 255 = ignored."""

    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]


class Item(Protocol):
    """Something that can be evaluated: a pair of files, or a scene that is made when it is read."""

    @property
    def id(self) -> str:
        """Name within the data set; it may contain folders, never a suffix."""

    def read(self, *, value_range: tuple[float, float] | None = None) -> Sample:
        """Decode it, with the range of `load_image`; `ImageError` with the file's name where that cannot be done."""


@dataclass(frozen=True)
class Pair:
    """An image file and the file of its label map."""

    id: str
    image: Path
    labels: Path
    form: LabelForm

    def read(self, *, value_range: tuple[float, float] | None = None) -> Sample:
        """Decode both files; `ImageError` if one cannot be read, a label is out of range, or the sizes differ."""
        from clearclip.encode.images import load_image

        raw = read_index_map(self.labels)
        image = load_image(self.image, value_range=value_range)
        if raw.shape != image.shape[:2]:
            turned = "; one of them is turned by 90°" if raw.shape == image.shape[1::-1] else ""
            raise ImageError(
                f"{self.labels} is {raw.shape[1]}×{raw.shape[0]} pixels, its image {self.image} "
                f"{image.shape[1]}×{image.shape[0]}: they must have one size{turned}"
            )
        return Sample(image, self.form.decode(raw, source=str(self.labels)))


@dataclass(frozen=True)
class SceneItem:
    """A procedural scene of the test split."""

    index: int

    @property
    def id(self) -> str:
        """Its number, as in the scenes' own files."""
        return f"{self.index:06d}"

    def read(self, *, value_range: tuple[float, float] | None = None) -> Sample:
        """Make the scene; its levels are what they are."""
        from clearclip.scenes import make_scene

        scene = make_scene(self.index, split="test")
        return Sample(scene.image, scene.label_map)


@dataclass(frozen=True)
class Dataset:
    """What was found of a benchmark, in a fixed order.

    Attributes:
        vocabulary: The words, in the order of the label space.
        items: Complete pairs.
        missing: One sentence for each image or label map without its counterpart.
        source: The folder, for messages and results.
    """

    benchmark: Benchmark
    vocabulary: Vocabulary
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    source: str = ""


def read_index_map(path: Path) -> npt.NDArray[np.integer]:
    """Read the raw values `(H, W)` of a one-channel label map; a palette's colours play no role."""
    try:
        with open_regular(path) as file:
            verify(file)
            with Image.open(file) as opened:
                if opened.mode not in INDEX_MODES:
                    raise ImageError(
                        f"{path} is a colour picture (mode {opened.mode}), no map of class indices: one channel is "
                        "needed"
                    )
                values = np.asarray(opened)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no image that Pillow can read: an index PNG is needed") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: the label map cannot be read ({error})") from error
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def open_benchmark(name: str, *, data: Path | None = None) -> Dataset:
    """Find a benchmark's files in the folder data, in the original download's layout or in mmsegmentation's.

    `scenes` needs no folder. `ClearclipError` says what was looked for where the folder does not hold this benchmark.
    """
    row = get_benchmark(name)
    if row.layout is None:
        items = tuple(SceneItem(index) for index in range(row.size or 0))
        return Dataset(row, vocabulary_of(name), items, source="made on the spot")
    if data is None:
        raise UsageError(f"{name} needs its folder: give --data DIR ({row.get})")
    if not data.is_dir():
        raise UsageError(f"{name}: {data} is no folder: give the one that holds it as --data ({row.get})")
    images, labels, root = _locate(row, row.layout, data)
    pairs, missing = _pair_up(row.layout, images, labels, root)
    if not pairs:
        raise ClearclipError(f"{name}: {images} and {labels} have no pair of image and label map in common. {row.hint}")
    return Dataset(row, vocabulary_of(name), tuple(pairs), tuple(missing), str(data))


def open_folders(images: Path, annotations: Path, *, labels: Any, background: str | None = None) -> Dataset:
    """A data set of one's own, the benchmark `custom`: images and index PNGs of the same names, in folders below too.

    Value i of a PNG is label i, 255 is ignored. labels are anything `Vocabulary.parse` reads, at most 255; background
    is the label that pixels below a threshold fall to.
    """
    for folder in (images, annotations):
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder: --images and --annotations name folders")
    vocabulary = Vocabulary.parse(labels, background=background)
    if len(vocabulary.labels) > 255:
        raise UsageError(f"{len(vocabulary.labels)} labels: an index PNG holds at most 255 beside the ignored 255")
    suffixes = tuple(s for s in IMAGE_SUFFIXES if s != ".png" or not images.samefile(annotations))
    photographs: dict[str, Path] = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in suffixes:
            stem = path.relative_to(images).with_suffix("").as_posix()
            if stem in photographs:
                raise UsageError(f"{photographs[stem]} and {path} have one name: rename one of them")
            photographs[stem] = path
    maps = {path.relative_to(annotations).with_suffix("").as_posix(): path for path in annotations.rglob("*.png")}
    form = LabelForm(".png", indices(len(vocabulary.labels)), f"index maps of {len(vocabulary.labels)} labels")
    both = sorted(photographs.keys() & maps.keys())
    if not both:
        raise ClearclipError(
            f"{images} and {annotations} have no name in common: NAME.jpg (or another image) needs its NAME.png"
        )
    missing = [
        f"{photographs[stem]}: no label map {annotations / stem}.png" for stem in photographs if stem not in maps
    ]
    missing += [f"{maps[stem]}: no image {images / stem}.*" for stem in sorted(maps) if stem not in photographs]
    row = Benchmark("custom", f"{images.name} / {annotations.name}", len(vocabulary.labels), None, "native")
    pairs = tuple(Pair(stem, photographs[stem], maps[stem], form) for stem in both)
    return Dataset(row, vocabulary, pairs, tuple(missing), str(images))


def _locate(row: Benchmark, layout: Layout, data: Path) -> tuple[Path, Path, Path]:
    """The folders of images and of label maps, and the root they lie below."""
    for root in (data / name for name in layout.roots):
        images = next((root / name for name in layout.images if _ids(root / name, layout, of=_image_id)), None)
        labels = next((root / name for name in layout.labels if _ids(root / name, layout, of=_label_id)), None)
        if images and labels:
            return images, labels, root
        if images or labels:
            here, what, folders, suffixes = (
                (f"images in {images}", "label maps", layout.labels, [form.suffix for form in layout.forms])
                if images
                else (f"label maps in {labels}", "images", layout.images, [layout.image_suffix])
            )
            raise ClearclipError(
                f"{row.name}: there are {here}, but no {what} (*{' or *'.join(suffixes)}) in "
                f"{' or '.join(str(root / name) for name in folders)}. To get: {row.get}. {row.hint}".rstrip()
            )
    wanted = f"{' or '.join(layout.images)} and {' or '.join(layout.labels)}"
    raise ClearclipError(
        f"{row.name}: {data} holds none of its files; {wanted} are looked for in it and in its "
        f"{', '.join(layout.roots[1:])}. To get: {row.get}. {row.hint}".rstrip()
    )


def _image_id(name: str, layout: Layout) -> str | None:
    return name.removesuffix(layout.image_suffix) if name.endswith(layout.image_suffix) else None


def _label_id(name: str, layout: Layout) -> str | None:
    """The id in a label map's name; `None` for a file that is no label map of this benchmark."""
    suffixes = [form.suffix for form in layout.forms]
    known = sorted({*layout.foreign, *suffixes}, key=len, reverse=True)
    suffix = next((suffix for suffix in known if name.endswith(suffix)), None)
    return name.removesuffix(suffix) if suffix in suffixes else None


def _ids(folder: Path, layout: Layout, *, of: Callable[[str, Layout], str | None]) -> set[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.glob("*/*" if layout.nested else "*"))
    return {found for name in names if (found := of(name, layout)) is not None}


def _pair_up(layout: Layout, images: Path, labels: Path, root: Path) -> tuple[list[Pair], list[str]]:
    """Pairs in the order of their ids (or of the split's list), and sentences about what has no counterpart."""
    have_image = _ids(images, layout, of=_image_id)
    have_labels = _ids(labels, layout, of=_label_id)
    ids = _read_split(root / layout.split) if layout.split else sorted(have_image | have_labels)
    pairs, missing = [], []
    for name in ids:
        image = images / (name + layout.image_suffix)
        if name not in have_image:
            missing.append(f"{image}: the image is missing")
        elif name not in have_labels:
            missing.append(f"{labels / name}{layout.forms[0].suffix}: the label map is missing")
        else:
            maps = ((labels / (name + form.suffix), form) for form in layout.forms)
            path, form = next((path, form) for path, form in maps if path.exists())
            pairs.append(Pair(name, image, path, form))
    return pairs, missing


def _read_split(path: Path) -> list[str]:
    try:
        lines = read_text(path, limit=SPLIT_BYTES).splitlines()
    except FileNotFoundError:
        raise ClearclipError(f"{path}: the list of the split is missing; it holds one image id a line") from None
    except OSError as error:
        raise ClearclipError(f"{path}: the list of the split cannot be read ({error})") from error
    ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    if not ids:
        raise ClearclipError(f"{path}: the list of the split is empty; it holds one image id a line")
    return ids


def read_ahead(
    items: Sequence[Item], *, value_range: tuple[float, float] | None = None, workers: int = 2
) -> Iterator[Sample | ImageError]:
    """Decode items in threads, a few ahead of the one that is asked for, in order; yields a sample or its error."""
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="read-ahead")
    waiting: list[Future[Sample | ImageError]] = []
    try:
        for item in items:
            waiting.append(pool.submit(_attempt, item, value_range))
            if len(waiting) >= READ_AHEAD:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(item: Item, value_range: tuple[float, float] | None) -> Sample | ImageError:
    try:
        return item.read(value_range=value_range)
    except ImageError as error:
        return error
