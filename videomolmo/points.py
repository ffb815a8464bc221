"""The grammar of answers: points to text, text to points.

One tolerant reader for every format, and writers:

    <point x="61.5" y="40.6" alt="left hand">left hand</point>                       Molmo 1, VideoMolmo: percent
    <points x1="12.0" y1="33.3" x2="70.4" y2="9.9" alt="dog">dog</points>
    <points coords="0.5 1 036 556;2.0 2 420 447 3 699 489">cup</points>              Molmo 2: times, ids, per mille
    <tracks coords="0.0 1 271 710;1.0 1 946 301 2 784 636">dog</tracks>
    There are none.

x before y, origin top left. Percent and per mille exist only here and in files of rows; else points are pixels.

Source: Molmo (Deitke et al. 2024), answer format; VideoMolmo, which inherits it; Molmo 2, its styles
html-v1 and html-v2.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Num

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array

_BETWEEN_FRAMES = re.compile(r"[;,\t\r\n]")
_TIME = re.compile(r"(?:[0-9]{1,4}:){0,2}[0-9]{1,6}(?:\.[0-9]{0,6})?")
_ID = re.compile(r"[0-9]{1,9}")
_PER_MILLE = re.compile(r"[0-9]{3,4}")


class Entry(NamedTuple):
    """One point of the list.

    Args:
        time: seconds, or the number of an image, from 1.
        id: running number of the point, or the object it follows.
        x: per mille of the width.
        y: per mille of the height.
    """

    time: float
    id: int
    x: int
    y: int


def read_coords(value: str) -> list[Entry]:
    """All points of a `coords` attribute, in the order of the text, duplicates kept.

    Frames are separated by `;` (html-v2), a tab (html-v1), a comma, a colon or a line break, with spaces around or
    not. Spaces alone will do where the next time has a decimal point, since an id has none. Strict about meaning: a
    number too few, an unreadable time, or a place without three or four digits spoils the list. Linear in its length.

    Raises:
        Broken: why the list cannot be understood.

    Differs: Molmo 2's own reader takes only what is written without spaces around the separators, passes over what
        does not fit, and reads `01:02.5` as 2.5 seconds instead of 62.5.

    Example:
        >>> read_coords("0.5 1 583 135 2 012 990; 1.0 2 523 1000")
        [Entry(time=0.5, id=1, x=583, y=135), Entry(time=0.5, id=2, x=12, y=990), Entry(time=1.0, id=2, x=523, y=1000)]
    """
    entries = []
    for chunk in _BETWEEN_FRAMES.split(value):
        words = [word for word in reversed(chunk.split()) if word != ":"]  # the next word is the last
        while words:
            time = _read_time(words.pop())
            while words and not _is_time(words[-1]):
                entries.append(_read_point(time, words))
    return entries


def _is_time(word: str) -> bool:
    return "." in word or ":" in word


def _read_point(time: float, words: list[str]) -> Entry:
    """Takes id, x and y from the end of `words`; what follows a colon in y is put back, it begins another frame."""
    if len(words) < 3:
        raise Broken(f"list of points cut short: id, x and y expected, {' '.join(map(short, reversed(words)))!r} found")
    name, x, last = words.pop(), words.pop(), words.pop()
    y, _, rest = last.partition(":")
    if rest:
        words.append(rest if _is_time(rest) else rest + ".")
    if not _ID.fullmatch(name):
        raise Broken(f"id not readable: {short(name)!r}")
    for axis, number in ("x", x), ("y", y):
        if not _PER_MILLE.fullmatch(number):
            raise Broken(f"number not readable: {axis} has three or four digits, not {short(number)!r}")
    return Entry(time, int(name), int(x), int(y))


def _read_time(word: str) -> float:
    """Seconds of `2.5`, `01:02.5` or `1:00:00`."""
    if not _TIME.fullmatch(word):
        raise Broken(f"time not readable: {short(word)!r}")
    seconds = 0.0
    for part in word.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


NO_POINTS = "There are none."
NO_TRACKS = "No tracks available."
REFUSALS = frozenset({"there are none", "this isnt in the image", "this isnt in the video", "no tracks available"})
END_OF_TEXT = "<|endoftext|>"

# Label characters that would break the tag. "&" first when writing, last when reading.
ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))


class TrackPoint(NamedTuple):
    """Where one object is in one frame.

    Args:
        object_id: anything that names the object throughout the video.
        x: pixels from the left.
        y: pixels from the top.
        occluded: known but not visible, hence not written.
    """

    object_id: Hashable
    x: float
    y: float
    occluded: bool = False


class Broken(ValueError):
    """Why a tag or a text cannot be read; never leaves this package."""


def escape(label: str) -> str:
    """A label that cannot be taken for a part of its tag."""
    for character, escaped in ESCAPES:
        label = label.replace(character, escaped)
    return label


def unescape(label: str) -> str:
    """The label that was escaped."""
    for character, escaped in reversed(ESCAPES):
        label = label.replace(escaped, character)
    return label


def short(text: str) -> str:
    """At most 40 characters of a text, for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


