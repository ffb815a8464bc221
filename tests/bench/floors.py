"""The least time that each stage of grounding could take, beside what it takes, as the table of data/floors.md.

    cd tests && OMP_NUM_THREADS=1 python -m bench.floors --video ../data/sample/clip.mp4

Operations are counted on tensors without data; bytes are those of the weights, once for all that go through them
together, and of what goes in and comes out. A floor is operations over the rate of a large matrix product, or bytes
over that of a large copy, whichever takes longer; both rates are measured here on the CPU, and taken from a data sheet
for the GPU. Measured: one run of nano, processor time, one thread.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import full as full_size
from videomolmo.grounding import VideoGrounder
from videomolmo.io import timing
from videomolmo.io.timing import Profile, Stage
from videomolmo.io.video import open_video
from videomolmo.masks.configuration import Unfilled
from videomolmo.masks.sam2 import build_nano, build_published
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration
from videomolmo.model.image import ImageProcessor
from videomolmo.weights.hub import nano_masks, nano_pointing

GPU = {"name": "H200, by its data sheet", "tflop_s": 989.0, "gb_s": 4800.0}  # bfloat16, dense
QUESTION, MEMORIES = 20, 3  # tokens of a question; frames that SAM 2 remembers, the mean in windows of five
TOGETHER = 8  # frames, prompts or objects that go through a stage together


class Cost(NamedTuple):
    """Operations of one frame, prompt, token or object, bytes of activations, and bytes of the weights of the stage."""

    unit: str
    flop: float
    moved: float
    weights: float

    def floor_s(self, tflop_s: float, gb_s: float, together: int) -> float:
        """Seconds of one unit at least, of so many together."""
        return max(self.flop / tflop_s / 1e12, (self.moved + self.weights / together) / gb_s / 1e9)


def sizes(values: Any) -> int:
    """Numbers in all tensors of nested lists and dictionaries."""
    if isinstance(values, torch.Tensor):
        return values.numel()
    if isinstance(values, dict):
        values = list(values.values())
    return sum(map(sizes, values)) if isinstance(values, (list, tuple)) else 0


def cost(unit: str, size: int, modules: list, work: Callable, *inputs: Any, **more: Any) -> Cost:
    """Of one call of `work`, with numbers of `size` bytes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = work(*inputs, **more)
    weights = sum(p.numel() for module in modules for p in module.parameters())
    return Cost(unit, counter.get_total_flops(), size * (sizes([inputs, more]) + sizes(out)), size * weights)


