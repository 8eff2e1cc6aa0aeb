"""Segmenter: encode an image once, classify it with any words by any method as often as wanted."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import repeat
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip import __version__
from clearclip.backbones import Backbone, load_backbone
from clearclip.backbones.base import check_backbone
from clearclip.backbones.devices import pick_device, pick_dtype
from clearclip.classify.freecp import MOST_CROPS
from clearclip.classify.grid import LogitGrid
from clearclip.classify.maps import grids
from clearclip.classify.words import Words
from clearclip.decompose import MethodLike, Several, fitted
from clearclip.encode.encoding import Encoded, Encoder
from clearclip.encode.images import MAX_PIXELS, ImageLike, load_image
from clearclip.encode.levels import check_range
from clearclip.encode.text import TemplatesLike, distinct, embed_queries, read_templates
from clearclip.errors import UsageError
from clearclip.files.hashes import default_cache_dir
from clearclip.methods import Method, parse_method, parse_methods
from clearclip.negatives import negatives, without
from clearclip.protocol import Presence, Protocol, get_protocol
from clearclip.segmentation import Segmentation
from clearclip.vocabulary import BACKGROUND, Vocabulary

IMAGES_AT_ONCE = 8
EMBEDDED = 10_000
"""Words whose embeddings stay in memory."""


def load(
    model: str = "clip-b16",
    *,
    method: MethodLike = "clearclip",
    device: str = "auto",
    dtype: str = "auto",
    protocol: str | Protocol = "native",
    templates: TemplatesLike = None,
    tokenizer: str | None = None,
    cache: bool = True,
    max_pixels: int = MAX_PIXELS,
    show_progress: bool | None = None,
    value_range: tuple[float, float] | None = None,
) -> Segmenter:
    """Load a checkpoint, named as for `load_backbone`, and make a segmenter of it.

    >>> segmenter = clearclip.load("tiny", device="cpu")
    >>> segmenter.method.spelling
    'clearclip'

    `device` is `"auto"` (CUDA, then Apple's MPS, then the CPU) or torch's name of one; `dtype` is `"auto"`,
    `"float32"`, `"float16"` or `"bfloat16"`; `templates` are prompts with `{}` for the label, instead of the paper's
    80; `tokenizer` is a Hugging Face tokenizer's folder or id instead of the model's own; `value_range` are the values
    that become black and white, by default as `load_image` finds them; the others are `Segmenter`'s. `ClearclipError`
    says what to do about a name that is unknown, or a checkpoint that cannot be used.
    """
    parse_method(method), get_protocol(protocol), pick_dtype(dtype, pick_device(device))
    if templates is not None:
        read_templates(templates)
    if value_range is not None:
        check_range(value_range)
    return Segmenter(
        load_backbone(model, tokenizer=tokenizer),
        method=method,
        device=device,
        dtype=dtype,
        protocol=protocol,
        templates=templates,
        cache=cache,
        max_pixels=max_pixels,
        show_progress=show_progress,
        value_range=value_range,
    )


class Segmenter:
    """A backbone with a method, a protocol and its prompts; see `load` for the arguments.

    The backbone is moved in place; `dtype="model"` leaves its weights as they are. `cache` keeps text embeddings on
    disk (`$CLEARCLIP_CACHE`, else the user's cache folder), `max_pixels` refuses larger images, `show_progress` draws
    bars on standard error (`None`: where that is a terminal; elsewhere lines go to the logger `clearclip`).

    Attributes:
        backbone: The model.
        method: Used where a call names none.
        protocol: Resize, windows and post-processing.
        templates: The prompts.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        method: MethodLike = "clearclip",
        device: str = "auto",
        dtype: str = "model",
        protocol: str | Protocol = "native",
        templates: TemplatesLike = None,
        cache: bool = True,
        max_pixels: int = MAX_PIXELS,
        show_progress: bool | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.method = parse_method(method)
        self.protocol = get_protocol(protocol)
        self.templates = read_templates(templates)
        if not max_pixels >= 1:  # NaN would allow any number
            raise UsageError(f"max_pixels={max_pixels!r}: a number of at least 1 is needed")
        self.max_pixels = max_pixels
        self.value_range = None if value_range is None else check_range(value_range)
        self.show_progress = show_progress
        self._cache_dir = default_cache_dir() if cache else None
        self._embedded: dict[tuple[tuple[str, ...], str], Tensor] = {}
        self._told_apart: dict[Vocabulary, Vocabulary] = {}
        check_backbone(backbone)
        target = pick_device(device)
        fitted(backbone, self.method)
        self.backbone = backbone.to(target, backbone.dtype if dtype == "model" else pick_dtype(dtype, target))

    @property
    def encoder(self) -> Encoder:
        """The backbone with the protocol in pixels."""
        return Encoder(self.backbone, self.protocol.in_pixels(self.backbone.native_size))

    def read(self, image: ImageLike) -> npt.NDArray[np.uint8]:
        """`load_image` with the segmenter's limit of pixels and range of values."""
        return load_image(image, max_pixels=self.max_pixels, value_range=self.value_range)

    @overload
    def __call__(
        self,
        images: Sequence[ImageLike],
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | None = None,
        presence: str | None = None,
    ) -> list[Segmentation]: ...
    @overload
    def __call__(
        self,
        images: ImageLike,
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | None = None,
        presence: str | None = None,
    ) -> Segmentation: ...

    def __call__(
        self,
        images: Any,
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | None = None,
        presence: str | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Label every pixel of one image or of a list of them.

        >>> segmenter(clearclip.scenes.make_scene(0).image, ["sky", "grass", "tree"]).labels
        ('sky', 'grass', 'tree')

        An image is a path, a PIL image or an array `(H, W, 3)`; the windows of a list go through the encoder together.
        Label maps are upright, turned as EXIF says, as `PIL.ImageOps.exif_transpose(image)` is and `image` may not be.
        Labels are what `Vocabulary.parse` reads, or `prepare` returned. Pixels whose best probability is below the
        threshold become background: the label of that name, or a new first one; by default the protocol's threshold
        holds where the vocabulary has a background. `presence` is a rule that says which labels compete, as in
        `Protocol`, whose it is by default. `ImageError` if an image cannot be read, `UsageError` if the labels
        cannot be used.
        """
        single = isinstance(images, (np.ndarray, str)) or not isinstance(images, (list, tuple))
        listed = [images] if single else list(images)
        if not listed:
            raise UsageError("no images were given: give at least one")
        row = self.method if method is None else parse_method(method)
        words, encoder = self.prepare(labels, threshold=threshold, presence=presence), self.encoder
        results: list[Segmentation] = []
        for start in range(0, len(listed), IMAGES_AT_ONCE):
            arrays = [self.read(image) for image in listed[start : start + IMAGES_AT_ONCE]]
            encoded = [encoder.prepare(array) for array in arrays]
            results += map(self._labelled, encoded, grids(encoder, encoded, row, words), repeat(words), repeat(row))
        return results[0] if single else results

    def encode(self, image: ImageLike, *, method: MethodLike | Several | None = None) -> Encoded:
        """Run the trunk over an image, once for all words and methods, for `classify`.

        Other methods than these may be asked for later, for the price of their rewritten blocks (away from the model's
        native size, GEM reads a trunk of its own). `ImageError` if the image cannot be read, `UsageError` if a method
        is unknown or deeper than the model.
        """
        rows = self._rows(method)
        encoded = self.encoder.prepare(self.read(image))
        self.encoder.add_features(encoded, rows)
        return encoded

    @overload
    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | Mapping[str, float] | None = None,
        presence: str | None = None,
    ) -> Segmentation: ...
    @overload
    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: Several,
        threshold: float | Mapping[str, float] | None = None,
        presence: str | None = None,
    ) -> dict[str, Segmentation]: ...

    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: MethodLike | Several | None = None,
        threshold: float | Mapping[str, float] | None = None,
        presence: str | None = None,
    ) -> Segmentation | dict[str, Segmentation]:
        """Label an encoded image: new words run no part of the encoder, another method its rewritten blocks alone.

        Arguments as in a call; for a list of methods the result is a dict by spelling, and the threshold may be one.
        """
        single = method is None or isinstance(method, (str, Method))
        rows, encoder = self._rows(method), self.encoder
        if isinstance(labels, Words):
            rule = labels.presence
        else:
            rule = Presence.parse(self.protocol.presence if presence is None else presence)
        encoder.add_features(encoded, rows, early=rule.looks_at_windows)
        results = {}
        for row in rows:
            wanted = threshold.get(row.spelling) if isinstance(threshold, Mapping) else threshold
            words = self.prepare(labels, threshold=wanted, presence=presence)
            (grid,) = grids(encoder, [encoded], row, words)
            results[row.spelling] = self._labelled(encoded, grid, words, row)
        return results[rows[0].spelling] if single else results

    def prepare(
        self,
        labels: Any,
        *,
        threshold: float | None = None,
        templates: TemplatesLike = None,
        presence: str | None = None,
    ) -> Words:
        """Embed the labels once, to classify many images; arguments as in a call, and prompts instead of its own.

        What another segmenter prepared, and a threshold or prompts beside prepared words, is a `UsageError`.
        """
        model, scale = self.backbone.fingerprint, self.protocol.logit_scale
        if isinstance(labels, Words):
            if (labels.model, labels.logit_scale) != (model, scale):
                raise UsageError(
                    "these words were prepared by a segmenter of another model or protocol: prepare them here"
                )
            if (threshold, templates, presence) != (None, None, None):
                raise UsageError("these words are prepared: give threshold, prompts and presence to prepare() instead")
            return labels
        rule = Presence.parse(self.protocol.presence if presence is None else presence)
        if rule.makes_maps and (threshold is not None or self.protocol.area):
            raise UsageError(
                f"presence={rule} labels by a rule of its own (the background is what no label's map claims): leave "
                "out threshold and area, or take freecp-filter"
            )
        vocabulary, limit = self.vocabulary(labels, threshold, needs_words=not rule.makes_maps)
        prompts = self.templates if templates is None else read_templates(templates)
        text = self.embed(vocabulary, templates=prompts)
        return Words(vocabulary, text, limit, scale, prompts, model, rule, self.protocol.area)

    def embed(self, labels: Any, *, templates: TemplatesLike = None) -> Tensor:
        """Text embeddings of a vocabulary's queries, `(Q, E)` float32 of unit length; kept in memory and on disk.

        `UsageError` if a label does not fit the model's context, `UnsupportedModelError` if the model reads no words.
        """
        prompts = self.templates if templates is None else read_templates(templates)
        queries = Vocabulary.parse(labels).queries
        known = self._embedded  # another thread may begin a new one
        missing = [query for query in dict.fromkeys(queries) if (prompts, query) not in known]
        if missing:
            if len(known) > EMBEDDED:
                self._embedded = known = {key: known[key] for one in queries if (key := (prompts, one)) in known}
            embeddings = embed_queries(
                self.backbone, missing, templates=prompts, cache_dir=self._cache_dir, show_progress=self.show_progress
            )
            known.update(zip(((prompts, query) for query in missing), embeddings, strict=True))
        return torch.stack([known[prompts, query] for query in queries])

    def logits(
        self,
        images: Tensor,
        text_embeddings: Tensor,
        *,
        crop_size: int | None = None,
        stride: int | None = None,
        size: tuple[int, int] | None = None,
        method: MethodLike | None = None,
    ) -> Tensor:
        """Cosine logits of prepared tensors: windows, stitching and the resize of the protocol, without softmax.

        Images are `(B, 3, H, W)`, resized and normalised, embeddings `(Q, E)` of any length; the result is
        `(B, Q, height, width)` float32. Crop size and stride are in pixels and by default the protocol's, `size` is
        `(height, width)` and by default the images'.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images have the shape {tuple(images.shape)}: (B, 3, H, W) is needed")
        if text_embeddings.ndim != 2 or text_embeddings.shape[1] != self.backbone.embed_dim:
            raise UsageError(
                f"text embeddings have the shape {tuple(text_embeddings.shape)}: "
                f"(Q, {self.backbone.embed_dim}) is needed"
            )
        row = self.method if method is None else parse_method(method)
        own = self.encoder
        encoder = Encoder(own.backbone, own.protocol.with_overrides(crop_size=crop_size, stride=stride))
        text = F.normalize(text_embeddings.to(self.backbone.device).float(), dim=-1)
        words = Words(
            Vocabulary.parse([f"query {index}" for index in range(len(text))]),
            text,
            None,
            own.protocol.logit_scale,
            (),
            "",
        )
        height, width = images.shape[2:]
        encoded = [Encoded(size or (height, width), encoder.plan((height, width)), image.float()) for image in images]
        return torch.stack([grid.logits() for grid in grids(encoder, encoded, row, words)])

    def describe(
        self,
        method: Method,
        threshold: float | None = None,
        *,
        templates: tuple[str, ...] | None = None,
        vocabulary: Vocabulary | None = None,
        presence: Presence | None = None,
    ) -> dict[str, str]:
        """How a result is made, as texts: everything that decides it, but not where it is computed.

        The labels are told where a vocabulary is given.
        """
        numbers, prompts = self.encoder.protocol, self.templates if templates is None else templates
        described = {
            "software": f"clearclip {__version__}",
            "model": self.backbone.name,
            "weights": self.backbone.fingerprint[:16],
            "method": method.spelling,
            "protocol": f"short_side={numbers.short_side:g} long_side={numbers.long_side:g} "
            f"crop_size={numbers.crop_size:g} stride={numbers.stride:g} normalization={numbers.normalization} "
            f"logit_scale={numbers.logit_scale:.17g}" + (" remainder=drop" if numbers.remainder == "drop" else ""),
            "threshold": "none" if threshold is None else f"{threshold:.15g}",
            "templates": "80 of the paper"
            if prompts == read_templates(None)
            else " | ".join(template.replace("|", "||") for template in prompts),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "versions": f"python {platform.python_version()}, torch {version('torch')}, "
            f"open_clip_torch {version('open_clip_torch')}, transformers {version('transformers')}",
        }
        rule = numbers.presence if presence is None else str(presence)
        described |= {"presence": rule} if rule != "none" else {}
        described |= {"area": f"{numbers.area:.15g}"} if numbers.area else {}
        if method.own_name is not None:
            described["name"] = method.own_name
        if self.value_range is not None:
            described["range"] = "{:g} to {:g}".format(*self.value_range)
        if vocabulary is not None:
            described["labels"] = json.dumps(vocabulary.entries, ensure_ascii=False)
        return described

    def vocabulary(
        self, labels: Any, threshold: float | None, *, needs_words: bool | None = None
    ) -> tuple[Vocabulary, float | None]:
        """The labels with the background that a threshold needs, and the threshold that holds, as in a call.

        A synonym that is another label's word to the model is left to that label, with a warning. `needs_words`:
        whether a background needs words of its own or a threshold, by default as the protocol's presence says.
        """
        if needs_words is None:
            needs_words = not Presence.parse(self.protocol.presence).makes_maps
        vocabulary, limit = Vocabulary.parse(labels), threshold
        if limit is not None and not 0 <= limit <= 1:
            raise UsageError(f"threshold={limit!r}: a probability from 0 to 1 is needed")
        if limit is not None and vocabulary.background is None and vocabulary.beside in ("alone", "none"):
            vocabulary = vocabulary.with_background(BACKGROUND)
        vocabulary = self._distinct(self._with_words_beside(vocabulary))
        if limit is None and vocabulary.background is not None:
            limit = self.protocol.threshold
        is_silent = vocabulary.background_index not in (None, *vocabulary.query_to_class)
        if limit is None and needs_words and is_silent:
            raise UsageError(
                f"background {vocabulary.background!r} has no words of its own and there is no threshold, so it "
                "would never win: give a threshold (--threshold 0.4), or list it among the labels"
            )
        count = len(vocabulary.queries)
        if limit is not None and 0 < limit <= 1 / count:
            warnings.warn(
                f"threshold {limit:g} gives no background: the likeliest of {count} queries always has a probability "
                f"of at least {1 / count:.3g}; name more labels, best some for what else is in the picture"
                f"{', or give --background auto (background=)' if count == 1 else ''}",
                stacklevel=2,
            )
        return vocabulary, limit

    def _with_words_beside(self, vocabulary: Vocabulary) -> Vocabulary:
        """With the words for a background that the vocabulary asks for; for a label that stands alone, it is said."""
        rule, text = vocabulary.beside, self.backbone.text
        alone = rule == "alone" and len(vocabulary.labels) == 1 and vocabulary.background is None
        if (rule in ("none", "alone") and not alone) or text is None:
            return vocabulary
        named = [query for label in vocabulary.labels if label.name != BACKGROUND for query in label.queries]
        words = without(rule, named) if isinstance(rule, tuple) else negatives(named, known=text.known_words)
        if not words:
            raise UsageError("no background words are left beside the labels: give some that are none of the labels")
        if alone:
            name = vocabulary.names[0]
            warnings.warn(
                f"{name[:60]!r} alone would fill every image: {len(words)} words for what else may be there are the "
                f"background ({', '.join(words[:4])}, …); --background none (Vocabulary.parse(…, "
                "background='none')) leaves them out",
                stacklevel=3,
            )
        return vocabulary.with_words_beside(words)

    def _distinct(self, vocabulary: Vocabulary) -> Vocabulary:
        if self.backbone.text is None or vocabulary.repeats:
            return vocabulary
        known = self._told_apart
        if vocabulary not in known:
            if len(known) > 100:
                self._told_apart = known = {}
            known[vocabulary] = distinct(vocabulary, self.backbone.text)
        return known[vocabulary]

    def _rows(self, method: MethodLike | Several | None) -> tuple[Method, ...]:
        if method is None:
            return (self.method,)
        return parse_methods([method] if isinstance(method, (str, Method)) else method)

    def _labelled(self, encoded: Encoded, grid: LogitGrid, words: Words, method: Method) -> Segmentation:
        words = words.settle(grid)
        label_map, scores = words.label(grid)
        if unseen := sum(one.unseen for one in grid.filtered):
            warnings.warn(
                f"FreeCP looks at {MOST_CROPS} crops of a window at most: labels that {unseen} more would have told "
                "apart all compete",
                stacklevel=3,
            )
        assert encoded.image is not None  # only `logits` goes without
        info = self.describe(method, words.threshold, templates=words.templates, presence=words.presence)
        result = Segmentation(
            label_map=label_map,
            vocabulary=words.vocabulary,
            image=encoded.image,
            info=info,
            _grid=grid,
            _words=words,
            _scores=scores,
        )
        absent = json.dumps(result.absent, ensure_ascii=False)
        return replace(result, info={**info, "absent": absent}) if result.absent else result
