"""Sentences about generated objects, with the objects they mean: appearance, motion, several of a kind, and nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from videomolmo.io.known_words import KnownWords
from videomolmo.protocols import TEMPLATES
from videomolmo.synth.scene import COLOURS, MOTIONS, SHAPES, ObjectFacts, SceneObject

# Unknown nouns still mean "the thing of that colour": people name real objects by what they are.
NOUNS = ("mug", "cup", "car", "ball", "box", "block", "bag", "shirt", "toy", "book", "bottle", "chair", "hat", "fish")


@dataclass(frozen=True)
class Query:
    """A noun phrase and what it means; `kind` names the row of the results table it counts for."""

    kind: str
    phrase: str
    shape: str | None = None
    colour: str | None = None
    motion: str | None = None
    plural: bool = False

    def means(self, obj: ObjectFacts | SceneObject) -> bool:
        """Whether the phrase is true of this object."""
        return (
            self.shape in (None, obj.shape) and self.colour in (None, obj.colour) and self.motion in (None, obj.motion)
        )

    def targets(self, objects: Sequence[ObjectFacts]) -> list[int] | None:
        """Indices of the visible objects meant; None where nobody could say (half hidden, or not unique)."""
        meant = [index for index, obj in enumerate(objects) if self.means(obj)]
        if any(objects[index].seen is None for index in meant):
            return None
        seen = [index for index in meant if objects[index].seen]
        return None if len(seen) > 1 and not self.plural else seen


def phrase(rng: np.random.Generator, query: Query) -> Query:
    """The same query in one of its wordings, drawn at random."""
    is_by_colour = bool(query.colour and not (query.shape or query.motion or query.plural))
    words = _wordings(query, str(rng.choice(NOUNS)) if is_by_colour else "")
    return replace(query, phrase=str(words[int(rng.integers(len(words)))]))


def _wordings(query: Query, noun: str) -> tuple[str, ...]:
    """All ways to say a query, the likelier ones several times; `noun` names what only has a colour."""
    shape, colour = query.shape, query.colour
    if query.plural:
        name = f"{colour} {shape or 'object'}s" if colour else f"{shape}s"
        one = name[:-1]
        return (f"all the {name}", f"all the {name}", f"all {name}", f"every {one}", f"the {name}", f"each {one}")
    if query.motion:
        return _motion_words(f"{colour + ' ' if colour else ''}{shape or 'object'}", query.motion)
    if shape and colour:
        return (
            *(f"the {colour} {shape}",) * 4,
            f"{colour} {shape}",
            f"a {colour} {shape}",
            f"the {shape} that is {colour}",
            f"the {colour}-coloured {shape}",
            f"the {shape} in {colour}",
        )
    if colour:
        return (*(f"the {colour} object",) * 5, f"the {colour} thing", f"the {colour} one", f"the {colour} item",
                f"{colour} object", f"a {colour} object", f"the {colour} {noun}", f"the {colour} {noun}",
                f"{colour} {noun}", f"anything {colour}")  # fmt: skip
    return (*(f"the {shape}",) * 3, f"{shape}", f"a {shape}")


def known_words() -> KnownWords:
    """All words of which a model learns the meaning from these sentences: `NOUNS` are seen, and mean nothing."""
    queries = [
        Query("", "", *looks, plural=plural)
        for looks in product((None, *SHAPES), (None, *COLOURS), (None, *MOTIONS))
        for plural in (False, True)
        if any(looks[:2] if plural else looks)
    ]
    texts = [text for query in queries for text in _wordings(query, noun="object")]
    asked = [template.format(p="") for template in TEMPLATES]
    return KnownWords.of(texts + asked, colours=COLOURS, shapes=SHAPES, motions=MOTIONS)


def _motion_words(noun: str, motion: str) -> tuple[str, ...]:
    if motion == "still":
        return (f"the {noun} that is not moving", f"the {noun} that is not moving", f"the {noun} that does not move",
                f"the {noun} that stays still", f"the still {noun}", f"the stationary {noun}",
                f"the {noun} standing still", f"the {noun} which is not moving", f"the motionless {noun}")  # fmt: skip
    towards = f"moving to the {motion}" if motion in ("left", "right") else f"moving {motion}wards"
    return (*(f"the {noun} moving {motion}",) * 3, f"the {noun} that moves {motion}", f"the {noun} going {motion}",
            f"the {noun} {towards}", f"the {noun} that is moving {motion}", f"the {noun} heading {motion}",
            f"{noun} moving {motion}")  # fmt: skip


def ask(rng: np.random.Generator, query: Query) -> str:
    """The query put as a question through one of the prompt templates; half of the time the plainest one."""
    template = TEMPLATES[0] if rng.random() < 0.5 else str(rng.choice(TEMPLATES))
    return template.format(p=query.phrase)


def sample_query(rng: np.random.Generator, objects: Sequence[ObjectFacts | SceneObject], *, motion: bool) -> Query:
    """One query that fits objects like these; it may turn out not to be answerable (`Query.targets` is None).

    Args:
        rng: random generator.
        objects: the objects of the frame or of the scene.
        motion: ask about motion, present (three in five) or absent; else about appearance.
    """
    obj = objects[int(rng.integers(len(objects)))]
    if motion:
        return phrase(rng, _motion_query(rng, objects, obj))
    kind = rng.choice(["both", "colour", "shape", "plural", "absent"], p=[0.23, 0.18, 0.11, 0.26, 0.22])
    shape = obj.shape if obj.shape in SHAPES else None
    if kind == "absent":
        return phrase(rng, _absent_query(rng, objects))
    if kind == "plural":
        colour = obj.colour if shape is None or rng.random() < 0.2 else None
        return phrase(
            rng, Query("all", "", shape if colour is None or rng.random() < 0.5 else None, colour, plural=True)
        )
    if kind == "colour" or shape is None:
        return phrase(rng, Query("colour", "", colour=obj.colour))
    return phrase(rng, Query("appearance", "", shape, obj.colour if kind == "both" else None))


def list_query(rng: np.random.Generator, objects: Sequence[ObjectFacts]) -> Query | None:
    """A query for all objects of a shape or of a colour of which two or more are seen; None where there are none."""
    seen = [obj for obj in objects if obj.seen]
    shapes = [obj.shape for obj in seen if obj.shape in SHAPES]
    colours = [obj.colour for obj in seen]
    alike = [(shape, None) for shape in SHAPES if shapes.count(shape) > 1]
    alike += [(None, colour) for colour in COLOURS if colours.count(colour) > 1]
    if not alike:
        return None
    shape, colour = alike[int(rng.integers(len(alike)))]
    return phrase(rng, Query("all", "", shape, colour, plural=True))


def _motion_query(
    rng: np.random.Generator, objects: Sequence[ObjectFacts | SceneObject], obj: ObjectFacts | SceneObject
) -> Query:
    shape = obj.shape if obj.shape in SHAPES else str(rng.choice(SHAPES))
    motion = obj.motion or "left"
    if rng.random() < 0.4:  # a motion that no object of the shape has, if there is one
        taken = {other.motion for other in objects if other.shape == shape}
        free = [word for word in MOTIONS if word not in taken]
        if free:
            return Query("absent motion", "", shape, motion=str(rng.choice(free)))
    style = rng.random()
    if style < 0.12:
        return Query("motion", "", None, motion=motion)
    return Query("motion", "", shape, obj.colour if style > 0.88 else None, motion)


def _absent_query(rng: np.random.Generator, objects: Sequence[ObjectFacts | SceneObject]) -> Query:
    """Something that is not there: a free pair of shape and colour, a free colour or a free shape."""
    style = rng.random()
    colours = [name for name in COLOURS if all(name != obj.colour for obj in objects)] or [
        str(rng.choice(list(COLOURS)))
    ]
    shapes = [name for name in SHAPES if all(name != obj.shape for obj in objects)] or [str(rng.choice(SHAPES))]
    if style < 0.3:
        return Query("absent object", "", colour=str(rng.choice(colours)))
    if style < 0.42:
        return Query("absent object", "", str(rng.choice(shapes)))
    if style < 0.5:
        return Query("absent object", "", str(rng.choice(shapes)), plural=True)
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    if rng.random() < 0.6:  # near misses: the shape is there in another colour, or the colour on another shape
        other = objects[int(rng.integers(len(objects)))]
        shape, colour = (other.shape, colour) if rng.random() < 0.5 and other.shape in SHAPES else (shape, other.colour)
    return Query("absent object", "", shape, colour)
