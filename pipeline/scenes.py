"""Aerial land-use scenes that the program draws itself, so that a demonstration needs no download.

Season, sun, camera, scale and rotation are drawn per image and elements are shared between classes, so that colour
alone does not tell a class.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cache.atomic import writing_file
from pipeline.errors import ImageSetError
from pipeline.progress import SILENT, Progress
from pipeline.scenery import Scene, box, mix, ramp

_CIRCLE = [(math.cos(turn), math.sin(turn)) for turn in np.linspace(0, 2 * math.pi, 48, endpoint=False)]

# Classes: one function each, named as its class


def _agricultural(scene: Scene) -> None:
    rng, border = scene.rng, scene.rng.uniform(-0.3, 0.6) * scene.span
    for where in (None, ramp(scene.v - np.float32(border), 0.4)):
        pitch, ripe = rng.uniform(1.3, 4.5), rng.uniform(-0.8, 0.8)
        axis = scene.u if where is not None and rng.uniform() < 0.4 else scene.v
        rows = np.sin(axis * np.float32(2 * math.pi / pitch) + np.float32(0.35) * scene.noise(12))
        pattern = rng.uniform(0.35, 1) * rows + np.float32(0.35) * scene.noise(18, 5, stretch=2) + np.float32(ripe)
        scene.cover(scene.vary(mix(scene.leaf, scene.grass, rng.uniform()), 10), scene.soil, pattern, where)
    if rng.uniform() < 0.5:
        scene.path([(-99, border), (99, border)], rng.uniform(1.5, 4), mix(scene.soil, scene.sand, 0.6))
    if rng.uniform() < 0.3:
        scene.trees([(u, border + 4 + rng.normal()) for u in scene.marks(5)], 2.4)


def _beach(scene: Scene) -> None:
    rng = scene.rng
    shore = scene.v + np.float32(2.5) * scene.noise(40) - np.float32(rng.uniform(-0.2, 0.2) * scene.span)
    back = ramp(-shore - np.float32(rng.uniform(14, 60)), 3)
    scene.cover(mix(scene.sand, scene.soil, 0.35), scene.sand, scene.noise(7, 5))
    scene.cover(scene.grass, scene.soil, scene.noise(5, 3), back * ramp(scene.noise(9, 3), 0.6))
    scene.cover(mix(scene.sand, (60, 60, 58), 0.4), scene.sand, scene.noise(5, 2), ramp(shore + np.float32(5), 2))
    scene.water(ramp(shore, 1.2), shore / 14 - np.float32(0.8))
    for gap in rng.uniform(0.5, 16, rng.integers(1, 4)):
        crest = np.abs(shore + np.float32(0.9) * scene.noise(7, 2, stretch=2) - np.float32(gap))
        foam = ramp(np.float32(rng.uniform(0.4, 1.6)) - crest, 0.6) * ramp(scene.noise(5, 3) + np.float32(0.6), 0.6)
        scene.cover((205, 210, 208), (246, 246, 242), scene.noise(2, 2), foam * np.float32(0.9))
    scene.trees(scene.spots(4, back * rng.uniform(0, 0.6)), rng.uniform(0.7, 2))
    for x, y in scene.spots(9, ramp(-shore - np.float32(6), 1) * rng.uniform(0, 0.3)):
        scene.slab((x, y, rng.uniform(0, 6)), box(1.8, 1.6), scene.vary((170, 110, 100), 40), 1.8)


def _buildings(scene: Scene) -> None:
    rng, street = scene.rng, scene.rng.uniform(0.25, 0.42) * scene.span
    scene.cover(scene.asphalt, mix(scene.asphalt, scene.concrete, 0.7), scene.noise(20))
    green = ramp(scene.noise(22, 2) - np.float32(rng.uniform(0.3, 1.5)), 0.1)
    scene.cover(scene.grass, scene.leaf, scene.noise(6, 3), green)
    scene.road(street, rng.uniform(7, 13), 2, 0.3)
    scene.trees(scene.spots(8, (scene.v < street - 9) * rng.uniform(0.1, 0.6)), rng.uniform(1.5, 2.6))
    for x, y in scene.spots(6, (scene.v < street - 9) * 0.35):
        scene.car(x, y, rng.integers(2) * math.pi / 2)
    depth = rng.uniform(17, 30)
    for y in np.arange(street - 10 - depth / 2, -0.7 * scene.span - depth, -depth - rng.uniform(4, 13)):
        x = -0.8 * scene.span + rng.uniform(0, 20)
        while x < 0.7 * scene.span:
            length = rng.uniform(16, 45)
            if rng.uniform() < 0.2:
                scene.house((x + length / 2, y, 0), length, depth, 9, wing=False)
            else:
                scene.hall((x + length / 2, y, 0), length, depth, rng.uniform(6, 18))
            x += length + rng.uniform(3, 14)


def _chaparral(scene: Scene) -> None:
    rng = scene.rng
    scene.cover(scene.soil, mix(scene.grass, scene.sand, rng.uniform(0.2, 0.9)), scene.noise(12, 6))
    if rng.uniform() < 0.3:
        scene.road(rng.uniform(-20, 20), 3, 1, 0, rng.normal(0, 12))
    thick = ramp(scene.noise(25) + np.float32(rng.uniform(-0.6, 1.2)), 1)
    scene.trees(scene.spots(3.2, 0.75 * thick), rng.uniform(0.7, 1.3))
    scene.trees(scene.spots(6, 0.4 * thick), rng.uniform(1.2, 1.9), scene.vary(scene.leaf, 9))


def _residential(scene: Scene, lot: float, block: float, green: float) -> None:
    """Draw houses along streets: metres of frontage, metres between streets, share of trees."""
    rng = scene.rng
    scene.lawn(rng.uniform(0, 0.6))
    first = rng.uniform(-0.25, 0.25) * scene.span
    streets = [first + step * block for step in (-1, 0, 1)]
    for kind in (scene.leaf, scene.vary(scene.leaf, 12)):
        scene.trees(scene.spots(5.5, green), rng.uniform(1.4, 2.8), kind)
    for street, side in itertools.product(streets, (-1, 1)):
        if side < 0:
            scene.road(street, 7, 2, 0.08)
        scene.path([(-99, street + side * 5), (99, street + side * 5)], 1.2, scene.concrete)
        for x in scene.marks(lot):
            length, width = min(lot - 2, rng.uniform(10.5, 15)), rng.uniform(7.5, 10)
            y = street + side * (rng.uniform(9, 9 + block / 12) + width / 2)
            drive = x + (0.6 * rng.integers(2) - 0.3) * length
            scene.path([(drive, street + side * 3), (drive, y)], 3.2, scene.concrete)
            if rng.uniform() < 0.5:
                scene.car(drive, street + side * 6.8, math.pi / 2)
            if rng.uniform() < 0.12:
                scene.slab((x, y + side * (width / 2 + 4), 0), box(6, 3.4), (92, 168, 190))
            scene.house((x, y, rng.normal(0, 0.03)), length, width, rng.uniform(3.5, 5.5), rng.uniform() < 0.6)
    kerb = np.min([np.abs(np.abs(scene.v - np.float32(street)) - 7) for street in streets], axis=0)
    scene.trees(scene.spots(6, green * (kerb < 2)), rng.uniform(1.6, 2.8))


def _denseresidential(scene: Scene) -> None:
    _residential(scene, scene.rng.uniform(12.5, 15.5), scene.rng.uniform(42, 50), scene.rng.uniform(0.05, 0.35))


def _sparseresidential(scene: Scene) -> None:
    _residential(scene, scene.rng.uniform(34, 55), scene.rng.uniform(90, 130), scene.rng.uniform(0.15, 0.6))


def _forest(scene: Scene) -> None:
    rng = scene.rng
    scene.cover(scene.soil, scene.grass, scene.noise(10))
    if rng.uniform() < 0.3:
        scene.road(rng.uniform(-20, 20), rng.uniform(3, 6), 1, 0.02, rng.normal(0, 14))
    radius, thick = rng.uniform(1.8, 3), ramp(scene.noise(30, 3) + np.float32(rng.uniform(0.4, 2.2)), 0.8)
    for spread, share in ((0, 0.75), (10, 0.55), (14, 0.3)):
        places = scene.spots(radius * 1.7, share * thick)
        scene.trees(places, radius * rng.uniform(0.8, 1.2), scene.vary(scene.leaf, spread))


def _freeway(scene: Scene) -> None:
    rng = scene.rng
    scene.lawn(rng.uniform(0, 1))
    scene.trees(scene.spots(5, rng.uniform(0, 0.5)), rng.uniform(0.9, 2.4))
    lanes, gap, bend, shift = int(rng.integers(3, 6)), rng.uniform(1, 9), rng.normal(0, 6), rng.uniform(-8, 8)
    width, traffic = 3.6 * lanes + 3, rng.uniform(0.05, 0.45)
    for side in (-1, 1):
        scene.road(shift + side * (gap + width) / 2, width, lanes, traffic, bend)
    if rng.uniform() < 0.25:
        x, broad = rng.uniform(-25, 25), rng.uniform(8, 14)
        scene.path([(x - 8, -99), (x + 8, 99)], broad, scene.concrete, 7)
        scene.path([(x - 8, -99), (x + 8, 99)], broad - 1, scene.asphalt, 6)


def _harbor(scene: Scene) -> None:
    rng = scene.rng
    scene.water(np.ones_like(scene.u), scene.noise(25, 3) * np.float32(0.5) + np.float32(0.5))
    length, moored = rng.uniform(8, 15), rng.uniform(0.4, 0.95)
    for y in scene.marks(2 * length + rng.uniform(6, 24)):
        scene.path([(-99, y), (99, y)], 2.2, scene.vary(scene.concrete, 12), 0.8)
        for x, side in itertools.product(scene.marks(0.42 * length), (-1, 1)):
            scene.path([(x, y), (x, y + side * 0.8 * length)], 0.6, scene.concrete, 0.8)
            size, bow = length * rng.uniform(0.7, 1), math.pi * (rng.integers(2) - 0.5)
            if rng.uniform() < moored:
                scene.boat(x + 0.21 * length, y + side * (size / 2 + 1.6), bow, size)
    if rng.uniform() < 0.5:
        quay = rng.uniform(0.15, 0.42) * scene.span
        scene.slab((quay + 75, 0, 0), box(150, 250), scene.concrete, 1)
        scene.slab((quay + 85, 0, 0), box(150, 250), scene.asphalt, 1)
        for y in scene.marks(3.5):
            scene.car(quay + 14, y, rng.normal(0, 0.05))


def _parkinglot(scene: Scene) -> None:
    rng, white = scene.rng, (222, 220, 210)
    scene.cover(scene.asphalt, mix(scene.asphalt, (60, 60, 62), 0.3), scene.noise(18, 5))
    taken, islands = rng.uniform(0.3, 0.97), rng.uniform(0, 0.12)
    for y in scene.marks(rng.uniform(16.5, 19)):
        scene.path([(-99, y), (99, y)], 0.25, white)
        for x in (x for x in scene.marks(2.8) if scene.shows(x, y)):
            scene.path([(x - 1.4, y - 5), (x - 1.4, y + 5)], 0.2, white)
            if rng.uniform() < islands:
                scene.slab((x, y, 0), box(2.6, 10), scene.grass)
                scene.trees([(x, y - 2.5), (x, y + 2.5)], 1.8)
                continue
            for side in (-1, 1):
                if rng.uniform() < taken:
                    scene.car(x, y + side * (2.7 + rng.normal(0, 0.2)), math.pi * (rng.integers(2) - 0.5))
    if rng.uniform() < 0.35:
        scene.hall((rng.uniform(-20, 20), 0.55 * scene.span, 0), 60, 0.5 * scene.span, rng.uniform(5, 9))


def _river(scene: Scene) -> None:
    rng = scene.rng
    scene.lawn(rng.uniform(0, 0.8))
    bow = np.sin(scene.u * np.float32(2 * math.pi / rng.uniform(70, 160)) + np.float32(rng.uniform(0, 6)))
    line = scene.v + bow * np.float32(rng.uniform(4, 14)) + 2 * scene.noise(22)
    bank = np.abs(line) - np.float32(rng.uniform(6, 18))
    scene.cover(scene.soil, scene.sand, scene.noise(4, 3), ramp(np.float32(rng.uniform(0.5, 4)) - bank, 0.6))
    scene.water(ramp(-bank, 0.5), -bank / 5 - np.float32(0.5))
    for spread in (0, 10):
        thick = ramp(bank - 4, 1) * ramp(scene.noise(25, 3) + np.float32(rng.uniform(-0.5, 1.5)), 0.7)
        places = scene.spots(4.2, thick * rng.uniform(0.2, 0.9))
        scene.trees(places, rng.uniform(1.2, 2.8), scene.vary(scene.leaf, spread))
    if rng.uniform() < 0.2:
        scene.path([(rng.uniform(-20, 20), y) for y in (-99, 99)], rng.uniform(6, 11), scene.asphalt, 4)


def _storagetanks(scene: Scene) -> None:
    rng, paint = scene.rng, scene.vary((206, 204, 196), 16)
    scene.cover(scene.soil, mix(scene.sand, scene.concrete, rng.uniform()), scene.noise(14, 5))
    green = ramp(scene.noise(20, 3) - np.float32(rng.uniform(-1.5, 2)), 0.4)
    scene.cover(scene.grass, scene.leaf, scene.noise(6, 3), green)
    cell, empty = rng.uniform(20, 38), rng.uniform(0.05, 0.25)
    columns = scene.marks(cell)
    for y in scene.marks(cell):
        scene.path([(-99, y + cell / 2), (99, y + cell / 2)], 3.5, scene.asphalt)
        for x in columns:
            scene.path([(x + 0.46 * cell, y - cell / 2), (x + 0.46 * cell, y + cell / 2)], 0.7, scene.concrete, 0.6)
            if rng.uniform() < empty:
                scene.trees([(x, y)], 2)
                scene.car(x, y + cell / 2, 0)
                continue
            radius, tall, top = cell * rng.uniform(0.24, 0.38), rng.uniform(6, 12), scene.vary(paint, 8)
            scene.path([(x, y), (x + cell / 2, y)], 0.6, scene.concrete, 0.6)
            for share, height in ((radius, tall), (0.96 * radius, tall + 1.7 * rng.integers(2) - 1.5)):
                scene.slab((x, y, 0), [(share * a, share * b) for a, b in _CIRCLE], top, height)
                top = mix(top, (120, 118, 112), -0.1)
            scene.slab((x, y, 0), box(0.9 * radius, 0.8, 0.5 * radius), mix(top, (90, 90, 92), 0.5), tall + 0.5)


_PAINTERS: dict[str, Callable[[Scene], None]] = {
    painter.__name__.removeprefix("_"): painter
    for painter in (
        *(_agricultural, _beach, _buildings, _chaparral, _denseresidential, _forest, _freeway),
        *(_harbor, _parkinglot, _river, _sparseresidential, _storagetanks),
    )
}
CLASSES: tuple[str, ...] = tuple(_PAINTERS)
_MOST = 10**6  # images a class: the distance between two image sets' seeds


def draw_scene(name: str, seed: int, size: int = 256) -> Image.Image:
    """Draw one aerial scene, a pure function of the arguments.

    Args:
        name: a class, one of `CLASSES`.
        seed: 0 or more; every seed is another place, day and camera.
        size: width and height in pixels, 32 or more; always 62 to 98 m of ground.

    Returns:
        An RGB image.

    Raises:
        ImageSetError: No such class can be drawn, the size is too small to show anything, or the seed is negative.
    """
    if name not in _PAINTERS:
        raise ImageSetError(
            f"Asked to draw the class {name!r}, which is unknown; these can be drawn: {', '.join(CLASSES)}."
        )
    if size < 32 or seed < 0:
        raise ImageSetError(
            f"Asked to draw a scene {size} pixels across from seed {seed}; give 32 pixels or more and a seed from 0 on."
        )
    scene = Scene(np.random.default_rng([seed, *name.encode()]), size)
    _PAINTERS[name](scene)
    return scene.photograph()


def draw_image_set(
    folder: Path, per_class: int = 40, seed: int = 0, size: int = 256, progress: Progress = SILENT
) -> int:
    """Draw an image set of all classes, `CLASS/CLASSnn.jpg` from 00 on; files that are there already are left alone.

    Args:
        folder: where the image set goes; made if need be.
        per_class: images of each class, 1 to a million; 100 and more get longer numbers, so that names sort.
        seed: 0 or more; two seeds have no image in common.
        size: width and height in pixels.
        progress: told how many images are done.

    Returns:
        How many images were drawn, not counting those that were there.

    Raises:
        ImageSetError: The number of images or the size is out of range, or images there have longer or shorter numbers.
        NoRoom: A file or folder cannot be written.
    """
    if not 1 <= per_class <= _MOST:
        raise ImageSetError(f"Asked to draw {per_class} images a class; give a number from 1 to {_MOST}.")
    digits, drawn = max(2, len(str(per_class - 1))), 0
    for name, width in itertools.product(CLASSES, range(2, len(str(_MOST)))):
        other = folder / name / f"{name}{0:0{width}}.jpg"
        if width != digits and other.exists():
            # The same image under two names could be trained on and tested on.
            raise ImageSetError(
                f"Asked to draw {per_class} images a class, numbered with {digits} digits, in {folder}, but found "
                f"{other.name} there, from a set of another size; name another folder, or remove this one first."
            )
    with progress.steps("drawing", len(CLASSES) * per_class, "images") as advance:
        for name, number in itertools.product(CLASSES, range(per_class)):
            file = folder / name / f"{name}{number:0{digits}}.jpg"
            if not file.exists():
                with writing_file(file) as temporary:
                    draw_scene(name, seed * _MOST + number, size).save(temporary, "JPEG", quality=95)
                drawn += 1
            advance(1)
    return drawn
