"""What pictures of frames are made of: tints, textures, outlines, badges, marks. All draw in place, in view pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "height width 3"]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DASHES = ((1, 0), (14, 7), (4, 5), (20, 5, 4, 5))  # drawn and left out, in turns, in pixels of a 600-pixel view
TEXTURES = ("plain", "dots", "bars", "rings", "grid")
_CHEQUER = ((255, 255, 255), (222, 0, 40))


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
