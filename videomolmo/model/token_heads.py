"""Grounding tokens of our own model: what a point may choose from, how a choice is read again, scores and losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.connector import CURRENT
from videomolmo.model.decoding import answer_loss
from videomolmo.model.point_heads import (
    CLOSED,
    FORBIDDEN,
    IMPOSSIBLE,
    Candidates,
    PointLosses,
    PointPredictor,
    cross_entropy,
    ordered,
)
from videomolmo.model.token_order import Ids, Rules

RULES = Rules(is_whole=True)


class Offered(NamedTuple):
    """The image tokens of each row in the order of its text, filled up with some that cannot be chosen.

    Args:
        tokens: what the language model reads.
        patches: what each was pooled from, of the current frame, after the temporal module.
        places: of each in the row.
        selectable: not those of an overview beside finer crops, nor padding.
        candidates: None before the language model has read them.
    """

    tokens: Float[Tensor, "batch tokens width"]
    patches: Float[Tensor, "batch tokens slots features"]
    places: Int[Tensor, "batch tokens"]
    selectable: Bool[Tensor, "batch tokens"]
    candidates: Candidates | None = None


class PointLogits(NamedTuple):
    """Scores of all points of a batch in its order, lists' ends among those of patches."""

    patch: Float[Tensor, "ends_and_points tokens+1"]
    subpatch: Float[Tensor, "points slots"]
    location: Float[Tensor, "points cells"]


class Written(NamedTuple):
    """The last id of each row and the point it belongs to; -1 where there is none."""

    last: Int[Tensor, " batch"]
    patch: Int[Tensor, " batch"]
    slot: Int[Tensor, " batch"]


def ids_of(config: VideoMolmoConfig) -> Ids:
    """Meaning of ids: the same for frames of all sizes.

    Differs: published ids begin anew with every input.
    """
    return Ids(config.language.all_words, config.image.most_tokens, CURRENT)


