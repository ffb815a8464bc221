"""The command `app`: a notebook of widgets for one's own videos, served through Voilà on this machine."""

from __future__ import annotations

import html
import ipaddress
import logging
import os
import secrets
import socket
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from videomolmo.cli.options import Device, Masks, opt, whole
from videomolmo.errors import BadInput
from videomolmo.io.command_line import at_least_one

if TYPE_CHECKING:
    import nbformat
    from voila.app import Voila

NOTEBOOK = "13_your_video.ipynb"
SERVED = {"parameters", "injected-parameters", "app"}  # tags of what is the page; other cells explain it in JupyterLab
EXTENSIONS = ("@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget")
KERNEL_IDLE_S, LOOK_S = 120, 15  # after which the kernel of a page that went away without a word is ended; how often
RETRY_S = 5  # after which a page that found no room asks again
# A page loads what this server sends, and nothing from elsewhere: it looks the same without a network.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: blob: data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'none'; object-src 'none'"
)


def app(
    folder: Annotated[Path, Argument(metavar="DIR", help="All it reads and writes; videos in it can be chosen.",
                                     parser=Path)] = Path("results/app"),
    systems: Annotated[list[str] | None, Option("--model", metavar="MODEL", help="A system to offer; may be repeated "
                                                "(default: nano, nano-glamm).")] = None,
    masks: Masks = "nano",
    device: Device = "auto",
    limit_mb: Annotated[int, whole("Largest upload, megabytes.", "N", callback=at_least_one)] = 500,
    tabs: Annotated[int, whole("Most tabs at once: each has a kernel and models in memory, 1.5 GB with nano.", "N",
                               callback=at_least_one)] = 4,
    theme: Annotated[Literal["light", "dark"], Option(help="Of the page.")] = "light",
    ip: Annotated[str, opt("Address to listen on.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, whole("Port; the next free one where it is taken.", "N", callback=at_least_one)] = 8866,
    no_token: Annotated[bool, Option("--no-token", help="Ask for no token; on a loopback address only.")] = False,
    no_browser: Annotated[bool, Option("--no-browser", help="Open no browser.")] = False,
) -> None:  # fmt: skip
    """Serve a page for your own videos, without code.

    Choose, ask, watch, correct, export: the page is notebooks/13_your_video.ipynb through Voilà (pip install
    'videomolmo[app]'). It listens on this machine only, and asks for the token that is printed; each tab has a kernel
    and a folder in DIR of its own, and one too many waits until another is closed. Ctrl-C ends it.
    """
    is_local = _is_loopback(ip)
    if no_token and not is_local:
        raise BadInput(f"--no-token with --ip {ip}: whoever reaches this machine could use it; leave out one of them")
    if port > 65535:
        raise BadInput(f"--port is {port}, expected at most 65535")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file, expected a folder; give another one")
    _voila()
    from videomolmo.io.command_line import ending_in_order
    from videomolmo.io.files import temporary_folder

    parameters = {"results_folder": str(folder.absolute()), "systems": systems or ["nano", "nano-glamm"],
                  "masks": masks, "device": device, "limit_mb": limit_mb}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as place, _temporary_files_in(place):
        import nbformat

        nbformat.write(served(parameters), place / NOTEBOOK)
        server = _server(place, "" if no_token else secrets.token_urlsafe(24), theme, tabs, is_local)
        server.ip, server.port, page = ip, port, folder / f"open_{secrets.token_hex(4)}.html"
        server.show = lambda: _tell(server, folder, is_local, None if no_browser else page)

        def end() -> None:
            if not hasattr(server, "ioloop"):  # it does not listen yet
                raise KeyboardInterrupt
            server.ioloop.add_callback_from_signal(server.ioloop.stop)

        server.initialize([])
        try:
            with ending_in_order(end):
                server.start()
        finally:
            page.unlink(missing_ok=True)
            _tidy(folder)
    print("ended; results and exports are in", folder)


def _tidy(folder: Path) -> None:
    """Remove what kernels that have ended were in the middle of: half a run, half an upload."""
    from videomolmo.io.files import UNFINISHED, remove_abandoned

    for own in folder.iterdir():
        if own.is_dir() and not own.is_symlink():
            remove_abandoned(own, UNFINISHED)
            remove_abandoned(own / "videos", UNFINISHED)


def _is_loopback(ip: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(ip).is_loopback
    return ip == "localhost"


def _voila() -> type[Voila]:
    try:
        from voila.app import Voila
    except ImportError:
        raise BadInput("the package voila is not installed: pip install 'videomolmo[app]'") from None
    return Voila


@contextmanager
def _temporary_files_in(place: Path) -> Iterator[None]:
    """What this process and its kernels hold for a while lies there, and goes with it."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        os.environ.pop("TMPDIR")
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]


def served(parameters: dict[str, Any]) -> nbformat.NotebookNode:
    """The cells of the notebook that are the page, with these parameters."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    from videomolmo.weights.hub import data_folder

    places = data_folder().parent / "notebooks" / NOTEBOOK, data_folder() / NOTEBOOK  # a checkout's, a wheel's
    notebook = parameterize_notebook(load_notebook_node(str(next(filter(Path.is_file, places)))), parameters)
    notebook.cells = [cell for cell in notebook.cells if SERVED & set(cell.metadata.get("tags", []))]
    notebook.metadata.title = "videomolmo"
    return notebook


def _server(place: Path, token: str, theme: str, tabs: int, is_local: bool) -> Voila:
    """Voilà with one notebook and nothing else to be had: no files, no other kernels, no settings of the user's."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_server import DEFAULT_STATIC_FILES_PATH
    from traitlets import default
    from traitlets.config import Config
    from voila.voila_identity_provider import VoilaIdentityProvider

    class OwnKernel(KernelSpecManager):
        @default("kernel_dirs")
        def _kernel_dirs_default(self) -> list[str]:
            return []  # what is left is the kernel of this Python

    class Server(_voila()):
        def launch_browser(self) -> None:  # called once it listens
            self.show()

    page = {
        "theme": theme, "allow_theme_override": "NO", "allow_template_override": "NO", "file_allowlist": [],
        "extension_allowlist": list(EXTENSIONS), "prelaunch_hook": partial(_admit, tabs, theme),
        "kernel_spec_manager_class": OwnKernel,
    }  # fmt: skip
    culling = {"cull_idle_timeout": KERNEL_IDLE_S, "cull_interval": LOOK_S}
    config = Config({"VoilaConfiguration": page, "MappingKernelManager": culling})
    # without a token a page from elsewhere could come under another name of this machine ("DNS rebinding")
    settings = {"allow_remote_access": not is_local, "static_path": DEFAULT_STATIC_FILES_PATH,
                "static_url_prefix": "/voila/static/", "log_function": _log}  # fmt: skip
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    return Server(
        config=config, config_file_paths=[], notebook_path=str(place / NOTEBOOK), root_dir=str(place), token=token,
        connection_dir_root=str(place), identity_provider_class=VoilaIdentityProvider, log_level=logging.ERROR,
        tornado_settings={"headers": headers, **settings},
    )  # fmt: skip


def _log(handler: Any) -> None:
    """Say what failed here, without the token that stands in an address; a page that waits is no failure."""
    if (status := handler.get_status()) >= 500 and status != 503:
        logging.getLogger(__name__).error("%d %s %s", status, handler.request.method, handler.request.path)


def _admit(tabs: int, theme: str, handler: Any, **_: Any) -> None:
    """Let a page have a kernel, or tell it to wait, before one is started.

    It gets the cookie without which it may not end its kernel when it is closed.
    """
    from tornado.web import Finish

    kernels = handler.kernel_manager
    # those that start are not listed yet, those that end still are
    pending = {one for one, task in kernels._pending_kernels.items() if not task.done()}
    if len({*kernels.list_kernel_ids()} ^ pending) >= tabs:
        handler.set_status(503)
        handler.set_header("Retry-After", str(RETRY_S))
        raise Finish(_full(tabs, theme))
    handler.xsrf_token  # noqa: B018 (whoever reads it sets it)


def _full(tabs: int, theme: str) -> str:
    """The page for a tab too many, which asks again by itself."""
    ground, ink = ("#111418", "#e8e8e8") if theme == "dark" else ("#ffffff", "#222222")
    opened, close = (f"{tabs} tabs are open", "one that you do not need") if tabs > 1 else ("One tab is open", "it")
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{RETRY_S}">
<meta name="viewport" content="width=device-width"><title>videomolmo: no room yet</title>
<body style="background:{ground};color:{ink};font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;
padding:0 1em"><h1 style="font-size:1.4em">No room for another tab</h1>
<p role="status">{opened}, and more would not fit: each keeps models in memory. Close {close}, and this page opens by
itself within seconds.</p>
<p>Whoever started it can allow more: <code>videomolmo app --tabs {tabs + 1}</code></p></body></html>"""


def _tell(server: Voila, folder: Path, is_local: bool, page: Path | None) -> None:
    """Print the address, and open it in a browser through `page`: other users of a machine may see commands."""
    host = f"[{server.ip}]" if ":" in server.ip else server.ip
    host = socket.gethostname() if server.ip in ("0.0.0.0", "::", "") else host
    address = f"http://{host}:{server.port}/" + (f"?token={server.token}" if server.token else "")
    print(f"{address}\nreads and writes {folder} only; Ctrl-C ends it", flush=True)
    if not is_local:
        print("the line is not encrypted: on a network that you do not trust go through SSH or a proxy", flush=True)
    if page is not None:
        with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">')
        Thread(target=webbrowser.open, args=(page.absolute().as_uri(),), daemon=True).start()
