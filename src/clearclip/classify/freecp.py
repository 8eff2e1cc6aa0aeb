"""FreeCP: which words a window holds, by their probability maps, the trunk's attention and a closer look at crops.

It takes the cosines' place with maps of its own in 0–1 and labels them by its own rule. Section numbers are those of
the method's description (1.1–1.9). torch alone: grids are small, and no library that labels regions is always there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clearclip.backbones import Backbone
from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.decompose import class_features
from clearclip.encode.windows import Axis, Plan
from clearclip.errors import UsageError

CROP = 112
"""Pixels of a side that every crop is stretched to (1.8)."""
MOST_CROPS = 64
"""Crops that are looked at in a window."""
CROPS_AT_ONCE = 16
EPSILON = 1e-8
Box = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in cells, the ends exclusive."""


@dataclass(frozen=True)
class FreeCP:
    """The filter's thresholds (section 3 has those of its authors); `UsageError` outside 0–1.

    Attributes:
        redundancy: A label competes in a window if its overlap is above (1.7; an overlap is at most 0.5).
        ambiguity: Two labels whose maps agree at least so much are told apart by crops (1.8).
    """

    redundancy: float = 0.1
    ambiguity: float = 0.7

    def __post_init__(self) -> None:
        for name in ("redundancy", "ambiguity"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)!r}: a threshold from 0 to 1 is needed")


@dataclass(frozen=True, eq=False)
class Filtered:
    """What the filter made of a window with C labels.

    Attributes:
        maps: `(C, gh, gw)` float32 in 0–1; 0 where a label was removed, and for the background.
        kept: `(C,)` bool, the labels that compete; never the background, which is what they leave.
        redundant: `(C,)` bool, labels removed by their overlap; others that are not kept lost against a similar label.
        unseen: Boxes that were too many to look at; their labels were kept.
    """

    maps: Tensor
    kept: Tensor
    redundant: Tensor
    unseen: int = 0


@inference
def filter_window(
    probabilities: Tensor,
    attention: Tensor,
    *,
    owners: Sequence[int],
    background: int | None,
    settings: FreeCP,
    look: Callable[[Sequence[Box]], Tensor],
    text: Tensor,
    labels: int | None = None,
    pinned: Sequence[int] = (),
) -> Filtered:
    """One window's maps and surviving labels (1.3–1.8).

    `probabilities` `(Q, gh, gw)` are over all queries, `attention` `(N, N)` is `Parts.early` of the window. `owners`
    are the queries' labels, counted from 0; of several queries the best counts, cell by cell. `look` gives the unit
    class features `(n, E)` of crops (`crop_features`), which are compared with `text` `(Q, E)`. `labels` is their
    number where the last have no query; `pinned` ones are kept whatever is found.
    """
    probabilities = probabilities.float()
    own = of_labels(probabilities, owners, count=labels)
    relative = of_labels(stretched(probabilities), owners, count=labels)
    if background is not None:
        relative[background] = 0
    maps = refined(relative, attention)
    candidates = (overlap(own, maps) > settings.redundancy).nonzero()[:, 0]  # strictly (1.7)
    found = torch.zeros(len(maps), dtype=torch.bool, device=maps.device)
    kept, redundant = found.clone(), ~found.index_fill(0, candidates, True)
    if background is not None:
        redundant[background] = False
    left, unseen = MOST_CROPS, 0
    for group in ambiguous(maps[candidates], settings.ambiguity):
        members = candidates[group]
        if len(members) > 1:
            places = boxes(maps[members].mean(dim=0, keepdim=True))[:, 1:].tolist()
            if len(places) > left:
                unseen += len(places)
            elif all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in places):  # an empty box keeps the whole group (trap 5)
                left -= len(places)
                cosines = of_labels((look([tuple(place) for place in places]) @ text.T).T, owners, count=labels)
                members = members[cosines[members].argmax(dim=0).unique()]
        kept[members] = True
    kept[list(pinned)] = True
    return Filtered(maps * kept[:, None, None], kept, redundant, unseen)


