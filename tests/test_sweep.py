"""Sweeps with real kernels: what they write, what they skip, and what survives when something is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from small_notebooks import write_notebook

from videomolmo.cli import main
from videomolmo.io.files import UNFINISHED, is_temporary

WITHIN_S = 300  # whatever should happen soon, on however crowded a machine


@pytest.fixture
def signs(tmp_path) -> Path:
    """Where the notebook says that it runs, and waits for a sign to go on."""
    (tmp_path / "signs").mkdir()
    return tmp_path / "signs"


@pytest.fixture
def command(tmp_path, signs) -> Callable[..., list[str]]:
    """`command("--workers", 2, rule=["hold"], seeds=2)`: arguments of a sweep into tmp_path/out."""
    notebook = write_notebook(tmp_path / "small.ipynb")

    def write(*options: object, rule: list[str], seeds: int = 1, rest: str = "") -> list[str]:
        grid = tmp_path / "grid.toml"
        text = f"[fixed]\nsigns_folder = '{signs}'\n[grid]\nrule = {rule}\n[repeats]\nseed = {seeds}\n"
        grid.write_text(text + rest)
        where = ["--grid", grid, "--out", tmp_path / "out"]
        return ["sweep", *map(str, (notebook, *where, *options))]

    return write


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], subprocess.Popen]]:
    """Starts the command line in a process of its own; what a failing test leaves is killed, children included."""
    started: list[subprocess.Popen] = []

    def begin(arguments: list[str]) -> subprocess.Popen:
        started.append(subprocess.Popen(
            [sys.executable, "-m", "videomolmo.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's "&" switches it off
        ))  # fmt: skip
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
        process.communicate()


def until(ask: Callable[[], object]) -> object:
    """What `ask` says once it says something."""
    end = time.monotonic() + WITHIN_S
    while not (answer := ask()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def running(signs: Path, seed: int, besides: tuple[int, ...] = ()) -> int:
    """The process that runs a cell, once there is one."""
    found = [int(path.suffix[1:]) for path in signs.glob(f"{seed}.*")]
    return next((pid for pid in found if pid not in besides), 0)


def gone(*pids: int) -> bool:
    """Whether these processes have ended."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def marks(out: Path, state: str) -> dict[str, int]:
    """Cells in this state, and when it was said."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "cells").glob(f"*/{state}.json")}


def traces(out: Path) -> list[Path]:
    """What shows that a process works in the folder of a sweep, or was killed there."""
    return [path for path in out.iterdir() if is_temporary(path)]


@pytest.mark.slow
def test_a_sweep_runs_what_is_left_and_ends_in_one_table(command, signs, tmp_path, capsys):
    out, twice = tmp_path / "out", command("--workers", 2, rule=["good", "bad"], seeds=2)
    assert main(twice) == 1
    assert "2 cells done, 2 failed, 0 missing" in capsys.readouterr().out
    done, failed = marks(out, "done"), marks(out, "failed")
    assert [name.rpartition(",")[0] for name in sorted(done)] == ["rule=good,seed=0", "rule=good,seed=1"]
    assert not traces(out)

    for name in done:
        assert {path.name for path in (out / "cells" / name).iterdir()} == {
            "done.json", "here.txt", "notebook.ipynb", "results",
        }  # fmt: skip
        facts = json.loads((out / "cells" / name / "done.json").read_text())
        assert facts["table"] == "results/results.csv" and facts["seconds"] > 0 and facts["tries"] == 1
        assert facts["parameters"]["context"] is None and facts["given"]["rule"] == "good"
        text = (out / "cells" / name / "notebook.ipynb").read_text()
        assert "application/vnd.jupyter.widget-state+json" not in text and UNFINISHED not in text
    for name in failed:
        facts = json.loads((out / "cells" / name / "failed.json").read_text())
        assert facts["error"] == "ValueError: a bad rule" and "raise ValueError" in facts["traceback"]
        assert '"ename": "ValueError"' in (out / "cells" / name / "notebook.ipynb").read_text()

    table = pd.read_parquet(out / "results.parquet")
    told = pd.read_csv(out / "results.csv").drop(columns="context")  # nothing is None in one and NaN in the other
    pd.testing.assert_frame_equal(table.drop(columns="context"), told, check_dtype=False)
    assert table.groupby("measure")["value"].apply(list).to_dict() == {"J": [1, 1.1], "F": [2, 2.2]}
    assert set(table["seconds"]) == {4} and (table["cell_seconds"] > 0).all()
    assert table.columns[:2].tolist() == ["cell", "rule"] and {"commit", "versions", "machine"} < set(table)

    assert main(twice) == 1  # nothing to run: neither what is done nor what failed
    assert marks(out, "done") == done and marks(out, "failed") == failed
    (signs / "mended").touch()
    assert main([*twice, "--retry-failed"]) == 0
    assert marks(out, "done").items() > done.items() and not marks(out, "failed")
    assert len(pd.read_csv(out / "results.csv")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_kernel_runs_again_and_signals_leave_nothing_running(command, start, signs, tmp_path, capsys, number):
    out, sweep = tmp_path / "out", command("--workers", 2, rule=["hold"], seeds=2)
    process = start(sweep)
    first, other = until(lambda: running(signs, 0)), until(lambda: running(signs, 1))
    assert main(sweep) == 2  # two at once
    assert f"another process works in {out}" in capsys.readouterr().err

    os.kill(first, signal.SIGKILL)
    again = until(lambda: running(signs, 0, besides=(first,)))
    (signs / "go0").touch()
    finished = until(lambda: marks(out, "done"))
    assert json.loads((out / "cells" / next(iter(finished)) / "done.json").read_text())["tries"] == 2

    process.send_signal(number)
    output, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 128 + number and "the same command goes on from here" in errors
    assert "1 cells done, 0 failed, 1 missing" in output
    assert gone(first, other, again) and not traces(out)
    assert marks(out, "done") == finished and not marks(out, "failed")

    (signs / "go1").touch()
    assert main(sweep) == 0
    assert marks(out, "done").items() > finished.items() and len(list(signs.glob("0.*"))) == 2


@pytest.mark.slow
def test_a_sweep_that_was_killed_itself_goes_on(command, start, signs, tmp_path):
    out, sweep = tmp_path / "out", command("--workers", 1, rule=["hold"])
    process = start(sweep)
    kernel = until(lambda: running(signs, 0))
    process.kill()
    until(lambda: gone(kernel))
    assert traces(out) and not marks(out, "done")
    (signs / "go0").touch()
    assert main(sweep) == 0
    assert len(marks(out, "done")) == 1 and not traces(out)


def free_address(folder: Path) -> str:
    """What a Dask scheduler wrote about itself."""
    path = folder / "scheduler.json"
    until(lambda: path.is_file() and path.stat().st_size)
    return json.loads(path.read_text())["address"]


@pytest.fixture
def cluster(tmp_path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each for one cell at a time: three real processes."""
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    options = ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", "scheduler.json"]
    processes = [subprocess.Popen([*dask, *options], **quiet)]
    try:
        address = free_address(tmp_path)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        processes += [subprocess.Popen([*worker, "--no-dashboard"], **quiet) for _ in range(2)]
        yield address
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_dask_cluster_runs_the_cell_of_a_killed_worker_again(cluster, command, start, signs, tmp_path):
    out, sweep = tmp_path / "out", command("--scheduler", cluster, rule=["hold"], seeds=2)
    process = start(sweep)
    first, other = until(lambda: running(signs, 0)), until(lambda: running(signs, 1))
    worker = psutil.Process(first).parent()
    assert worker.pid != psutil.Process(other).parent().pid and "dask_worker" in " ".join(worker.cmdline())
    worker.kill()
    until(lambda: gone(first))  # a kernel does not outlive its worker
    (signs / "go1").touch()
    assert until(lambda: running(signs, 0, besides=(first,)))
    (signs / "go0").touch()
    output, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, errors
    assert "2 cells done, 0 failed, 0 missing" in output and len(marks(out, "done")) == 2
    assert len(pd.read_csv(out / "results.csv")) == 4 and not traces(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_drops_the_trials_of_a_sweep_that_ends(cluster, command, start, signs, tmp_path, number):
    process = start(command("--scheduler", cluster, rule=["hold"]))
    kernel = until(lambda: running(signs, 0))
    worker = psutil.Process(kernel).parent()
    process.send_signal(number)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    until(lambda: gone(kernel))
    assert worker.is_running() and not marks(tmp_path / "out", "failed") and not marks(tmp_path / "out", "done")
    until(lambda: not list((tmp_path / "out").glob(f"{UNFINISHED}*")))


CLUSTER = """[cluster]
cores = 1
memory = "1 GB"
queue = "short"
scheduler_options = {host = "127.0.0.1", dashboard_address = ":0"}
"""


@pytest.mark.slow
def test_cells_run_in_jobs_of_a_batch_system_which_end_with_the_sweep(slurm, command, start, signs, tmp_path):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is missing: pip install 'videomolmo[cluster]'")
    process = start(command("--cluster", "slurm", "--workers", 2, rule=["hold"], seeds=2, rest=CLUSTER))
    kernels = [until(lambda seed=seed: running(signs, seed)) for seed in (0, 1)]
    above = [{parent.pid for parent in psutil.Process(kernel).parents()} for kernel in kernels]
    jobs = {int(path.stem): path.read_text() for path in slurm.glob("*.sh")}
    assert [len(pids & jobs.keys()) for pids in above] == [1, 1] and not above[0] & above[1] & jobs.keys()
    assert all("#SBATCH -p short\n" in script and "--cpus-per-task=1\n" in script for script in jobs.values())
    for seed in (0, 1):
        (signs / f"go{seed}").touch()
    output, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, errors
    assert "2 cells done, 0 failed, 0 missing" in output and len(pd.read_csv(tmp_path / "out" / "results.csv")) == 4
    until(lambda: gone(*kernels, *jobs))
