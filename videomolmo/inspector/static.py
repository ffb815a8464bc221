"""The inspector on one page: frames, plots, answers and gaps, for readers without a live kernel."""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from videomolmo.fusion import RULES
from videomolmo.inspector.differences import Differences
from videomolmo.inspector.inspection import Inspection, Scores
from videomolmo.inspector.painting import LAYER_SIGNS, Look, paint
from videomolmo.inspector.plot_style import DECISION_STYLES, MATPLOTLIB_DASHES, hex_of
from videomolmo.inspector.shown import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES = 6  # in a row of the contact sheet
WIDTH_IN, DPI = 13.0, 100
VIEW = (260, 260)
GAP = 8  # pixels between two frames
MOST_ANSWERS, MOST_LETTERS = 12, 110
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
    shown: list[Inspection], most: int = FRAMES, also: int | None = None, differences: Differences | None = None
) -> list[int]:
    """Frames that tell most: one of each stretch of the clip, where the directions, or the two results, agree least.

    Args:
        shown: one result or two.
        most: so many at most.
        also: the frame that is taken of its stretch whatever there is.
        differences: of the two, where they are known already.
    """
    first, frames = shown[0], max(one.frames for one in shown)
    if frames <= most:
        return list(range(frames))
    doubt = np.zeros(frames)
    if len(shown) > 1:
        values = (differences or Differences(*shown)).per_frame
    else:
        agreement = first.agreement
        values = np.where(agreement < first.tau, 1 - agreement, 0).max(axis=1, initial=0)
    doubt[: len(values)] = values
    edges = np.linspace(0, frames, most + 1).astype(int)
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
    """Rows of plots."""
    rows = []
    for number, one in enumerate(shown):
        if one.frames:
            name = ("first: ", "second: ")[number] if len(shown) > 1 else ""
            height = 2.6 + 0.16 * min(20, one.objects)
            rows.append((height, lambda area, one=one, name=name: _agreement(area, one, name)))
            rows.append((2.2, lambda area, one=one, name=name: _tracks(area, one, name)))
    if any(one.truth is not None for one in shown) or len(shown) > 1:
        rows.append((2.2, lambda area: _scores(area, shown, scores, differences)))
    return rows


def _agreement(area: Any, inspection: Inspection, name: str) -> None:
    """Lines of agreement above, a row of decisions for each object below."""
    objects = max(1, len(listed(inspection.objects)))
    grid = {"height_ratios": [2.6, 0.5 + 0.16 * min(20, objects)], "hspace": 0.12}
    upper, lower = _axes(area, 2, 1, legend=True, sharex=True, grid=grid)[:, 0]
    frames, decisions = np.arange(inspection.frames), inspection.decisions()[:, :objects]
    for thing in listed(inspection.objects):
        line = {
            "color": hex_of(thing),
            "linestyle": MATPLOTLIB_DASHES[(thing - 1) % 4],
            "label": _name(inspection, thing),
        }
        upper.plot(frames, inspection.agreement[:, thing - 1], marker=".", lw=1.6, **line)
    for text, style in DECISION_STYLES.items():
        where, which = np.nonzero(decisions == text)
        if len(where):
            lower.scatter(where, which + 1, c=style.colour, marker=style.marker, s=18, label=text)
    unused = "" if "tau" in RULES[inspection.rule].options else " (not asked)"
    upper.axhline(inspection.tau, color="#d55e00", ls="--", lw=1.4, label=f"τ = {inspection.tau:g}{unused}")
    for axes in (upper, lower):
        along = axes.get_xaxis_transform()  # frames from left to right, the whole height
        axes.vlines(inspection.key_frames, 0, 1, transform=along, color="black", lw=0.6, ls=":", alpha=0.35)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + objects // 9)
    upper.set(ylim=(-0.04, 1.06), ylabel="agreement (IoU)", title=f"{name}forward against backward; dotted: key frames")
    lower.set(ylim=(objects + 0.6, 0.4), yticks=range(1, objects + 1), ylabel="object", xlabel="frame")
    lower.set_xlim(-0.5, max(0.5, inspection.frames - 0.5))


def _tracks(area: Any, inspection: Inspection, name: str) -> None:
    row = _axes(area, 1, 3, legend=False, grid={"wspace": 0.3})[0]
    for axes, quantity in zip(row, ("x", "y", "area"), strict=True):
        for thing in listed(inspection.objects):
            series = inspection.series(thing)
            values = np.where(series.area > 0, getattr(series, quantity), np.nan)
            style = MATPLOTLIB_DASHES[(thing - 1) % 4]
            axes.plot(values, color=hex_of(thing), linestyle=style, lw=1.6, marker=".", ms=3)
        axes.set(title=f"{name}{quantity}(t)", xlabel="frame", ylabel=f"{quantity} px")
        if quantity == "y":
            axes.invert_yaxis()


def _scores(area: Any, shown: list[Inspection], scores_of: Scoring, differences: Differences | None) -> None:
    both = len(shown) > 1
    every: list[Axes] = list(_axes(area, 1, 1 + both, legend=False)[0])
    for number, one in enumerate(shown, start=1):
        scores = scores_of(one)
        if scores is not None and np.isfinite(scores.per_frame).any():
            label = f"{('', 'first ', 'second ')[number * both]}mean {np.nanmean(scores.per_frame):.2f}"
            every[0].plot(
                scores.per_frame, color=hex_of(number), marker=".", ls=MATPLOTLIB_DASHES[number - 1], label=label
            )
    every[0].set(ylim=(-0.04, 1.06), title="J&F against the truth", xlabel="frame")
    if every[0].lines:
        every[0].legend(fontsize=8)
    else:
        every[0].text(0.5, 0.5, "no truth was given", ha="center", transform=every[0].transAxes)
    if differences is not None:
        every[1].fill_between(range(differences.frames), differences.per_frame, color="#cc79a7")
        every[1].set(ylim=(-0.04, 1.06), title="difference of the two (1 - IoU)", xlabel="frame")


def _text(shown: list[Inspection]) -> str:
    """What the model wrote, and what is missing."""
    lines = []
    for number, one in enumerate(shown):
        name = ("first", "second")[number] + ": " if len(shown) > 1 else ""
        outcomes = one.outcomes()
        lines.append(f"{name}what the model wrote on {len(outcomes)} key frames")
        for answer in sorted(one.result.answers, key=lambda answer: answer.frame)[:MOST_ANSWERS]:
            said = textwrap.shorten(answer.text or "(nothing)", MOST_LETTERS, placeholder=" …")
            problem = f" ({answer.problem})" if answer.problem else ""
            lines.append(f"  {answer.frame:>5}  {outcomes[answer.frame]:<9}  {said}{problem}")
        if len(outcomes) > MOST_ANSWERS:
            lines.append(f"         … and {len(outcomes) - MOST_ANSWERS} more")
        missing = one.missing()
        lines.append(f"{name}missing: " + (" ".join(missing) if missing else "nothing"))
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, 150, subsequent_indent="    ") or [""])


def _name(inspection: Inspection, thing: int) -> str:
    return inspection.names.get(thing) or f"object {thing}"
