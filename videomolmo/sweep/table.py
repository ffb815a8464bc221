"""All cells of a sweep as one tidy table: what each notebook wrote, its parameters, and what made it."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.sweep.store import DONE, Record, Store

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = ("seconds", "commit", "versions", "machine", "notebook")


def collect(store: Store) -> "pd.DataFrame":
    """The table of all finished cells, also written to results.parquet and results.csv in the sweep's folder.

    Returns:
        The rows of every cell's own table (results.csv in its `results_folder`, or the only CSV there), and beside
        them the columns `cell`, one for each parameter, `seconds`, `commit`, `versions`, `machine` and `notebook`
        (hash). A cell without a table has one row. Where a notebook's table already has a column of such a name, and
        says something else, ours is called cell_NAME. Lists and tables are JSON text.
    """
    import pandas as pd

    order = {key: at for at, key in enumerate(store.facts()["cells"])}  # cells of earlier grids come last
    records = sorted(store.records().items(), key=lambda pair: order.get(pair[0], len(order)))
    parts = [_Part(record) for _, record in records if record.state == DONE]
    renamed = {name: f"cell_{name}" for part in parts for name in part.contradicted()}
    table = pd.concat([part.table(renamed) for part in parts], ignore_index=True) if parts else pd.DataFrame()
    last = [renamed.get(name, name) for name in PROVENANCE]
    first = [name for name in table.columns if name not in last]  # whichever cell brought a column first
    table = _uniform(table[first + [name for name in last if name in table]])
    _write(table, store.out)
    return table


class _Part:
    """One cell's share of the table."""

    def __init__(self, record: Record) -> None:
        import pandas as pd

        facts, path = record.facts, record.facts.get("table")
        versions = " ".join(f"{name}={number}" for name, number in facts["versions"].items())
        made_by = (facts["seconds"], facts["commit"], versions, facts["machine"], facts["notebook_sha256"])
        self.own = pd.read_csv(record.folder / path) if path else pd.DataFrame(index=[0])
        self.before = {"cell": record.folder.name} | {name: _flat(value) for name, value in facts["parameters"].items()}
        self.after = dict(zip(PROVENANCE, made_by, strict=True))

    def contradicted(self) -> set[str]:
        """Names of ours that the notebook uses for something else."""
        ours = self.before | self.after
        return {name for name in ours.keys() & set(self.own.columns) if not (self.own[name] == ours[name]).all()}

    def table(self, renamed: dict[str, str]) -> "pd.DataFrame":
        import pandas as pd

        before, after = ({renamed.get(name, name): value for name, value in side.items()}
                         for side in (self.before, self.after))  # fmt: skip
        kept = self.own.drop(columns=self.own.columns.intersection([*before, *after]))
        left, right = (pd.DataFrame([side] * len(self.own), index=self.own.index) for side in (before, after))
        return pd.concat([left, kept, right], axis=1)


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _uniform(table: "pd.DataFrame") -> "pd.DataFrame":
    """Columns of mixed kinds, which Parquet does not know, as text."""
    for name in table.columns:
        kinds = {type(value) for value in table[name].dropna()}
        if table[name].dtype == object and len(kinds) > 1:
            table[name] = table[name].map(str, na_action="ignore")
    return table


def _write(table: "pd.DataFrame", folder: Path) -> None:
    for name, write in (("results.parquet", table.to_parquet), ("results.csv", table.to_csv)):
        unfinished = folder / f".{name}.{os.getpid()}"
        write(unfinished, index=False)
        unfinished.replace(folder / name)
