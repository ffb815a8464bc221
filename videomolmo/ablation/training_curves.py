"""Learning curves of a run of `videomolmo train-nano` as one table, which notebook 03 draws.

    python -m videomolmo.ablation.training_curves RUN_FOLDER --out data/ablations

reads the logs of all stages at 96 pixels and writes training_curves.csv and, beside it, training_curves.json: what made
the run (seed, commit, versions, as its recipe.json says), on which machine, and the table's hash.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from videomolmo.errors import BadInput
from videomolmo.provenance import sha256
from videomolmo.tables import write_csv
from videomolmo.whole_files import write_json

TABLE = "training_curves.csv"
MEASURES = ("shape", "place", "motion", "text", "first", "more", "tens")  # see `training.pointing` and `.guidance`
COLUMNS = ("stage", "step", "total_step", *MEASURES)


def read_recipe(run: Path) -> dict[str, Any]:
    """What made a finished run: seed, share, kind of temporal module, stages, versions, commit.

    Raises:
        BadInput: `run` is no folder of `train-nano`, or its stages at 96 pixels are not done.
    """
    path = Path(run) / "pointing_96" / "recipe.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{path} cannot be read, expected what `videomolmo train-nano` writes there when done") from None


def curves(run: Path, recipe: Mapping[str, Any]) -> pd.DataFrame:
    """What the logs say, every fifty steps of every stage, in order.

    Args:
        run: folder of `train-nano`.
        recipe: see `read_recipe`.

    Returns:
        A table with `COLUMNS`: steps of the stage and from the first stage on; means over the steps since the row
        before, where the stage measures them. Of steps that were run again after a stop, the last counts.

    Raises:
        BadInput: a stage has no log.
    """
    rows, before = [], 0
    for stage in recipe["stages"]:
        if recipe["temporal"] == "none" and stage["past"] and not stage["language"]:
            continue  # trains nothing but the temporal module
        log = Path(run) / (f"{stage['name']}_{recipe['temporal']}" if stage["past"] else stage["name"]) / "log.jsonl"
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        last = {line["step"]: line for line in map(json.loads, text.splitlines()) if "step" in line}
        if not last:
            raise BadInput(f"{log} is not there or empty, expected the log of stage {stage['name']!r}")
        rows += [last[step] | {"stage": stage["name"], "total_step": before + step} for step in sorted(last)]
        before += max(last)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def write(run: Path, out: Path, machine: str | None = None) -> Path:
    """training_curves.csv of the run and training_curves.json in the folder `out`; returns the CSV's path.

    Args:
        run: folder of `train-nano`.
        out: made where missing.
        machine: that the run was trained on; needed where its recipe.json does not say.
    """
    recipe = read_recipe(run)
    path = write_csv(curves(run, recipe), out / TABLE)
    told = {"machine": machine} if machine else {}
    made_by = {name: value for name, value in recipe.items() if name != "stages"}
    write_json(path.with_suffix(".json"), {"machine": "not recorded"} | made_by | told | {"sha256": sha256(path)})
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table of a run; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `videomolmo train-nano --out` wrote")
    parser.add_argument("--out", type=Path, default=Path("results/training_curves"), help="default: %(default)s")
    parser.add_argument("--machine", help="that the run was trained on, in words")
    options = parser.parse_args(arguments)
    try:
        print(write(options.run, options.out, options.machine))
    except BadInput as error:
        print(f"training_curves: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
