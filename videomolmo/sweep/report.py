"""A sweep as one HTML page that needs no network: plotly's figures, the numbers in them, and what did not come out.

A notebook would need a kernel for each report, and its export a network: nbconvert's pages fetch scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.errors import BadInput
from videomolmo.io.files import write_text
from videomolmo.sweep.store import DAMAGED, DONE, FAILED, MISSING, Record, Store
from videomolmo.sweep.table import PROVENANCE, UNREAD, collect, unread

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 12  # a column of texts with more of them is a sample, such as clips, and is averaged over
LEVEL = 0.95
MEASURES = ("measure", "metric")
POINT = ("mean", "spread", "half", "repetitions", "rows")  # what `means` adds to the columns that are shown
TITLE, HEAD = "Sweep of", 300  # how a report begins, and within how many characters


@dataclass(frozen=True)
class View:
    """What a figure shows where: columns for its x axis, colours and facets, None where not used.

    Attributes:
        repeats: columns whose values are repetitions of one setting.
        averaged: columns that differ and are not shown: the figure is a mean over them.
    """

    x: str
    colour: str | None
    facet: str | None
    repeats: tuple[str, ...]
    averaged: tuple[str, ...]

    @property
    def shown(self) -> list[str]:
        """The columns that tell points apart."""
        return [name for name in (self.x, self.colour, self.facet) if name]

    def reading(self) -> str:
        """How the figures are to be read."""
        text = f"Points are means over {', '.join(self.repeats)}, bars their 95 % intervals (Student's t)."
        text = text if self.repeats else "Nothing was repeated, so there are no intervals."
        seen = f" Averaged over, because there was no place to show it: {', '.join(self.averaged)}."
        return text + seen if self.averaged else text


def report(
    out: Path,
    *,
    y: str | None = None,
    over: str | None = None,
    where: Mapping[str, str] | None = None,
    path: Path | None = None,
    **places: str | None,
) -> Path:
    """Draw what a sweep found so far; returns the page, `out`/report.html if no `path` is given.

    Args:
        out: folder of the sweep, also of one that still runs.
        y: the measure; without it one figure for each column of numbers that the notebooks wrote.
        over: the column that repeats settings, for the intervals; without it the grid's [repeats].
        where: only rows in which columns have these values, written as in the CSV.
        path: where to write. A page that a report wrote before is replaced.
        places: x, colour, facet: columns of the collected table; those not given are chosen from what differs.

    Raises:
        BadInput: no sweep there, no cell done, columns that `choose_view` refuses, or a path that cannot be written.
    """
    store = Store(out)
    metadata, path = store.manifest(), Path(path or Path(out) / "report.html")
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise BadInput(f"{path} cannot be written; give a file in a folder that is there")
    if path.exists() and TITLE not in path.read_text(encoding="utf-8", errors="replace")[:HEAD]:
        raise BadInput(f"{path} is there and no report of a sweep; give another file")
    cells, records = metadata["cells"], store.records()  # a folder keeps cells of earlier grids as well
    parameters = {name for cell in cells.values() for name in cell["parameters"]}
    table = collect(store)
    names = {name: f"cell_{name}" if f"cell_{name}" in table else name for name in ("cell", *PROVENANCE)}
    if len(table):
        table = table[table[names["cell"]].isin({records[key].folder.name for key in cells if key in records})]
    if not len(table):
        raise BadInput(f"{out}: no cell is done yet; run the sweep first")
    ours = {f"cell_{name}" if f"cell_{name}" in table else name for name in ("cell", *parameters, *PROVENANCE, UNREAD)}
    own = [name for name in table.columns if name not in ours]
    without, table = unread(table), select(table, where or {})
    repeats = [over] if over else [name for name in metadata["repeats"] if name in table]
    varied = [name for name in metadata["varied"] if name in table]
    view = choose_view(table, varied, own, repeats, y=y, **places)
    # a column "tau" is one of the parameter "taus", no outcome
    outcomes = [name for name in own if name not in {parameter.removesuffix("s") for parameter in parameters}]
    drawn = [(name, means(table, view, name)) for name in measures(table, outcomes or own, view, y)]
    reading = " ".join((view.reading(), *(f"Only {name} = {value}." for name, value in (where or {}).items())))
    made_by = {name: table[names[name]].map(str).unique() for name in ("commit", "machine", "versions")}
    page = _page(metadata, records, reading, [_figure_parts(view, *one, not at) for at, one in enumerate(drawn)],
                 without, {"notebook (hash)": [metadata["sha256"]], **made_by})  # fmt: skip
    write_text(path, page)
    return path


def _page(
    metadata: Mapping[str, Any], records: Mapping[str, Record], reading: str, figures: list[tuple],
    without: Mapping[str, str], made_by: Mapping[str, Sequence[str]],
) -> str:  # fmt: skip
    """The page; whatever a notebook or file says is escaped."""
    from jinja2 import Environment, FileSystemLoader

    states = {key: records[key].status if key in records else MISSING for key in metadata["cells"]}
    chosen = {state: [key for key in states if states[key] == state] for state in (DONE, FAILED, MISSING, DAMAGED)}
    counts = f"{len(states)} cells: {len(chosen[DONE])} done, {len(chosen[FAILED])} failed, "
    damaged = (records[key] for key in chosen[DAMAGED])
    lists = {
        "Missing cells": [metadata["cells"][key]["name"] for key in chosen[MISSING]],
        "Cells whose record is damaged, to be run again": [f"{r.folder.name}: {r.metadata['error']}" for r in damaged],
        "Done, but their tables cannot be read": [f"{name}: {why}" for name, why in without.items()],
    }
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("report.html").render(
        title=f"{TITLE} {metadata['notebook']}", figures=figures, lists=lists, made_by=made_by,
        reading=f"{counts}{len(chosen[MISSING]) + len(chosen[DAMAGED])} missing. {reading}",
        failed=[(records[key].folder.name, records[key].metadata) for key in chosen[FAILED]],
    )  # fmt: skip


def _figure_parts(view: View, name: str, points: "pd.DataFrame", is_first: bool) -> tuple[str, str, str, str]:
    """Name, figure, table of numbers, and how many rows are behind its points; the first brings plotly's script."""
    numbers = points.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="–")
    few, many = points["rows"].min(), points["rows"].max()
    html = figure(points, view, name).to_html(full_html=False, include_plotlyjs=is_first)
    return name, html, numbers, str(few) if few == many else f"{few} to {many}"


