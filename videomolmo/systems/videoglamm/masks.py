"""SAM 2 prompted by vectors of a language model: frame by frame, or on the first frame and followed from there.

The classes are those of the `sam2` package as they are; a vector stands where the embedding of a click would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from videomolmo.masks.configuration import instantiate, read_yaml
from videomolmo.masks.sam2 import FrameFeatures, MaskTracker, build_nano, published_names
from videomolmo.systems.videoglamm.config import MaskConfig
from videomolmo.weights.hub import nano_masks

LARGE = "facebook/sam2-hiera-large"
AT_ONCE = 4  # frames that go through the image encoder together
AS_PREDICTED = {  # what the package's video predictor adds to a configuration
    "binarize_mask_from_pts_for_mem_enc": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}


def build_sam2(config: MaskConfig) -> nn.Module:
    """An untrained SAM 2.0 of any size: the published Hiera-L as its video predictor runs it, with other numbers.

    Differs: no holes are filled, as in the released code, whose step for it is skipped. Nano's has one mask, not three
    to choose from, and SAM 2.1's extra parameters.
    """
    if config.kind == "nano":
        return build_nano(nano_masks(), config.size_px)
    values = read_yaml(Path(str(files("sam2").joinpath(published_names()[LARGE][0]))))["model"]
    trunk, neck = values["image_encoder"]["trunk"], values["image_encoder"]["neck"]
    trunk |= {
        "embed_dim": config.trunk_width, "num_heads": config.trunk_heads, "stages": config.stages,
        "global_att_blocks": config.global_blocks, "window_spec": config.windows,
        "window_pos_embed_bkg_spatial_size": config.background,
    }  # fmt: skip
    neck |= {"d_model": config.width, "backbone_channel_list": [config.trunk_width * part for part in (8, 4, 2, 1)]}
    neck["position_encoding"]["num_pos_feats"] = config.width
    attention, memory = values["memory_attention"], values["memory_encoder"]
    attention |= {"d_model": config.width, "num_layers": config.layers}
    attention["layer"] |= {"d_model": config.width, "dim_feedforward": config.ff}
    for part in ("self_attention", "cross_attention"):
        attention["layer"][part] |= {"embedding_dim": config.width, "feat_sizes": [config.grid, config.grid]}
    attention["layer"]["cross_attention"]["kv_in_dim"] = config.memory_width
    memory |= {"in_dim": config.width, "out_dim": config.memory_width}
    memory["position_encoding"]["num_pos_feats"] = config.memory_width
    memory["mask_downsampler"]["embed_dim"] = memory["fuser"]["layer"]["dim"] = config.width
    return instantiate(values | {"image_size": config.size_px, "num_maskmem": config.memories} | AS_PREDICTED)


@torch.no_grad()
def image_maps(sam2: nn.Module, pixels: Float[Tensor, "frames 3 size size"]) -> list[Tensor]:
    """Feature maps of frames, finest first, each (frames, channels, rows, columns), as the mask decoder wants them.

    All of it is frozen, the decoder's own two convolutions on the finer maps included.
    """
    fine, middle, coarse = sam2.forward_image(pixels)["backbone_fpn"]
    return [fine, middle, coarse + sam2.no_mem_embed.reshape(1, -1, 1, 1)]


def decode(
    sam2: nn.Module,
    vectors: Float[Tensor, "objects width"],
    maps: list[Tensor],
    at: int,
    real: Bool[Tensor, " objects"] | None = None,
) -> tuple[Float[Tensor, "objects rows columns"], Float[Tensor, " objects"]]:
    """Mask logits, a quarter of SAM 2's picture wide, and predicted IoU of every object on one frame.

    In training mode it is the mask of the decoder's single-mask token. In evaluation mode an unstable one (its area
    changes by more than 2 % between logits of -0.05 and 0.05) gives way to the best of the three others.

    Args:
        vectors: prompts.
        maps: from `image_maps`.
        at: frame in `maps`.
        real: False for padding, which gets no embedding of "no mask given" either; None for all real.
    """
    fine, middle, coarse = (level[at : at + 1] for level in maps)
    nothing = sam2.sam_prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    dense = nothing.expand(len(vectors), -1, *coarse.shape[-2:])
    if real is not None:
        dense = dense * real.to(dense.dtype)[:, None, None, None]
    masks, quality, _, _ = sam2.sam_mask_decoder(
        image_embeddings=coarse,
        image_pe=sam2.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=vectors[:, None].to(coarse.dtype),
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=True,
        high_res_features=[fine, middle],
    )
    return masks[:, 0], quality[:, 0]


def decode_all(
    sam2: nn.Module,
    pixels: Float[Tensor, "frames 3 size size"],
    vectors: Float[Tensor, "objects width"],
    real: Bool[Tensor, " objects"] | None = None,
) -> Float[Tensor, "objects frames rows columns"]:
    """As `decode`, on every frame by itself; no memory passes from one to the next."""
    if not len(vectors):
        side = 4 * sam2.sam_image_embedding_size
        return pixels.new_zeros(0, len(pixels), side, side)
    found = []
    for part in pixels.split(AT_ONCE):
        maps = image_maps(sam2, part)
        found += [decode(sam2, vectors, maps, at, real)[0] for at in range(len(part))]
    return torch.stack(found, dim=1)


def to_size(
    logits: Float[Tensor, "objects frames rows columns"], size: tuple[int, int]
) -> Float[Tensor, "objects frames height width"]:
    """Mask logits in float32 at a frame's own height and width."""
    return functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def follow(
    sam2: nn.Module,
    vectors: Float[Tensor, "objects width"],
    pictures: Iterator[Float[Tensor, "1 3 size size"]],
    frames: int,
    size: tuple[int, int],
) -> Iterator[Bool[Tensor, "objects height width"]]:
    """Masks frame by frame: prompted on the first one, followed by SAM 2's memory on all others.

    The reference's video branch. What is not to be seen on the first frame is never found, the vector comes with
    tokens of an empty click, and the mask is the best of three: none of it as in training.

    Args:
        vectors: prompts.
        pictures: frames as SAM 2 sees them, taken one by one.
        frames: how many there are.
        size: height and width of the masks.
    """
    tracker, track = MaskTracker(sam2), None
    no_click = {"points_px": [np.zeros((1, 2), np.float32)], "labels": [np.full(1, -1, np.int32)]}
    no_clicks = {name: value * len(vectors) for name, value in no_click.items()}
    for at, pixels in enumerate(pictures):
        if not len(vectors):
            yield np.zeros((0, *size), bool)
            continue
        _, features, positions, sizes = sam2._prepare_backbone_features(sam2.forward_image(pixels))
        frame = FrameFeatures(features, positions, sizes, *size)
        if track is None:
            with _prompted(sam2, vectors):
                track = tracker.start(at, frame, **no_clicks, frames=frames)
            yield track.first_masks
        else:
            yield track.step(at, frame)


@contextmanager
def _prompted(sam2: nn.Module, vectors: Float[Tensor, "objects width"]) -> Iterator[None]:
    """Within it every prompt of SAM 2 ends with a vector, one for each object."""

    def with_vectors(module: nn.Module, inputs: tuple, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        sparse, dense = embeddings
        return torch.cat([sparse, vectors[:, None].to(sparse.dtype)], dim=1), dense

    hook = sam2.sam_prompt_encoder.register_forward_hook(with_vectors)
    try:
        yield
    finally:
        hook.remove()
