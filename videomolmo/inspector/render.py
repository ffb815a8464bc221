"""Frames with masks, points and tracks drawn over them, quick enough to scrub, legible without colours."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.inspector.fused_masks import Patch
from videomolmo.inspector.inspection import LAYERS, Inspection
from videomolmo.inspector.moments import moments_of
from videomolmo.io import drawing as draw
from videomolmo.io.cache import BoundedCache
from videomolmo.io.drawing import palette

# ∖ is a letter of its own: a description of a widget takes \\ for the beginning of a formula
LAYER_SIGNS = {"forward": "forward ///", "backward": "backward ∖∖∖", "fused": "prediction ■", "truth": "ground truth ◎",
               "disagreement": "disagreement ▦"}  # fmt: skip
HATCHES = {"forward": "///", "backward": "\\\\\\"}
GAP = 6  # pixels between two pictures
JPEG_QUALITY = 85
_PALETTE = [tuple(int(value) for value in row) for row in palette(256)]


@dataclass(frozen=True, eq=False)
class DraftMask:
    """An object's mask on a frame as it is being drawn, bool (height, width); in place of the predicted one."""

    object_id: int
    mask: np.ndarray


@dataclass(frozen=True)
class Look:
    """How a frame is shown; hashable, so that it can be part of a cache's key.

    Args:
        layers: of `videomolmo.inspector.inspection.LAYERS`.
        objects: ids that are shown; None: all.
        opacity: of fused masks, from 0 to 1.
        outlines, points, ids, boxes, patterns: what is drawn; patterns fill masks with a texture of their own.
        trail: frames of trail behind each object; 0: none.
        colours: whose colour the n-th object has; None: its own. Of two results partners are coloured alike.
        size: height and width of the view in pixels, within which the frame is fitted; None: its own size.
        draft: a mask that is being drawn on the frame; None: none is.
    """

    layers: tuple[str, ...] = ("fused",)
    objects: tuple[int, ...] | None = None
    opacity: float = draw.OPACITY
    outlines: bool = True
    points: bool = True
    ids: bool = True
    boxes: bool = False
    patterns: bool = False
    trail: int = 0
    size: tuple[int, int] | None = None
    colours: tuple[int, ...] | None = None
    draft: DraftMask | None = None

    def __post_init__(self) -> None:
        unknown = [layer for layer in self.layers if layer not in LAYERS]
        if unknown:
            raise BadInput(f"layers {unknown} are unknown; choose from {', '.join(LAYERS)}")
        if not 0 <= self.opacity <= 1:
            raise BadInput(f"opacity is {self.opacity}, expected a number from 0 to 1")

    def shows(self, object_id: int | None) -> bool:
        """Whether an object is among those shown."""
        return self.objects is None or object_id in self.objects

    def colour_id(self, object_id: int) -> int:
        """The object whose colour and dash this one has."""
        known = self.colours is not None and object_id <= len(self.colours)
        return self.colours[object_id - 1] if known else object_id


def paint(inspection: Inspection, t: int, look: Look | None = None) -> UInt8[np.ndarray, "view_height view_width 3"]:
    """Frame `t` as RGB.

    Fused masks are tinted and outlined, each object with a colour and a dash of its own; forward masks are hatched
    ///, backward ones \\\\\\, so that agreement is crossed; truth has a white double outline, disagreement is chequered
    red and white. Positive points are round with a plus, negative ones square with a minus.
    """
    look = look or Look()
    size = view_size(inspection, look.size)
    picture = inspection.frame(t, size).copy()
    scale = size[0] / max(1, inspection.height)
    for layer in ("fused", "forward", "backward", "disagreement", "truth"):
        if layer in look.layers:
            _paint_layer(picture, inspection, t, layer, look, scale)
    if look.trail:
        for object_id, centres in inspection.trail(t, look.trail).items():
            if look.shows(object_id):
                draw.trail(picture, (centres + 0.5) * scale, colour_of(look.colour_id(object_id)))
    boxes = inspection.boxes(t) if look.boxes or look.ids else {}
    for object_id, edges in boxes.items():
        if look.boxes and look.shows(object_id):
            draw.box(picture, tuple(edge * scale for edge in edges), colour_of(look.colour_id(object_id)))
    if look.points:
        _paint_drawn_boxes(picture, inspection, t, look, scale)
        for point in inspection.points(t):
            if point.object is not None and look.shows(point.object):
                colour = colour_of(look.colour_id(point.object))
                draw.mark(picture, point.x * scale, point.y * scale, colour, point.positive, point.corrected)
    if look.points:
        _paint_moments(picture, inspection, t, look, scale)
    if look.ids:
        _paint_ids(picture, boxes, look, scale)
    return picture


