"""The inspector's scripts in a page of their own, with a stand-in for the kernel: a browser, but no server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench.lab import chromium, why_not
from inspector_results import made_result

import videomolmo.inspector
import videomolmo.inspector.canvas
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.plots import agreement_figure
from videomolmo.inspector.render import encode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"no browser to try it in: {why_not()}"),
]
SCRIPTS = Path(videomolmo.inspector.__file__).parent
KERNEL = """
// In place of a kernel: keeps what a widget sends, and lets a test answer.
globalThis.kernel = (traits) => {
    const heard = {}, said = [];
    return {
        said, traits,
        get: (name) => traits[name],
        on: (name, act) => (heard[name] ??= new Set()).add(act),
        off: (name, act) => heard[name]?.delete(act),
        send: (content) => said.push(content),
        change: (what = "change") => [...heard[what] ?? []].forEach((act) => act()),
        answer: (content, ...buffers) => [...heard["msg:custom"] ?? []].forEach((act) => act(content, buffers)),
    };
};
globalThis.show = async (source, model) => {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: widget } = await import(address);
    const el = document.body.appendChild(document.createElement("div"));
    el.style.width = "600px";
    return { el, model, close: await widget.render({ model, el }) };
};
"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser) -> Iterator:
    made = browser.new_page()
    made.errors = []
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    made.add_script_tag(content=KERNEL)
    yield made
    assert made.errors == []
    made.close()


LIBRARY = """globalThis.Plotly = {
    newPlot: async (plot, data, layout) => Object.assign(plot, { layout, data, on() {} }),
    react: async () => {}, purge() {}, Plots: { resize() {} },
};"""
FIGURE = '{"data": [], "layout": {"height": 100, "shapes": []}}'
OPEN_PLOTS = "async ([name, source, figure]) => { globalThis[name] = await show(source, kernel({figures: [figure]})); }"
ASKED = "one => one.model.said.filter(({kind}) => kind === 'library').length"


def test_plots_appear_although_the_kernel_was_restarted_before_it_sent_the_library(page):
    page.clock.install()
    source = (SCRIPTS / "plots.js").read_text()
    page.evaluate(OPEN_PLOTS, ["before", source, FIGURE])
    assert page.evaluate(f"({ASKED})(before)") == 1  # and no answer: this kernel is gone
    page.evaluate(OPEN_PLOTS, ["torn", source, FIGURE])
    page.evaluate("() => { torn.model.send = () => { throw new Error('closed'); }; }")
    page.evaluate(OPEN_PLOTS, ["after", source, FIGURE])
    page.evaluate(OPEN_PLOTS, ["beside", source, FIGURE])
    page.clock.run_for(30_000)
    asked = [page.evaluate(f"({ASKED})({name})") for name in ("after", "beside")]
    assert 1 <= sum(asked) <= 4, "one library for the page, without a storm of questions"
    answer = "([name, text]) => globalThis[name].model.answer({kind: 'library'}, new TextEncoder().encode(text))"
    page.evaluate(answer, ["after" if asked[0] else "beside", "throw new Error('torn');"])
    page.clock.run_for(60_000)
    assert [page.errors.pop()] == ["torn"]  # what came was no library
    assert sum(page.evaluate(f"({ASKED})({name})") for name in ("after", "beside")) > sum(asked)
    page.evaluate(answer, ["after", LIBRARY])
    page.clock.run_for(1000)
    for name in ("after", "beside"):
        page.wait_for_function("one => one.el.dataset.drawn === '1'", arg=page.evaluate_handle(name))
    number = page.evaluate(f"({ASKED})(after)")
    page.evaluate(OPEN_PLOTS, ["late", source, FIGURE])
    page.clock.run_for(60_000)
    page.wait_for_function("late.el.dataset.drawn === '1'")
    assert page.evaluate(f"({ASKED})(late)") == 0 and page.evaluate(f"({ASKED})(after)") == number


