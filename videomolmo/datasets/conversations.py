"""Grounded conversations: videos described in sentences whose phrases name objects with masks.

Source: VideoGLaMM (Munasinghe et al. 2024). Its sets lie in one folder, beside the sets that they are made from:

    video_gcg/instruction_data/{train,val,test}.json    BURST and YTVIS, frames in burst/frames and ytvis/vos
    mevis_gcg/{train,valid_u}/VIDEO.json                captions; frames and masks in mevis
    ytvos_gcg/train/VIDEO.json                          captions; frames and masks in refer_youtube_vos
    vidstg_gcg, hcstvg_gcg                              train_captions/ID.json, train/ID/frames and masks/{object:03d}
    activitynet_entities_gcg                            anns/VIDEO____N.json, video_frames/VIDEO/N, masks
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomolmo.datasets.annotations import Annotations, BinaryPNGs, RLEs
from videomolmo.datasets.files import Unreadable, read_json, require, safe_join
from videomolmo.datasets.mevis import read_mevis
from videomolmo.datasets.record import (
    Expression,
    GroundedAnswer,
    ImageSequence,
    Record,
    Records,
    Span,
    in_order,
)
from videomolmo.datasets.youtube_vos import read_youtube_vos
from videomolmo.io.images import read_labels, visible

QUESTION = "Describe the video in detail, and segment what you name."  # what is asked where a set has captions alone
BURST, MEVIS, YOUTUBE_VOS, VIDSTG, HCSTVG, ACTIVITYNET = (
    "burst_ytvis_gcg", "mevis_gcg", "ytvos_gcg", "vidstg_gcg", "hcstvg_gcg", "anet_gcg",
)  # fmt: skip
BURST_SPLITS, MEVIS_SPLITS, TRAIN_ONLY = ("train", "val", "test"), ("train", "valid_u"), ("train",)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
_MARK = re.compile(r"<p>(.*?)</p>((?:\s*\[SEG:\d+\])+)")


def linked(caption: str, known: Mapping[str, Any], place: object) -> GroundedAnswer:
    """A caption in which `[phrase](1, 2)` names objects 1 and 2.

    Raises:
        Unreadable: an object that the clip has not.

    Example:
        >>> linked("A [dog](1) and [two cats](2, 3).", dict.fromkeys("123"), "x").marked
        'A <p> dog </p> [SEG] and <p> two cats </p> [SEG].'
    """
    pieces: list[str | tuple[str, list[str]]] = []
    at = 0
    for found in _LINK.finditer(caption):
        ids = [part.strip() for part in found[2].split(",")]
        pieces += [caption[at : found.start()], (found[1].strip(), ids)]
        at = found.end()
    return _joined([*pieces, caption[at:]], known, place)


def _joined(pieces: Sequence[str | tuple[str, list[str]]], known: Mapping[str, Any], place: object) -> GroundedAnswer:
    """Pieces put together with single spaces, phrases being given with their objects."""
    text, spans = "", []
    for piece in pieces:
        words, ids = piece if isinstance(piece, tuple) else (piece, None)
        words = re.sub(r"\s+", " ", words)
        words = words.lstrip() if not text or text.endswith(" ") else words
        if ids is not None and words:
            if unknown := [object_id for object_id in ids if object_id not in known]:
                there = ", ".join(known) or "none"
                raise Unreadable(f"{place}: {words!r} means object {unknown[0]!r}; expected one of {there}")
            spans.append(Span(len(text), len(text) + len(words), tuple(dict.fromkeys(ids))))
        text += words
    return GroundedAnswer(text.rstrip(), tuple(spans))


def caption_of(answer: GroundedAnswer, **more: Any) -> tuple[Expression]:
    """The only expression of a record that is a captioned clip."""
    return (Expression("0", QUESTION, answer.objects, "caption", answer=answer, more=more),)


def read_burst_ytvis(root: Path, split: str = "train") -> Records:
    """Records of the captions of BURST's and YTVIS's videos; one object for each mask that a word has.

    Frames of YTVIS lie in ytvis/vos/train/JPEGImages, those of BURST in burst/frames/train, or val for other splits.
    """
    path = root / "video_gcg" / "instruction_data" / f"{split}.json"
    index = read_json(path, "videos and annotations")
    masks = {str(entry["id"]): entry["segmentations"] for entry in index["annotations"]}
    folders = {True: root / "ytvis" / "vos" / "train" / "JPEGImages",
               False: root / "burst" / "frames" / ("train" if split == "train" else "val")}  # fmt: skip

    def build(number: int) -> Record:
        video = index["videos"][number]
        said, names = video["dense_cap"], video["file_names"]
        source = video["metadata"]["dataset"] if "metadata" in video else video["dataset_split"]
        place = f"{path}, video {number}"
        if len(said["token_pos"]) != len(said["mask_id"]):
            raise Unreadable(f"{place}: {len(said['token_pos'])} words with {len(said['mask_id'])} masks; expected as "
                             "many of each")  # fmt: skip
        ids: dict[int, list[str]] = {}
        for word, mask in zip(said["token_pos"], said["mask_id"], strict=True):
            ids.setdefault(int(word), []).append(str(mask))
        words = said["caption"].split(" ")
        if beyond := [word for word in ids if not 0 <= word < len(words)]:
            raise Unreadable(f"{place}: word {beyond[0]} has a mask; the caption has {len(words)} words")
        pieces: list[str | tuple[str, list[str]]] = []
        for at, word in enumerate(words):
            pieces += [" "] * bool(at) + [(word, ids[at]) if at in ids else word]
        answer = _joined(pieces, masks, place)
        files = tuple(safe_join(folders[source == "yt19"], name) for name in names)
        frames = ImageSequence(files, tuple(file.stem for file in files))
        clip = str(video.get("id", Path(names[0]).parent.as_posix()))
        more = {"source": source, "v_id2o_id": said.get("v_id2o_id")}
        return Record(BURST, split, clip, frames, caption_of(answer), dict.fromkeys(answer.objects),
                      RLEs(lambda: masks, len(names), path), more=more)  # fmt: skip

    return Records(BURST, split, root, range(len(index["videos"])), build)


def read_mevis_captions(root: Path, split: str = "train") -> Records:
    """Records of the captions of MeViS's videos; objects are MeViS's `obj_id`s."""
    clips = read_mevis(root / "mevis", split)

    def build(path: Path) -> Record:
        record = clips.of(path.stem)
        masks = {}  # of each obj_id, as MeViS's own expressions pair them
        for sentence in record.expressions:
            masks |= dict(zip(map(str, sentence.more.get("obj_id", ())), sentence.objects or (), strict=False))
        annotations = _Renamed(record.annotations, masks)
        return _captioned(MEVIS, split, path, record, in_order(list(masks)), annotations)

    return Records(MEVIS, split, root, _captions(root / "mevis_gcg" / split), build)


def read_youtube_vos_captions(root: Path, split: str = "train") -> Records:
    """Records of the captions of Ref-YouTube-VOS's videos."""
    clips = read_youtube_vos(root / "refer_youtube_vos", split)

    def build(path: Path) -> Record:
        record = clips.of(path.stem)
        return _captioned(YOUTUBE_VOS, split, path, record, list(record.objects), record.annotations)

    return Records(YOUTUBE_VOS, split, root, _captions(root / "ytvos_gcg" / split), build)


