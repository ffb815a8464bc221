"""Grounded answers scored: a model that knows everything, one that says nothing, a tiny VideoGLaMM; judges; VidSTG."""

from __future__ import annotations

import json

import miniature_datasets as mini
import numpy as np
import pandas as pd
import pytest
from chat_server import chat, running
from tiny_videoglamm import tiny_config, tiny_model, tiny_tokenizer

from videomolmo import systems
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.errors import BadInput
from videomolmo.evaluation import conversations
from videomolmo.evaluation.answers import EncoderSimilarity, Grounded, WordSimilarity, answer_scores, caption_counts
from videomolmo.evaluation.conversations import evaluate_conversations
from videomolmo.grounding import VideoGrounder
from videomolmo.protocols import Phrase, Segmentation
from videomolmo.systems.videoglamm import VideoGLaMMProcessor
from videomolmo.systems.videoglamm.examples import model_inputs, read_conversations, training_batch
from videomolmo.systems.videoglamm.segmenter import FIND
from videomolmo.weights.hub import pointing_folder

CLIPS = 4


class Knowing:
    """In place of a model: says what is true of the clips of gcg_nano, or nothing."""

    def __init__(self, silent: bool = False) -> None:
        self.silent, self.asked, self.clips = silent, 0, {}
        for record in read_dataset("gcg_nano", clips=CLIPS):
            with record.frames() as frames:
                self.clips[frames[0].tobytes()] = record

    def describe(self, context):
        return {}

    def segment(self, frames, question):
        self.asked += 1
        frames = list(frames)
        record = self.clips[frames[0].tobytes()]
        said = next(one.answer for one in record.expressions if one.text == question.sentence)
        if self.silent:
            yield Segmentation((), np.zeros((len(frames), 0, *frames[0].shape[:2]), bool), "")
            return
        masks = [[record.mask_of(span.objects[0], at) for span in said.spans] for at in range(len(frames))]
        ids = tuple(range(1, len(said.spans) + 1))
        stacked = np.array(masks, bool).reshape(len(frames), len(ids), *frames[0].shape[:2])
        phrases = tuple(Phrase(span.start, span.stop, number) for number, span in zip(ids, said.spans, strict=True))
        yield Segmentation(ids, stacked, said.text, phrases)


@pytest.fixture
def knowing(monkeypatch):
    made = {"knowing": Knowing(), "silent": Knowing(silent=True)}
    for name, segmenter in made.items():
        loader = lambda *_, segmenter=segmenter, **__: VideoGrounder(segmenter=segmenter, weights={})  # noqa: E731
        monkeypatch.setitem(systems.SYSTEMS, name, loader)
    return made


@pytest.fixture
def without_meteor(monkeypatch):
    """METEOR's tables take seconds to read, so that one test is enough that does."""

    def absent():
        raise BadInput("not installed")

    monkeypatch.setattr(conversations, "data_folder", absent)


def overall(table, kind: str = "caption") -> dict[str, float]:
    rows = table[(table["clip"] == "(all)") & (table["kind"] == kind)]
    assert (rows["low"] <= rows["value"] + 1e-9).all() and (rows["value"] <= rows["high"] + 1e-9).all()
    return dict(zip(rows["metric"], rows["value"], strict=True))


def test_who_knows_everything_is_right_everywhere(knowing, tmp_path):
    table = evaluate_conversations("gcg_nano", tmp_path, model="knowing", limit=CLIPS)
    scores = overall(table)
    assert scores.keys() == {"mIoU", "recall", "CIDEr", "METEOR", "precision of objects", "recall of objects",
                             "recall of masks"}  # fmt: skip
    assert scores["mIoU"] > 0.97 and scores["CIDEr"] == pytest.approx(10) and scores["METEOR"] == pytest.approx(1)
    assert all(scores[name] == 1 for name in scores if "recall" in name or "precision" in name)
    kinds = set(table["kind"]) - {"caption"}
    assert {"motion", "count", "appearance"} <= kinds
    for kind in kinds:
        found = overall(table, kind)
        assert found["exact"] == found["names"] == 1 and found.get("IoU", 1) > 0.9
    assert (tmp_path / "results.csv").is_file() and (tmp_path / "results.parquet").is_file()


def test_who_says_nothing_gets_nothing(knowing, without_meteor, tmp_path):
    table = evaluate_conversations("gcg_nano", tmp_path, model="silent", limit=CLIPS)
    assert set(overall(table).values()) == {0}
    assert overall(table, "appearance")["exact"] == 0


