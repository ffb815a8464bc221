"""Plain values at the door: NumPy's numbers, tensors, lists and paths of any kind work, or are refused before work."""

from __future__ import annotations

import doctest
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import videomolmo
from videomolmo import fusion, metrics
from videomolmo.annotation.annotate import Settings
from videomolmo.datasets import first_records, read_dataset
from videomolmo.errors import BadInput
from videomolmo.evaluation.evaluate import evaluate
from videomolmo.grounding import check_settings, load_tracker
from videomolmo.io import plain_values
from videomolmo.io.files import check_folder
from videomolmo.io.plain_values import as_array, as_float, as_int, as_path
from videomolmo.io.video import open_video
from videomolmo.points import TrackPoint, write_points


class Somewhere(os.PathLike):
    """A path that is no `pathlib.Path`, and whose text is another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


RNG = np.random.default_rng(0)
TRUTH, PRED, VOID = (RNG.random((3, 12, 14)) > bound for bound in (0.5, 0.4, 0.9))
LABELS, FOUND = RNG.integers(0, 3, (2, 4, 8, 9))
LABELS[0, 0, :2] = 1, 2
SQUARES = np.zeros((2, 8, 9), bool)
SQUARES[0, :4], SQUARES[1, 4:] = True, True
POINTS, GUESSES = np.array([[3.0, 1.0], [5.0, 6.0]]), np.array([[3.2, 1.0], [5.0, 2.0]])
SHARES = np.array([[0.8, 0.1], [0.2, 0.6]])


def tracks(point) -> dict:
    return {0: [point("1", 3.0, 1.0), point("2", 5.0, 6.0)], 1: [point("1", 3.0, 2.0)]}


CALLS = {
    "j_and_f": lambda a: metrics.j_and_f(a(TRUTH), a(PRED), a(VOID)),
    "j_and_f_per_frame": lambda a: metrics.j_and_f_per_frame(a(TRUTH), a(PRED), bound_th=np.float32(2)),
    "region_similarity": lambda a: metrics.region_similarity(a(TRUTH[0]), a(PRED[0])),
    "boundary_map": lambda a: metrics.boundary_map(a(TRUTH[0])),
    "davis_unsupervised": lambda a: metrics.davis_unsupervised([("one", a(LABELS), a(FOUND))]),
    "statistics": lambda a: metrics.statistics(a(np.linspace(0, 1, 9))),
    "merge_expressions": lambda a: metrics.merge_expressions(a(np.stack([TRUTH, PRED]))),
    "ref_davis17": lambda a: metrics.ref_davis17([("one", a(TRUTH.astype(int)), a(np.stack([TRUTH, PRED] * 2)))]),
    "revos_score": lambda a: metrics.revos_score(a(TRUTH), a(PRED), a(VOID)),
    "hota_scores": lambda a: metrics.hota_scores([a(np.array([1, 2]))], [a(np.array([7, 8]))], [a(SHARES)]),
    "gcg_miou": lambda a: metrics.gcg_miou(a(TRUTH[None]), a(PRED[None])),
    "gcg_matches": lambda a: metrics.gcg_matches(a(TRUTH[None]), a(PRED[None]), a(SHARES[:1, :1])),
    "gcg_scores": lambda a: metrics.gcg_scores([(a(TRUTH[None]), a(PRED[None]), a(SHARES[:1, :1]))]),
    "image_point_scores": lambda a: metrics.image_point_scores(a(POINTS), a(GUESSES), a(SQUARES)),
    "video_point_scores": lambda a: metrics.video_point_scores(
        a(np.insert(POINTS, 0, 0.5, 1)), a(np.insert(GUESSES, 0, 0.5, 1)), [{0.5: a(mask)} for mask in SQUARES],
        np.float32(2), np.int64(8), np.int64(9),
    ),
    "track_scores": lambda a: metrics.track_scores(
        tracks(TrackPoint), tracks(TrackPoint), {n: dict.fromkeys((0, 1), a(SQUARES[n - 1])) for n in (1, 2)}
    ),
    "fuse": lambda a: fusion.fuse(a(TRUTH), a(PRED), tau=np.float32(0.3)),
    "fuse, nearest": lambda a: fusion.fuse(
        a(TRUTH), a(PRED), "nearest", left_distance=a(np.arange(3)), right_distance=a(np.array([2, 1, 0]))
    ),
    "iou": lambda a: fusion.iou(a(TRUTH), a(PRED)),
    "overlap_matrix": lambda a: fusion.overlap_matrix(a(TRUTH), a(PRED)),
    "match_objects": lambda a: fusion.match_objects(a(SHARES), np.float32(0.1)),
}  # fmt: skip
KINDS = {
    "lists": lambda array: array.tolist(),
    "tensors": torch.from_numpy,
    "lists of tensors": lambda array: list(torch.from_numpy(array)),
    "tensors that learn": lambda array: (
        torch.from_numpy(array).requires_grad_() if array.dtype == np.float64 else torch.from_numpy(array)
    ),
}


def same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other, equal_nan=not isinstance(one, (str, np.ndarray)) and one is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_metrics_take_lists_and_tensors(name, kind):
    assert same(CALLS[name](KINDS[kind]), CALLS[name](lambda array: array))


@pytest.mark.parametrize("bad", [[[1, 2], [3]], "masks", {"a": 1}, None, object()])
def test_what_is_no_array_is_refused_in_one_line(bad):
    for call in (metrics.j_and_f, metrics.region_similarity, fusion.fuse, fusion.iou):
        with pytest.raises(BadInput) as caught:
            call(bad, bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput):
        metrics.image_point_scores(bad, bad, [])


def test_points_and_scores_as_plain_tuples():
    tubes = {n: dict.fromkeys((0, 1), SQUARES[n - 1]) for n in (1, 2)}
    plain_scores = metrics.track_scores(tracks(lambda *point: point), tracks(lambda *point: list(point)), tubes)
    assert plain_scores == metrics.track_scores(tracks(TrackPoint), tracks(TrackPoint), tubes)
    with pytest.raises(BadInput, match="true tracks: expected"):
        metrics.track_scores([1, 2], {}, tubes)
    assert metrics.mean_over_expressions([(0.8, 0.6, 0.7), None]).j == pytest.approx(0.4)


def test_points_are_written_from_lists_and_tensors():
    wanted = write_points(POINTS, "dog", 8, 9)
    for points in (POINTS.tolist(), torch.from_numpy(POINTS)):
        assert write_points(points, "dog", np.int64(8), np.float32(9)) == wanted
    for bad in ("a", None, [[1, 2], [3]], [1, 2, 3]):
        with pytest.raises(BadInput, match="points"):
            write_points(bad, "dog", 8, 9)
    assert metrics.molmo1_image_count(torch.tensor(3), "3") == (True, True, True)


def test_examples_of_the_docstrings():
    found = doctest.testmod(plain_values)
    assert found.attempted and not found.failed


def test_numbers_and_what_is_none():
    for number in (5, np.int64(5), np.uint8(5), torch.tensor(5), np.array(5)):
        assert type(as_int(number)) is int and as_int(number) == 5
    for other in (5.0, "5", None, True, np.True_, np.array([5]), torch.tensor(5.0), np.float64(5), 0, -1, [5]):
        assert as_int(other) is None
    for number in (0.5, np.float32(0.5), np.float16(0.5), torch.tensor(0.5), np.array(0.5)):
        assert type(as_float(number)) is float and as_float(number) == 0.5
    for other in ("0.5", None, True, np.array([0.5]), [0.5], 1j):
        assert as_float(other) is None
    assert as_path(Somewhere(Path("a/b"))) == Path("a/b") and as_path(b"a") is None and as_path(None) is None
    assert as_array([torch.ones(2), torch.zeros(2)], "rows").tolist() == [[1, 1], [0, 0]]


# the public face


def test_open_video(tmp_path):
    from numbered_frames import picture
    from PIL import Image

    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    with open_video(Somewhere(tmp_path), max_frames=np.int64(2), fps=np.float32(8)) as frames:
        assert len(frames) == 2 and type(len(frames)) is int and type(frames.fps) is float and frames.source == tmp_path
    clip = np.stack([picture(number) for number in range(2)])
    for same_clip in (torch.from_numpy(clip), list(clip), clip):
        assert np.array_equal(open_video(same_clip)[1], clip[1])
    for arguments in ({"max_frames": 2.0}, {"max_frames": "2"}, {"fps": "8"}, {"fps": np.nan}, {"fps": True}):
        with pytest.raises(BadInput, match=next(iter(arguments))):
            open_video(clip, **arguments)
    for bad in (5, None, {"a": 1}, "", object(), b"clip.mp4"):
        with pytest.raises(BadInput, match="video"):
            open_video(bad)


def test_a_grounded_video_is_saved_whatever_the_numbers_were(tiny_grounder, tmp_path, clip):
    from PIL import Image

    for number, frame in enumerate(clip.frames[:4]):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    settings = {"every": np.int64(2), "tau": np.float32(0.7), "context": np.int32(1), "max_frames": np.int64(3)}
    result = tiny_grounder(Somewhere(tmp_path), np.str_("the red circle"), **settings)
    folder = result.save(Somewhere(tmp_path / "out"), overlay=False)
    told = json.loads((folder / "run.json").read_text())["model"]
    assert told["every"] == 2 and told["tau"] == pytest.approx(0.7) and told["max_frames"] == 3 and told["context"] == 1
    again = videomolmo.GroundingResult.load(Somewhere(folder), video=Somewhere(tmp_path))
    assert again.frames == 3 and np.array_equal(again.video()[0], clip.frames[0])


def test_nothing_in_the_settings_stops_saving(tiny_grounder, tmp_path, clip):
    result = tiny_grounder(clip.frames[:2], "the red circle")
    result.config["mine"] = {"tau": np.float32(0.5), "grid": np.arange(3), "at": tmp_path}
    folder = result.save(tmp_path / "out", overlay=False)
    assert json.loads((folder / "run.json").read_text())["mine"] == {"tau": 0.5, "grid": [0, 1, 2], "at": str(tmp_path)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 2.0}, "every is 2.0"), ({"every": np.float64(5)}, "every is"), ({"tau": "0.7"}, "tau='0.7'"),
        ({"tau": np.array([0.7])}, "tau="), ({"context": "2"}, "context is '2'"), ({"every": True}, "every is True"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused_before_work(settings, said):
    with pytest.raises(BadInput, match=said):
        check_settings(**{"every": 5, "fusion": "iou", "tau": 0.7} | settings)


def test_settings_come_out_plain():
    found = check_settings(torch.tensor(5), "iou", torch.tensor(0.5), np.int8(2))
    assert found == {"every": 5, "fusion": "iou", "tau": 0.5, "context": 2, "latency": None} and json.dumps(found)
    made = Settings(every=np.int64(2), iou_threshold=np.float32(0.5), seed=np.uint8(3), negative=np.True_)
    assert json.dumps(vars(made)) and made.every == 2 and made.iou_threshold == 0.5 and made.negative is True
    with pytest.raises(BadInput, match=r"every is 2\.5, expected a whole number"):
        Settings(every=2.5)


def test_generated_clips():
    given = videomolmo.generate_clip(np.int64(3), frames=np.int32(2), height=np.int64(32), width=torch.tensor(40))
    assert np.array_equal(given.frames, videomolmo.generate_clip(3, frames=2, height=32, width=40).frames)
    for bad in ({"seed": -1}, {"seed": "3"}, {"seed": 3, "frames": 0}, {"seed": 3, "width": 40.0}):
        with pytest.raises(BadInput, match="expected a whole number"):
            videomolmo.generate_clip(**bad)


def test_models_by_paths_of_any_kind(tiny_folder):
    pointing, masks = Somewhere(tiny_folder / "pointing"), Somewhere(tiny_folder / "masks")
    grounder = videomolmo.load_grounder(pointing, masks, "cpu")
    assert grounder.loaded["model"] == str(tiny_folder / "pointing") and json.dumps(grounder.loaded)
    assert load_tracker(tiny_folder / "masks", "cpu")[1]
    for bad in (None, 5, "", b"nano"):
        with pytest.raises(BadInput, match="expected 'nano'"):
            videomolmo.load_grounder(bad, device="cpu")
        with pytest.raises(BadInput, match="expected 'nano'"):
            load_tracker(bad, "cpu")


def test_data_sets_and_their_scores(tmp_path):
    assert len(first_records(read_dataset("generated", split="test"), np.int64(2))) == 2
    for bad in (0, "2", 2.0):
        with pytest.raises(BadInput, match="expected at least 1 clip"):
            first_records(read_dataset("generated", split="test"), bad)
    (record,) = read_dataset("generated", split="test")[:1]
    for frame, name in enumerate(record.frame_names):
        path = tmp_path / "masks" / record.clip / record.expressions[0].id / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        from PIL import Image

        Image.fromarray(record.truth(record.expressions[0], frame)).save(path)
    table = evaluate(
        "generated", Somewhere(tmp_path / "out"), limit=np.int64(1), every=np.int64(5), tau=np.float32(0.5),
        external_predictions=Somewhere(tmp_path / "masks"),
    )  # fmt: skip
    assert (table[table["metric"] == "J"]["value"] == 1).all()
    with pytest.raises(BadInput, match="out is 5, expected a path"):
        evaluate("generated", 5)


def test_folders_for_results(tmp_path):
    assert check_folder(Somewhere(tmp_path / "new"), overwrite=False) == tmp_path / "new"
    for bad in ("", None, 5, b"out"):
        with pytest.raises(BadInput, match="expected a path"):
            check_folder(bad, overwrite=False)


def test_inspecting(tiny_grounder, tmp_path, clip):
    result = tiny_grounder(clip.frames[:3], "the red circle")
    folder = result.save(tmp_path / "out", overlay=False)
    truth = torch.from_numpy(clip.masks[:3])
    shown = videomolmo.inspect(
        Somewhere(folder),
        truth,
        video=clip.frames[:3],
        frame=np.int64(2),
        tau=np.float32(0.5),
        folder=Somewhere(tmp_path),
    )
    assert shown.state.canvas.frame == 2 and type(shown.inspection.tau) is float
    assert np.array_equal(shown.inspection.mask("truth", np.int64(1)), clip.masks[1])
    for bad, said in (({"frame": "2"}, "frame is '2'"), ({"folder": 5}, "folder is 5"), ({"tau": "0.5"}, "tau='0.5'")):
        with pytest.raises(BadInput, match=said):
            videomolmo.inspect(result, **bad)
    with pytest.raises(BadInput, match="matching is"):
        shown.inspection.apply_fusion_rule(matching=True)
    for bad in ([[1, 2], [3]], {"masks": truth}, "nowhere"):
        with pytest.raises(BadInput, match="truth"):
            videomolmo.inspect(result, bad)
