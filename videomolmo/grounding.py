"""The main job: a video and a sentence become answers on key frames, masks on every frame, and tracks."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo import hub, provenance
from videomolmo.errors import BadInput
from videomolmo.fusion import check_rule
from videomolmo.prompts import as_question
from videomolmo.results import GroundingResult, KeyAnswer
from videomolmo.spool import MaskSpool
from videomolmo.video import Frames, open_video


class VideoGrounder:
    """A pointing model and SAM 2, ready to ground sentences in videos.

    Example:
        >>> grounder = VideoGrounder.from_pretrained("nano")  # doctest: +SKIP
        >>> result = grounder("clip.mp4", "the red circle", every=5)  # doctest: +SKIP

    Seen in: notebooks/00_quickstart.ipynb
    """

    def __init__(self, pointing: Any, processor: Any, tracker: Any, weights: dict[str, str]) -> None:
        self.pointing, self.processor, self.tracker, self.weights = pointing, processor, tracker, weights

    @classmethod
    def from_pretrained(cls, model: str = "nano", masks: str = "nano", device: str = "auto") -> "VideoGrounder":
        """Load both models.

        Args:
            model: "nano" (shipped), or a folder or hub id in the format of `PointingModel.save_pretrained`.
            masks: "nano" (shipped), a published id such as "facebook/sam2.1-hiera-tiny", or a folder like data/nano.
            device: "auto" (a GPU if there is one), "cpu" or "cuda".

        Raises:
            BadInput: no such model, or weights that do not fit.
        """
        import torch

        if device not in ("auto", "cpu") and not device.startswith("cuda"):
            raise BadInput(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BadInput(f"device is {device!r}, but torch finds no GPU here; use --device cpu")
        folder = hub.pointing_folder(model)
        from videomolmo.masks.tracker import MaskTracker
        from videomolmo.model import PointingModel, PointingProcessor
        from videomolmo.model.tokenizer import load_tokenizer

        sam, sam_file = _load_masks(masks, device)
        pointing = PointingModel.from_pretrained(folder, device=device)
        processor = PointingProcessor(load_tokenizer(str(folder)), pointing.config)
        files = {"pointing": folder / "model.safetensors", "masks": sam_file}
        weights = {f"{role}:{file.parent.name}/{file.name}": provenance.sha256(file) for role, file in files.items()}
        return cls(pointing, processor, MaskTracker(sam), weights)

    def __call__(
        self,
        video: str | Path | np.ndarray | Frames,
        sentence: str,
        *,
        every: int = 5,
        fusion: str = "iou",
        tau: float = 0.7,
        context: int | None = None,
        max_frames: int | None = None,
        reader: str = "pyav",
        progress: bool = False,
    ) -> GroundingResult:
        """Find what the sentence names: points on key frames, masks on every frame.

        Args:
            video: a video file, a folder of images, or uint8 (frames, height, width, 3).
            sentence: a noun phrase ("the red circle") or a question.
            every: key frames lie this many frames apart (k).
            fusion: a name in `videomolmo.fusion.RULES`.
            tau: IoU from which the two directions count as agreeing (τ).
            context: past frames the model looks at (l); None takes the model's own.
            max_frames: read only so many frames.
            reader: "pyav" or "decord".
            progress: show bars.

        Raises:
            BadInput: an argument that makes no sense, or a video that cannot be read.

        Source: paper, section 3.
        """
        question = as_question(sentence)
        if isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1:
            raise BadInput(f"every is {every!r}, expected a whole number of frames from 1; 5 is usual")
        check_rule(fusion, tau)
        context = self._context(context)
        frames = video if isinstance(video, Frames) else open_video(video, reader=reader, max_frames=max_frames)
        begun = time.perf_counter()
        answers, count = self._point(frames, question, int(every), context, progress)
        pointed = time.perf_counter()
        spool, objects = self._track(frames, count, answers, fusion, tau, progress)
        config = {
            "model": {"every": int(every), "fusion": fusion, "tau": float(tau), "context": context,
                      "question": question, "reader": reader, "temporal": self.pointing.config.temporal,
                      "device": str(self.tracker.device), "pointing": self.pointing.config.to_dict()},
            "seed": None,  # greedy decoding and SAM 2 draw nothing at random
            "weights_sha256": self.weights, "versions": provenance.versions(), "commit": provenance.commit(),
            "seconds": {"point": round(pointed - begun, 3), "track": round(time.perf_counter() - pointed, 3)},
        }  # fmt: skip
        return GroundingResult(
            sentence=sentence, answers=answers, objects=objects, height=frames.height, width=frames.width,
            times_s=np.asarray(frames.times_s)[:count], fps=frames.fps, spool=spool, config=config,
            source=None if isinstance(video, (np.ndarray, Frames)) else video, warning=frames.warning, _video=frames,
        )  # fmt: skip

    def _context(self, context: int | None) -> int:
        own = self.pointing.config.context
        if context is None:
            return own
        if isinstance(context, bool) or not isinstance(context, (int, np.integer)) or context < 1:
            raise BadInput(
                f"context is {context!r}, expected a whole number of past frames from 1; {own} is this model's"
            )
        return int(context)

    def _point(
        self, frames: Frames, question: str, every: int, context: int, progress: bool
    ) -> tuple[list[KeyAnswer], int]:
        """Answers on all key frames, and the number of frames that could be decoded."""
        from tqdm import tqdm

        from videomolmo.pointer import Pointer

        pointer = Pointer(self.pointing, self.processor, context)
        answers, count = [], 0
        bar = tqdm(total=-(-len(frames) // every), desc="point", unit=" key frames", disable=not progress)
        for decoded, at, answer in pointer.answers(frames, question, every):
            count = decoded
            if answer is not None:
                points = [(round(float(x), 2), round(float(y), 2)) for x, y in answer.points_px]
                inside = [bool(flag) for flag in answer.inside]
                when = round(float(frames.times_s[at]), 4)
                answers.append(KeyAnswer(at, when, answer.text, answer.outcome, points, inside, answer.problem))
                bar.update()
        bar.close()
        if not count:
            raise BadInput(f"{frames.name}: no frame could be decoded; check the file with another player")
        return answers, count

    def _track(
        self, frames: Frames, count: int, answers: list[KeyAnswer], fusion: str, tau: float, progress: bool
    ) -> tuple[MaskSpool, int]:
        """Masks of all windows, written to disk one by one, and the number of objects."""
        from tqdm import tqdm

        from videomolmo.masks.windows import track_windows

        spool, objects = MaskSpool(), 0
        bar = tqdm(total=count, desc="track", unit=" frames", disable=not progress)
        keys = {answer.frame: clicks_of(answer) for answer in answers}
        for window in track_windows(self.tracker, frames, count, keys, rule=fusion, tau=tau):
            layers = {"fused": window.fused, "forward": window.forward, "backward": window.backward}
            known = {"forward": window.has_forward, "backward": window.has_backward}
            spool.write(window.start, window.ids, layers, known)
            objects = max(objects, *window.ids, 0)
            bar.update(len(window.fused))
        bar.close()
        return spool, objects


def clicks_of(answer: KeyAnswer) -> list[np.ndarray]:
    """The clicks SAM 2 gets for an answer: one object per point, points outside the frame left out.

    Source: published model: each point is an object of its own.
    """
    pairs = zip(answer.points_px, answer.inside, strict=True)
    return [np.array([point], np.float32) for point, inside in pairs if inside]


def _load_masks(name: str, device: str) -> tuple[Any, Path]:
    """SAM 2 by name, and the file its weights came from."""
    from videomolmo.masks import build

    if name in build.published_names():
        file = hub.checkpoint_file(name, build.published_names()[name][1])
        return build.load_published(name, file, device), file
    folder = hub.masks_folder(name)
    return build.load_nano(folder, device), folder / "model.safetensors"
