"""From a model's name to files on disk: "nano", a folder, or an id of the Hugging Face hub."""

import re
from pathlib import Path

from videomolmo import shipped
from videomolmo.errors import BadInput

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def pointing_folder(name: str) -> Path:
    """The folder of a pointing model in our own format (`PointingModel.save_pretrained`).

    Raises:
        BadInput: no such folder, an id the hub does not know or cannot be asked for, or files missing.
    """
    folder = shipped.nano_pointing() if name == "nano" else _folder_or_hub(name, "--model", "config.json")
    return _checked(folder, name, "--model", "config.json")


def masks_folder(name: str) -> Path:
    """The folder of a SAM 2 in the layout of `data/nano/masks`; for published SAM 2 ids see `checkpoint_file`."""
    folder = shipped.nano_masks() if name == "nano" else _folder_or_hub(name, "--masks", "config.yaml")
    return _checked(folder, name, "--masks", "config.yaml")


def checkpoint_file(hub_id: str, file: str) -> Path:
    """One file of a hub repository, downloaded once.

    Raises:
        BadInput: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, file))
    except Exception as error:  # the hub's client raises many kinds, all of which mean "no file"
        raise _unreachable(hub_id, "--masks", error) from error


def _folder_or_hub(name: str, option: str, needs: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if not _HUB_ID.match(name) or name.startswith("."):
        raise BadInput(
            f"{option} {name!r}: unknown; give 'nano', a hub id, or a folder with {needs} and model.safetensors"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.yaml", "*.safetensors"]))
    except Exception as error:
        raise _unreachable(name, option, error) from error


def _unreachable(name: str, option: str, error: Exception) -> BadInput:
    reason = str(error).split("\n")[0][:160] or type(error).__name__
    return BadInput(f"{option} {name!r}: no such folder, and the hub gave nothing ({reason}); check name and network")


def _checked(folder: Path, name: str, option: str, needs: str) -> Path:
    for file in (needs, "model.safetensors"):
        if not (folder / file).is_file():
            raise BadInput(f"{option} {name!r}: {folder / file} is missing; a model has {needs} and model.safetensors")
    return folder