def choose_view(
    table: "pd.DataFrame",
    varied: Sequence[str],
    own: Sequence[str],
    repeats: Sequence[str],
    *,
    x: str | None = None,
    colour: str | None = None,
    facet: str | None = None,
    y: str | None = None,
) -> View:
    """Places for the columns of a table; what is not asked for is chosen.

    Args:
        varied: parameters of the sweep that differ between settings.
        own: columns of the notebooks' tables.
        repeats: see `View`.
        y: the measure, which has a place of its own, see `measures`.

    Raises:
        BadInput: a column that the table does not have, that is asked for in two places, or that has a name which
            figures need themselves.
    """
    for name in (x, colour, facet, *repeats):
        if name is not None and name not in table:
            raise BadInput(f"the table has no column {name!r}; it has {', '.join(table.columns)}")
        if name in POINT:
            raise BadInput(f"a column {name!r} cannot be shown: figures have one of that name; rename yours")
    _check_places({"--x": x, "--colour": colour, "--facet": facet, "--y": y}, repeats)
    taken = {x, colour, facet, y, *POINT}
    texts = [name for name in own if not _is_number(table[name]) and table[name].nunique() <= MOST_VALUES]
    differing = [name for name in dict.fromkeys((*varied, *texts)) if table[name].nunique(dropna=False) > 1]
    free = [name for name in differing if name not in taken and name not in repeats]
    if x is None:
        numbers = [name for name in free if _is_number(table[name])]
        x = max(numbers, key=lambda name: table[name].nunique()) if numbers else free[0] if free else "cell"
        free = [name for name in free if name != x]
    if facet is None and (measures := [name for name in free if name in MEASURES]):
        facet = measures[0]
        free.remove(facet)
    if colour is None and free:
        colour = free.pop(0)
    if facet is None and free:
        facet = free.pop(0)
    return View(x, colour, facet, tuple(repeats), tuple(free))


def _check_places(asked: Mapping[str, str | None], repeats: Sequence[str]) -> None:
    uses = dict.fromkeys(repeats, "repeats the settings")
    for option, name in asked.items():
        if name in uses:
            raise BadInput(f"{option} is {name!r}, which {uses[name]} already; name another column, or leave one out")
        if name is not None:
            uses[name] = f"is {option}"


