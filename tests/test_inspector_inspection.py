"""What an inspection says of a result, against the result itself; and that everything opens, however little it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from inspector_results import made_result, true_masks
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES, fuse, iou
from videomolmo.inspector.inspection import DECISIONS, LAYERS, Inspection
from videomolmo.io.video import open_video
from videomolmo.mask_store import MaskStore, centres, pack
from videomolmo.results import GroundingResult, KeyAnswer


@pytest.fixture
def result():
    return made_result(absent=((5, 2),))


def masks_of(inspection: Inspection, layer: str = "fused") -> np.ndarray:
    return np.stack([inspection.mask(layer, t) for t in range(inspection.frames)])


def test_a_strip_keeps_every_pixel():
    masks = np.random.default_rng(0).random((5, 13, 21)) < 0.2
    masks[2] = False
    strip = pack(7, masks)
    assert (strip.start, strip.stop, len(strip.slice(8, 10))) == (7, 12, 2)
    whole = strip.masks((0, 13, 0, 3))[:, :, :21]
    assert np.array_equal(whole, masks) and np.array_equal(strip.areas(), masks.sum(axis=(1, 2)))
    x, y, area = centres(strip.bits, strip.box)
    for at, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        assert area[at] == len(rows)
        assert (x[at], y[at]) == pytest.approx((columns.mean(), rows.mean())) if len(rows) else np.isnan(x[at])


def test_every_layer_is_that_of_the_result(result):
    seen = Inspection(result)
    for layer, masks in (("forward", result.forward), ("backward", result.backward), ("fused", result.masks)):
        assert np.array_equal(masks_of(seen, layer), np.asarray(masks))
    assert np.array_equal(seen.agreement, result.agreement, equal_nan=True)
    both = ~np.isnan(result.agreement)
    apart = np.asarray(result.forward) ^ np.asarray(result.backward)
    assert np.array_equal(masks_of(seen, "disagreement"), apart & both[..., None, None])
    assert seen.layers() == dict.fromkeys(LAYERS) | {"truth": "no ground truth was given"}
    assert seen.key_frames == [0, 5, 10] and seen.outcomes() == {0: "found", 5: "found", 10: "found"}
    assert seen.missing() == []


def test_series_and_boxes_are_those_of_the_tracks(result):
    seen, tracks = Inspection(result), result.tracks
    for object_id in (1, 2):
        series, rows = seen.series(object_id), tracks[tracks.object == object_id].set_index("frame")
        assert np.flatnonzero(series.area).tolist() == rows.index.tolist()
        assert np.allclose(series.x[rows.index], rows.x_px, atol=0.006)
        assert np.allclose(series.y[rows.index], rows.y_px, atol=0.006)
        assert all(seen.boxes(t)[object_id] == row.box for t, row in rows.iterrows())
    trail = seen.trail(8, length=3)
    assert np.allclose(trail[1], np.stack([seen.series(1).x, seen.series(1).y], axis=1)[5:9])
    with pytest.raises(BadInput, match="object 3 is not there"):
        seen.series(3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tau", [0.2, 0.7])
def test_fused_again_is_fused_at_once(result, rule, tau):
    """The slow way: a run with these settings from the start."""
    seen = Inspection(result)
    seen.apply_fusion_rule(rule, tau)
    wanted = made_result(absent=((5, 2),), rule=rule, tau=tau)
    assert np.array_equal(masks_of(seen), np.asarray(wanted.masks))
    assert (seen.rule, seen.tau) == (rule, tau)
    seen.apply_fusion_rule("iou", 0.7)
    assert np.array_equal(masks_of(seen), np.asarray(result.masks))


def test_decisions_are_what_happened(result):
    seen = Inspection(result)
    decisions = seen.decisions()
    assert decisions.shape == (12, 2) and set(decisions.ravel()) <= set(DECISIONS)
    assert decisions[0].tolist() == ["key", "key"] and decisions[5].tolist() == ["key", "none"]
    assert (decisions[1:5, 1] == "single direction").all()  # the model did not point at object 2 on frame 5
    for t in (1, 2, 3, 4):
        forward, backward, fused = result.forward[t, 0], result.backward[t, 0], result.masks[t, 0]
        agreed = iou(forward, backward) >= 0.7
        assert decisions[t, 0] == ("intersection" if agreed else "union")
        assert np.array_equal(fused, forward & backward if agreed else forward | backward)
    seen.apply_fusion_rule("left")
    assert (seen.decisions()[1:5, 0] == "forward").all()
    assert {"intersection", "union"} <= set(decisions.ravel())


def test_an_empty_side_is_a_fallback(tmp_path):
    result = made_result(frames=6, objects=1, every=5)
    data = dict(np.load(result.spool.files()[0]))
    data["forward"][3] = 0
    masks = {name: np.unpackbits(data[name], axis=-1, count=51).astype(bool) for name in ("forward", "backward")}
    masks["fused"] = fuse(masks["forward"], masks["backward"])
    result.spool.write(0, (1,), masks, {"forward": data["has_forward"], "backward": data["has_backward"]})
    seen = Inspection(result)
    assert seen.decisions()[3, 0] == "fallback"
    seen.apply_fusion_rule("intersection")
    assert seen.decisions()[3, 0] == "none"


def test_points_have_owners(result):
    seen = Inspection(result)
    for answer in result.answers:
        found = seen.points(answer.frame)
        assert [(p.x, p.y) for p in found] == answer.points_px
        assert [p.object for p in found] == ([1] if answer.frame == 5 else [1, 2])
        assert all(p.positive and not p.corrected and p.index == 0 for p in found)
    assert seen.points(3) == [] and seen.answer_near(7).frame == 5 and seen.answer_near(8).frame == 10
    assert seen.answer_near(100).frame == 10


def test_matching_gives_identities_out_anew(result):
    seen = Inspection(result)
    seen.apply_fusion_rule(matching="none")
    assert seen.objects == 5 and seen.matching == "none"  # two, one and two on the three key frames
    assert np.array_equal(masks_of(seen, "forward").any(axis=1), np.asarray(result.forward).any(axis=1))
    seen.apply_fusion_rule(matching=0.05)
    assert [p.object for p in seen.points(5)] == [1]  # the squares still overlap a little
    seen.apply_fusion_rule(matching=1.0)
    assert seen.objects == 5
    seen.apply_fusion_rule(matching="stored")
    assert seen.objects == 2 and np.array_equal(masks_of(seen), np.asarray(result.masks))
    with pytest.raises(BadInput, match="expected None"):
        seen.apply_fusion_rule(matching="guess")


def test_a_rule_that_needs_what_was_not_stored_is_refused(result, monkeypatch):
    rule = RULES["left"]._replace(options=("forward_confidence",))
    monkeypatch.setitem(RULES, "left", rule)
    seen = Inspection(result)
    assert "forward_confidence" in seen.rules()["left"] and seen.rules()["iou"] is None
    with pytest.raises(BadInput, match="did not store forward_confidence"):
        seen.apply_fusion_rule("left")
    with pytest.raises(BadInput, match="unknown"):
        seen.apply_fusion_rule("nonsense")
    with pytest.raises(BadInput, match="tau"):
        seen.apply_fusion_rule(tau=1.5)


@pytest.mark.parametrize("kind", ["array", "npz", "bits", "folder"])
def test_truth_comes_in_many_ways(result, tmp_path, kind):
    truth = true_masks(12, 2, 40, 51)
    source = truth
    if kind == "npz":
        source = tmp_path / "truth.npz"
        np.savez(source, masks=truth)
    elif kind == "bits":
        source = tmp_path / "truth.npz"
        named = {f"n{n}": np.packbits(truth[:, n], axis=-1) for n in range(2)}
        np.savez(source, shape=np.array([12, 40, 51]), **named)
    elif kind == "folder":
        source = tmp_path / "truth"
        source.mkdir()
        for t, (one, two) in enumerate(truth):
            labels = np.where(two, 2, one.astype(np.uint8)).astype(np.uint8)
            labels[39, 50] = 255  # void
            Image.fromarray(labels).save(source / f"{t:05d}.png")
    seen = Inspection(result, truth=source)
    assert np.array_equal(masks_of(seen, "truth"), truth) and seen.layers()["truth"] is None
    scores = seen.scores()
    assert scores.partner == (1, 2) and scores.j.shape == (12, 2)
    assert np.allclose(scores.j[:, 0], iou(truth[:, 0], np.asarray(result.masks)[:, 0]))
    assert scores.of(1) == pytest.approx(scores.j_and_f[:, 0]) and np.isnan(scores.of(7)).all()
    assert scores.per_frame == pytest.approx(scores.j_and_f.mean(axis=1))


def test_truth_of_another_size_and_length(result):
    truth = true_masks(9, 2, 40, 51).repeat(2, axis=2).repeat(2, axis=3)
    seen = Inspection(result, truth=truth)
    assert np.array_equal(seen.mask("truth", 3), true_masks(9, 2, 40, 51)[3]) and seen.mask("truth", 10) is None
    assert np.isnan(seen.scores().per_frame[9:]).all() and np.isfinite(seen.scores().per_frame[:9]).all()
    said = " ".join(seen.missing())
    assert "102×80" in said and "rescaled" in said and "9 frames" in said


@pytest.mark.parametrize("bad", [np.zeros(3), "nowhere", 5.0])
def test_truth_that_is_none_is_refused(result, bad):
    with pytest.raises(BadInput, match="truth"):
        Inspection(result, truth=bad)


def test_frames_come_when_asked_for_and_in_bounded_memory(result):
    seen = Inspection(result)
    seen._frames._cache.max_size = 5 * 40 * 51 * 3
    pictures = [seen.frame(t) for t in range(12)]
    assert all(np.array_equal(picture, result.video()[t]) for t, picture in enumerate(pictures))
    assert seen._frames._cache.size <= 5 * 40 * 51 * 3
    assert seen.frame(3, (80, 102)).shape == (80, 102, 3)
    with pytest.raises(ValueError, match="read-only"):
        seen.frame(0)[:] = 0


def test_masks_are_forgotten_and_read_again(result):
    seen = Inspection(result)
    seen._store._cache.max_size = seen._fused._cache.max_size = 1
    assert np.array_equal(masks_of(seen), np.asarray(result.masks))
    assert len(seen._store._cache.kept) == 1 and len(seen._fused._cache.kept) == 1
    assert np.array_equal(seen.agreement, result.agreement, equal_nan=True)


# what may be missing


def opened(folder) -> tuple[Inspection, str]:
    """Opened, looked at everywhere, and what it says is missing."""
    seen = Inspection(folder)
    for t in range(seen.frames):
        seen.frame(t)
        assert seen.mask("fused", t).shape == (seen.objects, seen.height, seen.width)
        seen.points(t), seen.boxes(t), seen.trail(t)
    assert seen.agreement.shape == seen.decisions().shape == (seen.frames, seen.objects)
    seen.answer_near(0), seen.layers(), seen.rules()
    possible = [rule for rule, reason in seen.rules().items() if reason is None]
    seen.apply_fusion_rule("union" if "union" in possible else possible[0])
    return seen, " ".join(seen.missing())


def test_no_frames():
    seen, said = opened(made_result(frames=0, objects=0))
    assert seen.frames == 0 and seen.key_frames == [] and "no frames" in said and seen.answer_near(0) is None


def test_one_frame():
    seen, said = opened(made_result(frames=1))
    assert "one frame" in said and seen.decisions().tolist() == [["key", "key"]] and "No backward masks" in said


def test_no_objects():
    nothing = made_result(objects=0)
    seen, said = opened(nothing)
    assert "No object was found" in said and "nothing is there" in said
    assert seen.layers()["fused"] == "no object was found"


def test_twenty_objects():
    seen, said = opened(made_result(objects=20, height=120, width=80))
    assert seen.objects == 20 and not said


def test_malformed_and_outside_answers(result):
    result.answers[1] = KeyAnswer(5, 0.5, "<point x=", "malformed", [], [], "cut short")
    result.answers[2] = KeyAnswer(
        10, 1.0, "…", "found", [*result.answers[2].points_px, (99.0, 2.0)], [True, True, False]
    )
    seen, said = opened(result)
    assert "1 of 3 answers are malformed (frame 5)" in said and "outside the frame" in said
    assert seen.outcomes()[5] == "malformed"
    assert [p.object for p in seen.points(10)] == [1, 2, None]


def test_missing_backward_masks(result):
    for path in result.spool.files():
        data = dict(np.load(path))
        np.savez(path, **{name: value for name, value in data.items() if "backward" not in name})
    seen, said = opened(result)
    assert "No backward masks were stored" in said and "No frame has masks of both directions" in said
    assert seen.mask("backward", 2).sum() == 0 and np.isnan(seen.agreement).all()
    before = masks_of(seen)
    assert [name for name, reason in seen.rules().items() if reason is None] == ["forward"]
    for rule, tau in (("intersection", None), ("backward", None), ("iou", 0.2)):
        with pytest.raises(BadInput, match="did not store backward masks"):
            seen.apply_fusion_rule(rule, tau)
    assert np.array_equal(masks_of(seen), before)
    seen.apply_fusion_rule("forward")
    assert masks_of(seen).any()


@pytest.mark.parametrize("damage", ["lines", "answers", "video", "window", "propagation", "facts"])
def test_a_damaged_folder_opens(result, tmp_path, damage):
    folder = result.save(tmp_path / "out", overlay=False)
    if damage == "lines":
        text = (folder / "answers.jsonl").read_text().splitlines()
        (folder / "answers.jsonl").write_text("\n".join([text[0], '{"frame": 5', text[2], '{"frame": 1}']))
    elif damage == "answers":
        (folder / "answers.jsonl").unlink()
    elif damage == "window":
        (folder / "propagation" / "00005.npz").write_bytes(b"PK not a zip")
    elif damage == "propagation":
        for path in (folder / "propagation").iterdir():
            path.unlink()
    elif damage == "facts":
        facts = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(
            json.dumps({"times_s": facts["times_s"], "objects": 2, "height": 40, "width": 51})
        )
    _, said = opened(folder)
    expected = {
        "lines": "line 2, 4 cannot be read", "answers": "answers are missing",
        "video": "No frames: this result was made", "window": "frames 5 to 9 cannot be read",
        "propagation": "no forward masks", "facts": "does not tell sentence",
    }  # fmt: skip
    assert expected[damage].lower() in said.lower()
    assert "no frames" in said.lower()  # it was made of an array, which is not in the folder


def test_a_video_of_another_size_or_length(result, tmp_path):
    folder = result.save(tmp_path / "out", overlay=False)
    video = np.zeros((9, 80, 102, 3), np.uint8)
    seen = Inspection(folder, video=video)
    said = " ".join(seen.missing())
    assert "9 frames" in said and "102×80" in said and seen.frame(2).shape == (40, 51, 3)
    assert (seen.frame(11) == 96).all() and not seen.frame(2).any()
    assert Inspection(folder, video=open_video(video)).video() is not None


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"run\.json"):
        Inspection(tmp_path)
    with pytest.raises(BadInput, match="expected a GroundingResult"):
        Inspection(3)
    with pytest.raises(BadInput, match="layer"):
        Inspection(made_result()).mask("nonsense", 0)


def test_a_long_clip_opens_without_reading_it(tmp_path, monkeypatch):
    result = GroundingResult(
        sentence="x", answers=[], objects=1, height=8, width=8, times_s=np.arange(2000) / 25, fps=25.0,
        spool=MaskStore(tmp_path), config={}, source=str(tmp_path / "gone.mp4"),
    )  # fmt: skip
    for start in range(0, 2000, 5):
        (tmp_path / f"{start:05d}.npz").write_bytes(b"")
    result.spool = MaskStore(tmp_path)
    monkeypatch.setattr("numpy.load", lambda *_, **__: pytest.fail("a file of masks was read"))
    monkeypatch.setattr("videomolmo.io.untrusted.open_plain", lambda *_, **__: pytest.fail("a file of masks was read"))
    monkeypatch.setattr("videomolmo.results.open_video", lambda *_, **__: pytest.fail("the video was opened"))
    assert Inspection(result).frames == 2000
