"""Several questions about a clip behind one run of its visual tokens, none seeing another: a third of the arithmetic.

A row of a batch is: the words before the frames, the frames' tokens, then one question with its answer after another.
Each goes on from the frames' positions and sees them and itself alone, so that losses are those of separate rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videomolmo.lab.nano.caption_batches import Seen, ask, names_of
from videomolmo.synth.caption_scenes import Stories
from videomolmo.synth.captions import KINDS, Exchange, exchange
from videomolmo.systems.videoglamm import VideoGLaMMProcessor
from videomolmo.systems.videoglamm.splice import IGNORED, PLACEHOLDER

BEFORE, NOTHING = 0, -1  # owner of a token: what all questions see; padding


@dataclass(frozen=True)
class Packed:
    """A batch of packed rows.

    Attributes:
        embeds: what enters the language model.
        owners: which question of the row each token belongs to, from 1 on; see `BEFORE`, `NOTHING`.
        positions: of each token, as if its question were alone.
        labels: what is learnt at its own place, `IGNORED` elsewhere.
        segments: True one place before each [SEG].
        meant: classes of colour and shape of what each of them stands for, row after row.
        first: where visual tokens begin.
    """

    embeds: Float[Tensor, "clips tokens width"]
    owners: Int[Tensor, "clips tokens"]
    positions: Int[Tensor, "clips tokens"]
    labels: Int[Tensor, "clips tokens"]
    segments: Bool[Tensor, "clips tokens"]
    meant: Int[Tensor, "segments 2"]
    first: int

    def mask(self) -> Float[Tensor, "clips 1 tokens tokens"]:
        """What is added to attention: 0 where a token sees another, the lowest number where it does not."""
        owners = self.owners
        places = torch.arange(owners.shape[1])
        sees = (owners[:, None, :] == BEFORE) | (owners[:, None, :] == owners[:, :, None])
        sees &= places[None, :] <= places[:, None]
        return torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min)[:, None]


def ask_several(
    rng: np.random.Generator, said: Stories, count: int, always: Sequence[str] = ("caption",)
) -> list[Exchange]:
    """So many questions, of those the clip has answers to: each kind in `always`, other kinds, then any."""
    asked = [made for kind in always if (made := exchange(said, rng, kind))]
    for kind in rng.permutation([kind for kind in KINDS if kind not in always]):
        made = exchange(said, rng, str(kind)) if len(asked) < count else None
        asked += [made] if made else []
    return asked + [ask(rng, said, 0.0) for _ in range(count - len(asked))]


def pack(
    processor: VideoGLaMMProcessor, clips: Sequence[Seen], exchanges: Sequence[Sequence[Exchange]],
    visual: Sequence[Float[Tensor, "visual_tokens width"]], embed: Callable[[Tensor], Tensor],
) -> Packed:  # fmt: skip
    """A batch with a row for each clip, of all that is asked about it.

    Args:
        processor: the model's.
        clips, exchanges, visual: of each row the clip, its questions with answers, and its frames' tokens.
        embed: the table of words.
    """
    rows, meant = [], []
    for one, asked, tokens in zip(clips, exchanges, visual, strict=True):
        ids, labels, owners, positions = [], [], [], []
        for number, told in enumerate(asked, 1):
            example = processor.tokens(told.question, told.answer.marked)
            at = int((example["input_ids"] == PLACEHOLDER).nonzero()[0])
            if number == 1:
                first, words = at, example["input_ids"][:at]
            own = example["input_ids"][at + 1 :]
            ids.append(own)
            labels.append(example["labels"][at + 1 :])
            owners.append(torch.full_like(own, number))
            positions.append(torch.arange(len(own)) + at + len(tokens))
            meant += [names_of(one.said, span.objects[0]) for span in told.answer.spans]
        before, after = at + len(tokens), torch.cat(ids)
        rows.append((
            torch.cat([embed(words), tokens, embed(after)]),
            torch.cat([torch.full((before,), BEFORE), *owners]), torch.cat([torch.arange(before), *positions]),
            torch.cat([torch.full((before,), IGNORED), *labels]),
            torch.cat([torch.zeros(before, dtype=torch.bool), after.roll(-1) == processor.config.language.segment]),
        ))  # fmt: skip
    fills = (0.0, NOTHING, 0, IGNORED, False)
    batch = (pad_sequence(part, True, fill) for part, fill in zip(zip(*rows, strict=True), fills, strict=True))
    return Packed(*batch, torch.tensor(meant, dtype=torch.long).view(-1, 2), first)
