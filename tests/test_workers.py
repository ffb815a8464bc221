"""Jobs in several real processes, some of which are really killed: an end in one line, never a wait for ever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from videomolmo.errors import BadInput
from videomolmo.io.workers import run_all

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # of a busy machine


def squared(given: tuple, job: int) -> int:
    return job**2 + sum(given)


def said(begun: str, job: int) -> str:
    return f"{begun} {job} {os.getpid()}"


def dies(_: object, job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuses(_: object, job: int) -> int:
    raise BadInput(f"job {job} is refused")


def waits(_: object, job: int) -> None:
    time.sleep(PATIENCE_S if job else 0)


def begun(text: str) -> str:
    return text.upper()


def begins_with_death() -> None:
    os._exit(7)


def begins_with_a_refusal() -> None:
    raise BadInput("the data set is gone")


@pytest.mark.parametrize("count", [1, 2, 9])
def test_results_are_the_same_whatever_the_number_of_workers(count):
    assert sorted(run_all(squared, range(5), count, "square", given=(1, 2))) == [3, 4, 7, 12, 19]
    assert list(run_all(squared, [], count, "square")) == []


def test_one_worker_works_here_and_two_elsewhere():
    here = set(run_all(said, [1, 2], 1, "say", begun, ("a",)))
    assert here == {f"A 1 {os.getpid()}", f"A 2 {os.getpid()}"}
    elsewhere = set(run_all(said, [1, 2], 2, "say", begun, ("a",)))
    assert {text[:3] for text in elsewhere} == {"A 1", "A 2"} and not elsewhere & here


@pytest.mark.parametrize(("work", "begin"), [(dies, None), (squared, begins_with_death)])
def test_a_worker_that_dies_ends_the_work_in_one_line(work, begin):
    with pytest.raises(BadInput, match=r"^annotate: one of 2 processes died, .* fewer workers or one$"):
        list(run_all(work, range(8), 2, "annotate", begin))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("work", "begin", "line"), [
    (refuses, None, "job [0-3] is refused"), (squared, begins_with_a_refusal, "the data set is gone"),
])  # fmt: skip
def test_what_a_worker_refuses_is_refused_here(count, work, begin, line):
    with pytest.raises(BadInput, match=f"^{line}$"):
        list(run_all(work, range(4), count, "annotate", begin))


def test_workers_at_work_end_when_nobody_wants_their_results():
    with closing(run_all(waits, range(3), 2, "wait")) as results:
        next(results)
    assert not multiprocessing.active_children()


def test_without_shared_memory_one_process_does_it_all(monkeypatch, capsys):
    def none(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("_multiprocessing.SemLock", none)  # what fails without /dev/shm
    assert sorted(run_all(squared, range(3), 2, "render")) == [0, 1, 4]
    assert capsys.readouterr().err.startswith("render: no further processes here (No such file or directory; is /dev/s")


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_workers import run_all, squared, waits
if __name__ == "__main__":
    print(sorted(run_all({work}, range(4), 2, "square")), flush=True)
"""


def script(folder: Path, work: str, **options) -> subprocess.Popen:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(tests=str(ROOT / "tests"), work=work), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, path], env=environment, text=True, stdout=subprocess.PIPE, **options)


def test_modules_of_the_working_folder_are_not_taken_for_standard_ones(tmp_path):
    for name in ("random", "signal", "struct", "selectors", "queue", "numpy"):
        (tmp_path / "here" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    assert script(tmp_path, "squared", cwd=tmp_path / "here").communicate(timeout=PATIENCE_S)[0] == "[0, 1, 4, 9]\n"
    assert "PYTHONSAFEPATH" not in os.environ


def test_workers_end_with_the_process_that_started_them(tmp_path):
    process = script(tmp_path, "waits")
    children: list[psutil.Process] = []
    until = time.monotonic() + PATIENCE_S
    while len(children) < 3 and time.monotonic() < until:  # two workers, and what tracks their resources
        children = psutil.Process(process.pid).children()
        time.sleep(0.05)
    time.sleep(1)  # in which they get to work, or not: either must end
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]


def test_a_worker_killed_from_outside_is_noticed_while_it_works(tmp_path):
    process = script(tmp_path, "waits", stderr=subprocess.PIPE)
    until, busy = time.monotonic() + PATIENCE_S, []
    while not busy and time.monotonic() < until:
        children = psutil.Process(process.pid).children()
        busy = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.05)
    busy[0].kill()
    errors = process.communicate(timeout=PATIENCE_S / 2)[1]
    assert process.returncode == 1 and "one of 2 processes died" in errors


def test_nothing_else_makes_a_pool():
    """The pools of `multiprocessing` start dead workers again for ever."""
    found = {
        path.relative_to(ROOT / "videomolmo").as_posix()
        for path in (ROOT / "videomolmo").rglob("*.py")
        if "Pool(" in (text := path.read_text(encoding="utf-8")) or "ProcessPoolExecutor(" in text
    }
    assert found == {"io/workers.py"}


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process has all cores")
def test_parallel_tests_do_not_compete_for_the_cores():
    import torch

    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
