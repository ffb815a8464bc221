"""Counting: how many answers name the right number, how many nearly, and how far they are off.

Ours scores numbers, where `There are none.` is 0 and an answer without a number counts as 0 but is reported. The public
evaluators score texts, each with its own idea of what a number is; they are here under their names, faults included.

Source: VideoMolmo, exact match (EMA) and mean absolute error (MAE), for which no code is released; the evaluators of
    Molmo (Deitke et al. 2024) and Molmo 2 (2025), the latter also used for BURST.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from videomolmo.errors import BadInput

BIN_STARTS = (0, 5, 10, 15, 20, 25)
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_WORDS.split())}
_TOTAL = re.compile(r"a total of ([0-9]+)")
_TOTAL_OR_NUMBER = re.compile(r"(?:a total of|the total number(?: of .*?)? is:) ([0-9]+)")
_TENS = dict(twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90)
_MOST_DIGITS = 15  # nobody counts further, and floats are exact so far
_NUMBER = (  # never the beginning of a longer number, such as "three hundred" or "1.5"
    rf"([0-9]+(?:,[0-9]{{3}})*(?![.,]?[0-9])|(?:{'|'.join(_TENS)})[- ](?:{'|'.join(_WORDS.split()[1:10])})|[a-z]+)"
    r"(?![a-z0-9-])(?! (?:dozen|hundred|thousand|million)\b)"
)
_NAMED_TOTAL = re.compile(rf"(?:a total of|the total number(?: of .*?)? is:?) {_NUMBER}")
_THERE_ARE = re.compile(rf"there (?:is|are) (?:a total of )?{_NUMBER}")
_NONE = re.compile(
    r"\bnone\b|\bno tracks available\b|\bisn['’]?t in (?:the|this) (?:image|video)"
    r"|\bthere (?:is|are) no (?!more\b|fewer\b|less\b)"
)


class CountScores(NamedTuple):
    """Over a data set: `exact` is VideoMolmo's EMA, `close` allows 1 + 5 %, `mae` counts objects."""

    exact: float
    close: float
    mae: float
    invalid: float


class AnswerScore(NamedTuple):
    """One answer as a reference evaluator sees it; an invalid answer is neither correct nor close."""

    correct: bool
    close: bool
    valid: bool


def count_scores(truths: Sequence[int], counts: Sequence[int | None]) -> CountScores:
    """Shares of exact, close and invalid counts, and the mean absolute error.

    Args:
        truths: how many objects there are.
        counts: how many were counted, as the number of points or by `read_count`; None for an answer without a number,
            which is scored as 0 and adds to `invalid`.

    Raises:
        BadInput: lists of different length or without entries, or a negative truth.

    Example:
        >>> count_scores([3, 0, 40], [3, None, 43])
        CountScores(exact=0.6666666666666666, close=1.0, mae=1.0, invalid=0.3333333333333333)
    """
    truths, counts = _checked(truths, counts)
    numbers = [count or 0 for count in counts]
    close = [is_close(truth, count) for truth, count in zip(truths, numbers, strict=True)]
    errors = np.abs(np.subtract(truths, numbers))
    invalid = [count is None for count in counts]
    return CountScores(*(float(np.mean(values)) for values in (errors == 0, close, errors, invalid)))


def exact_by_bin(truths: Sequence[int], counts: Sequence[int | None]) -> dict[str, float]:
    """Share of exact counts among the questions with 0 to 4, 5 to 9, … and from 25 objects; empty bins are left out.

    Example:
        >>> exact_by_bin([3, 4, 30], [3, 5, 30])
        {'0-4': 0.5, '25-': 1.0}
    """
    truths, counts = _checked(truths, counts)
    found: dict[str, list[bool]] = {}
    for truth, count in sorted(zip(truths, (count or 0 for count in counts), strict=True)):
        start = max(start for start in BIN_STARTS if start <= truth)
        found.setdefault(f"{start}-{'' if start == BIN_STARTS[-1] else start + 4}", []).append(truth == count)
    return {name: float(np.mean(exact)) for name, exact in found.items()}


def is_close(truth: int, count: int) -> bool:
    """Whether a count is off by no more than 1 and 5 percent of the truth (rounded down) together.

    Source: Molmo 2, video counting.
    """
    return abs(truth - count) <= 1 + math.floor(0.05 * truth)


def read_count(text: str) -> int | None:
    """The number an answer names; None if there is none in it.

    A bare number or number word up to ninety-nine, `1,200`, `a total of 5`, `the total number of dogs is: 5`,
    `There are five`, and 0 for `There are none.` and `There are no dogs.` Points are not counted here: the length of
    what the point reader returns is the count.

    Example:
        >>> [read_count(text) for text in ("5.", "There are none.", "There are twenty-one dogs.", "many")]
        [5, 0, 21, None]
    """
    text = " ".join(text.lower().split()).rstrip(".!")
    total, there_are = _NAMED_TOTAL.search(text), _THERE_ARE.search(text)
    for words in (text, total and total[1], there_are and there_are[1]):
        number = _whole_number(words or "")
        if number is not None:
            return number
    return 0 if _NONE.search(text) else None


def molmo2_video_count(truth: int, text: str) -> AnswerScore:
    """Molmo 2 on video and BURST: a bare number, else the first total in the sentence; close as in `is_close`.

    Its rule for `none` never applies (a regular expression with a backspace in it), so that sentence is invalid.
    """
    text = text.strip().lower().rstrip(".")
    total = _TOTAL_OR_NUMBER.search(text)
    count = _integer(text)
    count = _integer(total[1]) if count is None and total else count
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


def _whole_number(words: str) -> int | None:
    """Digits, by thousands or not, or number words; nothing negative can be counted."""
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+|[0-9]+", words):
        digits = words.replace(",", "")
        return int(digits) if len(digits) <= _MOST_DIGITS else None
    tens, _, ones = words.replace(" ", "-").partition("-")
    if not ones:
        return _TENS.get(tens, NUMBER_WORDS.get(tens))
    return _TENS[tens] + NUMBER_WORDS[ones] if tens in _TENS and 1 <= NUMBER_WORDS.get(ones, 0) <= 9 else None


def _integer(text: str) -> int | None:
    """What Python reads as an integer, signs and underscores included, as the references do; never very many digits."""
    try:
        return int(text)
    except ValueError:
        return None


def _checked(truths: Sequence[int], counts: Sequence[int | None]) -> tuple[list[int], list[int | None]]:
    """Both as lists of Python's numbers, if they fit each other."""
    truths, counts = ([one.item() if hasattr(one, "item") else one for one in values] for values in (truths, counts))
    if len(truths) != len(counts) or not len(truths):
        raise BadInput(f"{len(truths)} true numbers and {len(counts)} counts; give one count for each, at least one")
    if min(truths) < 0:
        raise BadInput(f"a true number of {min(truths)} objects; expected 0 or more")
    return truths, counts
