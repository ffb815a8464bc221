"""Two results side by side: scores on this frame, and the way to where they differ."""

import ipywidgets as widgets
import numpy as np

from videomolmo.inspector.desk import Desk
from videomolmo.inspector.widget_work import Later


class ComparePanel:
    """A button that visits the differences, and J&F of both on the present frame.

    Attributes:
        button: goes to the next difference.
        line: how much they differ, and the scores.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.button = widgets.Button(description="next difference", icon="step-forward")
        self.button.on_click(lambda _: self.next())
        self.line = widgets.HTML()
        self.box = widgets.HBox([self.button, self.line], layout=widgets.Layout(align_items="center"))
        soon = Later(self.refresh)
        desk.moved.append(soon)
        desk.changed.append(soon)
        desk.scores.told.append(soon)
        desk.comparing.told.append(soon)
        self.refresh()

    def next(self) -> None:
        """Go to the next frame where the results differ most."""
        differences = self._desk.differences
        if differences is not None and self._desk.comparing.of(differences) is None:
            self._desk.say("wait until the two results are compared", error=True)
            return
        to = differences.next_difference(self._desk.frame) if differences is not None else None
        if to is None:
            self._desk.say("the two results are the same everywhere")
        else:
            self._desk.go(to)

    def refresh(self) -> None:
        """Say how the results compare on the present frame."""
        differences, frame = self._desk.differences, self._desk.frame
        if differences is None or frame >= differences.frames:
            self.line.value = "nothing to compare on this frame"
            return
        known = self._desk.comparing.of(differences) is not None
        words = [f"difference {differences.per_frame[frame]:.2f}" if known else "differences are being computed …"]
        for side, one in zip(("left", "right"), self._desk.shown, strict=True):
            scores = self._desk.scores.of(one)
            if scores is not None and np.isfinite(scores.per_frame[frame]):
                words.append(f"J&amp;F {side} {scores.per_frame[frame]:.2f}")
            elif scores is None and one.truth is not None:
                words.append(f"J&amp;F {side} is being computed …")
        self.line.value = " · ".join(words)