CANVAS = "async ([source, traits]) => { globalThis.shown = await show(source, kernel(traits)); }"
INK = """([top, bottom]) => { // columns of the time line in which anything is drawn between two heights
    const line = document.querySelector(".vm-line"), dense = line.width / line.clientWidth;
    const height = Math.round((bottom - top) * dense);
    const { data, width } = line.getContext("2d").getImageData(0, Math.round(top * dense), line.width, height);
    const inked = new Set();
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 60) inked.add(Math.round(at / 4 % width / dense));
    return { inked: [...inked].sort((a, b) => a - b), width: line.clientWidth, height: line.clientHeight };
}"""
TRAITS = {"frames": 101, "fps": 10, "marks": [[0, "found"], [50, "found"]], "marks_beside": [], "sizes": [[48, 64]],
          "mode": "navigate", "titles": [],
          "captions": [], "repropagated": [], "pending": [], "shortcuts": [], "tips": {}, "pen": [6, "#00ff00"],
          "arranged": "side", "kept_in": ""}  # fmt: skip


def open_canvas(page, **traits) -> None:
    page.add_style_tag(content=(SCRIPTS / "canvas.css").read_text())
    page.evaluate(CANVAS, [videomolmo.inspector.canvas.FrameCanvas._esm, TRAITS | traits])
    page.evaluate("shown.el.querySelector('.vm-view').style.width = '600px'")
    page.wait_for_function("document.querySelector('.vm-line').width > 300")


def test_key_frames_of_the_second_result_stand_below_those_of_the_first(page):
    open_canvas(page, marks_beside=[[25, "absent"]])
    below = page.evaluate(INK, [34, 48])
    middle = 8 + 0.25 * (below["width"] - 16)
    assert below["height"] == 48 and below["inked"] and all(abs(x - middle) < 9 for x in below["inked"])
    above = page.evaluate(INK, [20, 31])["inked"]
    assert above and not any(abs(x - middle) < 9 for x in above)
    page.locator(".vm-view").focus()
    page.keyboard.press("]")
    assert page.evaluate("shown.model.said.filter(({kind}) => kind === 'go').at(-1).frame") == 25
    page.keyboard.press("]")
    page.wait_for_function("shown.model.said.filter(({kind}) => kind === 'go').at(-1).frame === 50")


def test_the_time_line_of_one_result_has_one_row_and_is_dragged_along(page):
    open_canvas(page)
    assert page.evaluate(INK, [20, 33])["height"] == 34
    box = page.locator(".vm-line").bounding_box()
    page.mouse.click(box["x"] + 8 + 0.8 * (box["width"] - 16), box["y"] + 12)
    page.wait_for_function("shown.model.said.filter(({kind}) => kind === 'go').at(-1)?.frame === 80")


PAINTS = """([png]) => { // the stand-in paints: every picture some milliseconds after it was asked for
    const picture = Uint8Array.from(atob(png), (one) => one.charCodeAt(0)), { model } = shown;
    model.drawn = [];
    document.addEventListener("vm-frame", ({ detail }) => model.drawn.push(detail));
    let free = Promise.resolve();
    model.send = (content) => {
        model.said.push(content);
        if (content.kind !== "go") return;
        const { view, frame, pictures: frames } = content, types = frames.map(() => "image/png");
        const captions = frames.map((one) => `frame ${one}`), more = { moved: false, age: 0, ms: 1, types, captions };
        free = free.then(() => new Promise((done) => { setTimeout(done, 3 * frames.length); })).then(() => {
            model.answer({ kind: "pictures", view, frame, frames, ...more }, ...frames.map(() => picture));
        });
    };
}"""
HOLD = """async ([count]) => { // presses of one key, one every 4 ms
    const view = document.querySelector(".vm-view"), key = { key: "ArrowRight", repeat: true, bubbles: true };
    for (let n = 0; Number(view.dataset.frame) < count && n < 2500; n++) {
        view.dispatchEvent(new KeyboardEvent("keydown", key));
        await new Promise((resolve) => { setTimeout(resolve, 4); });
    }
    return Number(view.dataset.frame);
}"""


