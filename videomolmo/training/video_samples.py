"""Training samples of models that see a whole video at once: its frames on a grid, and questions with timed answers.

Source: Molmo 2's data code. Differs: where a set has masks and no points, an object is pointed at on the first frame
    that shows it, at the pixel farthest from its border; `videomolmo annotate --rows` makes rows with the choices of
    the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from videomolmo.annotation.annotate import SMALLEST
from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.datasets import Record, read_dataset
from videomolmo.datasets.record import Expression
from videomolmo.datasets.registry import DATASETS
from videomolmo.errors import BadInput
from videomolmo.points import TrackPoint
from videomolmo.protocols import TEMPLATES, as_question, label_of
from videomolmo.systems.molmo2 import GRID_FPS, grid_times
from videomolmo.systems.molmo2_formats import write_timed_points, write_tracks
from videomolmo.training.data import Sampler, Samples
from videomolmo.training.recipe import Data

LONGEST_S, MOST_POINTS = 63.0, 60  # of a clip, and of one answer; what has more is left out
NEAR_S = 0.01  # how far an annotated frame of a track may be from a frame that is shown
COPIES = ((25, 4), (5, 2), (0, 1))  # how often questions with more than so many points come: MolmoPoint's up-sampling
FLAT = 0.2  # weight of each token of points and tracks
TRACK_SETS = ("molmo2_track", "track_video_nano")  # whose points are tracks
POINT_SETS = ("molmo2_video_point", "point_video_nano", "count_video_nano")  # whose points are not


class LeftOut(BadInput):
    """A clip or a question that the published recipe leaves out."""


@dataclass(frozen=True)
class Message:
    """A question with its answer, and how it weighs: `flat` for points and tracks, else by the root of its length."""

    question: str
    answer: str
    flat: bool


@dataclass(frozen=True)
class VideoSample:
    """Frames of a video and what is asked about them.

    Attributes:
        frames, times_s: those shown, seconds from the first.
        messages: several of them are blind to each other, unless they are `turns` of one conversation.
        about: position, clip and questions: enough to find it again, ready for JSON.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    times_s: Float[np.ndarray, " frames"]
    messages: tuple[Message, ...]
    turns: bool
    about: dict[str, Any] = field(default_factory=dict)


def track_times(duration_s: float, most: int, fps: float) -> Float[np.ndarray, " times"]:
    """Times to show for tracks: so many a second, without the last frame; the end is cut where they are too many."""
    return (np.arange(max(1, math.ceil(duration_s * fps - 1e-6))) / fps)[:most]


def tasks_of(record: Record, expression: Expression) -> tuple[str, ...]:
    """What can be asked of an expression: to point, to count, to track."""
    if expression.objects is None:
        return () if expression.count is None else ("count",)
    if record.dataset in TRACK_SETS:
        return ("track",)
    return ("point", "count") if record.dataset in POINT_SETS else ("point", "count", "track")


def timed_points(
    record: Record, expression: Expression, times_s: Sequence[float]
) -> list[tuple[float, tuple[float, float]]]:
    """Time and place (pixels) of every answer: the set's own points, or the first frame that shows each object."""
    found = []
    for object_id in expression.objects:
        for frame, time in enumerate(times_s):
            points = record.points_of(object_id, frame)
            if points is None:
                mask = record.mask_of(object_id, frame)
                if mask is None or mask.sum() < SMALLEST:
                    continue
                found.append((float(time), tuple((deepest_pixel(mask) + 0.5).tolist())))
                break
            found += [(float(time), tuple(map(float, point))) for point in points]
    return found


def point_message(
    record: Record, expression: Expression, points: list[tuple[float, tuple[float, float]]], question: str, count: bool
) -> Message:
    """Points of a video in the published format; times are floored to the grid of half seconds.

    Raises:
        LeftOut: more points than the published recipe takes.
    """
    if len(points) > MOST_POINTS:
        raise LeftOut(f"{record}: {len(points)} points, and answers have at most {MOST_POINTS}")
    height, width = record.size()
    frames: dict[float, list[tuple[float, float]]] = {}
    for time, place in sorted(points):
        frames.setdefault(math.floor(time * GRID_FPS + 1e-6) / GRID_FPS, []).append(place)
    answer = write_timed_points(
        list(frames), [np.clip(np.array(places), 0, [width, height]) for places in frames.values()],
        label_in(expression), height, width, mode="point_then_count" if count else "point",
    )  # fmt: skip
    return Message(question, answer, flat=True)


