"""Several models on the same sentences: how good their masks are and what a sentence costs, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from videomolmo.errors import BadInput
from videomolmo.evaluation.evaluate import ALL, evaluate
from videomolmo.evaluation.whole_videos import interval
from videomolmo.io.plain_values import require_path
from videomolmo.io.tables import write_csv

COMPARED = ("J&F", "J", "F", "tokens read", "tokens written", "processor seconds")


def side_by_side(benchmark: str, out: Path, models: Sequence[str], **settings: Any) -> pd.DataFrame:
    """Several models on the same sentences: each evaluated in a folder of `out` under its own name; run again to go on.

    Args:
        benchmark, settings: see `evaluate`.
        out: gets a folder for each, and side_by_side.csv.
        models: at least two.

    Returns:
        One row for each kind of sentence, measure (`COMPARED`; the last three are what a sentence costs) and model, and
        one named "A − B" for how far the first is from each other; 95 % bootstrap intervals over sentences.

    Raises:
        BadInput: two models would be called alike, or see `evaluate`.
    """
    out, names = require_path(out, "out"), [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise BadInput(f"models {', '.join(models)}: their folders' names are alike; give models whose names differ")
    tables = {
        name: _by_sentence(evaluate(benchmark, out / name, model=model, **settings))
        for name, model in zip(names, models, strict=True)
    }
    first, rows = tables[names[0]], []
    tables |= {f"{names[0]} − {name}": first - tables[name] for name in names[1:]}
    for name, table in tables.items():
        for (kind, metric), values in table.dropna().groupby(level=("kind", "metric")):
            low, high = interval(values.to_numpy())
            rows.append({"benchmark": benchmark, "kind": kind, "metric": metric, "system": name, "value": values.mean(),
                         "low": low, "high": high, "n": len(values)})  # fmt: skip
    rows.sort(key=lambda row: (row["kind"], COMPARED.index(row["metric"])))
    table = pd.DataFrame(rows)
    write_csv(table, out / "side_by_side.csv")
    return table


def _by_sentence(table: pd.DataFrame) -> pd.Series:
    """Values of `COMPARED` by kind, clip, expression and metric; what a refused sentence costs is not known."""
    own = table[(table["clip"] != ALL) & table["metric"].isin(COMPARED)]
    return own.set_index(["kind", "clip", "expression", "metric"])["value"].astype(float)


def table_text(table: pd.DataFrame) -> str:
    """A table of `side_by_side` as Markdown, a column for each model and difference."""
    systems = list(dict.fromkeys(table["system"]))
    lines = [f"| sentences | measure | n | {' | '.join(systems)} |", "|---|---|---|" + "---|" * len(systems)]
    for (kind, metric), rows in table.groupby(["kind", "metric"], sort=False):
        digits = 1 if "tokens" in metric else 3
        cells = {row.system: f"{row.value:.{digits}f} ({row.low:.{digits}f} … {row.high:.{digits}f})"
                 for row in rows.itertuples()}  # fmt: skip
        shown = (cells.get(name, "–") for name in systems)
        lines.append(f"| {kind} | {metric} | {rows['n'].iloc[0]} | {' | '.join(shown)} |")
    return "\n".join(lines)
