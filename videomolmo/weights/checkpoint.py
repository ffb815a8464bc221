"""Checkpoints: a folder, ours or published, becomes a model with its weights, strictly; and back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import is_flash_attn_2_available

from videomolmo.errors import BadInput
from videomolmo.io import known_words
from videomolmo.io.files import atomic_files
from videomolmo.io.untrusted import MAX_TEXT_BYTES, model_file
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.pointing import VideoMolmoForConditionalGeneration
from videomolmo.weights import hub
from videomolmo.weights.assign import CONFIG_FILE, Shards, safetensors_told
from videomolmo.weights.published import config_for_hub, fitted, read_configuration, to_published
from videomolmo.weights.quantize import bits


def load_published(state: dict[str, Tensor], config: VideoMolmoConfig) -> VideoMolmoForConditionalGeneration:
    """A float32 model with the weights of a published state dict; folders are `load_model`'s.

    Raises:
        BadInput: names missing, unexpected, doubled or of another shape.
    """
    empty = VideoMolmoForConditionalGeneration.empty(config)
    return empty.with_weights(fitted(state.items(), empty, "the published state"))


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flash_attention_2")
ELEMENT = {None: 0, "8bit": 1, "4bit": 1}  # bytes of a weight to plan with, not less than they take
SPARE = 0.85  # of the free memory may hold weights; the rest is for activations and the cache


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    quantize: str | None = None,
    device_map: str | None = None,
) -> VideoMolmoForConditionalGeneration:
    """A pointing model in evaluation mode from a folder of ours, or of VideoMolmo or Molmo as on the hub.

    What does not fit is found before any weight is read; weights are then read one by one, straight to their device
    and precision, so that the host never holds more than the model (if it lives there) and one shard.

    Args:
        folder: config.json and safetensors, whole or in shards.
        device, dtype: of the weights in the model.
        attn_implementation: of the language model: one of `ATTENTION`.
        quantize: None, "8bit" or "4bit"; see `quantize.bits`.
        device_map: None, or "auto" to spread the model over all GPUs; `device` then counts for nothing.

    Raises:
        BadInput: files missing or broken, an architecture that is not computed here, or weights that do not fit.
    """
    if attn_implementation not in ATTENTION:
        raise BadInput(f"attention is {attn_implementation!r}, expected one of {', '.join(ATTENTION)}")
    if attn_implementation == "flash_attention_2" and (not is_flash_attn_2_available() or dtype == torch.float32):
        raise BadInput(
            "attention 'flash_attention_2' needs the package flash-attn, a GPU and half precision; take 'sdpa'"
        )
    if device_map not in (None, "auto"):
        raise BadInput(f"device_map is {device_map!r}, expected None or 'auto'")
    if quantize and torch.device(device).type == "mps":
        raise BadInput(
            f"quantize is {quantize!r}, which bitsandbytes does on CPUs and NVIDIA's GPUs only; leave it out"
        )
    settings, config = bits(quantize, dtype), read_configuration(folder)
    if device_map:
        check_memory(config, ELEMENT[quantize] or dtype.itemsize)
    return VideoMolmoForConditionalGeneration.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation=attn_implementation, quantization_config=settings,
        device_map=device_map or (None if str(device) == "cpu" else {"": device}),
    )  # fmt: skip


def check_memory(config: VideoMolmoConfig, element: int, free: Sequence[int] | None = None) -> None:
    """Nothing, where all GPUs together have room for the weights, which transformers would else put elsewhere.

    Args:
        config: of the model.
        element: bytes of one weight.
        free: free bytes of each GPU; None asks the GPUs.

    Raises:
        BadInput: no GPU, or not enough memory on all of them.
    """
    if free is None:
        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    if not free:
        raise BadInput("device_map 'auto' spreads a model over GPUs and there is none; leave it out")
    whole = element * sum(weight.numel() for weight in VideoMolmoForConditionalGeneration.empty(config).parameters())
    if whole > SPARE * sum(free):
        raise BadInput(
            f"the weights take {whole / 1e9:.1f} GB and the GPUs have {sum(free) / 1e9:.1f} GB free; "
            "take quantize='4bit', or more memory"
        )


def dtype_of(name: str) -> torch.dtype:
    """A precision by its name; "auto" is float32.

    Raises:
        BadInput: another name.
    """
    if name != "auto" and name not in DTYPES:
        raise BadInput(f"dtype is {name!r}, expected 'auto' or one of {', '.join(DTYPES)}")
    return DTYPES.get(name, torch.float32)


def convert(source: str | Path, target: Path, dtype: torch.dtype | None = None) -> VideoMolmoForConditionalGeneration:
    """Write a published folder in our own format (`VideoMolmoForConditionalGeneration.from_pretrained` reads it).

    Args:
        source: published folder.
        target: written; must not hold a model.
        dtype: of the weights; None keeps theirs.
    """
    model = load_model(source, dtype=dtype or stored_dtype(source))
    with atomic_files(target, CONFIG_FILE) as place:
        model.save_pretrained(place)
        _copy_words(source, place)
    return model


def export(source: str | Path, target: Path, shard_size: str = "5GB") -> None:
    """Write a folder of ours under the published names, in shards; the inverse of `convert`, bit by bit.

    Args:
        source: folder of ours.
        target: made where missing.
        shard_size: most bytes of one file, for example "5GB".

    Raises:
        BadInput: the model has parts that no published model has (nano's convolutions, for example), or no such size.
    """
    from huggingface_hub import save_torch_state_dict

    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", shard_size, re.IGNORECASE):
        raise BadInput(f"shard size is {shard_size!r}, expected a number with KB, MB, GB or TB, such as 5GB")
    model = load_model(source, dtype=stored_dtype(source))
    state = to_published(model)
    with atomic_files(target, CONFIG_FILE) as place, safetensors_told():
        save_torch_state_dict(state, place, max_shard_size=shard_size)
        text = json.dumps(config_for_hub(model.config), indent=2) + "\n"
        (place / CONFIG_FILE).write_text(text, encoding="utf-8")
        _copy_words(source, place)


def _copy_words(source: str | Path, target: Path) -> None:
    """What the tokenizer needs, and the list of words that the model knows, where the source has them."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", known_words.FILE):
        if (Path(source) / name).is_file():
            shutil.copyfile(model_file(Path(source) / name, MAX_TEXT_BYTES), target / name)


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The one precision of all weights in a folder.

    Raises:
        BadInput: several, so that none of them can be kept for all.
    """
    kinds = {value.dtype for value in Shards(folder).tensors.values()}
    if len(kinds) != 1:
        raise BadInput(f"{folder} mixes precisions {sorted(map(str, kinds))}; say which one to write with --dtype")
    return kinds.pop()


def device_named(name: str) -> str:
    """ "cpu", "cuda" or "mps"; for "auto" one of the first two, for Apple's GPUs are untried.

    Raises:
        BadInput: another name, or a GPU that is not there.
    """
    name = str(name)  # a torch.device, too
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise BadInput(f"device is {name!r}, expected 'auto', 'cpu', 'cuda' or 'mps'")
    if not there[kind]:
        raise BadInput(f"device is {name!r}, but torch finds no such GPU here; use --device cpu")
    return name


def refuse_options(options: Mapping[str, object], system: str) -> None:
    """Nothing where all options that `system` does not have are None.

    Raises:
        BadInput: one of them is given.
    """
    for name, value in options.items():
        if value is not None:
            raise BadInput(f"{name} is {value!r}, which is not for {system}; leave it out")


def pointing_hashes(folder: Path) -> dict[str, str]:
    """The hashes of a pointing model's files, under the names that run.json gives them."""
    return {f"pointing:{folder.name}/{file}": value for file, value in hub.hashes(folder).items()}
