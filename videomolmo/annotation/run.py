"""Annotate a whole data set: clip by clip in several processes, resumable, the same bytes whatever their number."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired, TextIO

from pydantic import ConfigDict, Field
from tqdm import tqdm
from typing_extensions import TypedDict

from videomolmo import hub, provenance
from videomolmo.annotation.records import Settings, annotate_clip
from videomolmo.cache import key_of
from videomolmo.datasets import first_records, read_dataset
from videomolmo.errors import BadInput
from videomolmo.plain import as_path, as_whole, needed_path
from videomolmo.stored import read_json
from videomolmo.whole_files import UNFINISHED, remove_dead, whole_file, write_json, write_text
from videomolmo.workers import run_all


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
    out, masks, path = needed_path(out, "out"), hub.named(masks, "--masks"), as_path(path)
    if as_whole(workers) is None:
        raise BadInput(f"workers is {workers!r}, expected at least 1")
    records = first_records(read_dataset(name, path, split), limit)
    names = [record.clip for record in records]
    count, clips = len(names), hashlib.sha256(json.dumps(names).encode()).hexdigest()
    from videomolmo.grounding import load_masks

    weights = load_masks(masks, "cpu")[1]  # a wrong name is found here, before any process starts
    made_by = {
        "frame_numbers": "of images", "dataset": name, "split": split, "masks": masks, "clips": count, "names": clips,
        "weights": weights, **asdict(settings),
    }  # fmt: skip
    with provenance.claimed(out, made_by, "annotations", OURS):
        (out / "parts").mkdir(exist_ok=True)
        parts = {number: _part(out / "parts", number) for number in range(count)}
        key = key_of(made_by)
        todo = [number for number, part in parts.items() if _read_part(part, key) is None]
        begin = (name, path, split, masks, settings, out / "parts", key)
        refused = _run(todo, min(workers, len(todo)), begin, count)
        if refused and len(refused) == count:
            raise BadInput(f"no clip could be annotated; the first: {refused[0]}")
        there = (_read_part(part, key) for number, part in parts.items() if number not in refused)
        return _gather(out, there, made_by, {names[number]: reason for number, reason in sorted(refused.items())})


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def _read_part(path: Path, key: str) -> dict | None:
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
        remove_dead(begin[-2], UNFINISHED)
    return refused


def _begin(name: str, path: Path | None, split: str | None, masks: str, settings: Settings, *target: Any) -> tuple:
    """Once in each process: SAM 2 on one thread, so that all processes compute alike, and the data set's index."""
    import torch

    from videomolmo.grounding import load_masks
    from videomolmo.masks.tracker import MaskTracker

    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return MaskTracker(load_masks(masks, device)[0]), read_dataset(name, path, split), settings, *target


def _annotate(begun: tuple, number: int) -> tuple[int, str]:
    """Annotate one clip; its number, and why it was refused: one missing picture need not stop all the others."""
    tracker, records, settings, parts, key = begun
    try:
        rows, quality = annotate_clip(records[number], tracker, settings)
    except BadInput as error:
        return number, str(error)
    write_text(_part(parts, number), json.dumps({"made_by": key, "rows": rows, "quality": quality}))
    return number, ""


def _gather(out: Path, parts: Iterable[dict | None], made_by: dict, refused: dict[str, str]) -> dict:
    """Join all parts in the order of the clips; returns the report."""
    verdicts, histogram, several, rows_count = Counter(), [0] * BINS, 0, 0
    with _lines(out / ROWS) as rows, _lines(out / QUALITY) as quality:
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
        **made_by,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    write_json(out / REPORT, report)
    return report


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    with whole_file(path) as whole, open(whole, "w", encoding="utf-8") as file:
        yield file
