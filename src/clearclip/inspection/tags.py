"""Which words of a vocabulary an image holds: labels ranked by the area they win, and a table of many images."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from clearclip.backbones.devices import inference
from clearclip.benchmarks.rows import BENCHMARKS, vocabulary_of
from clearclip.classify.words import Words
from clearclip.decompose import class_features
from clearclip.encode.images import ImageLike
from clearclip.errors import UsageError, nearest, printable
from clearclip.files.optional import require
from clearclip.segmentation import Segmentation
from clearclip.segmenter import Segmenter
from clearclip.vocabulary import Vocabulary

SHORT_NAMES = {"voc": "voc20", "context": "context59"}
TABLES = (".csv", ".parquet")
Add = Callable[[str, Sequence["Tag"]], None]


@dataclass(frozen=True)
class Tag:
    """What speaks for one label in one image.

    Attributes:
        share: Of the image's area that the label wins, 0–1.
        probability: Mean where it wins, over all words of the vocabulary; `None` where it wins nothing.
        class_token: Cosine of the whole image's ordinary feature with the nearest of the label's words; `None` where
            it was not asked for, or the model has no class token.
    """

    label: str
    share: float
    probability: float | None
    class_token: float | None


def find_tags(segmenter: Segmenter, image: ImageLike, labels: Any) -> list[Tag]:
    """Rank the labels by what speaks for them in an image; arguments as in a call of the segmenter.

    >>> tags = find_tags(segmenter, clearclip.scenes.make_scene(0).image, ["sky", "grass", "whale"])
    >>> sorted(tag.label for tag in tags)
    ['grass', 'sky', 'whale']
    """
    words, pixels = segmenter.prepare(labels), segmenter.read(image)
    return rank_tags(segmenter(pixels, words), class_token=class_token_cosines(segmenter, pixels, words))


def rank_tags(result: Segmentation, *, class_token: Sequence[float] | None = None) -> list[Tag]:
    """The labels of a result, largest area first, then by the cosines of `class_token`; without the background."""
    owners, count = result.label_map.ravel(), len(result.labels)
    pixels = np.bincount(owners, minlength=count)
    sums = np.bincount(owners, weights=result.scores.ravel(), minlength=count)
    tags = [
        Tag(
            name,
            float(pixels[index] / owners.size),
            float(sums[index] / pixels[index]) if pixels[index] else None,
            None if class_token is None else class_token[index],
        )
        for index, name in enumerate(result.labels)
        if index != result.vocabulary.background_index
    ]
    return sorted(tags, key=lambda tag: (-tag.share, -(tag.class_token or 0)))


@inference
def class_token_cosines(segmenter: Segmenter, image: npt.NDArray[np.uint8], words: Words) -> list[float] | None:
    """For each label the best cosine of its words with the class token of the whole image `(H, W, 3)`, uint8.

    The image is stretched to the model's native size, as its own zero-shot classification sees it but for the crop.
    `None` if the model has no class token.
    """
    backbone = segmenter.backbone
    if not backbone.num_prefix_tokens:
        return None
    height, width = (side * backbone.patch_size for side in backbone.native_grid)
    square = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    pixels = segmenter.encoder.normalize(square)[None].to(backbone.device, backbone.dtype)
    feature = F.normalize(class_features(backbone, pixels, positions="model")[0].float(), dim=-1)
    owners = torch.tensor(words.vocabulary.query_to_class, device=words.text.device)
    best = torch.full((len(words.vocabulary.labels),), -1.0, device=words.text.device)
    cosines: list[float] = best.scatter_reduce(0, owners, words.text @ feature, "amax").tolist()
    return cosines


def named_vocabulary(name: str) -> Vocabulary:
    """The words of a benchmark without its background; `coco-stuff` and `voc` are names, too.

    >>> len(named_vocabulary("voc").labels)
    20
    """
    known = SHORT_NAMES.get(name, name.replace("-", "_"))
    if known not in BENCHMARKS:
        raise UsageError(f"vocabulary {name!r} is not known: {nearest(name, [*BENCHMARKS, *SHORT_NAMES])}")
    vocabulary = vocabulary_of(known)
    return Vocabulary(tuple(label for label in vocabulary.labels if label.name != vocabulary.background))


def check_table(path: Path) -> None:
    """`UsageError` if a table cannot be written under this name, or its library is missing."""
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"{path}: a table of tags is written as {' or '.join(TABLES)}: give it one of these suffixes")
    if path.suffix.lower() == ".parquet":
        require("pyarrow.parquet", extra="formats", purpose=f"writing {path.name}")


@contextmanager
def tag_table(path: Path) -> Iterator[Add]:
    """Write a table with a row for each image and label; what comes takes an image's name and its tags."""
    with _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path) as write:
        yield partial(_add, write)


def _add(write: Callable[[list[dict[str, Any]]], None], image: str, tags: Sequence[Tag]) -> None:
    write([{"image": printable(image), **asdict(tag)} for tag in tags])


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["image", *(column.name for column in fields(Tag))])
        table.writeheader()
        yield table.writerows


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    import pyarrow as arrow
    from pyarrow import parquet

    kinds = {"image": arrow.string(), "label": arrow.string()}
    schema = arrow.schema(kinds | dict.fromkeys(("share", "probability", "class_token"), arrow.float64()))
    with parquet.ParquetWriter(path, schema, compression="zstd") as table:
        yield lambda rows: table.write_table(arrow.Table.from_pylist(rows, schema=schema))
