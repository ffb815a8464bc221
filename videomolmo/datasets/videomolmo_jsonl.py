"""VideoMolmo's training rows: a folder of frames, a caption, and points in percent on some of the frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, Points
from videomolmo.datasets.files import JsonLines, Unreadable, inside
from videomolmo.datasets.record import Expression, Record, Records, pictures
from videomolmo.listing import in_natural_order

NAME = "videomolmo"
THING = "1"  # all points of a row belong to what its caption names
_QUESTION = re.compile(r"^\s*(Where is|Where are|Find|Show me|Locate|Can you see|Segment the)\s+", re.IGNORECASE)


def splits(root: Path) -> tuple[str, ...]:
    """Names of the .jsonl files."""
    return (root.stem,) if root.is_file() else tuple(path.stem for path in in_natural_order(root.glob("*.jsonl")))


def read(root: Path, split: str = "train", images: str | Path | None = None) -> Records:
    """Records of {root}/{split}.jsonl, or of a .jsonl file given as `root`.

    Args:
        root: folder of the rows, or their file.
        split: name of the file.
        images: folder that `video` of a row starts from (default: that of the rows).
    """
    path = root if root.is_file() else inside(root, f"{split}.jsonl")
    base, rows = Path(images or path.parent), JsonLines(path)

    def build(number: int) -> Record:
        row = rows[number]
        return record(NAME, split, number, row, inside(base, row["video"]), digits=_digits(row))

    return Records(NAME, split, root, range(len(rows)), build)


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
    frames = pictures(
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
