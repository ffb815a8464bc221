"""Run a notebook over a grid: Dask hands the trials out, papermill and nbclient run each, what is done is skipped."""

import asyncio
import signal
import statistics
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from videomolmo.io.cluster import DIED_AGAIN, Executor, submitted
from videomolmo.io.files import UNFINISHED, locked_folder, remove_abandoned, temporary_folder
from videomolmo.sweep.grid import CACHE, RESULTS, Grid, Notebook, Trial, read_grid, read_notebook
from videomolmo.sweep.store import DAMAGED, DONE, FAILED, MISSING, Record, Store, check_place, now
from videomolmo.sweep.table import collect, unread
from videomolmo.sweep.trial import STOPPED, Job, run_trial

if TYPE_CHECKING:
    from distributed import Client, Future

STOP_WITHIN_S = 20


@dataclass(frozen=True)
class Plan:
    """Trials of a grid, the records of all finished ones by key, and those that are to run."""

    trials: tuple[Trial, ...]
    records: Mapping[str, Record]
    to_run: tuple[Trial, ...]

    def status(self, trial: Trial) -> str:
        """DONE, FAILED, DAMAGED or MISSING."""
        record = self.records.get(trial.key)
        return record.status if record else MISSING

    def with_status(self, status: str) -> list[Record]:
        """The records of the grid's trials with this status."""
        return [self.records[trial.key] for trial in self.trials if self.status(trial) == status]

    def listing(self) -> str:
        """One line for each trial: what happens to it, and its name."""
        keys, lines = {trial.key for trial in self.to_run}, []
        for trial in self.trials:
            status = self.status(trial)
            took = f"{self.records[trial.key].metadata['seconds']:.1f} s" if status in (DONE, FAILED) else ""
            lines.append(f"  {'run' if trial.key in keys else 'skip':4}  {status:7} {took:>10}  {trial.name}")
        return "\n".join(lines)


def make_plan(grid: Grid, records: Mapping[str, Record], *, retry_failed: bool = False) -> Plan:
    """Trials that nobody ran yet or whose record is damaged, and those that failed if they are wanted again."""
    over = {DONE} if retry_failed else {DONE, FAILED}
    to_run = tuple(one for one in grid.trials if one.key not in records or records[one.key].status not in over)
    return Plan(grid.trials, records, to_run)


