"""Where the golden data lies, and readers for it. Tests that need it are skipped where it is absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("VIDEOMOLMO_GOLDEN") or Path(__file__).resolve().parents[2] / "shared" / "golden")
HOW = f"no golden data under {ROOT}; set VIDEOMOLMO_GOLDEN to its folder"


def model_folders() -> list[Any]:
    """Every golden model as a pytest parameter; one skipped parameter where there is none."""
    folders = sorted(path.parent for path in ROOT.glob("model/*/weights.safetensors") if _is_file(path, "config.json"))
    return [pytest.param(folder, id=folder.name) for folder in folders] or [_absent()]


def preprocess_images() -> list[Any]:
    """Every golden image as a pytest parameter: its entry in the index."""
    index = ROOT / "model" / "preprocess" / "index.json"
    images = read_json(index)["images"] if index.is_file() else []
    found = [entry for entry in images if (index.parent / f"{entry['name']}.safetensors").is_file()]
    return [pytest.param(entry, id=entry["name"]) for entry in found] or [_absent()]


def preprocess_folder() -> Path:
    """The folder of image preprocessing data, or a skip."""
    folder = ROOT / "model" / "preprocess"
    if not folder.is_dir():
        pytest.skip(HOW)
    return folder


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or a skip where that file is absent."""
    if not path.is_file():
        pytest.skip(f"{path.name} is not part of {path.parent.name}")
    return load_file(path)


def random_image(entry: dict[str, Any]) -> np.ndarray:
    """The image that a golden index entry was made from: random 8x8 blocks."""
    height, width = entry["height"], entry["width"]
    blocks = (-(-height // 8), -(-width // 8), 3)
    small = np.random.default_rng(entry["seed"]).integers(0, 256, size=blocks, dtype=np.uint8)
    return np.repeat(np.repeat(small, 8, axis=0), 8, axis=1)[:height, :width]


WORST: dict[str, tuple[float, float]] = {}  # stage -> largest error met, and the error allowed


def near(stage: str, found: Tensor, wanted: Tensor, bound: float, *, relative: bool = False) -> None:
    """Assert that the largest difference is within `bound`, and remember it for the table at the end of the run.

    Args:
        stage: what is compared, a row of the table.
        found, wanted: of equal size; `found` takes the shape of `wanted`. None of nothing are near.
        bound: most that is allowed.
        relative: to the largest wanted magnitude.
    """
    wanted = wanted.to(torch.float64)
    errors = (found.detach().reshape(wanted.shape).to(torch.float64) - wanted).abs()
    if not errors.numel():
        return
    value = (errors.max() / wanted.abs().max().clamp(min=1e-30) if relative else errors.max()).item()
    row = f"{stage}, {'relative' if relative else 'absolute'}"
    WORST[row] = (max(value, WORST.get(row, (0.0, 0.0))[0]), bound)
    assert value <= bound, f"{row}: {value:.2g}, allowed {bound:.2g}"


def parity_table() -> list[str]:
    """Lines of the table of worst errors, empty where nothing was compared."""
    rows = [f"{row:54}{worst:10.1e}{bound:10.1e}" for row, (worst, bound) in WORST.items()]
    return [f"{'stage':54}{'worst':>10}{'allowed':>10}", *rows] if rows else []


def _is_file(weights: Path, name: str) -> bool:
    return (weights.parent / name).is_file()


def _absent() -> Any:
    return pytest.param(None, marks=pytest.mark.skip(reason=HOW), id="absent")
