"""The recipe of Nano-Molmo2: transformers' own classes, tiny, trained on generated clips.

As Molmo 2 itself it comes from a model that points in pictures, the shipped one (`molmo2_start`). The shipped vision
sees for it while it learns to speak, and its own learns meanwhile to see the same (`molmo2_vision`). Then its own takes
over, in pictures, which cost little; clips come last.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from videomolmo.io import provenance
from videomolmo.io.files import atomic_files, write_json
from videomolmo.io.known_words import KnownWords
from videomolmo.lab.nano.checkpoint import found, load_weights, save_checkpoint
from videomolmo.lab.nano.molmo2_examples import Clips
from videomolmo.lab.nano.molmo2_stage import Stage, train_stage
from videomolmo.lab.nano.molmo2_start import begin_connector, begin_language
from videomolmo.lab.nano.molmo2_vision import FRESH, begin_vision, distil, shipped_model
from videomolmo.model.tokenizer import END_OF_TEXT, build_nano_tokenizer
from videomolmo.synth.event_questions import ask_about, category_of
from videomolmo.synth.event_scenes import SPECIES
from videomolmo.synth.scene import COLOURS, SHAPES
from videomolmo.weights.hub import nano_pointing_96
from videomolmo.weights.published import read_configuration

SIDE_PX, PATCH_PX, POOL = 96, 8, 2
WIDTH, LAYERS, FF, HEADS = 128, 6, 384, 4  # of the language model; the shipped model has the same with four layers
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
    "There are none.",
)
VOCABULARY, EXAMPLES = 512, 240  # most tokens; clips whose questions they are learnt from
LONGEST = 4096  # tokens: 25 frames of 36 tokens with their times, and four tracks of as many points
CONNECT_STEPS, SEE_STEPS = 400, 4000  # in which connector and vision learn from the shipped model's
_SIZES = {"height": SIDE_PX, "width": SIDE_PX}

_PICTURES = Clips("picture", 3.0, questions=8, categories=("object", "animal"))
STAGES = (
    Stage("pictures", 3200, 1.2e-3, (_PICTURES,), stand_in=True),
    Stage("own", 300, 6e-4, (_PICTURES,), vision=0.3),
    Stage("clips", 9000, 1.6e-3, (
        replace(_PICTURES, share=0.2), Clips("point", 4.0, 0.1), Clips("point", 6.0, 0.38), Clips("track", 3.0, 0.05),
        Clips("track", 6.0, 0.1, batch=6, questions=2), Clips("track", 12.0, 0.17, batch=3, questions=2),
    ), vision=0.2),
)  # fmt: skip


def train_nano_molmo2(out: Path, *, seed: int = 1, share: float = 1.0) -> Path:
    """Train Nano-Molmo2 in `out`, with a folder for each stage, and write it in half precision to `out`/molmo2.

    Run again to go on; `videomolmo evaluate --benchmark point_video_nano --model out/molmo2` tells how good it is.

    Args:
        out: working folder.
        seed: of first weights and order of examples.
        share: of all steps, for a trial run.

    Raises:
        KeyboardInterrupt: a signal ended a stage, which goes on from its last checkpoint.
    """

    def scaled(steps: int) -> int:
        return max(2, round(steps * share))

    processor = nano_processor()
    model = nano_model(processor.tokenizer, seed)
    begin(model, processor, out / "molmo2_begin", scaled(CONNECT_STEPS), seed)
    distil(model, processor, out / "molmo2_see", scaled(SEE_STEPS), seed)
    weights = None
    for stage in STAGES:
        stage = replace(stage, steps=scaled(stage.steps))
        weights = train_stage(model, processor, stage, out / f"molmo2_{stage.name}", weights, seed)
    return write_model(model, processor, weights, out / "molmo2", seed, share)


def begin(model: Any, processor: Any, folder: Path, steps: int, seed: int) -> None:
    """Give a fresh model what the shipped one knows; done once, and then read from the folder."""
    done = folder / "weights.safetensors"
    if not (there := found(done)):
        folder.mkdir(parents=True, exist_ok=True)
        shipped = shipped_model()
        begin_vision(model.model.vision_tower, shipped)
        begin_language(model, processor.tokenizer, shipped)
        begin_connector(model, processor, shipped, steps, seed)
        save_checkpoint(done, state=model.state_dict())
        there = done
    model.load_state_dict(load_weights(there, own=model.state_dict()))


def write_model(model: Any, processor: Any, weights: Path, folder: Path, seed: int, share: float) -> Path:
    """Write the averaged weights of the last stage in half precision, with processor and recipe."""
    state = load_weights(weights)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()
                           if name.startswith("model.")})  # fmt: skip
    with atomic_files(folder, "config.json") as place:
        model.half().save_pretrained(place)
        processor.save_pretrained(place)
        known_words().write(place)
        own = {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.machine()}
        told = {"seed": seed, "share": share, "see": SEE_STEPS, "connect": CONNECT_STEPS,
                "stages": [asdict(stage) for stage in STAGES]}  # fmt: skip
        write_json(place / "recipe.json", told | own)
    return folder


def nano_processor() -> Any:
    """Molmo 2's processor for small frames, with our tokenizer: one token for a digit, few for the grammar."""
    from transformers import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

    shipped = read_configuration(nano_pointing_96()).image
    scaled = {"size": dict(_SIZES), "patch_size": PATCH_PX, "pooling_size": [POOL, POOL], "do_rescale": True,
              "do_normalize": True, "image_mean": list(shipped.mean), "image_std": list(shipped.std)}  # fmt: skip
    images = Molmo2ImageProcessor(**scaled, overlap_margins=[1, 1], max_crops=1)
    return Molmo2Processor(
        image_processor=images, video_processor=Molmo2VideoProcessor(**scaled), tokenizer=event_tokenizer()
    )


def questions() -> list[str]:
    """Questions and labels about clips that are never drawn."""
    told = []
    for seed in range(EXAMPLES):
        _, asked = ask_about(seed, category_of(seed), most=3, height=16, width=16, duration_s=3.0)
        told += [text for one in asked for text in (f"Point to {one.phrase}.", one.how_many, one.label)]
    return told


def known_words() -> KnownWords:
    """The words that training teaches."""
    return KnownWords.of(questions(), colours=COLOURS, shapes=SHAPES, animals=SPECIES)


def event_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer learnt from `questions`, with the signs of the chat."""
    corpus = ["user", "assistant", "There are none.", "Track  at 1 FPS", *questions()]
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
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "num_hidden_layers": 4 + FRESH, "intermediate_size": 256, "image_size": [SIDE_PX, SIDE_PX],
            "patch_size": PATCH_PX, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, **small,
        },
        adapter_config={
            "vision_feature_layer": [3 + FRESH, 1 + FRESH], "intermediate_size": 512, "text_hidden_size": WIDTH,
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
