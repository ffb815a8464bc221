"""Windows: SAM 2's own predictor as the measure, no look into the future, identities that last, every fusion rule."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES, fuse, iou
from videomolmo.io.live import LiveFrames
from videomolmo.io.video import open_video
from videomolmo.masks.sam2 import MEAN, STD, MaskTracker
from videomolmo.masks.windows import Window, track_windows
from videomolmo.weights.hub import nano_masks
from videomolmo.weights.matmul import fast_matmul, stays_float32

HEIGHT, WIDTH = 48, 64
Keys = dict[int, list[np.ndarray]]


def clicks(*points: tuple[float, float]) -> list[np.ndarray]:
    """One object per point."""
    return [np.array([point], np.float32) for point in points]


def windows(tracker, frames: np.ndarray, keys: Keys, **options) -> list[Window]:
    return list(track_windows(tracker, with_clicks(frames, keys), len(frames), **options))


def with_clicks(frames: np.ndarray, keys: Keys):
    """Frames with the clicks on them; None on those that are no key frames."""
    return ((frame, keys.get(at)) for at, frame in enumerate(frames))


# SAM 2 with random weights


@pytest.fixture(scope="module")
def tracker(tiny_grounder) -> MaskTracker:
    return tiny_grounder.tracker


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Fourteen frames of smooth noise with a bright square that moves."""
    rng = np.random.default_rng(1)
    made = F.interpolate(torch.from_numpy(rng.random((14, 3, 6, 8), np.float32)), size=(HEIGHT, WIDTH), mode="bicubic")
    made = (made.clamp(0, 1) * 160).byte().permute(0, 2, 3, 1).numpy()
    for at, frame in enumerate(made):
        frame[10:26, 5 + 3 * at : 21 + 3 * at] = (240, 30, 30)
    return made


def predictor_of(model: torch.nn.Module):
    """The package's own video predictor of the same configuration and weights."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(nano_masks() / "config.yaml")
    config["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    predictor = instantiate(config, _recursive_=True)
    predictor.load_state_dict(model.state_dict())
    return predictor.eval()


def state_of(frames: np.ndarray, size: int) -> dict:
    """What the predictor's `init_state` would make of these frames, had it read them from files."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    images = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    empty = ("point_inputs_per_obj", "mask_inputs_per_obj", "cached_features", "constants", "output_dict_per_obj",
             "temp_output_dict_per_obj", "frames_tracked_per_obj")  # fmt: skip
    return {name: {} for name in empty} | {
        "images": images, "num_frames": len(images), "video_height": frames.shape[1], "video_width": frames.shape[2],
        "offload_video_to_cpu": False, "offload_state_to_cpu": False, "device": torch.device("cpu"),
        "storage_device": torch.device("cpu"), "obj_id_to_idx": OrderedDict(), "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
    }  # fmt: skip


@pytest.mark.parametrize("reverse, at", [(False, 0), (True, 13), (False, 4), (True, 9)])
@pytest.mark.parametrize(
    "points",
    [clicks((13, 18), (50, 40)), [np.array([(13, 18), (30, 12), (4, 4)], np.float32), *clicks((50, 40))]],
    ids=["one click each", "three clicks and one"],
)
def test_tracks_are_those_of_the_packages_predictor(tracker, frames, reverse, at, points):
    predictor, state = predictor_of(tracker.model), state_of(frames, tracker.model.image_size)
    for number, own in enumerate(points):
        predictor.add_new_points_or_box(state, at, number, points=own, labels=np.ones(len(own), np.int32))
    wanted = {}
    for number, _, logits in predictor.propagate_in_video(state, start_frame_idx=at, reverse=reverse):
        wanted[number] = (logits[:, 0] > 0).numpy()
    order = range(at, -1, -1) if reverse else range(at, len(frames))
    assert list(wanted) == list(order)
    track = tracker.start(at, tracker.encode(frames[at]), points, frames=len(frames), reverse=reverse)
    found = {at: track.first_masks} | {n: track.step(n, tracker.encode(frames[n])) for n in list(order)[1:]}
    seen = sum(int(masks.sum()) for masks in wanted.values())
    assert 0 < seen < len(wanted) * len(points) * HEIGHT * WIDTH  # the masks say something
    for number in order:
        different = np.count_nonzero(found[number] != wanted[number])
        assert different <= 2, f"frame {number}: {different} of {HEIGHT * WIDTH} pixels differ"


