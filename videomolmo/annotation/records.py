"""Training rows and quality figures of one clip: the best points of every object on the chosen frames."""

import zlib
from dataclasses import dataclass

import numpy as np

from videomolmo.annotation.choose import Choice, choose_point
from videomolmo.datasets.media import Pictures
from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput
from videomolmo.masks.tracker import MaskTracker
from videomolmo.plain import as_number, as_whole

ABSENT = {"x": -1, "y": -1}  # how a training row says that the object is not on this frame
SMALLEST = 16  # pixels of a mask
DIGITS = 5  # of the number that a training row's image is called by, where the row does not say


@dataclass(frozen=True)
class Settings:
    """How points are made.

    Args:
        every: frames from one annotated frame to the next.
        candidates, most_points, bound, negative: see `choose_point`.
        least: objects whose best IoU stays below are left out, with that frame.
        seed: of the candidates.
    """

    every: int = 5
    candidates: int = 10
    most_points: int = 1
    bound: float = 0.7
    negative: bool = False
    least: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        plain: dict[str, int | float | bool] = {"negative": bool(self.negative)}
        for name, bound in (("every", 1), ("candidates", 1), ("most_points", 1), ("seed", 0)):
            plain[name] = number = as_whole(getattr(self, name), bound)
            if number is None:
                raise BadInput(f"{name} is {getattr(self, name)!r}, expected a whole number, at least {bound}")
        for name in ("bound", "least"):
            plain[name] = share = as_number(getattr(self, name))
            if share is None or not 0 <= share <= 1:
                raise BadInput(f"{name} is {getattr(self, name)!r}, expected an IoU from 0 to 1")
        for name, value in plain.items():  # whatever stood for it: settings are written as JSON
            object.__setattr__(self, name, value)


def annotate_clip(record: Record, tracker: MaskTracker, settings: Settings) -> tuple[list[dict], list[dict]]:
    """Training rows (one per expression that names objects) and quality rows (one per object and frame) of a clip.

    Frames without annotation are left out. The rows have the later of VideoMolmo's two known shapes, points in
    percent; negative points, where there are any, stand in a field of their own. Rows name frames by the numbers of
    their images (see `image_numbers`), quality rows by their place in the clip.
    """
    named = sorted({thing for expression in record.expressions for thing in expression.objects or ()})
    chosen: dict[int, dict[str, Choice | None]] = {}
    quality: list[dict] = []
    with record.frames() as video:
        height, width = video.height, video.width
        for at, frame in enumerate(video.iterate()):
            if at % settings.every:
                continue
            masks = {thing: record.mask_of(thing, at) for thing in named}
            masks = {thing: mask for thing, mask in masks.items() if mask is not None}
            if not masks:
                continue
            chosen[at] = {}
            features = tracker.encode(frame) if any(mask.any() for mask in masks.values()) else None
            for thing, mask in masks.items():
                choice = None
                if mask.sum() >= SMALLEST:
                    rng = np.random.default_rng([settings.seed, _number(record.clip), _number(thing), at])
                    choice = choose_point(
                        tracker, features, mask, rng, candidates=settings.candidates,
                        most_points=settings.most_points, bound=settings.bound, negative=settings.negative,
                    )  # fmt: skip
                quality.append(_quality(record.clip, thing, at, mask, choice, settings.least))
                if quality[-1]["verdict"] == "kept":
                    chosen[at][thing] = choice
                elif not mask.any():
                    chosen[at][thing] = None
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
    names = [path.stem for path in media.files] if isinstance(media, Pictures) else list(record.frame_names)
    if names and all(name.isdecimal() and name.isascii() for name in names):
        numbers, digits = [int(name) for name in names], min(map(len, names))
        if names == [f"{number:0{digits}d}" for number in numbers]:
            return numbers, digits if isinstance(media, Pictures) else DIGITS
    return range(len(names)), DIGITS


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _quality(clip: str, thing: str, at: int, mask: np.ndarray, choice: Choice | None, least: float) -> dict:
    """What became of an object on a frame: kept, absent, too small, or misunderstood by SAM 2."""
    row = {"clip": clip, "object": thing, "frame": at, "area": int(mask.sum())}
    if choice is None:
        return row | {"verdict": "too small" if mask.any() else "absent"}
    return row | {
        "verdict": "kept" if choice.iou >= least else "misunderstood",
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
        if any(thing not in choices for thing in expression.objects):
            continue
        found = [choices[thing] for thing in expression.objects if choices[thing] is not None]
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
