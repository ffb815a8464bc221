"""Train nano SAM 2 on generated clips from point prompts, forwards and backwards in time.

Recipe: still pictures first, then clips of growing length; loss 20·focal + 2·dice + IoU + presence, as SAM 2's.
Every batch is a function of (seed, step), so a resumed run sees what an uninterrupted one would have seen.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from videomolmo.lab.nano.checkpoint import MovingAverage, found, load_weights, resume, save_checkpoint, save_progress
from videomolmo.lab.nano.rendered_clips import RenderedClips
from videomolmo.masks.sam2 import MEAN, STD, build_nano
from videomolmo.training.log import append_log
from videomolmo.training.model import cosine

LOSS_SIZE = 96


@dataclass(frozen=True)
class Stage:
    """`steps` batches of `clips` clips with `frames` frames and up to `objects` objects each."""

    steps: int
    clips: int
    frames: int
    objects: int


@dataclass(frozen=True)
class Schedule:
    """Stages under one cycle of the learning rate from `max_lr`, on pictures `size` pixels wide."""

    name: str
    size: int
    max_lr: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Batch:
    """pixels (frames, clips, 3, size, size); truth (frames, objects, size, size); clip_of (objects,) as indices;
    prompt points (objects, 1, 2) in pixels of the first input; `mask` (objects, 1, size, size) replaces them."""

    pixels: torch.Tensor
    truth: torch.Tensor
    clip_of: torch.Tensor
    points: torch.Tensor
    mask: torch.Tensor | None

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(*(None if part is None else part.to(device) for part in vars(self).values()))


def initialise(model: nn.Module) -> None:
    """Starting values that shorten the two plateaus: token and image attention agree, objects are assumed present."""
    for name, module in model.sam_mask_decoder.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            with torch.no_grad():
                module.k_proj.weight.copy_(3 * module.q_proj.weight)
    nn.init.trunc_normal_(model.image_encoder.trunk.pos_embed, std=0.02)
    nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)


def sample_batch(clips: RenderedClips, stage: Stage, seed: int, step: int, size: int) -> Batch:
    """Clips at `size` pixels with random gaps, order of time, mirror and colour; objects large enough to click on."""
    rng = np.random.default_rng([seed, step])
    chosen, frames, truth, clip_of, points = [], [], [], [], []
    while len(chosen) < stage.clips:
        clip = int(rng.integers(len(clips)))
        times = _sample_times(rng, clips.frames.shape[1], stage.frames)
        ids = clips.ids[clip, times]
        first = np.bincount(ids[0].ravel(), minlength=2)[1:]
        able = np.flatnonzero(first >= 45) + 1
        if not len(able):
            continue
        picture = clips.frames[clip, times].astype(np.float32) / 255
        picture = picture[..., rng.permutation(3)] if rng.random() < 0.5 else picture
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]
        picture, ids = np.flip(picture, flips), np.flip(ids, flips)
        for object_id in rng.permutation(able)[: stage.objects]:
            truth.append(ids == object_id)
            clip_of.append(len(chosen))
            points.append(_click(rng, truth[-1][0]))
        chosen.append(clip)
        frames.append(picture)
    pixels = torch.from_numpy(np.ascontiguousarray(np.stack(frames, 1).transpose(0, 1, 4, 2, 3)))
    pixels = F.interpolate(pixels.flatten(0, 1), size=(size, size), mode="bilinear", antialias=True)
    pixels = pixels.unflatten(0, (stage.frames, stage.clips))
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    masks = torch.from_numpy(np.ascontiguousarray(np.stack(truth, 1))).float()
    clicks = torch.tensor(np.array(points), dtype=torch.float32)[:, None] * (size / masks.shape[-1])
    prompt = None
    if stage.frames > 1 and rng.random() < 0.25:
        prompt = (F.interpolate(masks[0][:, None], size=(size, size), mode="area") >= 0.5).float()
    return Batch(pixels, masks, torch.tensor(clip_of), clicks, prompt)


def _sample_times(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    if rng.random() < 0.3:
        times = np.sort(rng.choice(available, wanted, replace=False))
    else:
        times = np.arange(wanted) + rng.integers(available - wanted + 1)
    return times[::-1] if rng.random() < 0.5 else times


def _click(rng: np.random.Generator, mask: np.ndarray) -> tuple[float, float]:
    """A point in the mask: its centre of mass when that is inside (half the time, jittered), else any pixel."""
    rows, columns = np.nonzero(mask)
    if rng.random() < 0.5:
        spread = 0.2 * np.sqrt(len(rows))
        row, column = rows.mean() + rng.normal(0, spread * 0.5), columns.mean() + rng.normal(0, spread * 0.5)
        if mask[min(max(round(row), 0), mask.shape[0] - 1), min(max(round(column), 0), mask.shape[1] - 1)]:
            return column + 0.5, row + 0.5
    index = rng.integers(len(rows))
    return columns[index] + rng.random(), rows[index] + rng.random()


def run_clip(model: nn.Module, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Mask logits, IoU estimates and presence logits of every frame, tracked from the prompt on the first."""
    frames, clips = batch.pixels.shape[:2]
    encoded = model.forward_image(batch.pixels.flatten(0, 1))
    _, features, positions, sizes = model._prepare_backbone_features(encoded)
    memory: dict[str, dict] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    outputs = []
    for time in range(frames):
        at = time * clips + batch.clip_of
        first = time == 0
        clicks = {
            "point_coords": batch.points,
            "point_labels": torch.ones(len(at), 1, dtype=torch.int32, device=at.device),
        }
        current, heads, _, _ = model._track_step(
            frame_idx=time,
            is_init_cond_frame=first,
            current_vision_feats=[level[:, at] for level in features],
            current_vision_pos_embeds=[level[:, at] for level in positions],
            feat_sizes=sizes,
            point_inputs=clicks if first and batch.mask is None else None,
            mask_inputs=batch.mask if first else None,
            output_dict=memory,
            num_frames=frames,
            track_in_reverse=False,
            prev_sam_mask_logits=None,
        )
        low, _, ious, _, high, pointer, presence = heads
        current |= {"pred_masks": low, "obj_ptr": pointer}
        model._encode_memory_in_output(
            [level[:, at] for level in features], sizes, clicks if first else None, frames > 1, high, presence, current
        )
        memory["cond_frame_outputs" if first else "non_cond_frame_outputs"][time] = current
        if not (first and batch.mask is not None):
            outputs.append((low[:, 0], ious[:, 0], presence[:, 0]))
    return outputs


