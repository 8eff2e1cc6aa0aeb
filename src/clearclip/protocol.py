"""How an image is cut into windows and how logits become labels: numbers only, no torch.

The paper's evaluation (supplement; `paper` and a preset per benchmark) and the same in units of a model's native size
(`native`), which suits images of one's own and models of other sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from clearclip.errors import UsageError, nearest

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LONGEST = 16_384
"""Of an image's short side or a window, in pixels; one of that size takes 3 GB before anything is computed."""


PRESENCE: dict[str, tuple[float, ...]] = {
    "none": (),
    "weak": (0.2,),
    "freecp": (0.1, 0.7),
    "freecp-filter": (0.1, 0.7),
}
"""Presence rules with the numbers that hold where none are given."""
CHOICES = {"units": ("pixels", "native"), "remainder": ("pad", "drop"), "normalization": ("clip", "model")}


@dataclass(frozen=True)
class Presence:
    """A rule that says which labels compete, and its numbers."""

    rule: str = "none"
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Presence:
        """Read `none`, `weak:P`, `freecp:R:A` or `freecp-filter:R:A`.

        >>> Presence.parse("weak:0.2").numbers
        (0.2,)
        """
        rule, *numbers = str(text).strip().lower().split(":")
        if rule not in PRESENCE:
            raise UsageError(f"presence {text!r} is not known: {nearest(rule, PRESENCE)}")
        defaults = PRESENCE[rule]
        try:
            given = tuple(map(float, numbers)) or defaults
        except ValueError:
            given = ()
        if len(given) != len(defaults) or not all(0 <= number <= 1 for number in given):
            raise UsageError(f"presence {text!r}: write it as in {':'.join([rule, *map(str, defaults)])}, from 0 to 1")
        return cls(rule, given)

    @property
    def looks_at_windows(self) -> bool:
        """Whether each window is filtered by itself."""
        return self.rule.startswith("freecp")

    @property
    def makes_maps(self) -> bool:
        """Whether maps of labels take the place of cosines with queries."""
        return self.rule == "freecp"

    def __str__(self) -> str:
        return ":".join([self.rule, *(f"{number:.15g}" for number in self.numbers)])


@dataclass(frozen=True)
class Protocol:
    """Resize, windows and post-processing of one run.

    Attributes:
        short_side: Length the image's short side is resized to; the ratio is kept.
        long_side: Upper bound of the resized long side; it wins over `short_side`.
        crop_size: Side of a sliding window; 0: the whole resized image is one window.
        stride: Step of the sliding window, at most `crop_size`, so that every pixel is covered.
        units: `"pixels"`, or `"native"`: the four lengths are multiples of the model's native image side.
        remainder: What happens to a window whose side is no multiple of the patch size: `"pad"` adds zeros on both
            sides (ClearCLIP); `"drop"` cuts up to a patch less a pixel off its bottom and right (NACLIP).
        normalization: `"clip"`: CLIP's mean and deviation, as in the paper for every family; `"model"`: those the
            checkpoint was trained with.
        logit_scale: Factor on the cosines before the softmax over queries.
        threshold: Pixels whose best probability is below become background, where the vocabulary has one; `None`: the
            words alone decide.
        presence: Which labels compete in an image: `"none"`: all; `"weak:P"`: those whose best probability among all
            queries reaches P in some cell of the grid; `"freecp-filter:R:A"`: in each window those that FreeCP keeps
            by its thresholds of redundancy and ambiguity; `"freecp:R:A"`: its maps take the cosines' place, too.
        area: Labels that win at most this share of what all labels but the background win lose it to the others (SCLIP,
            SC-CLIP); 0: none.
    """

    short_side: float
    long_side: float
    crop_size: float
    stride: float
    units: str = "pixels"
    remainder: str = "pad"
    normalization: str = "clip"
    logit_scale: float = 50.0
    threshold: float | None = None
    presence: str = "none"
    area: float = 0.0

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side", "crop_size", "stride", "logit_scale"):
            value = getattr(self, name)
            if name == "crop_size" and value == 0:
                continue
            if not (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
                raise UsageError(f"{name}={value!r}: a finite number above 0 is needed")
            if name in ("short_side", "crop_size", "stride") and value > LONGEST:
                raise UsageError(f"{name}={value:g}: {LONGEST:,} is the largest length that is allowed")
        if not self.crop_size and self.units == "pixels" and self.long_side > LONGEST:
            raise UsageError(
                f"long_side={self.long_side:g} with crop_size=0: {LONGEST:,} pixels are allowed for a window"
            )
        if self.crop_size and self.stride > self.crop_size:
            raise UsageError(
                f"stride={self.stride:g} is larger than crop_size={self.crop_size:g}: pixels between the windows "
                "would get no label (use a stride of at most the crop size)"
            )
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UsageError(f"{name}={value!r} is not known: {nearest(value, allowed)}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold={self.threshold!r}: a probability from 0 to 1 is needed")
        object.__setattr__(self, "presence", str(Presence.parse(self.presence)))
        if not 0 <= self.area < 1:
            raise UsageError(f"area={self.area!r}: a share from 0 to below 1 is needed")

    def in_pixels(self, native_size: int) -> Protocol:
        """The same protocol in whole pixels, at least 1 each; a `crop_size` of 0 stays. native_size is in pixels."""
        unit = native_size if self.units == "native" else 1
        lengths: dict[str, Any] = {
            name: max(1, round(getattr(self, name) * unit)) if getattr(self, name) else 0
            for name in ("short_side", "long_side", "crop_size", "stride")
        }
        return replace(self, units="pixels", **lengths)

    def with_overrides(self, **numbers: Any) -> Protocol:
        """A copy in which the numbers that are not `None` replace the preset's.

        A length is in pixels: to override one of a `native` preset, call `in_pixels` first.
        """
        return replace(self, **{name: value for name, value in numbers.items() if value is not None})


_PAPER = Protocol(short_side=448, long_side=2048, crop_size=448, stride=224)

PROTOCOLS = MappingProxyType(
    {
        "native": Protocol(
            short_side=2, long_side=2048 / 224, crop_size=2, stride=1, units="native", normalization="model"
        ),
        "paper": _PAPER,
        "voc21": replace(_PAPER, threshold=0.5),
        "voc20": _PAPER,
        "context60": replace(_PAPER, threshold=0.15),
        "context59": _PAPER,
        "coco_object": replace(_PAPER, threshold=0.4),
        "coco_stuff": _PAPER,
        "cityscapes": replace(_PAPER, crop_size=224, stride=224),
        "ade20k": _PAPER,
    }
)


def get_protocol(name: str | Protocol) -> Protocol:
    """Look up a preset of `PROTOCOLS`; a `Protocol` is returned as it is."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise UsageError(f"protocol {name!r} is not known: {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
