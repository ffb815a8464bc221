"""What is asked about clips in which something happens, in the eight categories of Molmo 2's pointing data.

Each question knows its true answers: which things, from when on, and on which frames pointing at them is right. What
would be a matter of opinion is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from videomolmo.synth.event_scenes import ANOMALIES, GRID_S, SPECIES, VERBS, Event, EventClip
from videomolmo.synth.event_stage import event_clip
from videomolmo.synth.scene import COLOURS, SHAPES, inner_point

WORDS = {  # the verb with one, with several, and what one such moment is called
    "appears": ("comes into the picture", "come into the picture", "entrance"),
    "leaves": ("leaves the picture", "leave the picture", "departure"),
    "turns": ("turns", "turn", "turn"),
    "collides": ("hits something", "hit something", "collision"),
    "stops": ("stops", "stop", "stop"),
    "hides": ("goes behind the bar", "go behind the bar", "hiding"),
    "vanishes": ("vanishes", "vanish", "vanishing"),
    "jumps": ("jumps to another place", "jump to another place", "jump"),
    "changes shape": ("changes its shape", "change its shape", "change of shape"),
}
LARGER, FASTER, APART_S, BESIDE = 1.2, 1.35, 1.0, 0.08  # how clear a comparison must be; the last in heights
TRIES = 12


@dataclass(frozen=True)
class Target:
    """One true answer: things that are pointed at together, the frame to point at, and all where that is right.

    A collision has two things, and the point belongs on the first; all others have one.
    """

    things: tuple[int, ...]
    frame: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A question about a clip.

    Attributes:
        category: one of `CATEGORIES`.
        phrase: what to point at, as in "Point to {phrase}."
        label: what a point is called in the answer.
        how_many: the counting question.
        targets: its true answers, in order of time; none where there is nothing of the kind.
        is_event: whether moments are meant; else things, which can be tracked.
    """

    category: str
    phrase: str
    label: str
    how_many: str
    targets: tuple[Target, ...]
    is_event: bool = False

    def mask(self, clip: EventClip, number: int, frame: int) -> Bool[np.ndarray, "height width"]:
        """Where on a frame pointing at an answer is right; empty where it is not."""
        target = self.targets[number]
        if frame not in target.frames:
            return np.zeros(clip.masks.shape[2:], bool)
        return clip.masks[frame, list(target.things)].any(axis=0)

    def point(self, clip: EventClip, number: int, frame: int | None = None) -> tuple[float, float] | None:
        """Where to point, pixels, on an answer's own frame or another; None where its thing is not seen."""
        target = self.targets[number]
        frame = target.frame if frame is None else frame
        mask = clip.masks[frame, target.things[0]]
        if not clip.seen[frame, target.things[0]] or not mask.any():
            return None
        x, y = inner_point(mask)
        return x + 0.5, y + 0.5


def _nouns(thing: str) -> str:
    """The plural.

    Example:
        >>> _nouns("butterfly"), _nouns("fish"), _nouns("red circle")
        ('butterflies', 'fish', 'red circles')
    """
    if thing.endswith("fish"):
        return thing
    return f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"


def things_asked(
    clip: EventClip, category: str, phrase: str, label: str, chosen: Sequence[int], how_many: str = ""
) -> Asked | None:
    """A question for things; None where one of them is never seen well, and never quite gone either."""
    targets = []
    for number in chosen:
        seen = [at for at in clip.grid if clip.seen[at, number]]
        if not seen:
            if clip.gone[clip.grid, number].all():
                continue
            return None
        there = np.flatnonzero(clip.masks[:, number].any(axis=(1, 2)))
        targets.append(Target((number,), seen[0], tuple(there.tolist())))
    how_many = how_many or f"How many {label} are there in the video?"
    return Asked(category, phrase, label, how_many, tuple(sorted(targets, key=lambda one: (one.frame, one.things))))


def events_asked(clip: EventClip, category: str, verb: str, subject: str, found: Sequence[Event]) -> Asked:
    """A question for the moments at which something happens; half a second before or after is right as well."""
    targets = []
    for event in found:
        at = int(np.argmin(np.abs(clip.times_s - event.time_s)))
        near = np.flatnonzero(np.abs(clip.times_s - event.time_s) <= GRID_S + 1e-6)
        if verb == "jumps":
            near = near[clip.times_s[near] >= event.time_s - 1e-6]
        frames = [int(one) for one in near if clip.masks[one, list(event.things)].any()]
        targets.append(Target(event.things, at, tuple(frames)))
    one, base, label = WORDS[verb]
    targets.sort(key=lambda target: (target.frame, target.things))
    return Asked(
        category, f"every time {subject} {one}", label, f"How often does {subject} {base}?", tuple(targets), True
    )


