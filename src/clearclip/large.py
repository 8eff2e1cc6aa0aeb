"""Images of any size → label maps, in memory that grows with their width alone.

Stitching windows and bringing them to pixels is linear and local (`windows`): an output pixel needs the few windows
that cover it and no others. So windows are encoded row by row, each once; what stays of them is their cosines with the
queries, as long as rows of the output need them; and every block of the output is made from all windows that reach into
it. There is no seam because there is no overlap to blend: the numbers are those of the whole image at once.

Belongs here: which rows of windows a band of the output needs, and the resize in bands. Does not: files (`rasters`),
what an interrupted run left (`bands`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clearclip.backbones.devices import inference
from clearclip.bands import Band, UnfinishedBands
from clearclip.decompose import MethodLike
from clearclip.encoding import windows_at_once
from clearclip.engine.sources import stamp
from clearclip.errors import UsageError, printable
from clearclip.grids import Classifier
from clearclip.masks import LogitGrid
from clearclip.progress import progress_bar
from clearclip.rasters import Raster, create_geotiff, open_raster, write_polygons
from clearclip.segmenter import Segmenter
from clearclip.windows import Axis, Plan, Upsampling, bilinear_matrix

BLOCK = 512
PIXELS_AT_ONCE = 8_000_000
COLUMNS_AT_ONCE = 128


@dataclass(frozen=True)
class LargeResult:
    """What `segment_large` made.

    Attributes:
        size: `(height, width)` of the label map.
        windows: How many the image has.
        encoded: How many of them had a valid pixel.
        pixels: How many each label has, by name.
        nodata: How many have none.
        polygons: How many were written, or `None`.
    """

    size: tuple[int, int]
    windows: int
    encoded: int
    pixels: dict[str, int]
    nodata: int
    polygons: int | None = None


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
    scores: str | Path | None = None,
    polygons: str | Path | None = None,
    overwrite: bool = False,
    block: int = BLOCK,
) -> LargeResult:
    """Label every pixel of a raster of any size, block by block, and write a GeoTIFF that lies where the image lies.

    The protocol's `short_side` and `long_side` do not apply: `scale` says how large things are shown to the model.

    Args:
        segmenter: What encodes; its crop size and stride are the windows'.
        image: A GeoTIFF or any raster or picture that GDAL reads.
        labels: As `Vocabulary.parse`.
        output: A `.tif`: label indices, uint8 with nodata 255, or uint16 with 65535 from 256 labels.
        scale: Pixels that the model sees per pixel of the image; 0.25 shows it four times the ground per window.
            Shrinking is antialiased.
        method: Instead of the segmenter's own.
        threshold: As in a call of the segmenter.
        bands: As `open_raster`.
        value_range: As `open_raster`.
        scores: A `.tif` for each pixel's best probability, float32.
        polygons: A `.geojson` for the labels' regions.
        overwrite: Replace existing files.
        block: Side of the output's blocks in pixels, a multiple of 16; it changes nothing but the file's layout.

    Returns:
        What was made. The files appear only when they are complete; until then finished bands lie in a folder
        beside the output, and the same call goes on from them.

    Raises:
        ImageError: The image cannot be read.
        UsageError: An argument cannot be used, a file exists, or rasterio is missing.
        OSError: A file cannot be written.
    """
    files = {"output": Path(output), "scores": scores and Path(scores), "polygons": polygons and Path(polygons)}
    targets = {role: file for role, file in files.items() if file}
    _check_targets(targets, Path(image), overwrite=overwrite)
    if not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"scale={scale!r}: a number above 0 is needed (1 shows the image's own pixels)")
    if block < 16 or block % 16:
        raise UsageError(f"block={block}: a multiple of 16 is needed, GeoTIFF has no other blocks")
    with open_raster(image, bands=bands, value_range=value_range) as raster:
        classifier = Classifier.prepare(segmenter, labels, method=method, threshold=threshold)
        work = _Work(classifier, raster, scale, block)
        for file in targets.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        settings = {**work.info, "image": printable(str(image)), "stamp": stamp(str(image)), "block": f"{block}"}
        kept = UnfinishedBands.open(targets["output"], {**settings, "scores": f"{'scores' in targets}"})
        result = work.write(targets["output"], targets.get("scores"), kept=kept)
    if polygons_file := targets.get("polygons"):
        names = classifier.vocabulary.names
        count = write_polygons(targets["output"], polygons_file, names=names, info=work.info)
        result = replace(result, polygons=count)
    kept.remove()
    return result


def _check_targets(targets: dict[str, Path], image: Path, *, overwrite: bool) -> None:
    for role, file in targets.items():
        allowed = (".geojson", ".json") if role == "polygons" else (".tif", ".tiff")
        if file.suffix.lower() not in allowed:
            raise UsageError(f"{file}: the suffix of the {role} is {allowed[0]}")
        if file.resolve() == image.resolve():
            raise UsageError(f"{file} is the image itself: name another file for the {role}")
        if file.exists() and not overwrite:
            raise UsageError(f"{file} is there already: name another file, or give --overwrite (overwrite=)")
    if len({file.resolve() for file in targets.values()}) < len(targets):
        raise UsageError("one file was named for two results: name a file for each")


class _Work:
    """One image on its way through the model."""

    def __init__(self, classifier: Classifier, raster: Raster, scale: float, block: int) -> None:
        self.classifier = classifier
        self.raster = raster
        self.block = block
        self.size = raster.size
        self.plan = classifier.plan((scaled(self.size[0], scale), scaled(self.size[1], scale)))
        count = len(classifier.vocabulary.labels)
        if count > 65535:
            raise UsageError(f"{count:,} labels: a GeoTIFF of labels holds 65,535")
        self.dtype, self.nodata = ("uint8", 255) if count <= 255 else ("uint16", 65535)
        self.info = {**classifier.info, **raster.info, "scale": f"{scale:g}"}
        self._encoded: dict[int, int] = {}
        self._cosines: dict[int, Tensor] = {}
        width = self.size[1]
        self._columns = [part_of(self.plan.x, width, left, min(left + block, width)) for left in range(0, width, block)]
        mean, _ = classifier.mean_and_deviation
        self._rows = _Rows(raster, (self.plan.y.length, self.plan.x.length), fill=mean)

    def write(self, output: Path, scores: Path | None, *, kept: UnfinishedBands) -> LargeResult:
        vocabulary = self.classifier.vocabulary
        pixels: Counter[int] = Counter()
        height, width = self.size
        show = self.classifier.segmenter.show_progress
        with ExitStack() as stack:
            advance = stack.enter_context(progress_bar("rows", show=show))
            options: dict[str, Any] = {"like": self.raster, "block": self.block, "tags": self.info}
            target = stack.enter_context(
                create_geotiff(output, dtype=self.dtype, nodata=self.nodata, palette=vocabulary.palette, **options)
            )
            certainty = None
            if scores is not None:
                certainty = stack.enter_context(create_geotiff(scores, dtype="float32", nodata=np.nan, **options))
            for top in range(0, height, self.block):
                band = kept.read(top)
                if band is None:
                    band = self._band(top, scores=scores is not None)
                    kept.write(top, band)
                self._encoded |= dict(band.encoded.tolist())
                for left in range(0, width, self.block):
                    window = ((top, top + len(band.labels)), (left, min(left + self.block, width)))
                    known = band.labels[:, slice(*window[1])] != self.nodata
                    if known.any():
                        target.write(band.labels[:, slice(*window[1])], 1, window=window)
                    if known.any() and certainty is not None:
                        certainty.write(band.scores[:, slice(*window[1])], 1, window=window)
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
        )

    def _band(self, top: int, *, scores: bool) -> Band:
        """A band of the output; blocks without a valid pixel are not looked at."""
        height, width = self.size
        bottom = min(top + self.block, height)
        y = part_of(self.plan.y, height, top, bottom)
        needed = range(y.first, y.first + len(y.starts))
        self._cosines = {
            index: self._cosines[index] if index in self._cosines else self._encode(index) for index in needed
        }
        band = torch.cat([self._cosines[index] for index in needed])
        _, valid = self.raster.read(top, bottom) if self.raster.may_be_invalid else (None, None)
        labels = np.full((bottom - top, width), self.nodata, dtype=self.dtype)
        best = np.full((bottom - top, width if scores else 0), np.nan, dtype=np.float32)
        cells = self.plan.grid_size[1]
        for left in range(0, width, self.block):
            columns = slice(left, min(left + self.block, width))
            x = self._columns[left // self.block]
            known = np.ones((bottom - top, columns.stop - left), bool) if valid is None else valid[:, columns]
            if not known.any():
                continue
            own = band[:, x.first * cells : (x.first + len(x.starts)) * cells].permute(2, 0, 1)
            grid = LogitGrid(own, Plan(y, x), known.shape)
            label_map, certain = self.classifier.label(grid, scores=scores)
            labels[:, columns] = np.where(known, label_map, self.nodata)
            if scores and certain is not None:
                best[:, columns] = np.where(known, certain.cpu().numpy(), np.nan)
        encoded = np.array([(index, self._encoded[index]) for index in needed if index in self._encoded], np.int64)
        return Band(labels, best, encoded.reshape(-1, 2))

    @inference
    def _encode(self, index: int) -> Tensor:
        """Cosines `(gh, nx · gw, Q)` of one row of windows; zeros where a window has no valid pixel."""
        y, x = self.plan.y, self.plan.x
        top = y.starts[index]
        pixels, valid = self._rows.take(top, top + y.window)
        wanted = [at for at, left in enumerate(x.starts) if valid[:, left : left + x.window].any()]
        text = self.classifier.text
        cosines = torch.zeros(y.cells, len(x.starts), x.cells, len(text), device=text.device)
        at_once = windows_at_once(self.classifier.segmenter.backbone)
        for begin in range(0, len(wanted), at_once):
            chosen = wanted[begin : begin + at_once]
            left, right = x.starts[chosen[0]], x.starts[chosen[-1]] + x.window
            strip = Plan(
                replace(y, length=y.window, starts=(0,)),
                replace(x, length=right - left, starts=tuple(x.starts[at] - left for at in chosen)),
            )
            features = self.classifier.features(strip.cut(self.classifier.normalize(pixels[:, left:right])))
            cosines[:, chosen] = (features @ text.T).transpose(0, 1)
        self._encoded[index] = len(wanted)
        return cosines.flatten(1, 2)


class _Rows:
    """The image as the model shall see it, row by row from the top, each read once."""

    def __init__(self, raster: Raster, size: tuple[int, int], *, fill: tuple[float, ...]) -> None:
        self.raster = raster
        self.size = size
        self._fill = np.rint(np.array(fill) * 255).astype(np.uint8)
        self._first = 0
        self._pixels = np.empty((0, size[1], 3), dtype=np.uint8)
        self._valid = np.empty((0, size[1]), dtype=bool)
        width = raster.size[1]
        self._columns = [
            (left, *resample_band(width, size[1], left, min(left + COLUMNS_AT_ONCE, size[1]), antialias=True))
            for left in range(0, size[1], COLUMNS_AT_ONCE)
        ]

    def take(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Rows of the resized image, `(stop - start, W, 3)` and `(stop - start, W)`; earlier ones are forgotten.

        A resized pixel is valid if a valid pixel has a share in it; what invalid ones add is the model's mean colour.
        """
        drop = min(start - self._first, len(self._pixels))
        end = self._first + len(self._pixels)
        parts = [(self._pixels[drop:], self._valid[drop:])]
        shrink = self.raster.size[0] / self.size[0]
        step = max(1, int(PIXELS_AT_ONCE / self.raster.size[1] / shrink))
        parts += [self._resized(row, min(row + step, stop)) for row in range(max(start, end), stop, step)]
        self._first = start
        self._pixels = np.concatenate([pixels for pixels, _ in parts])
        self._valid = np.concatenate([valid for _, valid in parts])
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
    """Pixels of a side after the resize, as the protocol rounds them: at least one.

    Args:
        length: Pixels of the side.
        scale: Factor.

    Returns:
        Pixels.
    """
    return max(1, int(length * scale + 0.5))


