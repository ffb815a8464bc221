"""Metrics on cases small enough to count by hand, and properties of any. Golden data: test_metrics_golden.py."""

import math
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from videomolmo.errors import BadInput
from videomolmo.metrics import (
    JAndF,
    PointScore,
    boundary_map,
    davis_unsupervised,
    gcg_matches,
    gcg_miou,
    gcg_scores,
    hota_scores,
    image_point_scores,
    j_and_f,
    j_and_f_per_frame,
    mean_over_expressions,
    mean_over_revos,
    mean_point_scores,
    mean_track_scores,
    merge_expressions,
    molmo1_image_count,
    molmo2_image_count,
    molmo2_video_count,
    ref_davis17,
    region_similarity,
    revos_score,
    statistics,
    track_scores,
    video_point_scores,
)
from videomolmo.metrics.conversations import drop_small_components
from videomolmo.metrics.expressions import RevosScore
from videomolmo.points import TrackPoint


def square(top: int, left: int, side: int, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("truth", "pred", "j", "f"),
    [
        ("empty", "empty", 1, 1),
        ("full", "full", 1, 1),
        ("full", "empty", 0, 1),  # a full mask has no boundary: the reference's quirk
        ("full", "blob", 9 / 144, 0),
        ("empty", "blob", 0, 0),
        ("blob", "complement", 0, 1),
    ],
)
def test_extreme_masks(truth, pred, j, f):
    masks = {
        "empty": square(0, 0, 0),
        "full": square(0, 0, 12),
        "blob": square(4, 4, 3),
        "complement": ~square(4, 4, 3),
    }
    assert j_and_f(masks[truth], masks[pred]) == pytest.approx((j, f, (j + f) / 2))
    assert j_and_f(masks[pred], masks[truth]) == pytest.approx((j, f, (j + f) / 2))


def test_a_shift_by_one_pixel_is_within_the_tolerance_of_one():
    """Squares of 4 x 4 share 12 of 20 pixels; at radius 1 each boundary is covered, at two pixels' shift it is not."""
    one, two = (j_and_f(square(3, 3, 4), square(3, 3 + shift, 4)) for shift in (1, 2))
    assert one.j == 12 / 20 and one.f == 1.0
    assert two.j == 8 / 24 and two.f < 1.0


def test_j_of_a_clip_is_per_frame_and_its_mean():
    truth = np.stack([square(2, 2, 4), square(0, 0, 0), square(2, 2, 4)])
    pred = np.stack([square(2, 2, 4), square(0, 0, 0), square(0, 0, 0)])
    assert region_similarity(truth, pred).tolist() == [1.0, 1.0, 0.0]
    assert j_and_f_per_frame(truth, pred)[1].tolist() == [1.0, 1.0, 0.0]
    assert j_and_f(truth, pred) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_void_pixels_count_for_nothing():
    truth, pred = square(2, 2, 4), square(2, 4, 4)
    assert region_similarity(truth, pred, void=truth ^ pred) == 1.0
    assert region_similarity(truth, pred, void=np.ones_like(truth)) == 1.0


def test_any_nonzero_value_is_foreground():
    truth, pred = square(2, 2, 4), square(2, 3, 4)
    assert j_and_f(truth.astype(np.uint8) * 255, pred.astype(np.uint8)) == j_and_f(truth, pred)


@settings(deadline=None)  # the first call imports cv2
@given(hnp.arrays(bool, (2, 2, 5, 6)))
def test_symmetric_and_within_0_and_1(masks):
    truth, pred = masks
    score = j_and_f(truth, pred)
    assert score == pytest.approx(j_and_f(pred, truth)) and all(0 <= value <= 1 for value in score)
    assert j_and_f(truth, truth) == (1.0, 1.0, 1.0)


