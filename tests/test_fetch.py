"""Data sets fetched from a server on this machine that cuts connections, lies about sums, or has too much."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tqdm import tqdm

from videomolmo.cli import main
from videomolmo.datasets import DATASETS, fetch
from videomolmo.datasets.recipes import RECIPES, Archive, Recipe
from videomolmo.errors import BadInput


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return packed.getvalue()


CONTENT = zipped(DAVIS__a=bytes(range(256)) * 40, DAVIS__b=b"b")


class Server:
    """What it gives, and how: `cut` bytes a connection, ranges or not; and which ranges were asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.cut, self.ranges, self.status, self.asked = content, 0, True, 200, []
        self.length: int | None = None
        self.most = 99  # connections, before it is down
        self.etag = '"1"'


@contextmanager
def serving(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Range") if self.headers.get("If-Range") == server.etag else None
            server.asked.append(given)
            start = int(re.match(r"bytes=(\d+)-", given)[1]) if given and server.ranges else 0
            body = server.content[start:]
            if len(server.asked) > server.most:
                self.send_error(503)
                return
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.end_headers()
                return
            self.send_response(206 if start else server.status)
            self.send_header("Content-Length", str(len(body) if server.length is None else server.length))
            self.send_header("ETag", server.etag)
            self.end_headers()
            self.wfile.write(body[: server.cut or None])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/set.zip"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE_S", 0)
    made = Server()
    with serving(made) as url:
        sum_ = hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setitem(RECIPES, "ref_davis17", Recipe("CC BY 4.0", (Archive(url, sum_),)))
        yield made


def there(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_connection_that_is_cut_goes_on_where_it_was(server, tmp_path):
    server.cut = len(CONTENT) // 3 + 1
    assert fetch.fetch("ref_davis17", tmp_path / "set") == ["set.zip"]
    assert server.asked == [None, f"bytes={server.cut}-", f"bytes={2 * server.cut}-"]
    assert there(tmp_path / "set") == ["DAVIS/a", "DAVIS/b", "fetched.json"]
    (about,) = json.loads((tmp_path / "set" / "fetched.json").read_text()).values()
    assert about == {"sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT)}
    assert fetch.fetch("ref_davis17", tmp_path / "set") == [] and len(server.asked) == 3


def test_a_download_that_was_given_up_goes_on_with_the_next_command(server, tmp_path):
    server.cut, server.most = 700, 1
    with pytest.raises(BadInput, match="700 bytes are kept, and the same command goes on"):
        fetch.fetch("ref_davis17", tmp_path)
    server.cut, server.most = 0, 99
    fetch.fetch("ref_davis17", tmp_path)
    assert server.asked == [None] + ["bytes=700-"] * (fetch.TRIES + 1) and there(tmp_path) == [
        "DAVIS/a",
        "DAVIS/b",
        "fetched.json",
    ]


@pytest.mark.parametrize("what", ["no ranges", "another version"])
def test_where_going_on_is_impossible_it_begins_anew(server, tmp_path, what):
    server.cut, server.most = 700, 1
    with pytest.raises(BadInput):
        fetch.fetch("ref_davis17", tmp_path)
    server.most = 99
    server.cut, server.ranges = 0, what != "no ranges"
    server.etag = '"2"' if what == "another version" else server.etag
    fetch.fetch("ref_davis17", tmp_path)
    assert (tmp_path / "DAVIS" / "b").read_bytes() == b"b"


def test_wrong_sums_are_told_and_nothing_stays(server, tmp_path):
    server.content = zipped(DAVIS__a=b"something else")
    with pytest.raises(BadInput, match=r"sha256 is .* expected .* fetch again"):
        fetch.fetch("ref_davis17", tmp_path)
    assert there(tmp_path) == []


@pytest.mark.parametrize("content", [b"no zip", CONTENT[:-30], zipped(**{"..__out": b"x"})])
def test_what_is_no_sound_archive_is_told(server, tmp_path, monkeypatch, content):
    server.content = content
    url = RECIPES["ref_davis17"].archives[0].url
    monkeypatch.setitem(RECIPES, "ref_davis17", Recipe("CC BY 4.0", (Archive(url),)))
    with pytest.raises(BadInput):
        fetch.fetch("ref_davis17", tmp_path / "set")
    assert not (tmp_path / "out").exists() and "fetched.json" not in there(tmp_path)


def test_no_room_is_told_before_a_byte_comes(server, tmp_path, monkeypatch):
    server.length = 1 << 60
    with pytest.raises(BadInput, match="needs 1,152,921,504,606,846,976 bytes more"):
        fetch.fetch("ref_davis17", tmp_path)
    assert there(tmp_path) == []
    server.length = None
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(BadInput, match="make room"):
        fetch.fetch("ref_davis17", tmp_path)


def test_a_server_that_refuses_is_told_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(BadInput, match="404"):
        fetch.fetch("ref_davis17", tmp_path)
    assert len(server.asked) == 1


def test_nobody_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE_S", 0)
    monkeypatch.setitem(RECIPES, "ref_davis17", Recipe("", (Archive("http://127.0.0.1:9/set.zip"),)))
    with pytest.raises(BadInput, match="cannot be fetched") as caught:
        fetch.fetch("ref_davis17", tmp_path)
    assert "\n" not in str(caught.value)


def test_the_licence_is_shown_and_accepted_first(server, tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr("tqdm.tqdm", lambda **given: made.append(tqdm(**given)) or made[-1])
    monkeypatch.setattr(fetch, "CHUNK_BYTES", len(CONTENT) // 4)
    assert main(["data", "fetch", "ref_davis17", str(tmp_path / "set")]) == 2
    out, err = capsys.readouterr()
    assert "CC BY 4.0" in out and "--accept-licence" in err and not server.asked and not (tmp_path / "set").exists()
    assert main(["data", "fetch", "ref_davis17", str(tmp_path / "set"), "--accept-licence"]) == 0
    assert "set.zip fetched" in capsys.readouterr().out and (tmp_path / "set" / "DAVIS" / "a").is_file()
    assert len(made) == 1  # however many parts a file comes in, it has one bar


@pytest.mark.parametrize("name", [name for name, one in DATASETS.items() if one.needs_path and name != "imported"])
def test_every_public_set_has_a_licence_and_a_way(name, capsys):
    recipe = RECIPES[name]
    assert recipe.licence and (recipe.archives or recipe.steps)
    assert all(one.url.startswith("https://") for one in recipe.archives)
    if not recipe.archives:
        assert main(["data", "fetch", name]) == 1 and recipe.steps in capsys.readouterr().out
        with pytest.raises(BadInput, match="no plain URL"):
            fetch.fetch(name, Path("nowhere"))
