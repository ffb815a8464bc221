"""Many jobs in several processes: the results as they come, and an end when a process dies."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from videomolmo.errors import BadInput

_begun: list[Any] = []  # in a worker: what `begin` returned, or why it failed


def run_all(
    work: Callable[[Any, Any], Any], jobs: Sequence[Any], workers: int, doing: str,
    begin: Callable[..., Any] | None = None, given: tuple = (),
) -> Iterator[Any]:  # fmt: skip
    """Results of `work(begun, job)` for all jobs, as they come; close the iterator to end its processes.

    One worker works in this process. So does everything, after a line on standard error, where the system gives no
    further process, as without shared memory (/dev/shm).

    Args:
        work: a function of a module, and so are `begin` and whatever they are given: processes start afresh.
        jobs: for the workers.
        workers: processes, at most one for each job.
        doing: what is being done, for messages, such as "annotate".
        begin: called once in each worker with `given`; what it returns is `begun`, and without it `given` is.
        given: to `begin`.

    Raises:
        BadInput: a worker died; what it had finished stays.
    """
    workers = min(workers, len(jobs))
    if workers < 2 or no_more_processes(doing):
        begun = begin(*given) if begin and jobs else given
        yield from (work(begun, job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (begin, given))
    others = set(multiprocessing.active_children())
    try:
        with _plain_path():
            futures = [pool.submit(partial(_work, work), job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise BadInput(
            f"{doing}: one of {workers} processes died, perhaps for want of memory; what was finished is kept, so run "
            "it again, with fewer workers or one"
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # those still at work when this one was stopped
        pool.shutdown(cancel_futures=True)


def no_more_processes(doing: str) -> bool:
    """Whether the system gives no further processes, as without shared memory (/dev/shm); standard error says so."""
    try:
        multiprocessing.Lock()
    except (OSError, ImportError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"{doing}: no further processes here ({reason}; is /dev/shm missing?): one does it all", file=sys.stderr)
        return True
    return False


@contextmanager
def _plain_path() -> Iterator[None]:
    """Processes that start meanwhile find no modules in the working folder, where one may bear a standard name."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _begin(begin: Callable | None, given: tuple) -> None:
    """Once in each worker. Signals that reach all processes are the first one's to handle; with it, workers end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _begun[:] = [begin(*given) if begin else given, None]
    except Exception as error:  # for the first job to raise: it would only look like a worker that died
        _begun[:] = [None, error]


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(work: Callable[[Any, Any], Any], job: Any) -> Any:
    begun, failed = _begun
    if failed is not None:
        raise failed
    return work(begun, job)