def test_a_negative_click_counts(tracker, frames):
    features, points = tracker.encode(frames[0]), [np.array([(13, 18), (50, 40)], np.float32)]
    found = [
        tracker.start(0, features, points, [np.array(labels)], frames=1).first_masks for labels in ((1, 1), (1, 0))
    ]
    assert (found[0] != found[1]).any()


def test_objects_in_a_batch_do_not_change_each_other(tracker, frames):
    pair = clicks((13, 18), (50, 40))
    together = windows(tracker, frames[:8], {0: pair, 5: pair})
    alone = windows(tracker, frames[:8], {0: pair[1:], 5: pair[1:]})
    assert np.count_nonzero(together[0].forward[:, 1] != alone[0].forward[:, 0]) <= 4


def test_a_track_forgets_what_sam2_no_longer_reads(tracker, frames):
    long = np.concatenate([frames] * 2)
    track = tracker.start(0, tracker.encode(long[0]), clicks((13, 18)), frames=len(long))
    kept = []
    for at in range(1, len(long)):
        track.step(at, tracker.encode(long[at]))
        kept.append(len(track._memory["non_cond_frame_outputs"]))
    assert max(kept) == kept[-1] < 10


KEYS = {0: clicks((13, 18)), 5: clicks((28, 18)), 10: clicks((43, 18))}


def changed(frames: np.ndarray, which: range | list[int]) -> np.ndarray:
    """The same clip with other pictures on some frames."""
    other = frames.copy()
    other[list(which)] = 255 - frames[list(which)][:, ::-1]
    return other


