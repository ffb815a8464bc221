"""How notebooks show things: tables whose texts stay texts, and plots for light and dark pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.io.drawing import ANY_GROUND, PAGE_INK
from videomolmo.io.files import check_folder

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

# Seen on white and on JupyterLab's #111111 (3:1 or more on both), and with any kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c46a9a", "#b07800", "#2f8fd0", "#8f8400", "#7f7f7f")
TEXT, LINES, CLEAR = PAGE_INK, "rgba(128, 128, 128, 0.3)", "rgba(0, 0, 0, 0)"
MATPLOTLIB = ANY_GROUND | {"savefig.transparent": True}  # the same for what matplotlib draws


def prepare(results_folder: str | Path) -> None:
    """Refuse a folder that results cannot go to; have plotly draw on the page's own ground, be it light or dark.

    Raises:
        BadInput: the folder is a file, or nothing can be written there.
    """
    import plotly.graph_objects as go
    import plotly.io

    check_folder(results_folder, overwrite=True, results=False)
    axis = {"gridcolor": LINES, "linecolor": LINES, "zerolinecolor": LINES, "automargin": True}
    layout = {
        "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "font": {"color": TEXT, "size": 13}, "colorway": COLOURS,
        "xaxis": axis, "yaxis": axis, "legend": {"bgcolor": CLEAR}, "shapedefaults": {"line": {"color": TEXT}},
    }  # fmt: skip
    plotly.io.templates["videomolmo"] = go.layout.Template(layout=layout)
    plotly.io.templates.default = "videomolmo"


def show_table(
    table: pd.DataFrame, digits: int = 2, *, shaded: Sequence[Any] = (), low: float | None = None,
    high: float | None = None, axis: int = 0, index: bool = True,
) -> Styler:  # fmt: skip
    """A table for a notebook: texts in full and as they are, fractions rounded, what is missing left empty.

    An answer such as `<point x="3" …>` is shown; in a table of pandas' own Styler a browser takes it for markup.

    Args:
        digits: after the decimal point; whole numbers have none.
        shaded: columns with a ground from dark (`low`) to light (`high`), by default from their own least to their
            greatest value; `axis` as in pandas.
        index: whether the names of rows are shown.

    Example:
        >>> import pandas as pd
        >>> shown = show_table(pd.DataFrame({"text": ["<point>", "b"], "right": [True, False]})).to_html()
        >>> "&lt;point&gt;" in shown, ">yes<" in shown, "False" in shown
        (True, True, False)
    """
    texts = [at for at, name in enumerate(table.columns) if any(isinstance(one, str) for one in table[name])]
    left = [{"selector": f"td.col{at}, th.col{at}", "props": "text-align: left"} for at in texts]
    whole = [{"selector": "td", "props": "white-space: pre-wrap; max-width: none"}]
    styler = table.rename_axis(index=_escaped, columns=_escaped).style.set_table_styles(whole + left)
    styler = styler.set_table_attributes('class="tex2jax_ignore mathjax_ignore"')  # two dollars are no formula
    for along in ("index", "columns"):
        styler = styler.format_index(_escaped, axis=along)
    if len(shaded):
        styler = styler.background_gradient("viridis", axis=axis, vmin=low, vmax=high, subset=list(shaded))
    styler = styler if index else styler.hide(axis="index")
    return styler.format(lambda value: _shown(value, digits))


def _escaped(value: Any) -> str | None:
    return None if value is None else html.escape(str(value))


def _shown(value: Any, digits: int) -> str:
    import numpy as np

    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}f}"
    return ("yes" if value else "") if isinstance(value, bool | np.bool_) else _escaped(value)
