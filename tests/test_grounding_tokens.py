"""Points as three chosen tokens: places on a frame, order, feedback, losses, files, and what the variant works in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_runs import TINY, recipe_of, rows_of_blocks, tiny_model

from videomolmo import VideoGrounder
from videomolmo.errors import BadInput
from videomolmo.lab.nano import batches, recipe
from videomolmo.lab.nano.pointing_stage import Stage, train_stage
from videomolmo.lab.nano.rendered_clips import RenderedClips, RenderSpec, render_all
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.model.config import ImageConfig
from videomolmo.model.point_heads import CLOSED
from videomolmo.model.token_heads import RULES
from videomolmo.model.token_order import in_order
from videomolmo.model.token_places import Places
from videomolmo.model.tokenizer import load_tokenizer
from videomolmo.pointing import VideoMolmoPointer
from videomolmo.points import read_points, write_points
from videomolmo.training.trainer import train
from videomolmo.weights.hub import nano_pointing_96
from videomolmo.weights.published import to_published

pytestmark = pytest.mark.usefixtures("one_thread")
CHOOSING = replace(TINY, points="tokens", point_width=16)  # 2 x 2 image tokens of 2 x 2 patches
LIST = '<points x1="12.0" y1="60.0" x2="70.3" y2="10.0" alt="red block">red block</points>'
ONE = '<point x="90.0" y="30.0" alt="block">block</point>'
TREE = [["Point to the red block.", LIST], ["Where is it?", "There are none."], ["Find the block.", ONE]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tokens"), CHOOSING)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder))


def build(config: VideoMolmoConfig = CHOOSING, attention: str = "sdpa") -> VideoMolmoForConditionalGeneration:
    """Random weights, all of which say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = VideoMolmoForConditionalGeneration(config, attention).eval()
        for value in model.token_heads.parameters():
            value.data += 0.3 * torch.randn_like(value)
    return model


def video(frames: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def example(tokenizer, config: VideoMolmoConfig, tree=TREE, seed: int = 0) -> dict[str, Tensor]:
    frames = video(seed=seed)
    return VideoMolmoProcessor(tokenizer, config).training_example(frames[-1], tree, frames[:-1])


def prompts(tokenizer, config: VideoMolmoConfig, *questions: str) -> dict[str, Tensor]:
    processor = VideoMolmoProcessor(tokenizer, config)
    asked = [processor(video(seed=at)[-1], text, video(seed=at)[:-1]) for at, text in enumerate(questions)]
    return {name: value for name, value in collate(asked).items() if name not in ("targets", "loss_masks")}


IMAGES = (
    CHOOSING.image, ImageConfig(size_px=32, patch_px=8, max_crops=0, resize="pad"),
    ImageConfig(size_px=64, patch_px=8, margins=(2, 2), max_crops=6),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    image=st.sampled_from(IMAGES), size=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)  # fmt: skip
def test_points_land_in_the_cell_that_was_chosen(image, size, points):
    places, points = Places.of(*size, image), np.array(points)
    chosen = places.chosen(points)
    again = places.points(chosen)
    cell = 1 / 3 / np.array(places.span[::-1])  # width and height, as shares of the frame
    assert (np.abs(again - points) <= cell / 2 + 1e-9).all()
    inside = ((points > cell) & (points < 1 - cell)).all(axis=1)  # others may be moved into the frame
    assert np.array_equal(places.chosen(again[inside]), chosen[inside])
    assert ((chosen >= [places.first, 0, 0]) & (chosen < [image.most_tokens, 4, 9])).all()


def test_chosen_places_are_tokens_of_the_frame_and_listed_in_their_order():
    config = replace(CHOOSING, image=IMAGES[2])
    places, layout = Places.of(96, 128, config.image), VideoMolmoProcessor(_Letters(), config).image.layout(96, 128)
    at = layout.input_idx[layout.input_idx >= 0].sort().values
    first, *rest = places.chosen(np.array([[0.01, 0.01], [0.99, 0.99]]))[:, 0].tolist()
    assert (first, rest) == (config.image.windows, [len(at) - 1])  # the overview comes before, and nothing after
    points = np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.1], [0.101, 0.101]])
    chosen, which = places.listed(points)
    assert which[0] in (2, 3) and which[1:].tolist() == [0, 1] and chosen.tolist() == sorted(chosen.tolist())


class _Letters:
    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [1 + ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(one - 1) for one in ids)


