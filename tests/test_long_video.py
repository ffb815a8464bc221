"""However long a video is, masks and frames are not held in memory: grounding, tables, overlay, inspector, exports.

The measurement at full length, time per frame included, is by hand: tests/bench/long_video.py.
"""

from __future__ import annotations

import tracemalloc

from bench.long_video import export, ground, inspect, write

LENGTHS, SIZE = (10, 60, 240), (64, 96)  # the first only has everything imported


def test_memory_grows_by_less_than_half_a_mask_for_each_frame(tmp_path, monkeypatch):
    monkeypatch.setattr("videomolmo.io.drawing.SHOWN_WELL", 1)  # small pictures: they cost most of the time
    monkeypatch.setattr("videomolmo.inspector.exports.SMALLEST_SIDE", 1)
    monkeypatch.setattr("videomolmo.inspector.loading.MAX_BYTES", 1 << 18)  # caches that are full from the beginning
    monkeypatch.setattr("videomolmo.inspector.segments.MAX_BYTES", 1 << 16)
    peaks: dict[str, list[int]] = {}
    for count in LENGTHS:
        folder = tmp_path / str(count)
        folder.mkdir()
        write(folder, count, SIZE, "plain")
        for stage in (ground, inspect, export):
            tracemalloc.start()
            stage(folder, count, SIZE, "plain")
            peaks.setdefault(stage.__name__, []).append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    growth = {name: (long - short) / (LENGTHS[2] - LENGTHS[1]) for name, (_, short, long) in peaks.items()}
    assert max(growth.values()) < SIZE[0] * SIZE[1] / 2, (growth, peaks)
