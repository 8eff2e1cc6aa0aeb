"""The benchmarks as rows of data: where files lie, what labels mean, which words and numbers the paper uses.

The words stand in `queries.csv` (source: the ClearCLIP paper's class-name files, as facts), those that other papers use
instead in `names.csv`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources

import numpy as np

from clearclip.benchmarks.decoding import (
    LabelForm,
    cityscapes_label_ids,
    coco_object_from_stuff,
    coco_object_raw,
    coco_stuff_raw,
    indices,
)
from clearclip.errors import UsageError, nearest
from clearclip.protocol import Protocol
from clearclip.vocabulary import Label, Vocabulary


@dataclass(frozen=True)
class Layout:
    """Where a benchmark's files lie below the folder that the user names; of alternatives the first found counts.

    Attributes:
        image_suffix: What follows an image's id in its file's name.
        forms: Forms of the label maps, the preferred one first.
        roots: Folders below the user's, `"."` for itself, that images and labels lie below: the originals unpack into
            folders of their own.
        split: List of ids below a root, one a line; empty where the folder itself is the split.
        nested: Whether images and label maps lie one folder deeper (Cityscapes' cities).
        foreign: Suffixes of another benchmark's label maps in the same folder.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    forms: tuple[LabelForm, ...]
    image_suffix: str = ".jpg"
    roots: tuple[str, ...] = (".",)
    split: str = ""
    nested: bool = False
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One row.

    Attributes:
        classes: How many, background included.
        size: Images of the official split; `None` where there is no official one.
        protocol: Key of `clearclip.protocol.PROTOCOLS`; of a preset, its own.
        layout: `None` for `scenes`, which is made, and for a user's own folders.
        background: Whether label 0 is a background that a threshold can send pixels to.
        thresholds: By method, the paper's, `"*"` for all others. Without one the word "background" competes like every
            other query.
        get: Where it can be had.
        palette: `"voc"`, `"voc-shifted"`, `"cityscapes"` for the data set's own colours, `""` for clearclip's.
        hint: What `check` adds when something is missing.
    """

    name: str
    title: str
    classes: int
    size: int | None
    protocol: str | Protocol
    layout: Layout | None = None
    background: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    get: str = ""
    palette: str = ""
    hint: str = ""

    def threshold(self, method: str) -> float | None:
        """The background threshold of a method by its spelling, if there is one."""
        return self.thresholds.get(method, self.thresholds.get("*"))


_VOC_GET = "VOC2012 trainval from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_CONTEXT_GET = (
    "images: VOC2010 trainval from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/; labels: trainval_merged.json "
    "of https://cs.stanford.edu/~roozbeh/pascal-context/, converted to PNGs"
)
_CONTEXT_HINT = (
    "The PNGs of SegmentationClassContext and the list val.txt are made from trainval_merged.json with the Detail "
    "API (https://github.com/zhanghang1989/detail-api) and mmsegmentation's script: python "
    "tools/dataset_converters/pascal_context.py VOCdevkit VOCdevkit/VOC2010/trainval_merged.json "
    "(0 = background, 1–59 = the classes in alphabetical order)"
)
_COCO_GET = (
    "images: 2017 Val from https://cocodataset.org/#download; labels: stuffthingmaps_trainval2017 from "
    "https://github.com/nightrome/cocostuff"
)
_CITYSCAPES_GET = "leftImg8bit and gtFine from https://www.cityscapes-dataset.com (registration)"
_ADE_GET = "ADEChallengeData2016 from http://sceneparsing.csail.mit.edu"


def _voc(year: int, ending: str, form: LabelForm) -> Layout:
    return Layout(
        images=("JPEGImages",),
        labels=(f"SegmentationClass{ending}",),
        forms=(form,),
        roots=(".", f"VOC{year}", f"VOCdevkit/VOC{year}"),
        split=f"ImageSets/Segmentation{ending}/val.txt",
    )


def _coco(folder: str, *forms: LabelForm) -> Layout:
    return Layout(
        images=("images/val2017", "val2017"),
        labels=("annotations/val2017", "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017", "val2017"),
        forms=forms,
        roots=(".", folder, "coco"),
        foreign=("_instanceTrainIds.png", "_labelTrainIds.png"),
    )


BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark(
            "voc21",
            "PASCAL VOC 2012 with background",
            classes=21,
            size=1449,
            protocol="voc21",
            layout=_voc(2012, "", LabelForm(".png", indices(21), "VOC's index maps")),
            background=True,
            thresholds={"clearclip": 0.5, "vanilla": 0.2},
            get=_VOC_GET,
            palette="voc",
        ),
        Benchmark(
            "voc20",
            "PASCAL VOC 2012 without background",
            classes=20,
            size=1449,
            protocol="voc20",
            layout=_voc(2012, "", LabelForm(".png", indices(21, ignored=(0,)), "VOC's index maps")),
            get=_VOC_GET,
            palette="voc-shifted",
        ),
        Benchmark(
            "context60",
            "PASCAL Context with background",
            classes=60,
            size=5104,
            protocol="context60",
            layout=_voc(2010, "Context", LabelForm(".png", indices(60), "converted Context maps")),
            background=True,
            thresholds={"clearclip": 0.15},
            get=_CONTEXT_GET,
            hint=_CONTEXT_HINT,
        ),
        Benchmark(
            "context59",
            "PASCAL Context without background",
            classes=59,
            size=5104,
            protocol="context59",
            layout=_voc(2010, "Context", LabelForm(".png", indices(60, ignored=(0,)), "converted Context maps")),
            get=_CONTEXT_GET,
            hint=_CONTEXT_HINT,
        ),
        Benchmark(
            "coco_object",
            "COCO Object: 80 things and background",
            classes=81,
            size=5000,
            protocol="coco_object",
            layout=_coco(
                "coco_object",
                LabelForm("_instanceTrainIds.png", indices(81), "instanceTrainIds maps"),
                LabelForm(".png", coco_object_raw(), "raw stuff-thing maps"),
                LabelForm("_labelTrainIds.png", coco_object_from_stuff(), "labelTrainIds maps of COCO-Stuff"),
            ),
            background=True,
            thresholds={"clearclip": 0.4},
            get=_COCO_GET,
        ),
        Benchmark(
            "coco_stuff",
            "COCO-Stuff 164k",
            classes=171,
            size=5000,
            protocol="coco_stuff",
            layout=_coco(
                "coco_stuff164k",
                LabelForm("_labelTrainIds.png", indices(171), "labelTrainIds maps"),
                LabelForm(".png", coco_stuff_raw(), "raw stuff-thing maps"),
            ),
            get=_COCO_GET,
        ),
        Benchmark(
            "cityscapes",
            "Cityscapes",
            classes=19,
            size=500,
            protocol="cityscapes",
            layout=Layout(
                images=("leftImg8bit/val", "leftImg8bit_trainvaltest/leftImg8bit/val"),
                image_suffix="_leftImg8bit.png",
                labels=("gtFine/val", "gtFine_trainvaltest/gtFine/val"),
                forms=(
                    LabelForm("_gtFine_labelTrainIds.png", indices(19), "labelTrainIds maps"),
                    LabelForm("_gtFine_labelIds.png", cityscapes_label_ids(), "labelIds maps"),
                ),
                roots=(".", "cityscapes"),
                nested=True,
            ),
            get=_CITYSCAPES_GET,
            palette="cityscapes",
        ),
        Benchmark(
            "ade20k",
            "ADE20K, scene parsing 2016",
            classes=150,
            size=2000,
            protocol="ade20k",
            layout=Layout(
                images=("images/validation",),
                labels=("annotations/validation",),
                forms=(LabelForm(".png", indices(151, ignored=(0,)), "ADE20K's index maps"),),
                roots=(".", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
            ),
            get=_ADE_GET,
        ),
        Benchmark(
            "scenes",
            "clearclip's own procedural cartoons, test split (val: evaluate scenes --split val)",
            classes=30,
            size=500,
            protocol="native",
            get="nothing to download: made on the spot (clearclip.scenes)",
        ),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """The row of a name."""
    if name not in BENCHMARKS:
        raise UsageError(f"benchmark {name!r} is not known: {nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]


NAMES: dict[str, dict[str, float]] = {
    "clearclip": {},
    "sclip": {"voc21": 0.1, "context60": 0.1, "coco_object": 0.1},
    "proxyclip": {"voc21": 0.2, "context60": 0.15, "coco_object": 0.25},
    "freecp": {},
    "cliper": {},
    "corrclip": {"voc21": 0.2, "context60": 0.15, "coco_object": 0.25},
}
"""Whose class names a benchmark may have, with the background thresholds that go with them for every method.

ClearCLIP's are by method, in the rows; FreeCP's and CLIPer's rules are no thresholds on probabilities.
"""


def with_names(row: Benchmark, names: str) -> Benchmark:
    """The row with the thresholds that go with a paper's class names (`NAMES`), as a benchmark of another name.

    The same row where neither words nor thresholds differ from ClearCLIP's: only then are results comparable.

    >>> with_names(get_benchmark("voc21"), "sclip").name, with_names(get_benchmark("ade20k"), "sclip").name
    ('voc21-sclip', 'ade20k')
    """
    words = vocabulary_of(row.name, names=names)
    if names == "clearclip":
        return row
    limit = NAMES[names].get(row.name)
    thresholds = {} if limit is None else {"*": limit}
    if words == vocabulary_of(row.name) and thresholds == row.thresholds:
        return row
    return replace(row, name=f"{row.name}-{names}", title=f"{row.title}, {names}'s class names", thresholds=thresholds)


@functools.cache
def vocabulary_of(name: str, *, names: str = "clearclip") -> Vocabulary:
    """The words a benchmark asks for, in the order of its label space, with the background where it has one.

    names is the paper whose words they are, one of `NAMES`. A label is called by the first of its words.

    >>> vocabulary_of("voc20", names="corrclip").names[14]
    'people'
    """
    row = get_benchmark(name)
    if names not in NAMES:
        raise UsageError(f"class names {names!r} are not known: {nearest(names, NAMES)}")
    if name == "scenes":
        if names != "clearclip":
            raise UsageError("scenes has words of its own: no paper has other names for them")
        from clearclip.scenes import CLASSES, PALETTE

        colors = [(int(red), int(green), int(blue)) for red, green, blue in PALETTE]
        return Vocabulary(tuple(Label(label, color=color) for label, color in zip(CLASSES, colors, strict=True)))
    queries = [_other_names().get((names, name, word), (word,)) for word in _queries()[name]]
    own_colors = _palette(row.palette, len(queries))
    labels = (Label(first, tuple(more), own_colors.get(index)) for index, (first, *more) in enumerate(queries))
    return Vocabulary(tuple(labels), background=queries[0][0] if row.background else None)


@functools.cache
def _queries() -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for row in rows_of("queries.csv"):
        words.setdefault(row["benchmark"], []).append(row["query"])
    return words


@functools.cache
def _other_names() -> dict[tuple[str, str, str], tuple[str, ...]]:
    """By paper, benchmark and ClearCLIP's word: the words that stand for it."""
    return {
        (names, benchmark, row["label"]): tuple(row["queries"].split("|"))
        for row in rows_of("names.csv")
        for names in row["names"].split()
        for benchmark in row["benchmarks"].split()
    }


def rows_of(file: str) -> list[dict[str, str]]:
    """The rows of one of this folder's CSV files."""
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


_CITYSCAPES_COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


def _palette(kind: str, count: int) -> dict[int, tuple[int, int, int]]:
    if kind == "cityscapes":
        return dict(enumerate(_CITYSCAPES_COLORS))
    if kind.startswith("voc"):
        first = 1 if kind == "voc-shifted" else 0
        return {index: _voc_color(index + first) for index in range(count)}
    return {}


def _voc_color(index: int) -> tuple[int, int, int]:
    """VOC's colour of an index: bit 3·k + c of the index is bit 7 - k of channel c (VOC devkit, VOClabelcolormap)."""
    bits = np.array([[index >> (3 * step + channel) & 1 for step in range(8)] for channel in range(3)])
    red, green, blue = (bits << np.arange(7, -1, -1)).sum(axis=1).tolist()
    return red, green, blue
