"""Points by hand: masks are made again only between the neighbouring key frames; each correction is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from videomolmo.errors import BadInput
from videomolmo.inspector.edit_history import (
    LOWER_RIGHT,
    OFF,
    ON,
    UPPER_LEFT,
    Click,
    Clicks,
    DrawnMask,
    box_of,
    is_corner,
    parts_of,
    positive_only,
)
from videomolmo.inspector.identities import ACTIONS, ON_SCREEN
from videomolmo.inspector.identity_corrections import Cancel, Change, IdentityCorrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.repropagation import (
    Cancelled,
    Corrected,
    Need,
    Progress,
    Propagation,
    PropagationKey,
    middle_of_packed,
)
from videomolmo.io.formats.run_lengths import encode_rle
from videomolmo.mask_store import PackedMasks, pack
from videomolmo.results import GroundingResult

__all__ = ["Cancelled", "Change", "Corrections", "Progress", "ask"]


class Corrections(IdentityCorrections):
    """Corrections of one inspection, which shows them at once.

    What is there is kept: files of the result are never changed; corrections.jsonl and corrections/ stand beside them.
    Each object has key frames of its own, so that a correction changes the masks of no other object.

    Args:
        inspection: opened from a folder, or in memory. In memory, and where the folder cannot be written, corrections
            live as long as the inspection.
        tracker: a `MaskTracker`, a `VideoGrounder`, or None: then corrections made before can be seen and undone, and
            new ones that need propagation are refused.
        load: gives a tracker and the hashes of its weights where none was given and one is needed.

    Attributes:
        records: all records so far, oldest first, those of undo and redo included.
    """

    def __init__(
        self, inspection: Inspection, tracker: Any = None, load: Callable[[], tuple[Any, Any]] | None = None
    ) -> None:
        self.inspection = inspection
        self.tracker, self.weights = getattr(tracker, "tracker", tracker), getattr(tracker, "weights", None)
        self.load = load
        self._propagation: Propagation | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.inspection.history.records

    def add_point(
        self,
        frame: int,
        x: float,
        y: float,
        object_id: int | None = None,
        positive: bool = True,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Change:
        """A click on an object; on a frame that is no key frame, it becomes a corrective key frame of this object.

        Args:
            frame: number of the frame.
            x, y: pixels of the frame.
            object_id: None begins a new object, which is followed to the neighbouring key frames of the run and not
                beyond: their answers do not name it. Click it there too where it goes on.
            positive: on the object, or off it. A negative click on a frame without positive ones comes with an anchor:
                the middle of what remains of the object's mask; where nothing remains, the object is not there.
            progress: called with frames done and frames in all.
            cancel: asked before each frame; True stops.

        Raises:
            BadInput: a point outside the frame, an object that is not there, no tracker, no video, or another inspector
                of the same folder made corrections meanwhile (which are then shown).
            Cancelled: `cancel` said so; nothing has changed.
        """
        look = self.inspection
        frame = self._check_frame(frame)
        self._check_point(x, y)
        if object_id is None and not positive:
            raise BadInput("a new object begins with a point on it; give a positive point, or the id of an object")
        click = (round(float(x), 2), round(float(y), 2), int(positive))
        track = self._track(object_id, frame, click)
        clicks = (*look.clicks(track, frame), click)
        anchor = None
        if not positive_only(clicks):
            anchor = self._anchor(object_id, frame, click)
            clicks = (*([anchor] if anchor else []), *clicks)
        where = {"x": click[0], "y": click[1], "positive": positive, "anchor": anchor}
        return self._prompt("add_point", frame, track, where, clicks, progress, cancel)

    def remove_point(
        self, frame: int, object_id: int, index: int, *, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> Change:
        """Take one point away, the model's or a person's, or a box: `index` as in `Inspection.points`.

        Without any positive point left, the object is not there on this key frame (a corrective key frame ends).

        Raises:
            BadInput, Cancelled: as `add_point`.
        """
        frame, object_id = self._check_frame(frame), self._check_object(object_id)
        track, index = self._point(object_id, frame, index)
        clicks = self.inspection.clicks(track, frame)
        x, y, label = self._click(clicks, frame, object_id, index)
        gone = [index]
        if is_corner(clicks[index]):  # half a box is none
            gone = [n for n, one in enumerate(clicks) if is_corner(one)]
        rest = tuple(one for n, one in enumerate(clicks) if n not in gone)
        where = {"x": x, "y": y, "positive": label != OFF}
        # negative points alone name nothing
        return self._prompt("remove_point", frame, track, where, positive_only(rest), progress, cancel)

    def move_point(
        self,
        frame: int,
        object_id: int,
        index: int,
        x: float,
        y: float,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Change:
        """Put a point, the model's or a person's, or a corner of a box elsewhere: `index` as in `remove_point`.

        Raises:
            BadInput: a place outside the frame, a box that would be empty; and, as Cancelled, as `add_point`.
        """
        frame, object_id = self._check_frame(frame), self._check_object(object_id)
        self._check_point(x, y)
        track, index = self._point(object_id, frame, index)
        clicks = self.inspection.clicks(track, frame)
        before = self._click(clicks, frame, object_id, index)
        moved = (round(float(x), 2), round(float(y), 2), before[2])
        clicks = (*clicks[:index], moved, *clicks[index + 1 :])
        if is_corner(before):
            mask, corners, points = parts_of(clicks)
            clicks = (*([mask] if mask else []), *_corners(*box_of(corners)), *points)
        where = {"from": list(before[:2]), "x": moved[0], "y": moved[1], "positive": before[2] != OFF}
        return self._prompt("move_point", frame, track, where, clicks, progress, cancel)

    def add_box(
        self,
        frame: int,
        box: Sequence[float],
        object_id: int | None = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Change:
        """A box around an object: it replaces what was clicked and drawn there; points added later refine it.

        Args:
            frame: number of the frame.
            box: x and y of two opposite corners, pixels; what lies outside the frame is cut off.
            object_id: None begins a new object, as in `add_point`.
            progress, cancel: as in `add_point`.

        Raises:
            BadInput: a box less than a pixel wide or high, a tracker that takes no boxes; and, as Cancelled, as
                `add_point`.
        """
        look, frame = self.inspection, self._check_frame(frame)
        xs, ys = box[0::2], box[1::2]
        inside = [min(max(float(x), 0), look.width) for x in xs], [min(max(float(y), 0), look.height) for y in ys]
        corners = _corners(inside[0][0], inside[1][0], inside[0][1], inside[1][1])
        edges = box_of(corners)
        track = self._track(object_id, frame, ((edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2, ON))
        return self._prompt("add_box", frame, track, {"box": list(edges)}, corners, progress, cancel)

    def edit_mask(
        self,
        frame: int,
        mask: Bool[np.ndarray, "height width"],
        object_id: int | None = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Change:
        """The object's mask on a frame, drawn by hand: it is the mask there, and SAM 2 goes on from it both ways.

        It replaces what was clicked there; points added later refine it. An empty mask: the object is not there.

        Raises:
            BadInput: a mask of another size, an empty one of a new object, a tracker that takes no masks; and, as
                Cancelled, as `add_point`.
        """
        look, frame, mask = self.inspection, self._check_frame(frame), np.asarray(mask)
        if mask.shape != (look.height, look.width) or mask.dtype != bool:
            raise BadInput(f"the mask is {mask.dtype} {mask.shape}, expected bool {(look.height, look.width)}")
        if object_id is None and not mask.any():
            raise BadInput("a new object begins with a mask that is not empty; draw it first")
        if object_id is not None:
            self._check_object(object_id)
        drawn = (DrawnMask(encode_rle(mask)["counts"] if mask.any() else ""),)
        where: dict[str, Any] = {"area": int(mask.sum())}
        track, *others = (
            [self._track(None, frame)] if object_id is None else look.identities.tracks_of(object_id, frame)
        )
        if others:  # that were merged into it: the mask is of all of them
            where["cleared"] = others
        return self._prompt("edit_mask", frame, track, where, drawn, progress, cancel)

    def drop_answer(self, frame: int, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Change:
        """Treat a key frame as if the model had not been asked there: its neighbours fill the gap.

        Raises:
            BadInput: it is no key frame of the run, or was dropped before; and as `add_point`.
            Cancelled: as `add_point`.
        """
        if frame not in self.inspection.outcomes() or frame in self.inspection.history.state.dropped:
            known = ", ".join(str(key) for key, outcome in self.inspection.outcomes().items() if outcome != "dropped")
            raise BadInput(f"frame {frame} has no answer to drop; key frames of the run are {known or 'none'}")
        return self._apply({"action": "drop_answer", "frame": int(frame)}, progress, cancel)

    @property
    def can_undo(self) -> bool:
        return self.inspection.history.can("undo")

    @property
    def can_redo(self) -> bool:
        return self.inspection.history.can("redo")

    def undo(self) -> Change:
        """Take the last correction back: the masks before it, bit for bit, without any model.

        Raises:
            BadInput: there is nothing to undo.
        """
        return self._apply({"action": "undo"}, None, None)

    def redo(self) -> Change:
        """Do again what was undone last, without any model.

        Raises:
            BadInput: there is nothing to redo.
        """
        return self._apply({"action": "redo"}, None, None)

    def clear_cache(self) -> None:
        """Free the features of frames, which are computed again when wanted."""
        self._propagation = None

    def export_training(self, path: str | Path) -> int:
        """Write the corrected clip as training rows; see `videomolmo.inspector.exports.write_rows`."""
        from videomolmo.inspector.exports import write_rows

        return write_rows(self.inspection, Path(path))

    def _prompt(
        self,
        action: str,
        frame: int,
        object_id: int,
        where: dict[str, Any],
        clicks: Clicks,
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> Change:
        """Put clicks in place of those of an object on a frame."""
        mask, corners, points = parts_of(clicks)
        record = {"action": action, "frame": frame, "object": object_id, **where, "clicks": [*corners, *points]}
        return self._apply(record | ({"mask": mask.counts} if mask else {}), progress, cancel)

    def _click(self, clicks: Clicks, frame: int, object_id: int, index: int) -> Click:
        """The point with an index, or the corner of a box."""
        if not 0 <= index < len(clicks) or isinstance(clicks[index], DrawnMask):
            count = len(clicks) - any(isinstance(one, DrawnMask) for one in clicks)
            raise BadInput(f"object {object_id} has {count} points on frame {frame}; there is no point {index}")
        return clicks[index]

    def _check_point(self, x: float, y: float) -> None:
        look = self.inspection
        if not (0 <= x < look.width and 0 <= y < look.height):
            raise BadInput(f"point ({x:g}, {y:g}) lies outside the frame of {look.width}×{look.height} pixels")

    def _track(self, object_id: int | None, frame: int, click: Click = (0, 0, ON)) -> int:
        """The track that a click on an object is about, or a new one."""
        if object_id is None:
            return self.inspection.objects + 1
        return self._track_of(self._check_object(object_id), frame, click)

    def _anchor(self, object_id: int, frame: int, click: Click) -> Click | None:
        """The deepest pixel of an object's mask that is farther from a negative click than half the mask's size."""
        mask = self.inspection.mask("fused", frame)[object_id - 1].copy()
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return None
        reach = max(2.0, 0.5 * np.sqrt(len(rows)))
        near = np.hypot(columns + 0.5 - click[0], rows + 0.5 - click[1]) <= reach
        mask[rows[near], columns[near]] = False
        middle = middle_of_packed(pack(frame, mask[None]), frame)
        return None if middle is None else (*middle, 1)

    def _apply(self, record: dict[str, Any], progress: Progress | None, cancel: Cancel | None) -> Change:
        """Make what the record needs, keep it, write the record, show it; or raise and change nothing."""
        look = self.inspection
        if look.matching not in (None, "stored"):
            raise BadInput("objects are matched anew; set matching back to None before correcting")
        self._check_step()
        after = look.corrected_by(look.history.after(record))
        needs = [] if record["action"] in ACTIONS else after.missing()
        self._check_prompts(needs)
        look.log.check_room()
        made = self._propagator(needs).run(needs, progress, cancel) if needs else {}
        self._check_step()
        self._keep(made)
        record = {**record, "number": len(self.records) + 1, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        record["result"] = look.log.result
        if made:
            record["made_by"] = self._provenance()
        look.log.append(record)
        state = look.history.state
        changed = _frames_changed(look.corrected_by(state), after)
        look.history.add(record)
        edited = set(state.edits) ^ set(look.history.state.edits)
        if first := [one.frame for one in edited if one.action not in ON_SCREEN]:
            changed = min(first), look.frames
        look.show_corrections()
        name = record.get("object")
        if name is not None and record["action"] not in ACTIONS:
            name = look.identities.object_of(name, record["frame"])
        return Change(record, name, changed, sum(need.stop - need.start for need in needs))

    def _check_prompts(self, needs: list[Need]) -> None:
        """Nothing where the tracker takes all that these begin with."""
        parts = [parts_of(need.key.clicks) for need in needs]
        asked = {"masks": any(mask and mask.counts for mask, *_ in parts), "boxes": any(box for _, box, _ in parts)}
        if not any(asked.values()):
            return
        self._propagator(needs)  # which loads the tracker
        for kind, is_asked in asked.items():
            if is_asked and kind not in getattr(self.tracker, "prompts", ()):
                raise BadInput(f"{type(self.tracker).__name__} begins with points only, not with {kind}; add points")

    def _check_step(self) -> None:
        """Another inspector of this folder may have corrected meanwhile: its records are shown, ours is not made."""
        if not self.inspection.log.in_step():
            self.inspection.read_corrections()
            raise BadInput(
                f"{self.inspection.folder}: the corrections were changed elsewhere meanwhile, and are shown as they "
                "are now; look again, and repeat yours if it is still wanted"
            )

    def _keep(self, made: Mapping[PropagationKey, PackedMasks]) -> None:
        look = self.inspection
        for key, packed in made.items():
            try:
                look.propagations.put(key, packed, write=look.log.unkept is None)
            except OSError as error:
                look.log.give_up(error)

    def _provenance(self) -> Mapping[str, Any]:
        from videomolmo.io import provenance

        masks = {name: value for name, value in (self.weights or {}).items() if name.startswith("masks:")}
        return {"commit": provenance.commit(), "weights_sha256": masks or None}

    def _propagator(self, needs: list[Need]) -> Propagation:
        if self.tracker is None and self.load is not None and self.inspection.video() is not None:
            self.tracker, self.weights = self.load()
        if self.tracker is None:
            frames = sum(need.stop - need.start for need in needs)
            raise BadInput(f"{frames} frames must be followed by SAM 2 for this; give a grounder or a MaskTracker")
        if self.inspection.video() is None:
            raise BadInput("the video is needed for this, and it cannot be opened; give Inspection(…, video=…)")
        if self._propagation is None:
            self._propagation = Propagation(self.tracker, self.inspection.frame, self.inspection.frames)
        return self._propagation


def _corners(x0: float, y0: float, x1: float, y1: float) -> tuple[Click, Click]:
    """Upper left and lower right corner of a box, given by any two opposite ones.

    Raises:
        BadInput: it is less than a pixel wide or high.
    """
    left, right = sorted((round(x0, 2), round(x1, 2)))
    top, bottom = sorted((round(y0, 2), round(y1, 2)))
    if not (right - left >= 1 and bottom - top >= 1):
        raise BadInput(f"the box is {right - left:g}×{bottom - top:g} pixels in the frame; drag a larger one")
    return (left, top, UPPER_LEFT), (right, bottom, LOWER_RIGHT)


def _frames_changed(before: Corrected, after: Corrected) -> tuple[int, int]:
    """First frame and the one after the last in which two states differ."""
    different = before.stretches() ^ after.stretches()
    if not different:
        return 0, 0
    return min(one.start for _, one in different), max(one.stop for _, one in different)


def ask(
    inspection: Inspection,
    sentence: str,
    grounder: Any,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    **settings: Any,
) -> GroundingResult:
    """A new sentence about the same frames, with the settings of the run where none are given.

    A video file or folder is opened anew, so that the inspection can be looked through meanwhile.

    Args:
        inspection: whose video is asked about.
        sentence: see `VideoGrounder`.
        grounder: a `VideoGrounder`.
        settings: of `VideoGrounder.__call__`; `every`, `fusion`, `tau`, `context`, `reader` come from the run, and
            `max_frames` is its length; of an excerpt its own frames are looked at.
        progress: called with frames answered about and frames in all, while answers are written.
        cancel: asked then; True stops.

    Raises:
        BadInput: there is no video, or what the grounder refuses.
        Cancelled: `cancel` said so.
    """
    if inspection.video() is None:
        raise BadInput("there is no video to ask about; give Inspection(…, video=…)")
    run = inspection.result.config.get("model", {})
    kept = {name: run[name] for name in ("every", "fusion", "tau", "context", "reader") if run.get(name) is not None}

    def written(frame: int, _: str) -> None:
        if cancel is not None and cancel():
            raise Cancelled
        if progress is not None:
            progress(frame, inspection.frames)

    if progress is not None or cancel is not None:
        settings.setdefault("on_text", written)
    result, given = inspection.result, inspection.given_video
    source = result.source if given is None else given
    if not isinstance(source, (str, Path)):
        return grounder(inspection.video(), sentence, **kept | settings)
    if result.recording is None and result.source_frames is None:
        return grounder(source, sentence, **kept | {"max_frames": inspection.frames} | settings)
    kept.pop("reader", None)
    return grounder(result.open_video(given), sentence, **kept | settings)
