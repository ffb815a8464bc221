"""A road seen through the windscreen: cars that grow as they come, traffic lights, people who cross.

Train: a country road by day with two lanes that bends gently to the right, trees, one oncoming and one parked car.
Test: a city street at dusk with three lanes one way that bends to the left, houses, an overtaking car and a bus.

The mask of a traffic light is its housing with the three lamps; its pole belongs to nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.traffic import building, light, person, tree, vehicle
from videomolmo.synth.worlds.world import HIGH, WIDE, Canvas, Expression, Lens, Scene, ease, mixed, oval  # fmt: skip

PAINTS = {"train": ("red", "blue", "white", "yellow", "green"), "test": ("white", "orange", "cyan", "purple", "red")}
LANE = 3.4  # metres
CAMERA = Camera(at=(0.0, 0.0, 1.55), focal=250.0, centre=(WIDE / 2, 104.0))
STOP = 46.0  # where the lights stand, metres from the start
_FAR = 130.0
_AHEAD = np.concatenate([np.linspace(1.2, 6, 6), np.geomspace(8, _FAR, 14)])


@dataclass(frozen=True)
class Street:
    """Everything beside and on the road; `bend` is curvature per metre, `turns` the time of the green light."""

    city: bool
    bend: float
    left: float
    right: float
    paints: tuple[np.ndarray, ...]
    turns: float
    scenery: tuple[tuple[float, float, float, float], ...]
    coats: tuple[np.ndarray, np.ndarray]
    walk: tuple[np.ndarray, np.ndarray]

    def gone(self, time: float) -> float:
        """Metres driven: slower and slower to the red light, then on."""
        return 22.0 * (1 - (1 - min(time / 0.5, 1.0)) ** 2) + 8.0 * ease(time, self.turns + 0.05, 1.25)

    def aside(self, offset: float, ahead: float) -> float:
        """Metres to the right of the camera, for a place `offset` metres to the right of the lane's middle."""
        return offset + self.bend * ahead**2 / 2


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """A street up to a crossing where one traffic light turns green and another stays red."""
    city = part == "test"
    paints = [str(word) for word in rng.permutation(PAINTS[part])]
    way = float(rng.choice([-1.0, 1.0]))
    left, right = -1.5 * LANE - 0.5, 1.5 * LANE + 0.5 if city else 0.5 * LANE + 0.7
    ends = (np.array(left - 0.8), np.array(right + 0.9))
    street = Street(
        city=city,
        bend=float(rng.uniform(-0.0032, -0.0014) if city else rng.uniform(0.0004, 0.0022)),
        left=left,
        right=right,
        paints=tuple(sample_colour(rng, word) for word in paints[:3]),
        turns=float(rng.uniform(0.5, 0.65)),
        scenery=tuple(_scenery(rng, city)),
        coats=(sample_colour(rng, "yellow" if city else "purple"), sample_colour(rng, "cyan") * 0.8),
        walk=(ends[0], ends[1]) if way > 0 else (ends[1], ends[0]),
    )
    third = "bus" if city else "parked car"
    second = "overtaking car" if city else "oncoming car"
    names = ("car in front", second, third, "traffic light that turns green", "traffic light that stays red",
             "crossing pedestrian", "waiting pedestrian")  # fmt: skip
    seed = int(rng.integers(2**31))
    return Scene(names, _expressions(city, paints, way), lambda canvas, time: _draw(canvas, street, time),
                lambda canvas: _backdrop(canvas, street, seed), Lens(vignette=0.25, blur=0.4, noise=0.008))  # fmt: skip


def _expressions(city: bool, paints: list[str], way: float) -> tuple[Expression, ...]:
    cars = (0, 1) if city else (0, 1, 2)
    third = Expression(f"the {paints[2]} bus", (2,), "appearance") if city else None
    found = [
        Expression("all the cars", cars, "all"),
        Expression("all the traffic lights", (3, 4), "all"),
        Expression("all the people on foot", (5, 6), "all"),
        third or Expression(f"the {paints[2]} car", (2,), "appearance"),
        Expression(f"the {paints[1]} car", (1,), "appearance"),
        Expression("the car in front of us in our lane", (0,), "relation"),
        Expression("the car that overtakes us" if city else "the car that comes towards us", (1,), "action"),
        Expression("the traffic light that turns green", (3,), "action"),
        Expression("the traffic light that stays red", (4,), "action"),
        Expression(f"the person who crosses the road to the {'right' if way > 0 else 'left'}", (5,), "action"),
        Expression("the person who waits beside the road", (6,), "action"),
        Expression(f"the {paints[3]} {'bus' if city else 'car'}", (), "absent"),
        Expression("the cyclist on the road", (), "absent"),
    ]
    return tuple(found)


