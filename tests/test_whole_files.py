"""Whole files, held folders and the end of commands, with real processes that are really killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videomolmo.errors import BadInput
from videomolmo.io import files as whole_files
from videomolmo.io import provenance
from videomolmo.io.files import (
    BETWEEN,
    LOCK,
    UNFINISHED,
    atomic_file,
    atomic_files,
    check_folder,
    locked_folder,
    locked_temporary_folder,
    move_into_place,
    new_results,
    temporary_folder,
    write_json,
    write_text,
)  # fmt: skip
from videomolmo.io.video_write import VideoWriter
from videomolmo.mask_store import TEMPORARY, MaskStore

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # of a busy machine
UNCOMPILED = {"PYTHONDONTWRITEBYTECODE": "1"}  # with little room half a file would be left beside the package
COMMAND = """
import functools, sys, time
from pathlib import Path
import numpy as np
from videomolmo import cli
from videomolmo.io.files import new_results
from videomolmo.mask_store import LAYERS, MaskStore
from videomolmo.io.video_write import VideoWriter
from videomolmo.io.files import atomic_file, locked_folder, temporary_folder

def spooled():
    spool = MaskStore()
    masks = dict.fromkeys(LAYERS, np.ones((2, 1, 4, 6), bool))
    spool.write(0, (1,), masks, dict.fromkeys(LAYERS[1:], np.ones((2, 1), bool)))
    return spool

def wait():
    print("ready", flush=True)
    time.sleep({patience})

def work(*, out, **_):
{body}

command = next(one for one in cli.app.registered_commands if one.callback is cli.ground)
command.callback = functools.wraps(cli.ground)(work)
sys.exit(cli.main(["ground", "--out", sys.argv[1]]))
"""
SPOOL = "spool = spooled()\nwait()"
WRITE = "with atomic_file(out / 'table.csv') as path:\n    path.write_text('half')\n    wait()"
SAVE = "with new_results(out, overwrite=False) as place:\n    (place / 'answers.jsonl').write_text('half')\n    wait()"
VIDEO = (
    "with VideoWriter(out / 'clip.mp4', 10, 16, 16) as writer:\n"
    "    writer.write(np.zeros((16, 16, 3), np.uint8))\n    wait()"
)
HOLD = "with locked_folder(out):\n    wait()"
SLOW = "spool = spooled()\ntry:\n    wait()\nfinally:\n    time.sleep(2)"  # to put its things away
BODIES = {"spool": SPOOL, "write": WRITE, "save": SAVE, "video": VIDEO, "hold": HOLD}


class Command:
    """A command of ours in a process of its own, which has begun its work when this is made."""

    def __init__(self, body: str, out: Path, ready: bool = True, **options) -> None:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        self.temporary = out / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)} | UNCOMPILED
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(body=lines, patience=PATIENCE_S), out / "out"], env=environment,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        (out / "out").mkdir(exist_ok=True)
        if ready:
            assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def end(self, *numbers: int) -> tuple[int, str]:
        for number in numbers:
            self.process.send_signal(number)
        errors = self.process.communicate(timeout=PATIENCE_S / 2)[1]
        return self.process.returncode, errors


def left(folder: Path) -> list[str]:
    """What lies in and below a folder, apart from the two folders every test has."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return [name for name in names if name not in ("out", "temporary")]


# Signals


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_sigterm_ends_a_command_in_order_and_nothing_temporary_stays(body, tmp_path):
    assert Command(body, tmp_path).end(signal.SIGTERM) == (143, "videomolmo: ended by SIGTERM\n")
    assert left(tmp_path) == []


@pytest.mark.parametrize(("numbers", "code"), [
    ([signal.SIGHUP], 129), ([signal.SIGINT], 130), ([signal.SIGTERM] * 5, 143), ([signal.SIGTERM, signal.SIGHUP], None)
])  # fmt: skip
def test_other_signals_and_several_of_them_end_it_too(numbers, code, tmp_path):
    told, errors = Command(SLOW, tmp_path).end(*numbers)
    assert told == code or (code is None and told in (129, 143))
    assert errors.count("\n") == 1 and left(tmp_path) == []