def _rest(page) -> None:
    """Wait until the browser has asked for nothing for half a second."""
    before, said = -1, "shown.model.said.length"
    while (number := page.evaluate(said)) != before:
        before = number
        page.wait_for_timeout(500)


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_a_held_key_shows_every_frame_and_asks_for_many_at_once(page, size):
    open_canvas(page, marks=[[0, "found"], [55, "found"]])
    page.evaluate(PAINTS, [base64.b64encode(encode(np.zeros((*size, 3), np.uint8), "png")[0]).decode()])
    view = page.locator(".vm-view")
    view.focus()
    view.press("Home")
    for keys in (["]", "Home"], ["Home"]):  # first frames after 55 are kept already, then what there is room for
        for key in keys:
            view.press(key)
            _rest(page)
        page.wait_for_selector(".vm-view[data-frame='0']")
        page.evaluate("shown.model.said.length = shown.model.drawn.length = 0")
        assert page.evaluate(HOLD, [100]) == 100
        assert page.evaluate("shown.model.drawn") == list(range(1, 101))
        asked = page.evaluate("shown.model.said.map(({pictures}) => pictures.length)")
        assert len(asked) <= 16 and asked.count(1) <= 3, asked
        page.wait_for_function("document.querySelector('.vm-caption').innerText === 'frame 100'")
        assert view.get_attribute("aria-valuetext") == "frame 100"
        page.wait_for_function("shown.model.said.at(-1).frame === 100")  # the kernel learns where the user is


PIXEL = base64.b64encode(encode(np.zeros((48, 64, 3), np.uint8), "png")[0]).decode()


CAPTION = [["A red ", []], ["circle <b>", [[1, "#e69f00", "#000000"]]], [" and ", []],
           ["both", [[1, "#e69f00", "#000000"], [2, "#56b4e9", "#000000"]]]]  # fmt: skip
SAID = "kind => shown.model.said.filter((one) => one.kind === kind).at(-1)"


def test_phrases_of_a_caption_are_text_that_keyboard_and_pointer_reach(page):
    open_canvas(page, captions=[CAPTION])
    page.evaluate(PAINTS, [PIXEL])
    line = page.locator(".vm-sentence")
    assert line.inner_text() == "A red circle <b>1 and both12" and line.locator("b").count() == 0
    page.locator(".vm-view").focus()
    page.keyboard.press("Tab")
    page.wait_for_function(f"({SAID})('alone')?.objects?.join() === '1'")
    page.keyboard.press("Tab")
    page.wait_for_function(f"({SAID})('alone').objects?.join() === '1,2'")
    page.keyboard.press("ArrowRight")  # keys go on from there
    page.wait_for_selector(".vm-view[data-frame='1']")
    page.locator(".vm-phrase").nth(3).hover()
    page.wait_for_function(f"({SAID})('alone').objects?.join() === '2'")
    assert page.locator(".vm-phrase.vm-hot").all_inner_texts() == ["both", "2"]
    page.mouse.move(1, 1)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_function(f"({SAID})('alone').objects === undefined")
    view = page.evaluate("shown.model.said.find(({kind}) => kind === 'ready').view")
    place = page.locator(".vm-picture").bounding_box()
    page.mouse.move(place["x"] + 20, place["y"] + 20)
    page.wait_for_function(f"({SAID})('hover')")
    answer = {"kind": "over", "view": view, "pane": 0, "objects": [2], "names": ["the <i>bar"]}
    page.evaluate("answer => shown.model.answer(answer)", answer)
    assert page.locator(".vm-phrase.vm-hot").all_inner_texts() == ["both", "2"]
    assert page.locator(".vm-over").inner_text().startswith("the <i>bar · x ")


