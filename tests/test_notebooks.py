"""Every notebook: its shape, and a real run under papermill whose results are read and checked."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_has_parameters_that_papermill_can_pass_on(notebook):
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    values: dict = {}
    exec(cells[0].source, values)
    plain = {name: value for name, value in values.items() if not name.startswith("__")}
    assert json.loads(json.dumps(plain)) == plain


def test_is_short_and_defines_little(notebook):
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert 12 <= len(notebook.cells) <= 25
    assert max(len(source.strip().splitlines()) for source in code) <= 15
    assert notebook.cells[0].source.startswith("# ")
    assert any("assert" in source for source in code)


# Words that tell nobody in the field anything (see the field's in their place: object, ground truth, prediction, …).
OURS = re.compile(
    r"\b(take away|take-away|mend(ed|s)?|refuses?|regret|belie(f|ves)|who is who|as the run did|went through|"
    r"equal chances|shelf|made by hand|drop(ped|s)? (the|that|an) answers?|faults?|learn(ed|t) by heart|kin|told)\b",
    re.IGNORECASE,
)


def test_uses_the_words_of_the_field(notebook):
    for cell in notebook.cells:
        assert not (found := OURS.search(cell.source)), f"{cell.id}: {found[0]!r}"


def test_shows_tables_and_plots_by_the_helpers(notebook):
    """pandas' own tables cut texts short, and its Styler takes answers for markup; plots follow the page's theme."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(code)
    assert ".style" not in text and "to_html" not in text
    if "px." in text:
        assert 0 <= text.find("prepare(results_folder)") < text.find("px.") and "template" not in text
    for source in code:
        last = source.strip().splitlines()[-1]
        assert not re.fullmatch(r"[a-z_]*(table|frame|results|counts|quality)[a-z_]*(\.T|\.head\(.*\))?", last), last


def test_one_cell_is_the_picture_of_the_gallery(notebook):
    assert [cell.cell_type for cell in notebook.cells if "picture" in cell.metadata.get("tags", [])] == ["code"]