def estimate(
    plan: Plan, max_workers: int | None, user_s: float | None, notebook_s: float | None, grid_s: float | None = None
) -> str:
    """What the trials to run may take, and where that number comes from.

    Args:
        max_workers: trials at once; None: unknown.
        user_s, grid_s, notebook_s: seconds of a trial, from the user (before what finished trials took), the grid
            (which knows its sizes), and the notebook (of its defaults; last).
    """
    count = len(plan.to_run)
    if not count:
        return "nothing to run"
    took = [record.metadata["seconds"] for record in plan.records.values() if record.status == DONE]
    known = (
        (user_s, "as you say"),
        (statistics.fmean(took) if took else None, f"mean of {len(took)} finished"),
        (grid_s, "seconds_per_run of the grid"),
        (notebook_s, "the notebook's metadata say so of its defaults"),
    )
    each, source = next((one for one in known if one[0] is not None), (None, ""))
    if each is None:
        return f"{count} cells to run; what they take is not known: finish one first, or give --seconds-per-cell"
    text = f"{count} cells to run × {as_time(each)} ({source}) = {as_time(count * each)} of work"
    if max_workers is not None:
        rounds = -(-count // max_workers)
        text += f", about {as_time(rounds * each)} with {max_workers} at once if they do not slow each other down"
    return text + "; an estimate: settings differ in cost, and the first cells fill the cache for the others"


def as_time(seconds: float) -> str:
    """Seconds as a person would say them.

    Example:
        >>> as_time(7.25), as_time(200), as_time(9000)
        ('7.2 s', '3 min 20 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Summary:
    """How a sweep went.

    Attributes:
        done, failed, missing: trials of the grid with each status.
        bare: trials that are done and left no table, see `collect`.
        lost: trial → what kept it from being run at all, such as a cluster that went away.
        unread: trial that is done → why its table can no longer be read.
        damaged: trial that was run again → what was wrong with its record.
        stopped_by: number of the signal that ended it early: of Ctrl-C, or SIGTERM.
    """

    done: int = 0
    failed: int = 0
    missing: int = 0
    bare: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None


def prepare(notebook: Path, grid: Path, out: Path, cache: Path | None = None) -> tuple[Notebook, Grid, Store]:
    """Everything a sweep needs, checked; nothing is written.

    Raises:
        BadInput: see `read_notebook`, `read_grid` and `Store.check`; or the cache is no folder.
    """
    if cache:
        check_place(Path(cache))
    content = read_notebook(Path(notebook))
    trials, store = read_grid(Path(grid), content), Store(Path(out))
    store.check(content)
    return content, trials, store


def sweep(
    notebook: Path,
    grid: Path,
    out: Path,
    *,
    executor: Executor | None = None,
    retry_failed: bool = False,
    cache: Path | None = None,
) -> Summary:
    """Run the notebook once for each trial of a grid; what is done already is skipped.

    Args:
        notebook: with a cell tagged "parameters". Where it has them, `results_folder` is set to the trial's own
            results/, and `cache_folder` to one folder for all trials.
        grid: TOML, see `read_grid`.
        out: gets cells/NAME/notebook.ipynb (executed), cells/NAME/results/ (what it wrote), cells/NAME/done.json or
            failed.json, and results.parquet and results.csv of all trials, see `collect`. Run again to go on.
        executor: default: this machine, one trial for each core.
        retry_failed: run failed trials again; without it they are left as they are.
        cache: shared intermediate results; default: `out`/cache.

    Raises:
        BadInput: nothing was run. A notebook that raises is no error here: its trial is recorded as failed.
    """
    content, trials, store = prepare(notebook, grid, out, cache)
    executor = replace(executor or Executor(), options=trials.cluster)
    nothing = not make_plan(trials, store.records(), retry_failed=retry_failed).to_run
    with nullcontext() if nothing else executor.client() as client, locked_folder(store.out):
        store.create(content, trials)
        plan = make_plan(trials, store.records(), retry_failed=retry_failed)
        folders = {RESULTS: "results", CACHE: str(Path(cache).absolute() if cache else store.cache)}
        folders = {name: path for name, path in folders.items() if name in content.parameters}
        jobs = [Job(str(store.out), one, folders, content.sha256, executor.threads) for one in plan.to_run]
        summary = _run_all(jobs, store, client) if client else Summary()
        remove_abandoned(store.out, UNFINISHED)  # of killed workers
        summary.damaged = {record.folder.name: record.metadata["error"] for record in plan.with_status(DAMAGED)}
        summary.unread = unread(collect(store))
    after = make_plan(trials, store.records())
    done = after.with_status(DONE)
    summary.done, summary.failed = len(done), len(after.with_status(FAILED))
    summary.missing = len(after.trials) - summary.done - summary.failed
    summary.bare = sum(record.metadata.get("table") is None for record in done)
    return summary


def _run_all(jobs: list[Job], store: Store, client: "Client") -> Summary:
    summary = Summary()
    try:
        with tqdm(total=len(jobs), unit="cell") as bar, closing(submitted(client, run_trial, jobs, "trial")) as ended:
            for job, future in ended:
                summary.failed += _status(future, job, store, summary) == FAILED
                bar.set_postfix({"failed": summary.failed} if summary.failed else {})
                bar.update()
    except KeyboardInterrupt as error:
        summary.stopped_by = getattr(error, "number", signal.SIGINT)
        until = time.monotonic() + STOP_WITHIN_S  # those that run end within a second
        while any(store.out.glob(f"{UNFINISHED}*")) and time.monotonic() < until:
            time.sleep(0.1)
            remove_abandoned(store.out, UNFINISHED)
    return summary


def _status(future: "Future", job: Job, store: Store, summary: Summary) -> str:
    """What became of a trial: a worker that died again and again fails it, other trouble leaves it to be run later."""
    try:
        return future.result()
    except (Exception, asyncio.CancelledError) as error:
        if type(error).__name__ != "KilledWorker":
            summary.lost[job.trial.name] = f"{type(error).__name__}: {error}"
            return STOPPED
        text = f"its {DIED_AGAIN}"
        metadata = job.metadata() | {"started": now(), "seconds": 0.0, "error": text, "traceback": str(error)}
    with temporary_folder(store.out) as place:
        (place / job.trial.name).mkdir()
        store.commit(place / job.trial.name, FAILED, metadata)
    return FAILED