def of_labels(values: Tensor, owners: Sequence[int], *, count: int | None = None) -> Tensor:
    """The best of each label's queries: from `(Q, …)` to `(C, …)`, 0 for a label without queries."""
    index = torch.tensor(owners, device=values.device).view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    empty = values.new_zeros(count or max(owners) + 1, *values.shape[1:])
    return empty.scatter_reduce(0, index, values, "amax", include_self=False)


def stretched(probabilities: Tensor) -> Tensor:
    """To 0–1, by one minimum and maximum over all queries and cells (1.3, trap 4); all 1 where all are equal."""
    low, high = probabilities.aminmax()
    return (probabilities - low) / (high - low) if high > low else torch.ones_like(probabilities)


def boxes(maps: Tensor) -> Tensor:
    """Where maps `(C, gh, gw)` in 0–1 are on: rows `map, x0, y0, x1, y1`, on the CPU (1.5).

    One for each region, one for each hole in a region, grown by a cell (trap 5), and an empty one for an empty map.
    """
    grey = (255 * maps.float().cpu()).floor()
    on = grey > (0.4 * grey.amax(dim=(1, 2), keepdim=True).double()).floor()
    height, width = on.shape[1:]
    off = regions(F.pad(~on, (1, 1, 1, 1), value=True), corners=False)
    outside = off[:, -1:, -1:]  # the ring around the grid, and what touches it, is no hole
    found = torch.cat([_bounds(regions(on, corners=True)), _bounds((off * (off != outside))[:, 1:-1, 1:-1], grow=1)])
    none = (~on.flatten(1).any(dim=1)).nonzero()
    found = torch.cat([found, F.pad(none, (0, 4))])
    # The ends are exclusive and yet cut to the last index: the last row and column are in no box (trap 1).
    found[:, 3:] = found[:, 3:].minimum(torch.tensor([width - 1, height - 1]))
    return found


def regions(on: Tensor, *, corners: bool) -> Tensor:
    """Number the regions of masks `(C, h, w)`, each by the index of its last cell from 1; `(C, h, w)`, 0 outside.

    `corners`: cells that touch at a corner are connected too.
    """
    numbers = torch.arange(1, on[0].numel() + 1, dtype=torch.int32).view(on.shape[1:]) * on
    while True:  # all maps at once: as quick as SciPy's loop over them, and 10 times as quick as max_pool2d
        across = _highest_near(numbers, 2)
        grown = _highest_near(across, 1) if corners else across.maximum(_highest_near(numbers, 1))
        grown *= on
        if torch.equal(grown, numbers):
            return numbers
        numbers = grown


def _highest_near(numbers: Tensor, dim: int) -> Tensor:
    """Each cell's number or a higher one beside it, along one dimension."""
    result, others = numbers.clone(), numbers.shape[dim] - 1
    for to, of in ((1, 0), (0, 1)):
        part = result.narrow(dim, to, others)
        torch.maximum(part, numbers.narrow(dim, of, others), out=part)
    return result


def _bounds(numbers: Tensor, *, grow: int = 0) -> Tensor:
    """Bounding boxes of numbered regions, rows `map, x0, y0, x1, y1`."""
    which, y, x = numbers.nonzero(as_tuple=True)
    pairs, region = torch.stack([which, numbers[which, y, x].long()], dim=1).unique(dim=0, return_inverse=True)
    cells, index = torch.stack([x, y], dim=1), region[:, None].expand(-1, 2)
    low, high = (
        torch.zeros(len(pairs), 2, dtype=torch.long).scatter_reduce(0, index, cells, how, include_self=False)
        for how in ("amin", "amax")
    )
    return torch.cat([pairs[:, :1], low - grow, high + 1 + grow], dim=1)


def box_masks(maps: Tensor) -> Tensor:
    """`(C, gh, gw)` bool: inside any box of a map."""
    inside = torch.zeros(maps.shape, dtype=torch.bool)
    for index, x0, y0, x1, y1 in boxes(maps).tolist():
        inside[index, y0:y1, x0:x1] = True
    return inside.to(maps.device)