def test_damaged_and_foreign_answers_are_asked_for_again(knowing, without_meteor, tmp_path):
    evaluate_conversations("gcg_nano", tmp_path, model="knowing", limit=1)
    asked = knowing["knowing"].asked
    evaluate_conversations("gcg_nano", tmp_path, model="knowing", limit=1)
    assert knowing["knowing"].asked == asked  # kept answers are not asked for again
    first, second, third, *_ = sorted((tmp_path / "answers").rglob("*.json"))
    first.write_text("{")
    kept = json.loads(second.read_text())
    second.write_text(json.dumps(kept | {"phrases": [{"start": 0, "stop": 3, "object": 99}]}))
    third.write_text(json.dumps(json.loads(third.read_text()) | {"made_by": "another"}))
    table = evaluate_conversations("gcg_nano", tmp_path, model="knowing", limit=1)
    assert knowing["knowing"].asked == asked + 3 and overall(table)["recall"] == 1
    with pytest.raises(BadInput, match="other model"):
        evaluate_conversations("gcg_nano", tmp_path, model="silent", limit=1)


def test_a_judge_is_asked_once_and_named(knowing, without_meteor, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VIDEOMOLMO_API_KEY", "secret")
    with running() as server:
        server.script = [chat("no idea"), chat('{"score": 80, "reason": "alike"}'), chat("?"), chat(""), chat("!")]
        server.rest = lambda body: chat('{"score": 90}')
        command = ["evaluate", "--benchmark", "gcg_nano", "--model", "knowing", "--limit", "3", "--out", str(tmp_path)]
        judged = [*command, "--judge", "tiny", "--endpoint", server.url]
        assert main(judged) == 2 and not server.asked
        assert "3 pairs of captions (at most 9 requests)" in capsys.readouterr().err
        assert main([*judged, "--yes", "--compare"]) == 0
        shown = capsys.readouterr().out
        assert "CLAIR judged by tiny at 127.0.0.1" in shown and "| caption | CLAIR | 0.5667 |" in shown  # .8, 0, .9
        assert "| VideoGLaMM | 62.34 | 0.375 | 0.103 | 0.59 | 28.2 | quoted from VideoGLaMM's paper" in shown
        assert "| 56.667 | measured here |" in shown
        said = [body["messages"][0]["content"] for *_, body in server.asked]
        assert len(said) == 6 and "Could you" not in said[0] and all("moves" in one or "still" in one for one in said)
        assert main([*judged, "--yes"]) == 0 and len(server.asked) == 6
    assert main([*command, "--judge", "templates"]) == 2 and "templates cannot judge" in capsys.readouterr().err
    assert main([*command, "--endpoint", "http://x"]) == 2 and "name the model" in capsys.readouterr().err
    assert main(["evaluate", "--benchmark", "generated", "--judge", "tiny", "--out", str(tmp_path / "x")]) == 2
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "secret" not in kept and '"reason": "alike"' in kept


def test_a_tiny_videoglamm_by_the_command_line(without_meteor, tmp_path, capsys):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tiny_config(tokenizer))
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(tmp_path / "model")
    VideoGLaMMProcessor(tokenizer, model.config).save_pretrained(tmp_path / "model")
    command = ["evaluate", "--benchmark", "ytvos_gcg", "--path", str(mini.ytvos_gcg(tmp_path / "set")), "--model",
               str(tmp_path / "model"), "--device", "cpu", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| caption | mIoU |" in shown and "phrases compared by words" in shown
    (kept,) = (tmp_path / "out" / "answers").rglob("*.json")
    assert json.loads(kept.read_text())["question"].startswith("Describe the video")
    assert "without METEOR" in shown and main([*command, "--layout", "{frame}.png"]) == 2
    assert main([*command[:-1], str(tmp_path / "x"), "--model", "nano"]) == 2
    assert "points at what is named" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_two_systems_on_the_same_referring_sentences(tmp_path, capsys, monkeypatch):
    command = ["evaluate", "--benchmark", "refer_nano", "--limit", "1", "--out", str(tmp_path / "out")]
    both = [*command, "--model", "nano-glamm", "--beside", "nano"]
    assert main(both) == 0
    shown = capsys.readouterr().out
    assert "| sentences | measure | n | nano-glamm | nano | nano-glamm − nano |" in shown
    table = pd.read_csv(tmp_path / "out" / "side_by_side.csv")
    found = table.set_index(["kind", "metric", "system"])["value"]
    (row,) = [one for one in read_dataset("refer_nano", clips=1)[0].expressions if one.kind == "appearance"]
    kept = [json.loads(path.read_text()) for path in (tmp_path / "out" / "nano-glamm" / "answers").rglob("*.json")]
    (own,) = [one for one in kept if one["text"] == row.text]
    asked = FIND.format(row.text)
    processor = VideoGLaMMProcessor.from_pretrained(pointing_folder("nano-glamm"))
    config = processor.config
    visual = config.frames * (config.image.pool**2 + config.video.pool**2)
    read, written = (found["appearance", f"tokens {how}", "nano-glamm"] for how in ("read", "written"))
    assert read == len(processor.tokens(asked)["input_ids"]) - 1 + visual
    assert 3 < written < 40 and own["cost"]["tokens written"] == written
    assert (found[:, "J&F"] <= 1).all() and found["appearance", "J&F", "nano"] > 0.5
    for kind, metric in {(kind, metric) for kind, metric, _ in found.index}:
        one, other, gap = (found[kind, metric, name] for name in ("nano-glamm", "nano", "nano-glamm − nano"))
        assert gap == pytest.approx(one - other, abs=1e-6)
    monkeypatch.setattr("videomolmo.evaluation.evaluate.predict", None)  # nothing may be predicted again
    assert main(both) == 0 and capsys.readouterr().out == shown
    for wrong, line in (
        (["--beside", "nano"], "names are alike"), (["--beside", "nano-96", "--compare"], "leave out --predictions"),
        (["--benchmark", "gcg_nano", "--beside", "nano-96"], "asks for descriptions"),
    ):  # fmt: skip
        assert main([*command[:-1], str(tmp_path / "none"), *wrong]) == 2 and line in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_words_of_phrases():
    alike = WordSimilarity()(["A red circle", "the bar"], ["the red circle", "a grey bar", "dog"])
    assert alike.round(3).tolist() == [[1, 0, 0], [0, 0.667, 0]]
    assert WordSimilarity()([], ["dog"]).shape == (0, 1)


def test_an_encoder_of_phrases(tmp_path):
    import torch
    from transformers import AutoModel, BertConfig, BertModel

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                             num_attention_heads=2)).save_pretrained(tmp_path)  # fmt: skip
    alike = EncoderSimilarity(str(tmp_path))
    values = alike(["a red circle", "the bar"], ["a red circle", "the bar", "what"])
    assert values.shape == (2, 3) and values[0, 0] == pytest.approx(1) and values[1, 1] == pytest.approx(1)
    model = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        outs = [model(**tokenizer(one, return_tensors="pt")) for one in ("the bar", "what")]
        means = [out.last_hidden_state[0].mean(0) for out in outs]
    assert values[1, 2] == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-6)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="no encoder that transformers can load"):
        EncoderSimilarity(str(tmp_path))


