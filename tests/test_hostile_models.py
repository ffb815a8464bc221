"""Model folders that a stranger broke or made to harm: each is refused in one line, at once, and without memory."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_loading import small

from videomolmo.errors import BadInput
from videomolmo.masks.sam2 import load_nano
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.training.model import merge
from videomolmo.training.recipe import Learn
from videomolmo.weights.assign import INDEX_FILE, WEIGHTS_FILE, Shards
from videomolmo.weights.checkpoint import convert, export, load_model
from videomolmo.weights.hub import hashes, nano_masks, nano_pointing
from videomolmo.weights.published import ADAPTER, MOLMO_7B_D, read_configuration

SECONDS, MEMORY = 10, 300e6
Change = Callable[[Path], object]
linux = pytest.mark.skipif(sys.platform != "linux", reason="pipes, links and peaks of memory as Linux has them")
pytestmark = linux


def peak() -> float:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refused(load: Callable[[Path], object], path: Path, *words: str) -> str:
    """What is said, in one line, about what is refused at once and without memory."""
    begun, before = time.process_time(), peak()  # of this process: the machine may be busy
    with pytest.raises(BadInput) as caught:
        load(path)
    said = str(caught.value)
    assert time.process_time() - begun < SECONDS and peak() - before < MEMORY
    assert len(said.splitlines()) == 1 and len(said) < 1200
    assert all(word in said for word in words), said
    return said


def load_pointing(folder: Path) -> None:
    model = load_model(folder)
    VideoMolmoProcessor(load_tokenizer(folder, model.config.language), model.config)


@pytest.fixture
def pointing(tmp_path) -> Path:
    return Path(shutil.copytree(nano_pointing(), tmp_path / "pointing"))


@pytest.fixture
def masks(tmp_path) -> Path:
    return Path(shutil.copytree(nano_masks(), tmp_path / "masks"))


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Libraries are loaded before any peak is taken."""
    load_pointing(nano_pointing())
    load_nano(nano_masks())


# Files that are none

TEXTS = {
    "empty": b"", "cut": b'{"a": ', "deep": b"[" * 200_000, "deep objects": b'{"a":' * 100_000, "null": b"null",
    "list": b"[]", "text": b'"x"', "NaN": b'{"image": NaN}', "beyond": b'{"context": 1e999}', "zeros": bytes(1000),
    "digits": b'{"context": ' + b"9" * 100_000 + b"}", "utf-16": '{"context": 4}'.encode("utf-16"),
    "latin": '{"ü": "é"}'.encode("latin-1"), "lone": b'{"\\ud800": 1}', "safetensors": bytes(8) + b"{}",
}  # fmt: skip
READ = {
    "config.json": load_pointing, "tokenizer.json": load_pointing, "tokenizer_config.json": load_pointing,
    "special_tokens_map.json": load_pointing, "added_tokens.json": load_pointing, INDEX_FILE: load_pointing,
    WEIGHTS_FILE: load_pointing, "config.yaml": load_nano, "masks.safetensors": load_nano,
}  # fmt: skip
KINDS: dict[str, Change] = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "link outside": lambda path: path.symlink_to(Path(shutil.copyfile(kept(path), path.parent.parent / "elsewhere"))),
}


def kept(path: Path) -> Path:
    """The right file for this place, or any at all."""
    source = nano_masks() if path.parent.name == "masks" else nano_pointing()
    return source / path.name if (source / path.name).is_file() else source / "README.md"


def placed(name: str, pointing: Path, masks: Path) -> Path:
    """Where a file is read from; nothing lies there any more."""
    folder = masks if READ[name] is load_nano else pointing
    path = folder / name.replace("masks.safetensors", WEIGHTS_FILE)
    path.unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("name", READ)
def test_files_that_are_none(name, pointing, masks):
    path = placed(name, pointing, masks)
    for content in TEXTS.values():
        if content.startswith(b'{"\\u') and "token" in name and name != "tokenizer.json":
            continue  # any text may name a token
        path.write_bytes(content)
        refused(READ[name], path.parent, str(path.parent))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READ)
def test_places_where_no_file_lies(name, kind, pointing, masks):
    path = placed(name, pointing, masks)
    KINDS[kind](path)
    refused(READ[name], path.parent, path.name)


def test_a_text_too_large_is_not_read(pointing, masks):
    for path, load in ((pointing / "config.json", load_pointing), (masks / "config.yaml", load_nano)):
        with path.open("r+b") as file:
            file.truncate(2**40)  # takes no place on the disk
        refused(load, path.parent, "bytes, expected at most")


