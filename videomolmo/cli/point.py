"""The commands `point` and `count`: a question about a whole video, answered once with times and places."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from videomolmo.cli.ground import save, unused

Video = Annotated[str, Argument(metavar="VIDEO", help="Video file or folder of images.")]
Model = Annotated[str, Option(metavar="MODEL", help="nano-molmo2, or a folder or hub id of a Molmo 2.")]
Out = Annotated[Path | None, Option(parser=Path, metavar="DIR", help="Folder (default: results/COMMAND).")]
Device = Annotated[str, Option(metavar="DEVICE", help="auto, cpu, cuda, or mps (untried).")]
Dtype = Annotated[str, Option(metavar="TYPE", help="Precision; auto: by device.")]
Offline = Annotated[bool, Option("--offline", help="Use only what was downloaded before.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace earlier results in DIR.")]


def asking(task: str, told: str, what: Any) -> Callable[..., None]:
    """A command that asks about a whole video.

    Args:
        task: its name.
        told: its help.
        what: annotation of the words that are asked.
    """

    def ask(
        video: Video, sentence: what, model: Model = "nano-molmo2", out: Out = None, device: Device = "auto",
        dtype: Dtype = "auto", offline: Offline = False, overwrite: Overwrite = False,
    ) -> None:  # fmt: skip
        _ask(task, video, sentence, model, out, overwrite, {"device": device, "dtype": dtype, "offline": offline})

    ask.__name__, ask.__doc__ = task, told
    return ask


point = asking(
    "point",
    """Point at what SENTENCE names in VIDEO: when and where, and how many.

    Writes what `ground` writes, without masks; run.json holds the whole answer.
    """,
    Annotated[str, Argument(metavar="SENTENCE", help="Such as 'every time the circle touches the bar'.")],
)
count = asking(
    "count",
    """Count what QUESTION asks for in VIDEO, with times and places.

    Writes what `point` writes.
    """,
    Annotated[str, Argument(metavar="QUESTION", help="Such as 'how often does it turn?', or 'red circles'.")],
)


def _ask(task: str, video: str, sentence: str, model: str, out: Path | None, overwrite: bool, models: dict) -> None:
    """Ask once, tell, and save."""
    from videomolmo.io.files import check_folder
    from videomolmo.io.video import open_video
    from videomolmo.protocols import as_question

    as_question(sentence)
    out = out or (Path(f"results/{task}") if overwrite else unused(Path(f"results/{task}")))
    folder = check_folder(out, overwrite=overwrite, source=video)
    with open_video(video) as frames:
        print(f"{Path(video).name}: {len(frames)} frames, {frames.width}×{frames.height}, {frames.fps:g} fps")
    from videomolmo.systems import load_grounder
    from videomolmo.systems.whole_video import point_in_video, told

    result = point_in_video(load_grounder(model, **models), video, sentence, count=task == "count")
    folder = save(result, folder, overwrite)
    print(f"{told(result)}\nwritten to {folder}: answers.jsonl, overlay.mp4, run.json")
