"""Data sets by name: how to read each, which splits it has, and how much a whole download holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from videomolmo.datasets import (
    boxes,
    coco_video,
    conversations,
    generated,
    generated_events,
    imported,
    mevis,
    molmo2,
    mot,
    training_rows,
    youtube_vos,
)
from videomolmo.datasets.annotations import RLEs
from videomolmo.datasets.files import MALFORMED, JsonLines, MissingFile, Unreadable
from videomolmo.datasets.record import GroundedAnswer, Record, Records, Span
from videomolmo.errors import BadInput

VARIABLE = "VIDEOMOLMO_DATA"


@dataclass(frozen=True)
class Dataset:
    """A data set that can be read.

    Attributes:
        title: its own name.
        read: gives the records of a folder and a split.
        splits: their names, or a function that finds them in a folder.
        default: the split read when none is named; None for the only one there.
        expected: split -> counts of a whole download, as far as its authors tell.
        needs_path: whether there are files to read.
    """

    title: str
    read: Callable[..., Records]
    splits: tuple[str, ...] | Callable[[Path], tuple[str, ...]]
    default: str | None = None
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    needs_path: bool = True

    def splits_in(self, root: Path | None) -> tuple[str, ...]:
        return self.splits(root) if callable(self.splits) else self.splits


CAPTIONS = "captions"


def captions_splits(root: Path) -> tuple[str, ...]:
    """Names of the .jsonl files with rows; quality.jsonl is about their masks."""
    return tuple(name for name in training_rows.training_rows_splits(root) if name != "quality")


def read_captions(root: Path, split: str = CAPTIONS, source: str | Path | None = None) -> Records:
    """Records of {root}/{split}.jsonl, the captions that `videomolmo annotate --captions` wrote.

    A row has `dataset`, `split`, `number` and `clip` (where frames are from), `caption` (plain words), `phrases`
    ([start, stop, [object ids]] of each in characters), and where the masks are SAM 2's `masks`: run lengths by object
    and frame, null where the object is not annotated.

    Args:
        root: folder of the rows, or their file.
        split: name of the file.
        source: folder of the data set that the rows are about (default: as for `read_dataset`).
    """
    path = root if root.is_file() else root / f"{Path(split).name}.jsonl"
    rows, sets = JsonLines(path), {}

    def build(number: int) -> Record:
        row = rows[number]
        key = row["dataset"], row["split"]
        if key[0] == CAPTIONS:
            raise Unreadable(f"{path}, row {number + 1}: is about rows like itself; expected another data set")
        if key not in sets:
            sets[key] = read_dataset(key[0], source, key[1])
        if not 0 <= row["number"] < len(sets[key]) or (record := sets[key][row["number"]]).clip != row["clip"]:
            place = f"{path}, row {number + 1}: clip {row['clip']!r}"
            raise Unreadable(f"{place} is not number {row['number']} of {key[0]} {key[1]}; expected the annotated set")
        text = row["caption"]
        answer = GroundedAnswer(text, tuple(Span(start, stop, tuple(ids)) for start, stop, ids in row["phrases"]))
        if any(not 0 <= start < stop <= len(text) for start, stop, _ in answer.spans):
            raise Unreadable(f"{path}, row {number + 1}: a phrase is not inside the caption's {len(text)} characters")
        masks, frames = row.get("masks"), len(record.frame_names)
        annotations = record.annotations if masks is None else RLEs(lambda: masks, frames, path, null=False)
        names = {object_id: record.objects.get(object_id) for object_id in answer.objects}
        return replace(
            record, dataset=CAPTIONS, split=split, expressions=conversations.caption_of(answer), objects=names,
            annotations=annotations,
        )  # fmt: skip

    return Records(CAPTIONS, split, root, range(len(rows)), build)


DATASETS: dict[str, Dataset] = {
    youtube_vos.YOUTUBE_VOS: Dataset(
        "Ref-YouTube-VOS", youtube_vos.read_youtube_vos, youtube_vos.YOUTUBE_VOS_SPLITS, "valid",
        {"train": {"clips": 3471}, "valid": {"clips": 202, "expressions": 834}},
    ),
    youtube_vos.DAVIS: Dataset(
        "Ref-DAVIS17", youtube_vos.read_davis, youtube_vos.DAVIS_SPLITS, "valid",
        {"train": {"clips": 60}, "valid": {"clips": 30, "expressions": 244}},
    ),
    mevis.MEVIS: Dataset(
        "MeViS", mevis.read_mevis, mevis.MEVIS_SPLITS, "valid_u",
        {"valid_u": {"clips": 50, "expressions": 793}, "valid": {"clips": 140, "expressions": 2236}},
    ),
    mevis.REASON_VOS: Dataset(
        "ReasonVOS", mevis.read_reason_vos, mevis.REASON_VOS_SPLITS, "test", {"test": {"expressions": 458}}
    ),
    mevis.REVOS_NAME: Dataset("ReVOS", mevis.read_revos, mevis.REVOS_SPLITS, "valid"),
    boxes.LASOT: Dataset(
        "LaSOT", boxes.read_lasot, boxes.LASOT_SPLITS, "test",
        {"train": {"clips": 1120}, "test": {"clips": 280}, "all": {"clips": 1400}},
    ),
    boxes.GROOT: Dataset("GroOT (Type-to-Track)", boxes.read_groot, boxes.groot_splits),
    mevis.VICAS: Dataset("ViCaS, task LG-VIS", mevis.read_vicas, mevis.VICAS_SPLITS, "val"),
    training_rows.VPOS: Dataset("VPoS-Bench", training_rows.read_vpos_bench, training_rows.vpos_bench_splits),
    training_rows.TRAINING_ROWS: Dataset(
        "VideoMolmo's training rows", training_rows.read_training_rows, training_rows.training_rows_splits
    ),
    "molmo2_video_point": Dataset("Molmo2-VideoPoint", molmo2.read_video_point, molmo2.splits),
    "molmo2_video_point_eval": Dataset("Molmo2-VideoPointEval", molmo2.read_video_point_eval, molmo2.splits),
    "molmo2_video_count": Dataset("Molmo2-VideoCount", molmo2.read_video_count, molmo2.splits),
    "molmo2_video_count_eval": Dataset("Molmo2-VideoCountEval", molmo2.read_video_count_eval, molmo2.splits),
    "molmo2_track": Dataset("Molmo 2's tracks of points", molmo2.read_track, molmo2.splits),
    boxes.VIDSTG: Dataset("VidSTG", boxes.read_vidstg, boxes.VIDSTG_SPLITS, "test"),
    imported.IMPORTED: Dataset("labels brought in by `videomolmo import`", imported.read_imported, imported.splits),
    mot.MOT: Dataset("tracking sets in MOT's layout", mot.read_mot, mot.mot_splits),
    mot.GOT: Dataset("GOT-10k", mot.read_got10k, mot.got_splits),
    coco_video.COCO_VIDEO: Dataset(
        "video sets in a JSON like COCO's", coco_video.read_coco_video, coco_video.coco_video_splits
    ),
    coco_video.PALETTE_VIDEO: Dataset(
        "video sets in palette PNGs", coco_video.read_palette_video, coco_video.palette_splits
    ),
    generated.GENERATED: Dataset(
        "clips generated by this project", generated.read_generated, generated.GENERATED_SPLITS, "test",
        needs_path=False,
    ),
    generated.VPOS_NANO: Dataset(
        "vpos-nano, five generated worlds and counting", generated.read_vpos_nano, generated.VPOS_NANO_SPLITS, "test",
        needs_path=False,
    ),
    conversations.BURST: Dataset(
        "BURST and YTVIS, grounded captions", conversations.read_burst_ytvis, conversations.BURST_SPLITS, "test"
    ),
    conversations.MEVIS: Dataset(
        "MeViS, grounded captions", conversations.read_mevis_captions, conversations.MEVIS_SPLITS, "train"
    ),
    conversations.YOUTUBE_VOS: Dataset(
        "Ref-YouTube-VOS, grounded captions", conversations.read_youtube_vos_captions, conversations.TRAIN_ONLY,
        "train",
    ),
    conversations.VIDSTG: Dataset(
        "VidSTG, grounded captions", conversations.read_vidstg_captions, conversations.vidstg_splits
    ),
    conversations.HCSTVG: Dataset(
        "HC-STVG, grounded captions", conversations.read_hcstvg_captions, conversations.hcstvg_splits
    ),
    conversations.ACTIVITYNET: Dataset(
        "ActivityNet-Entities, grounded captions", conversations.read_activitynet_captions, conversations.TRAIN_ONLY,
        "train",
    ),
    generated.GCG_NANO: Dataset(
        "gcg_nano, generated clips with grounded captions and questions", generated.read_gcg_nano,
        generated.GENERATED_SPLITS, "test", needs_path=False,
    ),
    generated.REFER_NANO: Dataset(
        "refer_nano, the referring sentences of gcg_nano for any model of masks", generated.read_refer_nano,
        generated.GENERATED_SPLITS, "test", needs_path=False,
    ),
    CAPTIONS: Dataset("captions annotated by this program", read_captions, captions_splits, CAPTIONS),
    generated_events.POINT: Dataset(
        "generated clips to point at things and moments in, eight categories", generated_events.read_point_video_nano,
        generated_events.SPLITS, "test", needs_path=False,
    ),
    generated_events.COUNT: Dataset(
        "generated clips to count in, 0 to 12", generated_events.read_count_video_nano, generated_events.SPLITS, "test",
        needs_path=False,
    ),
    generated_events.TRACK: Dataset(
        "generated clips to follow one to four things in", generated_events.read_track_video_nano,
        generated_events.SPLITS, "test", needs_path=False,
    ),
}  # fmt: skip


def has_answers(name: str) -> bool:
    """Whether a data set is about grounded answers, and not about the masks of sentences alone."""
    plain = known(name)[0]
    return plain.endswith("_gcg") or plain in (generated.GCG_NANO, CAPTIONS)


def known(name: str) -> tuple[str, Dataset]:
    """Name and entry of a data set, however it is spelt: 'Ref-DAVIS17' is 'ref_davis17'.

    Raises:
        BadInput: no such data set; the line names all.
    """
    plain = name.strip().lower().replace("-", "_")
    if plain not in DATASETS:
        raise BadInput(f"data set {name!r} is not known; expected one of {', '.join(DATASETS)}")
    return plain, DATASETS[plain]


def root_of(name: str, path: str | Path | None) -> Path | None:
    """Folder of a data set: `path`, or $VIDEOMOLMO_DATA/{name}.

    Raises:
        BadInput: neither is given, or nothing is there.
    """
    plain, dataset = known(name)
    if not dataset.needs_path and path is not None:
        raise BadInput(f"{dataset.title}: made by this program, expected no path, got {str(path)!r}; leave it out")
    if not dataset.needs_path:
        return None
    if path is None and not os.environ.get(VARIABLE):
        raise BadInput(f"{dataset.title}: no path; give one, or set {VARIABLE} to the folder that holds {plain!r}")
    root = Path(path) if path is not None else Path(os.environ[VARIABLE]) / plain
    if not root.exists():
        source = "" if path is not None else f" (from {VARIABLE})"
        raise MissingFile(f"{dataset.title}: {root}{source} is not there; data/README.md says how to get it")
    return root


def read_dataset(name: str, path: str | Path | None = None, split: str | None = None, **options: Any) -> Records:
    """Records of a data set; nothing is decoded before it is asked for.

    Args:
        name: one of `DATASETS`.
        path: its folder; $VIDEOMOLMO_DATA/{name} unless given.
        split: such as 'train'; the one usually evaluated on unless given.
        options: of its reader.

    Raises:
        BadInput: name, path, split or options do not fit; the line says where was looked for what.

    Example:
        >>> records = read_dataset("generated", clips=2, frames=5, height=48, width=64)
        >>> records[0].masks(4).shape[1:]
        (48, 64)
    """
    plain, dataset = known(name)
    root = root_of(plain, path)
    there = dataset.splits_in(root)
    split = split or dataset.default or (there[0] if len(there) == 1 else None)
    if split is None and there:
        raise BadInput(f"{dataset.title} in {root}: name a split; there are {', '.join(there)}")
    if split is None:
        raise MissingFile(f"{dataset.title}: nothing to read in {root}; data/README.md shows the expected layout")
    if not callable(dataset.splits) and split not in there:
        raise BadInput(f"{dataset.title} has no split {split!r}; expected one of {', '.join(there)}")
    _check_types(dataset, options)
    try:
        return dataset.read(root, split, **options)
    except BadInput:
        raise
    except MALFORMED as error:
        if options and "unexpected keyword" in str(error):
            raise BadInput(f"{dataset.title}: {error}") from None
        raise BadInput(f"{dataset.title} in {root}: the index is not as documented ({error!r})") from error


def _check_types(dataset: Dataset, options: Mapping[str, Any]) -> None:
    """BadInput for an option of another type than its reader takes: a recipe may hold anything."""
    hints = get_type_hints(dataset.read)
    for name, value in options.items():
        hint = hints.get(name) or hints.get("options", object)  # several readers behind one signature
        kinds = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        kinds += (list,) if tuple in kinds else ()  # what a TOML file has instead
        is_flag = isinstance(value, bool) and not {bool, object}.intersection(kinds)  # to Python a whole number
        if is_flag or not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
            raise BadInput(f"{dataset.title}: option {name} is {value!r}, expected {expected}")
