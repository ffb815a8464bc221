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
}
LIST = "transformers.models.auto.configuration_auto"  # transformers' file with its list of configurations


class _Later:
    """Stands for a configuration class in that list; the first one made loads our model, which takes its place."""

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


def register(listed: ModuleType) -> None:
    """Put our kinds of config.json into transformers' list, without loading anything."""
    for name in HOMES:
        listed.AutoConfig.register(name, type(f"Later_{name}", (_Later,), {"model_type": name}), exist_ok=True)


class _Finder:
    """Finds transformers' list as Python itself does, and has ours put into it as soon as it is loaded."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if name != LIST:
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), register(module))
        return spec


def register_when_loaded() -> None:
    """`register`, now where transformers' list is loaded already, else when it is."""
    if LIST in sys.modules:
        register(sys.modules[LIST])
    elif _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
