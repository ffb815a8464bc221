"""Video writing: what comes back from the file is what went in, and nothing half-written stays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numbered_frames import HEIGHT, WIDTH, number_of, picture

from videomolmo.errors import BadInput
from videomolmo.io.video import VideoWriter, open_video


@pytest.mark.parametrize("height, width", [(HEIGHT, WIDTH), (HEIGHT - 1, WIDTH + 1)])
def test_writer_and_back(height, width, tmp_path):
    path = tmp_path / "out.mp4"
    clip = [picture(number, height, width) for number in range(20)]
    with VideoWriter(path, fps=29.97, height=height, width=width) as video:
        for frame in clip:
            video.write(frame)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    with open_video(path) as frames:
        assert (frames.height, frames.width) == (96, WIDTH + 2 * (width % 2))
        assert abs(frames.fps - 29.97) < 1e-3
        assert [number_of(frame) for frame in frames] == list(range(20))
        difference = frames[7][:height, :width].astype(int) - clip[7]
        assert abs(difference).mean() < 6
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded


def test_times_and_shape_of_pixels_come_back(tmp_path):
    times_s = np.array([0.5, 0.6, 0.6334, 0.6667, 3.0, 3.0417, 90.0])
    with VideoWriter(tmp_path / "out.mp4", 30, HEIGHT, WIDTH, times_s, Fraction(40, 33)) as video:
        for number in range(8):
            video.write(picture(number))
    with open_video(tmp_path / "out.mp4") as frames:
        assert [number_of(frame) for frame in frames] == list(range(8)) and frames.pixel_aspect == Fraction(40, 33)
        assert np.allclose(frames.times_s[:7], times_s - 0.5, atol=1e-5) and frames.times_s[7] > frames.times_s[6]
    with VideoWriter(tmp_path / "same.mp4", 30, HEIGHT, WIDTH, [0, 0, 0]) as video:  # a data set may show one thrice
        for number in range(3):
            video.write(picture(number))
    with open_video(tmp_path / "same.mp4") as frames:
        assert len(frames) == 3 and frames.times_s[-1] < 0.001


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("12:30").mkdir()
    with VideoWriter("12:30/at 12:31.mp4", 10, 48, 64) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    with open_video("12:30/at 12:31.mp4") as frames:
        assert len(frames) == 1


def test_writer_keeps_colours(tmp_path):
    colours = np.array([[200, 30, 30], [30, 160, 40], [40, 60, 200], [128, 128, 128]], dtype=np.uint8)
    with VideoWriter(tmp_path / "out.mp4", 30, 64, 128) as video:
        video.write(np.broadcast_to(np.repeat(colours, 32, axis=0), (64, 128, 3)))
    with open_video(tmp_path / "out.mp4") as frames:
        assert abs(frames[0][32, 16::32].astype(int) - colours).max() <= 6


def test_writer_leaves_nothing_behind_after_an_exception(tmp_path):
    (tmp_path / "out.mp4").write_text("the older file")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "out.mp4", 30, HEIGHT, WIDTH) as video:
        video.write(picture(0))
        raise KeyError("something else went wrong")
    with pytest.raises(BadInput, match="no frame was written"):
        VideoWriter(tmp_path / "out.mp4", 30, HEIGHT, WIDTH).close()
    with (
        pytest.raises(BadInput, match=r"frame 0 is uint8 \(96, 64, 3\); expected uint8 \(96, 128, 3\)"),
        VideoWriter(tmp_path / "out.mp4", 30, HEIGHT, WIDTH) as video,
    ):
        video.write(picture(0)[:, :64])
    assert (tmp_path / "out.mp4").read_text() == "the older file"
    assert len(list(tmp_path.iterdir())) == 1


def test_writer_refuses(tmp_path):
    for arguments, message in [
        (("out.avi", 30, 10, 10), "cannot write .avi"),
        (("no/out.mp4", 30, 10, 10), "does not exist"),
        (("out.mp4", 0, 10, 10), "fps=0"),
        (("out.mp4", 30, 0, 10), "height=0"),
        (("out.mp4", 30, 10, 10, [0, np.inf]), "a finite time"),
        (("out.mp4", 30, 10, 10, [[0, 1]]), "times_s of shape"),
        (("out.mp4", 30, 10, 10, None, 0), "pixel_aspect=0"),
    ]:
        with pytest.raises(BadInput, match=message):
            VideoWriter(tmp_path / arguments[0], *arguments[1:])


def test_frames_that_the_encoder_does_not_take(tmp_path):
    path = tmp_path / "long.mp4"
    path.write_text("as it was")
    refused = pytest.raises(BadInput, match=r"long\.mp4: frames of 40000x16 cannot be written")
    with refused, VideoWriter(path, 10, 16, 40000) as video:
        for _ in range(2):
            video.write(np.zeros((16, 40000, 3), np.uint8))
    assert path.read_text() == "as it was" and [each.name for each in tmp_path.iterdir()] == ["long.mp4"]
