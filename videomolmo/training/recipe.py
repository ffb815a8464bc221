"""What a training run is: model, what of it learns, optimiser, data and machine, as a TOML file or in Python.

The defaults are the paper's recipe. Unknown keys, wrong types and values out of range are refused before anything is
read or written.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from videomolmo.errors import BadInput

PARTS = ("vision", "temporal", "connector", "language")  # of a model; "lora" stands for adapters on the last
PRECISIONS = ("float32", "mixed")
QUANTIZE = (None, "4bit")
_ANY = math.inf


def _within(owner: object, least: float, most: float, *names: str) -> None:
    """BadInput where a field of `owner` lies outside a range."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not (least <= value <= most and math.isfinite(value)):
            bound = f"at least {least}" if most == _ANY else f"from {least} to {most}"
            bound += " and finite" if value == _ANY else ""
            raise BadInput(f"{type(owner).__name__.lower()}.{name} is {value}, expected {bound}")


def _one_of(owner: object, name: str, allowed: tuple) -> None:
    if getattr(owner, name) not in allowed:
        raise BadInput(
            f"{type(owner).__name__.lower()}.{name} is {getattr(owner, name)!r}, expected one of {list(allowed)}"
        )


@dataclass(frozen=True)
class Model:
    """Which weights training starts from.

    Args:
        source: "nano", a folder, or a hub id with "@revision" where one is wanted.
        context: past frames (l); None keeps the model's.
        quantize: None, or "4bit" for the language model under "lora" (bitsandbytes).
        offline: take only what was downloaded before.
    """

    source: str = "nano"
    context: int | None = None
    quantize: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        _within(self, 1, _ANY, "context")
        _one_of(self, "quantize", QUANTIZE)


@dataclass(frozen=True)
class Learn:
    """What is trained, by name; everything else stays as it is.

    Args:
        parts: "everything", or some of vision, temporal, connector, language and lora.
        rank, alpha, dropout: of the LoRA adapters on all linear layers of the language model.
    """

    parts: tuple[str, ...] = ("everything",)
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _within(self, 1, _ANY, "rank")
        _within(self, 0, _ANY, "alpha")
        _within(self, 0, 0.9, "dropout")
        known = ("everything", *PARTS, "lora")
        strange = [name for name in self.parts if name not in known]
        if strange or not self.parts:
            raise BadInput(f"learn.parts is {list(self.parts)}, expected some of {', '.join(known)}")
        if "lora" in self.names and "language" in self.names:
            raise BadInput("learn.parts has lora and the whole language model, expected one of them; drop one")

    @property
    def names(self) -> tuple[str, ...]:
        """The parts one by one, in a fixed order."""
        chosen = {*self.parts} | ({*PARTS} if "everything" in self.parts else set())
        return tuple(name for name in (*PARTS, "lora") if name in chosen)


@dataclass(frozen=True)
class Optimiser:
    """AdamW and its schedule. Source: paper, training details.

    Args:
        language, vision, temporal, connector, lora: peak learning rates of the parts. Differs: the rate of `lora` is
            ours, the paper does not tell its own.
        beta1, beta2, epsilon, weight_decay: of AdamW; the paper names no decay.
        warmup: steps of linear warm-up; a cosine down to `floor` of the peak follows.
        clip: largest norm of the gradient.
        batch: samples of one step, on all processes and accumulated passes together.
        micro_batch: samples that one process computes at a time.
        epochs: how often the data is gone through; `steps` counts instead where given.
    """

    language: float = 1e-5
    vision: float = 5e-6
    temporal: float = 5e-6
    connector: float = 5e-6
    lora: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    warmup: int = 10
    floor: float = 0.0
    clip: float = 1.0
    batch: int = 256
    micro_batch: int = 1
    epochs: float = 4.0
    steps: int | None = None

    def __post_init__(self) -> None:
        _within(self, 0, 1, *PARTS, "lora", "beta1", "beta2", "weight_decay", "floor")
        _within(self, 1e-20, _ANY, "epsilon", "clip", "epochs")
        _within(self, 0, _ANY, "warmup")
        _within(self, 1, _ANY, "batch", "micro_batch", "steps")
        if self.batch % self.micro_batch:
            raise BadInput(f"optimiser.batch is {self.batch}, expected a multiple of micro_batch = {self.micro_batch}")


@dataclass(frozen=True)
class Source:
    """One data set to train on; see `videomolmo.datasets.read_dataset`.

    Args:
        name, path, split, options: of the data set; "videomolmo" reads rows as `videomolmo annotate` writes them.
        repeat: how often an epoch goes through it.
    """

    name: str
    path: str | None = None
    split: str | None = "train"
    options: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 1

    def __post_init__(self) -> None:
        _within(self, 1, _ANY, "repeat")


@dataclass(frozen=True)
class Data:
    """How a sample is made: one random annotated frame, its past, and questions about it. Source: paper, section 4.

    Args:
        sets: where clips come from.
        questions: most questions about one frame, packed as a message tree.
        stride: frames from one past frame to the next.
        templates: ask in one of forty ways; else always "Point to …".
        jitter_pct: standard deviation of the noise on true points, percent of the frame's sides; a point of a mask
            never leaves it.
        mirror: share of samples that are mirrored; never one whose words name a side.
        brightness, contrast: largest relative change, drawn per sample, the same for its past.
        early: share of samples that look like a clip's start: with fewer past frames than there are.
        broken: "stop" at a clip that cannot be read, or "replace" it by the next one and write that down.
    """

    sets: tuple[Source, ...] = (Source("generated"),)
    questions: int = 4
    stride: int = 1
    templates: bool = True
    jitter_pct: float = 0.0
    mirror: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    early: float = 0.0
    broken: str = "stop"

    def __post_init__(self) -> None:
        _within(self, 1, _ANY, "questions", "stride")
        _within(self, 0, 1, "mirror", "early")
        _within(self, 0, 0.9, "brightness", "contrast")
        _within(self, 0, 20, "jitter_pct")
        _one_of(self, "broken", ("stop", "replace"))
        if not self.sets:
            raise BadInput("data.sets is empty, expected at least one [[data.sets]] with a name")


