"""Clips of events and what is asked about them: what is told of them is what their masks show."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from videomolmo.errors import BadInput
from videomolmo.synth.event_questions import CATEGORIES, WORDS, ask_about, category_of
from videomolmo.synth.event_scenes import ANOMALIES, GRID_S, VERBS
from videomolmo.synth.event_stage import counts, event_clip

SEEDS = range(4)


def middle(clip, thing, time):
    """Centre of a thing's mask at a time, in heights; None where it is not seen."""
    mask = clip.masks[round(time * clip.times_s.size / (clip.times_s[-1] + clip.times_s[1])), thing]
    return np.array([axis.mean() for axis in np.nonzero(mask)])[::-1] / clip.frames.shape[1] if mask.any() else None


def test_a_seed_is_always_the_same_clip_and_other_rates_show_the_same():
    one, again, fast = event_clip(11, "turns"), event_clip(11, "turns"), event_clip(11, "turns", fps=6)
    assert np.array_equal(one.frames, again.frames) and np.array_equal(one.masks, again.masks)
    assert np.array_equal(fast.masks[fast.grid], one.masks) and fast.events == one.events
    assert one.times_s[-1] == fast.times_s[-1] == 6.0 and len(one.frames) == 13


def test_a_seed_asks_the_same_in_every_process():
    """Python orders a set of texts anew in each process, and training resumes in another one."""
    code = (
        "from videomolmo.datasets.generated_events import read_point_video_nano as read\n"
        "print([one.text for record in read(clips=6, height=32, width=32) for one in record.expressions])"
    )
    asked = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(asked) == 1 and len(asked.pop()) > 200


@pytest.mark.parametrize("theme", [*VERBS, "anomaly"])
def test_as_many_events_happen_as_were_wanted_and_at_times_on_the_grid(theme):
    names = ANOMALIES if theme == "anomaly" else (theme,)
    for seed in SEEDS:
        for wanted in (0, 2, 3):
            clip = event_clip(seed, theme, wanted=wanted)
            found = [event for event in clip.events if event.verb in names]
            assert wanted <= len(found) <= wanted + 3 if theme in ("leaves", "turns", "stops") else len(found) == wanted
            assert all(event.time_s % GRID_S == 0 and 0 <= event.time_s <= 6 for event in clip.events)


def test_what_is_told_of_events_is_to_be_seen():
    """Directions before and after, from masks alone."""
    told = 0
    for seed in range(12):
        for theme in ("turns", "stops", "anomaly", "leaves"):
            clip = event_clip(seed, theme, wanted=3, height=128, width=128)
            for event in clip.events:
                before, now, after = (middle(clip, event.things[0], event.time_s + shift) for shift in (-0.5, 0, 0.5))
                if event.verb == "vanishes":
                    assert now is not None and after is None and ((now > 0.04) & (now < 0.96)).all()
                elif event.verb == "jumps":
                    assert np.linalg.norm(now - before) > 0.25
                elif event.verb == "leaves" and after is None:
                    assert ((now < 0.25) | (now > 0.75)).any()
                elif event.verb == "stops":
                    assert np.linalg.norm(after - now) < 0.01 < np.linalg.norm(now - before)
                elif event.verb == "turns":
                    ways = now - before, after - now
                    assert np.dot(*ways) < 0.6 * np.linalg.norm(ways[0]) * np.linalg.norm(ways[1])
                else:
                    continue
                told += 1
    assert told > 60


def test_counts_are_up_sampled_as_the_source_does():
    rng = np.random.default_rng(0)
    drawn = np.bincount([counts(rng) for _ in range(4000)], minlength=13)
    assert abs(drawn[:6].sum() / 4000 - 4 / 7) < 0.03 and drawn.min() > 180 and len(drawn) == 13


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_answer_of_every_category_can_be_pointed_at(category):
    found = 0
    for seed in SEEDS:
        clip, asked = ask_about(seed, category, most=3, height=64, width=80)
        assert asked[0].category == category and len({one.how_many for one in asked}) == len(asked)
        for one in asked:
            frames = [target.frame for target in one.targets]
            assert frames == sorted(frames) and set(frames) <= set(clip.grid)
            for number, target in enumerate(one.targets):
                point = one.point(clip, number)
                mask = one.mask(clip, number, target.frame)
                assert point is not None and mask[int(point[1]), int(point[0])]
                found += 1
            assert one.is_event == (one.label in {label for _, _, label in WORDS.values()})
    assert found


def test_all_categories_come_in_turn():
    assert [category_of(seed) for seed in range(8)] == list(CATEGORIES)


@pytest.mark.parametrize(
    "values, said",
    [({"theme": "flies"}, "theme is 'flies', expected one of objects"), ({"fps": 5}, "expected half seconds"),
     ({"duration_s": 5.3}, "expected half seconds"), ({"duration_s": 2.0}, "expected at least 3"),
     ({"seed": -1}, "seed is -1")],
)  # fmt: skip
def test_what_is_not_on_the_grid_is_refused(values, said):
    with pytest.raises(BadInput, match=said):
        event_clip(**{"seed": 0} | values)
