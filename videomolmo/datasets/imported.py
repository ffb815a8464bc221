"""Labels of other tools as a result, to inspect, compare and score, and as truth to evaluate on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from videomolmo.datasets.annotations import Annotations
from videomolmo.datasets.record import Expression, ImageSequence, Record, Records, VideoFile, image_sequence
from videomolmo.errors import BadInput, MissingFile
from videomolmo.fusion import match_objects, overlap_matrix
from videomolmo.io.formats.labels import Clip, Mask, Shape
from videomolmo.io.formats.registry import read
from videomolmo.io.images import list_images, visible
from videomolmo.io.schemas import MAX_OBJECTS
from videomolmo.io.video import Frames, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult

IMPORTED = "imported"
SAME = 0.3  # IoU from which a shape without an id is taken for the object that was there before
MOST_FRAMES, MOST_BYTES = 32, 256 << 20  # of masks in memory before they are written


class _Objects:
    """Numbers objects as they turn up: by their ids, or by how far they overlap what was last seen of one.

    Attributes:
        ids, names: of the objects so far.
        scores: number → frame → score.
        followed: how many shapes had no id.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.names: list[str] = []
        self.scores: dict[str, dict[str, float]] = {}
        self.followed = 0
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: dict[int, tuple[int, Mask]] = {}  # of objects without ids: where they were last seen

    def on(self, frame: int, shapes: list[Shape]) -> tuple[dict[int, Mask], Mask | None]:
        """The objects of a frame with their masks, and the void."""
        masks: dict[int, Mask] = {}
        void: Mask | None = None
        bare: list[tuple[Shape, Mask]] = []
        for shape in shapes:
            mask = shape.draw()
            if shape.is_void:
                void = mask if void is None else void | mask
            elif shape.key is None:
                bare.append((shape, mask))
            elif mask.any():
                self._put(masks, self._number(shape), frame, shape, mask)
        for number, shape, mask in self._follow(bare, set(masks)):
            self._put(masks, number, frame, shape, mask)
            self._last[number] = frame, mask
        self._last = {n: seen for n, seen in self._last.items() if frame - seen[0] < MOST_FRAMES}
        return masks, void

    def _put(self, masks: dict[int, Mask], number: int, frame: int, shape: Shape, mask: Mask) -> None:
        masks[number] = masks[number] | mask if number in masks else mask
        if shape.score is not None:
            self.scores.setdefault(str(number), {})[str(frame)] = float(shape.score)

    def _number(self, shape: Shape) -> int:
        key = (shape.key, shape.name)
        if key not in self._numbers:
            self._numbers[key] = self._new(shape.key, shape.name)
        return self._numbers[key]

    def _new(self, own: str | None, name: str) -> int:
        if len(self.ids) >= MAX_OBJECTS:
            raise BadInput(f"more than {MAX_OBJECTS} objects; import fewer of them")
        number = len(self.ids) + 1
        self.ids.append(str(number) if own is None else own)
        self.names.append(name or "object")
        return number

    def _follow(self, bare: list[tuple[Shape, Mask]], taken: set[int]) -> Iterator[tuple[int, Shape, Mask]]:
        """Shapes without ids with the numbers of objects of their name that they overlap, or with new ones."""
        bare = [(shape, mask) for shape, mask in bare if mask.any()]
        self.followed += len(bare)
        for name in dict.fromkeys(shape.name or "object" for shape, _ in bare):
            mine = [(shape, mask) for shape, mask in bare if (shape.name or "object") == name]
            known = [n for n in self._last if self.names[n - 1] == name and n not in taken]
            found: dict[int, int] = {}
            if known:
                before = np.stack([self._last[n][1] for n in known])
                overlap = overlap_matrix(before, np.stack([mask for _, mask in mine]))
                found = {there: known[was] for was, there in match_objects(overlap, SAME)}
            for index, (shape, mask) in enumerate(mine):
                yield found.get(index) or self._new(None, shape.name), shape, mask


