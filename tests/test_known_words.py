"""Words that a model never learnt are told before it answers, and stand in the result."""

from __future__ import annotations

import doctest
import json
import logging

import numpy as np
import pytest

from videomolmo import VideoGrounder
from videomolmo.errors import BadInput
from videomolmo.io import known_words
from videomolmo.io.known_words import FILE, KnownWords, unknown_words
from videomolmo.protocols import Segmentation
from videomolmo.results import GroundingResult
from videomolmo.synth import captions, sentences
from videomolmo.synth.scene import sample_scene
from videomolmo.weights import hub

NANO = KnownWords({"colours": ("red", "blue"), "shapes": ("circle", "box"), "others": ("moving", "object")})


class Everything:
    """A segmenter that marks every pixel, whatever it is asked, and knows a few words."""

    def __init__(self, known_words=None):
        self.known_words = known_words

    def describe(self, context):
        return {}

    def segment(self, frames, question):
        for frame in frames:
            yield Segmentation((1,), np.ones((1, 1, *frame.shape[:2]), bool))


@pytest.mark.parametrize(
    "sentence, unknown",
    [
        ("the giraffe", ["giraffe"]),
        ("Point to the RED circles, please!", []),
        ("all boxes moving", []),
        ("the circle's box", []),
        ("Can you show me the red object?", []),
        ("the red mug near the red circle and the mug", ["mug", "near"]),
        ("die Giraffe – キリン", ["die", "giraffe", "キリン"]),
        ("!?", []),
    ],
)
def test_words_that_were_never_learnt(sentence, unknown):
    assert NANO.unknown(sentence) == unknown


def test_the_line_names_the_words_and_what_is_known():
    told = unknown_words(Everything(NANO), "the giraffe and the tall tree", "nano").warning
    assert told == (
        "nano never learnt “giraffe”, “tall” or “tree”, so its answer is a guess; "
        "it knows colours (red, blue), shapes (circle, box)"
    )
    assert "goes by the other words alone" in unknown_words(Everything(NANO), "the red mug").warning
    assert unknown_words(Everything(NANO), "the red circle") == ([], None)
    assert unknown_words(Everything(), "the giraffe") == ([], None)  # a model of full size knows all words


def test_a_result_keeps_the_line_and_it_is_said_once_before_the_answer(tmp_path, caplog):
    grounder, frames = VideoGrounder(segmenter=Everything(NANO)), np.zeros((2, 8, 8, 3), np.uint8)
    before = []
    grounder.segmenter.segment = lambda frames, question: (
        before.append(caplog.text) or Everything().segment(frames, question)
    )
    result = grounder(frames, "the giraffe")
    assert "never learnt “giraffe”" in before[0], "it is said only after the answer"
    assert result.warning == "the model never learnt “giraffe”, so its answer is a guess; it knows " + NANO.told()
    assert result.config["model"]["unlearnt_words"] == ["giraffe"] and result.warning in result.summary()
    loaded = GroundingResult.load(result.save(tmp_path / "out", overlay=False))
    assert loaded.warning == result.warning and loaded.config["model"]["unlearnt_words"] == ["giraffe"]
    grounder(frames, "the giraffe")
    assert caplog.text.count("never learnt") == 1
    fine = grounder(frames, "the red circle")
    assert fine.warning is None and "unlearnt_words" not in fine.config["model"]


def test_a_stream_warns_too(caplog):
    caplog.set_level(logging.WARNING)
    list(VideoGrounder(segmenter=Everything(NANO)).stream(np.zeros((2, 8, 8, 3), np.uint8), "the tree"))
    assert "“tree”" in caplog.text


def test_shipped_weights_list_the_words_of_their_sentences():
    """As the generator has them now; every sentence of the training is understood, but for nouns without a meaning."""
    for folder, made in (
        (hub.nano_pointing(), sentences.known_words()),
        (hub.nano_pointing_96(), sentences.known_words()),
        (hub.nano_glamm(), captions.known_words()),
    ):
        assert KnownWords.read(folder) == made
    known, rng = KnownWords.read(hub.nano_pointing()), np.random.default_rng(0)
    assert len(known.kinds["colours"]) == 8 and len(known.kinds["shapes"]) == 4
    asked = [
        sentences.ask(rng, sentences.sample_query(rng, sample_scene(seed, motion=seed % 2 == 0).objects, motion=at > 1))
        for seed in range(40)
        for at in range(4)
    ]
    strange = {word for text in asked for word in known.unknown(text)}
    assert strange <= set(sentences.NOUNS), strange
    assert known.unknown("the mug") == ["mug"]


def test_a_damaged_list_is_refused(tmp_path):
    assert KnownWords.read(tmp_path) is None
    for damaged in ('{"colours": "red"}', '{"colours": [1]}', "[]", "{"):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(BadInput, match=FILE):
            KnownWords.read(tmp_path)
    NANO.write(tmp_path)
    assert KnownWords.read(tmp_path) == NANO and json.loads((tmp_path / FILE).read_text())["colours"] == ["red", "blue"]


def test_examples_of_the_docstrings():
    assert doctest.testmod(known_words).failed == 0
