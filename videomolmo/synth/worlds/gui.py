"""A computer's desktop: windows, buttons, icons, and a cursor that clicks and drags.

Train: a light theme with the task bar below, icons on the left and two windows in a cascade. The cursor clicks a
button, a message pops up, then the cursor drags a window by its title bar.
Test: a dark theme with a menu bar above, icons on the right and four windows in tiles. The cursor clicks a button, a
message pops up, then the cursor closes another window.

The masks of a window and of its buttons are apart; phrases about a window mean both.
"""

from dataclasses import dataclass

import numpy as np

from videomolmo.synth.scene import sample_colour
from videomolmo.synth.worlds.desktop import ICONS, Theme, Window, cursor, draw_icon, draw_window
from videomolmo.synth.worlds.world import HIGH, WIDE, Canvas, Expression, Scene, ease, follow, mixed

TITLES = ("mail", "notes", "photos", "music", "files", "chart")
LABELS = ("send", "save", "open", "play", "print", "share", "copy", "next", "edit", "search")
CLICK, POPS, ACTS, ENDS = 0.32, 0.38, 0.62, 0.92


@dataclass(frozen=True)
class Desk:
    """The desktop: windows from the back to the front, the message last; the pressed button, the window acted on."""

    windows: tuple[Window, ...]
    icons: tuple[str, ...]
    theme: Theme
    pressed: tuple[int, int]
    acted: int
    shift: np.ndarray
    start: np.ndarray

    @property
    def drags(self) -> bool:
        return bool(np.any(self.shift))

    def moved(self, time: float) -> np.ndarray:
        """How far the dragged window has come."""
        return follow(time, [(ACTS, np.zeros(2)), (ENDS, self.shift)])

    def pointer(self, time: float) -> np.ndarray:
        """The tip of the cursor."""
        box = self.windows[self.pressed[0]].button(self.pressed[1])
        button = np.array([box[0] * 0.45 + box[2] * 0.55, box[1] * 0.4 + box[3] * 0.6])
        left, top, width, _ = self.windows[self.acted].place
        grab = np.array([left + width * 0.55, top + 6]) if self.drags else np.array([left + width - 7, top + 7])
        stops = [(0.04, self.start), (CLICK - 0.04, button), (0.42, button), (ACTS - 0.02, grab)]
        return follow(time, stops) + self.moved(time)


def make_scene(rng: np.random.Generator, part: str, index: int) -> Scene:
    """Windows with one to three labelled buttons each, three to five icons, a message, and what the cursor does."""
    train = part == "train"
    titles = [str(word) for word in rng.permutation(TITLES)]
    labels = [str(word) for word in rng.permutation(LABELS)]
    icons = tuple(str(word) for word in rng.permutation(list(ICONS))[: 4 if train else 5])
    nudge = rng.uniform(-5, 5, (4, 2))
    if train:
        places = [(56 + nudge[0, 0], 18 + nudge[0, 1], 132, 104), (146 + nudge[1, 0], 92 + nudge[1, 1], 140, 112)]
        message = (196 + nudge[2, 0], 24 + nudge[2, 1], 112, 58)
    else:
        split = np.array([142, 122]) + rng.uniform(-14, 14, 2)
        places = [(6, 20, split[0] - 10, split[1] - 24), (split[0] + 2, 20, 284 - split[0], split[1] - 24)]
        places += [(6, split[1] + 2, split[0] - 10, 228 - split[1]), (split[0] + 2, split[1] + 2, 284 - split[0],
                                                                      228 - split[1])]  # fmt: skip
        message = (98 + nudge[2, 0], 88 + nudge[2, 1], 102, 58)
    windows, used = [], 0
    for number, place in enumerate(places):
        many = 2 + number % 2 if train else 1 + int(rng.integers(0, 2))
        windows.append(Window(titles[number], tuple(map(float, place)), tuple(labels[used : used + many])))
        used += many
    windows.append(Window("message", tuple(map(float, message)), ("ok",)))
    pressed = 0 if train else int(rng.integers(0, 4))
    acted = 1 if train else (pressed + int(rng.integers(1, 4))) % 4
    desk = Desk(
        windows=tuple(windows),
        icons=icons,
        theme=_theme(rng, train),
        pressed=(pressed, int(rng.integers(len(windows[pressed].labels)))),
        acted=acted,
        shift=np.array([rng.uniform(-62, -38), rng.uniform(-14, 10)]) if train else np.zeros(2),
        start=rng.uniform((120, 130), (200, 215)) if train else rng.uniform((120, 60), (240, 200)),
    )
    numbers, names = _numbered(desk)
    expressions = _expressions(desk, numbers, labels[used:], titles[len(places) :])

    def draw(canvas: Canvas, time: float) -> None:
        _draw(canvas, desk, numbers, time)

    return Scene(names, expressions, draw, lambda canvas: _backdrop(canvas, desk))


def _theme(rng: np.random.Generator, light: bool) -> Theme:
    accent = sample_colour(rng, str(rng.choice(("blue", "green", "red") if light else ("purple", "orange", "cyan"))))
    accent = mixed(accent, (0.35, 0.37, 0.42), 0.3)
    if light:
        sky = sample_colour(rng, "blue") * 0.5 + 0.35
        return Theme(
            (0.97, 0.97, 0.98), (0.86, 0.89, 0.94), (0.12, 0.13, 0.16), (0.84, 0.86, 0.89), accent, sky, sky * 0.6
        )
    dusk = sample_colour(rng, "purple") * 0.35
    return Theme((0.15, 0.16, 0.19), (0.25, 0.26, 0.31), (0.9, 0.9, 0.92), (0.34, 0.36, 0.41), accent, dusk, dusk * 0.3)