@settings(deadline=None)  # the first call imports cv2
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)))
def test_boundary_map_by_its_definition(mask):
    """A neighbour beyond the image border counts as equal."""
    height, width = mask.shape
    for y, x in np.ndindex(mask.shape):
        neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        expected = any(mask[v, u] != mask[y, x] for v, u in neighbours if v < height and u < width)
        assert boundary_map(mask)[y, x] == expected


def test_bad_input_is_refused():
    with pytest.raises((BadInput, TypeError)):  # TypeError: jaxtyping, where it checks first
        j_and_f(np.ones((2, 3), bool), np.ones((3, 2), bool))
    with pytest.raises(BadInput, match="no pixels"):
        j_and_f(np.ones((0, 3, 4), bool), np.ones((0, 3, 4), bool))
    with pytest.raises(BadInput, match="bound_th"):
        j_and_f_per_frame(np.ones((3, 4), bool), np.ones((3, 4), bool), bound_th=-1)


def f_by_its_definition(truth: np.ndarray, pred: np.ndarray, radius: int) -> float:
    """F of one frame without cropping or dilating: a boundary pixel looks for one of the other within the radius."""
    one, two = (np.argwhere(boundary_map(mask)) for mask in (truth, pred))
    if not len(one) or not len(two):
        return float(len(one) == len(two))
    near = ((one[:, None] - two[None]) ** 2).sum(axis=-1) <= radius**2
    precision, recall = near.any(axis=0).mean(), near.any(axis=1).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_f_by_its_definition(masks, radius):
    truth, pred = masks
    f = j_and_f_per_frame(truth, pred, bound_th=radius)[1]
    assert f == pytest.approx(f_by_its_definition(truth, pred, radius))


@settings(deadline=None)
@given(hnp.arrays(bool, (3, 4, 7, 5)))
def test_cropping_does_not_change_j(masks):
    truth, pred, void = masks
    np.testing.assert_array_equal(j_and_f_per_frame(truth, pred, void)[0], region_similarity(truth, pred, void))


def test_masks_in_any_memory_order():
    truth, pred = square(2, 3, 5), square(3, 3, 5)
    flipped = [np.asfortranarray(mask)[::-1, ::-1] for mask in (truth, pred)]
    assert j_and_f(*flipped) == j_and_f(truth[::-1, ::-1].copy(), pred[::-1, ::-1].copy())


# DAVIS


def labels(*frames: list[int]) -> np.ndarray:
    """A label map (frames, 1, pixels)."""
    return np.array(frames, dtype=np.uint8)[:, None]


def test_statistics_count_by_hand():
    assert statistics(np.array([0.9, 0.8, 0.7, 0.6, 0.4])) == pytest.approx((0.68, 0.8, 0.85 - 0.5))
    assert statistics(np.array([1.0, math.nan])) == pytest.approx((1.0, 0.5, math.nan), nan_ok=True)
    with pytest.raises(BadInput, match="one value per frame"):
        statistics(np.zeros(0))


def test_decay_of_long_videos_is_right_unless_the_reference_is_asked_for():
    falling = np.linspace(1, 0, 1000)
    assert statistics(falling).decay == pytest.approx(0.75, abs=0.01)
    assert math.isnan(statistics(falling, reference=True).decay)
    assert statistics(falling[:255], reference=True) == statistics(falling[:255])


def test_the_mean_is_over_objects_not_sequences():
    two = labels(*[[1, 2, 0, 0]] * 3), labels(*[[1, 2, 0, 0]] * 3)
    one = labels(*[[1, 0, 0, 0]] * 3), labels(*[[0, 0, 0, 0]] * 3)
    found = davis_unsupervised([("two", *two), ("one", *one)])
    assert found.overall["J-Mean"] == pytest.approx(2 / 3) and set(found.objects) == {"two_1", "two_2", "one_1"}


