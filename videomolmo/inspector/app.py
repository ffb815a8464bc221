"""Your own video, in a page of widgets: choose it, ask, watch the masks arrive, inspect, correct, export.

The same box in JupyterLab and, through `videomolmo app`, in a browser alone. It reads and writes its folder only.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from videomolmo.errors import BadInput
from videomolmo.inspector.background import BackgroundTask, close_all, notify
from videomolmo.inspector.corrections import Cancelled, Progress
from videomolmo.inspector.render import encode
from videomolmo.inspector.transfer import Upload, free_name
from videomolmo.inspector.widget import TrackInspector, inspect
from videomolmo.io.drawing import annotated_frame, badge
from videomolmo.io.files import temporary_folder
from videomolmo.io.known_words import unknown_words
from videomolmo.io.plain_values import as_int, require_path
from videomolmo.io.sources import check_stretch, open_source
from videomolmo.weights.hub import SAMPLE_SENTENCE, sample_clip

VIDEOS = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg", ".gif", ".ogv", ".wmv", ".flv",
}  # fmt: skip
SHOWN_WINDOWS, WINDOW_PX = 24, 120  # pictures of the windows that came last, and their height
SAMPLE = "the sample clip"
KNOWN = " <i>nano</i> knows eight colours and four shapes, from generated clips: real videos need a published model."


class VideoApp:
    """A form, the windows as they arrive, and the inspector of the result.

    Args:
        folder: all that is read and written. Videos that lie in it can be chosen; uploads, results and exports of each
            app go to a folder of its own in there, which is made when something is put in it.
        systems: names that `videomolmo.load_grounder` takes, in the order of the list; a browser can choose no other.
        limit_mb: largest upload, megabytes.
        sentence, every: what stands in the form at first.
        masks, device: as `load_grounder` takes them.

    Attributes:
        upload, video, sentence, system, every, start, end, ask, cancel: the controls.
        bar, words, windows: how far the run is, in numbers, words and pictures.
        results: the results of this app, to go back to.
        inspector: of the result that is shown; None before there is one.
        box: all of it, as one widget.

    Raises:
        BadInput: `folder` is a file, no system is named, or `limit_mb` is no number.

    Seen in: notebooks/13_your_video.ipynb
    """

    def __init__(
        self, folder: str | Path = "results/app", systems: Sequence[str] = ("nano", "nano-glamm"), limit_mb: int = 500,
        *, sentence: str = SAMPLE_SENTENCE, every: int = 5, masks: str = "nano", device: str = "auto",
    ) -> None:  # fmt: skip
        self._root = require_path(folder, "folder").absolute()
        if self._root.exists() and not self._root.is_dir():
            raise BadInput(f"{folder} is a file, expected a folder; give another one")
        if as_int(limit_mb) is None:
            raise BadInput(f"limit_mb is {limit_mb!r}, expected a whole number of megabytes from 1")
        if not systems:
            raise BadInput("systems is empty, expected names of models such as 'nano'")
        self._own: Path | None = None
        self._grounder: tuple[str, Any] | None = None  # the system used last: each takes memory
        self._options = {"masks": masks, "device": device}
        self._pictures: deque[bytes] = deque()  # of windows, from the thread that makes them
        self._uploads: list[Path] = []
        self._work, self._checks = BackgroundTask(), BackgroundTask()
        self._closed = False
        self.inspector: TrackInspector | None = None
        self._build(list(systems), limit_mb, sentence, every)
        self._offer_videos()

    def _build(self, systems: list[str], limit_mb: int, sentence: str, every: int) -> None:
        self.upload = Upload(lambda: self._place("videos"), limit_mb, self._uploaded)
        self.video = _field(widgets.Dropdown, "Video", 250)
        self.sentence = _field(widgets.Text, "What to find", 300, value=sentence, placeholder=SAMPLE_SENTENCE)
        self.system = _field(widgets.Dropdown, "System", 140, options=systems)
        self.every = _field(widgets.BoundedIntText, "Key frame every", 115, value=every, min=1, max=1000)
        self.start = _field(widgets.Text, "From", 80, placeholder="0:00")
        self.end = _field(widgets.Text, "To", 80, placeholder="end")
        self.ask = self._button("ask", "search", "primary", "find what the sentence names, in every frame  (Enter)")
        self.cancel = self._button("cancel", "stop", "", "stop; nothing is kept of this run")
        self.ask.on_click(lambda _: self._begin())
        self.cancel.on_click(lambda _: self._work.cancel())
        self.sentence.on_msg(lambda _, content, __: content.get("event") == "submit" and self._begin())  # Enter
        self.bar = widgets.IntProgress(0, 0, 1, layout=widgets.Layout(width="260px"))
        self.running = widgets.HBox([self.bar, self.cancel], layout=widgets.Layout(display="none"))
        self.words = widgets.HTML()
        self.windows = widgets.Box()
        self.windows.add_class("vm-windows")
        self.results = _field(widgets.Dropdown, "Results so far", 500)
        self.results.layout.display = "none"
        self.results.observe(self._back, "value")
        self._shown = widgets.VBox([])
        form = widgets.Box([self.video, self.sentence, self.system, self.every, self.start, self.end, self.ask])
        form.add_class("vm-form")
        small = KNOWN if any(name.startswith("nano") for name in systems) else ""
        title = widgets.HTML(
            f"<h2>Find it in your video</h2>Choose a video, say what to find, see the masks arrive.{small}"
        )
        parts = [title, self.upload, form, self.running, self.words, self.windows, self.results, self._shown]
        self.box = widgets.VBox(parts)
        self.box.add_class("vm-app")

    @staticmethod
    def _button(text: str, icon: str, style: str, why: str) -> widgets.Button:
        return widgets.Button(description=text, icon=icon, button_style=style, tooltip=why)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def close(self) -> None:
        """Stop what runs, and give back videos, memory and widgets; what was saved stays."""
        self._closed = True
        self._work.cancel()
        self._grounder = None
        if self.inspector is not None:
            self.inspector.close()
        close_all(self.box)

    @property
    def folder(self) -> Path:
        """The folder of this app alone, made when asked for."""
        if self._own is None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._own = Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d_%H-%M_"), dir=self._root))
        return self._own

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    # ---- the video ---------------------------------------------------------------------------------------------------
    def videos(self) -> dict[str, Path]:
        """Names of the videos that can be chosen: the sample, those in the folder, those that came here."""
        found = {SAMPLE: sample_clip()}
        for path in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            inside = path.suffix.lower() in VIDEOS and path.resolve().parent == self._root.resolve()
            if inside and path.is_file() and not path.name.startswith("."):
                found[path.name] = path
        return found | {f"{path.name} (yours)": path for path in self._uploads}

    def _offer_videos(self, chosen: str | None = None) -> None:
        names = list(self.videos())
        self.video.options = names
        self.video.value = names[0] if chosen is None else chosen

    def path_of(self, name: str) -> Path:
        """The video of a name in the list.

        Raises:
            BadInput: there is none; a path is no name.
        """
        path = self.videos().get(name)
        if path is None:
            raise BadInput(f"there is no video {name!r:.80}: choose one of the list, or drop it in")
        return path

    def _uploaded(self, path: Path) -> None:
        """Open what came as far as it must be, to say at once what is wrong with it."""

        def job(*_: Any) -> str:
            with open_source(path) as frames:
                return f"{len(frames)} frames, {frames.width}×{frames.height} px, {frames.times_s[-1]:.1f} s"

        def done(facts: str | None, error: BaseException | None) -> None:
            if error is not None:
                path.unlink(missing_ok=True)
                self._say(self._told(error), error=True)
                return
            self._uploads.append(path)
            self._offer_videos(f"{path.name} (yours)")
            self._say(f"{path.name}: {facts}. Say what to find, and ask.")

        self._say(f"looking at {path.name} …")
        self._checks.start(job, lambda *_: None, done)

    # ---- the run -----------------------------------------------------------------------------------------------------
    def run(
        self, video: str, sentence: str, system: str | None = None, every: int = 5, start: str | None = None,
        end: str | None = None, *, progress: Progress | None = None, cancel: Callable[[], bool] = lambda: False,
    ) -> Path:  # fmt: skip
        """The folder with the result of a sentence about a video; what the button does, without a button.

        Args:
            video: a name of `videos`.
            sentence, every, start, end: as for `videomolmo.VideoGrounder`.
            system: one of the list; None takes the first.
            progress: called with frames that have their masks, and frames in all.
            cancel: asked between windows and while answers are written; True stops, and nothing is kept.

        Raises:
            BadInput: what is not in the lists, or what the system or the reader of videos refuses.
            Cancelled: `cancel` said so.
        """
        path, grounder = self.path_of(video), self._load(self.system.options[0] if system is None else system)
        name = re.sub(r"\W+", "_", sentence.lower()).strip("_")[:40] or "result"
        with temporary_folder(self.folder) as place:
            steps = _steps(grounder, path, sentence, place, {"every": every, "fusion": "iou", "tau": 0.7},
                           check_stretch(start or None, end or None), cancel)  # fmt: skip
            while True:
                try:
                    reached, count, picture = next(steps)
                except StopIteration as ended:
                    return ended.value.save(free_name(self._place("results"), name), overlay=False)
                self._pictures.append(picture)
                if progress is not None:
                    progress(reached, count)

    def _load(self, system: str) -> Any:
        if system not in self.system.options:
            raise BadInput(f"system {system!r:.80} is not offered here: choose of {', '.join(self.system.options)}")
        if self._grounder is None or self._grounder[0] != system:
            from videomolmo.systems import load_grounder

            self._grounder = None  # its memory first
            self._grounder = system, load_grounder(system, **self._options)
        return self._grounder[1]

    def _begin(self) -> None:
        """Run what the form says, in the background."""
        if self._work.busy or (self.inspector is not None and self.inspector.state.work.busy):
            self._say("wait until the present work is done, or cancel it", error=True)
            return
        form = (self.video, self.sentence, self.system, self.every, self.start, self.end)
        asked = [control.value for control in form]
        self.windows.children, self.bar.value, self.ask.disabled = (), 0, True
        self._pictures.clear()
        self.running.layout.display = ""
        self._say(f"{self.system.value} looks for “{self.sentence.value}” in {self.video.value} …", asked)

        def job(progress: Progress, cancel: Callable[[], bool]) -> Path:
            return self.run(*asked, progress=progress, cancel=cancel)

        self._hold(True)
        self._work.start(job, partial(self._news, asked), partial(self._end, asked))

    def _hold(self, busy: bool) -> None:
        """Let the inspector ask and correct nothing while a run uses the models."""
        if self.inspector is not None:
            self.inspector.state.work.busy = busy
            notify(self.inspector.state.work.listeners)

    def _news(self, asked: list[Any], reached: int, count: int) -> None:
        self.bar.max, self.bar.value = max(1, count), reached
        new = [widgets.Image(value=self._pictures.popleft(), format="jpeg") for _ in range(len(self._pictures))]
        shown = [*self.windows.children, *new]
        self.windows.children = shown[-SHOWN_WINDOWS:]
        for one in shown[:-SHOWN_WINDOWS]:
            one.close()
        self._say(f"masks of {reached} of {count} frames", asked)

    def _end(self, asked: list[Any], folder: Path | None, error: BaseException | None) -> None:
        if self._closed:  # nobody looks any more; what was saved stays
            return
        self.running.layout.display, self.ask.disabled = "none", False
        self._hold(False)
        if error is not None:
            told = "cancelled: nothing was kept" if isinstance(error, Cancelled) else self._told(error)
            self._say(told, error=not isinstance(error, Cancelled))
            return
        self._say(f"saved in {folder.relative_to(self._root)}", asked)
        video, sentence, system = asked[:3]
        told = f"{len(self.results.options) + 1}. “{sentence}” · {video} · {system}"
        self.results.unobserve(self._back, "value")
        self.results.options = [*self.results.options, (told, (folder, system))]
        self.results.value = None
        self.results.observe(self._back, "value")
        self.results.value = folder, system
        self.results.layout.display = "" if len(self.results.options) > 1 else "none"

    def _back(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self.show(*change["new"])

    def show(self, folder: Path, system: str | None = None) -> TrackInspector:
        """Open the inspector of a result, which a system made, in place of the one before."""
        name, grounder = self._grounder or (None, None)
        before, grounder = self.inspector, grounder if name == system else None  # else the run's own, when needed
        self.inspector = inspect(folder, grounder=grounder, folder=self._place("exports"))
        self._shown.children = [self.inspector.box]
        if self._work.busy:  # a run uses the models: this one of an earlier result may be looked at
            self._hold(True)
        if before is not None:
            before.close()
        return self.inspector

    def _say(self, text: str, asked: Sequence[Any] = (), *, error: bool = False) -> None:
        """Tell something below the form, and which words of what is asked the system never learnt, once it is there."""
        name, grounder = self._grounder or (None, None)
        if asked and name == asked[2]:
            model = getattr(grounder, "pointer", None) or getattr(grounder, "segmenter", None)
            text = "; ".join(filter(None, (text, unknown_words(model, asked[1], name).warning)))
        self.words.value = f'<span class="{"vm-error" if error else ""}" role="status">{escape(text)}</span>'

    def _told(self, error: BaseException) -> str:
        """An error in a line, without the folder that only this machine's owner knows."""
        text = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        for folder in (f"{self._own}/videos/", f"{self._own}/", f"{self._root}/"):
            text = text.replace(folder, "")
        return text


