"""Formats by name: how each is written and read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from videomolmo.errors import BadInput
from videomolmo.io.files import new_file, new_folder
from videomolmo.io.formats import coco, cvat, label_studio, mot, pictures, tables, yolo
from videomolmo.io.formats.labels import Clip, Found, Labels, Losses


class Format(NamedTuple):
    """A format.

    Attributes:
        title: what it is, for a list.
        suffix: how its file's name ends; "" where it is a folder.
        write: to a new file, or into a new folder; tells what could not be held.
        read: what a file tells of a clip; None where the format is not read.
    """

    title: str
    suffix: str
    write: Callable[[Labels, Path], Losses]
    read: Callable[[Path, Clip], Found] | None = None


FORMATS = {
    "coco": Format("COCO's JSON, run lengths", ".json", coco.write, coco.read),
    "yolo-seg": Format("YOLO's polygons, with frames", "", yolo.write, yolo.read),
    "mot": Format("MOTChallenge's boxes", "", mot.write_mot, mot.read_mot),
    "mots": Format("MOTS's masks as text", "", mot.write_mots, mot.read_mots),
    "davis": Format("DAVIS's pictures", "", pictures.write, pictures.read),
    "cvat": Format("CVAT for images 1.1", ".xml", cvat.write, cvat.read),
    "label-studio": Format("Label Studio's tasks", ".json", label_studio.write, label_studio.read),
    "geojson": Format("outlines in pixels", ".geojson", tables.write_geojson),
    "csv": Format("a table of tracks", ".csv", tables.write_table),
}
WITH_FRAMES = ("coco", "yolo-seg")
READABLE = [name for name, one in FORMATS.items() if one.read is not None]


def export(labels: Labels, to: str, path: str | Path, frames: bool = False) -> list[str]:
    """Write labels to a new file or folder, one frame's masks in memory at a time; what was lost, a phrase each.

    Args:
        labels: of a clip.
        to: a name of `FORMATS`.
        path: of the new file or folder.
        frames: write the clip's frames beside it as well, into a folder of its name with `_frames` behind it; COCO's
            images are called as there. YOLO's folder has them anyway.

    Raises:
        BadInput: no such format, something is there already, the format cannot hold so many objects, or frames are
            wanted that cannot be opened, or by a format that names none.
    """
    format = named(to)
    if frames and to not in WITH_FRAMES:
        raise BadInput(f"frames are wanted beside {to}, which names none; expected one of {', '.join(WITH_FRAMES)}")
    with new_file(path, format.suffix) if format.suffix else new_folder(path) as new:
        lost = format.write(labels, new)
        if frames and format.suffix:
            _write_frames(labels, Path(path).with_suffix("").with_name(f"{Path(path).stem}_frames"))
    return [text if count == 1 else f"{text}, {count} times" for text, count in lost.items() if count]


def _write_frames(labels: Labels, folder: Path) -> None:
    with new_folder(folder) as new:
        if not labels.write_frames(new, labels.image_name):
            raise BadInput(f"frames are wanted in {folder}, and the video cannot be opened; leave them out")


def read(path: str | Path, kind: str, clip: Clip) -> Found:
    """What a file or folder of a format tells of a clip.

    Raises:
        BadInput: no such format, no such file, or it is not of this format or not of this clip.
    """
    format = named(kind, READABLE)
    if not Path(path).exists():
        raise BadInput(f"{path}: no such file or folder; give the labels")
    if Path(path).is_file() and zipfile.is_zipfile(path):
        raise BadInput(f"{path}: a zip file; unpack it, and give the labels or the folder with them")
    return format.read(Path(path), clip)


def named(name: str, known: list[str] | None = None) -> Format:
    """A format by its name.

    Raises:
        BadInput: there is none, or it is not among the `known` ones; names those.
    """
    known = list(FORMATS) if known is None else known
    if name not in known:
        raise BadInput(f"format {name!r:.80}: expected one of {', '.join(known)}")
    return FORMATS[name]
