"""From points on key frames to masks on every frame, window by window, with identities that last.

A window is the stretch from one key frame to the next. Its left objects run forwards, its right objects backwards,
each from a fresh state; objects that cover each other over the window are one object.

Source: paper, section 3 (bidirectional temporal mask fusion).
Differs: the paper fuses the union of all objects; here each object keeps its own masks and identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.fusion import fuse, match_objects, overlap_matrix
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames
from videomolmo.protocols import Features, Tracker

MIN_OVERLAP = 0.1


@dataclass(frozen=True)
class Window:
    """Masks of frames `start` … `start + len - 1`; objects in the order of `ids`.

    Attributes:
        start: first frame.
        ids: identity of each object, from 1.
        forward, backward, fused: (frames, objects, height, width).
        has_forward, has_backward: (frames, objects), whether a propagation of that direction reaches there.
    """

    start: int
    ids: tuple[int, ...]
    forward: Bool[np.ndarray, "frames objects height width"]
    backward: Bool[np.ndarray, "frames objects height width"]
    fused: Bool[np.ndarray, "frames objects height width"]
    has_forward: Bool[np.ndarray, "frames objects"]
    has_backward: Bool[np.ndarray, "frames objects"]


@dataclass
class _KeyFrame:
    at: int
    features: Features
    points: list[np.ndarray]
    ids: list[int]


class Identities:
    """Hands out identities, and gives an object that was lost its own one back when it turns up where it was left."""

    def __init__(self) -> None:
        self.count = 0
        self.last_seen: dict[int, tuple[int, np.ndarray]] = {}

    def new(self) -> int:
        self.count += 1
        return self.count

    def follow(
        self, ids: Sequence[int], overlap: Float[np.ndarray, "before after"], min_overlap: float
    ) -> list[int | None]:
        """Identities of later objects: that of the earlier object (one of `ids`) that covers it; None without one."""
        found: list[int | None] = [None] * overlap.shape[1]
        for before, after in match_objects(overlap, min_overlap):
            found[after] = ids[before]
        return found

    def remember(self, identity: int, at: int, mask: np.ndarray) -> None:
        if mask.any():
            self.last_seen[identity] = (at, mask)

    def reidentify(self, at: int, masks: Sequence[np.ndarray], taken: set[int]) -> list[int]:
        """Identities for objects with these masks at frame `at`: lost ones close by, else new ones."""
        lost = [identity for identity in self.last_seen if identity not in taken]
        nearness = np.array([[self._nearness(one, at, mask) for mask in masks] for one in lost])
        found = {right: lost[left] for left, right in match_objects(nearness, 0.05)} if lost and len(masks) else {}
        return [found.get(index) or self.new() for index in range(len(masks))]

    def _nearness(self, identity: int, at: int, mask: np.ndarray) -> float:
        """1 at the place where it was last seen, falling to 0 a few of its sizes away (more after a longer gap)."""
        then, before = self.last_seen[identity]
        if not mask.any():
            return 0.0
        distance = float(np.linalg.norm(_centre(mask) - _centre(before)))
        reach = 2.0 * np.sqrt(before.sum()) + 0.015 * np.hypot(*mask.shape) * abs(at - then)
        return max(0.0, 1.0 - distance / reach)


def _centre(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def track_windows(
    tracker: Tracker,
    video: Frames,
    length: int,
    key_points: dict[int, list[Float[np.ndarray, "points 2"]]],
    *,
    rule: str = "iou",
    tau: float = 0.7,
    clock: Stopwatch | None = None,
) -> Iterator[Window]:
    """Windows in order, covering every frame once; a key frame belongs to the window that it begins.

    Args:
        tracker: SAM 2, or another.
        video: the clip; decoded once, in order.
        length: how many of its frames to take.
        key_points: for every key frame (the first frame must be one) the clicks of its objects, in pixels.
        rule, tau: how forward and backward masks are fused, see `videomolmo.fusion.RULES`.
        clock: counts the time of decoding as "io".

    Yields:
        Each window as soon as it is done; nothing of earlier windows is kept.
    """
    identities = Identities()
    left: _KeyFrame | None = None
    held: list[Features] = []
    clock = clock or Stopwatch()
    for at, frame in enumerate(clock.each("io", video.iterate(stop=length))):
        features = tracker.encode(frame)
        if at not in key_points:
            held.append(features)
            continue
        right = _KeyFrame(at, features, key_points[at], [])
        if left is not None:
            yield _window(tracker, left, held, right, identities, length, rule, tau)
        else:
            right.ids = [identities.new() for _ in right.points]
        left, held = right, []
    if left is not None:
        yield _window(tracker, left, held, None, identities, length, rule, tau)


def _window(
    tracker: Tracker,
    left: _KeyFrame,
    between: list[Features],
    right: _KeyFrame | None,
    identities: Identities,
    length: int,
    rule: str,
    tau: float,
) -> Window:
    """Propagate both ways, assign identities, fuse; sets `right.ids`."""
    frames = [left.features, *between, *([right.features] if right else [])]
    numbered = list(enumerate(frames, left.at))
    forward = propagate(tracker, numbered, left.points, length, reverse=False)
    backward = np.zeros((len(frames), 0, *forward.shape[2:]), bool)
    if right is not None:
        backward = propagate(tracker, numbered[::-1], right.points, length, reverse=True)[::-1]
    for index, identity in enumerate(left.ids):
        last = next((n for n in range(len(frames) - 1, -1, -1) if forward[n, index].any()), 0)
        identities.remember(identity, left.at + last, forward[last, index])
    if right is not None:
        right.ids = _identify(left, right, forward, backward, identities)
    ids = sorted({*left.ids, *(right.ids if right else [])})
    inner = len(frames) - (right is not None)  # the right key frame opens the next window
    forward = _spread(forward[:inner], left.ids, ids)
    backward = _spread(backward[:inner], right.ids if right else [], ids)
    backward[0] = forward[0]  # on a key frame both directions are the key frame's own mask
    has_forward = np.broadcast_to(np.isin(ids, left.ids), (inner, len(ids))).copy()
    has_backward = np.broadcast_to(np.isin(ids, right.ids if right else []), (inner, len(ids))).copy()
    has_backward[0] = has_forward[0]
    fused = fuse_window(forward, backward, rule, tau, after=len(between) + 1 if right else None)
    return Window(left.at, tuple(ids), forward, backward, fused, has_forward, has_backward)


def fuse_window(
    forward: Bool[np.ndarray, "frames *leading height width"],
    backward: Bool[np.ndarray, "frames *leading height width"],
    rule: str,
    tau: float,
    *,
    before: int = 0,
    after: int | None = None,
    on_key: bool = True,
) -> Bool[np.ndarray, "frames *leading height width"]:
    """Fused masks of frames between two key frames; a key frame keeps its own mask.

    Args:
        forward, backward: masks of consecutive frames.
        rule, tau: see `videomolmo.fusion.RULES`.
        before: frames from the left key frame to the first of these.
        after: frames from the first of these to the right key frame; None: after the last key frame only forward
            masks exist, so there is nothing to fuse.
        on_key: whether the first frame is the left key frame.
    """
    offset = np.arange(len(forward))
    if after is None and rule != "backward":
        return forward.copy()
    after = len(forward) if after is None else after
    fused = fuse(forward, backward, rule, tau, left_distance=before + offset, right_distance=after - offset)
    if on_key:
        fused[0] = forward[0]
    return fused


def propagate(
    tracker: Tracker,
    frames: Sequence[tuple[int, Features]],
    points_px: Sequence[Float[np.ndarray, "points 2"]],
    length: int,
    *,
    reverse: bool,
) -> Bool[np.ndarray, "frames objects height width"]:
    """Masks of clicked objects on `frames`, from a state that has seen nothing else.

    Args:
        tracker: SAM 2.
        frames: numbers and features, in the order of propagation; the first is the key frame.
        points_px: the clicks of each object on the key frame, in pixels.
        length: of the clip.
        reverse: whether time runs backwards.
    """
    at, key = frames[0]
    masks = np.zeros((len(frames), len(points_px), key.height, key.width), bool)
    if not points_px:
        return masks
    track = tracker.start(at, key, points_px, frames=length, reverse=reverse)
    masks[0] = track.first_masks
    for n, (at, features) in enumerate(frames[1:], start=1):
        masks[n] = track.step(at, features)
    return masks


def _identify(
    left: _KeyFrame, right: _KeyFrame, forward: np.ndarray, backward: np.ndarray, identities: Identities
) -> list[int]:
    """Identities of the right key frame's objects: the left object that covers it over the window, else a lost one."""
    ids: list[int | None] = [None] * len(right.points)
    if left.points and right.points:  # overlap over space and time at once
        flat = [np.concatenate(list(masks), axis=1) for masks in (forward, backward)]
        ids = identities.follow(left.ids, overlap_matrix(*flat), MIN_OVERLAP)
    lost = [index for index, identity in enumerate(ids) if identity is None]
    alive = {left.ids[index] for index in range(len(left.points)) if forward[-1, index].any()}
    taken = {*alive, *(identity for identity in ids if identity is not None)}
    for index, identity in zip(
        lost, identities.reidentify(right.at, [backward[-1, n] for n in lost], taken), strict=True
    ):
        ids[index] = identity
    return ids


def _spread(masks: np.ndarray, own: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Masks of objects `own` placed among `ids`, the others empty."""
    spread = np.zeros((len(masks), len(ids), *masks.shape[2:]), bool)
    for index, identity in enumerate(own):
        spread[:, ids.index(identity)] = masks[:, index]
    return spread
