"""Captions in the inspector: phrases and their objects, live and on the static page. No browser."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from inspector_bench import made_result, opened
from PIL import Image

from videomolmo.inspector.compare import Differences
from videomolmo.inspector.inspection import Inspection, Piece
from videomolmo.inspector.render import swatch
from videomolmo.inspector.static_page import static_picture

TEXT = "A red circle passes <b>a bar</b>; both stay."
PHRASES = [(0, 12, 1), (20, 28, 2), (24, 40, 1), (34, 38, 1), (34, 38, 2)]


def captioned(objects: int = 2, phrases=PHRASES):
    result = made_result(objects)
    told = [{"start": start, "stop": stop, "object": number} for start, stop, number in phrases]
    result.config["caption"] = {"text": TEXT, "phrases": told}
    return result


@pytest.fixture
def look(tmp_path):
    return partial(opened, tmp_path / "exports")


def test_a_caption_is_cut_into_phrases_and_what_is_between_them():
    pieces = Inspection(captioned()).caption()
    assert "".join(piece.text for piece in pieces) == TEXT  # whatever overlaps
    named = [piece for piece in pieces if piece.objects]
    assert named == [Piece("A red circle", (1,)), Piece(TEXT[20:28], (2,)), Piece("both", (1, 2))]


def test_without_a_caption_the_sentence_names_all_objects():
    assert Inspection(made_result()).caption() == [Piece("the <i>square</i>", (1, 2))]
    assert Inspection(made_result(objects=0)).caption() == [Piece("the <i>square</i>", ())]


def test_phrases_come_to_the_browser_in_the_colours_of_their_objects(look):
    _, browser = look(captioned())
    (pieces,) = browser.canvas.captions
    assert pieces[0] == ["A red circle", [[1, *swatch(1)]]] and pieces[-2][1] == [[1, *swatch(1)], [2, *swatch(2)]]
    assert ["", []] not in pieces and "<b>" in pieces[2][0]  # text, which the browser's half never takes for HTML


def test_over_a_phrase_its_masks_are_shown_alone(look):
    inspector, browser = look(captioned(), layers=["forward", "backward"])
    browser.go(2)
    before = browser.picture
    browser.tell(kind="alone", pane=0, objects=[2])
    alone = browser.picture
    (shown,) = inspector.state.painted
    assert shown.objects == (2,) and shown.layers == ("fused",) and not shown.points and shown.opacity >= 0.5
    assert not np.array_equal(alone, before) and inspector.state.look.layers == ("forward", "backward")
    browser.go(3)
    assert inspector.state.painted[0].objects == (2,)  # while the frame moves
    browser.tell(kind="alone")
    browser.go(2)
    assert np.array_equal(browser.picture, before)


def test_what_is_under_the_pointer_is_named_the_smallest_first(look):
    inspector, browser = look(made_result(shift=0))
    inspector.objects.rename(2, "the cup")
    places = {(10.5, 8.5): {1: "object 1", 2: "the cup"}, (10.5, 2.5): {1: "object 1"}, (60.0, 40.0): {}}
    for (x, y), wanted in places.items():
        browser.tell(kind="hover", frame=2, pane=0, x=x, y=y)
        content, _ = browser.sent[-1]
        assert content["kind"] == "over" and content["view"] == "me"
        assert dict(zip(content["objects"], content["names"], strict=True)) == wanted


def test_two_results_have_their_own_captions_and_colour_the_same_object_alike(look):
    swapped = captioned(phrases=[(0, 12, 2)])
    for path in swapped.spool.files():
        data = dict(np.load(path))
        np.savez(path, **data | {"ids": data["ids"][::-1]})
    inspector, browser = look(captioned(), other=swapped)
    assert inspector.state.differences.colours() == (2, 1)
    assert browser.canvas.captions[0][0] == [browser.canvas.captions[1][0][0], [[1, *swatch(1)]]]
    assert browser.canvas.captions[1][0][1] == [[2, *swatch(1)]]
    browser.tell(kind="alone", pane=1, objects=[2])
    assert [one.objects for one in inspector.state.painted] == [(1,), (2,)]
    same, fewer = Inspection(made_result()), Inspection(made_result(objects=1))
    for differences, wanted in ((Differences(same, same), None), (Differences(fewer, same), None)):
        differences.compute()
        assert differences.colours() == wanted  # everybody's own


def test_the_static_page_has_the_phrases_on_their_colours():
    page = np.array(Image.open(io.BytesIO(static_picture(Inspection(captioned())))).convert("RGB"))
    bare = np.array(Image.open(io.BytesIO(static_picture(Inspection(captioned(phrases=[]))))).convert("RGB"))
    for object_id in (1, 2):
        colour = [int(swatch(object_id)[0][n : n + 2], 16) for n in (1, 3, 5)]
        plates = [(np.all(one == colour, axis=2).sum(axis=1) > 20).sum() for one in (page, bare)]
        assert plates[0] > plates[1] + 8, object_id  # rows that a plate is in
