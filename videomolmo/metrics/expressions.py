"""J&F where each expression names its objects: MeViS, ReasonVOS, ReVOS and Ref-DAVIS17.

Source: MeViS (Ding et al. 2023), VideoLISA (Bai et al. 2024) for ReasonVOS, VISA (Yan et al. 2024) for ReVOS,
    Khoreva et al. 2018 for Ref-DAVIS17; the rules are those of their public evaluation tools.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Num, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array
from videomolmo.metrics.davis import davis_unsupervised
from videomolmo.metrics.regions import JAndF, j_and_f

Masks = Bool[np.ndarray, "_frames _height _width"] | Integer[np.ndarray, "_frames _height _width"]
Maps = Num[np.ndarray, "_maps _frames _height _width"]
ANNOTATORS = 4
FOREGROUND_FROM, BACKGROUND = 0.5, 0.1  # Ref-DAVIS17: values below count as 0; what they compete with


class ExpressionMeans(NamedTuple):
    """Means over expressions, how many those are, and for how many of them the prediction is missing."""

    j: float
    f: float
    j_and_f: float
    expressions: int
    missing: int


class RefDavisScores(NamedTuple):
    """`annotators`: the unsupervised DAVIS table of each; `mean`: their mean; `per_expression`: without competition."""

    mean: dict[str, float]
    annotators: list[dict[str, float]]
    per_expression: JAndF


class RevosScore(NamedTuple):
    """One expression of ReVOS, or means over expressions."""

    j: float
    f: float
    accuracy: float
    robustness: float


def mean_over_expressions(scores: Iterable[JAndF | None], missing: Literal["zero", "skip"] = "zero") -> ExpressionMeans:
    """Plain means over expressions of all videos; J&F is the mean of mean J and mean F.

    Args:
        scores: one per expression, None where the prediction is missing; of each the first two numbers are J and F.
        missing: `zero` scores such an expression 0; `skip` leaves it out, as the copies of the MeViS tool in VideoLISA
            do, which rewards leaving out what is hard.

    Raises:
        BadInput: nothing to average.

    Example:
        >>> mean_over_expressions([JAndF(0.8, 0.6, 0.7), None])
        ExpressionMeans(j=0.4, f=0.3, j_and_f=0.35, expressions=2, missing=1)
    """
    if missing not in ("zero", "skip"):
        raise BadInput(f"missing={missing!r}: expected 'zero' or 'skip'")
    scores = list(scores)
    found = [score for score in scores if score is not None]
    count = len(scores) if missing == "zero" else len(found)
    if not count:
        raise BadInput(f"{len(scores)} expressions, {len(found)} with a prediction: nothing to average")
    j, f = (float(sum(score[at] for score in found) / count) for at in (0, 1))
    return ExpressionMeans(j, f, (j + f) / 2, len(scores), len(scores) - len(found))


def merge_expressions(maps: Maps) -> UInt8[np.ndarray, "frames height width"]:
    """One label map from one annotator's maps: each pixel goes to the strongest object, or to the background.

    Args:
        maps: probability or 0/1 masks of the objects 1 … N in this order; below 0.5 counts as nothing.

    Returns:
        Labels 0 … N; of equals the lower label.

    Raises:
        BadInput: values outside 0 to 1.

    Example:
        >>> merge_expressions(np.array([0.6, 0.7, 0.4, 0.5, 0.9, 0.4]).reshape(2, 1, 1, 3)).tolist()
        [[[1, 2, 0]]]
    """
    maps = as_array(maps, "maps").astype(np.float64)
    if maps.ndim != 4 or not len(maps):
        raise BadInput(f"maps {maps.shape}: expected (objects, frames, height, width), at least one object")
    if not (maps.min(initial=0) >= 0 and maps.max(initial=0) <= 1):
        raise BadInput(f"maps from {maps.min():g} to {maps.max():g}: expected 0 to 1; divide 8-bit images by 255")
    strongest = maps.argmax(axis=0)
    strength = np.take_along_axis(maps, strongest[None], axis=0)[0]
    return np.where(strength >= FOREGROUND_FROM, strongest + 1, 0).astype(np.uint8)


def ref_davis17(sequences: Iterable[tuple[str, Masks, Maps]], reference: bool = False) -> RefDavisScores:
    """Ref-DAVIS17: merge each annotator's expressions, score unsupervised as DAVIS does, average the four annotators.

    Args:
        sequences: (name, truth, maps) of each: label maps with 255 for void, and one map per expression, where
            expression `object * 4 + annotator` (both from 0) speaks of label `object + 1`.
        reference: see `videomolmo.metrics.davis`; no mean depends on it.

    Returns:
        The protocol's number in `mean`, and in `per_expression` the other one that papers print: every expression
        against its own object, all frames, void as background.

    Raises:
        BadInput: maps whose number is not four per object, or what `davis_unsupervised` refuses.
    """
    truths, merged, single = [], [[] for _ in range(ANNOTATORS)], []
    for name, *given in sequences:
        truth, maps = (as_array(value, f"sequence {name!r}") for value in given)
        if not len(maps) or len(maps) % ANNOTATORS:
            raise BadInput(f"sequence {name!r}: {len(maps)} maps; expected {ANNOTATORS} for each object")
        truths.append((name, truth))
        for annotator, labels in enumerate(merged):
            labels.append(merge_expressions(maps[annotator::ANNOTATORS]))
        single += [j_and_f(truth == n // ANNOTATORS + 1, pred >= FOREGROUND_FROM) for n, pred in enumerate(maps)]
    tables = [
        davis_unsupervised(((*at, result) for at, result in zip(truths, labels, strict=True)), reference).overall
        for labels in merged
    ]
    mean = {column: float(np.mean([table[column] for table in tables])) for column in tables[0]}
    return RefDavisScores(mean, tables, JAndF(*mean_over_expressions(single)[:3]))


def revos_score(truth: Masks, pred: Masks, foreground: Masks) -> RevosScore:
    """J, F, accuracy A and robustness R of one ReVOS expression.

    A is the mean over frames of the share of pixels that agree. R is the mean over frames of 1 - false / foreground,
    not below 0, where false counts predicted pixels outside the truth.

    Args:
        truth: union of the objects that the expression names.
        pred: what was predicted.
        foreground: everything in the video that is an object, the measure of how much could be taken wrongly.

    Raises:
        BadInput: shapes that differ, or no frames.

    Differs: any nonzero value is foreground; the reference adds up the values themselves, which must be 0 and 1.
    """
    truth, pred = as_array(truth, "true masks"), as_array(pred, "predicted masks")
    foreground = as_array(foreground, "foreground masks")
    if foreground.shape != truth.shape:
        raise BadInput(f"foreground masks {foreground.shape} must have the shape of the true ones {truth.shape}")
    score = j_and_f(truth, pred)
    truth, pred, foreground = (masks != 0 for masks in (truth, pred, foreground))
    accuracy = np.mean(truth == pred)
    false, total = (np.count_nonzero(masks, axis=(-2, -1)) for masks in (pred & ~truth, foreground))
    robustness = np.mean(np.maximum(1 - false / (total + 1e-6), 0))
    return RevosScore(score.j, score.f, float(accuracy), float(robustness))


def mean_over_revos(scores: Mapping[str, Sequence[RevosScore | None]]) -> dict[str, RevosScore]:
    """Means of each type of expression, and under `overall` the mean of these means.

    Args:
        scores: `{"referring": […], "reasoning": […]}`; None where the prediction is missing counts 0 in all four.

    Raises:
        BadInput: a type without expressions.

    Example:
        >>> full = RevosScore(1, 1, 1, 1)
        >>> mean_over_revos({"referring": [full, None], "reasoning": [full._replace(f=0)]})["overall"]
        RevosScore(j=0.75, f=0.25, accuracy=0.75, robustness=0.75)
    """
    empty = [kind for kind, found in scores.items() if not found] or (["any"] if not scores else [])
    if empty:
        raise BadInput(f"no expression of the type {empty[0]!r}; leave the type out or give its scores")
    nothing = RevosScore(0, 0, 0, 0)
    means = {kind: _mean([score or nothing for score in found]) for kind, found in scores.items()}
    return means | {"overall": _mean(list(means.values()))}


def _mean(scores: list[RevosScore]) -> RevosScore:
    return RevosScore(*(float(value) for value in np.mean(scores, axis=0)))
