"""Run the fusion ablation and write its table, plots and README block; goes on where it was stopped.

    python -m videomolmo.ablation.fusion_grid --out data/ablations --cache runs/fusion_cache

makes data/ablations/fusion.csv as it is shipped: every rule, τ of `iou`, four distances between key frames, clean and
noisy clicks, on clips that no choice was made on. `--first 0 --clips 40` are the clips on which our rule was chosen.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from videomolmo import provenance
from videomolmo.ablation.fusion_report import draw, markdown
from videomolmo.ablation.fusion_scores import PAPER, Setting, clip_scores, settings
from videomolmo.ablation.fusion_table import make_table, read_table, write_table
from videomolmo.ablation.hard_clips import POINTS
from videomolmo.ablation.propagations import EVERY, encoded
from videomolmo.errors import BadInput
from videomolmo.whole_files import read_json, write_json

HELD_OUT = 10_000_000  # first seed; rules and their constants are chosen on clips of seeds from 0
CLIPS, COST_EVERY = 60, 10


def grid_scores(
    seeds: Sequence[int],
    chosen: Sequence[Setting],
    folder: Path,
    *,
    every: Sequence[int] = EVERY,
    points: Sequence[str] = POINTS,
    prepare: Sequence[int] = EVERY,
    masks: str = "nano",
) -> dict[tuple[str, int], Float[np.ndarray, "clips settings 2"]]:
    """J and F of every clip and setting, by kind of clicks and distance of key frames.

    Args:
        seeds: of the clips.
        chosen: rules with their τ, see `fusion_scores.settings`.
        folder: of the cache.
        every: frames between key frames, each on its own.
        points: kinds of clicks.
        prepare: see `clip_scores`.
        masks: name of a SAM 2.

    Raises:
        BadInput: no clip, a negative seed, or a distance between key frames that leaves no frame between them.
    """
    if not seeds or min(seeds) < 0 or any(not 2 <= k <= 30 for k in every):
        asked = f"{len(seeds)} clips from seed {seeds[0] if seeds else '–'} with k = {list(every)}"
        raise BadInput(f"{asked}: expected at least one clip, seeds from 0, and k from 2 to 30")
    cells = [(kind, k) for kind in points for k in every]
    scores = {cell: np.empty((len(seeds), len(chosen), 2)) for cell in cells}
    order = np.random.default_rng(list(every)).permutation(len(seeds))  # runs side by side begin with other clips
    for n in tqdm(order.tolist(), desc="fusion grid", unit="clip"):
        for kind, k in cells:
            scores[kind, k][n] = clip_scores(seeds[n], kind, k, chosen, folder, prepare=prepare, masks=masks)
    return scores


def measure_cost(clips: int, masks: str = "nano", first: int = HELD_OUT) -> dict[str, float]:
    """Processor seconds of one cell and of the whole grid on the same clips, each with an empty cache.

    The cell is the paper's: rule `iou`, τ = 0.7, k = 10, clean clicks.
    """
    seeds = range(first, first + clips)
    runs = {
        "loading": (seeds[:1], [PAPER], [COST_EVERY], ["clean"]),  # loads the weights, which belong to neither
        "cell": (seeds, [PAPER], [COST_EVERY], ["clean"]),
        "grid": (seeds, settings(), EVERY, POINTS),
    }
    seconds = {}
    for name, (some, chosen, every, points) in runs.items():
        encoded.cache_clear()
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            grid_scores(some, chosen, Path(folder), every=every, points=points, prepare=every, masks=masks)
            seconds[name] = round(time.process_time() - begun, 2)
    cells = len(settings()) * len(EVERY) * len(POINTS)
    ratio = round(seconds["grid"] / seconds["cell"], 2)
    return {"clips": clips, "cells": cells, "cell_s": seconds["cell"], "grid_s": seconds["grid"], "ratio": ratio}


def write_all(out: Path, scores: dict, chosen: Sequence[Setting], seeds: Sequence[int], cost: dict | None) -> Path:
    """fusion.csv, fusion.json (versions, cost) and the plots in `out`; returns the CSV's path."""
    facts = {"commit": provenance.commit() or "unknown", "machine": provenance.machine()}
    path = write_table(make_table(scores, chosen, seeds, facts), out / "fusion.csv")
    draw(path)
    known = out / "fusion.json"
    before = read_json(known) or {}
    about = {"versions": provenance.versions(), **facts, "cost": cost or before.get("cost")}
    write_json(known, about)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, or measure its cost, or print the README's block of a table that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/fusion"), help="folder (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/fusion_cache"), help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=CLIPS, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=HELD_OUT, help="seed of the first clip (default: %(default)s)")
    parser.add_argument("--masks", default="nano", help="SAM 2: 'nano' or a folder like data/nano/masks")
    parser.add_argument("--cost", type=int, default=0, metavar="N", help="measure the cost on N clips first")
    parser.add_argument("--readme", action="store_true", help="only print the README's block of OUT/fusion.csv")
    options = parser.parse_args(argv)
    try:
        if not options.readme:
            seeds, chosen = range(options.first, options.first + options.clips), settings()
            cost = measure_cost(options.cost, options.masks) if options.cost else None
            scores = grid_scores(seeds, chosen, options.cache, masks=options.masks)
            write_all(options.out, scores, chosen, seeds, cost)
        print(markdown(read_table(options.out / "fusion.csv")))
    except BadInput as error:
        print(f"fusion_grid: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