def _numbered(desk: Desk) -> tuple[dict[tuple[str, int, int], int], tuple[str, ...]]:
    """Object indices of icons, windows, buttons and cursor, and their names, in that order."""
    numbers, names = {}, []
    for number, icon in enumerate(desk.icons):
        numbers["icon", number, 0] = len(names)
        names.append(f"{icon} icon")
    for number, window in enumerate(desk.windows):
        numbers["window", number, 0] = len(names)
        names.append(f"{window.title} window")
        for button, label in enumerate(window.labels):
            numbers["button", number, button] = len(names)
            names.append(f"{label} button")
    numbers["cursor", 0, 0] = len(names)
    return numbers, (*names, "cursor")


def _expressions(
    desk: Desk, numbers: dict[tuple[str, int, int], int], labels: list[str], titles: list[str]
) -> tuple[Expression, ...]:
    last = len(desk.windows) - 1

    def whole(window: int) -> tuple[int, ...]:
        found = (index for (kind, at, _), index in numbers.items() if at == window and kind in ("window", "button"))
        return tuple(sorted(found))

    buttons = tuple(index for (kind, _, _), index in numbers.items() if kind == "button")
    icons = tuple(index for (kind, _, _), index in numbers.items() if kind == "icon")
    other = next(number for number in range(last) if number != desk.pressed[0])
    label = desk.windows[other].labels[0]
    free = [icon for icon in ICONS if icon not in desk.icons]
    verb = "drags" if desk.drags else "closes"
    return (
        Expression("all the windows", tuple(sorted(i for w in range(last + 1) for i in whole(w))), "all"),
        Expression("all the icons on the desktop", icons, "all"),
        Expression("all the buttons", buttons, "all"),
        Expression(f"the button labelled {label}", (numbers["button", other, 0],), "appearance"),
        Expression(f"the {desk.icons[0]} icon", (icons[0],), "appearance"),
        Expression(f"the window titled {desk.windows[0].title}", whole(0), "appearance"),
        Expression(f"the icon just below the {desk.icons[1]} icon", (icons[2],), "relation"),
        Expression("the button that the cursor clicks", (numbers["button", *desk.pressed],), "action"),
        Expression(f"the window that the cursor {verb}", whole(desk.acted), "action"),
        Expression("the window that pops up", whole(last), "action"),
        Expression("the cursor", (numbers["cursor", 0, 0],), "appearance"),
        Expression(f"the button labelled {labels[0]}", (), "absent"),
        Expression(f"the {free[0]} icon", (), "absent"),
        Expression(f"the window titled {titles[0]}", (), "absent"),
    )


def _backdrop(canvas: Canvas, desk: Desk) -> None:
    theme = desk.theme
    canvas.gradient(theme.top, theme.bottom)
    for number, (x, y, size) in enumerate(((250, 210, 120), (120, 260, 130), (330, 90, 80))):
        canvas.ellipse((x, y), size, np.asarray(theme.accent), opacity=0.10 + 0.05 * number, soft=2)
    if desk.drags:
        canvas.box((0, 222, WIDE, HIGH), np.asarray(theme.ink) * 1.4, opacity=0.9)
        canvas.box((4, 225, 30, 237), theme.accent, round=2)
        canvas.text("start", (7, 234), 5.5, (1, 1, 1))
        canvas.text("10:24", (286, 234.5), 5.5, (0.95, 0.95, 0.95))
        for number in range(len(desk.windows) - 1):
            canvas.box((38 + 46 * number, 225, 80 + 46 * number, 237), (0.34, 0.36, 0.42), round=2)
            canvas.text(desk.windows[number].title, (43 + 46 * number, 234), 5.5, (0.95, 0.95, 0.95))
        return
    canvas.box((0, 0, WIDE, 13), (0.05, 0.05, 0.07))
    canvas.ellipse((9, 6.5), 3.2, theme.accent)
    for number, word in enumerate(("file", "edit", "view", "help")):
        canvas.text(word, (20 + 28 * number, 9.5), 5.5, (0.9, 0.9, 0.92))
    canvas.text("18:07", (287, 9.5), 5.5, (0.9, 0.9, 0.92))


def _draw(canvas: Canvas, desk: Desk, numbers: dict[tuple[str, int, int], int], time: float) -> None:
    """Icons, then windows from the back to the front, then the cursor."""
    left = 22.0 if desk.drags else 305.0
    for number, icon in enumerate(desk.icons):
        middle = np.array([left, 22.0 + 46 * number if desk.drags else 34.0 + 42 * number])
        draw_icon(canvas, icon, middle, numbers["icon", number, 0] + 1)
    order = list(range(len(desk.windows)))
    if desk.drags and time > ACTS - 0.03:  # grabbed windows come to the front
        order.append(order.pop(order.index(desk.acted)))
    active = order[-1] if time >= POPS else desk.pressed[0]
    for number in order:
        message = number == len(desk.windows) - 1
        if (message and time < POPS) or (number == desk.acted and not desk.drags and time > ACTS + 0.06):
            continue
        grown = ease(time, POPS - 0.03, POPS + 0.05) if message else 1.0
        shift = desk.moved(time) if number == desk.acted else np.zeros(2)
        owners = [numbers["button", number, k] + 1 for k in range(len(desk.windows[number].labels))]
        pressed = desk.pressed[1] if number == desk.pressed[0] and CLICK <= time < CLICK + 0.09 else None
        draw_window(canvas, desk.windows[number], desk.theme, (numbers["window", number, 0] + 1, owners),
                    shift=shift, grown=grown, pressed=pressed, active=number == active)  # fmt: skip
    clicks = CLICK <= time < CLICK + 0.08 or (not desk.drags and ACTS <= time < ACTS + 0.07)
    cursor(canvas, desk.pointer(time), numbers["cursor", 0, 0] + 1, clicks)
