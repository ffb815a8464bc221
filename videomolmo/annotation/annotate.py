"""Training rows: for each object the point from which SAM 2 makes the best mask; resumable."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TextIO

import numpy as np
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from tqdm import tqdm
from typing_extensions import TypedDict

from videomolmo.annotation import molmo2_rows
from videomolmo.annotation.candidate_points import deepest_pixel, num_components, sample_candidates
from videomolmo.datasets import first_records, read_dataset
from videomolmo.datasets.record import Expression, ImageSequence, Record
from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.cache import key_of
from videomolmo.io.files import UNFINISHED, atomic_file, remove_abandoned, write_json, write_text
from videomolmo.io.plain_values import as_float, as_int, as_path, require_path
from videomolmo.io.untrusted import read_json
from videomolmo.io.workers import run_all
from videomolmo.masks.sam2 import FrameFeatures, MaskTracker
from videomolmo.metrics import region_similarity
from videomolmo.weights import hub


@dataclass(frozen=True)
class Choice:
    """What was chosen for one object on one frame.

    Attributes:
        candidates: all points that were tried, x and y in pixels.
        ious: of SAM 2's mask from each candidate alone.
        points: the points of the record; the best candidate first, then those that were added.
        labels: 1 for a point on the object, 0 for one that is not.
        iou: of SAM 2's mask from all of `points`.
        mask: that mask.
        parts: separate parts of the true mask.
    """

    candidates: Float[np.ndarray, "candidates 2"]
    ious: Float[np.ndarray, " candidates"]
    points: Float[np.ndarray, "points 2"]
    labels: np.ndarray
    iou: float
    mask: Bool[np.ndarray, "height width"]
    parts: int


def choose_point(
    tracker: MaskTracker,
    frame: FrameFeatures,
    mask: Bool[np.ndarray, "height width"],
    rng: np.random.Generator,
    *,
    candidates: int = 10,
    max_points: int = 1,
    iou_threshold: float = 0.7,
    negative: bool = False,
) -> Choice:
    """The best of some candidate points of an object; one decoder call for all of them.

    Source: paper, eq. 7 and 8 (one point). Differs: where `max_points` allows it, points are added while the IoU
    stays below `iou_threshold`: one in the middle of what SAM 2 misses or, with `negative`, of what it takes too much,
    whichever is larger. A point that does not help is not kept.

    Args:
        tracker: SAM 2.
        frame: features of the frame.
        mask: the true mask, in the frame's size.
        rng: random generator of the candidates.
        candidates: how many points are tried.
        max_points: of one object.
        iou_threshold: IoU from which no further point is wanted.
        negative: whether points off the object may be added.

    Raises:
        BadInput: an empty mask.
    """
    tried = sample_candidates(mask, candidates, rng)
    masks = tracker.masks_of(frame, [point[None] for point in tried])
    ious = np.array([region_similarity(mask, found) for found in masks])
    best = int(ious.argmax())
    points, labels, found, iou = tried[best : best + 1], np.ones(1, np.int32), masks[best], float(ious[best])
    while len(points) < max_points and iou < iou_threshold:
        missed, extra = mask & ~found, found & ~mask
        off = negative and extra.sum() > missed.sum()
        wrong = extra if off else missed
        if not wrong.any():
            break
        more = np.concatenate([points, deepest_pixel(wrong)[None] + 0.5])
        more_labels = np.append(labels, np.int32(not off))
        again = tracker.masks_of(frame, [more], [more_labels])[0]
        better = float(region_similarity(mask, again))
        if better <= iou:
            break
        points, labels, found, iou = more, more_labels, again, better
    return Choice(tried, ious, points, labels, iou, found, num_components(mask))


ABSENT = {"x": -1, "y": -1}  # how a training row says that the object is not on this frame
SMALLEST = 16  # pixels of a mask
REJECTED_LOW_IOU = "misunderstood"  # the verdict as it is stored
_STORED = {"max_points": "most_points", "iou_threshold": "bound", "min_iou": "least", "rows": "kind"}  # names in files
VIDEOMOLMO = "videomolmo"  # the rows of this project's own model
_MOLMO2 = ("rows", "sampling_fps", "sigma", "min_track_iou")
DIGITS = 5  # of the number that a training row's image is called by, where the row does not say


@dataclass(frozen=True)
class Settings:
    """How points are made.

    Args:
        every: frames from one annotated frame to the next.
        candidates, max_points, iou_threshold, negative: see `choose_point`.
        min_iou: objects whose best IoU stays below are left out, with that frame.
        seed: of the candidates.
        rows: "videomolmo", or one of `molmo2_rows.KINDS`, for which of the above only `seed` counts, and these:
        sampling_fps: frames a second of tracks, 1 or 2.
        sigma: of the normal distribution of points, in sides of the mask's box.
        min_track_iou: tracks from boxes whose mean IoU with them stays below are dropped.
    """

    every: int = 5
    candidates: int = 10
    max_points: int = 1
    iou_threshold: float = 0.7
    negative: bool = False
    min_iou: float = 0.3
    seed: int = 0
    rows: str = VIDEOMOLMO
    sampling_fps: int = 2
    sigma: float = 0.15
    min_track_iou: float = 0.5

    def __post_init__(self) -> None:
        plain: dict[str, int | float | bool] = {"negative": bool(self.negative)}
        for name, low in (
            ("every", 1), ("candidates", 1), ("max_points", 1), ("seed", 0), ("sampling_fps", 1)
        ):  # fmt: skip
            plain[name] = number = as_int(getattr(self, name), low)
            if number is None:
                raise BadInput(f"{name} is {getattr(self, name)!r}, expected a whole number, at least {low}")
        for name in ("iou_threshold", "min_iou", "min_track_iou", "sigma"):
            plain[name] = share = as_float(getattr(self, name))
            if share is None or not 0 <= share <= 1:
                expected = "a share of a side" if name == "sigma" else "an IoU"
                raise BadInput(f"{name} is {getattr(self, name)!r}, expected {expected} from 0 to 1")
        if self.rows not in (VIDEOMOLMO, *molmo2_rows.KINDS):
            raise BadInput(f"rows is {self.rows!r}, expected one of {', '.join((VIDEOMOLMO, *molmo2_rows.KINDS))}")
        if plain["sampling_fps"] > 2:
            raise BadInput(f"sampling_fps is {self.sampling_fps!r}, expected 1 or 2, as in Molmo 2's rows")
        for name, value in plain.items():  # whatever stood for it: settings are written as JSON
            object.__setattr__(self, name, value)

    def as_stored(self) -> dict[str, Any]:
        """The settings under the names that they have in files."""
        values = asdict(self)
        if self.rows == VIDEOMOLMO:  # files of earlier versions have none of these
            values = {name: value for name, value in values.items() if name not in _MOLMO2}
        return {_STORED.get(name, name): value for name, value in values.items()}


def annotate_clip(record: Record, tracker: MaskTracker, settings: Settings) -> tuple[list[dict], list[dict]]:
    """Training rows (one per expression that names objects) and quality rows (one per object and frame) of a clip.

    Frames without annotation are left out. The rows have the later of VideoMolmo's two known shapes, points in
    percent; negative points, where there are any, stand in a field of their own. Rows name frames by the numbers of
    their images (see `image_numbers`), quality rows by their place in the clip.
    """
    named = sorted({object_id for expression in record.expressions for object_id in expression.objects or ()})
    chosen: dict[int, dict[str, Choice | None]] = {}
    quality: list[dict] = []
    with record.frames() as video:
        height, width = video.height, video.width
        for at, frame in enumerate(video.iterate()):
            if at % settings.every:
                continue
            masks = {object_id: record.mask_of(object_id, at) for object_id in named}
            masks = {object_id: mask for object_id, mask in masks.items() if mask is not None}
            if not masks:
                continue
            chosen[at] = {}
            features = tracker.encode(frame) if any(mask.any() for mask in masks.values()) else None
            for object_id, mask in masks.items():
                choice = None
                if mask.sum() >= SMALLEST:
                    rng = np.random.default_rng([settings.seed, _number(record.clip), _number(object_id), at])
                    choice = choose_point(
                        tracker, features, mask, rng, candidates=settings.candidates, negative=settings.negative,
                        max_points=settings.max_points, iou_threshold=settings.iou_threshold,
                    )  # fmt: skip
                quality.append(_quality(record.clip, object_id, at, mask, choice, settings.min_iou))
                if quality[-1]["verdict"] == "kept":
                    chosen[at][object_id] = choice
                elif not mask.any():
                    chosen[at][object_id] = None
    numbered = image_numbers(record)
    rows = [
        _row(record, expression, chosen, (width, height), *numbered)
        for expression in record.expressions
        if expression.objects
    ]
    return [row for row in rows if row["frame_idxs"]], quality


def image_numbers(record: Record) -> tuple[list[int] | range, int]:
    """The number that each frame's image is called by, and how many digits it is written with.

    Readers of training rows open images by number, and sets such as Ref-YouTube-VOS have every fifth one only. Frames
    whose images are not numbered, or that have none, are counted from 0.
    """
    media = record.media
    names = [path.stem for path in media.files] if isinstance(media, ImageSequence) else list(record.frame_names)
    if names and all(name.isdecimal() and name.isascii() for name in names):
        numbers, digits = [int(name) for name in names], min(map(len, names))
        if names == [f"{number:0{digits}d}" for number in numbers]:
            return numbers, digits if isinstance(media, ImageSequence) else DIGITS
    return range(len(names)), DIGITS


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _quality(clip: str, object_id: str, at: int, mask: np.ndarray, choice: Choice | None, min_iou: float) -> dict:
    """What became of an object on a frame: kept, absent, too small, or rejected for a low IoU."""
    row = {"clip": clip, "object": object_id, "frame": at, "area": int(mask.sum())}
    if choice is None:
        return row | {"verdict": "too small" if mask.any() else "absent"}
    return row | {
        "verdict": "kept" if choice.iou >= min_iou else REJECTED_LOW_IOU,
        "iou": round(choice.iou, 4),
        "mean_iou": round(float(choice.ious.mean()), 4),
        "points": len(choice.points),
        "parts": choice.parts,
    }


def _row(
    record: Record,
    expression: Expression,
    chosen: dict[int, dict[str, Choice | None]],
    size: tuple[int, int],
    numbers: list[int] | range,
    digits: int,
) -> dict:
    """One training row: the frames on which all objects of the expression are settled."""
    points: dict[str, list[dict]] = {}
    negative: dict[str, list[dict]] = {}
    for at, choices in chosen.items():
        if any(object_id not in choices for object_id in expression.objects):
            continue
        found = [choices[object_id] for object_id in expression.objects if choices[object_id] is not None]
        number = str(numbers[at] if numbers else at)
        points[number] = [point for choice in found for point in _percent(choice, 1, size)] or [ABSENT]
        if off := [point for choice in found for point in _percent(choice, 0, size)]:
            negative[number] = off
    row = {
        "video": record.clip,
        "frame_idxs": [int(number) for number in points],
        "points": points,
        "caption": expression.text,
        "expression": expression.id,
        "objects": list(expression.objects),
    }
    row |= {"fps": record.fps} if record.fps else {}
    row |= {"digits": digits} if digits != DIGITS else {}
    return row | ({"negative_points": negative} if negative else {})


def _percent(choice: Choice, label: int, size: tuple[int, int]) -> list[dict]:
    shares = 100 * choice.points[choice.labels == label] / size
    return [{"x": round(float(x), 4), "y": round(float(y), 4)} for x, y in shares]


class Quality(TypedDict):
    """What became of an object on a frame."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    verdict: str
    parts: NotRequired[int]
    iou: NotRequired[Annotated[float, Field(ge=0, le=1)]]


