"""A kitchen table seen from the head: the camera sways, a forearm comes in and moves a thing.

Train: a wooden table before tiles, six or seven things in a loose ring, the right hand lifts a mug and puts it down.
Test: a chequered cloth before a plain wall, seven or eight things in rows, the left hand slides a mug aside.
"""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from dataclasses import dataclass

import cv2
import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.hand import draw_hand
from videomolmo.synth.worlds.kitchen import DRAW, FRUIT
from videomolmo.synth.worlds.world import Canvas, Expression, Lens, Scene, ease, follow, mixed

MUGS = {"train": ("red", "blue", "white", "green"), "test": ("yellow", "cyan", "purple", "orange")}
EXTRAS = {"train": ("bowl", "bottle", "banana", "orange"), "test": ("bottle", "orange", "bowl", "glass", "banana")}
BACK = 62.0  # where the wall stands, cm
TABLE = (118.0, -50.0)  # half the table's width, and its near edge, cm
FINE = 3.0  # pixels a centimetre


@dataclass(frozen=True)
class Kitchen:
    """Things on the table: kinds, places, colours; the first is the mug that the hand moves from start to goal."""

    kinds: tuple[str, ...]
    places: np.ndarray
    colours: tuple[np.ndarray, ...]
    goal: np.ndarray
    lift: float
    left_handed: bool
    wood: bool
    top: np.ndarray
    wall: np.ndarray
    sleeve: np.ndarray
    skin: np.ndarray
    sway: np.ndarray

    def camera(self, time: float) -> Camera:
        swing = np.sin(self.sway[:, 0] * time * 2 * np.pi + self.sway[:, 1]) * self.sway[:, 2]
        return Camera(at=(3.0 * swing[0], -56.0 + 2.5 * swing[1], 55.0 + 2.0 * swing[2]), focal=262.0,
                      pitch=0.71 + 0.045 * swing[3], yaw=0.05 * swing[4], roll=0.035 * swing[5])  # fmt: skip

    def moved(self, time: float) -> np.ndarray:
        """Where the mug is: it stands, is lifted or pushed, and stands again."""
        start, goal = np.append(self.places[0], 0.0), np.append(self.goal, 0.0)
        up = self.lift * (ease(time, 0.32, 0.42) - ease(time, 0.62, 0.72))
        return follow(time, [(0.36, start), (0.68, goal)]) + (0, 0, up)

    def hand(self, time: float) -> np.ndarray:
        """Where the hand grips or would grip; it comes from below the picture and leaves there."""
        side = -1.0 if self.left_handed else 1.0
        away = np.array([side * 30.0, -48.0, 6.0])
        reach = ease(time, 0.02, 0.28) - ease(time, 0.78, 1.0)
        return mixed(away, self.moved(time) + (0, 0, 5.0), reach)

    def closed(self, time: float) -> float:
        return ease(time, 0.22, 0.32) - ease(time, 0.72, 0.8)


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """Two mugs, a plate with an apple on it, another apple, more things, and the hand."""
    train = part == "train"
    mugs = [str(word) for word in rng.permutation(MUGS[part])]
    extras = [str(kind) for kind in rng.permutation(EXTRAS[part])[: 2 + int(rng.integers(0, 2)) + int(not train)]]
    kinds = ("mug", "mug", "plate", "apple", "apple", *extras)
    side = 1.0 if train else -1.0
    places = _places(rng, train, len(kinds)) * (side, 1.0)
    places[3] = places[2] + rng.uniform(-1.0, 1.0, 2)  # on the plate
    goal = np.array([side * rng.uniform(6, 12), -15.0]) if train else places[0] + (side * -15.0, -5.0)
    own = {"plate": np.array([0.93, 0.93, 0.9]), "bottle": sample_colour(rng, "green") * 0.8,
           "bowl": sample_colour(rng, "cyan" if train else "blue"), "banana": np.array([0.98, 0.83, 0.2]),
           "glass": np.array([0.8, 0.9, 0.95]), "orange": np.array([1.0, 0.55, 0.08])}  # fmt: skip
    colours = [sample_colour(rng, mugs[0]), sample_colour(rng, mugs[1]), own["plate"]]
    colours += [sample_colour(rng, "red") * 0.88, sample_colour(rng, "red") * 0.88, *(own[kind] for kind in extras)]
    cloth = np.array([0.62, 0.42, 0.25]) * rng.uniform(0.85, 1.15) if train else sample_colour(rng, "blue") * 0.9
    kitchen = Kitchen(
        kinds=kinds,
        places=places,
        colours=tuple(colours),
        goal=goal,
        lift=9.0 if train else 0.0,
        left_handed=not train,
        wood=train,
        top=_table_top(rng, train, cloth),
        wall=np.array([0.78, 0.84, 0.84]) if train else np.array([0.80, 0.72, 0.56]),
        sleeve=sample_colour(rng, "blue") * 0.55 if train else np.array([0.35, 0.35, 0.37]),
        skin=np.array([0.93, 0.72, 0.58]) * rng.choice([1.0, 0.85, 0.6]),
        sway=np.stack([rng.uniform(0.6, 1.6, 6), rng.uniform(0, 6.3, 6), rng.uniform(0.6, 1.0, 6)], axis=1),
    )
    names = (*(f"{mugs[k]} mug" for k in (0, 1)), "plate", "apple on the plate", "apple on the table", *extras, "hand")
    lens = Lens(vignette=0.3, blur=0.5, noise=0.01)
    return Scene(names, _expressions(kinds, mugs, part), lambda canvas, time: _draw(canvas, kitchen, time), lens=lens)


