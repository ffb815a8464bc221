"""Our model by transformers' own habits: Auto classes, streamers, quantisation, adapters, its Trainer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loading import logits, rewrite, small
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    TextStreamer,
    Trainer,
    TrainingArguments,
)

from videomolmo.errors import BadInput
from videomolmo.model import (
    VideoMolmoConfig,
    VideoMolmoForConditionalGeneration,
    VideoMolmoProcessor,
    collate,
)
from videomolmo.weights.checkpoint import export, load_model
from videomolmo.weights.hub import nano_pointing
from videomolmo.weights.published import ADAPTER

KEYS = ("input_ids", "pixels", "past_pixels", "image_masks", "image_input_idx")


@pytest.fixture
def ours(tmp_path) -> Path:
    torch.manual_seed(4)
    VideoMolmoForConditionalGeneration(small()).save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def published(ours, tmp_path) -> Path:
    export(ours, tmp_path / "published", shard_size="200KB")
    return tmp_path / "published"


def frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, 64, 64, 3), np.uint8)


def test_nano_by_the_auto_classes(capsys):
    model = AutoModelForImageTextToText.from_pretrained(nano_pointing(), attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(nano_pointing())
    assert type(model) is VideoMolmoForConditionalGeneration and type(processor) is VideoMolmoProcessor
    assert model.language.config._attn_implementation == "eager" and model.dtype == torch.float32
    clip = frames()
    inputs = collate([processor(clip[-1], "Point to the red circle.", clip[:-1])])
    inputs = {name: inputs[name] for name in KEYS}
    capsys.readouterr()
    written = model.generate(**inputs, streamer=TextStreamer(processor.tokenizer, skip_prompt=True))
    text = processor.batch_decode(written[:, inputs["input_ids"].shape[1] :])[0]
    told = capsys.readouterr()
    assert text and told.out.strip().removesuffix("<|endoftext|>") == text and not told.err


def test_published_names_by_the_auto_classes(ours, published):
    for left_out in ((), ADAPTER):
        rewrite(published, lambda state, left_out=left_out: {k: v for k, v in state.items() if k not in left_out})
        model = AutoModelForImageTextToText.from_pretrained(published, device_map="cpu")
        assert model.config == AutoConfig.from_pretrained(published)
        assert torch.equal(logits(model), logits(load_model(published)))
    rewrite(published, lambda state: state | {"model.stranger": torch.zeros(1)})
    with pytest.raises(BadInput, match=r"'model\.stranger' is unknown"):
        AutoModelForImageTextToText.from_pretrained(published)


def test_it_is_strict_and_saves_what_it_loads(ours, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(ours, dtype="auto")
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again", context=2)
    assert again.config.context == 2 and isinstance(again.config, VideoMolmoConfig)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    rewrite(ours, lambda state: {k: v for k, v in state.items() if k != "new_embedding"})
    with pytest.raises(BadInput, match="1 missing: new_embedding"):
        AutoModelForImageTextToText.from_pretrained(ours)


def test_how_it_generates_is_saved_too(ours, published, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(ours)
    model.generation_config.update(max_new_tokens=None, max_length=77, do_sample=True, temperature=0.5)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again")
    assert again.generation_config == model.generation_config
    assert again.generation_config.max_new_tokens is None and again.generation_config.temperature == 0.5
    shutil.copy(tmp_path / "again" / "generation_config.json", published)  # of whom is not known there
    assert load_model(published).generation_config.max_new_tokens == 300
    for values, told in (({"max_new_tokens": -3}, "max_new_tokens"), ({"validate": 1}, "'validate' is no setting")):
        (tmp_path / "again" / "generation_config.json").write_text(json.dumps(values))
        with pytest.raises(BadInput, match=rf"generation_config\.json: .*{told}"):
            AutoModelForImageTextToText.from_pretrained(tmp_path / "again")


def test_options_of_the_hub(tmp_path, monkeypatch):
    """A cache as the hub's client makes it, which knows the model in a folder of a revision alone."""
    commit, repository = "0123456789" * 4, tmp_path / "models--some--body"
    shutil.copytree(nano_pointing(), repository / "snapshots" / commit / "inside")
    (repository / "refs").mkdir()
    (repository / "refs" / "lately").write_text(commit)
    options = {"revision": "lately", "subfolder": "inside", "cache_dir": tmp_path, "local_files_only": True}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # transformers asks for adapters all the same
    for loader in (AutoModelForImageTextToText, VideoMolmoForConditionalGeneration, AutoProcessor, VideoMolmoProcessor):
        assert loader.from_pretrained("some/body", **options).config.context == 4
        with pytest.raises((BadInput, OSError)):
            loader.from_pretrained("some/body", **options | {"subfolder": "elsewhere"})
    local = repository / "snapshots" / commit
    assert AutoModelForImageTextToText.from_pretrained(local, subfolder="inside").config.context == 4
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **given: asked.append(given) or str(local))
    VideoMolmoProcessor.from_pretrained("some/body", subfolder="inside", token="mine", force_download=True)
    assert asked[0]["token"] == "mine" and asked[0]["force_download"] and "inside/*.json" in asked[0]["allow_patterns"]


