"""Training batches of the pointing model from rendered clips: mirrored frames, several questions each, and labels."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videomolmo.lab.nano.rendered_clips import RenderedClips
from videomolmo.model.processor import VideoMolmoProcessor, collate
from videomolmo.model.token_places import Places
from videomolmo.points import read_points, write_points
from videomolmo.protocols import label_of
from videomolmo.synth.scene import COLOURS, MOTIONS, NAMELESS, SHAPES, ObjectFacts
from videomolmo.synth.sentences import Query, ask, list_query, sample_query

COLOUR_CLASSES = ("none", *COLOURS)
SHAPE_CLASSES = ("none", *SHAPES, NAMELESS)
MOTION_CLASSES = ("none", *MOTIONS)


@dataclass(frozen=True)
class Example:
    """A clip ready to be asked about: mirrored pictures and ids, oldest first, and the objects of the last one."""

    frames: np.ndarray
    ids: np.ndarray
    objects: list[ObjectFacts]
    queries: list[Query]
    branches: list[tuple[str, str]]
    targets: list[list[tuple[float, float]]]


def mirrored(
    frames: np.ndarray, ids: np.ndarray, objects: list[ObjectFacts], code: int
) -> tuple[np.ndarray, np.ndarray, list[ObjectFacts]]:
    """One of the eight mirror images of a clip (frames and ids of all times); points and motions turn with it."""
    names = {"left": "left", "right": "right", "up": "up", "down": "down", "still": "still", None: None}
    if code & 1:
        frames, ids = frames[:, :, ::-1], ids[:, :, ::-1]
        names |= {"left": "right", "right": "left"}
        objects = [replace(t, point=(1 - t.point[0], t.point[1]), motion=names[t.motion]) for t in objects]
    if code & 2:
        frames, ids = frames[:, ::-1], ids[:, ::-1]
        swap = {"up": "down", "down": "up"}
        objects = [replace(t, point=(t.point[0], 1 - t.point[1]), motion=swap.get(t.motion, t.motion)) for t in objects]
    if code & 4:
        frames, ids = frames.transpose(0, 2, 1, 3), ids.transpose(0, 2, 1)
        swap = {"up": "left", "left": "up", "down": "right", "right": "down"}
        objects = [replace(t, point=t.point[::-1], motion=swap.get(t.motion, t.motion)) for t in objects]
    return frames, ids, objects


def sample_example(
    rng: np.random.Generator, clips: RenderedClips, *, questions: int, motion_share: float, lists: float = 0.0
) -> Example:
    """A random clip, mirrored, with up to `questions` answerable questions about its last frame; see `asked`."""
    while True:
        index = int(rng.integers(len(clips)))
        shown = clips.frames[index], clips.ids[index], clips.objects[index]
        example = Example(*mirrored(*shown, int(rng.integers(8))), [], [], [])
        example = asked(rng, example, questions=questions, motion_share=motion_share, lists=lists)
        if example.branches:
            return example


def asked(
    rng: np.random.Generator, example: Example, *, questions: int, motion_share: float, lists: float = 0.0
) -> Example:
    """The same clip with new questions, each another one; as it was where nothing that was drawn can be answered.

    Args:
        rng: random generator.
        example: the clip.
        questions: how many at most.
        motion_share: share of questions about motion, where something has a named motion.
        lists: share of questions that ask for several objects at once, where some are alike.
    """
    objects = example.objects
    moving = any(obj.motion for obj in objects)
    queries, branches, targets, known = [], [], [], set()
    for _ in range(questions * 3):
        query = list_query(rng, objects) if lists and rng.random() < lists else None
        query = query or sample_query(rng, objects, motion=bool(moving and rng.random() < motion_share))
        meant = query.targets(objects)
        key = (query.shape, query.colour, query.motion, query.plural)
        if meant is None or key in known or len(branches) == questions:
            continue
        known.add(key)
        points = [objects[one].point for one in meant]
        queries.append(query)
        branches.append((ask(rng, query), answer(query, points)))
        targets.append(sorted(points, key=lambda p: (round(p[0] * 1000), round(p[1] * 1000))))
    return replace(example, queries=queries, branches=branches, targets=targets) if branches else example


def answer(query: Query, points: list[tuple[float, float]]) -> str:
    """The answer's text; `points` are shares of width and height."""
    pixels = np.array(points, np.float32).reshape(-1, 2) * 1000
    return write_points(pixels, label_of(query.phrase), height=1000, width=1000)


