"""Options that several commands share."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from videomolmo.io.cluster import CLUSTERS
from videomolmo.io.command_line import as_float, as_int, at_least_one
from videomolmo.weights.hub import SHIPPED


def opt(help: str, metavar: str, values: str = "", **more: Any) -> Any:
    """An option; `values` are for the shell's completion alone: what is none of them is refused where it is used."""
    if values:
        more["autocompletion"] = lambda: values.split()
    return Option(metavar=metavar, help=help, **more)


whole, number = partial(opt, parser=as_int), partial(opt, parser=as_float)


def file(help: str, metavar: str = "DIR", **more: Any) -> Any:
    return Option(parser=Path, metavar=metavar, help=help, **more)  # typer's own would ask the disk first


def rules() -> list[str]:
    from videomolmo.fusion import RULES

    return list(RULES)


def datasets() -> list[str]:
    from videomolmo.datasets import DATASETS

    return list(DATASETS)


MODELS, RUNNING, REPORT, MANY = (
    {"rich_help_panel": panel} for panel in ("Models", "Running", "Report", "Several at once")
)
scheduler = partial(opt, "Dask scheduler, such as tcp://node1:8786.", "ADDRESS")
cluster = partial(opt, "Dask workers by slurm, pbs, sge, lsf …", "NAME", " ".join(CLUSTERS))
TYPES = "float32 bfloat16 float16"
Model = Annotated[str, opt(f"{', '.join(SHIPPED)}, a folder, hub id[@revision].", "MODEL", " ".join(SHIPPED), **MODELS)]
Masks = Annotated[str, opt("SAM 2: nano, a folder, .pt file, or hub id.", "MODEL", "nano", **MODELS)]
Every = Annotated[int, whole("Frames from one key frame to the next.", "K", callback=at_least_one)]
Fusion = Annotated[str, Option(metavar="RULE", help="Which fuses the masks of both directions.", autocompletion=rules)]
Tau = Annotated[float, number("IoU from which both directions agree (rule iou).", "IOU")]
Past = Annotated[int | None, whole("Past frames used (default: the model's).", "L", callback=at_least_one, **MODELS)]
Device = Annotated[str, opt("auto, cpu, cuda, or mps (untried).", "DEVICE", "auto cpu cuda mps", **MODELS)]
Quantize = Annotated[str | None, opt("8bit or 4bit weights (needs bitsandbytes).", "KIND", "8bit 4bit", **MODELS)]
Benchmark = Annotated[str, Option(metavar="NAME", help="A name of `videomolmo data list`.", autocompletion=datasets)]
DataPath = Annotated[Path | None, file("The data set's folder (default: $VIDEOMOLMO_DATA/NAME).")]
Split = Annotated[str | None, opt("Which part of the data set.", "SPLIT")]
Limit = Annotated[int | None, whole("Only the first N clips.", "N")]
Resumed = Annotated[Path, file("Folder to write, or to resume in.")]
Start = Annotated[str | None, opt("From here: 12.5 (s), 1:30, or 57f (a frame).", "TIME")]
End = Annotated[str | None, opt("To before here; ends a live source.", "TIME")]
Fps = Annotated[float | None, number("Frames a second, at most (default: all).", "N")]
MaxFrames = Annotated[int | None, whole("Only the first N frames.", "N", callback=at_least_one)]
Reader = Annotated[str, opt("pyav or decord.", "READER", "pyav decord")]
