"""A random scene: objects with colours, shapes and paths, what stands in their way, and how the picture is taken.

World coordinates: the frame is 1 high and `aspect` wide, origin top left, y down; time counts frames, fractions too.
"""

from dataclasses import dataclass, field

import numpy as np

from videomolmo.synth.palette import COLOURS, sample_background_colour, sample_colour
from videomolmo.synth.shapes import NAMELESS, SHAPES, outline

MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
BACKGROUNDS = ("flat", "gradient", "noise", "stripes", "checks", "clutter", "rooms")


@dataclass(frozen=True)
class Path:
    """Where an object is: a straight line through `at` at time `when`, plus an optional sway."""

    at: np.ndarray
    when: float
    velocity: np.ndarray
    sway: np.ndarray = field(default_factory=lambda: np.zeros(2))
    sway_rate: float = 0.0
    phase: float = 0.0

    def position(self, time: float) -> np.ndarray:
        swing = np.sin(self.sway_rate * time + self.phase) - np.sin(self.sway_rate * self.when + self.phase)
        return self.at + self.velocity * (time - self.when) + self.sway * swing


@dataclass(frozen=True)
class SceneObject:
    """One thing; `motion` is a key of MOTIONS, or None where no word for its motion would be fair."""

    shape: str
    colour: str
    rgb: np.ndarray
    outline: np.ndarray
    radius: float
    angle: float
    spin: float
    path: Path
    motion: str | None
    shade: float
    shade_angle: float
    soft: float
    marked: float
    mark_rgb: np.ndarray


@dataclass(frozen=True)
class Scene:
    """All that a renderer needs; `occluders` are (outline, rgb, radius, path) drawn over the objects."""

    aspect: float
    objects: tuple[SceneObject, ...]
    occluders: tuple[tuple[np.ndarray, np.ndarray, float, Path], ...]
    background: str
    background_rgb: tuple[np.ndarray, ...]
    background_scale: float
    drift: np.ndarray
    light: tuple[float, float, float]
    cast: np.ndarray
    vignette: float
    blur: float
    noise: float
    jpeg: int
    seed: int


def sample_scene(seed: int, *, motion: bool, frames: int = 6, aspect: float | None = None) -> Scene:
    """The scene of `seed`, the same on every machine.

    Args:
        seed: any non-negative integer.
        motion: True for straight, nameable motions with several objects of one shape; False for free paths.
        frames: how long the clip will be; speeds are chosen so that objects stay for a good part of it.
        aspect: width over height; drawn at random (mostly square) when None.
    """
    rng = np.random.default_rng([seed, int(motion)])
    if aspect is None:
        aspect = float(rng.choice([1.0, 1.0, 4 / 3, 16 / 9, 3 / 4, 9 / 16]))
    objects = _motion_objects(rng, aspect, frames) if motion else _free_objects(rng, aspect, frames)
    taken = [thing.rgb for thing in objects]
    drifting = rng.random() < 0.3
    return Scene(
        aspect=aspect,
        objects=tuple(objects),
        occluders=tuple(_occluder(rng, aspect, taken) for _ in range(int(rng.choice([0, 0, 0, 0, 1, 1, 2])))),
        background=str(rng.choice(BACKGROUNDS)),
        background_rgb=tuple(sample_background_colour(rng, taken) for _ in range(6)),
        background_scale=float(rng.uniform(0.05, 0.4)),
        drift=rng.uniform(-0.0012, 0.0012, 2) if drifting else np.zeros(2),
        light=(float(rng.uniform(0.72, 1.12)), float(rng.uniform(0, 0.12)), float(rng.uniform(0.02, 0.15))),
        cast=1 + rng.uniform(-0.06, 0.06, 3),
        vignette=float(max(0.0, rng.uniform(-0.3, 0.35))),
        blur=float(max(0.0, rng.uniform(-1.0, 0.9))),
        noise=float(max(0.0, rng.uniform(-0.02, 0.055))),
        jpeg=int(rng.integers(35, 90)) if rng.random() < 0.25 else 0,
        seed=seed,
    )


