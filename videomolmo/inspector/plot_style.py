"""Colours and shapes of plots, the same in plotly and matplotlib: each decision has both, so that neither is needed."""

from __future__ import annotations

from typing import NamedTuple

from videomolmo.inspector.painting import colour_of
from videomolmo.inspector.strokes import luminance

LIGHT = 0.6  # luminance from which a line is hard to see on white


class Style(NamedTuple):
    """How a decision is drawn: Okabe and Ito's colours; the marker's name in plotly and in matplotlib."""

    colour: str
    symbol: str
    marker: str


DECISION_STYLES = {
    "key": Style("#7f7f7f", "diamond", "D"),
    "intersection": Style("#009e73", "circle", "o"),
    "union": Style("#e69f00", "square", "s"),
    "fallback": Style("#d55e00", "triangle-up", "^"),
    "one side": Style("#56b4e9", "triangle-right", ">"),
    "forward": Style("#0072b2", "triangle-left", "<"),
    "backward": Style("#cc79a7", "triangle-down", "v"),
    "mixed": Style("#b8860b", "x", "X"),
    "none": Style("#bbbbbb", "line-ew-open", "_"),
}
PLOTLY_DASHES = ("solid", "dash", "dot", "dashdot")
MATPLOTLIB_DASHES = ("-", "--", ":", "-.")


def hex_of(thing: int, theme: str = "light") -> str:
    """Colour of an object's line, as "#rrggbb"; light colours are darkened on a light ground, to be seen on it.

    Example:
        >>> hex_of(4, "dark"), hex_of(4)
        ('#f0e442', '#a89f2e')
    """
    colour = colour_of(thing)
    if theme == "light" and luminance(colour) > LIGHT:
        colour = tuple(int(0.7 * value) for value in colour)
    return "#{:02x}{:02x}{:02x}".format(*colour)
