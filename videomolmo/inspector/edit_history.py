"""Corrections as a log on disk, with undo and redo bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.inspector.identities import ACTIONS, ON_SCREEN, Edit, builds_on, edit_of
from videomolmo.io.formats.run_lengths import decode_rle
from videomolmo.io.schemas import Correction
from videomolmo.io.untrusted import parse, read_bytes
from videomolmo.mask_store import ClipShape
from videomolmo.results import GroundingResult

OFF, ON, UPPER_LEFT, LOWER_RIGHT = 0, 1, 2, 3  # as SAM 2 numbers points, and corners of a box
Click = tuple[float, float, int]  # x and y in pixels, and one of these


class DrawnMask(NamedTuple):
    """A mask made by hand, as the run lengths of COCO of the size of the frame; "": an empty one, nothing is there."""

    counts: str

    def decoded(self, height: int, width: int) -> np.ndarray:
        """The mask, bool (height, width).

        Raises:
            BadInput: it is none of this size.
        """
        if not self.counts:
            return np.zeros((height, width), bool)
        return decode_rle({"size": [height, width], "counts": self.counts}, "the mask made by hand")


Clicks = tuple[Click | DrawnMask, ...]  # a mask stands first, then both corners of a box, then points
BaseClicks = Callable[[int, int], Clicks]
MAX_NEW = 1000  # objects that corrections can begin
PROMPTED = ("add_point", "remove_point", "move_point", "add_box", "edit_mask")  # their records have `clicks`


class Stretch(NamedTuple):
    """An object between two of its key frames, with the clicks it starts from on either side.

    Attributes:
        start, stop: the frames, stop exclusive.
        left, right: key frames, None where there is none on that side.
        left_clicks, right_clicks: of the object there; empty where it is not there.
    """

    start: int
    stop: int
    left: int | None
    right: int | None
    left_clicks: Clicks
    right_clicks: Clicks


@dataclass(frozen=True)
class State:
    """All corrections in force.

    Attributes:
        clicks: (object, frame) to the clicks that replace those of the model there.
        dropped: key frames whose answer does not count.
        edits: of identities, in order. Objects in `clicks` are tracks, see `videomolmo.inspector.identities`.
    """

    clicks: Mapping[tuple[int, int], Clicks] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()
    edits: tuple[Edit, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.clicks or self.dropped or self.edits)

    @property
    def changes_masks(self) -> bool:
        """Whether more than names and colours is corrected."""
        return bool(self.clicks or self.dropped or any(edit.action not in ON_SCREEN for edit in self.edits))

    def objects(self) -> int:
        """The largest id of an object that was clicked on."""
        return max(self.clicked(), default=0)

    def clicked(self) -> list[int]:
        """Ids of all objects that were clicked on."""
        return [object_id for object_id, frames in self._by_object.items() if any(frames.values())]

    @cached_property
    def _by_object(self) -> dict[int, dict[int, Clicks]]:
        """Object to frame to clicks: many objects and many clicks are looked through once."""
        found: dict[int, dict[int, Clicks]] = {}
        for (object_id, frame), clicks in self.clicks.items():
            found.setdefault(object_id, {})[frame] = clicks
        return found

    def frames_of(self, object_id: int) -> set[int]:
        """Frames on which this object's clicks are others than the model's."""
        return {*self._by_object.get(object_id, ()), *self.dropped}

    def clicks_of(self, object_id: int, frame: int, base: BaseClicks) -> Clicks:
        """Clicks of an object on a frame, the model's where nothing was corrected."""
        if (object_id, frame) in self.clicks:
            return self.clicks[object_id, frame]
        return () if frame in self.dropped else base(object_id, frame)

    def keys_of(self, object_id: int, key_frames: Iterable[int]) -> list[int]:
        """Key frames that bound the stretches of an object: those of the clip and its own corrective ones."""
        own = {frame for frame, clicks in self._by_object.get(object_id, {}).items() if clicks}
        return sorted((set(key_frames) - self.dropped) | own)

    def stretches(self, object_id: int, key_frames: Iterable[int], frames: int, base: BaseClicks) -> list[Stretch]:
        """The stretches of an object in which something differs from the run, in order.

        Args:
            object_id: id of the object.
            key_frames: of the run.
            frames: length of the clip.
            base: the model's clicks for an object on a frame.
        """
        changed, keys = sorted(self.frames_of(object_id)), self.keys_of(object_id, key_frames)
        if not changed:
            return []
        edges = [None, *keys, None]
        found = []
        for left, right in pairwise(edges):
            start, stop = (0 if left is None else left), (frames if right is None else right)
            first = bisect_left(changed, start)  # the right key frame counts, too, where there is one
            if start < stop and first < len(changed) and changed[first] < stop + (right is not None):
                both = (() if at is None else self.clicks_of(object_id, at, base) for at in (left, right))
                found.append(Stretch(start, stop, left, right, *map(positive_only, both)))
        return found