def test_what_was_to_go_on_after_a_hangup_goes_on(tmp_path):
    """As `nohup` has it: who ignores a signal already is not ended by it."""
    command = Command(SPOOL, tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    command.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert command.process.poll() is None
    assert command.end(signal.SIGTERM)[0] == 143


def test_a_process_that_calls_the_command_line_has_its_own_signals_again():
    from videomolmo.cli import main

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    assert main(["ground", "no such file.mp4", "the cat"]) == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


# What killed processes leave


@pytest.mark.parametrize("kind", ["write", "save", "video"])
def test_the_next_run_into_the_same_place_removes_what_a_killed_one_left_and_nothing_of_a_living_one(kind, tmp_path):
    alive, killed = (Command(BODIES[kind], tmp_path) for _ in range(2))
    assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
    mine = tmp_path / "out" / f"{UNFINISHED}mine"  # a file, not a folder of ours
    mine.write_text("mine")
    assert len(list((tmp_path / "out").glob(f"{UNFINISHED}*"))) == 3
    write_text(tmp_path / "out" / "table.csv", "whole")
    assert len(list((tmp_path / "out").glob(f"{UNFINISHED}*"))) == 2
    assert alive.end(signal.SIGTERM)[0] == 143
    assert left(tmp_path) == [f"out/{mine.name}", "out/table.csv"]


def test_the_next_spool_removes_those_of_killed_processes_only(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    alive, killed = (Command(SPOOL, tmp_path) for _ in range(2))
    assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
    others = [tmp_path / "temporary" / name for name in ("videomolmo_training", "videomolmo_masks", "other")]
    for folder in others:
        folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "temporary" / f"{TEMPORARY}link").symlink_to(tmp_path / "elsewhere")
    first, second = MaskStore(), MaskStore()
    names = set(os.listdir(tmp_path / "temporary")) - {path.name for path in others} - {f"{TEMPORARY}link"}
    assert names >= {first.folder.name, second.folder.name} and len(names) == 3
    assert alive.process.poll() is None and all(folder.is_dir() for folder in [*others, tmp_path / "elsewhere"])
    alive.end(signal.SIGTERM)


def test_a_killed_save_is_no_reason_to_ask_for_overwriting(tmp_path):
    assert Command(SAVE, tmp_path).end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert left(tmp_path / "out") and check_folder(tmp_path / "out", overwrite=False)
    with new_results(tmp_path / "out", overwrite=False) as place:
        (place / "run.json").write_text("{}")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["run.json"]
    assert not list((tmp_path / "out").glob(".*"))


def test_a_lock_says_who_lives_and_no_number_of_a_process(tmp_path):
    """Containers share folders, but count their processes on their own."""
    folder, lock = locked_temporary_folder(tmp_path, "kept.")
    assert not any(str(os.getpid()) in path.read_text() for path in folder.iterdir())
    whole_files.remove_abandoned(tmp_path, "kept.")
    assert folder.is_dir()
    lock.release()  # as the system does for a process that dies
    whole_files.remove_abandoned(tmp_path, "kept.")
    assert not folder.exists()


def test_where_the_disk_knows_no_locks_work_goes_on_and_nothing_of_others_is_removed(tmp_path, monkeypatch):
    import errno

    from filelock import FileLock

    def none(self) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / f"{UNFINISHED}12345678").mkdir()
    monkeypatch.setattr(FileLock, "_acquire", none)
    write_text(tmp_path / "file", "whole")
    with locked_folder(tmp_path):
        assert (tmp_path / "file").read_text() == "whole"
    assert len(left(tmp_path)) == 2 and left(tmp_path)[0].startswith(UNFINISHED)


# One holds a folder


def test_a_folder_that_a_process_holds_is_refused_until_it_ends_however_it_ends(tmp_path):
    command = Command(HOLD, tmp_path)
    line = r"another process works in .*out; wait for it, stop it first, or give another folder"
    with pytest.raises(BadInput, match=line), locked_folder(tmp_path / "out"):
        pass
    assert command.end(signal.SIGKILL)[0] == -signal.SIGKILL
    with locked_folder(tmp_path / "out"):
        assert left(tmp_path / "out") == [LOCK]
    assert left(tmp_path) == []


def test_two_that_claim_a_folder_at_once_do_not_mix(tmp_path):
    out = tmp_path / "out"
    with provenance.locked_manifest(out, {"seed": 1}, "a run"):
        with (
            pytest.raises(BadInput, match="another process works in"),
            provenance.locked_manifest(out, {"seed": 1}, "a run"),
        ):
            pass
        with pytest.raises(BadInput, match="other seed"), provenance.locked_manifest(out, {"seed": 2}, "a run"):
            pass
    with provenance.locked_manifest(out, {"seed": 1}, "a run"):
        pass
    assert left(out) == ["settings.json"]


