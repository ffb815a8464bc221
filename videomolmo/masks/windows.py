"""From points on key frames to masks on every frame, window by window, with identities that last.

A window is the stretch from one key frame to the next. Its left objects run forwards, its right objects backwards,
each from a fresh state, so that many windows can be followed at once; objects that cover each other over the window are
one object.

Source: paper, section 3 (bidirectional temporal mask fusion).
Differs: the paper fuses the union of all objects; here each object keeps its own masks and identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.fusion import fuse, match_objects, overlap_matrix
from videomolmo.io.timing import Stopwatch
from videomolmo.protocols import Features, Frame, PropagationPath, Tracker

MIN_OVERLAP = 0.1
AT_ONCE = 8  # frames that are encoded together at most
MOST_WAITING = 64  # frames that wait to be encoded until it is known whether an object of the next key frame wants them
Clicks = list[Float[np.ndarray, "points 2"]]
Masks = Bool[np.ndarray, "frames objects height width"]
Bits = UInt8[np.ndarray, "frames objects height bytes"]


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


class _Unseen(NamedTuple):
    """In place of the features of a frame that no object is followed on."""

    height: int
    width: int


class _Done(NamedTuple):
    """In place of the features of a frame whose masks an earlier process made."""

    height: int
    width: int


@dataclass(frozen=True)
class _Stretch:
    """A window before it has masks: its first frame, the key frame that ends it (None: the clip's end), features of all
    frames, with that key frame's, and the clicks on both key frames."""

    start: int
    stop: int | None
    frames: list[Features]
    left: Clicks
    right: Clicks

    def paths(self, rule: str) -> list[PropagationPath]:
        """Forwards and backwards; a rule that does not ask for a direction gets its key frame's own masks only."""
        there, back = self.frames, self.frames[::-1]
        at = self.start if self.stop is None else self.stop
        return [
            PropagationPath(self.start, there[:1] if rule == "backward" else there, self.left, False),
            PropagationPath(at, back[:1] if rule == "forward" else back, self.right, True),
        ]


class Identities:
    """Hands out identities, and gives an object that was lost its own one back when it turns up where it was left."""

    def __init__(self) -> None:
        self.count = 0
        self.last_seen: dict[int, tuple[int, np.ndarray]] = {}

    def state(self) -> dict[str, np.ndarray]:
        """All that is known, as arrays; `restored` takes them."""
        at, masks = zip(*self.last_seen.values(), strict=True) if self.last_seen else ((), np.zeros((0, 0, 0), bool))
        return {"count": np.array(self.count), "seen": np.array([*self.last_seen], int), "at": np.array(at, int),
                "bits": np.packbits(np.stack(masks) if at else masks, axis=-1),
                "width": np.array(masks[0].shape[1] if at else 0)}  # fmt: skip

    @classmethod
    def restored(cls, state: Mapping[str, np.ndarray]) -> Identities:
        """Those whose `state` this is."""
        identities = cls()
        identities.count = int(state["count"])
        masks = np.unpackbits(state["bits"], axis=-1, count=int(state["width"])).view(bool)
        seen = zip(state["seen"].tolist(), state["at"].tolist(), masks, strict=True)
        identities.last_seen = {identity: (at, mask) for identity, at, mask in seen}
        return identities

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
    frames: Iterable[tuple[Frame, Clicks | None]],
    length: int,
    *,
    rule: str = "iou",
    tau: float = 0.7,
    latency: int | None = None,
    state: Mapping[str, np.ndarray] | None = None,
    keep: Callable[[dict[str, np.ndarray]], None] | None = None,
    clock: Stopwatch | None = None,
) -> Iterator[Window]:
    """Windows in order, covering every frame once; a key frame belongs to the window that it begins.

    As many windows as the tracker takes at once are followed together; identities and fusion come after, in order.

    Args:
        tracker: SAM 2, or another.
        frames: the clip in order, each frame with the clicks of its objects in pixels where it is a key frame, as the
            first must be, else with None.
        length: of the clip, as far as it is known; short ones make SAM 2 look back less.
        rule, tau: how forward and backward masks are fused, see `videomolmo.fusion.RULES`. Rules `forward` and
            `backward` have nothing followed the other way; objects are then told apart by the masks of one key frame.
        latency: windows that may be followed together; None: as many as the tracker takes.
        state: what an earlier call with the same arguments gave to `keep`, to go on behind the windows before.
        keep: called whenever the windows that were followed together have all been taken, with a new state: "reached",
            the frame on which the next window begins, "ids" of the objects there, and `Identities.state`.
        clock: counts the time of fusion, identities with it.

    Yields:
        Each window as soon as it is done, those from `state["reached"]` on; nothing of earlier windows is kept.
    """
    identities, ids, reached, clock = Identities(), None, 0, clock or Stopwatch()
    if state is not None:
        identities, ids, reached = Identities.restored(state), state["ids"].tolist(), int(state["reached"])
    stretches = _stretches(tracker, frames, rule, reached)
    while together := list(islice(_as_many_as_fit(stretches, tracker, rule), latency)):  # the same ones in each run
        if together[0].start < reached:
            continue
        paths = [path for one in together for path in one.paths(rule)]
        found = iter(propagate(tracker, paths, length))
        for one, *sides in zip(together, found, found, strict=True):
            ids = [identities.new() for _ in one.left] if ids is None else ids
            with clock.measure("masks/fusion"):
                window, ids = _window(one, ids, *sides, identities, rule, tau)
            yield window
        if keep is not None:
            end = one.start + len(one.frames) if one.stop is None else one.stop
            keep({"reached": np.array(end), "ids": np.array(ids, int), **identities.state()})


