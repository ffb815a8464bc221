"""Run a notebook over a grid: in parallel, on with what an earlier run left, and stopped in order."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, as_completed, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from videomolmo.errors import Terminated
from videomolmo.sweep.cell import STOPPED, Job, facts_of, run_cell
from videomolmo.sweep.cluster import Place
from videomolmo.sweep.grid import Cell, Grid, read_grid
from videomolmo.sweep.notebook import CACHE, RESULTS, Notebook, read_notebook
from videomolmo.sweep.plan import Plan, make_plan
from videomolmo.sweep.store import DONE, FAILED, Store, check_place, now
from videomolmo.sweep.table import collect, unread

STOP_WITHIN_S = 20


@dataclass
class Summary:
    """How a sweep went.

    Attributes:
        done, failed, missing: cells of the grid in each state.
        bare: cells that are done and left no table, see `collect`.
        lost: cell → what kept it from being run at all, such as a cluster that went away.
        unread: cell that is done → why its table can no longer be read.
        damaged: cell that was run again → what was wrong with its record.
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
    cells, store = read_grid(Path(grid), content), Store(Path(out))
    store.check(content)
    return content, cells, store


def sweep(
    notebook: Path,
    grid: Path,
    out: Path,
    *,
    place: Place | None = None,
    retry_failed: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> Summary:
    """Run the notebook once for each cell of a grid; what is done already is skipped.

    Args:
        notebook: with a cell tagged "parameters". Where it has them, `results_folder` is set to the cell's own
            results/, and `cache_folder` to one folder for all cells.
        grid: TOML, see `read_grid`.
        out: gets cells/NAME/notebook.ipynb (executed), cells/NAME/results/ (what it wrote), cells/NAME/done.json or
            failed.json, and results.parquet and results.csv of all cells, see `collect`. Run again to go on.
        place: see `Place`; default: this machine, one cell for each core.
        retry_failed: run failed cells again; without it they are left as they are.
        cache: shared intermediate results; default: `out`/cache.

    Raises:
        BadInput: nothing was run. A notebook that raises is no error here: its cell is recorded as failed.
    """
    content, cells, store = prepare(notebook, grid, out, cache)
    place = replace(place or Place(), options=cells.cluster)
    nothing = not make_plan(cells, store.records(), retry_failed=retry_failed).to_run
    where = nullcontext() if nothing else place.executor()
    with _terminated_like_interrupted(), where as executor, store.locked() as token:
        store.claim(content, cells)
        plan = make_plan(cells, store.records(), retry_failed=retry_failed)
        jobs = [_job(cell, content, store, token, cache, place) for cell in plan.to_run]
        with tqdm(total=len(jobs), unit="cell", disable=not (progress and jobs)) as bar:
            summary = _run_all(jobs, store, executor, bar) if jobs else Summary()
        summary.damaged = plan.damaged
        summary.unread = unread(collect(store))
        return _counted(summary, make_plan(cells, store.records()))


def _job(cell: Cell, notebook: Notebook, store: Store, token: str, cache: Path | None, place: Place) -> Job:
    folders = tuple(name for name in (RESULTS, CACHE) if name in notebook.parameters)
    return Job(
        str(store.out), token, cell.name, cell.key, dict(cell.given), dict(cell.parameters), folders,
        str(Path(cache).absolute() if cache else store.cache), notebook.sha256, place.threads,
    )  # fmt: skip


def _run_all(jobs: list[Job], store: Store, executor: Executor, bar: tqdm) -> Summary:
    summary, futures = Summary(), {}
    try:
        futures = {executor.submit(run_cell, job): job for job in jobs}
        for future in as_completed(futures):
            state = _state(future, futures[future], store, summary)
            summary.failed += state == FAILED
            bar.set_postfix({"failed": summary.failed} if summary.failed else {})
            bar.update()
    except KeyboardInterrupt as error:
        summary.stopped_by = getattr(error, "number", signal.SIGINT)
        store.withdraw()  # cells that run end within a second, cells that wait end when they start
        for future in wait(futures, timeout=STOP_WITHIN_S).not_done:
            future.cancel()
    return summary


def _state(future: Future, job: Job, store: Store, summary: Summary) -> str:
    """What became of a cell: a worker that died again and again fails it, other trouble leaves it to be run later."""
    try:
        return future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            summary.lost[job.name] = f"{type(error).__name__}: {error}"
            return STOPPED
        text = "its worker died again and again: killed from outside, often for want of memory"
        facts = facts_of(job) | {"started": now(), "seconds": 0.0, "error": text, "traceback": str(error)}
        store.publish(store.attempt(job.key), job.name, FAILED, facts)
        return FAILED


def _counted(summary: Summary, plan: Plan) -> Summary:
    summary.done, summary.failed = plan.count(DONE), plan.count(FAILED)
    summary.missing = len(plan.cells) - summary.done - summary.failed
    done = [plan.records[cell.key] for cell in plan.cells if plan.state(cell) == DONE]
    summary.bare = sum(record.facts.get("table") is None for record in done)
    return summary


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which batch systems send, ends a sweep as Ctrl-C does."""

    def interrupt(number: int, _: object) -> None:
        raise Terminated(number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:  # under the command line, which has done so already
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
