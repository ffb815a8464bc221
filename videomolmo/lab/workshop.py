"""Failures made on purpose for notebook 08, and checkers that measure whether a repair fixed them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.drawing import GROUND, annotated_frame, side_by_side
from videomolmo.io.video import Frames, open_video
from videomolmo.lab.hard_clips import click, hard_clip
from videomolmo.metrics import j_and_f_per_frame
from videomolmo.points import Answer, read_points, write_points
from videomolmo.protocols import Frame, Pointer, Question
from videomolmo.results import GroundingResult
from videomolmo.weights.hub import sample_clip, sample_truth

if TYPE_CHECKING:
    from videomolmo.inspector.widget import TrackInspector

EVERY = 15  # frames between key frames, in all three clips
TILE_PX = 230  # width of a picture in a sheet: four fill a notebook's column
FRAMES = 31
OCCLUDED_SEED, CROSSING_SEED = 129, 157
Repair = Callable[[Inspection, Corrections], Any]


@dataclass(frozen=True)
class FailureCase:
    """A clip on which something is wrong on purpose.

    Attributes:
        name: for tables.
        sentence: what is asked.
        video: the clip.
        truth: what is right; all objects that the sentence means.
        texts: key frame to what is put in the place of the model's answer.
        identities: whether every object is scored by itself; else all of them count as one area.
        goal: the mean J&F that a repair has to reach.
        hint: what the checker says to those who are not there yet.
        solution: a repair that reaches it.
    """

    name: str
    sentence: str
    video: Frames
    truth: Bool[np.ndarray, "frames objects height width"]
    texts: dict[int, str]
    identities: bool
    goal: float
    hint: str
    solution: Repair

    def ground(self, grounder: VideoGrounder) -> GroundingResult:
        """The result of the whole pipeline, with `texts` in place of what the model wrote; the rest is as always."""
        pointer = PlantedPointer(grounder.pointer, self.texts)
        planted = VideoGrounder(pointer, grounder.tracker, weights=grounder.weights, loaded=grounder.loaded)
        result = planted(self.video, self.sentence, every=EVERY)
        result.config["planted"] = self.planted
        return result

    @property
    def planted(self) -> dict[str, str]:
        """`texts` as results record them."""
        return {str(frame): text for frame, text in self.texts.items()}

    def score(self, look: Inspection) -> Float[np.ndarray, " frames"]:
        """J&F per frame: of each object against its own partner, or of all objects as one area."""
        return look.scores().per_frame if self.identities else self.score_together(look)

    def score_together(self, look: Inspection) -> Float[np.ndarray, " frames"]:
        """J&F per frame of the area of all objects, as expressions are scored: who is who does not count."""
        found = np.stack([look.mask("fused", at).any(axis=0) for at in range(look.frames)])
        return np.mean(j_and_f_per_frame(self.truth.any(axis=1), found), axis=0)

    def picture(
        self, look: Inspection, frames: Sequence[int] = (0, 8, 15, 17, 22, 30), columns: int = 4
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Predictions on some frames, with ids and the points of key frames; below each the ground truth."""
        size = round(TILE_PX * self.video.height / self.video.width), TILE_PX
        predicted, truth = [], []
        for at in frames:
            frame, points = look.frame(at), [(point.x, point.y) for point in look.points(at)]
            predicted.append(annotated_frame(frame, look.mask("fused", at), points, size))
            truth.append(annotated_frame(frame, self.truth[at], (), size))
        tiles, titles = [], []
        for start in range(0, len(frames), columns):  # a row of predictions, then their ground truth
            part, blank = slice(start, start + columns), [np.full_like(truth[0], GROUND)]
            gap = columns - len(frames[part]) if len(frames) > columns else 0
            for name, row in (("prediction", predicted), ("ground truth", truth)):
                tiles += row[part] + gap * blank
                titles += [f"frame {at}: {name}" for at in frames[part]] + gap * [""]
        return side_by_side(tiles, size[0], titles, columns=min(columns, len(frames)))


class PlantedPointer:
    """A pointer whose answers on some key frames are tampered with before the tracker sees them.

    Args:
        pointer: who is asked.
        texts: key frame to what is read in place of the answer there.
    """

    def __init__(self, pointer: Pointer, texts: dict[int, str]) -> None:
        self.pointer, self.texts, self.describe = pointer, texts, pointer.describe

    def answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer]]:
        """See `Pointer.answers`."""
        size = question.video.height, question.video.width
        for at, answer in self.pointer.answers(frames, question):
            yield at, read_points(self.texts[at], *size) if at in self.texts else answer


