"""One stage of training Nano-Molmo2's connector and language, and, at the end, its vision with them.

Each batch is a function of (seed, stage, step), so that a run that was killed goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers.models.molmo2.modeling_molmo2 import apply_rotary_pos_emb

from videomolmo.lab.nano.checkpoint import CHECKPOINT, Log, MovingAverage, found, load_weights, resume, run_steps
from videomolmo.lab.nano.molmo2_examples import (
    ASKABLE,
    COLOUR_CLASSES,
    FIRST_TOKEN,
    HAPPENINGS,
    KIND_CLASSES,
    Batches,
    Clips,
    windows_at,
)
from videomolmo.lab.nano.molmo2_vision import ShippedTower
from videomolmo.lab.nano.muon import MuonAndAdamW, is_inner_matrix
from videomolmo.model.connector import PERIODS, phases
from videomolmo.training.model import cosine

WARMUP, AVERAGE, BACKGROUND = 60, 0.98, 0.1  # steps; decay of the moving average; weight of class "none"
SUPERVISED = ((1, 2, 3), 2)  # layers, and heads of each, whose attention is shown where the point lies
ASKED_AFTER = 1  # layers: then a token that writes knows what was asked for
KNOWN_AFTER = 3  # layers: then a window's token knows what becomes of its thing
WRITTEN = (2, 3, 4)  # layers after which a token that writes of a point knows where the point lies
MOVES, RARE = 10.0, 4.0  # shares of the frame become numbers of about one; weight of what happens against what does not


@dataclass(frozen=True)
class Stage:
    """One stage, at the peak rate `max_lr`.

    Attributes:
        clips: what is shown.
        stand_in: whether the shipped model sees in place of the model's own tower.
        vision: share of the rate at which the own tower learns, from pictures alone: clips would cost half as much
            again. At a rate of 1e-3 it forgets what it was taught to see.
        look, facts: weights of the losses that guide.
    """

    name: str
    steps: int
    max_lr: float
    clips: tuple[Clips, ...]
    stand_in: bool = False
    vision: float = 0.0
    look: float = 0.3
    facts: float = 1.0


class Probes(nn.Module):
    """Heads of training, dropped later: what the token of a window shows and what becomes of it, and what is written.

    After the connector: kind, colour and centre (as phases); deeper: how its thing came and goes, what happens to it
    now, and what ever does. Of a token that writes: what its question names, and the place that it writes of.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind, self.colour = nn.Linear(width, len(KIND_CLASSES)), nn.Linear(width, len(COLOUR_CLASSES))
        self.place = nn.Linear(width, 4 * len(PERIODS))
        self.moved, self.now = nn.Linear(width, 4), nn.Linear(width, len(HAPPENINGS))
        self.ever = nn.Linear(width, len(HAPPENINGS))
        self.asked = nn.Linear(width, len(ASKABLE))
        self.written = nn.ModuleList(nn.Linear(width, 4 * len(PERIODS)) for _ in WRITTEN)

    def looks_loss(self, tokens: Float[Tensor, "frames windows width"], batch: dict[str, Tensor]) -> tuple[Tensor, Log]:
        """How badly tokens tell what they show."""
        loss, log, there = tokens.new_zeros(()), {}, batch["kind"] > 0
        for name, head in (("kind", self.kind), ("colour", self.colour)):
            logits = head(tokens)
            weight = torch.ones(logits.shape[-1])
            weight[0] = BACKGROUND
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), batch[name].flatten(), weight)
            log[name] = (logits.argmax(-1) == batch[name])[there].float().mean().item()
        far = functional.mse_loss(self.place(tokens[there]), phases(batch["place"][there]))
        return loss + 2 * far, log | {"place": far.item()}

    def facts_loss(self, tokens: Float[Tensor, "frames windows width"], batch: dict[str, Tensor]) -> tuple[Tensor, Log]:
        """How badly tokens tell how their thing moves, what happens to it, and what ever does."""
        moved = ~batch["moved"].isnan()
        far = (self.moved(tokens)[moved] - MOVES * batch["moved"][moved]).abs().mean()
        loss, log = far, {"moved": far.item()}
        there = batch["kind"] > 0
        for name, head in (("now", self.now), ("ever", self.ever)):
            logits, true = head(tokens[there]), batch[name][there]
            loss = loss + functional.binary_cross_entropy_with_logits(logits, true, pos_weight=torch.tensor(RARE))
            log[name] = (logits > 0)[true > 0.5].float().mean().item()
            log[f"{name}_false"] = (logits > 0)[true < 0.5].float().mean().item()
        return loss, log


Both = nn.ModuleDict  # "model" and "probes"


