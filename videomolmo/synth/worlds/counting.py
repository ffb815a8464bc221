"""Two to thirteen things of a kind that stand, come in or go away: how many are there in the whole clip?

Train: fish in a tank, balloons in the sky, sheep on a meadow, spread over the picture, each on its own way.
Test: ducks on a pond, boats at sea, butterflies over flowers, in two rows that drift the same way, small at the back.

Everything of the kind is an object, seen at some time of the clip; the answer is their number.
"""

from dataclasses import dataclass

import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.flocks import KINDS_OF, Kind
from videomolmo.synth.worlds.world import WIDE, Canvas, Expression, Lens, Scene, ease, scatter

LEAST, MOST = 2, 13
_COATS = {"black": (0.16, 0.15, 0.16), "brown": (0.47, 0.30, 0.18)}  # beside the named colours of the palette


@dataclass(frozen=True)
class Member:
    """One of the things: its place, size, colour, way of coming and going, and the phase of its small motions."""

    home: np.ndarray
    size: float
    colour: np.ndarray
    way: str  # "stays", "comes" or "goes"
    off: np.ndarray
    phase: float
    faces: float

    def at(self, time: float, drift: np.ndarray) -> np.ndarray:
        sway = np.array([2.5, 1.8]) * np.sin(self.phase + time * np.array([7.0, 9.0]))
        away = {"stays": 0.0, "comes": 1 - ease(time, -0.05, 0.6), "goes": ease(time, 0.36, 0.98)}[self.way]
        return self.home + drift * (time - 0.5) + sway + self.off * away


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """The clip's number of things follows from its index, so that a part has few and many."""
    train = part == "train"
    count = LEAST + (5 * index + (0 if train else 3)) % (MOST - LEAST + 1)
    kinds = KINDS_OF[part]
    kind = kinds[index % len(kinds)]
    words = [str(word) for word in rng.permutation(kind.odd)]
    words.insert(1, str(rng.choice(kind.usual)))
    drift = np.zeros(2) if train else np.array([rng.choice([-1.0, 1.0]) * rng.uniform(14, 24), 0.0])
    members = _members(rng, train, kind, count, words, drift)
    left = tuple(number for number, member in enumerate(members) if member.way == "goes")
    verb = "leaves" if len(left) == 1 else "leave"
    noun = kind.one if len(left) == 1 else kind.many
    expressions = (
        Expression(f"all the {kind.many}", tuple(range(count)), "all"),
        Expression(f"the {words[0]} {kind.one}", (0,), "appearance"),
        Expression(f"every {kind.one} but the {words[0]} one", tuple(range(1, count)), "relation"),
        Expression(f"the {noun} that {verb} the picture", left, "action"),
        Expression(f"the {words[2]} {kind.one}", (), "absent"),
        Expression(f"the {kind.never}", (), "absent"),
    )
    seed = int(rng.integers(2**31))

    def draw(canvas: Canvas, time: float) -> None:
        order = sorted(range(count), key=lambda number: members[number].home[1])
        for number in order:
            member = members[number]
            kind.draw(canvas, member.at(time, drift), member.size * member.faces, member.colour,
                      time * 6 + member.phase, number + 1)  # fmt: skip

    question = f"How many {kind.many} are there in the video?"
    lens = Lens(vignette=0.2, blur=0.4, noise=0.008)
    names = (kind.one,) * count
    return Scene(names, expressions, draw, lambda canvas: kind.backdrop(canvas, seed), lens, question, count)


def _paint(rng: np.random.Generator, word: str) -> np.ndarray:
    return np.array(_COATS[word]) if word in _COATS else sample_colour(rng, word)


def _members(rng, train, kind: Kind, count: int, words: list[str], drift: np.ndarray) -> list[Member]:
    """The first has a colour of its own; the last goes, and so does a fifth of a large number; some come."""
    top, bottom = kind.rows
    size = kind.size * (1.25 if count < 6 else 1.0)
    if train:
        homes = scatter(rng, count, (32, top), (WIDE - 32, bottom))
        sizes = np.full(count, size) * rng.uniform(0.9, 1.1, count)
    else:
        back = count // 2
        rows = [np.linspace(46, WIDE - 46, n) if n > 1 else np.array([WIDE * 0.5]) for n in (back, count - back)]
        x = np.concatenate(rows)
        y = np.repeat([top + 0.15 * (bottom - top), top + 0.8 * (bottom - top)], [back, count - back])
        homes = np.stack([x, y], axis=1) + rng.uniform((-6, -9), (6, 9), (count, 2))
        sizes = np.repeat([0.78 * size, 1.08 * size], [back, count - back])
        mixed_up = rng.permutation(count)
        homes, sizes = homes[mixed_up], sizes[mixed_up]
    goes, comes = max(1, count // 5), count // 4
    ways = ["stays"] * (count - goes - comes) + ["comes"] * comes + ["goes"] * goes
    usual, other = _paint(rng, words[1]), _paint(rng, words[0])
    members = []
    for number, way in enumerate(ways):
        side = 1.0 if homes[number][0] > WIDE / 2 else -1.0
        if kind.rises and way != "stays":
            off = np.array([0.0, -homes[number][1] - 2.6 * size])
        else:
            edge = WIDE + 1.6 * size if side > 0 else -1.6 * size
            off = np.array([edge - homes[number][0] - drift[0] * 0.5 * (1 if way == "goes" else -1), 0.0])
        faces = {"stays": float(rng.choice([-1.0, 1.0])) if train else float(np.sign(drift[0])),
                 "comes": -side, "goes": side}[way]  # fmt: skip
        colour = other if number == 0 else usual * rng.uniform(0.94, 1.0)
        members.append(Member(homes[number], float(sizes[number]), colour, way, off, float(rng.uniform(0, 6.3)), faces))
    return members
