"""How good masks, points, counts, tracks and grounded phrases are: one file per protocol, all without torch.

regions: J and F of masks · davis: DAVIS-2017 · expressions: MeViS, ReasonVOS, ReVOS, Ref-DAVIS17 · point_scores: points
on images and in videos · counting: numbers · tracks: points followed over time · hota: identities over time ·
conversations: phrases with masks · captions, meteor: words · boxes: boxes around masks. Truth comes first, prediction
second. `reference=True` and its like reproduce the public tools where ours differ on purpose.
"""

from videomolmo.metrics.conversations import gcg_matches, gcg_miou, gcg_scores
from videomolmo.metrics.counting import molmo1_image_count, molmo2_image_count, molmo2_video_count
from videomolmo.metrics.davis import DavisScores, Statistics, davis_unsupervised, statistics
from videomolmo.metrics.expressions import (
    mean_over_expressions,
    mean_over_revos,
    merge_expressions,
    ref_davis17,
    revos_score,
)
from videomolmo.metrics.hota import hota_scores
from videomolmo.metrics.point_scores import (
    PointScore,
    VideoPointScore,
    image_point_scores,
    mean_point_scores,
    video_point_scores,
)
from videomolmo.metrics.regions import JAndF, boundary_map, j_and_f, j_and_f_per_frame, region_similarity
from videomolmo.metrics.tracks import TrackScores, mean_track_scores, track_scores

__all__ = [
    "DavisScores",
    "JAndF",
    "PointScore",
    "Statistics",
    "TrackScores",
    "VideoPointScore",
    "boundary_map",
    "davis_unsupervised",
    "gcg_matches",
    "gcg_miou",
    "gcg_scores",
    "hota_scores",
    "image_point_scores",
    "j_and_f",
    "j_and_f_per_frame",
    "mean_over_expressions",
    "mean_over_revos",
    "mean_point_scores",
    "mean_track_scores",
    "merge_expressions",
    "molmo1_image_count",
    "molmo2_image_count",
    "molmo2_video_count",
    "ref_davis17",
    "region_similarity",
    "revos_score",
    "statistics",
    "track_scores",
    "video_point_scores",
]
