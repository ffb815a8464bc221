"""What `ground` and `describe` do with a video and a sentence: what is finished of a killed run is not done again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.cli.profile import check_trace, profiled
from videomolmo.errors import BadInput
from videomolmo.io.command_line import FULL

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder
    from videomolmo.io.video import Frames
    from videomolmo.results import GroundingResult

READ = ("reader", "max_frames", "start", "end", "fps")  # settings for `open_source`


def ground_one(
    video: str, sentence: str, out: Path | None, overwrite: bool, load: Callable[[], VideoGrounder],
    settings: dict[str, Any], trace: Path | None = None, place: str = "results/ground",
) -> None:  # fmt: skip
    """Ground one sentence in one video, and tell of it.

    Args:
        load: gives the models.
        trace: see `profiled`.
        video, sentence, out, overwrite, settings, place: see `ground_and_save`.
    """
    from videomolmo.grounding import drained
    from videomolmo.io.files import check_folder
    from videomolmo.io.live import live_name
    from videomolmo.io.sources import open_source
    from videomolmo.masks.unfinished import place_of

    replaces = overwrite or (out is not None and place_of(out).is_dir())  # the latter is looked at with the models
    check_trace(trace)
    check_folder(out or unused(Path(place)), overwrite=replaces, source=video)
    if live_name(video) is not None:
        out = out or (Path(place) if overwrite else unused(Path(place)))
        folder, summary = _ground_live(video, sentence, out, overwrite, load, settings, trace)
    else:
        with open_source(video, **{name: settings[name] for name in READ}) as frames:
            print(f"{Path(video).name}: {described(frames)}")
        grounder = load()
        with profiled(grounder, trace):
            folder, summary = drained(ground_and_save(grounder, video, sentence, out, overwrite, settings, place=place))
    print(f"{summary}\nwritten to {folder}: answers.jsonl, tracks.csv, masks/, overlay.mp4, run.json")


def described(frames: Frames) -> str:
    """How many frames there are, of which size and rate, and from where in the video."""
    text = f"{frames.width}×{frames.height}, {frames.fps:g} fps"
    if frames.is_live:
        return f"live, {text}"
    if frames.source_frames is not None:
        first, last = frames.source_frames[[0, -1]]
        text += f" (frames {first} to {last}, {frames.source_times_s[0]:.2f} to {frames.source_times_s[-1]:.2f} s)"
    return f"{len(frames)} frames, {text}"


def _ground_live(
    name: str, sentence: str, out: Path, overwrite: bool, load: Callable[[], VideoGrounder], settings: dict[str, Any],
    trace: Path | None,
) -> tuple[Path, str]:  # fmt: skip
    """As `ground_and_save`, from a source whose frames come once: it ends by itself, by `--end`, or by Ctrl-C.

    What came is recorded beside `out` until it is saved there, so that a killed run loses masks, and no frames.
    """
    from videomolmo.grounding import check_settings, drained
    from videomolmo.io.command_line import ending_in_order
    from videomolmo.io.sources import open_source

    record = _told_recording(out)
    frames = open_source(name, **{name: settings[name] for name in READ})
    try:
        print(f"{frames.name}: {described(frames)}; Ctrl-C ends it, and what there is then is saved", flush=True)
        grounder = load()
        own = {name: value for name, value in settings.items() if name not in READ}
        with profiled(grounder, trace), ending_in_order(frames.close):
            read = {name: settings[name] for name in READ}
            checked = check_settings(**own)
            result = drained(grounder.steps(frames, sentence, checked, read, progress=True, record=record))
            saved = save(result, out, overwrite), result.summary()
        record.unlink()
        return saved
    finally:
        frames.close()
        if record.exists():
            print(f"videomolmo: {_going_on_from(record)}", file=sys.stderr)


def _told_recording(out: Path) -> Path:
    """An unused name beside `out` for the frames of a live source, after a line on what earlier runs left there."""
    names = (out.with_name(f"{out.name}.recorded{n}.mp4") for n in ("", *(f".{n}" for n in range(1, 1000))))
    for path in names:
        if not path.exists():
            return path
        print(_going_on_from(path))
    raise BadInput(f"{path} and all names like it are taken; ground what was recorded there, or remove it")


def _going_on_from(record: Path) -> str:
    """How to ground what a run that did not end has recorded."""
    return (
        f"{record} holds what was recorded and not saved; `videomolmo ground {shlex.quote(str(record))} …` grounds it"
    )


def ground_and_save(
    grounder: VideoGrounder, video: str, sentence: str, out: Path | None, overwrite: bool,
    settings: dict[str, Any], opened: Frames | None = None, place: str = "results/ground",
) -> Generator[int, None, tuple[Path, str]]:  # fmt: skip
    """The folder with the result, and its summary, after the steps of `VideoGrounder.steps`.

    Args:
        grounder: with its models.
        video, sentence: as for a grounder.
        out: where the result goes; None: where the same run was stopped, else `place`, ground.1 or so.
        overwrite: whether it may replace earlier results.
        settings: further arguments of a grounder.
        opened: the video, to go through it step by step, without bars; without it there are bars, and no steps.

    Raises:
        BadInput: as a grounder's, or `out` may not be written, or what lies unfinished beside it is another run's.
    """
    from videomolmo.grounding import check_settings
    from videomolmo.io.cache import key_of
    from videomolmo.io.files import UNFINISHED, check_folder, remove_abandoned
    from videomolmo.masks.unfinished import unfinished

    asked = _asked(grounder, video, sentence, settings)
    out = out or (Path(place) if overwrite else _own_place(Path(place), asked))
    remove_abandoned(out.parent, UNFINISHED)
    with unfinished(out, asked) as kept:
        try:
            replaces = overwrite or kept.may_replace(out)
            check_folder(out, overwrite=replaces, source=video)
            if opened is None:
                result = grounder(video, sentence, **settings, progress=True, kept=kept)
            else:
                checked = check_settings(**{name: value for name, value in settings.items() if name not in READ})
                read = {name: settings[name] for name in READ}
                result = yield from grounder.steps(opened, sentence, checked, read, kept=kept)
        except BadInput:
            kept.remove()  # it would be refused again
            raise
        except KeyboardInterrupt as error:
            error.with_traceback(None)  # so that bars end now, and not after the line that tells of it
            if kept.answers:
                error.add_note(f"frames before {kept.reached} are done, and the same command goes on from there")
            raise
        result.config["asked_sha256"] = key_of(asked)
        kept.saves()
        folder, summary = save(result, out, replaces), result.summary()
        kept.remove()
    return folder, summary


def is_saved(grounder: VideoGrounder, video: str, sentence: str, folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds the result of `ground_and_save` for this, and nothing is left to be tidied up."""
    from videomolmo.io.cache import key_of
    from videomolmo.io.untrusted import read_json
    from videomolmo.masks.unfinished import place_of

    if place_of(folder).exists() or not (folder / "run.json").is_file():
        return False
    return read_json(folder / "run.json").get("asked_sha256") == key_of(_asked(grounder, video, sentence, settings))


