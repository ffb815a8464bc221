"""Both directions of every window of a clip, computed once for all fusion rules and kept by content hash."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from videomolmo import hub
from videomolmo.ablation import hard_clips
from videomolmo.ablation.hard_clips import HardClip, click, hard_clip
from videomolmo.cache import cached

if TYPE_CHECKING:
    from videomolmo.masks.tracker import MaskTracker

EVERY = (3, 5, 10, 15)  # frames between key frames; a clip of 31 frames holds whole windows of each
FRAMES, SIZE = 31, 160
VERSION = 1  # raised when the code below changes what is stored


@dataclass(frozen=True)
class Sides:
    """The frames between two key frames: masks from either one, what is true, and how far the key frames are.

    Attributes:
        start: number of the left key frame.
        forward, backward, truth: (frames, objects, height, width).
        left_distance, right_distance: frames since the left and until the right key frame.
    """

    start: int
    forward: Bool[np.ndarray, "frames objects height width"]
    backward: Bool[np.ndarray, "frames objects height width"]
    truth: Bool[np.ndarray, "frames objects height width"]
    left_distance: Int[np.ndarray, " frames"]
    right_distance: Int[np.ndarray, " frames"]


class Propagations:
    """All that SAM 2 says about one clip and one kind of clicks.

    Key frames of a short distance that are also key frames of a longer one are propagated once, as far as the longest
    window reaches: its beginning is the short one's propagation.

    Args:
        seed: of the clip, see `hard_clip`.
        points: kind of clicks, see `click`.
        every: all distances between key frames that will be asked for.
        folder: of the cache.
        masks: name of a SAM 2, see `VideoGrounder.from_pretrained`.
    """

    def __init__(self, seed: int, points: str, every: Collection[int], folder: Path, masks: str = "nano") -> None:
        reaches = {at: _reach(at, every) for at in range(FRAMES)}
        made_by = settings_of(seed, points, every, masks) | {"what": "both directions of every window"}
        self._arrays = cached(folder, made_by, lambda: _propagate_all(seed, points, reaches, masks))

    def windows(self, every: int) -> Iterator[Sides]:
        """The windows of key frames `every` frames apart, in order."""
        truth = _unpack(self._arrays["truth"])
        for start in range(0, FRAMES - every, every):
            inner = np.arange(1, every)
            forward = _unpack(self._arrays[f"forward_{start}"])[:every][1:]
            backward = _unpack(self._arrays[f"backward_{start + every}"])[:every][1:][::-1]
            yield Sides(start, forward, backward, truth[start + inner], inner, every - inner)


def settings_of(seed: int, points: str, every: Collection[int], masks: str) -> dict[str, Any]:
    """All that decides the propagations of a clip, for the cache."""
    return {
        "seed": seed, "points": points, "frames": FRAMES, "size": SIZE, "every": sorted(set(every)),
        "masks": _weights(masks), "versions": [hard_clips.VERSION, VERSION],
    }  # fmt: skip


def _reach(at: int, every: Collection[int]) -> tuple[int, int]:
    """How far to go forwards and backwards from frame `at`, itself included; 0 where it is no key frame."""
    there = [k for k in every if at % k == 0]
    return max((k for k in there if at + k < FRAMES), default=0), max((k for k in there if at >= k), default=0)


def _propagate_all(seed: int, points: str, reaches: dict[int, tuple[int, int]], masks: str) -> dict[str, np.ndarray]:
    """Packed masks of all propagations, by direction and key frame, and the truth."""
    from videomolmo.masks.windows import propagate

    tracker = _tracker(masks)
    clip, features = encoded(seed, masks)
    found = {"truth": _pack(clip.masks)}
    for at, (ahead, back) in reaches.items():
        shown, clicks = _clicks(clip, at, points)
        for name, steps in (("forward", range(at, at + ahead)), ("backward", range(at, at - back, -1))):
            if steps:
                whole = np.zeros((len(steps), *clip.masks.shape[1:]), bool)
                numbered = [(n, features[n]) for n in steps]
                whole[:, shown] = propagate(tracker, numbered, clicks, FRAMES, reverse=name == "backward")
                found[f"{name}_{at}"] = _pack(whole)
    return found


def _clicks(clip: HardClip, at: int, points: str) -> tuple[list[int], list[np.ndarray]]:
    """Objects that can be pointed at on a frame, and their clicks."""
    every = {thing: click(clip, at, thing, points) for thing in range(clip.masks.shape[1])}
    shown = {thing: place for thing, place in every.items() if place is not None}
    return list(shown), list(shown.values())


@lru_cache(maxsize=1)
def encoded(seed: int, masks: str) -> tuple[HardClip, list[Any]]:
    """A clip and SAM 2's features of its frames, which all kinds of clicks share."""
    clip, tracker = hard_clip(seed, frames=FRAMES, size=SIZE), _tracker(masks)
    return clip, [tracker.encode(frame) for frame in clip.frames]


@cache
def _tracker(masks: str) -> "MaskTracker":
    from videomolmo.grounding import load_masks
    from videomolmo.masks.tracker import MaskTracker

    return MaskTracker(load_masks(masks, "cpu")[0])


@cache
def _weights(masks: str) -> dict[str, str]:
    """Hashes of a SAM 2 folder's weights, without loading them."""
    return hub.hashes(hub.masks_folder(masks))


def _pack(masks: np.ndarray) -> np.ndarray:
    return np.packbits(masks, axis=-1)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=SIZE).astype(bool)
