"""Notebooks of two cells, for tests of what runs notebooks."""

from pathlib import Path

import nbformat

PARAMETERS = """\
rule: str = "good"
factor: int = 1
tau: float = 0.5  # not used
sizes: list[int] = [1, 2]
context: int | None = None
seed: int = 0
signs_folder: str = ""
results_folder: str = "results/small"
cache_folder: str = ""
"""

# Says that it runs, and which process it is; waits for a sign where its rule is "hold", fails where it is "bad".
BODY = """\
import os, time
from pathlib import Path
signs = Path(signs_folder)
if rule == "hold":
    (signs / f"{seed}.{os.getpid()}").touch()
    while not (signs / f"go{seed}").exists():
        time.sleep(0.05)
if rule == "bad" and not (signs / "mended").exists():
    raise ValueError("a bad rule")
Path("here.txt").write_text(rule)
Path(results_folder).mkdir()
rows = [f"J,{factor + seed / 10},4", f"F,{2 * factor + seed / 5},4"]
(Path(results_folder) / "results.csv").write_text("\\n".join(["measure,value,seconds", *rows]))
"""


def write_notebook(path: Path, parameters: str = PARAMETERS, body: str = BODY, **metadata: object) -> Path:
    """A notebook with a cell of parameters and one that works with them."""
    first = nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [first, nbformat.v4.new_code_cell(body, id="body")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel | metadata), path)
    return path
