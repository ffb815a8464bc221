"""A server for chat completions on this machine, which answers as it was told and remembers what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


def chat(words: Any) -> Answer:
    """A completed chat with these words."""
    message = {"choices": [{"message": {"role": "assistant", "content": words}}]}
    return 200, {}, json.dumps(message).encode()


class ChatServer(ThreadingHTTPServer):
    """Answers in turn from `script`, then from `rest`; a number in it is so many seconds of silence.

    Attributes:
        asked: (path, headers, body) of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str], dict]] = []
        self.script: list[Answer | float | None] = []
        self.rest: Callable[[dict], Answer] = lambda body: chat("words")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        answer = self.server.script.pop(0) if self.server.script else self.server.rest(body)
        if answer is None:  # hangs up
            self.close_connection = True
            return
        if isinstance(answer, float):
            time.sleep(answer)
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: tests are quiet."""


@contextmanager
def running() -> Iterator[ChatServer]:
    """A server that runs while the block does."""
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
