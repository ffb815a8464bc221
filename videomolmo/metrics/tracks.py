"""Point tracking: precision, recall and F1 of the points in every frame, and HOTA of the tracks.

Points are kept by frame, `{frame: [TrackPoint(object_id, x, y), …]}`, masks by object, `{object_id: {frame: mask}}`.

Source: Molmo 2 (2025), the evaluator of its point tracking.
Differs: true points and masks are paired by id, and only objects that are present in a frame count. The reference pairs
    them by their place in two lists, so that one absent object moves all others onto wrong masks, and counts the absent
    object as missed; `pairing="reference"` reproduces that and the epsilon of F1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from videomolmo.errors import BadInput
from videomolmo.metrics.hota import ALPHAS, hota_scores
from videomolmo.metrics.point_scores import Mask, PointScore, is_inside, mean_point_scores, score_assigned
from videomolmo.points import TrackPoint

Pairing = Literal["id", "reference"]
Tracks = Mapping[int, Sequence[TrackPoint]]
Tubes = Mapping[int | str, Mapping[int, Mask]]
HALF = int(np.argmin(abs(ALPHAS - 0.5)))  # where in a HOTA table alpha is 0.5; point in mask is the same at all
NO_MASK = np.zeros((0, 0), dtype=bool)  # nothing is inside


class TrackScores(NamedTuple):
    """One video: point scores averaged over its frames, HOTA with its parts, and the scores of each frame."""

    precision: float
    recall: float
    f1: float
    hota: dict[str, float]
    frames: dict[int, PointScore]


def track_scores(truth: Tracks, pred: Tracks, tubes: Tubes, pairing: Pairing = "id") -> TrackScores:
    """Scores of predicted point tracks against true points and masks.

    A frame that either side has points in counts; where only one has, it scores 0. A similarity for HOTA is 1 where a
    predicted point is inside the mask of a true object, else 0. A point that is occluded counts like any other.

    Args:
        truth: true points by frame.
        pred: predicted points by frame; the frame must be annotated to score.
        tubes: masks by object and frame; an object without a mask in a frame is not in it.
        pairing: `id` gives a true point the mask of its own id; `reference` takes masks by position.

    Returns:
        Scores; all 1 where neither side has a frame.

    Raises:
        BadInput: a coordinate that is not finite, or with `id` a true point whose id has no masks at all.

    Example:
        >>> tubes = {"1": {0: np.ones((2, 4), dtype=bool)}}
        >>> truth = {0: [TrackPoint("1", 1, 1)]}
        >>> pred = {0: [TrackPoint("7", 2, 1)], 1: [TrackPoint("7", 2, 1)]}
        >>> scores = track_scores(truth, pred, tubes)
        >>> scores.precision, scores.hota["HOTA"]
        (0.5, 0.5)
    """
    truth, pred = _tracks(truth, "true"), _tracks(pred, "predicted")
    _check(truth, pred, tubes, pairing)
    frames = sorted({*truth, *pred})
    scores = {at: _frame_score(truth.get(at, ()), pred.get(at, ()), tubes, at, pairing) for at in frames}
    mean = mean_point_scores(scores.values()) if scores else PointScore(1.0, 1.0, 1.0)
    return TrackScores(*mean, _hota(truth, pred, tubes, frames, pairing), scores)


def mean_track_scores(videos: Iterable[TrackScores]) -> dict[str, float]:
    """Mean of every value over videos, as Molmo 2 reports them.

    Raises:
        BadInput: no videos.

    Differs: from TrackEval, which adds up the counts of all videos before it divides.
    """
    rows = [{"precision": video.precision, "recall": video.recall, "f1": video.f1} | video.hota for video in videos]
    if not rows:
        raise BadInput("no track scores to average; give at least one video")
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _frame_score(
    truth: Sequence[TrackPoint], pred: Sequence[TrackPoint], tubes: Tubes, at: int, pairing: Pairing
) -> PointScore:
    masks = _masks(truth, tubes, at, pairing)
    return score_assigned(_xy(truth), _xy(pred), masks, reference=pairing == "reference")


def _hota(truth: Tracks, pred: Tracks, tubes: Tubes, frames: list[int], pairing: Pairing) -> dict[str, float]:
    truth_ids, pred_ids, similarities = [], [], []
    for at in frames:
        objects = sorted(truth.get(at, ()), key=_rank if pairing == "id" else _raw_id)
        points = sorted(pred.get(at, ()), key=_rank)
        truth_ids.append([str(point.object_id) for point in objects])
        pred_ids.append([str(point.object_id) for point in points])
        similarities.append(_inside(points, _masks(objects, tubes, at, pairing)[: len(objects)]))
    when_empty = "molmo2" if pairing == "reference" else "ones"
    return {
        name: float(values[HALF]) for name, values in hota_scores(truth_ids, pred_ids, similarities, when_empty).items()
    }


def _inside(points: Sequence[TrackPoint], masks: Sequence[Mask]) -> Float64[np.ndarray, "objects points"]:
    """1 where a point is in a mask."""
    hits = [[is_inside(point, mask) for point in _xy(points)] for mask in masks]
    return np.array(hits, dtype=np.float64).reshape(len(masks), len(points))


def _masks(truth: Sequence[TrackPoint], tubes: Tubes, at: int, pairing: Pairing) -> list[Mask]:
    """Masks for the true points of one frame, in their order; the reference goes on with those of all other objects."""
    if pairing == "id":
        by_name = {str(name): tube for name, tube in tubes.items()}
        return [by_name[str(point.object_id)].get(at, NO_MASK) for point in truth]
    return [tube.get(at, NO_MASK) for tube in tubes.values()]


def _xy(points: Sequence[TrackPoint]) -> Float64[np.ndarray, "points 2"]:
    return np.array([point[1:3] for point in points], dtype=np.float64).reshape(-1, 2)


def _rank(point: TrackPoint) -> str:
    return str(point.object_id)


def _raw_id(point: TrackPoint) -> int | str:
    return point.object_id


def _tracks(tracks: Tracks, which: str) -> Tracks:
    """The same where each point may be any three values in the order of `TrackPoint`."""
    try:
        return {at: [TrackPoint(*point) for point in points] for at, points in tracks.items()}
    except (TypeError, AttributeError):
        raise BadInput(f"{which} tracks: expected {{frame: [(object id, x, y), …]}}") from None


def _check(truth: Tracks, pred: Tracks, tubes: Tubes, pairing: Pairing) -> None:
    if pairing not in ("id", "reference"):
        raise BadInput(f"pairing={pairing!r}: expected 'id' or 'reference'")
    for name, tracks in (("true", truth), ("predicted", pred)):
        for at, points in tracks.items():
            if not np.isfinite(_xy(points)).all():
                raise BadInput(f"{name} points of frame {at} are not all finite: {list(points)}")
    if pairing == "reference":
        return
    strangers = {str(point.object_id) for points in truth.values() for point in points} - {str(name) for name in tubes}
    if strangers:
        raise BadInput(f"true point of object {min(strangers)!r}, but masks only of {sorted(map(str, tubes))}")
