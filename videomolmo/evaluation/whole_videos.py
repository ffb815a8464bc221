"""Questions about whole videos, answered once each: points in time, counts, tracks; with intervals, by category.

Points and counts are scored as Molmo 2's evaluators do (`metrics.point_scores`, `metrics.counting`). Tracks: the points
of the answer are clicks for SAM 2, both ways in time between the frames that were shown, and the union of all masks is
compared with that of the objects meant (J, F); HOTA and point scores are of the points themselves. Differs: Molmo 2's
own step from points to masks was not released; this is ours.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.errors import BadInput
from videomolmo.evaluation.predictions import Predictions
from videomolmo.evaluation.score import Score, points_row
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.files import atomic_file, write_json
from videomolmo.io.tables import write_csv
from videomolmo.io.untrusted import read_json
from videomolmo.metrics import j_and_f, molmo2_video_count, track_scores, video_point_scores
from videomolmo.metrics.counting import is_close
from videomolmo.points import TrackPoint, read_points
from videomolmo.systems.whole_video import number_in, point_in_video

if TYPE_CHECKING:
    import pandas as pd

    from videomolmo.grounding import VideoGrounder
    from videomolmo.results import GroundingResult

TASKS = {
    "point_video_nano": "point", "count_video_nano": "count", "track_video_nano": "track",
    "molmo2_video_point_eval": "point", "molmo2_video_count_eval": "count", "molmo2_track": "track",
}  # fmt: skip
TRACK_FPS = 2  # frames a second that are shown for tracks; answers are read at the same
ALL, OURS = "(all)", ("answers", "missing.json", "results.parquet", "results.csv")
DRAWS = 2000  # of the bootstrap
METRICS = {
    "point": ("point precision", "point recall", "point f1"),
    "count": ("count exact", "count close", "count error", "count invalid", "molmo2 exact", "molmo2 close"),
    "track": ("J", "F", "J&F", "HOTA", "DetA", "AssA", "track f1"),
}
_MODELS = ("GPT-5", "GPT-5 mini", "Gemini 3 Pro", "Gemini 2.5 Pro", "Gemini 2.5 Flash", "Claude Sonnet 4.5",
           "Qwen3-VL-4B", "Qwen3-VL-8B", "Molmo2-4B", "Molmo2-8B", "Molmo2-O-7B")  # fmt: skip
QUOTED = {  # percent, as Molmo 2's authors print them for their own sets, API models included
    "point": (("Molmo2-VP F1", "Molmo2-VP recall", "Molmo2-VP precision"), (
        (4.1, 4.4, 4.2), (2.2, 2.2, 2.2), (20.0, 27.4, 19.8), (13.0, 14.5, 13.6), (11.1, 11.2, 12.2), (3.5, 3.7, 4.3),
        (0.0, 0.0, 0.0), (1.5, 1.5, 1.5), (39.9, 42.7, 39.4), (38.4, 39.3, 38.7), (35.8, 35.8, 37.9),
    )),
    "count": (("BURST-VC exact", "BURST-VC close", "Molmo2-VC exact", "Molmo2-VC close"), (
        (43.1, 73.7, 35.8, 50.3), (46.0, 73.0, 29.8, 49.3), (44.0, 71.7, 37.1, 53.1), (41.6, 70.0, 35.8, 56.5),
        (38.7, 70.0, 31.9, 48.2), (42.4, 72.6, 27.2, 45.1), (38.9, 74.7, 25.3, 44.3), (42.0, 74.4, 29.6, 47.7),
        (61.5, 76.1, 34.3, 56.1), (60.8, 75.0, 35.5, 53.3), (61.6, 76.0, 33.2, 50.5),
    )),
}  # fmt: skip
QUOTED_TRACKS = {"GPT-5": (23.4, 26.5), "Gemini 3 Pro": (42.5, 51.1), "Qwen3-VL-8B": (35.1, 34.4),
                 "VideoLISA": (44.4, 53.2), "Molmo2-4B": (56.2, 62.1), "Molmo2-8B": (56.1, 60.4),
                 "Molmo2-O-7B": (54.5, 59.8)}  # fmt: skip


def evaluate(grounder: VideoGrounder, records: Records, out: Path, limit: int | None = None) -> pd.DataFrame:
    """The table of a set about whole videos, also written to `out`; run again to go on.

    Args:
        grounder: with a model that sees whole videos.
        records: of one of `TASKS`.
        out: gets answers/, results and missing.json.
        limit: how many clips were asked for, for the manifest.

    Returns:
        One row for each question and metric, and rows with clip "(all)" for means, of all and of each category, with a
        95 % bootstrap interval over questions (`low`, `high`). What was refused counts 0 and is in missing.json.

    Raises:
        BadInput: a model that sees one frame at a time, or `out` holds results of other settings.
    """
    task = TASKS[records.dataset]
    if not can_ask(grounder):
        raise BadInput(
            f"model {grounder.loaded.get('model', '')!r} answers about one frame at a time, and {records.dataset} asks "
            "about whole videos; give a Molmo 2"
        )
    loaded = {name: grounder.loaded.get(name) for name in ("model", "masks")}
    manifest = {"benchmark": records.dataset, "split": records.split, "limit": limit, **loaded,
                "clips": len(records), "weights": grounder.weights}  # fmt: skip
    rows, refused, key = [], {}, key_of(manifest)
    with provenance.locked_manifest(out, manifest, "an evaluation", OURS):
        pairs = ((record, expression) for record in records for expression in record.expressions)
        for record, expression in tqdm(pairs, desc=task, unit="question", total=len(records)):
            labels = {"clip": record.clip, "expression": expression.id, "kind": expression.kind,
                      "text": expression.text}  # fmt: skip
            try:
                kept = _answer(grounder, record, expression, task, out, key)
                scores = SCORES[task](record, expression, kept)
            except BadInput as error:
                refused[f"{record.clip}/{expression.id}"] = str(error)
                scores, kept = [Score(name, 0.0, 0) for name in METRICS[task]], {}
            rows += [labels | vars(score) | {"seconds": kept.get("seconds")} for score in scores]
        write_json(out / "missing.json", {"missing": sorted(refused), "count": len(refused), "reasons": refused,
                                          "frames": {}})  # fmt: skip
        return _write(out, manifest | {"commit": provenance.commit(), "weights": " ".join(grounder.weights.values())},
                      rows + means(rows))  # fmt: skip


def can_ask(grounder: VideoGrounder) -> bool:
    """Whether a model sees whole videos."""
    return getattr(grounder.pointer, "answer_once", None) is not None


def _answer(
    grounder: VideoGrounder, record: Record, expression: Expression, task: str, out: Path, key: str
) -> dict[str, Any]:
    """The answer to a question, kept in a file of its own, or asked for; of tracks with J and F of every frame."""
    path = Predictions(out / "answers").path(record, expression, 0).parent.with_suffix(".json")
    try:
        kept = read_json(path, dict[str, Any])
        if (kept.get("made_by"), kept.get("asked")) == (key, expression.text):
            return kept
    except (OSError, BadInput):
        pass
    begun = time.perf_counter()
    if task == "track":
        told = _tracked(grounder, record, expression)
    else:
        video, _ = record.whole()
        with video:
            result = point_in_video(grounder, video, expression.text, count=task == "count")
            told = {"answer": result.config["whole_video"]["text"], "number": number_in(result),
                    "duration_s": float(video.times_s[-1])}  # fmt: skip
    kept = {"asked": expression.text, "made_by": key, "seconds": round(time.perf_counter() - begun, 3), **told}
    write_json(path, kept)
    return kept


def _tracked(grounder: VideoGrounder, record: Record, expression: Expression) -> dict[str, Any]:
    """Answer, its frames, and J and F on every frame whose truth is known."""
    scores = []
    with record.frames() as video:
        every = max(1, round(video.fps / TRACK_FPS))
        result: GroundingResult = grounder(video, expression.text, every=every)
        for frame in range(len(video)):
            truth = record.truth(expression, frame)
            if truth is not None:
                found = result.masks[frame].any(axis=0) if result.objects else np.zeros_like(truth)
                scores.append([float(value) for value in j_and_f(truth, found)[:2]])
        times = np.asarray(video.times_s, np.float64)
    keys = result.key_frames
    return {"answer": result.answers[0].text, "keys": keys, "times_s": times[keys].tolist(), "j_and_f": scores}


def score_points(record: Record, expression: Expression, kept: dict[str, Any]) -> list[Score]:
    """Precision, recall and F1 in space and time: a point hits at a time that its object has a mask at."""
    height, width = record.size()
    answer = read_points(kept["answer"], height, width)
    video, times = record.whole()
    video.close()
    truth, tubes = [], []
    for object_id in expression.objects:
        points = _points(record, object_id, len(times))
        if points:
            truth.append((round(float(times[points[0][0]]), 1), *points[0][1]))
            masks = ((float(times[at]), record.mask_of(object_id, at)) for at in range(len(times)))
            tubes.append({round(when, 1): mask for when, mask in masks if mask is not None and mask.any()})
    told = [] if answer.times is None else np.column_stack([answer.times, answer.points_px])
    found = video_point_scores(np.array(truth), np.array(told), tubes, max(kept["duration_s"], 0.1), height, width)
    return points_row(found[:3], 1)


def _points(record: Record, object_id: str, frames: int) -> list[tuple[int, tuple[float, float]]]:
    """Frame and place of an object's points, as the set has them."""
    found = []
    for frame in range(frames):
        points = record.points_of(object_id, frame)
        found += [] if points is None else [(frame, (float(x), float(y))) for x, y in points]
    return found


