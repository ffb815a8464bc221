"""Training a Molmo 2 by the one trainer: what a sample holds, what its messages see, and the same bits after a kill."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_molmo2 import model_of, processor_of
from training_runs import finish, start, weights

from videomolmo.datasets.generated_events import read_point_video_nano, read_track_video_nano
from videomolmo.errors import BadInput
from videomolmo.points import read_points
from videomolmo.systems.molmo2 import grid_times
from videomolmo.training.log import read_metrics
from videomolmo.training.molmo2 import Molmo2Loss, collate, example_of, weight_of_token
from videomolmo.training.recipe import Data, Learn, Model, Optimiser, Recipe, Run, Source
from videomolmo.training.trainer import train
from videomolmo.training.video_samples import LeftOut, Message, VideoSample, VideoSamples, track_times

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"clips": 2, "height": 48, "width": 48, "seconds": 3.0}
DATA = Data(sets=(Source("point_video_nano", options=SMALL | {"questions": 3}),), questions=3, conversations=0.0)


@pytest.fixture(scope="module")
def tiny():
    processor = processor_of(["Point to every time something turns. How many circles"])
    return processor, model_of(processor.tokenizer)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("molmo2")
    processor, model = tiny
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


def sample(*messages: Message, turns: bool = False) -> VideoSample:
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), np.uint8)
    return VideoSample(frames, np.array([0.0, 0.5, 1.0]), messages, turns)


def loss_of(tiny, *samples: VideoSample) -> float:
    processor, model = tiny
    with torch.no_grad():
        return float(Molmo2Loss(model.train())(collate([example_of(processor, one) for one in samples])))


DOG = Message("Point to the dog.", '<points coords="0.5 1 100 200">dog</points>', flat=True)
CATS = Message("How many cats are there?", "3", flat=False)


def test_messages_of_a_tree_are_blind_to_each_other_and_turns_are_not(tiny):
    alone = loss_of(tiny, sample(DOG)), loss_of(tiny, sample(DOG, replace(DOG, question="Find the dog.")))
    other = loss_of(tiny, sample(replace(DOG, question="Find the dog.")))
    assert alone[1] == pytest.approx(alone[0] + other, rel=1e-4)
    turns = loss_of(tiny, sample(DOG, replace(DOG, question="Find the dog."), turns=True))
    assert abs(turns - alone[1]) > 1e-3 * alone[1]


def test_a_batch_of_videos_of_different_length_is_the_sum_of_each(tiny):
    long = sample(DOG)
    short = replace(long, frames=long.frames[:2], times_s=long.times_s[:2], messages=(CATS,))
    assert loss_of(tiny, long, short) == pytest.approx(loss_of(tiny, long) + loss_of(tiny, short), rel=1e-4)


def test_the_loss_is_that_of_transformers_own_labels(tiny):
    processor, model = tiny
    example = example_of(processor, sample(DOG), weights="flat")
    labels = torch.full_like(example["input_ids"], -100)
    chosen = example["loss_masks"] > 0
    labels[1:][chosen[:-1]] = example["targets"][chosen]
    inputs = {name: example[name][None] for name in ("input_ids", "mm_token_type_ids")}
    pixels = {name: example[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")}
    with torch.no_grad():
        own = model.train()(**inputs, **pixels, labels=labels[None]).loss.item()
    assert loss_of(tiny, sample(DOG)) == pytest.approx(0.2 * int(chosen.sum()) * own, rel=1e-4)


def test_answers_end_with_the_sign_that_ends_them(tiny):
    processor, _ = tiny
    example = example_of(processor, sample(DOG, CATS))
    learnt = example["targets"][example["loss_masks"] > 0]
    text = processor.tokenizer.decode(learnt)
    assert text == f"{DOG.answer}<|im_end|>{CATS.answer}<|im_end|>"
    told = sorted({round(value, 4) for value in example["loss_masks"][example["loss_masks"] > 0].tolist()})
    assert told == [0.2, round(weight_of_token(CATS, 2, 2, "published"), 4)]
    with pytest.raises(LeftOut, match=r"a sign of the model's own"):
        example_of(processor, sample(replace(DOG, question="the <|video|> dog")))


def test_frames_lie_on_the_grid():
    assert grid_times(63.0, 128).size == 127 and grid_times(6.0, 128).tolist() == [n / 2 for n in range(13)]
    assert track_times(6.0, 128, 2).tolist() == [n / 2 for n in range(12)] and track_times(90, 10, 1)[-1] == 9


def test_a_sample_is_a_function_of_its_position_and_its_answers_can_be_read():
    samples, again = VideoSamples(DATA, seed=1), VideoSamples(DATA, seed=1)
    found = set()
    for position in range(8):
        one = samples[position]
        assert one.about == again[position].about and np.array_equal(one.frames, again[position].frames)
        assert one.times_s.tolist() == [n / 2 for n in range(7)] and 1 <= len(one.messages) <= 3
        for message in one.messages:
            answer = read_points(message.answer, 48, 48)
            assert answer.outcome in ("found", "absent") and message.flat
            if answer.outcome == "found":
                assert set(answer.times.tolist()) <= set(one.times_s.tolist())
            found.add(message.question.split()[0])
    assert {"How"} < found  # counting, and pointing in several wordings
    assert samples.mark() == again.mark()


def test_tracks_have_one_entry_for_each_time_and_keep_their_ids():
    data = Data(sets=(Source("track_video_nano", options=SMALL),))
    samples = VideoSamples(data, seed=1)
    one = next(one for position in range(20) if "<tracks" in (one := samples[position]).messages[0].answer)
    answer = read_points(one.messages[0].answer, 48, 48)
    assert one.messages[0].question.startswith("Track ") and one.times_s.tolist() == [n / 2 for n in range(6)]
    assert len({*zip(answer.times.tolist(), answer.ids.tolist(), strict=True)}) == len(answer.ids)
    record = read_track_video_nano(split="train", **SMALL)
    assert one.about["clip"] in {str(n) for n in range(len(record))}


def test_sides_of_a_video_that_is_counted_are_those_of_its_record():
    record = read_point_video_nano(**SMALL)[0]
    assert record.size() == (48, 48) and record.frame_names[-1] == "00006"


def recipe(folder, out, **changes) -> Recipe:
    fast = Optimiser(language=2e-3, vision=2e-3, connector=2e-3, batch=2, warmup=2, steps=4)
    machine = Run(workers=0, checkpoint_every=2, cpu=True)
    return Recipe(out=str(out), model=Model(str(folder)), learn=changes.pop("learn", Learn()),
                  optimiser=replace(fast, **changes), data=DATA, run=machine)  # fmt: skip


def test_a_killed_training_goes_on_to_the_same_bits(folder, tmp_path):
    finish(start(recipe(folder, tmp_path / "plain")))
    assert json.loads((tmp_path / "plain" / "model" / "config.json").read_text())["model_type"] == "molmo2"
    again = recipe(folder, tmp_path / "again")
    started = start(again)
    while not list((tmp_path / "again" / "checkpoints").glob("step_*2")):
        started[0].join(0.05)
    os.kill(started[0].pid, signal.SIGKILL)
    started[0].join()
    finish(start(again))
    left, right = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    rows = read_metrics(tmp_path / "plain")
    assert all(later["loss"] < before["loss"] for before, later in pairwise((rows[0], rows[-1])))


def test_adapters_are_merged_into_a_plain_molmo_2(folder, tmp_path):
    pytest.importorskip("peft")
    outcome = train(recipe(folder, tmp_path, learn=Learn(("lora",)), steps=1), progress=False)
    before, after = weights_of(folder), weights_of(outcome.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed


def weights_of(place):
    from safetensors.torch import load_file

    return load_file(place / "model.safetensors")


@pytest.mark.parametrize("values, said", [({"context": 2}, "model.context is 2"), ({"quantize": "4bit"}, "quantize")])
def test_what_molmo_2_does_not_have_is_refused(folder, tmp_path, values, said):
    wanted = replace(recipe(folder, tmp_path, learn=Learn(("lora",))), model=Model(str(folder), **values))
    with pytest.raises(BadInput, match=said):
        train(wanted, progress=False)
