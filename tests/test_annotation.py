"""Points for training: candidates after their depth, the one that SAM 2 understands best, and whole data sets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import miniature_datasets as mini
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomolmo.annotation.annotate import Settings, annotate_clip, annotate_dataset, choose_point, image_numbers
from videomolmo.annotation.candidate_points import deepest_pixel, depth, num_components, sample_candidates
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.datasets.annotations import LabelPNGs
from videomolmo.datasets.record import Expression, Record, image_sequence
from videomolmo.errors import BadInput
from videomolmo.io.files import locked_folder

ROWS, COLUMNS = np.mgrid[:40, :60]


def disk(x: float, y: float, radius: float) -> np.ndarray:
    return (COLUMNS + 0.5 - x) ** 2 + (ROWS + 0.5 - y) ** 2 <= radius**2


class Stamp:
    """In place of SAM 2: a point gives the disk around it, a negative one takes half of such a disk away."""

    def __init__(self, radius: float = 8.0) -> None:
        self.radius, self.calls = radius, 0

    def encode(self, frame: np.ndarray) -> None:
        return None

    def masks_of(self, frame, points, labels=None):
        self.calls += 1
        labels = [np.ones(len(group), int) for group in points] if labels is None else labels
        masks = []
        for group, signs in zip(points, labels, strict=True):
            mask = np.zeros(ROWS.shape, dtype=bool)
            for (x, y), sign in zip(group, signs, strict=True):
                mask = mask | disk(x, y, self.radius) if sign else mask & ~disk(x, y, self.radius / 2)
            masks.append(mask)
        return np.array(masks)


# Candidates


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.8, 15))
def test_candidates_are_distinct_pixels_of_the_mask(seed: int, count: int, radius: float) -> None:
    mask = disk(20.3, 18.8, radius)
    found = sample_candidates(mask, count, np.random.default_rng(seed))
    assert len(found) == min(count, mask.sum()) == len({tuple(point) for point in found})
    assert all(mask[int(y), int(x)] for x, y in found)


def test_chance_follows_depth() -> None:
    mask = disk(30, 20, 12)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([sample_candidates(mask, 1, rng) for _ in range(3000)])
    depths = depth(mask)
    found = np.mean([depths[int(y), int(x)] for x, y in drawn])
    wanted = (depths[mask] ** 2).sum() / depths[mask].sum()  # mean of d where chance is d / sum d
    assert found == pytest.approx(wanted, rel=0.03)
    assert found > 1.2 * depths[mask].mean()


def test_the_border_of_the_picture_is_a_border() -> None:
    assert depth(np.ones((5, 5), dtype=bool))[0, 0] == 1
    assert deepest_pixel(np.ones((5, 7), dtype=bool)).tolist()[1] == 2


@pytest.mark.parametrize(
    ("mask", "count", "line"), [(np.zeros((4, 4), bool), 3, "empty"), (disk(9, 9, 4), 0, "count is 0")]
)
def test_nothing_to_draw_from(mask: np.ndarray, count: int, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        sample_candidates(mask, count, np.random.default_rng(0))


# The choice


def test_the_best_candidate_wins_in_one_call() -> None:
    tracker, mask = Stamp(), disk(30, 20, 8)
    choice = choose_point(tracker, None, mask, np.random.default_rng(1), candidates=15)
    assert tracker.calls == 1 and len(choice.candidates) == len(choice.ious) == 15
    nearest = choice.candidates[np.linalg.norm(choice.candidates - (30, 20), axis=1).argmin()]
    assert choice.points.tolist() == [nearest.tolist()] and choice.iou == choice.ious.max()
    assert choice.parts == num_components(mask) == 1


def test_points_are_added_where_one_is_not_enough() -> None:
    mask = disk(15, 20, 8) | disk(45, 20, 8)
    one = choose_point(Stamp(), None, mask, np.random.default_rng(0))
    more = choose_point(Stamp(), None, mask, np.random.default_rng(0), max_points=3, iou_threshold=0.8)
    assert one.parts == 2 and one.iou < 0.55 < 0.8 < more.iou
    assert len(one.points) == 1 and len(more.points) == 2 and (more.labels == 1).all()


def test_negative_points_take_away_what_is_too_much() -> None:
    mask = disk(30, 20, 10) & ~disk(35, 20, 5)
    plain, off = (
        choose_point(
            Stamp(10), None, mask, np.random.default_rng(0), max_points=2, iou_threshold=1.0, negative=negative
        )
        for negative in (False, True)
    )
    assert off.iou > plain.iou and off.labels.tolist() == [1, 0]


# Clips and data sets


def test_rows_of_a_clip() -> None:
    class Quick(Stamp):
        def masks_of(self, frame, points, labels=None):
            return np.array([self.truth] * len(points))

    record = read_dataset("generated", split="test")[0]
    (expression,) = record.expressions
    quick = Quick()
    quick.truth = record.truth(expression, 0)
    rows, quality = annotate_clip(record, quick, Settings(every=30, min_iou=0.0))
    (row,) = rows
    assert row["video"] == record.clip and row["caption"] == expression.text
    assert list(row["points"]) == [str(at) for at in row["frame_idxs"]] and set(row["frame_idxs"]) <= {0, 30}
    x, y = (row["points"]["0"][0][axis] / 100 * 192 for axis in "xy")
    assert record.truth(expression, 0)[int(y), int(x)]
    assert {line["verdict"] for line in quality} <= {"kept", "absent", "too small"}
    _, poor = annotate_clip(record, Stamp2(), Settings(every=60, min_iou=0.9))
    assert poor[0]["verdict"] == "misunderstood"


class Stamp2(Stamp):
    """Understands nothing."""

    def masks_of(self, frame, points, labels=None):
        return np.ones((len(points), 192, 192), dtype=bool)


@pytest.mark.parametrize(("change", "line"), [({"every": 0}, "every is 0"), ({"min_iou": 1.5}, "min_iou is 1.5")])
def test_settings_are_checked(change: dict, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        Settings(**change)


SETTINGS = Settings(every=30, candidates=4)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("annotated") / "one"
    report = annotate_dataset("generated", None, out, SETTINGS, limit=3)
    assert report["rows"] >= 2 and sum(report["iou_histogram"].values()) == report["objects"]["kept"] + report[
        "objects"
    ].get("misunderstood", 0)
    return out


@pytest.mark.slow
def test_the_same_bytes_with_more_workers_and_after_a_kill(annotated: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from videomolmo.annotation.annotate import annotate_dataset as annotate; "
        "from videomolmo.annotation.annotate import Settings\n"
        f"if __name__ == '__main__': annotate('generated', None, Path({str(tmp_path / 'two')!r}), Settings(30, 4), "
        "limit=3, workers=2)"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    until = time.monotonic() + 300
    while not list(tmp_path.glob("two/parts/*.json")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("two/parts/*.json"))
    subprocess.run([sys.executable, script], check=True, timeout=300)
    for name in ("annotations.jsonl", "quality.jsonl"):
        assert (annotated / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    report = json.loads((annotated / "report.json").read_text(encoding="utf-8"))
    assert report["versions"]["torch"] and report["seed"] == 0


@pytest.mark.slow
def test_files_that_a_power_cut_emptied_or_cut_are_not_done(annotated: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    shutil.copytree(annotated, out)
    parts = sorted((out / "parts").iterdir())
    for path, content in (
        (out / "settings.json", b""), (out / "report.json", b"\0" * 50), (out / "annotations.jsonl", b""),
        (parts[0], b""), (parts[1], parts[1].read_bytes()[:-3]),
        (parts[2], json.dumps({"made_by": "other settings", "rows": [], "quality": []}).encode()),
    ):  # fmt: skip
        path.write_bytes(content)
    annotate_dataset("generated", None, out, SETTINGS, limit=3)
    for path in annotated.rglob("*.json*"):
        assert path.read_bytes() == (out / path.relative_to(annotated)).read_bytes()


@pytest.mark.slow
def test_two_at_once_in_one_folder_are_refused(annotated: Path, capsys) -> None:
    before = {path: path.read_bytes() for path in annotated.rglob("*") if path.is_file()}
    arguments = ["annotate", "--benchmark", "generated", "--limit", "3", "--every", "30", "--candidates", "4"]
    with locked_folder(annotated):
        assert main([*arguments, "--out", str(annotated)]) == 2
    assert f"another process works in {annotated}; wait for it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in annotated.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_killed_worker_ends_the_work_in_one_line_and_sigterm_in_order(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [
        sys.executable, "-m", "videomolmo.cli", "annotate", "--benchmark", "generated", "--every", "4", "--workers", "2"
    ]  # fmt: skip
    for out, code in ((tmp_path / "killed", 2), (tmp_path / "ended", 143)):
        process = subprocess.Popen(
            [*command, "--out", out], env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True
        )
        until = time.monotonic() + 300
        while not list(out.glob("parts/*.json")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
        if code == 2:
            next(worker for worker in workers if "spawn_main" in " ".join(worker.cmdline())).kill()
        else:
            os.killpg(process.pid, signal.SIGTERM)  # as a batch system does
        errors = process.communicate(timeout=300)[1].splitlines()
        line = "one of 2 processes died" if code == 2 else "ended by SIGTERM"
        assert process.returncode == code and line in errors[-1] and "Traceback" not in "".join(errors)
        assert not psutil.wait_procs(workers, timeout=300)[1]
        assert sorted(path.name for path in out.iterdir()) == ["parts", "settings.json"]
        assert all(path.suffix == ".json" for path in (out / "parts").iterdir())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--masks", "nowhere/at-all"], "nowhere"),
        (["--workers", "0"], "workers is 0"),
        (["--limit", "-1"], "limit is -1"),
    ],
)
def test_bad_input_starts_and_writes_nothing(options: list[str], line: str, tmp_path: Path, capsys) -> None:
    assert main(["annotate", "--benchmark", "generated", "--out", str(tmp_path / "out"), *options]) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_other_settings_need_another_folder(annotated: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(BadInput, match="other every"):
        annotate_dataset("generated", None, annotated, Settings(every=20, candidates=4), limit=3)
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    assert main(["annotate", "--benchmark", "generated", "--out", str(tmp_path)]) == 2
    assert (
        "what it holds is not annotations" in capsys.readouterr().err and (tmp_path / "mine.txt").read_text() == "keep"
    )


def every_fifth(root: Path) -> Path:
    """Eleven frames in the only clip of Ref-YouTube-VOS in miniature, every fifth image of a video as in the set."""
    names = [f"{5 * number:05d}" for number in range(11)]
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"
    videos = json.loads(meta.read_text())
    videos["videos"]["003234408d"]["frames"] = names
    mini.write_json(meta, videos)
    mini.write_frames(root / "train" / "JPEGImages" / "003234408d", names)
    for number, name in enumerate(names):
        mini.write_labels(root / "train" / "Annotations" / "003234408d" / f"{name}.png", mini.two_objects(number))
    return root


class Knows(Stamp):
    """Understands every point as the first object of the miniature, wherever that is."""

    def encode(self, frame):
        return round((int(frame.mean()) - 10) / 20)  # the miniatures' frames get brighter by this

    def masks_of(self, frame, points, labels=None):
        return np.array([mini.two_objects(frame) == 1] * len(points))


def test_training_rows_name_the_pictures_they_were_made_from(tmp_path: Path) -> None:
    record = read_dataset("ref_youtube_vos", every_fifth(mini.ref_youtube_vos(tmp_path / "set")), "train")[0]
    rows, quality = annotate_clip(record, Knows(), Settings(every=5))
    assert [row["frame_idxs"] for row in rows][:2] == [[0, 25, 50]] * 2 and "digits" not in rows[0]
    assert {line["frame"] for line in quality} == {0, 5, 10}
    mini.write_lines(tmp_path / "annotations.jsonl", rows)
    images = tmp_path / "set" / "train" / "JPEGImages"
    back = read_dataset("videomolmo", tmp_path, "annotations", images=images)[0]
    with record.frames() as made_from, back.frames() as read:
        for place, at in enumerate((0, 5, 10)):
            assert np.array_equal(read[place], made_from[at])
            x, y = back.points_of("1", place)[0]
            assert record.mask_of("1", at)[int(y), int(x)]


def test_training_rows_say_how_many_digits_their_pictures_have(tmp_path: Path) -> None:
    names = [f"{number:08d}" for number in range(1, 7)]
    mini.write_frames(tmp_path / "clip", names)
    masks = [tmp_path / "masks" / f"{name}.png" for name in names]
    for number, path in enumerate(masks):
        mini.write_labels(path, mini.two_objects(number))
    record = Record(
        "mine", "all", "clip", image_sequence(tmp_path / "clip", names), (Expression("0", "the dog", ("1",)),),
        {"1": None}, LabelPNGs(masks),
    )  # fmt: skip
    (row,), _ = annotate_clip(record, Knows(), Settings(every=5))
    assert row["frame_idxs"] == [1, 6] and row["digits"] == 8
    mini.write_lines(tmp_path / "rows.jsonl", [row, {**row, "digits": "8"}])
    rows = read_dataset("videomolmo", tmp_path, "rows")
    with record.frames() as made_from, rows[0].frames() as read:
        assert np.array_equal(read[1], made_from[5])
    with pytest.raises(BadInput, match="digits '8'"):
        rows[1]


def test_pictures_without_numbers_are_counted(tmp_path: Path) -> None:
    for names in (["a", "b"], ["1", "02"]):  # or numbered in no one way
        record = Record("mine", "all", "clip", image_sequence(tmp_path, names), (), {})
        assert image_numbers(record) == (range(2), 5)
    made = read_dataset("generated", clips=1, frames=3, height=48, width=48)[0]
    assert image_numbers(made) == ([0, 1, 2], 5)


@pytest.mark.slow
def test_a_clip_that_cannot_be_read_stops_none_of_the_others(tmp_path: Path, capsys) -> None:
    root, out = mini.mevis(tmp_path / "mevis"), tmp_path / "out"
    index = root / "valid_u" / "meta_expressions.json"
    videos = json.loads(index.read_text(encoding="utf-8"))["videos"]
    videos["torn"] = next(iter(videos.values()))
    mini.write_json(index, {"videos": videos})
    mini.write_frames(root / "valid_u" / "JPEGImages" / "torn", ["00000", "00001"])
    command = ["annotate", "--benchmark", "mevis", "--path", str(root), "--out", str(out), "--every", "1"]
    assert main([*command, "--candidates", "2"]) == 0
    assert "left out torn" in capsys.readouterr().err
    first = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert first["rows"] and "00002.jpg" in first["refused"]["torn"]
    mini.write_frames(root / "valid_u" / "JPEGImages" / "torn", ["00002"])
    assert main([*command, "--candidates", "2"]) == 0
    second = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert second["rows"] == 2 * first["rows"] and second["refused"] == {}
    (root / "valid_u" / "JPEGImages" / "torn" / "00002.jpg").unlink()
    (root / "valid_u" / "JPEGImages" / "0ab4afe7fb46" / "00001.jpg").unlink()
    assert main([*command, "--candidates", "2", "--out", str(tmp_path / "none")]) == 2
    assert "no clip could be annotated" in capsys.readouterr().err
