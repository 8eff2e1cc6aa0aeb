"""Drawing colours and labels together: a supersampled canvas, a pen in a thing's frame, surface texture.

Lengths are in units of the picture's height: x from 0 to width / height, y from 0 (top) to 1 (bottom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .classes import CLASSES, INDEX, PARTS, RGB

Point = tuple[float, float]
_SUPERSAMPLING = 2

# Strength of (fine grain, soft blotches, horizontal streaks, vertical streaks) in grey levels.
_TEXTURES: dict[str, tuple[float, float, float, float]] = {
    "grass": (7.0, 7.0, 0.0, 15.0),
    "sand": (9.0, 8.0, 5.0, 0.0),
    "water": (2.0, 4.0, 17.0, 0.0),
    "snow": (4.0, 7.0, 3.0, 0.0),
    "road": (7.0, 3.0, 2.0, 0.0),
    "dirt": (12.0, 15.0, 6.0, 0.0),
    "mountain": (6.0, 12.0, 0.0, 6.0),
    "cloud": (1.0, 7.0, 0.0, 0.0),
    "tree": (9.0, 11.0, 0.0, 0.0),
    "pine": (9.0, 6.0, 0.0, 10.0),
    "cactus": (3.0, 2.0, 0.0, 6.0),
    "bush": (10.0, 10.0, 0.0, 0.0),
    "house": (4.0, 3.0, 3.0, 0.0),
    "fence": (4.0, 3.0, 0.0, 8.0),
    "sheep": (7.0, 7.0, 0.0, 0.0),
    "rock": (9.0, 10.0, 0.0, 0.0),
    "moon": (3.0, 10.0, 0.0, 0.0),
}
_TEXTURE_TABLE: NDArray[np.float32] = np.array(
    [_TEXTURES.get(name, (2.0, 2.0, 0.0, 0.0)) for name in CLASSES], dtype=np.float32
)


def shade(colour: RGB, factor: float) -> RGB:
    """Darken (factor < 1) or lighten towards white (factor > 1) a colour."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    return mix(colour, (255, 255, 255), min(factor - 1.0, 1.0))


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours; `share` in [0, 1] is the second's part."""
    red, green, blue = (int(one * (1.0 - share) + other * share) for one, other in zip(first, second, strict=True))
    return (red, green, blue)


def jitter(rng: np.random.Generator, colour: RGB, amount: float = 14.0) -> RGB:
    """Move a colour by a few grey levels, mostly all channels together so that it keeps its name."""
    common = rng.uniform(-amount, amount)
    red, green, blue = np.clip(np.array(colour) + common + rng.uniform(-amount / 3, amount / 3, 3), 0, 255).astype(int)
    return (int(red), int(green), int(blue))


@dataclass(frozen=True)
class Object:
    """A drawn thing or ground: class name, colour's name if it has one, number in the instance map."""

    name: str
    colour: str | None
    number: int

    @property
    def phrase(self) -> str:
        """The words for it: "red car", or the class name alone."""
        return f"{self.colour} {self.name}" if self.colour else self.name


