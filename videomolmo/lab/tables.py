"""The ablations' tables in Markdown, and their plots: every plot says which table it shows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.files import atomic_file
from videomolmo.io.tables import read_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table in Markdown.

    Example:
        >>> markdown_table(["a", "b"], [["1", "2"]])
        ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    heads = list(heads)
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def read_cells(path: Path, what: str, cell: Iterable[str], settings: Iterable[str], text: str) -> "pd.DataFrame":
    """A table of finished cells of an ablation, each kind of question of a cell once.

    Args:
        path: of the CSV file.
        what: it should be, in words.
        cell, settings: columns that tell cells apart, and those in which all agree.
        text: a column that stays text.

    Raises:
        BadInput: no table, one without a column, or with cells of different settings.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} is not there, expected {what}; run the ablation first")
    table = read_csv(path, dtype={text: str, "commit": str, "machine": str})
    if lost := {*cell, *settings, "kind", "value", "n", text} - set(table.columns):
        raise BadInput(f"{path} has no column {sorted(lost)[0]!r}, expected {what}")
    for name in settings:
        if table[name].nunique() > 1:
            found = sorted(set(table[name]))
            raise BadInput(f"{path} holds cells with {name} = {found}, expected one budget; give a file for each")
    return table.drop_duplicates([*cell, "kind"], ignore_index=True)


def check_budget(table: "pd.DataFrame", settings: "Mapping[str, object]", path: Path) -> None:
    """Refuse to fill a table on with cells of another budget, before hours are spent on them.

    Args:
        table: cells that are there; may be empty.
        settings: of the cells to come, by column.
        path: of the table.

    Raises:
        BadInput: the cells that are there have another value.
    """
    for name, value in settings.items():
        if len(table) and set(table[name]) != {value}:
            found = ", ".join(map(str, sorted(set(table[name]))))
            raise BadInput(f"{name} is {value}, but {path} holds cells with {found}; give a file for each budget")


def note_of(path: Path) -> str:
    """What a plot of the table `path` carries as its description: a test can see whether it is of this table."""
    return f"SHA-256 of {path.name}: {provenance.sha256(path)}"


def save_plots(figures: "Mapping[str, Figure]", path: Path, folder: Path) -> list[Path]:
    """Figures of the table `path`, each as PNG and SVG in `folder`; returns the files, named for table and figure."""
    import matplotlib as mpl

    files, note = [], {"Description": note_of(path)}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):  # drawn again, a file stays the same
        for name, figure in figures.items():
            for suffix, more in ((".png", {}), (".svg", {"Date": None})):
                files.append(folder / f"{path.stem}_{name}{suffix}")
                with atomic_file(files[-1]) as unfinished:
                    figure.savefig(unfinished, dpi=150, metadata=note | more)
    return files
