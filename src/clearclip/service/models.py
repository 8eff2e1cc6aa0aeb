"""Models that are allowed, and a cache of encoded images, so that new words run no part of an encoder."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from PIL import Image

from clearclip.backbones import load_backbone
from clearclip.decompose import fit_depth
from clearclip.encode.encoding import Encoded
from clearclip.encode.images import Levels, read_levels
from clearclip.errors import ImageError, UsageError, nearest
from clearclip.inspection.features import Inspection, inspect_image
from clearclip.inspection.tags import Tag, rank_tags
from clearclip.methods import Method
from clearclip.segmentation import Segmentation
from clearclip.segmenter import Segmenter
from clearclip.service.request import Limits, Request, read_image
from clearclip.vocabulary import Label, Vocabulary

if TYPE_CHECKING:
    from clearclip.backbones import Backbone

VIEW_SIDE = 1024
WORDS_AT_ONCE = 8
Value = TypeVar("Value")
Say = Callable[[str], None]


@dataclass
class Loaded:
    """A model in memory; `lock` is held while it runs."""

    name: str
    segmenter: Segmenter
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def backbone(self) -> Backbone:
        """The model itself."""
        return self.segmenter.backbone


@dataclass
class Prepared:
    """An encoded image, at its own size and at the size that a page shows; both share one pass of the trunk."""

    full: Encoded
    view: Encoded
    note: str


@dataclass(frozen=True)
class Answer:
    """Segmentations of one image by spelling; `size` is the image's own, `encoder_passes` 0 if it was cached.

    `note` is that of `read_levels`.
    """

    results: Mapping[str, Segmentation]
    size: tuple[int, int]
    encoder_passes: int
    seconds: float
    unknown: tuple[str, ...]
    note: str = ""

    @property
    def first(self) -> Segmentation:
        """The first method's."""
        return next(iter(self.results.values()))


