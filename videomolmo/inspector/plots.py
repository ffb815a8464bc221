"""Plots over time: agreement and decisions, scores, differences, tracks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.inspector.compare import Differences
from videomolmo.inspector.inspection import Inspection, Scores, listed
from videomolmo.inspector.render import colour_of
from videomolmo.io.drawing import luminance

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


Scoring = Callable[[Inspection], Scores | None]  # J&F of a result; None where there is none, or none yet
LIGHT = 0.6  # luminance from which a line is hard to see on white


class Style(NamedTuple):
    """How a decision is drawn: Okabe and Ito's colours; the marker's name in plotly and in matplotlib."""

    colour: str
    symbol: str
    marker: str


DECISION_STYLES = {  # of no object's colours, light or dark, and told apart by colour-blind people as well
    "key": Style("#a040e8", "diamond", "D"),
    "intersection": Style("#00b8b8", "circle", "o"),
    "union": Style("#f000a8", "square", "s"),
    "fallback": Style("#f00000", "triangle-up", "^"),
    "single direction": Style("#7890f0", "triangle-right", ">"),
    "forward": Style("#2030e8", "triangle-left", "<"),
    "backward": Style("#f09060", "triangle-down", "v"),
    "mixed": Style("#507000", "x", "X"),
    "none": Style("#c0c0c0", "line-ew-open", "_"),
}
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}  # in plotly and in matplotlib


def hex_of(object_id: int, theme: str = "light") -> str:
    """Colour of an object's line, as "#rrggbb"; light colours are darkened on a light ground, to be seen on it.

    Example:
        >>> hex_of(4, "dark"), hex_of(4)
        ('#f0e442', '#a89f2e')
    """
    colour = colour_of(object_id)
    if theme == "light" and luminance(colour) > LIGHT:
        colour = tuple(int(0.7 * value) for value in colour)
    return "#{:02x}{:02x}{:02x}".format(*colour)


def label_of(inspection: Inspection, object_id: int, letters: int = 24) -> str:
    """An object's number and name for a legend, cut short; the number tells apart what is named alike."""
    name = inspection.names.get(object_id)
    if name is None:
        return f"object {object_id}" if letters > 12 else str(object_id)
    text = f"{object_id} · {name}"
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


ROW_LETTERS = 10  # of a name beside the plot of decisions
THEMES = ("light", "dark")
_GROUND = {"light": ("plotly_white", "#ffffff", "#222222"), "dark": ("plotly_dark", "#111418", "#e8e8e8")}
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LINES_PX, ROW_PX, MARGINS_PX = 110, 16, 44  # heights of a plot of lines, of an object's row, and of what is around
MAX_KEY_LINES = 120
MAX_MARKED = 80  # frames with a marker each: every marker is an element that browsers lay out for each frame shown


