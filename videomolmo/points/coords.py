"""Molmo 2's list of points, read tolerantly: `TIME id X Y id X Y …` for each frame, frames one after the other."""

import re
from typing import NamedTuple

from videomolmo.points.text import Broken, short

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
