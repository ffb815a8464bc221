"""What must be tracked again after a correction, and the cache of propagations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.inspector.edit_history import (
    FOLDER,
    ON,
    BaseClicks,
    Click,
    Clicks,
    State,
    Stretch,
    box_of,
    parts_of,
)
from videomolmo.inspector.segments import Segment, SegmentStore, prepend_key_frame
from videomolmo.io.cache import BoundedCache
from videomolmo.io.files import atomic_file
from videomolmo.io.untrusted import MAX_ARRAY_BYTES, StoredArrays
from videomolmo.mask_store import NOWHERE, ClipShape, PackedMasks, concatenate, pack
from videomolmo.metrics.boxes import box_fit

if TYPE_CHECKING:
    from videomolmo.masks.sam2 import FrameFeatures, MaskTracker


class PropagationKey(NamedTuple):
    """One object followed in one direction from clicks on one frame. Names what is kept, not how far it reaches."""

    direction: str
    object_id: int
    frame: int
    clicks: Clicks

    def name(self, result: str | None) -> str:
        """Of its file, for a result (see `result_key`); None: as files were named that do not tell of which result."""
        parts = self if result is None else (result, self)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] + ".npz"


class PropagationCache:
    """Propagations made for corrections, in memory and on disk.

    Args:
        folder: of the result; None keeps them in memory only.
        result: see `result_key`; the same clicks on another result lead to other masks.
        clip: frames, objects and size of the result.
        unnamed: take files, too, that do not tell of which result they are.
    """

    def __init__(self, folder: Path | None, result: str, clip: ClipShape, unnamed: bool = False) -> None:
        self._clip = clip
        self.folder = None if folder is None else folder / FOLDER
        self._results = (result, None) if unnamed else (result,)
        self._kept: dict[PropagationKey, PackedMasks] = {}

    def get(self, key: PropagationKey, start: int, stop: int) -> PackedMasks | None:
        """Its masks on frames `start` … `stop - 1`, None where they were not made or cannot be read."""
        packed = self._kept.get(key)
        if not _covers(packed, start, stop):
            packed = self._read(key, start, stop)
            if packed is None:
                return None
            self._kept[key] = packed
        return packed.slice(start, stop)

    def put(self, key: PropagationKey, packed: PackedMasks, *, write: bool = True) -> None:
        """Keep a propagation; its file is written atomically.

        Args:
            key, packed: what was followed, and its masks.
            write: to the folder too, if there is one.

        Raises:
            OSError: the file cannot be written; the masks are kept in memory.
        """
        self._kept[key] = packed
        if self.folder is None or not write:
            return
        self.folder.mkdir(exist_ok=True)
        target = self.folder / key.name(self._results[0])
        with atomic_file(target) as unfinished:
            np.savez_compressed(
                unfinished, bits=packed.bits, start=packed.start, box=np.array(packed.box), made_from=json.dumps(key)
            )

    def move(self, folder: Path) -> None:
        """From memory to the folder of a result."""
        self.folder = folder / FOLDER
        for key, packed in self._kept.items():
            self.put(key, packed)

    def _read(self, key: PropagationKey, start: int, stop: int) -> PackedMasks | None:
        """From the first of its files that reaches far enough."""
        for result in self._results if self.folder is not None else ():
            try:
                packed = self._packed(self.folder / key.name(result))
            except (OSError, BadInput):
                continue
            if _covers(packed, start, stop):
                return packed
        return None

    def _packed(self, path: Path) -> PackedMasks:
        """What a file holds, if it fits into the clip.

        Raises:
            OSError, BadInput: it cannot be read, or does not fit.
        """
        frames, _, height, width = self._clip
        with StoredArrays(path) as stored:
            start = int(stored.read("start", "iu", ()))
            top, bottom, left, right = box = tuple(int(edge) for edge in stored.read("box", "iu", (4,)))
            fits = 0 <= top <= bottom <= height and 0 <= left <= right <= -(-width // 8)
            if not (fits and 0 <= start < frames):
                raise BadInput(f"{path}: masks from frame {start} within {box} do not fit the clip")
            room = min((frames - start) * (bottom - top) * (right - left), MAX_ARRAY_BYTES)
            return PackedMasks(start, box, stored.read("bits", "u1", (None, bottom - top, right - left), room))


def _covers(packed: PackedMasks | None, start: int, stop: int) -> bool:
    return packed is not None and packed.start <= start and packed.stop >= stop


MAX_FEATURES = 32  # frames whose features are kept
Progress = Callable[[int, int], None]


class Cancelled(Exception):
    """The user stopped a correction; masks and records are as before it."""


class Propagation:
    """Follows objects for corrections.

    Args:
        tracker: SAM 2.
        frame: gives frame number t.
        frames: length of the clip.
    """

    def __init__(self, tracker: MaskTracker, frame: Callable[[int], np.ndarray], frames: int) -> None:
        self.tracker, self.frame, self.frames = tracker, frame, frames
        self._features = BoundedCache(MAX_FEATURES)

    def run(
        self, needs: Sequence[Need], progress: Progress | None = None, cancel: Callable[[], bool] | None = None
    ) -> dict[PropagationKey, PackedMasks]:
        """Masks of all needs.

        Args:
            needs: from clicks on a frame to the farthest frame wanted.
            progress: called with frames done and frames in all.
            cancel: asked before each frame; True stops.

        Raises:
            Cancelled: `cancel` said so.
        """
        groups: dict[tuple[str, int], list[Need]] = {}
        for need in needs:
            groups.setdefault((need.key.direction, need.key.frame), []).append(need)
        order = sorted(groups, key=lambda group: (group[1] if group[0] == "forward" else _first(groups[group]), group))
        total = sum(len(_path(*group, groups[group])) for group in order)
        done, made = 0, {}
        for group in order:
            for at, masks in self._follow(*group, groups[group]):
                done += 1
                if progress is not None:
                    progress(done, total)
                if cancel is not None and cancel():
                    raise Cancelled(f"stopped after {done} of {total} frames")
                made.setdefault(group, []).append((at, masks))
        return {key: packed for group in order for key, packed in _packed_masks(groups[group], made[group])}

    def _follow(self, direction: str, frame: int, needs: list[Need]) -> Any:
        """Frame by frame, the masks of all objects of a group, as bits."""
        path, features = _path(direction, frame, needs), self._encode(frame)
        prompts = [self._prompt(need.key.clicks, features) for need in needs]
        drawn = [one.mask for one in prompts]
        track = self.tracker.start(
            frame, features, [one.points for one in prompts], [one.labels for one in prompts],
            frames=self.frames, reverse=direction == "backward",
            **({"masks": drawn} if any(mask is not None for mask in drawn) else {}),
        )  # fmt: skip
        yield frame, np.packbits(track.first_masks, axis=-1)
        for at in path[1:]:
            yield at, np.packbits(track.step(at, self._encode(at)), axis=-1)

    def _prompt(self, clicks: Clicks, features: FrameFeatures) -> Prompt:
        """What SAM 2 is told of an object: a box, or a click in its middle where that mask has the box rather.

        Source: `videomolmo.annotation.molmo2_rows`; nano SAM 2 has learnt clicks only.
        """
        drawn, corners, points = parts_of(clicks)
        mask = drawn.decoded(features.height, features.width) if drawn and drawn.counts else None
        told = _prompt((*corners, *points), mask)
        if (box := box_of(corners)) is None or mask is not None or not hasattr(self.tracker, "masks_of"):
            return told
        middle = _prompt((((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, ON), *points), None)
        masks = self.tracker.masks_of(features, [told.points, middle.points], [told.labels, middle.labels])
        wanted = np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]])
        fits = [box_fit(wanted, one) for one in masks]
        return told if fits[0] >= fits[1] else middle

    def _encode(self, at: int) -> FrameFeatures:
        if (found := self._features.get(at)) is None:
            found = self._features.put(
                at, self.tracker.encode(self.frame(at).copy())
            )  # torch warns of read-only arrays
        return found


class Prompt(NamedTuple):
    """What `MaskTracker.start` takes of an object: points with their labels, and a mask that was drawn."""

    points: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None


def _prompt(clicks: tuple[Click, ...], mask: np.ndarray | None) -> Prompt:
    placed = np.array(clicks, np.float32).reshape(-1, 3)
    return Prompt(placed[:, :2], placed[:, 2].astype(np.int32), mask)


def _first(needs: list[Need]) -> int:
    return min(need.start for need in needs)


def _path(direction: str, frame: int, needs: list[Need]) -> range:
    """Frames that a group goes through, its key frame first."""
    if direction == "forward":
        return range(frame, max(need.stop for need in needs))
    return range(frame, _first(needs) - 1, -1)


def _packed_masks(needs: list[Need], steps: list[tuple[int, np.ndarray]]) -> list[tuple[PropagationKey, PackedMasks]]:
    """The masks of each need; a backward one ends before its key frame."""
    found = []
    for row, need in enumerate(needs):
        bits = {at: masks[row] for at, masks in steps if need.start <= at < need.stop}
        frames = sorted(bits)
        stacked = np.stack([bits[at] for at in frames])
        found.append((need.key, pack(frames[0], np.unpackbits(stacked, axis=-1).view(bool))))
    return found


class Need(NamedTuple):
    """A propagation, and the frames of it that are wanted."""

    key: PropagationKey
    start: int
    stop: int


class Corrected:
    """What a state of corrections makes of the stored masks.

    Args:
        store: masks of the run.
        key_frames: of the run.
        state: the corrections in force.
        cache: propagations made for corrections.
        base: the model's clicks for an object on a frame.
    """

    def __init__(
        self, store: SegmentStore, key_frames: list[int], state: State, cache: PropagationCache, base: BaseClicks
    ) -> None:
        self.store, self.state, self.propagations, self.base = store, state, cache, base
        self.objects = max(store.objects, state.objects())
        object_ids = range(1, self.objects + 1)
        self._stretches = {n: state.stretches(n, key_frames, store.frames, base) for n in object_ids}
        self._built: dict[tuple[int, Stretch], Segment] = {}

    def changed_windows(self) -> set[int]:
        """Windows in which anything may differ from the run."""
        spans = {(stretch.start, stretch.stop) for _, stretch in self.stretches()}
        whole = self.store.window_of
        return {window for start, stop in spans for window in range(whole(start), whole(stop - 1) + 1)}

    def stretches(self) -> set[tuple[int, Stretch]]:
        """Object and stretch, wherever something differs from the run."""
        return {(object_id, stretch) for object_id, stretches in self._stretches.items() for stretch in stretches}

    def missing(self) -> list[Need]:
        """Propagations that have not been made."""
        needs = [need for n, stretches in self._stretches.items() for s in stretches for need in _needs(n, s)]
        return [self._split(need)[1] for need in dict.fromkeys(needs) if self._find(need) is None]

    def segments(self, window: int) -> list[Segment]:
        """Objects of a window; where a propagation is missing, the run's own masks stay."""
        start, stop = self.store.span(window)
        found = []
        replaced: dict[int, list[tuple[int, int]]] = {}
        for object_id, stretches in self._stretches.items():
            for stretch in stretches:
                if stretch.start < stop and stretch.stop > start:
                    segment = self._segment(object_id, stretch)
                    if segment is not None:
                        found.append(segment.slice(start, stop))
                        replaced.setdefault(object_id, []).append((stretch.start, stretch.stop))
        for segment in self.store.segments(window):
            found += _rest(segment, replaced.get(segment.object_id, []))
        return sorted(found, key=lambda segment: (segment.object_id, segment.start))

    def _segment(self, object_id: int, stretch: Stretch) -> Segment | None:
        if (object_id, stretch) not in self._built:
            needs = _needs(object_id, stretch)
            packed_masks = {need.key.direction: self._find(need) for need in needs}
            if any(packed is None for packed in packed_masks.values()):
                return None
            self._built[object_id, stretch] = _build(object_id, stretch, packed_masks)
        return self._built[object_id, stretch]

    def _find(self, need: Need) -> PackedMasks | None:
        """Masks of a need: what the run stored, as far as it reaches, then what was propagated anew."""
        stored, rest = self._split(need)
        if rest is None:
            return stored
        fresh = self.propagations.get(*rest)
        if fresh is None or stored is None:
            return fresh
        return concatenate(*sorted((stored, fresh), key=lambda packed: packed.start))

    def _split(self, need: Need) -> tuple[PackedMasks | None, Need | None]:
        """The stored part of a need, and what is left of it."""
        if need.start >= need.stop:
            return PackedMasks(need.start, NOWHERE, np.zeros((0, 0, 0), np.uint8)), None
        key = need.key
        stored = None
        if key.frame in self.store.key_frames and key.clicks == self.base(key.object_id, key.frame):
            stored = self._stored(need)
        if stored is None or not len(stored):
            return None, need
        edges = (stored.stop, need.stop) if key.direction == "forward" else (need.start, stored.start)
        return stored, Need(key, *edges) if edges[0] < edges[1] else None

    def _stored(self, need: Need) -> PackedMasks | None:
        """Masks of the run that began with the same clicks, as far as they reach; they border on those clicks."""
        direction, object_id, frame, _ = need.key
        forward = direction == "forward"
        window = self.store.window_of(frame if forward else frame - 1)
        first, stop = self.store.span(window)
        for segment in self.store.segments(window):
            packed = segment.forward if forward else segment.backward
            if segment.object_id == object_id and packed is not None:
                # a window begins with the key frame's own mask, which is no part of what came back
                part = packed.slice(max(need.start, first + (not forward)), min(need.stop, stop))
                return part if (part.start == need.start if forward else part.stop == need.stop) else None
        return None