def _asked(grounder: VideoGrounder, video: str, sentence: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides a result, in JSON values."""
    from videomolmo.io.plain_values import as_json
    from videomolmo.io.provenance import commit, versions
    from videomolmo.masks.unfinished import video_identity

    asked = {"sentence": sentence, **video_identity(video), **settings, "model": grounder.describe(settings["context"]),
             "loaded": grounder.loaded, "weights_sha256": grounder.weights, "versions": versions(),
             "commit": commit()}  # fmt: skip
    return json.loads(json.dumps(asked, default=as_json))


def _own_place(folder: Path, asked: dict[str, Any]) -> Path:
    """The first name for results of a run that was stopped and asked the same, else the first that nothing has."""
    from videomolmo.io.files import try_lock
    from videomolmo.io.provenance import SETTINGS
    from videomolmo.io.untrusted import read_json
    from videomolmo.masks.unfinished import place_of

    for path in names_for(folder):
        place = place_of(path)
        if not (path.exists() or place.exists()):
            return path
        with suppress(OSError, BadInput):
            if read_json(place / SETTINGS) == asked and (lock := try_lock(place)) is not None:
                lock.release()  # or a living process is at it
                return path
    raise BadInput(f"{folder} and a thousand names like it are taken; give a folder with --out")


def save(result: GroundingResult, folder: Path, overwrite: bool) -> Path:
    """Save where it was asked for, or beside it if somebody else wrote there meanwhile: the work is not thrown away."""
    try:
        return result.save(folder, overwrite=overwrite)
    except BadInput as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise
        print(f"videomolmo: {error}", file=sys.stderr)
        return result.save(unused(folder))


def unused(folder: Path) -> Path:
    """A folder, or where there is something of its name: that with .1, .2 and so on behind it."""
    return next(path for path in names_for(folder) if not path.exists())


def names_for(folder: Path) -> Iterator[Path]:
    """A folder, and a thousand others with .1, .2 and so on behind its name."""
    yield folder
    yield from (folder.with_name(f"{folder.name}.{n}") for n in range(1, 1000))