def frame_size(height: int, width: int) -> Float64[np.ndarray, "2"]:
    """(width, height), in the order of x and y.

    Raises:
        BadInput: a frame without pixels.
    """
    if not (height >= 1 and width >= 1):
        raise BadInput(f"frame of height {height} and width {width}: both must be at least 1 pixel")
    return np.array([width, height], dtype=np.float64)


def points_inside(points_px: Num[np.ndarray, "points 2"], height: int, width: int) -> Float64[np.ndarray, "points 2"]:
    """The same points in float64, after checking that they lie in the frame (0 … width, 0 … height, both included).

    Raises:
        BadInput: not (points, 2), a point outside the frame or not finite, or a frame without pixels.
    """
    size = frame_size(height, width)
    points_px = as_array(points_px, "points").astype(np.float64)
    if points_px.size % 2:
        raise BadInput(f"points of shape {points_px.shape}: expected (points, 2), x then y")
    points_px = points_px.reshape(-1, 2)
    outside = ~((points_px >= 0) & (points_px <= size)).all(axis=1)  # NaN compares false, hence outside
    if outside.any():
        x, y = points_px[outside][0].tolist()
        raise BadInput(
            f"point ({x:g}, {y:g}) is outside the frame of width {width} and height {height}; leave it out or clip it"
        )
    return points_px


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
        returns an empty list alike for a refusal and for nonsense (`videomolmo_pixels` in tests/reference/points.py);
        Molmo's evaluator drops values above 100 (`molmo_pixels` there); Molmo 2's finds points in prose.

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
        sorts before rounding, which makes the order of two points within 0.1 percent depend on invisible digits (see
        `write_like_videomolmo`).

    Example:
        >>> write_points(np.array([[450.0, 36.0], [76.8, 120.0]]), "dog", height=360, width=640)
        '<points x1="12.0" y1="33.3" x2="70.3" y2="10.0" alt="dog">dog</points>'
        >>> write_points(np.zeros((0, 2)), "dog", height=360, width=640)
        'There are none.'
    """
    percent = np.round(_percent(points_px, height, width), 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return _tag(sorted(percent.tolist()), label)


def write_like_videomolmo(points_px: Num[np.ndarray, "points 2"], label: str, height: int, width: int) -> str:
    """The text that VideoMolmo was trained on, to the character; for parity tests and for its own training rows.

    Arguments and errors are those of `write_points`. Two things are not as there: points are sorted before they are
    rounded, and only the sentence for none begins with a space.

    Source: VideoMolmo's final training script.

    Example:
        >>> write_like_videomolmo(np.zeros((0, 2)), "dog", height=360, width=640)
        ' There are none.'
    """
    percent = _percent(points_px, height, width) + 0.0
    return _tag(sorted(percent.tolist()), label) if len(percent) else f" {NO_POINTS}"


def _percent(points_px: np.ndarray, height: int, width: int) -> Float64[np.ndarray, "points 2"]:
    return points_inside(points_px, height, width) / (frame_size(height, width) / 100)


def _tag(rows: list[list[float]], label: str) -> str:
    """Percent rows in the order given, and the label twice; the sentence for no rows."""
    if not rows:
        return NO_POINTS
    name = "point" if len(rows) == 1 else "points"
    indices = [""] if len(rows) == 1 else range(1, len(rows) + 1)
    coordinates = " ".join(f'x{i}="{x:.1f}" y{i}="{y:.1f}"' for i, (x, y) in zip(indices, rows, strict=True))
    safe_label = escape(label)
    return f'<{name} {coordinates} alt="{safe_label}">{safe_label}</{name}>'


__all__ = [
    "END_OF_TEXT",
    "ESCAPES",
    "LARGEST_PERCENT",
    "LONGEST_ANSWER",
    "NO_POINTS",
    "NO_TRACKS",
    "REFUSALS",
    "Answer",
    "TrackPoint",
    "read_points",
    "write_like_videomolmo",
    "write_points",
]
