"""Time the inspector in a real browser: a key pressed, a key held, a frame painted, a clip opened.

cd tests && python -m bench.inspector_browser --video clip.mp4
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.lab import chromium, jupyter_lab, open_notebook, run_all, why_not
from videomolmo.errors import BadInput
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer

if TYPE_CHECKING:
    from playwright.sync_api import Page

EVERY = 5


def made_result(video: str | Path | np.ndarray, objects: int = 2) -> GroundingResult:
    """A result with discs that wander over a video, as if two directions had followed them; no model is asked."""
    from videomolmo.io.video import open_video

    frames = open_video(video)
    rows, columns = np.mgrid[: frames.height, : frames.width]
    radius, spool, answers = min(frames.height, frames.width) // 8, MaskStore(), []
    for start in range(0, len(frames), EVERY):
        count = min(EVERY, len(frames) - start)
        layers = {
            name: np.zeros((count, objects, frames.height, frames.width), bool) for name in ("forward", "backward")
        }
        for at in range(count):
            for n in range(objects):
                x = frames.width * (0.5 + 0.3 * np.sin((start + at) / 20 + n))
                y = frames.height * (0.5 + 0.3 * np.cos((start + at) / 27 + 2 * n))
                for shift, name in enumerate(layers):
                    layers[name][at, n] = np.hypot(rows - y, columns - x - 2 * shift) < radius
        known = dict.fromkeys(layers, np.ones((count, objects), bool))
        spool.write(start, tuple(range(1, objects + 1)), {"fused": layers["forward"], **layers}, known)
        points = [(frames.width / 2, frames.height / 2)] * objects
        answers.append(KeyAnswer(start, start / 30, "made up", "found", points, [True] * objects))
    config = {"model": {"every": EVERY, "fusion": "iou", "tau": 0.7}}
    return GroundingResult(
        sentence="made up", answers=answers, objects=objects, height=frames.height, width=frames.width,
        times_s=np.asarray(frames.times_s), fps=frames.fps, spool=spool, config=config,
        source=video if isinstance(video, (str, Path)) else None, _video=frames,
    )  # fmt: skip


def notebook(folder: Path, name: str, result: Path, video: str) -> str:
    """A notebook with one cell that opens a saved result; returns its name."""
    import nbformat

    code = (
        "import time, videomolmo\n"
        f"begun = time.time()\ninspector = videomolmo.inspect({str(result)!r}, video={video!r})\n"
        "from IPython.display import display; display(inspector)\n"
        "print(f'begun {begun:.3f} took {time.time() - begun:.2f}')"
    )
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / name)
    return name


def measure(page: "Page", presses: int) -> dict[str, Any]:
    """Milliseconds at the present notebook's inspector; every frame is new to it."""
    view = page.locator(".vm-view")
    page.wait_for_selector(".vm-stack[data-drawn]")
    view.focus()
    page.keyboard.press("Home")
    page.wait_for_selector(".vm-view[data-frame='0']")
    page.wait_for_timeout(1000)
    pressed, kernel = [], []
    for frame in range(1, presses + 1):
        begun = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f".vm-view[data-frame='{frame}']")
        pressed.append(1000 * (time.perf_counter() - begun))
        kernel.append(float(view.get_attribute("data-kernel-ms")))
    held = page.evaluate(HOLD, [presses])
    return {
        "key to picture, ms, median": round(statistics.median(pressed), 1),
        "kernel's processor time, ms a frame, median": round(statistics.median(kernel), 2),
        "kernel's processor time, ms a frame, worst of ten": round(sorted(kernel)[-max(1, len(kernel) // 10)], 2),
        "held, ms a frame": round(held["ms"] / max(1, held["frames"]), 2), "held, frames": held["frames"],
    }  # fmt: skip


# When the first picture was drawn, by the clock that the kernel goes by as well.
FIRST_PICTURE = """document.addEventListener('vm-frame', () => { window.firstPictureAt ??= Date.now(); });"""

# A held key repeats inside the page, where no driver stands between; every press waits for no picture.
HOLD = """async ([count]) => {
    const view = document.querySelector('.vm-view'), from = Number(view.dataset.frame);
    const first = Number(view.dataset.picture), begun = performance.now();
    const key = { key: 'ArrowRight', repeat: true, bubbles: true };
    for (let shown = from; shown < from + count;) {
        view.dispatchEvent(new KeyboardEvent('keydown', key));
        await new Promise((resolve) => setTimeout(resolve, 4));
        if (Number(view.getAttribute('aria-valuemax')) <= Number(view.dataset.frame)) break;
        shown = Number(view.dataset.frame);
    }
    return { frames: Number(view.dataset.picture) - first, ms: performance.now() - begun };
}"""


def main() -> None:
    """Print a table as JSON: a small clip, a real one, and a long one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="", help="a 1280×720 clip; without one only generated clips are measured")
    parser.add_argument("--presses", type=int, default=50)
    options = parser.parse_args()
    if reason := why_not():
        raise BadInput(reason)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        (folder / "work").mkdir()
        clips = {"192×192, 200 frames": _small(folder, 200), "192×192, 2000 frames": _small(folder, 2000)}
        clips |= {"1280×720": options.video} if options.video else {}
        with jupyter_lab(folder / "work", folder / "home") as lab, chromium() as browser:
            for name, video in clips.items():
                result = made_result(video).save(folder / name.split(",")[0] / str(len(name)), overlay=False)
                page = browser.new_page(viewport={"width": 1500, "height": 1200})
                page.add_init_script(FIRST_PICTURE)
                open_notebook(page, lab, notebook(folder / "work", f"{len(name)}.ipynb", result, str(video)))
                problems = run_all(page)
                begun, cell = map(float, page.get_by_text("begun").last.inner_text().split()[1::2])
                page.wait_for_selector(".vm-view[data-frame]")
                first = page.evaluate("() => window.firstPictureAt") / 1000 - begun
                opened = {"cell, s": cell, "first picture in the page, s": round(first, 2)}
                row = {name: measure(page, options.presses) | opened}
                print(json.dumps(row, ensure_ascii=False), *problems, flush=True)
                page.close()


def _small(folder: Path, frames: int) -> Path:
    """A generated clip, 192×192, shown forwards and backwards until it is long enough."""
    from videomolmo.io.video import VideoWriter
    from videomolmo.synth.clips import generate_clip

    path, drawn = folder / f"{frames}.mp4", generate_clip(10_000_000, frames=60).frames
    there_and_back = np.concatenate([drawn, drawn[-2:0:-1]])
    with VideoWriter(path, 30.0, 192, 192) as writer:
        for at in range(frames):
            writer.write(there_and_back[at % len(there_and_back)])
    return path


if __name__ == "__main__":
    main()