def sides(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Forward masks of the left objects, backward masks of the right ones (without the left key frame)."""
    return window.forward[:, window.has_forward.any(0)], window.backward[1:, window.has_backward[1:].any(0)]


def test_a_window_knows_nothing_of_frames_after_its_right_key_frame(tracker, frames):
    first, second, _ = windows(tracker, frames, KEYS)
    other = windows(tracker, changed(frames, range(6, 14)), KEYS)
    for name in ("forward", "backward", "fused"):
        assert np.array_equal(getattr(first, name), getattr(other[0], name))
    assert first.backward[1:].any() and first.forward.any()
    assert (sides(second)[0] != sides(other[1])[0]).any()  # the change is one that shows


def test_forward_masks_know_nothing_of_later_frames(tracker, frames):
    first, second, _ = windows(tracker, frames, KEYS)
    other = windows(tracker, changed(frames, range(5, 14)), KEYS)
    assert np.array_equal(sides(first)[0], sides(other[0])[0])
    assert (sides(first)[1] != sides(other[0])[1]).any()
    middle = windows(tracker, changed(frames, [8, 9]), KEYS)[1]
    assert np.array_equal(sides(second)[0][:3], sides(middle)[0][:3])


def test_a_window_knows_nothing_of_frames_before_its_left_key_frame(tracker, frames):
    _, second, third = windows(tracker, frames, KEYS)
    other = windows(tracker, changed(frames, range(5)), KEYS)
    for one, two in ((second, other[1]), (third, other[2])):
        assert all(np.array_equal(a, b) for a, b in zip(sides(one), sides(two), strict=True))


def test_backward_masks_depend_on_frames_up_to_their_key_frame_only(tracker, frames):
    _, second, _ = windows(tracker, frames, KEYS)
    back = sides(second)[1]
    later = sides(windows(tracker, changed(frames, range(11, 14)), KEYS)[1])[1]
    earlier = sides(windows(tracker, changed(frames, [*range(6)]), KEYS)[1])[1]  # its left key frame and all before
    assert np.array_equal(back, later) and np.array_equal(back, earlier)
    assert (back != sides(windows(tracker, changed(frames, [9]), KEYS)[1])[1]).any()


def test_a_key_frame_shows_its_own_mask(tracker, frames):
    for window in windows(tracker, frames, KEYS):
        at = window.start
        track = tracker.start(at, tracker.encode(frames[at]), KEYS[at], frames=len(frames))
        own = np.flatnonzero(window.has_forward[0])
        for layer in (window.forward, window.backward, window.fused):
            assert np.array_equal(layer[0, own], track.first_masks)
            assert not np.delete(layer[0], own, axis=0).any()


def test_after_the_last_key_frame_only_forward(tracker, frames):
    last = windows(tracker, frames, KEYS)[-1]
    assert last.start == 10 and len(last.fused) == 4
    assert not last.backward[1:].any() and not last.has_backward[1:].any() and last.has_forward.all()


@pytest.mark.parametrize("rule", RULES)
def test_fused_is_what_the_rule_makes_of_both_sides(tracker, frames, rule):
    for window in windows(tracker, frames, KEYS, rule=rule, tau=0.4):
        offset = np.arange(len(window.fused))
        distances = {"left_distance": offset, "right_distance": len(offset) - offset}
        wanted = fuse(window.forward, window.backward, rule, 0.4, **distances)
        if window.start == max(KEYS) and rule != "backward":  # nothing comes back from after the last key frame
            assert not window.has_backward[1:].any()
            wanted = window.forward
        assert np.array_equal(window.fused[1:], wanted[1:])
        assert np.array_equal(window.fused[0], window.forward[0])


CASES = {
    "one frame": (1, {0: clicks((13, 18))}, [(0, 1)]),
    "one frame without points": (1, {0: []}, [(0, 1)]),
    "key frames farther apart than the clip is long": (4, {0: clicks((13, 18))}, [(0, 4)]),
    "every frame a key frame": (3, {0: clicks((9, 9)), 1: clicks((9, 9)), 2: clicks((9, 9))}, [(0, 1), (1, 1), (2, 1)]),
    "no points anywhere": (7, {0: [], 5: []}, [(0, 5), (5, 2)]),
    "points on the last key frame only": (6, {0: [], 5: clicks((28, 18))}, [(0, 5), (5, 1)]),
    "points on the first key frame only": (8, {0: clicks((13, 18)), 5: []}, [(0, 5), (5, 3)]),
    "several clicks for an object": (
        4, {0: [np.array([(13, 18), (15, 20), (9, 12)], np.float32), *clicks((50, 40))]}, [(0, 4)],
    ),
    "a click on the very border": (2, {0: clicks((WIDTH, HEIGHT), (0, 0))}, [(0, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("count, keys, expected", CASES.values(), ids=CASES.keys())
def test_odd_clips(tracker, frames, count, keys, expected):
    found = windows(tracker, frames[:count], keys)
    assert [(window.start, len(window.fused)) for window in found] == expected
    for window in found:
        shape = (len(window.fused), len(window.ids), HEIGHT, WIDTH)
        assert window.forward.shape == window.backward.shape == window.fused.shape == shape
        assert window.has_forward.shape == window.has_backward.shape == shape[:2]
        assert window.fused.dtype == window.has_forward.dtype == bool
        assert len(window.ids) <= sum(map(len, keys.values()))


def test_points_on_the_last_key_frame_go_back_to_the_first(tracker, frames):
    first, last = windows(tracker, frames[:6], {0: [], 5: clicks((28, 18))})
    assert first.ids == last.ids == (1,)
    assert first.has_backward[:, 0].tolist() == [False, True, True, True, True] and not first.has_forward.any()
    assert first.backward[1:].any() and np.array_equal(first.fused[1:], first.backward[1:])


class OneByOne:
    """A tracker that is asked for one frame, and one direction of one window, at a time."""

    def __init__(self, tracker: MaskTracker) -> None:
        self.encode, self.start = tracker.encode, tracker.start


MIXED = {0: [0, 1], 4: [1], 5: [], 7: [1, 0], 11: [0]}  # objects asked for: windows and batches of all sizes


@pytest.fixture
def steps(shipped_grounder, monkeypatch) -> list[int]:
    """Rows of each step from one frame to the next that the shipped SAM 2 makes."""
    model, found = shipped_grounder.tracker.model, []
    step = model.track_step

    def counted(**inputs):
        found.extend([] if inputs["is_init_cond_frame"] else [inputs["current_vision_feats"][-1].shape[1]])
        return step(**inputs)

    monkeypatch.setattr(model, "track_step", counted)
    return found


@pytest.mark.parametrize("rule", ["iou", "forward", "backward"])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_windows_in_batches_are_those_one_by_one(shipped_grounder, clip, rows, rule, steps):
    keys = {}
    for at, named in MIXED.items():
        places = [np.array([clip.object_facts[at][n].point], np.float32) * (80, 64) for n in named]
        keys[at] = [np.repeat(place, 1 + (at == 7 and n == 0), axis=0) for n, place in enumerate(places)]
    model = shipped_grounder.tracker.model
    found = windows(MaskTracker(model, rows), clip.frames, keys, rule=rule)
    assert 0 < max(steps) <= rows  # so the two objects of a frame go apart where one fits
    wanted = windows(OneByOne(shipped_grounder.tracker), clip.frames, keys, rule=rule)
    assert [one.ids for one in found] == [one.ids for one in wanted] and len(found) == len(MIXED)
    for one, other in zip(found, wanted, strict=True):
        for layer in ("forward", "backward", "fused"):
            assert iou(getattr(one, layer), getattr(other, layer)).min() >= 0.999
        assert (one.has_forward == other.has_forward).all() and (one.has_backward == other.has_backward).all()
    seen = {name: np.concatenate([getattr(one, name)[1:].any(axis=(1, 2, 3)) for one in found]).any()
            for name in ("forward", "backward")}  # fmt: skip
    assert seen == {"forward": rule != "backward", "backward": rule != "forward"}


def test_half_precision_finds_nearly_the_same(shipped_grounder, clip):
    """What a GPU is given by default; no GPU was at hand."""
    point = np.array([clip.object_facts[0][0].point], np.float32) * (80, 64)
    trackers = [MaskTracker(shipped_grounder.tracker.model, is_half=is_half) for is_half in (False, True)]
    whole, half = (windows(tracker, clip.frames, {0: [point], 7: [point]})[0] for tracker in trackers)
    assert {str(level.dtype) for level in trackers[1].encode(clip.frames[0]).features} == {"torch.bfloat16"}
    assert iou(half.forward, whole.forward).mean() > 0.97 and iou(half.backward, whole.backward).mean() > 0.97


def test_a_large_model_has_fast_matmul_on_a_cpu_with_the_same_masks(shipped_grounder, clip, monkeypatch):
    tracker, told = MaskTracker(shipped_grounder.tracker.model), []
    hook = tracker.model.image_encoder.register_forward_pre_hook(
        lambda *_: told.append(torch.get_float32_matmul_precision())
    )
    point = np.array([clip.object_facts[0][0].point], np.float32) * (80, 64)
    plain = tracker.encode(clip.frames[0]), windows(tracker, clip.frames, {0: [point]})[0]
    assert set(told) == {"highest"}  # small matrices get slower
    monkeypatch.setattr("videomolmo.masks.sam2.LARGE_PX", 1)
    told.clear()
    quick = tracker.encode(clip.frames[0]), windows(tracker, clip.frames, {0: [point]})[0]
    hook.remove()
    assert set(told) == {"medium" if stays_float32() else "highest"}
    for one, other in zip(quick[0].features, plain[0].features, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert iou(quick[1].forward, plain[1].forward).min() > 0.999
    with pytest.raises(ZeroDivisionError), tracker.precision():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


def test_fast_matmul_end_with_the_last_thread_that_wants_them(monkeypatch):
    monkeypatch.setattr("videomolmo.weights.matmul.stays_float32", lambda: True)
    one, other = fast_matmul(), fast_matmul()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "medium"
    other.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_keeps_its_precision(monkeypatch):
    """torch's switch is for all devices: there it would mean TF32."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not stays_float32.__wrapped__()


def test_only_frames_that_an_object_is_followed_on_are_encoded(shipped_grounder, clip, monkeypatch):
    seen, tracker = [], MaskTracker(shipped_grounder.tracker.model)
    encode = tracker.encode_all
    monkeypatch.setattr(tracker, "encode_all", lambda frames: seen.extend(frames) or encode(frames))
    keys = {0: [], 3: [], 6: clicks((40, 30)), 9: []}
    windows(tracker, clip.frames, keys)
    assert len(seen) == 7  # from 3, where the way back ends, to 9
    assert len(windows(tracker, clip.frames, keys, rule="forward")) == 4 and len(seen) == 7 + 4


def test_a_run_decodes_each_frame_once_and_in_order(truthful, clip):
    video, read = open_video(clip.frames), []
    original = video._reader.read
    video._reader.read = lambda number: read.append(number) or original(number)
    result = truthful(clip)(video, "the thing")
    assert read == list(range(12)) and result.masks[:].any()


def test_a_pointer_that_reads_far_ahead_has_frames_decoded_again(truthful, clip, monkeypatch):
    """As Molmo 2 does, which looks at the whole video first: frames are not held in memory until it has answered."""
    grounder, read = truthful(clip), []
    answers = grounder.pointer.answers
    grounder.pointer.answers = lambda frames, question: iter(list(answers(frames, question)))
    wanted = grounder(clip.frames, "the thing")
    video = open_video(clip.frames)
    original = video._reader.read
    video._reader.read = lambda number: read.append(number) or original(number)
    monkeypatch.setattr("videomolmo.io.decoded.MOST_HELD", 3 * clip.frames[0].nbytes)
    assert np.array_equal(grounder(video, "the thing").masks[:], wanted.masks[:])
    assert read == [*range(12), *range(12)]


def test_windows_of_a_live_source_come_while_it_goes_on(truthful, clip):
    grounder, taken = truthful(clip), []
    result = grounder(clip.frames, "the thing")
    found = grounder.stream((taken.append(at) or frame for at, frame in enumerate(clip.frames)), "the thing")
    for start, seen in ((0, 6), (5, 11), (10, 12)):  # as soon as its last key frame is there
        window = next(found)
        assert window.start == start and taken == list(range(seen))
        masks = result.masks[start : start + len(window.fused), [number - 1 for number in window.ids]]
        assert iou(window.fused, masks).min() >= 0.999
    assert next(found, None) is None


def test_a_live_source_is_pointed_at_while_it_goes_on(tiny_grounder, clip):
    taken = []
    found = tiny_grounder.stream((taken.append(at) or frame for at, frame in enumerate(clip.frames)), "the thing")
    assert next(found).start == 0 and taken == list(range(6))
    with pytest.raises(BadInput, match="latency is 0, expected a whole number of windows from 1"):
        tiny_grounder.stream(clip.frames, "the thing", latency=0)


def test_live_frames_are_checked():
    grey = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(BadInput, match="the iterator of frames gave none"):
        LiveFrames(iter(()))
    with pytest.raises(BadInput, match=r"live frame 1 is uint8 \(5, 6, 3\): expected uint8 \(4, 6, 3\)"):
        list(LiveFrames(iter([grey, np.zeros((5, 6, 3), np.uint8)])).iterate())


# A world in which every answer is known: discs on straight paths, followed without error or with one that we choose


@dataclass
class Disc:
    """A disc at (x, y) on frame 0 that moves by `step` pixels a frame, and is there from `first` to `last`."""

    x: float
    y: float
    step: tuple[float, float] = (0.0, 0.0)
    first: int = 0
    last: int = 999

    def at(self, time: int) -> tuple[float, float]:
        return self.x + time * self.step[0], self.y + time * self.step[1]

    def mask(self, time: int, radius: float = 5.0) -> np.ndarray:
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        x, y = self.at(time)
        return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2) & (self.first <= time <= self.last)


