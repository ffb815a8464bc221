"""Neighbours of VideoMolmo in the same harness: other models' points, our masks, fusion, results and scores.

    loading.py        a grounder by its name
    molmo2.py         Molmo 2 reads all key frames at once and writes tracks
    timed_answers.py  which points of such an answer belong to which frame

Example:
    >>> grounder = load_grounder("allenai/Molmo2-4B", masks="nano")  # doctest: +SKIP
"""

from videomolmo.baselines.loading import load_grounder

__all__ = ["load_grounder"]
