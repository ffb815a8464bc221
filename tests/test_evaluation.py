"""The harness: masks on disk, scores that skip nothing, one table, and archives for the benchmarks' servers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import miniature_datasets as mini
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from videomolmo.annotation.candidate_points import deepest_pixel
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.datasets.record import Expression
from videomolmo.errors import BadInput
from videomolmo.evaluation.evaluate import ALL, evaluate
from videomolmo.evaluation.predictions import Predictions, write_submission
from videomolmo.evaluation.quoted import comparison
from videomolmo.evaluation.score import score_count, score_masks, score_points
from videomolmo.io.files import locked_folder
from videomolmo.protocols import as_question


@pytest.fixture(scope="module")
def records():
    return read_dataset("generated", split="test")[:2]


@pytest.fixture(scope="module")
def truths(records, tmp_path_factory) -> Path:
    """The truth as if another system had predicted it, in its own layout, as 0 and 7."""
    root = tmp_path_factory.mktemp("foreign")
    for record in records:
        for expression in record.expressions:
            folder = root / f"{expression.id}_of_{record.clip}"
            folder.mkdir()
            for frame, name in enumerate(record.frame_names):
                Image.fromarray(record.truth(expression, frame).astype(np.uint8) * 7).save(folder / f"{name}.png")
    return root


LAYOUT = "{expression}_of_{clip}/{frame}.png"


def value(table: pd.DataFrame, metric: str) -> float:
    (row,) = table[(table["clip"] == ALL) & (table["kind"] == ALL) & (table["metric"] == metric)]["value"]
    return row


def test_the_truth_scores_one(truths: Path, tmp_path: Path) -> None:
    table = evaluate("generated", tmp_path / "out", limit=2, external_predictions=truths, layout=LAYOUT)
    assert value(table, "J") == value(table, "F") == value(table, "J&F") == 1.0
    assert json.loads((tmp_path / "out" / "missing.json").read_text())["count"] == 0
    kept = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert kept["value"].tolist() == pd.read_csv(tmp_path / "out" / "results.csv")["value"].tolist()
    assert {"benchmark", "clip", "expression", "metric", "value", "n", "seconds", "commit"} <= set(kept.columns)


def test_what_is_missing_counts_zero_and_is_listed(truths: Path, records, tmp_path: Path) -> None:
    clips = [record.clip for record in records if record.expressions]
    for number, clip in enumerate(clips[1:]):
        (tmp_path / "part").mkdir(exist_ok=True)
        (tmp_path / "part" / f"0_of_{clip}").symlink_to(truths / f"0_of_{clip}")
        assert number == 0
    table = evaluate("generated", tmp_path / "out", limit=2, external_predictions=tmp_path / "part", layout=LAYOUT)
    assert value(table, "J&F") == pytest.approx((len(clips) - 1) / len(clips))
    assert json.loads((tmp_path / "out" / "missing.json").read_text())["missing"] == [f"{clips[0]}/0"]


def test_predictions_as_the_tools_of_reason_vos_write_them(tmp_path: Path) -> None:
    root = mini.reason_vos(tmp_path / "set")
    index = root / "meta_expressions.json"
    videos = json.loads(index.read_text(encoding="utf-8"))["videos"]
    more = {"obj_id": 7, "exp_id": 0, "exp_text": "the other one", "is_sent": False}  # each object counts its own
    videos["ab12"]["expressions"].append(more)
    mini.write_json(index, {"videos": videos})
    for thing, count in ((5, 2), (7, 1)):
        for frame in (0, 2):
            mask = mini.box_mask(2 + frame if thing == 5 else 20)
            mini.write_binary(root / "Annotations" / f"mose_ab12_{thing}" / f"{frame:05d}.png", mask)
            for said in range(count):
                mini.write_binary(tmp_path / "found" / f"mose_ab12_{thing}" / str(said) / f"{frame:05d}.png", mask)
    layout = "{source}_{clip}_{object}/{exp_id}/{frame}.png"
    table = evaluate("reason_vos", tmp_path / "out", path=root, external_predictions=tmp_path / "found", layout=layout)
    assert value(table, "J&F") == 1.0 and (table["metric"] == "J").sum() == 3 + 2
    with pytest.raises(BadInput, match="source"):
        evaluate("generated", tmp_path / "none", limit=1, external_predictions=tmp_path / "found", layout=layout)


def test_clips_of_other_sizes_in_one_file_of_masks(tmp_path: Path) -> None:
    """A frame without run lengths is empty in the size of its own clip, whatever else the file holds."""
    root = mini.mevis(tmp_path / "set") / "valid_u"
    small, large = np.zeros((4, 4), bool), np.zeros((mini.HEIGHT, mini.WIDTH), bool)
    large[5:15, 5:15] = small[1:3, 1:3] = True
    mini.write_json(root / "mask_dict.json", {"0": [mini.rle(small)], "1": [mini.rle(large), None], "2": [None, None]})
    videos = {
        "a": {"expressions": {"0": {"exp": "one", "obj_id": [0], "anno_id": [0]}}, "frames": ["00000"]},
        "b": {"expressions": {"0": {"exp": "two", "obj_id": [1, 2], "anno_id": [1, 2]}}, "frames": ["00000", "00001"]},
    }
    mini.write_json(root / "meta_expressions.json", {"videos": videos})
    for name, frames in (("a", 1), ("b", 2)):
        mini.write_frames(root / "JPEGImages" / name, videos[name]["frames"])
        for frame in range(frames):
            mask = small if name == "a" else large  # on the second frame of b nothing is to be seen
            mini.write_binary(tmp_path / "found" / name / "0" / f"{frame:05d}.png", mask)
    Image.new("RGB", (4, 4)).save(root / "JPEGImages" / "a" / "00000.jpg")
    table = evaluate("mevis", tmp_path / "out", path=root.parent, external_predictions=tmp_path / "found")
    found = table[table["metric"] == "J&F"].set_index("clip")["value"]
    assert found["a"] == 1.0 and found["b"] == 0.5
    mini.write_json(root / "mask_dict.json", {"0": 5, "1": [mini.rle(large), None], "2": [None, None]})
    with pytest.raises(BadInput, match="object 0 has 5 masks"):
        evaluate("mevis", tmp_path / "more", path=root.parent, external_predictions=tmp_path / "found")


def test_masks_with_other_digits_than_the_frames_are_scored_and_those_of_no_frame_refused(tmp_path: Path) -> None:
    root = mini.reason_vos(tmp_path / "set")
    folder = root / "Annotations" / "mose_ab12_5"
    (folder / "00002.png").rename(folder / "2.png")
    record = read_dataset("reason_vos", root)[0]
    assert [record.mask_of("5", frame) is not None for frame in range(3)] == [True, False, True]
    for path in folder.glob("*.png"):
        path.rename(folder / f"other{path.name}")
    with pytest.raises(BadInput, match="masks of no frame"):
        read_dataset("reason_vos", root)[0].mask_of("5", 0)


def test_annotators_that_left_an_object_out_still_give_the_protocols_number(tmp_path: Path, capsys) -> None:
    root, found = mini.ref_davis17(tmp_path / "set"), tmp_path / "found"
    texts = root / "davis_text_annotations"
    for path in texts.glob("*.txt"):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if b"bike-packing 1" not in line or "annot2" not in path.name]
        path.write_bytes(b"".join(kept))
    (record,) = read_dataset("ref_davis17", root)
    assert [said.id for said in record.expressions] == ["0", "1", "4", "5", "6", "7"]
    for said in record.expressions:
        for frame, name in enumerate(record.frame_names):
            mini.write_binary(found / record.clip / said.id / f"{name}.png", record.truth(said, frame))
    table = evaluate("ref_davis17", tmp_path / "out", path=root, external_predictions=found)
    assert value(table, "J&F") == 1.0 and value(table, "four annotators, J&F-Mean") == pytest.approx(0.75)
    options = ["--path", str(root), "--out", str(tmp_path / "shown"), "--predictions", str(found), "--compare"]
    assert main(["evaluate", "--benchmark", "ref_davis17", *options]) == 0
    assert "mean of four annotators | 75.0 | measured here" in capsys.readouterr().out


def test_several_true_points_of_one_mask_are_objects_of_their_own() -> None:
    mask = mini.box_mask(2) | mini.box_mask(20)
    middles = np.array([[5.0, 7.0], [23.0, 7.0]])
    record = SimpleNamespace(mask_of=lambda *_: mask, points_of=lambda *_: middles)
    answer = {"key_frames": [{"frame": 0, "points_px": middles.tolist()}]}
    scores = score_points(record, Expression("0", "the cells", ("1",)), answer)
    assert [score.value for score in scores] == [1, 1, 1]
    answer = {"key_frames": [{"frame": 0, "points_px": [middles[0].tolist(), [6.0, 8.0]]}]}
    scores = score_points(record, Expression("0", "the cells", ("1",)), answer)
    assert [score.value for score in scores] == [0.5, 0.5, 0.5]  # both in the same cell


def test_a_folder_without_any_of_the_masks_is_refused_before_anything_is_written(truths, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no mask in .*the first looked for is .*00000\.png"):
        evaluate("generated", tmp_path / "out", limit=2, external_predictions=truths)  # its layout is another one
    assert not (tmp_path / "out").exists()


def test_one_missing_or_broken_mask_counts_as_empty(records, tmp_path: Path) -> None:
    record = records[0]
    (expression,) = record.expressions
    predictions = Predictions(tmp_path)
    for frame in range(60):
        predictions.write(record, expression, frame, record.truth(expression, frame))
    predictions.path(record, expression, 0).unlink()
    predictions.path(record, expression, 1).write_bytes(b"not a picture")
    j = {score.metric: score for score in score_masks(record, expression, predictions)}["J"]
    shown = sum(bool(record.truth(expression, frame).any()) for frame in (0, 1))
    assert j.value == pytest.approx(1 - shown / 60) and j.n == 60


def test_masks_of_another_size_and_colour_are_read(records, tmp_path: Path) -> None:
    record = records[0]
    (expression,) = record.expressions
    truth = record.truth(expression, 0)
    predictions = Predictions(tmp_path)
    path = predictions.path(record, expression, 0)
    path.parent.mkdir(parents=True)
    Image.fromarray(np.kron(truth, np.ones((2, 2), bool)).astype(np.uint8)[..., None].repeat(3, -1) * 90).save(path)
    assert np.array_equal(predictions.read(record, expression, 0, truth.shape), truth)
    opaque = np.dstack([truth.astype(np.uint8) * 50] * 3 + [np.full(truth.shape, 255, np.uint8)])
    Image.fromarray(opaque).save(path)  # what is opaque is not yet foreground
    assert np.array_equal(predictions.read(record, expression, 0, truth.shape), truth)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--limit", "0"], "limit is 0"),
        (["--every", "0"], "every is 0"),
        (["--tau", "2"], "tau=2"),
        (["--fusion", "best"], "'best' is unknown"),
        (["--context", "0"], "context is 0"),
        (["--predictions", "/", "--layout", "{video}/{frame}.png"], "has fields"),
        (["--predictions", "/", "--layout", "{clip.name}/{frame}.png"], "has fields"),
        (["--predictions", "/", "--layout", "{clip}/{expression}.png"], "expected {frame} in it"),
        (["--predictions", "/", "--layout", "{clip}/{expression}/{frame}"], ".png at its end"),
        (["--layout", "{expression}/{clip}/{frame}.png"], "is for masks of others"),
        (["--masks", "nowhere/at-all"], "nowhere"),
        (["--benchmark", "imagenet"], "'imagenet' is not known"),
        (["--benchmark", "mevis", "--path", "nowhere"], "nowhere"),
        (["--predictions", "nowhere"], "no folder of predictions"),
        (["--submission", "out.zip"], "no server here"),
    ],
)
def test_bad_input_writes_nothing(options: list[str], line: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--benchmark", "generated", "--limit", "1", "--out", "out", *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def _count(expression: Expression, answer: dict | None) -> dict[str, float]:
    return {score.metric.removeprefix("count "): score.value for score in score_count(expression, answer)}


def test_points_and_counts(records) -> None:
    record = records[0]
    (expression,) = record.expressions
    x, y = deepest_pixel(record.truth(expression, 0))
    answer = {"objects": 3, "key_frames": [{"frame": 0, "outcome": "found", "points_px": [[float(x), float(y)]]}]}
    assert [score.value for score in score_points(record, expression, answer)] == pytest.approx([1, 1, 1])
    answer["key_frames"].append({"frame": 0, "outcome": "malformed", "points_px": []})
    assert [score.value for score in score_points(record, expression, answer)] == pytest.approx([0.5, 0.5, 0.5])
    counted = Expression("1", "how many", None, "question", count=5)
    assert _count(counted, answer) == {"exact": 0, "close": 0, "error": 2, "invalid": 0}
    assert _count(counted, answer | {"objects": 4}) == {"exact": 0, "close": 1, "error": 1, "invalid": 0}
    malformed = answer | {"key_frames": answer["key_frames"][1:]}
    for nothing in (None, malformed, {"objects": 0, "key_frames": []}):
        assert _count(counted, nothing) == {"exact": 0, "close": 0, "error": 5, "invalid": 1}
    assert score_count(expression, answer) == []


@pytest.mark.slow
def test_nano_goes_on_where_it_was_stopped(tmp_path: Path, capsys, monkeypatch) -> None:
    arguments = [
        "evaluate",
        "--benchmark",
        "generated",
        "--limit",
        "1",
        "--every",
        "20",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--compare"]) == 0
    shown = capsys.readouterr().out
    assert "point f1" in shown and "nothing published" in shown
    before = (tmp_path / "out" / "results.csv").read_bytes()
    with locked_folder(tmp_path / "out"):
        assert main(arguments) == 2 and "another process works in" in capsys.readouterr().err
    answer, asked = next((tmp_path / "out" / "answers").rglob("*.json")), []
    kept = answer.read_bytes()
    monkeypatch.setattr("videomolmo.evaluation.evaluate.predict", lambda *_: asked.append(answer.write_bytes(kept)))
    for content in (b"", kept[:-9], b"[]", kept.replace(b'"made_by": "', b'"made_by": "0')):
        answer.write_bytes(content)  # as a power cut or other settings left it: it is asked again
        for name in ("settings.json", "results.csv", "missing.json"):
            (tmp_path / "out" / name).write_bytes(b"")
        assert main(arguments) == 0 and (tmp_path / "out" / "results.csv").read_bytes() == before
    assert len(asked) == 4
    monkeypatch.setattr("videomolmo.evaluation.evaluate.predict", None)  # nothing may be predicted again
    assert main(arguments) == 0 and (tmp_path / "out" / "results.csv").read_bytes() == before
    assert main([*arguments, "--tau", "0.5"]) == 2 and "other tau" in capsys.readouterr().err


def test_archives_for_servers(truths: Path, records, tmp_path: Path) -> None:
    predictions = Predictions(truths, LAYOUT)
    count = write_submission(iter(records), predictions, "ref_youtube_vos", tmp_path / "valid.zip")
    with zipfile.ZipFile(tmp_path / "valid.zip") as archive:
        names = archive.namelist()
        assert len(names) == count and archive.testzip() is None
        assert names[0] == f"Annotations/{records[0].clip}/0/00000.png"
    with pytest.raises(BadInput, match="exists"):
        write_submission(iter(records), predictions, "mevis", tmp_path / "valid.zip")
    with pytest.raises(BadInput, match="no server here"):
        write_submission(iter(records), predictions, "lasot", tmp_path / "lasot.zip")
    with pytest.raises(BadInput, match="masks are missing"):
        write_submission(iter(records), Predictions(tmp_path / "none"), "mevis", tmp_path / "none.zip")
    assert not list(tmp_path.glob("*none*"))


def test_a_split_without_public_truth_still_gives_the_archive_for_its_server(tmp_path: Path, capsys) -> None:
    root = mini.ref_youtube_vos(tmp_path / "set")
    predictions = Predictions(tmp_path / "masks")
    for record in read_dataset("ref_youtube_vos", root):
        for expression in record.expressions:
            for frame in range(len(record.frame_names)):
                predictions.write(record, expression, frame, mini.box_mask(4))
    options = ["--path", str(root), "--out", str(tmp_path / "out"), "--predictions", str(tmp_path / "masks")]
    options += ["--compare", "--submission", str(tmp_path / "valid.zip")]
    assert main(["evaluate", "--benchmark", "ref_youtube_vos", *options]) == 0
    shown, told = capsys.readouterr()
    assert "expect predictions only" in told
    assert "nothing scored: this set has no public masks" in shown and "valid.zip: 6 masks" in shown
    with zipfile.ZipFile(tmp_path / "valid.zip") as archive:
        assert len(archive.namelist()) == 6
    kept = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert kept.empty and {"benchmark", "clip", "metric", "value", "commit"} <= set(kept.columns)


def test_revos_weighs_both_types_alike(tmp_path: Path) -> None:
    root = mini.revos(tmp_path / "set")
    meta = root / "meta_expressions_valid_.json"
    index = json.loads(meta.read_text())
    (entry,) = index["videos"].values()
    entry["expressions"]["2"] = entry["expressions"]["0"] | {"exp": "the car nobody predicted"}
    mini.write_json(meta, index)
    (record,) = read_dataset("revos", root)
    right, shifted, _ = record.expressions  # "referring" the first and the last, "reasoning" the second
    predictions = Predictions(tmp_path / "masks")
    for frame in range(2):
        predictions.write(record, right, frame, record.truth(right, frame))
        predictions.write(record, shifted, frame, record.truth(shifted, frame) | mini.box_mask(20))  # all in the front
    table = evaluate("revos", tmp_path / "out", path=root, external_predictions=tmp_path / "masks")
    rows = table[(table["clip"] != ALL) & (table["expression"] == "1")].set_index("metric")["value"]
    wrong = mini.box_mask(20).sum()
    assert rows["J"] == pytest.approx(0.5) and rows["A"] == pytest.approx(1 - wrong / mini.box_mask(20).size)
    assert rows["R"] == pytest.approx(1 - wrong / (2 * wrong + 1e-6))
    of_type = table[table["clip"] == ALL].set_index(["kind", "metric"])["value"]
    for metric in ("J", "F", "J&F", "A", "R"):
        assert of_type["referring", metric] == pytest.approx(0.5)  # one whole, one missing
        assert of_type["reasoning", metric] == pytest.approx(rows[metric])
        assert of_type[ALL, metric] == pytest.approx((0.5 + rows[metric]) / 2)
    assert len(of_type[ALL]) == 5


class Sees:
    """In place of `VideoGrounder`: the right object of MeViS in miniature, whatever is asked."""

    weights: ClassVar[dict] = {}
    pointer = segmenter = None

    def describe(self, context: int | None) -> dict:
        return {"context": context}

    def __call__(self, video, sentence: str, **settings: object) -> SimpleNamespace:
        as_question(sentence)
        masks = np.array([[mini.box_mask(2)] for _ in video])
        return SimpleNamespace(masks=masks, objects=1, answers=[])


@pytest.fixture
def sees(monkeypatch) -> None:
    monkeypatch.setattr("videomolmo.grounding.VideoGrounder.from_pretrained", lambda *_, **__: Sees())


def evaluate_mevis(root: Path, out: Path) -> int:
    return main(["evaluate", "--benchmark", "mevis", "--path", str(root), "--out", str(out)])


def test_a_blank_sentence_stops_nothing_but_itself(tmp_path: Path, sees, capsys) -> None:
    root = mini.mevis(tmp_path / "set")
    meta = root / "valid_u" / "meta_expressions.json"
    whole = meta.read_text()
    meta.write_text(whole.replace("both birds", " "))
    assert evaluate_mevis(root, tmp_path / "out") == 0
    assert "1 expressions have no prediction and count 0" in capsys.readouterr().out
    lost = json.loads((tmp_path / "out" / "missing.json").read_text())
    assert lost["missing"] == ["0ab4afe7fb46/1"] and "sentence is empty" in lost["reasons"]["0ab4afe7fb46/1"]
    table = pd.read_csv(tmp_path / "out" / "results.csv").query("metric == 'J'").set_index("expression")["value"]
    assert table["0"] > 0 and table["1"] == 0
    meta.write_text(whole)
    assert evaluate_mevis(root, tmp_path / "out") == 0  # mended, it goes on
    assert json.loads((tmp_path / "out" / "missing.json").read_text()) == {
        "missing": [], "count": 0, "reasons": {}, "frames": {},
    }  # fmt: skip
    meta.write_text(whole.replace("both birds", "all birds"))
    answer = tmp_path / "out" / "answers" / "0ab4afe7fb46" / "1.json"
    assert json.loads(answer.read_text())["text"] == "both birds"
    assert evaluate_mevis(root, tmp_path / "out") == 0  # another sentence is asked
    assert json.loads(answer.read_text())["text"] == "all birds"
    meta.write_text(whole.replace("both birds", " "))
    assert evaluate_mevis(root, tmp_path / "out") == 0  # the masks of before answer another sentence
    table = pd.read_csv(tmp_path / "out" / "results.csv").query("metric == 'J'").set_index("expression")["value"]
    assert table["0"] > 0 and table["1"] == 0
    meta.write_text(whole.replace("0ab4afe7fb46", "0ab4afe7fb47"))
    assert evaluate_mevis(root, tmp_path / "out") == 2, "another data set's results"


def test_masks_that_lack_some_frames_are_told(tmp_path: Path, sees, capsys) -> None:
    root = mini.mevis(tmp_path / "set")
    evaluate_mevis(root, tmp_path / "first")
    masks = tmp_path / "first" / "predictions"
    first, second, *_ = sorted((masks / "0ab4afe7fb46" / "0").iterdir())
    first.unlink()
    second.write_bytes(b"no picture")
    for path in (masks / "0ab4afe7fb46" / "1").iterdir():
        path.rename(path.with_name(f"9{path.name}"))  # none has a frame's name
    command = ["evaluate", "--benchmark", "mevis", "--path", str(root), "--predictions", str(masks)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    lost = json.loads((tmp_path / "out" / "missing.json").read_text())
    assert lost["missing"] == ["0ab4afe7fb46/1"] and lost["frames"] == {"0ab4afe7fb46/0": 2}
    assert "1 expressions have frames without a mask" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert (table.query("expression == '1'")["value"] == 0).all() and not table["metric"].str.contains("point").any()


def test_a_clip_that_cannot_be_read_counts_zero(tmp_path: Path, sees) -> None:
    root = mini.mevis(tmp_path / "set")
    for path in (root / "valid_u" / "JPEGImages").rglob("*.jpg"):
        path.write_text("not a picture")
    assert evaluate_mevis(root, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    points = {f"point {name}" for name in ("precision", "recall", "f1")}
    assert set(table["metric"]) == {"J", "F", "J&F"} | points and (table["value"] == 0).all()
    lost = json.loads((tmp_path / "out" / "missing.json").read_text())
    assert lost["count"] == 3 and all("00000.jpg" in reason for reason in lost["reasons"].values())


def test_paths_stay_inside(records, tmp_path: Path) -> None:
    odd = Expression("../../x", "out", None)
    with pytest.raises(BadInput, match="leads out of"):
        Predictions(tmp_path).path(records[0], odd, 0)
    for name in ("/etc/x", "a/../../../x"):
        with pytest.raises(BadInput, match="leads out of"):
            Predictions(tmp_path, "{expression}/{frame}.png").path(records[0], Expression(name, "out", None), 0)
    with pytest.raises(BadInput, match="has fields"):
        Predictions(tmp_path, "{video}/{frame}.png").path(records[0], records[0].expressions[0], 0)


def test_quoted_figures_are_marked() -> None:
    text = comparison("ref_davis17", {"val, mean of 8 expressions": 0.5})
    assert "| this run: val, mean of 8 expressions | 50.0 | measured here |" in text
    assert "| VideoMolmo | 72.5 | quoted: arXiv:2506.05336, June 2025 (mean of four annotators) |" in text
    assert "nothing published" in comparison("generated", {})


def test_vpos_nano_comes_through_the_same_door() -> None:
    records = read_dataset("vpos_nano", split="train")
    assert len(records) == 48
    for record in (records[0], records[-1]):
        assert {expression.kind for expression in record.expressions} == {record.clip.split("-")[0]}
        for expression in record.expressions:
            truth = record.truth(expression, 5)
            assert (truth is None) == (expression.count is not None)
            assert truth is None or bool(expression.objects) or not truth.any()
