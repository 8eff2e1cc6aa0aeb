"""What flows through every block: X_res, X_attn and X_sum of an image, and their statistics in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones import Backbone
from clearclip.decompose import MethodLike, Parts, pad_to_patches, rewrite, run_trunk
from clearclip.encode.images import ImageLike
from clearclip.errors import UsageError
from clearclip.methods import Method, parse_method
from clearclip.segmenter import Segmenter

PARTS = {"residual": "X_res", "attn_out": "X_attn", "sum": "X_sum"}
"""Attributes of `Parts` and their names in the paper."""

PEAK_RATIO = 10.0
"""A channel is called a peak where its mean magnitude is at least this many times the mean of all channels."""

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """One part of one block in numbers, over an image's patch tokens.

    Attributes:
        block: Counted from 1.
        part: `X_res`, `X_attn` or `X_sum`.
        norm: Mean L2 norm of a patch's vector.
        entropy: Of a softmax over all its values, divided by its largest possible value, 0–1 (ClearCLIP, section 3.2):
            the lower, the fewer values stand out.
        peak_channel: The channel with the highest mean magnitude, which is `peak`.
        peak_to_mean: `peak` divided by the mean over all channels.
        channel_mean_low: The lowest signed channel mean; `channel_mean_high` is the highest.
        cosine: Mean cosine similarity of two different patches; near 1 they all look alike.
        cosine_with_residual: Mean cosine of a patch's vector with its X_res.
    """

    block: int
    part: str
    norm: float
    entropy: float
    peak_channel: int
    peak: float
    peak_to_mean: float
    channel_mean_low: float
    channel_mean_high: float
    cosine: float
    cosine_with_residual: float
    cosine_with_attention: float


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a model makes of one image, block by block.

    Attributes:
        name: Of the image.
        method: Spelling of the method whose attention and residual the parts are of.
        image: As the encoder saw it, `(H, W, 3)` uint8, before padding.
        maps: By `X_res`, `X_attn`, `X_sum`: the last block's, `(gh, gw, C)`.
        statistics: Three for each block, first block first.
        channel_means: By (block, part): signed means and mean magnitudes of the channels, `(2, C)`.
    """

    name: str
    model: str
    method: str
    image: npt.NDArray[np.uint8]
    maps: dict[str, Maps]
    statistics: tuple[Statistics, ...]
    channel_means: dict[tuple[int, str], Maps]

    @property
    def last(self) -> dict[str, Statistics]:
        """The last block's statistics by part."""
        return {row.part: row for row in self.statistics[-len(PARTS) :]}

    def rows(self) -> list[dict[str, Any]]:
        """The statistics as JSON-able data."""
        return [{"image": self.name, "model": self.model, **asdict(row)} for row in self.statistics]


def inspect_image(
    segmenter: Segmenter, image: ImageLike, *, method: MethodLike = "vanilla", name: str = "image"
) -> Inspection:
    """Look into every block of a model: maps of the last block and statistics of all.

    The whole image goes through as one encoder input, resized as the protocol resizes it, without windows. Every
    block's parts are those of its unmodified input with the method's attention and residual (by default the model as it
    is). `UsageError` for a method that rewrites more than one block.
    """
    row = parse_method(method)
    if row.depth > 1:
        raise UsageError(
            f"{row.spelling} rewrites {row.depth} blocks at once: inspect looks at one at a time (depth=1)"
        )
    if row.reads_blocks:
        raise UsageError(
            f"{row.spelling} reads other blocks than the one it rewrites: inspect looks at one at a time (try "
            "clearclip or vanilla)"
        )
    backbone = segmenter.backbone
    array = segmenter.read(image)
    resized = segmenter.encoder.resize(array)
    blocks = block_parts(backbone, segmenter.encoder.normalize(resized)[None], method=row)
    found: list[Statistics] = []
    means: dict[tuple[int, str], Maps] = {}
    for block, parts in enumerate(blocks, start=1):
        values = {label: getattr(parts, attribute)[0].float() for attribute, label in PARTS.items()}
        found += [statistics(values, part=label, block=block) for label in PARTS.values()]
        for label, value in values.items():
            flat = value.flatten(0, 1)
            means[block, label] = torch.stack([flat.mean(0), flat.abs().mean(0)]).cpu().numpy()
    maps = {label: getattr(blocks[-1], attribute)[0].float().cpu().numpy() for attribute, label in PARTS.items()}
    return Inspection(name, backbone.name, row.spelling, resized, maps, tuple(found), means)


