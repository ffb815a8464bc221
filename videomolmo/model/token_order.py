"""Answers with chosen places in them: ids of places, the order that points are listed in, and such answers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from videomolmo.model.point_heads import CELLS


class Ids(NamedTuple):
    """Ids of chosen places, which depend on the input: its image tokens, and patches pooled into each.

    First come words, then image tokens, no-more-points, slots and cells.
    """

    words: int
    tokens: int
    slots: int

    @property
    def closed(self) -> int:
        """No more points."""
        return self.words + self.tokens

    @property
    def cells(self) -> int:
        """The first cell."""
        return self.closed + 1 + self.slots

    @property
    def end(self) -> int:
        """One past the last."""
        return self.cells + CELLS**2

    def part(self, number: int) -> str:
        """What an id is: "word", "patch", "closed", "slot" or "cell"."""
        if number < self.words:
            return "word"
        if number <= self.closed:
            return "patch" if number < self.closed else "closed"
        return "slot" if number < self.cells else "cell"


class Rules(NamedTuple):
    """Which rules of order hold.

    Args:
        patches: no image token before that of the last point.
        slots: of the same image token as before no earlier patches.
        repeats: nor the same patch again, nor that image token where its last patch was chosen.
        is_whole: a list that has begun goes on until no-more-points, without words in it. Ours.
        is_released: as the released code of MolmoPoint has it, whose look at the last finished point begins two
            tokens back, and where no-more-points may come first.
    """

    patches: bool = True
    slots: bool = True
    repeats: bool = True
    is_whole: bool = False
    is_released: bool = False


def in_order(written: Sequence[int], ids: Ids, rules: Rules) -> Bool[Tensor, " scores"]:
    """Which ids may come next, by the order that points are listed in: frames, rows, columns, never one twice.

    Source: published code, whose look at the last finished point begins two tokens back.

    Args:
        written: ids of the answer so far.
        ids: their meaning.
        rules: which of them hold.
    """
    able = torch.ones(ids.end, dtype=torch.bool)
    if ids.closed in written:
        able[ids.words :] = False
        return able
    kind = ids.part(written[-1]) if written else "word"
    past = [one for one in (written[:-2] if rules.is_released else written) if one >= ids.words]
    if kind == "patch":
        return _slots(able, written[-1], past, ids, rules)
    if kind == "slot":
        able[: ids.cells] = False
        return able
    able[ids.closed + 1 :] = False
    patch = next((one for one in reversed(past) if ids.part(one) == "patch"), None)
    slot = next((one for one in reversed(past) if ids.part(one) == "slot"), None)
    if patch is not None and rules.is_whole:
        able[: ids.words] = False
    if patch is None:
        able[ids.closed] = rules.is_released
    else:
        full = rules.repeats and slot == ids.cells - 1
        if rules.patches or (full and not rules.is_released):
            able[ids.words : patch + full] = False
        elif full:
            able[patch] = False
    return able


def _slots(able: Tensor, patch: int, past: list[int], ids: Ids, rules: Rules) -> Tensor:
    """Slots that may follow a patch token; of the token chosen before as well, none before its slot, nor that one."""
    able[: ids.closed + 1] = False
    able[ids.cells :] = False
    past = past if rules.is_released else past[:-1]
    before = next((one for one in reversed(past) if ids.part(one) == "patch"), None)
    slot = next((one for one in reversed(past) if ids.part(one) == "slot"), None)
    if before == patch and slot is not None and (slot < ids.cells - 1 or not rules.repeats):
        first = slot + 1 if rules.repeats else slot if rules.slots else 0
        able[ids.closed + 1 : first] = False
    return able


def triples(written: Sequence[int], ids: Ids) -> Int[Tensor, "points 3"]:
    """Token, slot, cell of every finished point of an answer, in its order."""
    starts = [at for at, one in enumerate(written) if ids.part(one) == "cell"]
    points = [[written[at - 2] - ids.words, written[at - 1] - ids.closed - 1, written[at] - ids.cells] for at in starts]
    return torch.tensor(points, dtype=torch.long).reshape(-1, 3)


def as_text(written: Sequence[int], ids: Ids, tokenizer: Any) -> str:
    """An answer as text, in which `<POINT_n>` stands for a chosen place."""
    text, words = "", []
    for one in [*written, None]:
        if one is not None and one < ids.words:
            words.append(one)
            continue
        text += tokenizer.decode(words) + ("" if one is None else f"<POINT_{one - ids.words}>")
        words = []
    return text


class PointOrder(LogitsProcessor):
    """Scores of all ids, of which those that may not come next can never win.

    A point is written where its word wins over all others; it is then the image token that scores best of those that
    may come next, also where words are drawn at random.

    Source: MolmoPoint, training code: order comes before the choice.

    Args:
        ids: meaning of ids.
        word: the one whose score says that a point, or the end of a list of points, comes next.
        rules: of order.
    """

    def __init__(self, ids: Ids, word: int, rules: Rules) -> None:
        self.ids, self.word, self.rules = ids, word, rules

    def __call__(
        self, input_ids: Int[Tensor, "batch tokens"], scores: Float[Tensor, "batch scores"]
    ) -> Float[Tensor, "batch scores"]:
        """Scores of the next id of each row, prompts and what was written after them given."""
        ids, chosen = self.ids, slice(self.ids.words, self.ids.closed + 1)
        if scores.shape[1] == ids.words:  # without an image
            return scores.index_fill(1, torch.tensor([self.word], device=scores.device), -torch.inf)
        able = torch.stack([in_order(row, ids, self.rules) for row in input_ids.tolist()]).to(scores.device)
        is_point = able[:, chosen].any(dim=1)
        places = scores[:, chosen].masked_fill(~able[:, chosen], -torch.inf)
        best = torch.where(is_point, places.argmax(dim=1) + ids.words, self.word)
        word = scores[:, self.word].masked_fill(~is_point, -torch.inf)
        able[:, chosen] = False
        able[:, self.word] = False
        scores = scores.masked_fill(~able, -torch.inf)
        return scores.scatter(1, best[:, None], word[:, None])
