"""What made a result: versions, commit, machine and hashes of weights, for every result file."""

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.io.files import is_temporary, locked_folder, os_reason, unused_name, write_json
from videomolmo.io.untrusted import read_bytes, read_json

PACKAGES = ("videomolmo", "torch", "transformers", "sam2", "numpy", "av", "opencv-python-headless", "tokenizers")
SETTINGS = "settings.json"
_LEFT = re.compile(r"\.settings\.json\.\d+")  # what versions before this one left where they were killed
_OWN = re.compile(rf"settings\.json(\.\d+\.old)?|{_LEFT.pattern}")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit of the checkout this package lies in, "+" appended when files differ from it; None outside one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        status = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "") if head.returncode == 0 else None


@contextmanager
def locked_manifest(out: Path, settings: dict, what: str, ours: Collection[str] = ()) -> Iterator[None]:
    """`write_or_verify_manifest`, with the folder locked while the block runs, so that nobody else works there.

    Raises:
        BadInput: as `write_or_verify_manifest`, or another process holds it.
    """
    write_or_verify_manifest(out, settings, what, ours)
    with locked_folder(out):
        write_or_verify_manifest(out, settings, what, ours)  # again, now that nobody else can
        yield


def write_or_verify_manifest(out: Path, settings: dict, what: str, ours: Collection[str] = ()) -> None:
    """Write settings.json into a new folder, or make sure that the one there says the same, so that work can go on.

    Args:
        out: folder of results; made where missing.
        settings: the settings, ready for JSON.
        what: "annotations" or the like, for messages.
        ours: names of results that say themselves what made them: where nothing else is there, settings that a power
            cut or a full disk broke are written again. What cannot be read stays, as settings.json.1.old.

    Raises:
        BadInput: the folder holds other things, or results of other settings, or cannot be written.
    """
    known = out / SETTINGS
    try:
        there = [path.name for path in out.iterdir() if not is_temporary(path)] if out.is_dir() else []
        others = {name for name in there if name not in ours and not _OWN.fullmatch(name)}
        if known.is_file():
            try:
                before = read_json(known, Any)
            except BadInput as error:
                if others or not ours:
                    raise BadInput(f"{known} cannot be read ({error}); give a new folder") from error
                if read_bytes(known).strip(b"\0 \r\n"):
                    known.rename(unused_name(known))
            else:
                _compare(before, known, settings, what)
                return
        elif others or set(there) & set(ours) or (out.exists() and not out.is_dir()):
            raise BadInput(f"{out} is there and not empty, and what it holds is not {what}; give a new folder")
        write_json(known, settings)
        for name in filter(_LEFT.fullmatch, there):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{out} cannot be used ({os_reason(error)}); give another folder") from error


def _compare(before: Any, known: Path, settings: dict, what: str) -> None:
    """Nothing where the settings of before are these.

    Raises:
        BadInput: they differ.
    """
    if not isinstance(before, dict):
        raise BadInput(f"{known} holds no settings; give a new folder")
    different = sorted(key for key in settings if before.get(key) != settings[key])
    if different:
        changes = [f"{key} ({before.get(key)!r:.60}, now {settings[key]!r:.60})" for key in different]
        raise BadInput(f"{known.parent} holds {what} with other {', '.join(changes)}; give a new folder")


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def machine() -> str:
    """The kind of machine this is: system, processor and its cores, without its name."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    return f"{platform.system()}, {processor}, {os.cpu_count()} cores"