def wrong_point() -> FailureCase:
    """The sample clip; on the middle key frame the answer points at the other red object, the star."""
    video = open_video(sample_clip(), max_frames=FRAMES)
    known = open_truth(sample_truth(), FRAMES, (video.height, video.width))
    truth = np.stack([known.masks(at) for at in range(FRAMES)])
    texts = {EVERY: '<point x="67.4" y="51.8" alt="red circle">red circle</point>'}
    hint = f"read what was written on frame {EVERY}, and put a finger where that is: x is across, y is down"
    return FailureCase("wrong point", "the red circle", video, truth, texts, False, 0.94, hint, solve_wrong_point)


def wrong_point_on(video: str, sentence: str, grounder: VideoGrounder) -> FailureCase:
    """As `wrong_point` on a video of one's own, where what the model finds by itself is taken for the ground truth.

    Args:
        video: a file or a folder of images; its first 31 frames are used.
        sentence: what is looked for.
        grounder: who is asked.

    Raises:
        BadInput: a video that is shorter or cannot be read, or one without exactly one point on each of its key frames.
    """
    frames = open_video(video, max_frames=FRAMES)
    result = grounder(frames, sentence, every=EVERY)
    counts = {answer.frame: answer.inside.count(True) for answer in result.answers}
    if result.frames < FRAMES or set(counts.values()) != {1}:
        told = ", ".join(f"{count} on frame {at}" for at, count in counts.items())
        raise BadInput(
            f"{video}: {result.frames} frames; points of “{sentence}”: {told}; needed are {FRAMES} frames and one "
            f"point on each of these; give another sentence or video"
        )
    truth = np.stack([result.masks[at] for at in range(FRAMES)])
    away = (deepest_pixel(~truth[EVERY].any(axis=0)) + 0.5)[None]
    (place,) = next(answer.points_px for answer in result.answers if answer.frame == EVERY)

    def point_again(look: Inspection, corrections: Corrections) -> None:
        wrong = look.points(EVERY)[0]
        corrections.remove_point(EVERY, wrong.object, wrong.index)
        corrections.add_point(EVERY, *place, look.points(0)[0].object)

    texts = {EVERY: write_points(away, sentence, *truth.shape[2:])}
    hint = f"read what was written on frame {EVERY}, and put a finger where that is: x is across, y is down"
    return FailureCase("wrong point", sentence, frames, truth, texts, False, 0.9, hint, point_again)


def occluded() -> FailureCase:
    """A blue square passes behind a bar; on the middle key frame, where it cannot be seen, a point is written."""
    clip = hard_clip(OCCLUDED_SEED)
    place = clip.masks[:, 0]
    seen = np.flatnonzero(place.any(axis=(1, 2)))
    sides = [seen[seen < EVERY].max(), seen[seen > EVERY].min()]
    guess = np.mean([deepest_pixel(place[at]) + 0.5 for at in sides], axis=0)[None]
    texts = {at: _text(place[at], "the blue square") for at in range(0, FRAMES, EVERY)}
    texts[EVERY] = write_points(guess, "the blue square", *place.shape[1:])
    hint = f"where is the square on frame {EVERY}? What should a model write there?"
    video = open_video(clip.frames, fps=10)
    return FailureCase(
        "occluded object", "the blue square", video, place[:, None], texts, False, 0.7, hint, solve_occluded
    )


def identity_switch() -> FailureCase:
    """Two purple triangles cross; every point is right, and yet each track changes from one to the other."""
    clip = hard_clip(CROSSING_SEED)
    pairs = {at: [click(clip, at, obj, "clean")[0] for obj in (0, 1)] for at in range(0, FRAMES, EVERY)}
    size = clip.masks.shape[2:]
    texts = {at: write_points(np.stack(points), "purple triangle", *size) for at, points in pairs.items()}
    hint = f"follow one colour with a finger from frame {EVERY} to {2 * EVERY}: which triangle has number 1 at the end?"
    video = open_video(clip.frames, fps=10)
    truth = clip.masks[:, np.argsort([x for x, _ in pairs[0]])]  # numbered as an answer lists them, from left to right
    return FailureCase(
        "identity switch", "all the purple triangles", video, truth, texts, True, 0.65, hint, solve_identity_switch
    )


def _text(mask: np.ndarray, label: str) -> str:
    return write_points((deepest_pixel(mask) + 0.5)[None], label, *mask.shape)


