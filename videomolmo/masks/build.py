"""Build SAM 2, nano or published, from its configuration and fill it with weights, strictly."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videomolmo.errors import BadInput
from videomolmo.pickled import read_torch


def build_nano(folder: Path, size: int | None = None) -> nn.Module:
    """An untrained nano SAM 2 after `folder`/config.yaml, made of the unpatched classes of the `sam2` package.

    `size` builds it for pictures of another width in pixels; the weights are the same, whatever the size.
    Differs: the package's own builder searches only its own configurations and starts on CUDA.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = Path(folder) / "config.yaml"
    try:
        config = OmegaConf.load(path)
        foreign = sorted(target for target in _targets(OmegaConf.to_container(config)) if not _is_own(target))
    except Exception as error:  # yaml and omegaconf raise many kinds
        raise BadInput(f"{path}: not a configuration of SAM 2 ({type(error).__name__}); see data/nano/masks") from error
    if foreign or not _is_own(str(config.get("_target_"))):
        raise BadInput(
            f"{path}: builds {foreign or 'nothing'}, expected only classes of sam2.modeling; nothing was run"
        )
    if size is not None:
        config.image_size = size
    try:
        return instantiate(config, _recursive_=True)
    except Exception as error:
        reason = str(error).split(chr(10))[0]
        raise BadInput(f"{path}: SAM 2 cannot be built from it ({reason}); see data/nano/masks") from error


_OWN = re.compile(r"sam2\.modeling(\.\w+)+")


def _is_own(target: str) -> bool:
    """Whether a name means a class that SAM 2 itself defines: its modules also know all that they import."""
    module, _, name = target.rpartition(".")
    if not _OWN.fullmatch(target):
        return False
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and found.__module__ == module


def _targets(config: Any) -> Iterator[str]:
    """Every class or function that a configuration would call."""
    if isinstance(config, dict):
        yield from (str(value) for key, value in config.items() if key == "_target_")
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)


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
    try:
        state = load_file(weights)
    except Exception as error:  # safetensors has an error class of its own, and files can be anything
        raise BadInput(f"{weights}: not a safetensors file ({str(error)[:80]}); copy it again") from error
    fill(model, state, str(weights))
    return model.to(device).eval()


def published_name(name: str) -> str | None:
    """The published SAM 2 that a hub id or a checkpoint file's name means, or None.

    Example:
        >>> published_name("weights/sam2.1_hiera_tiny.pt")
        'facebook/sam2.1-hiera-tiny'
    """
    for hub_id, (_, file) in published_names().items():
        if name == hub_id or Path(name).name == file:
            return hub_id
    return None


def published_names() -> dict[str, tuple[str, str]]:
    """Hub ids of SAM 2 and SAM 2.1 with their configuration (in the package) and checkpoint file."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    return HF_MODEL_ID_TO_FILENAMES


def build_published(name: str) -> nn.Module:
    """An untrained SAM 2 of a published size, with the settings its video predictor runs with.

    Differs: no holes are filled (that step needs a compiled extension and is skipped by the package without it).
    """
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__file__).parent / published_names()[name][0]).model
    config.binarize_mask_from_pts_for_mem_enc = True
    config.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return instantiate(config, _recursive_=True)


def load_published(name: str, checkpoint: Path, device: torch.device | str = "cpu") -> nn.Module:
    """A published SAM 2 from its checkpoint file, read as tensors only, strictly.

    Raises:
        BadInput: the file holds no such checkpoint, or weights that do not fit.
    """
    try:
        state = read_torch(checkpoint)["model"]
    except Exception as error:  # unpickling hostile or broken files raises many kinds
        raise BadInput(f"{checkpoint}: not a SAM 2 checkpoint ({type(error).__name__}); download it again") from error
    model = build_published(name)
    fill(model, state, str(checkpoint))
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
