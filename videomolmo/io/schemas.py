"""Schemas of what runs leave on disk and is read back: kinds, types and ranges of run.json, answers, corrections."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on only

from videomolmo.errors import BadInput
from videomolmo.io.untrusted import read_json

# Far beyond what a run leaves, and small enough to be held: what is larger is damaged, or meant to do harm.
MAX_FRAMES = 1 << 22  # 38 hours at 30 frames a second
MAX_OBJECTS = 10_000
MAX_PIXELS = 1 << 27  # of a frame: 16K
MAX_MASK_PIXELS = 1 << 32  # of all objects on one frame

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=-1e10, le=1e10)]
Frame = Annotated[int, Field(ge=0, lt=MAX_FRAMES)]
Text = Annotated[str, Field(max_length=1 << 20)]
Points = Annotated[list[tuple[Number, Number]], Field(max_length=10_000)]


class StoredPhrase(TypedDict):
    """A phrase of `StoredCaption`; see `videomolmo.results.CaptionPhrase`."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=0)]
    object: Annotated[int, Field(ge=1, le=MAX_OBJECTS)]


class StoredCaption(TypedDict):
    """What a model wrote about a whole video, and which objects its phrases name."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    text: Text
    phrases: Annotated[list[StoredPhrase], Field(max_length=MAX_OBJECTS)]


class StoredLabels(TypedDict):
    """What a file of labels, which a result was made of, calls its objects, and how sure it was of each on a frame."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    format: Text
    ids: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=MAX_OBJECTS)]
    names: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=MAX_OBJECTS)]
    scores: dict[str, dict[str, Number]]
    has_void: bool


class Metadata(TypedDict):
    """run.json of a result; what else stands in it is kept as it is."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    sentence: Annotated[str, Field(max_length=10_000)]
    video: Annotated[str, Field(max_length=10_000)] | None
    frames: Annotated[int, Field(ge=0, le=MAX_FRAMES)]
    objects: Annotated[int, Field(ge=0, le=MAX_OBJECTS)]
    height: Annotated[int, Field(ge=0, lt=1 << 16)]
    width: Annotated[int, Field(ge=0, lt=1 << 16)]
    fps: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e6)]
    times_s: Annotated[list[Seconds], Field(max_length=MAX_FRAMES)]
    warning: Text | None
    source_frames: NotRequired[Annotated[list[Frame], Field(max_length=MAX_FRAMES)]]
    source_times_s: NotRequired[Annotated[list[Seconds], Field(max_length=MAX_FRAMES)]]
    model: NotRequired[dict[str, Any]]
    caption: NotRequired[StoredCaption]
    labels: NotRequired[StoredLabels]


class Answer(TypedDict):
    """A line of answers.jsonl; see `videomolmo.results.KeyAnswer`. Nobody but readers of the file needs its source."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    frame: Frame
    time_s: Seconds
    text: Text
    outcome: Literal["found", "absent", "malformed"]
    points_px: Points
    inside: Annotated[list[bool], Field(max_length=10_000)]
    problem: NotRequired[Text | None]
    source_frame: NotRequired[Frame]
    source_time_s: NotRequired[Seconds]


class AnsweredFrame(TypedDict):
    """A key frame of `KeptAnswer`."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    frame: Frame
    outcome: Literal["found", "absent", "malformed"]
    points_px: Points


class KeptAnswer(TypedDict):
    """What an evaluation keeps of one expression."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    text: Text
    objects: Annotated[int, Field(ge=0, le=MAX_OBJECTS)]
    seconds: Number
    key_frames: Annotated[list[AnsweredFrame], Field(max_length=MAX_FRAMES)]