def answers_loss(both: Both, batch: dict[str, Tensor], stage: Stage) -> tuple[Tensor, Log]:
    """The loss of answers, with all that guides: where to look, what windows show, and what happens to things."""
    model, probes = both["model"], both["probes"]
    inner, patch = model.model, model.config.image_token_id
    ids = batch["input_ids"].clamp(min=0)
    seen = inner.get_video_features(batch["pixel_values_videos"], batch["video_token_pooling"], batch["video_grids"])
    tokens = torch.cat(seen.pooler_output)
    embeds = inner.get_input_embeddings()(ids)
    here = ids == patch
    embeds = embeds.masked_scatter(here[..., None].expand_as(embeds), embeds[here] + tokens)
    windows = torch.stack([windows_at(row, patch) for row in ids])
    allowed = torch.where(batch["allowed"], 0.0, torch.finfo(embeds.dtype).min)[:, None]
    with looking(inner.language_model) as looks:
        out = inner.language_model(
            inputs_embeds=embeds, attention_mask=allowed, position_ids=batch["position_ids"].clamp(min=0),
            use_cache=False, output_hidden_states=True,
        )  # fmt: skip
    loss, log = words_loss(model, out.last_hidden_state, batch)
    looked = look_loss(looks, batch, windows)
    per_frame = batch["kind"].shape
    shown, told = probes.looks_loss(tokens.view(*per_frame, -1), batch)
    rows = torch.arange(len(ids))[:, None]
    deep = out.hidden_states[KNOWN_AFTER][rows, windows].reshape(*per_frame, -1)
    is_clip = len(windows[0]) > per_frame[1]  # in a single frame nothing happens
    facts, happened = probes.facts_loss(deep, batch) if is_clip else (0.0, {})
    written = written_loss(probes, out.hidden_states, batch)
    asked = asked_loss(probes, out.hidden_states[ASKED_AFTER], batch)
    loss = loss + stage.look * looked + stage.facts * (shown + facts) + 2 * written + 5 * asked
    return loss, log | {"look": looked.item(), "written": written.item(), "asked": asked.item()} | told | happened


def words_loss(model: Any, hidden: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Log]:
    """Weighted cross-entropy of the answers, and which of its targets are right.

    `choices` are first tokens, what follows a point, and first digits: what weighs most; `second` are second digits.
    """
    weights = batch["loss_masks"]
    chosen = (weights > 0) & (batch["targets"] >= 0)
    logits, targets, weights = model.lm_head(hidden[chosen]), batch["targets"][chosen], weights[chosen]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    right = (logits.argmax(-1) == targets).float()
    log = {"choices": right[weights == weights.max()].mean().item(), "second": right[weights == 2].mean().item()}
    loss = (losses * weights).sum() / weights.sum()
    return loss, {"text": loss.item()} | log