def window_labels(example: Example, grid: int) -> dict[str, np.ndarray]:
    """What each of grid×grid windows of the last frame shows: its object's colour, shape, motion, point and way.

    Classes are 0 and coordinates NaN where there is none; `moved` is the way from the object's mean place in the past
    to its place now, as shares of the frame.
    """
    ids = example.ids[-1]
    cells = ids.reshape(grid, ids.shape[0] // grid, grid, -1).transpose(0, 2, 1, 3).reshape(grid**2, -1)
    counts = np.stack([(cells == n).sum(1) for n in range(len(example.objects) + 1)], 1)
    owner = np.where(counts[:, 1:].max(1) >= 0.2 * cells.shape[1], counts[:, 1:].argmax(1) + 1, 0)
    objects = example.objects
    colour = np.array([0, *(COLOUR_CLASSES.index(obj.colour) for obj in objects)])
    shape = np.array([0, *(SHAPE_CLASSES.index(obj.shape) for obj in objects)])
    motion = np.array([0, *(MOTION_CLASSES.index(obj.motion) if obj.motion else -100 for obj in objects)])
    point = np.array([(np.nan, np.nan), *(obj.point for obj in objects)], np.float32)
    labels = {"colour": colour, "shape": shape, "motion": motion, "point": point, "moved": _moved(example)}
    return {name: values[owner] for name, values in labels.items()}


def _moved(example: Example) -> np.ndarray:
    """The way of background (NaN) and of each object since the past frames, (1 + objects, 2); NaN where unknown."""
    side, count = example.ids.shape[1], len(example.objects) + 1
    rows, columns = np.divmod(np.arange(side**2), side)
    places = np.full((len(example.ids), count, 2), np.nan, np.float32)
    for time, ids in enumerate(example.ids.reshape(len(example.ids), -1)):
        areas = np.bincount(ids, minlength=count)
        centres = (
            np.stack([np.bincount(ids, along, count) for along in (columns, rows)], 1) / np.maximum(areas, 1)[:, None]
        )
        seen = areas >= 10
        seen[0] = False
        places[time, seen] = centres[seen] / side
    known = ~np.isnan(places[:-1, :, :1])
    mean = np.where(known, places[:-1], 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), places[-1] - mean, np.nan).astype(np.float32)


def text_inputs(processor: VideoMolmoProcessor, examples: list[Example]) -> dict[str, Tensor]:
    """Questions and answers as tokens, with what guides their training.

    Adds to the processor's fields: `weights` (batch, tokens) for the loss, `places` (batch, tokens, 2): shares of width
    and height where the target is a digit of a coordinate, else NaN; `choices` (choices, 2), rows and tokens where an
    answer takes a turn, with `choice_points` (choices, most points, 2), NaN beyond: at an answer's first token all
    points that it will name (none when it is a refusal), and in a list, after each point, the next one (none after the
    last); `asked` (batch, tokens, 4) at the same tokens as `places` and `choices`, see `asked_classes`.
    """
    size = (processor.config.image.size_px,) * 2
    batch = collate([processor.tokens(size, [list(branch) for branch in one.branches]) for one in examples])
    guides = _coordinate_places if processor.config.points == "text" else _chosen_places
    return batch | guides(processor, batch, examples)


def image_inputs(
    processor: VideoMolmoProcessor, examples: list[Example], *, past: bool, patches: bool
) -> dict[str, Tensor]:
    """Pixels of the frames, with labels of each window, `window_*` (batch, windows…), and patch, `patch_*` likewise."""
    image = processor.config.image
    batch: dict[str, Tensor] = {}
    labels = [window_labels(example, image.window_grid) for example in examples]
    frames = np.stack([example.frames[-1:] if not past else example.frames for example in examples])
    pixels = processor.image.pixels_only(frames.reshape(-1, *frames.shape[2:]))
    pixels = pixels.reshape(len(examples), frames.shape[1], 1, *pixels.shape[-2:])
    batch["pixels"] = pixels[:, -1]
    if past:
        batch["past_pixels"] = pixels[:, :-1]
    for name in ("colour", "shape", "motion", "point", "moved"):
        batch[f"window_{name}"] = torch.from_numpy(np.stack([one[name] for one in labels]))
    if patches:
        labels = [window_labels(example, image.grid) for example in examples]
        for name in ("colour", "shape", "point"):
            batch[f"patch_{name}"] = torch.from_numpy(np.stack([one[name] for one in labels]))
        ids = np.stack([example.ids[-1] for example in examples])
        px = ids.shape[1] // image.grid
        masks = ids.reshape(len(ids), image.grid, px, image.grid, px).transpose(0, 1, 3, 2, 4) > 0
        batch["patch_mask"] = torch.from_numpy(masks.reshape(len(ids), image.patches, px**2))
    return batch


def asked_classes(query: Query) -> tuple[int, int, int, int]:
    """Classes of the colour, shape and motion that a query names (0: none), and whether it asks for several."""
    return (
        COLOUR_CLASSES.index(query.colour or "none"),
        SHAPE_CLASSES.index(query.shape or "none"),
        MOTION_CLASSES.index(query.motion or "none"),
        int(query.plural),
    )


