"""Clips on which the two directions of time disagree: objects that hide, that cross, and that move fast.

Backgrounds, light, shapes and colours are those of `videomolmo.synth`; only paths, sizes and occluders are chosen here.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.errors import BadInput
from videomolmo.synth.clips import render_clip
from videomolmo.synth.scene import (
    Path,
    Scene,
    SceneObject,
    outline,
    sample_background_colour,
    sample_colour,
    sample_scene,
)

KINDS = ("occlusion", "crossing", "fast")
POINTS = ("clean", "noisy")
MIN_AREA_PX = 24  # a smaller rest of an object gets no click: nobody could point at it
JITTER = 0.1  # of the square root of the visible area: standard deviation of a noisy click, per axis
VERSION = 1  # raised when the clips change, so that caches do not mix them


@dataclass(frozen=True)
class HardClip:
    """A clip: RGB frames, and the visible part of every object."""

    seed: int
    kind: str
    frames: UInt8[np.ndarray, "frames height width 3"]
    masks: Bool[np.ndarray, "frames objects height width"]


def hard_clip(seed: int, *, frames: int = 31, size: int = 160) -> HardClip:
    """The clip of a seed, square, the same on every machine; its kind goes round `KINDS`.

    Occlusion: every object passes behind a bar as wide as itself or wider. Crossing: two objects swap sides through one
    point, half of the time in the same colour. Fast: objects swing to and fro, up to a tenth of the frame each step.

    Example:
        >>> clip = hard_clip(2, frames=3, size=32)
        >>> clip.kind, clip.frames.shape, clip.masks.shape[1] in (2, 3)
        ('fast', (3, 32, 32, 3), True)
    """
    kind = KINDS[seed % len(KINDS)]
    clip = render_clip(_hard_scene(seed, kind, frames), frames, size, size)
    return HardClip(seed, kind, clip.frames, clip.masks)


def lesson_clip(seed: int = 3, *, frames: int = 31, height: int = 180, width: int = 240) -> HardClip:
    """One clip with all that notebook 00 explains: its first object, a red circle, is hidden on frame 10, and touched.

    It passes behind a bar, which hides all of it on frame 10 alone; from frame 18 to 26 a red square runs over it.
    A blue circle stands by.

    Seen in: notebooks/00_quickstart.ipynb
    """
    rng, aspect = np.random.default_rng([seed, 29]), width / height
    scene = sample_scene(int(rng.integers(2**40)), motion=False, frames=frames, aspect=aspect)
    step = 0.84 * aspect / (frames - 1)

    def made(
        shape: str, colour: str, radius: float, at: tuple[float, float], when: int, velocity: tuple
    ) -> SceneObject:
        path = Path(at=np.array(at), when=float(when), velocity=np.array(velocity))
        return replace(
            scene.objects[0], shape=shape, colour=colour, rgb=sample_colour(rng, colour), outline=outline(rng, shape),
            radius=radius, path=path, marked=0.0, spin=0.0,
        )  # fmt: skip

    circle = made("circle", "red", 0.12, (0.36 * aspect, 0.5), 10, (step, 0.0))
    square = replace(made("square", "red", 0.13, (0.36 * aspect + 12.5 * step, 0.5), 22, (0.0, 0.14)), rgb=circle.rgb)
    other = made("circle", "blue", 0.1, (0.15 * aspect, 0.82), 0, (0.0, 0.0))
    half = 0.12 + 0.5 * step
    bar = np.array([[-half, -1.2], [half, -1.2], [half, 1.2], [-half, 1.2]])
    place = Path(at=np.array([0.36 * aspect, 0.5]), when=0.0, velocity=np.zeros(2))
    occluder = bar, sample_background_colour(rng, [circle.rgb, other.rgb]), 1.0, place
    clip = render_clip(replace(scene, objects=(circle, other, square), occluders=(occluder,)), frames, height, width)
    return HardClip(seed, "lesson", clip.frames, clip.masks)


def click(clip: HardClip, at: int, obj: int, points: str) -> Float[np.ndarray, "1 2"] | None:
    """Where a pointing model would click on an object of frame `at`: x and y in pixels; None where it is hidden.

    Args:
        clip: with its true masks.
        at: frame.
        obj: index of the object.
        points: "clean": the deepest pixel of the visible part. "noisy": any pixel of it, moved by normal noise of
            `JITTER`·√area per axis, so that about one click in six is beside the object.
    """
    if points not in POINTS:
        raise BadInput(f"points are {points!r}, expected {' or '.join(POINTS)}")
    mask = clip.masks[at, obj]
    area = int(mask.sum())
    if area < MIN_AREA_PX:
        return None
    if points == "clean":
        place = deepest_pixel(mask) + 0.5
    else:
        rng = np.random.default_rng([clip.seed, 17, at, obj])
        rows, columns = np.nonzero(mask)
        n = int(rng.integers(len(rows)))
        place = np.array([columns[n], rows[n]]) + 0.5 + rng.normal(0, JITTER * np.sqrt(area), 2)
        place = np.clip(place, 0.5, np.array(mask.shape[::-1]) - 0.5)
    return place.astype(np.float32)[None]


def _hard_scene(seed: int, kind: str, frames: int) -> Scene:
    """A scene of two or three objects of the generator on new paths."""
    rng = np.random.default_rng([seed, 23])
    scene = None
    while scene is None or len(scene.objects) < 2:
        scene = sample_scene(int(rng.integers(2**40)), motion=False, frames=frames, aspect=1.0)
    objects = [replace(obj, radius=float(rng.uniform(0.07, 0.14))) for obj in scene.objects[: rng.integers(2, 4)]]
    occluders: tuple = ()
    if kind == "occlusion":
        objects, occluders = _behind_a_bar(rng, objects, frames)
    elif kind == "crossing":
        objects = _crossing(rng, objects, frames)
    else:
        objects = [_swinging(rng, obj) for obj in objects]
    return replace(scene, objects=tuple(objects), occluders=occluders)


def _straight(obj: SceneObject, start: np.ndarray, end: np.ndarray, frames: int) -> SceneObject:
    """The object on a straight way from one place to another in the time of the clip."""
    return replace(obj, path=Path(at=start, when=0.0, velocity=(end - start) / (frames - 1)))


def _behind_a_bar(rng: np.random.Generator, objects: list[SceneObject], frames: int) -> tuple[list[SceneObject], tuple]:
    """Objects that go across, one above the other, and an upright bar in the middle."""
    heights = (np.arange(len(objects)) + rng.uniform(0.3, 0.7, len(objects))) / len(objects)
    moved = []
    for obj, y in zip(objects, heights, strict=True):
        left, right = rng.uniform(0.0, 0.25), rng.uniform(0.75, 1.0)
        ends = np.array([[left, y], [right, y + rng.uniform(-0.1, 0.1)]])[:: rng.choice([-1, 1])]
        moved.append(_straight(obj, ends[0], ends[1], frames))
    half = float(rng.uniform(0.6, 1.4) * max(obj.radius for obj in moved))
    bar = np.array([[-half, -1.2], [half, -1.2], [half, 1.2], [-half, 1.2]])
    colour = sample_background_colour(rng, [obj.rgb for obj in moved])
    place = Path(at=np.array([rng.uniform(0.35, 0.65), 0.5]), when=0.0, velocity=np.zeros(2))
    return moved, ((bar, colour, 1.0, place),)


def _crossing(rng: np.random.Generator, objects: list[SceneObject], frames: int) -> list[SceneObject]:
    """The first two objects meet near the middle of clip and frame and go on; a third one drifts."""
    middle, meeting = rng.uniform(0.4, 0.6, 2), rng.uniform(0.35, 0.65) * (frames - 1)
    direction, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0) * np.pi
    alike = rng.random() < 0.5
    moved = []
    for n, obj in enumerate(objects):
        angle = direction + turn * n
        step = rng.uniform(0.5, 0.9) / frames * np.array([np.cos(angle), np.sin(angle)])
        if n < 2:
            path = Path(at=middle + rng.uniform(-0.02, 0.02, 2), when=float(meeting), velocity=step)
            moved.append(replace(obj, path=path, rgb=objects[0].rgb if alike else obj.rgb))
        else:
            moved.append(replace(obj, path=Path(at=rng.uniform(0.15, 0.85, 2), when=0.0, velocity=step / 4)))
    return moved


def _swinging(rng: np.random.Generator, obj: SceneObject) -> SceneObject:
    """The object on a fast way to and fro."""
    rate, angle = rng.uniform(0.15, 0.35), rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.04, 0.1) / rate * np.array([np.cos(angle), np.sin(angle)])
    path = Path(at=rng.uniform(0.3, 0.7, 2), when=0.0, velocity=np.zeros(2), sway=reach, sway_rate=float(rate),
                phase=float(rng.uniform(0, 6.3)))  # fmt: skip
    return replace(obj, path=path)
