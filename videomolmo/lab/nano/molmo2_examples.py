"""Training batches of Nano-Molmo2: generated clips in which things happen, several questions each, and what is known.

Each batch is a function of (seed, stage, step), whichever process makes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from videomolmo.datasets.generated_events import MOST_TRACKED, TRACK_SEEDS, TRACKED
from videomolmo.points import TrackPoint
from videomolmo.protocols import as_question
from videomolmo.synth.event_questions import CATEGORIES, MAKERS, Asked, ask_about
from videomolmo.synth.event_scenes import ANOMALIES, SPECIES, VERBS, EventClip
from videomolmo.synth.scene import COLOURS, SHAPES
from videomolmo.systems.molmo2_formats import NO_POINTS, write_timed_points, write_tracks
from videomolmo.training.molmo2 import ANSWER, QUESTION, collate, example_of
from videomolmo.training.video_samples import Message, VideoSample

KIND_CLASSES = ("none", *SHAPES, *SPECIES)
COLOUR_CLASSES = ("none", *COLOURS)
HAPPENINGS = (*VERBS, *ANOMALIES)
TRAIN_SEEDS = 10_000_000  # seeds below are of training, see `generated_events`
COVERED, SPREAD = 0.2, 0.55  # share of a window that its thing covers; of a window: how sharp a place to look at is
PICTURED = ("object", "animal", "spatial reference")
NONE = 0.3  # of the questions about what is not there so many are kept: asked by chance they would be more than half
FIRST_TOKEN = 0  # looking there means: at nothing
CHOICE, LEADING, SECOND, LAST, COPIED = 3.0, 3.0, 2.0, 0.25, 0.4  # weights of an answer's tokens in the loss
ASKABLE = (  # what a question may name, by beginnings of words that tell
    *SHAPES, "fish", "bird", "butterfl", "snail", *COLOURS, "come", "leave", "turn", "hit", "stop", "behind", "vanish",
    "jump", "change", "left", "right", "above", "upper", "below", "lower", "largest", "smallest", "fastest", "first",
    "last", "how many", "how often", "colour of", "shape of", "object", "animal", "something",
)  # fmt: skip
_ENTRY = re.compile(r"(?:(?P<between>;)?(?P<time>\d+\.\d+))? ?(?P<number>\d+) (?P<x>\d{3,4}) (?P<y>\d{3,4})")


@dataclass(frozen=True)
class Clips:
    """What kind of clips a stage shows: to point in or to track in, how long, how often, of which categories.

    A step shows `batch` clips of one kind, with at most so many `questions` about each. The task "picture" shows one
    frame of each, which costs little: pointing is learnt there, as Molmo 2 learns it.
    """

    task: str
    seconds: float
    share: float = 1.0
    batch: int = 8
    questions: int = 6
    categories: tuple[str, ...] = CATEGORIES


@dataclass(frozen=True)
class Written:
    """A point in an answer's text: where it begins and ends there, when and where it lies (seconds, thousandths)."""

    begin: int
    end: int
    digits: tuple[int, int]  # where x and y begin
    time_s: float
    x: int
    y: int


def points_in(answer: str) -> list[Written]:
    """The points of an answer in their order; each begins where the one before it ended, the first at the answer.

    Example:
        >>> [(one.begin, one.end, one.time_s, one.x) for one in points_in('<points coords="0.5 1 100 036;1.0 2 9')]
        [(0, 29, 0.5, 100)]
    """
    opening = answer.find('coords="')
    found: list[Written] = []
    at, time = opening + len('coords="'), 0.0
    while opening >= 0 and (entry := _ENTRY.match(answer, at)):
        time = float(entry["time"]) if entry["time"] else time
        begin = found[-1].end if found else 0
        found.append(Written(begin, entry.end(), (entry.start("x"), entry.start("y")), time, int(entry["x"]),
                             int(entry["y"])))  # fmt: skip
        at = entry.end()
    return found