def test_unsupervised_assigns_and_names_by_object():
    truth = labels(*[[1, 1, 2, 2, 0]] * 2)
    result = labels(*[[2, 2, 1, 0, 0]] * 2)
    ours, theirs = (davis_unsupervised([("a", truth, result)], reference=flag) for flag in (False, True))
    assert [ours.objects[f"a_{k}"]["J-Mean"] for k in (1, 2)] == [1.0, 0.5]
    assert [theirs.objects[f"a_{k}"]["J-Mean"] for k in (1, 2)] == [0.5, 1.0]  # proposal 1 is object 2
    assert ours.overall == theirs.overall


@settings(deadline=None, max_examples=25)
@given(hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)), st.permutations([1, 2, 3]))
def test_unsupervised_does_not_depend_on_the_numbers_of_proposals(result, order):
    truth = np.tile(np.array([1, 1, 2, 3, 0], dtype=np.uint8), (3, 4, 1))
    renamed = np.array([0, *order], dtype=np.uint8)[result]
    one, two = (davis_unsupervised([("a", truth, maps)]).overall for maps in (result, renamed))
    assert one["J&F-Mean"] == pytest.approx(two["J&F-Mean"])
    assert davis_unsupervised([("a", truth, truth)]).overall["J&F-Mean"] == 1.0


def test_davis_refuses():
    score = davis_unsupervised
    truth = labels(*[[1, 0, 0]] * 3)
    with pytest.raises(BadInput, match=r"'x'.*resize"):
        score([("x", truth, truth[:, :, :2])])
    with pytest.raises(BadInput, match="no object"):
        score([("x", truth * 0, truth * 0)])
    with pytest.raises(BadInput, match="twice"):
        score([("x", truth, truth)] * 2)
    with pytest.raises(BadInput, match="21 proposals"):
        score([("x", truth, truth * 21)])
    with pytest.raises(BadInput, match="at least"):
        score([("x", truth[:0], truth[:0])])


# Expressions


def test_a_missing_prediction_scores_zero_unless_skipped():
    scores = [JAndF(1.0, 0.5, 0.75), None]
    assert mean_over_expressions(scores) == (0.5, 0.25, 0.375, 2, 1)
    assert mean_over_expressions(scores, missing="skip") == (1.0, 0.5, 0.75, 2, 1)
    assert mean_over_expressions([None]).j_and_f == 0
    for wrong, how in (([], "zero"), ([None], "skip")):
        with pytest.raises(BadInput, match="nothing to average"):
            mean_over_expressions(wrong, how)
    with pytest.raises((BadInput, TypeError)):
        mean_over_expressions(scores, "drop")


def test_merging_takes_the_strongest_from_one_half_on():
    maps = np.array([[0.5, 0.49, 0.8, 1.0], [0.5, 0.2, 0.9, 0.0]]).reshape(2, 1, 1, 4)
    assert merge_expressions(maps).tolist() == [[[1, 0, 2, 1]]]
    with pytest.raises(BadInput, match="divide"):
        merge_expressions(maps * 100)


def test_ref_davis_is_the_mean_of_four_annotators():
    truth = labels(*[[1, 1, 2, 2]] * 2)
    good = np.stack([truth == 1, truth == 2]).astype(float)
    maps = np.repeat(good, 4, axis=0)
    maps[3::4] = 0  # the fourth annotator's expressions find nothing
    found = ref_davis17([("a", truth, maps)])
    assert [table["J-Mean"] for table in found.annotators] == [1, 1, 1, 0]
    assert found.mean["J-Mean"] == found.per_expression.j == 0.75
    with pytest.raises(BadInput, match="4 for each object"):
        ref_davis17([("a", truth, maps[:7])])


def test_revos_accuracy_and_robustness():
    rows = [1, 0, 0, 0], [255, 9, 0, 0], [1, 1, 0, 0]
    truth, pred, foreground = (np.array([[row]], dtype=np.uint8) for row in rows)
    score = revos_score(truth, pred, foreground)
    assert score == pytest.approx((0.5, score.f, 0.75, 0.5), abs=1e-6)
    assert revos_score(truth, pred, foreground * 0).robustness == 0
    means = mean_over_revos({"referring": [score], "reasoning": [RevosScore(0, 0, 0, 0), None]})
    assert means["overall"].accuracy == pytest.approx(0.375)
    with pytest.raises(BadInput, match="'reasoning'"):
        mean_over_revos({"referring": [score], "reasoning": []})
    with pytest.raises((BadInput, TypeError), match=r"foreground|jaxtyping|Type"):
        revos_score(truth, pred, foreground[..., :2])


