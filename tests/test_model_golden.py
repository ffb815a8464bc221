"""The pointing model against numbers of the published one, stage by stage, in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from golden import absolute_error, model_folders, read_json, relative_error, tensors
from torch import Tensor

from videomolmo.model import PointingConfig, PointingModel
from videomolmo.model.image import ImageProcessor
from videomolmo.model.published import ADAPTER, load_published, to_published
from videomolmo.model.published_config import config_from_published
from videomolmo.model.temporal import mean_context, to_windows

FEATURES, HIDDEN, LOGITS, BATCH_LOGITS = 3e-6, 2e-5, 1e-4, 3e-4
NEW_TOKENS = 12
PAD_EMBED = "model.vision_backbone.pad_embed"

pytestmark = pytest.mark.parametrize("folder", model_folders())


def config_of(folder: Path, **changes: object) -> PointingConfig:
    config = config_from_published(read_json(folder / "config.json"))
    return dataclasses.replace(config, **changes)


def model_of(folder: Path, pad_embed: bool = False, adapter: str = "trained") -> PointingModel:
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


def hidden_outputs(model: PointingModel, inputs: dict[str, Tensor]) -> tuple[list[Tensor], object]:
    """The raw output of each language layer (before any final norm), and the forward output."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out: seen.append(out if isinstance(out, Tensor) else out[0]))
        for layer in model.language.layers
    ]
    with torch.no_grad():
        out = model(**inputs, output_hidden=True)
    for hook in hooks:
        hook.remove()
    return seen, out


def assert_near(found: Tensor, wanted: Tensor, bound: float) -> None:
    assert relative_error(found.reshape(wanted.shape), wanted) <= bound


def test_config_round_trip(folder: Path) -> None:
    config = config_of(folder)
    assert PointingConfig.from_dict(config.to_dict()) == config


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
        assert_near(found, golden[f"vit_hidden_current.{index}"], FEATURES)
    assert_near(features, golden["vit_features_current"], FEATURES)
    assert_near(past, golden["vit_features_prev"], FEATURES)
    assert_near(mean_context(past), golden["context_mean"], FEATURES)


def test_temporal_pooled_projected(folder: Path) -> None:
    model, inputs = model_of(folder), inputs_of(folder)
    golden = tensors(folder / "outputs.safetensors")
    with torch.no_grad():
        features, past = model.encode_frames(inputs["pixels"]), model.encode_past(inputs["past_pixels"])
        current = to_windows(features, model.config.image.grid)
        windows = model.temporal(features, past)
        pooled = model.connector.pool(windows)
        projected = model.image_tokens(features, past)
    assert_near(current, golden["temporal_query_windows"], FEATURES)
    assert_near(windows - current, golden["temporal_output_windows"], HIDDEN)
    assert_near(pooled, golden["pooled"], HIDDEN)
    assert_near(projected, golden["projected"], HIDDEN)


def test_language_model(folder: Path) -> None:
    golden = tensors(folder / "outputs.safetensors")
    layers, out = hidden_outputs(model_of(folder), inputs_of(folder))
    assert_near(out.inputs_embeds, golden["lm_input_embeds"], HIDDEN)
    for index, found in enumerate(layers):
        assert_near(found, golden[f"lm_hidden.{index}"], HIDDEN)
    assert_near(out.hidden_states[-1], golden["lm_final_norm"], HIDDEN)
    assert absolute_error(out.logits, golden["logits"]) <= LOGITS


