"""The layers of the package, its size, and what an import costs, read from the source and from fresh processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "videomolmo"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports only from its own row or a lower number, lazy imports included. The longest matching name counts.
ROWS = {
    "errors": 0,
    # 1 numpy: files in and out, points as text, rules of fusion
    "io": 1, "points": 1, "fusion": 1, "metrics": 1, "weights.hub": 1,
    # 2 what a result is; data sets and generated clips
    "mask_store": 2, "results": 2, "protocols": 2, "synth": 2, "datasets": 3, "lab.exercises": 3,
    # 3 torch: the two models and their weights
    "weights": 3, "model": 3, "masks": 3,
    # 4 the main job, and 5 what is built on it
    "pointing": 4, "grounding": 4, "systems": 5, "annotation": 5, "evaluation": 5, "training": 5, "sweep": 5,
    # 6 what made the shipped numbers, and the inspector; 7 the command line; 8 the face, which imports lazily
    "inspector": 6, "lab": 7, "cli": 8, "": 9,
}  # fmt: skip
TORCH_FREE = (
    "errors", "io", "points", "fusion", "metrics", "weights.hub", "mask_store", "results", "protocols",
    "synth", "datasets", "lab.exercises",
)  # fmt: skip
# What a newcomer reads in an afternoon; it stands on files and weights alone.
CORE = (
    "errors", "points", "fusion", "model", "masks", "mask_store", "results", "protocols", "pointing",
    "grounding",
)  # fmt: skip
STRANGERS = (("model", "masks"), ("masks", "model"), ("synth", "training"))
MOST_LINES, LONGEST_FUNCTION = 501, 60


class Edge(NamedTuple):
    """`importer` imports `imported` (names without "videomolmo."); lazily: in a function or for type checkers only."""

    importer: str
    imported: str
    line: int
    lazy: bool


def name_of(path: Path) -> str:
    """ "model.config" for videomolmo/model/config.py, "" for the package's face."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def row_of(name: str) -> int:
    known = [head for head in ROWS if is_part(name, head)]
    assert known, f"videomolmo/{name.replace('.', '/')}.py is in no row: give it one in ROWS"
    return ROWS[max(known, key=len)]


def is_part(name: str, *heads: str) -> bool:
    """Whether a file is one of these, or lies in one of these folders."""
    return any(name == head or name.startswith(f"{head}.") for head in heads)


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """Full names of all modules a file imports, with line and whether only functions or type checkers do."""
    found = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, lazy) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            found.extend((f"{node.module}.{alias.name}", node.lineno, lazy) for alias in node.names)
        inside = (
            lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or for_type_checkers(node)
        )
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree_of(path), False)
    return found


def edges() -> list[Edge]:
    """All imports of the package from itself; `from videomolmo.x import y` leads to x.y if that is a file, or to x."""
    modules = {name_of(path) for path in FILES}
    found = []
    for path in FILES:
        for name, line, lazy in imports(path):
            if name.split(".")[0] != "videomolmo":
                continue
            target = name.removeprefix("videomolmo").lstrip(".")
            while target not in modules:
                target = target.rpartition(".")[0]
            found.append(Edge(name_of(path), target, line, lazy))
    return found


def test_a_file_imports_only_from_its_own_row_or_rows_above():
    wrong = [
        f"videomolmo.{edge.importer} (row {row_of(edge.importer)}) imports videomolmo.{edge.imported} "
        f"(row {row_of(edge.imported)}) in line {edge.line}"
        for edge in edges()
        if row_of(edge.imported) > row_of(edge.importer)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_stands_on_files_and_weights_alone():
    wrong = [
        f"videomolmo.{edge.importer} imports videomolmo.{edge.imported} in line {edge.line}"
        for edge in edges()
        if is_part(edge.importer, *CORE) and not is_part(edge.imported, *CORE, "io", "weights")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("importer, imported", STRANGERS)
def test_strangers_know_nothing_of_each_other(importer, imported):
    wrong = [
        edge for edge in edges() if (edge.importer.split(".")[0], edge.imported.split(".")[0]) == (importer, imported)
    ]
    assert not wrong


def test_no_two_files_import_each_other():
    """Imports form no circle, those in functions and for type checkers included."""
    graph: dict[str, set[str]] = {}
    for edge in edges():
        if edge.importer and edge.imported != edge.importer:
            graph.setdefault(edge.importer, set()).add(edge.imported)
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle of imports: {' -> '.join((*path, name))}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_plain_rows_import_neither_torch_nor_numpy():
    """Row 0 needs only the standard library; what is free of torch never needs it, wherever the import stands."""
    torch_like = {"torch", "torchvision", "transformers", "sam2", "safetensors", "tokenizers"}
    wrong = []
    for path in FILES:
        row, is_free = row_of(name_of(path)), is_part(name_of(path), *TORCH_FREE)
        for name, line, _ in imports(path):
            head = name.split(".")[0]
            if is_free and head in torch_like:
                wrong.append(f"{path}:{line}: imports {head}")
            if row == 0 and head not in sys.stdlib_module_names | {"videomolmo"}:
                wrong.append(f"{path}:{line}: row 0 imports {head}")
    assert not wrong, "\n".join(wrong)


def loaded_after(code: str) -> set[str]:
    """Top-level modules in memory after `code` ran in a fresh process."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import videomolmo"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "videomolmo" in imported
    assert not imported & {"torch", "numpy", "cv2", "av", "pandas", "transformers"}


def test_help_is_shown_without_torch():
    code = "import contextlib, videomolmo.cli\nwith contextlib.suppress(SystemExit): videomolmo.cli.main(['--help'])"
    assert not loaded_after(code) & {"torch", "numpy", "transformers"}
    done = subprocess.run(
        [sys.executable, "-m", "videomolmo.cli", "--help"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "ground" in done.stdout and not done.stderr


def test_rows_without_torch_load_without_torch():
    names = [name_of(path) for path in FILES if is_part(name_of(path), *TORCH_FREE)]
    code = "\n".join(f"import videomolmo.{name}" for name in names)
    assert not loaded_after(code) & {"torch", "transformers", "sam2"}


def test_each_file_of_weights_loads_alone():
    """Whichever comes first: two folders that import from each other must not meet half loaded."""
    names = [name_of(path) for path in FILES if is_part(name_of(path), "weights")]
    forget = "for known in [k for k in sys.modules if k.split('.')[0] == 'videomolmo']: del sys.modules[known]"
    loaded_after("\n".join(f"{forget}\nimport videomolmo.{name}" for name in names))


def test_training_the_pointing_model_runs_at_most_twelve_files_and_no_other_kind():
    code = (
        "import sys, videomolmo.training.trainer\n"
        "print(*[name for name in sys.modules if name.startswith('videomolmo.training')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    names = done.stdout.split()
    assert "videomolmo.training.pointing" in names and len(names) <= 12
    assert not {"videomolmo.training.molmo2", "videomolmo.training.videoglamm"} & {*names}


def test_public_names_are_there():
    code = "import videomolmo\nfor name in videomolmo.__all__: assert getattr(videomolmo, name).__name__ == name"
    loaded_after(code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: name_of(path) or "face")
def test_files_and_functions_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MOST_LINES, f"{path} has {lines} lines; split it"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}:{node.lineno}: {node.name} has {length} lines"