def pointing_costs(config: VideoMolmoConfig, height: int, width: int, size: int) -> dict[str, Cost]:
    """Of the pointing model, for a frame of this size."""
    model = VideoMolmoForConditionalGeneration.empty(replace(config, image_padding_embed=None)).eval()
    model.requires_grad_(False)
    layout, part = ImageProcessor(config.image).layout(height, width), config.language
    crops, tokens = len(layout.input_idx), 1 + len(layout.token_kinds) + QUESTION
    pixels = torch.empty(1, crops, config.image.patches, config.image.patch_values, device="meta")
    features = torch.empty(1, crops, config.image.patches, config.vision.feature_dim, device="meta")
    past = torch.empty(1, config.context, *features.shape[1:], device="meta")
    words = torch.empty(1, tokens, part.width, device="meta")
    language, vision = model.language, model.vision
    vision.blocks = vision.blocks[: max(config.vision.selected) + 1]  # the others are never computed
    prompt = cost(
        "prompt", size, [language.layers], lambda inputs: language(inputs_embeds=inputs).last_hidden_state, words
    )
    head = part.vocab_size * part.width
    layers = sum(p.numel() for p in language.layers.parameters())
    cache = 2 * part.layers * part.kv_heads * (part.width // part.heads) * tokens
    attention = 4 * part.layers * part.width * tokens
    return {
        "vision/tower": cost("frame", size, [vision], model.encode_frames, pixels),
        "vision/temporal module, connector": cost(
            "key frame", size, [model.temporal, model.connector], model.image_tokens, features, past
        ),
        "text/prompt": prompt,
        "text/tokens written": Cost("token", 2 * (layers + head) + attention, size * cache, size * (layers + head)),
    }


def mask_costs(model: torch.nn.Module, size: int) -> dict[str, Cost]:
    """Of SAM 2, for one frame, and for one object on one frame."""
    empty = lambda *shape: torch.empty(*shape, device="meta")  # noqa: E731
    encoded = model.forward_image(empty(1, 3, model.image_size, model.image_size))
    _, features, positions, levels = model._prepare_backbone_features(encoded)
    rows, columns = levels[-1]
    pointers = model.max_obj_ptrs_in_encoder * (model.hidden_dim // model.mem_dim)
    memory = empty(MEMORIES * rows * columns + pointers, 1, model.mem_dim)
    fine = [level.permute(1, 2, 0).unflatten(2, shape) for level, shape in zip(features[:-1], levels[:-1], strict=True)]
    coarse, picture = empty(1, model.hidden_dim, rows, columns), empty(1, 1, model.image_size, model.image_size)
    attention = {"curr": features[-1:], "curr_pos": positions[-1:], "memory": memory, "memory_pos": memory,
                 "num_obj_ptr_tokens": pointers}  # fmt: skip
    remembered = features, levels, picture, empty(1, 1), True
    heads = [model.sam_mask_decoder, model.sam_prompt_encoder, model.obj_ptr_proj]
    return {
        "masks/encoder": cost("frame", size, [model.image_encoder], model.forward_image, picture.expand(-1, 3, -1, -1)),
        "masks/memory attention": cost("object", size, [model.memory_attention], model.memory_attention, **attention),
        "masks/decoder": cost("object", size, heads, model._forward_sam_heads, coarse, high_res_features=fine),
        "masks/memory encoder": cost("object", size, [model.memory_encoder], model._encode_new_memory, *remembered),
    }  # fmt: skip


def measured(video: Path, sentence: str) -> dict[str, float]:
    """Seconds of one unit of each stage in a run of nano; and of all that goes with a frame."""
    grounder, rows = VideoGrounder.from_pretrained("nano", "nano", "cpu"), Counter()
    units = {
        "encode_frames": lambda pixels: len(pixels), "image_tokens": lambda seen, *_: len(seen),
        "forward": lambda inputs_embeds, **_: len(inputs_embeds), "forward_image": lambda pixels: len(pixels),
        "_prepare_memory_conditioned_features": lambda is_init_cond_frame, current_vision_feats, **_: (
            0 if is_init_cond_frame else current_vision_feats[-1].shape[1]
        ),
        "_forward_sam_heads": lambda backbone_features, **_: len(backbone_features),
        "_encode_new_memory": lambda current_vision_feats, **_: current_vision_feats[-1].shape[1],
    }  # fmt: skip

    def counted(stage: Stage) -> Stage:
        def part(*inputs: Any, **more: Any) -> str:
            name = stage.part(*inputs, **more) if callable(stage.part) else stage.part
            rows[name] += units.get(stage.method, lambda *_, **__: 0)(*inputs, **more)
            return name

        return stage._replace(part=part)

    stages = [counted(stage) for stage in (*grounder.pointer.stages(), *grounder.tracker.stages())]
    for _ in range(2):
        rows.clear()
        grounder.clock = Profile()
        with grounder.clock.timing(stages), open_video(video) as frames:
            result = grounder(frames, sentence)
    seconds = result.config["seconds"]
    told = {part: taken / rows[part] for part, taken in grounder.clock.stages().items() if rows[part]}
    others = {part: taken / result.frames for part, taken in grounder.clock.stages().items() if part not in told}
    print(f"{result.frames} frames {result.width}×{result.height}, {result.objects} objects: {seconds}; {dict(rows)}")
    return told | others


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--sentence", default="the red circle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timing.time = full_size.time = SimpleNamespace(perf_counter=time.process_time)
    with open_video(options.video) as frames:
        size = frames.height, frames.width
    nano_config = VideoMolmoConfig.from_json(nano_pointing() / "config.json")
    with Unfilled():
        small, large = build_nano(nano_masks()), build_published("facebook/sam2.1-hiera-large")
    small, large = (model.eval().requires_grad_(False).to("meta") for model in (small, large))
    nano = pointing_costs(nano_config, *size, size=4) | mask_costs(small, 4)
    full = pointing_costs(VideoMolmoConfig.molmo_7b(), 720, 1280, size=2) | mask_costs(large, 2)
    rates = full_size.machine_rates("cpu", torch.float32)
    print({name: round(value, 3) for name, value in rates.items()}, GPU)
    taken = measured(options.video, options.sentence)
    print("| stage | of one | MFLOP | MB: weights + rest | floor, ms | measured, ms | ÷ floor ", end="")
    print("| full size: GFLOP | MB | floor on the GPU, ms |\n|" + "---|" * 10)
    for name, one in nano.items():
        least = 1e3 * one.floor_s(rates["matmul_tflop_s"], rates["copy_gb_s"], TOGETHER)
        ours, other = 1e3 * taken.get(name, float("nan")), full[name]
        gpu = 1e3 * other.floor_s(GPU["tflop_s"], GPU["gb_s"], TOGETHER)
        moved, moved_there = (f"{each.weights / 1e6:.4g} + {each.moved / 1e6:.3g}" for each in (one, other))
        print(f"| {name} | {one.unit} | {one.flop / 1e6:.3g} | {moved} | {least:.3g} | {ours:.3g} ", end="")
        print(f"| {ours / least:.2g} | {other.flop / 1e9:.4g} | {moved_there} | {gpu:.3g} |")
    for name, seconds in taken.items():
        if name not in nano:
            print(f"| {name} | frame | | | | {1e3 * seconds:.3g} | | | | |")


if __name__ == "__main__":
    main()
