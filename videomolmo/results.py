"""Predictions for one video and one sentence: answers, masks and tracks, saved to a folder and read."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from videomolmo.errors import BadInput
from videomolmo.io.files import RECORDING, new_results
from videomolmo.io.formats.labels import Labels, place_of
from videomolmo.io.images import list_images
from videomolmo.io.plain_values import as_int, as_json, as_path
from videomolmo.io.schemas import Answer, answer_problem, read_metadata
from videomolmo.io.sources import from_source, is_file_or_folder, plain_source, stored_source
from videomolmo.io.tables import write_csv
from videomolmo.io.timing import Stopwatch
from videomolmo.io.untrusted import parse, read_bytes
from videomolmo.io.video import Frames, open_video
from videomolmo.mask_store import NOWHERE, ClipShape, LazyMasks, MaskStore, check_windows, count_bits, crop

if TYPE_CHECKING:
    import pandas as pd
    from supervision import Detections


@dataclass(frozen=True)
class KeyAnswer:
    """The model's answer on one key frame.

    Attributes:
        frame: number of the key frame.
        time_s: its presentation time.
        text: what the model wrote, unchanged.
        outcome: "found", "absent" or "malformed".
        points_px: (points, 2), x and y in pixels, also those outside the frame.
        inside: which points lie inside the frame; the others are not followed.
        problem: what is wrong with a malformed text.
    """

    frame: int
    time_s: float
    text: str
    outcome: str
    points_px: list[tuple[float, float]]
    inside: list[bool]
    problem: str | None = None

    @classmethod
    def read(cls, row: dict[str, Any]) -> "KeyAnswer":
        """Of a row of answers.jsonl, which may also tell of the source."""
        return cls(**{name: value for name, value in row.items() if name not in ("source_frame", "source_time_s")})


@dataclass(frozen=True)
class CaptionPhrase:
    """Words of a caption that name an object.

    Attributes:
        text: the words.
        start, stop: where they stand in the caption's text, characters.
        object: their object's number, from 1.
    """

    text: str
    start: int
    stop: int
    object: int


@dataclass(frozen=True)
class Caption:
    """What a model wrote about a whole video. Masks of a phrase: `result.masks[:, phrase.object - 1]`."""

    text: str
    phrases: tuple[CaptionPhrase, ...]

    def __str__(self) -> str:
        """The text with each phrase in brackets, followed by its object: `[a red circle]1 moves left`."""
        marks = [(one.start, 1, "[") for one in self.phrases]
        marks += [(one.stop, 0, f"]{one.object}") for one in self.phrases]
        text = self.text
        for place, _, mark in sorted(marks, reverse=True):
            text = f"{text[:place]}{mark}{text[place:]}"
        return text


class _Facts(NamedTuple):
    """Rows of a frame in the tracks, and the agreement of each object there."""

    rows: list[tuple]
    agreement: np.ndarray


@dataclass(eq=False)  # masks have no truth value to compare by; a result is itself
class GroundingResult:
    """Answers on key frames, and masks of every object on every frame.

    Masks are read from disk when indexed: `masks`, `forward`, `backward` are bool (frames, objects, height, width).
    Object n of `tracks` is row n - 1 of the masks. `folder` is where the result was last saved to or loaded from.

    Frames and times count from 0 where the stretch that was looked at begins. Of an excerpt and of a live source,
    `source_frames` and `source_times_s` are number and time of each frame where it comes from, else None; the tables
    have them beside. `recording` is the file with the frames of a live source, which are had only once. `times_s`, in
    seconds, is (frames,), `source` the video, `config` what run.json tells besides, and `warning`, or None, what is
    wrong with the video or with the words that were asked for.
    """

    sentence: str
    answers: list[KeyAnswer]
    objects: int
    height: int
    width: int
    times_s: np.ndarray
    fps: float
    spool: MaskStore
    config: dict[str, Any]
    source: Any = None
    warning: str | None = None
    folder: Path | None = field(default=None, compare=False)
    source_frames: np.ndarray | None = None
    source_times_s: np.ndarray | None = None
    recording: Path | None = None
    clock: Stopwatch | None = field(default=None, repr=False)  # of the run
    _video: Frames | None = field(default=None, repr=False)
    _facts: dict[int, "_Facts"] = field(default_factory=dict, init=False, repr=False)  # known before all are

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.times_s)

    @property
    def key_frames(self) -> list[int]:
        """Numbers of the frames that the model was asked about."""
        return [answer.frame for answer in self.answers]

    @property
    def masks(self) -> LazyMasks:
        """The fused masks."""
        return self._layer("fused")

    @property
    def forward(self) -> LazyMasks:
        """What came from the key frame before; on a key frame its own masks."""
        return self._layer("forward")

    @property
    def backward(self) -> LazyMasks:
        """What came from the key frame after; on a key frame its own masks; empty after the last key frame."""
        return self._layer("backward")

    @property
    def caption(self) -> Caption | None:
        """What a segmenter wrote about the video, with the objects that its phrases name; None of other models."""
        if (stored := self.config.get("caption")) is None:
            return None
        text = stored["text"]
        phrases = (CaptionPhrase(text[one["start"] : one["stop"]], **one) for one in stored["phrases"])
        return Caption(text, tuple(phrases))

    @cached_property
    def names(self) -> list[str]:
        """What each object is: as the file calls it that it is from, as the caption's phrase, or as was asked for."""
        if "labels" in self.config:
            return list(self.config["labels"]["names"])
        phrases = {one.object: one.text for one in reversed(self.caption.phrases)} if self.caption else {}
        return [phrases.get(n, self.sentence) for n in range(1, self.objects + 1)]

    def void(self, frame: int) -> Bool[np.ndarray, "height width"] | None:
        """Pixels that count for nothing, as labels of others may tell; None where there are none."""
        return self.spool.void(frame, (self.height, self.width))

    def detections(self, frame: int) -> "Detections":
        """The objects on a frame for `supervision`: boxes, masks, scores, classes by name, and ids as `tracker_id`.

        Raises:
            BadInput: supervision is not installed, or there is no such frame.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise BadInput(f"supervision is not installed ({error}); run: pip install supervision") from None
        if (at := as_int(frame, 0)) is None or at >= self.frames:
            raise BadInput(f"frame is {frame!r}, expected a number from 0 to {self.frames - 1}")
        labels = self.labels()
        shapes = list(labels.shapes(at))
        boxes = [place_of(mask)[3] for _, mask in shapes]
        scores, names = [labels.score(at, n) for n, _ in shapes], [labels.names[n - 1] for n, _ in shapes]
        return Detections(
            xyxy=np.array(boxes, float).reshape(-1, 4),
            mask=np.array([mask for _, mask in shapes], bool).reshape(-1, self.height, self.width),
            confidence=np.array(scores, float) if scores and None not in scores else None,
            class_id=np.array([labels.classes[name] - 1 for name in names], int),
            tracker_id=np.array([labels.whole_id(n) for n, _ in shapes], int),
            data={"class_name": np.array(names, str)},
        )

    def to(self, format: str, path: str | Path, frames: bool = False) -> list[str]:
        """Write the fused masks for other tools: a name of `videomolmo.io.formats.registry.FORMATS`.

        One frame's masks are in memory at a time. Corrections by hand are exported by the inspector and by `videomolmo
        export`.

        Args:
            format: coco, yolo-seg, mot, mots, davis, cvat, label-studio, geojson or csv.
            path: of a new file or folder.
            frames: write the frames, too, see `videomolmo.io.formats.registry.export`.

        Returns:
            What the format could not hold, a phrase each.

        Raises:
            BadInput: no such format, something is at `path`, or frames that are not to be had.
        """
        from videomolmo.io.formats.registry import export

        return export(self.labels(), format, path, frames)

    def labels(self) -> Labels:
        """The objects as writers of formats take them."""
        source = as_path(self.source)
        told = self.config.get("labels", {"ids": [str(n + 1) for n in range(self.objects)], "scores": {}})
        scores = {int(n): {int(at): score for at, score in own.items()} for n, own in told["scores"].items()}
        is_folder = source is not None and is_file_or_folder(source) and source.is_dir()
        stem = source.stem if source is not None else self.folder.name if self.folder else "clip"
        return Labels(
            stem or "clip", self.sentence, self.height, self.width, self.fps, self.times_s, tuple(told["ids"]),
            tuple(self.names), self._shapes, self.void if told.get("has_void") else None, scores,
            images=self._images_of(source) if is_folder else (), columns=lambda at, number: self.in_source(at),
            origin=self.in_source,
            video=source.name if source is not None and not is_folder else None, read_video=self.video,
        )  # fmt: skip

    def _images_of(self, folder: Path) -> tuple[str, ...]:
        names = [path.name for path in list_images(folder)]
        numbers = range(self.frames) if self.source_frames is None else self.source_frames
        return tuple(names[at] for at in numbers if at < len(names))

    def _shapes(self, at: int) -> Iterator[tuple[int, np.ndarray]]:
        """The objects of a frame with their masks, one mask at a time."""
        ids, bits = self.spool.bits("fused", at, (self.height, self.width))
        for row in np.argsort(ids):
            if bits[row].any():
                yield int(ids[row]), np.unpackbits(bits[row], axis=-1, count=self.width).view(bool)

    def _layer(self, name: str) -> LazyMasks:
        return LazyMasks(self.spool, name, (self.frames, self.objects, self.height, self.width))

    @property
    def agreement(self) -> Float[np.ndarray, "frames objects"]:
        """IoU of the forward and the backward mask, 1 where both are empty; NaN where one of the two does not reach."""
        return self._tables[1]

    @property
    def tracks(self) -> "pd.DataFrame":
        """One row per frame and object that is there: frame, time_s, object, x_px, y_px, area_px, box, source.

        x and y are the mask's centre of mass; box is (left, top, right, bottom), right and bottom exclusive; source
        says where the mask comes from: key, both, forward or backward. Of an excerpt, columns source_frame and
        source_time_s follow.
        """
        return self._tables[0]

    @cached_property
    def _tables(self) -> tuple["pd.DataFrame", np.ndarray]:
        """Tracks and agreement, in one pass over the masks, which each lie in a compressed file."""
        import pandas as pd

        facts = [self._facts.pop(at, None) or self._facts_of(at) for at in range(self.frames if self.objects else 0)]
        columns = ["frame", "time_s", "object", "x_px", "y_px", "area_px", "box", "source"]
        agreement = np.array([one.agreement for one in facts]).reshape(self.frames, self.objects)
        table = pd.DataFrame([row for one in facts for row in one.rows], columns=columns)
        return table.assign(**self.in_source(table["frame"])), agreement

    def in_source(self, at: Any) -> dict[str, Any]:
        """ "source_frame" and "source_time_s" of a frame (or several), where they differ from its own."""
        if self.source_frames is None:
            return {}
        at = np.asarray(at, int)
        frames, times_s = self.source_frames[at], self.source_times_s[at].round(4)
        return {"source_frame": frames.tolist(), "source_time_s": times_s.tolist()}

    def _facts_of(self, at: int) -> "_Facts":
        """What the tables tell of frame `at`."""
        size = self.height, self.width
        ids, *layers = self.spool.bits("fused", at, size)
        layers += [self.spool.bits(name, at, size)[1] for name in ("forward", "backward")]
        rows = []
        for n in np.argsort(ids):
            if (mask := crop(at, layers[0][n : n + 1])).box != NOWHERE:
                source = "key" if at in self._key_set else self._source_of(*(layer[n] for layer in layers))
                place = place_of(mask.at(at), mask.box[0], 8 * mask.box[2])
                rows.append((at, round(float(self.times_s[at]), 4), int(ids[n]), *place, source))
        agreement, union = np.full(self.objects, np.nan), count_bits(layers[1] | layers[2])
        agreement[ids - 1] = np.where(union == 0, 1.0, count_bits(layers[1] & layers[2]) / np.maximum(union, 1))
        reach = [self.spool.known(name, at, self.objects) for name in ("forward", "backward")]
        return _Facts(rows, np.where(np.logical_and(*reach), agreement, np.nan))

    def _source_of(self, mask: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> str:
        """Which direction a fused mask is from; a rule that makes masks of two needs both, the others choose one."""
        makes = self.config.get("model", {}).get("fusion", "iou") in ("iou", "intersection", "union")
        if forward.any() and backward.any():
            is_one = np.array_equal(mask, forward), np.array_equal(mask, backward)
            sides = (True, True) if makes or is_one[0] == is_one[1] else is_one
        else:
            sides = bool(forward.any()), bool(backward.any())
        return {(True, True): "both", (True, False): "forward", (False, True): "backward"}.get(sides, "none")

    @cached_property
    def _key_set(self) -> set[int]:
        return set(self.key_frames)

    def video(self) -> Frames:
        """The frames this result is about.

        Raises:
            BadInput: the video is no longer where it was.
        """
        if self._video is None:
            self._video = self.open_video()
        return self._video

    def open_video(self, given: Any = None) -> Frames:
        """As `video`, opened anew: whoever asks for it closes it.

        Args:
            given: replaces the source: a path, an array, or frames that are open.

        Raises:
            BadInput: as `video`.
        """
        if given is not None:
            return self._opened(given)
        if self.recording is not None:
            return open_video(self.recording, max_frames=self.frames)
        if self.source is None:
            raise BadInput("this result was made from an array and loaded from disk: give load(folder, video=…)")
        if isinstance(self.source, (str, Path)) and not is_file_or_folder(self.source):
            raise BadInput(f"{self.source!r:.300}: no such video; give load(folder, video=…)")
        return self._opened(self.source)

    def _opened(self, source: Any) -> Frames:
        """Those frames of the source that this result is about; of a live one there are no others to choose from."""
        is_open, numbers = isinstance(source, Frames), None if "live" in self.config else self.source_frames
        if numbers is None:
            return source if is_open else open_video(source, max_frames=self.frames)
        return from_source(source if is_open else open_video(source), numbers)

    @property
    def is_open(self) -> bool:
        """Whether `video` is at hand already."""
        return self._video is not None

    def overlay(self, path: str | Path) -> Path:
        """Write a video (H.264 mp4) of masks, ids and points over the frames; returns its path."""
        from videomolmo.io.drawing import write_overlay

        return write_overlay(self, Path(path))

    def _repr_png_(self) -> bytes:
        from videomolmo.io.drawing import contact_sheet, png_bytes

        return png_bytes(contact_sheet(self))

    def summary(self) -> str:
        """What was found, as a small table of text."""
        found = sum(answer.outcome == "found" for answer in self.answers)
        lines = [f"“{self.sentence}” · {self.frames} frames · {len(self.answers)} key frames: {found} found"]
        for outcome in ("absent", "malformed"):
            if count := sum(answer.outcome == outcome for answer in self.answers):
                lines[0] += f", {count} {outcome}"
        if outside := sum(answer.inside.count(False) for answer in self.answers):
            lines[0] += f", {outside} points outside the frame"
        if self.caption is not None:
            lines.append(str(self.caption))
        tracks = self.tracks
        if len(tracks):
            lines.append(f"{'object':>6} {'frames':>7} {'first':>6} {'last':>6} {'mean area px':>13} {'agreement':>10}")
        for number, rows in tracks.groupby("object"):
            seen = self.agreement[:, number - 1][~np.isin(np.arange(self.frames), self.key_frames)]
            agreement = f"{np.nanmean(seen):.2f}" if np.isfinite(seen).any() else "–"
            lines.append(f"{number:>6} {len(rows):>7} {rows.frame.min():>6} {rows.frame.max():>6} "
                         f"{rows.area_px.mean():>13.0f} {agreement:>10}")  # fmt: skip
        if not len(tracks):
            lines.append("no object was found")
        return "\n".join(lines + ([f"warning: {self.warning}"] if self.warning else []))

    def save(self, folder: str | Path, *, overwrite: bool = False, overlay: bool = True) -> Path:
        """Write answers.jsonl, tracks.csv, masks/, propagation/, overlay.mp4 and run.json below `folder`; returns it.

        All of it is made beside what is there and takes its place at the end. Corrections of an earlier result are
        renamed, for example to corrections.1.old.jsonl.

        Raises:
            BadInput: the folder holds something and `overwrite` is False (True replaces files of these names only), or
                cannot be written, or the frames cannot be opened and `overlay` is True; nothing has changed then.
        """
        clock = self.clock or Stopwatch()
        with clock.measure("saving"), new_results(folder, overwrite=overwrite, source=self.source) as place:
            if overlay:
                self.video()  # where it is gone, this is known before the work
            self._write(place, overlay)
            self._write_metadata(place / "run.json", clock)
        self.folder = Path(folder)
        return self.folder

    def _write(self, place: Path, overlay: bool) -> None:
        """All files, in one pass over the masks."""
        from videomolmo.io.drawing import overlay_steps, write_index_png

        with open(place / "answers.jsonl", "w", encoding="utf-8") as file:
            for answer in self.answers:
                row = vars(answer) | self.in_source(answer.frame)
                file.write(json.dumps(row, ensure_ascii=False, default=as_json) + "\n")
        size = self.height, self.width
        with closing(overlay_steps(self, place / "overlay.mp4") if overlay else (at for at in ())) as steps:
            for at in range(self.frames):
                write_index_png(place / "masks" / f"{at:05d}.png", self.masks[at], size, self.void(at))
                if "_tables" not in self.__dict__ and self.objects:
                    self._facts[at] = self._facts_of(at)
                next(steps, None)
            next(steps, None)  # the end of the video
        write_csv(self.tracks, place / "tracks.csv")
        for path in self.spool.files():
            shutil.copyfile(path, place / "propagation" / path.name)
        if self.recording is not None:
            shutil.copyfile(self.recording, place / RECORDING)

    def _write_metadata(self, path: Path, clock: Stopwatch) -> None:
        """Of the run; with the time it took, saving included where this is the result of a run and not a saved one."""
        source = self.source if "live" in self.config else plain_source(self.source)
        metadata = {
            "sentence": self.sentence, "video": source, "frames": self.frames,
            "objects": self.objects, "height": self.height, "width": self.width, "fps": self.fps,
            "times_s": self.times_s.round(6).tolist(), "warning": self.warning, **self.config,
        }  # fmt: skip
        if self.source_frames is not None:
            metadata["source_frames"] = self.source_frames.tolist()
            metadata["source_times_s"] = self.source_times_s.round(6).tolist()
        if self.clock is not None:
            stages = clock.stages()  # and now it is
            metadata["seconds"] = self.config["seconds"] | clock.rounded()
            metadata |= {"stages": stages} if stages else {}
        text = json.dumps(metadata, indent=1, ensure_ascii=False, default=as_json)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, video: Any = None) -> "GroundingResult":
        """A saved result; masks stay on disk until indexed. `video` replaces the recorded source; see the grounder's.

        Raises:
            BadInput: the folder does not hold a result.
        """
        folder = Path(folder).absolute()  # masks are read later, wherever the program is then
        try:
            metadata = read_metadata(folder / "run.json")
            known = {name: metadata.pop(name) for name in ("sentence", "objects", "height", "width", "fps", "warning")}
            times, source = np.array(metadata.pop("times_s"), float), metadata.pop("video")
            metadata.pop("frames")
            known |= stored_source(metadata, folder, video)
            told = ClipShape(len(times), *(known[name] for name in ClipShape._fields[1:]))
            answers = _read_answers(folder / "answers.jsonl", told)
            spool = MaskStore(folder / "propagation")
            if known["objects"]:
                check_windows(spool, told)
            spool.clip = told
        except (OSError, BadInput) as error:
            why = f"there is no {Path(error.filename).name}" if isinstance(error, FileNotFoundError) else error
            raise BadInput(f"{folder}: not a saved result ({why}); give a folder that `ground` wrote") from error
        opened = video if isinstance(video, Frames) else None
        video = as_path(video) or video
        given = source if video is None else video if opened is None else opened.source
        result = cls(answers=answers, times_s=times, spool=spool, config=metadata, folder=folder, source=given, **known)
        if opened is not None:
            result._video = result.open_video(opened)
        return result


def _read_answers(path: Path, told: ClipShape) -> list[KeyAnswer]:
    """The answers of a result, in which tuples have become lists.

    Raises:
        OSError, BadInput: they cannot be read, or contradict themselves or the clip.
    """
    answers = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):  # JSON leaves U+2028 as it is
        if line.strip():
            row = parse(Answer, line, f"{path}, line {number}")
            if reason := answer_problem(row, told.frames, told[2:]):
                raise BadInput(f"{path}, line {number}: {reason}")
            answers.append(KeyAnswer.read(row))
    return answers
