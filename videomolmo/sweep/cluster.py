"""Where cells run: threads on this machine, a Dask cluster that is there, or one that a batch system starts."""

import importlib
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from videomolmo.errors import BadInput

KINDS = {
    "htcondor": "HTCondorCluster", "local": "LocalCluster", "lsf": "LSFCluster", "moab": "MoabCluster",
    "oar": "OARCluster", "pbs": "PBSCluster", "sge": "SGECluster", "slurm": "SLURMCluster",
}  # fmt: skip
ANSWER_WITHIN_S = 20


@dataclass(frozen=True)
class Place:
    """Where the cells of a sweep run.

    Attributes:
        workers: cells at once on this machine, or workers asked of a batch system; None: as many as there are cores,
            or one.
        scheduler: address of a Dask scheduler, such as tcp://node1:8786.
        cluster: a batch system that dask-jobqueue knows.
        options: for it; what is not said comes from dask-jobqueue's own configuration files.

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
        if self.cluster and self.cluster not in KINDS:
            raise BadInput(f"--cluster is {self.cluster!r}, expected one of {', '.join(KINDS)}")

    @property
    def at_once(self) -> int | None:
        """How many cells run at once; None where others decide."""
        return None if self.scheduler else self.workers or (1 if self.cluster else cores())

    @property
    def threads(self) -> int | None:
        """Threads for each cell, so that cells at once do not crowd this machine; None where others decide."""
        return None if self.scheduler or self.cluster else max(1, cores() // (self.workers or cores()))

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """Takes functions and runs them there.

        On this machine they run in threads: the kernels are processes already, and kernels that are started by one
        process do not race for ports.

        Raises:
            BadInput: nobody answers, a package is missing, or the batch system refuses.
        """
        if self.scheduler:
            with _client(self.scheduler, self.scheduler) as client:
                yield client.get_executor(pure=False)
        elif self.cluster:
            with _batch(self.cluster, self.options) as cluster, _client(cluster, self.cluster) as client:
                cluster.scale(self.workers or 1)
                yield client.get_executor(pure=False)
        else:
            with ThreadPoolExecutor(self.at_once) as threads:
                yield threads


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _client(address: Any, name: str) -> Iterator[Any]:
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
    kind = getattr(module, KINDS[name])
    submit = kind.job_cls.submit_command
    if submit and not shutil.which(submit):
        raise BadInput(f"--cluster {name} submits jobs with {submit}, which is not here; run it on a login node")
    try:
        cluster = kind(**options)
    except (ValueError, TypeError) as error:
        raise BadInput(f"dask-jobqueue refuses the [cluster] table for {name}: {error}") from None
    with cluster:
        yield cluster
