"""Which encoder do the words come from? Nano-GLaMM's language learnt anew with one encoder blanked, or none.

Every cell begins with the same trained encoders and a new language (of its seed), takes the same steps on the same
clips, in the order and with the questions of its seed, and answers the same held-out questions greedily. The tokens of
a blanked encoder keep their places and are zero: rows keep their length, and nothing but what they say is lost.
A quarter of the steps is not enough: after 500 of 4 clips with 3 questions each, both encoders together had 6 % of the
motions in captions right (one seed), too few to compare anything.

Source: VideoGLaMM, table of the encoders.
Differs: nano model, generated clips; answers are judged by their words, where the published table has mIoU, recall and
METEOR.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder
from videomolmo.io.cache import cached
from videomolmo.io.provenance import commit, machine, sha256
from videomolmo.io.tables import read_csv, write_csv
from videomolmo.lab.caption_lesson import named, phrase_iou
from videomolmo.lab.caption_report import CELL, KINDS, LEARNT, SUPERVISED, VARIANTS, motion_told, numbers_as_text
from videomolmo.lab.nano.caption_batches import HELD_OUT, Seen, views
from videomolmo.lab.nano.caption_recipe import STAGES, WRITTEN, processor_of
from videomolmo.lab.nano.caption_stage import (
    AVERAGE,
    PARTS,
    Both,
    Stage,
    advance,
    assembled,
    features,
    optimiser_of,
)
from videomolmo.lab.nano.checkpoint import CHECKPOINT_EVERY, MovingAverage, resume, save_progress
from videomolmo.lab.nano.grounded_model import given_features, nano_glamm
from videomolmo.lab.tables import check_budget
from videomolmo.synth.caption_scenes import caption_clip
from videomolmo.synth.captions import Exchange, GroundedText, exchange
from videomolmo.synth.clips import Clip
from videomolmo.systems import load_grounder
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor, collate
from videomolmo.systems.videoglamm.segmenter import Branch, VideoGLaMMSegmenter
from videomolmo.training.recipe import Data, Learn, Model, Optimiser, Recipe, Run, Source
from videomolmo.training.trainer import train as train_recipe

ADAPTERS = {"image": "image_mm_projector", "video": "mm_projector"}  # what an encoder's tokens pass through last
SEEDS = (1, 2, 3)
VERSION = 1  # raise it when what is cached changes
PART, AT_ONCE = 100, 50  # clips encoded, and questions answered, at a time
FRAMES = 24  # of clips to be masked; those learnt from have 12
DESCRIBE = "Describe the video."
Features = dict[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """One run: which encoders are seen, and a seed."""

    variant: str
    seed: int


def grid(variants: Sequence[str] = tuple(VARIANTS), seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """All cells, the most telling first: both encoders and CLIP alone with every seed, then InternVideo2 alone.

    Raises:
        BadInput: a variant that is not known.
    """
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise BadInput(f"variants holds {unknown[0]!r}, expected some of {', '.join(VARIANTS)}")
    cells = [Cell(variant, seed) for seed in seeds for variant in VARIANTS if variant in variants]
    return sorted(cells, key=lambda cell: cell.variant == "video")


@dataclass(frozen=True)
class Size:
    """How much each cell gets; equal for all cells of a table.

    Args:
        steps, batch: of training; each step has so many clips.
        questions: about each clip of a batch, the caption among them.
        train_clips, test_clips: to train on and to ask about.
        max_lr: the highest rate of learning.
        language: "new", or "kept": that of the weights a cell begins with, which only gets used to what is blanked.
    """

    steps: int = 1200
    batch: int = 6
    questions: int = 5
    train_clips: int = 1500
    test_clips: int = 120
    max_lr: float = 2e-3
    language: str = "new"

    def __post_init__(self) -> None:
        if self.language not in ("new", "kept"):
            raise BadInput(f"language is {self.language!r}, expected 'new' or 'kept'")


SHIPPED = Size()


@contextmanager
def blanked(model: VideoGLaMMForConditionalGeneration, *encoders: str) -> Iterator[None]:
    """Within it the tokens of the encoders named, "image" or "video", are zero.

    Raises:
        BadInput: another name.
    """
    with ExitStack() as stack:
        for name in encoders:
            if name not in ADAPTERS:
                raise BadInput(f"the encoder is {name!r}, expected one of {', '.join(ADAPTERS)}")
            adapter = getattr(model.model, ADAPTERS[name])
            hook = adapter.register_forward_hook(lambda _module, _inputs, out: torch.zeros_like(out))
            stack.callback(hook.remove)
        yield


def unseen(variant: str) -> list[str]:
    """The encoders that a variant goes without."""
    return [name for name in ADAPTERS if variant not in (name, "dual")]


def run(cells: Sequence[Cell], begin: Path, folder: Path, size: Size = SHIPPED) -> Iterator[list[dict]]:
    """Train and judge each cell; yields its rows, one for each kind of answer.

    Args:
        cells: see `grid`.
        begin: weights after the recipe's stages "see" and "segment".
        folder: gets the tokenizer, the encoders' features, and unfinished cells, which go on from there.
        size: of every cell.
    """
    processor = processor_of(folder)
    trained, tested = (
        encoded(processor, begin, folder / "features", first, count)
        for first, count in ((0, size.train_clips), (HELD_OUT, size.test_clips))
    )
    for cell in cells:
        begun = time.process_time()
        both = train(cell, size, processor, begin, folder / "cells", trained)
        found = judge(both["model"], processor, *tested, unseen(cell.variant))
        yield _rows(asdict(cell) | asdict(size), begun, found)


def encoded(
    processor: VideoGLaMMProcessor, begin: Path, cache: Path, first: int, count: int
) -> tuple[list[Seen], Features]:
    """So many clips from the seed `first` on, and what the frozen encoders make of them; `cache` keeps it."""
    frames, shown = _stage(SHIPPED).frames, processor.config.frames
    clips = [Seen.of(seed, frames, shown) for seed in range(first, first + count)]
    both: list[Both] = []  # loaded only where something has to be encoded

    def make(at: int) -> dict[str, np.ndarray]:
        if not both:
            both.append(assembled(processor.config, begin, 0))
        made = features(both[0]["model"], views(processor, clips[at : at + PART]))
        return {name: value.half().numpy() for name, value in made.items()}

    inputs = {"what": "clips of the caption ablation", "version": VERSION, "weights": sha256(begin), "frames": frames}
    parts = [
        cached(cache, inputs | {"first": first + at, "count": min(PART, count - at)}, lambda at=at: make(at))
        for at in range(0, count, PART)
    ]
    return clips, {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def _stage(size: Size) -> Stage:
    speak = next(stage for stage in STAGES if stage.name == "speak_more")
    own = {name: getattr(size, name) for name in ("steps", "batch", "questions", "max_lr")}
    return replace(speak, **own, cached_batches=0, always=("caption", "motion"))


def train(
    cell: Cell, size: Size, processor: VideoGLaMMProcessor, begin: Path, folder: Path, data: tuple[list[Seen], Features]
) -> Both:
    """A trained cell with averaged weights; one that was stopped goes on."""
    both, stage = assembled(processor.config, begin, cell.seed), _stage(size)
    if size.language == "new":
        fresh = nano_glamm(processor.config, cell.seed).state_dict()
        own = tuple(begins for part in stage.parts for begins in PARTS[part])
        fresh = {name: value for name, value in fresh.items() if name.startswith(own)}
        both["model"].load_state_dict(fresh, strict=False)
    optimiser, average = optimiser_of(both, stage), MovingAverage(both, AVERAGE)
    name = "-".join(str(part) for part in (*asdict(cell).values(), *asdict(size).values()))
    checkpoint = folder / name / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    clips, seen = data
    with blanked(both["model"], *unseen(cell.variant)):
        for step in range(resume(checkpoint, both, optimiser, average), stage.steps):
            order = np.random.default_rng([cell.seed, 7, step]).choice(len(clips), stage.batch, replace=False)
            batch = [clips[at] for at in order], {name: value[order] for name, value in seen.items()}
            log = advance(both, optimiser, average, processor, stage, cell.seed, step, batch)
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == stage.steps:
                print(name, step + 1, {key: round(value, 3) for key, value in log.items()}, flush=True)
                save_progress(checkpoint, both, optimiser, average, step + 1)
    both.load_state_dict(average.state)
    return both.eval()


@torch.no_grad()
def answers(
    model: VideoGLaMMForConditionalGeneration, processor: VideoGLaMMProcessor, seen: Features, questions: Sequence[str]
) -> list[GroundedText]:
    """Greedy answers to a question for each clip, from what the encoders made of its frames."""
    told = []
    for first in range(0, len(questions), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        batch = collate([processor.tokens(text) for text in questions[part]])
        visual = {name: list(values[part].float()) for name, values in seen.items()}
        with given_features(model):
            ids = model.write(**batch, **visual, max_new_tokens=WRITTEN).ids[:, batch["input_ids"].shape[1] :]
        told += [GroundedText.parsed(processor.decode(row)) for row in ids]
    return told


def judge(
    model: VideoGLaMMForConditionalGeneration, processor: VideoGLaMMProcessor, clips: Sequence[Seen], seen: Features,
    without: Sequence[str],
) -> dict[str, list[float]]:  # fmt: skip
    """What is right of each kind of answer about held-out clips, from 0 to 1, for each clip that it is asked about.

    Args:
        without: encoders that are blanked.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind in ("caption", *(kind for kind in KINDS if not kind.startswith("caption"))):
        asked = [exchange(one.said, np.random.default_rng([HELD_OUT, at]), kind) for at, one in enumerate(clips)]
        at = [number for number, told in enumerate(asked) if told]
        with blanked(model, *without):
            given = answers(model, processor, {k: v[at] for k, v in seen.items()}, [asked[n].question for n in at])
        for number, said in zip(at, given, strict=True):
            for name, value in _scores(clips[number], asked[number], said).items():
                found[name].append(value)
    return found


