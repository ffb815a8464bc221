"""Answers of MolmoPoint, token by token: words, and places chosen in order; and what they mean in pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from videomolmo.errors import BadInput
from videomolmo.model.point_heads import CELLS, FORBIDDEN
from videomolmo.model.token_order import Ids, in_order, triples
from videomolmo.systems.molmopoint.config import MolmoPointConfig

THIRD = 0.33  # as published; cells' centres are .165, .495, .825
MAX_NEW_TOKENS = 2048
POINT = re.compile(r"<POINT_(\d+)> ?<POINT_(\d+)> ?<POINT_(\d+)> ?(\d+)")


class Written(NamedTuple):
    """An answer: ids with chosen places from `config.words` on (see `Ids`), and its places as triples.

    Triples are token, slot, cell; those of an unfinished point are left out.
    """

    ids: Int[Tensor, " tokens"]
    points: Int[Tensor, "points 3"]


def allowed(written: Sequence[int], ids: Ids, config: MolmoPointConfig) -> Bool[Tensor, " scores"]:
    """Which ids may come next: `in_order` by the rules of a configuration."""
    return in_order(written, ids, config.rules)


class Step(NamedTuple):
    """What one token led to; slots after a patch token alone, cells after a slot."""

    embed: Float[Tensor, " width"]
    state: Float[Tensor, " width"]
    words: Float[Tensor, " words"]
    patches: Float[Tensor, " tokens+1"] | None = None
    slots: Float[Tensor, " slots"] | None = None
    cells: Float[Tensor, " cells"] | None = None


class Writer:
    """One answer in the making: `scores` of what comes next, and `take` for what was chosen.

    Args:
        model: a `MolmoPointForConditionalGeneration`.
        prompt: ids of the question, without places.
        pixels, pooling: of its images; see `see` there.

    Raises:
        BadInput: several prompts, or what `see` and `embed` refuse.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Any,
        prompt: Int[Tensor, "1 tokens"],
        pixels: Float[Tensor, "1 crops patches values"] | None = None,
        pooling: Int[Tensor, "1 tokens slots"] | None = None,
    ) -> None:
        if prompt.ndim != 2 or len(prompt) != 1 or int(prompt.min()) < 0 or int(prompt.max()) >= model.config.words:
            raise BadInput(
                f"the prompt is {tuple(prompt.shape)}, expected one row of ids from 0 to {model.config.words - 1}; "
                "ask one by one"
            )
        self.model, self.config = model, model.config
        self.seen = None if pixels is None or pooling is None else model.see(pixels, pooling)
        tokens, slots = (0, 0) if self.seen is None else self.seen.valid.shape[1:]
        self.ids = Ids(model.config.words, tokens, slots)
        self.written: list[int] = []
        self.cache = DynamicCache(config=model.config.text_config)
        self.embeds = model.embed(prompt, self.seen)
        self.states = model.read(self.embeds, self.cache, attention_mask=model.mask(prompt))
        self.candidates = None if self.seen is None else model.candidates(prompt, self.states, tokens)
        last = self.states[0, -1]
        self.step = Step(self.embeds[0, -1], last, model.words(last))
        self._place = prompt.shape[1]
        self._patch = self._previous = -1

    @torch.no_grad()
    def take(self, number: int) -> Step:
        """Go on with this id.

        Raises:
            BadInput: an id that has no meaning here.
        """
        if not 0 <= number < self.ids.end:
            raise BadInput(f"id {number} has no meaning here, expected 0 to {self.ids.end - 1}")
        self.written.append(number)
        kind, config, heads = self.ids.part(number), self.config, self.model.model.point_predictor
        if kind == "patch":
            self._patch = number - self.ids.words
        elif kind == "slot":
            self._previous = self._patch
        device = self.states.device
        token = {"patch": config.patch_token_id, "closed": config.patch_token_id, "slot": config.subpatch_token_id,
                 "cell": config.location_token_id}.get(kind, number)  # fmt: skip
        embed = self.model.get_input_embeddings()(torch.tensor([[token]], device=device))
        if kind == "patch":
            embed = embed + self.seen.tokens[0, self._patch]
        elif kind == "slot":
            patch = self.seen.patches[0, self._patch, number - self.ids.closed - 1]
            chosen = self.model.model.build_vit_embedding(patch)[None, None]
            embed = chosen if config.habits == "released" else embed + chosen
        place = torch.tensor([[self._place]], device=device)
        state = self.model.read(embed, self.cache, position_ids=place)[0, -1]
        self._place += 1
        normed = heads.x_norm(state)[None]
        patches = slots = cells = None
        if self.seen is not None:
            previous = torch.tensor([self._previous], device=device)
            patches = heads.patch_logits(normed, self.candidates.rows(0), previous)[0]
        if kind == "patch":
            slots = heads.subpatch_logits(normed, self.seen.patches[:, self._patch])[0]
            if config.forbids_padding(is_writing=True):
                slots = slots.masked_fill(~self.seen.valid[0, self._patch], FORBIDDEN)
        if kind == "slot":
            cells = heads.location_logits(normed if config.habits == "ours" else state[None])[0]
        self.step = Step(embed[0, 0], state, self.model.words(state), patches, slots, cells)
        return self.step

    @property
    def allowed(self) -> Bool[Tensor, " scores"]:
        """Which ids may come next."""
        return allowed(self.written, self.ids, self.config).to(self.step.words.device)

    @property
    def scores(self) -> Float[Tensor, " scores"]:
        """Scores of all ids, before the rules forbid some.

        The score of the patch token stands at the best image token: of all, in the released habits, else of those that
        may come next.
        """
        ids, config, step = self.ids, self.config, self.step
        scores = step.words.new_full((ids.end,), FORBIDDEN, dtype=torch.float32)
        scores[: ids.words] = step.words
        own = [config.patch_token_id, config.subpatch_token_id, config.location_token_id]
        scores[own] = FORBIDDEN
        if step.patches is not None:
            able = self.allowed[ids.words : ids.closed + 1]
            best = step.patches.float()
            best = best if config.habits == "released" else best.masked_fill(~able, -torch.inf)
            scores[ids.words + int(best.argmax())] = step.words[config.patch_token_id].float()
        if step.slots is not None:
            scores[ids.closed + 1 : ids.cells] = step.slots.float()
        if step.cells is not None:
            scores[ids.cells :] = step.cells.float()
        return scores

    @property
    def best(self) -> int:
        """What comes next, greedily.

        Where all slots that may come next are padding, the released code takes the first of those; the training code,
        to which padding and slots against the order are the same, the first of all.
        """
        ids, scores, able = self.ids, self.scores, self.allowed
        if self.step.slots is not None and self.config.habits == "training":
            own = slice(ids.closed + 1, ids.cells)
            return own.start + int(scores[own].masked_fill(~able[own], FORBIDDEN).argmax())
        return int(scores.masked_fill(~able, -torch.inf).argmax())