def _field(kind: type, name: str, width_px: int, **values: Any) -> Any:
    """A control with its name above it."""
    width = f"min({width_px}px, 100%)"
    made = kind(description=name, layout=widgets.Layout(width=width), style={"description_width": "auto"}, **values)
    made.add_class("vm-field")
    return made


def _steps(
    grounder: Any, path: Path, sentence: str, place: Path, settings: dict[str, Any], stretch: dict[str, Any],
    cancel: Callable[[], bool],
) -> Iterator[tuple[int, int, bytes]]:  # fmt: skip
    """Frames done, frames in all and a picture after each window; the result is returned, its masks lie in `place`."""
    from videomolmo.grounding import check_settings
    from videomolmo.masks.unfinished import Unfinished

    def written(*_: Any) -> None:
        if cancel():
            raise Cancelled

    kept, read = Unfinished(place), {"reader": "pyav", "max_frames": None, **stretch}
    with open_source(path, **stretch) as frames, open_source(path, **stretch) as seen:
        checked, reached = check_settings(**settings), 0
        steps = grounder.steps(frames, sentence, checked, read, on_text=written, kept=kept)
        while True:
            written()
            try:
                start, reached = reached, next(steps)
            except StopIteration as ended:
                return ended.value
            at = (start + reached - 1) // 2
            size = WINDOW_PX, max(1, round(WINDOW_PX * frames.width / frames.height))
            ids = kept.store.ids(at)
            masks = kept.store.frame("fused", at, int(max(ids, default=0)), (frames.height, frames.width))
            picture = annotated_frame(seen[at], masks, size=size)
            badge(picture, f"{start}-{reached - 1}", 2, size[0] - 2, (40, 40, 40), [])
            yield reached, len(frames), encode(picture, "jpeg")[0]