class Correction(TypedDict):
    """A line of corrections.jsonl; what it does not need to say to be followed is kept as it is."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)
    action: Literal[
        "add_point", "remove_point", "move_point", "add_box", "edit_mask", "drop_answer", "undo", "redo", "revert",
        "swap", "merge", "split", "delete", "recolour", "rename",
    ]  # fmt: skip
    frame: NotRequired[Frame]
    object: NotRequired[Annotated[int, Field(ge=1, le=MAX_OBJECTS)]]
    other: NotRequired[Annotated[int, Field(ge=1, le=MAX_OBJECTS)]]
    of: NotRequired[Annotated[int, Field(ge=1, le=1 << 31)]]
    number: NotRequired[Annotated[int, Field(ge=1, le=1 << 31)]]
    clicks: NotRequired[Annotated[list[tuple[Number, Number, Literal[0, 1, 2, 3]]], Field(max_length=1000)]]
    mask: NotRequired[Text]
    name: NotRequired[Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]]
    cleared: NotRequired[Annotated[list[Annotated[int, Field(ge=1, le=MAX_OBJECTS)]], Field(max_length=MAX_OBJECTS)]]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """run.json of a result, `Metadata` that fit together.

    Raises:
        OSError, BadInput: as `read_json`; BadInput also where they contradict each other.
    """
    metadata = read_json(path, Metadata)
    if reason := contradiction(metadata):
        raise BadInput(f"{path}: {reason}")
    return metadata


def contradiction(metadata: Mapping[str, Any]) -> str:
    """What does not fit together in `Metadata`; "" where all does."""
    pixels, frames = metadata["height"] * metadata["width"], len(metadata["times_s"])
    if 0 < metadata["fps"] < 1e-6:
        return f"fps is {metadata['fps']}, expected frames a second"
    if pixels > MAX_PIXELS or pixels * metadata["objects"] > MAX_MASK_PIXELS:
        size = f"{metadata['height']}×{metadata['width']} pixels"
        return f"{metadata['objects']} objects of {size} are more than can be held"
    if reason := caption_problem(metadata) or source_problem(metadata):
        return reason
    if reason := labels_problem(metadata):
        return reason
    return "" if metadata["frames"] == frames else f"frames is {metadata['frames']}, but times_s has {frames}"


def source_problem(metadata: Mapping[str, Any]) -> str:
    """What in the frames of the source of `Metadata` contradicts itself or the clip; "" where nothing does."""
    for name in ("source_frames", "source_times_s"):
        there = metadata.get(name)
        if (there is None) != (metadata.get("source_frames") is None):
            return f"{name} is {'missing' if there is None else 'there alone'}"
        if there is not None and (len(there) != len(metadata["times_s"]) or sorted(there) != [*there]):
            return f"{name} are not {len(metadata['times_s'])} that rise, one for each frame"
    return ""


def caption_problem(metadata: Mapping[str, Any]) -> str:
    """What in the caption of `Metadata` contradicts itself or the objects; "" where nothing does, or there is none."""
    caption = metadata.get("caption", {"text": "", "phrases": []})
    for phrase in caption["phrases"]:
        if not phrase["start"] < phrase["stop"] <= len(caption["text"]):
            return f"a phrase from {phrase['start']} to {phrase['stop']} is not in the caption"
        if phrase["object"] > metadata["objects"]:
            return f"a phrase names object {phrase['object']} of {metadata['objects']}"
    return ""


def labels_problem(metadata: Mapping[str, Any]) -> str:
    """What in the labels of `Metadata` contradicts itself or the objects; "" where nothing does, or there are none."""
    if (labels := metadata.get("labels")) is None:
        return ""
    if not len(labels["ids"]) == len(labels["names"]) == metadata["objects"]:
        counts = f"{len(labels['ids'])} ids and {len(labels['names'])} names"
        return f"labels tell of {counts} of {metadata['objects']} objects"
    numbers = (*labels["scores"], *(at for own in labels["scores"].values() for at in own))
    known = all(re.fullmatch("[0-9]{1,9}", number) for number in numbers)
    return "" if known else "labels tell scores of what is no object or no frame"


def answer_problem(answer: Mapping[str, Any], frames: int, size: tuple[int, int]) -> str:
    """What in an `Answer` contradicts itself or the clip; "" where nothing does.

    Args:
        answer: as read.
        frames: how many the clip has.
        size: (height, width) of them.
    """
    if not answer["frame"] < frames:
        return f"frame {answer['frame']} is not in the clip of {frames} frames"
    if len(answer["inside"]) != len(answer["points_px"]):
        return f"it tells of {len(answer['inside'])} of {len(answer['points_px'])} points whether they are inside"
    for (x, y), is_inside in zip(answer["points_px"], answer["inside"], strict=True):
        if is_inside and not (0 <= x < size[1] and 0 <= y < size[0]):
            return f"point ({x:g}, {y:g}) is called inside the frame of {size[1]}×{size[0]} pixels"
    return ""
