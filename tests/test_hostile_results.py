"""Damaged and hostile files of results: one line each, or a word in the inspector, soon and without taking memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inspector_corrected import InstantTracker, everything, same
from inspector_results import made_result, true_masks

from videomolmo.errors import BadInput
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.edit_history import LOG
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.inspector.inspection import Inspection
from videomolmo.io.cache import cached, key_of
from videomolmo.mask_store import LAYERS, MaskStore
from videomolmo.results import GroundingResult

MOST_MEMORY = 64 << 20
HUGE = 10**18
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def soon():
    """What hangs is stopped, so that the others are still tried."""

    def stop(*_):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return made_result(absent=((5, 2),)).save(tmp_path_factory.mktemp("saved") / "out", overlay=False)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "out"))


def use(result: GroundingResult) -> None:
    result.summary(), result.agreement, result.masks[0], result.forward[-1:]


def look(inspection: Inspection) -> str:
    """Everything that is shown; what is missing, in sentences."""
    for t in (0, 5, inspection.frames - 1):
        if inspection.frames:
            inspection.mask("fused", t), inspection.points(t), inspection.boxes(t), inspection.frame(t)
    inspection.decisions(), inspection.layers(), inspection.rules(), inspection.outcomes(), inspection.key_frames
    said = inspection.missing()
    assert all("\n" not in sentence for sentence in said)
    return " ".join(said)


def refused(act, *args, **options) -> str:
    with pytest.raises(BadInput) as caught:
        act(*args, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 2000
    return line


def looked_at(folder: Path) -> str:
    """What the inspector says of a folder, whether it opens it or not."""
    try:
        return look(Inspection(folder))
    except BadInput as error:
        assert "\n" not in str(error)
        return str(error)


def change(folder: Path, **values) -> Path:
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | values))
    return folder


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_to_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def hollow(path: Path) -> None:
    """A terabyte that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_FILES = [pipe, link_to_zeros, hollow, a_folder]


# run.json

FACTS = [
    {name: value}
    for name in ("objects", "height", "width", "frames")
    for value in (1e18, HUGE, -1, "2", 2.5, None, True, [2], {}, float("nan"), 2**31, 10**400, 200)
] + [
    {"times_s": value}
    for value in (1e18, "abc", {}, None, [[0.0] * 12], [0.0] * 11 + [None], [0.0] * 11 + [1e300], [0.0] * 13, [],
                  ["0"] * 12, [float("nan")] * 12, [True] * 12, [HUGE] * 12)
] + [
    {"fps": value} for value in (-1, "10", None, float("inf"), float("nan"), 1e-300, 1e300, True)
] + [
    {"sentence": 5}, {"sentence": None}, {"sentence": ["a"]}, {"sentence": "a" * 100_000}, {"video": 5},
    {"video": ["a"]}, {"warning": 5}, {"model": [1, 2]}, {"model": "iou"}, {"model": None},
    {"objects": 10_000}, {"objects": 3}, {"objects": 1}, {"height": 65_535, "width": 65_535},
    {"height": 16_000, "width": 16_000, "objects": 9_000}, {"height": 39}, {"width": 52},
]  # fmt: skip


@pytest.mark.parametrize("values", FACTS, ids=lambda values: f"{values!r:.50}")
def test_facts_of_other_types_and_ranges(folder, values):
    change(folder, **values)
    with little_memory():
        assert "not a saved result" in refused(GroundingResult.load, folder)
        assert looked_at(folder)


TEXTS = {
    "nothing": b"", "deep": b'{"a":' + DEEP.encode() + b"}", "deep list": DEEP.encode(), "a list": b"[1]",
    "a number": b"1" * 100_000, "digits": b'{"times_s": [' + b"9" * 100_000 + b"]}", "no UTF-8": b'{"a": "\xff\xfe"}',
    "half a letter": b'{"sentence": "\\ud800"}', "not JSON": b"{'a': 1}", "zeros": bytes(1000),
    "being replaced": b'{"videomolmo": "this result is being replaced"}',
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["run.json", "answers.jsonl"])
def test_texts_that_are_none_of_ours(folder, name, text):
    (folder / name).write_bytes(text)
    with little_memory():
        if name == "answers.jsonl" and not text:
            assert GroundingResult.load(folder).answers == []
        else:
            refused(GroundingResult.load, folder)
        assert looked_at(folder)


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", ["run.json", "answers.jsonl", "propagation/00005.npz"])
def test_what_is_no_file(folder, name, make):
    make(folder / name)
    with little_memory():
        refused(GroundingResult.load, folder)
        assert looked_at(folder)


