"""The fusion ablation: rules on cached propagations, and their scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from videomolmo import fusion
from videomolmo.fusion import RULES, check_rule, fuse, iou
from videomolmo.io import provenance
from videomolmo.io.cache import cached
from videomolmo.lab import hard_clips
from videomolmo.lab.hard_clips import HardClip, click, hard_clip
from videomolmo.metrics.regions import j_and_f_per_frame
from videomolmo.weights import hub

if TYPE_CHECKING:
    from videomolmo.masks.sam2 import MaskTracker


EVERY = (3, 5, 10, 15)  # frames between key frames; a clip of 31 frames holds whole windows of each
FRAMES, SIZE = 31, 160
PROPAGATIONS_VERSION = 1  # raised when the code below changes what is stored


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
        inputs = settings_of(seed, points, every, masks) | {"what": "both directions of every window"}
        self._arrays = cached(folder, inputs, lambda: _propagate_all(seed, points, reaches, masks))

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
        "masks": _weights(masks), "versions": [hard_clips.VERSION, PROPAGATIONS_VERSION],
    }  # fmt: skip


def _reach(at: int, every: Collection[int]) -> tuple[int, int]:
    """How far to go forwards and backwards from frame `at`, itself included; 0 where it is no key frame."""
    there = [k for k in every if at % k == 0]
    return max((k for k in there if at + k < FRAMES), default=0), max((k for k in there if at >= k), default=0)


def _propagate_all(seed: int, points: str, reaches: dict[int, tuple[int, int]], masks: str) -> dict[str, np.ndarray]:
    """Packed masks of all propagations, by direction and key frame, and the truth."""
    from videomolmo.masks.windows import propagate
    from videomolmo.protocols import PropagationPath

    tracker = _tracker(masks)
    clip, features = encoded(seed, masks)
    found = {"truth": _pack(clip.masks)}
    names, paths, objects = [], [], []
    for at, (ahead, back) in reaches.items():
        shown, clicks = _clicks(clip, at, points)
        for name, steps in (("forward", range(at, at + ahead)), ("backward", range(at, at - back, -1))):
            if steps:
                path = PropagationPath(at, [features[n] for n in steps], clicks, name == "backward")
                names, paths, objects = [*names, f"{name}_{at}"], [*paths, path], [*objects, shown]
    for name, shown, bits in zip(names, objects, propagate(tracker, paths, FRAMES), strict=True):
        found[name] = np.zeros((len(bits), clip.masks.shape[1], *bits.shape[2:]), np.uint8)
        found[name][:, shown] = bits
    return found


def _clicks(clip: HardClip, at: int, points: str) -> tuple[list[int], list[np.ndarray]]:
    """Objects that can be pointed at on a frame, and their clicks."""
    every = {obj: click(clip, at, obj, points) for obj in range(clip.masks.shape[1])}
    shown = {obj: place for obj, place in every.items() if place is not None}
    return list(shown), list(shown.values())


@lru_cache(maxsize=1)
def encoded(seed: int, masks: str) -> tuple[HardClip, list[Any]]:
    """A clip and SAM 2's features of its frames, which all kinds of clicks share."""
    clip, tracker = hard_clip(seed, frames=FRAMES, size=SIZE), _tracker(masks)
    return clip, [tracker.encode(frame) for frame in clip.frames]


@cache
def _tracker(masks: str) -> "MaskTracker":
    from videomolmo.grounding import load_tracker

    return load_tracker(masks, "cpu")[0]


@cache
def _weights(masks: str) -> dict[str, str]:
    """Hashes of a SAM 2 folder's weights, without loading them."""
    return hub.hashes(hub.masks_folder(masks))


def _pack(masks: np.ndarray) -> np.ndarray:
    return np.packbits(masks, axis=-1)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=SIZE).astype(bool)


ORACLE = "oracle"  # takes the better side of every frame and object; needs the truth, so it is no rule
TAUS = (0.0, 0.3, 0.5, 0.7, 0.9)
SCORES_VERSION = 1  # raised when the code below changes a score


class Setting(NamedTuple):
    """A rule with its τ, None where the rule has none."""

    rule: str
    tau: float | None = None


PAPER, OURS = Setting("iou", 0.7), Setting("agreed")


def name_of(setting: Setting) -> str:
    """A setting in words.

    Example:
        >>> name_of(PAPER), name_of(OURS)
        ('iou, τ = 0.7', 'agreed')
    """
    return setting.rule if setting.tau is None else f"{setting.rule}, τ = {setting.tau:g}"


def settings(rules: Sequence[str] = (*RULES, ORACLE), taus: Sequence[float] = TAUS) -> tuple[Setting, ...]:
    """Every rule once, and those that have a threshold once for each τ; the paper's setting and ours always.

    Raises:
        BadInput: an unknown rule, or τ outside 0 … 1.

    Example:
        >>> [tuple(setting) for setting in settings(["left", "iou"], [0.3])]
        [('iou', 0.7), ('agreed', None), ('left', None), ('iou', 0.3)]
    """
    found = [PAPER, OURS]
    for rule in rules:
        if rule != ORACLE:
            check_rule(rule)
        gated = rule != ORACLE and "tau" in RULES[rule].options
        for tau in taus if gated else (None,):
            check_rule("iou", 0.7 if tau is None else tau)
            found.append(Setting(rule, tau))
    return tuple(dict.fromkeys(found))


