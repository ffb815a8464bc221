"""Panels that show: layers, objects, fusion, answer, comparison, plots."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from plotly.graph_objects import Figure

from videomolmo.fusion import RULES
from videomolmo.inspector.background import Debounced, close_all
from videomolmo.inspector.inspection import LAYERS, Inspection, listed
from videomolmo.inspector.plots import agreement_figure, difference_figure, scores_figure, track_figure
from videomolmo.inspector.render import LAYER_SIGNS, colour_of
from videomolmo.inspector.session import InspectorState

MARKS = {"points": "points", "ids": "numbers", "boxes": "boxes", "patterns": "patterns"}
TRAIL = 20


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
        marks = [tick(text, getattr(state.look, name), self._mark(name)) for name, text in MARKS.items()]
        trail = tick("trails", state.look.trail > 0, lambda on: state.set_view(trail=TRAIL if on else 0))
        grid = widgets.Layout(grid_template_columns="135px 135px", grid_gap="0 4px")
        self.box = widgets.VBox([
            section("Layers"), widgets.GridBox(list(self.layers.values()), layout=grid), self.opacity,
            section("Marks"), widgets.GridBox([*marks, trail], layout=grid),
        ])  # fmt: skip
        self.refresh()
        state.data_listeners.append(self.refresh)

    def refresh(self) -> None:
        """Grey out what is not there in any result that is shown, and say why."""
        for name, box in self.layers.items():
            reasons = [one.layers()[name] for one in self._state.shown]
            box.disabled = None not in reasons  # of two results one may have it
            box.tooltip = reasons[0] if box.disabled else f"show the {name} masks"

    def _layer(self, _: bool) -> None:
        self._state.set_view(layers=tuple(name for name, box in self.layers.items() if box.value))

    def _mark(self, name: str) -> Any:
        return lambda on: self._state.set_view(**{name: on})


class ObjectPanel:
    """A row for every object: colour and number, whether it is shown, its name.

    Attributes:
        rows: object id to (check box, text field).
    """

    def __init__(self, state: InspectorState) -> None:
        self._state = state
        self.rows: dict[int, tuple[widgets.Checkbox, widgets.Text]] = {}
        self._list = widgets.VBox(layout=widgets.Layout(max_height="170px", overflow="hidden auto"))
        self.box = widgets.VBox([section("Objects"), self._list])
        self._of = state.inspection
        self.refresh()
        state.data_listeners.append(self.refresh)

    def refresh(self) -> None:
        """Rows for the objects there are now; what was hidden stays hidden."""
        objects = self._state.inspection.objects
        numbers = listed(objects)
        if list(self.rows) == list(numbers) and self.rows and self._of is self._state.inspection:
            for number, (_, name) in self.rows.items():
                name.value = self._state.inspection.name_of(number)
            return
        same = self._of is self._state.inspection  # objects of another result have other numbers
        hidden = {number for number, (box, _) in self.rows.items() if same and not box.value}
        self._of = self._state.inspection
        for line in self._list.children:
            close_all(line)
        self.rows, lines = {}, []
        for number in numbers:
            lines.append(self._row(number, number not in hidden))
        if len(numbers) < objects:
            lines.append(widgets.HTML(f"<i>and {objects - len(numbers)} more, which are shown</i>"))
        self._list.children = lines or [widgets.HTML("<i>no object was found</i>")]
        self._show(None)

    def _row(self, number: int, shown: bool) -> widgets.HBox:
        red, green, blue = colour_of(number)
        style = f"background:rgb({red},{green},{blue})"
        swatch = widgets.HTML(f'<span class="vm-swatch" style="{style}"></span> {number}')
        swatch.layout.width = "38px"
        box = widgets.Checkbox(
            shown, indent=False, layout=widgets.Layout(width="22px"), tooltip=f"show object {number}"
        )
        name = widgets.Text(
            self._state.inspection.name_of(number), continuous_update=False,
            layout=widgets.Layout(width="auto", flex="1 1 auto", min_width="80px"),
        )  # fmt: skip
        box.observe(self._show, "value")
        name.observe(lambda change: self._name(number, change["new"]), "value")
        self.rows[number] = box, name
        return widgets.HBox([swatch, box, name], layout=widgets.Layout(align_items="center"))

    def _show(self, _: Any) -> None:
        shown = tuple(number for number, (box, _) in self.rows.items() if box.value)
        unlisted = range(len(self.rows) + 1, self._state.inspection.objects + 1)
        self._state.set_view(objects=None if len(shown) == len(self.rows) else (*shown, *unlisted))

    def _name(self, number: int, text: str) -> None:
        if text.strip() and text != self._state.inspection.names.get(number):
            self._state.inspection.names[number] = text.strip()
            self._state.changed_data()


MATCHING = [("as the run did", "stored"), ("overlap ≥ 0.1", 0.1), ("overlap ≥ 0.3", 0.3), ("overlap ≥ 0.5", 0.5),
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
        self.line = widgets.HTML()
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
        self.rule.tooltip = RULES[target.rule].description if target.rule in RULES else ""
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
        self.line.value = f"<small>{rule}<br>fused again in {1000 * (time.perf_counter() - begun):.0f} ms</small>"


SIGNS = {"found": "✔ found", "absent": "∅ absent", "malformed": "✕ malformed", "dropped": "– dropped"}


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
        side = ("left: ", "right: ")[n] if len(self._state.shown) > 1 else ""
        answer = one.answer_near(self._state.frame) if one.frames else None
        if answer is None:
            return f"<div>{side}the model was not asked</div>"
        outcome = one.outcomes().get(answer.frame, answer.outcome)
        sign = SIGNS.get(outcome, escape(outcome))
        problem = f" ({escape(answer.problem)})" if answer.problem else ""
        return (
            f'<div>{side}key frame {answer.frame}: <span class="vm-outcome">{sign}</span>'
            f"{problem} <code>{escape(answer.text)}</code></div>"
        )


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
        for side, one in zip(("left", "right"), self._state.shown, strict=True):
            scores = self._state.scores.of(one)
            if scores is not None and np.isfinite(scores.per_frame[frame]):
                words.append(f"J&amp;F {side} {scores.per_frame[frame]:.2f}")
            elif scores is None and one.truth is not None:
                words.append(f"J&amp;F {side} is being computed …")
        self.line.value = " · ".join(words)


class PlotStack(anywidget.AnyWidget):
    """Plotly figures below each other.

    Differs: plotly's FigureWidget sends its library of 5 MB with every figure, and shows an empty plot where the
        browser is slower than the kernel.
    """

    _esm = Path(__file__).with_name("plots.js").read_text("utf-8")  # as the canvas's
    figures = traitlets.List(traitlets.Unicode()).tag(sync=True)


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
        self.box.figures = [figure.to_json() for figure in self.figures.values()]

    def _draw(self, now: dict[str, Any]) -> dict[str, Figure]:
        state = self._state
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