def label_in(expression: Expression) -> str:
    """What an answer calls its points."""
    return expression.more.get("label") or label_of(expression.text)


def track_message(
    record: Record, expression: Expression, times_s: Sequence[float], shown: Sequence[float], fps: float, question: str
) -> Message:
    """Tracks on the annotated frames that are shown, thinned to `fps`, in the published format."""
    height, width = record.size()
    rows: list[tuple[float, list[TrackPoint]]] = []
    slack = max(
        NEAR_S, np.diff(times_s).min() / 2 if len(times_s) > 1 else 0.0
    )  # 29.97 frames a second are never on it
    for frame, time in enumerate(times_s):
        on_grid = abs(time - round(time * fps) / fps) < slack + 1e-6
        if on_grid and np.abs(np.asarray(shown) - time).min() <= NEAR_S:
            points = []
            for object_id in expression.objects:
                place = _place(record, object_id, frame)
                if place is not None:
                    x, y = np.clip(place, 0, [width, height])
                    points.append(TrackPoint(object_id, float(x), float(y)))
            rows.append((float(time), points))
    label = label_in(expression)
    answer = write_tracks([time for time, _ in rows], [points for _, points in rows], label, height, width)
    return Message(question, answer, flat=True)


def _place(record: Record, object_id: str, frame: int) -> np.ndarray | None:
    points = record.points_of(object_id, frame)
    if points is not None:
        return points[0].astype(np.float64) if len(points) else None
    mask = record.mask_of(object_id, frame)
    return None if mask is None or mask.sum() < SMALLEST else deepest_pixel(mask) + 0.5


