"""MOTChallenge's boxes and MOTS's masks as text, a line for each object and frame."""

from __future__ import annotations

import configparser
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from videomolmo.errors import BadInput, Unreadable
from videomolmo.io.formats.labels import Clip, Found, Labels, Losses, Mask, Shape, number, read_text, whole
from videomolmo.io.formats.run_lengths import decode_rle, encode_rle

CLASSES, MOTS_CLASSES = "labels.txt", {"car": 1, "pedestrian": 2}
IGNORED, PER_CLASS = 10, 1000  # MOTS: class of what counts for nothing; ids are 1000 · class + instance
OVERLAPS = "pixels where objects overlap (the later one has them)"


def write_mot(labels: Labels, folder: Path) -> Losses:
    """Write gt/gt.txt (boxes), gt/labels.txt (names) and seqinfo.ini; frames and pixels count from 1.

    Source: MOTChallenge, motchallenge.net/instructions; its seventh column is 1, or the score of a detection.
    """
    (folder / "gt").mkdir()
    lost = labels.losses("ids", "rates", "void") + Losses({"masks: boxes only": 1})
    with open(folder / "gt" / "gt.txt", "w", encoding="utf-8", newline="\n") as file:
        for t in range(labels.frames):
            for n, mask in labels.shapes(t):
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
                score = labels.score(t, n)
                file.write(
                    f"{t + 1},{labels.whole_id(n)},{left + 1},{top + 1},{right - left},{bottom - top},"
                    f"{1 if score is None else score:.6g},{labels.classes[labels.names[n - 1]]},1\n"
                )
    (folder / "gt" / CLASSES).write_text("".join(f"{_line(name)}\n" for name in labels.classes), encoding="utf-8")
    _write_info(labels, folder)
    return lost


def _line(name: str) -> str:
    return " ".join(name.split())


def _write_info(labels: Labels, folder: Path) -> None:
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={_line(labels.clip)}\nimDir=img1\nframeRate={round(labels.fps)}\nseqLength={labels.frames}\n"
        f"imWidth={labels.width}\nimHeight={labels.height}\nimExt=.jpg\n",
        encoding="utf-8",
    )


def write_mots(labels: Labels, folder: Path) -> Losses:
    """Write gt/gt.txt (run lengths), gt/labels.txt (class and name) and seqinfo.ini; frames count from 1.

    Source: MOTS, vision.rwth-aachen.de/page/mots: `frame id class height width run lengths`, no two masks overlap.

    Raises:
        BadInput: more than 999 objects.
    """
    if len(labels.ids) >= PER_CLASS:
        raise BadInput(f"{len(labels.ids)} objects do not fit into MOTS, whose classes hold 999 each; use coco")
    (folder / "gt").mkdir()
    lost, classes = labels.losses("ids", "scores", "rates"), _mots_classes(labels)
    ids = [labels.whole_id(n + 1) for n in range(len(labels.ids))]
    fits = all(one < PER_CLASS for one in ids)
    lost["ids above 999 (numbered anew)"] += not fits
    with open(folder / "gt" / "gt.txt", "w", encoding="utf-8", newline="\n") as file:
        for t in range(labels.frames):
            owner = np.zeros(labels.size, np.int32)
            void = labels.void_at(t)
            for n, mask in labels.shapes(t):
                lost[OVERLAPS] += bool(owner[mask].any())
                owner[mask] = n
            for n in np.unique(owner[owner > 0]).tolist():
                kind = classes[labels.names[n - 1]]
                own = PER_CLASS * kind + (ids[n - 1] if fits else n)
                file.write(_mots_line(t, own, kind, owner == n))
            if void is not None and (rest := void & (owner == 0)).any():
                file.write(_mots_line(t, PER_CLASS * IGNORED, IGNORED, rest))
    listed = "".join(f"{number} {_line(name)}\n" for name, number in classes.items())
    (folder / "gt" / CLASSES).write_text(listed, encoding="utf-8")
    _write_info(labels, folder)
    return lost


def _mots_line(t: int, own: int, kind: int, mask: Mask) -> str:
    return f"{t + 1} {own} {kind} {mask.shape[0]} {mask.shape[1]} {encode_rle(mask)['counts']}\n"


def _mots_classes(labels: Labels) -> dict[str, int]:
    """Name to class: MOTS's own two, others from 3 on without the one that is ignored."""
    free = (number for number in range(3, 10**6) if number != IGNORED)
    return {name: MOTS_CLASSES.get(name.lower()) or next(free) for name in labels.classes}


