"""The recipe of Nano-Molmo2 at a size of seconds: what it begins with, what guides it, and one command through it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from videomolmo.cli import main
from videomolmo.lab.nano import checkpoint, molmo2_examples, molmo2_recipe, molmo2_stage, molmo2_start, molmo2_vision
from videomolmo.lab.nano.checkpoint import load_weights
from videomolmo.lab.nano.molmo2_examples import Batches, Clips, message_of, points_in, window_labels
from videomolmo.synth.event_questions import ask_about
from videomolmo.systems.molmo2 import load_molmo2

pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = Clips("point", 3.0, batch=1, questions=2, categories=("object", "animal"))


class Killed(Exception):
    """Stands for a signal that nobody catches."""


@pytest.fixture(scope="module")
def begun():
    """A model that has what the shipped one knows, but no connector yet, and its processor."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(molmo2_recipe, "EXAMPLES", 24)
        processor = molmo2_recipe.nano_processor()
    model, shipped = molmo2_recipe.nano_model(processor.tokenizer, seed=1), molmo2_vision.shipped_model()
    molmo2_vision.begin_vision(model.model.vision_tower, shipped)
    molmo2_start.begin_language(model, processor.tokenizer, shipped)
    return model, processor


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(molmo2_vision, "FRAMES", 8)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_EVERY", 1)


def test_a_tower_learns_to_see_what_the_shipped_one_sees_and_survives_being_killed(begun, small, tmp_path, monkeypatch):
    model, processor = begun
    assert sum(one.numel() for one in model.parameters()) * 2 <= 8e6
    shipped, tower = molmo2_vision.shipped_model(), model.model.vision_tower
    fresh = molmo2_vision.FRESH
    assert torch.equal(tower.layers[fresh + 2].mlp.fc1.weight, shipped.vision.blocks[2].up.weight)
    frames, begin = molmo2_vision.frames_of(7, 0), {name: value.clone() for name, value in tower.state_dict().items()}
    assert frames.shape == (8, 96, 96, 3)
    before = molmo2_vision.unlike(model, processor, shipped, frames).item()
    molmo2_vision.distil(model, processor, tmp_path / "plain", steps=4, seed=7)
    assert molmo2_vision.unlike(model, processor, shipped, frames).item() < before
    whole = {name: value.clone() for name, value in tower.state_dict().items()}
    own = checkpoint.save_progress

    def save(*arguments) -> None:
        own(*arguments)
        raise Killed

    tower.load_state_dict(begin)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "save_progress", save)
        molmo2_vision.distil(model, processor, tmp_path / "killed", steps=4, seed=7)
    tower.load_state_dict(begin)
    molmo2_vision.distil(model, processor, tmp_path / "killed", steps=4, seed=7)
    assert all(torch.equal(value, whole[name]) for name, value in tower.state_dict().items())


def test_the_shipped_tower_gives_the_features_that_the_connector_reads(begun):
    model, _ = begun
    tower, frames = molmo2_vision.ShippedTower(), torch.randn(2, 144, 192)
    hidden = tower(frames).hidden_states
    deep, early = model.config.adapter_config.vision_feature_layer
    shipped = tower.shipped[0].vision.selected_hidden(frames)
    assert torch.equal(hidden[early + 1], shipped[1][:, 1:]) and not list(tower.parameters())
    places = (hidden[deep + 1] - shipped[0][:, 1:]).unflatten(1, (6, 2, 6, 2))  # added where the shipped connector does
    torch.testing.assert_close(places, places[:, :, :1, :, :1].expand_as(places), atol=1e-5, rtol=0)
    assert places[:, :, 0, :, 0].flatten(1, 2).std(1).min() > 0.01


def test_words_begin_as_the_shipped_model_knows_them_and_new_layers_as_nothing(begun):
    model, processor = begun
    shipped = molmo2_vision.shipped_model()
    language, tokenizer = model.model.language_model, processor.tokenizer
    known = molmo2_start.VideoMolmoProcessor.from_pretrained(molmo2_recipe.nano_pointing_96()).tokenizer
    for word in (" red", " circle", "7"):
        (own,), (theirs,) = (one.encode(word, add_special_tokens=False) for one in (tokenizer, known))
        assert torch.equal(language.embed_tokens.weight[own], shipped.language.embed_tokens.weight[theirs])
        assert torch.equal(model.lm_head.weight[own], language.embed_tokens.weight[own])
    hidden = torch.randn(1, 5, 128)
    places = language.rotary_emb(hidden, torch.arange(5)[None])
    mask = torch.full((5, 5), -1e9).triu(1)[None, None]
    for number, layer in enumerate(language.layers):
        same = torch.equal(layer(hidden, position_embeddings=places, attention_mask=mask), hidden)
        assert same == (number >= len(shipped.language.layers))


def test_digits_are_single_tokens_and_the_grammar_is_short(begun):
    tokenizer = begun[1].tokenizer
    text = '<points coords="0.5 1 034 999">circles</points><|im_end|>'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and len(ids) < 32
    assert len(tokenizer.encode("0123456789", add_special_tokens=False)) == 10
    assert len(tokenizer.encode("There are none.", add_special_tokens=False)) == 1
    assert tokenizer.eos_token_id < molmo2_recipe.VOCABULARY <= tokenizer.convert_tokens_to_ids("<|video|>")


