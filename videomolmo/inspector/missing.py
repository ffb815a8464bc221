"""What an inspection cannot show, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from videomolmo.inspector.shown import MOST_LISTED

if TYPE_CHECKING:
    from videomolmo.inspector.inspection import Inspection


def find_missing(
    inspection: Inspection, video: list[str], damaged: Mapping[int, str], lost_corrections: int
) -> list[str]:
    """Everything that is missing or was damaged, a sentence each; empty where all is well.

    Args:
        inspection: what was opened.
        video: what is wrong with the video.
        damaged: files of masks that could not be read.
        lost_corrections: stretches that were corrected, but whose masks are gone.
    """
    damage = [*inspection.problems, *inspection.log.problems, inspection.log.unkept or ""]
    found = [*damage, *_of_clip(inspection, video), *_of_answers(inspection)]
    if inspection.frames:
        found += _of_masks(inspection)
    if lost_corrections:
        found.append(f"masks of {lost_corrections} corrected stretches are gone; they are shown as the run left them")
    found += list(damaged.values())  # another thread may read more of them
    if inspection.truth is not None:
        found += inspection.truth.notes
    return [sentence[0].upper() + sentence[1:].rstrip(".") + "." for sentence in dict.fromkeys(found) if sentence]


def _of_clip(inspection: Inspection, video: list[str]) -> list[str]:
    if not inspection.frames:
        return ["the clip has no frames"]
    found = ["the clip has one frame: nothing moves, and there is nothing to fuse"] if inspection.frames == 1 else []
    return found + video


def _of_answers(inspection: Inspection) -> list[str]:
    answers = inspection.result.answers
    if not answers:
        return ["there is no answer of the model"]
    found = []
    malformed = [answer for answer in answers if answer.outcome == "malformed"]
    if malformed:
        where = _few([answer.frame for answer in malformed])
        found.append(
            f"{len(malformed)} of {len(answers)} answers are malformed (frame {where}): their text gives no points"
        )
    if all(answer.outcome == "absent" for answer in answers):
        found.append("the model says on every key frame that nothing is there")
    outside = [answer.frame for answer in answers if not all(answer.inside)]
    if outside:
        found.append(f"points outside the frame are not followed (frame {_few(outside)})")
    return found


def _of_masks(inspection: Inspection) -> list[str]:
    if not inspection.objects:
        return ["no object was found"]
    reasons = inspection.layers()
    many = [f"{inspection.objects} objects: lists and plots tell of the first {MOST_LISTED}"]
    return many * (inspection.objects > MOST_LISTED) + [
        reason for name, reason in reasons.items() if reason is not None and name != "truth"
    ]


def _few(frames: list[int]) -> str:
    """A list of frames, cut short."""
    return ", ".join(map(str, frames[:5])) + (" …" if len(frames) > 5 else "")
