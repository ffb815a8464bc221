"""What made a result: versions, commit, machine and hashes of weights, for every result file."""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from videomolmo.errors import BadInput
from videomolmo.whole_files import is_unfinished, write_json

PACKAGES = ("videomolmo", "torch", "transformers", "sam2", "numpy", "av", "opencv-python-headless", "tokenizers")


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
    here = Path(__file__).resolve().parent.parent
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


def claim(out: Path, made_by: dict, what: str) -> None:
    """Write settings.json into a new folder, or make sure that the one there says the same, so that work can go on.

    Args:
        out: folder of results; made where missing.
        made_by: the settings, ready for JSON.
        what: "annotations" or the like, for messages.

    Raises:
        BadInput: the folder holds other things, or results of other settings, or cannot be written.
    """
    known = out / "settings.json"
    try:
        if known.is_file():
            before = json.loads(known.read_text(encoding="utf-8-sig"))
            if not isinstance(before, dict):
                raise BadInput(f"{known} holds no settings; give a new folder")
            different = sorted(key for key in made_by if before.get(key) != made_by[key])
            if different:
                told = [f"{key} ({before.get(key)!r:.60}, now {made_by[key]!r:.60})" for key in different]
                raise BadInput(f"{out} holds {what} with other {', '.join(told)}; give a new folder")
            return
        there = list(out.iterdir()) if out.is_dir() else []
        left = [path for path in there if is_unfinished(path, known.name)]
        if len(there) > len(left) or (out.exists() and not out.is_dir()):
            raise BadInput(f"{out} is there and not empty, and what it holds is not {what}; give a new folder")
        out.mkdir(parents=True, exist_ok=True)
        for path in left:
            path.unlink(missing_ok=True)
        write_json(known, made_by)
    except OSError as error:
        raise BadInput(f"{out} cannot be used ({error.strerror or error}); give another folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{known} cannot be read ({error}); give a new folder") from error


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
