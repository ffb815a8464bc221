"""Where Nano-GLaMM's language should look while it writes: at the object that its words are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from videomolmo.lab.nano.caption_batches import Seen, patch_owners
from videomolmo.synth.captions import Exchange, GroundedText
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.processor import END

SUPERVISED = (slice(1, None), slice(0, 2))  # layers and heads
NOBODY = -1


def subjects(processor: VideoGLaMMProcessor, answer: GroundedText) -> list[int]:
    """For each token of an answer and its end the object that it is about: from a phrase on up to the next one.

    `NOBODY` before the first phrase.
    """
    marked, begins = answer.marked, [0]
    for span, words in zip(answer.spans, answer.phrases, strict=True):
        begins.append(marked.index(f"<p> {words} </p> [SEG]", begins[-1] + (span is not answer.spans[0])))
    owners = [NOBODY, *(span.objects[0] for span in answer.spans)]
    places = processor.tokenizer(marked + END, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [owners[int(np.searchsorted(begins[1:], first, side="right"))] for first, _ in places]


def visual_owners(config: VideoGLaMMConfig, clips: Sequence[Seen]) -> Int[Tensor, "clips tokens"]:
    """The object that each visual token shows, 0 for background: those of CLIP, then those of InternVideo2."""
    return torch.cat([patch_owners(clips, side).flatten(1) for side in (config.image.pool, config.video.pool)], dim=1)


def should_look(
    processor: VideoGLaMMProcessor, clips: Sequence[Seen], exchanges: Sequence[Sequence[Exchange]],
    labels: Int[Tensor, "clips tokens"],
) -> Bool[Tensor, "clips tokens visual_tokens"]:  # fmt: skip
    """Which visual tokens show the object that the next word is about; none where that is nobody.

    Args:
        processor: the model's.
        clips, exchanges: of each row the clip, and what is asked about it in the order of its labels.
        labels: of the batch after the frames entered.
    """
    owners = visual_owners(processor.config, clips)
    found = torch.zeros(*labels.shape, owners.shape[1], dtype=torch.bool)
    for row, asked in enumerate(exchanges):
        about = torch.tensor([thing for told in asked for thing in subjects(processor, told.answer)])
        places = (labels[row] >= 0).nonzero()[:, 0] - 1
        found[row, places] = (owners[row][None] == about[:, None] + 1) & (about != NOBODY)[:, None]
    return found


def look_loss(should: Bool[Tensor, "clips tokens visual_tokens"], attentions: Sequence[Tensor], first: int) -> Tensor:
    """How little the supervised heads look where they should.

    Args:
        should: see `should_look`.
        attentions: of each layer (clips, heads, tokens, tokens).
        first: where the visual tokens begin, in every row.
    """
    row, place = should.any(-1).nonzero(as_tuple=True)
    if not len(row):
        return torch.zeros(())
    wanted = functional.pad(should, (first, attentions[0].shape[-1] - first - should.shape[-1]))[row, place]
    looks = [(layer[row, SUPERVISED[1], place] * wanted[:, None]).sum(-1) for layer in attentions[SUPERVISED[0]]]
    return -torch.stack(looks).clamp(min=1e-5).log().mean()
