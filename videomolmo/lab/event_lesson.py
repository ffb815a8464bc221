"""What notebook 09 asks about whole videos: its clip, true answers as text, what they say and what they score.

Seen in: notebooks/09_point_track_count.ipynb
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from videomolmo.grounding import VideoGrounder, load_tracker
from videomolmo.io.drawing import draw_points, side_by_side
from videomolmo.io.video import open_video
from videomolmo.lab.nano.molmo2_examples import answer_of
from videomolmo.lab.nano.molmo2_recipe import nano_model, nano_processor
from videomolmo.metrics.counting import stated_count
from videomolmo.metrics.point_scores import VideoPointScore, video_point_scores
from videomolmo.points import NO_POINTS, Answer, read_points
from videomolmo.synth.event_questions import Asked, events_asked, things_asked
from videomolmo.synth.event_scenes import ANOMALIES, GRID_FPS, EventClip
from videomolmo.synth.event_stage import Stage, event_clip
from videomolmo.systems import load_grounder
from videomolmo.systems.molmo2 import MOST_FRAMES, Molmo2Pointer, whole_grid
from videomolmo.systems.molmo2_formats import write_timed_points
from videomolmo.systems.whole_video import point_in_video

if TYPE_CHECKING:
    from videomolmo.protocols import Frame, Question, Tracker
    from videomolmo.results import GroundingResult

Task = Literal["track", "point", "count"]
SECONDS, SIDE_PX, HITS = 6.0, 96, 4
PLANTED = "planted"  # what stands for a model where none is at hand
HELD_OUT = 10_000_000  # no training draws seeds from here on


def lesson_clip(seed: int = HELD_OUT + 21, fps: int = 6) -> EventClip:
    """A circle that goes to and fro between two squares, one that leaves and one that comes later.

    Args:
        seed: draws colours and places; not every seed leaves room for all.
        fps: frames a second, a multiple of 2.

    Raises:
        ValueError: no room.
    """
    stage = Stage(np.random.default_rng([seed, 43]), 1.0, SECONDS)
    size = stage.size_of(6)
    if stage.bouncer(size, HITS) and all(stage.place("circle", None, size, does) for does in ("leaves", "appears")):
        return stage.rendered(seed, fps, SIDE_PX, SIDE_PX)
    raise ValueError(f"seed {seed} leaves no room for three circles; try the next one")


def lesson_questions(clip: EventClip) -> dict[Task, Asked]:
    """What is asked about the lesson's clip: to follow its circles, to point at their hits, to count them."""
    circles = [at for at, thing in enumerate(clip.things) if thing.kind == "circle"]
    things = things_asked(clip, "object", "all the circles", "circles", circles)
    return {"track": things, "point": question_about(clip, "collides", "a circle"), "count": things}


def question_about(clip: EventClip, verb: str, subject: str = "something") -> Asked:
    """Every time that things do something, or what cannot be happens to them: a word of `VERBS` or `ANOMALIES`.

    Args:
        clip: it is asked about.
        verb: such as "leaves".
        subject: "something", or things of a kind: "a circle".
    """
    kind = subject.split(" ", 1)[-1]
    found = [event for event in clip.events if event.verb == verb]
    if subject != "something":
        found = [event for event in found if clip.things[event.things[0]].kind == kind]
    return events_asked(clip, "anomaly" if verb in ANOMALIES else "action or event", verb, subject, found)


def ask(grounder: VideoGrounder, clip: EventClip, asked: Asked, task: Task) -> GroundingResult:
    """What a model answers about a clip; tracks are also masks on every frame."""
    if isinstance(grounder.pointer, PlantedPointer):
        grounder.pointer.told = planted(clip, asked, task)
    fps = fps_of(clip)
    video = open_video(clip.frames, fps=fps)
    if task == "track":
        return grounder(video, asked.phrase, every=max(1, round(fps / GRID_FPS)))
    counts = task == "count"
    return point_in_video(grounder, video, asked.how_many if counts else asked.phrase, count=counts)


class PlantedPointer(Molmo2Pointer):
    """Molmo 2's pointer with an untaught model, which is told what to write: for lessons without weights."""

    def __init__(self) -> None:
        processor = nano_processor()
        super().__init__(nano_model(processor.tokenizer, seed=1), processor)
        self.told = NO_POINTS

    def _write(self, frames: Any, times: Any, request: str) -> tuple[str, int]:
        return self.told, 0


def load_model(name: str) -> VideoGrounder:
    """A model that sees whole videos; "planted" for true answers, each with one mistake (see `planted`)."""
    if name != PLANTED:
        return load_grounder(name)
    tracker, weights = load_tracker("nano", "cpu")
    return VideoGrounder(PlantedPointer(), tracker, weights=weights, loaded={"model": PLANTED, "masks": "nano"})


def planted(clip: EventClip, asked: Asked, task: Task) -> str:
    """The true answer with a mistake: of points one is left out, a count states one too many, a track is cut short."""
    right = answer_of(clip, asked, task)
    if task == "point":
        return mistakes(clip, asked)["one left out"] if len(asked.targets) > 1 else right
    if task == "count":
        return right.replace(f"total of {len(asked.targets)}", f"total of {len(asked.targets) + 1}")
    moments = right.split(";")
    end = right[right.index('">') :] if len(moments) > 3 else ""
    return ";".join(moments[:-3]) + end if end else right


def text_of(result: GroundingResult) -> str:
    """What was written about a whole video, for whatever task."""
    whole = result.config.get("whole_video")
    return result.answers[0].text if whole is None else whole["text"]


def fps_of(clip: EventClip) -> float:
    """Frames a second."""
    return round(1 / float(clip.times_s[1] - clip.times_s[0]), 3)


