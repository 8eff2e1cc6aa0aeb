"""From a folder to pairs of image and label map: finding the files, pairing and decoding them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clearclip.benchmarks.decoding import LabelForm, own_form
from clearclip.benchmarks.orientation import CLEARLY, contrast, stored_size, turned
from clearclip.benchmarks.presets import Preset
from clearclip.benchmarks.rows import Benchmark, Layout, get_benchmark, vocabulary_of, with_names
from clearclip.errors import ClearclipError, ImageError, UsageError, nearest
from clearclip.files.kinds import IMAGE_SUFFIXES, kept_by_systems
from clearclip.files.label_maps import verify
from clearclip.files.names import safe_stem
from clearclip.files.reading import open_regular, read_text
from clearclip.scenes import SPLITS, Split, make_scene
from clearclip.vocabulary import BACKGROUND, Vocabulary

OWN = "@"
"""What the name of a data set of one's own has, and no benchmark's."""
INDEX_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
READ_AHEAD = 8
COMPARED = 16
"""Label maps whose borders are compared with their images."""
SPLIT_BYTES = 1 << 26
QUARTER_TURNS = {Image.Transpose[name] for name in ("ROTATE_90", "ROTATE_270", "TRANSPOSE", "TRANSVERSE")}


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
    as_stored: bool = False
    """Whether the labels were drawn on the image's pixels as they are stored, not as its EXIF turns them."""

    def read(self, *, value_range: tuple[float, float] | None = None) -> Sample:
        """Decode both files; `ImageError` if one cannot be read, a label is out of range, or the sizes differ."""
        from clearclip.encode.images import load_image

        raw = read_index_map(self.labels)
        if self.as_stored and (turn := stored_size(self.image)[1]) is not None:
            raw = turned(raw, turn)
        image = load_image(self.image, value_range=value_range)
        if raw.shape != image.shape[:2]:
            hint = "; one of them is turned by 90°" if raw.shape == image.shape[1::-1] else ""
            raise ImageError(
                f"{self.labels} is {raw.shape[1]}×{raw.shape[0]} pixels, its image {self.image} "
                f"{image.shape[1]}×{image.shape[0]}: they must have one size{hint}"
            )
        return Sample(image, self.form.decode(raw, source=str(self.labels)))


@dataclass(frozen=True)
class SceneItem:
    """A procedural scene."""

    index: int
    split: Split

    @property
    def id(self) -> str:
        """Its number, as in the scenes' own files; outside the test split after the split's name."""
        return f"{self.index:06d}" if self.split == "test" else f"{self.split}-{self.index:06d}"

    def read(self, *, value_range: tuple[float, float] | None = None) -> Sample:
        """Make the scene; its levels are what they are."""
        scene = make_scene(self.index, split=self.split)
        return Sample(scene.image, scene.label_map)


@dataclass(frozen=True)
class Dataset:
    """What was found of a benchmark, in a fixed order.

    Attributes:
        vocabulary: The words, in the order of the label space.
        items: Complete pairs.
        missing: One sentence for each image or label map without its counterpart.
        source: The folder, for messages and results.
        notes: What had to be guessed, a sentence each.
    """

    benchmark: Benchmark
    vocabulary: Vocabulary
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()


