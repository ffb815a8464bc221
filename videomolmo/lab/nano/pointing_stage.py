"""One stage of training the nano pointing model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from videomolmo.lab.nano.auxiliary_losses import ProbeHeads, attention_loss
from videomolmo.lab.nano.batches import Example, asked, image_inputs, sample_example, text_inputs
from videomolmo.lab.nano.checkpoint import MovingAverage, found, load_weights, resume, save_checkpoint, save_progress
from videomolmo.lab.nano.initial_weights import assembled
from videomolmo.lab.nano.rendered_clips import RenderedClips
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.point_heads import CLOSED
from videomolmo.model.token_heads import PointLogits
from videomolmo.training.log import append_log
from videomolmo.training.model import cosine


class BatchBuffer:
    """Preallocated memory for `places` batches of the same names, shapes and kinds, taken as it is filled."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._blocks: dict[str, Tensor] = {}

    def put(self, place: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy a batch to a place; returns it as it lies there."""
        for name, value in batch.items():
            if name not in self._blocks:
                self._blocks[name] = torch.empty((self.places, *value.shape), dtype=value.dtype, device=value.device)
            self._blocks[name][place].copy_(value)
        return {name: self._blocks[name][place] for name in batch}


# What stages were called when the shipped weights were trained: in their recipe.json, curves and folders.
EARLIER_NAMES = {
    "vision_pretrain": "see", "text": "speak", "localise": "place", "text_2": "speak on", "text_3": "read",
    "motion_warmup": "look", "joint": "settle", "temporal_finetune": "follow", "temporal_finetune_2": "follow on",
    "vision_pretrain_144": "see larger", "motion_warmup_144": "look larger", "joint_144": "settle larger",
    "temporal_finetune_144": "follow larger", "temporal_finetune_144_2": "follow on larger",
    "lists_144": "write larger", "vision_pretrain_144_2": "see on larger", "lists_144_2": "write on larger",
    "lists_144_3": "write last larger",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage: `language` says whether text is trained; the vision tower is at `vision_rate` of the rate `max_lr`.

    `probe_weight` and `motion_weight` weigh what windows should know of their objects and of their motion.
    `short_history_prob`: share of clips with truncated history, 1 to l black frames in front, as at a video's start.
    `cached_batches`: this many batches are encoded once by the frozen vision tower, most of a step's work, and gone
    through again and again; 0: all are new. Where text is trained, each time with new questions: the model overfitted
    to the same ones. `lists`: see `asked`. `static_prob`: share of batches of single pictures that are their own past,
    as where nothing moves: they teach shapes at two fifths of the price of clips.
    """

    name: str
    steps: int
    batch: int
    questions: int
    max_lr: float
    language: bool
    past: bool
    motion_share: float
    vision_rate: float
    probe_weight: float
    motion_weight: float = 0.0
    short_history_prob: float = 0.0
    cached_batches: int = 0
    lists: float = 0.0
    static_prob: float = 0.0

    def __post_init__(self) -> None:
        if self.static_prob and (self.language or self.cached_batches or self.short_history_prob):
            raise ValueError(
                f"stage {self.name!r}: static_prob goes with neither language, cached_batches nor short_history_prob"
            )


def stage_folder(out: Path, stage: str, temporal: str | None) -> Path:
    """The folder of a stage, with the kind of temporal module where it looks at the past; also by its earlier name."""
    names = [name if temporal is None else f"{name}_{temporal}" for name in (stage, EARLIER_NAMES.get(stage, stage))]
    return next((out / name for name in names if (out / name).is_dir()), out / names[0])


def batches(
    processor: VideoMolmoProcessor,
    clips: RenderedClips,
    stage: Stage,
    seed: int,
    start: int,
    encode: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda batch: batch,
    pictures: RenderedClips | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Batch after batch from step `start`; each a function of (seed, stage, step) alone, through `encode`.

    Stills are taken from `pictures`.
    """
    key = sum(ord(letter) for letter in EARLIER_NAMES.get(stage.name, stage.name))  # the shipped weights' batches
    wanted = {"questions": stage.questions, "motion_share": stage.motion_share, "lists": stage.lists}
    kept: dict[int, tuple[list[Example], dict[str, Tensor]]] = {}
    buffer = BatchBuffer(stage.cached_batches)
    for step in range(start, stage.steps):
        number = step % stage.cached_batches if stage.cached_batches else step
        rng = np.random.default_rng([seed, key, number])
        if number in kept:
            examples, seen = kept[number]
        else:
            still = stage.static_prob > 0 and rng.random() < stage.static_prob
            source = pictures if still else clips
            examples = [sample_example(rng, source, **wanted) for _ in range(stage.batch)]
            seen = image_inputs(processor, examples, past=stage.past and not still, patches=not stage.language)
            if still:
                seen["window_motion"].zero_()  # where its object went cannot be seen
            if stage.short_history_prob:
                _cut_off(seen, stage, processor.config, seed, number)
            seen = encode(seen)
            if stage.cached_batches:
                seen = buffer.put(number, seen)
                kept[number] = examples, seen
        if stage.language and step != number:
            again = np.random.default_rng([seed, key, step])
            examples = [asked(again, one, **wanted) for one in examples]
        texts = text_inputs(processor, examples) if stage.language else {}
        device = seen["window_point"].device
        yield {name: value.to(device) for name, value in texts.items()} | seen


def encoder(
    model: VideoMolmoForConditionalGeneration, stage: Stage, device: str
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Puts a batch on the device; where batches are kept, with features in half precision instead of pixels.

    Of the past only the mean is kept where the temporal module sees no more than that.
    """

    def encode(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {name: value.to(device) for name, value in batch.items()}
        if not stage.cached_batches:
            return batch
        dropped = ("pixels", "past_pixels", "patch_mask")
        kept = {name: value for name, value in batch.items() if name not in dropped}
        with torch.no_grad():
            kept["features"] = model.encode_frames(batch["pixels"]).half()
        if stage.past and model.config.needs_past:
            past = model.encode_past(batch["past_pixels"])
            past = past if model.config.temporal == "cross_attention_all" else past.mean(1, keepdim=True)
            kept["past"] = past.half()
        return kept

    return encode


def _cut_off(batch: dict[str, Tensor], stage: Stage, config: VideoMolmoConfig, seed: int, step: int) -> None:
    """Blacken the oldest past frames of some examples in place, as before the start of a video."""
    rng = np.random.default_rng([seed, 99, step])
    black = -torch.tensor(config.image.mean) / torch.tensor(config.image.std)
    for row in range(len(batch["past_pixels"])):
        if rng.random() < stage.short_history_prob:
            count = int(rng.integers(1, config.context + 1))
            batch["past_pixels"][row, :count] = black.repeat(config.image.patch_px**2)


WARMUP = 60  # steps of a stage
AVERAGE = 0.998  # decay of the moving average of weights
HEADS = 3.0  # rate of learning of the heads that choose places: published heads learn 5 to 10 times as fast as language


def step_loss(
    model: VideoMolmoForConditionalGeneration, heads: ProbeHeads, batch: dict[str, Tensor], stage: Stage
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on a batch, and what to log of it."""
    if "features" in batch:
        features, past = batch["features"].float(), batch["past"].float() if "past" in batch else None
    else:
        with torch.set_grad_enabled(stage.vision_rate > 0):
            features = model.encode_frames(batch["pixels"])
        past = _past_of(model, batch, features) if stage.past and model.config.needs_past else None
    with capture_activations(model) as captured:
        if stage.language:
            return _language_loss(model, heads, batch, stage, features, past, captured)
        tokens = model.image_tokens(features, past)[:, 0]
    probes, log = _probe_loss(heads, tokens, batch, stage, captured)
    if stage.vision_rate:
        probes = probes + heads.patch_loss(features[:, 0], batch)
    right = heads.shape(tokens).argmax(-1) == batch["window_shape"]
    log["shape"] = right[batch["window_colour"] > 0].float().mean().item()
    return probes, log


def _past_of(model: VideoMolmoForConditionalGeneration, batch: dict[str, Tensor], features: Tensor) -> Tensor:
    """Features of the past frames; a still is its own past."""
    if "past_pixels" in batch:
        return model.encode_past(batch["past_pixels"])
    return features.detach()[:, None].expand(-1, model.config.context, *(-1,) * (features.ndim - 1))


@contextmanager
def capture_activations(model: VideoMolmoForConditionalGeneration) -> Iterator[dict[str, Tensor]]:
    """Activations of the next pass: `places` that tokens speak of, `windows` after the temporal module."""
    captured: dict[str, Tensor] = {}
    positions = model.connector.positions
    hooks = (
        positions.register_forward_hook(lambda _, tokens, __: captured.update(places=positions.places(tokens[0]))),
        model.temporal.register_forward_hook(lambda _, __, windows: captured.update(windows=windows[:, 0])),
    )
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


def _probe_loss(
    heads: ProbeHeads, tokens: Tensor, batch: dict[str, Tensor], stage: Stage, captured: dict[str, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """What windows should know, from their tokens (batch, windows, width) and the activations captured before them."""
    place = heads.place_loss(captured["places"].view_as(batch["window_point"]), batch)
    probes = heads.loss(tokens, batch) + 0.3 * place
    log = {"facts": probes.item(), "place": place.item()}
    if not stage.motion_weight:
        return stage.probe_weight * probes, log
    moves, right = heads.motion_loss(tokens, captured["windows"], batch)
    return stage.probe_weight * probes + stage.motion_weight * moves, log | {"motion": right}


def _language_loss(
    model: VideoMolmoForConditionalGeneration,
    heads: ProbeHeads,
    batch: dict[str, Tensor],
    stage: Stage,
    features: Tensor,
    past: Tensor | None,
    captured: dict[str, Tensor],
) -> tuple[Tensor, dict[str, float]]:
    """The answers' loss with all auxiliary losses."""
    out = model(
        batch["input_ids"],
        image_input_idx=batch["image_input_idx"],
        position_ids=batch["position_ids"],
        subsegment_ids=batch.get("subsegment_ids"),
        targets=batch["targets"],
        loss_masks=batch["weights"],
        points=batch.get("points"),
        features=features,
        past_features=past,
        output_hidden_states=True,
        output_attentions=True,
    )
    looking = attention_loss(out.attentions, batch, model.config.image.window_grid)
    probes, log = _probe_loss(heads, out.image_tokens[:, 0], batch, stage, captured)
    asked = heads.asked_loss(out.hidden_states[1], batch)
    written = heads.written_loss(out.hidden_states, batch)
    loss = out.loss + 0.3 * looking + 0.5 * asked + 2 * written + probes
    own = {"text": out.loss.item(), "look": looking.item(), "asked": asked.item(), "written": written.item()}
    return loss, own | log | _accuracy(out.logits, batch) | _chosen_right(out.point_logits, batch)


@torch.no_grad()
def _chosen_right(logits: PointLogits | None, batch: dict[str, Tensor]) -> dict[str, float]:
    """Share of image tokens (or ends of a list), of their patches and of cells in them that are chosen right."""
    if logits is None:
        return {}
    points = batch["points"][batch["points"][..., 0] >= 0]
    right = {"token": logits.patch.argmax(-1) == points[:, 0].clamp(max=logits.patch.shape[-1] - 1)}
    points = points[points[:, 0] != CLOSED]
    right |= {"slot": logits.subpatch.argmax(-1) == points[:, 1], "cell": logits.location.argmax(-1) == points[:, 2]}
    return {name: of.float().mean().item() for name, of in right.items()}


@torch.no_grad()
def _accuracy(logits: Tensor, batch: dict[str, Tensor]) -> dict[str, float]:
    """Share of choices and of leading digits that are right: the two plateaus of this training."""
    right = (logits.argmax(-1) == batch["targets"]).float()
    row, token = batch["choices"].unbind(1)
    chosen, begins = right[row, token], batch["loss_masks"][row, token - 1] <= 0
    more = chosen[~begins].mean().item() if (~begins).any() else float("nan")
    if "points" in batch:
        return {"first": chosen[begins].mean().item()}
    placed = ~batch["places"][..., 0].isnan()
    leading = placed & ~torch.cat([torch.zeros_like(placed[:, :1]), placed[:, :-1]], 1)
    return {"first": chosen[begins].mean().item(), "more": more, "tens": right[leading].mean().item()}


def train_stage(
    config: VideoMolmoConfig,
    stage: Stage,
    processor: VideoMolmoProcessor,
    clips: RenderedClips,
    folder: Path,
    *,
    begin: tuple[Path, ...],
    seed: int,
    device: str = "cpu",
    checkpoint_every: int = 250,
    pictures: RenderedClips | None = None,
) -> Path:
    """Run one stage from the averaged weights of `begin`, or go on from its own checkpoint; returns its weights.

    Args:
        config: the model; its temporal module starts afresh where `begin` has none.
        stage: what to train and how long.
        processor: the model's.
        clips: rendered training clips; five frames each where the stage looks at the past.
        folder: gets checkpoint.safetensors while running, log.jsonl, and weights.safetensors at the end.
        begin: weights of earlier stages, of which the last that has a tensor counts; none for a fresh model.
        seed: of initial weights and of the order of examples.
        device: to train on.
        checkpoint_every: steps from one checkpoint to the next.
        pictures: single frames, where the stage has `static_prob`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "weights.safetensors"
    if there := found(done):
        return there
    both, optimiser, average, start = _start(config, stage, folder / "checkpoint.safetensors", begin, seed, device)
    recent: list[dict[str, float]] = []
    loader = batches(processor, clips, stage, seed, start, encoder(both["model"], stage, device), pictures)
    bar = tqdm(loader, initial=start, total=stage.steps, desc=stage.name)
    for step, batch in enumerate(bar, start=start):
        recent.append(advance(both, optimiser, average, batch, stage, step))
        if (step + 1) % 50 == 0 or step + 1 == stage.steps:
            mean = pd.DataFrame(recent).mean().round(4).to_dict()  # of what a batch could tell
            append_log(folder / "log.jsonl", stage=stage.name, step=step + 1, **mean)
            bar.set_postfix(mean)
            recent = []
        if (step + 1) % checkpoint_every == 0:
            save_progress(folder / "checkpoint.safetensors", both, optimiser, average, step + 1)
    save_checkpoint(done, state=average.state)
    return done


def advance(
    both: nn.ModuleDict,
    optimiser: torch.optim.Optimizer,
    average: MovingAverage,
    batch: dict[str, Tensor],
    stage: Stage,
    step: int,
) -> dict[str, float]:
    """Step `step` of a stage on one batch, with the schedule, clipping and the moving average; returns what to log."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(step, stage.steps, stage.max_lr, WARMUP) * group["share"]
    loss, log = step_loss(both["model"], both["heads"], batch, stage)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(both.parameters(), 1.0)
    optimiser.step()
    average.update(both, step)
    return log


def optimiser_of(both: nn.ModuleDict, stage: Stage) -> torch.optim.Optimizer:
    """AdamW over the parts that the stage trains; the others are frozen."""
    groups = parameter_groups(both["model"], both["heads"], stage)
    return torch.optim.AdamW(groups, lr=stage.max_lr, betas=(0.9, 0.95), weight_decay=0.02)


def _start(
    config: VideoMolmoConfig, stage: Stage, checkpoint: Path, begin: tuple[Path, ...], seed: int, device: str
) -> tuple[nn.ModuleDict, torch.optim.Optimizer, MovingAverage, int]:
    """Model and fact heads, optimiser, average and first step: from the checkpoint, else from `begin`, else fresh."""
    state = {name: value for path in begin for name, value in load_weights(path).items()}
    both = assembled(state, config, seed).train()
    both.to(device)
    optimiser = optimiser_of(both, stage)
    average = MovingAverage(both, AVERAGE)
    return both, optimiser, average, resume(checkpoint, both, optimiser, average)


def parameter_groups(model: VideoMolmoForConditionalGeneration, heads: ProbeHeads, stage: Stage) -> list[dict]:
    """Parameter groups with their share of the learning rate; frozen parts are left out."""
    words = float(stage.language)
    parts = {"vision": stage.vision_rate, "language": words, "new_embedding": words, "token_heads": HEADS * words}
    groups = [{"params": list(heads.parameters()), "share": 1.0}]
    for name, parameter in model.named_parameters():
        share = parts.get(name.split(".")[0], 1.0)
        parameter.requires_grad_(share > 0)
        if share > 0:
            groups.append({"params": [parameter], "share": share})
    return groups


def single_frame(config: VideoMolmoConfig) -> VideoMolmoConfig:
    """The same model without a temporal module: what `vision_pretrain` and `text` train."""
    return replace(config, temporal="none")
