"""Scores of one expression against the truth: masks on every annotated frame, points on key frames, and the count."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.datasets.boxes import VIDSTG
from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput
from videomolmo.evaluation.predictions import Predictions
from videomolmo.metrics import image_point_scores, j_and_f, mean_point_scores, revos_score
from videomolmo.metrics.boxes import box_iou, box_of, sampled_frames
from videomolmo.metrics.counting import is_close
from videomolmo.metrics.expressions import RevosScore

MISSING = "frames without a mask"
BOXES = "mIoU of boxes"


@dataclass(frozen=True)
class Score:
    """One number: `metric` of an expression, over `n` frames."""

    metric: str
    value: float
    n: int


def score_masks(record: Record, expression: Expression, predictions: Predictions) -> list[Score]:
    """J, F and J&F, averaged over all frames whose truth is known; a mask that is missing or unreadable is empty.

    An expression without any mask counts 0, whatever the truth; where some are missing, their number is a row of its
    own (`MISSING`). Empty where the set keeps its truth to itself.

    Source: per-expression protocol of MeViS and ReasonVOS. Differs: nothing is skipped.
    """
    values, missing_frames = [], 0
    for frame in range(frames_of(record)):
        truth = record.truth(expression, frame)
        if truth is None:
            continue
        found = predictions.read(record, expression, frame, truth.shape)
        missing_frames += found is None
        found = np.zeros_like(truth) if found is None else found
        values.append(j_and_f(truth, found, record.void(frame))[:2])
    if not values:
        return []
    if missing_frames == len(values):
        values = [(0.0, 0.0)] * missing_frames
    j, f = np.mean(values, axis=0)
    scores = [Score(name, float(value), len(values)) for name, value in (("J", j), ("F", f), ("J&F", (j + f) / 2))]
    return scores + ([Score(MISSING, float(missing_frames), len(values))] if missing_frames else [])


def score_revos(record: Record, expression: Expression, predictions: Predictions) -> list[Score]:
    """J, F and J&F as in `score_masks`, and ReVOS's accuracy A and robustness R."""
    if expression.objects is None:
        return []
    count = frames_of(record)
    truth = np.stack(same_size(record, [record.truth(expression, frame) for frame in range(count)]))
    masks = [predictions.read(record, expression, frame, truth.shape[1:]) for frame in range(count)]
    missing_frames = sum(mask is None for mask in masks)
    if missing_frames == count:
        return [*revos_row(RevosScore(0.0, 0.0, 0.0, 0.0), count), Score(MISSING, float(missing_frames), count)]
    found = np.stack([np.zeros(truth.shape[1:], bool) if mask is None else mask for mask in masks])
    foreground = np.stack([record.foreground(frame) for frame in range(count)])
    scores = revos_row(revos_score(truth, found, foreground), count)
    return scores + ([Score(MISSING, float(missing_frames), count)] if missing_frames else [])


def score_boxes(record: Record, expression: Expression, predictions: Predictions) -> list[Score]:
    """IoU of the box around the mask and the true box, averaged over the sampled frames of the annotated moment.

    Source: VidSTG's `gt_viou` as VideoGLaMM's evaluation has it: one frame a second, at most 40; a box ends at the last
    row and column of its mask. Its mean over questions is what the paper calls VidSTG, interrogative mIoU.
    """
    count = frames_of(record)
    first, end = expression.span or (0, count)
    values, missing_frames = [], 0
    for frame in sampled_frames(0, count, record.fps or 1.0):
        box = record.box_of(expression.objects[0], frame) if expression.objects and first <= frame < end else None
        if box is None:
            continue
        mask = predictions.read(record, expression, frame, record.size())
        missing_frames += mask is None
        around = None if mask is None else box_of(mask, to_last_pixel=True)
        values.append(0.0 if around is None else box_iou(around, box))
    if not values:
        return []
    scores = [Score(BOXES, float(np.mean(values)), len(values))]
    return scores + ([Score(MISSING, float(missing_frames), len(values))] if missing_frames else [])


def revos_row(score: RevosScore, n: int) -> list[Score]:
    """The metrics of ReVOS under their names in the table."""
    named = {"J": score.j, "F": score.f, "J&F": (score.j + score.f) / 2, "A": score.accuracy, "R": score.robustness}
    return [Score(name, float(value), n) for name, value in named.items()]