def test_the_picture_is_enlarged_and_moved_and_clicks_stay_where_they_are(page):
    open_canvas(page)
    page.evaluate(PAINTS, [PIXEL])
    view, picture = page.locator(".vm-view"), page.locator(".vm-picture")
    view.focus()
    view.press("Home")
    page.wait_for_selector(".vm-view[data-frame='0']")
    whole = picture.bounding_box()
    assert (whole["width"], whole["height"]) == (64, 48)
    for _ in range(3):
        view.press("+")
    page.wait_for_function(f"({SAID})('size')?.sharp === 4")
    glass, large = page.locator(".vm-glass").bounding_box(), picture.bounding_box()
    assert glass == whole and abs(large["width"] / whole["width"] - 1.5**3) < 0.01
    x, y = glass["x"] + 40, glass["y"] + 30
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 12, y - 9, steps=3)
    page.mouse.up()
    moved = picture.bounding_box()
    assert abs(moved["x"] - large["x"] + 12) < 1 and abs(moved["y"] - large["y"] + 9) < 1
    assert page.evaluate(f"({SAID})('click')") is None  # it was no click
    page.mouse.click(x, y)
    clicked = page.evaluate(f"({SAID})('click')")
    assert abs(clicked["x"] - (x - moved["x"]) / 1.5**3) < 0.5 and abs(clicked["y"] - (y - moved["y"]) / 1.5**3) < 0.5
    view.press("0")
    assert picture.bounding_box() == whole
    page.evaluate("shown.model.traits.pending = [[0, 32, 24, true], [5, 1, 1, true]]; shown.model.change()")
    inked = "([x, y]) => document.querySelector('.vm-picture').getContext('2d').getImageData(x, y, 1, 1).data[0] > 200"
    assert page.evaluate(inked, [32, 24]) and not page.evaluate(inked, [1, 1])  # the point is seen before its masks


def test_moments_stand_below_the_line_at_their_times_and_lead_there(page):
    moments = [[25, [1], "#e69f00", "#000000", "2.5 s <b>"], [75, [2, 3], "#56b4e9", "#000000", "7.5 s"]]
    open_canvas(page, moments=moments, moments_beside=[[50, [1], "#e69f00", "#000000", "5.0 s"]])
    page.evaluate(PAINTS, [PIXEL])
    line, spots = page.locator(".vm-line").bounding_box(), page.locator(".vm-moment")
    assert spots.all_inner_texts() == ["1", "2 3", "1"] and spots.nth(0).get_attribute("title") == "2.5 s <b>"
    boxes = [spots.nth(n).bounding_box() for n in range(3)]
    for box, share in zip(boxes, (0.25, 0.75, 0.5), strict=True):
        assert abs(box["x"] + box["width"] / 2 - line["x"] - 8 - share * (line["width"] - 16)) < 2
        assert box["y"] >= line["y"] + line["height"]
    assert boxes[2]["y"] > boxes[0]["y"] + 10  # those of the second picture have a row of their own
    spots.nth(1).click()
    page.wait_for_selector(".vm-view[data-frame='75']")
    assert "vm-here" in spots.nth(1).get_attribute("class") and "vm-here" not in spots.nth(0).get_attribute("class")
    assert spots.nth(1).evaluate("one => one.scrollWidth <= one.clientWidth + 1")  # also where the user is
    for key, frame in ((",", 50), (",", 25), (",", 25), (".", 50)):
        page.keyboard.press(key)
        page.wait_for_selector(f".vm-view[data-frame='{frame}']")
    assert "① pointed at" in page.locator(".vm-legend").inner_text()
    page.evaluate("Object.assign(shown.model.traits, {moments: [], moments_beside: []}); shown.model.change()")
    assert spots.count() == 0 and not page.locator(".vm-moments").first.is_visible()
    assert "pointed at" not in page.locator(".vm-legend").inner_text()


def drag(page, *places) -> None:
    """Press at a place of the picture, in its own pixels, go through the others, and let go."""
    box = page.locator(".vm-picture").bounding_box()
    for n, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
        if not n:
            page.mouse.down()
    page.mouse.up()


SKETCHED = """([x, y]) => { // whether anything is drawn there by hand, on screens of any density
    const sketch = document.querySelector(".vm-sketch"), dense = sketch.width / sketch.clientWidth;
    return sketch.getContext("2d").getImageData(x * dense, y * dense, 1, 1).data[3] > 0;
}"""


