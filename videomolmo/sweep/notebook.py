"""What a sweep knows of a notebook before it runs: parameters, their types and defaults, and a hash of the source."""

import ast
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomolmo.errors import BadInput
from videomolmo.io.cache import key_of
from videomolmo.sweep.state import COLUMNS

RESULTS, CACHE = "results_folder", "cache_folder"  # parameters that the sweep itself sets
SECONDS = "seconds_per_run"  # in a notebook's metadata, and in a grid
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}
PLAIN = {"bool": bool, "int": int, "str": str, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell.

    Attributes:
        name: of the variable.
        source: the line as it is written, for messages.
        annotation: its type as syntax; None where the line has none.
        default: its value; `...` where it is no literal.
    """

    name: str
    source: str
    annotation: ast.expr | None
    default: Any

    def accept(self, value: Any) -> Any:
        """The value as the notebook should get it: a whole number for a float becomes one.

        Raises:
            BadInput: the value is of another type.
        """
        if not (fits(value, self.annotation) if self.annotation else _like(value, self.default)):
            raise BadInput(f"{self.name} = {json.dumps(value)} is {KINDS[type(value)]}, expected {self.source!r}")
        is_float = isinstance(self.annotation, ast.Name) and self.annotation.id == "float"
        return float(value) if type(value) is int and (is_float or isinstance(self.default, float)) else value


@dataclass(frozen=True)
class Notebook:
    """A notebook that can be swept.

    Attributes:
        path: where it lies.
        text: what stands in the file.
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
    said = [
        (metadata.get(part) or {}).get(name) for part, name in (("language_info", "name"), ("kernelspec", "language"))
    ]
    return next((one for one in said if isinstance(one, str) and one), "python")


def as_seconds(value: Any, said: str) -> float | None:
    """What somebody says a run takes; None stays None.

    Args:
        said: where it stands, for the message.

    Raises:
        BadInput: no number, or none above 0.
    """
    if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
        raise BadInput(f"{said} is {value!r}, expected seconds: a number above 0, or leave it out")
    return value


def _parameters(source: str, path: Path) -> dict[str, Parameter]:
    try:
        lines = ast.parse(source).body
    except SyntaxError as error:
        raise BadInput(f"{path}: the parameters cell is not Python ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError, MemoryError) as error:  # characters that Python refuses, or too many brackets
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


def _like(value: Any, default: Any) -> bool:
    if default is None or default is ...:
        return True
    return type(value) is type(default) or (isinstance(default, float) and type(value) is int)
