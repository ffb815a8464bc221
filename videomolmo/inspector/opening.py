"""Opening results, damaged ones too: what is there is shown, what is not is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.errors import BadInput
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.spool import MaskSpool


def open_result(source: GroundingResult | str | Path, video: Any) -> tuple[GroundingResult, Path | None, list[str]]:
    """A result, the folder it lies in (None if only in memory), and what was damaged, a sentence each.

    Raises:
        BadInput: the folder has no run.json that can be read.
    """
    if isinstance(source, GroundingResult):
        return source, None, []
    if not isinstance(source, (str, Path)):
        raise BadInput(f"result is a {type(source).__name__}, expected a GroundingResult or the folder of one")
    folder = Path(source)
    try:
        return GroundingResult.load(folder, video=video), folder, []
    except BadInput:
        facts = _facts(folder)  # without it there is nothing to show
    answers, problems = _answers(folder / "answers.jsonl")
    times = np.array(facts.pop("times_s", []), float)
    known = {"sentence": "", "objects": 0, "height": 0, "width": 0, "fps": 30.0, "warning": None}
    gone = [name for name in known if name not in facts and name != "warning"]
    known |= {name: facts.pop(name) for name in known if name in facts}
    recorded = facts.pop("video", None)
    if gone:
        problems.append(f"run.json does not tell {', '.join(gone)}")
    result = GroundingResult(
        answers=answers, times_s=times, spool=MaskSpool(folder / "propagation"), config=facts,
        source=video if video is not None else recorded, **known,
    )  # fmt: skip
    return result, folder, problems


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if isinstance(facts, dict) and "times_s" in facts:
            return facts
        reason = "it has no times of frames"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise BadInput(f"{folder}: no result can be shown without its run.json ({reason}); give a folder of `ground`")


def _answers(path: Path) -> tuple[list[KeyAnswer], list[str]]:
    """The answers that can be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [], [f"the model's answers are missing ({path.name}: {error.strerror})"]
    answers, bad = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            points = [(float(x), float(y)) for x, y in row["points_px"]]
            answer = KeyAnswer(**row | {"points_px": points, "frame": int(row["frame"])})
            if len(answer.inside) != len(points):
                raise ValueError("points and inside differ in length")
            answers.append(answer)
        except (ValueError, TypeError, KeyError):
            bad.append(str(number))
    return answers, [f"{path.name}: line {', '.join(bad)} cannot be read; its answer is not shown"] if bad else []
