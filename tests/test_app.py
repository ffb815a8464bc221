"""The page for videos of one's own, without a browser: nothing that one sends is trusted."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import encode

from videomolmo.cli import main
from videomolmo.cli.serve import SERVED, served
from videomolmo.errors import BadInput
from videomolmo.inspector import transfer
from videomolmo.inspector.app import SAMPLE, VideoApp
from videomolmo.inspector.corrections import Cancelled
from videomolmo.inspector.transfer import PART_BYTES, Download, Upload, safe_name
from videomolmo.io.known_words import KnownWords
from videomolmo.lab.exercises import check_name_exercise


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@given(st.text() | st.from_regex(r"(\.\./|C:\\|~/|con|\.)*[^.]*\.(mp4|m3u8)?", fullmatch=True))
def test_a_name_is_one_of_a_file_in_the_folder(text):
    name = safe_name(text)
    assert name and Path("folder", name).resolve().parent == Path("folder").resolve()
    assert not re.search(r"[\\/\0<>:|?*\n]", name) and not name.startswith(".") and len(name.encode()) <= 255
    assert safe_name(name) == name
    assert check_name_exercise(safe_name).startswith("right") and check_name_exercise(str).startswith("not yet")


class Browser:
    """The other half of a transfer, as upload.js and download.js are it."""

    def __init__(self, widget, monkeypatch) -> None:
        self.widget, self.told = widget, []
        monkeypatch.setattr(widget, "send", lambda content, buffers=(): self.told.append((content, list(buffers))))

    def says(self, kind: str, *buffers: bytes, **content) -> None:
        self.widget._receive(None, {"kind": kind, **content}, list(buffers))

    def sends(self, name: str, data: bytes, size: int | None = None) -> dict:
        """What the kernel says in the end, when asked for all parts of a file."""
        self.told.clear()
        self.says("begin", id="a", name=name, size=len(data) if size is None else size)
        for content, _ in self.told:  # grows meanwhile
            if content["kind"] == "want":
                self.says("part", data[content["at"] : content["at"] + content["bytes"]], id="a", at=content["at"])
        return self.told[-1][0]


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """A browser before an upload of at most 3 MB, and what came whole."""
    (tmp_path / "in").mkdir()
    came = []
    browser = Browser(Upload(lambda: tmp_path / "in", 3, came.append), monkeypatch)
    return SimpleNamespace(browser=browser, came=came, folder=tmp_path / "in", widget=browser.widget)


def test_a_file_arrives_in_parts_and_under_a_safe_name(upload):
    data = bytes(range(256)) * (PART_BYTES // 100)
    for n, name in enumerate(["clip.mp4", "../../clip.mp4", "/etc/clip.mp4"]):
        assert upload.browser.sends(name, data)["kind"] == "done"
        assert upload.came[-1] == upload.folder / ("clip.mp4" if n == 0 else f"clip_{n}.mp4")
        assert upload.came[-1].read_bytes() == data
    assert files(upload.folder.parent) == ["in/clip.mp4", "in/clip_1.mp4", "in/clip_2.mp4"]


@pytest.mark.parametrize(
    "sent, size, why",
    [(b"", 0, "is empty"), (b"x" * 10, 3_000_001, "at most 3 MB"), (b"x" * 10, -1, "is empty"),
     (b"x" * 10, "1e3", "is empty"), (b"x" * 10, 11, "cut off"), (b"x" * (PART_BYTES + 5), PART_BYTES + 9, "cut off")],
    ids=["empty", "too large", "negative", "no number", "shorter than announced", "cut off later"],
)  # fmt: skip
def test_what_is_no_whole_file_leaves_nothing(upload, sent, size, why):
    upload.widget.limit = 10**12  # a browser may say so
    told = upload.browser.sends("clip.mp4", sent, size)
    assert told["kind"] == "refused" and why in told["why"] and "\n" not in told["why"]
    assert not upload.came and not list(upload.folder.iterdir())


def test_more_or_other_than_was_asked_for_is_refused(upload):
    says, told = upload.browser.says, upload.browser.told
    for at, part in [(0, b"x" * 101), (50, b"x" * 50), ("0", b"x" * 100), (None, b"")]:
        says("begin", id="a", name="clip.mp4", size=100)
        says("part", part, id="a", at=at)
        assert told[-1][0]["kind"] == "refused"
    says("part", b"x" * 100, id="a", at=0)  # of none
    says("begin", id="b", name=["no", "text"], size=100)
    says("part", b"x" * 100, id="a", at=0)  # of another
    says("cancel", id="b")
    assert not upload.came and not list(upload.folder.iterdir())


def test_a_cancelled_upload_and_a_full_disk_leave_nothing(upload, monkeypatch):
    upload.browser.says("begin", id="a", name="clip.mp4", size=2 * PART_BYTES)
    upload.browser.says("part", bytes(PART_BYTES), id="a", at=0)
    assert list(upload.folder.iterdir())
    upload.widget.close()
    assert not list(upload.folder.iterdir())
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert "no room" in upload.browser.sends("clip.mp4", b"x")["why"]
    assert not list(upload.folder.iterdir())


def test_a_download_gives_what_was_offered_and_nothing_else(tmp_path, monkeypatch):
    browser = Browser(Download(), monkeypatch)
    (tmp_path / "secret").write_text("secret")

    def fetched() -> bytes:
        data, browser.told[:] = b"", []
        browser.says("get", at=0, name=str(tmp_path / "secret"), path=str(tmp_path / "secret"))
        while browser.told:
            content, (part,) = browser.told.pop()
            data += part
            if len(data) < content["of"]:
                browser.says("get", at=len(data))
        return data

    assert fetched() == b""
    content = bytes(range(256)) * (PART_BYTES // 100)
    (tmp_path / "a.bin").write_bytes(content)
    browser.widget.offer(tmp_path / "a.bin")
    assert browser.widget.name == "a.bin" and fetched() == content == fetched()
    browser.says("get", at=-1)
    browser.says("get", at="0")
    (tmp_path / "masks" / "deep").mkdir(parents=True)
    (tmp_path / "masks" / "deep" / "1.png").write_bytes(b"one")
    (tmp_path / "masks" / "link").symlink_to(tmp_path / "secret")
    browser.widget.offer(tmp_path / "masks")
    with zipfile.ZipFile(io.BytesIO(fetched())) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {"masks/deep/1.png": b"one"}
    assert browser.widget.name == "masks.zip" and files(tmp_path) == [
        "a.bin",
        "masks/deep/1.png",
        "masks/link",
        "secret",
    ]
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "a.bin").unlink()
    browser.widget._path = tmp_path / "a.bin"
    browser.says("get", at=0)
    assert browser.told[-1][0]["kind"] == "gone"


@pytest.fixture
def app(tmp_path, tiny_grounder, monkeypatch):
    monkeypatch.setattr("videomolmo.systems.load_grounder", lambda *_, **__: tiny_grounder)
    made = VideoApp(tmp_path / "app", ["nano"], 10, sentence="the red circle")
    yield made
    made.close()


def test_only_what_is_in_the_lists_can_be_chosen(app, tmp_path):
    clip = encode(tmp_path / "outside.mp4", count=3)
    root = tmp_path / "app"
    root.mkdir()
    shutil.copy(clip, root / "mine.mp4")
    (root / "link.mp4").symlink_to(clip)
    (root / "notes.txt").write_text("no video")
    (root / "folder.mp4").mkdir()
    assert list(app.videos()) == [SAMPLE, "mine.mp4"]
    for name in ("../outside.mp4", str(clip), "link.mp4", "notes.txt", "", "camera:0", "http://localhost/"):
        with pytest.raises(BadInput, match="no video"):
            app.run(name, "the red circle")
    for system in ("/root/model", "someone/model", "nano-glamm"):
        with pytest.raises(BadInput, match="is not offered here"):
            app.run("mine.mp4", "the red circle", system)
    assert files(root) == ["link.mp4", "mine.mp4", "notes.txt"]


def test_a_run_shows_its_windows_and_saves_its_result(app, tmp_path):
    clip = encode(tmp_path / "clip.mp4", count=12)
    app.upload._on_file(shutil.copy(clip, app._place("videos")) and app.folder / "videos" / "clip.mp4")
    assert app.video.value == "clip.mp4 (yours)" and "12 frames" in app.words.value
    app.sentence.value, app.start.value = "The <b>red</b> circle / ..", "2f"
    app.ask.click()  # there is no loop: done at once
    assert "saved in" in app.words.value, app.words.value
    (result,) = (app.folder / "results").iterdir()
    assert result.name == "the_b_red_b_circle" and app.bar.value == app.bar.max == 10
    assert 1 < len(app.windows.children) <= 10 and app.windows.children[0].value[:2] == b"\xff\xd8"
    assert app.inspector.inspection.frames == 10 and app._shown.children == (app.inspector.box,)
    first = app.inspector
    app.ask.click()
    assert len(app.results.options) == 2 and first.box is None and app.inspector is not first  # given back
    assert {path.parts[0] for path in map(Path, files(app.folder))} == {"videos", "results"}
    assert [path.name for path in (tmp_path / "app").iterdir()] == [app.folder.name]
    app._work.busy = True  # another run uses the models: an earlier result may be looked at, and no more
    assert app.show(result).state.work.busy
    app._work.busy = False
    app._hold(False)
    app.sentence.value = " "
    app.ask.click()
    assert "the sentence is empty" in app.words.value and not app.ask.disabled
    app.start.value = "yesterday"
    app.ask.click()
    assert "vm-error" in app.words.value and "yesterday" in app.words.value
    assert len(list((app.folder / "results").iterdir())) == 2


def test_words_that_a_system_never_learnt_are_told(app, tiny_grounder, monkeypatch):
    known = KnownWords({"colours": ("red",), "shapes": ("circle",)})
    monkeypatch.setattr(tiny_grounder.pointer, "known_words", known, raising=False)
    app.sentence.value, app.every.value, app.end.value = "the <b>giraffe", 30, "3f"
    app.ask.click()
    assert "saved in" in app.words.value and "nano never learnt “b” or “giraffe”, so its answer is" in app.words.value
    app.sentence.value = "the red circle"
    app.ask.click()
    assert "never learnt" not in app.words.value


def test_a_cancelled_run_leaves_nothing(app):
    seen = []
    with pytest.raises(Cancelled):
        app.run(SAMPLE, "the red circle", progress=lambda *news: seen.append(news), cancel=lambda: bool(seen))
    assert seen and files(app.folder) == [] and not any(path.name.startswith(".") for path in app.folder.iterdir())


@pytest.mark.parametrize("text", ["not a video", "#EXTM3U\n#EXTINF:2,\n/etc/hostname.ts\n#EXT-X-ENDLIST\n"])
def test_what_is_no_video_is_removed_and_said(app, text):
    path = app._place("videos") / "a<b>.m3u8"
    path.write_text(text)
    app._uploaded(path)
    assert "vm-error" in app.words.value and "<b>" not in app.words.value and str(app.folder) not in app.words.value
    assert not path.exists() and list(app.videos()) == [SAMPLE]


def test_two_apps_in_one_folder_do_not_mix(app, tmp_path):
    other = VideoApp(tmp_path / "app", ["nano"], 10)
    assert app.folder != other.folder and app.folder.parent == other.folder.parent
    assert app.folder.stat().st_mode & 0o077 == 0  # nobody else's on a shared machine
    path = encode(app._place("videos") / "mine.mp4", count=3)
    app._uploaded(path)
    assert "mine.mp4 (yours)" in app.videos() and list(other.videos()) == [SAMPLE]
    other.close()


def test_what_is_served_is_the_notebook_with_its_parameters(tmp_path):
    notebook = served({"results_folder": str(tmp_path), "limit_mb": 7})
    assert [set(cell.metadata.tags) & SERVED for cell in notebook.cells] == [
        {"parameters"}, {"injected-parameters"}, {"app"}, {"app"},
    ]  # fmt: skip
    space: dict = {}
    exec("\n".join(cell.source for cell in notebook.cells[:3]), space)
    assert space["app"].upload.limit == 7_000_000 and not list(tmp_path.iterdir())
    space["app"].close()


@pytest.mark.parametrize(
    "arguments, line",
    [(["--no-token", "--ip", "0.0.0.0"], "--no-token with --ip 0.0.0.0"), (["--no-token", "--ip", "::"], "--no-token"),
     (["--no-token", "--ip", "example.org"], "--no-token"), (["--port", "70000"], "at most 65535"),
     (["--limit-mb", "0"], "--limit-mb is 0"), (["--tabs", "0"], "--tabs is 0"), (["--theme", "blue"], "--theme")],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_served_is_refused(arguments, line, tmp_path, capsys):
    try:
        code = main(["app", str(tmp_path / "app"), "--no-browser", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2 and line in capsys.readouterr().err and not (tmp_path / "app").exists()


def test_without_voila_its_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "voila.app", None)
    assert main(["app", str(tmp_path / "app"), "--no-browser"]) == 2
    assert "pip install 'videomolmo[app]'" in capsys.readouterr().err and not (tmp_path / "app").exists()
    (tmp_path / "file").touch()
    assert main(["app", str(tmp_path / "file"), "--no-browser"]) == 2
