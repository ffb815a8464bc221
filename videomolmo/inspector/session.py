"""The state of an inspector: results, view and frame; its panels listen for changes."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ipywidgets import HTML, DOMWidget

from videomolmo.errors import BadInput
from videomolmo.fusion import RULES
from videomolmo.inspector.background import BackgroundTask, CompareTask, ScoreTask, notify
from videomolmo.inspector.canvas import FIRST_WIDTH_PX, FrameCanvas, Picture
from videomolmo.inspector.compare import Differences
from videomolmo.inspector.corrections import Change, Corrections
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.moments import moments_of, said_of
from videomolmo.inspector.render import DraftMask, EncodedCache, Look, swatch
from videomolmo.inspector.run_models import RunModels

TALLEST_PX = 480
WIDEST_PX = 1280
MAX_PAINTED_PX = 4e6  # of one picture, however much it is enlarged
ALONE_OPACITY = 0.5  # at least, of a mask that is shown alone
SIDES = {  # what two pictures are called, as they stand
    "side": ("left", "right"), "stack": ("upper", "lower"), "swipe": ("left", "right"), "overlay": ("first", "second"),
}  # fmt: skip
Grip = tuple[float, float, float]  # a point that can be dragged: x, y, and how near to it a press must be, in pixels


class InspectorState:
    """One or two inspections on one time line.

    Args:
        inspection: what is looked at and corrected.
        other: shown beside it.
        grounder: a `VideoGrounder` for corrections and new sentences; None: the run's own models, when needed.
        folder: exports go there.
        look: how frames are shown at first.

    Attributes:
        canvas: the pictures and their time line.
        frame: the one shown.
        corrections, differences: of the first result, and between both; None where there is one.
        models: what corrects and answers.
        alone: a picture and its objects that are shown without all others for a moment; None: nothing is.
        words: the line below the picture.
        theme: "light" or "dark"; None until a browser says.
        work: the one long job that may run.
        scores, comparing: give J&F of what is shown, and the differences, when they are computed.
        frame_listeners, data_listeners, theme_listeners: called after the frame, masks or points, or the theme changed.
        clicked: called with frame, x and y of a click in the first picture.
        drawn: called with frame, what was drawn in the first picture by dragging, and the points it went through.
        grip: gives the point that can be dragged at x and y of a frame, or None.
        draft: a frame and the mask that is being drawn on it; None: none is.
        asked: results of all sentences asked here, the first one included.
    """

    def __init__(
        self, inspection: Inspection, other: Inspection | None, grounder: Any, folder: Path, look: Look
    ) -> None:
        self.inspection, self.other, self.folder, self.look = inspection, other, folder, look
        self.models = RunModels(inspection.result.config, grounder)
        self.alone: tuple[int, tuple[int, ...]] | None = None
        self.asked = [inspection]
        self.frame_listeners: list[Callable[[], None]] = []
        self.data_listeners: list[Callable[[], None]] = []
        self.theme_listeners: list[Callable[[], None]] = []
        self.clicked: Callable[[int, float, float], None] | None = None
        self.drawn: Callable[[int, str, list[tuple[float, float]]], None] | None = None
        self.grip: Callable[[int, float, float], Grip | None] = lambda *_: None
        self.draft: tuple[int, DraftMask] | None = None
        self.theme: str | None = None
        self.work, self.scores, self.comparing, self.words = BackgroundTask(), ScoreTask(), CompareTask(), HTML()
        self.words.add_class("vm-words")
        self._cache, self._keys = EncodedCache(), dict[str, Callable[[], Any]]()
        self.canvas = FrameCanvas(
            self._pictures,
            on_frame=self._went,
            on_click=self._click,
            on_drawn=self._draw,
            on_size=self._resize,
            on_theme=self._retheme,
            on_left=self.give_back,
            on_hover=self._names_at,
            on_alone=self._show_alone,
            on_key=lambda key: self._keys.get(key, lambda: None)(),
        )
        self.comparing.listeners.append(self._recolour)
        self._room = (FIRST_WIDTH_PX, 1.0)
        self.canvas.observe(lambda _: self._arrange(), "arranged")
        self.reset()

    def reset(self) -> None:
        """Start over with the present inspection: it may be another result than before."""
        self.corrections = Corrections(self.inspection, load=self.models.tracker)
        self.alone = self.draft = None
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
    def sides(self) -> tuple[str, ...]:
        """What each of `shown` is called; "" where there is one."""
        return SIDES[self.canvas.arranged] if self.other is not None else ("",)

    @property
    def shown(self) -> list[Inspection]:
        """What is shown, from left to right."""
        return [self.inspection] + ([self.other] if self.other is not None else [])

    @property
    def looks(self) -> list[Look]:
        """How each of `shown` is: objects of the other result follow their partners, and have their colours."""
        first = self.inspection.identities
        looks = [
            replace(self.look, colours=first.colours(self.inspection.objects)),
            *[self.look] * (self.other is not None),
        ]
        if self.differences is not None:
            own, colours = self.look.objects, self.differences.colours()
            partners = None if own is None else self.differences.partners(own)
            colours = colours and tuple(map(first.colour_of, colours))
            looks[1] = replace(self.look, objects=partners, colours=colours)
        return looks

    @property
    def painted(self) -> list[Look]:
        """How each of `shown` is painted now: as `looks`, or objects alone while the pointer is over their phrase."""
        if self.alone is None:
            return self.looks
        pane, objects = self.alone
        each = [objects if n == pane else self._partners(pane, objects) for n in range(len(self.shown))]
        return [_alone(look, objects) for look, objects in zip(self.looks, each, strict=True)]

    def _partners(self, pane: int, objects: tuple[int, ...]) -> tuple[int, ...]:
        """Objects of the other picture that belong to those of one; none until the results are compared."""
        pairs = self.differences.pairs if self.differences is not None and self.differences.known else []
        return tuple(pair[1 - pane] for pair in pairs if pair[pane] in objects and pair[1 - pane])

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
            self.canvas.moments = _moments(self.inspection)
            self.canvas.moments_beside = _moments(self.other) if self.other is not None else []
            self.canvas.sizes = [[one.height, one.width] for one in self.shown]
            self.canvas.titles = [list(_title(one)) for one in self.shown]
            self.canvas.captions = [_pieces(one, look) for one, look in zip(self.shown, self.looks, strict=True)]
            self.canvas.repropagated = [list(one) for one in self.inspection.repropagated()]
            self.canvas.pending = []
            self.canvas.kept_in = _kept_in(self.inspection)
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

    def correct(self, act: Callable[[], Change], words: Callable[[Change], str]) -> None:
        """Make a correction that needs no model, show it, and say what it did; what is wrong with it is shown."""
        if self.is_free():
            change = self.run_safely(act)
            self.refresh()  # where it was refused because of corrections made elsewhere, these are shown
            if change is not None:
                self.set_status(words(change))

    def tip(self, control: DOMWidget, text: str) -> None:
        """Say what a control is for where the pointer is over it: not all widgets show their own tooltip."""
        if control.tooltip != text:
            control.tooltip = text
            control.add_class(f"vm-tip-{control.model_id}")
            self.canvas.tips = self.canvas.tips | {control.model_id: text}

    def bind(self, keys: str, act: Callable[[], Any]) -> None:
        """Call `act` when one of these keys is pressed anywhere in the inspector; its errors are shown."""
        for key in keys.split():
            self._keys[key] = lambda: self.run_safely(act)
        self.canvas.shortcuts = list(self._keys)

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
        looks = self.painted
        if self.draft is not None and self.draft[0] == frame:
            draft, shown = self.draft[1], looks[0].objects
            looks[0] = replace(looks[0], draft=draft, objects=shown and (*shown, draft.object_id))
        pictures = [
            self._cache.picture(one, frame, look) for one, look in zip(self.shown, looks, strict=True) if one.frames
        ]
        return pictures, self._caption(frame)

    def give_back(self) -> None:
        """Videos, frames, masks and plots: nobody looks any more. Whoever looks again has them read again."""
        self._cache.clear_cache()
        self.corrections.clear_cache()
        for one in [*self.shown, *self.asked]:
            one.close()
        self.theme = self.alone = None
        notify(self.theme_listeners)

    def remove_listeners(self) -> None:
        """Forget all listeners: no panel is notified any more."""
        self.clicked = self.drawn = None
        self.grip = lambda *_: None
        self._keys.clear()
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
        for one, name in zip(self.shown, self.sides, strict=True):
            side = name and f"{name}: "
            if frame >= one.frames:
                words.append(f"{side}ended at frame {one.frames - 1}" if one.frames else f"{side}no frames")
                continue
            outcome = one.outcomes().get(frame)
            if outcome:
                words.append(f"{side}key frame: {'rejected' if outcome == 'dropped' else outcome}")
            if changed := one.corrections_on(frame):
                words.append(f"{side}corrected: {', '.join(map(one.name_of, sorted(changed)))}")
            elif any(start <= frame < stop for start, stop in one.repropagated()):
                words.append(f"{side}re-propagated")
        return " · ".join(words)

    def _went(self, frame: int) -> None:
        notify(self.frame_listeners)

    def _draw(self, frame: int, pane: int, what: str, points: list[tuple[float, float]]) -> None:
        if pane:
            self.set_status(f"corrections are made in the {self.sides[0]} picture", error=True)
        elif self.drawn is not None and points:
            self.drawn(frame, what, points)
        self.canvas.repaint(frame)  # takes what the browser drew meanwhile away

    def _arrange(self) -> None:
        """Two pictures stand in another way: each may have more room, and is called otherwise."""
        size = self.look.size
        self._resize(*self._room)
        if self.look.size == size:
            self.canvas.show()
        notify(self.frame_listeners)

    def _click(self, frame: int, pane: int, x: float, y: float) -> None:
        if self.canvas.mode != "navigate" and pane:
            self.set_status(f"corrections are made in the {self.sides[0]} picture", error=True)
        elif self.clicked is not None:
            self.clicked(frame, x, y)

    def _names_at(self, frame: int, pane: int, x: float, y: float) -> tuple[dict[int, str], Grip | None]:
        """Objects at a place of a picture, the smallest first, with their names; and a point to be dragged."""
        one = self.shown[pane] if pane < len(self.shown) else self.inspection
        found = objects_at(one, frame, x, y)
        return {object_id: one.name_of(object_id) for object_id in found}, None if pane else self.grip(frame, x, y)

    def _show_alone(self, pane: int, objects: list[int] | None) -> None:
        alone = None if objects is None else (pane, tuple(map(int, objects)))
        if alone != self.alone:
            self.alone = alone
            self.canvas.show()

    def _recolour(self) -> None:
        """Colours of the second result, once it is known whose partners its objects are."""
        if self.differences is not None and self.differences.colours() is not None:
            self.canvas.captions = [_pieces(one, look) for one, look in zip(self.shown, self.looks, strict=True)]
            self.canvas.show()

    def _resize(self, width: int, sharp: float = 1.0) -> None:
        """Paint for the room there is, in steps, so that a window being dragged does not empty the cache."""
        self._room = width, sharp
        abreast = len(self.shown) if self.canvas.arranged == "side" else 1
        each = (min(width - 8, WIDEST_PX) - 6 * (abreast - 1)) // abreast
        each = max(160, each // 16 * 16)
        self.canvas.sharp = sharp = min(sharp, (MAX_PAINTED_PX / (TALLEST_PX * each)) ** 0.5)
        size = (round(TALLEST_PX * sharp), round(each * sharp))
        if size != self.look.size:
            self.set_view(size=size)

    def _retheme(self, dark: bool) -> None:
        theme = "dark" if dark else "light"
        if theme != self.theme:
            self.theme = theme
            notify(self.theme_listeners)


def objects_at(one: Inspection, frame: int, x: float, y: float) -> list[int]:
    """Objects whose predicted masks hold a pixel of a frame, the smallest first."""
    found = []
    for object_id, top, left, mask in one.patches("fused", frame):
        row, column = int(y) - top, int(x) - left
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]:
            found.append((int(mask.sum()), object_id))
    return [object_id for _, object_id in sorted(found)]


def _kept_in(one: Inspection) -> str:
    """Where corrections are, for whoever has lost this kernel."""
    if one.folder is not None and one.log.unkept is None:
        return f"Corrections are kept in {one.folder}." if one.history.records else ""
    return "Corrections were in memory only, and are gone with it." if one.history.records else ""


def _alone(look: Look, objects: tuple[int, ...]) -> Look:
    """These objects' masks, and nothing else."""
    opacity = max(look.opacity, ALONE_OPACITY)
    return replace(look, layers=("fused",), objects=objects, opacity=opacity, points=False, boxes=False, trail=0)


