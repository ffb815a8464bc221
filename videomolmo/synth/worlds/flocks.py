"""Kinds of things to count, each with its world: fish, balloons, sheep, ducks, boats and butterflies."""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from videomolmo.synth.worlds.world import HIGH, WIDE, Canvas, Colour, mixed

Draw = Callable[[Canvas, np.ndarray, float, Colour, float, int], None]


class Kind(NamedTuple):
    """A kind of thing and its world.

    Attributes:
        one, many: its name.
        draw: gets the canvas, the middle, the half width (negative: it faces left), the colour, a phase and the owner.
        backdrop: paints its world from a seed.
        usual, odd: colours that most have, and that one has.
        size: half width, units.
        rows: where its middle may be, units from the top.
        never: what is never there.
        rises: whether it leaves upwards.
    """

    one: str
    many: str
    draw: Draw
    backdrop: Callable[[Canvas, int], None]
    usual: tuple[str, ...]
    odd: tuple[str, ...]
    size: float
    rows: tuple[float, float]
    never: str
    rises: bool = False


def _at(middle: np.ndarray, size: float, points: list[tuple[float, float]]) -> np.ndarray:
    """Points of a drawing that faces right and is one unit to each side, placed, scaled and mirrored."""
    return middle + np.array(points, float) * (size, abs(size))


def _fish(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big, flap = abs(size), 0.18 * np.sin(phase * 2)
    dark = mixed(colour, (0, 0, 0), 0.25)
    canvas.polygon(_at(at, size, [(-0.5, 0), (-1.05, -0.42 + flap), (-0.9, flap), (-1.05, 0.42 + flap)]), dark, owner)
    canvas.polygon(_at(at, size, [(-0.3, -0.35), (0.05, -0.72), (0.35, -0.35)]), dark, owner)
    canvas.polygon(_at(at, size, [(-0.2, 0.38), (-0.15, 0.66), (0.2, 0.4)]), dark, owner)
    canvas.ellipse(at + (0.12 * size, 0), (0.78 * big, 0.48 * big), colour, owner, shade=0.25)
    for x, half in ((0.05, 0.44), (-0.28, 0.38)):
        canvas.stroke(_at(at, size, [(x, -half), (x - 0.06, 0), (x, half)]), 0.1 * big, (1, 1, 1), opacity=0.75)
    canvas.ellipse(at + (0.58 * size, -0.1 * big), 0.14 * big, (1, 1, 1))
    canvas.ellipse(at + (0.61 * size, -0.1 * big), 0.075 * big, (0.05, 0.05, 0.08))


def _tank(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.25, 0.62, 0.78), (0.04, 0.22, 0.42))
    for x in rng.uniform(0, WIDE, 5):  # shafts of light
        canvas.polygon(
            np.array([[x, -5], [x + 18, -5], [x - 25, HIGH], [x - 75, HIGH]]), (1, 1, 1), opacity=0.05, soft=3
        )
    sand = [[0, HIGH], *([x, 214 + 4 * np.sin(x / 31 + seed % 7)] for x in range(0, WIDE + 1, 10)), [WIDE, HIGH]]
    canvas.polygon(np.array(sand, float), (0.80, 0.70, 0.48), shade=0.1)
    for x in rng.uniform(6, WIDE - 6, 9):  # weed
        sway, high = rng.uniform(-8, 8), rng.uniform(25, 60)
        stem = [[x, 220], [x + sway, 220 - high / 2], [x, 220 - high]]
        canvas.stroke(stem, [5, 4, 1], (0.10, 0.42, 0.26), opacity=0.85)
    for at in rng.uniform((0, 20), (WIDE, 200), (14, 2)):
        canvas.ellipse(at, rng.uniform(1, 2.6), (0.85, 0.95, 1), opacity=0.45)


