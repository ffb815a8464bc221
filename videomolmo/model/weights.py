"""Save and load pointing models: a JSON configuration and safetensors, strictly."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.model.config import PointingConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SHOWN = 6  # names listed in an error


def load_strict(model: nn.Module, state: dict[str, Tensor], source: str, fresh: frozenset[str] = frozenset()) -> None:
    """Fill every parameter of `model` from `state`, or none.

    Args:
        model: receives the weights.
        state: tensors by parameter name.
        source: where they come from, for the message.
        fresh: names that may be missing and then keep their initial values.

    Raises:
        BadInput: names that are missing, unexpected or of another shape, listed.
    """
    wanted = model.state_dict()
    faults = {
        "missing": sorted(set(wanted) - set(state) - fresh),
        "unexpected": sorted(set(state) - set(wanted)),
        "misshaped": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(set(state) & set(wanted))
            if state[name].shape != wanted[name].shape
        ],
    }
    listed = [f"{len(names)} {fault}: {_shortened(names)}" for fault, names in faults.items() if names]
    if listed:
        raise BadInput(
            f"weights in {source} do not fit the configuration: {'; '.join(listed)}; use the weights' own config"
        )
    model.load_state_dict(state, strict=not fresh)


def _shortened(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def save_model(model: nn.Module, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors; each file appears whole or not at all.

    Args:
        model: a model with `config`.
        folder: made where missing.
        dtype: of the stored weights, for example torch.float16 to halve the file; None keeps the model's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    weights, config = (folder / f".{name}.{os.getpid()}" for name in (WEIGHTS_FILE, CONFIG_FILE))
    try:
        save_file(state, weights, metadata={"format": "pt"})
        model.config.to_json(config)
        os.replace(weights, folder / WEIGHTS_FILE)
        os.replace(config, folder / CONFIG_FILE)
    finally:
        weights.unlink(missing_ok=True)
        config.unlink(missing_ok=True)


def read_config(folder: str | Path) -> PointingConfig:
    """The configuration saved in a model folder."""
    return PointingConfig.from_json(_existing(folder, CONFIG_FILE))


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors saved in a model folder; only safetensors, which cannot run code."""
    path = _existing(folder, WEIGHTS_FILE)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{path} is no complete safetensors file ({error}); save or download it again") from error


def _existing(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist, expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}; check the path"
        )
    return path
