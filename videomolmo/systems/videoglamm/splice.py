"""Where the frames of a video enter its question: one run of placeholders gives way to the visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from videomolmo.errors import BadInput

PLACEHOLDER = -200  # id that stands for a frame
IGNORED = -100  # label that is not learnt


class Spliced(NamedTuple):
    """A batch of questions with their visual tokens; `segments` is True one place before each [SEG]."""

    embeds: Float[Tensor, "batch tokens width"]
    attention_mask: Bool[Tensor, "batch tokens"]
    labels: Int[Tensor, "batch tokens"]
    segments: Bool[Tensor, "batch tokens"]


def splice(
    rows: Sequence[Int[Tensor, " row_tokens"]],
    valid: Sequence[Bool[Tensor, " row_tokens"]],
    labels: Sequence[Int[Tensor, " row_tokens"]] | None,
    visual: Sequence[Float[Tensor, "visual_tokens width"] | None],
    embed: Callable[[Tensor], Tensor],
    segment: int,
    left: bool = False,
) -> Spliced:
    """A batch of rows, each with its visual tokens in place of its placeholders; short rows are filled up with zeros.

    Args:
        rows: ids of each conversation.
        valid: False on padding.
        labels: what is learnt of each; None for nothing.
        visual: tokens for each row; None for text alone.
        embed: the table of words.
        segment: id of [SEG].
        left: fill up on the left, as generation wants it.

    Raises:
        BadInput: placeholders in several runs, or without frames, or frames without a place.
    """
    labels = [torch.full_like(row, IGNORED) for row in rows] if labels is None else labels
    made = []
    for number, (ids, real, learnt, tokens) in enumerate(zip(rows, valid, labels, visual, strict=True)):
        first, last = _run(ids, number, tokens is not None)
        before_segment = functional.pad(ids[1:] == segment, (0, 1), value=False)
        count = 0 if tokens is None else len(tokens)
        words = embed(ids.clamp(min=0))
        made.append((
            words if tokens is None else torch.cat([words[:first], tokens.to(words), words[last:]]),
            _cut(real, first, last, count, True), _cut(learnt, first, last, count, IGNORED),
            _cut(before_segment, first, last, count, False),
        ))  # fmt: skip
    fills = (0, False, IGNORED, False)
    return Spliced(*(_padded(parts, fill, left) for parts, fill in zip(zip(*made, strict=True), fills, strict=True)))


def _run(ids: Tensor, number: int, has_frames: bool) -> tuple[int, int]:
    """Where a row's placeholders begin and end; both 0 where there are none."""
    places = (ids == PLACEHOLDER).nonzero()[:, 0].tolist()
    if bool(places) != has_frames:
        given = "frames but no placeholder" if has_frames else "placeholders but no frames"
        raise BadInput(f"row {number} of the batch has {given} ({PLACEHOLDER}); give both or neither")
    if not places:
        return 0, 0
    if places[-1] - places[0] + 1 != len(places):
        raise BadInput(f"row {number} of the batch has placeholders ({PLACEHOLDER}) in several runs, expected one")
    return places[0], places[-1] + 1


def _cut(row: Tensor, first: int, last: int, count: int, value: int | bool) -> Tensor:
    return torch.cat([row[:first], row.new_full((count,), value), row[last:]])


def _padded(rows: tuple[Tensor, ...], fill: int | bool, left: bool) -> Tensor:
    """Rows stacked, each filled up to the longest."""
    longest = max(len(row) for row in rows)
    sides = [(longest - len(row), 0) if left else (0, longest - len(row)) for row in rows]
    return torch.stack([
        functional.pad(row, (0, 0, *side) if row.ndim == 2 else side, value=fill)
        for row, side in zip(rows, sides, strict=True)
    ])  # fmt: skip
