"""Preprocessing and the pointing model against numbers of the published one, stage by stage, in float32.

The worst error of each stage is printed as a table at the end of the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from golden import (
    model_folders,
    near,
    preprocess_folder,
    preprocess_images,
    random_image,
    read_json,
    tensors,
)
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.model.config import ImageConfig
from videomolmo.model.image import ImageProcessor, canvas_size, fitted_size, select_tiling
from videomolmo.model.temporal import mean_context, to_windows
from videomolmo.weights.checkpoint import load_published
from videomolmo.weights.published import ADAPTER, config_from_published, to_published

PIXELS, FEATURES, HIDDEN, LOGITS, BATCH_LOGITS = 2e-6, 3e-6, 2e-5, 1e-4, 3e-4
FULL = ImageConfig()
VOCAB = 152064
PAD_EMBED = "model.vision_backbone.pad_embed"


@pytest.fixture(params=model_folders())
def folder(request) -> Path:
    return request.param


def config_of(folder: Path, **changes: object) -> VideoMolmoConfig:
    config = config_from_published(read_json(folder / "config.json"))
    return dataclasses.replace(config, **changes)


def model_of(folder: Path, pad_embed: bool = False, adapter: str = "trained") -> VideoMolmoForConditionalGeneration:
    """The golden model: with or without padding embedding; adapter trained, absent, or with zero output."""
    state = tensors(folder / "weights.safetensors")
    if pad_embed:
        state |= tensors(folder / "weights_pad_embed.safetensors")
    if adapter == "absent":
        state = {name: value for name, value in state.items() if name not in ADAPTER}
    if adapter == "zero":
        state[ADAPTER[-1]] = torch.zeros_like(state[ADAPTER[-1]])
    config = config_of(folder, image_padding_embed="pad_and_partial_pad" if pad_embed else None)
    return load_published(state, config).eval()


def inputs_of(folder: Path) -> dict[str, Tensor]:
    """Golden inputs under our argument names."""
    golden = tensors(folder / "inputs.safetensors")
    return {
        "input_ids": golden["input_ids"],
        "pixels": golden["images"],
        "past_pixels": past_of(golden),
        "image_masks": golden["image_masks"],
        "image_input_idx": golden["image_input_idx"],
    }


def past_of(golden: dict[str, Tensor]) -> Tensor:
    crops = golden["images"].shape[1]
    return rearrange(
        golden["prev_frames"], "batch (past crops) patches pixel -> batch past crops patches pixel", crops=crops
    )


def continued(
    model: VideoMolmoForConditionalGeneration, inputs: dict[str, Tensor], golden: Tensor, stop: int | None = None
) -> list[list[int]]:
    """What a model writes after prompts, at most as much as the golden one did."""
    written = model.generate(**inputs, max_new_tokens=golden.shape[1], eos_token_id=stop)
    return written[:, inputs["input_ids"].shape[1] :].tolist()


def hidden_outputs(model: VideoMolmoForConditionalGeneration, inputs: dict[str, Tensor]) -> tuple[list[Tensor], object]:
    """The raw output of each language layer (before any final norm), and the forward output."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out: seen.append(out if isinstance(out, Tensor) else out[0]))
        for layer in model.language.layers
    ]
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return seen, out


def test_config_round_trip(folder: Path) -> None:
    config = config_of(folder)
    assert VideoMolmoConfig.from_dict(config.to_dict()) == config


def test_published_weights_round_trip_bit_exact(folder: Path) -> None:
    state = tensors(folder / "weights.safetensors")
    back = to_published(model_of(folder))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_vision_features_and_context(folder: Path) -> None:
    model, inputs = model_of(folder), inputs_of(folder)
    golden = tensors(folder / "outputs.safetensors")
    with torch.no_grad():
        hidden = model.vision.selected_hidden(inputs["pixels"][0])
        features = model.encode_frames(inputs["pixels"])
        past = model.encode_past(inputs["past_pixels"])
    for index, found in zip(model.config.vision.selected, hidden, strict=True):
        near("vision layers", found, golden[f"vit_hidden_current.{index}"], FEATURES, relative=True)
    near("vision features", features, golden["vit_features_current"], FEATURES, relative=True)
    near("vision features", past, golden["vit_features_prev"], FEATURES, relative=True)
    near("mean of the past", mean_context(past), golden["context_mean"], FEATURES, relative=True)


