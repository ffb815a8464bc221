"""Auxiliary losses of a small model: probe heads on what each part should know, and attention to where it should be.

All of it is dropped after training. Each help is here because without it a measurement stood still; the docstrings
say which.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videomolmo.lab.nano.batches import COLOUR_CLASSES, MOTION_CLASSES, SHAPE_CLASSES
from videomolmo.model.connector import PERIODS, phases

SUPERVISED = ((1, 2, 3), (0, 1))  # layers and heads whose attention is shown where the point lies
ASKED = (len(COLOUR_CLASSES), len(SHAPE_CLASSES), len(MOTION_CLASSES), 2)
WRITTEN = (2, 3)  # hidden states that must know the point being written
SPREAD = 0.55  # of a window: how sharp that place is


class ProbeHeads(nn.Module):
    """Linear probes, used only while training, of what a window's token, a patch's feature and a text token know.

    Of windows: colour, shape, motion and the digits of the object's centre. Of patches: colour, shape, the way to the
    centre and which pixels belong to an object: without outlines to learn first, shapes stay at chance for long. Of
    windows and of patches after the temporal module: how far the object came since the past frames; without it the
    direction of motion stayed at chance (.20 of five) for 500 steps.
    """

    def __init__(self, width: int, patch_width: int, patch_px: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOUR_CLASSES))
        self.shape = nn.Linear(width, len(SHAPE_CLASSES))
        self.motion = nn.Linear(width, len(MOTION_CLASSES))
        self.digits = nn.Linear(width, 40)
        self.patch_colour = nn.Linear(patch_width, len(COLOUR_CLASSES))
        self.patch_shape = nn.Linear(patch_width, len(SHAPE_CLASSES))
        self.patch_way = nn.Linear(patch_width, 2)
        self.patch_mask = nn.Linear(patch_width, patch_px**2)
        self.moved = nn.Linear(width, 2)
        self.patch_moved = nn.Linear(patch_width, 2)
        self.asked = nn.ModuleList(nn.Linear(width, count) for count in ASKED)
        self.written = nn.ModuleList(nn.Linear(width, 4 * len(PERIODS)) for _ in WRITTEN)

    def loss(self, tokens: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of colour, shape and digits read from windows; tokens (batch, windows, width)."""
        there = batch["window_colour"] > 0
        loss = _balanced(self.colour(tokens), batch["window_colour"]) + _balanced(
            self.shape(tokens), batch["window_shape"]
        )
        point = (batch["window_point"][there] * 100).clamp(0, 99.9)
        digits = torch.stack([point // 10, point % 10], dim=-1).flatten(1).long()  # x tens, x units, y tens, y units
        return loss + F.cross_entropy(self.digits(tokens[there]).view(-1, 4, 10).flatten(0, 1), digits.flatten())

    def asked_loss(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of what was asked, read where an answer or a coordinate begins; hidden (batch, tokens, width).

        Without it the first layer does not learn to look the question up, and all later ones have nothing to compare
        the objects with: after 1 000 steps any object was as good as another.
        """
        row, token = (batch["asked"][..., 0] >= 0).nonzero(as_tuple=True)
        classes = batch["asked"][row, token]
        losses = [F.cross_entropy(head(hidden[row, token]), classes[:, n]) for n, head in enumerate(self.asked)]
        return torch.stack(losses).mean()

    def written_loss(self, hidden: tuple[Tensor, ...], batch: dict[str, Tensor]) -> Tensor:
        """Squared error of the point that is being written, as phases, in the middle layers.

        The attention of these layers finds the point; this makes them take along where exactly it lies.
        """
        row, token = (~batch["places"][..., 0].isnan()).nonzero(as_tuple=True)
        wanted = phases(batch["places"][row, token])
        losses = [
            F.mse_loss(head(hidden[layer][row, token]), wanted)
            for layer, head in zip(WRITTEN, self.written, strict=True)
        ]
        return torch.stack(losses).mean()

    @staticmethod
    def place_loss(places: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean distance of the places that windows speak of, in hundredths of the frame; places (batch, windows, 2)."""
        there = batch["window_colour"] > 0
        return 100 * (places - batch["window_point"])[there].abs().mean()

    def motion_loss(self, tokens: Tensor, windows: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        """Cross-entropy of the direction and error of the way that objects came; with the share of right directions.

        Args:
            tokens: (batch, windows, width).
            windows: what the temporal module made of the patches, (batch, windows, 4 or more, patch width).
            batch: with `window_motion` and `window_moved`.
        """
        named, known = batch["window_motion"] > 0, ~batch["window_moved"][..., 0].isnan()
        loss, right = tokens.new_zeros(()), float("nan")
        if named.any():
            logits, classes = self.motion(tokens[named]), batch["window_motion"][named]
            loss = F.cross_entropy(logits, classes)
            right = (logits.argmax(-1) == classes).float().mean().item()
        if known.any():
            wanted = 100 * batch["window_moved"][known]
            of_patches = self.patch_moved(windows[known]).mean(1)
            loss = loss + 0.05 * (of_patches - wanted).abs().mean()
            loss = loss + 0.05 * (self.moved(tokens[known]) - wanted).abs().mean()
        return loss, right

    def patch_loss(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The same of patches; features (batch, patches, width)."""
        colour, point = batch["patch_colour"], batch["patch_point"]
        grid = round(colour.shape[1] ** 0.5)
        cells = torch.arange(grid**2, device=point.device)
        centres = torch.stack([cells % grid + 0.5, cells // grid + 0.5], dim=1) / grid
        there = colour > 0
        way = (self.patch_way(features) - 10 * (point - centres))[there].abs().mean()
        outline = F.binary_cross_entropy_with_logits(self.patch_mask(features), batch["patch_mask"].float())
        colour_loss = _balanced(self.patch_colour(features), colour)
        return way + 5 * outline + colour_loss + _balanced(self.patch_shape(features), batch["patch_shape"])


def _balanced(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy in which places with an object and places without one count alike.

    Eight places in ten are background (class 0), and in a plain mean the shapes were hardly learned at all.
    """
    each = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
    return each[classes > 0].mean() + 0.5 * each[classes == 0].mean()


def attention_loss(attentions: tuple[Tensor, ...], batch: dict[str, Tensor], grid: int) -> Tensor:
    """How little the supervised heads look where they should.

    While a coordinate is written: at the windows around its point. At a choice: at the points that it decides on, or,
    when there is nothing to point at, at the very first token (which shows "nothing" to the layers above).
    """
    row, token = (~batch["places"][..., 0].isnan()).nonzero(as_tuple=True)
    shown = batch["window_point"]
    one_point = _around(batch["places"][row, token][:, None], shown[row], grid)
    choice_row, choice_token = batch["choices"].unbind(1)
    rows, tokens = torch.cat([row, choice_row]), torch.cat([token, choice_token])
    wanted = torch.cat([one_point, _around(batch["choice_points"], shown[choice_row], grid)])
    columns = F.pad(batch["image_input_idx"][0, 0], (1, 0))  # the first token, then the windows
    losses = []
    for layer in SUPERVISED[0]:
        looks = attentions[layer][rows, :, tokens][:, SUPERVISED[1]].mean(1)[:, columns]
        loss = -(wanted * (looks + 1e-5).log()).sum(1)
        losses += [loss[len(row) :].mean(), loss[: len(row)].mean() if len(row) else loss.new_zeros(())]
    return torch.stack(losses).mean()


def _around(points: Tensor, shown: Tensor, grid: int) -> Tensor:
    """Where to look, (answers, 1 + windows), for points (answers, most, 2): nowhere (first column) or around them.

    Around means near the point and on windows that show its object (`shown`, the point of each window's object):
    windows of background know nothing of it. Where an object fills no window, near is enough.
    """
    centres = (torch.arange(grid, device=points.device) + 0.5) / grid
    x, y = points.unbind(-1)
    near_x = torch.exp(-0.5 * ((x[..., None] - centres) * grid / SPREAD) ** 2)
    near_y = torch.exp(-0.5 * ((y[..., None] - centres) * grid / SPREAD) ** 2)
    near = (near_y[..., :, None] * near_x[..., None, :]).flatten(2).nan_to_num(0.0)
    its_own = near * ((shown[:, None] - points[:, :, None]).abs().amax(-1) < 1e-4)
    near = torch.where(its_own.sum(-1, keepdim=True) > 1e-4, its_own, near)
    near = (near / near.sum(-1, keepdim=True).clamp(min=1e-6)).sum(1)
    nothing = (near.sum(1, keepdim=True) == 0).float()
    near = near / near.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.cat([nothing, near], dim=1)
