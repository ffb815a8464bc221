"""The inspector as a person uses it: notebook 07 in a real JupyterLab and a browser without a window.

The tests share one server, one browser and one run of the notebook, and go through it in the order of this file.
Screenshots go to the folder VIDEOMOLMO_ARTEFACTS, where that is set.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench.lab import chromium, execute, jupyter_lab, open_notebook, run_all, why_not

from videomolmo.inspector.inspection import Inspection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"no browser to try it in: {why_not()}"),
]
PATIENCE_S = 180  # of one step, on a machine that does much else
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "07_track_inspector.ipynb"


class Inspector:
    """What a person sees of one inspector, and does to it."""

    def __init__(self, page, number: int) -> None:
        self.page = page
        self.box = page.locator(".vm-inspector").nth(number)
        self.view, self.picture = self.box.locator(".vm-view"), self.box.locator(".vm-picture")
        self.correct = self.box.get_by_role("button", name="+ point")

    def scroll_up(self) -> None:
        """Show its upper edge; without waiting until the page is still, which it is not while plots are drawn."""
        self.correct.evaluate("one => one.scrollIntoView()")

    @property
    def frame(self) -> int:
        return int(self.view.get_attribute("data-frame"))

    @property
    def words(self) -> str:
        return self.box.locator(".vm-words").inner_text()

    def says(self, text: str) -> None:
        assert self.eventually(lambda: re.search(text, self.words)), f"says {self.words!r} instead of {text!r}"

    def shows(self, frame: int) -> None:
        assert self.eventually(lambda: self.frame == frame), f"shows {self.frame} instead of {frame}: {self.words}"

    def press(self, *keys: str) -> None:
        self.view.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, key: str, mode: str) -> None:
        """Choose what the pointer does; the kernel says when it does."""
        self.press(key)
        self.box.locator(f".vm-view[data-mode={mode}]").wait_for()

    def pixels(self) -> np.ndarray:
        """RGB of the canvas as it is drawn."""
        import cv2

        data = self.picture.evaluate("canvas => canvas.toDataURL('image/png').split(',')[1]")
        content = np.frombuffer(base64.b64decode(data), np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1].astype(int)

    def after(self, act) -> np.ndarray:
        """The pixels of the next picture that `act` leads to."""
        number = int(self.view.get_attribute("data-picture"))
        act()
        self.page.wait_for_function(
            "([view, number]) => Number(view.dataset.picture) > number", arg=[self.view.element_handle(), number]
        )
        return self.pixels()

    def pictures_at_rest(self) -> int:
        """How many pictures were shown, once none has come for a second."""
        before = -1
        while (number := int(self.view.get_attribute("data-picture"))) != before:
            before = number
            self.page.wait_for_timeout(1000)
        return number

    def becomes(self, pixels: np.ndarray) -> bool:
        """Whether the picture is `pixels` in the end, however late it comes."""
        return self.eventually(lambda: np.array_equal(self.pixels(), pixels))

    def differs(self, pixels: np.ndarray) -> bool:
        """Whether the picture is plainly another than `pixels` in the end."""
        return self.eventually(lambda: np.abs(self.pixels() - pixels).max() > 60)

    def eventually(self, holds) -> bool:
        """Whether `holds()` at last: pictures, plots and words come one after the other, later on a busy machine."""
        end = time.monotonic() + PATIENCE_S
        while not (held := holds()) and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        return held

    def tick(self, label: str) -> None:
        self.box.locator("label", has_text=re.compile(rf"^{label}")).locator("input").click()

    def click_at(self, x: float, y: float, width: int, height: int) -> None:
        """Click a pixel of the video."""
        box = self.picture.bounding_box()
        self.picture.click(position={"x": x / width * box["width"], "y": y / height * box["height"]})

    def drag(self, *places: tuple[float, float], width: int, height: int) -> None:
        """Go to a pixel of the video, press, go through the others, let go."""
        box, mouse = self.picture.bounding_box(), self.page.mouse
        on_page = [(box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]) for x, y in places]
        mouse.move(*on_page[0])
        mouse.down()
        for place in on_page[1:]:
            mouse.move(*place, steps=8)
        mouse.up()

    def lines(self, plot: int) -> list[dict]:
        """The traces of a plot as the browser draws them; what it was given holds numbers as packed bytes.

        Where a line has a gap, it is None: older plotly draws NaN there, which equals nothing.
        """
        return (
            self.box.locator(".js-plotly-plot")
            .nth(plot)
            .evaluate(
                "plot => plot._fullData.map(({name, x, y}) => ({name, x: Array.from(x || []),"
                " y: Array.from(y || [], value => Number.isNaN(value) ? null : value)}))"
            )
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the notebook lies and writes."""
    made = tmp_path_factory.mktemp("lab") / "work"
    made.mkdir()
    shutil.copy(NOTEBOOK, made / NOTEBOOK.name)
    return made


