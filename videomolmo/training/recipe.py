"""What a training run is: model, what of it learns, optimiser, data and machine, as a TOML file or in Python.

The defaults are the paper's recipe. Unknown keys, wrong types and values out of range are refused before anything is
read or written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import read_toml

PARTS = ("vision", "temporal", "connector", "language")  # of a model; "lora" stands for adapters on the last
GROUNDED = ("words", "projector", "mask_decoder")  # of VideoGLaMM, beside its connector and language
PRECISIONS = ("float32", "mixed")
QUANTIZE = (None, "4bit")
TASKS = ("point", "count", "track")  # of models that see whole videos
_LATER = {  # keys that settings.json of earlier runs does not have
    "model": ("clip",), "data": ("tasks", "frames", "conversations", "weights", "supervised"),
    "optimiser": (*GROUNDED, "schedule"),
}  # fmt: skip
_EARLIER = {"data": {"early": "start_prob", "broken": "on_error"}, "run": {"drifted": "drift_limit"}}  # keys in files
_EXPECTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "a text",
    "dataclass_type": "a table", "mapping_type": "a table", "dict_type": "a table", "tuple_type": "a list",
    "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}", "greater_than": "more than {gt}",
    "less_than": "less than {lt}", "literal_error": "one of {expected}",
}  # fmt: skip

Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Index = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
SomeShare = Annotated[float, Field(strict=True, ge=0, le=0.9)]
Factor = Annotated[float, Field(strict=True, ge=1.5, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


def _part(cls: type) -> type:
    """`cls` as a frozen dataclass that checks its values when it is made.

    Raises:
        BadInput: a value is of the wrong type or out of range; the line names it and what was expected.
    """
    made = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
    made.__init__ = _in_one_line(made.__init__, "" if cls.__name__ == "Recipe" else cls.__name__.lower())
    return made


def _in_one_line(init: Callable[..., None], place: str) -> Callable[..., None]:
    @wraps(init)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        try:
            init(self, *args, **values)
        except ValidationError as error:
            raise BadInput(_reason(error, place)) from None

    return checked


def _reason(error: ValidationError, place: str) -> str:
    """The first thing that is wrong, as "optimiser.batch is 2.5, expected a whole number"."""
    first = error.errors()[0]
    context, names = first.get("ctx", {}), [name for name in (place, *map(str, first["loc"])) if name]
    table = ".".join(names[:-1])
    if first["type"] == "value_error":  # of several values together
        return str(context["error"])
    if first["type"] == "missing":
        return f"[[{table}]] lacks {names[-1]!r}"
    if first["type"] == "unexpected_keyword_argument":
        parts = {"": Recipe, "model": Model, "learn": Learn, "optimiser": Optimiser, "data": Data, "run": Run}
        unknown = sorted(str(one["loc"][-1]) for one in error.errors() if one["type"] == first["type"])
        known = sorted(parts.get(table, Source).__dataclass_fields__)
        return f"{f'[{table}]' if table else 'the recipe'} has unknown keys {unknown}, expected only {known}"
    expected = _EXPECTED.get(first["type"], first["msg"]).format(**context)
    return f"{'.'.join(names)} is {first['input']!r:.80}, expected {expected}"


@_part
class Model:
    """Which weights training starts from.

    Args:
        source: "nano", a folder, or a hub id with "@revision" where one is wanted.
        context: past frames (l); None keeps the model's.
        clip: of VideoGLaMM, folder or hub id of its image encoder, which published weights leave out.
        quantize: None, or "4bit" for the language model under "lora" (bitsandbytes).
        offline: take only what was downloaded before.
    """

    source: str = "nano"
    context: Count | None = None
    clip: str | None = None
    quantize: Literal["4bit"] | None = None
    offline: Flag = False


@_part
class Learn:
    """What is trained, by name; everything else stays as it is.

    Args:
        parts: "everything", or some of vision, temporal, connector, language and lora; of VideoGLaMM connector,
            language (the layers of Phi-3), lora, words (its tables of words), projector (of [SEG]s) and mask_decoder.
        rank, alpha, dropout: of the LoRA adapters on all linear layers of the language model; of VideoGLaMM on those
            that make queries, keys and values.
    """

    parts: Names = ("everything",)
    rank: Count = 16
    alpha: Number = 32.0
    dropout: SomeShare = 0.0

    def __post_init__(self) -> None:
        known = ("everything", *PARTS, *GROUNDED, "lora")
        strange = [name for name in self.parts if name not in known]
        if strange or not self.parts:
            raise BadInput(f"learn.parts is {list(self.parts)}, expected some of {', '.join(known)}")
        if "lora" in self.names and "language" in self.names:
            raise BadInput("learn.parts has lora and the whole language model, expected one of them; drop one")

    @property
    def names(self) -> tuple[str, ...]:
        """The parts one by one, in a fixed order."""
        chosen = {*self.parts} | ({*PARTS} if "everything" in self.parts else set())
        return tuple(name for name in (*PARTS, *GROUNDED, "lora") if name in chosen)


@_part
class Optimiser:
    """AdamW and its schedule. Source: paper, training details.

    Args:
        language, vision, temporal, connector, lora: peak learning rates of the parts. Differs: the rate of `lora` is
            ours, the paper does not tell its own.
        words, projector, mask_decoder: the same of VideoGLaMM; the rate of all its parts is 3e-4 in its source.
        beta1, beta2, epsilon, weight_decay: of AdamW; the paper names no decay.
        warmup: steps of linear warm-up; a cosine, or a line, down to `floor` of the peak follows, as `schedule` says.
        clip: largest norm of the gradient.
        batch: samples of one step, on all processes and accumulated passes together.
        micro_batch: samples that one process computes at a time.
        epochs: how often the data is gone through; `steps` counts instead where given.
    """

    language: Share = 1e-5
    vision: Share = 5e-6
    temporal: Share = 5e-6
    connector: Share = 5e-6
    lora: Share = 1e-4
    words: Share = 3e-4
    projector: Share = 3e-4
    mask_decoder: Share = 3e-4
    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Positive = 1e-6
    weight_decay: Share = 0.0
    warmup: Index = 10
    floor: Share = 0.0
    schedule: Literal["cosine", "linear"] = "cosine"
    clip: Positive = 1.0
    batch: Count = 256
    micro_batch: Count = 1
    epochs: Positive = 4.0
    steps: Count | None = None

    def __post_init__(self) -> None:
        if self.batch % self.micro_batch:
            raise BadInput(f"optimiser.batch is {self.batch}, expected a multiple of micro_batch = {self.micro_batch}")


@_part
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
    repeat: Count = 1


@_part
class Data:
    """How a sample is made: one random annotated frame, its past, and questions about it. Source: paper, section 4.

    Args:
        sets: where clips come from.
        questions: most questions about one frame, packed as a message tree; of other models about one video.
        stride: frames from one past frame to the next.
        templates: ask in one of forty ways; else always "Point to …".
        jitter_pct: standard deviation of the noise on true points, percent of the frame's sides; a point of a mask
            never leaves it.
        mirror: share of samples that are mirrored; never one whose words name a side.
        brightness, contrast: largest relative change, drawn per sample, the same for its past.
        start_prob: share of samples that look like a clip's start: with fewer past frames than there are.
        on_error: "stop" at a clip that cannot be read, or "replace" it by the next one and write that down.
        tasks: of Molmo 2, which sees whole videos: some of point, count and track; each question is drawn as one.
        frames: of Molmo 2, most that are shown; its sets are sampled at 2 frames a second.
        conversations: of Molmo 2, share of samples whose questions are turns of one conversation, not blind branches.
        weights: of Molmo 2's answer tokens: "flat", 0.2 each; "root", by the answer's length (2/√tokens) and the number
            of messages (1/√messages); "published", flat for points and tracks, and root for all else.
        supervised: of VideoGLaMM, most frames of a clip that masks are learnt on.
    """

    sets: tuple[Source, ...] = (Source("generated"),)
    questions: Count = 4
    stride: Count = 1
    templates: Flag = True
    jitter_pct: Annotated[float, Field(strict=True, ge=0, le=20)] = 0.0
    mirror: Share = 0.0
    brightness: SomeShare = 0.0
    contrast: SomeShare = 0.0
    start_prob: Share = 0.0
    on_error: Literal["stop", "replace"] = "stop"
    tasks: Names = TASKS
    frames: Annotated[int, Field(strict=True, ge=1, le=384)] = 128
    conversations: Share = 0.2
    weights: Literal["published", "flat", "root"] = "published"
    supervised: Count = 4

    def __post_init__(self) -> None:
        if not self.sets:
            raise BadInput("data.sets is empty, expected at least one [[data.sets]] with a name")
        if not self.tasks or not {*self.tasks} <= {*TASKS}:
            raise BadInput(f"data.tasks is {list(self.tasks)}, expected some of {', '.join(TASKS)}")


@_part
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
        drift_limit: so does a recent mean this many times the lowest that it has been.
        peak_tflops: of one device, to log the share used; None logs TFLOP/s alone, 0 leaves operations uncounted.
        deterministic: ask torch for kernels that give the same bits each time (a GPU is slower with them).
        cpu: stay off the GPU.
    """

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 1
    precision: Literal["float32", "mixed"] = "float32"
    shard: Flag = False
    gradient_checkpointing: Flag = False
    workers: Index = 2
    checkpoint_every: Count = 50
    keep: Count = 2
    log_every: Count = 1
    diverged: Factor = 20.0
    drift_limit: Factor = 4.0
    peak_tflops: Number | None = None
    deterministic: Flag = False
    cpu: Flag = False