def _balloon(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big, wave = abs(size), 2 * np.sin(phase)
    tail = at + np.array([[0, 0.95 * big], [wave, 1.4 * big], [-wave, 1.9 * big]])
    canvas.stroke(tail, 0.9, (0.95, 0.95, 0.95), owner)
    canvas.polygon(at + np.array([[0, 0.82], [0.14, 1.05], [-0.14, 1.05]]) * big, mixed(colour, (0, 0, 0), 0.3), owner)
    canvas.ellipse(at, (0.78 * big, 0.92 * big), colour, owner, shade=0.28)
    canvas.ellipse(at - (0.3 * big, 0.38 * big), (0.14 * big, 0.22 * big), (1, 1, 1), angle=0.5, opacity=0.7, soft=0.5)


def _clouds(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.32, 0.58, 0.90), (0.80, 0.91, 0.98))
    for middle in rng.uniform((0, 20), (WIDE, 190), (6, 2)):
        for shift in rng.uniform((-22, -5), (22, 5), (7, 2)):
            canvas.ellipse(middle + shift, rng.uniform((11, 6), (18, 10)), (1, 1, 1), opacity=0.4, soft=3)
    for x in range(-20, WIDE + 20, 22):  # tree tops far below
        canvas.ellipse((x + rng.uniform(-6, 6), HIGH + 4), rng.uniform(12, 20), (0.25, 0.46, 0.26), shade=0.2)


def _sheep(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big, step = abs(size), 0.1 * np.sin(phase * 2)
    canvas.ellipse(at + (0, 0.72 * big), (0.85 * big, 0.14 * big), (0, 0, 0), opacity=0.3, soft=1)
    for x, swing in ((-0.42, step), (-0.22, -step), (0.28, -step), (0.48, step)):
        canvas.stroke(_at(at, size, [(x, 0.25), (x + swing, 0.72)]), 0.13 * big, (0.18, 0.15, 0.14), owner)
    upper = [(-0.55, -0.05), (-0.3, -0.3), (0.05, -0.36), (0.38, -0.26), (0.55, 0.0)]
    wool = np.array([*upper, (0.3, 0.22), (-0.05, 0.26), (-0.4, 0.2)])
    for shade, grow in ((0.78, 0.36), (1.0, 0.31)):
        for spot in wool:
            canvas.ellipse(at + spot * (size, big), grow * big, np.asarray(colour) * shade, owner)
        canvas.ellipse(at, (0.6 * big, 0.36 * big), np.asarray(colour) * shade, owner)
    for spot in wool[:5]:
        canvas.ellipse(
            at + spot * (0.7 * size, 0.7 * big), 0.2 * big, mixed(colour, (1, 1, 1), 0.5), soft=0.8, opacity=0.6
        )
    canvas.ellipse(
        at + (0.82 * size, -0.12 * big), (0.2 * big, 0.27 * big), (0.2, 0.17, 0.16), owner, angle=0.35 * np.sign(size)
    )
    canvas.ellipse(at + (0.64 * size, -0.24 * big), (0.15 * big, 0.07 * big), (0.15, 0.13, 0.12), owner)
    canvas.ellipse(at + (0.86 * size, -0.18 * big), 0.045 * big, (1, 1, 1))


def _meadow(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.45, 0.68, 0.94), (0.85, 0.93, 0.98), until=70)
    x = np.linspace(0, WIDE, 30)
    for low, tone in ((46, 0.8), (60, 1.0)):
        ridge = np.stack([x, low + 7 * np.sin(x / (40 + low / 3) + seed % 11)], axis=1)
        hill = np.concatenate([ridge, [(WIDE, HIGH), (0, HIGH)]])
        canvas.polygon(hill, np.array([0.42, 0.66, 0.30]) * tone, shade=0.12, light=(0, 1))
    for _ in range(160):  # tufts
        at = rng.uniform((0, 74), (WIDE, HIGH))
        blade = at + np.array([[-1.5, 0], [-2.2, -3], [0, -0.5], [0.2, -4], [1.2, -0.4], [2.4, -3]])
        canvas.stroke(blade, 0.7, (0.27, 0.52, 0.2), opacity=0.7)
    for high in (66, 74):  # a fence
        canvas.stroke([[0, high], [WIDE, high]], 2, (0.55, 0.42, 0.3))
    for post in range(8, WIDE, 38):
        canvas.box((post, 58, post + 4, 82), (0.5, 0.38, 0.27))


