"""CIDEr, METEOR, cleaning and verdicts against what the public tools made of the same texts; boxes; no Java."""

from __future__ import annotations

import doctest
import json
from importlib import import_module

import numpy as np
import pytest
from golden import HOW, ROOT

from videomolmo.errors import BadInput
from videomolmo.metrics import meteor
from videomolmo.metrics.boxes import box_iou, box_of, sampled_frames
from videomolmo.metrics.captions import cider, clean, read_verdict, tokens

FILE = ROOT / "eval" / "captions.json"


PAIRS = {  # what meteor-1.5.jar gives
    ("A big dog runs quickly down the street.", "A large puppy runs fast along the road."): 0.2627183141122791,
    ("The woman puts her hand on the boy's shoulder.",
     "On the shoulder of the boy a woman places a hand."): 0.35922506581339153,
    ("Two men are playing football near the U.S. embassy.",
     "Two guys play soccer close to the American embassy."): 0.3323642087904796,
    ("A cat jumps, then a cat sleeps, then the cat eats.",
     "The cat eats, then a cat jumps, then it sleeps."): 0.42433501296582765,
    ("It isn't well-known how 3 mice got into the kitchen.",
     "Nobody knows how three mice got in the kitchen."): 0.3600772566139073,
    ("a red circle", "a green square"): 0.05714285714285714,
}  # fmt: skip
TOGETHER = 0.3307936799460234


@pytest.fixture(scope="module")
def golden() -> dict:
    if not FILE.is_file():
        pytest.skip(HOW)
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores() -> meteor.Meteor:
    """METEOR of our own pairs and, where they are there, all golden ones: its tables take seconds to read."""
    pytest.importorskip("snowballstemmer", reason="pip install 'videomolmo[captions]'")
    there = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"pairs": []}
    sides = [texts(there, "reference"), texts(there, "candidate")]
    return meteor.meteor(*([*own, *side] for own, side in zip(map(list, zip(*PAIRS, strict=True)), sides, strict=True)))


def texts(golden: dict, side: str) -> list[str]:
    return [pair[side] for pair in golden["pairs"]]


@pytest.mark.parametrize("module", ["captions", "boxes", "conversations"])
def test_examples_of_the_docstrings(module):
    module = import_module(f"videomolmo.metrics.{module}")
    assert doctest.testmod(module, globs=vars(module) | {"np": np}).failed == 0


def test_tokens(golden):
    for pair in golden["pairs"]:
        for side in ("reference", "candidate"):
            assert " ".join(tokens(pair[side])) == pair[f"{side}_tokens"]


def test_cider(golden):
    given = texts(golden, "reference"), texts(golden, "candidate")
    assert cider(*given) == pytest.approx([pair["CIDEr"] for pair in golden["pairs"]], abs=1e-9)
    assert np.mean(cider(*given)) == pytest.approx(golden["corpus"]["CIDEr"], abs=1e-9)
    for group in golden["groups"]:
        values = cider(*([side[at] for at in group["pairs"]] for side in given))
        assert values == pytest.approx(group["CIDEr"], abs=1e-9)


def test_meteor_without_java(scores):
    own = len(PAIRS)
    assert scores.captions[:own] == pytest.approx(list(PAIRS.values()), abs=1e-12)
    assert meteor.of_counts(scores.counts[:own].sum(axis=0)) == pytest.approx(TOGETHER, abs=1e-12)


def test_meteor(golden, scores):
    captions, counts = scores.captions[len(PAIRS) :], scores.counts[len(PAIRS) :]
    assert captions == pytest.approx([pair["METEOR"] for pair in golden["pairs"]], abs=1e-9)
    assert meteor.of_counts(counts.sum(axis=0)) == pytest.approx(golden["corpus"]["METEOR"], abs=1e-9)
    for group in golden["groups"]:
        total = counts[group["pairs"]].sum(axis=0)
        assert meteor.of_counts(total) == pytest.approx(group["corpus"]["METEOR"], abs=1e-9)


