"""Train the nano pointing model stage by stage on generated clips: see, speak, then look back in time.

    see     vision tower and connector learn what each window shows (colour, shape, the object's centre); no language
    speak   single frames with questions and answers; attention at coordinates is shown where to look
    look    the temporal module and connector learn the direction of motion, hardly minding what they knew; no language
    settle  the same, and what was known comes back; with both at once from the start, motion stays at chance
    follow  clips: current frame and l past ones, all questions

Source: paper, section 3 (a single-frame model first, then the temporal module, from scratch, on top of it).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from videomolmo.errors import BadInput
from videomolmo.model import PointingConfig, PointingModel, PointingProcessor
from videomolmo.training.guidance import FactHeads, attention_loss
from videomolmo.training.rendered import RenderedClips
from videomolmo.training.run_state import (
    MovingAverage,
    append_log,
    cosine,
    found,
    load_weights,
    resume,
    save_checkpoint,
    save_progress,
)  # fmt: skip
from videomolmo.training.stage import Stage, batches, encoder

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
        output_hidden=True,
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
