"""The fusion ablation's table, its intervals, plots and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.io.tables import read_csv, write_csv
from videomolmo.lab.fusion_ablation import EVERY, ORACLE, OURS, PAPER, TAUS, Setting, clip_scores, name_of
from videomolmo.lab.hard_clips import KINDS, POINTS
from videomolmo.lab.tables import markdown_table, save_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    scores: Scores, chosen: Sequence[Setting], seeds: Sequence[int], metadata: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each setting, distance of key frames, kind of clicks and metric; J&F also for each kind of clip.

    Args:
        scores: by (points, every): J and F of every clip and setting, see `clip_scores`.
        chosen: the settings, the paper's and ours among them.
        seeds: of the clips, in order, without gaps.
        metadata: `commit` and `machine`.

    Returns:
        A table with `COLUMNS`; `difference` is this rule minus the paper's at τ = 0.7 on the same clips, `ours` is
        our rule minus this one.
    """
    kinds = np.array([KINDS[seed % len(KINDS)] for seed in seeds])
    groups = {ALL: np.ones(len(seeds), bool)} | {kind: kinds == kind for kind in KINDS if (kinds == kind).any()}
    about = {"seeds": f"{seeds[0]}-{seeds[-1]}", **metadata}
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
    """Write the table as CSV, atomically."""
    return write_csv(table, path, float_format="%.5g")


def read_table(path: Path) -> pd.DataFrame:
    """A table that `write_table` wrote, or results.csv of a sweep of notebook 05.

    Raises:
        BadInput: there is none, or it lacks columns.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} is not there; make it with `videomolmo sweep`, see data/sweeps/fusion.toml")
    table = read_csv(path)
    if not set(COLUMNS) <= set(table.columns):
        raise BadInput(f"{path} has columns {list(table.columns)}, expected {list(COLUMNS)}; give another file")
    return table[list(COLUMNS)]


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of J&F, with a column `name`: the rule and its τ in words."""
    rows = table[table["metric"] == "J&F"]
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


# Quoted from the paper, J&F in percent: strategies and τ on Ref-DAVIS17, k on Refer-YouTube-VOS.
QUOTED_RULES = {PAPER: 72.45, Setting("iou", 0.3): 72.28, Setting("larger"): 71.65, Setting("left"): 70.34,
                Setting("right"): 69.37, Setting("smaller"): 65.64, Setting("intersection"): 61.89}  # fmt: skip
QUOTED_TAU = {0.0: 70.34, 0.3: 72.28, 0.5: 72.08, 0.7: 72.45, 0.9: 72.05}
QUOTED_EVERY = {3: 66.03, 5: 67.33, 10: 67.54, 15: 68.11, 20: 68.14, 30: 67.56}
RIVALS = (Setting("iou", 0.3), Setting("nearest"), Setting("smaller"))  # the best of the others
SETTINGS = (*(Setting(rule, 0.7 if rule == "iou" else None) for rule in RULES), RIVALS[0], Setting(ORACLE))
NOTES = {PAPER: "the paper's", OURS: "ours", Setting(ORACLE): "better side of each frame, by the truth"}
SHOWN = tuple((points, every) for points in POINTS for every in (5, 10))
# Okabe and Ito's colours, which everybody can tell apart; the marker says the same.
LOOKS = {PAPER: ("#000000", "s"), RIVALS[0]: ("#E69F00", "D"), OURS: ("#D55E00", "o"), RIVALS[1]: ("#0072B2", "^"),
         RIVALS[2]: ("#009E73", "v"), Setting("left"): ("#CC79A7", "<"), Setting(ORACLE): ("#999999", "*")}  # fmt: skip
BY_EVERY = {5: (-0.15, "#0072B2", "o"), 10: (0.15, "#D55E00", "s")}


def markdown(table: pd.DataFrame) -> str:
    """The README's block: rules beside the paper's figures, our rule against its rivals, then τ and k."""
    table = _headline(table)
    first = table.iloc[0]
    lines = [
        f"J&F in percent over the frames between key frames, {first['n']} held-out generated clips"
        f" (seeds {first['seeds']}), nano SAM 2; in brackets the 95 % interval of the difference to the paper's rule on"
        " the same clips, bold where it lies above zero. *Quoted* figures are the paper's, from real videos and the"
        " full model."
    ]
    for part in (_rules, _rivals, _taus, _everies):
        lines += ["", *part(table)]
    return "\n".join(lines) + "\n"


