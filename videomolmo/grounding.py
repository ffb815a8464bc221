"""The main job: a video and a sentence become answers on key frames, masks on every frame, and tracks."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from videomolmo.errors import BadInput
from videomolmo.fusion import check_rule
from videomolmo.io import provenance
from videomolmo.io.decoded import Decoded
from videomolmo.io.files import RECORDING
from videomolmo.io.known_words import KnownWords, UnknownWords, warn
from videomolmo.io.live import LiveFrames, recorded
from videomolmo.io.plain_values import as_int
from videomolmo.io.sources import check_stretch, excerpt, open_source
from videomolmo.io.timing import Stopwatch
from videomolmo.io.video import Frames
from videomolmo.mask_store import MaskStore
from videomolmo.points import Answer
from videomolmo.protocols import Frame, OnText, Pointer, Question, Segmentation, Segmenter, Tracker, as_question
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.weights import hub

if TYPE_CHECKING:
    from videomolmo.masks.sam2 import MaskTracker
    from videomolmo.masks.unfinished import Unfinished
    from videomolmo.masks.windows import Window

Result = TypeVar("Result")


class VideoGrounder:
    """A pointer and a tracker, or a segmenter, ready to ground sentences in videos.

    Args:
        pointer: answers on key frames.
        tracker: follows what it points at.
        segmenter: in place of both; a tracker beside it serves for corrections.
        weights: hashes of what was loaded, for run.json; what the tracker loaded under names that begin with "masks:".
        loaded: how it was loaded, likewise.

    Attributes:
        clock: None, or what counts the time of all runs together; see `videomolmo.io.timing.Profile`.
        told: words that the user was told the model never learnt; see `videomolmo.io.known_words.warn`.

    Example:
        >>> grounder = VideoGrounder.from_pretrained("nano")  # doctest: +SKIP
        >>> result = grounder("clip.mp4", "the red circle", every=5)  # doctest: +SKIP

    Seen in: notebooks/00_quickstart.ipynb
    """

    def __init__(
        self,
        pointer: Pointer | None = None,
        tracker: Tracker | None = None,
        *,
        segmenter: Segmenter | None = None,
        weights: dict[str, str] | None = None,
        loaded: dict[str, Any] | None = None,
    ) -> None:
        if (pointer is None) == (segmenter is None) or (segmenter is None and tracker is None):
            given = zip(("pointer", "tracker", "segmenter"), (pointer, tracker, segmenter), strict=True)
            names = " and ".join(name for name, part in given if part is not None) or "nothing"
            raise BadInput(f"a grounder of {names}: expected a pointer with a tracker, or a segmenter")
        self.pointer, self.tracker, self.segmenter = pointer, tracker, segmenter
        self.weights, self.loaded = dict(weights or {}), dict(loaded or {})
        self.clock: Stopwatch | None = None
        self.told: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        model: str = "nano",
        masks: str = "nano",
        device: str = "auto",
        *,
        dtype: str = "auto",
        quantize: str | None = None,
        attention: str = "sdpa",
        device_map: str | None = None,
        offline: bool = False,
    ) -> "VideoGrounder":
        """Load both models.

        Args:
            model: "nano" or "nano-96" (shipped), a folder, or a hub id ("id@revision" pins one), in our own format or
                as VideoMolmo and Molmo-7B-D are published. For Molmo 2 see `videomolmo.load_grounder`.
            masks: "nano" (shipped), a published id such as "facebook/sam2.1-hiera-tiny", its checkpoint file under
                its own name, or a folder like data/nano/masks.
            device: "auto" (an NVIDIA GPU if there is one), "cpu", "cuda", or "mps" (Apple's GPUs; never tried by us).
            dtype: of the pointing model: float32, bfloat16, float16, auto (float32 for nano or a CPU, else bfloat16).
            quantize: None, "8bit" or "4bit" weights of the pointing model (needs bitsandbytes).
            attention: of the language model: "sdpa", "eager" or "flash_attention_2" (where flash-attn is installed).
            device_map: "auto" spreads the pointing model over all GPUs.
            offline: take from the hub only what was downloaded before.

        Raises:
            BadInput: no such model, or weights that do not fit.
        """
        from videomolmo.weights.checkpoint import device_named, dtype_of, load_model, pointing_hashes

        device, model, masks = device_named(device), hub.as_name(model, "--model"), hub.as_name(masks, "--masks")
        folder = hub.pointing_folder(model, offline)
        from videomolmo.model import VideoMolmoProcessor
        from videomolmo.model.tokenizer import load_tokenizer
        from videomolmo.pointing import VideoMolmoPointer

        is_large = device != "cpu" and folder.parent != hub.pointing_folder("nano").parent
        precision = dtype_of("bfloat16" if dtype == "auto" and is_large else dtype)
        tracker, weights = load_tracker(masks, device, offline, "cuda" in device and "bfloat16" in str(precision))
        pointing = load_model(folder, device, precision, attention, quantize, device_map)
        processor = VideoMolmoProcessor(load_tokenizer(folder, pointing.config.language), pointing.config)
        loaded = {"model": model, "masks": masks, "dtype": str(precision).removeprefix("torch."),
                  "quantize": quantize, "attention": attention, "device_map": device_map}  # fmt: skip
        pointer = VideoMolmoPointer(pointing, processor, KnownWords.read(folder))
        return cls(pointer, tracker, weights=pointing_hashes(folder) | weights, loaded=loaded)

    def __call__(
        self,
        video: str | os.PathLike | np.ndarray | Frames,
        sentence: str,
        *,
        every: int = 5,
        fusion: str = "iou",
        tau: float = 0.7,
        context: int | None = None,
        start: float | str | None = None,
        end: float | str | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        reader: str = "pyav",
        latency: int | None = None,
        progress: bool = False,
        on_text: OnText | None = None,
        kept: Unfinished | None = None,
    ) -> GroundingResult:
        """Find what the sentence names: points on key frames, masks on every frame.

        Args:
            video: a video file, a folder of images, uint8 (frames, height, width, 3), what `open_video` gives, or the
                name of a live source ("camera:0", "rtsp://…", see `videomolmo.io.live.open_live`), whose frames are
                recorded for the result; it goes on until the source or `end` does.
            sentence: a noun phrase ("the red circle") or a question.
            every: key frames lie this many frames apart (k).
            fusion: a name in `videomolmo.fusion.RULES`; `forward` and `backward` have nothing followed the other way.
            tau: IoU from which the two directions count as agreeing (τ).
            context: past frames the model looks at (l); None takes the model's own.
            start, end: the stretch that is looked at, in seconds, or with an f behind it a frame ("57f"); `end` is left
                out. See `videomolmo.io.sources.excerpt`, also on how the result tells where its frames come from.
            fps: look at so many frames a second, evenly chosen; a slower video is looked at whole.
            max_frames, reader: read only so many frames, by "pyav" or "decord"; of an open video `open_video` was told.
            latency: as for `stream`.
            progress: show bars.
            on_text: called while answers are written, with a key frame's number and its text so far; for example
                `lambda frame, text: print(f"\\r{frame}: {text}", end="")`.
            kept: what is finished of this run, see `videomolmo.masks.unfinished`, which grows.

        Raises:
            BadInput: an argument that makes no sense, or a video that cannot be read.

        Source: paper, section 3.
        """
        settings = check_settings(every, fusion, tau, context, latency)
        read = {"reader": reader, "max_frames": max_frames, **check_stretch(start, end, fps)}
        opened = _opened(video, **read)
        read["max_frames"] = None if max_frames is None else int(max_frames)
        try:
            return drained(self.steps(opened, sentence, settings, read, progress=progress, on_text=on_text, kept=kept))
        finally:
            if opened.is_live:
                opened.close()

    def steps(
        self, video: Frames, sentence: str, settings: dict[str, Any], read: dict[str, Any], *, progress: bool = False,
        on_text: OnText | None = None, kept: Unfinished | None = None, record: Path | None = None,
    ) -> Generator[int, None, GroundingResult]:  # fmt: skip
        """As a call, but yields after each window how many frames have final masks; the result is returned.

        Args:
            video: opened with `read`, its "reader", "max_frames", "start", "end" and "fps".
            settings: see `check_settings`.
            record: where frames of a live source are recorded; None: beside the masks, and gone with the process.
        """
        store = MaskStore() if kept is None else kept.store
        recording = (record or store.folder / RECORDING) if video.is_live else None
        with recorded(video, recording) as video:
            work = self._begin(video, sentence, settings, on_text, progress=progress, kept=kept)
            objects = yield from _stored(work.windows, store, work.question, progress, kept)
        clock, frames = work.question.clock, work.frames
        config = {
            "model": {**work.settings, "question": work.question.text, **read, **work.about},
            "loaded": self.loaded, **work.caption,
            "seed": None,  # greedy decoding and SAM 2 draw nothing at random
            "weights_sha256": self.weights, "versions": provenance.versions(), "commit": provenance.commit(),
            "seconds": dict.fromkeys(("io", "vision", "text", "masks"), 0.0) | clock.rounded(),
        }  # fmt: skip
        config |= {"live": video.report()} if video.is_live else {}
        known = {name: getattr(video, name) for name in ("source_frames", "source_times_s")}
        return GroundingResult(
            sentence=sentence, answers=work.answers, objects=objects, height=video.height, width=video.width,
            times_s=np.asarray(video.times_s)[: frames.count], fps=video.fps, spool=store, config=config,
            source=video.name if video.is_live else video.source, recording=recording, clock=clock,
            warning="; ".join(filter(None, (work.unknown.warning, video.warning))) or None,
            _video=None if video.is_live else video,
            **{name: None if of is None else of[: frames.count] for name, of in known.items()},
        )  # fmt: skip

    def stream(
        self,
        video: str | os.PathLike | np.ndarray | Frames | Iterable[Frame],
        sentence: str,
        *,
        every: int = 5,
        fusion: str = "iou",
        tau: float = 0.7,
        context: int | None = None,
        start: float | str | None = None,
        end: float | str | None = None,
        fps: float | None = None,
        on_text: OnText | None = None,
        latency: int | None = None,
    ) -> Iterator[Window]:
        """Masks of one window after the other, each as soon as it is final; nothing is stored.

        Args:
            video: as for a call; or an iterator of frames, uint8 (height, width, 3), that may go on for ever, and is
                timed at 30 a second. Frames are asked for as they are needed.
            sentence, every, fusion, tau, context, start, end, fps, on_text: as for a call.
            latency: windows worked on together; None: 1 for a live source or an iterator, else as many as are faster.

        Raises:
            BadInput: as for a call; of the frames when it comes to them.

        Example:
            >>> for window in grounder.stream("camera:0", "the red circle"):  # doctest: +SKIP
            ...     print(window.start, window.ids, window.fused.shape)
        """
        settings = check_settings(every, fusion, tau, context, latency)
        video = LiveFrames(video) if isinstance(video, Iterator) else video
        video = _opened(video, **check_stretch(start, end, fps))
        try:
            return self._begin(video, sentence, settings, on_text).windows
        except BaseException:
            if video.is_live:
                video.close()
            raise

    def _begin(
        self, video: Frames, sentence: str, settings: dict[str, Any], on_text: OnText | None, *, progress: bool = False,
        kept: Unfinished | None = None,
    ) -> _Work:  # fmt: skip
        """A question about a video and the windows that will answer it; no frame has been decoded yet."""
        text, unknown = as_question(sentence), warn(self, sentence)
        about = self.describe(settings["context"]) | unknown.config
        settings["context"] = about.pop("context", None)
        known = frozenset() if kept is None else frozenset(kept.answers)
        question = Question(
            text, video, settings["every"], settings["context"], on_text, clock=self.clock or Stopwatch(),
            latency=settings["latency"] or (1 if video.is_live else None), sentence=sentence, known=known,
            reached=0 if kept is None else kept.reached,
        )  # fmt: skip
        frames, answers, caption = Decoded(video, question.clock), [], {}
        if self.segmenter is None:
            windows = self._point_and_track(frames, question, answers, settings, progress, kept)
        else:
            windows = self._segment(frames, question, answers, caption, kept)
        return _Work(question, frames, answers, caption, windows, settings, about, unknown)

    def describe(self, context: int | None = None) -> dict[str, Any]:
        """What run.json tells of the models, asked to look at so many past frames.

        Raises:
            BadInput: they cannot look at so many.
        """
        model = self.pointer if self.segmenter is None else self.segmenter
        device = getattr(model if self.tracker is None else self.tracker, "device", "cpu")
        return {"device": str(device), **model.describe(context)}

    def _point_and_track(
        self, frames: Decoded, question: Question, answers: list[KeyAnswer], settings: dict[str, Any], progress: bool,
        kept: Unfinished | None,
    ) -> Iterator[Window]:  # fmt: skip
        """Windows between key frames, from the frames that the pointer has seen and the answers it gave."""
        from videomolmo.masks.windows import track_windows

        frames.keep()
        found = question.clock.each("text", self.pointer.answers(frames, question))
        clicked = _with_clicks(found, frames, question, answers, progress, kept)
        going_on = {} if kept is None else {"state": kept.state, "keep": kept.keep}
        options = {"rule": settings["fusion"], "tau": settings["tau"], "latency": question.latency, **going_on}
        return track_windows(self.tracker, clicked, len(question.video), clock=question.clock, **options)

    def _segment(
        self, frames: Decoded, question: Question, answers: list[KeyAnswer], caption: dict[str, Any],
        kept: Unfinished | None,
    ) -> Iterator[Window]:  # fmt: skip
        """A window and an answer for each part of a segmentation; none for parts whose masks are kept.

        Its masks are stored as those behind a last key frame are: they came forwards, and nothing came backwards.
        """
        from videomolmo.masks.windows import Identities, Window

        reached = objects = 0
        for part in self.segmenter.segment(frames, question):
            part.check(reached, question.video)
            masks, ids, stop = part.masks, tuple(int(name) for name in part.ids), reached + len(part.masks)
            if part.text and not reached:
                caption["caption"] = {"text": part.text, "phrases": [phrase._asdict() for phrase in part.phrases]}
            is_kept = kept is not None and stop <= question.reached
            answers.append(_answer_of(part, reached, question.video, kept if is_kept else None))
            objects, start, reached = max(objects, *ids, 0), reached, stop
            if is_kept:
                continue
            first, reaches = (np.arange(len(masks)) == 0)[:, None], np.ones(masks.shape[:2], bool)
            yield Window(start, ids, masks, masks & first[..., None, None], masks, reaches, reaches & first)
            if kept is not None:
                kept.add(answers[-1])
                state = {**Identities().state(), "count": np.array(objects)}
                kept.keep({"reached": np.array(reached), "ids": np.array(ids, int), **state})
        if reached != (count := frames.take_rest()):
            raise BadInput(f"the segmenter gave masks of {reached} frames, expected {count}, one for each")


class _Work(NamedTuple):
    """What goes on for a question: answers (and a segmenter's caption) come as the windows are asked for."""

    question: Question
    frames: Decoded
    answers: list[KeyAnswer]
    caption: dict[str, Any]
    windows: Iterator[Window]
    settings: dict[str, Any]
    about: dict[str, Any]
    unknown: UnknownWords


def _with_clicks(
    found: Iterator[tuple[int, Answer | None]],
    frames: Decoded,
    question: Question,
    answers: list[KeyAnswer],
    progress: bool,
    kept: Unfinished | None,
) -> Iterator[tuple[Frame, list[np.ndarray] | None]]:
    """All frames in order, key frames with the clicks that answer there; `answers` grows."""
    from tqdm import tqdm

    video, every, reached = question.video, question.every, 0
    total = None if video.is_live else -(-len(video) // every)
    with tqdm(total=total, desc="point", unit=" key frames", disable=not progress) as bar:
        for at, answer in found:
            if at != (key := every * len(answers)) or at >= len(video):
                raise BadInput(f"the pointer answers on frame {at}, expected the next key frame, {key}, or no more")
            answers.append(kept.answers[at] if at in question.known else _key_answer(at, answer, video))
            if kept is not None:
                kept.add(answers[-1])
            bar.update()
            yield from ((frame, None) for frame in islice(frames.again(), at - reached))
            for frame in islice(frames.again(), 1):
                yield frame, clicks_of(answers[-1])
            reached = at + 1
    for frame in frames.again():
        yield frame, None
    if len(answers) != (keys := -(-frames.take_rest() // every)):
        raise BadInput(f"the pointer gave {len(answers)} answers, expected {keys}, one on each key frame")


def _stored(
    windows: Iterator[Window], store: MaskStore, question: Question, progress: bool, kept: Unfinished | None
) -> Generator[int, None, int]:
    """The number of objects, once the masks of all windows are in the store; yields after each window."""
    from tqdm import tqdm

    objects, reached = (0, 0) if kept is None else (kept.objects, kept.reached)
    total = None if question.video.is_live else len(question.video)
    with tqdm(total=total, initial=reached, desc="track", unit=" frames", disable=not progress) as bar:
        for window in question.clock.each("masks", windows):
            layers = {"fused": window.fused, "forward": window.forward, "backward": window.backward}
            known = {"forward": window.has_forward, "backward": window.has_backward}
            with question.clock.measure("io/masks to disk"):
                store.write(window.start, window.ids, layers, known)
            objects = max(objects, *window.ids, 0)
            bar.update(len(window.fused))
            yield window.start + len(window.fused)
    return objects


def drained(steps: Generator[Any, None, Result]) -> Result:
    """What a generator returns, once it has gone through all its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _answer_of(part: Segmentation, at: int, video: Frames, kept: Unfinished | None) -> KeyAnswer:
    """What is told of a part of a segmentation that begins at frame `at`; where its masks are kept, what was told then.

    Raises:
        BadInput: its words or objects are others than then.
    """
    if kept is None:
        outcome = "found" if part.masks.any() else "absent"
        return KeyAnswer(at, round(float(video.times_s[at]), 4), part.text, outcome, [], [])
    before = kept.answers.get(at)
    if before is None or before.text != part.text or kept.store.ids(at).tolist() != [*part.ids]:
        raise BadInput(f"the model says {part.text!r:.80} now, and said otherwise before it was stopped; run it again")
    return before


def _key_answer(at: int, answer: Answer, video: Frames) -> KeyAnswer:
    inside = [bool(flag) for flag in answer.inside]
    points = rounded(answer.points_px, inside, video.width, video.height)
    when = round(float(video.times_s[at]), 4)
    return KeyAnswer(at, when, answer.text, answer.outcome, points, inside, answer.problem)


def check_settings(
    every: int, fusion: str, tau: float, context: int | None = None, latency: int | None = None
) -> dict[str, Any]:
    """Settings that a video can be grounded with, by name, as plain numbers.

    Raises:
        BadInput: `every`, `context` or `latency` is no whole number from 1, or what `check_rule` refuses.
    """
    apart, past = as_int(every), None if context is None else as_int(context)
    if apart is None:
        raise BadInput(f"every is {every!r}, expected a whole number of frames from 1; 5 is usual")
    if past is None and context is not None:
        raise BadInput(f"context is {context!r}, expected a whole number of past frames from 1, or None: the model's")
    waiting = None if latency is None else as_int(latency)
    if waiting is None and latency is not None:
        raise BadInput(f"latency is {latency!r}, expected a whole number of windows from 1, or None")
    return {"every": apart, "fusion": fusion, "tau": check_rule(fusion, tau), "context": past, "latency": waiting}


def _opened(
    video: str | os.PathLike | np.ndarray | Frames, reader: str = "pyav", max_frames: int | None = None,
    start: float | str | None = None, end: float | str | None = None, fps: float | None = None,
) -> Frames:  # fmt: skip
    if not isinstance(video, Frames):
        return open_source(video, reader, max_frames, start=start, end=end, fps=fps)
    if max_frames is not None or reader != "pyav":
        raise BadInput(
            f"max_frames={max_frames}, reader={reader!r} for {video!r}, which is open already; "
            "give them to open_video instead"
        )
    return excerpt(video, start, end, fps)


def rounded(
    points_px: Float[np.ndarray, "points 2"], inside: list[bool], width: int, height: int
) -> list[tuple[float, float]]:
    """Points to a hundredth of a pixel; those inside the frame stay so."""
    last = np.array([width, height]) - 0.01
    kept = [np.minimum(point, last) if within else point for point, within in zip(points_px, inside, strict=True)]
    return [(round(float(x), 2), round(float(y), 2)) for x, y in kept]


def clicks_of(answer: KeyAnswer) -> list[np.ndarray]:
    """The clicks SAM 2 gets for an answer: one object per point, points outside the frame left out.

    Source: published model: each point is an object of its own.
    """
    pairs = zip(answer.points_px, answer.inside, strict=True)
    return [np.array([point], np.float32) for point, inside in pairs if inside]


def load_tracker(
    name: str, device: str = "auto", offline: bool = False, is_half: bool = False
) -> tuple[MaskTracker, dict[str, str]]:
    """SAM 2 by name as a tracker, and the hash of the file its weights came from, by the name that run.json gives it.

    `name`, `device` and `offline` are as `VideoGrounder.from_pretrained` takes them; `is_half` computes in bfloat16.

    Raises:
        BadInput: no such SAM 2, weights that do not fit, or a device that is not there.
    """
    from videomolmo.masks import sam2
    from videomolmo.weights.checkpoint import device_named

    name, device = hub.as_name(name, "--masks"), device_named(device)
    published = sam2.published_name(hub.split_revision(name)[0])
    if published is not None:
        there = Path(name).is_file()
        file = Path(name) if there else hub.checkpoint_file(name, sam2.published_names()[published][1], offline)
        model = sam2.load_published(published, file, device)
    else:
        file = hub.masks_folder(name, offline) / "model.safetensors"
        model = sam2.load_nano(file.parent, device)
    return sam2.MaskTracker(model, is_half=is_half), {f"masks:{file.parent.name}/{file.name}": hub.file_hash(file)}