class TokenHeads(nn.Module):
    """What a pointing model with `points="tokens"` has beside one that writes coordinates.

    Source: MolmoPoint (arXiv 2603.28069); its training code.
    Differs: scores of image tokens are divided by the root of their width, not of their number, so that padding
    changes nothing; the word for a point has a score of its own instead of a row in the table, and the two tokens
    after it, which cannot be others, have none; an answer has a list, its label and no numbers.
    """

    def __init__(self, config: VideoMolmoConfig) -> None:
        super().__init__()
        hidden, features = config.language.width, config.vision.feature_dim
        self.ids, self.placeholders = ids_of(config), config.language.point_ids
        self.vocabulary = config.language.vocab_size
        self.predictor = PointPredictor(
            hidden, config.point_width, features, eps=config.language.rms_eps, is_published=False
        )
        self.patch_embedding = nn.Linear(features, hidden)
        self.word = nn.Parameter(torch.zeros(hidden))
        for part in (self.patch_embedding, *self.predictor.children()):
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    @staticmethod
    def offered(
        image_tokens: Float[Tensor, "batch crops windows width"],
        patches: Float[Tensor, "batch crops windows window features"],
        places: Int[Tensor, "batch crops windows"],
    ) -> Offered:
        """What can be chosen from; `places` are the tokens of a row that windows feed, negative for none."""
        flat, windows = places.flatten(1), places.shape[2]
        order = torch.where(flat >= 0, flat, flat.max() + 1).argsort(dim=1, stable=True)
        rows = torch.arange(len(flat), device=flat.device)[:, None]
        at = flat[rows, order]
        is_overview = (order < windows) & (flat[:, windows:] >= 0).any(dim=1, keepdim=True)
        seen = patches[..., :CURRENT, :].flatten(1, 2)
        tokens = image_tokens.flatten(1, 2)[rows, order]
        return Offered(tokens, seen[rows, order], at.clamp(min=0), (at >= 0) & ~is_overview)

    def with_candidates(self, offered: Offered, states: Float[Tensor, "batch length width"]) -> Offered:
        """The same with what points are compared with, from the states before the last norm."""
        rows = torch.arange(len(states), device=states.device)[:, None]
        own = self.predictor.x_norm(states[rows, offered.places])
        return offered._replace(candidates=self.predictor.candidates(own, offered.selectable))

    def fed_back(
        self, ids: Int[Tensor, "batch length"], offered: Offered, points: Int[Tensor, "points 3"]
    ) -> Float[Tensor, "batch length width"]:
        """What chosen places add to the embeddings of their tokens in training."""
        added = offered.tokens.new_zeros(*ids.shape, offered.tokens.shape[-1])
        row, at, chosen = self.chosen(ids, points, 0)
        is_open = chosen[:, 0] != CLOSED
        row, at, chosen = row[is_open], at[is_open], chosen[is_open]
        added = added.index_put((row, at), offered.tokens[row, chosen[:, 0]])
        row, at, chosen = self.chosen(ids, points, 1)
        seen = self.patch_embedding(offered.patches[row, chosen[:, 0], chosen[:, 1]])
        return added.index_put((row, at), seen.to(added))

    def chosen(
        self, ids: Int[Tensor, "batch length"], points: Int[Tensor, "points 3"], part: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, places and points of one of the three tokens of points, in the order of the batch.

        Raises:
            ValueError: there are more or fewer of them than points.
        """
        row, at = (ids == self.placeholders[part]).nonzero(as_tuple=True)
        own = points[points[:, part] >= 0]
        if len(own) != len(row):
            raise ValueError(f"{len(row)} tokens of part {part} of a point and {len(own)} points, expected as many")
        return row, at, own

    def written(self, ids: Int[Tensor, "batch length"]) -> Written:
        """What the last id of each row is, and the last image token and patch that were chosen in it."""
        meaning, at = self.ids, torch.arange(ids.shape[1], device=ids.device)

        def last(first: int, end: int) -> Tensor:
            found = torch.where((ids >= first) & (ids < end), at, -1).amax(dim=1)
            number = ids.gather(1, found.clamp(min=0)[:, None])[:, 0] - first
            return torch.where(found < 0, -1, number)

        return Written(ids[:, -1], last(meaning.words, meaning.closed), last(meaning.closed + 1, meaning.cells))

    def read_again(
        self, written: Written, offered: Offered | None
    ) -> tuple[Int[Tensor, "batch 1"], Float[Tensor, "batch 1 width"] | float]:
        """The last id as a word of the table, and what a chosen place adds to its embedding."""
        meaning, last, (word, sub, cell) = self.ids, written.last, self.placeholders
        is_patch, is_slot = self._is_patch(last), self._is_slot(last)
        ids = torch.where(is_patch | (last == meaning.closed), word, last)
        ids = torch.where(is_slot, sub, torch.where(last >= meaning.cells, cell, ids))
        if offered is None:
            return ids[:, None], 0.0
        rows, patch = torch.arange(len(last), device=last.device), written.patch.clamp(min=0)
        of_slot = self.patch_embedding(offered.patches[rows, patch, written.slot.clamp(min=0)])
        added = torch.where(is_patch[:, None], offered.tokens[rows, patch], 0 * of_slot)
        return ids[:, None], torch.where(is_slot[:, None], of_slot, added)[:, None]

    def _is_patch(self, last: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return (last >= self.ids.words) & (last < self.ids.closed)

    def _is_slot(self, last: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return (last > self.ids.closed) & (last < self.ids.cells)

    def words(
        self, logits: Float[Tensor, "batch length vocabulary"], normed: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch length words"]:
        """Scores of all words of the table, of which those for images and for two of a point's tokens never win."""
        logits = functional.pad(logits, (0, self.ids.words - logits.shape[-1]), value=FORBIDDEN)
        at = torch.full_like(logits[..., :1], self.placeholders[0], dtype=torch.long)
        return logits.scatter(-1, at, (normed @ self.word)[..., None].to(logits))

    def scores(
        self, states: Float[Tensor, "batch width"], written: Written, offered: Offered
    ) -> Float[Tensor, "batch places"]:
        """Scores of all places by their ids, from the last state of each row before the last norm."""
        normed, rows = self.predictor.x_norm(states), torch.arange(len(states), device=states.device)
        patches = self.predictor.patch_logits(normed[:, None], offered.candidates, written.patch[:, None])[:, 0]
        missing = self.ids.tokens - offered.tokens.shape[1]
        patches = torch.cat([functional.pad(patches[:, :-1], (0, missing), value=IMPOSSIBLE), patches[:, -1:]], dim=1)
        slots = self.predictor.subpatch_logits(normed, offered.patches[rows, written.patch.clamp(min=0)])
        return torch.cat([patches, slots, self.predictor.location_logits(normed)], dim=1)

    def loss(
        self,
        logits: Float[Tensor, "batch length words"],
        ids: Int[Tensor, "batch length"],
        states: Float[Tensor, "batch length width"],
        offered: Offered | None,
        points: Int[Tensor, "points 3"] | None,
        targets: Int[Tensor, "batch length"],
        loss_masks: Float[Tensor, "batch length"] | None,
    ) -> tuple[Float[Tensor, ""], PointLosses | None, PointLogits | None]:
        """The mean over the answer's tokens of the losses of words and of places; and what it is made of.

        Args:
            logits: from `words`.
            ids, states, offered, points: see `losses`; without places the losses are those of words.
            targets, loss_masks: see `answer_loss`.
        """
        images = (targets >= self.vocabulary) & (targets < min(self.placeholders))
        own = (targets >= 0) & ~images
        weights = own.float() if loss_masks is None else loss_masks.float().clamp(min=0) * own
        of_words = weights.masked_fill(torch.isin(targets, targets.new_tensor(self.placeholders[1:])), 0)
        total = answer_loss(logits, targets, of_words) * of_words.sum().clamp(min=1)
        parts, scores = None, None
        if points is not None and offered is not None:
            parts, scores = self.losses(ids, states, offered, points, weights)
            total = total + sum(parts)
        return total / weights.sum().clamp(min=1), parts, scores

    def completed(
        self,
        result: Any,
        normed: Float[Tensor, "batch kept width"],
        states: list[Tensor],
        ids: Int[Tensor, "batch length"],
        given: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    ) -> Any:
        """An output of the model with scores of all words and, where an answer is written, of all places; and losses.

        Args:
            result: with the scores of words that the language model has, and with what can be chosen from.
            normed, states: of the language model, after its last norm and before it.
            ids: that it read.
            given: points, the answer so far, targets and their weights, see `VideoMolmoForConditionalGeneration`.
        """
        points, written, targets, loss_masks = given
        result.logits, offered = self.words(result.logits, normed), result.offered
        if offered is not None and offered.candidates is None:
            result.offered = offered = self.with_candidates(offered, states[0])
        if written is not None and offered is not None:
            places = self.scores(states[0][:, -1], self.written(written), offered)
            result.logits = torch.cat([result.logits[:, -1:], places[:, None].to(result.logits)], dim=-1)
        if targets is not None:
            result.loss, result.point_losses, result.point_logits = self.loss(
                result.logits, ids, states[0], offered, points, targets, loss_masks
            )
        return result

    def losses(
        self,
        ids: Int[Tensor, "batch length"],
        states: Float[Tensor, "batch length width"],
        offered: Offered,
        points: Int[Tensor, "points 3"],
        weights: Float[Tensor, "batch length"],
    ) -> tuple[PointLosses, PointLogits]:
        """Sums of the losses of points, each weighing as the token that predicts it, and the scores behind them.

        Differs: published sums are not weighed.
        """
        normed, predictor = self.predictor.x_norm(states), self.predictor
        row, at, chosen = self.chosen(ids, points, 0)
        before = torch.cat([chosen.new_full((1,), CLOSED), chosen[:, 0]])[: len(chosen)]
        previous = before.masked_fill(before == CLOSED, -1)[:, None]
        patch = predictor.patch_logits(normed[row, at - 1][:, None], offered.candidates.rows(row), previous)[:, 0]
        patch = ordered(patch, chosen[:, 0])
        found = [cross_entropy(patch, chosen[:, 0].clamp(max=patch.shape[1] - 1), weights[row, at - 1])]
        row, at, chosen = self.chosen(ids, points, 1)
        slot = predictor.subpatch_logits(normed[row, at - 1], offered.patches[row, chosen[:, 0]])
        found.append(cross_entropy(slot, chosen[:, 1], weights[row, at - 1]))
        row, at, chosen = self.chosen(ids, points, 2)
        cell = predictor.location_logits(normed[row, at - 1])
        found.append(cross_entropy(cell, chosen[:, 2], weights[row, at - 1]))
        return PointLosses(*found), PointLogits(patch, slot, cell)


@contextmanager
def before_norm(language: nn.Module, is_wanted: bool = True) -> Iterator[list[Tensor]]:
    """States after the last layer of a language model's next pass, before its last norm."""
    states: list[Tensor] = []
    if not is_wanted:
        yield states
        return
    hook = language.norm.register_forward_pre_hook(lambda _norm, given: states.append(given[0]))
    try:
        yield states
    finally:
        hook.remove()
