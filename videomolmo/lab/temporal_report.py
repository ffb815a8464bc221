"""The temporal ablation's table, its intervals, plots and page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from videomolmo.errors import BadInput
from videomolmo.io.tables import read_csv
from videomolmo.lab.tables import markdown_table, save_plots

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
    """The table of finished cells: the shipped one, or results.csv of a sweep of notebook 04.

    Raises:
        BadInput: no table, one without a column, or with cells of different budgets.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} is not there, expected results.csv of a sweep of the temporal ablation; run it first")
    table = read_csv(path, dtype={"right": str, "commit": str, "machine": str}, na_values=[])
    if not set(COLUMNS) <= set(table.columns):
        raise BadInput(f"{path} has columns {list(table.columns)}, expected {list(COLUMNS)}; give another file")
    for name in SETTINGS:
        if table[name].nunique() > 1:
            found = sorted(set(table[name]))
            raise BadInput(f"{path} holds cells with {name} = {found}, expected one budget; give a file for each")
    return table[list(COLUMNS)].drop_duplicates([*CELL, "kind"], ignore_index=True)


def _cells(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Variant, context and seed of every row."""
    return list(table[list(CELL)].itertuples(index=False, name=None))


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
                    row = {"variant": variant, "context": context, "kind": kind, "value": mean}
                    rows.append(row | {"low": low, "high": high, "seeds": len(right), "n": right.shape[1]})
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
    """Cells (see `temporal_ablation.grid`) that the table does not hold, in words."""
    there = set(_cells(table))
    left = [cell for cell in cells if (cell.variant, cell.context, cell.seed) not in there]
    return [f"{cell.variant} l = {cell.context} seed {cell.seed}" for cell in left]


class Claim(NamedTuple):
    """A published claim, or a question of ours (`expected` None): how far cell `one` lies above `other` in `kind`."""

    text: str
    one: tuple[str, int]
    other: tuple[str, int]
    kind: str
    expected: int | None


CLAIMS = (
    Claim("cross-attention beats addition (*72.45* to *69.55*)", ("cross_attention", 4), ("addition", 4), "motion", 1),
    Claim("addition beats a single frame, hardly (*69.55* to *69.32*)", ("addition", 4), ("none", 0), "motion", 1),
    Claim("concatenation lies below a single frame (*68.71*)", ("concatenation", 4), ("none", 0), "motion", -1),
    Claim("l = 4 beats l = 1", ("cross_attention", 4), ("cross_attention", 1), "motion", 1),
    Claim("l = 5 is slightly below l = 4", ("cross_attention", 5), ("cross_attention", 4), "motion", -1),
    Claim("ours: all l frames against their mean", ("cross_attention_all", 4), ("cross_attention", 4), "motion", None),
    Claim("ours: what it costs on appearance", ("cross_attention", 4), ("none", 0), "appearance", None),
)
_COLOURS = {  # Okabe and Ito, told apart by everybody; markers tell the same
    "none": ("#7f7f7f", "X"),
    "addition": ("#E69F00", "s"),
    "concatenation": ("#009E73", "D"),
    "cross_attention": ("#0072B2", "o"),
    "cross_attention_all": ("#CC79A7", "^"),
}
_PAST = tuple(name for name in NAMES if name != "none")


def markdown(table: pd.DataFrame, unfinished: list[str], written: pd.DataFrame | None = None) -> str:
    """The README's block.

    Args:
        table: of finished cells.
        unfinished: cells that are not there, see `missing`.
        written: cells that went on to language, where there are any.
    """
    means = summary(table).set_index(["variant", "context", "kind"])
    lines = [*_variants(means), "", *_contexts(means), "", *findings(table)]
    if written is not None:
        lines += ["", *_in_language(written)]
    if unfinished:
        lines += ["", f"Not run yet: {len(unfinished)} cells ({'; '.join(unfinished[:4])} …)."]
    return "\n".join(lines) + "\n"


def _table_cell(means: pd.DataFrame, key: tuple[str, int, str]) -> str:
    if key not in means.index:
        return "–"
    row = means.loc[key]
    return f"{row['value']:.2f} ({row['low']:.2f} … {row['high']:.2f})"


def _variants(means: pd.DataFrame) -> list[str]:
    heads = [f"how the past enters, l = {SHOWN_CONTEXT}", *KINDS.values(), "*quoted* J&F, Ref-DAVIS17"]
    quoted = [f"*{PUBLISHED[variant]:.2f}*" if variant in PUBLISHED else "–" for variant in NAMES]
    rows = [[*row, said] for row, said in zip(_rows(means, KINDS), quoted, strict=True)]
    return markdown_table(heads, rows)


def _rows(means: pd.DataFrame, kinds: Iterable[str]) -> list[list[str]]:
    """A row for each variant: its name, and what it has right of each kind."""
    contexts = {variant: 0 if variant == "none" else SHOWN_CONTEXT for variant in NAMES}
    return [
        [name, *(_table_cell(means, (variant, contexts[variant], kind)) for kind in kinds)]
        for variant, name in NAMES.items()
    ]


def _in_language(written: pd.DataFrame) -> list[str]:
    means = summary(written).set_index(["variant", "context", "kind"])
    kinds = {kind: words for kind, words in KINDS.items() if kind != "direction"}
    steps, seeds = int(written[["look", "settle", "language"]].sum(axis=1).max()), int(means["seeds"].max())
    return [
        f"Written in language, {steps} steps, {seeds} seeds, from the shipped model without its temporal module (its "
        "language was taught with cross-attention to the mean, which favours that variant):",
        "",
        *markdown_table([f"written, l = {SHOWN_CONTEXT}", *kinds.values()], _rows(means, kinds)),
    ]


def _contexts(means: pd.DataFrame) -> list[str]:
    contexts = sorted(set(means.index.get_level_values("context")))
    rows = []
    for variant in _PAST:
        shown = [("none" if context == 0 else variant, context, "motion") for context in contexts]
        values = [f"{means.loc[key, 'value']:.2f}" if key in means.index else "–" for key in shown]
        rows.append([NAMES[variant], *values])
    return markdown_table(["motion: right object, l =", *map(str, contexts)], rows)


def findings(table: pd.DataFrame) -> list[str]:
    """Every claim with our difference, paired by seed and question, and whether it reproduces."""
    rows = []
    for claim in CLAIMS:
        shares, said = "–", "not run yet"
        if found := difference(table, claim.one, claim.other, claim.kind):
            mean, low, high = found
            shares, said = f"{claim.kind}: {mean:+.2f} ({low:+.2f} … {high:+.2f})", verdict(low, high, claim.expected)
        rows.append([claim.text, shares, said])
    return markdown_table(["claim (*quoted* J&F, Ref-DAVIS17)", "ours: difference in shares", "verdict"], rows)


def verdict(low: float, high: float, expected: int | None) -> str:
    """What an interval of a difference says about its expected sign.

    Example:
        >>> verdict(0.1, 0.3, 1), verdict(-0.1, 0.3, 1), verdict(0.1, 0.3, -1)
        ('reproduces', 'cannot be told', 'does not reproduce')
    """
    sign = (low > 0) - (high < 0)
    if expected is None:
        return {1: "better", -1: "worse", 0: "no difference to be told"}[sign]
    return {expected: "reproduces", 0: "cannot be told"}.get(sign, "does not reproduce")


def draw(path: Path, folder: Path) -> list[Path]:
    """Two plots of the table `path` in `folder`, each as PNG and SVG; returns the files.

    One shows the variants at the paper's l, one the context length.
    """
    from matplotlib.figure import Figure

    means = summary(load(path))
    figures = {"variants": _draw_variants(means, Figure), "context": _draw_contexts(means, Figure)}
    return save_plots(figures, path, folder)


def _draw_variants(means: pd.DataFrame, figure_class: type) -> object:
    figure = figure_class(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = means[(means["context"] == SHOWN_CONTEXT) | (means["variant"] == "none")]
    for place, (variant, (colour, marker)) in enumerate(_COLOURS.items()):
        rows = shown[shown["variant"] == variant].set_index("kind").reindex(list(KINDS)).dropna(subset="value")
        x = [list(KINDS).index(kind) + 0.13 * (place - 2) for kind in rows.index]
        error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(x, rows["value"], error, fmt=marker, color=colour, capsize=3, label=NAMES[variant])
    names = [name.replace(": ", ":\n") if ":" in name else textwrap.fill(name, 16) for name in KINDS.values()]
    axes.set_xticks(range(len(KINDS)), names)
    axes.set(ylim=(0, 1), ylabel="share right")
    axes.set_title(f"How the past enters, l = {SHOWN_CONTEXT} (nano; 95 % over seeds and questions)", fontsize=10)
    _finish(figure, axes)
    return figure


def _draw_contexts(means: pd.DataFrame, figure_class: type) -> object:
    kinds = ("motion", "direction", "appearance")
    figure = figure_class(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        single = means[(means["variant"] == "none") & (means["kind"] == kind)]
        for variant, (colour, marker) in _COLOURS.items():
            rows = means[(means["variant"] == variant) & (means["kind"] == kind)]
            rows = pd.concat([single, rows]).drop_duplicates("context").sort_values("context")
            look = {"marker": marker, "color": colour, "label": NAMES[variant], "markersize": 5}
            axes.plot(rows["context"], rows["value"], **look, zorder=3 if variant == "none" else 2)  # where all meet
            axes.fill_between(rows["context"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.set(ylim=(0, 1), xlabel="past frames l")
        axes.set_title(KINDS[kind], fontsize=10)
    panels[0].set_ylabel("share right (nano)")
    _finish(figure, panels[0])
    return figure


def _finish(figure, axes) -> None:
    for each in figure.axes:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