class Models:
    """All that visitors share: models and a bounded cache keyed by content.

    Nothing in here belongs to a visitor: an image is found only by who has its bytes. `keeps_words` stores text
    embeddings on disk for the next start; not where others can fill it.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        *,
        devices: Sequence[str],
        limits: Limits | None = None,
        keeps_words: bool = True,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        if not sources or not devices:
            raise UsageError("at least one model and one device must be allowed")
        self.sources = dict(sources)
        self.devices = tuple(devices)
        self.limits = limits or Limits()
        self.keeps_words = keeps_words
        self.value_range = value_range
        self._loaded: LRUCache[tuple[str, str], Loaded] = LRUCache(self.limits.models)
        self._loading = threading.Lock()
        self._cache: LRUCache[Hashable, Any] = LRUCache(self.limits.cache_bytes, getsizeof=held_bytes)
        self._caching = threading.Lock()

    def model(self, name: str, device: str = "auto", *, say: Say | None = None) -> Loaded:
        """A model, loaded if it is not in memory, which `say` is told first; `ClearclipError` if it is not allowed."""
        if name not in self.sources:
            raise UsageError(f"model {name!r} is not allowed here: {nearest(name, self.sources)}")
        if device not in self.devices:
            raise UsageError(f"device {device!r} is not allowed here: {nearest(device, self.devices)}")
        if (kept := self._in_memory(name, device)) is not None:
            return kept  # nobody waits here while another model is loaded
        with self._loading:
            if (kept := self._in_memory(name, device)) is not None:
                return kept
            if say is not None:
                say(f"Loading {name}")
            segmenter = Segmenter(
                load_backbone(self.sources[name]),
                method="clearclip",
                device=device,
                dtype="auto",
                protocol="native",
                cache=self.keeps_words,
                value_range=self.value_range,
            )
            segmenter.max_pixels = self.limits.pixels
            segmenter.show_progress = False
            loaded = Loaded(name, segmenter)
            with self._caching:
                self._loaded[name, device] = loaded
            return loaded

    def _in_memory(self, name: str, device: str) -> Loaded | None:
        with self._caching:
            return self._loaded.get((name, device))

    def segment(
        self,
        image: Path,
        request: Request,
        *,
        methods: Iterable[Method] = (),
        full: bool = False,
        say: Say | None = None,
    ) -> Answer:
        """Segment an image file by the request's method or by several; `full`: at its own size instead of the view's.

        Methods deeper than the model are run over half of its blocks.
        """
        loaded = self.model(request.model, request.device, say=say)
        rows = [fit_depth(row, blocks=len(loaded.backbone.blocks)) for row in methods or (request.method,)]
        if len(rows) > self.limits.methods:
            raise UsageError(f"{len(rows)} methods: at most {self.limits.methods} side by side are allowed here")
        content = digest(image, limits=self.limits)
        vocabulary = request.vocabulary
        self._read_words(loaded, request, vocabulary, say=None)
        with loaded.lock:
            started = perf_counter()
            words = loaded.segmenter.prepare(
                vocabulary, threshold=request.threshold, templates=request.templates, presence=request.presence
            )
            prepared, passes = self._prepare(loaded, request.device, image, content, say=say)
            wanted = prepared.full if full else prepared.view
            results = {}
            for row in dict.fromkeys(rows):
                key = ("result", content, loaded.name, request.device, full, row, vocabulary, request.threshold)
                results[row.spelling] = self._keep(
                    (*key, words.templates, words.presence),
                    lambda row=row: loaded.segmenter.classify(wanted, words, method=row),  # type: ignore[misc]
                )
            self._put(("encoded", content, loaded.name, request.device), prepared)  # it has grown
            seconds, passes = perf_counter() - started, prepared.full.encoder_passes - passes
        height, width = prepared.full.size
        text = loaded.backbone.text
        unknown = text.unknown(vocabulary.queries) if text else ()
        return Answer(results, (height, width), passes, seconds, unknown, prepared.note)

    def search(
        self, image: Path, request: Request, words: Sequence[str], *, say: Callable[[float, str], None] | None = None
    ) -> list[Tag]:
        """Which of many words an image contains, as `rank_tags`, without those that win nothing.

        The request's labels and threshold are not used; `say` gets the share of the words that are read, and a
        sentence.
        """
        loaded = self.model(request.model, request.device, say=lambda sentence: say(0, sentence) if say else None)
        vocabulary = Vocabulary.parse(list(words))
        self._read_words(loaded, request, vocabulary, say=say)
        result = self.segment(image, replace(request, labels=vocabulary.labels, threshold=None)).first
        return [tag for tag in rank_tags(result) if tag.share]

    def _read_words(
        self, loaded: Loaded, request: Request, vocabulary: Vocabulary, *, say: Callable[[float, str], None] | None
    ) -> None:
        """Embed the words a few at a time, so that other requests get their turn, and within the time limit."""
        queries, started = list(dict.fromkeys(vocabulary.queries)), perf_counter()
        for start in range(0, len(queries), WORDS_AT_ONCE):
            if say is not None:
                say(start / len(queries), f"Reading words: {start} of {len(queries)}")
            if perf_counter() - started > self.limits.seconds:
                raise UsageError(
                    f"{start} of {len(queries)} words were read in {self.limits.seconds} s, the limit here: ask again, "
                    "they are kept, or ask for fewer words or prompts"
                )
            with loaded.lock:
                few = [Label(query) for query in queries[start : start + WORDS_AT_ONCE]]
                loaded.segmenter.embed(few, templates=request.templates)

    def inspect(self, image: Path, request: Request, *, method: Method, say: Say | None = None) -> Inspection:
        """What flows through the model's last blocks, as `clearclip.inspection.features.inspect_image`."""
        loaded = self.model(request.model, request.device, say=say)
        content = digest(image, limits=self.limits)
        key = ("inspection", content, loaded.name, request.device, method)
        with loaded.lock:
            return self._keep(key, lambda: inspect_image(loaded.segmenter, image, method=method, name=image.stem))

    def _prepare(
        self, loaded: Loaded, device: str, image: Path, content: str, *, say: Say | None
    ) -> tuple[Prepared, int]:
        """The encoded image, and how often the encoder had run over it before it was asked for."""
        key = ("encoded", content, loaded.name, device)
        with self._caching:
            kept = self._cache.get(key)
        if isinstance(kept, Prepared):
            return kept, kept.full.encoder_passes
        pixels, note = self._read(image)
        if say is not None:
            say(f"{loaded.name} reads the image, once for all words")
        full = loaded.segmenter.encode(pixels)
        height, width = pixels.shape[:2]
        scale = min(1.0, VIEW_SIDE / max(height, width))
        if scale == 1:
            return Prepared(full, full, note), 0
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        return Prepared(full, replace(full, image=small, size=(size[1], size[0])), note), 0

    def _read(self, image: Path) -> Levels:
        try:
            return read_levels(image, max_pixels=self.limits.pixels, value_range=self.value_range)
        except ImageError as error:
            hidden = str(error).replace(str(image), image.name)
            raise ImageError(
                hidden.replace("raise it with --max-pixels (max_pixels=) if you trust the file", "make it smaller")
            ) from error

    def _keep(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._caching:
            kept: Value | None = self._cache.get(key)
        if kept is None:
            kept = make()
            self._put(key, kept)
        return kept

    def _put(self, key: Hashable, value: Any) -> None:
        with self._caching:
            self._cache.pop(key, None)
            if held_bytes(value) <= self._cache.maxsize:
                self._cache[key] = value

    @property
    def held(self) -> int:
        """Bytes of cached images, features and results."""
        return int(self._cache.currsize)


def available_devices() -> tuple[str, ...]:
    """Devices of this machine as torch names them; the one that `clearclip.load` takes by itself comes first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return (*found, "cpu")


def digest(image: Path, *, limits: Limits) -> str:
    """SHA-256 of an image's file, its key in the cache; `ImageError` as `read_image`."""
    return hashlib.sha256(read_image(image, limits=limits)).hexdigest()


def held_bytes(value: Any) -> int:
    """Bytes of the tensors and arrays in dataclasses, dicts and lists, each counted once; at least 1."""
    seen: set[int] = set()
    todo, total = [value], 1
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (torch.Tensor, np.ndarray)):
            total += item.nbytes
        elif isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, (list, tuple)):
            todo += item
        elif hasattr(item, "__dict__"):
            todo += vars(item).values()
    return total
