"""The inspector on one page, for readers without a kernel: frames, caption, plots, answers, what is missing."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from videomolmo.inspector.compare import Differences
from videomolmo.inspector.identities import edit_in_words
from videomolmo.inspector.inspection import Inspection, Piece
from videomolmo.inspector.moments import answer_lines, is_whole_video, moments_of
from videomolmo.inspector.plots import (
    DASHES,
    DECISION_STYLES,
    Scoring,
    agreement_figure,
    difference_figure,
    scores_figure,
    track_figure,
)
from videomolmo.inspector.render import LAYER_SIGNS, Look, paint, swatch
from videomolmo.io.drawing import ANY_GROUND, PAGE_INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

FRAMES = 6  # in a row of the contact sheet
WIDTH_IN, DPI = 13.0, 100
VIEW = (260, 260)
GAP = 8  # pixels between two frames
_CLEAR = dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "none")
MAX_IDS = 20  # numbers after a phrase that names several objects
MAX_ANSWERS, MAX_LETTERS = 12, 110
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

    Its ground is clear and its ink read on light and on dark: a stored picture does not know the theme of its page.
    Frames are shown twice: as they are looked at, and with the layers that are left out there, for nobody can tick
    them on paper.

    Args:
        inspection, other: what is shown.
        looks: how each of them is, whatever the size; as `Look()` by default.
        frame: is among those shown.
        scores: gives J&F of a result.
        differences: of the two, where they are known already.
    """
    shown = [inspection] + ([] if other is None else [other])
    if other is not None and differences is None:
        differences = Differences(inspection, other)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text = _text(shown)
    plots = _plots(shown, scores, differences)
    frames = chosen_frames(shown, also=frame, differences=differences)
    sheets = _sheets(shown, looks or [Look()] * len(shown), frames)
    heights = [*(height for height, _ in sheets + plots), 0.165 * text.count("\n") + 0.4]
    total = sum(heights) + 0.35 * len(heights)
    with matplotlib.rc_context(ANY_GROUND | _CLEAR):
        figure = Figure(figsize=(WIDTH_IN, total), dpi=DPI)
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
        found = f"{len(one.object_ids)} objects · {settings}"
        if is_whole_video(one):
            found = f"{sum(len(places) for _, places in moments_of(one))} points, no masks"
        title = f"{name}“{one.sentence}” · {one.frames} frames · {found}"
        there = [t for t in frames if t < one.frames]
        if not there or not one.height:
            rows.append((0.5, partial(_no_frames, title=title)))
            continue
        height = min(4.0, WIDTH_IN / FRAMES * one.height / one.width) + 0.25
        rest = [layer for layer, reason in one.layers().items() if reason is None and layer not in look.layers]
        rows.append((height + 0.5, partial(_contact_sheet, one=one, look=look, frames=there, title=title)))
        if one.object_ids:
            lines = _caption_lines(one.caption())
            rows.append((0.26 * len(lines) + 0.1, partial(_caption, lines=lines, look=look)))
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
    for at in (at for one in shown for at, _ in moments_of(one)):
        doubt[at] = 1.0
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
    sheet = np.zeros((height, FRAMES * step - GAP, 4), np.uint8)  # clear between them
    axes = area.add_axes(_inside(area, left=0.1, right=0.1, bottom=0.25, top=0.5 if title else 0.02))
    axes.set_axis_off()
    for n, (t, picture) in enumerate(zip(frames, pictures, strict=True)):
        sheet[:, n * step : n * step + width] = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
        said = f"key: {outcomes[t]}" if t in outcomes else ", ".join(sorted({d for d in decisions[t] if d != "none"}))
        if title:
            text = f"{t} · {said or 'nothing there'}"
            axes.text(n * step + width / 2, -4, text, ha="center", va="bottom", fontsize=9)
    axes.imshow(sheet)
    layers = " · ".join(LAYER_SIGNS[layer] for layer in look.layers) or "no layer"
    axes.text(0, height + 5, layers, va="top", fontsize=9, parse_math=False)


CAPTION_LETTERS, MAX_CAPTION_LINES = 150, 8  # of a line, about; further lines are left out
CaptionLine = list[tuple[str, tuple[int, ...]]]


def _caption_lines(pieces: Sequence[Piece]) -> list[CaptionLine]:
    """The caption as lines of pieces; a phrase that names several objects is followed by their numbers."""
    words = []
    for text, objects in pieces:
        parts = [text] if len(objects) == 1 and len(text) < CAPTION_LETTERS else re.findall(r"\s*\S+\s*", text)
        words += [(" ".join(part.split("\n")), objects if len(objects) == 1 else ()) for part in parts]
        words += [(f" {n} ", (n,)) for n in objects[:MAX_IDS]] if len(objects) > 1 else []
    lines: list[CaptionLine] = [[]]
    for text, objects in words:
        if lines[-1] and sum(len(said) for said, _ in lines[-1]) + len(text) > CAPTION_LETTERS:
            lines.append([])
        lines[-1].append((text, objects))
    return lines[:MAX_CAPTION_LINES] + ([[("…", ())]] if len(lines) > MAX_CAPTION_LINES else [])


