"""`videomolmo.inspect`: the track inspector in a notebook, and one picture of it everywhere else."""

import sys
import weakref
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from videomolmo.errors import BadInput
from videomolmo.inspector.action_panels import AskPanel, CorrectPanel, ExportPanel
from videomolmo.inspector.background import close_all, is_interactive, on_idle
from videomolmo.inspector.corrections import Corrections
from videomolmo.inspector.draw_panel import DrawPanel
from videomolmo.inspector.edit_panels import IdentityPanel, TablePanel
from videomolmo.inspector.ground_truth import open_truth
from videomolmo.inspector.inspection import LAYERS, Inspection
from videomolmo.inspector.render import Look
from videomolmo.inspector.session import InspectorState
from videomolmo.inspector.static_page import static_picture
from videomolmo.inspector.view_panels import (
    AnswerPanel,
    ComparePanel,
    DoubtPanel,
    FusionPanel,
    LookPanel,
    ObjectPanel,
    PlotPanel,
)
from videomolmo.io.files import atomic_file
from videomolmo.io.plain_values import as_int, require_path
from videomolmo.results import GroundingResult

PARTS = (
    "look", "objects", "identities", "tables", "fusion", "correct", "draw", "files", "questions", "answer", "plots",
    "doubt", "compare", "box",
)  # fmt: skip


class TrackInspector:
    """A result to look through and to correct; `videomolmo.inspect` makes one.

    Shown in a notebook it is the live inspector. Above it stands a static picture that says the same, which the live
    one hides: what is left when the notebook is read without a kernel, or was run by a program.

    Videos, memory and widgets are given back by `close`, at the end of a `with` block, and when neither a name nor a
    browser holds the inspector any more. One that no browser shows keeps only its widgets, and reads again when shown.

    Attributes:
        state: what is shown, how and where.
        inspection, other: what is looked at.
        look, objects, identities, fusion, correct, draw, files, questions, plots, answer, tables, doubt, compare: the
            parts; `compare` is None with one result.
        box: all of it, as one widget. After `close` it and the parts are None.
    """

    def __init__(self, state: InspectorState) -> None:
        self.state = state
        self.look, self.objects, self.fusion = LookPanel(state), ObjectPanel(state), FusionPanel(state)
        self.correct, self.files, self.questions = CorrectPanel(state), ExportPanel(state), AskPanel(state)
        self.identities = IdentityPanel(state, self.correct.object_id)
        self.tables = TablePanel(state, self.correct.revert)
        self.draw = DrawPanel(state, self.correct)
        self.answer, self.plots, self.doubt = AnswerPanel(state), PlotPanel(state), DoubtPanel(state)
        self.compare = ComparePanel(state) if state.other is not None else None
        self.box = self._assemble()
        self._closing = weakref.finalize(self, _give_back, state, self.box)  # no part knows the whole
        self._closing.atexit = False
        state.canvas.keeper = weakref.ref(self)

    def _assemble(self) -> widgets.VBox:
        compare = [self.compare.box] if self.compare is not None else []
        status = widgets.HBox([self.doubt.button, self.state.words], layout=widgets.Layout(align_items="center"))
        main = widgets.VBox([self.correct.box, self.draw.box, *compare, self.state.canvas, status, self.answer.box])
        parts = (self.look, self.objects, self.identities, self.fusion, self.questions, self.files)
        side = widgets.VBox([part.box for part in parts])
        columns = widgets.Box([main, self.plots.box, self.tables.box, side])
        for made, name in (
            (main, "vm-main"),
            (side, "vm-side"),
            (self.tables.box, "vm-tables"),
            (columns, "vm-columns"),
        ):
            made.add_class(name)
        box = widgets.VBox([columns], layout=widgets.Layout(width="100%"))
        box.add_class("vm-inspector")
        if self.compare is not None:
            box.add_class("vm-pair")
        return box

    def close(self) -> None:
        """Give back all videos, memory and widgets. Pictures can still be made: they open what they need again."""
        self.state.canvas.kept = None
        self._closing()
        vars(self).update(dict.fromkeys(PARTS))

    def __enter__(self) -> "TrackInspector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inspection(self) -> Inspection:
        return self.state.inspection

    @property
    def other(self) -> Inspection | None:
        return self.state.other

    @property
    def corrections(self) -> Corrections:
        """Corrections from code; call `refresh` afterwards to see them."""
        return self.state.corrections

    def refresh(self) -> None:
        """Show what was changed from code."""
        self.state.refresh()

    @property
    def frame(self) -> int:
        """The frame that is shown; set it to go there."""
        return self.state.frame

    @frame.setter
    def frame(self, value: int) -> None:
        self.state.go(value)

    def picture(self) -> bytes:
        """The inspector on one page, as a PNG: what is ticked, and the present frame among others."""
        state = self.state
        return static_picture(
            self.inspection, self.other, state.looks, self.frame, scores=state.scores.now, differences=state.differences
        )

    def save(self, path: str | Path) -> Path:
        """Write `picture` to a file that does not exist yet.

        Raises:
            BadInput: it exists.
        """
        path = Path(path)
        if path.exists():
            raise BadInput(f"{path} exists; choose another name")
        with atomic_file(path, replace=False) as unfinished:
            unfinished.write_bytes(self.picture())
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": repr(self), "image/png": self.picture()}

    def _ipython_display_(self) -> None:
        """The static picture, then the live inspector; where a person waits, the picture is made after all else."""
        from IPython.display import display

        if not (is_interactive() and self._closing.alive):
            display(self._repr_mimebundle_(), raw=True)
            if self._closing.alive:
                display(self.box)
            return
        self.state.canvas.kept = self
        still = display({"text/plain": repr(self)}, raw=True, display_id=True)
        display(self.box)
        state = self.state

        def update() -> None:
            still.update(self._repr_mimebundle_(), raw=True)
            if not state.canvas.looked_at:
                state.give_back()

        on_idle(update, lambda: state.canvas.asked_at, lambda: state.scores.waits() or state.comparing.waits())

    def __repr__(self) -> str:
        lines = [
            f"TrackInspector(“{one.sentence}”: {one.frames} frames, {len(one.object_ids)} objects)"
            for one in self.state.shown
        ]
        return "\n".join(lines + self.inspection.missing())


