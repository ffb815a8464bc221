"""One trial: what is said of it when its kernel, its worker or its table is no good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import KilledWorker
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from small_notebooks import BODY, write_notebook

from videomolmo.cli import main
from videomolmo.io.files import UNFINISHED
from videomolmo.sweep.grid import Trial
from videomolmo.sweep.run import Summary, _status
from videomolmo.sweep.store import Store
from videomolmo.sweep.trial import TRIES, Job


@pytest.fixture
def swept(tmp_path) -> Callable[..., dict]:
    """`swept()` sweeps one trial and gives what is said of it, its `status` included."""

    def run(body: str = BODY) -> dict:
        notebook = write_notebook(tmp_path / "small.ipynb", body=body)
        (tmp_path / "grid.toml").write_text("[fixed]\nrule = 'good'")
        out = tmp_path / "out"
        main(["sweep", str(notebook), "--grid", str(tmp_path / "grid.toml"), "--out", str(out), "--workers", "1"])
        assert not list(out.glob(f"{UNFINISHED}*"))
        return said(out)

    return run


def said(out: Path) -> dict:
    (record,) = Store(out).records().values()
    return record.metadata | {"status": record.status}


def test_a_trial_that_kills_its_workers_fails_and_other_trouble_leaves_it_to_be_run(tmp_path):
    store, summary = Store(tmp_path), Summary()
    store.cells.mkdir()
    job = Job(str(tmp_path), Trial("a", {}, {"rule": "good"}), {}, "0" * 64)
    future: Future = Future()
    future.set_exception(OSError("the cluster went away"))
    assert _status(future, job, store, summary) == "stopped" and not store.records()
    cancelled: Future = Future()
    cancelled.cancel()
    assert _status(cancelled, job, store, Summary()) == "stopped"
    assert summary.lost == {job.trial.name: "OSError: the cluster went away"}
    killed: Future = Future()
    killed.set_exception(KilledWorker("a trial", SimpleNamespace(address="tcp://node:1"), 3))
    assert _status(killed, job, store, summary) == "failed"
    facts = said(tmp_path)
    assert facts["status"] == "failed"
    assert "its worker died again and again" in facts["error"] and "tcp://node:1" in facts["traceback"]


@pytest.mark.slow
def test_a_trial_that_gets_no_kernel_fails_at_once_with_its_traceback(swept, monkeypatch):
    def nothing(self, name: str) -> KernelSpec:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", nothing)
    facts = swept()
    assert facts["status"] == "failed" and facts["tries"] == 1
    assert facts["error"].startswith("NoSuchKernel: No such kernel named python3")
    assert facts["traceback"].startswith("Traceback") and "_execute_notebook" in facts["traceback"]


@pytest.mark.slow
def test_a_kernel_that_cannot_start_is_tried_again_and_its_last_words_are_kept(swept, monkeypatch):
    script = "import sys; print('x' * 9000, file=sys.stderr); sys.exit('No module named ipykernel_launcher')"
    broken = KernelSpec(argv=[sys.executable, "-c", script], display_name="broken", language="python")
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: broken)
    facts = swept()
    assert facts["status"] == "failed" and facts["tries"] == TRIES
    assert f"the kernel died {TRIES} times, before it was ready (" in facts["error"]
    assert "Kernel died" in facts["error"] and "RuntimeError" in facts["traceback"]
    assert facts["log"].endswith("x\nNo module named ipykernel_launcher") and len(facts["log"]) <= 4000


@pytest.mark.slow
def test_a_kernel_that_dies_every_time_leaves_its_traceback_and_last_words(swept):
    facts = swept("import os, signal\nos.write(2, b'out of luck\\n')\nos.kill(os.getpid(), signal.SIGKILL)")
    assert facts["status"] == "failed" and facts["tries"] == TRIES
    assert "killed from outside, often for want of memory (Dead" in facts["error"]
    assert facts["traceback"].startswith("Traceback") and "out of luck" in facts["log"]


@pytest.mark.slow
@pytest.mark.parametrize("code, status", [("0", "done"), ("", "done"), ("3", "failed")])
def test_a_notebook_may_leave_early(swept, code, status):
    assert swept(f"import sys\nsys.exit({code})")["status"] == status


@pytest.mark.slow
@pytest.mark.parametrize("text, told", [("", "No columns to parse"), ("a,b\n1,2\n1,2,3", "Expected 2 fields")])
def test_a_trial_whose_table_nobody_can_read_has_failed(swept, text, told):
    body = "import os, pathlib\nos.write(2, b'a warning')\npathlib.Path(results_folder).mkdir()\n"
    facts = swept(body + f"(pathlib.Path(results_folder) / 'results.csv').write_text({text!r})")
    assert facts["status"] == "failed"
    assert told in facts["error"] and "the notebook ran to its end, but results.csv is no table" in facts["error"]
    assert "read_csv" in facts["traceback"] and "a warning" in facts["log"]
