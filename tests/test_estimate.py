"""Estimated memory against what a process really took, and the command that prints it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig
from videomolmo.model.config import ImageConfig, LanguageConfig, VisionConfig
from videomolmo.training.memory import estimate

MEDIUM = VideoMolmoConfig(
    image=ImageConfig(max_crops=0),
    vision=VisionConfig(width=256, heads=4, layers=2, mlp=1024, vit_layers=(-1, -2)),
    language=LanguageConfig(vocab_size=600, width=1024, layers=6, heads=8, kv_heads=2, ff=4096, end_of_text=0),
)

# The job as the grounder does it, with random weights and a tokenizer that knows letters only. Freed blocks go back
# to the system at once, as if memory were counted by its owner.
RUN = """
import json, re, sys
import numpy as np, torch
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.pointing import VideoMolmoPointer
from videomolmo.protocols import Question
from videomolmo.io.video import open_video

class Letters:
    def encode(self, text, add_special_tokens=False): return [1 + ord(c) % 500 for c in text]
    def decode(self, ids): return ""

def answer(config, count):
    frames = open_video(np.zeros((count, 360, 640, 3), np.uint8))
    model = VideoMolmoForConditionalGeneration(config).eval()
    model.logits = lambda hidden: torch.zeros(len(hidden), 600)  # all write nothing: the peak lies before
    pointer = VideoMolmoPointer(model, VideoMolmoProcessor(Letters(), config))
    question = Question("Point to the red circle in the picture.", frames, 2, config.context)
    return list(pointer.answers(frames.iterate(), question))

torch.set_num_threads(1)
answer(VideoMolmoConfig.nano(), 3)
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
assert len(answer(VideoMolmoConfig.from_dict(json.loads(sys.argv[1])), 16)) == 8
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of a process are read from Linux's /proc")
def test_the_estimate_is_close_to_a_measured_peak():
    command = [sys.executable, "-c", RUN, json.dumps(MEDIUM.to_dict())]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    measured = int(done.stdout)
    guessed = estimate(MEDIUM, 360, 640, 16, every=2, dtype="float32").peak
    assert guessed == pytest.approx(measured, rel=0.15)


def test_full_size_without_loading_it(capsys):
    full = estimate(VideoMolmoConfig.molmo_7b(), 720, 1280, 100)
    assert full.parameters == 8_029_409_792 and full.weights == 2 * full.parameters
    assert (full.crops, full.tokens) == (13, 1196 + 41)
    small = estimate(VideoMolmoConfig.molmo_7b(), 720, 1280, 100, quantize="4bit")
    assert 5.5e9 < small.weights < 7e9 and small.peak - small.weights == full.peak - full.weights
    assert main(["estimate", "--model", "ghazishazan/VideoMolmo", "--quantize", "8bit"]) == 0
    assert "8,029,409,792 parameters" in capsys.readouterr().out


def test_nano_and_what_does_not_exist(capsys):
    assert main(["estimate"]) == 0
    assert "peak" in capsys.readouterr().out
    with pytest.raises(BadInput, match="'int3'"):
        estimate(VideoMolmoConfig.nano(), 96, 96, 5, dtype="int3")
