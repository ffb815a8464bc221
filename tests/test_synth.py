"""Generated clips: the same everywhere, masks and facts true of the pixels, sentences that mean what they say."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from videomolmo.protocols import as_question, label_of
from videomolmo.synth.clips import clip_query, generate_clip
from videomolmo.synth.render import Renderer
from videomolmo.synth.scene import (
    COLOURS,
    MOTIONS,
    NAMELESS,
    SHAPES,
    ObjectFacts,
    inner_point,
    outline,
    sample_colour,
    sample_scene,
)
from videomolmo.synth.sentences import Query, ask, list_query, phrase, sample_query

SEEDS = range(10_000_000, 10_000_030)


def thing(shape="circle", colour="red", motion=None, seen: bool | None = True, point=(0.5, 0.5)) -> ObjectFacts:
    return ObjectFacts(shape, colour, motion, seen, point)


# The same everywhere


def test_a_seed_is_the_same_clip_in_every_process():
    code = (
        "import hashlib\nfrom videomolmo.synth.clips import generate_clip\n"
        "for motion in (False, True):\n"
        "    clip = generate_clip(10_000_007, frames=3, height=40, width=56, motion=motion)\n"
        "    print(hashlib.sha256(clip.frames.tobytes() + clip.masks.tobytes()).hexdigest(), clip.object_facts[2])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    here = generate_clip(10_000_007, frames=3, height=40, width=56)
    assert runs[0].stdout.startswith(hashlib.sha256(here.frames.tobytes() + here.masks.tobytes()).hexdigest())


def test_frames_can_be_drawn_in_any_order():
    scene = sample_scene(5, motion=False, frames=6)
    there, back = Renderer(scene, 40, 40), Renderer(scene, 40, 40)
    frames = [there.frame(time) for time in range(6)]
    for time in reversed(range(6)):
        picture, masks = back.frame(time)
        assert np.array_equal(picture, frames[time][0]) and np.array_equal(masks, frames[time][1])


def test_seeds_and_motion_make_different_scenes():
    frames = {
        generate_clip(seed, frames=1, height=32, width=32, motion=m).frames.tobytes() for seed in SEEDS for m in (0, 1)
    }
    assert len(frames) == 2 * len(SEEDS)


# Masks and pixels


@pytest.mark.parametrize("motion", [False, True])
def test_visible_masks_are_disjoint(motion):
    for seed in SEEDS:
        clip = generate_clip(seed, frames=2, height=64, width=80, motion=motion)
        assert clip.masks.sum(axis=1).max() <= 1
        assert clip.masks.shape[:2] == (2, len(clip.scene.objects))


@pytest.mark.parametrize("shape", [*SHAPES, NAMELESS])
def test_a_mask_covers_just_the_pixels_of_its_object(shape):
    """With a plain photograph of one object without an edge, shade or mark, colour tells where it is."""
    rng = np.random.default_rng(3)
    scene = sample_scene(12, motion=False, frames=2, aspect=1.0)
    one = replace(scene.objects[0], shape=shape, outline=outline(rng, shape), rgb=np.array([1.0, 0, 0], np.float32),
                  radius=0.3, shade=0.0, marked=0.0, soft=0.0)  # fmt: skip
    one = replace(one, path=replace(one.path, at=np.array([0.5, 0.5]), velocity=np.zeros(2), sway=np.zeros(2)))
    plain = replace(
        scene, objects=(one,), occluders=(), background="flat", background_rgb=(np.zeros(3, np.float32),) * 6, blur=0.0,
        noise=0.0, jpeg=0, vignette=0.0, light=(1.0, 0.0, 0.1), cast=np.ones(3), drift=np.zeros(2),
    )  # fmt: skip
    frame, masks = Renderer(plain, 96, 96).frame(0)
    red = frame[..., 0] >= 128
    assert masks[0].sum() > 300 and np.count_nonzero(red ^ masks[0]) <= 2
    corners = one.outline * one.radius * 96
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).sum()
    assert (
        abs(Renderer(plain, 96, 96).full_areas(0)[0] - masks[0].sum()) < edge
    )  # OpenCV draws more than half a pixel wide


def test_what_is_in_front_hides_what_is_behind():
    scene = sample_scene(12, motion=False, frames=2, aspect=1.0)
    path = replace(scene.objects[0].path, at=np.array([0.5, 0.5]), velocity=np.zeros(2), sway=np.zeros(2))
    back = replace(scene.objects[0], path=path, radius=0.2, soft=0.0)
    front = replace(back, outline=back.outline * 1.3)
    _, masks = Renderer(replace(scene, objects=(back, front), occluders=()), 64, 64).frame(0)
    assert not masks[0].any() and masks[1].sum() > 100


@pytest.mark.parametrize("motion", [False, True])
def test_points_lie_on_what_is_seen(motion):
    count = 0
    for seed in SEEDS:
        clip = generate_clip(seed, frames=2, height=72, width=60, motion=motion, square=False)
        for masks, things in zip(clip.masks, clip.object_facts, strict=True):
            for mask, one in zip(masks, things, strict=True):
                if one.seen:
                    x, y = one.point
                    assert mask[int(y * 72), int(x * 60)]
                    count += 1
    assert count > 50


@pytest.mark.parametrize("rows, columns", [((3, 4), (5, 6)), ((0, 20), (10, 11)), ((0, 1), (0, 30))])
def test_inner_point_of_thin_masks(rows, columns):
    mask = np.zeros((20, 30), bool)
    mask[slice(*rows), slice(*columns)] = True
    x, y = inner_point(mask)
    assert mask[round(y), round(x)]


def test_inner_point_of_a_ring_is_on_the_ring():
    rows, columns = np.mgrid[:31, :31]
    distance = np.hypot(rows - 15, columns - 15)
    ring = (distance > 8) & (distance < 13)
    x, y = inner_point(ring)
    assert ring[round(y), round(x)]


def test_seen_is_a_matter_of_opinion_only_between():
    for seed in SEEDS:
        clip = generate_clip(seed, frames=2, height=64, width=64)
        for masks, things in zip(clip.masks, clip.object_facts, strict=True):
            for mask, one in zip(masks, things, strict=True):
                assert one.seen is not True or mask.sum() >= 0.0016 * mask.size
                assert mask.any() or one.seen is not True


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (7, 5), (17, 301), (301, 17), (33, 64)])
def test_unusual_sizes(height, width):
    for seed in (*SEEDS[:6], 3):
        for square in (True, False):
            clip = generate_clip(seed, frames=2, height=height, width=width, motion=bool(seed % 2), square=square)
            assert clip.frames.shape == (2, height, width, 3) and clip.frames.dtype == np.uint8
            assert clip.masks.shape[2:] == (height, width)


# Motion


@pytest.mark.parametrize("motion", MOTIONS)
def test_things_move_as_they_are_called(motion):
    """Seen against the camera's drift, the centre moves the named way, more along it than across."""
    checked = 0
    for seed in range(60):
        scene = sample_scene(seed, motion=True, frames=8)
        for one in scene.objects:
            if one.motion != motion:
                continue
            start, end = (one.path.position(time) for time in (0, 7))
            moved = (end - start) / np.array([scene.aspect, 1.0])
            checked += 1
            if motion == "still":
                assert np.allclose(moved, 0)
            else:
                along = float(moved @ np.array(MOTIONS[motion]))
                assert along > 0.03 and abs(along) > 2 * abs(float(moved @ np.array(MOTIONS[motion])[::-1]))
    assert checked > 20


