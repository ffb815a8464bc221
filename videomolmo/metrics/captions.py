"""Captions against true ones: phrases and words of a marked answer, tokens, CIDEr, and what a judge's answer says.

Source: evaluation of VideoGLaMM (Munasinghe et al. 2024), which scores captions by pycocoevalcap: the Penn Treebank
    tokenizer of CoreNLP 3.4.1, METEOR 1.5 (`videomolmo.metrics.meteor`), CIDEr (Vedantam et al. 2015) in its clipped
    form with a penalty for length, and CLAIR (Chan et al. 2023).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from videomolmo.errors import BadInput

UNKNOWN = "Unknown"  # reason of a judge that gave none
MAX_CHARACTERS = 2000  # of a caption that is scored
_ANSWER = "ASSISTANT: "  # what follows it is the answer, in the chats that have it
_NOT_COUNTED = frozenset([".", "?", "!", ",", ":", "-", "--", "...", ";"])

_APOSTROPHE = "['’]"
_LETTER = r"[^\W\d_]"
_SHORT = (  # end with a dot that is no end of a sentence
    "jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu(?:rs)? fri mr mrs ms drs? profs? sens? reps? "
    "attys? lt col gen messrs govs? adm rev maj sgt cpl pvt mt capt ste? ave pres lieut hon brig co?mdr pfc spc supts? "
    "det jr bros sr esq inc cos? corp ltd plc bancorp dept mfg bhd assn univ intl sys etc al seq bldg rd blvd ala ariz "
    "calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo v vs alex "
    r"wm jos cie cf est ft a\.k\.a ph\.d ed\.d treas"
).replace(" ", "|")
_KINDS = tuple(  # of tokens; the longest that fits is taken, of equals the first
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"<[!/?]?[a-z][^<>\n]*>",  # a tag
        r"[:;=8][-o*']?[()\[\]dp@|](?!\w)|\(\d{3}\)(?= \d)",  # a smile, the code of an area
        r"(?:https?|ftp)://[^\s\"<>|()]+|www\.[^\s\"<>|()]+|[\w.-]+@\w[\w.-]*\.\w+",
        rf"[#@]{_LETTER}\w*",
        rf"(?:{_LETTER}\.)+{_LETTER}\.|{_LETTER}\.(?=\s*\S)(?<!i\.)",  # U.S., initials
        rf"(?:{_SHORT})\.",
        r"(?:nos?|prop|ph|pp?|figs?)\.(?=\s*\d)",
        rf"{_APOSTROPHE}(?:[dsm]|re|ve|ll)(?!\w)",
        rf"n{_APOSTROPHE}t(?!\w)",
        rf"(?<!\w){_APOSTROPHE}(?:(?:em|cause|till?|\d\ds?)(?!\w)|t(?=is|was))|{_APOSTROPHE}n{_APOSTROPHE}",
        rf"(?:[dlo]{_APOSTROPHE}|ma{_APOSTROPHE}(?=am)|c{_APOSTROPHE}(?=mon)|ne{_APOSTROPHE}(?=er)|e{_APOSTROPHE}(?=er))"
        rf"{_LETTER}+",
        rf"ol{_APOSTROPHE}|y{_APOSTROPHE}(?!\w)|y{_APOSTROPHE}(?=all)",
        rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)*",  # words, also with signs in them
        r"[^\W_]+(?:[-_][^\W_]+)*",
        r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}|\d{1,4}-\d{1,4}/\d{1,4}",
        rf"(?-i:[A-Z]+(?:[+&][A-Z]+)+|(?<!\w)[A-Z]{_APOSTROPHE}(?!(?:[dsm]|re|ve|ll)(?!\w))[A-Za-z]{{2,}})",
        r"c\+\+|[cfj]#",
        r"(?a:(?:[a-z0-9]+[.,])+[a-z0-9]+(?:-[a-z0-9]+)+)",
        r"[-+]?\d*(?:[.,:]\d+)+|[-+]\d+",
        r"(?:us|a|c|nz|hk|s)\$",
        r"\.+|_+|\*+|…|(?:\. ){2}\.|-{2,}|[—–]|[!?]+",
    )
)
_FIRST_PARTS = re.compile(  # of words that are two
    rf"{_LETTER}+(?=n{_APOSTROPHE}t(?!\w))|(?:can(?=not)|gon(?=na)|got(?=ta)|wan(?=na)|gim(?=me)|lem(?=me))(?=\w\w\w?\b)",
    re.IGNORECASE,
)
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-", "€": "$", "£": "#",
            "¢": "cents", "…": "...", "—": "--", "–": "--", ". . .": "..."}  # fmt: skip
_BRACKET = re.compile(r"[()\[\]{}]")
_QUOTES = frozenset("\"'`‘’“”«»‹›")
_INVISIBLE = re.compile("[\xad\u200b\u200c\u200d\ufeff]")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}


class Marked(NamedTuple):
    """A marked answer as it is scored: its plain words, and the words of each phrase."""

    caption: str
    phrases: list[str]


def clean(answer: str) -> Marked:
    """The caption in a model's decoded text, and the phrases between `<p>` and `</p>` in it.

    Source: the released evaluation. It is to be given the answer alone: where the prompt stands before it, the
    reference scores that too, unless the chat has "ASSISTANT: ".

    Example:
        >>> clean("<p> A man </p> [SEG] walks his <p> dog </p> [SEG].")
        Marked(caption='A man walks his dog .', phrases=['A man', 'dog'])
    """
    text = answer.replace("\n", "").replace("  ", " ").split(_ANSWER)[-1]
    phrases = [phrase.strip() for phrase in re.findall(r"<p>(.*?)</p>", text)]
    plain = re.sub(r"<.*?>", "", text).replace("[SEG]", "")
    return Marked(" ".join(plain.split()).strip("'").strip(), phrases)


def tokens(text: str) -> list[str]:
    """The words of a caption that are counted, in lower case: split as the Penn Treebank is, without punctuation.

    Source: PTBTokenizer of CoreNLP 3.4.1 as pycocoevalcap uses it. Differs: written here in a few rules; on 1 600
    sentences of documentation 1 597 came out alike.

    Example:
        >>> tokens("The man isn't holding the child's hand.")
        ['the', 'man', 'is', "n't", 'holding', 'the', 'child', "'s", 'hand']
    """
    text = _INVISIBLE.sub("", text[:MAX_CHARACTERS].replace("\n", " "))
    for name, sign in _ENTITIES.items():
        text = text.replace(name, sign)
    found, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        kinds = (_FIRST_PARTS,) if _FIRST_PARTS.match(text, at) else _KINDS
        token = max((fit[0] for kind in kinds if (fit := kind.match(text, at))), key=len, default=text[at])
        at += len(token)
        plain = _WRITTEN.get(token, token.replace("’", "'")).lower()
        plain = "--" if plain in ("---", "----") else plain
        if plain not in _NOT_COUNTED and not set(token) <= _QUOTES and token[0] <= "\uffff" and set(token) != {"."}:
            found.append(_BRACKET.sub(lambda one: _WRITTEN[one[0]], plain))
    return found


def cider(truth: Sequence[str], pred: Sequence[str]) -> list[float]:
    """CIDEr of each caption, from 0 to 10; what words weigh depends on all true captions of the call.

    The mean over n = 1 … 4 of the similarity of n-grams weighted by how few true captions have them, times 10. One
    caption alone gets 0: everything is in every true caption.

    Args:
        truth: one true caption of each video.
        pred: the captions.

    Raises:
        BadInput: not as many captions as true ones, or none.
    """
    if len(truth) != len(pred) or not len(truth):
        raise BadInput(f"{len(truth)} true captions and {len(pred)} captions: expected as many of each, at least one")
    true, found = ([_grams(tokens(text)) for text in texts] for texts in (truth, pred))
    frequency = Counter(gram for grams in true for gram in grams)
    return [_similarity(one, other, frequency, math.log(len(truth))) for one, other in zip(true, found, strict=True)]


def _grams(words: Sequence[str]) -> Counter:
    return Counter(tuple(words[at : at + n]) for n in range(1, 5) for at in range(len(words) - n + 1))


def _similarity(true: Counter, found: Counter, frequency: Counter, log_count: float) -> float:
    weighted = [
        {gram: count * (log_count - math.log(max(1, frequency[gram]))) for gram, count in grams.items()}
        for grams in (true, found)
    ]
    longer = sum(found[gram] - true[gram] for gram in found.keys() | true.keys() if len(gram) == 2)
    values = []
    for n in range(1, 5):
        reference, candidate = ({gram: value for gram, value in side.items() if len(gram) == n} for side in weighted)
        common = sum(min(candidate[gram], reference[gram]) * reference[gram] for gram in candidate.keys() & reference)
        norms = math.prod(math.sqrt(sum(value**2 for value in side.values())) for side in (reference, candidate))
        values.append((common / norms if norms else common) * math.exp(-(longer**2) / 72))
    return float(np.mean(values)) * 10


class Verdict(NamedTuple):
    """What a judge answered: `score` from 0 to 1 (not clipped), and the reason it gave."""

    score: float
    reason: str


def read_verdict(answer: str) -> Verdict | None:
    """The score and reason in a judge's answer: JSON with both if there is any, else the first number; None without.

    Source: CLAIR as released. Differs: a score that is no number is no answer; the reference raises an error.

    Example:
        >>> read_verdict('{"score": 85, "reason": "same car"}'), read_verdict("about .5")
        (Verdict(score=0.85, reason='same car'), Verdict(score=0.5, reason='Unknown'))
    """
    _, brace, rest = answer.partition("{")
    try:
        given = json.loads(brace + rest.split("{")[0].split("}")[0] + "}")
        return Verdict(float(given["score"]) / 100, str(given.get("reason", UNKNOWN)))
    except TypeError:
        return None
    except (ValueError, KeyError):  # no JSON, or another
        number = re.search(r"\d*\.?\d+", answer)
    if number is None:
        return None
    score, reason = float(number[0]), re.search(r"reason(.*)", answer, re.IGNORECASE)
    words = UNKNOWN if reason is None else reason[1].replace(":", "").strip()
    return Verdict((score * 100 if score < 1 else score) / 100, words)
