"""VPoS-Bench: its layout is not documented, so every path of it can be set."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from videomolmo.datasets.annotations import Annotations, BinaryPNGs
from videomolmo.datasets.files import JsonLines, Unreadable, inside, read_json
from videomolmo.datasets.record import Record, Records
from videomolmo.datasets.videomolmo_jsonl import THING, record
from videomolmo.listing import natural_key

NAME = "vpos"
LAYOUT_FILE = "layout.json"


@dataclass(frozen=True)
class Layout:
    """Where things are below the root; {domain} and {video} (of a row) are replaced.

    Attributes:
        rows: jsonl with `video`, `frame_idxs`, `points` in percent and `caption`.
        frames: folder with the images of a video.
        masks: folder with its masks, where there are any; values but zero are foreground.
        digits, suffix: how an image is called: number with leading zeros, and ending.
    """

    rows: str = "{domain}/annotations.jsonl"
    frames: str = "{domain}/{video}"
    masks: str = "{domain}/masks/{video}"
    digits: int = 5
    suffix: str = ".jpg"

    def __post_init__(self):
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if not isinstance(value, kind) or (kind is int and not 1 <= value <= 20):
                raise Unreadable(f"layout, {field.name}: {value!r}; expected {kind.__name__} such as {field.default!r}")

    @classmethod
    def of(cls, root: Path) -> Layout:
        """The one in {root}/layout.json, or this class's own."""
        path = root / LAYOUT_FILE
        given = read_json(path, "a layout") if path.is_file() else {}
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise Unreadable(f"{path}: {sorted(unknown)[0]!r} is no part of a layout; expected {known}")
        return cls(**given)

    def path(self, root: Path, pattern: str, domain: str, video: str = "") -> Path:
        """A path of the layout, inside `root`."""
        return inside(root, pattern.replace("{domain}", domain).replace("{video}", video))


def splits(root: Path) -> tuple[str, ...]:
    """The domains that have rows."""
    layout = Layout.of(root)
    found = (path.name for path in root.glob("*") if path.is_dir())
    there = (name for name in found if layout.path(root, layout.rows, name).is_file())
    return tuple(sorted(there, key=natural_key))


def read(root: Path, split: str = "autonomous_driving", layout: Layout | None = None) -> Records:
    """Records of a domain.

    Args:
        root: the set's folder.
        split: domain, the name of its folder.
        layout: where things are (default: {root}/layout.json, or `Layout()`).
    """
    layout = layout or Layout.of(root)
    rows = JsonLines(layout.path(root, layout.rows, split))

    def build(number: int) -> Record:
        row = rows[number]
        video = str(row["video"])
        folder, masks = (layout.path(root, pattern, split, video) for pattern in (layout.frames, layout.masks))
        names = [f"{int(frame):0{layout.digits}d}" for frame in row["frame_idxs"]]
        truth: Annotations = BinaryPNGs({THING: masks}, names) if masks.is_dir() else Annotations()
        return record(NAME, split, number, row, folder, truth, layout.digits, layout.suffix)

    return Records(NAME, split, root, range(len(rows)), build, ["the layout of this set is not documented"])
