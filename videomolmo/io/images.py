"""Image files in natural order, turned as their tags say: frames of a folder, and pictures of masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer, UInt8

from videomolmo.errors import BadInput, MissingFile, Unreadable
from videomolmo.io.untrusted import open_plain
from videomolmo.io.video_decode import BrokenVideo

if TYPE_CHECKING:
    from PIL import Image


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 precedes frame10, whatever the case.

    Example:
        >>> sorted(["f10.png", "F2.png", "f1.png"], key=natural_key)
        ['f1.png', 'F2.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts] + [(2, 0, name)]


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by their folders, and in each by `natural_key` of their names."""
    return sorted(paths, key=lambda path: [natural_key(part) for part in path.parts])


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder, in natural order, but for what is hidden, such as macOS's "._1.png"."""
    found = (path for path in folder.glob(pattern) if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix()))
    return in_natural_order(found)


IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
# pictures as well, which would be missed among the frames if they were passed over without a word
_OTHER_SUFFIXES = (
    ".gif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg", ".tga", ".dpx", ".pnm", ".pfm", ".apng", ".qoi", ".dds",
)  # fmt: skip
_LYING, _MIRRORED, _UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)  # EXIF orientations; see `turned`


class ImageReader:
    """Frames of image files, each decoded when it is read; made for `videomolmo.io.video.Frames`.

    Args:
        paths: one for each frame.
        fps: frames a second.
        times_s: when each frame is shown; evenly spaced unless given.
        annotated: whether masks and boxes belong to the pixels as they are stored, so that no tag turns them, and none
            may be missing. Otherwise a frame that cannot be read is where the video breaks off.

    Raises:
        BadInput: the first image cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], fps: float, times_s: Sequence[float] | None = None, annotated: bool = False
    ):
        self._paths, self._annotated = paths, annotated
        self.height, self.width = image_size(paths[0], as_stored=annotated)
        self.fps, self.warning = float(fps), None
        times_s = np.arange(len(paths)) / fps if times_s is None else times_s
        self.times_s: Float64[np.ndarray, " frames"] = np.asarray(times_s, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `number`.

        Raises:
            BrokenVideo: it cannot be read.
            MissingFile, Unreadable: likewise, of annotated frames.
        """
        path = self._paths[number]
        try:
            return self._read(path)
        except BadInput as error:
            if self._annotated:
                raise
            reason = str(error).removeprefix(f"{path}: the image ").removesuffix("; replace or remove it")
            self.warning = f"decoded {number} of {len(self)} frames, then: {path.name} {reason}"
            raise BrokenVideo(str(error)) from None

    def _read(self, path: Path) -> UInt8[np.ndarray, "height width 3"]:
        with open_image(path) as image:
            _check_depth(path, image.mode)
            image.load()  # a TIFF is turned by this, and forgets its tag
            exif = 1 if self._annotated else orientation(image)
            pixels = oriented(np.asarray(image.convert("RGB")), exif).copy()
        if pixels.shape[:2] != (self.height, self.width):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise Unreadable(f"{path}: is {size}; expected {self.width}x{self.height} as the first frame")
        return pixels

    def close(self) -> None:
        """Nothing to release."""


