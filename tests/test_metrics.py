"""J and F against the DAVIS tool's own numbers, and against cases small enough to count by hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from videomolmo.errors import BadInput
from videomolmo.metrics import boundary_map, boundary_measure, j_and_f, region_similarity

GOLDEN = Path(os.environ.get("VIDEOMOLMO_GOLDEN", Path(__file__).parents[2] / "shared" / "golden")) / "eval"


def golden_file(name: str) -> Path:
    if not (GOLDEN / name).exists():
        pytest.skip(f"no golden data eval/{name}; set VIDEOMOLMO_GOLDEN to the folder that holds it")
    return GOLDEN / name


def square(top: int, left: int, side: int, size: int = 12) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_j_and_f_are_the_davis_tools():
    with np.load(golden_file("jf.npz")) as arrays:
        for case in json.loads(golden_file("jf.json").read_text())["cases"]:
            truth, pred = arrays[case["id"] + "_gt"], arrays[case["id"] + "_pred"]
            void = arrays[case["id"] + "_void"] if case["has_void"] else None
            np.testing.assert_allclose(region_similarity(truth, pred, void), case["J"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(boundary_measure(truth, pred, void), case["F"], rtol=0, atol=1e-9)
            for bound_th, expected in case["F_bound_th"].items():
                f = boundary_measure(truth, pred, void, bound_th=float(bound_th))
                np.testing.assert_allclose(f, expected, rtol=0, atol=1e-9)
            mean = j_and_f(truth, pred, void)
            expected_mean = (np.mean(case["J"]) + np.mean(case["F"])) / 2
            assert mean.j_and_f == pytest.approx(expected_mean, abs=1e-9)


def test_boundary_maps_are_the_davis_tools():
    with np.load(golden_file("boundary_maps.npz")) as arrays:
        names = [name for name in arrays.files if name.endswith("_mask")]
        for name in names:
            expected = arrays[name.replace("_mask", "_bmap")] > 0
            np.testing.assert_array_equal(boundary_map(arrays[name] > 0), expected)
    assert names


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
    assert boundary_measure(truth, pred).tolist() == [1.0, 1.0, 0.0]
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
        boundary_measure(np.ones((3, 4), bool), np.ones((3, 4), bool), bound_th=-1)
