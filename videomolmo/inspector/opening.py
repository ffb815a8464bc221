"""Opening results, damaged ones too: what is there is shown, what is not is said."""

from __future__ import annotations

import copy
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.plain import as_path
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.spool import MaskSpool


def open_result(source: GroundingResult | str | Path, video: Any) -> tuple[GroundingResult, Path | None, list[str]]:
    """A result, the folder it lies in (None if only in memory), and what was damaged, a sentence each.

    Whatever the result is, the one that is returned has sound answers and settings; `source` itself stays as it is.

    Raises:
        BadInput: the folder has no run.json that can be read.
    """
    if isinstance(source, GroundingResult):
        result, folder, problems = source, source.folder, []
    elif (folder := as_path(source)) is not None:
        try:
            result, problems = GroundingResult.load(folder, video=video), []
        except BadInput as error:
            result, problems = _rescued(folder, video)
            problems = problems or [str(error)]
    else:
        raise BadInput(f"result is a {type(source).__name__}, expected a GroundingResult or the folder of one")
    result, found = _sound(result)
    return result, folder, problems + found


def _rescued(folder: Path, video: Any) -> tuple[GroundingResult, list[str]]:
    """What can be had of a damaged folder, and what is damaged."""
    facts = _facts(folder)  # without it there is nothing to show
    answers, problems = _answers(folder / "answers.jsonl")
    spool = MaskSpool(folder / "propagation")
    times = np.array(facts.pop("times_s", []), float)
    known = {"sentence": "", **_told_by_masks(spool), "fps": 30.0, "warning": None}
    gone = [name for name in known if name not in facts and name != "warning"]
    known |= {name: facts.pop(name) for name in known if name in facts}
    recorded = facts.pop("video", None)
    if gone:
        problems.append(f"run.json does not tell {', '.join(gone)}")
    result = GroundingResult(
        answers=answers, times_s=times, spool=spool, config=facts, folder=folder,
        source=video if video is not None else recorded, **known,
    )  # fmt: skip
    return result, problems


def _told_by_masks(spool: MaskSpool) -> dict[str, int]:
    """Number of objects and size of the frame, as far as the files of masks can be read."""
    objects, height, width = 0, 0, 0
    for path in spool.files():
        try:
            with np.load(path, allow_pickle=False) as data:
                objects = max(objects, int(data["ids"].max(initial=0)))
                height, width = (int(value) for value in data["shape"][-2:])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    return {"objects": objects, "height": height, "width": width}


def _sound(result: GroundingResult) -> tuple[GroundingResult, list[str]]:
    """The result without answers and settings that make no sense, and what they were."""
    problems, bad = [], [answer for answer in result.answers if not _makes_sense(answer, result.frames)]
    if bad:
        where = ", ".join(str(answer.frame) for answer in bad)
        problems.append(f"the answer on frame {where} contradicts itself or the clip; it is not shown")
    given = result.config.get("model", {})
    settings = dict(given) if isinstance(given, dict) else {}
    for name, (make_sense, expected) in _SETTINGS.items():
        if name in settings and not make_sense(settings[name]):
            problems.append(f"the run's {name} is {settings[name]!r}, expected {expected}; masks are shown as saved")
            settings[name] = None
    if problems or settings != given:
        result = copy.copy(result)
        result.answers = [answer for answer in result.answers if answer not in bad]
        result.config = result.config | {"model": settings}
    return result, problems


def _makes_sense(answer: KeyAnswer, frames: int) -> bool:
    try:
        pairs = all(len(point) == 2 and all(map(math.isfinite, point)) for point in answer.points_px)
        known = answer.outcome in ("found", "absent", "malformed")
        words = isinstance(answer.text, str) and isinstance(answer.problem, str | None)
        fits = len(answer.inside) == len(answer.points_px) and 0 <= answer.frame < frames
        return pairs and known and words and fits
    except TypeError:
        return False


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


_SETTINGS = {
    "fusion": (lambda value: isinstance(value, str) and value in RULES, f"one of {', '.join(RULES)}"),
    "tau": (_is_share, "a number from 0 to 1"),
}


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8-sig"))
        if isinstance(facts, dict) and "times_s" in facts:
            return facts
        reason = "it has no times of frames"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise BadInput(f"{folder}: no result can be shown without its run.json ({reason}); give a folder of `ground`")


def _answers(path: Path) -> tuple[list[KeyAnswer], list[str]]:
    """The answers that can be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        return [], [f"the model's answers are missing ({path.name}: {error.strerror})"]
    answers, bad = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            points = [(float(x), float(y)) for x, y in row["points_px"]]
            answers.append(KeyAnswer(**row | {"points_px": points, "frame": int(row["frame"])}))
        except (ValueError, TypeError, KeyError):
            bad.append(str(number))
    return answers, [f"{path.name}: line {', '.join(bad)} cannot be read; its answer is not shown"] if bad else []
