"""The temporal ablation's table: rows of finished cells, intervals over seeds and questions, plots, README block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from videomolmo.errors import BadInput
from videomolmo.tables import read_csv, write_csv

CELL = ("variant", "context", "seed")  # what names a cell
SETTINGS = ("look", "settle", "language", "train_clips", "test_clips", "language_clips")  # equal in all of a table
COLUMNS = (*CELL, "kind", "value", "n", *SETTINGS, "seconds", "commit", "machine", "right")
NAMES = {
    "none": "single frame",
    "addition": "addition",
    "concatenation": "concatenation",
    "cross_attention": "cross-attention to the mean",
    "cross_attention_all": "cross-attention to all l frames",
}
KINDS = {
    "appearance": "appearance: right object",
    "motion": "motion: right object",
    "absent motion": "absent motion: refused",
    "direction": "direction of an object",
}
PUBLISHED = {"none": 69.32, "addition": 69.55, "concatenation": 68.71, "cross_attention": 72.45}  # J&F, Ref-DAVIS17
SHOWN_CONTEXT = 4  # the paper's
_DRAWS = 2000


def bits(right: np.ndarray) -> str:
    """Which questions were answered right, one character each: intervals over questions need every answer."""
    return "".join("1" if one else "0" for one in right)


def load(path: Path) -> pd.DataFrame:
    """The table of finished cells.

    Raises:
        BadInput: no table, or one with other columns.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} is not there, expected the table of the temporal ablation; run it first")
    table = read_csv(path, dtype={"right": str, "commit": str, "machine": str}, na_values=[])
    if tuple(table.columns) != COLUMNS:
        raise BadInput(f"{path} has columns {list(table.columns)}, expected {list(COLUMNS)}; give another file")
    return table


def finished(table: pd.DataFrame, settings: Mapping[str, int]) -> set[tuple[str, int, int]]:
    """Variant, context and seed of all cells that are there.

    Raises:
        BadInput: cells of other settings (see `temporal.Size`), which cannot stand in one table.
    """
    for name in SETTINGS:
        other = set(table[name]) - {settings[name]}
        if other:
            raise BadInput(
                f"the table holds cells with {name} = {sorted(other)}, not {settings[name]}; give a new file"
            )
    return set(_cells(table))


def _cells(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Variant, context and seed of every row."""
    return list(table[list(CELL)].itertuples(index=False, name=None))


def append(path: Path, rows: Sequence[Mapping]) -> None:
    """Add the rows of a cell, so that at any moment the old or the new table is whole.

    Several processes may write into one table: each waits for the other, and of a cell that two have run the rows that
    came first stay.

    Raises:
        BadInput: the table holds cells of other settings.
    """
    from filelock import FileLock

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        if path.exists():
            before = load(path)
            finished(before, rows[0])
            table = pd.concat([before, table]).drop_duplicates([*CELL, "kind"])
        write_csv(table, path)


def answers(table: pd.DataFrame, variant: str, context: int, kind: str) -> np.ndarray:
    """Right or wrong, bool (seeds, questions), seeds in order; empty where no such cell is there.

    Without past frames all variants are the single-frame model, and attention to all of one frame is attention to its
    mean: these cells are run once and stand for both.
    """
    rows = _cell(table, variant, context, kind)["right"]
    return np.array([[letter == "1" for letter in right] for right in rows], bool)


def _cell(table: pd.DataFrame, variant: str, context: int, kind: str) -> pd.DataFrame:
    """Rows of a cell, or of the one that stands for it, by seed."""
    if variant == "none" or context == 0:
        variant, context = "none", 0
    if variant == "cross_attention_all" and context == 1:
        variant = "cross_attention"
    return table.query("variant == @variant and context == @context and kind == @kind").sort_values("seed")


def interval(right: np.ndarray) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval over seeds and questions (few seeds: rather too narrow than too wide).

    Args:
        right: (seeds, questions); bool, or differences of two cells with the same seeds and questions.

    Example:
        >>> [round(end, 3) for end in interval(np.ones((3, 10), bool))]
        [1.0, 1.0, 1.0]
    """
    rng, right = np.random.default_rng(0), right.astype(np.float32)
    seeds, questions = right.shape
    each = right @ _draws_of(questions)  # seeds draws
    means = each[rng.integers(seeds, size=(seeds, _DRAWS)), np.arange(_DRAWS)].mean(0)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(right.mean()), float(low), float(high)


@cache
def _draws_of(questions: int) -> np.ndarray:
    """How much each question weighs in each bootstrap draw, (questions, draws); the same for all cells: paired."""
    rng = np.random.default_rng(1)
    return rng.multinomial(questions, np.full(questions, 1 / questions), _DRAWS).T.astype(np.float32) / questions


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Every variant, context and kind with mean, interval, number of seeds and of questions."""
    rows = []
    for variant in NAMES:
        for context in sorted(set(table["context"]) | {0}):
            for kind in KINDS:
                right = answers(table, variant, context, kind)
                if len(right) and (variant == "none") == (context == 0):
                    mean, low, high = interval(right)
                    facts = {"variant": variant, "context": context, "kind": kind, "value": mean}
                    rows.append(facts | {"low": low, "high": high, "seeds": len(right), "n": right.shape[1]})
    return pd.DataFrame(rows, columns=["variant", "context", "kind", "value", "low", "high", "seeds", "n"])


def difference(
    table: pd.DataFrame, one: tuple[str, int], other: tuple[str, int], kind: str
) -> tuple[float, float, float] | None:
    """How much more the cells `one` (variant, context) get right than `other`, paired by seed and question.

    None where no seed is in both.
    """
    seeds = [_cell(table, *cell, kind)["seed"].to_numpy() for cell in (one, other)]
    both = np.intersect1d(*seeds)
    pair = (answers(table, *cell, kind)[np.isin(own, both)] for cell, own in zip((one, other), seeds, strict=True))
    return interval(np.subtract(*(right.astype(int) for right in pair))) if len(both) else None


def missing(table: pd.DataFrame, cells: Iterable) -> list[str]:
    """Cells (see `temporal.grid`) that the table does not hold, in words."""
    there = set(_cells(table))
    left = [cell for cell in cells if (cell.variant, cell.context, cell.seed) not in there]
    return [f"{cell.variant} l = {cell.context} seed {cell.seed}" for cell in left]


def rows_of(table: pd.DataFrame, cells: Iterable) -> pd.DataFrame:
    """The rows of these cells (see `temporal.grid`); a file may hold more, of earlier runs."""
    wanted = {(cell.variant, cell.context, cell.seed) for cell in cells}
    return table[[cell in wanted for cell in _cells(table)]]
