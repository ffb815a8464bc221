"""vpos-nano through the same door: five generated worlds and counting, no files, the same on every machine."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

from videomolmo.datasets.annotations import DrawnMasks
from videomolmo.datasets.media import Made
from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.errors import BadInput
from videomolmo.synth.vpos import CLIPS_A_SCENE, PARTS, SCENES, VposClip, generate

NAME = "vpos_nano"
SPLITS = PARTS


def read(
    root: Path | None = None,
    split: str = "test",
    scenes: tuple[str, ...] = SCENES,
    clips: int = CLIPS_A_SCENE,
    frames: int = 40,
    height: int = 240,
    width: int = 320,
) -> Records:
    """Records of the generated benchmark; an expression's `kind` is its scene, `more["ask"]` what it tests.

    Args:
        root: not needed.
        split: 'train' or 'test'; their scenes are laid out differently.
        scenes: some of `SCENES`.
        clips: of each scene.
        frames, height, width: size of each.
    """
    for name, value in (("clips", clips), ("frames", frames), ("height", height), ("width", width)):
        if value < 1:
            raise BadInput(f"{name}={value}: expected 1 or more")

    def build(key: tuple[str, int]) -> Record:
        scene, index = key
        story = generate(scene, split, index, frames=1, height=24, width=32)  # its words do not depend on the size
        names = {str(number): name for number, name in enumerate(story.names, 1)}
        expressions = [
            Expression(
                str(number), asked.text, tuple(str(n + 1) for n in asked.objects), scene, more={"ask": asked.kind}
            )
            for number, asked in enumerate(story.expressions)
        ]
        if story.answer is not None:
            expressions.append(
                Expression(
                    str(len(expressions)), story.question, None, scene, count=story.answer, more={"ask": "count"}
                )
            )
        draw = partial(_clip, scene, split, index, frames, height, width)
        media = Made(lambda: draw().frames, tuple(f"{frame:05d}" for frame in range(frames)), (height, width))
        return Record(NAME, split, story.name, media, tuple(expressions), names, DrawnMasks(draw))

    return Records(NAME, split, None, [(scene, index) for scene in scenes for index in range(clips)], build)


@lru_cache(maxsize=2)
def _clip(scene: str, part: str, index: int, frames: int, height: int, width: int) -> VposClip:
    return generate(scene, part, index, frames=frames, height=height, width=width)
