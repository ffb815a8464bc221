"""Makers of words: an endpoint against a real server on this machine, and a tiny image-text model of transformers."""

from __future__ import annotations

import base64
import io
from email.utils import formatdate

import numpy as np
import pytest
from chat_server import chat, running
from PIL import Image

from videomolmo.annotation.words import (
    LONGEST_SIDE_PX,
    TRIES,
    Endpoint,
    ImageTextModel,
    Refused,
    Request,
    Unavailable,
    word_maker,
)
from videomolmo.errors import BadInput

PICTURE = np.full((600, 1200, 3), (200, 30, 30), np.uint8)


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def endpoint(server, waits) -> Endpoint:
    return Endpoint(server.url, "tiny", "secret", wait=waits.append, answer_s=0.4)


def test_a_request_holds_what_was_asked_and_nothing_else(server, endpoint):
    assert endpoint.write(Request("What is it?", [PICTURE, PICTURE[:90, :120]], max_tokens=7)) == "words"
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert set(map(str.lower, headers)) <= {
        "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
        "authorization",
    }  # fmt: skip
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 7, 0)
    ((text, large, small),) = [message["content"] for message in body["messages"]]
    assert text == {"type": "text", "text": "What is it?"}
    for part, size in ((large, (LONGEST_SIDE_PX, LONGEST_SIDE_PX // 2)), (small, (120, 90))):
        with Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))) as image:
            assert image.format == "JPEG" and image.size == size and not image.getexif()
    assert endpoint.sent["requests"] == 1 and endpoint.sent["bytes"] == int(headers["Content-Length"])


def test_text_alone_without_a_key(server):
    Endpoint(f"{server.url}/chat/completions", "tiny").write(Request("Judge."))
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert body["messages"] == [{"role": "user", "content": "Judge."}]


def test_it_tries_again_after_twice_the_wait_or_as_long_as_it_is_told(server, endpoint, waits):
    soon = formatdate(usegmt=True)
    server.script = [(503, {}, b""), None, (429, {"Retry-After": "9"}, b"slow down"), (500, {"Retry-After": soon}, b""),
                     1.0, chat("at last")]  # fmt: skip
    assert endpoint.write(Request("?")) == "at last" and len(server.asked) == 6
    assert waits[:3] == [1, 2, 9] and waits[3:] == [8, 16]  # a date that is past asks for no wait


def test_it_gives_up_and_says_what_to_do(server, endpoint, waits):
    server.rest = lambda body: (502, {}, b"bad gateway")
    with pytest.raises(Unavailable, match=r"no answer in 6 tries \(502 bad gateway\); run again later"):
        endpoint.write(Request("?"))
    assert len(server.asked) == TRIES and waits == [1, 2, 4, 8, 16]
    server.rest = lambda body: (429, {"Retry-After": "3600"}, b"")
    with pytest.raises(Unavailable, match="asks to wait 3600 s"):
        endpoint.write(Request("?"))


@pytest.mark.parametrize(
    ("answer", "kind", "line"),
    [
        ((401, {}, b"no key"), Unavailable, "answers 401 no key; check URL, model and the key"),
        ((404, {}, b""), Unavailable, "answers 404"),
        ((302, {"Location": "http://127.0.0.1:9/x"}, b""), Unavailable, "answers 302"),
        ((422, {}, b"too long"), Refused, "refused the request"),
        ((200, {}, b"<html>"), Unavailable, "answers '<html>', expected a completed chat"),
        ((200, {}, b'{"choices": []}'), Unavailable, "expected a completed chat"),
        ((200, {}, b"[" * 100_000), Unavailable, "expected a completed chat"),
        ((200, {}, b" " * (2**22 + 1)), Unavailable, "more than 4,194,304 bytes"),
    ],
)
def test_answers_that_are_none(server, endpoint, waits, answer, kind, line):
    server.script = [answer]
    with pytest.raises(kind, match=line) as caught:
        endpoint.write(Request("?"))
    assert len(server.asked) == 1 and not waits and "secret" not in str(caught.value)


def test_words_that_were_not_said(server, endpoint):
    server.script = [chat(None)]
    assert endpoint.write(Request("?")) == ""


def test_nobody_is_there(waits):
    with running() as server:
        url = server.url
    with pytest.raises(Unavailable, match="no answer in 6 tries"):
        Endpoint(url, "tiny", wait=waits.append).write(Request("?"))
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize(
    ("url", "model", "key", "line"),
    [
        ("host/v1", "m", None, "expected a URL"),
        ("ftp://host/v1", "m", None, "expected a URL"),
        ("https://me:pass@host/v1", "m", None, "'https://host/v1': .* without name and password"),
        ("https://:pass@host/v1", "m", None, "without name and password"),
        ("http://[::1/v1", "m", None, "expected a URL"),
        ("http://host:99999/v1", "m", None, "expected a URL"),
        ("http://host.example/v1", "m", "secret", "would send the key in VIDEOMOLMO_API_KEY in the open"),
        ("https://host.example/v1", "templates", None, "the model is 'templates'"),
    ],
)
def test_endpoints_that_cannot_be_used(url, model, key, line):
    with pytest.raises(BadInput, match=line) as caught:
        Endpoint(url, model, key)
    assert "pass" not in str(caught.value).replace("password", "")


def test_the_key_is_taken_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("VIDEOMOLMO_API_KEY", "of the environment")
    word_maker("tiny", server.url).write(Request("?"))
    assert server.asked[0][1]["Authorization"] == "Bearer of the environment"
    assert word_maker("templates") is None


@pytest.fixture(scope="module")
def tiny_llava(tmp_path_factory):
    """A folder with an image-text model of random weights: transformers' LLaVA."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from videomolmo.model.tokenizer import build_nano_tokenizer

    folder = tmp_path_factory.mktemp("llava")
    tokenizer = build_nano_tokenizer(["A dog chases a ball."], 300)
    tokenizer.split_special_tokens = False
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    image = tokenizer.convert_tokens_to_ids("<image>")
    template = (
        "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        AutoTokenizer.from_pretrained(folder), patch_size=14, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **small),
            text_config=LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **small), image_token_index=image,
        ))  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_an_image_text_model_by_its_folder(tiny_llava):
    maker = word_maker(str(tiny_llava), device="cpu")
    assert isinstance(maker, ImageTextModel) and maker.name == str(tiny_llava)
    words = maker.write(Request("What is it?", [PICTURE], max_tokens=6))
    assert isinstance(words, str) and "What is it?" not in words  # the prompt is no answer
    assert words == maker.write(Request("What is it?", [PICTURE], max_tokens=6))
    maker.write(Request("Two of them?", [PICTURE, PICTURE], max_tokens=2))
    maker.write(Request("And none?", max_tokens=2))


def test_models_that_cannot_be_asked(tiny_llava, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert" / "model.safetensors").write_bytes((tiny_llava / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match="no image-text model that transformers can load") as caught:
        ImageTextModel(str(tmp_path / "bert"), "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="--model 'nowhere'"):
        ImageTextModel("nowhere", "cpu")
    for path in tiny_llava.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match="has no chat template"):
        ImageTextModel(str(tmp_path), "cpu")
