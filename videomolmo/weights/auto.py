"""transformers' Auto classes know our models from `import videomolmo` on, which itself loads no library."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

HOMES = {  # model_type of a config.json -> what registers its classes when it is imported
    "videomolmo": "videomolmo.model",
    "molmo": "videomolmo.weights.published",
    "videoglamm": "videomolmo.systems.videoglamm",
    "molmo_point": "videomolmo.systems.molmopoint",
}


class _Later:
    """Stands for a configuration class in transformers' list; the first one made loads ours, which takes its place."""

    model_type = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """The configuration itself."""
        return cls._class()(*args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration from the content of its config.json."""
        return cls._class().from_dict(config_dict, **kwargs)

    @classmethod
    def _class(cls) -> Any:
        from transformers import CONFIG_MAPPING

        import_module("videomolmo.model")
        import_module(HOMES[cls.model_type])
        return CONFIG_MAPPING[cls.model_type]


class MolmoProcessor:
    """Stands for our processor under the name that published folders give theirs."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Our processor of that folder."""
        from videomolmo.model import VideoMolmoProcessor

        return VideoMolmoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)


KINDS = {name: type(f"Later_{name}", (_Later,), {"model_type": name}) for name in HOMES}


def _configurations(auto: ModuleType) -> None:
    for name, kind in KINDS.items():
        auto.AutoConfig.register(name, kind, exist_ok=True)


def _processors(auto: ModuleType) -> None:
    auto.AutoProcessor.register(KINDS["molmo"], MolmoProcessor, exist_ok=True)


WAITING = {  # what is to be done with transformers' own files as soon as they are loaded
    "transformers.models.auto.configuration_auto": _configurations,
    "transformers.models.auto.processing_auto": _processors,
}


class _Finder:
    """Finds these files as Python itself does."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        register = WAITING.pop(name, None)
        spec = PathFinder.find_spec(name, path, target) if register else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), register(module))
        return spec


def register_when_loaded() -> None:
    """Put ours into transformers' lists, now where they are loaded already, else when they are."""
    for name in WAITING.keys() & sys.modules.keys():
        WAITING.pop(name)(sys.modules[name])
    if WAITING and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
