"""Video reading on real files: every frame carries its number, so each one can be checked."""

from __future__ import annotations

import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from numbered_frames import HEIGHT, WIDTH, encode, needs, number_of, picture
from PIL import Image

from videomolmo.errors import BadInput
from videomolmo.io.video import BrokenVideo, open_video

CLOSED = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:ref=4", "crf": "18"}
OPEN = {**CLOSED, "x264-params": CLOSED["x264-params"] + ":open-gop=1:b-pyramid=normal"}
X265 = {"x265-params": "keyint=12:log-level=none", "crf": "18"}  # open groups of pictures by default
SHARED = Path(__file__).parents[2] / "shared" / "videos"


def cut(source: Path, target: Path, after: int) -> Path:
    """Packets from the first key frame at or after frame `after`, copied without decoding."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream, copying = old.streams.video[0], False
        copied = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is None:
                continue
            copying = copying or (packet.is_keyframe and packet.pts * stream.time_base * 30 >= after)
            if copying:
                packet.stream = copied
                new.mux(packet)
    return target


def assert_exact(path: Path, numbers: range) -> None:
    """All frames in order carry `numbers`; at random, backwards and strided they are the very same pixels."""
    with open_video(path) as frames:
        in_order = list(frames)
        assert [number_of(frame) for frame in in_order] == list(numbers)
        assert len(frames) == len(frames.times_s) == len(numbers)
        assert frames.times_s[0] == 0 and (np.diff(frames.times_s) > 0).all()
        assert frames.warning is None
    order = list(range(len(numbers)))
    random.Random(0).shuffle(order)
    with open_video(path) as frames:
        for number in [*order[:40], *reversed(range(0, len(numbers), 7))]:
            assert np.array_equal(frames[number], in_order[number]), number


KINDS = {  # name: (file, codec, arguments)
    "closed group of pictures": ("a.mp4", "libx264", {"options": CLOSED}),
    "open group of pictures": ("a.mp4", "libx264", {"options": OPEN}),
    "intra refresh, no key frames": ("a.mp4", "libx264", {"options": {"x264-params": "intra-refresh=1:keyint=12"}}),
    "hevc": ("a.mp4", "libx265", {"options": X265}),
    "mpeg-ts": ("a.ts", "libx264", {"options": OPEN}),
    "mpeg-ts hevc": ("a.ts", "libx265", {"options": X265}),
    "matroska": ("a.mkv", "libx264", {"options": OPEN}),
    "fragmented": ("a.mp4", "libx264", {"options": CLOSED, "container_options": {"movflags": "frag_keyframe"}}),
    "raw h264, no times": ("a.264", "libx264", {"options": OPEN, "format": "h264"}),
    "h264 in avi, wrong times": ("a.avi", "libx264", {"options": OPEN}),
    "mjpeg avi": ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    "mpeg4 avi with b-frames": ("a.avi", "mpeg4", {"options": {"bf": "2"}}),
    "vp8 with hidden frames": ("a.webm", "libvpx", {"options": {"auto-alt-ref": "1", "cpu-used": "8"}}),
    "vp9": ("a.webm", "libvpx-vp9", {"options": {"cpu-used": "8"}}),
    "mpeg2": ("a.mpg", "mpeg2video", {"options": {"bf": "2"}}),
    "gif": ("a.gif", "gif", {"pix_fmt": "rgb8"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_exact(kind, tmp_path):
    name, codec, arguments = KINDS[kind]
    needs(codec)
    assert_exact(encode(tmp_path / name, codec, **arguments), range(60))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_file_that_does_not_tell_its_key_frames(codec, tmp_path):
    path = encode(tmp_path / "a.mp4", codec)
    stored = path.read_bytes()
    assert stored.count(b"stss") == 1
    path.write_bytes(stored.replace(b"stss", b"free"))  # without this table every picture counts as a key
    assert_exact(path, range(60))


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
@pytest.mark.parametrize("codec, options", [("libx264", OPEN), ("libx265", X265)])
def test_stream_copied_cut_drops_what_no_player_shows(codec, options, suffix, tmp_path):
    needs(codec)
    whole = encode(tmp_path / f"whole.{suffix}", codec, options=options)
    assert_exact(cut(whole, tmp_path / f"cut.{suffix}", 20), range(24, 60))


def test_two_mpeg_ts_in_a_row(tmp_path):
    data = encode(tmp_path / "one.ts", options=OPEN, count=30).read_bytes()
    (tmp_path / "two.ts").write_bytes(data + data)
    with open_video(tmp_path / "two.ts") as frames:
        assert [number_of(frame) for frame in frames] == [*range(30), *range(30)]
        assert number_of(frames[40]) == 10


def test_variable_frame_rate(tmp_path):
    times_ms = np.cumsum([0, *([20, 50, 33] * 20)])[:60].tolist()
    path = encode(tmp_path / "a.mp4", options=OPEN, times_ms=times_ms)
    assert_exact(path, range(60))
    with open_video(path) as frames:
        assert np.allclose(frames.times_s * 1000, times_ms)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_rate_is_the_mean_of_what_is_shown(suffix, tmp_path):
    even = encode(tmp_path / f"even{suffix}", times_ms=[round(1000 * n * 1001 / 30000) for n in range(60)])
    uneven = encode(tmp_path / f"uneven{suffix}", times_ms=np.cumsum([0, *([20, 50, 137] * 20)])[:60].tolist())
    with open_video(even) as frames:
        assert frames.fps == pytest.approx(30000 / 1001, rel=0.01)
    with open_video(uneven) as frames:
        assert frames.fps == pytest.approx(59 / frames.times_s[-1], rel=0.03)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize("x, y", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_display_matrices_turn_and_mirror(suffix, swaps, x, y, tmp_path):
    one, (width, height) = 1 << 16, (HEIGHT, WIDTH) if swaps else (WIDTH, HEIGHT)
    rows = [0, y * one, 0, x * one, 0, 0] if swaps else [x * one, 0, 0, 0, y * one, 0]
    matrix = [*rows, width * one * (x < 0), height * one * (y < 0), 1 << 30]
    path = encode(tmp_path / f"a.{suffix}", count=4, matrix=matrix)
    with open_video(encode(tmp_path / "plain.mp4", count=4)) as plain, open_video(path) as frames:
        for stored, shown in zip(plain, frames, strict=True):
            wanted = (stored.swapaxes(0, 1) if swaps else stored)[::y, ::x]
            assert (frames.height, frames.width) == shown.shape[:2] == wanted.shape[:2]
            assert np.array_equal(shown, wanted)
    if swaps or x < 0 or y < 0:
        pytest.importorskip("decord", reason="decord is not installed")
        with pytest.raises(BadInput, match="rotation tag"):
            open_video(path, reader="decord")


def test_the_shape_of_pixels_turns_with_the_picture(tmp_path):
    for turn, shape in [(None, Fraction(16, 11)), (180, Fraction(16, 11)), (90, Fraction(11, 16))]:
        for suffix in ("mp4", "mkv"):
            with open_video(encode(tmp_path / f"a.{suffix}", count=3, turn=turn, aspect=Fraction(16, 11))) as frames:
                assert frames.pixel_aspect == shape
    assert open_video(np.zeros((1, 4, 4, 3), np.uint8)).pixel_aspect == 1


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_tag_is_applied(turn, tmp_path):
    with open_video(encode(tmp_path / "a.mp4", count=12, turn=turn)) as frames:
        assert (frames.height, frames.width) == ((HEIGHT, WIDTH) if turn == 180 else (WIDTH, HEIGHT))
        assert frames[0].shape == (frames.height, frames.width, 3)
        # the tag turns counterclockwise; turning back gives the picture as it was encoded
        assert [number_of(np.rot90(frame, -turn // 90)) for frame in frames] == list(range(12))


def test_reading_in_order_decodes_once(tmp_path, monkeypatch):
    with open_video(encode(tmp_path / "a.mp4", options=OPEN)) as frames:
        reader, starts = frames._reader, []
        monkeypatch.setattr(reader, "_restart", lambda order, go=reader._restart: (starts.append(order), go(order)))
        for number in range(60):
            assert number_of(frames[number]) == number
            assert number_of(frames[max(0, number - 2)]) == max(0, number - 2)  # from the small cache
        assert starts == []


def test_threads_may_read_one_video(tmp_path):
    with open_video(encode(tmp_path / "a.mp4", options=CLOSED)) as frames, ThreadPoolExecutor(8) as pool:
        order = list(range(60)) * 4
        random.Random(0).shuffle(order)
        assert [number_of(frame) for frame in pool.map(frames.__getitem__, order)] == order


def test_sequence_manners(tmp_path):
    with open_video(encode(tmp_path / "a.mp4", options=CLOSED), max_frames=20) as frames:
        assert len(frames) == len(frames.times_s) == 20
        assert (frames.name, frames.fps, frames.height, frames.width) == ("a.mp4", 30.0, HEIGHT, WIDTH)
        assert number_of(frames[-1]) == number_of(frames[np.int64(19)]) == 19
        assert [number_of(frame) for frame in frames.iterate(5, 9)] == [5, 6, 7, 8]
        frames[3][:] = 0  # the caller's own copy
        assert number_of(frames[3]) == 3
        with pytest.raises(IndexError, match="expected 0 to 19"):
            frames[20]


@pytest.mark.parametrize("name, movflags", [("a.ts", ""), ("a.mp4", "frag_keyframe"), ("a.mp4", "faststart")])
def test_truncated_file_gives_what_is_whole(name, movflags, tmp_path):
    opening = {"container_options": {"movflags": movflags}} if movflags else {}
    path = encode(tmp_path / name, options=CLOSED, **opening)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_video(path) as frames:
        numbers = [number_of(frame) for frame in frames]
        assert len(frames) >= len(numbers) >= 12 and numbers == list(range(len(numbers)))
        assert frames.warning.startswith(f"decoded {len(numbers)} of ") and "\n" not in frames.warning


@pytest.mark.parametrize("place", [27, 30, 33])
@pytest.mark.parametrize("damaged_bytes", [12, None])
@pytest.mark.parametrize("codec, options", [("libx264", CLOSED), ("libx264", OPEN), ("libx265", X265)])
def test_damage_in_the_middle_ends_the_video_there(codec, options, damaged_bytes, place, tmp_path):
    needs(codec)
    if codec == "libx265" and damaged_bytes:
        pytest.skip("a few wrong bytes inside a slice: ffmpeg's HEVC decoder does not notice them")
    path = encode(tmp_path / "a.mp4", codec, options=options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [round(packet.pts * stream.time_base * 30) for packet in packets]
        position, size = packets[place].pos, packets[place].size
    data = bytearray(path.read_bytes())
    begin, length = (position + size // 2, damaged_bytes) if damaged_bytes else (position, size)
    data[begin : begin + length] = random.Random(0).randbytes(length)
    path.write_bytes(data)
    sure = min(shown[place:])  # the first frame that is decoded at or after the damaged packet
    with open_video(path) as frames:
        assert [number_of(frame) for frame in frames] == list(range(sure))
        assert len(frames) == 60
        assert frames.warning.startswith(f"decoded {sure} of 60 frames, then: ")
        assert number_of(frames[sure - 1]) == sure - 1
        assert [number_of(frame) for frame in frames] == list(range(sure))
        with pytest.raises(BrokenVideo, match=f"frame {sure + 1} is not to be had"):
            frames[sure + 1]
    with open_video(path) as frames:  # at random no frame is wrong, before or after the damage
        for number in random.Random(0).sample(range(60), 30):
            try:
                assert number_of(frames[number]) == number
            except BrokenVideo:
                assert number >= sure


def silent_music(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 44100, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 200)
    headless = encode(tmp_path / "headless.mp4")
    headless.write_bytes(headless.read_bytes()[: headless.stat().st_size // 2])
    cases = {
        "missing.mp4": "no such file",
        "empty.mp4": "is empty",
        "text.mp4": "not a video",
        "headless.mp4": "not a video, or cut off before its index",
        silent_music(tmp_path / "music.m4a").name: "sound but no picture",
        **dict.fromkeys(("a.jpg", "a.png", "a.bmp", "a.webp", "a.tiff", "a.ico"), "a single picture"),
        "moving.webp": "an animated WebP, which is not read",
        "cut.webp": "a single picture",
    }
    moving = [Image.fromarray(picture(number)) for number in range(3)]
    moving[0].save(tmp_path / "moving.webp", save_all=True, append_images=moving[1:])
    (tmp_path / "cut.webp").write_bytes((tmp_path / "moving.webp").read_bytes()[:20])
    for name in cases:
        if name.startswith("a."):
            Image.fromarray(picture(1)).save(tmp_path / name)
    for name, message in cases.items():
        with pytest.raises(BadInput, match=message) as caught:
            open_video(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_other_files_is_no_video(tmp_path):
    """A playlist of a stranger would show whatever video its reader may open."""
    (tmp_path / "private").mkdir()
    private = encode(tmp_path / "private" / "secret.ts", count=30)
    shutil.copy(private, tmp_path / "beside.ts")
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\n{private}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile beside.ts\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match="a list of other files, not a video"):
            open_video(tmp_path / name)
    with open_video(private) as video:
        assert len(video) == 30


def test_arguments_that_cannot_be_meant(tmp_path):
    path = encode(tmp_path / "a.mp4", count=3)
    for arguments, message in [
        ({"reader": "opencv"}, "expected one of 'pyav' or 'decord'"),
        ({"max_frames": 0}, "max_frames=0: expected a whole number from 1"),
        ({"fps": 25}, "carries its own rate"),
        ({"fps": -1}, "expected a positive number"),
    ]:
        with pytest.raises(BadInput, match=message):
            open_video(path, **arguments)


def test_folder_in_natural_order(tmp_path):
    for number in range(12):
        suffix = [".png", ".PNG", ".bmp"][number % 3]
        Image.fromarray(picture(number)).save(tmp_path / f"Frame{number}{suffix}")
    (tmp_path / "notes.txt").write_text("not a frame")
    with open_video(tmp_path, fps=10) as frames:
        assert [number_of(frame) for frame in frames] == list(range(12))
        assert np.array_equal(frames[10], picture(10))
        assert frames.fps == 10 and np.allclose(frames.times_s, np.arange(12) / 10)
    with open_video(tmp_path, max_frames=5) as frames:
        assert len(frames) == 5 and frames.fps == 30.0 and frames.name == tmp_path.name


def test_photographs_are_turned_as_their_tag_says(tmp_path):
    shown = np.zeros((20, 30, 3), np.uint8)
    shown[:5, :5] = 255  # the top left corner
    tag = Image.Exif()
    tag[0x0112] = 6  # stored lying on its left side
    Image.fromarray(np.rot90(shown)).save(tmp_path / "1.png", exif=tag)
    Image.fromarray(shown).save(tmp_path / "2.png")
    with open_video(tmp_path) as frames:
        assert (frames.width, frames.height) == (30, 20)
        assert np.array_equal(frames[0], shown) and np.array_equal(frames[1], shown)


def test_folders_that_do_not_serve(tmp_path):
    with pytest.raises(BadInput, match="no image in this folder"):
        open_video(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "1.jpg")
    Image.new("RGB", (20, 12)).save(tmp_path / "2.jpg")
    with pytest.raises(BadInput, match=r"1\.jpg is 20x10, 2\.jpg is 20x12"):
        open_video(tmp_path)
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"2\.jpg: the image cannot be read"):
        open_video(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "2.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:-200])
    with open_video(tmp_path) as frames, pytest.raises(BadInput, match=r"2\.jpg: the image cannot be read"):
        frames[1]
    with open_video(tmp_path) as frames:
        assert len(list(frames)) == 1 and frames.warning.startswith("decoded 1 of 2 frames, then: 2.jpg cannot be read")


def test_images_that_would_fill_the_memory(tmp_path, monkeypatch):
    Image.new("RGB", (60, 50)).save(tmp_path / "0.png")
    frames = open_video(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses from twice as many
    with pytest.raises(BadInput, match=r"0\.png: the image cannot be read \(Image size"):
        open_video(tmp_path)
    with pytest.raises(BadInput, match=r"0\.png: the image cannot be read"):
        frames[0]


def test_arrays():
    clip = np.stack([picture(number) for number in range(4)])
    frames = open_video(clip)
    assert (len(frames), frames.height, frames.width, frames.fps) == (4, HEIGHT, WIDTH, 30.0)
    assert [number_of(frame) for frame in frames.iterate(1)] == [1, 2, 3]
    for wrong in (clip.astype(np.float32), clip[0], clip[..., :1], clip[:0]):
        with pytest.raises(BadInput, match="expected uint8"):
            open_video(wrong)


def test_decord_where_it_is_right_and_not_where_it_is_wrong(tmp_path):
    pytest.importorskip("decord", reason="decord is not installed")
    path = encode(tmp_path / "closed.mp4", options=CLOSED)
    with open_video(path, reader="decord", max_frames=50) as frames:
        assert len(frames) == 50
        assert [number_of(frames[number]) for number in (40, 3, 4, 49, 0)] == [40, 3, 4, 49, 0]
    for name, arguments, message in [
        ("open.mp4", {"options": OPEN}, "open groups of pictures"),
        ("turned.mp4", {"turn": 90}, "rotation tag"),
        ("a.ts", {"options": CLOSED}, "hangs on MPEG-TS"),
    ]:
        with pytest.raises(BadInput, match=message):
            open_video(encode(tmp_path / name, count=30, **arguments), reader="decord")


def test_decord_is_compared_with_the_exact_reader_at_opening(tmp_path):
    pytest.importorskip("decord", reason="decord is not installed")
    for name, codec in [("a.wmv", "wmv2"), ("b.wmv", "wmv1"), ("a.avi", "libx264")]:
        path = encode(tmp_path / name, codec, options={"g": "12", "bf": "0"})
        with pytest.raises(BadInput, match=r"would give wrong frames \(frame .* shows another picture"):
            open_video(path, reader="decord")


def test_decord_says_where_it_fails(tmp_path, monkeypatch):
    class Breaks:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, number: int) -> SimpleNamespace:
            if number >= 3:
                raise RuntimeError("bad packet")
            return SimpleNamespace(asnumpy=lambda: picture(number))

    decord = SimpleNamespace(VideoReader=lambda *_, **__: Breaks(), DECORDError=RuntimeError)
    monkeypatch.setitem(sys.modules, "decord", decord)
    frames = open_video(encode(tmp_path / "a.mp4", count=5, options=CLOSED), reader="decord")
    assert frames.warning is None
    assert [number_of(frame) for frame in frames] == [0, 1, 2]
    assert frames.warning == "decoded 3 of 5 frames, then: bad packet"


def test_decord_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    with pytest.raises(BadInput, match="not installed"):
        open_video(encode(tmp_path / "a.mp4", count=3), reader="decord")


def test_real_clip():
    if not (SHARED / "coffee.mp4").is_file():
        pytest.skip("the real clip coffee.mp4 is not on this machine")
    with open_video(SHARED / "coffee.mp4") as frames:
        assert (len(frames), frames.height, frames.width) == (287, 720, 1280)
        assert abs(frames.fps - 29.97) < 0.01
        in_order = {number: frame for number, frame in enumerate(frames.iterate(0, 91)) if number % 30 == 0}
        for number in (90, 0, 60, 30):
            assert np.array_equal(frames[number], in_order[number])
