"""What the model wrote on the nearest key frame, and what this result has not."""

from html import escape

import ipywidgets as widgets

from videomolmo.inspector.desk import Desk
from videomolmo.inspector.widget_work import Later

SIGNS = {"found": "✔ found", "absent": "∅ absent", "malformed": "✕ malformed", "dropped": "– dropped"}


class AnswerPanel:
    """Text below the picture."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.answer, self.missing = widgets.HTML(), widgets.HTML()
        self.answer.add_class("vm-answer")
        self.box = widgets.VBox([self.answer, self.missing])
        self._soon = Later(self.refresh)
        desk.moved.append(self._soon)
        desk.changed.append(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the answer nearest to the present frame; whatever the model wrote is shown as text, never run."""
        self.answer.value = " ".join(self._line(n) for n in range(len(self._desk.shown)))
        wanting = [line for one in self._desk.shown for line in one.missing()]
        wanting += self._desk.differences.missing() if self._desk.differences else []
        lines = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(wanting))
        self.missing.value = f'<ul class="vm-missing">{lines}</ul>' if lines else ""

    def _line(self, n: int) -> str:
        one = self._desk.shown[n]
        side = ("left: ", "right: ")[n] if len(self._desk.shown) > 1 else ""
        answer = one.answer_near(self._desk.frame) if one.frames else None
        if answer is None:
            return f"<div>{side}the model was not asked</div>"
        outcome = one.outcomes().get(answer.frame, answer.outcome)
        sign = SIGNS.get(outcome, escape(outcome))
        problem = f" ({escape(answer.problem)})" if answer.problem else ""
        return (
            f'<div>{side}key frame {answer.frame}: <span class="vm-outcome">{sign}</span>'
            f"{problem} <code>{escape(answer.text)}</code></div>"
        )
