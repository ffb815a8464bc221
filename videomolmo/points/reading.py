"""The tolerant reader: any answer text to points in pixels, to a refusal, or to why it cannot be understood."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from videomolmo.points.coords import read_coords
from videomolmo.points.text import END_OF_TEXT, REFUSALS, Broken, frame_size, short, unescape

LONGEST_ANSWER = 200_000  # characters; a real answer has a few hundred
LARGEST_PERCENT = 1e6  # beyond it a number is noise, and float32 pixels would lose their meaning

# No pattern looks past the next "<" or goes back over what it read (*+): reading takes time linear in the text.
_OPENING = re.compile(r"<(?:point|track)s?(?=[\s/>]|\Z)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\s*+([A-Za-z_]\w*+)\s*+=\s*+(?:"([^"<]*+)"|'([^'<]*+)')""")
_ALT = re.compile(  # raw quotes allowed inside: the closing one is followed by the end of the tag or the next name=
    r"""\s*+(alt)\s*+=\s*+(?:"([^<]*?)"|'([^<]*?)')(?=\s*+/?>|\s*+[A-Za-z_]\w*+\s*+=\s*+["'])""", re.IGNORECASE
)
_WIDE_ALT = re.compile(r"""\s*+alt\s*+=\s*+(["'])""", re.IGNORECASE)
_WIDE_END = {quote: re.compile(rf"{quote}\s*+/?>") for quote in "\"'"}
_NEXT_TAG = re.compile(r"</?(?:point|track)s?(?=[\s/>]|\Z)", re.IGNORECASE)
_CLOSING_BRACKET = re.compile(r"\s*+/?>")
_UP_TO_NEXT_TAG = re.compile(r"[^<]*+")
_COORDINATE = re.compile(r"([xy])([0-9]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_CUT_AT_NAME = re.compile(r"<(?:p(?:o(?:i(?:n(?:ts?)?)?)?)?|t(?:r(?:a(?:c(?:ks?)?)?)?)?)\Z", re.IGNORECASE)
_PUNCTUATION = str.maketrans("", "", ".,;:!?…'\"`´‘’“”")


@dataclass(frozen=True, eq=False)
class Answer:
    """What one answer text says.

    Args:
        outcome: `found` (at least one well-formed tag), `absent` (exactly a refusal sentence) or `malformed`.
        points_px: pixels, x then y, in the order of the text; empty unless found.
        inside: which points lie in the frame, 0 to 100 percent, both borders included.
        label: what the first well-formed tag names, unescaped; empty unless found.
        problem: why the text is malformed; None otherwise.
        text: the text as given.
        times: of each point, seconds, or the number of an image from 1; None where a tag gives none (Molmo 1).
        ids: of each point, its running number (points) or its object (tracks); None where a tag gives none.
    """

    outcome: Literal["found", "absent", "malformed"]
    points_px: Float32[np.ndarray, "points 2"]
    inside: Bool[np.ndarray, " points"]
    label: str
    problem: str | None
    text: str
    times: Float64[np.ndarray, " points"] | None = None
    ids: Int64[np.ndarray, " points"] | None = None


class _Point(NamedTuple):
    x_pct: float
    y_pct: float
    time: float | None = None
    id: int | None = None


def read_points(text: str, height: int, width: int) -> Answer:
    """What an answer text says: points in pixels, that there are none, or why it cannot be understood.

    Understands Molmo 1 and VideoMolmo (percent) and Molmo 2's points and tracks (per mille, with times and ids).
    Tolerant of form: text around the tag, several tags, single quotes, any white space and case, y before x, other
    attributes, raw quotes in the label, a missing end tag. Strict about meaning: a tag with an unreadable number, an x
    without its y, or no closing bracket counts for nothing as a whole. No text raises, and each is read in linear time.

    Pixel = percent / 100 · size, not truncated. Exactly 100 percent, the frame's far border, is inside and becomes the
    last pixel, size - 1, so that `int(x)` is always a valid index of an inside point. Values above 100 or below 0 are
    kept and marked outside.

    Args:
        text: one answer of the model. If it is about several frames, they have one size, and `times` tells them apart.
        height: of a frame, pixels.
        width: of a frame, pixels.

    Returns:
        The answer; points in the order of the text, duplicates kept.

    Raises:
        BadInput: a frame without pixels.

    Differs: the released script truncates to integers, maps 100.0 to one past the last pixel, raises on `1.2.3`, and
        returns an empty list alike for a refusal and for nonsense (see `videomolmo_pixels`); Molmo's evaluator drops
        values above 100 (see `molmo_pixels`); Molmo 2's finds points in prose (see `read_like_molmo2_points`).

    Example:
        >>> answer = read_points('<point x="61.5" y="40.6" alt="left hand">left hand</point>', height=360, width=640)
        >>> answer.outcome, answer.points_px.round(2).tolist(), answer.label
        ('found', [[393.6000061035156, 146.16000366210938]], 'left hand')
        >>> answer = read_points('<tracks coords="0.5 1 100 050;1.0 1 200 050">dog</tracks>', height=360, width=640)
        >>> answer.points_px.tolist(), answer.times.tolist(), answer.ids.tolist()
        ([[64.0, 18.0], [128.0, 18.0]], [0.5, 1.0], [1, 1])
        >>> read_points("There are none.", height=360, width=640).outcome
        'absent'
        >>> read_points('<points x1="12.0" y1="3', height=360, width=640).problem
        'cut off in the middle of a tag: \\'<points x1="12.0" y1="3\\''
    """
    size = frame_size(height, width)
    content = text.strip().removesuffix(END_OF_TEXT).rstrip()
    if _is_refusal(content):
        return Answer("absent", *_to_pixels([], size), label="", problem=None, text=text)
    try:
        points, label = _read_tags(content)
    except Broken as broken:
        return Answer("malformed", *_to_pixels([], size), label="", problem=str(broken), text=text)
    times = ids = None
    if all(point.time is not None for point in points):
        times = np.array([point.time for point in points], dtype=np.float64)
        ids = np.array([point.id for point in points], dtype=np.int64)
    return Answer("found", *_to_pixels(points, size), label=label, problem=None, text=text, times=times, ids=ids)


def _is_refusal(content: str) -> bool:
    words = content[:LONGEST_ANSWER].casefold().translate(_PUNCTUATION).split()
    return len(content) <= LONGEST_ANSWER and " ".join(words) in REFUSALS


def _to_pixels(
    points: list[_Point], size: Float64[np.ndarray, "2"]
) -> tuple[Float32[np.ndarray, "points 2"], Bool[np.ndarray, " points"]]:
    """Pixels, and which of them are inside; the far border becomes the last pixel."""
    rows = np.array([point[:2] for point in points], dtype=np.float64).reshape(-1, 2)
    points_px = (rows / 100 * size).astype(np.float32) + np.float32(0)
    on_far_border = (rows <= 100) & (points_px >= size)  # after float32, which rounds 99.9999999 percent up to size
    points_px = np.where(on_far_border, size - 1, points_px).astype(np.float32)
    return points_px, ((rows >= 0) & (rows <= 100)).all(axis=1)


def _read_tags(content: str) -> tuple[list[_Point], str]:
    """The points of all well-formed tags, and the first one's label. Raises Broken if there is none."""
    if not content:
        raise Broken("empty text")
    if len(content) > LONGEST_ANSWER:
        raise Broken(f"{len(content)} characters; an answer has at most {LONGEST_ANSWER}")
    points, labels, problems = [], [], []
    for opening in _OPENING.finditer(content):
        try:
            tag_points, label = _read_tag(content, opening)
        except Broken as broken:
            problems.append(str(broken))
        else:
            points += tag_points
            labels.append(label)
    if not points:
        raise Broken(problems[0] if problems else _why_no_tag(content))
    return points, labels[0]


def _read_tag(content: str, opening: re.Match) -> tuple[list[_Point], str]:
    """Points and label of the tag that opens here."""
    attributes, position, before_alt = [], opening.end(), None
    while attribute := _ALT.match(content, position) or _ATTRIBUTE.match(content, position):
        if before_alt is None and attribute[1].lower() == "alt":
            before_alt = len(attributes), position
        attributes.append((attribute[1], attribute[2] or attribute[3] or ""))
        position = attribute.end()
    bracket = _CLOSING_BRACKET.match(content, position)
    if not bracket:
        known, start = before_alt or (len(attributes), position)
        bracket = _end_of_wide_alt(content, start)
        if not bracket:
            raise Broken(_why_not_closed(content, opening.start(), position))
        wide = content[_WIDE_ALT.match(content, start).end() : bracket.start()]
        attributes[known:] = [("alt", wide)]
    lists = [value for name, value in attributes if name.lower() == "coords"]
    entries = [entry for value in lists for entry in read_coords(value)]
    points = [_Point(x / 10, y / 10, time, name) for time, name, x, y in entries] if lists else _pair_up(attributes)
    if not points:
        raise Broken("no coordinates in the tag")
    inner = _UP_TO_NEXT_TAG.match(content, bracket.end())
    closed = content.startswith("</", inner.end()) and not bracket[0].endswith("/>")
    alt = next((value for name, value in attributes if name.lower() == "alt"), "")
    return points, unescape(inner[0] if closed and inner[0] else alt)


def _end_of_wide_alt(content: str, position: int) -> re.Match | None:
    """Where the tag ends whose last attribute, `alt`, holds what looks like a tag or an attribute, "price < 5" or so.

    Labels are written as they are: its end is the first closing quote with the tag's own end, before any other tag.
    """
    begin = _WIDE_ALT.match(content, position)
    if not begin:
        return None
    following = _NEXT_TAG.search(content, begin.end())
    return _WIDE_END[begin[1]].search(content, begin.end(), following.start() if following else len(content))


def _pair_up(attributes: Iterable[tuple[str, str]]) -> list[_Point]:
    """Points from attributes x3 and y3 of the same index, in either order; a repeated index makes a second point."""
    points, waiting = [], {}
    for name, value in attributes:
        coordinate = _COORDINATE.fullmatch(name)
        if not coordinate:
            continue
        axis, index = coordinate[1].lower(), coordinate[2]
        number = _read_number(name, value)
        partner = ("y" if axis == "x" else "x") + index
        if partner in waiting:
            other = waiting.pop(partner)
            points.append(_Point(number, other) if axis == "x" else _Point(other, number))
        elif axis + index in waiting:
            raise Broken(f"{short(axis + index)} twice without {short(partner)}")
        else:
            waiting[axis + index] = number
    if waiting:
        raise Broken(_why_unpaired(list(waiting)))
    return points


def _read_number(name: str, value: str) -> float:
    """A plain decimal number of sensible size; no exponent, no comma, no unit."""
    digits = value.strip()
    if not _NUMBER.fullmatch(digits):
        raise Broken(f"number not readable: {short(name)}={short(value)!r}")
    if abs(float(digits)) > LARGEST_PERCENT:
        raise Broken(f"number too large for a percentage: {short(name)}={short(value)!r}")
    return float(digits)


def _why_unpaired(names: list[str]) -> str:
    xs, ys = ([name for name in names if name[0] == axis] for axis in "xy")
    if xs and ys:
        return f"index mismatch: {short(xs[0])} and {short(ys[0])} do not belong together"
    partner = ("y" if xs else "x") + names[0][1:]
    return f"{short(names[0])} without {short(partner)}"


def _why_not_closed(content: str, start: int, position: int) -> str:
    rest = _UP_TO_NEXT_TAG.match(content, position)
    if rest.end() == len(content) and ">" not in rest[0]:
        return f"cut off in the middle of a tag: {short(content[start : start + 50])!r}"
    return f"unexpected text in a tag: {short(rest[0].strip() or content[position : position + 10])!r}"


def _why_no_tag(content: str) -> str:
    if cut := _CUT_AT_NAME.search(content):
        return f"cut off in the middle of a tag: {cut[0]!r}"
    return f"no coordinates: neither a point tag nor a refusal sentence in {short(content)!r}"
