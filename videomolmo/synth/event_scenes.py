"""Clips in which something happens, with everything that happens known: who appears, leaves, turns, stops, hides,
collides, and what cannot be (things that vanish, jump or change their shape), injected into clean clips.

Times are seconds; whatever is planned happens on a grid of half seconds, as in Molmo 2's data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.synth.scene import HIDDEN_SHARE, SEEN_SHARE

GRID_S = 0.5  # seconds from one frame that is looked at to the next
GRID_FPS = 2
VERBS = ("appears", "leaves", "turns", "collides", "stops", "hides")
ANOMALIES = ("vanishes", "jumps", "changes shape")  # vanishing subject, physical incongruity, temporal dysmorphia
SPECIES = ("fish", "bird", "butterfly", "snail")
TINY = 12  # pixels of a mask that nobody would call seen
NOWHERE = np.array([-50.0, -50.0])


@dataclass(frozen=True)
class Way:
    """Where a thing is: straight from place to place, at rest before the first and after the last; it may swing.

    Attributes:
        times, places: seconds, and (x, y) in shares of the height.
        swing, rate: how far it swings up and down (shares of the height), radians a second.
        span: from when to when it is there at all.
        jump: from when on it is moved by how much, if ever.
    """

    times: Float[np.ndarray, " places"]
    places: Float[np.ndarray, "places 2"]
    swing: float = 0.0
    rate: float = 0.0
    span: tuple[float, float] = (-np.inf, np.inf)
    jump: tuple[float, np.ndarray] | None = None

    def position(self, time: float) -> Float[np.ndarray, "2"]:
        """The place at a time, as `scene.Path` gives it."""
        return self.positions(np.array([time]))[0]

    def positions(self, times: Float[np.ndarray, " times"]) -> Float[np.ndarray, "times 2"]:
        """The places at some times; `NOWHERE` outside of its span."""
        places = np.stack([np.interp(times, self.times, self.places[:, axis]) for axis in range(2)], axis=1)
        if self.jump is not None:
            places[times >= self.jump[0] - 1e-6] += self.jump[1]
        places[:, 1] += self.swing * np.sin(self.rate * times)
        places[(times < self.span[0] - 1e-6) | (times >= self.span[1] - 1e-6)] = NOWHERE
        return places


@dataclass(frozen=True)
class Event:
    """Something that happens: a word of `VERBS` or `ANOMALIES`, to which things, when (seconds, on the grid)."""

    verb: str
    things: tuple[int, ...]
    time_s: float


@dataclass(frozen=True)
class Thing:
    """One thing of a clip, whatever becomes of it.

    Attributes:
        kind: a shape, or a species.
        colour, radius: its name; in shares of the height.
        way: where it is.
        parts: objects of the scene that show it, one after another.
        planned: what it does, with times; what comes, goes and hides is read from the masks.
    """

    kind: str
    colour: str
    radius: float
    way: Way
    parts: tuple[int, ...] = ()
    planned: tuple[tuple[str, float], ...] = ()

    @property
    def living(self) -> bool:
        return self.kind in SPECIES

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def speed(self) -> float:
        """Mean speed while it goes, in heights a second; 0 for what stands."""
        steps = np.linalg.norm(np.diff(self.way.places, axis=0), axis=1)
        moving = np.diff(self.way.times)[steps > 1e-6]
        return float(steps.sum() / moving.sum()) if len(moving) else 0.0


@dataclass(frozen=True, eq=False)
class EventClip:
    """A rendered clip.

    Attributes:
        frames, times_s: RGB and seconds.
        masks: of every thing, its visible part.
        shares: how much of each thing is seen, of what it would show with nothing before it.
        things: what there is.
        bar: left and right edge of the upright bar in shares of the width; None without one.
        anomalies: what cannot be, on the grid.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    times_s: Float[np.ndarray, " frames"]
    masks: Bool[np.ndarray, "frames things height width"]
    shares: Float[np.ndarray, "frames things"]
    things: tuple[Thing, ...]
    bar: tuple[float, float] | None
    anomalies: tuple[Event, ...] = field(default=())

    @cached_property
    def seen(self) -> Bool[np.ndarray, "frames things"]:
        """Whether a thing is to be seen well enough to be pointed at."""
        return (self.shares >= SEEN_SHARE) & (self.masks.sum(axis=(2, 3)) >= TINY)

    @cached_property
    def gone(self) -> Bool[np.ndarray, "frames things"]:
        """Whether nobody could point at it; what is neither seen nor gone is a matter of opinion."""
        return (self.shares <= HIDDEN_SHARE) | (self.masks.sum(axis=(2, 3)) < TINY // 3)

    @cached_property
    def grid(self) -> list[int]:
        """Numbers of the frames on the grid of half seconds."""
        return [at for at, time in enumerate(self.times_s) if abs(time / GRID_S - round(time / GRID_S)) < 1e-6]

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """All that happens, in order of time. Of what comes the time is the first frame that shows it, of what goes
        or hides the last."""
        found = list(self.anomalies)
        for number, thing in enumerate(self.things):
            found += [Event(verb, self._partners(number, verb, time), time) for verb, time in thing.planned
                      if verb not in ("appears", "leaves", "hides")]  # fmt: skip
            found += self._comings_and_goings(number)
        return tuple(sorted(found, key=lambda one: (one.time_s, one.verb, one.things)))

    def _partners(self, number: int, verb: str, time: float) -> tuple[int, ...]:
        """Who is in an event: for a collision also the nearest other thing."""
        if verb != "collides":
            return (number,)
        own = self.things[number].way.position(time)
        far = [
            np.linalg.norm(other.way.position(time) - own) - other.radius if at != number else np.inf
            for at, other in enumerate(self.things)
        ]
        return (number, int(np.argmin(far)))

    def _comings_and_goings(self, number: int) -> list[Event]:
        """Where a thing turns from gone to seen or back, on the grid, and why."""
        found, before, since = [], None, None
        unnatural = {
            (one.verb, round(one.time_s / GRID_S))
            for one in self.anomalies
            if one.verb == "vanishes" and number in one.things
        }
        for at in self.grid:
            if not (self.seen[at, number] or self.gone[at, number]):
                continue
            now = bool(self.seen[at, number])
            if before is not None and now != before:
                here, last = at if now else since, round(self.times_s[since] / GRID_S)
                behind = self._behind(number, since if now else at)
                if now and not behind:
                    found.append(Event("appears", (number,), float(self.times_s[here])))
                if not now and ("vanishes", last) not in unnatural:
                    found.append(Event("hides" if behind else "leaves", (number,), float(self.times_s[here])))
            before, since = now, at
        return found

    def _behind(self, number: int, at: int) -> bool:
        """Whether a thing that is not seen is behind the bar, and not outside the picture."""
        x, y = self.things[number].way.position(float(self.times_s[at]))
        return self.bar is not None and self.bar[0] < x / self.aspect < self.bar[1] and 0 < y < 1

    @property
    def aspect(self) -> float:
        return self.frames.shape[2] / self.frames.shape[1]
