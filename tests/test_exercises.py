"""The checkers accept the right solution and name the case where a wrong one fails."""

import numpy as np

from videomolmo.exercises import check_rule_exercise


def solution(forward, backward, tau):
    if not forward.any() or not backward.any():
        return forward | backward
    both = forward & backward
    return both if both.sum() / (forward | backward).sum() >= tau else forward | backward


def test_the_solution_is_right():
    assert check_rule_exercise(solution).startswith("right")


def test_the_stub_is_not():
    assert "the sides agree" in check_rule_exercise(lambda forward, backward, tau: forward)


def test_forgetting_eq_6_is_noticed():
    def without_eq_6(forward, backward, tau):
        both = forward & backward
        return both if both.sum() / max(1, (forward | backward).sum()) >= tau else forward | backward

    assert "backward side is empty" in check_rule_exercise(without_eq_6)


def test_code_that_breaks_is_reported_not_raised():
    assert "ZeroDivisionError" in check_rule_exercise(lambda forward, backward, tau: np.array(1 // 0))