class PerfectTracker:
    """Stands for `MaskTracker`: finds the disc under each click and follows it; `growth` pixels wider each frame."""

    def __init__(self, discs: list[Disc], growth: float = 0.0) -> None:
        self.discs, self.growth = discs, growth

    def encode(self, frame: np.ndarray):
        return type("Features", (), {"height": HEIGHT, "width": WIDTH})()

    def start(self, at, features, points_px, labels=None, *, frames, reverse=False):
        chosen = []
        for points in points_px:
            x, y = points[0]
            chosen.append(min(self.discs, key=lambda disc: np.hypot(disc.at(at)[0] - x, disc.at(at)[1] - y)))
        return PerfectTrack(chosen, at, self.growth)


class PerfectTrack:
    def __init__(self, discs: list[Disc], at: int, growth: float) -> None:
        self.discs, self.start, self.growth = discs, at, growth
        self.first_masks = self.step(at, None)

    def step(self, at: int, features) -> np.ndarray:
        return np.stack([disc.mask(at, 5 + self.growth * abs(at - self.start)) for disc in self.discs])


def follow(discs: list[Disc], answers: dict[int, list[int]], count: int, **options) -> list[Window]:
    """Windows where key frame `at` is answered with the discs `answers[at]`, in that order."""
    keys = {at: clicks(*(discs[n].at(at) for n in named)) for at, named in answers.items()}
    tracker = PerfectTracker(discs, options.pop("growth", 0.0))
    return windows(tracker, np.zeros((count, HEIGHT, WIDTH, 3), np.uint8), keys, **options)


