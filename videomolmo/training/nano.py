"""The whole recipe of the shipped weights: render, train stage by stage, export; resumes wherever it was stopped."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from videomolmo import provenance, shipped
from videomolmo.errors import BadInput
from videomolmo.model import PointingConfig, PointingModel, PointingProcessor
from videomolmo.model.config import TEMPORAL_KINDS
from videomolmo.model.tokenizer import build_nano_tokenizer, load_tokenizer, save_tokenizer
from videomolmo.model.weights import safetensors_told
from videomolmo.synth.scene import sample_scene
from videomolmo.synth.sentences import ask, sample_query
from videomolmo.training import masks, pointing
from videomolmo.training.growth import enlarged, grown
from videomolmo.training.pointing_data import answer
from videomolmo.training.rendered import RenderedClips, RenderSpec, render_all
from videomolmo.training.run_state import found, load_weights, save_checkpoint
from videomolmo.whole_files import files_of, write_json

MASK_CLIPS = RenderSpec("masks", clips=6000, frames=8, size=160, motion_share=0.35, strides=(1, 1, 2, 3), seed=11)
PICTURES = RenderSpec("pictures", clips=30000, frames=1, size=96, motion_share=0.25, strides=(1,), seed=21)
CLIPS = RenderSpec("clips", clips=16000, frames=5, size=96, motion_share=0.72, strides=(1,), seed=22)
LARGE_PICTURES = replace(PICTURES, name="pictures_large", clips=24000, size=144, seed=23)
LARGE_CLIPS = replace(CLIPS, name="clips_large", clips=12000, size=144, seed=24)

_SMALL = (
    masks.Stage(900, clips=12, frames=1, objects=3),
    masks.Stage(300, clips=12, frames=2, objects=2),
    masks.Stage(250, clips=8, frames=4, objects=2),
    masks.Stage(250, clips=6, frames=6, objects=2),
)
_LARGE = (
    masks.Stage(500, clips=12, frames=1, objects=3),
    masks.Stage(200, clips=12, frames=2, objects=2),
    masks.Stage(500, clips=8, frames=4, objects=2),
    masks.Stage(250, clips=6, frames=6, objects=2),
)
_MORE = (
    masks.Stage(1000, clips=12, frames=1, objects=3),
    masks.Stage(250, clips=8, frames=4, objects=2),
    masks.Stage(100, clips=6, frames=6, objects=2),
)
_ON = (
    masks.Stage(1300, clips=12, frames=1, objects=3),
    masks.Stage(250, clips=8, frames=4, objects=2),
    masks.Stage(100, clips=6, frames=6, objects=2),
)
MASK_RUNS = (  # small pictures first: they take half the time
    masks.Run("masks_small", 128, 1.5e-3, _SMALL),
    masks.Run("masks_large", 160, 1.2e-3, _LARGE),
    masks.Run("masks_more", 160, 1.2e-3, _MORE),
    masks.Run("masks_on", 192, 1.2e-3, _ON),
)
_LANGUAGE = {"batch": 16, "questions": 4, "language": True, "facts": 0.3}
_FACTS = {"questions": 1, "language": False, "facts": 1.0}
_FOLLOW = {"past": True, "vision_rate": 0.0, "moves": 0.5, "cutoff": 0.12} | _LANGUAGE
POINTING_STAGES = (
    pointing.Stage("see", 3000, 16, peak=1.5e-3, past=False, motion_share=0.0, vision_rate=1.0, **_FACTS),
    pointing.Stage("speak", 1100, peak=1.5e-3, past=False, motion_share=0.0, vision_rate=0.0, **_LANGUAGE),
    pointing.Stage("place", 200, 16, peak=1.2e-3, past=False, motion_share=0.0, vision_rate=0.5, **_FACTS),
    pointing.Stage("speak on", 350, peak=1.2e-3, past=False, motion_share=0.0, vision_rate=0.0, **_LANGUAGE),
    pointing.Stage("read", 320, peak=1.5e-3, past=False, motion_share=0.0, vision_rate=0.0, **_LANGUAGE),
    pointing.Stage("look", 1500, 16, 1, 1.5e-3, False, True, 1.0, 0.0, facts=0.03, moves=1.0, distinct=300),
    pointing.Stage("settle", 1500, 16, 1, 1e-3, False, True, 1.0, 0.0, facts=0.3, moves=1.0, distinct=300),
    pointing.Stage("follow", 4000, peak=1.2e-3, motion_share=0.5, distinct=800, **_FOLLOW),
    pointing.Stage("follow on", 1800, peak=1e-3, motion_share=0.4, distinct=400, **_FOLLOW),
)
LARGER_STAGES = (  # what was learnt at 96 pixels goes on at 144: small objects have twice the pixels
    pointing.Stage("see larger", 900, 16, peak=1.2e-3, past=False, motion_share=0.0, vision_rate=1.0, **_FACTS),
    pointing.Stage("look larger", 400, 16, 1, 1.5e-3, False, True, 1.0, 0.0, facts=0.03, moves=1.0, distinct=150),
    pointing.Stage("settle larger", 700, 16, 1, 1e-3, False, True, 1.0, 0.0, facts=0.3, moves=1.0, distinct=200),
    pointing.Stage("follow larger", 1800, peak=1.2e-3, motion_share=0.45, distinct=330, **_FOLLOW),
    pointing.Stage("follow on larger", 3000, peak=1e-3, motion_share=0.4, distinct=450, lists=0.15, **_FOLLOW),
    pointing.Stage("write larger", 3600, peak=1e-3, motion_share=0.4, distinct=450, lists=0.3, **_FOLLOW),
)
FINER_STAGES = (  # better eyes, which lists need for every object that they name or leave out; then language again
    pointing.Stage("see on larger", 2100, 16, 1, 1e-3, False, True, 0.7, 1.0, facts=1.0, moves=0.5, stills=0.75),
    pointing.Stage("write on larger", 900, peak=1e-3, motion_share=0.4, distinct=300, lists=0.3, **_FOLLOW),
    pointing.Stage("write last larger", 600, peak=1e-3, motion_share=0.4, distinct=150, lists=0.3, **_FOLLOW),
)
AVERAGED = 2  # stages at the end of each of these two whose weights are averaged: better at lists than any alone
VOCABULARY = 512


def train_nano(
    out: Path, *, only: str | None = None, temporal: str = "cross_attention", threads: int = 2, seed: int = 1,
    share: float = 1.0,
) -> None:  # fmt: skip
    """Train the nano models into `out`; weights as they are shipped lie in its pointing, pointing_96 and masks.

    Args:
        out: working folder; holds rendered clips (about 8 GB), checkpoints and logs. Run again to go on.
        only: "pointing" or "masks".
        temporal: kind of the temporal module, see `TEMPORAL_KINDS`.
        threads: CPU threads; a GPU is used when there is one.
        seed: of weights and order of examples.
        share: of all clips and steps, for a trial run.

    Raises:
        BadInput: arguments out of range.
    """
    if temporal not in TEMPORAL_KINDS:
        raise BadInput(f"temporal is {temporal!r}, expected one of {', '.join(TEMPORAL_KINDS)}")
    if threads < 1:
        raise BadInput(f"threads is {threads}, expected at least 1")
    if not 0 < share <= 1:
        raise BadInput(f"share is {share}, expected more than 0 and at most 1")
    torch.set_num_threads(threads)
    recipe = {"seed": seed, "share": share, "temporal": temporal}
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
    config, weights = shipped.nano_masks(), None
    for number, run in enumerate(MASK_RUNS):
        run = replace(run, stages=tuple(replace(stage, steps=_scaled(stage.steps, share)) for stage in run.stages))
        seed = recipe["seed"] + number
        weights = masks.train_masks(config, clips, out / run.name, run, seed=seed, begin=weights, device=_device())
    export_masks(load_weights(weights, "model"), config / "config.yaml", out / "masks", recipe)


def _train_pointing(out: Path, recipe: dict) -> None:
    """The model for 96 pixels, which is exported as `pointing_96`, then the same one grown."""
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(nano_tokenizer(), str(folder))
    tokenizer = load_tokenizer(str(folder))
    config = PointingConfig.nano(temporal=recipe["temporal"], vocab_size=VOCABULARY)
    weights = _run_stages(POINTING_STAGES, config, tokenizer, (PICTURES, CLIPS), out, recipe)
    state = load_weights(weights[-1])
    export_pointing(state, config, tokenizer, out / "pointing_96", recipe, POINTING_STAGES)
    config = enlarged(config, LARGE_CLIPS.size)
    state, means = grown(state, config), []
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
    stages: tuple[pointing.Stage, ...], config: PointingConfig, tokenizer, specs: tuple[RenderSpec, RenderSpec],
    out: Path, recipe: dict, begin: tuple[Path, ...] = (),
) -> tuple[Path, ...]:  # fmt: skip
    """Stage after stage; returns the weights of all of `begin` and of every stage, in order."""
    share, temporal, weights = recipe["share"], recipe["temporal"], begin
    pictures, clips = (_rendered(out, spec, share) for spec in specs)
    loaded, stills = (None, None), None
    for stage in stages:
        if temporal == "none":
            if stage.past and not stage.language and not stage.vision_rate:
                continue  # no temporal module to warm up
            stage = replace(stage, moves=0.0)
        own = config if stage.past else pointing.single_frame(config)
        if loaded[0] != stage.past:
            loaded = (stage.past, RenderedClips(clips) if stage.past else RenderedClips(pictures, clips, last=True))
        if stage.stills and stills is None:
            stills = RenderedClips(pictures, clips, last=True)
        folder = out / (f"{stage.name}_{temporal}" if stage.past else stage.name)
        stage = replace(stage, steps=_scaled(stage.steps, share))
        processor = PointingProcessor(tokenizer, own)
        last = weights[len(begin) :][-1:]  # with `begin`, whose temporal module stages of single frames keep
        done = pointing.train_stage(
            own, stage, processor, loaded[1], folder, begin=(*begin, *last), seed=recipe["seed"], device=_device(),
            pictures=stills,
        )  # fmt: skip
        weights = (*weights, done)
    return weights


def nano_tokenizer():
    """The tokenizer of the nano model, learnt from questions and answers about scenes that are never drawn."""
    rng = np.random.default_rng(5)
    corpus = []
    for seed in range(3000):
        motion = seed % 2 == 0
        things = sample_scene(seed, motion=motion).objects
        for _ in range(4):
            query = sample_query(rng, things, motion=motion and rng.random() < 0.6)
            points = [tuple(rng.random(2)) for thing in things if query.means(thing)]
            corpus += [PointingProcessor.prompt(ask(rng, query)), " " + answer(query, points)]
    return build_nano_tokenizer(corpus, VOCABULARY)


def export_pointing(
    state: dict, config: PointingConfig, tokenizer, folder: Path, recipe: dict, stages: tuple[pointing.Stage, ...]
) -> None:
    """Write the averaged weights of the last of `stages` as they are shipped: half precision, with the tokenizer."""
    model = PointingModel(config)
    own = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    model.load_state_dict(own)
    model.save_pretrained(folder, dtype=torch.float16)
    save_tokenizer(tokenizer, str(folder))
    _write_recipe(folder, recipe | {"stages": [asdict(stage) for stage in stages]})


def export_masks(state: dict, config: Path, folder: Path, recipe: dict) -> None:
    """Write nano SAM 2 as it is shipped: half precision, with its configuration."""
    from safetensors.torch import save_file

    half = {name: value.half().contiguous() if value.is_floating_point() else value for name, value in state.items()}
    with files_of(folder, "config.yaml") as place, safetensors_told():
        save_file(half, place / "model.safetensors")
        (place / "config.yaml").write_text(Path(config).read_text(encoding="utf-8"), encoding="utf-8")
    _write_recipe(folder, recipe | {"runs": [asdict(run) for run in MASK_RUNS]})


def _write_recipe(folder: Path, recipe: dict) -> None:
    facts = recipe | {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.machine()}
    write_json(folder / "recipe.json", facts)