def shown_at_first(page, **traits) -> None:
    open_canvas(page, **traits)
    page.evaluate(PAINTS, [PIXEL])
    page.locator(".vm-view").focus()
    page.keyboard.press("Home")
    page.wait_for_selector(".vm-view[data-frame='0']")


def test_a_rectangle_and_a_stroke_are_drawn_and_told_when_they_end(page):
    shown_at_first(page, mode="box")
    drag(page, (10, 8), (30, 40), (50, 30))
    said = page.evaluate(f"({SAID})('drawn')")
    assert said["what"] == "box" and said["frame"] == said["pane"] == 0
    assert [said["points"][0], said["points"][-1]] == [[10, 8], [50, 30]]
    assert page.evaluate(SKETCHED, [50, 20]) and not page.evaluate(SKETCHED, [30, 20])  # an edge of it; nothing within
    page.evaluate("shown.model.traits.mode = 'brush'; shown.model.change()")
    assert "drag: add to the mask" in page.locator(".vm-legend").inner_text()
    page.keyboard.press("+")
    place = page.locator(".vm-picture").bounding_box()
    drag(page, (30, 30), (60, 30), (60, 90))  # enlarged by 1.5: beyond the lower edge, and not moved
    said = page.evaluate(f"({SAID})('drawn')")
    assert said["what"] == "stroke" and said["points"][0] == pytest.approx([20, 20], abs=0.4)
    assert (
        said["points"][-1] == pytest.approx([40, 60], abs=0.4) and page.locator(".vm-picture").bounding_box() == place
    )
    page.mouse.move(place["x"] + 40, place["y"] + 40)
    page.mouse.down(button="middle")
    page.mouse.move(place["x"] + 40, place["y"] + 30)
    page.mouse.up(button="middle")
    assert page.locator(".vm-picture").bounding_box()["y"] < place["y"]  # which still moves it


def test_a_point_is_dragged_where_the_kernel_says_that_there_is_one(page):
    shown_at_first(page, mode="add")
    view = page.evaluate("shown.model.said.find(({kind}) => kind === 'ready').view")
    box = page.locator(".vm-picture").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.wait_for_function(f"({SAID})('hover')")
    answer = {"kind": "over", "view": view, "pane": 0, "objects": [], "names": [], "grip": [21, 21, 4]}
    page.evaluate("answer => shown.model.answer(answer)", answer)
    page.wait_for_selector(".vm-grip")
    drag(page, (20, 20), (40, 30))
    said = page.evaluate(f"({SAID})('drawn')")
    assert said["what"] == "point" and said["points"] == [[21, 21], [40, 30]]
    drag(page, (40, 30), (50, 40))  # no point there: a click as ever
    assert page.evaluate("shown.model.said.filter(({kind}) => kind === 'drawn').length") == 1
    assert page.evaluate(f"({SAID})('click').x") == 50
    page.evaluate("shown.model.traits.pending = [[0, 10, 10, 30, 40]]; shown.model.change()")
    inked = "([x, y]) => document.querySelector('.vm-picture').getContext('2d').getImageData(x, y, 1, 1).data[0] > 90"
    assert any(page.evaluate(inked, [x, 10]) for x in range(12, 28)) and not page.evaluate(inked, [20, 25])


PAIR = """([red, blue]) => { // every frame is two pictures
    const bytes = (png) => Uint8Array.from(atob(png), (one) => one.charCodeAt(0));
    const { model } = shown, [one, other] = [red, blue].map(bytes);
    model.set = (name, value) => { model.traits[name] = value; };
    model.save_changes = () => model.change();
    model.send = (content) => {
        model.said.push(content);
        if (content.kind !== "go") return;
        const { view, frame, pictures: frames } = content, types = frames.flatMap(() => ["image/png", "image/png"]);
        const more = { moved: false, age: 0, ms: 1, types, captions: frames.map(String) };
        model.answer({ kind: "pictures", view, frame, frames, ...more }, ...frames.flatMap(() => [one, other]));
    };
}"""
PAINTED = "([x, y]) => Array.from(document.querySelector('.vm-picture').getContext('2d').getImageData(x, y, 1, 1).data)"


