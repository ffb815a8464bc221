"""One stage of training Nano-GLaMM: its encoders, its mask decoder, its language, or words and masks together.

Each batch is a function of (seed, stage, step), so that a run that was killed goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from videomolmo.lab.nano import caption_batches as batches
from videomolmo.lab.nano.caption_attention import look_loss
from videomolmo.lab.nano.caption_batches import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES, Seen
from videomolmo.lab.nano.checkpoint import MovingAverage, found, load_weights, resume, save_checkpoint, save_progress
from videomolmo.lab.nano.grounded_model import given_features, nano_glamm
from videomolmo.systems.videoglamm import VideoGLaMMConfig, VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.losses import mask_losses
from videomolmo.systems.videoglamm.masks import decode_all, to_size
from videomolmo.systems.videoglamm.splice import PLACEHOLDER
from videomolmo.training.log import append_log
from videomolmo.training.model import cosine

PARTS = {  # of the model, by the beginnings of their weights' names
    "encoders": ("model.vision_tower.", "model.image_vision_tower."),
    "adapters": ("model.mm_projector.", "model.image_mm_projector."),
    "language": ("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head."),
    "projector": ("model.text_hidden_fcs.",),
    "decoder": ("model.visual_model.sam_mask_decoder.",),
}
WARMUP, AVERAGE, BACKGROUND = 60, 0.998, 0.1  # steps; decay of the moving average; weight of class "none"
CHECKPOINT_EVERY, LOG_EVERY = 100, 25


@dataclass(frozen=True)
class Stage:
    """One stage: which `parts` learn at the peak rate `max_lr`, on what.

    `task`: "see" trains the encoders on what patches show; "segment" the mask decoder on prompts that are a table's
    entries for colour and shape; "speak" on words, and on [SEG]s that should be those entries; "ground" on the model's
    own losses. `cached_batches`: so many batches are encoded once by the frozen encoders and gone through again and
    again, each time with new questions; 0: all are new. `captions`: share among questions. `frames`: length of clips.
    `look_weight` weighs attention to the object that words are about.
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
    look_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in LOSSES or not set(self.parts) <= set(PARTS):
            raise ValueError(f"stage {self.name!r}: task {self.task!r} or parts {self.parts} are not known")
        if "encoders" in self.parts and self.cached_batches:
            raise ValueError(f"stage {self.name!r}: cached_batches go with frozen encoders alone")


class Probes(nn.Module):
    """Heads of training, dropped afterwards: what patches show, and a prompt for each colour and shape."""

    def __init__(self, config: VideoGLaMMConfig) -> None:
        super().__init__()
        image, video = config.image, config.video
        self.colour = nn.Linear(image.width, len(COLOUR_CLASSES))
        self.shape = nn.Linear(image.width, len(SHAPE_CLASSES))
        self.outline = nn.Linear(image.width, image.patch_px**2)
        self.motion = nn.Linear(video.width, len(MOTION_CLASSES))
        self.moving_colour = nn.Linear(video.width, len(COLOUR_CLASSES))
        self.prompt_colour = nn.Embedding(len(COLOUR_CLASSES), config.masks.width)
        self.prompt_shape = nn.Embedding(len(SHAPE_CLASSES), config.masks.width)

    def prompts(self, names: Tensor) -> Tensor:
        """Prompts of objects given as classes of colour and shape (objects, 2)."""
        return self.prompt_colour(names[:, 0]) + self.prompt_shape(names[:, 1])


Both = nn.ModuleDict  # "model" and "probes"
Log = dict[str, float]


