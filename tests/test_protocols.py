"""Sentences become questions, and phrases labels."""

import pytest

from videomolmo.errors import BadInput
from videomolmo.protocols import TEMPLATES, as_question, label_of


@pytest.mark.parametrize(
    "sentence, question",
    [
        ("the red circle", "Point to the red circle."),
        ("  the   red\n circle ", "Point to the red circle."),
        ("the red circle.", "Point to the red circle."),
        ("the red circle!?", "Point to the red circle."),
        ("der große Hund", "Point to der große Hund."),
        ("赤い円", "Point to 赤い円."),
        ("iPhone", "Point to iPhone."),
        ("isolated island", "Point to isolated island."),
        ("Where is the cat?", "Where is the cat?"),
        ("where is\tthe cat?", "where is the cat?"),
        ("POINT TO THE CAT", "POINT TO THE CAT"),
        ("Can you find the dog?", "Can you find the dog?"),
        *(
            (asked, asked)
            for asked in ("Is this a cat?", "When does the man jump?", "Whose hat is red?", "Show both dogs.")
        ),
    ],
)
def test_a_phrase_is_asked_for_and_a_question_stays(sentence, question):
    assert as_question(sentence) == question


@pytest.mark.parametrize("sentence", ["", "   ", "\n\t", "?", " .!? "])
def test_a_sentence_without_words_is_refused(sentence):
    with pytest.raises(BadInput, match="empty"):
        as_question(sentence)


def test_half_a_character_is_refused():
    with pytest.raises(BadInput, match=r"half a character at place 5 .*\\udcff"):
        as_question("a cat\udcff")


@pytest.mark.parametrize("template", [template for template in TEMPLATES if template != "{p}"])
def test_what_was_trained_on_is_left_as_it_is(template):
    question = template.format(p="the red circle")
    assert as_question(question) == question


def test_templates_are_distinct_and_take_one_phrase():
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 40
    assert all(template.count("{p}") == 1 for template in TEMPLATES)


@pytest.mark.parametrize(
    "phrase, label",
    [
        ("the red circle", "red circle"),
        ("all the Red circles", "red circles"),
        ("all of the stars", "stars"),
        ("all stars", "stars"),
        ("every square", "square"),
        ("each square", "square"),
        ("a star.", "star"),
        ("an object", "object"),
        ("any object", "object"),
        ("theatre", "theatre"),
        ("anything red", "anything red"),
        (" star ", "star"),
    ],
)
def test_labels_have_no_article(phrase, label):
    assert label_of(phrase) == label