def _needs(object_id: int, stretch: Stretch) -> list[Need]:
    """What a stretch wants of both directions."""
    needs, start, stop = [], stretch.start, stretch.stop
    if stretch.left_clicks:
        key = PropagationKey("forward", object_id, stretch.left, stretch.left_clicks)
        needs.append(Need(key, start, stop))
    if stretch.right_clicks:
        key = PropagationKey("backward", object_id, stretch.right, stretch.right_clicks)
        needs.append(Need(key, start + (stretch.left is not None), stop))  # the left key frame keeps its own mask
    return needs


def _build(object_id: int, stretch: Stretch, packed_masks: dict[str, PackedMasks]) -> Segment:
    forward, backward = packed_masks.get("forward"), packed_masks.get("backward")
    count = stretch.stop - stretch.start
    reach_forward, reach_backward = np.full(count, forward is not None), np.full(count, backward is not None)
    if stretch.left is not None:
        reach_backward[0] = reach_forward[0]
        own = forward.slice(stretch.start, stretch.start + 1) if forward is not None else None
        if backward is not None or own is not None:
            backward = prepend_key_frame(stretch.start, count, own, backward)
    return Segment(
        object_id, stretch.start, stretch.stop, stretch.left, stretch.right, forward, backward, reach_forward,
        reach_backward,
    )  # fmt: skip