class Canvas:
    """Colour, instance number and part of every pixel, drawn back to front; `light` multiplies red, green and blue."""

    def __init__(self, size: tuple[int, int], light: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.height, self.width = size
        self.aspect = self.width / self.height
        self.light = light
        self.objects: list[Object] = []
        self.scale = self.height * _SUPERSAMPLING
        big = (self.width * _SUPERSAMPLING, self.height * _SUPERSAMPLING)
        self._colours = Image.new("RGB", big)
        self._numbers = Image.new("L", big)
        self._parts = Image.new("L", big)
        self._part = 0
        self._colour_pen = ImageDraw.Draw(self._colours, "RGBA")
        self._number_pen = ImageDraw.Draw(self._numbers)
        self._part_pen = ImageDraw.Draw(self._parts)

    def begin(self, name: str, colour: str | None = None) -> Object:
        """Start a new object; shapes drawn from now on are its pixels."""
        thing = Object(name, colour, len(self.objects))
        self.objects.append(thing)
        self._part = 0
        return thing

    def part(self, name: str | None) -> None:
        """Shapes drawn from now on are this part of the current object; `None`: no part that has a name."""
        self._part = PARTS.index(name) + 1 if name else 0

    def _marks(self, mark: bool) -> list[tuple[ImageDraw.ImageDraw, int]]:
        """Pens that draw a shape's pixels in the maps, with its value there."""
        numbers = [(self._number_pen, len(self.objects) - 1)] if mark else []
        return [*numbers, (self._part_pen, self._part)] if mark or self._part else numbers

    def sky(self, stops: Sequence[tuple[float, RGB]]) -> None:
        """Fill everything with a vertical gradient through (y, colour) stops; unaffected by `light`."""
        rows = np.linspace(0, 1, self.scale)
        heights = [stop[0] for stop in stops]
        column = np.stack(
            [np.interp(rows, heights, [stop[1][channel] for stop in stops]) for channel in range(3)], axis=1
        )
        gradient = Image.fromarray(column.astype(np.uint8)[:, None]).resize(
            self._colours.size, Image.Resampling.NEAREST
        )
        self._colours.paste(gradient)

    def _seen(self, colour: RGB, glow: bool, alpha: int) -> tuple[int, int, int, int]:
        light = (1.0, 1.0, 1.0) if glow else self.light
        red, green, blue = (min(int(part * factor), 255) for part, factor in zip(colour, light, strict=True))
        return (red, green, blue, alpha)

    def polygon(
        self, points: Sequence[Point], colour: RGB, *, mark: bool = True, glow: bool = False, alpha: int = 255
    ) -> None:
        """Fill a polygon; `mark` makes its pixels the current object's, `glow` ignores the light."""
        pixels = [(x * self.scale, y * self.scale) for x, y in points]
        self._colour_pen.polygon(pixels, self._seen(colour, glow, alpha))
        for pen, value in self._marks(mark):
            pen.polygon(pixels, value)

    def ellipse(
        self, centre: Point, radii: Point, colour: RGB, *, mark: bool = True, glow: bool = False, alpha: int = 255
    ) -> None:
        """Fill an upright ellipse of half axes `radii`."""
        (x, y), (rx, ry), scale = centre, radii, self.scale
        box = ((x - rx) * scale, (y - ry) * scale, (x + rx) * scale, (y + ry) * scale)
        self._colour_pen.ellipse(box, self._seen(colour, glow, alpha))
        for pen, value in self._marks(mark):
            pen.ellipse(box, value)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        colour: RGB,
        *,
        mark: bool = True,
        glow: bool = False,
        alpha: int = 255,
    ) -> None:
        """Draw a polyline of the given width, at least one supersampled pixel wide."""
        pixels = [(x * self.scale, y * self.scale) for x, y in points]
        thickness = max(round(width * self.scale), 1)
        self._colour_pen.line(
            pixels, self._seen(colour, glow, alpha), thickness, joint="curve" if thickness > 4 else None
        )
        for pen, value in self._marks(mark):
            pen.line(pixels, value, thickness)

    def ground_at(self, point: Point) -> str:
        """Name of the object whose pixel is at a point of the picture."""
        x = min(int(point[0] * self.scale), self._numbers.width - 1)
        y = min(int(point[1] * self.scale), self._numbers.height - 1)
        number = self._numbers.getpixel((x, y))
        return self.objects[int(number)].name  # type: ignore[arg-type]

    def finish(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], ...]:
        """Downsample and add the textures: image (H, W, 3), label map, instance map and part map (H, W), uint8."""
        numbers, parts = (
            np.ascontiguousarray(np.asarray(drawn)[::_SUPERSAMPLING, ::_SUPERSAMPLING])
            for drawn in (self._numbers, self._parts)
        )
        classes = np.array([INDEX[thing.name] for thing in self.objects], dtype=np.uint8)
        label_map = classes[numbers]
        image = np.asarray(self._colours.reduce(_SUPERSAMPLING), dtype=np.float32)
        relief = _relief(rng, (self.height, self.width), label_map) * (sum(self.light) / 3)
        return np.clip(image + relief[..., None], 0, 255).astype(np.uint8), label_map, numbers, parts