def write(
    model: Any,
    input_ids: Int[Tensor, "1 tokens"],
    pixels: Float[Tensor, "1 crops patches values"] | None = None,
    pooling: Int[Tensor, "1 tokens slots"] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    eos_token_id: int | Sequence[int] | None = None,
) -> Written:
    """The answer to one question, greedily.

    Args:
        model: a `MolmoPointForConditionalGeneration`.
        input_ids, pixels, pooling: see `Writer`.
        max_new_tokens: at most, three for a point and its number's digits.
        eos_token_id: what ends it, itself included; None takes the model's.

    Raises:
        BadInput: see `Writer`.
    """
    ends = model.generation_config.eos_token_id if eos_token_id is None else eos_token_id
    ends = set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
    writer = Writer(model, input_ids, pixels, pooling)
    for number in range(max_new_tokens):
        best = writer.best
        if best in ends or number == max_new_tokens - 1:
            writer.written.append(best)
            break
        writer.take(best)
    return Written(torch.tensor(writer.written), triples(writer.written, writer.ids))


class Place(NamedTuple):
    """A point of an answer: whose, on which image or frame, and where in pixels."""

    object_id: int
    image: int
    x: float
    y: float


def places(
    text: str,
    ids: Ids,
    pooling: Int[Tensor, "tokens slots"],
    grids: Sequence[tuple[int, int, int]],
    sizes: Sequence[tuple[int, int]],
    window: tuple[int, int] | None = None,
) -> list[Place]:
    """Points of an answer; those whose slot is padding, or whose token is of a global crop, are left out.

    Args:
        text: see `as_text`; a point without its number is not read.
        ids: their meaning.
        pooling: patches of each image token.
        grids: for each image or frame the number of its first token of the fine grid, rows and columns of that.
        sizes: height and width (pixels) of each.
        window: rows and columns of patches pooled into a token; None is a square.

    Raises:
        BadInput: a window of another number of patches than the slots of a token.
    """
    side = round(ids.slots**0.5)
    high, wide = window or (side, side)
    if high * wide != ids.slots:
        raise BadInput(f"tokens of {high} x {wide} patches, expected {ids.slots} patches as pooled; give the window")
    found, maps = [], [_map(pooling, (high, wide), *grid).numpy() for grid in grids]
    for match in POINT.finditer(text):
        patch, slot, cell = (int(one) for one in match.groups()[:3])
        slot, cell = slot - ids.tokens - 1, cell - ids.tokens - 1 - ids.slots
        if not (0 <= patch < ids.tokens and 0 <= slot < ids.slots and 0 <= cell < CELLS**2):
            continue
        number = int(pooling[patch, slot])
        spots = [(image, *spot) for image, grid in enumerate(maps) for spot in np.argwhere(grid == number).tolist()]
        if number < 0 or len(spots) != 1:
            continue
        image, row, column = spots[0]
        (rows, columns), (height, width) = maps[image].shape, sizes[image]
        x = (column + (cell // CELLS + 0.5) * THIRD) / columns * width
        y = (row + (cell % CELLS + 0.5) * THIRD) / rows * height
        found.append(Place(int(match[4]), image, x, y))
    return found


def _map(
    pooling: Int[Tensor, "tokens slots"], window: tuple[int, int], first: int, rows: int, columns: int
) -> Int[Tensor, "rows columns"]:
    """Numbers of an image's patches where they lie in it, without the padding around."""
    grid = pooling[first : first + rows * columns].reshape(rows, columns, *window)
    grid = grid.permute(0, 2, 1, 3).reshape(rows * window[0], columns * window[1])
    return grid[(grid >= 0).any(dim=1)][:, (grid >= 0).any(dim=0)]
