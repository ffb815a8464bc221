"""The picture with its time line: frames on request, keys, clicks; canvas.js is the browser's half."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

Picture = tuple[bytes, str]  # a file's content and its MIME type
MAX_SHARP = 4.0  # pixels painted for each pixel of the page
FIRST_WIDTH_PX = 640  # until the browser says how wide it is
MAX_AT_ONCE = 16  # frames in one answer
SCRIPTS = (
    "element.js", "time_line.js", "phrases.js", "hints.js", "zoom.js", "sketch.js", "arrange.js", "lost.js",
    "pointer.js", "canvas.js",
)  # fmt: skip
LAYOUTS = ("side", "stack", "swipe", "overlay")
MOST_POINTS = 10_000  # of one stroke


class FrameCanvas(anywidget.AnyWidget):
    """One picture, or two, on a time line that keys and clicks move along.

    Args:
        picture: gives the pictures of a frame and the line below them; asked for those shown, or soon to be.
        on_frame: called after the user moved to a frame.
        on_click: called with frame, picture (0 or 1), x and y in pixels of that picture's video.
        on_size: called with the width that there is for the pictures, and how many pixels of the screen each of its
            pixels has.
        on_drawn: called with frame, picture, what was drawn by dragging ("box", "stroke" or "point") and the points
            that the pointer went through, at least one, in pixels of that picture's video, some perhaps beyond it.
        on_hover: names of the objects at x and y of a picture, by their ids, and the point that can be dragged there
            (x, y, and how near to it a press must be) or None; takes what `on_click` takes.
        on_alone: called with a picture and the objects that are shown alone for a moment; None: all are again.
        on_key: called with one of `shortcuts` that was pressed.
        on_theme: called with whether JupyterLab's theme is dark.

    Attributes:
        frames, fps: of the clip.
        marks, marks_beside: key frames of the first and of the second picture, each with its outcome.
        sizes: height and width of each picture's video, pixels.
        mode: what a click means; only "navigate" keeps the ordinary pointer.
        titles: above the pictures, each as a name and what else there is to tell.
        moments, moments_beside: what either was asked about the whole video and pointed at: frame, numbers, colour, ink
            to be read on it, and what to say.
        captions: of each picture, in pieces of a text and the objects it names: id, colour, and ink to be read on it.
        repropagated: stretches whose masks follow corrections, first frame and the one after the last.
        pending: what masks are being made for: frame, x, y, and whether that point is on the object; or frame and a
            box, left, top, right and bottom.
        pen: width of the brush in pixels of the video, and the colour of what it draws.
        arranged: how two pictures stand, of `LAYOUTS`.
        kept_in: where corrections are, should this kernel be gone.
        tips: what controls of the inspector are for, by their model's id.
        shortcuts: keys that `on_key` is called for.
        frame: the one shown.
        sharp: pixels of a painted picture for each pixel of the page; whoever paints sets it.
        looked_at: whether any browser shows this.
        asked_at: `time.monotonic()` when a browser asked last; 0 before that.
        kept: what must not be given back while a browser shows this, or is about to; `keeper` is a weak way to it.
    """

    _esm = "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in SCRIPTS)
    _css = Path(__file__).with_name("canvas.css").read_text("utf-8")  # of a path anywidget keeps every widget for ever
    frames = traitlets.Int(0).tag(sync=True)
    fps = traitlets.Float(30.0).tag(sync=True)
    marks = traitlets.List().tag(sync=True)
    marks_beside = traitlets.List().tag(sync=True)
    moments = traitlets.List().tag(sync=True)
    moments_beside = traitlets.List().tag(sync=True)
    sizes = traitlets.List().tag(sync=True)
    mode = traitlets.Unicode("navigate").tag(sync=True)
    titles = traitlets.List().tag(sync=True)
    captions = traitlets.List().tag(sync=True)
    repropagated = traitlets.List().tag(sync=True)
    pending = traitlets.List().tag(sync=True)
    pen = traitlets.List([12, "white"]).tag(sync=True)
    arranged = traitlets.Enum(LAYOUTS, "side").tag(sync=True)
    kept_in = traitlets.Unicode("").tag(sync=True)
    tips = traitlets.Dict().tag(sync=True)
    shortcuts = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        picture: Callable[[int], tuple[Sequence[Picture], str]],
        *,
        on_frame: Callable[[int], None],
        on_click: Callable[[int, int, float, float], None],
        on_drawn: Callable[[int, int, str, list[tuple[float, float]]], None],
        on_size: Callable[[int, float], None],
        on_theme: Callable[[bool], None],
        on_left: Callable[[], None],
        on_hover: Callable[[int, int, float, float], tuple[dict[int, str], tuple[float, ...] | None]],
        on_alone: Callable[[int, list[int] | None], None],
        on_key: Callable[[str], None],
        **traits: Any,
    ) -> None:
        super().__init__(**traits)
        self.frame, self.looked_at, self.asked_at, self._age, self.sharp = 0, False, 0.0, 0, 1.0
        self._picture, self._on_left, self.kept = picture, on_left, None
        self.keeper: Callable[[], Any] = lambda: None
        self._views: set[str] = set()
        self._on_frame, self._on_click, self._on_size, self._on_theme = on_frame, on_click, on_size, on_theme
        self._on_hover, self._on_alone, self._on_key, self._on_drawn = on_hover, on_alone, on_key, on_drawn
        self.on_msg(self._receive)

    def show(self, frame: int | None = None) -> None:
        """Go to a frame in every browser that looks; without one, send the frame that is shown, for it changed."""
        if frame is None:
            self._age += 1  # what browsers keep is out of date
        else:
            self._go(frame)
        if self.looked_at:  # else nobody is there to send it to: painted when somebody comes
            self._deliver([self.frame], moved=frame is not None)

    def repaint(self, frame: int) -> None:
        """Send one frame again, whose picture changed; browsers keep all others."""
        if self.looked_at:
            self._deliver([frame], moved=False)

    def _go(self, frame: int) -> None:
        self.frame = min(max(0, int(frame)), max(0, self.frames - 1))

    def _deliver(self, frames: list[int], *, moved: bool, view: str | None = None) -> None:
        """Send the pictures of some frames; a request is always answered, or the browser would wait for ever."""
        begun = time.thread_time()  # of this processor: the browser and others share the machine
        content = {"kind": "pictures", "view": view, "frame": self.frame, "moved": moved}
        content |= {"age": self._age, "sharp": self.sharp}
        captions, data, kinds, failed = {}, [], [], None
        for frame in frames:
            try:
                pictures, words = self._picture(frame)
            except Exception as error:  # the others can be painted all the same
                failed = error
                continue
            captions[frame] = words
            data += [file for file, _ in pictures]
            kinds += [kind for _, kind in pictures]
        content |= {"frames": list(captions), "captions": list(captions.values()), "types": kinds}
        self.send(content | {"ms": round(1000 * (time.thread_time() - begun), 2)}, buffers=data)
        if failed is not None:
            raise failed

    def _receive(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        kind = content.get("kind")
        self.asked_at = time.monotonic()
        if kind == "go":
            was = self.frame
            self._go(content["frame"])
            asked = [n for n in dict.fromkeys(map(int, content["pictures"])) if 0 <= n < max(1, self.frames)]
            self._deliver(asked[:MAX_AT_ONCE], moved=self.frame != was, view=content.get("view"))
            if self.frame != was:
                self._on_frame(self.frame)
        elif kind == "click":
            self._on_click(*_place(content))
        elif kind == "hover":
            names, grip = {}, None
            try:
                names, grip = self._on_hover(*_place(content))
            finally:  # a browser asks again only after an answer
                answer = {"kind": "over", "view": content.get("view"), "pane": content.get("pane"), "grip": grip}
                self.send(answer | {"objects": list(names), "names": list(names.values())})
        elif kind == "drawn":
            points = [(float(x), float(y)) for x, y in content["points"][:MOST_POINTS]]
            self._on_drawn(int(content["frame"]), int(content["pane"]), str(content["what"]), points)
        elif kind == "alone":
            self._on_alone(int(content.get("pane", 0)), content.get("objects"))
        elif kind == "key":
            self._on_key(str(content["key"]))
        elif kind == "theme":
            self._on_theme(bool(content["dark"]))
        elif kind in ("ready", "size"):
            self.looked_at = self.looked_at or kind == "ready"  # a size may come after its view was closed
            sharp = min(MAX_SHARP, max(1.0, float(content.get("sharp") or 1)))
            self._on_size(int(content["width"]) or FIRST_WIDTH_PX, sharp)
            if kind == "ready":
                self._views.add(content["view"])
                self.kept = self.keeper()
                self._on_theme(bool(content["dark"]))
                self.show()
        elif kind == "closed":
            self._views.discard(content["view"])
            if not self._views:
                self.looked_at = False
                self._on_left()
                self.kept = None


def _place(content: dict[str, Any]) -> tuple[int, int, float, float]:
    """Frame, picture, x and y, as a browser tells them."""
    return int(content["frame"]), int(content["pane"]), float(content["x"]), float(content["y"])