@pytest.mark.parametrize("video", ["a\0b", "/dev/zero", "x" * 9_000, "http://127.0.0.1:9/a.mp4", "concat:a|b", "pipe:"])
def test_a_video_that_leads_astray(folder, video):
    change(folder, video=video)
    refused(GroundingResult.load(folder).video)
    assert "No frames" in looked_at(folder)


def test_a_video_that_is_a_pipe(folder, tmp_path):
    pipe(tmp_path / "video.mp4")
    change(folder, video=str(tmp_path / "video.mp4"))
    refused(GroundingResult.load(folder).video)
    assert "No frames" in looked_at(folder)


@pytest.mark.parametrize("model", [{"fusion": {}, "tau": HUGE}, {"every": "x" * 100_000}, {"tau": float("nan")},
                                   {"every": 10**400}, {"every": -1, "fusion": None}])  # fmt: skip
def test_settings_without_sense_are_told(folder, model):
    use(GroundingResult.load(change(folder, model=model)))
    assert "the run's" in looked_at(folder).lower()


def test_a_pipe_in_place_of_run_json_is_no_result_to_replace(folder, saved):
    pipe(folder / "run.json")
    assert "not this program's" in refused(GroundingResult.load(saved).save, folder, overwrite=True, overlay=False)


# answers.jsonl

ANSWERS = [
    {name: value}
    for name in ("frame", "time_s", "text", "outcome", "points_px", "inside", "problem")
    for value in (1e18, -1, HUGE, [], {}, [[1]], float("nan"), True, [[1, 2, 3]], "found" * 1000)
    if (name, value) not in (("time_s", -1), ("text", "found" * 1000), ("problem", "found" * 1000))
] + [
    {"frame": 12}, {"frame": "0"}, {"inside": [1, 0]}, {"inside": [True] * 3},
    {"points_px": [[1e300, 2.0], [1.0, 2.0]]}, {"points_px": [[1.0, "2"], [1.0, 2.0]]},
    {"points_px": [[0.0, 0.0]] * 20_000, "inside": [True] * 20_000},
    {"extra": 1}, {"text": None}, {"outcome": "FOUND"}, {"points_px": {"0": [1, 2], "1": [1, 2]}},
]  # fmt: skip


@pytest.mark.parametrize("values", ANSWERS, ids=lambda values: f"{values!r:.50}")
def test_answers_of_other_types_and_ranges(folder, values):
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    rows[0] |= values
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if values == {"points_px": []}:
        return  # half a contradiction is one only where points are told of
    assert "answers.jsonl, line 1" in refused(GroundingResult.load, folder)
    assert "contradicts itself" in looked_at(folder)


# propagation/*.npz


