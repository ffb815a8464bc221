"""Should a point be written as text, or chosen by three tokens? Both at equal budget: variants × samples × seeds.

Notebook 11 runs some of it; `videomolmo sweep` runs the notebook over data/sweeps/words_or_tokens.toml.

Every cell starts from the shipped model of 96×96 pixels, whose vision tower stays as it is, takes the same number of
steps on the same pictures in the order and with the questions of its seed, and answers the same held-out questions
greedily. All are stills that are their own past; nobody asks about motion. The shipped language was taught to write
coordinates, so that with `language="kept"` text goes on with what it knows, and the heads of tokens are new: what this
asks is how soon they catch up. With `"new"` both begin with nothing, which takes far more steps.

Source: MolmoPoint (arXiv 2603.28069), its comparison with text coordinates.
Differs: nano model, generated pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from videomolmo.errors import BadInput
from videomolmo.io.cache import cached
from videomolmo.io.provenance import commit, machine, sha256
from videomolmo.io.tables import read_csv, write_csv
from videomolmo.lab.caption_report import numbers_as_text
from videomolmo.lab.nano.batches import Example, asked, text_inputs, window_labels
from videomolmo.lab.nano.checkpoint import MovingAverage, resume, save_progress
from videomolmo.lab.nano.initial_weights import ablated, assembled, shipped_config
from videomolmo.lab.nano.pointing_stage import AVERAGE, Stage, advance, optimiser_of
from videomolmo.lab.nano.recipe import PICTURES
from videomolmo.lab.nano.rendered_clips import RenderSpec, render_clip
from videomolmo.lab.tables import check_budget
from videomolmo.lab.temporal_report import bits
from videomolmo.lab.temporal_training import processor_of
from videomolmo.lab.words_or_tokens_report import ATTENTION, CELL, KINDS, POINTS
from videomolmo.model import VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.model.config import VideoMolmoConfig
from videomolmo.model.point_heads import CLOSED
from videomolmo.model.token_heads import RULES
from videomolmo.model.token_order import in_order
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.points import Answer, read_points
from videomolmo.synth.scene import ObjectFacts
from videomolmo.synth.sentences import ask, list_query, sample_query
from videomolmo.weights.hub import nano_pointing_96

TRAIN: RenderSpec = replace(PICTURES, name="words or tokens", seed=41)
TEST: RenderSpec = replace(PICTURES, name="words or tokens, held out", seed=42)
SAMPLES, SEEDS = (1000, 4000), (1, 2, 3)
POINT_WIDTH = 64
LANGUAGE = ("language", "new_embedding")  # parts that are new with `language="new"`
PART, AT_ONCE = 100, 40  # pictures encoded, and questions answered, at a time
LONGEST = 110  # tokens of an answer
CHECKPOINT_EVERY = 25  # steps
VERSION = 1  # raise it when what is cached changes


@dataclass(frozen=True)
class Cell:
    """One run: how points are told, who sees whom among image tokens, number of training pictures, and a seed."""

    points: str
    attention: str
    samples: int
    seed: int


def grid(
    points: Sequence[str] = POINTS,
    attention: Sequence[str] = ATTENTION,
    samples: Sequence[int] = SAMPLES,
    seeds: Sequence[int] = SEEDS,
) -> list[Cell]:
    """All cells, the most telling first: causal image tokens with the fewest samples, every seed.

    Raises:
        BadInput: names or numbers that the ablation does not know.
    """
    for name, values, known in (("points", points, POINTS), ("attention", attention, ATTENTION)):
        if not values or (unknown := [value for value in values if value not in known]):
            raise BadInput(f"{name} holds {(unknown or ['nothing'])[0]!r}, expected some of {', '.join(known)}")
    if not samples or min(samples) < 1 or not seeds or min(seeds) < 0:
        raise BadInput(f"samples is {list(samples)} and seeds {list(seeds)}, expected numbers from 1 and from 0 on")
    cells = [Cell(*parts) for parts in product(points, attention, samples, seeds)]
    return sorted(cells, key=lambda one: (ATTENTION.index(one.attention), one.samples, one.seed))


@dataclass(frozen=True)
class Size:
    """How much each cell gets; equal for all cells of a table.

    Args:
        steps, batch: of training; each step has so many pictures.
        questions: about each picture of a batch.
        test_pictures: to ask about.
        max_lr: the highest rate of learning.
        language: "kept", or "new": without what the shipped one knows.
    """

    steps: int = 120
    batch: int = 8
    questions: int = 4
    test_pictures: int = 100
    max_lr: float = 1.5e-3
    language: str = "kept"

    def __post_init__(self) -> None:
        if self.language not in ("new", "kept"):
            raise BadInput(f"language is {self.language!r}, expected 'new' or 'kept'")
        for name in ("steps", "batch", "questions", "test_pictures"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least 1")


SHIPPED = Size()


@dataclass(frozen=True)
class Pictures:
    """Generated pictures as the frozen vision tower sees them, with what is known of them.

    Attributes:
        features: half precision.
        ids: the object at each pixel, 0 for background.
        objects: of each picture.
        labels: of its windows, see `window_labels`.
    """

    features: Tensor
    ids: np.ndarray
    objects: list[list[ObjectFacts]]
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """Features of some, each its own past, and labels of their windows."""
        features = self.features[chosen][:, None]
        shown = {f"window_{name}": values[chosen] for name, values in self.labels.items()}
        return {"features": features, "past": features[:, None], **shown}

    def example(self, at: int) -> Example:
        """One of them, ready to be asked about; what it looks like is left out."""
        return Example(np.zeros((1, 0, 0, 3), np.uint8), self.ids[at][None], self.objects[at], [], [], [])


def encoded(spec: RenderSpec, count: int, cache: Path) -> Pictures:
    """The first pictures of `spec`, rendered and encoded by the shipped vision tower, or read from `cache`."""
    weights, tower = sha256(nano_pointing_96() / "model.safetensors"), []

    def make(first: int, end: int) -> dict[str, np.ndarray]:
        if not tower:
            tower.append(VideoMolmoForConditionalGeneration.from_pretrained(nano_pointing_96()))
        return _encode(spec, range(first, end), tower[0])

    parts = []
    for first in range(0, count, PART):
        end = min(first + PART, count)
        inputs = {"what": "pictures of words or tokens", "version": VERSION, "weights": weights, "seed": spec.seed}
        about = inputs | {"size": spec.size, "motion": spec.motion_share, "first": first, "end": end}
        parts.append(cached(cache, about, lambda first=first, end=end: make(first, end)))
    objects = [
        [ObjectFacts(**{**obj, "point": tuple(obj["point"])}) for obj in one]
        for part in parts for one in json.loads(part["objects"].tobytes())
    ]  # fmt: skip
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "objects"}
    labels = {name: torch.from_numpy(whole[name]) for name in ("colour", "shape", "motion", "point", "moved")}
    return Pictures(torch.from_numpy(whole["features"]), whole["ids"], objects, labels)


@torch.inference_mode()
def _encode(spec: RenderSpec, indices: range, model: VideoMolmoForConditionalGeneration) -> dict[str, np.ndarray]:
    shown = [render_clip(spec, index) for index in indices]
    frames = np.stack([frames[-1] for frames, _, _ in shown])
    pixels = processor_of(model).image.pixels_only(frames)
    found = {"features": torch.cat([model.encode_frames(some)[:, 0] for some in pixels.split(20)]).half().numpy()}
    labels = [
        window_labels(Example(one[-1:], ids[-1:], objects, [], [], []), model.config.image.window_grid)
        for one, ids, objects in shown
    ]
    found |= {name: np.stack([one[name] for one in labels]) for name in labels[0]}
    found["motion"][:] = 0  # which cannot be seen
    told = json.dumps([[asdict(obj) for obj in objects] for _, _, objects in shown]).encode()
    ids = np.stack([ids[-1] for _, ids, _ in shown])
    return found | {"ids": ids, "objects": np.frombuffer(told, np.uint8)}


@dataclass(frozen=True)
class Question:
    """A sentence about picture number `picture`, of which `kind`, and the objects that it means."""

    picture: int
    kind: str
    text: str
    targets: tuple[int, ...]


def questions(pictures: Pictures) -> list[Question]:
    """One question of each of `KINDS` about each picture that allows it."""
    found = []
    for at, objects in enumerate(pictures.objects):
        rng, still_open = np.random.default_rng([0, at]), set(KINDS)
        drawn = [list_query(rng, objects), *(sample_query(rng, objects, motion=False) for _ in range(12))]
        for query in (one for one in drawn if one is not None):
            targets = query.targets(objects)
            kind = None if targets is None else _kind(query.plural, len(targets))
            if kind in still_open:
                still_open.discard(kind)
                found.append(Question(at, kind, ask(rng, query), tuple(targets)))
    return found


def _kind(is_plural: bool, targets: int) -> str | None:
    if not targets:
        return "absent"
    if is_plural:
        return "list" if targets > 1 else None
    return "one"


def run(cells: Sequence[Cell], folder: Path, size: Size = SHIPPED) -> Iterator[list[dict]]:
    """Train and judge each cell; yields its rows, one for each measure.

    Args:
        cells: see `grid`.
        folder: gets what the vision tower saw, and unfinished cells, which go on from there.
        size: of every cell.
    """
    test = encoded(TEST, size.test_pictures, folder / "pictures")
    asked_about = questions(test)
    for cell in cells:
        begun = time.process_time()
        model = train(cell, encoded(TRAIN, cell.samples, folder / "pictures"), folder, size)
        trained = time.process_time()
        answers, tokens = answer(model, test, asked_about)
        seconds = (time.process_time() - trained) / len(asked_about)
        about = asdict(cell) | asdict(size) | {"seconds": round(time.process_time() - begun, 1)}
        about |= {"commit": commit() or "", "machine": machine()}
        yield [about | row for row in judge(answers, tokens, seconds, test, asked_about)]


def configuration(cell: Cell) -> VideoMolmoConfig:
    """The shipped model's, as the cell wants it."""
    return shipped_config(points=cell.points, point_width=POINT_WIDTH, image_attention=cell.attention)