def grey_bits(file: BinaryIO) -> int:
    """How many bits the values of a grey PNG have; 8 for any other file."""
    file.seek(0)
    head = file.read(26)
    return head[24] if head.startswith(b"\x89PNG") and head[25:] == b"\0" else 8


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
                if opened.mode == "L" and (bits := grey_bits(file)) in (2, 4):
                    values = values // (255 // (2**bits - 1))  # Pillow spreads them over 0 to 255
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no image that Pillow can read: an index PNG is needed") from error
    except ImageError:
        raise
    except Exception as error:  # decoders fail in many ways over a damaged file
        raise ImageError(f"{path}: the label map cannot be read ({error or type(error).__name__})") from error
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def open_benchmark(
    name: str,
    *,
    data: Path | None = None,
    split: str | None = None,
    names: str = "clearclip",
    preset: Preset | None = None,
) -> Dataset:
    """Find a benchmark's files in the folder data, in the original download's layout or in mmsegmentation's.

    `scenes` needs no folder and has the splits test (default), val and train; results of the last two are those of
    another benchmark, `scenes-val` or `scenes-train`, so that no table mixes them; the same holds for another paper's
    class names (`NAMES`), as `voc21-sclip`, and for a preset, which brings its own, as `voc21:naclip`. `ClearclipError`
    says what was looked for where the folder does not hold this benchmark.
    """
    row, words = get_benchmark(name), vocabulary_of(name, names=names if preset is None else preset.names)
    if row.layout is None:
        chosen = next((known for known in SPLITS if known == (split or "test")), None)
        if chosen is None:
            raise UsageError(f"split {split!r} of {name}: {nearest(str(split), SPLITS)}")
        items = tuple(SceneItem(index, chosen) for index in range(row.size or 0))
        if chosen != "test":
            row = replace(row, name=f"{name}-{chosen}", title=f"clearclip's own procedural cartoons, {chosen} split")
        return Dataset(row, words, items, source="made on the spot")
    if split is not None:
        raise UsageError(f"{name} is measured on the split that the paper uses: --split goes with scenes")
    if data is None:
        raise UsageError(f"{name} needs its folder: give --data DIR ({row.get})")
    if not data.is_dir():
        raise UsageError(f"{name}: {data} is no folder: give the one that holds it as --data ({row.get})")
    images, labels, root = _locate(row, row.layout, data)
    pairs, missing = _pair_up(row.layout, images, labels, root)
    if not pairs:
        raise ClearclipError(f"{name}: {images} and {labels} have no pair of image and label map in common. {row.hint}")
    row, words = (with_names(row, names), words) if preset is None else (preset.row(), replace(words, repeats=True))
    return Dataset(row, words, tuple(pairs), tuple(missing), str(data))


def open_folders(
    images: Path,
    annotations: Path,
    *,
    labels: Any,
    background: str | None = None,
    ignored: Sequence[int] = (),
    values: Sequence[int] | None = None,
    as_stored: bool | None = None,
) -> Dataset:
    """A data set of one's own: images and index PNGs of the same names, in folders below too.

    It is named after the folder of images and what tells it from others, as in `photos@1f3a9c`.
    The first value of a PNG that is not ignored is label 0, the next label 1; 255 is ignored. values are those of the
    labels in their order instead, as `(0, 255)`. labels are anything `Vocabulary.parse` reads, at most 255; background
    is the label that pixels below a threshold fall to. as_stored says whether the PNGs were drawn on the images as they
    are stored or, `False`, as their EXIF shows them; by default their sizes decide.
    """
    for folder in (images, annotations):
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder: --images and --annotations name folders")
    vocabulary = Vocabulary.parse(labels, background=background)
    if vocabulary.beside == "auto" and not {vocabulary.background, BACKGROUND} & set(vocabulary.names):
        raise UsageError(
            f"background 'auto' needs a label of the truth that it stands for: call one of the labels {BACKGROUND!r}"
        )
    if vocabulary.beside == "alone":  # a label more would shift the others' values
        vocabulary = replace(vocabulary, beside="none")
    form = own_form(len(vocabulary.labels), ignored=ignored, values=values)
    suffixes = IMAGE_SUFFIXES - ({".png"} if images.samefile(annotations) else set())
    photographs: dict[str, Path] = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in suffixes and not kept_by_systems(path.relative_to(images).parts):
            stem = path.relative_to(images).with_suffix("").as_posix()
            if stem in photographs:
                raise UsageError(f"{photographs[stem]} and {path} have one name: rename one of them")
            photographs[stem] = path
    maps = {
        path.relative_to(annotations).with_suffix("").as_posix(): path
        for path in annotations.rglob("*.png")
        if not kept_by_systems(path.relative_to(annotations).parts)
    }
    both = sorted(photographs.keys() & maps.keys())
    if not both:
        raise ClearclipError(
            f"{images} and {annotations} have no name in common: NAME.jpg (or another image) needs its NAME.png"
        )
    missing = [
        f"{photographs[stem]}: no label map {annotations / stem}.png" for stem in photographs if stem not in maps
    ]
    missing += [f"{maps[stem]}: no image {images / stem}.*" for stem in sorted(maps) if stem not in photographs]
    pairs, notes = oriented([Pair(stem, photographs[stem], maps[stem], form) for stem in both], as_stored)
    name, title = _own_name(images, pairs, vocabulary), f"{images.name} / {annotations.name}"
    row = Benchmark(name, title, len(vocabulary.labels), None, "native")
    return Dataset(row, vocabulary, tuple(pairs), tuple(missing), str(images), notes)