class _Renamed(Annotations):
    """Masks of a set under other names of its objects."""

    def __init__(self, masks: Annotations, names: Mapping[str, str]):
        self._masks, self._names = masks, names

    def mask(self, object_id, frame, size):
        return self._masks.mask(self._names[object_id], frame, size)


def _captions(folder: Path) -> list[Path]:
    return visible(require(folder, "captions, one VIDEO.json each"), "*.json")


def _captioned(
    dataset: str, split: str, path: Path, record: Record, ids: Sequence[str], annotations: Annotations
) -> Record:
    """A caption about a record of another set."""
    answer = linked(read_json(path, "a caption")["caption"], dict.fromkeys(ids), path)
    names = {object_id: record.objects.get(object_id) for object_id in answer.objects}
    return Record(dataset, split, path.stem, record.media, caption_of(answer), names, annotations, record.fps)


def _boxed_splits(root: Path, dataset: str) -> tuple[str, ...]:
    return tuple(path.name.removesuffix("_captions") for path in visible(root / dataset, "*_captions"))


def _read_boxed(root: Path, split: str, dataset: str) -> Records:
    """Records whose masks are those that SAM 2 made of boxes, one folder for each object.

    Differs: a phrase with several objects means all of them; the released code takes the first alone.
    """
    folder = root / dataset

    def build(path: Path) -> Record:
        clip = safe_join(folder, split, path.stem)
        images = visible(require(clip / "frames", "images of a clip"), "*.png")
        masks = {_number(place.name): place for place in visible(clip / "masks", "*")}
        answer = linked(read_json(path, "a caption")["caption"], masks, path)
        frames = ImageSequence(tuple(images), tuple(image.stem for image in images))
        annotations = BinaryPNGs({object_id: masks[object_id] for object_id in answer.objects}, frames.names)
        names = dict.fromkeys(answer.objects)
        return Record(dataset, split, path.stem, frames, caption_of(answer), names, annotations)

    return Records(dataset, split, root, _captions(folder / f"{split}_captions"), build)