def test_temporal_pooled_projected(folder: Path) -> None:
    model, inputs = model_of(folder), inputs_of(folder)
    golden = tensors(folder / "outputs.safetensors")
    with torch.no_grad():
        features, past = model.encode_frames(inputs["pixels"]), model.encode_past(inputs["past_pixels"])
        current = to_windows(features, model.config.image.grid)
        windows = model.temporal(features, past)
        pooled = model.connector.pool(windows)
        projected = model.image_tokens(features, past)
    near("windows", current, golden["temporal_query_windows"], FEATURES, relative=True)
    near("temporal module", windows - current, golden["temporal_output_windows"], HIDDEN, relative=True)
    near("pooling", pooled, golden["pooled"], HIDDEN, relative=True)
    near("projector", projected, golden["projected"], HIDDEN, relative=True)


def test_language_model(folder: Path) -> None:
    golden = tensors(folder / "outputs.safetensors")
    layers, out = hidden_outputs(model_of(folder), inputs_of(folder))
    near("embeddings", out.inputs_embeds, golden["lm_input_embeds"], HIDDEN, relative=True)
    for index, found in enumerate(layers):
        near("language layers", found, golden[f"lm_hidden.{index}"], HIDDEN, relative=True)
    near("final norm", out.hidden_states[-1], golden["lm_final_norm"], HIDDEN, relative=True)
    near("logits", out.logits, golden["logits"], LOGITS)


