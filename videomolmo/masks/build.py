"""Build SAM 2, nano or published, from its configuration and fill it with weights, strictly."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from videomolmo.errors import BadInput
from videomolmo.masks.configuration import Sam2, Unfilled, checked, instantiate, read_configuration, read_yaml
from videomolmo.masks.tracker import MaskTracker
from videomolmo.pickled import read_torch
from videomolmo.tensors import check_finite, shapes_of
from videomolmo.untrusted import first_line, model_file, regular_file, shortened


def build_nano(folder: Path, size: int | None = None) -> nn.Module:
    """An untrained nano SAM 2 after `folder`/config.yaml, made of the unpatched classes of the `sam2` package.

    `size` builds it for pictures of another width in pixels; the weights are the same, whatever the size.
    Differs: the package's own builder runs what a configuration names, and starts on CUDA.

    Raises:
        BadInput: see `configuration.read_configuration`; or parts that do not fit together.
    """
    path = Path(folder) / "config.yaml"
    values = read_configuration(path)
    return _built(values if size is None else values | {"image_size": size}, path)


def _built(values: dict, path: Path) -> nn.Module:
    try:
        return instantiate(values)
    except Exception as error:  # parts that do not fit together raise what they like
        raise BadInput(f"{path}: SAM 2 cannot be built from it ({first_line(error)}); see data/nano/masks") from error


def load_nano(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Nano SAM 2 with its weights, in float32 and evaluation mode.

    Raises:
        BadInput: no weights there, weights that do not fit this configuration or are not finite, or a model that
            cannot follow an object.
    """
    path, weights = Path(folder) / "config.yaml", Path(folder) / "model.safetensors"
    shapes = shapes_of(model_file(weights))
    with Unfilled():
        model = _built(read_configuration(path), path)
    check_fit(model, shapes, str(weights))
    with safe_open(weights, framework="pt") as file:
        fill(model, ((name, file.get_tensor(name)) for name in shapes), str(weights))
    model = model.to(device).eval()
    _try(model, path)
    return model


def _try(model: nn.Module, path: Path) -> None:
    """Follow a click over two grey frames: sizes can fit the weights and yet not one another."""
    try:
        tracker = MaskTracker(model)
        frame = tracker.encode(np.full((16, 16, 3), 128, np.uint8))
        tracker.start(0, frame, [np.full((1, 2), 8, np.float32)], frames=2).step(1, frame)
    except Exception as error:  # as above
        raise BadInput(f"{path}: this SAM 2 cannot run ({first_line(error)}); see data/nano/masks") from error


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

    path = Path(sam2.__file__).parent / published_names()[name][0]
    values = checked(Sam2, read_yaml(path)["model"], str(path))
    decoder = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return instantiate(values | {"binarize_mask_from_pts_for_mem_enc": True, "sam_mask_decoder_extra_args": decoder})


def load_published(name: str, checkpoint: Path, device: torch.device | str = "cpu") -> nn.Module:
    """A published SAM 2 from its checkpoint file, read as tensors only, strictly.

    Raises:
        BadInput: the file holds no such checkpoint, or weights that do not fit.
    """
    state = _checkpoint(Path(checkpoint))
    with Unfilled():
        model = build_published(name)
    check_fit(model, state, str(checkpoint))
    fill(model, state.items(), str(checkpoint))
    return model.to(device).eval()


def _checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Names and tensors; nothing that the file names is imported or run."""
    regular_file(path)
    try:
        state = read_torch(path)["model"]
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("no names of weights")
        if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in state.values()):
            raise ValueError("not all floating point tensors")
    except Exception as error:  # zip and unpickling of hostile or broken files raise many kinds
        raise BadInput(f"{path}: not a SAM 2 checkpoint ({first_line(error)}); download it again") from error
    return state


def check_fit(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Every name used once and none missing, or the first misfits; `state` may be without data."""
    own = model.state_dict()
    misfits = [f"{name} missing" for name in own.keys() - state.keys()]
    misfits += [f"{shortened(name)} unexpected" for name in state.keys() - own.keys()]
    misfits += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if misfits:
        shown = "; ".join(sorted(misfits)[:4])
        raise BadInput(f"{source}: weights do not fit this model ({len(misfits)} misfits: {shown})")


def fill(model: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """Give an unfilled model its weights, checked with `check_fit`, in its own precision.

    Raises:
        BadInput: a weight that is not finite.
    """
    own, state = model.state_dict(), {}
    for name, value in tensors:
        state[name] = value.to(own[name].dtype, copy=True)
        check_finite(name, state[name], value, source)
    model.load_state_dict(state, assign=True)
