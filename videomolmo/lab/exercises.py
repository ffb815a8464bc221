"""Checkers of the notebooks' exercises: each says what is right, or shows the smallest case that is not."""

from collections.abc import Callable, Sequence

import numpy as np

from videomolmo.fusion import fuse
from videomolmo.points import NO_POINTS, read_points
from videomolmo.synth.captions import GroundedText


def check_rule_exercise(rule: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> str:
    """Compare a rule of eq. 5 and 6, `rule(forward, backward, tau)` on boolean (height, width), with ours.

    Seen in: notebooks/00_quickstart.ipynb
    """
    a, b = np.zeros((2, 1, 4), bool)
    a[0, :3], b[0, 1:] = True, True  # IoU 2/4
    empty = np.zeros_like(a)
    cases = {
        "the directions agree (IoU 0.5, τ 0.4)": (a, b, 0.4),
        "the directions agree exactly by τ (IoU 0.5, τ 0.5)": (a, b, 0.5),
        "the directions disagree, though two thirds of each are common (IoU 0.5, τ 0.6)": (a, b, 0.6),
        "the directions disagree (IoU 0.5, τ 0.7)": (a, b, 0.7),
        "the forward mask is empty": (empty, b, 0.7),
        "the backward mask is empty": (a, empty, 0.0),
        "both masks are empty": (empty, empty, 0.7),
    }
    for name, (forward, backward, tau) in cases.items():
        try:
            given = np.asarray(rule(forward.copy(), backward.copy(), tau)).astype(bool)
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your rule raises {type(error).__name__}: {error}"
        wanted = fuse(forward, backward, "iou", tau)
        if given.shape != wanted.shape or not (given == wanted).all():
            return f"not yet: where {name}, expected {wanted.astype(int).tolist()}, got {given.astype(int).tolist()}"
    return "right: your rule is the paper's"


def check_name_exercise(name: Callable[[str], str]) -> str:
    """Try a rule that makes the name of a file from what a browser says it is called, `name(text)`.

    Seen in: notebooks/13_your_video.ipynb
    """
    hostile = ("../../.bashrc", "/etc/passwd", "C:\\Users\\me\\clip.mov", "..", "", ".hidden.mp4", "a\0b.mp4",
               "é" * 300 + ".mp4", "clip.mp4/")  # fmt: skip
    for text in ("clip.mp4", "my clip.mov", *hostile):
        try:
            given = name(text)
        except Exception as error:  # a learner's code may do anything
            return f"not yet: for {text[:20]!r} it raises {type(error).__name__}: {error}"
        faults = {
            "is no text": not isinstance(given, str),
            "changes a name that does no harm": text not in hostile and given != text,
            "is empty": given == "",
            "leads to another folder": any(sign in str(given) for sign in "/\\"),
            "is hidden, or a folder above": str(given).startswith("."),
            "holds a sign that no file name may hold": "\0" in str(given),
            "is longer than a disk takes (255 bytes)": len(str(given).encode()) > 255,
        }
        if fault := next((fault for fault, found in faults.items() if found), None):
            return f"not yet: {text[:20]!r} becomes {str(given)[:20]!r}, which {fault}"
    return "right: whatever it is called, the file stays in its folder"


def check_agreed_exercise(rule: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]) -> str:
    """Compare rule `agreed` on one frame, `rule(forward, backward, left_distance, right_distance)`, with ours.

    Seen in: notebooks/05_ablation_fusion.ipynb
    """
    a, b, c, d, e, f = np.zeros((6, 1, 10), bool)
    a[0, :3], b[0, 1:4], c[0, 3:6] = True, True, True  # a and b share two of four, a and c nothing
    d[0, :7], e[0, 3:10], f[0, 2:5] = True, True, True  # d and e share four of ten, a and f one of five
    empty = np.zeros_like(a)
    cases = {
        "the directions overlap by half": (a, b, 1, 4),
        "the directions overlap by four tenths": (d, e, 4, 1),
        "the directions overlap by a fifth and the left key frame is nearer": (a, f, 1, 4),
        "the directions overlap by a fifth and the right key frame is nearer": (a, f, 4, 1),
        "the directions do not overlap and the left key frame is nearer": (a, c, 1, 4),
        "the directions do not overlap and the right key frame is nearer": (a, c, 4, 1),
        "the directions do not overlap and both key frames are equally near": (a, c, 2, 2),
        "the nearer mask is empty": (empty, c, 1, 4),
        "the farther mask is empty": (a, empty, 1, 4),
        "both masks are empty": (empty, empty, 1, 4),
    }
    for name, (forward, backward, left, right) in cases.items():
        try:
            given = np.asarray(rule(forward.copy(), backward.copy(), left, right)).astype(bool)
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your rule raises {type(error).__name__}: {error}"
        wanted = fuse(forward, backward, "agreed", left_distance=left, right_distance=right)
        if given.shape != wanted.shape or not (given == wanted).all():
            return f"not yet: where {name}, expected {wanted.astype(int).tolist()}, got {given.astype(int).tolist()}"
    return "right: your rule is `agreed`"


