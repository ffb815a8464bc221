"""Plots of a result over time, as plotly figures; and one picture that says the same without a live kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.inspector.differences import Differences
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.plot_style import DECISION_STYLES, PLOTLY_DASHES, Style, hex_of
from videomolmo.inspector.shown import listed
from videomolmo.inspector.static import Scoring, static_picture

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["THEMES", "agreement_figure", "difference_figure", "scores_figure", "static_picture", "track_figure"]

THEMES = ("light", "dark")
_GROUND = {"light": ("plotly_white", "#ffffff", "#222222"), "dark": ("plotly_dark", "#111418", "#e8e8e8")}
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MOST_KEY_LINES = 120
MOST_MARKED = 80  # frames with a marker each: every marker is an element that browsers lay out for each frame shown


def agreement_figure(inspection: Inspection, t: int | None = None, theme: str = "light") -> Figure:
    """IoU of the two directions over time, a line per object, and below it what the rule decided, a row per object.

    One trace per object first (`meta={"object": id}`, x = frame numbers), then one per decision that occurs, in the
    legend: its frames, or in a long clip its runs, from half a frame before to half a frame after. The first shape is
    the line of time at `t` (hidden for None), which moves by its x0 and x1.

    Raises:
        BadInput: an unknown theme.
    """
    from plotly.subplots import make_subplots

    objects, strip = inspection.objects, 0.06 * min(8, max(1, inspection.objects)) + 0.06
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[1 - strip, strip])
    frames, decisions = np.arange(inspection.frames), inspection.decisions()
    for thing in listed(objects):
        styles = [DECISION_STYLES[name] for name in decisions[:, thing - 1]]
        figure.add_scatter(
            x=frames, y=inspection.agreement[:, thing - 1], name=name_of(inspection, thing), meta={"object": thing},
            mode=_line(frames)["mode"], line={"color": hex_of(thing, theme), "dash": _dash(thing), "width": 2},
            marker={"color": [style.colour for style in styles], "symbol": [style.symbol for style in styles],
                    "size": 8, "line": {"color": hex_of(thing, theme), "width": 1}},
            customdata=decisions[:, thing - 1], hovertemplate="frame %{x} · IoU %{y:.2f} · %{customdata}",
            legendgroup="objects", row=1, col=1,
        )  # fmt: skip
    for name, style in DECISION_STYLES.items():
        where, which = np.nonzero(decisions == name)
        if len(where):
            things = [name_of(inspection, thing + 1) for thing in which]
            figure.add_scatter(
                **_decided(inspection, where, things, style), name=name, meta={"decision": name}, row=2, col=1,
                legendgroup="decisions", hovertemplate="frame %{x} · %{y}: " + name + "<extra></extra>",
            )  # fmt: skip
    _finish(figure, inspection, t, theme, height=270 + 22 * max(1, objects))
    used = "" if "tau" in RULES[inspection.rule].options else f" (rule {inspection.rule} does not ask)"
    figure.add_hline(
        inspection.tau, line={"color": "#d55e00", "width": 2, "dash": "dash"}, opacity=0.35 if used else 1, row=1,
        col=1, annotation={"text": f"τ = {inspection.tau:.2f}{used}", "font": {"size": 13}},
    )  # fmt: skip
    figure.update_yaxes(range=[-0.04, 1.06], title="agreement (IoU)", row=1, col=1)
    figure.update_yaxes(autorange="reversed", type="category", row=2, col=1)
    figure.update_xaxes(title="frame", row=2, col=1)
    return figure


def track_figure(inspection: Inspection, t: int | None = None, theme: str = "light") -> Figure:
    """x(t), y(t) and area(t) of every object, three rows with one time axis; traces and line of time as above."""
    from plotly.subplots import make_subplots

    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.04)
    for row, (quantity, text) in enumerate((("x", "x px"), ("y", "y px, down"), ("area", "area px")), start=1):
        for thing in listed(inspection.objects):
            series = inspection.series(thing)
            values = np.where(series.area > 0, getattr(series, quantity), np.nan)
            figure.add_scatter(
                **_line(values), name=name_of(inspection, thing),
                line={"color": hex_of(thing, theme), "dash": _dash(thing), "width": 2}, marker={"size": 5},
                meta={"object": thing, "quantity": quantity}, legendgroup=f"object {thing}", showlegend=row == 1,
                hovertemplate="frame %{x} · " + text + " %{y:.1f}", row=row, col=1,
            )  # fmt: skip
        figure.update_yaxes(title=text, row=row, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    _finish(figure, inspection, t, theme, height=460)
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
    _finish(figure, inspection, t, theme, height=270)
    waiting = any(one.truth is not None and scores(one) is None for _, one in both)
    if waiting or not figure.data:
        text = "J&F is being computed …" if waiting else "no truth was given: nothing to score"
        figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_yaxes(range=[-0.04, 1.06], title="J&F")
    figure.update_xaxes(title="frame")
    return figure


def difference_figure(differences: Differences, t: int | None = None, theme: str = "light") -> Figure:
    """How much two results differ, per frame: 0 the same, 1 nothing in common."""
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.add_scatter(
        x=np.arange(differences.frames), y=differences.per_frame, mode="lines", fill="tozeroy", name="difference",
        line={"color": "#cc79a7", "width": 2}, hovertemplate="frame %{x} · 1 - IoU = %{y:.2f}<extra></extra>",
    )  # fmt: skip
    _finish(figure, differences.first, t, theme, height=230)
    figure.update_yaxes(range=[-0.04, 1.06], title="1 - IoU of the two")
    figure.update_xaxes(title="frame")
    return figure


def name_of(inspection: Inspection, thing: int) -> str:
    """The name the user gave to an object, or "object n"."""
    return inspection.names.get(thing) or f"object {thing}"


def _line(values: np.ndarray) -> dict[str, Any]:
    """Values of all frames as a line: with markers, or in a long clip with a dash where one frame stands alone."""
    frames = np.arange(len(values), dtype=float)
    if len(values) <= MOST_MARKED:
        return {"x": frames, "y": values, "mode": "lines+markers"}
    seen = np.pad(~np.isnan(values), 1)
    lone = seen[1:-1] & ~seen[:-2] & ~seen[2:]
    x, ends = np.repeat(frames, 1 + lone), np.repeat(lone, 1 + lone)
    x[ends] += np.tile((-0.4, 0.4), lone.sum())
    return {"x": x, "y": np.repeat(values, 1 + lone), "mode": "lines"}


def _decided(inspection: Inspection, frames: np.ndarray, things: list[str], style: Style) -> dict[str, Any]:
    """A decision's frames and the names of its objects: a marker for each frame, or one bar for each run of frames."""
    if inspection.frames <= MOST_MARKED:
        marker = {"color": style.colour, "symbol": style.symbol, "size": 8}
        return {"x": frames, "y": things, "mode": "markers", "marker": marker}
    x, y = [], []
    for name in dict.fromkeys(things):
        own = np.array([frame for frame, thing in zip(frames, things, strict=True) if thing == name])
        for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
            x += [run[0] - 0.5, run[-1] + 0.5, None]
            y += [name, name, None]
    return {"x": x, "y": y, "mode": "lines", "line": {"color": style.colour, "width": 9}}