def test_two_pictures_stand_beside_or_above_each_other_or_are_swiped_and_faded(page):
    open_canvas(page, sizes=[[48, 64], [48, 64]], titles=[["one", ""], ["other", ""]])
    plain = [np.full((48, 64, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200))]
    page.evaluate(PAIR, [base64.b64encode(encode(one, "png")[0]).decode() for one in plain])
    view, picture = page.locator(".vm-view"), page.locator(".vm-picture")
    view.focus()
    view.press("Home")
    page.wait_for_selector(".vm-view[data-frame='0']")
    size = lambda: (picture.bounding_box()["width"], picture.bounding_box()["height"])  # noqa: E731
    red, blue = [200, 0, 0, 255], [0, 0, 200, 255]
    assert size() == (134, 48) and page.evaluate(PAINTED, [100, 20]) == blue
    view.press("V")
    assert size() == (64, 102) and page.evaluate(PAINTED, [20, 80]) == blue and "lower" in view.inner_text()
    page.mouse.click(picture.bounding_box()["x"] + 20, picture.bounding_box()["y"] + 64)
    said = page.evaluate(f"({SAID})('click')")
    assert said["pane"] == 1 and (said["x"], said["y"]) == pytest.approx((20, 10), abs=0.1)
    view.press("V")
    assert size() == (64, 48) and page.evaluate(PAINTED, [20, 20]) == red and page.evaluate(PAINTED, [44, 20]) == blue
    drag(page, (32, 24), (50, 24))  # the line between both
    assert page.evaluate(PAINTED, [44, 20]) == red and page.evaluate(PAINTED, [58, 20]) == blue
    view.press("F")
    assert page.evaluate(PAINTED, [5, 20]) == blue  # the other alone
    page.locator(".vm-layout").select_option("overlay")
    page.locator(".vm-part input").fill("50")
    assert page.evaluate(PAINTED, [44, 20])[:3] == pytest.approx([100, 0, 100], abs=2)
    assert page.evaluate("shown.model.said.filter(({kind}) => kind === 'click').length") == 1  # a dragged line is none


def test_hints_are_there_until_they_are_put_away_and_the_legend_tells_what_occurs(page):
    open_canvas(page, marks=[[0, "found"], [50, "dropped"]], repropagated=[[0, 50]], shortcuts=["x"])
    legend, lines = page.locator(".vm-legend"), page.locator(".vm-hints")
    assert "▲ found" in legend.inner_text() and "– rejected" in legend.inner_text() and "△" not in legend.inner_text()
    assert "▬ re-propagated" in legend.inner_text() and lines.is_visible()
    page.locator(".vm-view").focus()
    page.keyboard.press("?")
    assert not lines.is_visible()
    page.keyboard.press("x")
    assert page.evaluate(f"({SAID})('key').key") == "x"
    page.keyboard.press("q")
    page.keyboard.press("Control+x")
    assert page.evaluate("shown.model.said.filter(({kind}) => kind === 'key').length") == 1


