"""Molmo 2's data sets on Hugging Face: points in video, counts, and tracks of points, as .parquet or .jsonl rows.

The videos come from elsewhere: they are looked for as videos/{id}, and those of generated ones as
generated_videos/{id}, with any suffix of a video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, Points, RLEs
from videomolmo.datasets.files import LazyJson, Unreadable, find_rows, safe_join
from videomolmo.datasets.record import Expression, Record, Records, VideoFile, video_file
from videomolmo.io.images import visible

EVAL_FPS = 2.0  # of `frame_id` in Molmo2-VideoPointEval
_COUNTED = ("category", "label", "clip_start", "clip_end", "video_duration", "video_source", "annotator_unsure")


def _reader(build: Callable[..., Record], default: str, own: tuple[str, ...] = ()) -> Callable[..., Records]:
    """A reader of rows; `own` names the options, paths, that only this one's rows take."""

    def read(
        root: Path,
        split: str = default,
        config: str | None = None,
        videos: str | Path | None = None,
        **options: str | Path | None,
    ) -> Records:
        """Records of a split, one for each row.

        Args:
            root: folder of the rows.
            split: 'train' or 'val'.
            config: only this configuration, the name of a folder.
            videos: folder of the videos (default: videos/ and generated_videos/ in `root`).
        """
        if strange := options.keys() - {*own}:
            raise TypeError(f"got an unexpected keyword argument {min(strange)!r}")
        rows = find_rows(root, split, config)
        folders = [Path(videos)] if videos else [root / "videos", root / "generated_videos"]
        make = partial(build, rows=rows, split=split, folders=folders, **options)
        return Records(build.__name__.lstrip("_"), split, root, range(len(rows)), make)

    return read


def _molmo2_video_point(number: int, rows: Sequence[dict], split: str, folders: list[Path]) -> Record:
    """Points in percent at the seconds of `two_fps_timestamps`; all belong to what the label names.

    `fps` of a row, which our own annotations add, is that of a folder of images.
    """
    row = rows[number]
    times = tuple(map(float, row["two_fps_timestamps"]))
    if len(row["points"]) != len(times):
        raise Unreadable(f"row {number + 1}: {len(row['points'])} lists of points for {len(times)} timestamps")
    points = {frame: [_xy(point) for point in found] for frame, found in enumerate(row["points"])}
    video = _video(folders, row["video_id"], names=tuple(map(str, times)), times_s=times)
    expression = Expression(
        str(number), row.get("question") or row["label"], ("1",), "question", count=_count(row), more=_more(row)
    )
    return Record(
        "molmo2_video_point", split, str(row["video_id"]), video, (expression,), {"1": row["label"]},
        Points({"1": points}, in_percent=True), row.get("fps"), _more(row),
    )  # fmt: skip


def _molmo2_video_point_eval(number: int, rows: Sequence[dict], split: str, folders: list[Path]) -> Record:
    """Objects with a point in pixels each, at its timestamp, and masks at frame_id / 2 seconds."""
    row = rows[number]
    points, times, masks = row["points"], list(map(float, row["two_fps_timestamps"])), row["masks"]
    if not len(points) == len(times) == len(masks):
        raise Unreadable(f"row {number + 1}: expected one point, timestamp and list of masks for each object")
    object_ids = [str(object_id) for object_id in range(1, len(points) + 1)]
    seconds = {round(time, 3) for time in times} | {mask["frame_id"] / EVAL_FPS for found in masks for mask in found}
    frames = {time: frame for frame, time in enumerate(sorted(seconds))}
    runs = {
        object_id: {frames[mask["frame_id"] / EVAL_FPS]: mask["rle"] for mask in found}
        for object_id, found in zip(object_ids, masks, strict=True)
    }
    placed = {
        object_id: {frames[round(time, 3)]: [_xy(point)]}
        for object_id, point, time in zip(object_ids, points, times, strict=True)
    }
    truth = RLEs(lambda: runs, len(frames), f"row {number + 1}", null=False)
    video = _video(
        folders, row["video_id"], names=tuple(map(str, frames)), times_s=tuple(frames),
        height_width=(int(row["height"]), int(row["width"])),
    )  # fmt: skip
    question = f'How many "{row["label"]}" are there in the video?'
    expression = Expression(str(number), question, tuple(object_ids), "question", count=len(points), more=_more(row))
    return Record(
        "molmo2_video_point_eval", split, str(row["video_id"]), video, (expression,),
        dict.fromkeys(object_ids, row["label"]), Points(placed, masks=truth), more=_more(row),
    )  # fmt: skip


def _count_record(dataset: str, number: int, rows: Sequence[dict], split: str, folders: list[Path]) -> Record:
    row = rows[number]
    expression = Expression(str(number), row["question"], None, "question", count=_count(row), more=_more(row))
    video = _video(folders, row["video_id"])
    return Record(dataset, split, str(row["video_id"]), video, (expression,), {}, more=_more(row))


