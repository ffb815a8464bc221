"""What the readers of Molmo 1 and VideoMolmo make of a text, faults included; for parity tests and old numbers.

Use `read_points` for everything else. The patterns never look back over what they read (*+, or none to go back over),
so that a hostile text takes linear time; they find what the references' patterns find.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

NOT_FINITE = "NotFinite"


class Reading(NamedTuple):
    """What a reference's reader returns for a text, or that it fails.

    Args:
        found: in the reference's order, duplicates kept; empty after a failure.
        failure: the name of the exception that the reference raises, or `NotFinite` where it returns NaN or infinity.
    """

    found: list[Any]
    failure: str | None = None


def settled(read: Callable[[], list[Any]]) -> Reading:
    """What `read` returns, or how it fails: the exceptions that a text can cause in a reference."""
    try:
        found = read()
    except (ValueError, IndexError, OverflowError) as error:
        return Reading([], type(error).__name__)
    return Reading(found) if _finite(found) else Reading([], NOT_FINITE)


def _finite(found: Any) -> bool:
    if isinstance(found, float):
        return math.isfinite(found)
    if isinstance(found, dict):
        found = found.values()
    elif not isinstance(found, (list, tuple)):
        return True
    return all(map(_finite, found))


def read_like_videomolmo(text: str, width: int, height: int) -> Reading:
    """Points as VideoMolmo's released script reads them; `found` holds integer pixels [x, y].

    Quirks: with `<points` anywhere only numbered pairs count, in every tag; otherwise only the first unnumbered pair.
    Exactly one space stands between x and y. Pixels are truncated and may lie outside the frame: 100 percent is one
    past the last pixel. `1.2.3` is a failure, `30.` and `.5` are not. Nothing found and a refusal look alike.

    Source: VideoMolmo's inference script, `get_coords`.

    Example:
        >>> read_like_videomolmo('<point x="1.2.3" y="40.6" alt="a">a</point>', width=640, height=360)
        Reading(found=[], failure='ValueError')
    """
    return settled(lambda: videomolmo_pixels(text, width, height))


def videomolmo_pixels(text: str, width: int, height: int) -> list[list[int]]:
    """Points as VideoMolmo's released script reads them, raising as it does (see `read_like_videomolmo`).

    Returns:
        Integer pixels [x, y], truncated; 100 percent is one past the last pixel.

    Raises:
        ValueError: a coordinate such as `1.2.3`.
        OverflowError: a coordinate of hundreds of digits.

    Source: VideoMolmo's inference script, `get_coords`.

    Example:
        >>> videomolmo_pixels('<point x="100.0" y="40.6" alt="a">a</point>', width=640, height=360)
        [[640, 146]]
    """
    if "<points" in text:
        pairs = _NUMBERED.findall(text)
    else:
        first = _UNNUMBERED.search(text)
        pairs = [first.groups()] if first else []
    return [[int(float(x) / 100 * width), int(float(y) / 100 * height)] for x, y in pairs]


_NUMBERED = re.compile(r'x\d++="([0-9.]++)" y\d++="([0-9.]++)"')
_UNNUMBERED = re.compile(r'x="([0-9.]++)" y="([0-9.]++)"')


def read_like_molmo1(text: str, width: int, height: int) -> Reading:
    """Points as Molmo 1's evaluator reads them; `found` holds float pixels [x, y], neither rounded nor clipped.

    Quirks: four searches over the whole text, their results one after the other, so that `Click(1.0, 2.0)` comes back
    twice: `Click(d.d, d.d)`, `(d.d, d.d)`, `x="…" y="…"` with or without numbers that need not agree, and `p=ddd, ddd`
    in per mille. The first two want exactly one decimal; the third takes a space before a number and none behind it.
    Pairs with a value above 100 are dropped; nothing below 0 can be written. It never fails.

    Source: Molmo's evaluator, `extract_points`.

    Example:
        >>> read_like_molmo1("Click(50.0, 25.0)", width=200, height=200)
        Reading(found=[[100.0, 50.0], [100.0, 50.0]], failure=None)
    """
    return settled(lambda: molmo_pixels(text, width, height))


def molmo_pixels(text: str, width: int, height: int) -> list[list[float]]:
    """Points as Molmo 1's evaluator reads them (see `read_like_molmo1`).

    Returns:
        Float pixels [x, y], neither rounded nor clipped.

    Source: Molmo's evaluator, `extract_points`.

    Example:
        >>> molmo_pixels("Click(50.0, 25.0)", width=200, height=200)
        [[100.0, 50.0], [100.0, 50.0]]
    """
    searches = ((CLICK, 100), (IN_PARENTHESES, 100), (ATTRIBUTES, 100), (PER_MILLE_PAIR, 1000))
    return [point for pattern, scale in searches for point in scaled_pixels(pattern, text, scale, width, height)]


def scaled_pixels(pattern: re.Pattern, text: str, scale: int, width: int, height: int) -> list[list[float]]:
    """Float pixels of all pairs that a pattern finds, but for those with a value above `scale`."""
    percent = ((float(x) / (scale / 100), float(y) / (scale / 100)) for x, y in pattern.findall(text))
    return [[x / 100 * width, y / 100 * height] for x, y in percent if max(x, y) <= 100]


# no group is possessive: Python 3.11.2 takes half of one for a match
CLICK = re.compile(r"Click\(([0-9]++\.[0-9]), ?([0-9]++\.[0-9])\)")
IN_PARENTHESES = re.compile(r"\(([0-9]++\.[0-9]),? ?([0-9]++\.[0-9])\)")
ATTRIBUTES = re.compile(r'x\d*+="\s*+([0-9]++(?:\.[0-9]++)?)"\s++y\d*+="\s*+([0-9]++(?:\.[0-9]++)?)"')
PER_MILLE_PAIR = re.compile(r"(?:\d|p)\s*+=\s*+([0-9]{3})\s*+,\s*+([0-9]{3})")


def has_molmo1_format(text: str) -> bool:
    """Whether Molmo 1's evaluator accepts a whole answer; if not, it counts as no points where there should be some.

    Accepted are lines of `(n, n)`, or one tag with its attributes in the order of the training data: place, then `alt`.
    Quirks: anything may stand between the first `alt="` and the last closing tag, so two tags side by side are one;
    nothing may stand around them, so a count sentence is refused; places above 100 are accepted.

    Source: Molmo's evaluator, `is_valid_format`.

    Example:
        >>> has_molmo1_format('<point x="1.0" y="2.0" alt="a">a</point>'), has_molmo1_format("There are none.")
        (True, False)
    """
    text = text.strip()
    lines = _repeated(_LINE, text, 0)
    if lines and lines == len(text):
        return True
    return any(_is_tag(text, *shape) for shape in _TAG_SHAPES)


def _is_tag(text: str, opening: re.Pattern, place: re.Pattern, name: str) -> bool:
    opened = opening.match(text)
    placed = _repeated(place, text, opened.end(), once=name == "point") if opened else 0
    if not placed or not text.startswith('alt="', placed):
        return False
    closing = f"</{name}>"
    bracket = text.find('">', placed + len('alt="'), len(text) - len(closing))
    return text.endswith(closing) and bracket >= 0


def _repeated(pattern: re.Pattern, text: str, position: int, once: bool = False) -> int:
    """Where the last of the matches that follow one another ends; 0 for no match."""
    end = 0
    while match := pattern.match(text, position):
        position = end = match.end()
        if once:
            break
    return end


_DECIMAL = r"\d++(?:\.\d++)?"
_LINE = re.compile(rf"\(\s*+-?{_DECIMAL}\s*+,\s*+-?{_DECIMAL}\s*+\)\n?")
_TAG_SHAPES = (
    (re.compile(r"<point\s++"), re.compile(rf'x="\s*+{_DECIMAL}"\s++y="\s*+{_DECIMAL}"\s++'), "point"),
    (re.compile(r"<points\s++"), re.compile(rf'x\d++="\s*+{_DECIMAL}"\s++y\d++="\s*+{_DECIMAL}"\s++'), "points"),
    (re.compile(r"<point\s++"), re.compile(r"p=\s*+\d{3}\s*+,\s*+\d{3}\s++"), "point"),
    (re.compile(r"<points\s++"), re.compile(r"\d++=\s*+\d{3}\s*+,\s*+\d{3}\s++"), "points"),
)