@contextmanager
def looking(language: nn.Module) -> Iterator[dict[int, tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]]]:
    """What the supervised layers attend with in the next pass: layer, its input, cosines and sines of positions."""
    caught: dict[int, tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]] = {}

    def keep(number: int):
        def hook(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
            caught[number] = (module, inputs["hidden_states"], inputs["position_embeddings"])

        return hook

    hooks = [
        language.layers[number].self_attn.register_forward_pre_hook(keep(number), with_kwargs=True)
        for number in SUPERVISED[0]
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def look_loss(looks: dict[int, Any], batch: dict[str, Tensor], windows: Tensor) -> Tensor:
    """How little the supervised heads look where they should; only the rows that are supervised are computed."""
    row, token = batch["look"].unbind(1)
    nothing = 1 - batch["look_at"].sum(-1, keepdim=True).clamp(max=1)
    wanted = torch.cat([nothing, batch["look_at"]], 1)
    columns = torch.cat([torch.full_like(windows[:, :1], FIRST_TOKEN), windows], 1)  # of each row
    losses = []
    for attention, hidden, places in looks.values():
        weights = attention_of(attention, hidden, places, row, token, batch["allowed"])
        found = weights.gather(2, columns[row][:, None].expand(-1, weights.shape[1], -1)).mean(1)
        losses.append(-(wanted * (found + 1e-5).log()).sum(1).mean())
    return torch.stack(losses).mean()


def attention_of(
    attention: Any, hidden: Float[Tensor, "batch tokens width"], places: tuple[Tensor, Tensor], row: Tensor,
    token: Tensor, allowed: Tensor,
) -> Float[Tensor, "chosen heads tokens"]:  # fmt: skip
    """The first heads' attention weights of chosen tokens, as `Molmo2Attention` has them (per-head norms, causal)."""
    heads, size = SUPERVISED[1], attention.head_dim
    query = attention.q_norm(attention.q_proj(hidden).unflatten(-1, (-1, size))[:, :, :heads])
    key = attention.k_norm(attention.k_proj(hidden).unflatten(-1, (-1, size)))
    key = key.repeat_interleave(attention.num_key_value_groups, dim=2)[:, :, :heads]
    query, key = apply_rotary_pos_emb(query, key, *places, unsqueeze_dim=2)
    found = []
    for number in range(len(hidden)):
        own = token[row == number]
        scores = torch.einsum("qhd,khd->qhk", query[number, own], key[number]) * size**-0.5
        found.append(scores.masked_fill(~allowed[number, own][:, None], float("-inf")).softmax(-1))
    return torch.cat(found)  # rows come in order


def written_loss(probes: Probes, hidden: Sequence[Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the place that is being written of, as phases, in the middle layers."""
    row, token = batch["look"].unbind(1)
    known = ~batch["look_place"][:, 0].isnan()
    wanted = phases(batch["look_place"][known])
    losses = [
        functional.mse_loss(head(hidden[layer][row[known], token[known]]), wanted)
        for layer, head in zip(WRITTEN, probes.written, strict=True)
    ]
    return torch.stack(losses).mean()


def asked_loss(probes: Probes, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of what the question names, read where its answer is written: it has to be looked up first."""
    row, token = batch["look"].unbind(1)
    return functional.binary_cross_entropy_with_logits(probes.asked(hidden[row, token]), batch["asked"])


def optimiser_of(both: Both, stage: Stage) -> torch.optim.Optimizer:
    """The optimiser of what a stage trains: Muon for inner matrices, AdamW for the rest.

    The tower has the share `vision` of the rate; where that is 0, it is frozen.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in both.named_parameters():
        share = stage.vision if name.startswith("model.model.vision_tower.") else 1.0
        parameter.requires_grad_(share > 0)
        if share > 0:
            groups.setdefault((is_inner_matrix(name, parameter), share), []).append(parameter)
    matrices, others = (
        [{"params": found, "share": share} for (is_matrix, share), found in groups.items() if is_matrix == wanted]
        for wanted in (True, False)
    )
    return MuonAndAdamW(matrices, others, lr=stage.max_lr)


def train_stage(model: Any, processor: Any, stage: Stage, folder: Path, begin: Path | None, seed: int) -> Path:
    """Run a stage from the averaged weights of `begin`, or go on from its own checkpoint; returns its weights.

    Args:
        model: fresh, or with weights; changed in place.
        processor: the model's.
        stage: what to train and how long.
        folder: gets checkpoint.safetensors while running, log.jsonl, and weights.safetensors at the end.
        begin: weights of the stage before; None for the model as it is.
        seed: of probes and of the order of examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "weights.safetensors"
    if there := found(done):
        return there
    both = assembled(model, begin, seed)
    own = model.model.vision_tower
    optimiser, average = optimiser_of(both, stage), MovingAverage(both, AVERAGE)
    start = resume(folder / CHECKPOINT, both, optimiser, average)
    key = sum(ord(letter) for letter in stage.name)
    batches = Batches(processor, stage.clips, seed, key, stage.steps)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, stage.steps), num_workers=1, prefetch_factor=4)
    shipped = ShippedTower() if stage.stand_in else None

    def act(step: int, batch: dict[str, Tensor]) -> Log:
        own.requires_grad_(stage.vision > 0 and len(batch["kind"]) == len(batch["input_ids"]))  # one frame each
        model.model.vision_tower = shipped or own  # for this pass: what is saved is the model's own
        log = advance(both, optimiser, batch, stage, step)
        model.model.vision_tower = own
        average.update(both, step)
        return log

    run_steps(enumerate(loader, start), act, stage, folder, (both, optimiser, average))
    return done


def advance(both: Both, optimiser: torch.optim.Optimizer, batch: dict[str, Tensor], stage: Stage, step: int) -> Log:
    """Step `step` of a stage with the schedule and clipping; returns what to log."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(step, stage.steps, stage.max_lr, WARMUP) * group["share"]
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        loss, log = answers_loss(both, batch, stage)  # a quarter faster where the processor has it
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], 1.0)
    optimiser.step()
    return {"loss": loss.item(), **log}


def assembled(model: Any, weights: Path | None, seed: int) -> Both:
    """Model and probes in training mode, with the weights of a stage or as they are."""
    torch.manual_seed(seed)
    both = nn.ModuleDict({"model": model, "probes": Probes(model.config.text_config.hidden_size)})
    if weights is not None:
        both.load_state_dict(load_weights(weights, own=both.state_dict()))
    return both.train()
