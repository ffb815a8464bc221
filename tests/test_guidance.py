"""What training shows besides the text: ways that objects came, turns that answers take, clips encoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_training import CLIPS, STAGE, processor

from videomolmo.lab.nano import pointing_stage
from videomolmo.lab.nano.auxiliary_losses import ProbeHeads
from videomolmo.lab.nano.batches import Example, answer, mirrored, text_inputs, window_labels
from videomolmo.lab.nano.rendered_clips import RenderedClips, render_all
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.synth.scene import ObjectFacts
from videomolmo.synth.sentences import Query


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> RenderedClips:
    folder = tmp_path_factory.mktemp("clips")
    render_all(CLIPS, folder, workers=1)
    return RenderedClips(folder)


def walking_square(points: list[tuple[float, float]] = ()) -> Example:
    """A square of 24 pixels that walks 4 pixels to the right a frame; absent on the second of five frames."""
    ids = np.zeros((5, 96, 96), np.uint8)
    for time in (0, 2, 3, 4):
        ids[time, 32:56, 8 + 4 * time : 32 + 4 * time] = 1
    frames = np.repeat(ids[..., None] * 200, 3, axis=-1)
    thing = ObjectFacts("square", "red", "right", True, (36 / 96, 44 / 96))
    query = Query("all", "the squares", "square", plural=True)
    question = ("Point to the squares.", answer(query, list(points)))
    return Example(frames, ids, [thing], [query], [question], [list(points)])


def test_the_way_is_measured_from_the_past_frames_that_show_the_object() -> None:
    facts = window_labels(walking_square(), 6)
    way = 4 * (4 - (0 + 2 + 3) / 3) / 96
    shown = facts["shape"] > 0
    assert shown.sum() >= 2 and np.allclose(facts["moved"][shown], (way, 0), atol=1e-6)
    assert np.isnan(facts["moved"][~shown]).all()


def test_the_way_turns_with_the_mirror() -> None:
    example = walking_square()
    for code, sign in ((0, (1, 0)), (1, (-1, 0)), (2, (1, 0)), (4, (0, 1)), (5, (0, -1))):
        frames, ids, things = mirrored(example.frames, example.ids, example.objects, code)
        facts = window_labels(Example(frames, ids, things, [], [], []), 6)
        assert np.array_equal(np.sign(facts["moved"][facts["shape"] > 0][0].round(4)).astype(int), sign)


@pytest.mark.parametrize("points", [[(0.2, 0.4), (0.5, 0.1), (0.8, 0.9)], [(0.3, 0.3)], []])
def test_an_answer_turns_at_its_start_and_after_each_point_of_a_list(points: list) -> None:
    own = processor()
    batch = text_inputs(own, [walking_square(points)])
    turns = [place[~place[:, 0].isnan()] for place in batch["choice_points"]]
    after = [points[n + 1 : n + 2] for n in range(len(points))] if len(points) > 1 else []
    assert [len(turn) for turn in turns] == [len(points), *map(len, after)]
    assert torch.allclose(turns[0], torch.tensor(points).reshape(-1, 2))
    row, token = batch["choices"].unbind(1)
    written = [own.tokenizer.decode([piece]) for piece in batch["targets"][row, token].tolist()]
    assert [piece.strip().startswith('" x') or "x" in piece for piece in written[1:]] == [bool(a) for a in after]
    assert (batch["asked"][row, token, 0] >= 0).all() and (batch["weights"][row, token] >= 2.9).all()


def test_kept_batches_are_encoded_once_and_lose_nothing(clips: RenderedClips) -> None:
    own = processor()
    stage = pointing_stage.replace(STAGE, steps=6, cached_batches=2, vision_rate=0.0)
    torch.manual_seed(0)
    model = VideoMolmoForConditionalGeneration(own.config, attn_implementation="eager")
    calls = []
    encode = pointing_stage.encoder(model, stage, "cpu")
    kept = list(pointing_stage.batches(own, clips, stage, 0, 0, lambda batch: calls.append(1) or encode(batch)))
    assert len(calls) == 2
    assert kept[0]["features"].data_ptr() == kept[2]["features"].data_ptr() != kept[1]["features"].data_ptr()
    assert kept[1]["past"].data_ptr() == kept[5]["past"].data_ptr()
    assert "pixels" not in kept[0] and kept[0]["past"].shape[1] == 1
    raw = next(pointing_stage.batches(own, clips, stage, 0, 0))
    heads = ProbeHeads(128, 256, 8)
    with torch.no_grad():
        whole, halved = (pointing_stage.step_loss(model, heads, batch, stage)[0] for batch in (raw, kept[0]))
    assert whole.item() == pytest.approx(halved.item(), rel=2e-3)


def test_kept_batches_come_with_new_questions_that_fit_their_clips(clips: RenderedClips) -> None:
    """The text of every pass is another one, about the same pictures, and the same after a resume."""
    own = processor()
    stage = pointing_stage.replace(STAGE, steps=6, cached_batches=2, vision_rate=0.0)
    whole = list(pointing_stage.batches(own, clips, stage, 0, 0))
    first, second, third = whole[0::2]
    texts = [own.decode([one for one in batch["input_ids"].flatten().tolist() if one >= 0]) for batch in whole[0::2]]
    assert len(set(texts)) == 3 and torch.equal(first["window_point"].nan_to_num(), third["window_point"].nan_to_num())
    for batch in (second, third):
        shown = {tuple(point) for point in batch["window_point"].flatten(0, -2).tolist()}
        named = batch["places"][~batch["places"][..., 0].isnan()].tolist()
        assert named and sum(tuple(point) in shown for point in named) > 0.7 * len(named)  # small ones fill no window
    resumed = next(iter(pointing_stage.batches(own, clips, stage, 0, 4)))
    assert torch.equal(resumed["input_ids"], third["input_ids"])


def test_stills_are_their_own_past_and_say_nothing_of_motion(clips: RenderedClips) -> None:
    own = processor()
    clean = {"language": False, "short_history_prob": 0.0, "questions": 1}
    stage = pointing_stage.replace(STAGE, steps=8, static_prob=0.5, **clean)
    pictures = RenderedClips.__new__(RenderedClips)
    pictures.frames, pictures.ids, pictures.objects = clips.frames[:, -1:], clips.ids[:, -1:], clips.objects
    made = list(pointing_stage.batches(own, clips, stage, 0, 0, pictures=pictures))
    stills = [batch for batch in made if "past_pixels" not in batch]
    assert 0 < len(stills) < len(made)
    assert all((batch["window_motion"] == 0).all() and batch["window_moved"].isnan().all() for batch in stills)
    assert all(bool((batch["window_motion"] > 0).any()) for batch in made if "past_pixels" in batch)
    torch.manual_seed(0)
    model, heads = VideoMolmoForConditionalGeneration(own.config, attn_implementation="eager"), ProbeHeads(128, 256, 8)
    past = stills[0]["pixels"][:, None].expand(-1, own.config.context, -1, -1, -1)
    with torch.no_grad():
        alone, spelt_out = (
            pointing_stage.step_loss(model, heads, batch, stage)[0]
            for batch in (stills[0], stills[0] | {"past_pixels": past})
        )
    assert alone.item() == pytest.approx(spelt_out.item(), rel=1e-5)
    pointing_stage.step_loss(model, heads, stills[0], stage)[0].backward()
    assert model.vision.stem.layers[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="static_prob goes with neither"):
        pointing_stage.replace(stage, cached_batches=2)


def test_motion_is_judged_where_it_is_named() -> None:
    torch.manual_seed(0)
    heads = ProbeHeads(128, 256, 8)
    tokens, windows = torch.randn(1, 36, 128), torch.randn(1, 36, 4, 256)
    nothing = {"window_motion": torch.full((1, 36), -100), "window_moved": torch.full((1, 36, 2), torch.nan)}
    loss, right = heads.motion_loss(tokens, windows, nothing)
    assert loss == 0 and np.isnan(right)
    named = {name: value.clone() for name, value in nothing.items()}
    named["window_motion"][0, 7] = heads.motion(tokens)[0, 7].argmax()
    if named["window_motion"][0, 7] > 0:
        assert heads.motion_loss(tokens, windows, named)[1] == 1.0
    named["window_moved"][0, 7] = torch.tensor([0.02, 0.0])
    assert heads.motion_loss(tokens, windows, named)[0].isfinite()
