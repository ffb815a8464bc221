"""One stage of training Nano-GLaMM: its encoders, its mask decoder, its language, or words and masks together.

Each batch is a function of (seed, stage, step), so that a run that was killed goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.lab.nano import caption_batches as batches
from videomolmo.lab.nano.caption_attention import look_loss, should_look
from videomolmo.lab.nano.caption_batches import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES, Seen
from videomolmo.lab.nano.caption_packing import ask_several, pack
from videomolmo.lab.nano.checkpoint import CHECKPOINT, Log, MovingAverage, found, load_weights, resume, run_steps
from videomolmo.lab.nano.grounded_model import given_features, nano_glamm
from videomolmo.lab.nano.muon import MuonAndAdamW, is_inner_matrix
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.losses import mask_losses, word_loss
from videomolmo.systems.videoglamm.masks import decode_all, to_size
from videomolmo.systems.videoglamm.splice import PLACEHOLDER
from videomolmo.training.model import cosine

PARTS = {  # of the model, by the beginnings of their weights' names
    "video": ("model.vision_tower.",),
    "adapters": ("model.mm_projector.", "model.image_mm_projector."),
    "language": ("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head."),
    "projector": ("model.text_hidden_fcs.",),
    "decoder": ("model.visual_model.sam_mask_decoder.",),
}
WARMUP, AVERAGE, BACKGROUND = 60, 0.998, 0.1  # steps; decay of the moving average; weight of class "none"


@dataclass(frozen=True)
class Stage:
    """One stage: which `parts` learn at the peak rate `max_lr`, on what.

    `task`: "see" trains the encoders on what patches show; "segment" the mask decoder on prompts that are a table's
    entries for colour and shape; "speak" on words, and on [SEG]s that should be those entries; "ground" on the model's
    own losses. `cached_batches`: so many batches are encoded once by the frozen encoders and gone through again and
    again, each time with new questions; 0: all are new. `captions`: share among questions of "ground"; "speak" has so
    many `questions` about each clip, among them those of the kinds in `always`, as often as they stand there. `frames`:
    length of clips. `look_weight` weighs attention to the object that words are about.
    """

    name: str
    task: str
    steps: int
    batch: int
    max_lr: float
    parts: tuple[str, ...]
    frames: int = 12
    cached_batches: int = 0
    captions: float = 0.5
    questions: int = 5
    always: tuple[str, ...] = ("caption",)
    look_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in LOSSES or not set(self.parts) <= set(PARTS):
            raise ValueError(f"stage {self.name!r}: task {self.task!r} or parts {self.parts} are not known")
        if "video" in self.parts and self.cached_batches:
            raise ValueError(f"stage {self.name!r}: cached_batches go with a frozen InternVideo2 alone")


class Probes(nn.Module):
    """Heads of training, dropped later: what InternVideo2's patches show, and a prompt for each colour and shape."""

    def __init__(self, config: VideoGLaMMConfig) -> None:
        super().__init__()
        width = config.video.width
        self.see = nn.ModuleDict({
            "colour": nn.Linear(width, len(COLOUR_CLASSES)), "shape": nn.Linear(width, len(SHAPE_CLASSES)),
            "motion": nn.Linear(width, len(MOTION_CLASSES)), "facts": nn.Linear(width, len(batches.FACTS)),
            "centre": nn.Linear(width, 2),
        })  # fmt: skip
        self.prompt_colour = nn.Embedding(len(COLOUR_CLASSES), config.masks.width)
        self.prompt_shape = nn.Embedding(len(SHAPE_CLASSES), config.masks.width)

    def prompts(self, names: Tensor) -> Tensor:
        """Prompts of objects given as classes of colour and shape (objects, 2)."""
        return self.prompt_colour(names[:, 0]) + self.prompt_shape(names[:, 1])


Both = nn.ModuleDict  # "model" and "probes"


