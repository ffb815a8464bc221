"""Configurations and checkpoints of SAM 2 that a stranger made to run code, to take memory, or to no purpose."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_hostile_models import FUZZ, KINDS, fields_of, linux, read_or_refused, refused, with_value

from videomolmo.masks.configuration import read_configuration
from videomolmo.masks.sam2 import build_published, load_nano, load_published
from videomolmo.weights.hub import nano_masks

pytestmark = linux


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Libraries are loaded before any peak is taken."""
    load_nano(nano_masks())


@pytest.fixture
def masks(tmp_path) -> Path:
    return Path(shutil.copytree(nano_masks(), tmp_path / "masks"))


# Configurations of SAM 2 that would run code, or are none


def sam2() -> dict:
    return yaml.safe_load((nano_masks() / "config.yaml").read_text())


def runs(target: str, marker: Path) -> dict:
    return {"_target_": target, "path": str(marker)}


@pytest.mark.parametrize(
    "text",
    [
        "${{oc.create:{{_target_: os.mkdir, path: {0}}}}}", "${{oc.env:HOME}}", "${{image_size}}",
        "!!python/object/apply:os.mkdir ['{0}']", "!!python/name:os.mkdir", "{{_target_: os.mkdir, path: {0}}}",
        "{{_target_: sam2.modeling.sam2_base.torch.manual_seed, seed: 4}}",
        "{{_target_: hydra.utils.get_method, path: os.mkdir}}", "{{_target_: builtins.eval, _args_: ['1']}}",
        "{{_target_: sam2.modeling.backbones.hieradet.Hiera, weights_path: {0}}}",
        "{{_target_: sam2.modeling.memory_encoder.Fuser, _partial_: true}}", "!!set {{a, b}}", "&a [*a]",
        "!!timestamp 2001-01-01", "[2001-01-01]", "!!binary aGVsbG8=", "0x7fffffffffff", "190:20:30", ".nan", ".inf",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["image_size", "image_encoder", "neck", "sam_mask_decoder_extra_args", "_target_"])
def test_configurations_of_sam2_that_would_run_code(text, place, masks, tmp_path):
    path, value = masks / "config.yaml", text.format(tmp_path / "made")
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.split(":")[0].strip() != place or line.startswith("    ")]
    path.write_text("\n".join([*kept, f"{place}: {value}"]))
    refused(load_nano, masks, "config.yaml")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "5", "{", "\t", "a: b: c", "- " * 20_000, "{" * 20_000, "a: &x [1]\nb: *x", "? {a: b}\n: c",
        "%YAML 9.9\n---\na: 1", "--- 1\n--- 2", "!!python/object/new:os.system [ls]", "a: " + "9" * 20_000, "\x00",
        "x0: &x0 [a, a]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 60)),
        "<<: {a: 1}", "_target_: sam2.modeling.sam2_base.SAM2Base", "1: 2", "[1]: 2", "a: !!int x", "a: !!float x",
    ],
)  # fmt: skip
def test_texts_that_are_no_configuration_of_sam2(text, masks):
    (masks / "config.yaml").write_text(text)
    refused(load_nano, masks, "config.yaml")


RIGHT = [(200_000, "rope_theta"), (200_000, "temperature"), ([], "global_att_blocks"), ([], "fpn_top_down_levels"),
         (-3, "sigmoid_scale_for_mem_enc"), (-3, "sigmoid_bias_for_mem_enc")]  # fmt: skip


@pytest.mark.parametrize("way", [way for way in fields_of(sam2()) if way[-1] != "_target_"], ids=".".join)
def test_sizes_of_sam2_that_are_none(way, masks):
    """Each is refused for its value, or because no weights or no frames fit."""
    values, old = sam2(), sam2()
    for key in way:
        old = old[key]
    for value in (200_000, 10**30, 4.5e30, -3, 2**63, True, "12", [], [[1]], {"_target_": "os.mkdir"}, [10**9] * 2):
        (masks / "config.yaml").write_text(yaml.safe_dump(with_value(values, way, value)))
        if type(value) is type(old) is bool or (value, way[-1]) in RIGHT:
            load_nano(masks)
        else:
            refused(load_nano, masks, str(masks))


