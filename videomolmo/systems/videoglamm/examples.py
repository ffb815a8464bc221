"""Grounded answers of a data set as VideoGLaMM's training examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput
from videomolmo.systems.videoglamm.losses import UNKNOWN
from videomolmo.systems.videoglamm.processor import Example, VideoGLaMMProcessor, chosen, collate

VIEWS = ("images", "context_images", "sam_images", "masks")


@dataclass(frozen=True)
class Conversations:
    """A clip and what is asked about it, as it is learnt.

    Attributes:
        frames: that the words are about, RGB.
        masked: that masks are learnt on.
        masks: of each [SEG] of all answers on those; 1 on the object, 0 beside it, -1 unknown.
        exchanges: question, and answer with its marks, of each conversation.
        about: enough to find it again, ready for JSON.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    masked: UInt8[np.ndarray, "supervised height width 3"]
    masks: Float32[np.ndarray, "objects supervised height width"]
    exchanges: tuple[tuple[str, str], ...]
    about: dict[str, Any] = field(default_factory=dict)


def read_conversations(
    record: Record, expressions: Sequence[Expression], shown: int, supervised: int = 4
) -> Conversations:
    """Frames, questions, answers and masks of a record's expressions that have answers.

    The words are about frames evenly chosen from the clip, the masks are learnt on others, evenly chosen from those on
    which any named object is annotated; what is not annotated there counts nothing.

    Args:
        record, expressions: of a set with answers (`has_answers` of the registry).
        shown: frames that the model sees.
        supervised: most frames that masks are learnt on.

    Raises:
        BadInput: an expression without answer, or frames that cannot be read.

    Source: released code. Differs: there the BURST sets draw five frames that show every object.
    """
    answers = [one.answer for one in expressions]
    if None in answers:
        lacking = expressions[answers.index(None)]
        raise BadInput(f"{record}, expression {lacking.id}: has no answer; expected a set of grounded captions")
    names = tuple(dict.fromkeys(name for one in answers for name in one.objects))
    with record.frames() as video:
        frames = np.stack([video[at] for at in chosen(len(video), shown)])
        known = [at for at in range(len(video)) if any(record.mask_of(name, at) is not None for name in names)] or [0]
        places = [known[at] for at in np.linspace(0, len(known) - 1, min(supervised, len(known))).astype(int)]
        masked = np.stack([video[at] for at in places])
    spans = [span for one in answers for span in one.spans]
    masks = np.full((len(spans), len(places), *record.size()), UNKNOWN, np.float32)
    for row, span in enumerate(spans):
        for column, at in enumerate(places):
            found = [record.mask_of(name, at) for name in span.objects]
            if all(mask is not None for mask in found):
                masks[row, column] = np.logical_or.reduce(found)
    exchanges = tuple((one.text, answer.marked) for one, answer in zip(expressions, answers, strict=True))
    return Conversations(frames, masked, masks, exchanges)


def training_batch(processor: VideoGLaMMProcessor, drawn: Sequence[Conversations]) -> dict[str, Tensor]:
    """What the model gets of some clips, by one name for each tensor; `model_inputs` puts it together.

    Source: released code: objects that are missing up to `most_objects` are filled up with unknown ones, which cost
    nothing and count. Differs: those beyond are learnt as well.

    Args:
        processor: the model's.
        drawn: clips with conversations.
    """
    rows: list[Example] = []
    batch: dict[str, Tensor] = {}
    ends = [0]
    for number, one in enumerate(drawn):
        rows += [processor.tokens(*exchange, processor.config.frames) for exchange in one.exchanges]
        ends.append(len(rows))
        missing = max(0, processor.config.most_objects - len(one.masks))
        masks = functional.pad(torch.from_numpy(one.masks), (0, 0) * 3 + (0, missing), value=UNKNOWN)
        seen = processor.views(one.frames) | {"sam_images": processor.sam_images(one.masked), "masks": masks}
        batch |= {f"{name}.{number}": seen[name] for name in VIEWS}
    return collate(rows) | {"offset": torch.tensor(ends)} | batch


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model's `forward` from a `training_batch`: its tensors of each sample as lists."""
    count = len(batch["offset"]) - 1
    lists = {name: [batch[f"{name}.{number}"] for number in range(count)] for name in VIEWS}
    words = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    return words | lists | {"offset": batch["offset"].tolist()}
