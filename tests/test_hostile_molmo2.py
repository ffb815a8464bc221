"""Folders of a Molmo 2 that a stranger broke or made to harm: refused before transformers builds anything of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_molmo2
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_hostile_models import FUZZ, KINDS, TEXTS, TOKENIZERS, VALUES, linux, read_or_refused, refused, with_value

from videomolmo.systems import load_grounder
from videomolmo.systems.molmo2 import load_molmo2
from videomolmo.systems.molmo2_files import checked_config

pytestmark = linux
FILES = ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def right(tmp_path_factory) -> Path:
    """A Molmo 2 that was never trained."""
    folder = tmp_path_factory.mktemp("molmo2") / "right"
    processor = tiny_molmo2.processor_of(["Track the red circle at 2 FPS"])
    tiny_molmo2.model_of(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    load_molmo2(folder)
    return folder


@pytest.fixture
def molmo2(right, tmp_path) -> Path:
    return Path(shutil.copytree(right, tmp_path / "molmo2"))


def change(path: Path, way: tuple, value: object) -> None:
    values = json.loads(path.read_text())
    inner = values
    for key in way[:-1]:
        inner = inner.setdefault(key, {})
    inner[way[-1]] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_none(name, molmo2):
    for kind, content in TEXTS.items():
        if kind == "lone":
            continue
        (molmo2 / name).write_bytes(content)
        refused(load_molmo2, molmo2, str(molmo2))


@pytest.mark.parametrize("kind", KINDS)
def test_places_where_no_file_lies(kind, molmo2):
    for name in ("config.json", "processor_config.json", "model.safetensors", "tokenizer.json"):
        (molmo2 / name).unlink()
        KINDS[kind](molmo2 / name)
        refused(load_molmo2, molmo2, str(molmo2))
        (molmo2 / name).rmdir() if kind == "folder" else (molmo2 / name).unlink()
        (molmo2.parent / "elsewhere").unlink(missing_ok=True)


SIZES = [
    ("text_config", "num_hidden_layers"), ("text_config", "hidden_size"), ("text_config", "vocab_size"),
    ("text_config", "intermediate_size"), ("text_config", "head_dim"), ("vision_config", "num_hidden_layers"),
    ("vision_config", "hidden_size"), ("vision_config", "patch_size"), ("adapter_config", "intermediate_size"),
    ("adapter_config", "vision_feature_layer"), ("text_config", "rope_scaling_layers"), ("text_config",),
    ("vision_config", "num_position_embeddings"), ("vision_config", "image_size"), ("image_patch_id",),
]  # fmt: skip
RIGHT = {"image_patch_id": (200_000, 2**17), "rope_scaling_layers": ([],)}


@pytest.mark.parametrize("way", SIZES, ids=".".join)
def test_sizes_that_are_none(way, molmo2):
    path = molmo2 / "config.json"
    values = json.loads(path.read_text())
    for value in (200_000, 2**17, 10**12, 10**400, 4.5, 1e30, -1, "12", True, [], [10**9] * 2, {"a": 1}):
        if value in RIGHT.get(way[-1], ()):
            continue
        path.write_text(json.dumps(with_value(values, way, value)))
        refused(load_molmo2, molmo2, str(molmo2), "no Molmo 2 that can be loaded")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, molmo2):
    weights = load_file(molmo2 / "model.safetensors")
    name = next(name for name in weights if name.endswith("ff_norm.weight"))
    weights[name][3] = value
    save_file(weights, molmo2 / "model.safetensors", {"format": "pt"})
    refused(lambda path: load_grounder(str(path), device="cpu"), molmo2, repr(name), "not finite")


def test_nothing_but_sizes_is_taken_of_a_configuration(molmo2, right):
    """Other attention, kernels, quantisation and places of weights come from strangers as well."""
    path = molmo2 / "config.json"
    for way, value in (
        (("text_config", "_attn_implementation"), "stranger/kernels"), (("_attn_implementation",), "stranger/kernels"),
        (("auto_map",), {"AutoModel": "modeling.Model"}), (("quantization_config",), {"quant_method": "awq"}),
        (("transformers_weights",), "../x.safetensors"), (("fusion_config",), {"a": True}), (("use_kernels",), True),
        (("dtype",), "float64"), (("torch_dtype",), "float64"),
    ):  # fmt: skip
        change(path, way, value)
    change(molmo2 / "generation_config.json", ("num_beams",), 10**6)
    change(molmo2 / "generation_config.json", ("penalty_alpha",), 0.5)
    change(molmo2 / "generation_config.json", ("top_k",), 7)
    model, _ = load_molmo2(molmo2)
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    assert model.generation_config.num_beams in (None, 1) and not model.generation_config.penalty_alpha
    assert model.generation_config.eos_token_id == load_molmo2(right)[0].generation_config.eos_token_id


PROCESSORS = [
    (("video_processor", "size"), {"height": 10**6, "width": 10**6}), (("video_processor", "size"), 5),
    (("video_processor", "size"), {"height": -1, "width": 84}), (("video_processor", "patch_size"), 10**6),
    (("video_processor", "patch_size"), 0), (("video_processor", "pooling_size"), [0, 0]),
    (("video_processor", "image_std"), [0, 0, 0]), (("video_processor", "resize"), 5),
    (("video_processor", "video_processor_type"), "Qwen2VLVideoProcessor"), (("video_processor",), []),
    (("video_processor", "auto_map"), {"AutoVideoProcessor": "evil.Evil"}), (("image_processor",), 5),
    (("image_processor", "image_processor_type"), "nothing"), (("video_processor", "rescale_factor"), "x"),
]  # fmt: skip


@pytest.mark.parametrize("way, value", PROCESSORS)
def test_processors_that_are_none(way, value, molmo2, capfd):
    (molmo2 / "evil.py").write_text(f"open({str(molmo2 / 'made')!r}, 'w')")
    change(molmo2 / "processor_config.json", way, value)
    if "auto_map" in way:
        load_molmo2(molmo2)  # the library's own class, whatever is named
    else:
        refused(load_molmo2, molmo2, str(molmo2))
    assert not (molmo2 / "made").exists() and "[y/N]" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", sorted(TOKENIZERS.keys() - {"ids taken", "huge id", "too many words"}))
def test_tokenizers_that_are_none(kind, molmo2):
    path = molmo2 / "tokenizer.json"
    values = json.loads(path.read_text())
    TOKENIZERS[kind](values)
    path.write_text(json.dumps(values))
    refused(load_molmo2, molmo2, str(molmo2))


def test_an_adapter_and_foreign_shards_are_refused(molmo2, tmp_path):
    (molmo2 / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../elsewhere"}))
    refused(load_molmo2, molmo2, "adapter")
    (molmo2 / "adapter_config.json").unlink()
    shutil.copyfile(molmo2 / "model.safetensors", tmp_path / "x.safetensors")
    places = dict.fromkeys(load_file(molmo2 / "model.safetensors"), "../x.safetensors")
    (molmo2 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places, "metadata": {}}))
    refused(load_molmo2, molmo2, "beside it")


@FUZZ
@given(
    part=st.sampled_from(["text_config", "vision_config", "adapter_config", "image_patch_id"]), value=VALUES,
    key=st.sampled_from(["", "hidden_size", "num_hidden_layers", "rope_parameters", "image_size", "model_type"]),
)  # fmt: skip
def test_any_configuration_is_read_or_refused(part, key, value, right, tmp_path):
    path = tmp_path / "config.json"
    if not path.exists():
        shutil.copyfile(right / "model.safetensors", tmp_path / "model.safetensors")
    values = json.loads((right / "config.json").read_text())
    path.write_text(json.dumps(with_value(values, (part, key) if key and part.endswith("config") else (part,), value)))
    read_or_refused(lambda folder: load_config(folder), tmp_path)


def load_config(folder: Path) -> None:
    """As `load_molmo2`, without its weights; what transformers says of values that pass our bounds is caught there."""
    try:
        checked_config(folder)
    except Exception as error:
        assert len(str(error)) < 5000
