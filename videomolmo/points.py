"""Molmo's answer text: points to text, text to points.

One frame, one answer. Coordinates are percent of the frame with one decimal, x before y, origin top left:

    <point x="61.5" y="40.6" alt="left hand">left hand</point>
    <points x1="12.0" y1="33.3" x2="70.4" y2="9.9" alt="dog">dog</points>
    There are none.

Percent exists only in this file; everywhere else points are pixels.

Source: Molmo (Deitke et al. 2024), answer format; VideoMolmo, which inherits it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Num

from videomolmo.errors import BadInput

NO_POINTS = "There are none."
REFUSALS = frozenset({"there are none", "this isnt in the image", "this isnt in the video"})
END_OF_TEXT = "<|endoftext|>"
LONGEST_ANSWER = 200_000  # characters; a real answer has a few hundred
LARGEST_PERCENT = 1e6  # beyond it a number is noise, and float32 pixels would lose their meaning

# Label characters that would break the tag. "&" first when writing, last when reading.
ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))

# No pattern looks past the next "<" or goes back over what it read (*+): reading takes time linear in the text.
_OPENING = re.compile(r"<points?(?=[\s/>]|\Z)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\s*+([A-Za-z_]\w*+)\s*+=\s*+(?:"([^"<]*+)"|'([^'<]*+)')""")
_ALT = re.compile(  # raw quotes allowed inside: the closing one is followed by the end of the tag or the next name=
    r"""\s*+(alt)\s*+=\s*+(?:"([^<]*?)"|'([^<]*?)')(?=\s*+/?>|\s*+[A-Za-z_]\w*+\s*+=\s*+["'])""", re.IGNORECASE
)
_CLOSING_BRACKET = re.compile(r"\s*+/?>")
_UP_TO_NEXT_TAG = re.compile(r"[^<]*+")
_COORDINATE = re.compile(r"([xy])([0-9]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_CUT_AT_NAME = re.compile(r"<p(?:o(?:i(?:n(?:ts?)?)?)?)?\Z", re.IGNORECASE)
_PUNCTUATION = str.maketrans("", "", ".,;:!?…'\"`´‘’“”")


@dataclass(frozen=True, eq=False)
class Answer:
    """What one answer text says about one frame.

    Args:
        outcome: `found` (at least one well-formed tag), `absent` (exactly a refusal sentence) or `malformed`.
        points_px: pixels, x then y, in the order of the text; empty unless found.
        inside: which points lie in the frame, 0 to 100 percent, both borders included.
        label: what the first well-formed tag names, unescaped; empty unless found.
        problem: why the text is malformed; None otherwise.
        text: the text as given.
    """

    outcome: Literal["found", "absent", "malformed"]
    points_px: Float32[np.ndarray, "points 2"]
    inside: Bool[np.ndarray, " points"]
    label: str
    problem: str | None
    text: str


class _Broken(ValueError):
    """Why a tag or a text cannot be read; never leaves this file."""


def write_points(points_px: Num[np.ndarray, "points 2"], label: str, height: int, width: int) -> str:
    """The answer text for points in a frame: one tag, or the sentence for none.

    Percent of the frame, rounded to one decimal, sorted by rounded x and then rounded y, so that one set of points has
    one text.

    Args:
        points_px: pixels, x then y, inside the frame (0 … width, 0 … height).
        label: what the points are, written as attribute and as content; `& < > "` are escaped.
        height: of the frame, pixels.
        width: of the frame, pixels.

    Returns:
        `<point …>` for one point, `<points …>` for more, `There are none.` for none.

    Raises:
        BadInput: a point outside the frame or not finite, or a frame without pixels.

    Source: Molmo, pointing data format.
    Differs: the reference writes the label as it is, so a quote in it breaks the tag. VideoMolmo's training script
        sorts before rounding, which makes the order of two points within 0.1 percent depend on invisible digits.

    Example:
        >>> write_points(np.array([[450.0, 36.0], [76.8, 120.0]]), "dog", height=360, width=640)
        '<points x1="12.0" y1="33.3" x2="70.3" y2="10.0" alt="dog">dog</points>'
        >>> write_points(np.zeros((0, 2)), "dog", height=360, width=640)
        'There are none.'
    """
    rows = sorted(_rounded_percent(points_px, height, width).tolist())
    if not rows:
        return NO_POINTS
    name = "point" if len(rows) == 1 else "points"
    indices = [""] if len(rows) == 1 else range(1, len(rows) + 1)
    coordinates = " ".join(f'x{i}="{x:.1f}" y{i}="{y:.1f}"' for i, (x, y) in zip(indices, rows, strict=True))
    safe_label = _escape(label)
    return f'<{name} {coordinates} alt="{safe_label}">{safe_label}</{name}>'


def _rounded_percent(points_px: np.ndarray, height: int, width: int) -> Float64[np.ndarray, "points 2"]:
    """Pixels to percent with one decimal, after checking that they lie in the frame."""
    size = _frame_size(height, width)
    points_px = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    outside = ~((points_px >= 0) & (points_px <= size)).all(axis=1)  # NaN compares false, hence outside
    if outside.any():
        x, y = points_px[outside][0].tolist()
        raise BadInput(
            f"point ({x:g}, {y:g}) is outside the frame of width {width} and height {height}; leave it out or clip it"
        )
    return np.round(points_px / (size / 100), 1) + 0.0  # + 0.0 turns -0.0 into 0.0


def _escape(label: str) -> str:
    for character, escape in ESCAPES:
        label = label.replace(character, escape)
    return label


def _unescape(label: str) -> str:
    for character, escape in reversed(ESCAPES):
        label = label.replace(escape, character)
    return label


def _frame_size(height: int, width: int) -> Float64[np.ndarray, "2"]:
    """(width, height), in the order of x and y."""
    if not (height >= 1 and width >= 1):
        raise BadInput(f"frame of height {height} and width {width}: both must be at least 1 pixel")
    return np.array([width, height], dtype=np.float64)


def read_points(text: str, height: int, width: int) -> Answer:
    """What an answer text says: points in pixels, that there are none, or why it cannot be understood.

    Tolerant of form: text around the tag, several tags, single quotes, any white space and case, y before x, other
    attributes, raw quotes in the label, a missing end tag. Strict about meaning: a tag with an unreadable number, an x
    without its y, or no closing bracket counts for nothing as a whole. No text raises, and each is read in linear time.

    Pixel = percent / 100 · size, not truncated. Exactly 100 percent, the frame's far border, is inside and becomes the
    last pixel, size - 1, so that `int(x)` is always a valid index of an inside point. Values above 100 or below 0 are
    kept and marked outside.

    Args:
        text: one answer of the model, about one frame.
        height: of that frame, pixels.
        width: of that frame, pixels.

    Returns:
        The answer; points in the order of the text, duplicates kept.

    Raises:
        BadInput: a frame without pixels.

    Differs: the released script truncates to integers, maps 100.0 to one past the last pixel, raises on `1.2.3`, and
        returns an empty list alike for a refusal and for nonsense (see `videomolmo_pixels`); Molmo's evaluator drops
        values above 100 (see `molmo_pixels`).

    Example:
        >>> answer = read_points('<point x="61.5" y="40.6" alt="left hand">left hand</point>', height=360, width=640)
        >>> answer.outcome, answer.points_px.round(2).tolist(), answer.label
        ('found', [[393.6000061035156, 146.16000366210938]], 'left hand')
        >>> read_points("There are none.", height=360, width=640).outcome
        'absent'
        >>> read_points('<points x1="12.0" y1="3', height=360, width=640).problem
        'cut off in the middle of a tag: \\'<points x1="12.0" y1="3\\''
    """
    size = _frame_size(height, width)
    content = text.strip().removesuffix(END_OF_TEXT).rstrip()
    if _is_refusal(content):
        return Answer("absent", *_to_pixels([], size), label="", problem=None, text=text)
    try:
        percent, label = _read_tags(content)
    except _Broken as broken:
        return Answer("malformed", *_to_pixels([], size), label="", problem=str(broken), text=text)
    return Answer("found", *_to_pixels(percent, size), label=label, problem=None, text=text)


def _is_refusal(content: str) -> bool:
    words = content[:LONGEST_ANSWER].casefold().translate(_PUNCTUATION).split()
    return len(content) <= LONGEST_ANSWER and " ".join(words) in REFUSALS


def _to_pixels(
    percent: list[tuple[float, float]], size: Float64[np.ndarray, "2"]
) -> tuple[Float32[np.ndarray, "points 2"], Bool[np.ndarray, " points"]]:
    """Pixels, and which of them are inside; the far border becomes the last pixel."""
    rows = np.array(percent, dtype=np.float64).reshape(-1, 2)
    points_px = (rows / 100 * size).astype(np.float32) + np.float32(0)
    on_far_border = (rows <= 100) & (points_px >= size)  # after float32, which rounds 99.9999999 percent up to size
    points_px = np.where(on_far_border, size - 1, points_px).astype(np.float32)
    return points_px, ((rows >= 0) & (rows <= 100)).all(axis=1)


def _read_tags(content: str) -> tuple[list[tuple[float, float]], str]:
    """Percent pairs of all well-formed tags, and the first one's label. Raises _Broken if there is none."""
    if not content:
        raise _Broken("empty text")
    if len(content) > LONGEST_ANSWER:
        raise _Broken(f"{len(content)} characters; an answer has at most {LONGEST_ANSWER}")
    pairs, labels, problems = [], [], []
    for opening in _OPENING.finditer(content):
        try:
            tag_pairs, label = _read_tag(content, opening)
        except _Broken as broken:
            problems.append(str(broken))
        else:
            pairs += tag_pairs
            labels.append(label)
    if not pairs:
        raise _Broken(problems[0] if problems else _why_no_tag(content))
    return pairs, labels[0]


def _read_tag(content: str, opening: re.Match) -> tuple[list[tuple[float, float]], str]:
    """Percent pairs and label of the tag that opens here."""
    attributes, position = [], opening.end()
    while attribute := _ALT.match(content, position) or _ATTRIBUTE.match(content, position):
        attributes.append((attribute[1], attribute[2] or attribute[3] or ""))
        position = attribute.end()
    bracket = _CLOSING_BRACKET.match(content, position)
    if not bracket:
        raise _Broken(_why_not_closed(content, opening.start(), position))
    pairs = _pair_up(attributes)
    inner = _UP_TO_NEXT_TAG.match(content, bracket.end())
    closed = content.startswith("</", inner.end()) and not bracket[0].endswith("/>")
    alt = next((value for name, value in attributes if name.lower() == "alt"), "")
    return pairs, _unescape(inner[0] if closed and inner[0] else alt)


def _pair_up(attributes: Iterable[tuple[str, str]]) -> list[tuple[float, float]]:
    """(x, y) for attributes x3 and y3 of the same index, in either order; a repeated index makes a second point."""
    pairs, waiting = [], {}
    for name, value in attributes:
        coordinate = _COORDINATE.fullmatch(name)
        if not coordinate:
            continue
        axis, index = coordinate[1].lower(), coordinate[2]
        number = _read_number(name, value)
        partner = ("y" if axis == "x" else "x") + index
        if partner in waiting:
            other = waiting.pop(partner)
            pairs.append((number, other) if axis == "x" else (other, number))
        elif axis + index in waiting:
            raise _Broken(f"{_short(axis + index)} twice without {_short(partner)}")
        else:
            waiting[axis + index] = number
    if waiting:
        raise _Broken(_why_unpaired(list(waiting)))
    if not pairs:
        raise _Broken("no coordinates in the tag")
    return pairs


def _read_number(name: str, value: str) -> float:
    """A plain decimal number of sensible size; no exponent, no comma, no unit."""
    digits = value.strip()
    if not _NUMBER.fullmatch(digits):
        raise _Broken(f"number not readable: {_short(name)}={_short(value)!r}")
    if abs(float(digits)) > LARGEST_PERCENT:
        raise _Broken(f"number too large for a percentage: {_short(name)}={_short(value)!r}")
    return float(digits)


def _why_unpaired(names: list[str]) -> str:
    xs, ys = ([name for name in names if name[0] == axis] for axis in "xy")
    if xs and ys:
        return f"index mismatch: {_short(xs[0])} and {_short(ys[0])} do not belong together"
    partner = ("y" if xs else "x") + names[0][1:]
    return f"{_short(names[0])} without {_short(partner)}"


def _why_not_closed(content: str, start: int, position: int) -> str:
    rest = _UP_TO_NEXT_TAG.match(content, position)
    if rest.end() == len(content) and ">" not in rest[0]:
        return f"cut off in the middle of a tag: {_short(content[start : start + 50])!r}"
    return f"unexpected text in a tag: {_short(rest[0].strip() or content[position : position + 10])!r}"


def _why_no_tag(content: str) -> str:
    if cut := _CUT_AT_NAME.search(content):
        return f"cut off in the middle of a tag: {cut[0]!r}"
    return f"no coordinates: neither a point tag nor a refusal sentence in {_short(content)!r}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def videomolmo_pixels(text: str, width: int, height: int) -> list[list[int]]:
    """Points as VideoMolmo's released script reads them, faults included; for parity tests only.

    Returns:
        Integer pixels [x, y], truncated; 100 percent is one past the last pixel.

    Raises:
        ValueError: a coordinate such as `1.2.3`.

    Source: VideoMolmo's inference script, `get_coords`.

    Example:
        >>> videomolmo_pixels('<point x="100.0" y="40.6" alt="a">a</point>', width=640, height=360)
        [[640, 146]]
    """
    if "<points" in text:
        found = re.findall(r'x\d+="([0-9.]+)" y\d+="([0-9.]+)"', text)
    else:
        found = re.findall(r'x="([0-9.]+)" y="([0-9.]+)"', text)[:1]
    return [[int(float(x) / 100 * width), int(float(y) / 100 * height)] for x, y in found]


_MOLMO_SEARCHES = (  # pattern, and the divisor that turns its numbers into percent
    (re.compile(r"Click\(([0-9]+\.[0-9]), ?([0-9]+\.[0-9])\)"), 1),
    (re.compile(r"\(([0-9]+\.[0-9]),? ?([0-9]+\.[0-9])\)"), 1),
    (re.compile(r'x\d*="\s*([0-9]+(?:\.[0-9]+)?)"\s+y\d*="\s*([0-9]+(?:\.[0-9]+)?)"'), 1),
    (re.compile(r"(?:\d|p)\s*=\s*([0-9]{3})\s*,\s*([0-9]{3})"), 10),
)


def molmo_pixels(text: str, width: int, height: int) -> list[list[float]]:
    """Points as Molmo's evaluator reads them, faults included; for parity tests only.

    Four searches, one after the other, so that `Click(1.0, 2.0)` comes back twice; pairs above 100 are dropped.

    Returns:
        Float pixels [x, y], neither rounded nor clipped.

    Source: Molmo's evaluator, `extract_points`.

    Example:
        >>> molmo_pixels("Click(50.0, 25.0)", width=200, height=200)
        [[100.0, 50.0], [100.0, 50.0]]
    """
    points = []
    for pattern, divisor in _MOLMO_SEARCHES:
        for match in pattern.finditer(text):
            x, y = float(match[1]) / divisor, float(match[2]) / divisor
            if max(x, y) <= 100:
                points.append([x / 100 * width, y / 100 * height])
    return points
