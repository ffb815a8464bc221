"""Atomic checkpoints: written beside, forced to disk, renamed; old ones are deleted, other people's files stay."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from videomolmo.errors import BadInput
from videomolmo.io.files import move_into_place
from videomolmo.io.untrusted import first_fault
from videomolmo.training.model import TrainState
from videomolmo.training.tensor_files import (
    Checked,
    Parts,
    Written,
    check_fit,
    fill,
    first_whole,
    own_pieces,
    read_whole,
    set_aside,
    write_index,
    write_part,
)

STATE = "state.json"
METADATA = ".metadata"  # of a checkpoint that an earlier version pickled
_NAME = re.compile(r"^step_(\d{8})$")
_UNFINISHED, _LEAVING = ".unfinished_", ".leaving_"
_OURS = re.compile(  # the last is what safetensors writes before it renames it
    r"^((part_\d{4,}\.safetensors|index\.json|state\.json|__\d+_\d+\.distcp|\.metadata)(\.tmp)?|\.tmp\w{6})$"
)
_OF_A_RUN = (
    "adapter",
    "checkpoints",
    "metrics.jsonl",
    "model",
    "offending",
    "run.json",
    "tensorboard",
    "training.lock",
)
_MAX_BYTES = 16 << 20  # bytes of a state.json
_TRAINABLE = StateDictOptions(ignore_frozen_params=True, strict=False)


class DetectorState(Checked):
    """Numbers of the `DivergenceDetector`."""

    mean: float = 0.0
    seen: int = Field(0, ge=0)
    lowest: float | None = None


class State(Checked, extra="allow"):
    """What a run needs of state.json; the rest is for people to read."""

    step: int = Field(ge=0, lt=10**8)
    run: str | None = None
    watch: DetectorState = DetectorState()
    resumed_from: str | None = None
    files: dict[str, Written] | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, one folder for each.

    A checkpoint holds the trainable weights (those that never change are read from the model's own folder again), the
    optimiser's state, and in state.json the step, from which schedule, data position and random states follow, and
    size and hash of every file. Each process writes its share; any number of processes, sharded or not, can read it.

    Args:
        folder: made where missing.
        run: the run's own mark; only folders with this mark are ever deleted.
        keep: how many stay.
    """

    folder: Path
    run: str
    keep: int

    def save(self, train_state: TrainState, state: dict[str, Any]) -> Path:
        """Write a checkpoint after `state["step"]` steps; called by all processes."""
        final = self.folder / f"step_{state['step']:08d}"
        temporary = final.with_name(_UNFINISHED + final.name)
        accelerator = train_state.accelerator
        main, wait = accelerator.is_main_process, accelerator.wait_for_everyone
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._cleanup()
            if temporary.is_symlink():
                raise BadInput(f"{temporary} is a link, expected nothing there; remove it")
            temporary.mkdir(exist_ok=True)
        wait()
        tensors = _flat(_tensors(train_state))
        pieces = own_pieces(tensors, accelerator.process_index, accelerator.num_processes)
        with _agreed(temporary, "cannot be written", "free space on the disk and run it again"):
            part = write_part(temporary, accelerator.process_index, pieces)
        told = gather_object([part])
        if main:
            files = write_index(temporary, told, {name: value.shape for name, value in tensors.items()})
            (temporary / STATE).write_text(_sealed(state | {"run": self.run, "files": files}), encoding="utf-8")
            self._retire([final])
            if os.path.lexists(final):
                set_aside(final)
            move_into_place(temporary, final)
            self._retire(self._there()[: -self.keep])
            self._cleanup()
        wait()
        return final

    def latest(self) -> Path | None:
        """The newest checkpoint; whether it is whole is seen when it is read."""
        return max(self._there(), default=None)

    def latest_state(self) -> dict[str, Any]:
        """state.json of the newest checkpoint that has one, or one of step 0."""
        states = (_state_of(path) for path in reversed(self._there()))
        return next((state for state in states if state), {"step": 0})

    def restore(self, train_state: TrainState, chosen: Path | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        """Fill trainable weights and optimiser from the newest whole checkpoint. Called by all processes.

        Those that are damaged are renamed, not deleted.

        Args:
            train_state: to fill.
            chosen: the checkpoint to take in place of the newest; it must be whole.

        Returns:
            state.json of the checkpoint, None where there is none yet; a line on each that is damaged.

        Raises:
            BadInput: there are checkpoints, and none is whole, or the chosen one is not.
        """
        if chosen is not None:
            return restore(train_state, chosen), []
        paths = broadcast_object_list([self._there()])[0]
        state, damaged = first_whole(reversed(paths), lambda path: self._restore(train_state, path))
        if state is None and damaged:
            raise BadInput(f"{damaged[0][1]}; no other checkpoint is whole: give --resume DIR, or a new folder")
        return state, [f"{reason}; it is now {self._aside(train_state, path)}" for path, reason in damaged]

    def _restore(self, train_state: TrainState, path: Path) -> dict[str, Any]:
        state = restore(train_state, path)
        if state["step"] != int(_NAME.match(path.name)[1]):
            raise BadInput(f"{path} was written after step {state['step']}, against its name")
        return state

    def _aside(self, train_state: TrainState, path: Path) -> str:
        return set_aside(path).name if train_state.accelerator.is_main_process else ""

    def _there(self) -> list[Path]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in found if _NAME.match(path.name) and path.is_dir() and not path.is_symlink())

    def drop_after(self, step: int) -> None:
        """Delete the run's own checkpoints of later steps, so that it resumes from there."""
        self._retire([path for path in self._there() if _state_of(path).get("step", 0) > step])
        self._cleanup()

    def _retire(self, paths: Sequence[Path]) -> None:
        """Rename checkpoints of this run, so that a killed deletion leaves none that looks whole."""
        for path in paths:
            if path.is_dir() and not path.is_symlink() and _state_of(path).get("run") == self.run:
                os.rename(path, path.with_name(f"{_LEAVING}{path.name}_{time.time_ns()}"))

    def _cleanup(self) -> None:
        for path in [*self.folder.glob(_LEAVING + "*"), *self.folder.glob(_UNFINISHED + "*")]:
            self._delete(path)

    def _delete(self, path: Path) -> None:
        """Remove the files that a checkpoint consists of, and the folder if nothing else lies there."""
        if not path.is_dir() or path.is_symlink():
            return
        for file in sorted(path.iterdir(), key=lambda file: file.name == STATE):
            if _OURS.match(file.name) and (file.is_symlink() or not file.is_dir()):
                file.unlink()
        if not any(path.iterdir()):
            path.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other starts of a run out of its folder: two would delete each other's unfinished files.

    Raises:
        BadInput: another process trains there, or a link lies there in place of what a run writes.
    """
    written = [folder / name for name in _OF_A_RUN]
    written += [path for name in ("adapter", "model", "offending") for path in (folder / name).glob("*")]
    if links := [path for path in written if path.is_symlink()]:
        raise BadInput(f"{links[0]} is a link, and a run writes only into its own folder; remove it")
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
    """state.json of a checkpoint, its types and its own hash looked at.

    Raises:
        BadInput: it is no checkpoint, or state.json is damaged.
    """
    try:
        text = read_whole(path / STATE, _MAX_BYTES).decode("utf-8")
        state = json.loads(text)
        known = State.model_validate(state).model_dump()
        earlier = state.get("files") is None and os.path.lexists(path / METADATA)
        if not earlier and (_sealed({**state, "sha256": None}) != text or known["files"] is None):
            raise ValueError(f"{STATE} has changed since it was written")
        return state | known
    except ValidationError as error:
        reason = f"{STATE}: {first_fault(error)}"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error!s:.160}"
    raise BadInput(f"{path} is no checkpoint ({reason}); give a folder step_…")


def _state_of(path: Path) -> dict[str, Any]:
    """As `read_state`, and nothing where it is damaged."""
    try:
        return read_state(path)
    except BadInput:
        return {}


def restore(train_state: TrainState, path: Path) -> dict[str, Any]:
    """Fill trainable weights and optimiser from a checkpoint; returns its state.json. Called by all processes.

    Raises:
        BadInput: the folder is no checkpoint, is damaged, or of another model.
    """
    process, processes = train_state.accelerator.process_index, train_state.accelerator.num_processes
    tensors, unread = _tensors(train_state), ("cannot be read", "resume from an earlier checkpoint beside it")
    with _agreed(path, *unread):
        state, flat = read_state(path), _flat(tensors)
        files = state["files"]
        parts = _earlier(path) if files is None else Parts(path, files)
        check_fit(parts.shapes, flat)
        parts.check(process, processes)
    with _agreed(path, *unread):
        for name, value in flat.items():
            fill(value, parts, name)
    set_model_state_dict(train_state.loss_module, tensors["model"], options=_TRAINABLE)
    groups = train_state.optimiser.param_groups
    settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    set_optimizer_state_dict(train_state.loss_module, train_state.optimiser, tensors["optimiser"], options=_TRAINABLE)
    for group, own in zip(train_state.optimiser.param_groups, settings, strict=True):
        group.update(own)  # rates are the recipe's, also where the checkpoint is another run's
    train_state.optimiser.zero_grad(set_to_none=True)
    return state


def _earlier(path: Path) -> Any:
    """`Parts` of a checkpoint that an earlier version pickled; few runs need the reader."""
    from videomolmo.training.earlier import EarlierParts

    return EarlierParts(path / METADATA)


@contextmanager
def _agreed(path: Path, trouble: str, remedy: str) -> Iterator[None]:
    """What goes wrong with a checkpoint on one process is BadInput on all, so that none waits for another."""
    reason = None
    try:
        yield
    except MemoryError:  # says nothing of the checkpoint
        raise
    except BadInput as error:
        reason = str(error)
    except Exception as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        reason = f"{path} {trouble} ({last}); {remedy}"
    told = [one for one in gather_object([reason]) if one]
    if told:
        raise BadInput(told[0])


def trainable_state_dict(train_state: TrainState) -> dict[str, Tensor]:
    """Trainable weights, whole and on the CPU, under the model's names; on the main process, empty on the others."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = _trainable(train_state, get_model_state_dict(train_state.loss_module, options=options))
    return {name.removeprefix("model."): value for name, value in state.items()}


