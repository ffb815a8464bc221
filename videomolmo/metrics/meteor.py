"""METEOR 1.5 of captions, without Java: its data, which come with the package pycocoevalcap, are read directly.

Source: Denkowski and Lavie 2014, with the settings of `-l en -norm` (task "rank"). Words are matched when they are
    equal, have one stem (Porter 2), share a set of synonyms (WordNet 3.0), or are paraphrases in a table; of all ways
    to align both captions the one with most matches and fewest chunks counts, as a beam search finds it.
"""

from __future__ import annotations

import gzip
import heapq
import importlib.util
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from videomolmo.errors import BadInput
from videomolmo.metrics.captions import tokens

KINDS = ("exact", "stem", "synonym", "paraphrase")
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of a match of each kind in the score
_SEARCHED = (1.0, 0.5, 0.5, 0.5)  # and in the search, rounded down for each match
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
BEAM = 40
LONGEST = 8  # words of a paraphrase; the table has none longer


class Meteor(NamedTuple):
    """Scores from 0 to 1: `corpus` of all counts together, which is not the mean of `captions`.

    `counts` are what a corpus score is made of, one row for each caption; see `of_counts`.
    """

    corpus: float
    captions: list[float]
    counts: Float64[np.ndarray, "captions 9"]


def meteor(truth: Sequence[str], pred: Sequence[str]) -> Meteor:
    """METEOR of each caption and of all together; reading the tables takes seconds, however few captions there are.

    Args:
        truth: one true caption of each video.
        pred: the captions.

    Raises:
        BadInput: not as many captions as true ones, none, or the data are not there.
    """
    if len(truth) != len(pred) or not len(truth):
        raise BadInput(f"{len(truth)} true captions and {len(pred)} captions: expected as many of each, at least one")
    pairs = [tuple(_normed(" ".join(tokens(text))) for text in pair) for pair in zip(truth, pred, strict=True)]
    tables = _Tables.of(words for pair in pairs for words in pair)
    counts = [_counted(found, true, tables) for true, found in pairs]
    rows = np.array([one._replace(chunks=0) if one.is_whole else one for one in counts], dtype=np.float64)
    return Meteor(of_counts(rows.sum(axis=0)), [_score(one) for one in counts], rows)


def of_counts(total: Float64[np.ndarray, "9"]) -> float:
    """The score of a corpus from the sum of its captions' counts, in which whole matches break nothing."""
    return _score(_Counts(*map(float, total)))


class _Counts(NamedTuple):
    """Of a pair of captions: words, matched words, both weighted by kind of word and match, and chunks."""

    found_words: float
    true_words: float
    found_length: float
    true_length: float
    found_matched: float
    true_matched: float
    found_weighted: float
    true_weighted: float
    chunks: float

    @property
    def is_whole(self) -> bool:
        """Whether all words match in one piece."""
        matched = (self.found_matched, self.true_matched)
        return self.chunks == 1 and matched == (self.found_words, self.true_words)


def _score(counts: _Counts) -> float:
    if not counts.found_weighted or not counts.true_weighted:
        return 0.0
    precision, recall = counts.found_weighted / counts.found_length, counts.true_weighted / counts.true_length
    mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    pieces = counts.chunks / ((counts.found_matched + counts.true_matched) / 2)
    return max(mean * (1 - (0 if counts.is_whole else GAMMA * pieces**BETA)), 0.0)


class _Match(NamedTuple):
    """Words from `true` and from `found` on, so many of each, that mean the same."""

    true: int
    true_length: int
    found: int
    found_length: int
    kind: int

    @property
    def masks(self) -> tuple[int, int]:
        """Bits of the words it takes."""
        return ((1 << self.true_length) - 1) << self.true, ((1 << self.found_length) - 1) << self.found


def _counted(found: list[str], true: list[str], tables: _Tables) -> _Counts:
    if found == true:
        matches = [_Match(at, 1, at, 1, 0) for at in range(len(true))]
    else:
        matches = _aligned(_matches(found, true, tables), len(true))
    sides = []
    for words, at, length in ((found, "found", "found_length"), (true, "true", "true_length")):
        weights = [1 - DELTA if word in tables.function_words else DELTA for word in words]
        taken = [(place, one.kind) for one in matches
                 for place in range(getattr(one, at), getattr(one, at) + getattr(one, length))]  # fmt: skip
        sides.append(
            (len(words), sum(weights), len(taken), sum(weights[place] * WEIGHTS[kind] for place, kind in taken))
        )
    chunks = bool(matches) + sum(
        (one.true + one.true_length, one.found + one.found_length) != (two.true, two.found)
        for one, two in pairwise(matches)
    )
    return _Counts(*(value for pair in zip(*sides, strict=True) for value in pair), chunks)