def _scores(one: Seen, told: Exchange, said: GroundedText) -> dict[str, float]:
    """Of a caption the share of objects that are named, and that move as told; else whether every word is right."""
    if told.kind != "caption":
        return {told.kind: float(said.text == told.answer.text)}
    motions = motion_told(said.text)
    named = [thing.name in motions for thing in one.said.objects]
    moves = [motions.get(thing.name) == thing.motion for thing in one.said.objects]
    return {"caption: objects": float(np.mean(named)), "caption: motion words": float(np.mean(moves))}


def decode(
    grounder: VideoGrounder, clips: Sequence[Clip], question: str = DESCRIBE,
    branches: Sequence[Branch] = get_args(Branch),
) -> Iterator[list[dict]]:  # fmt: skip
    """The IoU of each phrase's mask, framewise and followed from the first frame; yields the rows of a clip.

    The words are the same, so that branches differ by their masks alone.

    Args:
        grounder: with a VideoGLaMM.
        clips: with true masks.
        question: for words.
        branches: of SAM 2's decoder, to compare.
    """
    segmenter = grounder.segmenter
    for clip in clips:
        rows = []
        for branch in branches:
            begun = time.process_time()
            result = VideoGrounder(segmenter=VideoGLaMMSegmenter(segmenter.model, segmenter.processor, branch))(
                clip.frames, question
            )
            masks = np.stack([result.masks[at] for at in range(result.frames)])
            names = named(result.caption)
            ious = phrase_iou(clip, names, masks[:, [one.object - 1 for one in result.caption.phrases]])
            about = {"branch": branch, "clip": clip.scene.seed, "seconds": round(time.process_time() - begun, 3)}
            rows += [
                about | {"phrase": name, "first": seen_first(clip, name), "iou": round(iou, 4)}
                for name, iou in zip(names, ious, strict=True)
            ]
        yield rows


