"""Shared intermediate results: made once, found by content, never half written."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from videomolmo.errors import BadInput
from videomolmo.io.cache import BoundedCache, cached, key_of


def test_is_made_once_and_read_afterwards(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"masks": np.eye(3, dtype=bool), "x": np.arange(4.0)}

    first, second = (cached(tmp_path / "cache", {"seed": 1}, make) for _ in range(2))
    assert len(calls) == 1
    assert {name: value.tolist() for name, value in first.items()} == {n: v.tolist() for n, v in second.items()}
    cached(tmp_path / "cache", {"seed": 2}, make)
    assert len(calls) == 2


@pytest.mark.parametrize("broken", [b"", b"PK", b"no archive at all"])
def test_a_damaged_file_is_made_again(tmp_path, broken):
    path = tmp_path / (key_of({"a": 1}) + ".npz")
    path.write_bytes(broken)
    assert cached(tmp_path, {"a": 1}, lambda: {"v": np.ones(2)})["v"].tolist() == [1, 1]
    assert cached(tmp_path, {"a": 1}, lambda: 1 / 0)["v"].tolist() == [1, 1]


def test_a_bit_flipped_anywhere_changes_no_result(tmp_path):
    made_by, arrays = {"a": 1}, {"v": np.arange(40, dtype=np.int32).reshape(4, 10), "w": np.array([True, False])}
    path = tmp_path / (key_of(made_by) + ".npz")
    cached(tmp_path, made_by, lambda: arrays)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        found = cached(tmp_path, made_by, lambda: arrays)
        assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in arrays.items()}, at


def test_a_failing_maker_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path / "cache", {"a": 1}, lambda: 1 / 0)
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_refuses_what_json_has_no_form_for(value):
    with pytest.raises(BadInput, match="plain JSON"):
        key_of({"value": value})


def test_two_that_start_together_make_it_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        time.sleep(0.2)
        return {"x": np.ones(1)}

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: cached(tmp_path, {"a": 1}, make), range(2)))
    assert len(calls) == 1 and all(one["x"].tolist() == [1] for one in both)


def test_a_bounded_cache_drops_what_was_used_least_recently():
    cache = BoundedCache(10, len)
    for key in "abc":
        cache.put(key, key * 4)  # the third one is too much
    assert list(cache.kept) == ["b", "c"] and cache.size == 8
    assert cache.get("b") == "bbbb" and cache.put("d", "dddd") == "dddd"
    assert cache.get("c") is None and list(cache.kept) == ["b", "d"]
    cache.put("large", "x" * 99)  # the newest stays whatever its size
    assert list(cache.kept) == ["large"] and cache.size == 99
    cache.put("large", "y")
    cache.pop("nothing")
    assert cache.size == 1
    cache.clear()
    assert cache.size == 0 and cache.get("large") is None
