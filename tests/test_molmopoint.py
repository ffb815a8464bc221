"""MolmoPoint with random weights: batches, writing, ordering rules, places in pixels, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_molmo2
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from videomolmo.errors import BadInput
from videomolmo.model.point_heads import CLOSED
from videomolmo.model.token_order import Ids, as_text
from videomolmo.systems import load_grounder
from videomolmo.systems.molmopoint import MolmoPointConfig, MolmoPointForConditionalGeneration
from videomolmo.systems.molmopoint.weights import published_state, read_configuration
from videomolmo.systems.molmopoint.writing import Writer, Written, allowed, places, triples, write

WORDS, MORE = 40, 16
IDS = {
    "image_start_token_id": 40, "image_end_token_id": 41, "image_patch_id": 42, "image_col_id": 43,
    "image_non_indexable_patch_id": 46, "frame_start_token_id": 47, "frame_end_token_id": 48, "patch_token_id": 51,
    "subpatch_token_id": 52, "location_token_id": 53,
}  # fmt: skip


def values(**changes: Any) -> dict[str, Any]:
    """The content of a published config.json, tiny."""
    return {
        "model_type": "molmo_point", "patch_embed_dim": 12, "low_res_image_start_token_id": None, **IDS,
        "text_config": {
            "model_type": "molmo2_text", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": WORDS,
            "additional_vocab_size": MORE, "max_position_embeddings": 256, "rope_theta": 1e4,
        },
        "vit_config": {
            "model_type": "molmo2", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "image_default_input_size": [40, 40],
            "image_patch_size": 8, "image_num_pos": 25,
        },
        "adapter_config": {
            "model_type": "molmo_point", "vit_layers": [-2, -3], "hidden_size": 8, "intermediate_size": 12,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "text_hidden_size": 16,
        },
        **changes,
    }  # fmt: skip


def build(**changes: Any) -> MolmoPointForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MolmoPointForConditionalGeneration(MolmoPointConfig.from_dict(values(**changes))).eval()
        for value in model.parameters():
            value.data += 0.3 * torch.randn_like(value)
    return model


def part(name: str, **changes: Any) -> dict[str, Any]:
    """A part of the configuration, changed."""
    return {name: values()[name] | changes}


@pytest.fixture(scope="module")
def model() -> MolmoPointForConditionalGeneration:
    return build()


# 5 x 5 patches pooled 3 x 3 to 2 x 2 tokens: half a row and column of padding before, as much after
GRID = torch.nn.functional.pad(torch.arange(25).reshape(5, 5), (0, 1, 0, 1), value=-1)
POOLING = GRID.reshape(2, 3, 2, 3).permute(0, 2, 1, 3).reshape(4, 9)
PROMPT = [2, 47, 42, 42, 42, 42, 48, 5, 47, 42, 42, 42, 42, 48, 6, 7]
FRAMES = torch.cat([POOLING, torch.where(POOLING < 0, -1, POOLING + 25)])
TOKENS = Ids(WORDS + MORE, 8, 9)
ANSWER = [8, TOKENS.words + 1, TOKENS.closed + 1 + 3, TOKENS.cells + 7, 9, TOKENS.words + 6, TOKENS.closed + 1,
          TOKENS.cells, 3, TOKENS.closed, 1]  # fmt: skip


def pictures(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, count, 25, 192, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def learnt() -> dict[str, torch.Tensor]:
    """A prompt with `ANSWER`, as a training sample."""
    tokens = {"patch": 51, "closed": 51, "slot": 52, "cell": 53}
    ids = torch.tensor([PROMPT + [tokens.get(TOKENS.part(one), one) for one in ANSWER]])
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1)
    labels[:, : len(PROMPT) - 1] = -1
    points = torch.tensor([[[1, 3, 7], [6, 0, 0], [CLOSED, -1, -1]]])
    return {"input_ids": ids, "pixels": pictures(), "pooling": FRAMES[None], "points": points, "labels": labels}


@pytest.mark.parametrize("habits", ["ours", "training", "released"])
def test_written_one_by_one_it_is_the_same(model, habits) -> None:
    model.config.habits = habits
    writer = Writer(model, torch.tensor([PROMPT]), pictures(), FRAMES[None])
    steps = [writer.take(number) for number in ANSWER]
    assert triples(ANSWER, writer.ids).tolist() == [[1, 3, 7], [6, 0, 0]]
    with torch.no_grad():
        whole = model(**learnt())
    states = whole.last_hidden_state[0, len(PROMPT) :]
    assert torch.allclose(torch.stack([step.state for step in steps]), states, atol=1e-5)
    assert torch.allclose(steps[1].slots[writer.seen.valid[0, 1]], whole.subpatch_logits[0][writer.seen.valid[0, 1]])
    found, wanted = steps[4].patches, whole.patch_logits[0][1]  # in training order forbids what was before
    assert torch.allclose(found[1:], wanted[1:], atol=1e-5) and wanted[0] < -1e7 < found[0]
    if habits == "ours":
        assert torch.allclose(steps[2].cells, whole.location_logits[0], atol=1e-5)
    model.config.habits = "ours"


def test_rows_of_a_batch_are_as_alone(model) -> None:
    one = learnt()
    short = {"input_ids": torch.tensor([[*PROMPT[:7], 9, 10]]), "labels": torch.tensor([[-1] * 7 + [10, 3]]),
             "pooling": torch.where(torch.arange(8)[None, :, None] < 4, FRAMES, -1)}  # fmt: skip
    missing = one["input_ids"].shape[1] - 9
    pad = {name: torch.nn.functional.pad(short[name], (0, missing), value=-1) for name in ("input_ids", "labels")}
    batch = {name: torch.cat([one[name], pad[name]]) for name in pad}
    batch |= {"pixels": pictures().repeat(2, 1, 1, 1), "pooling": torch.cat([one["pooling"], short["pooling"]]),
              "points": torch.cat([one["points"], torch.full_like(one["points"], -1)])}  # fmt: skip
    with torch.no_grad():
        together, first = model(**batch), model(**one)
        second = model(short["input_ids"], pictures(), short["pooling"])
    assert torch.allclose(together.logits[0], first.logits[0], atol=1e-5)
    assert torch.allclose(together.logits[1, :9], second.logits[0], atol=1e-5)
    assert all(torch.isclose(a, b) for a, b in zip(together.point_losses, first.point_losses, strict=True))


def test_a_training_step_reaches_all(model) -> None:
    model.zero_grad()
    model(**learnt()).loss.backward()
    still = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert still == set()
    model.zero_grad()


def test_two_questions_do_not_see_each_other(model) -> None:
    ids = torch.tensor([[*PROMPT[:8], 9, 10, 11, 12]])
    common = {"pixels": pictures(), "pooling": POOLING[None]}
    parts = {"subsegments": torch.tensor([[100] * 8 + [0, 0, 1, 1]])}
    places_ = torch.tensor([[*range(10), 8, 9]])
    with torch.no_grad():
        both = model(ids, **common, **parts, position_ids=places_)
        second = model(ids[:, [*range(8), 10, 11]], **common)
    assert torch.allclose(both.logits[0, 10:], second.logits[0, 8:], atol=1e-5)


def test_order_of_points(model) -> None:
    def able(*written: int) -> list[int]:
        return allowed(written, TOKENS, model.config).nonzero()[:, 0].tolist()

    words, (first, slot, cell) = list(range(TOKENS.words)), (TOKENS.words, TOKENS.closed + 1, TOKENS.cells)
    assert able() == able(5) == [*words, *range(first, first + 8)]  # a list does not begin with its end
    assert able(first + 2) == list(range(slot, cell))
    assert able(first + 2, slot + 4) == list(range(cell, cell + 9))
    assert able(first + 2, slot + 4, cell, 3) == [*words, *range(first + 2, first + 9)]
    assert able(first + 2, slot + 8, cell, 3) == able(first + 2, slot + 8, cell) == [*words, *range(first + 3, slot)]
    assert able(first + 2, slot + 4, cell, 3, first + 2) == list(range(slot + 5, cell))
    assert able(first + 2, slot + 4, cell, 3, first + 3) == list(range(slot, cell))
    assert able(TOKENS.closed, 4) == words


@pytest.mark.parametrize(
    "habits, rules, earlier, again, same",
    [
        ("training", ("always", "never", "always"), False, False, slice(5, 9)),
        ("training", ("inference", "always", None), False, True, slice(4, 9)),
        ("training", ("never", "inference", "never"), True, True, slice(0, 9)),
        ("training", ("never", "inference", "inference"), False, False, slice(5, 9)),
        ("released", ("always", "inference", "inference"), False, False, slice(5, 9)),
        ("released", ("always", "inference", "always"), False, True, slice(4, 9)),  # "always" is no rule there
        ("released", ("never", "inference", "inference"), True, False, slice(5, 9)),
        ("released", (None, "never", "inference"), True, True, slice(0, 9)),
    ],
)
def test_rules_of_other_configurations(habits: str, rules: tuple, earlier: bool, again: bool, same: slice) -> None:
    """May a token before the last point's follow, may that one after its last slot, and with which slots otherwise?"""
    names = ("mask_patches", "mask_subpatches", "mask_repeats")
    config = MolmoPointConfig.from_dict(values(habits=habits, **dict(zip(names, rules, strict=True))))
    first, slot, cell = TOKENS.words, TOKENS.closed + 1, TOKENS.cells
    able = allowed([first + 2, slot + 8, cell, 3], TOKENS, config)
    assert (able[first + 1].item(), able[first + 2].item(), able[first + 3].item()) == (earlier, again, True)
    able = allowed([first + 2, slot + 4, cell, 3, first + 2], TOKENS, config)
    assert able.nonzero()[:, 0].tolist() == list(range(slot, cell))[same]