def draw(rng: np.random.Generator, kind: Clips, side: int) -> tuple[EventClip, list[Asked]]:
    """A training clip with questions; to track, of one to four things that are no events."""
    sizes = {"duration_s": kind.seconds, "height": side, "width": side}
    while True:
        category = str(rng.choice(kind.categories))
        if kind.task == "picture":
            clip, _ = ask_about(int(rng.integers(TRAIN_SEEDS)), category, **sizes)
            clip = frame_of(clip, int(rng.integers(len(clip.frames))))
            if asked := asked_of_picture(rng, clip, kind.questions):
                return clip, asked
            continue
        if kind.task == "point":
            clip, asked = ask_about(int(rng.integers(TRAIN_SEEDS)), category, most=2 * kind.questions, **sizes)
            kept = [one for at, one in enumerate(asked) if not at or one.targets or rng.random() < NONE]
            return clip, kept[: kind.questions]
        seed = TRACK_SEEDS + int(rng.integers(200 * TRAIN_SEEDS))
        clip, asked = ask_about(seed, category if category in TRACKED else TRACKED[0], most=kind.questions, **sizes)
        if asked := [one for one in asked if not one.is_event and 1 <= len(one.targets) <= MOST_TRACKED]:
            return clip, asked


def frame_of(clip: EventClip, frame: int) -> EventClip:
    """One frame of a clip as a clip of its own."""
    here = slice(frame, frame + 1)
    return replace(
        clip, frames=clip.frames[here], times_s=np.zeros(1), masks=clip.masks[here], shares=clip.shares[here],
        anomalies=(),
    )  # fmt: skip


def asked_of_picture(rng: np.random.Generator, clip: EventClip, questions: int) -> list[Asked]:
    """Different questions about what a picture shows."""
    found: dict[str, Asked] = {}
    for _ in range(3 * questions):
        asked = MAKERS[str(rng.choice(PICTURED, p=(0.45, 0.45, 0.1)))](rng, clip)
        if asked is not None and len(found) < questions and (asked.targets or rng.random() < NONE):
            found.setdefault(asked.how_many, asked)
    return list(found.values())


def answer_of(clip: EventClip, asked: Asked, task: str) -> str:
    """The right answer in Molmo 2's words.

    Args:
        clip, asked: a question about a clip.
        task: "track": where each thing is, at two frames a second; "count": points and how many they are; else points.
    """
    height, width = clip.frames.shape[1:3]
    if task == "track":
        rows = [
            [
                TrackPoint(number, *point)
                for number in range(len(asked.targets))
                if (point := asked.point(clip, number, at)) is not None
            ]
            for at in clip.grid
        ]
        return write_tracks(clip.times_s[clip.grid].tolist(), rows, asked.label, height, width)
    frames: dict[float, list[tuple[float, float]]] = {}
    for number, target in enumerate(asked.targets):
        frames.setdefault(float(clip.times_s[target.frame]), []).append(asked.point(clip, number))
    return write_timed_points(
        list(frames), [np.array(places) for places in frames.values()], asked.label, height, width,
        mode="point_then_count" if task == "count" else "point",
    )  # fmt: skip


def message_of(rng: np.random.Generator, clip: EventClip, asked: Asked, task: str) -> Message:
    """A question about a clip in one of the published wordings, and the answer."""
    if task == "track":
        return Message(f"Track {asked.phrase} at 2 FPS", answer_of(clip, asked, task), flat=True)
    if rng.random() < 0.5:
        return Message(asked.how_many, answer_of(clip, asked, "count"), flat=True)
    return Message(as_question(asked.phrase), answer_of(clip, asked, "point"), flat=True)


class Batches(Dataset):
    """Batch after batch of a stage, by the number of the step.

    Args:
        processor: Molmo 2's, for square frames.
        kinds: of clips.
        seed, key: of the training, and of the stage.
        steps: how many there are.
    """

    def __init__(self, processor: Any, kinds: Sequence[Clips], seed: int, key: int, steps: int) -> None:
        self.processor, self.kinds = processor, tuple(kinds)
        self.seed, self.key, self.steps = seed, key, steps
        video = processor.video_processor
        self.side = int(video.size["height"])
        self.grid = self.side // video.patch_size // video.pooling_size[0]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, self.key, step])
        shares = np.array([kind.share for kind in self.kinds])
        kind = self.kinds[int(rng.choice(len(shares), p=shares / shares.sum()))]  # one length a batch: no padding
        drawn = [draw(rng, kind, self.side) for _ in range(kind.batch)]
        return batch_of(self.processor, rng, kind.task, drawn, self.grid)


