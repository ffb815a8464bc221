"""Generated clips rendered once to disk, in parts, so that training reads them many times; resumes where it stopped."""

import json
import zipfile
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videomolmo.io.files import UNFINISHED, atomic_file, locked_folder, remove_abandoned
from videomolmo.io.images import in_natural_order
from videomolmo.io.workers import run_all
from videomolmo.synth.render import Renderer
from videomolmo.synth.scene import ObjectFacts, describe_objects, sample_scene

PART = 200  # clips in a file


@dataclass(frozen=True)
class RenderSpec:
    """What to render: `frames` pictures of `size`×`size` pixels a clip, `motion_share` of the clips with named motions.

    `strides`: how many scene frames lie between two pictures, drawn per clip.
    """

    name: str
    clips: int
    frames: int
    size: int
    motion_share: float
    strides: tuple[int, ...]
    seed: int


def render_all(spec: RenderSpec, folder: Path, workers: int = 2) -> None:
    """Write every missing or broken part of `spec` below `folder`, with a progress bar.

    Raises:
        BadInput: another process renders there, or one of the workers died.
    """
    with locked_folder(folder):
        missing = [n for n in range(-(-spec.clips // PART)) if not zipfile.is_zipfile(_part(folder, n))]
        if not missing:
            return
        try:
            with closing(run_all(_render_part, missing, workers, "render", given=(spec, folder))) as parts:
                for _ in tqdm(parts, total=len(missing), desc=f"render {spec.name}", unit=f"x{PART} clips"):
                    pass
        finally:
            remove_abandoned(folder, UNFINISHED)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part_{number:04d}.npz"


def _render_part(given: tuple[RenderSpec, Path], number: int) -> None:
    spec, folder = given
    count = min(PART, spec.clips - number * PART)
    frames = np.zeros((count, spec.frames, spec.size, spec.size, 3), np.uint8)
    ids = np.zeros((count, spec.frames, spec.size, spec.size), np.uint8)
    described = []
    for index in range(count):
        clip_frames, clip_ids, objects = render_clip(spec, number * PART + index)
        frames[index], ids[index] = clip_frames, clip_ids
        described.append([asdict(obj) for obj in objects])
    with atomic_file(_part(folder, number)) as unfinished:
        np.savez(unfinished, frames=frames, ids=ids, facts=np.frombuffer(json.dumps(described).encode(), np.uint8))


def render_clip(spec: RenderSpec, index: int) -> tuple[np.ndarray, np.ndarray, list[ObjectFacts]]:
    """Clip `index`: frames, object ids (0 = background), and the objects of its last frame."""
    rng = np.random.default_rng([spec.seed, index])
    motion = bool(rng.random() < spec.motion_share)
    stride = int(rng.choice(spec.strides))
    scene = sample_scene(int(rng.integers(2**40)), motion=motion, frames=(spec.frames - 1) * stride + 1)
    renderer = Renderer(scene, spec.size, spec.size)
    frames = np.zeros((spec.frames, spec.size, spec.size, 3), np.uint8)
    ids = np.zeros((spec.frames, spec.size, spec.size), np.uint8)
    for number in range(spec.frames):
        frames[number], masks = renderer.frame(number * stride)
        for object_id, mask in enumerate(masks, start=1):
            ids[number][mask] = object_id
    return frames, ids, describe_objects(scene, masks, renderer.full_areas((spec.frames - 1) * stride))


class RenderedClips:
    """The parts of one or more folders as one set, held in memory: `frames`, `ids` and the `objects` of last frames.

    Args:
        folders: what `render_all` wrote.
        last: keep only the last frame of each clip, so that sets of different length go together.
    """

    def __init__(self, *folders: Path, last: bool = False) -> None:
        frames, ids, self.objects = [], [], []
        for path in (path for folder in folders for path in in_natural_order(folder.glob("part_*.npz"))):
            with np.load(path) as part:
                frames.append(part["frames"][:, -1:] if last else part["frames"])
                ids.append(part["ids"][:, -1:] if last else part["ids"])
                for clip in json.loads(part["facts"].tobytes()):
                    self.objects.append([ObjectFacts(**{**obj, "point": tuple(obj["point"])}) for obj in clip])
        self.frames, self.ids = np.concatenate(frames), np.concatenate(ids)

    def __len__(self) -> int:
        return len(self.frames)
