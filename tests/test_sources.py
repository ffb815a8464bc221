"""Stretches of videos, and live sources, through the whole job: what is looked at, and what tables and files tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from bench.kill_ground import result_of
from numbered_frames import encode, number_of
from plain_system import BrightTracker, load
from test_live import serve  # noqa: F401

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.inspector.exports import export_labels
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.files import RECORDING
from videomolmo.io.sources import excerpt, open_source
from videomolmo.io.tables import read_csv
from videomolmo.io.video import open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult
from videomolmo.systems import SYSTEMS

SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def movie(tmp_path) -> Path:
    """Sixty numbered frames, thirty a second."""
    return encode(tmp_path / "clip.mp4", options={"g": "12"})


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"start": 0.5}, range(15, 60)), ({"start": "0.51s"}, range(16, 60)), ({"end": "1"}, range(30)),
        ({"start": "57f"}, range(57, 60)), ({"start": "00:01.0", "end": "1500ms"}, range(30, 45)),
        ({"end": 99}, range(60)), ({"fps": 10}, range(0, 60, 3)), ({"fps": 60}, range(60)),
        ({"start": 1, "fps": 7.5, "end": "50f"}, range(30, 50, 4)), ({"start": 0.4667}, range(14, 60)),
    ],
)  # fmt: skip
def test_a_stretch_is_what_ffmpeg_calls_so(movie, asked, numbers):
    with open_source(movie, **asked) as frames:
        assert [number_of(frame) for frame in frames] == [*numbers]
        numbers = np.array(numbers)
        assert np.allclose(frames.times_s, (numbers - numbers[0]) / 30)
        if numbers[-1] >= len(numbers):
            assert frames.source_frames.tolist() == numbers.tolist() and frames.source == movie
            assert np.allclose(frames.source_times_s, numbers / 30)


def test_a_rate_goes_by_times_where_these_vary(tmp_path):
    times_ms = [*accumulate([0] + [20, 20, 20, 140] * 8)]
    with open_source(encode(tmp_path / "clip.mp4", count=33, times_ms=times_ms), fps=10) as frames:
        assert frames.source_frames.tolist() == [0, *(n for k in range(8) for n in (4 * k + 3, 4 * k + 4))]
        again = excerpt(frames, start="3f", fps=5)  # of an excerpt: numbers and times are still the source's
        assert again.source_frames.tolist() == [7, 11, 15, 19, 23, 27, 31] and again.times_s[0] == 0
        assert np.allclose(again.source_times_s, np.array(times_ms)[again.source_frames] / 1000)


@pytest.mark.parametrize("fps, left", [(23, 46), (24, 48), (24.9, 49), (25, 50), (26, 50)])
def test_a_rate_just_below_that_of_the_video_thins_out(fps, left, tmp_path):
    with open_source(encode(tmp_path / "clip.mp4", count=50, times_ms=[*range(0, 2000, 40)]), fps=fps) as frames:
        assert len(frames) == left


@pytest.mark.parametrize("fps", [20, 25, 1000])
def test_a_rate_above_the_mean_thins_out_where_frames_are_closer(fps, tmp_path):
    times_ms = [*accumulate([0] + [20] * 20 + [4000] + [20] * 20)]  # ten a second in the mean, and fifty at times
    with open_source(encode(tmp_path / "clip.mp4", count=42, times_ms=times_ms), fps=fps) as frames:
        times_s = np.asarray(times_ms if frames.source_times_s is None else 1000 * frames.source_times_s)
        per_s = [((times_s >= begin) & (times_s < begin + 400)).sum() / 0.4 for begin in (0, 4400)]
        assert per_s == [pytest.approx(min(fps, 50), abs=1 / 0.4)] * 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"start": "soon"}, "start is 'soon', expected seconds"), ({"start": -1}, "start is -1"),
        ({"start": f"{'9' * 5000}f"}, "start is '999"),
        ({"end": float("nan")}, "end is nan"), ({"start": "1:75"}, "is '1:75'"), ({"start": True}, "start is True"),
        ({"start": 3, "end": "2s"}, "end is '2s', expected a later one than start, 3"), ({"end": "0f"}, "end is '0f'"),
        ({"start": 2}, "start is 2.0, but clip.mp4 has 60 frames, the last at 1.967 s"), ({"fps": 0}, "fps is 0"),
        ({"start": "9f", "end": 0.2}, "no frame of clip.mp4 lies between"), ({"fps": "x"}, "fps is 'x'"),
        ({"start": 1.01, "end": 1.02}, "no frame of clip.mp4 lies between"), ({"max_frames": 0}, "max_frames=0"),
    ],
)  # fmt: skip
def test_stretches_that_make_no_sense_are_told_in_a_line(movie, asked, said):
    with pytest.raises(BadInput, match=said) as told:
        open_source(movie, **asked)
    assert "\n" not in str(told.value)


@pytest.fixture
def ground(movie, tmp_path, monkeypatch):
    """`ground(name, *options, video)` runs the command with results in a folder of this name."""
    monkeypatch.setitem(SYSTEMS, "plain", load)

    def run(name: str, *options: object, video: object = movie) -> int:
        given = ["ground", video, "the light", "--model", "plain", "--out", tmp_path / name, "--every", 2, *options]
        return main(list(map(str, given)))

    return run


def test_results_of_a_stretch_tell_where_their_frames_are(ground, movie, tmp_path, capsys, monkeypatch):
    stretch = ("--start", "0:01", "--end", "50f", "--fps", 10)
    assert ground("out", *stretch) == 0
    assert "7 frames, 128×96, 10 fps (frames 30 to 48, 1.00 to 1.60 s)" in capsys.readouterr().out
    numbers, folder = [*range(30, 50, 3)], tmp_path / "out"
    run = json.loads((folder / "run.json").read_text())
    assert run["model"]["start"] == 1.0 and run["model"]["end"] == "50f" and run["model"]["fps"] == 10
    assert run["source_frames"] == numbers and run["frames"] == 7
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [(one["frame"], one["source_frame"], one["source_time_s"]) for one in answers[:2]] == [
        (0, 30, 1.0), (2, 36, 1.2)
    ]  # fmt: skip
    tracks = read_csv(folder / "tracks.csv")
    assert tracks.source_frame.tolist() == [numbers[at] for at in tracks.frame] and len(tracks)
    assert np.allclose(tracks.source_time_s, tracks.source_frame / 30, atol=1e-4)
    with open_video(folder / "overlay.mp4") as overlay:
        assert len(overlay) == 7 and np.allclose(overlay.times_s, np.arange(7) / 10, atol=1e-3)

    result = GroundingResult.load(folder)
    assert [number_of(frame) for frame in result.video()] == numbers
    assert all(np.array_equal(result.masks[at][0], result.video()[at].min(axis=2) >= 230) for at in range(7))
    for given in (str(movie), open_video(movie), open_source(movie, start=1, end="50f", fps=10)):
        look = Inspection(folder, video=given)
        assert [number_of(look.frame(t)) for t in range(7)] == numbers and not look.problems
        assert [number_of(frame) for frame in GroundingResult.load(folder, video=given).video()] == numbers
    with pytest.raises(BadInput, match="has no frame 48, and the result is of an excerpt; give the video itself"):
        GroundingResult.load(folder, video=open_source(movie, end=1))
    export_labels(look, "csv", tmp_path / "tracks.csv")
    assert read_csv(tmp_path / "tracks.csv").source_frame.equals(tracks.source_frame)
    assert result.save(tmp_path / "again") and result_of(tmp_path / "again") == result_of(folder)

    write, left = MaskStore.write, [2]

    def interrupted(*given) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(MaskStore, "write", interrupted)
        assert ground("other", *stretch) == 130
    assert ground("other", "--start", 1) == 2 and ground("other", *stretch) == 0
    assert result_of(tmp_path / "other") == result_of(folder)


def test_whole_videos_have_no_second_numbers(ground, tmp_path):
    assert ground("out", "--max-frames", 8, "--fps", 30) == 0
    result = GroundingResult.load(tmp_path / "out")
    assert result.source_frames is None and "source_frame" not in result.tracks and len(result.video()) == 8


@pytest.mark.parametrize("damage", [[1], "none", [9, 8, 7, 6, 5, 4, 3]])
def test_damaged_numbers_of_the_source_show_no_wrong_frames(ground, tmp_path, damage):
    assert ground("out", "--start", 1, "--fps", 10, "--end", "50f") == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(run | {"source_frames": damage}))
    with pytest.raises(BadInput, match="source_frames"):
        GroundingResult.load(tmp_path / "out")
    look = Inspection(tmp_path / "out")
    assert any("source_frames" in problem for problem in look.problems)
    assert look.frames == 7 and len(np.unique(look.frame(0))) == 1  # grey


def test_a_live_source_is_recorded_and_ends_by_ctrl_c(ground, serve, tmp_path, capsys, monkeypatch):  # noqa: F811
    encoded, encode_frame = [0], BrightTracker.encode

    def counting(self, frame):
        encoded[0] += 1
        if encoded[0] == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return encode_frame(self, frame)

    monkeypatch.setattr(BrightTracker, "encode", counting)
    address = f"{serve(3000, 0.02)}/mjpeg".replace("//", "//me:secret@")
    assert ground("out", "--latency", 2, video=address) == 0
    printed = capsys.readouterr()
    assert "Ctrl-C ends it" in printed.out and "secret" not in printed.out + printed.err
    result = GroundingResult.load(tmp_path / "out")
    assert 8 <= result.frames < 60 and len(result.masks) == result.frames and result.recording.name == RECORDING
    shown = [number_of(frame) for frame in result.video()]
    came = np.arange(result.frames) if result.source_frames is None else result.source_frames
    assert (np.subtract(shown, shown[0]) % 256 == came % 256).all()  # pictures show so many numbers
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["live"]["source"] == run["video"] == address.replace("me:secret@", "")
    assert run["model"]["latency"] == 2
    with open_video(tmp_path / "out" / "overlay.mp4") as overlay, open_video(result.recording) as recording:
        assert len(overlay) == result.frames and np.allclose(recording.times_s, result.times_s, atol=2e-3)
    assert (Inspection(tmp_path / "out").frame(3) != Inspection(tmp_path / "out").frame(0)).any()
    before = result_of(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)
    assert result_of(tmp_path / "out") == before
    assert ground("out", "--overwrite", "--max-frames", 4) == 0  # another one leaves nothing of it
    assert not (tmp_path / "out" / RECORDING).exists()


def test_a_killed_live_run_leaves_what_it_recorded(ground, serve, tmp_path, capsys):  # noqa: F811
    address, record = f"{serve(3000, 0.02)}/mjpeg", tmp_path / "out.recorded.mp4"
    code = "from plain_system import load; from videomolmo.cli import main; from videomolmo.systems import SYSTEMS; "
    code += "import sys; SYSTEMS['plain'] = load; main(sys.argv[1:])"
    given = ["ground", address, "the light", "--model", "plain", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", code, *given], cwd=Path(__file__).parent, **SILENT)
    while not record.exists() or record.stat().st_size < 8000:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    with open_video(record) as frames:
        numbers, times_s = [number_of(frame) for frame in frames], np.asarray(frames.times_s)
    assert len(numbers) > 10 and (np.diff(numbers) % 256 < 64).all() and (np.diff(times_s) > 0).all()
    assert ground("out", "--end", "4f", video=address) == 0  # another run tells of it, and lets it be
    assert f"`videomolmo ground {record} …`" in capsys.readouterr().out
    assert ground("again", video=str(record)) == 0
    assert GroundingResult.load(tmp_path / "again").frames == len(numbers)
    assert sorted(path.name for path in tmp_path.glob("*.recorded*")) == [record.name]


def test_a_live_run_that_fails_says_where_its_frames_are(ground, serve, tmp_path, capsys, monkeypatch):  # noqa: F811
    def failing(self, frame):
        raise BadInput("no more memory")

    monkeypatch.setattr(BrightTracker, "encode", failing)
    assert ground("out", video=f"{serve(3000, 0.02)}/mjpeg") == 2
    record = tmp_path / "out.recorded.mp4"
    assert f"{record} holds what was recorded and not saved" in capsys.readouterr().err
    with open_video(record) as frames:
        assert len(frames) and not (tmp_path / "out").exists()


def test_a_live_source_is_looked_at_alone(ground, tmp_path, capsys):
    assert ground("out", "--sentence", "the dark", video="camera:0") == 2
    assert "a live source is looked at alone" in capsys.readouterr().err