def _matches(found: list[str], true: list[str], tables: _Tables) -> list[list[_Match]]:
    """For each word of the true caption all matches that begin there."""
    starts: list[list[_Match]] = [[] for _ in true]
    for kind, same in enumerate((_equal, tables.have_one_stem, tables.are_synonyms)):
        for at, word in enumerate(true):
            starts[at] += [_Match(at, 1, n, 1, kind) for n, other in enumerate(found) if same(other, word)]
    for at, length, other in tables.paraphrases_in(true):
        starts[at] += [_Match(at, length, n, len(other), 3) for n in _places(other, found)]
    for n, length, other in tables.paraphrases_in(found):
        for at in _places(other, true):
            starts[at].append(_Match(at, len(other), n, length, 3))
    return starts


def _equal(one: str, other: str) -> bool:
    return one == other


def _places(phrase: list[str], words: list[str]) -> list[int]:
    return [at for at in range(len(words)) if words[at : at + len(phrase)] == phrase]


class _Path(NamedTuple):
    """A partial alignment; paths with more matches, then fewer chunks, then less distance come first."""

    less: int  # matches, negative
    chunks: int
    distance: int
    at: int = 0
    last: int = -1  # where in the found caption the chunk would go on
    true_used: int = 0
    found_used: int = 0
    chosen: tuple = ()

    def taking(self, match: _Match) -> _Path:
        gain = int(_SEARCHED[match.kind] * match.true_length) + int(_SEARCHED[match.kind] * match.found_length)
        breaks = self.last not in (-1, match.found)
        return self._replace(
            less=self.less - gain, chunks=self.chunks + breaks, at=match.true + match.true_length,
            last=match.found + match.found_length,
        )  # fmt: skip


def _rank(path: _Path) -> tuple:
    return path[:3]


def _aligned(starts: list[list[_Match]], length: int) -> list[_Match]:
    """The matches of the best alignment, in the order of the true caption.

    Source: METEOR 1.5. What there is no choice about is fixed. As there, the distance of a match that is tried counts
    for the path that goes without it and for the choices tried later, not for its own.
    """
    everything = [match for matches in starts for match in matches]
    takers: dict[tuple[bool, int], int] = {}
    for match in everything:
        for side, first, count in ((True, match.true, match.true_length), (False, match.found, match.found_length)):
            for at in range(first, first + count):
                takers[side, at] = takers.get((side, at), 0) + 1
    fixed = {
        at: one for at, (one, *others) in enumerate([matches or [None] for matches in starts]) if one and not others
        and all(takers[True, place] == 1 for place in range(one.true, one.true + one.true_length))
        and all(takers[False, place] == 1 for place in range(one.found, one.found + one.found_length))
    }  # fmt: skip
    start = _Path(0, 0, 0)
    for match in fixed.values():
        true, found = match.masks
        start = start._replace(true_used=start.true_used | true, found_used=start.found_used | found)
    paths = [start]
    for at in range(length):
        paths = heapq.nsmallest(BEAM, paths, key=_rank)
        paths = [path for one in paths for path in _extended(one, at, starts[at], fixed)] or paths[:1]
    paths = [one._replace(chunks=one.chunks + (one.last != -1)) for one in heapq.nsmallest(BEAM, paths, key=_rank)]
    chosen, chain = list(fixed.values()), min(paths, key=_rank).chosen
    while chain:
        match, chain = chain
        chosen.append(match)
    return sorted(chosen)


def _extended(path: _Path, at: int, matches: list[_Match], fixed: dict[int, _Match]) -> Iterable[_Path]:
    """What a path can become at a word of the true caption."""
    if path.true_used >> at & 1:
        if at < path.at:
            return [path]
        if path.at not in fixed:
            return []
        match = fixed[path.at]
        return [path.taking(match)._replace(distance=path.distance + abs(match.true - match.found))]
    paths, distance = [], path.distance
    for match in matches:
        true, found = match.masks
        if path.true_used & true or path.found_used & found:
            continue
        paths.append(path.taking(match)._replace(
            distance=distance, true_used=path.true_used | true, found_used=path.found_used | found,
            chosen=(match, path.chosen),
        ))  # fmt: skip
        distance += abs(match.true - match.found)
    is_open = path.last != -1
    paths.append(path._replace(chunks=path.chunks + is_open, last=-1, at=path.at + 1, distance=distance))
    return paths


