"""The table of the caption ablation, its intervals, and its block of the README."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from videomolmo.io.tables import read_csv
from videomolmo.lab.tables import markdown_table, read_cells
from videomolmo.lab.temporal_report import interval
from videomolmo.synth.caption_scenes import BAR, GREY
from videomolmo.synth.scene import COLOURS, MOTIONS, SHAPES
from videomolmo.weights.hub import data_folder

VARIANTS = {"dual": "both encoders", "image": "CLIP alone", "video": "InternVideo2 alone"}
CELL = ("variant", "seed")  # what names a cell
SETTINGS = (
    "steps",
    "batch",
    "questions",
    "train_clips",
    "test_clips",
    "max_lr",
    "language",
)  # equal in a table
KINDS = {
    "caption: motion words": "caption: objects with their motion",
    "motion": "“what moves left?”",
    "motion sentence": "“the star that moves left”",
    "caption: objects": "caption: objects named",
    "colour": "“what is red?”",
    "appearance": "“the red star”",
}
BRANCHES = {"each-frame": "framewise (spatial)", "first-frame": "followed from the first (spatio-temporal)"}
DECODERS, SUPERVISION = "caption_decoders.csv", "caption_supervised.csv"
LEARNT, SUPERVISED = ("supervised", "seed"), (4, 8)  # what names a cell of the latter; frames of a clip
TABLES = {
    "caption_blanked.csv": "The shipped model, trained with both encoders, asked about {clips} held-out clips with one "
    "of them blanked (95 % intervals over clips):",
    "caption_encoders.csv": "Trained with one encoder blanked from the first step on, language {language}, {steps} "
    "steps, {seeds} seeds, {clips} held-out clips (95 % intervals over seeds and clips):",
    DECODERS: "Masks of the same phrases by the two decoders, {clips} held-out clips (95 % intervals over clips):",
    SUPERVISION: "Masks learnt on four or on eight of the twelve frames of a clip, {steps} steps, {seeds} seeds, "
    "{clips} held-out clips of 24 frames, framewise (95 % intervals over seeds and clips):",
}
QUOTED = {"image": (60.06, 0.395, 0.081), "video": (64.62, 0.375, 0.097), "dual": (62.34, 0.375, 0.103)}
_TOLD = re.compile(
    rf"\b({'|'.join((*COLOURS, GREY))}) ({'|'.join((*SHAPES, BAR))}) "
    rf"(?:enters and )?(stays still|moves (?:{'|'.join(MOTIONS)}))\b"
)


def motion_told(caption: str) -> dict[str, str]:
    """The motion of each object that a sentence of a caption is about, by its name.

    Example:
        >>> motion_told("A red star enters and moves left. The grey bar stays still, left of the red star.")
        {'red star': 'left', 'grey bar': 'still'}
    """
    told: dict[str, str] = {}
    for found in _TOLD.finditer(caption):
        told.setdefault(f"{found[1]} {found[2]}", found[3].split()[-1])
    return told


def numbers_as_text(values: Iterable[float]) -> str:
    """Numbers as a table's cell holds them.

    Example:
        >>> numbers_as_text([1.0, 2 / 3])
        '1 0.667'
    """
    return " ".join(f"{value:.3g}" for value in values)


def load(path: Path) -> pd.DataFrame:
    """The table of finished cells.

    Raises:
        BadInput: no table, one without a column, or with cells of different sizes.
    """
    return read_cells(path, "the table of a caption ablation", CELL, SETTINGS, "clips")


def right(table: pd.DataFrame, variant: str, kind: str, seeds: Iterable[int]) -> np.ndarray:
    """What is right of each clip's answer, float (seeds, clips)."""
    rows = table[(table["variant"] == variant) & (table["kind"] == kind)].set_index("seed")["clips"]
    return np.array([[float(value) for value in rows[seed].split()] for seed in seeds])