def batch_of(
    processor: Any, rng: np.random.Generator, task: str, drawn: Sequence[tuple[EventClip, list[Asked]]], grid: int
) -> dict[str, Tensor]:
    """What `training.molmo2.collate` gives, with weights and with labels.

    Adds `kind`, `colour` (frames, windows), `place`, `moved` (frames, windows, 2 and 4; NaN where unknown), `now` and
    `ever` (frames, windows, happenings): what each window shows and what becomes of it, frames of all clips in a row;
    `look` (tokens that look, 2): row and token, `look_at` (tokens that look, frames · windows): where, and
    `look_place` (tokens that look, 2): the place that is written of, NaN where nothing is, and `asked` (tokens that
    look, askable): what their question names.
    """
    examples, labels, looks = [], [], []
    for row, (clip, asked) in enumerate(drawn):
        messages = tuple(message_of(rng, clip, one, task) for one in asked)
        sample = VideoSample(clip.frames, clip.times_s, messages, turns=False)
        example = example_of(processor, sample, "flat")
        labels.append(window_labels(clip, grid))
        guided = guide(processor, example, messages, clip, labels[-1], grid)
        looks += [(row, *one) for one in guided]
        examples.append(example)
    batch = collate(examples)
    batch |= {name: torch.from_numpy(np.concatenate([one[name] for one in labels]))
              for name in ("kind", "colour", "place", "moved", "now", "ever")}  # fmt: skip
    batch["look"] = torch.tensor([one[:2] for one in looks], dtype=torch.long).view(-1, 2)
    batch["look_at"] = torch.from_numpy(np.stack([one[2] for one in looks]))
    batch["look_place"] = torch.tensor([one[3] for one in looks], dtype=torch.float32)
    batch["asked"] = torch.tensor([[word in one[4].lower() for word in ASKABLE] for one in looks], dtype=torch.float32)
    return batch


