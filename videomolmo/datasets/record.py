"""One record type for every data set: a clip, what was said about it, and what is known of the objects meant.

Its frames come from image files, a video file, or a function; nothing is opened before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from videomolmo.datasets.annotations import Annotations, as_box
from videomolmo.datasets.files import MALFORMED, MissingFile, Unreadable, safe_join
from videomolmo.errors import BadInput
from videomolmo.io.images import ImageReader, image_size
from videomolmo.io.plain_values import as_int
from videomolmo.io.sources import Selected
from videomolmo.io.video import Frames, open_video
from videomolmo.io.video_packets import open_container

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_DEFAULT_FPS = 30.0  # what `open_video` takes where the source does not tell
KINDS = ("referring", "reasoning", "question", "appearance", "action", "motion", "caption")


@dataclass(frozen=True)
class ImageSequence:
    """Frames that are image files.

    Args:
        files: one image for each frame.
        names: what annotations and predictions call each frame.
        times_s: when each frame is shown, where the data set says so.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    times_s: tuple[float, ...] | None = None

    def open(self, fps: float | None) -> Frames:
        if not self.files:
            raise Unreadable(f"{self.names or 'record'}: has no frame")
        reader = ImageReader(self.files, fps or _DEFAULT_FPS, self.times_s, annotated=True)
        return Frames(reader, self.files[0].parent.name)

    def size(self) -> tuple[int, int]:
        return image_size(self.files[0], as_stored=True)

    def check(self) -> list[Exception]:
        """What is wrong with the files, from their headers."""
        return [error for path in self.files if (error := _failure(lambda path=path: image_size(path, as_stored=True)))]


@dataclass(frozen=True)
class VideoFile:
    """Frames of a video file or of a folder with images.

    Args:
        candidates: where the file may be; the first one there is taken.
        names: of the frames that belong to the record; empty for all frames of the file.
        numbers: which frames of the file these are.
        times_s: or the seconds at which they are shown; the nearest frame is taken.
        height_width: size in pixels where the data set says so.
    """

    candidates: tuple[Path, ...]
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    times_s: tuple[float, ...] | None = None
    height_width: tuple[int, int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path(),)

    def path(self) -> Path:
        """The first candidate that is there.

        Raises:
            MissingFile: none is.
        """
        for path in self.candidates:
            if path.exists():
                return path
        names = ", ".join(dict.fromkeys(path.name for path in self.candidates))
        raise MissingFile(f"{self.candidates[0].parent}: no video {names}")

    def open(self, fps: float | None) -> Frames:
        path = self.path()
        frames = open_video(path, fps=fps if path.is_dir() else None)
        numbers = self.numbers
        if numbers is None and self.times_s is not None:
            numbers = tuple(int(np.abs(frames.times_s - time).argmin()) for time in self.times_s)
        if numbers is None:
            return frames
        if beyond := [number for number in numbers if not 0 <= number < len(frames)]:
            frames.close()
            raise Unreadable(f"{frames.name}: has {len(frames)} frames; frame {beyond[0]} is annotated")
        return Frames(Selected(frames, numbers, frames.times_s[list(numbers)]), frames.name)

    def size(self) -> tuple[int, int]:
        if self.height_width:
            return self.height_width
        with self.open(None) as frames:
            return frames.height, frames.width

    def check(self) -> list[Exception]:
        failure = _failure(self._look)
        return [failure] if failure else []

    def _look(self) -> None:
        """Open the file as far as its header."""
        path = self.path()
        if path.is_dir():
            open_video(path).close()
            return
        import av

        try:
            with open_container(f"file:{path}") as container:
                if not container.streams.video:
                    raise Unreadable(f"{path}: has no picture")
        except av.FFmpegError as error:
            raise Unreadable(f"{path}: not a video that can be opened ({error})") from None


@dataclass(frozen=True)
class GeneratedFrames:
    """Frames that a function makes."""

    make: Callable[[], UInt8[np.ndarray, "frames height width 3"]]
    names: tuple[str, ...]
    height_width: tuple[int, int]
    files: tuple[Path, ...] = ()
    times_s: None = None

    def open(self, fps: float | None) -> Frames:
        return open_video(self.make(), fps=fps)

    def size(self) -> tuple[int, int]:
        return self.height_width

    def check(self) -> list[Exception]:
        return []


def video_file(*stems: Path, **known: object) -> VideoFile:
    """A video with one of these names, written with its suffix or without it."""
    ends = ("", *VIDEO_SUFFIXES)
    return VideoFile(tuple(stem.with_name(stem.name + end) for stem in stems for end in ends), **known)


def _failure(look: Callable[[], object]) -> Exception | None:
    try:
        look()
    except (MissingFile, Unreadable) as error:
        return error
    except ValueError as error:
        return Unreadable(str(error))
    return None