def test_slots_without_a_patch(model) -> None:
    padding = POOLING[1] < 0
    for rule, in_training, in_writing in (("always", True, True), ("inference", False, True), ("never", False, False)):
        other = build(mask_subpatches=rule)
        writer = Writer(other, torch.tensor([PROMPT]), pictures(), FRAMES[None])
        writer.take(TOKENS.words + 1)
        assert (writer.step.slots < -9e4).tolist() == (padding & in_writing).tolist()
        with torch.no_grad():
            out = other(**learnt())
        assert (out.subpatch_logits[0] < -9e4).tolist() == (padding & in_training).tolist()


@pytest.mark.parametrize("habits, slot", [("released", 5), ("training", 0)])
def test_where_only_padding_may_follow(habits: str, slot: int) -> None:
    """Token 3 has four patches, in slots 0, 1, 3 and 4; the last is taken, and the same token comes again."""
    writer = Writer(build(habits=habits), torch.tensor([PROMPT]), pictures(), FRAMES[None])
    for number in (TOKENS.words + 3, TOKENS.closed + 1 + 4, TOKENS.cells, 3, TOKENS.words + 3):
        writer.take(number)
    assert writer.best == TOKENS.closed + 1 + slot


def test_a_connector_of_another_width_than_the_vision_tower() -> None:
    model = build(**part("adapter_config", hidden_size=12, num_attention_heads=3, num_key_value_heads=1))
    shapes = {name: list(value.shape) for name, value in published_state(model)}
    pooling = "model.connector.image_pooling_2d."
    assert (shapes[f"{pooling}wq.weight"], shapes[f"{pooling}wk.weight"]) == ([12, 16], [4, 16])
    assert (shapes["model.connector.image_projector.w1.weight"], shapes["model.build_vit_embedding.weight"]) == (
        [12, 12], [16, 16],
    )  # fmt: skip
    with torch.no_grad():
        assert model(**learnt()).loss.isfinite()