def test_settings_written_by_another_between_look_and_lock_are_looked_at_again(tmp_path, monkeypatch):
    own = provenance.locked_folder

    def later(folder: Path):
        write_json(folder / "settings.json", {"seed": 2})
        return own(folder)

    monkeypatch.setattr(provenance, "locked_folder", later)
    with (
        pytest.raises(BadInput, match=r"other seed \(2, now 1\)"),
        provenance.locked_manifest(tmp_path, {"seed": 1}, "a run"),
    ):
        pass


def test_results_that_came_while_others_were_saved_are_not_replaced(tmp_path):
    with pytest.raises(BadInput, match="not empty"), new_results(tmp_path / "out", overwrite=False) as place:
        (place / "run.json").write_text("second")
        with new_results(tmp_path / "out", overwrite=False) as first:
            (first / "run.json").write_text("first")
    assert (tmp_path / "out" / "run.json").read_text() == "first"
    assert not list((tmp_path / "out").glob(".*"))


# On the disk before the name, and what is broken is not done


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """What is brought to the disk and what is renamed, in order, by name."""
    made, sync, replace = [], os.fsync, os.replace

    def fsync(number: int) -> None:
        made.append(("sync", Path(os.readlink(f"/proc/self/fd/{number}")).name))
        sync(number)

    def renamed(source: Path, target: Path) -> None:
        made.append(("name", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to know what is brought to the disk")
def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(calls, tmp_path):
    write_json(tmp_path / "facts.json", {})
    assert calls == [("sync", "facts.json"), ("name", "facts.json"), ("sync", tmp_path.name)]
    calls.clear()
    with atomic_files(tmp_path / "model", "config.json") as place:
        for name in ("config.json", "a.bin", "z.bin"):
            (place / name).write_text(name)
    synced, named = ([name for call, name in calls if call == kind] for kind in ("sync", "name"))
    assert named == ["a.bin", "z.bin", "config.json"] and set(named) < set(synced) and synced[-1] == "model"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to know what is brought to the disk")
def test_results_are_on_the_disk_before_run_json_says_so(calls, tmp_path):
    with new_results(tmp_path / "out", overwrite=False) as place:
        (place / "masks" / "00000.png").write_text("png")
        for name in ("answers.jsonl", "run.json"):
            (place / name).write_text(name)
    names = [name for call, name in calls if call == "name"]
    assert names == ["run.json", "00000.png", "answers.jsonl", "run.json"]
    for at, (call, name) in enumerate(calls):
        assert call == "sync" or ("sync", name) in calls[:at]
    assert calls[-1] == ("sync", "out")


def test_a_video_is_on_the_disk_before_it_has_its_name(calls, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10, 16, 16) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    assert calls[-3:] == [("sync", "clip.mp4"), ("name", "clip.mp4"), ("sync", tmp_path.name)]


@pytest.mark.parametrize(("content", "kept"), [(b"", False), (b"\0" * 60, False), (b'{"seed": ', True)])
def test_broken_settings_are_written_again_where_results_say_themselves_what_made_them(content, kept, tmp_path):
    ours = ("parts", "report.json")
    (tmp_path / "parts").mkdir()
    for _ in range(2):
        (tmp_path / "settings.json").write_bytes(content)
        provenance.write_or_verify_manifest(tmp_path, {"seed": 1}, "parts", ours)
        assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 1}
    old = sorted(tmp_path.glob("settings.json.*"))
    assert [path.name for path in old] == (["settings.json.1.old", "settings.json.2.old"] if kept else [])
    assert all(path.read_bytes() == content for path in old)
    (tmp_path / "settings.json").write_bytes(content)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"settings.json cannot be read .*give a new folder"):
        provenance.write_or_verify_manifest(tmp_path, {"seed": 1}, "parts", ours)
    assert (tmp_path / "settings.json").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "is_ours"), [("", True), ("\0" * 9, True), (json.dumps(BETWEEN), True), ("{", False)]
)
def test_results_whose_run_json_a_power_cut_emptied_may_be_replaced(content, is_ours, tmp_path):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "answers.jsonl").write_text("")
    if is_ours:
        check_folder(tmp_path, overwrite=True)
    else:
        with pytest.raises(BadInput, match="but no run"):
            check_folder(tmp_path, overwrite=True)


