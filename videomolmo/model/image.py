"""Frames become crops of flattened patches, and a layout that says which token each pooled window feeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from videomolmo.errors import BadInput
from videomolmo.model.config import ImageConfig

IM_START, IM_END, IM_PATCH, IM_COL = range(4)  # kinds of image tokens, in the order of their ids
UNUSED = -100  # index of a window that feeds no token


@dataclass(frozen=True)
class Layout:
    """The image tokens of a frame size: kind of each token, and for each window its token (or `UNUSED`)."""

    tiling: tuple[int, int]
    token_kinds: Int[Tensor, " tokens"]
    input_idx: Int[Tensor, "crops windows"]


@dataclass(frozen=True)
class Crops:
    """One preprocessed frame: pixels, share of real image in each patch, and the token layout (without BOS)."""

    pixels: Float[Tensor, "crops patches pixel"]
    masks: Float[Tensor, "crops patches"]
    token_kinds: Int[Tensor, " tokens"]
    input_idx: Int[Tensor, "crops windows"]


def select_tiling(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """Rows and columns of high-resolution crops for a frame size; (0, 0) where the config allows none.

    The least upscaling that fills the crops wins; where every tiling would shrink the frame, the least shrinking.

    Source: published model. A side shorter than the margins always ends at one crop, as published.
    """
    if config.max_crops == 0:
        return 0, 0
    count = config.max_crops + 1
    tilings = [(rows, cols) for rows in range(1, count) for cols in range(1, count) if rows * cols < count]
    tilings = np.array(sorted(tilings, key=lambda tiling: (tiling[0] * tiling[1], tiling[0])))
    margin_px = sum(config.margins) * config.patch_px
    inner = np.array([height - margin_px, width - margin_px], np.float32)
    with np.errstate(divide="ignore"):
        scale = ((tilings * config.usable * config.patch_px).astype(np.float32) / inner).min(axis=1)
    best = scale.argmax() if (scale < 1).all() else np.where(scale < 1, 1e10, scale).argmin()
    return int(tilings[best, 0]), int(tilings[best, 1])


def canvas_size(tiling: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """Height and width in pixels of the canvas that the high-resolution crops are cut from."""
    rows, cols = ((count * config.usable + sum(config.margins)) * config.patch_px for count in tiling)
    return rows, cols


def fitted_size(height: int, width: int, target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Size of a frame fitted into `target` with its aspect kept, and the rows above and columns left of it.

    Source: published model: the scale is a float32 and sizes are truncated, so 1920x1080 may give 1007, not 1008.

    Raises:
        BadInput: the frame is so thin that one side vanishes.
    """
    scale = min(np.float32(target[0]) / np.float32(height), np.float32(target[1]) / np.float32(width))
    fit_height, fit_width = int(np.float32(height) * scale), int(np.float32(width) * scale)
    if min(fit_height, fit_width) < 1:
        raise BadInput(
            f"a frame of {width}x{height} pixels shrinks to {fit_width}x{fit_height}, expected at least 1x1; "
            "crop or pad it to a less extreme aspect ratio"
        )
    return fit_height, fit_width, (target[0] - fit_height) // 2, (target[1] - fit_width) // 2