def positive_only(clicks: Clicks) -> Clicks:
    """The clicks if one of them is on the object; none otherwise: the object is not there. A mask or a box is on it.

    Example:
        >>> positive_only(((3.0, 4.0, 0),))
        ()
    """
    return clicks if any(one[-1] not in (OFF, "") for one in clicks) else ()


def parts_of(clicks: Clicks) -> tuple[DrawnMask | None, tuple[Click, ...], tuple[Click, ...]]:
    """The mask that was drawn, the corners of the box, and the points of some clicks.

    Example:
        >>> parts_of(((1.0, 2.0, 2), (8.0, 9.0, 3), (3.0, 4.0, 0)))
        (None, ((1.0, 2.0, 2), (8.0, 9.0, 3)), ((3.0, 4.0, 0),))
    """
    mask = next((one for one in clicks if isinstance(one, DrawnMask)), None)
    return mask, tuple(filter(is_corner, clicks)), tuple(filter(is_point, clicks))


def is_corner(click: Click | DrawnMask) -> bool:
    """Whether it is a corner of a box."""
    return click[-1] in (UPPER_LEFT, LOWER_RIGHT)


def is_point(click: Click | DrawnMask) -> bool:
    """Whether it is a point, on the object or off it."""
    return click[-1] in (OFF, ON)