def identities(discs: list[Disc], found: list[Window]) -> dict[int, set[int]]:
    """Which disc each identity covers, over all frames."""
    owners: dict[int, set[int]] = {}
    for window in found:
        for offset, masks in enumerate(window.fused):
            for identity, mask in zip(window.ids, masks, strict=True):
                if mask.any():
                    fits = [n for n, disc in enumerate(discs) if np.array_equal(mask, disc.mask(window.start + offset))]
                    owners.setdefault(identity, set()).update(fits or [-1])
    return owners


APART = [Disc(10, 10, (1, 0)), Disc(50, 38, (-1, 0)), Disc(30, 24)]


def test_identities_last_when_answers_change_their_order():
    found = follow(APART, {0: [0, 1, 2], 5: [2, 0, 1], 10: [1, 2, 0]}, 14)
    assert identities(APART, found) == {1: {0}, 2: {1}, 3: {2}}
    assert all(window.ids == (1, 2, 3) for window in found)
    assert all(masks.any(axis=(1, 2)).all() for window in found for masks in window.fused)


def test_an_object_missed_once_gets_its_identity_back():
    found = follow(APART, {0: [0, 1], 5: [0], 10: [1, 0], 15: [0, 1]}, 18)
    assert identities(APART, found) == {1: {0}, 2: {1}}
    assert [window.ids for window in found] == [(1, 2)] * 4
    assert found[0].fused[:, 1].any(axis=(1, 2)).all()  # forwards from the first answer
    assert found[1].fused[:, 1].any(axis=(1, 2)).tolist() == [False, True, True, True, True]  # backwards from the third