def read_mot(path: Path, clip: Clip) -> Found:
    """Boxes of a file, or of the folder of a sequence with gt/gt.txt or det/det.txt in it.

    A seventh column of 0 makes a box void; others are scores unless all are 1.

    Raises:
        BadInput: it is not MOTChallenge's, or not of this clip.
    """
    file = _file(path, ("gt/gt.txt", "det/det.txt", "gt.txt"))
    _check_info(file, clip)
    names = _listed(file.parent / CLASSES)
    rows = []
    for n, line in enumerate(read_text(file).splitlines(), start=1):
        place = f"{file}, line {n}"
        if not line.strip():
            continue
        words = line.replace(",", " ").split()
        if len(words) < 6:
            raise Unreadable(f"{place}: {len(words)} values, expected frame, id, left, top, width, height and so on")
        rows.append((place, [number(word, place, "a value") for word in words]))
    has_scores = any(len(row) > 6 and row[6] not in (0, 1) for _, row in rows)
    found: Found = defaultdict(list)
    for place, row in rows:
        at = clip.frame(whole(row[0], place, "the frame"), 1, place)
        found[at].append(_mot_shape(row, names, has_scores, clip, place))
    return found


def _mot_shape(row: list[float], names: dict[int, str], has_scores: bool, clip: Clip, place: str) -> Shape:
    own, (left, top, width, height) = whole(row[1], place, "the id"), row[2:6]
    kind = whole(row[7], place, "the class") if len(row) > 8 and row[7] > 0 else None
    name = "" if kind is None else names.get(kind, f"class {kind}")
    draw = clip.box(left - 1, top - 1, left - 1 + width, top - 1 + height)
    is_void = len(row) > 6 and row[6] == 0 and not has_scores
    return Shape(str(own) if own > 0 else None, name, draw, row[6] if has_scores and len(row) > 6 else None, is_void)


def read_mots(path: Path, clip: Clip) -> Found:
    """Masks of a file, or of the folder of a sequence with gt/gt.txt in it.

    Frames count from 0 if any is 0, as KITTI's, else from 1.

    Raises:
        BadInput: it is not MOTS's, or not of this clip.
    """
    file = _file(path, ("gt/gt.txt", "gt.txt"))
    _check_info(file, clip)
    names = _listed(file.parent / CLASSES) or {number: name for name, number in MOTS_CLASSES.items()}
    lines = [(f"{file}, line {n}", line.split()) for n, line in enumerate(read_text(file).splitlines(), start=1)]
    lines = [(place, words) for place, words in lines if words]
    if bad := next((place for place, words in lines if len(words) != 6), None):
        raise Unreadable(f"{bad}: expected frame, id, class, height, width and run lengths")
    first = int(all(whole(words[0], place, "the frame") for place, words in lines))
    rows = [(place, [whole(word, place, "a value") for word in words[:5]], words[5]) for place, words in lines]
    owns = {(own, kind) for _, (_, own, kind, *_), _ in rows if kind != IGNORED}
    instances = {own % PER_CLASS for own, kind in owns if own // PER_CLASS == kind}
    plain = len(instances) == len(owns)  # no two classes share an instance's number
    found: Found = defaultdict(list)
    for place, (t, own, kind, *size), counts in rows:
        clip.check_size(*size, place)
        draw = partial(decode_rle, {"size": size, "counts": counts}, place)
        key, name = str(own % PER_CLASS if plain else own), names.get(kind, f"class {kind}")
        found[clip.frame(t, first, place)].append(Shape(key, name, draw, None, kind == IGNORED))
    return found


def _file(path: Path, names: tuple[str, ...]) -> Path:
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise BadInput(f"{path}: no file, and no folder with {' or '.join(names)}; give the text with the labels")


def _check_info(file: Path, clip: Clip) -> None:
    """Nothing where seqinfo.ini beside the labels, if there is one, tells of the clip's size."""
    path = next((folder / "seqinfo.ini" for folder in (file.parent, file.parent.parent)
                 if (folder / "seqinfo.ini").is_file()), None)  # fmt: skip
    if path is None:
        return
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read_string(read_text(path))
        height, width = (info["Sequence"][name] for name in ("imHeight", "imWidth"))
    except (configparser.Error, KeyError):
        return
    clip.check_size(number(height, path, "imHeight"), number(width, path, "imWidth"), path)


def _listed(path: Path) -> dict[int, str]:
    """Class to name: a name a line, counted from 1, or each behind its number."""
    if not path.is_file():
        return {}
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    pairs = [line.partition(" ") for line in lines]
    if lines and all(head.isdecimal() and len(head) < 9 and name for head, _, name in pairs):
        return {int(head): name for head, _, name in pairs}
    return dict(enumerate(lines, start=1))
