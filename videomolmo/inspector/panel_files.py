"""Take away: files for others; and a new sentence about the same video, whose result can be saved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from videomolmo.inspector import exports
from videomolmo.inspector.corrections import ask
from videomolmo.inspector.desk import Desk
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.panel_look import section

Export = Callable[[Desk, Path], Any]
EXPORTS: dict[str, tuple[str, Export]] = {  # what the user reads: ending of the name ("" a folder), how it is written
    "DAVIS pictures": ("", lambda desk, path: exports.export_davis(desk.inspection, path)),
    "COCO masks (JSON)": (".json", lambda desk, path: exports.export_coco(desk.inspection, path)),
    "tracks (CSV)": (".csv", lambda desk, path: exports.export_tracks(desk.inspection, path)),
    "video (MP4)": (".mp4", lambda desk, path: _video(desk, path)),
    "video (GIF)": (".gif", lambda desk, path: _video(desk, path)),
    "this view (PNG)": (".png", lambda desk, path: _view(desk, path)),
    "training records": (".jsonl", lambda desk, path: desk.corrections.export_training(path)),
}


def _video(desk: Desk, path: Path) -> None:
    look, beside = replace(desk.look, size=None), desk.beside  # the video's own size, not that of the page
    exports.export_video(desk.inspection, path, look, beside=beside and (beside[0], replace(beside[1], size=None)))


def _view(desk: Desk, path: Path) -> None:
    exports.export_view(desk.inspection, path, desk.frame, desk.look, beside=desk.beside)


_being_written: set[Path] = set()  # by any inspector of this kernel; they get their names at the end


def free_path(folder: Path, stem: str, ending: str) -> Path:
    """A path in `folder` that is not taken: stem_1.png, stem_2.png …"""
    number = 1
    while (path := folder / f"{stem}_{number}{ending}").exists() or path in _being_written:
        number += 1
    return path


class ExportPanel:
    """A choice of formats, a button, and where the file went.

    Attributes:
        kind: one of `EXPORTS`.
        button: writes it.
        line: the path that was written.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.kind = widgets.Dropdown(options=list(EXPORTS), layout=widgets.Layout(width="170px"))
        self.button = widgets.Button(description="export", icon="download", layout=widgets.Layout(width="90px"))
        self.button.tooltip = f"write it below {desk.folder}"
        self.button.on_click(lambda _: self.export())
        self.line = widgets.HTML()
        self.box = widgets.VBox([section("Take away"), widgets.HBox([self.kind, self.button]), self.line])

    def export(self) -> None:
        """Write the chosen kind of file under a name that is not taken; video files take a while."""
        if self._desk.work.busy:
            self._desk.say("wait until the present work is done", error=True)
            return
        ending, write = EXPORTS[self.kind.value]
        stem = self.kind.value.split(" (")[0].replace(" ", "_").lower()
        path = free_path(self._desk.folder, stem, ending)
        self._desk.say(f"writing {path} …")

        _being_written.add(path)

        def job(_: Any, __: Any) -> Path:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(self._desk, path)
            finally:
                _being_written.discard(path)
            return path

        self._desk.work.start(job, lambda *_: None, self._done)

    def _done(self, path: Path | None, error: BaseException | None) -> None:
        if error is not None:
            self._desk.regret(error)
            return
        self.line.value = f"<small>wrote <code>{path}</code></small>"
        self._desk.say(f"wrote {path}")


class AskPanel:
    """A field for another sentence; the results so far can be had back, and one that is only in memory saved.

    Attributes:
        text: the sentence.
        button: asks it.
        history: sentences asked so far.
        keep: saves the result shown, with its corrections, where it lies in no folder yet.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.text = widgets.Text(placeholder="the blue square", layout=widgets.Layout(width="190px"))
        self.button = widgets.Button(description="ask", icon="search", layout=widgets.Layout(width="70px"))
        self.history = widgets.Dropdown(layout=widgets.Layout(width="auto", display="none"))
        self.button.disabled = self.text.disabled = desk.grounder is None
        self.button.tooltip = "run both models" if desk.grounder is not None else "give inspect(result, grounder=…)"
        self.button.on_click(lambda _: self.ask())
        self.history.observe(self._back, "value")
        self.keep = widgets.Button(description="save this result", icon="save", layout=widgets.Layout(width="auto"))
        self.keep.tooltip = f"it is in memory only; write it and its corrections below {desk.folder}"
        self.keep.on_click(lambda _: self.save())
        self.box = widgets.VBox([
            section("Ask something else"), widgets.HBox([self.text, self.button]), self.history, self.keep,
        ])  # fmt: skip
        desk.changed.append(self._offer)
        self._offer()

    def _offer(self) -> None:
        in_memory = self._desk.inspection.folder is None
        self.keep.layout.display = "" if in_memory else "none"

    def save(self) -> None:
        """Write the result that is shown to a folder of its own."""
        desk = self._desk
        if desk.work.busy:
            desk.say("wait until the present work is done", error=True)
            return
        inspection, path = desk.inspection, free_path(desk.folder, "result", "")
        desk.say(f"saving {path} …")
        desk.work.start(lambda *_: inspection.save(path), lambda *_: None, lambda _, error: self._saved(path, error))

    def _saved(self, path: Path, error: BaseException | None) -> None:
        if error is not None:
            self._desk.regret(error)
            return
        self._offer()
        self._desk.say(f"saved {path}; corrections are written there from now on")

    def ask(self) -> None:
        """Run the sentence in the field over the same video."""
        desk, sentence = self._desk, self.text.value.strip()
        if not sentence or desk.work.busy:
            desk.say("write a sentence first" if not sentence else "wait until the present work is done", error=True)
            return
        desk.say(f"asking for “{sentence}” …")
        inspection = desk.inspection
        truth_free = lambda *_: Inspection(ask(inspection, sentence, desk.grounder))  # noqa: E731
        desk.work.start(truth_free, lambda *_: None, self._done)

    def _done(self, found: Inspection | None, error: BaseException | None) -> None:
        if error is not None:
            self._desk.regret(error)
            return
        self._desk.asked.append(found)
        self.history.unobserve(self._back, "value")  # new options choose the first one for a moment
        self.history.options = [(one.sentence, n) for n, one in enumerate(self._desk.asked)]
        self.history.layout.display, self.history.value = "", None
        self.history.observe(self._back, "value")
        self.history.value = len(self._desk.asked) - 1

    def _back(self, change: dict[str, Any]) -> None:
        if change["new"] is None or self._desk.asked[change["new"]] is self._desk.inspection:
            return
        if self._desk.work.busy:  # it works on what is shown
            self._desk.say("wait until the present work is done", error=True)
            self.history.value = change["old"]
            return
        self._desk.inspection.close()
        chosen = self._desk.inspection = self._desk.asked[change["new"]]
        self._desk.opened()
        self._desk.say(f"“{chosen.sentence}”: {chosen.objects} object{'s' * (chosen.objects != 1)}")
