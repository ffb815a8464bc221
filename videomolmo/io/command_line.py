"""A command line that behaves: options anywhere, one line for what is refused, signals that end it in order."""

import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from videomolmo.errors import BadInput, Terminated

UsageError = typer.BadParameter.__base__  # its home differs between versions of typer
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RENAMED = {"--most-points": "--max-points", "--bound": "--iou-threshold", "--least": "--min-iou"}  # old names work too
ENDING_S = 10.0  # in which what asks again to end is not heard: `timeout` sends its signal twice


def run(app: typer.Typer, name: str, argv: Sequence[str]) -> int:
    """Run a command of `app`, which `name` starts; returns the exit code, 2 after one line where the input was refused.

    Ctrl-C, SIGTERM and SIGHUP end it in order, with 128 and their number: nothing temporary stays.

    Raises:
        SystemExit: with 2, after one line, where the arguments fit no command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal or file that knows no “×” is no reason to stop
    try:
        with _ended_in_order():
            code = _run(app, name, list(argv))
        sys.stdout.flush()  # here, where a reader that went away is still noticed
        return code
    except BadInput as error:
        return _told(name, str(error), 2)
    except UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        line = " ".join(error.format_message().split()).removesuffix(".")
        raise SystemExit(_told(name, f"{line}; see `{path} --help`", 2)) from None
    except BrokenPipeError:  # whoever read the output went away: nothing is wrong with the input
        _drop_output()
        return 141
    except OSError as error:
        with suppress(ValueError):  # closed
            try:
                sys.stdout.flush()
            except OSError:
                _drop_output()
        return _told(name, _line_of(error, next(iter(argv), "")), 2)
    except Terminated as error:
        return _told(name, f"ended by {signal.Signals(error.number).name}{_going_on(error)}", 128 + error.number)
    except KeyboardInterrupt as error:
        return _told(name, f"interrupted{_going_on(error)}", 130)


def _going_on(error: KeyboardInterrupt) -> str:
    """How to go on, where whoever was stopped has noted that (`add_note`)."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _drop_output() -> None:
    """What is still to be written goes nowhere: the last flush, when Python ends, would fail again and say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(name: str, line: str, code: int) -> int:
    print(f"{name}: {line}", file=sys.stderr)
    return code


def _run(app: typer.Typer, name: str, words: list[str]) -> int:
    """As typer does it, whose own loop would have its own words and codes for errors and signals."""
    command = get_command(app)
    if f"_{name.upper()}_COMPLETE" in os.environ:
        command(words, prog_name=name)  # prints what the shell asked for, and ends
    try:
        with command.make_context(name, words) as context:
            return command.invoke(context) or 0
    except typer.Exit as done:
        return done.exit_code


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


@contextmanager
def ending_in_order(end: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `end` in place of what they do otherwise, the first time."""
    before = {}

    def hear(number: int, _: object) -> None:
        for other, handler in before.items():
            signal.signal(other, handler)
        before.clear()
        end()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line_of(error: OSError, command: str) -> str:
    """What the system refused: which path, or at least which command and what it was about to do."""
    remedy = "make room there" if error.errno in FULL else "check the path and who may use it"
    if isinstance(error.filename, (str, bytes)):
        return f"{os.fsdecode(error.filename)}: {error.strerror or error}; {remedy}"
    doing = "standard output or a log cannot be written" if error.errno in FULL else "stopped by the system"
    return f"{command}: {doing} ({error.strerror or error}); {remedy}"


def show_version(ctx: typer.Context, wanted: bool) -> None:
    """For an option: print the version of the package that bears the command's name, and end."""
    if wanted:
        from importlib.metadata import version

        print(f"{ctx.info_name} {version(ctx.info_name)}")
        raise typer.Exit


def as_int(text: str) -> int:
    """A whole number, or the line of a usage error."""
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a whole number") from error


def as_float(text: str) -> float:
    """A number, or the line of a usage error."""
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number") from error


def at_least_one(param: typer.CallbackParam, value: int | None) -> int | None:
    """For an option: its value.

    Raises:
        BadInput: it is smaller than 1.
    """
    if value is not None and value < 1:
        raise BadInput(f"{param.opts[0]} is {value}, expected at least 1")
    return value


class Command(TyperCommand):
    """Options may stand anywhere; a negative number, a dash alone and what has a space in it are no options."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # for completion
            return super().parse_args(ctx, args)
        known = {name: param for param in self.get_params(ctx) for name in param.opts if name.startswith("-")}
        options, words, left = [], [], list(args)
        while left:
            name, sign, value = (text := left.pop(0)).partition("=")
            name = RENAMED[name] if RENAMED.get(name) in known else name
            if text == "--":  # nothing after it is an option
                words, left = words + left, []
            elif not _is_option(text):
                words.append(text)
            else:
                options.append(name + sign + value)
                if name in known and not known[name].is_flag and not sign:
                    if not left or left[0] == "--" or _is_option(left[0]):
                        ctx.fail(f"Option '{name}' requires an argument.")
                    options.append(left.pop(0))
        return super().parse_args(ctx, [*options, "--", *words])

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:
        _write_panels(formatter, self.get_params(ctx), lambda param: param.get_help_record(ctx))


class Group(TyperGroup):
    """Commands in help stand in panels, without typer's boxes and colours, which take long to load."""

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:
        params, commands = self.get_params(ctx), [self.commands[name] for name in self.list_commands(ctx)]
        _write_panels(formatter, commands, lambda command: (command.name, command.get_short_help_str(formatter.width)))
        _write_panels(formatter, params, lambda param: param.get_help_record(ctx))


def _is_option(text: str) -> bool:
    name = text.partition("=")[0]
    return name.startswith("-") and name != "-" and " " not in name and not re.fullmatch(r"-\d*\.?\d+", text)


def _write_panels(formatter: Any, entries: list, record: Callable[[Any], tuple[str, str] | None]) -> None:
    panels: dict[str, list] = {}
    for entry in entries:
        kind = getattr(entry, "param_type_name", "command").capitalize() + "s"
        if (row := record(entry)) is not None:
            panels.setdefault(getattr(entry, "rich_help_panel", None) or kind, []).append(row)
    for title, rows in panels.items():
        with formatter.section(title):
            formatter.write_dl(rows)
