"""Image preprocessing: layouts, black frames, and what is refused; against golden data in test_model_golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videomolmo.errors import BadInput
from videomolmo.model.config import ImageConfig
from videomolmo.model.image import (
    ImageProcessor,
    black_frames_first,
)

FULL = ImageConfig()
VOCAB = 152064


def test_thin_frame_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="1x360 pixels shrinks to 0x"):
        ImageProcessor(FULL)(np.zeros((360, 1, 3), np.uint8))


@pytest.mark.parametrize("frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_rgb_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises((BadInput, TypeError)):
        ImageProcessor(FULL)(frame)


def test_what_the_processor_gives_is_the_callers_own() -> None:
    frame, processor = np.zeros((40, 90, 3), np.uint8), ImageProcessor(FULL)
    with torch.inference_mode():
        processor(frame)
    first = processor(frame)
    for tensor in vars(first).values():
        tensor.mul_(0)
    again = processor(frame)
    assert (again.masks != first.masks).any() and (again.input_idx != first.input_idx).any()
    with pytest.raises(BadInput, match="frame is a list"):
        processor([[1]])


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_many_frames_at_once_equal_one_by_one(resize: str) -> None:
    processor = ImageProcessor(ImageConfig(size_px=56, patch_px=14, margins=(0, 2), max_crops=4, resize=resize))
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 90, 3), dtype=np.uint8)
    together = processor.pixels_only(frames)
    assert torch.equal(together, torch.stack([processor(frame).pixels for frame in frames]))


def test_stretch_fills_the_square() -> None:
    processor = ImageProcessor(ImageConfig(size_px=96, patch_px=8, max_crops=0, resize="stretch"))
    crops = processor(np.full((30, 200, 3), 255, np.uint8))
    assert crops.pixels.shape == (1, 144, 192)
    assert (crops.masks == 1).all()
    rgb = crops.pixels.reshape(-1, 3)
    assert torch.allclose(rgb, rgb[:1].expand_as(rgb), rtol=0, atol=2e-6)


def test_overview_only_layout() -> None:
    layout = ImageProcessor(ImageConfig(size_px=16, patch_px=4, max_crops=0)).layout(9, 9)
    assert layout.token_kinds.tolist() == [0, 2, 2, 3, 2, 2, 3, 1]
    assert layout.input_idx.tolist() == [[1, 2, 4, 5]]


def test_every_patch_token_is_fed_once() -> None:
    for height, width in [(97, 1300), (640, 360), (336, 336), (2000, 1500)]:
        layout = ImageProcessor(FULL).layout(height, width)
        fed = layout.input_idx[layout.input_idx >= 0]
        assert torch.equal(fed.sort().values, (layout.token_kinds == 2).nonzero()[:, 0])


def test_black_frames_come_first() -> None:
    past = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (1, 2)])
    assert black_frames_first(past, 4)[:, 0, 0, 0].tolist() == [0, 0, 1, 2]
    assert black_frames_first(past, 1)[:, 0, 0, 0].tolist() == [2]
    assert black_frames_first(past, 0).shape == (0, 2, 2, 3)
