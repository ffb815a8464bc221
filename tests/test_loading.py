"""Checkpoints in one file or many, ours and published: strict, exact both ways, and never twice in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map
from safetensors.torch import load_file, save_file

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.model.config import ImageConfig, LanguageConfig, VisionConfig
from videomolmo.weights.assign import INDEX_FILE, WEIGHTS_FILE, Shards
from videomolmo.weights.checkpoint import check_memory, convert, device_named, export, load_model
from videomolmo.weights.published import (
    ADAPTER,
    MOLMO_7B_D,
    PAD_EMBED,
    config_for_hub,
    config_from_hub,
    to_published,
)

INPUTS = {
    "input_ids": torch.tensor([[7, 300, 301, 302, 9, 11]]),
    "image_input_idx": torch.tensor([[[1, 2, 3, 4]]]),
}


def small(**changes: object) -> VideoMolmoConfig:
    """The published architecture, tiny."""
    values = {
        "image": ImageConfig(size_px=56, patch_px=14, max_crops=0),
        "vision": VisionConfig(width=32, heads=2, layers=4, mlp=64, vit_layers=(-2, -3)),
        "language": LanguageConfig(
            vocab_size=300, extra_vocab=128, width=64, layers=3, heads=4, kv_heads=2, ff=96, end_of_text=3
        ),
    }
    return VideoMolmoConfig(**(values | changes))


def pixels(seed: int, past: bool = False) -> torch.Tensor:
    shape = (1, 4, 1, 16, 588) if past else (1, 1, 16, 588)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits(model: VideoMolmoForConditionalGeneration) -> torch.Tensor:
    with torch.no_grad():
        return model(pixels=pixels(1), past_pixels=pixels(2, past=True), **INPUTS).logits


@pytest.fixture
def model() -> VideoMolmoForConditionalGeneration:
    torch.manual_seed(4)
    made = VideoMolmoForConditionalGeneration(small()).eval()
    torch.nn.init.normal_(made.temporal.attention.wo.weight, std=0.1)
    return made


@pytest.fixture
def published(model: VideoMolmoForConditionalGeneration, tmp_path: Path) -> Path:
    """The model as it would lie on the hub, in several shards."""
    model.save_pretrained(tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "published", shard_size="200KB")
    return tmp_path / "published"


def rewrite(folder: Path, change) -> None:
    """Replace all shards by one file whose tensors went through `change`."""
    state = dict(Shards(folder))
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file(change(state), folder / WEIGHTS_FILE)


def without_adapter(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name not in ADAPTER}


# Both ways


def test_export_makes_shards_that_load_to_the_same_model(model, published):
    assert len(list(published.glob("*.safetensors"))) > 3 and (published / INDEX_FILE).is_file()
    again = load_model(published)
    assert not again.training and all(
        torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True)
    )
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convert_and_export_give_back_every_bit(published, tmp_path, dtype):
    rewrite(published, lambda state: {name: value.to(dtype) for name, value in state.items()})
    convert(published, tmp_path / "converted")
    export(tmp_path / "converted", tmp_path / "again")
    first, second = dict(Shards(published)), dict(Shards(tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(first[name].dtype == dtype and torch.equal(first[name], second[name]) for name in first)


def test_commands_convert_and_export(published, tmp_path, capsys):
    (published / "tokenizer.json").write_text("{}")
    assert main(["convert", str(published), str(tmp_path / "a"), "--dtype", "bfloat16"]) == 0
    assert main(["export-weights", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    assert {value.dtype for _, value in Shards(tmp_path / "b")} == {torch.bfloat16}
    capsys.readouterr()
    assert main(["export", str(tmp_path / "a"), str(tmp_path / "b")]) == 2  # as it was spelt before
    told = capsys.readouterr().err
    assert "not empty" in told and "export-weights" in told


def test_nano_has_parts_without_a_published_name(tmp_path):
    VideoMolmoForConditionalGeneration(VideoMolmoConfig.nano()).save_pretrained(tmp_path / "nano")
    with pytest.raises(BadInput, match="has no published name"):
        export(tmp_path / "nano", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Molmo without a temporal module


def test_molmo_starts_as_itself_and_can_learn(model, published):
    rewrite(published, without_adapter)
    molmo = load_model(published)
    single = VideoMolmoForConditionalGeneration(small(temporal="none")).eval()
    single.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("temporal.")})
    with torch.no_grad():
        alone = single(pixels=pixels(1), **INPUTS).logits
    assert torch.equal(logits(molmo), alone)
    out = molmo(pixels=pixels(1), past_pixels=pixels(2, past=True), **INPUTS).logits
    out.square().mean().backward()
    assert molmo.temporal.attention.wo.weight.grad.abs().max() > 0
    again = load_model(published)
    assert all(torch.equal(a, b) for a, b in zip(molmo.parameters(), again.parameters(), strict=True))


def test_half_an_adapter_is_no_adapter(published):
    rewrite(published, lambda state: {name: value for name, value in state.items() if name != ADAPTER[0]})
    with pytest.raises(BadInput, match=r"1 missing: temporal\.attention\.wq\.weight"):
        load_model(published)


# What does not fit


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state | {"model.stranger": torch.zeros(1)}, "'model.stranger' is unknown"),
        (lambda state: state | {PAD_EMBED: torch.zeros(2, 64)}, "1 unexpected: pad_embed"),
        (lambda state: state | {"model.transformer.ln_f.weight": torch.zeros(9)}, "1 misshaped: language.norm.weight"),
        (lambda state: {k: v for k, v in state.items() if "ln_f" not in k}, "1 missing: language.norm.weight"),
        (lambda state: {k: v.int() for k, v in state.items()}, "expected floating point"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_they_are_read(published, change, message):
    rewrite(published, change)
    with pytest.raises(BadInput, match=message):
        load_model(published)


def test_shards_that_are_not_what_the_index_says(published):
    shards = sorted(published.glob("*.safetensors"))
    index = json.loads((published / INDEX_FILE).read_text())
    name = next(iter(load_file(shards[1])))
    save_file(load_file(shards[0]) | {name: torch.zeros(1)}, shards[0])
    with pytest.raises(BadInput, match="is not promised there"):
        Shards(published)
    shards[0].write_bytes(shards[0].read_bytes()[:1000])
    with pytest.raises(BadInput, match="no complete safetensors file"):
        Shards(published)
    shards[0].unlink()
    with pytest.raises(BadInput, match="does not exist"):
        Shards(published)
    for weight_map, message in (
        ({"a": "../elsewhere.safetensors"}, "beside it"),
        ({"a": "weights.bin"}, "beside it"),
        ({}, "no file"),
        ([], "no index"),
        (index["weight_map"] | {"more": shards[1].name}, "does not exist"),
    ):
        (published / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(BadInput, match=message):
            Shards(published)


def test_a_weight_that_the_index_promises_and_no_shard_has(published):
    index = json.loads((published / INDEX_FILE).read_text())
    index["weight_map"]["more"] = sorted(published.glob("*.safetensors"))[0].name
    (published / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(BadInput, match="1 weights are in no shard, first 'more'"):
        Shards(published)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "llama"}, "expected 'molmo'"),
        (MOLMO_7B_D | {"qkv_bias": False, "norm_after": True}, "Molmo-7B-O"),
        (MOLMO_7B_D | {"attention_layer_norm": True}, "another language model"),
    ],
)
def test_other_architectures_are_refused(values, message):
    with pytest.raises(BadInput, match=message):
        config_from_hub(values, set())


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "molmo", "hidden_size": 0},
        {"model_type": "molmo", "num_attention_heads": "many"},
        {"model_type": "molmo", "intermediate_size": None},
        {"model_type": "molmo", "videomolmo": {"context": 0}},
        {"model_type": "molmo", "videomolmo": [1]},
    ],
)
def test_a_spoilt_config_json_is_named(published, values):
    (published / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match=r"config\.json"):
        load_model(published)


def test_the_hub_configuration_of_full_size():
    assert config_from_hub({"model_type": "molmo"}, set()) == VideoMolmoConfig.molmo_7b()
    padded = VideoMolmoConfig.molmo_7b(image_padding_embed="pad_and_partial_pad")
    assert config_from_hub(MOLMO_7B_D, {PAD_EMBED}) == padded
    written = config_for_hub(padded)
    assert {name: written[name] for name in MOLMO_7B_D} == MOLMO_7B_D
    assert config_from_hub(written, set()) == padded


# Memory

PEAK = """
import re, sys, torch
from videomolmo.weights.checkpoint import load_model
from videomolmo.model.pointing import VideoMolmoForConditionalGeneration
from videomolmo.weights.quantize import weight_bytes
torch.set_num_threads(1)
high = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = high()
model = load_model(sys.argv[1], dtype=torch.bfloat16)
peak = high()
print(before, peak, weight_bytes(model))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of a process are read from Linux's /proc")
def test_loading_never_holds_the_weights_twice(tmp_path):
    """A checkpoint of 240 MB in shards of 20 MB: the peak stays below the model, one shard and a little."""
    language = LanguageConfig(
        vocab_size=8000, extra_vocab=128, width=1024, layers=8, heads=8, kv_heads=2, ff=2816, end_of_text=3
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {
            name: value.shape
            for name, value in to_published(VideoMolmoForConditionalGeneration(small(language=language))).items()
        }
    folder = tmp_path / "published"
    folder.mkdir()
    from huggingface_hub import save_torch_state_dict

    state = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_torch_state_dict(state, folder, max_shard_size="20MB")
    (folder / "config.json").write_text(json.dumps(config_for_hub(small(language=language))))
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True)
    before, peak, weights = map(int, done.stdout.split())
    largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert weights > 200e6
    assert peak - before < weights + largest + 40e6


