"""Runs that are stopped or killed go on where they were, and come to the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from bench.kill_ground import result_of
from test_windows import MIXED, windows

from videomolmo.cli import main
from videomolmo.io.video import VideoWriter, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.masks.sam2 import MaskTracker
from videomolmo.masks.unfinished import Unfinished, place_of
from videomolmo.protocols import Question

ROOT = Path(__file__).resolve().parents[1]


def clicks_on(clip, keys: dict[int, list[int]]) -> dict[int, list[np.ndarray]]:
    places = {at: [clip.object_facts[at][n].point for n in named] for at, named in keys.items()}
    return {at: [np.array([point], np.float32) * (80, 64) for point in points] for at, points in places.items()}


@pytest.mark.parametrize(("rows", "rule"), [(1, "iou"), (3, "iou"), (3, "backward")])
def test_windows_go_on_from_every_state_bit_by_bit(shipped_grounder, clip, rows, rule):
    tracker, states, seen = MaskTracker(shipped_grounder.tracker.model, rows), [], []
    keys = clicks_on(clip, MIXED)
    wanted = windows(tracker, clip.frames, keys, rule=rule, keep=states.append)
    assert len(states) > 1 and states[-1]["reached"] == len(clip.frames)
    encode = tracker.encode_all
    tracker.encode_all = lambda frames: seen.append(len(frames)) or encode(frames)
    costs = []
    for state in states:
        found = windows(tracker, clip.frames, keys, rule=rule, state=state)
        rest = [window for window in wanted if window.start >= state["reached"]]
        assert len(found) == len(rest)
        for one, other in zip(found, rest, strict=True):
            assert all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
        costs.append(sum(seen))
        seen.clear()
    assert costs == sorted(costs, reverse=True) and costs[-1] == 0


def test_known_answers_are_not_asked_for_again(shipped_grounder, clip, monkeypatch):
    pointer, asked = shipped_grounder.pointer, []
    monkeypatch.setattr("videomolmo.pointing.BATCH", 2)
    ask = pointer.model.generate
    monkeypatch.setattr(pointer.model, "generate", lambda ids, **more: asked.append(len(ids)) or ask(ids, **more))
    question = Question("Point to the red circle.", open_video(clip.frames), 2, 4)
    wanted = dict(pointer.answers(iter(clip.frames), question))
    assert asked == [2, 2, 2]
    for count, batches in ((1, [2, 2, 2]), (3, [2, 2]), (6, [])):
        asked.clear()
        found = dict(pointer.answers(iter(clip.frames), replace(question, known=range(0, 2 * count, 2))))
        assert asked == batches and list(found) == list(wanted)
        assert all(one is None or one.text == wanted[at].text for at, one in found.items())
        assert [at for at, one in found.items() if one is None] == [0, 2, 4, 6, 8, 10][: 6 - 2 * len(batches)]


@pytest.fixture
def ground(tiny_folder, truthful, clip, tmp_path, capsys):
    """`ground(name, sentence)` runs the command on the clip with results in a folder of this name."""
    movie = tmp_path / "clip.mp4"
    with VideoWriter(movie, 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames:
            writer.write(frame)
    truthful(clip)

    def run(name: str, sentence: str = "the things") -> tuple[int, list[str]]:
        models = ["--model", tiny_folder / "pointing", "--masks", tiny_folder / "masks", "--device", "cpu"]
        given = ["ground", movie, sentence, "--out", tmp_path / name, "--every", 2, *models]
        code, lines = main(list(map(str, given))), capsys.readouterr().err.split("\n")
        return code, [line for line in lines if line.startswith("videomolmo: ")]

    return run


@pytest.fixture
def stopped(ground, monkeypatch) -> str:
    """The last line of a run into "out" that Ctrl-C stopped as its fifth window was about to be written."""
    write, left = MaskStore.write, [4]

    def interrupted(*given) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(MaskStore, "write", interrupted)
        code, errors = ground("out")
    assert code == 130
    assert len(errors) == 1
    return errors[0]


def test_a_stopped_run_says_how_to_go_on_and_does(ground, stopped, tmp_path):
    unfinished = tmp_path / "out.unfinished"
    reached = Unfinished(unfinished).reached
    assert stopped == (
        f"videomolmo: interrupted; frames before {reached} are done, and the same command goes on from there"
    )
    assert 0 < reached < 12 and not (tmp_path / "out").exists()
    with open(unfinished / "answers.jsonl", "a") as file:
        file.write('{"frame": 10, "te')  # as a kill leaves it
    (unfinished / "00010.npz").write_bytes(b"half")
    assert ground("out")[0] == ground("other")[0] == 0
    assert result_of(tmp_path / "out") == result_of(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "other", "out"]


def test_an_unfinished_run_of_other_settings_is_refused_in_one_line(ground, stopped, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / "out.unfinished").iterdir()}
    code, errors = ground("out", "the dog")
    assert code == 2 and "sentence ('the things', now 'the dog')" in errors[0]
    os.utime(tmp_path / "clip.mp4", (0, 0))
    code, errors = ground("out")
    assert code == 2 and "sizes_and_times" in errors[0]
    assert before == {path: path.read_bytes() for path in (tmp_path / "out.unfinished").iterdir()}


def test_what_was_killed_while_it_saved_is_saved_again(ground, stopped, tmp_path):
    """Half a result, and nothing else, may be replaced."""
    (tmp_path / "out.unfinished" / "saving").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps({"videomolmo": "this result is being replaced"}))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert ground("out")[0] == 2 and (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_each_window_is_brought_to_the_disk_once_however_many_came_before(tmp_path, monkeypatch):
    synced, mask = [], np.zeros((2, 1, 4, 8), bool)
    monkeypatch.setattr("videomolmo.masks.unfinished.sync", lambda path: synced.append(path.name))
    (tmp_path / "answers.jsonl").touch()
    run = Unfinished(tmp_path)
    for start in (0, 2, 4):
        run.store.write(start, (1,), dict.fromkeys(("fused", "forward", "backward"), mask), {})
        run.keep({"reached": np.array(start + 2), "count": np.array(1)})
    assert [name for name in synced if name != "answers.jsonl"] == ["00000.npz", "00002.npz", "00004.npz"]


def test_where_nothing_can_be_written_beside_the_folder_it_lies_in_it(ground, tmp_path, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *mode: Path(path) != tmp_path and access(path, *mode))
    (tmp_path / "out").mkdir()
    assert place_of(tmp_path / "out").parent == tmp_path / "out" and ground("out")[0] == 0
    assert not place_of(tmp_path / "out").exists() and (tmp_path / "out" / "run.json").is_file()
    assert place_of(Path(".")).name.endswith(".unfinished")


def test_killed_at_any_moment_it_comes_to_the_same_result():
    script = "from bench.kill_ground import run; print(run(3, 1, 16))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    made = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert made.returncode == 0 and "'killed': 3" in made.stdout, made.stderr
