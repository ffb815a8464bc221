"""Index files of data sets, read without trusting them: paths that stay inside, JSON, and rows read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

from videomolmo.errors import BadInput, MissingFile, Unreadable
from videomolmo.io.images import visible
from videomolmo.io.untrusted import MAX_INDEX_BYTES, open_plain, read_bytes

# what comes of an index that is not as documented, where plain code reads it
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def safe_join(root: Path, *names: object) -> Path:
    """`root` joined with names from an index file, which can never lead out of it.

    Only the names are looked at: a link that the user put into the folder is the user's own business.

    Raises:
        BadInput: a name is empty or absolute, has a drive letter, or climbs with '..'.

    Example:
        >>> safe_join(Path("data"), "UVO/all/a", "00000.jpg").as_posix()
        'data/UVO/all/a/00000.jpg'
    """
    for name in map(str, names):
        parts = name.replace("\\", "/").split("/")
        if not name.strip() or "\0" in name or ".." in parts or not parts[0] or PureWindowsPath(name).drive:
            raise BadInput(f"{name!r} in an index of {root}: expected a path inside that folder")
    return root.joinpath(*map(str, names))


def require(path: Path, what: str) -> Path:
    """`path` if it is there.

    Raises:
        MissingFile: it is not; the line says what it should be.
    """
    if not path.exists():
        raise MissingFile(f"{path}: no such file or folder; expected {what}")
    return path


def read_text(path: Path, what: str) -> str:
    """Text of a file in UTF-8 or, where it is not that, in Latin-1."""
    require(path, what)
    try:
        data = read_bytes(path, MAX_INDEX_BYTES)
    except (OSError, BadInput) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path} ")
        raise Unreadable(f"{path}: cannot be read ({reason}); expected {what}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_json(path: Path, what: str, kind: type = dict) -> Any:
    """Content of a JSON file.

    Raises:
        MissingFile: no such file.
        Unreadable: it is not JSON, or not of `kind`.
    """
    text = read_text(path, what)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not a whole JSON file ({error}); download it again") from None
    return _of_kind(content, kind, path)


def _of_kind(content: Any, kind: type, place: object) -> Any:
    if not isinstance(content, kind):
        raise Unreadable(f"{place}: holds a {type(content).__name__}; expected a {kind.__name__}")
    return content


def videos_of(path: Path) -> dict[str, Any]:
    """The `videos` of a meta file in the style of YouTube-VOS."""
    content = read_json(path, "a meta file with 'videos'")
    return _of_kind(content.get("videos"), dict, f"{path}, key 'videos'")


class LazyJson:
    """A JSON file that may be large: read when first asked for, then kept."""

    def __init__(self, path: Path, what: str):
        self.path, self._what = path, what

    @cached_property
    def content(self) -> dict[str, Any]:
        return read_json(self.path, self._what)


class JsonLines(Sequence):
    """Rows of a .jsonl file; only where each begins is kept in memory."""

    def __init__(self, path: Path):
        self.path, self._starts, at = require(path, "rows, one JSON object a line"), [], 0
        with open_plain(path) as file:
            for line in file:
                if line.strip():
                    self._starts.append(at)
                at += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with open_plain(self.path) as file:
            file.seek(self._starts[number])
            line = file.readline()
        try:
            return _of_kind(json.loads(line.decode("utf-8-sig")), dict, f"{self.path}, row {number + 1}")
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise Unreadable(f"{self.path}, row {number + 1}: not JSON ({error})") from None


class ParquetRows(Sequence):
    """Rows of .parquet files, read one row group at a time; the last group read is kept."""

    def __init__(self, paths: Sequence[Path]):
        self._places: list[tuple[Path, int, int]] = []
        self._group: tuple[Path, int] | None = None
        self._rows: list[dict[str, Any]] = []
        for path in paths:
            with self._open(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._places += [(path, group, row) for group, size in enumerate(sizes) for row in range(size)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path, group, row = self._places[number]
        if self._group != (path, group):
            with self._open(path) as file:
                self._rows, self._group = file.read_row_group(group).to_pylist(), (path, group)
        return self._rows[row]

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise BadInput(f"{path}: reading .parquet needs the package pyarrow; install it") from None
        try:
            return parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise Unreadable(f"{path}: not a whole .parquet file ({error}); download it again") from None


def find_rows(root: Path, stem: str, folder: str | None = None) -> Sequence[dict[str, Any]]:
    """Rows of a table called `stem`: {stem}.jsonl, {stem}.json (a list), {stem}.parquet or {stem}-*.parquet.

    Args:
        root: where to look, also one folder deeper.
        stem: usually the split.
        folder: look only in this folder of `root`, such as one configuration of a Hugging Face data set.

    Raises:
        MissingFile: there is no such table.
    """
    safe_join(root, stem)
    folders = [path for path in visible(root, "*") if path.is_dir()]
    places = [safe_join(root, folder)] if folder else [root, *folders]
    for place in places:
        if (place / f"{stem}.jsonl").is_file():
            return JsonLines(place / f"{stem}.jsonl")
        if (place / f"{stem}.json").is_file():
            return read_json(place / f"{stem}.json", "a list of rows", list)
    tables = [path for place in places for path in tables_in(place, stem)]
    if tables:
        return ParquetRows(tables)
    wanted = f"{stem}.jsonl, {stem}.json or {stem}*.parquet"
    raise MissingFile(f"{places[0]}: no table {stem!r}; expected {wanted} there or in a folder of it")


def tables_in(place: Path, stem: str) -> Iterable[Path]:
    """The .parquet files of a table in a folder: one file, or numbered parts."""
    found = visible(place, "*.parquet")
    return [path for path in found if path.stem == stem or path.name.startswith(f"{stem}-")]