def npy(shape, dtype="|u1", content: bytes | None = None) -> bytes:
    """An array's file whose header may say anything."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + (b"" if content is None else content)


def window(**changes) -> dict[str, bytes]:
    """The files within the second window of `saved`: frames 5 to 9, objects 1 and 2."""
    ints = lambda *values: npy((len(values),), "<i8", struct.pack(f"<{len(values)}q", *values))  # noqa: E731
    masks, flags = npy((5, 2, 40, 7), content=bytes(2800)), npy((5, 2), "|b1", bytes(10))
    whole = {"shape": ints(5, 2, 40, 51), "ids": ints(1, 2), "has_forward": flags, "has_backward": flags}
    return whole | dict.fromkeys(("fused", "forward", "backward"), masks) | changes


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def patched(path: Path, *, locked: bool = False, method: int | None = None, size: int | None = None) -> None:
    """The same zip, with something else said of each member."""
    data = bytearray(path.read_bytes())
    for sign, flags, packed_by, length in ((b"PK\x03\x04", 6, 8, 22), (b"PK\x01\x02", 8, 10, 24)):
        at = data.find(sign)
        while at >= 0:
            if locked:
                data[at + flags] |= 1
            if method is not None:
                data[at + packed_by : at + packed_by + 2] = struct.pack("<H", method)
            if size is not None:
                data[at + length : at + length + 4] = struct.pack("<I", size)
            at = data.find(sign, at + 4)
    path.write_bytes(data)


def ints(*values: int) -> bytes:
    return npy((len(values),), "<i8", struct.pack(f"<{len(values)}q", *values))


def bomb(path: Path) -> None:
    """256 MB of zeros in a few hundred kB, that say truly how many they are."""
    zipped(path, window(fused=npy((5, 2, 40, 7), content=bytes(32 << 20)), shape=ints(5, 2, 40, 51)))


def lying(path: Path) -> None:
    zipped(path, window(fused=npy((1 << 40,)), shape=ints(5, 2, 40, 51)))


def of_many(path: Path) -> None:
    """Thousands of members: the directory alone is read for long."""
    zipped(path, {f"a{n}": b"" for n in range(5000)} | window(), zipfile.ZIP_STORED)


def twice(path: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        for name, content in [*window().items(), ("ids", ints(1, 2))]:
            archive.writestr(f"{name}.npy", content)


def with_objects(path: Path) -> None:
    import pickle

    zipped(path, window(ids=npy((2,), "|O", pickle.dumps([1, 2]))))


def of_members(**members):
    return lambda path: zipped(path, window(**members))


def then(make, **said):
    return lambda path: (make(path), patched(path, **said))


def NO_LAYER(path: Path) -> None:
    """Which the inspector takes: masks may be of one direction."""
    zipped(path, {name: content for name, content in window().items() if name != "forward"})


WHOLE = of_members()
WINDOWS = {
    "bomb": bomb, "lying": lying, "many members": of_many, "twice": twice, "objects": with_objects,
    "locked": then(WHOLE, locked=True), "method 99": then(WHOLE, method=99), "sizes": then(WHOLE, size=1 << 30),
    "no size": then(WHOLE, size=0), "bzip2": lambda path: zipped(path, window(), zipfile.ZIP_BZIP2),
    "lzma": lambda path: zipped(path, window(), zipfile.ZIP_LZMA),
    "ids": of_members(ids=ints(1, HUGE)), "ids from 0": of_members(ids=ints(0, 1)), "ids less": of_members(ids=ints(1)),
    "ids twice": of_members(ids=ints(2, 2)), "ids below 0": of_members(ids=ints(-1, 1)),
    "id 3": of_members(ids=ints(1, 3)),
    "ids floats": of_members(ids=npy((2,), "<f8", struct.pack("<2d", 1, 2))),
    "ids text": of_members(ids=npy((2,), "<U1")),
    "shape": of_members(shape=ints(HUGE, 2, 40, 51)), "shape below 0": of_members(shape=ints(-5, 2, 40, 51)),
    "no frames": of_members(shape=ints(0, 2, 40, 51)), "more frames": of_members(shape=ints(500, 2, 40, 51)),
    "size": of_members(shape=ints(5, 2, 41, 51)), "huge size": of_members(shape=ints(5, 2, 1 << 30, 1 << 30)),
    "short shape": of_members(shape=ints(5, 2, 40)),
    "masks of another size": of_members(fused=npy((5, 2, 40, 8), content=bytes(3200))),
    "masks of words": of_members(fused=npy((5, 2, 40, 7), "<u2", bytes(5600))),
    "masks of nothing": of_members(fused=npy((5, 2, 40, 7), "|V1", bytes(2800))),
    "masks cut": of_members(fused=npy((5, 2, 40, 7), content=bytes(28))), "masks gone": of_members(fused=b""),
    "header": of_members(fused=b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535), "no header": of_members(fused=bytes(2900)),
    "version 3": of_members(fused=b"\x93NUMPY\x03\x00" + bytes(2900)), "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: (WHOLE(path), path.write_bytes(path.read_bytes()[:300])),
    "no zip": lambda path: path.write_bytes(bytes(5000)), "zip of nothing": lambda path: zipped(path, {}),
    "no layer": NO_LAYER,
}  # fmt: skip


def test_the_whole_window_is_taken(folder):
    """What the others are made from is sound."""
    WHOLE(folder / "propagation" / "00005.npz")
    result = GroundingResult.load(folder)
    use(result)
    assert not result.masks[5].any() and "cannot be read" not in looked_at(folder)


@pytest.mark.parametrize("make", WINDOWS.values(), ids=WINDOWS)
def test_masks_that_are_none(folder, make):
    make(folder / "propagation" / "00005.npz")

    def all_of_it():
        result = GroundingResult.load(folder)
        for t in range(result.frames):
            result.masks[t], result.forward[t], result.backward[t]

    with little_memory():
        refused(all_of_it)
        said = looked_at(folder)
    assert "frames 5 to 9 cannot be read" in said or (make is NO_LAYER and "not of the shape" in said)


def test_no_bit_of_a_window_that_flips_ends_in_a_traceback(folder):
    path = folder / "propagation" / "00005.npz"
    whole, before = path.read_bytes(), np.asarray(GroundingResult.load(folder).masks)
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            assert np.array_equal(np.asarray(GroundingResult.load(folder).masks), before)
        except BadInput as error:
            assert "\n" not in str(error)


def test_names_of_files_that_stand_for_no_frame(folder):
    place = folder / "propagation"
    for name in ("9" * 200 + ".npz", "000000.npz", "٠٠٠٠٠٠.npz"):
        (place / name).write_bytes(b"")
    use(GroundingResult.load(folder))
    assert "cannot be read" not in looked_at(folder)


# corrections.jsonl, corrections/*.npz

CLICK = {"action": "add_point", "frame": 7, "object": 1, "x": 20.0, "y": 15.0, "positive": True, "anchor": None,
         "clicks": [[20.0, 15.0, 1]]}  # fmt: skip
RECORDS = [
    {name: value}
    for name in ("frame", "object", "clicks", "action")
    for value in (1e18, HUGE, -1, "1", None, [], {}, [[1]], 1.5, [[1.0, 1.0, 1]] * 2000, 10**400, 1_000_000)
    if (name, value) != ("clicks", [])
] + [
    {"object": 4}, {"object": 0}, {"frame": 12}, {"clicks": [[1e300, 0.0, 1]]}, {"clicks": [[1.0, 2.0, 7]]},
    {"clicks": [[float("nan"), 2.0, 1]]}, {"clicks": [[-1.0, 2.0, 1]]}, {"clicks": [["1", 2.0, 1]]},
]  # fmt: skip


@pytest.mark.parametrize("values", RECORDS, ids=lambda values: f"{values!r:.50}")
def test_records_of_other_types_and_ranges(folder, values):
    (folder / LOG).write_text(json.dumps(CLICK | values) + "\n" + json.dumps(CLICK) + "\n")
    inspection = Inspection(folder)
    assert inspection.objects == 2 and inspection.key_frames == [0, 5, 7, 10]
    assert "line 1" in look(inspection)


@pytest.mark.parametrize("text", [*TEXTS.values(), b'{"action": ' + DEEP.encode() + b"}"], ids=[*TEXTS, "deep action"])
def test_lines_that_are_no_records(folder, text):
    (folder / LOG).write_bytes(text + b"\n" + json.dumps(CLICK).encode())
    inspection = Inspection(folder)
    assert inspection.key_frames == [0, 5, 7, 10]
    assert not text or "line 1" in look(inspection)


@pytest.mark.parametrize("make", NO_FILES)
def test_a_log_that_is_no_file_is_left_alone(folder, make):
    (folder / LOG).touch()
    make(folder / LOG)
    inspection = Inspection(folder, video=made_result()._video)
    assert "cannot be read" in look(inspection)
    Corrections(inspection, InstantTracker()).add_point(7, 20, 15, 1)
    assert inspection.key_frames == [0, 5, 7, 10] and "in memory only" in look(inspection)


def test_twenty_thousand_lines_need_little_and_lead_back_bit_for_bit(folder):
    """Each says one thing more; what is kept of it is that, and not the whole state."""
    before = everything(Inspection(folder))
    rng, rows = np.random.default_rng(0), []
    for n in range(20_000):
        frame, thing = int(rng.integers(12)), int(rng.integers(1, 3))
        clicks = [[float(rng.integers(51)), float(rng.integers(40)), 1]]
        rows.append({"action": "add_point", "frame": frame, "object": thing, "clicks": clicks})
        if n % 50 == 49:
            rows[-1] = {"action": "drop_answer", "frame": int(rng.integers(12))}
    (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with little_memory():
        inspection = Inspection(folder)
    assert len(inspection.history.records) == 20_000 and inspection.log.problems == []
    state, history = inspection.history.state, inspection.history
    assert state.clicks[rows[-2]["object"], rows[-2]["frame"]] == (tuple(rows[-2]["clicks"][0]),)
    for _ in range(20_000):
        history.add({"action": "undo"})
    assert history.state.clicks == {} and not history.state.dropped and not history.can("undo")
    inspection.show_corrections()
    assert same(everything(inspection), before)
    for _ in range(20_000):
        history.add({"action": "redo"})
    assert history.state == state


def test_a_new_object_in_every_line_has_an_end(folder):
    rows = [CLICK | {"object": n} for n in range(1, 20_000)]
    (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with little_memory():
        inspection = Inspection(folder)
    assert inspection.objects == 1002 and "line 1003" in look(inspection)


def test_many_corrective_key_frames_of_one_object(tmp_path):
    """Time and memory grow with the lines, not with their square."""
    frames, spool = 5000, MaskStore(tmp_path / "spool")
    spool.folder.mkdir()
    masks = np.zeros((frames, 1, 8, 8), bool)
    spool.write(0, (1,), dict.fromkeys(LAYERS, masks), dict.fromkeys(("forward", "backward"), masks[:, :, 0, 0]))
    result = GroundingResult(
        sentence="a", answers=[], objects=1, height=8, width=8, times_s=np.arange(frames) / 25, fps=25.0, spool=spool,
        config={},
    )  # fmt: skip
    rows = [CLICK | {"frame": t, "clicks": [[1.0, 1.0, 1]]} for t in range(frames)]
    folder = result.save(tmp_path / "long", overlay=False)
    (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    inspection = Inspection(folder)
    assert len(inspection.key_frames) == frames and inspection.mask("fused", 9).shape == (1, 8, 8)


@pytest.mark.parametrize(
    "members",
    [
        {"start": npy((), "<i8", struct.pack("<q", HUGE))}, {"box": ints(0, HUGE, 0, HUGE)}, {"box": ints(5, 0, 3, 0)},
        {"box": ints(-1, 4, 0, 1)}, {"bits": npy((1 << 40, 8, 1))}, {"bits": npy((2, 8, 1), "<f4", bytes(64))},
        {"bits": npy((2, 9, 1), content=bytes(18))}, {"start": b"", "bits": bytes(32 << 20)}, {"bits": b""},
    ],
    ids=lambda members: " ".join(members),
)  # fmt: skip
def test_masks_of_corrections_that_are_none(folder, members):
    sound = Inspection(folder, video=made_result()._video)
    Corrections(sound, InstantTracker()).add_point(7, 20, 15, 1)
    for path in (folder / "corrections").iterdir():
        with zipfile.ZipFile(path) as archive:
            whole = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        zipped(path, whole | members)
    inspection = Inspection(folder)
    assert "masks of 2 corrected stretches are gone" in look(inspection).lower()
    assert inspection.key_frames == [0, 5, 7, 10]


# truth, caches, predictions, evaluations, annotations


def test_truth_that_is_none(tmp_path):
    whole = npy((12, 2, 40, 51), "|b1", true_masks(12, 2, 40, 51).tobytes())
    path = tmp_path / "truth.npz"
    zipped(path, {"masks": whole})
    assert open_truth(path, 12, (40, 51)).objects == 2
    for make in (
        lambda path: zipped(path, {"masks": npy((1 << 40,), "|b1")}),
        lambda path: zipped(path, {"masks": npy((2,), "|O", b"cos\nsystem\n.")}),
        lambda path: (zipped(path, {"masks": whole}), patched(path, locked=True)),
        lambda path: (zipped(path, {"masks": whole}), patched(path, method=99)),
        lambda path: path.write_bytes(b"PK"), pipe,
    ):  # fmt: skip
        make(path)
        assert "truth" in refused(open_truth, path, 12, (40, 51))


def test_a_picture_that_is_a_pipe_or_a_bomb(tmp_path):
    pipe(tmp_path / "00000.png")
    refused(open_truth, tmp_path, 1, (4, 4))
    (tmp_path / "00000.png").unlink()
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    (tmp_path / "00000.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99)))
    )
    refused(open_truth, tmp_path, 1, (4, 4))


def test_predictions_that_are_pipes_are_missing(tmp_path):
    from videomolmo.datasets.record import Expression, ImageSequence, Record
    from videomolmo.evaluation.evaluate import answer_path, read_answer
    from videomolmo.evaluation.predictions import Predictions

    media = ImageSequence((tmp_path / "00000.jpg", tmp_path / "00001.jpg"), ("00000", "00001"))
    record = Record("set", "valid", "clip", media, (), {})
    expression = Expression(id="0", text="a", objects=None)
    path = Predictions(tmp_path).path(record, expression, 0)
    path.parent.mkdir(parents=True)
    pipe(path)
    assert Predictions(tmp_path).read(record, expression, 0, (4, 4)) is None
    kept = answer_path(tmp_path, record, expression)
    kept.parent.mkdir(parents=True)
    sound = {
        "text": "a",
        "objects": 1,
        "seconds": 1.0,
        "key_frames": [{"frame": 0, "outcome": "found", "points_px": [[1.0, 2.0]]}],
    }
    kept.write_text(json.dumps(sound))
    assert read_answer(tmp_path, record, expression, None) == sound | {
        "key_frames": [sound["key_frames"][0] | {"points_px": [(1.0, 2.0)]}]
    }
    for bad in ([], {}, sound | {"objects": HUGE}, sound | {"key_frames": [1]}, sound | {"key_frames": [{"frame": 7}]},
                sound | {"seconds": "1"}):  # fmt: skip
        kept.write_text(json.dumps(bad))
        assert read_answer(tmp_path, record, expression, None) is None
    pipe(kept)
    assert read_answer(tmp_path, record, expression, None) is None


@pytest.mark.parametrize("make", [pipe, *(WINDOWS[name] for name in ("lying", "many members", "objects", "locked",
                                                                      "method 99", "lzma", "half"))])  # fmt: skip
def test_a_cached_file_that_is_none_is_made_again(tmp_path, make):
    path = tmp_path / (key_of({"a": 1}) + ".npz")
    make(path)
    assert cached(tmp_path, {"a": 1}, lambda: {"v": np.ones(2)})["v"].tolist() == [1, 1]


# any content

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FUZZED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def changed_text(name: str, keys: list[str]):
    """A file's text with values of some keys replaced, or any bytes."""
    changes = st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3)
    return st.tuples(st.just(name), changes | st.binary(max_size=60))


