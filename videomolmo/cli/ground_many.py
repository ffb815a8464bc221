"""`videomolmo ground` for several videos or sentences: a folder of results for each, and one table."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from copy import copy
from dataclasses import dataclass
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.cli.ground import ground_and_save, is_saved
from videomolmo.errors import BadInput
from videomolmo.io.video import Frames

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

TABLES = (".csv", ".parquet")
TABLE = "results.csv"
TEXT, WHOLE = ("video", "sentence", "fusion", "reader"), ("every", "context", "max_frames")


@dataclass(frozen=True, eq=False)
class Job:
    """A sentence about a video, the name of the folder of its result, and a grounder's further arguments."""

    video: str
    sentence: str
    name: str
    settings: dict[str, Any]


def is_many(video: str) -> bool:
    """Whether this is a table, or a folder of videos rather than of one video's images."""
    path = Path(video)
    return path.suffix.lower() in TABLES or bool(path.is_dir() and _videos_in(path))


def jobs_of(videos: Sequence[str], sentences: Sequence[str], settings: dict[str, Any]) -> list[Job]:
    """Every sentence about every video, and what the tables among `videos` ask.

    Raises:
        BadInput: there is no sentence for a video, or a table is none, or holds columns that are not known.
    """
    asked: list[tuple[str, str, dict[str, Any]]] = []
    for video in videos:
        if Path(video).suffix.lower() in TABLES:
            asked += _rows(Path(video), sentences, settings)
        else:
            several = _videos_in(Path(video)) if Path(video).is_dir() else []
            asked += [(one, sentence, settings) for one in several or [video] for sentence in sentences]
            if not sentences:
                raise BadInput(f"a sentence is missing; say what to look for in {video}, for example 'the red circle'")
    names: dict[str, int] = {}
    jobs = []
    for video, sentence, own in asked:
        name = "_".join(re.sub(r"\W+", "-", text)[:60].strip("-_") for text in (Path(video).stem, sentence))
        names[name] = names.get(name, -1) + 1
        jobs.append(Job(video, sentence, f"{name}.{names[name]}" if names[name] else name, own))
    return jobs


def ground_many(jobs: Sequence[Job], out: Path, overwrite: bool, models: dict[str, Any], workers: int) -> int:
    """Ground all of it, tell how each went, and write the table; 1 where something failed, else 0.

    What was done before is not done again. The table has a row for each job: video, sentence, folder, outcome (done or
    failed), and what was found, or why not.

    Args:
        jobs: see `jobs_of`.
        out: the folder for all results.
        overwrite: whether earlier results in their folders may be replaced.
        models: arguments of `load_grounder`.
        workers: processes, each with its own models.
    """
    import pandas as pd

    from videomolmo.io.files import check_folder
    from videomolmo.io.tables import write_csv
    from videomolmo.io.workers import run_all

    check_folder(out, overwrite=True, results=False)
    rows: dict[str, dict[str, Any]] = {}
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.video, job.settings["reader"], job.settings["max_frames"]), []).append(job)
    given = models, out, overwrite
    try:
        with closing(run_all(_ground, list(groups.values()), workers, "ground", _load, given)) as results:
            for name, row in chain.from_iterable(results):
                rows[name] = row
                told = row["problem"] or f"{row['objects']} objects on {row['frames']} frames"
                print(f"{len(rows)}/{len(jobs)} {row['outcome']}: {row['folder']}: {told}", flush=True)
    except KeyboardInterrupt as error:
        if not getattr(error, "__notes__", ()):
            error.add_note(f"{len(rows)} of {len(jobs)} are done, and the same command goes on from there")
        raise
    counts = dict.fromkeys(("frames", "key_frames", "found", "objects"), "Int64")  # whole, though some are missing
    table = pd.DataFrame([rows[job.name] for job in jobs]).astype(counts)
    write_csv(table, out / TABLE)
    failed = int((table["outcome"] == "failed").sum())
    print(f"{len(jobs) - failed} done, {failed} failed; see {out / TABLE}", file=sys.stderr if failed else sys.stdout)
    return 1 if failed else 0


def _load(models: dict[str, Any], out: Path, overwrite: bool) -> tuple[VideoGrounder, Path, bool]:
    from videomolmo.systems import load_grounder

    return load_grounder(**models), out, overwrite


def _ground(begun: tuple[VideoGrounder, Path, bool], jobs: list[Job]) -> list[tuple[str, dict[str, Any]]]:
    """Names of jobs about one video, with their rows of the table. What they share is decoded and encoded once."""
    from videomolmo.io.video import open_video

    grounder, out, overwrite = begun
    rows = {job.name: _row(grounder, job, out / job.name) for job in jobs}
    todo = [job for job in jobs if rows[job.name]["outcome"] != "done"]
    try:
        if todo:
            settings = todo[0].settings
            video = open_video(jobs[0].video, reader=settings["reader"], max_frames=settings["max_frames"])
    except (BadInput, OSError) as error:
        for job in todo:
            rows[job.name] |= _failed(error)
        return list(rows.items())
    with ExitStack() as stack:
        grounder, coming, running = _sharing(grounder, len(todo)), [], {}
        if todo:
            coming = list(tee(stack.enter_context(video).iterate(), len(todo)))
        for job in todo:
            opened = _Shared(video, coming.pop())
            steps = ground_and_save(
                grounder, job.video, job.sentence, out / job.name, overwrite, job.settings, opened=opened
            )
            running[job] = stack.enter_context(closing(steps))
        reached = dict.fromkeys(running, 0)
        while running:  # who is behind goes on
            job = min(running, key=reached.__getitem__)
            try:
                reached[job] = next(running[job])
            except StopIteration as end:
                del running[job]
                rows[job.name] |= _row(grounder, job, end.value[0])
            except Exception as error:  # whatever is wrong with one stops none of the others
                del running[job]
                rows[job.name] |= _failed(error)
    return list(rows.items())