@pytest.mark.parametrize("image", IMAGES)
def test_an_answer_is_three_tokens_a_point_and_reads_as_before(image):
    config = replace(CHOOSING, image=image)
    processor, size = VideoMolmoProcessor(_Letters(), config), (96, 128)
    model_free = processor.tokens(size, [["Where?", f"Here: {LIST} and no more."]])
    (first, sub, cell), ids = config.language.point_ids, model_free["targets"].tolist()
    assert ids.count(first) == 3 and ids.count(sub) == ids.count(cell) == 2 and len(model_free["points"]) == 3
    assert model_free["points"][-1].tolist() == [CLOSED, -1, -1]
    meaning = build(config).token_heads.ids
    told, points = [], iter([*model_free["points"][:2].tolist(), [CLOSED] * 3])
    for one in ids[ids.index(first) :]:
        if one == first:
            token, slot, place = next(points)
        number = {first: meaning.closed if one == first and token == CLOSED else meaning.words + token,
                  sub: meaning.closed + 1 + slot, cell: meaning.cells + place}.get(one, one)  # fmt: skip
        told += [number] if one != config.language.end_of_text else []
    text = processor.decode(told, size)
    found, wanted = read_points(text, *size), read_points(LIST, *size)
    assert found.outcome == "found" and found.label == "red block" and text.endswith("</points> and no more.")
    assert np.abs(found.points_px - wanted.points_px).max() < 8
    cut = processor.decode(told[:4], size)
    assert read_points(cut, *size).problem.startswith("cut off") and cut.startswith('<point x="')
    assert processor.decode(told[:1], size) == "<point"


def test_the_order_of_a_list():
    ids = build().token_heads.ids
    first, slot, cell = ids.words, ids.closed + 1, ids.cells

    def able(*written: int) -> list[int]:
        return in_order(written, ids, RULES).nonzero()[:, 0].tolist()

    assert able(5) == [*range(ids.words), *range(first, ids.closed)]  # a list does not begin with its end
    assert able(5, first + 1, slot, cell) == list(range(first + 1, slot))  # and has no words in it
    assert able(5, first + 1, slot + 3, cell) == list(range(first + 2, slot))
    assert able(5, first + 1, slot, cell, first + 1) == list(range(slot + 1, cell))
    assert able(5, first + 1, slot, cell, ids.closed) == list(range(ids.words))


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_what_is_written_one_by_one_is_what_the_whole_says(tokenizer, attention):
    config = replace(CHOOSING, image_attention=attention)
    model = build(config)
    model.token_heads.word.data *= 40  # points are liked or not, for sure
    ids, many = model.token_heads.ids, prompts(tokenizer, config, "Point to it.", "Where is the red block in this?")
    with torch.no_grad():
        normed = model(many["input_ids"][:1], **{k: many[k][:1] for k in ("pixels", "past_pixels", "image_input_idx")})
        if normed.logits[0, -1].argmax() != config.language.point_ids[0]:
            model.token_heads.word.data.neg_()
    options = {"max_new_tokens": 24, "eos_token_id": None}
    both = model.generate(**many, **options)[:, -24:]
    alone = model.generate(**{name: value[:1] for name, value in many.items()} | {
        "input_ids": many["input_ids"][:1, : int((many["input_ids"][0] >= 0).sum())]}, **options)  # fmt: skip
    assert torch.equal(alone[0, -24:], both[0])
    written = both[0].tolist()
    assert any(one >= ids.words for one in written)
    for at, number in enumerate(written):
        assert in_order(written[:at], ids, RULES)[number]
    _as_whole(model, many, written)


def _as_whole(model: VideoMolmoForConditionalGeneration, many: dict[str, Tensor], written: list[int]) -> None:
    """In one pass over prompt and answer the places that were written score best of those that may come."""
    ids, (word, sub, cell) = model.token_heads.ids, model.config.language.point_ids
    last = max(at for at, one in enumerate(written) if one == ids.closed or one >= ids.cells)
    kept, points = written[: last + 1], []
    for at, one in enumerate(kept):
        if ids.part(one) == "patch":
            points.append([one - ids.words, kept[at + 1] - ids.closed - 1, kept[at + 2] - ids.cells])
        elif one == ids.closed:
            points.append([CLOSED, -1, -1])
    names = {"patch": word, "closed": word, "slot": sub, "cell": cell}
    asked = many["input_ids"][:1, : int((many["input_ids"][0] >= 0).sum())]
    answer = torch.tensor([[names.get(ids.part(one), one) for one in kept]])
    row = {name: many[name][:1] for name in ("pixels", "past_pixels", "image_input_idx")}
    targets = torch.zeros(1, asked.shape[1] + len(kept), dtype=torch.long)
    with torch.no_grad():
        out = model(torch.cat([asked, answer], 1), **row, points=torch.tensor([points]), targets=targets)
    wanted = torch.tensor(points)[:, 0].clamp(max=out.point_logits.patch.shape[1] - 1)
    scores, before = out.point_logits.patch, -1
    for at, (_, slot, _) in enumerate(points):
        able = scores[at].clone()
        if at == 0:
            able[-1] = -torch.inf  # the end of a list that has not begun
        if at and before == 3:
            able[points[at - 1][0]] = -torch.inf
        assert able.argmax() == wanted[at]
        before = slot
    best = out.point_logits.location.argmax(1).tolist()
    assert best == [place for _, _, place in points if place >= 0]