# Points


def boxes(*corners: tuple[int, int], size: int = 10) -> np.ndarray:
    """One mask of 2 x 2 pixels for each top left corner (x, y)."""
    masks = np.zeros((len(corners), size, size), dtype=bool)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + 2, x : x + 2] = True
    return masks


def test_points_count_by_hand():
    truth, masks = np.array([[1.0, 1.0], [7.0, 7.0]]), boxes((1, 1), (7, 7))
    pred = np.array([[2.4, 1.0], [4.0, 4.0], [8.0, 8.0]])
    assert image_point_scores(truth, pred, masks) == pytest.approx((2 / 3, 1, 0.8))
    assert image_point_scores(truth, truth, masks) == (1, 1, 1)
    assert image_point_scores(truth, truth, masks, reference=True).f1 == pytest.approx(1 - 5e-11, abs=1e-15)
    assert image_point_scores(truth, truth + 3, masks) == (0, 0, 0)


def test_points_where_a_side_is_empty():
    none, one, mask = np.zeros((0, 2)), np.ones((1, 2)), boxes((1, 1))
    assert image_point_scores(none, none, mask[:0]) == (1, 1, 1)
    assert image_point_scores(none, one, mask[:0]) == image_point_scores(one, none, mask) == (0, 0, 0)


def test_a_point_in_the_mask_of_another_object_misses():
    truth, masks = np.array([[1.0, 1.0], [9.0, 9.0]]), boxes((1, 1), (4, 4))
    assert image_point_scores(truth, np.array([[4.0, 4.0]]), masks) == (0, 0, 0)  # nearer to the first true point
    assert image_point_scores(truth, np.array([[4.0, 4.0], [1.0, 1.0]]), masks) == (1, 1, 1)


@pytest.mark.parametrize(("x", "hit"), [(0.5, False), (1.5, True), (2.5, True), (-0.5, False), (9.5, False)])
def test_halves_go_to_the_even_pixel(x, hit):
    mask = boxes((1, 0))  # columns 1 and 2; 0.5 rounds to 0, 1.5 and 2.5 to 2, 9.5 to 10, which is outside
    assert image_point_scores(np.array([[1.0, 0.0]]), np.array([[x, 0.0]]), mask).recall == hit


@settings(deadline=None)
@given(
    hnp.arrays(float, (4, 2), elements=st.floats(0, 9, width=16), unique=True),
    hnp.arrays(float, (3, 2), elements=st.floats(0, 9, width=16), unique=True),
    st.permutations(range(4)),
    st.permutations(range(3)),
)
def test_points_do_not_depend_on_their_order(truth, pred, objects, order):
    masks = np.stack([boxes((int(x) % 9, int(y) % 9))[0] for x, y in truth])
    best, other = sum_of_distances(truth, pred)
    if other - best < 1e-6:
        return  # two assignments are equally good, so the order decides
    score = image_point_scores(truth, pred, masks)
    assert score == image_point_scores(truth[objects], pred[order], masks[objects])
    assert 0 <= score.f1 <= max(score[:2]) <= 1


def sum_of_distances(truth: np.ndarray, pred: np.ndarray) -> tuple[float, float]:
    """Of the best and of the second best assignment of three predictions to four objects."""
    from itertools import permutations

    sums = [sum(math.dist(truth[k], pred[n]) for n, k in enumerate(chosen)) for chosen in permutations(range(4), 3)]
    return tuple(sorted(sums)[:2])


