"""vpos-nano: the same bytes everywhere, disjoint masks, phrases whose objects are there, two unlike parts."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from videomolmo.errors import BadInput
from videomolmo.synth.worlds import CLIPS_A_SCENE, KINDS, PARTS, SCENES, VposClip, benchmark, generate
from videomolmo.synth.worlds.camera import Camera
from videomolmo.synth.worlds.world import KEEP, NOBODY, Canvas, follow

SMALL = {"frames": 10, "height": 120, "width": 160}
EVERY = [(scene, part) for scene in SCENES for part in PARTS]
FAIR = 0.3  # of the frames: what a phrase means is to be seen in so many


@cache
def clips(scene: str, part: str) -> tuple[VposClip, ...]:
    return tuple(generate(scene, part, index, **SMALL) for index in range(CLIPS_A_SCENE))


def digest(clip: VposClip) -> str:
    content = clip.frames.tobytes() + clip.masks.tobytes() + repr((clip.names, clip.expressions)).encode()
    return hashlib.sha256(content).hexdigest()


# The same everywhere


def test_a_clip_is_the_same_in_every_process_and_order():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_vpos import digest, generate, SCENES\n"
        "for scene in reversed(SCENES): print(scene, digest(generate(scene, 'test', 3, frames=3, height=60, width=80)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    there = dict(line.split() for line in done.stdout.splitlines())
    assert there == {scene: digest(generate(scene, "test", 3, frames=3, height=60, width=80)) for scene in SCENES}


@pytest.mark.parametrize("scene, part", EVERY)
def test_clips_differ_from_each_other(scene, part):
    assert len({clip.frames.tobytes() for clip in clips(scene, part)}) == CLIPS_A_SCENE
    assert len({clip.names for clip in clips(scene, part)}) > 1 or scene == "driving"


@pytest.mark.parametrize("scene", SCENES)
def test_the_first_and_last_frame_do_not_depend_on_the_length(scene):
    short, long = (generate(scene, "train", 1, frames=n, height=60, width=80) for n in (2, 5))
    assert np.array_equal(short.masks[[0, 1]], long.masks[[0, 4]])
    assert np.array_equal(short.frames[0], long.frames[0]) and short.expressions == long.expressions


def test_the_benchmark_runs_scene_by_scene():
    names = [clip.name for clip in benchmark("test", scenes=("gui", "cells"), clips=2, frames=1, height=24, width=32)]
    assert names == ["gui-test-00", "gui-test-01", "cells-test-00", "cells-test-01"]


# Shapes and masks


@pytest.mark.parametrize("scene, part", EVERY)
def test_shapes_and_types(scene, part):
    for index, clip in enumerate(clips(scene, part)):
        objects = len(clip.names)
        assert clip.frames.shape == (10, 120, 160, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.shape == (10, objects, 120, 160) and clip.masks.dtype == bool
        assert clip.seed == (SCENES.index(scene), PARTS.index(part), index)
        assert clip.frames.std() > 5 and (clip.frames[0] != clip.frames[-1]).any()


@pytest.mark.parametrize("scene, part", EVERY)
def test_no_pixel_belongs_to_two_objects(scene, part):
    for clip in clips(scene, part):
        assert clip.masks.sum(axis=1).max() <= 1


@pytest.mark.parametrize("height, width", [(1, 1), (3, 50), (70, 20), (48, 96)])
def test_unusual_sizes(height, width):
    for scene in SCENES:
        clip = generate(scene, "test", 2, frames=2, height=height, width=width)
        assert clip.frames.shape == (2, height, width, 3) and clip.masks.shape[2:] == (height, width)


def test_masks_scale_with_the_picture():
    small, large = (generate("gui", "train", 0, frames=2, height=n, width=n * 4 // 3) for n in (120, 240))
    shares = [clip.masks.mean(axis=(2, 3)) for clip in (small, large)]
    assert np.abs(shares[0] - shares[1]).max() < 0.01


def test_paint_in_front_takes_pixels_and_shadows_do_not():
    canvas = Canvas(24, 32)  # a tenth of the sheet
    canvas.box((0, 0, 200, 240), (1, 0, 0), 1)
    canvas.box((100, 0, 320, 240), (0, 1, 0), 2)
    canvas.box((0, 0, 320, 120), (0, 0, 0), KEEP, opacity=0.5)
    canvas.box((0, 200, 320, 240), (0, 0, 1), NOBODY)
    first, second = canvas.masks(2)
    assert first[:19, :9].all() and not first[:, 11:].any()
    assert second[:19, 11:].all() and not second[21:].any() and not first[21:].any()
    assert np.allclose(canvas.picture[5, 5], (0.5, 0, 0)) and np.allclose(canvas.picture[15, 5], (1, 0, 0))


def test_a_mask_is_where_its_colour_shows():
    """A lone white cursor over a dark wall paper: every pixel of its mask is drawn, none beside it."""
    canvas = Canvas(120, 160)
    canvas.stroke([[50, 50], [250, 180]], [20, 60], (1, 1, 1), 1)
    canvas.ellipse((240, 60), (40, 20), (1, 1, 1), 2, angle=0.5)
    drawn = canvas.picture[..., 0] >= 0.5
    assert np.array_equal(drawn, canvas.masks(2).any(axis=0)) and canvas.masks(2).sum(axis=(1, 2)).min() > 300


# Phrases


@pytest.mark.parametrize("scene, part", EVERY)
def test_every_kind_of_phrase_is_there_once_at_least(scene, part):
    for clip in clips(scene, part):
        assert {expression.kind for expression in clip.expressions} == set(KINDS)
        texts = [expression.text for expression in clip.expressions]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("scene, part", EVERY)
def test_phrases_are_plain_lower_case_english(scene, part):
    for clip in clips(scene, part):
        for text in (*(expression.text for expression in clip.expressions), *clip.names):
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", text), text


@pytest.mark.parametrize("scene, part", EVERY)
def test_what_a_phrase_means_is_there_to_be_seen(scene, part):
    """Each object meant shows some pixels in a fair share of the frames; an absent phrase means nothing at all."""
    for clip in clips(scene, part):
        shares = (clip.masks.sum(axis=(2, 3)) >= 6).mean(axis=0)
        for text, objects, kind in clip.expressions:
            assert (kind == "absent") == (not objects), text
            assert len(set(objects)) == len(objects) and all(0 <= index < len(clip.names) for index in objects)
            for index in objects:
                assert shares[index] >= FAIR, f"{clip.name}: {text}: {clip.names[index]} in {shares[index]:.0%}"


@pytest.mark.parametrize("scene, part", EVERY)
def test_the_truth_of_a_phrase_is_the_union_of_its_objects(scene, part):
    clip = clips(scene, part)[0]
    for expression in clip.expressions:
        truth = clip.truth(expression)
        assert truth.shape == (10, 120, 160) and truth.sum() == clip.masks[:, list(expression.objects)].sum()
        assert truth.any() == (expression.kind != "absent")


@pytest.mark.parametrize("scene, part", EVERY)
def test_absent_phrases_name_nothing_that_is_there(scene, part):
    for clip in clips(scene, part):
        others = {expression.text for expression in clip.expressions if expression.kind != "absent"}
        named = {f"the {name}" for name in clip.names}
        assert not {e.text for e in clip.expressions if e.kind == "absent"} & (others | named)


# What happens


@pytest.mark.parametrize("part", PARTS)
def test_a_cell_becomes_two(part):
    for clip in clips("cells", part):
        mother, first, second = clip.masks[:, :3].any(axis=(2, 3)).T
        assert mother[0] and not mother[-1] and np.array_equal(first, ~mother) and np.array_equal(second, first)
        assert (np.diff(mother.astype(int)) == -1).sum() == 1  # once
        birth = int(first.argmax())
        before, after = clip.masks[birth - 1, 0], clip.masks[birth, 1:3].any(axis=0)
        assert (before & after).sum() > 0.3 * after.sum()


@pytest.mark.parametrize("part", PARTS)
def test_one_light_turns_green_and_one_stays_red(part):
    for clip in clips("driving", part):
        for light, changes in ((3, True), (4, False)):
            red, green = [], []
            for at in (4, 9):
                lamp = clip.frames[at][clip.masks[at, light]].astype(int)
                red.append((lamp[:, 0] - lamp[:, 1]).max() > 90)
                green.append((lamp[:, 1] - lamp[:, 0]).max() > 60)
            assert red == [True, not changes] and green == [False, changes]


@pytest.mark.parametrize("part", PARTS)
def test_only_the_lifted_block_moves(part):
    for clip in clips("robot", part):
        blocks = [index for index, name in enumerate(clip.names) if name.endswith("block")]
        assert [e.objects for e in clip.expressions if e.text == "the block that the gripper picks up"] == [(0,)]
        for index in blocks:
            start, end = (np.argwhere(clip.masks[at, index]).mean(axis=0) for at in (0, -1))
            assert (np.linalg.norm(end - start) > 12) == (index == 0)


@pytest.mark.parametrize("part", PARTS)
def test_the_clicked_button_is_under_the_cursor(part):
    for clip in clips("gui", part):
        (button,) = next(e.objects for e in clip.expressions if e.text == "the button that the cursor clicks")
        cursor, at = len(clip.names) - 1, 3  # a third of the way through
        rows, columns = np.nonzero(clip.masks[at, cursor])
        tip = rows.min(), columns[rows.argmin()]
        around = clip.masks[at, button][max(tip[0] - 3, 0) : tip[0] + 4, max(tip[1] - 3, 0) : tip[1] + 4]
        assert around.any()


@pytest.mark.parametrize("part", PARTS)
def test_counts_are_the_numbers_of_objects(part):
    answers = set()
    for clip in clips("counting", part):
        assert clip.answer == len(clip.names) == len(clip.expressions[0].objects)
        assert 2 <= clip.answer <= 13 and re.fullmatch(r"How many [a-z]+ are there in the video\?", clip.question)
        assert clip.masks.any(axis=(0, 2, 3)).all()
        gone = next(e.objects for e in clip.expressions if "leave" in e.text)
        assert set(np.flatnonzero(~clip.masks[-1].any(axis=(1, 2)))) == set(gone)
        answers.add(clip.answer)
    assert len(answers) == CLIPS_A_SCENE
    assert all(clip.answer is None and not clip.question for clip in clips("cells", part))


# Two parts


def test_parts_are_laid_out_differently():
    def both(scene, statistic):
        return [[statistic(clip) for clip in clips(scene, part)] for part in PARTS]

    train, test = both("cells", lambda clip: clip.frames.mean())
    assert min(train) > 100 > max(test)
    train, test = both("cells", lambda clip: len(clip.names))
    assert max(train) < min(test)
    train, test = both("driving", lambda clip: clip.frames[:, :40].mean())
    assert min(train) > max(test)
    train, test = both("robot", lambda clip: sum("arm" in name for name in clip.names))
    assert set(train) == {1} and set(test) == {2}
    train, test = both("gui", lambda clip: sum("window" in name for name in clip.names))
    assert set(train) == {3} and set(test) == {5}
    hand = {"train": [], "test": []}
    for part in PARTS:
        for clip in clips("ego", part):
            hand[part].append(np.nonzero(clip.masks[4, -1, -1])[0].mean() / 160)
    assert min(hand["train"]) > 0.5 > max(hand["test"])
    kinds = [set(names) for names in both("counting", lambda clip: clip.names[0])]
    assert not kinds[0] & kinds[1]


# Pieces


def test_a_camera_sees_near_things_large_and_level_things_at_its_centre():
    camera = Camera(at=(0, 0, 2), focal=100)
    assert np.allclose(camera.project((0, 10, 2)), (160, 120))
    assert np.allclose(camera.project([(1, 10, 2), (0, 10, 1)]), [(170, 120), (160, 130)])
    assert camera.units((0, 5, 0)) == 2 * camera.units((0, 10, 0)) == 20
    down = Camera(at=(0, 0, 2), focal=100, pitch=np.pi / 4)
    assert np.allclose(down.project((0, 2, 0)), (160, 120))


def test_follow_stops_at_every_stop():
    stops = [(0.2, (0.0, 0.0)), (0.5, (4.0, 2.0)), (0.9, (4.0, 8.0))]
    for time, place in [(0.0, (0, 0)), *stops, (1.0, (4, 8))]:
        assert np.allclose(follow(time, stops), place)


@pytest.mark.parametrize(
    "scene, part, index, size, named",
    [("moon", "train", 0, {}, "scene='moon'"), ("gui", "val", 0, {}, "part='val'"), ("gui", "test", -1, {}, "index=-1"),
     ("gui", "test", 0, {"frames": 0}, "frames=0")],
)  # fmt: skip
def test_wrong_requests_are_named(scene, part, index, size, named):
    with pytest.raises(BadInput, match=re.escape(named)):
        generate(scene, part, index, **size)