def train(cell: Cell, pictures: Pictures, folder: Path, size: Size) -> VideoMolmoForConditionalGeneration:
    """A trained cell with averaged weights; one that was stopped goes on."""
    state = ablated(LANGUAGE if size.language == "new" else (), cell.seed)
    both = assembled(state, configuration(cell), cell.seed).train()
    stage = stage_of(size)
    optimiser, average = optimiser_of(both, stage), MovingAverage(both, AVERAGE)
    name = "-".join(str(part) for part in (*asdict(cell).values(), *asdict(size).values()))
    checkpoint = folder / "cells" / name / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    processor = processor_of(both["model"])
    for step in range(resume(checkpoint, both, optimiser, average), stage.steps):
        batch = batch_of(pictures, processor, stage, cell.seed, step)
        log = advance(both, optimiser, average, batch, stage, step)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == stage.steps:
            told = f"step {step + 1} of {stage.steps}, loss {log['text']:.3f}"
            print(f"{cell.points:7} {cell.attention} seed {cell.seed}: {told}", flush=True)
            save_progress(checkpoint, both, optimiser, average, step + 1)
    both.load_state_dict(average.state)
    return both["model"].eval()


def stage_of(size: Size) -> Stage:
    """One stage of the recipe, in small: a third of the questions ask for lists."""
    return Stage(
        "words_or_tokens", size.steps, size.batch, size.questions, size.max_lr, language=True, past=True,
        motion_share=0.0, vision_rate=0.0, probe_weight=0.3, lists=0.3,
    )  # fmt: skip


