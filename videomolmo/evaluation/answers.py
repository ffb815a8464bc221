"""One grounded answer against the true one: names, words, masks; how alike phrases are; what a judge says.

Source: VideoGLaMM's evaluation of grounded conversations; CLAIR (Chan et al. 2023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm
from typing_extensions import TypedDict

from videomolmo.annotation.words import Endpoint, Request, WordMaker
from videomolmo.errors import BadInput
from videomolmo.io.files import write_json
from videomolmo.io.untrusted import read_json
from videomolmo.metrics.captions import read_verdict, tokens
from videomolmo.metrics.conversations import volume_iou
from videomolmo.weights import hub

ARTICLES = frozenset(("a", "an", "the"))
JUDGED, VERDICT_TOKENS = 3, 100  # times for one pair; tokens of an answer
JUDGE = (
    "Two people have described a video each.\nFirst description:\n- {found}\nSecond description:\n- {true}\n"
    "How sure are you, on a scale from 0 to 100, that both have seen the same video? Answer with JSON alone: "
    '{{"score": a number from 0 to 100, "reason": "one sentence"}}.'
)  # our words for what CLAIR asks


class Grounded(NamedTuple):
    """An answer as it is scored: plain words, the words of each phrase, and a mask for each.

    This is what `caption_counts` and `answer_scores` compare; masks cover the same frames on both sides.
    """

    text: str
    phrases: Sequence[str]
    masks: Bool[np.ndarray, "phrases frames height width"]


def plain_name(phrase: str) -> str:
    """A phrase in lower case, without its article."""
    first, _, rest = phrase.lower().partition(" ")
    return rest if first in ARTICLES and rest else phrase.lower()


def caption_counts(true: Grounded, found: Grounded) -> dict[str, float]:
    """How many objects a caption names, by name, for clips whose objects have one name each.

    Returns:
        `named`, `right` (of those in the clip), `true` (objects of the clip), `grounded` (right ones whose mask has an
        IoU from 0.5); each name counts once, with its first mask.
    """
    first, wanted = ({}, {})
    for side, answer in ((first, found), (wanted, true)):
        for phrase, mask in zip(answer.phrases, answer.masks, strict=True):
            side.setdefault(plain_name(phrase), mask)
    right = first.keys() & wanted.keys()
    grounded = sum(float(volume_iou(wanted[name][None], first[name][None])[0, 0]) >= 0.5 for name in right)
    return {"named": len(first), "right": len(right), "true": len(wanted), "grounded": grounded}


def answer_scores(true: Grounded, found: Grounded) -> dict[str, float]:
    """Whether an answer is right: `exact` words, the same `names`, and the `IoU` of all that is meant, if anything."""
    scores = {
        "exact": float(true.text == found.text),
        "names": float(set(map(plain_name, true.phrases)) == set(map(plain_name, found.phrases))),
    }
    if len(true.masks):
        union = true.masks.any(axis=0)
        masks = found.masks.any(axis=0) if len(found.masks) else np.zeros_like(union)
        scores["IoU"] = float(volume_iou(union[None], masks[None])[0, 0])
    return scores


class WordSimilarity:
    """How alike two phrases are by the words they share (Dice), without articles: no model is needed."""

    name = "words"

    def __call__(self, true: Sequence[str], found: Sequence[str]) -> Float[np.ndarray, "true found"]:
        sides = [[set(tokens(phrase)) - ARTICLES for phrase in phrases] for phrases in (true, found)]
        values = [[2 * len(a & b) / max(len(a) + len(b), 1) for b in sides[1]] for a in sides[0]]
        return np.array(values, dtype=np.float64).reshape(len(true), len(found))


class EncoderSimilarity:
    """Cosine of the mean of an encoder's last hidden states, as the reference has it with bert-base-uncased.

    Raises:
        BadInput: no such model.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.name, folder = name, hub.pointing_folder(name)
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            self._model = AutoModel.from_pretrained(folder, use_safetensors=True, **options).eval()
        except Exception as error:  # transformers raises many kinds; all mean that this is no such model
            line = str(error).strip().partition("\n")[0][:200]
            raise BadInput(f"similarity {name!r}: no encoder that transformers can load ({line})") from error

    def __call__(self, true: Sequence[str], found: Sequence[str]) -> Float[np.ndarray, "true found"]:
        if not len(true) or not len(found):
            return np.zeros((len(true), len(found)))
        one, other = (np.stack([self._vector(phrase) for phrase in phrases]) for phrases in (true, found))
        return one @ other.T

    def _vector(self, phrase: str) -> np.ndarray:
        import torch

        with torch.inference_mode():
            ids = self._tokenizer(phrase, return_tensors="pt", truncation=True, max_length=512)
            mean = self._model(**ids).last_hidden_state[0].mean(dim=0).double().numpy()
        return mean / np.linalg.norm(mean)


class KeptVerdict(TypedDict):
    """A judge's kept verdict on one pair of captions."""

    judge: str
    score: float
    reason: str | None
    calls: int


def judged(
    pairs: Sequence[tuple[str, str]], maker: WordMaker, folder: Path, confirm: Callable[[str], bool]
) -> list[float]:
    """CLAIR of pairs (true caption, caption), from 0 to 1; kept in `folder` by judge and words, asked only once.

    Differs: our own words, greedy; a score outside 0 to 100 is kept as it is, as in the reference.

    Raises:
        BadInput: `confirm` does not allow to send what it is told, or the judge cannot be asked.
    """
    requests = [Request(JUDGE.format(found=found, true=true), max_tokens=VERDICT_TOKENS) for true, found in pairs]
    places = [folder / f"{_key(maker.name, one.text)}.json" for one in requests]
    todo = [one for one, place in zip(requests, places, strict=True) if _read_verdict(place) is None]
    if isinstance(maker, Endpoint) and todo:
        size = sum(len(maker.body(one)) for one in todo) / 1e6
        plan = (
            f"{len(todo)} pairs of captions (at most {len(todo) * JUDGED} requests), about {size:.2g} MB of text, to "
        )
        plan += f"{maker.url} as {maker.model}"
        if not confirm(plan):
            raise BadInput(f"nothing was sent: {plan}; say yes, or give --yes")
    scores = []
    for request, place in zip(tqdm(requests, desc="judge", unit="caption"), places, strict=True):
        kept = _read_verdict(place)
        if kept is None:
            kept = verdict_of(maker, request)
            write_json(place, kept)
        scores.append(kept["score"])
    return scores


def verdict_of(maker: WordMaker, request: Request) -> KeptVerdict:
    """A judge's verdict, asked up to three times until it can be read; else 0."""
    for calls in range(1, JUDGED + 1):
        found = read_verdict(maker.write(request))
        if found is not None:
            return {"judge": maker.name, "score": found.score, "reason": found.reason, "calls": calls}
    return {"judge": maker.name, "score": 0.0, "reason": None, "calls": JUDGED}


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _read_verdict(path: Path) -> KeptVerdict | None:
    try:
        return read_json(path, KeptVerdict)
    except (OSError, BadInput):
        return None