def _tensors(train_state: TrainState) -> dict[str, Any]:
    """Trainable weights and the optimiser's state, under names that do not depend on the engine."""
    loss_module: nn.Module = train_state.loss_module
    return {
        "model": _trainable(train_state, get_model_state_dict(loss_module, options=_TRAINABLE)),
        "optimiser": get_optimizer_state_dict(loss_module, train_state.optimiser, options=_TRAINABLE),
    }


def _trainable(train_state: TrainState, state: dict[str, Any]) -> dict[str, Any]:
    """A state without what frozen layers in few bits keep beside their weights."""
    names = {f"model.{name}" for name, parameter in train_state.model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in state.items() if name in names}


def _flat(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """`_tensors` by one name each; settings of the optimiser are the recipe's and left out."""
    weights = {f"model.{name}": value for name, value in tensors["model"].items()}
    states = tensors["optimiser"]["state"]
    return weights | {
        f"optimiser.state.{name}.{key}": value for name, state in states.items() for key, value in state.items()
    }


def _sealed(values: dict[str, Any]) -> str:
    """The text of state.json, with the hash of itself where "sha256" is: any byte that changes is noticed."""
    text = json.dumps(values | {"sha256": None}, indent=1, allow_nan=False)
    return json.dumps(values | {"sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=1)
