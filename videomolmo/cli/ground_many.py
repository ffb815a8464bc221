"""`videomolmo ground` for several videos or sentences: a folder of results for each, and one table."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.cli.ground import READ, ground_and_save, ground_one, is_saved
from videomolmo.errors import BadInput
from videomolmo.io.capture import without_password
from videomolmo.io.cluster import DIED_AGAIN, Executor, still_wanted, submitted
from videomolmo.io.live import live_name
from videomolmo.io.sources import check_stretch
from videomolmo.io.video import Frames
from videomolmo.weights.hub import SHIPPED

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

TABLES = (".csv", ".parquet")
TABLE = "results.csv"
ASK_EVERY_S = 0.5  # whether the work is still wanted
TEXT, WHOLE = ("video", "sentence", "fusion", "reader", "start", "end"), ("every", "context", "max_frames", "latency")


@dataclass(frozen=True, eq=False)
class Job:
    """A sentence about a video, the name of the folder of its result, and a grounder's further arguments.

    `path` is where the video lies for a worker elsewhere.
    """

    video: str
    sentence: str
    name: str
    settings: dict[str, Any]
    path: str | None = None

    @property
    def file(self) -> str:
        """Where the video lies."""
        return self.path or self.video


def is_many(video: str) -> bool:
    """Whether this is a table, or a folder of videos rather than of one video's images."""
    if live_name(video) is not None:
        return False
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
        if live_name(video) is not None:
            raise BadInput(
                f"{without_password(video)}: a live source is looked at alone, for one sentence; leave the others out"
            )
        name = "_".join(_in_a_name(text) for text in (Path(video).stem, sentence))
        like = name.casefold()  # some systems of files tell no small letters from capitals
        names[like] = names.get(like, -1) + 1
        jobs.append(Job(video, sentence, f"{name}.{names[like]}" if names[like] else name, own))
    return jobs


def _in_a_name(text: str) -> str:
    """A text in letters, digits and hyphens, as half of a folder's name, which may have 255 bytes."""
    short = re.sub(r"\W+", "-", text)[:60].encode()[:100].decode(errors="ignore")
    return short.strip("-_")


def ground_all(
    videos: Sequence[str], sentences: Sequence[str | None], out: Path | None, overwrite: bool, models: dict[str, Any],
    settings: dict[str, Any], where: tuple[int | None, str | None, str | None],
    trace: Path | None = None,
) -> int | None:  # fmt: skip
    """What the command `ground` does: one sentence about one video, or several; returns the exit code.

    Args:
        videos, sentences: those given, perhaps none; then the sample clip is meant.
        out: folder for the results; None: one under results/.
        overwrite: whether earlier results may be replaced.
        models: arguments of `load_grounder`.
        settings: further arguments of a grounder.
        where: workers, scheduler and cluster, see `Executor`.
        trace: of one sentence about one video, see `profiled`.
    """
    from videomolmo.fusion import check_rule
    from videomolmo.protocols import as_question
    from videomolmo.systems import load_grounder
    from videomolmo.weights import hub

    asked = [one for one in sentences if one is not None]
    if not videos:
        videos, asked = [str(hub.sample_clip())], asked or [hub.SAMPLE_SENTENCE]
    check_rule(settings["fusion"], settings["tau"])
    settings |= check_stretch(*(settings[name] for name in ("start", "end", "fps")))
    executor = Executor(*where)
    if len(videos) > 1 or len(asked) > 1 or any(map(is_many, videos)):
        if trace is not None:
            raise BadInput("--profile goes with one video and one sentence; leave it out")
        jobs = jobs_of(videos, asked, settings)
        for job in jobs:
            as_question(job.sentence)
        return ground_many(jobs, out or Path("results/videos"), overwrite, models, executor)
    if executor != Executor():
        raise BadInput("--workers, --scheduler and --cluster belong to several videos or sentences; leave them out")
    if not asked:
        raise BadInput(f"a sentence is missing; say what to look for in {videos[0]}, for example 'the red circle'")
    as_question(asked[0])
    ground_one(videos[0], asked[0], out, overwrite, partial(load_grounder, **models), settings, trace)
    return None


