"""A sweep as one HTML page that needs no network: figures, the numbers in them, and what did not come out."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from videomolmo.errors import BadInput
from videomolmo.io.files import write_text
from videomolmo.sweep.figures import View, choose_view, figure, means, measures, select
from videomolmo.sweep.store import DAMAGED, DONE, FAILED, Record, Store
from videomolmo.sweep.table import PROVENANCE, UNREAD, collect, unread

if TYPE_CHECKING:
    import pandas as pd

TITLE, HEAD = "Sweep of", 200  # how a report begins, and within how many characters
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 14px } td, th { padding: 2px 10px; text-align: right }
th { border-bottom: 1px solid #999 } td:first-child, th:first-child, .left td { text-align: left; vertical-align: top }
pre { background: #f5f5f5; padding: 8px; overflow-x: auto; font-size: 13px } .bad { color: #b00020 }
"""


def report(
    out: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    colour: str | None = None,
    facet: str | None = None,
    over: str | None = None,
    where: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> Path:
    """Draw what a sweep found so far; returns the page, `out`/report.html if no `path` is given.

    Args:
        out: folder of the sweep, also of one that still runs.
        x, colour, facet: columns of the collected table; those not given are chosen from what differs.
        y: the measure; without it one figure for each column of numbers that the notebooks wrote.
        over: the column that repeats settings, for the intervals; without it the grid's [repeats].
        where: only rows in which columns have these values, written as in the CSV.
        path: where to write. A page that a report wrote before is replaced.

    Raises:
        BadInput: no sweep there, no cell done, columns that `choose_view` refuses, or a path that cannot be written.
    """
    store = Store(out)
    facts, path = store.facts(), Path(path or Path(out) / "report.html")
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise BadInput(f"{path} cannot be written; give a file in a folder that is there")
    if path.exists() and TITLE not in path.read_text(encoding="utf-8", errors="replace")[:HEAD]:
        raise BadInput(f"{path} is there and no report of a sweep; give another file")
    table = _of_this_grid(collect(store), store, facts)
    if not len(table):
        raise BadInput(f"{out}: no cell is done yet; run the sweep first")
    own = [name for name in table.columns if name not in _ours(facts, table)]
    without = unread(table)
    table = select(table, where or {})
    repeats = [over] if over else [name for name in facts["repeats"] if name in table]
    varied = [name for name in facts["varied"] if name in table]
    view = choose_view(table, varied, own, repeats, x=x, colour=colour, facet=facet, y=y)
    singular = {name.removesuffix("s") for cell in facts["cells"].values() for name in cell["parameters"]}
    written = [
        name for name in own if name not in singular
    ]  # a column "tau" is one of the parameter "taus", no outcome
    drawn = [(name, means(table, view, name)) for name in measures(table, written or own, view, y)]
    reading = " ".join((_reading(view), *(f"Only {name} = {value}." for name, value in (where or {}).items())))
    write_text(path, _page(store, facts, table, reading, view, drawn, without))
    return path


def _of_this_grid(table: "pd.DataFrame", store: Store, facts: dict[str, Any]) -> "pd.DataFrame":
    """Rows of the grid that was asked for last: a folder keeps cells of earlier ones, of other settings, as well."""
    names = {record.folder.name for key, record in store.records().items() if key in facts["cells"]}
    return table[table["cell_cell" if "cell_cell" in table else "cell"].isin(names)] if len(table) else table


def _ours(facts: dict[str, Any], table: "pd.DataFrame") -> set[str]:
    """Columns of the collected table that no notebook wrote."""
    parameters = {name for cell in facts["cells"].values() for name in cell["parameters"]}
    names = {"cell", *parameters, *PROVENANCE, UNREAD}
    return {f"cell_{name}" if f"cell_{name}" in table else name for name in names}


def _page(
    store: Store, facts: dict[str, Any], table: "pd.DataFrame", reading: str, view: View, drawn: list[tuple],
    without: Mapping[str, str],
) -> str:  # fmt: skip
    records = store.records()
    states = {key: records[key].state if key in records else None for key in facts["cells"]}
    done, failed = (sum(state == wanted for state in states.values()) for wanted in (DONE, FAILED))
    missing = [cell["name"] for key, cell in facts["cells"].items() if states[key] is None]
    damaged = [records[key] for key in states if states[key] == DAMAGED]
    title = f"{TITLE} {facts['notebook']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(states)} cells: {done} done, {failed} failed, {len(missing) + len(damaged)} missing. "
        f"{escape(reading)}</p>",
    ]
    for number, (name, points) in enumerate(drawn):
        html = figure(points, view, name).to_html(full_html=False, include_plotlyjs=number == 0)
        numbers = points.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="–")
        few, many = points["rows"].min(), points["rows"].max()
        behind = f"<p>Rows of the table behind a point: {few if few == many else f'{few} to {many}'}.</p>"
        parts.append(f"<h2>{escape(name)}</h2>{behind}{html}<details><summary>numbers</summary>{numbers}</details>")
    parts += _failures(records[key] for key in facts["cells"] if states[key] == FAILED)
    parts += _list("Missing cells", missing)
    told = (f"{record.folder.name}: {record.facts['error']}" for record in damaged)
    parts += _list("Cells whose record is damaged, to be run again", told)
    parts += _list("Done, but their tables cannot be read", (f"{name}: {why}" for name, why in without.items()))
    parts.append(_provenance(table, facts))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!DOCTYPE html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _reading(view: View) -> str:
    """How the figures are to be read."""
    text = f"Points are means over {', '.join(view.repeats)}, bars their 95 % intervals (Student's t)."
    if not view.repeats:
        text = "Nothing was repeated, so there are no intervals."
    if view.averaged:
        text += f" Averaged over, because there was no place to show it: {', '.join(view.averaged)}."
    return text


def _failures(records: Iterable[Record]) -> list[str]:
    parts = []
    for record in records:
        link = f'<a href="cells/{quote(record.folder.name)}/notebook.ipynb">{escape(record.folder.name)}</a>'
        log = record.facts.get("log")
        trace = f"<pre>{escape(record.facts['traceback'])}</pre>"
        trace += f"<p>The kernel's own log ends:</p><pre>{escape(log)}</pre>" if log else ""
        error = escape(record.facts["error"])
        parts.append(f"<details><summary>{link}: <span class=bad>{error}</span></summary>{trace}</details>")
    return ["<h2>Failed cells</h2>", *parts] if parts else []


def _list(title: str, texts: Iterable[str]) -> list[str]:
    lines = [f"<li>{escape(text)}</li>" for text in texts]
    return [f"<h2>{title}</h2><ul>", *lines, "</ul>"] if lines else []


def _provenance(table: "pd.DataFrame", facts: dict[str, Any]) -> str:
    """What made the results; more than one commit among them is said loudly."""
    lines = [f"<tr><td>notebook (hash)</td><td>{escape(facts['sha256'])}</td></tr>"]
    for name in ("commit", "machine", "versions"):
        column = table[f"cell_{name}" if f"cell_{name}" in table else name]
        values = [escape(str(value)) for value in column.unique()]
        mixed = " class=bad" if len(values) > 1 and name != "machine" else ""
        lines.append(f"<tr><td>{name}</td><td{mixed}>{'<br>'.join(values)}</td></tr>")
    return f"<h2>Made by</h2><table class=left>{''.join(lines)}</table>"
