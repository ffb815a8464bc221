"""Pictures of two results next to each other, one of which may end before the other."""

from __future__ import annotations

import av
import numpy as np
import pytest
from inspector_results import made_result, true_masks
from PIL import Image

from videomolmo.inspector.exports import export_video, export_view
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.render import EncodedCache, Look, paint, paint_past


@pytest.fixture
def seen() -> Inspection:
    return Inspection(made_result(), truth=true_masks(12, 2, 40, 51))


def test_two_results_are_exported_next_to_each_other(seen, tmp_path):
    short = Inspection(made_result(frames=9, rule="left", height=20, width=26))
    look, its_look = Look(size=(80, 102)), Look(objects=(1,), size=(60, 102))
    with Image.open(export_view(seen, tmp_path / "v.png", 3, look, (short, its_look))) as image:
        both = np.array(image)
    left, right = paint(seen, 3, look), paint(short, 3, its_look)
    assert np.array_equal(both[: left.shape[0], : left.shape[1]], left)
    assert np.array_equal(both[: right.shape[0], -right.shape[1] :], right) and both.shape[0] == left.shape[0]
    for path in (tmp_path / "a.mp4", tmp_path / "a.gif"):
        with av.open(str(export_video(seen, path, look, beside=(short, its_look)))) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 12 and abs(frames[0].shape[1] - both.shape[1]) <= 1
        assert np.abs(frames[3][:78, :190].astype(int) - both[:78, :190]).mean() < 25
    with Image.open(export_view(short, tmp_path / "w.png", 11, its_look, (seen, look))) as image:
        assert image.size == both.shape[1::-1]  # the longer one decides which frames there are


def test_a_clip_that_has_ended_is_dark_and_says_so(seen):
    last, past = paint(seen, 11, Look(size=(400, 510))), paint_past(seen, 12, Look(size=(400, 510)))
    assert np.array_equal(past[:300], last[:300] // 2) and past[300:].max() > 200  # a note in its corner
    assert np.array_equal(paint_past(seen, 11), paint(seen, 11))
    cache = EncodedCache()
    assert cache.picture(seen, 12, Look()) is cache.picture(seen, 40, Look()) is not cache.picture(seen, 11, Look())
