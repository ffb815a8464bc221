"""Metrics against what the public tools made of the same input; each case in the folder of golden data is one test.

Values agree to 1e-9. Where ours differ on purpose, the tool's rule is asked for (`reference=True` and its like).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import HOW, ROOT
from reference.points import has_molmo1_format, read_like_molmo1
from reference.points_molmo2 import read_like_molmo2_points

from videomolmo.errors import BadInput
from videomolmo.metrics import (
    boundary_map,
    davis_unsupervised,
    gcg_matches,
    gcg_miou,
    gcg_scores,
    hota_scores,
    image_point_scores,
    j_and_f,
    j_and_f_per_frame,
    mean_over_expressions,
    mean_point_scores,
    merge_expressions,
    molmo1_image_count,
    molmo2_image_count,
    molmo2_video_count,
    ref_davis17,
    region_similarity,
    statistics,
    track_scores,
    video_point_scores,
)
from videomolmo.metrics.tracks import Tubes
from videomolmo.points import TrackPoint

FOLDER = ROOT / "eval" if (ROOT / "eval").is_dir() else ROOT
TOLERANCE = 1e-9
P_R_F1 = ("precision", "recall", "f1")


def cases(name: str) -> list[Any]:
    """Every case of one file as a pytest parameter; one skipped parameter where the file is absent."""
    if not (FOLDER / f"{name}.json").is_file():
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=f"{HOW} (eval/{name}.json)"))]
    return [pytest.param(case, id=case.get("id", str(n))) for n, case in enumerate(content(name)["cases"])]


def whole(name: str) -> dict[str, Any]:
    """A whole file, or a skip where it is absent."""
    if not (FOLDER / f"{name}.json").is_file():
        pytest.skip(f"{HOW} (eval/{name}.json)")
    return content(name)


@cache
def content(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    path = Path(FOLDER / f"{name}.npz")
    if not path.is_file():
        pytest.skip(f"{HOW} (eval/{name}.npz)")
    with np.load(path) as stored:
        return dict(stored)


def same(found: Any, wanted: Any) -> None:
    """Equal to 1e-9; the golden files write NaN as "nan"."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=0, atol=TOLERANCE)