@pytest.fixture(scope="module")
def page(folder, shipped_grounder) -> Iterator:
    with jupyter_lab(folder, folder.parent / "home", PATIENCE_S) as lab, chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1250})
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        open_notebook(page, lab, NOTEBOOK.name, PATIENCE_S)
        assert run_all(page, 3 * PATIENCE_S) == []
        yield page


@pytest.fixture
def first(page) -> Inspector:
    inspector = Inspector(page, 0)
    inspector.view.wait_for()
    inspector.scroll_up()
    return inspector


def shoot(page, name: str) -> None:
    """A screenshot to look at later."""
    if folder := os.environ.get("VIDEOMOLMO_ARTEFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"inspector_{name}.png"))


def results(folder: Path) -> Path:
    return folder / "results" / "07_track_inspector"


def test_the_notebook_runs_and_shows_the_frame_it_was_asked_for(first, page, folder):
    first.shows(8)
    assert first.eventually(lambda: "frame 8 of 0–59" in first.view.inner_text())
    assert (results(folder) / "results.csv").is_file()
    hidden = first.box.locator(
        "xpath=ancestor::div[contains(@class, 'jp-OutputArea-child')][1]/preceding-sibling::div[1]"
    )
    hidden.locator("img").wait_for(state="attached")  # made when nobody asks for anything else
    assert not hidden.is_visible()  # the static picture gives way
    page.wait_for_function(
        "() => document.querySelectorAll('.vm-plots .js-plotly-plot .scatterlayer .trace').length > 4"
    )
    shoot(page, "light")


def test_keys_move_the_frame(first):
    first.press("Home")
    first.shows(0)
    for key, frame in (
        ("ArrowRight", 1),
        ("Shift+ArrowRight", 11),
        ("ArrowLeft", 10),
        ("]", 15),
        ("[", 0),
        ("End", 59),
    ):
        first.press(key)
        first.shows(frame)
    first.press("Home")
    first.shows(0)
    first.press("Space")
    first.page.wait_for_function("view => Number(view.dataset.frame) > 3", arg=first.view.element_handle())
    first.press("Space")
    first.box.locator(".vm-answer").get_by_text(re.compile(r"key frame (0|15|30|45): ")).first.wait_for()


def test_the_picture_is_the_frame_and_the_layers_on_it(first):
    import cv2

    from videomolmo import open_video
    from videomolmo.weights.hub import sample_clip

    first.press("Home", "ArrowRight")
    first.shows(1)
    for label in ("forward", "backward", "ground truth", "points", "IDs"):
        fused = first.after(lambda label=label: first.tick(label))
    plain = first.after(lambda: first.tick("prediction"))
    frame = open_video(sample_clip())[1]
    wanted = cv2.resize(frame, plain.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(plain - wanted).mean() < 6
    changed = np.abs(fused - plain).max(axis=2) > 30
    assert 0.001 < changed.mean() < 0.2
    first.after(lambda: first.tick("prediction"))
    first.tick("ground truth")


def test_a_changed_picture_is_painted_once(first):
    first.press("Home", "]")
    first.shows(15)
    for key in ("b", "b"):
        before = first.pictures_at_rest()
        first.after(lambda key=key: first.press(key))
        assert first.pictures_at_rest() == before + 1


def test_keys_work_after_a_control_was_used_and_the_notebook_is_not_edited(first, page):
    cells = "window.jupyterapp.shell.currentWidget.content.widgets.length"
    count, inside = page.evaluate(cells), "box => box.contains(document.activeElement)"
    first.press("Home")
    first.shows(0)
    for use in (
        lambda: first.tick("bounding boxes"),
        lambda: first.box.locator("select", has_text="iou").select_option("iou"),
        lambda: first.box.get_by_role("button", name="navigate", exact=True).click(),
        lambda: first.box.get_by_text("Layers", exact=True).click(),
        lambda: first.tick("bounding boxes"),
    ):
        frame = first.frame
        use()
        page.wait_for_function(inside, arg=first.box.element_handle())
        page.keyboard.press("ArrowRight")
        first.shows(frame + 1)
    for key in ("b", "b"):  # to the notebook "insert a cell below": here the layer
        first.after(lambda key=key: page.keyboard.press(key))
    first.box.get_by_placeholder("the blue square").focus()
    page.keyboard.type("xx")  # a field takes its own
    assert first.box.get_by_placeholder("the blue square").input_value() == "xx"
    page.keyboard.press("Escape")
    page.wait_for_function("view => view === document.activeElement", arg=first.view.element_handle())
    first.box.get_by_placeholder("the blue square").fill("")
    assert page.evaluate(cells) == count
    boxes = first.box.locator("label", has_text=re.compile("^bounding boxes"))
    boxes.hover()
    assert "(u)" in boxes.locator("input").get_attribute("title")


def test_over_a_phrase_its_object_is_shown_alone_and_an_object_marks_its_phrase(first, page):
    first.press("Home", "]")
    first.shows(15)
    both = first.pixels()
    phrases = first.box.locator(".vm-phrase")
    assert [one.strip() for one in phrases.all_inner_texts()] == ["the circle", "1", "2"]
    one, two = (first.after(lambda n=n: phrases.nth(n).hover()) for n in (1, 2))
    assert np.abs(one - two).max() > 60 and np.abs(one - both).max() > 60
    first.after(lambda: page.mouse.move(5, 5))
    assert first.becomes(both)
    first.after(lambda: phrases.nth(1).focus())
    assert first.becomes(one)  # and by keyboard
    first.after(lambda: first.view.focus())
    rows, columns = np.nonzero(np.abs(one - two).max(axis=2) > 60)  # where either mask is
    box, hot = first.picture.bounding_box(), first.box.locator(".vm-phrase.vm-hot")
    order = np.argsort(np.abs(rows - np.median(rows)))
    for n in order[:: max(1, len(order) // 8)]:
        x, y = columns[n] / both.shape[1] * box["width"], rows[n] / both.shape[0] * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_timeout(300)
        if hot.count():
            break
    hot.first.wait_for()
    assert "object" in first.box.locator(".vm-over").inner_text()
    assert first.box.locator(".vm-object.vm-hot").count() == 1
    page.mouse.move(5, 5)
    hot.first.wait_for(state="detached")
    shoot(page, "caption")


def test_tau_is_applied_at_once(first):
    first.press("Home", *["ArrowRight"] * 8)
    first.shows(8)
    lines, pixels = first.lines(0), first.pixels()
    readout = first.box.locator(".widget-slider", has_text="τ").locator(".widget-readout")

    def set_tau(tau: float) -> None:
        readout.fill(f"{tau:.2f}")
        readout.press("Enter")
        first.page.wait_for_function(
            "([box, tau]) => box.querySelector('.js-plotly-plot').layout.shapes.some(one => one.y0 === tau)",
            arg=[first.box.element_handle(), tau],
        )

    def union(of: list[dict]) -> set[int]:
        return next(set(one["x"]) for one in of if one["name"] == "union")

    set_tau(1)
    first.box.get_by_text(re.compile("re-fused in")).wait_for()
    assert first.eventually(lambda: union(lines) < union(first.lines(0)))
    assert 8 in union(first.lines(0))  # agreement that is not perfect is none any more
    assert first.differs(pixels)
    set_tau(0.7)
    assert first.becomes(pixels)
    assert first.eventually(lambda: first.lines(0) == lines)


def test_a_click_in_a_plot_moves_the_frame_and_the_frame_moves_the_line(first):
    first.press("Home")
    first.shows(0)
    plot = first.box.locator(".js-plotly-plot").nth(0)
    plot.scroll_into_view_if_needed()
    place = plot.locator(".nsewdrag").first.bounding_box()
    span = plot.evaluate("plot => plot.layout.xaxis.range")
    near = "([view, frame]) => Math.abs(view.dataset.frame - frame) <= 1"
    for frame in (20, 40):  # hovering is enough to look
        x = place["x"] + place["width"] * (frame - span[0]) / (span[1] - span[0])
        first.page.mouse.move(x, place["y"] + place["height"] / 2)
        first.page.wait_for_function(near, arg=[first.view.element_handle(), frame])
    first.page.mouse.move(5, 5)
    first.shows(0)  # and is given back
    first.page.mouse.move(x, place["y"] + place["height"] / 2)
    first.page.mouse.down()
    first.page.mouse.up()
    first.page.wait_for_function(near, arg=[first.view.element_handle(), 40])
    first.page.mouse.move(5, 5)
    first.page.wait_for_function(near, arg=[first.view.element_handle(), 40])  # a click stays
    first.scroll_up()
    first.press("End")
    first.box.locator(".vm-now[data-frame='59']").nth(2).wait_for()
    line = first.box.locator(".vm-now").first.bounding_box()
    x = place["x"] + place["width"] * (59 - span[0]) / (span[1] - span[0])
    assert abs(line["x"] + line["width"] / 2 - x) < 3
    assert first.frame == 59


def test_a_click_in_the_frame_corrects_and_is_undone(first, folder):
    log = results(folder) / "result" / "corrections.jsonl"
    before = len(log.read_text().splitlines())
    first.press("Home", *["ArrowRight"] * 6)
    first.shows(6)
    plain = first.pixels()
    first.correct.click()
    first.click_at(200.5, 120.5, 320, 240)
    first.says("frames re-propagated")
    record = json.loads(log.read_text().splitlines()[-1])
    assert record["action"] == "add_point" and record["frame"] == 6
    assert abs(record["x"] - 200.5) <= 1 and abs(record["y"] - 120.5) <= 1
    assert first.differs(plain)
    assert first.eventually(lambda: "corrected" in first.view.inner_text())
    shoot(first.page, "corrected")
    first.box.get_by_role("button", name="undo").click()
    first.says("undo")
    assert first.becomes(plain)
    assert len(log.read_text().splitlines()) == before + 2
    first.box.get_by_role("button", name="navigate", exact=True).click()


def test_a_box_strokes_and_a_dragged_point_correct_and_are_undone(first, page, folder):
    saved = results(folder) / "result"
    with Inspection(saved) as one:
        (left, top, right, bottom), size = one.boxes(6)[1], {"width": one.width, "height": one.height}
        point = next(each for each in one.points(15) if each.object == 1)
    records = lambda: [json.loads(line) for line in (saved / "corrections.jsonl").read_text().splitlines()]  # noqa: E731
    before, middle = len(records()), ((left + right) / 2, (top + bottom) / 2)
    first.box.locator(".vm-stack[data-drawn]").wait_for()
    first.pictures_at_rest()  # plots leave the picture less room
    first.press("Home", *["ArrowRight"] * 6)
    first.shows(6)
    plain = first.pixels()
    first.press("1")
    first.choose("q", "box")
    first.drag((left - 2, top - 2), (right + 2, bottom + 2), **size)
    first.says("box added")
    assert records()[-1]["box"] == pytest.approx([left - 2, top - 2, right + 2, bottom + 2], abs=1)
    assert first.differs(plain)
    shoot(page, "box")
    boxed = first.pixels()
    first.press(")", ")")
    first.choose("P", "brush")
    first.drag(middle, (middle[0], bottom + 25), (right + 30, bottom + 25), **size)
    first.says("strokes for .* on frame 6")
    assert first.differs(boxed) and len(records()) == before + 1  # seen, and not followed yet
    page.mouse.move(*(first.picture.bounding_box()[edge] + 60 for edge in "xy"))
    shoot(page, "brush")
    page.keyboard.press("Enter")
    first.says("mask edited")
    area = records()[-1]["area"]
    first.choose("R", "erase")
    first.drag(middle, (left, middle[1]), **size)
    first.says("strokes for .* on frame 6")
    page.keyboard.press("Enter")
    assert first.eventually(lambda: records()[-1].get("area", area) < area)
    first.press("]")
    first.shows(15)
    first.choose("p", "add")
    box = first.picture.bounding_box()
    page.mouse.move(
        box["x"] + point.x / size["width"] * box["width"], box["y"] + point.y / size["height"] * box["height"]
    )
    first.box.locator(".vm-grip").wait_for()
    first.drag((point.x, point.y), (point.x + 4, point.y + 3), **size)
    first.says("point moved")
    assert (records()[-1]["x"], records()[-1]["y"]) == pytest.approx((point.x + 4, point.y + 3), abs=1)
    shoot(page, "point_moved")
    for _ in range(4):
        count = len(records())
        first.press("z")
        assert first.eventually(lambda count=count: len(records()) == count + 1)
    first.press("Escape", "1", "Home", *["ArrowRight"] * 6)
    first.shows(6)
    assert first.becomes(plain)


def test_results_are_taken_away(first, folder):
    first.box.locator("select", has_text="tracks (CSV)").select_option("tracks (CSV)")
    first.box.get_by_role("button", name="export").click()
    first.says("wrote .*tracks_1.csv")
    assert (results(folder) / "exports" / "tracks_1.csv").read_text().startswith("frame,")


def test_ids_are_swapped_listed_and_given_back_and_tables_lead_to_frames(first, page):
    first.press("Home", *["ArrowRight"] * 6)
    first.shows(6)
    plain = first.pixels()
    first.press("Home")
    first.shows(0)
    first.page.wait_for_timeout(1000)  # the kernel knows of frame 0, and hears of the next frames together
    first.press(*["ArrowRight"] * 6, "w")
    first.says("object 1 and object 2 swapped from frame 6 on")
    assert first.differs(plain)
    corrections, frames = first.box.locator(".vm-table").nth(0), first.box.locator(".vm-table").nth(1)
    corrections.locator("summary").click()
    corrections.get_by_text("swapped from frame 6").wait_for()
    frames.locator("summary").click()
    frames.get_by_role("button", name="agreement").click()
    worst = frames.locator("tbody tr").first
    agreement = [float(text) for text in frames.locator("tbody tr td:nth-child(5)").all_inner_texts() if text != "–"]
    assert agreement == sorted(agreement) and len(agreement) > 20
    to = int(worst.get_attribute("data-frame"))
    worst.click()
    first.shows(to)
    first.box.get_by_role("button", name="1", exact=True).click()
    shoot(page, "tables")
    first.box.get_by_title("colour 7").click()
    first.says("object 1 has another colour")
    assert first.eventually(lambda: "rgb(0, 114, 178)" in first.box.locator(".vm-plate").first.get_attribute("style"))
    for words in ("coloured as number 7", "swapped from frame 6"):  # beside those of the notebook
        row = corrections.locator("tbody tr", has_text=words)
        row.get_by_role("button", name="revert").click()
        row.wait_for(state="detached")
    first.press("Home", *["ArrowRight"] * 6)
    first.shows(6)
    assert first.becomes(plain)
    corrections.locator("summary").click()
    frames.locator("summary").click()


TITLES = """box => [...box.querySelectorAll("button, select, input, [role=slider].noUi-handle")]
    .filter((one) => one.offsetParent && !one.closest(".vm-object, .vm-palette, .vm-table")).map((one) => {
        one.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        return [one.textContent || one.className, one.closest("[title]:not([title=''])")?.title ?? ""];
    })"""


def test_every_control_says_what_it_is_for_and_its_key_where_the_pointer_is_over_it(first):
    said = first.box.evaluate(TITLES)
    assert len(said) > 40
    without = [one for one in said if not re.search(r"\S  \S+|\(.+\)$", one[1])]
    assert without == []


def test_two_results_are_compared(page):
    compared = Inspector(page, 1)
    compared.view.wait_for()
    compared.scroll_up()
    compared.press("End")
    compared.shows(59)
    compared.box.get_by_role("button", name="next difference").click()
    page.wait_for_function("view => Number(view.dataset.frame) < 20", arg=compared.view.element_handle())
    assert re.search(r"J&F left [01]\.\d\d · J&F right", compared.box.inner_text())
    shoot(page, "compare")


def test_compared_pictures_are_stacked_swiped_and_laid_over_each_other_at_full_size(page):
    compared = Inspector(page, 1)
    compared.scroll_up()
    beside = compared.pixels().shape
    for layout, name in (("stack", "upper"), ("swipe", "left"), ("overlay", "first")):
        compared.after(lambda: compared.press("V"))
        compared.press("Home")
        page.wait_for_function(
            "([view, layout, name]) => view.dataset.layout === layout && view.innerText.includes(`${name}: key frame`)",
            arg=[compared.view.element_handle(), layout, name],
        )
        assert compared.eventually(lambda: compared.pixels().shape[1] > 1.3 * beside[1] / 2)  # each has all the room
        shoot(page, f"compare_{layout}")
    compared.press("V")
    page.wait_for_function("view => view.dataset.layout === 'side'", arg=compared.view.element_handle())


# A person waits for seconds of work; here the button is pressed as soon as it can be, however quick the machine is.
PRESS_WHEN_SHOWN = """button => {
    const look = () => button.offsetParent ? button.click() : requestAnimationFrame(look);
    look();
}"""


def test_a_running_correction_is_cancelled_and_nothing_is_changed(first, folder):
    log = results(folder) / "result" / "corrections.jsonl"
    before = log.read_text()
    first.press("Home", "]", "]")
    first.shows(30)
    plain = first.pixels()
    first.box.locator("button", has_text="cancel").first.evaluate(PRESS_WHEN_SHOWN)
    first.box.get_by_role("button", name="reject key frame").click()
    first.says("cancelled: nothing was changed")
    assert first.becomes(plain) and log.read_text() == before
    first.box.get_by_role("button", name="cancel").wait_for(state="hidden")


def test_another_sentence_is_asked_and_the_first_comes_back(first, folder):
    saved = (results(folder) / "result" / "run.json").read_bytes()
    first.box.get_by_placeholder("the blue square").fill("the red star")
    first.box.get_by_role("button", name="ask").click()
    first.says("“the red star”: [1-9] object")
    first.box.locator(".vm-answer").get_by_text("red star").first.wait_for()
    history = first.box.locator("select", has_text="the red star")
    history.select_option("the circle")
    first.says("“the circle”: 2 objects")
    first.box.locator(".vm-answer").get_by_text(re.compile("circle")).first.wait_for()
    assert (results(folder) / "result" / "run.json").read_bytes() == saved


def marks_are_legible(inspector: Inspector, page, dark: bool) -> None:
    """Wait until the marks of key frames on the time line are white, or black."""
    page.wait_for_function(
        "([line, dark]) => line.getContext('2d').getImageData(0, 0, line.width, line.height).data.some("
        "(value, at, all) => at % 4 === 0 && all[at + 3] > 200 && (dark ? value > 230 : value < 40))",
        arg=[inspector.box.locator(".vm-line").element_handle(), dark],
    )


def test_it_can_be_read_in_the_dark_and_enlarged(first, page):
    execute(page, "apputils:change-theme", {"theme": "JupyterLab Dark"})
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_function(
        "box => { const text = box.querySelector('.js-plotly-plot .xtick text');"
        " return text && getComputedStyle(text).fill.match(/\\d+/g).slice(0, 3).every(value => value > 150); }",
        arg=first.box.element_handle(),
    )
    marks_are_legible(first, page, dark=True)
    first.scroll_up()
    shoot(page, "dark")
    for theme in ("Light", "Dark", "Light"):  # the page is hidden meanwhile, sometimes too shortly to be told
        execute(page, "apputils:change-theme", {"theme": f"JupyterLab {theme}"})
        page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(theme == "Light").lower()
        )
        marks_are_legible(first, page, dark=theme == "Dark")
    zoomed = {"width": 1000, "height": 833}  # 1500 × 1250 pixels at a zoom of 150 %
    page.set_viewport_size(zoomed)
    metrics = {**zoomed, "deviceScaleFactor": 1.5, "mobile": False}
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", metrics)
    page.wait_for_function(
        "picture => { const { left, right } = picture.getBoundingClientRect();"
        " return devicePixelRatio === 1.5 && left >= 0 && right <= 1000; }",
        arg=first.picture.element_handle(),
    )
    line = first.box.locator(".vm-line").element_handle()  # drawn anew for the finer pixels, or its letters blur
    page.wait_for_function("line => line.width >= 1.45 * line.clientWidth", arg=line)
    page.wait_for_function(  # painted for the finer pixels, not enlarged
        "picture => picture.width >= 1.45 * picture.clientWidth", arg=first.picture.element_handle()
    )
    first.scroll_up()
    shoot(page, "zoom_150")


def test_after_the_kernel_was_restarted_one_note_over_each_inspector_says_what_to_do(first, page):
    assert page.get_by_role("alert").count() == 0
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    note = first.box.get_by_role("alert")
    note.wait_for()
    assert "Run this cell again" in note.inner_text() and "Corrections are kept in" in note.inner_text()
    notes = page.locator(".vm-gone")  # also over those that JupyterLab does not show for now
    assert first.eventually(lambda: notes.count() == page.locator(".vm-inspector").count())
    shoot(page, "restarted")


def test_nothing_went_wrong_in_the_page(page):
    assert page.errors == []
