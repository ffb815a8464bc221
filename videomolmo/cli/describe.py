"""The command `describe`: what is in a video, in words, with the masks of every phrase."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from videomolmo.cli.ground import ground_one
from videomolmo.cli.options import End, Fps, MaxFrames, Start
from videomolmo.cli.profile import Trace
from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from videomolmo.grounding import VideoGrounder

QUESTION = "Describe the video."


def describe(
    video: Annotated[str, Argument(metavar="VIDEO", help="Video file or folder of images.")],
    question: Annotated[str, Argument(metavar="QUESTION", help="What to tell of it.")] = QUESTION,
    model: Annotated[
        str, Option(metavar="MODEL", help="nano-glamm, or a folder or hub id of a VideoGLaMM.")
    ] = "nano-glamm",
    out: Annotated[Path | None, Option(parser=Path, metavar="DIR", help="Folder (default: results/describe).")] = None,
    branch: Annotated[
        str | None, Option(metavar="KIND", help="Masks frame by frame: each-frame (default), or followed: first-frame.")
    ] = None,
    device: Annotated[str, Option(metavar="DEVICE", help="auto, cpu, cuda, or mps (untried).")] = "auto",
    dtype: Annotated[str, Option(metavar="TYPE", help="Precision; auto: by device.")] = "auto",
    offline: Annotated[bool, Option("--offline", help="Use only what was downloaded before.")] = False,
    start: Start = None,
    end: End = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace earlier results in DIR.")] = False,
    profile: Trace = None,
) -> None:
    """Tell what is in VIDEO, each phrase with its masks.

    Writes what `ground` writes; run.json holds the caption with its phrases. Resumable as `ground` is, but the words
    are written again.
    """
    from videomolmo.io.sources import check_stretch

    options = {"device": device, "dtype": dtype, "offline": offline} | ({} if branch is None else {"branch": branch})
    settings = {"every": 5, "fusion": "iou", "tau": 0.7, "context": None, "latency": None, "max_frames": max_frames,
                "reader": "pyav", **check_stretch(start, end, fps)}  # fmt: skip
    load = partial(_describer, model, options)
    ground_one(video, question, out, overwrite, load, settings, profile, place="results/describe")


def _describer(model: str, options: dict[str, Any]) -> VideoGrounder:
    from videomolmo.systems import load_grounder

    grounder = load_grounder(model, **options)
    if grounder.segmenter is None:
        raise BadInput(
            f"--model {model} points at what is named and describes nothing, expected a VideoGLaMM such as nano-glamm; "
            "or use `ground`"
        )
    return grounder
