"""The checkers accept the right solution and name the case where a wrong one fails."""

import numpy as np
import pytest

from videomolmo.lab.exercises import (
    check_agreed_exercise,
    check_phrases_exercise,
    check_places_exercise,
    check_redo_exercise,
    check_rule_exercise,
)


def solution(forward, backward, tau):
    if not forward.any() or not backward.any():
        return forward | backward
    both = forward & backward
    return both if both.sum() / (forward | backward).sum() >= tau else forward | backward


def test_the_solution_is_right():
    assert check_rule_exercise(solution).startswith("right")


def test_the_stub_is_not():
    assert "the directions agree" in check_rule_exercise(lambda forward, backward, tau: forward)


def test_forgetting_eq_6_is_noticed():
    def without_eq_6(forward, backward, tau):
        both = forward & backward
        return both if both.sum() / max(1, (forward | backward).sum()) >= tau else forward | backward

    assert "backward mask is empty" in check_rule_exercise(without_eq_6)


def overlaps(forward, backward):
    both, either = (forward & backward).sum(), (forward | backward).sum()
    sides = forward.sum(), backward.sum()
    return {"IoU": both / max(1, either), "Dice": 2 * both / max(1, sum(sides)), "share": both / max(1, min(sides))}


@pytest.mark.parametrize("measure", ["Dice", "share", "more than"])
def test_another_overlap_or_bound_is_noticed(measure):
    def other(forward, backward, tau):
        if not forward.any() or not backward.any():
            return forward | backward
        agree = overlaps(forward, backward)["IoU"] > tau if measure == "more than" else (
            overlaps(forward, backward)[measure] >= tau)  # fmt: skip
        return forward & backward if agree else forward | backward

    assert "not yet" in check_rule_exercise(other)
    assert "expected" in check_rule_exercise(lambda *_: None)


@pytest.mark.parametrize("measure, least", [("IoU", 0.3), ("IoU", 0.5), ("IoU", 0.01), ("Dice", 0.3), ("share", 0.3)])
def test_agreed_needs_its_own_overlap_and_bound(measure, least):
    def rule(forward, backward, left, right):
        if not forward.any() or not backward.any():
            return forward | backward
        if overlaps(forward, backward)[measure] >= least:
            return forward & backward
        return forward if left <= right else backward

    assert check_agreed_exercise(rule).startswith("right" if (measure, least) == ("IoU", 0.3) else "not yet")


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


def phrases(written):
    pairs = []
    for number, part in enumerate(written.split("[SEG]")[:-1], start=1):
        if part.rstrip().endswith("</p>"):
            pairs.append((part.rpartition("<p>")[2].replace("</p>", "").strip(), number))
    return pairs


def test_phrases_are_told_with_the_number_of_their_own_seg():
    assert check_phrases_exercise(phrases).startswith("right")
    without_count = check_phrases_exercise(lambda written: [(phrase, 1) for phrase, _ in phrases(written)])
    assert "there are two" in without_count and "[('A star', 1), ('a bar', 2)]" in without_count
    greedy = check_phrases_exercise(
        lambda written: phrases(written.replace("</p> is left of", "</p> [SEG] is left of"))
    )
    assert "a phrase has no [SEG]" in greedy
    assert "raises ZeroDivisionError" in check_phrases_exercise(lambda written: 1 / 0)


def place(x, y):
    column, row = int(x * 12), int(y * 12)
    across, down = int(x * 36) % 3, int(y * 36) % 3
    return row // 2 * 6 + column // 2, row % 2 * 2 + column % 2, across * 3 + down


def test_places_are_counted_as_the_model_does():
    from videomolmo.model.config import ImageConfig
    from videomolmo.model.token_places import Places

    assert check_places_exercise(place).startswith("right")
    grid = Places.of(96, 96, ImageConfig(size_px=96, patch_px=8, max_crops=0, resize="stretch"))
    points = np.random.default_rng(0).random((200, 2))
    assert [place(x, y) for x, y in points] == [tuple(one) for one in grid.chosen(points).tolist()]
    rows_first = check_places_exercise(lambda x, y: (*place(x, y)[:2], int(y * 36) % 3 * 3 + int(x * 36) % 3))
    assert "farther right" in rows_first and "expected (0, 0, 6), got (0, 0, 2)" in rows_first
    assert "one patch to the right" in check_places_exercise(lambda x, y: (0, 0, place(x, y)[2]))
    assert "raises ZeroDivisionError" in check_places_exercise(lambda x, y: 1 / 0)
