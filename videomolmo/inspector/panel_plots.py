"""Plots that move the frame, and that the frame moves along; the browser's half is plots.js."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets
from plotly.graph_objects import Figure

from videomolmo.inspector.desk import Desk
from videomolmo.inspector.figures import agreement_figure, difference_figure, scores_figure, track_figure
from videomolmo.inspector.widget_work import Later


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

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.figures: dict[str, Figure] = {}
        self.box = PlotStack()
        self.box.add_class("vm-plots")
        self.box.on_msg(self._receive)
        soon = Later(self.refresh, 0.15)
        desk.changed.append(soon)
        desk.themed.append(soon)
        desk.scores.told.append(soon)
        desk.comparing.told.append(soon)

    def refresh(self) -> None:
        """Draw what is believed now."""
        desk = self._desk
        shown = desk.theme is not None and desk.inspection.frames
        self.figures = self._draw({"t": desk.frame, "theme": desk.theme}) if shown else {}
        self.box.figures = [figure.to_json() for figure in self.figures.values()]

    def _draw(self, now: dict[str, Any]) -> dict[str, Figure]:
        desk = self._desk
        made = {"agreement": agreement_figure(desk.inspection, **now)}
        if any(one.truth is not None for one in desk.shown):
            made["scores"] = scores_figure(desk.inspection, desk.other, scores=desk.scores.of, **now)
        if desk.differences is not None and desk.comparing.of(desk.differences) is not None:
            made["difference"] = difference_figure(desk.differences, **now)
        return made | {"track": track_figure(desk.inspection, **now)}

    def _receive(self, _: Any, content: dict[str, Any], __: list[Any]) -> None:
        if content.get("kind") == "go":
            self._desk.go(round(content["frame"]))
        elif content.get("kind") == "library":
            from plotly.offline import get_plotlyjs

            self.box.send({"kind": "library"}, buffers=[get_plotlyjs().encode("utf-8")])
