"""Nano-GLaMM before training: the sizes, the tokenizer with the words of captions, and the model with nano's SAM 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from videomolmo.model.tokenizer import build_nano_tokenizer
from videomolmo.synth.caption_scenes import caption_clip, stories
from videomolmo.synth.captions import KINDS, exchange
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration
from videomolmo.systems.videoglamm.config import NANO_WIDTH, ImageConfig, LanguageConfig, MaskConfig, VideoConfig
from videomolmo.systems.videoglamm.processor import END, PROMPT, SEGMENT
from videomolmo.systems.videoglamm.weights import shared_weights

SIGNS = ("<|system|>", "<|user|>", "<|assistant|>", END, SEGMENT)  # of the chat, and the one that stands for a mask
PHRASE = ("<p> ", " </p> ")
SIZE_PX = 128  # of what SAM 2 sees
LANGUAGE_SIZES = {"width": 96, "ff": 256, "layers": 4, "heads": 4, "kv_heads": 2, "window": None}
LARGEST_TOKENIZER = 416


def caption_tokenizer(examples: int = 300) -> PreTrainedTokenizerFast:
    """A tokenizer learnt from questions and answers about small clips, with one id for each sign of the chat."""
    rng, corpus = np.random.default_rng(6), [PROMPT]
    for seed in range(examples):
        said = stories(caption_clip(seed, frames=8, height=24, width=24))
        told = [exchange(said, rng, kind) for kind in KINDS]
        corpus += [text for one in told if one for text in (f"\n{one.question}", one.answer.text)]
    tokenizer = build_nano_tokenizer(corpus, LARGEST_TOKENIZER - len(SIGNS) - len(PHRASE))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in PHRASE])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=text != SEGMENT) for text in SIGNS])
    tokenizer.split_special_tokens = False
    return tokenizer


def nano_config(tokenizer: PreTrainedTokenizerFast) -> VideoGLaMMConfig:
    """Sizes of a model whose CLIP and SAM 2 are the shipped ones and frozen, SAM 2's mask decoder left aside.

    Differs: four frames, one chunk of InternVideo2's; convolutions before its blocks and CLIP's; no pretraining heads.
    """
    known = tokenizer.get_vocab()
    return VideoGLaMMConfig(
        language=LanguageConfig(
            vocab_size=len(tokenizer), segment=known[SEGMENT], end=(known[END],), begin=0, padding=0, **LANGUAGE_SIZES
        ),
        image=ImageConfig(size_px=96, patch_px=8, width=128, ff=256, layers=4, heads=4, pool=6, stem="conv"),
        video=VideoConfig(
            size_px=64, patch_px=8, frames=4, width=128, ff=256, layers=4, heads=4, pool=4, stem="conv",
            pretraining=None,
        ),
        masks=MaskConfig(kind="nano", size_px=SIZE_PX, width=NANO_WIDTH),
        frames=4, shared="nano",
    )  # fmt: skip


def nano_glamm(config: VideoGLaMMConfig, seed: int) -> VideoGLaMMForConditionalGeneration:
    """An untrained model with nano's trained CLIP and SAM 2 in it, and that CLIP's convolutions before InternVideo2.

    Differs: InternVideo2's layers begin at full scale; the published 1e-5 is for forty of them.
    """
    torch.manual_seed(seed)
    model = VideoGLaMMForConditionalGeneration(config, attn_implementation="eager")  # which tells where it looks
    model.load_state_dict(shared_weights(config), strict=False)
    video = model.model.vision_tower.vision_encoder
    stem = model.model.image_vision_tower.vision_tower.vision_model.embeddings.patch_embedding
    video.patch_embed.proj.load_state_dict(stem.state_dict())
    for block in video.blocks:
        for scale in (block.ls1, block.ls2):
            nn.init.ones_(scale.gamma)
    return model


class _Encoded(nn.Module):
    """Stands where an encoder does and gives back features that it made before, in chunks of `frames` if asked to."""

    def __init__(self, frames: int | None = None) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, features: Tensor) -> Tensor:
        return features if self.frames is None else features.unflatten(0, (-1, self.frames))


@contextmanager
def given_features(model: VideoGLaMMForConditionalGeneration) -> Iterator[None]:
    """Within it the model takes features of its two encoders as `images` and `context_images`."""
    inner, frames = model.model, model.config.video.frames
    towers = inner.vision_tower, inner.image_vision_tower
    inner.vision_tower, inner.image_vision_tower = _Encoded(frames), _Encoded()
    try:
        yield
    finally:
        inner.vision_tower, inner.image_vision_tower = towers
