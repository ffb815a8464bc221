"""Downloads of public data sets: resumed where they broke off, checked by their sums, unpacked atomically."""

from __future__ import annotations

import hashlib
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from videomolmo.datasets.files import safe_join
from videomolmo.datasets.recipes import RECIPES, Archive
from videomolmo.datasets.registry import known
from videomolmo.errors import BadInput
from videomolmo.io.files import (
    explain_os_error,
    locked_folder,
    move_into_place,
    os_reason,
    temporary_folder,
    write_json,
)
from videomolmo.io.untrusted import first_line, read_json

FETCHED = "fetched.json"  # what is there already: URL → sha256 and size of its archive
TRIES, PAUSE_S, TIMEOUT_S = 5, 1, 30  # connections that bring nothing; and seconds more before each of them
CHUNK_BYTES = 1 << 18
Progress = Callable[[str, int, int], None]  # a file's name, bytes done, bytes in all (0: unknown)


class Part(NamedTuple):
    """What lies on the disk of a file that is being fetched, and the server's mark of its version."""

    path: Path
    mark: Path


def fetch(name: str, folder: Path, progress: Progress = lambda name, done, total: None) -> list[str]:
    """Fetch and unpack what of a data set has a plain URL; the names of the archives that were fetched now.

    What is there already is not fetched again; a download that broke off is resumed. Archives are removed when
    they are unpacked.

    Args:
        name: of a data set whose recipe has archives.
        folder: for it; made where missing.
        progress: called while bytes come.

    Raises:
        BadInput: it has no plain URL, the server refuses or cannot be reached, a sum is wrong, there is no room, or
            what came is no sound archive. What is whole by then stays.
    """
    plain, dataset = known(name)
    archives = RECIPES[plain].archives if plain in RECIPES else ()
    if not archives:
        raise BadInput(f"{dataset.title} has no plain URL; `videomolmo data fetch {plain}` tells the steps")
    new = []
    with explain_os_error("cannot be written; make room or choose another folder", folder), locked_folder(folder):
        done = read_json(folder / FETCHED) if (folder / FETCHED).is_file() else {}
        for archive in archives:
            if archive.url not in done:
                about = _fetch_one(archive, folder, progress)
                done[archive.url] = about
                write_json(folder / FETCHED, done)
                new.append(archive.name)
    return new


def _fetch_one(archive: Archive, folder: Path, progress: Progress) -> dict[str, Any]:
    part = Part(folder / f".{archive.name}.part", folder / f".{archive.name}.part.etag")
    _download(archive, part, progress)
    digest, size = hashlib.sha256(), part.path.stat().st_size
    with open(part.path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if archive.sha256 and digest.hexdigest() != archive.sha256:
        _forget(part)
        raise BadInput(
            f"{archive.url}: sha256 is {digest.hexdigest()}, expected {archive.sha256}; it was removed, so fetch "
            "again, and ask its authors if that does not help"
        )
    _unpack(archive, part, safe_join(folder, archive.inside) if archive.inside else folder)
    _forget(part)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _forget(part: Part) -> None:
    for path in part:
        path.unlink(missing_ok=True)


def _download(archive: Archive, part: Part, progress: Progress) -> None:
    """Have all bytes of an archive in its part file, over several connections where they break."""
    import requests
    from urllib3.exceptions import HTTPError

    trouble, tries, have = "", 0, _size(part)
    with requests.Session() as session:
        while tries < TRIES:
            time.sleep(PAUSE_S * tries)
            refused = False
            try:
                if _stream(session, archive, part, have, progress):
                    return
                trouble = "the connection ended early"
            except (requests.RequestException, HTTPError) as error:
                trouble, response = first_line(error), getattr(error, "response", None)
                refused = response is not None and response.status_code < 500
            tries = 0 if _size(part) > have else tries + 1
            have = _size(part)
            if refused:
                break
    raise BadInput(
        f"{archive.url}: cannot be fetched ({trouble}); {have} bytes are kept, and the same command goes on from there"
    )


def _size(part: Part) -> int:
    return part.path.stat().st_size if part.path.exists() else 0


def _stream(session: Any, archive: Archive, part: Part, have: int, progress: Progress) -> bool:
    """Append what a server gives beyond the first `have` bytes; whether all of it came."""
    headers = {"Accept-Encoding": "identity"}
    if have and part.mark.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": part.mark.read_text(encoding="utf-8")}
    with session.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # there is nothing beyond: another version of the file, or all is here
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return True
            _forget(part)
            return False
        response.raise_for_status()
        have = have if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        free = shutil.disk_usage(part.path.parent).free
        if total - have > free:
            raise BadInput(
                f"{archive.name} needs {total - have:,} bytes more, {part.path.parent} has {free:,}; make room, or "
                "choose another folder"
            )
        if mark := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            part.mark.write_text(mark, encoding="utf-8")
        with open(part.path, "ab" if have else "wb") as file:
            response.raw.enforce_content_length = False  # what came before a cut is kept
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                have += len(chunk)
                progress(archive.name, have, total)
    return not total or have == total


def _unpack(archive: Archive, part: Part, folder: Path) -> None:
    """Unpack a zip beside its place, and move what is in it there; nothing in it may lead out or be there already."""
    try:
        with zipfile.ZipFile(part.path) as packed:
            members = [one for one in packed.infolist() if not one.is_dir()]
            needed, free = sum(one.file_size for one in members), shutil.disk_usage(part.path.parent).free
            if needed > free:
                raise BadInput(
                    f"{archive.name} unpacks to {needed:,} bytes, {folder} has {free:,}; make room, and fetch again: "
                    "it goes on from here"
                )
            for one in members:
                safe_join(folder, one.filename)
            folder.mkdir(parents=True, exist_ok=True)
            with temporary_folder(folder) as place:
                packed.extractall(place / "files")  # which checks each file's CRC
                for path in sorted((place / "files").iterdir()):
                    _merge(path, folder / path.name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        _forget(part)
        raise BadInput(f"{archive.url}: not a sound zip file ({first_line(error)}); removed, so fetch again") from None
    except OSError as error:
        raise BadInput(f"{archive.name}: cannot be unpacked in {folder} ({os_reason(error)}); make room") from error


def _merge(source: Path, target: Path) -> None:
    """Move a file or folder to its place, into folders that are there; files that are there are replaced."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _merge(path, target / path.name)
    elif target.is_dir():
        raise BadInput(f"{target} is a folder, expected a file of the data set; move it, or choose another folder")
    else:
        move_into_place(source, target)


def told(name: str) -> str:
    """What a person has to know before a data set is fetched: its licence, and the steps or archives."""
    plain, dataset = known(name)
    if plain not in RECIPES:
        return f"{dataset.title}: made by this program, or by you; there is nothing to fetch."
    recipe = RECIPES[plain]
    lines = [f"{dataset.title}", f"licence: {recipe.licence}"]
    for archive in recipe.archives:
        checked = (
            "checked" if archive.sha256 else f"its authors tell none; that of the first download is kept in {FETCHED}"
        )
        lines.append(f"from {archive.url} (sha256: {checked})")
    return "\n".join(lines + ([recipe.steps] if recipe.steps else []))
