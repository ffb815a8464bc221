"""Save and load pointing models: a JSON configuration and safetensors, strictly, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from videomolmo.errors import BadInput
from videomolmo.model.config import PointingConfig
from videomolmo.model.placement import Devices, device_of
from videomolmo.model.shards import WEIGHTS_FILE
from videomolmo.tensors import check_finite
from videomolmo.whole_files import files_of

CONFIG_FILE = "config.json"
SHOWN = 6  # names listed in an error
Put = Callable[[nn.Module, str, Tensor], None]


def check_fit(model: nn.Module, shapes: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Make sure that every parameter of `model` gets one tensor of its shape, and that no tensor is left over.

    Args:
        model: to be filled.
        shapes: names and tensors, with or without data.
        source: where they come from, for the message.

    Raises:
        BadInput: names that are missing, unexpected, doubled or of another shape, listed.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    found: set[str] = set()
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "doubled": [], "misshaped": []}
    for name, value in shapes:
        if name in found:
            faults["doubled"].append(name)
        elif name not in wanted:
            faults["unexpected"].append(name)
        elif value.shape != wanted[name]:
            faults["misshaped"].append(f"{name} {tuple(value.shape)} instead of {tuple(wanted[name])}")
        found.add(name)
    faults["missing"] = sorted(wanted.keys() - found)
    listed = [f"{len(names)} {fault}: {_shortened(names)}" for fault, names in faults.items() if names]
    if listed:
        raise BadInput(
            f"weights in {source} do not fit the configuration: {'; '.join(listed)}; use the weights' own config"
        )


def put_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """Make `value` the parameter `name` of `module`."""
    setattr(module, name, nn.Parameter(value, requires_grad=value.is_floating_point()))


def fill(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    devices: Devices,
    dtype: torch.dtype,
    put: Put = put_plain,
    source: str = "",
) -> None:
    """Give a model made on the meta device its weights one by one, so that no second copy is ever held.

    Args:
        model: made on the meta device, checked with `check_fit`.
        tensors: names and tensors, each used once and then let go.
        devices, dtype: of the weights in the model; see `placement.side_by_side`.
        put: how one tensor is put in its place; quantised layers have their own way.
        source: where they come from, for messages.

    Raises:
        BadInput: a weight that is not finite.
    """
    for name, value in tensors:
        owner, _, own = name.rpartition(".")
        placed = value.to(device_of(name, devices), dtype, copy=True)
        check_finite(name, placed, value, source)
        put(model.get_submodule(owner), own, placed)


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
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    with files_of(folder, CONFIG_FILE) as place, safetensors_told():
        save_file(state, place / WEIGHTS_FILE, metadata={"format": "pt"})
        model.config.to_json(place / CONFIG_FILE)


@contextmanager
def safetensors_told() -> Iterator[None]:
    """What safetensors says of a full disk and its like, as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_config(folder: str | Path) -> PointingConfig:
    """The configuration saved in a model folder."""
    return PointingConfig.from_json(Path(folder) / CONFIG_FILE)
