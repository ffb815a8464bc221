"""Checkers of the notebooks' exercises: each says what is right, or shows the smallest case that is not."""

from collections.abc import Callable

import numpy as np

from videomolmo.fusion import fuse


def check_rule_exercise(rule: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> str:
    """Compare a rule of eq. 5 and 6, `rule(forward, backward, tau)` on boolean (height, width), with ours.

    Seen in: notebooks/00_quickstart.ipynb
    """
    a, b = np.zeros((2, 1, 4), bool)
    a[0, :3], b[0, 1:] = True, True  # IoU 2/4
    empty = np.zeros_like(a)
    cases = {
        "the sides agree (IoU 0.5, τ 0.4)": (a, b, 0.4),
        "the sides disagree (IoU 0.5, τ 0.7)": (a, b, 0.7),
        "the forward side is empty": (empty, b, 0.7),
        "the backward side is empty": (a, empty, 0.0),
        "both sides are empty": (empty, empty, 0.7),
    }
    for name, (forward, backward, tau) in cases.items():
        try:
            given = np.asarray(rule(forward.copy(), backward.copy(), tau))
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your rule raises {type(error).__name__}: {error}"
        wanted = fuse(forward, backward, "iou", tau)
        if given.shape != wanted.shape or not (given.astype(bool) == wanted).all():
            return f"not yet: where {name}, expected {wanted.astype(int).tolist()}, got {given.astype(int).tolist()}"
    return "right: your rule is the paper's"
