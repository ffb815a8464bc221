"""The recipe of Nano-GLaMM at a size of seconds: killed and resumed to the same bits, and judged at its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.fusion import iou
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.lab.nano import caption_recipe, checkpoint
from videomolmo.lab.nano.caption_attention import NOBODY, look_loss, should_look, subjects, visual_owners
from videomolmo.lab.nano.caption_batches import FACTS, Seen, ask, centres, classes, facts, patch_owners, text_inputs
from videomolmo.lab.nano.caption_packing import ask_several, pack
from videomolmo.lab.nano.caption_stage import PARTS, Stage, assembled, optimiser_of, train_stage
from videomolmo.lab.nano.checkpoint import load_weights
from videomolmo.masks.sam2 import load_nano
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.model.vision import VisionTower
from videomolmo.results import GroundingResult
from videomolmo.synth.captions import GroundedText
from videomolmo.systems.videoglamm import VideoGLaMMForConditionalGeneration, VideoGLaMMProcessor
from videomolmo.systems.videoglamm.losses import word_loss
from videomolmo.systems.videoglamm.splice import IGNORED
from videomolmo.weights.hub import nano_masks, nano_pointing_96, sample_clip, sample_truth

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a tokenizer in it, and the processor of it."""
    folder = tmp_path_factory.mktemp("glamm")
    return folder, caption_recipe.processor_of(folder)


@pytest.fixture
def small(monkeypatch):
    """The stages with two clips a step."""
    stages = tuple(
        replace(one, batch=2, frames=4, cached_batches=min(one.cached_batches, 1)) for one in caption_recipe.STAGES
    )
    monkeypatch.setattr(caption_recipe, "STAGES", stages)
    return stages


class Killed(Exception):
    """Stands for a signal that nobody catches."""


def test_one_command_trains_all_stages_and_a_killed_stage_goes_on_to_the_same_bits(small, run, tmp_path, monkeypatch):
    folder, _ = run
    command = ["train-nano", "--only", "glamm", "--share", "0.0001", "--threads", "1", "--out", str(folder)]
    assert main(command) == 0 and (folder / "glamm" / "recipe.json").is_file()
    assert (folder / "glamm" / "model.safetensors").stat().st_size < 8e6
    model = VideoGLaMMForConditionalGeneration.from_pretrained(folder / "glamm")
    processor = VideoGLaMMProcessor.from_pretrained(folder / "glamm")
    frames = Seen.of(10_000_000, 12, 4).frames
    assert model.write(processor(frames, "What is red?")["input_ids"][None, :1], max_new_tokens=2).ids.shape[1] <= 3

    own = checkpoint.save_progress

    def save(*arguments) -> None:
        own(*arguments)
        raise Killed

    done = [folder / f"glamm_{stage.name}" / "weights.safetensors" for stage in small]
    monkeypatch.setattr(checkpoint, "CHECKPOINT_EVERY", 1)
    for stage, begin, whole in ((small[0], None, done[0]), (small[-1], done[-2], done[-1])):
        arguments = (processor.config, processor, replace(stage, steps=2), tmp_path / stage.name, begin, 1)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(checkpoint, "save_progress", save)
            train_stage(*arguments)
        weights, wanted = load_weights(train_stage(*arguments)), load_weights(whole)
        assert all(torch.equal(value, wanted[name]) for name, value in weights.items())


def test_each_stage_trains_its_parts_alone(run):
    both = assembled(run[1].config, None, seed=0)
    for task, parts in (("see", ("video",)), ("segment", ("decoder",)), ("ground", ("language", "projector"))):
        optimiser_of(both, Stage("any", task, 2, 2, 1e-3, parts))
        learning = {name for name, value in both.named_parameters() if value.requires_grad}
        begins = tuple(f"model.{begin}" for part in parts for begin in PARTS[part])
        own = {name for name in learning if name.startswith("model.")}
        assert own == {name for name, _ in both.named_parameters() if name.startswith(begins)} and own
        assert {name.split(".")[1].split("_")[0] for name in learning - own} == {
            "see": {"see"}, "segment": {"prompt"}, "ground": set(),
        }[task]  # fmt: skip
    with pytest.raises(ValueError, match="cached_batches"):
        Stage("any", "see", 2, 2, 1e-3, ("video",), cached_batches=1)


