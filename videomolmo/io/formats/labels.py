"""What stands in a file of labels: named objects with a mask on each frame; and how polygons and boxes become masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from videomolmo.errors import BadInput, Unreadable
from videomolmo.io.untrusted import MAX_INDEX_BYTES, read_bytes
from videomolmo.io.video import Frames

Mask = Bool[np.ndarray, "height width"]
Size = tuple[int, int]  # height, width
Losses = Counter  # what a format could not hold, a phrase each, and how often
JPEG_QUALITY = 95
VOID = "void"  # name of what counts for nothing, where a format has no other sign for it


@dataclass(frozen=True)
class Labels:
    """Objects of a clip, as they are written: one frame and one mask after the other.

    Attributes:
        clip: the clip's name.
        sentence: what was asked for.
        height, width, fps, times_s: of the clip; seconds of each frame.
        ids: what each object is called in files that have ids; object n of the masks is number n - 1 here.
        names: what each object is, such as "car"; several may share a name.
        shapes: for a frame, the numbers of the objects there, from 1 in order, each with its mask, which is not empty.
        void: for a frame, pixels that count for nothing; None of clips without any.
        scores: object → frame → how sure a model was, from 0 to 1, as far as known.
        images: names of the files of the frames, where they are images.
        video: name of the video's file, where it has one.
        read_video: gives the frames, or None; they stay open.
        columns: for a frame and an object, further columns of tables.
        origin: for a frame, its number and time where it comes from, by name; {} where they are its own.
    """

    clip: str
    sentence: str
    height: int
    width: int
    fps: float
    times_s: Sequence[float]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    shapes: Callable[[int], Iterator[tuple[int, Mask]]]
    void: Callable[[int], Mask | None] | None = None
    scores: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    video: str | None = None
    read_video: Callable[[], Frames | None] = lambda: None
    columns: Callable[[int, int], Mapping[str, object]] = lambda frame, number: {}
    origin: Callable[[int], Mapping[str, object]] = lambda frame: {}

    @property
    def frames(self) -> int:
        return len(self.times_s)

    @property
    def size(self) -> Size:
        return self.height, self.width

    @cached_property
    def classes(self) -> dict[str, int]:
        """The different names, each with its number from 1."""
        return {name: number for number, name in enumerate(dict.fromkeys(self.names), start=1)}

    def score(self, frame: int, number: int) -> float | None:
        return self.scores.get(number, {}).get(frame)

    def whole_id(self, number: int) -> int:
        """An object's id as a whole number: its own where it is one, as all others' are, else its number."""
        return self._whole_ids[number - 1]

    @cached_property
    def _whole_ids(self) -> list[int]:
        whole = [int(one) for one in self.ids if re.fullmatch(r"[1-9][0-9]{0,8}", one)]
        return whole if len({*whole}) == len(self.ids) else list(range(1, len(self.ids) + 1))

    def void_at(self, frame: int) -> Mask | None:
        """The void of a frame, None where there is none."""
        mask = None if self.void is None else self.void(frame)
        return mask if mask is not None and mask.any() else None

    def image_name(self, frame: int, pattern: str = "{:05d}.jpg") -> str:
        """The name of a frame's file, or the one that it would have."""
        return self.images[frame] if self.images else pattern.format(frame)

    def write_frames(self, folder: Path, name: Callable[[int], str]) -> bool:
        """Write all frames as images into a folder that is there; False where the video cannot be opened."""
        from PIL import Image

        try:
            video = self.read_video()
        except BadInput:
            video = None
        if video is None:
            return False
        for t, frame in enumerate(video.iterate(stop=self.frames)):
            Image.fromarray(frame).save(folder / name(t), quality=JPEG_QUALITY)
        return True

    def losses(self, *lacking: str) -> Losses:
        """What of the clip a format cannot hold that lacks "ids", "names", "scores", "times", "rates" or "void"."""
        steady = np.allclose(np.asarray(self.times_s, float), np.arange(self.frames) / max(self.fps, 1e-9), atol=5e-4)
        is_whole = list(map(str, self._whole_ids)) == list(self.ids)
        known = {
            "ids": ("ids that are no whole numbers (numbered anew)", not is_whole),
            "names": ("names", bool(self.ids)),
            "scores": ("scores", any(self.scores.values())),
            "times": ("frame times", not steady),
            "rates": ("frame times (only a whole number of frames a second)", not steady or self.fps % 1 != 0),
            "void": ("the void", self.void is not None),
        }
        return Losses({text: int(is_there) for text, is_there in (known[name] for name in lacking)})