def _duck(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big = abs(size)
    at = at + (0, 0.05 * big * np.sin(phase * 1.5))
    for wide in (1.15, 0.85):
        canvas.ellipse(
            at + (-0.1 * size, 0.42 * big), (wide * big, 0.17 * big), (0.85, 0.95, 1), opacity=0.25, soft=0.7
        )
    tail = [(-0.98, -0.3), (-0.62, 0.28), (-0.35, 0.05)]
    canvas.polygon(_at(at, size, tail), mixed(colour, (0, 0, 0), 0.15), owner)
    canvas.ellipse(at + (-0.1 * size, 0.12 * big), (0.72 * big, 0.36 * big), colour, owner, shade=0.22)
    canvas.stroke(_at(at, size, [(0.38, 0.05), (0.5, -0.3)]), 0.36 * big, colour, owner)
    canvas.polygon(_at(at, size, [(0.7, -0.58), (1.1, -0.42), (0.7, -0.34)]), (0.98, 0.5, 0.1), owner)
    canvas.ellipse(at + (0.52 * size, -0.46 * big), 0.29 * big, colour, owner, shade=0.15)
    wing = mixed(colour, (0.25, 0.15, 0.05), 0.28)
    canvas.ellipse(at + (-0.18 * size, 0.08 * big), (0.42 * big, 0.2 * big), wing, angle=-0.2 * np.sign(size))
    canvas.ellipse(at + (0.6 * size, -0.52 * big), 0.06 * big, (0.05, 0.05, 0.05))


def _pond(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.38, 0.62, 0.62), (0.14, 0.40, 0.52))
    for _ in range(70):
        at, long = rng.uniform((0, 52), (WIDE, HIGH)), rng.uniform(5, 16)
        canvas.stroke([at, at + (long, 0)], 0.8, (0.75, 0.9, 0.92), opacity=0.35)
    canvas.polygon(
        np.array([[0, 0], [WIDE, 0], [WIDE, 40], [230, 46], [120, 40], [40, 47], [0, 42]]), (0.40, 0.58, 0.28)
    )
    for x in rng.uniform(0, WIDE, 34):  # reeds
        lean = rng.uniform(-3, 3)
        canvas.stroke([[x, 50], [x + lean, rng.uniform(14, 30)]], [1.6, 0.7], (0.30, 0.46, 0.18))
        if rng.random() < 0.4:
            canvas.stroke([[x + 0.8 * lean, 26], [x + lean, 18]], 2.6, (0.38, 0.24, 0.12))


def _boat(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big = abs(size)
    at = at + (0, 0.06 * big * np.sin(phase))
    canvas.ellipse(at + (0, 0.72 * big), (0.95 * big, 0.12 * big), (1, 1, 1), opacity=0.4, soft=1)
    canvas.stroke(_at(at, size, [(0.02, 0.35), (0.02, -1.2)]), 0.09 * big, (0.35, 0.25, 0.16), owner)
    canvas.polygon(_at(at, size, [(-0.05, -1.1), (-0.05, 0.22), (-0.75, 0.22)]), (0.97, 0.96, 0.92), owner, shade=0.06)
    canvas.polygon(_at(at, size, [(0.1, -1.0), (0.1, 0.22), (0.68, 0.22)]), (0.88, 0.88, 0.86), owner, shade=0.06)
    hull = [(-0.95, 0.34), (1.0, 0.34), (0.66, 0.74), (-0.7, 0.74)]
    canvas.polygon(_at(at, size, hull), colour, owner, shade=0.2)
    canvas.stroke(_at(at, size, [(-0.9, 0.42), (0.92, 0.42)]), 0.06 * big, (1, 1, 1))


def _sea(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.13, 0.42, 0.62), (0.06, 0.24, 0.44))
    canvas.gradient((0.95, 0.72, 0.48), (0.98, 0.88, 0.70), until=58)
    canvas.ellipse((rng.uniform(40, 280), 44), 13, (1, 0.95, 0.75), soft=1)
    canvas.box((-2, 58, WIDE + 2, 62), (0.30, 0.55, 0.70))
    for _ in range(110):
        at = rng.uniform((0, 64), (WIDE, HIGH))
        long = 3 + (at[1] - 60) / 14
        wave = at + np.array([[-long, 0], [0, -0.18 * long], [long, 0]])
        canvas.stroke(wave, 0.9, (0.62, 0.80, 0.90), opacity=0.35)


