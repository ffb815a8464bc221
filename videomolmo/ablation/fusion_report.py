"""The fusion ablation as the README's block, beside the published figures, and as plots."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from videomolmo.ablation.files import save_plots
from videomolmo.ablation.fusion_scores import ORACLE, OURS, PAPER, TAUS, Setting, name_of
from videomolmo.ablation.fusion_table import ALL, cell, read_table
from videomolmo.ablation.hard_clips import POINTS
from videomolmo.fusion import RULES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        " full model.",
        "",
        *_rules(table),
        "",
        *_rivals(table),
        "",
        *_taus(table),
        "",
        *_everies(table),
    ]
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
    return _lines(["rule", "*quoted*, Ref-DAVIS17", *_heads()], rows)


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
    return _lines([f"`{OURS.rule}` minus", *_heads()], rows)


def _taus(table: pd.DataFrame) -> list[str]:
    """Rows of `iou` by τ."""
    rows = [["*quoted*, Ref-DAVIS17", *(f"*{QUOTED_TAU[tau]:.1f}*" for tau in TAUS)]]
    for (points, every), head in zip(SHOWN, _heads(), strict=True):
        found = [_row(table, Setting("iou", tau), points, every)["value"] for tau in TAUS]
        rows.append([head, *(f"{100 * value:.1f}" for value in found)])
    return _lines(["`iou`, τ =", *(f"{tau:g}" for tau in TAUS)], rows)


def _everies(table: pd.DataFrame) -> list[str]:
    """The paper's rule, ours and the oracle by k."""
    shown = sorted(set(table["every"]))
    rows = [["*quoted*, Refer-YouTube-VOS", *(f"*{QUOTED_EVERY[k]:.1f}*" if k in QUOTED_EVERY else "–" for k in shown)]]
    for points in POINTS:
        for setting in (PAPER, OURS, Setting(ORACLE)):
            found = [_row(table, setting, points, every)["value"] for every in shown]
            rows.append([f"{name_of(setting)}, {points} points", *(f"{100 * value:.1f}" for value in found)])
    return _lines(["k =", *map(str, shown)], rows)


def _lines(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


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
