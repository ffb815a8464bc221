"""Panels that act: correct, export, ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from videomolmo.errors import BadInput
from videomolmo.inspector import exports
from videomolmo.inspector.corrections import Cancelled, Change, Progress, ask
from videomolmo.inspector.inspection import Inspection, Point
from videomolmo.inspector.session import InspectorState, objects_at
from videomolmo.inspector.transfer import Download
from videomolmo.inspector.view_panels import choose_next, section

MODES = [("navigate", "navigate"), ("+ point", "add"), ("− point", "off"), ("remove point", "remove"), ("box", "box"),
         ("brush", "brush"), ("eraser", "erase")]  # fmt: skip
MODE_TIPS = ["a click changes nothing  (Esc)", "a click adds a point on an object; drag a point to move it  (p)",
             "a click adds a point that is not on the object; drag a point to move it  (n)",
             "a click removes the point there, or the box with a corner there  (r)",
             "drag a rectangle around the object  (q)", "drag to add to the object's mask on this frame  (P)",
             "drag to take away from the object's mask on this frame  (R)"]  # fmt: skip
MODE_KEYS = {"Escape": "navigate", "p": "add", "n": "off", "r": "remove", "q": "box", "P": "brush", "R": "erase"}
AUTO, UNDER, NEW = 0, "object under the click", "new object"
SAID = {"add_point": "point added", "remove_point": "point removed", "drop_answer": "key frame rejected",
        "move_point": "point moved", "add_box": "box added", "edit_mask": "mask edited",
        "revert": "correction reverted"}  # fmt: skip
BEGINNING = ("add_point", "add_box", "edit_mask")  # may begin an object
REACH = 0.03  # of the frame's diagonal: how near a click must be to the point it removes


class CorrectPanel:
    """Buttons above the picture; what a click in it means.

    Attributes:
        mode: navigate, add, off (a point that is not on the object) or remove.
        object_id: the object that new points belong to; `AUTO` for the one under the click, None for a new one.
        drop, undo, redo, cancel: buttons.
        bar: progress of the correction that runs.
        why: why nothing can be corrected.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.mode = widgets.ToggleButtons(options=MODES, style={"button_width": "auto"}, tooltips=MODE_TIPS)
        self.object_id = widgets.Dropdown(layout=widgets.Layout(width="186px"))
        state.tip(self.object_id, "the object that new points belong to  (1–9)")
        self.drop = self._button(
            "reject key frame", "trash", self._drop, "as if the model had not been asked on this frame  (x)"
        )
        self.undo = self._button(
            "undo", "undo", lambda: self._at_once(state.corrections.undo), "undo the last correction  (z)"
        )
        self.redo = self._button(
            "redo", "repeat", lambda: self._at_once(state.corrections.redo), "redo the correction undone last  (y)"
        )
        self.cancel = self._button("cancel", "stop", state.work.cancel, "stop what runs; nothing is changed  (c)")
        self.bar = widgets.IntProgress(0, 0, 1, layout=widgets.Layout(width="150px"))
        self.running = widgets.HBox([self.bar, self.cancel], layout=widgets.Layout(display="none"))
        self.why = widgets.HTML(layout=widgets.Layout(display="none"))
        self.box = widgets.HBox(
            [self.mode, self.object_id, self.drop, self.undo, self.redo, self.running, self.why],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.mode.observe(self._remode, "value")
        self._bind_keys()
        state.clicked = self.click
        state.data_listeners.append(self.refresh)
        state.frame_listeners.append(self._enable)
        state.work.listeners.append(self._enable)
        self.refresh()

    def _bind_keys(self) -> None:
        for key, mode in MODE_KEYS.items():
            self._state.bind(key, lambda mode=mode: self.mode.disabled or setattr(self.mode, "value", mode))
        for key, button in zip("xzy", (self.drop, self.undo, self.redo), strict=True):
            self._state.bind(key, lambda button=button: button.disabled or button.click())
        self._state.bind("c", self._state.work.cancel)
        for n in range(1, 10):
            self._state.bind(str(n), lambda n=n: self._choose(n))

    def _choose(self, object_id: int) -> None:
        """The object that new points belong to; chosen again, the one under the click."""
        if object_id in self._state.inspection.object_ids and not self.object_id.disabled:
            self.object_id.value = AUTO if self.object_id.value == object_id else object_id
            self._state.set_status(f"new points belong to: {self.object_id.label}")

    def _button(self, text: str, icon: str, act: Callable[[], Any], why: str) -> widgets.Button:
        made = widgets.Button(description=text, icon=icon, tooltip=why, layout=widgets.Layout(width="auto"))
        made.on_click(lambda _: self._state.run_safely(act))
        return made

    def refresh(self) -> None:
        """Offer the objects there are, and what can be done."""
        inspection, chosen, before = self._state.inspection, self.object_id.value, self.object_id.options
        numbers = inspection.object_ids
        options = [(UNDER, AUTO), *((f"{n} · {inspection.name_of(n)}"[:24], n) for n in numbers), (NEW, None)]
        if list(before) != options:
            self.object_id.options = options
            self.object_id.value = chosen if chosen in numbers or (chosen is None and before) else AUTO
        self._enable()

    def _enable(self) -> None:
        state = self._state
        unknown = state.models.unknown
        can = unknown is None and not state.work.busy and state.inspection.frames > 0
        self.mode.disabled = not can
        self.object_id.disabled = not can
        self.drop.disabled = not (can and state.inspection.outcomes().get(state.frame) not in (None, "dropped"))
        self.undo.disabled = state.work.busy or not state.corrections.can_undo
        self.redo.disabled = state.work.busy or not state.corrections.can_redo
        self.why.value = f"<small>Corrections and questions need models; {escape(unknown or '')}</small>"
        self.why.layout.display = "none" if unknown is None else ""

    def _remode(self, change: dict[str, Any]) -> None:
        self._state.canvas.mode = change["new"]

    def click(self, frame: int, x: float, y: float) -> None:
        """What a click at x, y of a frame does in the present mode."""
        if self.mode.value == "navigate":
            self._state.set_status(self._what_is_at(frame, x, y))
        elif self.mode.value == "remove":
            self._state.run_safely(self._remove, frame, x, y)
        elif self.mode.value == "box":
            self._state.set_status("drag from one corner of a rectangle around the object to the other", error=True)
        else:
            self._state.run_safely(self._add, frame, x, y, self.mode.value == "add")

    def _add(self, frame: int, x: float, y: float, positive: bool) -> None:
        if not self._state.is_free():
            return
        if self._state.draft is not None:
            raise BadInput(f"strokes on frame {self._state.draft[0]} wait: apply or discard them first")
        add, object_id = self._state.corrections.add_point, self.object_for(frame, x, y, positive)
        self._state.canvas.pending = [[frame, x, y, positive]]  # seen at once; its masks take a while
        self.run(f"point for {self.called(object_id)}", lambda **news: add(frame, x, y, object_id, positive, **news))

    def called(self, object_id: int | None) -> str:
        """The name of an object, or of the one to come."""
        return "a new object" if object_id is None else self._state.inspection.name_of(object_id)

    def object_for(self, frame: int, x: float, y: float, positive: bool) -> int | None:
        """The chosen object; else the one whose mask is shown under the click; else a new one, None."""
        if self.object_id.value != AUTO:
            return self.object_id.value
        found = [n for n in objects_at(self._state.inspection, frame, x, y) if self._state.look.shows(n)]
        if not found and not positive:
            raise BadInput("there is no object under the click: choose which object this point is not on")
        return found[0] if found else None

    def _what_is_at(self, frame: int, x: float, y: float) -> str:
        names = ", ".join(map(self._state.inspection.name_of, objects_at(self._state.inspection, frame, x, y)))
        return f"x {x:.1f}, y {y:.1f} px on frame {frame}: {names or 'no object'}"

    def _remove(self, frame: int, x: float, y: float) -> None:
        near = self.point_at(frame, x, y)
        if near is None:
            raise BadInput(f"no point within {self.reach:.0f} px of the click on frame {frame}; click on a point")
        remove = self._state.corrections.remove_point
        self.run("removal", lambda **news: remove(frame, near.object, near.index, **news))

    @property
    def reach(self) -> float:
        """Pixels within which a click is on a point."""
        return max(4.0, REACH * math.hypot(self._state.inspection.width, self._state.inspection.height))

    def point_at(self, frame: int, x: float, y: float) -> Point | None:
        """The point or the corner of a box at a place: of several one of the chosen object, then the nearest."""
        inspection = self._state.inspection
        points = [one for one in inspection.points(frame) if one.object is not None] + inspection.corners(frame)
        away = [math.dist((one.x, one.y), (x, y)) for one in points]
        other = [one.object != self.object_id.value for one in points]
        within = [(other[n], far, n) for n, far in enumerate(away) if far <= self.reach]
        return points[min(within)[-1]] if within else None

    def _drop(self) -> None:
        drop, frame = self._state.corrections.drop_answer, self._state.frame
        self.run("rejected key frame", lambda **news: drop(frame, **news))

    def revert(self, number: int) -> None:
        """Take one correction back, and keep the later ones."""
        revert = self._state.corrections.revert
        self.run(f"correction {number} reverted", lambda **news: revert(number, **news))

    def _at_once(self, act: Callable[[], Change]) -> None:
        if self._state.is_free():
            try:
                self._done(act(), None)
            except BadInput as error:
                self._done(None, error)

    def run(self, what: str, act: Callable[..., Change], then: Callable[[], None] = lambda: None) -> None:
        """Make a correction in the background: `act` takes `progress` and `cancel`; `then` is called at last."""
        if not self._state.is_free():
            return
        self.running.layout.display = ""
        self.bar.value = 0
        loading = "the run's own models are loaded, then " if self._state.models.waits else ""
        self._state.set_status(f"{what}: {loading}masks are re-propagated between the neighbouring key frames …")
        self._state.work.start(
            lambda progress, cancel: act(progress=progress, cancel=cancel), self._news, partial(self._done, then=then)
        )

    def _news(self, steps: int, of: int) -> None:
        self.bar.max, self.bar.value = max(1, of), steps

    def _done(
        self, change: Change | None, error: BaseException | None, then: Callable[[], None] = lambda: None
    ) -> None:
        self.running.layout.display = "none"
        self._state.canvas.pending = []
        if error is not None:
            if isinstance(error, Cancelled):
                self._state.set_status("cancelled: nothing was changed")
            else:
                self._state.refresh()  # refused because of corrections made elsewhere, perhaps: they are shown now
                self._state.show_error(error)
            return
        then()
        self._state.refresh()
        if self.object_id.value is None and change.record["action"] in BEGINNING:
            self.object_id.value = change.object  # the next points belong to the object that was begun
        first, end = change.frames
        changed = f"frames {first}–{end - 1} changed" if end > first else "no frame changed"
        action = SAID.get(change.record["action"], change.record["action"])
        whose = f" ({self._state.inspection.name_of(change.object)})" if change.object else ""
        words = [f"{action}{whose}: {changed}, {change.propagated} frames re-propagated", self._state.models.note]
        self._state.set_status("; ".join(filter(None, words)))


Export = Callable[[InspectorState, Path], Any]
EXPORTS: dict[str, tuple[str, Export]] = {  # what the user reads: ending of the name ("" a folder), how it is written
    "DAVIS pictures": ("", lambda state, path: _labels(state, "davis", path)),
    "COCO masks (JSON)": (".json", lambda state, path: _labels(state, "coco", path)),
    "COCO masks and frames": (
        ".json",
        lambda state, path: exports.export_labels(state.inspection, "coco", path, frames=True),
    ),
    "tracks (CSV)": (".csv", lambda state, path: _labels(state, "csv", path)),
    "YOLO polygons": ("", lambda state, path: _labels(state, "yolo-seg", path)),
    "MOT boxes": ("", lambda state, path: _labels(state, "mot", path)),
    "MOTS masks": ("", lambda state, path: _labels(state, "mots", path)),
    "CVAT masks (XML)": (".xml", lambda state, path: _labels(state, "cvat", path)),
    "Label Studio tasks (JSON)": (".json", lambda state, path: _labels(state, "label-studio", path)),
    "outlines (GeoJSON)": (".geojson", lambda state, path: _labels(state, "geojson", path)),
    "video (MP4)": (".mp4", lambda state, path: _video(state, path)),
    "video (GIF)": (".gif", lambda state, path: _video(state, path)),
    "this view (PNG)": (".png", lambda state, path: _view(state, path)),
    "training records": (".jsonl", lambda state, path: state.corrections.export_training(path)),
}


def _labels(state: InspectorState, to: str, path: Path) -> list[str]:
    return exports.export_labels(state.inspection, to, path)


def _video(state: InspectorState, path: Path) -> None:
    look, beside = replace(state.looks[0], size=None), state.beside  # the video's own size, not that of the page
    exports.export_video(state.inspection, path, look, beside=beside and (beside[0], replace(beside[1], size=None)))


def _view(state: InspectorState, path: Path) -> None:
    exports.export_view(state.inspection, path, state.frame, state.looks[0], beside=state.beside)


_being_written: set[Path] = set()  # by any inspector of this kernel; they get their names at the end


def free_path(folder: Path, stem: str, ending: str) -> Path:
    """A path in `folder` that is not taken: stem_1.png, stem_2.png …"""
    number = 1
    while (path := folder / f"{stem}_{number}{ending}").exists() or path in _being_written:
        number += 1
    return path


class ExportPanel:
    """A choice of formats, a button, and where the file went.

    Attributes:
        kind: one of `EXPORTS`.
        button: writes it.
        line: the path that was written.
        link: brings it to the browser's machine.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.kind = widgets.Dropdown(options=list(EXPORTS), layout=widgets.Layout(width="170px"))
        self.button = widgets.Button(description="export", icon="download", layout=widgets.Layout(width="90px"))
        self.button.tooltip = f"write it below {state.folder}  (S)"
        state.tip(self.kind, f"what is written below {state.folder}  (E: choose)")
        state.bind("E", self.kind.focus)
        state.bind("S", self.export)
        self.button.on_click(lambda _: self.export())
        self.line, self.link = widgets.HTML(), Download()
        self.box = widgets.VBox([section("Export"), widgets.HBox([self.kind, self.button]), self.line, self.link])

    def export(self) -> None:
        """Write the chosen kind of file under a name that is not taken; video files take a while."""
        if not self._state.is_free():
            return
        ending, write = EXPORTS[self.kind.value]
        stem = self.kind.value.split(" (")[0].replace(" ", "_").lower()
        path = free_path(self._state.folder, stem, ending)
        _being_written.add(path)

        def job() -> tuple[Path, list[str]]:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lost = write(self._state, path)
            finally:
                _being_written.discard(path)
            return path, lost if isinstance(lost, list) else []

        self._state.start(f"writing {path} …", job, self._done)

    def _done(self, written: tuple[Path, list[str]]) -> None:
        path, lost = written
        without = f"; without {'; '.join(lost)}" if lost else ""
        self.line.value = f"<small>wrote <code>{escape(str(path))}</code>{escape(without)}</small>"
        self.link.offer(path)
        self._state.set_status(f"wrote {path}{without}")


class AskPanel:
    """A field for another sentence; the results so far can be had back, and one that is only in memory saved.

    Attributes:
        text: the sentence.
        button: asks it.
        bar, cancel: how far the question that runs has come, and what stops it.
        history: sentences asked so far.
        keep: saves the result shown, with its corrections, where it lies in no folder yet.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.text = widgets.Text(placeholder="the blue square", layout=widgets.Layout(width="190px"))
        self.text.on_msg(lambda _, content, __: content.get("event") == "submit" and self.ask())  # Enter
        self.button = widgets.Button(description="ask", icon="search", layout=widgets.Layout(width="70px"))
        self.history = widgets.Dropdown(layout=widgets.Layout(width="auto", display="none"))
        unknown = state.models.unknown
        self.button.disabled = self.text.disabled = unknown is not None
        state.tip(self.text, unknown or "a sentence about the same video  (/: write one; Enter: ask it)")
        state.tip(self.button, unknown or "point and track for this sentence  (Enter in the field)")
        state.tip(self.history, "sentences asked so far: choose one to see its result  (H: the next)")
        state.bind("/", lambda: self.text.disabled or self.text.focus())
        state.bind("H", lambda: choose_next(self.history))
        self.button.on_click(lambda _: self.ask())
        self.history.observe(self._back, "value")
        self.keep = widgets.Button(description="save this result", icon="save", layout=widgets.Layout(width="auto"))
        self.keep.tooltip = f"it is in memory only; write it and its corrections below {state.folder}  (K)"
        state.bind("K", lambda: state.inspection.folder is None and self.save())
        self.keep.on_click(lambda _: self.save())
        self.bar = widgets.IntProgress(0, 0, 1, layout=widgets.Layout(width="190px"))
        self.cancel = widgets.Button(description="cancel", icon="stop", layout=widgets.Layout(width="auto"))
        self.cancel.tooltip = "stop asking; nothing is changed  (c)"
        self.cancel.on_click(lambda _: state.work.cancel())
        self.running = widgets.HBox([self.bar, self.cancel], layout=widgets.Layout(display="none"))
        self.box = widgets.VBox([
            section("Ask another sentence"), widgets.HBox([self.text, self.button]), self.running, self.history,
            self.keep,
        ])  # fmt: skip
        state.data_listeners.append(self._offer)
        self._offer()

    def _offer(self) -> None:
        in_memory = self._state.inspection.folder is None
        self.keep.layout.display = "" if in_memory else "none"

    def save(self) -> None:
        """Write the result that is shown to a folder of its own."""
        state = self._state
        if not state.is_free():
            return
        inspection, path = state.inspection, free_path(state.folder, "result", "")
        state.start(f"saving {path} …", lambda: inspection.save(path), lambda _: self._saved(path))

    def _saved(self, path: Path) -> None:
        self._offer()
        self._state.set_status(f"saved {path}; corrections are written there from now on")

    def ask(self) -> None:
        """Run the sentence in the field over the same video."""
        state, sentence = self._state, self.text.value.strip()
        if not sentence:
            state.set_status("write a sentence first", error=True)
        if not sentence or not state.is_free():
            return
        inspection = state.inspection

        def job(progress: Progress, cancel: Callable[[], bool]) -> Inspection:
            grounder = state.models.grounder()
            progress(
                0, inspection.frames
            )  # the models are there: whether they know the words is told before the answer
            return Inspection(ask(inspection, sentence, grounder, progress=progress, cancel=cancel))  # without truth

        self.bar.value, self.running.layout.display = 0, ""
        loading = " (the run's own models are loaded first)" if state.models.waits else ""
        state.set_status(f"asking for “{sentence}” …{loading}")
        state.work.start(job, self._news, self._end)

    def _news(self, steps: int, of: int) -> None:
        if not steps:
            sentence = self.text.value.strip()
            self._state.set_status(self._state.models.unknown_words(sentence) or f"asking for “{sentence}” …")
        self.bar.max, self.bar.value = max(1, of), steps

    def _end(self, found: Inspection | None, error: BaseException | None) -> None:
        self.running.layout.display = "none"
        if isinstance(error, Cancelled):
            self._state.set_status("cancelled: nothing was changed")
        elif error is not None:
            self._state.show_error(error)
        else:
            self._done(found)

    def _done(self, found: Inspection) -> None:
        self._state.asked.append(found)
        self.history.unobserve(self._back, "value")  # new options choose the first one for a moment
        self.history.options = [(one.sentence, n) for n, one in enumerate(self._state.asked)]
        self.history.layout.display, self.history.value = "", None
        self.history.observe(self._back, "value")
        self.history.value = len(self._state.asked) - 1

    def _back(self, change: dict[str, Any]) -> None:
        if change["new"] is None or self._state.asked[change["new"]] is self._state.inspection:
            return
        if not self._state.is_free():  # the work is about what is shown
            self.history.value = change["old"]
            return
        self._state.inspection.close()
        chosen = self._state.inspection = self._state.asked[change["new"]]
        self._state.reset()
        count = len(chosen.object_ids)
        found = f"“{chosen.sentence}”: {count} object{'s' * (count != 1)}"
        unknown = self._state.models.unknown_words(chosen.sentence)
        self._state.set_status("; ".join(filter(None, (found, unknown))))