def vidstg_splits(root: Path) -> tuple[str, ...]:
    """Splits whose captions are there."""
    return _boxed_splits(root, VIDSTG)


def read_vidstg_captions(root: Path, split: str = "train") -> Records:
    """Records of VidSTG's captions."""
    return _read_boxed(root, split, VIDSTG)


def hcstvg_splits(root: Path) -> tuple[str, ...]:
    """Splits whose captions are there."""
    return _boxed_splits(root, HCSTVG)


def read_hcstvg_captions(root: Path, split: str = "train") -> Records:
    """Records of HC-STVG's captions."""
    return _read_boxed(root, split, HCSTVG)


def _number(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name


def read_activitynet_captions(root: Path, split: str = "train") -> Records:
    """Records of ActivityNet-Entities' captions, one for each segment; an object has a box and a mask on one frame."""
    folder = root / "activitynet_entities_gcg"

    def build(path: Path) -> Record:
        entry = read_json(path, "a caption and its objects")
        video, divider, segment = path.stem.partition("____")
        if not divider:
            raise Unreadable(f"{path}: expected a name such as VIDEO____0.json, with the number of the segment")
        objects = {_inner(name): about for name, about in entry["seg_token_to_obj"].items()}
        caption = entry["refined_caption"]
        answer = _joined(list(_pieces(caption)), objects, path)
        clip = safe_join(folder / "video_frames", video, segment)
        images = visible(require(clip, "frames of a segment"), "*.jpg")
        frames = ImageSequence(tuple(images), tuple(image.stem for image in images))
        places = {frame.stem: at for at, frame in enumerate(images)}
        known = {}
        for object_id in answer.objects:
            about = objects[object_id]
            frame, (left, top, right, bottom) = f"{int(about['frame_id']):02d}", map(float, about["bbox"])
            if frame not in places:
                raise Unreadable(f"{path}: object {object_id} is on frame {frame}, which is not in {clip}")
            mask = safe_join(folder / "masks", path.stem, f"{int(object_id):02d}") / "mask.png"
            known[object_id] = places[frame], (left, top, right - left, bottom - top), mask
        return Record(ACTIVITYNET, split, path.stem, frames, caption_of(answer), dict.fromkeys(answer.objects),
                      _OnOneFrame(known))  # fmt: skip

    return Records(ACTIVITYNET, split, root, _captions(folder / "anns"), build)


def _inner(name: str) -> str:
    """The number in "[SEG:3]"."""
    found = re.fullmatch(r"\[SEG:(\d+)\]", name)
    if found is None:
        raise Unreadable(f"{name!r}: expected an object's name such as '[SEG:0]'")
    return str(int(found[1]))


def _pieces(caption: str) -> Iterator[str | tuple[str, list[str]]]:
    """Words and phrases of "<p> a man </p> [SEG:1] walks"; what has no phrase is left out."""
    at = 0
    for found in _MARK.finditer(caption):
        yield _plain(caption[at : found.start()])
        yield found[1].strip(), [str(int(number)) for number in re.findall(r"\d+", found[2])]
        at = found.end()
    yield _plain(caption[at:])


def _plain(text: str) -> str:
    return re.sub(r"</?p>|\[SEG:\d+\]", "", text)


class _OnOneFrame(Annotations):
    """Objects that are annotated on one frame each: its number, the box and the file of the mask."""

    def __init__(self, known: Mapping[str, tuple[int, tuple[float, ...], Path]]):
        self._known = known

    def mask(self, object_id, frame, size):
        at, _, path = self._known[object_id]
        return read_labels(path, as_stored=True) != 0 if frame == at else None

    def box(self, object_id, frame):
        at, box, _ = self._known[object_id]
        return box if frame == at else None
