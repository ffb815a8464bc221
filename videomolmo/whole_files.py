"""Files that appear whole or not at all, whenever the process is killed."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text beside its place, under a hidden name that begins with its own, and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def is_unfinished(path: Path, name: str) -> bool:
    """Whether a file is what `write_text` leaves of `name` when it is killed."""
    return path.is_file() and path.name.startswith(f".{name}.") and path.name.rpartition(".")[2].isdecimal()


def write_json(path: Path, content: Any) -> None:
    """`write_text` of plain JSON, indented."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