def test_centres_of_masks_move_as_they_are_called():
    seen = {name: 0 for name in MOTIONS}
    for seed in SEEDS:
        clip = generate_clip(seed, frames=6, height=96, width=96, motion=True)
        for number, one in enumerate(clip.scene.objects):
            first, last = clip.masks[0, number], clip.masks[-1, number]
            inside = not any(np.r_[mask[0], mask[-1], mask[:, 0], mask[:, -1]].any() for mask in (first, last))
            whole = all(clip.object_facts[at][number].seen for at in (0, -1)) and inside
            if not whole or clip.scene.occluders or abs(int(first.sum()) - int(last.sum())) > 0.04 * first.sum():
                continue
            moved = np.array([np.mean(np.nonzero(last)[axis]) - np.mean(np.nonzero(first)[axis]) for axis in (1, 0)])
            moved -= clip.scene.drift * 5 * 96
            if one.motion == "still":
                assert np.abs(moved).max() < 1.5
            else:
                assert moved @ np.array(MOTIONS[one.motion]) > 1.5
            seen[one.motion] += 1
    assert all(seen.values()), seen


# Sentences


def test_targets_are_the_seen_objects_meant():
    things = [
        thing("circle", "red"),
        thing("square", "red"),
        thing("circle", "blue", seen=False),
        thing("star", "green"),
    ]
    assert Query("appearance", "", "circle", "red").targets(things) == [0]
    assert Query("colour", "", colour="red").targets(things) is None  # two of them, asked for as one
    assert Query("all", "", colour="red", plural=True).targets(things) == [0, 1]
    assert Query("appearance", "", "circle", "blue").targets(things) == []  # fully hidden: not there
    assert Query("shape", "", "circle").targets(things) == [0]  # the other circle cannot be seen
    assert Query("absent object", "", "triangle").targets(things) == []
    half_hidden = [*things, thing("star", "white", seen=None)]
    assert Query("shape", "", "star").targets(half_hidden) is None
    assert Query("all", "", "star", plural=True).targets(half_hidden) is None
    assert Query("appearance", "", "star", "green").targets(half_hidden) == [3]


