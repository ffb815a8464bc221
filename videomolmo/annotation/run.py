"""Annotate a whole data set: clip by clip in several processes, resumable, the same bytes whatever their number."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field
from tqdm import tqdm
from typing_extensions import TypedDict

from videomolmo import provenance
from videomolmo.annotation.records import Settings, annotate_clip
from videomolmo.datasets import first_records, read_dataset
from videomolmo.errors import BadInput
from videomolmo.stored import read_json


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


ROWS, QUALITY, REPORT = "annotations.jsonl", "quality.jsonl", "report.json"
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
    if workers < 1:
        raise BadInput(f"workers is {workers}, expected at least 1")
    records = first_records(read_dataset(name, path, split), limit)
    names = [record.clip for record in records]
    count, clips = len(names), hashlib.sha256(json.dumps(names).encode()).hexdigest()
    from videomolmo.grounding import load_masks

    weights = load_masks(masks, "cpu")[1]  # a wrong name is found here, before any process starts
    made_by = {
        "frame_numbers": "of images", "dataset": name, "split": split, "masks": masks, "clips": count, "names": clips,
        "weights": weights, **asdict(settings),
    }  # fmt: skip
    provenance.claim(out, made_by, "annotations")
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    todo = [number for number in range(count) if _read_part(_part(parts, number)) is None]
    refused = {}
    if todo:
        with get_context("spawn").Pool(workers, _begin, (name, path, split, masks, settings, parts)) as pool:
            done = pool.imap_unordered(_annotate, todo)
            for number, reason in tqdm(done, total=count, initial=count - len(todo), desc="annotate", unit="clip"):
                if reason:
                    refused[number] = reason
    if refused and len(refused) == count:
        raise BadInput(f"no clip could be annotated; the first: {refused[0]}")
    there = [_part(parts, number) for number in range(count) if number not in refused]
    return _gather(out, there, made_by, {names[number]: reason for number, reason in sorted(refused.items())})


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def _read_part(path: Path) -> dict | None:
    """Rows and quality of a clip; None where they are not there, or damaged: it is done again."""
    try:
        return read_json(path, Part)
    except (OSError, BadInput):
        return None


_worker: dict = {}


def _begin(name: str, path: Path | None, split: str | None, masks: str, settings: Settings, parts: Path) -> None:
    """Once in each process: SAM 2 on one thread, so that all processes compute alike, and the data set's index."""
    import torch

    from videomolmo.grounding import load_masks
    from videomolmo.masks.tracker import MaskTracker

    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _worker.update(
        tracker=MaskTracker(load_masks(masks, device)[0]), records=read_dataset(name, path, split),
        settings=settings, parts=parts,
    )  # fmt: skip


def _annotate(number: int) -> tuple[int, str]:
    """Annotate one clip; its number, and why it was refused: one missing picture need not stop all the others."""
    try:
        rows, quality = annotate_clip(_worker["records"][number], _worker["tracker"], _worker["settings"])
    except BadInput as error:
        return number, str(error)
    target = _part(_worker["parts"], number)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"rows": rows, "quality": quality}), encoding="utf-8")
    unfinished.replace(target)
    return number, ""


def _gather(out: Path, parts: Iterable[Path], made_by: dict, refused: dict[str, str]) -> dict:
    """Join all parts in the order of the clips; returns the report."""
    verdicts, histogram, several, rows_count = Counter(), [0] * BINS, 0, 0
    with open(out / ROWS, "w", encoding="utf-8") as rows, open(out / QUALITY, "w", encoding="utf-8") as quality:
        for part in parts:
            content = _read_part(part)
            if content is None:
                raise BadInput(f"{part} was damaged meanwhile; remove it and run again")
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
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
