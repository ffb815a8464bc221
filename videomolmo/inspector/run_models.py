"""The models of a run, loaded when they are first needed: to correct its masks, to ask another sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.io.known_words import unknown_words


class RunModels:
    """A grounder that was given, or what a run was made with.

    Nothing is downloaded for it: weights are loaded where they are on this disk.

    Args:
        run: the configuration of a result, as run.json has it.
        grounder: a `VideoGrounder`, taken in place of the run's.

    Attributes:
        note: what there is to tell of the models that were loaded; None: they are those of the run.
    """

    def __init__(self, run: Mapping[str, Any], grounder: Any = None) -> None:
        self._run, self._grounder = run, grounder
        self._tracker: tuple[Any, Mapping[str, Any]] | None = None
        self.note: str | None = None

    @property
    def unknown(self) -> str | None:
        """Why nothing can be loaded; None where a grounder was given, or the run tells what it loaded."""
        if self._grounder is not None or isinstance(self._loaded.get("masks"), str):
            return None
        return "the result does not tell which models made it: give inspect(result, grounder=…)"

    @property
    def waits(self) -> bool:
        """Whether models are yet to be loaded."""
        return self._grounder is None and self._tracker is None

    @property
    def _loaded(self) -> Mapping[str, Any]:
        loaded = self._run.get("loaded")
        return loaded if isinstance(loaded, Mapping) else {}

    def tracker(self) -> tuple[Any, Mapping[str, Any]]:
        """The tracker, and the hashes of its weights.

        Raises:
            BadInput: the run does not tell, or the weights are not on this disk.
        """
        if self._grounder is not None:
            return getattr(self._grounder, "tracker", self._grounder), getattr(self._grounder, "weights", None) or {}
        if self._tracker is None:
            from videomolmo.grounding import load_tracker

            self._check()
            with _explained(self._loaded["masks"]):
                self._tracker = load_tracker(self._loaded["masks"], offline=True)
            self._compare(self._tracker[1])
        return self._tracker

    def grounder(self) -> Any:
        """The whole grounder; errors as of `tracker`."""
        if self._grounder is None:
            from videomolmo.systems import load_grounder

            self._check()
            names = {name: str(self._loaded.get(name) or "nano") for name in ("model", "masks")}
            with _explained(" or ".join(dict.fromkeys(names.values()))):
                self._grounder = load_grounder(**names, offline=True)
            self._compare(self._grounder.weights)
        return self._grounder

    def unknown_words(self, sentence: str) -> str | None:
        """A line about words that the loaded model never learnt; None where it knows them, or is not loaded yet."""
        model = getattr(self._grounder, "pointer", None) or getattr(self._grounder, "segmenter", None)
        loaded = getattr(self._grounder, "loaded", None) or {}
        return unknown_words(model, sentence, loaded.get("model")).warning

    def _check(self) -> None:
        if self.unknown:
            raise BadInput(self.unknown)

    def _compare(self, weights: Mapping[str, Any]) -> None:
        """Note weights that are not those of the run."""
        before = self._run.get("weights_sha256")
        before = before if isinstance(before, Mapping) else {}
        other = sorted(name for name, value in weights.items() if name in before and before[name] != value)
        if other:
            self.note = f"the weights of {', '.join(other)} are not those of the run"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Adds to an error what to do about models that cannot be loaded."""
    try:
        yield
    except (BadInput, OSError) as error:
        raise BadInput(
            f"the run's own {name} cannot be loaded ({error}); "
            "give inspect(result, grounder=videomolmo.load_grounder(…))"
        ) from error