def _headline(table: pd.DataFrame) -> pd.DataFrame:
    """J&F over clips of all kinds."""
    return table[(table["metric"] == "J&F") & (table["kind"] == ALL)]


def _row(table: pd.DataFrame, setting: Setting, points: str, every: int) -> pd.Series:
    return cell(table, *setting, every, points)


def _mean(table: pd.DataFrame, setting: Setting) -> float:
    """Mean over the shown columns, to sort by."""
    return sum(_row(table, setting, *column)["value"] for column in SHOWN) / len(SHOWN)


def _heads() -> list[str]:
    return [f"{points} points, k = {every}" for points, every in SHOWN]


def _rules(table: pd.DataFrame) -> list[str]:
    rows = []
    for setting in sorted(SETTINGS, key=lambda one: _mean(table, one), reverse=True):
        name = f"`{setting.rule}`" + name_of(setting).removeprefix(setting.rule)
        name += f" ({NOTES[setting]})" if setting in NOTES else ""
        quoted = f"*{QUOTED_RULES[setting]:.1f}*" if setting in QUOTED_RULES else "–"
        cells = [_value(_row(table, setting, *column), setting == PAPER) for column in SHOWN]
        rows.append([name, quoted, *cells])
    return markdown_table(["rule", "*quoted*, Ref-DAVIS17", *_heads()], rows)


def _value(row: pd.Series, plain: bool) -> str:
    """The value with the interval of its difference to the paper's rule.

    Example:
        >>> _value(pd.Series({"value": 0.7, "difference_low": 0.01, "difference_high": 0.02}), plain=False)
        '**70.0** (+1.0 … +2.0)'
    """
    value = f"{100 * row['value']:.1f}"
    if plain:
        return value
    interval = f"({100 * row['difference_low']:+.1f} … {100 * row['difference_high']:+.1f})"
    return f"{f'**{value}**' if row['difference_low'] > 0 else value} {interval}"


def _rivals(table: pd.DataFrame) -> list[str]:
    """Our rule minus the paper's and minus the best of the others."""
    rows = []
    for setting in (PAPER, *RIVALS):
        found = [_row(table, setting, *column) for column in SHOWN]
        cells = [f"{100 * r['ours']:+.1f} ({100 * r['ours_low']:+.1f} … {100 * r['ours_high']:+.1f})" for r in found]
        rows.append([name_of(setting), *cells])
    return markdown_table([f"`{OURS.rule}` minus", *_heads()], rows)


def _taus(table: pd.DataFrame) -> list[str]:
    """Rows of `iou` by τ."""
    rows = [["*quoted*, Ref-DAVIS17", *(f"*{QUOTED_TAU[tau]:.1f}*" for tau in TAUS)]]
    for (points, every), head in zip(SHOWN, _heads(), strict=True):
        found = [_row(table, Setting("iou", tau), points, every)["value"] for tau in TAUS]
        rows.append([head, *(f"{100 * value:.1f}" for value in found)])
    return markdown_table(["`iou`, τ =", *(f"{tau:g}" for tau in TAUS)], rows)


def _everies(table: pd.DataFrame) -> list[str]:
    """The paper's rule, ours and the oracle by k."""
    shown = sorted(set(table["every"]))
    rows = [["*quoted*, Refer-YouTube-VOS", *(f"*{QUOTED_EVERY[k]:.1f}*" if k in QUOTED_EVERY else "–" for k in shown)]]
    for points in POINTS:
        for setting in (PAPER, OURS, Setting(ORACLE)):
            found = [_row(table, setting, points, every)["value"] for every in shown]
            rows.append([f"{name_of(setting)}, {points} points", *(f"{100 * value:.1f}" for value in found)])
    return markdown_table(["k =", *map(str, shown)], rows)