class Span(NamedTuple):
    """Characters `start` to before `stop` of a text, and the objects that they name."""

    start: int
    stop: int
    objects: tuple[str, ...]


@dataclass(frozen=True)
class GroundedAnswer:
    """Plain words in which phrases name objects."""

    text: str
    spans: tuple[Span, ...] = ()

    @property
    def phrases(self) -> list[str]:
        """The words of each span."""
        return [self.text[span.start : span.stop] for span in self.spans]

    @property
    def objects(self) -> tuple[str, ...]:
        """All objects that are named."""
        return tuple(in_order([object_id for span in self.spans for object_id in span.objects]))

    @property
    def marked(self) -> str:
        """The text as VideoGLaMM writes it: `<p> phrase </p> [SEG]` for each span."""
        pieces, at = [], 0
        for span, words in zip(self.spans, self.phrases, strict=True):
            pieces += [self.text[at : span.start], f"<p> {words} </p> [SEG]"]
            at = span.stop
        return "".join([*pieces, self.text[at:]])


@dataclass(frozen=True)
class Expression:
    """A sentence about a clip, or a question with its answer.

    Attributes:
        id: as the data set and its predictions name it.
        text: the sentence, or the question.
        objects: ids of the objects meant; empty for "none of them", None where the set keeps it to itself.
        kind: one of `KINDS`.
        annotator: who said it, from 0, where several describe the same object.
        count: the answer to "how many", where the set has one.
        span: first frame and the one after the last that the sentence is about; None for the whole clip.
        more: further fields as the set has them.
        answer: the words of a question's answer, and what in them names which object.
    """

    id: str
    text: str
    objects: tuple[str, ...] | None
    kind: str = "referring"
    annotator: int | None = None
    count: int | None = None
    span: tuple[int, int] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    answer: GroundedAnswer | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """A clip of a data set. Frames, masks, boxes and points are read when asked for, never before.

    A frame is a number from 0, the same for frames, masks, boxes and points; `frame_names` says what the data set
    calls it. None stands for "not annotated", an empty mask or no point for "annotated, and not there".

    Attributes:
        dataset, split: where it is from.
        clip: the set's name of the video.
        media: where the frames come from.
        expressions: sentences about the clip.
        objects: ids, each with the name of its category or None.
        annotations: what is known of the objects.
        fps: frames a second, where the set says so.
        more: further fields as the set has them.
    """

    dataset: str
    split: str
    clip: str
    media: ImageSequence | VideoFile | GeneratedFrames
    expressions: tuple[Expression, ...]
    objects: Mapping[str, str | None]
    annotations: Annotations = field(default_factory=Annotations)
    fps: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fps is not None:  # an index may hold a text
            try:
                rate = float(self.fps)
            except (TypeError, ValueError):
                rate = -1.0
            if not 0 < rate < float("inf"):
                raise Unreadable(f"{self}: fps is {self.fps!r}, expected frames a second")
            object.__setattr__(self, "fps", rate)

    @property
    def frame_names(self) -> tuple[str, ...]:
        """Names of the frames; empty for a video file that counts with all its frames."""
        return self.media.names

    def frames(self) -> Frames:
        """The frames; close them or use them in a `with`.

        Raises:
            BadInput: they are missing or cannot be read.
        """
        return self.media.open(self.fps)

    def whole(self) -> tuple[Frames, Float[np.ndarray, " frames"]]:
        """All frames of the video, not only those that belong to the record, and the seconds of those that do.

        Raises:
            BadInput: they are missing or cannot be read, or a frame that is annotated is not there.
        """
        media = self.media
        if not isinstance(media, VideoFile) or (media.numbers is None and media.times_s is None):
            frames = media.open(self.fps)
            return frames, np.asarray(frames.times_s, np.float64)
        if media.numbers is None:
            return replace(media, names=(), times_s=None).open(self.fps), np.array(media.times_s, np.float64)
        with media.open(self.fps) as chosen:  # which finds numbers beyond the last frame
            times = np.asarray(chosen.times_s, np.float64)
        return replace(media, names=(), numbers=None).open(self.fps), times

    def size(self) -> tuple[int, int]:
        """Height and width, from the index or from the header of the first frame."""
        return self._size

    @cached_property
    def _size(self) -> tuple[int, int]:
        return self.media.size()

    def mask_of(self, object_id: str, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Mask of an object on a frame."""
        return self.annotations.mask(self._known(object_id), self._frame(frame), self.size)

    def masks(self, frame: int) -> Bool[np.ndarray, "objects height width"] | None:
        """Masks of all objects in the order of `objects`; None where none of them is annotated."""
        if not self.objects:
            return None
        return self.annotations.masks(tuple(self.objects), self._frame(frame), self.size)

    def truth(self, expression: Expression, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Union of the masks of the objects that an expression means; None where any of them is not annotated."""
        if expression.objects is None:
            return None
        if not expression.objects:
            return np.zeros(self.size(), dtype=bool)
        found = [self.mask_of(object_id, frame) for object_id in expression.objects]
        if any(mask is None for mask in found):
            return None
        sizes = {mask.shape for mask in found}
        if len(sizes) > 1:
            raise Unreadable(f"{self}: masks of frame {frame} differ in size: {sorted(sizes)}")
        return np.logical_or.reduce(found)

    def labels(self, frame: int) -> Integer[np.ndarray, "height width"] | None:
        """Object ids by pixel as stored (DAVIS: 255 is void), for sets that store one image for all objects."""
        return self.annotations.labels(self._frame(frame))

    def foreground(self, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Everything in the foreground, where the set says so beside its objects (ReVOS)."""
        return self.annotations.foreground(self._frame(frame))

    def void(self, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Pixels that count for nothing, where the set tells of them beside its objects; None where there are none."""
        return self.annotations.void(self._frame(frame))

    def box_of(self, object_id: str, frame: int) -> Float[np.ndarray, "4"] | None:
        """Left, top, width, height in pixels from 0; None where the object is absent or not annotated."""
        return as_box(self.annotations.box(self._known(object_id), self._frame(frame)))

    def points_of(self, object_id: str, frame: int) -> Float32[np.ndarray, "points 2"] | None:
        """Points in pixels, x then y."""
        points = self.annotations.points(self._known(object_id), self._frame(frame))
        if points is None:
            return None
        try:
            array = np.array(points, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise Unreadable(f"{self}: frame {frame} has points {points!r}; expected pairs of x and y") from None
        if len(array) and self.annotations.in_percent:
            height, width = self.size()
            array = array * (width, height) / 100
        return array.astype(np.float32)

    def _known(self, object_id: str) -> str:
        if object_id not in self.objects:
            raise BadInput(f"{self}: no object {object_id!r}; expected one of {', '.join(self.objects) or 'none'}")
        return object_id

    def _frame(self, frame: int) -> int:
        if frame < 0 or (self.frame_names and frame >= len(self.frame_names)):
            raise IndexError(f"{self}: no frame {frame}; expected 0 to {len(self.frame_names) - 1}")
        return frame

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}, {self.clip}"


class Records(Sequence[Record]):
    """The records of a split, each built when asked for.

    Attributes:
        dataset, split, root: what was read.
        notes: what the reader had to assume.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        root: Path | None,
        keys: Sequence[Any],
        build: Callable[[Any], Record],
        notes: Sequence[str] = (),
    ):
        self.dataset, self.split, self.root, self.notes = dataset, split, root, tuple(notes)
        self._keys, self._build = keys, build

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> Records: ...
    def __getitem__(self, number):
        """Record `number`, or records for a slice.

        Raises:
            BadInput: the index says something else of it than is documented.
        """
        if isinstance(number, slice):
            keys = [self._keys[n] for n in range(len(self))[number]]
            return Records(self.dataset, self.split, self.root, keys, self._build, self.notes)
        key = self._keys[number]
        try:
            return self._build(key)
        except BadInput:
            raise
        except MALFORMED as error:
            name = key if isinstance(key, (str, int)) else f"record {number}"
            reason = f"{type(error).__name__}: {error}"
            raise Unreadable(f"{self.dataset} {self.split}, {name}: not as documented ({reason})") from error

    def of(self, key: Any) -> Record:
        """The record of a clip by the reader's own key for it, which most call by its name.

        Raises:
            BadInput: there is none.
        """
        if key not in self._keys:
            raise BadInput(f"{self.dataset} {self.split}: has no clip {key!r}; download it again, both sets alike")
        return self[self._keys.index(key)]

    def __repr__(self) -> str:
        return f"Records({self.dataset!r}, {self.split!r}, {len(self)} records)"


def first_records(records: Records, limit: int | None) -> Records:
    """The first `limit` records, all for None.

    Raises:
        BadInput: a limit below 1.
    """
    if limit is None:
        return records
    count = as_int(limit)
    if count is None:
        raise BadInput(f"limit is {limit!r}, expected at least 1 clip; leave it out for all")
    return records[:count]


def image_sequence(folder: Path, names: Sequence[Any], suffix: str = ".jpg", **known: Any) -> ImageSequence:
    """Frames called {folder}/{name}{suffix}, with names from an index."""
    return ImageSequence(tuple(safe_join(folder, f"{name}{suffix}") for name in names), tuple(map(str, names)), **known)


def in_order(ids: Sequence[Any]) -> list[str]:
    """Ids without repetition, numbers by value and before names.

    Example:
        >>> in_order(["10", 2, "2", "a"])
        ['2', '10', 'a']
    """
    return sorted(set(map(str, ids)), key=lambda name: (not name.isdecimal(), len(name), name))