def _scenery(rng: np.random.Generator, city: bool) -> list[tuple[float, float, float, float]]:
    """Trees or houses: metres along the road, aside from its edge, size, and a number for their looks."""
    found = []
    for side in (-1.0, 1.0):
        along = float(rng.uniform(4, 8))
        while along < 125:
            aside = side * float(rng.uniform(2.6, 3.2) if city else rng.uniform(3.0, 9.0))
            size = float(rng.uniform(7, 15) if city else rng.uniform(3.8, 6.5))
            found.append((along, aside, size, float(rng.random())))
            along += 11.0 if city else float(rng.uniform(5, 9))
    return found


def _backdrop(canvas: Canvas, street: Street, seed: int) -> None:
    rng = np.random.default_rng(seed)
    horizon = CAMERA.centre[1]
    if street.city:
        canvas.gradient((0.25, 0.25, 0.45), (0.96, 0.62, 0.42), until=horizon + 1)
        for x in range(-10, WIDE + 20, 14):  # a skyline
            top = horizon - float(rng.uniform(6, 30))
            canvas.box((x, top, x + 14, horizon + 2), (0.36, 0.3, 0.42))
    else:
        canvas.gradient((0.36, 0.62, 0.93), (0.82, 0.91, 0.98), until=horizon + 1)
        for _ in range(5):  # clouds of a few puffs
            at = rng.uniform((0, 8), (WIDE, 52))
            for shift in rng.uniform((-18, -4), (18, 4), (6, 2)):
                canvas.ellipse(at + shift, rng.uniform((9, 4), (15, 7)), (1, 1, 1), opacity=0.5, soft=2.5)
        for shade, high in ((0.8, 24), (0.62, 13)):
            x = np.linspace(0, WIDE, 40)
            ridge = horizon - high * (0.6 + 0.4 * np.sin(x / rng.uniform(25, 50) + rng.uniform(0, 6)))
            hill = np.concatenate([np.stack([x, ridge], axis=1), [(WIDE, horizon + 2), (0, horizon + 2)]])
            canvas.polygon(hill, np.array([0.5, 0.68, 0.55]) * shade)


def _strip(street: Street, near: float, far: float, low: float, high: float) -> np.ndarray:
    """A piece of the ground between two distances and two offsets, on the picture."""
    ahead = _AHEAD[(near < _AHEAD) & (far > _AHEAD)]
    ahead = np.concatenate([[near], ahead, [far]])
    sides = [np.stack([street.aside(offset, ahead), ahead, np.zeros_like(ahead)], axis=1) for offset in (low, high)]
    return CAMERA.project(np.concatenate([sides[0], sides[1][::-1]]))


def _road(canvas: Canvas, street: Street, gone: float) -> None:
    horizon = CAMERA.centre[1]
    ground = np.array([0.40, 0.36, 0.38] if street.city else [0.42, 0.60, 0.28])
    canvas.box((-2, horizon, WIDE + 2, HIGH + 2), ground, shade=0.12, light=(0, 1))
    for start in range(2 - int(gone) % 8, 110, 8):  # stripes of the verge, which show the speed
        for low, high in ((-60, street.left), (street.right, 60)):
            near = max(start + int(gone) - gone, 1.3)
            if start + 4 > near:
                canvas.polygon(_strip(street, near, start + 4 + int(gone) - gone, low, high), ground * 0.94)
    asphalt = np.array([0.23, 0.23, 0.27]) if street.city else np.array([0.37, 0.37, 0.39])
    for out, colour in ((0.9, np.array([0.62, 0.6, 0.6]) if street.city else ground * 0.8), (0.0, asphalt)):
        canvas.polygon(_strip(street, 1.2, _FAR, street.left - out, street.right + out), colour)
    paint = (0.92, 0.92, 0.88)
    for edge in (street.left + 0.25, street.right - 0.25):
        canvas.polygon(_strip(street, 1.2, _FAR, edge - 0.08, edge + 0.08), paint)
    for line in (-LANE / 2, LANE / 2) if street.city else (-LANE / 2,):
        for start in np.arange(-(gone % 7.5), 90, 7.5):
            if start + 3.4 > 1.4:
                canvas.polygon(_strip(street, max(start, 1.3), start + 3.4, line - 0.09, line + 0.09), paint)
    stop = STOP - gone - 6.5
    if stop > 2:
        canvas.polygon(_strip(street, stop, stop + 0.5, -LANE / 2, street.right - 0.3), paint)
        for x in np.arange(street.left + 0.5, street.right - 0.4, 1.1):  # zebra
            canvas.polygon(_strip(street, stop + 1.6, stop + 4.4, x, x + 0.55), paint)


