"""One cell of a sweep, on whatever machine a worker is: a kernel, a notebook, and a folder that appears whole."""

import json
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.sweep.notebook import CACHE, RESULTS
from videomolmo.sweep.store import DONE, FAILED, Store, now
from videomolmo.sweep.table import read_rows

TRIES = 3  # of a cell whose kernel dies
STOPPED, DIED = "stopped", "died"
LOOK_EVERY_S = 0.5
START_WITHIN_S = 180
LOG = "kernel.log"  # what the kernel writes past the notebook, such as why it crashed
LAST = 4000  # bytes of it in the record
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Job:
    """A cell as it travels to a worker.

    Attributes:
        out: folder of the sweep, the same on all machines.
        token: see `Store.locked`.
        name, key: of the cell.
        given: what is handed to the notebook.
        parameters: all of its parameters, for the record.
        folders: which of the two parameters that a sweep sets the notebook has.
        cache: folder of shared intermediate results.
        sha256: of the notebook.
        threads: of the kernel's number crunching libraries; None leaves the environment as it is.
    """

    out: str
    token: str
    name: str
    key: str
    given: dict[str, Any]
    parameters: dict[str, Any]
    folders: tuple[str, ...]
    cache: str
    sha256: str
    threads: int | None = None


@dataclass(frozen=True)
class End:
    """How a run of a notebook ended: DONE, FAILED, STOPPED (somebody asked for it) or DIED (its kernel was killed).

    What died may do better when it is run again; what failed, or was never given a kernel, will not.
    """

    state: str
    error: str = ""
    traceback: str = ""


def run_cell(job: Job) -> str:
    """Run a cell until it is done, has failed, or is no longer wanted; returns which.

    A kernel that dies, because somebody or the system killed it, is started again, `TRIES` times in all.

    Raises:
        OSError: the folder of the sweep is not there, or cannot be written.
    """
    store = Store(Path(job.out))
    if not store.out.is_dir():
        raise FileNotFoundError(f"{socket.gethostname()} does not see {job.out}: workers and sweep must share it")
    for tried in range(1, TRIES + 1):
        if not store.wanted(job.token):
            return STOPPED
        attempt = store.attempt(job.key)
        started, since = now(), time.monotonic()
        end = _run(job, store, attempt)
        if end.state == STOPPED:
            return STOPPED  # who asked for it clears up
        if end.state == DIED and tried < TRIES:
            continue
        facts = facts_of(job) | {"started": started, "seconds": round(time.monotonic() - since, 3), "tries": tried}
        return _keep(store, job, attempt, end, facts)
    raise AssertionError("the last try ends above")


def _keep(store: Store, job: Job, attempt: Path, end: End, facts: dict[str, Any]) -> str:
    _tidy_metadata(attempt / "notebook.ipynb")
    if end.state == DONE:
        facts["table"] = _table(attempt)
        end = _judged(attempt, facts["table"])
    if end.state == DONE:
        (attempt / LOG).unlink(missing_ok=True)
        store.publish(attempt, job.name, DONE, facts)
        return DONE
    error = f"the kernel died {TRIES} times, {end.error}" if end.state == DIED else end.error
    told = {"error": error, "traceback": end.traceback, "log": _tail(attempt / LOG), "host": socket.gethostname()}
    store.publish(attempt, job.name, FAILED, facts | told)
    return FAILED


def _judged(attempt: Path, table: str | None) -> End:
    """DONE, unless the notebook left a table that nobody could collect."""
    try:
        if table:
            read_rows(attempt, table)
    except BadInput as error:
        return End(FAILED, f"the notebook ran to its end, but {error}", traceback.format_exc())
    return End(DONE)