def clip_scores(
    seed: int,
    points: str,
    every: int,
    chosen: Sequence[Setting],
    folder: Path,
    *,
    prepare: Sequence[int] = EVERY,
    masks: str = "nano",
) -> Float[np.ndarray, "settings 2"]:
    """J and F of every setting on a clip, over all frames between two key frames, all objects alike.

    Args:
        seed: of the clip.
        points: kind of clicks.
        every: frames between key frames.
        chosen: rules with their τ.
        folder: of the cache, for propagations and scores.
        prepare: all distances between key frames that will be asked for with this cache, see `Propagations`.
        masks: name of a SAM 2.
    """
    inputs = settings_of(seed, points, (every,), masks) | {
        "what": "J and F of fusion rules", "rules": provenance.sha256(Path(fusion.__file__)), "version": SCORES_VERSION,
        "settings": [list(one) for one in chosen],
    }  # fmt: skip

    def make() -> dict[str, np.ndarray]:
        sides = Propagations(seed, points, {*prepare, every}, folder, masks).windows(every)
        return {"scores": scores_of(sides, chosen)}

    return cached(folder, inputs, make)["scores"]


def scores_of(windows: Iterable[Sides], chosen: Sequence[Setting]) -> Float[np.ndarray, "settings 2"]:
    """J and F of every setting, averaged over frames and objects of all windows."""
    found = [_window_scores(window, chosen) for window in windows]
    return np.concatenate(found, axis=1).mean(axis=(1, 2))


def fuse_window(window: Sides, setting: Setting) -> Bool[np.ndarray, "frames objects height width"]:
    """The fused masks of a window."""
    tau = 0.7 if setting.tau is None else setting.tau
    return fuse(
        window.forward,
        window.backward,
        setting.rule,
        tau,
        left_distance=window.left_distance,
        right_distance=window.right_distance,
    )


def worst_frame(windows: Iterable[Sides]) -> tuple[Sides, int, int]:
    """Window, frame in it and object where the paper's rule scores worst, of those that both directions reach."""
    found = []
    for window in windows:
        scores = _window_scores(window, [PAPER])[0].mean(axis=-1)
        scores[~(window.forward.any(axis=(2, 3)) & window.backward.any(axis=(2, 3)))] = np.inf
        at, obj = np.unravel_index(int(scores.argmin()), scores.shape)
        found.append((float(scores[at, obj]), window, int(at), int(obj)))
    return min(found, key=lambda one: one[0])[1:]


def by_agreement(windows: Iterable[Sides]) -> pd.DataFrame:
    """Mean J&F of what a rule could take, by how far the directions overlap; frames with an empty mask left out.

    Why a rule should not unite sides that differ: compare the columns of a row.

    Returns:
        One row for each range of the IoU: frames, and J&F of intersection, union and the nearer key frame's mask.
    """
    edges = (0, 0.3, 0.5, 0.7, 1)
    options = [Setting("intersection"), Setting("union"), Setting("nearest")]
    overlaps, scores = [], []
    for window in windows:
        both = window.forward.any(axis=(2, 3)) & window.backward.any(axis=(2, 3))
        overlaps.append(iou(window.forward, window.backward)[both])
        scores.append(_window_scores(window, options).mean(axis=-1)[:, both])
    table = pd.DataFrame(np.concatenate(scores, axis=1).T, columns=[option.rule for option in options])
    names = [f"{low:g} … {high:g}" for low, high in pairwise(edges)]
    place = np.clip(np.digitize(np.concatenate(overlaps), edges) - 1, 0, len(names) - 1)  # 1 belongs to the last range
    grouped = table.groupby(pd.Categorical.from_codes(place, names), observed=True)
    return grouped.mean().assign(frames=grouped.size()).rename_axis("IoU of the two directions")


def _window_scores(window: Sides, chosen: Sequence[Setting]) -> Float[np.ndarray, "settings frames objects 2"]:
    """J and F per frame and object; equal masks are scored once, since rules often agree."""
    rules = [setting for setting in chosen if setting.rule != ORACLE]
    candidates = [window.forward, window.backward, *(fuse_window(window, setting) for setting in rules)]
    scores = np.empty((len(candidates), *window.truth.shape[:2], 2))
    for at, obj in np.ndindex(window.truth.shape[:2]):
        seen: dict[bytes, np.ndarray] = {}
        for n, masks in enumerate(candidates):
            key = np.packbits(masks[at, obj]).tobytes()
            if key not in seen:
                seen[key] = np.array(j_and_f_per_frame(window.truth[at, obj], masks[at, obj]))
            scores[n, at, obj] = seen[key]
    forward, backward, own = scores[0], scores[1], iter(scores[2:])
    better = np.where((forward.sum(-1) >= backward.sum(-1))[..., None], forward, backward)
    return np.stack([better if setting.rule == ORACLE else next(own) for setting in chosen])