def resample_band(length: int, out_length: int, start: int, stop: int, *, antialias: bool) -> tuple[int, Tensor]:
    """Some rows of a bilinear resize as a matrix over the few samples that they depend on.

    Args:
        length: Samples given.
        out_length: Samples wanted in all.
        start: First wanted sample.
        stop: The one after the last.
        antialias: Widen the triangle when shrinking, so that every sample given counts.

    Returns:
        The first sample given, and `(stop - start, n)` float64 weights of n samples; rows sum to 1.
    """
    step = length / out_length
    reach = max(step, 1.0) if antialias else 1.0
    centers = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step - 0.5
    if not antialias:
        centers.clamp_(0, length - 1)
    first = max(0, int(np.floor(float(centers[0]) - reach)))
    last = min(length, int(np.ceil(float(centers[-1]) + reach)) + 1)
    samples = torch.arange(first, last, dtype=torch.float64)
    weights = (1 - (samples - centers[:, None]).abs() / reach).clamp_(min=0)
    used = weights.any(dim=0).nonzero()[:, 0]
    low, high = int(used[0]), int(used[-1]) + 1
    return first + low, (weights[:, low:high] / weights.sum(dim=1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Part(Axis):
    """The windows of an axis that some output pixels depend on, and the way from their cells to just these pixels.

    Attributes:
        first: Index of the first of these windows in the whole axis.
        way: The matrix of these pixels with its knots.
    """

    first: int
    way: Upsampling

    def upsampling(self, out_length: int) -> Upsampling:
        """As `Axis.upsampling`, of these pixels alone.

        Args:
            out_length: How many they are.

        Returns:
            The way.
        """
        assert out_length == len(self.way.matrix)
        return self.way


def part_of(axis: Axis, out_length: int, start: int, stop: int) -> Part:
    """What some output pixels of an axis depend on; equal to those rows of `axis.matrix(out_length)`.

    Args:
        axis: All windows.
        out_length: Output pixels in all.
        start: The first wanted.
        stop: The one after the last.

    Returns:
        The part.
    """
    begin, resample = resample_band(axis.length, out_length, start, stop, antialias=False)
    end = begin + resample.shape[1]
    reaching = [index for index, left in enumerate(axis.starts) if left < end and left + axis.window > begin]
    chosen = axis.starts[reaching[0] : reaching[-1] + 1]
    upsample = bilinear_matrix(axis.cells, axis.window if axis.padding is None else axis.encoded)
    if axis.padding is not None:
        upsample = upsample[axis.padding : axis.padding + axis.window]
    stitched = torch.zeros(end - begin, len(chosen), axis.cells, dtype=torch.float64)
    for index, left in enumerate(chosen):
        low, high = max(left, begin), min(left + axis.window, end)
        stitched[low - begin : high - begin, index] = upsample[low - left : high - left]
    overlap = torch.tensor(
        [sum(left <= pixel < left + axis.window for left in chosen) for pixel in range(begin, end)],
        dtype=torch.float64,
    )
    weights = resample @ (stitched / overlap[:, None, None]).flatten(1)
    return Part(
        length=axis.length,
        window=axis.window,
        starts=chosen,
        encoded=axis.encoded,
        padding=axis.padding,
        cells=axis.cells,
        first=reaching[0],
        way=Upsampling.of(weights),
    )
