"""What stands on a desktop: windows with a title bar and contents, buttons, icons, and the cursor."""
# ruff: noqa: RUF005  (a vector plus a tuple is a sum here)

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from videomolmo.synth.worlds.world import Canvas, Colour, mixed

BAR = 13.0  # height of a title bar, units


@dataclass(frozen=True)
class Window:
    """A window: title, place (left, top, width, height) in units, and its buttons' labels."""

    title: str
    place: tuple[float, float, float, float]
    labels: tuple[str, ...]

    def button(self, number: int) -> np.ndarray:
        """Left, top, right and bottom of a button."""
        left, top, width, high = self.place
        wide = min(34.0, (width - 10) / max(len(self.labels), 1) - 4)
        start = left + 6 + number * (wide + 5)
        return np.array([start, top + high - 17, start + wide, top + high - 5])


class Theme(NamedTuple):
    """Colours of windows, title bars, ink, buttons, what is chosen, and the wallpaper's top and bottom."""

    paper: Colour
    bar: Colour
    ink: Colour
    button: Colour
    accent: Colour
    top: Colour
    bottom: Colour


def draw_window(
    canvas: Canvas,
    window: Window,
    theme: Theme,
    owners: tuple[int, list[int]],
    *,
    shift: np.ndarray,
    grown: float,
    pressed: int | None,
    active: bool,
) -> None:
    """One window.

    Args:
        canvas: where to.
        window: what is in it.
        theme: colours.
        owners: object numbers of the window and of its buttons.
        shift: how far it was dragged, units.
        grown: 1 for full size; less while it pops up.
        pressed: the button that is held down.
        active: whether its title bar is lit.
    """
    owner, buttons = owners
    left, top, width, high = window.place
    middle = np.array([left + width / 2, top + high / 2])
    left, top = middle - np.array([width, high]) / 2 * grown + shift
    right, bottom = middle + np.array([width, high]) / 2 * grown + shift
    canvas.box((left + 2, top + 3, right + 3, bottom + 4), (0, 0, 0), opacity=0.35, soft=2.5, round=4)
    canvas.box((left - 0.6, top - 0.6, right + 0.6, bottom + 0.6), mixed(theme.ink, theme.paper, 0.6), owner, round=3.5)
    canvas.box((left, top, right, bottom), theme.paper, round=3)
    bar = mixed(theme.bar, theme.accent, 0.8 if active else 0.0)
    canvas.box((left, top, right, top + BAR), bar, round=3, shade=0.06)
    canvas.box((left, top + BAR - 4, right, top + BAR), bar)
    canvas.text(window.title, (left + 6, top + 9.5), 6.0, (1, 1, 1) if active else theme.ink)
    for number, colour in enumerate(((0.93, 0.3, 0.27), (0.96, 0.75, 0.2), (0.35, 0.78, 0.35))):
        canvas.ellipse((right - 7 - 9 * number, top + 6.5), 2.9, colour)
    cross = np.array([[-1.3, -1.3], [1.3, 1.3]])
    for line in (cross, cross * (1, -1)):
        canvas.stroke(line + (right - 7, top + 6.5), 0.7, (0.3, 0.05, 0.05))
    if grown < 0.95:
        return
    _CONTENT[window.title](canvas, (left + 6, top + BAR + 5, right - 6, bottom - 21), theme)
    for number, button in enumerate(buttons):
        box = window.button(number) + (*shift, *shift)
        down = number == pressed
        face = mixed(theme.button, theme.accent, 0.9 if down else 0.35 if number == 0 else 0.0)
        canvas.box(box + (-0.7, -0.7, 0.7, 0.9), mixed(theme.ink, face, 0.45), button, round=3)
        canvas.box(
            box + ((0.5, 0.8, 0.5, 0.8) if down else (0, 0, 0, 0)), face, round=2.5, shade=-0.08 if down else 0.07
        )
        text = window.labels[number]
        start = (box[0] + box[2]) / 2 - 2.55 * len(text) * 0.98
        canvas.text(text, (start, box[3] - 3.8), 5.6, (1, 1, 1) if down else theme.ink)


