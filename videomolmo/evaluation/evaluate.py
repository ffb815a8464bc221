"""A model predicts the clips of a benchmark, each prediction is scored, and one table comes out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from videomolmo.datasets import first_records, read_dataset
from videomolmo.datasets.boxes import VIDSTG
from videomolmo.datasets.mevis import REVOS_KINDS, REVOS_NAME
from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.datasets.registry import known
from videomolmo.errors import BadInput
from videomolmo.evaluation import whole_videos
from videomolmo.evaluation.predictions import LAYOUT, Predictions
from videomolmo.evaluation.score import (
    BOXES,
    MISSING,
    Score,
    frames_of,
    label_maps,
    points_row,
    revos_row,
    same_size,
    score_boxes,
    score_cost,
    score_count,
    score_masks,
    score_points,
    score_revos,
)
from videomolmo.grounding import check_settings
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.files import atomic_file, write_json
from videomolmo.io.plain_values import require_path
from videomolmo.io.schemas import MAX_FRAMES, KeptAnswer
from videomolmo.io.tables import write_csv
from videomolmo.io.untrusted import read_json
from videomolmo.metrics import mean_over_revos, ref_davis17
from videomolmo.metrics.expressions import RevosScore
from videomolmo.weights import hub

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from videomolmo.grounding import VideoGrounder


def answer_path(out: Path, record: Record, expression: Expression) -> Path:
    """Where the answers to one expression are kept; the file is the sign that its masks are complete."""
    return Predictions(out / "answers").path(record, expression, 0).parent.with_suffix(".json")


def read_answer(out: Path, record: Record, expression: Expression, run_key: str | None) -> dict | None:
    """What was kept of one expression: key frames with points and texts, number of objects, seconds.

    None where nothing was, where it is damaged, other settings made it, or the sentence is another one by now.
    """
    try:
        answer = read_json(answer_path(out, record, expression), KeptAnswer)
    except (OSError, BadInput):
        return None
    most = len(record.frame_names) or MAX_FRAMES
    fits = all(key["frame"] < most for key in answer["key_frames"])
    known = (answer["text"], answer.get("made_by", run_key)) == (expression.text, run_key)
    return answer if fits and known else None


def predict(
    grounder: "VideoGrounder",
    record: Record,
    expression: Expression,
    out: Path,
    predictions: Predictions,
    settings: dict,
    key: str,
) -> None:
    """Ground one expression and write a mask for every frame, the answers last.

    Args:
        grounder: the models.
        record, expression: what is asked.
        out: of the evaluation.
        predictions: where masks go.
        settings: `every`, `fusion`, `tau`, `context` of `VideoGrounder.__call__`.
        key: a mark of all settings of the evaluation, kept with the answers.
    """
    begun, worked = time.perf_counter(), time.process_time()
    with record.frames() as video, _tokens_of(grounder) as tokens:
        result = grounder(video, expression.text, **settings)
        for frame in range(len(result.masks)):
            predictions.write(record, expression, frame, result.masks[frame].any(axis=0))
    write_json(
        answer_path(out, record, expression),
        {
            "text": expression.text,
            "made_by": key,
            "commit": provenance.commit(),
            "objects": int(result.objects),
            "seconds": round(time.perf_counter() - begun, 3),
            "cost": tokens | {"processor seconds": round(time.process_time() - worked, 3)},
            "key_frames": [
                {"frame": answer.frame, "outcome": answer.outcome, "points_px": answer.points_px, "text": answer.text}
                for answer in result.answers
            ],
        },
    )


@contextmanager
def _tokens_of(grounder: "VideoGrounder") -> "Iterator[Counter[str]]":
    """Counts what goes through the language model meanwhile; nothing of a model whose stages are not known."""
    from videomolmo.io.timing import Profile, Stage
    from videomolmo.pointing import step_of

    tokens: Counter[str] = Counter()

    def counted(inputs_embeds: "Tensor", **more: object) -> str:
        rows, length, *_ = inputs_embeds.shape
        tokens["tokens read" if length > 1 else "tokens written"] += rows * length
        return step_of(inputs_embeds, **more)

    model = grounder.pointer if grounder.segmenter is None else grounder.segmenter
    stages = model.stages() if hasattr(model, "stages") else []
    with Profile().timing([Stage(one.owner, one.method, counted) for one in stages if one.part is step_of]):
        yield tokens


ALL = "(all)"
OURS = ("predictions", "answers", "missing.json", "results.parquet", "results.csv")
COLUMNS = ("clip", "expression", "kind", "text", "metric", "value", "n", "seconds")
MEANS = {"count exact": "EMA", "count close": "close accuracy", "count error": "MAE", "count invalid": "invalid share"}


def evaluate(
    benchmark: str,
    out: Path,
    *,
    path: Path | None = None,
    split: str | None = None,
    model: str = "nano",
    masks: str = "nano",
    every: int = 5,
    fusion: str = "iou",
    tau: float = 0.7,
    context: int | None = None,
    device: str = "auto",
    limit: int | None = None,
    external_predictions: Path | None = None,
    layout: str = LAYOUT,
) -> "pd.DataFrame":
    """The table of a benchmark, also written to `out`/results.parquet and results.csv; run again to go on.

    Args:
        benchmark, path, split: see `read_dataset`.
        out: gets predictions/, answers/, results and missing.json.
        model, masks, device: see `videomolmo.load_grounder`.
        every, fusion, tau, context: see `VideoGrounder.__call__`.
        limit: only so many clips.
        external_predictions, layout: another system's masks, only scored, and where they lie, see `Predictions`.

    Returns:
        One row for each clip, expression and metric, and rows with clip "(all)" for their means over expressions; no
        row, but all columns, where the set keeps its truth to itself. For ReVOS those means are over its two types.
        A missing prediction counts 0 and is listed in missing.json, with the reason where a clip or a sentence was
        refused, and with the number of frames where only some have no mask. Masks of other sizes, turned ones and
        those with several values are counted there too, and on standard error, with what was done with them.

    Raises:
        BadInput: `out` holds results of other settings or is locked, no external mask is there, or a part refuses.
    """
    benchmark, _ = known(benchmark)
    settings = check_settings(every, fusion, tau, context)
    model, masks, out = hub.as_name(model, "--model"), hub.as_name(masks, "--masks"), require_path(out, "out")
    external = None if external_predictions is None else require_path(external_predictions, "external_predictions")
    if external is None and layout != LAYOUT:
        raise BadInput(f"layout {layout!r} is for masks of others; give their folder, or no layout")
    records = first_records(read_dataset(benchmark, path, split), limit)
    if external is None and (whole := _whole_videos(records, model, masks, device, settings, out, limit)) is not None:
        return whole
    by = {"foreign": str(external), "layout": layout} if external else {"model": model, "masks": masks, **settings}
    manifest = identity(benchmark, records, limit) | by | {"expressions": digest(records)}
    predictions = Predictions(external or out / "predictions", layout)
    metadata = manifest | {"commit": provenance.commit(), "weights": ""}  # those of others are not known
    if external is not None:
        _check_external(records, predictions)
        with provenance.locked_manifest(out, manifest, "an evaluation", OURS):
            return _score(records, predictions, out, {}, None, metadata)
    grounder = _grounder(model, masks, device, settings)
    manifest |= {"weights": grounder.weights}
    with provenance.locked_manifest(out, manifest, "an evaluation", OURS):
        refused = _predict(grounder, records, predictions, out, settings, key_of(manifest))
        metadata["weights"] = " ".join(sorted(grounder.weights.values()))
        return _score(records, predictions, out, refused, key_of(manifest), metadata)


def _whole_videos(
    records: Records, model: str, masks: str, device: str, settings: dict, out: Path, limit: int | None
) -> "pd.DataFrame | None":
    """The table of a set about whole videos, where the model sees those; of our own sets no other model has one."""
    if records.dataset not in whole_videos.TASKS:
        return None
    grounder = _grounder(model, masks, device, settings)
    own = records.dataset.endswith("_nano")
    return whole_videos.evaluate(grounder, records, out, limit) if own or whole_videos.can_ask(grounder) else None


def identity(benchmark: str, records: Records, limit: int | None) -> dict:
    return {"benchmark": benchmark, "split": records.split, "limit": None if limit is None else int(limit)}


def _write_missing(out: Path, lost: dict, notes: list[str]) -> None:
    """Write missing.json, and say what was done with masks that are unlike the others."""
    write_json(out / "missing.json", lost | ({"notes": notes} if notes else {}))
    for note in notes:
        print(note, file=sys.stderr)


def _score(
    records: Records, predictions: Predictions, out: Path, refused: dict[str, str], key: str | None, metadata: dict
) -> "pd.DataFrame":
    """Write what is missing, and the table."""
    rows, missing, missing_frames = _scores(records, predictions, out, refused, key)
    rows += _means(rows) if metadata["benchmark"] != REVOS_NAME else _revos_means(rows)
    if metadata["benchmark"] == "ref_davis17":
        rows += _ref_davis17(records, predictions)
    lost = {"missing": missing, "count": len(missing), "reasons": refused, "frames": missing_frames}
    _write_missing(out, lost, predictions.notes())
    return _write(out, metadata, rows)


def _grounder(model: str, masks: str, device: str, settings: dict) -> "VideoGrounder":
    """The models, once the settings are known to fit: nothing is written before."""
    from videomolmo.systems import load_grounder

    grounder = load_grounder(model, masks, device)
    grounder.describe(settings["context"])
    return grounder


def _predict(
    grounder: "VideoGrounder", records: Records, predictions: Predictions, out: Path, settings: dict, key: str
) -> dict[str, str]:
    """Predict what is not there yet; why expressions were refused. A clip or sentence that is stops no other."""
    refused: dict[str, str] = {}
    todo = [pair for pair in pairs_of(records) if read_answer(out, *pair, key) is None]
    for record, expression in tqdm(todo, desc="predict", unit="expression"):
        try:
            predict(grounder, record, expression, out, predictions, settings, key)
        except BadInput as error:
            refused[name_of(record, expression)] = str(error)
    return refused


def _check_external(records: Records, predictions: Predictions) -> None:
    """Nothing where any mask of others is there."""
    if not predictions.root.is_dir():
        raise BadInput(f"{predictions.root} is no folder of predictions; check the path")
    first = next(pairs_of(records), None)
    if first and not any(_has_any(predictions, *pair) for pair in pairs_of(records)):
        looked_for = predictions.path(*first, 0)
        raise BadInput(f"no mask in {predictions.root}: the first looked for is {looked_for}; check path and layout")


def digest(records: Records) -> str:
    """A hash of the names of all clips and expressions: another data set's answers are not taken for this one's."""
    asked = [[record.clip, expression.id] for record, expression in pairs_of(records)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def pairs_of(records: Records) -> Iterator[tuple[Record, Expression]]:
    return ((record, expression) for record in records for expression in record.expressions)


def name_of(record: Record, expression: Expression) -> str:
    return f"{record.clip}/{expression.id}"


def _scores(
    records: Records, predictions: Predictions, out: Path, refused: dict[str, str], key: str | None
) -> tuple[list[dict], list[str], dict[str, int]]:
    """Rows of every expression; those that nothing was predicted for; how many frames of the others have no mask.

    Without a `key` masks are external predictions: of them neither points nor counts are known, and none are scored.
    """
    rows, missing, missing_frames = [], [], {}
    for record, expression in tqdm(list(pairs_of(records)), desc="score", unit="expression"):
        answer, name = read_answer(out, record, expression, key), name_of(record, expression)
        try:
            masks = predictions if name not in refused else Predictions(out / "refused")  # what lies there answers
            scores = _mask_scores(record, expression, masks)  # another sentence; of this one there is nothing
            others = []
            if key is not None:
                others = [*score_points(record, expression, answer), *score_count(expression, answer)]
                others += score_cost(answer)
        except BadInput:
            if name not in refused:
                raise
            scores, others = _scores_of_nothing(record, expression), []
        gone = next((score for score in scores if score.metric == MISSING), None)
        is_bare = gone is not None and gone.value == gone.n
        if is_bare or name in refused or not _has_any(predictions, record, expression):
            missing.append(name)
        elif gone is not None:
            missing_frames[name] = int(gone.value)
        scores = [*(score for score in scores if score is not gone), *others]
        labels = {"clip": record.clip, "expression": expression.id, "kind": expression.kind, "text": expression.text}
        seconds = None if answer is None else answer["seconds"]
        rows += [{**labels, **vars(score), "seconds": seconds} for score in scores]
    return rows, missing, missing_frames


def _mask_scores(record: Record, expression: Expression, predictions: Predictions) -> list[Score]:
    scorers = {REVOS_NAME: score_revos, VIDSTG: score_boxes}
    return scorers.get(record.dataset, score_masks)(record, expression, predictions)


def _has_any(predictions: Predictions, record: Record, expression: Expression) -> bool:
    """Whether any frame has a mask; also where the set keeps its truth to itself."""
    frames = frames_of(record)
    return predictions.missing_frames(record, expression, frames) < frames


def _scores_of_nothing(record: Record, expression: Expression) -> list[Score]:
    """Zeros where nothing was predicted because the clip cannot be read, and its truth needs the clip's size."""
    if expression.objects is None:
        return score_count(expression, None)
    if record.dataset == VIDSTG:
        return [Score(BOXES, 0.0, 0)]
    zeros = revos_row(RevosScore(0.0, 0.0, 0.0, 0.0), 0)
    masks = zeros if record.dataset == REVOS_NAME else zeros[:3]  # J, F and J&F
    return [*masks, *points_row((0.0, 0.0, 0.0), 0), *score_count(expression, None)]


