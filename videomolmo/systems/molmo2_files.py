"""The files of a Molmo 2, checked before transformers builds anything of them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from typing_extensions import TypedDict

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import checked, float_in, int_in, read_model_json, shortened
from videomolmo.model.config import Heads, Layers, Small, Vocabulary, Width
from videomolmo.model.tokenizer import check_tokenizer
from videomolmo.weights.assign import Shards
from videomolmo.weights.tensors import check_finite

Act = Literal["silu", "gelu", "gelu_pytorch_tanh", "quick_gelu", "gelu_new", "relu"]
Places = Annotated[list[int_in(-256, 256)], Field(max_length=256)] | None
_Factor = str | bool | float_in(-1e12, 1e12) | Annotated[list[float_in(0, 1e6)], Field(max_length=1024)] | None
_Rope = Annotated[dict[str, _Factor | dict[str, _Factor]], Field(max_length=32)] | None
_Id = int_in(0, 2**23)


def _sizes(name: str, **more: Any) -> Any:
    """What all three parts have, and what is `name`'s own; other keys, which the model does not use, are left out."""
    alike = {
        "model_type": Literal[f"molmo2_{name}", "molmo2", ""], "hidden_size": Width, "intermediate_size": Width,
        "num_attention_heads": Heads, "num_key_value_heads": Heads, "head_dim": int_in(1, 4096), "hidden_act": Act,
        "attention_dropout": Small, "attention_bias": bool, "initializer_range": Small,
    }  # fmt: skip
    return TypedDict(f"_{name}", alike | more, total=False)


TextSizes = _sizes(
    "text", num_hidden_layers=Layers, vocab_size=Vocabulary, additional_vocab_size=int_in(0, 2**16), qkv_bias=bool,
    qk_norm_type=Literal["qwen3", "olmo"], max_position_embeddings=int_in(1, 2**24), rope_parameters=_Rope,
    rope_scaling=_Rope, rope_theta=float_in(1, 1e12), rope_scaling_layers=Places, rms_norm_eps=Small,
    layer_norm_eps=Small, norm_after=bool, use_cache=bool, tie_word_embeddings=bool, eos_token_id=_Id | None,
    pad_token_id=_Id | None, bos_token_id=_Id | None,
)  # fmt: skip
VisionSizes = _sizes(
    "vision", num_hidden_layers=Layers, layer_norm_eps=Small, patch_size=int_in(1, 256),
    image_patch_size=int_in(1, 256),
    num_position_embeddings=int_in(1, 2**17) | None, image_num_pos=int_in(1, 2**17), num_channels=int_in(3, 3),
    image_size=Annotated[list[int_in(1, 4096)], Field(min_length=2, max_length=2)] | None,
    image_default_input_size=Annotated[list[int_in(1, 4096)], Field(min_length=2, max_length=2)],
)  # fmt: skip
AdapterSizes = _sizes("adapter", vision_feature_layer=Places, vit_layers=Places, text_hidden_size=Width, mlp_bias=bool)
_Molmo2 = TypedDict(
    "_Molmo2",
    {
        "model_type": Literal["molmo2"], "text_config": TextSizes, "vision_config": VisionSizes,
        "vit_config": VisionSizes, "adapter_config": AdapterSizes, "initializer_range": Small,
        "tie_word_embeddings": bool,
    }
    | dict.fromkeys(
        ("image_start_token_id", "low_res_image_start_token_id", "image_end_token_id", "image_patch_id",
         "frame_start_token_id", "frame_end_token_id"), _Id,
    ),
    total=False,
)  # fmt: skip
_Ids = int_in(0, 2**23) | Annotated[list[int_in(0, 2**23)], Field(max_length=64)] | None
_Ends = TypedDict("_Ends", dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), _Ids), total=False)


def checked_config(folder: Path) -> Any:
    """The configuration of a Molmo 2 whose weights, by their headers, are at least as many as its sizes ask for.

    Of config.json only sizes and switches are taken: no other attention, no quantisation, no file to load from.

    Raises:
        BadInput: values of another type or out of bounds, an adapter, or too few weights.
    """
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    if os.path.lexists(folder / "adapter_config.json"):
        raise BadInput(f"{folder} holds an adapter (adapter_config.json), expected a whole model; merge it first")
    path = folder / "config.json"
    config = Molmo2Config(**checked(_Molmo2, read_model_json(path), str(path)))
    with torch.device("meta"):
        model = Molmo2ForConditionalGeneration(config)
    asked = sum(parameter.numel() for parameter in model.parameters())
    there = sum(math.prod(value.shape) for value in Shards(folder).tensors.values())
    if there < asked:
        raise BadInput(
            f"weights are missing or do not fit: {path} asks for {asked} numbers and the files hold {there}; use the "
            "weights' own config.json"
        )
    return config


def check_processor_files(folder: Path) -> None:
    """Nothing, where tokenizer, processor and answers are described in JSON objects of bounded size."""
    check_tokenizer(folder)
    path = folder / "generation_config.json"
    if os.path.lexists(path):
        checked(_Ends, read_model_json(path), str(path))
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
                 "chat_template.json"):  # fmt: skip
        if os.path.lexists(folder / name):
            read_model_json(folder / name)


def plain_generation(model: Any) -> None:
    """Leave of generation_config.json only which ids end an answer: no beams, penalties or helpers."""
    from transformers import GenerationConfig

    said = {name: getattr(model.generation_config, name, None) for name in _Ends.__annotations__}
    model.generation_config = GenerationConfig(**checked(_Ends, said, "generation_config.json"))


def check_processor(processor: Any, config: Any) -> None:
    """Nothing, where a processor shows frames as a model of this configuration sees them.

    Raises:
        BadInput: another kind of processor, or other frames or patches.
    """
    from transformers import Molmo2VideoProcessor

    video, vision = processor.video_processor, config.vision_config
    side = vision.image_size[0]
    if type(video) is not Molmo2VideoProcessor:
        raise BadInput(f"its video processor is a {type(video).__name__}, expected Molmo2VideoProcessor")
    if [video.size["height"], video.size["width"], video.patch_size] != [side, side, vision.patch_size]:
        raise BadInput(f"its processor cuts frames of {video.size} into {shortened(video.patch_size)}, expected {side}")
    if vision.num_position_embeddings != (side // vision.patch_size) ** 2:
        raise BadInput(f"it knows {vision.num_position_embeddings} places in frames of {side} pixels")


def check_inputs(inputs: dict[str, torch.Tensor], config: Any) -> None:
    """Nothing, where what a processor made of a blank clip can be read by a model of this configuration."""
    most = config.text_config.vocab_size + config.text_config.additional_vocab_size
    ids = inputs["input_ids"]
    if not 0 <= int(ids.min()) <= int(ids.max()) < most:
        raise BadInput(f"its tokenizer has an id {int(ids.max())}, expected less than {most}")
    check_finite("of its processor", inputs["pixel_values_videos"])