def draw(path: Path) -> list[Path]:
    """Two plots beside a table that `write_table` wrote, each as PNG and SVG; returns their paths.

    One shows the differences to the paper's rule, one J&F by τ and by k.
    """
    table = _headline(read_table(path))
    return save_plots({"rules": _draw_rules(table), "tau_and_k": _draw_tau_and_every(table)}, path, path.parent)


def _draw_rules(table: pd.DataFrame) -> "Figure":
    """Differences with their intervals, one panel for each kind of clicks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    names = sorted((one for one in SETTINGS if one != PAPER), key=lambda one: _mean(table, one))
    for axes, points in zip(figure.subplots(1, len(POINTS), sharey=True), POINTS, strict=True):
        for every, (shift, colour, marker) in BY_EVERY.items():
            rows = pd.DataFrame([_row(table, setting, points, every) for setting in names])
            middle = rows["difference"]
            error = [100 * (middle - rows["difference_low"]), 100 * (rows["difference_high"] - middle)]
            places = [n + shift for n in range(len(names))]
            look = {"fmt": marker, "color": colour, "markersize": 4, "capsize": 2, "label": f"k = {every}"}
            axes.errorbar(100 * middle, places, xerr=error, **look)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), [name_of(setting) for setting in names])
        axes.set_title(f"{points} points")
        axes.set_xlabel("J&F minus that of the paper's rule, in points")
        axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def _draw_tau_and_every(table: pd.DataFrame) -> "Figure":
    """Left: rule `iou` by τ. Right: some rules by k."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for points, every in SHOWN:
        rows = [_row(table, Setting("iou", tau), points, every) for tau in TAUS]
        look = (*BY_EVERY[every][1:], "-" if points == "clean" else "--")
        _curve(left, TAUS, rows, look, f"k = {every}, {points} points")
    left.set_xlabel("τ of rule iou")
    shown = sorted(set(table["every"]))
    for setting, look in LOOKS.items():
        rows = [_row(table, setting, "noisy", every) for every in shown]
        _curve(right, shown, rows, (*look, "-"), name_of(setting))
    right.set_xlabel("k, frames between key frames (noisy points)")
    right.set_xticks(shown)
    for axes in (left, right):
        axes.set_ylabel("J&F in percent")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _curve(axes: "Axes", x: tuple | list, rows: list[pd.Series], look: tuple[str, str, str], label: str) -> None:
    colour, marker, style = look
    axes.plot(x, [100 * row["value"] for row in rows], style, color=colour, marker=marker, markersize=5, label=label)


HELD_OUT = 10_000_000  # first seed; rules and their constants are chosen on clips of seeds from 0


def grid_scores(
    seeds: Sequence[int],
    chosen: Sequence[Setting],
    folder: Path,
    *,
    every: Sequence[int] = EVERY,
    points: Sequence[str] = POINTS,
    prepare: Sequence[int] = EVERY,
    masks: str = "nano",
) -> dict[tuple[str, int], Float[np.ndarray, "clips settings 2"]]:
    """J and F of every clip and setting, by kind of clicks and distance of key frames.

    Args:
        seeds: of the clips.
        chosen: rules with their τ, see `settings`.
        folder: of the cache.
        every: frames between key frames, each on its own.
        points: kinds of clicks.
        prepare: see `clip_scores`.
        masks: name of a SAM 2.

    Raises:
        BadInput: no clip, a negative seed, or a distance between key frames that leaves no frame between them.
    """
    if not seeds or min(seeds) < 0 or any(not 2 <= k <= 30 for k in every):
        asked = f"{len(seeds)} clips from seed {seeds[0] if seeds else '–'} with k = {list(every)}"
        raise BadInput(f"{asked}: expected at least one clip, seeds from 0, and k from 2 to 30")
    cells = [(kind, k) for kind in points for k in every]
    scores = {cell: np.empty((len(seeds), len(chosen), 2)) for cell in cells}
    order = np.random.default_rng(list(every)).permutation(len(seeds))  # runs side by side begin with other clips
    for n in tqdm(order.tolist(), desc="fusion grid", unit="clip"):
        for kind, k in cells:
            scores[kind, k][n] = clip_scores(seeds[n], kind, k, chosen, folder, prepare=prepare, masks=masks)
    return scores
