"""Grounded answers of a data set as VideoGLaMM's training examples."""

from __future__ import annotations

import numpy as np
import torch

from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput
from videomolmo.systems.videoglamm.losses import UNKNOWN
from videomolmo.systems.videoglamm.processor import Example, VideoGLaMMProcessor, chosen


def training_example(
    processor: VideoGLaMMProcessor, record: Record, expression: Expression, supervised: int = 4
) -> Example:
    """Frames, question, answer and masks of a record's expression that has an answer; see `collate`.

    The words are about frames evenly chosen from the clip, the masks are learnt on others, evenly chosen from those on
    which any named object is annotated; what is not annotated there counts nothing.

    Args:
        processor: the model's.
        record, expression: of a set with answers (`has_answers` of the registry).
        supervised: most frames that masks are learnt on.

    Raises:
        BadInput: an expression without answer, or frames that cannot be read.

    Source: released code. Differs: there the BURST sets draw five frames that show every object.
    """
    answer = expression.answer
    if answer is None:
        raise BadInput(f"{record}, expression {expression.id}: has no answer; expected a set of grounded captions")
    with record.frames() as video:
        frames = np.stack([video[at] for at in chosen(len(video), processor.config.frames)])
        known = [at for at in range(len(video)) if any(record.mask_of(name, at) is not None for name in answer.objects)]
        known = known or [0]
        places = [known[at] for at in np.linspace(0, len(known) - 1, min(supervised, len(known))).astype(int)]
        shown = np.stack([video[at] for at in places])
    masks = np.full((len(answer.spans), len(places), *record.size()), UNKNOWN, np.float32)
    for row, span in enumerate(answer.spans):
        for column, at in enumerate(places):
            found = [record.mask_of(name, at) for name in span.objects]
            if all(mask is not None for mask in found):
                masks[row, column] = np.logical_or.reduce(found)
    views = processor.views(frames) | processor.tokens(expression.text, answer.marked, processor.config.frames)
    return views | {"sam_images": processor.sam_images(shown), "masks": torch.from_numpy(masks)}
