"""VideoGLaMM with random weights: batches, [SEG] or none, files, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.kill_ground import result_of
from safetensors.torch import load_file, save_file
from tiny_videoglamm import WORDS, tiny_config, tiny_model, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from videomolmo.cli import main
from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder, as_question
from videomolmo.io.video import VideoWriter, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.model.tokenizer import build_nano_tokenizer
from videomolmo.protocols import Question
from videomolmo.results import Caption, CaptionPhrase, GroundingResult
from videomolmo.systems import load_grounder
from videomolmo.systems.videoglamm import (
    VideoGLaMMConfig,
    VideoGLaMMForConditionalGeneration,
    VideoGLaMMProcessor,
    collate,
)
from videomolmo.systems.videoglamm.internvideo2 import VideoTower
from videomolmo.systems.videoglamm.losses import mask_losses
from videomolmo.systems.videoglamm.masks import decode_all, follow, to_size
from videomolmo.systems.videoglamm.model import Written
from videomolmo.systems.videoglamm.processor import chosen
from videomolmo.systems.videoglamm.segmenter import VideoGLaMMSegmenter, as_asked, read_words
from videomolmo.systems.videoglamm.splice import IGNORED, PLACEHOLDER
from videomolmo.systems.videoglamm.weights import read_configuration

CLIP = "model.image_vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def config(tokenizer: PreTrainedTokenizerFast) -> VideoGLaMMConfig:
    return tiny_config(tokenizer)


@pytest.fixture(scope="module")
def model(config: VideoGLaMMConfig) -> VideoGLaMMForConditionalGeneration:
    return tiny_model(config)


@pytest.fixture(scope="module")
def processor(tokenizer: PreTrainedTokenizerFast, config: VideoGLaMMConfig) -> VideoGLaMMProcessor:
    return VideoGLaMMProcessor(tokenizer, config)


def clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 24, 40, 3), dtype=np.uint8)


ANSWERS = ("<p> a red circle </p> [SEG] moves behind <p> the bar </p> [SEG].", "There is none.", "It is [SEG].")


@pytest.fixture(scope="module")
def examples(processor: VideoGLaMMProcessor) -> list[dict[str, torch.Tensor]]:
    """Three answered questions with two, no and one [SEG]; the last about a picture."""
    made = []
    for number, answer in enumerate(ANSWERS):
        frames = clip(1 if number == 2 else 3 + 3 * number, number)
        example = processor(frames, "What is there?" + " Where?" * number, answer)
        supervised = frames[:1] if number == 2 else frames[:2]
        masks = torch.full((4, len(supervised), 24, 40), -1.0)
        masks[: answer.count("[SEG]")] = (torch.rand(answer.count("[SEG]"), *masks.shape[1:]) > 0.5).float()
        made.append(example | {"sam_images": processor.sam_images(supervised), "masks": masks})
    return made


@torch.no_grad()
def test_batch_equals_rows_alone(model, examples) -> None:
    batch = collate(examples)
    out = model(**batch | {"masks": None})
    assert [len(found) for found in out.segments] == [2, 0, 1]
    assert [tuple(found.shape) for found in out.mask_logits] == [(2, 2, 16, 16), (0, 2, 16, 16), (1, 1, 16, 16)]
    for row, example in enumerate(examples):
        alone = model(**collate([example]) | {"masks": None})
        kept = out.attention_mask[row]
        assert torch.allclose(out.logits[row][kept], alone.logits[0], atol=1e-4)
        assert torch.equal(out.labels[row][kept], alone.labels[0])
        assert torch.allclose(out.mask_logits[row], alone.mask_logits[0], atol=1e-3)


def test_training_step_reaches_what_it_should(config, examples) -> None:
    model = VideoGLaMMForConditionalGeneration(config).train()
    out = model(**collate(examples))
    out.loss.backward()
    assert all(torch.isfinite(part) for part in (out.loss, out.ce_loss, out.bce_loss, out.dice_loss))
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    for part in (
        "model.text_hidden_fcs",
        "model.mm_projector",
        "model.image_mm_projector",
        "lm_head",
        "model.layers.0",
    ):
        assert any(name.startswith(part) for name in reached), part
    frozen = ("model.vision_tower", "model.image_vision_tower", "model.visual_model.image_encoder")
    assert not [name for name in reached if name.startswith(frozen)]


def test_nothing_to_learn_costs_nothing(model, examples) -> None:
    batch = collate([examples[1]])
    batch["labels"][:] = IGNORED
    with torch.no_grad():
        out = model(**batch)
    assert out.loss == out.ce_loss == out.bce_loss == 0 and abs(out.dice_loss) < 1e-6


def test_missing_objects_dilute_the_losses() -> None:
    logits = [torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))]
    true = torch.full((4, 2, 8, 8), -1.0)
    true[0] = (logits[0][0] > 0.3).float()
    one, four = mask_losses(logits, [true[:1]]), mask_losses(logits, [true])
    assert all(whole > 0 and torch.isclose(whole, 4 * quarter) for whole, quarter in zip(one, four, strict=True))


def test_conversations_share_their_sample(model, examples) -> None:
    batch = collate([examples[0], examples[1]])
    shared = {name: [batch[name][0]] for name in ("images", "context_images", "sam_images")}
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        together = model(**ids, **shared, offset=[0, 2])
        alone = model(**{name: value[:1] for name, value in ids.items()}, **shared)
    assert len(together.segments) == 1
    assert torch.allclose(together.segments[0], alone.segments[0], atol=1e-5)


def test_writing_in_a_batch(model, processor) -> None:
    questions = ("What is there?", "Which one is hidden behind the bar?", "Where?")
    prompts = [processor(clip(1 if at == 2 else 4, at), text) for at, text in enumerate(questions)]
    together = model.write(**collate(prompts), max_new_tokens=12, eos_token_id=None)
    assert sum(map(len, together.segments)) > 3
    for row, prompt in enumerate(prompts):
        batch = collate([prompt])
        alone = model.write(**batch, max_new_tokens=12, eos_token_id=None)
        new = alone.ids[0, batch["input_ids"].shape[1] :]
        assert torch.equal(together.ids[row, -12:], new)
        assert len(together.segments[row]) == int((new == model.config.language.segment).sum())
        with torch.no_grad():
            batch["input_ids"], batch["attention_mask"] = alone.ids, None
            again = model(**batch)
        assert torch.allclose(alone.segments[0], again.segments[0], atol=1e-5)
        assert torch.allclose(together.segments[row], alone.segments[0], atol=1e-5)
    assert torch.equal(model.generate(**collate(prompts), max_new_tokens=12, eos_token_id=None), together.ids)


def test_following_takes_frames_one_by_one(model, processor) -> None:
    taken: list[int] = []

    def pictures() -> Iterator[torch.Tensor]:
        for at, frame in enumerate(clip(5)):
            taken.append(at)
            yield processor.sam_images(frame[None])

    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    for at, masks in enumerate(follow(model.sam2, vectors, pictures(), 5, (24, 40))):
        assert masks.shape == (2, 24, 40) and masks.dtype == bool and taken == list(range(at + 1))
    assert not model.sam2.sam_prompt_encoder._forward_hooks
    assert [one.shape for one in follow(model.sam2, vectors[:0], pictures(), 5, (24, 40))] == [(0, 24, 40)] * 5


SAID = "<p> A red circle </p> [SEG] moves behind <p> the bar </p> [SEG]."
WORDS_SAID = "A red circle moves behind the bar."


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], None]:
    """Has every model write these words, whatever it sees, with a fixed vector for each [SEG]."""

    def say(text: str) -> None:
        new = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])

        def write(self, ids: torch.Tensor, *_: object, streamer: object = None, **__: object) -> Written:
            for token in new[0] if streamer else ():
                streamer.put(token[None])
            vectors = torch.randn(text.count("[SEG]"), 32, generator=torch.Generator().manual_seed(3))
            return Written(torch.cat([ids, new], dim=1), [vectors])

        monkeypatch.setattr(VideoGLaMMForConditionalGeneration, "write", write)

    return say


def test_caption_with_masks_on_every_frame(model, processor, writes, tmp_path: Path) -> None:
    writes(SAID)
    heard: list[str] = []
    frames = clip(21)
    grounder = VideoGrounder(segmenter=VideoGLaMMSegmenter(model, processor))
    result = grounder(frames, "the red circle", on_text=lambda at, text: heard.append(text))
    assert heard[-1] == result.caption.text == WORDS_SAID and result.objects == 2
    assert str(result.caption) == "[A red circle]1 moves behind [the bar]2." and str(result.caption) in result.summary()
    assert [(one.text, one.object) for one in result.caption.phrases] == [("A red circle", 1), ("the bar", 2)]
    assert result.key_frames == [0, 16] and [one.text for one in result.answers] == [WORDS_SAID, ""]
    vectors = model.write(torch.zeros(1, 1, dtype=torch.long)).segments[0]
    for at in (0, 15, 16, 20):
        alone = decode_all(model.sam2, processor.sam_images(frames[at : at + 1]), vectors)
        apart = result.masks[at] != (to_size(alone, (24, 40))[:, 0] > 0).numpy()
        assert apart.mean() < 1e-3  # frames go through together, which moves logits by rounding
    again = GroundingResult.load(result.save(tmp_path / "out", overlay=False))
    assert again.caption == result.caption and np.array_equal(again.masks[20], result.masks[20])


def test_first_frame_branch(model, processor, writes) -> None:
    writes(SAID)
    frames = clip(18)
    result = VideoGrounder(segmenter=VideoGLaMMSegmenter(model, processor, "first-frame"))(frames, "What is there?")
    pictures = (processor.sam_images(frame[None]) for frame in frames)
    wanted = list(follow(model.sam2, model.write(torch.zeros(1, 1).long()).segments[0], pictures, 18, (24, 40)))
    assert all(np.array_equal(result.masks[at], wanted[at]) for at in range(18))
    assert result.config["model"]["branch"] == "first-frame"


def test_words_without_objects(model, processor, writes) -> None:
    writes("There is nothing.")
    result = VideoGrounder(segmenter=VideoGLaMMSegmenter(model, processor))(clip(3), "What is there?")
    assert result.objects == 0 and result.caption.text == "There is nothing." and not result.caption.phrases


@pytest.mark.parametrize(
    "written, shown",
    [
        (SAID, "[A red circle]1 moves behind [the bar]2."),
        ("Sure, it is [SEG].", "[Sure, it is.]1"),
        ("<p> two stars </p> [SEG] [SEG] meet", "[[two stars]1]2 meet"),
        ("a <p> </p> [SEG] </p> b <p> c", "[a b c]1"),
        ("<p> x </p> y </p> [SEG]", "[x]1 y"),
        ("[SEG]", ""),
        ("", ""),
    ],
)
def test_reading_of_words(written: str, shown: str) -> None:
    words = read_words(written)
    phrases = tuple(CaptionPhrase(words.text[start:stop], start, stop, number) for start, stop, number in words.phrases)
    assert str(Caption(words.text, phrases)) == shown


def test_what_the_model_is_asked() -> None:
    with open_video(clip(2)) as video:
        for sentence, asked in (
            ("the red  circle.", "Please segment the red circle in the video."),
            ("What moves left?", "What moves left?"),
            ("Describe the clip", "Describe the clip"),
        ):
            assert as_asked(Question(as_question(sentence), video, 5, sentence=sentence)) == asked


def test_describing_on_the_command_line(model, processor, writes, tmp_path: Path, capsys) -> None:
    writes(SAID)
    model.save_pretrained(tmp_path / "glamm")
    processor.save_pretrained(tmp_path / "glamm")
    with VideoWriter(tmp_path / "clip.mp4", 10, 24, 40) as file:
        for frame in clip(4):
            file.write(frame)
    arguments = ["describe", str(tmp_path / "clip.mp4"), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(tmp_path / "glamm"), "--profile", str(tmp_path / "trace.json")]) == 0
    printed = capsys.readouterr().out
    assert "[A red circle]1 moves behind [the bar]2." in printed and (tmp_path / "trace.json").is_file()
    stages = {"masks/preprocessing", "masks/encoder", "masks/decoder", "saving"}
    assert stages <= json.loads((tmp_path / "out" / "run.json").read_bytes())["stages"].keys()
    assert all(stage in printed for stage in stages)
    assert GroundingResult.load(tmp_path / "out").caption.text == WORDS_SAID
    before = (tmp_path / "out" / "run.json").read_bytes()
    for refused, named in (
        (["--model", str(tmp_path / "glamm")], "out"),
        (["--model", "nano", "--overwrite"], "expected a VideoGLaMM"),
        (["--model", "nano", "--overwrite", "--branch", "first-frame"], "branch is no option"),
        (["--model", str(tmp_path / "glamm"), "--overwrite", "--branch", "last-frame"], "branch is 'last-frame'"),
    ):
        assert main([*arguments, *refused]) == 2
        errors = capsys.readouterr().err
        assert named in errors and errors.count("\n") == 1
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_a_stopped_description_goes_on_to_the_same_files(
    model, processor, writes, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes(SAID)
    monkeypatch.setattr("videomolmo.systems.videoglamm.segmenter.PART", 4)
    model.save_pretrained(tmp_path / "glamm")
    processor.save_pretrained(tmp_path / "glamm")
    with VideoWriter(tmp_path / "clip.mp4", 10, 24, 40) as file:
        for frame in clip(11):
            file.write(frame)

    def describe(name: str, *more: str) -> int:
        given = ["describe", tmp_path / "clip.mp4", "--model", tmp_path / "glamm", "--device", "cpu", "--end", "10f"]
        return main([*map(str, given), "--out", str(tmp_path / name), *more])

    write = MaskStore.write

    def interrupted(self, start: int, *given: object) -> None:
        if start == 8:
            raise KeyboardInterrupt
        write(self, start, *given)

    def stop(name: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(MaskStore, "write", interrupted)
            assert describe(name) == 130
        assert "frames before 8 are done, and the same command goes on from there" in capsys.readouterr().err

    assert describe("whole") == 0
    stop("out")
    masked: list[int] = []
    monkeypatch.setattr(
        "videomolmo.systems.videoglamm.segmenter.decode_all",
        lambda sam, pictures, vectors: masked.append(len(pictures)) or decode_all(sam, pictures, vectors),
    )
    assert describe("out") == 0 and result_of(tmp_path / "out") == result_of(tmp_path / "whole")
    assert sum(masked) == 2 and not (tmp_path / "out.unfinished").exists()
    result = GroundingResult.load(tmp_path / "out")
    assert result.caption.text == WORDS_SAID and result.key_frames == [0, 4, 8] and result.frames == 10

    stop("other")
    writes("It is [SEG].")  # a machine that counts otherwise
    assert describe("other") == 2 and "said otherwise before it was stopped; run it again" in capsys.readouterr().err
    assert describe("other") == 0 and GroundingResult.load(tmp_path / "other").objects == 1


@pytest.mark.parametrize(
    "change, said",
    [
        ({"text": 1}, "caption.text"),
        ({"phrases": [{"start": 0, "stop": 99, "object": 1}]}, "not in the caption"),
        ({"phrases": [{"start": 2, "stop": 1, "object": 1}]}, "not in the caption"),
        ({"phrases": [{"start": 0, "stop": 1, "object": 3}]}, "names object 3 of 2"),
    ],
)
def test_damaged_captions_are_refused(model, processor, writes, tmp_path: Path, change: dict, said: str) -> None:
    writes(SAID)
    result = VideoGrounder(segmenter=VideoGLaMMSegmenter(model, processor))(clip(2), "What is there?")
    run = result.save(tmp_path / "out", overlay=False) / "run.json"
    facts = json.loads(run.read_text())
    facts["caption"] |= change
    run.write_text(json.dumps(facts))
    with pytest.raises(BadInput, match=said):
        GroundingResult.load(tmp_path / "out")


def test_what_is_learnt_is_the_answer(processor, examples, tokenizer) -> None:
    for example, answer in zip(examples, ANSWERS, strict=True):
        ids, labels = example["input_ids"], example["labels"]
        learnt = labels != IGNORED
        assert torch.equal(ids[learnt], labels[learnt])
        assert tokenizer.decode(ids[learnt]) == f"{answer}<|end|>"
        assert tokenizer.decode(ids[~learnt].clamp(min=0)).endswith("<|end|>\n<|assistant|>\n")
        assert processor.decode(ids[learnt]) == answer
    assert [int((one["input_ids"] == PLACEHOLDER).sum()) for one in examples] == [4, 4, 1]
    assert chosen(6, 4) == [0, 1, 3, 5]


def test_folder_round_trip(model, processor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path) == model.config
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, VideoGLaMMForConditionalGeneration) and not again.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    inputs = collate([AutoProcessor.from_pretrained(tmp_path)(clip(4), "What is there?")])
    same = collate([processor(clip(4), "What is there?")])
    assert torch.equal(inputs["input_ids"], same["input_ids"])
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**same).logits)
    code = (
        "import sys, videomolmo, transformers; model = sys.argv[1]; "
        "print(type(transformers.AutoModelForImageTextToText.from_pretrained(model)).__name__)"
    )
    fresh = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert fresh.stdout.strip() == "VideoGLaMMForConditionalGeneration", fresh.stderr
    half = VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16")
    kinds = {(value.dtype, name.startswith("model.visual_model.")) for name, value in half.named_parameters()}
    assert kinds == {(torch.bfloat16, False), (torch.float32, True)}
    with torch.no_grad():
        assert torch.isfinite(half(**inputs).logits).all()
    grounder = load_grounder(str(tmp_path), device="cpu", dtype="bfloat16")
    for branch in ("each-frame", "first-frame"):  # all of it in half precision
        segmenter = VideoGLaMMSegmenter(half, grounder.segmenter.processor, branch)
        vectors = torch.ones(1, 32, dtype=torch.bfloat16)
        with open_video(clip(2)) as video:
            (masks,) = segmenter._masks(vectors, Question("What?", video, 5), 2)
        assert masks.shape == (2, 1, 24, 40)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshaped", "not finite"])
def test_weights_that_do_not_fit_are_refused(model, tmp_path: Path, fault: str) -> None:
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if fault == "missing":
        del state["lm_head.weight"]
    elif fault == "unexpected":
        state["model.stranger"] = torch.zeros(1)
    elif fault == "misshaped":
        state["lm_head.weight"] = torch.zeros(3, 32)
    else:
        state["lm_head.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=fault):
        VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path)


def test_export_without_clip(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert "model.visual_model.memory_encoder.fuser.layers.0.weight" in state
    clip_model = model.model.image_vision_tower.vision_tower.vision_model
    clip_model.save_pretrained(tmp_path / "clip")
    save_file({name: value for name, value in state.items() if CLIP not in name}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="give clip="):
        VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path)
    whole = VideoGLaMMForConditionalGeneration.from_pretrained(tmp_path, clip=tmp_path / "clip")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": 3}, "multiple of video.frames"),
        ({"strange": 1}, "strange"),
        ({"model_type": "molmo"}, "model_type"),
        ({"language": {"width": 10**9}}, "LanguageConfig.width"),
        ({"video": {"width": 24, "heads": 2}}, "multiple of 16"),
        ({"masks": {"stages": [1, 2]}}, "four numbers"),
        ({"masks": {"size_px": 80}}, "MaskConfig.size_px is 80, must be a multiple of 32"),
        ({"masks": {"width": 40}}, "MaskConfig.width is 40, must be a multiple of 16"),
        ({"masks": {"memory_width": 12}}, "multiple of memory_width"),
        ({"masks": {"trunk_heads": 3}}, "multiple of trunk_heads"),
        ({"language": {"heads": 32}}, "must be even to be rotated"),
        ({"image": {"size_px": 36, "stem": "conv"}}, "multiple of patch_px"),
    ],
)
def test_configurations_that_make_no_sense(config, change: dict, message: str) -> None:
    values = config.to_dict()
    assert VideoGLaMMConfig.from_dict(values) == config
    for name, value in change.items():
        values[name] = values.get(name, {}) | value if isinstance(value, dict) else value
    with pytest.raises((BadInput, ValueError), match=message):
        VideoGLaMMConfig.from_dict(values)


PUBLISHED = {
    "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "sliding_window": 2047, "max_position_embeddings": 4096, "bos_token_id": 1, "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "a path", "image_mm_vision_tower": "openai/clip-vit-large-patch14-336", "out_dim": 256,
}  # fmt: skip


def test_published_configuration(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(32012, 1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    assert read_configuration(tmp_path) == VideoGLaMMConfig()  # rows of the table, not vocab_size, tell [SEG]
    for change, message in (
        ({"out_dim": 128}, "out_dim"), ({"mm_vision_tower": None}, "two vision towers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"), ({"use_sam2": False}, "use_sam2"),
        ({"mm_use_im_start_end": "yes"}, "true or false"),
    ):  # fmt: skip
        values = {name: value for name, value in (PUBLISHED | change).items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(BadInput, match=message):
            read_configuration(tmp_path)


def test_frames_between_marks(processor, tokenizer, config, tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(32014, 1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | {"mm_use_im_start_end": True}))
    published = read_configuration(tmp_path)
    assert published.frame_marks and published.language.segment == 32013 and not config.frame_marks
    marked = VideoGLaMMProcessor(tokenizer, VideoGLaMMConfig.from_dict(config.to_dict() | {"frame_marks": True}))
    for places, kind in ((4, "vid"), (1, "im")):
        ids = marked.tokens("What?", None, places)["input_ids"]
        first, *_, last = [0, *(ids == PLACEHOLDER).nonzero()[:, 0].tolist()][-places:] * 2
        before, after = tokenizer.decode(ids[:first]), tokenizer.decode(ids[last + 1 :])
        assert before.endswith(f"<|user|>\n<{kind}_start>") and after.startswith(f"<{kind}_end>\nWhat?<|end|>")
        assert len(ids) > len(processor.tokens("What?", None, places)["input_ids"])


@torch.no_grad()
def test_pixels_beyond_the_last_whole_patch_are_not_seen(config) -> None:
    whole = VideoTower(config.video).eval()
    larger = VideoTower(replace(config.video, size_px=config.video.size_px + 3)).eval()
    larger.load_state_dict(whole.state_dict())
    frames = torch.rand(2, 3, config.video.size_px + 3, config.video.size_px + 3)
    assert torch.allclose(larger(frames), whole(frames[..., :-3, :-3]), atol=1e-6)


def test_inputs_that_make_no_sense(model, processor, examples) -> None:
    batch = collate([examples[0]])
    for change, message in (
        ({"images": None, "context_images": None}, "placeholders but no frames"),
        ({"input_ids": batch["input_ids"].clamp(min=0)}, "frames but no placeholder"),
        ({"images": [batch["images"][0][:3]]}, "multiple of 2"),
        ({"offset": [0, 2]}, "offset"),
        ({"masks": [batch["masks"][0][:, :1]]}, "true masks"),
        ({"sam_images": None}, "without sam_images"),
    ):
        with pytest.raises(BadInput, match=message):
            model(**batch | change)
    apart = batch["input_ids"].clone()
    apart[0, 0] = PLACEHOLDER
    with pytest.raises(BadInput, match="several runs"):
        model(**batch | {"input_ids": apart})
    for name, value in (("num_beams", 2), ("use_cache", False), ("return_dict_in_generate", True)):
        for options in ({name: value}, {"generation_config": GenerationConfig(**{name: value})}):
            with pytest.raises(BadInput, match=f"{name} is {value}"):
                model.generate(batch["input_ids"], **options)
    with pytest.raises(BadInput, match="uint8"):
        processor(clip(2).astype(float), "What is there?")
    with pytest.raises(BadInput, match="sign of the model's own"):
        processor(clip(2), "Where is [SEG]?")
    with pytest.raises(BadInput, match="labels"):
        collate([examples[0], processor(clip(4), "What is there?")])
    with pytest.raises(BadInput, match="belongs to the model"):
        VideoGLaMMProcessor(build_nano_tokenizer([WORDS], 360), model.config)