def test_objects_are_a_list_with_all_none_and_solo(page):
    rows = [[n, f"<i>thing {n}", "#e69f00", "#000000"] for n in range(1, 13)]
    source = "".join((SCRIPTS / name).read_text() for name in ("element.js", "objects.js"))
    page.add_style_tag(content=(SCRIPTS / "canvas.css").read_text())
    page.evaluate(CANVAS, [source, {"rows": rows, "hidden": [], "more": "and 3 more"}])
    page.evaluate("""() => {
        shown.model.set = (name, value) => { shown.model.traits[name] = value; };
        shown.model.save_changes = () => {};
    }""")
    hidden = lambda: page.evaluate("shown.model.traits.hidden")  # noqa: E731
    lines = page.locator(".vm-object")
    assert lines.count() == 12 and page.locator(".vm-objects-list").bounding_box()["height"] <= 190  # it scrolls
    assert lines.nth(2).locator(".vm-name").input_value() == "<i>thing 3"
    lines.nth(2).get_by_text("solo").click()
    assert hidden() == [n for n in range(1, 13) if n != 3] and page.get_by_text("1 of 12 shown").is_visible()
    lines.nth(2).get_by_text("solo").click()
    assert hidden() == []
    page.get_by_text("none", exact=True).click()
    assert hidden() == list(range(1, 13))
    lines.nth(0).locator("[type=checkbox]").check()
    assert hidden() == list(range(2, 13))
    page.get_by_text("all", exact=True).click()
    name = lines.nth(1).locator(".vm-name")
    name.fill("a cup")
    name.press("Escape")
    assert name.input_value() == "<i>thing 2" and not page.evaluate("shown.model.said.length")
    name.fill("the cup")
    name.press("Enter")
    assert page.evaluate("shown.model.said") == [{"kind": "name", "id": 2, "text": "the cup"}]
    assert name.input_value() == "<i>thing 2"  # until it is kept
    lines.nth(2).locator(".vm-name").fill("half a na")
    page.evaluate("rows => { shown.model.traits.rows = rows; shown.model.change('change:rows'); }",
                  [[n, "the cup" if n == 2 else name, *colours] for n, name, *colours in rows])  # fmt: skip
    assert name.input_value() == "the cup" and lines.nth(2).locator(".vm-name").input_value() == "half a na"


def test_playing_goes_on_from_where_the_user_goes(page):
    open_canvas(page)
    page.evaluate(PAINTS, [PIXEL])
    view, box = page.locator(".vm-view"), page.locator(".vm-line").bounding_box()
    view.focus()
    view.press("Space")
    page.wait_for_function("Number(document.querySelector('.vm-view').dataset.frame) >= 2")
    page.mouse.click(box["x"] + 8 + 0.6 * (box["width"] - 16), box["y"] + 12)
    page.wait_for_function("Number(document.querySelector('.vm-view').dataset.frame) >= 62")
    page.evaluate("shown.model.traits.frames = 40; shown.model.change()")  # of another result
    page.wait_for_function("document.querySelector('.vm-button[aria-label^=play]').textContent === '▶'")


def test_a_lost_kernel_is_said_over_all_of_it_once_and_its_keys_scroll_nothing(page):
    open_canvas(page, kept_in="Corrections are kept in results/<b>clip.")
    page.evaluate("() => { shown.model.send = () => { throw new Error('Cannot send'); }; }")
    view = page.locator(".vm-view")
    view.focus()
    held = "new KeyboardEvent('keydown', { key: 'ArrowRight', cancelable: true })"
    assert page.evaluate(f"!document.querySelector('.vm-view').dispatchEvent({held})")
    note = page.get_by_role("alert")
    note.wait_for()
    assert "The kernel behind this inspector is gone" in note.inner_text() and "results/<b>clip" in note.inner_text()
    page.evaluate(f"document.querySelector('.vm-view').dispatchEvent({held})")
    assert note.count() == 1
    assert page.evaluate("document.querySelector('.vm-line').matches('[inert] *')")  # no control is left to be tried


def test_widgets_taken_off_a_kernel_that_restarts_say_so_without_being_touched(page):
    open_canvas(page)
    assert page.get_by_role("alert").count() == 0
    page.evaluate("document.querySelector('.vm-view').classList.add('jupyter-widgets-disconnected')")
    page.get_by_role("alert").wait_for()


def test_at_rest_few_frames_are_asked_for_so_that_a_leap_need_not_wait(page):
    open_canvas(page)
    page.evaluate(PAINTS, [PIXEL])
    view = page.locator(".vm-view")
    view.focus()
    view.press("End")
    page.wait_for_selector(".vm-view[data-frame='100']")
    view.press("Home")
    _rest(page)
    asked = page.evaluate("shown.model.said.map(({pictures}) => pictures?.length ?? 0)")
    assert max(asked) <= 4 and sum(asked) >= 20, asked


