"""SAM 2 one frame at a time: built from its configuration, clicked on a first frame, followed on every further one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from videomolmo.errors import BadInput
from videomolmo.io.timing import Stage
from videomolmo.io.untrusted import first_line, model_file, regular_file, shortened
from videomolmo.masks.configuration import Sam2, Unfilled, checked, instantiate, read_configuration, read_yaml
from videomolmo.protocols import Frame, PropagationPath
from videomolmo.weights.matmul import fast_matmul
from videomolmo.weights.pickled import read_torch
from videomolmo.weights.tensors import check_finite, shapes_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0…1, SAM 2's own
# Bytes for each pixel of SAM 2's own picture: of a row's work, and of a frame's features.
ROW_BYTES, FRAME_BYTES, CPU_BYTES, MOST_ROWS = 400, 16, 2**28, 16
LARGE_PX = 1024  # of SAM 2's own picture, as all published ones have: most of its matrices are large there
PIXELS_AT_ONCE = 2**25  # of masks that grow to the size of the frame, as floating point numbers


Bits = UInt8[np.ndarray, "frames objects height bytes"]
Masks = Sequence[Bool[np.ndarray, "height width"] | None] | None


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
        rows: objects that go through it at once, each on a frame of its own; None: as many as speed it up and memory
            has room for, which on a CPU is one at 1024 pixels.
        is_half: compute mostly in bfloat16, as the published demos do on a GPU (untried on one). On a CPU that gains a
            tenth of the time and changes masks.

    Attributes:
        rows: see above.
        held: frames whose features may be kept at a time.
        prompts: what `start` takes besides points; see `videomolmo.protocols.Tracker`.
    """

    prompts = frozenset({"boxes", "masks"})

    def __init__(self, model: nn.Module, rows: int | None = None, *, is_half: bool = False) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._is_half = is_half
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(MEAN, device=self.device).view(shape)
        self._std = torch.tensor(STD, device=self.device).view(shape)
        pixels = model.image_size**2
        room, most = CPU_BYTES, MOST_ROWS  # more do not fit into a CPU's caches, and are no faster together
        if self.device.type == "cuda":
            room, most = torch.cuda.get_device_properties(self.device).total_memory // 8, 4 * MOST_ROWS
        self.rows = min(max(room // (ROW_BYTES * pixels), 1), most) if rows is None else rows
        self.held = max(room // (FRAME_BYTES * pixels), 1)

    def stages(self) -> list[Stage]:
        """What a profile tells apart; see `videomolmo.io.timing.Profile`."""
        return [Stage(self, "pixels", "masks/preprocessing"), *stages_of(self.model)]

    def encode(self, frame: Frame) -> FrameFeatures:
        """Features of a frame, to be shared by every object and both directions of time."""
        return self.encode_all([frame])[0]

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Within it the model computes as it was told to, on a CPU with `fast_matmul` where matrices are large."""
        is_fast = self.device.type == "cpu" and self.model.image_size >= LARGE_PX
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_half)
        with half, fast_matmul() if is_fast else nullcontext():
            yield

    @torch.inference_mode()
    def encode_all(self, frames: Sequence[Frame]) -> list[FrameFeatures]:
        """Features of frames of one size, which go through the encoder together."""
        with self.precision():
            encoded = self.model.forward_image(self.pixels(frames))
        _, features, positions, sizes = self.model._prepare_backbone_features(encoded)
        positions = [level[:, :1] for level in positions]  # the same for all
        return [
            FrameFeatures([level[:, n : n + 1] for level in features], positions, sizes, *frame.shape[:2])
            for n, frame in enumerate(frames)
        ]

    def pixels(self, frames: Sequence[Frame]) -> Float[Tensor, "frames 3 size size"]:
        """What the encoder gets: frames at its own size, normalised."""
        size = (self.model.image_size, self.model.image_size)
        raw = [torch.from_numpy(np.ascontiguousarray(frame)).to(self.device) for frame in frames]
        unit = [one.permute(2, 0, 1)[None].float() / 255 for one in raw]
        scaled = [F.interpolate(one, size=size, mode="bilinear", antialias=True) for one in unit]
        return (torch.cat(scaled) - self._mean) / self._std

    def start(
        self,
        at: int,
        frame: FrameFeatures,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
        *,
        frames: int,
        reverse: bool = False,
        masks: "Masks" = None,
    ) -> "Track":
        """A fresh track of one object per entry of `points_px`, beginning at frame `at`.

        Args:
            at: number of the frame in the clip.
            frame: its features.
            points_px: clicks of each object, x and y in pixels of the frame.
            labels: 1 for "on the object", 0 for "not on it", 2 and 3 for two corners of a box, upper left and lower
                right, which come first; as `points_px`; all 1 when None.
            frames: length of the clip.
            reverse: whether time will run backwards; SAM 2 sees distances in time only, so nothing depends on it. The
                track knows nothing of any other frame.
            masks: of the objects that begin with a mask. Without points it is their first mask as it is; points refine
                it.
        """
        return Track(self, [frame] * len(points_px), points_px, labels, frames, masks=masks)

    def masks_of(
        self,
        frame: FrameFeatures,
        points_px: Sequence[Float[np.ndarray, "points 2"]],
        labels: Sequence[np.ndarray] | None = None,
    ) -> Bool[np.ndarray, "prompts height width"]:
        """The mask that each entry of `points_px` alone gives on this frame; nothing is remembered."""
        return Track(self, [frame] * len(points_px), points_px, labels, 1, remember=False).first_masks

    def follow(self, paths: Sequence[PropagationPath], frames: int) -> list[Bits]:
        """Masks along each path as bits, all paths step by step together: in one batch as far as `rows` allows.

        Args:
            paths: where they begin on the same frame with the same clicks, these are looked at once.
            frames: length of the clip.
        """
        apart = not self.model.non_overlap_masks_for_mem_enc  # else objects of a batch see each other
        most = self.rows if apart else max((len(path.points_px) for path in paths), default=1) or 1
        parts = [
            (n, replace(path, points_px=path.points_px[first : first + most]))
            for n, path in enumerate(paths)
            for first in range(0, len(path.points_px) or 1, most)
        ]
        parts.sort(key=lambda part: -len(part[1].frames))  # rows drop out at the batch's end
        found: list[list[Bits]] = [[] for _ in paths]
        while parts:
            rows = np.cumsum([len(path.points_px) if len(path.frames) > 1 else 0 for _, path in parts])
            count = max(1, int(np.searchsorted(rows, self.rows, side="right"))) if apart else 1
            (numbers, together), parts = zip(*parts[:count], strict=True), parts[count:]
            for n, bits in zip(numbers, self._together(list(together), frames), strict=True):
                found[n].append(bits)
        return [np.concatenate(one, axis=1) for one in found]

    def _together(self, paths: list[PropagationPath], length: int) -> list[Bits]:
        """Masks along paths, the longest first, as one batch."""
        counts, steps = [len(path.points_px) for path in paths], len(paths[0].frames)
        key = paths[0].frames[0]
        bits = [
            np.zeros((len(path.frames), len(path.points_px), key.height, -(-key.width // 8)), np.uint8)
            for path in paths
        ]
        begun = {_clicked(path): path for path in paths if path.points_px}
        if not begun:
            return bits
        clicked = [(path.frames[0], points) for path in begun.values() for points in path.points_px]
        track = Track(self, *map(list, zip(*clicked, strict=True)), None, length)
        numbers = iter(range(len(clicked)))
        first = {place: [next(numbers) for _ in path.points_px] for place, path in begun.items()}
        rows = [row for path in paths if path.points_px for row in first[_clicked(path)]]
        masks = track.first_masks[rows]
        track.keep(rows)
        for distance in range(steps):
            if distance:
                paths = [path for path in paths if len(path.frames) > distance]
                seen = [path.frames[distance] for path in paths for _ in path.points_px]
                if not seen:
                    break
                track.keep(range(len(seen)))
                masks = track.advance(seen, last=distance == steps - 1)
            ends = np.cumsum(counts[: len(paths) - 1], dtype=int)
            for own, part in zip(bits, np.split(np.packbits(masks, axis=-1), ends), strict=False):
                own[distance] = part
        return bits


class Track:
    """Objects, each a row of a batch, followed from a frame they were clicked on; `step` takes the frames in order.

    Time is counted from that frame, so rows may begin on different frames and run in different directions.

    Differs: the package's predictor answers object by object; this one holds all objects in a batch, with equal masks
        (where a configuration looks back at every n-th frame only, the n-th is counted from the clicked one).
    """

    def __init__(
        self,
        tracker: MaskTracker,
        seen: Sequence[FrameFeatures],
        points_px: Sequence[np.ndarray],
        labels: Sequence[np.ndarray] | None,
        frames: int,
        remember: bool = True,
        masks: Masks = None,
    ) -> None:
        self.tracker, self.frames, self.rows, self._at = tracker, frames, len(points_px), 0
        self._memory: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        model = tracker.model
        self._keep = max(model.num_maskmem, model.max_obj_ptrs_in_encoder)
        labels = [np.ones(len(points), np.int32) for points in points_px] if labels is None else labels
        drawn: Sequence[Any] = [None] * len(points_px) if masks is None else masks
        kinds = [(len(points), mask is not None) for points, mask in zip(points_px, drawn, strict=True)]
        parts, order = [], []
        for kind in sorted(set(kinds)):  # SAM 2 treats one click unlike several, and a mask in another way
            group = [n for n, one in enumerate(kinds) if one == kind]
            order += group
            prompt = {"points": self._clicks([points_px[n] for n in group], [labels[n] for n in group], seen[0])}
            prompt["masks"] = self._drawn([drawn[n] for n in group]) if kind[1] else None
            parts.append(self._run([seen[n] for n in group], prompt, remember))
        back = torch.tensor(np.argsort(order), device=tracker.device)
        self._memory["cond_frame_outputs"][0] = _joined([kept for _, kept in parts], back)
        self.first_masks = _to_frame(torch.cat([logits for logits, _ in parts])[back], seen[0])
        for n in (n for n, kind in enumerate(kinds) if kind == (0, True)):
            self.first_masks[n] = drawn[n]

    def _clicks(self, points: list[np.ndarray], labels: list[np.ndarray], frame: FrameFeatures) -> Any:
        """Points of one number for each row, as SAM 2 takes them; None without any."""
        if not len(points[0]):
            return None
        clicks = np.stack(points).astype(np.float32)
        scaled = clicks / np.array([frame.width, frame.height], np.float32) * self.tracker.model.image_size
        coordinates, said = torch.from_numpy(scaled), torch.from_numpy(np.stack(labels).astype(np.int32))
        return {
            "point_coords": coordinates.to(self.tracker.device),
            "point_labels": said.to(self.tracker.device),
        }

    def _drawn(self, masks: list[np.ndarray]) -> Float[Tensor, "rows 1 size size"]:
        """Masks at SAM 2's own size."""
        size = (self.tracker.model.image_size,) * 2
        given = torch.from_numpy(np.stack(masks)).to(self.tracker.device)[:, None].float()
        return (F.interpolate(given, size, mode="bilinear", antialias=True) >= 0.5).float()

    def step(self, at: int, frame: FrameFeatures) -> Bool[np.ndarray, "objects height width"]:
        """Masks of all objects on the next frame."""
        return self.advance([frame] * self.rows)

    @torch.inference_mode()
    def advance(self, seen: Sequence[FrameFeatures], last: bool = False) -> Bool[np.ndarray, "objects height width"]:
        """Masks of all objects, each on its own next frame; nothing is remembered of the last one."""
        self._at += 1
        logits, kept = self._run(seen, None, not last)
        recent = self._memory["non_cond_frame_outputs"]
        recent[self._at] = kept
        recent.pop(self._at - self._keep - 1, None)
        return _to_frame(logits, seen[0])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these objects only, in this order; one may stand there twice."""
        if list(rows) != list(range(self.rows)):
            chosen, self.rows = torch.tensor(rows, device=self.tracker.device), len(rows)
            for outputs in self._memory.values():
                outputs.update({at: _joined([kept], chosen) for at, kept in outputs.items()})

    @torch.inference_mode()
    def _run(
        self, seen: Sequence[FrameFeatures], prompt: dict[str, Any] | None, remember: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits of the masks, and what is remembered of them."""
        points, masks = (None, None) if prompt is None else (prompt["points"], prompt["masks"])
        refined = points is not None and masks is not None
        with self.tracker.precision():
            out = self.tracker.model.track_step(
                frame_idx=self._at,
                is_init_cond_frame=prompt is not None,
                current_vision_feats=_batch(seen),
                current_vision_pos_embeds=[level.expand(-1, len(seen), -1) for level in seen[0].positions],
                feat_sizes=seen[0].sizes,
                point_inputs=points,
                mask_inputs=None if refined else masks,
                output_dict=self._memory,
                num_frames=self.frames,
                run_mem_encoder=remember,
                prev_sam_mask_logits=20 * masks - 10 if refined else None,  # as SAM 2 takes a mask that is given
            )
        memory = out["maskmem_features"]
        return out["pred_masks"], {
            "obj_ptr": out["obj_ptr"],
            "maskmem_features": None if memory is None else memory.to(torch.bfloat16),  # as the package stores it
            "maskmem_pos_enc": out["maskmem_pos_enc"],
        }


def stages_of(model: nn.Module) -> list[Stage]:
    """What a profile tells apart in a SAM 2."""
    methods = {
        "forward_image": "encoder", "_prepare_memory_conditioned_features": "memory attention",
        "_forward_sam_heads": "decoder", "_encode_new_memory": "memory encoder",
    }  # fmt: skip
    return [Stage(model, name, f"masks/{part}") for name, part in methods.items()]


def _clicked(path: PropagationPath) -> tuple[int, ...]:
    """The same for paths that begin on the same frame with the very same clicks."""
    return path.at, *map(id, path.points_px)


def _batch(seen: Sequence[FrameFeatures]) -> list[Tensor]:
    """Features of each level, (tokens, rows, dim), one row for each frame."""
    groups = [list(same) for _, same in groupby(seen, key=id)]
    parts = [[level.expand(-1, len(group), -1) for level in group[0].features] for group in groups]
    return parts[0] if len(parts) == 1 else [torch.cat(level, dim=1) for level in zip(*parts, strict=True)]


def _joined(parts: list[dict[str, Any]], rows: Tensor) -> dict[str, Any]:
    """Rows of what is remembered of several batches."""

    def joined(values: list[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], list):
            return [joined(list(level)) for level in zip(*values, strict=True)]
        return (values[0] if len(values) == 1 else torch.cat(values))[rows]

    return {key: joined([part[key] for part in parts]) for key in parts[0]}


def _to_frame(logits: Tensor, frame: FrameFeatures) -> Bool[np.ndarray, "objects height width"]:
    size = (frame.height, frame.width)
    at_once = max(1, PIXELS_AT_ONCE // (frame.height * frame.width))
    grown = [F.interpolate(part.float(), size, mode="bilinear", align_corners=False) for part in logits.split(at_once)]
    return torch.cat([part[:, 0] > 0 for part in grown]).cpu().numpy()


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