def test_answers_keep_the_order(model) -> None:
    answer = write(model, torch.tensor([PROMPT]), pictures(), FRAMES[None], 40, eos_token_id=[])
    assert len(answer.ids) == 40
    model.get_output_embeddings().weight.data[51] *= 0  # the token of a point: neither best nor worst
    model.generation_config.eos_token_id = int(answer.ids[4])
    shorter = write(model, torch.tensor([PROMPT]), pictures(), FRAMES[None], 40)
    written = shorter.ids.tolist()
    for at, number in enumerate(written):
        assert allowed(written[:at], TOKENS, model.config)[number]
    assert len(written) <= 40


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "".join(str(one) for one in ids)


def test_places_in_pixels() -> None:
    text = as_text([*ANSWER[:5], 1, *ANSWER[5:8], 4], TOKENS, Letters())
    assert text == "8<POINT_1><POINT_12><POINT_25>91<POINT_6><POINT_9><POINT_18>4"
    grids, sizes = [(0, 2, 2), (4, 2, 2)], [(50, 100), (10, 20)]
    first, second = places(text, TOKENS, FRAMES, grids, sizes)
    assert (first.object_id, first.image, second.object_id, second.image) == (91, 0, 4, 1)
    assert (first.x, first.y) == pytest.approx(((3 + 2.5 * 0.33) / 5 * 100, (1 + 1.5 * 0.33) / 5 * 50))
    assert (second.x, second.y) == pytest.approx((0.165 / 5 * 20, (3 + 0.165) / 5 * 10))
    for strange in (
        "<POINT_1><POINT_11><POINT_25>1",
        "<POINT_99><POINT_12><POINT_25>1",
        "<POINT_1><POINT_12><POINT_25>",
    ):
        assert not places(strange, TOKENS, FRAMES, grids, sizes)  # padding, no such token, no number