def test_video_points_must_have_the_exact_time():
    truth = np.array([[1.0, 1, 1], [2.0, 7, 7]])
    tubes = [{1.0: boxes((1, 1))[0]}, {2.0: boxes((7, 7))[0]}]
    pred = np.array([[1.0, 2, 2], [2.1, 7, 7]])
    assert video_point_scores(truth, pred, tubes, 10, 10, 10) == (0.5, 0.5, 0.5, True)
    assert video_point_scores(truth, pred[:0], tubes, 10, 10, 10) == (0, 0, 0, False)
    assert video_point_scores(truth[:0], pred[:0], [], 10, 10, 10) == (1, 1, 1, False)
    with pytest.raises(BadInput, match="duration 0"):
        video_point_scores(truth, pred, tubes, 0, 10, 10)
    with pytest.raises(BadInput, match="one tube"):
        video_point_scores(truth, pred, tubes[:1], 10, 10, 10)


def test_points_refuse():
    one, mask = np.ones((1, 2)), boxes((1, 1))
    with pytest.raises(BadInput, match="one mask for each"):
        image_point_scores(one, one, mask[:0])
    with pytest.raises(BadInput, match="not finite"):
        image_point_scores(one, one * math.nan, mask)
    with pytest.raises((BadInput, TypeError), match=r"points, 2|pred_px"):
        image_point_scores(one, np.ones((1, 3)), mask)
    with pytest.raises(BadInput, match="at least one"):
        mean_point_scores([])
    assert mean_point_scores([PointScore(1, 0, 0), PointScore(0, 0, 1)]) == (0.5, 0, 0.5)


# Counting


def test_reference_counters_differ():
    assert molmo2_video_count(0, "There are none.") == molmo1_image_count(0, "There are none.") == (False, False, False)
    assert molmo2_video_count(3, "three").valid is False and molmo1_image_count(3, "three").correct
    assert molmo2_video_count(5, "a total of 5 and a total of 6").correct
    assert molmo1_image_count(6, "a total of 5 and a total of 6 dogs").correct
    assert molmo2_video_count(40, "43").close and not molmo1_image_count(40, "43").close
    assert molmo2_image_count(5, 4) == (False, True, True)
    for count in (molmo1_image_count, molmo2_video_count):  # as published: 1,200 is 1
        assert count(1, "a total of 1,200").correct and not count(5, "a total of " + "9" * 5000).valid


# Tracks


def follow(*tracks: tuple[str, list[int]]) -> tuple[dict, dict]:
    """Points by frame and masks by object of things that sit in their own corner; the list says in which frames."""
    points: dict[int, list[TrackPoint]] = {}
    tubes: dict[str, dict[int, np.ndarray]] = {}
    for name, frames in tracks:
        x, y = HOME[name]
        tubes[name] = {at: boxes((x, y))[0] for at in frames}
        for at in frames:
            points.setdefault(at, []).append(TrackPoint(name, x, y))
    return points, tubes


HOME = {"1": (0, 0), "2": (8, 0), "3": (0, 8), "10": (8, 8)}


@pytest.mark.parametrize("pairing", ["id", "reference"])
def test_perfect_tracks(pairing):
    truth, tubes = follow(("1", [0, 1, 2]), ("2", [0, 1, 2]))
    found = track_scores(truth, truth, tubes, pairing)
    assert found[:3] == pytest.approx((1, 1, 1)) and found.hota["HOTA"] == 1 and list(found.frames) == [0, 1, 2]


def test_an_absent_object_moves_masks_only_in_the_reference():
    truth, tubes = follow(("1", [0]), ("2", [0, 1]))
    ours, theirs = (track_scores(truth, truth, tubes, pairing) for pairing in ("id", "reference"))
    assert ours[:3] == (1, 1, 1) and ours.hota["HOTA"] == 1
    assert theirs.frames[1] == (0, 0, 0) and theirs.hota["HOTA"] < 1


