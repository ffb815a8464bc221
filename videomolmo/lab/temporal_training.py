"""One cell of the temporal ablation: trained and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import nn
from tqdm import tqdm

from videomolmo.lab.nano.batches import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES
from videomolmo.lab.nano.checkpoint import MovingAverage, found, load_weights, save_checkpoint
from videomolmo.lab.nano.initial_weights import State, assembled, shipped_config, single_frame_start
from videomolmo.lab.nano.pointing_stage import AVERAGE, Stage, advance, capture_activations, optimiser_of, train_stage
from videomolmo.lab.nano.recipe import CLIPS
from videomolmo.lab.nano.rendered_clips import RenderedClips, RenderSpec, render_all
from videomolmo.lab.temporal_data import EncodedClips, Question, mixed_batches
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.points import Answer, read_points
from videomolmo.weights.hub import nano_pointing_96


@torch.inference_mode()
def attention_maps(both: nn.ModuleDict, clips: EncodedClips, clip: int, context: int) -> np.ndarray:
    """How much each patch of each past frame is looked at, float (context, rows, columns); 1 everywhere is evenly.

    Mean over the heads and over the four patches of the window that looks. A window sees its own four patches of
    the past and no others: the map compares them with each other and with the same place at other times.

    Args:
        both: a trained cell of kind "cross_attention_all"; attention to the mean cannot tell the frames apart.
        clips: as the tower sees them.
        clip: number of the clip.
        context: number l of past frames.
    """
    batch = clips.batch(np.array([clip]), context)
    temporal = both["model"].temporal
    weights = temporal.weights(batch["features"].float(), batch["past"].float())[0, 0].mean((1, 2))  # windows keys
    return rearrange(
        weights * weights.shape[1],
        "(rows cols) (past down right) -> past (rows down) (cols right)",
        rows=temporal.grid // 2,
        down=2,
        right=2,
    ).numpy()


def overlays(frames: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """Past frames (context, height, width, 3), dimmed where little is looked at; the most in fifty patches is full."""
    px = frames.shape[1] // maps.shape[1]
    light = np.kron((maps / np.quantile(maps, 0.98)).clip(max=1), np.ones((1, px, px)))[..., None]
    return list((frames * (0.15 + 0.85 * light)).astype(np.uint8))


_STAGE = Stage(
    "motion_warmup", 0, 8, 1, 1.5e-3, language=False, past=True, motion_share=0.0, vision_rate=0.0, probe_weight=0.03,
    motion_weight=1.0,
)  # fmt: skip
ANSWERED = 0.9  # share of answerable training questions above the threshold of refusal


def stages(warmup: int, joint: int) -> tuple[Stage, Stage]:
    """Two stages of so many steps: motion first, hardly minding what was known, then both."""
    return replace(_STAGE, steps=warmup), replace(_STAGE, name="joint", steps=joint, max_lr=1e-3, probe_weight=0.3)


def train(
    variant: str, context: int, seed: int, clips: EncodedClips, budget: Sequence[Stage], start: State | None = None
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
        loader = mixed_batches(clips, stage.batch, stage.steps, seed + 1000 * number)
        for step, chosen in enumerate(tqdm(loader, total=stage.steps, desc=stage.name, leave=False)):
            advance(both, optimiser, average, clips.batch(chosen, context), stage, step)
        both.load_state_dict(average.state)
    return both.eval()


@dataclass(frozen=True)
class LinearReadout:
    """Linear readout of the tokens of clips, by window: log-probabilities of classes, and the place they are about."""

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
def read(both: nn.ModuleDict, clips: EncodedClips, context: int, batch: int = 50) -> LinearReadout:
    """The readout of all clips by the cell's own probe heads."""
    model, heads, found = both["model"], both["heads"], []
    for chosen in np.array_split(np.arange(len(clips)), -(-len(clips) // batch)):
        inputs = clips.batch(chosen, context)
        past = inputs["past"].float() if context else None
        with capture_activations(model) as captured:
            tokens = model.image_tokens(inputs["features"].float(), past)[:, 0]
        logits = [head(tokens).log_softmax(-1) for head in (heads.colour, heads.shape, heads.motion)]
        found.append([*logits, captured["places"].view(len(chosen), -1, 2)])
    return LinearReadout(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))


def points(readout: LinearReadout, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """The surest window's place (questions, 2) and how sure it is (questions,)."""
    scores = np.stack([readout.scores(question) for question in asked])
    best = scores.argmax(1)
    places = readout.place[[question.clip for question in asked], best]
    return places, scores.max(1)


def judge(
    readout: LinearReadout, clips: EncodedClips, asked: Sequence[Question], threshold: float
) -> dict[str, np.ndarray]:
    """Which questions are answered right, in order, by kind; with `direction`, objects whose motion is read right.

    A point is right inside the visible mask of the object meant. Questions that name nothing there are right when
    the surest window stays below `threshold`.
    """
    places, sure = points(readout, asked)
    size = clips.ids.shape[-1]
    columns, rows = (places * size).astype(int).clip(0, size - 1).T
    hit = clips.ids[[question.clip for question in asked], rows, columns]
    right: dict[str, list[bool]] = {}
    for question, at, score in zip(asked, hit, sure, strict=True):
        ok = int(at) - 1 in question.targets if question.targets else score < threshold
        right.setdefault(question.kind, []).append(bool(ok))
    return {kind: np.array(values) for kind, values in right.items()} | {"direction": directions(readout, clips)}


def refusal_threshold(readout: LinearReadout, asked: Sequence[Question]) -> float:
    """The score that `ANSWERED` of the answerable questions about motion exceed; take it from training clips."""
    return float(np.quantile(points(readout, [q for q in asked if q.kind == "motion"])[1], 1 - ANSWERED))


def directions(readout: LinearReadout, clips: EncodedClips) -> np.ndarray:
    """For each object of the last frames that fills a window and has a nameable motion: whether it is read right."""
    right = []
    classes, shown = clips.labels["motion"], clips.labels["point"]
    for clip in range(len(clips)):
        named = classes[clip] > 0
        objects = np.unique(shown[clip][named], axis=0)
        for point in objects:
            own = named & (shown[clip] == point).all(-1)
            right.append(readout.motion[clip][own].mean(0).argmax() == classes[clip][own][0])
    return np.array(right)


BATCH = 40  # questions answered at a time
LONGEST_ANSWER = 100  # tokens; a point takes about half of it


def processor_of(model: VideoMolmoForConditionalGeneration) -> VideoMolmoProcessor:
    """The shipped tokenizer with the model's own image sizes."""
    return VideoMolmoProcessor(load_tokenizer(str(nano_pointing_96())), model.config)


@torch.inference_mode()
def generate_answers(
    model: VideoMolmoForConditionalGeneration, clips: EncodedClips, asked: Sequence[Question], context: int
) -> list[Answer]:
    """What the model writes in answer to each question (greedy decoding), read back as points of the last frame."""
    processor, size, answers = processor_of(model), clips.ids.shape[-1], []
    for at in range(0, len(asked), BATCH):
        some = asked[at : at + BATCH]
        seen = clips.batch(np.array([question.clip for question in some]), context)
        past = seen["past"].float() if context and model.config.needs_past else None
        tokens = model.image_tokens(seen["features"].float(), past)
        batch = collate([processor.tokens((size, size), [[question.text]]) for question in some])
        wrote = model.generate(
            batch["input_ids"],
            image_input_idx=batch["image_input_idx"],
            image_tokens=tokens,
            max_new_tokens=LONGEST_ANSWER,
        )
        ids = wrote[:, batch["input_ids"].shape[1] :]
        answers += [read_points(processor.decode(row), size, size) for row in ids]
    return answers


def score_answers(answers: Sequence[Answer], clips: EncodedClips, asked: Sequence[Question]) -> dict[str, np.ndarray]:
    """Which questions are answered right, in order, by kind: one point inside the object meant, or a refusal."""
    right: dict[str, list[bool]] = {}
    for answer, question in zip(answers, asked, strict=True):
        ok = answer.outcome == "absent"
        if question.targets:
            places = answer.points_px.astype(int).clip(0, clips.ids.shape[-1] - 1)
            hit = clips.ids[question.clip, places[:, 1], places[:, 0]] - 1
            ok = len(places) == 1 and int(hit[0]) in question.targets
        right.setdefault(question.kind, []).append(bool(ok))
    return {kind: np.array(values) for kind, values in right.items()}


def language_stage(steps: int, **changes: object) -> Stage:
    """The recipe's last stage in small: half of the questions about motion, few batches, gone through several times."""
    stage = Stage(
        "temporal_finetune", steps, 8, 4, 1e-3, language=True, past=True, motion_share=0.5, vision_rate=0.0,
        probe_weight=0.3, motion_weight=0.5, cached_batches=min(steps, 200),
    )  # fmt: skip
    return replace(stage, **changes)


def language_clips(folder: Path, clips: int) -> RenderedClips:
    """Clips of the language stage, rendered once: other seeds than those of the cells."""
    spec: RenderSpec = replace(CLIPS, name="language", clips=clips, seed=33)
    render_all(spec, folder / f"language_{clips}", workers=1)
    return RenderedClips(folder / f"language_{clips}")


def teach_language(
    both: nn.ModuleDict, clips: RenderedClips, stage: Stage, folder: Path, seed: int
) -> VideoMolmoForConditionalGeneration:
    """The cell's model after the language stage; resumable.

    Args:
        both: model and heads, as `train` returns them.
        clips: five frames each.
        stage: see `language_stage`.
        folder: gets begin.safetensors, the stage's checkpoint, log.jsonl and weights.safetensors.
        seed: of the order of examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin = folder / "begin.safetensors"
    if not (there := found(begin)):
        save_checkpoint(begin, state=both.state_dict())
    config = both["model"].config
    done = train_stage(config, stage, processor_of(both["model"]), clips, folder, begin=(there or begin,), seed=seed)
    return trained(load_weights(done), config)


def trained(state: State, config: VideoMolmoConfig) -> VideoMolmoForConditionalGeneration:
    """The model of a stage's weights, ready to answer."""
    return assembled(state, config)["model"].eval()
