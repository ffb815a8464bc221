"""Ask a model all expressions of a benchmark and keep its masks and answers; goes on where it was stopped."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo import provenance
from videomolmo.datasets.record import Expression, Record
from videomolmo.errors import BadInput
from videomolmo.evaluation.predictions import Predictions
from videomolmo.stored import MOST_FRAMES, KeptAnswer, read_json
from videomolmo.whole_files import write_json

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder


def answer_path(out: Path, record: Record, expression: Expression) -> Path:
    """Where the answers to one expression are kept; the file is the sign that its masks are complete."""
    return Predictions(out / "answers").path(record, expression, 0).parent.with_suffix(".json")


def read_answer(out: Path, record: Record, expression: Expression) -> dict | None:
    """What was kept of one expression: key frames with points and texts, number of objects, seconds.

    None where nothing was, where it is damaged, or where the sentence is another one by now.
    """
    try:
        answer = read_json(answer_path(out, record, expression), KeptAnswer)
    except (OSError, BadInput):
        return None
    most = len(record.frame_names) or MOST_FRAMES
    fits = all(key["frame"] < most for key in answer["key_frames"])
    return answer if fits and answer["text"] == expression.text else None


def predict(
    grounder: "VideoGrounder",
    record: Record,
    expression: Expression,
    out: Path,
    predictions: Predictions,
    settings: dict,
) -> None:
    """Ground one expression and write a mask for every frame, the answers last.

    Args:
        grounder: the models.
        record, expression: what is asked.
        out: of the evaluation.
        predictions: where masks go.
        settings: `every`, `fusion`, `tau`, `context` of `VideoGrounder.__call__`.
    """
    begun = time.perf_counter()
    with record.frames() as video:
        result = grounder(video, expression.text, **settings)
        for frame in range(len(result.masks)):
            predictions.write(record, expression, frame, result.masks[frame].any(axis=0))
    write_json(
        answer_path(out, record, expression),
        {
            "text": expression.text,
            "commit": provenance.commit(),
            "objects": int(result.objects),
            "seconds": round(time.perf_counter() - begun, 3),
            "key_frames": [
                {"frame": answer.frame, "outcome": answer.outcome, "points_px": answer.points_px, "text": answer.text}
                for answer in result.answers
            ],
        },
    )