@dataclass(frozen=True)
class _Tables:
    """What is known of words: which carry little meaning, stems, sets of synonyms; paraphrases of these captions."""

    function_words: frozenset[str]
    synsets: dict[str, frozenset[str]]
    bases: dict[str, list[str]]
    paraphrases: dict[str, list[str]]
    _stems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, captions: Iterable[list[str]]) -> _Tables:
        """All tables, and of the paraphrases those that these captions can use."""
        phrases = {
            f"{' '.join(words[at : at + count])}\n".encode()
            for words in captions for count in range(1, LONGEST + 1) for at in range(len(words) - count + 1)
        }  # fmt: skip
        folder = data_folder()
        paraphrases: dict[str, list[str]] = {}
        with gzip.open(folder / "data" / "paraphrase-en.gz") as packed:
            file = io.BufferedReader(packed, 1 << 20)  # whose lines come ten times as fast
            for _, phrase, other in zip(file, file, file, strict=True):  # the chance, which METEOR does not use
                if phrase in phrases and other in phrases:
                    paraphrases.setdefault(phrase.decode().strip(), []).append(other.decode().strip())
        return cls(*_words(folder), paraphrases)

    def have_one_stem(self, one: str, other: str) -> bool:
        """Whether two words that differ have the same stem."""
        return one != other and self._stem(one) == self._stem(other)

    def _stem(self, word: str) -> str:
        if word not in self._stems:
            self._stems[word] = _stemmer().stemWord(word)
        return self._stems[word]

    def are_synonyms(self, one: str, other: str) -> bool:
        """Whether two words that differ, or their base forms, share a set of synonyms."""
        return one != other and not self._sets(one).isdisjoint(self._sets(other))

    def _sets(self, word: str) -> frozenset[str]:
        forms = self.bases.get(word) or [self._base(word)]
        return frozenset().union(*(self.synsets.get(form, ()) for form in (word, *forms)))

    def _base(self, word: str) -> str:
        """The dictionary's form of a word; source: WordNet 3.0, morphology."""
        if word.endswith("ss") or len(word) <= 2:
            return word
        for end, new in _ENDINGS:
            form = word.removesuffix(end) + new
            if word.endswith(end) and form in self.synsets:
                return form + "ful" * word.endswith("ful")
        return ""

    def paraphrases_in(self, words: list[str]) -> Iterable[tuple[int, int, list[str]]]:
        """Place and length of phrases that the table has, each with the words of a paraphrase."""
        for at in range(len(words)):
            for count in range(1, min(LONGEST, len(words) - at) + 1):
                for other in self.paraphrases.get(" ".join(words[at : at + count]), ()):
                    yield at, count, other.split()


_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


def data_folder() -> Path:
    """Where METEOR's data are: in the package pycocoevalcap, which is only looked for, not imported.

    Raises:
        BadInput: it or the stemmer is not installed.
    """
    for package in ("pycocoevalcap", "snowballstemmer"):
        if importlib.util.find_spec(package) is None:
            raise BadInput(
                f"METEOR needs the package {package}, which is not there; pip install 'videomolmo[captions]'"
            )
    return Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0]) / "meteor"


@lru_cache(maxsize=1)
def _words(folder: Path) -> tuple[frozenset[str], dict[str, frozenset[str]], dict[str, list[str]]]:
    with zipfile.ZipFile(folder / "meteor-1.5.jar") as jar:
        function, synsets, forms = (
            jar.read(name).decode() for name in ("function/english.words", "synonym/english.synsets",
                                                 "synonym/english.exceptions")
        )  # fmt: skip
    lines, bases = synsets.splitlines(), {}
    for base, several in zip(*[iter(forms.splitlines())] * 2, strict=True):
        for form in several.split():
            bases.setdefault(form, []).append(base)
    sets = {word: frozenset(numbers.split()) for word, numbers in zip(lines[::2], lines[1::2], strict=True)}
    return frozenset(function.splitlines()), sets, bases


@lru_cache(maxsize=1)
def _stemmer():
    import snowballstemmer

    return snowballstemmer.stemmer("english")


_ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_DOTTED = frozenset(["v", "vs", "i.e", "rev", "e.g", "pp"])  # keep their dot wherever they stand
_RULES = tuple(  # what splits words further
    (re.compile(pattern), new)
    for pattern, new in (
        (rf"([^0-9{_ALPHA}\s.'`,‘’-])", r" \1 "),
        (r"(\D),(\D)", r"\1 , \2"),
        (r"(\d),(\D)", r"\1 , \2"),
        (r"(\D),(\d)", r"\1 , \2"),
        (r"[`‘’]", "'"),
        (r"[“”]|''", ' " '),
        (r"–|--", "-"),
        (rf"([0-9{_ALPHA}.])-([0-9{_ALPHA}])", r"\1 \2"),
        (rf"([^{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([^{_ALPHA}\d])'([{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([{_ALPHA}])", r"\1 '\2"),
        (r"(\d)'(s)", r"\1 '\2"),
    )
)


def _normed(text: str) -> list[str]:
    """The words that METEOR compares, from those of a caption."""
    text = f" {text.replace('|||', '')} ".lower()
    for pattern, new in _RULES:
        text = pattern.sub(new, text)
    words: list[str] = []
    parts = text.split()
    for part, after in pairwise([*parts, ""]):
        stem = part[:-1]
        if not part.endswith(".") or not stem.strip("."):
            words.append(part)
        elif "." in stem and re.search(rf"[{_ALPHA}]", stem):
            words.append(part.replace(".", ""))
        elif stem in _DOTTED or re.match("[a-z]", after):
            words.append(part)
        else:
            words += [stem, "."]
    return words