def fuzz(folder: Path, name: str, content) -> None:
    text = (folder / name).read_bytes() if (folder / name).exists() else json.dumps(CLICK).encode()
    lines = text.splitlines() if name.endswith("l") else [text]
    one = json.dumps(json.loads(lines[0]) | content).encode() if isinstance(content, dict) else content
    (folder / name).write_bytes(b"\n".join([one, *lines[1:]]))
    try:
        use(GroundingResult.load(folder))
    except BadInput as error:
        assert "\n" not in str(error)
    looked_at(folder)
    (folder / name).write_bytes(text)


@FUZZED
@given(
    case=changed_text("run.json", ["sentence", "video", "frames", "objects", "height", "width", "fps", "times_s",
                                   "model", "warning", "other"])
)  # fmt: skip
@example(("run.json", {"height": 0, "width": 0, "objects": 0}))
@example(("run.json", {"times_s": [], "frames": 0}))
def test_any_run_json(folder, case):
    fuzz(folder, *case)


@FUZZED
@given(
    case=changed_text(
        "answers.jsonl", ["frame", "time_s", "text", "outcome", "points_px", "inside", "problem", "other"]
    )
)
def test_any_answers(folder, case):
    fuzz(folder, *case)


@FUZZED
@given(case=changed_text(LOG, ["action", "frame", "object", "clicks", "result", "number"]))
def test_any_corrections(folder, case):
    fuzz(folder, *case)
