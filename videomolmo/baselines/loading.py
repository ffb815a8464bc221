"""A grounder by its name, whichever model family it is of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo import hub
from videomolmo.errors import BadInput
from videomolmo.untrusted import read_json

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

OURS = ("quantize", "device_map")  # options of our own loader


def load_grounder(
    model: str = "nano", masks: str = "nano", device: str = "auto", *, offline: bool = False, **options: Any
) -> "VideoGrounder":
    """As `VideoGrounder.from_pretrained`, for Molmo 2 as well: the model's config.json tells which it is.

    Args:
        model: what `VideoGrounder.from_pretrained` takes, or a folder or hub id of a Molmo 2.
        masks, device, offline: idem.
        options: `dtype` and `attention`; `quantize` and `device_map` for VideoMolmo alone.

    Raises:
        BadInput: no such model, weights that do not fit, or an option the model does not have.
    """
    from videomolmo.grounding import VideoGrounder, device_named

    device_named(device)  # before anything is downloaded
    folder = hub.pointing_folder(model, offline)
    if _family(folder) != "molmo2":
        return VideoGrounder.from_pretrained(model, masks, device, offline=offline, **options)
    from videomolmo.baselines.molmo2 import Molmo2Grounder

    for name in OURS:
        if (value := options.pop(name, None)) is not None:
            raise BadInput(f"{name} is {value!r}, which is not for Molmo 2; leave it out")
    return Molmo2Grounder.from_pretrained(str(folder), masks, device, offline=offline, **options)


def _family(folder: Path) -> object:
    """`model_type` of a folder's configuration; what is wrong with it is said by whoever loads it."""
    try:
        return read_json(folder / "config.json").get("model_type")
    except BadInput:
        return None