class Part(TypedDict):
    """The file of a clip."""

    rows: list[dict[str, Any]]
    quality: list[Quality]
    made_by: NotRequired[str]


ROWS, QUALITY, REPORT = "annotations.jsonl", "quality.jsonl", "report.json"
OURS = (ROWS, QUALITY, REPORT, "parts")
BINS = 10


def annotate_dataset(
    name: str,
    path: Path | None,
    out: Path,
    settings: Settings,
    *,
    split: str | None = None,
    masks: str = "nano",
    workers: int = 1,
    limit: int | None = None,
) -> dict:
    """Write training rows, quality rows and a report of a data set into `out`; run again to go on after a stop.

    Args:
        name, path, split: see `read_dataset`.
        out: gets annotations.jsonl, quality.jsonl, report.json, settings.json and parts/, one file for each clip.
        settings: how points are made.
        masks: SAM 2, see `VideoGrounder.from_pretrained`.
        workers: processes; each holds SAM 2 and one clip.
        limit: only so many clips.

    Returns:
        The report; `refused` names clips that could not be read, and why. They have no rows, and are tried again.

    Raises:
        BadInput: `out` holds annotations made otherwise, no clip could be read, or what `read_dataset` refuses.

    Source: paper, section 4.
    """
    out, masks, path = require_path(out, "out"), hub.as_name(masks, "--masks"), as_path(path)
    if as_int(workers) is None:
        raise BadInput(f"workers is {workers!r}, expected at least 1")
    records = first_records(read_dataset(name, path, split), limit)
    names = [record.clip for record in records]
    count, clips = len(names), hashlib.sha256(json.dumps(names).encode()).hexdigest()
    from videomolmo.grounding import load_tracker

    weights = load_tracker(masks, "cpu")[1]  # a wrong name is found here, before any process starts
    manifest = {
        "frame_numbers": "of images", "dataset": name, "split": split, "masks": masks, "clips": count, "names": clips,
        "weights": weights, **settings.as_stored(),
    }  # fmt: skip
    with provenance.locked_manifest(out, manifest, "annotations", OURS):
        (out / "parts").mkdir(exist_ok=True)
        parts = {number: part_file(out / "parts", number) for number in range(count)}
        key = key_of(manifest)
        todo = [number for number, part in parts.items() if read_part(part, key) is None]
        begin = (name, path, split, masks, settings, out / "parts", key)
        refused = _run(todo, min(workers, len(todo)), begin, count)
        if refused and len(refused) == count:
            raise BadInput(f"no clip could be annotated; the first: {refused[0]}")
        there = (read_part(part, key) for number, part in parts.items() if number not in refused)
        return _gather(out, there, manifest, {names[number]: reason for number, reason in sorted(refused.items())})


