"""The pointing model at nano scale: every variant runs and learns, saves strictly, and answers alike in a batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation import BaseStreamer

from videomolmo.errors import BadInput
from videomolmo.model import VideoMolmoConfig, VideoMolmoForConditionalGeneration, VideoMolmoProcessor, collate
from videomolmo.model.config import EXTRA_TOKENS, TEMPORAL_KINDS, ImageConfig, LanguageConfig, VisionConfig
from videomolmo.model.decoding import answer_loss, greedy, positions, visible
from videomolmo.model.tokenizer import build_nano_tokenizer, load_tokenizer
from videomolmo.weights.checkpoint import load_published
from videomolmo.weights.published import config_from_published, to_published

CORPUS = [
    f'Point to the {color} {shape}. <point x="12.5" y="40.6" alt="{color} {shape}">{color}</point> There are none.'
    for color in ("red", "green", "blue")
    for shape in ("circle", "square")
]
PAST_KINDS = [kind for kind in TEMPORAL_KINDS if kind != "none"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_nano_tokenizer(CORPUS)


def small(temporal: str = "cross_attention", **changes: object) -> VideoMolmoConfig:
    """The nano parts at a size that runs in milliseconds."""
    config = VideoMolmoConfig.nano(temporal=temporal, context=3)
    return dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, size_px=32),
        vision=dataclasses.replace(config.vision, width=32, mlp=48),
        language=dataclasses.replace(config.language, width=32, layers=2, ff=48),
        **{"init_output_zero": False} | changes,
    )


def build(config: VideoMolmoConfig, attn_implementation: str = "sdpa") -> VideoMolmoForConditionalGeneration:
    torch.manual_seed(0)
    return VideoMolmoForConditionalGeneration(config, attn_implementation).eval()


def video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 40, 56, 3), dtype=np.uint8)


def batch_for(tokenizer, config: VideoMolmoConfig, questions: list[str]) -> dict[str, Tensor]:
    processor = VideoMolmoProcessor(tokenizer, config)
    examples = []
    for seed, question in enumerate(questions):
        frames = video(4, seed)
        examples.append(processor(frames[-1], question, frames[:-1]))
    return collate(examples)


QUESTIONS = ["Point to the red circle.", "How many?", "Point to the square, please, if there is any."]


def inference_arguments(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("input_ids", "pixels", "past_pixels", "image_masks", "image_input_idx")
    return {name: batch[name] for name in names if name in batch}


def written(
    model: VideoMolmoForConditionalGeneration, most: int, stop: int | None = None, **inputs: Tensor
) -> list[list[int]]:
    """What greedy decoding writes for each row, without the id that ends it."""
    options = {"eos_token_id": stop, "max_new_tokens": most}
    rows = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(stop)] if stop in row else row for row in rows]


@pytest.mark.parametrize("temporal", TEMPORAL_KINDS)
def test_every_variant_learns_in_every_part(temporal: str, tokenizer) -> None:
    config = small(temporal)
    model, processor = build(config), VideoMolmoProcessor(tokenizer, config)
    frames = video(4)
    tree = [["Where?", CORPUS[0]], ["How many?", "two"]]
    batch = collate([processor.training_example(frames[-1], tree, frames[:-1])])
    out = model(**batch)
    out.loss.backward()
    assert out.logits.shape == (*batch["input_ids"].shape, config.language.vocab_size)
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    unused = max(config.vision.selected) + 1
    # softmax ignores what is added to all keys alike: only noise reaches wk.bias; places are learnt from places alone
    spared = ("wk.bias", f"vision.blocks.{unused}", "positions.way")
    assert not [name for name in silent if not any(part in name for part in spared)], silent


@pytest.mark.parametrize("temporal", PAST_KINDS)
def test_past_matters_and_its_order_only_without_mean(temporal: str) -> None:
    model = build(small(temporal))
    pixels = torch.randn(2, 3, 1, 16, 192)
    with torch.no_grad():
        features, past = model.encode_frames(torch.randn(2, 1, 16, 192)), model.encode_past(pixels)
        tokens = model.image_tokens(features, past)
        shuffled = model.image_tokens(features, past[:, [2, 0, 1]])
        other = model.image_tokens(features, past.roll(1, dims=0))
    # attention to all frames has no positions either, so it is order-free too
    torch.testing.assert_close(shuffled, tokens, rtol=1e-4, atol=1e-5)
    assert (other - tokens).abs().max() > 1e-4


def test_zero_output_starts_as_single_frame() -> None:
    model = build(small(init_output_zero=True))
    features, past = torch.randn(1, 1, 16, 64), torch.randn(1, 3, 1, 16, 64)
    windows = model.temporal(features, past)
    assert torch.equal(windows, build(small("none")).temporal(features, None))
    windows.square().sum().backward()
    assert model.temporal.attention.wo.weight.grad.abs().max() > 0


def test_past_frames_get_no_gradient() -> None:
    model = build(small())
    past = torch.randn(1, 3, 1, 16, 64, requires_grad=True)
    model.image_tokens(torch.randn(1, 1, 16, 64), past).sum().backward()
    assert past.grad is None
    assert not model.encode_past(torch.randn(1, 3, 1, 16, 192)).requires_grad


def test_temporal_attention_weights_sum_to_one() -> None:
    model = build(small("cross_attention_all"))
    weights = model.temporal.weights(torch.randn(1, 1, 16, 64), torch.randn(1, 3, 1, 16, 64))
    assert weights.shape == (1, 1, 4, 4, 4, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 4, 4, 4))
    with pytest.raises(BadInput, match="has no attention"):
        build(small("addition")).temporal.weights(torch.randn(1, 1, 16, 64), torch.randn(1, 3, 1, 16, 64))


def test_missing_or_foreign_past_is_refused() -> None:
    model, features = build(small()), torch.randn(1, 1, 16, 64)
    with pytest.raises(BadInput, match="past frames are missing"):
        model.image_tokens(features, None)
    with pytest.raises((BadInput, TypeError), match="past"):
        model.image_tokens(features, torch.randn(1, 3, 2, 16, 64))


def test_with_a_padding_embedding_a_past_of_other_crops_or_batch_is_refused_too() -> None:
    model = build(small(image_padding_embed="pad_and_partial_pad"))
    features, masks = torch.randn(2, 3, 16, 64), torch.ones(2, 3, 16)
    for shape in ((2, 3, 1, 16, 64), (2, 3, 2, 16, 64), (1, 3, 3, 16, 64)):
        with pytest.raises(BadInput, match="past features have shape"):
            model.image_tokens(features, torch.randn(shape), masks)


def test_precomputed_features_change_nothing(tokenizer) -> None:
    config = small()
    model = build(config)
    arguments = inference_arguments(batch_for(tokenizer, config, QUESTIONS))
    pixels, past = arguments.pop("pixels"), arguments.pop("past_pixels")
    with torch.no_grad():
        direct = model(pixels=pixels, past_pixels=past, **arguments).logits
        every = torch.cat([past, pixels[:, None]], dim=1)  # one pass over all frames, current and past
        encoded = model.encode_past(every)
        reused = model(features=encoded[:, -1], past_features=encoded[:, :-1], **arguments).logits
    torch.testing.assert_close(reused, direct, rtol=1e-4, atol=1e-5)
    wanted = written(model, 6, pixels=pixels, past_pixels=past, **arguments)
    found = written(model, 6, features=encoded[:, -1], past_features=encoded[:, :-1], **arguments)
    assert found == wanted


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_batched_generation_equals_one_by_one(tokenizer, attn_implementation: str) -> None:
    config = small()
    config = dataclasses.replace(config, language=dataclasses.replace(config.language, tie_word_embeddings=False))
    model = build(config, attn_implementation)
    with torch.no_grad():  # so that answers differ and margins are wide
        for parameter in model.language.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    arguments = inference_arguments(batch_for(tokenizer, config, QUESTIONS))
    together = written(model, 12, **arguments)
    assert len({tuple(ids) for ids in together}) > 1
    stop = together[0][4]
    stopped = written(model, 12, stop, **arguments)
    for row, ids in enumerate(together):
        single = inference_arguments(batch_for(tokenizer, config, QUESTIONS))
        single = {name: value[row : row + 1] for name, value in single.items()}
        single["input_ids"] = single["input_ids"][:, : (single["input_ids"] != -1).sum()]
        assert written(model, 12, **single) == [ids]
        assert stopped[row] == (ids[: ids.index(stop)] if stop in ids else ids)


class Told(BaseStreamer):
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[list[int] | None] = []

    def put(self, value: Tensor) -> None:
        self.told.append(value.tolist())

    def end(self) -> None:
        self.told.append(None)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_our_loop_writes_what_transformers_loop_writes(tokenizer, attn_implementation: str, monkeypatch) -> None:
    model = build(small(), attn_implementation)
    with torch.no_grad():
        for parameter in model.language.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    padded = inference_arguments(batch_for(tokenizer, model.config, QUESTIONS))
    first, ours = written(model, 12, **padded)[0], VideoMolmoForConditionalGeneration._sample
    is_late = lambda ids, _: torch.full((len(ids),), ids.shape[1] > padded["input_ids"].shape[1] + 7)  # noqa: E731
    asked = (
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "eos_token_id": [first[4], first[2]], "pad_token_id": 3},
        {"max_new_tokens": 20, "eos_token_id": None, "repetition_penalty": 1.7, "stopping_criteria": [is_late]},
    )
    used = []
    monkeypatch.setattr("videomolmo.model.decoding.greedy", lambda *a, **b: used.append(1) or greedy(*a, **b))
    for options in asked:
        for prompts in (padded, {name: value[:1] for name, value in padded.items()}):
            found = []
            for loop in (ours, GenerationMixin._sample):
                monkeypatch.setattr(VideoMolmoForConditionalGeneration, "_sample", loop)
                streamer = Told()
                rows = model.generate(**prompts, **options, streamer=streamer)
                found.append((rows.tolist(), streamer.told))
            assert found[0] == found[1]
    assert len(used) == 6
    monkeypatch.setattr(VideoMolmoForConditionalGeneration, "_sample", ours)
    for options in ({"do_sample": True}, {"return_dict_in_generate": True}, {"use_cache": False}, {"num_beams": 2}):
        model.generate(**padded, max_new_tokens=2, **options)
    assert len(used) == 6  # of these transformers' loops take care


def test_cached_generation_equals_full_forward(tokenizer) -> None:
    config = small()
    model = build(config)
    arguments = inference_arguments(batch_for(tokenizer, config, QUESTIONS[:1]))
    found = written(model, 5, **arguments)
    for _ in range(5):
        with torch.no_grad():
            token = model(**arguments).logits[:, -1:].argmax(-1)
        arguments["input_ids"] = torch.cat([arguments["input_ids"], token], dim=1)
    assert arguments["input_ids"][0, -5:].tolist() == found[0]


def test_attentions_follow_the_message_tree(tokenizer) -> None:
    config = small()
    processor, frames = VideoMolmoProcessor(tokenizer, config), video(4)
    tree = processor.training_example(frames[-1], [["Where?", "a"], ["What?", "b"]], frames[:-1])
    single = processor.training_example(frames[-1], [["What?", "b"]], frames[:-1])
    batch = collate([tree, single])
    out = build(config, "eager")(**batch, output_attentions=True)
    assert len(out.attentions) == config.language.layers
    forbidden = ~visible(batch["input_ids"] != -1, batch["subsegment_ids"])
    assert out.attentions[0].masked_select(forbidden[:, None]).abs().max() == 0
    length = len(single["input_ids"])
    second = (batch["subsegment_ids"][0] == 2).nonzero()[:, 0]
    torch.testing.assert_close(
        out.logits[0, second], out.logits[1, length - len(second) : length], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(BadInput, match="attentions need 'eager'"):
        build(config)(**batch, output_attentions=True)


def test_text_alone_needs_no_frame() -> None:
    out = build(small())(torch.tensor([[0, 5, 6]]))
    assert out.logits.shape == (1, 3, 512)
    assert out.image_tokens is None


def test_loss_weighs_only_positive_masks() -> None:
    logits, targets = torch.randn(1, 4, 8), torch.tensor([[3, 900, -1, 2]])
    found = answer_loss(logits, targets, torch.tensor([[1.0, 0.0, 1.0, -1.0]]))
    assert found == pytest.approx(torch.nn.functional.cross_entropy(logits[:, 0], targets[:, 0]).item())
    assert answer_loss(logits, targets, torch.zeros(1, 4)) == 0
    both = torch.nn.functional.cross_entropy(logits[0, [0, 3]], targets[0, [0, 3]])
    assert answer_loss(logits, targets) == pytest.approx(both.item())  # of 900, an image's id, there is no logit


def test_positions_restart_at_each_branch() -> None:
    valid = torch.tensor([[True] * 6 + [False]])
    segments = torch.tensor([[10000, 10000, 1, 1, 2, 2, -1]])
    assert positions(visible(valid, segments))[0, :6].tolist() == [0, 1, 2, 3, 2, 3]


# ---------------------------------------------------------------------------- saving, configuration, published names


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    model = build(small())
    model.save_pretrained(tmp_path)
    again = VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    written = ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    model.save_pretrained(tmp_path, dtype=torch.float16)
    assert all(value.dtype == torch.float16 for value in load_file(tmp_path / "model.safetensors").values())
    half = VideoMolmoForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(dtype: torch.dtype, tokenizer) -> None:
    config = small()
    model = build(config).to(dtype)
    batch = inference_arguments(batch_for(tokenizer, config, QUESTIONS))
    assert model(**batch).logits.dtype == dtype
    assert len(model.generate(**batch, max_new_tokens=2)) == 3


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    model = build(small())
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["stranger"] = state.pop("new_embedding")
    state["vision.class_embedding"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BadInput) as caught:
        VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    for part in ("1 missing: new_embedding", "1 unexpected: stranger", "class_embedding (3,) instead of (32,)"):
        assert part in str(caught.value)


def test_broken_or_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    build(small()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="safetensors"):
        VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="is not JSON"):
        VideoMolmoForConditionalGeneration.from_pretrained(tmp_path)


def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path) -> None:
    VideoMolmoConfig.nano().to_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "config.json").read_bytes())
    assert VideoMolmoConfig.from_json(tmp_path / "config.json") == VideoMolmoConfig.nano()


@pytest.mark.parametrize("config", [VideoMolmoConfig.nano(), VideoMolmoConfig.molmo_7b("none", "pad_and_partial_pad")])
def test_config_round_trip_and_unknown_keys(config: VideoMolmoConfig) -> None:
    values = config.to_dict()
    assert VideoMolmoConfig.from_dict(json.loads(json.dumps(values))) == config
    values["vision"]["depth"] = 3
    with pytest.raises(BadInput, match="vision has unknown keys"):
        VideoMolmoConfig.from_dict(values)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VisionConfig(heads=0), "heads is 0"),
        (lambda: VisionConfig(heads=3), "width is 1024"),
        (lambda: VisionConfig(vit_layers=(-24,)), "vit_layers"),
        (lambda: LanguageConfig(kv_heads=3), "heads is 28"),
        (lambda: LanguageConfig(end_of_text=152064), "end_of_text is 152064"),
        (lambda: ImageConfig(size_px=335), "size_px is 335"),
        (lambda: ImageConfig(margins=(12, 12)), "margins"),
        (lambda: VideoMolmoConfig(temporal="mean"), "temporal is 'mean'"),
        (lambda: VideoMolmoConfig(context=0), "context is 0"),
        (lambda: VideoMolmoConfig(vision=VisionConfig(stem="conv")), "patch_px is 14"),
    ],
)
def test_config_names_the_field_out_of_range(make, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make()


def published_like(**changes: object) -> VideoMolmoConfig:
    config = small(**changes)
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, stem="linear"),
        language=dataclasses.replace(config.language, tie_word_embeddings=False),
        connector_norm=False,
        window_positions=False,
    )


def test_published_names_round_trip() -> None:
    model = build(published_like(image_padding_embed="pad_and_partial_pad"))
    again = load_published(to_published(model), model.config)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_published_names_are_strict() -> None:
    model = build(published_like())
    state = to_published(model)
    with pytest.raises(BadInput, match=r"'model\.stranger' is unknown"):
        load_published(state | {"model.stranger": torch.zeros(1)}, model.config)
    with pytest.raises(BadInput, match="unexpected: pad_embed"):
        load_published(state | {"model.vision_backbone.pad_embed": torch.zeros(2, 64)}, model.config)
    fused = "model.transformer.blocks.0.att_proj.weight"
    with pytest.raises(BadInput, match="rows"):
        load_published(state | {fused: torch.zeros(3, 32)}, model.config)
    with pytest.raises(BadInput, match=r"1 missing: temporal\.attention\.wq"):
        load_published({k: v for k, v in state.items() if "adapter.wq" not in k}, model.config)
    with pytest.raises(BadInput, match="no published name"):
        to_published(build(small()))


def resolved(image: dict | None = None, vision: dict | None = None, **full: object) -> dict:
    """The published configuration of a tiny model, resolved."""
    clip = {"image_emb_dim": 40, "image_num_heads": 5, "image_num_key_value_heads": 5, "image_head_dim": 8,
            "image_num_layers": 4, "image_mlp_dim": 160, "image_mlp_activations": "quick_gelu",
            "image_norm_eps": 1e-5}  # fmt: skip
    return {
        "full_config": {
            "vocab_size": 380, "embedding_size": 384, "additional_vocab_size": 128, "d_model": 96, "n_layers": 2,
            "n_heads": 6, "n_kv_heads": 2, "mlp_hidden_size": 256, "rope_theta": 1e4, "layer_norm_eps": 1e-5,
            "max_sequence_length": 512, "weight_tying": False, "vit_layers": [-2, -3], "image_padding_embed": None,
            "vision_backbone": clip | (vision or {}), **full,
        },
        "preprocessor": {"base_image_input_size": [64, 64], "image_patch_size": 8, "overlap_margins": [2, 2],
                         "max_crops": 6, "crop_mode": "overlap-and-resize-c2", **(image or {})},
        "special_token_ids": {"eos_used_as_bos": 3} | {name: 384 + row for row, name in enumerate(EXTRA_TOKENS)},
        "num_prev_frames": 2,
    }  # fmt: skip


def test_published_tables_may_be_longer_than_the_vocabulary() -> None:
    assert config_from_published(resolved()).language.vocab_size == 384
    with pytest.raises(BadInput, match="id of <im_start> is 384, expected 380"):
        config_from_published(resolved(embedding_size=None))


def test_published_sizes_that_follow_from_others() -> None:
    language = config_from_published(resolved(n_kv_heads=None, mlp_hidden_size=None, mlp_ratio=4)).language
    assert (language.kv_heads, language.ff) == (6, 192)
    assert config_from_published(resolved(n_kv_heads=None, multi_query_attention=True)).language.kv_heads == 1


@pytest.mark.parametrize(
    "change, told",
    [
        ({"norm_after": True}, "norm_after is True"),
        ({"rope_impl": "interleave"}, "rope_impl is 'interleave'"),
        ({"vision": {"image_num_key_value_heads": 1}}, "image_num_key_value_heads is 1"),
        ({"vision": {"image_mlp_activations": "gelu"}}, "image_mlp_activations is 'gelu'"),
        ({"image": {"base_image_input_size": [64, 48]}}, r"base_image_input_size is \[64, 48\]"),
        ({"image": {"crop_mode": "resize"}}, "crop_mode is 'resize'"),
    ],
)
def test_published_options_that_are_not_computed_are_refused(change: dict, told: str) -> None:
    with pytest.raises(BadInput, match=f"published option {told}, only .* is supported"):
        config_from_published(resolved(**change))


# ---------------------------------------------------------------------------- tokenizer and processor


@settings(max_examples=150, deadline=None)
@given(
    text=st.text()
    | st.lists(st.sampled_from([*CORPUS, '" x2="', " <|endoftext|>", "\r\n", "  "]) | st.text()).map("".join)
)
def test_tokenizer_gives_back_any_text(text: str, tokenizer) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id not in ids


def test_tokenizer_pieces(tokenizer, tmp_path: Path) -> None:
    def pieces(text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))

    assert pieces(' <point x="12.5" y="40.6" alt="') == [
        *(' <point x="', "1", "2", ".", "5"),
        *('" y="', *"40.6", '" alt="'),
    ]
    assert len(pieces('<points x1="1" y1="2" x9="3" y9="4">a</points>')) == 10 + 1
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert len(tokenizer) <= 512
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() == build_nano_tokenizer(CORPUS).get_vocab()
    assert again.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
    assert again.decode(again.encode("a <|endoftext|> b")) == "a <|endoftext|> b"
    with pytest.raises(BadInput, match="tokenizer size is 100"):
        build_nano_tokenizer(CORPUS, 100)


class WordTokenizer:
    """The stub of the golden data: the i-th word is 1000 + i."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1000 + index for index, _ in enumerate(text.split())]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


