"""Rows of points for training and VPoS-Bench."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, BinaryPNGs, Points
from videomolmo.datasets.files import JsonLines, Unreadable, read_json, safe_join
from videomolmo.datasets.record import Expression, Record, Records, image_sequence
from videomolmo.io.images import natural_key, visible

TRAINING_ROWS = "videomolmo"
THING = "1"  # all points of a row belong to what its caption names
_QUESTION = re.compile(r"^\s*(Where is|Where are|Find|Show me|Locate|Can you see|Segment the)\s+", re.IGNORECASE)


def training_rows_splits(root: Path) -> tuple[str, ...]:
    """Names of the .jsonl files."""
    return (root.stem,) if root.is_file() else tuple(path.stem for path in visible(root, "*.jsonl"))


def read_training_rows(root: Path, split: str = "train", images: str | Path | None = None) -> Records:
    """Records of {root}/{split}.jsonl, or of a .jsonl file given as `root`.

    Args:
        root: folder of the rows, or their file.
        split: name of the file.
        images: folder that `video` of a row starts from (default: that of the rows).
    """
    path = root if root.is_file() else safe_join(root, f"{split}.jsonl")
    base, rows = Path(images or path.parent), JsonLines(path)

    def build(number: int) -> Record:
        row = rows[number]
        return record(TRAINING_ROWS, split, number, row, safe_join(base, row["video"]), digits=_digits(row))

    return Records(TRAINING_ROWS, split, root, range(len(rows)), build)


def record(
    dataset: str,
    split: str,
    number: int,
    row: dict[str, Any],
    folder: Path,
    masks: Annotations | None = None,
    digits: int = 5,
    suffix: str = ".jpg",
) -> Record:
    """The record of a row; its frames are those that the row lists."""
    numbers = [int(frame) for frame in row["frame_idxs"]]
    frames = image_sequence(
        folder, [f"{frame:0{digits}d}" for frame in numbers], suffix, times_s=_times(row.get("timestamps"), numbers)
    )
    listed = row["points"]
    if isinstance(listed, dict):  # by numbers as texts, perhaps with zeros in front
        listed = {int(frame): found for frame, found in listed.items()}
    points = {place: points_at(listed, frame) for place, frame in enumerate(numbers)}
    known = {place: found for place, found in points.items() if found is not None}
    caption = row["caption"]
    expression = Expression(str(number), clean(caption), (THING,), more={"caption": caption})
    return Record(
        dataset, split, str(row["video"]), frames, (expression,), {THING: None},
        Points({THING: known}, in_percent=True, masks=masks), row.get("fps"),
    )  # fmt: skip


def _times(times: list | None, numbers: list[int]) -> tuple[float, ...] | None:
    """Seconds of the frames that a row lists, from theirs alone or from those of every frame of the video."""
    if times is None or len(times) == len(numbers):
        return times and tuple(map(float, times))
    return tuple(float(times[frame]) for frame in numbers) if len(times) > max(numbers, default=0) else None


def _digits(row: dict[str, Any]) -> int:
    """How many digits the images are called by: `digits` of the row, which our own annotations add where it is not 5.

    Source: ours; the known shapes have no such field.
    """
    digits = row.get("digits", 5)
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 20:
        raise Unreadable(f"digits {digits!r} of a row: expected a whole number from 1 to 20, such as 5")
    return digits


def clean(caption: str) -> str:
    """The caption without the question in front.

    Example:
        >>> clean("Where is the brown bear")
        'the brown bear'
    """
    return _QUESTION.sub("", caption).strip()


def points_at(points: Any, frame: int) -> list[tuple[float, float]] | None:
    """Points of a frame in any of the known shapes; none for x = y = -1, None where the frame has no entry.

    Example:
        >>> points_at({"0": [17.4, 60.1]}, 0), points_at([[{"x": 1, "y": 2}], [{"x": -1, "y": -1}]], 1)
        ([(17.4, 60.1)], [])
    """
    if isinstance(points, dict):
        entry = points.get(str(frame), points.get(frame))
    else:
        entry = points[frame] if frame < len(points) else None
    if entry is None:
        return None
    single = isinstance(entry, dict) or (len(entry) == 2 and all(isinstance(one, (int, float, str)) for one in entry))
    pairs = [_pair(point) for point in ([entry] if single else entry)]
    return [pair for pair in pairs if pair != (-1, -1)]


def _pair(point: dict[str, float] | Sequence[float]) -> tuple[float, float]:
    try:
        x, y = (point["x"], point["y"]) if isinstance(point, dict) else point
        return float(x), float(y)
    except (KeyError, TypeError, ValueError):
        raise Unreadable(f"point {point!r}: expected [x, y] or {{'x': ..., 'y': ...}}") from None


VPOS = "vpos"
LAYOUT_FILE = "layout.json"


@dataclass(frozen=True)
class Layout:
    """Where files lie below the root; {domain} and {video} (of a row) are replaced.

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
        return safe_join(root, pattern.replace("{domain}", domain).replace("{video}", video))


def vpos_bench_splits(root: Path) -> tuple[str, ...]:
    """The domains that have rows."""
    layout = Layout.of(root)
    found = (path.name for path in visible(root, "*") if path.is_dir())
    there = (name for name in found if layout.path(root, layout.rows, name).is_file())
    return tuple(sorted(there, key=natural_key))


def read_vpos_bench(root: Path, split: str = "autonomous_driving", layout: Layout | None = None) -> Records:
    """Records of a domain.

    Args:
        root: the set's folder.
        split: domain, the name of its folder.
        layout: where files lie (default: {root}/layout.json, or `Layout()`).
    """
    layout = layout or Layout.of(root)
    rows = JsonLines(layout.path(root, layout.rows, split))

    def build(number: int) -> Record:
        row = rows[number]
        video = str(row["video"])
        folder, masks = (layout.path(root, pattern, split, video) for pattern in (layout.frames, layout.masks))
        names = [f"{int(frame):0{layout.digits}d}" for frame in row["frame_idxs"]]
        truth: Annotations = BinaryPNGs({THING: masks}, names) if masks.is_dir() else Annotations()
        return record(VPOS, split, number, row, folder, truth, layout.digits, layout.suffix)

    return Records(VPOS, split, root, range(len(rows)), build, ["the layout of this set is not documented"])
