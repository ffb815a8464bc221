"""Counting as the public evaluators of Molmo and Molmo 2 score answers: texts, each with its own idea of a number.

They are here under their names, faults included; evaluation scores the number of objects followed, see `is_close`.

Source: the evaluators of Molmo (Deitke et al. 2024) and Molmo 2 (2025), the latter also used for BURST.
"""

import math
import re
from typing import NamedTuple

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_TOTAL = re.compile(r"a total of ([0-9]+)")
_TOTAL_OR_NUMBER = re.compile(r"(?:a total of|the total number(?: of .*?)? is:) ([0-9]+)")


class AnswerScore(NamedTuple):
    """One answer as a reference evaluator sees it; an invalid answer is neither correct nor close."""

    correct: bool
    close: bool
    valid: bool


def is_close(truth: int, count: int) -> bool:
    """Whether a count is off by no more than 1 and 5 percent of the truth (rounded down) together.

    Source: Molmo 2, video counting.
    """
    return abs(truth - count) <= 1 + math.floor(0.05 * truth)


def stated_count(text: str) -> int | None:
    """The number that an answer states: alone, else as the first total in its sentence; None where it states none.

    Example:
        >>> stated_count("5"), stated_count("Counting the dogs shows a total of 3."), stated_count("There are none.")
        (5, 3, None)
    """
    text = text.strip().lower().rstrip(".")
    total = _TOTAL_OR_NUMBER.search(text)
    count = _integer(text)
    return _integer(total[1]) if count is None and total else count


def molmo2_video_count(truth: int, text: str) -> AnswerScore:
    """Molmo 2 on video and BURST: a bare number, else the first total in the sentence; close as in `is_close`.

    Its rule for `none` never applies (a regular expression with a backspace in it), so that sentence is invalid.
    """
    count = stated_count(text)
    return _score(truth, count, count is not None and is_close(truth, count))


def molmo1_image_count(truth: int, text: str) -> AnswerScore:
    """Molmo on images: the last word as a number or number word, else the last total; close is off by one.

    Its rule for `none` never applies (a regular expression with a backspace in it), so that sentence is invalid.
    """
    text = text.strip().lower().rstrip(".").strip()
    words = text.split()
    count = _integer(words[-1]) if words else None
    if count is None and words:
        count = NUMBER_WORDS.get(words[-1])
    if count is None and (totals := _TOTAL.findall(text.split("\n")[0])):
        count = _integer(totals[-1])
    return _score(truth, count, count is not None and abs(truth - count) <= 1)


def molmo2_image_count(truth: int, points: int) -> AnswerScore:
    """Molmo 2 on images: the number of points in the answer, so that the text `5` counts as 0; close is off by one."""
    return _score(truth, points, abs(truth - points) <= 1)


def _score(truth: int, count: int | None, close: bool) -> AnswerScore:
    return AnswerScore(bool(count == truth), bool(close), count is not None)


def _integer(text: str) -> int | None:
    """What Python reads as an integer, signs and underscores included, as the references do; never very many digits."""
    try:
        return int(text)
    except ValueError:
        return None
