"""All cells of a sweep as one tidy table: what each notebook wrote, its parameters, and what made it."""

import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.errors import BadInput
from videomolmo.io.files import atomic_file
from videomolmo.io.tables import write_csv
from videomolmo.sweep.grid import COLUMNS
from videomolmo.sweep.store import DONE, Record, Store

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = COLUMNS[1:-1]
UNREAD = COLUMNS[-1]  # why a cell that is done has none of its own rows; a column only where there is such a cell
INTEGER = re.compile(r"0|-?[1-9][0-9]*")
DECIMAL = re.compile(r"[+-]?(?=\.?[0-9])(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
INFINITE = ("inf", "-inf")
NOT_A_NUMBER = ("nan", "NaN")
TRUTH = {"True": True, "False": False}


def collect(store: Store) -> "pd.DataFrame":
    """The table of all finished cells, also written to results.parquet and results.csv in the sweep's folder.

    Returns:
        The rows of every cell's own table (results.csv in its `results_folder`, or the only CSV there), and beside
        them the columns `cell`, one for each parameter, `seconds`, `commit`, `versions`, `machine` and `notebook`
        (hash). A cell without a table has one row. Where a notebook's table already has a column of such a name, and
        says something else, ours is called cell_NAME. Lists and tables are JSON text. Columns are numbers only where
        that keeps every digit of every cell; "nan" among numbers is one that is missing, and any other word, such as
        "NA" or "None", is a text. A cell whose table cannot be read any more has one row, and says why in
        the column `table_error`.
    """
    import pandas as pd

    order = {key: at for at, key in enumerate(store.manifest()["cells"])}  # cells of earlier grids come last
    records = sorted(store.records().items(), key=lambda pair: order.get(pair[0], len(order)))
    parts = [_part(record) for _, record in records if record.status == DONE]
    renamed = {
        name: f"cell_{name}" for own, before, after in parts for name, value in (before | after).items()
        if name in own and not (_typed(own[name]) == value).all()
    }  # fmt: skip
    first, last = (dict.fromkeys(renamed.get(name, name) for part in parts for name in part[at]) for at in (1, 2))
    tables = []
    for own, before, after in parts:
        ours = {renamed.get(name, name): value for name, value in (before | after).items()}
        kept = own.drop(columns=own.columns.intersection(list(ours)))
        tables.append(pd.concat([pd.DataFrame([ours] * len(own), index=own.index), kept], axis=1))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    written = [name for name in table if name not in first and name not in last]
    for name in written:
        table[name] = _typed(table[name])
    table = _uniform(table[[*first, *written, *last]])
    with atomic_file(store.out / "results.parquet") as unfinished:
        table.to_parquet(unfinished, index=False)
    write_csv(table, store.out / "results.csv")
    return table


def unread(table: "pd.DataFrame") -> dict[str, str]:
    """Cells of a collected table whose own rows are not in it because they cannot be read, and why."""
    if UNREAD not in table:
        return {}
    return dict(table[["cell", UNREAD]].dropna().itertuples(index=False))


def read_rows(folder: Path, name: str) -> "pd.DataFrame":
    """A cell's own table, each value as the text that stands there; NaN where there is none.

    Args:
        folder: of the cell.
        name: of the table, as a path in it.

    Raises:
        BadInput: it is not there, lies elsewhere, or is no CSV file with a header and rows that fit it.
    """
    import pandas as pd

    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError("it lies outside the cell's folder")
        if path.exists() and not path.is_file():
            raise ValueError("no file")
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
        if not isinstance(rows.index, pd.RangeIndex):  # pandas takes what is too much on the left for names of rows
            raise ValueError("rows have more values than the header has names")
    except (OSError, ValueError, RuntimeError) as error:  # pandas' own are ValueErrors, circles of links the third
        why = " ".join(str(error).split())
        raise BadInput(
            f"{' '.join(path.name.split()):.80} is no table ({why}); expected CSV with a header and rows that fit it"
        ) from error
    return rows


def _part(record: Record) -> tuple["pd.DataFrame", dict[str, Any], dict[str, Any]]:
    """A cell's own rows, one where it has none, and the values of the columns before and behind them."""
    import pandas as pd

    metadata, own, bad = record.metadata, pd.DataFrame(), {}
    if path := metadata.get("table"):
        try:
            own = read_rows(record.folder, path)
        except BadInput as error:
            bad = {UNREAD: str(error)}
    versions = " ".join(f"{name}={number}" for name, number in metadata["versions"].items())
    values = (metadata["seconds"], metadata["commit"], versions, metadata["machine"], metadata["notebook_sha256"])
    behind = dict(zip(PROVENANCE, map(_flat, values), strict=True)) | bad
    before = {"cell": record.folder.name} | {name: _flat(value) for name, value in metadata["parameters"].items()}
    return own if len(own) else pd.DataFrame(index=[0]), before, behind


def _flat(value: Any) -> Any:
    """A value as a cell of a table: what has parts, or more digits than pandas' numbers, as text."""
    is_long = isinstance(value, int) and value.bit_length() > 63
    return json.dumps(value) if is_long or isinstance(value, (list, dict)) else value


def _typed(column: "pd.Series") -> "pd.Series":
    """A column of texts as numbers, or true and false, where no value loses a digit by that; else as it is.

    pandas' own guess makes a number of every row of digits: leading zeros are lost, and the end of a long one.
    """
    bare = column.map(str.strip, na_action="ignore")
    texts = bare.dropna().unique()
    if len(texts) and all(text in TRUTH for text in texts):
        return bare.map(TRUTH, na_action="ignore")
    if len(texts) and not bare.hasnans and all(_is_whole(text, 2**63 - 1) for text in texts):
        return bare.map(int).astype("int64")
    numbers = [text for text in texts if text not in NOT_A_NUMBER]
    return bare.astype("float64") if all(map(_is_kept, numbers)) and (numbers or not len(texts)) else column


def _is_whole(text: str, largest: int) -> bool:
    """Whether it is a whole number up to this one, as Python would write it."""
    return INTEGER.fullmatch(text) is not None and len(text) <= 20 and abs(int(text)) <= largest


def _is_kept(text: str) -> bool:
    """Whether the number of this text, written with as many digits, has the same ones."""
    if text in INFINITE:
        return True
    if INTEGER.fullmatch(text):
        return _is_whole(text, 2**53)
    if not DECIMAL.fullmatch(text) or not math.isfinite(number := float(text)):
        return False
    digits = re.split("[eE]", text)[0].replace(".", "").lstrip("+-0")
    return Decimal(f"{number:.{max(len(digits) - 1, 0)}e}") == Decimal(text)


def _uniform(table: "pd.DataFrame") -> "pd.DataFrame":
    """Columns of mixed kinds or of very large whole numbers, which Parquet does not know, as text."""
    for name in table.columns:
        values = table[name].dropna()
        large = values.dtype == object and any(isinstance(value, int) and abs(value) >= 2**63 for value in values)
        if large or (values.dtype == object and len({type(value) for value in values}) > 1):
            table[name] = table[name].map(str, na_action="ignore")
    return table
