"""Panels about objects and corrections as rows: whose identity is whose, what was corrected, tables to sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from videomolmo.inspector.background import Debounced
from videomolmo.inspector.doubt import doubtful_frames
from videomolmo.inspector.identities import ACTIONS, edit_in_words, edit_of
from videomolmo.inspector.inspection import Inspection, listed
from videomolmo.inspector.session import InspectorState
from videomolmo.inspector.view_panels import choose_next, section

MAX_ROWS = 5000  # of a table; a browser lays out each
WORDS = {"remove_point": "point removed", "drop_answer": "key frame rejected", "move_point": "point moved",
         "add_box": "box", "edit_mask": "mask drawn"}  # fmt: skip
Cell = float | int | str | None


class IdentityPanel:
    """Two objects, and what can be made of them.

    Attributes:
        object, other: which ones.
        swap, merge, split, delete: buttons.
    """

    def __init__(self, state: InspectorState, chosen: widgets.Dropdown) -> None:
        self._state = state
        wide = {"style": {"description_width": "46px"}, "layout": widgets.Layout(width="auto")}
        self.object = widgets.Dropdown(description="object", **wide)
        self.other = widgets.Dropdown(description="other", **wide)
        state.tip(self.object, "the object that is swapped, split, deleted, or that the other is merged into  (1–9)")
        state.tip(self.other, "the object that it is swapped with, or that is merged into it  (O: next)")
        state.bind("O", lambda: choose_next(self.other))
        self.swap = self._button("swap ids", "exchange", self._swap, "w", "from this frame on each has the other's id")
        self.merge = self._button("merge", "compress", self._merge, "j", "the other becomes a part of the object")
        self.split = self._button("split", "cut", self._split, "s", "from this frame on the object is a new one")
        self.delete = self._button("delete", "trash", self._delete, "Delete", "the object is gone, on all frames")
        grid = widgets.Layout(grid_template_columns="135px 135px", grid_gap="3px 4px")
        buttons = widgets.GridBox([self.swap, self.merge, self.split, self.delete], layout=grid)
        self.box = widgets.VBox([section("Identities"), self.object, self.other, buttons])
        chosen.observe(lambda change: self._follow(change["new"]), "value")
        state.data_listeners.append(self.refresh)
        state.work.listeners.append(self.refresh)
        self.refresh()

    def _button(self, text: str, icon: str, act: Callable[[], None], key: str, why: str) -> widgets.Button:
        made = widgets.Button(description=text, icon=icon, tooltip=f"{why}  ({key})", layout={"width": "auto"})
        made.on_click(lambda _: self._state.run_safely(act))
        self._state.bind(key, lambda: made.disabled or made.click())
        return made

    def refresh(self) -> None:
        """Offer the objects there are."""
        one = self._state.inspection
        options = [(f"{n} · {one.name_of(n)}"[:30], n) for n in listed(one)]
        for control, at in ((self.object, 0), (self.other, 1)):
            if list(control.options) != options:
                before = control.value
                control.options = options
                numbers = [n for _, n in options]
                control.value = before if before in numbers else numbers[min(at, len(numbers) - 1)] if numbers else None
        can, several = bool(options) and not self._state.work.busy, len(options) > 1
        self.object.disabled = self.split.disabled = self.delete.disabled = not can
        self.other.disabled = self.swap.disabled = self.merge.disabled = not (can and several)

    def _follow(self, object_id: int | None) -> None:
        """The object that points belong to is chosen here, too."""
        if object_id in [n for _, n in self.object.options]:
            self.object.value = object_id

    def _swap(self) -> None:
        first, second, frame = self.object.value, self.other.value, self._state.frame
        self._make(lambda: self._state.corrections.swap(first, second, frame))

    def _merge(self) -> None:
        first, second = self.object.value, self.other.value
        self._make(lambda: self._state.corrections.merge(first, second))

    def _split(self) -> None:
        first, frame = self.object.value, self._state.frame
        self._make(lambda: self._state.corrections.split(first, frame))

    def _delete(self) -> None:
        first = self.object.value
        self._make(lambda: self._state.corrections.delete(first))

    def _make(self, act: Callable[[], Any]) -> None:
        self._state.correct(act, lambda change: f"{in_words(change.record)}; z undoes it")


def in_words(record: Mapping[str, Any]) -> str:
    """A correction in words."""
    action = record["action"]
    if action in ACTIONS:
        return edit_in_words(edit_of(record, 0))
    if action == "add_point":
        return f"{'+' if record['positive'] else '−'} point ({record['x']:.0f}, {record['y']:.0f})"
    return WORDS.get(action, action)


class Table(anywidget.AnyWidget):
    """A table that the browser sorts, folded away at first.

    Attributes:
        title, hint: above it; what it is for.
        columns: name, what it is, and digits behind the point of its numbers.
        rows: cells, numbers or texts; None where nothing is known.
        frames: that a click on each row goes to, or None.
        buttons: of each row text and what it does; none: no row has one.
        note: a line below it.
        unfolded: only then it needs rows.
    """

    _esm = "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("element.js", "tables.js"))
    _css = Path(__file__).with_name("tables.css").read_text("utf-8")
    title = traitlets.Unicode("").tag(sync=True)
    hint = traitlets.Unicode("").tag(sync=True)
    columns = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    frames = traitlets.List().tag(sync=True)
    buttons = traitlets.List().tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    unfolded = traitlets.Bool(False).tag(sync=True)


FRAME_COLUMNS = [
    ["frame", "number of the frame", 0], ["time, s", "seconds from the first frame", 2],
    ["key frame", "what the answer there is", 0], ["objects", "how many are seen", 0],
    ["agreement", "least IoU of the two directions of an object", 2], ["area, px", "of all masks together", 0],
    ["J&F", "mean of region and contour scores against ground truth", 2],
    ["doubt", "why a person should look at it", 0],
]  # fmt: skip
OBJECT_COLUMNS = [
    ["id", "number of the object", 0], ["name", "as it was given, or asked for", 0],
    ["frames", "on how many frames it is seen", 0], ["first", "frame on which it is seen first", 0],
    ["last", "frame on which it is seen last", 0], ["area, px", "mean of the frames on which it is seen", 0],
    ["agreement", "mean IoU of its two directions between key frames", 2],
    ["worst at", "frame on which its directions agree least", 0],
]  # fmt: skip
CORRECTION_COLUMNS = [
    ["no.", "number of the correction", 0], ["frame", "that it is about, or from which on", 0],
    ["object", "that it is about", 0], ["correction", "what was done", 0],
]  # fmt: skip


class TablePanel:
    """Corrections in force, frames and objects, as tables.

    Args:
        revert: called with the number of a correction.

    Attributes:
        corrections, frames, objects: the tables.
    """

    def __init__(self, state: InspectorState, revert: Callable[[int], None]) -> None:
        self._state, self._revert = state, revert
        go = "a click on a row goes to its frame"
        self.corrections = Table(columns=CORRECTION_COLUMNS, hint=f"corrections that count; {go}")
        self.frames = Table(columns=FRAME_COLUMNS, title="frames", hint=f"a row for each frame; {go}")
        self.objects = Table(columns=OBJECT_COLUMNS, title="objects", hint=f"a row for each object; {go}")
        self._numbers: list[int] = []
        self.corrections.on_msg(self._pressed)
        soon = Debounced(self._fill, 0.15)
        for table in (self.frames, self.objects):
            table.observe(lambda _: self._fill(), "unfolded")
        self.corrections.observe(lambda _: self._list(state.inspection), "unfolded")
        state.data_listeners += [lambda: self._list(state.inspection), soon]
        state.scores.listeners.append(soon)
        self.box = widgets.VBox([self.corrections, self.frames, self.objects])
        self.refresh()

    def refresh(self) -> None:
        """Rows of what is there now."""
        self._list(self._state.inspection)
        self._fill()

    def _fill(self) -> None:
        """Rows of frames and objects, where they are unfolded."""
        one = self._state.inspection
        for table, rows_of in ((self.frames, self._frame_rows), (self.objects, object_rows)):
            rows = rows_of(one) if table.unfolded and one.frames else []
            with table.hold_sync():
                table.rows, table.frames = [cells for _, cells in rows[:MAX_ROWS]], [at for at, _ in rows[:MAX_ROWS]]
                more = len(rows) - MAX_ROWS
                table.note = f"the first {MAX_ROWS} of {len(rows)}; the export of tracks has all" * (more > 0)
                if table.unfolded and not rows:
                    table.note = f"there are no {table.title}"

    def _list(self, one: Inspection) -> None:
        records = one.history.in_force()
        self._numbers = list(records)
        with self.corrections.hold_sync():
            self.corrections.title = f"corrections ({len(records)})"
            self.corrections.rows = [
                [n, record.get("frame"), self._object(one, record), in_words(record)] for n, record in records.items()
            ]
            # where an object is seen first is looked for once somebody may go there: all masks are read for it
            frame_of = self._frame_of if self.corrections.unfolded else lambda _, record: record.get("frame")
            self.corrections.frames = [frame_of(one, record) for record in records.values()]
            self.corrections.buttons = [["revert", f"take correction {n} back, and keep the others"] for n in records]
            self.corrections.note = "" if records else "nothing was corrected"

    @staticmethod
    def _object(one: Inspection, record: Mapping[str, Any]) -> str | None:
        number = record.get("object")
        if number is not None and record["action"] not in ACTIONS:
            number = one.identities.object_of(number, record["frame"])
        return None if number is None else one.name_of(number)

    @staticmethod
    def _frame_of(one: Inspection, record: Mapping[str, Any]) -> int | None:
        if "frame" in record or record["object"] not in one.object_ids:
            return record.get("frame")
        there = np.flatnonzero(one.series(record["object"]).area)
        return int(there[0]) if len(there) else None

    def _pressed(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        row = content.get("row")
        if content.get("kind") == "press" and isinstance(row, int) and 0 <= row < len(self._numbers):
            self._revert(self._numbers[row])

    def _frame_rows(self, one: Inspection) -> list[tuple[int, list[Cell]]]:
        scores = self._state.scores.of(one) if one.truth is not None else None
        return frame_rows(one, None if scores is None else scores.per_frame)


def frame_rows(one: Inspection, scores: np.ndarray | None = None) -> list[tuple[int, list[Cell]]]:
    """A row of `FRAME_COLUMNS` for each frame, behind its number.

    Args:
        one: what is shown.
        scores: J&F of each frame, where known.
    """
    outcomes, doubt, agreement = one.outcomes(), doubtful_frames(one), one.agreement
    areas = (
        np.stack([one.series(n).area for n in one.object_ids], axis=1) if one.object_ids else np.zeros((one.frames, 0))
    )
    least = np.where(np.isnan(agreement), np.inf, agreement).min(axis=1, initial=np.inf)
    rows: list[tuple[int, list[Cell]]] = []
    for t in range(one.frames):
        outcome = {"dropped": "rejected"}.get(outcomes.get(t, ""), outcomes.get(t))
        score = _known(scores[t]) if scores is not None and t < len(scores) else None
        seen, area = int((areas[t] > 0).sum()), int(areas[t].sum())
        rows.append((t, [t, float(one.times_s[t]), outcome, seen, _known(least[t]), area, score, doubt.get(t)]))
    return rows


def object_rows(one: Inspection) -> list[tuple[int | None, list[Cell]]]:
    """A row of `OBJECT_COLUMNS` for each object, behind the frame on which it is seen first."""
    rows: list[tuple[int | None, list[Cell]]] = []
    for n in one.object_ids:
        area, agreement = one.series(n).area, one.agreement[:, n - 1].copy()
        agreement[[at for at in one.key_frames if at < one.frames]] = np.nan
        there, is_known = np.flatnonzero(area), np.isfinite(agreement).any()
        first, last = (int(there[0]), int(there[-1])) if len(there) else (None, None)
        mean = float(area[there].mean()) if len(there) else 0.0
        worst = int(np.nanargmin(agreement)) if is_known else None
        agreed = float(np.nanmean(agreement)) if is_known else None
        rows.append((first, [n, one.name_of(n), len(there), first, last, mean, agreed, worst]))
    return rows


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