def test_a_byte_order_mark_is_no_fault(pointing, masks):
    for path in (pointing / "config.json", masks / "config.yaml"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    load_pointing(pointing)
    load_nano(masks)


def test_the_hubs_cache_is_made_of_links(tmp_path):
    """A snapshot's files lie in `blobs` beside it; and nothing that only looks like a cache tells a file's hash."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(nano_pointing().iterdir()):
        shutil.copyfile(path, blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    load_pointing(snapshot)
    assert hashes(snapshot) == hashes(nano_pointing())
    os.mkfifo(snapshot / "other.safetensors")
    assert hashes(snapshot) == hashes(nano_pointing())


def test_no_foreign_file_is_copied_into_an_export(tmp_path, pointing):
    (tmp_path / "secret").write_text("{}")
    (pointing / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    refused(lambda path: convert(path, tmp_path / "out"), pointing, "leaves its folder")


# Sizes that are none

STRANGE = [200_000, 10**12, 10**400, 4.5, 1e30, -1, -(10**9), "12", "many", True, None, [], [4], {}, {"a": 1}, [[1]]]
LARGE = {"rope_theta": (200_000, 10**12, 4.5), "max_positions": (200_000,), "vocab_size": (200_000,)}
FREE = {"temporal_heads", "temporal_head_dim", "projector_width", "image_padding_embed", "loss_token_weighting"}


def fields_of(values: dict) -> list[tuple[str, ...]]:
    return [
        way for key, value in values.items()
        for way in ([(key, *more) for more in fields_of(value)] if isinstance(value, dict) else [(key,)])
    ]  # fmt: skip


def with_value(values: Any, way: tuple, value: object) -> Any:
    values = copy.deepcopy(values)
    inner = values
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return values


def fits(old: object, new: object, name: str) -> bool:
    """Whether a strange value is a right one there."""
    if new is None:
        return name in FREE
    if type(old) is bool or type(new) is bool:
        return type(old) is type(new)
    return isinstance(old, float) and isinstance(new, int) and 0 <= new <= 1


@pytest.mark.parametrize("way", fields_of(VideoMolmoConfig.nano().to_dict()), ids=".".join)
def test_sizes_of_a_pointing_model_that_are_none(way, tmp_path):
    values = VideoMolmoConfig.nano().to_dict()
    old = values
    for key in way:
        old = old[key]
    path = tmp_path / "config.json"
    for value in STRANGE:
        if fits(old, value, way[-1]) or (way[-1] in LARGE and value in LARGE[way[-1]]):
            continue
        path.write_text(json.dumps(with_value(values, way, value)))
        assert way[-1] in refused(VideoMolmoConfig.from_json, path, str(path)), (way, value)


@pytest.mark.parametrize("key", [key for key, value in MOLMO_7B_D.items() if type(value) in (int, float)])
def test_sizes_of_a_published_model_that_are_none(key, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    for value in STRANGE:
        (tmp_path / "config.json").write_text(json.dumps(MOLMO_7B_D | {key: value}))
        refused(load_model, tmp_path, str(tmp_path))


def test_sizes_in_bounds_are_compared_with_the_weights_before_memory_is_taken(pointing):
    """Of each size the largest that may be; such a model would take terabytes."""
    values = json.loads((pointing / "config.json").read_text())
    for way, value in (
        (("language", "width"), 2**17), (("language", "ff"), 2**17), (("language", "vocab_size"), 2**22),
        (("language", "layers"), 256), (("vision", "width"), 2**17), (("vision", "layers"), 256),
        (("vision", "mlp"), 2**17), (("image", "size_px"), 4096), (("temporal_head_dim",), 2**17),
        (("projector_width",), 2**17), (("language", "extra_vocab"), 2**16),
    ):  # fmt: skip
        (pointing / "config.json").write_text(json.dumps(with_value(values, way, value)))
        refused(load_model, pointing, "do not fit the configuration")


def test_a_molmo_without_temporal_module_gets_none_before_its_sizes_are_compared(tmp_path):
    VideoMolmoForConditionalGeneration(small()).save_pretrained(tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "hub")
    state = {name: value for name, value in Shards(tmp_path / "hub") if name not in ADAPTER}
    save_file(state, tmp_path / "hub" / WEIGHTS_FILE)
    path = tmp_path / "hub" / "config.json"
    values = with_value(json.loads(path.read_text()), ("videomolmo", "vision", "width"), 2**17)
    path.write_text(json.dumps(values))
    refused(load_model, path.parent, "do not fit the configuration")


# Weights that are none

NANO_WEIGHT = "language.norm.weight"


def raw(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


RAW = {
    "length 0": raw(b"", length=0), "length lies": raw({}, length=10**9), "length 2^63": raw({}, length=2**63),
    "length -1": raw({}, length=2**64 - 1), "one byte less": raw({"a": tensor([4], 0, 16)}, length=10),
    "no header": b"1234", "header of text": raw(b"hello"), "header of bytes": raw(b"\xff\xfe\x00"),
    "beyond": raw({"a": tensor([400], 0, 1600)}), "backwards": raw({"a": tensor([4], 16, 0)}),
    "overlap": raw({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}), "hole": raw({"a": tensor([1], 12, 16)}),
    "absurd": raw({"a": tensor([2**40, 2**40], 0, 16)}), "empty and absurd": raw({"a": tensor([0, 2**62], 0, 0)}, b""),
    "negative": raw({"a": tensor([-4], 0, 16)}), "text": raw({"a": tensor(["4"], 0, 16)}),
    "whole numbers": raw({"a": tensor([4], 0, 16, "I32")}), "unknown": raw({"a": tensor([4], 0, 16, "F99")}),
    "twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(tensor([2], 0, 8)).encode(),) * 2), bytes(8)),
    "list": raw([1]), "deep": raw(b'{"a":' * 5000), "many sizes": raw({"a": tensor([1] * 5000, 0, 4)}, bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", RAW)
def test_headers_that_lie(kind, pointing, masks):
    for folder, load in ((pointing, load_pointing), (masks, load_nano)):
        (folder / WEIGHTS_FILE).write_bytes(RAW[kind])
        refused(load, folder, str(folder))


def test_indices_that_lead_elsewhere(pointing, tmp_path):
    weights = load_file(pointing / WEIGHTS_FILE)
    shutil.copyfile(pointing / WEIGHTS_FILE, tmp_path / "x.safetensors")
    (pointing / "part").mkdir()
    shutil.copyfile(pointing / WEIGHTS_FILE, pointing / "part" / "x.safetensors")
    (pointing / "link.safetensors").symlink_to(tmp_path / "x.safetensors")
    for file in (
        "../x.safetensors", str(tmp_path / "x.safetensors"), "part/x.safetensors", "./../x.safetensors", "..", "",
        "link.safetensors", "nowhere.safetensors", "\0.safetensors", "x" * 5000 + ".safetensors", "x.bin", 5, None,
        ["x"], {"a": "b"},
    ):  # fmt: skip
        (pointing / INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(weights, file)}))
        refused(load_pointing, pointing, str(pointing))
    for values in ({}, {"weight_map": []}, {"weight_map": None}, {"weight_map": {}}, [], None):
        (pointing / INDEX_FILE).write_text(json.dumps(values))
        refused(load_pointing, pointing, INDEX_FILE)


def test_a_tensor_in_two_shards(pointing):
    weights = load_file(pointing / WEIGHTS_FILE)
    for name in ("a.safetensors", "b.safetensors"):
        save_file(weights, pointing / name)
    places = dict.fromkeys(weights, "a.safetensors")
    (pointing / INDEX_FILE).write_text(json.dumps({"weight_map": places | {NANO_WEIGHT: "b.safetensors"}}))
    refused(load_pointing, pointing, "is not promised there")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value, pointing, masks, tmp_path):
    for folder, load in ((pointing, load_pointing), (masks, load_nano)):
        state = load_file(folder / WEIGHTS_FILE)
        for name in (min(state), max(state)):
            spoilt = state[name].clone()
            spoilt.view(-1)[-1] = value
            save_file(state | {name: spoilt}, folder / WEIGHTS_FILE)
            refused(load, folder, repr(name), "not finite", str(folder))


@pytest.mark.parametrize("quantize", [None, "8bit", "4bit"])
def test_streamed_and_quantised_weights_that_are_not_finite(quantize, tmp_path):
    if quantize:
        pytest.importorskip("bitsandbytes")
    model = VideoMolmoForConditionalGeneration(small())
    model.language.layers[1].mlp.down_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "ours")
    refused(lambda path: load_model(path, quantize=quantize), tmp_path / "ours", "layers.1.mlp.down_proj", "finite")


def test_weights_too_large_for_half_precision(tmp_path):
    model = VideoMolmoForConditionalGeneration(small())
    model.language.norm.weight.data[0] = 1e6
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path).language.norm.weight[0] == 1e6
    refused(lambda path: load_model(path, dtype=torch.float16), tmp_path, NANO_WEIGHT, "too large for torch.float16")


def test_adapters_that_are_not_finite():
    model, learn = VideoMolmoForConditionalGeneration(small()), Learn(parts=["lora"], rank=2)
    name = "language.layers.0.mlp.down_proj.lora_{}.default.weight"
    learnt = {name.format("A"): torch.full((2, 96), float("nan")), name.format("B"): torch.zeros(64, 2)}
    refused(lambda _: merge(model, learnt, learn), Path(), "lora_A", "not finite")


# Tokenizers that are none

TOKENIZERS: dict[str, Callable[[dict], object]] = {
    "no model": lambda t: t.pop("model"), "another model": lambda t: t["model"].update(type="Nope"),
    "no words": lambda t: t["model"].update(vocab={}, merges=[]), "no pieces": lambda t: t.update(pre_tokenizer=None),
    "merge of strangers": lambda t: t["model"].update(merges=[["qqq", "zzz"]]),
    "huge id": lambda t: t["model"]["vocab"].update(zzz=2**32 - 1), "id of text": lambda t: t["model"].update(vocab=5),
    "negative id": lambda t: t["model"]["vocab"].update(a=-1), "fraction": lambda t: t["model"]["vocab"].update(a=0.5),
    "ids taken": lambda t: t["model"].update(vocab=dict.fromkeys(t["model"]["vocab"], 5)),
    "added is none": lambda t: t.update(added_tokens=None), "added is text": lambda t: t.update(added_tokens="x"),
    "nothing added": lambda t: t["added_tokens"][0].pop("content"),
    "too many": lambda t: t["added_tokens"].extend(
        {**t["added_tokens"][1], "id": 600 + n, "content": f"<{n}>"} for n in range(50_000)
    ),
    "too many words": lambda t: t["model"]["vocab"].update({f"z{n}": 600 + n for n in range(50_000)}),
    "another piece": lambda t: t.update(pre_tokenizer={"type": "Nope"}),
    "broken pattern": lambda t: t.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}
    ),
    "swallows all": lambda t: t.update(
        post_processor={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    ),
    "another version": lambda t: t.update(version="9"), "decoder": lambda t: t.update(decoder=[]),
}  # fmt: skip
SETTINGS = [
    {"bos_token": 5}, {"bos_token": {"content": 5}}, {"bos_token": {"nope": "x"}}, {"eos_token": ["a"]},
    {"model_max_length": "x"}, {"model_max_length": -1}, {"init_inputs": [1, 2]}, {"extra_special_tokens": 5},
    {"extra_special_tokens": [str(n) for n in range(100_000)]}, {"added_tokens_decoder": {"x": "y"}},
    {"added_tokens_decoder": {"5": {"content": 5}}}, {"added_tokens_decoder": []}, {"padding_side": "up"},
    {"tokenizer_file": "/etc/passwd"}, {"vocab_file": "../x"}, {"_tokenizer": 5}, {"encode": 5}, {"self": 1},
    {"__class__": 1}, {"fast_tokenizer_files": ["../x"]}, {f"{n}_token": f"<{n}>" for n in range(50_000)},
]  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_that_are_none(kind, pointing):
    path = pointing / "tokenizer.json"
    values = json.loads(path.read_text())
    TOKENIZERS[kind](values)
    path.write_text(json.dumps(values))
    refused(load_pointing, pointing, str(pointing), "tokenizer")


@pytest.mark.parametrize("values", SETTINGS, ids=lambda values: next(iter(values)))
def test_settings_of_tokenizers_that_are_none(values, pointing):
    path = pointing / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    refused(load_pointing, pointing, str(pointing), "tokenizer")


# Anything at all

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
FUZZ = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def read_or_refused(load: Callable[[Path], object], path: Path) -> None:
    try:
        load(path)
    except BadInput as error:
        assert len(str(error).splitlines()) == 1


@FUZZ
@given(way=st.sampled_from(fields_of(VideoMolmoConfig.nano().to_dict())), value=VALUES, whole=st.booleans())
def test_any_configuration_is_read_or_refused(way, value, whole, tmp_path):
    values = VideoMolmoConfig.nano().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(value if whole else with_value(values, way, value)))
    read_or_refused(VideoMolmoConfig.from_json, tmp_path / "config.json")


@FUZZ
@given(values=st.dictionaries(st.sampled_from([*MOLMO_7B_D, "videomolmo", "vocab_size"]), VALUES, max_size=6))
def test_any_published_configuration_is_read_or_refused(values, tmp_path):
    if not (tmp_path / WEIGHTS_FILE).exists():
        save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "molmo"} | values))
    read_or_refused(read_configuration, tmp_path)


@FUZZ
@given(content=st.binary(max_size=100), at=st.integers(0, 1100), cut=st.booleans())
def test_any_damage_is_read_or_refused(content, at, cut, tmp_path):
    """Of config.json, and of the header of weights."""
    for name, load in (("config.json", VideoMolmoConfig.from_json), (WEIGHTS_FILE, lambda path: Shards(path.parent))):
        right = (nano_pointing() / name).read_bytes()[:200_000]
        (tmp_path / name).write_bytes(right[:at] + content + (b"" if cut else right[at + len(content) :]))
        read_or_refused(load, tmp_path / name)
