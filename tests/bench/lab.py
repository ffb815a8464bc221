"""A real JupyterLab server and a real browser without a window, for measurements and for tests.

Run as a module it is the server; it ends when its standard input closes, so it cannot outlive whoever started it.
"""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from videomolmo.errors import BadInput

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERVER_OPTIONS = [
    "--LabApp.open_browser=False", "--LabApp.extension_manager=readonly", "--LabApp.news_url=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.expose_app_in_browser=True",
    "--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True", "--ServerApp.use_redirect_file=False",
    "--ServerApp.log_level=ERROR",
]  # fmt: skip
PAGE_CONFIG = {  # no news, no extension manager, no look at whether Lab itself could be built anew
    "buildAvailable": False, "buildCheck": False,
    "disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True,
                           "@jupyterlab/extensionmanager-extension": True},
}  # fmt: skip


class Lab(NamedTuple):
    """A running server: its address with a slash at the end, its token, and the folder it shows."""

    url: str
    token: str
    folder: Path

    def address(self, notebook: str) -> str:
        """Where a notebook opens, in a workspace of its own."""
        return f"{self.url}lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?token={self.token}"


def browser_path() -> str | None:
    """Chromium on this machine, or what the environment variable VIDEOMOLMO_BROWSER names; None: there is none."""
    chosen = os.environ.get("VIDEOMOLMO_BROWSER")
    return chosen or next(filter(None, map(shutil.which, BROWSERS)), None)


def why_not() -> str | None:
    """Why nothing can be tried in a browser here; None where it can."""
    if importlib.util.find_spec("playwright") is None:
        return "the package playwright is not installed: pip install -e '.[test]'"
    if browser_path() is None:
        return "no Chromium on this machine: install it (Debian: apt-get install chromium) or set VIDEOMOLMO_BROWSER"
    return None


@contextmanager
def jupyter_lab(folder: Path, home: Path, seconds: float = 60.0) -> Iterator[Lab]:
    """A server for the notebooks in `folder`, with everything it writes of its own below `home`.

    Args:
        folder: what the server shows; kernels start there.
        home: HOME and all of Jupyter's folders.
        seconds: how long it may take to start.

    Raises:
        BadInput: it did not start; the message carries its last words.
    """
    (home / "config" / "labconfig").mkdir(parents=True, exist_ok=True)
    (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(PAGE_CONFIG), encoding="utf-8")
    token, log = secrets.token_hex(16), home / "server.log"
    command = [
        sys.executable, "-m", "bench.lab", *SERVER_OPTIONS, f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={_free_port()}", f"--IdentityProvider.token={token}",
    ]  # fmt: skip
    with open(log, "w", encoding="utf-8") as words:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=_environment(home), cwd=folder
        )
    try:
        yield Lab(_started(server, home / "runtime", log, seconds), token, folder)
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _environment(home: Path) -> dict[str, str]:
    own = {
        "HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime", "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces", "IPYTHONDIR": home / "ipython",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "XDG_"))}
    kept.setdefault("MPLCONFIGDIR", str(Path("~/.config/matplotlib").expanduser()))  # fonts are listed once, not again
    tests, root = map(str, Path(__file__).resolve().parents[1:3])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, tests, os.environ.get("PYTHONPATH"))))
    return kept | {name: str(path) for name, path in own.items()}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _started(server: subprocess.Popen, runtime: Path, log: Path, seconds: float) -> str:
    """The address that the server writes down once it listens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text(encoding="utf-8"))["url"]
            except ValueError:  # half written
                continue
        time.sleep(0.05)
    words = log.read_text(encoding="utf-8")[-2000:]
    raise BadInput(f"JupyterLab did not start within {seconds:g} s: {words or 'it said nothing'}")


@contextmanager
def chromium() -> "Iterator[Browser]":
    """A browser without a window, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=BROWSER_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_notebook(page: "Page", lab: Lab, notebook: str, timeout_s: float = 180.0) -> None:
    """Load a notebook, and wait until its kernel is idle: what is run earlier is lost."""
    page.set_default_timeout(1000 * timeout_s)
    page.goto(lab.address(notebook))
    page.locator(".jp-NotebookPanel").wait_for()
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
    page.wait_for_function("""() => {
        const session = window.jupyterapp.shell.currentWidget?.sessionContext;
        return session?.isReady && session.session?.kernel?.connectionStatus === 'connected'
            && session.session.kernel.status === 'idle';
    }""")


def run_all(page: "Page", timeout_s: float = 180.0) -> list[str]:
    """Run all cells through the menu, wait for the last; gives the error messages that appeared."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    done = """() => {
        const notebook = window.jupyterapp.shell.currentWidget.content;
        const cells = Array.from(notebook.widgets).map(cell => cell.model.sharedModel.toJSON());
        const code = cells.filter(cell => cell.cell_type === 'code' && cell.source.length);
        const outputs = code.flatMap(cell => cell.outputs).filter(output => output.output_type === 'error');
        const waits = code.some(cell => !cell.execution_count);
        return waits && !outputs.length ? null : outputs.map(output => `${output.ename}: ${output.evalue}`);
    }"""
    return page.wait_for_function(done, timeout=1000 * timeout_s, polling=100).json_value()


def execute(page: "Page", command: str, options: dict[str, Any] | None = None) -> Any:
    """Run a command of JupyterLab's own palette, for example "apputils:change-theme"."""
    return page.evaluate(
        "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => null)",
        [command, options or {}],
    )


def main() -> None:
    """Serve until standard input closes."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from jupyterlab.labapp import LabApp

    LabApp.launch_instance(sys.argv[1:])


if __name__ == "__main__":
    main()