def _coordinate_places(
    processor: VideoMolmoProcessor, batch: dict[str, Tensor], examples: list[Example]
) -> dict[str, Tensor]:
    """Loss weights (3 on choices and on leading digits, little on tenths), places and choices."""
    answers = batch["loss_masks"].numpy() > 0
    weights = batch["loss_masks"].clamp(min=0).numpy().copy()
    places = np.full((*weights.shape, 2), np.nan, np.float32)
    asked = np.full((*weights.shape, 4), -100)
    choices: list[tuple[int, int]] = []
    choice_points: list[list[tuple[float, float]]] = []
    pieces = _grammar_pieces(processor)
    for row, example in enumerate(examples):
        targets = batch["targets"][row].tolist()
        remaining = iter(zip(example.queries, example.targets, strict=True))
        point, inside, tenths = -1, False, False
        current: list[tuple[float, float]] = []
        for token in np.flatnonzero(answers[row]).tolist():
            if not answers[row, token - 1]:  # the first token of an answer
                (query, current), point, inside = next(remaining), -1, False
                weights[row, token] *= 3
                asked[row, token] = asked_classes(query)
                choices.append((row, token))
                choice_points.append(current)
            before = targets[token - 1]
            point += before in pieces["x"]
            if before in pieces["coordinate"]:
                inside, tenths = True, False
                weights[row, token] *= 3
            if targets[token] in pieces["end"]:
                if inside and len(current) > 1 and targets[token] not in pieces["y"]:  # another point, or the end
                    weights[row, token] *= 3
                    asked[row, token] = asked_classes(query)
                    choices.append((row, token))
                    choice_points.append(current[point + 1 : point + 2])
                inside = False
            if inside:
                places[row, token] = current[point]
                asked[row, token] = asked_classes(query)
                weights[row, token] *= 0.25 if tenths else 2.0
                tenths = tenths or targets[token] == pieces["dot"]
    points = np.full((len(choices), max(1, *map(len, choice_points)), 2), np.nan, np.float32)
    for index, named in enumerate(choice_points):
        points[index, : len(named)] = np.array(named, np.float32).reshape(-1, 2)
    tensors = {
        "weights": weights,
        "places": places,
        "asked": asked,
        "choices": np.array(choices),
        "choice_points": points,
    }
    return {name: torch.from_numpy(values) for name, values in tensors.items()}


def _chosen_places(
    processor: VideoMolmoProcessor, batch: dict[str, Tensor], examples: list[Example]
) -> dict[str, Tensor]:
    """What `_coordinate_places` gives where a point is three tokens: of the last two the places are the point's.

    All choices weigh 3: how an answer begins, and which image token is next in a list, or that it is the last.
    """
    weights = batch["loss_masks"].clamp(min=0).numpy().copy()
    places = np.full((*weights.shape, 2), np.nan, np.float32)
    asked = np.full((*weights.shape, 4), -100)
    choices: list[tuple[int, int]] = []
    choice_points: list[np.ndarray] = []
    size = (processor.config.image.size_px,) * 2
    grid, (image_token, *rest) = Places.of(*size, processor.config.image), processor.config.language.point_ids
    for row, example in enumerate(examples):
        targets, answers = batch["targets"][row].tolist(), weights[row] > 0
        begins = np.flatnonzero(answers & ~np.roll(answers, 1))
        ends = [*begins[1:], len(targets)]
        told = zip(begins, ends, example.queries, example.branches, example.targets, strict=True)
        for begin, end, query, (_, text), points in told:
            read = read_points(text, 1000, 1000).points_px.astype(np.float64) / 1000  # rounded, in the same order
            points, at = np.array(points, np.float64).reshape(-1, 2)[grid.listed(read)[1]], -1
            for token in range(begin, end):
                is_choice = token == begin or targets[token] == image_token
                if is_choice:
                    at += 1
                    weights[row, token] *= 3
                    choices.append((row, token))
                    choice_points.append(points if token == begin else points[at : at + 1])
                elif targets[token] in rest:
                    places[row, token] = points[at]
                if is_choice or targets[token] in rest:
                    asked[row, token] = asked_classes(query)
    most = max(1, *map(len, choice_points))
    padded = [np.pad(of, ((0, most - len(of)), (0, 0)), constant_values=np.nan) for of in choice_points]
    tensors = {"weights": weights, "places": places, "asked": asked, "choices": np.array(choices),
               "choice_points": np.stack(padded).astype(np.float32)}  # fmt: skip
    return {name: torch.from_numpy(values) for name, values in tensors.items()}


def _grammar_pieces(processor: VideoMolmoProcessor) -> dict:
    """Token ids after which a coordinate starts, after which it is an x or a y, and which end one."""
    fragments = (' <point x="', ' <points x1="', '" y="', '" y1="', '" alt="')
    fragments += tuple(f'" {axis}{number}="' for axis in "xy" for number in range(2, 10))
    ids = {text: processor.tokenizer.encode(text, add_special_tokens=False) for text in fragments}
    first = {text: piece[-1] for text, piece in ids.items()}
    xs = {piece for text, piece in first.items() if "x" in text}
    starts = {piece for text, piece in first.items() if "alt" not in text}
    return {"x": xs, "y": starts - xs, "coordinate": starts, "end": set(first.values()),
            "dot": processor.tokenizer.encode(".", add_special_tokens=False)[0]}  # fmt: skip