def ground_many(
    jobs: Sequence[Job], out: Path, overwrite: bool, models: dict[str, Any], executor: Executor | None = None
) -> int:
    """Ground all of it, tell how each went, and write the table; 1 where something failed, else 0.

    What was done before is not done again. The table has a row for each job: video, sentence, folder, outcome (done or
    failed), and what was found, or why not.

    Args:
        jobs: see `jobs_of`.
        out: the folder for all results; a cluster's workers must see it, and the videos, under the same path.
        overwrite: whether earlier results in their folders may be replaced.
        models: arguments of `load_grounder`.
        executor: where it is done; each process has its own models.
    """
    import pandas as pd

    from videomolmo.io.files import check_folder
    from videomolmo.io.tables import write_csv

    check_folder(out, overwrite=True, results=False)
    rows: dict[str, dict[str, Any]] = {}
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.video, *(job.settings[name] for name in READ)), []).append(job)
    executor = executor or Executor()
    run = _on_cluster if executor.is_elsewhere else _here
    try:
        with closing(run(list(groups.values()), executor, (models, out, overwrite))) as results:
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


Given = tuple[dict[str, Any], Path, bool]  # arguments of `load_grounder`, folder for all results, whether to overwrite
Rows = list[tuple[str, dict[str, Any]]]  # of the table, by the names of their jobs


def _here(groups: list[list[Job]], executor: Executor, given: Given) -> Iterator[Rows]:
    from videomolmo.io.workers import run_all

    return run_all(_ground, groups, executor.workers or 1, "ground", _load, given)


def _on_cluster(groups: list[list[Job]], executor: Executor, given: Given) -> Iterator[Rows]:
    """As `_here`; a group whose worker dies again and again has failed, and stops no other."""
    models, out, overwrite = given
    models = {name: _absolute(value) for name, value in models.items()}
    sent = [(models, out.absolute(), overwrite, [replace(job, path=_absolute(job.video)) for job in g]) for g in groups]
    with executor.client() as client, closing(submitted(client, _ground_there, sent, "ground")) as ended:
        out.mkdir(parents=True, exist_ok=True)
        for (*_, jobs), future in ended:
            try:
                yield future.result()
            except (Exception, asyncio.CancelledError) as error:  # of the worker, or of whatever it runs
                died = type(error).__name__ == "KilledWorker"
                failed = _failed(BadInput(f"its {DIED_AGAIN}") if died else error)
                yield [(job.name, _blank(job) | failed) for job in jobs]


def _absolute(value: Any) -> Any:
    """A path to what is here as a whole one; a name, such as of a shipped model or one on the hub, as it is."""
    is_path = isinstance(value, (str, Path)) and os.path.exists(value) and value not in SHIPPED
    return str(Path(value).absolute()) if is_path else value


def _ground_there(sent: tuple[dict[str, Any], Path, bool, list[Job]], task: str) -> Rows:
    """`_ground` in a worker of a cluster, which keeps its models for the next; one at a time, whatever its threads."""
    models, out, overwrite, jobs = sent
    if not out.is_dir():
        raise BadInput(f"{socket.gethostname()} does not see {out}: workers must share it")
    with _at_work:
        if _loaded.get("models") != models:
            _loaded.clear()
            _loaded.update(models=models, grounder=_load(models, out, overwrite)[0])
        wanted, asked = still_wanted(task), time.monotonic()

        def go_on() -> None:
            nonlocal asked
            if time.monotonic() - asked > ASK_EVERY_S:
                asked = time.monotonic()
                if not wanted():
                    raise _Dropped

        return _ground((_loaded["grounder"], out, overwrite), jobs, go_on)


class _Dropped(Exception):
    """Whoever wanted this went away; what is finished of it stays."""


