"""A piece of ground seen from above, and what stands on it: the noise, light and elements that scenes are made of.

A scene is a colour image and a height map. Elements paint both; one light model shades every slope and casts every
shadow, and one camera model adds what a lens and a sensor add.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Field: TypeAlias = npt.NDArray[np.float32]  # (size, size): one number a pixel of the finished image
Colour: TypeAlias = tuple[float, float, float]  # red, green, blue in 0..255
Point: TypeAlias = tuple[float, float]  # metres from the centre, along and across the scene's main direction
Pose: TypeAlias = tuple[float, float, float]  # a point, and radians from the main direction

_HEIGHT_STEP = 0.1  # metres a grey level of the height map: 25 m is the tallest thing
_OVERSAMPLING = 2
_SUN, _SKY, _HAZE = (1.04, 1.0, 0.94), (0.29, 0.33, 0.40), (0.72, 0.78, 0.86)  # red, green, blue
_CARS = ((225, 225, 225), (170, 172, 175), (40, 42, 46), (95, 98, 104), (140, 40, 36), (50, 70, 115))
_ROOFS = ((150, 92, 72), (118, 104, 92), (96, 96, 100), (160, 148, 130), (132, 76, 58), (186, 182, 172))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour between two, at the second's share."""
    (r, g, b), (r2, g2, b2) = first, second
    return r + share * (r2 - r), g + share * (g2 - g), b + share * (b2 - b)


def ramp(distance: Field, width: float) -> Field:
    """Return 0 below -width, 1 above width, a straight line between."""
    share: Field = np.clip(distance / np.float32(2 * width) + np.float32(0.5), 0, 1)
    return share


def box(length: float, width: float, x: float = 0, y: float = 0) -> list[Point]:
    """Return the corners of a rectangle around a point."""
    a, b = length / 2, width / 2
    return [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]


def _grey(share: Field) -> Image.Image:
    return Image.fromarray(np.clip(share * np.float32(255), 0, 255).astype(np.uint8))