# What fails names what and where


def limited() -> None:
    """Files of this process may be 8 kB long: a full disk for one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))


BIG_SPOOL = """
masks = dict.fromkeys(LAYERS, np.random.default_rng(0).random((9, 1, 99, 99)) > 0.5)
MaskStore().write(0, (1,), masks, dict.fromkeys(LAYERS[1:], np.ones((9, 1), bool)))
"""
FULL = {
    "text": (
        "with atomic_file(out / 'table.csv') as path:\n    path.write_text('x' * 99999)",
        "table.csv: cannot be wri",
    ),
    "arrays": (
        "with atomic_file(out / 'a.npz') as path:\n    np.savez(path, a=np.zeros(99999))",
        "a.npz: cannot be writ",
    ),
    "masks": (BIG_SPOOL, "00000.npz: masks cannot be written (File too large); make room there"),
    "save": (
        "with new_results(out, overwrite=False) as place:\n    (place / 'run.json').write_text('x' * 99999)",
        "out: cannot write there (File too large); choose another folder",
    ),
    "output": ("print('x' * 99999)", "ground: standard output or a log cannot be written (No space left on device)"),
    "late": ("print('x' * 9)", "ground: standard output or a log cannot be written (No space left on device)"),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_is_one_line_that_names_what_could_not_be_written(kind, tmp_path):
    body, line = FULL[kind]
    options = {"preexec_fn": limited}
    command = Command(body, tmp_path, ready=False, **options) if kind not in ("output", "late") else None
    if command is None:
        code = COMMAND.format(body=f"    {body}", patience=0)
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code, tmp_path], stdout=full, stderr=subprocess.PIPE, text=True,
                timeout=PATIENCE_S, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            )  # fmt: skip
        code, errors = done.returncode, done.stderr
    else:
        code, errors = command.end()
    assert code == 2 and errors.startswith("videomolmo: ") and line in errors and errors.count("\n") == 1, errors
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory"), OSError("no words")])
def test_an_error_without_a_path_names_the_command(error, monkeypatch, capsys):
    from videomolmo.cli import main

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("videomolmo.io.files.check_folder", fails)
    assert main(["ground", "clip.mp4", "the cat"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("videomolmo: ground: ") and (error.strerror or str(error)) in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["a" * 255, "ends with.", "{braces} %s 'x'", "ümlaut.csv"])
def test_any_name_that_a_disk_takes_is_written(name, tmp_path):
    for text in ("first", "second"):
        write_text(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "second" and left(tmp_path) == [name]


def test_what_exists_is_kept_where_it_may_not_be_replaced(tmp_path):
    (tmp_path / "mine").write_text("mine")
    refused = pytest.raises(BadInput, match="mine exists; give another name")
    with refused, atomic_file(tmp_path / "mine", replace=False) as path:
        path.write_text("other")
    with temporary_folder(tmp_path) as place:
        (place / "frames").mkdir()
        (tmp_path / "frames").mkdir()
        (tmp_path / "frames" / "mine").write_text("mine")
        with pytest.raises(BadInput, match="frames exists; give another name"):
            move_into_place(place / "frames", tmp_path / "frames", replace=False)
    assert left(tmp_path) == ["frames", "frames/mine", "mine"] and (tmp_path / "mine").read_text() == "mine"
    with pytest.raises(ValueError, match="changed my mind"), atomic_file(tmp_path / "mine") as path:
        path.write_text("half")
        raise ValueError("changed my mind")
    assert (tmp_path / "mine").read_text() == "mine"


def files(pattern: Callable[[str], bool]) -> set[str]:
    package = ROOT / "videomolmo"
    found = (path for path in package.rglob("*.py") if pattern(path.read_text(encoding="utf-8")))
    return {path.relative_to(package).as_posix() for path in found}


def test_there_is_one_way_to_give_a_file_its_name():
    """Checkpoints of trainings, which consist of many files of several processes, have their own."""
    own = {"training/checkpoints.py", "training/run_state.py", "sweep/store.py"}
    assert files(lambda text: "os.replace(" in text or "os.rename(" in text) <= {"io/files.py", *own}
    made = files(lambda text: "mkdtemp(" in text or "mkstemp(" in text)
    assert made <= {"io/files.py", "sweep/store.py", "inspector/app.py"}  # the last makes a folder for each tab
