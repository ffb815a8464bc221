"""Several videos and sentences in one command: folders, tables, a bad one among them, and nothing done twice."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace

import dask
import pandas as pd
import plain_system
import pytest
from bench.kill_ground import result_of
from bench.saving import sentences
from numbered_frames import encode
from test_sweep import gone, until

from videomolmo.cli import main
from videomolmo.cli.ground_many import _absolute, _Dropped, _ground, _ground_there, jobs_of
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder
from videomolmo.io import drawing
from videomolmo.io.tables import read_csv
from videomolmo.io.video import VideoWriter
from videomolmo.io.video_decode import PyAVReader
from videomolmo.results import GroundingResult
from videomolmo.systems import SYSTEMS
from videomolmo.weights.hub import SHIPPED

SETTINGS = {
    "every": 5,
    "fusion": "iou",
    "tau": 0.7,
    "context": None,
    "max_frames": 4,
    "reader": "pyav",
} | dict.fromkeys(("latency", "start", "end", "fps"))


@pytest.fixture
def videos(clip, tmp_path):
    """A folder of two videos, one of which is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    with VideoWriter(folder / "good.mp4", 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames[:5]:
            writer.write(frame)
    (folder / "bad.mp4").write_text("This is no video.")
    (folder / "notes.txt").write_text("none here")
    return folder


def test_a_bad_video_stops_no_other_and_nothing_is_done_twice(
    videos, truthful, clip, tiny_folder, tmp_path, capsys, monkeypatch
):
    truthful(clip)
    models = ["--model", tiny_folder / "pointing", "--masks", tiny_folder / "masks", "--device", "cpu"]
    given = ["ground", videos, "the things", "--sentence", "=a thing", "--out", tmp_path / "out", *models]
    assert main(list(map(str, given))) == 1
    printed = capsys.readouterr()
    table = read_csv(tmp_path / "out" / "results.csv")
    assert table.outcome.tolist() == ["failed", "failed", "done", "done"] and "2 done, 2 failed" in printed.err
    assert table.sentence.tolist() == ["the things", "=a thing"] * 2 and table.problem[0].count("bad.mp4")
    assert table.folder.tolist()[2:] == ["good_the-things", "good_a-thing"] and table.frames.tolist()[2:] == [5, 5]
    assert GroundingResult.load(tmp_path / "out" / "good_a-thing").sentence == "=a thing"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["good_a-thing", "good_the-things", "results.csv"]

    monkeypatch.setattr(VideoGrounder, "steps", None)  # nothing is asked again
    assert main(list(map(str, given))) == 1 and read_csv(tmp_path / "out" / "results.csv").equals(table)
    assert main(list(map(str, [*given, "--every", 2]))) == 1  # what is there is not replaced
    assert read_csv(tmp_path / "out" / "results.csv").outcome.eq("failed").all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_says_what_is_asked_and_how(tmp_path, kind):
    rows = {"video": ["a.mp4", "b.mp4"], "sentence": ["the cat", None], "every": [3, None], "tau": [None, 0.5]}
    table, path = pd.DataFrame(rows), tmp_path / f"asked.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    jobs = jobs_of([str(path)], ["a dog", "a dog"], SETTINGS)
    assert [(job.video, job.sentence) for job in jobs] == [
        (str(tmp_path / "a.mp4"), "the cat"), (str(tmp_path / "b.mp4"), "a dog"), (str(tmp_path / "b.mp4"), "a dog")
    ]  # fmt: skip
    assert [job.name for job in jobs] == ["a_the-cat", "b_a-dog", "b_a-dog.1"]
    assert jobs[0].settings == SETTINGS | {"every": 3} and jobs[1].settings == SETTINGS | {"tau": 0.5}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("video,sentence,evry\na,b,3\n", "'evry'"), ("sentence\na\n", "columns video and sentence"),
        ("video,sentence,every\na,b,2.5\n", "line 2: every"), ("video,sentence\na,\n", "line 2: no sentence"),
        ("video,sentence\n,b\n", "line 2: no video"), ("video,sentence,tau\na,b,7\n", "tau"), ("", "not a table"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused(tmp_path, text, named):
    (tmp_path / "asked.csv").write_text(text)
    with pytest.raises(BadInput, match=named):
        jobs_of([str(tmp_path / "asked.csv")], [], SETTINGS)


def test_folders_have_names_that_any_system_takes():
    asked = [
        "the cup",
        "The cup",
        "the cup!",
        "出" * 99,
        "the red circle that was there before the other one came, twice",
    ]
    names = [job.name for job in jobs_of([f"in/{'影' * 80}.mp4", "in/clip.mp4"], asked, {})]
    assert len({name.casefold() for name in names}) == len(names) == 10
    assert max(len(name.encode()) for name in names) < 255 - len(".recorded.unfinished")
    assert names[5:8] == ["clip_the-cup", "clip_The-cup.1", "clip_the-cup.2"]


def test_sentences_about_a_video_share_its_frames_and_their_features(shipped_grounder, clip, tmp_path, monkeypatch):
    read, encoded, looked, joined = [], [], [], []
    with VideoWriter(tmp_path / "clip.mp4", 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames:
            writer.write(frame)
    tracker, pointer = shipped_grounder.tracker, shipped_grounder.pointer
    settings = {**SETTINGS, "every": 2, "max_frames": None}
    names = ("the red circle", "every shape", "the thing")
    for name in names:  # alone
        _ground((shipped_grounder, tmp_path / "alone", False), jobs_of([str(tmp_path / "clip.mp4")], [name], settings))

    see, look, join, decode = tracker.encode_all, pointer.encode, pointer.image_tokens, PyAVReader.read
    monkeypatch.setattr(tracker, "encode_all", lambda frames: encoded.extend(frames) or see(frames))
    monkeypatch.setattr(pointer, "encode", lambda frames: looked.extend(frames) or look(frames))
    monkeypatch.setattr(pointer, "image_tokens", lambda *seen: joined.append(seen) or join(*seen))
    monkeypatch.setattr(PyAVReader, "read", lambda self, number: read.append(number) or decode(self, number))
    monkeypatch.setattr(
        drawing, "overlay_steps", lambda _, path: (_ for _ in [shutil.copy(tmp_path / "clip.mp4", path)])
    )
    jobs = jobs_of([str(tmp_path / "clip.mp4")], names, settings)
    rows = dict(_ground((shipped_grounder, tmp_path / "together", False), jobs))
    assert [row["problem"] for row in rows.values()] == [None] * 3
    assert read == list(range(12))
    assert len(looked) == 12 + 1 and len(joined) == 6  # and black before the first; key frames with their past
    assert len(encoded) < 2 * 12
    for job in jobs:
        one, other = (result_of(tmp_path / name / job.name) for name in ("alone", "together"))
        assert {name for name in one if one[name] != other[name]} <= {"overlay.mp4"} and one.keys() == other.keys()


def test_the_benchmark_of_a_second_sentence_runs(videos, tmp_path):
    found = sentences(videos / "good.mp4", "the red circle", tmp_path / "out", runs=1, frames=4)
    assert min(found["one"], found["two"]) > 0 and len(found["objects"]) == 2


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler with two workers for one job at a time each."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


def test_a_cluster_does_the_same_as_processes_here(videos, scheduler, tmp_path, monkeypatch, capsys):
    loads = []
    monkeypatch.setitem(SYSTEMS, "plain", lambda *given, **options: loads.append(given) or plain_system.load())
    encode(videos / "more.mp4", count=8)
    monkeypatch.chdir(tmp_path)
    sentences = ["the light", "--sentence", "the dark"]
    given = ["ground", "videos", *sentences, "--model", "plain", "--every", "2", "--end", "6f"]
    assert main([*given, "--out", "here"]) == 1
    loads.clear()
    assert main([*given, "--out", "there", "--scheduler", scheduler]) == 1
    assert len(loads) == 1  # both workers are threads of this process, and keep their models
    here, there = (read_csv(tmp_path / name / "results.csv") for name in ("here", "there"))
    assert there.drop(columns="problem").equals(here.drop(columns="problem")) and here.objects.max() == 1
    assert there.outcome.tolist() == ["failed"] * 2 + ["done"] * 4 and "bad.mp4: not a video" in there.problem[0]
    for name in there.folder[2:]:
        assert result_of(tmp_path / "here" / name) == result_of(tmp_path / "there" / name)
    assert main([*given, "--out", "there", "--scheduler", scheduler, "--workers", "2"]) == 2
    assert "--workers says nothing to a scheduler" in capsys.readouterr().err
    monkeypatch.setattr("videomolmo.io.cluster.ANSWER_WITHIN_S", 1)
    assert main([*given[:3], "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.slow
def test_jobs_of_a_batch_system_do_the_same_as_processes_here(slurm, videos, tmp_path, monkeypatch, capsys):
    """With the options of dask-jobqueue's own file; what it says of them where they are missing is told in a line."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is missing: pip install 'videomolmo[cluster]'")
    monkeypatch.chdir(tmp_path)
    given = ["ground", "videos", "the red circle", "--max-frames", "2", "--device", "cpu", "--out"]
    assert main([*given, "there", "--cluster", "slurm"]) == 2
    assert "from [cluster] of the grid of a sweep, or ~/.config/dask/jobqueue.yaml: You must" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
    own = {"cores": 1, "memory": "4 GB", "scheduler-options": {"host": "127.0.0.1", "dashboard_address": ":0"}}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in own.items()}):
        assert main([*given, "there", "--cluster", "slurm"]) == main([*given, "here"]) == 1
    here, there = (read_csv(tmp_path / name / "results.csv") for name in ("here", "there"))
    assert there.drop(columns="problem").equals(here.drop(columns="problem")) and there.outcome[1] == "done"
    for name in there.folder[1:]:
        assert result_of(tmp_path / "here" / name) == result_of(tmp_path / "there" / name)
    (script,) = slurm.glob("*.sh")
    assert "--cpus-per-task=1\n" in script.read_text()
    until(lambda: gone(int(script.stem)))


def test_what_a_cluster_was_asked_by_somebody_who_left_is_dropped(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "plain", lambda *given, **options: plain_system.load())
    wanted = iter([True])
    monkeypatch.setattr("videomolmo.cli.ground_many.ASK_EVERY_S", 0.0)
    monkeypatch.setattr("videomolmo.cli.ground_many.still_wanted", lambda task: lambda: next(wanted, False))
    jobs = [replace(job, path=job.video) for job in jobs_of([str(videos / "good.mp4")], ["a"], SETTINGS | {"every": 1})]
    (tmp_path / "out").mkdir()
    with pytest.raises(_Dropped):
        _ground_there(({"model": "plain"}, tmp_path / "out", False, jobs), "task")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_a.unfinished"]  # and may go on
    with pytest.raises(BadInput, match="does not see"):
        _ground_there(({"model": "plain"}, tmp_path / "nowhere", False, jobs), "task")


def test_a_shipped_model_is_meant_whatever_lies_here_under_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*SHIPPED, "mine"):
        (tmp_path / name).mkdir()
    assert {name: _absolute(name) for name in SHIPPED} == {name: name for name in SHIPPED} and len(SHIPPED) > 3
    assert _absolute("mine") == str(tmp_path / "mine") and _absolute("someone/model") == "someone/model"
