"""Runs the notebooks and keeps one picture of each: `python -m bench.notebook_pictures [00 06 …]`."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import papermill
import PIL.Image

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
WIDTH_PX, MAX_BYTES = 640, 60_000
PICTURES = {  # notebook: some code of the cell whose picture is kept, parameters that only save time
    "00": ("contact_sheet(result)", {}),
    "01": ("draw_masks(video[1], record.masks(1)", {}),
    "02": ("pairs = list(zip(found[", {"limit": 1}),
    "03": ("titles = [f\"{when} {place + 1}\"", {}),
    "04": (
        "display(Image(str(file)",
        {"variants": ["none"], "contexts": [0], "train_clips": 12, "test_clips": 12, "warmup_steps": 1,
         "joint_steps": 1, "show_attention": False},
    ),
    "05": ("tiles = {", {"clips": 1}),
    "06": ("pictures = [image_tag(on_grey(truth, guess), 90)", {"clips": 1}),
    "07": ("inspector = videomolmo.inspect(", {}),
    "08": ("display(Image(png_bytes(wrong.picture", {"shown": [8, 15, 22, 30]}),
    "10": ("result = grounder(clip.frames, question)", {}),
}  # fmt: skip


def outputs_of(path: Path, code: str, parameters: dict) -> list[dict]:
    """What the first cell that contains `code` displayed, after a run of the whole notebook."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.ipynb"
        parameters = {**parameters, "results_folder": f"{folder}/results"}
        papermill.execute_notebook(str(path), str(out), parameters, cwd=folder, kernel_name="python3")
        cells = nbformat.read(out, as_version=4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code" and code in cell.source)
    return [output["data"] for output in cell.outputs if "data" in output]


def picture_of(outputs: list[dict]) -> PIL.Image.Image:
    """The first image among a cell's outputs; without one, its table as a browser shows it."""
    for data in outputs:
        if "image/png" in data:
            return PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    from playwright.sync_api import sync_playwright

    table = next(data["text/html"] for data in outputs if "text/html" in data)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(f"<style>body {{ font: 13px sans-serif }} td, th {{ padding: 2px 8px }}</style>{table}")
        taken = page.locator("table").first.screenshot()
        browser.close()
    return PIL.Image.open(io.BytesIO(taken))


def save_small(picture: PIL.Image.Image, path: Path) -> int:
    """Writes `picture` as a PNG of few colours, at most 640 pixels wide and 60 kB, and gives its size in bytes."""
    picture = picture.convert("RGB")
    picture.thumbnail((WIDTH_PX, 4 * WIDTH_PX), PIL.Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32, 16):
        picture.quantize(colours, dither=PIL.Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    return path.stat().st_size


if __name__ == "__main__":
    folder = NOTEBOOKS / "pictures"
    folder.mkdir(exist_ok=True)
    for number in sys.argv[1:] or PICTURES:
        code, parameters = PICTURES[number]
        notebook = next(NOTEBOOKS.glob(f"{number}_*.ipynb"))
        picture = picture_of(outputs_of(notebook, code, parameters))
        if picture.height > 1.15 * picture.width:  # the upper part of a long picture says enough
            picture = picture.crop((0, 0, picture.width, round(0.56 * picture.height)))
        size = save_small(picture, folder / f"{number}.png")
        print(f"{number}.png {size} bytes", flush=True)