def read_folder(folder: Path, fps: float) -> ImageReader:
    """The images of a folder in natural order, turned as their EXIF tags say; only their headers are read.

    Raises:
        BadInput: no image, images of several sizes, a picture of a kind that cannot be read, or one frame twice.
    """
    paths = list_images(folder)
    reader = ImageReader(paths, fps)
    for path in paths[1:]:
        height, width = image_size(path)
        if (width, height) != (reader.width, reader.height):
            raise BadInput(
                f"{folder}: {paths[0].name} is {reader.width}x{reader.height}, {path.name} is {width}x{height}; "
                "expected images of one size, so resize them or move the odd ones away"
            )
    return reader


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Pictures of a folder in natural order; hidden files, and files that are no pictures, are passed over.

    Raises:
        BadInput: there is none, one that cannot be read here, or two with the same number: a frame and its mask,
            or the same frame in two formats.
    """
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()]
    found = in_natural_order(path for path in files if path.suffix.lower() in suffixes)
    others = in_natural_order(path for path in files if path.suffix.lower() in _OTHER_SUFFIXES)
    expected = f"files ending in {', '.join(suffixes)}"
    if others:
        named = others[0].name + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        raise BadInput(f"{folder}: {named} would be left out; expected {expected}, so convert or move away what is not")
    if not found:
        raise BadInput(f"{folder}: no image in this folder; expected {expected}")
    _check_once_each(folder, found)
    return found


def _check_once_each(folder: Path, paths: list[Path]) -> None:
    """Nothing where no two names have the same numbers, or without numbers are the same but for their endings."""
    there: dict[object, Path] = {}
    twice = []
    for path in paths:
        numbers = tuple(int(number) for number in re.findall(r"[0-9]+", path.stem))
        first = there.setdefault(numbers or path.stem.lower(), path)
        if first is not path:
            twice.append((first, path))
    if twice:
        (first, second), count = twice[0], len(twice)
        raise BadInput(
            f"{folder}: {first.name} and {second.name} are both picture {first.stem} ({count} such pairs); expected "
            "one picture a frame, so move the masks or copies into a folder of their own"
        )


@contextmanager
def open_image(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """An image file, open for the length of the block; errors speak of `what`.

    Raises:
        MissingFile, Unreadable: no such file, or no image, or one that is damaged or too large.
    """
    from PIL import Image

    try:
        file = open_plain(path)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such {what}") from None
    except (OSError, BadInput) as error:
        raise Unreadable(f"{path}: the {what} cannot be read ({error}); replace or remove it") from None
    try:
        with file, Image.open(file) as image:
            yield image
    except BadInput:
        raise
    except Exception as error:  # of damaged files Pillow raises whatever its parsers meet
        raise Unreadable(f"{path}: the {what} cannot be read ({error}); replace or remove it") from None


def image_size(path: Path, as_stored: bool = False) -> tuple[int, int]:
    """Height and width from the header of an image file, as shown, or as stored.

    Raises:
        MissingFile, Unreadable: no such file, or no image of 8 bits a channel.
    """
    with open_image(path) as image:
        mode, exif = image.mode, 1 if as_stored else orientation(image)
        if image.format == "TIFF" and exif in _LYING:
            image.load()  # turns it
            exif = 1
        width, height = image.size
    _check_depth(path, mode)
    return (width, height) if exif in _LYING else (height, width)


def _check_depth(path: Path, mode: str) -> None:
    if mode.startswith(("I", "F")):
        raise Unreadable(f"{path}: has more than 8 bits a channel (mode {mode}); convert it to an 8-bit image")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1, upright, for anything else that stands there."""
    try:
        value: Any = image.getexif().get(0x0112)
    except Exception:  # whatever a damaged tag raises, the pixels are whole
        return 1
    return value if type(value) is int and 1 <= value <= 8 else 1


def oriented(pixels: np.ndarray, exif: int) -> np.ndarray:
    """A picture (height, width, …) as it is meant to be shown, from its EXIF orientation 1 to 8.

    Example:
        >>> oriented(np.array([[1, 2]]), 6).tolist(), oriented(np.array([[1, 2]]), 2).tolist()
        ([[1], [2]], [[2, 1]])
    """
    if exif in _LYING:
        pixels = pixels.swapaxes(0, 1)
    if exif in _MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if exif in _UPSIDE_DOWN else pixels


_NEARLY_BLACK, _BRIGHT = 48, 96  # of 255: what tools that blend colours leave of black, and from where on it is none


class Foreground(NamedTuple):
    """A mask, and what is unusual about its picture.

    Attributes:
        mask: any pixel but black or 0.
        is_turned: a tag in the file turned it.
        has_levels: it has several values, grey levels or objects, where one would do.
    """

    mask: Bool[np.ndarray, "height width"]
    is_turned: bool
    has_levels: bool