def frames_to_redo(key_frames: Sequence[int], corrected: int, length: int) -> list[int]:
    """Frames whose masks may change when the answer on frame `corrected` does: up to the neighbouring key frames.

    Example:
        >>> frames_to_redo([0, 5, 10], 5, 12)
        [1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    others = [key for key in key_frames if key != corrected]
    left = max((key for key in others if key < corrected), default=-1)
    right = min((key for key in others if key > corrected), default=length)
    return list(range(left + 1, right))


def check_redo_exercise(answer: Callable[[list[int], int, int], Sequence[int]]) -> str:
    """Compare `answer(key_frames, corrected, length)` with `frames_to_redo`.

    Seen in: notebooks/07_track_inspector.ipynb
    """
    cases = {
        "a frame between two key frames is corrected": ([0, 5, 10], 7, 12),
        "a key frame is corrected": ([0, 5, 10], 5, 12),
        "a frame after the last key frame is corrected": ([0, 5, 10], 11, 14),
        "the first key frame is corrected": ([0, 5, 10], 0, 12),
        "there is one key frame": ([0], 0, 4),
        "the first key frame comes late": ([4, 8], 2, 10),
        "key frames are not in order": ([10, 0, 5], 7, 12),
    }
    for name, (keys, corrected, length) in cases.items():
        try:
            given = [int(frame) for frame in answer(list(keys), corrected, length)]
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your function raises {type(error).__name__}: {error}"
        wanted = frames_to_redo(keys, corrected, length)
        if sorted(given) != wanted:
            case = f"key frames {keys}, frame {corrected} of {length}"
            return f"not yet: where {name} ({case}), expected {wanted}, got {given}"
    return "right: only the frames between the neighbouring key frames"


def windows_of(patches: np.ndarray, grid: int) -> np.ndarray:
    """Patches (grid · grid, …), row by row, as 2x2 windows (windows, 4, …): what the temporal module attends within.

    Example:
        >>> windows_of(np.arange(16), 4)[1].tolist()
        [2, 3, 6, 7]
    """
    half = grid // 2
    cut = patches.reshape(half, 2, half, 2, *patches.shape[1:])
    return cut.swapaxes(1, 2).reshape(half * half, 4, *patches.shape[1:])


def check_windows_exercise(answer: Callable[[np.ndarray, int], np.ndarray]) -> str:
    """Compare `answer(patches, grid)` with `windows_of`.

    Seen in: notebooks/04_ablation_temporal.ipynb
    """
    for grid in (2, 4, 12):
        patches = np.arange(grid * grid * 3).reshape(grid * grid, 3)
        wanted, where = windows_of(patches, grid), f"with a grid of {grid}"
        try:
            given = np.asarray(answer(patches.copy(), grid))
        except Exception as error:  # a learner's code may do anything
            return f"not yet: {where} your function raises {type(error).__name__}: {error}"
        if given.shape != wanted.shape:
            return f"not yet: {where} the shape is {given.shape}, expected {wanted.shape}"
        if not (given == wanted).all():
            first = int(np.flatnonzero((given != wanted).any((1, 2)))[0])
            numbers = [(window[:, 0] // 3).tolist() for window in (wanted[first], given[first])]
            return f"not yet: {where}, window {first} has patches {numbers[0]}, yours {numbers[1]}"
    return "right: these are the windows of the temporal module"


def check_moments_exercise(read: Callable[[str], Sequence[tuple[float, int, int, int]]]) -> str:
    """Compare `read(text)`, (seconds, number, x, y in thousandths) of every point, with `read_points`.

    Seen in: notebooks/09_point_track_count.ipynb
    """
    cases = {
        "there is one point": '<points coords="0.5 1 100 036">turn</points>',
        "two moments have a point each": '<points coords="0.5 1 100 036;2.0 2 420 447">turn</points>',
        "a moment has two points": '<points coords="1.5 1 100 036 2 700 447;2.0 3 420 447">turn</points>',
        "the number stands beside the points": 'There are 1 <points coords="3.0 1 007 999">fish</points>.',
        "things are followed": '<tracks coords="0.0 1 100 036;0.5 1 120 036 2 500 500">circles</tracks>',
        "there is nothing": NO_POINTS,
    }
    for name, text in cases.items():
        told = read_points(text, 1000, 1000)
        times, numbers = ([] if values is None else values.tolist() for values in (told.times, told.ids))
        places = np.round(told.points_px).astype(int).tolist()
        wanted = [(time, number, x, y) for time, number, (x, y) in zip(times, numbers, places, strict=True)]
        try:
            given = [(float(time), int(number), int(x), int(y)) for time, number, x, y in read(text)]
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your function raises {type(error).__name__}: {error}"
        if given != wanted:
            return f"not yet: where {name}, expected {wanted}, got {given}"
    return "right: these are the points with their times"


def answer_loss_of(log_probabilities: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Mean cross-entropy of the targets, each token by its weight; no weight, no say (eq. 3)."""
    counts = weights > 0
    of_target = -log_probabilities[np.flatnonzero(counts), targets[counts]]
    return float((of_target * weights[counts]).sum() / max(weights[counts].sum(), 1.0))


