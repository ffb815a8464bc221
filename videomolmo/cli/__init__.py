"""The command line: `videomolmo ground` and the other commands, each a function whose signature says its options."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from videomolmo.cli import exchange, options, sets
from videomolmo.cli.describe import describe
from videomolmo.cli.options import (
    MANY,
    MODELS,
    REPORT,
    RUNNING,
    TYPES,
    Device,
    End,
    Every,
    Fps,
    Fusion,
    Masks,
    MaxFrames,
    Model,
    Past,
    Quantize,
    Reader,
    Start,
    Tau,
    file,
    number,
    opt,
    whole,
)
from videomolmo.cli.point import count, point
from videomolmo.cli.profile import Trace
from videomolmo.cli.serve import app as serve_app
from videomolmo.errors import BadInput
from videomolmo.io.command_line import Command, Group, at_least_one, run, show_version

if TYPE_CHECKING:
    from videomolmo.io.cluster import Executor


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 when the input was refused (one line on standard error)."""
    return run(app, "videomolmo", sys.argv[1:] if argv is None else argv)


app = typer.Typer(cls=Group, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(sets.data, name="data", rich_help_panel="Data sets")


def _command(panel: str, name: str | None = None) -> Callable:
    """Register a function as a command, in a panel of the help; it returns the exit code, or None for 0."""
    return app.command(name, cls=Command, rich_help_panel=panel)


Version = Annotated[bool, Option("--version", callback=show_version, is_eager=True, help="Show the version.")]


@app.callback()
def _videomolmo(version: Version = False) -> None:
    """Point at what a sentence names in a video."""


@_command("Videos")
def ground(
    video: Annotated[str | None, Argument(metavar="VIDEO", help="A file, folder of images, or live source.")] = None,
    sentence: Annotated[str | None, Argument(metavar="SENTENCE", help="For example 'the red circle'.")] = None,
    out: Annotated[Path | None, file("Folder to write (default: results/ground, or ground.1 and on).")] = None,
    model: Model = "nano",
    masks: Masks = "nano",
    every: Every = 5,
    fusion: Fusion = "iou",
    tau: Tau = 0.7,
    context: Past = None,
    device: Device = "auto",
    dtype: Annotated[str, opt("Precision; auto: by device and model.", "TYPE", f"auto {TYPES}", **MODELS)] = "auto",
    quantize: Quantize = None,
    attention: Annotated[str, opt("sdpa, eager or flash_attention_2.", "KIND", **MODELS)] = "sdpa",
    device_map: Annotated[str | None, opt("auto: spread the model over all GPUs.", "MAP", "auto", **MODELS)] = None,
    offline: Annotated[bool, Option("--offline", help="Use only what was downloaded before.", **MODELS)] = False,
    start: Start = None,
    end: End = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    reader: Reader = "pyav",
    latency: Annotated[
        int | None,
        whole("Windows worked on together (live: 1; else as many as are faster).", "N", callback=at_least_one),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace earlier results in DIR.")] = False,
    more_videos: Annotated[
        list[str] | None, Option("--video", metavar="VIDEO", help="A further video.", **MANY)
    ] = None,
    more_sentences: Annotated[
        list[str] | None, Option("--sentence", metavar="TEXT", help="A further sentence.", **MANY)
    ] = None,
    workers: Annotated[int | None, whole("Processes, each with its own models (default: 1).", "N", **MANY)] = None,
    scheduler: Annotated[str | None, options.scheduler(**MANY)] = None,
    cluster: Annotated[str | None, options.cluster(**MANY)] = None,
    profile: Trace = None,
) -> int | None:
    """Point at what SENTENCE names in VIDEO, and track it.

    Without both, the shipped sample clip is taken. Writes points, masks, tracks and an overlay video; the
    same command resumes a run that was stopped, from what lies in DIR.unfinished.

    VIDEO may be live (camera:0, rtsp://…, http://…, - or a FIFO) until it ends, or --end, or Ctrl-C; its frames are
    recorded in DIR, but for those of a camera or an endless stream that come while the models are busy. Of a run that
    is killed they stay in DIR.recorded.mp4, which can be grounded in their place.

    VIDEO may also be a folder of videos, or a table (.csv, .parquet) with columns video, sentence and settings; further
    videos and sentences are given with --video and --sentence, each as often as needed. Then DIR (default:
    results/videos) gets a folder for each sentence about each video, and results.csv, and the exit code is 1 when some
    failed.
    """
    from videomolmo.cli.ground_many import ground_all

    models = {"model": model, "masks": masks, "device": device, "dtype": dtype, "quantize": quantize,
              "attention": attention, "device_map": device_map, "offline": offline}  # fmt: skip
    settings = {"every": every, "fusion": fusion, "tau": tau, "context": context, "latency": latency,
                "max_frames": max_frames, "reader": reader, "start": start, "end": end, "fps": fps}  # fmt: skip
    asked = [one for one in (video, *(more_videos or ())) if one is not None], [sentence, *(more_sentences or ())]
    return ground_all(*asked, out, overwrite, models, settings, (workers, scheduler, cluster), profile)


_command("Videos")(point)
_command("Videos")(count)
_command("Videos")(describe)
_command("Videos", "app")(serve_app)
_command("Results")(exchange.export)
_command("Results", "import")(exchange.import_)


@_command("Videos")
def estimate(
    model: Annotated[str | None, opt("nano, nano-96, a folder or hub id (default: nano).", "MODEL")] = None,
    video: Annotated[str | None, opt("The clip (default: the shipped sample).", "VIDEO")] = None,
    every: Annotated[
        int | None, whole("Frames from one key frame to the next (default: 5).", "K", callback=at_least_one)
    ] = None,
    dtype: Annotated[str | None, opt("Precision of the weights (default: bfloat16).", "TYPE", TYPES)] = None,
    context: Annotated[int | None, whole("Past frames used (default: the model's).", "L")] = None,
    quantize: Quantize = None,
    train: Annotated[Path | None, file("Memory of training by this recipe.", "CONFIG")] = None,
    devices: Annotated[int | None, whole("With --train: number of devices.", "N")] = None,
    size: Annotated[str | None, opt("With --train: frame size, such as 1280x720.", "WxH")] = None,
) -> None:
    """Estimate the memory of a model on a clip, or of training."""
    from videomolmo.io.video import open_video
    from videomolmo.training import memory
    from videomolmo.training.recipe import read_recipe
    from videomolmo.weights import hub
    from videomolmo.weights.published import KNOWN, read_configuration

    if train is None:
        _reject({"devices": devices, "size": size}, "belongs to --train")
        model = model or "nano"
        config = KNOWN[model]() if model in KNOWN else read_configuration(hub.pointing_folder(model))
    else:
        given = {"model": model, "every": every, "dtype": dtype, "context": context, "quantize": quantize}
        _reject(given, "does not go with --train: the recipe says")
        _reject({} if size is None else {"video": video}, "and --size exclude each other")
        recipe = read_recipe(train)
    if size is None:
        with open_video(video or hub.sample_clip()) as frames:
            width, height, count = frames.width, frames.height, len(frames)
    else:
        width, height = _size(size)
    if train is not None:
        told = memory.recipe_memory(recipe, height, width, 1 if devices is None else devices)
    else:
        settings = {"every": every or 5, "dtype": dtype or "bfloat16", "quantize": quantize}
        told = memory.estimate(config, height, width, count, **settings, context=context)
    print(told.table())


def _reject(given: dict[str, object], reason: str) -> None:
    """BadInput where any of these options was given: it would change nothing."""
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--{name} {reason}; leave it out")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not found or not all(map(int, found.groups())):
        raise BadInput(f"--size is {text!r}, expected width x height in pixels, for example 1280x720")
    return int(found[1]), int(found[2])


for made in (sets.annotate, sets.evaluate):
    _command("Data sets")(made)


@_command("Training and weights")
def train(
    config: Annotated[Path, Argument(metavar="CONFIG", help="Recipe (TOML), as in data/recipes.", parser=Path)],
    out: Annotated[Path | None, file("Folder of the run (default: the recipe's).")] = None,
    resume: Annotated[Path | None, file("Checkpoint to begin from (default: the newest).")] = None,
    quiet: Annotated[bool, Option("--quiet", help="No progress bar.")] = False,
) -> int:
    """Train a model by a recipe; resumable.

    The model is a pointing model, a Molmo 2 or a VideoGLaMM; data/training.md tells how. For several GPUs or
    processes: accelerate launch --num_processes 8 -m videomolmo.cli train CONFIG.
    """
    from videomolmo.training.recipe import read_recipe

    recipe = read_recipe(config, out)
    import torch

    from videomolmo.training import trainer
    from videomolmo.training.log import Diverged

    try:
        outcome = trainer.train(recipe, resume, progress=not quiet and sys.stderr.isatty())
    except Diverged as error:
        print(f"videomolmo: {error}", file=sys.stderr)
        return 3
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    saved = f"saved in {outcome.checkpoint}. Run it again to go on" if outcome.checkpoint else "nothing to save yet"
    told = f"stopped after step {outcome.step} of {outcome.total}; {saved}"
    if outcome.model is not None:
        told = f"{outcome.total} steps; the model is in {outcome.model}"
    if os.environ.get("RANK", "0") == "0":  # one line, from the main process only
        print(told)
    return 128 + (outcome.stopped_by or 0) if outcome.model is None else 0


TEMPORAL = ("none", "addition", "concatenation", "cross_attention", "cross_attention_all")  # as in the model's config


@_command("Training and weights", "train-nano")
def train_nano(
    out: Annotated[Path, file("Working folder.")] = Path("runs/nano"),
    only: Annotated[
        Literal["pointing", "masks", "glamm", "molmo2"] | None,
        opt("pointing, masks, glamm or molmo2 (default: the first two).", "MODEL"),
    ] = None,
    temporal: Annotated[
        str, opt(f"How past frames enter the pointing model: {', '.join(TEMPORAL)}.", "KIND", " ".join(TEMPORAL))
    ] = "cross_attention",
    threads: Annotated[int, whole("CPU threads.", "N")] = 2,
    seed: Annotated[int, whole("Random seed.", "N")] = 1,
    share: Annotated[float, number("Share of all steps, for a quick trial.", "SHARE")] = 1.0,
    points: Annotated[Literal["text", "tokens"], opt("What it points with: text or tokens.", "KIND")] = "text",
) -> None:
    """Train the shipped weights from scratch; resumable."""
    from videomolmo.lab.nano import recipe

    recipe.train_nano(out, only=only, temporal=temporal, threads=threads, seed=seed, share=share, points=points)


Source = Annotated[str, Argument(metavar="SOURCE", help="Weights: a folder or hub id.")]
Target = Annotated[Path, Argument(metavar="TARGET", help="Folder to write; must be new or empty.", parser=Path)]


@_command("Training and weights")
def convert(
    source: Source,
    target: Target,
    dtype: Annotated[str | None, opt("Precision to write (default: as it is).", "TYPE", TYPES)] = None,
) -> None:
    """Convert published weights into this package's format."""
    from videomolmo.io.files import check_new
    from videomolmo.weights import checkpoint, hub

    check_new(target)
    model = checkpoint.convert(hub.pointing_folder(source), target, dtype and checkpoint.dtype_of(dtype))
    print(f"written to {target}: {sum(p.numel() for p in model.parameters()):,} parameters")


@_command("Training and weights", "export-weights")
def export_weights(
    source: Source, target: Target, shard_size: Annotated[str, opt("Largest size of one file.", "SIZE")] = "5GB"
) -> None:
    """Export weights under their published names."""
    from videomolmo.cli.exchange import write_published

    write_published(source, target, shard_size)


@_command("Sweeps")
def sweep(
    notebook: Annotated[str, Argument(metavar="NOTEBOOK", help="Has a cell tagged 'parameters'; or the word report.")],
    folder: Annotated[Path | None, Argument(metavar="DIR", help="The sweep to report on.", parser=Path)] = None,
    grid: Annotated[Path | None, file("TOML: fixed, grid, cells, repeats, cluster.", "FILE", **RUNNING)] = None,
    out: Annotated[Path | None, file("Folder to write, or to resume in.", **RUNNING)] = None,
    workers: Annotated[int | None, whole("Cells at once (default: one for each core).", "N", **RUNNING)] = None,
    scheduler: Annotated[str | None, options.scheduler(**RUNNING)] = None,
    cluster: Annotated[str | None, options.cluster(**RUNNING)] = None,
    cache: Annotated[Path | None, file("Intermediate results (default: DIR/cache).", **RUNNING)] = None,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run failed cells again.", **RUNNING)] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only list the cells and their time.", **RUNNING)] = False,
    seconds_per_cell: Annotated[
        float | None, number("Seconds expected of a cell, for the estimate.", "S", **RUNNING)
    ] = None,
    x: Annotated[str | None, opt("Column on the x axis.", "COLUMN", **REPORT)] = None,
    y: Annotated[str | None, opt("Measure on the y axis (default: all).", "COLUMN", **REPORT)] = None,
    colour: Annotated[str | None, opt("Column told apart by colour.", "COLUMN", **REPORT)] = None,
    facet: Annotated[str | None, opt("Column with a figure for each value.", "COLUMN", **REPORT)] = None,
    over: Annotated[str | None, opt("Column of repeats, for the intervals.", "COLUMN", **REPORT)] = None,
    where: Annotated[list[str] | None, opt("Only these rows; may be repeated.", "COLUMN=VALUE", **REPORT)] = None,
    html: Annotated[Path | None, file("Page to write (default: DIR/report.html).", "FILE", **REPORT)] = None,
) -> int | None:
    """Run a notebook over a grid of settings; resumable.

    `videomolmo sweep report DIR` writes a page of the results.

    Exit code: 0 when every cell is done, 1 when some failed or lost their table, 130 when stopped, 143 by SIGTERM.
    """
    running = {
        "grid": grid, "out": out, "workers": workers, "scheduler": scheduler, "cluster": cluster, "cache": cache,
        "retry-failed": retry_failed or None, "dry-run": dry_run or None, "seconds-per-cell": seconds_per_cell,
    }  # fmt: skip
    columns = {"x": x, "y": y, "colour": colour, "facet": facet, "over": over}
    if notebook == "report":
        _reject(running, "belongs to running a sweep")
        return _report(folder, columns, where or [], html)
    _reject({**columns, "where": where or None, "html": html}, "belongs to `videomolmo sweep report`")
    if folder:
        raise BadInput(f"{folder}: one notebook at a time; the folder is given with --out")
    for name in ("grid", "out"):
        if running[name] is None:
            raise BadInput(f"--{name} is missing; usage: videomolmo sweep NOTEBOOK --grid FILE --out DIR [options]")
    from videomolmo.io.cluster import Executor

    run, executor = _plan if dry_run else _sweep, Executor(workers, scheduler, cluster)
    return run((Path(notebook), grid, out, cache), executor, retry_failed, seconds_per_cell)


