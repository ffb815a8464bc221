"""grid.toml → the cells of a sweep: which values the parameters of a notebook take, checked before anything runs."""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.sweep.notebook import SECONDS, Notebook, as_seconds

TABLES = {"fixed", "grid", "cells", "repeats", "cluster"}
JSON_TYPES = (bool, int, float, str, list, dict)
LONGEST_LABEL, MOST_BYTES = 80, 120  # characters, and bytes of them; some file systems end at 143


@dataclass(frozen=True)
class Cell:
    """One run of the notebook.

    Attributes:
        label: what tells it from the others, readable.
        given: what the grid says; handed to the notebook.
        parameters: all of the notebook's, defaults included.
    """

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
    """The cells of a sweep.

    Attributes:
        cells: in the order in which they run: every setting once before the first repetition.
        varied: names of the parameters that differ between settings.
        repeats: names of those that only repeat a setting, such as a seed: results are averaged over them.
        cluster: options for `--cluster`, from the table of this name.
        seconds: of one run, where the file says so: with its sizes, not the notebook's own.
    """

    cells: tuple[Cell, ...]
    varied: tuple[str, ...]
    repeats: tuple[str, ...]
    cluster: Mapping[str, Any]
    seconds: float | None = None


def read_grid(path: Path, notebook: Notebook) -> Grid:
    """The cells that a grid file asks for.

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
    content = _read(path)
    try:
        seconds = as_seconds(content.get(SECONDS), SECONDS)
        fixed = _accept(notebook, _table(content, "fixed"))
        settings = [*_product(notebook, fixed, content), *_listed(notebook, fixed, content)]
        repeats = _repeats(notebook, _table(content, "repeats"))
        for name in repeats:
            if any(name in setting for setting in settings):
                raise BadInput(f"{name} stands in [repeats] and elsewhere; say it once")
    except BadInput as error:
        raise BadInput(f"{path}: {error}; nothing was run") from None
    given = [setting | again for again in _combinations(repeats) for setting in settings]
    cells = _named(notebook, given)
    return Grid(cells, _varied(settings, notebook), tuple(repeats), _table(content, "cluster"), seconds)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); --grid wants a TOML file") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start}), which TOML is written in; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not TOML ({error})") from None
    if unknown := sorted(set(content) - TABLES - {SECONDS}):
        expected = f"[{'], ['.join(sorted(TABLES))}] or {SECONDS}"
        raise BadInput(f"{path}: {unknown[0]!r} is no part of a grid; expected {expected}")
    return content


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise BadInput(f"{name} is {table!r}, expected a table: [{name}], and lines of name = value below it")
    return table


def _accept(notebook: Notebook, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: notebook.parameter(name).accept(_json(name, value)) for name, value in values.items()}


def _json(name: str, value: Any) -> Any:
    """The value, if JSON has a form for it: TOML also has dates, and numbers that are none."""
    inside = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    for part in inside:
        _json(name, part)
    if type(value) not in JSON_TYPES or (isinstance(value, float) and not math.isfinite(value)):
        raise BadInput(f"{name} has the value {value}, which JSON does not know; use a text or a finite number")
    return value


def _product(notebook: Notebook, fixed: dict[str, Any], content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    axes = {}
    for name, values in _table(content, "grid").items():
        axes[name] = _axis(notebook, name, values)
        if name in fixed:
            raise BadInput(f"{name} stands in [fixed] and in [grid]; say it once")
    if axes or not content.get("cells"):
        yield from ({**fixed, **chosen} for chosen in _combinations(axes))


def _axis(notebook: Notebook, name: str, values: Any) -> list[Any]:
    parameter = notebook.parameter(name)
    if not isinstance(values, list) or not values:
        raise BadInput(f"{name} = {values!r} is no list of values; write {name} = [{values!r}], or move it to [fixed]")
    accepted = [parameter.accept(_json(name, value)) for value in values]
    if any(value in accepted[:at] for at, value in enumerate(accepted)):
        raise BadInput(f"{name} names a value twice: {values}")
    return accepted


def _listed(notebook: Notebook, fixed: dict[str, Any], content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cells = content.get("cells", [])
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise BadInput("cells is no list of tables; write [[cells]] above each of them")
    yield from ({**fixed, **_accept(notebook, cell)} for cell in cells)


def _repeats(notebook: Notebook, table: dict[str, Any]) -> dict[str, list[Any]]:
    found = {}
    for name, values in table.items():
        if type(values) is int and values < 1:
            raise BadInput(f"{name} = {values} in [repeats] is below 1")
        found[name] = _axis(notebook, name, list(range(values)) if type(values) is int else values)
    return found


def _combinations(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def _varied(settings: list[dict[str, Any]], notebook: Notebook) -> tuple[str, ...]:
    """Names whose value, or default where a setting says nothing, is not the same everywhere."""
    defaults = notebook.defaults()
    names = dict.fromkeys(name for setting in settings for name in setting)
    full = [defaults | setting for setting in settings]
    return tuple(name for name in names if any(one.get(name, ...) != full[0].get(name, ...) for one in full))


def _named(notebook: Notebook, given: list[dict[str, Any]]) -> tuple[Cell, ...]:
    defaults, telling = notebook.defaults(), _varied(given, notebook)
    cells = {}
    for values in given:
        parameters = defaults | values
        parts = [f"{name}={_short(parameters.get(name, ''))}" for name in telling]
        label = ",".join(parts)[:LONGEST_LABEL].encode()[:MOST_BYTES].decode(errors="ignore")
        cell = Cell(label or "cell", values, parameters)
        cells.setdefault(cell.key, cell)
    return tuple(cells.values())


def _short(value: Any) -> str:
    """A value as part of a file name on every system."""
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "none"