def _lines(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    """Bars that look like lines of text."""
    left, top, right, bottom = box
    ink = mixed(theme.ink, theme.paper, 0.5)
    for number, y in enumerate(np.arange(top + 2, bottom - 1, 6.5)):
        x = left
        for word in range(12):
            wide = 5 + (number * 7 + word * 5) % 11
            if x + wide > right - (number * 13) % 26:
                break
            canvas.box((x, y, x + wide, y + 2.2), ink)
            x += wide + 3


def _mail(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, right, bottom = box
    for number, y in enumerate(np.arange(top, bottom - 9, 14)):
        if number == 0:
            canvas.box((left - 3, y - 2, right + 3, y + 11), theme.accent, opacity=0.25)
        colour = ((0.9, 0.5, 0.3), (0.3, 0.6, 0.8), (0.5, 0.7, 0.4), (0.7, 0.5, 0.8))[number % 4]
        canvas.ellipse((left + 4.5, y + 4.5), 4, colour)
        wide = right - left - 16
        canvas.box((left + 12, y + 1, left + 12 + wide * (0.5 + 0.1 * (number % 3)), y + 3.4), theme.ink, opacity=0.85)
        canvas.box((left + 12, y + 6, left + 12 + wide * (0.95 - 0.12 * (number % 4)), y + 7.8), theme.ink, opacity=0.4)


def _photos(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    canvas.box(box, (0.55, 0.78, 0.95), shade=0.12, light=(0, -1))
    canvas.ellipse((left + 0.78 * wide, top + 0.26 * high), 0.1 * high, (1, 0.9, 0.45))
    for start, peak, end, tone in ((0.0, 0.3, 0.68, 0.8), (0.35, 0.66, 1.0, 1.0)):
        ridge = [[left + start * wide, bottom], [left + peak * wide, top + 0.25 * high], [left + end * wide, bottom]]
        canvas.polygon(np.array(ridge), np.array([0.38, 0.45, 0.52]) * tone)
        snow = np.array(ridge)
        snow[[0, 2]] = snow[1] + 0.22 * (snow[[0, 2]] - snow[1])
        canvas.polygon(snow, (0.96, 0.97, 1))
    canvas.box((left, bottom - 0.2 * high, right, bottom), (0.36, 0.62, 0.34))


def _music(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, right, bottom = box
    count = int((right - left) / 7)
    for number in range(count):
        high = (bottom - top - 12) * (0.3 + 0.7 * abs(np.sin(number * 1.7) * np.cos(number * 0.6)))
        x = left + number * (right - left) / count
        canvas.box((x, bottom - 10 - high, x + 4.5, bottom - 10), theme.accent, shade=0.15)
    canvas.box((left, bottom - 5, right, bottom - 3), theme.ink, opacity=0.35)
    canvas.ellipse((left + 0.4 * (right - left), bottom - 4), 3, theme.accent)


def _files(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, right, bottom = box
    for y in np.arange(top + 2, bottom - 14, 25):
        for x in np.arange(left + 3, right - 18, 30):
            canvas.box((x, y, x + 9, y + 5), (0.88, 0.68, 0.25), round=1.5)
            canvas.box((x, y + 2, x + 19, y + 14), (0.97, 0.8, 0.38), round=1.5, shade=0.06)
            canvas.box((x + 2, y + 17, x + 17, y + 18.6), theme.ink, opacity=0.5)


def _chart(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, right, bottom = box
    for y in np.linspace(top + 2, bottom - 2, 5):
        canvas.stroke([[left, y], [right, y]], 0.5, theme.ink, opacity=0.3)
    x = np.linspace(left, right, 12)
    for colour, phase in (((0.9, 0.35, 0.3), 0.0), (theme.accent, 2.0)):
        y = (top + bottom) / 2 - 0.36 * (bottom - top) * np.sin(np.arange(12) * 0.55 + phase)
        canvas.stroke(np.stack([x, y], axis=1), 1.5, colour)


def _message(canvas: Canvas, box: tuple[float, float, float, float], theme: Theme) -> None:
    left, top, _, bottom = box
    y = (top + bottom) / 2
    canvas.ellipse((left + 9, y), 7.5, theme.accent)
    canvas.text("i", (left + 7.6, y + 4), 8, (1, 1, 1), bold=True)
    canvas.text("all done", (left + 24, y + 3), 6.5, theme.ink)


_CONTENT: dict[str, Callable[[Canvas, tuple[float, float, float, float], Theme], None]] = {
    "mail": _mail, "notes": _lines, "photos": _photos, "music": _music, "files": _files, "chart": _chart,
    "message": _message,
}  # fmt: skip


def draw_icon(canvas: Canvas, icon: str, middle: np.ndarray, owner: int) -> None:
    """An icon with its name below; the mask is the tile, not the name."""
    tile, paint = ICONS[icon]
    canvas.box((*(middle - 11), *(middle + 11)), tile, owner, round=5, shade=0.12)
    paint(canvas, middle)
    canvas.text(icon, (middle[0] - 2.45 * len(icon), middle[1] + 20), 5.0, (1, 1, 1))


def _folder(canvas: Canvas, at: np.ndarray) -> None:
    canvas.box((*(at + (-8, -6)), *(at + (0, 0))), (0.85, 0.62, 0.18), round=1.5)
    canvas.box((*(at + (-8, -3.5)), *(at + (8, 7))), (1, 0.84, 0.42), round=1.5)


def _trash(canvas: Canvas, at: np.ndarray) -> None:
    canvas.polygon(at + np.array([[-6, -4], [6, -4], [4.5, 8], [-4.5, 8]]), (0.93, 0.94, 0.95))
    canvas.box((*(at + (-7.5, -6.5)), *(at + (7.5, -4.8))), (0.93, 0.94, 0.95), round=0.8)
    for x in (-2.6, 0, 2.6):
        canvas.stroke(at + np.array([[x, -2], [x * 0.8, 6]]), 0.9, (0.45, 0.48, 0.52))


def _globe(canvas: Canvas, at: np.ndarray) -> None:
    canvas.ellipse(at, 8, (0.75, 0.9, 1.0))
    for radii in ((8, 0.4), (0.4, 8)):
        canvas.ellipse(at, radii, (0.1, 0.35, 0.7))
    for wide in (4.6, 3.9):
        canvas.ellipse(at, (wide, 8), (0.1, 0.35, 0.7) if wide > 4 else (0.75, 0.9, 1.0), opacity=1.0)
    canvas.stroke(at + np.array([[-8, 0], [8, 0]]), 0.8, (0.1, 0.35, 0.7))
    canvas.stroke(at + np.array([[0, -8], [0, 8]]), 0.8, (0.1, 0.35, 0.7))


def _camera(canvas: Canvas, at: np.ndarray) -> None:
    canvas.box((*(at + (-4, -7)), *(at + (4, -3))), (0.92, 0.92, 0.94), round=1)
    canvas.box((*(at + (-8.5, -5)), *(at + (8.5, 7))), (0.92, 0.92, 0.94), round=2)
    canvas.ellipse(at + (0, 1), 4.6, (0.2, 0.2, 0.25))
    canvas.ellipse(at + (0, 1), 2.8, (0.45, 0.65, 0.9))


def _music_note(canvas: Canvas, at: np.ndarray) -> None:
    canvas.stroke(at + np.array([[-3, 5], [-3, -6], [5, -8], [5, 3]]), 1.5, (1, 1, 1))
    for end in ((-5, 5.5), (3, 3.5)):
        canvas.ellipse(at + end, (3, 2.3), (1, 1, 1), angle=-0.3)


def _clock(canvas: Canvas, at: np.ndarray) -> None:
    canvas.ellipse(at, 8, (1, 1, 1))
    canvas.stroke(at + np.array([[0, -6], [0, 0], [4, 2]]), 1.3, (0.15, 0.15, 0.2))


def _envelope(canvas: Canvas, at: np.ndarray) -> None:
    canvas.box((*(at + (-8, -5.5)), *(at + (8, 5.5))), (1, 1, 1), round=1)
    canvas.stroke(at + np.array([[-7.5, -5], [0, 1.5], [7.5, -5]]), 1.1, (0.35, 0.45, 0.6))


ICONS: dict[str, tuple[Colour, Callable[[Canvas, np.ndarray], None]]] = {
    "folder": ((0.25, 0.45, 0.75), _folder),
    "trash": ((0.42, 0.46, 0.52), _trash),
    "globe": ((0.12, 0.5, 0.85), _globe),
    "camera": ((0.5, 0.35, 0.7), _camera),
    "music": ((0.92, 0.3, 0.45), _music_note),
    "clock": ((0.2, 0.6, 0.45), _clock),
    "letter": ((0.95, 0.6, 0.2), _envelope),
}


def cursor(canvas: Canvas, tip: np.ndarray, owner: int, clicks: bool) -> None:
    """An arrow whose tip is at `tip`; a ring around it while it clicks."""
    arrow = np.array([[0, 0], [0, 15], [3.5, 11.8], [6, 17], [8.6, 15.8], [6.2, 10.8], [10.8, 10.6]])
    if clicks:
        ring = np.stack([9 * np.cos(np.linspace(0, 6.3, 28)), 9 * np.sin(np.linspace(0, 6.3, 28))], axis=1)
        canvas.stroke(tip + ring, 1.6, (1.0, 0.85, 0.1), opacity=0.85)
    canvas.stroke(tip + np.concatenate([arrow, arrow[:1]]), 1.8, (0, 0, 0), owner)
    canvas.polygon(tip + arrow, (1, 1, 1), owner)
    canvas.stroke(tip + np.concatenate([arrow, arrow[:1]]), 0.7, (0.05, 0.05, 0.05))
