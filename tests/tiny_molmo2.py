"""A Molmo 2 of 0.2 million parameters that knows some answers by heart: transformers' classes, without any network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from videomolmo.systems.molmo2 import PROMPT, inputs_of, shrunk

CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MEDIA = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
         "<frame_start>", "<frame_end>", "<|video|>"]  # fmt: skip
SIDE_PX, VOCABULARY, ROOM = 84, 400, 16


def tokenizer_of(texts: Sequence[str]):
    """Bytes and what is frequent in some texts; tokens of media lie after the vocabulary, as in the published one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=CHAT, initial_alphabet=alphabet)
    )
    missing = VOCABULARY - inner.get_vocab_size()
    inner.add_tokens([f"<unused{n}>" for n in range(missing)])
    inner.add_special_tokens(MEDIA)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
        additional_special_tokens=MEDIA,
    )  # fmt: skip


def processor_of(texts: Sequence[str]):
    from transformers import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

    size = {"height": SIDE_PX, "width": SIDE_PX}
    images = Molmo2ImageProcessor(size=size, overlap_margins=[1, 1], max_crops=4)
    videos = Molmo2VideoProcessor(size=size, do_rescale=True, do_normalize=True)  # as the published ones
    return Molmo2Processor(image_processor=images, video_processor=videos, tokenizer=tokenizer_of(texts))


def model_of(tokenizer):
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    token = tokenizer.convert_tokens_to_ids
    config = Molmo2Config(
        text_config={"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": VOCABULARY,
                     "additional_vocab_size": ROOM, "max_position_embeddings": 4096, "qk_norm_type": "qwen3",
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                     "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, **heads},
        vision_config={"num_hidden_layers": 3, "intermediate_size": 64, "image_size": [SIDE_PX, SIDE_PX],
                       "patch_size": 14, **small},
        adapter_config={"vision_feature_layer": [2, 1], "intermediate_size": 64, "text_hidden_size": 64, **small},
        image_start_token_id=token("<im_start>"), low_res_image_start_token_id=token("<low_res_im_start>"),
        image_end_token_id=token("<im_end>"), image_patch_id=token("<im_patch>"),
        frame_start_token_id=token("<frame_start>"), frame_end_token_id=token("<frame_end>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Molmo2ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def untaught(folder: Path) -> Path:
    """A folder with a model that knows nothing, and its processor."""
    processor = processor_of(["How often does the circle turn?"])
    model_of(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def taught(folder: Path, lessons: Sequence[tuple[np.ndarray, np.ndarray, str, str]], steps: int = 300) -> Path:
    """A folder with a model that answers each of some (frames, times, request, answer) as it was taught."""
    processor = processor_of([part for _, _, request, text in lessons for part in (PROMPT.format(request), text)])
    model = model_of(processor.tokenizer).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    examples = []
    for shown, times, request, text in lessons:
        prompt, frames = PROMPT.format(request), np.stack([shrunk(processor, frame) for frame in shown])
        asked = inputs_of(processor, frames, times, prompt)["input_ids"].shape[1]
        whole = inputs_of(processor, frames, times, prompt + text + "<|im_end|>")
        labels = whole["input_ids"].clone()
        labels[:, :asked] = -100
        examples.append(whole | {"labels": labels})
    for step in range(steps):
        loss = model(**examples[step % len(examples)]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