def _give_back(state: InspectorState, box: widgets.VBox) -> None:
    """What an inspector holds beside itself."""
    state.work.cancel()
    state.give_back()
    state.remove_listeners()
    close_all(box)


def inspect(
    result: GroundingResult | str | Path,
    truth: Any = None,
    *,
    other: GroundingResult | str | Path | None = None,
    video: Any = None,
    grounder: Any = None,
    frame: int = 0,
    layers: tuple[str, ...] | list[str] = ("fused",),
    rule: str | None = None,
    tau: float | None = None,
    other_rule: str | None = None,
    other_tau: float | None = None,
    folder: str | Path = "results/inspector",
) -> TrackInspector:
    """Look through a result: masks, points, both directions, agreement, tracks; compare it; correct it.

    In JupyterLab the last line of a cell shows it live. Without a kernel, or where a program runs the notebook, it is
    one picture with the same facts; in a script, `picture()` and `save()` give that picture.

    Args:
        result: a result, or the folder it was saved to.
        truth: masks to compare with: bool (frames, objects, height, width) or (frames, height, width), numbers of
            objects (frames, height, width), or files; see
            `videomolmo.inspector.inspection.Inspection`.
        other: a second result of the same video, shown beside it; the same result again compares two fusion rules.
        video: replaces the recorded source.
        grounder: a `VideoGrounder` for corrections and new sentences; None: the models that the run recorded are loaded
            when they are first needed, where they are on this disk.
        frame: the first one shown.
        layers: what is drawn at first, of forward, backward, fused, truth, disagreement.
        rule, tau: fuse the stored directions again before showing them.
        other_rule, other_tau: likewise for `other`.
        folder: exports go there.

    Raises:
        BadInput: no result, an unknown layer or rule, truth that cannot be read.

    Example:
        >>> videomolmo.inspect("results/clip")  # doctest: +SKIP

    Seen in: notebooks/07_track_inspector.ipynb
    """
    unknown = [name for name in layers if name not in LAYERS]
    if unknown:
        raise BadInput(f"layer {unknown[0]!r} is unknown; choose of {', '.join(LAYERS)}")
    folder, start = require_path(folder, "folder"), _frame_number(frame)
    inspections = [Inspection(result, truth, video=video)]
    if other is not None:
        first, second = inspections[0], Inspection(other, video=video)
        is_alike = (first.frames, first.height, first.width) == (second.frames, second.height, second.width)
        second.truth = first.truth if is_alike else open_truth(truth, second.frames, (second.height, second.width))
        inspections.append(second)
    for one, its_rule, its_tau in zip(inspections, (rule, other_rule), (tau, other_tau), strict=False):
        if its_rule is not None or its_tau is not None:
            one.apply_fusion_rule(its_rule, its_tau)
    look = Look(layers=tuple(name for name in LAYERS if name in layers))
    state = InspectorState(inspections[0], inspections[1] if other is not None else None, grounder, folder, look)
    state.canvas.frame = min(max(0, start), max(0, state.canvas.frames - 1))
    return TrackInspector(state)


def _frame_number(frame: int) -> int:
    number = as_int(frame, minimum=-sys.maxsize)
    if number is None:
        raise BadInput(f"frame is {frame!r}, expected the number of a frame")
    return number