def test_cleaning_of_answers(golden):
    for case in golden["clean"]:
        assert clean(case["raw"]) == (case["cleaned"], case["phrases"])


def test_verdicts(golden):
    for case in golden["clair"]:
        verdict = read_verdict(case["answer"])
        if "error" in case or case["reason"] is None:  # the reference asks three times, then 0, or stops
            assert verdict is None
        else:
            assert verdict.score == pytest.approx(case["score"], abs=1e-12) and verdict.reason == case["reason"]


TREEBANK = {  # as CoreNLP 3.4.1 splits them; what is not counted is left out
    "Mr. Smith went to the U.S. at 10:30 p.m. yesterday.": "mr. smith went to the u.s. at 10:30 p.m. yesterday",
    "I've seen 1/2 of it, and/or 3.5 kg of 1,000 -- or 20-30.": "i 've seen 1/2 of it and/or 3.5 kg of 1,000 or 20-30",
    "“Quoted” and ‘single’ – with dashes … and ...": "quoted and single with dashes and",
    "It's the '90s, rock 'n' roll, y'all. 'Tis 'em o'clock O'Brien": "it 's the '90s rock 'n' roll y' all 't is 'em "
    "o'clock o'brien",
    "cannot gonna gotta wanna gimme lemme": "can not gon na got ta wan na gim me lem me",
    "The dogs' tails and James's hat": "the dogs tails and james 's hat",
    "(very loudly) [sic] {x} <b> AT&T Q & A": "-lrb- very loudly -rrb- -lsb- sic -rsb- -lcb- x -rcb- <b> at&t q & a",
    "€6 & 7¢, £5, US$5, 5% off #tag @user a_b :-)": "$ 6 & 7 cents # 5 us$ 5 5 % off #tag @user a_b :--rrb-",
    "don't CAN'T I'd've who's café naïve 日本 😀!!": "do n't ca n't i 'd 've who 's café naïve 日本 !!",
    "no.1 no. five etc. he is ill.": "no. 1 no five etc. he is ill",
    "H&M, h&m, A+B, a+b, C++, C#, black&white": "h&m h & m a+b a + b c++ c# black & white",
    "a/b/c/d 1/2/3/4 2-1/2 +7-day x/y-z-w-v 10:30-11:30": "a/b/c / d 1/2/3 / 4 2-1/2 +7 day x/y-z-w v 10:30 -11:30",
    "red,yellow-green 10.am a-man.dog U'man I've": "red,yellow-green 10 am a-man dog u'man i 've",
}  # fmt: skip


@pytest.mark.parametrize("text", TREEBANK)
def test_more_tokens(text):
    assert " ".join(tokens(text)) == TREEBANK[text]


def test_the_tokens_of_long_and_empty_texts():
    assert tokens("") == tokens(" \n. , '") == [] and len(tokens("a " * 5000)) == 1000


def test_scores_of_captions_refuse_what_does_not_fit(monkeypatch):
    for measure in (cider, meteor.meteor):
        with pytest.raises(BadInput, match="expected as many of each"):
            measure(["a"], [])
        with pytest.raises(BadInput, match="at least one"):
            measure([], [])
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"METEOR needs the package pycocoevalcap, which is not there; pip install"):
        meteor.meteor(["a"], ["a"])


def test_boxes():
    mask = np.zeros((6, 8), bool)
    assert box_of(mask) is None
    mask[1:4, 2:7] = True
    assert box_of(mask) == (2, 1, 5, 3) and box_of(mask, to_last_pixel=True) == (2, 1, 4, 2)
    assert box_iou((0, 0, 4, 4), (4, 0, 4, 4)) == box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert box_iou((0, 0, 4, 4), (2, 2, 4, 4)) == pytest.approx(4 / 28)
    assert sampled_frames(0, 100, 25.0) == [0, 25, 50, 75] and len(sampled_frames(0, 3000, 25.0)) == 40