def test_greedy_ids_and_step_logits(folder: Path) -> None:
    model, inputs = model_of(folder), inputs_of(folder)
    golden = tensors(folder / "outputs.safetensors")
    wanted = golden["generated_ids"]
    assert continued(model, inputs, wanted) == wanted.tolist()
    (ids,) = wanted.tolist()
    stop = ids[len(ids) // 2]
    assert continued(model, inputs, wanted, stop) == [ids[: ids.index(stop) + 1]]
    longer = inputs | {"input_ids": torch.cat([inputs["input_ids"], wanted[:, :-1]], dim=1)}
    with torch.no_grad():
        steps = model(**longer).logits[:, -len(ids) :]
    near("logits while generating", steps, golden["gen_step_logits"], BATCH_LOGITS)


def test_padding_embedding(folder: Path) -> None:
    golden = tensors(folder / "outputs_pad_embed.safetensors")
    model, inputs = model_of(folder, pad_embed=True), inputs_of(folder)
    seen: list[tuple[Tensor, ...]] = []
    hook = model.temporal.register_forward_hook(lambda _m, arguments, _o: seen.append(arguments))
    with torch.no_grad():
        out = model(**inputs)
    hook.remove()
    features, past = seen[0]
    grid = model.config.image.grid
    near("padding embedding", to_windows(features, grid), golden["temporal_query_windows"], FEATURES, relative=True)
    context = to_windows(mean_context(past), grid)
    near("padding embedding", context, golden["temporal_context_windows"], FEATURES, relative=True)
    near("projector", out.image_tokens, golden["projected"], HIDDEN, relative=True)
    near("logits", out.logits, golden["logits"], LOGITS)
    assert continued(model, inputs, golden["generated_ids"]) == golden["generated_ids"].tolist()
    assert PAD_EMBED in to_published(model)


@pytest.mark.parametrize("pad_embed", [False, True])
@pytest.mark.parametrize("adapter", ["zero", "absent"])
def test_without_trained_adapter_it_is_molmo(folder: Path, pad_embed: bool, adapter: str) -> None:
    golden = tensors(folder / "outputs_zero_adapter.safetensors")
    model, inputs = model_of(folder, pad_embed, adapter), inputs_of(folder)
    ending = "_with_pad_embed" if pad_embed else ""
    with torch.no_grad():
        out = model(**inputs)
    near("logits of plain Molmo", out.logits, golden[f"logits{ending}"], LOGITS)
    wanted = golden[f"generated_ids{ending}"]
    assert continued(model, inputs, wanted) == wanted.tolist()
    if not pad_embed:
        near("projector", out.image_tokens, golden["projected"], HIDDEN, relative=True)


def batch_of(folder: Path) -> dict[str, Tensor]:
    """The golden sample and a shorter one with fewer crops, padded as the golden batch was."""
    first, second = inputs_of(folder), tensors(folder / "batch_inputs.safetensors")
    short = {"pixels": second["images"], "past_pixels": past_of(second), "image_masks": second["image_masks"]}
    crops = first["pixels"].shape[1]
    batch = {"input_ids": second["batch_input_ids"], "image_input_idx": second["batch_image_input_idx"]}
    for name, value in short.items():
        axis = 2 if name == "past_pixels" else 1
        shape = list(value.shape)
        shape[axis] = crops - shape[axis]
        batch[name] = torch.cat([first[name], torch.cat([value, value.new_full(shape, -1)], dim=axis)])
    return batch


def test_batch_of_two(folder: Path) -> None:
    golden, model, batch = tensors(folder / "batch_outputs.safetensors"), model_of(folder), batch_of(folder)
    single = tensors(folder / "batch_inputs.safetensors")
    with torch.no_grad():
        out = model(**batch)
        alone = model(single["input_ids"], single["images"], past_of(single), None, single["image_input_idx"])
        context = mean_context(model.encode_past(batch["past_pixels"]))[1:]
    valid = batch["input_ids"][1] != -1
    near("mean of the past", context, golden["context_mean_sample1"], FEATURES, relative=True)
    real = (batch["pixels"][1] != -1).flatten(1).any(-1)
    near("projector", out.image_tokens[1:, real], golden["projected_sample1"][:, real], HIDDEN, relative=True)
    first = tensors(folder / "outputs.safetensors")["logits"]
    near("logits", out.logits[:1], first, LOGITS)
    near("logits in a batch", out.logits[1:, valid], golden["logits_sample1"][:, valid], BATCH_LOGITS)
    near("logits in a batch", alone.logits, golden["single_logits"], BATCH_LOGITS)
    assert continued(model, batch, golden["generated_ids"]) == golden["generated_ids"].tolist()


def train_batch(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    golden = tensors(folder / "train_inputs.safetensors")
    names = ("input_ids", "image_input_idx", "position_ids", "subsegment_ids", "loss_masks")
    return inputs_of(folder) | {name: golden[name] for name in names} | {"targets": golden["labels"]}, golden


def test_positions_follow_from_the_message_tree(folder: Path) -> None:
    model, (batch, _) = model_of(folder), train_batch(folder)
    with torch.no_grad():
        given, counted = model(**batch), model(**(batch | {"position_ids": None}))
    assert torch.equal(given.logits, counted.logits)


def test_training_step(folder: Path) -> None:
    golden, norms = tensors(folder / "train_outputs.safetensors"), read_json(folder / "train_grad_norms.json")
    model, (batch, _) = model_of(folder), train_batch(folder)
    out = model(**batch)
    out.loss.backward()
    near("training loss", out.loss[None], golden["loss"], 1e-5)
    near("logits in training", out.logits, golden["logits"], BATCH_LOGITS)
    gradients_near("gradients", model, golden, norms)


def gradients_near(
    stage: str, model: VideoMolmoForConditionalGeneration, golden: dict[str, Tensor], norms: dict[str, Any]
) -> None:
    """Assert that a model's gradients are the golden ones: some of them whole, all by their norm."""
    gradients = published_gradients(model)
    for name, value in golden.items():
        if name.startswith("grad."):
            near(stage, gradients[name.removeprefix("grad.")], value, 3e-4, relative=True)
    for name, norm in norms["grad_l2_norm"].items():
        if norm >= 1e-6:
            assert gradients[name].double().norm().item() == pytest.approx(norm, rel=2e-4), name


def published_gradients(model: VideoMolmoForConditionalGeneration) -> dict[str, Tensor]:
    """Gradients under published names; zero where a parameter has none."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return to_published(model)


def test_from_raw_frames(folder: Path) -> None:
    golden, wanted = tensors(folder / "inputs.safetensors"), tensors(folder / "outputs.safetensors")
    model = model_of(folder)
    image = ImageProcessor(model.config.image)
    crops = image(golden["frame_current_u8"].numpy())
    past = image.pixels_only(np.ascontiguousarray(golden["frames_prev_u8"].numpy()[::-1]))
    near("pixels", crops.pixels[None], golden["images"], PIXELS)
    assert torch.equal(crops.masks[None], golden["image_masks"])
    index = torch.where(crops.input_idx >= 0, crops.input_idx + 1, crops.input_idx)[None]
    assert torch.equal(index, golden["image_input_idx"])
    start = crops.token_kinds + model.config.language.vocab_size
    assert torch.equal(golden["input_ids"][0, 1 : len(start) + 1], start)
    with torch.no_grad():
        out = model(golden["input_ids"], crops.pixels[None], past[None], crops.masks[None], index)
    near("logits from raw frames", out.logits, wanted["logits"], LOGITS)


def test_tiling_and_sizes_follow_the_golden_table() -> None:
    rows = read_json(preprocess_folder() / "tiling_table.json")
    assert len(rows) > 100
    for row in rows:
        height, width = row["h"], row["w"]
        tiling = select_tiling(height, width, FULL)
        assert list(tiling) == row["tiling"], row
        for name, target in (("hires", canvas_size(tiling, FULL)), ("lowres", (336, 336))):
            if isinstance(row[name], str):
                with pytest.raises(BadInput, match="aspect ratio"):
                    fitted_size(height, width, target)
            else:
                assert list(fitted_size(height, width, target)) == row[name], row


@pytest.mark.parametrize("entry", preprocess_images())
def test_image_equals_golden(entry: dict) -> None:
    image = random_image(entry)
    assert hashlib.sha256(image.tobytes()).hexdigest() == entry["raw_sha256"]
    golden = tensors(preprocess_folder() / f"{entry['name']}.safetensors")
    crops = ImageProcessor(FULL)(image)
    assert list(select_tiling(*image.shape[:2], FULL)) == entry["tiling_rows_cols"]
    assert torch.equal((crops.token_kinds + VOCAB).int(), golden["token_ids"])
    assert torch.equal(crops.input_idx.int(), golden["image_input_idx_local"])
    assert torch.equal(crops.masks, golden["image_masks"])
    crop, patch, place = golden["sample_index"].unbind(1)
    near("pixels", crops.pixels[crop, patch, place], golden["sample_value"], PIXELS)
    channels = crops.pixels.unflatten(2, (196, 3)).mean(2)
    near("pixels, channel means in half precision", channels, golden["patch_channel_mean_f16"], 2e-3)
    flat = crops.pixels.double().flatten(1)
    near("pixels, crop means", flat.mean(1), golden["crop_mean_f32"], PIXELS)
    near("pixels, crop deviations", flat.std(1, correction=0), golden["crop_std_f32"], PIXELS)


@pytest.mark.parametrize("entry", preprocess_images())
def test_black_frame_equals_golden(entry: dict) -> None:
    golden = tensors(preprocess_folder() / f"{entry['name']}.safetensors")
    black = ImageProcessor(FULL).pixels_only(np.zeros((1, entry["height"], entry["width"], 3), np.uint8))
    wanted = golden["black_frame_unique_values"].sort().values
    near("pixels of a black frame", black.unique(), wanted, PIXELS)