def features(model: VideoGLaMMForConditionalGeneration, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the two encoders make of frames, layer for layer as in the model, with gradient."""
    inner = model.model
    count, shown = seen["images"].shape[:2]
    clip = inner.image_vision_tower.vision_tower.vision_model
    context = clip(seen["context_images"].flatten(0, 1), output_hidden_states=True).hidden_states[-2][:, 1:]
    chunks = seen["images"].unflatten(1, (-1, model.config.video.frames)).flatten(0, 1).transpose(1, 2)
    video = inner.vision_tower.vision_encoder(chunks).unflatten(0, (count, -1)).flatten(1, 2)
    return {"images": video.unflatten(1, (shown, -1)), "context_images": context.unflatten(0, (count, shown))}


def see_loss(both: Both, processor: VideoGLaMMProcessor, clips: list[Seen], **_: Any) -> tuple[Tensor, Log]:
    """Cross-entropy of colour and shape of CLIP's patches and of motion of InternVideo2's, and outlines in a patch."""
    model, probes = both["model"], both["probes"]
    made = features(model, batches.views(processor, clips))
    image, video = made["context_images"], made["images"]
    grid = model.config.image.size_px // model.config.image.patch_px
    of_image = batches.classes(clips, batches.patch_owners(clips, grid))
    of_video = batches.classes(clips, batches.patch_owners(clips, model.config.video.grid))
    outline = functional.binary_cross_entropy_with_logits(probes.outline(image), batches.outlines(clips, grid))
    loss, log = 5 * outline, {"outline": outline.item()}
    for name, logits, wanted in (
        ("colour", probes.colour(image), of_image["colour"]), ("shape", probes.shape(image), of_image["shape"]),
        ("motion", probes.motion(video), of_video["motion"]),
        ("moving_colour", probes.moving_colour(video), of_video["colour"]),
    ):  # fmt: skip
        weight = torch.ones(logits.shape[-1])
        weight[0] = BACKGROUND
        loss = loss + functional.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight)
        there = wanted > 0
        log[name] = (logits.argmax(-1) == wanted)[there].float().mean().item()
    return loss, log


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
    """Cross-entropy of the answers, and how far the prompt of each [SEG] is from the table's; with masks where asked.

    The table teaches what a [SEG] should say at a fraction of the cost of decoding masks.
    """
    model, probes = both["model"], both["probes"]
    exchanges = [batches.ask(rng, one.said, stage.captions) for one in clips]
    inputs = batches.text_inputs(processor, clips, exchanges, masks=stage.task == "ground")
    meant = inputs.pop("meant")
    with given_features(model):
        out = model(
            **inputs, images=list(seen["images"].float()), context_images=list(seen["context_images"].float()),
            output_attentions=stage.look_weight > 0,
        )  # fmt: skip
    targets = out.labels[:, 1:]
    right = (out.logits[:, :-1].argmax(-1) == targets)[targets >= 0].float().mean().item()
    wanted = probes.prompts(meant).detach()
    far = functional.mse_loss(torch.cat(out.segments), wanted, reduction="sum") / wanted.square().sum().clamp(min=1e-6)
    log = {"ce": out.ce_loss.item(), "words": right, "prompt": far.item()}
    if stage.task == "ground":
        full = [to_size(one, true.shape[-2:]) for one, true in zip(out.mask_logits, inputs["masks"], strict=True)]
        log |= {"bce": out.bce_loss.item(), "dice": out.dice_loss.item(), "iou": _iou(full, inputs["masks"])}
    loss = out.loss + far
    if stage.look_weight:
        first = int((inputs["input_ids"][0] == PLACEHOLDER).nonzero()[0])
        looking = look_loss(processor, clips, exchanges, out.labels, out.attentions, first)
        loss, log["look"] = loss + stage.look_weight * looking, looking.item()
    return loss, log


LOSSES = {"see": see_loss, "segment": segment_loss, "speak": speak_loss, "ground": speak_loss}


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
                with torch.no_grad():
                    made = features(both["model"], batches.views(processor, clips))
                made = {name: value.half() for name, value in made.items()}
            if not stage.cached_batches:
                yield clips, made
                continue
            kept[number] = clips, made
        yield kept[number]


def optimiser_of(both: Both, stage: Stage) -> torch.optim.Optimizer:
    """AdamW over the parts that the stage trains; all others are frozen. The table of prompts learns with "segment"."""
    begins = tuple(begin for part in stage.parts for begin in PARTS[part])
    learning = []
    for name, parameter in both.named_parameters():
        own = name.removeprefix("model.")
        chosen = own.startswith(begins) if name.startswith("model.") else _probe_learns(name, stage.task)
        parameter.requires_grad_(chosen)
        learning += [parameter] * chosen
    return torch.optim.AdamW(learning, lr=stage.max_lr, betas=(0.9, 0.95), weight_decay=0.01)


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
    checkpoint = folder / "checkpoint.safetensors"
    start = resume(checkpoint, both, optimiser, average)
    source = clips_of(both, processor, stage, seed, start)
    recent: list[Log] = []
    bar = tqdm(range(start, stage.steps), initial=start, total=stage.steps, desc=stage.name, mininterval=5)
    for step in bar:
        recent.append(_advance(both, optimiser, average, processor, next(source), stage, seed, step))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
            mean = pd.DataFrame(recent).mean().round(4).to_dict()
            append_log(folder / "log.jsonl", stage=stage.name, step=step + 1, **mean)
            bar.set_postfix(mean)
            recent = []
        if (step + 1) % CHECKPOINT_EVERY == 0:
            save_progress(checkpoint, both, optimiser, average, step + 1)
    save_checkpoint(done, state=average.state)
    return done


def _advance(
    both: Both, optimiser: torch.optim.Optimizer, average: MovingAverage, processor: VideoGLaMMProcessor,
    batch: tuple[list[Seen], dict[str, Tensor]], stage: Stage, seed: int, step: int,
) -> Log:  # fmt: skip
    """Step `step` of a stage with the schedule, clipping and the moving average; returns what to log."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(step, stage.steps, stage.max_lr, WARMUP)
    rng = np.random.default_rng([seed, 31, step])
    loss, log = LOSSES[stage.task](both, processor, batch[0], seen=batch[1], stage=stage, rng=rng)
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