def _molmo2_video_count(number: int, **known: Any) -> Record:
    """A question with its count; the whole video, `more` has where its clip starts and ends."""
    return _count_record("molmo2_video_count", number, **known)


def _molmo2_video_count_eval(number: int, **known: Any) -> Record:
    return _count_record("molmo2_video_count_eval", number, **known)


def _molmo2_track(
    number: int, rows: Sequence[dict], split: str, folders: list[Path], masks: str | Path | None = None
) -> Record:
    """Points of several objects on the frames of `frame_trajectories`; a hidden object has none.

    Args:
        masks: JSON of run lengths by mask id; the i-th id in order has the i-th of `mask_id`.
    """
    row = rows[number]
    entries = row["frame_trajectories"]
    numbers = tuple(int(entry["frame"]) for entry in entries)
    points: dict[str, dict[int, list]] = defaultdict(lambda: {frame: [] for frame in range(len(numbers))})
    for frame, entry in enumerate(entries):
        for point in entry["points"]:
            points[str(point["id"])][frame] = [] if point.get("occluded") else [tuple(point["point"])]
    object_ids = sorted(points, key=lambda object_id: (len(object_id), object_id))
    truth = _track_masks(row, object_ids, numbers, Path(masks)) if masks else None
    video = _video(
        folders, row["video"], names=tuple(map(str, numbers)), numbers=numbers,
        height_width=(int(row["height"]), int(row["width"])),
    )  # fmt: skip
    more = {key: row[key] for key in ("task", "sampling_fps", "n_frames", "mask_id", "obj_id", "qid") if key in row}
    more["times_s"] = [seconds(entry["time"]) for entry in entries]
    expression = Expression(str(row.get("id", number)), row["expression"], tuple(object_ids), more=more)
    return Record(
        "molmo2_track", split, str(row["video"]), video, (expression,), dict.fromkeys(object_ids),
        Points(dict(points), masks=truth), row.get("fps"), more,
    )  # fmt: skip


def _track_masks(row: dict[str, Any], object_ids: list[str], numbers: tuple[int, ...], path: Path) -> Annotations:
    names = [str(name) for name in row["mask_id"]]
    if len(names) != len(object_ids):
        raise Unreadable(f"row {row.get('id')}: {len(names)} mask ids for {len(object_ids)} objects")
    file = LazyJson(path, "run lengths by mask id")

    def load() -> dict[str, dict[int, Any]]:
        return {
            object_id: _runs(file.content[name], numbers) for object_id, name in zip(object_ids, names, strict=True)
        }

    return RLEs(load, len(numbers), path)


def _runs(entries: list, numbers: tuple[int, ...]) -> dict[int, Any]:
    """Run lengths by place in `numbers`, from a list by frame or from entries {'frame', 'mask'}."""
    listed = dict(enumerate(entries))
    if any(isinstance(entry, dict) and "mask" in entry for entry in entries):
        listed = {int(entry["frame"]): entry["mask"] for entry in entries}
    return {place: listed.get(number) for place, number in enumerate(numbers)}


def seconds(time: float | str) -> float:
    """Seconds of a time that is a number or MM:SS.FF or HH:MM:SS.FF, FF being decimals.

    Example:
        >>> seconds(1.5), seconds("01:02.50"), seconds("1:00:00.00")
        (1.5, 62.5, 3600.0)
    """
    total = 0.0
    for part in str(time).split(":"):
        total = 60 * total + float(part)
    return total


def _video(folders: list[Path], name: Any, **known: Any) -> VideoFile:
    return video_file(*(safe_join(folder, name) for folder in folders), **known)


def _xy(point: dict[str, float]) -> tuple[float, float]:
    return point["x"], point["y"]


def _count(row: dict[str, Any]) -> int | None:
    return None if row.get("count") is None else int(row["count"])


def _more(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in _COUNTED if key in row}


def splits(root: Path) -> tuple[str, ...]:
    """Names of the tables that are there: what precedes the first '-' of a .parquet, or a whole .jsonl or .json."""
    tables = [path for pattern in ("*", "*/*") for path in visible(root, pattern) if path.is_file()]
    found = {path.stem.split("-")[0] for path in tables if path.suffix == ".parquet"}
    found |= {path.stem for path in tables if path.suffix in (".jsonl", ".json")}
    return tuple(sorted(found & {"train", "val", "validation", "test"}))


read_video_point = _reader(_molmo2_video_point, "train")
read_video_point_eval = _reader(_molmo2_video_point_eval, "val")
read_video_count = _reader(_molmo2_video_count, "train")
read_video_count_eval = _reader(_molmo2_video_count_eval, "val")
read_track = _reader(_molmo2_track, "train", own=("masks",))
