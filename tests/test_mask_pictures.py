"""One reader of masks: by number where numbers are objects, by colour where a palette has no order."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import cv2
import miniature_datasets as mini
import numpy as np
import pytest
from PIL import Image, ImageFilter

from videomolmo.cli import main
from videomolmo.datasets import read_dataset
from videomolmo.datasets.check import check_dataset
from videomolmo.datasets.files import Unreadable
from videomolmo.errors import BadInput
from videomolmo.evaluation.evaluate import ALL, evaluate
from videomolmo.evaluation.predictions import Predictions, write_submission
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.io import images
from videomolmo.io.images import read_foreground, read_labels

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
MASK = mini.box_mask(5, top=3, side=9)
FRAMES = 8


def white(mask: np.ndarray = MASK) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def in_colour(rgb: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(MASK[..., None] * np.array(rgb, np.uint8))


def with_palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_alpha(level: int) -> Image.Image:
    """A picture of one grey level that is transparent but for the mask."""
    image = Image.new("RGBA", MASK.shape[::-1], (level,) * 3)
    image.putalpha(white())
    return image


WRITERS = {
    "grey": white,
    "bits": lambda: Image.fromarray(MASK),
    "16 bits": lambda: Image.fromarray(MASK.astype(np.uint16) * 65535),
    "quantised": lambda: white().quantize(),
    "quantised to two": lambda: white().convert("RGB").quantize(2),
    "quantised, widest colours": lambda: white().convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE),
    "quantised, octree": lambda: white().convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE),
    "red, quantised": lambda: in_colour((255, 0, 0)).quantize(),
    "adaptive palette": lambda: white().convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=4),
    "web palette": lambda: white().convert("RGB").convert("P"),
    "web palette, black in tenth place": lambda: with_palette(
        np.where(MASK, 11, 10), *[(0, 0, 0)] * 11, (255, 255, 255)
    ),
    "white first": lambda: with_palette(~MASK, (255, 255, 255), (0, 0, 0)),
    "nearly black, nearly white": lambda: with_palette(~MASK, (251, 252, 250), (3, 2, 4)),
    "index palette": lambda: with_palette(MASK, (0, 0, 0), (128, 0, 0), (0, 128, 0)),
    "dark object": lambda: with_palette(MASK, (0, 0, 0), (5, 5, 5)),
    "white background, red object": lambda: with_palette(MASK, (255, 255, 255), (255, 0, 0)),
    "grey as colours": lambda: white().convert("RGB"),
    "opaque": lambda: white().convert("RGBA"),
    "cut out of white": lambda: with_alpha(255),
    "cut out of black": lambda: with_alpha(0),
    "cut out of grey levels": lambda: with_alpha(255).convert("LA"),
    "white on transparent red": lambda: Image.composite(
        white().convert("RGBA"), Image.new("RGBA", MASK.shape[::-1], (255, 0, 0, 0)), white()
    ),
    "no palette to speak of": lambda: with_palette(MASK, (0, 0, 0), (0, 0, 0)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_mask_is_read_the_same_whatever_wrote_it(writer, tmp_path):
    WRITERS[writer]().save(tmp_path / "mask.png")
    found = read_foreground(tmp_path / "mask.png")
    assert np.array_equal(found.mask, MASK) and not found.has_levels and not found.is_turned
    assert np.array_equal(read_labels(tmp_path / "mask.png") != 0, MASK)


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("colours", [2, 256])
def test_a_quantised_mask_of_one_colour(everywhere, colours, tmp_path):
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        white(np.full((6, 8), everywhere)).convert("RGB").quantize(colours, method=method).save(tmp_path / "mask.png")
        assert (read_foreground(tmp_path / "mask.png").mask == everywhere).all()
        assert ((read_labels(tmp_path / "mask.png") != 0) == everywhere).all()


def test_colours_are_no_objects_unless_they_are_greys_of_8_bits(tmp_path):
    in_colour((255, 0, 0)).save(tmp_path / "red.png")
    deep = np.zeros((*MASK.shape, 3), np.uint16)
    deep[MASK] = 2  # of which Pillow reads the upper 8 bits: nothing
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    for name in ("red", "deep"):
        with pytest.raises(Unreadable, match=f"{name}.png: has 3 channels"):
            read_labels(tmp_path / f"{name}.png")


def test_numbers_of_objects_are_kept(tmp_path):
    labels = mini.two_objects(1)
    for shown in (labels, np.where(labels == 2, 2, 0), np.full_like(labels, 5), np.where(labels == 1, 200, 3)):
        mini.write_labels(tmp_path / "labels.png", shown)
        assert np.array_equal(read_labels(tmp_path / "labels.png"), shown)
    assert read_foreground(tmp_path / "labels.png").mask.all()


def test_grey_levels_in_any_order_are_levels(tmp_path):
    soft = white().filter(ImageFilter.GaussianBlur(1))
    for image in (soft, soft.quantize(), soft.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)):
        image.save(tmp_path / "soft.png")
        found = read_foreground(tmp_path / "soft.png")
        assert np.array_equal(found.mask, np.asarray(soft) > 0) and found.has_levels
        assert np.array_equal(read_labels(tmp_path / "soft.png"), np.asarray(soft))


def test_several_colours_in_no_order_are_foreground_but_no_objects(tmp_path):
    several = with_palette(np.where(MASK, 0, 1) + 2 * mini.box_mask(20), (255, 0, 0), (0, 0, 0), (0, 9, 9), (0, 0, 255))
    several.save(tmp_path / "several.png")
    assert np.array_equal(read_foreground(tmp_path / "several.png").mask, MASK | mini.box_mask(20))
    with pytest.raises(Unreadable, match=r"several\.png: its palette has black elsewhere than at 0"):
        read_labels(tmp_path / "several.png")


def test_examples_of_the_docstrings():
    assert doctest.testmod(images).failed == 0


# whoever reads masks


def test_quantised_masks_of_data_sets(tmp_path):
    by_object = mini.reason_vos(tmp_path / "by_object")
    record = read_dataset("reason_vos", by_object)[0]
    before = {thing: [record.mask_of(thing, at) for at in range(len(record.frame_names))] for thing in record.objects}
    counts = check_dataset("reason_vos", by_object).splits[0].counts
    for path in (by_object / "Annotations").rglob("*.png"):
        Image.open(path).convert("RGB").quantize(2).save(path)
    after = read_dataset("reason_vos", by_object)[0]
    for thing, masks in before.items():
        for at, mask in enumerate(masks):
            assert np.array_equal(after.mask_of(thing, at), mask)  # both None where nothing is annotated
    report = check_dataset("reason_vos", by_object)
    assert report.ok and report.splits[0].counts == counts
    by_label = mini.ref_youtube_vos(tmp_path / "by_label")
    (path, *_) = sorted((by_label / "train" / "Annotations").rglob("*.png"))
    white().quantize().save(path)
    record = read_dataset("ref_youtube_vos", by_label, "train")[0]
    assert np.array_equal(record.mask_of("1", 0), MASK)


def test_two_masks_of_one_frame_are_refused(tmp_path):
    root = mini.reason_vos(tmp_path)
    folder = next(path for path in (root / "Annotations").iterdir() if path.is_dir())
    (path, *_) = sorted(folder.glob("*.png"))
    (folder / f"{int(path.stem)}.png").write_bytes(path.read_bytes())
    report = check_dataset("reason_vos", root)
    assert f"{int(path.stem)}.png and {path.name} are masks of one frame" in report.text()


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0)])
def test_quantised_truth_is_not_inside_out(colour, tmp_path):
    for at in range(3):
        shown = np.roll(MASK, at, axis=1)
        Image.fromarray(shown[..., None] * np.array(colour, np.uint8)).quantize().save(tmp_path / f"{at:05d}.png")
    truth = open_truth(tmp_path, 3, MASK.shape)
    assert truth.objects == 1 and all((truth.masks(at)[0] == np.roll(MASK, at, axis=1)).all() for at in range(3))


# predictions


def mevis(root: Path) -> tuple[Path, dict[int, np.ndarray]]:
    """A data set of one clip and one expression, and its true masks."""
    names = [f"{at:05d}" for at in range(FRAMES)]
    masks = {at: mini.box_mask(2 + 2 * at) for at in range(FRAMES)}
    mini.write_frames(root / "valid_u" / "JPEGImages" / "clip", names)
    entry = {"expressions": {"0": {"exp": "the box", "obj_id": [0], "anno_id": [0]}}, "vid_id": 0, "frames": names}
    mini.write_json(root / "valid_u" / "meta_expressions.json", {"videos": {"clip": entry}})
    mini.write_json(root / "valid_u" / "mask_dict.json", {"0": [mini.rle(mask) for mask in masks.values()]})
    return root, masks


def scored(root: Path, predictions: Path, out: Path) -> tuple[float, list[str]]:
    """J&F of masks, and what was said of them."""
    table = evaluate("mevis", out, path=root, external_predictions=predictions)
    (value,) = table[(table["clip"] == ALL) & (table["kind"] == ALL) & (table["metric"] == "J&F")]["value"]
    return value, json.loads((out / "missing.json").read_text()).get("notes", [])


def turned_with_tag(mask: np.ndarray) -> tuple[Image.Image, Image.Exif]:
    tag = Image.Exif()
    tag[0x0112] = 6  # stored lying on its left side
    return white(np.rot90(mask)), tag


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("plain", None), ("quantised", None),
        ("smooth", "8 masks hold several values (grey levels or objects): every pixel but 0"),
        ("double", "8 masks are of another size than the clip: they were scaled to it"),
        ("lying", "8 masks lie on their side, width and height exchanged: they were stretched"),
        ("tagged", "8 masks have an EXIF orientation: they were turned as it says"),
    ],
)  # fmt: skip
def test_unusual_predictions_are_told(kind, said, tmp_path, capsys):
    root, masks = mevis(tmp_path / "set")
    for at, mask in masks.items():
        path = tmp_path / "masks" / "clip" / "0" / f"{at:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image, tag = turned_with_tag(mask) if kind == "tagged" else (white(mask), None)
        image = image.quantize() if kind == "quantised" else image
        image = image.filter(ImageFilter.GaussianBlur(1)) if kind == "smooth" else image
        image = image.resize((64, 48), Image.Resampling.NEAREST) if kind == "double" else image
        image = white(np.rot90(mask)) if kind == "lying" else image
        image.save(path, **({"exif": tag} if tag else {}))
    value, notes = scored(root, tmp_path / "masks", tmp_path / "out")
    assert (value == 1.0) == (kind in ("plain", "quantised", "double", "tagged"))
    if said is None:
        assert not notes
    else:
        (note,) = notes
        assert note.startswith(said) and "00000.png" in note and note in capsys.readouterr().err


def test_the_command_line_says_so_once(tmp_path, capsys):
    root, masks = mevis(tmp_path / "set")
    for at, mask in masks.items():
        path = tmp_path / "masks" / "clip" / "0" / f"{at:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        white(mask).resize((16, 12)).save(path)
    arguments = ["evaluate", "--benchmark", "mevis", "--path", str(root), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--predictions", str(tmp_path / "masks")]) == 0
    assert capsys.readouterr().err.count("of another size") == 1


def test_servers_get_what_was_scored(tmp_path):
    root, masks = mevis(tmp_path / "set")
    record = read_dataset("mevis", root)[0]
    predictions = Predictions(tmp_path / "masks")
    for at, mask in masks.items():
        predictions.write(record, record.expressions[0], at, mask)
        path = predictions.path(record, record.expressions[0], at)
        Image.open(path).quantize().save(path)
    write_submission(iter([record]), predictions, "mevis", tmp_path / "valid.zip")
    import zipfile

    with zipfile.ZipFile(tmp_path / "valid.zip") as archive:
        for at, name in enumerate(archive.namelist()):
            with archive.open(name) as file, Image.open(file) as image:
                assert np.array_equal(np.asarray(image) != 0, masks[at])


@pytest.mark.parametrize(("kind", "least"), [("good", 1.0), ("quantised", 1.0), ("half", 0.95), ("smooth", 0.4)])
def test_predictions_from_the_field(kind, least, tmp_path):
    if not (FIELD / "mevis").is_dir():
        pytest.skip(f"no field data under {FIELD}")
    value, notes = scored(FIELD / "mevis", FIELD / f"predictions_{kind}", tmp_path / "out")
    assert value >= least and len(notes) == (kind in ("half", "smooth"))


# truth of several objects


def label_maps() -> np.ndarray:
    return np.stack([mini.two_objects(at) * 3 for at in range(4)]).astype(np.int64)  # objects 3 and 6


@pytest.mark.parametrize("kind", ["array", "list", "npz", "npy", "folder", "16 bits"])
def test_label_maps_keep_their_objects(kind, tmp_path):
    labels = source = label_maps()
    if kind == "list":
        source = labels.tolist()
    elif kind == "npz":
        source = tmp_path / "truth.npz"
        np.savez(source, masks=labels)
    elif kind == "npy":
        source = tmp_path / "truth.npy"
        np.save(source, labels.astype(np.uint8))
    elif kind in ("folder", "16 bits"):
        source = tmp_path / "truth"
        source.mkdir()
        for at, picture in enumerate(labels):
            picture = picture.astype(np.uint16 if kind == "16 bits" else np.uint8)
            Image.fromarray(picture).save(source / f"{at}.{'tif' if at % 2 else 'png'}")
    truth = open_truth(source, 4, labels.shape[1:])
    assert truth.objects == 2 and truth.frames == 4
    for at in range(4):
        assert np.array_equal(truth.masks(at), [labels[at] == 3, labels[at] == 6])


@pytest.mark.parametrize("maps", [np.ones((2, 3, 4), int), np.full((2, 3, 4), 255, np.uint8)])
def test_arrays_of_one_object(maps):
    truth = open_truth(maps, 2, (3, 4))
    assert truth.objects == 1 and truth.masks(1).all()


@pytest.mark.parametrize("first", [0, 1, 95])
@pytest.mark.parametrize("name", ["frame_{}.png", "{}.png", "v2-{}.tif", "{}_mask.png"])
def test_truth_in_natural_order(name, first, tmp_path):
    for at in range(12):
        white(np.roll(MASK, at, axis=1)).save(tmp_path / name.format(at + first))
    truth = open_truth(tmp_path, 12, MASK.shape)
    assert truth.frames == 12 and truth.objects == 1 and not truth.notes
    assert all(np.array_equal(truth.masks(at)[0], np.roll(MASK, at, axis=1)) for at in range(12))


@pytest.mark.parametrize("numbers", [(0, 5, 10), (8, 9, 10)])
def test_truth_of_some_frames_goes_by_number(numbers, tmp_path):
    for at in numbers:
        white(np.roll(MASK, at, axis=1)).save(tmp_path / f"frame_{at}.png")
    truth = open_truth(tmp_path, 11, MASK.shape)
    assert truth.masks(1) is None and np.array_equal(truth.masks(10)[0], np.roll(MASK, 10, axis=1))


def test_soft_truth_is_one_object_and_told(tmp_path):
    for at in range(2):
        white(mini.box_mask(8, 4, 14)).filter(ImageFilter.GaussianBlur(1)).save(tmp_path / f"{at}.png")
    truth = open_truth(tmp_path, 2, MASK.shape)
    assert truth.objects == 1 and truth.masks(0).sum() == pytest.approx(14 * 14, abs=8)
    assert "grey levels between black and white: from 128 on" in truth.notes[0]


def test_truth_of_more_numbers_than_objects_can_be_is_refused(tmp_path):
    depths = np.arange(1, 120 * 160 + 1, dtype=np.uint16).reshape(120, 160)
    Image.fromarray(depths).save(tmp_path / "00000.png")
    for truth in (tmp_path, depths[None]):
        with pytest.raises(BadInput, match="has 19199 different numbers"):
            open_truth(truth, 1, depths.shape)


def test_frames_beside_masks_are_no_truth(tmp_path):
    for at in range(3):
        white().save(tmp_path / f"{at}.png")
        white().save(tmp_path / f"{at}_edges.png")
    with pytest.raises(BadInput, match=r"truth .*0\.png and 0_edges\.png are both picture 0 \(3 such pairs\)"):
        open_truth(tmp_path, 3, MASK.shape)


def test_truth_from_the_field():
    if not (FIELD / "truth_frame_n").is_dir():
        pytest.skip(f"no field data under {FIELD}")
    truth = open_truth(FIELD / "truth_frame_n", 12, (96, 128))
    y, x = np.mgrid[:96, :128]
    for at in range(12):
        disc = (x - (25 + (at * 3) % 78)) ** 2 + (y - 96 * 0.6) ** 2 < 15**2
        assert np.array_equal(truth.masks(at), disc[None])
