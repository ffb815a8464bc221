"""Masks on disk behave as an array in memory, and read only what is asked for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomolmo.mask_store import LAYERS, LazyMasks, MaskStore

SIZE = (5, 13)  # a width that fills no whole byte


def random_layers(rng: np.random.Generator, frames: int, objects: int, size=SIZE) -> dict[str, np.ndarray]:
    return {name: rng.random((frames, objects, *size)) < 0.4 for name in LAYERS}


def flags(frames: int, objects: int, value: bool = True) -> dict[str, np.ndarray]:
    return {name: np.full((frames, objects), value) for name in ("forward", "backward")}


@pytest.fixture
def written(tmp_path):
    """A spool of three windows (frames 0–3, 4–7, 8–9) and three objects, and the whole it stands for."""
    rng = np.random.default_rng(0)
    spool, whole = MaskStore(tmp_path), {name: np.zeros((10, 3, *SIZE), bool) for name in LAYERS}
    for start, frames, ids in ((0, 4, (1,)), (4, 4, (1, 3)), (8, 2, (2, 3))):
        layers = random_layers(rng, frames, len(ids))
        spool.write(start, ids, layers, flags(frames, len(ids)))
        for name in LAYERS:
            whole[name][start : start + frames, np.array(ids) - 1] = layers[name]
    return spool, whole


@pytest.fixture
def lazy(written):
    spool, whole = written
    return LazyMasks(spool, "fused", (10, 3, *SIZE)), whole["fused"]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_comes_back(written, layer):
    spool, whole = written
    assert np.array_equal(np.asarray(LazyMasks(spool, layer, (10, 3, *SIZE))), whole[layer])


@settings(deadline=None, max_examples=25)
@given(
    frames=st.integers(1, 4), objects=st.integers(0, 3), height=st.integers(1, 9), width=st.integers(1, 33),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_round_trip_of_any_size(tmp_path_factory, frames, objects, height, width, seed):
    layers = random_layers(np.random.default_rng(seed), frames, objects, (height, width))
    spool = MaskStore(tmp_path_factory.mktemp("spool"))
    spool.write(0, tuple(range(1, objects + 1)), layers, flags(frames, objects))
    for name in LAYERS:
        assert np.array_equal(LazyMasks(spool, name, layers[name].shape)[:], layers[name])


KEYS = {
    "frame": 3,
    "last": -1,
    "numpy integer": np.int64(4),
    "first of all": -10,
    "slice": slice(2, 9),
    "step": slice(1, None, 3),
    "backwards": slice(None, None, -1),
    "empty": slice(4, 4),
    "beyond": slice(8, 99),
    "all": slice(None),
    "object": (5, 1),
    "object of all": (slice(None), 2),
    "pixel": (9, 0, 2, 12),
    "crop": (slice(3, 6), 1, slice(1, 3), slice(0, 4)),
    "from the end": (-2, -1, ..., 0),
    "dots": ...,
    "dots and more": (..., 3),
    "list": [1, 7, 7],
    "pair": ([1, 2], [0, 2]),
    "new axis": None,
    "nothing": (),
    "new axis inside": (2, None),
    "true": np.array([True, False] * 5),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_indexing_is_numpys(lazy, key):
    masks, whole = lazy
    found = masks[key]
    assert np.array_equal(found, whole[key]) and np.asarray(found).dtype == bool


@pytest.mark.parametrize("key", [10, -11, (10, 0), (0, 3), (0, 0, 5)])
def test_out_of_range_is_an_index_error(lazy, key):
    with pytest.raises(IndexError):
        lazy[0][key]


def test_facts_of_an_array(lazy):
    masks, whole = lazy
    assert (masks.shape, masks.ndim, masks.dtype, len(masks)) == (whole.shape, 4, whole.dtype, 10)
    assert masks.size == whole.size and masks.T.shape == whole.T.shape
    assert "10 frames" in repr(masks) and "5×13" in repr(masks)
    assert all(np.array_equal(one, other) for one, other in zip(masks, whole, strict=True))
    with pytest.raises(AttributeError):
        _ = masks.no_such_thing


FUNCTIONS = {
    "any": lambda m: m.any(),
    "any over pixels": lambda m: m.any(axis=(2, 3)),
    "sum": lambda m: m.sum(),
    "mean": lambda m: m.mean(axis=0),
    "np.any": np.any,
    "np.sum": lambda m: np.sum(m, axis=(0, 2)),
    "np.count_nonzero": lambda m: np.count_nonzero(m, axis=(2, 3)),
    "np.nonzero": lambda m: np.stack(np.nonzero(m)),
    "np.concatenate": lambda m: np.concatenate([m, m]),
    "np.stack": lambda m: np.stack([m, m]),
    "np.where": lambda m: np.where(m, 2, 1),
    "np.array": np.array,
    "astype": lambda m: m.astype(np.float32),
    "reshape": lambda m: m.reshape(10, -1),
    "as float": lambda m: np.asarray(m, dtype=np.float32),
    "not": lambda m: ~m,
    "and": lambda m: m & (m ^ True),
    "or": lambda m: m | False,
    "plus": lambda m: m + 1,
    "right minus": lambda m: 1 - m,
    "equal": lambda m: m == 1,
    "unequal": lambda m: m != m,
    "np.logical_or.reduce": lambda m: np.logical_or.reduce(m, axis=0),
    "np.logical_and": lambda m: np.logical_and(m, m),
    "with an array": lambda m: np.ones((3, 5, 13), bool) & m,
    "np.array_equal": lambda m: np.array_equal(m, m),
    "matmul": lambda m: m[0] @ np.ones(13),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_and_operators_are_numpys(lazy, function):
    masks, whole = lazy
    found, wanted = function(masks), function(whole)
    assert np.array_equal(found, wanted) and np.asarray(found).dtype == np.asarray(wanted).dtype


def test_a_copy_is_the_callers_own(lazy):
    masks, whole = lazy
    copy = np.array(masks)
    copy[:] = True
    frame = masks[3]
    frame[:] = True
    assert np.array_equal(masks[:], whole)


def test_only_what_is_asked_for_is_read(written, monkeypatch):
    whole_spool, _ = written
    read = []
    original = MaskStore._read
    monkeypatch.setattr(MaskStore, "_read", lambda self, start: read.append(start) or original(self, start))
    spool = MaskStore(whole_spool.folder)
    masks = LazyMasks(spool, "fused", (10, 3, *SIZE))
    assert len(masks) == 10 and masks.shape and repr(masks) and not read
    _ = masks[5]
    assert read == [4]
    _ = masks[4:7, 1]
    assert read == [4]  # still in memory
    _ = masks[-1]
    assert read == [4, 8]
    for _ in masks:
        pass
    assert read == [4, 8, 0, 4, 8]


def test_reading_frame_by_frame_needs_memory_for_two_windows(tmp_path):
    spool, size = MaskStore(tmp_path), (120, 160)
    for start in range(0, 80, 4):
        spool.write(start, (1, 2), random_layers(np.random.default_rng(start), 4, 2, size), flags(4, 2))
    masks = LazyMasks(spool, "fused", (80, 2, *size))
    window = 3 * 4 * 2 * size[0] * size[1]
    tracemalloc.start()
    try:
        total = sum(int(frame.sum()) for frame in masks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 0
    assert peak < 6 * window < np.prod(masks.shape, dtype=float) * 3  # far from the three layers of the whole clip


def test_frames_that_nobody_wrote_are_empty(tmp_path):
    spool = MaskStore(tmp_path)
    assert not spool.frame("fused", 0, 2, SIZE).any() and not spool.known("forward", 0, 2).any()
    spool.write(3, (2,), {name: np.ones((2, 1, *SIZE), bool) for name in LAYERS}, flags(2, 1))
    counts = [int(spool.frame("fused", at, 2, SIZE).any(axis=(1, 2)).sum()) for at in range(7)]
    assert counts == [0, 0, 0, 1, 1, 0, 0]
    assert spool.known("backward", 4, 2).tolist() == [False, True]


def test_no_frame_and_no_object(tmp_path):
    masks = LazyMasks(MaskStore(tmp_path), "fused", (3, 0, *SIZE))
    assert np.asarray(masks).shape == (3, 0, *SIZE) and not masks.any()


def test_windows_are_found_again_in_any_order_of_writing(tmp_path):
    spool = MaskStore(tmp_path)
    for start in (100_000, 4, 0):
        spool.write(start, (1,), {name: np.full((4, 1, *SIZE), start == 4) for name in LAYERS}, flags(4, 1))
    assert [path.name for path in spool.files()] == ["00000.npz", "00004.npz", "100000.npz"]
    again = MaskStore(tmp_path)
    assert again.files() == spool.files()
    assert [again.frame("fused", at, 1, SIZE).all() for at in (3, 4, 7)] == [False, True, True]


def test_a_window_written_again_is_read_again(tmp_path):
    spool = MaskStore(tmp_path)
    for value in (False, True):
        spool.write(0, (1,), {name: np.full((1, 1, *SIZE), value) for name in LAYERS}, flags(1, 1))
        assert spool.frame("fused", 0, 1, SIZE).all() == value


def test_a_foreign_file_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "2024 holiday.npz").write_bytes(b"mine")
    assert MaskStore(tmp_path).files() == []


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_the_temporary_folder_goes_without_a_word():
    import gc

    spool = MaskStore()
    folder = spool.folder
    assert folder.is_dir()
    del spool
    gc.collect()
    assert not folder.exists()
