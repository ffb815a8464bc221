"""What the tests of the trainer share: a tiny model, rows with pictures, recipes, and training in real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.model.config import ImageConfig, LanguageConfig, VisionConfig
from videomolmo.model.tokenizer import build_nano_tokenizer, save_tokenizer
from videomolmo.protocols import TEMPLATES
from videomolmo.training.recipe import Data, Learn, Model, Optimiser, Recipe, Run, Source

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (240, 240, 240)}
TINY = VideoMolmoConfig(
    image=ImageConfig(size_px=32, patch_px=8, max_crops=0, resize="stretch"),
    vision=VisionConfig(width=32, heads=2, layers=3, mlp=64, vit_layers=(-2, -3)),
    language=LanguageConfig(
        vocab_size=360, width=64, layers=2, heads=4, kv_heads=2, ff=128, rope_theta=1e4, max_positions=512,
        tie_word_embeddings=True, end_of_text=0,
    ),
    context=2, connector_norm=True, window_positions=True, init_output_zero=False,
)  # fmt: skip
SMALLEST = replace(
    TINY, vision=VisionConfig(width=8, heads=2, layers=3, mlp=8, vit_layers=(-2, -3)),
    language=replace(TINY.language, width=8, layers=1, heads=2, kv_heads=1, ff=8),
)  # fmt: skip
FAST = Optimiser(language=2e-3, vision=2e-3, temporal=2e-3, connector=2e-3, lora=5e-3, batch=4, warmup=2, steps=6)


def tiny_model(folder: Path, config: VideoMolmoConfig = TINY) -> Path:
    """A model with random weights that knows the words of the prompts."""
    torch.manual_seed(0)
    VideoMolmoForConditionalGeneration(config).save_pretrained(folder)
    corpus = [template.format(p=f"the {colour} block") for template in TEMPLATES for colour in COLOURS]
    save_tokenizer(build_nano_tokenizer(corpus, 360), str(folder))
    return folder


def smallest_model(folder: Path) -> Path:
    """A model of which a checkpoint has a few kB."""
    return tiny_model(folder, SMALLEST)


def rows_of_blocks(folder: Path, clips: int = 6, frames: int = 5, size: int = 32, blocks: int = 2) -> Path:
    """VideoMolmo rows about coloured blocks that move: one row for each block of a clip."""
    rng, rows = np.random.default_rng(3), []
    for clip in range(clips):
        place = folder / f"clip_{clip}"
        place.mkdir(parents=True)
        chosen = rng.permutation(list(COLOURS))[:blocks]
        left, room = ((25, 62), 13) if blocks == 2 else ((25,), 50)  # two blocks never meet
        points = {
            colour: np.array([rng.uniform(low, low + room), rng.uniform(25, 75)])
            for low, colour in zip(left, chosen, strict=True)
        }
        steps = {colour: rng.uniform(-2, 2, 2) for colour in chosen}
        tracks: dict[str, dict[str, list]] = {colour: {} for colour in chosen}
        for frame in range(frames):
            picture = np.full((size, size, 3), 90, np.uint8)
            for colour in chosen:
                x, y = points[colour] + frame * steps[colour]
                row, column = int(y / 100 * size), int(x / 100 * size)
                picture[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = COLOURS[colour]
                tracks[colour][str(frame)] = [{"x": round(x, 1), "y": round(y, 1)}]
            Image.fromarray(picture).save(place / f"{frame:05d}.jpg", quality=95)
        named = dict(video=place.name, frame_idxs=list(range(frames)))
        rows += [named | {"points": tracks[colour], "caption": f"the {colour} block"} for colour in chosen]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def fixture_of(make: Callable[[Path], Path]) -> Any:
    """A fixture of a test module: the folder that `make` fills, once."""
    return pytest.fixture(scope="module")(lambda tmp_path_factory: make(tmp_path_factory.mktemp(make.__name__)))


def recipe_of(model: Path, rows: Path, out: Path, **changes: object) -> Recipe:
    """A recipe for the tiny model on the rows; `changes` go to whichever part has a field of that name."""
    parts = {
        "optimiser": FAST, "learn": Learn(), "model": Model(str(model)),
        "data": Data(sets=(Source("videomolmo", str(rows)),), questions=2),
        "run": Run(workers=0, checkpoint_every=2, cpu=True, peak_tflops=0.0),
    }  # fmt: skip
    for name, value in changes.items():
        part = next(part for part, values in parts.items() if hasattr(values, name))
        parts[part] = replace(parts[part], **{name: value})
    return Recipe(out=str(out), **parts)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _work(recipe: Recipe, process: int, processes: int, port: int, resume: str | None) -> None:
    """The body of a training process."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # else a reading process would import everything anew
    if processes > 1:
        os.environ |= {
            "RANK": str(process), "LOCAL_RANK": str(process), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    from videomolmo.training.trainer import train

    train(recipe, resume, progress=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start(recipe: Recipe, processes: int = 1, resume: str | None = None) -> list[multiprocessing.Process]:
    """Training in real processes, forked from one that has imported everything, which saves ten seconds each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["videomolmo.training.trainer", "torch.utils.tensorboard"])
    port = free_port()
    started = [
        context.Process(target=_work, args=(recipe, number, processes, port, resume)) for number in range(processes)
    ]
    for process in started:
        process.start()
    return started


def finish(started: list[multiprocessing.Process], within_s: float = 300) -> None:
    """Wait for processes that should end well."""
    for process in started:
        process.join(within_s)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * len(started), codes
