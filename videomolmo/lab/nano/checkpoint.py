"""Checkpoints of the nano recipe's stages, and the loop that writes them.

An atomic file with its own hash, a moving average, resized positions.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_file
from videomolmo.model import VideoMolmoConfig
from videomolmo.training.log import append_log
from videomolmo.training.tensor_files import check_fit, first_whole, read_whole, set_aside
from videomolmo.weights.pickled import read_torch

State = dict[str, Tensor]
Log = dict[str, float]
CHECKPOINT, CHECKPOINT_EVERY, LOG_EVERY = "checkpoint.safetensors", 100, 25  # steps
EARLIER = ".pt"  # how earlier versions named these files, which they pickled
_NO_HASH = "0" * 64
_MAX_BYTES = 8 << 30
PLACES = "model.vision.positional_embedding"  # the class token's first, then a square of patches
SIDES = ("model.connector.positions.row", "model.connector.positions.column")


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
    with atomic_file(path) as unfinished:
        unfinished.write_bytes(data)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The parts of `save_checkpoint`, or None when there is nothing yet. Files of earlier versions are read too.

    Raises:
        BadInput: the file is not what was written.
    """
    if not os.path.lexists(path):
        return None
    try:
        data = read_whole(path, _MAX_BYTES)
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
        check_fit(_shapes(weights), weights if own is None else own)
    except ValueError as error:
        raise BadInput(f"{path} does not fit this model ({error}); train from the first stage on") from error
    return weights


def found(path: Path) -> Path | None:
    """Where a whole checkpoint lies that is meant for `path`: there, or as earlier versions named it, or nowhere.

    A damaged one is renamed, not deleted, and told in log.jsonl beside it.
    """
    candidates = (path, path.with_suffix(EARLIER))
    place, damaged = first_whole(candidates, lambda one: one if load_checkpoint(one) is not None else None)
    for one, reason in damaged:
        told = f"{reason}; it is now {set_aside(one).name}"
        append_log(path.with_name("log.jsonl"), damaged=told)
        tqdm.write(f"videomolmo: {told}", file=sys.stderr)
    return place


def save_progress(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage, step: int
) -> None:
    """A checkpoint after `step` steps; see `resume`. Settings of the optimiser are the recipe's and left out."""
    states = optimiser.state_dict()["state"]
    flat = {f"{number}.{key}": value for number, state in states.items() for key, value in state.items()}
    save_checkpoint(path, step=step, model=model.state_dict(), optimiser=flat, average=average.state)


def resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage) -> int:
    """Fill all three from `save_progress`'s checkpoint and return the step to resume at; 0 when there is none.

    Raises:
        BadInput: the checkpoint is of another model.
    """
    place = found(path)
    if place is None:
        return 0
    saved = load_checkpoint(place)
    try:
        step, states = int(saved["step"]), _states(saved["optimiser"], optimiser)
        check_fit(_shapes(saved["average"]), average.state)
        check_fit(_shapes(saved["model"]), model.state_dict())
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{place} does not fit this model ({error!s:.160}); give a new folder") from error
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    average.load(saved["average"])
    return step


def run_steps(
    batches: Iterable[tuple[int, Any]], act: Callable[[int, Any], Log], stage: Any, folder: Path,
    state: tuple[nn.Module, torch.optim.Optimizer, MovingAverage],
) -> None:  # fmt: skip
    """Act on each numbered batch of a stage, with a bar, log.jsonl, checkpoints, and averaged weights at the end.

    Args:
        batches: numbers of steps, from that on to resume at, with what is trained on.
        act: does a step and returns what to log.
        stage: has a name and its number of steps.
        folder: gets the files.
        state: see `save_progress`.
    """
    recent: list[Log] = []
    with tqdm(total=stage.steps, desc=stage.name, mininterval=5) as bar:
        for step, batch in batches:
            recent.append(act(step, batch))
            bar.update(step + 1 - bar.n)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
                mean = pd.DataFrame(recent).mean().round(4).to_dict()
                append_log(folder / "log.jsonl", stage=stage.name, step=step + 1, **mean)
                bar.set_postfix(mean)
                recent = []
            if (step + 1) % CHECKPOINT_EVERY == 0:
                save_progress(folder / CHECKPOINT, *state, step + 1)
    save_checkpoint(folder / "weights.safetensors", state=state[2].state)


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


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def resize_config(config: VideoMolmoConfig, size_px: int) -> VideoMolmoConfig:
    """The same configuration for frames of size_px × size_px pixels, with as many more patches and windows."""
    return replace(config, image=replace(config.image, size_px=size_px))


def resize_position_embeddings(state: State, config: VideoMolmoConfig) -> State:
    """Weights of a smaller model, as trained, for the frames of `config`; patches keep their size in pixels.

    Position embeddings are interpolated between their neighbours: an object at the same share of the frame is found
    at the same place, and looks as a larger one did before. All other tensors are those of `state`.

    Args:
        state: weights of model and probe heads, as a stage of training leaves them.
        config: the larger model.
    """
    places = state[PLACES]
    side = round((len(places) - 1) ** 0.5)
    square = places[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    size = (config.image.grid, config.image.grid)
    larger = functional.interpolate(square, size=size, mode="bicubic", align_corners=False)[0]
    new = {PLACES: torch.cat([places[:1], larger.flatten(1).T])}
    for name in SIDES:
        line = functional.interpolate(state[name].T[None], size=config.image.window_grid, mode="linear")
        new[name] = line[0].T.contiguous()
    return state | new