class Shape(NamedTuple):
    """An object on a frame, as it was read.

    Attributes:
        key: the file's id of the object; None where it has none.
        name: what it is; "" where the file does not say.
        draw: its mask.
        score: how sure a model was.
        is_void: whether these pixels count for nothing.
    """

    key: str | None
    name: str
    draw: Callable[[], Mask]
    score: float | None = None
    is_void: bool = False


@dataclass(frozen=True)
class Clip:
    """The clip that a file of labels is about.

    Attributes:
        frames, height, width, fps: of it.
        images: names of its frames' files, where they are images.
        first: number of the first frame in the file, where the user says so.
    """

    frames: int
    height: int
    width: int
    fps: float
    images: tuple[str, ...] = ()
    first: int | None = None

    @property
    def size(self) -> Size:
        return self.height, self.width

    def frame(self, number: int, first: int, place: object) -> int:
        """The frame that a file calls by a number, of which the clip's first frame is `first` unless the user said so.

        Raises:
            BadInput: the clip has no such frame.
        """
        at = number - (first if self.first is None else self.first)
        if not 0 <= at < self.frames:
            raise BadInput(
                f"{place}: frame {number} would be number {at} of a clip of {self.frames} frames; give the video that "
                "was labelled, or --first-frame with the number of its first frame"
            )
        return at

    def frame_named(self, name: str, first: int, place: object) -> int:
        """The frame of an image: by the name of its file, else by the last number in it, see `frame`."""
        stem = _stem(name)
        if stem in self._by_stem:
            return self._by_stem[stem]
        numbers = re.findall(r"[0-9]+", stem)
        if not numbers or len(numbers[-1]) > 9:
            raise BadInput(f"{place}: image {name!r:.200} is none of the clip's, and its name has no number of a frame")
        return self.frame(int(numbers[-1]), first, place)

    @cached_property
    def _by_stem(self) -> dict[str, int]:
        return {_stem(image): at for at, image in enumerate(self.images)}

    def check_size(self, height: float, width: float, place: object) -> None:
        """Nothing where a file tells of frames of the clip's size.

        Raises:
            BadInput: it does not.
        """
        if (height, width) != self.size:
            raise BadInput(
                f"{place}: labels of {width:g}×{height:g} pixels, the clip has {self.width}×{self.height}; "
                "give the video that was labelled"
            )

    def box(self, left: float, top: float, right: float, bottom: float) -> Callable[[], Mask]:
        """What draws a box as a mask: the pixels whose middles it holds."""
        return partial(_draw_box, (left, top, right, bottom), self.size)

    def polygons(self, polygons: Sequence[Sequence[float]], place: object) -> Callable[[], Mask]:
        """What draws polygons, x and y from the frame's corner in turn, as a mask, as COCO does.

        Raises:
            Unreadable: there is none, one is no polygon, or lies far beyond the frame.
        """
        arrays = []
        for polygon in polygons:
            points = np.asarray(polygon, float).ravel()
            too_far = not np.isfinite(points).all() or np.abs(points).max(initial=0) > 4 * max(self.size)
            if len(points) % 2 or len(points) < 6 or too_far:
                raise Unreadable(f"{place}: not a polygon on the frame ({len(points)} numbers); correct or remove it")
            arrays.append(points)
        if not arrays:
            raise Unreadable(f"{place}: it has no polygon; correct or remove it")
        return partial(_draw_polygons, arrays, self.size)


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]+$", "", name.replace("\\", "/").rpartition("/")[2])


Found = dict[int, list[Shape]]  # frame → what is there


def read_text(path: Path) -> str:
    """A text of labels in UTF-8, with or without a byte order mark.

    Raises:
        Unreadable: it is not, or cannot be read.
    """
    try:
        return read_bytes(path, MAX_INDEX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror}); check the path") from None


def whole(text: object, place: object, what: str) -> int:
    """A whole number that stands in a file, also as 3.0.

    Raises:
        Unreadable: it is none, or has more than 12 digits.
    """
    value = number(text, place, what)
    if value != int(value) or abs(value) > 1e12:
        raise Unreadable(f"{place}: {what} is {text!r:.60}, expected a whole number")
    return int(value)