def paint_past(
    inspection: Inspection, t: int, look: Look | None = None
) -> UInt8[np.ndarray, "view_height view_width 3"]:
    """As `paint`; after the end of the clip its last frame, darkened, with a note: another clip may be longer."""
    if t < inspection.frames:
        return paint(inspection, t, look)
    picture = paint(inspection, inspection.frames - 1, look) // 2
    draw.badge(picture, f"ended at frame {inspection.frames - 1}", 4, picture.shape[0] - 4, draw.WHITE, [])
    return picture


def paint_beside(sides: Sequence[tuple[Inspection, Look]], t: int) -> UInt8[np.ndarray, "view_height view_width 3"]:
    """Frame `t` of results that have frames, from left to right, as `paint_past`."""
    pictures = [paint_past(one, t, look) for one, look in sides]
    if len(pictures) == 1:
        return pictures[0]
    widths = [picture.shape[1] for picture in pictures]
    height, width = max(picture.shape[0] for picture in pictures), sum(widths) + GAP * (len(widths) - 1)
    joined = np.full((height, width, 3), 255, np.uint8)
    for n, picture in enumerate(pictures):
        left = sum(widths[:n]) + GAP * n
        joined[: picture.shape[0], left : left + widths[n]] = picture
    return joined


def _paint_layer(picture: np.ndarray, inspection: Inspection, t: int, layer: str, look: Look, scale: float) -> None:
    for patch in _patches(inspection, layer, t, look.draft):
        if layer != "truth" and not look.shows(patch.object_id):
            continue
        mask, top, left = draw.scale_mask(patch.mask, patch.top, patch.left, scale, picture.shape[:2])
        if not mask.size:
            continue
        number = look.colour_id(patch.object_id)
        place, colour = (mask, top, left), colour_of(number)
        if layer == "truth":
            draw.outline(picture, *place, draw.BLACK, draw.WHITE, 1.2)
        elif layer == "disagreement":
            draw.chequer(picture, *place)
        elif layer == "fused":
            draw.tint(picture, *place, colour, look.opacity)
            kind = draw.TEXTURES[(number - 1) % len(draw.TEXTURES)]
            if look.patterns and kind != "plain":
                draw.texture(picture, *place, kind, draw.BLACK, 0.55)
            if look.outlines:
                draw.outline(picture, *place, colour, draw.BLACK, 2, dash=number - 1)
        else:
            draw.texture(picture, *place, f"{HATCHES[layer]} behind", draw.BLACK, 0.5)
            draw.texture(picture, *place, HATCHES[layer], colour, 1.0)
            if look.outlines:
                draw.outline(picture, *place, colour, draw.BLACK, 1, dash=0 if layer == "forward" else 2)


def _patches(inspection: Inspection, layer: str, t: int, draft: DraftMask | None) -> list[Patch]:
    if layer == "fused" and draft is not None:
        others = [patch for patch in inspection.patches(layer, t) if patch.object_id != draft.object_id]
        own = [Patch(draft.object_id, 0, 0, draft.mask)] if draft.mask.any() else []
        return sorted(others + own, key=lambda patch: patch.object_id)
    if layer != "truth":
        return inspection.patches(layer, t)
    masks = inspection.mask("truth", t)
    return [] if masks is None else [Patch(n, 0, 0, mask) for n, mask in enumerate(masks, start=1) if mask.any()]


