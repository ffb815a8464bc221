"""What the parts of the inspector share: what is looked at, how, and where; each part listens for changes."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ipywidgets import HTML

from videomolmo.errors import BadInput
from videomolmo.inspector.canvas import FrameCanvas, Picture
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.differences import Differences
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.painting import EncodedCache, Look
from videomolmo.inspector.widget_work import Work

TALLEST_PX = 480
WIDEST_PX = 1280


class Desk:
    """One or two inspections on one time line.

    Args:
        inspection: what is looked at and corrected.
        other: shown beside it.
        grounder: a `VideoGrounder` for corrections and new sentences; None: neither is offered.
        folder: exports go there.
        look: how frames are shown at first.

    Attributes:
        canvas: the pictures and their time line.
        frame: the one shown.
        corrections, differences: of the first result, and between both; None where there is one.
        words: the line below the picture.
        theme: "light" or "dark"; None until a browser says.
        work: the one long job that may run.
        moved, changed, themed: functions called after the frame, what is believed, or the theme changed.
        clicked: called with frame, x and y of a click in the first picture.
    """

    def __init__(
        self, inspection: Inspection, other: Inspection | None, grounder: Any, folder: Path, look: Look
    ) -> None:
        self.inspection, self.other, self.grounder, self.folder, self.look = inspection, other, grounder, folder, look
        self.moved: list[Callable[[], None]] = []
        self.changed: list[Callable[[], None]] = []
        self.themed: list[Callable[[], None]] = []
        self.clicked: Callable[[int, float, float], None] | None = None
        self.theme: str | None = None
        self.work, self.words = Work(), HTML()
        self.words.add_class("vm-words")
        self._cache = EncodedCache()
        self.canvas = FrameCanvas(
            self._pictures, on_frame=self._went, on_click=self._click, on_size=self._resize, on_theme=self._retheme
        )
        self.opened()

    def opened(self) -> None:
        """Take up what is looked at now: it may be another result than before."""
        self.corrections = Corrections(self.inspection, self.grounder)
        self.recompare()
        self.canvas.fps = float(self.inspection.fps or 30)
        self.changed_data()

    def recompare(self) -> None:
        """Pair the objects of both results again, after one of them changed."""
        both = self.other is not None and self.inspection.frames and self.other.frames
        self.differences = Differences(self.inspection, self.other) if both else None

    @property
    def frame(self) -> int:
        return self.canvas.frame

    @property
    def shown(self) -> list[Inspection]:
        """What is shown, from left to right."""
        return [self.inspection] + ([self.other] if self.other is not None else [])

    def go(self, frame: int) -> None:
        """Show a frame."""
        if int(frame) != self.frame:
            self.canvas.show(int(frame))
            self._went(self.frame)

    def see(self, **changes: Any) -> None:
        """Change how frames are shown: fields of `Look`."""
        look = replace(self.look, **changes)
        if look != self.look:
            self.look = look
            self.canvas.show()

    def changed_data(self) -> None:
        """Tell all parts that masks, points, names or results changed."""
        outcomes = self.inspection.outcomes()
        with self.canvas.hold_sync():
            self.canvas.frames = max(one.frames for one in self.shown)
            self.canvas.frame = min(self.canvas.frame, max(0, self.canvas.frames - 1))
            self.canvas.marks = [
                [at, outcomes.get(at, "corrected")] for at in sorted({*outcomes, *self.inspection.key_frames})
            ]
            self.canvas.sizes = [[one.height, one.width] for one in self.shown]
            self.canvas.titles = [self._title(one) for one in self.shown] if self.other is not None else []
        self.canvas.show()
        for tell in self.changed:
            tell()

    def say(self, text: str, *, error: bool = False) -> None:
        """One line for the user, below the picture."""
        self.words.value = f'<span class="{"vm-error" if error else ""}" role="status">{escape(text)}</span>'

    def regret(self, error: BaseException) -> None:
        """Say why something could not be done; what nobody expected with its kind."""
        self.say(str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}", error=True)

    def attempt(self, act: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Do something the user asked for; what is wrong with it is said, not raised."""
        try:
            return act(*args, **options)
        except BadInput as error:
            self.regret(error)
            return None

    def _pictures(self, frame: int) -> tuple[list[Picture], str]:
        """The encoded pictures of a frame, and the line below them."""
        pictures = [
            self._cache.picture(one, min(frame, one.frames - 1), self._look_at(one)) for one in self.shown if one.frames
        ]
        return pictures, self._caption(frame)

    def _look_at(self, one: Inspection) -> Look:
        """The other result's objects have numbers of their own: those are shown whose partners are."""
        if one is self.inspection or self.look.objects is None or self.differences is None:
            return self.look
        partners = [
            right for left, right in self.differences.pairs if right and (left is None or left in self.look.objects)
        ]
        return replace(self.look, objects=tuple(partners))

    def _caption(self, frame: int) -> str:
        one = self.inspection
        if not one.frames:
            return "this result has no frames"
        time = f" · {one.times_s[frame]:.2f} s" if frame < one.frames else " · after the end of the first"
        outcome = one.outcomes().get(frame)
        key = f" · key frame: {outcome}" if outcome else " · corrected here" if frame in one.key_frames else ""
        return f"frame {frame} of 0–{self.canvas.frames - 1}{time}{key}"

    def _title(self, one: Inspection) -> str:
        tau = f", τ = {one.tau:g}" if one.rule == "iou" else ""
        return f"“{one.sentence}” · {one.rule}{tau}"

    def _went(self, frame: int) -> None:
        for tell in self.moved:
            tell()

    def _click(self, frame: int, pane: int, x: float, y: float) -> None:
        if self.canvas.mode != "look" and pane:
            self.say("corrections are made in the picture on the left", error=True)
        elif self.clicked is not None:
            self.clicked(frame, x, y)

    def _resize(self, width: int) -> None:
        """Paint for the room there is, in steps, so that a window being dragged does not empty the cache."""
        each = (min(width - 8, WIDEST_PX) - 6 * (len(self.shown) - 1)) // len(self.shown)
        size = (TALLEST_PX, max(160, each // 16 * 16))
        if size != self.look.size:
            self.see(size=size)

    def _retheme(self, dark: bool) -> None:
        theme = "dark" if dark else "light"
        if theme != self.theme:
            self.theme = theme
            for tell in self.themed:
                tell()
