"""HOTA: how well objects are found (DetA) and kept apart over time (AssA), as the geometric mean of the two.

Source: Luiten et al. 2021, "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking"; the rules are those of
    TrackEval, with its column names.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Integer, Shaped

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array

ALPHAS = np.linspace(0.05, 0.95, 19)  # a pair counts when its similarity is at least alpha
EPS = float(np.finfo(float).eps)
COUNTS = ("HOTA_TP", "HOTA_FN", "HOTA_FP")

Hota = dict[str, Float64[np.ndarray, " alphas"]]
Ids = Shaped[np.ndarray, " _ids"] | Sequence
Similarity = Float[np.ndarray, "_truth _pred"]


def hota_scores(
    truth_ids: Sequence[Ids],
    pred_ids: Sequence[Ids],
    similarities: Sequence[Similarity],
    when_empty: Literal["ones", "molmo2", "trackeval"] = "ones",
) -> Hota:
    """All values of HOTA for one video, at the thresholds 0.05, 0.10 … 0.95.

    Args:
        truth_ids: which objects are in each frame; an id is kept over time.
        pred_ids: which predicted tracks are.
        similarities: for each frame, from 0 to 1, true objects in rows and predicted ones in columns.
        when_empty: for a video in which neither side has anything: `ones` gives full scores and no counts, `molmo2`
            ones everywhere, the counts included, `trackeval` zeros.

    Returns:
        `HOTA_TP`, `HOTA_FN`, `HOTA_FP`, `HOTA`, `DetA`, `AssA`, `DetRe`, `DetPr`, `AssRe`, `AssPr` and `LocA` by
        threshold; `LocA` is 1 where nothing is matched.

    Raises:
        BadInput: lists of different length, a matrix that does not fit its ids, or a similarity outside 0 to 1.

    Example: one object, followed for two frames and then lost to a new track.
        >>> values = hota_scores([[1], [1], [1]], [["a"], ["a"], ["b"]], [np.ones((1, 1))] * 3)
        >>> values["DetA"][0].item(), values["AssA"][0].round(3).item()
        (1.0, 0.556)
    """
    if when_empty not in ("ones", "molmo2", "trackeval"):
        raise BadInput(f"when_empty is {when_empty!r}, expected 'ones', 'molmo2' or 'trackeval'")
    similarities = [as_array(one, "similarities").astype(np.float64) for one in similarities]  # overlaps may be bool
    _check(truth_ids, pred_ids, similarities)
    truth, truth_frames = _numbered(truth_ids)
    pred, pred_frames = _numbered(pred_ids)
    detections = int(truth_frames.sum()), int(pred_frames.sum())
    if not any(detections) and when_empty != "trackeval":
        return _nothing(1.0 if when_empty == "molmo2" else 0.0)
    alignment = _alignment(truth, pred, truth_frames, pred_frames, similarities)
    matches = np.zeros((len(ALPHAS), *alignment.shape))
    located = np.zeros(len(ALPHAS))
    for rows, columns, similarity in zip(truth, pred, similarities, strict=True):
        pairs = _assign(alignment[np.ix_(rows, columns)] * similarity)
        found = similarity[pairs]
        counts = found >= ALPHAS[:, None] - EPS
        np.add.at(matches, (slice(None), rows[pairs[0]], columns[pairs[1]]), counts)
        located += (found * counts).sum(axis=1)
    return _values(matches, located, truth_frames, pred_frames)


def _alignment(
    truth: list[np.ndarray],
    pred: list[np.ndarray],
    truth_frames: Integer[np.ndarray, " truth_tracks"],
    pred_frames: Integer[np.ndarray, " pred_tracks"],
    similarities: Sequence[Similarity],
) -> Float64[np.ndarray, "truth_tracks pred_tracks"]:
    """How much two tracks overlap over the whole video: their soft intersection over union."""
    overlap = np.zeros((len(truth_frames), len(pred_frames)))
    for rows, columns, similarity in zip(truth, pred, similarities, strict=True):
        union = similarity.sum(axis=0)[None] + similarity.sum(axis=1)[:, None] - similarity
        share = np.divide(similarity, union, out=np.zeros_like(union), where=union > EPS)
        np.add.at(overlap, np.ix_(rows, columns), share)
    return overlap / (truth_frames[:, None] + pred_frames - overlap + EPS)


def _values(
    matches: Float64[np.ndarray, "alphas truth_tracks pred_tracks"],
    located: Float64[np.ndarray, " alphas"],
    truth_frames: Integer[np.ndarray, " truth_tracks"],
    pred_frames: Integer[np.ndarray, " pred_tracks"],
) -> Hota:
    """All values from how often each pair of tracks was matched, and from the sum of similarities of the matches."""
    tp = matches.sum(axis=(1, 2))
    fn, fp = truth_frames.sum() - tp, pred_frames.sum() - tp
    either = truth_frames[:, None] + pred_frames - matches
    association = {
        name: (matches * matches / np.maximum(1, frames)).sum(axis=(1, 2)) / np.maximum(1, tp)
        for name, frames in (("AssA", either), ("AssRe", truth_frames[:, None]), ("AssPr", pred_frames))
    }
    det_a = tp / np.maximum(1, tp + fn + fp)
    return {
        **dict(zip(COUNTS, (tp, fn, fp), strict=True)),
        "HOTA": np.sqrt(det_a * association["AssA"]),
        "DetA": det_a,
        "DetRe": tp / np.maximum(1, tp + fn),
        "DetPr": tp / np.maximum(1, tp + fp),
        **association,
        "LocA": np.maximum(1e-10, located) / np.maximum(1e-10, tp),
    }


def _nothing(count: float) -> Hota:
    """Full scores, and one value for all counts."""
    names = ("HOTA", "DetA", "DetRe", "DetPr", "AssA", "AssRe", "AssPr", "LocA")
    return {name: np.full(len(ALPHAS), count) for name in COUNTS} | {name: np.ones(len(ALPHAS)) for name in names}


def _assign(score: Float64[np.ndarray, "_truth _pred"]) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-score)


def _numbered(ids: Sequence[Ids]) -> tuple[list[np.ndarray], Integer[np.ndarray, " tracks"]]:
    """Ids as 0, 1 … in each frame, and in how many frames each is."""
    names = {name: n for n, name in enumerate(dict.fromkeys(name for frame in ids for name in _plain(frame)))}
    frames = [np.array([names[name] for name in _plain(frame)], dtype=np.int64) for frame in ids]
    together = np.concatenate([*frames, np.zeros(0, dtype=np.int64)])
    return frames, np.bincount(together, minlength=len(names))


def _plain(frame: Ids) -> list:
    return frame.tolist() if hasattr(frame, "tolist") else list(frame)


def _check(truth_ids: Sequence[Ids], pred_ids: Sequence[Ids], similarities: Sequence[Similarity]) -> None:
    if not len(truth_ids) == len(pred_ids) == len(similarities):
        raise BadInput(
            f"{len(truth_ids)} frames of true ids, {len(pred_ids)} of predicted ids and {len(similarities)} of "
            "similarities; give one of each for every frame"
        )
    for n, frame in enumerate(zip(truth_ids, pred_ids, similarities, strict=True)):
        wanted, shape = (len(frame[0]), len(frame[1])), frame[2].shape
        if shape != wanted:
            raise BadInput(f"frame {n}: similarities of shape {shape} for ids {wanted}; rows are true ids")
        if not ((frame[2] >= 0) & (frame[2] <= 1)).all():
            raise BadInput(f"frame {n}: similarities from {frame[2].min():g} to {frame[2].max():g}; expected 0 to 1")