def test_greedy_ids_and_step_logits(folder: Path) -> None:
    model, inputs = model_of(folder), inputs_of(folder)
    golden = tensors(folder / "outputs.safetensors")
    assert model.generate(**inputs, max_new_tokens=NEW_TOKENS) == golden["generated_ids"].tolist()
    stop = golden["generated_ids"][0, 5].item()
    first = golden["generated_ids"][0].tolist().index(stop)
    stopped = model.generate(**inputs, max_new_tokens=NEW_TOKENS, stop_id=stop)
    assert stopped == [golden["generated_ids"][0, :first].tolist()]
    longer = inputs | {"input_ids": torch.cat([inputs["input_ids"], golden["generated_ids"][:, :-1]], dim=1)}
    with torch.no_grad():
        steps = model(**longer).logits[:, -NEW_TOKENS:]
    assert absolute_error(steps, golden["gen_step_logits"]) <= BATCH_LOGITS


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
    assert_near(to_windows(features, grid), golden["temporal_query_windows"], FEATURES)
    assert_near(to_windows(mean_context(past), grid), golden["temporal_context_windows"], FEATURES)
    assert_near(out.image_tokens, golden["projected"], HIDDEN)
    assert absolute_error(out.logits, golden["logits"]) <= LOGITS
    assert model.generate(**inputs, max_new_tokens=NEW_TOKENS) == golden["generated_ids"].tolist()
    assert PAD_EMBED in to_published(model)


@pytest.mark.parametrize("pad_embed", [False, True])
@pytest.mark.parametrize("adapter", ["zero", "absent"])
def test_without_trained_adapter_it_is_molmo(folder: Path, pad_embed: bool, adapter: str) -> None:
    golden = tensors(folder / "outputs_zero_adapter.safetensors")
    model, inputs = model_of(folder, pad_embed, adapter), inputs_of(folder)
    ending = "_with_pad_embed" if pad_embed else ""
    with torch.no_grad():
        out = model(**inputs)
    assert absolute_error(out.logits, golden[f"logits{ending}"]) <= LOGITS
    assert model.generate(**inputs, max_new_tokens=NEW_TOKENS) == golden[f"generated_ids{ending}"].tolist()
    if not pad_embed:
        assert_near(out.image_tokens, golden["projected"], HIDDEN)


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
    assert_near(context, golden["context_mean_sample1"], FEATURES)
    real = (batch["pixels"][1] != -1).flatten(1).any(-1)
    assert_near(out.image_tokens[1:, real], golden["projected_sample1"][:, real], HIDDEN)
    first = tensors(folder / "outputs.safetensors")["logits"]
    assert absolute_error(out.logits[:1], first) <= LOGITS
    assert absolute_error(out.logits[1:, valid], golden["logits_sample1"][:, valid]) <= BATCH_LOGITS
    assert absolute_error(alone.logits, golden["single_logits"]) <= BATCH_LOGITS
    assert model.generate(**batch, max_new_tokens=NEW_TOKENS) == golden["generated_ids"].tolist()


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
    assert absolute_error(out.loss.detach()[None], golden["loss"]) <= 1e-5
    assert absolute_error(out.logits.detach(), golden["logits"]) <= BATCH_LOGITS
    gradients = published_gradients(model)
    for name, value in golden.items():
        if name.startswith("grad."):
            assert relative_error(gradients[name.removeprefix("grad.")], value) <= 3e-4, name
    for name, norm in norms["grad_l2_norm"].items():
        if norm >= 1e-6:
            assert gradients[name].double().norm().item() == pytest.approx(norm, rel=2e-4), name


def published_gradients(model: PointingModel) -> dict[str, Tensor]:
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
    assert absolute_error(crops.pixels[None], golden["images"]) <= 2e-6
    assert torch.equal(crops.masks[None], golden["image_masks"])
    index = torch.where(crops.input_idx >= 0, crops.input_idx + 1, crops.input_idx)[None]
    assert torch.equal(index, golden["image_input_idx"])
    start = crops.token_kinds + model.config.language.vocab_size
    assert torch.equal(golden["input_ids"][0, 1 : len(start) + 1], start)
    with torch.no_grad():
        out = model(golden["input_ids"], crops.pixels[None], past[None], crops.masks[None], index)
    assert absolute_error(out.logits, wanted["logits"]) <= LOGITS