def features(model: VideoGLaMMForConditionalGeneration, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the two frozen encoders make of frames."""
    inner, count = model.model, len(seen["images"])
    with torch.no_grad():
        context = inner.image_vision_tower(seen["context_images"].flatten(0, 1)).unflatten(0, (count, -1))
        return {"images": video_features(model, seen["images"]), "context_images": context}


def video_features(model: VideoGLaMMForConditionalGeneration, images: Tensor) -> Tensor:
    """Patch features of InternVideo2 (clips, shown, patches, width), with gradient."""
    count, shown = images.shape[:2]
    chunks = images.unflatten(1, (-1, model.config.video.frames)).flatten(0, 1).transpose(1, 2)
    video = model.model.vision_tower.vision_encoder(chunks).unflatten(0, (count, -1)).flatten(1, 2)
    return video.unflatten(1, (shown, -1))


def see_loss(both: Both, processor: VideoGLaMMProcessor, clips: list[Seen], **_: Any) -> tuple[Tensor, Log]:
    """How badly InternVideo2's patches tell looks, centre and motion of the object on them, and what happens."""
    model, see = both["model"], both["probes"].see
    video = video_features(model, batches.views(processor, clips)["images"])
    owners = batches.patch_owners(clips, model.config.video.grid)
    loss, log = torch.zeros(()), {}
    for name, wanted in batches.classes(clips, owners).items():
        logits = see[name](video)
        weight = torch.ones(logits.shape[-1])
        weight[0] = BACKGROUND
        loss = loss + functional.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight)
        there = wanted > 0
        log[name] = (logits.argmax(-1) == wanted)[there].float().mean().item()
    far = (see["centre"](video) - batches.centres(clips, owners))[owners > 0].abs().mean()
    wanted, guess = batches.facts(clips, owners), see["facts"](video)
    known = wanted >= 0
    happens = functional.binary_cross_entropy_with_logits(guess[known], wanted[known])
    log |= {"centre": far.item(), "facts": ((guess > 0) == (wanted > 0.5))[known].float().mean().item()}
    return loss + 3 * far + 2 * happens, log


def segment_loss(both: Both, processor: VideoGLaMMProcessor, clips: list[Seen], **_: Any) -> tuple[Tensor, Log]:
    """BCE and Dice of masks prompted by the names of objects, on two frames of each clip."""
    model, probes = both["model"], both["probes"]
    found, true = [], []
    for one in clips:
        frames = [0, len(one.frames) - 1]
        names = torch.tensor([batches.names_of(one.said, at) for at in range(len(one.said.objects))])
        low = decode_all(model.sam2, processor.sam_images(one.frames[frames]), probes.prompts(names))
        true.append(torch.from_numpy(np.stack([one.masks([at])[frames] for at in range(len(names))])).float())
        found.append(to_size(low, one.ids.shape[1:]))
    return _masks_loss(model.config, found, true)


def _masks_loss(config: VideoGLaMMConfig, found: list[Tensor], true: list[Tensor]) -> tuple[Tensor, Log]:
    bce, dice = mask_losses(found, true)
    log = {"bce": bce.item(), "dice": dice.item(), "iou": _iou(found, true)}
    return config.bce_weight * bce + config.dice_weight * dice, log


@torch.no_grad()
def _iou(found: list[Tensor], true: list[Tensor]) -> float:
    """Mean IoU of objects over their frames."""
    values = []
    for logits, wanted in zip(found, true, strict=True):
        guess, real = logits[: len(wanted)] > 0, wanted > 0.5
        both, either = (guess & real).sum((1, 2, 3)), (guess | real).sum((1, 2, 3)).clamp(min=1)
        values += (both / either).tolist()
    return float(np.mean(values)) if values else float("nan")


