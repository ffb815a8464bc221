"""Notebook and grid.toml → the trials of a sweep, checked before anything runs."""

import ast
import difflib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.io.untrusted import read_toml

COLUMNS = ("cell", "seconds", "commit", "versions", "machine", "notebook", "table_error")  # the sweep's own
TABLES = {"fixed", "grid", "cells", "repeats", "cluster"}
LONGEST_LABEL, MOST_BYTES = 80, 120  # characters, and bytes of them; some file systems end at 143
RESULTS, CACHE = "results_folder", "cache_folder"  # parameters that the sweep itself sets
SECONDS = "seconds_per_run"  # in a notebook's metadata, and in a grid
KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a table",
}  # fmt: skip
PLAIN = {kind.__name__: kind for kind in KINDS if kind is not float}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: its text, annotation as syntax if any, and default, `...` if no literal."""

    name: str
    source: str
    annotation: ast.expr | None
    default: Any

    def accept(self, value: Any) -> Any:
        """The value as the notebook should get it: a whole number for a float becomes one.

        Raises:
            BadInput: the value is of another type, or JSON has no form for it: TOML also has dates, and NaN.
        """
        if not _is_json(value):
            raise BadInput(
                f"{self.name} has the value {value}, which JSON does not know; use a text or a finite number"
            )
        if not (fits(value, self.annotation) if self.annotation else _like(value, self.default)):
            raise BadInput(f"{self.name} = {json.dumps(value)} is {KINDS[type(value)]}, expected {self.source!r}")
        is_float = isinstance(self.annotation, ast.Name) and self.annotation.id == "float"
        return float(value) if type(value) is int and (is_float or isinstance(self.default, float)) else value


@dataclass(frozen=True)
class Notebook:
    """A notebook that can be swept, and what stands in its file.

    Attributes:
        sha256: hash of what decides a run: the cells' kinds, sources and tags, not outputs or editor's metadata.
        parameters: of its parameters cell, by name.
        seconds: of one run with its defaults, where its metadata say so (videomolmo.seconds_per_run).
    """

    path: Path
    text: str
    sha256: str
    parameters: Mapping[str, Parameter]
    seconds: float | None

    def parameter(self, name: str) -> Parameter:
        """The parameter of this name.

        Raises:
            BadInput: there is none, or a sweep sets it itself.
        """
        if name in (RESULTS, CACHE):
            raise BadInput(f"{name} is set by the sweep itself; leave it out of the grid")
        if name not in self.parameters:
            names = [known for known in self.parameters if known not in (RESULTS, CACHE)]
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BadInput(f"{name!r} is no parameter of {self.path.name}, which has {', '.join(names)}{hint}")
        return self.parameters[name]

    def defaults(self) -> dict[str, Any]:
        """Defaults that are known without running anything, folders left out."""
        known = {name: one.default for name, one in self.parameters.items() if name not in (RESULTS, CACHE)}
        return {name: value for name, value in known.items() if value is not ...}


def read_notebook(path: Path) -> Notebook:
    """What a sweep has to know of a notebook.

    Raises:
        BadInput: no such file, no notebook, one of another language than Python, not exactly one cell tagged
            "parameters", or seconds that are none.

    Differs: papermill's own `inspect_notebook` reads the cell line by line with a regular expression and misses
        annotations such as `int | None`; here Python's parser reads it.
    """
    import nbformat

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = nbformat.reads(text, as_version=4)
        cells = [[str(cell.cell_type), cell.source, sorted(cell.metadata.get("tags", []))] for cell in content.cells]
        if not all(isinstance(source, str) for _, source, _ in cells):
            raise TypeError("the source of a cell is no text")
        noted, language = content.metadata.get("videomolmo"), _language(content.metadata)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such notebook") from None
    except Exception as error:  # nbformat has no common class for what it raises, and lets much pass
        raise BadInput(f"{path}: not a notebook ({error})") from error
    if "python" not in language.lower():
        raise BadInput(f"{path}: a notebook in {language}, expected Python")
    tagged = [source for _, source, tags in cells if "parameters" in tags]
    if len(tagged) != 1:
        raise BadInput(f"{path}: {len(tagged)} cells are tagged 'parameters', expected one; tag the cell in JupyterLab")
    value = noted.get(SECONDS) if isinstance(noted, dict) else None
    seconds = as_seconds(value, f"{path}: {SECONDS} in its metadata")
    return Notebook(Path(path), text, key_of({"cells": cells}), _parameters(tagged[0], path), seconds)


def _language(metadata: Mapping[str, Any]) -> str:
    """What a notebook says it is written in; one that says nothing, as after `jupytext` or by hand, is in Python."""
    places = (("language_info", "name"), ("kernelspec", "language"))
    said = ((metadata.get(part) or {}).get(name) for part, name in places)
    return next((one for one in said if isinstance(one, str) and one), "python")


def as_seconds(value: Any, said: str) -> float | None:
    """What a run takes, as `said` says, or None.

    Raises:
        BadInput: no number, or none above 0.
    """
    if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
        raise BadInput(f"{said} is {value!r}, expected seconds: a number above 0, or leave it out")
    return value


def _parameters(source: str, path: Path) -> dict[str, Parameter]:
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # also of characters, or many brackets
        raise BadInput(f"{path}: the parameters cell is not Python ({error})") from None
    found = {}
    for line in lines:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and getattr(line, "value", None) is not None:
                text = ast.unparse(line)
                annotation = getattr(line, "annotation", None)
                found[target.id] = Parameter(target.id, text, annotation, _literal(line.value))
    if taken := [name for name in found if name in COLUMNS]:
        raise BadInput(f"{path}: the sweep's own table has a column {taken[0]!r}; give that parameter another name")
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return json.loads(json.dumps(ast.literal_eval(node)))
    except (ValueError, TypeError):
        return ...


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a JSON value is of an annotated type; types that JSON knows nothing of accept everything.

    Example:
        >>> wanted = ast.parse("list[int] | None", mode="eval").body
        >>> fits([1, 2], wanted), fits([1, 2.5], wanted), fits(None, wanted)
        (True, False, True)
    """
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            try:
                return fits(value, ast.parse(text, mode="eval").body)
            except (SyntaxError, ValueError):  # words, such as "in seconds"
                return True
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Name(id="float"):
            return type(value) in (int, float)
        case ast.Name(id=name) if name in PLAIN:
            return type(value) is PLAIN[name]
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(fits(one, item) for one in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, item])):
            return isinstance(value, dict) and all(fits(one, item) for one in value.values())
        case ast.Subscript(value=ast.Name(id="Optional"), slice=item):
            return value is None or fits(value, item)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=item):
            choices = item.elts if isinstance(item, ast.Tuple) else [item]
            return any(isinstance(choice, ast.Constant) and choice.value == value for choice in choices)
    return True


