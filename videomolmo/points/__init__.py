"""The grammar of answers: points to text, text to points.

One tolerant reader for every format, and writers:

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

Source: Molmo (Deitke et al. 2024), answer format; VideoMolmo, which inherits it; Molmo 2, html-v1 and html-v2.
"""

from videomolmo.points.reading import LARGEST_PERCENT, LONGEST_ANSWER, Answer, read_points
from videomolmo.points.text import END_OF_TEXT, ESCAPES, NO_POINTS, NO_TRACKS, REFUSALS, TrackPoint
from videomolmo.points.writing import write_like_videomolmo, write_points

__all__ = [
    "END_OF_TEXT",
    "ESCAPES",
    "LARGEST_PERCENT",
    "LONGEST_ANSWER",
    "NO_POINTS",
    "NO_TRACKS",
    "REFUSALS",
    "Answer",
    "TrackPoint",
    "read_points",
    "write_like_videomolmo",
    "write_points",
]
