"""What Molmo 2's own readers make of a text, faults included; for parity tests and old numbers.

Use `read_points` for everything else. Each reader tries Molmo 2's list first and, if that gives nothing, older formats.
Tags are found in one pass over the text, so that a hostile one takes linear time; the references' patterns do not.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from reference.points import (
    ATTRIBUTES,
    CLICK,
    IN_PARENTHESES,
    PER_MILLE_PAIR,
    Reading,
    scaled_pixels,
    settled,
)

Sizes = int | Sequence[int]
Row = tuple[float, str, float, float]  # time or number of the image, id, pixels


class TrackFrame(NamedTuple):
    """The objects of one time.

    Args:
        frame: time · fps, rounded half to even, so that two times may fall on one frame.
        time: seconds; from the older format the text of it, with two decimals.
        points: pixels (x, y) of each object; the names are texts.
    """

    frame: int
    time: float | str
    points: dict[str, tuple[float, float]]


def read_like_molmo2_entries(text: str, width: Sizes, height: Sizes) -> Reading:
    """Molmo 2's lists alone; `found` holds (time, id, x, y), the id as text.

    Quirks: only `<points` and `<tracks`, with `coords` the last attribute and `">` or `"/>` right behind it; a time
    right after a tab, colon, comma or semicolon, else its frame is lost (`; 1.0 …`) or goes to the time before; id and
    two numbers of three or four digits, the rest passed over; points beyond 1000 per mille dropped, 1000 kept; `1.2.3`
    as a time is a failure. With one width and height for each image, times are image numbers from 1 and must be
    integers; 0 means the last image, and a number beyond the last is a failure.

    Source: Molmo 2, `UnifiedPointFormatter.extract_multi_image_points`.

    Example:
        >>> read_like_molmo2_entries('<points coords="0.5 1 100 050; 1.0 2 200 050">x</points>', width=640, height=360)
        Reading(found=[(0.5, '1', 64.0, 18.0)], failure=None)
    """
    return settled(lambda: list(_entries(text, width, height)))


def read_like_molmo2_points(text: str, width: int, height: int) -> Reading:
    """Places only; `found` holds float pixels [x, y].

    Quirks: without a list, the first of these searches that finds anything: `Click(d.d, d.d)`; `id ddd ddd` in per
    mille (so that a truncated list is understood, but also "3 100 200" in prose); `id d.d d.d` in percent; and last,
    together, three of Molmo 1's searches: `(d.d, d.d)`, `x="…" y="…"`, `p=ddd, ddd`.

    Source: Molmo 2, `extract_points`.

    Example:
        >>> read_like_molmo2_points("two dogs at 3 100 200 meters", width=640, height=360)
        Reading(found=[[64.0, 72.0]], failure=None)
    """
    return settled(lambda: [[x, y] for _, _, x, y in _entries(text, width, height)] or _old_points(text, width, height))


def read_like_molmo2_time_points(text: str, width: int, height: int) -> Reading:
    """Times with places; `found` holds (time, x, y).

    Quirks: without a list, every `<points TIME id x y id x y …/>` in percent; one of them with an unreadable number, or
    with a number too few, makes all of them nothing.

    Source: Molmo 2, `extract_multi_image_points`.
    """
    return settled(
        lambda: [(time, x, y) for time, _, x, y in _entries(text, width, height)] or _old_triplets(text, width, height)
    )


def read_like_molmo2_tracks(text: str, width: int, height: int, fps: float, with_format: bool = True) -> Reading:
    """Objects in time; `found` holds a `TrackFrame` for each time, in the order of times.

    Quirks: an object given twice at one time keeps its first place; without a list, the older text is read, a line
    `time 0.50` and below it `{0: [34.0, 63.0]}` in percent, in float32, in the order of the text.

    Args:
        text: the answer.
        width: of the video, pixels.
        height: of the video, pixels.
        fps: frames per second of the video.
        with_format: whether the reference was told the name of the older format. Without it, a text without a list is
            a failure (`ValueError`), a refusal too.

    Source: Molmo 2, `extract_tracks`.
    Differs: the older text's braces are evaluated as Python there, here they are lists of decimal numbers.

    Example:
        >>> read_like_molmo2_tracks('<tracks coords="0.5 1 100 050">dog</tracks>', 640, 360, fps=6)
        Reading(found=[TrackFrame(frame=3, time=0.5, points={'1': (64.0, 18.0)})], failure=None)
    """

    def read() -> list[TrackFrame]:
        by_time: dict[float, dict[str, tuple[float, float]]] = {}
        for time, name, x, y in _entries(text, width, height):
            by_time.setdefault(time, {}).setdefault(name, (x, y))
        if not by_time and not with_format:
            raise ValueError("the older format of this text is not named")
        found = [TrackFrame(round(time * fps), time, by_time[time]) for time in sorted(by_time)]
        return found or _old_tracks(text, width, height, fps)

    return settled(read)


# Molmo 2's list

_LIST_PARTS = re.compile(r'(<points|<tracks)|\n++| coords="([0-9\t:;, .]++)"/?>')
_FRAME = re.compile(r"(?:^|[\t:,;])([0-9.]++) ([0-9. ]++)")
_DIGITS = re.compile(r"([0-9]++)(?: ([0-9]{3,4}) ([0-9]{3,4}))?+")  # all digits, so that a long number is read once


def _lists(text: str) -> Iterator[str]:
    """The lists of all tags: each ends what the first opening before it in its line began."""
    opened = False
    for part in _LIST_PARTS.finditer(text):
        if part[2] is None:
            opened = part[1] is not None
        elif opened:
            opened = False
            yield part[2]


def _entries(text: str, width: Sizes, height: Sizes) -> Iterator[Row]:
    for coords in _lists(text):
        for frame in _FRAME.finditer(coords):
            if isinstance(width, Sequence):
                time = int(frame[1])
                size = width[time - 1], height[time - 1]
            else:
                time, size = float(frame[1]), (width, height)
            for name, x, y in _DIGITS.findall(frame[2]):
                if x and int(x) <= 1000 and int(y) <= 1000:
                    yield time, name, int(x) / 1000 * size[0], int(y) / 1000 * size[1]


# Older formats

# One digit stands for the id: its last one.
_ID_PER_MILLE = re.compile(r"[0-9] ([0-9]{3}) ([0-9]{3})")
_ID_PERCENT = re.compile(r"[0-9] ([0-9]++\.[0-9]) ([0-9]++\.[0-9])")


def _old_points(text: str, width: int, height: int) -> list[list[float]]:
    for pattern, scale in (CLICK, 100), (_ID_PER_MILLE, 1000), (_ID_PERCENT, 100):
        if found := scaled_pixels(pattern, text, scale, width, height):
            return found
    searches = ((IN_PARENTHESES, 100), (ATTRIBUTES, 100), (PER_MILLE_PAIR, 1000))
    return [point for pattern, scale in searches for point in scaled_pixels(pattern, text, scale, width, height)]


_BLOCK_PARTS = re.compile(r"<points(?=\s)|/?>|/")


def _blocks(text: str) -> Iterator[str]:
    """What stands between `<points` and `/>`, without any other bracket or slash."""
    start = None
    for part in _BLOCK_PARTS.finditer(text):
        if part[0] == "<points":
            start = part.end() if start is None else start
        else:
            if part[0] == "/>" and start is not None:
                yield text[start : part.start()]
            start = None


def _old_triplets(text: str, width: int, height: int) -> list[tuple[float, float, float]]:
    found = []
    for words in map(str.split, _blocks(text)):
        if not words:
            continue
        if len(words) % 3 != 1:
            return []
        try:
            time, *numbers = map(float, words[:1] + [word for i, word in enumerate(words[1:]) if i % 3])
        except ValueError:
            return []
        for x, y in zip(numbers[::2], numbers[1::2], strict=True):
            if not (x > 100 or y > 100) or math.isnan(x) or math.isnan(y):
                found.append((time, x / 100 * width, y / 100 * height))
    return found


_TIME_LINE = re.compile(r"time\s++(\d++\.?+\d*+)[^\S\n]*+\n\s*+\{")
_OBJECT = re.compile(r"\s*+([+-]?[0-9]++)\s*+:\s*+(?:\[([-+0-9.,eE\s]*+)\]|\(([-+0-9.,eE\s]*+)\))\s*+(?:,|\Z)")


@np.errstate(over="ignore")
def _old_tracks(text: str, width: int, height: int, fps: float) -> list[TrackFrame]:
    found, position = [], 0
    while line := _TIME_LINE.search(text, position):
        end = text.find("}", line.end())
        if end < 0:
            break
        position = end + 1 if end > line.end() else line.end()
        points = _old_objects(text[line.end() : end], width, height)
        if points:
            seconds = float(line[1])
            found.append(TrackFrame(round(seconds * fps), f"{seconds:.2f}", points))
    return found


def _old_objects(braces: str, width: int, height: int) -> dict[str, tuple[float, float]]:
    """Places of the objects between braces; none if anything there is not readable."""
    percent, position = {}, 0
    while entry := _OBJECT.match(braces, position):
        position = entry.end()
        try:
            name, numbers = str(int(entry[1])), [float(word) for word in (entry[2] or entry[3] or "").split(",")]
        except ValueError:
            return {}
        if len(numbers) == 2 and max(numbers) <= 100:
            percent[name] = numbers
    if braces[position:].strip():
        return {}
    return {name: (_share(x) * width, _share(y) * height) for name, (x, y) in percent.items()}


def _share(percent: float) -> float:
    return float(np.float32(percent) / np.float32(100))
