"""Notebooks for readers: tables and plots on a page, pages of executed notebooks, the edition for learners."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from small_notebooks import write_notebook

from videomolmo.errors import BadInput, Unreadable
from videomolmo.lab import gallery
from videomolmo.lab.notebook import COLOURS, TEXT, prepare, show_table

WORKSHOP = Path(__file__).parent.parent / "notebooks" / "08_workshop.ipynb"
ANSWER = '<point x="51.4" y="50.4" alt="a & b">a & b</point> costs $3, or $4'
PAGES = {"light": "#ffffff", "dark": "#111111"}  # grounds of JupyterLab's themes


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2)."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return float(
        [0.2126, 0.7152, 0.0722] @ np.where(values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    )


@pytest.mark.parametrize("ground", PAGES.values())
def test_colours_are_seen_on_a_light_and_a_dark_page(ground):
    for colour, least in [(TEXT, 4), *((colour, 3) for colour in COLOURS)]:
        light, dark = sorted([luminance(colour) + 0.05, luminance(ground) + 0.05], reverse=True)
        assert light / dark >= least, (colour, ground)


def test_a_table_shows_texts_in_full_and_takes_none_for_markup():
    names = pd.Index(["<b>"], name="<i>")
    table = pd.DataFrame({"<u>": [ANSWER * 3], "list": [[("<p>", 1)]], "n": [3], "ok": [True], "v": [2 / 3]}, names)
    html = show_table(table, shaded=["v"]).to_html()
    cells = re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split()
    assert not re.search(r"<(point|b|i|u|p)\b", html) and html.count("&lt;point") == 3 and "…" not in html
    assert {"0.67", "3", "yes"} <= set(cells) and "background-color" in html
    two = pd.DataFrame([[1.0, np.nan]], columns=pd.MultiIndex.from_tuples([("<a>", 1), ("b", 2)], names=["<x>", None]))
    assert not re.search(r"<(a|x)>|nan", show_table(two).to_html())


def executed_notebook() -> nbformat.NotebookNode:
    """A notebook with outputs of every kind, as if it had run."""
    import plotly.express as px

    prepare("results")
    picture = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)).save(picture, "PNG")
    plot = {"application/vnd.plotly.v1+json": json.loads(px.line(x=[1, 2], y=[3, 4], title="a plot").to_json())}
    shown = [
        nbformat.v4.new_output("stream", name="stderr", text="predict: 100%|████|"),
        nbformat.v4.new_output("stream", name="stdout", text="printed"),
        nbformat.v4.new_output("display_data", {"text/html": show_table(pd.DataFrame({"t": [ANSWER]})).to_html()}),
        nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(picture.getvalue()).decode()}),
        nbformat.v4.new_output("display_data", plot),
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=shown, metadata={"tags": ["picture"]})
    return nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("# done")])


@pytest.fixture(scope="module")
def done():
    return executed_notebook()


def test_a_small_picture_is_kept(done, tmp_path):
    gallery.save_small(gallery.picture(done, Path("a.ipynb")), tmp_path / "pictures" / "a.png")
    with PIL.Image.open(tmp_path / "pictures" / "a.png") as kept:
        assert kept.width == 640
    bare = nbformat.v4.new_notebook(cells=done.cells[1:])
    with pytest.raises(BadInput, match="tagged 'picture'"):
        gallery.picture(bare, Path("a.ipynb"))


@pytest.mark.parametrize("theme", PAGES)
def test_a_page_shows_all_on_its_own_ground(done, theme, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("no Chromium")
    (tmp_path / "page.html").write_text(gallery.page(done, theme), encoding="utf-8")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(offline=True)
        page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
        page.wait_for_selector(".js-plotly-plot .trace", timeout=30_000)
        assert page.locator("td.data").inner_text() == ANSWER
        text = page.locator("body").inner_text()
        assert "printed" in text and "predict: 100%" not in text
        for part in (".js-plotly-plot .main-svg", ".js-plotly-plot .bg"):  # neither paper nor plot hides the page
            ground = page.locator(part).first.evaluate(
                "e => [getComputedStyle(e).backgroundColor, e.style.fillOpacity]"
            )
            assert "rgba(0, 0, 0, 0)" in ground[0] and ground[1] in ("", "0")
        browser.close()


def test_notebooks_become_pages_and_their_list_an_index(tmp_path, capsys):
    notes = tmp_path / "notes"
    notes.mkdir()
    draw = "from IPython.display import Image\nimport base64\nImage(data=base64.b64decode(PICTURE))"
    dot = io.BytesIO()
    PIL.Image.new("RGB", (8, 4)).save(dot, "PNG")
    path = write_notebook(
        notes / "01_small.ipynb",
        "results_folder: str = ''",
        draw.replace("PICTURE", repr(base64.b64encode(dot.getvalue()))),
    )
    notebook = nbformat.read(path, 4)
    notebook.cells[1].metadata["tags"] = ["picture"]
    nbformat.write(notebook, path)
    (notes / "README.md").write_text('<img src="pictures/01.png"> [01](01_small.ipynb)', encoding="utf-8")
    pages, pictures = tmp_path / "pages", notes / "pictures"
    assert gallery.main(["render", str(notes), "--out", str(pages), "--pictures", str(pictures)]) == 0
    assert "data:image/png" in (pages / "01_small.html").read_text(encoding="utf-8") and (pictures / "01.png").is_file()
    index = (pages / "index.html").read_text(encoding="utf-8")
    assert 'href="01_small.html"' in index and 'src="data:image/png;base64,' in index
    write_notebook(notes / "02_bad.ipynb", "results_folder: str = ''", "raise ValueError('a bad cell')")
    assert gallery.main(["render", str(notes / "02_bad.ipynb"), "--out", str(pages)]) == 2
    assert "cell 2 fails: ValueError: a bad cell" in capsys.readouterr().err
    assert gallery.main(["render", str(tmp_path / "nowhere"), "--out", str(pages)]) == 2


def test_the_learners_edition_has_no_solutions(tmp_path, capsys):
    out = tmp_path / "learners.ipynb"
    assert gallery.main(["learners", str(WORKSHOP), "--out", str(out)]) == 0
    teacher, edition = nbformat.read(WORKSHOP, 4), nbformat.read(out, 4)
    nbformat.validate(edition)
    text = "\n".join(cell.source for cell in edition.cells)
    assert "<details>" not in text and "▸" not in text and "## The agenda" not in text
    assert not re.search(r"(remove|add)_point\(\d", text) and "usually answer" not in text
    assert [line for line in text.splitlines() if line.startswith("## Failure")] and text.count("check_repair") == 3
    assert 12 <= len(edition.cells) < len(teacher.cells)
    said = capsys.readouterr().out
    assert str(out) in said
    before = WORKSHOP.read_bytes()
    assert gallery.main(["learners", str(WORKSHOP), "--out", str(WORKSHOP)]) == 2 and WORKSHOP.read_bytes() == before


def test_a_notebook_shows_bad_input_in_one_line(tmp_path, capsys):
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactive.InteractiveShell()
    run = "from videomolmo import open_video\nopen_video('/no/such/clip.mp4')"
    assert not shell.run_cell(run).success
    shown = capsys.readouterr().out.strip()
    assert (
        "\n" not in shown and shown.startswith(("MissingFile: ", "BadInput: ", "Unreadable: ")) and "clip.mp4" in shown
    )
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        prepare(tmp_path / "file")
    assert Unreadable("a")._render_traceback_() == ["Unreadable: a"]
