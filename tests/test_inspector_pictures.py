"""Painted frames, plots, the static page, exported files, and two results compared."""

from __future__ import annotations

import io
import json
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from inspector_results import made_result, true_masks
from PIL import Image
from pycocotools import mask as rle

from videomolmo.errors import BadInput
from videomolmo.inspector.compare import Differences
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.exports import export_labels, export_video, export_view
from videomolmo.inspector.inspection import LAYERS, Inspection
from videomolmo.inspector.plots import (
    DECISION_STYLES,
    _line,
    agreement_figure,
    difference_figure,
    scores_figure,
    track_figure,
)
from videomolmo.inspector.render import EncodedCache, Look, colour_of, encode, paint, view_size
from videomolmo.inspector.segments import DECISIONS
from videomolmo.inspector.static_page import static_picture
from videomolmo.io.drawing import palette
from videomolmo.io.files import new_file
from videomolmo.io.video import open_video

BARE = {"points": False, "ids": False, "outlines": False}


@pytest.fixture
def seen() -> Inspection:
    return Inspection(made_result(), truth=true_masks(12, 2, 40, 51))


def cases() -> dict[str, Inspection]:
    """What item by item may be missing."""
    empty = made_result(frames=0, objects=0)
    empty.height = empty.width = 0
    bare = made_result()
    bare.answers = []
    return {
        "no frames": Inspection(empty), "one frame": Inspection(made_result(frames=1)),
        "no objects": Inspection(made_result(objects=0)), "no answers": Inspection(bare),
        "twenty": Inspection(made_result(objects=20, height=120, width=80)),
    }  # fmt: skip


def test_a_mask_is_tinted_where_it_is_and_nowhere_else(seen):
    frame, mask = seen.frame(3), seen.mask("fused", 3)
    picture = paint(seen, 3, Look(objects=(1,), opacity=1.0, **BARE))
    assert (picture[mask[0]] == colour_of(1)).all() and np.array_equal(picture[~mask[0]], frame[~mask[0]])
    assert np.array_equal(paint(seen, 3, Look(opacity=0.0, **BARE)), frame)
    half = paint(seen, 3, Look(objects=(1,), opacity=0.5, **BARE))[mask[0]].astype(int)
    assert np.abs(half - (frame[mask[0]].astype(int) + colour_of(1)) / 2).max() <= 1


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_shows_in_its_own_way(seen, layer):
    seen.apply_fusion_rule("union")
    plain = paint(seen, 3, Look((), **BARE))
    picture = paint(seen, 3, Look((layer,), points=False, ids=False))
    assert np.array_equal(plain, seen.frame(3)) and (picture != plain).any()
    others = [paint(seen, 3, Look((other,), points=False, ids=False)) for other in LAYERS if other != layer]
    assert all((picture != other).any() for other in others)


def test_marks_differ_by_shape_too(seen):
    """Grey pictures of a positive and of a negative point are not alike."""
    from videomolmo.io.drawing import mark

    made = []
    for positive in (True, False):
        picture = np.full((60, 60, 3), 128, np.uint8)
        mark(picture, 30, 30, colour_of(1), positive, False)
        made.append(picture.mean(axis=2) != 128)
    assert made[0].any() and (made[0] != made[1]).mean() > 0.005
    corner = tuple(int(edge[0]) for edge in np.nonzero(made[1]))
    assert made[1][corner] and not made[0][corner]  # a square has corners


def test_every_mark_changes_the_picture(seen):
    plain = paint(seen, 5, Look(points=False, ids=False))
    for option in ({"points": True}, {"ids": True}, {"boxes": True}, {"trail": 5}, {"patterns": True}):
        kept = {"points": False, "ids": False} | option
        assert (paint(seen, 5, Look(**kept)) != plain).any(), option
    assert seen.frame(5).flags.writeable is False


@pytest.mark.parametrize(
    "size, expected", [(None, (40, 51)), ((400, 4000), (400, 510)), ((20, 20), (16, 20)), ((1, 1), (1, 1))]
)
def test_views_keep_proportions(seen, size, expected):
    assert view_size(seen, size) == expected
    everything = Look(LAYERS, boxes=True, trail=4, patterns=True, size=size)
    assert paint(seen, 4, everything).shape == (*expected, 3)


def test_looks_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="layers"):
        Look(("nonsense",))
    with pytest.raises(BadInput, match="opacity"):
        Look(opacity=2)


