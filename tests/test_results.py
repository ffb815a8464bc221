"""Results of known masks: tracks, agreement, files in a folder and back, pictures."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.fusion import fuse
from videomolmo.io import drawing
from videomolmo.io.drawing import contact_sheet, draw_masks, palette, png_bytes
from videomolmo.io.files import new_results
from videomolmo.io.video import VideoWriter, open_video
from videomolmo.mask_store import MaskStore
from videomolmo.results import GroundingResult, KeyAnswer

FRAMES, HEIGHT, WIDTH = 8, 30, 45
NAMES = {"answers.jsonl", "tracks.csv", "overlay.mp4", "run.json", "masks", "propagation"}


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


FIRST, SHIFTED, SECOND = rectangle(2, 3, 12, 13), rectangle(7, 3, 17, 13), rectangle(20, 10, 30, 25)


def layers(forward: list[list[np.ndarray]], backward: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    both = {"forward": np.array(forward), "backward": np.array(backward)}
    return both | {"fused": both["forward"] | both["backward"]}


@pytest.fixture
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def result(tmp_path, video) -> GroundingResult:
    """Key frames 0 and 4, eight frames. Object 1 is always there, forward and backward overlapping by a third between
    the key frames; object 2 comes only with the second key frame, backwards too."""
    (tmp_path / "spool").mkdir()
    spool, none = MaskStore(tmp_path / "spool"), np.zeros_like(FIRST)
    forward = [[FIRST, none]] * 4
    backward = [[FIRST, none], [SHIFTED, SECOND], [SHIFTED, SECOND], [SHIFTED, none]]
    known = {"forward": np.array([[True, False]] * 4), "backward": np.array([[True, False]] + [[True, True]] * 3)}
    spool.write(0, (1, 2), layers(forward, backward), known)
    known = {"forward": np.ones((4, 2), bool), "backward": np.array([[True, True]] + [[False, False]] * 3)}
    backward = [[FIRST, SECOND], [none, none], [none, none], [none, none]]
    spool.write(4, (1, 2), layers([[FIRST, SECOND]] * 4, backward), known)
    answers = [
        KeyAnswer(0, 0.0, '<point x="15.6" y="26.7" alt="box">box</point>', "found", [(7.0, 8.0)], [True]),
        KeyAnswer(4, 0.4, "…", "found", [(7.0, 8.0), (25.0, 17.5), (99.0, 2.0)], [True, True, False]),
    ]
    return GroundingResult(
        sentence="the box", answers=answers, objects=2, height=HEIGHT, width=WIDTH, times_s=np.arange(FRAMES) / 10,
        fps=10.0, spool=spool, config={"model": {"every": 4}, "weights_sha256": {"a": "b"}}, source=None,
        _video=open_video(video, fps=10),
    )  # fmt: skip


def test_the_overlay_has_the_times_and_the_pixels_of_its_source(result, tmp_path):
    times_s = np.array([0, 0.1, 0.2, 0.25, 3.25, 3.375, 3.5, 4.5])
    result._video.pixel_aspect = Fraction(16, 11)  # as of an old television picture
    with open_video(replace(result, times_s=times_s).overlay(tmp_path / "overlay.mp4")) as overlay:
        assert len(overlay) == FRAMES and np.allclose(overlay.times_s, times_s, atol=1e-4)
        assert overlay.pixel_aspect == Fraction(16, 11) and overlay.width / overlay.height == WIDTH / HEIGHT


def test_masks_of_every_layer(result):
    assert result.frames == FRAMES and result.key_frames == [0, 4]
    assert result.masks.shape == (FRAMES, 2, HEIGHT, WIDTH)
    assert np.array_equal(result.masks[1, 0], FIRST | SHIFTED)
    assert np.array_equal(result.forward[1, 0], FIRST) and np.array_equal(result.backward[1, 0], SHIFTED)
    assert not result.backward[5:].any()


def test_agreement_is_the_iou_where_both_directions_reach(result):
    agreement = result.agreement
    assert agreement.shape == (FRAMES, 2)
    assert np.allclose(agreement[:5, 0], [1, 1 / 3, 1 / 3, 1 / 3, 1])
    assert np.isnan(agreement[:4, 1]).all() and agreement[4, 1] == 1  # object 2 has no forward masks before frame 4
    assert np.isnan(agreement[5:]).all()  # nothing comes back after the last key frame


def test_tracks_say_where_and_whence(result):
    tracks = result.tracks
    assert tracks.columns.tolist() == ["frame", "time_s", "object", "x_px", "y_px", "area_px", "box", "source"]
    one, two = (tracks[tracks.object == number].set_index("frame") for number in (1, 2))
    assert one.index.tolist() == list(range(FRAMES)) and two.index.tolist() == [1, 2, 4, 5, 6, 7]
    assert one.source.tolist() == ["key", "both", "both", "both", "key", "forward", "forward", "forward"]
    assert two.source.tolist() == ["backward", "backward", "key", "forward", "forward", "forward"]
    assert one.loc[0, ["x_px", "y_px", "area_px", "box"]].tolist() == [6.5, 7.5, 100, (2, 3, 12, 13)]
    assert one.loc[1, "box"] == (2, 3, 17, 13) and one.loc[1, "area_px"] == 150
    assert one.time_s.tolist() == pytest.approx(np.arange(FRAMES) / 10)


@pytest.mark.parametrize(
    ("rule", "sources"),
    [("left", ["forward"] * 3), ("right", ["backward"] * 3), ("union", ["both"] * 3), ("agreed", ["both"] * 3)],
)
def test_tracks_name_the_direction_that_a_rule_chose(result, tmp_path, rule, sources):
    """`agreed` chooses too, and made these masks of both: a third of them agrees."""
    spool = MaskStore(tmp_path / "refused")
    (tmp_path / "refused").mkdir()
    there, back = result.forward[0:4], result.backward[0:4]
    fused = fuse(there, back, rule, left_distance=np.arange(4), right_distance=4 - np.arange(4))
    known = dict.fromkeys(("forward", "backward"), np.ones((4, 2), bool))
    spool.write(0, (1, 2), {"fused": fused, "forward": there, "backward": back}, known)
    config = {"model": {"every": 4, "fusion": rule}}
    chosen = replace(result, spool=spool, config=config, times_s=result.times_s[:4])
    first = chosen.tracks[chosen.tracks.object == 1]
    assert first.source.tolist() == ["key", *sources]


def test_a_result_of_open_frames_keeps_their_file(result, video, tmp_path):
    with VideoWriter(tmp_path / "overlay.mp4", 10, HEIGHT, WIDTH) as writer:
        for frame in video:
            writer.write(frame)
    frames = open_video(tmp_path / "overlay.mp4")
    assert frames.source == tmp_path / "overlay.mp4"
    own = replace(result, source=frames.source, _video=frames)
    with pytest.raises(BadInput, match="would be replaced by results"):
        own.save(tmp_path, overwrite=True)
    folder = own.save(tmp_path / "out", overlay=False)
    again = GroundingResult.load(folder)
    assert again.source == str(tmp_path / "overlay.mp4") and len(again.video()) == FRAMES
    given = GroundingResult.load(folder, video=frames)
    assert given.video() is frames and given.source == frames.source


def test_masks_are_read_wherever_the_program_is_by_then(result, tmp_path, monkeypatch):
    result.save(tmp_path / "out", overlay=False)
    monkeypatch.chdir(tmp_path)
    again = GroundingResult.load("out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(again.masks[1], result.masks[1])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_a_video_whose_name_is_no_text_loses_no_work(result, tmp_path):
    name = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4"))
    folder = replace(result, source=name).save(tmp_path / "out", overlay=False)
    assert GroundingResult.load(folder).source.endswith("caf\\xe9.mp4")


def test_folders_that_bear_the_name_of_corrections_are_left_alone(result, tmp_path):
    (tmp_path / "out" / "corrections").mkdir(parents=True)
    (tmp_path / "out" / "corrections" / "chapter1.txt").write_text("mine")
    for _ in range(2):  # the second time over a result
        result.save(tmp_path / "out", overwrite=True, overlay=False)
        assert (tmp_path / "out" / "corrections" / "chapter1.txt").read_text() == "mine"


def test_summary_counts(result):
    text = result.summary().splitlines()
    assert text[0] == "“the box” · 8 frames · 2 key frames: 2 found, 1 points outside the frame"
    assert text[2].split() == ["1", "8", "0", "7", "119", "0.33"] and text[3].split() == [
        "2",
        "6",
        "1",
        "7",
        "150",
        "–",
    ]
    result.warning = "decoded 8 of 9 frames, then: end"
    assert result.summary().splitlines()[-1] == "warning: decoded 8 of 9 frames, then: end"


def test_save_and_load(result, video, tmp_path):
    folder = result.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == NAMES
    loaded = GroundingResult.load(folder, video=video)
    assert loaded.sentence == result.sentence and loaded.config == result.config and loaded.warning is None
    assert loaded.answers == result.answers
    assert np.array_equal(loaded.times_s, result.times_s) and loaded.fps == 10
    for name in ("masks", "forward", "backward"):
        assert np.array_equal(np.asarray(getattr(loaded, name)), np.asarray(getattr(result, name)))
    assert np.array_equal(loaded.agreement, result.agreement, equal_nan=True)
    pd.testing.assert_frame_equal(loaded.tracks, result.tracks)
    assert loaded.summary() == result.summary()
    assert np.array_equal(loaded.video()[3], video[3])


def test_a_result_that_an_editor_saved_with_a_byte_order_mark_loads(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    for name in ("run.json", "answers.jsonl"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    loaded = GroundingResult.load(folder)
    assert loaded.sentence == result.sentence and loaded.answers == result.answers
    loaded.save(folder, overwrite=True, overlay=False)  # it is still known as a result


def test_a_result_of_an_array_asks_for_it_when_loaded(result, tmp_path):
    loaded = GroundingResult.load(result.save(tmp_path / "out", overlay=False))
    with pytest.raises(BadInput, match="made from an array"):
        loaded.video()


def test_a_saved_result_can_be_saved_again(result, video, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    again = GroundingResult.load(GroundingResult.load(folder, video=video).save(tmp_path / "again"))
    assert np.array_equal(np.asarray(again.masks), np.asarray(result.masks))
    GroundingResult.load(folder, video=video).save(folder, overwrite=True)  # onto itself
    assert np.array_equal(np.asarray(GroundingResult.load(folder).masks), np.asarray(result.masks))


def test_tracks_file_reads_back(result, tmp_path):
    table = pd.read_csv(result.save(tmp_path / "out", overlay=False) / "tracks.csv")
    assert table.drop(columns="box").equals(result.tracks.drop(columns="box"))
    assert [tuple(json.loads(f"[{box[1:-1]}]")) for box in table.box] == result.tracks.box.tolist()


def test_palette_pictures_hold_labels(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False) / "masks"
    assert sorted(path.name for path in folder.iterdir()) == [f"{at:05d}.png" for at in range(FRAMES)]
    for at in range(FRAMES):
        with Image.open(folder / f"{at:05d}.png") as image:
            assert image.mode == "P" and image.size == (WIDTH, HEIGHT)
            assert np.array_equal(np.reshape(image.getpalette(), (-1, 3))[:3], palette(3))
            labels = np.array(image)
        wanted = np.where(result.masks[at, 1], 2, np.where(result.masks[at, 0], 1, 0))
        assert np.array_equal(labels, wanted)


def test_overlay_plays_in_a_browser(result, tmp_path):
    path = result.save(tmp_path / "out") / "overlay.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) == FRAMES and stream.average_rate == 10
    assert frames[0].shape[0] >= 360 and frames[0].shape[1] / frames[0].shape[0] == pytest.approx(WIDTH / HEIGHT)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((8, 1000), (8, 1000)), ((900, 4), (1800, 8)), ((100, 150), (400, 600)), ((16, 640), (48, 1920))],
)
def test_flat_and_tall_frames_have_an_overlay(tmp_path, size, shown):
    video = np.zeros((2, *size, 3), np.uint8)
    result = GroundingResult(
        sentence="a unicorn", answers=[], objects=0, height=size[0], width=size[1], times_s=np.arange(2) / 10, fps=10.0,
        spool=MaskStore(), config={}, _video=open_video(video),
    )  # fmt: skip
    with open_video(result.save(tmp_path / "out") / "overlay.mp4") as overlay:
        assert (overlay.height, overlay.width) == shown


def test_contact_sheet_is_a_png(result):
    sheet = contact_sheet(result, most=6)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert contact_sheet(result, most=1).shape[1] < sheet.shape[1]
    assert result._repr_png_().startswith(b"\x89PNG\r\n\x1a\n") and png_bytes(sheet)[1:4] == b"PNG"


def test_drawing_leaves_the_frame_alone_and_tints_the_mask(video):
    frame, before = video[0], video[0].copy()
    drawn = draw_masks(frame, np.stack([FIRST, np.zeros_like(FIRST)]), ids=False)
    assert np.array_equal(frame, before)
    assert (drawn[5:10, 5:10] != frame[5:10, 5:10]).any()
    assert np.array_equal(drawn[25:], frame[25:])
    assert len(np.unique(palette(9), axis=0)) == 9 and not palette(1).any()


def test_a_folder_with_something_in_it_is_refused(result, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"out is not empty.*--overwrite"):
        result.save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


def test_overwrite_replaces_results_and_nothing_else(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    foreign = ["diary.txt", "masks/cat.png", "masks/2024 holiday.png", "propagation/1st try.npz", "masks/sub/00001.png"]
    for name in foreign:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    stale = [folder / "masks" / "00099.png", folder / "propagation" / "00099.npz", folder / "overlay.mp4"]
    for path in stale:
        path.write_text("old")
    result.save(folder, overwrite=True, overlay=False)
    assert not any(path.exists() for path in stale)
    assert [name for name in foreign if not (folder / name).exists()] == []
    assert np.array_equal(np.asarray(GroundingResult.load(folder).masks), np.asarray(result.masks))


def test_what_is_no_result_is_not_replaced_though_it_bears_the_names_of_one(result, tmp_path):
    folder = tmp_path / "mine"
    (folder / "masks").mkdir(parents=True)
    for name in ("run.json", "tracks.csv", "masks/00000.png"):
        (folder / name).write_text('{"my": "own"}')
    before = everything(folder)
    for name in ("run.json", "tracks.csv", "masks/00000.png"):
        with pytest.raises(BadInput, match="not this program's"):
            result.save(folder, overwrite=True, overlay=False)
        assert everything(folder) == before
        (folder / name).unlink()
        del before[name]
    result.save(folder, overwrite=True, overlay=False)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="is a file"), new_results(tmp_path / "out", overwrite=True):
        raise AssertionError("the block must not begin")
    with (
        pytest.raises(BadInput, match=r"write.*choose another folder"),
        new_results(tmp_path / "out" / "below", overwrite=False),
    ):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_in_place_of_the_masks_folder_is_refused(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    for path in (folder / "masks").iterdir():
        path.unlink()
    (folder / "masks").rmdir()
    (folder / "masks").write_text("mine")
    with pytest.raises(BadInput, match="masks"):
        result.save(folder, overwrite=True, overlay=False)


def everything(folder: Path) -> dict[str, bytes | None]:
    """What lies in a folder, files with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_save_that_fails_changes_nothing(result, tmp_path, monkeypatch):
    """The video is gone when the overlay is to be made, or the encoder gives up in the middle of it."""
    folder = result.save(tmp_path / "out", overlay=False)
    (folder / "overlay.mp4").write_text("old")
    before = everything(folder)
    loaded = GroundingResult.load(folder)
    with pytest.raises(BadInput, match="made from an array"):
        loaded.save(folder, overwrite=True)
    assert everything(folder) == before
    loaded.source = tmp_path / "gone.mp4"
    with pytest.raises(BadInput, match=r"gone\.mp4"):
        loaded.save(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(drawing, "overlay_steps", lambda _, path: (path.write_text("half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        result.save(folder, overwrite=True)
    assert everything(folder) == before and np.asarray(GroundingResult.load(folder).masks).any()


@pytest.mark.parametrize("name", ["run.json", "answers.jsonl", "masks/00003.png", "propagation/00000.npz"])
def test_a_folder_in_place_of_a_file_is_refused_before_anything_is_touched(result, tmp_path, name):
    folder = result.save(tmp_path / "out", overlay=False)
    (folder / name).unlink()
    (folder / name).mkdir()
    before = everything(folder)
    with pytest.raises(BadInput, match="is a folder, expected a file of results"):
        result.save(folder, overwrite=True, overlay=False)
    assert everything(folder) == before


@pytest.mark.parametrize("source", ["masks", "masks/sub", "overlay.mp4", "elsewhere"])
def test_results_never_replace_the_video_they_are_about(result, tmp_path, source):
    folder = result.save(tmp_path / "out")
    (folder / "masks" / "sub").mkdir()
    (tmp_path / "elsewhere").symlink_to(folder / "masks")
    before = everything(folder)
    result.source = tmp_path / source if source == "elsewhere" else folder / source
    with pytest.raises(BadInput, match="would be replaced by results"):
        result.save(folder, overwrite=True)
    assert everything(folder) == before


@pytest.mark.parametrize("name", ["masks", "propagation"])
def test_results_are_not_written_through_links(result, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "00000.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match=f"{name} is a link"):
        result.save(tmp_path / "out", overwrite=True, overlay=False)
    assert (tmp_path / "mine" / "00000.png").read_text() == "mine"


def test_corrections_of_an_earlier_result_are_set_aside(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    for work in ("first", "second"):
        (folder / "corrections").mkdir()
        (folder / "corrections" / "a.npz").write_text(work)
        (folder / "corrections.jsonl").write_text(work)
        result.save(folder, overwrite=True, overlay=False)
        assert not (folder / "corrections").exists() and not (folder / "corrections.jsonl").exists()
    for number, work in ((1, "first"), (2, "second")):
        assert (folder / f"corrections.{number}.old.jsonl").read_text() == work
        assert (folder / f"corrections.{number}.old" / "a.npz").read_text() == work
    result.save(folder, overwrite=True, overlay=False)
    assert not (folder / "corrections.3.old.jsonl").exists()


def test_a_result_knows_its_folder(result, tmp_path):
    assert result.folder is None
    assert result.save(tmp_path / "out", overlay=False) == result.folder == tmp_path / "out"
    loaded = GroundingResult.load(tmp_path / "out")
    assert loaded.folder == tmp_path / "out" and loaded.save(tmp_path / "two", overlay=False) == loaded.folder
    assert "out" not in (tmp_path / "two" / "run.json").read_text()
    assert {field.name for field in fields(GroundingResult) if not field.compare} == {"folder"}


def test_answers_keep_the_line_breaks_of_unicode(result, tmp_path):
    odd = "one\u2028two\u2029three\u0085four\x0bfive\nsix"
    result.answers[0] = replace(result.answers[0], text=odd)
    loaded = GroundingResult.load(result.save(tmp_path / "out", overlay=False))
    assert loaded.answers == result.answers and len(loaded.answers) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "nothing there",
        "no answers",
        "cut run.json",
        "key missing",
        "strange answer",
        "no masks",
        "masks end early",
        "cut masks",
    ],
)
def test_what_is_no_result_is_refused(result, tmp_path, damage):
    folder = result.save(tmp_path / "out", overlay=False)
    run = folder / "run.json"
    if damage == "nothing there":
        folder = tmp_path / "nowhere"
    elif damage == "no answers":
        (folder / "answers.jsonl").unlink()
    elif damage == "cut run.json":
        run.write_text(run.read_text()[:50])
    elif damage == "key missing":
        run.write_text(json.dumps({key: value for key, value in json.loads(run.read_text()).items() if key != "fps"}))
    elif damage == "no masks":
        shutil.rmtree(folder / "propagation")
    elif damage == "masks end early":
        (folder / "propagation" / "00004.npz").unlink()
    elif damage == "cut masks":
        window = folder / "propagation" / "00004.npz"
        window.write_bytes(window.read_bytes()[:200])
    else:
        (folder / "answers.jsonl").write_text('{"frame": 1}\n')
    with pytest.raises(BadInput, match="not a saved result"):
        GroundingResult.load(folder)
    with pytest.raises(BadInput, match=r"nowhere: not a saved result \(there is no run.json\)"):
        GroundingResult.load(tmp_path / "nowhere")


def test_a_result_without_objects(tmp_path, video):
    answers = [KeyAnswer(0, 0.0, "There are none.", "absent", [], [])]
    (tmp_path / "spool").mkdir()
    result = GroundingResult(
        sentence="a unicorn", answers=answers, objects=0, height=HEIGHT, width=WIDTH, times_s=np.arange(FRAMES) / 10,
        fps=10.0, spool=MaskStore(tmp_path / "spool"), config={}, _video=open_video(video),
    )  # fmt: skip
    assert len(result.tracks) == 0 and result.agreement.shape == (FRAMES, 0) and not result.masks.any()
    assert result.summary().splitlines() == [
        "“a unicorn” · 8 frames · 1 key frames: 0 found, 1 absent",
        "no object was found",
    ]
    loaded = GroundingResult.load(result.save(tmp_path / "out"))
    assert len(loaded.tracks) == 0 and loaded.masks.shape == (FRAMES, 0, HEIGHT, WIDTH)
