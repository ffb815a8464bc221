"""A result opened for viewing: layers, objects, decisions, corrections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES, check_rule
from videomolmo.inspector.edit_history import (
    Click,
    Clicks,
    CorrectionLog,
    DrawnMask,
    History,
    State,
    is_corner,
    is_point,
    result_key,
)
from videomolmo.inspector.fused_masks import MASK_LAYERS, FusedMasks, Matching, Patch, Source
from videomolmo.inspector.ground_truth import Scores, open_truth, score
from videomolmo.inspector.identities import Identified, Identities, names_by
from videomolmo.inspector.loading import MAX_LISTED, FrameCache, find_missing, open_result, why_no_masks
from videomolmo.inspector.repropagation import Corrected, PropagationCache, clicks_on_key_frame
from videomolmo.inspector.segments import DECISIONS, SETTINGS, SegmentStore
from videomolmo.io.video import Frames
from videomolmo.mask_store import ClipShape
from videomolmo.results import GroundingResult, KeyAnswer


def listed(one: Inspection) -> list[int]:
    """Ids of the objects that lists and plots tell of one by one."""
    return one.object_ids[:MAX_LISTED]


class Point(NamedTuple):
    """A point on a frame: where the model pointed, or where a person clicked.

    Attributes:
        x, y: pixels of the frame.
        object: id from 1; None where the point is followed by no object (outside the frame).
        positive: on the object, or off it.
        corrected: whether a person put it there.
        index: among the points of this object on this frame, as `Corrections.remove_point` takes it.
    """

    x: float
    y: float
    object: int | None
    positive: bool = True
    corrected: bool = False
    index: int = 0


class Piece(NamedTuple):
    """Words of a caption; `objects` are those that they name, () where they name none."""

    text: str
    objects: tuple[int, ...] = ()


class Series(NamedTuple):
    """An object over time, a number per frame: centre of mass (NaN where it is not seen) and area, in pixels."""

    x: Float[np.ndarray, " frames"]
    y: Float[np.ndarray, " frames"]
    area: Float[np.ndarray, " frames"]


MASK_SIDES = ("forward", "backward")
LAYERS = ("forward", "backward", "fused", "truth", "disagreement")


class Inspection:
    """A result opened for looking at it.

    Objects are called by their ids from 1; row n - 1 of a mask array is object n. Masks of the "fused" layer are the
    stored ones until `apply_fusion_rule` is called, or a correction was made.

    Args:
        result: a result, or the folder it was saved to.
        truth: None; bool (frames, objects, height, width) or (frames, height, width); numbers of objects (frames,
            height, width), 0 for background; a folder of index PNGs or of a result; or a .npz or .npy with such an
            array. Truth of another size is rescaled, and `missing` says so.
        video: replaces the recorded source: a path, an array, or `Frames`.
        corrected: show the corrections that lie in the folder; otherwise whoever corrects is shown them first.

    Attributes:
        result: as given, or as loaded.
        given_video: as given, None for the recorded one.
        folder: where the result was saved, None if only in memory.
        sentence, frames, height, width, fps, times_s: of the clip.
        truth: masks that are right, None if there are none.
        history, log, runs: corrections, see `Corrections`.
        problems: what was damaged when it was opened.
        rule, tau, matching: in force for the fused layer.
        version: counts up whenever masks or points change, so that caches know.

    Raises:
        BadInput: a folder that holds no result at all, or truth that cannot be read. Everything else opens.
    """

    def __init__(
        self, result: GroundingResult | str | Path, truth: Any = None, *, video: Any = None, corrected: bool = True
    ) -> None:
        self.result, self.folder, self.problems = open_result(result, video)
        self.given_video, kept = video, self.result
        self.sentence, self.height, self.width, self.fps = kept.sentence, kept.height, kept.width, kept.fps
        self.frames, self.times_s = kept.frames, kept.times_s
        size = (self.height, self.width)
        self.truth = open_truth(truth, self.frames, size)
        self._frames = FrameCache(kept, video)
        self._store = SegmentStore(kept.spool, self.frames, kept.objects, size)
        self._answers = {answer.frame: answer for answer in kept.answers}
        self._run_keys = {*self._answers, *self._store.key_frames}
        self._base: dict[int, dict[int, Clicks]] = {}
        settings = kept.config.get("model", {})
        rule, tau = self._run_with = settings.get("fusion", "iou"), settings.get("tau", 0.7)  # None: it makes no sense
        self.rule, self.tau, self.matching = rule or "iou", 0.7 if tau is None else float(tau), None
        self._names, self.version = dict(enumerate(kept.config.get("labels", {}).get("names", ()), start=1)), 0
        self.log = CorrectionLog(self.folder, result_key(kept), ClipShape(self.frames, kept.objects, *size))
        self.history, self.propagations = (
            History(kept.objects),
            PropagationCache(self.folder, self.log.result, self.log.clip),
        )
        self._scores: tuple[int, Scores] | None = None
        self._source: Source = self._store
        self._fused = FusedMasks(self._store, self._store, self.rule, self.tau, keep_stored=True)
        if corrected:
            self.read_corrections()

    @property
    def objects(self) -> int:
        """How many objects there are now."""
        return self._fused.objects

    @property
    def identities(self) -> Identities:
        """Which track is which object, as corrections have it."""
        state, runs = self.history.state, range(1, self._store.objects + 1)
        return Identities(state.edits, {*runs, *state.clicked()})

    @property
    def object_ids(self) -> list[int]:
        """Ids of the objects there are, in order; none of those that were merged into others or deleted."""
        return [*range(1, self.objects + 1)] if isinstance(self._source, Matching) else self.identities.objects

    @property
    def key_frames(self) -> list[int]:
        """Key frames in order, corrective ones included, dropped ones left out."""
        own = {frame for (_, frame), clicks in self.history.state.clicks.items() if clicks}
        return sorted((set(self._run_keys) - self.history.state.dropped) | own)

    def caption(self) -> list[Piece]:
        """What was written about the video, cut into phrases and the words between them.

        Where no caption was written, the sentence is the phrase: it names all objects. Of phrases that overlap the
        earlier one counts.
        """
        written = self.result.caption
        if written is None:
            return [Piece(self.sentence, tuple(listed(self)))]
        named: dict[tuple[int, int], list[int]] = {}
        there = set(self.object_ids)
        for one in written.phrases:
            own = named.setdefault((one.start, one.stop), [])
            own += [one.object] * (one.object in there)
        pieces, at = [], 0
        for (start, stop), objects in sorted(named.items()):
            if start >= at:
                named_here = Piece(written.text[start:stop], tuple(dict.fromkeys(objects)))
                pieces += [Piece(written.text[at:start]), named_here]
                at = stop
        return [piece for piece in (*pieces, Piece(written.text[at:])) if piece.text]

    @property
    def names(self) -> dict[int, str]:
        """Object id to the name shown, where a person, or the file that the result is from, gave one."""
        return self._names | names_by(self.history.state.edits)

    def name_of(self, object_id: int) -> str:
        """The name that an object was given, or "object n"."""
        return self.names.get(object_id) or f"object {object_id}"

    def frame(self, t: int, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `t`, from a bounded cache; plain grey where the video is missing or breaks. Safe from any thread.

        Args:
            t: number of the frame.
            size: (height, width), that of the result by default.
        """
        return self._frames.get(t, size)

    def layers(self) -> dict[str, str | None]:
        """Each of `LAYERS`, with None, or the reason why there is nothing to show."""
        reason = None if self.objects else why_no_masks(self.result)
        if not self.frames:
            reason = "the clip has no frames"
        found: dict[str, str | None] = dict.fromkeys(LAYERS, reason)
        if reason is None:
            found |= self._fused.unavailable_layers()
        found["truth"] = None if self.truth is not None else "no ground truth was given"
        return found

    def mask(self, layer: str, t: int) -> Bool[np.ndarray, "objects height width"] | None:
        """Masks of one layer on frame `t`, not to be written to; None where the layer has nothing there.

        "truth" has its own objects; "disagreement" is where exactly one of the two directions has the object.
        """
        if layer not in LAYERS:
            raise BadInput(f"layer {layer!r} is unknown; choose one of {', '.join(LAYERS)}")
        if layer == "truth":
            return None if self.truth is None else self.truth.masks(t)
        if not 0 <= t < self.frames:
            return None
        patches = self.patches(layer, t)
        objects = max([self.objects, *(patch.object_id for patch in patches)])  # one may begin or end in another thread
        masks = np.zeros((objects, self.height, self.width), bool)
        for object_id, top, left, mask in patches:
            masks[object_id - 1, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return masks

    def patches(self, layer: str, t: int) -> list[Patch]:
        """What `mask` shows, only where objects are: quick to paint; "truth" has no patches."""
        return self._fused.patches(layer, t) if layer in MASK_LAYERS else []

    def points(self, t: int) -> list[Point]:
        """Points on frame `t`, of the model's answer and of corrections."""
        answer, state = self._answers.get(t), self.history.state
        found = []
        relabel, identities = self._relabelled(t), self.identities
        count: Counter[int | None] = Counter()
        for track in range(1, max(self._store.objects, state.objects()) + 1):
            base = self._model_clicks(track, t)
            for click in self.clicks(track, t):
                name = identities.object_of(track, t) if relabel is None else relabel.get(track)
                if is_point(click):
                    x, y, label = click
                    found.append(Point(x, y, name, bool(label), click not in base, count[name]))
                count[name] += 1
        if answer is not None and t not in state.dropped:
            pairs = zip(answer.points_px, answer.inside, strict=True)
            found += [Point(float(x), float(y), None) for (x, y), inside in pairs if not inside]
        return found

    def _relabelled(self, t: int) -> dict[int, int] | None:
        """Ids of the run to those of another matching, on a key frame."""
        return self._source.labels.get(t, {}) if isinstance(self._source, Matching) else None

    def corners(self, t: int) -> list[Point]:
        """Corners of boxes that a person drew on frame `t`, upper left and lower right in turns."""
        return [
            Point(*click[:2], object_id, True, True, index)
            for object_id in self.corrections_on(t)
            for index, click in enumerate(self._clicks_of(object_id, t))
            if is_corner(click)
        ]

    def _clicks_of(self, object_id: int, t: int) -> list[Click | DrawnMask]:
        """Those of all its tracks, in the order of `Point.index`."""
        tracks = sorted(self.identities.tracks_of(object_id, t))
        return [click for track in tracks for click in self.clicks(track, t)]

    def clicks(self, track: int, t: int) -> Clicks:
        """Clicks in force for a track on a frame: an object, where no correction changed identities."""
        return self.history.state.clicks_of(track, t, self._model_clicks)

    def _model_clicks(self, object_id: int, t: int) -> Clicks:
        """The model's clicks for an object on a frame, in the ids of the run."""
        if t not in self._base:
            if t not in self._run_keys:
                return ()
            answer, window = self._answers.get(t), self._store.window_of(t)
            pairs = () if answer is None else zip(answer.points_px, answer.inside, strict=True)
            points = [point for point, inside in pairs if inside]
            self._base[t] = clicks_on_key_frame(points, self._store.segments(window), t)
        return self._base[t].get(object_id, ())

    def boxes(self, t: int) -> dict[int, tuple[int, int, int, int]]:
        """Object id to (left, top, right, bottom) of its fused mask, the last two exclusive; none if absent."""
        import cv2

        found = {}
        for object_id, top, left, mask in self.patches("fused", t):
            x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
            found[object_id] = (left + x, top + y, left + x + width, top + y + height)
        return found

    def trail(self, t: int, length: int = 20) -> dict[int, Float[np.ndarray, "points 2"]]:
        """Object id to its centres (x, y) on up to `length` frames before `t` and on `t` itself, oldest first."""
        tables, found = self._fused.tables(), {}
        for index in range(self.objects):
            part = slice(max(0, t - length), t + 1), index
            centres = np.stack([tables.x[part], tables.y[part]], axis=1)
            if np.isfinite(centres).any():
                found[index + 1] = centres[np.isfinite(centres[:, 0])]
        return found

    def answer_near(self, t: int) -> KeyAnswer | None:
        """What the model said on the nearest key frame, the earlier at equal distance; None if it was never asked."""
        nearest = min(self._answers, key=lambda frame: (abs(frame - t), frame), default=None)
        return None if nearest is None else self._answers[nearest]

    @property
    def agreement(self) -> Float[np.ndarray, "frames objects"]:
        """IoU of the two directions; NaN where one of them does not reach."""
        return self._fused.tables().agreement

    def decisions(self) -> np.ndarray:
        """What became of each object on each frame, as text of `DECISIONS`: array (frames, objects).

        key: its own mask on a key frame · intersection, union: of both directions · fallback: both directions reach,
        one is empty, the other is taken · single direction: only one reaches · forward, backward: a rule chose this
        one · mixed: a rule made something else of both · none: nothing is there.
        """
        return np.array(DECISIONS)[self._fused.tables().codes]

    def series(self, object_id: int) -> Series:
        """Centre and area of the fused masks of object `object_id` (id from 1) over time.

        Raises:
            BadInput: no such object.
        """
        if not 1 <= object_id <= self.objects:
            raise BadInput(f"object {object_id} is not there, expected an id from 1 to {self.objects}")
        tables, index = self._fused.tables(), object_id - 1
        return Series(tables.x[:, index], tables.y[:, index], tables.area[:, index].astype(float))

    def scores(self) -> Scores | None:
        """J, F and J&F against the truth; None without truth."""
        if self.truth is None:
            return None
        if self._scores is None or self._scores[0] != self.version:
            self._scores = self.version, score(self.truth, lambda t: self.mask("fused", t), self.objects, self.frames)
        return self._scores[1]

    def outcomes(self) -> dict[int, str]:
        """Key frame to outcome of its answer: found, absent, malformed, or dropped by a correction."""
        dropped = self.history.state.dropped
        return {frame: "dropped" if frame in dropped else one.outcome for frame, one in sorted(self._answers.items())}

    def corrections_on(self, t: int) -> dict[int, Clicks]:
        """Object to the clicks in force on frame `t`, where a person changed them; empty: the object is not there."""
        found: dict[int, Clicks] = {}
        identities = self.identities
        for (track, at), own in self.history.state.clicks.items():
            if at == t and (name := identities.object_of(track, t)) is not None:
                found[name] = (*found.get(name, ()), *own)
        return found

    def corrected_frames(self) -> list[int]:
        """Frames whose clicks a person changed, or whose answer was rejected, in order."""
        state = self.history.state
        return sorted({at for _, at in state.clicks} | state.dropped)

    def repropagated(self) -> list[tuple[int, int]]:
        """Stretches, first frame and the one after the last, whose masks follow corrections; they may overlap."""
        made = self._corrected
        return [] if made is None else sorted({(one.start, one.stop) for _, one in made.stretches()})

    @property
    def _corrected(self) -> Corrected | None:
        """What was tracked again; None where nothing was."""
        source = self._source.source if isinstance(self._source, Identified) else self._source
        return source if isinstance(source, Corrected) else None

    def video(self) -> Frames | None:
        """The video, None where it cannot be opened."""
        return self._frames.video()

    def close(self) -> None:
        """Give back the video, unless it was given, and all memory; what is asked for afterwards is read again."""
        self._frames.close()
        self._fused.clear_cache()
        if self.truth is not None:
            self.truth.masks.cache_clear()

    def __enter__(self) -> Inspection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def missing(self) -> list[str]:
        """What is not there, a sentence each, for the user to read."""
        lost = 0 if self._corrected is None else len(self._corrected.missing())
        return find_missing(self, self._frames.problems(), self._store.problems, lost)

    def rules(self) -> dict[str, str | None]:
        """Every fusion rule, with None, or the reason why this result cannot be fused by it again."""
        stored = self._store.options()
        found = {}
        for name, rule in RULES.items():
            sides = [name] if name in MASK_SIDES else MASK_SIDES
            needed = [*(f"{side} masks" for side in sides if stored and side not in stored), *rule.options]
            gone = [one for one in needed if one not in SETTINGS and one not in stored]
            found[name] = f"the run did not store {', '.join(gone)}" if gone else None
        return found

    def apply_fusion_rule(
        self, rule: str | None = None, tau: float | None = None, matching: float | str | None = None
    ) -> None:
        """Fuse the stored forward and backward masks again; no model runs.

        Args:
            rule: a name in `videomolmo.fusion.RULES`; None keeps the one in force.
            tau: IoU from which the two directions count as agreeing; None keeps the one in force.
            matching: which object of a key frame is which of the next one. None or "stored": as the run decided;
                "none": every key frame begins new objects; a number from 0 to 1: the least overlap of forward and
                backward masks over the frames between the two key frames.

        Raises:
            BadInput: what the rule refuses, or data it needs that was not stored.

        Differs: the run also compares the masks on the right key frame, and gives lost objects their identity back
            when they turn up nearby; the forward mask on the right key frame is not stored, and neither is done here.
            Where two key frames are neighbours there is nothing in between, and the stored identities stay.
        """
        rule = rule or self.rule
        tau = check_rule(rule, self.tau if tau is None else tau)
        if reason := self.rules()[rule]:
            raise BadInput(f"rule {rule!r} cannot be applied again: {reason}; choose another one")
        source = self._matched(matching)
        stored = (rule, tau) == self._run_with and not isinstance(source, Matching)
        self._fused = FusedMasks(self._store, source, rule, tau, keep_stored=stored)
        self.rule, self.tau, self.matching, self._source = rule, tau, matching, source
        self.version += 1

    def _matched(self, matching: float | str | None) -> Source:
        """Segments with identities as asked for."""
        if matching in (None, "stored"):
            return self._corrections() or self._store
        least = None if matching == "none" else matching
        if least is not None and (isinstance(least, (bool, str)) or not 0 <= least <= 1):
            raise BadInput(f"matching is {matching!r}, expected None, 'stored', 'none', or an overlap from 0 to 1")
        if self._corrections() is not None:
            raise BadInput("objects cannot be matched anew while there are corrections; undo them first")
        if not (isinstance(self._source, Matching) and self._source.min_overlap == least):
            return Matching(self._store, least)
        return self._source

    def _corrections(self) -> Corrected | Identified | None:
        """Corrected segments, None where nothing is corrected."""
        state = self.history.state
        tracked = self.corrected_by(state) if state.clicks or state.dropped else None
        return Identified(tracked or self._store, state.edits, self._store) if state.edits else tracked

    def corrected_by(self, state: State) -> Corrected:
        """What another state of corrections would make of the masks; shows nothing of it."""
        return Corrected(self._store, sorted(self._run_keys), state, self.propagations, self._model_clicks)

    def save(self, folder: Path) -> None:
        """Save a result that is only in memory, and the corrections made so far; later ones are written there too.

        Raises:
            BadInput: as `GroundingResult.save`.
        """
        self.folder = self.result.save(folder, overlay=False)
        self.propagations.move(self.folder)
        self.log = CorrectionLog(self.folder, self.log.result, self.log.clip)
        for record in self.history.records:
            self.log.append(record)

    def read_corrections(self) -> None:
        """Show the corrections that lie in the folder now."""
        self.history = self.log.read()
        unnamed = any("result" not in record for record in self.history.records)
        self.propagations = PropagationCache(self.folder, self.log.result, self.log.clip, unnamed)
        self.show_corrections()

    def show_corrections(self) -> None:
        """Show the state that `history` is in."""
        before = self._source
        after = self._corrections() or self._store
        changed = [one.changed_windows() for one in (before, after) if isinstance(one, (Corrected, Identified))]
        self._source = after
        self._fused.replace_source(after, set().union(*changed))
        self.version += 1
