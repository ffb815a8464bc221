"""How a sentence becomes the question put to the model, and the many ways of asking it was trained on."""

import re

from videomolmo.errors import BadInput

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
