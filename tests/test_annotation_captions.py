"""Grounded captions half by machine: three forms, boxes that become masks, words of an endpoint, stops, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import miniature_datasets as mini
import numpy as np
import pytest
from chat_server import ChatServer, chat, running
from PIL import Image

from videomolmo.annotation.captions import (
    CaptionSettings,
    annotate_captions,
    form_of,
    look,
    read_caption,
    request_of,
    template_caption,
)
from videomolmo.annotation.words import Endpoint
from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.datasets.files import Unreadable
from videomolmo.errors import BadInput
from videomolmo.metrics import region_similarity
from videomolmo.metrics.boxes import box_of
from videomolmo.synth.clips import generate_clip

TEMPLATES = CaptionSettings()


@pytest.fixture
def server():
    with running() as one:
        yield one


def rows_in(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """LaSOT's layout with boxes of one generated object, on frame 3 in a corner where nothing is; and its masks."""
    root, clip = tmp_path_factory.mktemp("lasot"), generate_clip(10_000_003, frames=5, height=192, width=192)
    at = int(clip.masks.sum((2, 3)).min(0).argmax())
    folder = root / "thing" / "thing-1"
    lines = []
    for frame, (picture, mask) in enumerate(zip(clip.frames, clip.masks[:, at], strict=True)):
        (folder / "img").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "img" / f"{frame + 1:08d}.jpg", quality=95)
        left, top, width, height = box_of(mask)
        if frame == 3:
            left, top, width, height = (0 if left > 96 else 180), (0 if top > 96 else 180), 12, 12
        lines.append(f"{left + 1:g},{top + 1:g},{width:g},{height:g}\n")
    (folder / "groundtruth.txt").write_text("".join(lines))
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        (folder / name).write_text("0,0,0,0,0")
    (folder / "nlp.txt").write_text("the thing that moves")
    (root / "testing_set.txt").write_text("thing-1\n")
    return root, clip.masks[:, at]


def test_boxes_become_masks_and_bad_ones_are_listed(boxed, tmp_path, capsys):
    root, truth = boxed
    command = ["annotate", "--captions", "--benchmark", "lasot", "--path", str(root), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "1 captions with 1 phrases; masks of boxes: 4 kept, 1 rejected" in shown.out
    assert "rejected in thing-1: object 1 on 1 frames" in shown.err
    (row,) = rows_in(tmp_path / "out")
    assert row["caption"] == "The video shows the thing that moves." and row["form"] == "sentences"
    assert row["masks"]["1"][3] is None and row["words"] == "templates"
    (record,) = read_dataset("captions", tmp_path / "out", source=root)
    for frame in (0, 1, 2, 4):
        assert region_similarity(truth[frame], record.mask_of("1", frame)) > 0.6
    verdicts = [json.loads(line)["verdict"] for line in (tmp_path / "out" / "quality.jsonl").read_text().splitlines()]
    assert verdicts == ["kept"] * 3 + ["rejected", "kept"]
    assert main(command) == 0  # nothing is left to do
    assert main([*command, "--min-iou", "0.9"]) == 2 and "other min_iou" in capsys.readouterr().err


def scene(name: str, root: Path, form: str, number: int = 0, split: str | None = None):
    record = read_dataset(name, root, split)[number]
    seen = look(record, form, None, TEMPLATES)
    return record, seen, request_of(record, form, seen)


def test_the_three_forms(tmp_path):
    record, seen, request = scene("mevis", mini.mevis(tmp_path / "m"), "sentences")
    assert form_of(record) == "sentences" and seen.objects == ("7", "12") and seen.runs is None
    assert '1: "the bird flying away"' in request.text and '1, 2: "both birds"' in request.text
    assert len(request.pictures) == 3 and request.pictures[0].shape == (16 * mini.HEIGHT, 16 * mini.WIDTH, 3)
    assert template_caption(request.facts) == "The video shows [the bird flying away](1) and [an object](2)."
    answer = read_caption('Here: {"caption": "[Two birds](1, 2), [one](1) of them away."} Good?', seen)
    assert [span.objects for span in answer.spans] == [("7", "12"), ("7",)]

    record, seen, request = scene("ytvos_gcg", mini.ytvos_gcg(tmp_path / "y"), "captions")
    assert form_of(record) == "captions" and "[A dog](1) with a [ball](2)." in request.text
    assert "1 is a dog, 2 is a ball" in request.text
    assert template_caption(request.facts) == "[A dog](1) with a [ball](2)."

    record, seen, request = scene("ref_youtube_vos", mini.ref_youtube_vos(tmp_path / "r"), "masks", split="train")
    assert "[phrase](number)" in request.text and "people have called" not in request.text.lower()
    assert template_caption(request.facts) == "The video shows [a dog](1) and [a ball](2)."


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("A dog.", "expected JSON with a caption"),
        ('{"words": "A [dog](1)."}', "expected JSON with a caption"),
        ('{"caption": 5}', "expected a text"),
        ('{"caption": "A dog."}', "names no object"),
        ('{"caption": "A [cat](9)."}', "object '9'; expected one of 1, 2"),
        ('{"caption": "%s"}' % ("[a](1)" * 500), "at most 2000 characters"),
        ("[" * 100_000, "expected JSON"),
    ],
)
def test_answers_that_are_no_captions(tmp_path, answer, line):
    _, seen, _ = scene("mevis", mini.mevis(tmp_path), "sentences")
    with pytest.raises(Unreadable, match=line):
        read_caption(answer, seen)


