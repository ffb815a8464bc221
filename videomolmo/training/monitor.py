"""What a run tells while it goes: a progress bar, metrics.jsonl, TensorBoard, and a stop when the loss runs away."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm

from videomolmo.training.run_state import append_log
from videomolmo.whole_files import write_json, write_text

SPAN = 20  # steps that the recent mean of the loss looks back
LEAST = 0.1  # a loss below it is as good: what it is multiplied with says nothing
METRICS = "metrics.jsonl"


class Diverged(Exception):
    """The loss or the gradient is not finite, or runs away; what was computed then lies in the run's folder."""


class Watch:
    """Recent losses, to tell whether a new one runs away; its numbers go into checkpoints.

    Args:
        limit: how many times the recent mean a loss may be.
        drift: how many times its lowest the recent mean may be: a loss that creeps up drags the mean along.
        mean, seen, lowest: from a checkpoint.
    """

    def __init__(
        self, limit: float, drift: float = math.inf, mean: float = 0.0, seen: int = 0, lowest: float | None = None
    ) -> None:
        self.limit, self.drift, self.mean, self.seen, self.lowest = limit, drift, mean, seen, lowest

    def runs_away(self, loss: float) -> bool:
        """Whether a step's loss is not finite or far above what it was; a fair one is remembered."""
        if not math.isfinite(loss) or (self.seen >= SPAN and loss > self.limit * max(self.mean, LEAST)):
            return True
        mean = self.mean + (loss - self.mean) / min(self.seen + 1, SPAN)
        if self.lowest is not None and mean > self.drift * max(self.lowest, LEAST):
            return True
        self.mean, self.seen = mean, self.seen + 1
        if self.seen >= SPAN:
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)
        return False

    def state(self) -> dict[str, float | None]:
        return {"mean": self.mean, "seen": self.seen, "lowest": self.lowest}


class Monitor:
    """Writes what the main process tells; does nothing on the others.

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

    def tell(self, step: int, row: Mapping[str, Any]) -> None:
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


def keep_offending(folder: Path, step: int, process: int, reason: str, passes: list[dict], tensors: dict) -> Path:
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