def _paint_moments(picture: np.ndarray, inspection: Inspection, t: int, look: Look, scale: float) -> None:
    """What was pointed at in a whole video, on the frames of its times: each point has a colour and number."""
    taken: list[tuple] = []
    for place in (place for frame, places in moments_of(inspection) if frame == t for place in places):
        x, y, colour = place.x_px * scale, place.y_px * scale, colour_of(place.number)
        draw.mark(picture, x, y, colour, positive=True, corrected=False)
        if look.ids:
            draw.badge(picture, str(place.number), x + 8, y - 6, colour, taken)


def _paint_drawn_boxes(picture: np.ndarray, inspection: Inspection, t: int, look: Look, scale: float) -> None:
    """Boxes that a person drew, with handles at the corners that can be dragged."""
    corners = [corner for corner in inspection.corners(t) if look.shows(corner.object)]
    for first, last in zip(corners[::2], corners[1::2], strict=True):
        colour = colour_of(look.colour_id(first.object))
        draw.box(picture, tuple(edge * scale for edge in (first.x, first.y, last.x, last.y)), colour)
        for corner in (first, last):
            draw.handle(picture, corner.x * scale, corner.y * scale, colour)


def _paint_ids(picture: np.ndarray, boxes: dict[int, tuple], look: Look, scale: float) -> None:
    taken: list[tuple] = []
    for object_id, (_, top, right, _) in boxes.items():
        if look.shows(object_id):
            colour = colour_of(look.colour_id(object_id))
            draw.badge(picture, str(object_id), right * scale, top * scale + 4, colour, taken)


def view_size(inspection: Inspection, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the painted picture: the frame fitted into `size`, proportions kept.

    From twice on a frame is enlarged by a whole number, so that its pixels stay squares of one size.
    """
    height, width = max(1, inspection.height), max(1, inspection.width)
    if size is None:
        return height, width
    scale = min(size[0] / height, size[1] / width)
    scale = int(scale) if scale > 2 else scale
    return max(1, round(height * scale)), max(1, round(width * scale))


def encode(image: UInt8[np.ndarray, "height width 3"], kind: str = "auto") -> tuple[bytes, str]:
    """A picture as bytes of a file and its MIME type, quickly.

    Args:
        image: RGB.
        kind: "jpeg", "png" (exact, slower), or "auto", which takes the JPEG.

    Raises:
        BadInput: another kind.
    """
    import cv2

    kinds = {
        "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    }
    name = "jpeg" if kind == "auto" else kind
    if name not in kinds:
        raise BadInput(f"kind is {kind!r}, expected 'auto', 'jpeg' or 'png'")
    _, content = cv2.imencode(kinds[name][0], cv2.cvtColor(image, cv2.COLOR_RGB2BGR), kinds[name][1])
    return content.tobytes(), f"image/{name}"


def colour_of(object_id: int) -> tuple[int, int, int]:
    """RGB of the object with id `object_id`, distinct for colour-blind people (Okabe and Ito)."""
    return _PALETTE[object_id if object_id < len(_PALETTE) else 1 + (object_id - 1) % (len(_PALETTE) - 1)]


def swatch(object_id: int) -> tuple[str, str]:
    """An object's colour, and the ink to be read on it, as "#rrggbb"."""
    colour = colour_of(object_id)
    return "#{:02x}{:02x}{:02x}".format(*colour), "#000000" if draw.luminance(colour) > 0.3 else "#ffffff"


class EncodedCache:
    """Encoded pictures, the least used dropped first, bounded by bytes. Safe from any thread.

    Args:
        max_bytes: of all pictures together.
    """

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._cache, self._lock = BoundedCache(max_bytes, lambda made: len(made[0])), threading.RLock()

    @property
    def bytes(self) -> int:
        """Of all pictures together."""
        return self._cache.size

    def clear_cache(self) -> None:
        """Free the pictures, which can be painted again."""
        with self._lock:
            self._cache.clear()

    def picture(self, inspection: Inspection, t: int, look: Look) -> tuple[bytes, str]:
        """`encode(paint_past(…))`, kept until masks change or room is needed."""
        t = min(t, inspection.frames)  # all frames after the end are alike
        key = (id(inspection), inspection.version, t, look)
        with self._lock:
            if (made := self._cache.get(key)) is None:
                made = self._cache.put(key, encode(paint_past(inspection, t, look)))
            return made