def _means(rows: list[dict]) -> list[dict]:
    """Means over expressions, of all and of each kind."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for kind in (ALL, row["kind"]):
            found.setdefault((kind, row["metric"]), []).append(row["value"])
    return [
        _row(Score(MEANS.get(metric, metric), float(np.mean(values)), len(values)), kind)
        for (kind, metric), values in found.items()
    ]


def _revos_means(rows: list[dict]) -> list[dict]:
    """As `_means`, but those of all expressions weigh both types alike, however many expressions each has.

    Source: ReVOS's evaluation.
    """
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        values.setdefault((row["kind"], row["clip"], row["expression"]), {})[row["metric"]] = row["value"]
    kinds: dict[str, list[RevosScore]] = {}
    for (kind, *_), found in values.items():
        if "R" in found and kind in REVOS_KINDS.values():  # its masks were scored, and the set's own means count it
            kinds.setdefault(kind, []).append(RevosScore(found["J"], found["F"], found["A"], found["R"]))
    overall = {score.metric: score.value for score in revos_row(mean_over_revos(kinds)["overall"], 0)} if kinds else {}
    return [
        row | {"value": overall.get(row["metric"], row["value"])} if row["kind"] == ALL else row for row in _means(rows)
    ]


def _ref_davis17(records: Records, predictions: Predictions) -> list[dict]:
    """The protocol's own number: annotators' masks compete, DAVIS unsupervised, mean of four annotators."""

    def sequences() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for record in tqdm(records, desc="four annotators", unit="clip"):
            if not record.expressions:
                continue
            truth = np.stack(same_size(record, label_maps(record)))
            size = truth.shape[1:]
            placed = {int(expression.id): expression for expression in record.expressions}  # object * 4 + annotator
            maps = np.zeros((4 * (max(placed) // 4 + 1), *truth.shape), dtype=bool)
            for number, expression in placed.items():
                for frame in range(len(truth)):
                    mask = predictions.read(record, expression, frame, size)
                    maps[number, frame] = False if mask is None else mask
            yield record.clip, truth, maps

    scores = ref_davis17(sequences())
    named = {f"four annotators, {name}": value for name, value in scores.mean.items()}
    return [_row(Score(name, float(value), len(records)), ALL) for name, value in named.items()]


def _row(score: Score, kind: str) -> dict:
    return {"clip": ALL, "expression": ALL, "kind": kind, "text": "", **vars(score), "seconds": None}


def _write(out: Path, metadata: dict, rows: list[dict]) -> "pd.DataFrame":
    """The table as Parquet and CSV, the metadata in every row."""
    import pandas as pd

    table = pd.DataFrame([metadata | row for row in rows], columns=[*metadata, *COLUMNS])
    with atomic_file(out / "results.parquet") as unfinished:
        table.to_parquet(unfinished, index=False)
    write_csv(table, out / "results.csv")
    return table


def scores_text(table: pd.DataFrame, out: Path) -> str:
    """The means of a run, and what in its folder had no prediction, as lines."""
    means, lines = table[table["clip"] == ALL], ["nothing scored: this set has no public masks, points or counts"]
    if not table.empty:  # else a server scores it, or it has boxes only
        columns = [name for name in ("kind", "metric", "value", "low", "high", "n") if name in means]
        lines = [means[columns].to_string(index=False, float_format="{:.4f}".format)]
    lost = json.loads((out / "missing.json").read_text(encoding="utf-8-sig"))
    if lost["count"]:
        lines.append(f"{lost['count']} expressions have no prediction and count 0: see {out / 'missing.json'}")
    if lost["frames"]:
        lines.append(f"{len(lost['frames'])} expressions have frames without a mask, which count as empty: see there")
    return "\n".join(lines)


def j_and_f_of(table: pd.DataFrame) -> dict[str, float]:
    """J&F of a run, or mIoU of boxes, by what it is a mean of, as `comparison` shows it."""
    names = {"J&F": "mean of {n} expressions", "four annotators, J&F-Mean": "mean of four annotators",
             BOXES: "mean of {n} questions"}  # fmt: skip
    kind = table["metric"].map(lambda metric: "question" if metric == BOXES else ALL)
    rows = table[(table["clip"] == ALL) & (table["kind"] == kind) & table["metric"].isin(names)]
    return {f"{row.split}, {names[row.metric].format(n=row.n)}": row.value for row in rows.itertuples()}
