"""What is said of generated clips: captions, questions with exact answers, referring sentences, with their masks.

What would be a matter of opinion is neither said nor asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from videomolmo.errors import BadInput
from videomolmo.io.known_words import KnownWords
from videomolmo.synth.caption_scenes import BAR, GREY, SIDES, Stories, Story
from videomolmo.synth.scene import COLOURS, MOTIONS, SHAPES

SENTENCES = 4  # most objects of a clip, the bar among them, and most sentences of a caption
TRUE_SHARE, BAR_SHARE = 0.8, 0.1  # of questions: about what is true of something; about bars
NUMBERS = ("no", "one", "two", "three", "four")
KINDS = ("caption", "motion", "hidden", "count", "colour", "relation", "appearance", "motion sentence", "absent")
QUESTIONS = {
    "caption": ("Describe the video.", "What happens in the video?", "What is to be seen?"),
    "motion": ("What moves {0}?", "Which objects move {0}?"),
    "still": ("What stays still?", "Which objects do not move?"),
    "hidden": ("Which one is hidden?", "What is hidden behind the bar?"),
    "count": ("How many {0} are there?", "Count the {0}."),
    "colour": ("What is {0}?", "Which objects are {0}?"),
    "relation": ("What is {0} {1}?",),
    "refer": ("Please segment {0} in the video.", "Segment {0}.", "Find {0}.", "Where is {0}?"),
}


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a text, and the objects of the clip that they name."""

    start: int
    end: int
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class GroundedText:
    """Plain text with the phrases in it that have masks.

    Example:
        >>> said = GroundedText.joined([("A red star", [0]), " moves left."])
        >>> said.marked, said.phrases
        ('<p> A red star </p> [SEG] moves left.', ['A red star'])
    """

    text: str
    spans: tuple[Span, ...] = ()

    @classmethod
    def joined(cls, pieces: Iterable[str | tuple[str, Sequence[int]]]) -> GroundedText:
        """Pieces put together, a phrase being given with its objects."""
        text, spans = "", []
        for piece in pieces:
            words, objects = (piece, None) if isinstance(piece, str) else piece
            if objects is not None:
                spans.append(Span(len(text), len(text) + len(words), tuple(objects)))
            text += words
        return cls(text, tuple(spans))

    @classmethod
    def parsed(cls, marked: str) -> GroundedText:
        """The inverse of `marked`, with the number of its [SEG] for each phrase; a [SEG] without phrase is left out."""
        pieces, number = [], 0
        for part in re.split(r"(<p>(?:(?!<p>).)*?</p> ?\[SEG\]|\[SEG\])", marked):
            if part.endswith("[SEG]"):
                if part.startswith("<p>"):
                    pieces.append((part[3:].split("</p>")[0].strip(), [number]))
                number += 1
            elif part:
                pieces.append(re.sub("</?p>", "", part))
        return cls.joined(pieces)

    @property
    def phrases(self) -> list[str]:
        """The words of each span."""
        return [self.text[span.start : span.end] for span in self.spans]

    @property
    def marked(self) -> str:
        """The text as the language model writes it: `<p> phrase </p> [SEG]` for each span."""
        pieces, at = [], 0
        for span, words in zip(self.spans, self.phrases, strict=True):
            pieces += [self.text[at : span.start], f"<p> {words} </p> [SEG]"]
            at = span.end
        return "".join([*pieces, self.text[at:]])

    def masks(self, clip: Bool[np.ndarray, "frames objects height width"]) -> Bool[np.ndarray, "spans f h w"]:
        """For each span the union of its objects' masks."""
        found = [clip[:, list(span.objects)].any(axis=1) for span in self.spans]
        return np.stack(found) if found else np.zeros((0, len(clip), *clip.shape[2:]), bool)


@dataclass(frozen=True)
class Exchange:
    """A question about a clip and its answer; `kind` names the row of the results table it counts for."""

    kind: str
    question: str
    answer: GroundedText


def caption(said: Stories, rng: np.random.Generator) -> GroundedText:
    """One to four sentences, one for each object; what was named once is "the" from then on."""
    pieces: list[str | tuple[str, Sequence[int]]] = []
    named: set[int] = set()

    def name(at: int, first: bool = False) -> tuple[str, list[int]]:
        phrase, objects = said.the(at, "the" if at in named else "a")
        named.add(at)
        return (phrase[0].upper() + phrase[1:] if first else phrase), objects

    for at in said.order:
        one = said.objects[at]
        if at == said.bar and at in named:
            continue
        pieces += [" "] * bool(pieces) + [name(at, True)]
        if one.motion == "still":
            pieces.append(" stays still")
            sides = [(side, other) for side in SIDES for other in sorted(named) if said.sides[side][at][other]]
            if sides and at != said.bar and rng.random() < 0.5:
                side, other = sides[int(rng.integers(len(sides)))]
                pieces += [f", {side} ", name(other)]
        else:
            pieces.append(f"{' enters and' if one.enters else ''} moves {one.motion}")
            if one.behind and said.bar is not None:
                pieces += [f" {_behind(one)} ", name(said.bar)]
            pieces += [", then leaves"] * one.leaves
        pieces.append(".")
    return GroundedText.joined(pieces)


