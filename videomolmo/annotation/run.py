"""Annotate a whole data set: clip by clip in several processes, resumable, the same bytes whatever their number."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from videomolmo import provenance
from videomolmo.annotation.records import Settings, annotate_clip
from videomolmo.datasets import first_records, read_dataset
from videomolmo.errors import BadInput

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
        The report.

    Raises:
        BadInput: `out` holds annotations made otherwise, or what `read_dataset` refuses.

    Source: paper, section 4.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}, expected at least 1")
    records = first_records(read_dataset(name, path, split), limit)
    count, clips = len(records), hashlib.sha256(json.dumps([record.clip for record in records]).encode()).hexdigest()
    from videomolmo.grounding import load_masks

    weights = load_masks(masks, "cpu")[1]  # a wrong name is found here, before any process starts
    made_by = {
        "frame_numbers": "of images",
        "dataset": name,
        "split": split,
        "masks": masks,
        "clips": count,
        "names": clips,
        "weights": weights,
        **asdict(settings),
    }
    provenance.claim(out, made_by, "annotations")
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    todo = [number for number in range(count) if not _part(parts, number).exists()]
    if todo:
        with get_context("spawn").Pool(workers, _begin, (name, path, split, masks, settings, parts)) as pool:
            done = pool.imap_unordered(_annotate, todo)
            for _ in tqdm(done, total=count, initial=count - len(todo), desc="annotate", unit="clip"):
                pass
    return _gather(out, [_part(parts, number) for number in range(count)], made_by)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


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


def _annotate(number: int) -> int:
    rows, quality = annotate_clip(_worker["records"][number], _worker["tracker"], _worker["settings"])
    target = _part(_worker["parts"], number)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"rows": rows, "quality": quality}), encoding="utf-8")
    unfinished.replace(target)
    return number


def _gather(out: Path, parts: Iterable[Path], made_by: dict) -> dict:
    """Join all parts in the order of the clips; returns the report."""
    verdicts, histogram, several, rows_count = Counter(), [0] * BINS, 0, 0
    with open(out / ROWS, "w", encoding="utf-8") as rows, open(out / QUALITY, "w", encoding="utf-8") as quality:
        for part in parts:
            content = json.loads(part.read_text(encoding="utf-8"))
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
        "objects": dict(sorted(verdicts.items())),
        "in_several_parts": several,
        "iou_histogram": {f"{n / BINS:.1f}": count for n, count in enumerate(histogram)},
        **made_by,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
