"""The order of what stands on the command line: options before, between and behind the other arguments are the same."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import seen_throughout
from small_notebooks import write_notebook
from typer.main import get_command

from videomolmo.cli import TEMPORAL, app, main
from videomolmo.io.video import VideoWriter
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.synth.clips import Clip


def orders(arguments: list[str], options: list[list[str]]) -> Iterator[list[str]]:
    """All ways to put options among arguments that keep their order."""
    for places in itertools.product(range(len(arguments) + 1), repeat=len(options)):
        line = [[] for _ in range(len(arguments) + 1)]
        for place, option in zip(places, options, strict=True):
            line[place] += option
        yield [word for at, words in enumerate(line) for word in (*words, *arguments[at : at + 1])]


COMMANDS = {
    "ground": (["nowhere.mp4", "the red circle"], [["--out", "new"], ["--overwrite"], ["--every=3"]]),
    "convert": (["nowhere/weights", "new"], [["--dtype", "bfloat16"]]),
    "export-weights": (["nowhere/weights", "new"], [["--shard-size", "1GB"]]),
    "export": (["nowhere"], [["--to", "coco"], ["--out", "new.json"]]),
    "import": (["nowhere.json"], [["--from", "coco"], ["--video", "nowhere.mp4"], ["--as=truth"]]),
    "train": (["nowhere.toml"], [["--out", "new"], ["--quiet"]]),
    "data check": (["mevis", "nowhere"], [["--split", "valid"]]),
    "data fetch": (["nowhere", "new"], [["--accept-licence"]]),
    "sweep": (["nowhere.ipynb"], [["--grid", "nowhere.toml"], ["--out", "new"], ["--dry-run"]]),
    "sweep report": (["report", "nowhere"], [["--x", "tau"], ["--where", "a=b"], ["--html", "new.html"]]),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_options_stand_anywhere(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, told = command.replace(" report", "").split(), set()
    for line in orders(*COMMANDS[command]):
        assert main([*words, *line]) == 2  # argparse would have ended the process
        told.add(capsys.readouterr().err)
    (error,) = told
    assert "nowhere" in error and not list(tmp_path.iterdir())


def test_a_clip_is_grounded_with_options_between_clip_and_sentence(clip: Clip, truthful, tiny_folder, tmp_path):
    truthful(clip, seen_throughout(clip)[:1])
    with VideoWriter(tmp_path / "clip.mp4", 10, *clip.frames.shape[1:3]) as writer:
        for frame in clip.frames:
            writer.write(frame)
    own = ["--model", tiny_folder / "pointing", "--masks", tiny_folder / "masks", "--device", "cpu"]
    line = [tmp_path / "clip.mp4", "--out", tmp_path / "out", *own, "the red circle", "--max-frames", 2]
    assert main(["ground", *map(str, line)]) == 0
    facts = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert facts["sentence"] == "the red circle" and facts["frames"] == 2


@pytest.mark.parametrize(
    "line, named",
    [
        (["--out", "new", "--", "-nowhere.mp4", "a circle"], "-nowhere.mp4: no such"),
        (["nowhere.mp4", "--out", "new", "--", "--tau"], "nowhere.mp4: no such"),
        (["nowhere.mp4", "--every", "-5", "-7"], "--every is -5"),
        (["nowhere.mp4", "--out", "new", "- the red circle"], "nowhere.mp4: no such"),
        (["nowhere.mp4", "--out", "new"], "a sentence is missing"),
    ],
)
def test_what_looks_like_an_option_is_none_where_it_cannot_be(line, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ground", *line]) == 2 and named in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, named",
    [
        (["ground", "a.mp4", "--nope", "a circle"], "--nope"), (["ground", "a.mp4", "a", "--out", "new", "b"], "(b)"),
        (["ground", "a.mp4", "b", "--out"], "--out"), (["ground", "a.mp4", "--out", "--overwrite", "b"], "--out"),
        (["convert", "--dtype", "float32", "a"], "TARGET"), (["data", "check", "--split", "valid"], "NAME"),
        (["sweep", "--dry-run"], "NOTEBOOK"), (["ground", "a.mp4", "--every", "x", "b"], "'x' is not a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_still_named(line, named, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and named in printed.err and not printed.out
    assert printed.err.startswith("videomolmo: ") and printed.err.count("\n") == 1 and "--help`" in printed.err


def test_a_sweep_is_planned_whatever_stands_first(tmp_path, capsys):
    grid: Path = tmp_path / "grid.toml"
    grid.write_text("[grid]\ntau = [0.5, 0.7]\n")
    notebook, told = write_notebook(tmp_path / "small.ipynb"), set()
    for line in orders([str(notebook)], [["--grid", str(grid)], ["--out", str(tmp_path / "out")], ["--dry-run"]]):
        assert main(["sweep", *line]) == 0
        told.add(capsys.readouterr().out)
    assert len(told) == 1 and "2 cells" in told.pop()


# Help, version, completion


def commands() -> Iterator[list[str]]:
    """All commands, those of `data` too, as words."""
    for name, command in get_command(app).commands.items():
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", ()))


@pytest.mark.parametrize("words", [[], *commands()], ids=" ".join)
def test_every_command_explains_itself_and_its_options(words, capsys):
    for option in ("--help", "-h"):
        assert main([*words, option]) == 0
    printed = capsys.readouterr()
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help and command.help.splitlines()[0].rstrip(".") in " ".join(printed.out.split())
    for param in command.params:
        assert param.help and (param.opts[0] in printed.out or param.metavar in printed.out), param.name
    for name in getattr(command, "commands", ()):
        assert f"  {name}  " in printed.out
    assert not printed.err and "..." not in printed.out.replace("[ARGS]...", "")  # no summary is too long for its line


def test_help_names_the_temporal_modules_that_there_are():
    """It cannot ask the model, which takes seconds to import."""
    assert tuple(TEMPORAL_KINDS) == TEMPORAL


def test_commands_are_shown_in_groups(capsys):
    assert main(["--help"]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Videos:", "Results:", "Data sets:", "Training and weights:", "Sweeps:", "Options:"]


def test_the_version_is_printed(capsys):
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    assert main(["--version"]) == 0
    version = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    assert capsys.readouterr().out == f"videomolmo {version}\n"


def completed(instruction: str, typed: str = "") -> list[str]:
    """Lines that a shell gets which asks for completion."""
    asked = {"_VIDEOMOLMO_COMPLETE": instruction, "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    command = [sys.executable, "-m", "videomolmo.cli"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_shells_complete_commands_options_and_values():
    assert "complete -o default -F _videomolmo_completion videomolmo" in completed("source_bash")
    assert any(line.startswith("#compdef videomolmo") for line in completed("source_zsh"))
    assert completed("complete_bash", "videomolmo train") == ["train", "train-nano"]
    assert completed("complete_bash", "videomolmo annotate --b") == ["--benchmark"]
    assert completed("complete_bash", "videomolmo ground --fusion i") == ["iou", "intersection"]


@pytest.mark.parametrize(
    "options",
    [
        ["--max-points", "3", "--iou-threshold", "0.8", "--min-iou=0.2"],
        ["--most-points", "3", "--bound", "0.8", "--least=0.2"],
    ],
    ids=["names", "former names"],
)
def test_options_of_annotate_have_the_fields_names_and_still_their_former_ones(options, monkeypatch, capsys, tmp_path):
    made = []

    def annotate(benchmark: str, path: Path | None, out: Path, settings: object, **_: object) -> dict:
        made.append(settings)
        return {"objects": {}, "rows": 0, "refused": {}}

    monkeypatch.setattr("videomolmo.annotation.annotate.annotate_dataset", annotate)
    assert main(["annotate", "--benchmark", "generated", "--out", str(tmp_path / "out"), *options]) == 0
    (settings,) = made
    assert list(vars(settings).values())[:7] == [5, 10, 3, 0.8, False, 0.2, 0]
    assert main(["annotate", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--max-points" in printed and "--most-points" not in printed and "--bound" not in printed