@torch.no_grad()
def block_parts(backbone: Backbone, images: Tensor, *, method: Method) -> list[Parts]:
    """X_res, X_attn and X_sum of every block, first to last; images are `(B, 3, H, W)`, normalised."""
    padded, _ = pad_to_patches(images.to(backbone.device, backbone.dtype), backbone.patch_size)
    grid_size = (padded.shape[2] // backbone.patch_size, padded.shape[3] // backbone.patch_size)
    inputs = run_trunk(backbone, padded, positions=method.positions, wanted=range(len(backbone.blocks)))
    return [
        rewrite(replace(backbone, blocks=backbone.blocks[: index + 1]), {index: tokens}, [method], grid_size=grid_size)[
            method
        ]
        for index, tokens in inputs.items()
    ]


def statistics(values: dict[str, Tensor], *, part: str, block: int) -> Statistics:
    """Statistics of one part of one block; values by `X_res`, `X_attn`, `X_sum` are `(gh, gw, C)` float."""
    x = values[part].flatten(0, 1).double()
    count, width = x.shape
    magnitudes = x.abs().mean(dim=0)
    peak = int(magnitudes.argmax())
    log_share = x.flatten().log_softmax(dim=0)
    directions = F.normalize(x, dim=-1)
    pairs = count * (count - 1)
    alike = (directions.sum(dim=0).square().sum() - directions.square().sum()) / pairs if pairs else torch.tensor(1.0)

    def with_part(other: str) -> float:
        return float(F.cosine_similarity(x, values[other].flatten(0, 1).double(), dim=-1).mean())

    return Statistics(
        block=block,
        part=part,
        norm=float(x.norm(dim=-1).mean()),
        entropy=float(-(log_share.exp() * log_share).sum()) / math.log(count * width),
        peak_channel=peak,
        peak=float(magnitudes[peak]),
        peak_to_mean=float(magnitudes[peak] / magnitudes.mean()),
        channel_mean_low=float(x.mean(dim=0).min()),
        channel_mean_high=float(x.mean(dim=0).max()),
        cosine=float(alike),
        cosine_with_residual=with_part("X_res"),
        cosine_with_attention=with_part("X_attn"),
    )


def findings(inspection: Inspection) -> list[str]:
    """Sentences on the paper's two questions: a peak channel? Does the residual drown the attention output?"""
    res, attn, total = (inspection.last[part] for part in PARTS.values())
    has_peak = res.peak_to_mean >= PEAK_RATIO
    drowned = total.cosine_with_residual > total.cosine_with_attention
    ratio = res.norm / attn.norm
    name = inspection.name
    return [
        f"{name}: is there a peak channel in the last block? {'Yes' if has_peak else 'No'}: the strongest channel of "
        f"X_res ({res.peak_channel}) has {res.peak_to_mean:.1f} times the mean magnitude of all channels, that of "
        f"X_attn ({attn.peak_channel}) {attn.peak_to_mean:.1f} times (a peak is counted from {PEAK_RATIO:g} times).",
        f"{name}: does the residual drown the attention output? {'Yes' if drowned else 'No'}: ‖X_res‖ is {ratio:.2f} "
        f"times ‖X_attn‖ ({res.norm:.1f} against {attn.norm:.1f}); the direction of X_sum agrees with X_res at cosine "
        f"{total.cosine_with_residual:.2f} and with X_attn at {total.cosine_with_attention:.2f}.",
        f"{name}: two patches of X_res have the mean cosine {res.cosine:.2f}, of X_attn {attn.cosine:.2f}, of X_sum "
        f"{total.cosine:.2f}; normalised entropies {res.entropy:.3f}, {attn.entropy:.3f} and {total.entropy:.3f}.",
    ]


def mean_channel_table(inspections: Sequence[Inspection]) -> list[dict[str, Any]]:
    """Signed mean and mean magnitude of each part, a row for each image, block and channel."""
    rows = []
    for seen in inspections:
        blocks = sorted({block for block, _ in seen.channel_means})
        for block in blocks:
            for channel in range(seen.channel_means[block, "X_res"].shape[1]):
                row: dict[str, Any] = {"image": seen.name, "block": block, "channel": channel}
                for part in PARTS.values():
                    signed, magnitude = seen.channel_means[block, part][:, channel].tolist()
                    row |= {f"{part}_mean": signed, f"{part}_mean_magnitude": magnitude}
                rows.append(row)
    return rows