def captions_of(body: dict) -> str:
    """What a good server answers: one phrase for each number that it is told of."""
    text = body["messages"][0]["content"][0]["text"]
    numbers = re.search(r"with the numbers ([\d, ]+) only", text)[1].split(", ")
    return json.dumps({"caption": " ".join(f"[Thing {number}]({number})." for number in numbers)})


def asked_of(server: ChatServer, out: Path, clips: int = 3, **more) -> dict:
    settings = CaptionSettings("tiny", server.url, pictures=2)
    maker = Endpoint(server.url, "tiny", wait=lambda seconds: None)
    return annotate_captions("gcg_nano", None, out, settings, limit=clips, maker=maker, **more)


def test_an_endpoint_makes_captions_once_the_user_agrees(server, tmp_path):
    server.rest = lambda body: chat(captions_of(body))
    plans = []
    with pytest.raises(BadInput, match="nothing was sent: 3 requests"):
        asked_of(server, tmp_path / "out")
    assert not server.asked and not (tmp_path / "out").exists()
    report = asked_of(server, tmp_path / "out", confirm=lambda plan: not plans.append(plan))
    assert len(server.asked) == 3 == report["rows"] and report["sent"]["requests"] == 3
    megabytes = float(re.search(r"about ([\d.]+) MB", plans[0])[1])
    assert megabytes == pytest.approx(report["sent"]["bytes"] / 1e6, rel=0.7)  # of one clip, times three
    assert all(f"{server.url}/chat/completions as tiny" in plan for plan in plans)
    assert all(len(body["messages"][0]["content"]) == 3 for *_, body in server.asked)  # the text and two pictures
    for row, record in zip(rows_in(tmp_path / "out"), read_dataset("captions", tmp_path / "out"), strict=True):
        assert row["caption"].startswith("Thing 1.") and row["words"] == "tiny at 127.0.0.1"
        assert record.expressions[0].answer.objects == tuple(record.objects)


def test_a_run_that_was_stopped_asks_only_for_the_rest(server, tmp_path):
    server.script = [chat('{"caption": "[First](1)."}'), (401, {}, b"no more")]
    agree = {"confirm": lambda plan: True}
    with pytest.raises(BadInput, match="answers 401 no more"):
        asked_of(server, tmp_path, **agree)
    server.rest = lambda body: chat(captions_of(body))
    report = asked_of(server, tmp_path, **agree)
    assert len(server.asked) == 4 and report["rows"] == 3
    assert rows_in(tmp_path)[0]["caption"] == "First."
    asked_of(server, tmp_path)  # no question is left, so nobody is asked for leave
    assert len(server.asked) == 4


def test_clips_without_a_good_answer_are_named_and_tried_again(server, tmp_path):
    server.script = [chat("no idea"), chat('{"caption": "[It](77)."}'), (413, {}, b"too large"),
                     chat("?"), chat('{"caption": "[Third](1)."}')]  # fmt: skip
    report = asked_of(server, tmp_path, confirm=lambda plan: True)
    assert report["rows"] == 1 and list(report["refused"]) == ["10000000", "10000001"]
    assert "object '77'" in report["refused"]["10000000"] and "413 too large" in report["refused"]["10000001"]
    server.rest = lambda body: chat(captions_of(body))
    assert asked_of(server, tmp_path, confirm=lambda plan: True)["rows"] == 3


def test_a_clip_that_cannot_be_read_stops_no_other(server, tmp_path):
    root = mini.burst_ytvis_gcg(tmp_path / "set")
    (root / "ytvis" / "vos" / "train" / "JPEGImages" / "ab12cd" / "00000.jpg").unlink()
    server.rest = lambda body: chat(captions_of(body))
    maker = Endpoint(server.url, "tiny", wait=lambda seconds: None)
    settings = CaptionSettings("tiny", server.url)
    report = annotate_captions(
        "burst_ytvis_gcg", root, tmp_path / "out", settings, maker=maker, confirm=lambda plan: True
    )
    assert list(report["refused"]) == ["ab12cd"] and report["rows"] == 1 == len(server.asked)


def test_the_command_line_sends_nothing_unasked(server, tmp_path, capsys, monkeypatch):
    server.rest = lambda body: chat(captions_of(body))
    command = ["annotate", "--captions", "--benchmark", "gcg_nano", "--limit", "1", "--words", "tiny", "--endpoint",
               server.url, "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 2 and not server.asked and not (tmp_path / "out").exists()
    assert "to be sent: 1 requests" in (err := capsys.readouterr().err) and "give --yes" in err
    assert main([*command, "--yes"]) == 0 and len(server.asked) == 1
    assert main(["annotate", "--benchmark", "gcg_nano", "--words", "tiny", "--out", str(tmp_path / "x")]) == 2
    assert "give --captions, too" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "y"), "--form", "song"]) == 2
    assert "form is 'song'" in capsys.readouterr().err and not (tmp_path / "y").exists()