def read_labels(path: Path, what: str = "image", as_stored: bool = False) -> Integer[np.ndarray, "height width"]:
    """The number of the object at each pixel of a picture of masks.

    Args:
        path: of a picture in grey levels, bits or with a palette. Where the palette is black and one colour in an order
            that is none of objects, black is 0 and the colour 1; of greys in such an order the levels count. What is
            transparent is 0; where all is of one colour, the levels are those of the alpha channel.
        what: the picture is called in errors.
        as_stored: whether no tag in the file turns it.

    Raises:
        MissingFile, Unreadable: no such file, no image, one in colours, or a palette whose numbers are no objects.
    """
    with open_image(path, what) as image:
        is_deep = any(";16" in str(tile[3]) for tile in image.tile)  # of colours Pillow then reads the upper 8 bits
        image.load()  # a TIFF is turned by this, and forgets its tag
        exif = 1 if as_stored else orientation(image)
        labels = np.asarray(image)
        if labels.ndim == 3 and not is_deep:
            colours = _seen_colours(image)
            labels = colours[..., 0] if (colours == colours[..., :1]).all() else labels  # greys, stored as colours
        if labels.ndim != 2 or labels.dtype.kind not in "bui":
            channels = f"{labels.shape[-1]} channels" if labels.ndim > 2 else "fractions"
            raise Unreadable(
                f"{path}: has {channels} (mode {image.mode}); expected a palette or grey image of object ids"
            )
        if image.mode == "P":
            labels = _Palette(image).values
            if labels is None:
                raise Unreadable(
                    f"{path}: its palette has black elsewhere than at 0, so that its numbers follow no order of "
                    "objects; save it with 0 for the background"
                )
    return oriented(labels.view(np.uint8) if labels.dtype == bool else labels, exif)


def read_foreground(path: Path) -> Foreground:
    """Foreground and background of a picture of one mask, also of one in colours.

    Raises:
        MissingFile, Unreadable: no such file, or no image.
    """
    with open_image(path) as image:
        image.load()
        exif = orientation(image)
        if image.mode == "P":
            palette = _Palette(image)
            values = palette.indices != palette.background if palette.values is None else palette.values
        else:
            values = np.asarray(image)
            values = _seen_colours(image).max(axis=-1) if values.ndim == 3 else values
    return Foreground(oriented(values != 0, exif), exif != 1, len(_used(values)) > 2)


def _seen_colours(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of a picture, black where it is transparent; where all is of one colour, the alpha channel as grey."""
    rgba = np.asarray((image if image.has_transparency_data else image.convert("RGB")).convert("RGBA"))
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    if (colours == colours[0, 0]).all() and (alpha != alpha[0, 0]).any():
        return np.repeat(alpha, 3, axis=-1)
    return np.where(alpha > 0, colours, np.uint8(0))


class _Palette:
    """What the indices of a picture with a palette mean.

    Attributes:
        indices: as stored.
        background: the index that is background, -1 for none.
        values: numbers of objects, or levels of grey; None where the indices are in no order of objects.
    """

    def __init__(self, image: Image.Image) -> None:
        self.indices = np.asarray(image)
        self._colours = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
        self._used = _used(self.indices)
        self.background = self._find_background()
        self.values = self._find_values()

    def _find_background(self) -> int:
        """0, unless that is a colour and another index black."""
        used, light = self._used, self._colours.max(axis=1, initial=0)
        if used[-1] >= len(light):
            return 0  # the palette says nothing of some of them
        black = used[light[used] == 0]
        if len(black):
            return 0 if black[0] == 0 or 1 < len(black) == len(used) else int(black[0])
        if used[0] or light[0] < _BRIGHT:
            return 0
        darkest = int(used[light[used].argmin()])
        if light[darkest] <= _NEARLY_BLACK:
            return darkest
        others = self._colours[(self._colours != self._colours[0]).any(axis=1)]
        return -1 if len(used) == 1 and not others.any() else 0  # a palette of black and white, and all is white

    def _find_values(self) -> Integer[np.ndarray, "height width"] | None:
        if self.background == 0:
            return self.indices
        shades = self._colours[self._used]
        if len(np.unique(shades, axis=0)) <= 2:
            return (self.indices != self.background).astype(np.uint8)
        if (shades != shades[:, :1]).any():
            return None
        levels = self._colours[:, 0].copy()
        levels[self.background] = 0
        return levels[self.indices]


def _used(values: UInt8[np.ndarray, "height width"] | Integer[np.ndarray, "height width"]) -> np.ndarray:
    """The different values, in order."""
    return np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