@dataclass(frozen=True)
class Run:
    """How the machine does it. Only `seed` and `precision` decide the outcome (and order of sums the last bits).

    Args:
        seed: of weights that start afresh, order, samples and dropout.
        precision: "float32" (paper), or "mixed": bfloat16 arithmetic on float32 weights, frozen weights in bfloat16.
        shard: FSDP2: weights, gradients and optimiser states are divided among the processes; else DDP.
        gradient_checkpointing: compute layers again in the backward pass instead of keeping what they saw.
        workers: processes that read data for each training process; 0 reads in the training process itself.
        checkpoint_every, keep: steps between checkpoints, and how many of them stay.
        log_every: steps between lines of the log.
        diverged: a loss this many times the recent mean stops the run.
        drifted: so does a recent mean this many times the lowest that it has been.
        peak_tflops: of one device, to tell the share used; None takes a known GPU's, or measures a product on a CPU;
            0 leaves arithmetic uncounted.
        deterministic: ask torch for kernels that give the same bits each time (a GPU is slower with them).
        cpu: stay off the GPU.
    """

    seed: int = 1
    precision: str = "float32"
    shard: bool = False
    gradient_checkpointing: bool = False
    workers: int = 2
    checkpoint_every: int = 50
    keep: int = 2
    log_every: int = 1
    diverged: float = 20.0
    drifted: float = 4.0
    peak_tflops: float | None = None
    deterministic: bool = False
    cpu: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "precision", PRECISIONS)
        _within(self, 0, 2**32 - 1, "seed")
        _within(self, 0, _ANY, "workers")
        _within(self, 1, _ANY, "checkpoint_every", "keep", "log_every")
        _within(self, 1.5, _ANY, "diverged", "drifted")
        _within(self, 0, _ANY, "peak_tflops")


@dataclass(frozen=True)
class Recipe:
    """A whole training run; `out` is its folder.

    Example:
        >>> Recipe().optimiser.batch, Recipe().learn.names
        (256, ('vision', 'temporal', 'connector', 'language'))
    """

    out: str = "runs/train"
    model: Model = field(default_factory=Model)
    learn: Learn = field(default_factory=Learn)
    optimiser: Optimiser = field(default_factory=Optimiser)
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if self.model.quantize and "lora" not in self.learn.names:
            raise BadInput("model.quantize is '4bit', expected learn.parts with 'lora': four bits cannot learn")
        if self.model.quantize and self.run.shard:
            raise BadInput("run.shard and model.quantize exclude each other: four-bit weights cannot be divided")

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights; a run goes on only with the same ones.

        What to do about clips that cannot be read is not among them: whoever is stopped by one may choose to go on.
        """
        values = asdict(self)
        for part, name in (("optimiser", "micro_batch"), ("data", "broken"), ("model", "offline")):
            if name != "micro_batch" or not self.learn.dropout:  # what is dropped goes by micro-batch
                values[part].pop(name)
        values["run"] = {name: values["run"][name] for name in ("seed", "precision")}
        values.pop("out")
        return json.loads(json.dumps(values))


def read_recipe(path: str | Path, out: str | Path | None = None) -> Recipe:
    """The recipe in a TOML file; what it does not name is as in the paper.

    Args:
        path: of the file.
        out: in place of the file's own.

    Raises:
        BadInput: no such file, no TOML, an unknown key, a value of the wrong type or out of range.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); give a TOML file, see data/recipes") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from error
    recipe = _build(Recipe, values, "")
    return recipe if out is None else replace(recipe, out=str(out))


def _build(part: type, values: Any, place: str) -> Any:
    """Dataclass `part` from a table; `place` is the dotted name of the table, for messages."""
    if not isinstance(values, dict):
        raise BadInput(f"{place} is {values!r}, expected a table")
    hints, known = get_type_hints(part), {entry.name: entry for entry in fields(part)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        where = f"[{place}]" if place else "the recipe"
        raise BadInput(f"{where} has unknown keys {unknown}, expected only {sorted(known)}")
    lacking = [name for name, entry in known.items()
               if entry.default is MISSING and entry.default_factory is MISSING and name not in values]  # fmt: skip
    if lacking:
        raise BadInput(f"[[{place}]] lacks {lacking[0]!r}")
    return part(**{key: _value(hints[key], value, f"{place}.{key}".lstrip(".")) for key, value in values.items()})


def _value(hint: Any, value: Any, place: str) -> Any:
    """A TOML value as the type of its field."""
    if hint in (Model, Learn, Optimiser, Data, Run):
        return _build(hint, value, place)
    if hint == tuple[Source, ...]:
        if not isinstance(value, list):
            raise BadInput(f"{place} is {value!r}, expected tables: [[{place}]]")
        return tuple(_build(Source, one, place) for one in value)
    if hint == tuple[str, ...]:
        if not isinstance(value, (str, list)) or not all(isinstance(name, str) for name in value):
            raise BadInput(f"{place} is {value!r}, expected a name or a list of names")
        return (value,) if isinstance(value, str) else tuple(value)
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kind = next((one for one in (bool, int, float, str) if hint in (one, one | None)), dict)
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise BadInput(f"{place} is {value!r}, expected {plain.get(kind, 'a table')}")
    return float(value) if kind is float else value
