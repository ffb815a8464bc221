"""How much arithmetic a training step is, counted on a model without memory, and how much a device could do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from videomolmo.model import PointingModel
from videomolmo.model.config import PointingConfig
from videomolmo.model.sequence import answer_loss, attention_mask_of, visible
from videomolmo.training.adapters import choose
from videomolmo.training.recipe import Learn

# dense TFLOP/s as their makers state them: in bfloat16 with float32 sums, and in plain float32
GPUS = {
    "H200": (989.0, 67.0), "H100": (989.0, 67.0), "GH200": (989.0, 67.0), "B200": (2250.0, 75.0),
    "A100": (312.0, 19.5), "A40": (149.7, 37.4), "A10": (125.0, 31.2), "L40S": (362.0, 91.6), "L4": (121.0, 30.3),
    "RTX 4090": (165.2, 82.6), "RTX 3090": (71.0, 35.6),
}  # fmt: skip
SIDE = 1024  # of the product that is measured on a CPU


class Arithmetic:
    """Floating-point operations of one forward and backward pass over one frame and its past.

    Counted are products, convolutions and attention as PyTorch runs them, in the backward pass only where something
    learns; recomputation under gradient checkpointing does not count, so that the share of peak tells of useful work.

    Args:
        config: of the model.
        learn: what is trained.
    """

    def __init__(self, config: PointingConfig, learn: Learn) -> None:
        self.config, self.learn = config, learn
        self._curves: dict[int, np.ndarray] = {}

    @cached_property
    def _model(self) -> PointingModel:
        model = PointingModel.empty(self.config)
        choose(model, self.learn)
        return model.train()

    def operations(self, crops: int, tokens: int) -> float:
        """Of a frame of so many crops in a sequence of so many tokens: exactly a + b·tokens + c·tokens²."""
        if crops not in self._curves:
            places = (16, 32, 48)
            self._curves[crops] = np.polyfit(places, [self._count(crops, place) for place in places], 2)
        return float(np.polyval(self._curves[crops], tokens))

    def _count(self, crops: int, tokens: int) -> int:
        with FlopCounterMode(display=False) as counter:
            one_pass(self._model, 1, crops, tokens, "meta").backward()
        return counter.get_total_flops()


def one_pass(model: PointingModel, batch: int, crops: int, tokens: int, device: str) -> Tensor:
    """The loss of a batch of nothing in particular, by the same layers and sizes as in training.

    Args:
        model: with weights of any kind, also without memory.
        batch, crops, tokens: samples, crops of a frame, and tokens of a sequence.
        device: of the weights.
    """
    config, image = model.config, model.config.image
    pixels = torch.zeros(batch, 1 + config.context, crops, image.patches, image.patch_values, device=device)
    features = model.encode_frames(pixels[:, 0])
    past = model.encode_past(pixels[:, 1:]) if config.needs_past else None
    masks = torch.ones(batch, crops, image.patches, device=device)
    seen = model.image_tokens(features, past, masks).flatten(1, 2)[:, :tokens]
    embeds = model.language.embed_tokens(torch.zeros(batch, tokens, dtype=torch.long, device=device))
    embeds = embeds + torch.nn.functional.pad(seen, (0, 0, 0, tokens - seen.shape[1])).to(embeds)
    allowed = visible(torch.ones(batch, tokens, dtype=torch.bool, device=device))
    targets = torch.zeros(batch, tokens, dtype=torch.long, device=device)
    out = model.language(
        inputs_embeds=embeds, attention_mask={"full_attention": attention_mask_of(allowed, "sdpa", embeds.dtype)},
        position_ids=targets, use_cache=False,
    )  # fmt: skip
    return answer_loss(model.logits(out.last_hidden_state), targets, torch.ones(batch, tokens, device=device))


def speed(row: Mapping[str, float], seconds: float, peak: float | None, accelerator: Accelerator) -> dict[str, float]:
    """What a step's sums come to for each second; `share_of_peak` is of all devices together.

    Args:
        row: samples, tokens and operations of a step on all processes.
        seconds: that it took.
        peak: TFLOP/s of one device, None where unknown.
        accelerator: how many processes, and on which device.
    """
    found = {
        "seconds": seconds, "samples_per_s": row["samples"] / seconds, "tokens_per_s": row["tokens"] / seconds,
        "data_wait_share": row["data_wait_s"] / seconds,
    }  # fmt: skip
    if row["operations"]:
        found["tflops"] = row["operations"] / seconds / 1e12
        found |= {"share_of_peak": found["tflops"] / peak / accelerator.num_processes} if peak else {}
    if accelerator.device.type == "cuda":
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def peak_tflops(device: torch.device, precision: str, known: float | None = None) -> float | None:
    """What a device could do at best, in 10¹² operations a second; None where nobody says.

    A GPU's figure is its maker's, a CPU's a large product measured here, which is less than its best.

    Args:
        device: of training.
        precision: "float32" or "mixed".
        known: the figure, where the user knows it.
    """
    if known is not None:
        return known
    if device.type == "cpu":
        return _measured(torch.bfloat16 if precision == "mixed" else torch.float32) / 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = next((kind for kind in sorted(GPUS, key=len, reverse=True) if kind in name), None)
    return None if found is None else GPUS[found][precision == "float32"]


def _measured(dtype: torch.dtype) -> float:
    """Operations a second of a large product on this CPU, the best of three."""
    left, best = torch.ones(SIDE, SIDE, dtype=dtype), 0.0
    left @ left
    for _ in range(3):
        start = time.perf_counter()
        left @ left
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - start))
    return best
