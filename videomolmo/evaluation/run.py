"""Evaluate a benchmark: predict what is missing, score everything, write one tidy table with its provenance."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from videomolmo import provenance
from videomolmo.datasets import first_records, read_dataset
from videomolmo.datasets.record import Expression, Record, Records
from videomolmo.datasets.registry import known
from videomolmo.errors import BadInput
from videomolmo.evaluation.predict import predict, read_answer
from videomolmo.evaluation.predictions import LAYOUT, Predictions, write_json
from videomolmo.evaluation.score import Score, label_maps, score_count, score_masks, score_points
from videomolmo.metrics import ref_davis17

if TYPE_CHECKING:
    import pandas as pd

ALL = "(all)"
MEANS = {"count exact": "EMA", "count error": "MAE"}


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
    foreign: Path | None = None,
    layout: str = LAYOUT,
) -> "pd.DataFrame":
    """The table of a benchmark, also written to `out`/results.parquet and results.csv; run again to go on.

    Args:
        benchmark, path, split: see `read_dataset`.
        out: gets predictions/, answers/, results and missing.json.
        model, masks, device: see `VideoGrounder.from_pretrained`.
        every, fusion, tau, context: see `VideoGrounder.__call__`.
        limit: only so many clips.
        foreign: masks of another system, which are only scored; `layout` tells where they lie in that folder.
        layout: see `Predictions`.

    Returns:
        One row for each clip, expression and metric, and rows with clip "(all)" for their means over expressions.
        A missing prediction counts 0 and is listed in missing.json.

    Raises:
        BadInput: `out` holds results of other settings, or what the parts refuse.
    """
    benchmark, _ = known(benchmark)
    settings = {"every": every, "fusion": fusion, "tau": tau, "context": context}
    made_by = {"benchmark": benchmark, "split": split, "limit": limit} | (
        {"foreign": str(foreign), "layout": layout} if foreign else {"model": model, "masks": masks, **settings}
    )
    records = first_records(read_dataset(benchmark, path, split), limit)
    predictions = Predictions(foreign or out / "predictions", layout)
    if foreign is None:
        weights = _predict(records, predictions, out, model, masks, device, settings, made_by)
    else:
        weights = _claim_foreign(foreign, out, made_by)
    rows, missing = _scores(records, predictions, out)
    rows += _means(rows)
    if benchmark == "ref_davis17":
        rows += _ref_davis17(records, predictions)
    write_json(out / "missing.json", {"missing": missing, "count": len(missing)})
    facts = made_by | {"commit": provenance.commit(), "weights": " ".join(sorted(weights.values()))}
    return _write(out, [{**facts, **row} for row in rows])


def _predict(
    records: Records,
    predictions: Predictions,
    out: Path,
    model: str,
    masks: str,
    device: str,
    settings: dict,
    made_by: dict,
) -> dict[str, str]:
    """Predict what is not there yet; the hashes of the weights. Nothing is written before everything is checked."""
    from videomolmo.grounding import VideoGrounder, check_settings

    check_settings(settings["every"], settings["fusion"], settings["tau"])
    grounder = VideoGrounder.from_pretrained(model, masks, device)
    provenance.claim(out, made_by | {"weights": grounder.weights}, "an evaluation")
    todo = [pair for pair in _pairs(records) if read_answer(out, *pair) is None]
    for record, expression in tqdm(todo, desc="predict", unit="expression"):
        predict(grounder, record, expression, out, predictions, settings)
    return grounder.weights


def _claim_foreign(foreign: Path, out: Path, made_by: dict) -> dict[str, str]:
    """Take `out` for scores of masks that lie in a folder; their weights are not known."""
    if not foreign.is_dir():
        raise BadInput(f"{foreign} is no folder of predictions; check the path")
    provenance.claim(out, made_by, "an evaluation")
    return {}


def _pairs(records: Records) -> Iterator[tuple[Record, Expression]]:
    return ((record, expression) for record in records for expression in record.expressions)


def _scores(records: Records, predictions: Predictions, out: Path) -> tuple[list[dict], list[str]]:
    """Rows of every expression, and the expressions that nothing was predicted for."""
    rows, missing = [], []
    for record, expression in tqdm(list(_pairs(records)), desc="score", unit="expression"):
        answer = read_answer(out, record, expression)
        if not predictions.has(record, expression):
            missing.append(f"{record.clip}/{expression.id}")
        scores = [
            *score_masks(record, expression, predictions),
            *score_points(record, expression, answer),
            *score_count(expression, answer),
        ]
        about = {"clip": record.clip, "expression": expression.id, "kind": expression.kind, "text": expression.text}
        seconds = None if answer is None else answer["seconds"]
        rows += [{**about, **vars(score), "seconds": seconds} for score in scores]
    return rows, missing


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


def _ref_davis17(records: Records, predictions: Predictions) -> list[dict]:
    """The protocol's own number: annotators' masks compete, DAVIS unsupervised, mean of four annotators."""

    def sequences() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for record in tqdm(records, desc="four annotators", unit="clip"):
            truth = np.stack(list(label_maps(record)))
            size = truth.shape[1:]
            ordered = sorted(record.expressions, key=lambda expression: int(expression.id))
            maps = [
                [predictions.read(record, expression, frame, size) for frame in range(len(truth))]
                for expression in ordered
            ]
            empty = np.zeros(size, dtype=bool)
            filled = [[empty if mask is None else mask for mask in clip] for clip in maps]
            yield record.clip, truth, np.array(filled, dtype=bool)

    scores = ref_davis17(sequences())
    named = {f"four annotators, {name}": value for name, value in scores.mean.items()}
    return [_row(Score(name, float(value), len(records)), ALL) for name, value in named.items()]


def _row(score: Score, kind: str) -> dict:
    return {"clip": ALL, "expression": ALL, "kind": kind, "text": "", **vars(score), "seconds": None}


def _write(out: Path, rows: list[dict]) -> "pd.DataFrame":
    """The table as Parquet and CSV."""
    import pandas as pd

    table = pd.DataFrame(rows)
    table.to_parquet(out / "results.parquet", index=False)
    table.to_csv(out / "results.csv", index=False)
    return table
