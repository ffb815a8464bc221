"""The checkers accept the right solution and name the case where a wrong one fails."""

import numpy as np

from videomolmo.exercises import check_redo_exercise, check_rule_exercise


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


def my_frames(key_frames, corrected, length):
    left = max([key for key in key_frames if key < corrected], default=-1)
    right = min([key for key in key_frames if key > corrected], default=length)
    return range(left + 1, right)


def test_the_frames_between_the_neighbours_are_right():
    assert check_redo_exercise(my_frames).startswith("right")


def test_redoing_everything_is_not():
    assert "between two key frames" in check_redo_exercise(lambda keys, corrected, length: range(length))


def test_forgetting_the_ends_is_noticed():
    def without_ends(keys, corrected, length):
        return range(max(k for k in keys if k < corrected) + 1, min(k for k in keys if k > corrected))

    assert "ValueError" in check_redo_exercise(without_ends)
