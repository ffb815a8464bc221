"""A question about a whole video, answered once: what is pointed at, when and where, and how many there are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, rounded
from videomolmo.io import provenance
from videomolmo.io.known_words import warn
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.metrics.counting import stated_count
from videomolmo.points import Answer
from videomolmo.protocols import Question, as_question, label_of
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.systems.molmo2 import by_time


@dataclass(frozen=True)
class Place:
    """One thing that was pointed at: its number from 1, when (seconds), on which frame, and where (pixels)."""

    number: int
    time_s: float
    frame: int
    x_px: float
    y_px: float


def point_in_video(
    grounder: VideoGrounder, video: str | os.PathLike | np.ndarray | Frames, sentence: str, *, count: bool = False
) -> GroundingResult:
    """Points in a whole video, as a result without masks; `places_in` lists them and `number_in` counts them.

    Its key frames are the frames that were shown, and each has the points of its time.

    Args:
        grounder: with a pointer that has `answer_once`, such as Molmo 2's.
        video: as for a grounder.
        sentence: what to point at, or a question.
        count: ask how many there are; else to point.

    Raises:
        BadInput: a model that sees one frame at a time, an empty sentence, or a video that cannot be read.
    """
    once = getattr(grounder.pointer, "answer_once", None)
    if once is None:
        raise BadInput(
            f"model {grounder.loaded.get('model', '')!r} answers about one frame at a time, expected one that sees "
            "whole videos, such as Molmo 2; use `ground`"
        )
    text = counting_question(sentence) if count else as_question(sentence)
    frames, clock = video if isinstance(video, Frames) else open_video(video), Stopwatch()
    unknown = warn(grounder, sentence)
    question = Question(text, frames, every=1, clock=clock, sentence=sentence)
    with clock.measure("text"):
        keys, answer = once(clock.each("io", frames.iterate()), question)
    times = np.asarray(frames.times_s, np.float64)
    parts = by_time(answer, times[keys] - times[0])
    answers = [_key_answer(key, one, frames) for key, one in zip(keys, parts, strict=True)]
    stated = stated_count(answer.text)
    config: dict[str, Any] = {
        "model": {"task": "count" if count else "point", "question": text, **grounder.describe(None)} | unknown.config,
        "whole_video": {"text": answer.text, "outcome": answer.outcome, "problem": answer.problem, "stated": stated},
        "loaded": grounder.loaded, "seed": None, "weights_sha256": grounder.weights,
        "versions": provenance.versions(), "commit": provenance.commit(), "seconds": clock.rounded(),
    }  # fmt: skip
    return GroundingResult(
        sentence=sentence, answers=answers, objects=0, height=frames.height, width=frames.width, times_s=times,
        fps=frames.fps, spool=MaskStore(), config=config, source=frames.source, _video=frames,
        source_frames=frames.source_frames, source_times_s=frames.source_times_s,
        warning="; ".join(filter(None, (unknown.warning, frames.warning))) or None,
    )  # fmt: skip


def counting_question(sentence: str) -> str:
    """How many there are of what a phrase names; questions and requests stay as they are.

    Example:
        >>> counting_question("the red circles"), counting_question("How often does it turn?")
        ('How many red circles are there in the video?', 'How often does it turn?')
    """
    question = as_question(sentence)
    if question == " ".join(sentence.split()):
        return question
    return f"How many {label_of(sentence)} are there in the video?"


def places_in(result: GroundingResult) -> list[Place]:
    """What was pointed at, in order of time."""
    found = [(answer, point) for answer in result.answers for point in answer.points_px]
    return [Place(number, answer.time_s, answer.frame, *point) for number, (answer, point) in enumerate(found, start=1)]


def number_in(result: GroundingResult) -> int | None:
    """How many there are: as the answer says it, else by its points; None where it cannot be read."""
    told = result.config["whole_video"]
    if told["stated"] is not None:
        return told["stated"]
    return {"found": len(places_in(result)), "absent": 0}.get(told["outcome"])


def told(result: GroundingResult) -> str:
    """Number, times and places as lines of text."""
    number, places = number_in(result), places_in(result)
    if number is None:
        return f"“{result.sentence}”: the answer could not be read ({result.config['whole_video']['problem']})"
    lines = [f"“{result.sentence}”: {number}"]
    if len(places) != number:
        lines[0] += f" by its words, {len(places)} by its points"
    if places:
        lines.append(f"{'':>4} {'time':>8} {'frame':>6} {'x':>8} {'y':>8}")
    lines += [
        f"{one.number:>4} {one.time_s:>6.1f} s {one.frame:>6} {one.x_px:>8.1f} {one.y_px:>8.1f}" for one in places
    ]
    return "\n".join(lines + ([f"warning: {result.warning}"] if result.warning else []))


def _key_answer(at: int, answer: Answer, video: Frames) -> KeyAnswer:
    inside, when = [bool(flag) for flag in answer.inside], round(float(video.times_s[at]), 4)
    points = rounded(answer.points_px, inside, video.width, video.height)
    return KeyAnswer(at, when, answer.text, answer.outcome, points, inside, answer.problem)
