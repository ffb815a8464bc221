"""Image preprocessing against golden data: integers exactly, pixels to 2e-6."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from golden import absolute_error, preprocess_folder, preprocess_images, random_image, read_json, tensors

from videomolmo.errors import BadInput
from videomolmo.model.config import ImageConfig
from videomolmo.model.image import (
    ImageProcessor,
    black_frames_first,
    canvas_size,
    fitted_size,
    select_tiling,
)

FULL = ImageConfig()
VOCAB = 152064


def test_tiling_and_sizes_follow_the_golden_table() -> None:
    rows = read_json(preprocess_folder() / "tiling_table.json")
    assert len(rows) > 100
    for row in rows:
        height, width = row["h"], row["w"]
        tiling = select_tiling(height, width, FULL)
        assert list(tiling) == row["tiling"], row
        for name, target in (("hires", canvas_size(tiling, FULL)), ("lowres", (336, 336))):
            if isinstance(row[name], str):
                with pytest.raises(BadInput, match="aspect ratio"):
                    fitted_size(height, width, target)
            else:
                assert list(fitted_size(height, width, target)) == row[name], row


@pytest.mark.parametrize("entry", preprocess_images())
def test_image_equals_golden(entry: dict) -> None:
    image = random_image(entry)
    assert hashlib.sha256(image.tobytes()).hexdigest() == entry["raw_sha256"]
    golden = tensors(preprocess_folder() / f"{entry['name']}.safetensors")
    crops = ImageProcessor(FULL)(image)
    assert list(select_tiling(*image.shape[:2], FULL)) == entry["tiling_rows_cols"]
    assert torch.equal((crops.token_kinds + VOCAB).int(), golden["token_ids"])
    assert torch.equal(crops.input_idx.int(), golden["image_input_idx_local"])
    assert torch.equal(crops.masks, golden["image_masks"])
    crop, patch, place = golden["sample_index"].unbind(1)
    assert absolute_error(crops.pixels[crop, patch, place], golden["sample_value"]) <= 2e-6
    channels = crops.pixels.unflatten(2, (196, 3)).mean(2)
    assert absolute_error(channels, golden["patch_channel_mean_f16"].float()) <= 2e-3
    flat = crops.pixels.double().flatten(1)
    assert absolute_error(flat.mean(1), golden["crop_mean_f32"]) <= 2e-6
    assert absolute_error(flat.std(1, correction=0), golden["crop_std_f32"]) <= 2e-6


@pytest.mark.parametrize("entry", preprocess_images())
def test_black_frame_equals_golden(entry: dict) -> None:
    golden = tensors(preprocess_folder() / f"{entry['name']}.safetensors")
    black = ImageProcessor(FULL).pixels_only(np.zeros((1, entry["height"], entry["width"], 3), np.uint8))
    wanted = golden["black_frame_unique_values"].sort().values
    assert absolute_error(black.unique(), wanted) <= 2e-6


def test_thin_frame_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="1x360 pixels shrinks to 0x"):
        ImageProcessor(FULL)(np.zeros((360, 1, 3), np.uint8))


@pytest.mark.parametrize("frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_rgb_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises((BadInput, TypeError)):
        ImageProcessor(FULL)(frame)


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
    assert absolute_error(rgb, rgb[:1].expand_as(rgb)) <= 2e-6


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
