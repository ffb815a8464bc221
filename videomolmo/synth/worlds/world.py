"""What the scenes of vpos-nano share: a canvas that knows which object shows at each pixel, and a clip.

Every scene is laid out on a sheet of 320 × 240 units, origin top left, y down, stretched to the size asked for. Time
runs from 0 at the first frame to 1 at the last, so that a layout does not depend on the number of frames.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

WIDE, HIGH = 320, 240  # units
KEEP = -1  # paint that changes the picture but not whose pixel it is: shadows, highlights, lettering
NOBODY = 0  # paint that belongs to no object and hides objects behind it
KINDS = ("all", "appearance", "relation", "action", "absent")
_SUBPIXEL = 4  # binary digits of subpixel accuracy given to OpenCV
_FAR = 4000.0  # pixels; corners further out are drawn there

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 28, endpoint=False)) for f in (np.cos, np.sin)], axis=1)

Colour = Sequence[float] | np.ndarray  # RGB in 0…1


class Expression(NamedTuple):
    """A noun phrase, the objects it means (indices into the objects axis of the masks), and its row of the results."""

    text: str
    objects: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class VposClip:
    """A generated clip with everything that can be asked about it.

    Attributes:
        scene: one of `SCENES`.
        part: "train" or "test".
        seed: numbers of scene and part, and the index of the clip; the clip is a function of them and its size.
        frames: RGB.
        masks: visible part of every object; no pixel belongs to two.
        names: what each object is.
        expressions: phrases with the objects they mean, in each clip at least one of every kind in `KINDS`; the
            objects of "absent" are none.
        question: what a counting clip asks, else empty.
        answer: how many objects answer the question, over the whole clip.
    """

    scene: str
    part: str
    seed: tuple[int, int, int]
    frames: UInt8[np.ndarray, "frames height width 3"]
    masks: Bool[np.ndarray, "frames objects height width"]
    names: tuple[str, ...]
    expressions: tuple[Expression, ...]
    question: str = ""
    answer: int | None = None

    @property
    def name(self) -> str:
        return f"{self.scene}-{self.part}-{self.seed[2]:02d}"

    def truth(self, expression: Expression) -> Bool[np.ndarray, "frames height width"]:
        """Union of the masks of the objects that an expression means; empty for an absent one."""
        return self.masks[:, list(expression.objects)].any(axis=1)


class Lens(NamedTuple):
    """How the picture is taken: darkening of the corners, blur in units, noise as a share of full scale."""

    vignette: float = 0.0
    blur: float = 0.0
    noise: float = 0.0


class Scene(NamedTuple):
    """A laid-out scene: what is in it, what can be said, and how to draw it at any time.

    `backdrop` paints once what never changes; `draw` adds the rest, objects under the numbers 1, 2 … of `names`.
    """

    names: tuple[str, ...]
    expressions: tuple[Expression, ...]
    draw: Callable[["Canvas", float], None]
    backdrop: Callable[["Canvas"], None] = lambda canvas: None
    lens: Lens = Lens()
    question: str = ""
    answer: int | None = None


class Canvas:
    """A picture and the number of the object that shows at each pixel, painted back to front."""

    def __init__(self, height: int, width: int) -> None:
        self.scale = np.array([width / WIDE, height / HIGH])
        self.picture = np.zeros((height, width, 3), np.float32)
        self.owner = np.zeros((height, width), np.uint8)

    def copy(self) -> "Canvas":
        other = Canvas(*self.owner.shape)
        other.picture, other.owner = self.picture.copy(), self.owner.copy()
        return other

    def masks(self, objects: int) -> Bool[np.ndarray, "objects height width"]:
        return self.owner == np.arange(1, objects + 1)[:, None, None]

    def polygon(
        self,
        points: Float[np.ndarray, "points 2"],
        colour: Colour,
        owner: int = KEEP,
        *,
        opacity: float = 1.0,
        soft: float = 0.0,
        shade: float = 0.0,
        light: tuple[float, float] = (-0.5, -0.85),
    ) -> None:
        """Fill a polygon.

        Args:
            points: corners, units.
            colour: RGB in 0…1.
            owner: number of the object that the pixels now show, or KEEP, or NOBODY.
            opacity: 1 hides all that is behind.
            soft: blur of the edge, units.
            shade: how much brighter the side towards the light is, and how much darker the other.
            light: direction towards the light.
        """
        self._paint([np.asarray(points, float)], colour, owner, opacity, soft, shade, light)

    def ellipse(
        self, centre: Colour, radii: Colour | float, colour: Colour, owner: int = KEEP, **style: object
    ) -> None:
        """Fill an ellipse; `style` may hold its `angle` in radians, and what `polygon` takes."""
        self.polygon(oval(centre, radii, float(style.pop("angle", 0.0))), colour, owner, **style)

    def box(self, box: Sequence[float], colour: Colour, owner: int = KEEP, *, round: float = 0.0, **style) -> None:
        """Fill an upright box (left, top, right, bottom), its corners rounded by `round` units."""
        left, top, right, bottom = box
        if round <= 0:
            corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
        else:
            round = min(round, (right - left) / 2, (bottom - top) / 2)
            turn = np.linspace(0, np.pi / 2, 6)
            arc = round * np.stack([np.cos(turn), np.sin(turn)], axis=1)
            middles = [(right - round, bottom - round), (left + round, bottom - round)]
            middles += [(left + round, top + round), (right - round, top + round)]
            corners = np.concatenate([at + arc @ _turn(k * np.pi / 2).T for k, at in enumerate(middles)])
        self.polygon(corners, colour, owner, **style)

    def stroke(
        self, points: Colour, width: Sequence[float] | float, colour: Colour, owner: int = KEEP, **style
    ) -> None:
        """Draw a line with round ends through `points`; `width` in units, one for all or one at each point."""
        points = np.asarray(points, float)
        half = np.broadcast_to(np.asarray(width, float) / 2, len(points))
        pieces = [oval(at, max(radius, 0.05)) for at, radius in zip(points, half, strict=True)]
        for start, end, first, last in zip(points[:-1], points[1:], half[:-1], half[1:], strict=True):
            along = end - start
            across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
            sides = [start + across * first, end + across * last, end - across * last, start - across * first]
            pieces.append(np.array(sides))
        style = {"opacity": 1.0, "soft": 0.0, "shade": 0.0, "light": (-0.5, -0.85)} | style
        self._paint(pieces, colour, owner, **style)

    def text(self, text: str, at: Sequence[float], size: float, colour: Colour, bold: bool = False) -> None:
        """Write in one of OpenCV's own stroke fonts; `at` is the left end of the base line, `size` the height of a
        capital, both in units."""
        font_scale = max(size * float(self.scale[1]) / 21, 0.05)
        thick = 1 + int(bold and size * self.scale[1] > 7)
        x, y = (round(float(value)) for value in np.asarray(at, float) * self.scale)
        (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font_scale, thick)
        alpha = np.zeros((high + below + 4, wide + 4), np.uint8)
        cv2.putText(alpha, text, (2, high + 2), cv2.FONT_HERSHEY_SIMPLEX, font_scale, 255, thick, cv2.LINE_AA)
        left, top = x - 2, y - high - 2
        under = self.picture[max(top, 0) : max(y + below + 2, 0), max(left, 0) : max(x + wide + 2, 0)]
        alpha = alpha[max(-top, 0) :, max(-left, 0) :][: under.shape[0], : under.shape[1]]
        under += alpha[..., None] * np.float32(1 / 255) * (np.asarray(colour, np.float32) - under)

    def texture(self, rng: np.random.Generator, grain: float, strength: float, stretch: float = 1.0) -> None:
        """Uneven brightness over the whole picture: spots about `grain` units high, `stretch` times as wide."""
        size = (max(2, int(HIGH / grain)), max(2, int(WIDE / grain / stretch)))
        spots = rng.standard_normal(size, dtype=np.float32)
        height, width = self.owner.shape
        self.picture *= 1 + strength * cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]

    def gradient(self, top: Colour, bottom: Colour, until: float = HIGH) -> None:
        """Cover the picture from its top to row `until` (units) with a vertical blend of two colours."""
        rows = min(len(self.picture), round(until * float(self.scale[1])))
        blend = np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:rows, None, None]
        self.picture[:rows] = (1 - blend) * np.asarray(top, np.float32) + blend * np.asarray(bottom, np.float32)
        self.owner[:rows] = NOBODY

    def lay(self, picture: Float[np.ndarray, "rows columns 3"], corners: Float[np.ndarray, "4 2"]) -> None:
        """Lay a picture over a quadrangle: its corners from the lower left one, against the clock, in units."""
        rows, columns = picture.shape[:2]
        source = np.array([[0, rows], [columns, rows], [columns, 0], [0, 0]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners * self.scale).astype(np.float32))
        height, width = self.owner.shape
        cv2.warpPerspective(picture, matrix, (width, height), self.picture, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)

    def apply_camera(self, rng: np.random.Generator, lens: Lens) -> UInt8[np.ndarray, "height width 3"]:
        """The picture as 8-bit RGB, seen through a lens."""
        picture = self.picture
        height, width = self.owner.shape
        if lens.blur * self.scale[1] > 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), lens.blur * float(self.scale[1]))
        if lens.vignette:
            rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
            columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
            picture = picture * (1 - lens.vignette * (rows**2 + columns**2) / 2)[..., None]
        if lens.noise:
            picture = picture + lens.noise * rng.standard_normal((height, width, 1), dtype=np.float32)
        return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _paint(self, pieces, colour, owner, opacity, soft, shade, light) -> None:
        corners = np.concatenate(pieces) * self.scale
        np.clip(corners, -_FAR, _FAR, out=corners)
        height, width = self.owner.shape
        margin = 2 + int(3 * soft * max(self.scale))
        left, top = (max(math.floor(low) - margin, 0) for low in corners.min(axis=0))
        right, bottom = (
            min(math.ceil(h) + margin, most) for h, most in zip(corners.max(axis=0), (width, height), strict=True)
        )
        if right <= left or bottom <= top:
            return
        alpha = np.zeros((bottom - top, right - left), np.uint8)
        points = np.rint((corners - (left + 0.5, top + 0.5)) * 2**_SUBPIXEL).astype(np.int32)
        first = 0
        for piece in pieces:
            outline, first = points[first : first + len(piece)], first + len(piece)
            cv2.fillPoly(alpha, [outline], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL)
        if soft * self.scale[1] > 0.2:
            alpha = cv2.GaussianBlur(alpha, (0, 0), soft * float(self.scale[1]))
        box = (slice(top, bottom), slice(left, right))
        if owner != KEEP:
            self.owner[box][alpha >= 128] = owner
        surface = np.asarray(colour, np.float32)
        if shade:
            surface = surface * _slope(corners, (left, top), alpha.shape, shade, light)
        cover = (alpha * np.float32(opacity / 255))[..., None]
        under = self.picture[box]
        under += cover * (surface - under)


def _slope(corners, low, shape, shade, light) -> np.ndarray:
    """Brightness over a box: 1 + shade at the corner nearest to the light, 1 - shade at the furthest."""
    towards = np.asarray(light, float) / np.hypot(*light)
    reach = corners @ towards
    middle, half = (reach.max() + reach.min()) / 2, max((reach.max() - reach.min()) / 2, 1e-6)
    rows = (np.arange(shape[0]) + low[1])[:, None] * towards[1]
    columns = (np.arange(shape[1]) + low[0])[None] * towards[0]
    return (1 + shade * np.clip((rows + columns - middle) / half, -1, 1)).astype(np.float32)[..., None]


def oval(centre: Colour, radii: Colour | float, angle: float = 0.0) -> Float[np.ndarray, "points 2"]:
    """Corners of an ellipse, turned by `angle` radians."""
    ring = _CIRCLE * np.asarray(radii, float)
    return (ring @ _turn(angle).T if angle else ring) + np.asarray(centre, float)


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def turned(points: Colour, angle: float) -> Float[np.ndarray, "points 2"]:
    """Points turned about the origin by `angle` radians (clockwise on the picture)."""
    return np.asarray(points, float) @ _turn(angle).T


def hull(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "corners 2"]:
    """Convex outline of projected points."""
    return cv2.convexHull(np.asarray(points, np.float32))[:, 0].astype(float)


def mixed(first: Colour, second: Colour, share: float) -> np.ndarray:
    """Colour between two: the first at share 0, the second at 1."""
    return (1 - share) * np.asarray(first, float) + share * np.asarray(second, float)


def ease(time: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, smooth in between."""
    share = min(max((time - start) / (end - start), 0.0), 1.0)
    return share * share * (3 - 2 * share)


def follow(time: float, stops: Sequence[tuple[float, Colour]]) -> np.ndarray:
    """Position at `time` of something that moves smoothly from stop to stop; each is (time, position)."""
    position = np.asarray(stops[0][1], float)
    for (start, _), (end, there) in pairwise(stops):
        position = position + ease(time, start, end) * (np.asarray(there, float) - position)
    return position


def scatter(
    rng: np.random.Generator, count: int, low: Colour, high: Colour, tries: int = 40
) -> Float[np.ndarray, "points 2"]:
    """Points in a box that keep away from each other: each is the best of `tries` random ones."""
    points = [rng.uniform(low, high)]
    while len(points) < count:
        candidates = rng.uniform(low, high, (tries, 2))
        nearest = np.linalg.norm(candidates[:, None] - np.array(points)[None], axis=-1).min(axis=1)
        points.append(candidates[int(nearest.argmax())])
    return np.array(points)