# Fewer bits


@pytest.mark.parametrize("kind, most", [("8bit", 0.05), ("4bit", 0.5)])
def test_quantised_models_stay_close_and_small(model, published, kind, most):
    pytest.importorskip("bitsandbytes")
    from videomolmo.weights.quantize import weight_bytes

    plain, small_model = load_model(published), load_model(published, quantize=kind)
    kept = {name for name, layer in small_model.named_modules() if type(layer) is torch.nn.Linear}
    assert kept == {"head"}
    wanted, found = logits(plain), logits(small_model)
    assert 0 < (found - wanted).norm() / wanted.norm() < most
    assert weight_bytes(small_model) < weight_bytes(plain)


def test_quantised_molmo_gets_a_temporal_module_too(published):
    pytest.importorskip("bitsandbytes")
    rewrite(published, without_adapter)
    assert logits(load_model(published, quantize="4bit")).isfinite().all()


def test_kinds_and_their_library(published, monkeypatch):
    with pytest.raises(BadInput, match="quantize is '3bit'"):
        load_model(published, quantize="3bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match=r"pip install 'videomolmo\[quantize\]'"):
        load_model(published, quantize="4bit")


def test_other_attention_is_refused(published):
    with pytest.raises(BadInput, match="attention is 'flash'"):
        load_model(published, attn_implementation="flash")
    with pytest.raises(BadInput, match="half precision; take 'sdpa'"):
        load_model(published, attn_implementation="flash_attention_2")


# Several devices


def test_layers_lie_side_by_side_and_in_order():
    model = VideoMolmoForConditionalGeneration.empty(VideoMolmoConfig.molmo_7b()).to(torch.bfloat16)
    devices = infer_auto_device_map(model, dict.fromkeys(range(3), 6 * 10**9), model._no_split_modules)
    layers = [devices[f"language.layers.{number}"] for number in range(28)]
    assert layers == sorted(layers) and set(layers) == {0, 1, 2} == set(devices.values())
    assert devices["head"] == devices["language.norm"] == layers[-1]
    whole = ("vision", "temporal", "connector", "new_embedding", "language.embed_tokens")
    assert {devices[name] for name in whole} == {0}


def test_too_little_memory_is_refused(published):
    full = VideoMolmoConfig.molmo_7b()
    check_memory(full, 2, [24 * 10**9])
    with pytest.raises(BadInput, match=r"take 16\.1 GB and the GPUs have 16\.0 GB free"):
        check_memory(full, 2, [8 * 10**9, 8 * 10**9])
    with pytest.raises(BadInput, match="there is none"):
        check_memory(full, 2, [])
    with pytest.raises(BadInput, match="expected None or 'auto'"):
        load_model(published, device_map="balanced")


@pytest.mark.parametrize("away", ["language.layers.1", "language.embed_tokens", "vision", "connector"])
def test_a_model_in_pieces_answers_alike(published, tmp_path, away):
    """A piece lies on the disk, the others on the CPU: what is proved is the map and the hooks, not the way of GPUs."""
    devices = dict.fromkeys(["new_embedding", "head", *(f"language.{name}" for name in ("norm", "rotary_emb"))], "cpu")
    devices |= dict.fromkeys(["vision", "temporal", "connector", "language.embed_tokens"], "cpu")
    devices |= {f"language.layers.{number}": "cpu" for number in range(3)} | {away: "disk"}
    pieces = VideoMolmoForConditionalGeneration.from_pretrained(
        published, device_map=devices, offload_folder=tmp_path / "away"
    )
    assert any(parameter.is_meta for parameter in pieces.parameters())
    assert torch.equal(logits(pieces), logits(load_model(published)))


# Apple's GPUs, as far as they can be tried without one


def test_apples_gpu_is_taken_where_it_is_asked_for_and_there(monkeypatch, tmp_path):
    with pytest.raises(BadInput, match="device is 'mps', but torch finds no such GPU here; use --device cpu"):
        device_named("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [device_named(name) for name in ("mps", "mps:0", "auto")] == ["mps", "mps:0", "cpu"]
    with pytest.raises(BadInput, match="device is 'mpsx', expected 'auto', 'cpu', 'cuda' or 'mps'"):
        device_named("mpsx")
    with pytest.raises(BadInput, match="quantize is '4bit', which bitsandbytes does on CPUs and NVIDIA's GPUs only"):
        load_model(tmp_path, "mps", quantize="4bit")


def test_what_apples_gpu_cannot_compute_the_cpu_does():
    code = (
        "import os, sys; sys.platform = 'darwin'; import videomolmo; print(os.environ['PYTORCH_ENABLE_MPS_FALLBACK'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_MPS_FALLBACK"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