class Written:
    """A pointer that answers every question about a whole video with one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def describe(self, context: int | None) -> dict[str, Any]:
        """That it is no model."""
        return {"pointing": "written"}

    def answer_once(self, frames: Iterator[Frame], question: Question) -> tuple[list[int], Answer]:
        """See `Molmo2Pointer.answer_once`; the same frames are shown, and not looked at."""
        keys = whole_grid(np.asarray(question.video.times_s, np.float64), MOST_FRAMES)
        return keys, read_points(self.text, question.video.height, question.video.width)


def as_answered(text: str, clip: EventClip, question: str, tracker: Tracker) -> GroundingResult:
    """A text as the answer about a clip, for the inspector.

    Args:
        text: in Molmo 2's words.
        clip, question: what it is about.
        tracker: any; it is not used.
    """
    video = open_video(clip.frames, fps=fps_of(clip))
    return point_in_video(VideoGrounder(Written(text), tracker), video, question)


def read_off(text: str, clip: EventClip) -> dict[str, str]:
    """What an answer's text says by itself: how many, when, how many points of each number, how long it is."""
    answer = read_points(text, *clip.frames.shape[1:3])
    times = [] if answer.times is None else answer.times.tolist()
    ids = [] if answer.ids is None else answer.ids.tolist()
    stated = stated_count(text)
    is_track = "<tracks" in text
    return {
        "how many": str(len({*ids}) if stated is None else stated) if answer.outcome != "malformed" else "",
        "times": f"{min(times):g} to {max(times):g} s" if is_track and times else ", ".join(f"{t:g} s" for t in times),
        "points of each number": " + ".join(str(ids.count(one)) for one in sorted({*ids})),
        "characters": str(len(text)),
    }


def score(clip: EventClip, asked: Asked, text: str) -> VideoPointScore:
    """Precision, recall and F1 of an answer in space and time, as Molmo 2's pointing in videos is scored."""
    height, width = clip.frames.shape[1:3]
    answer = read_points(text, height, width)
    told = np.zeros((0, 3)) if answer.times is None else np.column_stack([answer.times, answer.points_px])
    truth, tubes = [], []
    for number, target in enumerate(asked.targets):
        truth.append((round(float(clip.times_s[target.frame]), 1), *asked.point(clip, number)))
        tubes.append({round(float(clip.times_s[at]), 1): asked.mask(clip, number, at) for at in target.frames})
    return video_point_scores(np.array(truth).reshape(-1, 3), told, tubes, SECONDS, height, width)


def mistakes(clip: EventClip, asked: Asked) -> dict[str, str]:
    """Answers that are wrong in one way each, by what is wrong with them."""
    height, width = clip.frames.shape[1:3]
    right = answer_of(clip, asked, "point")
    answer = read_points(right, height, width)
    rows = list(zip(answer.times.tolist(), answer.points_px.tolist(), strict=True))

    def written(changed: list[tuple[float, list[float]]]) -> str:
        times, places = [time for time, _ in changed], [np.array([place]) for _, place in changed]
        return write_timed_points(times, places, asked.label, height, width)

    far = [[(x + width / 2) % width, y] for _, (x, y) in rows]
    return {
        "exact": right,
        "half a second late": written([(time + 0.5, place) for time, place in rows]),
        "a second late": written([(time + 1, place) for time, place in rows]),
        "elsewhere": written([(time, place) for (time, _), place in zip(rows, far, strict=True)]),
        "one left out": written(rows[1:]),
        "each twice": written(sorted([*rows, *((time, list(place)) for time, place in rows)])),
        "none": NO_POINTS,
    }


def anomaly_clip(verb: str, first_seed: int = HELD_OUT) -> EventClip:
    """The first held-out clip with exactly one anomaly, of a kind in `ANOMALIES`, that one or two others surround."""
    for seed in range(first_seed, first_seed + 2000):
        clip = event_clip(seed, "anomaly", wanted=1)
        if [event.verb for event in clip.anomalies] == [verb]:
            return clip
    raise AssertionError(f"no clip with {verb!r} of {ANOMALIES}")


def around(clip: EventClip, time_s: float, *, before: int = 2, after: int = 3, height_px: int = 120) -> np.ndarray:
    """Frames of the grid around a time, side by side, with their times as titles."""
    middle = clip.grid.index(int(np.abs(clip.times_s - time_s).argmin()))
    chosen = clip.grid[max(0, middle - before) : middle + after + 1]
    return side_by_side([clip.frames[at] for at in chosen], height_px, [f"{clip.times_s[at]:.1f} s" for at in chosen])


def ringed(frame: np.ndarray, points_px: Sequence[Sequence[float]], times: int = 1) -> np.ndarray:
    """A frame so many times larger, with rings around points in its own pixels; on a larger frame rings hide less."""
    picture = frame.repeat(times, axis=0).repeat(times, axis=1)
    draw_points(picture, [(times * x, times * y) for x, y in points_px])
    return picture


def pointed(clip: EventClip, text: str, *, height_px: int = 110, columns: int = 7) -> np.ndarray:
    """All frames of the grid, with the points that an answer has at their times."""
    answer, pictures = read_points(text, *clip.frames.shape[1:3]), []
    for at in clip.grid:
        points = np.zeros((0, 2))
        if answer.times is not None:
            points = answer.points_px[np.abs(answer.times - clip.times_s[at]) < 0.5 / GRID_FPS]
        pictures.append(ringed(clip.frames[at], points.tolist()))
    return side_by_side(pictures, height_px, [f"{clip.times_s[at]:.1f} s" for at in clip.grid], columns=columns)
