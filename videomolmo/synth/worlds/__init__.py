"""vpos-nano: a generated benchmark after VPoS-Bench. Five worlds and counting, exact masks, sentences in their words.

Every clip is a function of its scene, part, index and size: the same bytes on every run and in any order. The parts
`train` and `test` differ in how scenes are laid out, not only in the draw; each scene's file says how.

Source: VideoMolmo (arXiv 2506.05336), section on VPoS-Bench: cells, egocentric, driving, GUI, robotics, counting.
Differs: everything is drawn, nothing is taken from the published videos.
"""

from collections.abc import Callable, Iterator

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.synth.worlds import cells, counting, driving, ego, gui, robot
from videomolmo.synth.worlds.world import KINDS, Canvas, Expression, Scene, VposClip

__all__ = ["CLIPS_A_SCENE", "KINDS", "PARTS", "SCENES", "Expression", "VposClip", "benchmark", "generate"]

_MAKERS: dict[str, Callable[[np.random.Generator, str, int], Scene]] = {
    "cells": cells.make_scene,
    "ego": ego.make_scene,
    "driving": driving.make_scene,
    "gui": gui.make_scene,
    "robot": robot.make_scene,
    "counting": counting.make_scene,
}
SCENES = tuple(_MAKERS)
PARTS = ("train", "test")
CLIPS_A_SCENE = 8


def generate(scene: str, part: str, index: int, *, frames: int = 40, height: int = 240, width: int = 320) -> VposClip:
    """One clip of the benchmark.

    Args:
        scene: one of `SCENES`.
        part: "train" or "test".
        index: number of the clip, from 0; the benchmark has the first `CLIPS_A_SCENE`, more can be had.
        frames: length; the same events fill fewer or more of them.
        height, width: pixels; another shape than 3 to 4 stretches picture and masks.

    Raises:
        BadInput: no such scene or part, a negative index, or a size below 1.

    Example:
        >>> clip = generate("robot", "test", 0, frames=3, height=48, width=64)
        >>> clip.frames.shape, clip.name
        ((3, 48, 64, 3), 'robot-test-00')
    """
    if scene not in SCENES:
        raise BadInput(f"scene={scene!r}: expected one of {', '.join(SCENES)}")
    if part not in PARTS:
        raise BadInput(f"part={part!r}: expected one of {', '.join(PARTS)}")
    if index < 0 or min(frames, height, width) < 1:
        raise BadInput(f"index={index}, frames={frames}, height={height}, width={width}: index from 0, sizes from 1")
    seed = (SCENES.index(scene), PARTS.index(part), index)
    layout = _MAKERS[scene](np.random.default_rng(seed), part, index)
    canvas = Canvas(height, width)
    layout.backdrop(canvas)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    masks = np.empty((frames, len(layout.names), height, width), bool)
    for at in range(frames):
        sheet = canvas.copy()
        layout.draw(sheet, at / max(frames - 1, 1))
        pictures[at] = sheet.apply_camera(np.random.default_rng([*seed, at]), layout.lens)
        masks[at] = sheet.masks(len(layout.names))
    return VposClip(
        scene, part, seed, pictures, masks, layout.names, layout.expressions, layout.question, layout.answer
    )


def benchmark(
    part: str,
    *,
    scenes: tuple[str, ...] = SCENES,
    clips: int = CLIPS_A_SCENE,
    frames: int = 40,
    height: int = 240,
    width: int = 320,
) -> Iterator[VposClip]:
    """All clips of a part, one at a time, scene by scene; only the one in hand is in memory."""
    for scene in scenes:
        for index in range(clips):
            yield generate(scene, part, index, frames=frames, height=height, width=width)