def test_processor_layout_of_one_question() -> None:
    processor = VideoMolmoProcessor(WordTokenizer(), VideoMolmoConfig.molmo_7b())
    example = processor.tokens((336, 336), [["point to the cat"]])
    assert processor.prompt("point to the cat") == " User: point to the cat Assistant:"
    assert example["input_ids"][[0, 1, -1]].tolist() == [151643, 152064, 1005]
    assert len(example["input_ids"]) == len(example["targets"]) == 1 + 316 + 6
    assert example["targets"][-1] == 151643
    assert example["loss_masks"].nonzero().tolist() == [[322]]
    assert example["position_ids"].tolist() == list(range(323))
    assert "subsegment_ids" not in example
    first = example["image_input_idx"][0, 0]
    assert example["input_ids"][first] == processor.config.language.extra_ids["<im_patch>"]


def test_processor_layout_of_a_message_tree() -> None:
    config = dataclasses.replace(VideoMolmoConfig.molmo_7b(), loss_token_weighting="root_subsegments")
    processor = VideoMolmoProcessor(WordTokenizer(), config)
    example = processor.tokens((336, 336), [["a", "b c"], ["d", "e", "f", "g"]])
    text = slice(317, None)
    assert example["subsegment_ids"][text].tolist() == [1] * 6 + [2] * 9
    assert example["position_ids"][text].tolist() == [*range(317, 323), *range(317, 326)]
    answers = [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    torch.testing.assert_close(example["loss_masks"][316:], torch.tensor(answers) * 0.5**0.5)


def test_processor_fills_the_past_with_black(tokenizer) -> None:
    processor = VideoMolmoProcessor(tokenizer, small())
    frames = video(2)
    example = processor(frames[1], "Where?", frames[:1])
    assert example["past_pixels"].shape == (3, 1, 16, 192)
    assert torch.equal(example["past_pixels"][0], example["past_pixels"][1])
    assert torch.equal(example["past_pixels"][2], processor.image.pixels_only(frames[:1])[0])
    assert "past_pixels" not in VideoMolmoProcessor(tokenizer, small("none"))(frames[1], "Where?")
    with pytest.raises(BadInput, match="past frames have shape"):
        processor(frames[1], "Where?", frames[:1, :20])
    assert not torch.equal(processor(frames[1], "Where?", [])["past_pixels"][2], example["past_pixels"][2])


def test_special_tokens_are_no_part_of_an_answer(tokenizer) -> None:
    ids = tokenizer.encode(" There are none.", add_special_tokens=False)
    assert VideoMolmoProcessor(tokenizer, small()).decode([*ids, 0, 0]) == "There are none."
    assert VideoMolmoProcessor(tokenizer, small()).decode(torch.tensor(ids)) == "There are none."


def test_collate_pads_on_the_right(tokenizer) -> None:
    image = ImageConfig(size_px=32, patch_px=8, margins=(0, 0), max_crops=4)
    config = dataclasses.replace(small(), image=image)
    processor = VideoMolmoProcessor(tokenizer, config)
    examples = [processor(np.zeros(size, np.uint8), "Where?") for size in ((64, 64, 3), (30, 60, 3))]
    batch = collate(examples)
    crops = [len(example["pixels"]) for example in examples]
    assert crops[0] > crops[1]
    assert (batch["pixels"][1, crops[1] :] == -1).all()
    assert (batch["past_pixels"][1, :, crops[1] :] == -1).all()
    assert (batch["image_input_idx"][1, crops[1] :] == -1).all()
    assert (batch["input_ids"][1, len(examples[1]["input_ids"]) :] == -1).all()
    model = build(config)
    with torch.no_grad():
        together = model(**batch).logits[1, : len(examples[1]["input_ids"])]
        alone = model(**collate(examples[1:])).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="no examples"):
        collate([])
    longer = VideoMolmoProcessor(tokenizer, dataclasses.replace(config, context=5))(video(1)[0], "Where?")
    with pytest.raises(BadInput, match=r"\[3, 5\] past frames"):  # black ones would count in the mean
        collate([examples[0], longer])


def test_tokenizer_larger_than_the_model_is_refused(tokenizer) -> None:
    config = dataclasses.replace(small(), language=dataclasses.replace(small().language, vocab_size=100))
    with pytest.raises(BadInput, match="expected at most vocab_size = 100"):
        VideoMolmoProcessor(tokenizer, config)
