"""Words that a small model has learnt, and which words of a sentence it never has.

A model of a laptop's size knows a few dozen words, and answers about a giraffe as surely as about a circle. Its folder
lists the words; folders of models that know a language have no such list, and nothing is said of their words.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from videomolmo.io.files import write_json
from videomolmo.io.untrusted import checked, read_model_json

FILE = "known_words.json"
OTHERS = "others"  # the kind of words that are not worth telling one by one
_Word = Annotated[str, Field(min_length=1, max_length=100)]
_Kinds = Annotated[dict[_Word, Annotated[list[_Word], Field(max_length=100_000)]], Field(max_length=100)]
_WORD = re.compile(r"\w+(?:['’]\w+)?")
# They tell nothing of what is seen, or only that something is asked for.
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an the this that these those and or of in on at to for from with by as all both each every any some it its"
        " is are was were be been being do does did has have had will would can could should may must which who whose"
        " what where there here please me my you your i we us our they them their count describe detect find follow"
        " locate mark point segment show spot track"
    )
)


@dataclass(frozen=True)
class KnownWords:
    """The words of a model, by what they are about ("colours", …, `OTHERS`); lower case, plurals need not be named.

    Example:
        >>> known = KnownWords({"colours": ("red", "blue"), "shapes": ("circle",)})
        >>> known.unknown("Point to the red circles beside the giraffe's tree.")
        ['beside', 'giraffe', 'tree']
    """

    kinds: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, texts: Iterable[str], **kinds: Iterable[str]) -> KnownWords:
        """All words of some texts; those that `kinds` name stand under their kind, the rest under `OTHERS`."""
        named = {kind: tuple(words) for kind, words in kinds.items()}
        rest = {word for text in texts for word in words_of(text)}.difference(_FUNCTION_WORDS, *named.values())
        return cls(named | {OTHERS: tuple(sorted(rest))})

    @classmethod
    def read(cls, folder: str | Path) -> KnownWords | None:
        """Those of a model's folder; None where it does not list them.

        Raises:
            BadInput: the list is damaged, or lies elsewhere.
        """
        path = Path(folder) / FILE
        if not os.path.lexists(path):
            return None
        found = checked(_Kinds, read_model_json(path), str(path))
        return cls({kind: tuple(word.lower() for word in words) for kind, words in found.items()})

    def write(self, folder: str | Path) -> None:
        """Lay the list into a model's folder."""
        write_json(Path(folder) / FILE, {kind: list(words) for kind, words in self.kinds.items()})

    def unknown(self, sentence: str) -> list[str]:
        """Words of a sentence that the model never learnt, in order; plurals and 's count as the word itself."""
        known = _FUNCTION_WORDS.union(*self.kinds.values())
        found = [(word, _forms(word)) for word in words_of(sentence)]
        return list(dict.fromkeys(forms[0] for word, forms in found if not known.intersection(forms)))

    def is_about(self, sentence: str) -> bool:
        """Whether a sentence names anything that the model knows."""
        known = {word for kind, words in self.kinds.items() if kind != OTHERS for word in words}
        return any(known.intersection(_forms(word)) for word in words_of(sentence))

    def told(self) -> str:
        """What the model knows, in a line."""
        kinds = [f"{kind} ({', '.join(words)})" for kind, words in self.kinds.items() if kind != OTHERS and words]
        return ", ".join(kinds) or "a few words"


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def _forms(word: str) -> list[str]:
    """A word without 's, and what it may be the plural of.

    Example:
        >>> _forms("boxes"), _forms("star's")
        (['boxes', 'boxe', 'box'], ['star'])
    """
    bare = re.sub(r"['’]s?$", "", word)
    forms = [bare]
    if bare.endswith("s"):
        forms.append(bare[:-1])
        forms += [bare[:-2]] * bare.endswith("es") + [f"{bare[:-3]}y"] * bare.endswith("ies")
    return forms


class UnknownWords(NamedTuple):
    """Words of a sentence that a model never learnt, and a line about them; None where there are none."""

    words: list[str]
    warning: str | None

    @property
    def config(self) -> dict[str, list[str]]:
        """What run.json tells of them."""
        return {"unlearnt_words": self.words} if self.words else {}


def unknown_words(model: Any, sentence: str, name: str | None = None) -> UnknownWords:
    """What there is to tell of a sentence before a model answers; nothing where the model does not list its words.

    Args:
        model: a pointer or segmenter.
        sentence: what it is asked.
        name: of the model.
    """
    known: KnownWords | None = getattr(model, "known_words", None)
    words = [] if known is None else known.unknown(sentence)
    if not words:
        return UnknownWords([], None)
    *others, last = [f"“{word}”" for word in words]
    quoted = f"{', '.join(others)} or {last}" if others else last
    how = "goes by the other words alone" if known.is_about(sentence) else "is a guess"
    told = f"{name or 'the model'} never learnt {quoted}, so its answer {how}; it knows {known.told()}"
    return UnknownWords(words, told)


def warn(grounder: Any, sentence: str) -> UnknownWords:
    """As `unknown_words`, and shown on a line of its own, in a terminal, a notebook, a worker's log.

    Args:
        grounder: a `VideoGrounder`; each word is shown once for it.
        sentence: what it is asked.
    """
    unknown = unknown_words(grounder.pointer or grounder.segmenter, sentence, grounder.loaded.get("model"))
    if not grounder.told.issuperset(unknown.words):
        logging.getLogger(__name__).warning(unknown.warning)
        grounder.told.update(unknown.words)
    return unknown
