"""The whole job with models as published: a small pointing model under published names, SAM 2.1 tiny at 1024 pixels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import CORPUS
from test_loading import small

from videomolmo.errors import BadInput
from videomolmo.grounding import VideoGrounder
from videomolmo.masks.sam2 import build_published, published_name
from videomolmo.model import VideoMolmoForConditionalGeneration
from videomolmo.model.config import LanguageConfig
from videomolmo.model.tokenizer import build_nano_tokenizer, load_tokenizer, save_tokenizer
from videomolmo.weights.checkpoint import export
from videomolmo.weights.hub import hashes, sample_clip, split_revision

REAL = Path(__file__).resolve().parents[2] / "shared" / "videos" / "coffee.mp4"
LANGUAGE = LanguageConfig(
    vocab_size=512, extra_vocab=128, width=64, layers=2, heads=4, kv_heads=2, ff=96, end_of_text=0
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A pointing model with random weights as it would lie on the hub, with its tokenizer."""
    torch.manual_seed(0)
    VideoMolmoForConditionalGeneration(small(language=LANGUAGE)).save_pretrained(tmp_path / "ours")
    save_tokenizer(build_nano_tokenizer(CORPUS), str(tmp_path / "ours"))
    export(tmp_path / "ours", tmp_path / "published", shard_size="100KB")
    return tmp_path / "published"


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    """SAM 2.1 tiny with random weights under the name of its checkpoint."""
    torch.manual_seed(0)
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_published("facebook/sam2.1-hiera-tiny").state_dict()}, path)
    return path


@pytest.mark.slow
def test_published_models_on_six_frames_of_a_clip(published, sam_file, tmp_path):
    grounder = VideoGrounder.from_pretrained(str(published), str(sam_file), "cpu", dtype="bfloat16")
    assert grounder.tracker.model.image_size == 1024
    assert grounder.pointer.model.language.embed_tokens.weight.dtype == torch.bfloat16
    grounder.pointer.model.generate = partial(grounder.pointer.model.generate, max_new_tokens=4)
    grounder.pointer.processor.decode = lambda ids, size=None: '<point x="52.0" y="48.0" alt="mug">mug</point>'
    heard = []
    clip = REAL if REAL.is_file() else sample_clip()
    result = grounder(clip, "the blue mug", every=3, max_frames=6, on_text=lambda frame, text: heard.append(frame))
    assert [answer.outcome for answer in result.answers] == ["found", "found"]
    assert set(heard) == {0, 3}
    assert result.masks[:].shape[0] == 6 and result.masks[:].shape[2:] == (result.height, result.width)
    weights = result.config["weights_sha256"]
    assert len([name for name in weights if name.startswith("pointing:published/")]) == len(hashes(published)) > 1
    assert any(name.endswith("sam2.1_hiera_tiny.pt") for name in weights)


def test_names_of_models_and_revisions(tmp_path):
    assert published_name("facebook/sam2.1-hiera-base-plus") == "facebook/sam2.1-hiera-base-plus"
    assert published_name("elsewhere/sam2.1_hiera_large.pt") == "facebook/sam2.1-hiera-large"
    assert published_name("nano") is None
    assert split_revision("a/b@0123abc") == ("a/b", "0123abc")
    assert split_revision("a/b") == ("a/b", None)
    with pytest.raises(BadInput, match="unknown; give 'nano'"):
        VideoGrounder.from_pretrained("not a name")
    with pytest.raises(BadInput, match="the hub gave nothing"):
        VideoGrounder.from_pretrained("no-such/model@main", offline=True)


def test_the_tokenizer_must_be_the_models(published):
    tokenizer = load_tokenizer(published, LANGUAGE)
    assert tokenizer.decode(tokenizer.encode("<im_patch>", add_special_tokens=False)) == "<im_patch>"
    with pytest.raises(BadInput, match="gives <|endoftext|> the id 0, the model has 5".replace("|", r"\|")):
        load_tokenizer(published, LanguageConfig(vocab_size=512, end_of_text=5))


def test_a_checkpoint_that_is_another_models(tmp_path):
    path = tmp_path / "sam2.1_hiera_small.pt"
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    with pytest.raises(BadInput, match="weights do not fit this model"):
        VideoGrounder.from_pretrained("nano", str(path))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BadInput, match="not a SAM 2 checkpoint"):
        VideoGrounder.from_pretrained("nano", str(path))
