"""Cells under a microscope that drift, crawl and divide.

Train: bright field, six to eight large cells spread over the whole field, stains of histology.
Test: fluorescence on black, nine to twelve small cells in one colony off the centre, glowing labels.

Object ids: the mother cell ends when it divides, as in cell tracking. Its object has the id 1 (index 0 of the masks)
and is empty from the division on; the daughter on the side of the axis' start has the id 2 and the other the id 3,
both empty before the division. All other cells follow from id 4.
"""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from dataclasses import dataclass

import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.world import (  # fmt: skip
    HIGH,
    WIDE,
    Canvas,
    Expression,
    Lens,
    Scene,
    ease,
    mixed,
    oval,
    scatter,
    turned,
)

MOTHER, FIRST, SECOND = 0, 1, 2
MIGRANT, STAINED, LARGEST = 3, 4, 5
STAINS = {"train": ("red", "purple", "blue"), "test": ("red", "yellow", "purple")}
_WAVES = np.array([2, 3, 4, 5])


@dataclass(frozen=True)
class Cell:
    """One cell: where it is in mid-clip, how far it goes, its size, its outline's waves, and what is inside."""

    home: np.ndarray
    drift: np.ndarray
    radius: float
    waves: np.ndarray
    phases: np.ndarray
    rates: np.ndarray
    nucleus: np.ndarray
    granules: np.ndarray
    stain: np.ndarray | None = None


@dataclass(frozen=True)
class Look:
    """Colours of a microscope; `glows` for light on black, else dark on light."""

    glows: bool
    field: tuple[float, float, float]
    rim: np.ndarray
    body: np.ndarray
    nucleus: np.ndarray


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """A field of cells of which one divides, one crawls, one is stained and one is much the largest."""
    count = int(rng.integers(6, 9) if part == "train" else rng.integers(9, 13))
    look = _look(rng, part)
    colours = [str(name) for name in rng.permutation(STAINS[part])]
    stain = sample_colour(rng, colours[0])
    cells = _cells(rng, part, count, stain / stain.max() if look.glows else stain)
    names = ("dividing cell", "first daughter cell", "second daughter cell", "migrating cell",
             f"{colours[0]} cell", "largest cell", *("cell",) * (count - 4))  # fmt: skip
    field = _Field(cells, look, float(rng.uniform(0.42, 0.56)), float(rng.uniform(0, np.pi)))
    drawn = _expressions(part, colours, "right" if cells[1].drift[0] > 0 else "left", len(names))
    seed = int(rng.integers(2**31))
    lens = Lens(vignette=0.45 if part == "train" else 0.3, blur=0.75 if part == "train" else 0.85, noise=0.012)
    return Scene(names, drawn, field.draw, lambda canvas: _backdrop(canvas, look, seed), lens)


def _expressions(part: str, colours: list[str], way: str, objects: int) -> tuple[Expression, ...]:
    verb = "is stained" if part == "train" else "glows"
    return (
        Expression("all the cells", tuple(range(objects)), "all"),
        Expression("the two daughter cells", (FIRST, SECOND), "all"),
        Expression(f"the cell that {verb} {colours[0]}", (STAINED,), "appearance"),
        Expression("the largest cell", (LARGEST,), "relation"),
        Expression("the cell that divides", (MOTHER,), "action"),
        Expression("the cell that divides and the cells it turns into", (MOTHER, FIRST, SECOND), "action"),
        Expression(f"the cell that crawls to the {way}", (MIGRANT,), "action"),
        Expression(f"the cell that {verb} {colours[1]}", (), "absent"),
        Expression("the worm among the cells", (), "absent"),
    )


def _look(rng: np.random.Generator, part: str) -> Look:
    if part == "train":
        tint = rng.uniform(-0.04, 0.04, 3)
        return Look(False, tuple(np.array([0.80, 0.81, 0.76]) + tint), np.array([0.25, 0.29, 0.27]) + tint,
                    np.array([0.66, 0.71, 0.66]) + tint, np.array([0.42, 0.46, 0.48]) + tint)  # fmt: skip
    return Look(True, (0.012, 0.02, 0.03), np.array([0.25, 0.95, 0.45]), np.array([0.05, 0.33, 0.17]),
                np.array([0.25, 0.45, 1.0]))  # fmt: skip


