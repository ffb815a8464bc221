"""A sentence as a question, and what a system must do to be used: `Pointer` and `Tracker`, or `Segmenter` for both.

`videomolmo.grounding.VideoGrounder` puts them together and makes the same `GroundingResult` of either, so that
evaluation, sweeps, inspector and exports need not know who answered. Any object with these methods will do; there is
nothing to inherit from. How to add a system: `videomolmo/systems/README.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames
from videomolmo.points import Answer

Frame = UInt8[np.ndarray, "height width 3"]
OnText = Callable[[int, str], None]

# Ways to ask for {p}, a noun phrase; the role of the paper's roughly forty prompt templates, in our words.
TEMPLATES = (
    "Point to {p}.", "Point at {p}.", "Point to {p} in this frame.", "Point to {p} in the video.",
    "Please point to {p}.", "Can you point to {p}?", "Could you point at {p}?", "Point out {p}.", "Find {p}.",
    "Find {p} in the video.", "Locate {p}.", "Locate {p} in this frame.", "Show {p}.", "Show me {p}.",
    "Show me where {p} is.", "Where is {p}?", "Where is {p} in the video?", "Where can I see {p}?",
    "Where do you see {p}?", "Mark {p}.", "Mark {p} with a point.", "Put a point on {p}.", "Place a point on {p}.",
    "Give the position of {p}.", "Give me the location of {p}.", "Tell me where {p} is.", "Which point lies on {p}?",
    "Identify {p}.", "Indicate {p}.", "Pinpoint {p}.", "Look for {p}.", "Search for {p}.", "Detect {p}.",
    "Spot {p}.", "Help me find {p}.", "I am looking for {p}.", "I want to see {p}.", "Do you see {p}? Point to it.",
    "If you see {p}, point to it.", "{p}",
)  # fmt: skip

_ASKING = re.compile(  # how requests begin; "can of beans" and "a point guard" are noun phrases
    r"^(point (to|at|out)|(where|when|why|which|what|who|whose|how)\b|please\b"
    r"|(locate|identify|indicate|pinpoint|detect)\b"
    r"|(can|could|would|do|does|did|is|are|was|were|has|have)"
    r" (you|i|we|they|there|it|the|this|that|these|those|any)\b"
    r"|(find|show|mark|spot|track|segment|count)"
    r" (me|the|a|an|all|every|each|any|both|this|that|these|those|two|three)\b"
    r"|(put|place) a point|give (me|the)|tell me|(look|search) for|help me|if you|i (am|want|need)\b)",
    re.I,
)
_ARTICLE = re.compile(r"^(all (of )?(the )?|every |each |the |an? |any )", re.I)


def as_question(sentence: str) -> str:
    """A question for the model: noun phrases are asked for, questions and requests stay as they are.

    Raises:
        BadInput: the sentence is empty, or holds half a character (a lone surrogate).

    Example:
        >>> as_question("the red circle")
        'Point to the red circle.'
        >>> as_question("Where is the cat?")
        'Where is the cat?'
    """
    if not isinstance(sentence, str):
        raise BadInput(f"the sentence is {sentence!r:.80}, expected a text, for example 'the red circle'")
    text = " ".join(sentence.split())
    if not text.strip(".,;:!? "):
        raise BadInput("the sentence is empty; name what to look for, for example 'the red circle'")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"the sentence holds half a character at place {error.start} ({text!a:.80}); type it anew"
        ) from None
    if _ASKING.match(text):
        return text
    return f"Point to {text.rstrip('.!?')}."


def label_of(phrase: str) -> str:
    """What a point of this phrase is called in the answer: lower case, without article.

    Example:
        >>> label_of("all the Red circles")
        'red circles'
    """
    return _ARTICLE.sub("", phrase.strip()).rstrip(".!?").lower()


@dataclass(frozen=True)
class Question:
    """What a model is asked about a video.

    Attributes:
        text: the question.
        video: what it is about: `height`, `width`, `fps` and `times_s`. Its frames are handed over in order beside it.
        every: key frames are 0, every, 2 · every, …
        context: past frames to look at, as `describe` gave it; None for models that have no such choice.
        on_text: where given, called while an answer is written, with its key frame and the text so far.
        latency: windows between key frames that may wait for each other; None: as many as are faster together.
        clock: for models that want to tell parts of their work apart; all of it is counted anyway.
        sentence: what the user typed, for models that are asked in words of their own.
        known: key frames from the first on whose answers an earlier process kept.
        reached: frames from the first on whose masks an earlier process of a segmenter kept.
    """

    text: str
    video: Frames
    every: int
    context: int | None = None
    on_text: OnText | None = None
    latency: int | None = None
    clock: Stopwatch = field(default_factory=Stopwatch)
    sentence: str = ""
    known: Collection[int] = ()
    reached: int = 0


class Pointer(Protocol):
    """Answers a question about the key frames of a video with points.

    Order of calls: `describe`, whose "context" becomes the question's; then `answers`, once for each video. A pointer,
    tracker or segmenter whose parts are to be timed has `stages` besides, which lists `videomolmo.io.timing.Stage`. A
    pointer or segmenter that has learnt a few words only has `known_words`, a `videomolmo.io.known_words.KnownWords`:
    whoever asks for others is warned.

    A model that sees a whole video at once has `answer_once` besides, see `videomolmo.systems.molmo2.Molmo2Pointer`:
    `point` and `count` ask it, and so does the evaluation of points in time.
    """

    def describe(self, context: int | None) -> dict[str, Any]:
        """What run.json tells of the model, in JSON values; "context", if any, is the number of past frames to look at.

        Args:
            context: what the caller asks for; None is the model's own choice.

        Raises:
            BadInput: the model cannot look at so many.
        """
        ...

    def answers(self, frames: Iterator[Frame], question: Question) -> Iterator[tuple[int, Answer | None]]:
        """Each key frame's number with the answer there, in order; see `videomolmo.points.read_points`.

        On those in `question.known` it may be None, at no cost; whatever is given there, the kept one counts.

        Args:
            frames: all frames, decoded as they are taken, each once; ends where the video breaks.
            question: see there.

        Raises:
            BadInput: a question that this model cannot be asked.
        """
        ...


class Features(Protocol):
    """What a tracker knows of one frame, handed back to it as it is; `height` and `width` of the frame in pixels."""

    height: int
    width: int


class Track(Protocol):
    """Objects followed in one direction of time; `first_masks` are those of the frame they were clicked on."""

    first_masks: Bool[np.ndarray, "objects height width"]

    def step(self, at: int, frame: Features) -> Bool[np.ndarray, "objects height width"]:
        """Masks of all objects on the next frame of the path, whose number is `at`; empty where one is not seen."""
        ...


@dataclass(frozen=True)
class PropagationPath:
    """Frames along which clicked objects are followed.

    Attributes:
        at: number of the frame with the clicks.
        frames: features of that frame, then of those after it, or before it, in the order in which they are gone to.
        points_px: clicks of each object.
        reverse: whether the path runs backwards in time.
    """

    at: int
    frames: Sequence[Features]
    points_px: Sequence[Float[np.ndarray, "points 2"]]
    reverse: bool


class Tracker(Protocol):
    """Follows clicked objects frame by frame.

    Order of calls: `encode` once for each frame; for each key frame and direction `start`, then `step` of the track for
    the frames up to the next key frame. A track knows nothing of any other. A tracker that is faster with many at once
    has `encode_all`, `follow`, `rows` and `held` besides, see `videomolmo.masks.sam2.MaskTracker`. One that begins with
    more than points says so in `prompts`: "boxes" (labels 2 and 3, two corners of a box) or "masks" (an argument of
    `start`); the inspector offers what is there.
    """

    def encode(self, frame: Frame) -> Features:
        """Features of a frame, shared by all objects and both directions."""
        ...

    def start(
        self,
        at: int,
        frame: Features,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
        *,
        frames: int,
        reverse: bool = False,
    ) -> Track:
        """A track of one object for each entry of `points_px`, beginning at frame `at`.

        Args:
            at, frame: number and features of the frame.
            points_px: clicks of each object, x and y in pixels.
            labels: of each object, one for each click: 1 for "on the object", 0 for "not on it" (2 and 3 for corners
                of a box, where `prompts` has "boxes"); all 1 when None.
            frames: length of the clip, in frames.
            reverse: whether time will run backwards.
        """
        ...


class Phrase(NamedTuple):
    """Where in a text an object is named: from character `start` to before `stop`; `object` is its identity."""

    start: int
    stop: int
    object: int


@dataclass(frozen=True)
class Segmentation:
    """Masks on some frames in a row, and what was written about them.

    Attributes:
        ids: identity of each object, from 1; the same all through the video.
        masks: (frames, objects, height, width), objects in the order of `ids`.
        text: the model's words.
        phrases: what in them names which object. Those of the first part are the result's caption.
    """

    ids: tuple[int, ...]
    masks: Bool[np.ndarray, "frames objects height width"]
    text: str = ""
    phrases: tuple[Phrase, ...] = ()

    def check(self, reached: int, video: Frames) -> None:
        """Nothing, where a part that begins at frame `reached` fits the video.

        Raises:
            BadInput: it does not.
        """
        masks, shape = self.masks, (len(self.ids), video.height, video.width)
        if masks.dtype != bool or masks.shape[1:] != shape or not 0 < len(masks) <= len(video) - reached:
            raise BadInput(
                f"the segmenter gave {masks.dtype} masks {tuple(masks.shape)} from frame {reached} of {len(video)}, "
                f"expected bool (frames, {', '.join(map(str, shape))})"
            )
        strange = [phrase for phrase in self.phrases if not 0 <= phrase.start < phrase.stop <= len(self.text)]
        if strange or not {phrase.object for phrase in self.phrases} <= {*self.ids}:
            raise BadInput(f"the segmenter names objects {self.ids} by {self.phrases}, expected places in its text")
        if len({*self.ids}) != len(self.ids) or min(self.ids, default=1) < 1:
            raise BadInput(f"the segmenter names objects {self.ids}, expected different numbers from 1")


class Segmenter(Protocol):
    """Makes masks and text of a video and a sentence at once, without points.

    Order of calls: `describe`, as a pointer's; then `segment`, once for each video.
    """

    def describe(self, context: int | None) -> dict[str, Any]:
        """As `Pointer.describe`."""
        ...

    def segment(self, frames: Iterator[Frame], question: Question) -> Iterator[Segmentation]:
        """Masks of every frame, in parts as long as the model likes, in order; no part is kept in memory.

        Of parts that end before `question.reached` the masks may be anything, at no cost; the kept ones count. Texts
        and identities must be those of the earlier process there, else all begins anew.

        Arguments and errors are those of `Pointer.answers`.
        """
        ...
