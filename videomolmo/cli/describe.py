"""The command `describe`: what is in a video, in words, with the masks of every phrase."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from videomolmo.errors import BadInput
from videomolmo.io.command_line import FULL

if TYPE_CHECKING:
    from videomolmo.results import GroundingResult

QUESTION = "Describe the video."


def describe(
    video: Annotated[str, Argument(metavar="VIDEO", help="Video file or folder of images.")],
    question: Annotated[str, Argument(metavar="QUESTION", help="What to tell of it.")] = QUESTION,
    model: Annotated[str, Option(metavar="MODEL", help="nano-glamm, or a folder or hub id.")] = "nano-glamm",
    out: Annotated[Path | None, Option(parser=Path, metavar="DIR", help="Folder (default: results/describe).")] = None,
    branch: Annotated[str | None, Option(metavar="KIND", help="each-frame (default) or first-frame.")] = None,
    device: Annotated[str, Option(metavar="DEVICE", help="auto, cpu, cuda, or mps (untried).")] = "auto",
    dtype: Annotated[str, Option(metavar="TYPE", help="Precision; auto: by device.")] = "auto",
    offline: Annotated[bool, Option("--offline", help="Use only what was downloaded before.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace earlier results in DIR.")] = False,
) -> None:
    """Tell what is in VIDEO, each phrase with its masks.

    Writes what `ground` writes; run.json holds the caption with its phrases.
    """
    from videomolmo.io.files import check_folder
    from videomolmo.io.video import open_video
    from videomolmo.systems import load_grounder

    out = out or (Path("results/describe") if overwrite else unused(Path("results/describe")))
    folder = check_folder(out, overwrite=overwrite, source=video)
    with open_video(video) as frames:
        print(f"{Path(video).name}: {len(frames)} frames, {frames.width}×{frames.height}, {frames.fps:g} fps")
    options = {} if branch is None else {"branch": branch}
    grounder = load_grounder(model, device=device, dtype=dtype, offline=offline, **options)
    if grounder.segmenter is None:
        raise BadInput(
            f"--model {model}: points at what is named, expected a VideoGLaMM, which describes; use `ground`"
        )
    result = grounder(video, question, progress=True)
    folder = save(result, folder, overwrite)
    print(result.summary())
    print(f"written to {folder}: answers.jsonl, tracks.csv, masks/, overlay.mp4, run.json")


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