def _own_name(images: Path, pairs: Sequence[Pair], vocabulary: Vocabulary) -> str:
    """The folder's name, and six digits that follow from labels and files, by name and size, wherever they lie."""
    files = ((pair.id, file) for pair in pairs for file in (pair.image, pair.labels))
    described = [f"{name} {file.stat().st_size if file.exists() else 0}" for name, file in files]
    digits = hashlib.sha256("\n".join([*vocabulary.names, *described]).encode("utf-8", "surrogateescape")).hexdigest()
    folder = images if images.name.strip(".") else images.resolve()
    return f"{safe_stem(folder.name).replace(',', '_')}{OWN}{digits[:6]}"


def oriented(pairs: Sequence[Pair], as_stored: bool | None) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs with `as_stored` where it holds, and a sentence about what was found out or had to be guessed.

    A label map of the stored size was drawn on the stored pixels. Where both sizes are equal the other maps decide; if
    there are none, it is taken as drawn on what is shown, and the contrast at the borders of a few maps is told.
    """
    if as_stored is not None:
        return [replace(pair, as_stored=as_stored) for pair in pairs], ()
    fits: dict[str, bool | None] = {}
    for pair in pairs:
        size, turn = stored_size(pair.image)
        if turn is not None:
            is_same = turn not in QUARTER_TURNS or size[0] == size[1]
            fits[pair.id] = None if is_same else _size_of(pair.labels) == size
    sure = set(fits.values()) - {None}
    unsure = [pair for pair in pairs if fits.get(pair.id, False) is None]
    stored = {name for name, fit in fits.items() if fit or (fit is None and sure == {True})}
    notes = []
    if stored:
        notes.append(
            f"{len(stored):,} label maps of images that EXIF turns were drawn on the stored pixels, as sizes tell, and "
            "are turned with them (--truth-as shown takes them as they are)"
        )
    elif not sure and unsure and (told := _fits_better(unsure)):
        notes.append(
            f"no size tells whether the label maps of {len(unsure):,} images that EXIF turns were drawn before or "
            f"after the turn, and they are taken as drawn after it; {told}"
        )
    return [replace(pair, as_stored=pair.id in stored) for pair in pairs], tuple(notes)


def _fits_better(pairs: Sequence[Pair]) -> str:
    """On which pixels the borders of a few label maps lie better, as a clause; empty where it is the shown ones."""
    sums = np.zeros(2)
    for pair in pairs[:COMPARED]:
        with suppress(ImageError):
            shown, stored = pair.read(), replace(pair, as_stored=True).read()
            sums += contrast(shown.image, shown.truth), contrast(stored.image, stored.truth)
    if sums[1] >= CLEARLY * sums[0] and sums[1]:
        return "but their borders fit the stored pixels better: --truth-as stored turns them"
    return "" if sums[0] >= CLEARLY * sums[1] else "--truth-as stored takes them as drawn before"


def _size_of(path: Path) -> tuple[int, int]:
    """`(width, height)` of an image file; `(0, 0)` if it cannot be read, which is an error when its turn comes."""
    try:
        with open_regular(path) as file, Image.open(file) as opened:
            return opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0


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