def seeds_of(table: pd.DataFrame, *variants: str) -> list[int]:
    """Seeds that all of these variants have been run with."""
    return sorted(set.intersection(*(set(table.loc[table["variant"] == name, "seed"]) for name in variants)))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Every variant and kind: mean with its 95 % interval over seeds and clips, numbers of both."""
    rows = []
    for variant in (name for name in VARIANTS if name in set(table["variant"])):
        for kind in KINDS:
            values = right(table, variant, kind, seeds_of(table, variant))
            mean, low, high = interval(values)
            row = {"variant": variant, "kind": kind, "value": mean, "low": low, "high": high}
            rows.append(row | {"seeds": len(values), "n": values.shape[1]})
    return pd.DataFrame(rows)


def difference(table: pd.DataFrame, one: str, other: str, kind: str) -> tuple[float, float, float] | None:
    """How much more of `kind` `one` has right than `other`, paired by seed and clip; None without a common seed."""
    seeds = seeds_of(table, one, other)
    if not seeds:
        return None
    return interval(right(table, one, kind, seeds) - right(table, other, kind, seeds))


def block(folder: Path | None = None) -> str:
    """The README's block, and the notebook's: a table for each of `TABLES` that a folder holds.

    Args:
        folder: None for the one that comes with the project.
    """
    folder, parts = data_folder() / "ablations" if folder is None else folder, []
    for name, title in TABLES.items():
        path = folder / name
        if path.is_file():
            lines = {DECODERS: decoders, SUPERVISION: supervision}.get(name, encoders)
            table = load(path) if lines is encoders else read_csv(path)
            parts += [title.format(**_counts(table)), "", *lines(table), ""]
    return "\n".join(parts)


def _counts(table: pd.DataFrame) -> dict[str, int | str]:
    seeds = table["seed"].nunique() if "seed" in table else 1
    steps = int(table["steps"].max()) if "steps" in table else 0
    language = table["language"].iloc[0] if "language" in table else ""
    return {
        "seeds": seeds,
        "steps": steps,
        "language": language,
        "clips": int(table["n"].max()) if "n" in table else table["clip"].nunique(),
    }


def encoders(table: pd.DataFrame) -> list[str]:
    """Lines in Markdown: what each variant has right, and what both encoders have right more than either alone."""
    means = summary(table).set_index(["variant", "kind"])
    shown = [name for name in VARIANTS if name in means.index]
    heads = ["what the language sees", *KINDS.values(), "*quoted* mIoU, recall, METEOR"]
    rows = [
        [VARIANTS[name], *(_cell(*means.loc[(name, kind), ["value", "low", "high"]]) for kind in KINDS),
         "*{:.2f}, {:.3f}, {:.3f}*".format(*QUOTED[name])]
        for name in shown
    ]  # fmt: skip
    for other in ("image", "video"):
        pairs = [difference(table, "dual", other, kind) for kind in KINDS]
        if all(pairs):
            more = [f"{mean:+.2f} ({low:+.2f} … {high:+.2f})" for mean, low, high in pairs]
            rows.append([f"both minus {VARIANTS[other]}", *more, ""])
    return markdown_table(heads, rows)


def decoders(table: pd.DataFrame) -> list[str]:
    """A table in Markdown: IoU of phrases by branch, with intervals over clips, and how far the branches differ.

    Args:
        table: rows of `caption_ablation.decode`.
    """
    table = table.assign(all=True, late=~table["first"])
    groups = {"all phrases": "all", "there on the first frame": "first", "not there on it": "late"}
    heads = ["IoU of phrases", "phrases, clips", *BRANCHES.values(), "difference"]
    rows = []
    for title, column in groups.items():
        chosen = table[table[column]]
        by_clip = chosen.pivot_table("iou", "clip", "branch")[list(BRANCHES)].to_numpy().T
        pair = [by_clip[:1], by_clip[1:], by_clip[1:] - by_clip[:1]]
        cells = [_cell(*interval(values)) for values in pair]
        rows.append([title, f"{len(chosen) // 2}, {by_clip.shape[1]}", *cells])
    return markdown_table(heads, rows)


def supervision(table: pd.DataFrame) -> list[str]:
    """A table in Markdown: IoU of phrases by the number of frames that masks were learnt on.

    Args:
        table: rows of `caption_ablation.supervise`.
    """
    by_clip = table.pivot_table("iou", ["seed", "clip"], "supervised").dropna()[list(SUPERVISED)]
    four, eight = (by_clip[frames].unstack().to_numpy() for frames in SUPERVISED)
    told = [
        _cell(*interval(four)),
        _cell(*interval(eight)),
        "{:+.3f} ({:+.3f} … {:+.3f})".format(*interval(eight - four)),
    ]
    return markdown_table([f"IoU of phrases, {SUPERVISED[0]} frames", f"{SUPERVISED[1]} frames", "difference"], [told])


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} … {high:.2f})"