def agreement_figure(inspection: Inspection, t: int | None = None, theme: str = "light") -> Figure:
    """IoU of the two directions over time, a line per object, and below it what the rule decided, a row per object.

    One trace per object first (`meta={"object": id}`, x = frame numbers), then one per decision that occurs, in the
    legend: its frames, or in a long clip its runs, from half a frame before to half a frame after. The first shape is
    the line of time at `t` (hidden for None), which moves by its x0 and x1.

    Raises:
        BadInput: an unknown theme.
    """
    from plotly.subplots import make_subplots

    objects = listed(inspection)
    rows = max(1, len(objects))
    heights = [LINES_PX, 14 + ROW_PX * rows]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=8 / sum(heights), row_heights=heights)
    frames, decisions = np.arange(inspection.frames), inspection.decisions()[:, [n - 1 for n in objects]]
    for object_id, decided in zip(objects, decisions.T, strict=True):
        styles, colour = [DECISION_STYLES[name] for name in decided], inspection.identities.colour_of(object_id)
        figure.add_scatter(
            x=frames, y=inspection.agreement[:, object_id - 1], name=label_of(inspection, object_id),
            meta={"object": object_id},
            mode=_line(frames)["mode"], line={"color": hex_of(colour, theme), "dash": _dash(colour), "width": 2},
            marker={"color": [style.colour for style in styles], "symbol": [style.symbol for style in styles],
                    "size": 8, "line": {"color": hex_of(colour, theme), "width": 1}},
            customdata=decided, hovertemplate="frame %{x} · IoU %{y:.2f} · %{customdata}",
            showlegend=False, row=1, col=1,
        )  # fmt: skip
    for name, style in DECISION_STYLES.items():
        where, which = np.nonzero(decisions == name)
        if len(where):
            object_ids = [label_of(inspection, objects[column], ROW_LETTERS) for column in which]
            figure.add_scatter(
                **_decided(inspection, where, object_ids, style), name=name, meta={"decision": name}, row=2, col=1,
                hovertemplate="frame %{x} · %{y}: " + name + "<extra></extra>",
            )  # fmt: skip
    _finish(figure, inspection, t, theme, height=sum(heights) + 8 + MARGINS_PX)
    used = "" if "tau" in RULES[inspection.rule].options else f" (rule {inspection.rule} does not ask)"
    figure.add_hline(
        inspection.tau, line={"color": "#d55e00", "width": 2, "dash": "dash"}, opacity=0.35 if used else 1, row=1,
        col=1, annotation={"text": f"τ = {inspection.tau:.2f}{used}", "font": {"size": 12}},
    )  # fmt: skip
    figure.update_yaxes(range=[-0.04, 1.06], title="IoU", row=1, col=1)
    order = [label_of(inspection, object_id, ROW_LETTERS) for object_id in objects]
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order, row=2, col=1)
    figure.update_xaxes(title="frame", row=2, col=1)
    return figure


