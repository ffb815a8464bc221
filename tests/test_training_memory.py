"""Estimated memory of training against what a process took, and the plan in data/training.md against the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import TINY, rows_of_blocks, tiny_model

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig
from videomolmo.model.config import ImageConfig, LanguageConfig, VisionConfig
from videomolmo.training.memory import training_memory
from videomolmo.training.recipe import Learn

ROOT = Path(__file__).resolve().parents[1]
PLAN = re.findall(r"```\n\$ videomolmo (estimate [^\n]*)\n(.*?)```", (ROOT / "data/training.md").read_text(), re.S)
MEDIUM = VideoMolmoConfig(
    image=ImageConfig(size_px=112, max_crops=0, resize="stretch"),
    vision=VisionConfig(width=256, heads=4, layers=4, mlp=1024, vit_layers=(-1, -2)),
    language=LanguageConfig(vocab_size=360, width=512, layers=6, heads=8, kv_heads=2, ff=2048, end_of_text=0),
    context=2,
)

# Training as it is, up to the last checkpoint: a tiny run first, for everything that is loaded once. Freed blocks go
# back to the system at once, as if memory were counted by its owner.
RUN = """
import gc, re, sys, torch
from pathlib import Path
from training_runs import recipe_of
from videomolmo.training import trainer
torch.set_num_threads(1)
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
peaks = []
trainer.export = lambda *_: peaks.append(peak())
tiny, medium, rows, out = sys.argv[1:]
for name, model, again in (("tiny", tiny, False), ("again", medium, True), ("keep", medium, False)):
    settings = {"batch": 4, "micro_batch": 2, "steps": 2, "gradient_checkpointing": again}
    trainer.train(recipe_of(model, rows, Path(out) / name, **settings), progress=False)
    gc.collect()
print(*(one - peaks[0] for one in peaks[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of a process are read from Linux's /proc")
def test_the_estimate_is_close_to_a_measured_peak(tmp_path):
    tiny, medium = tiny_model(tmp_path / "t"), tiny_model(tmp_path / "m", MEDIUM)
    rows = rows_of_blocks(tmp_path / "rows", clips=8)
    command = [sys.executable, "-c", RUN, *map(str, (tiny, medium, rows, tmp_path / "out"))]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    guessed = [
        training_memory(MEDIUM, 32, 32, Learn(), micro_batch=2, questions=1, gradient_checkpointing=again).peak
        for again in (True, False)
    ]
    assert guessed == pytest.approx([int(measured) for measured in done.stdout.split()], rel=0.15)


@pytest.mark.slow
def test_the_plan_is_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(PLAN) >= 4
    for command, wanted in PLAN:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == wanted, command


@pytest.mark.slow
def test_what_makes_it_small_makes_it_small():
    config = TINY
    whole = training_memory(config, 96, 96, Learn())
    assert whole.states == 2 * whole.gradients == 8 * whole.learning and whole.gathered == 0
    again = training_memory(config, 96, 96, Learn(), gradient_checkpointing=True)
    assert again.activations < 0.7 * whole.activations and again.weights == whole.weights
    divided = training_memory(config, 96, 96, Learn(), shard=True, devices=4)
    assert divided.weights == whole.weights // 4 and divided.gathered > 0
    temporal = training_memory(config, 96, 96, Learn(("temporal",)), precision="mixed")
    assert temporal.learning < 0.2 * whole.learning and temporal.weights < 0.65 * whole.weights
    lora = training_memory(config, 96, 96, Learn(("lora",), rank=4), precision="mixed")
    four = training_memory(config, 96, 96, Learn(("lora",), rank=4), precision="mixed", quantize="4bit")
    assert four.weights < lora.weights and four.learning == lora.learning


def test_settings_that_no_recipe_has(capsys):
    for wrong in ({"precision": "float16"}, {"devices": 0}, {"quantize": "4bit"}):
        with pytest.raises(BadInput, match=r"expected|needs lora"):
            training_memory(VideoMolmoConfig.nano(), 96, 96, Learn(), **wrong)
    assert main(["estimate", "--train", str(ROOT / "data/recipes/nano.toml"), "--size", "wide"]) == 2
    assert "--size is 'wide'" in capsys.readouterr().err
    assert main(["estimate", "--train", str(ROOT / "data/recipes/nano_glamm.toml"), "--size", "96x96"]) == 2
    assert "is no pointing model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train", "RECIPE", "--every", "3"], "--every"),
        (["--train", "RECIPE", "--model", "nano"], "--model"),
        (["--train", "RECIPE", "--size", "96x96", "--video", "clip.mp4"], "--video"),
        (["--devices", "2"], "--devices"),
        (["--size", "96x96"], "--size"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(options, named, capsys):
    recipe = str(ROOT / "data/recipes/nano.toml")
    assert main(["estimate", *(recipe if option == "RECIPE" else option for option in options)]) == 2
    printed = capsys.readouterr()
    assert named in printed.err and "leave it out" in printed.err and not printed.out
