"""Published figures to stand beside ours, each with its source and date; none of them was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from videomolmo.datasets.boxes import VIDSTG


class Published(NamedTuple):
    """A system's figures by benchmark, J&F in percent (of VidSTG mIoU of boxes), and where they stand."""

    system: str
    source: str
    figures: Mapping[str, float]


# Where two versions of a paper differ, both are given: others compare with the one that was out when they wrote.
PUBLISHED = (
    Published("VideoMolmo", "arXiv:2506.05336, June 2025", {
        "ref_davis17": 72.5, "ref_youtube_vos": 67.3, "mevis": 53.9, "reason_vos": 51.1,
    }),
    Published("VideoGLaMM", "as quoted in arXiv:2506.05336, June 2025", {"ref_davis17": 69.5, "ref_youtube_vos": 66.8}),
    Published("Molmo+SAM2", "arXiv:2506.05336, June 2025", {"mevis": 46.9}),
    Published("VideoLISA", "arXiv:2409.19603, September 2024", {"mevis": 44.4, "reason_vos": 47.5}),
    Published("VRS-HQ", "arXiv:2501.08549, January 2025", {"mevis": 50.9}),
    Published("GLUS", "arXiv:2504.07962, April 2025", {"mevis": 51.3, "reason_vos": 49.9}),
    Published("RGA3", "arXiv:2507.19599, July 2025", {"mevis": 50.1, "reason_vos": 53.6}),
    Published("Sa2VA-i", "arXiv:2509.19082, September 2025", {
        "mevis": 63.2, "ref_youtube_vos": 76.5, "ref_davis17": 81.2,
    }),
    Published("Molmo2-8B, first version", "arXiv:2601.10611v1, January 2026", {
        "mevis": 56.1, "ref_youtube_vos": 67.8, "ref_davis17": 64.5, "reason_vos": 55.6,
    }),
    Published("Molmo2-8B, revised", "arXiv:2601.10611v4, April 2026", {
        "mevis": 62.3, "ref_youtube_vos": 70.2, "ref_davis17": 72.7, "reason_vos": 65.8,
    }),
    Published("AgentRVOS", "arXiv:2603.23489, March 2026", {"mevis": 73.1, "reason_vos": 75.5}),
    Published("VideoGLaMM", "arXiv:2411.04923, November 2024", {"vidstg": 39.66}),
    Published("GLaMM+SAM2", "arXiv:2411.04923, November 2024", {"vidstg": 38.63}),
    Published("PG-Video-LLaVA-13B", "arXiv:2411.04923, November 2024", {"vidstg": 35.10}),
    *(Published(f"{system}, {domain}", "arXiv:2506.05336, June 2025", {"vpos": figure}) for system, several in (
        ("VideoMolmo", {"Ego4D": 54.9, "robotics": 27.6, "driving": 57.4, "cells": 19.2, "GUI": 65.7}),
        ("Molmo+SAM2", {"Ego4D": 50.4, "robotics": 26.7, "driving": 48.5, "cells": 14.2, "GUI": 58.0}),
    ) for domain, figure in several.items()),
)  # fmt: skip
PROTOCOLS = {"mevis": "split valid, by its server", "ref_davis17": "mean of four annotators",
             "vidstg": "questions"}  # fmt: skip
QUOTED: dict[str, dict[str, float]] = {}  # benchmark → system → its figure
for _one in PUBLISHED:
    for _benchmark, _figure in _one.figures.items():
        QUOTED.setdefault(_benchmark, {})[_one.system] = _figure


def comparison(benchmark: str, ours: dict[str, float]) -> str:
    """Our figures, by what they were measured on, beside the published ones, which are marked as quoted: Markdown."""
    rows = [(f"this run: {what}", f"{100 * value:.1f}", "measured here") for what, value in ours.items()]
    how = f" ({PROTOCOLS[benchmark]})" if benchmark in PROTOCOLS else ""
    rows += [
        (one.system, f"{one.figures[benchmark]:.1f}", f"quoted: {one.source}{how}")
        for one in PUBLISHED
        if benchmark in one.figures
    ]
    if benchmark not in QUOTED:
        rows.append(("nothing published", "", "no figures of this benchmark are known here"))
    measure = "mIoU of boxes %" if benchmark == VIDSTG else "J&F %"
    lines = [f"| system | {measure} | source |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
