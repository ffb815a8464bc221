"""The recipe of Nano-GLaMM, stage by stage. How good it is: `videomolmo evaluate --benchmark gcg_nano`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from videomolmo.io.files import write_json
from videomolmo.lab.nano.caption_stage import PARTS, Stage, assembled, train_stage
from videomolmo.lab.nano.grounded_model import caption_tokenizer, nano_config
from videomolmo.model.tokenizer import load_tokenizer, save_tokenizer
from videomolmo.synth.captions import known_words
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor

STAGES = (
    Stage("see", "see", steps=3000, batch=8, max_lr=2e-3, parts=("video",), frames=4),
    Stage("segment", "segment", steps=2500, batch=8, max_lr=1e-3, parts=("decoder",), frames=4),
    Stage(
        "speak", "speak", steps=5000, batch=6, max_lr=2e-3, parts=("adapters", "language", "projector"),
        cached_batches=1200, look_weight=0.3,
    ),
    Stage(
        "speak_more", "speak", steps=8000, batch=6, max_lr=1.5e-3, parts=("adapters", "language", "projector"),
        cached_batches=1000, look_weight=0.3, questions=9,  # what is learnt last, and captions meanwhile:
        always=("caption", "motion", "motion", "relation", "relation", "relation", "hidden"),
    ),
    Stage(
        "ground", "ground", steps=800, batch=8, max_lr=5e-4, parts=tuple(part for part in PARTS if part != "video"),
        cached_batches=100, look_weight=0.1,
    ),
)  # fmt: skip
WRITTEN = 160  # most tokens of an answer


def train_nano_glamm(out: Path, *, seed: int = 1, share: float = 1.0) -> Path:
    """Train Nano-GLaMM in `out`, with a folder for each stage, and write it in half precision to `out`/glamm.

    Returns the last stage's weights. Run again to go on.

    Args:
        out: working folder.
        seed: of first weights and order of examples.
        share: of all steps, for a trial run.
    """
    processor, weights = processor_of(out), None
    for stage in STAGES:
        stage = replace(stage, steps=max(2, round(stage.steps * share)))
        folder = Path(out) / f"glamm_{stage.name}"
        weights = train_stage(processor.config, processor, stage, folder, weights, seed)
    model, processor = load_stage(out, weights)
    model.save_pretrained(Path(out) / "glamm", dtype=torch.float16)
    processor.save_pretrained(Path(out) / "glamm")
    known_words().write(Path(out) / "glamm")
    write_json(
        Path(out) / "glamm" / "recipe.json", {"seed": seed, "share": share, "stages": [asdict(s) for s in STAGES]}
    )
    return weights


def processor_of(out: Path) -> VideoGLaMMProcessor:
    """The processor of a run, whose tokenizer is made and kept at the first call."""
    folder = Path(out) / "glamm_tokenizer"
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(caption_tokenizer(), folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.split_special_tokens = False
    return VideoGLaMMProcessor(tokenizer, nano_config(tokenizer))


def load_stage(out: Path, weights: Path) -> tuple[VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor]:
    """Model in evaluation mode and processor of a run, after one of its stages."""
    processor = processor_of(out)
    return assembled(processor.config, weights, seed=0)["model"].eval(), processor