def batch_of(pictures: Pictures, processor: Any, stage: Stage, seed: int, step: int) -> dict[str, Tensor]:
    """Pictures and questions of a step, the same for all variants of a seed and number of samples."""
    rng, chosen, examples = np.random.default_rng([seed, 7, step]), [], []
    while len(examples) < stage.batch:
        at = int(rng.integers(len(pictures)))
        wanted = {"questions": stage.questions, "motion_share": 0.0, "lists": stage.lists}
        example = asked(rng, pictures.example(at), **wanted)
        if example.branches:
            chosen.append(at)
            examples.append(example)
    return text_inputs(processor, examples) | pictures.batch(np.array(chosen))


@torch.inference_mode()
def answer(
    model: VideoMolmoForConditionalGeneration, pictures: Pictures, asked_about: Sequence[Question]
) -> tuple[list[Answer], list[int]]:
    """Greedy answers, read as points of the picture, and how many tokens each had, without that which ends it."""
    processor, size, answers, tokens = processor_of(model), pictures.ids.shape[-2:], [], []
    end = model.config.language.end_of_text
    for first in range(0, len(asked_about), AT_ONCE):
        some = asked_about[first : first + AT_ONCE]
        seen = pictures.batch(np.array([one.picture for one in some]))
        image_tokens, patches = model.look(seen["features"].float(), seen["past"].float())
        batch = collate([processor.tokens(size, [[one.text]]) for one in some])
        ids = model.generate(
            batch["input_ids"], image_input_idx=batch["image_input_idx"], image_tokens=image_tokens,
            image_patches=patches, max_new_tokens=LONGEST,
        )[:, batch["input_ids"].shape[1] :]  # fmt: skip
        answers += [read_points(processor.decode(row, size), *size) for row in ids]
        tokens += (ids != end).sum(dim=1).tolist()
    return answers, tokens


