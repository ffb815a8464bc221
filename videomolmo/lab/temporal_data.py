"""Clips of the temporal ablation: rendered and encoded by the frozen vision tower once, for all variants together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videomolmo.io.cache import cached
from videomolmo.io.provenance import sha256
from videomolmo.lab.nano.batches import Example, window_labels
from videomolmo.lab.nano.rendered_clips import RenderSpec, render_clip
from videomolmo.model import VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.synth.scene import ObjectFacts
from videomolmo.synth.sentences import Query, ask, sample_query
from videomolmo.weights.hub import nano_pointing_96

LONGEST = 6  # past frames of a clip, the largest l
TRAIN = RenderSpec("train", clips=1500, frames=LONGEST + 1, size=96, motion_share=0.75, strides=(1,), seed=31)
TEST = RenderSpec("test", clips=900, frames=LONGEST + 1, size=96, motion_share=0.55, strides=(1,), seed=32)
PART = 100  # clips in one cached result
BACKGROUND = 1 / 3  # of the windows of a training batch
VERSION = 1  # raise it when this file changes what is cached
KINDS = ("appearance", "motion", "absent motion")


@dataclass(frozen=True)
class EncodedClips:
    """Clips as features of the frozen tower, with ground truth of their last frame.

    Attributes:
        features: of every frame, oldest first, half precision; `render_clip` draws the pictures again.
        ids: of the last frame: the object at each pixel, 0 for background.
        objects: those of the last frame.
        labels: of its windows: colour, shape, motion, point (see `window_labels`).
        moved: the way of each window's object since the mean of the last l frames; index 0 of axis 1 is l = 1.
    """

    features: np.ndarray  # float16 (clips, frames, patches, dim)
    ids: np.ndarray  # uint8 (clips, height, width)
    objects: list[list[ObjectFacts]]
    labels: dict[str, np.ndarray]
    moved: np.ndarray  # float32 (clips, LONGEST, windows, 2)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, chosen: np.ndarray, context: int) -> dict[str, Tensor]:
        """Last frames with their last `context` predecessors as the past, as the training steps take them.

        Args:
            chosen: clip of each window, int (frames, windows), see `mixed_batches`; or of each frame, int (frames,).
            context: number l of past frames.
        """
        windows = self.labels["colour"].shape[1]
        chosen = np.broadcast_to(chosen.reshape(len(chosen), -1), (len(chosen), windows))
        at, side = np.arange(windows), round(windows**0.5)
        rows, columns = np.divmod(np.arange(4 * windows), 2 * side)
        owner = chosen[:, rows // 2 * side + columns // 2]  # clip of each patch
        times = np.arange(LONGEST - context, LONGEST + 1)
        found = self.features[owner[:, None], times[:, None], np.arange(4 * windows)]  # frames times patches dim
        features = torch.from_numpy(found)[:, :, None]
        batch = {f"window_{name}": torch.from_numpy(values[chosen, at]) for name, values in self.labels.items()}
        moved = self.moved[chosen, max(context, 1) - 1, at]
        batch["window_moved"] = torch.from_numpy(moved if context else np.full_like(moved, np.nan))
        return batch | {"features": features[:, -1]} | ({"past": features[:, :-1]} if context else {})


def encode_clips(spec: RenderSpec, cache: Path) -> EncodedClips:
    """All clips of `spec`, rendered and encoded by the shipped vision tower, or read from the folder `cache`."""
    weights = sha256(nano_pointing_96() / "model.safetensors")
    tower: list[tuple] = []  # model and processor, loaded only where something has to be encoded

    def make(first: int) -> dict[str, np.ndarray]:
        if not tower:
            model = VideoMolmoForConditionalGeneration.from_pretrained(nano_pointing_96())
            tower.append((model, VideoMolmoProcessor(load_tokenizer(str(nano_pointing_96())), model.config)))
        return _part(spec, first, *tower[0])

    parts = []
    for first in tqdm(range(0, spec.clips, PART), desc=f"clips {spec.name}", unit=f"x{PART}"):
        part = asdict(replace(spec, clips=min(PART, spec.clips - first)))
        inputs = {"what": "clips of the temporal ablation", "version": VERSION, "weights": weights}
        parts.append(cached(cache, inputs | {"spec": part, "first": first}, lambda first=first: make(first)))
    return _joined(parts)


def _part(
    spec: RenderSpec, first: int, model: VideoMolmoForConditionalGeneration, processor: VideoMolmoProcessor
) -> dict[str, np.ndarray]:
    """The arrays of up to `PART` clips."""
    arrays: dict[str, list] = {name: [] for name in ("features", "ids", "moved")}
    labels: dict[str, list] = {name: [] for name in ("colour", "shape", "motion", "point")}
    objects = []
    for index in range(first, min(first + PART, spec.clips)):
        frames, ids, shown = render_clip(spec, index)
        with torch.inference_mode():
            features = model.encode_frames(processor.image.pixels_only(frames))
        grid = model.config.image.window_grid
        ways = [window_labels(Example(frames, ids[-1 - l :], shown, [], [], []), grid) for l in range(1, LONGEST + 1)]  # noqa: E741
        for name in labels:
            labels[name].append(ways[0][name])
        values = (features[:, 0].half().numpy(), ids[-1], np.stack([way["moved"] for way in ways]))
        for name, value in zip(arrays, values, strict=True):
            arrays[name].append(value)
        objects.append([asdict(obj) for obj in shown])
    text = np.frombuffer(json.dumps(objects).encode(), np.uint8)
    return {name: np.stack(values) for name, values in (arrays | labels).items()} | {"things": text}


def _joined(parts: list[dict[str, np.ndarray]]) -> EncodedClips:
    """The parts as one, each taken out of the list as it is copied: the features are large."""
    names = [name for name in parts[0] if name != "things"]
    clips = [clip for part in parts for clip in json.loads(part.pop("things").tobytes())]
    arrays = {name: np.concatenate([part.pop(name) for part in parts]) for name in names}
    objects = [[ObjectFacts(**obj | {"point": tuple(obj["point"])}) for obj in clip] for clip in clips]
    labels = {name: arrays.pop(name) for name in ("colour", "shape", "motion", "point")}
    return EncodedClips(objects=objects, labels=labels, **arrays)


@dataclass(frozen=True)
class Question:
    """A sentence about the last frame of clip number `clip`, and the objects that it means (none when absent)."""

    clip: int
    query: Query
    text: str
    targets: tuple[int, ...]

    @property
    def kind(self) -> str:
        """One of `KINDS`: queries of colour alone count as appearance."""
        return "appearance" if self.query.kind == "colour" else self.query.kind


def questions(clips: EncodedClips) -> list[Question]:
    """One question of each kind that each clip allows: about appearance where nothing moves in nameable ways."""
    found = []
    for clip, objects in enumerate(clips.objects):
        rng = np.random.default_rng([0, clip])
        moving = any(obj.motion for obj in objects)
        open_kinds = {"motion", "absent motion"} if moving else {"appearance"}
        for query in (sample_query(rng, objects, motion=moving) for _ in range(12)):
            targets = query.targets(objects)
            if targets is None or query.plural or query.kind == "absent object":
                continue
            question = Question(clip, query, ask(rng, query), tuple(targets))
            if question.kind in open_kinds and bool(targets) != question.kind.startswith("absent"):
                open_kinds.discard(question.kind)
                found.append(question)
    return found


def mixed_batches(clips: EncodedClips, frames: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """`steps` batches of frames mixed from windows of all clips: the clip of each, int (frames, windows).

    Behind the vision tower everything works window by window, so a frame need not be of one clip. Of real frames eight
    windows in ten are background and teach little; of these one in three. The same for all variants of a seed.
    """
    rng, shown = np.random.default_rng([seed, 7]), clips.labels["colour"] > 0
    every = np.arange(len(clips))  # in a small set a window may show something in no clip, or in all
    sides = [[every[of == there] if (of == there).any() else every for of in shown.T] for there in (True, False)]
    for _ in range(steps):
        background, where = rng.random((2, frames, shown.shape[1]))
        picked = [[of[(row * len(of)).astype(int)] for of, row in zip(side, where.T, strict=True)] for side in sides]
        yield np.where(background > BACKGROUND, np.stack(picked[0], 1), np.stack(picked[1], 1))
