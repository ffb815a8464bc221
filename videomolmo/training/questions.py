"""What can be asked about a frame of a data set, with the points that answer it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.annotation.candidates import middle_of
from videomolmo.annotation.records import SMALLEST
from videomolmo.datasets import Record
from videomolmo.datasets.record import Expression
from videomolmo.points import write_points
from videomolmo.prompts import TEMPLATES, as_question, label_of

SIDES = re.compile(r"\b(left|right|left(most|wards?)|right(most|wards?)|(anti-?|counter)?clockwise)\b", re.I)
TRIES = 20  # draws of a noisy point before the true one is kept


@dataclass(frozen=True)
class Spot:
    """A true point in pixels, and the mask it lies in where there is one."""

    point: Float[np.ndarray, "2"]
    mask: Bool[np.ndarray, "height width"] | None = None


@dataclass(frozen=True)
class Asked:
    """An expression on one frame; no spot means that what it names is not there."""

    expression: Expression
    spots: tuple[Spot, ...]


def asked_about(record: Record, frame: int) -> list[Asked]:
    """Every expression of a record whose objects are all settled on this frame.

    An object is settled by the set's own points, else by its mask: the deepest pixel, or "not there" for an empty
    one. Slivers of fewer than 16 pixels settle nothing, nor do boxes.
    """
    found: dict[str, list[Spot] | None] = {}
    asked = []
    for expression in record.expressions:
        inside = expression.span is None or expression.span[0] <= frame < expression.span[1]
        if expression.objects is None or not inside:
            continue
        for thing in expression.objects:
            if thing not in found:
                found[thing] = _spots(record, thing, frame)
        spots = [found[thing] for thing in expression.objects]
        if all(one is not None for one in spots):
            asked.append(Asked(expression, tuple(spot for one in spots for spot in one)))
    return asked


def _spots(record: Record, thing: str, frame: int) -> list[Spot] | None:
    """Where an object is; None where nobody says."""
    points = record.points_of(thing, frame)
    if points is not None:
        return [Spot(point.astype(np.float64)) for point in points]
    mask = record.mask_of(thing, frame)
    if mask is None or 0 < mask.sum() < SMALLEST:
        return None
    return [Spot(middle_of(mask) + 0.5, mask)] if mask.any() else []


def names_a_side(asked: list[Asked]) -> bool:
    """Whether a mirror image would make one of the questions wrong."""
    return any(SIDES.search(one.expression.text) for one in asked)


def noisy(rng: np.random.Generator, spot: Spot, jitter_pct: float, size: tuple[int, int]) -> Float[np.ndarray, "2"]:
    """A spot's point with Gaussian noise, inside the frame and inside its mask."""
    height, width = size
    edge = np.array([width, height], dtype=np.float64)
    true = np.clip(spot.point, 0, edge)
    for _ in range(TRIES if jitter_pct else 0):
        point = true + rng.normal(0, jitter_pct / 100, 2) * edge
        column, row = np.floor(point).astype(int)
        inside = 0 <= row < height and 0 <= column < width
        if inside and (spot.mask is None or spot.mask[row, column]):
            return point
    return true


def branch(
    rng: np.random.Generator,
    one: Asked,
    size: tuple[int, int],
    templates: bool = True,
    jitter_pct: float = 0.0,
    mirrored: bool = False,
) -> tuple[str, str]:
    """Question and answer of an expression on a frame.

    Args:
        rng: for the template and the noise.
        one: what is asked.
        size: height and width of the frame.
        templates: whether a noun phrase is asked for in one of forty ways; whole questions stay as they are.
        jitter_pct: see `noisy`.
        mirrored: whether the frame was mirrored left to right.

    Example:
        >>> spot = Spot(np.array([32.0, 12.0]))
        >>> branch(np.random.default_rng(0), Asked(Expression("0", "the dog", ("1",)), (spot,)), (48, 64), False)
        ('Point to the dog.', '<point x="50.0" y="25.0" alt="dog">dog</point>')
    """
    text = " ".join(one.expression.text.split())
    question = as_question(text)
    if question != text and templates:
        question = TEMPLATES[rng.integers(len(TEMPLATES))].format(p=text.rstrip(".!?"))
    points = np.array([noisy(rng, spot, jitter_pct, size) for spot in one.spots]).reshape(-1, 2)
    if mirrored:
        points[:, 0] = size[1] - points[:, 0]
    return question, write_points(points, label_of(text), *size)