def _butterfly(canvas: Canvas, at: np.ndarray, size: float, colour: Colour, phase: float, owner: int) -> None:
    big, open_ = abs(size), 0.74 + 0.26 * np.sin(phase * 5)
    at = at + (0, 3 * np.sin(phase * 2))
    dark = mixed(colour, (0, 0, 0), 0.45)
    for side in (-open_, open_):
        upper = np.array([(0.05, -0.1), (0.5, -0.85), (1.0, -0.8), (0.95, -0.25), (0.15, 0.08)]) * (side, 1)
        lower = np.array([(0.08, 0.0), (0.75, 0.1), (0.7, 0.6), (0.35, 0.75), (0.08, 0.3)]) * (side, 1)
        for wing in (lower, upper):
            canvas.stroke(at + np.concatenate([wing, wing[:1]]) * big, 0.16 * big, dark, owner)
            canvas.polygon(at + wing * big, colour, owner, shade=0.15)
        for x, y, spot in ((0.7, -0.55, 0.12), (0.45, 0.4, 0.1)):
            canvas.ellipse(at + np.array([x * side, y]) * big, spot * big, mixed(colour, (1, 1, 1), 0.75))
    canvas.stroke(at + np.array([[0, -0.4], [0, 0.55]]) * big, 0.16 * big, (0.12, 0.09, 0.08), owner)
    for side in (-1, 1):
        canvas.stroke(at + np.array([[0, -0.4], [0.2 * side, -0.85]]) * big, 0.05 * big, (0.12, 0.09, 0.08), owner)


def _flowers(canvas: Canvas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient((0.62, 0.78, 0.55), (0.24, 0.46, 0.22))
    canvas.texture(rng, 16, 0.05)
    for _ in range(46):
        at = rng.uniform((0, 30), (WIDE, HIGH + 6))
        canvas.stroke([at, at + (rng.uniform(-3, 3), 22)], 1.2, (0.22, 0.42, 0.18), opacity=0.8)
        petal = mixed((0.95, 0.93, 0.85), (0.85, 0.6, 0.7), rng.random())
        for turn in np.arange(5) * 1.2566 + rng.uniform(0, 1):
            canvas.ellipse(at + 3.0 * np.array([np.cos(turn), np.sin(turn)]), 2.0, petal, opacity=0.75)
        canvas.ellipse(at, 1.8, (0.85, 0.7, 0.3))


_FISH = Kind(
    "fish", "fish", _fish, _tank, ("orange", "yellow"), ("red", "white", "purple"), 18, (34, 196), "crab on the sand"
)
_BALLOON = Kind(
    "balloon",
    "balloons",
    _balloon,
    _clouds,
    ("red", "blue", "purple"),
    ("yellow", "green", "white"),
    15,
    (28, 188),
    "kite in the sky",
    rises=True,
)
_SHEEP = Kind("sheep", "sheep", _sheep, _meadow, ("white",), ("black", "brown"), 16, (98, 212), "dog behind the fence")
_DUCK = Kind(
    "duck", "ducks", _duck, _pond, ("yellow", "white"), ("brown", "black", "blue"), 17, (76, 206), "swan with a crown"
)
_BOAT = Kind(
    "boat", "boats", _boat, _sea, ("red", "green"), ("blue", "yellow", "purple"), 17, (88, 204), "whale in the water"
)
_BUTTERFLY = Kind(
    "butterfly",
    "butterflies",
    _butterfly,
    _flowers,
    ("orange", "blue"),
    ("red", "white", "purple"),
    16,
    (52, 198),
    "bird in the air",
)
KINDS_OF = {"train": (_FISH, _BALLOON, _SHEEP), "test": (_DUCK, _BOAT, _BUTTERFLY)}