def same_columns(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for column, value in wanted.items():
        same(found[column], value)


@pytest.mark.parametrize("case", cases("jf"))
def test_j_and_f(case):
    stored = arrays("jf")
    truth, pred, void = (stored.get(f"{case['id']}_{part}") for part in ("gt", "pred", "void"))
    assert (void is not None) == case["has_void"]
    same(region_similarity(truth, pred, void), case["J"])
    same(j_and_f_per_frame(truth, pred, void), [case["J"], case["F"]])
    same(j_and_f(truth, pred, void).j_and_f, (np.mean(case["J"]) + np.mean(case["F"])) / 2)
    for bound_th, wanted in case["F_bound_th"].items():
        same(j_and_f_per_frame(truth, pred, void, bound_th=float(bound_th))[1], wanted)


def test_boundary_maps():
    stored = arrays("boundary_maps")
    names = [name.removesuffix("_mask") for name in stored if name.endswith("_mask")]
    assert names
    for name in names:
        np.testing.assert_array_equal(boundary_map(stored[f"{name}_mask"] > 0), stored[f"{name}_bmap"] > 0)


@pytest.mark.parametrize("case", cases("davis_seq"))
def test_davis(case):
    stored, score = arrays("davis_seq"), davis_unsupervised
    sequences = [
        (name, stored[f"{case['id']}_{name}_gt"], stored[f"{case['id']}_{name}_res"]) for name in case["sequences"]
    ]
    wanted = case["unsupervised"]
    if "error" in wanted:
        with pytest.raises(BadInput):
            score(sequences, reference=True)
        return
    found = score(sequences, reference=True)
    same_columns(found.overall, wanted["global"])
    assert set(found.objects) == set(wanted["per_object"])
    for name, row in wanted["per_object"].items():
        same_columns(found.objects[name], row)
    same(score(sequences).overall["J&F-Mean"], wanted["global"]["J&F-Mean"])


@pytest.mark.parametrize("case", cases("davis_statistics"))
def test_davis_statistics(case):
    values, wanted = np.array(case["values"], float), case["expected"]
    same(statistics(values, reference=True), [wanted[name] for name in "MRD"])
    if len(values) < 256:
        same(statistics(values), [wanted[name] for name in "MRD"])


@pytest.mark.parametrize("case", cases("expr_jf"))
def test_expressions(case):
    stored = arrays("expr_jf")
    objects, pred = stored[f"{case['id']}_objects"], stored[f"{case['id']}_pred"]
    same(j_and_f(objects.any(axis=0), pred)[:2], [case["J"], case["F"]])
    same(j_and_f_per_frame(objects.any(axis=0), pred), [case["J_frames"], case["F_frames"]])


def test_mean_over_expressions():
    file, stored = whole("expr_jf"), arrays("expr_jf")
    scores = [
        j_and_f(stored[f"{case['id']}_objects"].any(axis=0), stored[f"{case['id']}_pred"]) for case in file["cases"]
    ]
    wanted = file["dataset"]
    found = mean_over_expressions(scores)
    same_columns({"J": found.j, "F": found.f, "J&F": found.j_and_f, "JF": found.j_and_f}, wanted)


@pytest.mark.parametrize("case", cases("refdavis_merge"))
def test_ref_davis17(case):
    stored = arrays("refdavis_merge")
    truth, soft, merged = (stored[f"{case['id']}_{part}"] for part in ("gt", "soft", "merged"))
    for annotator, wanted in enumerate(merged):
        np.testing.assert_array_equal(merge_expressions(soft[annotator::4] / 100), wanted)
    found = ref_davis17([(case["id"], truth, soft / 100)], reference=True)
    for table, wanted in zip(found.annotators, case["per_annotator"], strict=True):
        same_columns(table, wanted)
    same_columns(found.mean, case["mean_over_annotators"])


@pytest.mark.parametrize("case", cases("points_image"))
def test_image_points(case):
    stored = arrays("points_image")
    truth, pred, masks = (stored[f"{case['id']}_{part}"] for part in ("gt", "pred", "masks"))
    same(image_point_scores(truth, pred, masks, reference=True), [case[name] for name in P_R_F1])
    same(image_point_scores(truth, pred, masks), [case[name] for name in P_R_F1])
    for name, wanted in case.get("text_level", {}).items():
        if not name.endswith("_text"):
            read = points_of(name, case["text_level"], case["width"], case["height"], len(truth))
            same(image_point_scores(truth, read, masks, reference=True), wanted)


def points_of(evaluator: str, texts: dict[str, str], width: int, height: int, objects: int) -> np.ndarray:
    """What an evaluator reads in the answer. Molmo 1's wants a bare tag, but looks at that after the empty case."""
    answer = texts["molmo2_text" if evaluator == "molmo2" else "molmo1_text"]
    read = read_like_molmo1 if evaluator == "molmo1" else read_like_molmo2_points
    refused = evaluator == "molmo1" and objects and not has_molmo1_format(answer)
    return np.array([] if refused else read(answer, width, height).found).reshape(-1, 2)


def test_mean_of_image_points():
    file, stored = whole("points_image"), arrays("points_image")
    scores = [
        image_point_scores(*(stored[f"{case['id']}_{part}"] for part in ("gt", "pred", "masks")), reference=True)
        for case in file["cases"]
    ]
    same_columns(mean_point_scores(scores)._asdict(), file["dataset_mean"])


@pytest.mark.parametrize("case", cases("points_video"))
def test_video_points(case):
    stored = arrays("points_video")
    truth, pred, masks, present, times = (
        stored[f"{case['id']}_{part}"] for part in ("gt", "pred", "masks", "present", "times")
    )
    tubes = [
        {float(at): mask for at, mask, there in zip(times, *rows, strict=True) if there}
        for rows in zip(masks, present, strict=True)
    ]
    found = video_point_scores(
        truth, pred, tubes[: len(truth)], case["duration"], case["height"], case["width"], reference=True
    )
    same_columns(found._asdict(), {name: case[name] for name in (*P_R_F1, "valid")})


@pytest.mark.parametrize("case", cases("counting"))
def test_counting(case):
    truth, text = case["gt"], case["text"]
    found = {
        "molmo2_video_count": molmo2_video_count(truth, text),
        "molmo1_image_count": molmo1_image_count(truth, text),
        "molmo2_image_count": molmo2_image_count(truth, len(read_like_molmo2_points(text, 100, 100).found)),
    }
    for name, score in found.items():
        same_columns(score._asdict(), case[name])


def tracks_of(frames: list[dict[str, Any]]) -> dict[int, list[TrackPoint]]:
    return {frame["frame"]: [TrackPoint(point["id"], *point["point"]) for point in frame["points"]] for frame in frames}


def tubes_of(case: dict[str, Any]) -> Tubes:
    stored = arrays("tracks")
    masks, present, frames = (stored[f"{case['id']}_{part}"] for part in ("masks", "present", "mask_frames"))
    return {
        str(n): {int(at): mask for at, mask, there in zip(frames, *rows, strict=True) if there}
        for n, rows in enumerate(zip(masks, present, strict=True))
    }


@pytest.mark.parametrize("case", cases("tracks"))
def test_tracks(case):
    truth, pred, wanted = tracks_of(case["gt_tracks"]), tracks_of(case["pred_tracks"]), case["expected"]
    found = track_scores(truth, pred, tubes_of(case), pairing="reference")
    counts = {"num_frames": len(found.frames), "frames_with_pred": len(pred), "frames_with_gt": len(truth)}
    same_columns(found._asdict() | found.hota | counts, wanted)
    assert list(found.frames) == [frame["frame"] for frame in case["frame_details"]]
    for frame in case["frame_details"]:
        same(found.frames[frame["frame"]], [frame[name] for name in P_R_F1])
    if truth or pred:
        alike = case["trackeval_same_similarity"]
        same_columns(found.hota, {name: value for name, value in alike.items() if not name.endswith("(0)")})
    complete = all(len(points) == len(tubes_of(case)) for points in truth.values())
    if complete and not case["gt_points_misaligned_with_masks"]:  # then pairing by id only drops the epsilon of F1
        ours = track_scores(truth, pred, tubes_of(case))
        same(ours[:2], [wanted["precision"], wanted["recall"]])
        same(ours.hota["HOTA"], wanted["HOTA"])


@pytest.mark.parametrize("case", cases("hota_similarity"))
def test_hota(case):
    stored = arrays("hota_similarity")
    parts = [[stored[f"{case['id']}_t{at}_{part}"] for at in range(case["T"])] for part in ("gt", "pred", "sim")]
    same_columns(hota_scores(*parts, when_empty="molmo2"), case["molmo2"])
    found = hota_scores(*parts, when_empty="trackeval")
    found |= {"LocA(0)": found["LocA"][0], "HOTA(0)": found["HOTA"][0]}
    same_columns(found, case["molmo2"] | case["trackeval"])


@pytest.mark.parametrize("case", cases("gcg"))
def test_conversations(case):
    truth, pred, similarity = gcg_arrays(case)
    assert (len(truth), len(pred)) == (case["n_gt"], case["n_pred"])
    same(gcg_miou(truth, pred, reference=True), case["miou"])
    assert gcg_matches(truth, pred, similarity, reference=True) == [tuple(pair) for pair in case["matches"]]


def test_means_of_conversations():
    file = whole("gcg")
    found = gcg_scores((gcg_arrays(case) for case in file["cases"]), reference=True)
    same(found, [file["mean_miou"], file["recall"]])


def gcg_arrays(case: dict[str, Any]) -> tuple[np.ndarray, ...]:
    return tuple(arrays("gcg")[f"{case['id']}_{part}"] for part in ("gt", "pred", "text_sim"))