def test_encoded_pictures_are_the_painted_ones(seen):
    picture = paint(seen, 3, Look(size=(160, 204)))
    content, kind = encode(picture, "png")
    assert kind == "image/png" and np.array_equal(np.array(Image.open(io.BytesIO(content))), picture)
    content, kind = encode(picture)
    assert kind == "image/jpeg"
    assert np.abs(np.array(Image.open(io.BytesIO(content))).astype(int) - picture).mean() < 8
    with pytest.raises(BadInput, match="kind"):
        encode(picture, "bmp")


def test_the_cache_is_bounded_and_knows_of_changes(seen):
    cache, look = EncodedCache(max_bytes=6000), Look()
    first = cache.picture(seen, 3, look)
    assert cache.picture(seen, 3, look) is first
    for t in range(12):
        cache.picture(seen, t, look)
    assert cache.bytes <= 6000 and cache.bytes == sum(len(content) for content, _ in cache._cache.kept.values())
    seen.apply_fusion_rule("union")
    changed = next(t for t in range(12) if (seen.mask("fused", t) != Inspection(made_result()).mask("fused", t)).any())
    before = encode(paint(Inspection(made_result()), changed, look))
    assert cache.picture(seen, changed, look) != before


def test_colours_of_neighbours_differ():
    assert len({colour_of(n) for n in range(1, 21)}) == 20 and len(colour_of(1000)) == 3
    assert set(DECISION_STYLES) == set(DECISIONS)
    assert len({style.symbol for style in DECISION_STYLES.values()}) == len(DECISIONS)


# plots


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_hold_the_numbers(seen, theme):
    figure = agreement_figure(seen, 4, theme)
    lines = [trace for trace in figure.data if (trace.meta or {}).get("object")]
    assert [trace.meta["object"] for trace in lines] == [1, 2]
    assert np.array_equal(np.array(lines[0].y, float), seen.agreement[:, 0], equal_nan=True)
    shown = {trace.name: len(trace.x) for trace in figure.data if (trace.meta or {}).get("decision")}
    names, counts = np.unique(seen.decisions(), return_counts=True)
    assert shown == dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 4 and figure.layout.font.size >= 13
    assert any("τ = 0.70" in note.text for note in figure.layout.annotations)
    tracks = track_figure(seen, None, theme)
    assert len(tracks.data) == 6 and tracks.layout.shapes[0].visible is False
    areas = next(trace for trace in tracks.data if trace.meta == {"object": 1, "quantity": "area"})
    assert np.array_equal(np.array(areas.y, float), seen.series(1).area)
    scores = scores_figure(seen, None, 4, theme)
    assert np.allclose(np.array(scores.data[0].y, float), seen.scores().per_frame)
    json.loads(figure.to_json())
    with pytest.raises(BadInput, match="theme"):
        agreement_figure(seen, 4, "pink")


def test_plots_of_a_long_clip_draw_lines_and_runs_instead_of_thousands_of_markers():
    seen = Inspection(made_result(frames=200, height=240, width=320))
    figure = agreement_figure(seen)
    assert all("markers" not in trace.mode for trace in figure.data)
    decisions = seen.decisions()
    for trace in figure.data:
        if name := (trace.meta or {}).get("decision"):
            starts, ends = np.array(trace.x[::3], float), np.array(trace.x[1::3], float)
            assert (ends - starts).sum() == (decisions == name).sum() and set(trace.x[2::3]) == {None}
    values = np.full(200, np.nan)
    values[[0, 50, 51, 120, 199]] = 7.0
    line = _line(values)
    assert line["mode"] == "lines" and len(line["x"]) == len(line["y"]) == 203
    assert np.allclose(line["x"][~np.isnan(line["y"])], [-0.4, 0.4, 50, 51, 119.6, 120.4, 198.6, 199.4])


def test_plots_without_truth_say_so():
    figure = scores_figure(Inspection(made_result()))
    assert not figure.data and "no ground truth" in figure.layout.annotations[0].text


