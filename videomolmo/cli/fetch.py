"""The command `data fetch`: a public data set by its plain URLs, or the steps to get it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from videomolmo.errors import BadInput


def fetch(
    name: Annotated[str, Argument(metavar="NAME", help="Data set, see `data list`.")],
    path: Annotated[Path | None, Argument(metavar="PATH", parser=Path,
                                          help="Its folder (default: $VIDEOMOLMO_DATA/NAME).")] = None,
    accept_licence: Annotated[bool, Option("--accept-licence", help="You read the licence and accept it.")] = False,
) -> int:  # fmt: skip
    """Fetch a data set where it has a plain URL, else tell the steps; resumable.

    Exit code: 0 when it is there, 1 where only the steps are told.
    """
    from tqdm import tqdm

    from videomolmo.datasets.fetch import fetch, told
    from videomolmo.datasets.recipes import RECIPES
    from videomolmo.datasets.registry import VARIABLE, known

    plain, dataset = known(name)
    print(told(plain))
    if plain not in RECIPES or not RECIPES[plain].archives:
        return 1
    if path is None and not os.environ.get(VARIABLE):
        raise BadInput(f"{dataset.title}: no path; give one, or set {VARIABLE} to the folder that will hold {plain!r}")
    folder = path or Path(os.environ[VARIABLE]) / plain
    if not accept_licence:
        if not sys.stdin.isatty():
            raise BadInput("the licence was not accepted; read it, and give --accept-licence if you accept it")
        if not typer.confirm("Do you accept this licence?"):
            raise BadInput("the licence was not accepted; nothing was fetched")
    bars: dict[str, tqdm] = {}

    def progress(file: str, done: int, total: int) -> None:
        if file not in bars:
            bars[file] = tqdm(
                total=total or None, desc=file, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
            )
        bars[file].update(done - bars[file].n)

    try:
        new = fetch(plain, folder, progress)
    finally:
        for bar in bars.values():
            bar.close()
    print(f"{folder}: {', '.join(new)} fetched; `videomolmo data check {plain} {folder}` looks at it" if new else
          f"{folder}: everything was there already")  # fmt: skip
    return 0
