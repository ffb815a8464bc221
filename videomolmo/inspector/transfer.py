"""Files between a browser and the kernel, in parts over the widget's own line: nothing is served by a path.

It works wherever widgets do (JupyterLab, Notebook, Voilà), has no limit but the one given, and holds no file in memory.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import traitlets

from videomolmo.errors import BadInput
from videomolmo.io.files import UNFINISHED, locked_temporary_folder, move_into_place, remove_locked
from videomolmo.io.plain_values import as_int

PART_BYTES = 2**20  # of a file in one message; a server takes ten times that
AHEAD = 4  # parts on their way at a time
SPARE_BYTES = 500_000_000  # that stay free on the disk
LONGEST_NAME = 100  # characters, of at most four bytes: disks take 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices on Windows
_SOURCES = {
    name: Path(__file__).with_name(name).read_text("utf-8")
    for name in ("element.js", "upload.js", "download.js", "transfer.css")
}


def safe_name(name: str) -> str:
    """A name for a file in a folder, from whatever a browser says it is called: letters, digits and ` ._()-`.

    Example:
        >>> safe_name("../../etc/passwd"), safe_name("C:\\\\x\\\\my clip.mp4"), safe_name("..")
        ('passwd', 'my clip.mp4', 'video')
    """
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name))[-1]
    plain = re.sub(r"[^\w .()-]", "_", last).strip(" .")
    stem, suffix = os.path.splitext(plain)
    plain = stem[: LONGEST_NAME - len(suffix[:12])].rstrip(" .") + suffix[:12]
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain or "video"


def free_name(folder: Path, name: str) -> Path:
    """A path in `folder` that nothing has: clip.mp4, clip_1.mp4 …"""
    stem, suffix = os.path.splitext(name)
    number, path = 0, folder / name
    while os.path.lexists(path):
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    return path


class Upload(anywidget.AnyWidget):
    """A place to drop a file, which is then in a folder under a name of ours.

    Args:
        folder: gives the folder, made when it is first needed.
        limit_mb: largest file, megabytes (10⁶ bytes).
        on_file: called with the path of a file that is whole.

    Attributes:
        limit: bytes.
    """

    _esm, _css = f"{_SOURCES['element.js']}\n{_SOURCES['upload.js']}", _SOURCES["transfer.css"]
    limit = traitlets.Int(0).tag(sync=True)

    def __init__(self, folder: Callable[[], Path], limit_mb: int, on_file: Callable[[Path], None]) -> None:
        super().__init__(limit=limit_mb * 10**6)
        self._limit = self.limit  # a browser may set the other one
        self._folder, self._on_file = folder, on_file
        self._coming: _Coming | None = None
        self.on_msg(self._receive)

    def _receive(self, _: Any, content: dict[str, Any], buffers: list[Any]) -> None:
        try:
            if content.get("kind") == "begin":
                self._begin(content)
            elif content.get("kind") == "cancel":
                self._end()
            elif content.get("kind") == "part" and self._coming is not None and content.get("id") == self._coming.id:
                self._take(content, buffers)
        except (BadInput, OSError) as error:
            told = str(error) if isinstance(error, BadInput) else f"the file cannot be kept ({error.strerror})"
            self._end()
            self.send({"kind": "refused", "id": content.get("id"), "why": told})

    def _begin(self, content: dict[str, Any]) -> None:
        name, size = content.get("name"), as_int(content.get("size"))
        name = safe_name(name) if isinstance(name, str) else "video"
        if size is None:
            raise BadInput(f"{name} is empty; choose a video")
        if size > self._limit:
            raise BadInput(f"{name} has {size / 1e6:,.0f} MB, at most {self._limit / 1e6:,.0f} MB are taken: cut it")
        self._end()
        folder = self._folder()
        if shutil.disk_usage(folder).free < size + SPARE_BYTES:
            raise BadInput(f"there is no room for {name} ({size / 1e6:,.0f} MB) on this machine")
        self._coming = _Coming(content.get("id"), folder, name, size)
        for _ in range(AHEAD):
            self._ask()

    def _ask(self) -> None:
        """Ask for the next part."""
        coming = self._coming
        if coming.asked < coming.size:
            self.send({"kind": "want", "id": coming.id, "at": coming.asked, "bytes": PART_BYTES})
            coming.asked += PART_BYTES

    def _take(self, content: dict[str, Any], buffers: list[Any]) -> None:
        coming, part = self._coming, b"".join(buffers)
        if content.get("at") != coming.taken or len(part) != min(PART_BYTES, coming.size - coming.taken):
            raise BadInput(f"{coming.name} changed while it was sent, or was cut off; choose it again")
        coming.file.write(part)
        coming.taken += len(part)
        if coming.taken < coming.size:
            self._ask()
            return
        coming.file.close()
        path = free_name(coming.folder, coming.name)
        move_into_place(coming.path, path, replace=False)
        self._end()
        self.send({"kind": "done", "id": content["id"], "name": path.name})
        self._on_file(path)

    def _end(self) -> None:
        """Forget a file that is not whole."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.remove()

    def close(self) -> None:
        self._end()
        super().close()


class _Coming:
    """A file of which parts are here, in a hidden folder that goes with it."""

    def __init__(self, name_of_transfer: Any, folder: Path, name: str, size: int) -> None:
        self.id, self.folder, self.name, self.size = name_of_transfer, folder, name, size
        self.asked = self.taken = 0
        self._place, self._lock = locked_temporary_folder(folder, UNFINISHED)
        self.path = self._place / "part"
        self.file: BinaryIO = open(self.path, "wb")  # noqa: SIM115 (closed when it is whole, or removed)

    def remove(self) -> None:
        self.file.close()
        remove_locked(self._place, self._lock)


class Download(anywidget.AnyWidget):
    """A link to one file, or to a folder as a ZIP file; a browser can ask for nothing else.

    Attributes:
        name: of what is offered; empty: nothing is.
        size: bytes; 0 where it is not known before it is packed.
    """

    _esm, _css = f"{_SOURCES['element.js']}\n{_SOURCES['download.js']}", _SOURCES["transfer.css"]
    name = traitlets.Unicode("").tag(sync=True)
    size = traitlets.Int(0).tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self.on_msg(self._receive)

    def offer(self, path: Path) -> None:
        """Offer a file or a folder in place of what was offered before."""
        self._shut()
        self._path = path
        with self.hold_sync():
            self.size = 0 if path.is_dir() else path.stat().st_size
            self.name = f"{path.name}.zip" if path.is_dir() else path.name

    def _receive(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        at = as_int(content.get("at"), minimum=0)
        if content.get("kind") != "get" or at is None or self._path is None:
            return
        try:
            if self._file is None:
                self._file = _packed(self._path) if self._path.is_dir() else open(self._path, "rb")  # noqa: SIM115
            of = self._file.seek(0, os.SEEK_END)
            self._file.seek(min(at, of))
            part = self._file.read(PART_BYTES)
        except OSError as error:
            self.send({"kind": "gone", "why": f"{self.name} is no longer there ({error.strerror})"})
            return
        self.send({"kind": "part", "at": at, "of": of}, buffers=[part])
        if at + len(part) >= of:
            self._shut()

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        self._shut()
        super().close()


def _packed(folder: Path) -> BinaryIO:
    """A ZIP file of all files below a folder, without a name on the disk; pictures and masks are small already."""
    file = tempfile.TemporaryFile(dir=folder.parent)  # noqa: SIM115 (whoever asked closes it)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            packed.write(path, Path(folder.name) / path.relative_to(folder))
    return file