def select(table: "pd.DataFrame", wanted: Mapping[str, str]) -> "pd.DataFrame":
    """The rows in which columns have these values, written as in the CSV.

    Raises:
        BadInput: no such column, or no such row.
    """
    for name, value in wanted.items():
        if name not in table:
            raise BadInput(f"the table has no column {name!r}; it has {', '.join(table.columns)}")
        texts = table[name].map(str).where(table[name].notna(), "")
        if not (texts == value).any():
            raise BadInput(f"no row has {name} = {value}; the column holds {', '.join(sorted(set(texts))[:20])}")
        table = table[texts == value]
    return table


def measures(table: "pd.DataFrame", own: Sequence[str], view: View, y: str | None) -> list[str]:
    """Columns of numbers to draw: the one asked for, or all that the notebooks wrote.

    Raises:
        BadInput: there is none, or the one asked for holds no numbers.
    """
    if y is not None and (y not in table or not _is_number(table[y])):
        numbers = [name for name in table.columns if _is_number(table[name])]
        raise BadInput(f"the table has no column of numbers {y!r}; it has {', '.join(numbers) or 'none'}")
    found = [y] if y else [name for name in own if _is_number(table[name]) and name not in (*view.shown, *view.repeats)]
    if not found:
        raise BadInput("no cell wrote a table with numbers; name one of the columns with --y, for example --y seconds")
    return found


def means(table: "pd.DataFrame", view: View, measure: str) -> "pd.DataFrame":
    """One row for each point of a figure: its columns, `mean`, `half` (of the 95 % interval), `repetitions`, `rows`.

    Everything that is not shown is averaged within each repetition first, so that the interval speaks of
    repetitions: Student's t over their means. With fewer than two there is none. `rows` of the table are behind it.
    """
    import numpy as np
    from scipy import stats

    each = table.dropna(subset=[measure]).groupby([*view.shown, *view.repeats], dropna=False, sort=False)[measure]
    groups = each.agg(mean="mean", rows="size").reset_index().groupby(view.shown, dropna=False, sort=False)
    found = groups.agg(
        mean=("mean", "mean"), spread=("mean", "std"), repetitions=("mean", "size"), rows=("rows", "sum")
    ).reset_index()  # fmt: skip
    count = found["repetitions"].where(found["repetitions"] > 1)
    found["half"] = stats.t.ppf((1 + LEVEL) / 2, count - 1) * found.pop("spread") / np.sqrt(count)
    return found if view.repeats else found.assign(half=np.nan)


def figure(points: "pd.DataFrame", view: View, measure: str) -> Any:
    """A plotly figure of `means`: lines over a number, points side by side over names; no text in it is markup."""
    import plotly.express as px

    points = points.assign(**{name: points[name].map(_plain) for name in view.shown})
    lines = _is_number(points[view.x])
    points = points.sort_values(view.shown) if lines else points
    colour, names = view.colour, [name for name in (view.colour, view.facet) if name]
    points = points.assign(**{name: points[name].map(str) for name in names if _is_number(points[name])})
    draw = px.line if lines else px.scatter
    labels = {name: escape(name, quote=False) for name in view.shown} | {"mean": escape(measure, quote=False)}
    drawn = draw(
        points, x=view.x, y="mean", color=colour, facet_col=view.facet, error_y="half",
        facet_col_wrap=min(4, points[view.facet].nunique()) if view.facet else 0, labels=labels,
        template="plotly_white", hover_data=["repetitions", "rows"], **({"markers": True} if lines else {}),
    )  # fmt: skip
    drawn.for_each_annotation(lambda one: one.update(text=one.text.replace("=", " = ")))
    if view.facet in MEASURES:
        drawn.update_yaxes(matches=None, showticklabels=True)
    if lines and len(ticks := sorted(points[view.x].unique())) <= MOST_VALUES:
        drawn.update_xaxes(tickvals=ticks)
    if not lines:
        drawn.update_traces(marker_size=9)
        drawn.update_layout(scattermode="group", scattergap=0.5)
        drawn.update_xaxes(type="category")
    return drawn.update_layout(height=440, margin={"t": 50}, title=None)


def _plain(value: Any) -> Any:
    return escape(value, quote=False) if isinstance(value, str) else value


def _is_number(column: "pd.Series") -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(column) and not is_bool_dtype(column)
