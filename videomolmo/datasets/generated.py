"""Generated clips and the worlds of vpos-nano as data sets."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from videomolmo.datasets.annotations import DrawnMasks
from videomolmo.datasets.record import Expression, GeneratedFrames, GroundedAnswer, Record, Records, Span
from videomolmo.errors import BadInput
from videomolmo.synth.caption_scenes import BAR, caption_clip, stories
from videomolmo.synth.captions import KINDS, GroundedText, exchange, referred
from videomolmo.synth.clips import Clip, clip_query, generate_clip
from videomolmo.synth.scene import sample_scene
from videomolmo.synth.worlds import CLIPS_A_SCENE, PARTS, SCENES, VposClip, generate

GENERATED = "generated"
GENERATED_SPLITS = ("train", "test")
FIRST_SEED = {"train": 0, "test": 10_000_000}  # training never draws the seeds of 'test'
_KINDS = {"motion": "motion"}


def read_generated(
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
        names = {str(number): f"{obj.colour} {obj.shape}" for number, obj in enumerate(scene.objects, 1)}
        meant = [str(number) for number, obj in enumerate(scene.objects, 1) if query and query.means(obj)]
        expressions = () if query is None else (
            Expression("0", query.phrase, tuple(meant), _KINDS.get(query.kind, "appearance")),
        )  # fmt: skip
        draw = partial(_clip, seed, frames, height, width, motion)
        media = GeneratedFrames(
            lambda: draw().frames, tuple(f"{frame:05d}" for frame in range(frames)), (height, width)
        )
        return Record(GENERATED, split, str(seed), media, expressions, names, DrawnMasks(draw))

    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + clips)
    return Records(GENERATED, split, None, seeds, build)


@lru_cache(maxsize=2)
def _clip(seed: int, frames: int, height: int, width: int, motion: bool) -> Clip:
    return generate_clip(seed, frames=frames, height=height, width=width, motion=motion)


VPOS_NANO = "vpos_nano"
VPOS_NANO_SPLITS = PARTS


def read_vpos_nano(
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
        draw = partial(_vpos_nano_clip, scene, split, index, frames, height, width)
        media = GeneratedFrames(
            lambda: draw().frames, tuple(f"{frame:05d}" for frame in range(frames)), (height, width)
        )
        return Record(VPOS_NANO, split, story.name, media, tuple(expressions), names, DrawnMasks(draw))

    return Records(VPOS_NANO, split, None, [(scene, index) for scene in scenes for index in range(clips)], build)


@lru_cache(maxsize=2)
def _vpos_nano_clip(scene: str, part: str, index: int, frames: int, height: int, width: int) -> VposClip:
    return generate(scene, part, index, frames=frames, height=height, width=width)


GCG_NANO = "gcg_nano"


def read_gcg_nano(
    root: Path | None = None,
    split: str = "test",
    clips: int = 300,
    frames: int = 12,
    height: int = 96,
    width: int = 96,
    kinds: tuple[str, ...] = KINDS,
) -> Records:
    """Records of generated clips with a caption, questions and referring sentences, and their grounded answers.

    An expression's id and `kind` say what is asked; what a clip has no answer to beyond doubt is not asked.

    Args:
        root: not needed.
        split: 'test' has seeds from 10 000 000 on, 'train' seeds from 0.
        clips: how many.
        frames, height, width: size of each.
        kinds: some of `KINDS`, the first of which is the caption.
    """
    for name, value in (("clips", clips), ("frames", frames - 1), ("height", height), ("width", width)):
        if value < 1:
            raise BadInput(f"{name}={value + (name == 'frames')}: expected {1 + (name == 'frames')} or more")
    if strange := sorted(set(kinds) - set(KINDS)):
        raise BadInput(f"kind {strange[0]!r} of questions: expected some of {', '.join(KINDS)}")

    def build(number: int) -> Record:
        draw = partial(_captioned_clip, FIRST_SEED[split] + number, frames, height, width)
        said, rng = stories(draw()), np.random.default_rng([FIRST_SEED[split], number])
        told = [one for kind in KINDS if (one := exchange(said, rng, kind)) and kind in kinds]
        expressions = tuple(
            Expression(one.kind.replace(" ", "_"), one.question, answer.objects, one.kind, answer=answer)
            for one in told
            for answer in [_answer(one.answer)]
        )
        names = {str(at): one.name for at, one in enumerate(said.objects, 1)}
        media = GeneratedFrames(
            lambda: draw().frames, tuple(f"{frame:05d}" for frame in range(frames)), (height, width)
        )
        return Record(GCG_NANO, split, str(FIRST_SEED[split] + number), media, expressions, names, DrawnMasks(draw))

    return Records(GCG_NANO, split, None, range(clips), build)


REFER_NANO = "refer_nano"
REFERRING = {"appearance": "appearance", "motion sentence": "motion"}  # kinds of `gcg_nano`, and as they are called


def read_refer_nano(
    root: Path | None = None,
    split: str = "test",
    clips: int = 300,
    frames: int = 12,
    height: int = 96,
    width: int = 96,
) -> Records:
    """The clips of `read_gcg_nano` with their referring sentences alone, as noun phrases for any model of masks.

    Those about bars are left out: the models that point were never trained on them. For arguments see there.
    """
    told = read_gcg_nano(root, split, clips, frames, height, width)

    def build(number: int) -> Record:
        record = told[number]
        expressions = tuple(
            Expression(one.id, referred(one.text), one.objects, REFERRING[one.kind])
            for one in record.expressions
            if one.kind in REFERRING and BAR not in record.objects[one.objects[0]]
        )
        return replace(record, dataset=REFER_NANO, expressions=expressions)

    return Records(REFER_NANO, split, None, range(clips), build)


@lru_cache(maxsize=2)
def _captioned_clip(seed: int, frames: int, height: int, width: int) -> Clip:
    return caption_clip(seed, frames=frames, height=height, width=width)


def _answer(said: GroundedText) -> GroundedAnswer:
    """The same words; objects are called by their place among the masks, from 1."""
    spans = (Span(span.start, span.end, tuple(str(at + 1) for at in span.objects)) for span in said.spans)
    return GroundedAnswer(said.text, tuple(spans))
