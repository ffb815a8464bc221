"""Corrections that are drawn in the picture: boxes, strokes of brush and eraser, points that are dragged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
from jaxtyping import Bool

from videomolmo.errors import BadInput
from videomolmo.inspector.action_panels import AUTO, CorrectPanel
from videomolmo.inspector.render import DraftMask, swatch
from videomolmo.inspector.session import Grip, InspectorState, objects_at

BRUSHES, WIDEST_PX = ("brush", "erase"), 400
WAITING = "Enter applies, z takes the last stroke back, Backspace discards them all"

Places = list[tuple[float, float]]


class DrawPanel:
    """What dragging in the picture does in the modes of a `CorrectPanel`, and the row of the brush.

    Strokes change a draft, which is seen at once; SAM 2 follows the object from it when it is applied.

    Attributes:
        width: of the brush, pixels of the video.
        apply, undo, discard: the draft.
        box: the row; there while a brush is chosen or strokes wait.
    """

    def __init__(self, state: InspectorState, correct: CorrectPanel) -> None:
        self._state, self._correct = state, correct
        self._before: list[np.ndarray] = []  # the draft before each of its strokes
        self._for: int | None = None  # the object whose draft it is; None: a new one
        narrow = max(1, round(min(state.inspection.height, state.inspection.width) / 24))
        self.width = widgets.IntSlider(
            narrow, 1, max(WIDEST_PX, narrow), description="brush", style={"description_width": "40px"},
            layout=widgets.Layout(width="200px"),
        )  # fmt: skip
        state.tip(self.width, "width of brush and eraser, pixels of the video  (  (  narrower,  )  wider)")
        self.apply = self._button("apply", "check", self.finish, "SAM 2 goes on from the edited mask  (Enter)")
        self.undo = self._button("undo stroke", "undo", self.take_back, "take the last stroke back  (z)")
        self.discard = self._button("discard", "times", self.drop, "back to the mask as it was  (Backspace)")
        self.box = widgets.HBox(
            [self.width, self.apply, self.undo, self.discard],
            layout=widgets.Layout(display="none", flex_flow="row wrap", align_items="center"),
        )
        self.width.observe(lambda _: self.refresh(), "value")
        correct.mode.observe(lambda _: self.refresh(), "value")
        correct.object_id.observe(lambda _: self.refresh(), "value")
        state.drawn, state.grip = self.drawn, self.grip_at
        state.data_listeners.append(self.refresh)
        state.bind("(", lambda: self._widen(-1))
        state.bind(")", lambda: self._widen(1))
        state.bind("Enter", lambda: state.draft and self.finish())
        state.bind("Backspace", lambda: state.draft and self.drop())
        state.bind("z", lambda: self.take_back() if state.draft else correct.undo.disabled or correct.undo.click())
        self.refresh()

    def _button(self, text: str, icon: str, act: Callable[[], Any], why: str) -> widgets.Button:
        made = widgets.Button(description=text, icon=icon, tooltip=why, layout=widgets.Layout(width="auto"))
        made.on_click(lambda _: self._state.run_safely(act))
        return made

    def _widen(self, way: int) -> None:
        width = self.width.value
        self.width.value = width + way * max(1, round(width / 5))

    def refresh(self) -> None:
        """Show the row where it is needed, and tell the browser how wide the brush is, and its colour."""
        chosen, draft = self._correct.object_id.value, self._state.draft
        number = self._state.inspection.objects + 1 if chosen is None else chosen
        number = draft[1].object_id if draft else number
        colour = swatch(self._state.looks[0].colour_id(number))[0] if number else "white"
        self._state.canvas.pen = [self.width.value, colour]
        is_brush = self._correct.mode.value in BRUSHES
        self.box.layout.display = "" if is_brush or draft else "none"
        for button in (self.apply, self.undo, self.discard):
            button.disabled = draft is None  # not hidden: the picture would move below the pointer

    def grip_at(self, frame: int, x: float, y: float) -> Grip | None:
        """The point or corner of a box that can be dragged at a place, where the mode allows it."""
        if self._correct.mode.value not in ("add", "off"):
            return None
        near = self._correct.point_at(frame, x, y)
        return near and (near.x, near.y, self._correct.reach)

    def drawn(self, frame: int, what: str, points: Places) -> None:
        """What was drawn by dragging: a box or a moved point is followed at once, strokes wait to be applied."""
        act = {"box": self._box, "point": self._move, "stroke": self._stroke}.get(what)
        if act is not None and self._state.is_free():
            self._state.run_safely(act, frame, points)

    def _box(self, frame: int, points: Places) -> None:
        self._check_draft()
        (x0, y0), (x1, y1) = points[0], points[-1]
        middle, chosen = ((x0 + x1) / 2, (y0 + y1) / 2), self._correct.object_id.value
        object_id = self._correct.object_for(frame, *middle, True) if chosen == AUTO else chosen
        edges = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        add = self._state.corrections.add_box
        self._state.canvas.pending = [[frame, *edges]]
        whose = self._correct.called(object_id)
        self._correct.run(f"box for {whose}", lambda **news: add(frame, edges, object_id, **news))

    def _move(self, frame: int, points: Places) -> None:
        self._check_draft()
        near = self._correct.point_at(frame, *points[0])
        if near is None:
            raise BadInput(f"no point within {self._correct.reach:.0f} px of where the drag began on frame {frame}")
        inspection, move = self._state.inspection, self._state.corrections.move_point
        x, y = (min(max(at, 0.0), most - 0.01) for at, most in zip(points[-1], self._size[::-1], strict=True))
        self._state.canvas.pending = [[frame, x, y, near.positive]]
        whose = inspection.name_of(near.object)
        self._correct.run(f"point of {whose}", lambda **news: move(frame, near.object, near.index, x, y, **news))

    @property
    def _size(self) -> tuple[int, int]:
        return self._state.inspection.height, self._state.inspection.width

    def _check_draft(self) -> None:
        if self._state.draft is not None:
            whose = self._correct.called(self._for)
            raise BadInput(f"strokes for {whose} on frame {self._state.draft[0]} wait: {WAITING}")

    def _stroke(self, frame: int, points: Places) -> None:
        state = self._state
        if state.draft is None:
            object_id = self._object_for(frame, points)
            number = state.inspection.objects + 1 if object_id is None else object_id
            masks, self._for = state.inspection.mask("fused", frame), object_id
            known, self._before = masks is not None and number <= len(masks), []
            state.draft = frame, DraftMask(number, masks[number - 1] if known else np.zeros(self._size, bool))
        at, draft = state.draft
        if at != frame or self._correct.object_id.value not in (AUTO, self._for):
            self._check_draft()
        self._before.append(draft.mask)
        mask = stroked(draft.mask, points, self.width.value, self._correct.mode.value == "brush")
        self._show(DraftMask(draft.object_id, mask))

    def _object_for(self, frame: int, points: Places) -> int | None:
        """The chosen object, the first one that the stroke goes over, or the only one; None: a new one."""
        chosen, inspection = self._correct.object_id.value, self._state.inspection
        if chosen != AUTO:
            return chosen
        for place in points:
            if found := [n for n in objects_at(inspection, frame, *place) if self._state.look.shows(n)]:
                return found[0]
        if inspection.objects == 1:
            return 1
        raise BadInput("go over an object, or choose which one the stroke is for  (1–9, or “new object”)")

    def _show(self, draft: DraftMask) -> None:
        state = self._state
        state.draft = state.draft[0], draft
        whose = self._correct.called(self._for)
        state.set_status(f"strokes for {whose} on frame {state.draft[0]}: {WAITING}")
        self.refresh()

    def take_back(self) -> None:
        """The draft before its last stroke."""
        if len(self._before) > 1:
            self._show(DraftMask(self._state.draft[1].object_id, self._before.pop()))
            self._state.canvas.repaint(self._state.draft[0])
        else:
            self.drop()

    def drop(self) -> None:
        """The mask as it was before all strokes."""
        frame = self._state.draft[0]
        self._forget()
        self._state.set_status("strokes discarded: nothing was changed")
        self._state.canvas.repaint(frame)

    def _forget(self) -> None:
        self._state.draft, self._before = None, []
        self.refresh()

    def finish(self) -> None:
        """Put the draft in place of the object's mask; SAM 2 goes on from it both ways."""
        if not self._state.is_free():
            return
        (frame, draft), object_id, edit = self._state.draft, self._for, self._state.corrections.edit_mask
        whose = self._correct.called(object_id)
        self._correct.run(f"mask of {whose}", lambda **news: edit(frame, draft.mask, object_id, **news), self._forget)


def stroked(
    mask: Bool[np.ndarray, "height width"], points: Places, width: float, paints: bool
) -> Bool[np.ndarray, "height width"]:
    """The mask after a stroke of a round brush through points, which adds to it or takes away.

    Example:
        >>> int(stroked(np.zeros((9, 9), bool), [(4.5, 4.5)], 3, True).sum())
        9
    """
    import cv2

    drawn = np.zeros(mask.shape, np.uint8)
    fine = 4  # bits behind the point in OpenCV's coordinates, which are those of the pixels' middles
    limit = 4 * max(mask.shape)
    path = np.rint((np.clip(np.array(points), -limit, limit) - 0.5) * 2**fine).astype(np.int32)
    if len(path) > 1:
        cv2.polylines(drawn, [path.reshape(-1, 1, 2)], False, 1, max(1, round(width)), cv2.LINE_8, fine)
    for x, y in path[[0, -1]].tolist():
        cv2.circle(drawn, (x, y), round((width - 1) / 2 * 2**fine), 1, -1, cv2.LINE_8, fine)
    return mask | drawn.view(bool) if paints else mask & ~drawn.view(bool)