def test_ids_are_paired_as_text():
    truth, tubes = follow(("1", [0]), ("10", [0]), ("2", [0]))
    as_numbers = {
        at: [point._replace(object_id=int(point.object_id)) for point in points] for at, points in truth.items()
    }
    assert track_scores(as_numbers, truth, tubes).hota["HOTA"] == track_scores(truth, as_numbers, tubes).recall == 1


def test_frames_that_only_one_side_has_score_zero():
    truth, tubes = follow(("1", [0, 1]))
    found = track_scores(truth, {0: truth[0], 7: truth[0]}, tubes)
    assert found.precision == pytest.approx(1 / 3) and found.frames[1] == found.frames[7] == (0, 0, 0)
    assert found.hota["HOTA_TP"] == found.hota["HOTA_FN"] == found.hota["HOTA_FP"] == 1


def test_tracks_where_nothing_is():
    ours, theirs = (track_scores({}, {}, {}, pairing) for pairing in ("id", "reference"))
    assert ours[:3] == theirs[:3] == (1, 1, 1) and ours.hota["HOTA"] == theirs.hota["HOTA"] == 1
    assert ours.hota["HOTA_TP"] == 0 and theirs.hota["HOTA_TP"] == 1
    assert mean_track_scores([ours, theirs])["recall"] == 1


def test_tracks_refuse():
    truth, tubes = follow(("1", [0]))
    with pytest.raises(BadInput, match="object '2', but masks only of"):
        track_scores({0: [TrackPoint("2", 0, 0)]}, {}, tubes)
    with pytest.raises(BadInput, match="predicted points of frame 3"):
        track_scores(truth, {3: [TrackPoint("1", math.inf, 0)]}, tubes)
    with pytest.raises((BadInput, TypeError)):
        track_scores(truth, truth, tubes, pairing="name")
    with pytest.raises(BadInput, match="one video"):
        mean_track_scores([])


def clips(draw: st.DrawFn) -> tuple[list, list, list]:
    """Ids and similarities of a short video."""
    frames = draw(st.integers(1, 4))
    ids = [[draw(st.lists(st.integers(0, 3), unique=True)) for _ in range(frames)] for _ in range(2)]
    values = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return *ids, [draw(hnp.arrays(float, (len(a), len(b)), elements=values)) for a, b in zip(*ids, strict=True)]


@settings(deadline=None)
@given(st.composite(clips)())
def test_hota_has_symmetries_and_bounds(clip):
    truth, pred, similarities = clip
    found = hota_scores(truth, pred, similarities)
    assert all((values >= 0).all() and (values <= 1 + 1e-12).all() for name, values in found.items() if "_" not in name)
    named = hota_scores([[string.ascii_letters[n] for n in frame] for frame in truth], pred, similarities)
    for name, values in found.items():
        np.testing.assert_array_equal(values, named[name])
    np.testing.assert_allclose(found["HOTA"] ** 2, found["DetA"] * found["AssA"])
    np.testing.assert_array_equal(found["HOTA_TP"] + found["HOTA_FN"], 0 * found["HOTA_TP"] + sum(map(len, truth)))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), unique=True), min_size=1, max_size=5), st.permutations(range(5)))
def test_hota_of_perfect_tracks_is_1(truth, names):
    pred = [[names[n] for n in frame] for frame in truth]
    found = hota_scores(truth, pred, [np.eye(len(frame)) for frame in truth])
    assert all((values == pytest.approx(1)) for name, values in found.items() if "_" not in name)


@pytest.mark.parametrize("seed", range(5))
def test_hota_depends_on_the_order_neither_of_frames_nor_of_objects(seed):
    random = np.random.default_rng(seed)
    truth, pred = ([random.permutation(5)[: random.integers(1, 5)] for _ in range(6)] for _ in range(2))
    similarities = [random.random((len(a), len(b))) for a, b in zip(truth, pred, strict=True)]
    found = hota_scores(truth, pred, similarities)
    turned = truth, [ids[::-1] for ids in pred], [values[:, ::-1] for values in similarities]
    again = hota_scores(*(part[::-1] for part in turned))
    for name, values in found.items():
        np.testing.assert_allclose(values, again[name])


