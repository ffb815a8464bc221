"""The command line: `videomolmo ground` and its kin; commands on data sets are in files of their own."""

import argparse
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videomolmo import data_cli, sweep_cli, train_cli, work_cli
from videomolmo.errors import BadInput, Terminated

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ENDING_S = 10.0  # in which what asks again to end is not heard: `timeout` sends its signal twice

if TYPE_CHECKING:
    from videomolmo.results import GroundingResult


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 when the input was refused (one line on standard error).

    Ctrl-C, SIGTERM and SIGHUP end it in order, with 128 and their number: nothing temporary stays.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal or file that knows no “×” is no reason to stop
    try:
        with _ended_in_order():
            options = _parser().parse_args(argv)
            code = options.run(options)
        sys.stdout.flush()  # here, where a reader that went away is still noticed
        return code
    except BadInput as error:
        print(f"videomolmo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output went away: nothing is wrong with the input
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor will there be at the last flush
        return 141
    except OSError as error:
        print(f"videomolmo: {_line_of(error, argv)}", file=sys.stderr)
        return 2
    except Terminated as error:
        print(f"videomolmo: ended by {signal.Signals(error.number).name}", file=sys.stderr)
        return 128 + error.number
    except KeyboardInterrupt:
        print("videomolmo: interrupted", file=sys.stderr)
        return 130


class Command(argparse.ArgumentParser):
    """Options may stand anywhere, also between two arguments, where Python's parser takes the second for one too many.

    It is shown the options first, which all take one value or none.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> tuple:
        if args is None or any(action.nargs == argparse.PARSER for action in self._actions):
            return super().parse_known_args(args, namespace)  # commands of its own, whose options these may be
        options, others, left = [], [], list(args)
        while left:
            text = left.pop(0)
            if text == "--":  # nothing after it is an option
                others, left = others + left, []
            elif self._is_option(text):
                options.append(text)
                if self._wants_value(text) and left and left[0] != "--":
                    options.append(left.pop(0))
            else:
                others.append(text)
        return super().parse_known_args([*options, "--", *others] if others else options, namespace)

    def _is_option(self, text: str) -> bool:
        """As Python's parser sees it: a dash alone, a negative number, and what has a space is none."""
        name = text.partition("=")[0]
        return name.startswith("-") and name != "-" and " " not in name and not re.fullmatch(r"-\d*\.?\d+", text)

    def _wants_value(self, text: str) -> bool:
        """Whether the value of this option, which may be shortened, is the next argument."""
        known = self._option_string_actions
        meant = [known[text]] if text in known else [known[name] for name in known if name.startswith(text)]
        return "=" not in text and any(action.nargs != 0 for action in meant)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Signals that end a process at once raise `Terminated` instead, so that it puts its things away."""
    asked = 0.0

    def end(number: int, _: object) -> None:
        nonlocal asked
        if not asked or time.monotonic() - asked > ENDING_S:
            asked = time.monotonic()
            raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # not under nohup
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        if not asked:  # else the process ends, and what it still removes is not to be disturbed
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)


def _line_of(error: OSError, argv: Sequence[str] | None) -> str:
    """What the system refused: which path, or at least which command and what it was about to do."""
    remedy = "make room there" if error.errno in FULL else "check the path and who may use it"
    if isinstance(error.filename, (str, bytes)):
        return f"{os.fsdecode(error.filename)}: {error.strerror or error}; {remedy}"
    command = next(iter(sys.argv[1:] if argv is None else argv), "")
    doing = "standard output or a log cannot be written" if error.errno in FULL else "stopped by the system"
    return f"{command}: {doing} ({error.strerror or error}); {remedy}"


def _parser() -> argparse.ArgumentParser:
    parser = Command(prog="videomolmo", description="Point at what a sentence names in a video.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ground = commands.add_parser(
        "ground", help="points, masks and tracks of what a sentence names",
        description="Find what SENTENCE names in VIDEO. Without both: the shipped sample clip.",
    )  # fmt: skip
    ground.add_argument("video", nargs="?", metavar="VIDEO", help="video file or folder of images")
    ground.add_argument("sentence", nargs="?", metavar="SENTENCE", help="for example 'the red circle'")
    ground.add_argument("--out", default="results/ground", metavar="DIR", help="where to write (default: %(default)s)")
    ground.add_argument(
        "--model", default="nano", help="'nano', 'nano-96', a folder, or a hub id[@revision]; also of a Molmo 2"
    )
    ground.add_argument("--masks", default="nano", help="SAM 2: 'nano', a folder, .pt, or hub id (default: nano)")
    ground.add_argument("--every", type=_whole, default=5, metavar="K", help="frames between key frames (default: 5)")
    ground.add_argument("--fusion", default="iou", metavar="RULE", help="how both directions are fused (default: iou)")
    ground.add_argument("--tau", type=_number, default=0.7, help="IoU from which both directions agree (default: 0.7)")
    ground.add_argument("--context", type=_whole, default=None, metavar="L", help="past frames looked at (default: 4)")
    ground.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    ground.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (default: by device and model)")
    ground.add_argument("--quantize", default=None, metavar="KIND", help="8bit or 4bit weights (needs bitsandbytes)")
    ground.add_argument("--attention", default="sdpa", help="sdpa, eager or flash_attention_2 (default: sdpa)")
    ground.add_argument("--device-map", default=None, metavar="MAP", help="auto: spread the model over all GPUs")
    ground.add_argument("--offline", action="store_true", help="use only what was downloaded before")
    ground.add_argument("--max-frames", type=_whole, default=None, metavar="N", help="read only the first N frames")
    ground.add_argument("--reader", default="pyav", help="pyav or decord (default: pyav)")
    ground.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    ground.set_defaults(run=_ground)
    train = commands.add_parser("train-nano", help="train the shipped weights from nothing; resumes where it stopped")
    train.add_argument("--out", default="runs/nano", metavar="DIR", help="working folder (default: %(default)s)")
    train.add_argument("--only", choices=("pointing", "masks"), default=None, help="train one of the two models")
    train.add_argument("--temporal", default="cross_attention", help="temporal module of the pointing model")
    train.add_argument("--threads", type=_whole, default=2, help="CPU threads (default: %(default)s)")
    train.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    train.add_argument("--share", type=_number, default=1.0, help="share of all steps, for a quick trial (default: 1)")
    train.set_defaults(run=_train)
    for name, run, text in (
        ("convert", _convert, "published weights (a folder or hub id) into this package's format"),
        ("export", _export, "weights of this package's format under the published names"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("source", metavar="SOURCE", help="where the weights are")
        command.add_argument("target", type=Path, metavar="TARGET", help="folder to write; must be new or empty")
        command.set_defaults(run=run)
    guess = commands.add_parser("estimate", help="memory that a model needs for a clip, before anything is loaded")
    guess.add_argument("--model", default=None, help="'nano' (default), a folder, VideoMolmo's or Molmo-7B-D's hub id")
    guess.add_argument("--video", default=None, metavar="VIDEO", help="the clip (default: the shipped sample)")
    guess.add_argument("--every", type=_whole, default=None, metavar="K", help="frames between key frames (default: 5)")
    guess.add_argument("--dtype", default=None, help="float32, bfloat16 (default) or float16")
    guess.add_argument("--context", type=_whole, default=None, metavar="L", help="past frames (default: the model's)")
    guess.add_argument("--quantize", default=None, metavar="KIND", help="8bit or 4bit weights")
    guess.set_defaults(run=_estimate)
    data_cli.add_commands(commands)
    work_cli.add_commands(commands)
    sweep_cli.add_commands(commands)
    train_cli.add_commands(commands)
    commands.choices["convert"].add_argument("--dtype", default=None, help="precision to write (default: as it is)")
    commands.choices["export"].add_argument("--shard-size", default="5GB", help="of one file (default: %(default)s)")
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _ground(options: argparse.Namespace) -> int:
    from videomolmo.fusion import check_rule
    from videomolmo.io.files import check_folder
    from videomolmo.io.video import open_video
    from videomolmo.prompts import as_question
    from videomolmo.weights import hub

    video, sentence = options.video, options.sentence
    if video is None:
        video, sentence = hub.sample_clip(), hub.SAMPLE_SENTENCE
    if sentence is None:
        raise BadInput(f"a sentence is missing; say what to look for in {video}, for example 'the red circle'")
    as_question(sentence)
    for name, value in (
        ("--every", options.every),
        ("--max-frames", options.max_frames),
        ("--context", options.context),
    ):
        if value is not None and value < 1:
            raise BadInput(f"{name} is {value}, expected at least 1")
    check_rule(options.fusion, options.tau)
    folder = check_folder(options.out, overwrite=options.overwrite, source=video)
    with open_video(video, reader=options.reader, max_frames=options.max_frames) as frames:
        print(f"{Path(video).name}: {len(frames)} frames, {frames.width}×{frames.height}, {frames.fps:g} fps")
    from videomolmo.systems.molmo2 import load_grounder

    grounder = load_grounder(
        options.model, options.masks, options.device, dtype=options.dtype, quantize=options.quantize,
        attention=options.attention, device_map=options.device_map, offline=options.offline,
    )  # fmt: skip
    result = grounder(
        video, sentence, every=options.every, fusion=options.fusion, tau=options.tau, context=options.context,
        max_frames=options.max_frames, reader=options.reader, progress=True,
    )  # fmt: skip
    folder = _save(result, folder, options.overwrite)
    print(result.summary())
    print(f"written to {folder}: answers.jsonl, tracks.csv, masks/, overlay.mp4, run.json")
    return 0


def _save(result: "GroundingResult", folder: Path, overwrite: bool) -> Path:
    """Save where it was asked for, or beside it if somebody else wrote there meanwhile: the work is not thrown away."""
    try:
        return result.save(folder, overwrite=overwrite)
    except BadInput as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise
        number = next(n for n in range(1, 1000) if not folder.with_name(f"{folder.name}.{n}").exists())
        print(f"videomolmo: {error}", file=sys.stderr)
        return result.save(folder.with_name(f"{folder.name}.{number}"))


def _train(options: argparse.Namespace) -> int:
    from videomolmo.lab.nano.recipe import train_nano

    train_nano(
        Path(options.out), only=options.only, temporal=options.temporal, threads=options.threads, seed=options.seed,
        share=options.share,
    )  # fmt: skip
    return 0


def _convert(options: argparse.Namespace) -> int:
    from videomolmo.weights import hub
    from videomolmo.weights.checkpoint import convert, dtype_of

    _check_new(options.target)
    model = convert(hub.pointing_folder(options.source), options.target, options.dtype and dtype_of(options.dtype))
    print(f"written to {options.target}: {sum(p.numel() for p in model.parameters()):,} parameters")
    return 0


def _export(options: argparse.Namespace) -> int:
    from videomolmo.weights import hub
    from videomolmo.weights.checkpoint import export

    _check_new(options.target)
    export(hub.pointing_folder(options.source), options.target, options.shard_size)
    print(f"written to {options.target}: {', '.join(sorted(path.name for path in options.target.iterdir()))}")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    if options.train is not None:
        return train_cli.estimate(options)
    train_cli.refuse(options, ("devices", "size"), "belongs to --train")
    from videomolmo.io.video import open_video
    from videomolmo.training.memory import estimate
    from videomolmo.weights import hub
    from videomolmo.weights.published import KNOWN, read_configuration

    every, model = 5 if options.every is None else options.every, options.model or "nano"
    if every < 1:
        raise BadInput(f"--every is {every}, expected at least 1")
    known = KNOWN.get(model)
    config = known() if known else read_configuration(hub.pointing_folder(model))
    with open_video(options.video or hub.sample_clip()) as video:
        size = (video.height, video.width, len(video))
    settings = {"every": every, "dtype": options.dtype or "bfloat16", "quantize": options.quantize}
    print(estimate(config, *size, **settings, context=options.context).table())
    return 0


def _check_new(folder: Path) -> None:
    from videomolmo.io.files import is_trace

    if folder.exists() and (not folder.is_dir() or not all(map(is_trace, folder.iterdir()))):
        raise BadInput(f"{folder} is there already and not empty; name a new folder, nothing was written")


if __name__ == "__main__":
    sys.exit(main())
