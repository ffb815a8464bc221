"""Panels that show: layers, objects, fusion, answer, comparison, plots."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from plotly.graph_objects import Figure

from videomolmo.fusion import RULES
from videomolmo.inspector.background import Debounced
from videomolmo.inspector.doubt import doubtful_frames
from videomolmo.inspector.edit_history import Clicks, box_of, parts_of
from videomolmo.inspector.inspection import LAYERS, Inspection, listed
from videomolmo.inspector.moments import is_whole_video
from videomolmo.inspector.plots import agreement_figure, difference_figure, scores_figure, track_figure
from videomolmo.inspector.render import LAYER_SIGNS, swatch
from videomolmo.inspector.session import InspectorState

MARKS = {"points": "points", "ids": "IDs", "boxes": "bounding boxes", "patterns": "textures"}
LAYER_TIPS = {
    "forward": "masks propagated forward from the key frame before",
    "backward": "masks propagated backward from the key frame after",
    "fused": "predicted masks: both directions, fused",
    "truth": "ground truth masks",
    "disagreement": "where exactly one of the two directions has the object",
}
TRAIL = 20
COLOURS = 20  # that an object may be given: those that are told apart best


def section(text: str) -> widgets.HTML:
    """A heading inside the side column."""
    made = widgets.HTML(text)
    made.add_class("vm-section")
    return made


def tick(text: str, value: bool, act: Any, **options: Any) -> widgets.Checkbox:
    """A check box that calls `act(value)`."""
    box = widgets.Checkbox(value, description=text, indent=False, layout=widgets.Layout(width="135px"), **options)
    box.observe(lambda change: act(change["new"]), "value")
    return box


LAYER_KEYS = dict(zip(LAYERS, "fbmge", strict=True))
MARK_KEYS = {"points": "o", "ids": "i", "boxes": "u", "patterns": "k"}


class LookPanel:
    """Layers, opacity and marks.

    Attributes:
        layers: layer to its check box.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.layers = {name: tick(LAYER_SIGNS[name], name in state.look.layers, self._layer) for name in LAYERS}
        self.opacity = widgets.FloatSlider(
            state.look.opacity, min=0, max=1, step=0.05, description="opacity", readout_format=".2f",
            style={"description_width": "60px"}, layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.opacity.observe(lambda change: state.set_view(opacity=change["new"]), "value")
        state.tip(self.opacity, "opacity of predicted masks  (, less; . more)")
        for key, by in ((",", -1), (".", 1)):
            state.bind(key, lambda by=by: step(self.opacity, by))
        marks = {name: tick(text, getattr(state.look, name), self._mark(name)) for name, text in MARKS.items()}
        trail = tick("trajectories", state.look.trail > 0, lambda on: state.set_view(trail=TRAIL if on else 0))
        for name, box in marks.items():
            self._bind(box, MARK_KEYS[name], f"show {MARKS[name]}")
        self._bind(trail, "t", f"show where each object was on the {TRAIL} frames before")
        for name, box in self.layers.items():
            state.bind(LAYER_KEYS[name], lambda box=box: flip(box))
        grid = widgets.Layout(grid_template_columns="135px 135px", grid_gap="0 4px")
        self.box = widgets.VBox([
            section("Layers"), widgets.GridBox(list(self.layers.values()), layout=grid), self.opacity,
            section("Marks"), widgets.GridBox([*marks.values(), trail], layout=grid),
        ])  # fmt: skip
        self.refresh()
        state.data_listeners.append(self.refresh)

    def _bind(self, box: widgets.Checkbox, key: str, what: str) -> None:
        self._state.tip(box, f"{what}  ({key})")
        self._state.bind(key, lambda: flip(box))

    def refresh(self) -> None:
        """Grey out what is not there in any result that is shown, and say why."""
        for name, box in self.layers.items():
            reasons = [one.layers()[name] for one in self._state.shown]
            box.disabled = None not in reasons  # of two results one may have it
            said = reasons[0] if box.disabled else f"show {LAYER_TIPS[name]}"
            self._state.tip(box, f"{said}  ({LAYER_KEYS[name]})")

    def _layer(self, _: bool) -> None:
        self._state.set_view(layers=tuple(name for name, box in self.layers.items() if box.value))

    def _mark(self, name: str) -> Any:
        return lambda on: self._state.set_view(**{name: on})


def step(slider: widgets.FloatSlider, by: int) -> None:
    """Move a slider that can be moved by twentieths of its way."""
    if not slider.disabled:
        wanted = slider.value + by * (slider.max - slider.min) / 20
        slider.value = round(min(max(wanted, slider.min), slider.max), 4)


def choose_next(control: widgets.Dropdown | widgets.ToggleButtons, among: Sequence[Any] | None = None) -> None:
    """Choose what follows the present value of a control that can be used, of all or of some."""
    values = [value for _, value in control.options if among is None or value in among]
    if values and not control.disabled:
        at = values.index(control.value) if control.value in values else -1
        control.value = values[(at + 1) % len(values)]


def flip(box: widgets.Checkbox) -> None:
    """Tick or untick a box that can be pressed."""
    if not box.disabled:
        box.value = not box.value


class ObjectList(anywidget.AnyWidget):
    """A row for every object in one element of the page: hundreds of widgets would take the browser seconds.

    Attributes:
        rows: id, name, colour, and ink to be read on it.
        hidden: ids that are not shown; the browser changes it.
        palette: numbers of the colours to choose from, each with colour and ink.
        more: a line below the rows.
    """

    _esm = "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("element.js", "objects.js"))
    rows = traitlets.List().tag(sync=True)
    hidden = traitlets.List(traitlets.Int()).tag(sync=True)
    more = traitlets.Unicode("").tag(sync=True)
    palette = traitlets.List().tag(sync=True)


class ObjectPanel:
    """Objects: colour and number, whether each is shown, its name.

    Attributes:
        list: the rows.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state, self._of = state, state.inspection
        self.list = ObjectList(palette=[[n, *swatch(n)] for n in range(1, COLOURS + 1)])
        self.box = widgets.VBox([section("Objects"), self.list])
        self.list.observe(lambda _: self._show(), "hidden")
        self.list.on_msg(self._receive)
        state.bind("a", lambda: self.hide(()))
        state.bind("h", lambda: self.hide(listed(state.inspection)))
        self.refresh()
        state.data_listeners.append(self.refresh)

    def hide(self, object_ids: Iterable[int]) -> None:
        """Show all objects but these."""
        self.list.hidden = sorted(object_ids)

    def refresh(self) -> None:
        """Rows for the objects there are now; what was hidden stays hidden."""
        one = self._state.inspection
        same, self._of = self._of is one, one  # objects of another result have other numbers
        there, shown, identities = one.object_ids, listed(one), one.identities
        more = len(there) - len(shown)
        with self.list.hold_sync():
            self.list.rows = [[n, one.name_of(n), *swatch(identities.colour_of(n))] for n in shown]
            self.list.more = f"and {more} more, which are shown" if more else "no object was found" * (not there)
            self.hide([n for n in self.list.hidden if same and n in there])
        self._show()

    def _show(self) -> None:
        hidden = set(self.list.hidden)
        shown = tuple(n for n in self._state.inspection.object_ids if n not in hidden)
        self._state.set_view(objects=shown if hidden else None)

    def _receive(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        if content.get("kind") == "name":
            self.rename(int(content["id"]), str(content["text"]))
        elif content.get("kind") == "colour":
            object_id, colour = int(content["id"]), int(content["colour"])
            told = f"{self._state.inspection.name_of(object_id)} has another colour; z undoes it"
            self._state.correct(lambda: self._state.corrections.recolour(object_id, colour), lambda _: told)

    def rename(self, object_id: int, text: str) -> None:
        """Give an object a name, kept with the corrections; none gives back the one it had by itself."""
        name_of, act = self._state.inspection.name_of, lambda: self._state.corrections.rename(object_id, text)
        if text.strip() != name_of(object_id):
            self._state.correct(act, lambda _: f"object {object_id} is called “{name_of(object_id)}”; z undoes it")


MATCHING = [("from the run", "stored"), ("overlap ≥ 0.1", 0.1), ("overlap ≥ 0.3", 0.3), ("overlap ≥ 0.5", 0.5),
            ("never", "none")]  # fmt: skip


class FusionPanel:
    """Fuses the stored directions by another rule, of the first or the second result.

    Attributes:
        rule, tau, matching: the controls.
        side: which result they are about, 0 or 1; None where there is only one.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state, self._setting = state, False
        wide = {"style": {"description_width": "72px"}, "layout": widgets.Layout(width="auto")}
        self.rule = widgets.Dropdown(description="rule", **wide)
        self.tau = widgets.FloatSlider(0.7, min=0, max=1, step=0.01, description="τ", readout_format=".2f", **wide)
        self.matching = widgets.Dropdown(options=MATCHING, description="matching", **wide)
        self.side = None
        if state.other is not None:
            self.side = widgets.ToggleButtons(options=[("left", 0), ("right", 1)], style={"button_width": "80px"})
            self.side.observe(lambda _: self.refresh(), "value")
            state.tip(self.side, "which of the two results is fused again  (L)")
            state.bind("L", lambda: choose_next(self.side))
        self.line = widgets.HTML()
        state.tip(self.tau, "IoU from which the two directions count as agreeing  (< less; > more)")
        state.tip(
            self.matching, "which object of a key frame is which of the next: by the overlap of their masks  (M: next)"
        )
        for key, by in (("<", -1), (">", 1)):
            state.bind(key, lambda by=by: step(self.tau, by))
        state.bind("l", lambda: choose_next(self.rule, [name for name, why in self._target.rules().items() if not why]))
        state.bind("M", lambda: choose_next(self.matching))
        for control in (self.rule, self.tau, self.matching):
            control.observe(self._apply, "value")
        parts = [section("Fusion"), self.side, self.rule, self.tau, self.matching, self.line]
        self.box = widgets.VBox([part for part in parts if part is not None])
        self.refresh()
        state.data_listeners.append(self.refresh)
        state.work.listeners.append(self.refresh)

    @property
    def _target(self) -> Inspection:
        return self._state.shown[self.side.value if self.side is not None else 0]

    def refresh(self) -> None:
        """Show what is in force."""
        target, self._setting = self._target, True
        reasons = target.rules()
        options = [(name if reason is None else f"{name} (not here)", name) for name, reason in reasons.items()]
        if list(self.rule.options) != options:
            self.rule.options = options
        self.rule.value, self.tau.value = target.rule if target.rule in reasons else None, float(target.tau)
        chosen = "stored" if target.matching is None else target.matching
        if chosen not in [value for _, value in self.matching.options]:
            self.matching.options = [*self.matching.options, (f"overlap ≥ {chosen:g}", chosen)]
        self.matching.value = chosen
        self.rule.disabled = self.matching.disabled = self._state.work.busy
        self.tau.disabled = self._state.work.busy or target.rule != "iou"
        about = RULES[target.rule].description if target.rule in RULES else target.rule
        self._state.tip(self.rule, f"how the two directions are fused: {about}  (l: next rule)")
        self._setting = False

    def _apply(self, change: dict[str, Any]) -> None:
        if self._setting:
            return
        names = {self.rule: "rule", self.tau: "tau", self.matching: "matching"}
        if self._state.is_free():
            self._state.run_safely(self._fuse, names[change["owner"]], change["new"])
        self.refresh()

    def _fuse(self, name: str, value: Any) -> None:
        begun = time.perf_counter()
        kept = {"matching": self._target.matching}  # which is "as stored" unless it is said again
        self._target.apply_fusion_rule(**kept | {name: value})
        self._state.refresh()
        rule = RULES[self._target.rule].description if self._target.rule in RULES else self._target.rule
        self.line.value = f"<small>{rule}<br>re-fused in {1000 * (time.perf_counter() - begun):.0f} ms</small>"


SIGNS = {"found": "✔ found", "absent": "∅ absent", "malformed": "✕ malformed", "dropped": "– rejected"}


class AnswerPanel:
    """Text below the picture."""

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.answer, self.missing = widgets.HTML(), widgets.HTML()
        self.answer.add_class("vm-answer")
        self.box = widgets.VBox([self.answer, self.missing])
        self._soon = Debounced(self.refresh)
        state.frame_listeners.append(self._soon)
        state.data_listeners.append(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the answer nearest to the present frame; whatever the model wrote is shown as text, never run."""
        self.answer.value = " ".join(self._line(n) for n in range(len(self._state.shown)))
        wanting = [line for one in self._state.shown for line in one.missing()]
        wanting += self._state.differences.missing() if self._state.differences else []
        lines = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(wanting))
        self.missing.value = f'<ul class="vm-missing">{lines}</ul>' if lines else ""

    def _line(self, n: int) -> str:
        one = self._state.shown[n]
        side = f"{name}: " if (name := self._state.sides[n]) else ""
        answer = one.answer_near(self._state.frame) if one.frames else None
        if answer is None:
            said = f"<div>{side}the model was not asked</div>"
        else:
            outcome = one.outcomes().get(answer.frame, answer.outcome)
            sign = SIGNS.get(outcome, escape(outcome))
            problem = f" ({escape(answer.problem)})" if answer.problem else ""
            said = (
                f'<div>{side}key frame {answer.frame}: <span class="vm-outcome">{sign}</span>'
                f"{problem} <code>{escape(answer.text)}</code></div>"
            )
        return said + self._corrected(one, side)

    def _corrected(self, one: Inspection, side: str) -> str:
        """What a person made of the nearest frame that was corrected, if it is as near as the answer."""
        now, answer = self._state.frame, one.answer_near(self._state.frame)
        frames = [at for at in one.corrected_frames() if one.corrections_on(at)]
        nearest = min(frames, key=lambda at: abs(at - now), default=None)
        if nearest is None or (answer is not None and abs(nearest - now) > abs(answer.frame - now)):
            return ""
        words = [f"{escape(one.name_of(n))}: {_points(own)}" for n, own in sorted(one.corrections_on(nearest).items())]
        return (
            f'<div>{side}frame {nearest}: <span class="vm-outcome vm-corrected">◆ corrected</span> '
            f"{'; '.join(words)}</div>"
        )


def _points(clicks: Clicks) -> str:
    """What is in force for an object on a frame, as text."""
    mask, corners, points = parts_of(clicks)
    words = ["mask drawn"] if mask and mask.counts else []
    words += [f"box ({', '.join(f'{edge:.0f}' for edge in box)})"] if (box := box_of(corners)) else []
    return ", ".join([*words, *(f"{'+' if on else '−'} ({x:.0f}, {y:.0f})" for x, y, on in points)]) or "not there"


class DoubtPanel:
    """A button that visits the frames whose masks are in doubt.

    Attributes:
        button: goes to the next one.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.button = widgets.Button(
            description="next doubtful frame", icon="question", layout=widgets.Layout(width="auto", flex="none")
        )
        self.button.on_click(lambda _: self.go(1))
        state.tip(self.button, "low agreement, no answer, an object that vanishes or jumps  (d; Shift d: back)")
        state.bind("d", lambda: self.go(1))
        state.bind("D", lambda: self.go(-1))

    def go(self, step: int) -> None:
        """Go to the next doubtful frame, or back with -1; from the other end when none is left."""
        found = doubtful_frames(self._state.inspection)
        if not found:
            self._state.set_status("no frame is in doubt")
            return
        now = self._state.frame
        rest = [at for at in found if (at - now) * step > 0] or list(found)
        to = rest[0] if step > 0 else rest[-1]
        self._state.go(to)
        place = list(found).index(to) + 1
        self._state.set_status(f"doubtful frame {place} of {len(found)}: frame {to}, {found[to]}")


class ComparePanel:
    """A button that visits the differences, and J&F of both on the present frame.

    Attributes:
        button: goes to the next difference.
        line: how much they differ, and the scores.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.button = widgets.Button(description="next difference", icon="step-forward")
        self.button.on_click(lambda _: self.next())
        state.tip(self.button, "the next frame where the two results differ most  (v)")
        state.bind("v", self.next)
        self.line = widgets.HTML()
        self.box = widgets.HBox([self.button, self.line], layout=widgets.Layout(align_items="center"))
        soon = Debounced(self.refresh)
        state.frame_listeners.append(soon)
        state.data_listeners.append(soon)
        state.scores.listeners.append(soon)
        state.comparing.listeners.append(soon)
        self.refresh()

    def next(self) -> None:
        """Go to the next frame where the results differ most."""
        differences = self._state.differences
        if differences is not None and self._state.comparing.of(differences) is None:
            self._state.set_status("wait until the two results are compared", error=True)
            return
        to = differences.next_difference(self._state.frame) if differences is not None else None
        if to is None:
            self._state.set_status("the two results are the same everywhere")
        else:
            self._state.go(to)

    def refresh(self) -> None:
        """Say how the results compare on the present frame."""
        differences, frame = self._state.differences, self._state.frame
        if differences is None or frame >= differences.frames:
            self.line.value = "nothing to compare on this frame"
            return
        known = self._state.comparing.of(differences) is not None
        words = [f"difference {differences.per_frame[frame]:.2f}" if known else "differences are being computed …"]
        for side, one in zip(self._state.sides, self._state.shown, strict=True):
            scores = self._state.scores.of(one)
            if scores is not None and np.isfinite(scores.per_frame[frame]):
                words.append(f"J&amp;F {side} {scores.per_frame[frame]:.2f}")
            elif scores is None and one.truth is not None:
                words.append(f"J&amp;F {side} is being computed …")
        self.line.value = " · ".join(words)


PLOT_NAMES = {
    "agreement": "agreement and fusion decisions",
    "scores": "J&F against ground truth",
    "difference": "difference of the two results",
    "track": "trajectories and areas",
}


class PlotStack(anywidget.AnyWidget):
    """Plotly figures below each other.

    Differs: plotly's FigureWidget sends its library of 5 MB with every figure, and shows an empty plot where the
        browser is slower than the kernel.
    """

    _esm = Path(__file__).with_name("plots.js").read_text("utf-8")  # as the canvas's
    figures = traitlets.List(traitlets.Unicode()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)


class PlotPanel:
    """Agreement, tracks, and where there is something to compare with, scores and differences.

    Drawn when a browser has said which theme it shows, after the first picture.

    Attributes:
        figures: name to figure, as drawn last.
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.figures: dict[str, Figure] = {}
        self.box = PlotStack()
        self.box.add_class("vm-plots")
        self.box.on_msg(self._receive)
        soon = Debounced(self.refresh, 0.15)
        state.data_listeners.append(soon)
        state.theme_listeners.append(soon)
        state.scores.listeners.append(soon)
        state.comparing.listeners.append(soon)

    def refresh(self) -> None:
        """Draw the present masks."""
        state = self._state
        shown = state.theme is not None and state.inspection.frames
        self.figures = self._draw({"t": state.frame, "theme": state.theme}) if shown else {}
        with self.box.hold_sync():
            self.box.names = [PLOT_NAMES[name] for name in self.figures]
            self.box.figures = [figure.to_json() for figure in self.figures.values()]

    def _draw(self, now: dict[str, Any]) -> dict[str, Figure]:
        state = self._state
        if is_whole_video(state.inspection):
            return {}
        made = {"agreement": agreement_figure(state.inspection, **now)}
        if any(one.truth is not None for one in state.shown):
            made["scores"] = scores_figure(state.inspection, state.other, scores=state.scores.of, **now)
        if state.differences is not None and state.comparing.of(state.differences) is not None:
            made["difference"] = difference_figure(state.differences, **now)
        return made | {"track": track_figure(state.inspection, **now)}

    def _receive(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        if content.get("kind") == "go":
            self._state.go(round(content["frame"]))
        elif content.get("kind") == "library":
            from plotly.offline import get_plotlyjs

            self.box.send({"kind": "library"}, buffers=[get_plotlyjs().encode("utf-8")])