def _ink(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = colour
    return min(max(int(red), 0), 255), min(max(int(green), 0), 255), min(max(int(blue), 0), 255)


_CAR_PARTS = (box(4.5, 1.85), box(2.7, 1.6, -0.25), box(1.5, 1.5, -0.3))


class Scene:
    """A piece of ground seen from above, `size` pixels across, under the conditions of one day."""

    # Noise and light

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.span = rng.uniform(62, 98)  # metres across
        self.unit = _OVERSAMPLING * size / self.span  # drawing pixels a metre
        self.turn, self.bearing = rng.uniform(0, 2 * math.pi, 2).tolist()  # main direction and sun, in image axes
        self.cos, self.sin = math.cos(self.turn), math.sin(self.turn)
        self.sun_slope = math.tan(math.radians(rng.uniform(32, 62)))
        pixel = (np.arange(size, dtype=np.float32) + 0.5) / size * self.span - self.span / 2
        self.u: Field = (pixel * self.cos + pixel[:, None] * self.sin).astype(np.float32)
        self.v: Field = (pixel[:, None] * self.cos - pixel * self.sin).astype(np.float32)

        dry, murk, pale, old = rng.uniform(0, 1, 4)
        self.grass = self.vary(mix((84, 106, 58), (164, 148, 104), dry), 10)
        self.leaf = self.vary(mix((62, 86, 48), (112, 106, 66), 0.7 * dry * rng.uniform()), 8)
        self.soil = self.vary(mix((126, 104, 80), (186, 162, 128), pale), 10)
        self.sand = self.vary(mix(self.soil, (208, 194, 164), rng.uniform(0.4, 1)), 6)
        self.asphalt = self.vary(mix((84, 84, 88), (158, 154, 148), old), 4)
        self.concrete = self.vary((182, 177, 166), 10)
        self.sea = self.vary(mix(mix((38, 74, 96), (84, 96, 70), murk), (34, 44, 48), rng.uniform(0, 0.7)), 8)

        canvas = (_OVERSAMPLING * size, _OVERSAMPLING * size)
        self.ground = Image.new("RGB", (size, size))
        self.things, self.heights = Image.new("RGBA", canvas), Image.new("L", canvas)
        self.pens = ImageDraw.Draw(self.things), ImageDraw.Draw(self.heights)

    def vary(self, colour: Colour, spread: float) -> Colour:
        """Return a colour near this one: mostly lighter or darker, a little of another hue."""
        grey, *hue = (spread * self.rng.standard_normal(4)).tolist()
        red, green, blue = (part + grey + shift / 3 for part, shift in zip(colour, hue, strict=True))
        return red, green, blue

    def noise(self, grain: float, octaves: int = 3, stretch: float = 1) -> Field:
        """Return fractal noise of mean 0 and deviation 1.

        Args:
            grain: metres of its largest features; every further octave has features of half the size.
            octaves: how many, each at 0.6 of the amplitude of the one before.
            stretch: how much longer features are along the main direction than across.
        """
        side = self.size if stretch == 1 else int(1.45 * self.size)  # room to be turned in
        total = np.zeros((side, side), np.float32)
        for octave in range(octaves):
            cells = side / self.size * self.span / grain * 2**octave
            shape = min(side, int(cells) + 2), min(side, int(cells / stretch) + 2)
            grid = Image.fromarray(self.rng.standard_normal(shape, dtype=np.float32))
            total += 0.6**octave * np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
        if stretch != 1:
            shift = [side / 2 - (self.cos + self.sin) * self.size / 2, side / 2 - (self.cos - self.sin) * self.size / 2]
            steps = (self.cos, self.sin, shift[0], -self.sin, self.cos, shift[1])
            turned = Image.fromarray(total).transform((self.size, self.size), Image.Transform.AFFINE, steps)
            total = np.asarray(turned)
        normal: Field = (total - total.mean()) / (total.std() + np.float32(1e-6))
        return normal

    def cover(self, low: Colour, high: Colour, pattern: Field, where: Field | None = None) -> None:
        """Cover the share `where` (0..1) of the ground with the colours `low` (pattern <= -1.4) to `high` (>= 1.4)."""
        levels = _grey(pattern / np.float32(2.8) + np.float32(0.5))
        bands = [levels.point([int(a + (b - a) * i / 255) for i in range(256)]) for a, b in zip(low, high, strict=True)]
        self.ground.paste(Image.merge("RGB", bands), mask=None if where is None else _grey(where))

    def sunshine(self) -> Field:
        """Return how much direct light each point gets: 0 in shadow, 1 on open flat ground, more on sunny slopes."""
        height = np.asarray(self.heights.reduce(_OVERSAMPLING), np.float32)
        height = height * np.float32(_HEIGHT_STEP * self.size / self.span)
        slope, east, south = np.zeros_like(height), math.cos(self.bearing), math.sin(self.bearing)
        slope[:, 1:-1] = (height[:, :-2] - height[:, 2:]) * np.float32(east)
        slope[1:-1] += (height[:-2] - height[2:]) * np.float32(south)
        # By doubling, after k rounds the sun's horizon has seen 2**k pixels; what enters by the opposite border
        # stands for things outside the picture.
        horizon = height
        for step in (1, 2, 4, 8, 16, 32):
            shift = round(-step * south), round(-step * east)
            seen = np.roll(horizon, shift, axis=(0, 1)) - np.float32(step * self.sun_slope)
            horizon = np.maximum(horizon, seen)
        direct: Field = (1 + np.float32(0.4) * np.tanh(slope / 2)) * (1 - np.clip(horizon - height, 0, 1))
        return direct

    def photograph(self) -> Image.Image:
        """Return the finished image: lit, with exposure, colour cast, haze, a lens and a noisy sensor."""
        rng, direct = self.rng, self.sunshine()
        things = self.things.reduce(_OVERSAMPLING)
        self.ground.paste(things, mask=things)
        mottle = 1 + np.float32(0.05) * (self.noise(0.8, 1) + self.noise(30, 2))
        dim, gamma, exposure, haze = rng.uniform((0.8, 0.8, 0.78, 0), (1.25, 1.25, 1.2, 0.14)).tolist()
        cast = 1 + rng.normal(0, 0.032, 3)
        bands, curves = [], []
        for band, sun, sky, air, tint in zip(self.ground.split(), _SUN, _SKY, _HAZE, cast, strict=True):
            lit = np.asarray(band, np.float32) * (np.float32(sky * dim) + np.float32(sun - sky * dim) * direct) * mottle
            # Stored at 2/3, so that sunlit slopes brighter than white are still told apart.
            bands.append(_grey(lit / np.float32(255 * 1.5)))
            curve = np.linspace(0, 1.5, 256) ** gamma * exposure * tint * (1 - haze) + haze * air
            curves += np.clip(255 * curve, 0, 255).astype(int).tolist()
        image = ImageEnhance.Color(Image.merge("RGB", bands).point(curves)).enhance(rng.uniform(0.65, 1.2))
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.05, 0.6) * self.size / 256))
        grain = rng.standard_normal((self.size, self.size, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 4.5))
        return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))

    # Elements

    def at(self, x: float, y: float) -> Point:
        """Return the drawing pixel of a point in metres."""
        middle = self.span / 2
        return (x * self.cos - y * self.sin + middle) * self.unit, (x * self.sin + y * self.cos + middle) * self.unit

    def shows(self, x: float, y: float) -> bool:
        """Tell whether a point lies in the picture or within 12 m of it."""
        return max(abs(x * self.cos - y * self.sin), abs(x * self.sin + y * self.cos)) < self.span / 2 + 12

    def slab(self, pose: Pose, outline: Sequence[Point], colour: Colour, height: float = 0) -> None:
        """Put a polygon, in metres around a pose, at a height in metres."""
        (x, y), angle = self.at(*pose[:2]), pose[2] + self.turn
        cos, sin = math.cos(angle) * self.unit, math.sin(angle) * self.unit
        corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in outline]
        self.pens[0].polygon(corners, fill=_ink(colour))
        self.pens[1].polygon(corners, fill=int(height / _HEIGHT_STEP))

    def path(self, points: Iterable[Point], width: float, colour: Colour, height: float = 0) -> None:
        """Put a line, its width and its height in metres."""
        line, stroke = [self.at(*point) for point in points], max(1, round(width * self.unit))
        self.pens[0].line(line, fill=_ink(colour), width=stroke, joint="curve")
        self.pens[1].line(line, fill=int(height / _HEIGHT_STEP), width=stroke, joint="curve")

    def marks(self, pitch: float) -> list[float]:
        """Return coordinates every `pitch` metres from border to border, in a random phase."""
        reach = 0.72 * self.span + pitch
        return (np.arange(-reach, reach, pitch) + self.rng.uniform(0, pitch)).tolist()  # type: ignore[no-any-return]

    def spots(self, spacing: float, keep: Field | float = 1) -> list[Point]:
        """Return points on a shaken grid, each kept with a chance 0..1 that may depend on the place."""
        ticks = np.arange(-self.span / 2 - spacing, self.span / 2 + spacing, spacing)
        grid = np.stack(np.meshgrid(ticks, ticks)).reshape(2, -1)
        grid = grid + self.rng.uniform(-0.5, 0.5, grid.shape) * spacing
        column, row = np.clip((grid / self.span + 0.5) * self.size, 0, self.size - 1).astype(int)
        chance = np.broadcast_to(keep, (self.size, self.size))[row, column]
        kept = self.rng.permutation(np.flatnonzero(self.rng.uniform(size=len(chance)) < chance))
        return [(x * self.cos + y * self.sin, y * self.cos - x * self.sin) for x, y in grid[:, kept].T.tolist()]

    def trees(self, places: Sequence[Point], radius: float, colour: Colour | None = None) -> None:
        """Put crowns of about a radius in metres; small ones are shrubs."""
        rng, crowns = self.rng, []
        for reach in (radius * np.linspace(0.6, 1.35, 7) * self.unit).tolist():
            side = 2 * int(reach) + 3
            away = (np.arange(side) - side // 2) / (reach + 0.5)
            boughs, leaves = (
                np.asarray(Image.fromarray(rng.standard_normal((n, n), dtype=np.float32)).resize((side, side)))
                for n in (5, 9)
            )
            dome = 1 - away**2 - away[:, None] ** 2 + 0.22 * boughs + 0.12 * leaves
            top = np.clip(dome, 0, None) ** 0.7 * reach / self.unit * 1.3 + radius * 0.5
            crown = Image.fromarray(np.clip(top / _HEIGHT_STEP, 0, 255).astype(np.uint8))
            crowns.append((side // 2, Image.fromarray(dome > 0.12), crown))
        for place, kind in zip(places, rng.integers(0, len(crowns), len(places)).tolist(), strict=True):
            (x, y), (half, stencil, crown) = self.at(*place), crowns[kind]
            corner = int(x) - half, int(y) - half
            self.things.paste(_ink(self.vary(colour or self.leaf, 7)), corner, stencil)
            self.heights.paste(crown, corner, stencil)

    def house(self, pose: Pose, length: float, width: float, height: float = 4, wing: bool = True) -> None:
        """Put a gabled or hipped roof, with or without a wing across; faces are as bright as they look into the sun."""
        x, y, angle = pose
        base, a, b = self.vary(_ROOFS[self.rng.integers(len(_ROOFS))], 9), length / 2, width / 2
        shift = self.rng.uniform(-0.3, 0.3) * length
        parts = [(pose, a, b)]
        if wing:
            side = (x + shift * math.cos(angle), y + shift * math.sin(angle), angle + math.pi / 2)
            parts.insert(0, (side, b * self.rng.uniform(1.15, 1.5), a * self.rng.uniform(0.3, 0.45)))
        for where, a, b in parts:
            ridge = a - 0.7 * b * int(self.rng.integers(2))
            for sign in (-1, 1):
                long = [(-a, sign * b), (a, sign * b), (ridge, 0), (-ridge, 0)]
                short = [(sign * a, -b), (sign * a, b), (sign * ridge, 0)]
                for face, looks in ((long, where[2] + sign * math.pi / 2), (short, where[2] + (sign < 0) * math.pi)):
                    sunny = math.cos(looks + self.turn - self.bearing)
                    self.slab(where, face, mix((0, 0, 0), base, 1 + 0.28 * sunny), height)

    def hall(self, pose: Pose, length: float, width: float, height: float) -> None:
        """Put a large building: a parapet, a flat roof, machines on it."""
        skin = self.vary(mix((128, 126, 122), (222, 218, 208), self.rng.uniform()), 8)
        self.slab(pose, box(length, width), mix(skin, (235, 232, 226), 0.4), height)
        self.slab(pose, box(length - 1, width - 1), skin, height - 0.6)
        for x, y, a, b in self.rng.uniform([-0.4, -0.4, 0.8, 0.8], [0.4, 0.4, 3.2, 3.2], (9, 4)).tolist():
            self.slab(pose, box(a, b, x * length, y * width), self.vary((170, 170, 168), 22), height + 0.8)

    def car(self, x: float, y: float, angle: float) -> None:
        """Put a car: body, windows, roof."""
        if not self.shows(x, y):
            return
        paint = self.vary(_CARS[self.rng.integers(len(_CARS))], 10)
        for part, colour, height in zip(_CAR_PARTS, (paint, (38, 42, 48), paint), (0.9, 1.2, 1.4), strict=True):
            self.slab((x, y, angle), part, colour, height)

    def boat(self, x: float, y: float, angle: float, length: float) -> None:
        """Put a boat: a pointed hull, a deck, a cabin."""
        if not self.shows(x, y):
            return
        a, b = length / 2, length * 0.15
        hull = [(-a, -b), (0.4 * a, -b), (a, 0), (0.4 * a, b), (-a, b)]
        deck = self.vary((176, 156, 128) if self.rng.uniform() < 0.5 else (205, 205, 202), 10)
        self.slab((x, y, angle), hull, self.vary((226, 226, 222), 9), 1.1)
        self.slab((x, y, angle), [(0.8 * along, 0.65 * across) for along, across in hull], deck, 0.9)
        self.slab((x, y, angle), box(0.6 * a, 1.1 * b), self.vary((215, 218, 222), 14), 2.2)

    def water(self, where: Field, depth: Field) -> None:
        """Flood a share 0..1 of the ground; `depth` from -1 (shallow) to 1 (deep)."""
        self.cover(mix(self.sea, self.sand, 0.4), self.sea, depth + np.float32(0.25) * self.noise(14, 2), where)
        glint = self.noise(2.2, 2, stretch=2.5)
        self.cover(self.sea, (205, 214, 218), glint - 2, where * ramp(glint, 3) * self.rng.uniform(0.1, 0.5))

    def road(self, v: float, width: float, lanes: int, traffic: float, bend: float = 0) -> None:
        """Put a road `v` metres beside the centre, with markings; `traffic` is the share of stretches with a car."""
        u = (np.arange(-0.8, 0.81, 0.04) * self.span).tolist()

        def beside(shift: float) -> list[Point]:
            return [(x, v + shift + bend * (2 * x / self.span) ** 2) for x in u]

        self.path(beside(0), width + 0.8, mix(self.asphalt, self.concrete, 0.5))
        self.path(beside(0), width, self.asphalt)
        for lane in range(lanes):
            middle = beside((lane + 0.5) * width / lanes - width / 2)
            self.path(middle, 0.9, mix(self.asphalt, (50, 50, 52), 0.14))  # where tyres and oil fall
            edge = beside(lane * width / lanes - width / 2)
            for i in range(0, len(u) - 1, 2) if lane else ():
                self.path(edge[i : i + 2], 0.2, (214, 210, 196))
            for (x, y), (x2, y2) in zip(middle[::3], middle[1::3], strict=False):
                if self.rng.uniform() < traffic:
                    self.car(x, y, math.atan2(y2 - y, x2 - x))

    def lawn(self, bare: float) -> None:
        """Cover everything with grass that is worn to soil in places: `bare` from 0 (none) to 1 (most)."""
        self.cover(self.grass, self.vary(self.grass, 12), self.noise(9))
        self.cover(self.soil, self.sand, self.noise(3, 3), ramp(self.noise(16) + np.float32(4 * bare - 2.6), 0.5))