def refined(relative: Tensor, attention: Tensor) -> Tensor:
    """Maps `(C, gh, gw)` within their boxes, spread by the window's attention and stretched to 0–1 each (1.6)."""
    inside = (box_masks(relative) * relative).flatten(1).T
    symmetric = balanced(attention)
    spread = (symmetric @ (symmetric @ inside)).T  # R = R₁ R₁ itself is never needed
    low, high = spread.amin(dim=1, keepdim=True), spread.amax(dim=1, keepdim=True)
    return ((spread - low) / (high - low + EPSILON)).view_as(relative)


def balanced(attention: Tensor) -> Tensor:
    """R₁: three times columns, then rows divided by their sums; the mean with its transpose, `(N, N)` (1.4)."""
    smallest = torch.finfo(attention.dtype).tiny  # a patch that nobody attends to must not become NaN
    for dim in (0, 1) * 3:
        attention = attention / attention.sum(dim=dim, keepdim=True).clamp_(min=smallest)
    return (attention + attention.T) / 2


def overlap(probabilities: Tensor, maps: Tensor) -> Tensor:
    """`(C,)` of two times `(C, gh, gw)`: called IoU, but the intersection counts twice below (1.7, trap 3)."""
    p, r = probabilities.flatten(1), maps.flatten(1)
    return (p * r).sum(dim=1) / (p.sum(dim=1) + r.sum(dim=1) + EPSILON)


def soft_iou(maps: Tensor) -> Tensor:
    """`(K, K)`: how much maps `(K, gh, gw)` agree (1.8); a row at a time, in bounded memory."""
    flat = maps.flatten(1)
    return torch.stack([flat.minimum(one).sum(dim=1) / flat.maximum(one).sum(dim=1) for one in flat])


def ambiguous(maps: Tensor, threshold: float) -> list[Tensor]:
    """Groups of maps that agree, also by way of others (1.8): indices, groups by their first member."""
    if not len(maps):
        return []
    linked = soft_iou(maps) >= threshold
    while not torch.equal(further := (linked.float() @ linked.float()) > 0, linked):
        linked = further
    first = linked.int().argmax(dim=1)
    return [(first == index).nonzero()[:, 0] for index in first.unique()]


@inference
def crop_features(backbone: Backbone, pixels: Tensor, places: Sequence[Box], *, positions: str) -> Tensor:
    """Unit class features `(n, E)` float32 of boxes of a window `(3, h, w)` as the encoder sees it (1.8).

    `positions` is the row's rule, at the crop's own grid. `UsageError` for a model without a class token.
    """
    side, whole = backbone.patch_size, CROP // backbone.patch_size * backbone.patch_size
    cut = [pixels[None, :, y0 * side : y1 * side, x0 * side : x1 * side].float() for x0, y0, x1, y1 in places]
    square = [F.interpolate(one, size=(CROP, CROP), mode="bilinear", align_corners=False) for one in cut]
    images = torch.cat(square)[..., :whole, :whole].to(backbone.device, backbone.dtype)
    found = [class_features(backbone, some, positions=positions) for some in images.split(CROPS_AT_ONCE)]
    return F.normalize(torch.cat(found).float(), dim=-1)


@inference
def label(grid: LogitGrid, *, background: int | None) -> tuple[Tensor, Tensor]:
    """Each pixel's label from stitched maps `(C, …)` in 0–1, and its map's value: `(H, W)` int64 and float32 (1.9).

    The background's map is 1 − the best, and wins ties. Without one the first label wins where all maps are 0 (trap 6).
    """
    labels = torch.empty(grid.size, dtype=torch.int64, device=grid.cosines.device)
    values = torch.empty(grid.size, device=grid.cosines.device)
    for block in grid.blocks():
        competing = block.that_matter(0.0)
        for place, maps in block.cosines(competing):
            values[place], index = maps.max(dim=-1)
            labels[place] = competing[index]
    if background is not None:
        labels[1 - values >= values] = background
        values = values.maximum(1 - values)
    return labels, values


def straight(plan: Plan, size: tuple[int, int]) -> Plan:
    """A plan of one window whose maps go straight to the size of the output, past the resized image's (1.9)."""
    y, x = (
        Axis(length, length, (0,), axis.encoded, "drop", 0, axis.cells)
        for axis, length in zip((plan.y, plan.x), size, strict=True)
    )
    return Plan(y, x)
