"""Live sources: a real server whose streams grow and are cut, pipes, and what is no camera."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numbered_frames import HEIGHT, WIDTH, encode, number_of

from videomolmo.errors import BadInput
from videomolmo.io.live import live_name, open_live
from videomolmo.io.sources import open_source

SERVER = Path(__file__).with_name("live_server.py")


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., str]]:
    """`serve(frames, between_s, cut_every)` gives the address of a server in a process of its own."""
    monkeypatch.setattr("videomolmo.io.capture.PATIENCE_S", 3.0)
    started: list[subprocess.Popen] = []

    def begin(frames: int, between_s: float = 0.0, cut_every: int = 0) -> str:
        command = [sys.executable, str(SERVER), *map(str, (frames, between_s, cut_every))]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return f"http://127.0.0.1:{started[-1].stdout.readline().strip()}"

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["mjpeg", "ts"])
def test_a_stream_that_is_cut_goes_on_until_its_server_is_gone(serve, kind):
    with open_live(f"{serve(24, 0.05, 10)}/{kind}") as frames:
        assert frames.is_live and (frames.height, frames.width) == (HEIGHT, WIDTH)
        seen = [number_of(frame) for frame in frames.iterate()]
    assert seen == sorted(set(seen)) and seen[-1] >= 22 and len(seen) >= 12  # decoders may swallow those at a cut
    assert "cut off and opened again, 2 times" in frames.warning and "could not be opened again" in frames.warning
    times = np.asarray(frames.times_s)
    assert times[0] == 0 and (np.diff(times) > 0).all() and len(times) == len(seen)


def test_of_an_endless_stream_the_oldest_frames_are_dropped(serve, monkeypatch):
    monkeypatch.setattr("videomolmo.io.capture.MOST_WAITING", 4)
    with open_live(f"{serve(60, 0.02)}/mjpeg") as frames:
        coming, seen = frames.iterate(), []
        seen.append(number_of(next(coming)))
        while frames.report()["dropped"] < 10:  # the models are busy
            time.sleep(0.02)
        seen += [number_of(frame) for frame in coming]
    assert len(seen) <= 50 and seen == sorted(set(seen))
    assert frames.source_frames.tolist() == [number - seen[0] for number in seen]  # the gap is told
    assert "frames were dropped while the models were busy" in frames.warning
    assert frames.report()["dropped"] == seen[-1] - seen[0] + 1 - len(seen)


def test_a_file_on_a_server_waits_and_is_had_whole(serve, monkeypatch):
    monkeypatch.setattr("videomolmo.io.capture.MOST_WAITING", 2)
    with open_live(f"{serve(20)}/file.mp4") as frames:
        assert [number_of(frame) for frame in frames.iterate()] == list(range(20))
    assert frames.warning is None and frames.source_frames is None
    assert np.allclose(np.asarray(frames.times_s), np.arange(20) / 30, atol=1e-3)


def test_a_stretch_of_a_live_source(serve):
    with open_source(f"{serve(20)}/file.mp4", start="4f", end=0.5, fps=15, max_frames=5) as frames:
        assert [number_of(frame) for frame in frames.iterate()] == [4, 6, 8, 10, 12]
    assert frames.source_frames.tolist() == [4, 6, 8, 10, 12]
    assert np.allclose(frames.source_times_s, np.array([4, 6, 8, 10, 12]) / 30, atol=1e-3)
    assert np.allclose(np.asarray(frames.times_s), np.arange(5) / 15, atol=1e-3)


def test_a_pipe_is_a_source_and_ends_where_it_ends(tmp_path, monkeypatch):
    movie = encode(tmp_path / "clip.ts", count=12, options={"tune": "zerolatency"}).read_bytes()
    os.mkfifo(tmp_path / "fifo")
    threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(movie,), daemon=True).start()
    with open_live(str(tmp_path / "fifo")) as frames:
        assert [number_of(frame) for frame in frames.iterate()] == list(range(12)) and frames.warning is None
    code = "from videomolmo.io.live import open_live; print(len(list(open_live('-').iterate())))"
    assert subprocess.run([sys.executable, "-c", code], input=movie, capture_output=True).stdout == b"12\n"


def test_whoever_writes_into_a_pipe_is_told_when_nobody_reads_on(tmp_path):
    movie, fifo, told = encode(tmp_path / "clip.ts", count=12).read_bytes(), tmp_path / "fifo", []
    os.mkfifo(fifo)

    def write() -> None:
        try:
            with fifo.open("wb", buffering=0) as pipe:
                while True:
                    pipe.write(movie)
        except BrokenPipeError as error:
            told.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with open_live(str(fifo)) as frames:
        next(frames.iterate())
    writer.join(20)
    assert told


def test_what_ends_before_the_end_it_told_of_is_said_to_break_off(tmp_path):
    front = {"movflags": "+faststart"}
    movie = encode(tmp_path / "clip.mp4", count=90, options={"g": "10"}, container_options=front).read_bytes()
    os.mkfifo(tmp_path / "fifo")
    threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(movie[: len(movie) // 2],), daemon=True).start()
    with open_live(str(tmp_path / "fifo")) as frames:
        seen = [number_of(frame) for frame in frames.iterate()]
    assert seen == list(range(len(seen))) and 10 < len(seen) < 70 and "it broke off after" in frames.warning


def test_what_cannot_be_opened_is_told_in_a_line(serve):
    address = serve(3)
    for name, said in (
        (f"{address}/text", "Invalid data"),
        (f"{address}/nothing", "404"),
        ("http://me:secret@127.0.0.1:9/stream", r"http://127\.0\.0\.1:9/stream: cannot be opened"),
        (f"{address}/silence", "cannot be opened .no answer for 3 s"),
        (f"{address}/rubbish", "no frame that can be read for 3 s"),
        ("camera:97", "there is no camera 97"),
    ):
        with pytest.raises(BadInput, match=said) as told:
            open_live(name)
        assert "\n" not in str(told.value) and "secret" not in str(told.value)


def test_names_of_live_sources(tmp_path):
    assert [live_name(name) for name in ("-", "camera:2", "RTSP://a/b", "clip.mp4", tmp_path, 5)] == [
        "-", "camera:2", "RTSP://a/b", None, None, None
    ]  # fmt: skip
    for name, said in (("camera:front", "the number of a camera"), ("ftp://host/a.mp4", "begins with http")):
        with pytest.raises(BadInput, match=said):
            live_name(name)
    (tmp_path / "camera:2").touch()
    assert live_name(str(tmp_path / "camera:2")) is None


class Reels:
    """In place of a camera: OpenCV reads a file, and then there is nothing more."""

    def __init__(self, path: Path) -> None:
        import cv2

        self._open, self._left, self._path = cv2.VideoCapture, 1, path

    def __call__(self, index: int):
        self._left -= 1
        return self._open(str(self._path) if self._left >= 0 else "")


def test_a_camera_that_is_unplugged_ends_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr("videomolmo.io.capture.PATIENCE_S", 0.3)
    monkeypatch.setattr("cv2.VideoCapture", Reels(encode(tmp_path / "clip.mp4", count=6)))
    with open_live("camera:0") as frames:
        seen = [number_of(frame) for frame in frames.iterate()]
    assert seen[-1] == 5 and seen == sorted(set(seen))  # it does not wait until the first one is taken
    assert "the camera gives no more frames" in frames.warning or "there is no camera 0" in frames.warning