@_part
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

    def reproducibility_key(self) -> dict[str, Any]:
        """The settings that decide the weights; a run resumes only with the same ones.

        What to do about clips that cannot be read is not among them: whoever is stopped by one may choose to go on.
        """
        values = asdict(self)
        for part, name in (("optimiser", "micro_batch"), ("data", "on_error"), ("model", "offline")):
            if name != "micro_batch" or not self.learn.dropout:  # what is dropped goes by micro-batch
                values[part].pop(name)
        for part, cls in (("model", Model), ("optimiser", Optimiser), ("data", Data)):
            for name in _LATER[part]:
                if values[part][name] == cls.__dataclass_fields__[name].default:
                    values[part].pop(name)
        values["run"] = {name: values["run"][name] for name in ("seed", "precision")}
        values.pop("out")
        values["data"]["early"] = values["data"].pop("start_prob")  # its name in the settings.json of earlier runs
        return json.loads(json.dumps(values))


def read_recipe(path: str | Path, out: str | Path | None = None) -> Recipe:
    """The recipe in a TOML file; what it does not name is as in the paper.

    Args:
        path: of the file.
        out: in place of the file's own.

    Raises:
        BadInput: no such file, no TOML, an unknown key, a value of the wrong type or out of range.
    """
    values = read_toml(path, "give a TOML file, see data/recipes")
    for part, names in _EARLIER.items():
        table = values.get(part)
        for before, now in names.items():
            if isinstance(table, dict) and before in table and now not in table:
                table[now] = table.pop(before)
    recipe = Recipe(**values)
    return recipe if out is None else replace(recipe, out=str(out))
