"""Training end to end at a size of seconds: rendering and both trainings go on after SIGKILL as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from videomolmo.lab.nano import pointing_stage, recipe, sam2_stage
from videomolmo.lab.nano.auxiliary_losses import ProbeHeads
from videomolmo.lab.nano.batches import image_inputs, sample_example, text_inputs
from videomolmo.lab.nano.checkpoint import MovingAverage, load_checkpoint, save_checkpoint
from videomolmo.lab.nano.rendered_clips import RenderedClips, RenderSpec, render_all
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor
from videomolmo.model.tokenizer import build_nano_tokenizer
from videomolmo.training.model import cosine
from videomolmo.weights.hub import nano_masks

SMALL = RenderSpec("small", clips=450, frames=1, size=32, motion_share=0.3, strides=(1, 2), seed=3)
CLIPS = RenderSpec("clips", clips=24, frames=5, size=96, motion_share=0.7, strides=(1,), seed=4)
MASK_RUN = sam2_stage.Schedule(
    "masks",
    128,
    1e-3,
    (sam2_stage.Stage(2, clips=2, frames=1, objects=2), sam2_stage.Stage(2, clips=2, frames=2, objects=2)),
)
STAGE = pointing_stage.Stage(
    "temporal_finetune", 4, 2, questions=2, max_lr=1e-3, language=True, past=True, motion_share=0.6, vision_rate=1.0,
    probe_weight=0.15,
    motion_weight=0.5, short_history_prob=0.5,
)  # fmt: skip
KILLED = """
import os, signal
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests import test_training
def cosine(step, *rest, _own=test_training.cosine):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return _own(step, *rest)
test_training.{module}.cosine = cosine
test_training.{train}(Path({clips!r}), Path({folder!r}))
"""


def shell(code: str) -> subprocess.Popen:
    """Python code in a process, and a process group, of its own."""
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=root, start_new_session=True, stderr=subprocess.PIPE
    )


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    render_all(CLIPS, folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def clips(clips_folder) -> RenderedClips:
    return RenderedClips(clips_folder)


def processor() -> VideoMolmoProcessor:
    words = ["Point to the red circle.", '<point x="12.5" y="40.6" alt="red circle">red circle</point> There are none.']
    return VideoMolmoProcessor(build_nano_tokenizer(words), VideoMolmoConfig.nano())


def train_masks(clips: Path, folder: Path) -> Path:
    return sam2_stage.train_masks(nano_masks(), RenderedClips(clips), folder, MASK_RUN, seed=1, checkpoint_every=2)


def train_pointing(clips: Path, folder: Path) -> Path:
    own = processor()
    return pointing_stage.train_stage(
        own.config, STAGE, own, RenderedClips(clips), folder, begin=(), seed=1, checkpoint_every=2
    )


# Rendering


@pytest.mark.slow
def test_rendering_goes_on_after_a_kill(tmp_path):
    code = (
        "from pathlib import Path\nfrom tests.test_training import SMALL, render_all\n"
        f"if __name__ == '__main__': render_all(SMALL, Path({str(tmp_path / 'killed')!r}), workers=1)"
    )
    process, first = shell(code), tmp_path / "killed" / "part_0000.npz"
    try:
        until = time.monotonic() + 300
        while not first.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert first.exists() and process.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed").glob("part_*.npz"))) < 3  # killed in the middle of it
    (tmp_path / "killed" / "unfinished_0002.npz").write_bytes(b"cut off")
    written = first.stat().st_mtime_ns
    render_all(SMALL, tmp_path / "killed", workers=1)
    assert first.stat().st_mtime_ns == written  # what was whole is not made again
    render_all(SMALL, tmp_path / "whole", workers=2)
    for number in range(3):
        one, other = (tmp_path / kind / f"part_{number:04d}.npz" for kind in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()
    assert len(RenderedClips(tmp_path / "killed")) == SMALL.clips


def test_rendered_clips_agree_with_their_facts(clips):
    assert clips.frames.shape == (24, 5, 96, 96, 3) and clips.ids.shape == (24, 5, 96, 96) and len(clips.objects) == 24
    for ids, things in zip(clips.ids, clips.objects, strict=True):
        assert ids.max() <= len(things)
        for number, thing in enumerate(things, start=1):
            if thing.seen:
                x, y = thing.point
                assert ids[-1][int(y * 96), int(x * 96)] == number


def test_last_frames_only(clips_folder, clips):
    last = RenderedClips(clips_folder, clips_folder, last=True)
    assert len(last) == 48 and np.array_equal(last.frames[24:, 0], clips.frames[:, -1])
    assert last.objects[:24] == last.objects[24:] == clips.objects


# Going on


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("module, train", [("sam2_stage", train_masks), ("pointing_stage", train_pointing)])
def test_training_goes_on_after_a_kill(module, train, clips_folder, tmp_path):
    process = shell(
        KILLED.format(module=module, train=train.__name__, clips=str(clips_folder), folder=str(tmp_path / "killed"))
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert load_checkpoint(tmp_path / "killed" / "checkpoint.safetensors")["step"] == 2
    resumed = load_checkpoint(train(clips_folder, tmp_path / "killed"))
    whole = load_checkpoint(train(clips_folder, tmp_path / "whole"))
    assert equal(resumed, whole)
    before = load_checkpoint(tmp_path / "killed" / "checkpoint.safetensors")
    assert before["step"] in (2, 4)


def test_finished_training_is_not_done_again(clips_folder, tmp_path, monkeypatch):
    done = tmp_path / "weights.safetensors"
    save_checkpoint(done, state={})
    assert train_pointing(clips_folder, tmp_path) == done
    assert load_checkpoint(done) == {"state": {}}


def test_a_checkpoint_is_old_or_new_but_never_half(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    assert load_checkpoint(path) is None
    save_checkpoint(path, step=1)

    def fails(file):
        for half in tmp_path.glob(".unfinished.*/checkpoint.safetensors"):
            os.truncate(half, 40)
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, step=2)
    assert load_checkpoint(path) == {"step": 1}


# Learning


def test_mask_loss_goes_down(clips):
    torch.manual_seed(0)
    model = sam2_stage.build_nano(nano_masks(), 128).train()
    sam2_stage.initialise(model)
    batch = sam2_stage.sample_batch(clips, sam2_stage.Stage(1, clips=2, frames=2, objects=2), 0, 0, 128)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        outputs = sam2_stage.run_clip(model, batch)
        truths = batch.truth if batch.mask is None else batch.truth[1:]
        loss = sum(sam2_stage.loss_of(*output, truth) for output, truth in zip(outputs, truths, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and min(losses[-3:]) < 0.9 * losses[0]


def test_pointing_loss_goes_down(clips):
    torch.manual_seed(0)
    own = processor()
    model = VideoMolmoForConditionalGeneration(own.config, attn_implementation="eager").train()
    heads = ProbeHeads(own.config.language.width, own.config.vision.feature_dim, own.config.image.patch_px)
    rng = np.random.default_rng(0)
    examples = [sample_example(rng, clips, questions=2, motion_share=0.5) for _ in range(2)]
    batch = text_inputs(own, examples) | image_inputs(own, examples, past=True, patches=False)
    optimiser = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=1e-3)
    losses = []
    for _ in range(8):
        loss, log = pointing_stage.step_loss(model, heads, batch, STAGE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert set(log) == {*["text", "look", "asked", "place", "motion", "written", "facts", "first", "more", "tens"]}
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


# Batches


def test_batches_are_functions_of_seed_and_step(clips):
    stage = sam2_stage.Stage(1, clips=2, frames=2, objects=2)
    one, same, other = (sam2_stage.sample_batch(clips, stage, 0, step, 128) for step in (5, 5, 6))
    assert torch.equal(one.pixels, same.pixels) and torch.equal(one.points, same.points)
    assert not torch.equal(one.pixels, other.pixels)
    own = processor()
    from_two = list(pointing_stage.batches(own, clips, STAGE, 0, start=2))
    whole = list(pointing_stage.batches(own, clips, STAGE, 0, start=0))
    assert len(whole) == 4 and len(from_two) == 2
    for one, same in zip(whole[2:], from_two, strict=True):
        assert all(torch.equal(one[key].nan_to_num(-7), same[key].nan_to_num(-7)) for key in one)


def test_clicks_lie_on_their_objects(clips):
    for step in range(6):
        batch = sam2_stage.sample_batch(clips, sam2_stage.Stage(1, clips=2, frames=2, objects=3), 1, step, 128)
        scale = batch.truth.shape[-1] / 128
        for truth, (point,) in zip(batch.truth[0], batch.points, strict=True):
            x, y = (point * scale).floor().int().tolist()
            near = truth[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            assert truth.sum() >= 45 and near.any()


def test_coordinates_are_marked_with_their_place(clips):
    """Where the target is a digit of a coordinate, `places` tells the point that is being written."""
    own, rng = processor(), np.random.default_rng(2)
    examples = [sample_example(rng, clips, questions=3, motion_share=0.5) for _ in range(8)]
    batch = text_inputs(own, examples)
    for row, example in enumerate(examples):
        marked = ~batch["places"][row, :, 0].isnan()
        digits = sum(
            len(f"{100 * value:.1f}".replace("100.0", "100.0")) for points in example.targets for point in points
            for value in point
        )  # fmt: skip
        assert abs(int(marked.sum()) - digits) <= 1 * sum(map(len, example.targets))
        places = {tuple(place) for place in batch["places"][row, marked].tolist()}
        wanted = {tuple(np.float32(point).tolist()) for points in example.targets for point in points}
        assert places == wanted
        assert (batch["weights"][row][marked] > 0).all()
        assert (batch["weights"][row][batch["loss_masks"][row] <= 0] == 0).all()


# Parts


def test_moving_average_follows():
    model = torch.nn.Linear(1, 1)
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(10.0)
    for step in range(60):
        average.update(model, step)
    assert torch.allclose(average.state["weight"], model.weight)


def test_learning_rate_rises_and_falls():
    rates = [cosine(step, 100, 1.0, 10) for step in range(101)]
    assert rates[9] == rates[10] == 1.0 and rates[100] == pytest.approx(0.02)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_exported_masks_load(clips_folder, tmp_path):
    from videomolmo.masks.sam2 import load_nano

    model = sam2_stage.build_nano(nano_masks())
    recipe.export_masks(model.state_dict(), nano_masks() / "config.yaml", tmp_path, {"seed": 1})
    loaded = load_nano(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], atol=2e-3), name
    assert (tmp_path / "recipe.json").is_file()


def test_a_grown_model_begins_where_the_smaller_one_was():
    from videomolmo.lab.nano.checkpoint import PLACES, SIDES, resize_config, resize_position_embeddings

    small = VideoMolmoConfig.nano()
    torch.manual_seed(0)
    state = {f"model.{name}": value for name, value in VideoMolmoForConditionalGeneration(small).state_dict().items()}
    same = resize_position_embeddings(state, small)
    assert all(torch.allclose(same[name], value, atol=1e-6) for name, value in state.items())
    large = resize_config(small, 144)
    larger = resize_position_embeddings(state, large)
    model = VideoMolmoForConditionalGeneration(large)
    model.load_state_dict({name.removeprefix("model."): value for name, value in larger.items()})
    assert larger[PLACES].shape == (1 + 18 * 18, 128) and all(larger[name].shape == (9, 128) for name in SIDES)
    changed = {name for name, value in state.items() if not torch.equal(larger[name], value)}
    assert changed == {PLACES, *SIDES}
    across = torch.linspace(0, 1, 12).repeat(12)[:, None].expand(-1, 128)  # says how far to the right a patch lies
    places = resize_position_embeddings(state | {PLACES: torch.cat([torch.zeros(1, 128), across])}, large)[PLACES][
        1:, 0
    ].view(18, 18)
    assert (places.diff(dim=1) > -0.02).all() and places.diff(dim=0).abs().max() < 1e-5
    assert places[0, 0].abs() < 0.05 and abs(places[0, -1] - 1) < 0.05


def test_of_several_beginnings_the_last_that_has_a_tensor_counts(clips, tmp_path):
    own = processor()
    single = pointing_stage.single_frame(own.config)
    torch.manual_seed(0)
    heads = {f"heads.{name}": value for name, value in ProbeHeads(128, 256, 8).state_dict().items()}
    paths = []
    for name, config in (("first", own.config), ("second", single)):
        state = {
            f"model.{key}": value for key, value in VideoMolmoForConditionalGeneration(config).state_dict().items()
        }
        save_checkpoint(tmp_path / f"{name}.safetensors", state=state | heads)
        paths.append(tmp_path / f"{name}.safetensors")
    both, _, _, _ = pointing_stage._start(own.config, STAGE, tmp_path / "none.safetensors", tuple(paths), 1, "cpu")
    first, second = (load_checkpoint(path)["state"] for path in paths)
    begun = {f"model.{name}": value for name, value in both["model"].state_dict().items()}
    assert all(torch.equal(begun[name], second.get(name, first[name])) for name in begun)


def test_exported_pointing_loads(tmp_path):
    torch.manual_seed(0)
    own = processor()
    both = torch.nn.ModuleDict(
        {"model": VideoMolmoForConditionalGeneration(own.config), "heads": ProbeHeads(128, 256, 8)}
    )
    recipe.export_pointing(both.state_dict(), own.config, own.tokenizer, tmp_path, {"seed": 1}, (STAGE,))
    loaded = VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config == own.config
    assert all(
        torch.allclose(value, both["model"].state_dict()[name], atol=5e-3)
        for name, value in loaded.state_dict().items()
    )
