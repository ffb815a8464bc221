"""The recipe of the shipped weights, stage by stage, and its curves."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from videomolmo.errors import BadInput
from videomolmo.io import provenance
from videomolmo.io.files import atomic_files, write_json
from videomolmo.io.provenance import sha256
from videomolmo.io.tables import write_csv
from videomolmo.lab.nano import caption_recipe, molmo2_recipe, sam2_stage
from videomolmo.lab.nano.batches import answer
from videomolmo.lab.nano.checkpoint import (
    found,
    load_weights,
    resize_config,
    resize_position_embeddings,
    save_checkpoint,
)
from videomolmo.lab.nano.pointing_stage import EARLIER_NAMES, Stage, single_frame, stage_folder, train_stage
from videomolmo.lab.nano.rendered_clips import RenderedClips, RenderSpec, render_all
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.model.tokenizer import build_nano_tokenizer, load_tokenizer, save_tokenizer
from videomolmo.synth.scene import sample_scene
from videomolmo.synth.sentences import ask, known_words, sample_query
from videomolmo.weights import hub
from videomolmo.weights.assign import safetensors_told

MASK_CLIPS = RenderSpec("masks", clips=6000, frames=8, size=160, motion_share=0.35, strides=(1, 1, 2, 3), seed=11)
PICTURES = RenderSpec("pictures", clips=30000, frames=1, size=96, motion_share=0.25, strides=(1,), seed=21)
CLIPS = RenderSpec("clips", clips=16000, frames=5, size=96, motion_share=0.72, strides=(1,), seed=22)
LARGE_PICTURES = replace(PICTURES, name="pictures_large", clips=24000, size=144, seed=23)
LARGE_CLIPS = replace(CLIPS, name="clips_large", clips=12000, size=144, seed=24)

_SMALL = (
    sam2_stage.Stage(900, clips=12, frames=1, objects=3),
    sam2_stage.Stage(300, clips=12, frames=2, objects=2),
    sam2_stage.Stage(250, clips=8, frames=4, objects=2),
    sam2_stage.Stage(250, clips=6, frames=6, objects=2),
)
_LARGE = (
    sam2_stage.Stage(500, clips=12, frames=1, objects=3),
    sam2_stage.Stage(200, clips=12, frames=2, objects=2),
    sam2_stage.Stage(500, clips=8, frames=4, objects=2),
    sam2_stage.Stage(250, clips=6, frames=6, objects=2),
)
_MORE = (
    sam2_stage.Stage(1000, clips=12, frames=1, objects=3),
    sam2_stage.Stage(250, clips=8, frames=4, objects=2),
    sam2_stage.Stage(100, clips=6, frames=6, objects=2),
)
_ON = (
    sam2_stage.Stage(1300, clips=12, frames=1, objects=3),
    sam2_stage.Stage(250, clips=8, frames=4, objects=2),
    sam2_stage.Stage(100, clips=6, frames=6, objects=2),
)
MASK_RUNS = (  # small pictures first: they take half the time
    sam2_stage.Schedule("masks_small", 128, 1.5e-3, _SMALL),
    sam2_stage.Schedule("masks_large", 160, 1.2e-3, _LARGE),
    sam2_stage.Schedule("masks_more", 160, 1.2e-3, _MORE),
    sam2_stage.Schedule("masks_on", 192, 1.2e-3, _ON),
)
_PROBES = {"batch": 16, "questions": 1, "language": False}
_VISION = _PROBES | {"probe_weight": 1.0, "past": False, "motion_share": 0.0, "vision_rate": 1.0}
_MOTION = _PROBES | {"past": True, "motion_share": 1.0, "vision_rate": 0.0, "motion_weight": 1.0}
_LANGUAGE = {"batch": 16, "questions": 4, "language": True, "probe_weight": 0.3, "vision_rate": 0.0}
_TEXT = _LANGUAGE | {"past": False, "motion_share": 0.0}
_FINETUNE = _LANGUAGE | {"past": True, "motion_share": 0.4, "motion_weight": 0.5, "short_history_prob": 0.12}
POINTING_STAGES = (
    Stage("vision_pretrain", 3000, max_lr=1.5e-3, **_VISION),
    Stage("text", 1100, max_lr=1.5e-3, **_TEXT),
    Stage("localise", 200, max_lr=1.2e-3, **_VISION | {"vision_rate": 0.5}),
    Stage("text_2", 350, max_lr=1.2e-3, **_TEXT),
    Stage("text_3", 320, max_lr=1.5e-3, **_TEXT),
    Stage("motion_warmup", 1500, max_lr=1.5e-3, probe_weight=0.03, cached_batches=300, **_MOTION),
    Stage("joint", 1500, max_lr=1e-3, probe_weight=0.3, cached_batches=300, **_MOTION),
    Stage("temporal_finetune", 4000, max_lr=1.2e-3, cached_batches=800, **_FINETUNE | {"motion_share": 0.5}),
    Stage("temporal_finetune_2", 1800, max_lr=1e-3, cached_batches=400, **_FINETUNE),
)
LARGER_STAGES = (  # the model of 96 pixels goes on at 144: small objects have twice the pixels
    Stage("vision_pretrain_144", 900, max_lr=1.2e-3, **_VISION),
    Stage("motion_warmup_144", 400, max_lr=1.5e-3, probe_weight=0.03, cached_batches=150, **_MOTION),
    Stage("joint_144", 700, max_lr=1e-3, probe_weight=0.3, cached_batches=200, **_MOTION),
    Stage("temporal_finetune_144", 1800, max_lr=1.2e-3, cached_batches=330, **_FINETUNE | {"motion_share": 0.45}),
    Stage("temporal_finetune_144_2", 3000, max_lr=1e-3, cached_batches=450, lists=0.15, **_FINETUNE),
    Stage("lists_144", 3600, max_lr=1e-3, cached_batches=450, lists=0.3, **_FINETUNE),
)
FINER_STAGES = (  # the vision tower again, on whose features lists depend most; then language again
    Stage(
        "vision_pretrain_144_2", 2100, max_lr=1e-3, motion_weight=0.5, static_prob=0.75,
        **_VISION | {"past": True, "motion_share": 0.7},
    ),
    Stage("lists_144_2", 900, max_lr=1e-3, cached_batches=300, lists=0.3, **_FINETUNE),
    Stage("lists_144_3", 600, max_lr=1e-3, cached_batches=150, lists=0.3, **_FINETUNE),
)  # fmt: skip
AVERAGED = 2  # stages at the end of each of these two whose weights are averaged: better at lists than any alone
VOCABULARY = 512


def train_nano(
    out: Path, *, only: str | None = None, temporal: str = "cross_attention", threads: int = 2, seed: int = 1,
    share: float = 1.0, points: str = "text",
) -> None:  # fmt: skip
    """Train the nano models into `out`; weights as they are shipped lie in its pointing, pointing_96 and masks.

    Args:
        out: working folder; holds rendered clips (about 8 GB), checkpoints and logs. Run again to go on.
        only: "pointing", "masks", "glamm" for Nano-GLaMM (`caption_recipe`), or "molmo2" for Nano-Molmo2
            (`molmo2_recipe`); None for the first two.
        temporal: kind of the temporal module, see `TEMPORAL_KINDS`.
        threads: CPU threads; a GPU is used when there is one.
        seed: of weights and order of examples.
        share: of all clips and steps, for a trial run.
        points: "text", or "tokens" for the pointing model that chooses places (`VideoMolmoConfig.points`); its stages
            and weights lie in the working folder's "tokens".

    Raises:
        BadInput: arguments out of range.
    """
    if temporal not in TEMPORAL_KINDS:
        raise BadInput(f"temporal is {temporal!r}, expected one of {', '.join(TEMPORAL_KINDS)}")
    if points not in ("text", "tokens"):
        raise BadInput(f"points is {points!r}, expected text or tokens")
    if threads < 1:
        raise BadInput(f"threads is {threads}, expected at least 1")
    if not 0 < share <= 1:
        raise BadInput(f"share is {share}, expected more than 0 and at most 1")
    torch.set_num_threads(threads)
    if only == "glamm":
        caption_recipe.train_nano_glamm(out, seed=seed, share=share)
        return
    if only == "molmo2":
        molmo2_recipe.train_nano_molmo2(out, seed=seed, share=share)
        return
    recipe = {"seed": seed, "share": share, "temporal": temporal, "points": points}
    if only != "pointing":
        _train_masks(out, recipe)
    if only != "masks":
        _train_pointing(out, recipe)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _scaled(number: int, share: float) -> int:
    return max(2, round(number * share))


def _rendered(out: Path, spec: RenderSpec, share: float) -> Path:
    spec = replace(spec, clips=_scaled(spec.clips, share))
    render_all(spec, out / "rendered" / spec.name)
    return out / "rendered" / spec.name


def _train_masks(out: Path, recipe: dict) -> None:
    share = recipe["share"]
    clips = RenderedClips(_rendered(out, MASK_CLIPS, share))
    config, weights = hub.nano_masks(), None
    for number, run in enumerate(MASK_RUNS):
        run = replace(run, stages=tuple(replace(stage, steps=_scaled(stage.steps, share)) for stage in run.stages))
        seed = recipe["seed"] + number
        weights = sam2_stage.train_masks(config, clips, out / run.name, run, seed=seed, begin=weights, device=_device())
    export_masks(load_weights(weights, "model"), config / "config.yaml", out / "masks", recipe)


def _train_pointing(out: Path, recipe: dict) -> None:
    """The model for 96 pixels, which is exported as `pointing_96`, then the same one at 144."""
    out = out if recipe["points"] == "text" else out / recipe["points"]
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(nano_tokenizer(), str(folder))
    tokenizer = load_tokenizer(str(folder))
    config = VideoMolmoConfig.nano(recipe["temporal"], vocab_size=VOCABULARY, points=recipe["points"])
    weights = _run_stages(POINTING_STAGES, config, tokenizer, (PICTURES, CLIPS), out, recipe)
    state = load_weights(weights[-1])
    export_pointing(state, config, tokenizer, out / "pointing_96", recipe, POINTING_STAGES)
    config = resize_config(config, LARGE_CLIPS.size)
    state, means = resize_position_embeddings(state, config), []
    for name, stages in (("grown", LARGER_STAGES), ("mean", FINER_STAGES)):
        begin = out / f"{name}_{recipe['temporal']}.safetensors"
        if not (there := found(begin)):
            save_checkpoint(begin, state=state)
        weights = _run_stages(stages, config, tokenizer, (LARGE_PICTURES, LARGE_CLIPS), out, recipe, (there or begin,))
        state = averaged([load_weights(path) for path in weights[-AVERAGED:]])
        means.append(state)
    stages = POINTING_STAGES + LARGER_STAGES + FINER_STAGES
    about = recipe | {"averaged": [stage.name for one in (LARGER_STAGES, FINER_STAGES) for stage in one[-AVERAGED:]]}
    export_pointing(averaged(means), config, tokenizer, out / "pointing", about, stages)


def averaged(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of weights that came from one another.

    Source: model soups (Wortsman et al. 2022).
    """
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def _run_stages(
    stages: tuple[Stage, ...], config: VideoMolmoConfig, tokenizer, specs: tuple[RenderSpec, RenderSpec],
    out: Path, recipe: dict, begin: tuple[Path, ...] = (),
) -> tuple[Path, ...]:  # fmt: skip
    """Stage after stage; returns the weights of all of `begin` and of every stage, in order."""
    share, temporal, weights = recipe["share"], recipe["temporal"], begin
    rendered = out if recipe["points"] == "text" else out.parent
    pictures, clips = (_rendered(rendered, spec, share) for spec in specs)
    loaded, stills = (None, None), None
    for stage in stages:
        if temporal == "none":
            if stage.past and not stage.language and not stage.vision_rate:
                continue  # no temporal module to warm up
            stage = replace(stage, motion_weight=0.0)
        own = config if stage.past else single_frame(config)
        if loaded[0] != stage.past:
            loaded = (stage.past, RenderedClips(clips) if stage.past else RenderedClips(pictures, clips, last=True))
        if stage.static_prob and stills is None:
            stills = RenderedClips(pictures, clips, last=True)
        folder = stage_folder(out, stage.name, temporal if stage.past else None)
        stage = replace(stage, steps=_scaled(stage.steps, share))
        processor = VideoMolmoProcessor(tokenizer, own)
        last = weights[len(begin) :][-1:]  # with `begin`, whose temporal module stages of single frames keep
        done = train_stage(
            own, stage, processor, loaded[1], folder, begin=(*begin, *last), seed=recipe["seed"], device=_device(),
            pictures=stills,
        )  # fmt: skip
        weights = (*weights, done)
    return weights


