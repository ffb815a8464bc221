"""VidSTG as TubeDETR prepares it: a moment of a video, a question or a statement, and the box of its target."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Boxes
from videomolmo.datasets.files import Unreadable, inside, read_json
from videomolmo.datasets.media import VideoFile
from videomolmo.datasets.record import Expression, Record, Records, in_order

NAME = "vidstg"
SPLITS = ("train", "val", "test")
MOST_FRAMES = 10**7  # of one video; more than any real one has
KINDS = {"declarative": "referring", "interrogative": "question"}


def read(root: Path, split: str = "test", videos: str | Path | None = None) -> Records:
    """Records of a split: one for each part of a video that was used, with all sentences about it.

    Args:
        root: folder with {split}.json, or with annotations/{split}.json.
        split: which file.
        videos: folder that `video_path` starts from (default: video/ in `root`).
    """
    path = next((place for place in (root / f"{split}.json", root / "annotations" / f"{split}.json")
                 if place.is_file()), root / f"{split}.json")  # fmt: skip
    index = read_json(path, "videos and trajectories")
    folder, trajectories = Path(videos or root / "video"), index["trajectories"]
    parts: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in index["videos"]:
        parts[str(row["original_video_id"]), int(row["start_frame"]), int(row["end_frame"])].append(row)

    def build(part: tuple[str, int, int]) -> Record:
        name, start, end = part
        if not 0 <= start < end <= MOST_FRAMES:
            raise Unreadable(f"{path}: {name} is used from frame {start} to {end}; expected a part of a video")
        rows = parts[part]
        first = rows[0]
        numbers = tuple(range(start, end))
        video = VideoFile(
            (inside(folder, first["video_path"]),), tuple(map(str, numbers)), numbers,
            height_width=(int(first["height"]), int(first["width"])),
        )  # fmt: skip
        things = in_order([row["target_id"] for row in rows])
        boxes = {
            thing: {int(number) - start: found["bbox"] for number, found in trajectories[name][thing].items()}
            for thing in things
        }
        expressions = tuple(_expression(row, start, end) for row in rows)
        return Record(NAME, split, f"{name}:{start}-{end}", video, expressions, dict.fromkeys(things),
                      Boxes(boxes), first.get("fps"))  # fmt: skip

    return Records(NAME, split, root, list(parts), build)


def _expression(row: dict[str, Any], start: int, end: int) -> Expression:
    span = int(row["tube_start_frame"]) - start, min(int(row["tube_end_frame"]), end) - start
    more = {"qtype": row["qtype"], "type": row.get("type")}
    return Expression(
        str(row["video_id"]), row["caption"], (str(row["target_id"]),), KINDS[row["qtype"]], span=span, more=more
    )
