"""Cells of the temporal ablation that go all the way: language is trained on top, and the written points are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from videomolmo.ablation.temporal_data import Question, SeenClips
from videomolmo.model import PointingConfig, PointingModel, PointingProcessor, collate
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.points import Answer, read_points
from videomolmo.shipped import nano_pointing_96
from videomolmo.training.nano import CLIPS
from videomolmo.training.pointing import Stage, train_stage
from videomolmo.training.rendered import RenderedClips, RenderSpec, render_all
from videomolmo.training.run_state import found, load_weights, save_checkpoint
from videomolmo.training.starts import State, assembled

BATCH = 40  # questions answered at a time
LONGEST_ANSWER = 100  # tokens; a point takes about half of it


def processor_of(model: PointingModel) -> PointingProcessor:
    """The shipped tokenizer with the model's own image sizes."""
    return PointingProcessor(load_tokenizer(str(nano_pointing_96())), model.config)


@torch.inference_mode()
def written(model: PointingModel, clips: SeenClips, asked: Sequence[Question], context: int) -> list[Answer]:
    """What the model writes in answer to each question (greedy decoding), read back as points of the last frame."""
    processor, size, answers = processor_of(model), clips.ids.shape[-1], []
    for at in range(0, len(asked), BATCH):
        some = asked[at : at + BATCH]
        seen = clips.batch(np.array([question.clip for question in some]), context)
        past = seen["past"].float() if context and model.config.needs_past else None
        tokens = model.image_tokens(seen["features"].float(), past)
        batch = collate([processor.tokens((size, size), [[question.text]]) for question in some])
        ids = model.generate(
            batch["input_ids"],
            image_input_idx=batch["image_input_idx"],
            image_tokens=tokens,
            stop_id=model.config.language.end_of_text,
            max_new_tokens=LONGEST_ANSWER,
        )
        answers += [read_points(processor.decode(row), size, size) for row in ids]
    return answers


def judge_written(answers: Sequence[Answer], clips: SeenClips, asked: Sequence[Question]) -> dict[str, np.ndarray]:
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
    stage = Stage("follow", steps, 8, 4, 1e-3, True, True, 0.5, 0.0, facts=0.3, moves=0.5, distinct=min(steps, 200))
    return replace(stage, **changes)


def language_clips(folder: Path, clips: int) -> RenderedClips:
    """Clips of the language stage, rendered once: other seeds than those of the cells."""
    spec: RenderSpec = replace(CLIPS, name="language", clips=clips, seed=33)
    render_all(spec, folder / f"language_{clips}", workers=1)
    return RenderedClips(folder / f"language_{clips}")


def teach_language(both: nn.ModuleDict, clips: RenderedClips, stage: Stage, folder: Path, seed: int) -> PointingModel:
    """The cell's model after the language stage; goes on where it was stopped.

    Args:
        both: model and heads, as `temporal_train.train` returns them.
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


def trained(state: State, config: PointingConfig) -> PointingModel:
    """The model of a stage's weights, ready to answer."""
    return assembled(state, config)["model"].eval()