class VideoSamples(Samples):
    """Sample after sample without end, as `Samples`, each a whole video with questions about it.

    A unit of data is a video with all its questions; one with many points comes several times an epoch (`COPIES`).

    Args:
        data, seed: see `Samples`.
    """

    def __init__(self, data: Data, seed: int) -> None:
        self.data, self.context, self.seed = data, 0, seed
        self.sets = [read_dataset(one.name, one.path, one.split, **one.options) for one in data.sets]
        self.units: list[tuple[int, tuple[int, ...]]] = []
        self._names: list[tuple[int, str, int]] = []
        for number, source in enumerate(data.sets):
            units = list(self._units_of(number))
            if not units:
                raise BadInput(f"{source.name} {source.split}: nothing to ask; train on another set")
            self.units += units * source.repeat
        self.sampler = Sampler(len(self.units), seed)

    def _units_of(self, number: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        records = self.sets[number]
        if not DATASETS[records.dataset].needs_path:  # generated: counts are up-sampled there, and clips made late
            self._names.append((number, records.dataset, len(records)))
            yield from ((number, (place,)) for place in range(len(records)))
            return
        clips: dict[str, list[int]] = {}
        copies: dict[str, int] = {}
        for place, record in enumerate(records):
            for expression in record.expressions:
                if {*tasks_of(record, expression)} & {*self.data.tasks}:
                    clips.setdefault(record.clip, [])
                    clips[record.clip] += [place] * (place not in clips[record.clip])
                    often = next(copy for least, copy in COPIES if (expression.count or 0) > least or not least)
                    copies[record.clip] = max(copies.get(record.clip, 1), often)
        for clip, places in clips.items():
            self._names.append((number, clip, len(places)))
            yield from [(number, tuple(places))] * copies[clip]

    def __reduce__(self):
        return VideoSamples, (self.data, self.seed)

    def __getitem__(self, position: int) -> VideoSample:
        """The sample at a position from 0 on; what the published recipe leaves out is replaced by what comes next."""
        return super().__getitem__(position)

    def _may_replace(self, error: Exception) -> bool:
        return isinstance(error, LeftOut) or super()._may_replace(error)

    def _draw(self, rng: np.random.Generator, records: list[Record], position: int, replaced: list[str]) -> VideoSample:
        """Frames of a video, and up to `questions` questions, each drawn as one of its tasks."""
        pairs = [
            (record, expression, tasks)
            for record in records
            for expression in record.expressions
            if (tasks := [task for task in tasks_of(record, expression) if task in self.data.tasks])
        ]
        if not pairs:
            raise LeftOut(f"{records[0]}: nothing of it can be asked as {', '.join(self.data.tasks)}")
        chosen = [pairs[at] for at in rng.permutation(len(pairs))[: self.data.questions]]
        drawn = [(record, expression, str(rng.choice(tasks))) for record, expression, tasks in chosen]
        tracking = drawn[0][2] == "track"  # frames are sampled otherwise; a sample has one kind
        drawn = [one for one in drawn if (one[2] == "track") == tracking]
        video, annotated = records[0].whole()
        known = {records[0]: annotated}
        with video:
            times = np.asarray(video.times_s)
            fps = float(drawn[0][1].more.get("sampling_fps") or GRID_FPS)
            start, stop = (0.0, float(times[-1])) if tracking else self._window(rng, drawn, times, known)
            shown = (track_times if tracking else grid_times)(stop - start, self.data.frames, fps if tracking else 2)
            numbers = sorted({int(np.abs(times - start - time).argmin()) for time in shown})
            frames = np.stack([video[number] for number in numbers])
        shown = times[numbers] - start
        messages = tuple(self._message(rng, *one, _annotated(one[0], known) - start, shown, fps) for one in drawn)
        turns = len(messages) > 1 and bool(rng.random() < self.data.conversations)
        about = {
            "position": position, "dataset": records[0].dataset, "clip": records[0].clip, "start_s": start,
            "frames": [int(number) for number in numbers],
            "messages": [[one.question, one.answer] for one in messages],
        }  # fmt: skip
        return VideoSample(frames, shown, messages, turns, about | ({"replaced": replaced} if replaced else {}))

    def _window(
        self, rng: np.random.Generator, drawn: list[tuple[Record, Expression, str]], times: np.ndarray,
        known: dict[Record, np.ndarray],
    ) -> tuple[float, float]:  # fmt: skip
        """From when to when a clip is shown: all of it, the stored clip, or one that has all points.

        Raises:
            LeftOut: there is none.
        """
        if times[-1] <= LONGEST_S:
            return 0.0, float(times[-1])
        stored = drawn[0][1].more
        if stored.get("clip_end"):
            return float(stored.get("clip_start") or 0.0), float(stored["clip_end"])
        found = [
            time for record, expression, _ in drawn if expression.objects
            for time, _ in timed_points(record, expression, _annotated(record, known))
        ]  # fmt: skip
        low = max(0.0, (max(found) if found else LONGEST_S) - LONGEST_S)
        high = min(min(found) if found else 0.0, float(times[-1]) - LONGEST_S)
        first, last = math.ceil(low * GRID_FPS), math.floor(high * GRID_FPS)
        if first > last:
            raise LeftOut(f"{drawn[0][0]}: its points are more than {LONGEST_S:g} s apart")
        start = int(rng.integers(first, last + 1)) / GRID_FPS
        return start, start + LONGEST_S

    def _message(
        self, rng: np.random.Generator, record: Record, expression: Expression, task: str, annotated: np.ndarray,
        shown: Sequence[float], fps: float,
    ) -> Message:  # fmt: skip
        """The question and the answer of a task; seconds of annotated frames count from the clip's start."""
        phrase = expression.more.get("phrase") or expression.more.get("label") or expression.text
        if expression.objects is None:
            return Message(as_question(expression.text), str(expression.count), flat=False)
        if task == "track":
            rate = "" if fps == GRID_FPS and rng.random() < 0.5 else f" at {fps:.3g} FPS"
            label = phrase.rstrip(".!?")
            question = f"Track {label}{rate}" if rate else f"Track {label}."
            return track_message(record, expression, annotated, shown, fps, question)
        points = timed_points(record, expression, annotated)
        if points and not 0 <= min(points)[0] <= max(points)[0] <= shown[-1] + 1e-6:
            raise LeftOut(f"{record}: its clip does not hold all its points")
        if task == "count":
            stored = expression.more.get("how_many") or expression.text
            question = (
                stored if expression.count is not None else f"How many {label_of(phrase)} are there in the video?"
            )
        elif as_question(phrase) != phrase and self.data.templates:
            question = TEMPLATES[rng.integers(len(TEMPLATES))].format(p=phrase.rstrip(".!?"))
        else:
            question = as_question(phrase)
        return point_message(record, expression, points, question, count=task == "count")


def _annotated(record: Record, known: dict[Record, np.ndarray]) -> np.ndarray:
    """Seconds of a record's annotated frames, found once."""
    if record not in known:
        video, known[record] = record.whole()
        video.close()
    return known[record]