def _draw(canvas: Canvas, street: Street, time: float) -> None:
    """The road, then everything that stands or moves on it from far to near."""
    gone = street.gone(time)
    _road(canvas, street, gone)
    for along, aside, size, looks in sorted(street.scenery, reverse=True):
        ahead = along - gone
        if ahead > -10 and ahead < 75:
            offset = (street.right if aside > 0 else street.left) + aside
            kind = building if street.city else tree
            kind(canvas, CAMERA, lambda y, offset=offset: street.aside(offset, y), ahead, size, looks)
    painters = _vehicles(street, time, gone)
    green = time >= street.turns
    for number, offset, lit in ((4, street.right + 0.7, 2 if green else 0), (5, street.left - 0.7, 0)):
        ahead = STOP - gone
        painters.append((ahead, lambda y, c, o=offset, lamp=lit, n=number: light(c, CAMERA, (street.aside(o, y), y),
                                                                                lamp, n)))  # fmt: skip
    cross = STOP - gone - 3.6
    walked = min(time / street.turns, 1.0)
    at = mixed(*street.walk, walked)
    step = (walked * 6.0, float(np.sign(street.walk[1] - street.walk[0])))
    painters.append((cross, lambda y, c: person(c, CAMERA, (street.aside(at, y), y), street.coats[0], step, 6)))
    wait = street.right + 1.9 if street.city else street.left - 2.2
    painters.append((cross + 1.0, lambda y, c: person(c, CAMERA, (street.aside(wait, y), y), street.coats[1],
                                                    (0.0, -1.0 if street.city else 1.0), 7)))  # fmt: skip
    for ahead, paint in sorted(painters, key=lambda painter: -painter[0]):
        paint(ahead, canvas)
    _bonnet(canvas, street)


def _vehicles(street: Street, time: float, gone: float) -> list[tuple[float, Callable[[float, Canvas], None]]]:
    """The car in front, the one that comes or overtakes, and the parked car or the bus."""
    front = 15.0 - 2.6 * ease(time, 0.1, 0.5) + 9.0 * ease(time, street.turns + 0.02, 1.15)
    if street.city:
        second = (float(6.0 + 16.0 * time), -LANE, False, "car")
        third = (float(34.0 - 0.62 * gone), LANE, False, "bus")
    else:
        second = (float(6.2 + 33.0 * (1 - time) ** 1.8), -LANE, True, "car")
        third = (36.0 - gone, street.right + 1.6, False, "car")
    rows = ((front, 0.0, False, "car"), second, third)
    return [
        (ahead, _vehicle_piece(street, offset, street.paints[number], comes, kind, number + 1))
        for number, (ahead, offset, comes, kind) in enumerate(rows)
    ]


def _vehicle_piece(street, offset, paint, comes, kind, owner):
    def draw(ahead: float, canvas: Canvas) -> None:
        bend = (street.aside(offset, ahead), street.aside(offset, ahead + 4.2))
        vehicle(canvas, CAMERA, bend, ahead, paint, owner, comes=comes, bus=kind == "bus", lit=street.city)

    return draw


def _bonnet(canvas: Canvas, street: Street) -> None:
    """Our own car's bonnet along the lower edge."""
    colour = np.array([0.14, 0.15, 0.18])
    canvas.polygon(oval((WIDE / 2, HIGH + 12), (150, 30)), colour, 0, shade=0.3, light=(0, -1))
    canvas.polygon(
        oval((WIDE / 2 - 30, HIGH + 10), (90, 22)), mixed(colour, (0.6, 0.65, 0.75), 0.3), soft=5, opacity=0.5
    )