def _behind(one: Story) -> str:
    if one.free_first:
        return "and passes behind" if one.free_last else "and goes behind"
    return "from behind" if one.free_last else "behind"


def exchange(said: Stories, rng: np.random.Generator, kind: str | None = None) -> Exchange | None:
    """A question of a kind and its exact answer; None where this clip has none that is beyond doubt.

    Args:
        said: from `stories`.
        rng: random generator.
        kind: one of `KINDS`; None draws one.

    Raises:
        BadInput: another kind.
    """
    kind = str(rng.choice(KINDS)) if kind is None else kind
    if kind not in KINDS:
        raise BadInput(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "caption":
        return Exchange(kind, _asked(rng, "caption"), caption(said, rng))
    made = _MAKERS[kind](said, rng)
    return None if made is None else Exchange(kind, *made)


def known_words() -> KnownWords:
    """All words of the questions, and of the phrases in them."""
    looks = [*COLOURS, GREY, *SHAPES, BAR, "object", "that", "stays", "moves"]
    texts = [text.format("", "") for asked in QUESTIONS.values() for text in asked]
    return KnownWords.of([*texts, *looks], colours=[*COLOURS, GREY], shapes=[*SHAPES, BAR], motions=MOTIONS,
                         relations=[side.split()[0] for side in SIDES if side.split()[0] not in MOTIONS])  # fmt: skip


Made = tuple[str, GroundedText] | None


def _asked(rng: np.random.Generator, question: str, *words: str) -> str:
    return str(rng.choice(QUESTIONS[question])).format(*words)


def _listed(said: Stories, chosen: Sequence[int], begin: str = "the") -> list[str | tuple[str, list[int]]]:
    """Phrases of objects in the caption's order, with commas and "and"."""
    pieces: list[str | tuple[str, list[int]]] = []
    ordered = [at for at in said.order if at in chosen]
    for number, at in enumerate(ordered):
        pieces += [] if not number else [" and "] if number == len(ordered) - 1 else [", "]
        pieces.append(said.the(at, begin if not number else "the"))
    return pieces


def _told(said: Stories, chosen: Sequence[int], verb: str, verbs: str) -> GroundedText:
    """Who does what, or that nobody does."""
    if not chosen:
        return GroundedText(f"Nothing {verb}.")
    return GroundedText.joined([*_listed(said, chosen, "The"), f" {verb if len(chosen) == 1 else verbs}."])


def _motion(said: Stories, rng: np.random.Generator) -> Made:
    there = [one.motion for one in said.objects if one.shape != BAR or rng.random() < 0.5]
    motion = str(rng.choice(there if there and rng.random() < TRUE_SHARE else list(MOTIONS)))
    chosen = [at for at, one in enumerate(said.objects) if one.motion == motion]
    if motion == "still":
        return _asked(rng, "still"), _told(said, chosen, "stays still", "stay still")
    return _asked(rng, "motion", motion), _told(said, chosen, f"moves {motion}", f"move {motion}")


def _looks(said: Stories, rng: np.random.Generator, looks: str, words: Iterable[str], bars: str) -> str:
    """A colour or shape to ask for: mostly one of an object; the bar's as often where there is none."""
    if rng.random() < BAR_SHARE:
        return bars
    there = [getattr(one, looks) for one in said.objects if one.shape != BAR]
    return str(rng.choice(there if there and rng.random() < TRUE_SHARE else list(words)))


def _hidden(said: Stories, rng: np.random.Generator) -> Made:
    if any(one.hidden is None for one in said.objects) or (said.bar is None and rng.random() < 0.85):
        return None
    chosen = [at for at, one in enumerate(said.objects) if one.hidden]
    return _asked(rng, "hidden"), _told(said, chosen, "is hidden", "are hidden")


def _count(said: Stories, rng: np.random.Generator) -> Made:
    shape = _looks(said, rng, "shape", SHAPES, BAR)
    chosen = [at for at, one in enumerate(said.objects) if one.shape == shape]
    number = NUMBERS[len(chosen)]
    words = f"There is one {shape}" if len(chosen) == 1 else f"There are {number} {shape}s"
    listed = [": ", *_listed(said, chosen)] if chosen else []
    return _asked(rng, "count", f"{shape}s"), GroundedText.joined([words, *listed, "."])


def _colour(said: Stories, rng: np.random.Generator) -> Made:
    colour = _looks(said, rng, "colour", COLOURS, GREY)
    chosen = [at for at, one in enumerate(said.objects) if one.colour == colour]
    return _asked(rng, "colour", colour), _told(said, chosen, f"is {colour}", f"are {colour}")


def _relation(said: Stories, rng: np.random.Generator) -> Made:
    """Mostly about a side that something is on: of sides drawn blindly five in six have nothing on them."""
    told: dict[bool, list[tuple[str, int, list[int]]]] = {True: [], False: []}
    for side in SIDES:
        for anchor in range(len(said.objects)):
            others = {at: row[anchor] for at, row in enumerate(said.sides[side]) if at != anchor}
            beyond = anchor == said.bar and side in ("above", "below")  # the bar reaches from edge to edge
            if not beyond and None not in others.values():
                chosen = [at for at, there in others.items() if there]
                told[bool(chosen)].append((side, anchor, chosen))
    something = bool(told[True]) and (not told[False] or rng.random() < 0.85)
    if not told[something] or (not told[True] and rng.random() < 0.75):
        return None
    side, anchor, chosen = told[something][int(rng.integers(len(told[something])))]
    place = f"{side} it"
    return _asked(rng, "relation", side, said.the(anchor)[0]), _told(said, chosen, f"is {place}", f"are {place}")


def _anyone(said: Stories, rng: np.random.Generator) -> int:
    """An object to refer to, seldom the bar."""
    others = [at for at in range(len(said.objects)) if at != said.bar]
    if said.bar is not None and (not others or rng.random() < BAR_SHARE):
        return said.bar
    return int(rng.choice(others))


def _appearance(said: Stories, rng: np.random.Generator) -> Made:
    at = _anyone(said, rng)
    one = said.objects[at]
    words = [f"the {one.name}"]
    words += [f"the {one.shape}"] * (sum(one.shape == other.shape for other in said.objects) == 1)
    words += [f"the {one.colour} object"] * (sum(one.colour == other.colour for other in said.objects) == 1)
    return _sure(said, rng, at, str(rng.choice(words)))


def _motion_sentence(said: Stories, rng: np.random.Generator) -> Made:
    at = _anyone(said, rng)
    one = said.objects[at]
    alike = [other for other in said.objects if other.motion == one.motion]
    shaped = [other for other in alike if other.shape == one.shape and at != said.bar]  # all bars stay still
    does = "stays still" if one.motion == "still" else f"moves {one.motion}"
    words = [f"the object that {does}"] * (len(alike) == 1) + [f"the {one.shape} that {does}"] * (len(shaped) == 1)
    return _sure(said, rng, at, str(rng.choice(words))) if words else None


def _absent(said: Stories, rng: np.random.Generator) -> Made:
    """Colour and shape, shape or colour of nothing that is there, in good part with the other one of something."""
    colours, shapes = ({getattr(one, looks) for one in said.objects} for looks in ("colour", "shape"))
    one = said.objects[_anyone(said, rng)]
    shape, colour, kept = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), rng.random()
    if said.bar is None and rng.random() < BAR_SHARE:
        shape, colour = BAR, GREY
    elif kept < 0.4 and one.shape != BAR:
        shape = one.shape
    elif kept < 0.6 and one.shape != BAR:
        colour = one.colour
    words = [f"the {colour} {shape}"] * all(one.name != f"{colour} {shape}" for one in said.objects)
    words += [f"the {shape}"] * (shape not in shapes) + [f"the {colour} object"] * (colour not in colours)
    return (_asked(rng, "refer", str(rng.choice(words))), GroundedText("There is none.")) if words else None


def referred(question: str) -> str:
    """What a request to segment names, "the red star" of "Find the red star."; "" where it is none."""
    for asking in QUESTIONS["refer"]:
        before, after = asking.split("{0}")
        if question.startswith(before) and question.endswith(after):
            return question[len(before) : len(question) - len(after)]
    return ""


def _sure(said: Stories, rng: np.random.Generator, at: int, words: str) -> Made:
    return _asked(rng, "refer", words), GroundedText.joined(["Sure, ", said.the(at), "."])


_MAKERS = {
    "motion": _motion, "hidden": _hidden, "count": _count, "colour": _colour, "relation": _relation,
    "appearance": _appearance, "motion sentence": _motion_sentence, "absent": _absent,
}  # fmt: skip