def box_of(corners: Iterable[Click]) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a box, from its corners; None without any."""
    return next(((a[0], a[1], b[0], b[1]) for a, b in pairwise(corners)), None)


def clicks_of_record(record: Mapping[str, Any]) -> Clicks:
    """What a record says is in force for its object on its frame.

    Raises:
        KeyError, TypeError, ValueError: it says nothing of the kind, or half a box.
    """
    clicks = tuple((float(x), float(y), int(label)) for x, y, label in record["clicks"])
    _, corners, points = parts_of(clicks)
    kinds, box = [label for *_, label in corners], box_of(corners)
    if kinds not in ([], [UPPER_LEFT, LOWER_RIGHT]) or clicks != (*corners, *points):
        raise ValueError("corners of a box stand in pairs before all points")
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"the box {box} is empty")
    return clicks if record.get("mask") is None else (DrawnMask(record["mask"]), *clicks)


class Delta(NamedTuple):
    """What one correction changes: on one frame, or in the identities.

    Attributes:
        frame: its number.
        clicks: object to the clicks before and after it; None: those of the model.
        drops: whether the frame's answer ceases to count.
        edits: all edits of identities before and after it; None: it changes none.
    """

    frame: int
    clicks: Mapping[int, tuple[Clicks | None, Clicks | None]]
    drops: bool = False
    edits: tuple[tuple[Edit, ...], tuple[Edit, ...]] | None = None


class History:
    """The state of all corrections, and the way back: what each changed, so that many need no more room than they say.

    Args:
        objects: of the run; corrections may begin new ones, one after the other.

    Attributes:
        records: everything that happened, undo and redo included.
    """

    def __init__(self, objects: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self._deltas: list[Delta] = []
        self._of: list[dict[str, Any]] = []  # the record of each
        self._edits: tuple[Edit, ...] = ()
        self._at = 0
        self._clicks: dict[int, dict[int, Clicks]] = {}  # frame to object to clicks
        self._dropped: set[int] = set()
        self._state: State | None = State()
        self._most, self._last = objects, None if objects is None else objects + MAX_NEW

    @property
    def state(self) -> State:
        if self._state is None:
            clicks = {(object_id, at): own for at, frame in self._clicks.items() for object_id, own in frame.items()}
            self._state = State(clicks, frozenset(self._dropped), self._edits)
        return self._state

    def can(self, action: str) -> bool:
        """Whether "undo" or "redo" leads anywhere."""
        return self._at > 0 if action == "undo" else self._at < len(self._deltas)

    def after(self, record: Mapping[str, Any]) -> State:
        """The state that a record leads to.

        Raises:
            BadInput: an undo or redo that leads nowhere, or a record that is none.
        """
        before, delta = self.state, self._delta(record)
        back = record["action"] == "undo"
        changed = {(object_id, delta.frame): pair[not back] for object_id, pair in delta.clicks.items()}
        clicks = {key: own for key, own in (before.clicks | changed).items() if own is not None}
        dropped = before.dropped ^ {delta.frame} if delta.drops else before.dropped
        return State(clicks, dropped, before.edits if delta.edits is None else delta.edits[not back])

    def in_force(self) -> dict[int, dict[str, Any]]:
        """The corrections that count, by number: neither undone nor reverted."""
        found: dict[int, dict[str, Any]] = {}
        for record in self._of[: self._at]:
            if record["action"] == "revert":
                found.pop(int(record["of"]), None)
            else:
                found[record["number"]] = record
        return found

    def kept_by(self, number: int) -> int | None:
        """A later correction in force, on the same points or of an object begun by this one, that must go first."""
        records = self.in_force()
        own = records[number]
        for later, record in records.items():
            if later > number and builds_on(record, own):
                return later
        return None

    def _delta(self, record: Mapping[str, Any]) -> Delta:
        action = record.get("action")
        if action in ("undo", "redo"):
            if not self.can(action):
                raise BadInput(f"there is nothing to {action}")
            return self._deltas[self._at - (action == "undo")]
        if action == "revert":
            return self._reverted(record.get("of", 0))
        try:
            if action in ACTIONS:
                edit = edit_of(record, self.number(record))
                for one in edit.objects:
                    self._check_object(one)
                return Delta(edit.frame, {}, edits=(self._edits, (*self._edits, edit)))
            if action == "drop_answer":
                frame = int(record["frame"])
                there = self._clicks.get(frame, {})
                gone = {object_id: (own, None) for object_id, own in there.items()}
                return Delta(frame, gone, frame not in self._dropped)
            if action in PROMPTED:
                clicks = clicks_of_record(record)
                object_id, frame = int(record["object"]), int(record["frame"])
                self._check_object(object_id)
                before = self._clicks.get(frame, {})
                cleared = {int(one): (before.get(int(one)), (DrawnMask(""),)) for one in record.get("cleared", ())}
                return Delta(frame, cleared | {object_id: (before.get(object_id), clicks)})
        except (KeyError, TypeError, ValueError) as error:
            about = f"{dict(record)!r:.200}"
            raise BadInput(f"record {about} is not a correction ({type(error).__name__}: {error})") from None
        known = (*PROMPTED, "drop_answer", *ACTIONS, "undo", "redo", "revert")
        raise BadInput(f"action {action!r:.40} is unknown, expected one of {', '.join(known)}")

    def number(self, record: Mapping[str, Any]) -> int:
        """That of a record, which follows on the others where it has none of its own."""
        return int(record.get("number", len(self.records) + 1))

    def _reverted(self, number: int) -> Delta:
        """What takes a correction back that is in force, and leaves the later ones.

        Raises:
            BadInput: it is not in force, or a later one builds on it.
        """
        if number not in self.in_force():
            raise BadInput(f"correction {number} is not in force; choose one of {[*self.in_force()]!s:.80}")
        if later := self.kept_by(number):
            raise BadInput(f"correction {later} builds on correction {number}; revert that first")
        at = next(at for at, record in enumerate(self._of[: self._at]) if record["number"] == number)
        made = self._deltas[at]
        kept = tuple(edit for edit in self._edits if edit.number != number)
        return Delta(
            made.frame,
            {object_id: (after, before) for object_id, (before, after) in made.clicks.items()},
            made.drops,
            None if made.edits is None else (self._edits, kept),
        )

    def _check_object(self, object_id: int) -> None:
        """Nothing where the object is there, or is the next one that a correction can begin."""
        if self._most is not None and not 1 <= object_id <= min(self._most + 1, self._last):
            raise ValueError(f"object {object_id} is not there, expected 1 to {min(self._most + 1, self._last)}")

    def add(self, record: dict[str, Any]) -> None:
        """Take a record in.

        Raises:
            BadInput: as `after`.
        """
        delta, action = self._delta(record), record["action"]
        frame = self._clicks.setdefault(delta.frame, {})
        for object_id, pair in delta.clicks.items():
            if (own := pair[action != "undo"]) is None:
                frame.pop(object_id, None)
            else:
                frame[object_id] = own
            if self._most is not None:
                self._most = max(self._most, object_id)
        if delta.drops:
            self._dropped ^= {delta.frame}
        if delta.edits is not None:
            self._edits = delta.edits[action != "undo"]
            begun = [edit.other for edit in self._edits if edit.action == "split"]
            self._most = None if self._most is None else max(self._most, *begun, 0)
        if action in ("undo", "redo"):
            self._at += 1 if action == "redo" else -1
        else:
            self._deltas[self._at :], self._of[self._at :] = [delta], [dict(record) | {"number": self.number(record)}]
            self._at += 1
        self.records.append(record)
        self._state = None


LOG = "corrections.jsonl"
FOLDER = "corrections"  # masks made for them, see `PropagationCache`


def result_key(result: GroundingResult) -> str:
    """A name for what a run found, the same in memory and on disk, and when its video or its folder is moved."""
    size = (result.objects, result.height, result.width)
    identity = (result.sentence, size, result.times_s.round(6).tolist(), result.config)
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


class CorrectionLog:
    """The records of one result's corrections.

    Args:
        folder: of the result; None: nothing is written.
        result: see `result_key`; stands in every record, so that no other result in this folder takes it for its own.
        clip: frames, objects and size of the result.

    Attributes:
        problems: lines that could not be read or are not of this result, a sentence each.
        unkept: why corrections stay in memory although there is a folder; None while they are written.
    """

    def __init__(self, folder: Path | None, result: str, clip: ClipShape) -> None:
        self.folder, self.result, self.clip = folder, result, clip
        self.problems: list[str] = []
        self.unkept: str | None = None
        self._size = 0

    def read(self) -> History:
        """All records of this result that make sense, in order; `problems` tells of the others."""
        history, self.problems, self._size = History(self.clip.objects), [], 0
        if self.folder is None:
            return history
        try:
            data = read_bytes(self.folder / LOG)
        except FileNotFoundError:
            return history
        except (OSError, BadInput) as error:
            self.problems = [f"{LOG} cannot be read ({error}); the corrections in it are not shown"]
            if isinstance(error, BadInput):
                self.give_up(f"{LOG} cannot be read")
            return history
        self._size = len(data)
        bad, others = [], 0
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                record = self._record(line)
                if record is None:
                    others += 1
                else:
                    history.add(record)
            except BadInput as error:
                bad.append(f"line {number}: {error}")
        if bad:
            self.problems.append(f"{LOG}, {'; '.join(bad[:3])}{' …' * (len(bad) > 3)}: not shown, as no corrections")
        if others:
            self.problems.append(f"{LOG}: corrections of another result ({others}) are not shown")
        return history

    def _record(self, line: bytes) -> dict[str, Any] | None:
        """The record of a line; None where it is of another result. Older records name none: they are taken."""
        record = parse(dict[str, Any], line, LOG)
        if record.get("result", self.result) != self.result:
            return None
        parse(Correction, line, LOG)
        if record.get("frame", 0) >= self.clip.frames:
            raise BadInput(f"frame {record['frame']} is not in the clip")
        for x, y, _ in record.get("clicks", ()):
            if not (0 <= x <= self.clip.width and 0 <= y <= self.clip.height):
                raise BadInput(f"point ({x:g}, {y:g}) is not in the frame")
        if record.get("mask") is not None:
            DrawnMask(record["mask"]).decoded(self.clip.height, self.clip.width)
        return record

    def in_step(self) -> bool:
        """Whether the file is as it was when it was read or written here last."""
        if self.folder is None or self.unkept:
            return True
        try:
            return (self.folder / LOG).stat().st_size == self._size
        except OSError:
            return self._size == 0

    def check_room(self) -> None:
        """Find out before any work is done whether it can be kept; `unkept` tells."""
        if self.folder is None or self.unkept:
            return
        there = [self.folder, *(path for name in (LOG, FOLDER) if (path := self.folder / name).exists())]
        closed = [path for path in there if not os.access(path, os.W_OK)]
        if closed or not self.folder.is_dir():
            self.give_up(f"{(closed or there)[0]} cannot be written")

    def give_up(self, reason: str | OSError) -> None:
        """Write nothing from now on: a record that follows on lost ones would mean something else."""
        self.unkept = f"corrections are kept in memory only, until this result is closed: {reason}"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record in one write, so that a reader sees it whole or not at all."""
        if self.folder is None or self.unkept:
            return
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            with open(self.folder / LOG, "a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    # an earlier write was cut short; its line stays as it is, and is reported
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                self._size = file.tell()
        except OSError as error:
            self.give_up(error)
