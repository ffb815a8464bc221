"""A jointed arm that picks a coloured block from a table and puts it into a tray.

Train: one arm at the back left, four or five blocks scattered over a pale table, tray on the right.
Test: the arm at the back right with a second arm at rest on the left, six or seven blocks in two rows on a dark table,
tray in front on the left, other colours.
"""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from dataclasses import dataclass

import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.world import (  # fmt: skip
    HIGH,
    WIDE,
    Canvas,
    Colour,
    Expression,
    Lens,
    Scene,
    follow,
    hull,
    mixed,
    scatter,
)

COLOURS = {"train": ("red", "green", "blue", "yellow", "orange", "purple"),
           "test": ("cyan", "purple", "orange", "white", "red", "yellow", "green", "blue")}  # fmt: skip
SIZE = 8.0  # edge of a block, cm
UPPER, FORE, HAND = 42.0, 42.0, 17.0  # lengths of the arm's links, cm
TABLE = (-62.0, 62.0, -30.0, 48.0)  # left, right, front, back
CAMERA = Camera(at=(0.0, -118.0, 84.0), focal=285.0, pitch=0.54, centre=(WIDE / 2, 128.0))
_CUBE = np.array([[x, y, z] for z in (0, 1) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])


@dataclass(frozen=True)
class Workcell:
    """The scene: blocks with their places and colours, arms with their bases, and what the first arm does."""

    places: np.ndarray
    colours: tuple[np.ndarray, ...]
    bases: tuple[tuple[float, float], ...]
    paint: np.ndarray
    tray: tuple[float, float]
    table: np.ndarray
    lifted: int

    def block(self, time: float) -> np.ndarray:
        """Where the lifted block is (the middle of its underside)."""
        start, goal = np.append(self.places[self.lifted], 0.0), np.array([*self.tray, 1.2])
        above, over = start + (0, 0, 22), goal + (0, 0, 22)
        return follow(time, [(0.0, start), (0.34, start), (0.48, above), (0.68, over), (0.78, goal)])

    def grip(self, time: float) -> np.ndarray:
        """Where the tips of the fingers are."""
        start, goal = np.append(self.places[self.lifted], 0.8), np.array([*self.tray, 2.0])
        rest = np.array([self.bases[0][0] * 0.1, 12.0, 30.0])
        if 0.34 <= time <= 0.82:
            return self.block(time) + (0, 0, 0.8)
        if time < 0.34:
            return follow(time, [(0.0, rest), (0.16, start + (0, 0, 20)), (0.3, start)])
        return follow(time, [(0.82, goal), (0.92, goal + (0, 0, 20)), (1.0, rest + (0, 0, 4))])

    def opening(self, time: float) -> float:
        """Half the distance between the fingers."""
        tight, wide = SIZE / 2 + 0.3, SIZE / 2 + 3.2
        return float(follow(time, [(0.28, [wide]), (0.34, [tight]), (0.79, [tight]), (0.84, [wide])])[0])


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """A table of blocks, each of its own colour but for one that comes twice, and an arm that moves one of them."""
    train = part == "train"
    count = int(rng.integers(4, 6) if train else rng.integers(6, 8))
    words = [str(word) for word in rng.permutation(COLOURS[part])[: count - 1]]
    words.append(words[1])  # two of a colour; neither is lifted
    if train:
        places = scatter(rng, count, (-30, -18), (24, 24))
        tray, bases = (42.0, float(rng.uniform(-10, 6))), ((-38.0, 34.0),)
    else:
        columns = np.linspace(-16, 48, (count + 1) // 2)
        grid = np.array([(x, y) for y in (-14.0, 8.0) for x in columns])[:count]
        places = grid + rng.uniform(-2.5, 2.5, grid.shape)
        tray, bases = (-38.0, float(rng.uniform(-8, 0))), ((34.0, 36.0), (-42.0, 38.0))
    paints = {word: sample_colour(rng, word) for word in words}
    cell = Workcell(
        places=places,
        colours=tuple(paints[word] for word in words),
        bases=bases,
        paint=sample_colour(rng, "orange") if train else np.array([0.86, 0.88, 0.9]),
        tray=tray,
        table=np.array([0.72, 0.66, 0.57]) * rng.uniform(0.92, 1.08) if train else np.array([0.2, 0.25, 0.3]),
        lifted=0,
    )
    arms = tuple(f"{side} robot arm" for side in ("right", "left")) if len(bases) > 1 else ("robot arm",)
    names = (*(f"{word} block" for word in words), *arms, "tray")
    seed = int(rng.integers(2**31))
    expressions = _expressions(words, places, COLOURS[part], len(arms))
    lens = Lens(vignette=0.25, blur=0.45, noise=0.008)
    return Scene(names, expressions, lambda canvas, time: _draw(canvas, cell, time),
                lambda canvas: _backdrop(canvas, cell, seed), lens)  # fmt: skip


def _expressions(words: list[str], places: np.ndarray, palette: tuple[str, ...], arms: int) -> tuple[Expression, ...]:
    blocks, free = tuple(range(len(words))), [word for word in palette if word not in words]
    one = next(number for number in blocks if words.count(words[number]) == 1 and number != 0)
    twins = tuple(number for number in blocks if words[number] == words[-1])
    left = min(twins, key=lambda number: places[number][0])
    found = [
        Expression("all the blocks", blocks, "all"),
        Expression(f"the two {words[-1]} blocks", twins, "all"),
        Expression(f"the {words[one]} block", (one,), "appearance"),
        Expression("the tray that the block is put into", (len(words) + arms,), "relation"),
        Expression("the block that the gripper picks up", (0,), "action"),
        Expression("the blocks that stay where they are", blocks[1:], "action"),
        Expression("the robot arm that moves", (len(words),), "action"),
        Expression(f"the {free[0]} block" if free else "the black block", (), "absent"),
        Expression("the screwdriver on the table", (), "absent"),
    ]
    if abs(places[twins[0]][0] - places[twins[1]][0]) > SIZE:
        found.append(Expression(f"the {words[-1]} block further to the left", (left,), "relation"))
    if arms > 1:
        found.append(Expression("the robot arm that stands still", (len(words) + 1,), "action"))
    return tuple(found)


def _backdrop(canvas: Canvas, cell: Workcell, seed: int) -> None:
    """Wall, table with a cutting-mat grid, legs of shadow."""
    rng = np.random.default_rng(seed)
    wall = mixed(cell.table, (0.62, 0.68, 0.74), 0.75)
    canvas.gradient(wall * 1.1, wall * 0.75)
    canvas.texture(rng, 60, 0.015)
    for x in range(-120, 121, 40):  # panels of the wall
        canvas.stroke(CAMERA.project([[x, 70, -40], [x, 70, 140]]), 1.0, wall * 0.86)
    left, right, front, back = TABLE
    top = CAMERA.project([[left, front, 0], [right, front, 0], [right, back, 0], [left, back, 0]])
    edge = CAMERA.project([[left, front, 0], [right, front, 0], [right, front, -5], [left, front, -5]])
    canvas.box((0, 205, WIDE, HIGH), wall * 0.45)
    canvas.polygon(edge, cell.table * 0.6)
    canvas.polygon(top, cell.table, shade=0.12, light=(0.2, 1.0))
    for x in np.arange(left + 10, right, 10):
        canvas.stroke(CAMERA.project([[x, front, 0], [x, back, 0]]), 0.5, cell.table * 1.12, opacity=0.6)
    for y in np.arange(front + 10, back, 10):
        canvas.stroke(CAMERA.project([[left, y, 0], [right, y, 0]]), 0.5, cell.table * 1.12, opacity=0.6)


def _draw(canvas: Canvas, cell: Workcell, time: float) -> None:
    """Back to front: tray, blocks behind the gripper, arms, the lifted block between the fingers, blocks before it."""
    count, grip = len(cell.places), cell.grip(time)
    lifted = cell.block(time)
    _tray(canvas, cell, count + len(cell.bases) + 1)
    parts = [(float(place[1]), number) for number, place in enumerate(cell.places) if number != cell.lifted]
    for depth, number in sorted(parts, reverse=True):
        if depth >= grip[1]:
            _block(canvas, np.append(cell.places[number], 0.0), cell.colours[number], number + 1)
    for number in reversed(range(1, len(cell.bases))):
        x, y = cell.bases[number]
        tips = np.array([x * 0.5, y - 24, 22.0])
        _arm(canvas, cell, (x, y), tips, count + number + 1)
        _finger_pair(canvas, tips, SIZE / 2 + 1.0, count + number + 1)
    _arm(canvas, cell, cell.bases[0], grip, count + 1)
    _finger(canvas, grip + (0, 1.5, 0), -cell.opening(time), count + 1)
    _block(canvas, lifted, cell.colours[cell.lifted], cell.lifted + 1)
    _finger(canvas, grip + (0, -1.5, 0), cell.opening(time), count + 1)
    if lifted[0] - 15 < cell.tray[0] < lifted[0] + 15:
        _tray_front(canvas, cell, count + len(cell.bases) + 1)
    for depth, number in sorted(parts, reverse=True):
        if depth < grip[1]:
            _block(canvas, np.append(cell.places[number], 0.0), cell.colours[number], number + 1)


def _solid(canvas: Canvas, at: Colour, size: Colour, colour: np.ndarray, owner: int) -> None:
    """An upright box standing at `at`, lit from above and left: front, one side, top."""
    corners = CAMERA.project(np.asarray(at, float) + _CUBE * size)
    canvas.polygon(hull(corners), colour * 0.62, owner)
    side = [1, 3, 7, 5] if at[0] < 0 else [0, 2, 6, 4]
    canvas.polygon(corners[side], colour * (0.5 if at[0] < 0 else 0.9))
    canvas.polygon(corners[[0, 1, 5, 4]], colour * 0.76, shade=0.08)
    canvas.polygon(corners[[4, 5, 7, 6]], np.minimum(colour * 1.08 + 0.06, 1), shade=0.05)


def _shadow(canvas: Canvas, x: float, y: float, height: float, size: float) -> None:
    spread = 1 + height / 40
    around = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * size * 0.6 * spread
    canvas.polygon(CAMERA.project(around + (x + 1.5, y - 0.5, 0)), (0, 0, 0), opacity=0.38 / spread, soft=1.5 * spread)


def _block(canvas: Canvas, at: np.ndarray, colour: np.ndarray, owner: int) -> None:
    _shadow(canvas, at[0], at[1], at[2], SIZE)
    _solid(canvas, at, (SIZE, SIZE, SIZE), colour, owner)


def _tray(canvas: Canvas, cell: Workcell, owner: int) -> None:
    x, y = cell.tray
    _shadow(canvas, x, y, 0, 18)
    grey = np.array([0.36, 0.38, 0.42])
    floor = CAMERA.project(np.array([[-9, -9, 0.5], [9, -9, 0.5], [9, 9, 0.5], [-9, 9, 0.5]]) + (x, y, 0))
    rim = CAMERA.project(np.array([[-10, -10, 4], [10, -10, 4], [10, 10, 4], [-10, 10, 4]]) + (x, y, 0))
    foot = CAMERA.project(np.array([[-10, -10, 0], [10, -10, 0], [10, 10, 0], [-10, 10, 0]]) + (x, y, 0))
    canvas.polygon(hull(np.concatenate([rim, foot])), grey * 1.35, owner)
    canvas.polygon(rim, grey * 0.75)
    canvas.polygon(floor, grey)
    _tray_front(canvas, cell, owner)


def _tray_front(canvas: Canvas, cell: Workcell, owner: int) -> None:
    x, y = cell.tray
    front = np.array([[-10, -10, 0], [10, -10, 0], [10, -10, 4], [-10, -10, 4]]) + (x, y, 0)
    canvas.polygon(CAMERA.project(front), np.array([0.5, 0.53, 0.58]), owner)


def _arm(canvas: Canvas, cell: Workcell, base: tuple[float, float], tips: np.ndarray, owner: int) -> None:
    """Pedestal, two links found by the law of cosines, and the hand that points down to the tips."""
    x, y = base
    _shadow(canvas, x, y, 0, 16)
    dark, shoulder, wrist = np.array([0.2, 0.21, 0.24]), np.array([x, y, 20.0]), tips + (0, 0, HAND)
    _solid(canvas, (x, y, 0), (17, 17, 4), dark * 1.3, owner)
    _tube(canvas, [(x, y, 3), (x, y, 18)], 12, cell.paint * 0.85, owner)
    level = wrist[:2] - shoulder[:2]
    flat, rise = max(float(np.hypot(*level)), 1e-3), wrist[2] - shoulder[2]
    reach = min(float(np.hypot(flat, rise)), UPPER + FORE - 0.1)
    lift = np.arctan2(rise, flat) + np.arccos((UPPER**2 + reach**2 - FORE**2) / (2 * UPPER * reach))
    ahead = np.append(level / flat, 0.0)
    elbow = shoulder + UPPER * (np.cos(lift) * ahead + np.sin(lift) * np.array([0, 0, 1]))
    for start, end, width in ((shoulder, elbow, 9.5), (elbow, wrist, 7.5)):
        _tube(canvas, [start, end], width, cell.paint, owner, thin=0.78)
        _tube(
            canvas, [start + 0.25 * (end - start), start + 0.75 * (end - start)], width * 0.3, cell.paint * 0.7, owner
        )
    for joint, width in ((shoulder, 12.5), (elbow, 10.5), (wrist, 8.0)):
        at, scale = CAMERA.project(joint)[0], CAMERA.units(joint)
        canvas.ellipse(at, width / 2 * scale, dark * 1.5, owner, shade=0.3)
        canvas.ellipse(at, width / 4 * scale, dark * 2.6, shade=0.2)
    _tube(canvas, [wrist, tips + (0, 0, 10.5)], 5.0, dark * 1.9, owner)
    _tube(canvas, [tips + (-5.5, 0, 9.5), tips + (5.5, 0, 9.5)], 3.6, dark * 1.2, owner)


def _tube(canvas: Canvas, points, width: float, colour: np.ndarray, owner: int, thin: float = 1.0) -> None:
    ends = CAMERA.project(points)
    widths = [width * CAMERA.units(points[0]), width * thin * CAMERA.units(points[-1])]
    canvas.stroke(ends, widths, colour * 0.68, owner)
    canvas.stroke(ends - (0.6, 0.6), np.array(widths) * 0.72, colour, shade=0.12)


def _finger(canvas: Canvas, tips: np.ndarray, aside: float, owner: int) -> None:
    bent = np.sign(aside) * 1.0
    points = [tips + (aside + bent, 0, 9.5), tips + (aside + bent, 0, 4.5), tips + (aside, 0, 0)]
    scale = CAMERA.units(tips)
    canvas.stroke(CAMERA.project(points), 2.4 * scale, (0.13, 0.14, 0.16), owner)
    canvas.stroke(CAMERA.project(points), 1.0 * scale, (0.42, 0.44, 0.48))


def _finger_pair(canvas: Canvas, tips: np.ndarray, aside: float, owner: int) -> None:
    for side in (-aside, aside):
        _finger(canvas, tips, side, owner)
