"""What notebook 10 takes VideoGLaMM apart with: its words in colour, its prompts as vectors, masks of any vector.

Seen in: notebooks/10_grounded_captions.ipynb
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from videomolmo.evaluation.answers import plain_name
from videomolmo.io.drawing import luminance, palette
from videomolmo.metrics.conversations import volume_iou
from videomolmo.systems.videoglamm import collate
from videomolmo.systems.videoglamm.masks import decode_all, to_size
from videomolmo.systems.videoglamm.segmenter import Words, read_words

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder
    from videomolmo.protocols import Phrase
    from videomolmo.results import Caption, CaptionPhrase
    from videomolmo.synth.clips import Clip


def in_colour(text: str, phrases: Iterable[Phrase | CaptionPhrase]) -> str:
    """HTML of a text, each phrase on the colour that its object's mask has and followed by the object's number.

    Example:
        >>> in_colour("A star moves.", [])
        '<p>A star moves.</p>'
    """
    ordered = sorted(phrases, key=lambda one: one.start)
    colours, parts, at = palette(1 + max((one.object for one in ordered), default=0)), [], 0
    for one in ordered:
        colour = tuple(int(value) for value in colours[one.object])
        ink = "#000" if luminance(colour) > 0.2 else "#fff"
        style = f"background:rgb{colour};color:{ink};padding:0 .25em;border-radius:.25em"
        words = escape(text[one.start : one.stop])
        parts += [escape(text[at : one.start]), f'<mark style="{style}">{words}<sub>{one.object}</sub></mark>']
        at = one.stop
    return f"<p>{''.join(parts)}{escape(text[at:])}</p>"


@torch.inference_mode()
def said(
    grounder: VideoGrounder, clips: Sequence[UInt8[np.ndarray, "frames height width 3"]], question: str
) -> list[tuple[Words, Float[Tensor, "objects width"]]]:
    """Greedy answers to one question about each clip, and the vector behind every [SEG] in them.

    Args:
        grounder: with a VideoGLaMM.
        clips: RGB frames.
        question: the same for all.
    """
    segmenter = grounder.segmenter
    batch = collate([segmenter.processor(frames, question) for frames in clips])
    written = segmenter.model.write(**batch)
    texts = segmenter.processor.batch_decode(written.ids[:, batch["input_ids"].shape[1] :])
    return [(read_words(text), vectors) for text, vectors in zip(texts, written.segments, strict=True)]


@torch.inference_mode()
def prompted(
    grounder: VideoGrounder, frames: UInt8[np.ndarray, "frames height width 3"], vectors: Float[Tensor, "objects width"]
) -> Bool[np.ndarray, "frames objects height width"]:
    """What SAM 2 masks on frames when it is prompted by vectors, whatever clip or sentence these come from."""
    segmenter = grounder.segmenter
    low = decode_all(segmenter.model.sam2, segmenter.processor.sam_images(frames), vectors)
    return (to_size(low, frames.shape[1:3]) > 0).numpy().swapaxes(0, 1)


def named(words: Words | Caption) -> list[str]:
    """Each phrase in small letters and without its article.

    Example:
        >>> named(read_words("<p> A red star </p> [SEG] moves left."))
        ['red star']
    """
    return [plain_name(words.text[one.start : one.stop]) for one in words.phrases]


def phrase_iou(clip: Clip, names: Sequence[str], masks: Bool[np.ndarray, "frames objects height width"]) -> list[float]:
    """IoU, over all frames together, of each mask with the object of that colour and shape; 0 where there is none.

    Args:
        clip: with true masks.
        names: of each mask, for example "red star".
        masks: as found.
    """
    truth = {f"{obj.colour} {obj.shape}": clip.masks[:, at] for at, obj in enumerate(clip.scene.objects)}
    return [
        float(volume_iou(truth[name][None], masks[:, at][None])[0, 0]) if name in truth else 0.0
        for at, name in enumerate(names)
    ]


def analogies(names: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """Names (a, b, c, d) of which a is to b as c is to d: the shape changes, the colour stays.

    Example:
        >>> analogies(["red star", "red bar", "blue star", "blue bar", "blue circle"])[0]
        ('blue bar', 'blue star', 'red bar', 'red star')
    """
    there = sorted({name for name in names if name.count(" ") == 1})
    parts = [tuple(name.split()) for name in there]
    return [
        (f"{colour} {shape}", f"{colour} {other}", f"{second} {shape}", f"{second} {other}")
        for colour, shape in parts for same, other in parts for second, again in parts
        if same == colour and again == shape and other != shape and second != colour and (second, other) in parts
    ]  # fmt: skip
