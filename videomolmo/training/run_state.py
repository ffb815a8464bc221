"""What a training run needs to go on after it was killed: an atomic checkpoint, a log, a moving average, a schedule."""

import json
import math
import os
import time
from pathlib import Path

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a model's floating-point state; `decay` warms up with the steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
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


def save_checkpoint(path: Path, **parts: object) -> None:
    """Write `parts` so that at any moment either the old or the new checkpoint is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save(parts, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict | None:
    """The parts of `save_checkpoint`, or None when there is nothing yet."""
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


def save_progress(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage, step: int
) -> None:
    """A checkpoint after `step` steps; see `resume`."""
    parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average.state}
    save_checkpoint(path, step=step, **parts)


def resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage) -> int:
    """Fill all three from `save_progress`'s checkpoint and return the step to go on with; 0 when there is none."""
    saved = load_checkpoint(path)
    if saved is None:
        return 0
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    average.load(saved["average"])
    return saved["step"]


def append_log(path: Path, **row: object) -> None:
    """One more JSON line of a run's log, stamped with the time."""
    with open(path, "a") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **row}) + "\n")


def cosine(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate at `step`: linear up for `warmup` steps, then a cosine down to `floor` of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