def test_carries_no_outputs(notebook):
    assert not any(cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("01_data_preparation", …)` runs a notebook under papermill; gives its results folder and the run notebook.

    `solution` stands in for the exercise's stub in a copy of its cell, so that the checker is seen to accept it.
    """
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def execute(name: str, solution: str = "", **parameters) -> tuple[Path, Path]:
        source = nbformat.read(next(path for path in NOTEBOOKS if path.stem == name), as_version=4)
        if solution:
            again = nbformat.from_dict(source.cells[-1])
            body = again.source.partition("\n\n\n")[2]
            again.source, again.id = f"{solution}\n\n\n{body}", "solution"
            source.cells.append(again)
        copy, out, results = tmp_path / "in.ipynb", tmp_path / "out.ipynb", tmp_path / "results"
        nbformat.write(source, copy)
        papermill.execute_notebook(
            str(copy), str(out), parameters={**parameters, "results_folder": str(results)}, cwd=str(tmp_path),
            progress_bar=False, kernel_name="python3",
        )  # fmt: skip
        assert {path.name for path in tmp_path.iterdir()} == {"in.ipynb", "out.ipynb", "results"}  # nothing elsewhere
        return results, out

    return execute


@pytest.mark.slow
def test_quickstart_runs_and_its_lesson_holds(run, shipped_grounder):
    results, out = run("00_quickstart", every=10)
    areas = pd.read_csv(results / "rules.csv", index_col="rule")["mean_area_px"]
    assert areas["intersection"] <= areas["iou"] <= areas["union"]
    assert json.loads((results / "run.json").read_text())["model"]["every"] == 10
    assert not any("not yet" not in text and "right" in text for text in _printed(out))  # the stub is not a solution


@pytest.mark.slow
def test_data_preparation_runs_and_its_lesson_holds(run):
    solution = """
def my_points(row, at, height, width):
    pairs = [(p["x"], p["y"]) for p in row["points"][str(at)]]
    return [(x * width / 100, y * height / 100) for x, y in pairs if x >= 0]"""
    results, out = run("01_data_preparation", solution, clips=2, frames=8, height=90, width=120)
    found = pd.read_csv(results / "check.csv", index_col="what")
    assert found.loc["missing"].tolist() == [0, 1] and found.loc["unreadable"].tolist() == [0, 2]
    assert found.loc["masks", "damaged"] == found.loc["masks", "complete"] - 1 == 2 * 8 - 1
    assert len(pd.read_csv(results / "records.csv")) == 2
    rows = [json.loads(line) for line in (results / "vpos" / "ego" / "annotations.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(len(row["points"]) == 8 for row in rows)
    assert any(point["x"] < 0 for row in rows for points in row["points"].values() for point in points)
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_point_annotation_runs_and_its_lesson_holds(run, shipped_grounder):
    solution = """
def my_best(mask, masks):
    return int(np.argmax([(mask & one).sum() / (mask | one).sum() for one in masks]))"""
    results, out = run("02_point_annotation", solution, candidates=6, limit=2, every=30)
    bars = pd.read_csv(results / "candidates.csv")
    assert bars["kind"].value_counts().to_dict() == {"by depth": 6, "uniform": 6}
    assert bars["IoU"].between(0, 1).all()
    folder = results / "generated_2_30_6_0"
    report = json.loads((folder / "report.json").read_text())
    quality = pd.read_json(folder / "quality.jsonl", lines=True)
    rows = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]
    assert report["rows"] == len(rows) == 2 and sum(report["objects"].values()) == len(quality) == 4
    kept = quality[quality["verdict"] == "kept"]
    assert len(kept) and (kept["iou"] >= kept["mean_iou"]).all()
    assert all(row["frame_idxs"] == [int(at) for at in row["points"]] for row in rows)
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_evaluation_runs_and_its_lesson_holds(run, shipped_grounder):
    solution = """
def my_j(truth, guess):
    union = (truth | guess).sum()
    return (truth & guess).sum() / union if union else 1.0"""
    results, out = run("06_evaluation", solution, clips=1, every=30)
    mistakes = pd.read_csv(results / "mistakes.csv", index_col="mistake")
    assert mistakes.loc["upper half only", "J"] == pytest.approx(0.5)
    assert mistakes.loc["shifted by 6 px", "J"] == pytest.approx(54 / 66)
    assert mistakes.loc["eroded by 4 px", ["J", "F"]].tolist() == pytest.approx([52**2 / 60**2, 0])
    assert mistakes.loc["with teeth", "F"] < mistakes.loc["with teeth", "J"]
    means = pd.read_csv(results / "means.csv", index_col="mean over")
    assert means.loc["expressions", "mean"] > means.loc["expressions, without absent ones", "mean"]
    assert means["mean"].nunique() == 3 and means.loc["objects", "count"] < means.loc["expressions", "count"]
    table = pd.read_csv(results / "generated_1_clips_every_30" / "results.csv")
    assert {"J", "F", "J&F", "point f1", "tokens read"} <= set(table["metric"])
    assert table.loc[table["metric"].isin(["J", "F", "J&F", "point f1"]), "value"].between(0, 1).all()
    assert table["every"].unique().tolist() == [30]
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_track_inspector_runs_and_its_lesson_holds(run, shipped_grounder):
    solution = """
def my_frames(key_frames, corrected, length):
    left = max([key for key in key_frames if key < corrected], default=-1)
    right = min([key for key in key_frames if key > corrected], default=length)
    return range(left + 1, right)"""
    results, out = run("07_track_inspector", solution)
    scores = pd.read_csv(results / "results.csv", index_col="what")["J&F"]
    rules = scores[scores.index.str.startswith("rule ")]
    assert len(rules) == 5 and scores["corrected"] > rules.max() and scores.between(0, 1).all()
    records = [json.loads(line) for line in (results / "result" / "corrections.jsonl").read_text().splitlines()]
    assert [one["action"] for one in records[:2]] == ["add_point", "remove_point"]
    outputs = [one for cell in nbformat.read(out, as_version=4).cells for one in cell.get("outputs", [])]
    pictures = [one for one in outputs if "TrackInspector" in str(one.get("data", {}).get("text/plain", ""))]
    assert len(pictures) == 3 and all("image/png" in one["data"] for one in pictures)  # what is seen without a kernel
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_training_runs_and_its_lesson_holds(run):
    solution = """
def my_loss(log_probabilities, targets, weights):
    rows = weights.nonzero()[0]
    return -(log_probabilities[rows, targets[rows]] * weights[rows]).sum() / max(weights.sum(), 1)"""
    results, out = run("03_training", solution, steps=4, batch=2, cached_batches=2, clips=8, test_clips=8)
    right = pd.read_csv(results / "results.csv")
    assert set(right["when"]) == {"before", "after"} and right["right"].between(0, 1).all()
    (log_file,) = results.glob("run_*/log.jsonl")
    log = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert log[-1]["step"] == 4 and 0 <= log[-1]["tens"] <= 1
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.parametrize(
    "changes",
    [{"lost": ["connector"]}, {"lost": ["temporal"]}, {"steps": 151}, {"batch": 7}, {"cached_batches": 49},
     {"clips": 399}, {"max_lr": 2e-3}, {"seed": 2}],
    ids=str,
)  # fmt: skip
def test_a_training_of_other_settings_is_another_training(tmp_path, changes):
    assert _training_folder(tmp_path, **changes) != _training_folder(tmp_path)
    assert _training_folder(tmp_path) == _training_folder(tmp_path, test_clips=7)  # which no training sees


def _training_folder(results: Path, **changes) -> Path:
    """The folder that notebook 03 trains in, with some parameters changed."""
    from videomolmo.lab.temporal_training import language_stage

    notebook = nbformat.read(next(path for path in NOTEBOOKS if path.stem == "03_training"), as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    told: list[Path] = []
    stand_in = SimpleNamespace(
        language_stage=language_stage, language_clips=lambda *_: None, generate_answers=lambda *_: [],
        teach_language=lambda start, clips, stage, folder, seed: told.append(folder),
    )  # fmt: skip
    space: dict = {}
    exec(code[0], space)
    space |= changes
    exec(code[1], space)
    space |= {"temporal_training": stand_in, "initial_weights": SimpleNamespace(assembled=lambda *_: None)}
    space |= {"folder": results, "state": None, "config": SimpleNamespace(context=4)}
    space |= {"test": [], "asked": [], "models": {}, "answers": {}}
    exec(next(source for source in code if "teach_language" in source), space)
    return told[0]


@pytest.mark.slow
def test_temporal_ablation_runs_and_its_lesson_holds(run):
    solution = """
def my_windows(patches, grid):
    half = grid // 2
    return patches.reshape(half, 2, half, 2, -1).swapaxes(1, 2).reshape(half * half, 4, -1)"""
    small = {"train_clips": 12, "test_clips": 12, "warmup_steps": 2, "joint_steps": 2, "cache_folder": "results/cache"}
    results, out = run("04_ablation_temporal", solution, variants=["none", "cross_attention"], **small)
    table = pd.read_csv(results / "results.csv", dtype={"right": str})
    assert set(zip(table["variant"], table["context"], strict=True)) == {("none", 0), ("cross_attention", 4)}
    assert table["value"].between(0, 1).all() and (table["right"].str.len() == table["n"]).all()
    looks = pd.read_csv(results / "attention.csv")
    assert looks.groupby("windows that show")["weight"].mean().tolist() == pytest.approx([1, 1], abs=0.01)
    assert (results / "temporal_context.png").is_file()
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")
    # exercises 1 and 2, in the same folder
    few = small | {"variants": ["none", "addition"], "show_attention": False}
    before = (results / "attention.csv").read_bytes()
    run("04_ablation_temporal", contexts=[0, 1, 6], **few)
    table = pd.read_csv(results / "results.csv")
    assert set(zip(table["variant"], table["context"], strict=True)) == {("none", 0), ("addition", 1), ("addition", 6)}
    run("04_ablation_temporal", contexts=[0, 1], **few | {"warmup_steps": 0, "joint_steps": 3})
    table = pd.read_csv(results / "results.csv")
    assert table[["look", "settle"]].drop_duplicates().values.tolist() == [[0, 3]] and len(table) == 2 * 4
    assert (results / "attention.csv").read_bytes() == before  # nothing was trained to be looked at


@pytest.mark.slow
def test_grounded_captions_runs_and_its_lesson_holds(run):
    if not nano_glamm_folder().is_dir():
        pytest.skip("Nano-GLaMM's weights are not there yet")
    solution = """
def my_phrases(written):
    pairs, number = [], 0
    for part in written.split("[SEG]")[:-1]:
        number += 1
        if part.rstrip().endswith("</p>"):
            pairs.append((part.rpartition("<p>")[2].replace("</p>", "").strip(), number))
    return pairs"""
    results, out = run("10_grounded_captions", solution, frames=12)
    measured = pd.read_csv(results / "results.csv", index_col="what")["value"]
    assert measured["phrase IoU"] > 0.5 and measured["moved vector IoU"] == pytest.approx(
        measured["own vector IoU"], abs=0.1
    )
    assert measured["motion right, InternVideo2 blanked"] < 0.3 < measured["object named, InternVideo2 blanked"]
    assert pd.read_csv(results / "phrases.csv")["IoU"].between(0, 1).all()
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_words_or_tokens_runs_and_its_lesson_holds(run):
    solution = """
def my_place(x, y):
    column, row = int(x * 12), int(y * 12)
    return row // 2 * 6 + column // 2, row % 2 * 2 + column % 2, int(x * 36) % 3 * 3 + int(y * 36) % 3"""
    small = {"samples": [4], "steps": 2, "batch": 2, "test_pictures": 4, "cache_folder": "results/cache"}
    results, out = run("11_words_or_tokens", solution, **small)
    table = pd.read_csv(results / "results.csv", dtype={"right": str})
    assert set(table["points"]) == {"text", "tokens"} and len(table) == 12 and set(table["steps"]) == {2}
    assert (results / "words_or_tokens_right.png").is_file()
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_your_video_runs_and_its_lesson_holds(run, shipped_grounder):
    solution = """
def my_name(text):
    return "".join(sign if sign.isalnum() or sign in " ._-" else "_" for sign in text).lstrip(" .")[-60:] or "video\""""
    results, out = run("13_your_video", solution, every=15)
    table = pd.read_csv(results / "results.csv", index_col="sentence")
    assert table.loc["the red circle", ["found", "absent", "malformed"]].sum() == 4 and len(table) == 3
    assert len(list(results.glob("*/results/*/run.json"))) == 4 and not list(results.glob("*/results/*/overlay.mp4"))
    assert sum("not offered" in text or "no video" in text for text in _printed(out, 5)) == 1
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


@pytest.mark.slow
def test_point_track_count_runs_and_its_lesson_holds(run):
    solution = """
def my_moments(text):
    import re
    found = []
    for moment in re.search(r'coords="([^"]*)"|$', text)[1].split(";") if "coords" in text else []:
        time, *rest = moment.split()
        found += [(float(time), *map(int, rest[at : at + 3])) for at in range(0, len(rest), 3)]
    return found"""
    results, out = run("09_point_track_count", solution)
    mistakes = pd.read_csv(results / "mistakes.csv", index_col="what")
    assert mistakes.loc[["exact", "half a second late"], "F1"].tolist() == [1, 1]
    assert mistakes.loc[["a second late", "elsewhere", "none"], "F1"].tolist() == [0, 0, 0]
    assert mistakes.loc["one left out", "recall"] == 0.75 and mistakes.loc["each twice", "precision"] == 0.5
    grammar = pd.read_csv(results / "grammar.csv", index_col="what")
    outcomes = grammar["outcome"].to_dict()
    assert (
        outcomes["as it should be"] == "found"
        and outcomes["nothing"] == "absent"
        and outcomes["cut off"] == "malformed"
    )
    assert (grammar.loc["another number", "number"], grammar.loc["another number", "points"]) == (5, 3)
    said = pd.read_csv(results / "said.csv", index_col="what")
    assert said.loc["point, ground truth", "times"] == "1.5 s, 2.5 s, 3.5 s, 4.5 s"
    assert said.loc["track, ground truth", "points of each number"] == "6 + 13 + 5"
    scores = pd.read_csv(results / "results.csv")
    overall = scores[scores["kind"] == "(all)"].set_index("metric")
    assert overall["n"].to_dict() == {"point f1": 8, "count exact": 6, "count close": 6}
    assert overall.loc["point f1", "value"] > 0.1 and len(scores) == 3 + 8 + 6 + 6
    assert said.loc[["count, model", "point, model"], "how many"].tolist() == [4, 3]
    outputs = [one for cell in nbformat.read(out, as_version=4).cells for one in cell.get("outputs", [])]
    assert any("TrackInspector" in str(one.get("data", {}).get("text/plain", "")) for one in outputs)
    assert "".join(_printed(out, 2)).startswith("not yet") and "".join(_printed(out)).startswith("right")


def nano_glamm_folder() -> Path:
    from videomolmo.weights.hub import data_folder

    return data_folder() / "nano" / "glamm"


def _printed(path: Path, back: int = 1) -> list[str]:
    """What the last cell printed, or the one `back` cells from the end."""
    cell = nbformat.read(path, as_version=4).cells[-back]
    return [output.get("text", "") for output in cell.outputs if output.get("name") != "stderr"]