def speak_loss(
    both: Both, processor: VideoGLaMMProcessor, clips: list[Seen], seen: dict[str, Tensor], stage: Stage,
    rng: np.random.Generator,
) -> tuple[Tensor, Log]:  # fmt: skip
    """Cross-entropy of answers to several questions about each clip, and how far the prompts of [SEG]s are off.

    The table of prompts teaches what a [SEG] should say at a fraction of the cost of decoding masks.
    """
    model, probes = both["model"], both["probes"]
    exchanges = [ask_several(rng, one.said, stage.questions, stage.always) for one in clips]
    with given_features(model):
        visual = [model.visual_tokens(*one) for one in zip(seen["images"], seen["context_images"], strict=True)]
    rows = pack(processor, clips, exchanges, visual, model.model.embed_tokens)
    out = model.model(
        inputs_embeds=rows.embeds, attention_mask=rows.mask(), position_ids=rows.positions, use_cache=False,
        output_attentions=stage.look_weight > 0,
    )  # fmt: skip
    logits, targets = model.lm_head(out.last_hidden_state[:, :-1]), rows.labels[:, 1:]
    ce = word_loss(functional.pad(logits, (0, 0, 0, 1)), rows.labels)
    far = _far(model.model.text_hidden_fcs[0](out.last_hidden_state[rows.segments]), probes.prompts(rows.meant))
    right = (logits.argmax(-1) == targets)[targets >= 0].float().mean().item()
    loss, log = ce + far, {"ce": ce.item(), "words": right, "prompt": far.item()}
    if stage.look_weight:
        looking = look_loss(should_look(processor, clips, exchanges, rows.labels), out.attentions, rows.first)
        loss, log["look"] = loss + stage.look_weight * looking, looking.item()
    return loss, log


