"""Commands on whole data sets: `annotate` makes training points, `evaluate` makes a table of results."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register `annotate` and `evaluate`."""
    annotate = commands.add_parser("annotate", help="points for training from the masks of a data set")
    _dataset(annotate)
    annotate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, or to go on in")
    annotate.add_argument("--masks", default="nano", help="SAM 2: nano, a folder, or a published id")
    annotate.add_argument("--every", type=int, default=5, metavar="K", help="frames between annotated frames")
    annotate.add_argument("--candidates", type=int, default=10, help="points tried for each object")
    annotate.add_argument("--most-points", type=int, default=1, help="of one object (default: 1, as in the paper)")
    annotate.add_argument("--bound", type=float, default=0.7, help="IoU from which no further point is added")
    annotate.add_argument("--negative", action="store_true", help="points off the object may be added")
    annotate.add_argument("--least", type=float, default=0.3, help="objects with a lower IoU are left out")
    annotate.add_argument("--seed", type=int, default=0)
    annotate.add_argument("--workers", type=int, default=1, help="processes")
    annotate.set_defaults(run=_annotate)

    evaluate = commands.add_parser("evaluate", help="a table of results on a benchmark")
    _dataset(evaluate)
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, or to go on in")
    evaluate.add_argument("--model", default="nano", help="as in `ground`")
    evaluate.add_argument("--masks", default="nano", help="as in `ground`")
    evaluate.add_argument("--every", type=int, default=5, metavar="K", help="frames between key frames")
    evaluate.add_argument("--fusion", default="iou", help="rule, as in `ground`")
    evaluate.add_argument("--tau", type=float, default=0.7, help="threshold of the rule")
    evaluate.add_argument("--context", type=int, default=None, metavar="L", help="past frames (default: the model's)")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--predictions", type=Path, default=None, metavar="DIR", help="only score these masks")
    evaluate.add_argument(
        "--layout", default=None, help="their paths: {clip}/{expression}/{frame}.png; also {object}, {source}, {exp_id}"
    )
    evaluate.add_argument("--compare", action="store_true", help="print published figures beside ours")
    evaluate.add_argument("--submission", type=Path, default=None, metavar="ZIP", help="also write a server's zip")
    evaluate.set_defaults(run=_evaluate)


def _dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("--benchmark", required=True, metavar="NAME", help="data set; `videomolmo data list` has all")
    command.add_argument("--path", type=Path, default=None, help="its folder (default: $VIDEOMOLMO_DATA/NAME)")
    command.add_argument("--split", default=None)
    command.add_argument("--limit", type=int, default=None, help="only so many clips")


def _annotate(options: argparse.Namespace) -> int:
    from videomolmo.annotation.annotate import Settings, annotate_dataset

    settings = Settings(
        options.every, options.candidates, options.most_points, options.bound, options.negative, options.least,
        options.seed,
    )  # fmt: skip
    report = annotate_dataset(
        options.benchmark, options.path, options.out, settings, split=options.split, masks=options.masks,
        workers=options.workers, limit=options.limit,
    )  # fmt: skip
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in report["objects"].items())
    print(f"{report['rows']} training rows; objects on frames: {verdicts or 'none'}; see {options.out}")
    for clip, reason in report["refused"].items():
        print(f"left out {clip}: {reason}; run again when that is mended", file=sys.stderr)
    return 0


def _measured(means: "pd.DataFrame") -> dict[str, float]:
    """J&F of a run by what it is a mean of."""
    names = {"J&F": "mean of {n} expressions", "four annotators, J&F-Mean": "mean of four annotators"}
    rows = means[means["metric"].isin(names)]
    return {f"{row.split}, {names[row.metric].format(n=row.n)}": row.value for row in rows.itertuples()}


def _evaluate(options: argparse.Namespace) -> int:
    from videomolmo.datasets import read_dataset
    from videomolmo.datasets.registry import known
    from videomolmo.evaluation.evaluate import ALL, comparison, evaluate
    from videomolmo.evaluation.predictions import LAYOUT, Predictions, check_submission, write_submission
    from videomolmo.evaluation.score import can_score

    benchmark = known(options.benchmark)[0]
    if options.submission:
        check_submission(benchmark, options.submission)
        if options.limit is not None:
            raise BadInput("a submission needs all clips; leave out --limit")
    records = read_dataset(options.benchmark, options.path, options.split)
    with suppress(BadInput):  # a clip that cannot be read stops none of the others
        if len(records) and not can_score(records[0]):  # said now, not after hours of predicting
            print("the first clip has no public masks or counts: expect predictions only, no scores", file=sys.stderr)
    layout = options.layout or LAYOUT
    table = evaluate(
        options.benchmark, options.out, path=options.path, split=options.split, model=options.model,
        masks=options.masks, every=options.every, fusion=options.fusion, tau=options.tau, context=options.context,
        device=options.device, limit=options.limit, external_predictions=options.predictions, layout=layout,
    )  # fmt: skip
    means = table[table["clip"] == ALL]
    if table.empty:  # a server scores it, or it has boxes only
        print("nothing scored: this set has no public masks, points or counts")
    else:
        print(means[["kind", "metric", "value", "n"]].to_string(index=False, float_format="{:.4f}".format))
    lost = json.loads((options.out / "missing.json").read_text(encoding="utf-8-sig"))
    if lost["count"]:
        print(f"{lost['count']} expressions have no prediction and count 0: see {options.out / 'missing.json'}")
    if lost["frames"]:
        print(f"{len(lost['frames'])} expressions have frames without a mask, which count as empty: see there")
    if options.compare:
        print(comparison(benchmark, _measured(means[means["kind"] == ALL])))
    if options.submission:
        predictions = Predictions(options.predictions or options.out / "predictions", layout)
        count = write_submission(records, predictions, benchmark, options.submission)
        print(f"{options.submission}: {count} masks")
    return 0
