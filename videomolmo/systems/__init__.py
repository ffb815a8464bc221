"""Systems by name: who loads a `VideoGrounder` for `load_grounder`, and so for every command that takes --model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import read_model_json
from videomolmo.weights import hub

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

Loader = Callable[..., "VideoGrounder"]
SYSTEMS: dict[str, str | Loader] = {
    "molmo2": "videomolmo.systems.molmo2:load",
    "videoglamm": "videomolmo.systems.videoglamm.segmenter:load",
    "molmo_point": "videomolmo.systems.molmopoint.pointer:load",
}
"""What a loader is, or where it lies ("module:function"), by a name for `model` or the `model_type` of a config.json.

Installed packages add theirs as entry points of the group "videomolmo.systems".
"""


def load_grounder(
    model: str = "nano", masks: str = "nano", device: str = "auto", *, offline: bool = False, **options: Any
) -> VideoGrounder:
    """As `VideoGrounder.from_pretrained`, for other systems as well: their name, or the model's config.json, tells.

    Args:
        model: what `VideoGrounder.from_pretrained` takes, a folder or hub id of a Molmo 2, or a name in `SYSTEMS`.
        masks, device, offline: likewise.
        options: `dtype` and `attention`; `quantize` and `device_map` for VideoMolmo alone; those of the system.

    Raises:
        BadInput: no such model, weights that do not fit, or an option the model does not have.
    """
    from videomolmo.grounding import VideoGrounder
    from videomolmo.weights.checkpoint import device_named

    device_named(device)  # before anything is downloaded
    name = hub.as_name(model, "--model")
    loader = _loader(name)
    if loader is None:
        folder = hub.pointing_folder(name, offline)
        loader, name = _loader(_model_type(folder)), str(folder)
    if loader is None:
        if strange := sorted(set(options) - {"dtype", "quantize", "attention", "device_map"}):
            raise BadInput(f"{strange[0]} is no option of VideoMolmo ({model}); leave it out")
        return VideoGrounder.from_pretrained(model, masks, device, offline=offline, **options)
    return loader(name, masks, device, offline=offline, **options)


def _model_type(folder: Path) -> object:
    """What a folder's configuration says it is; what is wrong with it is said by whoever loads it."""
    try:
        return read_model_json(folder / "config.json").get("model_type")
    except BadInput:
        return None


def _loader(name: object) -> Loader | None:
    """The loader of a system, built in or installed; None for a name that is none."""
    if not isinstance(name, str):
        return None
    found = SYSTEMS.get(name)
    if found is None:
        found = next((one.value for one in entry_points(group="videomolmo.systems") if one.name == name), None)
    try:
        return resolve_name(found) if isinstance(found, str) else found
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"system {name!r} lies in {found}, which cannot be imported ({error}); install it again"
        ) from error
