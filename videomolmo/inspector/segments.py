"""One object between two neighbouring key frames: both directions as they were propagated, and a rule's fusion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.fusion import RULES, fuse
from videomolmo.inspector.packed_masks import Box, PackedMasks, centres, count_bits, crop, pack, union_box

DECISIONS = ("key", "intersection", "union", "fallback", "one side", "forward", "backward", "mixed", "none")
SETTINGS = ("tau", "left_distance", "right_distance")  # options of rules that need nothing stored
_MADE, _TAKEN = ("intersection", "union", "forward", "backward"), ("forward", "backward", "intersection", "union")
_ORDERS = dict.fromkeys(("iou", "intersection", "union"), _MADE) | dict.fromkeys(
    ("left", "right", "larger", "smaller", "nearest", "forward", "backward"), _TAKEN
)  # what a mask is called when several names fit
_CODE = {name: code for code, name in enumerate(DECISIONS)}


@dataclass(frozen=True, eq=False)
class Segment:
    """One object on frames `start` … `stop - 1`.

    Attributes:
        object_id: id from 1.
        left, right: the key frames on both sides; None where the clip begins or ends. `left` is `start`, or lies before
            it when only a part of the stretch is described.
        forward, backward: masks, None where that direction does not reach. On the left key frame both are its own mask.
        reach_forward, reach_backward: whether the direction reaches, per frame.
        stored: fused masks as the run saved them, None where they must be made.
        more: what rules need besides, an array per frame for each of their options.
    """

    object_id: int
    start: int
    stop: int
    left: int | None
    right: int | None
    forward: PackedMasks | None
    backward: PackedMasks | None
    reach_forward: Bool[np.ndarray, " frames"]
    reach_backward: Bool[np.ndarray, " frames"]
    stored: PackedMasks | None = None
    more: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def on_key(self) -> bool:
        """Whether the first frame is a key frame."""
        return self.left == self.start

    @property
    def bytes(self) -> int:
        """Memory of the masks."""
        return sum(packed.bits.nbytes for packed in (self.forward, self.backward, self.stored) if packed is not None)

    def slice(self, start: int, stop: int) -> Segment:
        """The part from `start` to before `stop`."""
        start, stop = max(start, self.start), min(stop, self.stop)
        part = slice(start - self.start, stop - self.start)
        packed_masks = {name: getattr(self, name) for name in ("forward", "backward", "stored")}
        return replace(
            self, start=start, stop=stop,
            reach_forward=self.reach_forward[part], reach_backward=self.reach_backward[part],
            more={name: values[part] for name, values in self.more.items()},
            **{name: None if packed is None else packed.slice(start, stop) for name, packed in packed_masks.items()},
        )  # fmt: skip

    @cached_property
    def agreement(self) -> Float[np.ndarray, " frames"]:
        """IoU of the two directions; NaN where one does not reach."""
        forward, backward, _ = self.directions()
        union, common = count_bits(forward | backward), count_bits(forward & backward)
        overlap = np.where(union == 0, 1.0, common / np.maximum(union, 1))
        return np.where(self.reach_forward & self.reach_backward, overlap, np.nan)

    def directions(self, *others: PackedMasks) -> tuple[np.ndarray, np.ndarray, Box]:
        """Bits of the forward and the backward masks within one box that holds `others` too, and the box."""
        box = union_box(packed.box for packed in (self.forward, self.backward, *others) if packed is not None)
        shape = (self.stop - self.start, box[1] - box[0], box[3] - box[2])
        pair = (np.zeros(shape, np.uint8) if s is None else s.packed(box) for s in (self.forward, self.backward))
        return *pair, box


@dataclass(frozen=True, eq=False)
class Fused:
    """A segment after a rule: masks, the decision on each frame, and the centre and area of each mask."""

    segment: Segment
    packed: PackedMasks
    codes: np.ndarray
    x: Float[np.ndarray, " frames"]
    y: Float[np.ndarray, " frames"]
    area: np.ndarray


def fuse_segment(segment: Segment, rule: str, tau: float, keep_stored: bool) -> Fused:
    """Apply a rule to a segment as the run does: key frames keep their own mask, the end of the clip its forward one.

    Args:
        segment: one object between two key frames.
        rule, tau: see `videomolmo.fusion.fuse`.
        keep_stored: take the masks that the run saved, where there are any.
    """
    if keep_stored and segment.stored is not None:
        forward, backward, box = segment.directions(segment.stored)
        bits = segment.stored.packed(box)
    else:
        forward, backward, box = segment.directions()
        bits = forward.copy()  # after the last key frame only forward exists
        if segment.right is not None or rule == "backward":
            masks = (np.unpackbits(side, axis=-1).view(bool) for side in (forward, backward))
            bits = np.packbits(fuse(*masks, rule, tau, **_options(segment, rule)), axis=-1)
        if segment.on_key:
            bits[0] = forward[0]
    codes = _decide(segment, forward, backward, bits, rule, tau)
    return Fused(segment, crop(segment.start, bits, box), codes, *centres(bits, box))


def prepend_key_frame(start: int, count: int, own: PackedMasks | None, backward: PackedMasks | None) -> PackedMasks:
    """Backward masks of a stretch: on its key frame the own mask of the object, after it those propagated, if any."""
    box = union_box(packed.box for packed in (own, backward) if packed is not None)
    masks = np.zeros((count, box[1] - box[0], 8 * (box[3] - box[2])), bool)
    for packed in (own, backward):
        if packed is not None and len(packed):
            masks[packed.start - start : packed.stop - start] = packed.masks(box)
    return pack(start, masks, box)


def _options(segment: Segment, rule: str) -> dict[str, Any]:
    """What a rule wants to know beside the masks and τ."""
    offset = np.arange(segment.start, segment.stop)
    known = {
        "left_distance": offset - (segment.left if segment.left is not None else -1),
        "right_distance": (segment.right if segment.right is not None else segment.stop) - offset,
        **segment.more,
    }
    return {name: known[name] for name in RULES[rule].options if name != "tau"}


def _decide(
    segment: Segment, forward: np.ndarray, backward: np.ndarray, fused: np.ndarray, rule: str, tau: float
) -> np.ndarray:
    """The decision on each frame, read off the masks; where several fit, the one that the rule is about."""
    has_forward, has_backward, some = (_flat(bits).any(axis=1) for bits in (forward, backward, fused))
    both = segment.reach_forward & segment.reach_backward
    same = {
        "intersection": _equal(fused, forward & backward), "union": _equal(fused, forward | backward),
        "forward": _equal(fused, forward), "backward": _equal(fused, backward),
    }  # fmt: skip
    if rule == "iou":
        same["intersection"] &= segment.agreement >= tau  # equal masks are both; τ decides what it is called
    order = _ORDERS.get(rule, ("intersection", "forward", "backward", "union"))
    codes = np.full(len(fused), _CODE["mixed"])
    for name in reversed(order):
        codes[same[name]] = _CODE[name]
    codes[both & (has_forward ^ has_backward)] = _CODE["fallback"]
    codes[~both] = _CODE["one side"]
    codes[~some] = _CODE["none"]
    if segment.on_key and segment.reach_forward[0]:
        codes[0] = _CODE["key"]
    return codes


def _flat(bits: np.ndarray) -> np.ndarray:
    return bits.reshape(len(bits), math.prod(bits.shape[1:]))


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (_flat(a) == _flat(b)).all(axis=1)