def loss_of(logits: torch.Tensor, ious: torch.Tensor, presence: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """SAM 2's loss on one frame; truth (objects, size, size). Masks count only where there is an object."""
    target = F.interpolate(truth[:, None], size=(LOSS_SIZE, LOSS_SIZE), mode="area")[:, 0]
    logits = F.interpolate(logits[:, None], size=(LOSS_SIZE, LOSS_SIZE), mode="bilinear")[:, 0].clamp(-30, 30)
    there = (truth.flatten(1).sum(1) > 0).float()
    chance = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    agreement = chance * target + (1 - chance) * (1 - target)
    weight = 0.75 * target + 0.25 * (1 - target)
    focal = (weight * (1 - agreement) ** 2 * cross).flatten(1).mean(1) * 2
    overlap = 2 * (chance * target).flatten(1).sum(1) + 1
    dice = 1 - overlap / ((chance + target).flatten(1).sum(1) + 1)
    with torch.no_grad():
        guess, real = logits > 0, target > 0.5
        iou = (guess & real).flatten(1).sum(1) / (guess | real).flatten(1).sum(1).clamp(min=1)
    estimate = (ious - iou).abs()
    shown = (there * (20 * focal + 2 * dice + estimate)).sum() / there.sum().clamp(min=1)
    return shown + F.binary_cross_entropy_with_logits(presence, there)


def j_of(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean J of the objects that are there."""
    guess = F.interpolate(logits[:, None], size=truth.shape[-2:], mode="bilinear")[:, 0] > 0
    there = truth.flatten(1).sum(1) > 0
    inter = (guess & (truth > 0)).flatten(1).sum(1)[there]
    union = (guess | (truth > 0)).flatten(1).sum(1)[there]
    return float((inter / union.clamp(min=1)).mean()) if there.any() else float("nan")


def train_masks(
    config: Path,
    clips: RenderedClips,
    folder: Path,
    run: Schedule,
    *,
    seed: int,
    begin: Path | None = None,
    device: str = "cpu",
    checkpoint_every: int = 200,
) -> Path:
    """Train from the averaged weights of `begin` or from nothing, or go on from `folder`/checkpoint.safetensors.

    Returns:
        `folder`/ema.safetensors, the moving average of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "ema.safetensors"
    if there := found(done):
        return there
    model, optimiser, average, start = _start(config, run, folder / "checkpoint.safetensors", begin, seed, device)
    total = sum(stage.steps for stage in run.stages)
    schedule = [stage for stage in run.stages for _ in range(stage.steps)]
    recent: list[tuple[float, float, float]] = []
    for step in (bar := tqdm(range(start, total), initial=start, total=total, desc=run.name, mininterval=5)):
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, total, run.max_lr, 100)
        batch = sample_batch(clips, schedule[step], seed, step, model.image_size).to(device)
        outputs = run_clip(model, batch)
        truths = batch.truth if batch.mask is None else batch.truth[1:]
        loss = sum(loss_of(*output, truth) for output, truth in zip(outputs, truths, strict=True)) / len(outputs)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model, step)
        with torch.no_grad():
            recent.append((loss.item(), j_of(outputs[0][0], truths[0]), j_of(outputs[-1][0], truths[-1])))
        if (step + 1) % 50 == 0 or step + 1 == total:
            mean = np.nanmean(np.array(recent), axis=0).round(4).tolist()
            append_log(folder / "log.jsonl", step=step + 1, frames=schedule[step].frames, loss=mean[0], j=mean[1:])
            bar.set_postfix(T=schedule[step].frames, loss=mean[0], j=mean[1], j_last=mean[2])
            recent = []
        if (step + 1) % checkpoint_every == 0 or step + 1 == total:
            save_progress(folder / "checkpoint.safetensors", model, optimiser, average, step + 1)
    save_checkpoint(done, model=average.state)
    return done


def _start(
    config: Path, run: Schedule, checkpoint: Path, begin: Path | None, seed: int, device: str
) -> tuple[nn.Module, torch.optim.Optimizer, MovingAverage, int]:
    """Model, optimiser, average and first step: from the checkpoint, else from `begin`, else fresh."""
    torch.manual_seed(seed)
    random.seed(seed)
    model = build_nano(config, run.size).train()
    initialise(model)
    if begin is not None:
        model.load_state_dict(load_weights(begin, "model", model.state_dict()))
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=run.max_lr, betas=(0.9, 0.98), weight_decay=0.02)
    average = MovingAverage(model, 0.998)
    return model, optimiser, average, resume(checkpoint, model, optimiser, average)
