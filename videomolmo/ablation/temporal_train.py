"""One cell of the temporal ablation: a variant trained for its budget, and how well its tokens answer questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from videomolmo.ablation.temporal_data import Question, SeenClips, collages
from videomolmo.training.pointing import AVERAGE, Stage, advance, optimiser_of, overheard
from videomolmo.training.pointing_data import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES
from videomolmo.training.run_state import MovingAverage
from videomolmo.training.starts import State, assembled, shipped_config, single_frame_start

_STAGE = Stage("look", 0, 8, 1, 1.5e-3, False, True, 0.0, 0.0, facts=0.03, moves=1.0)
ANSWERED = 0.9  # share of answerable training questions above the threshold of refusal


def stages(look: int, settle: int) -> tuple[Stage, Stage]:
    """Two stages of so many steps: motion first, hardly minding what was known, then both."""
    return replace(_STAGE, steps=look), replace(_STAGE, name="settle", steps=settle, peak=1e-3, facts=0.3)


def train(
    variant: str, context: int, seed: int, clips: SeenClips, budget: Sequence[Stage], start: State | None = None
) -> nn.ModuleDict:
    """A trained cell, with averaged weights.

    Args:
        variant, context, seed: of the temporal module, which is new.
        clips: to train on.
        budget: as from `stages`, of which one without steps does nothing.
        start: all other weights; those of `single_frame_start` unless given.
    """
    config = shipped_config(temporal=variant, context=max(1, context))
    both = assembled(single_frame_start() if start is None else start, config, seed).train()
    for number, stage in enumerate(budget):  # a stage's clips come in the same order, whether or not one came before
        if not stage.steps:
            continue
        optimiser, average = optimiser_of(both, stage), MovingAverage(both, AVERAGE)
        feed = collages(clips, stage.batch, stage.steps, seed + 1000 * number)
        for step, chosen in enumerate(tqdm(feed, total=stage.steps, desc=stage.name, leave=False)):
            advance(both, optimiser, average, clips.batch(chosen, context), stage, step)
        both.load_state_dict(average.state)
    return both.eval()


@dataclass(frozen=True)
class Reading:
    """What the tokens of clips say of each window: log-probabilities of classes, and the place they speak of."""

    colour: np.ndarray  # (clips, windows, classes)
    shape: np.ndarray
    motion: np.ndarray
    place: np.ndarray  # (clips, windows, 2), shares of width and height

    def scores(self, question: Question) -> np.ndarray:
        """How sure each window of the question's clip is that it shows what is asked for."""
        query, clip = question.query, question.clip
        score = np.log1p(-np.exp(self.shape[clip, :, 0]).clip(max=1 - 1e-6))  # something is there
        if query.shape:
            score = self.shape[clip, :, SHAPE_CLASSES.index(query.shape)]
        if query.colour:
            score = score + self.colour[clip, :, COLOUR_CLASSES.index(query.colour)]
        if query.motion:
            score = score + self.motion[clip, :, MOTION_CLASSES.index(query.motion)]
        return score


@torch.inference_mode()
def read(both: nn.ModuleDict, clips: SeenClips, context: int, batch: int = 50) -> Reading:
    """Read the tokens of all clips with the cell's own heads."""
    model, heads, found = both["model"], both["heads"], []
    for chosen in np.array_split(np.arange(len(clips)), -(-len(clips) // batch)):
        inputs = clips.batch(chosen, context)
        past = inputs["past"].float() if context else None
        with overheard(model) as heard:
            tokens = model.image_tokens(inputs["features"].float(), past)[:, 0]
        logits = [head(tokens).log_softmax(-1) for head in (heads.colour, heads.shape, heads.motion)]
        found.append([*logits, heard["places"].view(len(chosen), -1, 2)])
    return Reading(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))


def points(reading: Reading, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """The surest window's place (questions, 2) and how sure it is (questions,)."""
    scores = np.stack([reading.scores(question) for question in asked])
    best = scores.argmax(1)
    places = reading.place[[question.clip for question in asked], best]
    return places, scores.max(1)


def judge(reading: Reading, clips: SeenClips, asked: Sequence[Question], threshold: float) -> dict[str, np.ndarray]:
    """Which questions are answered right, in order, by kind; with `direction`, objects whose motion is read right.

    A point is right inside the visible mask of the object meant. Questions that name nothing there are right when
    the surest window stays below `threshold`.
    """
    places, sure = points(reading, asked)
    size = clips.ids.shape[-1]
    columns, rows = (places * size).astype(int).clip(0, size - 1).T
    hit = clips.ids[[question.clip for question in asked], rows, columns]
    right: dict[str, list[bool]] = {}
    for question, at, score in zip(asked, hit, sure, strict=True):
        ok = int(at) - 1 in question.targets if question.targets else score < threshold
        right.setdefault(question.kind, []).append(bool(ok))
    return {kind: np.array(values) for kind, values in right.items()} | {"direction": directions(reading, clips)}


def refusal_threshold(reading: Reading, asked: Sequence[Question]) -> float:
    """The score that `ANSWERED` of the answerable questions about motion exceed; take it from training clips."""
    return float(np.quantile(points(reading, [q for q in asked if q.kind == "motion"])[1], 1 - ANSWERED))


def directions(reading: Reading, clips: SeenClips) -> np.ndarray:
    """For each object of the last frames that fills a window and has a nameable motion: whether it is read right."""
    right = []
    classes, shown = clips.facts["motion"], clips.facts["point"]
    for clip in range(len(clips)):
        named = classes[clip] > 0
        objects = np.unique(shown[clip][named], axis=0)
        for point in objects:
            own = named & (shown[clip] == point).all(-1)
            right.append(reading.motion[clip][own].mean(0).argmax() == classes[clip][own][0])
    return np.array(right)
