"""Whole generated clips for evaluation and teaching: frames, exact masks, and sentences with the objects they name."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_int
from videomolmo.synth.render import Renderer
from videomolmo.synth.scene import ObjectFacts, Scene, describe_objects, sample_scene
from videomolmo.synth.sentences import Query, sample_query


@dataclass(frozen=True)
class Clip:
    """A generated clip.

    Attributes:
        scene: what was drawn.
        frames: RGB.
        masks: visible part of every object of the scene, in its order.
        object_facts: per frame, one for every object (`ObjectFacts.seen` says whether one may be asked about it).
    """

    scene: Scene
    frames: UInt8[np.ndarray, "frames height width 3"]
    masks: Bool[np.ndarray, "frames objects height width"]
    object_facts: list[list[ObjectFacts]]

    def truth(self, query: Query) -> Bool[np.ndarray, "frames height width"]:
        """Union of the masks of all objects that the query names."""
        return self.masks[:, [query.means(obj) for obj in self.scene.objects]].any(axis=1)


def generate_clip(
    seed: int, *, frames: int = 60, height: int = 192, width: int = 192, motion: bool = False, square: bool = True
) -> Clip:
    """The clip of a seed, the same on every machine.

    Args:
        seed: any non-negative integer; evaluation uses seeds from 10 000 000, which training never draws.
        frames, height, width: size of the clip.
        motion: whether objects of one shape move in nameable directions.
        square: the scene has the picture's own proportions; False draws them at random and stretches.

    Raises:
        BadInput: a seed below 0, or a size below 1.

    Example:
        >>> clip = generate_clip(10_000_000, frames=2, height=48, width=64)
        >>> clip.frames.shape, clip.masks.dtype
        ((2, 48, 64, 3), dtype('bool'))
    """
    seed, frames = _integer(seed, "seed", 0), _integer(frames, "frames", 1)
    height, width = _integer(height, "height", 1), _integer(width, "width", 1)
    scene = sample_scene(seed, motion=motion, frames=frames, aspect=width / height if square else None)
    return render_clip(scene, frames, height, width)


def _integer(value: int, name: str, minimum: int) -> int:
    found = as_int(value, minimum)
    if found is None:
        raise BadInput(f"{name} is {value!r}, expected a whole number from {minimum}")
    return found


def render_clip(scene: Scene, frames: int, height: int, width: int) -> Clip:
    """Frames 0 … `frames` - 1 of a scene, with masks and facts."""
    renderer = Renderer(scene, height, width)
    pairs = [renderer.frame(time) for time in range(frames)]
    facts = [describe_objects(scene, masks, renderer.full_areas(time)) for time, (_, masks) in enumerate(pairs)]
    return Clip(scene, np.stack([frame for frame, _ in pairs]), np.stack([masks for _, masks in pairs]), facts)


def clip_query(seed: int, clip: Clip, *, motion: bool) -> Query | None:
    """A query that names one object of the clip, and only that one, on every frame; None when chance finds none."""
    rng = np.random.default_rng([seed, 5])
    for _ in range(30):
        query = sample_query(rng, clip.scene.objects, motion=motion)
        if query.kind in ("appearance", "colour", "motion") and sum(map(query.means, clip.scene.objects)) == 1:
            return query
    return None