def _caption(area: Any, lines: list[CaptionLine], look: Look) -> None:
    """Each phrase on a plate of its object's colour, as below the live picture."""
    height, width = area.bbox.height, area.bbox.width
    for row, line in enumerate(lines):
        x, y = 0.012 * width, height - DPI * (0.16 + 0.26 * row)
        for text, objects in line:
            plate = None
            if objects:
                colour, ink = swatch(look.colour_id(objects[0]))
                plate = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
            text = text if not objects or text.strip() == str(objects[0]) else f"{text.strip()} {_raised(objects[0])}"
            said = area.text(
                x / width, y / height, text.strip(), ha="left", va="center", fontsize=11, parse_math=False, bbox=plate,
                color=ink if plate else PAGE_INK,
            )  # fmt: skip
            x = said.get_window_extent().x1 - area.bbox.x0 + 0.09 * DPI


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


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
            name, objects = (
                ("first: ", "second: ")[number] if len(shown) > 1 else "",
                min(20, max(1, len(one.object_ids))),
            )
            if is_whole_video(one):
                rows.append((1.1, partial(_moments, one=one, title=f"{name}moments pointed at; dotted: frames shown")))
                continue
            titles = [f"{name}forward against backward; dotted: key frames", ""]
            ratios = 2.6, 0.5 + 0.16 * objects
            draw = partial(_static_plots, of=[agreement_figure(one)], titles=titles, ratios=ratios)
            rows.append((2.6 + 0.16 * objects, draw))
            titles = [f"{name}{quantity}(t)" for quantity in ("x", "y", "area")]
            rows.append((2.2, partial(_static_plots, of=[track_figure(one)], titles=titles)))
    if not is_whole_video(shown[0]) and (any(one.truth is not None for one in shown) or len(shown) > 1):
        figures = [scores_figure(shown[0], shown[1] if len(shown) > 1 else None, scores=scores)]
        figures += [] if differences is None else [difference_figure(differences)]
        titles = ["J&F against ground truth", "difference of the two (1 - IoU)"]
        rows.append((2.2, partial(_static_plots, of=figures, titles=titles)))
    return rows


def _moments(area: Any, one: Inspection, title: str) -> None:
    """A time line with the numbers of what was pointed at; those of one frame below each other."""
    axes = area.add_axes(_inside(area, left=0.75, right=0.15, bottom=0.45, top=0.3))
    axes.set(title=title, xlim=(-0.5, max(0.5, one.frames - 0.5)), yticks=[], xlabel="frame")
    for key in one.key_frames:
        axes.axvline(key, color="black", lw=0.6, ls=":", alpha=0.35)
    for frame, places in moments_of(one):
        colour, ink = swatch(places[0].number)
        plate = {"facecolor": colour, "edgecolor": "black", "boxstyle": "round,pad=0.25"}
        numbers = "\n".join(str(place.number) for place in places)
        axes.text(frame, 0.5, numbers, ha="center", va="center", color=ink, bbox=plate, fontsize=9)


def _static_plots(area: Any, of: list[Figure], titles: list[str], ratios: Sequence[float] = ()) -> None:
    """Draw plotly's figures into an area: their plots side by side, or with `ratios` of heights one below the other."""
    plots = [(figure, name) for figure in of for name in _rows_of(figure)]
    if ratios:
        grid = {"height_ratios": ratios, "hspace": 0.12}
        every = _axes(area, len(plots), 1, legend=True, sharex=True, grid=grid)[:, 0]
    else:
        every = _axes(area, 1, len(plots), legend=False, grid={"wspace": 0.3})[0]
    for axes, (figure, name), title in zip(every, plots, titles, strict=False):
        layout = figure.layout[f"yaxis{name[1:]}"]
        rows = {row: number for number, row in enumerate(layout.categoryarray or ())}
        for trace in figure.data:
            if (trace.yaxis or "y") == name:
                _static_trace(axes, trace, rows)
        for shape in figure.layout.shapes[1:]:  # the first one is the line of time
            if shape.yref == "paper":
                axes.axvline(shape.x0, color=PAGE_INK, lw=0.8, ls=":", alpha=0.7)
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
        if is_whole_video(one):
            lines += [f"{name}what the model wrote about the whole video", *answer_lines(one)]
            continue
        outcomes = {at: "rejected" if said == "dropped" else said for at, said in one.outcomes().items()}
        lines.append(f"{name}what the model wrote on {len(outcomes)} key frames")
        for answer in sorted(one.result.answers, key=lambda answer: answer.frame)[:MAX_ANSWERS]:
            said = textwrap.shorten(answer.text or "(nothing)", MAX_LETTERS, placeholder=" …")
            problem = f" ({answer.problem})" if answer.problem else ""
            lines.append(f"  {answer.frame:>5}  {outcomes[answer.frame]:<9}  {said}{problem}")
        if len(outcomes) > MAX_ANSWERS:
            lines.append(f"         … and {len(outcomes) - MAX_ANSWERS} more")
        for at in one.corrected_frames():
            names = ", ".join(map(one.name_of, sorted(one.corrections_on(at))))
            lines.append(f"  {at:>5}  corrected by hand: {names or 'the answer was rejected'}")
        lines += [
            f"  {edit.frame or '':>5}  corrected by hand: {edit_in_words(edit)}" for edit in one.history.state.edits
        ]
        missing = one.missing()
        lines.append(f"{name}missing: " + (" ".join(missing) if missing else "nothing"))
    return "\n".join(piece for line in lines for piece in textwrap.wrap(line, 150, subsequent_indent="    ") or [""])
