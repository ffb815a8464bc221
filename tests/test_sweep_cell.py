"""One cell: what is said of it when its kernel, its worker or its table is no good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from distributed import KilledWorker
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from small_notebooks import BODY, write_notebook

from videomolmo.sweep.cell import DONE, TRIES, End, Job, _keep, facts_of, run_cell
from videomolmo.sweep.grid import read_grid
from videomolmo.sweep.notebook import read_notebook
from videomolmo.sweep.run import Summary, _state
from videomolmo.sweep.store import Store


@pytest.fixture
def claimed(tmp_path) -> Iterator[Callable[..., tuple[Job, Store]]]:
    """`claimed()` gives the one cell of a sweep, and the folder that it may work in."""
    with ExitStack() as held:

        def claim(folder: str = "out", body: str = BODY) -> tuple[Job, Store]:
            notebook = read_notebook(write_notebook(tmp_path / "small.ipynb", body=body))
            (tmp_path / "grid.toml").write_text("[fixed]\nrule = 'good'")
            grid, store = read_grid(tmp_path / "grid.toml", notebook), Store(tmp_path / folder)
            token = held.enter_context(store.locked())
            store.claim(notebook, grid)
            (cell,) = grid.cells
            given, parameters = dict(cell.given), dict(cell.parameters)
            return Job(str(store.out), token, cell.name, cell.key, given, parameters, (), "", notebook.sha256), store

        yield claim


def facts_of_failure(store: Store) -> dict:
    """What is said of the only cell, which failed."""
    (record,) = store.records().values()
    assert record.state == "failed"
    return record.facts


def test_a_cell_that_kills_its_workers_fails_and_other_trouble_leaves_it_to_be_run(claimed):
    (job, store), summary = claimed(), Summary()
    future: Future = Future()
    future.set_exception(OSError("the cluster went away"))
    assert _state(future, job, store, summary) == "stopped" and not store.records()
    assert summary.lost == {job.name: "OSError: the cluster went away"}
    killed: Future = Future()
    killed.set_exception(KilledWorker("a cell", SimpleNamespace(address="tcp://node:1"), 3))
    assert _state(killed, job, store, summary) == "failed"
    facts = facts_of_failure(store)
    assert "its worker died again and again" in facts["error"] and "tcp://node:1" in facts["traceback"]


@pytest.mark.parametrize("trouble", ["kernel", "papermill"])
def test_a_cell_that_gets_no_kernel_fails_at_once_with_its_traceback(claimed, monkeypatch, trouble):
    def nothing(self, name: str) -> KernelSpec:
        raise NoSuchKernel(name)

    job, store = claimed()
    if trouble == "kernel":
        monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", nothing)
    else:
        store.notebook.write_text("{}")
    assert run_cell(job) == "failed"
    facts = facts_of_failure(store)
    told = {"kernel": "NoSuchKernel: No such kernel named python3", "papermill": "ValidationError: Notebook could not"}
    assert facts["tries"] == 1 and facts["error"].startswith(told[trouble])
    assert facts["traceback"].startswith("Traceback") and "execute_notebook" in facts["traceback"]


def test_a_kernel_that_cannot_start_is_tried_again_and_its_last_words_are_kept(claimed, monkeypatch):
    script = "import sys; print('x' * 9000, file=sys.stderr); sys.exit('No module named ipykernel_launcher')"
    broken = KernelSpec(argv=[sys.executable, "-c", script], display_name="broken", language="python")
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: broken)
    job, store = claimed()
    assert run_cell(job) == "failed"
    facts = facts_of_failure(store)
    assert facts["tries"] == TRIES and f"the kernel died {TRIES} times, before it was ready (" in facts["error"]
    assert "Kernel died" in facts["error"] and "RuntimeError" in facts["traceback"]
    assert facts["log"].endswith("x\nNo module named ipykernel_launcher") and len(facts["log"]) <= 4000


@pytest.mark.slow
def test_a_kernel_that_dies_every_time_leaves_its_traceback_and_last_words(claimed):
    job, store = claimed(body="import os, signal\nos.write(2, b'out of luck\\n')\nos.kill(os.getpid(), signal.SIGKILL)")
    assert run_cell(job) == "failed"
    facts = facts_of_failure(store)
    assert facts["tries"] == TRIES and "killed from outside, often for want of memory (Dead" in facts["error"]
    assert facts["traceback"].startswith("Traceback") and "out of luck" in facts["log"]


@pytest.mark.parametrize("text, told", [("", "No columns to parse"), ("a,b\n1,2\n1,2,3", "Expected 2 fields")])
def test_a_cell_whose_table_nobody_can_read_has_failed(claimed, text, told):
    job, store = claimed()

    def keep(table: str) -> str:
        attempt = store.attempt(job.key)
        (attempt / "kernel.log").write_text("a warning")
        (attempt / "results").mkdir()
        (attempt / "results" / "results.csv").write_text(table)
        return _keep(store, job, attempt, End(DONE), facts_of(job) | {"seconds": 1.0})

    assert keep(text) == "failed"
    facts = facts_of_failure(store)
    assert told in facts["error"] and "the notebook ran to its end, but results.csv is no table" in facts["error"]
    assert "read_csv" in facts["traceback"] and facts["log"] == "a warning"
    assert keep("a,b\n1,2") == "done"
