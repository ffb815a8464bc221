"""Muon for the matrices inside a model and AdamW for all else, as one optimiser with one state to save and load."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

Group = dict[str, Any]


class MuonAndAdamW(Optimizer):
    """Muon (K. Jordan, 2024), which makes the momentum of a matrix orthogonal, and AdamW, each for its own groups.

    Muon's steps are scaled to be as large as AdamW's (arXiv 2502.16982), so that one rate fits both.

    Args:
        matrices, others: groups of parameters, as for any optimiser, for Muon and for AdamW; see `is_inner_matrix`.
        lr, weight_decay: of both.
        betas: AdamW's.
    """

    def __init__(
        self, matrices: list[Group], others: list[Group], *, lr: float, weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:  # fmt: skip
        self.parts = (
            Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimiser's own state and groups."""
        first = len(self.parts[0].param_groups)
        for part, groups in zip(self.parts, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            part.param_groups, part.state = groups, self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of both."""
        for part in self.parts:
            part.step()


def is_inner_matrix(name: str, value: nn.Parameter) -> bool:
    """Whether a parameter is a matrix between hidden layers: embeddings and heads that give classes go to AdamW."""
    return value.dim() == 2 and not any(word in name for word in ("embed", "head", "probes"))
