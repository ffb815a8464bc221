"""One trial of a sweep, on whatever machine a worker is: a kernel, a notebook, and a folder committed atomically."""

import asyncio
import os
import re
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.cluster import still_wanted
from videomolmo.io.files import temporary_folder
from videomolmo.sweep.grid import Trial
from videomolmo.sweep.store import DONE, FAILED, NOTEBOOK, Store, now
from videomolmo.sweep.table import read_rows

TRIES = 3  # of a trial whose kernel dies
STOPPED, DIED = "stopped", "died"
LOOK_EVERY_S, START_WITHIN_S = 0.5, 180
LOG, LAST = "kernel.log", 4000  # what the kernel writes past the notebook; bytes of its end that are kept
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Job:
    """A trial as it travels to a worker.

    Attributes:
        out: folder of the sweep, the same on all machines.
        trial: to be run.
        folders: parameters that the sweep itself sets.
        sha256: of the notebook.
        threads: of the kernel's number crunching libraries; None leaves the environment as it is.
    """

    out: str
    trial: Trial
    folders: dict[str, str]
    sha256: str
    threads: int | None = None

    def metadata(self) -> dict[str, Any]:
        """What is said of a trial, however it ended: its settings, and what ran it."""
        return {
            "parameters": dict(self.trial.parameters), "given": dict(self.trial.given), "notebook_sha256": self.sha256,
            "commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine(),
        }  # fmt: skip


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
            folder, started, since = place / job.trial.name, now(), time.monotonic()
            folder.mkdir()
            status, why = asyncio.run(_run(job, store.notebook, folder, still_wanted(task)))
            if status == STOPPED:
                return STOPPED
            if status == DIED:
                if tried < TRIES:
                    continue
                status, why["error"] = FAILED, f"the kernel died {TRIES} times, {why['error']}"
            how = {"started": started, "seconds": round(time.monotonic() - since, 3), "tries": tried}
            return _keep(store, folder, status, job.metadata() | how | why)
    raise AssertionError("the last try ends above")


def _keep(store: Store, folder: Path, status: str, metadata: dict[str, Any]) -> str:
    if status == DONE:
        try:
            metadata["table"] = _table(folder)
            if metadata["table"]:
                read_rows(folder, metadata["table"])
        except BadInput as error:  # nobody could collect it
            status, metadata["traceback"] = FAILED, traceback.format_exc()
            metadata["error"] = f"the notebook ran to its end, but {error}"
    log = folder / LOG
    if status == DONE:
        log.unlink(missing_ok=True)
    else:
        text = log.read_bytes()[-LAST:].decode(errors="replace")
        metadata |= {"log": COLOURS.sub("", text).strip(), "host": socket.gethostname()}
    store.commit(folder, status, metadata)
    return status


def _table(folder: Path) -> str | None:
    """The trial's table: results/results.csv, or the only CSV file there; None where there is neither."""
    found = sorted((folder / "results").glob("*.csv"))
    chosen = [path for path in found if path.name == "results.csv"] or (found if len(found) == 1 else [])
    return str(chosen[0].relative_to(folder)) if chosen else None


async def _run(job: Job, notebook: Path, folder: Path, is_wanted: Callable[[], bool]) -> tuple[str, dict[str, str]]:
    """DONE, FAILED, STOPPED or DIED, and why, of the notebook run once in `folder`."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    with open(folder / LOG, "w") as log:
        try:
            return await _execute_notebook(job, notebook, folder, log, is_wanted), {}
        except PapermillExecutionError as error:
            status, text, trace = FAILED, f"{error.ename}: {error.evalue}", "\n".join(error.traceback)
        except RuntimeError as error:  # a kernel that never spoke: another process may have taken one of its ports
            why = "killed from outside, often for want of memory"
            why = why if isinstance(error, DeadKernelError) else "before it was ready"
            status, text, trace = DIED, f"{why} ({type(error).__name__}: {error})", traceback.format_exc()
        except Exception as error:
            status, text, trace = FAILED, f"{type(error).__name__}: {error}", traceback.format_exc()
    return status, {"error": COLOURS.sub("", text), "traceback": COLOURS.sub("", trace)}


async def _execute_notebook(job: Job, notebook: Path, folder: Path, log: TextIO, is_wanted: Callable[[], bool]) -> str:
    """DONE or STOPPED; papermill's own `execute_notebook` cannot be stopped, and changes the folder of all threads."""
    import nbformat
    from jupyter_client import AsyncKernelManager
    from papermill.execute import raise_for_execution_errors
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    named = {"kernel_name": "python3", "language": "python"}
    content = parameterize_notebook(load_notebook_node(str(notebook)), dict(job.trial.given) | job.folders, **named)
    environment = ({"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}) | os.environ
    kernel = AsyncKernelManager(kernel_name="python3")
    work = asyncio.ensure_future(_run_cells(content, kernel, cwd=str(folder), env=environment, stdout=log, stderr=log))
    wanted = True
    try:
        while wanted and not work.done():
            await asyncio.wait({work}, timeout=LOOK_EVERY_S)
            wanted = is_wanted()
    finally:
        work.cancel()
        await asyncio.wait({work})
        if kernel.has_kernel:
            await kernel.shutdown_kernel(now=not wanted)
    if not wanted:
        return STOPPED
    nbformat.write(content, folder / NOTEBOOK)
    raise_for_execution_errors(content, str(folder / NOTEBOOK))  # and marks the place in the notebook
    error = work.exception()
    if error and getattr(error, "ename", "") != "SystemExit":  # of another exit code it was raised above
        raise error
    return DONE


async def _run_cells(content: Any, kernel: Any, **options: Any) -> None:
    """Run a notebook's cells in a kernel that is started with these options, and is left running."""
    from nbclient import NotebookClient

    await kernel.start_kernel(**options)
    client = NotebookClient(content, km=kernel, store_widget_state=False)
    client.kc = kernel.client()
    client.kc.start_channels()
    try:
        await client.kc.wait_for_ready(timeout=START_WITHIN_S)
        await client.async_execute()
    finally:
        client.kc.stop_channels()
