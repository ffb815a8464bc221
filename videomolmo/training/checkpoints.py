"""Checkpoints that are whole or not there: written beside, forced to disk, renamed; old ones go, others' files stay."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as sharded_files
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from videomolmo.errors import BadInput
from videomolmo.training.assemble import Learner

STATE = "state.json"
_NAME = re.compile(r"^step_(\d{8})$")
_UNFINISHED, _LEAVING = ".unfinished_", ".leaving_"
_OURS = re.compile(r"^(__\d+_\d+\.distcp|\.metadata|state\.json)(\.tmp)?$")
_LEARNT = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, one folder for each.

    A checkpoint holds what has learnt (weights that never change are read from the model's own folder again), the
    optimiser's state, and in state.json the step, from which schedule, data position and random states follow. Each
    process writes its share; any number of processes, sharded or not, can read it.

    Args:
        folder: made where missing.
        run: the run's own mark; only folders with this mark are ever deleted.
        keep: how many stay.
    """

    folder: Path
    run: str
    keep: int

    def save(self, learner: Learner, state: dict[str, Any]) -> Path:
        """Write a checkpoint after `state["step"]` steps; called by all processes."""
        final = self.folder / f"step_{state['step']:08d}"
        temporary = final.with_name(_UNFINISHED + final.name)
        main, wait = learner.accelerator.is_main_process, learner.accelerator.wait_for_everyone
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            temporary.mkdir(exist_ok=True)
        wait()
        with _quiet_when_alone():
            sharded_files.save(_tensors(learner), checkpoint_id=temporary)
        wait()
        if main:
            _write(temporary / STATE, state | {"run": self.run})
            _sync(temporary)
            self._leave([final])
            os.rename(temporary, final)
            _sync(self.folder)
            self._leave(self._whole()[: -self.keep])
            self._sweep()
        wait()
        return final

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self._whole(), default=None)

    def _whole(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.match(path.name) and (path / STATE).is_file())

    def drop_after(self, step: int) -> None:
        """Delete the run's own checkpoints of later steps, so that it goes on from there."""
        self._leave([path for path in self._whole() if read_state(path)["step"] > step])
        self._sweep()

    def _leave(self, paths: Sequence[Path]) -> None:
        """Rename checkpoints of this run, so that a killed deletion leaves none that looks whole."""
        for path in paths:
            if path.is_dir() and read_state(path).get("run") == self.run:
                os.rename(path, path.with_name(f"{_LEAVING}{path.name}_{time.time_ns()}"))

    def _sweep(self) -> None:
        for path in [*self.folder.glob(_LEAVING + "*"), *self.folder.glob(_UNFINISHED + "*")]:
            self._delete(path)

    def _delete(self, path: Path) -> None:
        """Remove the files that a checkpoint consists of, and the folder if nothing else lies there."""
        if not path.is_dir():
            return
        for file in sorted(path.iterdir(), key=lambda file: file.name == STATE):
            if _OURS.match(file.name):
                file.unlink()
        if not any(path.iterdir()):
            path.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other starts of a run out of its folder: two would delete each other's unfinished files.

    Raises:
        BadInput: another process trains there.
    """
    lock = FileLock(folder / "training.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BadInput(f"another process trains in {folder}; wait for it, or stop it first") from None
    try:
        yield
    finally:
        lock.release()


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint.

    Raises:
        BadInput: it is no checkpoint.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return state | {"step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no checkpoint ({type(error).__name__}: {error}); give a folder step_…") from error


def restore(learner: Learner, path: Path) -> dict[str, Any]:
    """Fill what has learnt and the optimiser from a checkpoint; returns its state.json. Called by all processes.

    Raises:
        BadInput: the folder is no checkpoint, or of another model.
    """
    state, tensors = read_state(path), _tensors(learner)
    try:
        with _quiet_when_alone():
            sharded_files.load(tensors, checkpoint_id=path)
    except (Exception, CheckpointException) as error:  # torch's own kind is no Exception
        reason = str(error).strip().splitlines()[-1][:200]
        raise BadInput(f"{path} cannot be read ({reason}); resume from an earlier checkpoint beside it") from error
    set_model_state_dict(learner.objective, tensors["model"], options=_LEARNT)
    groups = learner.optimiser.param_groups
    settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    set_optimizer_state_dict(learner.objective, learner.optimiser, tensors["optimiser"], options=_LEARNT)
    for group, own in zip(learner.optimiser.param_groups, settings, strict=True):
        group.update(own)  # rates are the recipe's, also where the checkpoint is another run's
    learner.optimiser.zero_grad(set_to_none=True)
    return state


def learnt(learner: Learner) -> dict[str, Tensor]:
    """What has learnt, whole and on the CPU, under the model's names; on the main process, empty on the others."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = _learning(learner, get_model_state_dict(learner.objective, options=options))
    return {name.removeprefix("model."): value for name, value in state.items()}


def _tensors(learner: Learner) -> dict[str, Any]:
    """What has learnt, under names that do not depend on the engine."""
    objective: nn.Module = learner.objective
    return {
        "model": _learning(learner, get_model_state_dict(objective, options=_LEARNT)),
        "optimiser": get_optimizer_state_dict(objective, learner.optimiser, options=_LEARNT),
    }


def _learning(learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
    """A state without what frozen layers in few bits keep beside their weights."""
    names = {f"model.{name}" for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in state.items() if name in names}


@contextmanager
def _quiet_when_alone() -> Iterator[None]:
    """Without torch's warnings that there is one process only, and, in older versions, of what it does itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is (disabled|unavailable)|TypedStorage is deprecated"
        )
        yield


def _write(path: Path, values: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Force a folder's files and its list of names to disk."""
    if os.name == "nt":
        return  # folders cannot be opened there
    for path in [*_files(folder), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())