def import_labels(
    path: str | Path, kind: str, video: Any, *, sentence: str | None = None, first_frame: int | None = None,
    progress: bool = False,
) -> tuple[GroundingResult, list[str]]:  # fmt: skip
    """What a file of labels says of a video, as a result, and what the user should know, a sentence each.

    Boxes become filled rectangles of whole pixels. Shapes without ids are followed by their overlap.
    One window's masks are in memory at a time.

    Args:
        path: of the file or folder.
        kind: a format that is read, see `videomolmo.io.formats.registry.READABLE`.
        video: what was labelled: a path, an array, or opened frames.
        sentence: what the objects are called together; their names unless given.
        first_frame: number of the first frame in the file, where it is not the format's usual one.
        progress: show a bar.

    Raises:
        BadInput: there is no such file or video, or they do not belong together.
    """
    from tqdm import tqdm

    opened = video if isinstance(video, Frames) else open_video(video)
    source = opened.source
    images = tuple(one.name for one in list_images(source)) if source is not None and source.is_dir() else ()
    numbers = range(len(opened)) if opened.source_frames is None else opened.source_frames
    shown = tuple(images[at] for at in numbers) if images else ()
    clip = Clip(len(opened), opened.height, opened.width, opened.fps, shown, first_frame)
    found = read(path, kind, clip)
    has_void = any(shape.is_void for shapes in found.values() for shape in shapes)
    objects, store = _Objects(), MaskStore()
    window: list[tuple[dict[int, Mask], Mask | None]] = []
    for t in tqdm(range(clip.frames), desc="import", unit=" frames", disable=not progress):
        window.append(objects.on(t, found.pop(t, [])))
        there = len({n for masks, _ in window for n in masks}) + has_void
        if len(window) == MOST_FRAMES or len(window) * there * clip.height * clip.width >= MOST_BYTES:
            _write(store, t + 1 - len(window), window, clip.size, has_void)
            window = []
    if window:
        _write(store, clip.frames - len(window), window, clip.size, has_void)
    told = {"format": kind, "file": str(Path(path).resolve()), "ids": objects.ids, "names": objects.names,
            "scores": objects.scores, "has_void": has_void}  # fmt: skip
    names = "; ".join(dict.fromkeys(objects.names)) or "nothing"
    result = GroundingResult(
        sentence=sentence or names[:1000], answers=[], objects=len(objects.ids), height=clip.height, width=clip.width,
        times_s=np.asarray(opened.times_s)[: clip.frames], fps=opened.fps, spool=store, config={"labels": told},
        source=source, warning=opened.warning, _video=opened, source_frames=opened.source_frames,
        source_times_s=opened.source_times_s,
    )  # fmt: skip
    return result, _notes(objects, kind)


def _write(store: MaskStore, start: int, window: list, size: tuple[int, int], has_void: bool) -> None:
    """A window as a segmenter's: its masks came forwards, and nothing came backwards."""
    ids = tuple(sorted({n for masks, _ in window for n in masks}))
    masks = np.zeros((len(window), len(ids), *size), bool)
    void = np.zeros((len(window), *size), bool) if has_void else None
    for at, (there, nothing) in enumerate(window):
        for n, mask in there.items():
            masks[at, ids.index(n)] = mask
        if nothing is not None:
            void[at] = nothing
    first, reaches = (np.arange(len(masks)) == 0)[:, None], np.ones(masks.shape[:2], bool)
    layers = {"fused": masks, "forward": masks, "backward": masks & first[..., None, None]}
    store.write(start, ids, layers, {"forward": reaches, "backward": reaches & first}, void)


def _notes(objects: _Objects, kind: str) -> list[str]:
    found = []
    if objects.followed:
        found.append(f"{objects.followed} shapes have no id: they were followed by overlap (IoU from {SAME:g} on)")
    if any(count > 1 for count in Counter(objects.ids).values()):
        found.append("some objects share an id under different names")
    return found


def splits(root: Path) -> tuple[str, ...]:
    """The only one."""
    return ("all",)


def read_imported(root: Path, split: str = "all") -> Records:
    """Records of a folder that `videomolmo import` wrote, or of a folder with several such.

    There is an expression for each name of objects. A saved result of any other system is read as well: its masks are
    then the truth, and its sentence the only expression.
    """
    folders = [root] if (root / "run.json").is_file() else [path.parent for path in visible(root, "*/run.json")]
    if not folders:
        raise MissingFile(f"{root}: no run.json in it or in a folder of it; write one by `videomolmo import`")

    def build(folder: Path) -> Record:
        result = GroundingResult.load(folder)
        return record_of(result, folder.name)

    return Records(IMPORTED, split, root, folders, build)


def record_of(result: GroundingResult, clip: str) -> Record:
    """A result as a record: its video, an expression for each name, and its masks as truth."""
    source = result.source
    if not isinstance(source, (str, Path)):
        raise BadInput(f"{clip}: the result was made from an array; import it again with the path of its video")
    numbers: dict[str, list[str]] = {}
    for n, name in enumerate(result.names, start=1):
        numbers.setdefault(name, []).append(str(n))
    said = numbers if "labels" in result.config else {result.sentence: [one for own in numbers.values() for one in own]}
    expressions = tuple(Expression(str(n), text, tuple(own)) for n, (text, own) in enumerate(said.items()))
    path = Path(source) if result.recording is None else result.recording
    numbers_there = result.source_frames if result.recording is None else None  # a recording holds no others
    if path.is_dir():
        media: ImageSequence | VideoFile = image_sequence(path, result.labels().images, "")
    elif numbers_there is None:
        media = VideoFile((path,), height_width=(result.height, result.width))
    else:
        chosen = tuple(numbers_there.tolist())
        media = VideoFile((path,), tuple(map(str, chosen)), chosen, height_width=(result.height, result.width))
    names = {str(n): name for n, name in enumerate(result.names, start=1)}
    return Record(IMPORTED, "all", clip, media, expressions, names, _Masks(result), result.fps or None)


class _Masks(Annotations):
    """The fused masks of a result."""

    def __init__(self, result: GroundingResult) -> None:
        self._result = result

    def mask(self, object_id, frame, size):
        return self._result.masks[frame][int(object_id) - 1] if frame < self._result.frames else None

    def masks(self, object_ids, frame, size):
        return self._result.masks[frame][[int(object_id) - 1 for object_id in object_ids]]

    def void(self, frame):
        return self._result.void(frame)