def supervise(
    begin: Path, folder: Path, clips: Sequence[Clip], cells: Iterable[tuple[int, int]], steps: int = 150
) -> Iterator[list[dict]]:
    """The IoU of each phrase when masks were learnt on 4 or on 8 frames of a clip; yields the rows of a cell.

    The one trainer teaches the projector of [SEG]s and SAM 2's mask decoder alone: words stay as they are, so that
    cells differ by their masks.

    Source: VideoGLaMM, table of supervised frames.

    Args:
        begin: a model folder after the recipe's stages of words, whose masks were not learnt with them.
        folder: gets the runs; one that was stopped goes on.
        clips: with true masks.
        cells: (supervised frames, seed) of each.
        steps: of eight clips.
    """
    for frames, seed in cells:
        recipe = Recipe(
            out=str(folder / f"{frames}-{seed}"), model=Model(source=str(begin)),
            learn=Learn(parts=("projector", "mask_decoder")),
            optimiser=Optimiser(
                projector=5e-4, mask_decoder=5e-4, schedule="linear", warmup=min(20, steps), batch=8, micro_batch=8,
                steps=steps,
            ),
            data=Data(sets=(Source("gcg_nano", options={"clips": 2000}),), questions=3, supervised=frames),
            run=Run(seed=seed, workers=0, checkpoint_every=25),
        )  # fmt: skip
        begun = time.process_time()
        outcome = train_recipe(recipe)
        if outcome.model is None:
            raise KeyboardInterrupt(f"stopped after step {outcome.step} of {outcome.total}; give the command again")
        grounder = load_grounder(str(outcome.model))
        about = {"supervised": frames, "seed": seed, "steps": steps, "commit": commit() or "", "machine": machine()}
        rows = [row for found in decode(grounder, clips, branches=("each-frame",)) for row in found]
        seconds = round(time.process_time() - begun, 1)
        yield [about | {"seconds": seconds} | {name: row[name] for name in ("clip", "phrase", "iou")} for row in rows]


