"""Who puts captions into words: templates, an image-text model of transformers, or an endpoint for chat completions.

Only an endpoint that the caller names is ever asked, and it gets the model's name, the text and the pictures of a
request, nothing else; the key from the environment goes along as its header.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.io.capture import without_password

if TYPE_CHECKING:
    import httpx

Picture = UInt8[np.ndarray, "height width 3"]
TEMPLATES = "templates"
KEY = "VIDEOMOLMO_API_KEY"  # the environment's variable with the key of an endpoint
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 6, 1.0, 120.0
CONNECT_S, ANSWER_S = 10.0, 120.0
MAX_ANSWER_BYTES = 2**22
LONGEST_SIDE_PX, QUALITY = 512, 85  # of pictures that are sent
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # answers after which it is worth while to ask once more
REFUSED = {400, 413, 415, 422}  # this request, and perhaps no other


class Refused(BadInput):
    """One request that a maker of words will not answer; others may be."""


class Unavailable(BadInput):
    """A maker of words that answers no request, now or ever."""


@dataclass(frozen=True)
class Request:
    """What is to be put into words.

    Attributes:
        text: the request in full, for models.
        pictures: RGB frames that belong to it.
        facts: the same for templates: names or sentences by object.
        max_tokens: of the answer.
    """

    text: str
    pictures: Sequence[Picture] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 400


class WordMaker(Protocol):
    """Answers requests in words."""

    name: str

    def write(self, request: Request) -> str:
        """The answer.

        Raises:
            Refused: this request will not be answered.
            Unavailable: no request will be.
        """
        ...


def word_maker(name: str, endpoint: str | None = None, device: str = "auto") -> WordMaker | None:
    """A maker of words by name; None for "templates", which need none.

    Args:
        name: "templates", a folder or hub id of an image-text model, or with `endpoint` its name for the model.
        endpoint: URL for chat completions; the key, if any, is taken from the environment ($VIDEOMOLMO_API_KEY).
        device: for a model of transformers.

    Raises:
        BadInput: no such model, or a URL that cannot be used.
    """
    if endpoint is not None:
        return Endpoint(endpoint, name, os.environ.get(KEY))
    return None if name == TEMPLATES else ImageTextModel(name, device)


class Endpoint:
    """A server that completes chats as OpenAI's does, asked one request after another.

    A time-out, a lost connection or an answer in `AGAIN` is tried again, after twice the wait each time or as long as
    its Retry-After says.

    Args:
        url: its base ("https://host/v1"), or the whole path to chat/completions.
        model: the server's name for the model.
        key: sent as a bearer token; over plain http only to this machine.
        wait: how waiting is done.
        answer_s: how long an answer may take.

    Attributes:
        sent: requests and bytes so far, tries included.

    Raises:
        BadInput: no URL that can be used, or a key that would travel in the open.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, wait: Callable[[float], object] = time.sleep,
        answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        shown = without_password(url)
        try:
            parts = urlsplit(url)
            is_whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # half an address in brackets, or a port that is none
            is_whole = False
        if not is_whole or "@" in parts.netloc:
            raise BadInput(f"endpoint {shown!r}: expected a URL such as https://host/v1, without name and password")
        if key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise BadInput(f"endpoint {shown}: would send the key in {KEY} in the open; give an https URL or unset it")
        if not model or model == TEMPLATES:
            raise BadInput(
                f"endpoint {shown}: the model is {model!r}, expected the endpoint's name for one; give --words"
            )
        path = parts.path.rstrip("/")
        end = "" if path.endswith("/chat/completions") else "/chat/completions"
        self.url = parts._replace(path=path + end).geturl()
        self.name, self.model, self._key, self._wait = f"{model} at {parts.hostname}", model, key, wait
        self._answer_s, self.sent = answer_s, {"requests": 0, "bytes": 0}

    def body(self, request: Request) -> bytes:
        """What is sent for a request."""
        content: Any = request.text
        if len(request.pictures):
            content = [{"type": "text", "text": request.text}]
            content += [{"type": "image_url", "image_url": {"url": _data_url(one)}} for one in request.pictures]
        return json.dumps({
            "model": self.model, "messages": [{"role": "user", "content": content}],
            "max_tokens": request.max_tokens, "temperature": 0,
        }).encode()  # fmt: skip

    def write(self, request: Request) -> str:
        """See `WordMaker`."""
        import httpx

        body, reason, told = self.body(request), "", None
        with httpx.Client(timeout=httpx.Timeout(self._answer_s, connect=CONNECT_S)) as client:
            for number in range(TRIES):
                if number:
                    self._wait(max(min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S), told or 0))
                try:
                    status, headers, content = self._post(client, body)
                except httpx.TransportError as error:
                    reason, told = str(error) or type(error).__name__, None
                    continue
                if status == 200:
                    return self._words(content)
                line = f"{status} {' '.join(content[:200].decode(errors='replace').split())}".strip()
                if status in REFUSED:
                    raise Refused(f"{self.url} refused the request ({line})")
                if status not in AGAIN:
                    raise Unavailable(f"{self.url} answers {line}; check URL, model and the key in {KEY}")
                reason, told = line, _seconds(headers.get("retry-after"))
                if told is not None and told > LONGEST_WAIT_S:
                    raise Unavailable(f"{self.url} asks to wait {told:.0f} s ({line}); run again then, to go on")
        raise Unavailable(f"{self.url} gave no answer in {TRIES} tries ({reason}); run again later, to go on")

    def _post(self, client: httpx.Client, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content of an answer, of which no more is read than any real one has."""
        import httpx

        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        self.sent["requests"] += 1
        self.sent["bytes"] += len(body)
        end = time.monotonic() + 2 * self._answer_s
        with client.stream("POST", self.url, content=body, headers=headers) as answer:
            content = b""
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > end:  # it drips
                    raise httpx.ReadTimeout(f"no whole answer in {2 * self._answer_s:g} s")
                if len(content) > MAX_ANSWER_BYTES:
                    raise Unavailable(f"{self.url} answers with more than {MAX_ANSWER_BYTES:,} bytes; check the URL")
            return answer.status_code, answer.headers, content

    def _words(self, content: bytes) -> str:
        try:
            words = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            words = 0
        if words is None:  # as some answer what they will not say
            return ""
        if not isinstance(words, str):
            start = " ".join(content[:80].decode(errors="replace").split())
            raise Unavailable(f"{self.url}: answers {start!r}, expected a completed chat; check the URL")
        return words


def _data_url(picture: Picture) -> str:
    """A picture as JPEG in a URL, shrunk where it is large."""
    from PIL import Image

    image, packed = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    image.save(packed, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _seconds(text: str | None) -> float | None:
    """How long a Retry-After says to wait: seconds, or a date."""
    if text is None:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None


class ImageTextModel:
    """Any image-text model of transformers that has a chat template; greedy.

    Args:
        name: folder or hub id with safetensors; code that comes with it is not run.
        device: "auto", "cpu", "cuda".

    Raises:
        BadInput: no such model, or one that transformers cannot load as this.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from videomolmo.weights import hub
        from videomolmo.weights.checkpoint import device_named, dtype_of

        self.name, self.device = name, device_named(device)
        folder = hub.pointing_folder(name)
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            precision = dtype_of("float32" if self.device == "cpu" else "bfloat16")
            self._processor = AutoProcessor.from_pretrained(folder, **options)
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=precision, use_safetensors=True, **options
            )
        except Exception as error:  # transformers raises many kinds; all mean that this is no such model
            line = str(error).strip().partition("\n")[0][:200]
            raise BadInput(f"{name}: no image-text model that transformers can load ({line})") from error
        if not getattr(self._processor, "chat_template", None):
            raise BadInput(f"{name}: has no chat template, so that it cannot be asked; choose an instructed model")
        self._model = model.to(self.device).eval()

    def write(self, request: Request) -> str:
        """See `WordMaker`."""
        import torch
        from PIL import Image

        content = [{"type": "image", "image": Image.fromarray(one)} for one in request.pictures]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": request.text}]}]
        inputs = self._processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            written = self._model.generate(**inputs, max_new_tokens=request.max_tokens, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :]
        return self._processor.decode(new, skip_special_tokens=True).strip()
