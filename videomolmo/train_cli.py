"""`videomolmo train`: a training run from a TOML file; and what training needs in memory, for `videomolmo estimate`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from videomolmo.errors import BadInput


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register `train`."""
    train = commands.add_parser(
        "train", help="train a pointing model on data sets with points or masks; resumes where it stopped",
        description="Run CONFIG, a recipe as in data/recipes; run it again to go on. For several GPUs or processes: "
        "accelerate launch --num_processes 8 -m videomolmo.cli train CONFIG. data/training.md tells the rest.",
    )  # fmt: skip
    train.add_argument("config", type=Path, metavar="CONFIG", help="TOML file")
    train.add_argument("--out", default=None, metavar="DIR", help="folder of the run (default: the recipe's)")
    train.add_argument("--resume", type=Path, default=None, metavar="DIR", help="checkpoint (default: the newest)")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.set_defaults(run=_train)
    guess = commands.choices["estimate"]
    guess.add_argument("--train", type=Path, default=None, metavar="CONFIG", help="memory of training by this recipe")
    guess.add_argument("--devices", type=int, default=None, metavar="N", help="with --train: that train together")
    guess.add_argument("--size", default=None, metavar="WxH", help="with --train: of the frames, such as 1280x720")


def _train(options: argparse.Namespace) -> int:
    from videomolmo.training.recipe import read_recipe

    recipe = read_recipe(options.config, options.out)
    import torch

    from videomolmo.training.log import Diverged
    from videomolmo.training.trainer import train

    try:
        outcome = train(recipe, options.resume, progress=not options.quiet and sys.stderr.isatty())
    except Diverged as error:
        print(f"videomolmo: {error}", file=sys.stderr)
        return 3
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if outcome.model is not None:
        _say(f"{outcome.total} steps; the model is in {outcome.model}")
        return 0
    saved = f"saved in {outcome.checkpoint}. Run it again to go on" if outcome.checkpoint else "nothing to save yet"
    _say(f"stopped after step {outcome.step} of {outcome.total}; {saved}")
    return 128 + (outcome.stopped_by or 0)


def _say(text: str) -> None:
    """One line, from the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def refuse(options: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """BadInput where any of these options was given: it would change nothing."""
    for name in names:
        if getattr(options, name) is not None:
            raise BadInput(f"--{name} {reason}; leave it out")


def estimate(options: argparse.Namespace) -> int:
    """Print what each device must hold to train by a recipe; of the model only its configuration is read."""
    refuse(options, ("model", "every", "dtype", "context", "quantize"), "does not go with --train: the recipe says")
    from videomolmo.io.video import open_video
    from videomolmo.training.memory import training_memory
    from videomolmo.training.recipe import read_recipe
    from videomolmo.weights import hub
    from videomolmo.weights.published import KNOWN, read_configuration

    if options.size is not None:
        refuse(options, ("video",), "and --size exclude each other")
    recipe = read_recipe(options.train)
    source, run = recipe.model.source, recipe.run
    if options.size is None:
        with open_video(options.video or hub.sample_clip()) as video:
            width, height = video.width, video.height
    else:
        width, height = _size(options.size)
    config = KNOWN[source]() if source in KNOWN else read_configuration(hub.pointing_folder(source))
    config = config if recipe.model.context is None else replace(config, context=recipe.model.context)
    print(
        training_memory(
            config, height, width, recipe.learn, precision=run.precision, micro_batch=recipe.optimiser.micro_batch,
            questions=recipe.data.questions, devices=1 if options.devices is None else options.devices, shard=run.shard,
            gradient_checkpointing=run.gradient_checkpointing, quantize=recipe.model.quantize,
        ).table()
    )  # fmt: skip
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not found or not all(map(int, found.groups())):
        raise BadInput(f"--size is {text!r}, expected width x height in pixels, for example 1280x720")
    return int(found[1]), int(found[2])