def number(text: object, place: object, what: str) -> float:
    """A finite number that stands in a file.

    Raises:
        Unreadable: it is none.
    """
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = np.inf
    if not np.isfinite(value):
        raise Unreadable(f"{place}: {what} is {text!r:.60}, expected a number")
    return value


def place_of(mask: Mask, top: int = 0, left: int = 0) -> tuple[float, float, int, tuple[int, int, int, int]]:
    """A mask's centre x and y, its area and its box (left, top, right, bottom, the last two exclusive), in pixels.

    Args:
        mask: not empty.
        top, left: of the frame, where the mask begins.
    """
    rows, columns = np.nonzero(mask)
    rows, columns = rows + top, columns + left
    box = tuple(int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return round(float(columns.mean()), 2), round(float(rows.mean()), 2), len(rows), box


def _draw_box(box: tuple[float, float, float, float], size: Size) -> Mask:
    mask = np.zeros(size, bool)
    left, top, right, bottom = (int(np.clip(np.ceil(edge - 0.5), 0, max(size))) for edge in box)
    mask[top:bottom, left:right] = True
    return mask


def _draw_polygons(polygons: Sequence[np.ndarray], size: Size) -> Mask:
    from pycocotools import mask as coco

    runs = coco.frPyObjects([polygon.tolist() for polygon in polygons], *size)
    return coco.decode(coco.merge(runs)).astype(bool)


def rotated(points: np.ndarray, middle: np.ndarray, degrees: float) -> np.ndarray:
    """Points (points, 2) turned about a middle, clockwise as they are seen."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return (points - middle) @ matrix + middle


def draw_pixel_polygon(polygon: np.ndarray, size: Size) -> Mask:
    """A polygon (points, 2) of numbers of pixels as a mask, its edge included, as OpenCV and YOLO's tools draw it."""
    import cv2

    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 1)
    return mask.view(bool)


def pixel_polygon(mask: Mask) -> Integer[np.ndarray, "points 2"]:
    """One polygon of numbers of pixels that `draw_pixel_polygon` makes a mask of.

    Holes are cut open to the outline, and parts joined, by lines there and back, whose pixels are added where they are
    not the mask's own.
    """
    import cv2
    from scipy.spatial import KDTree

    contours, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [contour[:, 0] for contour in contours]
    outer = [n for n in range(len(rings)) if tree[0][n][3] < 0]
    parts = [
        reduce(_joined, (rings[m] for m in range(len(rings)) if tree[0][m][3] == n), rings[n]) for n in outer
    ]  # fmt: skip
    whole = parts.pop(0)
    while parts:
        around = KDTree(whole)
        whole = _joined(whole, parts.pop(int(np.argmin([around.query(part)[0].min() for part in parts]))))
    before, after = whole - np.roll(whole, 1, axis=0), np.roll(whole, -1, axis=0) - whole
    turns = (before * after[:, ::-1] @ np.array([1, -1]) != 0) | ((before * after).sum(axis=1) <= 0)
    whole = whole[turns] if turns.sum() > 2 else whole  # what lies on a straight line goes
    return np.concatenate([whole, *[whole[:1]] * (3 - len(whole))])


def _joined(outline: np.ndarray, other: np.ndarray) -> np.ndarray:
    """An outline that leaves where another one is nearest, goes around it and comes back."""
    from scipy.spatial import KDTree

    apart, nearest = KDTree(outline).query(other)
    there = int(apart.argmin())
    at, around = int(nearest[there]), np.roll(other, -there, axis=0)
    return np.concatenate([outline[: at + 1], around, around[:1], outline[at:]])


def edge_rings(mask: Mask) -> list[list[np.ndarray]]:
    """The parts of a mask as rings (points, 2) along the edges of its pixels, each outline with its holes behind it.

    Rings are closed: the last point is the first. Their area is exact.
    """
    import cv2

    twice = np.kron(mask.view(np.uint8), np.ones((2, 2), np.uint8))  # the edge is then told from both its sides
    contours, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((contour[:, 0] + 1) // 2) for contour in contours]
    outer = [n for n in range(len(rings)) if tree[0][n][3] < 0]
    return [[rings[n], *(rings[m] for m in range(len(rings)) if tree[0][m][3] == n)] for n in outer]


def _corners(ring: np.ndarray) -> np.ndarray:
    """A ring of points on a grid without repeated points and those on straight lines, closed."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    corners = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.concatenate([corners, corners[:1]])