def _as_many_as_fit(stretches: Iterator[_Stretch], tracker: Tracker, rule: str) -> Iterator[_Stretch]:
    """The next windows, at least one, while their objects do not fill a batch nor their frames the memory."""
    rows = most = getattr(tracker, "rows", 1)
    frames = getattr(tracker, "held", 1)
    for stretch in stretches:
        yield stretch
        own = sum(len(path.points_px) for path in stretch.paths(rule) if len(path.frames) > 1)
        if rows == most and not own:  # nothing to wait for
            return
        rows, frames = rows - own, frames - len(stretch.frames)
        if rows < max(own, 1) or frames < len(stretch.frames):
            return


def _stretches(
    tracker: Tracker, frames: Iterable[tuple[Frame, Clicks | None]], rule: str, reached: int
) -> Iterator[_Stretch]:
    """The windows to come, in order; between key frames without objects only the size of a frame is looked at.

    So it is before frame `reached`, but for frames that are encoded together with a later one.
    """
    start, left = 0, None
    features: list[Features] = []
    waiting: list[Frame] = []  # later ones of the window, not encoded yet

    def ended(right: Clicks) -> list[Features]:
        every = (left and rule != "backward") or (right and rule != "forward")
        done, count = len(features), len(features) + len(waiting)
        chosen = [n for n in range(done, count) if every or (left and n == 0) or (right and n == count - 1)]
        needed = [start + n >= reached for n in chosen]
        encoded = dict(zip(chosen, _encoded(tracker, [waiting[n - done] for n in chosen], needed), strict=True))
        sizes = [_Unseen(*frame.shape[:2]) for frame in waiting]
        return features + [encoded.get(n, size) for n, size in enumerate(sizes, start=done)]

    for at, (frame, clicks) in enumerate(frames):
        waiting.append(frame)
        if at == 0:
            left = clicks
        elif clicks is not None:
            held = ended(clicks)
            yield _Stretch(start, at, held, left, clicks)
            known = not isinstance(held[-1], _Unseen)
            start, left, features, waiting = at, clicks, held[-1:] if known else [], [] if known else [frame]
        if len(waiting) == (AT_ONCE if left and rule != "backward" else MOST_WAITING):
            needed = [n >= reached for n in range(at + 1 - len(waiting), at + 1)]
            features, waiting = features + _encoded(tracker, waiting, needed), []
    if features or waiting:
        yield _Stretch(start, None, ended([]), left, [])


def _encoded(tracker: Tracker, frames: list[Frame], needed: list[bool]) -> list[Features]:
    """Features of frames, several encoded at a time, where one of them is `needed`."""
    encode = getattr(tracker, "encode_all", None) or (lambda several: [tracker.encode(one) for one in several])
    step = min(AT_ONCE, getattr(tracker, "rows", 1))
    found: list[Features] = []
    for n in range(0, len(frames), step):
        some = frames[n : n + step]
        found += encode(some) if any(needed[n : n + step]) else [_Done(*frame.shape[:2]) for frame in some]
    return found