class ImageProcessor:
    """Turn uint8 RGB frames into what the vision tower reads.

    Source: published model, image preprocessing (overlapping crops, normalised after padding).
    Differs: `resize="stretch"` and `max_crops=0` (the overview crop alone) are ours, for the nano model.
    """

    def __init__(self, config: ImageConfig) -> None:
        self.config = config

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]) -> Crops:
        """Crops, patch masks and token layout of one frame."""
        frames = self._checked(frame, dims=3)[None]
        layout = self.layout(*frames.shape[1:3])
        kept = (_shares(*frames.shape[1:3], self.config), layout.token_kinds, layout.input_idx)
        return Crops(self._crops(frames)[0], *(tensor.clone() for tensor in kept))  # whose caller may write to them

    def pixels_only(
        self, frames: UInt8[np.ndarray, "frames height width 3"] | UInt8[Tensor, "frames height width 3"]
    ) -> Float[Tensor, "frames crops patches pixel"]:
        """Crops of many frames of one size at once, without layout: for past frames and for training."""
        return self._crops(self._checked(frames, dims=4))

    def layout(self, height: int, width: int) -> Layout:
        """The image tokens of a frame size: overview crop first, then the high-resolution canvas."""
        tiling = select_tiling(height, width, self.config)
        return _layout(tiling, self.config)

    def _checked(self, frames: np.ndarray | Tensor, dims: int) -> UInt8[Tensor, "... 3"]:
        """The frames as a tensor; anything but uint8 RGB raises BadInput."""
        if not isinstance(frames, np.ndarray | Tensor):
            raise BadInput(f"frame is a {type(frames).__name__}, expected an array; np.asarray(image) makes one")
        shape, dtype = tuple(frames.shape), str(frames.dtype).removeprefix("torch.")
        if len(shape) != dims or shape[-1] != 3 or dtype != "uint8" or min(shape) < 1:
            expected = "(height, width, 3)" if dims == 3 else "(frames, height, width, 3)"
            raise BadInput(f"frame array is {dtype} {shape}, expected uint8 {expected}; convert to RGB uint8")
        return frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(frames))

    def _crops(self, frames: UInt8[Tensor, "frames height width 3"]) -> Float[Tensor, "frames crops patches pixel"]:
        """Overview crop, then the high-resolution crops in reading order."""
        config = self.config
        unit = rearrange(frames, "frames height width rgb -> frames rgb height width").float() / 255
        rows, cols = tiling = select_tiling(*frames.shape[1:3], config)
        crops = unit.new_empty(len(frames), 1 + rows * cols, config.patches, config.patch_values)
        _patches(self._fit(unit, (config.size_px, config.size_px)), config, crops[:, :1])
        if tiling != (0, 0):
            _patches(self._fit(unit, canvas_size(tiling, config)), config, crops[:, 1:])
        return crops

    def _fit(
        self, unit: Float[Tensor, "frames rgb height width"], target: tuple[int, int]
    ) -> Float[Tensor, "frames rgb target_height target_width"]:
        """Resize into `target`, pad with black where the aspect is kept, then normalise."""
        top = left = 0
        size = target
        if self.config.resize == "pad":
            *size, top, left = fitted_size(*unit.shape[-2:], target)
        if tuple(size) != tuple(unit.shape[-2:]):
            unit = functional.interpolate(unit, tuple(size), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (unit.new_tensor(values) for values in (self.config.mean, self.config.std))
        canvas = (-mean / std).expand(len(unit), *target, 3).contiguous()  # colours last: whole pixels are copied
        inside = canvas[:, top : top + size[0], left : left + size[1]]
        inside.copy_(rearrange(unit, "frames rgb height width -> frames height width rgb")).clamp_(0, 1)
        inside.sub_(mean).div_(std)
        return rearrange(canvas, "frames height width rgb -> frames rgb height width")


@lru_cache(maxsize=64)
def _shares(height: int, width: int, config: ImageConfig) -> Float[Tensor, "crops patches"]:
    """Share of each patch that is image and not padding, the same for all frames of a size; never written to.

    Source: published model. Row k belongs to crop k + 1 and the last row is -1: the overview crop comes first but
    its row last. Molmo was trained with this, so it stays.
    Differs: with the overview crop alone, its own shares are given.
    """
    tiling = select_tiling(height, width, config)
    target = canvas_size(tiling, config) if tiling != (0, 0) else (config.size_px, config.size_px)
    valid = torch.ones(target)
    if config.resize == "pad":
        fit_height, fit_width, top, left = fitted_size(height, width, target)
        valid = torch.zeros(target)
        valid[top : top + fit_height, left : left + fit_width] = 1
    patches = torch.empty(1, max(1, tiling[0] * tiling[1]), config.patches, config.patch_px**2)
    _patches(valid[None, None], config, patches)
    shares = patches[0].mean(-1)
    if tiling == (0, 0):
        return shares
    return torch.cat([shares, -torch.ones(1, config.patches)])


def _patches(
    canvas: Float[Tensor, "frames channels height width"],
    config: ImageConfig,
    out: Float[Tensor, "frames crops patches pixel"],
) -> None:
    """Cut a canvas into overlapping crops, each crop into flattened patches (row, column, channel), copied once."""
    step = config.usable * config.patch_px if config.max_crops else config.size_px
    px, grid = config.patch_px, config.grid
    crops = canvas.unfold(2, config.size_px, step).unfold(3, config.size_px, step)
    pieces = rearrange(
        crops,
        "frames channels rows cols (grid_rows patch_rows) (grid_cols patch_cols) "
        "-> frames rows cols grid_rows grid_cols patch_rows patch_cols channels",
        patch_rows=px,
        patch_cols=px,
    )
    for row, pieces_of_row in enumerate(pieces.unbind(1)):  # a view of `out` that is cut like them
        first = row * pieces.shape[2]
        part = out[:, first : first + pieces.shape[2]]
        part.unflatten(3, (px, px, -1)).unflatten(2, (grid, grid)).copy_(pieces_of_row)


@lru_cache(maxsize=256)
def _layout(tiling: tuple[int, int], config: ImageConfig) -> Layout:
    """Token kinds and window indices of a tiling. Source: published model, token layout."""
    side = config.window_grid
    overview = torch.arange(side)[:, None] * (side + 1) + torch.arange(side) + 1  # +1: the <im_start> token
    kinds, indices = [_block(side, side)], [overview.reshape(1, -1)]
    if tiling != (0, 0):
        cells = [count * config.usable // 2 + sum(config.margins) // 2 for count in tiling]
        index = _high_res_index(tiling, cells[1], config)
        indices.append(torch.where(index >= 0, index + len(kinds[0]) + 1, UNUSED))
        kinds.append(_block(*cells))
    return Layout(tiling, torch.cat(kinds), torch.cat(indices))


def _block(rows: int, cols: int) -> Int[Tensor, " tokens"]:
    """Tokens of one grid of windows: start, rows of patches each closed by a column token, end."""
    line = torch.tensor([IM_PATCH] * cols + [IM_COL])
    return torch.cat([torch.tensor([IM_START]), line.repeat(rows), torch.tensor([IM_END])])


def _high_res_index(tiling: tuple[int, int], cols: int, config: ImageConfig) -> Int[Tensor, "crops windows"]:
    """For each window of each high-resolution crop its place among the canvas' tokens, -1 where a margin hides it."""
    (down, used_rows), (right, used_cols) = (_places(count, config) for count in tiling)
    index = down[:, None, :, None] * (cols + 1) + right[None, :, None, :]  # rows cols window_rows window_cols
    used = used_rows[:, None, :, None] & used_cols[None, :, None, :]
    index = torch.where(used, index, -1)
    return rearrange(index, "rows cols window_rows window_cols -> (rows cols) (window_rows window_cols)")


def _places(count: int, config: ImageConfig) -> tuple[Tensor, Tensor]:
    """Along one axis: window positions (crops, windows) on the canvas, and whether that crop supplies them."""
    crop, window = torch.arange(count)[:, None], torch.arange(config.window_grid)[None]
    before, after = config.margins[0] // 2, config.window_grid - config.margins[1] // 2
    used = ((window >= before) | (crop == 0)) & ((window < after) | (crop == count - 1))
    return crop * (config.usable // 2) + window, used


def black_frames_first(
    past: UInt8[np.ndarray, "given height width 3"], context: int
) -> UInt8[np.ndarray, "past height width 3"]:
    """The last `context` of the past frames, oldest first, with black frames in front where too few exist.

    Source: published inference code: frames before the start of the video are black and take part in the mean.
    """
    past = past[-context:] if context else past[:0]
    missing = context - len(past)
    return np.concatenate([np.zeros((missing, *past.shape[1:]), np.uint8), past]) if missing else past