def _row(grounder: VideoGrounder, job: Job, folder: Path) -> dict[str, Any]:
    """A job's row, "done" where its result lies in a folder."""
    from videomolmo.results import GroundingResult

    row = {"video": job.video, "sentence": job.sentence, "folder": folder.name, "outcome": None, "frames": None,
           "key_frames": None, "found": None, "objects": None, "problem": None}  # fmt: skip
    with suppress(BadInput, OSError):
        if is_saved(grounder, job.video, job.sentence, folder, job.settings):
            result = GroundingResult.load(folder)
            found = sum(answer.outcome == "found" for answer in result.answers)
            row |= {"outcome": "done", "frames": result.frames, "key_frames": len(result.answers), "found": found,
                    "objects": result.objects}  # fmt: skip
    return row


def _failed(error: Exception) -> dict[str, Any]:
    text = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
    return {"outcome": "failed", "problem": " ".join(text.split())}


class _Shared(Frames):
    """Frames of a video that is open, which come once from an iterator that others share, and then from the video."""

    def __init__(self, video: Frames, coming: Iterator[Any]) -> None:
        self.__dict__.update(video.__dict__)
        self._coming = [coming]

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """As of any video."""
        return self._coming.pop() if self._coming else super().iterate(start, stop)


class _Memo:
    """A function of frames that is asked once for the same frames, for so many that ask, while these frames live."""

    def __init__(self, function: Callable[[list], Any], times: int) -> None:
        self.function, self.times = function, times
        self.found: dict[tuple[int, ...], list[Any]] = {}

    def __call__(self, frames: list) -> Any:
        key = tuple(map(id, frames))
        if key not in self.found:
            self.found[key] = [self.times, self.function(frames)]
            for frame in frames:
                weakref.finalize(frame, self.found.pop, key, None).atexit = False
        entry = self.found[key]
        entry[0] -= 1
        if not entry[0]:
            del self.found[key]
        return entry[1]


def _sharing(grounder: VideoGrounder, times: int) -> VideoGrounder:
    """The grounder, whose models encode the same frames once for so many sentences, in the same batches as for one."""
    pointer, tracker = copy(grounder.pointer), copy(grounder.tracker)
    for model, name in ((pointer, "encode"), (tracker, "encode_all")):
        if times > 1 and hasattr(model, name):
            setattr(model, name, _Memo(getattr(model, name), times))
    shared = copy(grounder)
    shared.pointer, shared.tracker = pointer, tracker
    return shared


def _videos_in(folder: Path) -> list[str]:
    """Videos in a folder, in natural order; none where it holds images, and so is one itself."""
    from videomolmo.datasets.record import VIDEO_SUFFIXES
    from videomolmo.io.images import IMAGE_SUFFIXES, in_natural_order

    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        return []
    return [str(path) for path in in_natural_order(p for p in files if p.suffix.lower() in VIDEO_SUFFIXES)]


def _rows(path: Path, sentences: Sequence[str], settings: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Video, sentence and settings of each row of a table; videos lie beside it, unless their paths are whole ones."""
    import pandas as pd

    from videomolmo.grounding import check_settings
    from videomolmo.io.tables import read_csv

    try:
        table = read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path}: not a table that can be read ({reason:.200}); give a CSV or Parquet file") from error
    if strange := [str(name) for name in table.columns if name not in ("video", "sentence", *settings)]:
        known = ", ".join(("video", "sentence", *settings))
        raise BadInput(f"{path}: a column {strange[0]!r:.60}, expected some of {known}; rename or remove it")
    if "video" not in table or not len(table) or ("sentence" not in table and not sentences):
        raise BadInput(f"{path}: expected a row for each video, with columns video and sentence; add them")
    for number, values in enumerate(table.to_dict("records"), start=2):
        given = {name: value for name, value in values.items() if not pd.isna(value)}
        if "video" not in given:
            raise BadInput(f"{path}, line {number}: no video; fill it in")
        own = {name: _plain(name, value, f"{path}, line {number}") for name, value in given.items()}
        video, named = str(path.parent / own.pop("video")), own.pop("sentence", None)
        check_settings(*((settings | own)[name] for name in ("every", "fusion", "tau", "context")))
        asked = sentences if named is None else [named]
        if not asked:
            raise BadInput(f"{path}, line {number}: no sentence; fill it in")
        yield from ((video, sentence, settings | own) for sentence in asked)


def _plain(name: str, value: Any, place: str) -> Any:
    """A cell as a grounder takes it: numbers in a column with gaps have become fractions."""
    if name in TEXT:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number != number or (name in WHOLE and not number.is_integer()):
        raise BadInput(f"{place}: {name} is {value!r:.60}, expected a {'whole ' if name in WHOLE else ''}number")
    return int(number) if name in WHOLE else number