def _tail(log: Path) -> str:
    """The last of what the kernel wrote past the notebook."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LAST))
        return COLOURS.sub("", file.read().decode(errors="replace")).strip()


def facts_of(job: Job) -> dict[str, Any]:
    """What is said of a cell, however it ended: its settings, and what ran it."""
    return {
        "parameters": job.parameters, "given": job.given, "notebook_sha256": job.sha256,
        "commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine(),
    }  # fmt: skip


def _table(attempt: Path) -> str | None:
    """The cell's table: results/results.csv, or the only CSV file there; None where there is neither."""
    found = sorted((attempt / "results").glob("*.csv"))
    chosen = [path for path in found if path.name == "results.csv"] or (found if len(found) == 1 else [])
    return str(chosen[0].relative_to(attempt)) if chosen else None


def _run(job: Job, store: Store, folder: Path) -> End:
    """The notebook once, in `folder`."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.log import logger

    logger.setLevel("ERROR")  # it knows only some kinds of annotations, and warns of parameters with others
    values = {RESULTS: "results", CACHE: job.cache}
    parameters = job.given | {name: values[name] for name in job.folders}
    environment = dict(os.environ)
    if job.threads:
        environment.setdefault("OMP_NUM_THREADS", str(job.threads))
    with open(folder / LOG, "w") as log, _event_loop(), _kernel(environment, log, store, job.token) as kernel:
        try:
            # papermill's own `cwd` moves the whole process, which cells in other threads would feel
            papermill.execute_notebook(
                _literal(store.notebook), _literal(folder / "notebook.ipynb"), parameters, kernel_name="python3",
                language="python", progress_bar=False, start_timeout=START_WITHIN_S, store_widget_state=False,
                resources={"metadata": {"path": str(folder)}}, kernel_manager_class=kernel.manager_class,
                on_notebook_start=kernel.is_ready,
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            if kernel.ended:
                return End(STOPPED)
            lines = "\n".join(COLOURS.sub("", line) for line in error.traceback)
            return End(FAILED, f"{error.ename}: {COLOURS.sub('', error.evalue)}", lines)
        except Exception as error:
            if kernel.ended:
                return End(STOPPED)
            told = f"{type(error).__name__}: {error}"
            if kernel.ready and isinstance(error, DeadKernelError):
                return End(DIED, f"killed from outside, often for want of memory ({told})", traceback.format_exc())
            if kernel.pid and not kernel.ready and isinstance(error, RuntimeError):
                # another process may have taken one of its ports
                return End(DIED, f"before it was ready ({told})", traceback.format_exc())
            return End(FAILED, told, traceback.format_exc())
    return End(DONE)


def _literal(path: Path) -> str:
    """The path for papermill, which fills in parameters where one has braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Kernel:
    """What is known of the process behind a running notebook."""

    def __init__(self, environment: dict[str, str], log: TextIO) -> None:
        from jupyter_client import AsyncKernelManager

        self.pid: int | None = None
        self.ready = self.ended = False
        watch = self

        class Manager(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:
                await super().start_kernel(**options, env=environment, stdout=log, stderr=log)
                watch.pid = self.provisioner.pid

        self.manager_class = Manager

    def is_ready(self, **_: Any) -> None:
        self.ready = True

    def end(self) -> None:
        """Kill the kernel and what it started."""
        import psutil

        self.ended = True
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@contextmanager
def _kernel(environment: dict[str, str], log: TextIO, store: Store, token: str) -> Iterator[_Kernel]:
    """A kernel that is killed as soon as its sweep no longer wants it."""
    kernel, over = _Kernel(environment, log), threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            if kernel.pid and not store.wanted(token):
                return kernel.end()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield kernel
    finally:
        over.set()
        watcher.join()


@contextmanager
def _event_loop() -> Iterator[None]:
    """Close the event loop that Jupyter's client opens in each thread it is used in and leaves open."""
    from jupyter_core.utils import ensure_event_loop

    loop = ensure_event_loop()
    try:
        yield
    finally:
        loop.close()


def _tidy_metadata(path: Path) -> None:
    """Say in the executed notebook what it was made from, not in which temporary folder."""
    with suppress(OSError, ValueError, KeyError):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["metadata"]["papermill"] |= {"input_path": "../../notebook.ipynb", "output_path": "notebook.ipynb"}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