def test_without_an_image_no_place_is_chosen(tokenizer):
    model = build()
    model.token_heads.word.data.fill_(100)
    asked = torch.tensor([[0, *tokenizer.encode("How many?", add_special_tokens=False)]])
    written = model.generate(asked, max_new_tokens=5, eos_token_id=None)[0, asked.shape[1] :]
    assert len(written) == 5 and (written < CHOOSING.language.vocab_size).all()


def test_image_tokens_see_each_other_where_they_may(tokenizer):
    first = {}
    for attention in ("causal", "bidirectional"):
        config = replace(CHOOSING, image_attention=attention)
        model, batch = build(config), collate([example(tokenizer, config)])
        place = batch["image_input_idx"].flatten()
        assert torch.equal(batch["position_ids"][0, : int(place.max())], torch.arange(int(place.max())))
        states = []
        with torch.no_grad():
            seen = model.image_tokens(*(torch.randn(1, *shape) for shape in ((1, 16, 64), (2, 1, 16, 64))))
            for added in (0.0, 1.0):
                tokens = seen.clone()
                tokens[:, :, -1] += added  # the last image token changes
                patches = torch.zeros(1, 1, 4, 4, 64)
                given = {"image_tokens": tokens, "image_patches": patches, "image_input_idx": batch["image_input_idx"]}
                out = model(batch["input_ids"], **given, output_hidden_states=True)
                states.append(out.hidden_states[-1][0, place[0]])
        first[attention] = torch.equal(*states)
    assert first == {"causal": True, "bidirectional": False}
    with pytest.raises(BadInput, match="image tokens that see each other need 'sdpa' or 'eager'"):
        model.language.config._attn_implementation = "flash_attention_2"
        model(batch["input_ids"])


