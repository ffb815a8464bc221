"""Clips to talk about, and what may be said of their objects: motions, ways behind a bar, sides of one another.

All of it follows from the scene and from its masks; what would be a matter of opinion is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float

from videomolmo.errors import BadInput
from videomolmo.synth.clips import Clip, render_clip
from videomolmo.synth.scene import (
    BACKGROUNDS,
    COLOURS,
    HIDDEN_SHARE,
    MOTIONS,
    SHAPES,
    Path,
    Scene,
    SceneObject,
    hsv,
    outline,
    sample_background_colour,
    sample_colour,
)

BAR, GREY = "bar", "grey"  # an upright bar stands still in front of everything
COVERED, FREE = 0.7, 0.93  # share of an object to be seen: below, it is behind the bar; above, it is beside it
SIDES = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Story:
    """What may be said of one object over a whole clip; None is a matter of opinion.

    Attributes:
        shape, colour, motion: names.
        behind: whether it is covered in good part by the bar at some time.
        hidden: whether it is covered altogether at some time.
        free_first, free_last: whether it is beside the bar on the first and last frame that it is inside the picture.
        enters, leaves: whether it is outside the picture on the first or last frame.
    """

    shape: str
    colour: str
    motion: str
    behind: bool | None = False
    hidden: bool | None = False
    free_first: bool = True
    free_last: bool = True
    enters: bool = False
    leaves: bool = False

    @property
    def name(self) -> str:
        """Colour and shape, which no two objects of a clip share."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Stories:
    """All that is said of a clip: its objects' stories, and for each side whether object i is on that side of j."""

    objects: tuple[Story, ...]
    sides: dict[str, list[list[bool | None]]]

    @cached_property
    def bar(self) -> int | None:
        """Index of the bar."""
        return next((at for at, one in enumerate(self.objects) if one.shape == BAR), None)

    @cached_property
    def order(self) -> list[int]:
        """The order of a caption: colours as in `COLOURS`, the bar at the end; a model is not asked to guess one."""
        ranks = [*COLOURS, GREY]
        return sorted(range(len(self.objects)), key=lambda at: (ranks.index(self.objects[at].colour), at))

    def the(self, at: int, article: str = "the") -> tuple[str, list[int]]:
        """The phrase of an object."""
        name = self.objects[at].name
        return f"{article}{'n' * (article == 'a' and name[0] in 'aeiou')} {name}", [at]


def caption_clip(seed: int, *, frames: int = 12, height: int = 96, width: int = 96) -> Clip:
    """The clip of a seed with up to four objects of different looks, to be described by `stories`.

    Args:
        seed: any non-negative integer; evaluation uses seeds from 10 000 000, which training never draws.
        frames: at least 2.
        height, width: of the frames.
    """
    if frames < 2:
        raise BadInput(f"frames is {frames}, expected at least 2: what moves is not seen on one")
    return render_clip(caption_scene(seed, frames, width / height), frames, height, width)


