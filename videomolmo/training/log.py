"""Metrics of a training run, the guard against divergence, and the export of the trained model."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.files import write_json, write_text
from videomolmo.training.checkpoints import trainable_state_dict
from videomolmo.training.model import ADAPTER, Trainable, TrainState, adapter_config, merge
from videomolmo.training.recipe import Recipe
from videomolmo.training.tensor_files import read_whole, set_aside

SPAN = 20  # steps of the recent mean of the loss
MIN_LOSS = 0.1  # a loss below it is as good: what it is multiplied with says nothing
METRICS = "metrics.jsonl"


class Diverged(Exception):
    """The loss or the gradient is not finite, or diverges; what was computed then lies in the run's folder."""


@dataclass
class DivergenceDetector:
    """Recent losses, against which a new one is compared; its numbers go into checkpoints.

    Args:
        limit: how many times the recent mean a loss may be.
        drift: how many times its lowest the recent mean may be: a loss that creeps up drags the mean along.
        mean, seen, lowest: from a checkpoint.
    """

    limit: float
    drift: float = math.inf
    mean: float = 0.0
    seen: int = 0
    lowest: float | None = None

    def is_diverging(self, loss: float) -> bool:
        """Whether a step's loss is not finite or far above what it was; a fair one is remembered."""
        if not math.isfinite(loss) or (self.seen >= SPAN and loss > self.limit * max(self.mean, MIN_LOSS)):
            return True
        mean = self.mean + (loss - self.mean) / min(self.seen + 1, SPAN)
        if self.lowest is not None and mean > self.drift * max(self.lowest, MIN_LOSS):
            return True
        self.mean, self.seen = mean, self.seen + 1
        if self.seen >= SPAN:
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)
        return False

    def state(self) -> dict[str, float | None]:
        return {"mean": self.mean, "seen": self.seen, "lowest": self.lowest}


class Monitor:
    """Metrics of a run as JSON lines, TensorBoard scalars and a progress bar; of the main process only.

    Args:
        folder: of the run.
        main: whether this is the main process.
        start, total: steps done before and in all.
        every: steps between lines.
        progress: whether to show a bar.
    """

    def __init__(self, folder: Path, main: bool, start: int, total: int, every: int, progress: bool) -> None:
        self.path, self.main, self.every, self.total = folder / METRICS, main, every, total
        self._bar = tqdm(initial=start, total=total, unit="step", disable=not (main and progress))
        self._board = None
        if main:
            _cut(self.path, start)
            self._board = _board(folder / "tensorboard", start)
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Show and write the numbers of a finished step (counted from 1)."""
        if not self.main:
            return
        self._bar.update(1)
        self._bar.set_postfix(loss=f"{row['loss']:.4f}", samples_s=f"{row['samples_per_s']:.2f}")
        if step % self.every and step != self.total:
            return
        append_log(self.path, step=step, **{name: _short(value) for name, value in row.items()})
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
            self._board.flush()

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self.main:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()


def append_log(path: Path, **row: object) -> None:
    """One more JSON line of a run's log, stamped with the time."""
    if path.is_symlink():
        raise BadInput(f"{path} is a link, expected a run's own log; remove it")
    with open(path, "a") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **row}) + "\n")


def dump_bad_batch(folder: Path, step: int, process: int, reason: str, passes: list[dict], tensors: dict) -> Path:
    """Write down the samples of a step that went wrong, and what the last pass of it was given.

    Args:
        folder: of the run.
        step: that failed, from 0; the weights before it follow from the last checkpoint, bit for bit.
        process: that writes.
        reason: in words.
        passes: loss and samples of each pass so far.
        tensors: of the last pass.
    """
    place = folder / "offending"
    place.mkdir(exist_ok=True)
    path = place / f"step_{step:08d}_process_{process}.json"
    write_json(path, {"step": step, "reason": reason, "passes": passes})
    save_file(
        {name: value.cpu().contiguous().clone() for name, value in tensors.items()}, path.with_suffix(".safetensors")
    )
    return path


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; one that a kill cut off, or that tells of no step, is left out."""
    path = Path(folder) / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
    return rows


def _cut(path: Path, start: int) -> None:
    """Drop lines of steps that will be done again."""
    rows = read_metrics(path.parent)
    if path.is_file():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= start))


def _board(folder: Path, start: int):
    """A TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) and math.isfinite(value) else value


_MAX_BYTES = 64 << 20  # of a run.json


def export(train_state: TrainState, recipe: Recipe, folder: Path) -> Path:
    """Write the trained model with its tokenizer, adapters merged; `from_pretrained` and `--model` take the folder.

    Adapters are written beside it as well, by themselves, for peft.

    The first weights are read again on the main process's CPU and trainable weights are put over them, so that frozen
    weights keep their bits even where training held them in half precision or in four bits.

    Args:
        train_state: after training; called by all processes.
        recipe: of the run.
        folder: written by the main process.
    """
    state = trainable_state_dict(train_state)
    if train_state.accelerator.is_main_process:
        model, write_rest = train_state.kind.plain(recipe, train_state.folder, train_state.model.config)
        merge(model, state, recipe.learn)
        model.save_pretrained(folder)
        write_rest(folder)
        if "lora" in recipe.learn.names:
            write_adapter(train_state.kind, state, recipe, folder.with_name("adapter"))
        write_json(folder / "recipe.json", asdict(recipe) | _provenance())
    train_state.accelerator.wait_for_everyone()
    return folder


def write_adapter(kind: Trainable, state: Mapping[str, Tensor], recipe: Recipe, folder: Path) -> None:
    """Write the adapters of a trained state for `peft.PeftModel.from_pretrained`, without other parts that learnt.

    Args:
        kind: of the model.
        state: whole tensors under the names of the model with adapters.
        recipe: of the run.
        folder: made where missing.
    """
    config = adapter_config(kind, recipe.learn)
    config.base_model_name_or_path, config.inference_mode = recipe.model.source, True
    config.save_pretrained(str(folder))
    adapters = {name.replace(f".{ADAPTER}.", "."): value for name, value in state.items() if ".lora_" in name}
    tensors = {f"base_model.model.{name}": value.contiguous() for name, value in adapters.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def write_run(
    folder: Path, recipe: Recipe, processes: int, start: int, total: int, epoch: int, damaged: Sequence[str] = ()
) -> None:
    """Add this start of a run to run.json: its recipe, versions, commit and machine.

    Args:
        folder: of the run.
        recipe: as it was given.
        processes: that train together.
        start, total: steps done before, and of the whole run.
        epoch: samples of one epoch.
        damaged: lines on checkpoints that were left out.
    """
    path = folder / "run.json"
    try:
        before = json.loads(read_whole(path, _MAX_BYTES))["starts"] if path.exists() else []
        if not isinstance(before, list):
            raise TypeError("its starts are no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        damaged = [*damaged, f"{path} cannot be read ({error!s:.80}); it is now {set_aside(path).name}"]
        before = []
    new = {"time": round(time.time(), 1), "step": start, "processes": processes} | _provenance()
    new["recipe"] = asdict(recipe)
    new |= {"damaged": list(damaged)} if damaged else {}
    write_json(path, {"total_steps": total, "samples_per_epoch": epoch, "starts": [*before, new]})


def _provenance() -> dict[str, Any]:
    return {"versions": provenance.versions(), "commit": provenance.commit(), "machine": platform.platform()}