def score_points(record: Record, expression: Expression, answer: dict | None) -> list[Score]:
    """Precision, recall and F1 of points, averaged over the key frames whose truth is known.

    The true point of an object is the set's own, else the deepest pixel of its mask; an object that is not on a frame
    is not expected there. Where a set gives several points for one mask, each stands for an object of its own, the
    connected part of the mask that it lies in. Differs: the paper's own figures come from code that was never released.
    """
    if answer is None and expression.objects is not None:  # refused: nothing was pointed at
        return points_row((0.0, 0.0, 0.0), 0)
    scores = []
    for key in (answer or {}).get("key_frames", []):
        truth = _points_and_masks(record, expression, key["frame"])
        if truth is not None:
            found = np.array(key["points_px"], dtype=np.float64).reshape(-1, 2)
            scores.append(image_point_scores(truth[0], found, truth[1]))
    if not scores:
        return []
    mean = mean_point_scores(scores)
    return points_row((mean.precision, mean.recall, mean.f1), len(scores))


def points_row(values: tuple[float, float, float], n: int) -> list[Score]:
    """Precision, recall and F1 under their names in the table."""
    return [Score(f"point {name}", value, n) for name, value in zip(("precision", "recall", "f1"), values, strict=True)]


def score_count(expression: Expression, answer: dict | None) -> list[Score]:
    """Whether the number of objects followed through the clip is the true one, nearly so, and how far off it is.

    Where nothing was answered, or nothing that could be read, the number is 0, and invalid as well.
    """
    if expression.count is None:
        return []
    outcomes = {key["outcome"] for key in (answer or {}).get("key_frames", [])}
    is_valid = bool(outcomes - {"malformed"})
    count = answer["objects"] if is_valid else 0
    off = abs(count - expression.count)
    values = {
        "count exact": off == 0,
        "count close": is_close(expression.count, count),
        "count error": off,
        "count invalid": not is_valid,
    }
    return [Score(name, float(value), 1) for name, value in values.items()]


def score_cost(answer: dict | None) -> list[Score]:
    """What an answer cost: processor seconds, and tokens that the language model read and wrote; else nothing."""
    return [Score(name, float(value), 1) for name, value in (answer or {}).get("cost", {}).items()]


def can_score(record: Record) -> bool:
    """Whether anything said about a clip can be scored: a count, or the masks of what is meant on any frame."""
    frames = range(frames_of(record))
    return record.dataset == VIDSTG or any(
        said.count is not None or any(record.truth(said, frame) is not None for frame in frames)
        for said in record.expressions
    )


def frames_of(record: Record) -> int:
    """Number of frames; a video file is opened for it."""
    if record.frame_names:
        return len(record.frame_names)
    with record.frames() as video:
        return len(video)


def label_maps(record: Record) -> Iterator[np.ndarray]:
    """The label image of every frame."""
    for frame in range(frames_of(record)):
        labels = record.labels(frame)
        if labels is not None:
            yield labels


def same_size(record: Record, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The images; BadInput where they are of several sizes."""
    found = list(images)
    if len({image.shape for image in found}) > 1:
        raise BadInput(f"{record}: masks of several sizes, {sorted({image.shape for image in found})}; expected one")
    return found


def _points_and_masks(record: Record, expression: Expression, frame: int) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """True points and masks of the objects that are meant and on the frame; None where any mask is not known."""
    if expression.objects is None:
        return None
    masks = {object_id: record.mask_of(object_id, frame) for object_id in expression.objects}
    if any(mask is None for mask in masks.values()):
        return None
    points, shown = [], []
    for object_id, mask in masks.items():
        if mask.any():
            own = record.points_of(object_id, frame)
            own = [deepest_pixel(mask)] if own is None or not len(own) else list(own)
            points += own
            shown += [mask] if len(own) == 1 else [_part_at(mask, point) for point in own]
    return np.array(points, dtype=np.float64).reshape(-1, 2), shown


def _part_at(mask: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The part of a mask, connected by sides or corners, that a point lies in; all of it for a point beside it."""
    import cv2

    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    x, y = (int(np.clip(value, 0, most - 1)) for value, most in zip(point, mask.shape[::-1], strict=True))
    return parts == parts[y, x] if parts[y, x] else mask
