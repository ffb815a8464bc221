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

from videomolmo.errors import BadInput
from videomolmo.lab.nano.auxiliary_losses import FactHeads, attention_loss
from videomolmo.lab.nano.batches import Example, asked, pictured, sample_example, worded
from videomolmo.lab.nano.rendered_clips import RenderedClips
from videomolmo.model import PointingConfig, PointingModel, PointingProcessor
from videomolmo.training.run_state import (
    MovingAverage,
    append_log,
    cosine,
    found,
    load_weights,
    resume,
    save_checkpoint,
    save_progress,
)


class Shelf:
    """Room for `places` batches of the same names, shapes and kinds; a block takes memory as it is filled."""

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


@dataclass(frozen=True)
class Stage:
    """One stage: `language` says whether text is trained; the vision tower is at `vision_rate` of the rate.

    `facts` and `moves` weigh what windows should know of their objects and of their motion. `cutoff`: share of clips
    that begin in mid-air, with 1 to l black frames in front, as at a video's start. `distinct`: this many batches are
    encoded once by the frozen vision tower, most of a step's work, and gone through again and again; 0: all are new.
    Where text is trained, each time with new questions: the same ones were learnt by heart. `lists`: see `asked`.
    `stills`: share of batches of single pictures that are their own past, as where nothing moves: they teach shapes at
    two fifths of the price of clips.
    """

    name: str
    steps: int
    batch: int
    questions: int
    peak: float
    language: bool
    past: bool
    motion_share: float
    vision_rate: float
    facts: float
    moves: float = 0.0
    cutoff: float = 0.0
    distinct: int = 0
    lists: float = 0.0
    stills: float = 0.0

    def __post_init__(self) -> None:
        if self.stills and (self.language or self.distinct or self.cutoff):
            raise ValueError(f"stage {self.name!r}: stills go with neither language, distinct nor cutoff")


