"""One trial of a sweep, on whatever machine a worker is: a kernel, a notebook, and a folder that appears whole."""

import asyncio
import atexit
import os
import re
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.files import temporary_folder
from videomolmo.sweep.store import DONE, FAILED, Store, now
from videomolmo.sweep.table import read_rows

TRIES = 3  # of a trial whose kernel dies
STOPPED, DIED = "stopped", "died"
LOOK_EVERY_S, START_WITHIN_S = 0.5, 180
LOG = "kernel.log"  # what the kernel writes past the notebook, such as why it crashed
LAST = 4000  # bytes of it in the record
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Job:
    """A trial as it travels to a worker.

    Attributes:
        out: folder of the sweep, the same on all machines.
        name: of the trial's folder.
        given: what is handed to the notebook; its folders, which the sweep sets, stand in `folders`.
        parameters: all of its parameters, for the record.
        sha256: of the notebook.
        threads: of the kernel's number crunching libraries; None leaves the environment as it is.
    """

    out: str
    name: str
    given: dict[str, Any]
    folders: dict[str, str]
    parameters: dict[str, Any]
    sha256: str
    threads: int | None = None

    def facts(self) -> dict[str, Any]:
        """What is said of a trial, however it ended: its settings, and what ran it."""
        return {
            "parameters": self.parameters, "given": self.given, "notebook_sha256": self.sha256,
            "commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine(),
        }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a run of a notebook ended: DONE, FAILED, STOPPED (nobody wants it any more) or DIED (its kernel was killed).

    What died may do better when it is run again; what failed, or was never given a kernel, will not.
    """

    status: str
    error: str = ""
    traceback: str = ""


def run_trial(job: Job, task: str) -> str:
    """Run a trial until it is done, has failed, or is no longer wanted; returns which.

    A kernel that dies, because somebody or the system killed it, is started again, `TRIES` times in all.

    Args:
        task: the key by which Dask knows this call.

    Raises:
        OSError: the folder of the sweep is not there, or cannot be written.
    """
    store = Store(Path(job.out))
    if not store.cells.is_dir():
        raise FileNotFoundError(f"{socket.gethostname()} does not see {job.out}: workers and sweep must share it")
    for tried in range(1, TRIES + 1):
        with temporary_folder(store.out) as place:
            folder, started, since = place / job.name, now(), time.monotonic()
            folder.mkdir()
            end = asyncio.run(_run(job, store.notebook, folder, _is_wanted(task)))
            if end.status == STOPPED:
                return STOPPED
            if end.status == DIED and tried < TRIES:
                continue
            seconds = round(time.monotonic() - since, 3)
            return _keep(store, folder, end, job.facts() | {"started": started, "seconds": seconds, "tries": tried})
    raise AssertionError("the last try ends above")


def _is_wanted(task: str) -> Callable[[], bool]:
    """Whether this worker is to go on: Dask cancels a task when its client says so or goes away."""
    from distributed import Status, get_worker

    worker, gone = get_worker(), (Status.closing, Status.closed, Status.failed)

    def ask() -> bool:
        known = worker.state.tasks.get(task)
        return known is not None and known.state == "executing" and worker.status not in gone

    return ask


def _keep(store: Store, folder: Path, end: Outcome, facts: dict[str, Any]) -> str:
    if end.status == DONE:
        facts["table"] = _table(folder)
        end = _judged(folder, facts["table"])
    if end.status == DONE:
        (folder / LOG).unlink(missing_ok=True)
        store.commit(folder, DONE, facts)
        return DONE
    error = f"the kernel died {TRIES} times, {end.error}" if end.status == DIED else end.error
    told = {"error": error, "traceback": end.traceback, "log": _tail(folder / LOG), "host": socket.gethostname()}
    store.commit(folder, FAILED, facts | told)
    return FAILED


def _table(folder: Path) -> str | None:
    """The trial's table: results/results.csv, or the only CSV file there; None where there is neither."""
    found = sorted((folder / "results").glob("*.csv"))
    chosen = [path for path in found if path.name == "results.csv"] or (found if len(found) == 1 else [])
    return str(chosen[0].relative_to(folder)) if chosen else None


def _judged(folder: Path, table: str | None) -> Outcome:
    """DONE, unless the notebook left a table that nobody could collect."""
    try:
        if table:
            read_rows(folder, table)
    except BadInput as error:
        return Outcome(FAILED, f"the notebook ran to its end, but {error}", traceback.format_exc())
    return Outcome(DONE)


def _tail(log: Path) -> str:
    """The last of what the kernel wrote past the notebook."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LAST))
        return COLOURS.sub("", file.read().decode(errors="replace")).strip()


async def _run(job: Job, notebook: Path, folder: Path, is_wanted: Callable[[], bool]) -> Outcome:
    """The notebook once, in `folder`, where it is written as it was executed."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    with open(folder / LOG, "w") as log:
        try:
            return await _execute_notebook(job, notebook, folder, log, is_wanted)
        except CellExecutionError as error:
            if error.ename == "SystemExit" and error.evalue in ("", "0"):
                return Outcome(DONE)
            return Outcome(FAILED, f"{error.ename}: {COLOURS.sub('', error.evalue)}", COLOURS.sub("", error.traceback))
        except RuntimeError as error:  # a kernel that never spoke: another process may have taken one of its ports
            dead = isinstance(error, DeadKernelError)
            why = "killed from outside, often for want of memory" if dead else "before it was ready"
            return Outcome(DIED, f"{why} ({type(error).__name__}: {error})", traceback.format_exc())
        except Exception as error:
            return Outcome(FAILED, f"{type(error).__name__}: {error}", traceback.format_exc())


async def _execute_notebook(
    job: Job, notebook: Path, folder: Path, log: TextIO, is_wanted: Callable[[], bool]
) -> Outcome:
    """papermill's own `execute_notebook` cannot be stopped; this one ends with its kernel as soon as it is unwanted."""
    import nbformat
    from nbclient import NotebookClient
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import raise_for_execution_errors
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    named = {"kernel_name": "python3", "language": "python"}
    content = parameterize_notebook(load_notebook_node(str(notebook)), job.given | job.folders, **named)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        content, kernel_name="python3", startup_timeout=START_WITHIN_S, store_widget_state=False, resources=where
    )
    environment = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    work = asyncio.ensure_future(client.async_execute(env=environment | os.environ, stdout=log, stderr=log))
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=LOOK_EVERY_S)
            if not is_wanted():
                client.shutdown_kernel = "immediate"
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                if client.km is not None and client.km.has_kernel:  # it was about to start
                    await client.km.shutdown_kernel(now=True)
                return Outcome(STOPPED)
    finally:
        atexit.unregister(client._cleanup_kernel)  # left behind where no kernel started
    nbformat.write(content, folder / "notebook.ipynb")
    try:
        raise_for_execution_errors(content, str(folder / "notebook.ipynb"))  # and marks the place in the notebook
    except PapermillExecutionError as error:
        with suppress(Exception):
            work.result()  # says the same
        lines = "\n".join(COLOURS.sub("", line) for line in error.traceback)
        return Outcome(FAILED, f"{error.ename}: {COLOURS.sub('', error.evalue)}", lines)
    await work
    return Outcome(DONE)
