"""SAM 2 one frame at a time: clicks on a first frame, then a mask on every further one, all objects in one batch.

The classes and weights are the `sam2` package's; only its loop is ours, so that frames stream through (its predictor
holds the whole clip and takes objects one by one).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0…1, SAM 2's own


@dataclass(frozen=True)
class FrameFeatures:
    """Image features of one frame as SAM 2 wants them: per level (tokens, 1, dim), and the sizes of the levels."""

    features: list[Tensor]
    positions: list[Tensor]
    sizes: list[tuple[int, int]]
    height: int
    width: int


class MaskTracker:
    """SAM 2 as an encoder of frames and a maker of tracks.

    Args:
        model: a `sam2.modeling.sam2_base.SAM2Base`, in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(MEAN, device=self.device).view(shape)
        self._std = torch.tensor(STD, device=self.device).view(shape)

    @torch.inference_mode()
    def encode(self, frame: UInt8[np.ndarray, "height width 3"]) -> FrameFeatures:
        """Features of a frame, to be shared by every object and both directions of time."""
        size = (self.model.image_size, self.model.image_size)
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        encoded = self.model.forward_image((pixels - self._mean) / self._std)
        _, features, positions, sizes = self.model._prepare_backbone_features(encoded)
        return FrameFeatures(features, positions, sizes, *frame.shape[:2])

    def start(
        self,
        at: int,
        frame: FrameFeatures,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
        *,
        frames: int,
        reverse: bool = False,
    ) -> "Track":
        """A fresh track of one object per entry of `points_px`, beginning at frame `at`.

        Args:
            at: number of the frame in the clip.
            frame: its features.
            points_px: clicks of each object, x and y in pixels of the frame.
            labels: 1 for "on the object", 0 for "not on it", as `points_px`; all 1 when None.
            frames: length of the clip.
            reverse: whether time will run backwards. The track knows nothing of any other frame.
        """
        labels = [np.ones(len(points), np.int32) for points in points_px] if labels is None else labels
        return Track(self, at, frame, points_px, labels, frames, reverse)

    def masks_of(
        self,
        frame: FrameFeatures,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
    ) -> Bool[np.ndarray, "prompts height width"]:
        """The mask that each entry of `points_px` alone gives on this frame; nothing is remembered."""
        labels = [np.ones(len(points), np.int32) for points in points_px] if labels is None else labels
        return Track(self, 0, frame, points_px, labels, 1, False, remember=False).first_masks


class Track:
    """Objects followed from one prompted frame in one direction; `step` takes the frames in order.

    Differs: the package's predictor answers object by object; this one holds all objects in a batch, with equal masks.
    """

    def __init__(
        self,
        tracker: MaskTracker,
        at: int,
        frame: FrameFeatures,
        points_px: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        frames: int,
        reverse: bool,
        remember: bool = True,
    ) -> None:
        self.tracker, self.frames, self.reverse, self._remember = tracker, frames, reverse, remember
        self.objects = len(points_px)
        self._memory: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        model = tracker.model
        self._keep = max(model.num_maskmem, model.max_obj_ptrs_in_encoder)
        parts, order = [], []
        for count in sorted({len(points) for points in points_px}):  # SAM 2 treats one click unlike several
            group = [n for n, points in enumerate(points_px) if len(points) == count]
            order += group
            clicks = np.stack([points_px[n] for n in group]).astype(np.float32)
            scaled = clicks / np.array([frame.width, frame.height], np.float32) * model.image_size
            prompt = {
                "point_coords": torch.from_numpy(scaled).to(tracker.device),
                "point_labels": torch.from_numpy(np.stack([labels[n] for n in group]).astype(np.int32)).to(
                    tracker.device
                ),
            }
            parts.append(self._run(at, frame, len(group), prompt))
        first = _in_order(parts, order)
        self._memory["cond_frame_outputs"][at] = first
        self.first_masks = _to_frame(first["pred_masks"], frame)

    @torch.inference_mode()
    def step(self, at: int, frame: FrameFeatures) -> Bool[np.ndarray, "objects height width"]:
        """Masks of all objects on the next frame."""
        out = self._run(at, frame, self.objects, None)
        kept = self._memory["non_cond_frame_outputs"]
        kept[at] = out
        for old in [number for number in kept if abs(at - number) > self._keep]:
            del kept[old]
        return _to_frame(out["pred_masks"], frame)

    @torch.inference_mode()
    def _run(self, at: int, frame: FrameFeatures, objects: int, prompt: dict[str, Tensor] | None) -> dict:
        out = self.tracker.model.track_step(
            frame_idx=at,
            is_init_cond_frame=prompt is not None,
            current_vision_feats=[level.expand(-1, objects, -1) for level in frame.features],
            current_vision_pos_embeds=[level.expand(-1, objects, -1) for level in frame.positions],
            feat_sizes=frame.sizes,
            point_inputs=prompt,
            mask_inputs=None,
            output_dict=self._memory,
            num_frames=self.frames,
            track_in_reverse=self.reverse,
            run_mem_encoder=self._remember,
        )
        memory = out["maskmem_features"]
        return {
            "pred_masks": out["pred_masks"],
            "obj_ptr": out["obj_ptr"],
            "maskmem_features": None if memory is None else memory.to(torch.bfloat16),  # as the package stores it
            "maskmem_pos_enc": out["maskmem_pos_enc"],
        }


def _in_order(parts: list[dict], order: list[int]) -> dict:
    """Outputs of several groups of objects as one batch, back in the objects' own order."""
    back = torch.tensor(np.argsort(order))
    joined = {key: torch.cat([part[key] for part in parts])[back] for key in ("pred_masks", "obj_ptr")}
    if parts[0]["maskmem_features"] is None:
        return joined | {"maskmem_features": None, "maskmem_pos_enc": None}
    levels = range(len(parts[0]["maskmem_pos_enc"]))
    joined["maskmem_features"] = torch.cat([part["maskmem_features"] for part in parts])[back]
    joined["maskmem_pos_enc"] = [torch.cat([part["maskmem_pos_enc"][n] for part in parts])[back] for n in levels]
    return joined


def _to_frame(logits: Tensor, frame: FrameFeatures) -> Bool[np.ndarray, "objects height width"]:
    size = (frame.height, frame.width)
    return (F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)[:, 0] > 0).cpu().numpy()
