"""Where Nano-GLaMM's language should look while it writes: at the object that its words are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

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


def look_loss(
    processor: VideoGLaMMProcessor, clips: Sequence[Seen], exchanges: Sequence[Exchange], labels: Tensor,
    attentions: Sequence[Tensor], first: int,
) -> Tensor:  # fmt: skip
    """How little the supervised heads look at the object that the next word is about.

    Args:
        processor: the model's.
        clips, exchanges: of each row.
        labels: of the batch after the frames entered.
        attentions: of each layer (batch, heads, tokens, tokens).
        first: where the visual tokens begin, in every row.
    """
    owners = visual_owners(processor.config, clips)
    losses = []
    for row, told in enumerate(exchanges):
        about = torch.tensor(subjects(processor, told.answer))
        places = (labels[row] >= 0).nonzero()[:, 0] - 1
        shown = owners[row][None] == about[:, None] + 1
        known = shown.any(dim=1) & (about != NOBODY)
        for layer in attentions[SUPERVISED[0]]:
            looks = layer[row, SUPERVISED[1]][:, places[known], first : first + owners.shape[1]]
            losses.append(-(looks * shown[known]).sum(-1).clamp(min=1e-5).log().flatten())
    each = torch.cat(losses)
    return each.sum() / max(len(each), 1)