def _far(said: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of prompts from the table's, as a share of those."""
    wanted = wanted.detach()
    return functional.mse_loss(said, wanted, reduction="sum") / wanted.square().sum().clamp(min=1e-6)


def ground_loss(
    both: Both, processor: VideoGLaMMProcessor, clips: list[Seen], seen: dict[str, Tensor], stage: Stage,
    rng: np.random.Generator,
) -> tuple[Tensor, Log]:  # fmt: skip
    """The model's own losses of words and masks for a question about each clip, and the distance of `speak_loss`."""
    model = both["model"]
    exchanges = [batches.ask(rng, one.said, stage.captions) for one in clips]
    inputs = batches.text_inputs(processor, clips, exchanges, masks=True)
    meant = inputs.pop("meant")
    with given_features(model):
        out = model(
            **inputs, images=list(seen["images"]), context_images=list(seen["context_images"]),
            output_attentions=stage.look_weight > 0,
        )  # fmt: skip
    targets = out.labels[:, 1:]
    right = (out.logits[:, :-1].argmax(-1) == targets)[targets >= 0].float().mean().item()
    far = _far(torch.cat(out.segments), both["probes"].prompts(meant))
    log = {"ce": out.ce_loss.item(), "words": right, "prompt": far.item()}
    full = [to_size(one, true.shape[-2:]) for one, true in zip(out.mask_logits, inputs["masks"], strict=True)]
    log |= {"bce": out.bce_loss.item(), "dice": out.dice_loss.item(), "iou": _iou(full, inputs["masks"])}
    loss = out.loss + far
    if stage.look_weight:
        first = int((inputs["input_ids"][0] == PLACEHOLDER).nonzero()[0])
        should = should_look(processor, clips, [[told] for told in exchanges], out.labels)
        looking = look_loss(should, out.attentions, first)
        loss, log["look"] = loss + stage.look_weight * looking, looking.item()
    return loss, log


LOSSES = {"see": see_loss, "segment": segment_loss, "speak": speak_loss, "ground": ground_loss}


def clips_of(
    both: Both, processor: VideoGLaMMProcessor, stage: Stage, seed: int, start: int
) -> Iterator[tuple[list[Seen], dict[str, Tensor]]]:
    """Batch after batch from step `start`: clips, and for tasks with words the encoders' features in half precision."""
    key = sum(ord(letter) for letter in stage.name)
    kept: dict[int, tuple[list[Seen], dict[str, Tensor]]] = {}
    for step in range(start, stage.steps):
        number = step % stage.cached_batches if stage.cached_batches else step
        if number not in kept:
            rng = np.random.default_rng([seed, key, number])
            clips = batches.draw(rng, stage.batch, stage.frames, processor.config.frames)
            made = {}
            if stage.task in ("speak", "ground"):
                made = features(both["model"], batches.views(processor, clips))
                made = {name: value.half() for name, value in made.items()}
            if not stage.cached_batches:
                yield clips, made
                continue
            kept[number] = clips, made
        yield kept[number]


def optimiser_of(both: Both, stage: Stage) -> torch.optim.Optimizer:
    """The optimiser of the parts that a stage trains; all others are frozen. Prompts learn with "segment" alone.

    Words are learnt with Muon, in fewer steps; for the other tasks, which take few, it was not tried.
    """
    begins = tuple(begin for part in stage.parts for begin in PARTS[part])
    matrices, others = [], []
    for name, parameter in both.named_parameters():
        own = name.removeprefix("model.")
        chosen = own.startswith(begins) if name.startswith("model.") else _probe_learns(name, stage.task)
        parameter.requires_grad_(chosen)
        if chosen:
            (matrices if stage.task == "speak" and is_inner_matrix(name, parameter) else others).append(parameter)
    rates = {"lr": stage.max_lr, "betas": (0.9, 0.95), "weight_decay": 0.01}
    if not matrices:
        return torch.optim.AdamW(others, **rates)
    return MuonAndAdamW([{"params": matrices}], [{"params": others}], **rates)


def _probe_learns(name: str, task: str) -> bool:
    return task == ("segment" if name.startswith("probes.prompt") else "see")


def train_stage(
    config: VideoGLaMMConfig, processor: VideoGLaMMProcessor, stage: Stage, folder: Path, begin: Path | None, seed: int
) -> Path:
    """Run a stage from the averaged weights of `begin`, or go on from its own checkpoint; returns its weights.

    Args:
        config: the model.
        processor: the model's.
        stage: what to train and how long.
        folder: gets checkpoint.safetensors while running, log.jsonl, and weights.safetensors at the end.
        begin: weights of the stage before; None for a fresh model.
        seed: of first weights and of the order of examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "weights.safetensors"
    if there := found(done):
        return there
    both = assembled(config, begin, seed)
    optimiser, average = optimiser_of(both, stage), MovingAverage(both, AVERAGE)
    start = resume(folder / CHECKPOINT, both, optimiser, average)
    source = clips_of(both, processor, stage, seed, start)
    numbered = ((step, next(source)) for step in range(start, stage.steps))
    act = partial(advance, both, optimiser, average, processor, stage, seed)
    run_steps(numbered, act, stage, folder, (both, optimiser, average))
    return done


def advance(
    both: Both, optimiser: torch.optim.Optimizer, average: MovingAverage, processor: VideoGLaMMProcessor, stage: Stage,
    seed: int, step: int, batch: tuple[list[Seen], dict[str, Tensor]],
) -> Log:  # fmt: skip
    """Step `step` of a stage with the schedule, clipping and the moving average; returns what to log."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(step, stage.steps, stage.max_lr, WARMUP)
    rng = np.random.default_rng([seed, 31, step])
    seen = {name: value.float() for name, value in batch[1].items()}  # kept in half precision
    loss, log = LOSSES[stage.task](both, processor, batch[0], seen=seen, stage=stage, rng=rng)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], 1.0)
    optimiser.step()
    average.update(both, step)
    return {"loss": loss.item(), **log}


def assembled(config: VideoGLaMMConfig, weights: Path | None, seed: int) -> Both:
    """Model and probes in training mode, with the weights of a stage or as new."""
    both = nn.ModuleDict({"model": nano_glamm(config, seed), "probes": Probes(config)})
    if weights is not None:
        both.load_state_dict(load_weights(weights, own=both.state_dict()))
    return both.train()