def score_counts(record: Record, expression: Expression, kept: dict[str, Any]) -> list[Score]:
    """Exact, close, how far off and unreadable; `There are none.` is 0. As Molmo 2's evaluator has it, it is invalid.

    An answer that cannot be read counts as 0.
    """
    if expression.count is None:
        return []
    number, reference = kept["number"], molmo2_video_count(expression.count, kept["answer"])
    given = 0 if number is None else number
    values = (number == expression.count, number is not None and is_close(expression.count, number),
              abs(given - expression.count), number is None, reference.correct, reference.close)  # fmt: skip
    return [Score(name, float(value), 1) for name, value in zip(METRICS["count"], values, strict=True)]


def score_tracks(record: Record, expression: Expression, kept: dict[str, Any]) -> list[Score]:
    """J, F and J&F of the masks, HOTA and F1 of the points on the frames shown; nothing without true masks."""
    if not kept["j_and_f"]:
        return []
    height, width = record.size()
    j, f = np.mean(kept["j_and_f"], axis=0)
    answer, times = read_points(kept["answer"], height, width), np.array(kept["times_s"])
    pred: dict[int, list[TrackPoint]] = {}
    told = () if answer.times is None else zip(answer.times, answer.ids, answer.points_px, strict=True)
    for when, name, (x, y) in told:
        pred.setdefault(kept["keys"][int(np.abs(times - when).argmin())], []).append(TrackPoint(int(name), x, y))
    truth, tubes = {}, {object_id: {} for object_id in expression.objects}
    for at in kept["keys"]:
        for object_id in expression.objects:
            points = record.points_of(object_id, at)
            mask = record.mask_of(object_id, at)
            if points is not None and len(points):
                truth.setdefault(at, []).append(TrackPoint(object_id, *map(float, points[0])))
                if mask is not None:
                    tubes[object_id][at] = mask
    found = track_scores(truth, pred, tubes)
    values = (j, f, (j + f) / 2, found.hota["HOTA"], found.hota["DetA"], found.hota["AssA"], found.f1)
    return [Score(name, float(value), len(kept["keys"])) for name, value in zip(METRICS["track"], values, strict=True)]


