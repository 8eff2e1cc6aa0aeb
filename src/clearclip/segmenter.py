"""Segmenter: encode an image once, classify it with any words by any method as often as wanted."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip import __version__
from clearclip.backbones import Backbone, load_backbone
from clearclip.backbones.devices import inference, pick_device, pick_dtype
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import MethodLike, Several, check_depth
from clearclip.encode.encoding import Encoded, add_features, logit_grids, plan_of, prepare_images
from clearclip.encode.images import MAX_PIXELS, ImageLike, load_image
from clearclip.encode.text import TemplatesLike, embed_queries, read_templates
from clearclip.errors import UsageError
from clearclip.files.hashes import default_cache_dir
from clearclip.methods import Method, parse_method, parse_methods
from clearclip.protocol import Protocol, get_protocol
from clearclip.segmentation import Segmentation
from clearclip.vocabulary import Vocabulary

IMAGES_AT_ONCE = 8
BACKGROUND = "background"


def load(
    model: str = "clip-b16",
    *,
    method: MethodLike = "clearclip",
    device: str = "auto",
    dtype: str = "auto",
    protocol: str | Protocol = "native",
    templates: TemplatesLike = None,
    tokenizer: str | None = None,
) -> Segmenter:
    """Load a checkpoint and make a segmenter of it.

    Args:
        model: As `clearclip.load_backbone`.
        method: The method that is used where a call names none.
        device: `"auto"` (CUDA, then Apple's MPS, then the CPU), or torch's name of a device.
        dtype: As `backbones.devices.pick_dtype`: `"auto"`, `"float32"`, `"float16"` or `"bfloat16"`.
        protocol: A preset's name or a `Protocol`.
        templates: Prompts with `{}` for the label; `None` for the paper's 80.
        tokenizer: Hugging Face tokenizer folder or id to use instead of the model's own.

    Returns:
        The segmenter.

    Raises:
        ClearclipError: A name is unknown, or the checkpoint cannot be used; the message says what to do.
    """
    parse_method(method), get_protocol(protocol), pick_dtype(dtype, pick_device(device))
    if templates is not None:
        read_templates(templates)
    return Segmenter(
        load_backbone(model, tokenizer=tokenizer),
        method=method,
        device=device,
        dtype=dtype,
        protocol=protocol,
        templates=templates,
    )


class Segmenter:
    """A backbone with a method, a protocol and its prompts.

    Attributes:
        backbone: The model.
        method: Used where a call names none.
        protocol: Resize, windows and post-processing.
        templates: The prompts.

    Args:
        backbone: What `clearclip.view` or `clearclip.load_backbone` returns. It is moved in place.
        method: As `load`.
        device: As `load`.
        dtype: As `load`, or `"model"`: the backbone's own, so that a model of yours keeps its weights as they are.
        protocol: As `load`.
        templates: As `load`.
        cache: Whether text embeddings are kept on disk (`$CLEARCLIP_CACHE`, else the user's cache folder).
        max_pixels: Larger images are refused.
        show_progress: Whether long steps draw a bar on standard error; `None`: where that is a terminal.

    Raises:
        UsageError: A name is unknown, or the method is deeper than the model.
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
    ) -> None:
        self.method = parse_method(method)
        self.protocol = get_protocol(protocol)
        self.templates = read_templates(templates)
        if not max_pixels >= 1:  # NaN would allow any number
            raise UsageError(f"max_pixels={max_pixels!r}: a number of at least 1 is needed")
        self.max_pixels = max_pixels
        self.show_progress = show_progress
        self._cache_dir = default_cache_dir() if cache else None
        self._embedded: dict[tuple[tuple[str, ...], str], Tensor] = {}
        target = pick_device(device)
        check_depth(backbone, self.method)
        self.backbone = backbone.to(target, backbone.dtype if dtype == "model" else pick_dtype(dtype, target))

    @overload
    def __call__(
        self,
        images: Sequence[ImageLike],
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | None = None,
    ) -> list[Segmentation]: ...
    @overload
    def __call__(
        self,
        images: ImageLike,
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | None = None,
    ) -> Segmentation: ...

    def __call__(
        self, images: Any, labels: Any, *, method: MethodLike | None = None, threshold: float | None = None
    ) -> Segmentation | list[Segmentation]:
        """Label every pixel of one image or of a list of them.

        Args:
            images: A path, a PIL image, an array `(H, W, 3)`, or a list of these. The windows of a list go through the
                encoder together.
            labels: As `Vocabulary.parse`.
            method: Instead of the segmenter's own.
            threshold: Pixels whose best probability is below become background: the label of that name, or a
                new first one. Default: the protocol's, where the vocabulary has a background.

        Returns:
            One `Segmentation`, or a list of them.

        Raises:
            ImageError: An image cannot be read.
            UsageError: The labels cannot be used; there are no images.
        """
        single = isinstance(images, (np.ndarray, str)) or not isinstance(images, (list, tuple))
        listed = [images] if single else list(images)
        if not listed:
            raise UsageError("no images were given: give at least one")
        row = self.method if method is None else parse_method(method)
        vocabulary, limit = self.vocabulary(labels, threshold)
        text = self.embed(vocabulary)
        results: list[Segmentation] = []
        for start in range(0, len(listed), IMAGES_AT_ONCE):
            arrays = [load_image(image, max_pixels=self.max_pixels) for image in listed[start : start + IMAGES_AT_ONCE]]
            encoded = prepare_images(self.backbone, arrays, self._pixels())
            grids = logit_grids(self.backbone, encoded, row, text)
            results += [
                self._labelled(image, grid, vocabulary, row, limit) for image, grid in zip(encoded, grids, strict=True)
            ]
        return results[0] if single else results

    def encode(self, image: ImageLike, *, method: MethodLike | Several | None = None) -> Encoded:
        """Run the trunk over an image, once for all words and methods.

        Args:
            image: A path, a PIL image or an array `(H, W, 3)`.
            method: The method, or a list of them, that will be asked for, instead of the segmenter's own; any other
                may be asked for later, for the price of its rewritten blocks (away from the model's native size, GEM
                reads a trunk of its own).

        Returns:
            What `classify` takes.

        Raises:
            ImageError: The image cannot be read.
            UsageError: A method is unknown or deeper than the model.
        """
        rows = self._rows(method)
        (encoded,) = prepare_images(self.backbone, [load_image(image, max_pixels=self.max_pixels)], self._pixels())
        add_features(self.backbone, encoded, rows)
        return encoded

    @overload
    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: MethodLike | None = None,
        threshold: float | Mapping[str, float] | None = None,
    ) -> Segmentation: ...
    @overload
    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: Several,
        threshold: float | Mapping[str, float] | None = None,
    ) -> dict[str, Segmentation]: ...

    def classify(
        self,
        encoded: Encoded,
        labels: Any,
        *,
        method: MethodLike | Several | None = None,
        threshold: float | Mapping[str, float] | None = None,
    ) -> Segmentation | dict[str, Segmentation]:
        """Label an encoded image: new words run no part of the encoder, another method its rewritten blocks alone.

        Args:
            encoded: What `encode` returned.
            labels: As `Vocabulary.parse`.
            method: A method, or a list of them, instead of the segmenter's own.
            threshold: As in a call; for a list of methods also a dict by spelling.

        Returns:
            A `Segmentation`, or a dict of them by the method's spelling.

        Raises:
            UsageError: A method is unknown, or the labels cannot be used.
        """
        single = method is None or isinstance(method, (str, Method))
        rows = self._rows(method)
        add_features(self.backbone, encoded, rows)
        results = {}
        for row in rows:
            wanted = threshold.get(row.spelling) if isinstance(threshold, Mapping) else threshold
            vocabulary, limit = self.vocabulary(labels, wanted)
            grid = self._grid(encoded, self.embed(vocabulary), row)
            results[row.spelling] = self._labelled(encoded, grid, vocabulary, row, limit)
        return results[rows[0].spelling] if single else results

    def embed(self, labels: Any) -> Tensor:
        """Text embeddings of a vocabulary's queries; kept in memory and on disk.

        Args:
            labels: As `Vocabulary.parse`.

        Returns:
            `(Q, E)` float32, unit length.

        Raises:
            UsageError: A label does not fit the model's context.
            UnsupportedModelError: The backbone cannot read words.
        """
        queries = Vocabulary.parse(labels).queries
        missing = [query for query in dict.fromkeys(queries) if (self.templates, query) not in self._embedded]
        if missing:
            if len(self._embedded) > 10_000:
                self._embedded.clear()
                missing = list(dict.fromkeys(queries))
            embeddings = embed_queries(
                self.backbone,
                missing,
                templates=self.templates,
                cache_dir=self._cache_dir,
                show_progress=self.show_progress,
            )
            self._embedded.update(zip(((self.templates, query) for query in missing), embeddings, strict=True))
        return torch.stack([self._embedded[self.templates, query] for query in queries])

    @inference
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

        Args:
            images: `(B, 3, H, W)`, resized and normalised.
            text_embeddings: `(Q, E)`; they are normalised here.
            crop_size: Side of a window in pixels; default: the protocol's.
            stride: Step of the windows; default: the protocol's.
            size: `(height, width)` of the logits; default: the images'.
            method: Instead of the segmenter's own.

        Returns:
            `(B, Q, height, width)` float32 cosines.

        Raises:
            UsageError: A shape does not fit.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images have the shape {tuple(images.shape)}: (B, 3, H, W) is needed")
        if text_embeddings.ndim != 2 or text_embeddings.shape[1] != self.backbone.embed_dim:
            raise UsageError(
                f"text embeddings have the shape {tuple(text_embeddings.shape)}: "
                f"(Q, {self.backbone.embed_dim}) is needed"
            )
        row = self.method if method is None else parse_method(method)
        numbers = self._pixels().with_overrides(crop_size=crop_size, stride=stride)
        plan = plan_of(self.backbone, (images.shape[2], images.shape[3]), numbers)
        text = F.normalize(text_embeddings.to(self.backbone.device).float(), dim=-1)
        empty = np.zeros((*(size or tuple(images.shape[2:])), 3), dtype=np.uint8)
        encoded = [Encoded(empty, plan, image.float()) for image in images]
        return torch.stack([grid.logits() for grid in logit_grids(self.backbone, encoded, row, text)])

    def describe(self, method: Method, threshold: float | None = None) -> dict[str, str]:
        """How a result is made: everything that decides it, but not where it is computed.

        Args:
            method: The row used.
            threshold: The background threshold used.

        Returns:
            Texts: model with its fingerprint (weights, settings, tokenizer), method, protocol, prompts and versions.
        """
        numbers = self._pixels()
        return {
            "software": f"clearclip {__version__}",
            "model": self.backbone.name,
            "weights": self.backbone.fingerprint[:16],
            "method": method.spelling,
            "protocol": f"short_side={numbers.short_side:g} long_side={numbers.long_side:g} "
            f"crop_size={numbers.crop_size:g} stride={numbers.stride:g} normalization={numbers.normalization} "
            f"logit_scale={numbers.logit_scale:.17g}" + (" remainder=drop" if numbers.remainder == "drop" else ""),
            "threshold": "none" if threshold is None else f"{threshold:.15g}",
            "templates": "80 of the paper"
            if self.templates == read_templates(None)
            else " | ".join(template.replace("|", "||") for template in self.templates),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "versions": f"python {platform.python_version()}, torch {version('torch')}, "
            f"open_clip_torch {version('open_clip_torch')}, transformers {version('transformers')}",
        }

    def vocabulary(self, labels: Any, threshold: float | None) -> tuple[Vocabulary, float | None]:
        """The labels of a run with the background that a threshold needs, and the threshold that holds.

        Args:
            labels: As `Vocabulary.parse`.
            threshold: As in a call.

        Returns:
            The vocabulary, and the threshold or `None`.

        Raises:
            UsageError: The labels cannot be used, or the threshold is no probability.
        """
        vocabulary = Vocabulary.parse(labels)
        if threshold is None:
            limit = self.protocol.threshold if vocabulary.background is not None else None
            if limit is None and not vocabulary.asks_background:
                raise UsageError(
                    f"background {vocabulary.background!r} has no words of its own and there is no threshold, so it "
                    "would never win: give a threshold (--threshold 0.4), or list it among the labels"
                )
            return vocabulary, limit
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold={threshold!r}: a probability from 0 to 1 is needed")
        return vocabulary if vocabulary.background else vocabulary.with_background(BACKGROUND), threshold

    def _rows(self, method: MethodLike | Several | None) -> tuple[Method, ...]:
        if method is None:
            return (self.method,)
        return parse_methods([method] if isinstance(method, (str, Method)) else method)

    def _pixels(self) -> Protocol:
        return self.protocol.in_pixels(self.backbone.native_size)

    def _grid(self, encoded: Encoded, text_embeddings: Tensor, method: Method) -> LogitGrid:
        size = (encoded.image.shape[0], encoded.image.shape[1])
        return LogitGrid.from_features(encoded.features(method), text_embeddings, plan=encoded.plan, size=size)

    @inference
    def _labelled(
        self, encoded: Encoded, grid: LogitGrid, vocabulary: Vocabulary, method: Method, threshold: float | None
    ) -> Segmentation:
        background = vocabulary.background_index
        winners, scores = grid.best(
            logit_scale=self.protocol.logit_scale, scores=threshold is not None and background is not None
        )
        owners = torch.tensor(vocabulary.query_to_class, device=winners.device, dtype=torch.int32)
        label_map = owners[winners]
        if scores is not None and threshold is not None and background is not None:
            label_map = label_map.masked_fill_(scores < threshold, background)
        return Segmentation(
            label_map=np.asarray(label_map.cpu().numpy(), dtype=np.int32),
            vocabulary=vocabulary,
            image=encoded.image,
            info=self.describe(method, threshold),
            _grid=grid,
            _logit_scale=self.protocol.logit_scale,
            _scores=scores,
        )