def nano_tokenizer():
    """The tokenizer of the nano model, trained on questions and answers about scenes that are never drawn."""
    rng = np.random.default_rng(5)
    corpus = []
    for seed in range(3000):
        motion = seed % 2 == 0
        objects = sample_scene(seed, motion=motion).objects
        for _ in range(4):
            query = sample_query(rng, objects, motion=motion and rng.random() < 0.6)
            points = [tuple(rng.random(2)) for obj in objects if query.means(obj)]
            corpus += [VideoMolmoProcessor.prompt(ask(rng, query)), " " + answer(query, points)]
    return build_nano_tokenizer(corpus, VOCABULARY)


def export_pointing(
    state: dict, config: VideoMolmoConfig, tokenizer, folder: Path, recipe: dict, stages: tuple[Stage, ...]
) -> None:
    """Write the averaged weights of the last of `stages` as they are shipped: half precision, with the tokenizer."""
    model = VideoMolmoForConditionalGeneration(config)
    own = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    model.load_state_dict(own)
    model.save_pretrained(folder, dtype=torch.float16)
    save_tokenizer(tokenizer, str(folder))
    known_words().write(folder)
    _write_recipe(folder, recipe | {"stages": [asdict(stage) for stage in stages]})


def export_masks(state: dict, config: Path, folder: Path, recipe: dict) -> None:
    """Write nano SAM 2 as it is shipped: half precision, with its configuration."""
    from safetensors.torch import save_file

    half = {name: value.half().contiguous() if value.is_floating_point() else value for name, value in state.items()}
    with atomic_files(folder, "config.yaml") as place, safetensors_told():
        save_file(half, place / "model.safetensors")
        (place / "config.yaml").write_text(Path(config).read_text(encoding="utf-8"), encoding="utf-8")
    _write_recipe(folder, recipe | {"runs": [asdict(run) for run in MASK_RUNS]})


def _write_recipe(folder: Path, recipe: dict) -> None:
    own = {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.machine()}
    write_json(folder / "recipe.json", recipe | own)


TABLE = "training_curves.csv"
MEASURES = ("shape", "place", "motion", "text", "first", "more", "tens")  # see `pointing_stage` and `auxiliary_losses`
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
        log = stage_folder(Path(run), stage["name"], recipe["temporal"] if stage["past"] else None) / "log.jsonl"
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        last = {line["step"]: line for line in map(json.loads, text.splitlines()) if "step" in line}
        if not last:
            raise BadInput(f"{log} is not there or empty, expected the log of stage {stage['name']!r}")
        rows += [last[step] | {"stage": stage["name"], "total_step": before + step} for step in sorted(last)]
        before += max(last)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def read_curves() -> pd.DataFrame:
    """The shipped curves, with the stages' names of today."""
    table = pd.read_csv(hub.data_folder() / "ablations" / TABLE)
    return table.assign(stage=table["stage"].replace({before: now for now, before in EARLIER_NAMES.items()}))


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
    metadata = {name: value for name, value in recipe.items() if name != "stages"}
    write_json(path.with_suffix(".json"), {"machine": "not recorded"} | metadata | told | {"sha256": sha256(path)})
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
