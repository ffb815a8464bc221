"""The table of the fusion ablation: means over clips with 95 % bootstrap intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from videomolmo.ablation.fusion_scores import OURS, PAPER, Setting, name_of
from videomolmo.ablation.hard_clips import KINDS
from videomolmo.errors import BadInput
from videomolmo.tables import read_csv, write_csv

ALL = "all"
METRICS = ("J&F", "J", "F")
COLUMNS = ("rule", "tau", "every", "points", "kind", "metric", "value", "low", "high", "difference", "difference_low",
           "difference_high", "ours", "ours_low", "ours_high", "n", "seeds", "commit", "machine")  # fmt: skip
DRAWS = 5000
Scores = Mapping[tuple[str, int], Float[np.ndarray, "clips settings 2"]]


def interval(values: Float[np.ndarray, " clips"]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over clips (percentiles of 5000 draws, always the same draws).

    Example:
        >>> interval(np.array([1.0, 1.0, 1.0]))
        (1.0, 1.0)
    """
    low, high = np.quantile(_draws(len(values)) @ values, [0.025, 0.975])
    return float(low), float(high)


@cache
def _draws(count: int) -> Float[np.ndarray, "draws clips"]:
    """How much every clip weighs in each draw."""
    drawn = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    return np.stack([(drawn == n).mean(axis=1) for n in range(count)], axis=1)


def make_table(
    scores: Scores, chosen: Sequence[Setting], seeds: Sequence[int], facts: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each setting, distance of key frames, kind of clicks and metric; J&F also for each kind of clip.

    Args:
        scores: by (points, every): J and F of every clip and setting, see `clip_scores`.
        chosen: the settings, the paper's and ours among them.
        seeds: of the clips, in order, without gaps.
        facts: `commit` and `machine`.

    Returns:
        A table with `COLUMNS`; `difference` is this rule minus the paper's at τ = 0.7 on the same clips, `ours` is
        our rule minus this one.
    """
    kinds = np.array([KINDS[seed % len(KINDS)] for seed in seeds])
    groups = {ALL: np.ones(len(seeds), bool)} | {kind: kinds == kind for kind in KINDS if (kinds == kind).any()}
    about = {"seeds": f"{seeds[0]}-{seeds[-1]}", **facts}
    rows = []
    for (points, every), both in scores.items():
        values = {"J&F": both.mean(axis=2), "J": both[..., 0], "F": both[..., 1]}
        for kind, metric in [(ALL, metric) for metric in METRICS] + [(kind, "J&F") for kind in groups if kind != ALL]:
            own = values[metric][groups[kind]]
            for n, setting in enumerate(chosen):
                cell = {"rule": setting.rule, "tau": setting.tau, "every": every, "points": points}
                paper, ours = own[:, chosen.index(PAPER)], own[:, chosen.index(OURS)]
                numbers = _numbers(own[:, n], own[:, n] - paper, ours - own[:, n])
                rows.append(cell | {"kind": kind, "metric": metric} | numbers | about)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _numbers(values: np.ndarray, differences: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    numbers: dict[str, float] = {"n": len(values)}
    for name, before, data in (("value", "", values), ("difference", "difference_", differences),
                               ("ours", "ours_", ours)):  # fmt: skip
        low, high = interval(data)
        numbers |= {name: float(data.mean()), f"{before}low": low, f"{before}high": high}
    return numbers


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """The table as CSV, whole or not at all."""
    return write_csv(table, path, float_format="%.5g")


def read_table(path: Path) -> pd.DataFrame:
    """A table that `write_table` wrote.

    Raises:
        BadInput: there is none, or it has other columns.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} is not there; make it with `python -m videomolmo.ablation.fusion_grid`")
    table = read_csv(path)
    if tuple(table.columns) != COLUMNS:
        raise BadInput(f"{path} has columns {list(table.columns)}, expected {list(COLUMNS)}; give another file")
    return table


def named(table: pd.DataFrame, metric: str = "J&F") -> pd.DataFrame:
    """The rows of one metric, with a column `name`: the rule and its τ in words."""
    rows = table[table["metric"] == metric]
    pairs = zip(rows["rule"], rows["tau"], strict=True)
    return rows.assign(name=[name_of(Setting(rule, None if pd.isna(tau) else tau)) for rule, tau in pairs])


def cell(table: pd.DataFrame, rule: str, tau: float | None, every: int, points: str, kind: str = ALL,
         metric: str = "J&F") -> pd.Series:  # fmt: skip
    """One row of the table.

    Raises:
        BadInput: it has no such row.
    """
    same_tau = table["tau"].isna() if tau is None else np.isclose(table["tau"], tau)
    rows = table[(table["rule"] == rule) & same_tau & (table["every"] == every) & (table["points"] == points)
                 & (table["kind"] == kind) & (table["metric"] == metric)]  # fmt: skip
    if len(rows) != 1:
        raise BadInput(f"{len(rows)} rows for {rule}, τ = {tau}, k = {every}, {points}, {kind}, {metric}; expected 1")
    return rows.iloc[0]