def _cells(rng: np.random.Generator, part: str, count: int, stain: np.ndarray) -> list[Cell]:
    """Mother, migrant, stained, largest, then the rest."""
    if part == "train":
        homes = scatter(rng, count, (40, 38), (WIDE - 40, HIGH - 38))
        usual = (19.0, 24.0)
    else:
        corner = rng.uniform((40, 34), (120, 76))
        homes = scatter(rng, count, corner, corner + (135, 118), tries=12)
        usual = (15.0, 18.0)
    homes = homes[np.argsort(np.linalg.norm(homes - homes.mean(axis=0), axis=1))]  # the mother in the middle
    cells = []
    for number, home in enumerate(homes):
        radius = float(rng.uniform(*usual)) * {0: 1.12, 3: 1.5}.get(number, 1.0)
        drift = rng.uniform(-9, 9, 2)
        if number == 1:
            way = 1.0 if home[0] < WIDE / 2 else -1.0
            drift = np.array([way * rng.uniform(85, 120), rng.uniform(-25, 25)])
        cells.append(
            Cell(
                home=home,
                drift=drift,
                radius=radius,
                waves=rng.uniform(0.01, 0.06, 4) / (1, 1, 1.5, 2),
                phases=rng.uniform(0, 2 * np.pi, 4),
                rates=rng.uniform(-4, 4, 4),
                nucleus=rng.uniform(-0.14, 0.14, 2),
                granules=rng.uniform(-0.75, 0.75, (14, 2)),
                stain=stain if number == 2 else None,
            )
        )
    return cells


