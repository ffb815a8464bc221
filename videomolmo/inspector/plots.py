"""Plots over time, interactive and static."""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.inspector.compare import Differences
from videomolmo.inspector.inspection import Inspection, Scores, listed
from videomolmo.inspector.render import LAYER_SIGNS, Look, colour_of, paint
from videomolmo.io.drawing import luminance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure


LIGHT = 0.6  # luminance from which a line is hard to see on white


class Style(NamedTuple):
    """How a decision is drawn: Okabe and Ito's colours; the marker's name in plotly and in matplotlib."""

    colour: str
    symbol: str
    marker: str


DECISION_STYLES = {
    "key": Style("#7f7f7f", "diamond", "D"),
    "intersection": Style("#009e73", "circle", "o"),
    "union": Style("#e69f00", "square", "s"),
    "fallback": Style("#d55e00", "triangle-up", "^"),
    "one side": Style("#56b4e9", "triangle-right", ">"),
    "forward": Style("#0072b2", "triangle-left", "<"),
    "backward": Style("#cc79a7", "triangle-down", "v"),
    "mixed": Style("#b8860b", "x", "X"),
    "none": Style("#bbbbbb", "line-ew-open", "_"),
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


THEMES = ("light", "dark")
_GROUND = {"light": ("plotly_white", "#ffffff", "#222222"), "dark": ("plotly_dark", "#111418", "#e8e8e8")}
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
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

    objects, packed = inspection.objects, 0.06 * min(8, max(1, inspection.objects)) + 0.06
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[1 - packed, packed])
    frames, decisions = np.arange(inspection.frames), inspection.decisions()[:, : len(listed(objects))]
    for object_id in listed(objects):
        styles = [DECISION_STYLES[name] for name in decisions[:, object_id - 1]]
        figure.add_scatter(
            x=frames, y=inspection.agreement[:, object_id - 1], name=inspection.name_of(object_id),
            meta={"object": object_id},
            mode=_line(frames)["mode"], line={"color": hex_of(object_id, theme), "dash": _dash(object_id), "width": 2},
            marker={"color": [style.colour for style in styles], "symbol": [style.symbol for style in styles],
                    "size": 8, "line": {"color": hex_of(object_id, theme), "width": 1}},
            customdata=decisions[:, object_id - 1], hovertemplate="frame %{x} · IoU %{y:.2f} · %{customdata}",
            legendgroup="objects", row=1, col=1,
        )  # fmt: skip
    for name, style in DECISION_STYLES.items():
        where, which = np.nonzero(decisions == name)
        if len(where):
            object_ids = [inspection.name_of(object_id + 1) for object_id in which]
            figure.add_scatter(
                **_decided(inspection, where, object_ids, style), name=name, meta={"decision": name}, row=2, col=1,
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
        for object_id in listed(inspection.objects):
            series = inspection.series(object_id)
            values = np.where(series.area > 0, getattr(series, quantity), np.nan)
            figure.add_scatter(
                **_line(values), name=inspection.name_of(object_id),
                line={"color": hex_of(object_id, theme), "dash": _dash(object_id), "width": 2}, marker={"size": 5},
                meta={"object": object_id, "quantity": quantity}, legendgroup=f"object {object_id}",
                showlegend=row == 1,
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
        line={"color": "#cc79a7", "width": 2}, hovertemplate="frame %{x} · 1 - IoU = %{y:.2f}<extra></extra>",
    )  # fmt: skip
    _finish(figure, differences.first, t, theme, height=230)
    figure.update_yaxes(range=[-0.04, 1.06], title="1 - IoU of the two")
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
        font={"size": 14, "family": _FONT, "color": ink}, margin={"l": 70, "r": 12, "t": 24, "b": 46},
        legend={"font": {"size": 13}, "tracegroupgap": 6}, uirevision="inspector",
        shapes=[now, *({**upright, **faint, "x0": key, "x1": key} for key in keys)],
    )  # fmt: skip
    figure.update_xaxes(range=[-0.5, max(0.5, inspection.frames - 0.5)])