def check_loss_exercise(answer: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> str:
    """Compare `answer(log_probabilities, targets, weights)` with `answer_loss_of`.

    Seen in: notebooks/03_training.ipynb
    """
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 5))
    log_probabilities = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    targets = np.array([-1, 3, 0, 4, 2, -1])
    cases = {
        "only the answer counts": np.array([0, 0, 1, 1, 1, 0]),
        "the first token of the answer weighs three times": np.array([0, 0, 3, 1, 1, 0]),
        "nothing counts": np.zeros(6),
        "tenths weigh a quarter": np.array([0, 0, 1, 1, 0.25, 0]),
    }
    for name, weights in cases.items():
        wanted = answer_loss_of(log_probabilities, targets, weights)
        try:
            given = float(answer(log_probabilities.copy(), targets.copy(), weights.copy()))
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your function raises {type(error).__name__}: {error}"
        if not np.isclose(given, wanted):
            return f"not yet: where {name}, expected {wanted:.4f}, got {given:.4f}"
    return "right: this is the loss of the answer"


def check_phrases_exercise(read: Callable[[str], Sequence[tuple[str, int]]]) -> str:
    """Compare `read(written)`, the pairs (phrase, number of its [SEG] from 1), with `GroundedText.parsed`.

    Seen in: notebooks/10_grounded_captions.ipynb
    """
    cases = {
        "one phrase is grounded": "<p> A red star </p> [SEG] moves left.",
        "there are two": "<p> A star </p> [SEG] passes behind <p> a bar </p> [SEG].",
        "nothing is": "There is none.",
        "a phrase has no [SEG]": "<p> A star </p> is left of <p> a bar </p> [SEG].",
        "a [SEG] has no phrase": "Sure, [SEG] and <p> a bar </p> [SEG].",
    }
    for name, written in cases.items():
        told = GroundedText.parsed(written)
        wanted = [(words, span.objects[0] + 1) for words, span in zip(told.phrases, told.spans, strict=True)]
        try:
            given = [(str(phrase), int(number)) for phrase, number in read(written)]
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your function raises {type(error).__name__}: {error}"
        if given != wanted:
            return f"not yet: where {name}, expected {wanted}, got {given}"
    return "right: these are the phrases with masks"


def check_places_exercise(place: Callable[[float, float], Sequence[int]]) -> str:
    """Compare `place(x, y)`, the image token, patch of it and cell of that which a point lies in, with the model's.

    A frame of 12×12 patches, 2×2 of which are a token; x and y are shares of the frame.

    Seen in: notebooks/11_words_or_tokens.ipynb
    """
    cases = {
        "the point is the upper left corner": (0.0, 0.0, (0, 0, 0)),
        "it is in the same patch, farther right": (0.08, 0.0, (0, 0, 6)),
        "it is in the same patch, farther down": (0.0, 0.08, (0, 0, 2)),
        "it is one patch to the right": (0.1, 0.01, (0, 1, 0)),
        "it is one patch down": (0.01, 0.1, (0, 2, 0)),
        "it is two patches down": (0.01, 0.2, (6, 0, 1)),
        "it is the middle of the lower right cell": (0.99, 0.99, (35, 3, 8)),
    }
    for name, (x, y, wanted) in cases.items():
        try:
            given = tuple(int(one) for one in place(x, y))
        except Exception as error:  # a learner's code may do anything
            return f"not yet: where {name}, your function raises {type(error).__name__}: {error}"
        if given != wanted:
            return f"not yet: where {name}, expected {wanted}, got {given}"
    return "right: these are the places"
