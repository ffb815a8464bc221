"""Time the preprocessing of one frame against the same steps done crop by crop in plain torch.

cd tests && python -m bench.preprocess --width 1920 --height 1080
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from videomolmo.model.config import ImageConfig
from videomolmo.model.image import ImageProcessor, canvas_size, fitted_size, select_tiling


def crop_by_crop(frame: np.ndarray, config: ImageConfig) -> tuple[Tensor, Tensor]:
    """Pixels and patch masks as the specification tells them: resize, pad, normalise, then one crop after another."""
    height, width = frame.shape[:2]
    tiling = select_tiling(height, width, config)
    unit = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(config.mean)[:, None, None], torch.tensor(config.std)[:, None, None]
    crops, masks = [], []
    for target in ((config.size_px, config.size_px), canvas_size(tiling, config)):
        fit_height, fit_width, top, left = fitted_size(height, width, target)
        resized = functional.interpolate(unit[None], (fit_height, fit_width), mode="bilinear", antialias=True)[0]
        canvas, valid = torch.zeros(3, *target), torch.zeros(target)
        canvas[:, top : top + fit_height, left : left + fit_width] = resized.clamp(0, 1)
        valid[top : top + fit_height, left : left + fit_width] = 1
        canvas = (canvas - mean) / std
        step, rows, cols = config.usable * config.patch_px, *target
        for row in range(0, rows - config.size_px + 1, step):
            for col in range(0, cols - config.size_px + 1, step):
                box = (slice(row, row + config.size_px), slice(col, col + config.size_px))
                crops.append(_patches(canvas[:, box[0], box[1]], config.patch_px))
                masks.append(_patches(valid[None, box[0], box[1]], config.patch_px).mean(-1))
    return torch.stack(crops), torch.stack([*masks[1:], -torch.ones_like(masks[0])])


def _patches(crop: Tensor, px: int) -> Tensor:
    """(patches, values) of one crop (channels, height, width)."""
    channels, height, width = crop.shape
    cut = crop.reshape(channels, height // px, px, width // px, px).permute(1, 3, 2, 4, 0)
    return cut.reshape(-1, px * px * channels)


def main() -> None:
    """Print medians in milliseconds and their ratio; both ways must give the same numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = ImageConfig()
    processor = ImageProcessor(config)
    frame = np.random.default_rng(0).integers(0, 256, (options.height, options.width, 3), np.uint8)
    ours, (pixels, masks) = processor(frame), crop_by_crop(frame, config)
    assert torch.allclose(ours.pixels, pixels, atol=2e-6) and torch.equal(ours.masks, masks)
    times: dict[str, list[float]] = {"ours": [], "crop by crop": []}
    for _ in range(options.runs):
        for name, work in (("ours", lambda: processor(frame)), ("crop by crop", lambda: crop_by_crop(frame, config))):
            begun = time.perf_counter()
            work()
            times[name].append(1000 * (time.perf_counter() - begun))
    medians = {name: round(float(np.median(values)), 2) for name, values in times.items()}
    print(json.dumps(medians | {"ratio": round(medians["ours"] / medians["crop by crop"], 3)}))


if __name__ == "__main__":
    main()
