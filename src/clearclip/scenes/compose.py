"""Putting a picture together, back to front: backdrop, flyers, grounds, things that stand on them."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Pen, Point, jitter, mix, shade
from .classes import COLOURED, COLOURS, HELD_OUT, RGB, THINGS
from .layouts import GROUNDS, KINDS, LAYOUTS, LIGHT_CHANCES, LIGHTS, Layout, Light


def _pick_colour(rng: np.random.Generator, name: str, *, hold_out: bool) -> str | None:
    """A colour's name for a thing that has one; with `hold_out` never one of `HELD_OUT`."""
    names = [colour for colour in COLOURED.get(name, ()) if not (hold_out and (colour, name) in HELD_OUT)]
    return names[rng.integers(len(names))] if names else None


class Composer:
    """Draws one picture on a canvas; with `hold_out` without the colour–thing pairs of `HELD_OUT`."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, *, light: Light, hold_out: bool) -> None:
        self.canvas = canvas
        self.rng = rng
        self.light = light
        self.hold_out = hold_out
        self.horizon = float(rng.uniform(0.34, 0.56))
        self.zoom = float(rng.uniform(0.85, 1.3))

    def thing(self, name: str, foot: Point, *, size: float) -> None:
        """Draw one thing of that many picture heights."""
        colour = _pick_colour(self.rng, name, hold_out=self.hold_out)
        if colour is not None:
            paint = jitter(self.rng, COLOURS[colour])
        elif name == "cloud":
            paint = jitter(self.rng, self.light.cloud, 5)
        elif name in ("sun", "moon"):
            paint = self.light.lamp_colour
        elif name == "mountain":
            paint = jitter(self.rng, ((122, 124, 146), (146, 122, 112), (98, 116, 132))[self.rng.integers(3)], 16)
        else:
            paint = (245, 245, 245) if any(thing.name == "snow" for thing in self.canvas.objects) else (90, 90, 90)
        self.canvas.begin(name, colour)
        KINDS[name].draw(Pen(self.canvas, foot, size=size, flip=bool(self.rng.random() < 0.5)), self.rng, paint)

    def backdrop(self) -> None:
        """The sky, its stars at night, and what hangs in it, down to the mountains."""
        rng, aspect = self.rng, self.canvas.aspect
        self.canvas.begin("sky")
        stops = self.light.skies[rng.integers(len(self.light.skies))]
        self.canvas.sky([(0.0, stops[0]), (self.horizon * 0.6, stops[1]), (self.horizon, stops[2])])
        if self.light.name == "night":
            for x, y in rng.uniform((0, 0), (aspect, self.horizon), (34, 2)):
                radius = float(rng.uniform(0.0015, 0.0045))
                self.canvas.ellipse((float(x), float(y)), (radius, radius), (255, 255, 235), mark=False, glow=True)
        if rng.random() < (0.9 if self.light.lamp == "moon" else 0.6):
            place = (float(rng.uniform(0.1, 0.9)) * aspect, float(rng.uniform(0.1, 0.6)) * self.horizon)
            self.thing(self.light.lamp, place, size=KINDS[self.light.lamp].height * float(rng.uniform(0.85, 1.35)))
        for _ in range(int(rng.integers(0, 4))):
            place = (float(rng.uniform(0, 1)) * aspect, float(rng.uniform(0.2, 0.75)) * self.horizon)
            self.thing("cloud", place, size=KINDS["cloud"].height * float(rng.uniform(0.8, 1.5)))
        if rng.random() < 0.45:
            for place_x in rng.uniform(0, aspect, rng.integers(1, 5)):
                size = float(rng.uniform(0.45, 0.85)) * self.horizon
                self.thing("mountain", (float(place_x), self.horizon + 0.02), size=size)

    def flyers(self) -> None:
        """Balloons, airplanes and birds in front of the backdrop."""
        rng, aspect = self.rng, self.canvas.aspect
        taken: list[list[float]] = []
        for name, chance, most in (("balloon", 0.34, 2), ("airplane", 0.28, 1), ("bird", 0.42, 4)):
            if rng.random() >= chance:
                continue
            for _ in range(int(rng.integers(1, most + 1))):
                spots = rng.uniform(
                    (0.06 * aspect, 0.3 * self.horizon), (0.94 * aspect, 0.95 * self.horizon), (4, 2)
                ).tolist()
                place = max(
                    spots, key=lambda spot: min((abs(spot[0] - x) + abs(spot[1] - y) for x, y in taken), default=0.0)
                )
                taken.append(place)
                self.thing(name, (place[0], place[1]), size=KINDS[name].height * float(rng.uniform(0.6, 1.15)))

    def grounds(self, layout: Layout) -> None:
        """The bands of ground with wavy borders, then a pond, a path or a road into the distance."""
        rng, bands = self.rng, layout.bands[self.rng.integers(len(layout.bands))]
        shares = rng.uniform(0.7, 1.3, len(bands)) * np.linspace(0.8, 1.3, len(bands))
        tops = self.horizon + (1 - self.horizon) * np.concatenate([[0.0], np.cumsum(shares)[:-1] / shares.sum()])
        for position, (name, top) in enumerate(zip(bands, tops, strict=True)):
            amplitude = (
                0.004 if position == 0 and name == "water" else 0.012 if name == "road" or position == 0 else 0.02
            )
            self._band(name, float(top), amplitude)
            if name == "road":
                bottom = float(tops[position + 1]) if position + 1 < len(bands) else 1.0
                self._dashes(float(top), bottom)
        if rng.random() < layout.pond:
            self._pond()
        if rng.random() < layout.path:
            self._lane("dirt")
        if rng.random() < layout.lane:
            self._lane("road")

    def _ground_colour(self, name: str) -> RGB:
        colour = jitter(self.rng, GROUNDS[name][self.rng.integers(len(GROUNDS[name]))], 10)
        return mix(colour, self.light.skies[0][1], 0.18) if name == "water" else colour

    def _band(self, name: str, top: float, amplitude: float) -> None:
        colour, aspect = self._ground_colour(name), self.canvas.aspect
        xs = np.linspace(0, aspect, 33)
        waves = self.rng.uniform(2, 7, 2), self.rng.uniform(0, 6.3, 2)
        rim = top + amplitude * (
            np.sin(xs * waves[0][0] + waves[1][0]) + 0.5 * np.sin(2 * xs * waves[0][1] + waves[1][1])
        )
        self.canvas.begin(name)
        border = [(float(x), float(y)) for x, y in zip(xs, rim, strict=True)]
        self.canvas.polygon([*border, (aspect, 1.01), (0, 1.01)], colour)
        steps = 5
        for step in range(1, steps):
            low = top + (1 - top) * step / steps
            wavy = [(x, low + (y - top) * 1.5) for x, y in border]
            self.canvas.polygon([*wavy, (aspect, 1.01), (0, 1.01)], shade(colour, 1 - 0.028 * step), mark=False)
        if (
            name in ("sand", "snow")
            and amplitude > 0.012
            and any(thing.name == "water" for thing in self.canvas.objects)
        ):
            self.canvas.line(border, 0.012, (250, 252, 255), mark=False, alpha=150)

    def _dashes(self, top: float, bottom: float) -> None:
        middle, half = (top + bottom) / 2, 0.006 + 0.02 * (bottom - top)
        start = float(self.rng.uniform(-0.1, 0.1))
        for x in np.arange(start, self.canvas.aspect, 0.2):
            corners = [(x, middle - half), (x + 0.1, middle - half), (x + 0.1, middle + half), (x, middle + half)]
            self.canvas.polygon([(float(a), b) for a, b in corners], (236, 232, 214), mark=False)

    def _pond(self) -> None:
        rng = self.rng
        centre = (
            float(rng.uniform(0.15, 0.85)) * self.canvas.aspect,
            self.horizon + float(rng.uniform(0.3, 0.8)) * (1 - self.horizon),
        )
        radii = (float(rng.uniform(0.22, 0.42)), float(rng.uniform(0.06, 0.12)))
        self.canvas.ellipse(centre, (radii[0] + 0.015, radii[1] + 0.01), (120, 100, 76), mark=False, alpha=110)
        self.canvas.begin("water")
        self.canvas.ellipse(centre, radii, self._ground_colour("water"))

    def _lane(self, name: str) -> None:
        rng, aspect, top = self.rng, self.canvas.aspect, self.horizon + 0.015
        far = float(rng.uniform(0.25, 0.75)) * aspect
        near = float(rng.uniform(0.2, 0.8)) * aspect
        bend = float(rng.uniform(-0.2, 0.2))
        wide = 0.3 if name == "road" else 0.16
        left, right, centre = [], [], []
        for t in np.linspace(0, 1, 14):
            middle = far + (near - far) * t + bend * np.sin(np.pi * t)
            y, half = top + (1.01 - top) * t, wide * (0.08 + 0.92 * t)
            left.append((float(middle - half), float(y)))
            right.append((float(middle + half), float(y)))
            centre.append((float(middle), float(y), float(half)))
        self.canvas.begin(name)
        self.canvas.polygon([*left, *reversed(right)], self._ground_colour(name))
        if name == "road":
            for first, second in zip(centre[::2], centre[1::2], strict=True):
                self.canvas.line([first[:2], second[:2]], first[2] * 0.07, (236, 232, 214), mark=False)

    def _spot(self, grounds: frozenset[str], taken: list[Point]) -> Point | None:
        """A point on one of the grounds: of several, the one farthest from what is already there."""
        best, distance = None, -1.0
        found = 0
        for _ in range(24):
            x = float(self.rng.uniform(0.04, 0.96)) * self.canvas.aspect
            y = self.horizon + float(self.rng.uniform(0.06, 0.97)) * (1 - self.horizon)
            if self.canvas.ground_at((x, y)) not in grounds:
                continue
            gap = min((abs(x - other[0]) + 1.5 * abs(y - other[1]) for other in taken), default=1.0)
            if gap > distance:
                best, distance = (x, y), gap
            found += 1
            if found == 5:
                break
        return best

    def standing(self, layout: Layout) -> None:
        """The things on the ground, far ones first."""
        rng = self.rng
        names = list(layout.things)
        weights = np.array([layout.things[name] for name in names], dtype=np.float64)
        count = min(int(rng.integers(3, 7)), len(names))
        chosen = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
        places: list[tuple[float, float, str]] = []
        taken: list[Point] = []
        for name in (names[position] for position in chosen):
            for _ in range(1 + int(rng.integers(0, KINDS[name].most) * (rng.random() < 0.6))):
                spot = self._spot(KINDS[name].grounds, taken)
                if spot is not None:
                    taken.append(spot)
                    places.append((spot[1], spot[0], name))
        for y, x, name in sorted(places):
            near = (y - self.horizon) / (1 - self.horizon)
            size = KINDS[name].height * (0.42 + 0.62 * near) * self.zoom * float(rng.uniform(0.85, 1.15))
            self.thing(name, (x, y), size=size)

    def portrait(self) -> None:
        """One thing, large, and nothing else but sky and one ground."""
        rng = self.rng
        candidates = sorted(THINGS - ({"sun"} if self.light.lamp == "moon" else {"moon"}))
        name = candidates[rng.integers(len(candidates))]
        kind = KINDS[name]
        self.canvas.begin("sky")
        stops = self.light.skies[rng.integers(len(self.light.skies))]
        self.canvas.sky([(0.0, stops[0]), (self.horizon * 0.6, stops[1]), (self.horizon, stops[2])])
        if kind.grounds or name == "mountain" or rng.random() < 0.5:
            grounds = sorted(kind.grounds) or sorted(GROUNDS)
            if name != "mountain":
                self._band(grounds[rng.integers(len(grounds))], self.horizon, 0.01)
        wide = name in ("car", "bus", "airplane", "cloud", "fence", "mountain", "bird", "sheep", "bush")
        size = float(rng.uniform(0.22, 0.42)) if wide else float(rng.uniform(0.45, 0.85))
        low = (
            float(rng.uniform(max(self.horizon + 0.08, size * 0.9), 0.96))
            if kind.grounds
            else float(rng.uniform(0.4, 0.7))
        )
        if name in ("sun", "moon"):
            size *= 0.6
        if name == "mountain":
            size, low = size * 1.4, self.horizon + 0.02
        self.thing(name, (float(rng.uniform(0.3, 0.7)) * self.canvas.aspect, low), size=size)
        if name == "mountain":
            self._band(sorted(GROUNDS)[rng.integers(len(GROUNDS))], self.horizon, 0.01)


def compose(
    size: tuple[int, int], rng: np.random.Generator, *, layout: str | None = None, hold_out: bool = False
) -> tuple[Canvas, str, str]:
    """Compose a picture of a random or a named layout ("portrait": one large thing), and name its layout and light."""
    light = LIGHTS[rng.choice(len(LIGHTS), p=LIGHT_CHANCES)]
    canvas = Canvas(size, light.factors)
    composer = Composer(canvas, rng, light=light, hold_out=hold_out)
    chosen = layout or list(LAYOUTS)[rng.integers(len(LAYOUTS))]
    if chosen == "portrait":
        composer.portrait()
        return canvas, chosen, light.name
    composer.backdrop()
    composer.flyers()
    composer.grounds(LAYOUTS[chosen])
    composer.standing(LAYOUTS[chosen])
    return canvas, chosen, light.name