@pytest.mark.parametrize("temporal", ["none", "cross_attention", "concatenation"])
def test_steps_lower_every_loss_and_reach_every_part(tokenizer, temporal):
    config = replace(CHOOSING, temporal=temporal)
    model, batch = build(config).train(), collate([example(tokenizer, config), example(tokenizer, config, TREE[1:], 1)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(12):
        out = model(**batch)
        optimiser.zero_grad()
        out.loss.backward()
        if not step:
            silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
            assert not [name for name in silent if name.startswith("token_heads")]
        optimiser.step()
        losses.append([out.loss.item(), *(part.item() for part in out.point_losses)])
    assert (np.array(losses[-1]) < 0.7 * np.array(losses[0])).all()


def test_rows_of_a_batch_count_as_alone(tokenizer):
    model = build()
    rows = [example(tokenizer, CHOOSING), example(tokenizer, CHOOSING, [["Which?", "There are none."]], seed=1)]
    with torch.no_grad():
        together = model(**collate(rows))
        alone = [model(**collate([row])) for row in rows]
    spent = [float(row["loss_masks"].clamp(min=0).sum()) for row in rows]
    mean = sum(out.loss * weight for out, weight in zip(alone, spent, strict=True)) / sum(spent)
    assert torch.isclose(together.loss, mean, rtol=1e-4)
    assert all(
        torch.isclose(a, b, rtol=1e-4) for a, b in zip(together.point_losses, alone[0].point_losses, strict=True)
    )


def test_saved_and_loaded_strictly(folder, tmp_path):
    again = VideoMolmoForConditionalGeneration.from_pretrained(folder)
    again.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert again.config == CHOOSING and all(
        torch.equal(state[name], value) for name, value in again.state_dict().items()
    )
    lost = "token_heads.predictor.patch_q.bias"
    save_file({name: value for name, value in state.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=f"1 missing: {lost}"):
        VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match="has no published name"):
        to_published(again)
    with pytest.raises(BadInput, match="this model writes them as text"):
        VideoMolmoForConditionalGeneration(TINY)(torch.tensor([[1]]), points=torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="extra_vocab is 7, with points = 'tokens' it must be at least 8"):
        replace(CHOOSING, language=replace(CHOOSING.language, extra_vocab=7))
    with pytest.raises(ValueError, match="point_width is 7, must be even"):
        replace(CHOOSING, point_width=7)


def test_a_video_grounder_takes_its_answers_as_points(folder, tokenizer, monkeypatch, shipped_grounder):
    model = VideoMolmoForConditionalGeneration.from_pretrained(folder)
    ids, label = model.token_heads.ids, tokenizer.encode("block</points>", add_special_tokens=False)
    told = [ids.words + 2, ids.closed + 1 + 1, ids.cells + 4, ids.closed, *label, 0]  # lower left, upper right of it
    seen = []

    def generate(self, input_ids, *, image_tokens, image_patches, **_) -> Tensor:
        seen.append((image_tokens.shape[2:], image_patches.shape[2:]))
        return torch.cat([input_ids, torch.tensor([told] * len(input_ids))], dim=1)

    monkeypatch.setattr(VideoMolmoForConditionalGeneration, "generate", generate)
    pointer = VideoMolmoPointer(model, VideoMolmoProcessor(tokenizer, model.config))
    result = VideoGrounder(pointer, shipped_grounder.tracker)(video(4), "the block", every=3)
    assert seen == [((4, 64), (4, 4, 64))] and [one.outcome for one in result.answers] == ["found"] * 2
    assert result.answers[0].points_px == pytest.approx(np.array([[12.0, 20.0]]), abs=0.05)
    assert result.answers[0].text == write_points(np.array([[375, 625]]), "block", 1000, 1000)


def test_the_one_trainer_trains_it(folder, tmp_path):
    rows = rows_of_blocks(tmp_path / "rows", clips=3, frames=3)
    outcome = train(recipe_of(folder, rows, tmp_path / "out", steps=2, batch=2, context=2))
    before, after = (load_file(place / "model.safetensors") for place in (folder, outcome.model))
    assert outcome.total == 2 and before.keys() == after.keys()
    assert not torch.equal(before["token_heads.word"], after["token_heads.word"])


def test_the_recipe_of_nano_trains_it(tmp_path):
    spec = RenderSpec("few", clips=6, frames=5, size=96, motion_share=0.5, strides=(1,), seed=1)
    render_all(spec, tmp_path / "clips", workers=1)
    clips, tokenizer = RenderedClips(tmp_path / "clips"), load_tokenizer(str(nano_pointing_96()))
    config = replace(VideoMolmoConfig.nano(points="tokens"), context=4)
    processor = VideoMolmoProcessor(tokenizer, config)
    stage = Stage("text", 2, 2, 3, 1e-3, language=True, past=True, motion_share=0.3, vision_rate=0.0, probe_weight=0.3,
                  cached_batches=1, lists=0.5)  # fmt: skip
    done = train_stage(config, stage, processor, clips, tmp_path / "stage", begin=(), seed=1)
    assert done.is_file() and '"slot"' in (done.parent / "log.jsonl").read_text()
    examples = [batches.sample_example(np.random.default_rng(at), clips, questions=3, motion_share=0.3, lists=0.5)
                for at in range(4)]  # fmt: skip
    guided, (word, *rest) = batches.text_inputs(processor, examples), config.language.point_ids
    targets, placed = guided["targets"], ~guided["places"][..., 0].isnan()
    assert torch.equal(placed, torch.isin(targets, torch.tensor(rest)))
    row, at = guided["choices"].unbind(1)
    begins = guided["loss_masks"][row, at - 1] <= 0
    assert ((targets[row, at] == word) | begins).all() and (guided["weights"][row, at] == 3).all()
    assert (targets == word).sum() == (targets[row, at] == word).sum()
    grid = Places.of(96, 96, config.image)
    points = guided["points"][guided["points"][..., 1] >= 0]
    middles = torch.from_numpy(grid.points(points.numpy()))
    assert (middles - guided["places"][targets == rest[0]]).abs().max() < 1 / 12 / 3  # cells, and rounded coordinates


def test_train_nano_makes_the_variant_beside_the_same_clips(tmp_path, monkeypatch):
    by_name = {stage.name: stage for stage in recipe.POINTING_STAGES + recipe.LARGER_STAGES}
    for name, stages in (
        ("POINTING_STAGES", ("vision_pretrain", "text", "temporal_finetune_2")),
        ("LARGER_STAGES", ("lists_144",)), ("FINER_STAGES", ("temporal_finetune_144",)),
    ):  # fmt: skip
        few = [replace(by_name[one], batch=2, cached_batches=min(by_name[one].cached_batches, 1)) for one in stages]
        monkeypatch.setattr(recipe, name, tuple(few))
    recipe.train_nano(tmp_path, only="pointing", threads=1, share=1e-4, points="tokens")
    assert {path.name for path in tmp_path.iterdir()} == {"rendered", "tokens"}
    for name, size in (("pointing_96", 96), ("pointing", 144)):
        config = VideoMolmoForConditionalGeneration.from_pretrained(tmp_path / "tokens" / name).config
        assert (config.points, config.point_width, config.image.size_px) == ("tokens", 64, size)
    with pytest.raises(BadInput, match="points is 'digits', expected text or tokens"):
        recipe.train_nano(tmp_path, points="digits")
