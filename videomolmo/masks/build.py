"""Build SAM 2 from its own configuration files and fill it with weights, strictly."""

from pathlib import Path

import torch
from torch import nn

from videomolmo.errors import BadInput


def build_nano(folder: Path) -> nn.Module:
    """An untrained nano SAM 2 after `folder`/config.yaml, made of the unpatched classes of the `sam2` package.

    Differs: the package's own builder searches only its own configurations and starts on CUDA.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(folder) / "config.yaml")
    return instantiate(config, _recursive_=True)


def load_nano(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Nano SAM 2 with its weights, in float32 and evaluation mode.

    Raises:
        BadInput: no weights there, or weights that do not fit this configuration.
    """
    from safetensors.torch import load_file

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise BadInput(f"{weights}: no such weights; give a folder that holds config.yaml and model.safetensors")
    model = build_nano(folder)
    fill(model, load_file(weights), str(weights))
    return model.to(device).eval()


def fill(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load `state` into `model`, every key used once and none missing, or refuse with the first misfits."""
    own = model.state_dict()
    misfits = [f"{key} missing" for key in own.keys() - state.keys()]
    misfits += [f"{key} unexpected" for key in state.keys() - own.keys()]
    misfits += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if misfits:
        shown = "; ".join(sorted(misfits)[:4])
        raise BadInput(f"{source}: weights do not fit this model ({len(misfits)} misfits: {shown})")
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
