"""What goes wrong on purpose in notebook 08, and checkers that measure whether a repair mended it."""

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
from videomolmo.io.drawing import draw_masks, draw_points, side_by_side
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
FRAMES = 31
OCCLUDED_SEED, CROSSING_SEED = 129, 157
Repair = Callable[[Inspection, Corrections], Any]


@dataclass(frozen=True)
class Fault:
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
    """

    name: str
    sentence: str
    video: Frames
    truth: Bool[np.ndarray, "frames objects height width"]
    texts: dict[int, str]
    identities: bool
    goal: float
    hint: str

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
        self, look: Inspection, frames: Sequence[int] = (0, 8, 15, 17, 22, 30)
    ) -> UInt8[np.ndarray, "height width 3"]:
        """What was found on some frames, numbered, with the points of key frames; below it what is right."""
        found = [draw_masks(look.frame(at), look.mask("fused", at)) for at in frames]
        for at, tile in zip(frames, found, strict=True):
            draw_points(tile, [(point.x, point.y) for point in look.points(at)])
        right = [draw_masks(look.frame(at), self.truth[at]) for at in frames]
        titles = [f"frame {at}: found" for at in frames] + [f"frame {at}: right" for at in frames]
        return side_by_side(found + right, 190, titles, columns=len(frames))


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


def wrong_point() -> Fault:
    """The sample clip; on the middle key frame the answer points at the other red object, the star."""
    video = open_video(sample_clip(), max_frames=FRAMES)
    known = open_truth(sample_truth(), FRAMES, (video.height, video.width))
    truth = np.stack([known.masks(at) for at in range(FRAMES)])
    texts = {EVERY: '<point x="67.4" y="51.8" alt="red circle">red circle</point>'}
    hint = f"read what was written on frame {EVERY}, and put a finger where that is: x is across, y is down"
    return Fault("wrong point", "the red circle", video, truth, texts, False, 0.94, hint)


def occluded() -> Fault:
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
    return Fault("occluded object", "the blue square", video, place[:, None], texts, False, 0.7, hint)


def identity_switch() -> Fault:
    """Two purple triangles cross; every point is right, and yet each track changes from one to the other."""
    clip = hard_clip(CROSSING_SEED)
    pairs = {at: [click(clip, at, obj, "clean")[0] for obj in (0, 1)] for at in range(0, FRAMES, EVERY)}
    size = clip.masks.shape[2:]
    texts = {at: write_points(np.stack(points), "purple triangle", *size) for at, points in pairs.items()}
    hint = f"follow one colour with a finger from frame {EVERY} to {2 * EVERY}: which triangle has number 1 at the end?"
    video = open_video(clip.frames, fps=10)
    truth = clip.masks[:, np.argsort([x for x, _ in pairs[0]])]  # numbered as an answer lists them, from left to right
    return Fault("identity switch", "all the purple triangles", video, truth, texts, True, 0.65, hint)


def _text(mask: np.ndarray, label: str) -> str:
    return write_points((deepest_pixel(mask) + 0.5)[None], label, *mask.shape)


def repaired(fault: Fault, inspector: "TrackInspector", repair: Repair | None) -> Inspection:
    """The fault's result, looked at afresh, after a repair; by mouse in the inspector where the repair does nothing.

    Args:
        fault: what went wrong.
        inspector: of its result, with a grounder.
        repair: called with an inspection that nobody has touched, and its corrections; None shows the fault as found.

    Raises:
        BadInput: the inspector shows another result, of a sentence that was asked since.
        Whatever the repair does.
    """
    if inspector.inspection.result.config.get("planted") != fault.planted:
        raise BadInput(
            f"the inspector shows what was found for “{inspector.inspection.sentence}”, asked since; below its field "
            f"for a sentence choose “{fault.sentence}” again, the first in the list"
        )
    look = _as_found(fault, inspector)
    if repair is None:
        return look
    repair(look, Corrections(look, inspector.corrections.tracker))
    by_hand = look if look.history.records else inspector.inspection
    mended = _as_found(fault, inspector)  # by the run's rule: another one repairs nothing
    mended.history, mended.propagations = by_hand.history, by_hand.propagations
    mended.show_corrections()
    return mended


def _as_found(fault: Fault, inspector: "TrackInspector") -> Inspection:
    """The result as the run left it, in memory: what is tried on it goes into no file."""
    return Inspection(replace(inspector.inspection.result, folder=None), fault.truth)


def attempted(fault: Fault, inspector: "TrackInspector", repair: Repair | None) -> Inspection:
    """As `repaired`; where the learner's code breaks, the fault as found.

    Seen in: notebooks/08_workshop.ipynb
    """
    try:
        return repaired(fault, inspector, repair)
    except Exception:  # a learner's code may do anything
        return repaired(fault, inspector, None)


def check_repair(fault: Fault, inspector: "TrackInspector", repair: Repair) -> str:
    """Whether a repair, by code or else by mouse, brings J&F to the goal. For the arguments see `repaired`.

    Seen in: notebooks/08_workshop.ipynb
    """
    try:
        before = float(fault.score(repaired(fault, inspector, None)).mean())
    except BadInput as error:
        return f"not yet: {error}"
    try:
        look = repaired(fault, inspector, repair)
    except Exception as error:  # a learner's code may do anything
        return f"not yet: your repair raises {type(error).__name__}: {error}"
    after = float(fault.score(look).mean())
    if after >= fault.goal:
        return f"right: J&F was {before:.2f} and is {after:.2f}"
    change = "as before" if np.isclose(after, before) else f"it was {before:.2f}"
    return f"not yet: J&F is {after:.2f} ({change}), {fault.goal:.2f} is wanted; {fault.hint}"


def solve_wrong_point(look: Inspection, corrections: Corrections) -> None:
    """Point at the circle, halfway between where it was before and after, and take the wrong point away."""
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


FAULTS: dict[str, tuple[Callable[[], Fault], Repair]] = {
    "wrong point": (wrong_point, solve_wrong_point),
    "occluded object": (occluded, solve_occluded),
    "identity switch": (identity_switch, solve_identity_switch),
}
