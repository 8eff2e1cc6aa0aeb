"""Images of any size → label maps, in memory that grows with their width alone.

Stitching windows and bringing them to pixels is linear and local (`windows`): an output pixel needs the few windows
that cover it and no others. So windows are encoded row by row, each once; what stays of them is their cosines with the
queries, as long as rows of the output need them; and every block of the output is made from all windows that reach into
it. There is no seam because there is no overlap to blend: the numbers are those of the whole image at once.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.classify.grid import LogitGrid
from clearclip.classify.maps import WHOLE_IMAGE, check_window_rules, stitched_cosines, window_maps
from clearclip.classify.presence import Verdict, best_in_cells, by_label
from clearclip.classify.refine import reach, refine
from clearclip.classify.words import Words
from clearclip.decompose import MethodLike
from clearclip.encode import stitch
from clearclip.encode.encoding import Encoded, Encoder
from clearclip.encode.windows import Part, Plan, part_of, resample_band
from clearclip.engine.sources import stamp
from clearclip.errors import ClearclipError, UsageError, printable
from clearclip.files.gdal import file_of
from clearclip.files.progress import Advance, progress_bar
from clearclip.files.writing import claim
from clearclip.large.geotiff import (
    check_beside,
    check_names,
    check_no_input,
    check_replaceable,
    create_geotiff,
    write_polygons,
)
from clearclip.large.globe import Globe
from clearclip.large.image import Raster, mask_file, open_raster
from clearclip.large.kept import Band, Layout, UnfinishedBands, unfinished
from clearclip.methods import Method, parse_method
from clearclip.segmenter import Segmenter

BLOCK = 512
PIXELS_AT_ONCE = 8_000_000
COLUMNS_AT_ONCE = 128
MAX_WINDOWS = 10_000_000
MAX_MEMORY = 8e9
"""Bytes; an image of 20,000 × 20,000 pixels takes a fifth of them."""


@dataclass(frozen=True)
class LargeResult:
    """What `segment_large` made: counts, and the `(height, width)` of the label map."""

    size: tuple[int, int]
    windows: int
    encoded: int
    """Windows with a valid pixel."""
    pixels: dict[str, int]
    """How many each label has, by name."""
    nodata: int
    """Pixels without a label."""
    polygons: int | None = None
    """How many were written; `None` where none were asked for."""
    absent: dict[str, str] = field(default_factory=dict)
    """Labels that did not compete in the image, with the reason."""


@inference
def segment_large(
    segmenter: Segmenter,
    image: str | Path,
    *,
    labels: Any,
    output: str | Path,
    scale: float = 1.0,
    method: MethodLike | None = None,
    threshold: float | None = None,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    driver: str | None = None,
    scores: str | Path | None = None,
    polygons: str | Path | None = None,
    overwrite: bool = False,
    block: int = BLOCK,
    max_memory: float = MAX_MEMORY,
) -> LargeResult:
    """Label every pixel of a raster of any size, block by block, and write a GeoTIFF that lies where the image lies.

    The protocol's `short_side` and `long_side` do not apply: `scale` says how large things are shown to the model. The
    files appear only when they are complete; until then finished bands lie in a folder beside the output, and the same
    call goes on from them. `ImageError` if the image cannot be read, `UsageError` if an argument cannot be used, a file
    is in the way, or another run writes it.

    Args:
        segmenter: Its crop size and stride are the windows'.
        image: A GeoTIFF, JPEG 2000, JPEG, PNG, WebP or GIF.
        labels: As `Vocabulary.parse`.
        output: A `.tif`: label indices, uint8 with nodata 255, or uint16 with 65535 from 256 labels.
        scale: Pixels that the model sees per pixel of the image; 0.25 shows it four times the ground per window.
            Shrinking is antialiased.
        method: Instead of the segmenter's own.
        threshold: As in a call of the segmenter.
        bands: As `open_raster`.
        value_range: As `open_raster`, instead of the segmenter's own.
        driver: As `open_raster`.
        scores: A `.tif` for each pixel's best probability, float32.
        polygons: A `.geojson` for the labels' regions.
        overwrite: Replace files and unfinished bands that this program made; others never.
        block: Side of the output's blocks in pixels, a multiple of 16; it changes nothing but the file's layout.
        max_memory: Refuse what would take more, in bytes, by a rough estimate.
    """
    files = {"output": output, "scores": scores, "polygons": polygons}
    targets = {role: Path(os.path.realpath(file)) for role, file in files.items() if file}
    check_names(targets)
    if not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"scale={scale!r}: a number above 0 is needed (1 shows the image's own pixels)")
    if block < 16 or block % 16:
        raise UsageError(f"block={block}: a multiple of 16 is needed, GeoTIFF has no other blocks")
    with ExitStack() as stack:
        raster = stack.enter_context(
            open_raster(image, bands=bands, value_range=value_range or segmenter.value_range, driver=driver)
        )
        goes_on = os.path.lexists(unfinished(targets["output"]))  # what it made may be there already
        for file in targets.values():
            check_no_input(file, [str(image), *raster.files])
            stack.enter_context(claim(file, is_file=True))
            check_replaceable(file, overwrite=overwrite or goes_on)
            check_beside(file, raster.place)
        globe = Globe.of(raster.place, raster.size, raster.name) if "polygons" in targets else None
        row = segmenter.method if method is None else parse_method(method)
        halo = stitch.STAGES[row.stitched].halo if row.stitched != "none" else 0
        pixels = reach(row)
        if halo is None or pixels is None or row.window in WHOLE_IMAGE:
            raise UsageError(f"{row.spelling} looks at the whole image at once: it cannot label one in parts")
        words, encoder = segmenter.prepare(labels, threshold=threshold), segmenter.encoder
        values = words.values if row.stitched == "none" else encoder.backbone.width
        if row.stitched != "none":
            check_window_rules(row, words)
        check_size(raster, encoder, values=values, scale=scale, block=block + 2 * pixels, max_memory=max_memory)
        told = segmenter.describe(row, words.threshold, templates=words.templates, vocabulary=words.vocabulary)
        work = _Work(encoder, row, words, halo, raster.measured(), scale, block, told)
        layout = work.layout(scores="scores" in targets)
        where = {"image": printable(os.path.realpath(image)), "stamp": stamps(image), "driver": f"{driver}"}
        kept = UnfinishedBands.open(targets["output"], {**work.settings, **where}, layout, overwrite=overwrite)
        goes_on = kept.begun
        for file in targets.values():
            check_replaceable(file, overwrite=overwrite, own=work.info if goes_on else None)
        again = overwrite or goes_on
        advance = stack.enter_context(progress_bar("rows", show=segmenter.show_progress))
        if words.area or words.presence.rule == "weak":  # others look at each window by itself
            verdicts = kept.read_verdicts() or work.survey(advance)
            kept.write_verdicts(verdicts)
            work.settle(verdicts)
        result = work.write(targets["output"], targets.get("scores"), kept=kept, replace=again, advance=advance)
        if globe is not None:
            names, labels_file = words.vocabulary.names, targets["output"]
            count = write_polygons(
                labels_file, targets["polygons"], globe=globe, names=names, info=work.info, replace=again
            )
            result = replace(result, polygons=count)
        kept.remove()
        return result


def stamps(image: str | Path) -> str:
    """What changes when an image does, or the mask beside it: sizes and times of these files."""
    file = file_of(image)
    return f"{stamp(str(file))}, mask {stamp(mask_file(file)) or 'none'}"


def check_size(raster: Raster, encoder: Encoder, *, values: int, scale: float, block: int, max_memory: float) -> None:
    """Refuse what has too many windows, or would take too much memory, before any pixel is read.

    `values` are kept of every cell of a window.
    """
    height, width = raster.size
    protocol, patch = encoder.protocol, encoder.backbone.patch_size
    crop, stride = int(protocol.crop_size), int(protocol.stride)
    if not crop:
        raise UsageError("crop_size=0, the whole image as one window, is for small images: give a --crop-size")
    columns, rows = (side * scale / stride + 1 for side in (width, height))
    if columns * rows > MAX_WINDOWS:
        raise UsageError(
            f"{raster.name}: {width}×{height} pixels at the scale {scale:g} are {columns * rows:.2g} windows, more "
            f"than the limit of {MAX_WINDOWS:,}: choose a smaller scale, a larger stride, or a part of the image"
        )
    shown = max(1.0, width * scale)
    cells = -(-crop // patch)
    reach = block * scale / stride + 2 * crop / stride + 2  # windows that one block depends on, along an axis
    source = max(PIXELS_AT_ONCE, min(height, 2 / scale + 4) * width) * (len(raster.bands) * 16 + 4)
    held = {
        "its own blocks": max(math.prod(shape) for shape in raster.dataset.block_shapes) * raster.pixel_bytes * 2,
        "its rows": source + (0 if scale == 1 else 1024 * width),
        "a row of windows": crop * shown * 24,
        "cosines": 2 * reach * cells * columns * cells * values * 4,
        "blocks of the output": block * width * 16 + height * width / block**2 * 24,
        "how windows become pixels": reach * cells * (8 * (block * scale + 2) + 4 * width),
    }
    if not (total := sum(held.values())) <= max_memory:
        largest = max(held, key=lambda name: held[name])
        raise UsageError(
            f"{raster.name}: {width}×{height} pixels at the scale {scale:g} would take about {total / 1e9:,.0f} GB of "
            f"memory (most of it {largest}), more than the limit of {max_memory / 1e9:g}: raise it with --max-memory "
            "(max_memory=) if you trust the file, cut the image, or choose another scale"
        )


@dataclass(eq=False)
class _Work:
    """One image on its way through the model."""

    encoder: Encoder
    row: Method
    words: Words
    halo: int
    raster: Raster
    scale: float
    block: int
    told: dict[str, str]

    def __post_init__(self) -> None:
        height, width = self.size = self.raster.size
        self.plan = self.encoder.plan((scaled(height, self.scale), scaled(width, self.scale)))
        count = len(self.words.vocabulary.labels)
        if count > 65535:
            raise UsageError(f"{count:,} labels: a GeoTIFF of labels holds 65,535")
        self.dtype, self.nodata = ("uint8", 255) if count <= 255 else ("uint16", 65535)
        self.info = {**self.told, **self.raster.info, "scale": f"{self.scale:g}"}
        self._encoded: dict[int, int] = {}
        self._windows: dict[int, Tensor] = {}
        axis = self.plan.x if self.row.stitched == "none" else stitch.stitched_plan(self.plan).x
        self._reach = reach(self.row) or 0
        self._outer = [self._around(left, width) for left in range(0, width, self.block)]
        self._columns = [part_of(axis, width, outer.start, outer.stop) for outer in self._outer]
        self._rows, self._guide = self._new_rows(), self._new_rows()

    @property
    def settings(self) -> dict[str, str]:
        """All that decides what a band holds: `info`, and unrounded what is rounded there."""
        exact = {
            "scale": self.scale,
            "range": self.raster.value_range,
            "threshold": self.words.threshold,
            "background": self.words.vocabulary.background_index,
            "block": self.block,
        }
        told = {key: text for key, text in self.info.items() if key != "source"}
        return {**told, **{key: repr(value) for key, value in exact.items()}}

    def layout(self, *, scores: bool) -> Layout:
        """What a band can look like."""
        windows = (len(self.plan.y.starts), len(self.plan.x.starts))
        count = len(self.words.vocabulary.labels)
        return Layout(self.size[1], self.dtype, count, self.nodata, scores, windows)

    @inference
    def survey(self, advance: Advance | None) -> tuple[Verdict, ...]:
        """Which labels compete in the whole image: each row of windows is encoded once for that alone.

        The area rule counts cells of the grid, not pixels.
        """
        words, vocabulary = self.words, self.words.vocabulary
        best, counts = torch.zeros(len(words.text)), torch.zeros(len(words.text), dtype=torch.int64)
        parts = range(0, self.size[0], self.block) if self.row.stitched != "none" else range(len(self.plan.y.starts))
        for part in parts:
            if self.row.stitched == "none":
                maps = self._encode(part)
            else:
                maps = self._stitched(part, min(part + self.block, self.size[0]))[2]
            cells = maps.flatten(0, -2).cpu()
            cells = cells[cells.any(dim=-1)]  # windows without a valid pixel were not encoded
            if len(cells):
                best = best.maximum(best_in_cells(cells, logit_scale=words.logit_scale))
                counts += torch.bincount(cells.argmax(dim=-1), minlength=len(counts))
            if advance is not None:
                advance(part + 1, parts.stop, "looking which labels occur")
        owners = torch.tensor(vocabulary.query_to_class)
        won = torch.zeros(len(vocabulary.labels), dtype=torch.int64).index_add_(0, owners, counts).numpy()
        settled = words.settled(by_label(best, vocabulary))
        return (settled.without_small(won) if words.area else settled).verdicts

    def settle(self, verdicts: tuple[Verdict, ...]) -> None:
        """Begin at the top again with these labels."""
        self.words = replace(self.words, verdicts=verdicts)
        self._windows, self._encoded = {}, {}
        self._rows, self._guide = self._new_rows(), self._new_rows()

    def _around(self, start: int, length: int) -> range:
        """The pixels of one axis that a block from `start` on depends on, once logits are refined."""
        return range(max(0, start - self._reach), min(start + self.block + self._reach, length))

    def _new_rows(self) -> _Rows:
        return _Rows(self.raster, (self.plan.y.length, self.plan.x.length), self.encoder.mean_and_deviation[0])

    def write(
        self, output: Path, scores: Path | None, *, kept: UnfinishedBands, replace: bool, advance: Advance | None
    ) -> LargeResult:
        vocabulary = self.words.vocabulary
        pixels: Counter[int] = Counter()
        height, width = self.size
        with ExitStack() as stack:
            options: dict[str, Any] = {"like": self.raster, "block": self.block, "tags": self.info, "replace": replace}
            target = stack.enter_context(
                create_geotiff(output, dtype=self.dtype, nodata=self.nodata, palette=vocabulary.palette, **options)
            )
            certain = create_geotiff(scores, dtype="float32", nodata=np.nan, **options) if scores else nullcontext()
            certainty = stack.enter_context(certain)
            for top in range(0, height, self.block):
                band = kept.read(top, min(self.block, height - top))
                if band is None:
                    band = self._band(top, scores=scores is not None)
                    kept.write(top, band)
                self._encoded |= dict(band.encoded.tolist())
                for left in range(0, width, self.block):
                    columns = slice(left, min(left + self.block, width))
                    window = ((top, top + len(band.labels)), (left, columns.stop))
                    if (band.labels[:, columns] != self.nodata).any():
                        target.write(band.labels[:, columns], 1, window=window)
                        if certainty is not None:
                            certainty.write(band.scores[:, columns], 1, window=window)
                found = np.bincount(band.labels[band.labels != self.nodata], minlength=len(vocabulary.labels))
                pixels.update({index: int(number) for index, number in enumerate(found) if number})
                if advance is not None:
                    advance(top + len(band.labels), height, "")
        return LargeResult(
            size=self.size,
            windows=self.plan.count,
            encoded=sum(self._encoded.values()),
            pixels={name: pixels[index] for index, name in enumerate(vocabulary.names)},
            nodata=height * width - sum(pixels.values()),
            absent={
                name: verdict.reason
                for name, verdict in zip(vocabulary.names, self.words.verdicts, strict=False)
                if not verdict.competed
            },
        )

    def _band(self, top: int, *, scores: bool) -> Band:
        """A band of the output; blocks without a valid pixel are not looked at."""
        height, width = self.size
        bottom = min(top + self.block, height)
        rows = self._around(top, height)
        find = self._stitched if self.row.stitched != "none" else self._maps
        y, needed, maps = find(rows.start, rows.stop)
        guide = self._guide_rows(rows) if self._reach else None
        _, valid = self.raster.read(top, bottom) if self.raster.may_be_invalid else (None, None)
        labels = np.full((bottom - top, width), self.nodata, dtype=self.dtype)
        best = np.full((bottom - top, width if scores else 0), np.nan, dtype=np.float32)
        for left in range(0, width, self.block):
            columns = slice(left, min(left + self.block, width))
            x = self._columns[left // self.block]
            known = np.ones((bottom - top, columns.stop - left), bool) if valid is None else valid[:, columns]
            if not known.any():
                continue
            own = maps[:, x.first * x.cells : (x.first + len(x.starts)) * x.cells].permute(2, 0, 1)
            outer = self._outer[left // self.block]
            grid = LogitGrid(own, Plan(y, x), (len(rows), len(outer)))
            if guide is not None:
                first, weights = resample_band(self.plan.x.length, width, outer.start, outer.stop, antialias=False)
                own_guide = guide[..., first : first + weights.shape[1]] @ weights.float().T
                grid = refine(grid, self.row, guide=own_guide, text=self.words.text)
            label_map, certain = self.words.label(grid, scores=scores)
            inner = slice(top - rows.start, bottom - rows.start), slice(left - outer.start, columns.stop - outer.start)
            labels[:, columns] = np.where(known, label_map[inner], self.nodata)
            if scores and certain is not None:
                best[:, columns] = np.where(known, certain[inner].cpu().numpy(), np.nan)
        encoded = np.array([(index, self._encoded[index]) for index in needed if index in self._encoded], np.int64)
        return Band(labels, best, encoded.reshape(-1, 2))

    def _guide_rows(self, rows: range) -> Tensor:
        """The normalised image at some rows of the output, `(3, len(rows), resized width)`."""
        first, weights = resample_band(self.plan.y.length, self.size[0], rows.start, rows.stop, antialias=False)
        pixels, _ = self._guide.take(first, first + weights.shape[1])
        return weights.float() @ self.encoder.normalize(pixels[: weights.shape[1]])

    def _maps(self, top: int, bottom: int) -> tuple[Part, Sequence[int], Tensor]:
        """What some rows of the output depend on: the axis, the rows of windows, and their maps side by side."""
        y = part_of(self.plan.y, self.size[0], top, bottom)
        needed = range(y.first, y.first + len(y.starts))
        return y, needed, torch.cat([row.flatten(1, 2) for row in self._rows_of_windows(needed)])

    def _stitched(self, top: int, bottom: int) -> tuple[Part, Sequence[int], Tensor]:
        """As `_maps`, of the image's own grid: features of the rows needed and of the stage's halo are stitched."""
        whole, cells = stitch.stitched_plan(self.plan), stitch.places(self.plan.y)
        y = part_of(whole.y, self.size[0], top, bottom)
        used = y.way.matrix.any(dim=0).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1]) + 1
        rows = range(max(first - self.halo, 0), min(last + self.halo, whole.grid_size[0]))
        needed = ((cells >= rows.start) & (cells < rows.stop)).any(dim=1).nonzero()[:, 0].tolist()
        features = torch.stack(self._rows_of_windows(needed))
        across, columns = stitch.places(self.plan.x), whole.grid_size[1]
        grid = stitch.stitch(features, y=cells[needed], x=across, rows=rows, columns=columns)
        maps = stitched_cosines(self.encoder, grid, self.row, self.words)[first - rows.start : last - rows.start]
        return replace(y, cells=last - first, way=replace(y.way, matrix=y.way.matrix[:, first:last])), needed, maps

    def _rows_of_windows(self, needed: Sequence[int]) -> list[Tensor]:
        kept = self._windows
        self._windows = {index: kept[index] if index in kept else self._encode(index) for index in needed}
        return list(self._windows.values())

    @inference
    def _encode(self, index: int) -> Tensor:
        """Maps, or features to be stitched, of one row of windows, `(gh, nx, gw, n)`; 0 where no pixel is valid."""
        y, x = self.plan.y, self.plan.x
        top = y.starts[index]
        pixels, valid = self._rows.take(top, top + y.window)
        wanted = [at for at, left in enumerate(x.starts) if valid[:, left : left + x.window].any()]
        stitches, text = self.row.stitched != "none", self.words.text
        values = self.encoder.backbone.width if stitches else self.words.values
        found = torch.zeros(y.cells, len(x.starts), x.cells, values, device=text.device)
        for begin in range(0, len(wanted), self.encoder.at_once):
            chosen = wanted[begin : begin + self.encoder.at_once]
            left, right = x.starts[chosen[0]], x.starts[chosen[-1]] + x.window
            strip = Plan(
                replace(y, length=y.window, starts=(0,)),
                replace(x, length=right - left, starts=tuple(x.starts[at] - left for at in chosen)),
            )
            image = Encoded((y.window, right - left), strip, self.encoder.normalize(pixels[:, left:right]))
            if stitches:
                parts = [features for _, _, features, _ in self.encoder.features([image], self.row)]
            else:
                parts = [maps for _, maps, _ in window_maps(self.encoder, [image], self.row, self.words)]
            found[:, chosen] = torch.stack(parts, dim=1)
        if not found.isfinite().all():
            raise ClearclipError(
                "the model gave values that are no numbers: check it, or take --dtype float32 (dtype=)"
            )
        self._encoded[index] = len(wanted)
        return found


@dataclass(eq=False)
class _Rows:
    """The image as the model shall see it, row by row from the top, each read once."""

    raster: Raster
    size: tuple[int, int]
    fill: tuple[float, ...]

    def __post_init__(self) -> None:
        self._fill = np.rint(np.array(self.fill) * 255).astype(np.uint8)
        self._first = 0
        source, width = self.raster.size[1], self.size[1]
        self._pixels = np.empty((0, width, 3), dtype=np.uint8)
        self._valid = np.empty((0, width), dtype=bool)
        self._columns = [
            (left, *resample_band(source, width, left, min(left + COLUMNS_AT_ONCE, width), antialias=True))
            for left in range(0, width, COLUMNS_AT_ONCE)
        ]

    def take(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Rows of the resized image, `(stop - start, W, 3)` and `(stop - start, W)`; earlier ones are forgotten.

        A resized pixel is valid if a valid pixel has a share in it; what invalid ones add is the model's mean colour.
        """
        drop, end = min(start - self._first, len(self._pixels)), self._first + len(self._pixels)
        parts = [(self._pixels[drop:], self._valid[drop:])]
        shrink = self.raster.size[0] / self.size[0]
        step = max(1, int(PIXELS_AT_ONCE / self.raster.size[1] / shrink))
        parts += [self._resized(row, min(row + step, stop)) for row in range(max(start, end), stop, step)]
        self._first = start
        self._pixels, self._valid = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return self._pixels, self._valid

    def _resized(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        if self.raster.size == self.size:
            return self._filled(start, stop)
        top, rows = resample_band(self.raster.size[0], self.size[0], start, stop, antialias=True)
        source, valid = self._filled(top, top + rows.shape[1])
        pixels = np.empty((stop - start, self.size[1], 3), dtype=np.uint8)
        known = np.empty((stop - start, self.size[1]), dtype=bool)
        for left, begin, columns in self._columns:
            taken = slice(begin, begin + columns.shape[1])
            wanted = slice(left, left + len(columns))
            part = torch.from_numpy(source[:, taken]).permute(2, 0, 1).double()
            # Levels that end in exactly .5 are common; sums of other lengths must not send them another way.
            levels = (rows @ (part @ columns.T)).sub_(1e-6).round_().clamp_(0, 255)
            pixels[:, wanted] = levels.byte().permute(1, 2, 0).numpy()
            shares = rows @ torch.from_numpy(valid[:, taken]).double() @ columns.T
            known[:, wanted] = (shares > 0).numpy()
        return pixels, known

    def _filled(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        pixels, valid = self.raster.read(start, stop)
        pixels[~valid] = self._fill
        return pixels, valid


def scaled(length: int, scale: float) -> int:
    """Pixels of a side after the resize, as the protocol rounds them: at least one."""
    return max(1, int(length * scale + 0.5))
