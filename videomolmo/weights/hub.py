"""Names of models become folders: shipped ones, local ones, ids on the hub."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput

SAMPLE_SENTENCE = "the red circle"


def data_folder() -> Path:
    """The `data` folder: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "data", package / "data"):
        if (folder / "nano").is_dir():
            return folder
    raise BadInput(
        f"no data folder beside {package}: expected data/nano with the nano weights; install from a checkout"
    )


def nano_pointing() -> Path:
    return data_folder() / "nano" / "pointing"


def nano_pointing_96() -> Path:
    """The same model before it grew: frames of 96 pixels, which ablations and short trainings can afford."""
    return data_folder() / "nano" / "pointing_96"


def nano_masks() -> Path:
    return data_folder() / "nano" / "masks"


def nano_glamm() -> Path:
    """Nano-GLaMM: what it does not share with the pointing model at 96 pixels and with the masks' model."""
    return data_folder() / "nano" / "glamm"


def nano_molmo2() -> Path:
    """Nano-Molmo2: transformers' own classes, whole."""
    return data_folder() / "nano" / "molmo2"


SHIPPED = {"nano": nano_pointing, "nano-96": nano_pointing_96, "nano-glamm": nano_glamm, "nano-molmo2": nano_molmo2}


def sample_clip() -> Path:
    return data_folder() / "sample" / "clip.mp4"


def sample_truth() -> Path:
    """The red circle of the sample clip, as packed bits."""
    return data_folder() / "sample" / "truth.npz"


_HUB_ID = re.compile(r"^(?P<id>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_FILES = ["*.json", "*.txt", "*.yaml", "*.jinja", "*.safetensors"]
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def pointing_folder(name: str, offline: bool = False, inside: str = "", **options: Any) -> Path:
    """The folder of a pointing model, in our own format or as published.

    Args:
        name: one of `SHIPPED`, a folder, or a hub id, with "@revision" where one is wanted.
        offline: take only what was downloaded before.
        inside: the folder in there that has the model.
        options: of the hub's `snapshot_download`.

    Raises:
        BadInput: no such folder, an id the hub does not know or cannot be asked for, or files missing.
    """
    name = as_name(name, "--model")
    if name in SHIPPED:
        folder = SHIPPED[name]()
    else:
        folder = _folder_or_hub(name, "--model", "config.json", offline, inside, **options)
    return _check_files(folder / inside, name, "--model", "config.json")


OTHER_FILES = ("proxies", "variant", "gguf_file", "state_dict")
IDLE = ("trust_remote_code", "code_revision", "use_safetensors", "weights_only", "_commit_hash", "_from_auto")


def model_folder(name: str | os.PathLike, options: dict[str, Any]) -> Path:
    """As `pointing_folder`, in the terms of transformers; a folder is taken as it is.

    Args:
        name: a folder, "nano", or a hub id.
        options: of `from_pretrained`; those of the hub, and those that change nothing here, are taken out.

    Raises:
        BadInput: also for an option that would have other files read.
    """
    for other in OTHER_FILES:
        if options.pop(other, None) is not None:
            raise BadInput(f"{other} is given, expected a folder or hub id of safetensors alone; leave it out")
    if options.get("use_safetensors") is False:
        raise BadInput("use_safetensors is False, expected True: no pickled weights are read; leave it out")
    for idle in IDLE:
        options.pop(idle, None)
    revision, offline = options.pop("revision", None), bool(options.pop("local_files_only", False))
    inside = options.pop("subfolder", None) or ""
    of_hub = {key: options.pop(key) for key in ("token", "cache_dir", "force_download") if key in options}
    if os.path.isdir(name):
        return Path(name, inside)
    return pointing_folder(name if revision in (None, "main") else f"{name}@{revision}", offline, inside, **of_hub)


def masks_folder(name: str, offline: bool = False) -> Path:
    """The folder of a SAM 2 in the layout of `data/nano/masks`; for published SAM 2 see `checkpoint_file`."""
    name = as_name(name, "--masks")
    folder = nano_masks() if name == "nano" else _folder_or_hub(name, "--masks", "config.yaml", offline)
    return _check_files(folder, name, "--masks", "config.yaml")


def as_name(name: str | os.PathLike, option: str) -> str:
    """The name of a model as a text, from a text or a path.

    Raises:
        BadInput: it is neither, or empty.
    """
    text = os.fsdecode(name) if isinstance(name, (str, os.PathLike)) else ""
    if not text.strip():
        needs = {"--model": "config.json", "--masks": "config.yaml"}[option]
        raise BadInput(f"{option} is {name!r}, expected 'nano', a hub id, or a folder with {needs}")
    return text


def split_revision(name: str) -> tuple[str, str | None]:
    """A hub id and its pinned revision, if any.

    Example:
        >>> split_revision("facebook/sam2.1-hiera-tiny@main")
        ('facebook/sam2.1-hiera-tiny', 'main')
    """
    match = _HUB_ID.match(name)
    return (match["id"], match["revision"]) if match else (name, None)


def checkpoint_file(name: str, file: str, offline: bool = False) -> Path:
    """One file of a hub repository, downloaded once.

    Raises:
        BadInput: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    hub_id, revision = split_revision(name)
    try:
        return Path(hf_hub_download(hub_id, file, revision=revision, local_files_only=offline))
    except Exception as error:  # the hub's client raises many kinds, all of which mean "no file"
        raise _unreachable(name, "--masks", error) from error


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file of a model, by file name."""
    return {path.name: file_hash(path) for path in sorted(folder.glob("*.safetensors")) if path.is_file()}


def file_hash(path: Path) -> str:
    """SHA-256 of a file; the hub's cache names large files by it, which saves reading them.

    Elsewhere a name proves nothing: anybody can lay a file into a folder "blobs".
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    from videomolmo.io.provenance import sha256  # which imports numpy; the command line's help takes names from here

    target = path.resolve()
    cached = path.is_symlink() and target.parent.name == "blobs" and target.is_relative_to(Path(HF_HUB_CACHE).resolve())
    named = cached and re.fullmatch(r"[0-9a-f]{64}", target.name)
    return target.name if named else sha256(path)


def _folder_or_hub(name: str, option: str, needs: str, offline: bool, inside: str = "", **options: Any) -> Path:
    if os.path.isdir(name):
        return Path(name)
    if not _HUB_ID.match(name):
        raise BadInput(
            f"{option} {name!r}: unknown; give 'nano', a hub id, or a folder with {needs} and model.safetensors"
        )
    from huggingface_hub import snapshot_download

    hub_id, revision = split_revision(name)
    try:
        files = [f"{inside}/{pattern}" if inside else pattern for pattern in _FILES]
        kept = {"revision": revision, "allow_patterns": files, "local_files_only": offline}
        return Path(snapshot_download(hub_id, **kept, **options))
    except Exception as error:
        raise _unreachable(name, option, error) from error


def _unreachable(name: str, option: str, error: Exception) -> BadInput:
    reason = textwrap.shorten(str(error).split("\n")[0], 160, placeholder=" …") or type(error).__name__
    return BadInput(f"{option} {name!r}: no such folder, and the hub gave nothing ({reason}); check name and network")


def _check_files(folder: Path, name: str, option: str, needs: str) -> Path:
    if not (folder / needs).is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
        missing = needs if not (folder / needs).is_file() else _WEIGHTS[0]
        raise BadInput(f"{option} {name!r}: {folder / missing} is missing; a model has {needs} and {_WEIGHTS[0]}")
    return folder
