"""Which track is which object, and what it is called: swapped, merged, split, deleted, recoloured, renamed by hand.

A track is what the run, or a click, follows; corrections by points are about tracks. What is shown, listed and exported
are objects, and each edit says of whole tracks, or of their frames from one on, whose they are. No mask is made anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from videomolmo.inspector.fused_masks import Source
from videomolmo.inspector.segments import Segment, SegmentStore

ON_SCREEN = ("recolour", "rename")  # which change no mask
ACTIONS = ("swap", "merge", "split", "delete", *ON_SCREEN)


class Edit(NamedTuple):
    """A change of identities.

    Attributes:
        action: "swap" `object` and `other` from `frame` on; "merge" `other` into `object`; "split": what `object` is
            from `frame` on is `other`, a new one; "delete" `object`; "recolour" it as `other` is coloured by itself;
            "rename" it `name`.
        object, other: ids from 1, as they were shown then.
        frame: the first that it is about.
        number: of the record that says so.
        name: "" gives back the one that it had by itself.
    """

    action: str
    object: int
    other: int = 0
    frame: int = 0
    number: int = 0
    name: str = ""

    @property
    def objects(self) -> tuple[int, ...]:
        """Those that it is about."""
        return (self.object, self.other) if self.action in ("swap", "merge", "split") else (self.object,)


def edit_of(record: Mapping[str, Any], number: int) -> Edit:
    """The edit that a record of corrections says.

    Raises:
        KeyError, TypeError, ValueError: it says none.
    """
    action, own = record["action"], int(record["object"])
    other = int(record["other"]) if action not in ("delete", "rename") else 0
    frame = int(record["frame"]) if action in ("swap", "split") else 0
    if own == other and action != "recolour":
        raise ValueError(f"object {own} with itself")
    return Edit(action, own, other, frame, number, str(record["name"]) if action == "rename" else "")


def builds_on(later: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a correction changes what another one, before it, left."""
    if own["action"] == "split":
        return own["other"] in (later.get("object"), later.get("other") if later["action"] != "recolour" else None)
    if own["action"] in ACTIONS or later["action"] in ACTIONS or own["frame"] != later["frame"]:
        return False
    is_whole = "drop_answer" in (own["action"], later["action"])  # of a frame: all objects
    return is_whole or own["object"] == later["object"]


def object_of(track: int, frame: int, edits: Sequence[Edit]) -> int | None:
    """The object that a track is on a frame; None where it was deleted.

    Example:
        >>> edits = [Edit("swap", 1, 2, frame=5), Edit("delete", 2)]
        >>> [object_of(1, frame, edits) for frame in (4, 5)], [object_of(2, frame, edits) for frame in (4, 5)]
        ([1, None], [None, 1])
    """
    for edit in edits:
        if frame < edit.frame:
            continue
        if edit.action == "swap" and track in (edit.object, edit.other):
            track = edit.other if track == edit.object else edit.object
        elif edit.action == "merge" and track == edit.other:
            track = edit.object
        elif edit.action == "split" and track == edit.object:
            track = edit.other
        elif edit.action == "delete" and track == edit.object:
            return None
    return track


class Identified:
    """Segments of tracks as those of objects; of merged tracks an object has several at a time.

    Args:
        source: of the tracks.
        edits: in order.
        store: of the run, for its windows.
    """

    def __init__(self, source: Source, edits: Sequence[Edit], store: SegmentStore) -> None:
        self.source, self.edits, self._store = source, tuple(edits), store
        self.objects = max(source.objects, *(edit.other for edit in edits if edit.action == "split"), 0)

    def segments(self, window: int) -> list[Segment]:
        """Objects of a window, cut where their tracks change hands."""
        found = []
        for segment in self.source.segments(window):
            inner = {edit.frame for edit in self.edits if segment.start < edit.frame < segment.stop}
            edges = sorted({segment.start, segment.stop, *inner})
            for start, stop in pairwise(edges):
                if (name := object_of(segment.object_id, start, self.edits)) is not None:
                    part = segment if len(edges) == 2 else segment.slice(start, stop)
                    found.append(replace(part, object_id=name))
        return sorted(found, key=lambda segment: (segment.object_id, segment.start))

    def changed_windows(self) -> set[int]:
        """Windows in which an edit, or what is below, may differ from the run."""
        first = min((edit.frame for edit in self.edits if edit.action not in ON_SCREEN), default=self._store.frames)
        below = self.source.changed_windows() if hasattr(self.source, "changed_windows") else set()
        return below | set(range(max(0, self._store.window_of(first)), len(self._store.starts)))


class Identities:
    """Tracks and objects of a clip.

    Args:
        edits: in order.
        tracks: ids of those that are there: of the run, and begun by clicks.
    """

    def __init__(self, edits: Sequence[Edit], tracks: Collection[int]) -> None:
        self.edits, self.tracks = tuple(edits), sorted(tracks)

    @cached_property
    def objects(self) -> list[int]:
        """Ids of the objects that any track is on any frame, in order."""
        if not self.edits:
            return self.tracks
        frames = {0, *(edit.frame for edit in self.edits)}
        found = {object_of(track, frame, self.edits) for track in self.tracks for frame in frames}
        return sorted(found - {None})

    def object_of(self, track: int, frame: int) -> int | None:
        """The object that a track is on a frame; None where it was deleted."""
        return object_of(track, frame, self.edits)

    def tracks_of(self, object_id: int, frame: int) -> list[int]:
        """Tracks that are this object on a frame, those that are there first; its own id where it can begin there."""
        found = [track for track in self.tracks if object_of(track, frame, self.edits) == object_id]
        fresh = object_id not in self.tracks and object_of(object_id, frame, self.edits) == object_id
        return found + [object_id] * fresh

    def colour_of(self, object_id: int) -> int:
        """The object whose colour this one has: its own, unless it was recoloured."""
        chosen = [edit.other for edit in self.edits if edit.action == "recolour" and edit.object == object_id]
        return chosen[-1] if chosen else object_id

    def colours(self, objects: int) -> tuple[int, ...] | None:
        """`colour_of` each of the first `objects`; None where all have their own."""
        if not any(edit.action == "recolour" for edit in self.edits):
            return None
        return tuple(self.colour_of(n) for n in range(1, objects + 1))


def names_by(edits: Sequence[Edit]) -> dict[int, str]:
    """Object id to the name that it was given last.

    Example:
        >>> names_by([Edit("rename", 1, name="cup"), Edit("rename", 2, name="jug"), Edit("rename", 2)])
        {1: 'cup'}
    """
    last = {edit.object: edit.name for edit in edits if edit.action == "rename"}
    return {object_id: name for object_id, name in last.items() if name}


def edit_in_words(edit: Edit) -> str:
    """An edit in words."""
    object_id, other = f"object {edit.object}", f"object {edit.other}"
    return {
        "swap": f"{object_id} and {other} swapped from frame {edit.frame} on",
        "merge": f"{other} merged into {object_id}",
        "split": f"{object_id} split: from frame {edit.frame} on {other}",
        "delete": f"{object_id} deleted",
        "recolour": f"{object_id} coloured as number {edit.other}",
        "rename": f"{object_id} named “{edit.name}”" if edit.name else f"{object_id} has its own name again",
    }[edit.action]