def _places(rng: np.random.Generator, train: bool, count: int) -> np.ndarray:
    """For a right hand: mug to move, other mug, plate, a place not used, apple, extras; cm on the table."""
    if train:
        ring = [(-9, -6), (-25, 2), (9, 12), (0, 0), (26, -2), (-16, 27), (33, 25), (-2, 36), (24, 36)]
    else:
        ring = [(6, -8), (25, 6), (-28, 12), (0, 0), (3, 12), (22, 30), (-22, 30), (0, 31), (38, 28)]
    return np.array(ring[:count], float) + rng.uniform(-2.2, 2.2, (count, 2))


def _expressions(kinds: tuple[str, ...], mugs: list[str], part: str) -> tuple[Expression, ...]:
    fruit = tuple(number for number, kind in enumerate(kinds) if kind in FRUIT)
    verb = "picks up" if part == "train" else "slides aside"
    return (
        Expression("all the mugs", (0, 1), "all"),
        Expression("all the fruit", fruit, "all"),
        Expression(f"the {mugs[1]} mug", (1,), "appearance"),
        Expression("the plate", (2,), "appearance"),
        Expression("the apple on the plate", (3,), "relation"),
        Expression("the apple that is not on the plate", (4,), "relation"),
        Expression(f"the mug that the hand {verb}", (0,), "action"),
        Expression("the hand that reaches across the table", (len(kinds),), "action"),
        Expression(f"the {mugs[2]} mug", (), "absent"),
        Expression("the knife beside the plate", (), "absent"),
    )


def _draw(canvas: Canvas, kitchen: Kitchen, time: float) -> None:
    """Wall, table, things from the back to the front, then the hand around the mug."""
    camera = kitchen.camera(time)
    _room(canvas, camera, kitchen)
    moved, reach = kitchen.moved(time), kitchen.hand(time)
    order = sorted(range(1, len(kitchen.kinds)), key=lambda number: -kitchen.places[number][1] - 90 * (number == 2))
    order = [number for number in order if number != 3]
    order.insert(order.index(2) + 1, 3)
    behind = [number for number in order if kitchen.places[number][1] >= moved[1] or number in (2, 3)]
    for number in behind:
        _draw_object(canvas, camera, kitchen, number)
    held = kitchen.closed(time)
    near = [number for number in order if number not in behind]
    hand = (len(kitchen.kinds) + 1, kitchen.skin, kitchen.sleeve, kitchen.left_handed)
    if held < 0.5:
        DRAW["mug"](canvas, camera, moved, kitchen.colours[0], 1)
    for number in near:
        _draw_object(canvas, camera, kitchen, number)
    draw_hand(canvas, camera, reach, held, hand, fingers=False)
    if held >= 0.5:
        DRAW["mug"](canvas, camera, moved, kitchen.colours[0], 1)
    draw_hand(canvas, camera, reach, held, hand, fingers=True)


def _draw_object(canvas: Canvas, camera: Camera, kitchen: Kitchen, number: int) -> None:
    at = np.append(kitchen.places[number], 1.0 if number == 3 else 0.0)
    DRAW[kitchen.kinds[number]](canvas, camera, at, kitchen.colours[number], number + 1)


def _room(canvas: Canvas, camera: Camera, kitchen: Kitchen) -> None:
    canvas.gradient(kitchen.wall * 0.8, kitchen.wall)
    line = kitchen.wall * 0.68
    if kitchen.wood:  # tiles
        for x in range(-126, 127, 14):
            canvas.stroke(camera.project([[x, BACK, 0], [x, BACK, 90]]), 1.2, line)
        for z in range(4, 80, 14):
            canvas.stroke(camera.project([[-130, BACK, z], [130, BACK, z]]), 1.2, line)
    else:
        low = [[-150, BACK, 0], [150, BACK, 0], [150, BACK, 7], [-150, BACK, 7]]
        canvas.polygon(camera.project(low), kitchen.wall * 0.6)
    cover = np.array([[-TABLE[0], TABLE[1], 0], [TABLE[0], TABLE[1], 0], [TABLE[0], BACK, 0], [-TABLE[0], BACK, 0]])
    canvas.lay(kitchen.top, camera.project(cover))


def _table_top(rng: np.random.Generator, wood: bool, colour: np.ndarray) -> np.ndarray:
    """A picture of the table from above, nearest row last, `FINE` pixels a centimetre: planks with grain, or checks."""
    rows, columns = round((BACK - TABLE[1]) * FINE), round(2 * TABLE[0] * FINE)
    x, y = np.arange(columns)[None] / FINE, np.arange(rows)[:, None] / FINE
    light = np.linspace(0.82, 1.08, rows, dtype=np.float32)[:, None, None]
    if not wood:
        stripes = ((x // 8) % 2 + (y // 8) % 2)[..., None] * 0.44
        return ((1 - stripes) * np.array([0.93, 0.92, 0.88]) + stripes * colour).astype(np.float32) * light
    plank = (x // 16).astype(int)
    tone = rng.uniform(0.88, 1.1, plank.max() + 1)[plank]
    grain = rng.standard_normal((rows // 24 + 2, columns), dtype=np.float32)
    grain = cv2.resize(cv2.GaussianBlur(grain, (3, 1), 0.8), (columns, rows), interpolation=cv2.INTER_CUBIC)
    seam = 1 - 0.4 * ((x % 16 < 0.6) | (((y + 23 * plank) % 70) < 0.6))
    return ((tone * seam * (1 + 0.07 * grain))[..., None] * colour).astype(np.float32) * light
