"""The temporal ablation as plots and as the README's block: ours beside the published figures, and what reproduces."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from videomolmo.ablation.files import save_plots
from videomolmo.ablation.temporal_table import KINDS, NAMES, PUBLISHED, SHOWN_CONTEXT, difference, load, summary


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
    "none": ("#000000", "X"),
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
        unfinished: cells that are not there, see `temporal_table.missing`.
        written: cells that went on to language, where there are any.
    """
    means = summary(table).set_index(["variant", "context", "kind"])
    lines = [*_variants(means), "", *_contexts(means), "", *findings(table)]
    if written is not None:
        lines += ["", *_in_language(written)]
    if unfinished:
        lines += ["", f"Not run yet: {len(unfinished)} cells ({'; '.join(unfinished[:4])} …)."]
    return "\n".join(lines) + "\n"


def _cell(means: pd.DataFrame, key: tuple[str, int, str]) -> str:
    if key not in means.index:
        return "–"
    row = means.loc[key]
    return f"{row['value']:.2f} ({row['low']:.2f} … {row['high']:.2f})"


def _variants(means: pd.DataFrame) -> list[str]:
    lines = [
        f"| how the past enters, l = {SHOWN_CONTEXT} | " + " | ".join(KINDS.values()) + " | *quoted* J&F, Ref-DAVIS17 |"
    ]
    lines.append("|" + "---|" * (len(KINDS) + 2))
    for variant, name in NAMES.items():
        context = 0 if variant == "none" else SHOWN_CONTEXT
        cells = [_cell(means, (variant, context, kind)) for kind in KINDS]
        quoted = f"*{PUBLISHED[variant]:.2f}*" if variant in PUBLISHED else "–"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {quoted} |")
    return lines


def _in_language(written: pd.DataFrame) -> list[str]:
    means = summary(written).set_index(["variant", "context", "kind"])
    kinds = {kind: words for kind, words in KINDS.items() if kind != "direction"}
    steps, seeds = int(written[["look", "settle", "language"]].sum(axis=1).max()), int(means["seeds"].max())
    lines = [
        f"Written in language, {steps} steps, {seeds} seeds, from the shipped model without its temporal module (its "
        "language was taught with cross-attention to the mean, which favours that variant):",
        "",
        f"| written, l = {SHOWN_CONTEXT} | " + " | ".join(kinds.values()) + " |",
        "|" + "---|" * (len(kinds) + 1),
    ]
    for variant, name in NAMES.items():
        context = 0 if variant == "none" else SHOWN_CONTEXT
        lines.append(f"| {name} | " + " | ".join(_cell(means, (variant, context, kind)) for kind in kinds) + " |")
    return lines


def _contexts(means: pd.DataFrame) -> list[str]:
    contexts = sorted(set(means.index.get_level_values("context")))
    lines = [
        "| motion: right object, l = | " + " | ".join(map(str, contexts)) + " |",
        "|" + "---|" * (len(contexts) + 1),
    ]
    for variant in _PAST:
        shown = [("none" if context == 0 else variant, context, "motion") for context in contexts]
        values = [f"{means.loc[key, 'value']:.2f}" if key in means.index else "–" for key in shown]
        lines.append(f"| {NAMES[variant]} | " + " | ".join(values) + " |")
    return lines


def findings(table: pd.DataFrame) -> list[str]:
    """Every claim with our difference, paired by seed and question, and whether it reproduces."""
    lines = ["| claim (*quoted* J&F, Ref-DAVIS17) | ours: difference in shares | |", "|---|---|---|"]
    for claim in CLAIMS:
        found = difference(table, claim.one, claim.other, claim.kind)
        if found is None:
            lines.append(f"| {claim.text} | – | not run yet |")
            continue
        mean, low, high = found
        shares = f"{claim.kind}: {mean:+.2f} ({low:+.2f} … {high:+.2f})"
        lines.append(f"| {claim.text} | {shares} | {verdict(low, high, claim.expected)} |")
    return lines


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
            over = 3 if variant == "none" else 2  # where all variants meet
            axes.plot(
                rows["context"],
                rows["value"],
                marker=marker,
                color=colour,
                label=NAMES[variant],
                markersize=5,
                zorder=over,
            )
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