def test_an_object_missed_twice_gets_its_identity_back():
    discs = [Disc(10, 10), Disc(50, 38)]
    found = follow(discs, {0: [0, 1], 5: [0], 10: [0], 15: [1, 0]}, 18)
    assert identities(discs, found) == {1: {0}, 2: {1}}


def test_all_objects_missed_once():
    found = follow(APART, {0: [1, 0], 5: [], 10: [0, 1]}, 12)
    assert identities(APART, found) == {1: {1}, 2: {0}}


def test_new_objects_get_new_identities():
    discs = [Disc(10, 10), Disc(50, 38, first=7), Disc(50, 10, first=12)]
    found = follow(discs, {0: [0], 5: [0], 10: [1, 0], 15: [2, 1, 0]}, 17)
    assert identities(discs, found) == {1: {0}, 2: {1}, 3: {2}}
    assert [window.ids for window in found] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3)]
    assert found[1].fused[:, 1].any(axis=(1, 2)).tolist() == [False, False, True, True, True]


def test_an_object_that_left_does_not_give_its_identity_to_another_far_away():
    discs = [Disc(8, 8, last=3), Disc(56, 40, first=6)]
    found = follow(discs, {0: [0], 5: [], 10: [1]}, 12)
    assert identities(discs, found) == {1: {0}, 2: {1}}


def test_crossing_objects_keep_their_identities():
    discs = [Disc(8, 24, (3.2, 0)), Disc(56, 24, (-3.2, 0))]  # they meet in mid-window and have swapped places after it
    for order in ([0, 1], [1, 0]):
        found = follow(discs, {0: [0, 1], 15: order}, 16)
        assert identities(discs, found)[1] >= {0} and identities(discs, found)[2] >= {1}
        last = found[-1]
        assert np.array_equal(last.fused[0, last.ids.index(1)], discs[0].mask(15))
        assert np.array_equal(last.fused[0, last.ids.index(2)], discs[1].mask(15))


def test_two_points_on_one_object_stay_two_objects():
    """The answer says two, so two there are; neither identity is lost."""
    found = follow([Disc(20, 20)], {0: [0, 0], 5: [0, 0]}, 7)
    assert [window.ids for window in found] == [(1, 2), (1, 2)]


def test_known_says_which_direction_reaches():
    found = follow(APART, {0: [0], 5: [0, 1]}, 8)
    first, last = found
    assert first.has_forward.tolist() == [[True, False]] * 5
    assert first.has_backward.tolist() == [[True, False], *[[True, True]] * 4]
    assert last.has_forward.all() and last.has_backward[0].all() and not last.has_backward[1:].any()


MIRROR = {"left": "right", "right": "left", "forward": "backward", "backward": "forward"}


@pytest.mark.parametrize("rule", RULES)
def test_time_backwards_gives_the_same_masks_backwards(rule):
    """With both ends key frames, only the roles of left and right change."""
    count, discs = 11, [Disc(20, 20, (1, 0)), Disc(40, 34, (0, -1))]
    turned = [Disc(*disc.at(count - 1), (-disc.step[0], -disc.step[1])) for disc in discs]
    answers = {0: [0, 1], 5: [0, 1], 10: [0, 1]}
    there = follow(discs, answers, count, growth=0.8, rule=rule, tau=0.5)
    back = follow(turned, answers, count, growth=0.8, rule=MIRROR.get(rule, rule), tau=0.5)
    one, two = (np.concatenate([window.fused for window in found]) for found in (there, back))
    assert one.any() and np.array_equal(one, two[::-1])