def _rest(segment: Segment, replaced: list[tuple[int, int]]) -> Iterator[Segment]:
    """The parts of a segment that no other one replaces."""
    start = segment.start
    for first, stop in sorted(replaced):
        if start < min(first, segment.stop):
            yield segment.slice(start, first)
        start = max(start, stop)
    if start < segment.stop:
        yield segment.slice(start, segment.stop)


def clicks_on_key_frame(points: list[tuple[float, float]], segments: list[Segment], frame: int) -> dict[int, Clicks]:
    """Clicks of every object that has its own mask on a key frame, from the points of the model's answer.

    The run does not store it: points go to the masks they lie in or nearest to, to the smaller one where both fit.

    Args:
        points: those inside the frame, in pixels.
        segments: that begin on the key frame.
        frame: its number.
    """
    there = [s for s in segments if s.start == frame and s.reach_forward[0] and s.forward is not None]
    costs = np.array([[_distance(s.forward, frame, point) for s in there] for point in points])
    clicks: dict[int, Clicks] = {}
    for row, column in _cheapest(costs.reshape(len(points), len(there))):
        clicks[there[column].object_id] = ((float(points[row][0]), float(points[row][1]), 1),)
    for segment in there:
        if segment.object_id not in clicks and (middle := middle_of_packed(segment.forward, frame)):
            clicks[segment.object_id] = ((*middle, 1),)  # the answer is lost; its mask tells where it may have been
    return clicks


def _cheapest(costs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows and columns of the cheapest assignment; scipy, slow to import, is asked only where rows want the same."""
    if costs.size and len(set(nearest := costs.argmin(axis=1))) == len(costs):
        return enumerate(nearest)
    from scipy.optimize import linear_sum_assignment

    return zip(*linear_sum_assignment(costs), strict=True)


def _distance(packed: PackedMasks, frame: int, point: tuple[float, float]) -> float:
    mask = packed.at(frame)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 1e5
    away = np.hypot(columns + 8 * packed.box[2] + 0.5 - point[0], rows + packed.box[0] + 0.5 - point[1]).min()
    return (0.0 if away < 0.75 else float(away)) + len(rows) * 1e-6


def middle_of_packed(packed: PackedMasks, frame: int) -> tuple[float, float] | None:
    """x and y, in pixels, of the centre of the deepest pixel of a mask; None for an empty one."""
    from videomolmo.annotation.candidate_points import deepest_pixel

    mask = packed.at(frame)
    if not mask.any():
        return None
    column, row = deepest_pixel(mask)
    return float(column) + 8 * packed.box[2] + 0.5, float(row) + packed.box[0] + 0.5