def test_a_click_on_a_run_of_decisions_goes_to_the_frame_under_the_mouse(page):
    from plotly.offline import get_plotlyjs

    inspection = Inspection(made_result(frames=400, every=200, width=500))
    figure = agreement_figure(inspection)
    bar = next(trace for trace in figure.data if (trace.meta or {}).get("decision") == "single direction")
    assert bar.mode == "lines" and bar.x[0] < 240 and bar.x[1] > 380  # one long run
    page.evaluate(OPEN_PLOTS, ["shown", (SCRIPTS / "plots.js").read_text(), figure.to_json()])
    page.evaluate("text => shown.model.answer({kind: 'library'}, new TextEncoder().encode(text))", get_plotlyjs())
    page.wait_for_function("shown.el.dataset.drawn === '1'")
    area = page.locator(".nsewdrag").nth(1).bounding_box()
    y = area["y"] + area["height"] / 2
    for frame in (300, 250):
        x = area["x"] + area["width"] * (frame + 0.5) / 400
        page.mouse.move(x, y)
        page.mouse.click(x, y)
        page.wait_for_function(
            "frame => Math.abs((shown.model.said.findLast(({kind}) => kind === 'go')?.frame ?? -99) - frame) <= 1",
            arg=frame,
        )


TABLE = {
    "title": "frames", "hint": "of frames",
    "columns": [["frame", "number", 0], ["IoU", "agreement", 2], ["name", "", 0]],
    "rows": [[0, 0.5, "b"], [1, None, "<b>a</b>"], [2, 0.25, "c"], [10, 0.75, "d"]], "frames": [0, 1, 2, None],
    "buttons": [["revert", "take back"]] * 4, "note": "all", "unfolded": False,
}  # fmt: skip
OPEN_TABLE = """async ([source, traits]) => {
    const whole = document.body.appendChild(document.createElement("div"));
    whole.className = "vm-inspector";
    globalThis.went = [];
    whole.addEventListener("vm-seek", ({ detail }) => went.push(detail.frame));
    const model = kernel(traits);
    Object.assign(model, { set: (name, value) => { traits[name] = value; }, save_changes: () => {} });
    globalThis.shown = await show(source, model);
    whole.append(shown.el);
}"""


def test_a_table_is_sorted_by_its_heads_and_a_row_leads_to_its_frame(page):
    page.evaluate(OPEN_TABLE, ["".join((SCRIPTS / name).read_text() for name in ("element.js", "tables.js")), TABLE])
    first = lambda: page.locator("tbody tr td:first-child").all_inner_texts()  # noqa: E731
    assert first() == [], "filled only when it is opened"
    page.locator("summary").click()
    page.wait_for_function("shown.model.traits.unfolded")
    assert first() == ["0", "1", "2", "10"]
    page.get_by_role("button", name="IoU").click()
    assert first() == ["2", "0", "10", "1"], "what is not known stands last"
    page.get_by_role("button", name="IoU").click()
    assert first() == ["10", "0", "2", "1"]
    page.get_by_role("button", name="frame").click()
    assert first() == ["0", "1", "2", "10"], "numbers, not texts"
    assert page.locator("tbody tr").nth(1).inner_text().split("\t")[1:3] == ["–", "<b>a</b>"]
    page.locator("tbody tr").nth(2).click()
    page.locator("tbody tr").nth(0).press("Enter")
    page.locator("tbody tr").nth(3).click()  # leads nowhere
    assert page.evaluate("went") == [2, 0]
    page.locator("tbody tr").nth(1).get_by_role("button", name="revert").click()
    assert page.evaluate("shown.model.said") == [{"kind": "press", "row": 1}] and page.evaluate("went") == [2, 0]
    show = (
        "frame => document.querySelector('.vm-inspector').dispatchEvent(new CustomEvent('vm-frame', {detail: frame}))"
    )
    page.evaluate(show, 2)
    assert page.locator("tr.vm-here td:first-child").all_inner_texts() == ["2"]
    assert "take back" in page.locator("td button").first.get_attribute("title")
