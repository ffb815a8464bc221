"""How should the past enter, and how much of it? The ablation of the temporal module: variants × context × seeds.

Notebook 04 runs some of it; `videomolmo sweep` runs the notebook over data/sweeps/temporal.toml, a cell at a time, and
over temporal_written.toml, where a few cells go on to language.

Every cell starts from the same single-frame model, has the same number of steps on the same clips in the same order
(of its seed), and answers the same held-out questions. Without steps of language nothing is written: a question's
answer is read from the window tokens, with linear heads that were trained along. A cell takes half a minute, not an
hour. With them the points that are written are judged, of every variant at l = 4. That starts from the shipped model
without its temporal module, whose language knows words of motion already, and ends with a short stage in which language
gets used to the variant. From the single-frame start 600 steps of language taught none of the four variants that were
tried to write what moves where: they stayed at chance (one seed), so that such cells would take far longer.

Source: paper, table of the temporal module's variants and figure of the context length.
Differs: nano model, generated clips, answers read from tokens; the paper measures J&F on Ref-DAVIS17.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo.errors import BadInput
from videomolmo.io.provenance import commit, machine
from videomolmo.lab.temporal_report import bits, load, markdown, missing
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.weights.hub import data_folder

if TYPE_CHECKING:
    import numpy as np

    from videomolmo.lab.temporal_data import EncodedClips, Question

    Questions = list[Question]

EARLIER_NAMES = {"warmup": "look", "joint": "settle"}  # of the steps, in tables
CONTEXTS = (0, 1, 2, 3, 4, 5, 6)
SEEDS = (1, 2, 3)
WRITTEN = "_written.csv"  # its table, beside that of the others


@dataclass(frozen=True)
class Cell:
    """One run: a variant of the temporal module, l past frames, a seed."""

    variant: str
    context: int
    seed: int


def grid(
    variants: Sequence[str] = TEMPORAL_KINDS, contexts: Sequence[int] = CONTEXTS, seeds: Sequence[int] = SEEDS
) -> list[Cell]:
    """All different cells, the most telling first: every variant at l = 4 with the first seed, then on from there.

    Without past frames there is one variant, "none", and attention to all of one frame is attention to its mean.

    Raises:
        BadInput: names or numbers that the ablation does not know.
    """
    _check(variants, contexts, seeds)
    cells = {Cell("none", 0, seed) for seed in seeds if 0 in contexts or "none" in variants}
    for variant in (name for name in variants if name != "none"):
        mean_is_all = variant == "cross_attention_all" and "cross_attention" in variants
        lengths = [length for length in contexts if length > (1 if mean_is_all else 0)]
        cells |= {Cell(variant, length, seed) for length in lengths for seed in seeds}
    rank = {4: 0, 1: 1, 6: 2}
    return sorted(
        cells, key=lambda c: (c.seed, rank.get(c.context or 4, 3), c.context, TEMPORAL_KINDS.index(c.variant))
    )


def _check(variants: Sequence[str], contexts: Sequence[int], seeds: Sequence[int]) -> None:
    for name, values, allowed in (("variants", variants, TEMPORAL_KINDS), ("contexts", contexts, CONTEXTS)):
        unknown = [value for value in values if value not in allowed]
        if unknown or not values:
            raise BadInput(f"{name} is {list(values)}, expected some of {', '.join(map(str, allowed))}")
    if not seeds or min(seeds) < 0:
        raise BadInput(f"seeds is {list(seeds)}, expected whole numbers of at least 0")


@dataclass(frozen=True)
class Size:
    """How much each cell gets; equal for all cells of a table.

    Args:
        warmup, joint: steps, see `temporal_training.stages`; 0 leaves a stage out, but not both.
        language: steps of language on top; 0 judges what is read from tokens, else what is written.
        train_clips, test_clips: to train on and to ask about.
        language_clips: to train language on.
    """

    warmup: int = 280
    joint: int = 120
    language: int = 0
    train_clips: int = 1500
    test_clips: int = 900
    language_clips: int = 1200

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name.endswith("clips") else 0
            if getattr(self, field.name) < least:
                raise BadInput(f"{field.name} is {getattr(self, field.name)}, expected at least {least}")
        if not self.warmup + self.joint:
            raise BadInput("warmup and joint are both 0, expected at least one step of either")

    @property
    def settings(self) -> dict[str, int]:
        """As the table holds them; clips for language are 0 where no language is trained."""
        stored = {EARLIER_NAMES.get(name, name): value for name, value in asdict(self).items()}
        return stored | ({} if self.language else {"language_clips": 0})


SHIPPED = Size()


def run(cells: Sequence[Cell], cache: Path, size: Size = SHIPPED) -> Iterator[dict]:
    """Train and judge each cell; yields its rows.

    Args:
        cells: see `grid`.
        cache: folder for what the frozen vision tower saw, filled once, and for unfinished language stages.
        size: of every cell.
    """
    from videomolmo.lab.temporal_data import TEST, TRAIN, encode_clips, questions

    train_set = encode_clips(replace(TRAIN, clips=size.train_clips), cache)
    test_set = encode_clips(replace(TEST, clips=size.test_clips), cache)
    asked = (questions(train_set), questions(test_set))
    for cell in cells:
        begun = time.perf_counter()
        right = _judge(cell, size, cache, (train_set, test_set), asked)
        metadata = asdict(cell) | size.settings | {"seconds": round(time.perf_counter() - begun, 1)}
        metadata |= {"commit": commit() or "", "machine": machine()}
        for kind, of in right.items():
            yield metadata | {"kind": kind, "value": round(float(of.mean()), 4), "n": len(of), "right": bits(of)}


def _judge(
    cell: Cell, size: Size, cache: Path, clips: tuple[EncodedClips, EncodedClips], asked: tuple[Questions, Questions]
) -> dict[str, np.ndarray]:
    """What is right of the answers read from tokens, or, where language is trained on top, of those written.

    Args:
        clips, asked: to train on, and to test.
    """
    from videomolmo.lab import temporal_training as training
    from videomolmo.lab.nano.initial_weights import pretrained_without_temporal

    (train_set, test_set), (train_asked, test_asked) = clips, asked
    stages = training.stages(size.warmup, size.joint)
    start = (pretrained_without_temporal(),) if size.language else ()
    both = training.train(cell.variant, cell.context, cell.seed, train_set, stages, *start)
    if not size.language:
        threshold = training.refusal_threshold(training.read(both, train_set, cell.context), train_asked)
        return training.judge(training.read(both, test_set, cell.context), test_set, test_asked, threshold)
    name = "-".join(str(part) for part in (*asdict(cell).values(), *asdict(size).values()))
    taught, stage = training.language_clips(cache, size.language_clips), training.language_stage(size.language)
    model = training.teach_language(both, taught, stage, cache / "language" / name, cell.seed)
    return training.score_answers(
        training.generate_answers(model, test_set, test_asked, cell.context), test_set, test_asked
    )


def block(out: Path, cells: Sequence[Cell]) -> str:
    """The README's block for the table `out` and, where it is there, the table of written cells beside it."""
    table, written = load(out), out.with_name(out.stem + WRITTEN)
    return markdown(table, missing(table, cells), load(written) if written.is_file() else None)


def shipped_table() -> Path:
    """The table that comes with the project."""
    return data_folder() / "ablations" / "temporal.csv"
