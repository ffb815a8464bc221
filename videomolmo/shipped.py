"""Where the files lie that come with the project: nano weights and the sample clip."""

from pathlib import Path

from videomolmo.errors import BadInput

SAMPLE_SENTENCE = "the red circle"


def data_folder() -> Path:
    """The `data` folder: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data", package / "data"):
        if (folder / "nano").is_dir():
            return folder
    raise BadInput(
        f"no data folder beside {package}: expected data/nano with the nano weights; install from a checkout"
    )


def nano_pointing() -> Path:
    return data_folder() / "nano" / "pointing"


def nano_pointing_96() -> Path:
    """The same model before it grew: frames of 96 pixels, which ablations and short trainings can afford."""
    return data_folder() / "nano" / "pointing_96"


def nano_masks() -> Path:
    return data_folder() / "nano" / "masks"


def sample_clip() -> Path:
    return data_folder() / "sample" / "clip.mp4"


def sample_truth() -> Path:
    """The red circle of the sample clip, as packed bits."""
    return data_folder() / "sample" / "truth.npz"
