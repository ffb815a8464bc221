"""Folders of images: every picture is a frame, once, the right way up, in the order people count in, or is named."""

from __future__ import annotations

import doctest
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numbered_frames import number_of, picture
from PIL import Image, features

from videomolmo.errors import BadInput
from videomolmo.io import images
from videomolmo.io.images import in_natural_order, oriented
from videomolmo.io.video import open_video

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
SUFFIXES = ("jpg", "tif", "tiff", "jfif", "jpeg", "ppm", "avif", "webp", "bmp", "png", "PNG", "TIF")
UPRIGHT = {  # how a tag is stored in which no orientation stands: type, count, value
    "a text": (2, 2, b"6\0"), "a byte": (1, 1, b"\6"), "of no type": (7, 1, b"\6"), "nine": (3, 1, b"\0\x09"),
    "nought": (3, 1, b"\0\0"), "negative": (9, 1, b"\xff\xff\xff\xff"), "a fraction": (11, 1, struct.pack(">f", 6.0)),
    "nothing": (3, 0, b"\0\6"), "of an unknown type": (99, 1, b"\6"),
}  # fmt: skip


def saved(path: Path, number: int = 1) -> Path:
    Image.fromarray(picture(number)).save(path)
    return path


def tag(kind: int, count: int, value: bytes) -> bytes:
    """EXIF of one orientation, as it may be written by whatever program."""
    entry = struct.pack(">HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def jpeg(number: int, exif: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "JPEG", quality=95)
    exif, plain = b"Exif\0\0" + exif, file.getvalue()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def png(number: int, exif: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "PNG")
    plain, chunk = file.getvalue(), b"eXIf" + exif
    return plain[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[33:]


@pytest.mark.parametrize("module", [images, images])
def test_examples_of_the_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_every_format_is_a_frame(tmp_path):
    for number, suffix in enumerate(SUFFIXES):
        if suffix in ("avif", "webp") and not features.check(suffix):
            continue
        saved(tmp_path / f"f{number}.{suffix}", number)
    shown = [int(path.stem[1:]) for path in in_natural_order(tmp_path.iterdir())]
    with open_video(tmp_path) as frames:
        assert [number_of(frame) for frame in frames] == shown and len(shown) >= 10


@pytest.mark.parametrize("suffix", [".gif", ".heic", ".HEIC", ".dng", ".exr"])
def test_a_picture_of_another_kind_is_named(suffix, tmp_path):
    saved(tmp_path / "0.png")
    (tmp_path / f"1{suffix}").write_bytes(b"whatever")
    with pytest.raises(BadInput, match=rf"1\{suffix} would be left out; expected files ending in .*\.png"):
        open_video(tmp_path)


def test_what_is_no_picture_is_passed_over(tmp_path):
    saved(tmp_path / "0.png")
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._0.png", "frames.json"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "masks.png").mkdir()
    with open_video(tmp_path) as frames:
        assert len(frames) == 1


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    saved(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BadInput, match=r"1\.png: no such image"):
        open_video(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("00000.jpg", "00000.png"), r"00000\.jpg and 00000\.png are both picture 00000 \(2 such pairs\)"),
        (("00000.jpg", "00000_mask.png"), r"00000\.jpg and 00000_mask\.png are both"),
        (("frame_00000.png", "mask_00000.png"), r"frame_00000\.png and mask_00000\.png are both"),
        (("Frame00000.png", "frame00000.bmp"), r"Frame00000\.png and frame00000\.bmp are both|frame00000\.bmp and"),
    ],
)
def test_a_frame_twice_is_refused(names, said, tmp_path):
    for number in range(2):
        for name in names:
            saved(tmp_path / name.replace("00000", f"{number:05d}"), number)
    with pytest.raises(BadInput, match=said) as caught:
        open_video(tmp_path)
    assert "folder of their own" in str(caught.value) and "\n" not in str(caught.value)


def test_names_without_numbers_are_told_apart_by_their_letters(tmp_path):
    for number, name in enumerate(("a.png", "b.png", "c.jpg")):
        saved(tmp_path / name, number)
    with open_video(tmp_path) as frames:
        assert [number_of(frame) for frame in frames] == [0, 1, 2]
    saved(tmp_path / "c.png")
    with pytest.raises(BadInput, match=r"c\.jpg and c\.png are both picture c"):
        open_video(tmp_path)


@pytest.mark.parametrize("stored", UPRIGHT)
def test_what_is_no_orientation_is_upright(stored, tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0, tag(*UPRIGHT[stored])))
    (tmp_path / "1.png").write_bytes(png(1, tag(*UPRIGHT[stored])))
    with open_video(tmp_path) as frames:
        assert [number_of(frame) for frame in frames] == [0, 1] and frames.warning is None


@pytest.mark.parametrize("exif", [b"", b"no TIFF at all", b"MM\0*" + b"\xff" * 20])
def test_a_damaged_tag_is_upright(exif, tmp_path):
    (tmp_path / "1.png").write_bytes(png(1, exif))
    with open_video(tmp_path) as frames:
        assert number_of(frames[0]) == 1


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "avif", "jpg"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_all_eight_orientations(turn, suffix, tmp_path):
    if suffix in ("avif", "webp") and not features.check(suffix):
        pytest.skip(f"this Pillow has no {suffix}")
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    stored = picture(5)[:, :100]
    Image.fromarray(stored).save(tmp_path / f"0.{suffix}", exif=exif, quality=100)
    with Image.open(tmp_path / f"0.{suffix}") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    with open_video(tmp_path) as frames:
        assert (frames.height, frames.width) == wanted.shape[:2] and np.array_equal(frames[0], wanted)
    assert np.abs(oriented(stored, turn).astype(int) - wanted.astype(int)).mean() < 9  # JPEG and its like lose a little


def test_deep_images_are_refused_at_opening(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "0.tif")
    with pytest.raises(BadInput, match=r"0\.tif: has more than 8 bits a channel"):
        open_video(tmp_path)


def test_files_are_counted_as_people_do(tmp_path):
    names = ["b/2.png", "b/10.png", "a10/1.png", "a9/3.png", "B/1.png"]
    assert [str(path) for path in in_natural_order(map(Path, names))] == [
        "a9/3.png", "a10/1.png", "B/1.png", "b/2.png", "b/10.png",
    ]  # fmt: skip


def test_folders_from_the_field():
    if not (FIELD / "exif_text").is_dir():
        pytest.skip(f"no field data under {FIELD}")
    with open_video(FIELD / "exif_text") as frames:
        assert (frames.width, frames.height) == (128, 96) and frames[0].shape == (96, 128, 3)
    with pytest.raises(BadInput, match=r"00000\.jpg and 00000\.png are both picture 00000 \(5 such pairs\)"):
        open_video(FIELD / "frames_and_masks")