def _kind_of(rng: np.random.Generator, clip: EventClip, kinds: Sequence[str]) -> str:
    """A kind that many things of a clip have, or, one time in six, any."""
    there = [thing.kind for thing in clip.things if thing.kind in kinds]
    return str(rng.choice(there if there and rng.random() < 5 / 6 else list(kinds)))


def _of_kinds(rng: np.random.Generator, clip: EventClip, category: str, kinds: Sequence[str]) -> Asked | None:
    kind, colour = _kind_of(rng, clip, kinds), ""
    changed = {number for event in clip.anomalies if event.verb == "changes shape" for number in event.things}
    if rng.random() < 0.4:
        own = [thing.colour for thing in clip.things if thing.kind == kind]
        colour = str(rng.choice(own if own and rng.random() < 0.8 else list(COLOURS)))
    chosen = [at for at, thing in enumerate(clip.things) if thing.kind == kind and colour in ("", thing.colour)]
    if changed:
        return None
    label = _nouns(f"{colour} {kind}".strip())
    return things_asked(clip, category, f"all the {label}", label, chosen)


def _object(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    return _of_kinds(rng, clip, "object", SHAPES)


def _animal(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    if rng.random() < 0.25:
        chosen = [at for at, thing in enumerate(clip.things) if thing.living]
        return None if clip.anomalies else things_asked(clip, "animal", "all the animals", "animals", chosen)
    return _of_kinds(rng, clip, "animal", SPECIES)


def _event(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    """How often something happens: to anything, to things of a kind, or to one of them."""
    known = [event.verb for event in clip.events if event.verb in VERBS]
    verb = str(rng.choice(known if known and rng.random() < 0.85 else list(VERBS)))
    if verb == "hides" and clip.bar is None:
        return None
    found = [event for event in clip.events if event.verb == verb]
    subject, style = "something", rng.random()
    if style > 0.55 and clip.things:
        names = [thing.kind if style < 0.8 else thing.name for thing in clip.things]
        doing = [names[event.things[0]] for event in found]
        name = str(rng.choice(doing if doing and rng.random() < 0.8 else names))
        found = [event for event in found if names[event.things[0]] == name]
        is_one = style >= 0.8 and names.count(name) == 1
        subject = f"the {name}" if is_one else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        if clip.anomalies:
            return None
    return events_asked(clip, "action or event", verb, subject, found)


def _referring(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    """Things of a kind, or of a colour, that do something."""
    known = [event.verb for event in clip.events if event.verb in VERBS]
    if not known or clip.anomalies:
        return None
    verb = str(rng.choice(known))
    doing = {event.things[0] for event in clip.events if event.verb == verb}
    first = clip.things[int(rng.choice(sorted(doing)))]
    by_colour = rng.random() < 0.3
    chosen = [at for at in sorted(doing) if (clip.things[at].colour == first.colour if by_colour
                                             else clip.things[at].kind == first.kind)]  # fmt: skip
    name = f"{first.colour} object" if by_colour else first.kind
    one, several, _ = WORDS[verb]
    phrase = f"the {name} that {one}" if len(chosen) == 1 else f"the {_nouns(name)} that {several}"
    return things_asked(
        clip, "referring expression", phrase, phrase.removeprefix("the "), chosen, f"How many {_nouns(name)} {several}?"
    )


def _quoted(clip: EventClip, category: str, phrase: str, chosen: Sequence[int]) -> Asked | None:
    """A question whose counting form names the phrase in quotation marks, as Molmo 2's evaluation does."""
    label = phrase.removeprefix("the ")
    return things_asked(clip, category, phrase, label, chosen, f'How many "{label}" are there in the video?')


def _unique(clip: EventClip) -> list[int]:
    """Things whose colour and kind no other has."""
    names = [thing.name for thing in clip.things]
    return [at for at, name in enumerate(names) if names.count(name) == 1]


def _indirect(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    """Things named by another thing: what it hits, what comes or goes next to it, what looks like it."""
    named = _unique(clip)
    if not named or clip.anomalies:
        return None
    at = int(rng.choice(named))
    own, options = clip.things[at], []
    hit = {event.things[1] for event in clip.events if event.verb == "collides" and event.things[0] == at}
    if hit:
        options.append((f"what the {own.name} hits", sorted(hit)))
    for verb, words in (("appears", "comes into the picture"), ("leaves", "leaves the picture")):
        times = {event.things[0]: event.time_s for event in clip.events if event.verb == verb}
        later = [(time, other) for other, time in times.items() if at in times and time >= times[at] + GRID_S]
        if later and sorted(later)[0][0] + GRID_S <= min([t for t, _ in sorted(later)[1:]] or [np.inf]):
            options.append((f"the one that {words} next after the {own.name}", [sorted(later)[0][1]]))
    for words, same in (("colour", own.colour), ("shape", own.kind)):
        others = [n for n, thing in enumerate(clip.things)
                  if n != at and (thing.colour if words == "colour" else thing.kind) == same]  # fmt: skip
        if others:
            options.append((f"what has the {words} of the {own.name}", others))
    if not options:
        return None
    phrase, chosen = options[int(rng.integers(len(options)))]
    return _quoted(clip, "indirect reference", phrase, chosen)


def _spatial(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    """Things on a side of the bar, in a half of the picture all the time, or beside another thing at the start."""
    kind = str(rng.choice(["objects", *dict.fromkeys(thing.kind for thing in clip.things)]))
    among = [at for at, thing in enumerate(clip.things) if kind in ("objects", thing.kind)]
    if not among or clip.anomalies:
        return None
    side, nouns = str(rng.choice(["left", "right", "upper", "lower"])), kind if kind == "objects" else _nouns(kind)
    axis, sign = (0 if side in ("left", "right") else 1), (-1 if side in ("left", "upper") else 1)
    named = [at for at in _unique(clip) if clip.seen[0, at]]
    if clip.bar is not None and axis == 0 and rng.random() < 0.6:
        phrase, edge = f"the {nouns} {side} of the bar", (clip.bar[0] if sign < 0 else clip.bar[1]) * clip.aspect
        chosen = _sided(clip, among, axis, sign, edge)
    elif named and rng.random() < 0.5:
        at = int(rng.choice(named))
        words = {"left": "left of", "right": "right of", "upper": "above", "lower": "below"}[side]
        phrase = f"the {nouns} {words} the {clip.things[at].name} at the start"
        own = _middle(clip, at, 0)[axis]
        told = [(other, sign * (_middle(clip, other, 0)[axis] - own)) for other in among
                if other != at and clip.seen[0, other]]  # fmt: skip
        if any(abs(far) < BESIDE for _, far in told) or any(
            not (clip.seen[0] | clip.gone[0])[other] for other in among
        ):
            return None
        chosen = [other for other, far in told if far > 0]
    else:
        phrase, edge = f"the {nouns} in the {side} half", (clip.aspect, 1.0)[axis] / 2
        chosen = _sided(clip, among, axis, sign, edge)
    if chosen is None or (not chosen and rng.random() < 0.7):
        return None
    return things_asked(
        clip, "spatial reference", phrase, phrase.removeprefix("the "), chosen,
        f"How many {phrase.removeprefix('the ').replace(nouns, f'{nouns} are', 1)}?",
    )  # fmt: skip


def _middle(clip: EventClip, thing: int, frame: int) -> np.ndarray:
    """Centre of what is seen of a thing, in heights."""
    rows, columns = np.nonzero(clip.masks[frame, thing])
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / clip.frames.shape[1]


def _sided(clip: EventClip, among: Sequence[int], axis: int, sign: int, edge: float) -> list[int] | None:
    """Things that are wholly on one side whenever they are seen; None where one is there only at times."""
    chosen = []
    for at in among:
        told = []
        for frame in clip.grid:
            if clip.masks[frame, at].any():
                places = np.nonzero(clip.masks[frame, at])[1 - axis] / clip.frames.shape[1]
                told.append(int(((places - edge) * sign > 0).all()) - int(((places - edge) * sign < 0).all()))
        if not told:
            continue
        if len({*told}) > 1 or told[0] == 0:
            return None
        chosen += [at] * (told[0] > 0)
    return chosen


def _comparative(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    """The largest, smallest, fastest, first or last of some things, where that is clear."""
    kinds = [thing.kind for thing in clip.things]
    kind = str(rng.choice(["object", *dict.fromkeys(name for name in kinds if kinds.count(name) > 1)]))
    among = [at for at, name in enumerate(kinds) if kind in ("object", name)]
    if len(among) < 2 or clip.anomalies:
        return None
    options: list[tuple[str, list[int]]] = []
    size = [(clip.things[at].radius, at) for at in among]
    if len({clip.things[at].kind for at in among}) == 1:
        options += [("largest", _clearly(size, LARGER)), ("smallest", _clearly(size, LARGER, False))]
    options.append(("fastest", _clearly([(clip.things[at].speed, at) for at in among], FASTER)))
    for verb, words in (("leaves", "to leave the picture"), ("appears", "to come into the picture"),
                        ("stops", "to stop")):  # fmt: skip
        times = [(event.time_s, event.things[0]) for event in clip.events
                 if event.verb == verb and event.things[0] in among]  # fmt: skip
        if len(times) > 1:
            times = sorted(times)
            apart = np.diff([time for time, _ in times])
            options.append((f"first {kind} {words}", [times[0][1]] if apart[0] >= APART_S else []))
            options.append((f"last {kind} {words}", [times[-1][1]] if apart[-1] >= APART_S else []))
    clear = [(words, chosen) for words, chosen in options if chosen]
    if not clear:
        return None
    words, chosen = clear[int(rng.integers(len(clear)))]
    phrase = f"the {words}" if " " in words else f"the {words} {kind}"
    return _quoted(clip, "comparative reference", phrase, chosen)


def _clearly(values: list[tuple[float, int]], times: float, largest: bool = True) -> list[int]:
    """The one that is so many times larger, or smaller, than the next; none where it is not clear."""
    ordered = sorted(values, reverse=largest)
    first, second = (ordered[0][0], ordered[1][0]) if largest else (ordered[1][0], ordered[0][0])
    return [ordered[0][1]] if first > 0 and first >= times * second else []


def _anomaly(rng: np.random.Generator, clip: EventClip) -> Asked | None:
    known = [event.verb for event in clip.anomalies]
    verb = str(rng.choice(known if known and rng.random() < 0.85 else list(ANOMALIES)))
    return events_asked(clip, "anomaly", verb, "something", [one for one in clip.anomalies if one.verb == verb])


MAKERS: dict[str, Callable[[np.random.Generator, EventClip], Asked | None]] = {
    "object": _object, "animal": _animal, "action or event": _event, "referring expression": _referring,
    "indirect reference": _indirect, "spatial reference": _spatial, "comparative reference": _comparative,
    "anomaly": _anomaly,
}  # fmt: skip
CATEGORIES = tuple(MAKERS)
THEMES_OF = {
    "object": ("objects",), "animal": ("living",), "action or event": VERBS,
    "referring expression": ("objects", "turns", "stops", "leaves", "appears", "hides"),
    "indirect reference": ("collides", "appears", "leaves", "objects"), "spatial reference": ("objects", "living"),
    "comparative reference": ("objects", "living", "stops", "leaves", "appears"), "anomaly": ("anomaly",),
}  # fmt: skip


def ask_about(
    seed: int, category: str, *, most: int = 1, duration_s: float = 6.0, fps: int = 2, height: int = 96, width: int = 96
) -> tuple[EventClip, list[Asked]]:
    """A clip of a category, and questions about it: the first of that category, the others of any, all different.

    Args:
        seed: see `event_clip`.
        category: one of `CATEGORIES`.
        most: questions; there may be fewer.
        duration_s, fps, height, width: of the clip.

    Example:
        >>> clip, asked = ask_about(5, "action or event", height=48, width=48)
        >>> asked[0].phrase, len(asked[0].targets)
        ('every time something turns', 6)
    """
    rng = np.random.default_rng([seed, 47, CATEGORIES.index(category)])
    sizes = {"duration_s": duration_s, "fps": fps, "height": height, "width": width}
    for turn in range(200):
        theme = str(rng.choice(THEMES_OF[category]))
        clip = event_clip(seed * 1000 + turn, theme, **sizes)
        made = [one for _ in range(TRIES) if (one := MAKERS[category](rng, clip)) is not None][:1]
        if not made:
            continue
        for _ in range(TRIES * (most - 1)):
            one = MAKERS[str(rng.choice(CATEGORIES))](rng, clip)
            if one is not None and len(made) < most and one.how_many not in {other.how_many for other in made}:
                made.append(one)
        return clip, made
    raise AssertionError(f"no question of category {category!r} about 200 clips of seed {seed}")


def category_of(seed: int) -> str:
    """The category of a seed's clip: all eight in turn."""
    return CATEGORIES[seed % len(CATEGORIES)]