_loaded: dict[str, Any] = {}  # in a worker of a cluster: arguments of `load_grounder`, and what it gave
_at_work = threading.Lock()


def _load(models: dict[str, Any], out: Path, overwrite: bool) -> tuple[VideoGrounder, Path, bool]:
    from videomolmo.systems import load_grounder

    return load_grounder(**models), out, overwrite


def _ground(begun: tuple[VideoGrounder, Path, bool], jobs: list[Job], go_on: Callable[[], None] = lambda: None) -> Rows:
    """Rows of the table for jobs about one video. What they share is decoded and encoded once.

    Args:
        begun: see `_load`.
        jobs: the jobs.
        go_on: called after each window; what it raises ends all of it.
    """
    from videomolmo.io.sources import open_source

    grounder, out, overwrite = begun
    rows = {job.name: _row(grounder, job, out / job.name) for job in jobs}
    todo = [job for job in jobs if rows[job.name]["outcome"] != "done"]
    try:
        if todo:
            video = open_source(todo[0].file, **{name: todo[0].settings[name] for name in READ})
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
                grounder, job.file, job.sentence, out / job.name, overwrite, job.settings, opened=opened
            )
            running[job] = stack.enter_context(closing(steps))
        reached = dict.fromkeys(running, 0)
        while running:  # who is behind goes on
            job = min(running, key=reached.__getitem__)
            try:
                reached[job] = next(running[job])
                go_on()
            except StopIteration as end:
                del running[job]
                rows[job.name] |= _found(end.value[0])
            except _Dropped:
                raise
            except Exception as error:  # whatever is wrong with one stops none of the others
                del running[job]
                rows[job.name] |= _failed(error)
    return list(rows.items())


def _row(grounder: VideoGrounder, job: Job, folder: Path) -> dict[str, Any]:
    """A job's row, "done" where its result lies in a folder."""
    row = _blank(job) | {"folder": folder.name}
    with suppress(BadInput, OSError):
        if is_saved(grounder, job.file, job.sentence, folder, job.settings):
            row |= _found(folder)
    return row


def _found(folder: Path) -> dict[str, Any]:
    """What a row tells of a result."""
    from videomolmo.results import GroundingResult

    result = GroundingResult.load(folder)
    found = sum(answer.outcome == "found" for answer in result.answers)
    return {"folder": folder.name, "outcome": "done", "frames": result.frames, "key_frames": len(result.answers),
            "found": found, "objects": result.objects, "warning": result.warning}  # fmt: skip


def _blank(job: Job) -> dict[str, Any]:
    return {"video": job.video, "sentence": job.sentence, "folder": job.name, "outcome": None, "frames": None,
            "key_frames": None, "found": None, "objects": None, "warning": None, "problem": None}  # fmt: skip


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
    """A function of frames, or of features, that is asked once for the same, for so many that ask, while they live."""

    def __init__(self, function: Callable[..., Any], times: int) -> None:
        self.function, self.times = function, times
        self.found: dict[tuple[int, ...], list[Any]] = {}

    def __call__(self, frames: list, *options: Any) -> Any:
        key = tuple(map(id, frames))
        if key not in self.found:
            self.found[key] = [self.times, self.function(frames, *options)]
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
    for model, name in ((pointer, "encode"), (pointer, "image_tokens"), (tracker, "encode_all")):
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
        check_settings(*((settings | own)[name] for name in ("every", "fusion", "tau", "context", "latency")))
        own |= {name: value for name, value in _stretch(own, f"{path}, line {number}").items() if name in own}
        asked = sentences if named is None else [named]
        if not asked:
            raise BadInput(f"{path}, line {number}: no sentence; fill it in")
        yield from ((video, sentence, settings | own) for sentence in asked)


def _stretch(own: dict[str, Any], place: str) -> dict[str, Any]:
    try:
        return check_stretch(*(own.get(name) for name in ("start", "end", "fps")))
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


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
