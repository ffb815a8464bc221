"""Time the full-size model with random weights on a real clip, part by part, against what the machine can do.

    cd tests && python -m bench.full --video clip.mp4 --quantize 4bit --out results/full.json

Weights are random, so the answers mean nothing; the work is that of the published model. Decoding cannot be faster
than reading all weights once a token, prefill not faster than its multiplications: both limits are measured beside it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType

import numpy as np
import torch

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.files import write_json
from videomolmo.io.video import open_video
from videomolmo.masks.sam2 import MaskTracker, build_published
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.weights.checkpoint import dtype_of
from videomolmo.weights.quantize import bits, weight_bytes

SIZES = {"molmo_7b": VideoMolmoConfig.molmo_7b, "nano": VideoMolmoConfig.nano}
NEW_TOKENS = 48


class Letters:
    """Stands in for the tokenizer, which is not at hand: one id for a letter."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of the letters."""
        return [1 + ord(letter) % 200 for letter in text]

    def decode(self, token_ids: list[int]) -> str:
        """Nothing: the answers of random weights mean nothing."""
        return ""


class Noise:
    """A weight that is drawn when it is asked for, as transformers asks for those of a file."""

    def __init__(self, shape: torch.Size, device: str, dtype: torch.dtype) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype

    def __getitem__(self, everything: EllipsisType) -> torch.Tensor:
        return torch.randn(self.shape, device=self.device, dtype=self.dtype) * 0.02


def random_model(
    config: VideoMolmoConfig, device: str, dtype: torch.dtype, quantize: str | None
) -> VideoMolmoForConditionalGeneration:
    """A model of this size with random weights, made where it will live (seed 0)."""
    model = VideoMolmoForConditionalGeneration.empty(config)
    torch.manual_seed(0)
    weights = {name: Noise(value.shape, device, dtype) for name, value in model.state_dict().items()}
    places, settings = None if device == "cpu" else {"": device}, bits(quantize, dtype)
    return model.with_weights(weights, dtype, device_map=places, quantization_config=settings)


def seconds(work: Callable[[], object], device: str, runs: int = 5) -> float:
    """Median wall time of `work` after one run to warm up."""
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return float(np.median(times[1:]))


def machine_rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Bytes copied and multiply-adds done a second, in large plain operations."""
    size = 4096 if device != "cpu" else 512
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    block = torch.zeros((1 << 30) if device != "cpu" else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    copied = seconds(lambda: target.copy_(block), device)
    return {
        "copy_gb_s": 2 * block.numel() / copied / 1e9,
        "matmul_tflop_s": 2 * size**3 / seconds(lambda: matrix @ matrix, device) / 1e12,
    }


@torch.inference_mode()
def pointing_times(
    model: VideoMolmoForConditionalGeneration, frames: np.ndarray, device: str, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds of one key frame: vision of one frame, connector with its past, prefill, and each new token."""
    config = model.config
    processor = VideoMolmoProcessor(Letters(), config)
    begun = time.perf_counter()
    pixels = processor.image.pixels_only(frames).to(device, dtype)
    preprocess = (time.perf_counter() - begun) / len(frames)
    features = [model.encode_frames(frame[None]) for frame in pixels]
    masks = processor.image(frames[-1]).masks[None].to(device)
    past = torch.stack(features[:-1], dim=1) if config.needs_past else None
    tokens = model.image_tokens(features[-1], past, masks)
    batch = collate([processor.tokens(frames.shape[1:3], [["Point to the red circle."]])])
    ids, places = batch["input_ids"].to(device), batch["image_input_idx"].to(device)

    def write(count: int) -> None:
        model.generate(ids, image_input_idx=places, image_tokens=tokens, max_new_tokens=count)

    first, many = seconds(lambda: write(1), device), seconds(lambda: write(1 + NEW_TOKENS), device)
    return {
        "tokens": ids.shape[1], "preprocess_s": preprocess,
        "vision_s": seconds(lambda: model.encode_frames(pixels[-1:]), device),
        "connector_s": seconds(lambda: model.image_tokens(features[-1], past, masks), device),
        "prefill_s": first, "decode_s_token": (many - first) / NEW_TOKENS,
    }  # fmt: skip


@torch.inference_mode()
def mask_times(name: str, frames: np.ndarray, device: str) -> dict[str, float]:
    """Seconds a frame of SAM 2: image features, and following one object."""
    tracker = MaskTracker(build_published(name).to(device).eval())
    click = [np.array([[frames.shape[2] / 2, frames.shape[1] / 2]], np.float32)]
    encoded = [tracker.encode(frame) for frame in frames]
    track = tracker.start(0, encoded[0], click, frames=len(frames))
    begun = time.perf_counter()
    for at in range(1, len(frames)):
        track.step(at, encoded[at])
    if device != "cpu":
        torch.cuda.synchronize()
    step = (time.perf_counter() - begun) / (len(frames) - 1)
    return {"features_s": seconds(lambda: tracker.encode(frames[0]), device, runs=3), "object_s": step}


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True, type=Path)
    parser.add_argument("--size", choices=SIZES, default="molmo_7b")
    parser.add_argument("--masks", default="facebook/sam2.1-hiera-large")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantize", default=None)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    if options.out.exists():
        raise BadInput(f"{options.out} exists; give another name")
    device, dtype = options.device, dtype_of(options.dtype)
    with open_video(options.video, max_frames=6) as video:
        frames = np.stack(list(video.iterate()))[-5:]
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    model = random_model(SIZES[options.size](), device, dtype, options.quantize)
    result = {
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu", "weights": "random",
        "settings": {name: str(value) for name, value in vars(options).items()},
        "weights_gb": weight_bytes(model) / 1e9,
        "machine": machine_rates(device, dtype), "pointing": pointing_times(model, frames, device, dtype),
    }  # fmt: skip
    language = weight_bytes(model.language) + (weight_bytes(model.head) if model.head else 0)
    embeddings = model.language.embed_tokens.weight
    language -= embeddings.numel() * embeddings.element_size() if model.head else 0
    numbers = sum(p.numel() for p in model.language.layers.parameters()) if options.quantize is None else None
    result["limits"] = {"decode_s_token": language / result["machine"]["copy_gb_s"] / 1e9}
    if numbers:
        work = 2 * numbers * result["pointing"]["tokens"]
        result["limits"]["prefill_s"] = work / result["machine"]["matmul_tflop_s"] / 1e12
    if device != "cpu":
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    result["masks"] = mask_times(options.masks, frames, device)
    result |= {"versions": provenance.versions(), "commit": provenance.commit()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
