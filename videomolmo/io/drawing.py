"""Pictures of results: masks, ids and points over frames; overlay videos; contact sheets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Real, UInt8

# Okabe and Ito's colours, which colour-blind people can tell apart; then shades of them.
BASE = np.array([(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167),
                 (0, 114, 178), (150, 150, 150)], np.uint8)  # fmt: skip
OPACITY = 0.2  # of masks: the object's own colour must be told, for sentences name it
SHOWN_WELL, ENLARGED_TO = 360, 1920  # pixels: small frames grow to the first on the short side, not past the second


def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """RGB of background (black) and of objects 1 … count - 1."""
    rows = [np.zeros(3)]
    for n in range(count - 1):
        fade = 1 - 0.3 * ((n // len(BASE)) % 3)
        rows.append(BASE[n % len(BASE)] * fade)
    return np.array(rows[:count]).astype(np.uint8)


def draw_masks(
    frame: UInt8[np.ndarray, "height width 3"], masks: Bool[np.ndarray, "objects height width"], ids: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with every mask tinted and outlined in its object's colour, and its number beside it."""
    import cv2

    picture = frame.copy()
    colours = palette(len(masks) + 1)
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    for index, mask in enumerate(masks, start=1):
        if not mask.any():
            continue
        colour = colours[index]
        picture[mask] = (picture[mask] * (1 - OPACITY) + colour * OPACITY).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255), thickness + 2, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, colour.tolist(), thickness, cv2.LINE_AA)
        if ids:
            rows, columns = np.nonzero(mask)
            _label(picture, str(index), (int(columns.max()) + 2, int(rows.min()) + 4))
    return picture


def _label(picture: np.ndarray, text: str, at: tuple[int, int]) -> None:
    """White letters on a dark box, whose left lower corner lies at `at` or, if need be, farther inside the picture."""
    import cv2

    scale = max(0.35, min(picture.shape[:2]) / 700)
    width = max(1, round(scale * 2))
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, width)
    edge = 1 + width
    x = int(np.clip(at[0], edge, max(edge, picture.shape[1] - w - edge)))
    y = int(np.clip(at[1], h + edge, max(h + edge, picture.shape[0] - edge - 1)))
    cv2.rectangle(picture, (x - edge, y - h - edge), (x + w + edge - 1, y + edge), (24, 24, 24), cv2.FILLED)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), width, cv2.LINE_AA)


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
    masks, size = result.masks[at], size or frame.shape[:2]
    scale = size[0] / frame.shape[0], size[1] / frame.shape[1]
    if size != frame.shape[:2]:
        frame, masks = _fitted(frame, size), np.array([_fitted(mask, size) for mask in masks]).reshape(-1, *size)
    picture = draw_masks(frame, masks)
    for answer in result.answers:
        if answer.frame == at:
            inside = [point for point, is_in in zip(answer.points_px, answer.inside, strict=True) if is_in]
            draw_points(picture, [(x * scale[1], y * scale[0]) for x, y in inside])
    return picture


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame or a mask at another size: crisp where it grows, averaged where it shrinks."""
    import cv2

    method = cv2.INTER_NEAREST if size[0] >= picture.shape[0] else cv2.INTER_AREA
    if picture.dtype == bool:
        return cv2.resize(picture.astype(np.uint8) * 255, size[::-1], interpolation=method) > 127
    return cv2.resize(picture, size[::-1], interpolation=method)


def write_overlay(result: Any, path: Path) -> Path:
    """The whole result as an H.264 video, with the times and the shape of pixels of its source.

    Small frames are enlarged so that players show them well.
    """
    from videomolmo.io.video import VideoWriter

    short, long = sorted((result.height, result.width))
    enlarge = max(1, min(-(-SHOWN_WELL // short), ENLARGED_TO // long))
    size = result.height * enlarge, result.width * enlarge
    video = result.video()
    with VideoWriter(path, result.fps, *size, result.times_s, video.pixel_aspect) as writer:
        for at, frame in enumerate(video.iterate(stop=result.frames)):
            writer.write(result_frame(result, at, frame, size))
    return path


def contact_sheet(result: Any, most: int = 10, width_px: int = 220) -> UInt8[np.ndarray, "height width 3"]:
    """Up to `most` frames of a result in two rows, evenly spaced, each with its number; K marks key frames."""
    chosen = sorted({round(at) for at in np.linspace(0, result.frames - 1, min(most, result.frames))})
    height_px = max(1, round(width_px * result.height / result.width))
    tiles = []
    video = result.video()
    for at in chosen:
        picture = result_frame(result, at, video[at], (height_px, width_px))
        _label(picture, f"{at}{' K' if at in result.key_frames else ''}", (4, 16))
        tiles.append(np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=255))
    columns = -(-len(tiles) // 2) if len(tiles) > 5 else len(tiles)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
    height_px: int = 220,
    titles: Sequence[str] = (),
    columns: int | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures of one size in a row, or in rows of `columns`, each `height_px` high, with white gaps between them.

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
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    tiles = [np.pad(tile, ((0, 6), (0, 6), (0, 0)), constant_values=255) for tile in tiles]
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)[:-6, :-6]


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    import cv2

    picture = np.pad(picture, ((20, 0), (0, 0), (0, 0)), constant_values=255)
    cv2.putText(picture, title, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.43, (40, 40, 40), 1, cv2.LINE_AA)
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


def image_tag(picture: UInt8[np.ndarray, "height width 3"], height_px: int = 120) -> str:
    """A picture as an HTML `<img>` that needs no file, to stand in a cell of a table."""
    import base64

    content = base64.b64encode(png_bytes(picture)).decode("ascii")
    return f'<img height="{height_px}" src="data:image/png;base64,{content}">'


def png_bytes(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as the content of a PNG file."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
