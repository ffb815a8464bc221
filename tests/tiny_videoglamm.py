"""A VideoGLaMM of random weights that is ready in a second: our classes, without any file."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from videomolmo.model.tokenizer import build_nano_tokenizer
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.config import ImageConfig, LanguageConfig, MaskConfig, VideoConfig

WORDS = "A red circle moves left behind the bar. What is there? <p> a red circle </p>"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few words, with the signs that VideoGLaMM needs."""
    made = build_nano_tokenizer([WORDS], 360)
    made.add_tokens([AddedToken("<|end|>", special=True), AddedToken("[SEG]", special=False)])
    made.split_special_tokens = False
    return made


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> VideoGLaMMConfig:
    """Every part as small as it can be."""
    end, segment = (tokenizer.get_vocab()[sign] for sign in ("<|end|>", "[SEG]"))
    return VideoGLaMMConfig(
        language=LanguageConfig(
            vocab_size=len(tokenizer), width=32, ff=48, layers=2, heads=4, kv_heads=2, window=None, segment=segment,
            end=(end,), begin=0, padding=0,
        ),
        image=ImageConfig(size_px=32, patch_px=8, width=16, ff=24, layers=2, heads=2, pool=2),
        video=VideoConfig(
            size_px=32, patch_px=8, frames=2, width=16, ff=24, layers=2, heads=2, pool=2, pretraining=None
        ),
        masks=MaskConfig(
            size_px=64, width=32, memory_width=16, trunk_width=8, trunk_heads=1, stages=(1, 1, 2, 1),
            windows=(8, 4, 16, 8), global_blocks=(3,), layers=1, ff=32, memories=3,
        ),
        frames=4,
    )  # fmt: skip


def tiny_model(config: VideoGLaMMConfig) -> VideoGLaMMForConditionalGeneration:
    """Random weights, the same every time, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = VideoGLaMMForConditionalGeneration(config).eval()
        made.lm_head.weight.data[config.language.segment] = torch.randn(config.language.width)  # is often written
    return made


def save(folder: Path) -> None:
    """Write all of it, for `--model`."""
    words = tiny_tokenizer()
    sizes = tiny_config(words)
    tiny_model(sizes).save_pretrained(folder)
    VideoGLaMMProcessor(words, sizes).save_pretrained(folder)