def track_figure(inspection: Inspection, t: int | None = None, theme: str = "light") -> Figure:
    """x(t), y(t) and area(t) of every object, three rows with one time axis; traces and line of time as above."""
    from plotly.subplots import make_subplots

    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.04)
    for row, (quantity, text) in enumerate((("x", "x, px"), ("y", "y, px"), ("area", "area, px")), start=1):
        for object_id in listed(inspection):
            series, colour = inspection.series(object_id), inspection.identities.colour_of(object_id)
            values = np.where(series.area > 0, getattr(series, quantity), np.nan)
            figure.add_scatter(
                **_line(values), name=label_of(inspection, object_id),
                line={"color": hex_of(colour, theme), "dash": _dash(colour), "width": 2}, marker={"size": 5},
                meta={"object": object_id, "quantity": quantity}, showlegend=False,
                hovertemplate="frame %{x} · " + text + " %{y:.1f}", row=row, col=1,
            )  # fmt: skip
        figure.update_yaxes(title=text, row=row, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    _finish(figure, inspection, t, theme, height=3 * 70 + MARGINS_PX)
    figure.update_xaxes(title="frame", row=3, col=1)
    return figure


def scores_figure(
    inspection: Inspection,
    other: Inspection | None = None,
    t: int | None = None,
    theme: str = "light",
    scores: Scoring = Inspection.scores,
) -> Figure:
    """J&F per frame against truth, of one or of two results, each with its mean; says so where there is no truth.

    `scores` gives those of a result, or None while they are computed, which the figure says.
    """
    from plotly.graph_objects import Figure

    figure = Figure()
    both = [("left", inspection)] + ([] if other is None else [("right", other)])
    for number, (name, one) in enumerate(both, start=1):
        found = scores(one)
        if found is None or not np.isfinite(found.per_frame).any():
            continue
        label = "J&F" if other is None else name
        figure.add_scatter(
            **_line(found.per_frame), meta={"result": name},
            name=f"{label}, mean {np.nanmean(found.per_frame):.2f}", marker={"size": 5},
            line={"color": hex_of(number, theme), "dash": _dash(number), "width": 2.5},
            hovertemplate="frame %{x} · J&F %{y:.2f}",
        )  # fmt: skip
    _finish(figure, inspection, t, theme, height=LINES_PX + MARGINS_PX)
    waiting = any(one.truth is not None and scores(one) is None for _, one in both)
    if waiting or not figure.data:
        text = "J&F is being computed …" if waiting else "no ground truth was given: nothing to score"
        figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_layout(meta="legend")
    figure.update_yaxes(range=[-0.04, 1.06], title="J&F")
    figure.update_xaxes(title="frame")
    return figure


def difference_figure(differences: Differences, t: int | None = None, theme: str = "light") -> Figure:
    """How much two results differ, per frame: 0 the same, 1 nothing in common."""
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.add_scatter(
        x=np.arange(differences.frames), y=differences.per_frame, mode="lines", fill="tozeroy", name="difference",
        line={"color": "#a040e8", "width": 2}, hovertemplate="frame %{x} · 1 - IoU = %{y:.2f}<extra></extra>",
    )  # fmt: skip
    _finish(figure, differences.first, t, theme, height=LINES_PX + MARGINS_PX)
    figure.update_yaxes(range=[-0.04, 1.06], title="1 − IoU")
    figure.update_xaxes(title="frame")
    return figure


def _line(values: np.ndarray) -> dict[str, Any]:
    """Values of all frames as a line: with markers, or in a long clip with a dash where one frame stands alone."""
    frames = np.arange(len(values), dtype=float)
    if len(values) <= MAX_MARKED:
        return {"x": frames, "y": values, "mode": "lines+markers"}
    seen = np.pad(~np.isnan(values), 1)
    lone = seen[1:-1] & ~seen[:-2] & ~seen[2:]
    x, ends = np.repeat(frames, 1 + lone), np.repeat(lone, 1 + lone)
    x[ends] += np.tile((-0.4, 0.4), lone.sum())
    return {"x": x, "y": np.repeat(values, 1 + lone), "mode": "lines"}


def _decided(inspection: Inspection, frames: np.ndarray, object_ids: list[str], style: Style) -> dict[str, Any]:
    """A decision's frames and the names of its objects: a marker for each frame, or one bar for each run of frames."""
    if inspection.frames <= MAX_MARKED:
        marker = {"color": style.colour, "symbol": style.symbol, "size": 8}
        return {"x": frames, "y": object_ids, "mode": "markers", "marker": marker}
    x, y = [], []
    for name in dict.fromkeys(object_ids):
        own = np.array([frame for frame, object_id in zip(frames, object_ids, strict=True) if object_id == name])
        for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
            x += [run[0] - 0.5, run[-1] + 0.5, None]
            y += [name, name, None]
    return {"x": x, "y": y, "mode": "lines", "line": {"color": style.colour, "width": 9}}


def _dash(object_id: int) -> str:
    return list(DASHES)[(object_id - 1) % len(DASHES)]


def _finish(figure: Figure, inspection: Inspection, t: int | None, theme: str, height: int) -> None:
    """Theme, fonts, the line of time as the first shape, key frames as faint lines."""
    if theme not in THEMES:
        raise BadInput(f"theme is {theme!r}, expected one of {', '.join(THEMES)}")
    template, ground, ink = _GROUND[theme]
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "xref": "x"}
    at = 0 if t is None else t
    now = {**upright, "x0": at, "x1": at, "visible": t is not None, "line": {"color": ink, "width": 2}}
    keys = inspection.key_frames if len(inspection.key_frames) <= MAX_KEY_LINES else []
    faint = {"line": {"color": ink, "width": 1, "dash": "dot"}, "opacity": 0.22, "layer": "below"}
    figure.update_layout(
        template=template, paper_bgcolor=ground, plot_bgcolor=ground, height=height, hovermode="closest",
        font={"size": 13, "family": _FONT, "color": ink}, margin={"l": 84, "r": 14, "t": 8, "b": 36},
        uirevision="inspector",
        shapes=[now, *({**upright, **faint, "x0": key, "x1": key} for key in keys)],
    )  # fmt: skip
    figure.update_yaxes(automargin=False, title_standoff=4)  # all time axes stand below each other
    figure.update_xaxes(automargin=False, title_standoff=2)
    figure.update_xaxes(range=[-0.5, max(0.5, inspection.frames - 0.5)])