def seen_first(clip: Clip, name: str) -> bool:
    """Whether the object of that colour and shape is there, with a pixel or more, on the first frame."""
    return any(
        f"{obj.colour} {obj.shape}" == name and clip.masks[0, at].any() for at, obj in enumerate(clip.scene.objects)
    )


def ask(grounder: VideoGrounder, clips: Sequence[Seen]) -> Iterator[list[dict]]:
    """What a model has right with both encoders and with either one blanked, without any training; yields cells."""
    model, processor = grounder.segmenter.model, grounder.segmenter.processor
    parts = [features(model, views(processor, clips[at : at + PART])) for at in range(0, len(clips), PART)]
    seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    about = asdict(Cell("", 1)) | dict.fromkeys(asdict(SHIPPED), 0) | {"test_clips": len(clips), "language": "kept"}
    for variant in VARIANTS:
        begun = time.process_time()
        found = judge(model, processor, clips, seen, unseen(variant))
        yield _rows(about | {"variant": variant}, begun, found)


def _rows(about: dict, begun: float, found: dict[str, list[float]]) -> list[dict]:
    about |= {"seconds": round(time.process_time() - begun, 1), "commit": commit() or "", "machine": machine()}
    return [
        about
        | {"kind": kind, "value": round(float(np.mean(values)), 4), "n": len(values)}
        | {"clips": numbers_as_text(values)}
        for kind, values in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a table, cell by cell; cells that it holds already are left as they are."""
    parser = argparse.ArgumentParser(description="The ablations of Nano-GLaMM.")
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("train", help="language learnt anew with either encoder, and with both")
    one.add_argument("begin", type=Path, help="weights after the recipe's stages see and segment")
    one.add_argument("folder", type=Path, help="working folder")
    for name, value in asdict(SHIPPED).items():
        one.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    two = commands.add_parser("ask", help="a trained model with either encoder blanked")
    three = commands.add_parser("decode", help="its masks framewise, and followed from the first frame")
    four = commands.add_parser("supervise", help="masks learnt on 4 or on 8 frames of a clip")
    four.add_argument("begin", type=Path, help="model folder after the recipe's stages of words")
    four.add_argument("folder", type=Path, help="working folder")
    four.add_argument("--steps", type=int, default=150, help="default: %(default)s")
    for command in (two, three):
        command.add_argument("--model", default="nano-glamm", help="default: %(default)s")
    for command in (two, three, four):
        command.add_argument("--clips", type=int, default=100, help="default: %(default)s")
    for command in (one, two, three, four):
        command.add_argument("--table", type=Path, required=True, help="CSV to fill")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = read_csv(options.table) if options.table.exists() else pd.DataFrame()
    for rows in _cells(options, table):
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        write_csv(table, options.table)
    return 0


def _cells(options: argparse.Namespace, table: pd.DataFrame) -> Iterator[list[dict]]:
    if options.what == "train":
        done = set(table[list(CELL)].itertuples(index=False, name=None)) if len(table) else set()
        left = [cell for cell in grid() if (cell.variant, cell.seed) not in done]
        size = Size(**{name: getattr(options, name) for name in asdict(SHIPPED)})
        check_budget(table, asdict(size), options.table)
        return run(left, options.begin, options.folder, size)
    seeds = range(HELD_OUT, HELD_OUT + options.clips)
    if options.what == "supervise":
        check_budget(table, {"steps": options.steps}, options.table)
        done = set(table[list(LEARNT)].itertuples(index=False, name=None)) if len(table) else set()
        left = [(frames, seed) for seed, frames in product(SEEDS, SUPERVISED) if (frames, seed) not in done]
        clips = [caption_clip(seed, frames=FRAMES) for seed in seeds]
        return supervise(options.begin, options.folder, clips, left, options.steps)
    grounder, done = load_grounder(options.model), set(table["clip"]) if "clip" in table else set()
    if options.what == "decode":
        return decode(grounder, [caption_clip(seed, frames=FRAMES) for seed in seeds if seed not in done])
    if len(table):
        raise BadInput(f"{options.table} is there already; give a new file")
    return ask(
        grounder, [Seen.of(seed, _stage(SHIPPED).frames, grounder.segmenter.model.config.frames) for seed in seeds]
    )


if __name__ == "__main__":
    raise SystemExit(main())
