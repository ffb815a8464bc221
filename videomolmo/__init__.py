"""Point at what a sentence names in a video: points on key frames, masks on every frame, tracks."""

import os
import sys
from typing import TYPE_CHECKING, Any

from videomolmo.weights.auto import register_when_loaded

if TYPE_CHECKING:
    from videomolmo.errors import BadInput
    from videomolmo.grounding import VideoGrounder
    from videomolmo.inspector.widget import inspect
    from videomolmo.io.video import open_video
    from videomolmo.results import GroundingResult
    from videomolmo.synth.clips import generate_clip
    from videomolmo.systems import load_grounder

__all__ = ["BadInput", "GroundingResult", "VideoGrounder", "generate_clip", "inspect", "load_grounder", "open_video"]

_HOMES = {
    "BadInput": "errors",
    "VideoGrounder": "grounding",
    "GroundingResult": "results",
    "generate_clip": "synth.clips",
    "inspect": "inspector.widget",
    "load_grounder": "systems",
    "open_video": "io.video",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import videomolmo` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'videomolmo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"videomolmo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


register_when_loaded()
if sys.platform == "darwin":  # what Apple's GPUs cannot compute the CPU does; torch asks for this when it is imported
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