def test_scores_of_one_answer():
    masks = np.zeros((3, 2, 8, 8), bool)
    masks[0, :, :4], masks[1, :, 4:], masks[2, :, :, :4] = True, True, True
    true = Grounded("A red star moves behind a bar.", ["A red star", "a bar"], masks[:2])
    found = Grounded("The red star; the red star; a dog.", ["The red star", "the red star", "a dog"], masks[[0, 1, 2]])
    assert caption_counts(true, found) == {"named": 2, "right": 1, "true": 2, "grounded": 1}
    assert answer_scores(true, true) == {"exact": 1, "names": 1, "IoU": 1}
    assert answer_scores(true, found._replace(phrases=[], masks=masks[:0])) == {"exact": 0, "names": 0, "IoU": 0}
    none = Grounded("There is none.", [], masks[:0])
    assert answer_scores(none, none) == {"exact": 1, "names": 1}


def test_boxes_of_vidstg(tmp_path, capsys):
    root = mini.vidstg(tmp_path / "set")
    masks = tmp_path / "masks" / "2401:2-10"
    for expression in ("0", "1"):
        for frame in range(2, 10):
            found = mini.box_mask(
                frame if expression == "0" else frame + 3, side=7
            )  # ends a pixel later, as its box does
            mini.write_binary(masks / expression / f"{frame}.png", found)
    command = ["evaluate", "--benchmark", "vidstg", "--path", str(root), "--predictions", str(tmp_path / "masks"),
               "--out", str(tmp_path / "out"), "--compare"]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "question mIoU of boxes 1.0000" in " ".join(shown.split())  # the declarative one is 3 of 9 columns
    assert "referring mIoU of boxes 0.3333" in " ".join(shown.split())
    assert "| this run: test, mean of 1 questions | 100.0 | measured here |" in shown
    assert "| VideoGLaMM | 39.7 | quoted: arXiv:2411.04923" in shown


def test_records_with_answers_become_training_examples(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tiny_config(tokenizer)).train()
    processor = VideoGLaMMProcessor(tokenizer, model.config)
    read = []
    for name in ("ytvos_gcg", "anet_gcg"):
        (record,) = read_dataset(name, mini.BUILDERS[name](tmp_path / name), "train")
        read.append(read_conversations(record, record.expressions, processor.config.frames, supervised=2))
        assert read[-1].exchanges == ((record.expressions[0].text, record.expressions[0].answer.marked),)
    first, second = (one.masks for one in read)
    assert first.shape == (2, 2, mini.HEIGHT, mini.WIDTH) and {*np.unique(first)} == {0, 1}
    assert second.shape == (3, 1, mini.HEIGHT, mini.WIDTH)  # annotated on one frame alone
    inputs = model_inputs(training_batch(processor, read))
    for row, one in zip(inputs["labels"], read, strict=True):
        assert processor.decode(row[row >= 0]) == one.exchanges[0][1]
    assert [len(masks) for masks in inputs["masks"]] == [4, 4] and (inputs["masks"][0][2:] == -1).all()
    out = model(**inputs)
    assert out.loss.isfinite() and out.bce_loss > 0
    record = read_dataset("mevis", mini.mevis(tmp_path / "m"))[0]
    with pytest.raises(BadInput, match="has no answer"):
        read_conversations(record, record.expressions[:1], processor.config.frames)