def test_motion_queries_mean_the_moving_one():
    things = [thing(motion="left"), thing(motion="right"), thing("square", motion="left")]
    assert Query("motion", "", "circle", motion="left").targets(things) == [0]
    assert Query("motion", "", motion="right").targets(things) == [1]
    assert Query("absent motion", "", "square", motion="still").targets(things) == []


@pytest.mark.parametrize("motion", [False, True])
def test_wordings_name_what_they_mean(motion):
    rng = np.random.default_rng(0)
    kinds = set()
    for seed in range(80):
        things = sample_scene(seed, motion=motion).objects
        for _ in range(4):
            query = sample_query(rng, things, motion=motion)
            kinds.add(query.kind)
            words = query.phrase
            assert query.colour is None or query.colour in words
            assert query.shape is None or query.shape in words
            assert query.motion is None or re.search("mov|going|heading|still|station|standing|motion", words)
            if query.motion and query.motion != "still":
                assert query.motion in words
                assert not any(other in words for other in MOTIONS if other != query.motion)
            others = [colour for colour in COLOURS if colour != query.colour]
            assert not any(other in words.split() for other in others)
            assert words == " ".join(words.split()) and words == words.lower()
            assert label_of(words) and as_question(ask(rng, query))
    assert kinds == ({"motion", "absent motion"} if motion else {"appearance", "colour", "all", "absent object"})


def test_lists_are_asked_for_where_seen_things_are_alike():
    rng = np.random.default_rng(2)
    things = [thing("star", "red"), thing("star", "blue"), thing("circle", "blue"), thing("square", "cyan")]
    found = [list_query(rng, things) for _ in range(40)]
    assert {(query.shape, query.colour) for query in found} == {("star", None), (None, "blue")}
    assert all(query.plural and query.kind == "all" and len(query.targets(things)) == 2 for query in found)
    assert list_query(rng, [thing("star"), thing("circle", "blue")]) is None
    assert list_query(rng, [thing("star"), thing("star", "blue", seen=None)]) is None
    assert list_query(rng, [thing(NAMELESS), thing(NAMELESS, "blue")]) is None


def test_plural_wordings_ask_for_all():
    rng = np.random.default_rng(1)
    for query in (
        Query("all", "", "star", plural=True),
        Query("all", "", None, "red", plural=True),
        Query("all", "", "star", "red", plural=True),
    ):
        words = {phrase(rng, query).phrase for _ in range(60)}
        assert len(words) > 3
        assert all("ss" not in text and text.split()[0] in ("all", "every", "each", "the") for text in words)


def test_a_query_of_a_clip_names_one_object():
    found = 0
    for seed in SEEDS:
        for motion in (False, True):
            clip = generate_clip(seed, frames=3, height=48, width=48, motion=motion)
            query = clip_query(seed, clip, motion=motion)
            assert query == clip_query(seed, clip, motion=motion)
            if query is None:
                continue
            found += 1
            named = [number for number, one in enumerate(clip.scene.objects) if query.means(one)]
            assert len(named) == 1
            assert np.array_equal(clip.truth(query), clip.masks[:, named[0]])
    assert found > len(SEEDS)


# Mirrors, and colours


@pytest.mark.parametrize("code", range(8))
def test_mirrored_points_stay_on_their_objects_and_motions_turn(code):
    from videomolmo.lab.nano.batches import mirrored

    for seed in (*SEEDS[:8],):
        clip = generate_clip(seed, frames=5, height=72, width=72, motion=True)
        ids = sum(mask * number for number, mask in enumerate(clip.masks[-1].astype(np.uint8), start=1))
        frames, (turned,), things = mirrored(clip.frames, ids[None], clip.object_facts[-1], code)
        assert frames.shape == clip.frames.shape
        painted = mirrored(np.repeat(ids[None, ..., None], 3, axis=-1), ids[None], [], code)[0]
        assert np.array_equal(painted[0, ..., 0], turned)  # pictures and ids turn alike
        for number, (before, after) in enumerate(zip(clip.object_facts[-1], things, strict=True), start=1):
            if before.seen:
                x, y = after.point
                column, row = (min(int(value * 72), 71) for value in (x, y))
                near = turned[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                assert number in near
            direction = np.array(MOTIONS[before.motion])
            if code & 1:
                direction = direction * (-1, 1)
            if code & 2:
                direction = direction * (1, -1)
            if code & 4:
                direction = direction[::-1]
            assert MOTIONS[after.motion] == tuple(direction)


def test_colours_are_what_they_are_called():
    rng = np.random.default_rng(0)
    for name in COLOURS:
        for _ in range(50):
            red, green, blue = sample_colour(rng, name)
            assert min(red, green, blue) >= 0 and max(red, green, blue) <= 1
            strongest = {"red": red, "green": green, "blue": blue}
            if name in strongest:
                assert strongest[name] == max(strongest.values())
            if name == "white":
                assert min(red, green, blue) > 0.8