def _relief(rng: np.random.Generator, size: tuple[int, int], label_map: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels to add, (H, W): four kinds of noise in the proportions of each pixel's class.

    The grain of the streaks is a part of the picture's height, so that a scene looks alike at every size.
    """
    height, width = size

    def noise(rows: int, columns: int) -> NDArray[np.float32]:
        small = rng.standard_normal((max(rows, 2), max(columns, 2)), dtype=np.float32)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))

    aspect = width / height
    layers = (
        noise(height, width),
        noise(14, round(14 * aspect)),
        noise(64, round(9 * aspect)),
        noise(12, round(80 * aspect)),
    )
    amounts = _TEXTURE_TABLE[label_map]
    total = amounts[..., 0] * layers[0]
    for position in range(1, 4):
        total += amounts[..., position] * layers[position]
    return total


class Pen:
    """Draws one thing in its own frame: x to the right of its foot, y up from it, in units of its size."""

    def __init__(self, canvas: Canvas, foot: Point, *, size: float, flip: bool = False) -> None:
        self.canvas = canvas
        self.foot = foot
        self.size = size
        self.sign = -1.0 if flip else 1.0

    def at(self, x: float, y: float) -> Point:
        """Map a point of the thing's frame to the canvas."""
        return (self.foot[0] + self.sign * x * self.size, self.foot[1] - y * self.size)

    def part(self, name: str | None) -> None:
        """Shapes drawn from now on are this part of the thing; `None`: no part that has a name."""
        self.canvas.part(name)

    def polygon(
        self, points: Sequence[Point], colour: RGB, *, mark: bool = True, glow: bool = False, alpha: int = 255
    ) -> None:
        """Fill a polygon of the thing's frame."""
        self.canvas.polygon([self.at(x, y) for x, y in points], colour, mark=mark, glow=glow, alpha=alpha)

    def box(
        self, corner: Point, opposite: Point, colour: RGB, *, mark: bool = True, glow: bool = False, alpha: int = 255
    ) -> None:
        """Fill the rectangle between two opposite corners."""
        (x0, y0), (x1, y1) = corner, opposite
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, mark=mark, glow=glow, alpha=alpha)

    def ellipse(
        self, centre: Point, radii: Point, colour: RGB, *, mark: bool = True, glow: bool = False, alpha: int = 255
    ) -> None:
        """Fill an upright ellipse of the thing's frame."""
        size = (radii[0] * self.size, radii[1] * self.size)
        self.canvas.ellipse(self.at(*centre), size, colour, mark=mark, glow=glow, alpha=alpha)

    def arc(self, centre: Point, radii: Point, angles: tuple[float, float], colour: RGB, *, mark: bool = True) -> None:
        """Fill the part of an ellipse between two angles in radians, closed by its chord."""
        turns = np.linspace(angles[0], angles[1], 24)
        points = [(centre[0] + radii[0] * float(np.cos(t)), centre[1] + radii[1] * float(np.sin(t))) for t in turns]
        self.polygon(points, colour, mark=mark)

    def line(self, points: Sequence[Point], width: float, colour: RGB, *, mark: bool = True, alpha: int = 255) -> None:
        """Draw a polyline of the thing's frame."""
        self.canvas.line([self.at(x, y) for x, y in points], width * self.size, colour, mark=mark, alpha=alpha)

    def shadow(self, width: float) -> None:
        """Darken the ground under the thing; the ground keeps its label."""
        self.canvas.ellipse(
            (self.foot[0] + 0.08 * self.size, self.foot[1]),
            (width * self.size, 0.07 * self.size),
            (0, 0, 0),
            mark=False,
            alpha=60,
        )
