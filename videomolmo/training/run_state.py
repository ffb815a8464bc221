"""What a training run needs to go on after it was killed: an atomic checkpoint, a log, a moving average, a schedule."""

import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm import tqdm

from videomolmo.errors import BadInput
from videomolmo.training.parts import read_whole
from videomolmo.weights.pickled import read_torch

EARLIER = ".pt"  # how earlier versions named these files, which they pickled
_NO_HASH = "0" * 64
_MOST = 8 << 30  # bytes


class MovingAverage:
    """Exponential moving average of a model's floating-point state; `decay` warms up with the steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a saved average, to where the model's own is."""
        for name, value in state.items():
            self.state[name].copy_(value)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def save_checkpoint(path: Path, **parts: int | Mapping[str, Tensor]) -> None:
    """Write `parts`, numbers and groups of tensors, so that at any moment either the old or the new file is whole.

    The file is a safetensors file. Its header says what is what, and holds the hash of the whole file, taken with
    noughts in the hash's own place.
    """
    told = {name: value if isinstance(value, int) else None for name, value in parts.items()}
    tensors = {
        f"{part}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part, values in parts.items() if told[part] is None
        for name, value in values.items()
    }  # fmt: skip
    data = save(tensors, {"parts": json.dumps(told), "sha256": _NO_HASH})
    data = data.replace(_NO_HASH.encode(), hashlib.sha256(data).hexdigest().encode(), 1)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The parts of `save_checkpoint`, or None when there is nothing yet. Files of earlier versions are read too.

    Raises:
        BadInput: the file is not what was written.
    """
    if not os.path.lexists(path):
        return None
    try:
        data = read_whole(path, _MOST)
        parts = _earlier(data) if data.startswith(b"PK") else _parts(data)
        if not all(map(_is_part, parts.values())):
            raise ValueError(f"it holds {sorted(parts)!r:.80}, expected numbers and tensors")
        return parts
    except Exception as error:  # safetensors has an error class of its own
        raise BadInput(f"{path} is no whole checkpoint ({error!s:.160}); move it away, and it is made again") from error


def _parts(data: bytes) -> dict[str, Any]:
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if hashlib.sha256(data.replace(about["sha256"].encode(), _NO_HASH.encode(), 1)).hexdigest() != about["sha256"]:
        raise ValueError("it has changed since it was written")
    parts = {name: {} if value is None else value for name, value in json.loads(about["parts"]).items()}
    for name, value in load(data).items():
        part, _, own = name.partition("/")
        parts[part][own] = value
    return parts


def _earlier(data: bytes) -> dict[str, Any]:
    """What earlier versions wrote with `torch.save`, in today's form."""
    parts = read_torch(io.BytesIO(data))
    if "optimiser" in parts:
        states = parts["optimiser"]["state"]
        parts["optimiser"] = {f"{at}.{key}": value for at, state in states.items() for key, value in state.items()}
    return parts


def _is_part(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    return type(value) is int and value >= 0


def load_weights(path: Path, part: str = "state", own: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A group of tensors in a checkpoint; with `own`, of the same names and shapes as there.

    Raises:
        BadInput: there is no such checkpoint, or it holds others.
    """
    weights = (load_checkpoint(path) or {}).get(part)
    if not isinstance(weights, dict):
        raise BadInput(f"{path} holds no {part!r}, expected weights of the stage before; train from the first stage on")
    try:
        _check_shapes(weights, weights if own is None else own)
    except ValueError as error:
        raise BadInput(f"{path} does not fit this model ({error}); train from the first stage on") from error
    return weights


def found(path: Path) -> Path | None:
    """Where a whole checkpoint lies that is meant for `path`: there, or as earlier versions named it, or nowhere.

    A damaged one is renamed, not deleted, and told in log.jsonl beside it.
    """
    for one in (path, path.with_suffix(EARLIER)):
        try:
            if load_checkpoint(one) is not None:
                return one
        except BadInput as error:
            told = f"{error}; it is now {set_aside(one).name}"
            append_log(path.with_name("log.jsonl"), damaged=told)
            tqdm.write(f"videomolmo: {told}", file=sys.stderr)
    return None


def set_aside(path: Path) -> Path:
    """Rename what cannot be used, to the first such name that is free; returns where it is."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"aside_{number}_{path.name}")):
        number += 1
    return path.rename(aside)


def save_progress(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage, step: int
) -> None:
    """A checkpoint after `step` steps; see `resume`. Settings of the optimiser are the recipe's and left out."""
    states = optimiser.state_dict()["state"]
    flat = {f"{number}.{key}": value for number, state in states.items() for key, value in state.items()}
    save_checkpoint(path, step=step, model=model.state_dict(), optimiser=flat, average=average.state)


def resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage) -> int:
    """Fill all three from `save_progress`'s checkpoint and return the step to go on with; 0 when there is none.

    Raises:
        BadInput: the checkpoint is of another model.
    """
    place = found(path)
    if place is None:
        return 0
    saved = load_checkpoint(place)
    try:
        step, states = int(saved["step"]), _states(saved["optimiser"], optimiser)
        _check_shapes(saved["average"], average.state)
        _check_shapes(saved["model"], model.state_dict())
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{place} does not fit this model ({error!s:.160}); give a new folder") from error
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    average.load(saved["average"])
    return step


def _states(flat: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state by number of the parameter; each tensor is a number or has the parameter's shape."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        number, _, key = name.partition(".")
        if value.dim() and value.shape != parameters[int(number)].shape:
            raise ValueError(f"optimiser state {name} has shape {tuple(value.shape)}")
        states.setdefault(int(number), {})[key] = value
    return states


def _check_shapes(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    odd = sorted(saved.keys() ^ own.keys()) or [name for name in own if saved[name].shape != own[name].shape]
    if odd:
        raise ValueError(f"{odd[0]} is missing or has another shape")


def append_log(path: Path, **row: object) -> None:
    """One more JSON line of a run's log, stamped with the time."""
    if path.is_symlink():
        raise BadInput(f"{path} is a link, expected a run's own log; remove it")
    with open(path, "a") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **row}) + "\n")


def cosine(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate at `step`: linear up for `warmup` steps, then a cosine down to `floor` of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
