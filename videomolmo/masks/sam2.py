"""SAM 2 one frame at a time: built from its configuration, clicked on a first frame, followed on every further one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import first_line, model_file, regular_file, shortened
from videomolmo.masks.configuration import Sam2, Unfilled, checked, instantiate, read_configuration, read_yaml
from videomolmo.weights.pickled import read_torch
from videomolmo.weights.tensors import check_finite, shapes_of

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


def build_nano(folder: Path, size: int | None = None) -> nn.Module:
    """An untrained nano SAM 2 after `folder`/config.yaml, made of the unpatched classes of the `sam2` package.

    `size` builds it for pictures of another width in pixels; the weights are the same, whatever the size.
    Differs: the package's own builder runs what a configuration names, and starts on CUDA.

    Raises:
        BadInput: see `configuration.read_configuration`; or parts that do not fit together.
    """
    path = Path(folder) / "config.yaml"
    values = read_configuration(path)
    return _built(values if size is None else values | {"image_size": size}, path)


def _built(values: dict, path: Path) -> nn.Module:
    try:
        return instantiate(values)
    except Exception as error:  # parts that do not fit together raise what they like
        raise BadInput(f"{path}: SAM 2 cannot be built from it ({first_line(error)}); see data/nano/masks") from error


def load_nano(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Nano SAM 2 with its weights, in float32 and evaluation mode.

    Raises:
        BadInput: no weights there, weights that do not fit this configuration or are not finite, or a model that
            cannot follow an object.
    """
    path, weights = Path(folder) / "config.yaml", Path(folder) / "model.safetensors"
    shapes = shapes_of(model_file(weights))
    with Unfilled():
        model = _built(read_configuration(path), path)
    check_fit(model, shapes, str(weights))
    with safe_open(weights, framework="pt") as file:
        fill(model, ((name, file.get_tensor(name)) for name in shapes), str(weights))
    model = model.to(device).eval()
    _try(model, path)
    return model


def _try(model: nn.Module, path: Path) -> None:
    """Follow a click over two grey frames: sizes can fit the weights and yet not one another."""
    try:
        tracker = MaskTracker(model)
        frame = tracker.encode(np.full((16, 16, 3), 128, np.uint8))
        tracker.start(0, frame, [np.full((1, 2), 8, np.float32)], frames=2).step(1, frame)
    except Exception as error:  # as above
        raise BadInput(f"{path}: this SAM 2 cannot run ({first_line(error)}); see data/nano/masks") from error


def published_name(name: str) -> str | None:
    """The published SAM 2 that a hub id or a checkpoint file's name means, or None.

    Example:
        >>> published_name("weights/sam2.1_hiera_tiny.pt")
        'facebook/sam2.1-hiera-tiny'
    """
    for hub_id, (_, file) in published_names().items():
        if name == hub_id or Path(name).name == file:
            return hub_id
    return None


def published_names() -> dict[str, tuple[str, str]]:
    """Hub ids of SAM 2 and SAM 2.1 with their configuration (in the package) and checkpoint file."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    return HF_MODEL_ID_TO_FILENAMES


def build_published(name: str) -> nn.Module:
    """An untrained SAM 2 of a published size, with the settings its video predictor runs with.

    Differs: no holes are filled (that step needs a compiled extension and is skipped by the package without it).
    """
    import sam2

    path = Path(sam2.__file__).parent / published_names()[name][0]
    values = checked(Sam2, read_yaml(path)["model"], str(path))
    decoder = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return instantiate(values | {"binarize_mask_from_pts_for_mem_enc": True, "sam_mask_decoder_extra_args": decoder})


def load_published(name: str, checkpoint: Path, device: torch.device | str = "cpu") -> nn.Module:
    """A published SAM 2 from its checkpoint file, read as tensors only, strictly.

    Raises:
        BadInput: the file holds no such checkpoint, or weights that do not fit.
    """
    state = _checkpoint(Path(checkpoint))
    with Unfilled():
        model = build_published(name)
    check_fit(model, state, str(checkpoint))
    fill(model, state.items(), str(checkpoint))
    return model.to(device).eval()


def _checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Names and tensors; nothing that the file names is imported or run."""
    regular_file(path)
    try:
        state = read_torch(path)["model"]
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("no names of weights")
        if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in state.values()):
            raise ValueError("not all floating point tensors")
    except Exception as error:  # zip and unpickling of hostile or broken files raise many kinds
        raise BadInput(f"{path}: not a SAM 2 checkpoint ({first_line(error)}); download it again") from error
    return state


def check_fit(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Every name used once and none missing, or the first misfits; `state` may be without data."""
    own = model.state_dict()
    misfits = [f"{name} missing" for name in own.keys() - state.keys()]
    misfits += [f"{shortened(name)} unexpected" for name in state.keys() - own.keys()]
    misfits += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if misfits:
        shown = "; ".join(sorted(misfits)[:4])
        raise BadInput(f"{source}: weights do not fit this model ({len(misfits)} misfits: {shown})")


def fill(model: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """Give an unfilled model its weights, checked with `check_fit`, in its own precision.

    Raises:
        BadInput: a weight that is not finite.
    """
    own, state = model.state_dict(), {}
    for name, value in tensors:
        state[name] = value.to(own[name].dtype, copy=True)
        check_finite(name, state[name], value, source)
    model.load_state_dict(state, assign=True)
