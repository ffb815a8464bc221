"""Rule, τ and matching: what is stored is fused again at once, no model runs."""

import time
from typing import Any

import ipywidgets as widgets

from videomolmo.fusion import RULES
from videomolmo.inspector.desk import Desk
from videomolmo.inspector.inspection import Inspection
from videomolmo.inspector.panel_look import section

MATCHING = [("as the run did", "stored"), ("overlap ≥ 0.1", 0.1), ("overlap ≥ 0.3", 0.3), ("overlap ≥ 0.5", 0.5),
            ("never", "none")]  # fmt: skip


class FusionPanel:
    """Fuses the stored directions by another rule, of the first or the second result.

    Attributes:
        rule, tau, matching: the controls.
        side: which result they are about, 0 or 1; None where there is only one.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._setting = desk, False
        wide = {"style": {"description_width": "72px"}, "layout": widgets.Layout(width="auto")}
        self.rule = widgets.Dropdown(description="rule", **wide)
        self.tau = widgets.FloatSlider(0.7, min=0, max=1, step=0.01, description="τ", readout_format=".2f", **wide)
        self.matching = widgets.Dropdown(options=MATCHING, description="matching", **wide)
        self.side = None
        if desk.other is not None:
            self.side = widgets.ToggleButtons(options=[("left", 0), ("right", 1)], style={"button_width": "80px"})
            self.side.observe(lambda _: self.refresh(), "value")
        self.line = widgets.HTML()
        for control in (self.rule, self.tau, self.matching):
            control.observe(self._apply, "value")
        parts = [section("Fusion"), self.side, self.rule, self.tau, self.matching, self.line]
        self.box = widgets.VBox([part for part in parts if part is not None])
        self.refresh()
        desk.changed.append(self.refresh)
        desk.work.turned.append(self.refresh)

    @property
    def _target(self) -> Inspection:
        return self._desk.shown[self.side.value if self.side is not None else 0]

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
        self.rule.disabled = self.matching.disabled = self._desk.work.busy
        self.tau.disabled = self._desk.work.busy or target.rule != "iou"
        self.rule.tooltip = RULES[target.rule].description if target.rule in RULES else ""
        self._setting = False

    def _apply(self, change: dict[str, Any]) -> None:
        if self._setting:
            return
        names = {self.rule: "rule", self.tau: "tau", self.matching: "matching"}
        if self._desk.is_free():
            self._desk.attempt(self._fuse, names[change["owner"]], change["new"])
        self.refresh()

    def _fuse(self, name: str, value: Any) -> None:
        begun = time.perf_counter()
        kept = {"matching": self._target.matching}  # which is "as stored" unless it is said again
        self._target.refuse(**kept | {name: value})
        self._desk.refresh()
        rule = RULES[self._target.rule].description if self._target.rule in RULES else self._target.rule
        self.line.value = f"<small>{rule}<br>fused again in {1000 * (time.perf_counter() - begun):.0f} ms</small>"
