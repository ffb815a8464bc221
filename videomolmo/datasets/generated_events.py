"""Generated clips in which something happens, as data sets: to point at moments and things, to count, and to follow."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from videomolmo.datasets.annotations import Annotations, empty_mask
from videomolmo.datasets.record import Expression, GeneratedFrames, Record, Records
from videomolmo.errors import BadInput
from videomolmo.synth.event_questions import CATEGORIES, Asked, ask_about
from videomolmo.synth.event_scenes import GRID_FPS, EventClip

POINT, COUNT, TRACK = "point_video_nano", "count_video_nano", "track_video_nano"
SPLITS = ("train", "test")
FIRST_SEED = {"train": 0, "test": 10_000_000}  # training never draws the seeds of 'test'
COUNTED = ("object", "animal", "action or event", "referring expression", "spatial reference", "anomaly")
TRACKED = ("object", "animal", "referring expression", "indirect reference", "comparative reference")
MOST_TRACKED = 4  # things followed at a time
TRACK_SEEDS = 10**12  # clips to track in have seeds of their own


class EventTruth(Annotations):
    """Masks and points of the answers to one question or several, drawn when first asked for.

    An answer's mask is where pointing at it on a frame is right; its point lies on the frame to point at, or, of
    things that are followed, on every frame that shows them well.
    """

    def __init__(self, drawn: Callable[[], tuple[EventClip, list[Asked]]], every_frame: bool):
        self._drawn, self._every_frame = drawn, every_frame

    def mask(self, object_id, frame, size):
        clip, asked = self._drawn()
        question, number = places_of(object_id)
        if self._every_frame:
            return clip.masks[frame, asked[question].targets[number].things[0]].copy()
        return asked[question].mask(clip, number, frame)

    def masks(self, object_ids, frame, size):
        found = [self.mask(object_id, frame, size) for object_id in object_ids]
        return np.stack(found) if found else empty_mask(size(), "generated")[None][:0]

    def points(self, object_id, frame):
        clip, asked = self._drawn()
        question, number = places_of(object_id)
        if not self._every_frame and frame != asked[question].targets[number].frame:
            return []
        point = asked[question].point(clip, number, frame)
        return [] if point is None else [point]


def places_of(object_id: str) -> tuple[int, int]:
    """Number of the question and of its answer, from 0, that an id "2.1" stands for."""
    question, number = object_id.split(".")
    return int(question) - 1, int(number) - 1


def _read(name: str, categories: tuple[str, ...], seconds: float, fps: int) -> Callable[..., Records]:
    """A reader of clips of these categories in turn."""

    def read(
        root: Path | None = None,
        split: str = "test",
        clips: int = 200,
        seconds: float = seconds,
        fps: int = fps,
        height: int = 96,
        width: int = 96,
        questions: int = 1,
        only: tuple[str, ...] = (),
    ) -> Records:
        """Records of generated clips, all categories in turn; an expression's `kind` is its category.

        Args:
            root: not needed.
            split: 'test' has seeds from 10 000 000 on, 'train' seeds from 0.
            clips: of each category.
            seconds, fps, height, width: of each; the last frame is shown after `seconds`.
            questions: most about one clip, the first of the clip's category.
            only: some of the set's categories; none for all.
        """
        if strange := {*only} - {*categories}:
            raise BadInput(f"only names {min(strange)!r}, expected some of {', '.join(categories)}")
        chosen = tuple(only) or categories
        for option, value in (("clips", clips), ("height", height), ("width", width), ("questions", questions)):
            if value < 1:
                raise BadInput(f"{option}={value}: expected 1 or more")
        sizes = {"duration_s": seconds, "fps": fps, "height": height, "width": width}
        keys = range(FIRST_SEED[split], FIRST_SEED[split] + clips * len(chosen))
        build = partial(_record, name, split, chosen, questions, tuple(sizes.items()))
        return Records(name, split, None, keys, build)

    return read


def _record(
    name: str, split: str, categories: tuple[str, ...], questions: int, sizes: tuple[tuple[str, float], ...], seed: int
) -> Record:
    place = dict(sizes)
    category = categories[(seed - FIRST_SEED[split]) % len(categories)]
    draw = partial(_asked, name, seed, category, questions, sizes)
    _, asked = draw()
    objects = {f"{n}.{m}": one.label for n, one in enumerate(asked, 1) for m in range(1, len(one.targets) + 1)}
    expressions = tuple(_expression(name, number, one) for number, one in enumerate(asked))
    count = round(place["duration_s"] * place["fps"]) + 1
    media = GeneratedFrames(
        lambda: draw()[0].frames, tuple(f"{frame:05d}" for frame in range(count)), (place["height"], place["width"])
    )
    more = {"duration_s": place["duration_s"]}
    truth = EventTruth(draw, every_frame=name == TRACK)
    return Record(name, split, str(seed), media, expressions, objects, truth, float(place["fps"]), more)


def _expression(name: str, number: int, asked: Asked) -> Expression:
    """What is asked: for points and tracks the phrase, for counts the question and the number."""
    answers = tuple(f"{number + 1}.{answer}" for answer in range(1, len(asked.targets) + 1))
    more = {"label": asked.label, "event": asked.is_event, "how_many": asked.how_many, "phrase": asked.phrase}
    text = asked.how_many if name == COUNT else asked.phrase
    count = None if name == TRACK else len(asked.targets)
    return Expression(str(number), text, answers, asked.category, count=count, more=more)


@lru_cache(maxsize=4)
def _asked(
    name: str, seed: int, category: str, questions: int, sizes: tuple[tuple[str, float], ...]
) -> tuple[EventClip, list[Asked]]:
    """The clip of a seed with its questions; to be tracked are one to four things."""
    if name != TRACK:
        return ask_about(seed, category, most=questions, **dict(sizes))
    for turn in range(200):
        clip, asked = ask_about(TRACK_SEEDS + 200 * seed + turn, category, most=1, **dict(sizes))
        if not asked[0].is_event and 1 <= len(asked[0].targets) <= MOST_TRACKED:
            return clip, asked
    raise AssertionError(f"nothing to track for seed {seed}")


read_point_video_nano = _read(POINT, CATEGORIES, 6.0, GRID_FPS)
read_count_video_nano = _read(COUNT, COUNTED, 6.0, GRID_FPS)
read_track_video_nano = _read(TRACK, TRACKED, 12.0, 6)
