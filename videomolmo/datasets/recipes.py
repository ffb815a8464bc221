"""Where each public data set comes from: plain URLs where there are any, else the steps in words; and its licence."""

from typing import NamedTuple


class Archive(NamedTuple):
    """A zip file.

    Attributes:
        url: where it is.
        sha256: of it; None where its authors tell none.
        inside: folder of the data set that it is unpacked into; "" for the set's own.
    """

    url: str
    sha256: str | None = None
    inside: str = ""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class Recipe(NamedTuple):
    """How a data set is got: its licence as the authors state it, archives to fetch, and what is left to do by hand."""

    licence: str
    archives: tuple[Archive, ...] = ()
    steps: str = ""


def _hub(repository: str, more: str = "") -> str:
    return f"Run: hf download --repo-type dataset {repository} --local-dir FOLDER (it resumes and checks sums).{more}"


_UNKNOWN = "not stated where we looked; ask the authors"
_MOLMO2 = " The videos come from their own sources; put them into videos/ (data/README.md)."
_GCG = (
    "Get the grounded captions by the links of https://github.com/mbzuai-oryx/VideoGLaMM, and the frames from the sets "
    "that they are of (data/README.md says where each lies)."
)
RECIPES = {
    "ref_davis17": Recipe(
        "DAVIS: CC BY 4.0 unless a sequence says otherwise; expressions: not stated",
        (
            Archive("https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-Unsupervised-trainval-480p.zip"),
            Archive("https://www.mpi-inf.mpg.de/fileadmin/inf/d2/khoreva/davis_text_annotations.zip"),
        ),
    ),
    "ref_youtube_vos": Recipe(
        _UNKNOWN, steps="Register at https://youtube-vos.org/dataset/rvos/, get train, valid, test and "
        "meta_expressions, and unpack them into the folder.",
    ),
    "mevis": Recipe(
        "CC BY-NC-SA 4.0, non-commercial research", steps="Get train, valid_u, valid and test by the links of "
        "https://henghuiding.github.io/MeViS/, and unpack them into the folder.",
    ),
    "reason_vos": Recipe(
        "non-commercial research; also those of VIPSeg, BURST, MOSE and MeViS", steps="Follow BENCHMARK.md of "
        "https://github.com/showlab/VideoLISA, and unpack into the folder.",
    ),
    "revos": Recipe(
        "CC BY-NC-SA 4.0, non-commercial research", steps="Follow https://github.com/cilinyan/ReVOS-api, which lists "
        "the sums too, and unpack into the folder.",
    ),
    "lasot": Recipe(
        _UNKNOWN, steps="Get the classes by the links of http://vision.cs.stonybrook.edu/~lasot/, unpack them into the "
        "folder, and put testing_set.txt of the evaluation toolkit beside them.",
    ),
    "groot": Recipe(
        "CC BY-NC-SA 3.0", steps="Get annotations/ from https://github.com/uark-cviu/Type-to-Track, and the images "
        "of MOT17, MOT20 and TAO from their authors.",
    ),
    "vicas": Recipe(
        "not for commercial use, research only", steps=_hub("Ali2500/ViCaS", " Then get Oops's videos and decode "
        "them by the scripts of https://github.com/Ali2500/ViCaS."),
    ),
    "vpos": Recipe("CC BY-NC 4.0", steps=_hub("ghazishazan/VPoS", " Its layout is not documented (data/README.md).")),
    "videomolmo": Recipe("not public", steps="Not public; `videomolmo annotate` makes rows from other sets."),
    "molmo2_video_point": Recipe("ODC-BY", steps=_hub("allenai/Molmo2-VideoPoint", _MOLMO2)),
    "molmo2_video_point_eval": Recipe(_UNKNOWN, steps=_hub("allenai/Molmo2-VideoPointEval", _MOLMO2)),
    "molmo2_video_count": Recipe(_UNKNOWN, steps=_hub("allenai/Molmo2-VideoCount", _MOLMO2)),
    "molmo2_video_count_eval": Recipe(_UNKNOWN, steps=_hub("allenai/Molmo2-VideoCountEval", _MOLMO2)),
    "molmo2_track": Recipe("by set", steps=f"See https://huggingface.co/allenai for the sets of tracks.{_MOLMO2}"),
    **{name: Recipe(_UNKNOWN, steps=_GCG) for name in (
        "burst_ytvis_gcg", "mevis_gcg", "ytvos_gcg", "vidstg_gcg", "hcstvg_gcg", "anet_gcg",
    )},
    **{name: Recipe("by set", steps=f"This door is for sets of one layout ({sets}): get one from its authors, and give "
                    "its folder.") for name, sets in (
        ("mot", "SportsMOT, DanceTrack, MOT20, PersonPath, TeamTrack, SoccerNet"), ("got10k", "GOT-10k and its like"),
        ("coco_video", "YouTube-VIS, OVIS, LV-VIS, BURST, BDD100K"), ("palette_video", "VIPSeg, MOSE"),
    )},
    "captions": Recipe("yours, of the set's data", steps="Not public; `videomolmo annotate --captions` makes them."),
    "vidstg": Recipe(
        _UNKNOWN, steps="Get VidOR's videos and boxes from its authors, the sentences from "
        "https://github.com/Guaranteer/VidSTG-Dataset, and join them by the preprocessing of "
        "https://github.com/antoyang/TubeDETR.",
    ),
}  # fmt: skip