def judge(
    answers: Sequence[Answer],
    tokens: Sequence[int],
    seconds: float,
    pictures: Pictures,
    asked_about: Sequence[Question],
) -> list[dict]:
    """Rows of a table: what is right of each kind of question, and what it costs.

    One object, or each of a list and nothing else, must be hit inside its visible mask; what is not there must be
    refused. `distance` is from the object's own point, in pixels, where one object was asked for and hit.
    """
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    distances, spent = [], []
    side = pictures.ids.shape[-1]
    for said, length, one in zip(answers, tokens, asked_about, strict=True):
        columns, rows = said.points_px.astype(int).clip(0, side - 1).T
        hit = (pictures.ids[one.picture, rows, columns].astype(int) - 1).tolist()
        ok = sorted(hit) == sorted(one.targets) and (said.outcome == "found" if one.targets else not hit)
        right[one.kind].append(bool(ok and (one.targets or said.outcome == "absent")))
        if one.kind == "one" and ok:
            point = np.array(pictures.objects[one.picture][one.targets[0]].point) * side
            distances.append(float(np.linalg.norm(said.points_px[0] - point)))
        if len(hit):
            spent.append(length / len(hit))
    found = [
        {"kind": kind, "value": round(float(np.mean(of)), 4) if of else np.nan, "n": len(of), "right": bits(of)}
        for kind, of in right.items()
    ]
    for name, of in (("distance", distances), ("tokens", spent)):
        mean = round(float(np.mean(of)), 3) if of else np.nan
        found.append({"kind": name, "value": mean, "n": len(of), "right": numbers_as_text(of)})
    return [*found, {"kind": "seconds a question", "value": round(seconds, 4), "n": len(asked_about), "right": ""}]


class Choice(NamedTuple):
    """How an image token was chosen for a point, or the end of a list of points.

    Attributes:
        share: probability of each image token as it lies on the frame, of those that might come next.
        end: probability of the end.
    """

    share: np.ndarray  # float (rows, columns)
    end: float


@torch.inference_mode()
def choices(model: VideoMolmoForConditionalGeneration, pictures: Pictures, question: Question) -> list[Choice]:
    """What a model that chooses places chose from, point by point; nothing where it says that there is none."""
    processor, seen = processor_of(model), pictures.batch(np.array([question.picture]))
    image_tokens, patches = model.look(seen["features"].float(), seen["past"].float())
    asked_about = processor.tokens(pictures.ids.shape[-2:], [[question.text]])
    wrote = model.generate(
        asked_about["input_ids"][None], image_input_idx=asked_about["image_input_idx"][None], image_tokens=image_tokens,
        image_patches=patches, max_new_tokens=LONGEST, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    ids, side = model.token_heads.ids, model.config.image.window_grid
    written, found = wrote.sequences[0, len(asked_about["input_ids"]) :].tolist(), []
    for at, (number, scores) in enumerate(zip(written, wrote.logits, strict=True)):
        if ids.part(number) in ("patch", "closed"):
            able = in_order(written[:at], ids, RULES)[ids.words : ids.closed + 1]
            share = scores[0, ids.words : ids.closed + 1].masked_fill(~able, -torch.inf).softmax(0).numpy()
            found.append(Choice(share[:-1].reshape(side, side), float(share[-1])))
    return found


def lit(frame: np.ndarray, share: np.ndarray) -> np.ndarray:
    """A frame, RGB, dimmed where image tokens are unlikely, by the root of their share of the likeliest."""
    light = np.kron(
        (share / max(share.max(), 1e-9)) ** 0.5, np.ones([side // share.shape[0] for side in frame.shape[:2]])
    )
    return (frame * (0.15 + 0.85 * light[..., None])).astype(np.uint8)


def cost(answer: str, point: str, size: tuple[int, int] = (96, 96)) -> list[str]:
    """The tokens of an answer as the nano model writes it.

    Args:
        answer: its text.
        point: "text" or "tokens".
        size: of the frame.
    """
    config = shipped_config(points=point, point_width=POINT_WIDTH)
    processor = VideoMolmoProcessor(load_tokenizer(str(nano_pointing_96())), config)
    example = processor.tokens(size, [["?", answer]])
    ids = example["targets"][example["loss_masks"] > 0].tolist()[:-1]
    names, points = dict(zip(config.language.point_ids, ("token", "patch", "cell"), strict=True)), iter(())
    if "points" in example:
        points = iter([one for row in example["points"].tolist() for one in row if one >= 0])
    return [
        f"<{names[one]} {number if (number := next(points)) != CLOSED else 'end'}>" if one in names
        else processor.tokenizer.decode([one]) for one in ids
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a table, cell by cell; cells that it holds already are left as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="working folder")
    parser.add_argument("--table", type=Path, required=True, help="CSV to fill")
    for name, values in (("points", POINTS), ("attention", ATTENTION), ("samples", SAMPLES), ("seeds", SEEDS)):
        parser.add_argument(f"--{name}", nargs="+", type=type(values[0]), default=values, help="default: %(default)s")
    for name, value in asdict(SHIPPED).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = read_csv(options.table, dtype={"right": str}) if options.table.exists() else pd.DataFrame()
    done = set(table[list(CELL)].itertuples(index=False, name=None)) if len(table) else set()
    cells = grid(options.points, options.attention, options.samples, options.seeds)
    size = Size(**{name: getattr(options, name) for name in asdict(SHIPPED)})
    check_budget(table, asdict(size), options.table)
    for rows in run([cell for cell in cells if tuple(asdict(cell).values()) not in done], options.folder, size):
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        write_csv(table, options.table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
