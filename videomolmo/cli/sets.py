"""The commands about data sets: `data`, `annotate` and `evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from videomolmo.cli.fetch import fetch
from videomolmo.cli.options import (
    Benchmark,
    DataPath,
    Device,
    Every,
    Fusion,
    Limit,
    Masks,
    Model,
    Past,
    Resumed,
    Split,
    Tau,
    datasets,
    file,
    number,
    opt,
    whole,
)
from videomolmo.errors import BadInput
from videomolmo.io.command_line import Command, Group

CAPTIONS, WORDS, MOLMO2 = ({"rich_help_panel": panel} for panel in ("Captions", "Endpoint", "Rows of Molmo 2"))
ROWS = "videomolmo molmo2-point molmo2-track molmo2-count"
Endpoint = Annotated[str | None, opt("URL of chat completions; key: $VIDEOMOLMO_API_KEY.", "URL", **WORDS)]
Yes = Annotated[bool, Option("--yes", help="Send without asking.", **WORDS)]
data = typer.Typer(cls=Group, rich_markup_mode=None, help="List public data sets; fetch one; check a download.")
data.command("fetch", cls=Command)(fetch)


@data.command("list", cls=Command)
def data_list() -> None:
    """List the data sets that can be read."""
    from videomolmo.datasets import DATASETS

    width = max(map(len, DATASETS))
    for name, dataset in DATASETS.items():
        splits = "as found on disk" if callable(dataset.splits) else ", ".join(dataset.splits)
        print(f"{name:{width}}  {dataset.title} (splits: {splits})")


@data.command("check", cls=Command)
def data_check(
    name: Annotated[str, Argument(metavar="NAME", help="Data set, see `data list`.", autocompletion=datasets)],
    path: Annotated[str | None, Argument(metavar="PATH", help="Its folder (default: $VIDEOMOLMO_DATA/NAME).")] = None,
    split: Annotated[str | None, opt("Only this split (default: all that are there).", "SPLIT")] = None,
) -> int:
    """Check a download: its counts, every mask, every frame's header.

    Exit code: 0 for a whole download, 1 for a broken one, 2 when there is nothing to check.
    """
    from videomolmo.datasets.check import check_dataset

    report = check_dataset(name, path, split, progress=sys.stderr.isatty())
    print(report.text())
    return 0 if report.ok else 1


def annotate(
    benchmark: Benchmark,
    out: Resumed,
    path: DataPath = None,
    split: Split = None,
    limit: Limit = None,
    masks: Masks = "nano",
    every: Every = 5,
    candidates: Annotated[int, whole("Points tried for each object.", "N")] = 10,
    max_points: Annotated[int, whole("Points for one object; 1 as in the paper.", "N")] = 1,
    iou_threshold: Annotated[float, number("IoU from which no further point is added.", "IOU")] = 0.7,
    negative: Annotated[bool, Option("--negative", help="Add negative points (not on the object) too.")] = False,
    min_iou: Annotated[float | None, number("Left out below this IoU (points 0.3, boxes 0.5).", "IOU")] = None,
    seed: Annotated[int, whole("Random seed.", "N")] = 0,
    workers: Annotated[int, whole("Processes that share the clips.", "N")] = 1,
    rows: Annotated[str, opt(f"{ROWS.replace(' ', ', ')}.", "KIND", ROWS, **MOLMO2)] = "videomolmo",
    sampling_fps: Annotated[int, whole("Frames a second of molmo2-track, 1 or 2.", "FPS", **MOLMO2)] = 2,
    sigma: Annotated[float, number("Spread of Molmo 2's points, in sides of the box.", "SHARE", **MOLMO2)] = 0.15,
    captions: Annotated[bool, Option("--captions", help="Make grounded captions instead.", **CAPTIONS)] = False,
    words: Annotated[
        str, opt("templates, or the id of an image-text model.", "MODEL", "templates", **CAPTIONS)
    ] = "templates",
    endpoint: Endpoint = None,
    form: Annotated[
        str, opt("Made from masks, captions or sentences.", "KIND", "masks captions sentences", **CAPTIONS)
    ] = "auto",
    pictures: Annotated[int, whole("Frames of a clip that a model is shown.", "N", **CAPTIONS)] = 4,
    from_boxes: Annotated[
        bool, Option("--from-boxes", help="Masks by SAM 2 of boxes, even where there are masks.", **CAPTIONS)
    ] = False,
    yes: Yes = False,
) -> None:
    """Make training points, or captions, of a data set; resumable.

    With --rows: rows as Molmo 2's data has them, from masks, or from boxes that SAM 2 follows.

    With --captions: what has boxes alone gets masks by SAM 2; the words are made by templates, by an image-text model
    of transformers, or by an endpoint for chat completions, which gets nothing before you said yes.
    """
    if captions:
        settings = {"words": words, "endpoint": endpoint, "form": form, "pictures": pictures, "from_boxes": from_boxes}
        settings |= {} if min_iou is None else {"min_iou": min_iou}
        _annotate_captions(settings, benchmark, path, out, split=split, masks=masks, limit=limit, yes=yes)
        return
    if endpoint is not None or words != "templates":
        raise BadInput("--words and --endpoint make captions; give --captions, too")
    from videomolmo.annotation.annotate import REJECTED_LOW_IOU, Settings, annotate_dataset

    least = Settings.min_iou if min_iou is None else min_iou
    tracks = Settings.min_track_iou if min_iou is None else min_iou
    settings = Settings(
        every, candidates, max_points, iou_threshold, negative, least, seed, rows, sampling_fps, sigma, tracks
    )
    report = annotate_dataset(benchmark, path, out, settings, split=split, masks=masks, workers=workers, limit=limit)
    told = {REJECTED_LOW_IOU: "left out, their IoU being too low"}
    verdicts = ", ".join(f"{count} {told.get(verdict, verdict)}" for verdict, count in report["objects"].items())
    print(f"{report['rows']} training rows; objects on frames: {verdicts or 'none'}; see {out}")
    for clip, reason in report["refused"].items():
        print(f"left out {clip}: {reason}; run again when that is mended", file=sys.stderr)


def _annotate_captions(settings: dict, benchmark: str, path: Path | None, out: Path, *, yes: bool, **what: Any) -> None:
    from videomolmo.annotation.captions import CaptionSettings, annotate_captions

    report = annotate_captions(benchmark, path, out, CaptionSettings(**settings), confirm=agreed(yes), **what)
    masks = ", ".join(f"{count} {verdict}" for verdict, count in report["masks"].items())
    print(
        f"{report['rows']} captions with {report['phrases']} phrases{masks and f'; masks of boxes: {masks}'}; see {out}"
    )
    for clip, objects in report["rejected"].items():
        told = ", ".join(f"{name} on {count} frames" for name, count in objects.items())
        print(f"rejected in {clip}: object {told}", file=sys.stderr)
    for clip, reason in report["refused"].items():
        print(f"left out {clip}: {reason}; run again when that is mended", file=sys.stderr)


def agreed(yes: bool) -> Callable[[str], bool]:
    """Says whether something may be sent, after showing what: yes, or as the user answers at a terminal."""

    def ask(plan: str) -> bool:
        print(f"to be sent: {plan}", file=sys.stderr)
        return yes or (sys.stdin.isatty() and typer.confirm("send it?", err=True))

    return ask


def evaluate(
    benchmark: Benchmark,
    out: Resumed,
    path: DataPath = None,
    split: Split = None,
    limit: Limit = None,
    model: Model = "nano",
    masks: Masks = "nano",
    every: Every = 5,
    fusion: Fusion = "iou",
    tau: Tau = 0.7,
    context: Past = None,
    device: Device = "auto",
    predictions: Annotated[Path | None, file("Score these masks; run no model.")] = None,
    layout: Annotated[str | None, opt("Paths of those masks, see above.", "TEMPLATE")] = None,
    compare: Annotated[bool, Option("--compare", help="Print published figures beside ours.")] = False,
    beside: Annotated[list[str] | None, opt("Another model, in one table; may be repeated.", "MODEL")] = None,
    submission: Annotated[Path | None, file("Also write the zip for the benchmark's server.", "ZIP")] = None,
    similarity: Annotated[
        str, opt("How phrases are compared: words, or an encoder.", "MODEL", "words", **CAPTIONS)
    ] = "words",
    judge: Annotated[str | None, opt("Model that judges captions (CLAIR).", "MODEL", **CAPTIONS)] = None,
    endpoint: Endpoint = None,
    yes: Yes = False,
) -> None:
    """Evaluate on a benchmark: a table of results; resumable.

    Benchmarks of grounded captions (gcg_nano, …_gcg) need a VideoGLaMM (--model nano-glamm); their table has intervals.
    The layout of PNG masks is {clip}/{expression}/{frame}.png; {object}, {source} and {exp_id} may stand in it too.
    """
    from videomolmo.datasets.registry import has_answers, known
    from videomolmo.evaluation.predictions import LAYOUT

    words = {"similarity": similarity, "judge": judge, "endpoint": endpoint}
    if has_answers(benchmark):
        if predictions or layout or submission:
            raise BadInput("--predictions, --layout and --submission are for masks of sentences; leave them out")
        if beside:
            raise BadInput(f"--beside is for sets of sentences such as refer_nano; {benchmark} asks for descriptions")
        models = {"model": model, "masks": masks, "device": device}
        _evaluate_captions(compare, yes, benchmark, out, path=path, split=split, limit=limit, **models, **words)
        return
    if judge or endpoint or similarity != "words":
        raise BadInput(f"--judge, --endpoint and --similarity are for captions; {benchmark} has none")
    what = {"model": model, "masks": masks, "every": every, "fusion": fusion, "tau": tau, "context": context,
            "device": device, "external_predictions": predictions, "layout": layout or LAYOUT}  # fmt: skip
    if beside:
        if predictions or layout or submission or compare:
            raise BadInput("--beside is for models; leave out --predictions, --layout, --submission and --compare")
        _evaluate_beside(
            known(benchmark)[0], out, [what.pop("model"), *beside], path=path, split=split, limit=limit, **what
        )
        return
    _evaluate_masks(known(benchmark)[0], out, path, split, limit, compare, submission, what)


def _evaluate_beside(dataset: str, out: Path, models: list[str], **what: Any) -> None:
    from videomolmo.evaluation.side_by_side import side_by_side, table_text

    print(table_text(side_by_side(dataset, out, models, **what)))
    print(f"see {out}")


def _evaluate_masks(
    dataset: str, out: Path, path: Path | None, split: str | None, limit: int | None, compare: bool,
    submission: Path | None, what: dict[str, Any],
) -> None:  # fmt: skip
    from videomolmo.datasets import read_dataset
    from videomolmo.evaluation import whole_videos
    from videomolmo.evaluation.evaluate import evaluate, j_and_f_of, scores_text
    from videomolmo.evaluation.predictions import Predictions, check_submission, write_submission
    from videomolmo.evaluation.quoted import comparison
    from videomolmo.evaluation.score import can_score

    if submission:
        check_submission(dataset, submission)
        if limit is not None:
            raise BadInput("a submission needs all clips; leave out --limit")
    records = read_dataset(dataset, path, split)
    with suppress(BadInput):  # a clip that cannot be read stops none of the others
        if len(records) and not can_score(records[0]):  # said now, not after hours of predicting
            print("the first clip has no public masks or counts: expect predictions only, no scores", file=sys.stderr)
    table = evaluate(dataset, out, path=path, split=split, limit=limit, **what)
    print(scores_text(table, out))
    if compare:
        print(whole_videos.comparison(dataset, table) if "low" in table else comparison(dataset, j_and_f_of(table)))
    if submission:
        masks = Predictions(what["external_predictions"] or out / "predictions", what["layout"])
        print(f"{submission}: {write_submission(records, masks, dataset, submission)} masks")


def _evaluate_captions(compare: bool, yes: bool, *where: Any, **what: Any) -> None:
    from videomolmo.evaluation.conversations import compared, evaluate_conversations, table_text

    table = evaluate_conversations(*where, confirm=agreed(yes), **what)
    print(table_text(table, where[1]))
    if compare:
        print(compared(table))
