"""What a person changed about points, as a state that follows from its records; and where that changes masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from videomolmo.errors import BadInput

Click = tuple[float, float, int]  # x and y in pixels, 1 on the object or 0 off it
Clicks = tuple[Click, ...]
BaseClicks = Callable[[int, int], Clicks]


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
    """

    clicks: Mapping[tuple[int, int], Clicks] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()

    def with_clicks(self, thing: int, frame: int, clicks: Iterable[Click]) -> State:
        """Other clicks for an object on a frame."""
        return replace(self, clicks={**self.clicks, (thing, frame): tuple(clicks)})

    def without(self, frame: int) -> State:
        """A key frame's answer dropped, and what was corrected on it."""
        kept = {key: clicks for key, clicks in self.clicks.items() if key[1] != frame}
        return State(kept, self.dropped | {frame})

    def objects(self) -> int:
        """The largest id of an object that was clicked on."""
        return max((thing for (thing, _), clicks in self.clicks.items() if clicks), default=0)

    def frames_of(self, thing: int) -> set[int]:
        """Frames on which this object's clicks are others than the model's."""
        return {frame for owner, frame in self.clicks if owner == thing} | self.dropped

    def clicks_of(self, thing: int, frame: int, base: BaseClicks) -> Clicks:
        """Clicks of an object on a frame, the model's where nothing was corrected."""
        if (thing, frame) in self.clicks:
            return self.clicks[thing, frame]
        return () if frame in self.dropped else base(thing, frame)

    def keys_of(self, thing: int, key_frames: Iterable[int]) -> list[int]:
        """Key frames that bound the stretches of an object: those of the clip and its own corrective ones."""
        own = {frame for (owner, frame), clicks in self.clicks.items() if owner == thing and clicks}
        return sorted((set(key_frames) - self.dropped) | own)

    def stretches(self, thing: int, key_frames: Iterable[int], frames: int, base: BaseClicks) -> list[Stretch]:
        """The stretches of an object in which something differs from the run, in order.

        Args:
            thing: id of the object.
            key_frames: of the run.
            frames: length of the clip.
            base: the model's clicks for an object on a frame.
        """
        changed, keys = self.frames_of(thing), self.keys_of(thing, key_frames)
        edges = [None, *keys, None]
        found = []
        for left, right in pairwise(edges):
            start, stop = (0 if left is None else left), (frames if right is None else right)
            touched = any(start <= frame < stop for frame in changed) or right in changed
            if start < stop and touched:
                ends = [() if key is None else positive_only(self.clicks_of(thing, key, base)) for key in (left, right)]
                found.append(Stretch(start, stop, left, right, *ends))
        return found


def positive_only(clicks: Clicks) -> Clicks:
    """The clicks if one of them is on the object; none otherwise: the object is not there.

    Example:
        >>> positive_only(((3.0, 4.0, 0),))
        ()
    """
    return clicks if any(label for _, _, label in clicks) else ()


class History:
    """States in order, with a place in them.

    Attributes:
        records: everything that happened, undo and redo included.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._states, self._at = [State()], 0

    @property
    def state(self) -> State:
        return self._states[self._at]

    def can(self, action: str) -> bool:
        """Whether "undo" or "redo" leads anywhere."""
        return self._at > 0 if action == "undo" else self._at + 1 < len(self._states)

    def after(self, record: Mapping[str, Any]) -> State:
        """The state that a record leads to.

        Raises:
            BadInput: an undo or redo that leads nowhere, or a record that is none.
        """
        action = record.get("action")
        if action in ("undo", "redo"):
            if not self.can(action):
                raise BadInput(f"there is nothing to {action}")
            return self._states[self._at + (1 if action == "redo" else -1)]
        try:
            if action == "drop_answer":
                return self.state.without(int(record["frame"]))
            if action in ("add_point", "remove_point"):
                clicks = [(float(x), float(y), int(label)) for x, y, label in record["clicks"]]
                return self.state.with_clicks(int(record["object"]), int(record["frame"]), clicks)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"record {dict(record)} is not a correction ({type(error).__name__}: {error})") from None
        raise BadInput(f"action {action!r} is unknown, expected add_point, remove_point, drop_answer, undo or redo")

    def add(self, record: dict[str, Any]) -> State:
        """Take a record in; returns the new state."""
        state = self.after(record)
        if record["action"] in ("undo", "redo"):
            self._at += 1 if record["action"] == "redo" else -1
        else:
            self._states = [*self._states[: self._at + 1], state]
            self._at += 1
        self.records.append(record)
        return state
