"""A result, whole or damaged, opened for viewing; its frames decoded ahead."""

from __future__ import annotations

import copy
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.io.cache import BoundedCache
from videomolmo.io.plain_values import as_path
from videomolmo.io.schemas import (
    MAX_FRAMES,
    Answer,
    Metadata,
    answer_problem,
    contradiction,
    labels_problem,
    source_problem,
)
from videomolmo.io.sources import stored_source
from videomolmo.io.untrusted import StoredArrays, parse, read_bytes, read_json, wrong_keys
from videomolmo.io.video import Frames
from videomolmo.mask_store import MaskStore, window_of
from videomolmo.results import GroundingResult, KeyAnswer

MAX_BYTES = 160 << 20
GREY = 96  # where there is no picture


class FrameCache:
    """Frames by number; the video is opened when the first one is asked for.

    Args:
        result: whose frames these are; its number and size of frames hold.
        given: replaces its video: a path, an array, or `Frames`.
    """

    def __init__(self, result: GroundingResult, given: Any = None) -> None:
        self._open, self._is_ours = _way_to(result, given)
        self.frames, self.size = result.frames, (result.height, result.width)
        self._video: Frames | None = None
        self._reason: str | None = None
        self._cache, self._lock = BoundedCache(MAX_BYTES, lambda frame: frame.nbytes), threading.RLock()

    def video(self) -> Frames | None:
        """The video, None where it cannot be opened."""
        with self._lock:
            if self._video is None and self._reason is None:
                try:
                    self._video = self._open()
                except (BadInput, OSError) as error:
                    self._reason = str(error)
            return self._video

    def problems(self) -> list[str]:
        """Why frames are missing, a sentence each."""
        video = self.video()
        if video is None:
            return [f"no frames: {self._reason}"]
        found = [f"the video breaks: {video.warning}"] if video.warning else []
        if len(video) < self.frames:
            found.append(f"the video has {len(video)} frames, the result {self.frames}: the others are grey")
        if (video.height, video.width) != self.size:
            own, wanted = f"{video.width}×{video.height}", f"{self.size[1]}×{self.size[0]}"
            found.append(f"the video is {own} pixels, the result {wanted}: it was rescaled")
        return found

    def get(self, t: int, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `t` at `size` (that of the result by default), not to be written to; grey where there is none."""
        key = (t, size or self.size)
        with self._lock:
            if (frame := self._cache.get(key)) is None:
                frame = self._cache.put(key, self._read(t, key[1]))
                frame.flags.writeable = False
            return frame

    def clear_cache(self) -> None:
        """Free the frames, which can be read again."""
        with self._lock:
            self._cache.clear()

    def close(self) -> None:
        """Give back memory and the video, if it was opened here; what is asked for afterwards opens it again."""
        with self._lock:
            self.clear_cache()
            if self._is_ours and self._video is not None:
                self._video.close()
            self._video = None

    def _read(self, t: int, size: tuple[int, int]) -> np.ndarray:
        video = self.video()
        if video is None or not 0 <= t < len(video):
            return np.full((*size, 3), GREY, np.uint8)
        try:
            frame = video[t]
        except (BadInput, OSError):
            return np.full((*size, 3), GREY, np.uint8)
        return frame if frame.shape[:2] == size else resized(frame, size)


def _way_to(result: GroundingResult, given: Any) -> tuple[Callable[[], Frames], bool]:
    """What opens a video, and whether it is then ours to close."""
    if given is not None:
        return partial(result.open_video, given), not isinstance(given, Frames)
    return (result.video, False) if result.is_open else (result.open_video, True)


def resized(frame: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A picture at another (height, width): averaged when made smaller, crisp when enlarged twice and more."""
    import cv2

    ratio = size[0] / max(1, frame.shape[0])
    method = cv2.INTER_AREA if ratio < 0.5 else cv2.INTER_NEAREST if ratio >= 2 else cv2.INTER_LINEAR
    return cv2.resize(frame, size[::-1], interpolation=method)


MAX_WITHOUT_MASKS = (
    255  # objects that run.json may tell of without masks of them: as many as a mask picture has numbers for
)


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
    metadata, problems = _read_metadata(folder)  # without it there is nothing to show
    spool = MaskStore(folder / "propagation")
    times = np.array(metadata.pop("times_s"), float)
    known = {"sentence": "", **_told_by_masks(spool), "fps": 30.0, "warning": None}
    gone = [name for name in known if name not in metadata and name != "warning"]
    if gone:
        problems.append(f"run.json does not tell {', '.join(gone)}")
    for name in ("objects", "height", "width"):
        masks, said = known[name], metadata.get(name, known[name])
        if (masks and said != masks and name != "objects") or (
            name == "objects" and said > max(masks, MAX_WITHOUT_MASKS)
        ):
            problems.append(f"run.json: {name} is {said}, the masks tell {masks}, which is shown")
            metadata.pop(name)
    known |= {name: metadata.pop(name) for name in known if name in metadata}
    if reason := contradiction(known | {"frames": len(times), "times_s": times}):
        raise BadInput(f"{folder}: no result can be shown: {reason}; give a folder of `ground`")
    if reason := labels_problem(known | metadata):
        problems.append(f"run.json: {reason}; they are not used")
        metadata.pop("labels")
    reason = source_problem(metadata | {"times_s": times})
    if reason or any("source_frames" in problem for problem in problems):
        problems += [f"run.json: {reason}; they are not used"] if reason else []
        for name in ("source_frames", "source_times_s", "video"):
            metadata.pop(name, None)  # nobody knows which frames of the video these are
    known |= stored_source(metadata, folder, video)
    recorded = metadata.pop("video", None)
    if (frames := metadata.pop("frames", len(times))) != len(times):
        problems.append(f"run.json: frames is {frames}, but it has the times of {len(times)}, which are shown")
    answers, unread = _answers(folder / "answers.jsonl", len(times), (known["height"], known["width"]))
    result = GroundingResult(
        answers=answers, times_s=times, spool=spool, config=metadata, folder=folder,
        source=video if video is not None else recorded, **known,
    )  # fmt: skip
    return result, unread + problems


def _told_by_masks(spool: MaskStore) -> dict[str, int]:
    """Number of objects and size of the frame, as far as the files of masks can be read."""
    objects, sizes = 0, Counter()
    for path in spool.files():
        try:
            with StoredArrays(path) as stored:
                window = window_of(stored)
        except (OSError, BadInput):
            continue
        objects = max(objects, int(window.ids.max(initial=0)))
        sizes[window.height, window.width] += 1
    (height, width), _ = sizes.most_common(1)[0] if sizes else ((0, 0), 0)
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
            problems.append(
                f"the run's {name} is {settings[name]!r:.60}, expected {expected}; masks are shown as saved"
            )
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
    "every": (lambda value: type(value) is int and 0 < value <= MAX_FRAMES, "a number of frames"),
}


