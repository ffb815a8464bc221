"""Work for a Dask cluster: where it is, jobs that are done there, and whether they are still wanted."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from distributed import Client, Future

ANSWER_WITHIN_S = 20
DIED_AGAIN = "worker died again and again: killed from outside, often for want of memory"
CLUSTERS = {
    "htcondor": "HTCondor", "local": "Local", "lsf": "LSF", "moab": "Moab", "oar": "OAR", "pbs": "PBS", "sge": "SGE",
    "slurm": "SLURM",
}  # fmt: skip


@dataclass(frozen=True)
class Executor:
    """Where work is done: in threads here, on a Dask cluster, or in jobs of a batch system.

    Attributes:
        workers: jobs at once here (None: one for each core), or workers asked of a batch system (None: one).
        scheduler: address of a Dask scheduler, such as tcp://node1:8786.
        cluster: a batch system that dask-jobqueue knows.
        options: for it, beside those of dask-jobqueue's own configuration files.

    Raises:
        BadInput: two places at once, or a name or number that cannot be.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"--workers is {self.workers}, expected at least 1")
        if self.scheduler and self.cluster:
            raise BadInput("--scheduler and --cluster name two places; give one")
        if self.scheduler and self.workers:
            raise BadInput("--workers says nothing to a scheduler, which brings its own workers; leave it out")
        if self.cluster and self.cluster not in CLUSTERS:
            raise BadInput(f"--cluster is {self.cluster!r}, expected one of {', '.join(CLUSTERS)}")

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is a cluster that does the work."""
        return bool(self.scheduler or self.cluster)

    @property
    def max_workers(self) -> int | None:
        """How many jobs run at once; None where others decide."""
        return None if self.scheduler else self.workers or (1 if self.cluster else _cores())

    @property
    def threads(self) -> int | None:
        """Threads for each job, so that jobs at once do not crowd this machine; None where others decide."""
        return None if self.scheduler or self.cluster else max(1, _cores() // (self.workers or _cores()))

    @contextmanager
    def client(self) -> Iterator["Client"]:
        """A Dask client whose tasks run there.

        Raises:
            BadInput: nobody answers, a package is missing, or the batch system refuses.
        """
        import dask
        from distributed import LocalCluster

        if self.scheduler:
            with _connected(self.scheduler, self.scheduler) as client:
                yield client
        elif self.cluster:
            with _batch(self.cluster, self.options) as cluster, _connected(cluster, self.cluster) as client:
                cluster.scale(self.workers or 1)
                yield client
        else:
            one = {"n_workers": 1, "threads_per_worker": self.max_workers, "processes": False, "memory_limit": None}
            # its pages, which it insists on serving, are empty, and nobody sees them from elsewhere
            pages = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
            none = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
            with (
                dask.config.set(none),
                LocalCluster(**one, **pages, silence_logs=logging.CRITICAL) as cluster,
                _connected(cluster, "this machine") as client,
            ):
                yield client


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _connected(address: Any, name: str) -> Iterator["Client"]:
    from distributed import Client

    try:
        client = Client(address, timeout=ANSWER_WITHIN_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"no Dask scheduler answers at {name} ({error}); start one with `dask scheduler`, and workers with "
            f"`dask worker {name} --nthreads 1`"
        ) from None
    with client:
        yield client


@contextmanager
def _batch(name: str, options: Mapping[str, Any]) -> Iterator[Any]:
    try:
        # `local` starts jobs as processes here: to try a [cluster] table without a batch system
        module = importlib.import_module("dask_jobqueue.local" if name == "local" else "dask_jobqueue")
    except ImportError:
        raise BadInput(f"--cluster {name} needs dask-jobqueue: pip install 'videomolmo[cluster]'") from None
    kind = getattr(module, f"{CLUSTERS[name]}Cluster")
    submit = kind.job_cls.submit_command
    if submit and not shutil.which(submit):
        raise BadInput(f"--cluster {name} submits jobs with {submit}, which is not here; run it on a login node")
    from distributed import core

    cluster = kind.__new__(kind)
    try:
        cluster.__init__(**options)
    except (ValueError, TypeError) as error:
        cluster.status = core.Status.closed  # half made: it would warn of itself when it is collected, and fail at that
        place = "[cluster] of the grid of a sweep, or ~/.config/dask/jobqueue.yaml"
        raise BadInput(f"dask-jobqueue refuses its options for {name}, from {place}: {error}") from None
    with cluster:
        yield cluster


def submitted(
    client: Client, work: Callable[[Any, str], Any], jobs: Sequence[Any], name: str
) -> Iterator[tuple[Any, Future]]:
    """Each job with the future of `work(job, task)`, as they end; close the iterator to drop those that have not.

    Args:
        client: of a cluster.
        work: a function of a module; `task` is for `still_wanted`.
        jobs: that travel to workers.
        name: of the work, for Dask's own pages.
    """
    from distributed import as_completed

    futures = {}
    try:
        for job in jobs:
            task = f"{name}-{uuid.uuid4().hex}"
            futures[client.submit(work, job, task, key=task, pure=False)] = job
        for future in as_completed(futures, loop=client.loop):
            yield futures[future], future
    finally:
        if left := [future for future in futures if not future.done()]:
            client.cancel(left, force=True)


def still_wanted(task: str) -> Callable[[], bool]:
    """Whether this worker is to go on: the scheduler drops a task when its client says so or goes away."""
    from distributed import get_client, get_worker

    here, client = get_worker().address, get_client()

    def ask() -> bool:
        try:
            return task in client.processing([here])[here]
        except (OSError, KeyError):  # the scheduler is gone, or knows nothing of this worker any more
            return False

    return ask
