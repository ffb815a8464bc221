"""A random scene: shapes, colours, motion, and what is true of each object on each frame."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float

# name: hue range in degrees, saturation range, value range; wide enough to hold what other renderers call so.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-10, 9), (0.70, 1.0), (0.55, 1.0)),
    "green": ((92, 150), (0.50, 1.0), (0.38, 1.0)),
    "blue": ((205, 246), (0.55, 1.0), (0.38, 1.0)),
    "yellow": ((48, 62), (0.60, 1.0), (0.80, 1.0)),
    "orange": ((21, 39), (0.75, 1.0), (0.82, 1.0)),
    "purple": ((265, 303), (0.42, 1.0), (0.42, 0.95)),
    "cyan": ((174, 192), (0.45, 1.0), (0.68, 1.0)),
    "white": ((0, 360), (0.0, 0.07), (0.88, 1.0)),
}


def sample_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """An RGB triple in 0…1 that a person would call `name`; one time in three the purest of its kind."""
    ranges = COLOURS[name]
    hue, saturation, value = (rng.uniform(*bounds) for bounds in ranges)
    if rng.random() < 0.33:
        saturation, value = (0.0, 1.0) if name == "white" else (rng.uniform(0.9, 1.0), ranges[2][1])
    return hsv(hue, saturation, value)


def hsv(hue_deg: float, saturation: float, value: float) -> np.ndarray:
    """RGB in 0…1 of a colour given as hue (degrees), saturation and value."""
    return np.array(colorsys.hsv_to_rgb((hue_deg % 360) / 360, saturation, value), dtype=np.float32)


def sample_background_colour(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """A colour for background and clutter: mostly muted, and away from every colour in `taken` (RGB in 0…1)."""
    colour = np.full(3, 0.3, np.float32)
    for _ in range(12):
        kind = rng.random()
        if kind < 0.30:  # greys, black included
            colour = hsv(0, 0, rng.uniform(0.0, 0.8))
        elif kind < 0.60:  # wood, skin, sand, stone
            colour = hsv(rng.uniform(8, 50), rng.uniform(0.08, 0.55), rng.uniform(0.12, 0.75))
        elif kind < 0.85:  # muted, any hue
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.38), rng.uniform(0.1, 0.8))
        else:  # strong, dark
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.3, 0.75), rng.uniform(0.08, 0.4))
        if all(float(np.abs(colour - other).sum()) > 0.55 for other in taken):
            break
    return colour


SHAPES = ("circle", "square", "triangle", "star")
NAMELESS = "object"  # the shape name of everything that is none of the four


def outline(rng: np.random.Generator, shape: str) -> Float[np.ndarray, "points 2"]:
    """Corner points of one random instance of `shape`, around the origin, reaching about 1 from it."""
    if shape == "circle":
        return _ellipse(1.0, rng.uniform(0.93, 1.0))
    if shape == "square":
        return _box(0.88, 0.88 * rng.uniform(0.92, 1.08))
    if shape == "triangle":
        lean = rng.uniform(-0.12, 0.12)
        return np.array([[lean, -1.0], [rng.uniform(0.8, 1.0), 0.72], [-rng.uniform(0.8, 1.0), 0.72]])
    if shape == "star":
        return _star(5, rng.uniform(0.36, 0.52))
    return _nameless(rng)


def _ellipse(rx: float, ry: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1)


def _box(rx: float, ry: float) -> np.ndarray:
    return np.array([[-rx, -ry], [rx, -ry], [rx, ry], [-rx, ry]])


def _star(tips: int, inner: float) -> np.ndarray:
    angle = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _nameless(rng: np.random.Generator) -> np.ndarray:
    """A bar, a mug with its handle, a smooth blob, a cross or an irregular polygon."""
    kind = rng.integers(5)
    if kind == 0:
        return _box(1.0, rng.uniform(0.3, 0.6))
    if kind == 1:
        half, top = rng.uniform(0.5, 0.75), rng.uniform(0.7, 0.95)
        body = [[-half, -top], [half, -top], [half, -0.5 * top]]
        handle = [[half + 0.4, -0.45 * top], [half + 0.45, 0.3 * top], [half, 0.45 * top]]
        return np.array([*body, *handle, [half * rng.uniform(0.7, 1.0), top], [-half * rng.uniform(0.7, 1.0), top]])
    if kind == 2:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = sum(rng.uniform(0, 0.22) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
        radius = (0.85 + waves)[:, None]
        return np.clip(radius, 0.4, 1.2) * np.stack([np.cos(angle), rng.uniform(0.6, 1.0) * np.sin(angle)], axis=1)
    if kind == 3:
        arm = rng.uniform(0.22, 0.4)
        quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm], [1.0, arm], [arm, arm], [arm, 1.0]])
        return np.concatenate([quarter, -quarter])
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(6, 10)))
    return rng.uniform(0.7, 1.0, len(angle))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


SEEN_SHARE, HIDDEN_SHARE = 0.35, 0.04  # of the full area; in between nobody should be asked about the object
SEEN_AREA = 0.0016  # of the frame


@dataclass(frozen=True)
class ObjectFacts:
    """One object of one frame; `seen` is True, False, or None where it is a matter of opinion."""

    shape: str
    colour: str
    motion: str | None
    seen: bool | None
    point: tuple[float, float]  # shares of width and height


def describe_objects(
    scene: Scene, masks: Bool[np.ndarray, "objects height width"], full_areas: Float[np.ndarray, " objects"]
) -> list[ObjectFacts]:
    """The facts of a frame, one entry per object of the scene, in its order."""
    height, width = masks.shape[1:]
    objects = []
    for obj, mask, full in zip(scene.objects, masks, full_areas, strict=True):
        area = int(mask.sum())
        share = area / max(float(full), 1.0)
        seen = None
        if share >= SEEN_SHARE and area >= SEEN_AREA * height * width:
            seen = True
        elif share <= HIDDEN_SHARE:
            seen = False
        x, y = inner_point(mask) if area else (0.0, 0.0)
        objects.append(ObjectFacts(obj.shape, obj.colour, obj.motion, seen, ((x + 0.5) / width, (y + 0.5) / height)))
    return objects


def inner_point(mask: Bool[np.ndarray, "height width"]) -> tuple[float, float]:
    """The mask's centre (x, y) in pixels if it lies well inside, else its innermost pixel."""
    rows, columns = np.nonzero(mask)
    x, y = float(columns.mean()), float(rows.mean())
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    if depth[round(y), round(x)] >= 0.6 * depth.max():
        return x, y
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column), float(row)


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
    """One object; `motion` is a key of MOTIONS, or None where no word for its motion would be fair."""

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
    taken = [obj.rgb for obj in objects]
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
    objects = []
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
        objects.append(_scene_object(rng, shape, colour, radius, path, None))
    return objects


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
    objects = []
    for shape, motion in zip(shapes, motions, strict=True):
        radius = float(np.exp(rng.uniform(np.log(0.06), np.log(0.19)))) * min(1.0, aspect)
        at = _place(rng, aspect, radius, placed)
        speed = float(np.exp(rng.uniform(np.log(0.006), np.log(max(0.008, min(0.035, 0.9 / frames))))))
        veer = rng.uniform(-0.22, 0.22)
        x, y = MOTIONS[motion]
        velocity = speed * np.array([(x - veer * y) * aspect, y + veer * x])
        path = Path(at=at, when=float(rng.uniform(0.3, 0.7) * frames if frames > 8 else frames - 1), velocity=velocity)
        objects.append(_scene_object(rng, shape, one_colour or str(rng.choice(list(COLOURS))), radius, path, motion))
    return objects


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


def _scene_object(
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
