"""DAVIS-2017: J and F of whole sequences of label maps, summed up as the challenge does.

Label maps are `(frames, height, width)`: 0 background, 1 … N objects, in the truth 255 void.

Source: Pont-Tuset et al. 2017, "The 2017 DAVIS Challenge"; Caelles et al. 2019, section 3 (unsupervised task); the
    rules are those of the DAVIS-2017 evaluation tool.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from videomolmo.errors import BadInput
from videomolmo.io.plain_values import as_array
from videomolmo.metrics.regions import j_and_f_per_frame

Labels = Integer[np.ndarray, "_frames _height _width"]
Values = Float[np.ndarray, "_objects _frames"]
Sequences = Iterable[tuple[str, Labels, Labels]]
VOID = 255
MAX_PROPOSALS = 20


class Statistics(NamedTuple):
    """Of one object's values per frame.

    `mean`; `recall`: share of frames above 0.5; `decay`: mean of the first quarter minus mean of the last.
    """

    mean: float
    recall: float
    decay: float


class DavisScores(NamedTuple):
    """The two tables of the tool, with its column names.

    `overall`: `J&F-Mean`, `J-Mean`, `J-Recall`, `J-Decay`, `F-Mean`, `F-Recall`, `F-Decay`, means over the objects of
    all sequences; `objects`: the last six of each object, named `<sequence>_<number>`.
    """

    overall: dict[str, float]
    objects: dict[str, dict[str, float]]


def davis_unsupervised(sequences: Sequences, reference: bool = False) -> DavisScores:
    """Scores where nothing was given: each true object against the proposal that is assigned to it.

    All frames count, without their void pixels. At most 20 proposals per sequence; the assignment maximises the sum of
    J&F over the objects.

    Args:
        sequences: (name, truth, result) of each; read one after the other, so a generator keeps memory small.
        reference: keep the tool's faulty decay (see `statistics`) and the order of its rows.

    Raises:
        BadInput: no object at all, shapes that differ, or more than 20 proposals.

    Differs: `<sequence>_<k>` is object k of the truth; the tool names its rows by the order of the assigned proposals,
        which `reference=True` reproduces. The means do not depend on it.
    """
    return _summary(((name, _unsupervised(name, *maps, reference)) for name, *maps in sequences), reference)


def statistics(values: Float[np.ndarray, " frames"], reference: bool = False) -> Statistics:
    """Mean, recall and decay of one object's J or F per frame; NaN frames are left out of means, and are no hit.

    Args:
        values: one per frame.
        reference: count frames in 8 bits as the tool does, whose decay is NaN or wrong from 256 frames on.

    Raises:
        BadInput: no values.

    Example:
        >>> statistics(np.array([0.9, 0.8, 0.7, 0.6, 0.4])).recall
        0.8
    """
    values = as_array(values, "values").astype(np.float64)
    if values.ndim != 1 or not len(values):
        raise BadInput(f"values of shape {values.shape}: expected one value per frame, of at least one frame")
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    ends = edges + 1  # the four bins share their edges
    if reference:
        edges, ends = edges.astype(np.uint8), ends.astype(np.uint8)
    first, last = (_mean_of_numbers(values[edges[n] : ends[n + 1]]) for n in (0, 3))
    return Statistics(_mean_of_numbers(values), float(np.mean(values > 0.5)), first - last)


def _mean_of_numbers(values: np.ndarray) -> float:
    """Mean without NaN; NaN where nothing is left."""
    numbers = values[~np.isnan(values)]
    return float(np.mean(numbers)) if len(numbers) else float("nan")


def _unsupervised(name: str, truth: Labels, result: Labels, reference: bool) -> tuple[Values, Values]:
    """J and F (objects, frames) of one sequence after the assignment."""
    from scipy.optimize import linear_sum_assignment

    truth, result = _checked(name, truth, result)
    objects, proposals = _count_objects(truth), int(result.max(initial=0))
    if proposals > MAX_PROPOSALS:
        raise BadInput(f"sequence {name!r}: {proposals} proposals; keep the best {MAX_PROPOSALS} at most")
    seen, rows = np.where(truth == VOID, 0, result), max(objects, proposals)
    j, f = np.zeros((2, rows, objects, len(truth)))
    for n, k in np.ndindex(rows, objects):
        j[n, k], f[n, k] = j_and_f_per_frame(truth == k + 1, seen == n + 1)
    assigned = linear_sum_assignment(-(j.mean(axis=-1) + f.mean(axis=-1)) / 2)
    order = slice(None) if reference else np.argsort(assigned[1])
    chosen = assigned[0][order], assigned[1][order]
    return j[chosen], f[chosen]


def _count_objects(truth: Labels) -> int:
    """The largest label of the first frame: objects that appear later are not counted, a rule of the benchmark."""
    return int(truth[0][truth[0] != VOID].max(initial=0))


def _checked(name: str, truth: Labels, result: Labels) -> tuple[Labels, Labels]:
    """Both as arrays, if they fit each other."""
    truth, result = (as_array(labels, f"sequence {name!r}") for labels in (truth, result))
    if truth.ndim != 3 or truth.shape != result.shape:
        raise BadInput(
            f"sequence {name!r}: truth {truth.shape} and result {result.shape}; both must be label maps of one shape "
            "(frames, height, width), so resize the result to the truth with nearest neighbour"
        )
    if not truth.size:
        raise BadInput(f"sequence {name!r}: shape {truth.shape}; at least one frame with pixels is needed")
    return truth, result


def _summary(sequences: Iterable[tuple[str, tuple[Values, Values]]], reference: bool) -> DavisScores:
    """Statistics of every object, and their means over all objects."""
    objects = {}
    names = set()
    for name, measures in sequences:
        if name in names:
            raise BadInput(f"sequence {name!r} comes twice; give each sequence its own name")
        names.add(name)
        for k, rows in enumerate(zip(*measures, strict=True), start=1):
            columns = zip("JF", (statistics(values, reference) for values in rows), strict=True)
            objects[f"{name}_{k}"] = {
                f"{measure}-{field.capitalize()}": value
                for measure, found in columns
                for field, value in found._asdict().items()
            }
    if not objects:
        raise BadInput("no object in the first true frame of any sequence; there is nothing to score")
    columns = next(iter(objects.values()))
    means = {column: float(np.mean([row[column] for row in objects.values()])) for column in columns}
    return DavisScores({"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2} | means, objects)
