"""How a clip of events is made: things are put on a stage one after another, each on a way of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_int
from videomolmo.synth.event_scenes import (
    ANOMALIES,
    GRID_FPS,
    GRID_S,
    NOWHERE,
    SPECIES,
    VERBS,
    Event,
    EventClip,
    Thing,
    Way,
)
from videomolmo.synth.render import Renderer
from videomolmo.synth.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Path,
    Scene,
    SceneObject,
    hsv,
    outline,
    sample_background_colour,
    sample_colour,
)

MOST = 12  # events of one kind, or things of one name
SHORTEST_S = 3.0  # of a clip
SMALLEST = 0.045  # radius in heights
GAITS = {"fish": (0.02, 5.0), "bird": (0.03, 7.0), "butterfly": (0.05, 9.0), "snail": (0.0, 0.0)}  # swing, radians/s
TRIES = 60  # ways drawn for a thing before it is left out


def event_clip(
    seed: int, theme: str = "objects", *, wanted: int | None = None, duration_s: float = 6.0, fps: int = GRID_FPS,
    height: int = 96, width: int = 96,
) -> EventClip:  # fmt: skip
    """The clip of a seed, the same on every machine.

    Args:
        seed: any non-negative integer; evaluation uses seeds from 10 000 000, which training never draws.
        theme: "objects", "living", a word of `VERBS`, or "anomaly".
        wanted: how many things of one name, or events; fewer where there is no room. None draws 0 to 12, see `counts`.
        duration_s: of the clip; its last frame is shown at that time.
        fps: frames a second, a multiple of 2.
        height, width: of the frames.

    Raises:
        BadInput: an unknown theme, a seed below 0, or frames that are not on the grid.

    Example:
        >>> clip = event_clip(3, "turns", wanted=2, height=48, width=48)
        >>> clip.frames.shape, [one.verb for one in clip.events].count("turns")
        ((13, 48, 48, 3), 2)
    """
    if theme not in (*THEMES, *VERBS):
        raise BadInput(f"theme is {theme!r}, expected one of {', '.join((*THEMES, *VERBS))}")
    if as_int(seed, 0) is None:
        raise BadInput(f"seed is {seed!r}, expected a whole number from 0")
    if fps % GRID_FPS or fps <= 0 or (duration_s / GRID_S) % 1:
        raise BadInput(f"{duration_s:g} s at {fps} fps: expected half seconds, and a multiple of 2 frames a second")
    if duration_s < SHORTEST_S:
        raise BadInput(f"{duration_s:g} s: expected at least {SHORTEST_S:g}, or nothing has time to happen")
    rng = np.random.default_rng([seed, 43])
    wanted = counts(rng) if wanted is None else wanted
    stage = Stage(rng, width / height, duration_s)
    (THEMES.get(theme) or (lambda stage, wanted: stage.happening(theme, wanted)))(stage, wanted)
    return stage.rendered(seed, fps, height, width)


def counts(rng: np.random.Generator) -> int:
    """How many: 0 to 5 or 6 to 12 as 4 to 3.

    Source: Molmo 2's mixture of pointing sub-sets, 0.4 for 0 to 5 points and 0.3 for 6 to 25; ours ends at 12.
    """
    return int(rng.integers(0, 6) if rng.random() < 4 / 7 else rng.integers(6, MOST + 1))


class Stage:
    """Things are put on it one after another, none in another's way; `rendered` makes the clip of it."""

    def __init__(self, rng: np.random.Generator, aspect: float, duration_s: float) -> None:
        self.rng, self.aspect, self.duration = rng, aspect, duration_s
        self.things: list[Thing] = []
        self.anomalies: list[Event] = []
        self.bar: tuple[float, float] | None = None
        self._fine = np.arange(0, duration_s + 0.01, 0.1)
        self._taken: list[tuple[np.ndarray, float]] = []

    def objects(self, wanted: int) -> None:
        """So many of one shape and colour or of one shape, and some others; a few come or go."""
        self._crowd(str(self.rng.choice(SHAPES)), wanted)

    def living(self, wanted: int) -> None:
        """The same with a species."""
        self._crowd(str(self.rng.choice(SPECIES)), wanted)

    def _crowd(self, kind: str, wanted: int) -> None:
        if self.rng.random() < 0.3 and wanted < 8:
            self.add_bar()
        colour = str(self.rng.choice(list(COLOURS))) if self.rng.random() < 0.4 else None
        size = self.size_of(wanted + 2)
        for number in range(wanted + int(self.rng.integers(0 if wanted > 2 else 1, 4))):
            own = number < wanted
            does = str(self.rng.choice(["", "", "drifts", "appears", "leaves", "stops", "turns"]))
            name = kind if own else str(self.rng.choice([one for one in (*SHAPES, *SPECIES) if one != kind]))
            self.place(name, colour if own else None, size * self.rng.uniform(0.75, 1.5), does if name in SHAPES or
                       does not in ("turns", "stops") else "drifts")  # fmt: skip

    def happening(self, verb: str, wanted: int) -> None:
        """So many events of one kind, and some things that do something else."""
        if verb == "hides" or (verb not in ("collides", "turns") and wanted < 6 and self.rng.random() < 0.2):
            self.add_bar()
        size, there, misses = self.size_of(max(wanted, 3)), 0, 0
        while there < wanted and misses < 3:
            if verb == "collides":
                done = self.bouncer(size, wanted - there)
            elif verb == "turns":
                most = min(wanted - there, int(self.rng.integers(1, 5)))
                done = next((n for n in range(most, 0, -1) if self.place(None, None, size, "turns", n)), 0)
            else:
                done = int(self.place(None, None, size, verb))
            there += done
            if not done:
                size, misses = 0.8 * size, misses + 1
        others = [one for one in ("", "drifts", "stops", "turns", "leaves") if one != verb]
        for _ in range(int(self.rng.integers(1, 4))):
            self.place(None, None, size, str(self.rng.choice(others)))

    def anomaly(self, wanted: int) -> None:
        """A clean clip, into which so many anomalies are injected, at most one to a thing."""
        kind, others = str(self.rng.choice(ANOMALIES)), int(self.rng.integers(1, 4))
        size = self.size_of(wanted + others)
        for number in range(wanted + others):
            there = len(self.things)
            if self.place(None, None, size, str(self.rng.choice(["", "drifts"]))) and number < wanted:
                self.inject(there, kind if self.rng.random() < 0.8 else str(self.rng.choice(ANOMALIES)))

    def inject(self, number: int, anomaly: str) -> None:
        """Make something impossible of a thing, at a time on the grid that leaves it seen before and after."""
        time = GRID_S * int(self.rng.integers(2, round(self.duration / GRID_S) - 1))
        thing = self.things[number]
        way = thing.way
        if anomaly == "vanishes":
            way, when = replace(way, span=(way.span[0], time)), time - GRID_S
        elif anomaly == "jumps":
            here, when = way.position(time), time
            for _ in range(TRIES):
                there = self._somewhere(thing.radius)
                moved = replace(way, jump=(time, there - here))
                if np.linalg.norm(there - here) > 0.3 and self._is_free(moved, thing.radius, number):
                    way = moved
                    break
            else:
                return
        else:
            when = time
        self.things[number] = replace(thing, way=way)
        self._taken[number] = way.positions(self._fine), thing.radius
        self.anomalies.append(Event(anomaly, (number,), when))

    def size_of(self, things: int) -> float:
        """A radius with which so many have room."""
        return float(np.clip(0.24 / np.sqrt(max(things, 3)), 0.055, 0.13)) * min(1.0, self.aspect)

    def add_bar(self) -> None:
        """An upright bar, before everything else, in the middle third."""
        half, middle = self.rng.uniform(0.1, 0.15), self.rng.uniform(0.35, 0.65)
        self.bar = float(middle - half), float(middle + half)

    def place(self, kind: str | None, colour: str | None, radius: float, does: str, turns: int = 1) -> bool:
        """Put a thing on a free way; False where none is found.

        Args:
            kind, colour: None draws them.
            radius: in heights.
            does: "" stands, "drifts", or a verb.
            turns: how often it turns.
        """
        calm = does not in ("turns", "stops")
        for turn in range(TRIES):
            name = kind or str(self.rng.choice([*SHAPES, *SPECIES] if calm else SHAPES))
            own = max(radius * 0.98**turn, SMALLEST)
            if does == "hides":
                own = min(own, 0.42 * self.aspect * (self.bar[1] - self.bar[0]))
            way, planned = self._way(does, own, turns)
            if way is None:
                continue
            if name in SPECIES and does != "":
                swing, rate = GAITS[name]
                way = replace(way, swing=swing, rate=rate)
            if self._is_free(way, own, None, does):
                self.put(Thing(name, colour or str(self.rng.choice(list(COLOURS))), own, way, planned=planned))
                return True
        return False

    def put(self, thing: Thing) -> None:
        self.things.append(thing)
        self._taken.append((thing.way.positions(self._fine), thing.radius))

    def bouncer(self, radius: float, most: int) -> int:
        """A ball that goes between two standing blocks, and touches them on the grid; how often, 0 for no room.

        Args:
            radius: of all three, in heights.
            most: how often it may touch them.
        """
        for turn in range(TRIES):
            own = max(radius * 0.98**turn, SMALLEST)
            touches = min(most, int(self.rng.integers(1, 7)))
            steps = max(2, int(self.rng.integers(2, 4)) if touches < 4 else 2) if touches < 5 else 1
            begin = int(self.rng.integers(1, max(2, round(self.duration / GRID_S) - steps * (touches - 1))))
            touches = min(touches, 1 + (round(self.duration / GRID_S) - 1 - begin) // steps)
            along = int(self.rng.integers(2))
            room = (self.aspect, 1.0)[along]
            gap = self.rng.uniform(3.2, 5.0) * own
            if 4 * own + gap > room - 2 * own:
                continue
            start = self.rng.uniform(2 * own, room - 4 * own - gap + own)
            across = self.rng.uniform(1.3 * own, (1.0, self.aspect)[along] - 1.3 * own)
            ends = np.array([start + 1.9 * own, start + 1.9 * own + gap - own * 1.8])
            times = GRID_S * (begin + steps * np.arange(touches))
            side = int(self.rng.integers(2))
            places = [ends[1 - side], *(ends[(side + number) % 2] for number in range(touches))]
            last = ends[(side + touches - 1) % 2]
            places.append(last + (0.35 if last == ends[0] else -0.35) * gap)
            way = self._line(
                [max(0.0, times[0] - steps * GRID_S), *times, times[-1] + steps * GRID_S], places, across, along
            )
            blocks = [self._line([0.0], [ends[0] - 1.78 * own], across, along),
                      self._line([0.0], [ends[1] + 1.78 * own], across, along)]  # fmt: skip
            if all(self._is_free(one, own) for one in (way, *blocks)):
                for block in blocks:
                    self.put(Thing("square", str(self.rng.choice(list(COLOURS))), own, block))
                planned = tuple(("collides", float(time)) for time in times)
                self.put(Thing("circle", str(self.rng.choice(list(COLOURS))), own, way, planned=planned))
                return touches
        return 0

    def _line(self, times: list[float], places: list[float], across: float, along: int) -> Way:
        points = np.full((len(places), 2), across)
        points[:, along] = places
        return Way(np.array(times, float), points)

    def _somewhere(self, radius: float) -> np.ndarray:
        low, high = np.full(2, 1.1 * radius), np.array([self.aspect, 1.0]) - 1.1 * radius
        return self.rng.uniform(low, np.maximum(high, low + 1e-3))

    def _outside(self, radius: float) -> np.ndarray:
        """A place beyond one of the four edges."""
        place, side = self._somewhere(radius), int(self.rng.integers(4))
        place[side % 2] = -1.3 * radius if side < 2 else (self.aspect, 1.0)[side % 2] + 1.3 * radius
        return place

    def _way(self, does: str, radius: float, turns: int) -> tuple[Way | None, tuple[tuple[str, float], ...]]:
        """A way on which a thing does what it should, and what is planned on it; None where none was found."""
        rng, end, last = self.rng, self.duration, round(self.duration / GRID_S)
        here, there = self._somewhere(radius), self._somewhere(radius)
        if does == "":
            return Way(np.zeros(1), here[None]), ()
        if does == "drifts":
            return Way(np.array([0.0, end]), np.stack([here, there])), ()
        if does in ("appears", "leaves"):
            out, when = self._outside(radius), GRID_S * int(rng.integers(3, last - 2))
            if does == "appears":
                return Way(np.array([end - when, end]), np.stack([out, here])), (("appears", end - when),)
            return Way(np.array([0.0, when + GRID_S]), np.stack([here, out])), (("leaves", when),)
        if does == "stops":
            if np.linalg.norm(there - here) < 0.25:
                return None, ()
            when = GRID_S * int(rng.integers(3, last - 2))
            return Way(np.array([0.0, when]), np.stack([here, there])), (("stops", when),)
        if does == "hides":
            return self._hiding(radius), ()
        found = self._zigzag(radius, turns)
        if found is None:
            return None, ()
        places, times = found
        return Way(np.array([0.0, *times, end]), places), tuple(("turns", time) for time in times)

    def _hiding(self, radius: float) -> Way:
        """To behind the bar, and perhaps out of it again."""
        rng, last = self.rng, round(self.duration / GRID_S)
        middle, when = sum(self.bar) / 2 * self.aspect, GRID_S * int(rng.integers(2, last - 3))
        y, left = self._somewhere(radius)[1], rng.random() < 0.5
        sides = self.bar[0] * self.aspect - 1.2 * radius, self.bar[1] * self.aspect + 1.2 * radius
        out = (
            rng.uniform(1.1 * radius, max(sides[0], 1.2 * radius))
            if left
            else rng.uniform(min(sides[1], self.aspect - 1.2 * radius), self.aspect - 1.1 * radius)
        )
        times, xs = [0.0, when], [out, middle]
        if rng.random() < 0.5:
            other = rng.uniform(min(sides[1], self.aspect - 1.2 * radius), self.aspect - 1.1 * radius) if left else out
            times, xs = [*times, when + 2 * GRID_S, self.duration], [*xs, middle, other]
        return Way(np.array(times), np.stack([xs, np.full(len(xs), y)], axis=1))

    def _zigzag(self, radius: float, turns: int) -> tuple[np.ndarray, list[float]] | None:
        """Places of a way with sharp turns, and when they are, at least a second between two; None: none was found."""
        last = round(self.duration / GRID_S)
        turns = min(turns, (last - 2) // 2)
        spare = last - 2 - 2 * (turns - 1) - 1
        first = 1 + int(self.rng.integers(0, max(spare, 1)))
        times = [GRID_S * (first + 2 * number) for number in range(turns)]
        low, high = np.full(2, 1.1 * radius), np.array([self.aspect, 1.0]) - 1.1 * radius
        tries = self.rng.uniform(low, np.maximum(high, low + 1e-3), (200, turns + 2, 2))
        steps = np.diff(tries, axis=1)
        length = np.linalg.norm(steps, axis=2)
        cosines = (steps[:, 1:] * steps[:, :-1]).sum(axis=2) / np.maximum(length[:, 1:] * length[:, :-1], 1e-9)
        fits = ((length > 0.16) & (length < 0.6)).all(axis=1) & (cosines < 0.35).all(axis=1)
        return (tries[fits.argmax()], times) if fits.any() else None

    def _is_free(self, way: Way, radius: float, but: int | None = None, does: str = "") -> bool:
        """Whether a thing on this way touches no other, and keeps clear of the bar unless it is to hide."""
        places = way.positions(self._fine)
        if self.bar is not None and does != "hides":
            edges = np.array(self.bar) * self.aspect
            if ((places[:, 0] > edges[0] - 1.1 * radius) & (places[:, 0] < edges[1] + 1.1 * radius)).any():
                return False
        return all(
            (np.linalg.norm(places - other, axis=1) > 1.12 * (radius + size)).all()
            for number, (other, size) in enumerate(self._taken) if number != but
        )  # fmt: skip

    def rendered(self, seed: int, fps: int, height: int, width: int) -> EventClip:
        """The clip of all that was put on the stage."""
        scene, things = self._scene(seed)
        renderer = Renderer(scene, height, width)
        times = np.arange(round(self.duration * fps) + 1) / fps
        frames, masks, shares = [], [], []
        for time in times:
            frame, parts = renderer.frame(float(time))
            full = renderer.full_areas(float(time))
            here = [[part for part in thing.parts if _is_there(scene, part, time)] for thing in things]
            joined = [parts[own].any(axis=0) if own else np.zeros((height, width), bool) for own in here]
            frames.append(frame)
            masks.append(np.stack(joined) if joined else np.zeros((0, height, width), bool))
            shares.append([mask.sum() / max(full[own].sum(), 1.0) if own else 0.0
                           for mask, own in zip(joined, here, strict=True)])  # fmt: skip
        shown = np.array(shares, float).reshape(len(times), len(things))
        return EventClip(
            np.stack(frames), times, np.stack(masks), shown, tuple(things), self.bar, tuple(self.anomalies)
        )

    def _scene(self, seed: int) -> tuple[Scene, list[Thing]]:
        """The scene for the renderer, and the things with the parts that show them."""
        rng, parts, things = self.rng, [], []
        for number, thing in enumerate(self.things):
            change = next((one.time_s for one in self.anomalies
                           if one.things == (number,) and one.verb == "changes shape"), None)  # fmt: skip
            spans = [thing.way.span] if change is None else [(-np.inf, change), (change, np.inf)]
            kinds = [thing.kind, str(rng.choice([one for one in SHAPES if one != thing.kind]))]
            rgb, first = sample_colour(rng, thing.colour), len(parts)
            for span, kind in zip(spans, kinds, strict=False):
                parts.append(_part(rng, kind, thing, replace(thing.way, span=span), rgb))
            things.append(replace(thing, parts=tuple(range(first, len(parts)))))
        taken = [part.rgb for part in parts]
        occluders = ()
        if self.bar is not None:
            half, middle = (self.bar[1] - self.bar[0]) / 2 * self.aspect, sum(self.bar) / 2 * self.aspect
            corners = np.array([[-half, -2.0], [half, -2.0], [half, 2.0], [-half, 2.0]])
            still = Path(np.array([middle, 0.5]), 0.0, np.zeros(2))
            occluders = ((corners, hsv(0, 0, rng.uniform(0.3, 0.6)), 1.0, still),)
        scene = Scene(
            aspect=self.aspect, objects=tuple(parts), occluders=occluders, background=str(rng.choice(BACKGROUNDS)),
            background_rgb=tuple(sample_background_colour(rng, taken) for _ in range(6)),
            background_scale=float(rng.uniform(0.05, 0.4)), drift=np.zeros(2),
            light=(float(rng.uniform(0.85, 1.08)), 0.0, 0.05), cast=1 + rng.uniform(-0.04, 0.04, 3),
            vignette=float(rng.uniform(0, 0.25)), blur=float(max(0.0, rng.uniform(-0.6, 0.6))),
            noise=float(max(0.0, rng.uniform(-0.02, 0.03))), jpeg=0, seed=seed,
        )  # fmt: skip
        return scene, things


THEMES = {"objects": Stage.objects, "living": Stage.living, "anomaly": Stage.anomaly}


def _is_there(scene: Scene, part: int, time: float) -> bool:
    return bool(scene.objects[part].path.position(time)[0] > NOWHERE[0] + 1)


def _part(rng: np.random.Generator, kind: str, thing: Thing, way: Way, rgb: np.ndarray) -> SceneObject:
    """One look of a thing; a living one faces where it goes."""
    corners = _creature(kind) if kind in SPECIES else outline(rng, kind)
    if kind in SPECIES and way.places[-1, 0] < way.places[0, 0]:
        corners = corners * [-1, 1]
    tilt = 0.0 if kind in SPECIES else rng.uniform(-0.25, 0.25)
    return SceneObject(
        kind, thing.colour, rgb, corners, thing.radius, float(tilt), 0.0, way, None, shade=0.0, shade_angle=0.0,
        soft=0.0, marked=0.0, mark_rgb=np.zeros(3, np.float32),
    )  # fmt: skip


def _creature(kind: str) -> Float[np.ndarray, "points 2"]:
    """Outline of a creature that looks to the right, reaching about 1 from the origin."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    if kind == "fish":
        body = [(0.2 + 0.8 * np.cos(a), 0.5 * np.sin(a)) for a in np.linspace(-2.6, 2.6, 22)]
        return np.array([*body, (-1.0, 0.55), (-0.75, 0.0), (-1.0, -0.55)])
    if kind == "bird":  # a gull with both wings up
        return np.array([(-1, -0.55), (-0.5, -0.62), (-0.12, -0.1), (0.0, -0.2), (0.12, -0.1), (0.5, -0.62), (1, -0.55),
                         (0.55, -0.3), (0.2, 0.35), (0.0, 0.5), (-0.2, 0.35), (-0.55, -0.3)])  # fmt: skip
    if kind == "butterfly":
        radius = 0.35 + 0.65 * np.abs(np.sin(2 * turn))
        return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    shell = [(-0.15 + 0.6 * np.cos(a), -0.1 + 0.62 * np.sin(a)) for a in np.linspace(2.4, 6.9, 18)]
    return np.array([(-1.0, 0.62), *shell, (0.6, 0.25), (0.72, -0.35), (0.85, -0.35), (0.98, 0.1), (1.0, 0.62)])
