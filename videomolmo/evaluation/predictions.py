"""Predicted masks on disk as public tools and servers take them: one PNG for each frame of each expression."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput, MissingFile, Unreadable
from videomolmo.io.files import atomic_file
from videomolmo.io.images import in_natural_order, read_foreground
from videomolmo.io.untrusted import open_plain

LAYOUT = "{clip}/{expression}/{frame}.png"
FIELDS = ("clip", "expression", "frame", "object", "source", "exp_id")
UNUSUAL = {  # what may be so of a mask, and what was done with it
    "levels": "hold several values (grey levels or objects): every pixel but 0 was taken for foreground, so that "
    "probabilities should be saved in black and white",
    "turned": "have an EXIF orientation: they were turned as it says",
    "lying": "lie on their side, width and height exchanged: they were stretched to the size of the clip, not turned",
    "size": "are of another size than the clip: they were scaled to it (nearest neighbour)",
}
SERVER_LAYOUTS = {"mevis": LAYOUT, "ref_youtube_vos": "Annotations/" + LAYOUT}


@dataclass(frozen=True)
class Predictions:
    """A folder of masks, ours or another system's.

    Args:
        root: of all PNGs; any pixel but 0 or black is foreground.
        layout: path of a PNG below `root`, with {clip}, {expression} and {frame}; where an expression means one
            object also with {object}, and with {source} and {exp_id} where the data set has them. ReasonVOS's own
            tools write "{source}_{clip}_{object}/{exp_id}/{frame}.png".

    Attributes:
        unusual: of the masks read so far those of other sizes, lying, turned, or with several values; see `notes`.

    Raises:
        BadInput: a layout with unknown fields, without {frame}, or of other files than PNGs.
    """

    root: Path
    layout: str = LAYOUT
    unusual: dict[str, set[Path]] = field(default_factory=lambda: {name: set() for name in UNUSUAL}, compare=False)

    def __post_init__(self) -> None:
        self._filled(**dict.fromkeys(FIELDS, "0"))
        if "{frame}" not in self.layout.removesuffix(".png") or not self.layout.endswith(".png"):
            raise BadInput(f"layout {self.layout!r}: expected {{frame}} in it, and .png at its end")

    def path(self, record: Record, expression: Expression, frame: int) -> Path:
        """The file of one mask.

        Raises:
            BadInput: a name that leads out of `root`, or a field that this expression has nothing for.
        """
        path = self._filled(**_names(record, expression, frame))
        if not path.is_relative_to(self.root) or ".." in path.relative_to(self.root).parts:
            raise BadInput(f"{path} leads out of {self.root}; rename the clip or the expression")
        return path

    def _filled(self, **names: str) -> Path:
        try:
            return self.root / self.layout.format(**names)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise BadInput(f"layout {self.layout!r} has fields that are not among {', '.join(names)}") from error

    def missing_frames(self, record: Record, expression: Expression, frames: int) -> int:
        """How many of the first `frames` frames have no file."""
        return sum(not self.path(record, expression, frame).is_file() for frame in range(frames))

    def read(
        self, record: Record, expression: Expression, frame: int, size: tuple[int, int]
    ) -> Bool[np.ndarray, "height width"] | None:
        """One mask at `size` (nearest neighbour); None where its file is missing or cannot be read."""
        path = self.path(record, expression, frame)
        try:
            mask, is_turned, has_levels = read_foreground(path)
        except (MissingFile, Unreadable):
            return None
        lies = mask.shape != size and mask.shape == size[::-1]
        found = {"levels": has_levels, "turned": is_turned, "lying": lies, "size": mask.shape != size and not lies}
        for name in (name for name, is_so in found.items() if is_so):
            self.unusual[name].add(path)
        if mask.shape == size:
            return mask
        return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))

    def notes(self) -> list[str]:
        """What was done with unusual masks, a line each: how many, what, and the first of them."""
        return [
            f"{len(paths)} masks {UNUSUAL[name]}; the first is {in_natural_order(paths)[0]}"
            for name, paths in self.unusual.items()
            if paths
        ]

    def write(self, record: Record, expression: Expression, frame: int, mask: Bool[np.ndarray, "height width"]) -> None:
        """One mask as a PNG of 0 and 255."""
        path = self.path(record, expression, frame)
        with atomic_file(path) as unfinished:
            Image.fromarray(mask.astype(np.uint8) * 255).save(unfinished, "PNG")


def _names(record: Record, expression: Expression, frame: int) -> dict[str, str]:
    """What the fields of a layout stand for."""
    names = {"clip": record.clip, "expression": expression.id, "frame": frame_name(record, frame)}
    if expression.objects is not None and len(expression.objects) == 1:
        names["object"] = expression.objects[0]
    more = {"source": str(record.more.get("source", "")).lower(), "exp_id": str(expression.more.get("exp_id", ""))}
    return names | {name: value for name, value in more.items() if value}


def frame_name(record: Record, frame: int) -> str:
    """What the data set calls a frame; five digits where it has only a video file."""
    return record.frame_names[frame] if record.frame_names else f"{frame:05d}"


def check_submission(dataset: str, target: Path) -> None:
    """Nothing where a zip for a server can be written.

    Raises:
        BadInput: a benchmark without a server, or a target that exists or has no folder.
    """
    if dataset not in SERVER_LAYOUTS:
        raise BadInput(f"{dataset} has no server here, expected one of {', '.join(SERVER_LAYOUTS)}")
    if target.exists() or not target.parent.is_dir():
        raise BadInput(f"{target} exists or lies in no folder; give another name")


def write_submission(records: Iterator[Record], predictions: Predictions, dataset: str, target: Path) -> int:
    """A zip as the benchmark's server takes it, with every frame of every expression; returns the number of masks.

    Raises:
        BadInput: a benchmark without a server, masks that are missing, or a target that exists.
    """
    check_submission(dataset, target)
    entries: list[tuple[Path, str]] = []
    sizes: dict[Path, tuple[int, int]] = {}
    for record in records:
        for expression in record.expressions:
            for frame in range(len(record.frame_names)):
                names = {"clip": record.clip, "expression": expression.id, "frame": frame_name(record, frame)}
                entries.append((predictions.path(record, expression, frame), SERVER_LAYOUTS[dataset].format(**names)))
                sizes[entries[-1][0]] = record.size()
    missing = [path for path, _ in entries if not path.is_file()]
    if missing or not entries:
        raise BadInput(
            f"{len(missing)} of {len(entries)} masks are missing, the first is {missing[:1]}; evaluate first"
        )
    for path, size in sizes.items():
        _check_mask(path, size)
    with atomic_file(target, replace=False) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for path, name in entries:
            archive.writestr(name, _as_served(path))
    return len(entries)


def _as_served(path: Path) -> bytes:
    """The file of a mask; of one with a palette the same in 0 and 255, since servers may read indices or colours."""
    with Image.open(path) as image:
        if image.mode != "P":
            return path.read_bytes()
    written = io.BytesIO()
    Image.fromarray(read_foreground(path).mask.astype(np.uint8) * 255).save(written, "PNG")
    return written.getvalue()


def _check_mask(path: Path, size: tuple[int, int]) -> None:
    """Nothing where a server can read the file: a PNG of one channel in the size of the clip."""
    try:
        with open_plain(path) as file, Image.open(file) as image:
            kind, found = (image.format, image.mode), image.size[::-1]
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); evaluate again") from None
    if kind[0] != "PNG" or kind[1] not in ("1", "L", "P") or found != size:
        raise BadInput(f"{path}: {kind[0]} {kind[1]} of size {found}; expected a PNG of one channel of size {size}")