def _pieces(one: Inspection, look: Look) -> list[list[Any]]:
    """The caption in pieces, as the browser's half takes it: text, and of each object id, colour and ink."""
    return [[text, [[n, *swatch(look.colour_id(n))] for n in objects]] for text, objects in one.caption()]


def _title(one: Inspection) -> tuple[str, str]:
    """The sentence, and what else there is to know of a result: file, system, k, rule, size."""
    config = one.result.config
    model, loaded = (one if isinstance(one, dict) else {} for one in (config.get("model"), config.get("loaded")))
    source = one.result.source if one.given_video is None else one.given_video
    file = Path(source).name if isinstance(source, (str, Path)) else "frames in memory"
    tau = f", τ = {one.tau:g}" if "tau" in RULES[one.rule].options else ""
    system, every = str(loaded.get("model") or ""), model.get("every")
    system = Path(system).name if Path(system).is_absolute() else system
    words = [file, system, f"k = {every}" if every else "", f"rule {one.rule}{tau}", f"{one.frames} frames"]
    words.append(f"{one.width}×{one.height} px")
    return f"“{one.sentence}”", " · ".join(word for word in words if word)


def _moments(one: Inspection) -> list[list[Any]]:
    """What was pointed at in a whole video: frame, numbers, colour and ink of the first, and what there is to say."""
    return [
        [frame, [place.number for place in places], *swatch(places[0].number), said_of(places)]
        for frame, places in moments_of(one)
    ]


def _marks(one: Inspection) -> list[list[Any]]:
    """Key frames, each with its outcome; those whose points a person changed are corrected, whatever it was."""
    found = one.outcomes() | {at: "corrected" for at in one.key_frames if at not in one.outcomes()}
    edited = {edit.frame for edit in one.history.state.edits if edit.frame}
    found |= {at: "corrected" for at in {*one.corrected_frames(), *edited} if found.get(at) != "dropped"}
    return [[at, found[at]] for at in sorted(found)]
