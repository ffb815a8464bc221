"""Grounded conversations: masks of phrases against masks of true phrases, each a clip `(frames, height, width)`.

Source: VideoGLaMM (Munasinghe et al. 2024), grounded conversation generation, after GLaMM (Rasheed et al. 2024).
Differs: two empty masks agree (IoU 1, as for J). The reference divides 0 by 0 there: its mIoU of the whole video
    becomes 0, its recall counts a match. And its recall gives up at the first best pair that fails, though a later one
    may pass; ours goes on. `reference=True` reproduces both.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array

Clips = Bool[np.ndarray, "_phrases frames height width"] | Integer[np.ndarray, "_phrases frames height width"]
IOU_FROM, SIMILARITY_FROM = 0.5, 0.5
SMALLEST_COMPONENT_PX = 20


class GcgScores(NamedTuple):
    """`miou`: mean over videos; `recall`: matched phrases of all videos by true phrases of all videos."""

    miou: float
    recall: float


def gcg_scores(
    videos: Iterable[tuple[Clips, Clips, Float[np.ndarray, "_truth _pred"]]], reference: bool = False
) -> GcgScores:
    """Mask mIoU and recall over a data set.

    Args:
        videos: (true masks, predicted masks, similarity of true and predicted phrases) of each. The similarity is the
            cosine of two sentence embeddings in the reference (mean-pooled BERT); any other from 0 to 1 will do.
        reference: keep the reference's rules for empty masks and for the end of matching.

    Raises:
        BadInput: no videos or no phrases, or shapes that differ.
    """
    mious, matched, phrases = [], 0, 0
    for truth, pred, similarity in videos:
        mious.append(gcg_miou(truth, pred, reference))
        matched += len(gcg_matches(truth, pred, similarity, reference))
        phrases += len(truth)
    if not mious or not phrases:
        raise BadInput(f"{len(mious)} videos with {phrases} true phrases; at least one of each is needed")
    return GcgScores(float(np.mean(mious)), matched / phrases)


def gcg_miou(truth: Clips, pred: Clips, reference: bool = False) -> float:
    """Mean IoU of the pairs of phrases that overlap, the best pair first; 0 without a pair.

    Neither a true phrase that was missed nor a predicted one too many lowers it: read it together with the recall.

    Example:
        >>> truth = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool).reshape(2, 1, 1, 4)
        >>> pred = np.array([[1, 0, 0, 0]], dtype=bool).reshape(1, 1, 1, 4)
        >>> gcg_miou(truth, pred)
        0.5
    """
    iou = volume_iou(truth, pred, reference)
    taken = []
    while iou.size and (best := iou.max()) > 0:  # false for NaN
        taken.append(best)
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        iou[row], iou[:, column] = 0, 0
    return float(np.mean(taken)) if taken else 0.0


def gcg_matches(
    truth: Clips, pred: Clips, similarity: Float[np.ndarray, "_truth _pred"], reference: bool = False
) -> list[tuple[int, int]]:
    """Pairs (true phrase, predicted phrase) that agree in mask (IoU from 0.5) and in words (similarity from 0.5).

    The largest IoU is taken first; each phrase is matched once.

    Raises:
        BadInput: a similarity matrix that does not fit the phrases.
    """
    iou, similarity = volume_iou(truth, pred, reference), as_array(similarity, "similarities")
    if similarity.shape != iou.shape:
        raise BadInput(f"similarities {similarity.shape}: expected {iou.shape}, true phrases in rows")
    matches = []
    while iou.size:
        row, column = map(int, np.unravel_index(iou.argmax(), iou.shape))  # the first NaN, if there is one
        if iou[row, column] < IOU_FROM:
            break
        if similarity[row, column] < SIMILARITY_FROM:
            if reference:
                break
            iou[row, column] = 0
            continue
        matches.append((row, column))
        iou[row], iou[:, column] = 0, 0
    return matches


def volume_iou(truth: Clips, pred: Clips, reference: bool = False) -> Float64[np.ndarray, "_truth _pred"]:
    """Intersection over union over all frames together, for every pair of phrases; nonzero is foreground.

    Raises:
        BadInput: clips of different shape.
    """
    truth, pred = as_array(truth, "true masks"), as_array(pred, "predicted masks")
    if truth.ndim != 4 or pred.ndim != 4 or truth.shape[1:] != pred.shape[1:]:
        raise BadInput(
            f"true masks {truth.shape} and predicted {pred.shape}: expected (phrases, frames, height, width)"
        )
    truth, pred = truth != 0, pred != 0
    iou = np.zeros((len(truth), len(pred)))
    for row, column in np.ndindex(iou.shape):
        union = np.count_nonzero(truth[row] | pred[column])
        empty = np.nan if reference else 1.0
        iou[row, column] = np.count_nonzero(truth[row] & pred[column]) / union if union else empty
    return iou


def drop_small_components(masks: Clips) -> Bool[np.ndarray, "..."]:
    """Predicted masks without their specks in single frames, which the protocol removes before scoring.

    Pixels belong together that share a side (skimage's `remove_small_objects`).
    """
    import cv2

    masks = as_array(masks, "masks")
    kept = np.zeros(masks.shape, dtype=bool)
    for at in np.ndindex(masks.shape[:-2]):
        _, labels, stats, _ = cv2.connectedComponentsWithStats((masks[at] != 0).astype(np.uint8), connectivity=4)
        large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_COMPONENT_PX
        large[0] = False  # the background
        kept[at] = large[labels]
    return kept
