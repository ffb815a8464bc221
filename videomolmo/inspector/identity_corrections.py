"""Corrections of identities, and of corrections: which track is which object, its name, and taking any of them back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from videomolmo.errors import BadInput
from videomolmo.inspector.edit_history import Click, DrawnMask
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.repropagation import Progress

COLOURS = 255  # of the palette, background left out
MAX_NAME, CONTROL = 200, re.compile(r"[\x00-\x1f\x7f]")  # letters; what no file of labels holds
Cancel = Callable[[], bool]


class Change(NamedTuple):
    """What a correction did.

    Attributes:
        record: as written to corrections.jsonl.
        object: id of the object concerned, None where several are.
        frames: first frame and the one after the last whose masks may have changed.
        propagated: how many frames SAM 2 propagated masks to.
    """

    record: dict[str, Any]
    object: int | None
    frames: tuple[int, int]
    propagated: int


class IdentityCorrections:
    """The part of `videomolmo.inspector.corrections.Corrections` that is about whole objects and whole corrections.

    Attributes:
        inspection: whose objects they are.
    """

    inspection: Inspection

    def swap(self, object_id: int, other: int, frame: int) -> Change:
        """Two objects exchange their ids from a frame on, masks and all; no model runs.

        Raises:
            BadInput: an object that is not there, the same one twice, or a frame that is not in the clip.
        """
        record = {"object": self._check_object(object_id), "other": self._check_object(other)}
        return self._identify("swap", record, self._check_frame(frame))

    def merge(self, object_id: int, other: int) -> Change:
        """`other` becomes a part of an object on all frames: where both are, their masks are put together.

        Raises:
            BadInput: as `swap`.
        """
        return self._identify("merge", {"object": self._check_object(object_id), "other": self._check_object(other)})

    def split(self, object_id: int, frame: int) -> Change:
        """What an object is from a frame on becomes a new object.

        Raises:
            BadInput: as `swap`, or the object is not there on both sides of the frame.
        """
        look, frame = self.inspection, self._check_frame(frame)
        area = look.series(self._check_object(object_id)).area
        if not (area[:frame].any() and area[frame:].any()):
            raise BadInput(f"object {object_id} is not there both before frame {frame} and from it on; go to another")
        return self._identify("split", {"object": object_id, "other": look.objects + 1}, frame)

    def delete(self, object_id: int) -> Change:
        """An object is gone, on all frames; to keep what came before a frame, split it there first.

        Raises:
            BadInput: as `swap`.
        """
        return self._identify("delete", {"object": self._check_object(object_id)})

    def recolour(self, object_id: int, colour: int) -> Change:
        """An object is drawn in another colour: that which object number `colour` has by itself.

        Raises:
            BadInput: as `swap`, or there is no such colour.
        """
        if not 1 <= colour <= COLOURS:
            raise BadInput(f"colour is {colour!r}, expected a number from 1 to {COLOURS}")
        return self._identify("recolour", {"object": self._check_object(object_id), "other": int(colour)})

    def rename(self, object_id: int, name: str) -> Change:
        """An object is called something else, in lists, plots and exports; "" gives back the name it had by itself.

        Raises:
            BadInput: as `swap`, or the name is longer than `MAX_NAME` letters.
        """
        name = " ".join(CONTROL.sub(" ", str(name)).split())
        if len(name) > MAX_NAME:
            raise BadInput(f"the name {name[:20]!r}… has {len(name)} letters, expected at most {MAX_NAME}; shorten it")
        return self._identify("rename", {"object": self._check_object(object_id), "name": name})

    def _identify(self, action: str, record: dict[str, Any], frame: int | None = None) -> Change:
        if record["object"] == record.get("other") and action != "recolour":
            raise BadInput(f"object {record['object']} is both; choose two objects")
        return self._apply({"action": action, **record, **({} if frame is None else {"frame": frame})}, None, None)

    def revert(self, number: int, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Change:
        """Take one correction back, whichever it is, and keep the later ones; `undo` brings it back.

        Args:
            number: that of its record.
            progress, cancel: as `add_point`; needed where masks between the later ones were never made.

        Raises:
            BadInput: it is not in force, or a later one builds on it; and as `add_point`.
            Cancelled: as `add_point`.
        """
        return self._apply({"action": "revert", "of": number}, progress, cancel)

    def _check_frame(self, frame: int) -> int:
        if not 0 <= frame < self.inspection.frames:
            raise BadInput(f"frame {frame} is not in the clip, expected 0 to {self.inspection.frames - 1}")
        return int(frame)

    def _check_object(self, object_id: int) -> int:
        if object_id not in self.inspection.object_ids:
            known = ", ".join(map(str, self.inspection.object_ids[:20])) or "none"
            raise BadInput(f"object {object_id} is not there, expected one of {known}; None begins a new one")
        return int(object_id)

    def _point(self, object_id: int, frame: int, index: int) -> tuple[int, int]:
        """Track of a point of an object, `index` as in `Inspection.points`, and its place among the track's clicks."""
        tracks = sorted(self.inspection.identities.tracks_of(object_id, frame))
        there = [(track, n) for track in tracks for n in range(len(self.inspection.clicks(track, frame)))]
        if not 0 <= index < len(there):
            raise BadInput(f"object {object_id} has {len(there)} points on frame {frame}; there is no point {index}")
        return there[index]

    def _track_of(self, object_id: int, frame: int, click: Click) -> int:
        """The track that a click on an object is about: of several that were merged, the nearest to it."""
        look = self.inspection
        tracks = look.identities.tracks_of(object_id, frame)
        if len(tracks) == 1:
            return tracks[0]

        def away(track: int) -> float:
            clicks = [one for one in look.clicks(track, frame) if not isinstance(one, DrawnMask)]
            return min((math.dist(one[:2], click[:2]) for one in clicks), default=math.inf)

        return min(tracks, key=away)

    def _apply(self, record: dict[str, Any], progress: Progress | None, cancel: Cancel | None) -> Change:
        raise NotImplementedError