def window_labels(clip: EventClip, grid: int) -> dict[str, np.ndarray]:
    """What each of grid×grid windows of every frame shows: see `batch_of`; `owner` is its thing, -1 for none."""
    frames, things, height, width = clip.masks.shape
    cells = clip.masks.reshape(frames, things, grid, height // grid, grid, width // grid).mean((3, 5))
    cells = cells.reshape(frames, things, grid**2)
    padded = np.concatenate([np.full((frames, 1, grid**2), COVERED), cells], axis=1)
    owner = padded.argmax(1) - 1
    centre = centres(clip)
    moved = np.full((frames, things, 4), np.nan, np.float32)
    moved[1:, :, :2] = centre[1:] - centre[:-1]
    moved[:-1, :, 2:] = centre[1:] - centre[:-1]
    now = np.zeros((frames, things, len(HAPPENINGS)), np.float32)
    for event in clip.events:
        at = int(np.abs(clip.times_s - event.time_s).argmin())
        now[at, list(event.things), HAPPENINGS.index(event.verb)] = 1.0
    ever = np.broadcast_to(now.max(0), now.shape)
    kinds = np.array([KIND_CLASSES.index(thing.kind) for thing in clip.things] + [0])
    colours = np.array([COLOUR_CLASSES.index(thing.colour) for thing in clip.things] + [0])
    at = np.arange(frames)[:, None]
    return {
        "owner": owner, "kind": kinds[owner], "colour": colours[owner],
        **{name: _of(values, at, owner) for name, values in
           (("place", centre), ("moved", moved), ("now", now), ("ever", ever))},
    }  # fmt: skip


def _of(values: np.ndarray, at: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Values of each window's thing in each frame, NaN where there is none."""
    if not values.shape[1]:
        return np.full((*owner.shape, values.shape[2]), np.nan, np.float32)
    return np.where((owner >= 0)[..., None], values[at, owner], np.nan).astype(np.float32)


def centres(clip: EventClip) -> Float[np.ndarray, "frames things 2"]:
    """Middle of what is seen of each thing, x and y as shares of the frame; NaN where nothing is."""
    height, width = clip.masks.shape[2:]
    area = clip.masks.sum((2, 3))
    with np.errstate(invalid="ignore"):
        x = (clip.masks.sum(2) * (np.arange(width) + 0.5)).sum(-1) / area / width
        y = (clip.masks.sum(3) * (np.arange(height) + 0.5)).sum(-1) / area / height
    return np.stack([x, y], -1).astype(np.float32)


def guide(
    processor: Any, example: dict[str, Tensor], messages: Sequence[Message], clip: EventClip,
    labels: dict[str, np.ndarray], grid: int,
) -> list[tuple[int, np.ndarray, tuple[float, float], str]]:  # fmt: skip
    """Set an example's weights, and say which tokens should look where: (token, share of windows, place, question).

    A token that writes of a point looks at it; one that begins “There are none.” or ends a list, at the first token
    (nothing, in the list).
    """
    tokenizer, weights = processor.tokenizer, example["loss_masks"]
    at = int(example["mm_token_type_ids"].shape[0]) - sum(_lengths(tokenizer, one)[2] for one in messages)
    found: list[tuple[int, np.ndarray, tuple[float, float], str]] = []
    for message in messages:
        asks, offsets, length = _lengths(tokenizer, message)
        points = points_in(message.answer)
        places = [_look_at(point, clip, labels, grid) for point in points]
        nothing = np.zeros(len(clip.frames) * grid**2, np.float32)
        for number, (begin, _) in enumerate(offsets):
            token = at + asks + number - 1  # it predicts the next
            weights[token], about = _weight(message.answer, begin, number, points)
            if about is not None:
                place = (points[about].x / 1000, points[about].y / 1000)
                found.append((token, places[about], place, message.question))
            elif number == 0 or (points and begin == points[-1].end):
                found.append((token, nothing, (np.nan, np.nan), message.question))
        at += length
    return found


def _lengths(tokenizer: Any, message: Message) -> tuple[int, list[tuple[int, int]], int]:
    """Tokens of the question, places of the answer's tokens in its text, and tokens of both."""
    asks = len(tokenizer.encode(QUESTION.format(message.question), add_special_tokens=False))
    told = tokenizer(ANSWER.format(message.answer), add_special_tokens=False, return_offsets_mapping=True)
    return asks, told["offset_mapping"], asks + len(told["offset_mapping"])


def _weight(answer: str, begin: int, number: int, points: Sequence[Written]) -> tuple[float, int | None]:
    """How much a token counts that begins at a place of the answer, and which point it writes of."""
    for at, point in enumerate(points):
        if begin < point.end:
            if number == 0 or begin == point.begin:
                return CHOICE, at
            far = min((begin - one for one in point.digits if begin >= one), default=None)
            return (1.5 if far is None else (LEADING, SECOND, LAST, LAST)[min(far, 3)]), at
    if points and begin == points[-1].end:
        return CHOICE, None
    return (CHOICE if answer == NO_POINTS and number == 0 else COPIED), None


def _look_at(point: Written, clip: EventClip, labels: dict[str, np.ndarray], grid: int) -> np.ndarray:
    """Where to look for a point: at its windows in its frame, those of its own thing if it fills any."""
    place = np.zeros((len(clip.frames), grid**2), np.float32)
    frame = int(np.abs(clip.times_s - point.time_s).argmin())
    middle = (np.arange(grid) + 0.5) / grid
    near_x = np.exp(-0.5 * ((point.x / 1000 - middle) * grid / SPREAD) ** 2)
    near_y = np.exp(-0.5 * ((point.y / 1000 - middle) * grid / SPREAD) ** 2)
    near = np.outer(near_y, near_x).ravel()
    height, width = clip.frames.shape[1:3]
    row, column = min(int(point.y / 1000 * height), height - 1), min(int(point.x / 1000 * width), width - 1)
    covering = np.flatnonzero(clip.masks[frame, :, row, column])
    own = near * np.isin(labels["owner"][frame], covering)
    near = own if own.sum() > 1e-4 else near
    place[frame] = near / near.sum()
    return place.ravel()


def windows_at(ids: Int[Tensor, " tokens"], patch: int) -> Int[Tensor, " windows"]:
    """Which tokens of a sequence are windows of its frames, in their order."""
    return (ids == patch).nonzero()[:, 0]