def part_file(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def read_part(path: Path, key: str) -> dict | None:
    """Rows and quality of a clip; None where it is not done, damaged, or by other settings: it is done again."""
    try:
        part = read_json(path, Part)
    except (OSError, BadInput):
        return None
    return part if part.get("made_by", key) == key else None


def _run(todo: list[int], workers: int, begin: tuple, count: int) -> dict[int, str]:
    """Annotate clips; the numbers of those that were refused, and why."""
    import torch

    threads, refused = torch.get_num_threads(), {}
    try:
        with closing(run_all(_annotate, todo, workers, "annotate", _begin, begin)) as results:
            done = tqdm(results, total=count, initial=count - len(todo), desc="annotate", unit="clip")
            for number, reason in done:
                if reason:
                    refused[number] = reason
    finally:
        torch.set_num_threads(threads)  # which one worker has changed for itself
        remove_abandoned(begin[-2], UNFINISHED)
    return refused


def _begin(name: str, path: Path | None, split: str | None, masks: str, settings: Settings, *target: Any) -> tuple:
    """Once in each process: SAM 2 on one thread, so that all processes compute alike, and the data set's index."""
    import torch

    from videomolmo.grounding import load_tracker

    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_tracker(masks, device)[0], read_dataset(name, path, split), settings, *target


def _annotate(begun: tuple, number: int) -> tuple[int, str]:
    """Annotate one clip; its number, and why it was refused: one missing picture need not stop all the others."""
    tracker, records, settings, parts, key = begun
    try:
        make = annotate_clip if settings.rows == VIDEOMOLMO else molmo2_rows.rows_of_clip
        rows, quality = make(records[number], tracker, settings)
    except BadInput as error:
        return number, str(error)
    write_text(part_file(parts, number), json.dumps({"made_by": key, "rows": rows, "quality": quality}))
    return number, ""


def _gather(out: Path, parts: Iterable[dict | None], manifest: dict, refused: dict[str, str]) -> dict:
    """Join all parts in the order of the clips; returns the report."""
    verdicts, histogram, several, rows_count = Counter(), [0] * BINS, 0, 0
    with written_lines(out / ROWS) as rows, written_lines(out / QUALITY) as quality:
        for content in parts:
            if content is None:
                raise BadInput(f"a part in {out} was damaged meanwhile; run again")
            rows.writelines(json.dumps(row) + "\n" for row in content["rows"])
            rows_count += len(content["rows"])
            for row in content["quality"]:
                quality.write(json.dumps(row) + "\n")
                verdicts[row["verdict"]] += 1
                several += row.get("parts", 1) > 1
                if "iou" in row:
                    histogram[min(int(row["iou"] * BINS), BINS - 1)] += 1
    report = {
        "rows": rows_count,
        "refused": refused,
        "objects": dict(sorted(verdicts.items())),
        "in_several_parts": several,
        "iou_histogram": {f"{n / BINS:.1f}": count for n, count in enumerate(histogram)},
        **manifest,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    write_json(out / REPORT, report)
    return report


@contextmanager
def written_lines(path: Path) -> Iterator[TextIO]:
    with atomic_file(path) as whole, open(whole, "w", encoding="utf-8") as file:
        yield file
