"""A corrected clip as training rows, in the shape that annotation writes and the data set reader `videomolmo` reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from videomolmo.annotation.records import ABSENT
from videomolmo.errors import BadInput
from videomolmo.inspector.corrected import middle_of_strip
from videomolmo.inspector.edits import Click
from videomolmo.inspector.exports import new_file
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.strips import pack
from videomolmo.whole_files import put

JPEG_QUALITY = 95


def write_rows(inspection: Inspection, path: Path) -> int:
    """Write one row with the points on all key frames, corrective ones included, and those frames beside it.

    On the corrective key frame of one object, the others have the middle of their masks. Key frames of which neither
    the model nor a person said where something is, or that nothing is there, are left out. The frames go to
    `<name of the clip>_<name of the file>/00000.jpg …` beside it, where the reader `videomolmo` looks for them.

    Args:
        inspection: with corrections.
        path: of the new .jsonl file.

    Returns:
        The number of rows: 1.

    Raises:
        BadInput: the file or the folder of frames exists, nothing was corrected, no key frame is left, or there is no
            video.
    """
    from PIL import Image

    state = inspection.history.state
    if not state.clicks and not state.dropped:
        raise BadInput("nothing was corrected in this clip; correct it first, or use the run's own answers")
    if inspection.video() is None:
        raise BadInput("the video is needed to write training frames, and it cannot be opened")
    clip = re.sub(r"[^\w-]+", "_", f"{_clip_name(inspection)}_{path.stem}")
    folder = path.parent / clip
    if folder.exists():
        raise BadInput(f"{folder} exists; choose another name for the rows")
    row = training_row(inspection, clip)
    if not row["frame_idxs"]:
        raise BadInput("no key frame has an answer that can be learned from; add a point to one")
    _check_frames(inspection, row["frame_idxs"])
    with new_file(path, ".jsonl") as new:
        new.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        frames = new.parent / "frames"
        frames.mkdir()
        for t in row["frame_idxs"]:
            Image.fromarray(inspection.frame(t)).save(frames / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        put(frames, folder, replace=False)
    return 1


def _check_frames(inspection: Inspection, frames: list[int]) -> None:
    """Nothing where the video has all these frames; the inspector shows plain grey in place of those that it lacks."""
    video = inspection.video()
    for t in frames:
        try:
            video[t]
        except (IndexError, BadInput) as error:
            raise BadInput(
                f"key frame {t} is not in the video ({error}); give the video that the result is of"
            ) from None


def training_row(inspection: Inspection, clip: str) -> dict:
    """The row; points in percent of the frame, negative ones in a field of their own.

    Args:
        inspection: with corrections.
        clip: name of the folder of frames.
    """
    points: dict[str, list[dict]] = {}
    negative: dict[str, list[dict]] = {}
    for t in inspection.key_frames:
        clicks = _clicks_on(inspection, t)
        if not _is_known(inspection, t, clicks):
            continue
        there = dict.fromkeys(click for click in clicks if click[2])  # two objects may share a mask
        points[str(t)] = [_percent(inspection, click) for click in there] or [ABSENT]
        if off := [_percent(inspection, click) for click in clicks if not click[2]]:
            negative[str(t)] = off
    row = {
        "video": clip,
        "frame_idxs": [int(t) for t in points],
        "points": points,
        "caption": inspection.sentence,
        "expression": "0",
        "objects": [str(thing) for thing in range(1, inspection.objects + 1)],
        "fps": inspection.fps,
        "corrections": len(inspection.history.records),
    }
    return row | ({"negative_points": negative} if negative else {})


def _is_known(inspection: Inspection, t: int, clicks: list[Click]) -> bool:
    """Whether a key frame can be learned from: an answer without a point inside the frame is not one of absence."""
    corrected = any(frame == t and own for (_, frame), own in inspection.history.state.clicks.items())
    lost = t not in inspection.outcomes()  # the file of answers is damaged; masks tell where objects were
    return corrected or _is_answered(inspection, t) or (lost and bool(clicks))


def _is_answered(inspection: Inspection, t: int) -> bool:
    """Whether the model's answer on a key frame counts and says where objects are, or that none is there."""
    answers = {answer.frame: answer for answer in inspection.result.answers}
    if t not in answers or t in inspection.history.state.dropped:
        return False
    return answers[t].outcome == "absent" or (answers[t].outcome == "found" and any(answers[t].inside))


def _clicks_on(inspection: Inspection, t: int) -> list[Click]:
    """Clicks of all objects on a key frame; where only some were clicked on, the middles of the others' masks."""
    found, answered = [], _is_answered(inspection, t)
    for thing in range(1, inspection.objects + 1):
        clicks = inspection.clicks(thing, t)
        if not clicks and not answered and (thing, t) not in inspection.history.state.clicks:
            for patch in inspection.patches("fused", t):
                if patch.thing == thing:
                    x, y = middle_of_strip(pack(t, patch.mask[None]), t)
                    clicks = ((x + patch.left, y + patch.top, 1),)
        found += clicks
    return found


def _percent(inspection: Inspection, click: Click) -> dict[str, float]:
    return {"x": round(100 * click[0] / inspection.width, 4), "y": round(100 * click[1] / inspection.height, 4)}


def _clip_name(inspection: Inspection) -> str:
    """That of the video or of the result."""
    source = inspection.result.source
    stem = Path(source).stem if isinstance(source, (str, Path)) else inspection.folder and inspection.folder.name
    return stem or "clip"