def repaired(failure: FailureCase, inspector: "TrackInspector", repair: Repair | None) -> Inspection:
    """The failure's result, looked at afresh, after a repair; by mouse in the inspector where the repair does nothing.

    Args:
        failure: what went wrong.
        inspector: of its result, with a grounder.
        repair: called with an inspection that nobody has touched, and its corrections; None shows the failure as found.

    Raises:
        BadInput: the inspector shows another result, of a sentence that was asked since.
        Whatever the repair does.
    """
    if inspector.inspection.result.config.get("planted") != failure.planted:
        raise BadInput(
            f"the inspector shows what was found for “{inspector.inspection.sentence}”, asked since; below its field "
            f"for a sentence choose “{failure.sentence}” again, the first in the list"
        )
    look = _as_found(failure, inspector)
    if repair is None:
        return look
    repair(look, Corrections(look, inspector.corrections.tracker, inspector.corrections.load))
    manual = look if look.history.records else inspector.inspection
    fixed = _as_found(failure, inspector)  # by the run's rule: another one repairs nothing
    fixed.history, fixed.propagations = manual.history, manual.propagations
    fixed.show_corrections()
    return fixed


def _as_found(failure: FailureCase, inspector: "TrackInspector") -> Inspection:
    """The result as the run left it, in memory: what is tried on it goes into no file."""
    return Inspection(replace(inspector.inspection.result, folder=None), failure.truth)


def attempted(failure: FailureCase, inspector: "TrackInspector", repair: Repair | None) -> Inspection:
    """As `repaired`; where the learner's code breaks, the failure as found.

    Seen in: notebooks/08_workshop.ipynb
    """
    try:
        return repaired(failure, inspector, repair)
    except Exception:  # a learner's code may do anything
        return repaired(failure, inspector, None)


def check_repair(failure: FailureCase, inspector: "TrackInspector", repair: Repair) -> str:
    """Whether a repair, by code or else by mouse, brings J&F to the goal. For the arguments see `repaired`.

    Seen in: notebooks/08_workshop.ipynb
    """
    try:
        before = float(failure.score(repaired(failure, inspector, None)).mean())
    except BadInput as error:
        return f"not yet: {error}"
    try:
        look = repaired(failure, inspector, repair)
    except Exception as error:  # a learner's code may do anything
        return f"not yet: your repair raises {type(error).__name__}: {error}"
    after = float(failure.score(look).mean())
    if after >= failure.goal:
        return f"right: J&F was {before:.2f} and is {after:.2f}"
    change = "as before" if np.isclose(after, before) else f"it was {before:.2f}"
    return f"not yet: J&F is {after:.2f} ({change}), {failure.goal:.2f} is wanted; {failure.hint}"


def solve_wrong_point(look: Inspection, corrections: Corrections) -> None:
    """Point at the circle, halfway between where it was before and after, and remove the wrong point."""
    before, wrong, after = (look.points(at)[0] for at in look.key_frames)
    corrections.remove_point(wrong_at := look.key_frames[1], wrong.object, wrong.index)
    corrections.add_point(wrong_at, (before.x + after.x) / 2, (before.y + after.y) / 2, before.object)


def solve_occluded(look: Inspection, corrections: Corrections) -> None:
    """Nothing can be seen on this key frame, so nothing may be said of it."""
    wrong = look.points(EVERY)[0]
    corrections.remove_point(EVERY, wrong.object, wrong.index)


def solve_identity_switch(look: Inspection, corrections: Corrections) -> None:
    """Exchange the two objects' points on the last key frame."""
    last = max(look.key_frames)
    places = {point.object: (point.x, point.y) for point in look.points(last)}
    for obj, other in ((1, 2), (2, 1)):
        corrections.add_point(last, *places[other], obj)
        corrections.remove_point(last, obj, 0)


FAILURES: dict[str, Callable[[], FailureCase]] = {
    "wrong point": wrong_point,
    "occluded object": occluded,
    "identity switch": identity_switch,
}


def failure_cases(grounder: VideoGrounder, video: str = "", sentence: str = "") -> dict[str, FailureCase]:
    """All failures by name; the wrong point on a video of one's own where one is given (see `wrong_point_on`).

    Seen in: notebooks/08_workshop.ipynb
    """
    cases = {name: make() for name, make in FAILURES.items() if not (video and name == "wrong point")}
    return {"wrong point": wrong_point_on(video, sentence, grounder), **cases} if video else cases
