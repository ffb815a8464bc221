"""The table of words or tokens: its intervals, its plot, and its block of the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from videomolmo.lab.tables import markdown_table, read_cells, save_plots
from videomolmo.lab.temporal_report import interval
from videomolmo.weights.hub import data_folder

POINTS = ("text", "tokens")
ATTENTION = ("causal", "bidirectional")
CELL = ("points", "attention", "samples", "seed")  # what names a cell
SETTINGS = ("steps", "batch", "questions", "test_pictures", "max_lr", "language")  # equal in a table
KINDS = {"one": "one object: hit", "list": "lists: exact", "absent": "not there: refused"}
COSTS = {
    "distance": "off by, px of 96",
    "tokens": "tokens a point, label included",
    "seconds a question": "seconds a question",
}
NAMES = {
    ("text", "causal"): "text",
    ("tokens", "causal"): "grounding tokens",
    ("text", "bidirectional"): "text, image tokens see each other",
    ("tokens", "bidirectional"): "grounding tokens, image tokens see each other",
}
_LOOKS = dict(zip(NAMES, (("#E69F00", "s"), ("#0072B2", "o"), ("#D55E00", "D"), ("#CC79A7", "^")), strict=True))
LANGUAGES = {
    "kept": "The shipped language goes on: it was taught to write coordinates, and the heads that choose are new",
    "new": "The language is new",
}


def load(path: Path) -> pd.DataFrame:
    """The table of finished cells: the shipped one, or results.csv of a sweep of notebook 11.

    Raises:
        BadInput: no table, one without a column, or with cells of different budgets.
    """
    return read_cells(path, "a table of words or tokens", CELL, SETTINGS, "right")


def _rows(table: pd.DataFrame, name: tuple[str, str], samples: int, kind: str) -> pd.DataFrame:
    """Rows of one measure of a variant, by seed."""
    is_own = (table["points"] == name[0]) & (table["attention"] == name[1]) & (table["samples"] == samples)
    return table[is_own & (table["kind"] == kind)].sort_values("seed")


def right(table: pd.DataFrame, name: tuple[str, str], samples: int, kind: str) -> np.ndarray:
    """Which questions of a kind are answered right, bool (seeds, questions).

    Args:
        table: see `load`.
        name: how points are told, and who sees whom among image tokens.
        samples: of training.
        kind: one of `KINDS`.
    """
    return np.array([[letter == "1" for letter in one] for one in _rows(table, name, samples, kind)["right"]], bool)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Every variant, number of samples and measure: mean over seeds, and its 95 % interval where questions count.

    Intervals are over seeds and questions; costs have none.
    """
    rows = []
    for name in NAMES:
        for samples in sorted(set(table["samples"])):
            for kind in (*KINDS, *COSTS):
                own = _rows(table, name, samples, kind)
                if not len(own):
                    continue
                mean = float(own["value"].mean())
                found = interval(right(table, name, samples, kind)) if kind in KINDS else (mean, np.nan, np.nan)
                about = {"points": name[0], "attention": name[1], "samples": samples, "kind": kind}
                rows.append(about | dict(zip(("value", "low", "high"), found, strict=True)) | {"seeds": len(own)})
    return pd.DataFrame(rows, columns=["points", "attention", "samples", "kind", "value", "low", "high", "seeds"])


def difference(
    table: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], samples: int, kind: str
) -> tuple[float, float, float] | None:
    """How much more of `kind` the variant `one` has right than `other`, paired by seed and question.

    None where no seed is in both.
    """
    seeds = [_rows(table, name, samples, kind)["seed"].to_numpy() for name in (one, other)]
    both = np.intersect1d(*seeds)
    if not len(both):
        return None
    pair = [
        right(table, name, samples, kind)[np.isin(own, both)] for name, own in zip((one, other), seeds, strict=True)
    ]
    return interval(pair[0].astype(int) - pair[1].astype(int))


def markdown(table: pd.DataFrame) -> str:
    """The README's block: what every variant has right, what it costs, and how far tokens lie above text."""
    means, first = summary(table).set_index(["points", "attention", "samples", "kind"]), table.iloc[0]
    rows = []
    for name, title in NAMES.items():
        for samples in sorted(set(table["samples"])):
            if (*name, samples, "one") in means.index:
                own = [_cell(means.loc[(*name, samples, kind)]) for kind in (*KINDS, *COSTS)]
                rows.append([title, str(samples), str(int(means.loc[(*name, samples, "one"), "seeds"])), *own])
    for attention in ATTENTION:
        for samples in sorted(set(table["samples"])):
            pairs = [difference(table, ("tokens", attention), ("text", attention), samples, kind) for kind in KINDS]
            if all(pairs):
                told = [f"{mean:+.2f} ({low:+.2f} … {high:+.2f})" for mean, low, high in pairs]
                rows.append([f"tokens minus text, {attention}", str(samples), "", *told, *[""] * len(COSTS)])
    heads = ["a point is", "samples", "seeds", *KINDS.values(), *COSTS.values()]
    told = (
        f"{LANGUAGES[first['language']]}. {first['steps']} equal steps of {first['batch']} pictures with up to "
        f"{first['questions']} questions each, {first['test_pictures']} held-out pictures (95 % intervals over seeds "
        "and questions; seconds are of one processor core, questions in batches of 40):"
    )
    return "\n".join([told, "", *markdown_table(heads, rows)]) + "\n"


def _cell(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.2f} ({row['low']:.2f} … {row['high']:.2f})"


def draw(path: Path, folder: Path) -> list[Path]:
    """A plot of the table `path` in `folder`, as PNG and SVG; returns the files."""
    from matplotlib.figure import Figure

    means = summary(load(path))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(KINDS), sharey=True)
    places = {samples: at for at, samples in enumerate(sorted(set(means["samples"])))}
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for at, (name, (colour, marker)) in enumerate(_LOOKS.items()):
            own = means[(means["points"] == name[0]) & (means["attention"] == name[1]) & (means["kind"] == kind)]
            if not len(own):
                continue
            x = own["samples"].map(places) + 0.1 * (at - 1.5)
            error = [own["value"] - own["low"], own["high"] - own["value"]]
            axes.errorbar(x, own["value"], error, fmt=marker, color=colour, capsize=3, label=NAMES[name])
        axes.set_xticks(list(places.values()), [f"{samples}" for samples in places])
        axes.set(ylim=(0, 1), xlim=(-0.6, len(places) - 0.4), xlabel="training pictures")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share right (nano)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    return save_plots({"right": figure}, path, folder)


def shipped_table() -> Path:
    """The table that comes with the project."""
    return data_folder() / "ablations" / "words_or_tokens.csv"
