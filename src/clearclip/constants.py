"""Published numbers that a method's switches read: their ranges and defaults as rows of data. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Switch = tuple[str, str]
"""An axis and one of its values."""


@dataclass(frozen=True)
class Constant:
    """A number that means something beside some switches alone.

    Attributes:
        name: The axis.
        meaning: What it is, with its source.
        read_by: The switches that read it.
        low: Smallest value.
        high: Largest value.
        default: For every model, or by number of blocks: see `at_depth`.
        whole: Whether it counts something.
        block: Whether it is a block's number, counted from 0.
    """

    name: str
    meaning: str
    read_by: tuple[Switch, ...]
    low: float
    high: float
    default: float | Mapping[int, float]
    whole: bool = False
    block: bool = False

    @property
    def values(self) -> str:
        """What the axis takes, for lists."""
        kind = "a whole number" if self.whole else "a number"
        if not isinstance(self.default, Mapping):
            return f"{kind}; default {self.default:g}"
        usual = ", ".join(f"{value:g} in {depth} blocks" for depth, value in self.default.items())
        return f"{kind}; default {usual}" + (", in others in proportion" if self.block else "")

    @property
    def readers(self) -> str:
        """The switches that read it, as they are spelled."""
        return " or ".join(f"{axis}={value}" for axis, value in self.read_by)

    def at_depth(self, blocks: int) -> float:
        """The default for a model of so many blocks: that of the nearest published depth, block numbers in proportion.

        >>> CONSTANTS["pre"].at_depth(12), CONSTANTS["pre"].at_depth(24), CONSTANTS["pre"].at_depth(10)
        (8, 16, 6)
        """
        if not isinstance(self.default, Mapping):
            return self.default
        depth = min(self.default, key=lambda published: abs(published - blocks))
        value = self.default[depth]
        return int(value) * blocks // depth if self.block else value


CONSTANTS = {
    constant.name: constant
    for constant in (
        Constant("k", "neighbours of a token (SC-CLIP)", (("repair", "lof"),), 1, 10_000, 30, whole=True),
        Constant("share", "share of a window's tokens that are outliers (SC-CLIP)", (("repair", "lof"),), 0, 1, 0.05),
        Constant(
            "pre",
            "block whose output says which patches are alike before the last block, from 0 (SC-CLIP)",
            (("attention", "mid"), ("pool", "before")),
            0,
            999,
            {12: 8, 24: 16},
            whole=True,
            block=True,
        ),
        Constant(
            "temperature",
            "factor on that likeness, less its mean, before the softmax (SC-CLIP)",
            (("attention", "mid"),),
            0,
            10_000,
            3,
        ),
        Constant(
            "post",
            "block whose output says which patches are alike after the last block, from 0 (SC-CLIP)",
            (("pool", "after"),),
            0,
            999,
            {12: 3, 24: 6},
            whole=True,
            block=True,
        ),
        Constant(
            "beta",
            "cosine from which patches are pooled (SC-CLIP)",
            (("pool", "before"), ("pool", "after")),
            0,
            1,
            0.4,
        ),
        Constant(
            "start",
            "first block of the sum, from 0 (SC-CLIP)",
            (("streams", "sum"),),
            0,
            999,
            {12: 3, 24: 8},
            whole=True,
            block=True,
        ),
        Constant(
            "end",
            "block before which the sum ends, from 0 (SC-CLIP)",
            (("streams", "sum"),),
            1,
            999,
            {12: 10, 24: 19},
            whole=True,
            block=True,
        ),
        Constant(
            "omega",
            "share of the class token that every patch gains (SC-CLIP)",
            (("residual", "class"),),
            0,
            10_000,
            {12: 0.3, 24: 0.1},
        ),
        Constant(
            "polar_iters",
            "Newton-Schulz steps towards the rotation, far from which 5 of them end (PEARL)",
            (("attention", "procrustes"),),
            0,
            100,
            5,
            whole=True,
        ),
        Constant(
            "alpha_kk",
            "weight of the keys among themselves beside the rotated ones (PEARL)",
            (("attention", "procrustes"), ("attention", "procrustes-svd")),
            0,
            10_000,
            0.08,
        ),
        Constant(
            "temp_thd",
            "probability below which a pixel of the first pass has the first word (ResCLIP)",
            (("window", "sfr"),),
            0,
            1,
            0.25,
        ),
        Constant("sfr_tau", "factor on the second pass's logits (ResCLIP)", (("window", "sfr"),), 0, 1_000, 2.1),
        Constant(
            "sfr_lambda", "share of the first pass's labels in these logits (ResCLIP)", (("window", "sfr"),), 0, 1, 0.7
        ),
        Constant("sfr_std", "width of their smoothing, in patches (ResCLIP)", (("window", "sfr"),), 0.01, 10_000, 5),
        Constant(
            "path",
            "1: patches of one label share less where no path joins them, 0: all share alike (ResCLIP)",
            (("window", "sfr"),),
            0,
            1,
            1,
            whole=True,
        ),
        Constant(
            "attention_thr",
            "share of a word's largest score below which its scores do not spread (CLIPer)",
            (("window", "cliper"),),
            0,
            1,
            0.2,
        ),
        Constant(
            "crop",
            "side in pixels of windows that are scored beside the whole image, every 112 pixels; 0: none (CLIPer)",
            (("window", "cliper"),),
            0,
            16_384,
            0,
            whole=True,
        ),
        Constant(
            "select_layer",
            "whose scores spread by the attention, from the last block: -1 (CLIPer)",
            (("window", "cliper"),),
            -999,
            -1,
            {12: -1, 24: -2},
            whole=True,
        ),
        Constant(
            "fuse",
            "1: the mean of all blocks' scores is added, 0: it is not (CLIPer)",
            (("window", "cliper"),),
            0,
            1,
            1,
            whole=True,
        ),
        Constant(
            "stretch",
            "1: each word's map goes from 0 to 1, 0: as it is (CLIPer)",
            (("window", "cliper"),),
            0,
            1,
            0,
            whole=True,
        ),
        Constant(
            "score",
            "words whose largest score is not above it win nowhere (CLIPer)",
            (("window", "cliper"),),
            0,
            1_000,
            0.3,
        ),
        Constant(
            "bkg",
            "background is where no word's map reaches it; 0: where the best is below (1 - best)², at 0.38 (CLIPer)",
            (("window", "cliper"),),
            0,
            1_000,
            0.3,
        ),
    )
}
