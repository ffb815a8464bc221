"""Figures that others published, quoted beside ours. Source: paper, tables of the main results (J&F in percent)."""

QUOTED = {
    "ref_davis17": {"VideoMolmo": 72.5, "VideoGLaMM": 69.5},
    "ref_youtube_vos": {"VideoMolmo": 67.3, "VideoGLaMM": 66.8},
    "mevis": {"VideoMolmo": 53.9, "Molmo+SAM2": 46.9},
    "reason_vos": {"VideoMolmo": 51.1, "VideoLISA": 47.5},
    "vpos": {"VideoMolmo, Ego4D": 54.9, "VideoMolmo, robotics": 27.6, "VideoMolmo, driving": 57.4,
             "VideoMolmo, cells": 19.2, "VideoMolmo, GUI": 65.7, "Molmo+SAM2, Ego4D": 50.4,
             "Molmo+SAM2, robotics": 26.7, "Molmo+SAM2, driving": 48.5, "Molmo+SAM2, cells": 14.2,
             "Molmo+SAM2, GUI": 58.0},
}  # fmt: skip


PROTOCOLS = {"mevis": "split valid, by its server", "ref_davis17": "mean of four annotators"}


def comparison(benchmark: str, ours: dict[str, float]) -> str:
    """Our J&F, by what they were measured on, beside the published ones, which are marked as quoted: Markdown."""
    rows = [(f"this run: {what}", f"{100 * value:.1f}", "measured here") for what, value in ours.items()]
    quoted = "quoted from the paper" + (f" ({PROTOCOLS[benchmark]})" if benchmark in PROTOCOLS else "")
    rows += [(name, f"{value:.1f}", quoted) for name, value in QUOTED.get(benchmark, {}).items()]
    if len(rows) < 2:
        rows.append(("nothing published", "", "no figures of this benchmark are known here"))
    lines = ["| system | J&F % | source |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