def test_sizes_of_sam2_in_bounds_that_do_not_fit_one_another(masks):
    encoder, attention = ("image_encoder",), ("memory_attention", "layer")
    for way, value in (
        ((*encoder, "trunk", "stages"), [64] * 3), ((*encoder, "trunk", "embed_dim"), 512), ((*encoder, "scalp"), 5),
        ((*encoder, "neck", "d_model"), 4096), ((*encoder, "trunk", "window_spec"), [8]), (("backbone_stride",), 32),
        ((*attention, "dim_feedforward"), 2**15), (("memory_attention", "num_layers"), 32), (("num_maskmem",), 64),
        (("image_size",), 1025), ((*attention, "self_attention", "num_heads"), 3),
        (("memory_encoder", "mask_downsampler", "stride"), 16), (("memory_encoder", "fuser", "layer", "padding"), 15),
        (("memory_encoder", "position_encoding", "num_pos_feats"), 4096), (("image_size",), 33),
    ):  # fmt: skip
        (masks / "config.yaml").write_text(yaml.safe_dump(with_value(sam2(), way, value)))
        refused(load_nano, masks, str(masks))


# Checkpoints of a published SAM 2


class Runs:
    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


TINY = "facebook/sam2.1-hiera-tiny"


def load_tiny(path: Path) -> None:
    load_published(TINY, path)


def zipped(path: Path, content: object, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("a/version", "3")


def test_checkpoints_of_sam2_that_would_run_code_or_take_memory(tmp_path):
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    for content in (
        Runs(os.mkdir, str(tmp_path / "made")), {"model": Runs(bytearray, 10**12)}, {"model": Runs(eval, "1")},
        {"model": [Runs(os.mkdir, str(tmp_path / "made"))]}, {"model": OrderedDict(a=1)}, {"model": None}, [], {}, None,
        {"model": {1: 2}},
    ):  # fmt: skip
        zipped(path, content)
        refused(load_tiny, path, path.name, "not a SAM 2 checkpoint")
        path.write_bytes(pickle.dumps(content, protocol=4))
        refused(load_tiny, path, path.name, "not a SAM 2 checkpoint")
    zipped(path, "x" * 10**8, zipfile.ZIP_DEFLATED)
    refused(load_tiny, path, "is packed, or larger")
    for content in (b"", b"PK\x05\x06" + bytes(18), bytes(1000), b"PK\x03\x04" + bytes(1000)):
        path.write_bytes(content)
        refused(load_tiny, path, path.name)
    assert not (tmp_path / "made").exists()


def test_tensors_of_a_published_sam2_that_are_none(tmp_path):
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    state = build_published(TINY).state_dict()
    name = "memory_attention.norm.weight"
    torch.save({"model": state}, path)
    load_tiny(path)
    for value, words in (
        (torch.full_like(state[name], float("nan")), "not finite"), (torch.zeros(3), "do not fit"),
        (torch.zeros(1).expand(2**40), "in a block of other size"), (state[name].long(), "not a SAM 2"),
        (torch.empty(256, device="meta"), "not a SAM 2 checkpoint"), (state[name].to_sparse(), "not a SAM 2"),
    ):  # fmt: skip
        torch.save({"model": state | {name: value}}, path)
        refused(load_tiny, path, words)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(load_tiny, path, "not a SAM 2 checkpoint")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling link", "loop"])
def test_checkpoints_that_are_no_files(kind, tmp_path):
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    KINDS[kind](path)
    refused(load_tiny, path, path.name)


# Anything at all

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=9)
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4))


@FUZZ
@given(way=st.sampled_from(fields_of(sam2())), value=VALUES, whole=st.booleans())
def test_any_configuration_is_read_or_refused(way, value, whole, tmp_path):
    path = tmp_path / "config.yaml"
    text = yaml.dump(value if whole else with_value(sam2(), way, value), allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "replace"))
    read_or_refused(read_configuration, path)


@FUZZ
@given(content=st.binary(max_size=200), at=st.integers(0, 3000), cut=st.booleans())
def test_any_damage_of_a_configuration_is_read_or_refused(content, at, cut, tmp_path):
    path, right = tmp_path / "config.yaml", (nano_masks() / "config.yaml").read_bytes()
    path.write_bytes(right[:at] + content + (b"" if cut else right[at + len(content) :]))
    read_or_refused(read_configuration, path)