def _read_metadata(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What of run.json is as it must be, and what is not, a sentence each."""
    try:
        metadata = read_json(folder / "run.json")
        wrong = wrong_keys(Metadata, metadata)
        if "times_s" not in wrong:
            there = {name: reason for name, reason in wrong.items() if name in metadata}
            sound = {name: value for name, value in metadata.items() if name not in wrong}
            return sound, [f"run.json: {reason}; it is not used" for reason in there.values()]
        reason = "it has no times of frames" if "times_s" not in metadata else wrong["times_s"]
    except (OSError, BadInput) as error:
        reason = str(error)
    raise BadInput(f"{folder}: no result can be shown without its run.json ({reason}); give a folder of `ground`")


def _answers(path: Path, frames: int, size: tuple[int, int]) -> tuple[list[KeyAnswer], list[str]]:
    """The answers that can be read and make sense, and which do not, a sentence each."""
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        return [], [f"the model's answers are missing ({path.name}: {error.strerror})"]
    except BadInput as error:
        return [], [f"the model's answers are not shown: {error}"]
    answers, unread, senseless = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse(dict[str, Any], line, path.name)
            if not Answer.__required_keys__ <= row.keys():
                raise BadInput("it is no answer")
        except BadInput:
            unread.append(str(number))
            continue
        try:
            row = parse(Answer, line, path.name)
            if answer_problem(row, frames, size):
                raise BadInput("it contradicts itself")
            answers.append(KeyAnswer.read(row))
        except BadInput:
            senseless.append(f"{row.get('frame', '?')!r:.20}")
    return answers, _told_of(path.name, unread, senseless)


def _told_of(name: str, unread: list[str], senseless: list[str]) -> list[str]:
    """Lines that could not be read, and frames whose answers make no sense, in sentences."""
    found = []
    if unread:
        found.append(f"{name}: line {_few(unread)} cannot be read; its answer is not shown")
    if senseless:
        found.append(f"the answer on frame {_few(senseless)} contradicts itself or the clip; it is not shown")
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


MAX_LISTED = 200  # objects with a row and a line of their own: more cannot be told apart, and take minutes


def find_missing(inspection: Any, video: list[str], damaged: Mapping[int, str], lost_corrections: int) -> list[str]:
    """Everything that is missing or was damaged, a sentence each; empty where all is well.

    Args:
        inspection: what was opened.
        video: what is wrong with the video.
        damaged: files of masks that could not be read.
        lost_corrections: stretches that were corrected, but whose masks are gone.
    """
    damage = [*inspection.problems, *inspection.log.problems, inspection.log.unkept or ""]
    found = [*damage, *_of_clip(inspection, video), *_of_answers(inspection)]
    if inspection.frames:
        found += _of_masks(inspection)
    unlearnt = (inspection.result.config.get("model") or {}).get("unlearnt_words")
    if isinstance(unlearnt, list) and unlearnt:
        found.append(f"the model never learnt “{'”, “'.join(map(str, unlearnt))}”: its answers are guesses, or go by "
                     "the other words alone")  # fmt: skip
    if lost_corrections:
        found.append(f"masks of {lost_corrections} corrected stretches are gone; they are shown as the run left them")
    found += list(damaged.values())  # another thread may read more of them
    if inspection.truth is not None:
        found += inspection.truth.notes
    return [sentence[0].upper() + sentence[1:].rstrip(".") + "." for sentence in dict.fromkeys(found) if sentence]


def _of_clip(inspection: Any, video: list[str]) -> list[str]:
    if not inspection.frames:
        return ["the clip has no frames"]
    found = ["the clip has one frame: nothing moves, and there is nothing to fuse"] if inspection.frames == 1 else []
    return found + video


def _of_answers(inspection: Any) -> list[str]:
    answers = inspection.result.answers
    if not answers:
        return ["there is no answer of the model"]
    found = []
    malformed = [answer for answer in answers if answer.outcome == "malformed"]
    if malformed:
        where = _few_frames([answer.frame for answer in malformed])
        found.append(
            f"{len(malformed)} of {len(answers)} answers are malformed (frame {where}): their text gives no points"
        )
    if all(answer.outcome == "absent" for answer in answers):
        found.append("the model says on every key frame that nothing is there")
    outside = [answer.frame for answer in answers if not all(answer.inside)]
    if outside:
        found.append(f"points outside the frame are not followed (frame {_few_frames(outside)})")
    return found


def why_no_masks(result: GroundingResult) -> str:
    """Why there is nothing to draw."""
    if isinstance(result.config.get("whole_video"), dict):
        return "answers about a whole video are points at times, without masks"
    return "no object was found"


def _of_masks(inspection: Any) -> list[str]:
    if not inspection.objects:
        return [why_no_masks(inspection.result)]
    reasons = inspection.layers()
    count = len(inspection.object_ids)
    many = [f"{count} objects: lists and plots tell of the first {MAX_LISTED}"]
    return many * (count > MAX_LISTED) + [
        reason for name, reason in reasons.items() if reason is not None and name != "truth"
    ]


def _few_frames(frames: list[int]) -> str:
    """A list of frames, cut short."""
    return ", ".join(map(str, frames[:5])) + (" …" if len(frames) > 5 else "")