def _report(folder: Path | None, columns: dict[str, str | None], where: list[str], html: Path | None) -> None:
    from videomolmo.sweep.report import report

    if not folder:
        raise BadInput("the sweep's folder is missing; usage: videomolmo sweep report DIR")
    pairs = [text.partition("=") for text in where]
    for name, sign, _ in pairs:
        if not (name and sign):
            raise BadInput(f"--where {name!r} is no condition; write COLUMN=VALUE")
    print(f"written to {report(folder, **columns, where={name: value for name, _, value in pairs}, path=html)}")


def _plan(places: tuple, executor: "Executor", retry_failed: bool, user_s: float | None) -> None:
    """Print the cells and what they may take; nothing is written. `places`: notebook, grid, out, cache."""
    from videomolmo.sweep.grid import as_seconds
    from videomolmo.sweep.run import estimate, make_plan, prepare

    user_s = as_seconds(user_s, "--seconds-per-cell")
    notebook, trials, store = prepare(*places)
    plan = make_plan(trials, store.records(), retry_failed=retry_failed)
    print(f"{notebook.path.name}: {len(plan.trials)} cells\n{plan.listing()}")
    print(estimate(plan, executor.max_workers, user_s, notebook.seconds, trials.seconds))


def _sweep(places: tuple, executor: "Executor", retry_failed: bool, _: float | None) -> int:
    """Run the cells that are not done; 0 if all are then."""
    from videomolmo.sweep.run import sweep

    *what, out, cache = places
    summary = sweep(*what, out, executor=executor, retry_failed=retry_failed, cache=cache)
    print(f"{summary.done} cells done, {summary.failed} failed, {summary.missing} missing; see {out}/results.csv")
    if summary.bare:
        print(f"{summary.bare} cells left no table: it is results.csv in `results_folder`, or the only CSV there")
    for name, reason in summary.lost.items():
        print(f"not run: {name}: {reason}", file=sys.stderr)
    for name, reason in summary.damaged.items():
        print(f"run again: {name}: {reason}; what was there is kept as cells/{name}.*.old", file=sys.stderr)
    for name, reason in summary.unread.items():
        print(f"without its rows: {name}: {reason}; remove cells/{name} to have it run again", file=sys.stderr)
    if summary.stopped_by is not None:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + summary.stopped_by
    if summary.failed:
        print("tracebacks: failed.json in each cell's folder; --retry-failed runs them again", file=sys.stderr)
    return 1 if summary.failed or summary.missing or summary.unread else 0
