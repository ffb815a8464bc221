"""The state of an inspector: results, view and frame; its panels listen for changes."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ipywidgets import HTML

from videomolmo.errors import BadInput
from videomolmo.inspector.background import BackgroundTask, CompareTask, ScoreTask, notify
from videomolmo.inspector.canvas import FrameCanvas, Picture
from videomolmo.inspector.compare import Differences
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.render import EncodedCache, Look

TALLEST_PX = 480
WIDEST_PX = 1280


class InspectorState:
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
        scores, comparing: give J&F of what is shown, and the differences, when they are computed.
        frame_listeners, data_listeners, theme_listeners: called after the frame, masks or points, or the theme changed.
        clicked: called with frame, x and y of a click in the first picture.
        asked: results of all sentences asked here, the first one included.
    """

    def __init__(
        self, inspection: Inspection, other: Inspection | None, grounder: Any, folder: Path, look: Look
    ) -> None:
        self.inspection, self.other, self.grounder, self.folder, self.look = inspection, other, grounder, folder, look
        self.asked = [inspection]
        self.frame_listeners: list[Callable[[], None]] = []
        self.data_listeners: list[Callable[[], None]] = []
        self.theme_listeners: list[Callable[[], None]] = []
        self.clicked: Callable[[int, float, float], None] | None = None
        self.theme: str | None = None
        self.work, self.scores, self.comparing, self.words = BackgroundTask(), ScoreTask(), CompareTask(), HTML()
        self.words.add_class("vm-words")
        self._cache = EncodedCache()
        self.canvas = FrameCanvas(
            self._pictures,
            on_frame=self._went,
            on_click=self._click,
            on_size=self._resize,
            on_theme=self._retheme,
            on_left=self.give_back,
        )
        self.reset()

    def reset(self) -> None:
        """Start over with the present inspection: it may be another result than before."""
        self.corrections = Corrections(self.inspection, self.grounder)
        self.recompare()
        self.canvas.fps = float(self.inspection.fps or 30)
        self.changed_data()

    def recompare(self) -> None:
        """Pair the objects of both results again, after one of them changed."""
        both = self.other is not None and self.inspection.frames and self.other.frames
        self.differences = Differences(self.inspection, self.other) if both else None

    def refresh(self) -> None:
        """Show what masks and points are now, after corrections or changes from code."""
        self.recompare()
        self.changed_data()

    @property
    def frame(self) -> int:
        return self.canvas.frame

    @property
    def shown(self) -> list[Inspection]:
        """What is shown, from left to right."""
        return [self.inspection] + ([self.other] if self.other is not None else [])

    @property
    def looks(self) -> list[Look]:
        """How each of `shown` is: the other result's objects have numbers of their own, and follow their partners."""
        looks = [self.look] * len(self.shown)
        if self.differences is not None:
            looks[1] = replace(self.look, objects=self.differences.partners(self.look.objects))
        return looks

    @property
    def beside(self) -> tuple[Inspection, Look] | None:
        """The other result and how it is shown, as exports take it; None where nothing is compared."""
        return None if self.other is None else (self.other, self.looks[1])

    def go(self, frame: int) -> None:
        """Show a frame."""
        if int(frame) != self.frame:
            self.canvas.show(int(frame))
            self._went(self.frame)

    def set_view(self, **changes: Any) -> None:
        """Change how frames are shown: fields of `Look`."""
        look = replace(self.look, **changes)
        if look != self.look:
            self.look = look
            self.canvas.show()

    def changed_data(self) -> None:
        """Notify all listeners that masks, points, names or results changed."""
        with self.canvas.hold_sync():
            self.canvas.frames = max(one.frames for one in self.shown)
            self.canvas.frame = min(self.canvas.frame, max(0, self.canvas.frames - 1))
            self.canvas.marks = _marks(self.inspection)
            self.canvas.marks_beside = _marks(self.other) if self.other is not None else []
            self.canvas.sizes = [[one.height, one.width] for one in self.shown]
            self.canvas.titles = [self._title(one) for one in self.shown] if self.other is not None else []
        self.canvas.show()
        notify(self.data_listeners)

    def set_status(self, text: str, *, error: bool = False) -> None:
        """One line for the user, below the picture."""
        self.words.value = f'<span class="{"vm-error" if error else ""}" role="status">{escape(text)}</span>'

    def show_error(self, error: BaseException) -> None:
        """Show why something could not be done; an unexpected error with its kind."""
        self.set_status(str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}", error=True)

    def run_safely(self, act: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run what the user asked for; its errors are shown, not raised."""
        try:
            return act(*args, **options)
        except (BadInput, OSError) as error:  # a folder that cannot be written to is the user's to repair
            self.show_error(error)
            return None

    def is_free(self) -> bool:
        """Whether no long job runs; where one does, the user is told to wait."""
        if self.work.busy:
            self.set_status("wait until the present work is done, or cancel it", error=True)
        return not self.work.busy

    def start(self, doing: str, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run a job in the background; `done` takes what it returns, an error is shown."""

        def end(found: Any, error: BaseException | None) -> None:
            done(found) if error is None else self.show_error(error)

        self.set_status(doing)
        self.work.start(lambda *_: job(), lambda *_: None, end)

    def _pictures(self, frame: int) -> tuple[list[Picture], str]:
        """The encoded pictures of a frame, and the line below them."""
        pictures = [
            self._cache.picture(one, frame, look)
            for one, look in zip(self.shown, self.looks, strict=True)
            if one.frames
        ]
        return pictures, self._caption(frame)

    def give_back(self) -> None:
        """Videos, frames, masks and plots: nobody looks any more. Whoever looks again has them read again."""
        self._cache.clear_cache()
        self.corrections.clear_cache()
        for one in [*self.shown, *self.asked]:
            one.close()
        self.theme = None
        notify(self.theme_listeners)

    def remove_listeners(self) -> None:
        """Forget all listeners: no panel is notified any more."""
        self.clicked = None
        own = [self.frame_listeners, self.data_listeners, self.theme_listeners]
        for listeners in (*own, self.work.listeners, self.scores.listeners, self.comparing.listeners):
            listeners.clear()

    def _caption(self, frame: int) -> str:
        longest = max(self.shown, key=lambda one: one.frames)
        if not longest.frames:
            return "this result has no frames"
        words = [f"frame {frame} of 0–{self.canvas.frames - 1}", f"{longest.times_s[frame]:.2f} s"]
        if origin := longest.result.in_source(frame):
            words.append(f"of the source {origin['source_frame']}, {origin['source_time_s']:.2f} s")
        for one, side in zip(self.shown, ("left: ", "right: ") if self.other is not None else ("",), strict=True):
            outcome = one.outcomes().get(frame)
            if frame >= one.frames:
                words.append(f"{side}ended at frame {one.frames - 1}" if one.frames else f"{side}no frames")
            elif outcome or frame in one.key_frames:
                words.append(f"{side}key frame: {outcome}" if outcome else f"{side}corrected here")
        return " · ".join(words)

    def _title(self, one: Inspection) -> str:
        tau = f", τ = {one.tau:g}" if one.rule == "iou" else ""
        return f"“{one.sentence}” · {one.rule}{tau}"

    def _went(self, frame: int) -> None:
        notify(self.frame_listeners)

    def _click(self, frame: int, pane: int, x: float, y: float) -> None:
        if self.canvas.mode != "look" and pane:
            self.set_status("corrections are made in the picture on the left", error=True)
        elif self.clicked is not None:
            self.clicked(frame, x, y)

    def _resize(self, width: int) -> None:
        """Paint for the room there is, in steps, so that a window being dragged does not empty the cache."""
        each = (min(width - 8, WIDEST_PX) - 6 * (len(self.shown) - 1)) // len(self.shown)
        size = (TALLEST_PX, max(160, each // 16 * 16))
        if size != self.look.size:
            self.set_view(size=size)

    def _retheme(self, dark: bool) -> None:
        theme = "dark" if dark else "light"
        if theme != self.theme:
            self.theme = theme
            notify(self.theme_listeners)


def _marks(one: Inspection) -> list[list[Any]]:
    """Key frames, each with its outcome."""
    outcomes = one.outcomes()
    return [[at, outcomes.get(at, "corrected")] for at in sorted({*outcomes, *one.key_frames})]