@pytest.mark.parametrize(
    "options, told",
    [({"variant": "fp16"}, "variant"), ({"use_safetensors": False}, "pickled"), ({"proxies": {"a": "b"}}, "proxies")],
)
def test_options_for_other_files_are_refused(ours, options, told):
    with pytest.raises(BadInput, match=told):
        VideoMolmoForConditionalGeneration.from_pretrained(ours, **options)


@pytest.mark.parametrize("settings", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_bits_by_transformers_own_settings(ours, settings):
    pytest.importorskip("bitsandbytes")
    settings = BitsAndBytesConfig(**settings, llm_int8_skip_modules=["head"])
    model = AutoModelForImageTextToText.from_pretrained(ours, quantization_config=settings)
    with pytest.raises(BadInput, match="in few bits, expected whole ones"):
        model.save_pretrained(ours.parent / "few")
    assert {name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear} == {"head"}
    assert logits(model).isfinite().all()


def test_adapters_of_peft_are_saved_and_put_back(ours, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForImageTextToText.from_pretrained(ours)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(ours), tmp_path / "adapter")
    assert torch.equal(logits(again.eval()), logits(adapted.eval()))
    assert not torch.equal(logits(again), logits(load_model(ours)))
    by_its_name = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")  # peft wrote the base model's there
    assert torch.equal(logits(by_its_name), logits(again))


def test_transformers_trainer_trains_it(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(nano_pointing())
    processor = AutoProcessor.from_pretrained(nano_pointing())
    clip, before = frames(1), model.connector.projector.down.weight.clone()
    rows = [processor.training_example(clip[-1], [["Where is it?", answer]], clip[:-1]) for answer in ("a", "b c")]
    settings = TrainingArguments(
        tmp_path / "out", max_steps=1, per_device_train_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True,
        remove_unused_columns=False, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=rows, data_collator=collate)
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(model.connector.projector.down.weight, before)
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "checkpoint-1")
    assert torch.equal(saved.connector.projector.down.weight, model.connector.projector.down.weight)


OURS = "import videomolmo"
LOADED = """
model, processor = (auto.from_pretrained(FOLDER) for auto in (AutoModelForImageTextToText, AutoProcessor))
print(AutoConfig.for_model("videomolmo", context=3).context, type(model).__name__, type(processor).__name__)
"""


@pytest.mark.parametrize("ours_first", [True, False])
def test_importing_the_package_makes_it_known(ours_first):
    theirs = "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor"
    code = f"FOLDER = {str(nano_pointing())!r}\n" + "\n".join([OURS, theirs] if ours_first else [theirs, OURS])
    code += "\nimport sys\nassert 'videomolmo.model' not in sys.modules" + LOADED
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "3 VideoMolmoForConditionalGeneration VideoMolmoProcessor\n" and not done.stderr, done.stderr


SILENT = """
import videomolmo.model, peft, torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
for settings in ({"load_in_8bit": True}, {"load_in_4bit": True}):
    settings = BitsAndBytesConfig(**settings, llm_int8_skip_modules=["head"])
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, quantization_config=settings)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.generate(input_ids=torch.tensor([[7, 8, 9]]), max_new_tokens=2)
    adapted.save_pretrained(FOLDER + "/adapter")
AutoModelForImageTextToText.from_pretrained(FOLDER + "/adapter", device_map={"new_embedding": "cpu", "": "cpu"})
"""


def test_no_library_writes_to_the_terminal(ours):
    pytest.importorskip("bitsandbytes"), pytest.importorskip("peft")
    code = f"FOLDER = {str(ours)!r}" + SILENT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr and not done.stdout, done.stderr
