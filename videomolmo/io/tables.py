"""Tables as CSV files that spreadsheets only show: what they would take for a formula is written as text."""

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.io.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# What spreadsheets run, or throw away before they look for it; after apostrophes, so that `read_csv` knows its own.
FORMULA = re.compile("'*(?:[\\s\0\ufeff]*[-=+@－＝＋＠]|[\t\r\n])")


def write_csv(table: "pd.DataFrame", path: Path, **options: Any) -> Path:
    """The table as CSV without its index, written atomically; returns `path`.

    Text that a spreadsheet would run (it begins with = + - @, a tab or a line's end, also after spaces) gets an
    apostrophe in front, in names of columns too; `read_csv` takes it away. Numbers, also as texts, stay as they are.

    Args:
        options: of pandas' `to_csv`.
    """
    table = _texts(table, _shown)
    text = table.to_csv(index=False, lineterminator="\n", **options)
    if "\r" in text:  # Python's writer leaves it bare, and every reader ends the line there
        text = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC, **options)
    write_text(path, text)
    return path


def read_csv(path: Path, **options: Any) -> "pd.DataFrame":
    """A table as `write_csv` was given it: "NA", "None" and the like are words, and only what is empty is missing.

    Args:
        options: of pandas' `read_csv`, whose errors these are.
    """
    import pandas as pd

    table = pd.read_csv(path, **{"keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"} | options)
    return _texts(table, _bare)


def _texts(table: "pd.DataFrame", change: "Callable[[Any], Any]") -> "pd.DataFrame":
    """The table with all its texts changed, those of its header included."""
    from pandas.api.types import is_numeric_dtype

    return table.rename(columns=change).apply(
        lambda column: column if is_numeric_dtype(column) else column.map(change, na_action="ignore")
    )


def _shown(value: Any) -> Any:
    risky = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if risky else value


def _bare(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value