def test_hota_loses_association_when_a_track_breaks():
    found = hota_scores([[1], [1]], [["a"], ["b"]], [np.ones((1, 1))] * 2)
    assert found["DetA"][0] == 1 and found["AssA"][0] == 0.5 and found["HOTA"][0] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(("when_empty", "score", "count"), [("ones", 1, 0), ("molmo2", 1, 1), ("trackeval", 0, 0)])
def test_hota_of_nothing(when_empty, score, count):
    found = hota_scores([[]], [[]], [np.zeros((0, 0))], when_empty)
    assert (found["HOTA"] == score).all() and (found["HOTA_FP"] == count).all() and (found["LocA"] == 1).all()


def test_hota_refuses():
    with pytest.raises(BadInput, match="frame 0: similarities of shape"):
        hota_scores([[1]], [[1]], [np.ones((2, 1))])
    with pytest.raises(BadInput, match="expected 0 to 1"):
        hota_scores([[1]], [[1]], [np.full((1, 1), 2.0)])
    with pytest.raises(BadInput, match="1 frames of true ids, 0"):
        hota_scores([[1]], [], [])


# Grounded conversations


def strip(*rows: list[int]) -> np.ndarray:
    """Masks (phrases, 1, 1, pixels)."""
    return np.array(rows, dtype=bool).reshape(len(rows), 1, 1, -1)


def test_conversations_count_by_hand():
    truth, pred = strip([1, 1, 0, 0], [0, 0, 1, 1]), strip([0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0])
    assert gcg_miou(truth, pred) == 0.75 and gcg_miou(truth, pred[:0]) == 0
    assert gcg_matches(truth, pred, np.ones((2, 3))) == [(1, 0), (0, 1)]
    assert gcg_scores([(truth, pred, np.ones((2, 3))), (truth, pred[:0], np.ones((2, 0)))]) == (0.375, 0.5)


def test_recall_goes_on_after_a_pair_whose_words_differ():
    truth, words = strip([1, 1, 0, 0], [0, 0, 1, 1]), np.array([[0.0, 1.0], [1.0, 1.0]])
    assert gcg_matches(truth, truth, words) == [(1, 1)]
    assert gcg_matches(truth, truth, words, reference=True) == []


def test_two_empty_masks_agree_unless_the_reference_is_asked_for():
    truth = strip([1, 1], [0, 0])
    assert gcg_miou(truth, truth) == 1 and gcg_miou(truth, truth, reference=True) == 0
    assert len(gcg_matches(truth, truth, np.ones((2, 2)), reference=True)) == 2


@settings(deadline=None)
@given(hnp.arrays(bool, (2, 3, 2, 2, 3)), st.permutations(range(3)))
def test_miou_has_symmetries_and_bounds(masks, order):
    truth, pred = masks
    assert 0 <= gcg_miou(truth, pred) <= 1
    assert gcg_miou(truth, truth[order]) == 1
    assert len(gcg_matches(truth, truth[order], np.ones((3, 3)))) == 3


def test_conversations_refuse():
    masks = strip([1, 0])
    with pytest.raises((BadInput, TypeError)):
        gcg_miou(masks, masks[..., :1])
    with pytest.raises(BadInput, match="true phrases in rows"):
        gcg_matches(masks, masks, np.ones((1, 2)))
    with pytest.raises(BadInput, match="0 videos"):
        gcg_scores([])


def test_small_components_are_dropped():
    masks = np.zeros((1, 1, 10, 10), dtype=bool)
    masks[0, 0, :4, :5] = masks[0, 0, 6:, 6:] = True
    kept = drop_small_components(masks)
    assert kept.sum() == 20 and kept[0, 0, :4, :5].all()
    masks[0, 0] = False
    masks[0, 0, :3, :4] = masks[0, 0, 3:6, 4:8] = True  # two of twelve pixels that meet in a corner
    assert not drop_small_components(masks).any()