FRAMES = 6  # in a row of the contact sheet
WIDTH_IN, DPI = 13.0, 100
VIEW = (260, 260)
GAP = 8  # pixels between two frames
MAX_ANSWERS, MAX_LETTERS = 12, 110
Scoring = Callable[[Inspection], Scores | None]  # J&F of a result; None where there is none, or none yet
Row = tuple[float, Callable[[Any], None]]  # height in inches, and what draws it into its area


def static_picture(
    inspection: Inspection,
    other: Inspection | None = None,
    looks: Sequence[Look] = (),
    frame: int | None = None,
    scores: Scoring = Inspection.scores,
    differences: Differences | None = None,
) -> bytes:
    """The inspector on one page, as a PNG: frames, plots, answers, and what is missing; of two results, both.

    Frames are shown twice: as they are looked at, and with the layers that are left out there, for nobody can tick
    them on paper.

    Args:
        inspection, other: what is shown.
        looks: how each of them is, whatever the size; as `Look()` by default.
        frame: is among those shown.
        scores: gives J&F of a result.
        differences: of the two, where they are known already.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [inspection] + ([] if other is None else [other])
    if other is not None and differences is None:
        differences = Differences(inspection, other)
    text = _text(shown)
    plots = _plots(shown, scores, differences)
    frames = chosen_frames(shown, also=frame, differences=differences)
    sheets = _sheets(shown, looks or [Look()] * len(shown), frames)
    heights = [*(height for height, _ in sheets + plots), 0.165 * text.count("\n") + 0.4]
    total = sum(heights) + 0.35 * len(heights)
    figure = Figure(figsize=(WIDTH_IN, total), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    areas = figure.subfigures(len(heights), 1, height_ratios=heights)
    areas = list(np.atleast_1d(areas))
    for area, (_, draw) in zip(areas, sheets + plots, strict=False):
        draw(area)
    areas[-1].text(0.012, 0.98, text, va="top", ha="left", fontsize=9.5, family="monospace", parse_math=False)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # a model may write any script
        canvas.print_png(content)
    return content.getvalue()


def _sheets(shown: list[Inspection], looks: Sequence[Look], frames: list[int]) -> list[Row]:
    """Rows of frames: of each result as it is looked at, then with the other layers that it has."""
    rows = []
    for one, look, name in zip(shown, looks, ("first: ", "second: ") if len(shown) > 1 else ("",), strict=True):
        model = one.result.config.get("model", {})
        settings = f"rule {one.rule} · τ {one.tau:g}" + (f" · k {model['every']}" if model.get("every") else "")
        title = f"{name}“{one.sentence}” · {one.frames} frames · {one.objects} objects · {settings}"
        there = [t for t in frames if t < one.frames]
        if not there or not one.height:
            rows.append((0.5, partial(_no_frames, title=title)))
            continue
        height = min(4.0, WIDTH_IN / FRAMES * one.height / one.width) + 0.25
        rest = [layer for layer, reason in one.layers().items() if reason is None and layer not in look.layers]
        rows.append((height + 0.5, partial(_contact_sheet, one=one, look=look, frames=there, title=title)))
        if rest:
            bare = replace(look, layers=tuple(rest), points=False, trail=0)
            rows.append((height, partial(_contact_sheet, one=one, look=bare, frames=there)))
    return rows


def chosen_frames(
    shown: list[Inspection], also: int | None = None, differences: Differences | None = None
) -> list[int]:
    """`FRAMES` frames that tell most: of each stretch where the directions, or the two results, agree least.

    Args:
        shown: one result or two.
        also: the frame that is taken of its stretch whatever there is.
        differences: of the two, where they are known already.
    """
    first, frames = shown[0], max(one.frames for one in shown)
    if frames <= FRAMES:
        return list(range(frames))
    doubt = np.zeros(frames)
    if len(shown) > 1:
        values = (differences or Differences(*shown)).per_frame
    else:
        agreement = first.agreement
        values = np.where(agreement < first.tau, 1 - agreement, 0).max(axis=1, initial=0)
    doubt[: len(values)] = values
    edges = np.linspace(0, frames, FRAMES + 1).astype(int)
    if also is not None and 0 <= also < frames:
        doubt[also] = np.inf
    return [int(start + doubt[start:stop].argmax()) for start, stop in itertools.pairwise(edges)]


def _no_frames(area: Any, title: str) -> None:
    _title(area, title)
    area.text(0.5, 0.3, "no frames", ha="center", fontsize=12)


def _title(area: Any, title: str) -> None:
    y = 1 - 0.1 * DPI / area.bbox.height
    area.suptitle(title, y=y, fontsize=12, fontweight="bold", parse_math=False)


def _contact_sheet(area: Any, one: Inspection, look: Look, frames: list[int], title: str = "") -> None:
    """Frames in a row, the names of their layers below; under a title each has its number and what was decided."""
    if title:
        _title(area, title)
    outcomes, decisions = one.outcomes(), one.decisions()
    pictures = [paint(one, t, replace(look, size=VIEW)) for t in frames]
    height, width = pictures[0].shape[:2]
    step = width + GAP
    sheet = np.full((height, FRAMES * step - GAP, 3), 255, np.uint8)
    axes = area.add_axes(_inside(area, left=0.1, right=0.1, bottom=0.25, top=0.5 if title else 0.02))
    axes.set_axis_off()
    for n, (t, picture) in enumerate(zip(frames, pictures, strict=True)):
        sheet[:, n * step : n * step + width] = picture
        said = f"key: {outcomes[t]}" if t in outcomes else ", ".join(sorted({d for d in decisions[t] if d != "none"}))
        if title:
            text = f"{t} · {said or 'nothing there'}"
            axes.text(n * step + width / 2, -4, text, ha="center", va="bottom", fontsize=9)
    axes.imshow(sheet)
    layers = " · ".join(LAYER_SIGNS[layer] for layer in look.layers) or "no layer"
    axes.text(0, height + 5, layers, va="top", fontsize=9, parse_math=False)


def _inside(area: Any, left: float, right: float, bottom: float, top: float) -> tuple[float, float, float, float]:
    """What margins in inches leave of an area: left, bottom, width and height as shares of it."""
    width, height = area.bbox.width / DPI, area.bbox.height / DPI
    return left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height


def _axes(area: Any, rows: int, columns: int, legend: bool, **options: Any) -> np.ndarray:
    """Axes in an area, with room for their texts, and at the right for a legend; a layout engine takes a second."""
    left, bottom, width, height = _inside(area, 0.75, 2.1 if legend else 0.15, 0.5, 0.32)
    edges = {"left": left, "bottom": bottom, "right": left + width, "top": bottom + height}
    return area.subplots(rows, columns, squeeze=False, gridspec_kw=edges | options.pop("grid", {}), **options)


def _plots(shown: list[Inspection], scores: Scoring, differences: Differences | None) -> list[Row]:
    """Rows of plots, drawn as the live ones are."""
    rows: list[Row] = []
    for number, one in enumerate(shown):
        if one.frames:
            name, objects = ("first: ", "second: ")[number] if len(shown) > 1 else "", min(20, max(1, one.objects))
            titles = [f"{name}forward against backward; dotted: key frames", ""]
            ratios = 2.6, 0.5 + 0.16 * objects
            draw = partial(_static_plots, of=[agreement_figure(one)], titles=titles, ratios=ratios)
            rows.append((2.6 + 0.16 * objects, draw))
            titles = [f"{name}{quantity}(t)" for quantity in ("x", "y", "area")]
            rows.append((2.2, partial(_static_plots, of=[track_figure(one)], titles=titles)))
    if any(one.truth is not None for one in shown) or len(shown) > 1:
        figures = [scores_figure(shown[0], shown[1] if len(shown) > 1 else None, scores=scores)]
        figures += [] if differences is None else [difference_figure(differences)]
        titles = ["J&F against the truth", "difference of the two (1 - IoU)"]
        rows.append((2.2, partial(_static_plots, of=figures, titles=titles)))
    return rows


def _static_plots(area: Any, of: list[Figure], titles: list[str], ratios: Sequence[float] = ()) -> None:
    """Draw plotly's figures into an area: their plots side by side, or with `ratios` of heights one below the other."""
    plots = [(figure, name) for figure in of for name in _rows_of(figure)]
    if ratios:
        grid = {"height_ratios": ratios, "hspace": 0.12}
        every = _axes(area, len(plots), 1, legend=True, sharex=True, grid=grid)[:, 0]
    else:
        every = _axes(area, 1, len(plots), legend=False, grid={"wspace": 0.3})[0]
    for axes, (figure, name), title in zip(every, plots, titles, strict=False):
        layout, rows = figure.layout[f"yaxis{name[1:]}"], {}
        for trace in figure.data:
            if (trace.yaxis or "y") == name:
                _static_trace(axes, trace, rows)
        for shape in figure.layout.shapes[1:]:  # the first one is the line of time
            if shape.yref == "paper":
                axes.axvline(shape.x0, color="black", lw=0.6, ls=":", alpha=0.35)
            elif shape.yref == name:
                said = textwrap.fill(figure.layout.annotations[0].text, 18)
                axes.axhline(shape.y0, color=shape.line.color, ls="--", lw=1.4, alpha=shape.opacity, label=said)
        for note in figure.layout.annotations if not figure.data else ():
            axes.text(0.5, 0.5, note.text, ha="center", transform=axes.transAxes)
        if rows:
            axes.set_yticks(list(rows.values()), [row[:13] for row in rows], fontsize=8, parse_math=False)
            axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set(title=title, xlim=figure.layout.xaxis.range, ylabel=layout.title.text)
        if layout.range:
            axes.set_ylim(layout.range)
        if layout.autorange == "reversed":
            axes.invert_yaxis()
        if (ratios or figure.layout.meta == "legend") and axes.get_legend_handles_labels()[0]:
            beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "ncols": 1 + len(rows) // 9} if ratios else {}
            axes.legend(fontsize=8, **beside)
    for axes in every[-1:] if ratios else every:
        axes.set_xlabel("frame")


