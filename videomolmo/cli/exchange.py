"""The commands `export` and `import`: results for other tools, and their labels as truth, as a result or as rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from videomolmo.errors import BadInput
from videomolmo.io.command_line import as_int, at_least_one

NAMES = ("coco", "yolo-seg", "mot", "mots", "davis", "cvat", "label-studio", "geojson", "csv")
READ = NAMES[:7]
KINDS = ("truth", "result", "rows")


def export(
    result: Annotated[str, Argument(metavar="RESULT", help="Folder that `ground` or `import` wrote.")],
    target: Annotated[Path | None, Argument(metavar="TARGET", help="With weights only.", parser=Path)] = None,
    to: Annotated[
        str | None, Option(metavar="FORMAT", help=f"{', '.join(NAMES)}.", autocompletion=lambda: list(NAMES))
    ] = None,
    out: Annotated[
        Path | None, Option(parser=Path, metavar="PATH", help="File or folder to write (default: RESULT.FORMAT…).")
    ] = None,
    frames: Annotated[bool, Option("--frames", help="With coco: the frames as well, in a folder beside it.")] = False,
    shard_size: Annotated[str | None, Option(metavar="SIZE", help="With weights only.")] = None,
) -> None:
    """Export masks and tracks of a result for other tools.

    Corrections by hand that lie in RESULT are in it. What a format cannot hold is printed; data/formats.md has a table.
    `videomolmo export SOURCE TARGET` without --to exports weights, which is `export-weights` now.
    """
    if to is None and target is not None:
        print("videomolmo: exporting weights is `videomolmo export-weights` now; this spelling goes", file=sys.stderr)
        write_published(result, target, shard_size or "5GB")
        return
    if to is None:
        raise BadInput(f"--to is missing; say for what {result} is exported: one of {', '.join(NAMES)}")
    if target is not None or shard_size is not None:
        raise BadInput("TARGET and --shard-size belong to weights (`export-weights`); the place is given with --out")
    from videomolmo.inspector.exports import export_labels
    from videomolmo.inspector.inspection import Inspection
    from videomolmo.io.formats.registry import named
    from videomolmo.results import GroundingResult

    suffix, folder = named(to).suffix, Path(result)
    beside = folder.parent if folder.name not in ("", "..") else folder.resolve().parent
    place = out or beside / (f"{folder.resolve().name}.{to}" + ("" if suffix == f".{to}" else suffix))
    loaded = GroundingResult.load(folder)
    if (folder / "corrections.jsonl").exists():
        with Inspection(folder) as inspection:
            lost, corrected = export_labels(inspection, to, place, frames=frames), len(inspection.history.records)
            for sentence in inspection.log.problems:
                print(f"corrections: {sentence}", file=sys.stderr)
        print(f"with {corrected} corrections by hand")
    else:
        lost = loaded.to(to, place, frames)
    print(f"written to {place}: {loaded.objects} objects on {loaded.frames} frames")
    for text in lost:
        print(f"{to} does not hold: {text}", file=sys.stderr)


def import_(
    file: Annotated[Path, Argument(metavar="FILE", help="Labels: a file, or a folder.", parser=Path)],
    kind: Annotated[str, Option("--from", metavar="FORMAT", help=f"{', '.join(READ)}.",
                                autocompletion=lambda: list(READ))],
    video: Annotated[str, Option(metavar="VIDEO", help="What was labelled: a video file or a folder of images.")],
    use: Annotated[str, Option("--as", metavar="WHAT", help="truth, result or rows.",
                               autocompletion=lambda: list(KINDS))] = "result",
    out: Annotated[Path | None, Option(parser=Path, metavar="PATH", help="Folder, or .jsonl, to write.")] = None,
    sentence: Annotated[str | None, Option(metavar="TEXT", help="What the objects are (default: their names).")] = None,
    every: Annotated[int, Option(parser=as_int, metavar="K", help="With rows: frames from one key frame to the next.",
                                 callback=at_least_one)] = 5,
    first_frame: Annotated[int | None, Option(parser=as_int, metavar="N", help="Number of FILE's first frame.")] = None,
) -> None:  # fmt: skip
    """Import labels of other tools.

    As a result: a folder to inspect, compare, score and export. As truth: the same folder, for `inspect(…, truth=…)`
    and `evaluate --benchmark imported --path`. As rows: training rows with a point for each object, and their frames.
    """
    if use not in KINDS:
        raise BadInput(f"--as is {use!r}, expected one of {', '.join(KINDS)}")
    from videomolmo.datasets.imported import import_labels
    from videomolmo.io.files import check_folder

    stem = file.resolve().stem
    place = out or Path("results") / (f"{stem}_rows.jsonl" if use == "rows" else f"{stem}_{use}")
    if use != "rows":
        check_folder(place, overwrite=False, source=video)
    elif place.exists() or place.suffix != ".jsonl":
        raise BadInput(f"{place} exists, or does not end in .jsonl; give another name with --out")
    result, notes = import_labels(
        file, kind, video, sentence=sentence, first_frame=first_frame, progress=sys.stderr.isatty()
    )
    for note in notes:
        print(note, file=sys.stderr)
    if use == "rows":
        from videomolmo.annotation.label_rows import write_rows

        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"written to {place}: {write_rows(result, place, every)} training rows")
        return
    result.save(place, overlay=use == "result")
    print(f"written to {place}: {result.objects} objects on {result.frames} frames")


def write_published(source: str, target: Path, shard_size: str) -> None:
    """Write weights under their published names, and tell of it."""
    from videomolmo.io.files import check_new
    from videomolmo.weights import checkpoint, hub

    check_new(target)
    checkpoint.export(hub.pointing_folder(source), target, shard_size)
    print(f"written to {target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
