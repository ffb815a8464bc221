"""The table of words or tokens: its intervals, its plot, and its block of the README."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from videomolmo.errors import BadInput
from videomolmo.io.tables import read_csv
from videomolmo.lab.caption_report import numbers_as_text
from videomolmo.lab.tables import markdown_table, save_plots
from videomolmo.lab.temporal_report import bits, interval
from videomolmo.weights.hub import data_folder

POINTS = ("text", "tokens")
ATTENTION = ("causal", "bidirectional")
CELL = ("points", "attention", "samples", "seed")  # what names a cell
SETTINGS = ("steps", "batch", "questions", "test_pictures", "max_lr", "language")  # equal in a table
KINDS = {"one": "one object: hit", "list": "lists: exact", "absent": "not there: refused"}
COSTS = {
    "distance": "off by, px of 96",
    "tokens": "tokens a point, label included",
    "seconds a question": "seconds a question",
}
NAME = "words_or_tokens.csv"
