"""Files that were cut off, have holes, or keep no presentation times: no frame is shown as another one."""

from __future__ import annotations

import random
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_frames import encode, needs, number_of

from videomolmo.errors import BadInput
from videomolmo.io.video import open_video
from videomolmo.io.video_containers import find_end

FIELD = Path(__file__).parents[2] / "shared" / "field"
B_PICTURES = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:ref=4", "crf": "18"}
KINDS = {  # name: (file, codec, arguments)
    "matroska": ("a.mkv", "libx264", {"options": B_PICTURES}),
    "matroska without sizes": ("a.mkv", "libx264", {"options": B_PICTURES, "container_options": {"live": "1"}}),
    "webm vp8": ("a.webm", "libvpx", {"options": {"g": "12", "cpu-used": "8"}}),
    "webm vp9": ("a.webm", "libvpx-vp9", {"options": {"g": "12", "cpu-used": "8"}}),
    "wmv": ("a.wmv", "wmv2", {"options": {"g": "12"}}),
    "asf with b-pictures": ("a.asf", "libx264", {"options": B_PICTURES}),
    "asf of pictures": ("a.asf", "mjpeg", {"pix_fmt": "yuvj420p"}),
    "ogg": ("a.ogv", "libvpx", {"options": {"g": "12", "cpu-used": "8", "auto-alt-ref": "0"}}),
    "gif": ("a.gif", "gif", {"pix_fmt": "rgb8"}),
    "flv": ("a.flv", "libx264", {"options": B_PICTURES}),
    "avi of pictures": ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    "avi with b-pictures": ("a.avi", "mpeg4", {"options": {"bf": "2", "g": "12"}}),
    "avi h264": ("a.avi", "libx264", {"options": B_PICTURES}),
    "avi ffv1": ("a.avi", "ffv1", {}),
    "mxf": ("a.mxf", "mpeg2video", {"options": {"bf": "2", "g": "12"}}),
    "fragments": ("a.mp4", "libx264", {"options": B_PICTURES, "container_options": {"movflags": "frag_keyframe"}}),
    "transport stream": ("a.ts", "libx264", {"options": B_PICTURES}),
    "index in front": ("a.mp4", "libx264", {"options": B_PICTURES, "container_options": {"movflags": "faststart"}}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """For a kind: a file of 40 frames, and these as they are read from it."""
    made = {}

    def make(kind: str) -> tuple[Path, list[np.ndarray]]:
        if kind not in made:
            name, codec, arguments = KINDS[kind]
            needs(codec)
            path = encode(tmp_path_factory.mktemp("whole") / name, codec, count=40, **arguments)
            with open_video(path) as frames:
                made[kind] = path, list(frames)
                assert len(frames) == 40 and frames.warning is None
        return made[kind]

    return make


def assert_begins_like(path: Path, wanted: list[np.ndarray]) -> int:
    """The number of frames of a file that ends early, each of which is the same as in the whole file."""
    with open_video(path) as frames:
        shown = list(frames)
        assert all(np.array_equal(a, b) for a, b in zip(shown, wanted, strict=False)), [number_of(f) for f in shown]
        assert len(shown) <= len(wanted)
        if len(shown) < len(wanted):
            assert frames.warning.startswith(f"decoded {len(shown)} of ") and "\n" not in frames.warning
    with open_video(path) as frames:
        for number in random.Random(0).sample(range(len(shown)), min(8, len(shown))):
            assert np.array_equal(frames[number], shown[number])
    return len(shown)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_of_each_kind(kind, whole):
    _, shown = whole(kind)
    assert [number_of(frame) for frame in shown] == list(range(40))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_shows_what_is_whole_and_says_so(kind, whole, tmp_path):
    path, wanted = whole(kind)
    data = path.read_bytes()
    places = [int(len(data) * share) for share in (0.6, 0.7, 0.8, 0.9)]
    got, more = [], [] if kind == "mxf" else random.Random(kind).sample(range(len(data) * 6 // 10, len(data)), 6)
    for place in places + more:  # ffmpeg does not open an MXF that ends in the parts behind its pictures
        (tmp_path / path.name).write_bytes(data[:place])
        got.append((place, assert_begins_like(tmp_path / path.name, wanted)))
    counts = [count for _, count in sorted(got)]
    assert counts == sorted(counts) and counts[-1] >= 12  # more bytes, more frames


HOLED = [  # but where a hole cannot be told: zeros within one large packet, blocks of one size one after the other
    (kind, damage)
    for kind in KINDS
    for damage in ("zeros", "missing")
    if kind not in ("index in front", "matroska without sizes")
    and (kind, damage) not in (("asf with b-pictures", "zeros"), ("gif", "missing"))
]


@pytest.mark.parametrize("kind, damage", HOLED)
def test_nothing_is_shown_after_a_hole(kind, damage, whole, tmp_path):
    path, wanted = whole(kind)
    data = path.read_bytes()
    begin, length = len(data) * 6 // 10, max(2000, len(data) // 10)
    middle = bytes(length) if damage == "zeros" else b""
    (tmp_path / path.name).write_bytes(data[:begin] + middle + data[begin + length :])
    assert assert_begins_like(tmp_path / path.name, wanted) < 40


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_walked_through_to_an_end(kind, whole, tmp_path):
    path, _ = whole(kind)
    with av.open(str(path)) as container:
        name = container.format.name
    chance, damaged = random.Random(kind), tmp_path / path.name
    for _ in range(40):
        data = bytearray(path.read_bytes()[: chance.choice([200, 2000, chance.randrange(1, 9000)])])
        for place in chance.choices(range(min(len(data), 600)), k=chance.choice([1, 8, 60])):
            data[place] = chance.randrange(256)
        damaged.write_bytes(data)
        assert 0 <= find_end(damaged, name).until <= len(data)
    damaged.write_bytes(path.read_bytes()[:200] + bytes(3_000_000))
    assert find_end(damaged, name).until <= 3_000_200


def test_a_number_that_the_header_tells_is_told(whole, tmp_path):
    for kind in ("matroska", "webm vp9", "wmv", "avi of pictures", "flv"):
        path, _ = whole(kind)
        (tmp_path / path.name).write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with open_video(tmp_path / path.name) as frames:
            assert frames.warning == f"decoded {len(frames)} of 40 frames, then: the file ends early"


@pytest.mark.parametrize("kind", ["matroska", "avi of pictures", "wmv", "gif", "ogg"])
def test_zeros_behind_the_end_are_no_loss(kind, whole, tmp_path):
    path, _ = whole(kind)
    (tmp_path / path.name).write_bytes(path.read_bytes() + bytes(3000))
    with open_video(tmp_path / path.name) as frames:
        assert len(frames) == 40 and frames.warning is None


@pytest.mark.parametrize("name, codec", [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.ts", "libx264"),
                                         ("a.wmv", "wmv2"), ("a.flv", "libx264"), ("a.mp4", "libx264")])  # fmt: skip
def test_a_pause_is_no_hole(name, codec, tmp_path):
    needs(codec)
    times_ms = [40 * n + 3000 * (n >= 20) + 500 * (n >= 39) for n in range(40)]
    with open_video(encode(tmp_path / name, codec, count=40, times_ms=times_ms)) as frames:
        assert [number_of(frame) for frame in frames] == list(range(40)) and frames.warning is None
        assert np.allclose(frames.times_s * 1000, times_ms, atol=1)


@pytest.mark.parametrize("name", ["a.asf", "a.avi", "a.mp4"])
def test_pictures_out_of_order_where_only_the_order_of_decoding_is_kept(name, tmp_path):
    times_ms = [100 * n + 700 * (n >= 20) for n in range(40)]
    told = {} if name == "a.avi" else {"times_ms": times_ms}
    path = encode(tmp_path / name, "libx264", count=40, options=B_PICTURES, **told)
    # of an MP4 the tables that tell presentation times from those of decoding are made to be skipped
    path.write_bytes(path.read_bytes().replace(b"ctts", b"free").replace(b"edts", b"free"))
    with open_video(path) as frames:
        in_order = [number_of(frame) for frame in frames]
        assert in_order == list(range(40)) and frames.warning is None
        assert [number_of(frames[number]) for number in (30, 3, 39, 0, 17)] == [30, 3, 39, 0, 17]
        assert len(frames.times_s) == 40 and (np.diff(frames.times_s) > 0).all()


def test_a_start_that_does_not_decode_is_told(tmp_path):
    path = encode(tmp_path / "a.mp4", count=40, options=B_PICTURES, container_options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        first = next(container.demux(video=0))
        place, size = first.pos, first.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with open_video(path) as frames:
        assert number_of(frames[0]) == 12 and frames.warning == "left out the first 12 frames, which do not decode"


def test_a_code_that_nobody_knows(tmp_path):
    path = encode(tmp_path / "a.mp4", count=3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(BadInput, match="in a code that is not known here"):
        open_video(path)


@pytest.mark.parametrize("name, count, warning", [
    ("cut.mkv", 19, "decoded 19 of 40 frames, then: the file ends early"),
    ("cut.avi", 21, "decoded 21 of 40 frames, then: the file ends early"),
    ("bframes.asf", 40, None), ("gap.mp4", 40, None), ("twelve_frames_a_key.wmv", 40, None),
])  # fmt: skip
def test_files_from_the_field(name, count, warning):
    if not (FIELD / name).is_file():
        pytest.skip(f"{name} is not on this machine")
    with open_video(FIELD / name) as frames:
        assert [number_of_field(frame) for frame in frames] == list(range(count)) and frames.warning == warning


def number_of_field(frame: np.ndarray) -> int:
    """The number that such a frame carries, in blocks of another height."""
    return sum(int(frame[4:12, bit * 16 + 4 : bit * 16 + 12].mean() > 128) << bit for bit in range(8))
