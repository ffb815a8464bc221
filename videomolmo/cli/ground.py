"""What the command `ground` does with a video and a sentence: what is finished of a killed run is not done again."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomolmo.cli.describe import names_for, save, unused
from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder
    from videomolmo.io.video import Frames

READ = ("reader", "max_frames")  # settings for `open_video`


def ground_one(
    video: str, sentence: str, out: Path | None, overwrite: bool, models: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Ground one sentence in one video, and tell of it.

    Args:
        models: arguments of `load_grounder`.
        video, sentence, out, overwrite, settings: see `ground_and_save`.
    """
    from videomolmo.grounding import drained
    from videomolmo.io.files import check_folder
    from videomolmo.io.video import open_video
    from videomolmo.unfinished import place_of

    replaces = overwrite or (out is not None and place_of(out).is_dir())  # the latter is looked at with the models
    check_folder(out or unused(Path("results/ground")), overwrite=replaces, source=video)
    with open_video(video, reader=settings["reader"], max_frames=settings["max_frames"]) as frames:
        print(f"{Path(video).name}: {len(frames)} frames, {frames.width}×{frames.height}, {frames.fps:g} fps")
    from videomolmo.systems import load_grounder

    steps = ground_and_save(load_grounder(**models), video, sentence, out, overwrite, settings)
    folder, summary = drained(steps)
    print(f"{summary}\nwritten to {folder}: answers.jsonl, tracks.csv, masks/, overlay.mp4, run.json")


def ground_and_save(
    grounder: VideoGrounder, video: str, sentence: str, out: Path | None, overwrite: bool,
    settings: dict[str, Any], opened: Frames | None = None,
) -> Generator[int, None, tuple[Path, str]]:  # fmt: skip
    """The folder with the result, and its summary, after the steps of `VideoGrounder.steps`.

    Args:
        grounder: with its models.
        video, sentence: as for a grounder.
        out: where the result goes; None: where the same run was stopped, else results/ground, ground.1 or so.
        overwrite: whether it may replace earlier results.
        settings: further arguments of a grounder.
        opened: the video, to go through it step by step, without bars; without it there are bars, and no steps.

    Raises:
        BadInput: as a grounder's, or `out` may not be written, or what lies unfinished beside it is another run's.
    """
    from videomolmo.grounding import check_settings
    from videomolmo.io.cache import key_of
    from videomolmo.io.files import UNFINISHED, check_folder, remove_abandoned
    from videomolmo.unfinished import unfinished

    asked = _asked(grounder, video, sentence, settings)
    out = out or (Path("results/ground") if overwrite else _own_place(Path("results/ground"), asked))
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
    from videomolmo.unfinished import place_of

    if place_of(folder).exists() or not (folder / "run.json").is_file():
        return False
    return read_json(folder / "run.json").get("asked_sha256") == key_of(_asked(grounder, video, sentence, settings))


def _asked(grounder: VideoGrounder, video: str, sentence: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides a result, in JSON values."""
    from videomolmo.io.plain_values import as_json
    from videomolmo.io.provenance import commit, versions
    from videomolmo.unfinished import video_identity

    asked = {"sentence": sentence, **video_identity(video), **settings, "model": grounder.describe(settings["context"]),
             "loaded": grounder.loaded, "weights_sha256": grounder.weights, "versions": versions(),
             "commit": commit()}  # fmt: skip
    return json.loads(json.dumps(asked, default=as_json))


def _own_place(folder: Path, asked: dict[str, Any]) -> Path:
    """The first name for results of a run that was stopped and asked the same, else the first that nothing has."""
    from videomolmo.io.files import try_lock
    from videomolmo.io.provenance import SETTINGS
    from videomolmo.io.untrusted import read_json
    from videomolmo.unfinished import place_of

    for path in names_for(folder):
        place = place_of(path)
        if not (path.exists() or place.exists()):
            return path
        with suppress(OSError, BadInput):
            if read_json(place / SETTINGS) == asked and (lock := try_lock(place)) is not None:
                lock.release()  # or a living process is at it
                return path
    raise BadInput(f"{folder} and a thousand names like it are taken; give a folder with --out")
