"""Corrections by clicks: points, dropped answers, undo; masks are made again beside the notebook."""

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from videomolmo.errors import BadInput
from videomolmo.inspector.corrections import Cancelled, Change
from videomolmo.inspector.desk import Desk
from videomolmo.inspector.figures import name_of

MODES = [("look", "look"), ("+ point", "add"), ("− point", "off"), ("remove point", "remove")]
NEW = "new object"
REACH = 0.03  # of the frame's diagonal: how near a click must be to the point it removes


class CorrectPanel:
    """Buttons above the picture; what a click in it means.

    Attributes:
        mode: look, add, off (a point that is not on the object) or remove.
        thing: the object that new points belong to, None for a new one.
        drop, undo, redo, cancel: buttons.
        bar: progress of the correction that runs.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.mode = widgets.ToggleButtons(
            options=MODES, style={"button_width": "auto"}, tooltips=["a click only looks", "a point on the object",
            "a point that is not on the object", "take away the point that is clicked"],
        )  # fmt: skip
        self.thing = widgets.Dropdown(layout=widgets.Layout(width="130px"), tooltip="the object new points belong to")
        self.drop = self._button("drop answer", "trash", self._drop, "as if the model had not been asked here")
        self.undo = self._button("undo", "undo", lambda: self._at_once(desk.corrections.undo), "take it back")
        self.redo = self._button("redo", "repeat", lambda: self._at_once(desk.corrections.redo), "do it again")
        self.cancel = self._button("cancel", "stop", desk.work.cancel, "stop what runs; nothing is changed")
        self.bar = widgets.IntProgress(0, 0, 1, layout=widgets.Layout(width="150px"))
        self.running = widgets.HBox([self.bar, self.cancel], layout=widgets.Layout(display="none"))
        self.box = widgets.HBox(
            [self.mode, self.thing, self.drop, self.undo, self.redo, self.running],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.mode.observe(self._remode, "value")
        desk.clicked = self.click
        desk.changed.append(self.refresh)
        desk.moved.append(self._enable)
        desk.work.turned.append(self._enable)
        self.refresh()

    def _button(self, text: str, icon: str, act: Callable[[], Any], why: str) -> widgets.Button:
        made = widgets.Button(description=text, icon=icon, tooltip=why, layout=widgets.Layout(width="auto"))
        made.on_click(lambda _: self._desk.attempt(act))
        return made

    def refresh(self) -> None:
        """Offer the objects there are, and what can be done."""
        inspection, chosen, before = self._desk.inspection, self.thing.value, self.thing.options
        numbers = range(1, inspection.objects + 1)
        options = [(f"{n} · {name_of(inspection, n)}"[:24], n) for n in numbers] + [(NEW, None)]
        if list(before) != options:
            self.thing.options = options
            asked_for_new = chosen is None and len(before) > 1  # else nothing else could be chosen
            self.thing.value = chosen if chosen in numbers or asked_for_new else options[0][1]
        self._enable()

    def _enable(self) -> None:
        desk = self._desk
        can = desk.grounder is not None and not desk.work.busy and desk.inspection.frames > 0
        self.mode.disabled = not can
        self.thing.disabled = not can
        self.drop.disabled = not (can and desk.inspection.outcomes().get(desk.frame) not in (None, "dropped"))
        self.undo.disabled = desk.work.busy or not desk.corrections.can_undo
        self.redo.disabled = desk.work.busy or not desk.corrections.can_redo
        if desk.grounder is None:
            self.mode.tooltip = "give inspect(result, grounder=…) to correct"

    def _remode(self, change: dict[str, Any]) -> None:
        self._desk.canvas.mode = change["new"]

    def click(self, frame: int, x: float, y: float) -> None:
        """What a click at x, y of a frame does in the present mode."""
        if self.mode.value == "look":
            self._desk.say(self._what_is_at(frame, x, y))
        elif self.mode.value == "remove":
            self._desk.attempt(self._remove, frame, x, y)
        else:
            add, positive = self._desk.corrections.add_point, self.mode.value == "add"
            thing = self.thing.value
            self._run("point", lambda **news: add(frame, x, y, thing, positive, **news))

    def _what_is_at(self, frame: int, x: float, y: float) -> str:
        masks = self._desk.inspection.mask("fused", frame)
        inside = masks is not None and 0 <= int(y) < masks.shape[1] and 0 <= int(x) < masks.shape[2]
        found = [n + 1 for n in range(len(masks)) if masks[n, int(y), int(x)]] if inside else []
        names = ", ".join(name_of(self._desk.inspection, n) for n in found)
        return f"x {x:.1f}, y {y:.1f} px on frame {frame}: {names or 'no object'}"

    def _remove(self, frame: int, x: float, y: float) -> None:
        inspection = self._desk.inspection
        points = [one for one in inspection.points(frame) if one.object is not None]
        reach = max(4.0, REACH * math.hypot(inspection.width, inspection.height))
        away = [math.dist((one.x, one.y), (x, y)) for one in points]
        # of several within reach one of the object that is chosen, then the nearest
        other = [one.object != self.thing.value for one in points]
        within = [(other[n], far, n) for n, far in enumerate(away) if far <= reach]
        if not within:
            raise BadInput(f"no point within {reach:.0f} px of the click on frame {frame}; click on a point")
        near = points[min(within)[-1]]
        remove = self._desk.corrections.remove_point
        self._run("removal", lambda **news: remove(frame, near.object, near.index, **news))

    def _drop(self) -> None:
        drop, frame = self._desk.corrections.drop_answer, self._desk.frame
        self._run("drop", lambda **news: drop(frame, **news))

    def _at_once(self, act: Callable[[], Change]) -> None:
        if self._desk.is_free():
            try:
                self._done(act(), None)
            except BadInput as error:
                self._done(None, error)

    def _run(self, what: str, act: Callable[..., Change]) -> None:
        if not self._desk.is_free():
            return
        self.running.layout.display = ""
        self.bar.value = 0
        self._desk.say(f"{what}: masks are made again between the neighbouring key frames …")
        self._desk.work.start(lambda progress, cancel: act(progress=progress, cancel=cancel), self._news, self._done)

    def _news(self, steps: int, of: int) -> None:
        self.bar.max, self.bar.value = max(1, of), steps

    def _done(self, change: Change | None, error: BaseException | None) -> None:
        self.running.layout.display = "none"
        if error is not None:
            if isinstance(error, Cancelled):
                self._desk.say("cancelled: nothing was changed")
            else:
                self._desk.refresh()  # refused because of corrections made elsewhere, perhaps: they are shown now
                self._desk.regret(error)
            return
        self._desk.refresh()
        if change.record["action"] == "add_point":
            self.thing.value = change.object  # a new object, too, is what the next points belong to
        first, end = change.frames
        changed = f"frames {first}–{end - 1} changed" if end > first else "no frame changed"
        action = change.record["action"].replace("_", " ")
        self._desk.say(f"{action}: {changed}, SAM 2 went through {change.propagated}")