def _free_objects(rng: np.random.Generator, aspect: float, frames: int) -> list[SceneObject]:
    """One to six objects on free paths; often one shape or one colour comes several times."""
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.07, 0.14, 0.24, 0.25, 0.18, 0.12]))
    shapes = [str(s) for s in rng.choice([*SHAPES, NAMELESS], size=count, p=[0.22, 0.22, 0.22, 0.22, 0.12])]
    colours = [str(c) for c in rng.choice(list(COLOURS), size=count)]
    if count >= 2 and rng.random() < 0.5:  # several of a kind
        again = int(rng.integers(2, min(count, 4) + 1))
        shapes[:again] = [str(rng.choice(SHAPES))] * again
    if rng.random() < 0.7:  # colours that tell objects apart
        colours = [str(c) for c in rng.permutation(list(COLOURS))[:count]]
    largest = {1: 0.34, 2: 0.30, 3: 0.24, 4: 0.20, 5: 0.17, 6: 0.15}[count]
    placed: list[tuple[np.ndarray, float]] = []
    things = []
    for shape, colour in zip(shapes, colours, strict=True):
        radius = float(np.exp(rng.uniform(np.log(0.05), np.log(largest)))) * min(1.0, aspect)
        at = _place(rng, aspect, radius, placed)
        speed = float(rng.choice([0, 1, 1])) * rng.uniform(0.2, 1.0) * min(0.025, 1.2 / frames)
        direction = rng.uniform(0, 2 * np.pi)
        path = Path(
            at=at,
            when=float(rng.uniform(0, frames)),
            velocity=speed * np.array([np.cos(direction) * aspect, np.sin(direction)]),
            sway=rng.uniform(0, 0.12, 2) if rng.random() < 0.3 else np.zeros(2),
            sway_rate=float(rng.uniform(0.03, 0.12)),
            phase=float(rng.uniform(0, 6.3)),
        )
        things.append(_thing(rng, shape, colour, radius, path, None))
    return things


def _motion_objects(rng: np.random.Generator, aspect: float, frames: int) -> list[SceneObject]:
    """Two to four objects of one shape with different motions, and up to two others."""
    count = int(rng.integers(2, 5))
    motions = [str(m) for m in rng.permutation(list(MOTIONS))[:count]]
    shapes = [str(rng.choice(SHAPES))] * count
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        shapes.append(str(rng.choice(SHAPES)))
        motions.append(str(rng.choice(list(MOTIONS))))
    one_colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.4 else None
    placed: list[tuple[np.ndarray, float]] = []
    things = []
    for shape, motion in zip(shapes, motions, strict=True):
        radius = float(np.exp(rng.uniform(np.log(0.06), np.log(0.19)))) * min(1.0, aspect)
        at = _place(rng, aspect, radius, placed)
        speed = float(np.exp(rng.uniform(np.log(0.006), np.log(max(0.008, min(0.035, 0.9 / frames))))))
        veer = rng.uniform(-0.22, 0.22)
        x, y = MOTIONS[motion]
        velocity = speed * np.array([(x - veer * y) * aspect, y + veer * x])
        path = Path(at=at, when=float(rng.uniform(0.3, 0.7) * frames if frames > 8 else frames - 1), velocity=velocity)
        things.append(_thing(rng, shape, one_colour or str(rng.choice(list(COLOURS))), radius, path, motion))
    return things


def _place(
    rng: np.random.Generator, aspect: float, radius: float, placed: list[tuple[np.ndarray, float]]
) -> np.ndarray:
    """A place that mostly keeps clear of the objects placed before (one time in eight it need not)."""
    keep_clear = 0.0 if rng.random() < 0.12 else 0.95
    for _ in range(25):
        margin = radius * rng.uniform(0.2, 1.0)
        at = np.array([rng.uniform(margin, aspect - margin), rng.uniform(margin, 1 - margin)])
        if all(np.linalg.norm(at - other) > keep_clear * (radius + size) for other, size in placed):
            break
    placed.append((at, radius))
    return at


def _thing(
    rng: np.random.Generator, shape: str, colour: str, radius: float, path: Path, motion: str | None
) -> SceneObject:
    tilt = rng.uniform(-0.25, 0.25) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    return SceneObject(
        shape=shape,
        colour=colour,
        rgb=sample_colour(rng, colour),
        outline=outline(rng, shape),
        radius=radius,
        angle=float(tilt),
        spin=float(rng.uniform(-0.03, 0.03)) if rng.random() < 0.2 else 0.0,
        path=path,
        motion=motion,
        shade=float(max(0.0, rng.uniform(-0.3, 0.45))),
        shade_angle=float(rng.uniform(0, 2 * np.pi)),
        soft=float(max(0.0, rng.uniform(-1.0, 1.2))),
        marked=float(rng.uniform(0.1, 0.35)) if rng.random() < 0.2 else 0.0,
        mark_rgb=np.full(3, rng.choice([0.0, 0.1, 0.9]), np.float32),
    )


def _occluder(
    rng: np.random.Generator, aspect: float, taken: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float, Path]:
    """A muted bar or blob that stands still or crosses the picture slowly."""
    long = rng.random() < 0.5
    shape = np.array([[-0.1, -2], [0.1, -2], [0.1, 2], [-0.1, 2]]) if long else outline(rng, NAMELESS)
    turn = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.3, 0.3)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    at = np.array([rng.uniform(0, aspect), rng.uniform(0, 1)])
    path = Path(at=at, when=0.0, velocity=rng.uniform(-0.008, 0.008, 2) * rng.integers(0, 2))
    radius = float(rng.uniform(0.3, 0.7) if long else rng.uniform(0.05, 0.14))
    return shape @ rotation.T, sample_background_colour(rng, taken), radius, path