def _is_json(value: Any) -> bool:
    inside = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    is_one = type(value) in KINDS and (type(value) is not float or math.isfinite(value))
    return is_one and all(map(_is_json, inside))


def _like(value: Any, default: Any) -> bool:
    if default is None or default is ...:
        return True
    return type(value) is type(default) or (isinstance(default, float) and type(value) is int)


@dataclass(frozen=True)
class Trial:
    """One run of the notebook: what tells it from others, what the grid gives it, all its parameters with defaults."""

    label: str
    given: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Hash of the parameters; the same settings are the same cell, however the grid came to them."""
        return key_of(self.parameters)[:10]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.label},{self.key}"


@dataclass(frozen=True)
class Grid:
    """The trials of a sweep, every setting once before the first repetition.

    Attributes:
        varied: names of the parameters that differ between settings.
        repeats: names of those that only repeat a setting, such as a seed: results are averaged over them.
        cluster: options for `--cluster`.
        seconds: of one run with the grid's sizes, where it says so.
    """

    trials: tuple[Trial, ...]
    varied: tuple[str, ...]
    repeats: tuple[str, ...]
    cluster: Mapping[str, Any]
    seconds: float | None = None


def read_grid(path: Path, notebook: Notebook) -> Grid:
    """The trials that a grid file asks for.

    The file is TOML with any of these tables; the names are parameters of the notebook:

        seconds_per_run = 90  # about, for the estimate of --dry-run; stands above the tables
        [fixed]        # the same in every cell
        clips = 20
        [grid]         # every combination of these lists
        rule = ["iou", "union"]
        tau = [0.5, 0.7]
        [[cells]]      # cells beside the grid, or instead of it
        rule = "forward"
        [repeats]      # everything above once for each of these: a list, or n for 0 … n - 1
        seed = 3
        [cluster]      # what `--cluster` hands to dask-jobqueue
        cores = 1

    Raises:
        BadInput: the file cannot be read, or holds a name or a type that the notebook does not have, or seconds that
            are none.
    """
    content = read_toml(path, "--grid wants a TOML file")
    if unknown := sorted(set(content) - TABLES - {SECONDS}):
        expected = f"[{'], ['.join(sorted(TABLES))}] or {SECONDS}"
        raise BadInput(f"{path}: {unknown[0]!r} is no part of a grid; expected {expected}")
    try:
        seconds, cells = as_seconds(content.get(SECONDS), SECONDS), content.get("cells", [])
        fixed = {name: notebook.parameter(name).accept(value) for name, value in _table(content, "fixed").items()}
        axes = {name: _axis(notebook, name, values) for name, values in _table(content, "grid").items()}
        if both := sorted(fixed.keys() & axes):
            raise BadInput(f"{both[0]} stands in [fixed] and in [grid]; say it once")
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise BadInput("cells is no list of tables; write [[cells]] above each of them")
        settings = [fixed | chosen for chosen in _combinations(axes)] if axes or not cells else []
        for cell in cells:
            settings.append(fixed | {name: notebook.parameter(name).accept(value) for name, value in cell.items()})
        repeats = {name: _repeats(notebook, name, values) for name, values in _table(content, "repeats").items()}
        if both := [name for name in repeats if any(name in setting for setting in settings)]:
            raise BadInput(f"{both[0]} stands in [repeats] and elsewhere; say it once")
        cluster = _table(content, "cluster")
    except BadInput as error:
        raise BadInput(f"{path}: {error}; nothing was run") from None
    given = [setting | again for again in _combinations(repeats) for setting in settings]
    return Grid(_named(notebook, given), _varied(settings, notebook), tuple(repeats), cluster, seconds)


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise BadInput(f"{name} is {table!r}, expected a table: [{name}], and lines of name = value below it")
    return table


def _axis(notebook: Notebook, name: str, values: Any) -> list[Any]:
    parameter = notebook.parameter(name)
    if not isinstance(values, list) or not values:
        raise BadInput(f"{name} = {values!r} is no list of values; write {name} = [{values!r}], or move it to [fixed]")
    accepted = [parameter.accept(value) for value in values]
    if any(value in accepted[:at] for at, value in enumerate(accepted)):
        raise BadInput(f"{name} names a value twice: {values}")
    return accepted


def _repeats(notebook: Notebook, name: str, values: Any) -> list[Any]:
    if type(values) is int and values < 1:
        raise BadInput(f"{name} = {values} in [repeats] is below 1")
    return _axis(notebook, name, [*range(values)] if type(values) is int else values)


def _combinations(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def _varied(settings: list[dict[str, Any]], notebook: Notebook) -> tuple[str, ...]:
    """Names whose value, or default where a setting says nothing, is not the same everywhere."""
    defaults = notebook.defaults()
    names = dict.fromkeys(name for setting in settings for name in setting)
    full = [defaults | setting for setting in settings]
    return tuple(name for name in names if any(one.get(name, ...) != full[0].get(name, ...) for one in full))


def _named(notebook: Notebook, given: list[dict[str, Any]]) -> tuple[Trial, ...]:
    defaults, telling = notebook.defaults(), _varied(given, notebook)
    found = {}
    for values in given:
        parameters = defaults | values
        parts = [f"{name}={_short(parameters.get(name, ''))}" for name in telling]
        label = ",".join(parts)[:LONGEST_LABEL].encode()[:MOST_BYTES].decode(errors="ignore")
        trial = Trial(label or "cell", values, parameters)
        found.setdefault(trial.key, trial)
    return tuple(found.values())


def _short(value: Any) -> str:
    """A value as part of a file name on every system."""
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "none"
