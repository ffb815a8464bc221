"""Notebooks for readers: run and rendered to pages, each with a small picture; an edition for learners.

python -m videomolmo.lab.gallery render notebooks --out pages
python -m videomolmo.lab.gallery learners notebooks/08_workshop.ipynb --out learners.ipynb
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from videomolmo.errors import BadInput, MissingFile
from videomolmo.io.command_line import Command, Group, run
from videomolmo.io.files import write_text

if TYPE_CHECKING:
    import nbformat
    import PIL.Image

WIDTH_PX, MAX_BYTES = 640, 60_000  # of pictures
app = typer.Typer(cls=Group, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(cls=Command)
def render(
    notebooks: Annotated[list[Path], Argument(metavar="NOTEBOOK", help="Notebooks, or a folder of them.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the pages.")] = Path("pages"),
    pictures: Annotated[Path | None, Option(metavar="DIR", help="Also keep a small picture of each here.")] = None,
    theme: Annotated[Literal["light", "dark"], Option(help="Of the pages.")] = "light",
) -> None:
    """Run notebooks, and write each with its outputs as a page (HTML); README.md beside them becomes index.html."""
    for path in notebook_files(notebooks):
        done = executed(path)
        write_text(out / f"{path.stem}.html", page(done, theme))
        if pictures is not None:
            save_small(picture(done, path), pictures / f"{path.stem[:2]}.png")
        readme = path.parent / "README.md"
        if readme.is_file():
            write_text(out / "index.html", index_page(readme))
        print(f"{out / path.stem}.html", flush=True)


@app.command(cls=Command)
def learners(
    notebook: Annotated[Path, Argument(metavar="NOTEBOOK", help="A notebook with parts for teachers.")],
    out: Annotated[Path, Option(metavar="FILE", help="The notebook to write.")],
) -> None:
    """Write a notebook without what only teachers should see: cells tagged `teacher`, and all that is folded."""
    import nbformat

    (path,) = notebook_files([notebook])
    if out.exists() and out.samefile(path):
        raise BadInput(f"{out} is the teacher's notebook itself; give another file with --out")
    write_text(out, nbformat.writes(learners_edition(nbformat.read(path, as_version=4))) + "\n")
    print(f"written to {out}")


def notebook_files(paths: list[Path]) -> list[Path]:
    """The notebooks among files and folders, in order.

    Raises:
        MissingFile: there is none.
    """
    found = []
    for path in paths:
        files = sorted(path.glob("[0-9]*.ipynb")) if path.is_dir() else [path] * (path.suffix == ".ipynb")
        if not files or not files[0].is_file():
            raise MissingFile(f"{path}: no notebook there; give a file .ipynb or a folder with some")
        found += files
    return found


def executed(path: Path, **parameters: Any) -> nbformat.NotebookNode:
    """A notebook after a run in an empty folder, with its own parameters but for those given; no file of it stays.

    Raises:
        BadInput: a cell fails; the message names the notebook and the error.
    """
    import nbformat
    import papermill

    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.ipynb"
        options = {"cwd": folder, "kernel_name": "python3", "progress_bar": False}
        try:
            papermill.execute_notebook(str(path.resolve()), str(out), parameters, **options)
        except papermill.PapermillExecutionError as error:
            raise BadInput(f"{path}: cell {error.exec_count} fails: {error.ename}: {error.evalue}") from error
        return nbformat.read(out, as_version=4)


def page(notebook: nbformat.NotebookNode, theme: str = "light") -> str:
    """A notebook as one HTML file, pictures and plots within; formulas are set by a script from the network."""
    from nbconvert import HTMLExporter

    return HTMLExporter(theme=theme).from_notebook_node(_with_plots(notebook))[0]


def _with_plots(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy for a page: plots as HTML, for only JupyterLab draws plotly's own kind of output; no progress bars."""
    import copy

    from plotly.io import to_html

    drawn, script = copy.deepcopy(notebook), True  # the first plot of a page brings plotly's script
    for cell in drawn.cells:
        if "outputs" in cell:  # without progress bars
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if figure := data.pop("application/vnd.plotly.v1+json", None):
                parts = {name: figure[name] for name in ("data", "layout")}
                data["text/html"] = to_html(parts, full_html=False, include_plotlyjs=script, validate=False)
                script = False
    return drawn


def index_page(readme: Path) -> str:
    """The notebooks' README as a page that links to the other pages, pictures within."""
    from nbconvert.filters import markdown2html

    text = readme.read_text(encoding="utf-8").replace(".ipynb)", ".html)")

    def within(found: re.Match) -> str:
        content = base64.b64encode((readme.parent / found[1]).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{content}"'

    body = markdown2html(re.sub(r'src="([^":]+\.png)"', within, text))
    style = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }"
    style += "td { padding: 0.5em; vertical-align: top }"
    head = f'<meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>{style}</style>'
    return f"<!doctype html>\n<title>videomolmo</title>{head}\n{body}"


def picture(notebook: nbformat.NotebookNode, path: Path) -> PIL.Image.Image:
    """What the cell tagged `picture` shows; only the upper part of a long picture."""
    import PIL.Image

    for cell in notebook.cells:
        for output in cell.get("outputs", []) if "picture" in cell.metadata.get("tags", []) else []:
            if "image/png" in output.get("data", {}):
                drawn = PIL.Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGBA")
                shown = PIL.Image.new("RGB", drawn.size, "white")  # what is transparent
                shown.paste(drawn, mask=drawn)
                is_long = shown.height > 1.15 * shown.width
                return shown.crop((0, 0, shown.width, round(0.56 * shown.height))) if is_long else shown
    raise BadInput(f"{path}: no cell tagged 'picture' shows an image; tag one")


def save_small(picture: PIL.Image.Image, path: Path) -> None:
    """Write a picture as a PNG of few colours, at most 640 pixels wide and 60 kB."""
    import PIL.Image

    picture = picture.copy()
    picture.thumbnail((WIDTH_PX, 4 * WIDTH_PX), PIL.Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32, 16):
        picture.quantize(colours, dither=PIL.Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            break


def learners_edition(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without cells tagged `teacher` and without folded blocks (`<details>`); nothing else changes."""
    import copy

    edition = copy.deepcopy(notebook)
    edition.cells = [cell for cell in edition.cells if "teacher" not in cell.metadata.get("tags", [])]
    for cell in edition.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\n*<details>.*?</details>", "", cell.source, flags=re.DOTALL)
    return edition


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 when the input was refused (one line on standard error)."""
    import sys

    return run(app, "videomolmo.lab.gallery", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    raise SystemExit(main())