@pytest.mark.parametrize("task", ["point", "track"])
def test_a_token_that_writes_of_a_point_looks_at_its_window_in_its_frame(begun, task):
    clip, asked = molmo2_examples.draw(np.random.default_rng(3), Clips(task, 4.0, questions=4), 96)
    batch = molmo2_examples.batch_of(begun[1], np.random.default_rng(3), task, [(clip, asked)], 6)
    rng = np.random.default_rng(3)
    points = [point for one in asked for point in points_in(message_of(rng, clip, one, task).answer)]
    digits = {text: begun[1].tokenizer.encode(text, add_special_tokens=False)[0] for text in "0123456789"}
    looks = {int(token): at for at, (_, token) in enumerate(batch["look"])}
    written = [
        [batch["look_at"][looks[token]].argmax().item() // 36, *batch["look_place"][looks[token]].tolist()]
        for token in batch["loss_masks"][0].eq(molmo2_examples.LEADING).nonzero()[:, 0].tolist()
        if token in looks and batch["targets"][0, token] in digits.values()
    ][::2]  # the first digit of x; that of y follows
    assert len(written) == len(points) > 1
    for (frame, x, y), point in zip(written, points, strict=True):
        assert clip.times_s[frame] == pytest.approx(point.time_s)
        assert (x, y) == pytest.approx((point.x / 1000, point.y / 1000))


def test_labels_say_what_windows_show_and_what_becomes_of_it():
    clip, _ = ask_about(11, "action or event", duration_s=3.0)
    labels = window_labels(clip, 6)
    for event in clip.events:
        at = int(np.abs(clip.times_s - event.time_s).argmin())
        verb = molmo2_examples.HAPPENINGS.index(event.verb)
        for thing in event.things:
            here = labels["owner"][at] == thing
            assert (labels["now"][at, here, verb] == 1).all()
            assert (labels["ever"][labels["owner"] == thing][:, verb] == 1).all()
    there = labels["owner"] >= 0
    assert there.any() and np.isnan(labels["now"][~there]).all()
    kinds = [molmo2_examples.KIND_CLASSES[kind] for kind in labels["kind"][there]]
    assert {*kinds} <= {thing.kind for thing in clip.things} and (labels["kind"][~there] == 0).all()


def test_the_attention_that_is_guided_is_the_models_own(begun):
    model, processor = begun
    language, batch = model.model.language_model, Batches(processor, [replace(SHORT, batch=2)], 1, 1, 1)[0]
    embeds = torch.randn(*batch["input_ids"].shape, 128)
    mask = torch.where(batch["allowed"], 0.0, torch.finfo(torch.float32).min)[:, None]
    language.set_attn_implementation("eager")
    with torch.no_grad(), molmo2_stage.looking(language) as looks:
        out = language(inputs_embeds=embeds, attention_mask=mask, position_ids=batch["position_ids"].clamp(min=0),
                       output_attentions=True)  # fmt: skip
    language.set_attn_implementation("sdpa")
    row, token = batch["look"].unbind(1)
    for number, kept in looks.items():
        found = molmo2_stage.attention_of(*kept, row, token, batch["allowed"])
        torch.testing.assert_close(found, out.attentions[number][row, :2, token], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("vision, stand_in", [(0.0, True), (0.0, False), (0.3, False)])
def test_a_stage_lowers_its_loss_and_goes_on_to_the_same_weights(begun, small, tmp_path, monkeypatch, vision, stand_in):
    model, processor = begun
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    shown = (SHORT, replace(SHORT, task="picture"))
    stage = molmo2_stage.Stage("try", 4, 1e-3, shown, stand_in=stand_in, vision=vision)
    whole = load_weights(molmo2_stage.train_stage(model, processor, stage, tmp_path / "plain", None, 1))
    same = [torch.equal(whole[f"model.{name}"], value) for name, value in begin.items() if ".vision_tower." in name]
    assert any(same) == (not vision) and not torch.equal(whole["model.lm_head.weight"], begin["lm_head.weight"])
    own = checkpoint.save_progress

    def save(*arguments) -> None:
        own(*arguments)
        raise Killed

    model.load_state_dict(begin)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "save_progress", save)
        molmo2_stage.train_stage(model, processor, stage, tmp_path / "killed", None, 1)
    model.load_state_dict(begin)
    again = load_weights(molmo2_stage.train_stage(model, processor, stage, tmp_path / "killed", None, 1))
    model.load_state_dict(begin)
    assert again.keys() == whole.keys() and all(torch.equal(again[name], value) for name, value in whole.items())


def test_one_command_goes_through_all_stages(small, tmp_path, monkeypatch):
    monkeypatch.setattr(molmo2_recipe, "EXAMPLES", 24)
    monkeypatch.setattr(molmo2_start, "FRAMES", 8)
    few = [
        replace(stage, clips=tuple(replace(one, seconds=3.0, batch=1, questions=1) for one in stage.clips))
        for stage in molmo2_recipe.STAGES
    ]
    monkeypatch.setattr(molmo2_recipe, "STAGES", few)
    command = ["train-nano", "--only", "molmo2", "--share", "0.00001", "--threads", "1", "--out", str(tmp_path)]
    assert main(command) == 0 and (tmp_path / "molmo2" / "recipe.json").is_file()
    assert (tmp_path / "molmo2" / "model.safetensors").stat().st_size <= 8e6
    model, _ = load_molmo2(tmp_path / "molmo2")
    assert model.config.model_type == "molmo2"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert main(command) == 0
    again = load_molmo2(tmp_path / "molmo2")[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items())
