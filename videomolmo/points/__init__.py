"""The grammar of answers: points to text, text to points.

One tolerant reader for every format, one strict reader for each reference, and writers for all of them:

    <point x="61.5" y="40.6" alt="left hand">left hand</point>                       Molmo 1, VideoMolmo: percent
    <points x1="12.0" y1="33.3" x2="70.4" y2="9.9" alt="dog">dog</points>
    <points coords="0.5 1 036 556;2.0 2 420 447 3 699 489">cup</points>              Molmo 2: times, ids, per mille
    <tracks coords="0.0 1 271 710;1.0 1 946 301 2 784 636">dog</tracks>
    There are none.

x before y, origin top left. Percent and per mille exist only in this package; everywhere else points are pixels.

    reading.py            any of these texts to an `Answer`: found, absent or malformed
    coords.py             its part for Molmo 2's lists
    writing.py            Molmo 1 and VideoMolmo
    writing_molmo2.py     Molmo 2's points, tracks and counts
    references.py         what Molmo 1's and VideoMolmo's own readers make of a text, faults included
    references_molmo2.py  what Molmo 2's makes of it

Source: Molmo (Deitke et al. 2024), answer format; VideoMolmo, which inherits it; Molmo 2, html-v1 and html-v2.
"""

from videomolmo.points.reading import LARGEST_PERCENT, LONGEST_ANSWER, Answer, read_points
from videomolmo.points.references import (
    Reading,
    has_molmo1_format,
    molmo_pixels,
    read_like_molmo1,
    read_like_videomolmo,
    videomolmo_pixels,
)
from videomolmo.points.references_molmo2 import (
    TrackFrame,
    read_like_molmo2_entries,
    read_like_molmo2_points,
    read_like_molmo2_time_points,
    read_like_molmo2_tracks,
)
from videomolmo.points.text import END_OF_TEXT, ESCAPES, NO_POINTS, NO_TRACKS, REFUSALS
from videomolmo.points.writing import write_count, write_like_videomolmo, write_points
from videomolmo.points.writing_molmo2 import TrackPoint, write_timed_points, write_tracks

__all__ = [
    "END_OF_TEXT",
    "ESCAPES",
    "LARGEST_PERCENT",
    "LONGEST_ANSWER",
    "NO_POINTS",
    "NO_TRACKS",
    "REFUSALS",
    "Answer",
    "Reading",
    "TrackFrame",
    "TrackPoint",
    "has_molmo1_format",
    "molmo_pixels",
    "read_like_molmo1",
    "read_like_molmo2_entries",
    "read_like_molmo2_points",
    "read_like_molmo2_time_points",
    "read_like_molmo2_tracks",
    "read_like_videomolmo",
    "read_points",
    "videomolmo_pixels",
    "write_count",
    "write_like_videomolmo",
    "write_points",
    "write_timed_points",
    "write_tracks",
]