def _rows_of(figure: Figure) -> list[str]:
    """Names of a figure's y axes, from above: "y", "y2" …"""
    return [name.replace("axis", "") for name in figure.layout.to_plotly_json() if name.startswith("yaxis")]


def _static_trace(axes: Axes, trace: Any, rows: dict[str, int]) -> None:
    """Draw a trace; where its y are names, each has a row of its own, which `rows` numbers."""
    x = np.array([np.nan if at is None else at for at in trace.x], float)
    names = trace.y is not None and any(isinstance(value, str) for value in trace.y)
    y = [rows.setdefault(value, len(rows)) if isinstance(value, str) else value for value in trace.y]
    y = np.array([np.nan if value is None else value for value in y], float)
    if trace.fill:
        axes.fill_between(x, y, color=trace.line.color)
    elif names and "markers" in trace.mode:
        style = DECISION_STYLES[trace.name]
        axes.scatter(x, y, c=style.colour, marker=style.marker, s=18, label=trace.name)
    elif names:
        axes.plot(x, y, color=trace.line.color, lw=5, solid_capstyle="butt", label=trace.name)
    else:
        marker = "." if "markers" in trace.mode else None
        style = {"ls": DASHES[trace.line.dash or "solid"], "marker": marker, "ms": 4}
        axes.plot(x, y, color=trace.line.color, lw=1.6, label=trace.name, **style)


def _text(shown: list[Inspection]) -> str:
    """What the model wrote, and what is missing."""
    lines = []
    for number, one in enumerate(shown):
        name = ("first", "second")[number] + ": " if len(shown) > 1 else ""
        outcomes = one.outcomes()
        lines.append(f"{name}what the model wrote on {len(outcomes)} key frames")
        for answer in sorted(one.result.answers, key=lambda answer: answer.frame)[:MAX_ANSWERS]:
            said = textwrap.shorten(answer.text or "(nothing)", MAX_LETTERS, placeholder=" …")
            problem = f" ({answer.problem})" if answer.problem else ""
            lines.append(f"  {answer.frame:>5}  {outcomes[answer.frame]:<9}  {said}{problem}")
        if len(outcomes) > MAX_ANSWERS:
            lines.append(f"         … and {len(outcomes) - MAX_ANSWERS} more")
        missing = one.missing()
        lines.append(f"{name}missing: " + (" ".join(missing) if missing else "nothing"))
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, 150, subsequent_indent="    ") or [""])