def test_places_of_windows_that_are_no_squares() -> None:
    """4 x 6 patches, pooled 2 x 3 to 2 x 2 tokens."""
    pooling = torch.arange(24).reshape(2, 2, 2, 3).permute(0, 2, 1, 3).reshape(4, 6)
    ids = Ids(WORDS + MORE, 4, 6)
    text = f"<POINT_3><POINT_{ids.tokens + 1 + 4}><POINT_{ids.tokens + 1 + 6 + 5}>7"
    (found,) = places(text, ids, pooling, [(0, 2, 2)], [(40, 60)], (2, 3))
    assert (found.object_id, found.x, found.y) == pytest.approx(
        (7, (4 + 1.5 * 0.33) / 6 * 60, (3 + 2.5 * 0.33) / 4 * 40)
    )
    with pytest.raises(BadInput, match="tokens of 2 x 2 patches, expected 6"):
        places(text, ids, pooling, [(0, 2, 2)], [(40, 60)])


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_by_the_auto_classes(tmp_path: Path, tied: bool) -> None:
    model = build(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()
    config = AutoConfig.from_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    assert type(again) is MolmoPointForConditionalGeneration and type(config) is MolmoPointConfig
    assert (again.lm_head is None) == tied and again.config.low_res_image_start_token_id == WORDS + 4
    eager = MolmoPointForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        wanted = model(**learnt())
        for other in (again, eager):
            assert torch.allclose(other(**learnt()).loss, wanted.loss, rtol=1e-5)
    assert MolmoPointForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_an_id_that_is_not_told_is_not_guessed() -> None:
    told = {name: value for name, value in values().items() if name != "image_col_id"}
    with pytest.raises(BadInput, match="image_col_id is 151939, expected below 56"):
        MolmoPointConfig.from_dict(told)


def test_published_folders_may_disagree_with_themselves(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values(tie_word_embeddings=True)))
    assert read_configuration(tmp_path).tie_word_embeddings is False