def batches(
    processor: PointingProcessor,
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
    key = sum(ord(letter) for letter in stage.name)
    wanted = {"questions": stage.questions, "motion_share": stage.motion_share, "lists": stage.lists}
    kept: dict[int, tuple[list[Example], dict[str, Tensor]]] = {}
    shelf = Shelf(stage.distinct)
    for step in range(start, stage.steps):
        number = step % stage.distinct if stage.distinct else step
        rng = np.random.default_rng([seed, key, number])
        if number in kept:
            examples, seen = kept[number]
        else:
            still = stage.stills > 0 and rng.random() < stage.stills
            source = pictures if still else clips
            examples = [sample_example(rng, source, **wanted) for _ in range(stage.batch)]
            seen = pictured(processor, examples, past=stage.past and not still, patches=not stage.language)
            if still:
                seen["facts_motion"].zero_()  # where its object went cannot be seen
            if stage.cutoff:
                _cut_off(seen, stage, processor.config, seed, number)
            seen = encode(seen)
            if stage.distinct:
                seen = shelf.put(number, seen)
                kept[number] = examples, seen
        if stage.language and step != number:
            again = np.random.default_rng([seed, key, step])
            examples = [asked(again, one, **wanted) for one in examples]
        texts = worded(processor, examples) if stage.language else {}
        device = seen["facts_point"].device
        yield {name: value.to(device) for name, value in texts.items()} | seen


def encoder(model: PointingModel, stage: Stage, device: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Puts a batch on the device; where batches are kept, with features in half precision instead of pixels.

    Of the past only the mean is kept where the temporal module sees no more than that.
    """

    def encode(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {name: value.to(device) for name, value in batch.items()}
        if not stage.distinct:
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


def _cut_off(batch: dict[str, Tensor], stage: Stage, config: PointingConfig, seed: int, step: int) -> None:
    """Blacken the oldest past frames of some examples in place, as before the start of a video."""
    rng = np.random.default_rng([seed, 99, step])
    black = -torch.tensor(config.image.mean) / torch.tensor(config.image.std)
    for row in range(len(batch["past_pixels"])):
        if rng.random() < stage.cutoff:
            count = int(rng.integers(1, config.context + 1))
            batch["past_pixels"][row, :count] = black.repeat(config.image.patch_px**2)


WARMUP = 60  # steps of a stage
AVERAGE = 0.998  # decay of the moving average of weights


def step_loss(
    model: PointingModel, heads: FactHeads, batch: dict[str, Tensor], stage: Stage
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on a batch, and what to log of it."""
    if "features" in batch:
        features, past = batch["features"].float(), batch["past"].float() if "past" in batch else None
    else:
        with torch.set_grad_enabled(stage.vision_rate > 0):
            features = model.encode_frames(batch["pixels"])
        past = _past_of(model, batch, features) if stage.past and model.config.needs_past else None
    with overheard(model) as heard:
        if stage.language:
            return _language_loss(model, heads, batch, stage, features, past, heard)
        tokens = model.image_tokens(features, past)[:, 0]
    facts, log = _facts_loss(heads, tokens, batch, stage, heard)
    if stage.vision_rate:
        facts = facts + heads.patch_loss(features[:, 0], batch)
    right = heads.shape(tokens).argmax(-1) == batch["facts_shape"]
    log["shape"] = right[batch["facts_colour"] > 0].float().mean().item()
    return facts, log


def _past_of(model: PointingModel, batch: dict[str, Tensor], features: Tensor) -> Tensor:
    """Features of the past frames; a still is its own past."""
    if "past_pixels" in batch:
        return model.encode_past(batch["past_pixels"])
    return features.detach()[:, None].expand(-1, model.config.context, *(-1,) * (features.ndim - 1))


@contextmanager
def overheard(model: PointingModel) -> Iterator[dict[str, Tensor]]:
    """What the next pass shows on its way: `places` that tokens speak of, `windows` after the temporal module."""
    heard: dict[str, Tensor] = {}
    positions = model.connector.positions
    hooks = (
        positions.register_forward_hook(lambda _, tokens, __: heard.update(places=positions.places(tokens[0]))),
        model.temporal.register_forward_hook(lambda _, __, windows: heard.update(windows=windows[:, 0])),
    )
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _facts_loss(
    heads: FactHeads, tokens: Tensor, batch: dict[str, Tensor], stage: Stage, heard: dict[str, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """What windows should know, from their tokens (batch, windows, width) and what was overheard on the way there."""
    place = heads.place_loss(heard["places"].view_as(batch["facts_point"]), batch)
    facts = heads.loss(tokens, batch) + 0.3 * place
    log = {"facts": facts.item(), "place": place.item()}
    if not stage.moves:
        return stage.facts * facts, log
    moves, right = heads.motion_loss(tokens, heard["windows"], batch)
    return stage.facts * facts + stage.moves * moves, log | {"motion": right}


def _language_loss(
    model: PointingModel,
    heads: FactHeads,
    batch: dict[str, Tensor],
    stage: Stage,
    features: Tensor,
    past: Tensor | None,
    heard: dict[str, Tensor],
) -> tuple[Tensor, dict[str, float]]:
    """The answers' loss with all the guidance."""
    out = model(
        batch["input_ids"],
        image_input_idx=batch["image_input_idx"],
        position_ids=batch["position_ids"],
        subsegment_ids=batch.get("subsegment_ids"),
        targets=batch["targets"],
        loss_masks=batch["weights"],
        features=features,
        past_features=past,
        output_hidden_states=True,
        output_attentions=True,
    )
    looking = attention_loss(out.attentions, batch, model.config.image.window_grid)
    facts, log = _facts_loss(heads, out.image_tokens[:, 0], batch, stage, heard)
    asked = heads.asked_loss(out.hidden_states[1], batch)
    written = heads.written_loss(out.hidden_states, batch)
    loss = out.loss + 0.3 * looking + 0.5 * asked + 2 * written + facts
    own = {"text": out.loss.item(), "look": looking.item(), "asked": asked.item(), "written": written.item()}
    return loss, own | log | _accuracy(out.logits, batch)


@torch.no_grad()
def _accuracy(logits: Tensor, batch: dict[str, Tensor]) -> dict[str, float]:
    """Share of choices and of leading digits that are right: the two plateaus of this training."""
    right = (logits.argmax(-1) == batch["targets"]).float()
    row, token = batch["choices"].unbind(1)
    chosen, begins = right[row, token], batch["loss_masks"][row, token - 1] <= 0
    more = chosen[~begins].mean().item() if (~begins).any() else float("nan")
    placed = ~batch["places"][..., 0].isnan()
    leading = placed & ~torch.cat([torch.zeros_like(placed[:, :1]), placed[:, :-1]], 1)
    return {"first": chosen[begins].mean().item(), "more": more, "tens": right[leading].mean().item()}


def train_stage(
    config: PointingConfig,
    stage: Stage,
    processor: PointingProcessor,
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
        pictures: single frames, where the stage has stills.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "weights.safetensors"
    if there := found(done):
        return there
    both, optimiser, average, start = _start(config, stage, folder / "checkpoint.safetensors", begin, seed, device)
    recent: list[dict[str, float]] = []
    feed = batches(processor, clips, stage, seed, start, encoder(both["model"], stage, device), pictures)
    bar = tqdm(feed, initial=start, total=stage.steps, desc=stage.name)
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
        group["lr"] = cosine(step, stage.steps, stage.peak, WARMUP) * group["share"]
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
    return torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.95), weight_decay=0.02)


def _start(
    config: PointingConfig, stage: Stage, checkpoint: Path, begin: tuple[Path, ...], seed: int, device: str
) -> tuple[nn.ModuleDict, torch.optim.Optimizer, MovingAverage, int]:
    """Model and fact heads, optimiser, average and first step: from the checkpoint, else from `begin`, else fresh."""
    torch.manual_seed(seed)
    model = PointingModel(config, attn_implementation="eager").train()
    heads = FactHeads(config.language.width, config.vision.feature_dim, config.image.patch_px)
    both = nn.ModuleDict({"model": model, "heads": heads})
    if begin:
        begin_from(both, {name: value for path in begin for name, value in load_weights(path).items()})
    both.to(device)
    optimiser = optimiser_of(both, stage)
    average = MovingAverage(both, AVERAGE)
    return both, optimiser, average, resume(checkpoint, both, optimiser, average)


def parameter_groups(model: PointingModel, heads: FactHeads, stage: Stage) -> list[dict]:
    """Parameter groups with their share of the learning rate; frozen parts are left out."""
    parts = {"vision": stage.vision_rate, "language": float(stage.language), "new_embedding": float(stage.language)}
    groups = [{"params": list(heads.parameters()), "share": 1.0}]
    for name, parameter in model.named_parameters():
        share = parts.get(name.split(".")[0], 1.0)
        parameter.requires_grad_(share > 0)
        if share > 0:
            groups.append({"params": [parameter], "share": share})
    return groups


def begin_from(both: nn.Module, state: dict[str, Tensor]) -> None:
    """Take over an earlier stage's weights; only a temporal module may be new."""
    try:
        missing, unexpected = both.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadInput(f"weights of the stage before do not fit: {reason}; train from the first stage on") from error
    strange = [name for name in (*missing, *unexpected) if not name.startswith("model.temporal.")]
    if strange:
        raise BadInput(f"weights of the stage before do not fit: {strange[:4]}; train from the first stage on")


def single_frame(config: PointingConfig) -> PointingConfig:
    """The same model without a temporal module: what `see` and `speak` train."""
    return replace(config, temporal="none")
