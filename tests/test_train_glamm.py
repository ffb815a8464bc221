"""The recipe of Nano-GLaMM at a size of seconds: killed and resumed to the same bits, and judged at its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from videomolmo.cli import main
from videomolmo.io.files import write_json
from videomolmo.lab.nano import caption_recipe, caption_stage
from videomolmo.lab.nano.caption_attention import NOBODY, look_loss, subjects, visual_owners
from videomolmo.lab.nano.caption_batches import Seen, ask, classes, patch_owners, text_inputs
from videomolmo.lab.nano.caption_stage import PARTS, Stage, assembled, optimiser_of, train_stage
from videomolmo.lab.nano.checkpoint import load_weights
from videomolmo.masks.sam2 import load_nano
from videomolmo.synth.captions import GroundedText
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.splice import IGNORED
from videomolmo.weights.hub import nano_masks

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a tokenizer in it, and the processor of it."""
    folder = tmp_path_factory.mktemp("glamm")
    return folder, caption_recipe.processor_of(folder)


@pytest.fixture
def small(monkeypatch):
    """The first four stages, one of each task, two clips a step."""
    stages = tuple(
        replace(one, batch=2, frames=4, cached_batches=min(one.cached_batches, 1)) for one in caption_recipe.STAGES[:4]
    )
    monkeypatch.setattr(caption_recipe, "STAGES", stages)
    return stages


class Killed(Exception):
    """Stands for a signal that nobody catches."""


def test_one_command_trains_all_stages_and_a_killed_stage_goes_on_to_the_same_bits(small, run, tmp_path, monkeypatch):
    folder, _ = run
    command = ["train-nano", "--only", "glamm", "--share", "0.001", "--threads", "1", "--out", str(folder)]
    assert main(command) == 0 and (folder / "glamm" / "recipe.json").is_file()
    assert (folder / "glamm" / "model.safetensors").stat().st_size < 8e6
    model = VideoGLaMMForConditionalGeneration.from_pretrained(folder / "glamm")
    processor = VideoGLaMMProcessor.from_pretrained(folder / "glamm")
    frames = Seen.of(10_000_000, 12, 4).frames
    assert model.write(processor(frames, "What is red?")["input_ids"][None, :1], max_new_tokens=2).ids.shape[1] <= 3

    own = caption_stage.save_progress

    def save(*arguments) -> None:
        own(*arguments)
        raise Killed

    see, _, speak, ground = (folder / f"glamm_{stage.name}" / "weights.safetensors" for stage in small)
    monkeypatch.setattr(caption_stage, "CHECKPOINT_EVERY", 1)
    for stage, begin, whole in ((small[0], None, see), (small[3], speak, ground)):
        arguments = (processor.config, processor, replace(stage, steps=2), tmp_path / stage.name, begin, 1)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(caption_stage, "save_progress", save)
            train_stage(*arguments)
        weights, wanted = load_weights(train_stage(*arguments)), load_weights(whole)
        assert all(torch.equal(value, wanted[name]) for name, value in weights.items())


def test_each_stage_trains_its_parts_alone(run):
    both = assembled(run[1].config, None, seed=0)
    for task, parts in (("see", ("encoders",)), ("segment", ("decoder",)), ("ground", ("language", "projector"))):
        optimiser_of(both, Stage("any", task, 2, 2, 1e-3, parts))
        learning = {name for name, value in both.named_parameters() if value.requires_grad}
        begins = tuple(f"model.{begin}" for part in parts for begin in PARTS[part])
        own = {name for name in learning if name.startswith("model.")}
        assert own == {name for name, _ in both.named_parameters() if name.startswith(begins)} and own
        assert {name.split(".")[1].split("_")[0] for name in learning - own} == {
            "see": {"colour", "shape", "outline", "motion", "moving"}, "segment": {"prompt"}, "ground": set(),
        }[task]  # fmt: skip
    with pytest.raises(ValueError, match="cached_batches"):
        Stage("any", "see", 2, 2, 1e-3, ("encoders",), cached_batches=1)


def test_weights_fit_in_eight_megabytes_with_the_shipped_sam2(run):
    model = assembled(run[1].config, None, seed=0)["model"]
    assert 2 * sum(value.numel() for value in model.state_dict().values()) < 7.95e6  # half precision; the rest: header
    shipped = load_nano(nano_masks()).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in model.sam2.state_dict().items())


