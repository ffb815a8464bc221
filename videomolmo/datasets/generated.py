"""Generated clips through the same door: exact masks, no files, the same on every machine."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from videomolmo.datasets.annotations import DrawnMasks
from videomolmo.datasets.media import Made
from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.errors import BadInput
from videomolmo.synth.clips import Clip, clip_query, generate_clip
from videomolmo.synth.scene import sample_scene

NAME = "generated"
SPLITS = ("train", "test")
FIRST_SEED = {"train": 0, "test": 10_000_000}  # training never draws the seeds of 'test'
_KINDS = {"motion": "motion"}


def read(
    root: Path | None = None,
    split: str = "test",
    clips: int = 16,
    frames: int = 60,
    height: int = 192,
    width: int = 192,
    motion: bool = False,
) -> Records:
    """Records of generated clips.

    Args:
        root: not needed.
        split: 'test' has seeds from 10 000 000 on, 'train' seeds from 0.
        clips: how many.
        frames, height, width: size of each.
        motion: whether objects are told apart by how they move.
    """
    for name, value in (("clips", clips), ("frames", frames), ("height", height), ("width", width)):
        if value < 1:
            raise BadInput(f"{name}={value}: expected 1 or more")

    def build(seed: int) -> Record:
        scene = sample_scene(seed, motion=motion, frames=frames, aspect=width / height)
        query = clip_query(seed, Clip(scene, *2 * [np.empty(0)], []), motion=motion)
        names = {str(number): f"{thing.colour} {thing.shape}" for number, thing in enumerate(scene.objects, 1)}
        meant = [str(number) for number, thing in enumerate(scene.objects, 1) if query and query.means(thing)]
        expressions = () if query is None else (
            Expression("0", query.phrase, tuple(meant), _KINDS.get(query.kind, "appearance")),
        )  # fmt: skip
        draw = partial(_clip, seed, frames, height, width, motion)
        media = Made(lambda: draw().frames, tuple(f"{frame:05d}" for frame in range(frames)), (height, width))
        return Record(NAME, split, str(seed), media, expressions, names, DrawnMasks(draw))

    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + clips)
    return Records(NAME, split, None, seeds, build)


@lru_cache(maxsize=2)
def _clip(seed: int, frames: int, height: int, width: int, motion: bool) -> Clip:
    return generate_clip(seed, frames=frames, height=height, width=width, motion=motion)
