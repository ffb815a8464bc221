"""Drawing on frames: tints, textures, outlines, badges and marks in place; overlay videos and contact sheets."""

import zlib
from collections import defaultdict
from collections.abc import Generator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Real, UInt8

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "height width 3"]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
GROUND = 40  # grey level between pictures of a sheet
# Okabe and Ito's colours, which colour-blind people can tell apart; then shades of them.
BASE = np.array([(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
                 (0, 114, 178), (150, 150, 150)], np.uint8)  # fmt: skip
# To be read on any page's ground, light or dark (4:1 on white and on JupyterLab's #111111), as `rc_context` takes it.
PAGE_INK = "#7d7d7d"
ANY_GROUND = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), PAGE_INK)
OPACITY = 0.2  # of masks: the object's own colour must be told, for sentences name it
SHOWN_WELL, ENLARGED_TO = 360, 1920  # pixels: small frames grow to the first on the short side, not past the second
DASHES = ((1, 0), (14, 7), (4, 5), (20, 5, 4, 5))  # drawn and left out, in turns, in pixels of a 600-pixel view
TEXTURES = ("plain", "dots", "bars", "rings", "grid")
_CHEQUER = (WHITE, (222, 0, 40))


@lru_cache(maxsize=64)
def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """RGB of background (black) and of objects 1 … count - 1; not to be written to."""
    rows = [np.zeros(3)]
    for n in range(count - 1):
        fade = 1 - 0.3 * ((n // len(BASE)) % 3)
        rows.append(BASE[n % len(BASE)] * fade)
    colours = np.array(rows[:count]).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def write_index_png(
    path: Path,
    masks: Bool[np.ndarray, "objects height width"] | None,
    size: tuple[int, int],
    void: Bool[np.ndarray, "height width"] | None = None,
) -> None:
    """DAVIS-style PNG of a frame of `size`: pixel n belongs to object n; of objects that overlap, to the later one.

    The `void`, where nothing else is, is 255.
    """
    labels = np.zeros(size, np.uint8)
    if void is not None:
        labels[void] = 255
    for index, mask in enumerate(() if masks is None else masks, start=1):
        labels[mask] = min(index, 255)
    write_label_png(path, labels)


def write_label_png(path: Path, labels: UInt8[np.ndarray, "height width"]) -> None:
    """Numbers of objects as a PNG whose palette shows each in its colour."""
    from PIL import Image

    image = Image.fromarray(labels)
    image.putpalette(palette(256).tobytes())
    image.save(path, compress_level=1, compress_type=zlib.Z_RLE)  # half the size and time of the default, for masks


def draw_masks(
    frame: UInt8[np.ndarray, "height width 3"], masks: Bool[np.ndarray, "objects height width"], ids: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with every mask tinted and outlined in its object's colour, and its number beside it."""
    picture, taken, badges = frame.copy(), [], []
    for index, (mask, colour) in enumerate(zip(masks, palette(len(masks) + 1)[1:].tolist(), strict=True), start=1):
        if not mask.any():
            continue
        place, colour = scale_mask(np.ascontiguousarray(mask), 0, 0, 1, mask.shape), tuple(colour)
        tint(picture, *place, colour, OPACITY)
        outline(picture, *place, colour, WHITE, 2.5)
        part, top, left = place
        badges.append((str(index), left + part.shape[1], top + 4, colour))
    for one in badges * ids:  # last, so that no object hides the number of another
        badge(picture, *one, taken)
    return picture


def draw_points(picture: UInt8[np.ndarray, "height width 3"], points_px: list[tuple[float, float]]) -> None:
    """Mark points in place: white crosses on a black ring."""
    import cv2

    size = max(4, round(min(picture.shape[:2]) / 45))
    for x, y in points_px:
        at = (round(x - 0.5), round(y - 0.5))
        cv2.circle(picture, at, size, (0, 0, 0), max(2, size // 3), cv2.LINE_AA)
        cv2.circle(picture, at, size, (255, 255, 255), max(1, size // 6), cv2.LINE_AA)
        cv2.drawMarker(picture, at, (255, 255, 255), cv2.MARKER_CROSS, size, max(1, size // 6), cv2.LINE_AA)


def result_frame(
    result: Any, at: int, frame: np.ndarray, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Frame `at` of a result with its fused masks, and on key frames the answer's points.

    Everything is drawn at `size` (height, width; by default its own), so that lines and letters are sharp there.
    """
    return _with_answers(result, at, frame, size, [answer for answer in result.answers if answer.frame == at])


def _with_answers(
    result: Any, at: int, frame: np.ndarray, size: tuple[int, int] | None, answers: list[Any]
) -> UInt8[np.ndarray, "height width 3"]:
    """As `result_frame`, for whom the answers on the frame are at hand."""
    points = [
        point
        for answer in answers
        for point, is_in in zip(answer.points_px, answer.inside, strict=True) if is_in
    ]  # fmt: skip
    return annotated_frame(frame, result.masks[at], points, size)


def annotated_frame(
    frame: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "objects height width"],
    points_px: Sequence[tuple[float, float]] = (),
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """A frame with masks and points, drawn at `size` (height, width; its own when None), where lines are sharp."""
    size = size or frame.shape[:2]
    scale = size[0] / frame.shape[0], size[1] / frame.shape[1]
    if size != frame.shape[:2]:
        frame, masks = _fitted(frame, size), np.array([_fitted(mask, size) for mask in masks]).reshape(-1, *size)
    picture = draw_masks(frame, masks)
    draw_points(picture, [(x * scale[1], y * scale[0]) for x, y in points_px])
    return picture


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame or a mask at another size: crisp where it grows, averaged where it shrinks."""
    import cv2

    method = cv2.INTER_NEAREST if size[0] >= picture.shape[0] else cv2.INTER_AREA
    if picture.dtype == bool:
        return cv2.resize(picture.astype(np.uint8) * 255, size[::-1], interpolation=method) > 127
    return cv2.resize(picture, size[::-1], interpolation=method)


def write_overlay(result: Any, path: Path) -> Path:
    """The whole result as an H.264 video, see `overlay_steps`; returns its path."""
    for _ in overlay_steps(result, path):
        pass
    return path


def overlay_steps(result: Any, path: Path) -> Generator[int, None, None]:
    """Write the whole result as an H.264 video; yields the number of each frame that is in it.

    It has the times and the shape of pixels of its source. Small frames are enlarged so that players show them well.
    """
    from videomolmo.io.video import VideoWriter

    short, long = sorted((result.height, result.width))
    enlarge = max(1, min(-(-SHOWN_WELL // short), ENLARGED_TO // long))
    size = result.height * enlarge, result.width * enlarge
    video, answers = result.video(), defaultdict(list)
    for answer in result.answers:
        answers[answer.frame].append(answer)
    with VideoWriter(path, result.fps, *size, result.times_s, video.pixel_aspect) as writer:
        for at, frame in enumerate(video.iterate(stop=result.frames)):
            writer.write(_with_answers(result, at, frame, size, answers.pop(at, [])))
            yield at


def contact_sheet(result: Any, most: int = 10) -> UInt8[np.ndarray, "height width 3"]:
    """Up to `most` frames of a result in two rows, evenly spaced, each with its number; K marks key frames."""
    chosen = sorted({round(at) for at in np.linspace(0, result.frames - 1, min(most, result.frames))})
    size = max(1, round(220 * result.height / result.width)), 220
    tiles = []
    video = result.video()
    for at in chosen:
        picture = result_frame(result, at, video[at], size)
        badge(picture, f"{at}{' K' if at in result.key_frames else ''}", 2, 20, (40, 40, 40), [])
        tiles.append(np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=GROUND))
    columns = -(-len(tiles) // 2) if len(tiles) > 5 else len(tiles)
    tiles += [np.full_like(tiles[0], GROUND)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
    height_px: int = 220,
    titles: Sequence[str] = (),
    columns: int | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures of one size in a row, or in rows of `columns`, each `height_px` high, on dark ground.

    Args:
        pictures: of one size.
        height_px: of each.
        titles: one for each picture, in ASCII, written above it.
        columns: pictures in a row; all in one row when None.
    """
    import cv2

    scale = height_px / pictures[0].shape[0]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tiles = [cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method) for picture in pictures]
    if titles:
        tiles = [_titled(tile, title) for tile, title in zip(tiles, titles, strict=True)]
    columns = columns or len(tiles)
    tiles += [np.full_like(tiles[0], GROUND)] * (-len(tiles) % columns)
    tiles = [np.pad(tile, ((0, 6), (0, 6), (0, 0)), constant_values=GROUND) for tile in tiles]
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)[:-6, :-6]


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    import cv2

    picture = np.pad(picture, ((20, 0), (0, 0), (0, 0)), constant_values=GROUND)
    cv2.putText(picture, title, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.43, WHITE, 1, cv2.LINE_AA)
    return picture


def heat_map(values: Real[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Values as colours: dark blue for 0, then green, yellow for the largest; none may be negative.

    Example:
        >>> heat_map(np.array([[0, 1]])).tolist()
        [[[68, 1, 84], [253, 231, 37]]]
    """
    import cv2

    shares = np.asarray(values, dtype=np.float64) / max(float(np.max(values)), 1e-12)
    colours = cv2.applyColorMap((shares * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colours[..., ::-1])


def png_bytes(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as the content of a PNG file."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _tint_table(colour: Colour, opacity: float) -> np.ndarray:
    values = np.arange(256)[:, None] * (1 - opacity) + np.array(colour)[None] * opacity
    return np.round(values).astype(np.uint8)[None]


@lru_cache(maxsize=64)
def _texture(kind: str, size: tuple[int, int], period: int) -> UInt8[np.ndarray, "height width"]:
    """A texture over the whole view, 255 where it is drawn."""
    y, x = np.ogrid[: size[0], : size[1]]
    third = max(1, period // 3)
    if kind in ("///", "/// behind"):
        drawn = (x + y - third * (kind != "///")) % period < third
    elif kind in ("\\\\\\", "\\\\\\ behind"):
        drawn = (x - y - third * (kind != "\\\\\\")) % period < third
    elif kind == "chequer":
        half = max(2, period // 2)
        drawn = (x // half + y // half) % 2 == 0
    elif kind == "dots":
        drawn = (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 <= (period / 4) ** 2
    elif kind == "bars":
        drawn = np.broadcast_to(y % period < third, size)
    elif kind == "rings":
        distance = np.hypot(x % (2 * period) - period, y % (2 * period) - period)
        drawn = distance % period < third
    else:
        drawn = (x % period < max(1, period // 5)) | (y % period < max(1, period // 5))
    return np.ascontiguousarray(np.broadcast_to(drawn, size)).astype(np.uint8) * 255


def scale_mask(
    mask: Bool[np.ndarray, "height width"], top: int, left: int, scale: float, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "rows columns"], int, int]:
    """A mask in the view: 255 inside, with smooth edges where it is enlarged; its first row and column there."""
    import cv2

    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = mask[y : y + height, x : x + width].view(np.uint8) * 255
    top, left = round((top + y) * scale), round((left + x) * scale)
    if scale != 1:
        wanted = max(1, round(width * scale)), max(1, round(height * scale))
        part = cv2.resize(part, wanted, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        part = (part > 127).view(np.uint8) * 255 if scale > 1 else (part > 64).view(np.uint8) * 255
    return part[: size[0] - top, : size[1] - left], top, left


def tint(picture: Picture, mask: np.ndarray, top: int, left: int, colour: Colour, opacity: float) -> None:
    """Mix a colour into a mask's pixels."""
    import cv2

    region = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
    cv2.copyTo(cv2.LUT(region, _tint_table(colour, round(opacity, 3))), mask, region)


def texture(picture: Picture, mask: np.ndarray, top: int, left: int, kind: str, colour: Colour, opacity: float) -> None:
    """Mix a colour into those of a mask's pixels that a texture draws."""
    period = max(4, round(unit(picture) * 10))
    drawn = _texture(kind, picture.shape[:2], period)[top : top + mask.shape[0], left : left + mask.shape[1]]
    tint(picture, mask & drawn, top, left, colour, opacity)


def chequer(picture: Picture, mask: np.ndarray, top: int, left: int) -> None:
    """Fill a mask with red and white squares."""
    period = max(4, round(unit(picture) * 9))
    drawn = _texture("chequer", picture.shape[:2], period)[top : top + mask.shape[0], left : left + mask.shape[1]]
    tint(picture, mask & drawn, top, left, _CHEQUER[0], 0.6)
    tint(picture, mask & ~drawn, top, left, _CHEQUER[1], 0.6)


def outline(
    picture: Picture, mask: np.ndarray, top: int, left: int, inner: Colour, casing: Colour, width: float, dash: int = 0
) -> None:
    """A line around a mask in two colours, so that it is seen on any ground: `casing` whole, `inner` dashed over it."""
    import cv2

    lines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top))
    step = max(1, round(2 * unit(picture)))  # every pixel as a corner would cost half of the painting
    lines = [np.ascontiguousarray(line[::step]) if len(line) > 8 * step else line for line in lines]
    thick = max(1, round(width * unit(picture)))
    cv2.drawContours(picture, lines, -1, casing, thick + 2, cv2.LINE_8)
    pattern = [max(2, round(length * unit(picture) / step)) for length in DASHES[dash % len(DASHES)]]
    if dash % len(DASHES) == 0:
        cv2.drawContours(picture, lines, -1, inner, thick, cv2.LINE_AA)
        return
    cv2.polylines(picture, [piece for line in lines for piece in _pieces(line, pattern)], False, inner, thick)


def _pieces(line: np.ndarray, pattern: list[int]) -> list[np.ndarray]:
    """The drawn parts of a dashed line."""
    pieces, at, turn = [], 0, 0
    while at < len(line):
        length = pattern[turn % len(pattern)]
        if turn % 2 == 0:
            pieces.append(line[at : at + length])
        at, turn = at + length, turn + 1
    return pieces


def unit(picture: Picture) -> float:
    """Width of a hair line: 1 pixel in a view 600 pixels high, more in larger ones."""
    return max(0.6, picture.shape[0] / 600)


def badge(picture: Picture, text: str, x: float, y: float, colour: Colour, taken: list[tuple]) -> None:
    """A number on a plate of the object's colour, lower left corner near (x, y), moved where another one is."""
    plate, alpha = _plate(text, colour, max(11, round(15 * unit(picture))))
    height, width = alpha.shape
    x = max(0, min(round(x), picture.shape[1] - width))
    y = max(0, min(round(y) - height, picture.shape[0] - height))
    for _ in range(len(taken)):
        hit = next((box for box in taken if abs(box[0] - x) < width and abs(box[1] - y) < height), None)
        if hit is None:
            break
        y = hit[1] + height if hit[1] + 2 * height <= picture.shape[0] else max(0, hit[1] - height)
    taken.append((x, y))
    region = picture[y : y + height, x : x + width]
    part = slice(region.shape[0]), slice(region.shape[1])
    region[:] = (region * (256 - alpha[part])[..., None] + plate[part]) >> 8


@lru_cache(maxsize=512)
def _plate(text: str, colour: Colour, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A badge times its opacity, and the opacity, 0 to 256; black or white text, whichever is legible."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, size // 4)
    width, height = max(right - left + 2 * pad, size + pad), bottom - top + 2 * pad
    image = Image.new("RGBA", (round(width), round(height)))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, image.width - 1, image.height - 1), pad + 1, colour, BLACK, max(1, size // 12))
    ink = BLACK if luminance(colour) > 0.3 else WHITE
    draw.text(((image.width - right + left) / 2 - left, pad - top), text, font=font, fill=ink)
    pixels = np.asarray(image).astype(np.uint16)
    alpha = pixels[..., 3] * 256 // 255
    return pixels[..., :3] * alpha[..., None], alpha


def luminance(colour: Colour) -> float:
    """How light a colour is, from 0 to 1 (linear light)."""
    return float(np.array([0.2126, 0.7152, 0.0722]) @ (np.array(colour) / 255) ** 2.2)


def mark(picture: Picture, x: float, y: float, colour: Colour, positive: bool, corrected: bool) -> None:
    """A point: round with a plus, or square with a minus; one that a person put has a second ring."""
    import cv2

    size = max(5, round(8 * unit(picture)))
    at = (round(x), round(y))
    line = max(2, size // 4)
    rings = [(size + 2 * line, BLACK), (size + line, WHITE)] if corrected else []
    for radius, tone in [*rings, (size, BLACK), (size - line // 2, WHITE), (size - line, colour)]:
        if positive:
            cv2.circle(picture, at, radius, tone, -1, cv2.LINE_AA)
        else:
            corner, other = (at[0] - radius, at[1] - radius), (at[0] + radius, at[1] + radius)
            cv2.rectangle(picture, corner, other, tone, -1)
    ink = BLACK if luminance(colour) > 0.3 else WHITE
    arm = max(2, size - 2 * line)
    cv2.line(picture, (at[0] - arm, at[1]), (at[0] + arm, at[1]), ink, max(1, line - 1))
    if positive:
        cv2.line(picture, (at[0], at[1] - arm), (at[0], at[1] + arm), ink, max(1, line - 1))


def box(picture: Picture, edges: tuple[float, float, float, float], colour: Colour) -> None:
    """A rectangle (left, top, right, bottom)."""
    import cv2

    left, top, right, bottom = (round(edge) for edge in edges)
    thick = max(1, round(1.5 * unit(picture)))
    for tone, width in ((BLACK, thick + 2), (colour, thick)):
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), tone, width)


def handle(picture: Picture, x: float, y: float, colour: Colour) -> None:
    """A small square: what can be dragged."""
    import cv2

    size, at = max(3, round(4 * unit(picture))), (round(x), round(y))
    for tone, half in ((BLACK, size + 1), (WHITE, size), (colour, size - 1)):
        cv2.rectangle(picture, (at[0] - half, at[1] - half), (at[0] + half, at[1] + half), tone, -1)


def trail(picture: Picture, points: np.ndarray, colour: Colour) -> None:
    """Where an object was: a line that grows thicker towards now, a dot on each frame."""
    import cv2

    if len(points) < 2:
        return
    path = np.round(points).astype(int)
    full = 3.5 * unit(picture)
    cv2.polylines(picture, [path.reshape(-1, 1, 2)], False, BLACK, max(2, round(full)), cv2.LINE_AA)
    for n in range(1, len(path)):
        thick = max(1, round(full * n / len(path)))
        cv2.line(picture, path[n - 1].tolist(), path[n].tolist(), colour, thick, cv2.LINE_AA)
    for n, at in enumerate(path):
        cv2.circle(picture, at.tolist(), max(1, round(full * (0.5 + n / len(path)) / 1.5)), colour, -1, cv2.LINE_AA)