def _backdrop(canvas: Canvas, look: Look, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas.gradient(look.field, mixed(look.field, (0.7, 0.68, 0.6) if not look.glows else (0, 0.01, 0.02), 0.5))
    canvas.texture(rng, 30, 0.02 if not look.glows else 0.1)
    for _ in range(40):  # dust and debris
        colour = mixed(look.field, look.rim, rng.uniform(0.1, 0.5))
        at, size = rng.uniform((0, 0), (WIDE, HIGH)), float(rng.uniform(0.5, 1.6))
        canvas.ellipse(at, size, colour, opacity=0.6, soft=0.4)


class _Field:
    """Where all cells are at a time, and their picture."""

    def __init__(self, cells: list[Cell], look: Look, division: float, axis: float) -> None:
        self.cells, self.look, self.division = cells, look, division
        self.angle, self.axis = axis, np.array([np.cos(axis), np.sin(axis)])

    def draw(self, canvas: Canvas, time: float) -> None:
        centres = self._centres(time)
        mother = self.cells[0]
        divided = time >= self.division
        for number, cell in enumerate(self.cells):
            if number == 0:
                continue
            stretch = 1.45 if number == 1 else 1.0
            heading = float(np.arctan2(cell.drift[1], cell.drift[0])) if number == 1 else 0.0
            outline = self._outline(cell, cell.radius, time, stretch, heading)
            self._cell(canvas, cell, centres[number + 1], outline, number + 3, heading if number == 1 else None)
        for side, number in ((0, FIRST), (1, SECOND)):
            if divided:
                outline = self._outline(mother, mother.radius * self._daughter(time), time + side)
                self._cell(canvas, mother, centres[side], outline, number + 1, None)
        if not divided:
            middle = centres[:2].mean(axis=0)
            self._cell(canvas, mother, middle, self._peanut(time), MOTHER + 1, None, self._apart(time))

    def _apart(self, time: float) -> float:
        """Half the distance of the two halves of the mother, in radii."""
        return 0.62 * ease(time, self.division - 0.2, self.division) + 0.55 * ease(
            time, self.division, self.division + 0.25
        )

    def _daughter(self, time: float) -> float:
        return 0.74 + 0.1 * ease(time, self.division, 1.0)

    def _centres(self, time: float) -> np.ndarray:
        """Both halves of the mother, then all other cells, pushed apart until they no longer overlap."""
        homes = [cell.home + cell.drift * (time - 0.5) for cell in self.cells]
        apart = self.axis * self._apart(time) * self.cells[0].radius
        centres = np.array([homes[0] - apart, homes[0] + apart, *homes[1:]])
        radii = np.array([self.cells[0].radius * 0.85] * 2 + [cell.radius for cell in self.cells[1:]])
        reach = 0.97 * (radii[:, None] + radii[None])
        reach[:2, :2] = 0
        for _ in range(25):
            gap = centres[:, None] - centres[None]
            distance = np.maximum(np.linalg.norm(gap, axis=-1), 1e-6)
            push = np.maximum(reach - distance, 0) * (1 - np.eye(len(radii)))
            centres = centres + 0.3 * (gap / distance[..., None] * push[..., None]).sum(axis=1)
            centres[2:] = np.clip(centres[2:], (16, 16), (WIDE - 16, HIGH - 16))
        return centres

    def _outline(
        self, cell: Cell, radius: float, time: float, stretch: float = 1.0, heading: float = 0.0
    ) -> np.ndarray:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = cell.waves[:, None] * np.cos(_WAVES[:, None] * turn + (cell.phases + cell.rates * time)[:, None])
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (radius * (1 + waves.sum(axis=0)))[:, None]
        return turned(ring * (stretch, 1 / stretch**0.5), heading)

    def _peanut(self, time: float) -> np.ndarray:
        """The mother's outline: round, then drawn out along the axis with a furrow that deepens."""
        cell, progress = self.cells[0], ease(time, self.division - 0.2, self.division)
        half, end = cell.radius * self._apart(time), cell.radius * (1 - 0.26 * progress)
        x = np.cos(np.linspace(0, np.pi, 24)) * (half + end)
        y = np.sqrt(np.maximum(end**2 - np.maximum(np.abs(x) - half, 0) ** 2, 0))
        y = y * (1 - 0.78 * progress**2 * np.exp(-((x / (0.5 * end)) ** 2)))
        ring = np.concatenate([np.stack([x, y], axis=1), np.stack([x, -y], axis=1)[-2:0:-1]])
        return turned(ring, self.angle)

    def _cell(self, canvas, cell, centre, outline, owner, heading, apart=0.0) -> None:
        look = self.look
        rim = look.rim if cell.stain is None else mixed(cell.stain, look.rim * 0.5, 0.25)
        body = look.body if cell.stain is None else mixed(look.body, cell.stain, 0.72)
        size = float(np.sqrt(np.abs(np.linalg.det(np.cov(outline.T)))) * 2) ** 0.5
        halo = (0.93, 0.94, 0.90) if not look.glows else mixed(rim, (0, 0, 0), 0.55)
        canvas.polygon(centre + outline * 1.1, halo, soft=2.2, opacity=0.7 if not look.glows else 0.4)
        canvas.polygon(centre + outline, rim, owner, shade=0.1)
        canvas.polygon(centre + outline * (1 - 2.3 / size), body, shade=0.10, soft=0.7)
        for at in cell.granules[np.linalg.norm(cell.granules, axis=1) < 0.78]:
            canvas.ellipse(centre + at * size * 0.95, 0.9, mixed(body, rim, 0.45), opacity=0.6)
        shift = cell.nucleus * size if apart < 0.1 else np.zeros(2)
        if heading is not None:  # the crawling edge: ruffles in front
            front = turned([[0.95 * size, -0.45 * size], [1.28 * size, 0], [0.95 * size, 0.45 * size]], heading)
            canvas.stroke(centre + front, 2.0, mixed(body, rim, 0.6), opacity=0.8, soft=0.5)
        for side in (-1, 1) if apart > 0.08 else (0,):
            at = centre + shift + side * self.axis * apart * cell.radius
            radii = np.array([0.42, 0.36]) * size * (0.8 if side else 1.0)
            canvas.polygon(oval(at, radii, heading or 0.6), mixed(look.nucleus, rim, 0.55), soft=0.3)
            canvas.polygon(oval(at, radii * 0.82, heading or 0.6), look.nucleus, soft=0.6, shade=0.15)
            canvas.ellipse(at + 0.1 * size, 0.1 * size, mixed(look.nucleus, rim, 0.75), soft=0.3)