SCORES = {"point": score_points, "count": score_counts, "track": score_tracks}


def means(rows: list[dict]) -> list[dict]:
    """Means over questions with their intervals, of all and of each category."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for kind in (ALL, row["kind"]):
            found.setdefault((kind, row["metric"]), []).append(row["value"])
    made = []
    for (kind, metric), values in found.items():
        low, high = interval(np.array(values))
        row = {"clip": ALL, "expression": ALL, "kind": kind, "text": "", "metric": metric, "seconds": None}
        made.append(row | {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values)})
    return made


def interval(values: Float[np.ndarray, " questions"]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean (percentiles of 2000 draws, always the same draws).

    Example:
        >>> interval(np.array([1.0, 1.0, 1.0]))
        (1.0, 1.0)
    """
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def comparison(benchmark: str, table: pd.DataFrame) -> str:
    """This run beside the published figures of other sets, which are marked as quoted: Markdown."""
    task = TASKS[benchmark]
    whole = table[(table["clip"] == ALL) & (table["kind"] == ALL)]
    lines = ["| system | measure | % | source |", "|---|---|---|---|"]
    for row in whole.itertuples():
        lines.append(f"| this run | {row.metric} on {benchmark} | {100 * row.value:.1f} | measured here, "
                     f"{100 * row.low:.1f} to {100 * row.high:.1f} |")  # fmt: skip
    if task == "track":
        names, quoted = ("MeViS valid J&F", "MeViS valid_u J&F"), QUOTED_TRACKS.items()
    else:
        names, quoted = QUOTED[task][0], zip(_MODELS, QUOTED[task][1], strict=True)
    for model, values in quoted:
        lines += [f"| {model} | {name} | {value:.1f} | quoted from Molmo 2's authors, another set |"
                  for name, value in zip(names, values, strict=True)]  # fmt: skip
    return "\n".join(lines)


def _write(out: Path, metadata: dict, rows: list[dict]) -> pd.DataFrame:
    """The table as Parquet and CSV, the metadata in every row."""
    import pandas as pd

    columns = ("clip", "expression", "kind", "text", "metric", "value", "low", "high", "n", "seconds")
    table = pd.DataFrame([metadata | row for row in rows], columns=[*metadata, *columns])
    with atomic_file(out / "results.parquet") as unfinished:
        table.to_parquet(unfinished, index=False)
    write_csv(table, out / "results.csv")
    return table