def _dash(thing: int) -> str:
    return PLOTLY_DASHES[(thing - 1) % len(PLOTLY_DASHES)]


def _finish(figure: Figure, inspection: Inspection, t: int | None, theme: str, height: int) -> None:
    """Theme, fonts, the line of time as the first shape, key frames as faint lines."""
    if theme not in THEMES:
        raise BadInput(f"theme is {theme!r}, expected one of {', '.join(THEMES)}")
    template, ground, ink = _GROUND[theme]
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "xref": "x"}
    at = 0 if t is None else t
    now = {**upright, "x0": at, "x1": at, "visible": t is not None, "line": {"color": ink, "width": 2}}
    keys = inspection.key_frames if len(inspection.key_frames) <= MOST_KEY_LINES else []
    faint = {"line": {"color": ink, "width": 1, "dash": "dot"}, "opacity": 0.22, "layer": "below"}
    figure.update_layout(
        template=template, paper_bgcolor=ground, plot_bgcolor=ground, height=height, hovermode="closest",
        font={"size": 14, "family": _FONT, "color": ink}, margin={"l": 70, "r": 12, "t": 24, "b": 46},
        legend={"font": {"size": 13}, "tracegroupgap": 6}, uirevision="inspector",
        shapes=[now, *({**upright, **faint, "x0": key, "x1": key} for key in keys)],
    )  # fmt: skip
    figure.update_xaxes(range=[-0.5, max(0.5, inspection.frames - 0.5)])
