"""LaSOT: long clips with one object, a box on every frame and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from videomolmo.datasets.annotations import Annotations
from videomolmo.datasets.files import MissingFile, Unreadable, inside, read_text
from videomolmo.datasets.record import Expression, Record, Records, pictures
from videomolmo.listing import in_natural_order

NAME = "lasot"
SPLITS = ("train", "test", "all")
TESTING_SET = "testing_set.txt"


def read(root: Path, split: str = "test", testing_set: str | Path | None = None) -> Records:
    """Records of a split.

    Args:
        root: folder of the classes.
        split: 'test' are the names in the toolkit's testing_set.txt, 'train' the others, 'all' needs no list.
        testing_set: that list (default: testing_set.txt in `root`).
    """
    folders = in_natural_order(path for path in root.glob("*/*") if (path / "groundtruth.txt").is_file())
    found = {path.name: path for path in folders}
    names = list(found)
    if split != "all":
        listed = read_text(Path(testing_set or root / TESTING_SET), "the toolkit's list of test clips").split()
        names = listed if split == "test" else [name for name in names if name not in set(listed)]
    if not found:
        raise MissingFile(f"{root}: no clip; expected CLASS/CLASS-N/groundtruth.txt below it")

    def build(name: str) -> Record:
        kind = name.rpartition("-")[0]
        folder = found.get(name) or inside(root, kind, name)
        boxes = _Boxes(folder)
        count = len(boxes.lines)
        frames = pictures(folder / "img", [f"{number:08d}" for number in range(1, count + 1)])
        sentence = read_text(folder / "nlp.txt", "one sentence").strip()
        return Record(NAME, split, name, frames, (Expression("0", sentence, ("1",)),), {"1": kind}, boxes)

    return Records(NAME, split, root, names, build)


class _Boxes(Annotations):
    """Boxes of groundtruth.txt, moved from pixel 1 to pixel 0; none where the target is hidden or out of view."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.lines = read_text(folder / "groundtruth.txt", "one box a line: x,y,w,h").split()

    @cached_property
    def _absent(self) -> list[bool]:
        flags = [self._flags("full_occlusion.txt"), self._flags("out_of_view.txt")]
        return [any(both) for both in zip(*flags, strict=True)]

    def _flags(self, name: str) -> list[bool]:
        path = self._folder / name
        flags = [flag.strip() for flag in read_text(path, "0 or 1 for each frame").replace("\n", ",").split(",")]
        flags = [flag == "1" for flag in flags if flag]
        if len(flags) != len(self.lines):
            raise Unreadable(f"{path}: has {len(flags)} entries for {len(self.lines)} frames")
        return flags

    def box(self, thing: str, frame: int) -> Sequence[float] | None:
        try:
            left, top, width, height = map(float, self.lines[frame].split(","))
        except ValueError:
            place = f"{self._folder / 'groundtruth.txt'}, line {frame + 1}"
            raise Unreadable(f"{place}: {self.lines[frame]!r}; expected x,y,w,h") from None
        return None if self._absent[frame] else (left - 1, top - 1, width, height)