def _window(
    stretch: _Stretch, left: list[int], there: Bits, back: Bits, identities: Identities, rule: str, tau: float
) -> tuple[Window, list[int]]:
    """The fused window, and the identities of the objects of the key frame that ends it.

    Args:
        stretch: the window.
        left: identities of the objects of its first key frame.
        there, back: their masks forwards, and those of the last key frame's objects backwards, in the order of the
            paths.
        identities, rule, tau: as in `track_windows`.
    """
    count, key = len(stretch.frames), stretch.frames[0]
    size = (key.height, key.width)
    forward, backward = np.zeros((count, len(left), *size), bool), np.zeros((count, len(stretch.right), *size), bool)
    forward[: len(there)] = np.unpackbits(there, axis=-1, count=key.width)
    backward[count - len(back) :] = np.unpackbits(back[::-1], axis=-1, count=key.width)
    for index, identity in enumerate(left):
        last = next((n for n in range(count - 1, -1, -1) if forward[n, index].any()), 0)
        identities.remember(identity, stretch.start + last, forward[last, index])
    right: list[int] = []
    if stretch.stop is not None:
        both = {"forward": slice(count - 1, count), "backward": slice(0, 1)}.get(rule, slice(None))
        right = _identify(left, stretch.stop, forward[both], backward[both], forward[-1], backward[-1], identities)
    ids = sorted({*left, *right})
    inner = count - (stretch.stop is not None)  # the right key frame opens the next window
    forward, backward = _spread(forward[:inner], left, ids), _spread(backward[:inner], right, ids)
    backward[0] = forward[0]  # on a key frame both directions are the key frame's own mask
    has_forward = np.broadcast_to(np.isin(ids, left if rule != "backward" else []), (inner, len(ids))).copy()
    has_backward = np.broadcast_to(np.isin(ids, right if rule != "forward" else []), (inner, len(ids))).copy()
    has_forward[0] = has_backward[0] = np.isin(ids, left)
    fused = fuse_window(forward, backward, rule, tau, after=inner if stretch.stop is not None else None)
    return Window(stretch.start, tuple(ids), forward, backward, fused, has_forward, has_backward), right


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


def propagate(tracker: Tracker, paths: Sequence[PropagationPath], length: int) -> list[Bits]:
    """Masks of clicked objects along each path as bits, each from a state that has seen nothing else.

    Args:
        tracker: SAM 2, which follows them together, or another.
        paths: those that begin on the same frame have the same clicks there.
        length: of the clip.
    """
    if follow := getattr(tracker, "follow", None):
        return follow(paths, length)
    return [_alone(tracker, path, length) for path in paths]


def _alone(tracker: Tracker, path: PropagationPath, length: int) -> Bits:
    key = path.frames[0]
    masks = np.zeros((len(path.frames), len(path.points_px), key.height, key.width), bool)
    if path.points_px:
        track = tracker.start(path.at, key, path.points_px, frames=length, reverse=path.reverse)
        masks[0] = track.first_masks
        for n, features in enumerate(path.frames[1:], start=1):
            masks[n] = track.step(path.at - n if path.reverse else path.at + n, features)
    return np.packbits(masks, axis=-1)


def _identify(
    left: list[int],
    at: int,
    forward: Masks,
    backward: Masks,
    arrived: Bool[np.ndarray, "objects height width"],
    own: Bool[np.ndarray, "objects height width"],
    identities: Identities,
) -> list[int]:
    """Identities of key frame `at`'s objects: the left object that covers it over the window, else a lost one.

    Args:
        left: identities of the objects of `forward`.
        at: the key frame.
        forward, backward: masks on the frames that are compared.
        arrived, own: forward masks on the key frame, and its own.
        identities: known so far.
    """
    ids: list[int | None] = [None] * len(own)
    if len(left) and len(own):  # overlap over space and time at once
        flat = [np.concatenate(list(masks), axis=1) for masks in (forward, backward)]
        ids = identities.follow(left, overlap_matrix(*flat), MIN_OVERLAP)
    lost = [index for index, identity in enumerate(ids) if identity is None]
    alive = {identity for identity, mask in zip(left, arrived, strict=True) if mask.any()}
    taken = {*alive, *(identity for identity in ids if identity is not None)}
    for index, identity in zip(lost, identities.reidentify(at, [own[n] for n in lost], taken), strict=True):
        ids[index] = identity
    return ids


def _spread(masks: np.ndarray, own: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Masks of objects `own` placed among `ids`, the others empty."""
    spread = np.zeros((len(masks), len(ids), *masks.shape[2:]), bool)
    for index, identity in enumerate(own):
        spread[:, ids.index(identity)] = masks[:, index]
    return spread
