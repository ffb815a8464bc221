"""Pictures of masks: numbers of objects, or foreground and background, whichever way they were written.

Grey values and palette indices are numbers of objects, 0 is background. But a palette whose order is no order of
objects is read by its colours: tools that reduce colours (Pillow's `quantize`) number them as they please, and of a
white mask on black often make white 0 and black 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from videomolmo.errors import Unreadable
from videomolmo.image_folder import opened_image, orientation, turned

if TYPE_CHECKING:
    from PIL import Image

_NEARLY_BLACK, _BRIGHT = 48, 96  # of 255: what tools that blend colours leave of black, and from where on it is none
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")  # modes where what is opaque is not yet foreground


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
            that is none of objects, black is 0 and the colour 1; of greys in such an order the levels count.
        what: the picture is called in errors.
        as_stored: whether no tag in the file turns it.

    Raises:
        MissingFile, Unreadable: no such file, no image, one in colours, or a palette whose numbers are no objects.
    """
    with opened_image(path, what) as image:
        image.load()  # a TIFF is turned by this, and forgets its tag
        turn = 1 if as_stored else orientation(image)
        labels = np.asarray(image)
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
    return turned(labels.view(np.uint8) if labels.dtype == bool else labels, turn)


def read_foreground(path: Path) -> Foreground:
    """Foreground and background of a picture of one mask, also of one in colours.

    Raises:
        MissingFile, Unreadable: no such file, or no image.
    """
    with opened_image(path) as image:
        image.load()
        turn = orientation(image)
        if image.mode == "P":
            palette = _Palette(image)
            values = palette.indices != palette.background if palette.values is None else palette.values
        else:
            values = np.asarray(image.convert("RGB") if image.mode in _TRANSPARENT else image)
            values = values.max(axis=-1) if values.ndim == 3 else values
    return Foreground(turned(values != 0, turn), turn != 1, len(_used(values)) > 2)


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
