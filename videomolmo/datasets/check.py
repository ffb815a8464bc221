"""Whether a download is whole: every index entry read, every frame's header and every mask opened, all counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from videomolmo.datasets.files import MALFORMED, MissingFile
from videomolmo.datasets.record import Record, Records
from videomolmo.datasets.registry import known, read_dataset, root_of
from videomolmo.errors import BadInput

COUNTED = ("clips", "frames", "expressions", "objects", "masks", "boxes", "points")
_SHOWN = 10  # problems of each sort in the summary


@dataclass
class SplitReport:
    """What a split holds, and what is wrong with it.

    Attributes:
        split: its name.
        counts: of clips, frames, expressions, objects, and annotated masks, boxes and points.
        missing: files that are not there, one line each.
        unreadable: files and entries that are there and cannot be used, one line each.
        expected: counts of a whole download as far as its authors tell; information, not a criterion.
        notes: what the reader assumed.
    """

    split: str
    counts: Counter = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.counts["clips"] > 0 and not self.missing and not self.unreadable

    def add(self, error: Exception) -> None:
        problems = self.missing if isinstance(error, MissingFile) else self.unreadable
        if str(error) not in problems[-50:]:
            problems.append(str(error))

    def text(self) -> str:
        counts = ", ".join(f"{self.counts[name]:,} {name}" for name in COUNTED if self.counts[name] or name == "clips")
        lines = [f"{self.split}: {counts}"]
        lines += [f"  note: {note}" for note in self.notes]
        for name, count in self.expected.items():
            relation = "as published" if self.counts[name] == count else f"published: {count:,}"
            lines.append(f"  {name}: {self.counts[name]:,} ({relation})")
        for title, problems in (("missing", self.missing), ("unreadable", self.unreadable)):
            if problems:
                lines += [f"  {title}: {len(problems):,}", *(f"    {problem}" for problem in problems[:_SHOWN])]
            if len(problems) > _SHOWN:
                lines.append(f"    and {len(problems) - _SHOWN:,} more")
        if not self.counts["clips"]:
            lines.append("  no clip could be read")
        return "\n".join(lines)


@dataclass
class Report:
    """The splits of a data set that are there; `ok` where all of them are whole."""

    title: str
    root: Path | None
    splits: list[SplitReport]
    absent: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.splits) and all(split.ok for split in self.splits)

    def text(self) -> str:
        head = f"{self.title}, {self.root}" if self.root else self.title
        lines = [head, *(split.text() for split in self.splits)]
        if self.absent:
            lines.append(f"not there: {', '.join(self.absent)}")
        return "\n".join([*lines, "whole" if self.ok else "BROKEN: see above; download again what is named there"])


def check_dataset(
    name: str, path: str | Path | None = None, split: str | None = None, progress: bool = False, **options: object
) -> Report:
    """What a download holds and what is wrong with it.

    Args:
        name, path, options: as for `read_dataset`.
        split: only this one; otherwise all whose index is there.
        progress: show a bar on standard error.

    Raises:
        BadInput: there is nothing to check.
    """
    plain, dataset = known(name)
    root = root_of(plain, path)
    if split and not callable(dataset.splits) and split not in dataset.splits:
        raise BadInput(f"{dataset.title} has no split {split!r}; expected one of {', '.join(dataset.splits)}")
    report = Report(dataset.title, root, [])
    failures = []
    for each in (split,) if split else dataset.splits_in(root):
        try:
            records = read_dataset(plain, root, each, **options)
        except MissingFile as error:
            failures.append(error)
            report.absent.append(each)
            continue
        except BadInput as error:
            report.splits.append(SplitReport(each, unreadable=[str(error)]))
            continue
        found = _check_split(records, progress)
        found.expected = dict(dataset.expected.get(each, {}))
        report.splits.append(found)
    if not report.splits:
        raise failures[0] if failures else MissingFile(
            f"{dataset.title}: nothing to check in {root}; data/README.md shows the expected layout"
        )  # fmt: skip
    return report


def _check_split(records: Records, progress: bool) -> SplitReport:
    from tqdm import tqdm

    report = SplitReport(records.split, notes=records.notes)
    for number in tqdm(range(len(records)), desc=f"{records.dataset} {records.split}", disable=not progress):
        try:
            record = records[number]
        except BadInput as error:
            report.add(error)
            continue
        for error in _problems(record, report.counts):
            report.add(error)
    return report


def _problems(record: Record, counts: Counter) -> Iterator[Exception]:
    """Counts a record and yields what is wrong with it."""
    counts["clips"] += 1
    counts["frames"] += len(record.frame_names)
    counts["expressions"] += len(record.expressions)
    counts["objects"] += len(record.objects)
    yield from record.media.check()
    for id_, count in Counter(sentence.id for sentence in record.expressions).items():
        if count > 1:
            yield BadInput(f"{record}: {count} expressions are called {id_}; expected ids that differ")
    for sentence in record.expressions:
        if not isinstance(sentence.text, str) or not sentence.text.strip():
            yield BadInput(f"{record}: expression {sentence.id} has no text")
        for object_id in sentence.objects or ():
            if object_id not in record.objects:
                yield BadInput(f"{record}: expression {sentence.id} means object {object_id}, which is not there")
    size = None
    for frame in range(len(record.frame_names)):
        try:
            masks = record.masks(frame)
            record.foreground(frame)
            if masks is not None:
                counts["masks"] += len(masks)
                size = size or record.size()
                if masks.shape[1:] != size:
                    yield BadInput(f"{record}: masks of frame {frame} are {masks.shape[1:]}; the frames are {size}")
        except MALFORMED as error:
            yield _named(record, frame, error)
        yield from _geometry(record, frame, counts)


def _geometry(record: Record, frame: int, counts: Counter) -> Iterator[Exception]:
    for object_id in record.objects:
        try:
            counts["boxes"] += record.box_of(object_id, frame) is not None
            if record.annotations.in_percent:  # in pixels only for who needs them: that may open a video
                counts["points"] += len(record.annotations.points(object_id, frame) or ())
            else:
                points = record.points_of(object_id, frame)
                counts["points"] += 0 if points is None else len(points)
        except MALFORMED as error:
            yield _named(record, frame, error)


def _named(record: Record, frame: int, error: Exception) -> Exception:
    if isinstance(error, BadInput):
        return error
    return BadInput(f"{record}, frame {frame}: not as documented ({type(error).__name__}: {error})")