def caption_scene(seed: int, frames: int, aspect: float = 1.0) -> Scene:
    """The scene of `caption_clip`: straight motions, an upright bar in two of five, calm light.

    No two objects have both colour and shape in common, and none comes before another but the bar.
    """
    rng = np.random.default_rng([seed, 19])
    bar = _bar(rng, aspect) if rng.random() < 0.4 else None
    wanted = int(rng.choice([1, 2, 3] if bar else [1, 2, 3, 4]))
    pairs = rng.permutation(len(SHAPES) * len(COLOURS))[:wanted]
    shape = str(rng.choice(SHAPES)) if rng.random() < 0.4 else None  # several of a kind
    objects: list[SceneObject] = []
    for number, pair in enumerate(pairs):
        colour = list(COLOURS)[(pair // len(SHAPES) + number) % len(COLOURS)]
        made = _place(rng, shape or SHAPES[pair % len(SHAPES)], colour, objects, bar, frames, aspect)
        if made is not None and all((made.shape, made.colour) != (one.shape, one.colour) for one in objects):
            objects.append(made)
    objects += [bar] if bar else []
    taken = [obj.rgb for obj in objects]
    return Scene(
        aspect=aspect, objects=tuple(objects), occluders=(), background=str(rng.choice(BACKGROUNDS)),
        background_rgb=tuple(sample_background_colour(rng, taken) for _ in range(6)),
        background_scale=float(rng.uniform(0.05, 0.4)), drift=np.zeros(2),
        light=(float(rng.uniform(0.85, 1.08)), 0.0, 0.05), cast=1 + rng.uniform(-0.04, 0.04, 3),
        vignette=float(rng.uniform(0, 0.25)), blur=float(max(0.0, rng.uniform(-0.6, 0.6))),
        noise=float(max(0.0, rng.uniform(-0.02, 0.03))), jpeg=0, seed=seed,
    )  # fmt: skip


def _bar(rng: np.random.Generator, aspect: float) -> SceneObject:
    half = float(rng.uniform(0.08, 0.14))
    corners = np.array([[-half, -2.0], [half, -2.0], [half, 2.0], [-half, 2.0]])
    at = np.array([rng.uniform(0.35, 0.65) * aspect, 0.5])
    return _object(BAR, GREY, hsv(0, 0, rng.uniform(0.3, 0.6)), corners, 1.0, Path(at, 0.0, np.zeros(2)), "still")


def _object(
    shape: str, colour: str, rgb: np.ndarray, corners: np.ndarray, radius: float, path: Path, motion: str,
    angle: float = 0.0,
) -> SceneObject:  # fmt: skip
    return SceneObject(
        shape, colour, rgb, corners, radius, angle, 0.0, path, motion, shade=0.0, shade_angle=0.0, soft=0.0,
        marked=0.0, mark_rgb=np.zeros(3, np.float32),
    )  # fmt: skip


def _place(
    rng: np.random.Generator, shape: str, colour: str, others: list[SceneObject], bar: SceneObject | None,
    frames: int, aspect: float,
) -> SceneObject | None:  # fmt: skip
    """An object whose way keeps clear of all others' and which is free of the bar for a third of the clip."""
    times = np.arange(frames)
    for turn in range(40):
        aimed = bar is not None and not others and turn < 20  # the first one passes behind the bar
        motion = str(rng.choice(["left", "right"] if aimed else list(MOTIONS)))
        radius, last = float(rng.uniform(0.09, 0.17)) * min(1.0, aspect), frames - 1
        at = rng.uniform(radius, 1 - radius, 2) * np.array([aspect, 1.0])
        if aimed:
            at[0] = bar.path.at[0]
        way, veer, turned = rng.uniform(0.35, 0.9), rng.uniform(-0.15, 0.15), rng.uniform(-0.25, 0.25)
        x, y = MOTIONS[motion]
        velocity = way / last * np.array([(x - veer * y) * aspect, y + veer * x])
        path = Path(at=at, when=float(rng.uniform(0.3, 0.7) * last), velocity=velocity)
        made = _object(shape, colour, sample_colour(rng, colour), outline(rng, shape), radius, path, motion, turned)
        centres = _centres(made, times)
        near = [np.linalg.norm(centres - _centres(one, times), axis=1) < _reach(made) + _reach(one) for one in others]
        inside = _inside(made, centres, aspect)
        free = inside if bar is None else inside & (np.abs(centres[:, 0] - bar.path.at[0]) > _reach(made) + _reach(bar))
        fits = free.all() if motion == "still" else free.sum() >= frames / 3
        if fits and not any(one.any() for one in near):
            return made
    return None


def _centres(obj: SceneObject, times: np.ndarray) -> Float[np.ndarray, "frames 2"]:
    return np.stack([obj.path.position(float(time)) for time in times])


def _reach(obj: SceneObject) -> float:
    """How far an object extends from its centre; of the bar, to the sides."""
    if obj.shape == BAR:
        return float(obj.outline[:, 0].max())
    return float(np.linalg.norm(obj.outline, axis=1).max() * obj.radius)


def _inside(obj: SceneObject, centres: np.ndarray, aspect: float) -> Bool[np.ndarray, " frames"]:
    """Whether the whole of the object is in the picture, the bar left aside."""
    reach, corner = _reach(obj), np.array([aspect, 1.0])
    return ((centres >= reach) & (centres <= corner - reach)).all(axis=1)


def stories(clip: Clip) -> Stories:
    """What may be said of a clip of `caption_clip`, from its geometry and from its masks."""
    objects, areas = [], clip.masks.sum(axis=(2, 3))
    for at, obj in enumerate(clip.scene.objects):
        objects.append(_story(clip, obj, areas[:, at]))
    sides = {side: [[None] * len(objects) for _ in objects] for side in SIDES}
    for side, opposite, axis in (("left of", "right of", 1), ("above", "below", 0)):
        for one in range(len(objects)):
            for other in range(len(objects)):
                if one != other:
                    told = _before(clip.masks[:, one], clip.masks[:, other], axis)
                    sides[side][one][other] = sides[opposite][other][one] = told
    return Stories(tuple(objects), sides)


def _story(clip: Clip, obj: SceneObject, areas: np.ndarray) -> Story:
    height, width = clip.masks.shape[2:]
    if obj.shape == BAR:
        return Story(obj.shape, obj.colour, obj.motion)
    centres = _centres(obj, np.arange(len(areas)))
    inside = _inside(obj, centres, clip.scene.aspect)
    scale = np.array([width / clip.scene.aspect, height]) * obj.radius
    shares = areas / max(cv2.contourArea((obj.outline * scale).astype(np.float32)), 1.0)
    within = shares[inside]
    least = float(within.min())
    return Story(
        obj.shape, obj.colour, obj.motion,
        behind=True if least < COVERED else False if least > FREE else None,
        hidden=True if least <= HIDDEN_SHARE else False if least > FREE else None,
        free_first=bool(within[0] > FREE), free_last=bool(within[-1] > FREE),
        enters=bool(areas[0] == 0 and not inside[0] and _outside(obj, centres[0], clip.scene.aspect)),
        leaves=bool(areas[-1] == 0 and not inside[-1] and _outside(obj, centres[-1], clip.scene.aspect)),
    )  # fmt: skip


def _outside(obj: SceneObject, centre: np.ndarray, aspect: float) -> bool:
    corner = np.array([aspect, 1.0])
    return bool(((centre < 0) | (centre > corner)).any())


def _before(one: np.ndarray, other: np.ndarray, axis: int) -> bool | None:
    """Whether a mask is wholly before another along rows (0) or columns (1) on all frames that show both, or on none.

    On none means that not even its middle is before the other's; all else, and too few frames, is None.
    """
    wholly, hardly, both = [], [], 0
    for first, second in zip(one, other, strict=True):
        if not (first.any() and second.any()):
            continue
        both += 1
        spots, others = (np.nonzero(mask)[axis] for mask in (first, second))
        wholly.append(spots.max() < others.min())
        hardly.append(spots.mean() >= others.mean())
    if both < len(one) / 2:
        return None
    return True if all(wholly) else False if all(hardly) else None
