"""The recipe of Nano-Molmo2: transformers' own classes, tiny, trained on generated clips by the product's trainer.

Its vision tower learns from the shipped nano model's first, see `molmo2_vision`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from videomolmo.io import provenance
from videomolmo.io.files import atomic_files, write_json
from videomolmo.lab.nano.molmo2_vision import FRESH, begin_vision, distil, shipped_model
from videomolmo.model.tokenizer import END_OF_TEXT, build_nano_tokenizer
from videomolmo.synth.event_questions import ask_about, category_of
from videomolmo.systems.molmo2 import load_molmo2
from videomolmo.training.recipe import Data, Model, Optimiser, Recipe, Run, Source
from videomolmo.training.trainer import train

SIDE_PX, PATCH_PX, POOL = 96, 8, 2
WIDTH, LAYERS, FF, HEADS = 192, 6, 512, 6  # of the language model: 3.8 M weights in all, 7.5 MB in half precision
CHAT = ("<|im_start|>", "<|im_end|>")
MEDIA = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
         "<frame_start>", "<frame_end>", "<|video|>")  # fmt: skip
GRAMMAR = (
    '<points coords="',
    '<tracks coords="',
    '">',
    "</points>",
    "</tracks>",
    "Counting the ",
    " shows a total of ",
)
VOCABULARY, EXAMPLES = 512, 240  # most tokens; clips whose questions they are learnt from
LONGEST = 4096  # tokens: 25 frames of 36 tokens with their times, and four tracks of as many points
SEE_STEPS = 2500  # in which the vision tower learns from the shipped one
THINGS = ("object", "animal")

_SIZES = {"height": SIDE_PX, "width": SIDE_PX}
_SHORT = {**_SIZES, "seconds": 3.0, "questions": 3}
_LONG = {**_SIZES, "seconds": 6.0, "questions": 3}


def _sets(name: str, clips: int, repeat: int = 1, **options: Any) -> Source:
    return Source(name, options={"clips": clips, **options}, repeat=repeat)


# name, steps, peak rate, sets: what there is, then what happens, then all, tracks included
STAGES: tuple[tuple[str, int, float, tuple[Source, ...]], ...] = (
    ("things", 6000, 1e-3, (_sets("point_video_nano", 40_000, only=THINGS, **_SHORT),)),
    ("events", 8000, 1e-3, (
        _sets("point_video_nano", 20_000, **_SHORT),
        _sets("track_video_nano", 8_000, **_SIZES, seconds=4.0, fps=2),
    )),
    ("all", 10_000, 8e-4, (
        _sets("point_video_nano", 30_000, **_LONG), _sets("track_video_nano", 12_000, **_SIZES, seconds=12.0, fps=2),
    )),
)  # fmt: skip
BATCH, MICRO_BATCH = 16, 4


def train_nano_molmo2(out: Path, *, seed: int = 1, share: float = 1.0, threads: int = 2) -> Path:
    """Train Nano-Molmo2 in `out`, with a folder for each stage, and write it in half precision to `out`/molmo2.

    Run again to go on; `videomolmo evaluate --benchmark point_video_nano --model out/molmo2` tells how good it is.

    Args:
        out: working folder.
        seed: of first weights and order of examples.
        share: of all steps, for a trial run.
        threads: of the training process; the other cores make clips.

    Raises:
        KeyboardInterrupt: a signal ended a stage, which is saved.
    """
    source = out / "molmo2_start"
    if not (source / "config.json").is_file():
        write_start(source, out / "molmo2_see", seed, max(2, round(SEE_STEPS * share)))
    for name, steps, rate, sets in STAGES:
        recipe = recipe_of(out / f"molmo2_{name}", source, sets, max(2, round(steps * share)), rate, seed, threads)
        outcome = train(recipe)
        if outcome.model is None:
            raise KeyboardInterrupt
        source = outcome.model
    model, processor = load_molmo2(source)
    with atomic_files(out / "molmo2", "config.json") as place:
        model.half().save_pretrained(place)
        processor.save_pretrained(place)
        told = {"seed": seed, "share": share, "stages": [[name, steps, rate, [asdict(one) for one in sets]]
                                                         for name, steps, rate, sets in STAGES]}  # fmt: skip
        own = {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.machine()}
        write_json(place / "recipe.json", told | own)
    return out / "molmo2"


def recipe_of(
    out: Path, source: Path, sets: Sequence[Source], steps: int, rate: float, seed: int, threads: int
) -> Recipe:
    """A stage as a recipe of the product's trainer."""
    return Recipe(
        out=str(out),
        model=Model(str(source)),
        optimiser=Optimiser(
            language=rate, connector=rate, vision=0.3 * rate, beta2=0.98, weight_decay=0.01, floor=0.05,
            warmup=min(200, steps // 10), batch=BATCH, micro_batch=MICRO_BATCH, steps=steps,
        ),
        data=Data(sets=tuple(sets), questions=3, frames=32, templates=False),
        run=Run(seed=seed, workers=max(0, (os.cpu_count() or 1) - threads), checkpoint_every=100, log_every=10,
                peak_tflops=0.0),
    )  # fmt: skip


def write_start(folder: Path, seen: Path, seed: int, steps: int) -> None:
    """A folder with a model that sees and has learnt no word, and its processor.

    Args:
        folder: to write.
        seen: working folder of the vision tower's training, which may be killed and goes on.
        seed, steps: of that training.
    """
    processor = nano_processor()
    model = nano_model(processor.tokenizer, seed)
    begin_vision(model.model.vision_tower, shipped_model())
    distil(model, processor, seen, steps, seed)
    with atomic_files(folder, "config.json") as place:
        model.save_pretrained(place)
        processor.save_pretrained(place)


def nano_processor() -> Any:
    """Molmo 2's processor for small frames, with our tokenizer: one token for a digit, few for the grammar."""
    from transformers import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

    scaled = {"size": dict(_SIZES), "patch_size": PATCH_PX, "pooling_size": [POOL, POOL], "do_rescale": True,
              "do_normalize": True}  # fmt: skip
    images = Molmo2ImageProcessor(**scaled, overlap_margins=[1, 1], max_crops=1)
    return Molmo2Processor(
        image_processor=images, video_processor=Molmo2VideoProcessor(**scaled), tokenizer=event_tokenizer()
    )


def event_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer learnt from questions and labels about clips that are never drawn, with the signs of the chat."""
    corpus = ["user", "assistant", "There are none.", "Track  at 1 FPS"]
    for seed in range(EXAMPLES):
        _, asked = ask_about(seed, category_of(seed), most=3, height=16, width=16, duration_s=3.0)
        corpus += [text for one in asked for text in (f"Point to {one.phrase}.", one.how_many, one.label)]
    signs = len(CHAT)
    tokenizer = build_nano_tokenizer(corpus, VOCABULARY - signs, grammar=GRAMMAR)
    missing = VOCABULARY - signs - len(tokenizer)
    tokenizer.add_tokens([f"<unused{number}>" for number in range(missing)])
    special = [AddedToken(text, normalized=False, special=True) for text in (*CHAT, *MEDIA)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = CHAT[1], END_OF_TEXT, END_OF_TEXT
    tokenizer.split_special_tokens, tokenizer.padding_side = False, "left"
    return tokenizer


def nano_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """The untrained model."""
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    small = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    config = Molmo2Config(
        text_config={
            "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": FF, "vocab_size": VOCABULARY,
            "additional_vocab_size": 16, "max_position_embeddings": LONGEST, "qk_norm_type": "qwen3",
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2, "head_dim": WIDTH // HEADS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "num_hidden_layers": 4 + FRESH, "intermediate_size": 256, "image_size": [SIDE_PX, SIDE_PX],
            "patch_size": PATCH_PX, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, **small,
        },
        adapter_config={
            "vision_feature_layer": [3 + FRESH, 1 + FRESH], "intermediate_size": 384, "text_hidden_size": WIDTH,
            **small,
        },
        image_start_token_id=token("<im_start>"), low_res_image_start_token_id=token("<low_res_im_start>"),
        image_end_token_id=token("<im_end>"), image_patch_id=token("<im_patch>"),
        frame_start_token_id=token("<frame_start>"), frame_end_token_id=token("<frame_end>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Molmo2ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