@pytest.mark.parametrize("told", [{}, {"tie_word_embeddings": False}])
def test_published_folders_may_not_say_that_tables_are_one(tmp_path: Path, told: dict[str, Any]) -> None:
    """Its text part says so, or none does; both ways of loading find it in the weights."""
    saved = build(tie_word_embeddings=True)
    saved.save_pretrained(tmp_path)
    text = part("text_config", tie_word_embeddings=True) if told else {}
    (tmp_path / "config.json").write_text(json.dumps(values(**told, **text)))
    for kind in (MolmoPointForConditionalGeneration, AutoModelForImageTextToText):
        model = kind.from_pretrained(tmp_path)
        assert model.lm_head is None and model.config.tie_word_embeddings is True


def test_names_and_shapes_of_the_full_size() -> None:
    published = {
        "patch_embed_dim": 512, "vit_config": {"num_hidden_layers": 27}, "text_config": {"rope_theta": 1e6},
        "adapter_config": {"intermediate_size": 12288, "text_hidden_size": 4096, "vit_layers": [-3, -9]},
    }  # fmt: skip
    full = MolmoPointForConditionalGeneration.empty(
        MolmoPointConfig.from_dict({"model_type": "molmo_point"} | published)
    )
    shapes = {name: list(value.shape) for name, value in published_state(full)}
    block, layer = "model.transformer.blocks.35.", "model.vit.transformer.resblocks.24."
    for name, shape in {
        "model.transformer.wte.embedding": [151936, 4096], "lm_head.new_output_embeddings": [128, 4096],
        f"{block}self_attn.att_proj.weight": [6144, 4096], f"{block}mlp.ff_proj.weight": [24576, 4096],
        f"{layer}attention.wo.bias": [1152], "model.vit.patch_embedding.weight": [1152, 588],
        "model.connector.image_pooling_2d.wq.weight": [1152, 2304], "model.build_vit_embedding.weight": [4096, 2304],
        "model.point_predictor.subpatch_k.weight": [512, 2304], "model.point_predictor.patch_q.bias": [512],
    }.items():  # fmt: skip
        assert shapes[name] == shape, name
    assert len(shapes) == 5 + 36 * 8 + 3 + 25 * 16 + 9 + 2 + 12
    new = sum(v.numel() for n, v in published_state(full) if "point_predictor" in n or "build_vit" in n)
    assert new == 3 * (512 * 4096 + 512) + 2304 * 512 + 512 + 10 * 4096 + 9 + 512 + 2304 * 4096 + 4096


