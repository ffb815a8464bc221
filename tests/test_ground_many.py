"""Several videos and sentences in one command: folders, tables, a bad one among them, and nothing done twice."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from bench.kill_ground import result_of

from videomolmo.cli import main
from videomolmo.cli.ground_many import _ground, jobs_of
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder
from videomolmo.io.tables import read_csv
from videomolmo.io.video import VideoWriter
from videomolmo.io.video_decode import PyAVReader
from videomolmo.results import GroundingResult

SETTINGS = {"every": 5, "fusion": "iou", "tau": 0.7, "context": None, "max_frames": 4, "reader": "pyav"}


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


def test_sentences_about_a_video_share_its_frames_and_their_features(shipped_grounder, clip, tmp_path, monkeypatch):
    read, encoded, looked = [], [], []
    with VideoWriter(tmp_path / "clip.mp4", 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames:
            writer.write(frame)
    tracker, pointer = shipped_grounder.tracker, shipped_grounder.pointer
    settings = {**SETTINGS, "every": 2, "max_frames": None}
    names = ("the red circle", "every shape", "the thing")
    for name in names:  # alone
        _ground((shipped_grounder, tmp_path / "alone", False), jobs_of([str(tmp_path / "clip.mp4")], [name], settings))

    see, look, decode = tracker.encode_all, pointer.encode, PyAVReader.read
    monkeypatch.setattr(tracker, "encode_all", lambda frames: encoded.extend(frames) or see(frames))
    monkeypatch.setattr(pointer, "encode", lambda frames: looked.extend(frames) or look(frames))
    monkeypatch.setattr(PyAVReader, "read", lambda self, number: read.append(number) or decode(self, number))
    monkeypatch.setattr(GroundingResult, "overlay", lambda self, path: shutil.copy(tmp_path / "clip.mp4", path))
    jobs = jobs_of([str(tmp_path / "clip.mp4")], names, settings)
    rows = dict(_ground((shipped_grounder, tmp_path / "together", False), jobs))
    assert [row["problem"] for row in rows.values()] == [None] * 3
    assert read == list(range(12))
    assert len(looked) == 12 + 3  # and black before the first, for each sentence
    assert len(encoded) < 2 * 12
    for job in jobs:
        one, other = (result_of(tmp_path / name / job.name) for name in ("alone", "together"))
        assert {name for name in one if one[name] != other[name]} <= {"overlay.mp4"} and one.keys() == other.keys()