def test_patches_know_the_object_that_covers_them():
    one = Seen.of(10_000_000, 12, 4)
    owners = patch_owners([one], 12)
    told = classes([one], owners)
    for frame, patch in np.ndindex(4, 144):
        row, column = divmod(patch, 12)
        cell = one.ids[frame, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        number = int(owners[0, frame, patch])
        if number:
            assert (cell == number).mean() > 0.24
            assert told["shape"][0, frame, patch] == 1 + ["circle", "square", "triangle", "star", "bar"].index(
                one.said.objects[number - 1].shape
            )
        else:
            assert max((cell == other).mean() for other in range(1, 5)) <= 0.25 and told["colour"][0, frame, patch] == 0


def test_each_segment_has_its_true_mask_and_name(run):
    processor = run[1]
    clips = [Seen.of(seed, 12, 4) for seed in range(10_000_000, 10_000_006)]
    exchanges = [ask(np.random.default_rng(number), one.said, 0.5) for number, one in enumerate(clips)]
    inputs = text_inputs(processor, clips, exchanges, masks=True)
    segments = (inputs["input_ids"] == processor.config.language.segment).sum(1).tolist()
    assert segments == [len(told.answer.spans) for told in exchanges] == [len(one) for one in inputs["masks"]]
    assert len(inputs["meant"]) == sum(segments) > 6
    for row, told in enumerate(exchanges):
        learnt = inputs["labels"][row]
        assert processor.decode(learnt[learnt != IGNORED]) == told.answer.marked


@pytest.mark.parametrize("wrong", [False, True])
def test_judge_gives_full_marks_to_the_truth_and_none_to_false_masks(run, monkeypatch, wrong):
    def told(model, processor, clips, questions):
        made, texts = [], iter(exchanges)
        for clip, question in zip(clips, questions, strict=True):
            said = next(texts)
            assert said.question == question
            masks = np.stack([clip.masks(span.objects) for span in said.answer.spans]) if said.answer.spans else None
            masks = np.zeros((0, *clip.ids.shape), bool) if masks is None else masks
            made.append((said.answer, ~masks if wrong else masks))
        return made

    exchanges = []
    own = caption_recipe.exchange

    def kept(*arguments):
        said = own(*arguments)
        exchanges.extend([said] if said else [])
        return said

    monkeypatch.setattr(caption_recipe, "exchange", kept)
    monkeypatch.setattr(caption_recipe, "answers", told)
    found = caption_recipe.judge(None, run[1], clips=6)
    assert found["precision"] == found["recall"] == 1 and found["clips"] == 6
    assert all(row["exact"] == 1 for row in found["kinds"].values())
    if wrong:
        assert found["miou"] < 0.5 and found["mask_recall"] == 0
    else:
        assert found["miou"] == found["mask_recall"] == found["kinds"]["appearance"]["iou"] == 1


def test_an_untrained_model_is_judged_too(run, monkeypatch):
    monkeypatch.setattr(caption_recipe, "WRITTEN", 4)
    model = assembled(run[1].config, None, seed=0)["model"].eval()
    found = caption_recipe.judge(model, run[1], clips=1)
    assert found["precision"] == found["recall"] == found["miou"] == 0
    write_json(run[0] / "judged.json", found)  # plain numbers


def test_words_look_at_the_object_that_they_are_about(run):
    processor = run[1]
    answer = GroundedText.joined(["There are ", ("a red star", [2]), " and ", ("a red star", [0]), "."])
    tokens = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer.encode(answer.marked + "<|end|>"))
    about = subjects(processor, answer)
    begins = [at for at, token in enumerate(tokens) if token == "<p> "]
    assert about == [NOBODY] * begins[0] + [2] * (begins[1] - begins[0]) + [0] * (len(tokens) - begins[1])

    one = Seen.of(10_000_000, 12, 4)
    told = ask(np.random.default_rng(0), one.said, 1.0)
    owners = visual_owners(processor.config, [one])[0]
    assert len(owners) == 4 * 6**2 + 4 * 4**2
    ids = processor.tokens(told.question, told.answer.marked)["labels"]
    first, place = 3, int((ids == IGNORED).sum()) + len(owners)
    labels = torch.full((1, len(ids) + len(owners)), IGNORED)
    labels[0, place:] = ids[ids != IGNORED]
    there, away = (torch.zeros(2, 1, 4, labels.shape[1], labels.shape[1]) for _ in range(2))
    for at, thing in enumerate(subjects(processor, told.answer)):
        shown = owners == thing + 1
        for looks, at_it in ((there, shown), (away, ~shown)):
            looks[:, 0, :, place + at - 1, first : first + len(owners)] = at_it / at_it.sum().clamp(min=1)
    right, wrong = (look_loss(processor, [one], [told], labels, list(looks), first) for looks in (there, away))
    assert right == pytest.approx(0, abs=1e-4) and wrong > 10