@pytest.mark.parametrize(
    "change, told",
    [
        ({"model_type": "molmo2"}, "model_type is 'molmo2'"),
        ({"patch_location": "4x4"}, "patch_location is '4x4'"),
        ({"patch_embed_dim": 7}, "patch_embed_dim"),
        ({"patch_token_id": 99}, "patch_token_id is 99"),
        ({"mask_patches": "sometimes"}, "mask_patches"),
        ({"image_high_res_id": 43}, "image_high_res_id is 43, expected 42"),
        (part("text_config", use_qk_norm=False), "text_config.use_qk_norm is False"),
        (part("text_config", num_attention_heads=3, num_key_value_heads=2), "text_config.num_key_value_heads is 2"),
        (part("vit_config", image_num_pos=16), "vit_config.image_num_pos is 16, expected 25"),
        (part("adapter_config", vit_layers=[-5]), "adapter_config.vit_layers has -5, expected -4 to 3"),
        (part("adapter_config", text_hidden_size=8), "adapter_config.text_hidden_size is 8, expected 16"),
        (part("adapter_config", head_dim=5), "adapter_config.hidden_size is 8, expected 10"),
        ({"text_config": {"hidden_size": -1}}, "hidden_size"),
        ({"adapter_config": {"pooling_attention_mask": False}}, "pooling_attention_mask is False"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values(**change)))
    with pytest.raises(BadInput, match=told) as error:
        MolmoPointForConditionalGeneration.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_that_are_refused(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    head = "model.point_predictor.patch_q.bias"
    for changed, told in (
        ({name: value for name, value in state.items() if name != head}, f"1 missing: {head}"),
        (state | {"model.stranger": torch.zeros(1)}, "1 unexpected: model.stranger"),
        (state | {head: torch.zeros(3)}, "1 misshaped"),
        (state | {head: torch.full((12,), torch.nan)}, "not finite"),
    ):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(BadInput, match=told):
            MolmoPointForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match="quantize is no option"):
        MolmoPointForConditionalGeneration.from_pretrained(tmp_path, quantize="int8")


def test_input_that_is_refused(model) -> None:
    prompt, pooling = torch.tensor([PROMPT]), FRAMES[None]
    for arguments, told in (
        ((prompt.repeat(2, 1), pictures(), pooling), "ask one by one"),
        ((prompt + 50, pictures(), pooling), "ids from 0 to 55"),
        ((prompt, pictures(), pooling[:, :4]), "differ in number"),
        ((prompt, pictures(1), pooling), "none of the 25"),
        ((prompt, pictures()[:, :, :24], pooling), r"crops are \(24, 192\), expected \(25, 192\)"),
        ((prompt,), "differ in number"),
    ):
        with pytest.raises(BadInput, match=told):
            write(model, *arguments)
    with pytest.raises(BadInput, match="3 tokens 51 and 2 targets"):
        model(**learnt() | {"points": learnt()["points"][:, :2]})
    with pytest.raises(BadInput, match="outside the 8 image tokens of 9 patches"):
        model(**learnt() | {"points": torch.tensor([[[1, 3, 7], [8, 0, 0], [CLOSED, -1, -1]]])})
    with pytest.raises(BadInput, match="has no meaning"):
        Writer(model, prompt, pictures(), pooling).take(TOKENS.end)


def test_a_grounder_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points on the first of two key frames and one on the second, chosen for it."""
    first = tiny_molmo2.VOCABULARY
    text = values()["text_config"] | {"vocab_size": first, "max_position_embeddings": 4096}
    sizes = {"image_default_input_size": [84, 84], "image_patch_size": 14, "image_num_pos": 36}
    ids = {name: number - WORDS + first for name, number in IDS.items()}
    config = values(text_config=text, vit_config=values()["vit_config"] | sizes, **ids)
    MolmoPointForConditionalGeneration(MolmoPointConfig.from_dict(config)).save_pretrained(tmp_path)
    processor = tiny_molmo2.processor_of(["Track the dot at 2 FPS"])
    processor.save_pretrained(tmp_path)
    grounder = load_grounder(str(tmp_path), device="cpu")
    meaning = Ids(first + MORE, 8, 9)  # 6 x 6 patches make 2 x 2 tokens of a frame
    told = []
    for token, slot, cell, name in ((1, 0, 4, "2"), (2, 8, 0, "1"), (4, 4, 8, "1")):
        digit = processor.tokenizer.encode(name)[-1]
        told += [meaning.words + token, meaning.closed + 1 + slot, meaning.cells + cell, digit]
    seen = []

    def says(model, prompt, pixels, pooling, *_: Any) -> Written:
        assert Writer(model, prompt, pixels, pooling).ids == meaning
        seen.append(processor.tokenizer.decode(prompt[0]))
        return Written(torch.tensor([*told, meaning.closed, processor.tokenizer.eos_token_id]), torch.zeros(0, 3))

    monkeypatch.setattr(MolmoPointForConditionalGeneration, "write", says)
    result = grounder(np.zeros((4, 60, 120, 3), np.uint8), "the dot", every=2)
    assert "Track the dot at" in seen[0] and len(seen) == 1
    one, two = result.answers
    assert one.points_px == pytest.approx(np.array([[2.165 / 6 * 120, 5.165 / 6 * 60], [3.495 / 6 * 120, 4.95]]))
    assert two.points_px == pytest.approx(np.array([[1.825 / 6 * 120, 1.825 / 6 * 60]]))
