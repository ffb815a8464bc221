"""Notebook 08: its agenda holds together, its failures fail, its checkers tell a repair from a try, and it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from inspector_results import made_result

import videomolmo
from videomolmo.errors import BadInput
from videomolmo.lab import workshop
from videomolmo.lab.workshop import EVERY, FAILURES, check_repair
from videomolmo.weights.hub import sample_clip

FOLDER = Path(__file__).parent.parent / "notebooks"
WORKSHOP = FOLDER / "08_workshop.ipynb"


def agenda() -> list[list[str]]:
    """Part, minutes, what to open and what happens, of every row of the agenda."""
    text = next(cell.source for cell in nbformat.read(WORKSHOP, 4).cells if "## The agenda" in cell.source)
    rows = [line.strip("|").split("|") for line in text.splitlines() if re.match(r"\| \d ", line)]
    return [[field.strip() for field in row] for row in rows]


def test_the_minutes_are_ninety():
    assert sum(int(minutes) for _, minutes, *_ in agenda()) == 90


def test_every_heading_that_the_agenda_sends_to_exists():
    for _, _, places, _ in agenda():
        for place in re.split(r", (?:then )?(?=\d\d |here )", places):
            where, *names = re.findall(r"^\S+|“[^”]+”", place)
            file = WORKSHOP if where == "here" else next(FOLDER.glob(f"{where}_*.ipynb"))
            heads = [line for cell in nbformat.read(file, 4).cells for line in cell.source.splitlines()]
            for name in (name.strip("“”") for name in names):
                assert any(line.startswith(f"## {name}") for line in heads), f"{file.name} has no heading “{name}”"


@pytest.fixture(scope="module")
def opened(shipped_grounder):
    """`opened(name)` gives a failure and an inspector of its result, as the notebook opens it."""
    results = {}

    def open_failure(name: str):
        if name not in results:
            failure = FAILURES[name]()
            results[name] = failure, failure.ground(shipped_grounder)
        failure, result = results[name]
        return failure, videomolmo.inspect(result, failure.truth, grounder=shipped_grounder)

    return open_failure


def exchange_in_the_middle(look, corrections):
    places = {point.object: (point.x, point.y) for point in look.points(EVERY)}
    for object_id, other in ((1, 2), (2, 1)):
        corrections.add_point(EVERY, *places[other], object_id)
        corrections.remove_point(EVERY, object_id, 0)


def add_only(look, corrections):
    corrections.add_point(EVERY, 57, 66, 1)


def move_along_the_bar(look, corrections):
    wrong = look.points(EVERY)[0]
    corrections.add_point(EVERY, wrong.x, wrong.y + 40, wrong.object)
    corrections.remove_point(EVERY, wrong.object, wrong.index)


TRIES = {
    "wrong point": [
        add_only,
        lambda look, corrections: look.apply_fusion_rule("intersection"),
        lambda look, corrections: corrections.remove_point(EVERY, 2, 0),  # the frame then says that it is not there
    ],
    "occluded object": [move_along_the_bar, lambda look, corrections: corrections.drop_answer(EVERY)],
    "identity switch": [exchange_in_the_middle, lambda look, corrections: look.apply_fusion_rule(matching=0.3)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_a_checker_tells_the_solution_from_the_stub_and_from_plausible_tries(opened, name):
    failure, inspector = opened(name)
    solution = failure.solution
    assert "as before" in check_repair(failure, inspector, lambda look, corrections: None)
    for wrong in TRIES[name]:
        assert check_repair(failure, inspector, wrong).startswith("not yet: J&F")
    assert "ZeroDivisionError" in check_repair(failure, inspector, lambda look, corrections: 1 // 0)
    assert check_repair(failure, inspector, solution).startswith("right")
    assert not inspector.inspection.history.records, "trying a repair does not touch what is shown"


@pytest.mark.slow
def test_a_repair_by_mouse_counts_where_the_code_does_nothing(opened):
    failure, inspector = opened("occluded object")
    failure.solution(inspector.inspection, inspector.corrections)
    assert check_repair(failure, inspector, lambda look, corrections: None).startswith("right")
    inspector.corrections.undo()
    assert check_repair(failure, inspector, lambda look, corrections: None).startswith("not yet")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["forward", "intersection"])
def test_a_rule_alone_neither_repairs_nor_spoils_a_repair(opened, rule):
    """Under `forward` the planted answer does little harm, and under both a repair scores below the goal."""
    failure, inspector = opened("occluded object")
    inspector.inspection.apply_fusion_rule(rule)
    assert "as before" in check_repair(failure, inspector, lambda look, corrections: None)
    assert "as before" in check_repair(failure, inspector, lambda look, corrections: look.apply_fusion_rule(rule))
    failure.solution(inspector.inspection, inspector.corrections)
    assert check_repair(failure, inspector, lambda look, corrections: None).startswith("right")


@pytest.mark.slow
def test_a_check_writes_nothing_into_a_saved_result(opened, tmp_path):
    failure, inspector = opened("occluded object")
    inspector = videomolmo.inspect(
        replace(inspector.inspection.result), failure.truth, grounder=inspector.state.models.grounder()
    )
    inspector.inspection.save(tmp_path / "saved")
    failure.solution(inspector.inspection, inspector.corrections)
    before = (tmp_path / "saved" / "corrections.jsonl").read_bytes()
    assert check_repair(failure, inspector, failure.solution).startswith("right: J&F was")
    assert (tmp_path / "saved" / "corrections.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_wrong_point_on_a_video_of_ones_own(shipped_grounder):
    """There is no ground truth: what the model finds by itself is taken for it."""
    failure = workshop.failure_cases(shipped_grounder, str(sample_clip()), "the red circle")["wrong point"]
    inspector = videomolmo.inspect(failure.ground(shipped_grounder), failure.truth, grounder=shipped_grounder)
    assert check_repair(failure, inspector, lambda look, corrections: None).startswith("not yet")
    assert check_repair(failure, inspector, failure.solution).startswith("right")
    with pytest.raises(BadInput, match="needed are 31 frames and one point"):
        workshop.wrong_point_on(str(sample_clip()), "the green star", shipped_grounder)


@pytest.mark.parametrize("name", FAILURES)
def test_after_another_sentence_a_checker_says_in_one_line_what_to_do(name):
    failure = FAILURES[name]()
    for sentence in (failure.sentence, "the green star"):  # asked again nothing is planted, and there is no truth
        asked = made_result(frames=31)
        asked.sentence = sentence
        said = check_repair(failure, videomolmo.inspect(asked), lambda look, corrections: None)
        assert said.startswith("not yet: ") and f"choose “{failure.sentence}”" in said and "\n" not in said


@pytest.mark.slow
def test_the_planted_answer_is_what_the_result_says(opened):
    failure, inspector = opened("wrong point")
    answers = {answer.frame: answer.text for answer in inspector.inspection.result.answers}
    assert answers[EVERY] == failure.texts[EVERY] and set(answers) > set(failure.texts)
    assert inspector.inspection.result.config["planted"] == {str(EVERY): failure.texts[EVERY]}


@pytest.mark.slow
def test_it_runs_and_its_lesson_holds(tmp_path, monkeypatch, shipped_grounder):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out, results = tmp_path / "out.ipynb", tmp_path / "results"
    parameters = {"shown": [0, 15, 30], "results_folder": str(results)}
    papermill.execute_notebook(
        str(WORKSHOP), str(out), parameters=parameters, cwd=str(tmp_path), progress_bar=False, kernel_name="python3"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"out.ipynb", "results"}  # nothing elsewhere
    table = pd.read_csv(results / "results.csv").pivot(index="failure", columns="which", values="J&F")
    assert set(table.index) == set(workshop.FAILURES) and (table["yours"] == table["as found"]).all()
    assert (table["solution"] > table["as found"] + 0.1).all()
    outputs = [one for cell in nbformat.read(out, 4).cells for one in cell.get("outputs", [])]
    printed = "".join(one.get("text", "") for one in outputs if one.get("name") == "stdout")
    assert printed.count("not yet") == 3 and "right" not in printed
    pictures = [one for one in outputs if "TrackInspector" in str(one.get("data", {}).get("text/plain", ""))]
    assert len(pictures) == 3 and all("image/png" in one["data"] for one in pictures)