def test_the_file_leaves_out_the_shipped_encoders_and_fits_in_eight_megabytes(run, tmp_path):
    model = assembled(run[1].config, None, seed=0)["model"].eval()
    shipped = load_nano(nano_masks()).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in model.sam2.state_dict().items())
    with torch.no_grad():
        model.sam2.sam_mask_decoder.iou_token.weight += 1
    model.save_pretrained(tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < 8e6
    assert [name for name in stored if ".visual_model." in name] == [
        "model.visual_model.sam_mask_decoder.iou_token.weight"
    ]
    assert not any("image_vision_tower.vision_tower.vision_model.encoder" in name for name in stored)
    again = VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name
    save_file({name: value for name, value in stored.items() if "lm_head" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="lm_head"):
        VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path)


def test_clip_sees_what_the_pointing_model_sees(run):
    clip = assembled(run[1].config, None, seed=0)["model"].model.image_vision_tower
    pointing = VideoMolmoForConditionalGeneration.from_pretrained(nano_pointing_96(), dtype=torch.float32)
    frame = Seen.of(10_000_000, 12, 4).frames[:1]
    pixels = run[1].views(np.repeat(frame, 4, axis=0))["context_images"][:1]
    patches = rearrange(pixels, "n c (y j) (x i) -> n (y x) (j i c)", j=8, i=8)
    tower = next(module for module in pointing.modules() if isinstance(module, VisionTower))
    with torch.no_grad():
        x = torch.cat([tower.class_embedding.expand(1, 1, -1), tower.stem(patches)], 1) + tower.positional_embedding
        x = tower.pre_norm(x)
        for block in tower.blocks[:3]:
            x = block(x)
        assert torch.allclose(clip(pixels), x[:, 1:], atol=1e-4)


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

        wanted = [getattr(one.said.objects[number - 1], name) for name in FACTS] if number else [None] * len(FACTS)
        assert facts([one], owners)[0, frame, patch].tolist() == [-1 if fact is None else fact for fact in wanted]
        rows, columns = np.nonzero(one.ids[frame] == number)
        middle = [columns.mean() / 96, rows.mean() / 96] if number else [0, 0]
        assert centres([one], owners)[0, frame, patch].tolist() == pytest.approx(middle, abs=1e-6)


def test_questions_packed_behind_one_clip_cost_what_they_cost_alone(run):
    processor = run[1]
    model = assembled(processor.config, None, seed=0)["model"].eval()
    clips = [Seen.of(10_000_000 + number, 12, 4) for number in range(2)]
    exchanges = [ask_several(np.random.default_rng(number), one.said, 4) for number, one in enumerate(clips)]
    assert [told.kind for asked in exchanges for told in asked].count("caption") == 2
    flat = [(one, told) for one, asked in zip(clips, exchanges, strict=True) for told in asked]
    inputs = text_inputs(processor, *zip(*flat, strict=True), masks=False)
    seen = [processor.views(one.frames) for one, _ in flat]
    with torch.no_grad():
        visual = [model.visual_tokens(**processor.views(one.frames)) for one in clips]
        rows = pack(processor, clips, exchanges, visual, model.model.embed_tokens)
        packed = model.model(inputs_embeds=rows.embeds, attention_mask=rows.mask(), position_ids=rows.positions)
        alone = model(
            **{name: value for name, value in inputs.items() if name != "meant"},
            **{name: [one[name] for one in seen] for name in ("images", "context_images")},
        )
    loss = word_loss(model.lm_head(packed.last_hidden_state), rows.labels)
    assert loss.item() == pytest.approx(alone.ce_loss.item(), abs=1e-5)
    vectors = model.model.text_hidden_fcs[0](packed.last_hidden_state[rows.segments])
    assert torch.allclose(vectors, torch.cat(alone.segments), atol=1e-5) and torch.equal(rows.meant, inputs["meant"])


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
    should = should_look(processor, [one], [[told]], labels)
    right, wrong = (look_loss(should, list(looks), first) for looks in (there, away))
    assert right == pytest.approx(0, abs=1e-4) and wrong > 10


def test_the_shipped_model_describes_the_sample_clip_and_finds_what_it_is_asked_for(tmp_path, capsys):
    assert main(["describe", str(sample_clip()), "--out", str(tmp_path / "told"), "--device", "cpu"]) == 0
    told = GroundingResult.load(tmp_path / "told").caption
    assert "red" in told.text and "circle" in told.text and len(told.phrases) >= 2
    command = ["ground", str(sample_clip()), "the red circle", "--model", "nano-glamm", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "found")]) == 0
    found = GroundingResult.load(tmp_path / "found")
    truth = open_truth(sample_truth(), found.frames, (found.height, found.width))
    assert found.objects == 1
    assert np.mean([iou(found.masks[at][0], truth.masks(at)[0]) for at in range(found.frames)]) > 0.6