@pytest.mark.parametrize("name", ["no frames", "one frame", "no objects", "no answers", "twenty"])
def test_whatever_is_missing_everything_is_drawn(name, tmp_path):
    one = cases()[name]
    for figure in (agreement_figure(one, 0), track_figure(one, 0), scores_figure(one, one, 0)):
        figure.to_json()
    difference_figure(Differences(one, one)).to_json()
    if one.frames:
        picture = paint(one, 0, Look(LAYERS, boxes=True, trail=5, patterns=True, size=(200, 200)))
        assert picture.shape[2] == 3
    page = np.array(Image.open(io.BytesIO(static_picture(one))))
    assert page.shape[0] > 100 and page.std() > 5


def test_the_static_page_of_two(seen):
    other = Inspection(made_result(rule="left"), truth=seen.truth and true_masks(12, 2, 40, 51))
    alone, both = (
        np.array(Image.open(io.BytesIO(page))) for page in (static_picture(seen), static_picture(seen, other))
    )
    assert both.shape[0] > 1.4 * alone.shape[0] and both.shape[1] == alone.shape[1]


def test_the_static_page_shows_what_is_ticked_then_the_other_layers_and_the_present_frame(seen, monkeypatch):
    from videomolmo.inspector import static_page

    left_out = next(t for t in range(12) if t not in static_page.chosen_frames([seen]))
    drawn = []
    monkeypatch.setattr(static_page, "paint", lambda one, t, look: drawn.append((t, look)) or paint(one, t, look))
    pages = []
    for look, frame in ((Look(), 0), (Look(("forward", "truth")), 0), (Look(objects=(2,)), 0), (Look(), left_out)):
        pages.append(static_picture(seen, None, [look], frame))
        assert frame in {t for t, _ in drawn} and drawn[0][1].layers == look.layers
        assert {layer for _, one in drawn for layer in one.layers} == set(LAYERS)
        assert {one.objects for _, one in drawn} == {look.objects}
        drawn.clear()
    assert len(set(pages)) == len(pages)
    assert all(t in static_page.chosen_frames([seen], also=t) for t in range(12))


# two results


def test_differences_are_those_of_the_masks(seen):
    other = Inspection(made_result(rule="left"))
    both = Differences(seen, other)
    a, b = (np.stack([one.mask("fused", t) for t in range(12)]) for one in (seen, other))
    union, common = (a | b).sum(axis=(2, 3)), (a & b).sum(axis=(2, 3))
    assert both.pairs == [(1, 1), (2, 2)]
    assert np.allclose(both.per_frame, (1 - common / union).mean(axis=1))
    visited, at = [], -1
    for _ in range(4):
        at = both.next_difference(at)
        visited.append(at)
    assert len(set(visited)) >= 2 and all(both.per_frame[t] > 0 for t in visited)
    assert int(both.per_frame.argmax()) in visited
    assert "Only one" in both.missing()[0]
    other.apply_fusion_rule("iou")
    assert both.per_frame.max() == 0 and both.next_difference(0) is None


def test_results_of_other_length_size_and_number_are_compared(seen):
    small = Inspection(made_result(frames=9, objects=1, height=20, width=26))
    both = Differences(seen, small)
    assert both.frames == 9 == len(both.per_frame) and len(both.missing()) == 3
    assert both.pairs[-1][1] is None or both.pairs[-1][0] is None


# files


def test_davis_pictures_hold_labels(seen, tmp_path):
    folder = tmp_path / "davis"
    assert export_labels(seen, "davis", folder) == ["names"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{t:05d}.png" for t in range(12)]
    with Image.open(folder / "00003.png") as image:
        assert image.mode == "P" and np.array_equal(np.reshape(image.getpalette(), (-1, 3))[:3], palette(3))
        labels = np.array(image)
    assert np.array_equal(labels == 2, seen.mask("fused", 3)[1])
    export_labels(seen, "davis", tmp_path / "truth", "truth")
    truth = Inspection(made_result(), truth=tmp_path / "truth")
    assert np.array_equal(truth.mask("truth", 5), seen.mask("truth", 5))


def test_coco_masks_read_back(seen, tmp_path):
    Corrections(seen).rename(1, "ball")
    assert export_labels(seen, "coco", tmp_path / "a.json") == []
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["images"]) == 12 and [c["name"] for c in content["categories"]] == ["ball", "the squares"]
    for one in content["annotations"]:
        wanted = seen.mask("fused", one["image_id"])[one["track_id"] - 1]
        assert np.array_equal(rle.decode(one["segmentation"]).astype(bool), wanted) and one["area"] == wanted.sum()
    assert len(content["annotations"]) == 24


