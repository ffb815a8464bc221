"""`videomolmo sweep`: a notebook over a grid of settings, and the report of what came out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from videomolmo.sweep.run import Executor, Summary

USAGE = """videomolmo sweep NOTEBOOK --grid FILE --out DIR [options]
       videomolmo sweep report DIR [options]"""
OF_RUN = {"grid", "out", "workers", "scheduler", "cluster", "cache", "retry_failed", "dry_run", "seconds_per_cell"}
OF_REPORT = {"x", "y", "colour", "facet", "over", "where", "html"}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register `sweep`."""
    sweep = commands.add_parser(
        "sweep", help="a notebook over a grid of settings, in parallel; resumes where it stopped", usage=USAGE,
        description="Exit code: 0 when every cell is done, 1 when some failed or lost their table, 130 when stopped, "
        "143 by SIGTERM.",
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    sweep.add_argument("notebook", metavar="NOTEBOOK", help="with a cell tagged 'parameters'; or the word report")
    sweep.add_argument("folder", nargs="?", type=Path, default=None, metavar="DIR", help="of the sweep to report on")
    run = sweep.add_argument_group("running")
    tables = "TOML: seconds_per_run, [fixed], [grid], [[cells]], [repeats], [cluster]"
    run.add_argument("--grid", type=Path, metavar="FILE", help=tables)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder to write, or to go on in")
    run.add_argument("--workers", type=int, metavar="N", help="cells at once (default: one for each core)")
    run.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, for example tcp://node1:8786")
    run.add_argument("--cluster", metavar="NAME", help="start --workers Dask workers through slurm, pbs, sge, lsf …")
    run.add_argument("--cache", type=Path, metavar="DIR", help="intermediate results of all cells (default: DIR/cache)")
    run.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    run.add_argument("--dry-run", action="store_true", help="list the cells and what they may take; writes nothing")
    run.add_argument("--seconds-per-cell", type=float, metavar="S", help="for the estimate, when no cell is done")
    report = sweep.add_argument_group("report")
    for name, text in (
        ("x", "column along the figure"), ("y", "measure (default: all)"), ("colour", "column told apart by colour"),
        ("facet", "column with a figure for each value"), ("over", "column that repeats settings, for the intervals"),
    ):  # fmt: skip
        report.add_argument(f"--{name}", metavar="COLUMN", help=text)
    report.add_argument("--where", action="append", metavar="COLUMN=VALUE", help="only these rows; may be repeated")
    report.add_argument("--html", type=Path, metavar="FILE", help="page to write (default: DIR/report.html)")
    sweep.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    given = vars(options)
    reporting = options.notebook == "report"
    for name in sorted(given.keys() & (OF_RUN if reporting else OF_REPORT)):
        other = "running a sweep" if reporting else "`videomolmo sweep report`"
        raise BadInput(f"--{name.replace('_', '-')} belongs to {other}; leave it out")
    if reporting:
        return _report(given)
    if given["folder"]:
        raise BadInput(f"{given['folder']}: one notebook at a time; the folder is given with --out")
    for name in ("grid", "out"):
        if name not in given:
            raise BadInput(f"--{name} is missing; usage: {USAGE.splitlines()[0]}")
    return _dry_run(given) if given.get("dry_run") else _run(given)


def _report(given: dict) -> int:
    from videomolmo.sweep.report import report

    if not given["folder"]:
        raise BadInput("the sweep's folder is missing; usage: videomolmo sweep report DIR")
    columns = {name: given.get(name) for name in ("x", "y", "colour", "facet", "over")}
    pairs = [text.partition("=") for text in given.get("where", [])]
    for name, sign, _ in pairs:
        if not (name and sign):
            raise BadInput(f"--where {name!r} is no condition; write COLUMN=VALUE")
    where = {name: value for name, _, value in pairs}
    print(f"written to {report(given['folder'], **columns, where=where, path=given.get('html'))}")
    return 0


def _dry_run(given: dict) -> int:
    executor, seconds = _executor(given), given.get("seconds_per_cell")
    places = (Path(given["notebook"]), given["grid"], given["out"], given.get("cache"))
    print(plan_text(*places, executor, retry_failed=given.get("retry_failed", False), user_s=seconds))
    return 0


def plan_text(
    notebook: Path,
    grid: Path,
    out: Path,
    cache: Path | None,
    executor: "Executor",
    *,
    retry_failed: bool = False,
    user_s: float | None = None,
) -> str:
    """What a sweep would do, one line for each trial, and what it may take; `--dry-run`. Nothing is written.

    Args:
        notebook, grid, out, cache, executor, retry_failed: as for `sweep.run.sweep`.
        user_s: seconds of a trial, where the user says so.
    """
    from videomolmo.sweep.grid import as_seconds
    from videomolmo.sweep.run import estimate, make_plan, prepare

    user_s = as_seconds(user_s, "--seconds-per-cell")
    content, trials, store = prepare(notebook, grid, out, cache)
    plan = make_plan(trials, store.records(), retry_failed=retry_failed)
    cost = estimate(plan, executor.max_workers, user_s, content.seconds, trials.seconds)
    return f"{content.path.name}: {len(plan.trials)} cells\n{plan.listing()}\n{cost}"


def _run(given: dict) -> int:
    from videomolmo.sweep.run import sweep

    retry, cache = given.get("retry_failed", False), given.get("cache")
    places = (Path(given["notebook"]), given["grid"], given["out"])
    return tell(sweep(*places, executor=_executor(given), retry_failed=retry, cache=cache), given["out"])


def tell(summary: "Summary", out: Path) -> int:
    """Print how a sweep into `out` went; returns the exit code."""
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


def _executor(given: dict) -> "Executor":
    from videomolmo.sweep.run import Executor

    return Executor(given.get("workers"), given.get("scheduler"), given.get("cluster"))
