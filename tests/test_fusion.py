"""Fusion rules against a per-pixel reading of the paper, their symmetries, and the matching of objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from videomolmo.errors import BadInput
from videomolmo.fusion import AGREED, RULES, check_rule, fuse, iou, match_objects, overlap_matrix

RELAXED = settings(deadline=None, max_examples=40)  # no deadline: the first call imports scipy
MIRROR = {"left": "right", "right": "left", "forward": "backward", "backward": "forward"}
PAIRS = hnp.arrays(
    bool, st.tuples(st.just(2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
)


def options(rule: str, frames: int) -> dict:
    """Distances of frames 1 … n between two key frames, for the rules that need them."""
    if "left_distance" not in RULES[rule].options:
        return {}
    left = np.arange(1, frames + 1)
    return {"left_distance": left, "right_distance": left[::-1].copy()}


def row(text: str) -> np.ndarray:
    """A mask of one row: `#` is set."""
    return np.array([[character == "#" for character in text]])


# A slow readable spec: one frame, one object, sets of pixels.


def spec(a: set, b: set, rule: str, tau: float, left_distance: float, right_distance: float) -> set:
    simple = {"forward": a, "backward": b, "intersection": a & b, "union": a | b}
    if rule in simple:
        return simple[rule]
    if not a or not b:  # equation 6
        return a or b
    if rule == "iou":  # equation 5
        return a & b if len(a & b) / len(a | b) >= tau else a | b
    if rule == "agreed" and len(a & b) / len(a | b) >= AGREED:
        return a & b
    first = {
        "left": True,
        "right": False,
        "larger": len(a) >= len(b),
        "smaller": len(a) <= len(b),
        "nearest": left_distance <= right_distance,
        "agreed": left_distance <= right_distance,
    }
    return a if first[rule] else b


def pixels(mask: np.ndarray) -> set:
    return set(zip(*np.nonzero(mask), strict=True))


@pytest.mark.parametrize("rule", RULES)
@RELAXED
@given(pair=PAIRS, tau=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_every_rule_does_what_its_spec_says(rule, pair, tau):
    forward, backward = pair
    frames, objects = forward.shape[:2]
    fused = fuse(forward, backward, rule, tau, **options(rule, frames))
    assert fused.shape == forward.shape and fused.dtype == bool
    for t in range(frames):
        for k in range(objects):
            expected = spec(pixels(forward[t, k]), pixels(backward[t, k]), rule, tau, t + 1, frames - t)
            assert pixels(fused[t, k]) == expected


@pytest.mark.parametrize("rule", RULES)
@RELAXED
@given(pair=PAIRS)
def test_properties(rule, pair):
    """Between intersection and union; a mask fused with itself is itself; the inputs stay as they are."""
    forward, backward = pair
    before = pair.copy()
    given_options = options(rule, len(forward))
    fused = fuse(forward, backward, rule, **given_options)
    assert not (fused & ~(forward | backward)).any()
    assert not (forward & backward & ~fused).any()
    np.testing.assert_array_equal(fuse(forward, forward, rule, **given_options), forward)
    fused[:] = ~fused
    np.testing.assert_array_equal(pair, before)


@pytest.mark.parametrize("rule", RULES)
@RELAXED
@given(pair=PAIRS)
def test_time_reversal_with_swapped_roles(rule, pair):
    """Playing the clip backwards swaps the two sides and nothing else; ties, which go left, are left out."""
    forward, backward = pair
    frames = len(forward)
    given_options = options(rule, frames)
    mirrored = {"left_distance": "right_distance", "right_distance": "left_distance"}
    reversed_options = {mirrored[name]: value[::-1].copy() for name, value in given_options.items()}
    fused = fuse(forward, backward, rule, **given_options)
    reverse = fuse(backward[::-1], forward[::-1], MIRROR.get(rule, rule), **reversed_options)[::-1]
    tie = np.zeros(forward.shape[:2], dtype=bool)
    if rule in ("larger", "smaller"):
        tie = forward.sum(axis=(-2, -1)) == backward.sum(axis=(-2, -1))
    if rule in ("nearest", "agreed"):
        tie = (given_options["left_distance"] == given_options["right_distance"])[:, None] | tie
    np.testing.assert_array_equal(fused[~tie], reverse[~tie])


def test_equations_5_and_6_by_hand():
    """Seven shared pixels of ten are an IoU of 0.7: from τ on they are intersected, below it united."""
    forward, backward = row("########.."), row(".#######" + "##")
    assert iou(forward, backward) == 0.7
    np.testing.assert_array_equal(fuse(forward, backward, tau=0.7), row(".#######.."))
    np.testing.assert_array_equal(fuse(forward, backward, tau=0.71), row("##########"))
    np.testing.assert_array_equal(fuse(forward, row(".........."), tau=0.0), forward)
    np.testing.assert_array_equal(fuse(row(".........."), backward, tau=1.0), backward)


def test_each_leading_index_decides_for_itself():
    """Frame 0 agrees, frame 1 disagrees, frame 2 has lost the forward side."""
    forward = np.stack([row("##.."), row("##.."), row("....")])
    backward = np.stack([row("##.."), row(".##."), row("..#.")])
    fused = fuse(forward, backward)
    np.testing.assert_array_equal(fused, np.stack([row("##.."), row("###."), row("..#.")]))
    np.testing.assert_array_equal(fuse(forward[2], backward[2]), fused[2])


def test_object_that_appears_and_vanishes_between_key_frames():
    """Only the backward side knows the start of the second object, only the forward side the end of the first."""
    forward = np.stack([row("##..."), row("##..."), row(".....")])[:, None]
    backward = np.stack([row("....."), row("...##"), row("...##")])[:, None]
    fused = fuse(forward, backward)[:, 0]
    np.testing.assert_array_equal(fused, np.stack([row("##..."), row("##.##"), row("...##")]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (1, 1), (3, 3, 4)])
def test_empty_masks_and_empty_axes(rule, shape):
    masks = np.zeros(shape, dtype=bool)
    distances = {"left_distance": 1, "right_distance": 2} if "left_distance" in RULES[rule].options else {}
    fused = fuse(masks, masks, rule, **distances)
    assert fused.shape == shape and not fused.any()


def test_iou_of_two_empty_masks_is_one():
    assert iou(row("..."), row("...")) == 1.0
    assert iou(row("..#"), row("...")) == 0.0
    assert iou(np.zeros((2, 3, 4, 5), bool), np.zeros((2, 3, 4, 5), bool)).tolist() == [[1.0] * 3] * 2


def test_nearest_takes_the_nearer_key_frame_per_frame():
    """Four frames between the key frames, the tie in the middle goes left; an empty nearer side gives way."""
    forward, backward = np.stack([row("#.")] * 3 + [row("..")]), np.stack([row(".#")] * 4)
    fused = fuse(
        forward, backward, "nearest", left_distance=np.array([1, 2, 3, 1]), right_distance=np.array([3, 2, 1, 3])
    )
    np.testing.assert_array_equal(fused, np.stack([row("#."), row("#."), row(".#"), row(".#")]))


def test_nearest_spreads_distances_over_objects():
    forward, backward = np.ones((2, 3, 1, 2), bool) & row("#."), np.ones((2, 3, 1, 2), bool) & row(".#")
    fused = fuse(forward, backward, "nearest", left_distance=np.array([1, 2]), right_distance=np.array([2, 1]))
    np.testing.assert_array_equal(fused, np.stack([forward[0], backward[1]]))


@pytest.mark.parametrize("rule", ["nearest", "agreed"])
def test_missing_or_wrong_distances_are_refused(rule):
    masks = np.ones((2, 3, 4), bool)
    with pytest.raises(BadInput, match="need left_distance"):
        fuse(masks, masks, rule)
    with pytest.raises(BadInput, match="one number per frame"):
        fuse(masks, masks, rule, left_distance=np.arange(3), right_distance=np.arange(3))
    with pytest.raises(BadInput, match="one number per frame"):
        fuse(masks, masks, rule, left_distance=np.ones((2, 1)), right_distance=1)


def test_agreed_intersects_what_overlaps_and_never_unites():
    """Frame 1 overlaps by a third and is intersected; the others do not and go to the nearer key frame."""
    forward = np.stack([row("##..."), row("###.."), row("##..."), row("##...")])
    backward = np.stack([row("...##"), row(".###."), row("...##"), row(".....")])
    fused = fuse(forward, backward, "agreed", left_distance=np.arange(1, 5), right_distance=np.arange(4, 0, -1))
    np.testing.assert_array_equal(fused, np.stack([row("##..."), row(".##.."), row("...##"), row("##...")]))
    united = fuse(forward, backward, "iou", AGREED)
    assert (united[0] == (forward[0] | backward[0])).all() and (united[1] == fused[1]).all()


@pytest.mark.parametrize("rule", ["IoU", "", "mean"])
def test_an_unknown_rule_is_refused_with_the_known_ones(rule):
    with pytest.raises(BadInput, match=r"unknown; choose one of iou, left, right, .*backward"):
        check_rule(rule)


@pytest.mark.parametrize("tau", [-0.1, 1.01, float("nan"), float("inf")])
def test_tau_outside_0_to_1_is_refused(tau):
    with pytest.raises(BadInput, match="expected a number from 0 to 1"):
        check_rule("union", tau)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises((BadInput, TypeError)):  # TypeError: jaxtyping, where it checks first
        fuse(np.ones((2, 3), bool), np.ones((3, 2), bool))
    with pytest.raises((BadInput, TypeError)):
        fuse(np.ones((2, 3)), np.ones((2, 3)))


def test_every_rule_is_described():
    assert all(rule.description and "\n" not in rule.description for rule in RULES.values())


# Matching


@RELAXED
@given(hnp.arrays(bool, (5, 3, 4)), st.integers(0, 5))
def test_overlap_matrix_is_the_iou_of_each_pair(masks, split):
    a, b = masks[:split], masks[split:]
    matrix = overlap_matrix(a, b)
    assert matrix.shape == (split, 5 - split)
    for i, j in np.ndindex(matrix.shape):
        assert matrix[i, j] == (iou(a[i], b[j]) if (a[i] | b[j]).any() else 0.0)


@RELAXED
@given(st.permutations(range(6)))
def test_matching_undoes_a_permutation(order):
    masks = np.eye(6, dtype=bool)[:, None]
    pairs = match_objects(overlap_matrix(masks, masks[list(order)]))
    assert pairs == [(i, order.index(i)) for i in range(6)]


def test_matching_takes_the_best_total_and_leaves_the_rest():
    assert match_objects(np.array([[0.4, 0.6], [0.5, 0.0]])) == [(0, 1), (1, 0)]
    assert match_objects(np.array([[0.9], [0.8]])) == [(0, 0)]
    assert match_objects(np.array([[0.05, 0.0], [0.0, 0.1]])) == [(1, 1)]
    assert match_objects(np.zeros((2, 2)), min_overlap=0) == []
    assert match_objects(np.zeros((0, 3))) == [] and match_objects(np.zeros((3, 0))) == []


def test_weak_pairs_do_not_displace_a_good_one():
    """0.09 + 0.09 would beat 0.15, but neither is a pair."""
    assert match_objects(np.array([[0.15, 0.09], [0.09, 0.0]])) == [(0, 0)]


def test_matching_is_deterministic_on_ties():
    tie = np.full((3, 4), 0.5)
    assert all(match_objects(tie) == match_objects(tie.copy()) for _ in range(5)) and len(match_objects(tie)) == 3


def test_matching_refuses_nonsense():
    with pytest.raises(BadInput, match="NaN"):
        match_objects(np.array([[np.nan]]))
    with pytest.raises(BadInput, match="min_overlap"):
        match_objects(np.zeros((1, 1)), min_overlap=2)
    with pytest.raises((BadInput, TypeError)):
        overlap_matrix(np.ones((1, 2, 3), bool), np.ones((1, 3, 2), bool))