def test_tracks_are_a_table(seen, tmp_path):
    Corrections(seen).rename(1, "ball, red")
    export_labels(seen, "csv", tmp_path / "tracks.csv")
    table = pd.read_csv(tmp_path / "tracks.csv")
    wanted = seen.result.tracks
    assert np.array_equal(table[["frame", "object", "area_px"]], wanted[["frame", "object", "area_px"]])
    assert set(table.name) == {"ball, red", "the squares"} and set(table.decision) <= set(DECISIONS)


def test_videos_show_what_is_painted(seen, tmp_path):
    steps = []
    path = export_video(seen, tmp_path / "a.mp4", Look(("fused", "truth")), lambda done, total: steps.append(done))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 12 and steps == list(range(1, 13)) and min(frames[0].shape[:2]) >= 360
    painted = paint(seen, 3, Look(("fused", "truth"), size=frames[3].shape[:2]))
    assert np.abs(frames[3][: painted.shape[0], : painted.shape[1]].astype(int) - painted).mean() < 12
    with Image.open(export_video(seen, tmp_path / "a.gif", Look())) as image:
        assert image.n_frames == 12
    with Image.open(export_view(seen, tmp_path / "v.png", 3, Look(size=(80, 102)))) as image:
        assert np.array_equal(np.array(image), paint(seen, 3, Look(size=(80, 102))))


def test_videos_have_the_times_and_the_pixels_of_the_clip(tmp_path):
    result = made_result()
    result.times_s = np.array([0, 0.1, 0.2, 0.21, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 4])
    result._video.pixel_aspect = Fraction(2)
    seen = Inspection(result)
    with open_video(export_video(seen, tmp_path / "a.mp4")) as frames:
        assert np.allclose(frames.times_s, result.times_s, atol=1e-4) and frames.pixel_aspect == 2
        height, width = frames.height, frames.width
    with Image.open(export_video(seen, tmp_path / "a.gif")) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
        assert abs(image.width / image.height - 2 * width / height) < 0.05
    assert durations == [100, 100, 2000, *[100] * 6, 1200, 100]  # one frame is shorter than a GIF's shortest


def test_two_who_write_at_once_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(BadInput, match="exists"), new_file(path, ".txt") as slow:
        slow.write_text("slow")
        with new_file(path, ".txt") as quick:
            assert quick != slow
            quick.write_text("quick")
    assert path.read_text() == "quick" and list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten(seen, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("a.json", "a.csv", "a.mp4", "a.gif", "a.png"):
        (mine / name).write_text("mine")
    exports = (
        lambda: export_labels(seen, "davis", mine), lambda: export_labels(seen, "coco", mine / "a.json"),
        lambda: export_labels(seen, "csv", mine / "a.csv"), lambda: export_video(seen, mine / "a.mp4"),
        lambda: export_video(seen, mine / "a.gif"), lambda: export_view(seen, mine / "a.png", 0),
        lambda: export_view(seen, mine / "new.jpg", 0), lambda: export_video(seen, mine / "new.avi"),
        lambda: export_labels(seen, "csv", mine / "nowhere" / "a.csv"), lambda: export_view(seen, mine / "new.png", 99),
        lambda: export_labels(Inspection(made_result(objects=0)), "davis", mine / "new"),
        lambda: export_labels(seen, "davis", mine / "new", "nonsense"),
        lambda: export_video(Inspection(made_result(frames=0, objects=0)), mine / "new.mp4"),
    )  # fmt: skip
    for number, export in enumerate(exports):
        with pytest.raises(BadInput):
            export()
            pytest.fail(f"export {number} was not refused")
    assert sorted(path.name for path in mine.iterdir()) == ["a.csv", "a.gif", "a.json", "a.mp4", "a.png"]
    assert {path.read_text() for path in mine.iterdir()} == {"mine"}


def test_an_export_that_fails_leaves_nothing(seen, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("disk full")

    monkeypatch.setattr("videomolmo.inspector.exports.paint_beside", broken)
    monkeypatch.setattr("videomolmo.io.formats.pictures.write_label_png", broken)
    for export in (
        lambda: export_video(seen, tmp_path / "a.mp4"),
        lambda: export_labels(seen, "davis", tmp_path / "d"),
    ):
        with pytest.raises(RuntimeError):
            export()
    assert list(tmp_path.iterdir()) == []
