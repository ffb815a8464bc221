"""The page for one's own videos as people use it: `videomolmo app` in a real browser, several tabs, and its end.

The tests share a server and go through its life in the order of this file. Screenshots go to the folder
VIDEOMOLMO_ARTEFACTS, where that is set.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
from bench.lab import chromium, why_not

from videomolmo.weights.hub import sample_clip

missing = why_not() or (
    None if importlib.util.find_spec("voila") else "voila is not installed: pip install -e '.[test]'"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing is not None, reason=f"no page to try: {missing}")]
PATIENCE_S = 300  # of one step, on a machine that does much else
ROOT = Path(__file__).resolve().parents[1]


class Server(NamedTuple):
    process: subprocess.Popen
    address: str  # with the token
    folder: Path

    @property
    def base(self) -> str:
        return self.address.partition("?")[0]

    def kept(self) -> set[Path]:
        """Files in its folder, without what is unfinished."""
        found = {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}
        return {path for path in found if not any(part.startswith(".") for part in path.parts)}

    def kernels(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory, shipped_grounder) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "app"
    command = [sys.executable, "-m", "videomolmo.cli", "app", str(folder), "--no-browser", "--limit-mb", "1",
               "--theme", "dark", "--tabs", "2"]  # fmt: skip
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    log = open(folder.parent / "log", "w+")  # noqa: SIM115 (closed below)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=folder.parent)
    try:
        address = process.stdout.readline().strip()
        log.seek(0)
        assert address.startswith("http://127.0.0.1:"), log.read()
        yield Server(process, address, folder)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


class Tab:
    """A page and what a person does in it."""

    def __init__(self, browser, server: Server) -> None:
        self.page = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True).new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.outside, self.errors = [], []
        ours = (server.base, server.base.replace("http", "ws"), "data:", "blob:")
        self.page.on("requestfinished", lambda one: one.url.startswith(ours) or self.outside.append(one.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.address, wait_until="domcontentloaded")
        self.page.locator(".vm-drop").wait_for()

    def says(self, text: str) -> None:
        self.page.locator(".vm-app > .widget-html [role=status]").get_by_text(re.compile(text)).wait_for()

    def drop(self, name: str, content: bytes) -> None:
        self.page.set_input_files(".vm-drop input", {"name": name, "mimeType": "video/mp4", "buffer": content})

    def ask(self, sentence: str, every: int) -> None:
        self.page.get_by_label("What to find").fill(sentence)
        self.page.get_by_label("Key frame every").fill(str(every))
        self.page.get_by_label("Key frame every").press("Tab")
        self.page.locator(".vm-form").get_by_role("button", name="ask").click()

    def videos(self) -> list[str]:
        texts = self.page.get_by_label("Video", exact=True).locator("option").all_inner_texts()
        return [text.replace("\xa0", " ") for text in texts]

    def shoot(self, name: str) -> None:
        if folder := os.environ.get("VIDEOMOLMO_ARTEFACTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"app_{name}.png"), full_page=True)


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def tab(browser, server) -> Tab:
    return Tab(browser, server)


@pytest.fixture(scope="module")
def other(browser, server, tab) -> Tab:
    return Tab(browser, server)


def test_without_the_token_there_is_nothing(server):
    channels = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    with httpx.Client(base_url=server.base, follow_redirects=False) as client:
        assert client.get(channels, headers=upgrade | {"Sec-WebSocket-Key": "eA=="}).status_code == 403
        for path in ("", "voila/files/13_your_video.ipynb", "api/kernels", "?token=wrong"):
            answer = client.get(path)
            assert answer.status_code in (302, 403, 404) and "vm-" not in answer.text, path
        assert client.get("").headers["location"].startswith("/login")
        assert client.get("?token=x", headers={"Host": "evil.example"}).status_code == 403
    assert not server.kernels()  # nobody who may not is given one


def test_a_video_is_dropped_in_under_a_name_of_ours(tab, server):
    assert tab.page.get_by_label("Video", exact=True).input_value() == "the sample clip"
    tab.drop("../../evil <b>.mp4", sample_clip().read_bytes())
    tab.says(r"evil _b_\.mp4: 60 frames, 320×240 px")
    assert tab.videos() == ["the sample clip", "evil _b_.mp4 (yours)"]
    (own,) = (path for path in server.folder.iterdir() if not path.name.startswith("."))
    assert [str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()] == ["videos/evil _b_.mp4"]
    tab.drop("large.mp4", bytes(1_000_001))
    tab.page.locator(".vm-drop-told").get_by_text("at most 1 MB").wait_for()
    tab.drop("text.mp4", b"no video " * 100)
    tab.says("not a video")
    assert tab.videos() == ["the sample clip", "evil _b_.mp4 (yours)"] and len(list((own / "videos").iterdir())) == 1


def test_windows_arrive_and_the_inspector_opens(tab):
    tab.ask("the red circle", 15)
    tab.page.locator(".vm-windows img").first.wait_for()
    tab.page.locator(".vm-inspector .vm-live").wait_for()
    tab.page.wait_for_function("() => document.querySelectorAll('.vm-windows img').length === 4")
    view = tab.page.locator(".vm-view")
    view.focus()
    tab.page.keyboard.press("]")
    tab.page.wait_for_function("view => view.dataset.frame === '15'", arg=view.element_handle())
    tab.page.keyboard.press("x")  # corrected with the models that answered
    tab.page.locator(".vm-inspector .vm-words").get_by_text("key frame rejected").wait_for()
    tab.shoot("dark")
    assert tab.page.evaluate("() => document.body.dataset.jpThemeLight") == "false"
    assert not tab.outside and not tab.errors


def test_exports_come_to_the_browser(tab, server):
    tab.page.locator(".vm-side select", has_text="tracks (CSV)").select_option("tracks (CSV)")
    tab.page.get_by_role("button", name="export").click()
    link = tab.page.locator(".vm-download", has_text="tracks_1.csv")
    link.wait_for()
    with tab.page.expect_download() as begun:
        link.click()
    (written,) = server.folder.glob("*/exports/tracks_1.csv")
    assert begun.value.suggested_filename == "tracks_1.csv"
    assert Path(begun.value.path()).read_bytes() == written.read_bytes()
    (result,) = server.folder.glob("*/results/*")
    assert result.name == "the_red_circle" and (result / "corrections.jsonl").is_file()


def test_two_tabs_do_not_mix(tab, other, server):
    assert other.videos() == ["the sample clip"] and not other.page.locator(".vm-inspector").count()
    assert tab.page.locator(".vm-inspector").count() == 1
    assert len(server.kernels()) == 2


def test_a_run_is_cancelled(other, server):
    other.ask("the blue square", 1)
    cancel = (
        other.page.locator(".vm-app .widget-hbox:has(> .widget-hprogress)").get_by_role("button", name="cancel").first
    )
    other.page.locator(".vm-windows img").first.wait_for()
    cancel.click()
    other.says("cancelled: nothing was kept")
    own = max(
        (path for path in server.folder.iterdir() if not path.name.startswith(".")), key=lambda one: one.stat().st_ctime
    )
    assert [path for path in own.rglob("*") if path.is_file()] == []


def test_no_code_and_no_file_is_to_be_had_through_the_line(other, server, tmp_path):
    """With the token, and past the page: whoever may use the app may not use the machine."""
    marker = tmp_path / "marker"
    said = other.page.evaluate(
        """async ([code]) => {
        const {kernelId} = JSON.parse(document.getElementById('jupyter-config-data').textContent);
        const line = new WebSocket(`${location.origin.replace('http', 'ws')}/api/kernels/${kernelId}/channels`);
        const answers = [];
        line.onmessage = (event) => { try { answers.push(JSON.parse(event.data).msg_type); } catch {} };
        await new Promise((open) => { line.onopen = open; });
        for (const [channel, type] of [['shell', 'execute_request'], ['control', 'execute_request'],
                                       ['control', 'debug_request'], ['shell', 'kernel_info_request']]) {
            const header = {msg_id: String(Math.random()), msg_type: type, session: 'x', username: '', version: '5.3',
                            date: new Date().toISOString()};
            const content = {code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false,
                             stop_on_error: true};
            line.send(JSON.stringify({header, parent_header: {}, metadata: {}, content, channel, buffers: []}));
        }
        while (!answers.includes('kernel_info_reply')) await new Promise((go) => setTimeout(go, 50));
        return answers;
    }""",
        [f"open({str(marker)!r}, 'w')"],
    )
    assert "kernel_info_reply" in said and "execute_reply" not in said and not marker.exists()
    token = server.address.partition("token=")[2]
    with httpx.Client(base_url=server.base, headers={"Authorization": f"token {token}"}) as client:
        for path in ("voila/files/13_your_video.ipynb", "voila/files/../../log", "voila/files/%2e%2e/%2e%2e/log.png",
                     "voila/files//etc/passwd", "voila/static/..%2f..%2f..%2fetc%2fpasswd", "api/kernels",
                     "api/contents", "api/terminals", "terminals/websocket/1"):  # fmt: skip
            answer = client.get(path, follow_redirects=True)
            assert answer.status_code in (400, 403, 404, 405), (path, answer.status_code)


def test_a_tab_too_many_waits_until_another_is_closed_which_ends_its_kernel(browser, other, server):
    kernels = {one.pid for one in server.kernels()}
    third = browser.new_context(viewport={"width": 900, "height": 700}).new_page()
    third.set_default_timeout(1000 * PATIENCE_S)
    answer = third.goto(server.address, wait_until="domcontentloaded")
    assert answer.status == 503 and "2 tabs are open" in third.get_by_role("status").inner_text()
    assert {one.pid for one in server.kernels()} == kernels, "none was started for it"
    other.page.close(run_before_unload=True)
    third.locator(".vm-drop").wait_for()
    assert _eventually(lambda: len(server.kernels()) == 2 and len({one.pid for one in server.kernels()} & kernels) == 1)
    third.close(run_before_unload=True)
    assert _eventually(lambda: len(server.kernels()) == 1)


def test_it_ends_cleanly(tab, server):
    """In the middle of a run, too."""
    kernels, process = server.kernels(), server.process
    before = server.kept()
    tab.ask("the star", 1)
    assert _eventually(lambda: any(server.folder.glob("*/.unfinished.*/answers.jsonl")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    told = (server.folder.parent / "log").read_text()
    assert "Traceback" not in told and server.address.partition("token=")[2] not in told
    assert _eventually(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in kernels))
    assert not [path for path in server.folder.rglob("*") if path.name.startswith((".", "open_"))]
    assert server.kept() == before  # what was done stays


def _eventually(holds) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return held
